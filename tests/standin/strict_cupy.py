"""A stand-in for the module cupy, backed by NumPy and as unforgiving as the real one.

`install()` puts it where `import cupy` finds it. Its arrays refuse to become NumPy arrays by accident, host arrays are
refused as operands, every result (0-d ones too) is a device array with the memory order that CuPy gives it, and names
that CuPy lacks are missing. Kernels given to RawModule run through tinygan.kernels.gpu.emulator, cuBLAS through
host_blas.

`count` tells what a GPU would be asked to do: "launches" (each operation that writes memory, one each: a lower bound,
since CuPy needs several for some), "syncs" (each time the host must wait for a result), "uploads" and "bytes_up".
Memory that nobody wrote holds NaN. Set `memory_limit` (bytes on the device) to see what running out of memory does:
the pool rounds, keeps, splits and joins its chunks as CuPy's does, though the bytes themselves lie elsewhere.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import json
import sys
import time
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from tinygan.kernels.gpu import launch
from tinygan.kernels.gpu.emulator import HostModule

from . import host_blas

NAMES = json.loads(Path(__file__).with_name("cupy_names.json").read_text("utf-8"))
KNOWN = {table: frozenset(names) for table, names in NAMES.items() if table != "version"}

count = {"launches": 0, "syncs": 0, "uploads": 0, "bytes_up": 0}
memory_limit: int | None = None

_TOTAL_MEMORY = 8 * 2**30  # what the device claims to have
_UNIT = 512  # CuPy's pool gives memory out in pieces of this
_live: dict[int, int] = {}  # pointer -> bytes of every allocation, not rounded: what lies behind them is nobody's


def reset_count() -> None:
    """Start counting anew."""
    for key in count:
        count[key] = 0


def live_bytes() -> int:
    """Bytes of device memory that arrays hold now, each allocation rounded up as CuPy's pool does."""
    return _POOL.used_bytes()


def leave_room(size: int) -> None:
    """Let the device have room for `size` bytes more, and take what the pool kept for later, until uninstall()."""
    global memory_limit
    gc.collect()
    _POOL.free_all_blocks()
    _taken.extend(_fresh(free, np.uint8) for free in sorted(chunk.size for chunk in _POOL._free))
    memory_limit = _POOL.total_bytes() + size


_taken: list[ndarray] = []


class OutOfMemoryError(MemoryError):
    """As CuPy's: the device has no room for an allocation."""

    __module__ = "cupy.cuda.memory"


# ---- memory ------------------------------------------------------------------------------------------------------


class Chunk:
    """A piece of the pool's memory, in use or free; `before` and `behind` lie beside it in what the device gave."""

    def __init__(self, size: int, before: Chunk | None = None, behind: Chunk | None = None) -> None:
        self.size, self.before, self.behind = size, before, behind

    def split(self, size: int) -> Chunk | None:
        """Keep `size` bytes; the chunk of what is left, if anything is."""
        if size == self.size:
            return None
        rest = Chunk(self.size - size, self, self.behind)
        if rest.behind:
            rest.behind.before = rest
        self.size, self.behind = size, rest
        return rest

    def take_in(self, behind: Chunk) -> None:
        """The opposite: one chunk of the two."""
        self.size, self.behind = self.size + behind.size, behind.behind
        if self.behind:
            self.behind.before = self


def _without_collecting(method: Any) -> Any:
    """Arrays that the garbage collector finds give their memory back: not in the midst of the pool's work."""
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return method(*args, **kwargs)
        finally:
            if collecting:
                gc.enable()

    return call


