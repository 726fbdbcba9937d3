"""Which pixels belong together: sizes and overlaps of convolutions, sampling positions of affine maps.

The kernels for any array, for the CPU and for the GPU all use these, so that they agree on every border pixel.
"""

from __future__ import annotations

import numpy as np

Pair = tuple[int, int]


def small_size(big: int, kernel: int, stride: int, padding: int) -> int:
    """Compute how many pixels the small map of a convolution has along an axis."""
    return (big + 2 * padding - kernel) // stride + 1


def overlap(small: int, offset: int, stride: int, big: int) -> tuple[slice, slice]:
    """Find the small pixels y whose big pixel y*stride + offset lies in [0, big), and those big pixels, as slices."""
    first = max(0, -(offset // stride))
    last = min(small, (big - 1 - offset) // stride + 1)
    if last <= first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last), slice(first * stride + offset, (last - 1) * stride + offset + 1, stride)


def positions(matrix: np.ndarray, rows: np.ndarray, width: int) -> list[np.ndarray]:
    """Compute where the pixels in `rows` (h,) of a view are sampled from: row and column, each (h, width).

    matrix: (2, 3). The position is (a i + b j) + c, with one rounding each, in the dtype of the maps. Every version of
    the kernels computes it in this order, so all take the same taps.
    """
    i, j = rows.astype(matrix.dtype)[:, None], np.arange(width, dtype=matrix.dtype)
    return [(a * i + b * j) + c for a, b, c in matrix]


def interpolation_matrix(n: int, m: int, antialias: bool = False) -> np.ndarray:
    """Return the (m, n) matrix of linear interpolation from n to m samples; every row sums to 1."""
    scale = n / m
    reach = max(scale, 1.0) if antialias else 1.0
    centre = (np.arange(m)[:, None] + 0.5) * scale - 0.5
    if not antialias:
        centre = centre.clip(0, n - 1)  # the border pixel is repeated
    weights = np.maximum(0.0, 1.0 - abs(np.arange(n)[None, :] - centre) / reach)
    return weights / weights.sum(axis=1, keepdims=True)
