"""Every kernel in calls that NumPy and CuPy share: no threads, no stride tricks, nothing to compile.

It runs wherever arrays have NumPy's interface, so it serves GPU arrays, and on NumPy arrays the tests hold it
against `reference.py`. One filter set at a time: its samples are gathered, unrolled tap by tap with strided
slices and multiplied. Shapes and formulas are those of `reference.py`; `routes` and `rows` stay on the host, so
that no result has to come back from a GPU before the next step is known.
"""

import math

import numpy as np

from tinygan.backend import xp_of
from tinygan.kernels.numpy_patches import overlap, small_size
from tinygan.kernels.numpy_warp import positions


def _groups(routes, n_samples):
    """(filter set, its samples) for every set in use: a slice if that is all of them, else host indices."""
    if routes is None:
        return [(0, slice(None))] if n_samples else []
    return [(int(k), np.flatnonzero(routes == k)) for k in np.unique(routes)]


def conv(big, weight, stride, padding, routes):
    """big (N, B, H, W) -> small (N, A, h, w)."""
    kernel = weight.shape[3:]
    h, w = (small_size(big.shape[2 + d], kernel[d], stride[d], padding[d]) for d in (0, 1))
    small = xp_of(big).empty((len(big), h, w, weight.shape[1]), big.dtype)
    for k, samples in _groups(routes, len(big)):
        columns = _columns(big[samples], (h, w), kernel, stride, padding)
        filters = weight[k].transpose(0, 2, 3, 1).reshape(weight.shape[1], -1)
        small[samples] = (columns @ filters.T).reshape(-1, h, w, weight.shape[1])
    return small.transpose(0, 3, 1, 2)


def conv_transpose(small, weight, stride, padding, routes, output_size):
    """small (N, A, h, w) -> big (N, B, *output_size)."""
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


def conv_weight(big, small, kernel, stride, padding, routes, bank):
    """(big, small) -> (bank, A, B, kh, kw), zero for unused sets."""
    a, b = small.shape[1], big.shape[1]
    grad = xp_of(big).zeros((bank, a, *kernel, b), big.dtype)
    for k, samples in _groups(routes, len(big)):
        columns = _columns(big[samples], small.shape[2:], kernel, stride, padding)
        pixels = small[samples].transpose(0, 2, 3, 1).reshape(-1, a)
        grad[k] = (pixels.T @ columns).reshape(a, *kernel, b)
    return grad.transpose(0, 1, 4, 2, 3)


def conv_relu(x, weight, bias, padding):
    """max(0, conv(x) + bias), stride 1; weight (A, B, kh, kw)."""
    y = conv(x, weight[None], (1, 1), (padding, padding), None) + _per_channel(bias, x)
    return xp_of(x).maximum(y, 0.0)


def conv_relu_dx(g, y, weight, padding):
    """Its cotangent to x: conv_transpose(g * (y > 0))."""
    size = tuple(n + k - 1 - 2 * padding for n, k in zip(g.shape[2:], weight.shape[2:], strict=True))
    return conv_transpose(g * (y > 0), weight[None], (1, 1), (padding, padding), None, size)


def _columns(big, small_hw, kernel, stride, padding):
    """Patches as a matrix (N*h*w, kh*kw*B)."""
    n_samples, channels = big.shape[:2]
    columns = xp_of(big).zeros((n_samples, *small_hw, *kernel, channels), big.dtype)
    pixels = big.transpose(0, 2, 3, 1)
    for i, j, rows, cols, big_rows, big_cols in _taps(small_hw, kernel, stride, padding, big.shape[2:]):
        columns[:, rows, cols, i, j] = pixels[:, big_rows, big_cols]
    return columns.reshape(n_samples * math.prod(small_hw), math.prod(kernel) * channels)


def _taps(small_hw, kernel, stride, padding, big_size):
    """For every tap (i, j): which small rows and columns meet which big ones."""
    for i in range(kernel[0]):
        rows, big_rows = overlap(small_hw[0], i - padding[0], stride[0], big_size[0])
        for j in range(kernel[1]):
            cols, big_cols = overlap(small_hw[1], j - padding[1], stride[1], big_size[1])
            yield i, j, rows, cols, big_rows, big_cols


