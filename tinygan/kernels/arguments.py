"""Arguments of operations, checked and brought into one form: arrays, indices, axes, sizes.

What an operation keeps for its gradient must stay as it was: an index array, a mask or a list of labels is often a
buffer that is filled again for the next batch. So everything that is not a tensor is copied here before it is kept.
"""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygan.errors import GraphError, TinyganError
from tinygan.kernels.arraylike import ArrayLike, describe, host_array, real_array
from tinygan.kernels.arrays import is_cupy, send, xp_of


def float_type(dtype: Any) -> np.dtype:
    """Read a floating-point type, in the machine's byte order. Raises GraphError for any other."""
    try:
        found = np.dtype("O" if dtype is None else dtype)
    except TypeError as problem:
        raise GraphError(f"{dtype!r} is no type of number: {problem}") from None
    if found.kind != "f":
        raise GraphError(f"a Tensor holds floating-point numbers, and {dtype} is no such type: use .data or .numpy()")
    return found.newbyteorder("=")


def all_tensors(holders: Sequence[Any]) -> list:
    """List tensors and the parameters of modules. Raises GraphError for anything else."""
    tensors = []
    for holder in holders:
        if not isinstance(holder, ArrayLike) and not hasattr(holder, "parameters"):
            raise GraphError(f"expected modules or tensors, one after the other, not {type(holder).__name__}")
        tensors += [holder] if isinstance(holder, ArrayLike) else holder.parameters()
    return tensors


def operand(data: Any, like: Any) -> Any:
    """Copy a number, an array or a list that stands beside a tensor's array, `like`, in an operation.

    An array of floating-point numbers keeps its dtype; lists, integers, bools and single numbers have none to keep and
    take like's, as a Python number does in NumPy. A single number on the host moves to like's device.
    """
    if isinstance(data, (int, float)):
        return number(data, like)
    array = real_array(data)
    if array.ndim == 0 and not is_cupy(array):
        return number(float(array), like)
    keeps = hasattr(data, "dtype") and data.dtype.kind == "f" and array.ndim
    return array.astype(array.dtype if keeps else like.dtype)


_numbers: dict[tuple, Any] = {}


def number(value: float, like: Any) -> Any:
    """Make a number a 0-d array of like's dtype and device.

    On a GPU each is made once and kept: to send it there costs as much as an operation, and operations do not write
    into their inputs.
    """
    if not is_cupy(like):
        return np.asarray(value, dtype=like.dtype)
    xp = xp_of(like)
    key = (xp, like.data.device_id, like.dtype, float(value), math.copysign(1.0, value))  # 0.0 == -0.0
    array = _numbers.get(key)
    if array is None:
        if len(_numbers) >= 1000:  # a loop makes new ones, such as a learning rate
            _numbers.clear()
        with importlib.import_module("tinygan.kernels.gpu.feed").lasting(xp):
            array = _numbers[key] = send(xp, value, like.dtype)
    return array


def kept_numbers() -> list[Any]:
    """List the arrays that `number` has made and kept."""
    return list(_numbers.values())


class Index(tuple):
    """An index whose parts do not change: numbers, slices, None, Ellipsis, and copies of arrays."""

    @property
    def has_arrays(self) -> bool:
        """Return whether some part is an array of integers or bools, so that an entry may be named twice."""
        return any(hasattr(part, "dtype") for part in self)


def copy_index(index: Any, xp: Any) -> Index:
    """Copy an index, read as NumPy reads it: a tuple holds one part per axis, every other sequence is an array.

    xp: numpy or cupy, where the arrays of the index are to live. Raises IndexError as NumPy does for what is no index.
    """
    if isinstance(index, Index):
        return index
    return Index(_copy_part(part, xp) for part in (index if isinstance(index, tuple) else (index,)))


def _copy_part(part: Any, xp: Any) -> Any:
    if part is None or part is Ellipsis or isinstance(part, (bool, np.bool_)):
        return part
    if isinstance(part, slice):
        return slice(*(None if n is None else operator.index(n) for n in (part.start, part.stop, part.step)))
    if not hasattr(part, "ndim") and hasattr(part, "__index__"):
        return operator.index(part)
    if is_cupy(part) and xp is not np:
        return part.copy()
    try:
        array = host_array(part.data if isinstance(part, ArrayLike) else part, "an index")
    except GraphError as problem:
        raise IndexError(str(problem)) from None
    if array.ndim == 0 and array.dtype.kind in "iub":
        return array.item()
    if array.size == 0 and not hasattr(part, "dtype"):
        array = array.astype(np.intp)  # NumPy would take [] for floating-point numbers
    if array.dtype.kind not in "iub":
        raise IndexError(f"an array of {array.dtype} is no index: use integers or bools")
    return array if xp is np else send(xp, array)


