"""2x2 max pooling on NumPy in few passes: whole rows are compared, and which pixel won is a byte.

Other windows are left to class Kernels. Maps are channels-last in memory, so a row of pixels is one long run; a few
rows at a time go through all passes while they are in a core's cache, and the jobs go to the threads.
"""

import numpy as np

from tinygan.kernels import threads
from tinygan.kernels.base import Kernels


def max_pool(x: np.ndarray, size: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the largest of each window of x (N, C, H, W) and its number in row order, both (N, C, h, w).

    The first of equals wins; a NaN is passed on.
    """
    if (size, stride) != (2, 2):
        return Kernels.max_pool(x, size, stride)
    maps = x.transpose(0, 2, 3, 1)
    n_samples, height, width, channels = maps.shape
    h, w = height // 2, width // 2
    best = np.empty((n_samples, h, w, channels), x.dtype)
    which = np.empty(best.shape, np.uint8)

    def job(n: int, top: int, bottom: int) -> None:
        upper, lower = (maps[n, first:2 * bottom:2, :2 * w] for first in (2 * top, 2 * top + 1))  # whole rows
        higher = np.maximum(upper, lower, out=threads.scratch("higher", upper.shape, x.dtype))
        largest, number = best[n, top:bottom], which[n, top:bottom]
        np.maximum(higher[:, ::2], higher[:, 1::2], out=largest)
        if np.isnan(largest).any():  # nothing equals a NaN
            window = x[n:n + 1, :, 2 * top:2 * bottom]
            number[...] = Kernels.max_pool(window, 2, 2)[1][0].transpose(1, 2, 0)
            return
        missed = threads.scratch("missed", (3, *largest.shape), np.bool_)
        for i in range(3):
            np.not_equal(_corner(maps, n, top, bottom, i), largest, out=missed[i])
        missed[1] &= missed[0]
        missed[2] &= missed[1]  # the winner's number is how many in front of it are smaller
        np.add(missed[0].view(np.uint8), missed[1].view(np.uint8), out=number)
        number += missed[2].view(np.uint8)

    _run(job, n_samples, h, 4 * w * channels)
    return best.transpose(0, 3, 1, 2), which.transpose(0, 3, 1, 2)


def pool_take(x: np.ndarray, which: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Take from each window of x (N, C, H, W) the pixel whose number `which` (N, C, h, w) gives."""
    if (size, stride) != (2, 2):
        return Kernels.pool_take(x, which, size, stride)
    maps, which = x.transpose(0, 2, 3, 1), which.transpose(0, 2, 3, 1)
    out = np.empty(which.shape, x.dtype)
    n_samples, h, w, channels = which.shape

    def job(n: int, top: int, bottom: int) -> None:
        taken, one = out[n, top:bottom], threads.scratch("one", (bottom - top, w, channels), x.dtype)
        bits = taken.view(f"i{x.itemsize}")
        bits[...] = 0
        for i in range(4):
            zero_unless(_is(which[n, top:bottom], i), _corner(maps, n, top, bottom, i), one)
            bits |= one.view(bits.dtype)

    _run(job, n_samples, h, 4 * w * channels)
    return out.transpose(0, 3, 1, 2)


def pool_put(g: np.ndarray, which: np.ndarray, size: int, stride: int, shape: tuple[int, ...]) -> np.ndarray:
    """Apply the transpose of pool_take: g (N, C, h, w) -> zeros of `shape` with each number where it was taken."""
    if (size, stride) != (2, 2):
        return Kernels.pool_put(g, which, size, stride, shape)
    n_samples, channels, height, width = shape
    h, w = which.shape[2:]
    out = np.empty((n_samples, height, width, channels), g.dtype)
    out[:, 2 * h:] = 0
    out[:, :, 2 * w:] = 0
    g, which = g.transpose(0, 2, 3, 1), which.transpose(0, 2, 3, 1)

    def job(n: int, top: int, bottom: int) -> None:
        for i in range(4):
            zero_unless(_is(which[n, top:bottom], i), g[n, top:bottom], _corner(out, n, top, bottom, i))

    _run(job, n_samples, h, 4 * w * channels)
    return out.transpose(0, 3, 1, 2)


def zero_unless(keep: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Write values to out where keep is True, else 0, all of one shape; `keep` (bool) is used up.

    With masks of bits: a choice by where() mispredicts random signs and takes ten times as long, and a product with
    0 or 1 would turn infinities into NaN.
    """
    every = keep.view(np.int8)
    np.negative(every, out=every)  # 1 becomes -1: all bits set
    bits = out.view(f"i{out.itemsize}")
    bits[...] = every
    bits &= values.view(bits.dtype)


def _corner(maps: np.ndarray, n: int, top: int, bottom: int, i: int) -> np.ndarray:
    """Return pixel i of each window in rows top to bottom - 1 of windows of maps (N, H, W, C): (rows, w, C)."""
    return maps[n, 2 * top + i // 2:2 * bottom:2, i % 2:maps.shape[2] // 2 * 2:2]


def _is(which: np.ndarray, i: int) -> np.ndarray:
    return np.equal(which, i, out=threads.scratch("is", which.shape, np.bool_))


def _run(job, n_samples: int, rows: int, row_size: int) -> None:
    """Call job(sample, first row, end) for all rows, a block of numbers at a time."""
    step = max(1, threads.BLOCK // max(1, row_size))
    threads.run([lambda n=n, top=top: job(n, top, min(rows, top + step))
                 for n in range(n_samples) for top in range(0, rows, step)],
                worth_it=n_samples * rows * row_size >= threads.MANY)