def _per_channel(vector, x):
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def tprelu(x, slope, shift, bias=None):
    """y = max(x - t, 0) + a min(x - t, 0) + t per channel, of x + bias."""
    x = x if bias is None else x + _per_channel(bias, x)
    a, t = _per_channel(slope, x), 0 if shift is None else _per_channel(shift, x)
    return xp_of(x).where(x > t, x, a * (x - t) + t)


def tprelu_dx(g, x, slope, shift):
    """g where x > t, else a g."""
    t = 0 if shift is None else _per_channel(shift, x)
    return xp_of(x).where(x > t, g, _per_channel(slope, x) * g)


def tprelu_dslope(g, x, shift):
    """Per channel, the sum of g (x - t) over x <= t."""
    t = 0 if shift is None else _per_channel(shift, x)
    return (g * (x <= t) * (x - t)).sum(axis=(0, *range(2, x.ndim)))


def tprelu_below(g, x, shift):
    """Per channel, the sum of g over x <= t."""
    t = 0 if shift is None else _per_channel(shift, x)
    return (g * (x <= t)).sum(axis=(0, *range(2, x.ndim)))


def _fold(out_axis):
    return (2, 3, 4) if out_axis == 1 else (1, 3, 4)


def _spread(n, out_axis):
    return n[:, :, None, None, None] if out_axis == 1 else n[:, None, :, None, None]


def _named(rows, like):
    """The rows mask on the array's device, shaped to meet it."""
    return xp_of(like).asarray(rows).reshape(-1, *[1] * (like.ndim - 1))


def filter_norms(w, out_axis, scale=1.0, eps=0.0, rows=None):
    """sqrt(scale * sum w^2 + eps), (K, channels); 1 for sets not in rows."""
    n = xp_of(w).sqrt(scale * (w * w).sum(axis=_fold(out_axis)) + eps)
    return n if rows is None else xp_of(w).where(_named(rows, n), n, 1)


def normalize(w, out_axis, scale, eps, rows=None):
    """(v, n) with v = w / n; v = 0 and n = 1 for sets not in rows."""
    n = filter_norms(w, out_axis, scale, eps, rows)
    v = w / _spread(n, out_axis)
    return (v if rows is None else v * _named(rows, v)), n


def normalize_dx(g, w, n, out_axis, scale, rows=None):
    """(g - scale (sum w g) w / n^2) / n; 0 for sets not in rows."""
    dot = scale * (w * g).sum(axis=_fold(out_axis))
    out = (g - w * _spread(dot / (n * n), out_axis)) / _spread(n, out_axis)
    return out if rows is None else xp_of(w).where(_named(rows, out), out, 0)


def _some(rows):
    """What to index axis 0 with: everything, or the rows named (host indices)."""
    return slice(None) if rows is None else np.flatnonzero(rows)


def rmsprop(p, v, g, *, lr, alpha, eps, rows=None):
    """In place: v = alpha v + (1 - alpha) g^2;  p -= lr g / (sqrt(v) + eps)."""
    at = _some(rows)
    v[at] = alpha * v[at] + (1 - alpha) * g[at] * g[at]
    p[at] = p[at] - lr * g[at] / (xp_of(p).sqrt(v[at]) + eps)


def adam(p, m, v, g, *, lr, beta1, beta2, eps, step, rows=None):
    """In place: Adam with bias correction, eps outside the root; step: one number or one per row."""
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


def lerp(ema, p, decay):
    """In place: ema = decay ema + (1 - decay) p."""
    ema += (1 - decay) * (p - ema)


# ---- sigmoid, the loss, pooling, resizing: numpy_.py takes these, too ---------------------------------------------


