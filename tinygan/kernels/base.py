"""`class Kernels`: every kernel, in calls that NumPy and CuPy share; no threads, no stride tricks, nothing to compile.

It works on any array with NumPy's interface. CpuKernels and CudaKernels override what they do faster; what they leave
out, such as float64 on a GPU, is done here. So every kernel can be called for every array.

One filter set at a time: its samples are gathered, unrolled tap by tap with strided slices and multiplied. `routes` and
`rows` stay on the host, so that no result has to come back from a GPU before the next step can start.

Shapes, in all three classes: small (N, A, h, w), big (N, B, H, W), weight (K, A, B, kh, kw), stride and padding
(rows, columns). routes: (N,) host integers, the filter set of each sample, or None where K is 1. rows: a host mask (K,)
of the filter sets that take part, or None for all. reference.py has every formula as a plain loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygan.kernels import counter, elementwise
from tinygan.kernels.arrays import xp_of
from tinygan.kernels.elementwise import per_channel
from tinygan.kernels.geometry import Pair, overlap, positions, small_size
from tinygan.kernels.update import Update

Array = Any  # NumPy's or CuPy's
Routes = np.ndarray | None
Rows = np.ndarray | None


class Kernels:
    """The kernels for any array; a subclass overrides those that it does faster."""

    # ---- convolution ---------------------------------------------------------------------------------------------

    @staticmethod
    def conv(big: Array, weight: Array, stride: Pair, padding: Pair, routes: Routes) -> Array:
        """Convolve big (N, B, H, W) to small (N, A, h, w)."""
        kernel = weight.shape[3:]
        h, w = (small_size(big.shape[2 + d], kernel[d], stride[d], padding[d]) for d in (0, 1))
        small = xp_of(big).empty((len(big), h, w, weight.shape[1]), big.dtype)
        for k, samples in _groups(routes, len(big)):
            columns = _columns(big[samples], (h, w), kernel, stride, padding)
            filters = weight[k].transpose(0, 2, 3, 1).reshape(weight.shape[1], -1)
            small[samples] = (columns @ filters.T).reshape(-1, h, w, weight.shape[1])
        return small.transpose(0, 3, 1, 2)

    @staticmethod
    def conv_transpose(small: Array, weight: Array, stride: Pair, padding: Pair, routes: Routes,
                       output_size: Pair) -> Array:
        """Convolve small (N, A, h, w) the transposed way to big (N, B, *output_size)."""
        _, a, b, kh, kw = weight.shape
        n_samples, _, h, w = small.shape
        big = xp_of(small).empty((n_samples, *output_size, b), small.dtype)
        for k, samples in _groups(routes, n_samples):
            pixels = small[samples].transpose(0, 2, 3, 1).reshape(-1, a)
            columns = (pixels @ weight[k].transpose(0, 2, 3, 1).reshape(a, -1)).reshape(-1, h, w, kh, kw, b)
            total = xp_of(small).zeros((len(columns), *output_size, b), small.dtype)
            for i, j, rows, cols, big_rows, big_cols in _taps((h, w), (kh, kw), stride, padding, output_size):
                total[:, big_rows, big_cols] += columns[:, rows, cols, i, j]
            big[samples] = total
        return big.transpose(0, 3, 1, 2)

    @staticmethod
    def conv_weight(big: Array, small: Array, kernel: Pair, stride: Pair, padding: Pair, routes: Routes,
                    bank: int) -> Array:
        """Compute the weight gradient of both, (bank, A, B, kh, kw); exactly zero for a set that no sample uses."""
        a, b = small.shape[1], big.shape[1]
        grad = xp_of(big).zeros((bank, a, *kernel, b), big.dtype)
        for k, samples in _groups(routes, len(big)):
            columns = _columns(big[samples], small.shape[2:], kernel, stride, padding)
            pixels = small[samples].transpose(0, 2, 3, 1).reshape(-1, a)
            grad[k] = (pixels.T @ columns).reshape(a, *kernel, b)
        return grad.transpose(0, 1, 4, 2, 3)

    def conv_relu(self, x: Array, weight: Array, bias: Array, padding: int) -> Array:
        """Compute max(0, conv(x) + bias) with stride 1: x (N, B, H, W), weight (A, B, kh, kw), bias (A,)."""
        y = self.conv(x, weight[None], (1, 1), (padding, padding), None)
        y += per_channel(bias, x)
        return xp_of(x).maximum(y, 0.0, out=y)

    def conv_relu_dx(self, g: Array, y: Array, weight: Array, padding: int) -> Array:
        """Compute its gradient to x: the transposed convolution of g where y = conv_relu(x) > 0, else of 0."""
        size = tuple(n + k - 1 - 2 * padding for n, k in zip(g.shape[2:], weight.shape[2:], strict=True))
        passed = xp_of(g).where(y > 0, g, 0.0)
        return self.conv_transpose(passed, weight[None], (1, 1), (padding, padding), None, size)

    # ---- activation: x (N, C, ...), slope and shift (C,), shift None for 0 ---------------------------------------

    channel_sums = staticmethod(elementwise.channel_sums)

    @staticmethod
    def tprelu(x: Array, slope: Array, shift: Array | None) -> Array:
        """Compute the translated PReLU, y = max(x - t, 0) + a min(x - t, 0) + t (Xiang and Li, arXiv:1704.03971)."""
        a, t = per_channel(slope, x), _kink(shift, x)
        return xp_of(x).where(x > t, x, a * (x - t) + t)

    @staticmethod
    def tprelu_dx(g: Array, x: Array, slope: Array, shift: Array | None) -> Array:
        """Compute its gradient to x: g where x > t, else a g."""
        return xp_of(x).where(x > _kink(shift, x), g, per_channel(slope, x) * g)

    def tprelu_dslope(self, g: Array, x: Array, shift: Array | None) -> Array:
        """Compute its gradient to the slope: per channel, the sum of g (x - t) over x <= t."""
        t = _kink(shift, x)
        return self.channel_sums(g * (x <= t) * (x - t))

    def tprelu_below(self, g: Array, x: Array, shift: Array | None) -> Array:
        """Sum g over x <= t, per channel; times 1 - a it is the gradient to the shift."""
        return self.channel_sums(g * (x <= _kink(shift, x)))

    def tprelu_back(self, g: Array, x: Array, slope: Array, shift: Array | None) -> tuple:
        """Compute all of its gradients: to x, slope and shift (None where there is no shift)."""
        dshift = None if shift is None else (1.0 - slope) * self.tprelu_below(g, x, shift)
        return self.tprelu_dx(g, x, slope, shift), self.tprelu_dslope(g, x, shift), dshift

    # ---- joining, scale and bias, sigmoid, the loss, a blur (elementwise.py) ---------------------------------------

    concatenate, affine, affine_back, sigmoid, sigmoid_back, softplus, blur = map(staticmethod, (
        elementwise.concatenate, elementwise.affine, elementwise.affine_back, elementwise.sigmoid,
        elementwise.sigmoid_back, elementwise.softplus, elementwise.blur))
    logistic_loss, logistic_back, logistic_losses, logistic_losses_back = map(staticmethod, (
        elementwise.logistic_loss, elementwise.logistic_back, elementwise.logistic_losses,
        elementwise.logistic_losses_back))

    # ---- pooling and resizing: x (N, C, H, W) --------------------------------------------------------------------

    @staticmethod
    def max_pool(x: Array, size: int, stride: int) -> tuple[Array, Array]:
        """Find the largest of each size x size window and its number in the window, (N, C, h, w) each.

        The first of equals wins; a NaN is passed on.
        """
        xp, best, which = xp_of(x), None, None
        for i, window in enumerate(_windows(x, size, stride, [(n - size) // stride + 1 for n in x.shape[2:]])):
            if best is None:
                best, which = window, xp.zeros(window.shape, dtype=xp.int32)
            else:
                larger = (window > best) | ((window != window) & (best == best))
                best, which = xp.where(larger, window, best), xp.where(larger, xp.int32(i), which)
        return best, which

    @staticmethod
    def pool_take(x: Array, which: Array, size: int, stride: int) -> Array:
        """Take from each window of x the pixel whose number `which` (N, C, h, w) gives."""
        out = xp_of(x).zeros(which.shape, dtype=x.dtype)
        for i, window in enumerate(_windows(x, size, stride, which.shape[2:])):
            out = xp_of(x).where(which == i, window, out)
        return out

    @staticmethod
    def pool_put(g: Array, which: Array, size: int, stride: int, shape: tuple) -> Array:
        """Apply the transpose of pool_take: zeros of `shape`, with g (N, C, h, w) added where it was taken."""
        out = xp_of(g).zeros(shape, dtype=g.dtype)
        for i, window in enumerate(_windows(out, size, stride, which.shape[2:])):
            window += xp_of(g).where(which == i, g, 0.0)
        return out

    @staticmethod
    def mean_pool(x: Array, size: int) -> Array:
        """Average each size x size block: (N, C, H / size, W / size).

        Rows are added, then columns, each in long runs and in the memory order of x. A sum over the axes of blocks
        goes through them number by number, and takes ten times as long.
        """
        rows = _added([x[:, :, i::size] for i in range(size)])
        return _added([rows[:, :, :, i::size] for i in range(size)]) * (1 / size**2)

    @staticmethod
    def mean_unpool(g: Array, size: int) -> Array:
        """Apply its transpose: every pixel of a block gets an equal share of g (N, C, h, w)."""
        n, c, h, w = g.shape
        spread = xp_of(g).broadcast_to((g * (1 / size**2))[:, :, :, None, :, None], (n, c, h, size, w, size))
        return spread.reshape(n, c, h * size, w * size)

    @staticmethod
    def resize(x: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
        """Compute rows @ x @ columns.T for each map; rows (h, H), columns (w, W) on the host."""
        rows, columns = (xp_of(x).asarray(m.astype(x.dtype)) for m in (rows, columns))
        return rows @ x @ columns.T

    # ---- views: matrices (M, 2, 3) and sources (M,) on the host --------------------------------------------------
    # A row of a view takes R x C^T from the image and keeps the diagonal, where R and C hold the weights of all rows
    # and columns of the image for each pixel. Far more products than the four that matter, but no index and nothing to
    # add up at one place from many sides: the transpose is as deterministic as a matrix product.

    @staticmethod
    def warp(x: Array, matrices: np.ndarray, sources: np.ndarray, size: Pair) -> Array:
        """Sample images x (N, C, H, W) along affine maps, bilinearly: views (M, C, *size)."""
        out = xp_of(x).empty((len(matrices), x.shape[1], *size), dtype=x.dtype)
        images = x[sources]
        for i, (rows, columns) in enumerate(_view_weights(x, matrices, size, x.shape[2:])):
            out[:, :, i] = ((rows @ images) * columns).sum(axis=3)
        return out

    @staticmethod
    def warp_back(g: Array, matrices: np.ndarray, sources: np.ndarray, shape: tuple) -> Array:
        """Apply the transpose of warp: g (M, C, h, w) to `shape` (N, C, H, W)."""
        xp = xp_of(g)
        images = xp.zeros((len(g), *shape[1:]), dtype=g.dtype)
        for i, (rows, columns) in enumerate(_view_weights(g, matrices, g.shape[2:], shape[2:])):
            images += rows.swapaxes(2, 3) @ (g[:, :, i, :, None] * columns)
        out = xp.zeros(shape, dtype=g.dtype)
        for view, image in enumerate(sources.tolist()):
            out[image] += images[view]
        return out

    # ---- weight normalisation: out_axis is that of the output channels in w (K, A, B, kh, kw) --------------------

    @staticmethod
    def filter_norms(w: Array, out_axis: int, scale: float = 1.0, eps: float = 0.0, rows: Rows = None) -> Array:
        """Compute sqrt(scale * sum w^2 + eps) per set and channel, (K, channels); 1 for sets not in rows."""
        n = xp_of(w).sqrt(scale * (w * w).sum(axis=_fold(out_axis)) + eps)
        return n if rows is None else xp_of(w).where(_mask(rows, n), n, 1)

    def normalize(self, w: Array, out_axis: int, scale: float, eps: float, rows: Rows = None) -> tuple[Array, Array]:
        """Divide every filter by its norm: (v, n) with v = w / n; v = 0 and n = 1 for sets not in rows."""
        n = self.filter_norms(w, out_axis, scale, eps, rows)
        v = w / _spread(n, out_axis)
        return (v if rows is None else v * _mask(rows, v)), n

    @staticmethod
    def normalize_dx(g: Array, w: Array, n: Array, out_axis: int, scale: float, rows: Rows = None) -> Array:
        """Compute its gradient to w: (g - scale (sum w g) w / n^2) / n; 0 for sets not in rows."""
        dot = scale * (w * g).sum(axis=_fold(out_axis))
        out = (g - w * _spread(dot / (n * n), out_axis)) / _spread(n, out_axis)
        return out if rows is None else xp_of(w).where(_mask(rows, out), out, 0)

    def normalize_all(self, jobs: Sequence[tuple]) -> list[tuple[Array, Array]]:
        """Normalise the weights of a whole net: normalize(*job) for each job (w, out_axis, scale, eps, rows)."""
        return [self.normalize(*job) for job in jobs]

    def normalize_dx_all(self, jobs: Sequence[tuple]) -> list[Array]:
        """Compute the gradients of a whole net: normalize_dx(*job) for each (g, w, n, out_axis, scale, rows)."""
        return [self.normalize_dx(*job) for job in jobs]

    # ---- optimisers and the moving average: in place -------------------------------------------------------------

    @staticmethod
    def pack(arrays: Sequence[Array]) -> list[Array]:
        """Return the arrays, as copies in one flat buffer where updating them together is faster so."""
        return list(arrays)

    @staticmethod
    def rmsprop(p: Array, v: Array, g: Array, *, lr: float, alpha: float, eps: float, rows: Rows = None) -> None:
        """Update v = alpha v + (1 - alpha) g^2 and p -= lr g / (sqrt(v) + eps), in place."""
        at = _some(rows)
        v[at] = alpha * v[at] + (1 - alpha) * g[at] * g[at]
        p[at] = p[at] - lr * g[at] / (xp_of(p).sqrt(v[at]) + eps)

    @staticmethod
    def adam(p: Array, m: Array, v: Array, g: Array, *, lr: float, beta1: float, beta2: float, eps: float,
             step: int | np.ndarray, rows: Rows = None) -> None:
        """Update by Adam with bias correction, eps outside the root, in place (Kingma and Ba, arXiv:1412.6980).

        step: updates done, this one included; one number, or one per row of axis 0.
        """
        xp, at = xp_of(p), _some(rows)
        steps = np.maximum(np.asarray(step, np.float64), 1.0)  # a set never used has taken 0 steps, and takes none now
        rate, bias = lr / (1 - beta1**steps), 1 / np.sqrt(1 - beta2**steps)
        if steps.ndim == 0:
            rate, bias = float(rate), float(bias)
        else:
            shape = (-1, *[1] * (p.ndim - 1))
            rate, bias = (xp.asarray(c.reshape(shape).astype(p.dtype))[at] for c in (rate, bias))
        m[at] = beta1 * m[at] + (1 - beta1) * g[at]
        v[at] = beta2 * v[at] + (1 - beta2) * g[at] * g[at]
        p[at] = p[at] - rate * m[at] / (xp.sqrt(v[at]) * bias + eps)

    @staticmethod
    def lerp(ema: Array, p: Array, decay: float) -> None:
        """Update ema = decay ema + (1 - decay) p, in place."""
        ema += (1 - decay) * (p - ema)

    @staticmethod
    def matmul(a: Array, b: Array) -> Array:
        """Compute a @ b: matrices (..., n, k) and (..., k, m)."""
        return a @ b

    @staticmethod
    def each_step(work: Callable[[], None]) -> None:
        """Run work() on the host; on a GPU again before each replay of a step that is recorded."""
        work()

    def rmsprop_all(self, updates: Sequence[Update], *, lr: np.ndarray | float, alpha: float, eps: float) -> None:
        """Update every parameter of a net by rmsprop, then clip it to its bounds.

        lr, here and below: a number, or an array () that a GPU reads anew at each replay of a step that is recorded.
        """
        for u in updates:
            self.rmsprop(u.p, *u.slots, u.g, lr=float(lr), alpha=alpha, eps=eps, rows=u.rows)
            u.keep_within_bounds()

    def adam_all(self, updates: Sequence[Update], *, lr: np.ndarray | float, beta1: float, beta2: float,
                 eps: float) -> None:
        """Update every parameter of a net by adam, then clip it to its bounds."""
        for u in updates:
            step = u.steps if len(u.steps) > 1 else int(u.steps[0])
            self.adam(u.p, *u.slots, u.g, lr=float(lr), beta1=beta1, beta2=beta2, eps=eps, step=step, rows=u.rows)
            u.keep_within_bounds()

    def lerp_all(self, pairs: Sequence[tuple[Array, Array]], decay: np.ndarray | float) -> None:
        """Update every (average, weights) of a net by lerp; decay as lr above."""
        for average, weights in pairs:
            self.lerp(average, weights, float(decay))

    # ---- random numbers (counter.py), on the host, but for subclasses that override them -----------------------

    counter_bits, counter_uniform, counter_normal, counter_integers = map(staticmethod, (
        counter.bits, counter.uniform, counter.normal, counter.integers))


# ---- parts -------------------------------------------------------------------------------------------------------


def _groups(routes: Routes, n_samples: int) -> list[tuple[int, Any]]:
    """List (filter set, its samples) for every set in use: a slice if that is all of them, else host indices."""
    if routes is None:
        return [(0, slice(None))] if n_samples else []
    return [(int(k), np.flatnonzero(routes == k)) for k in np.unique(routes)]


def _columns(big: Array, small_hw: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """Unroll the patches of big as a matrix (N*h*w, kh*kw*B)."""
    n_samples, channels = big.shape[:2]
    columns = xp_of(big).zeros((n_samples, *small_hw, *kernel, channels), big.dtype)
    pixels = big.transpose(0, 2, 3, 1)
    for i, j, rows, cols, big_rows, big_cols in _taps(small_hw, kernel, stride, padding, big.shape[2:]):
        columns[:, rows, cols, i, j] = pixels[:, big_rows, big_cols]
    return columns.reshape(n_samples * math.prod(small_hw), math.prod(kernel) * channels)


def _taps(small_hw: Pair, kernel: Pair, stride: Pair, padding: Pair, big_size: Pair) -> Iterator[tuple]:
    """Yield every tap (i, j) and which small rows and columns meet which big ones through it."""
    for i in range(kernel[0]):
        rows, big_rows = overlap(small_hw[0], i - padding[0], stride[0], big_size[0])
        for j in range(kernel[1]):
            cols, big_cols = overlap(small_hw[1], j - padding[1], stride[1], big_size[1])
            yield i, j, rows, cols, big_rows, big_cols


def _kink(shift: Array | None, x: Array) -> Any:
    """Shape the shift to broadcast over x; 0 where there is none."""
    return 0 if shift is None else per_channel(shift, x)


def _windows(array: Array, size: int, stride: int, hw: Sequence[int]) -> list[Array]:
    """List the size * size views of (N, C, h, w), each of the same corner of every window."""
    return [array[:, :, i:i + stride * (hw[0] - 1) + 1:stride, j:j + stride * (hw[1] - 1) + 1:stride]
            for i in range(size) for j in range(size)]


def _added(parts: list[Array]) -> Array:
    """Sum the arrays; one alone is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


