"""Picture files from an unknown source as arrays, and pictures resized.

Such a file may be cut off, a web page under a picture's name, or small on the disk and gigantic in memory. So only
formats in everyday use are opened, sizes are checked before anything is decompressed, and every failure is one line
that names the file.
"""

import contextlib
import logging
import os
import struct
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from tinygan.data.files import reading, reason_of
from tinygan.errors import Refused, TinyganError, UsageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")  # the last two where this Pillow has them
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
MAX_PIXELS = 1 << 26  # our choice: 67 million, more than most cameras have; takes 1.3 GB to read
MAX_BYTES = 1 << 30  # of a file, our choice: 67 million pixels of 16 bytes
FITS = ("stretch", "pad")
FILTERS = ("lanczos", "box")
# Pixels of a TIFF whose black and white are not defined, or that Pillow cannot bring to RGB.
_OTHER_PIXELS = {"F": "floating-point numbers", "I": "numbers of 32 bits", "LAB": "CIELAB colours"}
# The words at a fixed place in files of the HEIF family, and what they are.
_HEIF = {b"avif": "AVIF", b"avis": "AVIF", **dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "HEIC")}
# What Pillow raises for damaged bytes.
_DAMAGE = (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, OverflowError, AttributeError,
           NotImplementedError, RuntimeError, struct.error)


