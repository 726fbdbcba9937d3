"""HDF5 files from an unknown source: checked reading and whole writing of weights.

HDF5 is more than a table of arrays. A name in a file can lead to another file on the reader's disk (external links
and storage, virtual data sets), and a kilobyte can declare terabytes. So the kind of a link is checked before anything
is opened, and an array is read only if its type and shape are those the caller expects, all of its bytes are in the
file, and no filter was applied to them but a checksum. Where a caller allows it, gzip-compressed arrays are read, too:
chunk by chunk, and no chunk may grow beyond the size that it declares.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygan.data.files import reading, reason_of, whole_file
from tinygan.errors import Refused, TinyganError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
TO_CONVERT = (b"PK\x03\x04", b"\x80\x02")  # how PyTorch's files and .keras archives begin
CHUNK_BYTES = 4 << 20  # of what is written; a checksum covers a chunk, which HDF5 reads whole
MAX_DEPTH, MAX_NAMES = 6, 10_000  # of a search through groups, which hard links can make endless
_DAMAGED = "it is cut off, damaged or was made by another program; use another copy"
# What h5py raises for damaged bytes (found by changing bytes at random).
_DAMAGE = (KeyError, ValueError, TypeError, RuntimeError, OverflowError, AttributeError, MemoryError, zlib.error)


@contextmanager
def open_hdf5(path: str | os.PathLike, *, max_bytes: int, compressed: bool = False,
              convert: str = "") -> Iterator[Reader]:
    """Open an HDF5 file for checked reading.

    compressed: arrays may be gzip-compressed. convert: the command that makes an HDF5 file of PyTorch's, where there
    is one. Raises TinyganError, one line that names the file, for every fault, also of what is read inside the block
    (see `files.reading`).
    """
    h5py = import_h5py()
    with reading(path, max_bytes, hint="name a weight file", damage=_DAMAGE) as raw:
        start = raw.read(len(SIGNATURE))
        if convert and start.startswith(TO_CONVERT):
            raise Refused(f"it is a PyTorch file or a .keras archive; convert it first: {convert}")
        if start != SIGNATURE:
            raise Refused("it is not an HDF5 file; use another copy")
        with h5py.File(path, "r", locking=False) as file:  # no lock: it may lie where nothing can be written
            yield Reader(file, h5py, compressed)


class Reader:
    """An open HDF5 file: its attributes, names and arrays, each checked before it is read."""

    def __init__(self, file: Any, h5py: Any, compressed: bool = False) -> None:
        self._file, self._h5py = file, h5py
        self._filters = {h5py.h5z.FILTER_FLETCHER32}
        if compressed:
            self._filters |= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}

    def attribute(self, name: str, default: Any = None) -> Any:
        """Read an attribute of the file, a text or a number. Raises Refused if it is an array, or absent without a
        `default`."""
        if name not in self._file.attrs:
            if default is not None:
                return default
            raise Refused(f"it lacks the attribute {name!r}; {_DAMAGED}")
        if self._file.attrs.get_id(name).shape != ():
            raise Refused(f"its attribute {name!r} is not one value; {_DAMAGED}")
        value = self._file.attrs[name]
        if isinstance(value, bytes):  # a text of fixed length
            value = value.decode("utf-8")
        if not isinstance(value, str | np.integer | np.floating):
            raise Refused(f"its attribute {name!r} is neither text nor a number; {_DAMAGED}")
        return value if isinstance(value, str) else value.item()

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """Read an attribute of `count` finite numbers. Raises Refused if it is anything else."""
        if name not in self._file.attrs:
            raise Refused(f"it lacks the attribute {name!r}; {_DAMAGED}")
        kind = self._file.attrs.get_id(name)
        if kind.shape != (count,) or kind.dtype.kind not in "fiu":
            raise Refused(f"its attribute {name!r} is not {count} numbers; {_DAMAGED}")
        values = tuple(float(v) for v in self._file.attrs[name])
        if not all(map(math.isfinite, values)):
            raise Refused(f"its attribute {name!r} holds NaN or infinity; {_DAMAGED}")
        return values

    def lines(self, name: str, count: int, *, max_size: int) -> tuple[str, ...]:
        """Read `count` printable lines of UTF-8 stored as bytes. Raises Refused if they are anything else."""
        raw = self.array(name, self.shape(name, ("uint8",), max_size=max_size), ("uint8",))
        lines = raw.tobytes().decode("utf-8", errors="replace").split("\n")
        if len(lines) != count or not all(line.isprintable() and line.strip() for line in lines):
            raise Refused(f"its {name.replace('_', ' ')} are not {count:,} lines of text; convert it again")
        return tuple(lines)

    def attributes(self) -> dict[str, Any]:
        """Read all attributes of the file."""
        return {name: self.attribute(name) for name in self._file.attrs}

    def names(self, group: str = "") -> list[str]:
        """List the members of a group without opening them. Raises Refused if one is a link to elsewhere."""
        members = self._open(group)
        if not isinstance(members, self._h5py.Group):
            raise Refused(f"{group!r} is not a group; {_DAMAGED}")
        for name in members:
            self._check_link(members, name)
        return sorted(members)

    def arrays(self, group: str = "", *, depth: int = MAX_DEPTH) -> list[str]:
        """List the full names of all arrays in a group and the groups below it, at most `depth` deep; nothing is read.
        Raises Refused if one is a link to elsewhere, or if the groups go deeper or hold too many names."""
        names: list[str] = []
        self._list_arrays(group, depth, names)
        return names

    def _list_arrays(self, group: str, depth: int, names: list[str]) -> None:
        if depth < 1 or len(names) > MAX_NAMES:
            raise Refused(f"the groups in {group!r} go too deep or hold too much; {_DAMAGED}")
        for member in self.names(group):
            name = f"{group}/{member}" if group else member
            if isinstance(self._open(name), self._h5py.Group):
                self._list_arrays(name, depth - 1, names)
            else:
                names.append(name)

    def array(self, name: str, shape: tuple[int, ...], kinds: tuple[str, ...], *, finite: bool = True) -> np.ndarray:
        """Read the array `name`, in native byte order. kinds: dtypes it may be stored in, such as ("float16",
        "float32"). Raises Refused where it is not an ordinary, complete array of that shape and (finite) of finite
        numbers."""
        data = self._dataset(name)
        if data.shape != shape:
            raise Refused(f"{name!r} declares {_shown(data.shape)}, not {_shown(shape)}; {_DAMAGED}")
        self._check_stored(name, data, kinds)
        values = data[()] if _filters(data) <= {self._h5py.h5z.FILTER_FLETCHER32} else self._inflated(name, data)
        if finite and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Refused(f"{name!r} holds NaN or infinity; {_DAMAGED}")
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def shape(self, name: str, kinds: tuple[str, ...], *, max_size: int) -> tuple[int, ...]:
        """Return the declared shape of the array `name`, after all checks of `array` that need no reading.
        Raises Refused also where it has no numbers or more than max_size."""
        data = self._dataset(name)
        if not data.shape or not 0 < math.prod(data.shape) <= max_size:
            raise Refused(f"{name!r} declares {_shown(data.shape)}, where 1 to {max_size:,} numbers can be; {_DAMAGED}")
        self._check_stored(name, data, kinds)
        return data.shape

    def _dataset(self, name: str) -> Any:
        data = self._open(name)
        if not isinstance(data, self._h5py.Dataset):
            raise Refused(f"{name!r} is not an array; {_DAMAGED}")
        if data.is_virtual or data.id.get_create_plist().get_external_count():
            raise Refused(f"{name!r} is stored in another file, which is never read")
        return data

    def _check_stored(self, name: str, data: Any, kinds: tuple[str, ...]) -> None:
        """Check that the type is one of `kinds`, that there is no filter but those allowed, and that every number is in
        the file."""
        if data.dtype.kind not in "fiu" or data.dtype.newbyteorder("=").name not in kinds:
            raise Refused(f"{name!r} holds {data.dtype}, not {' or '.join(kinds)}; {_DAMAGED}")
        filters = _filters(data)
        if filters - self._filters:
            how = " with something else than gzip" if len(self._filters) > 1 else ""
            raise Refused(f"{name!r} is compressed{how}, which is not read; write it again without compression")
        numbers = math.prod(data.shape)
        if data.chunks:
            if math.prod(data.chunks) > numbers:
                raise Refused(f"{name!r} declares chunks larger than itself; {_DAMAGED}")
            # Chunks at the edge are stored whole, so that the others' surplus could make up for a missing one.
            numbers = math.prod(-(-n // c) * c for n, c in zip(data.shape, data.chunks, strict=True))
        size = numbers * data.dtype.itemsize
        if filters - {self._h5py.h5z.FILTER_FLETCHER32}:  # the number of stored bytes then proves nothing
            chunks = numbers // math.prod(data.chunks)
            if data.id.get_num_chunks() != chunks:
                raise Refused(f"{name!r} has {data.id.get_num_chunks():,} of {chunks:,} chunks; {_DAMAGED}")
        elif data.id.get_storage_size() < size:
            raise Refused(f"{name!r} declares {size:,} bytes but {data.id.get_storage_size():,} are stored; {_DAMAGED}")

    def _inflated(self, name: str, data: Any) -> np.ndarray:
        """Decompress an array of gzip-compressed chunks. HDF5's reader has no limit on what a chunk unpacks to."""
        h5z, values = self._h5py.h5z, np.empty(data.shape, data.dtype)
        size, creation = math.prod(data.chunks) * data.dtype.itemsize, data.id.get_create_plist()
        steps = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
        for index in range(data.id.get_num_chunks()):
            corner = data.id.get_chunk_info(index).chunk_offset
            left_out, chunk = data.id.read_direct_chunk(corner)
            for i, step in reversed([*enumerate(steps)]):
                if left_out >> i & 1:  # a filter that was no use for this chunk
                    continue
                if step == h5z.FILTER_DEFLATE:
                    chunk = zlib.decompressobj().decompress(chunk, size + 4)  # a checksum may come after
                elif step == h5z.FILTER_SHUFFLE:  # first bytes of all numbers, then second bytes ...
                    chunk = np.frombuffer(chunk, np.uint8).reshape(data.dtype.itemsize, -1).T.tobytes()
                else:
                    chunk = chunk[:-4]
            if len(chunk) != size:
                raise Refused(f"{name!r} has a chunk of other than the {size:,} bytes that it declares; {_DAMAGED}")
            part = np.frombuffer(chunk, data.dtype).reshape(data.chunks)
            place = tuple(slice(at, at + n) for at, n in zip(corner, data.chunks, strict=True))
            inside = tuple(slice(n) for n in values[place].shape)  # a chunk at the edge reaches beyond it
            values[place] = part[inside]
        return values

    def _open(self, name: str) -> Any:
        place = self._file
        for part in filter(None, name.split("/")):
            if not isinstance(place, self._h5py.Group):
                raise Refused(f"{name!r} lies in something that is not a group; {_DAMAGED}")
            self._check_link(place, part)
            place = place[part]
        return place

    def _check_link(self, group: Any, name: str) -> None:
        link = group.get(name, getlink=True)
        if link is None:
            raise Refused(f"it lacks {name!r}; {_DAMAGED}")
        if not isinstance(link, self._h5py.HardLink):
            raise Refused(f"{name!r} is a link to somewhere else, which is never followed")