class Pool:
    """The memory pool. What arrays gave back stays in it until free_all_blocks, and after that, too, where the other
    part of what was one allocation is in use."""

    def __init__(self) -> None:
        self._used = self._total = self._limit = 0
        self._free: list[Chunk] = []

    @_without_collecting
    def take(self, size: int) -> Chunk:
        """A chunk of at least `size` bytes: the smallest free one, or new memory."""
        size = -(-size // _UNIT) * _UNIT
        if not size:
            return Chunk(0)
        if fitting := [chunk for chunk in self._free if chunk.size >= size]:
            chunk = min(fitting, key=lambda chunk: chunk.size)
            self._free.remove(chunk)
            if rest := chunk.split(size):
                self._free.append(rest)
        else:
            self._ask_device(size)
            chunk = Chunk(size)
        self._used += size
        return chunk

    def _ask_device(self, size: int) -> None:
        full = bool(self._limit) and self._total + size > self._limit
        if not full and memory_limit is not None and self._total + size > memory_limit:
            for let_go in (lambda: None, gc.collect):  # as CuPy does, before it gives up
                let_go()
                self.free_all_blocks()
            full = self._total + size > memory_limit
        if full:
            limit = f", limit set to: {self._limit:,} bytes" if self._limit else ""
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {self._total:,} "
                                   f"bytes{limit}).")
        self._total += size

    @_without_collecting
    def give_back(self, chunk: Chunk) -> None:
        """Keep a chunk for later, joined with its free neighbours."""
        self._used -= chunk.size
        if not chunk.size:
            return
        if chunk.behind in self._free:
            self._free.remove(chunk.behind)
            chunk.take_in(chunk.behind)
        if chunk.before in self._free:
            self._free.remove(chunk.before)
            chunk.before.take_in(chunk)
            chunk = chunk.before
        self._free.append(chunk)

    def used_bytes(self) -> int:
        """Bytes that arrays hold."""
        return self._used

    def total_bytes(self) -> int:
        """Bytes taken from the device: those in use and those kept for later."""
        return self._total

    def free_bytes(self) -> int:
        """Bytes kept for later."""
        return self._total - self._used

    def n_free_blocks(self) -> int:
        """How many chunks are kept for later."""
        return len(self._free)

    @_without_collecting
    def free_all_blocks(self, stream: Any = None) -> None:
        """Give back what no array holds a part of."""
        whole = [chunk for chunk in self._free if not (chunk.before or chunk.behind)]
        self._free = [chunk for chunk in self._free if chunk.before or chunk.behind]
        self._total -= sum(chunk.size for chunk in whole)

    def get_limit(self) -> int:
        """Bytes that may be taken; 0: no limit."""
        return self._limit

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Set how many bytes may be taken; 0: no limit. Beyond it nothing kept is given back first, as on a GPU."""
        self._limit = int(_TOTAL_MEMORY * fraction) if size is None and fraction else size or 0


_POOL = Pool()


def _release(pointer: int, chunk: Chunk) -> None:
    _POOL.give_back(chunk)
    _live.pop(pointer, None)


class Memory:
    """One allocation. All arrays that share it hold the same object. Its size is a multiple of 512, as the pool's."""

    def __init__(self, buffer: np.ndarray) -> None:
        chunk = _POOL.take(buffer.nbytes)
        self._buffer, self.size, self.device_id = buffer, chunk.size, 0
        self.ptr = buffer.__array_interface__["data"][0] if buffer.nbytes else 0
        if buffer.nbytes:
            _live[self.ptr] = buffer.nbytes
        weakref.finalize(self, _release, self.ptr, chunk)

    def holds(self, pointer: int) -> bool:
        """Whether an address lies in this allocation."""
        return self.ptr <= pointer < self.ptr + self._buffer.nbytes


class MemoryPointer:
    """An address in an allocation, as CuPy's `array.data`."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset if mem.size else 0, 0

    def __add__(self, bytes_: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + bytes_)

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        """Set bytes."""
        _bytes_at(self.ptr, size)[:] = value
        count["launches"] += 1

    def memset(self, value: int, size: int) -> None:
        """Set bytes."""
        self.memset_async(value, size)

    def copy_from_device_async(self, src: MemoryPointer, size: int, stream: Any = None) -> None:
        """Copy bytes from another place on the device."""
        _bytes_at(self.ptr, size)[:] = _bytes_at(src.ptr, size)
        count["launches"] += 1

    def copy_from_device(self, src: MemoryPointer, size: int) -> None:
        """Copy bytes from another place on the device."""
        self.copy_from_device_async(src, size)


def _on_device(pointer: int, size: int) -> bool:
    """Whether the bytes from `pointer` on all belong to one live allocation."""
    return any(start <= pointer and pointer + size <= start + length for start, length in _live.items())


def _bytes_at(pointer: int, size: int) -> np.ndarray:
    if size and not _on_device(pointer, size):
        raise RuntimeError("cudaErrorInvalidValue: invalid argument")
    return np.frombuffer((ctypes.c_ubyte * size).from_address(pointer), np.uint8) if size else np.empty(0, np.uint8)


def _fresh(shape: Any, dtype: Any, order: str = "C", like: np.ndarray | None = None) -> ndarray:
    """A new array whose bytes are all 0xff (NaN for a float); with `like`, its strides."""
    dtype = np.dtype(dtype)
    shape = (int(shape),) if np.ndim(shape) == 0 else tuple(map(int, shape))
    buffer = np.full(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, 0xFF, np.uint8)
    if like is None:
        array = np.ndarray(shape, dtype, buffer, order="F" if order == "F" else "C")
    else:
        array = np.ndarray(shape, dtype, buffer, strides=like.strides)
    return _make(array, Memory(buffer))


def _make(array: np.ndarray, mem: Memory) -> ndarray:
    new = object.__new__(ndarray)
    new._a, new._mem, new._base = array, mem, None
    return new


def _adopt(array: np.ndarray, any_order: bool = False) -> ndarray:
    """A device array of freshly computed values: CuPy's operations write theirs in C order, whatever they read."""
    if any_order and array.base is None and (array.flags.forc or not array.size):
        return _make(array, Memory(array))
    if any_order:  # dense, but axes in an order of its own
        new = _fresh(array.shape, array.dtype, like=np.empty_like(array))
        new._a[...] = array
        return new
    array = np.ascontiguousarray(array).reshape(array.shape)
    return _make(array, Memory(array))


