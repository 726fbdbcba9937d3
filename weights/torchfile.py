"""PyTorch's weight files, read without PyTorch and without running anything that is in them.

`torch.save` writes a program for a stack machine. Python's reader of such programs calls whatever functions they
name, so a weight file can do anything to the computer that opens it. The machine here has only the instructions that a
dictionary of tensors needs. The functions named by the program are never looked up: a few names stand for fixed
actions on inert data; every other name and every other instruction is refused.

Two containers exist, and both are read: a zip archive (PyTorch 1.6 and later) with the program in one entry and each
tensor's numbers in another, uncompressed; and the older form, programs and numbers one after the other in one file, as
torchvision's nets of before 2020 have it.
"""

from __future__ import annotations

import math
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from tinygan.data.files import reading
from tinygan.errors import Refused
from weights.torchprogram import SAVE, Machine, Storage, Tensor

ZIP_SIGNATURE = b"PK\x03\x04"
MAX_PROGRAM = 1 << 24  # bytes; that of a VGG16 has 4 kB
OLD_MAGIC, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001  # how the older form begins
# What damaged bytes make of zipfile and of the machine.
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, EOFError, KeyError, IndexError,
           ValueError, TypeError, OverflowError, MemoryError)


def is_torch_file(start: bytes) -> bool:
    """Tell whether a file that begins with these bytes (8 or more) may be one of PyTorch's."""
    return start.startswith((ZIP_SIGNATURE, b"\x80\x02"))


def read_state_dict(path: str | os.PathLike, *, max_bytes: int) -> dict[str, np.ndarray]:
    """Read a file made by `torch.save(net.state_dict(), path)`: name -> array, float16 to float64 or int64.

    A state_dict inside a dictionary, beside numbers, texts and an optimiser's state, is read, too: that of training
    checkpoints. Tensors that share their numbers in the file share them here. Raises TinyganError, one line that names
    the file, for any other file: too large, damaged, compressed, or with anything in it but dictionaries, lists,
    numbers, texts and tensors.
    """
    with reading(path, max_bytes, hint="name a weight file", damage=_DAMAGE) as file:
        start = file.read(8)
        if not is_torch_file(start):
            raise Refused("it is not a PyTorch file; use another copy")
        file.seek(0)
        read = _read_zip if start.startswith(ZIP_SIGNATURE) else _read_old
        return read(file, os.fstat(file.fileno()).st_size)


# ---- the two containers --------------------------------------------------------------------------------------------


