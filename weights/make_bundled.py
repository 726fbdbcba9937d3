"""Make the digits that come with the package:  python weights/make_bundled.py FOLDER_WITH_MNIST [--out FOLDER]

Of the original training files the first 500 digits of each class, of the test files the first 100 of each, in their
original order with unchanged pixels. Balanced, because the classes that a generator misses are counted against an even
distribution; out of both files, because training and test images must not mix.
"""

import argparse
import gzip
import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from tinygan.data import load_mnist
from tinygan.data.files import shown
from tinygan.data.idx import IMAGES, LABELS
from tinygan.data.mnist import BUNDLED, FILES
from tinygan.errors import TinyganError

PER_CLASS = {"train": 500, "test": 100}


def first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Find the first `count` of each digit 0 to 9: their indices in rising order, int64 (10 * count,)."""
    first = [np.flatnonzero(labels == digit)[:count] for digit in range(10)]
    if short := [digit for digit in range(10) if len(first[digit]) < count]:
        raise TinyganError(f"fewer than {count} of digit {short[0]}: is this all of MNIST?")
    return np.sort(np.concatenate(first))


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write uint8 images (N, rows, columns) or labels (N,) as a gzipped idx file, without a date in it."""
    header = struct.pack(f">{1 + values.ndim}I", IMAGES if values.ndim == 3 else LABELS, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), compresslevel=9, mtime=0))


def main(argv: list[str] | None = None) -> int:
    """Write the four bundled files; return the exit code."""
    parser = argparse.ArgumentParser(description="Make the bundled digits out of the four MNIST files.")
    parser.add_argument("source", type=Path, help="folder with the four MNIST files")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="where to write (default: the package)")
    args = parser.parse_args(argv)
    try:
        for split, count in PER_CLASS.items():
            digits = load_mnist(split, data_dir=args.source)
            chosen = first_of_each(digits.labels, count)
            args.out.mkdir(parents=True, exist_ok=True)
            for (stem, _), values in zip(FILES[split], (digits.images, digits.labels), strict=True):
                path = args.out / f"{stem}.gz"
                write_idx(path, values[chosen])
                print(f"{shown(path)}: {len(chosen):,} digits, {path.stat().st_size:,} bytes")
    except (TinyganError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
