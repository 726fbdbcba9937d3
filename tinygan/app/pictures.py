"""Pictures: sample grids, single files, the training GIF.

Images come in as (N, C, H, W), C = 1 (grey) or 3 (RGB), either uint8 or floats in [0, 1]; a finished picture
is a uint8 array (H, W) or (H, W, 3), exactly as many pixels as asked for, without axes or margins. Files are
written whole or not at all. Nothing opens a window: Pillow writes the images straight into a file.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tinygan.data.files import reading, whole_file
from tinygan.errors import Refused, TinyganError, UsageError

GAP = 70  # grey level between the images of a grid: a black image differs from no image
UNKNOWN = 128  # a pixel that is not a number is drawn mid-grey: neither ink nor paper
GREYS = 32  # grey levels in a GIF: no visible difference on digits, and half the file size
LINE = 12  # pixels of a line of text above a column
FRAMES = 120  # at most so many GIF frames, evenly picked: a long run does not make a file too large to send


def to_uint8(images: np.ndarray, *, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Convert floats in [low, high] to uint8 in [0, 255], rounded; uint8 is passed on as it is.

    Values outside are clipped (so are infinities); NaN becomes mid-grey, 128.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    levels = np.clip((images - low) * (255.0 / (high - low)), 0.0, 255.0)
    levels = np.where(np.isnan(levels), float(UNKNOWN), levels)
    return np.rint(levels).astype(np.uint8)


def grid(images: np.ndarray, rows: int, cols: int, *, pad: int = 2, scale: int = 1) -> np.ndarray:
    """Lay rows x cols images side by side: one picture, uint8 (height, width), or (height, width, 3) for colour.

    images: (N, C, H, W) with N <= rows * cols (missing places stay empty). `pad` pixels lie around and
    between the images; `scale` repeats each pixel scale x scale times, so height = (rows * (H + pad) + pad) *
    scale. Raises UsageError for other shapes and for more images than places.
    """
    images = to_uint8(images)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UsageError(f"a grid needs images of shape (N, 1 or 3, H, W), not {images.shape}")
    count, channels, height, width = images.shape
    if rows < 1 or cols < 1 or pad < 0 or scale < 1 or count > rows * cols:
        raise UsageError(f"{count} images do not fit a grid of {rows}x{cols} (pad {pad}, scale {scale})")
    picture = np.full((rows * (height + pad) + pad, cols * (width + pad) + pad, channels), GAP, np.uint8)
    for index, image in enumerate(images):
        top = pad + (index // cols) * (height + pad)
        left = pad + (index % cols) * (width + pad)
        picture[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    return picture[:, :, 0] if channels == 1 else picture


def routes_sheet(
    images: np.ndarray, *, headers: Sequence[str] | None = None, pad: int = 2, scale: int = 1
) -> np.ndarray:
    """Lay out the images of a stochastic generator: each column is one route, each row one noise vector.

    images: (R, S, C, H, W), S samples of each of R routes, the same S noise vectors for every route if rows
    are to be compared. headers: R short texts drawn above the columns, broken after commas where they are wider than
    an image. Returns uint8 like `grid`. Raises UsageError for another shape or number of headers.
    """
    images = to_uint8(images)
    if images.ndim != 5 or 0 in images.shape:
        raise UsageError(
            f"a sheet of routes needs images of shape (routes, samples, C, H, W), not {images.shape}"
        )
    routes, samples = images.shape[:2]
    by_row = images.swapaxes(0, 1).reshape(routes * samples, *images.shape[2:])
    sheet = grid(by_row, samples, routes, pad=pad, scale=scale)
    if headers is None:
        return sheet
    if len(headers) != routes:
        raise UsageError(f"{len(headers)} headers for {routes} routes")
    try:
        names = _header_lines(headers, sheet.shape, (images.shape[4] + pad) * scale, pad * scale)
    except Exception:  # no font, or one that lacks a letter: the names are a help, not worth a picture
        return sheet
    return np.concatenate([names, sheet])


def _header_lines(headers: Sequence[str], shape: tuple[int, ...], step: int, left: int) -> np.ndarray:
    """Draw a text above each column of a sheet of `shape`: columns are `step` pixels apart, the first at `left`."""
    pillow = _pillow()
    from PIL import ImageDraw

    measure = ImageDraw.Draw(pillow.new("L", (1, 1))).textlength
    columns = [[""] for _ in headers]
    for lines, text in zip(columns, headers, strict=True):
        for word in re.findall(r"[^,]+,?", text):
            if lines[-1] and measure(lines[-1] + word) > step - left:
                lines.append("")
            lines[-1] += word
    strip = pillow.new("L", (shape[1], LINE * max(map(len, columns)) + 2), GAP)
    draw = ImageDraw.Draw(strip)
    for column, lines in enumerate(columns):
        for number, text in enumerate(lines):
            over = max(0, step - left - measure(text))
            draw.text((left + column * step + over / 2, 1 + LINE * number), text, fill=255)
    names = np.asarray(strip)
    return names if len(shape) == 2 else names[:, :, None].repeat(3, axis=2)


def save_png(path: str | os.PathLike, array: np.ndarray, *, made_by: str | None = None) -> None:
    """Write a uint8 picture, (H, W) grey or (H, W, 3) RGB, as PNG. Raises OSError if it cannot be written.

    made_by: a program's name, ASCII, that the file carries for `is_made_by`.
    """
    write(path, io.BytesIO(png_bytes(array, made_by=made_by)))


def png_bytes(array: np.ndarray, *, made_by: str | None = None) -> bytes:
    """Return the content of the file that `save_png` writes."""
    from PIL.PngImagePlugin import PngInfo

    data, info = io.BytesIO(), PngInfo()
    if made_by is not None:
        info.add_text("Software", made_by)
    _image(array).save(data, "PNG", pnginfo=info)
    return data.getvalue()


def is_made_by(path: str | os.PathLike, made_by: str) -> bool:
    """Return whether the PNG at `path` carries that program's name, as `save_png` writes it: before the pixels.

    Raises TinyganError where the file cannot be read.
    """
    with reading(path, math.inf, may_be_empty=True) as file:
        return f"tEXtSoftware\0{made_by}".encode() in file.read(200)


def shrunk(picture: np.ndarray, widest: int) -> np.ndarray:
    """Shrink a uint8 picture, (H, W) or (H, W, 3), to at most `widest` pixels by averaging whole blocks of pixels."""
    factor = -(-picture.shape[1] // widest)
    if factor <= 1:
        return picture
    edges = [(0, -n % factor) for n in picture.shape[:2]] + [(0, 0)] * (picture.ndim - 2)
    whole = np.pad(picture, edges, mode="edge")
    rows, columns = (n // factor for n in whole.shape[:2])
    means = whole.reshape(rows, factor, columns, factor, *whole.shape[2:]).mean(axis=(1, 3), dtype=np.float32)
    return np.rint(means).astype(np.uint8)


def save_individual(
    folder: str | os.PathLike, images: np.ndarray, *, start: int = 0, scale: int = 1, made_by: str | None = None
) -> list[Path]:
    """Write one PNG per image of (N, C, H, W): folder/00000.png ..., numbered from `start`. Return the paths.

    made_by: see `save_png`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, image in enumerate(to_uint8(images), start):
        paths.append(folder / f"{number:05d}.png")
        save_png(paths[-1], grid(image[None], 1, 1, pad=0, scale=scale), made_by=made_by)
    return paths


