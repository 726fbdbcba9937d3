"""The closed set of primitives, and what is built from them.

Each primitive computes its value with plain array code and states one rule (VJP) per input. Rules are written with
primitives (of this file, and the three of engine.py), so they can be differentiated too. Everything below the line
"composites" needs no rule.

Conventions at kinks (where no derivative exists): absolute has slope 0 at 0; maximum and minimum give the whole
gradient to their first argument on ties. So relu(x) = maximum(x, 0) has slope 1 at 0, where most libraries choose 0,
and clip lets the gradient through at its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygan.engine import GraphError, Tensor, add, broadcast_to, describe, primitive, sum_to
from tinygan.kernels import for_array

__all__ = ["absolute", "add", "broadcast_to", "clip", "concatenate", "cos", "divide", "exp", "getitem", "log",
           "log_softmax", "matmul", "max_along", "maximum", "mean", "minimum", "multiply", "negative", "permute",
           "power", "put", "relu", "reshape", "sigmoid", "sin", "softplus", "sqrt", "stack", "subtract", "sum",
           "sum_to", "tanh", "transpose", "where"]

# ---- arithmetic --------------------------------------------------------------------------------------------------


@primitive
def subtract(a: Tensor, b: Tensor):
    """a - b, broadcast."""
    return a.data - b.data, (lambda g, y: g, lambda g, y: negative(g))


@primitive
def negative(a: Tensor):
    """-a."""
    return -a.data, (lambda g, y: negative(g),)


@primitive
def multiply(a: Tensor, b: Tensor):
    """a * b, elementwise and broadcast."""
    return a.data * b.data, (lambda g, y: g * b, lambda g, y: g * a)


@primitive
def divide(a: Tensor, b: Tensor):
    """a / b, elementwise and broadcast."""
    return a.data / b.data, (lambda g, y: g / b, lambda g, y: negative(g * y / b))


@primitive
def power(a: Tensor, *, exponent: float):
    """a ** exponent for a constant exponent."""
    p = float(exponent)
    if p == 0.0:  # p * a ** (p - 1) is 0 * inf at a = 0
        return a.xp.ones_like(a.data), (None,)
    return a.data ** p, (lambda g, y: g * (p * power(a, exponent=p - 1.0)),)


# ---- elementwise functions ---------------------------------------------------------------------------------------


@primitive
def exp(a: Tensor):
    """e ** a."""
    return a.xp.exp(a.data), (lambda g, y: g * y,)


@primitive
def log(a: Tensor):
    """Natural logarithm."""
    return a.xp.log(a.data), (lambda g, y: g / a,)


@primitive
def sqrt(a: Tensor):
    """Square root. The slope at 0 is infinite: add an epsilon inside the root where 0 can occur."""
    return a.xp.sqrt(a.data), (lambda g, y: g * 0.5 / y,)


@primitive
def sin(a: Tensor):
    """Sine (radians)."""
    return a.xp.sin(a.data), (lambda g, y: g * cos(a),)


@primitive
def cos(a: Tensor):
    """Cosine (radians)."""
    return a.xp.cos(a.data), (lambda g, y: negative(g * sin(a)),)


@primitive
def tanh(a: Tensor):
    """Hyperbolic tangent."""
    return a.xp.tanh(a.data), (lambda g, y: g * (1.0 - y * y),)


@primitive
def sigmoid(a: Tensor):
    """1 / (1 + e ** -a); does not overflow, and small values stay exact."""
    return for_array(a.data).sigmoid(a.data), (lambda g, y: g * y * (1.0 - y),)


@primitive
def softplus(a: Tensor):
    """log(1 + e ** a) without overflow. -log(sigmoid(a)) is softplus(-a): losses on logits use this form."""
    x = a.data
    return a.xp.maximum(x, 0.0) + a.xp.log1p(a.xp.exp(-abs(x))), (lambda g, y: g * sigmoid(a),)


@primitive
def absolute(a: Tensor):
    """|a|; slope 0 at 0."""
    sign = a.xp.sign(a.data)
    return abs(a.data), (lambda g, y: g * Tensor(sign),)


@primitive
def maximum(a: Tensor, b: Tensor):
    """The larger of a and b; on a tie the gradient goes to a."""
    mask = (a.data >= b.data).astype(a.dtype)
    return a.xp.maximum(a.data, b.data), (lambda g, y: g * Tensor(mask), lambda g, y: g * Tensor(1.0 - mask))


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where the condition (a bool array, a constant) holds, b elsewhere; broadcast.

    The condition is an option rather than a tensor: nothing can be differentiated through a yes or no.
    """
    return _where(a, b, condition=condition.data if isinstance(condition, Tensor) else condition)