def copy_array(values: Any, xp: Any, dtype: Any) -> Any:
    """Copy values (a tensor's, an array's, a list's) to xp, NumPy or CuPy, as an array of this dtype."""
    if isinstance(values, ArrayLike):
        values = values.data
    if is_cupy(values) and xp is not np:
        return values.astype(dtype)
    array = host_array(values, "an array")
    if array.dtype.kind not in "fiub":
        raise GraphError(f"expected real numbers, not {array.dtype} {array.shape}")
    return array.astype(dtype) if xp is np else send(xp, array, dtype)


def copy_mask(rows: Any, count: int) -> np.ndarray | None:
    """Copy a mask over count filter sets; None stays None. Raises GraphError for anything but count bools."""
    if rows is None:
        return None
    array = host_array(rows, "rows")
    if array.dtype != bool or array.shape != (count,):
        raise GraphError(f"rows must be {count} bools, one per filter set, not {array.dtype} {array.shape}")
    return array


def tensor_list(tensors: Any, form: str) -> list:
    """Read a list of one tensor or more. Raises GraphError, naming the right form, for a bare tensor and all else."""
    listed = [] if isinstance(tensors, ArrayLike) or not hasattr(tensors, "__iter__") else list(tensors)
    if not listed or not all(isinstance(t, ArrayLike) for t in listed):
        raise GraphError(f"tensors are given in a list of one or more: write {form}")
    return listed


def copy_integers(values: Any, what: str, samples: int, below: int) -> np.ndarray:
    """Copy labels or routes to the host as an int64 array (samples,). Raises GraphError, naming what they are, unless
    there is one per sample and each lies in [0, below)."""
    array = host_array(values, what)
    if array.shape != (samples,) or (array.size and array.dtype.kind not in "iu"):
        raise GraphError(f"{what} must be {samples} integers, one per sample, not {array.dtype} {array.shape}")
    if array.size and not 0 <= array.min() <= array.max() < below:
        raise GraphError(f"{what} must lie in [0, {below}), but they reach from {array.min()} to {array.max()}")
    return array.astype(np.int64)


def whole_numbers(values: Any, what: str) -> tuple[int, ...]:
    """Read one whole number, or a sequence of them, NumPy's too, as a tuple. Raises GraphError naming what."""
    try:
        several = isinstance(values, (tuple, list)) or np.ndim(values) > 0
        return tuple([operator.index(n) for n in (values if several else (values,))])
    except (TypeError, ValueError):
        raise GraphError(f"{what}: expected a whole number or several, not {values!r}") from None


def axis_of(axis: Any, a: ArrayLike, new: int = 0) -> int:
    """Read an axis of a tensor with `new` more axes, counted from the front. Raises GraphError where it has none."""
    ndim, axes = a.ndim + new, whole_numbers(axis, "axis")
    if len(axes) != 1 or not -ndim <= axes[0] < ndim:
        raise GraphError(f"{describe(a)} has no axis {axis}")
    return axes[0] % ndim


def axes_of(axes: Any, a: ArrayLike) -> list[int]:
    """Read one axis of a tensor or several, counted from the front. Raises GraphError for one that is named twice."""
    numbers = [axis_of(i, a) for i in whole_numbers(axes, "axis")]
    if len(set(numbers)) < len(numbers):
        raise GraphError(f"an axis of {describe(a)} is named twice: {axes}")
    return numbers


def unpack(values: tuple, what: str) -> tuple[int, ...]:
    """Read whole numbers given one by one or in one sequence, as in NumPy's reshape(2, 3) and reshape((2, 3)).

    Raises GraphError, naming what they are, for anything else.
    """
    return whole_numbers(values[0] if len(values) == 1 else values, what)


def is_unshared(array: Any, others: Sequence[Any]) -> bool:
    """Return whether an array can be written to and shares no memory with the others."""
    if not is_cupy(array):
        return array.flags.writeable and not any(np.may_share_memory(array, o) for o in others if not is_cupy(o))
    # CuPy's arrays are always writable; a broadcast view is not dense.
    return array.flags.c_contiguous and not any(_overlap(array, other) for other in others if is_cupy(other))