# ---- operands and results ----------------------------------------------------------------------------------------

_PLAIN = (int, float, complex, bool, np.generic, type(None), str, type, np.dtype, slice, type(Ellipsis))


def _unwrap(value: Any, seen: list[ndarray]) -> Any:
    """The NumPy value behind an operand; device arrays are noted in `seen`. TypeError for what CuPy refuses."""
    if isinstance(value, ndarray):
        seen.append(value)
        return value._a
    if isinstance(value, (tuple, list)):
        return type(value)(_unwrap(item, seen) for item in value)
    if isinstance(value, dict):
        return {key: _unwrap(item, seen) for key, item in value.items()}
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(f"Unsupported type {type(value)}")  # np.ndarray above all


def _result(value: Any, seen: list[ndarray], any_order: bool = False) -> Any:
    """Device arrays for the arrays and numbers in a result: views of an operand's memory stay views."""
    if isinstance(value, (tuple, list)):
        return type(value)(_result(item, seen, any_order) for item in value)
    if not isinstance(value, (np.ndarray, np.generic, bool, int, float, complex)):
        return value
    value = np.asarray(value)
    pointer = value.__array_interface__["data"][0]
    for owner in seen:
        if value is owner._a:
            return owner
        if owner._mem.holds(pointer) or value.base is not None and owner._a.size == 0 == value.size:
            return _view(owner, value)
    count["launches"] += 1
    return _adopt(value, any_order)


def _view(owner: ndarray, array: np.ndarray) -> ndarray:
    new = _make(array, owner._mem)
    new._base = owner if owner._base is None else owner._base
    return new


def _call(function: Any, args: tuple, kwargs: dict, any_order: bool = False) -> Any:
    """Run a NumPy function on device arrays. One launch for each array it writes."""
    out = kwargs.get("out")
    if out is None and isinstance(function, np.ufunc) and len(args) > function.nin:
        out = args[function.nin]
    seen: list[ndarray] = []
    value = function(*_unwrap(args, seen), **_unwrap(kwargs, seen))
    if isinstance(out, tuple):
        out = out[0] if len(out) == 1 else out
    if out is not None:
        count["launches"] += 1
        return out
    return _result(value, seen, any_order)


class _Function:
    """A function of NumPy's as the stand-in offers it; ufuncs keep `at`, `reduce`, `outer` and `accumulate`."""

    def __init__(self, function: Any, any_order: bool = False, waits: bool = False) -> None:
        self._function, self._any_order, self._waits = function, any_order, waits
        self.__name__, self.__doc__ = function.__name__, function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        count["syncs"] += self._waits
        return _call(self._function, args, kwargs, self._any_order)

    def __getattr__(self, name: str) -> Any:
        if isinstance(self._function, np.ufunc) and name in ("reduce", "outer", "accumulate"):
            return _Function(getattr(self._function, name))
        if isinstance(self._function, np.ufunc) and name in ("nin", "nout", "nargs", "types"):
            return getattr(self._function, name)
        if name == "at" and self.__name__ in ("add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or",
                                              "bitwise_xor"):
            return self._at
        raise AttributeError(name)

    def _at(self, array: ndarray, index: Any, value: Any) -> None:
        seen: list[ndarray] = []
        count["launches"] += 1
        index = _index(index, seen)
        _wait_for_masks(seen)
        self._function.at(array._a, index, _unwrap(value, seen))


def _index(index: Any, seen: list[ndarray]) -> Any:
    """What NumPy is indexed with. Lists and host arrays are uploaded first, as CuPy does; masks make the host wait."""
    if isinstance(index, tuple):
        return tuple(_index(item, seen) for item in index)
    if isinstance(index, (list, np.ndarray)) or isinstance(index, (bool, np.bool_)):
        host = np.asarray(index)
        host = host.astype(np.int32) if host.size == 0 and isinstance(index, list) else host
        if host.dtype.kind not in "biu":
            raise IndexError(f"arrays used as indices must be of integer or boolean type (actual: {host.dtype.type})")
        index = array(host)
    if isinstance(index, ndarray):
        if index.dtype.kind not in "biu":
            raise IndexError(f"arrays used as indices must be of integer or boolean type (actual: {index.dtype.type})")
        seen.append(index)
        return index._a
    return index


def _wait_for_masks(arrays: list[ndarray]) -> None:
    """Count the wait for how many places a mask among the index arrays names."""
    count["syncs"] += any(array.dtype == bool for array in arrays)


