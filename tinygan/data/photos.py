"""Photos: a folder of pictures of any sizes as squares of one size, in memory; train_photos.py learns from them."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygan.data.files import hash_arrays, shown
from tinygan.data.images import SUFFIXES, read_image, resize_image
from tinygan.data.substrates import describe_files, files_in
from tinygan.errors import TinyganError, UsageError

NAMED = 3  # files left out that are named one by one


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos to learn from. images: uint8 (N, 3, S, S), RGB. source: where they come from, one line."""

    images: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def hash(self) -> str:
        """Compute a hash of the pixels, the same wherever the folder lies."""
        return hash_arrays(self.images)


def load_photos(folder: str | os.PathLike, size: int, *, say: Callable[[str], None] = print,
                progress: Callable[[int, int], None] = lambda done, total: None) -> Photos:
    """Load all pictures in a folder and the folders in it, in the order of their paths, each as `square` makes it.

    Grey pictures become three equal channels, transparent ones lie on white (images.read_image). What cannot be read is
    left out. say: is called with a line for each of the first three such files, one with the number of the others, and
    one where pictures were smaller than `size` and had to be enlarged. progress: is called with (done, total) after
    each file. Files are read one at a time, as reading changes the warnings and the error stream of the whole process;
    2,350 of 150 pixels take 6 seconds. Raises TinyganError, one line, where there is no such folder or it holds
    fewer than two pictures that can be read; UsageError for a size below 1.
    """
    if size < 1:
        raise UsageError(f"photos are at least 1 pixel wide, not {size}")
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file, no folder" if folder.exists() else "is not there"
        raise TinyganError(f"{shown(folder)} {problem}: name a folder of pictures")
    present = files_in(folder)
    files = [file for file in present if file.suffix.lower() in SUFFIXES]
    if not files:
        raise TinyganError(f"no pictures in {shown(folder)}: {describe_files(present)}; "
                           f"expected {', '.join(SUFFIXES)}")
    images = np.empty((len(files), 3, size, size), np.uint8)
    count, enlarged, problems = 0, 0, []
    for done, file in enumerate(files, 1):
        try:
            picture, _ = read_image(file)
        except TinyganError as problem:
            problems.append(str(problem))
        else:
            images[count] = square(picture, size)
            enlarged += min(picture.shape[1:]) < size
            count += 1
        progress(done, len(files))
    if not count:
        raise TinyganError(f"none of the {len(files)} pictures in {shown(folder)} can be read; the first: "
                           f"{problems[0]}")
    if count < 2:
        raise TinyganError(f"{shown(folder)} holds one picture that can be read: give a folder with two at the least, "
                           "and some hundred to learn from")
    _say_what_was_found(say, problems, enlarged, count, size)
    left_out = f", {len(problems)} left out" if problems else ""
    return Photos(images[:count], f"{count:,} photos of {size} pixels from {shown(folder)}{left_out}")


def _say_what_was_found(say: Callable[[str], None], problems: list[str], enlarged: int, count: int, size: int) -> None:
    """Say which files were left out and how many pictures were enlarged."""
    for problem in problems[:NAMED]:
        say(f"note: left out: {problem}")
    if len(problems) > NAMED:
        say(f"note: left out: {len(problems) - NAMED} more")
    if enlarged:
        say(f"note: {enlarged} of the {count:,} pictures are smaller than {size} pixels and were enlarged: a smaller "
            "--size would fit them better")


def square(picture: np.ndarray, size: int) -> np.ndarray:
    """Cut the central square of a picture (3, H, W) in [-1, 1] and resize it: uint8 (3, size, size).

    Where the sides differ by an odd number, the pixel more is cut off at the bottom or on the right.
    """
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    small = resize_image(picture[:, top : top + side, left : left + side], size)
    return np.rint((small + 1) * 127.5).astype(np.uint8)
