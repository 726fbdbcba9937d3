"""PyTorch's weight files, read without PyTorch and without running anything that is in them.

`torch.save` writes a program for a stack machine. Python's own reader of such programs calls whatever functions they
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
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from tinygan.errors import Refused
from tinygan.files import reading

ZIP_SIGNATURE = b"PK\x03\x04"
MAX_PROGRAM = 1 << 24  # bytes; that of a VGG16 has 4 kB
MAX_DIMENSIONS = 32
OLD_MAGIC, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001  # how the older form begins
_SAVE = "save its state_dict() with torch.save and use that"
# The names that a program may use, and what each becomes.
_STORAGES = {"torch FloatStorage": "<f4", "torch HalfStorage": "<f2", "torch DoubleStorage": "<f8",
             "torch LongStorage": "<i8"}
_TENSOR = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER, _DICT = "torch._utils _rebuild_parameter", "collections OrderedDict"
_NAMES = {*_STORAGES, *_TENSOR, _PARAMETER, _DICT}
# What damaged bytes make of zipfile and of the machine.
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, EOFError, KeyError, IndexError,
           ValueError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    numbers: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]


class _Mark:
    """A mark on the stack: where a tuple, list or dictionary begins."""


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
                           f"model.weights.h5 and use that); {_SAVE}")
        folder = programs[0].removesuffix("data.pkl")
        if any(name.startswith(f"{folder}code/") for name in entries):
            raise Refused(f"it is a TorchScript file; {_SAVE}")
        for name, entry in entries.items():
            if entry.flag_bits & 1 or entry.compress_type != zipfile.ZIP_STORED:
                raise Refused(f"{name!r} in it is compressed or encrypted, which torch.save never does; {_SAVE}")
        if sum(entry.file_size for entry in entries.values()) > size:
            raise Refused("its entries overlap or declare more bytes than it has; use another copy")
        if entries[programs[0]].file_size > MAX_PROGRAM:
            raise Refused("it declares a program of absurd size; use another copy")
        order = f"{folder}byteorder"
        if order in entries and archive.read(order) != b"little":
            raise Refused(f"its numbers are big-endian; {_SAVE} on another computer")
        found, _, _ = _Machine(archive.read(programs[0])).run()

        def numbers(storage: _Storage) -> np.ndarray:
            entry = entries.get(f"{folder}data/{storage.key}")
            if entry is None:
                raise Refused(f"it lacks the numbers {storage.key!r}; use another copy")
            _check_size(storage, entry.file_size)
            with archive.open(entry) as raw:
                return _fill(raw, storage)  # its checksum is compared when its end is reached

        return _arrays(found, numbers)


def _read_old(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    data = file.read(MAX_PROGRAM)
    place, parts, known = 0, [], {}
    for _ in range(5):  # magic number, version, facts of the machine, the dictionary, the order of the storages
        value, place, storages = _Machine(data, place).run()
        parts.append(value)
        known |= storages
        if len(parts) == 1 and value != OLD_MAGIC:
            raise Refused(f"it is not a PyTorch file; {_SAVE}")
    _, version, machine, found, keys = parts
    if version != OLD_VERSION or not isinstance(machine, dict) or not isinstance(keys, list):
        raise Refused(f"its format is unknown; {_SAVE}")
    if machine.get("little_endian") is not True:
        raise Refused(f"its numbers are big-endian; {_SAVE} on another computer")
    wanted = {storage.key for storage in _storages(_state_dict(found))}
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
        if key in wanted:
            loaded[key] = _fill(file, storage)
        else:
            file.seek(length, os.SEEK_CUR)
    return _arrays(found, lambda storage: loaded[storage.key])


def _check_size(storage: _Storage, stored: int) -> None:
    declared = storage.numbers * np.dtype(storage.dtype).itemsize
    if declared != stored:
        raise Refused(f"the numbers {storage.key!r} declare {declared:,} bytes but {stored:,} are stored; "
                       "use another copy")


def _fill(raw: Any, storage: _Storage) -> np.ndarray:
    """Read the numbers of a storage into a new array."""
    array = np.empty(storage.numbers, storage.dtype)
    view, done = array.view(np.uint8), 0
    while done < len(view):
        count = raw.readinto(view[done:done + (1 << 24)])
        if not count:
            raise EOFError("the file ends in the midst of a tensor")
        done += count
    return array if sys.byteorder == "little" else array.astype(array.dtype.newbyteorder("="))


def _state_dict(found: Any) -> dict[str, _Tensor]:
    """Return the dictionary of tensors in what a program made: itself, or the only one among its entries. Raises
    Refused where there is none or are several."""
    if not isinstance(found, dict):
        raise Refused(f"it holds no dictionary of tensors; {_SAVE}")
    inner = [name for name, value in found.items() if isinstance(value, dict) and value and _first_fault(value) is None]
    fault = _first_fault(found)
    if fault is None:
        return found
    if len(inner) == 1 or "state_dict" in inner:
        return found["state_dict" if "state_dict" in inner else inner[0]]
    if inner:
        raise Refused(f"it holds several dictionaries of tensors, {', '.join(ascii(i)[:40] for i in inner[:5])}; "
                       f"save one with torch.save and use that")
    hint = " (is the state_dict inside it?)" if isinstance(found[fault], dict) else ""
    raise Refused(f"its entry {str(fault)[:60]!r} is not a tensor{hint}; {_SAVE}")


def _first_fault(found: dict) -> Any:
    """Return the first name whose value is no tensor; None in a state_dict."""
    return next((name for name, value in found.items() if not isinstance(name, str) or not isinstance(value, _Tensor)),
                None)


def _storages(state: dict[str, _Tensor]) -> list[_Storage]:
    return [tensor.storage for tensor in state.values()]


def _arrays(found: Any, numbers: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    loaded: dict[_Storage, np.ndarray] = {}
    state = _state_dict(found)
    for storage in _storages(state):
        if storage not in loaded:
            loaded[storage] = numbers(storage)
    return {name: loaded[t.storage][t.offset:t.offset + math.prod(t.shape)].reshape(t.shape)
            for name, t in state.items()}


# ---- the machine ---------------------------------------------------------------------------------------------------


class _Machine:
    """A stack machine for one program: bytes -> a value of texts, numbers, tuples, lists, dictionaries and `_Tensor`s.

    The instructions are the few of Python's serialisation protocol 2 that PyTorch's state dictionaries use.
    """

    def __init__(self, data: bytes, place: int = 0) -> None:
        self.data, self.place = data, place
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self) -> tuple[Any, int, dict[str, _Storage]]:
        """Run the program; return its value, the place after it, and the storages that it names, by key. Raises
        Refused, or one of _DAMAGE for bytes without sense."""
        while True:
            code = self.take(1)
            if code == b".":
                (value,) = self.stack
                return value, self.place, self.storages
            action = _ACTIONS.get(code)
            if action is None:
                raise Refused(f"its program has the instruction {code!r}, which no dictionary of tensors needs; "
                               f"{_SAVE}")
            action(self)

    def take(self, count: int) -> bytes:
        part = self.data[self.place:self.place + count]
        if len(part) != count:
            raise EOFError("the program ends in its midst")
        self.place += count
        return part

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.place)
        return self.take(end + 1 - self.place)[:-1].decode("ascii")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a mark where a value belongs")
        return value

    def since_mark(self) -> list[Any]:
        values = []
        while not isinstance(value := self.stack.pop(), _Mark):
            values.append(value)
        return values[::-1]

    def last(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"no {kind.__name__} to put something into")
        return self.stack[-1]

    # -- instructions that do more than push --

    def remember(self, form: str) -> None:
        self.memo[self.number(form)] = self.stack[-1]

    def recall(self, form: str) -> None:
        self.push(self.memo[self.number(form)])

    def long(self) -> None:
        self.push(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def text(self, form: str, coding: str) -> None:
        self.push(self.take(self.number(form)).decode(coding))

    def name(self) -> None:
        name = f"{self.line()} {self.line()}"
        if name not in _NAMES:
            shown = ascii(".".join(name.split())[:80])
            if name.startswith("torch ") and name.endswith("Storage"):
                raise Refused(f"it holds numbers of {shown}; {_SAVE}, with tensors of float32 alone")
            whole = "it holds a whole net, not its weights alone: " if name.startswith("torch.nn.") else ""
            raise Refused(f"{whole}it names {shown}, which is never looked up; {_SAVE}")
        self.push(_Name(name))

    def make_tuple(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def set_items(self, values: list[Any]) -> None:
        target = self.last(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, int)):  # hashing nested tuples can take for ever
                raise ValueError("a key that is neither text nor number")
            target[key] = value

    def storage(self) -> None:
        # ("storage", its type, key, device, how many numbers[, a part of another storage: only very old files])
        kind, name, key, _device, numbers, *rest = self.pop()
        if kind != "storage" or not isinstance(name, _Name) or name.text not in _STORAGES or any(
                part is not None for part in rest) or not isinstance(key, str) or not _is_count(numbers):
            raise Refused(f"it refers to numbers in an unknown way; {_SAVE}")
        self.storages[key] = _Storage(_STORAGES[name.text], key, numbers)
        self.push(self.storages[key])

    def call(self) -> None:
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no name")
        if name.text == _DICT:
            self.push({})
            for pair in arguments[0] if arguments else ():  # Python 2 gives a list of pairs
                self.set_items(list(pair))
        elif name.text in _TENSOR:
            self.push(_tensor(*arguments[:4]))
        elif name.text == _PARAMETER and isinstance(arguments[0], _Tensor):
            self.push(arguments[0])
        else:
            raise ValueError(f"a call of {name.text}")

    def set_state(self) -> None:
        self.pop()  # of a dictionary: notes on the version of each layer, which nobody needs
        self.last(dict)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    if not (isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise ValueError("a tensor without numbers, shape or strides")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS or not all(map(_is_count, (offset, *shape, *strides))):
        raise ValueError("a tensor's shape and strides are not whole numbers")
    if offset + math.prod(shape) > storage.numbers:
        raise Refused(f"a tensor of shape {'x'.join(map(str, shape))} does not fit its numbers; use another copy")
    step = 1
    for n, stride in zip(shape[::-1], strides[::-1], strict=True):
        if n > 1 and stride != step:
            raise Refused(f"a tensor's numbers are not in order; call .contiguous() on all, {_SAVE}")
        step *= n
    return _Tensor(storage, offset, shape)


def _skip_protocol(m: _Machine) -> None:
    if m.number("<B") != 2:
        raise Refused(f"its program is not of protocol 2, which torch.save writes; {_SAVE}")


def _append(m: _Machine, values: list[Any]) -> None:
    m.last(list).extend(values)


_ACTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _skip_protocol,
    b"N": lambda m: m.push(None), b"\x88": lambda m: m.push(True), b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")), b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")), b"\x8a": _Machine.long, b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: m.text("<I", "utf-8"),
    b"U": lambda m: m.text("<B", "latin-1"), b"T": lambda m: m.text("<I", "latin-1"),  # Python 2's texts
    b"}": lambda m: m.push({}), b"]": lambda m: m.push([]), b")": lambda m: m.push(()),
    b"(": lambda m: m.push(_Mark()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.make_tuple(1), b"\x86": lambda m: m.make_tuple(2), b"\x87": lambda m: m.make_tuple(3),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]), b"u": lambda m: m.set_items(m.since_mark()),
    b"a": lambda m: _append(m, [m.pop()]), b"e": lambda m: _append(m, m.since_mark()),
    b"q": lambda m: m.remember("<B"), b"r": lambda m: m.remember("<I"),
    b"h": lambda m: m.recall("<B"), b"j": lambda m: m.recall("<I"),
    b"c": _Machine.name, b"Q": _Machine.storage, b"R": _Machine.call, b"b": _Machine.set_state,
}