class Flags:
    """Of an array: its memory order and whether the memory is its own."""

    def __init__(self, array: np.ndarray, owndata: bool) -> None:
        self.c_contiguous, self.f_contiguous = array.flags.c_contiguous, array.flags.f_contiguous
        self.owndata = owndata

    @property
    def forc(self) -> bool:
        """Dense in either order."""
        return self.c_contiguous or self.f_contiguous

    @property
    def fnc(self) -> bool:
        """Dense in Fortran's order and not in C's."""
        return self.f_contiguous and not self.c_contiguous

    def __getitem__(self, name: str) -> bool:
        return getattr(self, {"C": "c_contiguous", "F": "f_contiguous", "O": "owndata"}.get(name, name.lower()))


# ---- the array ---------------------------------------------------------------------------------------------------


class ndarray:
    """A device array. `ndarray(shape, dtype, memptr, strides, order)` makes one, as CuPy's does."""

    __module__ = "cupy"
    __slots__ = ("_a", "_mem", "_base", "__weakref__")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape: Any, dtype: Any = float, memptr: MemoryPointer | None = None, strides: Any = None,
                 order: str = "C") -> None:
        if memptr is None:
            made = _fresh(shape, dtype, order)
            self._a, self._mem, self._base = made._a, made._mem, None
            return
        shape = (int(shape),) if np.ndim(shape) == 0 else tuple(map(int, shape))
        mem = memptr.mem
        whole = _bytes_at(mem.ptr, mem._buffer.nbytes)
        self._a = np.ndarray(shape, dtype, whole, memptr.ptr - mem.ptr if mem.size else 0, strides, order)
        self._mem, self._base = mem, None

    # What CuPy refuses.

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. "
                        "Please use `.get()` to construct a NumPy array explicitly.")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{func.__name__} called on a device array")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        scalar_first = method == "__call__" and isinstance(inputs[0], np.generic)  # np.float32(2) * x
        if not scalar_first:
            raise TypeError(f"numpy.{ufunc.__name__} called on a device array (or a host array beside one)")
        return _call(ufunc, inputs, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name not in KNOWN["ndarray"]:
            raise AttributeError(f"'ndarray' object has no attribute {name!r}")
        if name in ("flat", "dump", "dumps", "tofile"):
            raise AttributeError(f"cupy.ndarray.{name} exists, but this stand-in does not offer it")
        value = getattr(self._a, name)
        if not callable(value):
            return _result(value, [self])

        def method(*args: Any, **kwargs: Any) -> Any:
            seen = [self]
            out = kwargs.get("out")
            result = value(*_unwrap(args, seen), **_unwrap(kwargs, seen))
            if result is None or out is not None:  # in place: sort, fill, partition
                count["launches"] += 1
                return out
            if name == "nonzero":
                return nonzero(self)
            return _result(result, seen)

        return method

    # What it is.

    @property
    def dtype(self) -> np.dtype:
        return self._a.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._a.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        if not np.shares_memory(new := self._a.reshape(shape), self._a) and new.size:
            raise AttributeError("Incompatible shape for in-place modification. Use `.reshape()` to make a copy.")
        self._a = new

    strides = property(lambda self: self._a.strides)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    base = property(lambda self: self._base)
    device = property(lambda self: Device(0))
    flags = property(lambda self: Flags(self._a, self._base is None))
    __cuda_array_interface__ = property(lambda self: {**self._a.__array_interface__, "stream": 1})

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self._mem, self._a.__array_interface__["data"][0] - self._mem.ptr)

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Any:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # To and from the host.

    def get(self, stream: Any = None, order: str = "C", out: np.ndarray | None = None,
            blocking: bool = True) -> np.ndarray:
        count["syncs"] += 1
        if out is None:
            return self._a.copy(order=order)
        out[...] = self._a
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not self.flags.forc:
            raise RuntimeError("Cannot set to non-contiguous array")
        _count_upload(arr.nbytes)
        self._a[...] = arr

    def item(self, *args: Any) -> Any:
        return self.get().item(*args)

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes(order)

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __reduce__(self) -> Any:
        return array, (self.get(),)

    # Copies.

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None,
               copy: bool = True) -> ndarray:
        if casting is not None or subok is not None:
            raise TypeError("casting and subok are not supported yet")
        value = self._a.astype(dtype, order=order or "K", copy=bool(copy))
        return _result(value, [self], any_order=True)

    def copy(self, order: str = "C") -> ndarray:
        return self.astype(self.dtype, order=order)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: dict) -> ndarray:
        return self.copy()

    def flatten(self, order: str = "C") -> ndarray:
        return _result(self._a.flatten(order), [self])

    def view(self, dtype: Any = None, *args: Any, **kwargs: Any) -> ndarray:
        return _view(self, self._a.view() if dtype is None else self._a.view(dtype))

    def fill(self, value: Any) -> None:
        if np.shape(getattr(value, "_a", value)) != ():
            kind = "cupy" if isinstance(value, ndarray) else "numpy"
            raise ValueError(f"non-scalar {kind}.ndarray cannot be used for fill")
        count["launches"] += 1
        if not isinstance(value, ndarray) and value == 0 and self.flags.c_contiguous:
            value = 0  # a memset, which knows no -0.0
        self._a.fill(getattr(value, "_a", value))

    # Parts.

    def __getitem__(self, index: Any) -> ndarray:
        seen: list[ndarray] = [self]
        index = _index(index, seen)
        picks = seen[1:]
        count["syncs"] += any(pick.dtype == bool for pick in picks)  # how many are picked decides the shape
        return _result(self._a[index], []) if picks else _view(self, _basic_view(self._a, index))

    def __setitem__(self, index: Any, value: Any) -> None:
        seen: list[ndarray] = []
        index = _index(index, seen)
        _wait_for_masks(seen)
        if isinstance(value, ndarray):
            if not seen and _same_place(_basic_view(self._a, index), value._a):
                return  # x[i] += y has done its work already
            value = value._a
        elif np.ndim(value):
            if not seen:
                raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
            _count_upload(np.asarray(value, self.dtype).nbytes)
        elif not seen:
            self[index].fill(value)
            return
        count["launches"] += 1
        self._a[index] = value