def read_png(path: str | os.PathLike) -> np.ndarray:
    """Read a PNG as uint8 (H, W) or (H, W, 3). Raises TinyganError when it cannot be read as one."""
    pillow = _pillow()
    with reading(path, math.inf, damage=(ValueError, SyntaxError, pillow.DecompressionBombError)) as file:
        try:
            with pillow.open(file, formats=["PNG"]) as image:
                return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        except pillow.UnidentifiedImageError:
            raise Refused("it is not a PNG, or is cut off; use another copy") from None


def save_gif(
    path: str | os.PathLike, frames: Iterable[np.ndarray], *, ms: int = 120, hold_ms: int = 2500
) -> None:
    """Write an endless GIF of uint8 pictures of one size and kind; the last frame stays for `hold_ms`.

    Every frame has the same palette, so that colours do not flicker: 32 greys, or 128 colours chosen over the
    whole film. At most 120 frames are kept, evenly picked, first and last included. Raises UsageError if
    there is none.
    """
    frames = [np.asarray(frame) for frame in frames]
    if not frames or len({frame.shape for frame in frames}) != 1:
        raise UsageError("a GIF needs at least one picture, and all of one size")
    if len(frames) > FRAMES:
        frames = [frames[index] for index in np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]
    images = _indexed_grey(frames) if frames[0].ndim == 2 else _indexed_colour(frames)
    durations = [ms] * (len(images) - 1) + [hold_ms]
    data = io.BytesIO()
    images[0].save(
        data,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        optimize=False,
        disposal=1,
    )
    write(path, data)


def _indexed_grey(frames: list[np.ndarray]) -> list:
    """Convert grey frames to Pillow images with one palette of GREYS levels."""
    pillow = _pillow()
    top = GREYS - 1
    palette = [level for grey in range(GREYS) for level in [round(grey * 255 / top)] * 3]
    images = []
    for frame in frames:
        index = ((frame.astype(np.uint32) * top + 127) // 255).astype(np.uint8)
        image = pillow.frombytes("P", (frame.shape[1], frame.shape[0]), index.tobytes())
        image.putpalette(palette)
        images.append(image)
    return images


def _indexed_colour(frames: list[np.ndarray]) -> list:
    """Convert colour frames to Pillow images with one palette, chosen on a few of the frames side by side."""
    some = [frames[index] for index in sorted({0, len(frames) // 3, 2 * len(frames) // 3, len(frames) - 1})]
    palette = _image(np.concatenate(some, axis=1)).quantize(128)
    return [_image(frame).quantize(palette=palette, dither=0) for frame in frames]


def _pillow():
    """Import Pillow's Image. Raises TinyganError, one line, where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise TinyganError("writing pictures needs Pillow: pip install pillow") from error
    return Image


def _image(array: np.ndarray):
    """Convert a uint8 picture to a Pillow image. Raises UsageError for another array."""
    array = np.ascontiguousarray(array)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise UsageError(f"a picture is a uint8 array (H, W) or (H, W, 3), not {array.dtype} {array.shape}")
    return _pillow().fromarray(array)


def write(path: str | os.PathLike, data: io.BytesIO) -> None:
    """Write a file, whole or not at all. Raises OSError if it cannot be written."""
    with whole_file(path) as file:
        file.write(data.getbuffer())