def _read_zip(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        programs = [name for name in entries if name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise Refused(f"it is a zip archive without one PyTorch program in it (of a .keras archive, unzip "
                           f"model.weights.h5 and use that); {SAVE}")
        folder = programs[0].removesuffix("data.pkl")
        if any(name.startswith(f"{folder}code/") for name in entries):
            raise Refused(f"it is a TorchScript file; {SAVE}")
        for name, entry in entries.items():
            if entry.flag_bits & 1 or entry.compress_type != zipfile.ZIP_STORED:
                raise Refused(f"{name!r} in it is compressed or encrypted, which torch.save never does; {SAVE}")
        if sum(entry.file_size for entry in entries.values()) > size:
            raise Refused("its entries overlap or declare more bytes than it has; use another copy")
        if entries[programs[0]].file_size > MAX_PROGRAM:
            raise Refused("it declares a program of absurd size; use another copy")
        order = f"{folder}byteorder"
        if order in entries and archive.read(order) != b"little":
            raise Refused(f"its numbers are big-endian; {SAVE} on another computer")
        value, _, _ = Machine(archive.read(programs[0])).run()

        def numbers(storage: Storage) -> np.ndarray:
            entry = entries.get(f"{folder}data/{storage.key}")
            if entry is None:
                raise Refused(f"it lacks the numbers {storage.key!r}; use another copy")
            _check_size(storage, entry.file_size)
            with archive.open(entry) as raw:
                return _fill(raw, storage)  # its checksum is compared when its end is reached

        return _arrays(value, numbers)


def _read_old(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    data = file.read(MAX_PROGRAM)
    place, parts, known = 0, [], {}
    for _ in range(5):  # magic number, version, facts of the machine, the dictionary, the order of the storages
        value, place, storages = Machine(data, place).run()
        parts.append(value)
        known |= storages
        if len(parts) == 1 and value != OLD_MAGIC:
            raise Refused(f"it is not a PyTorch file; {SAVE}")
    _, version, machine, value, keys = parts
    if version != OLD_VERSION or not isinstance(machine, dict) or not isinstance(keys, list):
        raise Refused(f"its format is unknown; {SAVE}")
    if machine.get("little_endian") is not True:
        raise Refused(f"its numbers are big-endian; {SAVE} on another computer")
    used = {storage.key for storage in _storages(_state_dict(value))}
    loaded: dict[str, np.ndarray] = {}
    file.seek(place)
    for key in keys:
        storage = known.get(key)
        if storage is None:
            raise Refused(f"the numbers {key!r} in it belong to no tensor; use another copy")
        header = file.read(8)
        if struct.unpack("<q", header)[0] != storage.numbers:
            raise Refused(f"the numbers {key!r} in it are not as many as declared; use another copy")
        length = storage.numbers * np.dtype(storage.dtype).itemsize
        _check_size(storage, min(size - file.tell(), length))
        if key in used:
            loaded[key] = _fill(file, storage)
        else:
            file.seek(length, os.SEEK_CUR)
    return _arrays(value, lambda storage: loaded[storage.key])


def _check_size(storage: Storage, stored: int) -> None:
    declared = storage.numbers * np.dtype(storage.dtype).itemsize
    if declared != stored:
        raise Refused(f"the numbers {storage.key!r} declare {declared:,} bytes but {stored:,} are stored; "
                       "use another copy")


def _fill(raw: Any, storage: Storage) -> np.ndarray:
    """Read the numbers of a storage into a new array."""
    array = np.empty(storage.numbers, storage.dtype)
    view, done = array.view(np.uint8), 0
    while done < len(view):
        count = raw.readinto(view[done:done + (1 << 24)])
        if not count:
            raise EOFError("the file ends in the midst of a tensor")
        done += count
    return array if sys.byteorder == "little" else array.astype(array.dtype.newbyteorder("="))


def _state_dict(value: Any) -> dict[str, Tensor]:
    """Return the dictionary of tensors in what a program made: itself, or the only one among its entries. Raises
    Refused where there is none or are several."""
    if not isinstance(value, dict):
        raise Refused(f"it holds no dictionary of tensors; {SAVE}")
    inner = [name for name, part in value.items() if isinstance(part, dict) and part and _first_fault(part) is None]
    fault = _first_fault(value)
    if fault is None:
        return value
    if len(inner) == 1 or "state_dict" in inner:
        return value["state_dict" if "state_dict" in inner else inner[0]]
    if inner:
        raise Refused(f"it holds several dictionaries of tensors, {', '.join(ascii(i)[:40] for i in inner[:5])}; "
                       f"save one with torch.save and use that")
    hint = " (is the state_dict inside it?)" if isinstance(value[fault], dict) else ""
    raise Refused(f"its entry {str(fault)[:60]!r} is not a tensor{hint}; {SAVE}")


def _first_fault(value: dict) -> Any:
    """Return the first name whose value is no tensor; None in a state_dict."""
    return next((name for name, part in value.items() if not isinstance(name, str) or not isinstance(part, Tensor)),
                None)


def _storages(state: dict[str, Tensor]) -> list[Storage]:
    return [tensor.storage for tensor in state.values()]


def _arrays(value: Any, numbers: Callable[[Storage], np.ndarray]) -> dict[str, np.ndarray]:
    loaded: dict[Storage, np.ndarray] = {}
    state = _state_dict(value)
    for storage in _storages(state):
        if storage not in loaded:
            loaded[storage] = numbers(storage)
    return {name: loaded[t.storage][t.offset:t.offset + math.prod(t.shape)].reshape(t.shape)
            for name, t in state.items()}
