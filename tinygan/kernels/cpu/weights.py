"""Passes over the weights: weight normalisation, RMSprop, Adam and the moving average.

With 16 filter sets a layer the weights outweigh the images, so these passes count: an optimiser reads its arrays
from main memory once and normalisation twice (for the lengths, then to divide by them), and each does all its
arithmetic on a block in the cache and moves on. `rows` names the filter
sets (axis 0) that take part, as a mask (K,) or None for all; the others are not even read.

Weights are (K, A, B, kh, kw) in the memory order (K, A, kh, kw, B); any other order is copied into that one
first.
"""

import math
from collections.abc import Sequence

import numpy as np

from tinygan.kernels import threads

# ---- weight normalisation ------------------------------------------------------------


def normalize(w: np.ndarray, out_axis: int, scale: float, eps: float,
              rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Compute v = w / n, n = sqrt(scale * sum w^2 + eps) per filter set and output channel; returns (v, n).

    w (K, A, B, kh, kw); n (K, channels). Sets not in `rows`: v = 0 and n = 1.
    out_axis: where the output channels are, 1 (A: conv, linear) or 2 (B: transposed convolution).
    scale: 1, or 1/(s_h s_w) for a transposed convolution, where an output pixel meets only that share of the
    taps (Xiang and Li, arXiv:1704.03971).
    """
    flat = _memory_order(w)
    n = _norms(flat, out_axis, scale, eps, rows)
    v = np.empty_like(flat)
    _combine(v, [(flat, 1 / n)], out_axis, rows)
    return _logical(v, w.shape), n


def normalize_dx(g: np.ndarray, w: np.ndarray, n: np.ndarray, out_axis: int, scale: float,
                 rows: np.ndarray | None = None) -> np.ndarray:
    """Compute its gradient to w: (g - scale (sum w g) w / n^2) / n per channel; 0 for sets not in `rows`."""
    flat, cotangent = _memory_order(w), _memory_order(g)
    dot = _channel_sums(flat, cotangent, out_axis, rows)
    out = np.empty_like(flat)
    _combine(out, [(cotangent, 1 / n), (flat, -scale * dot / (n * n * n))], out_axis, rows)
    return _logical(out, w.shape)


def filter_norms(w: np.ndarray, out_axis: int, scale: float = 1.0, eps: float = 0.0,
                 rows: np.ndarray | None = None) -> np.ndarray:
    """Compute sqrt(scale * sum w^2 + eps) per filter set and channel, (K, channels); 1 for sets not in `rows`."""
    return _norms(_memory_order(w), out_axis, scale, eps, rows)


def _norms(flat, out_axis, scale, eps, rows):
    n = np.sqrt(scale * _channel_sums(flat, flat, out_axis, rows) + eps)
    if rows is not None:
        n[~rows] = 1
    return n


def _memory_order(w: np.ndarray) -> np.ndarray:
    """Reshape w to a C-contiguous (K, A, kh*kw, B): a view for weights in the project's own order."""
    bank, small, big, kh, kw = w.shape
    return np.ascontiguousarray(w.transpose(0, 1, 3, 4, 2)).reshape(bank, small, kh * kw, big)


def _logical(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    bank, small, big, kh, kw = shape
    return flat.reshape(bank, small, kh, kw, big).transpose(0, 1, 4, 2, 3)


def _blocks(bank: int, small: int, per_small: int, rows) -> list[tuple[int, slice]]:
    """List (filter set, range of axis A) blocks of about threads.BLOCK numbers, over the sets in `rows`."""
    step = max(1, threads.BLOCK // max(1, per_small))
    return [(k, slice(start, min(start + step, small)))
            for k in range(bank) if rows is None or rows[k] for start in range(0, small, step)]


def _channel_sums(a: np.ndarray, b: np.ndarray, out_axis: int, rows) -> np.ndarray:
    """Sum a*b over all but the set and the output channel: (K, channels), 0 for sets not in `rows`."""
    bank, small, taps, big = a.shape
    blocks = _blocks(bank, small, taps * big, rows)
    if out_axis == 1:
        sums = np.zeros((bank, small), a.dtype)

        def job(number: int) -> None:
            k, part = blocks[number]
            left, right = (x[k, part].reshape(-1, taps * big) for x in (a, b))
            np.vecdot(left, right, out=sums[k, part])
    else:
        tile = _tile(big, taps)
        partial = np.zeros((len(blocks), tile * big), a.dtype)

        def job(number: int) -> None:
            k, part = blocks[number]
            work = threads.scratch("work", a[k, part].shape, a.dtype)
            np.multiply(a[k, part], b[k, part], out=work)
            np.add.reduce(work.reshape(-1, tile * big), axis=0, out=partial[number])

    threads.run([lambda number=number: job(number) for number in range(len(blocks))], worth_it=a.size >= threads.MANY)
    if out_axis == 2:
        sums = np.zeros((bank, big), a.dtype)
        for number, (k, _) in enumerate(blocks):  # in block order: the same bits however the jobs ran
            sums[k] += partial[number].reshape(tile, big).sum(axis=0)
    return sums


def _combine(out: np.ndarray, terms: list[tuple[np.ndarray, np.ndarray]], out_axis: int, rows) -> None:
    """Compute out = sum of array * factor, one factor (K, channels) per output channel; 0 for sets not in `rows`."""
    bank, small, taps, big = out.shape
    tile = _tile(big, taps)
    factors = [f.astype(out.dtype, copy=False)[:, :, None] if out_axis == 1
               else np.tile(f.astype(out.dtype, copy=False), (1, tile))[:, None] for _, f in terms]

    def job(k: int, part: slice) -> None:
        wide = (lambda a: a[k, part].reshape(-1, taps * big)) if out_axis == 1 else (
            lambda a: a[k, part].reshape(-1, tile * big))
        target = wide(out)
        for place, ((array, _), factor) in enumerate(zip(terms, factors, strict=True)):
            along = factor[k, part] if out_axis == 1 else factor[k]
            if place == 0:
                np.multiply(wide(array), along, out=target)
            else:
                work = threads.scratch("work", target.shape, out.dtype)
                np.multiply(wide(array), along, out=work)
                target += work

    if rows is not None:
        out[~rows] = 0
    threads.run([lambda block=block: job(*block) for block in _blocks(bank, small, taps * big, rows)],
                worth_it=out.size >= threads.MANY)


def _tile(channels: int, taps: int) -> int:
    """Choose how many channel vectors form one row, for long inner loops: all taps if channels are few."""
    return taps if channels < 1024 else 1


# ---- optimisers ----------------------------------------------------------------------


def rmsprop(p: np.ndarray, v: np.ndarray, g: np.ndarray, *, lr: float, alpha: float, eps: float,
            rows: np.ndarray | None = None) -> None:
    """Update v = alpha v + (1 - alpha) g^2 and p -= lr g / (sqrt(v) + eps), in place."""

    def update(_, p, v, g):
        work = threads.scratch("work", p.shape, p.dtype)
        np.multiply(g, g, out=work)
        work *= 1 - alpha
        v *= alpha
        v += work
        np.sqrt(v, out=work)
        work += eps
        np.divide(g, work, out=work)
        work *= lr
        p -= work

    _in_place(update, (p, v), (g,), rows)


def adam(p: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, *, lr: float, beta1: float, beta2: float,
         eps: float, step: int | Sequence[int] | np.ndarray, rows: np.ndarray | None = None) -> None:
    """Update by Adam with bias correction, eps outside the root, in place (Kingma and Ba, arXiv:1412.6980).

    step: updates done, this one included (t >= 1): one number, or one per row of axis 0 for lazy updates.
    """
    steps = [int(step)] if np.ndim(step) == 0 else np.asarray(step).tolist()

    def update(k, p, m, v, g):
        t = steps[k if len(steps) > 1 else 0]
        work = threads.scratch("work", p.shape, p.dtype)
        np.multiply(g, 1 - beta1, out=work)
        m *= beta1
        m += work
        np.multiply(g, g, out=work)
        work *= 1 - beta2
        v *= beta2
        v += work
        np.sqrt(v, out=work)
        work *= 1 / math.sqrt(1 - beta2**t)
        work += eps
        np.divide(m, work, out=work)
        work *= lr / (1 - beta1**t)
        p -= work

    _in_place(update, (p, m, v), (g,), rows, by_row=len(steps) > 1)


def lerp(ema: np.ndarray, p: np.ndarray, decay: float) -> None:
    """Update ema = decay ema + (1 - decay) p, in place, written so that equal arrays stay equal to the bit."""

    def update(_, ema, p):
        work = threads.scratch("work", p.shape, ema.dtype)
        np.subtract(p, ema, out=work)
        work *= 1 - decay
        ema += work

    _in_place(update, (ema,), (p,), None)


def _in_place(update, written: tuple[np.ndarray, ...], read: tuple[np.ndarray, ...], rows,
              by_row: bool = False) -> None:
    """Call update(row, *blocks) on flat blocks of all arrays, in the memory order of the first.

    An array that lies otherwise in memory is copied into that order, and back if it is written.
    """
    first = written[0]
    if first.size == 0:
        return
    if rows is None and not by_row and first.size <= threads.BLOCK and all(
            a.flags.c_contiguous for a in (*written, *read)):
        update(0, *(a.reshape(-1) for a in (*written, *read)))  # most parameters of a small net: no more than this
        return
    axes = sorted(range(first.ndim), key=lambda axis: (axis > 0, -abs(first.strides[axis])))
    ordered = [np.ascontiguousarray(a.transpose(axes)) for a in (*written, *read)]
    if rows is None and not by_row:
        lines = [a.reshape(1, -1) for a in ordered]
    else:
        lines = [a.reshape(first.shape[0], -1) for a in ordered]
    length = lines[0].shape[1]
    jobs = [lambda k=k, start=start: update(k, *(a[k, start:start + threads.BLOCK] for a in lines))
            for k in range(len(lines[0])) if rows is None or rows[k] for start in range(0, length, threads.BLOCK)]
    threads.run(jobs, worth_it=first.size >= threads.MANY)
    for array, done in zip(written, ordered, strict=False):
        if not np.shares_memory(array, done):
            array[...] = done.transpose(np.argsort(axes))
