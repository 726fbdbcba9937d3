"""The programs in PyTorch's weight files, run on inert data: a stack machine of the few instructions they need.

The instructions are those of Python's serialisation protocol 2 that state dictionaries use. The functions that a
program names are never looked up: a few names stand for fixed actions; every other name or instruction is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinygan.errors import Refused

MAX_DIMENSIONS = 32
SAVE = "save its state_dict() with torch.save and use that"
# The names that a program may use, and what each becomes.
_STORAGES = {"torch FloatStorage": "<f4", "torch HalfStorage": "<f2", "torch DoubleStorage": "<f8",
             "torch LongStorage": "<i8"}
_TENSOR = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER, _DICT = "torch._utils _rebuild_parameter", "collections OrderedDict"
_NAMES = {*_STORAGES, *_TENSOR, _PARAMETER, _DICT}


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass(frozen=True)
class Storage:
    """The numbers of one or several tensors: dtype, key in the file, count."""

    dtype: str
    key: str
    numbers: int


@dataclass(frozen=True)
class Tensor:
    """A tensor: its place in a storage, and its shape; rows in order (C)."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]


class _Mark:
    """A mark on the stack: where a tuple, list or dictionary begins."""


class Machine:
    """A stack machine for one program: bytes -> a value of texts, numbers, tuples, lists, dictionaries and `Tensor`s.

    The instructions are the few of Python's serialisation protocol 2 that PyTorch's state dictionaries use.
    """

    def __init__(self, data: bytes, place: int = 0) -> None:
        self.data, self.place = data, place
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> tuple[Any, int, dict[str, Storage]]:
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
                               f"{SAVE}")
            action(self)

    def take(self, count: int) -> bytes:
        """Read the next `count` bytes of the program. Raises EOFError at its end."""
        part = self.data[self.place:self.place + count]
        if len(part) != count:
            raise EOFError("the program ends in its midst")
        self.place += count
        return part

    def number(self, form: str) -> int:
        """Read a number in the form of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """Read ASCII text up to the end of the line."""
        end = self.data.index(b"\n", self.place)
        return self.take(end + 1 - self.place)[:-1].decode("ascii")

    def push(self, value: Any) -> None:
        """Push a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Pop a value from the stack. Raises ValueError for a mark."""
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a mark where a value belongs")
        return value

    def since_mark(self) -> list[Any]:
        """Pop all values above the last mark, and the mark; return the values in their order."""
        values = []
        while not isinstance(value := self.stack.pop(), _Mark):
            values.append(value)
        return values[::-1]

    def last(self, kind: type) -> Any:
        """Return the top of the stack. Raises ValueError unless it is of this type."""
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"no {kind.__name__} to put something into")
        return self.stack[-1]

    # -- instructions that do more than push --

    def store(self, form: str) -> None:
        """Store the top of the stack in the memo, under the number that follows."""
        self.memo[self.number(form)] = self.stack[-1]

    def recall(self, form: str) -> None:
        """Push the value that the memo has under the number that follows."""
        self.push(self.memo[self.number(form)])

    def long(self) -> None:
        """Push a whole number of as many bytes as the next one gives."""
        self.push(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def text(self, form: str, coding: str) -> None:
        """Push a text whose length comes first."""
        self.push(self.take(self.number(form)).decode(coding))

    def name(self) -> None:
        """Push one of the names in _NAMES. Raises Refused for any other."""
        name = f"{self.line()} {self.line()}"
        if name not in _NAMES:
            shown = ascii(".".join(name.split())[:80])
            if name.startswith("torch ") and name.endswith("Storage"):
                raise Refused(f"it holds numbers of {shown}; {SAVE}, with tensors of float32 alone")
            whole = "it holds a whole net, not its weights alone: " if name.startswith("torch.nn.") else ""
            raise Refused(f"{whole}it names {shown}, which is never looked up; {SAVE}")
        self.push(_Name(name))

    def make_tuple(self, count: int) -> None:
        """Replace the top `count` values by a tuple of them."""
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def set_items(self, values: list[Any]) -> None:
        """Put keys and values, one after the other, into the dictionary on top."""
        target = self.last(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, int)):  # hashing nested tuples can take for ever
                raise ValueError("a key that is neither text nor number")
            target[key] = value

    def storage(self) -> None:
        """Replace the description of a storage on top by a `Storage`."""
        # ("storage", its type, key, device, how many numbers[, a part of another storage: only very old files])
        kind, name, key, _device, numbers, *rest = self.pop()
        if kind != "storage" or not isinstance(name, _Name) or name.text not in _STORAGES or any(
                part is not None for part in rest) or not isinstance(key, str) or not _is_count(numbers):
            raise Refused(f"it refers to numbers in an unknown way; {SAVE}")
        self.storages[key] = Storage(_STORAGES[name.text], key, numbers)
        self.push(self.storages[key])

    def call(self) -> None:
        """Replace a name and its arguments by what the name stands for. Raises ValueError for another call."""
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no name")
        if name.text == _DICT:
            self.push({})
            for pair in arguments[0] if arguments else ():  # Python 2 gives a list of pairs
                self.set_items(list(pair))
        elif name.text in _TENSOR:
            self.push(_tensor(*arguments[:4]))
        elif name.text == _PARAMETER and isinstance(arguments[0], Tensor):
            self.push(arguments[0])
        else:
            raise ValueError(f"a call of {name.text}")

    def set_state(self) -> None:
        """Drop the state on top, and keep the dictionary below."""
        self.pop()  # of a dictionary: notes on the version of each layer, not needed here
        self.last(dict)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise ValueError("a tensor without numbers, shape or strides")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS or not all(map(_is_count, (offset, *shape, *strides))):
        raise ValueError("a tensor's shape and strides are not whole numbers")
    if offset + math.prod(shape) > storage.numbers:
        raise Refused(f"a tensor of shape {'x'.join(map(str, shape))} does not fit its numbers; use another copy")
    step = 1
    for n, stride in zip(shape[::-1], strides[::-1], strict=True):
        if n > 1 and stride != step:
            raise Refused(f"a tensor's numbers are not in order; call .contiguous() on all, {SAVE}")
        step *= n
    return Tensor(storage, offset, shape)


def _skip_protocol(m: Machine) -> None:
    if m.number("<B") != 2:
        raise Refused(f"its program is not of protocol 2, which torch.save writes; {SAVE}")


def _append(m: Machine, values: list[Any]) -> None:
    m.last(list).extend(values)


_ACTIONS: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": _skip_protocol,
    b"N": lambda m: m.push(None), b"\x88": lambda m: m.push(True), b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")), b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")), b"\x8a": Machine.long, b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: m.text("<I", "utf-8"),
    b"U": lambda m: m.text("<B", "latin-1"), b"T": lambda m: m.text("<I", "latin-1"),  # Python 2's texts
    b"}": lambda m: m.push({}), b"]": lambda m: m.push([]), b")": lambda m: m.push(()),
    b"(": lambda m: m.push(_Mark()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.make_tuple(1), b"\x86": lambda m: m.make_tuple(2), b"\x87": lambda m: m.make_tuple(3),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]), b"u": lambda m: m.set_items(m.since_mark()),
    b"a": lambda m: _append(m, [m.pop()]), b"e": lambda m: _append(m, m.since_mark()),
    b"q": lambda m: m.store("<B"), b"r": lambda m: m.store("<I"),
    b"h": lambda m: m.recall("<B"), b"j": lambda m: m.recall("<I"),
    b"c": Machine.name, b"Q": Machine.storage, b"R": Machine.call, b"b": Machine.set_state,
}
