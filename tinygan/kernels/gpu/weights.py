"""Passes over the weights on a GPU: normalisation, RMSprop, Adam and the moving average, one launch for a whole net.

A net has a dozen parameters, most of them small, and starting a kernel costs as much as updating one of them. So the
host writes a table (of the structs Bank and Entry in kernels.cu) of where everything lies, sends it along, and one
kernel serves all. What changes from step to step lies apart from the tables (feed.py): which filter sets are in use,
and each entry's learning rate, which is 0 for a set that no sample used: the kernel then leaves it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygan.kernels.arrays import xp_of
from tinygan.kernels.gpu.feed import check_live, fed, table
from tinygan.kernels.gpu.launch import MAX_BLOCKS, MAX_GRID_Y, MAX_SIZE, THREADS, launch
from tinygan.kernels.update import Update

BANK = np.dtype([("w", "u8"), ("g", "u8"), ("out", "u8"), ("norms", "u8"), ("sets", "i4"), ("channels", "i4"),
                 ("outer", "i4"), ("inner", "i4"), ("first_block", "i4"), ("used", "i4"), ("scale", "f4"),
                 ("eps", "f4")])
ENTRY = np.dtype([("p", "u8"), ("m", "u8"), ("v", "u8"), ("g", "u8"), ("size", "i8"), ("low", "f4"), ("high", "f4")])
ALIGN = 64  # numbers: parameters in a flat buffer start on lines of 256 bytes

# ---- weight normalisation ----------------------------------------------------------------------------------------


def normalize_all(jobs: Sequence[tuple]) -> list[tuple[Any, Any]]:
    """Normalise each (w, out_axis, scale, eps, rows) to (v, n) as in reference.normalize; all in one launch."""
    xp = xp_of(jobs[0][0])
    launched, results = [], []
    for w, out_axis, scale, eps, rows in jobs:
        w = xp.ascontiguousarray(w)
        v, n = xp.empty(w.shape, np.float32), xp.empty((len(w), w.shape[out_axis]), np.float32)
        launched.append((w, None, v, n, out_axis, scale, eps, rows))
        results.append((v, n))
    _run_banks("normalize", launched)
    return results


def normalize_dx_all(jobs: Sequence[tuple]) -> list[Any]:
    """Compute reference.normalize_dx of each (g, w, n, out_axis, scale, rows), all in one launch."""
    xp = xp_of(jobs[0][0])
    launched = []
    for g, w, n, out_axis, scale, rows in jobs:
        g, w, n = (xp.ascontiguousarray(a) for a in (g, w, n))
        launched.append((w, g, xp.empty(w.shape, np.float32), n, out_axis, scale, 0.0, rows))
    _run_banks("normalize_back", launched)
    return [job[2] for job in launched]


def normalize(w: Any, out_axis: int, scale: float, eps: float, rows: np.ndarray | None = None) -> tuple[Any, Any]:
    """Divide every filter by its norm: (v, n) with v = w / n; v = 0 and n = 1 for sets not in rows."""
    return normalize_all([(w, out_axis, scale, eps, rows)])[0]


def normalize_dx(g: Any, w: Any, n: Any, out_axis: int, scale: float, rows: np.ndarray | None = None) -> Any:
    """Compute its gradient to w: (g - scale (sum w g) w / n^2) / n; 0 for sets not in rows."""
    return normalize_dx_all([(g, w, n, out_axis, scale, rows)])[0]


def filter_norms(w: Any, out_axis: int, scale: float = 1.0, eps: float = 0.0, rows: np.ndarray | None = None) -> Any:
    """Compute sqrt(scale * sum w^2 + eps), (K, channels); 1 for sets not in rows."""
    return normalize(w, out_axis, scale, eps, rows)[1]


def _run_banks(kernel: str, jobs: Sequence[tuple]) -> None:
    """Launch `kernel` over (w, g, out, norms, out_axis, scale, eps, rows) for each bank."""
    lines, masks, blocks, at = np.zeros(len(jobs), BANK), [], 0, 0
    for i, (w, g, out, norms, out_axis, scale, eps, rows) in enumerate(jobs):
        if w.size > MAX_SIZE:
            raise ValueError(f"a filter bank of {w.size:,} numbers is more than a kernel can count")
        sets, a, b, kh, kw = w.shape
        channels, outer, inner = (a, 1, b * kh * kw) if out_axis == 1 else (b, a, kh * kw)
        lines[i] = (w.data.ptr, g.data.ptr if g is not None else 0, out.data.ptr, norms.data.ptr, sets, channels,
                    outer, inner, blocks, -1 if rows is None else at, scale, eps)
        if rows is not None:
            check_live(rows)
            masks.append(rows)
            at += sets
        blocks += sets * -(-channels // tile(outer, inner))
    if blocks:
        used = fed((at,), np.uint8, lambda out: np.concatenate(masks, out=out, casting="unsafe")) if masks else None
        launch(kernel, blocks, table(lines), used, len(jobs), blocks)


def tile(outer: int, inner: int) -> int:
    """Choose how many neighbouring channels a block takes (bank_tile in kernels.cu)."""
    return 32 // inner if outer > 1 and inner in (1, 2, 4, 8, 16) else 1


# ---- optimisers --------------------------------------------------------------------------------------------------


def pack(arrays: Sequence[Any]) -> list[Any]:
    """Copy the arrays into one flat buffer, one after the other: views of the same shapes."""
    xp = xp_of(arrays[0])
    sizes = [-(-a.size // ALIGN) * ALIGN for a in arrays]
    flat, at, views = xp.zeros(sum(sizes), np.float32), 0, []
    for array, size in zip(arrays, sizes, strict=True):
        view = flat[at:at + array.size].reshape(array.shape)
        view[...] = array
        views.append(view)
        at += size
    return views


def rmsprop_all(updates: Sequence[Update], *, lr: np.ndarray | float, alpha: float, eps: float) -> None:
    """Update every parameter by reference.rmsprop, then keep it within its bounds; in one launch."""
    def fill(rates: np.ndarray) -> None:
        """Write the learning rate of every entry, 0 for filter sets that are not in use."""
        rates[...] = lr * used_entries(updates)

    _run_entries("rmsprop", updates, fed((entry_count(updates),), np.float32, fill), alpha, eps)


def adam_all(updates: Sequence[Update], *, lr: np.ndarray | float, beta1: float, beta2: float, eps: float) -> None:
    """Update every parameter by reference.adam, then keep it within its bounds; in one launch."""
    def fill(rates: np.ndarray) -> None:
        """Write lr / (1 - beta1^t), 0 for filter sets that are not in use, and 1 / sqrt(1 - beta2^t) of every entry."""
        steps = np.maximum(np.concatenate([u.steps for u in updates]).astype(np.float64), 1.0)  # 0: not in use
        rates[:, 0] = lr / (1 - beta1**steps) * used_entries(updates)
        rates[:, 1] = (1 - beta2**steps) ** -0.5

    _run_entries("adam", updates, fed((entry_count(updates), 2), np.float32, fill), beta1, beta2, eps)


def lerp_all(pairs: Sequence[tuple[Any, Any]], decay: np.ndarray | float) -> None:
    """Update every (average, weights) to average = decay average + (1 - decay) weights; in one launch."""
    lines = np.zeros(len(pairs), ENTRY)
    for line, (average, weights) in zip(lines, pairs, strict=True):
        line["p"], line["g"], line["size"] = _address(average), _address(weights), average.size

    def fill(share: np.ndarray) -> None:
        """Write the share of the weights."""
        share[...] = 1 - decay

    _launch_entries("lerp", lines, fed((1,), np.float32, fill))


def entry_count(updates: Sequence[Update]) -> int:
    """Count the entries: one for a parameter, or one for each of its filter sets."""
    return sum(len(u.steps) for u in updates)


def used_entries(updates: Sequence[Update]) -> np.ndarray:
    """Return which entries are updated, a bool array."""
    return np.concatenate([np.ones(len(u.steps), bool) if u.rows is None else u.rows for u in updates])


def _entries(update: Update) -> np.ndarray:
    """Make one entry for a parameter, or one for each of its filter sets."""
    *means, square = update.slots
    lines = np.zeros(len(update.steps), ENTRY)
    size = update.p.size // len(lines)
    offsets = (np.arange(len(lines)) * (4 * size)).astype(np.uint64)
    for name, array in (("p", update.p), ("v", square), ("g", update.g), *(("m", m) for m in means)):
        lines[name] = _address(array) + offsets
    lines["size"] = size
    lines["low"], lines["high"] = update.bounds or (-np.inf, np.inf)
    return lines


def _address(array: Any) -> np.uint64:
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise TypeError(f"an optimiser's kernel takes dense float32 arrays, not {array.dtype} {array.shape}")
    return np.uint64(array.data.ptr)


def _run_entries(kernel: str, updates: Sequence[Update], rates: Any, *numbers: float) -> None:
    check_live(*(u.rows for u in updates if u.rows is not None))
    _launch_entries(kernel, np.concatenate([_entries(u) for u in updates]), rates, *numbers)


def _launch_entries(kernel: str, lines: np.ndarray, *more: Any) -> None:
    longest = int(lines["size"].max())
    if longest > MAX_SIZE:
        raise ValueError(f"a parameter of {longest:,} numbers is more than a kernel can count")
    grid = max(1, min(-(-longest // (4 * THREADS)), MAX_BLOCKS // 16)), min(len(lines), MAX_GRID_Y)
    launch(kernel, grid, table(lines), len(lines), *more)


# The same for a single array, as class Kernels has it.


def rmsprop(p: Any, v: Any, g: Any, *, lr: float, alpha: float, eps: float, rows: np.ndarray | None = None) -> None:
    """Update v = alpha v + (1 - alpha) g^2 and p -= lr g / (sqrt(v) + eps), in place."""
    rmsprop_all([Update(p, (v,), g, np.ones(len(p), np.int64), rows)], lr=lr, alpha=alpha, eps=eps)


def adam(p: Any, m: Any, v: Any, g: Any, *, lr: float, beta1: float, beta2: float, eps: float, step: Any,
         rows: np.ndarray | None = None) -> None:
    """Update by Adam with bias correction, eps outside the root; step: one number or one per row."""
    adam_all([Update(p, (m, v), g, np.broadcast_to(step, len(p)), rows)], lr=lr, beta1=beta1, beta2=beta2, eps=eps)


def lerp(ema: Any, p: Any, decay: float) -> None:
    """Update ema = decay ema + (1 - decay) p, in place."""
    lerp_all([(ema, p)], decay)
