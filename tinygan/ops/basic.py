"""The closed set of primitives, and what is built from them.

Each primitive computes its value with plain array code and states one rule (VJP) per input. Rules are written with
primitives (of this file, and the four of engine/tensor.py), so they can be differentiated too. Everything below the
line "composites" needs no rule. Where nothing else is said, inputs have any shape and a result has that of its input.

Conventions at kinks (where no derivative exists): absolute has slope 0 at 0; maximum and minimum give the whole
gradient to their first argument on ties. So relu(x) = maximum(x, 0) has slope 1 at 0, where most libraries choose 0,
and clip lets the gradient through at its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from tinygan.engine.tensor import Rules, Tensor, add, broadcast_to, copy, describe, primitive, sum_to
from tinygan.errors import GraphError
from tinygan.kernels import for_array
from tinygan.kernels.arguments import axes_of, axis_of, copy_array, copy_index, float_type, tensor_list, unpack

__all__ = ["absolute", "add", "astype", "broadcast_to", "clip", "concatenate", "copy", "cos", "divide", "exp",
           "getitem", "log", "log_softmax", "matmul", "max_along", "maximum", "mean", "minimum", "multiply", "negative",
           "permute", "power", "put", "relu", "reshape", "sigmoid", "sin", "softplus", "sqrt", "stack", "subtract",
           "sum", "sum_to", "tanh", "transpose", "where"]

# ---- arithmetic --------------------------------------------------------------------------------------------------


@primitive
def subtract(a: Tensor, b: Tensor):
    """Compute a - b, elementwise and broadcast. Raises as `add`."""
    return a.data - b.data, (lambda g, y: g, lambda g, y: negative(g))


@primitive
def negative(a: Tensor):
    """Compute -a; a of any shape."""
    return -a.data, (lambda g, y: negative(g),)


@primitive
def multiply(a: Tensor, b: Tensor):
    """Compute a * b, elementwise and broadcast. Raises as `add`."""
    return a.data * b.data, (lambda g, y: g * b, lambda g, y: g * a)


@primitive
def divide(a: Tensor, b: Tensor):
    """Compute a / b, elementwise and broadcast; infinite or NaN where b is 0. Raises as `add`."""
    return a.data / b.data, (lambda g, y: g / b, lambda g, y: negative(g * y / b))


def power(a: Any, exponent: Any) -> Tensor:
    """Compute a ** exponent; either may be a tensor, a number or an array, and they broadcast. Raises as `add`.

    Where a is 0 the gradient with respect to the exponent is 0, the limit for exponents above 0; where a is negative
    it is NaN, because a ** exponent is no number between whole exponents.
    """
    if isinstance(exponent, Tensor) or getattr(exponent, "ndim", 0) or not isinstance(exponent, Real):
        return _tensor_power(a, exponent)
    return _power(a, exponent=float(exponent))


@primitive
def _power(a: Tensor, *, exponent: float):
    """Compute a ** exponent for a constant exponent."""
    p = exponent
    if p == 0.0:  # p * a ** (p - 1) is 0 * inf at a = 0
        return a.xp.ones_like(a.data), (None,)
    return a.data ** p, (lambda g, y: g * (p * power(a, p - 1.0)),)


@primitive
def _tensor_power(a: Tensor, b: Tensor):
    """Compute a ** b for an exponent that may need a gradient."""
    def by_a(g: Tensor, y: Tensor) -> Tensor:
        return g * (b * power(a, where((a.data == 0) & (b.data == 0), 1.0, b - 1.0)))  # 0 * inf, as above

    def by_b(g: Tensor, y: Tensor) -> Tensor:
        return g * where(a.data == 0, 0.0, y * log(where(a.data == 0, 1.0, a)))

    return a.data ** b.data, (by_a, by_b)


# ---- elementwise functions ---------------------------------------------------------------------------------------


@primitive
def exp(a: Tensor):
    """Compute e ** a, elementwise."""
    return a.xp.exp(a.data), (lambda g, y: g * y,)


@primitive
def log(a: Tensor):
    """Compute the natural logarithm, elementwise: -inf at 0, NaN below."""
    return a.xp.log(a.data), (lambda g, y: g / a,)


@primitive
def sqrt(a: Tensor):
    """Compute the square root, elementwise; NaN below 0.

    The slope at 0 is infinite: add an epsilon inside the root where 0 can occur.
    """
    return a.xp.sqrt(a.data), (lambda g, y: g * 0.5 / y,)


@primitive
def sin(a: Tensor):
    """Compute the sine of a (radians), elementwise."""
    return a.xp.sin(a.data), (lambda g, y: g * cos(a),)


@primitive
def cos(a: Tensor):
    """Compute the cosine of a (radians), elementwise."""
    return a.xp.cos(a.data), (lambda g, y: negative(g * sin(a)),)


@primitive
def tanh(a: Tensor):
    """Compute the hyperbolic tangent, elementwise."""
    return a.xp.tanh(a.data), (lambda g, y: g * (1.0 - y * y),)


@primitive
def sigmoid(a: Tensor):
    """Compute 1 / (1 + e ** -a), elementwise; does not overflow, and small values stay exact."""
    value = for_array(a.data).sigmoid(a.data)
    return value, Rules((lambda g, y: g * y * (1.0 - y),), lambda g: (for_array(value).sigmoid_back(g.data, value),))


@primitive
def softplus(a: Tensor):
    """Compute log(1 + e ** a), elementwise and without overflow.

    -log(sigmoid(a)) is softplus(-a): losses on logits use it.
    """
    return for_array(a.data).softplus(a.data), (lambda g, y: g * sigmoid(a),)


@primitive
def absolute(a: Tensor):
    """Compute |a|, elementwise; slope 0 at 0."""
    sign = a.xp.sign(a.data)
    return abs(a.data), (lambda g, y: g * Tensor(sign),)


@primitive
def maximum(a: Tensor, b: Tensor):
    """Return the larger of a and b, elementwise and broadcast; on a tie a receives the gradient. Raises as `add`."""
    mask = (a.data >= b.data).astype(a.dtype)
    return a.xp.maximum(a.data, b.data), (lambda g, y: g * Tensor(mask), lambda g, y: g * Tensor(1.0 - mask))


@primitive
def minimum(a: Tensor, b: Tensor):
    """Return the smaller of a and b, elementwise and broadcast; on a tie a receives the gradient. Raises as `add`."""
    mask = (a.data <= b.data).astype(a.dtype)
    return a.xp.minimum(a.data, b.data), (lambda g, y: g * Tensor(mask), lambda g, y: g * Tensor(1.0 - mask))


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """Select a where the condition holds, b elsewhere; the three broadcast. Raises as `add`.

    condition: an array of bools, which is copied. It is an option rather than a tensor: there is no derivative with
    respect to a yes or no.
    Both a and b are computed everywhere, and the one not taken gets the gradient 0: times an infinite slope that is
    NaN. So keep what is not taken finite *inside* as well: where(x > 0, log(where(x > 0, x, 1.0)), 0.0).
    """
    like = a if isinstance(a, Tensor) else b
    return _where(a, b, condition=copy_array(condition, like.xp if isinstance(like, Tensor) else np, bool))


@primitive
def _where(a: Tensor, b: Tensor, *, condition: Any):
    """Select a where the condition, a bool array that does not change, holds, b elsewhere."""
    return a.xp.where(condition, a.data, b.data), (lambda g, y: _where(g, 0.0, condition=condition),
                                                   lambda g, y: _where(0.0, g, condition=condition))


def astype(a: Tensor, dtype: Any) -> Tensor:
    """Convert to another floating-point type, such as numpy.float32; the gradient is converted back to a's.

    Raises GraphError for a type of whole numbers: there would be no gradient.
    """
    return _astype(a, dtype=float_type(dtype))


@primitive
def _astype(a: Tensor, *, dtype: np.dtype):
    """Convert to a floating-point type."""
    return a.data.astype(dtype), (lambda g, y: astype(g, a.dtype),)


# ---- shape -------------------------------------------------------------------------------------------------------


@primitive
def reshape(a: Tensor, *, shape: Sequence[int]):
    """Return the values in C order under another shape; one length may be -1.

    Raises ValueError where they do not fit.
    """
    return a.data.reshape(shape), (lambda g, y: reshape(g, shape=a.shape),)


@primitive
def permute(a: Tensor, *, axes: Sequence[int]):
    """Reorder the axes: result axis i is axis axes[i] of `a` (numpy.transpose).

    Raises ValueError unless each axis is named once.
    """
    back = tuple(int(i) for i in np.argsort([i % a.ndim for i in axes]))
    return a.data.transpose(axes), (lambda g, y: permute(g, axes=back),)


@primitive
def getitem(a: Tensor, *, index: Any):
    """Select a[index] as NumPy does.

    index: integers, slices, None, Ellipsis, arrays or lists of integers or bools, or a tuple of these, one per axis.
    It is copied. Returns a tensor of the shape that NumPy gives; raises IndexError as NumPy does.
    """
    index = copy_index(index, a.xp)
    return a.data[index], (lambda g, y: put(g, index=index, shape=a.shape),)


@primitive
def put(a: Tensor, *, index: Any, shape: tuple[int, ...]):
    """Add `a` at [index] to zeros of `shape`: the transpose of `getitem`.

    A place that the index names twice receives the sum of both values (NumPy's add.at). Raises ValueError where a does
    not fit the places, IndexError for an index outside the shape.
    """
    out, index = a.xp.zeros(shape, dtype=a.dtype), copy_index(index, a.xp)
    if index.has_arrays:
        a.xp.add.at(out, index, a.data)
    else:
        out[index] = a.data
    return out, (lambda g, y: getitem(g, index=index),)


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along an axis; their other lengths are equal, and the result has the sum of theirs along it.

    Raises GraphError for anything but a list of tensors and for an axis that they lack, ValueError for other lengths.
    """
    tensors = tensor_list(tensors, "concatenate([a, b])")
    return _concatenate(*tensors, axis=axis_of(axis, tensors[0]))


@primitive
def _concatenate(*tensors: Tensor, axis: int):
    """Join tensors along an axis, counted from the front."""
    ends = np.cumsum([t.shape[axis] for t in tensors]).tolist()

    def part(start: int, end: int):
        index = (slice(None),) * axis + (slice(start, end),)
        return lambda g, y: getitem(g, index=index)

    vjps = tuple(part(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return for_array(tensors[0].data).concatenate([t.data for t in tensors], axis), vjps


# ---- reductions and products -------------------------------------------------------------------------------------


def sum(a: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:  # noqa: A001
    """Sum over an axis, several, or all (None); keepdims leaves them in the shape, of length 1.

    Raises GraphError for an axis that a lacks, or that is named twice.
    """
    axes = range(a.ndim) if axis is None else axes_of(axis, a)
    out = sum_to(a, shape=tuple(1 if i in axes else n for i, n in enumerate(a.shape)))
    return out if keepdims or not axes else reshape(out, shape=tuple(n for i, n in enumerate(a.shape)
                                                                     if i not in axes))


@primitive
def matmul(a: Tensor, b: Tensor):
    """Compute a @ b: matrices (..., n, k) and (..., k, m); leading axes are batches and broadcast.

    A vector is not promoted to a matrix: give it its second axis. Returns (..., n, m). Raises GraphError for other
    shapes, ValueError for batches that do not broadcast.
    """
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise GraphError(f"matmul: {describe(a)} and {describe(b)} do not fit (..., n, k) @ (..., k, m)")
    value = for_array(a.data).matmul(a.data, b.data)
    return value, (lambda g, y: matmul(g, _swapped(b)), lambda g, y: matmul(_swapped(a), g))


def _swapped(a: Tensor) -> Tensor:
    return permute(a, axes=(*range(a.ndim - 2), a.ndim - 1, a.ndim - 2))


# ---- composites: no rule needed ----------------------------------------------------------------------------------


def mean(a: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Average over an axis, several, or all (None); NaN where there is nothing to average.

    keepdims and errors as in `sum`.
    """
    if a.dtype == np.float16:  # whose sum ends at 65,504
        return astype(mean(astype(a, np.float32), axis, keepdims), a.dtype)
    total = sum(a, axis, keepdims)
    return total * (total.size / a.size) if a.size else total * math.nan


def transpose(a: Tensor, *axes: Any) -> Tensor:
    """Reverse the axes, or order them as given: result axis i is axis axes[i] of a.

    axes: integers, one by one or in one sequence. Raises GraphError unless they name each axis once.
    """
    axes = () if len(axes) == 1 and axes[0] is None else unpack(axes, "axes")
    axes = axes_of(axes, a) or range(a.ndim)[::-1]
    if len(axes) != a.ndim:
        raise GraphError(f"the axes {tuple(axes)} do not name each axis of {describe(a)} once")
    return permute(a, axes=tuple(axes))


def clip(a: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Limit a to [low, high]; the gradient is 1 inside and at the bounds, 0 outside.

    low, high: numbers, arrays or tensors, which broadcast; None for no limit. Raises as `add`.
    """
    a = a if low is None else maximum(a, low)
    return a if high is None else minimum(a, high)


def relu(a: Tensor) -> Tensor:
    """Compute max(a, 0), elementwise; slope 1 at 0."""
    return maximum(a, 0.0)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis.

    axis: where it stands in the result. Raises as `concatenate`.
    """
    tensors = tensor_list(tensors, "stack([a, b])")
    at = axis_of(axis, tensors[0], new=1)
    return concatenate([reshape(t, shape=(*t.shape[:at], 1, *t.shape[at:])) for t in tensors], at)


def max_along(a: Tensor, axis: int, keepdims: bool = False) -> Tensor:
    """Return the largest value along one axis; of equal ones the first receives the gradient.

    keepdims leaves the axis in the shape, of length 1. Raises GraphError for an axis that a lacks, ValueError for one
    of length 0.
    """
    axis = axis_of(axis, a)
    best = a.xp.expand_dims(a.data.argmax(axis=axis), axis)
    places = a.xp.arange(a.shape[axis]).reshape([-1 if i == axis else 1 for i in range(a.ndim)])
    return sum(where(places == best, a, 0.0), axis, keepdims)


def log_softmax(a: Tensor, axis: int = -1) -> Tensor:
    """Compute log(e ** a / sum(e ** a)) along an axis; the maximum, which cancels, is subtracted first.

    Returns a's shape. Raises as `max_along`.
    """
    shifted = a - Tensor(a.data.max(axis=axis_of(axis, a), keepdims=True))
    return shifted - log(sum(exp(shifted), axis, keepdims=True))


# ---- operators and methods of Tensor, with NumPy's names ---------------------------------------------------------


Tensor.__add__ = Tensor.__radd__ = lambda a, b: add(a, b)
Tensor.__sub__ = lambda a, b: subtract(a, b)
Tensor.__rsub__ = lambda a, b: subtract(b, a)
Tensor.__mul__ = Tensor.__rmul__ = lambda a, b: multiply(a, b)
Tensor.__truediv__ = lambda a, b: divide(a, b)
Tensor.__rtruediv__ = lambda a, b: divide(b, a)
Tensor.__neg__ = lambda a: negative(a)
Tensor.__pos__ = lambda a: a
Tensor.__abs__ = lambda a: absolute(a)
Tensor.__pow__ = lambda a, b: power(a, b)
Tensor.__rpow__ = lambda a, b: _tensor_power(b, a)
Tensor.__matmul__ = lambda a, b: matmul(a, b)
Tensor.__rmatmul__ = lambda a, b: matmul(b, a)
Tensor.__getitem__ = lambda a, index: getitem(a, index=index)
Tensor.T = property(lambda a: transpose(a))
Tensor.sum, Tensor.mean, Tensor.clip = sum, mean, clip
Tensor.transpose = transpose
Tensor.astype = astype
Tensor.reshape = lambda a, *shape: reshape(a, shape=unpack(shape, "shape"))
Tensor.squeeze = lambda a: reshape(a, shape=tuple(n for n in a.shape if n != 1))
Tensor.max = lambda a, axis=None, keepdims=False: (
    reshape(max_along(reshape(a, shape=(-1,)), 0), shape=(1,) * (a.ndim if keepdims else 0)) if axis is None
    else max_along(a, axis, keepdims))
