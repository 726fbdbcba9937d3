"""Operations that change the size of a map: the maximum and the mean of blocks, and bilinear interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygan.engine.tensor import Tensor, describe, primitive
from tinygan.errors import GraphError
from tinygan.kernels import for_array
from tinygan.kernels.arguments import check_map, pair, square
from tinygan.kernels.geometry import interpolation_matrix
from tinygan.ops.conv import Pair


def max_pool2d(x: Tensor, size: Pair = 2, stride: Pair | None = None) -> Tensor:
    """Take the largest value of each size x size window, windows `stride` (default: size) apart, no padding.

    x: (N, C, H, W); rows and columns that do not fill a window are left out. size, stride: pixels, one number or two
    that are equal. Returns (N, C, h, w) with h = (H - size) // stride + 1. Of equal values the first in row order
    receives the gradient. Raises GraphError for another shape and a window larger than the map.
    """
    size = square("max_pool2d", size)
    stride = size if stride is None else square("max_pool2d", stride)
    check_map("max_pool2d", x)
    if min(x.shape[2:]) < size:
        raise GraphError(f"max_pool2d: {describe(x)} is smaller than the window {size}")
    value, which = for_array(x.data).max_pool(x.data, size, stride)
    return _pool_take(x, which=which, size=size, stride=stride, value=value)


@primitive
def _pool_take(x: Tensor, *, which: Any, size: int, stride: int, value: Any = None):
    """Take from each window the entry that `which` (N, C, h, w) names; linear in x. value: these entries, if known."""
    if value is None:
        value = for_array(x.data).pool_take(x.data, which, size, stride)
    return value, (lambda g, y: _pool_put(g, which=which, size=size, stride=stride, shape=x.shape),)


@primitive
def _pool_put(g: Tensor, *, which: Any, size: int, stride: int, shape: tuple):
    """Apply the transpose of _pool_take: zeros, with each value added where it was taken."""
    value = for_array(g.data).pool_put(g.data, which, size, stride, shape)
    return value, (lambda gg, y: _pool_take(gg, which=which, size=size, stride=stride),)


def mean_pool2d(x: Tensor, size: Pair = 2) -> Tensor:
    """Average each size x size block: (N, C, H, W) -> (N, C, H / size, W / size).

    size: pixels, one number or two that are equal. Raises GraphError where the sides are not multiples of it.
    """
    size = square("mean_pool2d", size)
    check_map("mean_pool2d", x)
    if x.shape[2] % size or x.shape[3] % size:
        raise GraphError(f"mean_pool2d: the sides of {describe(x)} are not multiples of {size}")
    return _mean_pool(x, size=size)


@primitive
def _mean_pool(x: Tensor, *, size: int):
    """Average each size x size block."""
    return for_array(x.data).mean_pool(x.data, size), (lambda g, y: _mean_unpool(g, size=size),)


@primitive
def _mean_unpool(g: Tensor, *, size: int):
    """Apply the transpose of _mean_pool: every pixel of a block gets an equal share."""
    return for_array(g.data).mean_unpool(g.data, size), (lambda gg, y: _mean_pool(gg, size=size),)


def resize_bilinear(x: Tensor, size: Pair, *, antialias: bool = False) -> Tensor:
    """Resize maps by bilinear interpolation between pixel centres (PyTorch's align_corners=False).

    x: (N, C, H, W). size: pixels, (rows, columns) or one number. Returns (N, C, *size). It is two matrix products, one
    per axis, so its adjoint is exact. antialias: widen the triangle when shrinking, as image libraries do, so that no
    pixel is skipped. Raises GraphError for another shape or a size below 1.
    """
    size = pair(size)
    check_map("resize_bilinear", x)
    if min(*size, *x.shape[2:]) < 1:
        raise GraphError(f"resize_bilinear: expected a map and sizes of 1 or more, got {describe(x)} and {size}")
    rows, columns = (interpolation_matrix(n, m, antialias) for n, m in zip(x.shape[2:], size, strict=True))
    return _resize(x, rows=rows, columns=columns)


@primitive
def _resize(x: Tensor, *, rows: np.ndarray, columns: np.ndarray):
    """Compute rows @ x @ columns.T for each map; the transpose is the same with both matrices transposed."""
    return for_array(x.data).resize(x.data, rows, columns), (lambda g, y: _resize(g, rows=rows.T, columns=columns.T),)