def _basic_view(array: np.ndarray, index: Any) -> np.ndarray:
    """What slices and integers pick; a single element is a 0-d view, as in CuPy, where NumPy gives a number."""
    parts = index if isinstance(index, tuple) else (index,)
    return array[parts if any(part is Ellipsis for part in parts) else (*parts, Ellipsis)]


def _same_place(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype
            and a.__array_interface__["data"][0] == b.__array_interface__["data"][0])


def _operator(ufunc: np.ufunc, side: str) -> Any:
    def operate(self: ndarray, other: Any) -> Any:
        if isinstance(other, (list, tuple, str)) or other is None:
            return NotImplemented
        if side == "in place":
            return _call(ufunc, (self, other), {"out": self})
        return _call(ufunc, (other, self) if side == "right" else (self, other), {})

    return operate


def _comparison(ufunc: np.ufunc) -> Any:
    """Only with what compares as any object does (None, a class) is an array merely unequal; text is refused."""
    def compare(self: ndarray, other: Any) -> Any:
        if type(other).__eq__ is object.__eq__:
            return NotImplemented
        if isinstance(other, (list, tuple, str)):
            raise TypeError(f"Unsupported type {type(other)}")
        return _call(ufunc, (self, other), {})

    return compare


for _name, _ufunc in {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide,
                      "floordiv": np.floor_divide, "mod": np.remainder, "pow": np.power, "matmul": np.matmul,
                      "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "lshift": np.left_shift,
                      "rshift": np.right_shift}.items():
    setattr(ndarray, f"__{_name}__", _operator(_ufunc, "left"))
    setattr(ndarray, f"__r{_name}__", _operator(_ufunc, "right"))
    if _name != "matmul":  # CuPy has no @=
        setattr(ndarray, f"__i{_name}__", _operator(_ufunc, "in place"))
for _name, _ufunc in {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
                      "ne": np.not_equal}.items():
    setattr(ndarray, f"__{_name}__", _comparison(_ufunc))
for _name, _ufunc in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{_name}__", lambda self, _ufunc=_ufunc: _call(_ufunc, (self,), {}))


# ---- functions of the module -------------------------------------------------------------------------------------


def _count_upload(size: int) -> None:
    count["uploads"] += 1
    count["bytes_up"] += size


def _has_device(value: Any) -> bool:
    return isinstance(value, ndarray) or isinstance(value, (list, tuple)) and any(map(_has_device, value))


def array(obj: Any, dtype: Any = None, copy: Any = True, order: str | None = "K", subok: bool = False, ndmin: int = 0,
          blocking: bool = False) -> ndarray:
    """cupy.array: a copy on the device; Fortran's order for a host array that has it, else C order."""
    order = order or "K"
    if isinstance(obj, ndarray):
        made = obj.astype(dtype or obj.dtype, order=order, copy=copy is True)
        return made if made.ndim >= ndmin else made.reshape((1,) * (ndmin - made.ndim) + made.shape)
    if _has_device(obj):
        seen: list[ndarray] = []
        return _result(np.array(_unwrap(obj, seen), dtype, ndmin=ndmin), [])
    host = np.array(obj, dtype, copy=None, ndmin=ndmin)
    if host.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    if order in "KA":
        order = "F" if isinstance(obj, np.ndarray) and obj.flags.fnc else "C"
    made = _fresh(host.shape, host.dtype, order)
    if host.ndim:
        made._a[...] = host
        _count_upload(host.nbytes)
    else:
        made.fill(host)  # the number travels with the launch
    return made


