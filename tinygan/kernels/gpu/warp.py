"""Bilinear sampling of images along an affine map on a GPU, and its transpose: one kernel of kernels.cu each.

The transpose gathers: a pixel of the image collects from the pixels of the views that were sampled near it, in a fixed
order, so there are no atomics and the bits are the same every time. Which pixels those are follows from the inverse of
the affine map; it is computed here, in float64, with room for what rounding does to positions in float32. A matrix
without an inverse, or nearly so, gets all rows, of which the kernel then skips most.

Definitions are in reference.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygan.kernels.arrays import xp_of
from tinygan.kernels.gpu.conv import channel_rows
from tinygan.kernels.gpu.feed import sent
from tinygan.kernels.gpu.launch import blocks_for, launch

ROUNDING = 2.0**-21  # a few roundings of float32, of a number of size 1
FARTHEST = 2.0**19  # rows from the view, up to which float32 finds a row to within a quarter


def warp(x: Any, matrices: np.ndarray, sources: np.ndarray, size: tuple[int, int]) -> Any:
    """Sample views (M, C, *size) from x (N, C, H, W); matrices (M, 2, 3), sources (M,) on the host."""
    rows, xp = channel_rows(x), xp_of(x)
    out = xp.empty((x.shape[1], len(matrices), *size), np.float32)
    if out.size:
        launch("warp", blocks_for(out.size // len(out)), rows, out, sent(lambda: matrices.astype(np.float32), matrices),
               sent(lambda: sources.astype(np.int32), sources), *rows.shape[:2], len(matrices), *rows.shape[2:], *size)
    return out.swapaxes(0, 1)


def warp_back(g: Any, matrices: np.ndarray, sources: np.ndarray, shape: tuple) -> Any:
    """Apply the transpose: g (M, C, h, w) -> `shape` (N, C, H, W)."""
    rows, xp = channel_rows(g), xp_of(g)
    out = xp.empty((shape[1], shape[0], *shape[2:]), np.float32)
    if out.size:
        def single() -> np.ndarray:
            """Return the matrices as the kernel reads them."""
            return matrices.astype(np.float32)

        size, limits = g.shape[2:], shape[2:]
        both = sent(lambda: np.concatenate(views_of_images(sources, shape[0])), sources)
        tables = [sent(single, matrices), sent(lambda: inverse(single(), size, limits), matrices),
                  both[:len(matrices)], both[len(matrices):]]
        launch("warp_back", blocks_for(out.size // len(out)), rows, out, *tables, *out.shape[:2], len(matrices),
               *out.shape[2:], *rows.shape[2:])
    return out.swapaxes(0, 1)


def views_of_images(sources: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort the views by image (M,), and find where those of each image begin (images + 1,); int32."""
    order = np.argsort(sources, kind="stable")
    return order.astype(np.int32), np.searchsorted(sources[order], np.arange(images + 1)).astype(np.int32)


def inverse(matrices: np.ndarray, size: tuple[int, int], limits: tuple[int, int]) -> np.ndarray:
    """Compute p, q, s, reach, slack (M, 5) float32 of each view: row i is sampled less than a pixel from (Y, X) only if
    |p Y + q X + s - i| <= reach; slack: how far a position may be off by rounding.

    size: of the views, limits: of the images, whose pixels (Y, X) are meant.
    """
    (a, b, c), (d, e, f) = matrices.astype(np.float64).transpose(1, 2, 0)
    height, width = size
    slack = ROUNDING * (np.maximum(abs(a) * height + abs(b) * width + abs(c),
                                   abs(d) * height + abs(e) * width + abs(f)) + max(limits))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        p, q = e / (a * e - b * d), -b / (a * e - b * d)
        s = -p * c - q * f
        known = abs(p) * limits[0] + abs(q) * limits[1] + abs(s) < FARTHEST  # a NaN is not
    reach = np.where(known, (abs(p) + abs(q)) * (1 + slack) + 1, height)
    p, q, s = (np.where(known, value, 0.0) for value in (p, q, s))
    return np.stack([p, q, s, reach, slack], axis=1).astype(np.float32)
