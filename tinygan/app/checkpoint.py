"""Checkpoints: a dictionary of arrays and a JSON header in one plain .npz file.

The file is an uncompressed zip of .npy members, so numpy.load opens it anywhere; nothing in it is ever
executed, in writing or in reading. The bytes are decided by the content alone (names sorted, no clock, no
path): two runs that reached the same state have equal files. Writing is whole or not at all and survives a
kill at any moment (files.py).

In reading, each member's declared shape must account for exactly the bytes that are stored. This is checked
before any array is allocated, so that a file of 300 bytes that declares terabytes costs 300 bytes.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tinygan.data.files import reading, reason_of, whole_file
from tinygan.errors import Refused, TinyganError

FILE_NAME = "checkpoint.npz"
FORMAT = "tinygan checkpoint"
VERSION = 1
META = "meta"  # the member that holds the JSON text, as a 0-d unicode array
KINDS = "biufU"  # bool, integers, floats, text: never objects, which would need executable code to restore


def save(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], meta: Mapping) -> None:
    """Write `arrays` (any names but "meta", any memory order) and `meta` (whatever JSON can hold) to `path`.

    Arrays are stored in C order of their logical indices, so memory order does not reach the file. A file
    already at `path` is replaced only when the new one is complete and on the disk. Raises TinyganError (disk
    full, read-only, folder gone ...): the previous checkpoint is then intact.
    """
    header = {"format": FORMAT, "version": VERSION, "arrays": sorted(arrays), "meta": dict(meta)}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), default=_plain)
    members = {META: np.array(text)}
    for name in sorted(arrays):
        if name == META:
            raise TinyganError(
                f'a checkpoint cannot hold an array named "{META}": that name is taken by its header'
            )
        array = np.asarray(arrays[name], order="C")
        if array.dtype.kind not in KINDS:
            raise TinyganError(
                f'array "{name}" has type {array.dtype}: a checkpoint holds numbers and text only'
            )
        members[name] = array
    try:
        with (
            whole_file(path, durable=True) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ):
            for name, array in members.items():
                # ZipInfo without a date means 1980, always: no clock in the file.
                member = zipfile.ZipInfo(name + ".npy")
                with archive.open(member, "w", force_zip64=array.nbytes >= 1 << 30) as out:
                    np.lib.format.write_array(out, array, version=(1, 0), allow_pickle=False)
    except OSError as error:
        raise TinyganError(
            f"cannot write checkpoint {path}: {reason_of(error)}; {_state_of(Path(path))}"
        ) from error


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Read a checkpoint, the file or the run folder that holds checkpoint.npz; return (arrays, meta).

    The arrays are fresh, writable and in native byte order. Raises TinyganError, one line that names the
    file, when it is absent, cut off, damaged, not a checkpoint, of another format version, or declares more
    than it holds.
    """
    folder = Path(path)
    if os.path.isdir(folder):
        path = folder / FILE_NAME
        if not path.exists():
            raise TinyganError(
                f"no {FILE_NAME} in folder {folder}: give the folder of a run that has saved at least once"
            )
    with reading(path, math.inf, hint=f"give the folder of a run, or its {FILE_NAME}", damage=_DAMAGE) as file:
        if not zipfile.is_zipfile(file):
            raise Refused("it is cut off, damaged or not a checkpoint; use another copy, or start a new run")
        arrays = _read_members(file, os.fstat(file.fileno()).st_size)
        header = _read_header(arrays.pop(META, None))
        # A zip whose directory lost an entry is still a zip: the header lists what must be there.
        if header["arrays"] != sorted(arrays):
            raise Refused(f"parts of it are missing; {_DAMAGED}")
        return arrays, header["meta"]


# What zipfile and numpy raise for damaged bytes (collected by mutating files at random).
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    ValueError,
    OverflowError,
    struct.error,
    NotImplementedError,
    RuntimeError,
)
_DAMAGED = "the file is damaged or was not written by tinygan; use another copy, or start a new run"