def asarray(a: Any, dtype: Any = None, order: str | None = None, *, copy: Any = None,
            blocking: bool = False) -> ndarray:
    """cupy.asarray: the array itself where it is on the device in that type and order already."""
    return array(a, dtype, copy, order, blocking=blocking)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: np.ndarray | None = None, *,
            blocking: bool = True) -> np.ndarray:
    """cupy.asnumpy."""
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a, order=order)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """cupy.empty, filled with 0xff bytes."""
    return _fresh(shape, dtype, order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    """cupy.full."""
    if dtype is None:
        dtype = fill_value.dtype if isinstance(fill_value, ndarray) else np.array(fill_value).dtype
    made = _fresh(shape, dtype, order)
    copyto(made, fill_value, "unsafe")
    return made


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """cupy.zeros."""
    return full(shape, 0, dtype, order)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """cupy.ones."""
    return full(shape, 1, dtype, order)


def empty_like(prototype: ndarray, dtype: Any = None, order: str = "K", subok: Any = None,
               shape: Any = None) -> ndarray:
    """cupy.empty_like: keeps the order of the axes in memory, as NumPy's does."""
    if not isinstance(prototype, ndarray):
        raise TypeError(f"Unsupported type {type(prototype)}")
    like = np.empty_like(prototype._a, dtype=dtype, order=order, shape=shape)
    return _fresh(like.shape, like.dtype, like=like)


def full_like(a: ndarray, fill_value: Any, dtype: Any = None, order: str = "K", subok: Any = None,
              shape: Any = None) -> ndarray:
    """cupy.full_like."""
    made = empty_like(a, dtype, order, subok, shape)
    copyto(made, fill_value, "unsafe")
    return made


def zeros_like(a: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    """cupy.zeros_like."""
    return full_like(a, 0, dtype, order, subok, shape)


def ones_like(a: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    """cupy.ones_like."""
    return full_like(a, 1, dtype, order, subok, shape)


def copy(a: ndarray, order: str = "K") -> ndarray:
    """cupy.copy: unlike the method, it keeps the order of the axes in memory."""
    return a.copy(order=order)


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    """cupy.copyto."""
    if isinstance(src, np.ndarray) and src.ndim:
        raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
    seen: list[ndarray] = []
    count["launches"] += 1
    np.copyto(dst._a, _unwrap(src, seen), casting, where=True if where is None else _unwrap(where, seen))


def nonzero(a: ndarray) -> tuple[ndarray, ...]:
    """cupy.nonzero: the columns of one table, so they have gaps. How many rows it has the host must wait to know."""
    count["syncs"] += 1
    found = np.nonzero(a._a)
    table = _adopt(np.stack(found, axis=1))
    count["launches"] += 1
    return tuple(table[:, axis] for axis in range(len(found)))


def shares_memory(a: ndarray, b: ndarray) -> bool:
    """cupy.shares_memory: it sorts addresses on the device and waits for them."""
    count["syncs"] += 1
    return np.shares_memory(a._a, b._a)


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """cupy.where: the condition must be an array (it is cast to bool by its own method)."""
    condition = condition.astype(bool, copy=False)
    return nonzero(condition) if x is None else _Function(np.where)(condition, x, y)


def get_array_module(*args: Any) -> types.ModuleType:
    """cupy if one of the arguments is a device array, else numpy."""
    return module if any(isinstance(arg, ndarray) for arg in args) else np


class RawModule:
    """cupy.RawModule, run on the processor. `host` is the HostModule behind it (its `reverse` may be set)."""

    def __init__(self, *, code: str | None = None, path: str | None = None, options: tuple = (),
                 backend: str = "nvrtc", translate_cucomplex: bool = False, enable_cooperative_groups: bool = False,
                 name_expressions: Any = None, jitify: bool = False) -> None:
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if code is None or name_expressions is not None:
            raise NotImplementedError("the stand-in takes plain code without name_expressions")
        self.code, self.options = code, options
        self.host = HostModule(code, sanitize=sanitize)
        raw_modules.append(self)

    def get_function(self, name: str) -> Any:
        """The kernel called `name`, to be called with (grid, block, args)."""
        return RawFunction(self.host.get_function(name))


class RawFunction:
    """A kernel. Device arrays become pointers; numbers go by value. A host array is a TypeError."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.name = kernel, kernel.name

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0, stream: Any = None) -> None:
        if shared_mem:
            raise NotImplementedError("the stand-in has no shared memory sized at the launch")
        passed = []
        for arg in args:
            if isinstance(arg, np.ndarray):
                raise TypeError(f"You are trying to pass a numpy.ndarray of shape {arg.shape} as a kernel parameter")
            if isinstance(arg, MemoryPointer):
                arg = np.uint64(arg.ptr)
            passed.append(arg._a if isinstance(arg, ndarray) else arg)
        count["launches"] += 1
        self.kernel(grid, block, tuple(passed))


sanitize = False  # compile kernels with the sanitizers; see emulator.sanitizer_environment
raw_modules: list[RawModule] = []  # every RawModule made since install()


# ---- cupy.cuda ---------------------------------------------------------------------------------------------------


def _wait() -> None:
    count["syncs"] += 1


class _Chosen:
    """Something that can be chosen by `use()` or for the length of a `with` block."""

    def use(self) -> Any:
        """Choose it."""
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *problem: Any) -> None:
        pass

    def synchronize(self) -> None:
        """Wait until all its work is done."""
        _wait()


class Device(_Chosen):
    """The one device there is."""

    compute_capability = "90"
    mem_info = property(lambda self: _mem_info())
    attributes = property(lambda self: {"MultiProcessorCount": 132, "MaxThreadsPerBlock": 1024, "WarpSize": 32})

    def __init__(self, device: int | None = None) -> None:
        self.id = int(device or 0)

    def use(self) -> Device:
        """Choose it, if it is there."""
        if self.id:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        return self

    def __enter__(self) -> Device:
        return self.use()

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id


class Stream(_Chosen):
    """A stream. Everything is done at once here, so it only has the methods."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self.ptr = 0 if null else next(_stream_numbers)
        self.done = True

    def record(self, event: Event | None = None) -> Event:
        """Note the time in an event."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Let the work to come wait for an event."""


_stream_numbers = itertools.count(1)
Stream.null = Stream(null=True)


class Event:
    """A moment in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.time, self.done, self.ptr = 0.0, True, 1

    def record(self, stream: Stream | None = None) -> None:
        """Note the time."""
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        """Wait until the moment has come."""
        _wait()


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two events."""
    return 1000 * (end_event.time - start_event.time)


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""

    __module__ = "cupy_backends.cuda.api.runtime"


def _mem_info() -> tuple[int, int]:
    total = _TOTAL_MEMORY if memory_limit is None else memory_limit
    return total - _POOL.total_bytes(), total


def _properties(device: int) -> dict[str, Any]:
    Device(device)
    return {"name": b"stand-in", "major": 9, "minor": 0, "multiProcessorCount": 132, "warpSize": 32,
            "totalGlobalMem": _TOTAL_MEMORY, "sharedMemPerBlock": 49_152, "maxThreadsPerBlock": 1024}


def _counted(function: Any) -> Any:
    def call(*args: Any) -> None:
        count["launches"] += 1
        function(*args)

    return call


def _submodule(name: str, **contents: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(contents)
    return made


def _memset(pointer: int, value: int, size: int, stream: int = 0) -> None:
    count["launches"] += 1
    _bytes_at(pointer, size)[:] = value


_runtime = _submodule(
    "cupy_backends.cuda.api.runtime", CUDARuntimeError=CUDARuntimeError, driverGetVersion=lambda: 13000,
    runtimeGetVersion=lambda: 13000, getDeviceCount=lambda: 1, getDevice=lambda: 0, setDevice=lambda device: None,
    getDeviceProperties=_properties, memGetInfo=_mem_info, deviceSynchronize=_wait, memset=_memset,
    memsetAsync=_memset, streamSynchronize=lambda stream: _wait(), is_hip=False, CUDA_R_32F=host_blas.CUDA_R_32F)
_cublas = _submodule("cupy_backends.cuda.libs.cublas", **{
    name: _counted(value) if name in ("sgemm", "gemmEx", "sgemmStridedBatched") else value
    for name, value in vars(host_blas).items()
    if name.startswith("CUBLAS_") or name in host_blas.FUNCTIONS})
_library = host_blas.Library(lambda *args: _cublas.gemmEx(*args))
_memory = _submodule("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError, MemoryPointer=MemoryPointer,
                     Memory=Memory, MemoryPool=Pool)
_device = _submodule("cupy.cuda.device", Device=Device, get_cublas_handle=lambda: 1, get_device_id=lambda: 0,
                     get_compute_capability=lambda: Device.compute_capability)
_stream = _submodule("cupy.cuda.stream", Stream=Stream, Event=Event, get_elapsed_time=get_elapsed_time,
                     get_current_stream=lambda device_id=-1: Stream.null)
_cuda = _submodule(
    "cupy.cuda", runtime=_runtime, memory=_memory, device=_device, stream=_stream, Device=Device, Stream=Stream,
    Event=Event, get_elapsed_time=get_elapsed_time, get_current_stream=_stream.get_current_stream,
    get_cublas_handle=_device.get_cublas_handle, get_device_id=lambda: 0, is_available=lambda: True,
    MemoryPointer=MemoryPointer, MemoryPool=Pool, __path__=[])


# ---- the module itself -------------------------------------------------------------------------------------------

# About types, shapes and places only: they touch no device memory.
_ABOUT = frozenset("""ndim shape size result_type promote_types can_cast issubdtype isdtype iscomplexobj isrealobj
isscalar may_share_memory broadcast_shapes finfo iinfo min_scalar_type isfortran common_type""".split())
# How many there are, or how large, decides the shape of what these give, so the host waits to know it.
_WAITING = frozenset("""argwhere bincount flatnonzero unique extract compress union1d intersect1d setdiff1d
setxor1d""".split())
_ANY_ORDER = frozenset({"asfortranarray", "require"})
_MISSING = frozenset("""ElementwiseKernel ReductionKernel RawKernel fuse random fft vectorize memoize load save savez
loadtxt genfromtxt fromfile testing polynomial""".split())


class _Cupy(types.ModuleType):
    """NumPy's functions under CuPy's name, as far as CuPy has them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in KNOWN["module"]:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        if name in _MISSING or not hasattr(np, name):
            raise AttributeError(f"cupy.{name} exists, but this stand-in does not offer it")
        value = getattr(np, name)
        if callable(value) and not isinstance(value, type):
            value = _about(value) if name in _ABOUT else _Function(value, name in _ANY_ORDER, name in _WAITING)
        setattr(self, name, value)
        return value


def _about(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*_unwrap(args, []), **_unwrap(kwargs, []))

    return call


def _functions_of(place: Any, table: str, title: str) -> types.ModuleType:
    return _submodule(title, **{name: _Function(getattr(place, name)) for name in KNOWN[table]
                                if callable(getattr(place, name, None)) and not isinstance(getattr(place, name), type)})


module = _Cupy("cupy")
_stride_tricks = _functions_of(np.lib.stride_tricks, "stride_tricks", "cupy.lib.stride_tricks")
_lib = _submodule("cupy.lib", stride_tricks=_stride_tricks, __path__=[])
_linalg = _functions_of(np.linalg, "linalg", "cupy.linalg")
vars(module).update({
    "__version__": NAMES["version"], "__path__": [], "ndarray": ndarray, "cuda": _cuda, "lib": _lib, "linalg": _linalg,
    "RawModule": RawModule, "get_default_memory_pool": lambda: _POOL, "is_available": lambda: True,
    **{function.__name__: function for function in (
        array, asarray, asnumpy, empty, full, zeros, ones, empty_like, full_like, zeros_like, ones_like, copy, copyto,
        nonzero, shares_memory, where, get_array_module)}})


class _Libs(types.ModuleType):
    """CuPy's bindings. Asked for one, it finds and loads the library that pip installed; nothing else does."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name != "cublas":
            raise AttributeError(name)
        return sys.modules.setdefault(_cublas.__name__, _cublas)


class _NotLoaded:
    """Imported by its own name before that, a binding fails for want of its library."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name == _cublas.__name__:
            raise ImportError("libcublas.so.13: cannot open shared object file: No such file or directory")


_libs = _Libs("cupy_backends.cuda.libs")
_api = _submodule("cupy_backends.cuda.api", runtime=_runtime, __path__=[])
_backends_cuda = _submodule("cupy_backends.cuda", libs=_libs, api=_api, __path__=[])
_MODULES = {
    "cupy": module, "cupy.cuda": _cuda, "cupy.cuda.memory": _memory, "cupy.cuda.device": _device,
    "cupy.cuda.stream": _stream, "cupy.cuda.runtime": _runtime, "cupy.lib": _lib,
    "cupy.lib.stride_tricks": _stride_tricks, "cupy.linalg": _linalg,
    "cupy_backends": _submodule("cupy_backends", cuda=_backends_cuda, __path__=[]),
    "cupy_backends.cuda": _backends_cuda, "cupy_backends.cuda.api": _api, "cupy_backends.cuda.api.runtime": _runtime,
    "cupy_backends.cuda.libs": _libs,
}
_replaced: dict[str, Any] | None = None
_real_library = launch.cublas_library


def install() -> types.ModuleType:
    """Let `import cupy` (and what belongs to it) find the stand-in. Gives the module; counts start at zero."""
    global _replaced
    if _replaced is None:
        taken = [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupyx", "cupy_backends")]
        _replaced = {name: sys.modules.pop(name) for name in taken}
    sys.modules.update(_MODULES)
    sys.modules.pop(_cublas.__name__, None)
    if _NotLoaded not in sys.meta_path:
        sys.meta_path.insert(0, _NotLoaded)
    host_blas.on_device = _on_device
    host_blas.reset()
    launch.cublas_library = lambda cupy: _library
    raw_modules.clear()
    _POOL.free_all_blocks()
    reset_count()
    return module


def uninstall() -> None:
    """Put back what install() took away."""
    global _replaced, memory_limit
    for name in (*_MODULES, _cublas.__name__):
        sys.modules.pop(name, None)
    if _NotLoaded in sys.meta_path:
        sys.meta_path.remove(_NotLoaded)
    sys.modules.update(_replaced or {})
    _replaced, memory_limit = None, None
    _POOL.set_limit()
    _taken.clear()
    host_blas.on_device = None
    launch.cublas_library = _real_library
    raw_modules.clear()
