"""`ArrayLike`: what a class with an array in `.data` takes over from NumPy; and how arrays are read and described."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygan.errors import GraphError
from tinygan.kernels.arrays import is_cupy, to_numpy, xp_of


def host_array(data: Any, what: str) -> np.ndarray:
    """Copy a list or an array to the host as NumPy reads it. Raises GraphError (what: of what) for uneven lists."""
    try:
        return np.array(to_numpy(data))
    except ValueError as problem:
        raise GraphError(f"{what} cannot be made of this {type(data).__name__}: {problem}") from None


def real_array(data: Any) -> Any:
    """Convert data to a NumPy or CuPy array of floating-point numbers in the machine's byte order.

    An array that is one already is returned itself, not copied. Integers and bools become float64.
    Raises GraphError for anything else (complex numbers, text, lists of uneven length).
    """
    try:
        array = data if is_cupy(data) else np.asarray(data)
    except ValueError:
        array = host_array(data, "a Tensor")  # raises the error with its reason
    if array.dtype.kind not in "fiub":
        raise GraphError(f"a Tensor holds real numbers, not {array.dtype} (shape {array.shape})")
    if array.dtype.kind != "f":
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def describe(t: Any) -> str:
    """Describe a tensor for error messages: its name or the op that made it, its shape and its device."""
    if not isinstance(t, ArrayLike):
        return f"{type(t).__name__} {getattr(t, 'shape', '')}".strip()
    where = "NumPy" if t.xp is np else "CuPy"
    return f"{t.name or t._op or 'tensor'} {t.shape} ({where} {t.dtype})"


class ArrayLike:
    """The base of Tensor: NumPy's names for what depends on the values in `.data` alone and needs no gradient.

    NumPy's functions are refused: each would make an array that is cut off from the graph, or one of objects.
    """

    __slots__ = ()
    __array_priority__ = 1000  # so that `cupy_array * tensor` calls the tensor's __rmul__
    __array_ufunc__ = None  # the same for NumPy; and numpy.add(array, tensor) is an error, not an array of tensors
    __hash__ = object.__hash__  # == compares values; sets and dictionaries compare identities

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def xp(self) -> Any:
        """Return numpy or cupy, the module this tensor's array belongs to."""
        return xp_of(self.data)

    def numpy(self) -> np.ndarray:
        """Return the values as a NumPy array (not a copy when they are on the processor already)."""
        return to_numpy(self.data)

    def item(self) -> float:
        """Return the only number of a tensor that holds one."""
        return float(self.data.item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor of a single number (0-d) has no length")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return self.item()

    def __int__(self) -> int:
        return int(self.item())

    def __format__(self, form: str) -> str:
        if form and self.size != 1:
            raise TypeError(f"{form!r} formats one number, this tensor has shape {self.shape}: format its .item()s")
        return format(self.item(), form) if form else str(self)

    def __iter__(self) -> Iterator:
        if not self.ndim:
            raise TypeError("a tensor of a single number (0-d) cannot be iterated over: take its .item()")
        return (self[i] for i in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        equal = self == value
        return equal if isinstance(equal, bool) else bool(equal.any())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise TypeError("an array made of this tensor would be cut off from its graph: use .numpy(), "
                            "or use tinygan.ops")
        return np.array(self.data, dtype=dtype, copy=copy)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} takes no tensors: use the operation of tinygan.ops, or .numpy()")


def _compare(name: str) -> Any:
    compare = getattr(operator, name)

    def method(self: ArrayLike, other: Any) -> Any:
        if isinstance(other, ArrayLike):
            other = other.data
        elif not isinstance(other, (int, float)) and not is_cupy(other):
            try:
                other = real_array(other)
            except GraphError:  # None, text: equal to no tensor, and neither larger nor smaller
                return NotImplemented
            other = other if other.ndim else other.item()  # a number goes to any device
        if hasattr(other, "dtype") and is_cupy(other) != is_cupy(self.data):
            raise GraphError(f"a tensor of {self.xp.__name__} is compared with an array of another device; move one")
        return compare(self.data, other)

    method.__name__, method.__qualname__ = f"__{name}__", f"ArrayLike.__{name}__"
    method.__doc__ = "Compare values; an array of bools, to which no gradient flows."
    return method


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ArrayLike, f"__{_name}__", _compare(_name))