def _read_members(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Read every array of an uncompressed .npz of `size` bytes. Raises Refused for a compressed or unexpected part."""
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        for member in members:
            # A stored member cannot be larger than the file it lies in: that alone rules out every zip bomb.
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise Refused(f'"{member.filename}" is compressed, which checkpoints never are; {_DAMAGED}')
        if sum(member.file_size for member in members) > size:
            raise Refused(f"its parts claim more bytes than the file has ({size:,}); {_DAMAGED}")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays or name == member.filename:
                raise Refused(f'it holds an unexpected part "{member.filename}"; {_DAMAGED}')
            arrays[name] = _read_array(name, archive.read(member))  # read() checks the CRC
    return arrays


_NPY = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<>|]([A-Za-z])\d+)', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n"
)


def _read_array(name: str, data: bytes) -> np.ndarray:
    """Read one .npy member. Its header is matched against the one form numpy writes, never evaluated as Python."""
    start = 10 + struct.unpack("<H", data[8:10].ljust(2, b"\0"))[0]
    header = _HEADER.fullmatch(data[10:start])
    if data[:8] != _NPY or header is None:
        if data[:8] == _NPY and b"'|O'" in data[10:start]:
            raise Refused(f'array "{name}" holds Python objects, which are never loaded; {_DAMAGED}')
        raise Refused(f'array "{name}" has an unknown header; {_DAMAGED}')
    if header[2].decode() not in KINDS:
        raise Refused(f'array "{name}" has type {header[1].decode()}, unlike any checkpoint; {_DAMAGED}')
    try:
        dtype = np.dtype(header[1].decode())
    except TypeError as error:
        raise ValueError(str(error)) from error
    shape = tuple(int(extent) for extent in header[4].decode().split(",") if extent.strip())
    declared, stored = math.prod(shape) * dtype.itemsize, len(data) - start
    if declared != stored:
        raise Refused(f'array "{name}" declares {declared:,} bytes but {stored:,} are stored; {_DAMAGED}')
    flat = np.frombuffer(data, dtype, offset=start)
    array = flat.reshape(shape, order="F" if header[3] == b"True" else "C")
    return array.astype(dtype.newbyteorder("="), order="C")  # a copy: writable, and `data` can go


def _read_header(array: np.ndarray | None) -> dict:
    """Parse the JSON header of a checkpoint. Raises Refused for another program's, damaged or of another version."""
    foreign = (
        f"it is another program's file (no tinygan header); give the folder of a run, or its {FILE_NAME}"
    )
    if array is None or array.shape != () or array.dtype.kind != "U":
        raise Refused(foreign)
    try:
        header = json.loads(array.item())
    except (ValueError, RecursionError) as error:
        raise Refused(f"its header is not JSON ({reason_of(error)}); {_DAMAGED}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise Refused(foreign)
    if header.get("version") != VERSION:
        raise Refused(
            f"its format version is {header.get('version')!r} and this tinygan reads {VERSION}; "
            "use the tinygan that wrote it, or start a new run"
        )
    if not isinstance(header.get("meta"), dict) or not isinstance(header.get("arrays"), list):
        raise Refused(f"its header is incomplete; {_DAMAGED}")
    return header


def _plain(value):
    """Convert NumPy's scalars and arrays, which random-generator states and counters hold, to JSON's types."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a checkpoint's meta cannot hold a {type(value).__name__}")


def _state_of(path: Path) -> str:
    """Describe which file is left after a failed write, and what to do."""
    try:
        if path.is_file():
            return "the previous checkpoint is intact: make room or make the folder writable, then --resume"
        return "no earlier checkpoint exists; make room or choose another folder with --out"
    except OSError as error:
        return (
            "the folder cannot be read" if error.errno == errno.EACCES else "choose another folder with --out"
        )
