"""The idx file format of MNIST: a few big-endian 32-bit integers, then one unsigned byte per value.

    images: 2051, count, rows, columns, then count * rows * columns gray values (0 black, 255 white)
    labels: 2049, count, then count digits

The first integer (the "magic" number) says which of the two a file is. Nothing in the format protects its
reader: a file cut short, a web page saved under the file's name, or labels handed over as images all look
like bytes. So every statement of the header is checked against the file before memory is taken for it, and a
file is read whole or refused.
"""

import gzip
import os
import stat
import struct
import zlib

import numpy as np

from tinygan.errors import TinyganError

IMAGES, LABELS = 2051, 2049
KINDS = {IMAGES: "images", LABELS: "labels"}
MAX_BYTES = 1 << 30  # our choice: the largest idx set in common use, EMNIST, unpacks to 0.64 GB
DEFLATE_LIMIT = 1032  # deflate, the method inside gzip, never shrinks data by more than this factor


def read_images(path: str | os.PathLike) -> np.ndarray:
    """Read an idx images file, plain or gzipped (told by its content, not its name).

    Returns uint8 (N, rows, columns), N >= 1. Raises TinyganError, naming the file and the fault, when the
    magic number, count, rows, columns or length do not agree, or the gzip stream is cut short or fails its
    checksum.
    """
    return _read(path, IMAGES)


def read_labels(path: str | os.PathLike, *, most: int = 9) -> np.ndarray:
    """Read an idx labels file: uint8 (N,), values 0 to `most`. Refuses what `read_images` refuses, and larger ones."""
    labels = _read(path, LABELS)
    wrong = np.flatnonzero(labels > most)
    if wrong.size:
        at = wrong[0]
        what = "digits are" if most == 9 else "the labels of this set are"
        raise TinyganError(f"{shown(path)}: label {labels[at]} at position {at}; {what} 0 to {most}")
    return labels


def shown(path: str | os.PathLike) -> str:
    """The path as printable text on one line, whatever bytes its name holds."""
    text = os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _read(path, magic: int) -> np.ndarray:
    name = shown(path)
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):  # asked first: opening a pipe would wait for its other end
            raise TinyganError(f"{name}: not a file")
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _read_stream(raw, magic, name, info.st_size, zipped)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _read_stream(stream, magic, name, info.st_size, zipped)
    except EOFError:
        raise TinyganError(f"{name}: the gzip file is cut short; get it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise TinyganError(f"{name}: the gzip file is damaged ({error}); get it again") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte in it
        raise TinyganError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _read_stream(stream, magic: int, name: str, stored: int, zipped: bool) -> np.ndarray:
    """Check the header against `stored`, the file's size on disk; then read exactly what it declares."""
    header_bytes = 16 if magic == IMAGES else 8
    header = stream.read(header_bytes)
    _check_magic(header, magic, name)
    if len(header) < header_bytes:
        raise TinyganError(f"{name}: cut short inside its {header_bytes}-byte header")
    shape = struct.unpack(f">{header_bytes // 4}I", header)[1:]
    size = 1
    for length in shape:  # Python integers: a product of three 32-bit numbers cannot overflow here
        size *= length
    declared = " x ".join(str(length) for length in shape) + " " + KINDS[magic]
    if size == 0:
        raise TinyganError(f"{name}: declares {declared}: nothing to read")
    if size > MAX_BYTES:
        raise TinyganError(f"{name}: declares {declared}, more than the limit of {MAX_BYTES:,} bytes")
    if not zipped and stored != header_bytes + size:
        raise TinyganError(
            f"{name}: declares {declared}, {header_bytes + size:,} bytes in all, but is {stored:,} bytes long"
        )
    if size > stored * DEFLATE_LIMIT:
        raise TinyganError(f"{name}: declares {declared}, more than {stored:,} gzipped bytes can hold")

    data = np.empty(size, np.uint8)
    filled = 0
    while filled < size and (count := stream.readinto(memoryview(data)[filled:])):
        filled += count
    if filled < size:
        raise TinyganError(f"{name}: declares {declared} = {size:,} values but holds {filled:,}")
    if stream.read(1):  # asking past the end also makes gzip compare its checksum
        raise TinyganError(f"{name}: declares {declared} = {size:,} values but goes on after them")
    return data.reshape(shape)


def _check_magic(header: bytes, magic: int, name: str) -> None:
    wanted = f"an idx {KINDS[magic]} file ({magic})"
    if not header:
        raise TinyganError(f"{name}: empty, where {wanted} was expected; get it again")
    if header.lstrip()[:1] == b"<":
        raise TinyganError(f"{name}: a web page, not {wanted}; get it again")
    found = int.from_bytes(header[:4], "big") if len(header) >= 4 else None
    if found == magic:
        return
    if found in KINDS:
        raise TinyganError(f"{name}: an idx {KINDS[found]} file ({found}), where {wanted} was expected")
    raise TinyganError(f"{name}: starts with {header[:4].hex(' ')}, which is not {wanted}")