def _overlap(a: Any, b: Any) -> bool:
    """Return whether two CuPy arrays may share memory: parts of one allocation whose addresses overlap.

    (CuPy's test costs ten times as much, and `grad` compares every pair of gradients.)
    """
    if a.data.mem.ptr != b.data.mem.ptr:
        return False
    return not b.flags.c_contiguous or (a.data.ptr < b.data.ptr + b.nbytes and b.data.ptr < a.data.ptr + a.nbytes)


def strided_like(model: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Copy values into an array whose axes are strided as in model: gaps and reversed axes are kept."""
    sides = sorted((abs(s), n * abs(s)) for s, n in zip(model.strides, model.shape, strict=True) if n > 1)
    overlap = any(step < inner for (_, inner), (step, _) in zip(sides, sides[1:], strict=False))  # sliding windows
    if model.flags.c_contiguous or model.size == 0 or 0 in model.strides or overlap:
        return np.array(values, order="C")  # not ascontiguousarray: it makes a vector of a single number
    steps = [s // model.itemsize for s in model.strides]
    spans = [(n - 1) * abs(s) for n, s in zip(model.shape, steps, strict=True)]
    base = np.full(np.sum(spans, dtype=int) + 1, np.nan)  # what lies in the gaps must never be read
    start = int(np.sum([span for span, s in zip(spans, steps, strict=True) if s < 0], dtype=int))
    view = np.lib.stride_tricks.as_strided(base[start:], model.shape, [s * 8 for s in steps])
    view[...] = values
    return view


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Read one whole number for both axes, or (rows, columns). Raises GraphError for anything else."""
    both = whole_numbers(value, "(rows, columns)")
    if len(both) > 2 or not both:
        raise GraphError(f"expected a whole number or two of them (rows, columns), got {value!r}")
    return both[0], both[-1]


def square(name: str, size: int | Sequence[int]) -> int:
    """Read the side of a square window from one number or two equal ones. Raises GraphError (name: of the op)."""
    rows, columns = pair(size)
    if rows != columns or rows < 1:
        raise GraphError(f"{name}: windows are square, of 1 pixel or more, not {size}")
    return rows


def check_map(name: str, x: Any) -> None:
    """Raise GraphError, naming the op, unless x is a tensor (N, C, H, W)."""
    if not isinstance(x, ArrayLike) or x.ndim != 4:
        raise GraphError(f"{name}: expected a map (N, C, H, W), got {describe(x)}")


def windows(name: str, kernel: Any, stride: Any, padding: Any) -> list[tuple[int, int]]:
    """Read a convolution's kernel, stride and padding, each as (rows, columns) in pixels.

    Raises GraphError, naming the op, for a kernel or a stride below 1 or a padding below 0.
    """
    kernel, stride, padding = pair(kernel), pair(stride), pair(padding)
    if min(kernel + stride) < 1 or min(padding) < 0:
        raise GraphError(f"{name}: kernel and stride must be 1 or more and padding 0 or more, got {kernel}, {stride} "
                         f"and {padding}")
    return [kernel, stride, padding]


def check_kernel(name: str, x: ArrayLike, kernel: Sequence[int], padding: Sequence[int]) -> None:
    """Raise GraphError, naming the op, where a kernel is larger than the map x with its padding."""
    if any(n + 2 * p < k for n, k, p in zip(x.shape[2:], kernel, padding, strict=True)):
        raise GraphError(f"{name}: the kernel {kernel} is larger than {describe(x)} padded by {padding}")


def check_state(saved: Mapping[str, Any], current: Mapping[str, Any], owner: str) -> None:
    """Raise TinyganError, naming the first difference, unless saved arrays have the current ones' names and shapes."""
    for name in [*current, *saved]:
        if name not in current or name not in saved:
            missing = "has no" if name in current else "has an unknown"
            raise TinyganError(f"the saved state {missing} entry {name!r} for {owner}; "
                               "was it saved with other settings?")
        if tuple(getattr(saved[name], "shape", ())) != current[name].shape:
            raise TinyganError(f"{name}: the saved shape {np.shape(saved[name])} is not {current[name].shape}, that of "
                               f"{owner}; was it saved with other settings?")
