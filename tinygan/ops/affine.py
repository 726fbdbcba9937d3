"""Affine resampling of images, and a 3 x 3 blur: linear operations, each with its exact transpose as VJP.

Each pixel of the result of `warp` reads the image at the point that an affine map gives, and interpolates between the
four pixels around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygan.engine.tensor import Tensor, describe, primitive
from tinygan.errors import GraphError
from tinygan.kernels import for_array
from tinygan.kernels.arguments import check_map, copy_integers, pair
from tinygan.kernels.host import renewed
from tinygan.ops.conv import Pair

MOST_ENTRY = 1e6  # of a matrix, in pixels: beyond it lies no image, and float32 would overflow


def warp(x: Tensor, matrices: np.ndarray, size: Pair, sources: Sequence[int] | None = None) -> Tensor:
    """Resample x: pixel (i, j) of view m is x at (row, column) = matrices[m] @ (i, j, 1), by bilinear interpolation.

    x: (N, C, H, W). matrices: (M, 2, 3) on the host; pixel centres lie at whole numbers, outside the image is 0.
    sources: M host integers, the image that each view shows; left out, view m shows image m.
    size: of the views in pixels, one number or (rows, columns). Returns (M, C, *size). Linear in x, with its exact
    transpose as VJP. Any matrix will do, a singular one too.
    Raises GraphError for shapes that do not fit, images that are not there, and entries that are no numbers or
    larger than 1e6.
    """
    given, size = matrices, pair(size)
    matrices = renewed(x.data, lambda: np.array(given), given)
    if x.ndim != 4 or 0 in x.shape[2:] or min(size) < 1 or matrices.ndim != 3 or matrices.shape[1:] != (2, 3):
        raise GraphError(f"warp: expected images (N, C, H, W), matrices (M, 2, 3) and a size, got {describe(x)}, "
                         f"matrices {matrices.shape} and size {size}")
    named, images = range(len(matrices)) if sources is None else sources, len(x)
    sources = renewed(x.data, lambda: copy_integers(named, "sources", len(matrices), images), named)
    if not (np.abs(matrices) <= MOST_ENTRY).all():  # a NaN fails this, too
        raise GraphError(f"warp: the matrices must hold numbers of at most {MOST_ENTRY:g} (pixels)")
    return _warp(x, matrices=matrices, sources=sources, size=size)


@primitive
def _warp(x: Tensor, *, matrices: np.ndarray, sources: np.ndarray, size: tuple[int, int]):
    """Resample x, with arguments that `warp` has checked."""
    value = for_array(x.data).warp(x.data, matrices, sources, size)
    return value, (lambda g, y: _warp_back(g, matrices=matrices, sources=sources, shape=x.shape),)


@primitive
def _warp_back(g: Tensor, *, matrices: np.ndarray, sources: np.ndarray, shape: tuple[int, ...]):
    """Apply the transpose of _warp: each pixel of a view adds to the four pixels it was interpolated from."""
    value = for_array(g.data).warp_back(g.data, matrices, sources, shape)
    return value, (lambda gg, y: _warp(gg, matrices=matrices, sources=sources, size=g.shape[2:]),)


@primitive
def blur(x: Tensor):
    """Blur maps with the weights 1/4, 1/2, 1/4 along rows and columns, the border pixel repeated.

    x: (N, C, H, W); returns the same shape. The map is symmetric, also at the border, so it is its own transpose.
    The weights are our choice: the smallest binomial filter. Raises GraphError for another number of axes.
    """
    check_map("blur", x)
    return for_array(x.data).blur(x.data), (lambda g, y: blur(g),)