def sigmoid(x):
    """1 / (1 + e^-x), and e^x / (1 + e^x) for x < 0: neither overflows, and small values stay exact."""
    xp = xp_of(x)
    small = xp.exp(-abs(x))
    return xp.where(x >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def logistic_loss(x, sign):
    """mean of -log sigmoid(sign x), a 0-d array."""
    xp, z = xp_of(x), -sign * x
    return (xp.maximum(z, 0.0) + xp.log1p(xp.exp(-abs(z)))).sum() * (1 / max(1, x.size))


def logistic_back(g, x, sign):
    """-g sign sigmoid(-sign x) / n."""
    return (g * (-sign / max(1, x.size))) * sigmoid(-sign * x)


def _windows(array, size, stride, hw):
    """The size * size views of (N, C, h, w) that hold the same corner of every window."""
    return [array[:, :, i:i + stride * (hw[0] - 1) + 1:stride, j:j + stride * (hw[1] - 1) + 1:stride]
            for i in range(size) for j in range(size)]


def max_pool(x, size, stride):
    """(largest of each window, its number in the window); the first of equals."""
    xp, best, which = xp_of(x), None, None
    for i, window in enumerate(_windows(x, size, stride, [(n - size) // stride + 1 for n in x.shape[2:]])):
        if best is None:
            best, which = window, xp.zeros(window.shape, dtype=xp.int32)
        else:
            larger = (window > best) | ((window != window) & (best == best))  # a NaN is passed on, not lost
            best, which = xp.where(larger, window, best), xp.where(larger, xp.int32(i), which)
    return best, which


def pool_take(x, which, size, stride):
    """From each window the number that `which` names."""
    out = xp_of(x).zeros(which.shape, dtype=x.dtype)
    for i, window in enumerate(_windows(x, size, stride, which.shape[2:])):
        out = xp_of(x).where(which == i, window, out)
    return out


def pool_put(g, which, size, stride, shape):
    """The transpose of pool_take."""
    out = xp_of(g).zeros(shape, dtype=g.dtype)
    for i, window in enumerate(_windows(out, size, stride, which.shape[2:])):
        window += xp_of(g).where(which == i, g, 0.0)
    return out


def mean_pool(x, size):
    """Mean of each size x size block: rows are added, then columns, each in long runs and in the memory order of x.
    A sum over the axes of blocks goes through them number by number, and takes ten times as long."""
    rows = _added([x[:, :, i::size] for i in range(size)])
    return _added([rows[:, :, :, i::size] for i in range(size)]) * (1 / size**2)


def _added(parts):
    """Their sum; one alone as it is."""
    if len(parts) == 1:
        return parts[0]
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


def mean_unpool(g, size):
    """Its transpose."""
    n, c, h, w = g.shape
    spread = xp_of(g).broadcast_to((g * (1 / size**2))[:, :, :, None, :, None], (n, c, h, size, w, size))
    return spread.reshape(n, c, h * size, w * size)


def resize(x, rows, columns):
    """rows @ x @ columns.T; rows (h, H), columns (w, W) host matrices."""
    rows, columns = (xp_of(x).asarray(m.astype(x.dtype)) for m in (rows, columns))
    return rows @ x @ columns.T


# ---- views -------------------------------------------------------------------------------------------------------
# A row of a view takes R x C^T from the image and keeps the diagonal, where R and C hold the weights of all rows and
# columns of the image for each pixel. Far more products than the four that matter, but no index and nothing to add up
# at one place from many sides: the transpose is as deterministic as a matrix product.


def warp(x, matrices, sources, size):
    """x (N, C, H, W) -> views (M, C, *size); matrices (M, 2, 3) and sources (M,) on the host."""
    out = xp_of(x).empty((len(matrices), x.shape[1], *size), dtype=x.dtype)
    seen = x[sources]
    for i, (rows, columns) in enumerate(_view_weights(x, matrices, size, x.shape[2:])):
        out[:, :, i] = ((rows @ seen) * columns).sum(axis=3)
    return out


def warp_back(g, matrices, sources, shape):
    """The transpose: g (M, C, h, w) -> shape (N, C, H, W)."""
    xp = xp_of(g)
    seen = xp.zeros((len(g), *shape[1:]), dtype=g.dtype)
    for i, (rows, columns) in enumerate(_view_weights(g, matrices, g.shape[2:], shape[2:])):
        seen += rows.swapaxes(2, 3) @ (g[:, :, i, :, None] * columns)
    out = xp.zeros(shape, dtype=g.dtype)
    for view, image in enumerate(sources.tolist()):
        out[image] += seen[view]
    return out


def _view_weights(like, matrices, size, limits):
    """For every row of the views, the weights of the images' rows (M, 1, w, H) and columns (M, 1, w, W)."""
    xp = xp_of(like)
    places = [xp.arange(n).astype(like.dtype) for n in limits]
    where = np.empty((2, len(matrices), *size), like.dtype)
    for m, matrix in enumerate(np.asarray(matrices, like.dtype)):
        where[:, m] = positions(matrix, np.arange(size[0]), size[1])
    where = xp.asarray(where)
    for i in range(size[0]):
        yield [xp.maximum(1.0 - abs(at[:, None, i, :, None] - place), 0.0)
               for at, place in zip(where, places, strict=True)]
