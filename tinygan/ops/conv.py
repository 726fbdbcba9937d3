"""Convolution, transposed convolution and the weight gradient, whose gradients are one another; with banks of filters.

Take a small map s (N, A, h, w), a big map b (N, B, H, W) and a weight w (A, B, kh, kw). Every small pixel lies over a
window of kh x kw big pixels, and windows are `stride` apart. Multiply the small pixel, each tap of the weight and the
big pixel under that tap, and add these products over samples, channels of both maps, small pixels and taps. This sum,

    sum of   s * w * b,

is linear in each of the three. Its derivative with respect to s is the convolution of b; with respect to b, the
transposed convolution of s; with respect to w, the weight gradient. So each of the three maps is made of two of
(s, b, w), and its two VJPs are the other two maps: gradients of any order need no other operation. The code calls this
the triangle.

A weight is a *bank* of K filter sets (K, A, B, k, k), and `routes` gives the set of each sample.
An ordinary convolution has a bank of one. Samples that share a set are multiplied together; no weight is copied
per sample; a set that no sample uses costs no multiplication and receives exactly zero gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygan.engine.tensor import Tensor, describe, primitive
from tinygan.errors import GraphError
from tinygan.kernels import for_array
from tinygan.kernels.arguments import check_kernel, check_map, pair, whole_numbers, windows
from tinygan.kernels.geometry import small_size
from tinygan.ops.basic import reshape
from tinygan.ops.routes import Route, Routed, route_of

Pair = int | tuple[int, int]


def conv2d(x: Tensor, weight: Tensor, *, stride: Pair = 1, padding: Pair = 0,
           routes: Routed = None) -> Tensor:
    """Cross-correlate x with filters: y[n, a, i, j] = sum x[n, b, s i + u - p, s j + v - p] w[r_n, a, b, u, v].

    x: (N, B, H, W). weight: (K, A, B, kh, kw), or (A, B, kh, kw) for a bank of one.
    stride, padding: pixels, one number or (rows, columns). routes: N host integers in [0, K) or a Route, if K > 1.
    Returns (N, A, h, w) with h = (H + 2p - kh) // s + 1. Raises GraphError where shapes or routes do not fit.
    """
    weight, stride, padding = _prepare("conv2d", x, weight, 2, stride, padding)
    check_kernel("conv2d", x, weight.shape[3:], padding)
    return _conv(x, weight, stride=stride, padding=padding, routes=route_of(routes, len(x), len(weight)))


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: Pair = 1, padding: Pair = 0,
                     routes: Routed = None, output_size: tuple[int, int] | None = None) -> Tensor:
    """Apply the transpose (adjoint) of conv2d: each input pixel adds a k x k patch, patches are s pixels apart.

    x: (N, A, h, w). weight: (K, A, B, kh, kw), or (A, B, kh, kw); A is the number of input channels.
    stride, padding: pixels, one number or (rows, columns). routes: N host integers in [0, K) or a Route, if K > 1.
    output_size: (H, W) of the result, s (h - 1) + k - 2p if left out. A convolution drops up to s - 1 rows, so any
        H with (H + 2p - k) // s + 1 == h is allowed.
    Returns (N, B, H, W). Raises GraphError where shapes, sizes or routes do not fit.
    """
    weight, stride, padding = _prepare("conv_transpose2d", x, weight, 1, stride, padding)
    kernel = weight.shape[3:]
    smallest = tuple(s * (n - 1) + k - 2 * p
                     for n, s, k, p in zip(x.shape[2:], stride, kernel, padding, strict=True))
    size = pair(output_size) if output_size is not None else smallest
    if any(not low <= n < low + s for n, low, s in zip(size, smallest, stride, strict=True)) or min(size) < 1:
        raise GraphError(f"conv_transpose2d: {describe(x)} with kernel {kernel}, stride {stride}, padding {padding} "
                         f"gives {smallest} to {tuple(n + s - 1 for n, s in zip(smallest, stride, strict=True))} "
                         f"pixels, not {size}")
    return _conv_transpose(x, weight, stride=stride, padding=padding, output_size=size,
                           routes=route_of(routes, len(x), len(weight)))


def conv2d_weight(big: Tensor, small: Tensor, *, kernel: Pair, stride: Pair = 1, padding: Pair = 0,
                  routes: Routed = None, bank: int = 1) -> Tensor:
    """Compute the weight gradient w[r, a, b, u, v] = sum of small[n, a, i, j] big[n, b, s i + u - p, s j + v - p].

    The sum runs over i, j and the samples n of route r.
    big: (N, B, H, W), small: (N, A, h, w). Returns (K, A, B, kh, kw); sets without a sample are exactly zero, and
    the result's `rows`, a bool mask over K, marks those that had one.
    kernel, stride, padding: pixels, one number or (rows, columns). routes: N host integers in [0, bank) or a Route.
    Raises GraphError where sizes or routes do not fit.
    """
    kernel, stride, padding = windows("conv2d_weight", kernel, stride, padding)
    check_map("conv2d_weight", big)
    check_map("conv2d_weight", small)
    (bank,) = whole_numbers(bank, "bank")
    fits = tuple(map(small_size, big.shape[2:], kernel, stride, padding))
    if len(big) != len(small) or fits != small.shape[2:]:
        raise GraphError(f"conv2d_weight: {describe(big)} and {describe(small)} do not belong together with kernel "
                         f"{kernel}, stride {stride}, padding {padding}")
    return _weight_gradient(big, small, kernel=kernel, stride=stride, padding=padding, bank=bank,
                            routes=route_of(routes, len(big), bank))


# ---- the triangle: each VJP is one of the other two --------------------------------------------------------------


@primitive
def _conv(big: Tensor, weight: Tensor, *, stride: tuple, padding: tuple, routes: Route | None):
    """Compute the small map from the big one."""
    same = {"stride": stride, "padding": padding, "routes": routes}
    value = for_array(big.data).conv(big.data, weight.data, stride, padding, _indices(routes))
    return value, (lambda g, y: _conv_transpose(g, weight, output_size=big.shape[2:], **same),
                   lambda g, y: _weight_gradient(big, g, kernel=weight.shape[3:], bank=len(weight), **same))


@primitive
def _conv_transpose(small: Tensor, weight: Tensor, *, stride: tuple, padding: tuple, routes: Route | None,
                    output_size: tuple):
    """Compute the big map from the small one."""
    same = {"stride": stride, "padding": padding, "routes": routes}
    value = for_array(small.data).conv_transpose(small.data, weight.data, stride, padding, _indices(routes),
                                                 output_size)
    return value, (lambda g, y: _conv(g, weight, **same),
                   lambda g, y: _weight_gradient(g, small, kernel=weight.shape[3:], bank=len(weight), **same))


@primitive
def _conv_weight(big: Tensor, small: Tensor, *, kernel: tuple, stride: tuple, padding: tuple,
                 routes: Route | None, bank: int):
    """Compute the weight from both maps."""
    same = {"stride": stride, "padding": padding, "routes": routes}
    value = for_array(big.data).conv_weight(big.data, small.data, kernel, stride, padding, _indices(routes), bank)
    return value, (lambda g, y: _conv_transpose(small, g, output_size=big.shape[2:], **same),
                   lambda g, y: _conv(big, g, **same))


def _weight_gradient(big: Tensor, small: Tensor, *, routes: Route | None, bank: int, **geometry: Any) -> Tensor:
    """Compute the weight gradient, and mark the filter sets that took part."""
    out = _conv_weight(big, small, routes=routes, bank=bank, **geometry)
    out.rows = None if routes is None else routes.used
    return out


# ---- checks ------------------------------------------------------------------------------------------------------


def _indices(routes: Route | None) -> np.ndarray | None:
    """Return the integers that the kernels take."""
    return None if routes is None else routes.indices


def _prepare(name: str, x: Tensor, weight: Tensor, channel_axis: int, stride: Pair, padding: Pair) -> tuple:
    """Read the arguments of a convolution: the weight as a bank, stride and padding as (rows, columns)."""
    if not isinstance(x, Tensor) or not isinstance(weight, Tensor) or x.ndim != 4 or weight.ndim not in (4, 5):
        raise GraphError(f"{name}: x must be (N, C, H, W) and weight (K, ., ., kh, kw) or (., ., kh, kw), "
                         f"got {describe(x)} and {describe(weight)}")
    if weight.ndim == 4:
        weight = reshape(weight, shape=(1, *weight.shape))
    if x.shape[1] != weight.shape[channel_axis]:
        raise GraphError(f"{name}: {describe(x)} has {x.shape[1]} channels, {describe(weight)} takes "
                         f"{weight.shape[channel_axis]}")
    _, stride, padding = windows(name, weight.shape[3:], stride, padding)
    return weight, stride, padding