@primitive
def _where(a: Tensor, b: Tensor, *, condition: Any):
    zero = 0.0
    return a.xp.where(condition, a.data, b.data), (lambda g, y: where(condition, g, zero),
                                                   lambda g, y: where(condition, zero, g))


# ---- shape -------------------------------------------------------------------------------------------------------


@primitive
def reshape(a: Tensor, *, shape: Sequence[int]):
    """The same values in C order under another shape; one length may be -1."""
    return a.data.reshape(shape), (lambda g, y: reshape(g, shape=a.shape),)


@primitive
def permute(a: Tensor, *, axes: Sequence[int]):
    """Axes in another order: result axis i is axis axes[i] of `a` (numpy.transpose)."""
    back = tuple(int(i) for i in np.argsort([i % a.ndim for i in axes]))
    return a.data.transpose(axes), (lambda g, y: permute(g, axes=back),)


@primitive
def getitem(a: Tensor, *, index: Any):
    """a[index] as NumPy indexes: integers, slices, None, Ellipsis, integer or bool arrays (constants)."""
    return a.data[index], (lambda g, y: put(g, index=index, shape=a.shape),)


@primitive
def put(a: Tensor, *, index: Any, shape: tuple[int, ...]):
    """Zeros of `shape` with `a` added at [index]; what an index array names twice receives both (NumPy's add.at)."""
    out = a.xp.zeros(shape, dtype=a.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if any(hasattr(part, "dtype") or isinstance(part, list) for part in parts):
        a.xp.add.at(out, index, a.data)
    else:
        out[index] = a.data
    return out, (lambda g, y: getitem(g, index=index),)


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join along an axis that exists."""
    return _concatenate(*tensors, axis=_axis(axis, tensors[0]))


@primitive
def _concatenate(*tensors: Tensor, axis: int):
    ends = np.cumsum([t.shape[axis] for t in tensors]).tolist()

    def part(start: int, end: int):
        index = (slice(None),) * axis + (slice(start, end),)
        return lambda g, y: getitem(g, index=index)

    vjps = tuple(part(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return tensors[0].xp.concatenate([t.data for t in tensors], axis=axis), vjps


# ---- reductions and products -------------------------------------------------------------------------------------


def sum(a: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:  # noqa: A001
    """Sum over an axis, several, or all."""
    axes = range(a.ndim) if axis is None else [_axis(i, a) for i in ((axis,) if np.ndim(axis) == 0 else axis)]
    out = sum_to(a, shape=tuple(1 if i in axes else n for i, n in enumerate(a.shape)))
    return out if keepdims or not axes else reshape(out, shape=tuple(n for i, n in enumerate(a.shape)
                                                                     if i not in axes))


def _axis(axis: int, a: Tensor, new: int = 0) -> int:
    """The axis counted from the front, of `a` with `new` more axes."""
    ndim = a.ndim + new
    if not -ndim <= axis < ndim:
        raise GraphError(f"{describe(a)} has no axis {axis}")
    return int(axis) % ndim


@primitive
def matmul(a: Tensor, b: Tensor):
    """a @ b: matrices (..., n, k) and (..., k, m); leading axes are batches and broadcast.

    A vector is not promoted to a matrix: give it its second axis.
    """
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise GraphError(f"matmul: {describe(a)} and {describe(b)} do not fit (..., n, k) @ (..., k, m)")
    return a.data @ b.data, (lambda g, y: matmul(g, _swapped(b)), lambda g, y: matmul(_swapped(a), g))


def _swapped(a: Tensor) -> Tensor:
    return permute(a, axes=(*range(a.ndim - 2), a.ndim - 1, a.ndim - 2))


# ---- composites: no rule needed ----------------------------------------------------------------------------------


def mean(a: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Average over an axis, several, or all."""
    total = sum(a, axis, keepdims)
    return total * (total.size / a.size) if a.size else total * math.nan


def transpose(a: Tensor, *axes: Any) -> Tensor:
    """Axes reversed, or in the order given."""
    if len(axes) == 1 and not isinstance(axes[0], int):
        axes = tuple(axes[0])
    return permute(a, axes=axes or tuple(range(a.ndim))[::-1])


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of a and b; on a tie the gradient goes to a."""
    return negative(maximum(-a, -b))


def clip(a: Tensor, low: float, high: float) -> Tensor:
    """a limited to [low, high]; gradient 1 inside and at the bounds, 0 outside."""
    return minimum(maximum(a, low), high)


def relu(a: Tensor) -> Tensor:
    """max(a, 0)."""
    return maximum(a, 0.0)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join along a new axis."""
    at = _axis(axis, tensors[0], new=1)
    return concatenate([reshape(t, shape=(*t.shape[:at], 1, *t.shape[at:])) for t in tensors], at)


def max_along(a: Tensor, axis: int, keepdims: bool = False) -> Tensor:
    """Largest value along one axis; on ties the gradient goes to the first of them."""
    axis = _axis(axis, a)
    best = a.xp.expand_dims(a.data.argmax(axis=axis), axis)
    places = a.xp.arange(a.shape[axis]).reshape([-1 if i == axis else 1 for i in range(a.ndim)])
    return sum(where(places == best, a, 0.0), axis, keepdims)


def log_softmax(a: Tensor, axis: int = -1) -> Tensor:
    """log(e ** a / sum(e ** a)) along an axis; the maximum is subtracted first (a constant: it cancels)."""
    shifted = a - Tensor(a.data.max(axis=axis, keepdims=True))
    return shifted - log(sum(exp(shifted), axis, keepdims=True))


def _varargs(method):
    """NumPy's reshape(2, 3) beside reshape((2, 3))."""
    return lambda self, *n: method(self, n[0] if len(n) == 1 and not isinstance(n[0], int) else n)


# ---- operators and methods of Tensor, with NumPy's names ---------------------------------------------------------


def _power(a: Tensor, b: Any) -> Tensor:
    """a ** b: a constant number is a primitive of its own; a tensor needs a > 0."""
    return exp(b * log(a)) if isinstance(b, Tensor) else power(a, exponent=b)


Tensor.__add__ = Tensor.__radd__ = lambda a, b: add(a, b)
Tensor.__sub__ = lambda a, b: subtract(a, b)
Tensor.__rsub__ = lambda a, b: add(negative(a), b)
Tensor.__mul__ = Tensor.__rmul__ = lambda a, b: multiply(a, b)
Tensor.__truediv__ = lambda a, b: divide(a, b)
Tensor.__rtruediv__ = lambda a, b: multiply(power(a, exponent=-1.0), b)
Tensor.__neg__ = lambda a: negative(a)
Tensor.__abs__ = lambda a: absolute(a)
Tensor.__pow__ = _power
Tensor.__rpow__ = lambda a, b: exp(a * math.log(b))
Tensor.__matmul__ = lambda a, b: matmul(a, b)
Tensor.__rmatmul__ = lambda a, b: matmul(Tensor(b), a)
Tensor.__getitem__ = lambda a, index: getitem(a, index=index)
Tensor.T = property(lambda a: transpose(a))
Tensor.sum, Tensor.mean, Tensor.clip = sum, mean, clip
Tensor.transpose = transpose
Tensor.reshape = _varargs(lambda a, shape: reshape(a, shape=tuple(shape)))
Tensor.squeeze = lambda a: reshape(a, shape=tuple(n for n in a.shape if n != 1))
Tensor.max = lambda a, axis=None, keepdims=False: (
    max_along(reshape(a, shape=(-1,)), 0) if axis is None else max_along(a, axis, keepdims))