def _filters(data: Any) -> set[int]:
    creation = data.id.get_create_plist()
    return {creation.get_filter(i)[0] for i in range(creation.get_nfilters())}


def _shown(shape: tuple[int, ...] | None) -> str:
    return "x".join(f"{n:,}" for n in shape or ()) or "no numbers"


def write_hdf5(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Write arrays (names with "/" make groups) and attributes, completely or not at all, in a form `Reader` reads.

    Structure and arrays carry checksums, so that one changed bit is detected; the file holds no date. Arrays
    are stored in chunks of whole rows, about 4 MiB each: HDF5 takes none of 4 GiB, and reads a chunk whole to check it.
    Raises TinyganError where nothing can be written.
    """
    h5py = import_h5py()
    try:
        with whole_file(path, durable=True) as raw, h5py.File(raw, "w", libver=("v110", "v110")) as file:
            for name, value in attributes.items():
                file.attrs[name] = value
            for name, array in arrays.items():
                file.create_dataset(name, data=array, chunks=_rows(array), fletcher32=True)
    except OSError as error:
        raise TinyganError(f"cannot write {path}: {reason_of(error)}; choose another place") from None


def _rows(array: np.ndarray) -> tuple[int, ...]:
    """Compute the shape of a chunk: whole rows (along axis 0), about CHUNK_BYTES of them. All chunks are of nearly one
    size, because the last is stored whole even if half of it lies beyond the array's edge."""
    chunks = max(-(-array.nbytes // CHUNK_BYTES), 1)
    return (-(-len(array) // chunks), *array.shape[1:])


def import_h5py() -> Any:
    """Import h5py; raise a TinyganError that says how to get it where it is missing."""
    try:
        import h5py
    except ImportError as error:
        raise TinyganError(f"HDF5 files need h5py ({error}): pip install h5py") from None
    return h5py
