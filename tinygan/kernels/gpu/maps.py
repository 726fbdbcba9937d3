"""Maps on a GPU besides convolution: activation, sums per channel, the loss, pooling and resizing.

Each is one kernel of kernels.cu (an activation's sums per channel take a second one). Definitions are in reference.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygan.kernels.arrays import xp_of
from tinygan.kernels.gpu.conv import channel_rows, dense
from tinygan.kernels.gpu.feed import held, lasting
from tinygan.kernels.gpu.launch import MAX_BLOCKS, MAX_GRID_Y, THREADS, blocks_for, launch

PER_THREAD = 8  # numbers that a thread of a sum adds up at least, before another block is worth it,
MANY = 128  # or four times as many where there are so many channels, and so blocks, that these keep a GPU busy

# ---- sums, activation --------------------------------------------------------------------------------------------


def channel_sums(x: Any) -> Any:
    """Sum (N, C, ...) over samples and pixels: (C,)."""
    rows = channel_rows(x)
    return _row_sums(rows.reshape(len(rows), -1) if rows.size else rows.reshape(len(rows), 0))


def _row_sums(x: Any) -> Any:
    """Sum (rows, columns) to (rows,), by several blocks where a row is long."""
    xp = xp_of(x)
    if x.size == 0:
        return xp.zeros(len(x), np.float32)
    grid = _sums_grid(*x.shape)
    out = xp.empty((len(x), grid[0]), np.float32)
    launch("row_sums", grid, x, out, *x.shape)
    return _added(out)


def _added(sums: Any) -> Any:
    """Add up the sums (rows, blocks) that the blocks of a kernel have made of each row: (rows,)."""
    return sums.reshape(-1) if sums.shape[1] == 1 else _row_sums(sums)


def tprelu(x: Any, slope: Any, shift: Any) -> Any:
    """Compute the translated PReLU of x (N, C, ...); slope and shift (C,), shift None for 0."""
    rows, samples = _stored(x)
    out = xp_of(x).empty((x.shape[1], len(x), *x.shape[2:]), np.float32)
    if out.size:
        channels, pixels = len(out), out.size // len(out)
        launch("tprelu", _channel_grid(channels, pixels, 1), rows, slope, shift, out, channels, pixels, samples)
    return out.swapaxes(0, 1)


def tprelu_back(g: Any, x: Any, slope: Any, shift: Any) -> tuple:
    """Compute the gradients to x, slope and shift (None where there is no shift) in one pass over g and x."""
    dx, dslope, dshift = _tprelu_back(g, x, slope, shift, sums=True)
    return dx, dslope, None if shift is None else dshift


def tprelu_dx(g: Any, x: Any, slope: Any, shift: Any) -> Any:
    """Compute its gradient to x: g where x > t, else a g."""
    return _tprelu_back(g, x, slope, shift, sums=False)[0]


def tprelu_dslope(g: Any, x: Any, shift: Any) -> Any:
    """Sum g (x - t) over x <= t, per channel."""
    return _tprelu_back(g, x, xp_of(x).ones(x.shape[1], np.float32), shift, sums=True)[1]


def tprelu_below(g: Any, x: Any, shift: Any) -> Any:
    """Sum g over x <= t, per channel."""
    return _tprelu_back(g, x, xp_of(x).zeros(x.shape[1], np.float32), shift, sums=True)[2]  # 1 - a is 1


def _tprelu_back(g: Any, x: Any, slope: Any, shift: Any, *, sums: bool) -> tuple:
    """Compute the gradients to x, slope and shift; without `sums` the last two are None."""
    xp, cotangent, (rows, samples) = xp_of(x), channel_rows(g), _stored(x)
    channels, dx = x.shape[1], xp.empty(rows.shape, np.float32)
    logical = dx.transpose(3, 2, 0, 1) if samples else dx.swapaxes(0, 1)
    if rows.size == 0:
        return logical, *(xp.zeros((2, channels), np.float32) if sums else (None, None))
    pixels = rows.size // channels
    grid = _sums_grid(channels, pixels)
    partial = xp.empty((2 * channels, grid[0]), np.float32) if sums else None
    launch("tprelu_back", grid, cotangent, rows, slope, shift, dx, partial, channels, pixels, samples)
    if not sums:
        return logical, None, None
    return logical, *_added(partial).reshape(2, channels)


def concatenate(arrays: Sequence[Any], axis: int) -> Any:
    """Join arrays along an axis; two batches of maps (N, C, H, W) in one launch."""
    xp = xp_of(arrays[0])
    shapes = [(a.ndim, *a.shape[1:]) for a in arrays]
    if len(arrays) != 2 or axis != 0 or shapes[0][0] != 4 or shapes[0] != shapes[1] or 0 in arrays[0].shape[1:]:
        return xp.concatenate(arrays, axis=axis)
    a, b = map(channel_rows, arrays)
    out = xp.empty((len(a), a.shape[1] + b.shape[1], *a.shape[2:]), np.float32)
    if out.size:
        sizes = a.size // len(a), b.size // len(b)
        launch("join", _channel_grid(len(a), sum(sizes), 1), a, b, out, len(a), *sizes)
    return out.swapaxes(0, 1)


def affine(x: Any, gain: Any, bias: Any) -> Any:
    """Compute gain x + bias of x (N, C, ...), gain and bias (C,) or ()."""
    rows = channel_rows(x)
    out = xp_of(x).empty(rows.shape, np.float32)
    if rows.size:
        pixels = rows.size // len(rows)
        launch("affine", _channel_grid(len(rows), pixels, 1), rows, gain, bias, out, len(rows), pixels, gain.ndim)
    return out.swapaxes(0, 1)


def affine_back(g: Any, x: Any, gain: Any) -> tuple[Any, Any, Any]:
    """Compute its gradients to x, gain and bias in one pass over g and x."""
    xp, cotangent, rows = xp_of(x), channel_rows(g), channel_rows(x)
    dx, channels = xp.empty(rows.shape, np.float32), len(rows)
    gain = xp.ascontiguousarray(xp.broadcast_to(gain, channels))
    if rows.size == 0:
        return dx.swapaxes(0, 1), *xp.zeros((2, channels), np.float32)
    pixels = rows.size // channels
    grid = _sums_grid(channels, pixels)
    partial = xp.empty((2 * channels, grid[0]), np.float32)
    launch("affine_back", grid, cotangent, rows, gain, dx, partial, channels, pixels)
    return dx.swapaxes(0, 1), *_added(partial).reshape(2, channels)


def _stored(x: Any) -> tuple[Any, int]:
    """Return x (N, C, ...) as it is stored, and how many samples where that is (H, W, C, N), else 0.

    A fully-connected layer, whose units are ordered (row, column, channel), leaves its map so. Anything that is neither
    that nor (C, N, ...) is copied into the latter.
    """
    turned = x.transpose(2, 3, 1, 0) if x.ndim == 4 else None
    if turned is not None and turned.flags.c_contiguous and not x.swapaxes(0, 1).flags.c_contiguous:
        return turned, len(x)
    return channel_rows(x), 0


def _sums_grid(channels: int, pixels: int) -> tuple[int, int]:
    """Return the grid of a kernel that adds up each channel. One block along it needs no second launch."""
    return _channel_grid(channels, pixels, PER_THREAD if channels < MANY else 4 * PER_THREAD)


def _channel_grid(channels: int, pixels: int, per_thread: int) -> tuple[int, int]:
    """Return the grid: blocks along the pixels of a channel, and channels."""
    return min(-(-pixels // (THREADS * per_thread)), MAX_BLOCKS), min(channels, MAX_GRID_Y)


# ---- sigmoid, loss ------------------------------------------------------------------------------------------------


def sigmoid(x: Any) -> Any:
    """Compute 1 / (1 + e^-x)."""
    x = dense(x)
    out = xp_of(x).empty(x.shape, np.float32)
    if x.size:
        launch("sigmoid", blocks_for(x.size), x, out, x.size)
    return out


def sigmoid_back(g: Any, y: Any) -> Any:
    """Compute its gradient to x from its value y: g y (1 - y)."""
    cotangent, rows = (channel_rows(a) if a.ndim > 1 else dense(a) for a in (g, y))
    out = xp_of(y).empty(rows.shape, np.float32)
    if out.size:
        launch("sigmoid_back", blocks_for(out.size), cotangent, rows, out, out.size)
    return out.swapaxes(0, 1) if out.ndim > 1 else out


def logistic_losses(x: Any, first: int) -> Any:
    """Compute logistic_loss(x[:first], 1) + logistic_loss(x[first:], -1) of x (N,), a 0-d array."""
    return _loss("logistic_losses", x, first)


def logistic_losses_back(g: Any, x: Any, first: int) -> Any:
    """Compute its gradient to x for the gradient g (0-d) of the loss."""
    return _loss_back("logistic_losses_back", g, x, first)


def logistic_loss(x: Any, sign: float) -> Any:
    """Compute the mean of -log sigmoid(sign x), a 0-d array."""
    return _loss("logistic_loss", x, sign)


def logistic_back(g: Any, x: Any, sign: float) -> Any:
    """Compute its gradient to x for the gradient g (0-d) of the loss."""
    return _loss_back("logistic_back", g, x, sign)


def _loss(kernel: str, x: Any, which: float) -> Any:
    """Compute a loss of x by a kernel, a 0-d array; which: its last argument."""
    loss = xp_of(x).empty((), np.float32)
    launch(kernel, 1, dense(x), loss, x.size, which)
    return loss


def _loss_back(kernel: str, g: Any, x: Any, which: float) -> Any:
    """Compute the gradient of a loss to x by a kernel; which: its last argument."""
    out = xp_of(x).empty(x.shape, np.float32)
    if x.size:
        launch(kernel, blocks_for(x.size), dense(g), dense(x), out, x.size, which)
    return out


# ---- pooling and resizing ----------------------------------------------------------------------------------------


def max_pool(x: Any, size: int, stride: int) -> tuple[Any, Any]:
    """Find the largest of each window and its number in the window, (N, C, h, w) each."""
    rows, shape = channel_rows(x), _windows(x, size, stride)
    best, which = (xp_of(x).empty(shape, dtype) for dtype in (np.float32, np.int32))
    if best.size:
        launch("max_pool", blocks_for(best.size), rows, best, which, *_pool_numbers(rows, shape, size, stride))
    return best.swapaxes(0, 1), which.swapaxes(0, 1)


def pool_take(x: Any, which: Any, size: int, stride: int) -> Any:
    """Take from each window the pixel whose number `which` gives."""
    rows, which = channel_rows(x), channel_rows(which)
    out = xp_of(x).empty(which.shape, np.float32)
    if out.size:
        launch("pool_take", blocks_for(out.size), rows, which, out, *_pool_numbers(rows, out.shape, size, stride))
    return out.swapaxes(0, 1)


def pool_put(g: Any, which: Any, size: int, stride: int, shape: tuple) -> Any:
    """Apply the transpose of pool_take: (N, C, h, w) -> `shape` (N, C, H, W)."""
    cotangent, which = channel_rows(g), channel_rows(which)
    out = xp_of(g).empty((shape[1], shape[0], *shape[2:]), np.float32)
    if out.size:
        launch("pool_put", blocks_for(out.size), cotangent, which, out,
               *_pool_numbers(out, cotangent.shape, size, stride))
    return out.swapaxes(0, 1)


def _windows(x: Any, size: int, stride: int) -> tuple:
    return (x.shape[1], x.shape[0], *((n - size) // stride + 1 for n in x.shape[2:]))


def _pool_numbers(large: Any, small_shape: tuple, size: int, stride: int) -> tuple:
    return (large.shape[0] * large.shape[1], *large.shape[2:], *small_shape[2:], size, stride)


def mean_pool(x: Any, size: int) -> Any:
    """Average each size x size block: (N, C, H, W) -> (N, C, H / size, W / size)."""
    rows = channel_rows(x)
    out = xp_of(x).empty((*rows.shape[:2], rows.shape[2] // size, rows.shape[3] // size), np.float32)
    if out.size:
        launch("mean_pool", blocks_for(out.size), rows, out, out.shape[0] * out.shape[1], *out.shape[2:], size)
    return out.swapaxes(0, 1)


def mean_unpool(g: Any, size: int) -> Any:
    """Apply its transpose: every pixel of a block gets an equal share of g."""
    rows = channel_rows(g)
    out = xp_of(g).empty((*rows.shape[:2], rows.shape[2] * size, rows.shape[3] * size), np.float32)
    if out.size:
        launch("mean_unpool", blocks_for(out.size), rows, out, rows.shape[0] * rows.shape[1], *rows.shape[2:], size)
    return out.swapaxes(0, 1)


def resize(x: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    """Compute rows @ x @ columns.T for each map: (N, C, H, W) -> (N, C, h, w); both matrices are on the host.

    The kernel reads as many neighbours as the widest row of each matrix has: for interpolation two, or a few.
    """
    source, xp = channel_rows(x), xp_of(x)
    (row_start, row_weights), (col_start, col_weights) = (
        held(_band(xp, x.data.device_id, m.astype(np.float32).tobytes(), m.shape)) for m in (rows, columns))
    out = xp.empty((*source.shape[:2], len(rows), len(columns)), np.float32)
    if out.size:
        launch("resize", blocks_for(out.size), source, out, row_start, row_weights, col_start, col_weights,
               source.shape[0] * source.shape[1], *source.shape[2:], *out.shape[2:], row_weights.shape[1],
               col_weights.shape[1])
    return out.swapaxes(0, 1)


@functools.lru_cache(64)
def _band(xp: Any, device: int, matrix: bytes, shape: tuple) -> tuple[Any, Any]:
    """Send band(matrix) to the device, once for each matrix."""
    with lasting(xp):
        return tuple(xp.asarray(part) for part in band(np.frombuffer(matrix, np.float32).reshape(shape)))


def band(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the first column that matters in each row (m,) int32, and from there as many numbers as the widest row needs
    (m, reach) float32. start + reach never passes the matrix's end."""
    m, n = matrix.shape
    used = matrix != 0
    first = np.where(used.any(axis=1), used.argmax(axis=1), 0)
    last = np.where(used.any(axis=1), n - 1 - used[:, ::-1].argmax(axis=1), 0)
    reach = int((last - first).max()) + 1 if m else 1
    start = np.minimum(first, n - reach).astype(np.int32)
    return start, matrix[np.arange(m)[:, None], start[:, None] + np.arange(reach)].astype(np.float32)


def canvas(images: Any, indices: Any, edge: int) -> Any:
    """Take the images (count, side, side), uint8 on the device, that `indices` (N,) int32 name, as data.to_canvas makes
    them: (N, 1, S, S) float32 in [0, 1] with `edge` black pixels around each."""
    side = images.shape[1] + 2 * edge
    out = xp_of(images).empty((len(indices), 1, side, side), np.float32)
    launch("canvas", blocks_for(out.size), images, indices, out, len(indices), images.shape[1], edge)
    return out
