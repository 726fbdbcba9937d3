"""TPReLU and its two derivatives as fused passes over memory.

The idea: written as separate array expressions an activation reads and writes main memory once per operator,
and that traffic is its whole cost. Here a block of memory that fits the cache goes through all the operators
before the next one is touched, and blocks spread over the threads.

Maps are (N, C, ...), reshaped here to a matrix (pixels, C), which is a view for channels-last memory. A vector of
C numbers per channel meets it tiled: NumPy's inner loop is as long as the last axis, and for 16 channels the
bookkeeping per row would cost more than the row. So r pixels become one row of r*C numbers.
"""

import math

import numpy as np

from tinygan.kernels import threads

INNER = 1024  # wanted length of NumPy's inner loop


def tprelu(x: np.ndarray, slope: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """Compute the translated PReLU, y = max(x - t, 0) + a min(x - t, 0) + t (Xiang and Li, arXiv:1704.03971).

    x (N, C, ...); slope a and shift t (C,), one per channel; shift None: t = 0, the plain PReLU.
    """
    rows, tile = _as_rows(x)
    y, out = _result(x, rows)
    a = _repeated(slope, tile)
    # The negative branch a (x - t) + t is one line a x + b. For a <= 1 it lies above x exactly where x < t.
    b = None if shift is None else _repeated((1 - slope) * shift, tile)
    upper = bool((slope <= 1).all())
    threshold = 0 if shift is None else _repeated(shift, tile)

    def job(block: slice) -> None:
        u, v = rows[block], y[block]
        np.multiply(u, a, out=v)
        if b is not None:
            v += b
        if upper:
            np.maximum(u, v, out=v)
        else:
            np.copyto(v, u, where=u > threshold)

    _run(job, rows)
    return out


def tprelu_dx(g: np.ndarray, x: np.ndarray, slope: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """Compute its gradient to x: g where x > t, else a g (at the kink x == t: a g)."""
    rows, tile = _as_rows(x)
    cotangent, _ = _as_rows(g)
    y, out = _result(x, rows)
    drop = _repeated(slope - 1, tile)
    threshold = 0 if shift is None else _repeated(shift, tile)

    def job(block: slice) -> None:
        # The factor 1 + [x <= t] (a - 1): arithmetic, for a select mispredicts random signs (5x slower).
        u, v = rows[block], y[block]
        below = threads.scratch("mask", u.shape, np.bool_)
        np.less_equal(u, threshold, out=below)
        np.multiply(below, drop, out=v)
        v += 1
        v *= cotangent[block]

    _run(job, rows)
    return out


def tprelu_dslope(g: np.ndarray, x: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """Compute its gradient to the slope, (C,): per channel, the sum of g (x - t) over x <= t."""

    def below(u, h, threshold, work):
        np.subtract(u, threshold, out=work)
        np.minimum(work, 0, out=work)
        work *= h

    return _sum_per_channel(below, g, x, shift)


def tprelu_below(g: np.ndarray, x: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """Sum g over x <= t per channel, (C,); times 1 - a it is the gradient to the shift."""

    def below(u, h, threshold, work):
        mask = threads.scratch("mask", u.shape, np.bool_)
        np.less_equal(u, threshold, out=mask)
        np.multiply(h, mask, out=work)

    return _sum_per_channel(below, g, x, shift)


def _sum_per_channel(below, g: np.ndarray, x: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    """Sum over samples and pixels of what `below(x, g, t, out)` writes into `out`."""
    rows, tile = _as_rows(x)
    cotangent, _ = _as_rows(g)
    blocks = _blocks(rows)
    partial = np.zeros((len(blocks), rows.shape[1]), x.dtype)  # by block, to be added in a fixed order
    threshold = 0 if shift is None else _repeated(shift, tile)

    def job(number: int) -> None:
        u, h = rows[blocks[number]], cotangent[blocks[number]]
        work = threads.scratch("work", u.shape, u.dtype)
        below(u, h, threshold, work)
        np.add.reduce(work, axis=0, out=partial[number])

    threads.run([lambda number=number: job(number) for number in range(len(blocks))],
                worth_it=rows.size >= threads.MANY)
    return partial.sum(axis=0).reshape(tile, x.shape[1]).sum(axis=0)


def _as_rows(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Reshape x to a matrix (pixels / r, r * C), and return r: a view if x is channels-last in memory, else a copy."""
    channels = x.shape[1]
    pixels = x.size // channels if channels else 0
    wanted = 1 << max(0, math.ceil(math.log2(INNER / max(1, channels))))
    tile = math.gcd(pixels, wanted) or 1
    return x.transpose(0, *range(2, x.ndim), 1).reshape(pixels // tile, tile * channels), tile


def _result(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Allocate an array like x in channels-last memory: as matrix, and as (N, C, ...)."""
    out = np.empty((x.shape[0], *x.shape[2:], x.shape[1]), x.dtype)
    return out.reshape(rows.shape), out.transpose(0, -1, *range(1, out.ndim - 1))


def _repeated(values: np.ndarray, times: int) -> np.ndarray:
    """Repeat a vector, as np.tile does at ten times the cost of a call."""
    return np.concatenate([values] * times)


def _blocks(rows: np.ndarray) -> list[slice]:
    step = max(1, threads.BLOCK // max(1, rows.shape[1]))
    return [slice(start, start + step) for start in range(0, rows.shape[0], step)]


def _run(job, rows: np.ndarray) -> None:
    threads.run([lambda block=block: job(block) for block in _blocks(rows)], worth_it=rows.size >= threads.MANY)
