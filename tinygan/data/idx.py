"""The idx file format of MNIST: a few big-endian 32-bit integers, then one unsigned byte per value.

    images: 2051, count, rows, columns, then count * rows * columns gray values (0 black, 255 white)
    labels: 2049, count, then count digits

The first integer (the "magic" number) tells the two apart. The format has no checksum: a file cut short, a
web page saved under the file's name, or labels in the place of images are all just bytes. So every number of the header
is checked against the file before memory is allocated for it, and a file is read completely or refused.
"""

import gzip
import os
import struct
import zlib
from typing import BinaryIO

import numpy as np

from tinygan.data.files import reading
from tinygan.errors import Refused

IMAGES, LABELS = 2051, 2049
KINDS = {IMAGES: "images", LABELS: "labels"}
MAX_BYTES = 1 << 30  # our choice: the largest idx set in common use, EMNIST, unpacks to 0.64 GB
DEFLATE_LIMIT = 1032  # deflate, the method inside gzip, never shrinks data by more than this factor


def read_images(path: str | os.PathLike) -> np.ndarray:
    """Read an idx images file, plain or gzipped (detected by its content, not its name).

    Returns uint8 (N, rows, columns), N >= 1. Raises TinyganError, naming the file and the fault, when the
    magic number, count, rows, columns or length do not agree, or the gzip stream is cut short or fails its
    checksum.
    """
    return _read(path, IMAGES)


def read_labels(path: str | os.PathLike, *, most: int = 9) -> np.ndarray:
    """Read an idx labels file: uint8 (N,), values 0 to `most`. Raises TinyganError as `read_images` does, and for
    larger values."""
    return _read(path, LABELS, most)


def _read(path: str | os.PathLike, magic: int, largest: int = 255) -> np.ndarray:
    with reading(path, MAX_BYTES + 16, hint="name an idx file") as raw:
        stored, zipped = os.fstat(raw.fileno()).st_size, raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            values = _read_stream(gzip.GzipFile(fileobj=raw) if zipped else raw, magic, stored, zipped)
        except EOFError:
            raise Refused("the gzip file is cut short; get it again") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise Refused(f"the gzip file is damaged ({error}); get it again") from None
        wrong = np.flatnonzero(values > largest) if largest < 255 else ()
        if len(wrong):
            what = "digits are" if largest == 9 else "the labels of this set are"
            raise Refused(f"label {values[wrong[0]]} at position {wrong[0]}; {what} 0 to {largest}")
        return values


def _read_stream(stream: BinaryIO, magic: int, stored: int, zipped: bool) -> np.ndarray:
    """Check the header against `stored`, the file's size on disk; then read exactly what it declares."""
    header_bytes = 16 if magic == IMAGES else 8
    header = stream.read(header_bytes)
    _check_magic(header, magic)
    if len(header) < header_bytes:
        raise Refused(f"it is cut short inside its {header_bytes}-byte header")
    shape = struct.unpack(f">{header_bytes // 4}I", header)[1:]
    size = 1
    for length in shape:  # Python integers: a product of three 32-bit numbers cannot overflow here
        size *= length
    declared = " x ".join(str(length) for length in shape) + " " + KINDS[magic]
    if size == 0:
        raise Refused(f"it declares {declared}: nothing to read")
    if size > MAX_BYTES:
        raise Refused(f"it declares {declared}, more than the limit of {MAX_BYTES:,} bytes")
    if not zipped and stored != header_bytes + size:
        raise Refused(f"it declares {declared}, {header_bytes + size:,} bytes in all, but is {stored:,} bytes long")
    if size > stored * DEFLATE_LIMIT:
        raise Refused(f"it declares {declared}, more than {stored:,} gzipped bytes can hold")

    data = np.empty(size, np.uint8)
    filled = 0
    while filled < size and (count := stream.readinto(memoryview(data)[filled:])):
        filled += count
    if filled < size:
        raise Refused(f"it declares {declared} = {size:,} values but holds {filled:,}")
    if stream.read(1):  # a read past the end also makes gzip compare its checksum
        raise Refused(f"it declares {declared} = {size:,} values but goes on after them")
    return data.reshape(shape)


def _check_magic(header: bytes, magic: int) -> None:
    expected = f"an idx {KINDS[magic]} file ({magic})"
    if not header:
        raise Refused(f"it is empty, where {expected} was expected; get it again")
    if header.lstrip()[:1] == b"<":
        raise Refused(f"it is a web page, not {expected}; get it again")
    magic_there = int.from_bytes(header[:4], "big") if len(header) >= 4 else None
    if magic_there == magic:
        return
    if magic_there in KINDS:
        raise Refused(f"it is an idx {KINDS[magic_there]} file ({magic_there}), where {expected} was expected")
    raise Refused(f"it starts with {header[:4].hex(' ')}, which is not {expected}")