def read_image(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF file (its first frame), detected by its content, not its name;
    return (rgb, alpha).

    rgb: float32 (3, H, W) in [-1, 1], laid on white: a transparent pixel is white, whatever colour is stored under it.
    alpha: float32 (H, W) in [0, 1], 1 opaque; None where the file has no transparency. Grey becomes three equal
    channels, 16 bits are scaled like 8, and the picture is turned by its EXIF orientation.
    Raises TinyganError, one line, for a file that is absent, not a picture, damaged, larger than 67 million pixels, or
    in a format or colours that this Pillow does not read.
    """
    pillow = _pillow()
    from PIL import ImageOps

    with reading(path, MAX_BYTES, hint="name a picture", damage=_DAMAGE) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes: the limit below is lower; of damaged EXIF: passed over
        pillow.init()  # finds out which formats this Pillow was built with
        formats = [known for known in FORMATS if known in pillow.OPEN]
        try:
            with pillow.open(file, formats=formats) as image:
                _check_size(image.size)
                with _silent_libtiff() if image.format == "TIFF" else contextlib.nullcontext():
                    image.load()
                if image.format == "TIFF" and image.mode in _OTHER_PIXELS:  # in a PNG, "I" is grey of 16 bits
                    raise Refused(f"its pixels are {_OTHER_PIXELS[image.mode]}, which are not read; "
                                  "save it as a PNG of 8 or 16 bits")
                _mend_key(image, file)
                with contextlib.suppress(*_DAMAGE):  # an unreadable orientation is none
                    image = ImageOps.exif_transpose(image)
                colours, alpha = _channels(image)
        except pillow.UnidentifiedImageError:
            file.seek(0)
            raise Refused(f"{_file_kind(file.read(512), formats)}; read are {', '.join(formats)}") from None
        except pillow.DecompressionBombError:
            raise Refused(f"it has more than {MAX_PIXELS:,} pixels; make it smaller") from None
        except _DAMAGE as error:
            if "not available" in str(error) or "not supported" in str(error):  # TIFF may hold what Pillow cannot read
                raise Refused(f"this Pillow cannot read it ({reason_of(error)}); save it as PNG") from None
            raise
    if alpha is not None:
        colours *= alpha
        colours += 1.0 - alpha  # white
    return colours, alpha


def resize_image(image: np.ndarray, side: int, *, fit: str = "stretch", filter: str = "lanczos") -> np.ndarray:  # noqa: A002
    """Resize a picture (C, H, W), float32 in [-1, 1], to (C, side, side), antialiased.

    fit: "stretch" changes its proportions where it is not square; "pad" keeps them and puts white at both sides.
    filter: "lanczos" is sharp (what overshoots is clipped); "box" is the plain mean when shrinking, and never makes a
    value that lies outside those of the picture. Raises UsageError for another shape, side or option.
    """
    if image.ndim != 3 or not image.size:
        raise UsageError(f"a picture is (C, H, W), not of shape {image.shape}")
    if side < 1:
        raise UsageError(f"a picture's side must be at least 1, not {side}")
    if fit not in FITS or filter not in FILTERS:
        raise UsageError(f"unknown fit {fit!r} or filter {filter!r}: use {' or '.join(FITS)}, {' or '.join(FILTERS)}")
    height, width = image.shape[1:]
    rows = columns = side
    if fit == "pad":
        rows, columns = (max(1, round(side * n / max(height, width))) for n in (height, width))
    pillow = _pillow()
    method = {"lanczos": pillow.Resampling.LANCZOS, "box": pillow.Resampling.BOX}[filter]
    out = np.ones((len(image), side, side), np.float32)
    top, left = (side - rows) // 2, (side - columns) // 2
    for channel, into in zip(image, out, strict=True):
        plane = pillow.fromarray(np.ascontiguousarray(channel, np.float32)).resize((columns, rows), method)
        into[top : top + rows, left : left + columns] = plane
    return out.clip(-1.0, 1.0)


@contextlib.contextmanager
def _silent_libtiff() -> Iterator[None]:
    """Keep what libtiff writes about damaged files from the terminal: it uses the descriptor, not sys.stderr."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: nothing can be written there
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _mend_key(image: Any, file: BinaryIO) -> None:
    """Bring the key colour of a PNG, the one that is transparent, to the 8 bits that Pillow brings the pixels to."""
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("1", "L", "RGB") or key is None:
        return
    file.seek(24)  # bits of a sample, at a fixed place in the first chunk
    depth = file.read(1)[0]
    if image.mode == "RGB":
        image.info["transparency"] = tuple(part >> 8 for part in key) if depth == 16 else key
    elif depth < 8 and key < 1 << depth:  # beyond, Pillow has done it
        image.info["transparency"] = key * 255 // ((1 << depth) - 1)


def _channels(image: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert to float32: colours (3, H, W) in [-1, 1], alpha (H, W) in [0, 1] or None."""
    if image.mode.startswith("I"):  # grey of 16 bits; Pillow's conversion would cut off at 255
        grey, key = np.asarray(image).astype(np.float32), image.info.get("transparency")
        alpha = None if key is None else (grey != key).astype(np.float32)
        return np.repeat((grey / 32767.5 - 1.0)[None], 3, axis=0), alpha
    see_through = image.has_transparency_data
    pixels = np.asarray(image.convert("RGBA" if see_through else "RGB"))
    colours = np.empty((3, *pixels.shape[:2]), np.float32)
    for i, plane in enumerate(colours):  # a quotient, not a product with 1 / 127.5: it gives exactly 1 for white
        np.subtract(np.divide(pixels[:, :, i], 127.5, out=plane, dtype=np.float32), 1.0, out=plane)
    return colours, np.divide(pixels[:, :, 3], 255.0, dtype=np.float32) if see_through else None


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise Refused(f"it has {width:,} x {height:,} pixels, where at most {MAX_PIXELS:,} in all are read; "
                      "make it smaller")


def _file_kind(start: bytes, formats: list[str]) -> str:
    """Describe a file that cannot be opened as a picture, by its first 512 bytes, and what to do."""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        kind = _HEIF[start[8:12]]
        if kind in formats:
            return f"it is {kind} and damaged or cut off"
        newer = " (the wheels of Pillow 11.3 and later do)" if kind == "AVIF" else ""
        return f"it is {kind}, which this Pillow does not read{newer}: save it as PNG or JPEG"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "it is a TIFF that is damaged or cut off, or of a kind that Pillow does not read: save it as PNG"
    if start[:5] == b"\0\0\0\x0cj" or start[:2] == b"\xff\x0a":
        return "it is JPEG 2000 or JPEG XL: save it as PNG or JPEG"
    if start[:4] == b"8BPS":
        return "it is Photoshop's own format: save it as PNG"
    start = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return f"it is not a picture (it is a {'drawing in SVG' if b'<svg' in start else 'web page'})"
    return "it is not a picture (its first bytes are those of no known format)"


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise TinyganError("reading pictures needs Pillow: pip install pillow") from error
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs of a damaged TIFF is in our line
    return Image