def _view_weights(like: Array, matrices: np.ndarray, size: Pair, limits: Pair) -> Iterator[list[Array]]:
    """Yield, for every row of the views, the weights of the images' rows (M, 1, w, H) and columns (M, 1, w, W)."""
    xp = xp_of(like)
    places = [xp.arange(n).astype(like.dtype) for n in limits]
    where = np.empty((2, len(matrices), *size), like.dtype)
    for m, matrix in enumerate(np.asarray(matrices, like.dtype)):
        where[:, m] = positions(matrix, np.arange(size[0]), size[1])
    where = xp.asarray(where)
    for i in range(size[0]):
        yield [xp.maximum(1.0 - abs(at[:, None, i, :, None] - place), 0.0)
               for at, place in zip(where, places, strict=True)]


def _fold(out_axis: int) -> tuple[int, ...]:
    """Name the axes of a weight that a filter's norm sums over."""
    return (2, 3, 4) if out_axis == 1 else (1, 3, 4)


def _spread(n: Array, out_axis: int) -> Array:
    """Shape (K, channels) to broadcast over a weight."""
    return n[:, :, None, None, None] if out_axis == 1 else n[:, None, :, None, None]


def _mask(rows: np.ndarray, like: Array) -> Array:
    """Copy the mask to the array's device, shaped to broadcast over it."""
    return xp_of(like).asarray(rows).reshape(-1, *[1] * (like.ndim - 1))


def _some(rows: Rows) -> Any:
    """Return an index for axis 0: everything, or the sets in rows (host indices)."""
    return slice(None) if rows is None else np.flatnonzero(rows)
