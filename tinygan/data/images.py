"""One picture file of any origin as an array, and pictures brought to one size.

A file from a stranger's folder may be cut off, a web page under a picture's name, or small on the disk and gigantic in
memory. So only formats in everyday use are opened, sizes are looked at before anything is unpacked, and every
failure is one line that names the file.
"""

import contextlib
import logging
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinygan.data.idx import shown
from tinygan.errors import TinyganError, UsageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")  # the last two where this Pillow has them
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
MAX_PIXELS = 1 << 26  # our choice: 67 million, more than most cameras have; takes 1.3 GB to read
FITS = ("stretch", "pad")
FILTERS = ("lanczos", "box")
# Pixels of a TIFF that do not say what is black and what white, or that Pillow cannot bring to RGB.
_OTHER_PIXELS = {"F": "floating-point numbers", "I": "numbers of 32 bits", "LAB": "CIELAB colours"}
# The words at a fixed place in files of the HEIF family, and what they are.
_HEIF = {b"avif": "AVIF", b"avis": "AVIF", **dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "HEIC")}
# What Pillow raises for damaged bytes, and what the system says.
_DAMAGE = (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, OverflowError, AttributeError,
           NotImplementedError, RuntimeError, struct.error)


def read_image(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray | None]:
    """(rgb, alpha) of a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF file (its first frame), told by its content, not its
    name.

    rgb: float32 (3, H, W) in [-1, 1], laid on white: a transparent pixel is white, whatever colour is stored under it.
    alpha: float32 (H, W) in [0, 1], 1 opaque; None where the file has no transparency. Grey becomes three equal
    channels, 16 bits are scaled like 8, and the picture is turned as its EXIF orientation says.
    Raises TinyganError, one line, for a file that is absent, not a picture, damaged, larger than 67 million pixels, or
    in a format or colours that this Pillow does not read.
    """
    pillow = _pillow()
    from PIL import ImageOps

    name = shown(path)
    _check_file(path, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes: the limit below is lower; of damaged EXIF: passed over
            pillow.init()  # finds out which formats this Pillow was built with
            formats = [known for known in FORMATS if known in pillow.OPEN]
            with pillow.open(path, formats=formats) as image:
                _check_size(image.size, name)
                with _silent_libtiff() if image.format == "TIFF" else contextlib.nullcontext():
                    image.load()
                if image.format == "TIFF" and image.mode in _OTHER_PIXELS:  # in a PNG, "I" is grey of 16 bits
                    raise TinyganError(f"{name}: its pixels are {_OTHER_PIXELS[image.mode]}, which are not read; "
                                       "save it as a PNG of 8 or 16 bits")
                _mend_key(image, path)
                with contextlib.suppress(*_DAMAGE):  # an unreadable orientation is none
                    image = ImageOps.exif_transpose(image)
                colours, alpha = _channels(image)
    except pillow.UnidentifiedImageError:
        raise TinyganError(f"{name}: {_looks_like(path, formats)}; read are {', '.join(formats)}") from None
    except pillow.DecompressionBombError:
        raise TinyganError(f"{name}: more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "not available" in reason or "not supported" in reason:  # TIFF has room for more than Pillow knows
            raise TinyganError(f"{name}: this Pillow cannot read it ({reason}); save it as PNG") from None
        raise TinyganError(f"{name}: damaged or cut off ({reason}); use another copy") from None
    if alpha is not None:
        colours *= alpha
        colours += 1.0 - alpha  # white
    return colours, alpha


def resize_image(image: np.ndarray, side: int, *, fit: str = "stretch", filter: str = "lanczos") -> np.ndarray:  # noqa: A002
    """A picture (C, H, W), float32 in [-1, 1], as (C, side, side), antialiased.

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


def _mend_key(image: Any, path: str | os.PathLike) -> None:
    """Bring the key colour of a PNG, the one that is transparent, to the 8 bits that Pillow brings the pixels to."""
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("1", "L", "RGB") or key is None:
        return
    with open(path, "rb") as file:
        depth = file.read(25)[24]  # bits of a sample, at a fixed place in the first chunk
    if image.mode == "RGB":
        image.info["transparency"] = tuple(part >> 8 for part in key) if depth == 16 else key
    elif depth < 8 and key < 1 << depth:  # beyond, Pillow has done it
        image.info["transparency"] = key * 255 // ((1 << depth) - 1)


def _channels(image: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """float32: colours (3, H, W) in [-1, 1], alpha (H, W) in [0, 1] or None."""
    if image.mode.startswith("I"):  # grey of 16 bits; Pillow's own conversion would cut off at 255
        grey, key = np.asarray(image).astype(np.float32), image.info.get("transparency")
        alpha = None if key is None else (grey != key).astype(np.float32)
        return np.repeat((grey / 32767.5 - 1.0)[None], 3, axis=0), alpha
    see_through = image.has_transparency_data
    pixels = np.asarray(image.convert("RGBA" if see_through else "RGB"))
    colours = np.empty((3, *pixels.shape[:2]), np.float32)
    for i, plane in enumerate(colours):  # a quotient, not a product with 1 / 127.5: it gives exactly 1 for white
        np.subtract(np.divide(pixels[:, :, i], 127.5, out=plane, dtype=np.float32), 1.0, out=plane)
    return colours, np.divide(pixels[:, :, 3], 255.0, dtype=np.float32) if see_through else None


def _check_file(path: str | os.PathLike, name: str) -> None:
    path = Path(path)
    try:
        if path.is_dir():
            raise TinyganError(f"{name}: a folder, not a picture")
        if not path.exists():
            raise TinyganError(f"{name}: there is no such file")
        if not path.is_file():  # opening a pipe would wait for its other end
            raise TinyganError(f"{name}: not a file")
        if not path.stat().st_size:
            raise TinyganError(f"{name}: an empty file")
    except (OSError, ValueError) as error:  # no permission; a NUL in the name
        raise TinyganError(f"{name}: {getattr(error, 'strerror', None) or error}") from None


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise TinyganError(f"{name}: {width:,} x {height:,} pixels, where at most {MAX_PIXELS:,} in all are read; "
                           "make it smaller")


def _looks_like(path: str | os.PathLike, formats: list[str]) -> str:
    """A few words on what a file is that cannot be opened as a picture, and what to do."""
    with open(path, "rb") as file:
        start = file.read(512)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        kind = _HEIF[start[8:12]]
        if kind in formats:
            return f"it is {kind} and damaged or cut off"
        newer = " (the wheels of Pillow 11.3 and later do)" if kind == "AVIF" else ""
        return f"it is {kind}, which this Pillow does not read{newer}: save it as PNG or JPEG"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "it is a TIFF that is damaged or cut off, or of a kind that Pillow does not know: save it as PNG"
    if start[:5] == b"\0\0\0\x0cj" or start[:2] == b"\xff\x0a":
        return "it is JPEG 2000 or JPEG XL: save it as PNG or JPEG"
    if start[:4] == b"8BPS":
        return "it is Photoshop's own format: save it as PNG"
    start = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return f"not a picture (it is a {'drawing in SVG' if b'<svg' in start else 'web page'})"
    return "not a picture (its first bytes are those of no known format)"


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise TinyganError("reading pictures needs Pillow: pip install pillow") from error
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # its word on a damaged TIFF is said in ours
    return Image
