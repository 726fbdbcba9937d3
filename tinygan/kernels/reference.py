"""What every kernel of this folder must compute, written as plain loops: slow, obvious, the definition.

One relation defines all three convolution maps. A sample n with filter set k = routes[n] ties pixel (y, x) of
the small map to pixel (Y, X) of the big map through tap (i, j) of the kernel whenever

    Y = y*sh - ph + i,    X = x*sw - pw + j,    and (Y, X) lies inside the big map.

Each map sums the product of two of the three arrays (big, small, weight) over all such ties into the third.
So each is the vector-Jacobian product of the other two, and <conv(big, w), small> = <big,
conv_transpose(small, w)> = <w, conv_weight(big, small)> holds exactly.

Shapes: big (N, B, H, W), small (N, A, h, w), weight (K, A, B, kh, kw); routes (N,) integers in [0, K) or None
for K = 1; stride (sh, sw), padding (ph, pw). The element-wise definitions follow below.
"""

import numpy as np


def small_size(big: int, kernel: int, stride: int, padding: int) -> int:
    """Compute the pixels of the small map along an axis; several big sizes give the same, hence `output_size` below."""
    return (big + 2 * padding - kernel) // stride + 1


def _ties(big_size, small_hw, kernel, stride, padding):
    """Yield all (y, x, i, j, Y, X) that belong together."""
    for y in range(small_hw[0]):
        for x in range(small_hw[1]):
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    big_y, big_x = y * stride[0] - padding[0] + i, x * stride[1] - padding[1] + j
                    if 0 <= big_y < big_size[0] and 0 <= big_x < big_size[1]:
                        yield y, x, i, j, big_y, big_x


def conv(big, weight, stride, padding, routes):
    """Compute the convolution (cross-correlation, as everywhere in the field): big -> small (N, A, h, w)."""
    n_samples, _, height, width = big.shape
    kernel = weight.shape[3:]
    h, w = (small_size(big.shape[2 + d], kernel[d], stride[d], padding[d]) for d in (0, 1))
    small = np.zeros((n_samples, weight.shape[1], h, w), big.dtype)
    for n in range(n_samples):
        taps = weight[0 if routes is None else routes[n]]
        for y, x, i, j, big_y, big_x in _ties((height, width), (h, w), kernel, stride, padding):
            small[n, :, y, x] += taps[:, :, i, j] @ big[n, :, big_y, big_x]
    return small


def conv_transpose(small, weight, stride, padding, routes, output_size):
    """Compute the transposed convolution: small -> big (N, B, *output_size)."""
    n_samples, _, h, w = small.shape
    big = np.zeros((n_samples, weight.shape[2], *output_size), small.dtype)
    for n in range(n_samples):
        taps = weight[0 if routes is None else routes[n]]
        for y, x, i, j, big_y, big_x in _ties(output_size, (h, w), weight.shape[3:], stride, padding):
            big[n, :, big_y, big_x] += small[n, :, y, x] @ taps[:, :, i, j]
    return big


def conv_weight(big, small, kernel, stride, padding, routes, bank):
    """Compute the weight gradient of both maps: (big, small) -> (bank, A, B, kh, kw), zero for unused sets."""
    n_samples, channels, height, width = big.shape
    grad = np.zeros((bank, small.shape[1], channels, *kernel), big.dtype)
    for n in range(n_samples):
        taps = grad[0 if routes is None else routes[n]]
        for y, x, i, j, big_y, big_x in _ties((height, width), small.shape[2:], kernel, stride, padding):
            taps[:, :, i, j] += np.outer(small[n, :, y, x], big[n, :, big_y, big_x])
    return grad


def conv_relu(x, weight, bias, padding):
    """Compute max(0, conv(x) + bias), stride 1: x (N, B, H, W), weight (A, B, kh, kw), bias (A,) -> (N, A, h, w)."""
    return np.maximum(conv(x, weight[None], (1, 1), (padding, padding), None) + bias[:, None, None], 0)


def conv_relu_dx(g, y, weight, padding):
    """Compute its gradient to x for the gradient g of y = conv_relu(x); where y is 0 the slope is 0."""
    size = tuple(n + k - 1 - 2 * padding for n, k in zip(g.shape[2:], weight.shape[2:], strict=True))
    return conv_transpose(g * (y > 0), weight[None], (1, 1), (padding, padding), None, size)


# ---- element-wise ----------------------------------------------------------------------


def tprelu(x, slope, shift):
    """Compute the translated PReLU, y = max(x - t, 0) + a min(x - t, 0) + t; x (N, C, ...), slope a, shift t (C,)."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        a, t = slope[c], 0 if shift is None else shift[c]
        y[:, c] = np.maximum(x[:, c] - t, 0) + a * np.minimum(x[:, c] - t, 0) + t
    return y


def tprelu_dx(g, x, slope, shift):
    """Compute its gradient to x: g where x > t, else a g. At the kink x == t the negative side counts."""
    out = np.empty_like(x)
    for c in range(x.shape[1]):
        a, t = slope[c], 0 if shift is None else shift[c]
        out[:, c] = np.where(x[:, c] > t, g[:, c], a * g[:, c])
    return out


def tprelu_dslope(g, x, shift):
    """Sum g (x - t) over x <= t, per channel."""
    out = np.empty(x.shape[1], x.dtype)
    for c in range(x.shape[1]):
        t = 0 if shift is None else shift[c]
        out[c] = (g[:, c] * (x[:, c] - t))[x[:, c] <= t].sum()
    return out


def tprelu_below(g, x, shift):
    """Sum g over x <= t, per channel."""
    out = np.empty(x.shape[1], x.dtype)
    for c in range(x.shape[1]):
        out[c] = g[:, c][x[:, c] <= (0 if shift is None else shift[c])].sum()
    return out


def tprelu_back(g, x, slope, shift):
    """Compute all of its gradients: to x, slope and shift (None where there is no shift)."""
    dshift = None if shift is None else (1 - slope) * tprelu_below(g, x, shift)
    return tprelu_dx(g, x, slope, shift), tprelu_dslope(g, x, shift), dshift


def channel_sums(x):
    """Sum (N, C, ...) over samples and pixels: (C,)."""
    return np.array([x[:, c].sum() for c in range(x.shape[1])], x.dtype)


def filter_norms(w, out_axis, scale=1.0, eps=0.0, rows=None):
    """Compute n = sqrt(scale * sum w^2 + eps) per set and channel (axis out_axis of w); 1 for sets not in rows."""
    n = np.ones((w.shape[0], w.shape[out_axis]), w.dtype)
    for k in range(w.shape[0]):
        for o in range(w.shape[out_axis]):
            if rows is None or rows[k]:
                n[k, o] = np.sqrt(scale * (w[k].take(o, out_axis - 1) ** 2).sum() + eps)
    return n


def normalize(w, out_axis, scale, eps, rows=None):
    """Divide by the norm: (v, n), v = w / n for the sets in rows, else 0."""
    n = filter_norms(w, out_axis, scale, eps, rows)
    v = np.zeros_like(w)
    for k in range(w.shape[0]):
        if rows is None or rows[k]:
            v[k] = w[k] / (n[k][:, None, None, None] if out_axis == 1 else n[k][None, :, None, None])
    return v, n


def normalize_dx(g, w, n, out_axis, scale, rows=None):
    """Compute (g - scale (sum w g) w / n^2) / n per output channel, for the sets in rows, else 0."""
    out = np.zeros_like(w)
    for k in range(w.shape[0]):
        for o in range(w.shape[out_axis]):
            if rows is None or rows[k]:
                channel = (k, o) if out_axis == 1 else (k, slice(None), o)
                dot = (w[channel] * g[channel]).sum()
                out[channel] = (g[channel] - scale * dot * w[channel] / n[k, o] ** 2) / n[k, o]
    return out


def rmsprop(p, v, g, *, lr, alpha, eps, rows=None):
    """Update in place, for the sets in rows: v = alpha v + (1 - alpha) g^2;  p -= lr g / (sqrt(v) + eps)."""
    for k in range(len(p)):
        if rows is None or rows[k]:
            v[k] = alpha * v[k] + (1 - alpha) * g[k] ** 2
            p[k] -= lr * g[k] / (np.sqrt(v[k]) + eps)


def adam(p, m, v, g, *, lr, beta1, beta2, eps, step, rows=None):
    """Update in place, for the sets in rows: Adam, bias corrected, eps outside the root; step: one, or one per row."""
    for k in range(len(p)):
        if rows is None or rows[k]:
            t = int(np.broadcast_to(step, len(p))[k])
            m[k] = beta1 * m[k] + (1 - beta1) * g[k]
            v[k] = beta2 * v[k] + (1 - beta2) * g[k] ** 2
            p[k] -= lr * (m[k] / (1 - beta1**t)) / (np.sqrt(v[k] / (1 - beta2**t)) + eps)


def lerp(ema, p, decay):
    """Update in place: ema = decay ema + (1 - decay) p."""
    ema[...] = decay * ema + (1 - decay) * p


# ---- sigmoid and the loss -----------------------------------------------------------------------------------------


def sigmoid(x):
    """Compute 1 / (1 + e^-x), without overflow and exact for small values."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def sigmoid_back(g, y):
    """Compute its gradient to x from its value y: g y (1 - y)."""
    return g * y * (1 - y)


def concatenate(arrays, axis):
    """Join arrays along an axis."""
    return np.concatenate(arrays, axis)


def affine(x, gain, bias):
    """Compute gain x + bias, per channel; x (N, C, ...), gain and bias (C,)."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        y[:, c] = gain[c] * x[:, c] + bias[c]
    return y


def affine_back(g, x, gain):
    """Compute its gradients: to x; to gain, the sum of g x per channel; to bias, that of g."""
    dx = affine(g, gain, np.zeros_like(gain))
    return dx, channel_sums(g * x), channel_sums(g)


def softplus(x):
    """Compute log(1 + e^x), without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def blur(x):
    """Blur maps (N, C, H, W) with the weights 1/4, 1/2, 1/4 along rows and columns, the border pixel repeated."""
    out = np.zeros_like(x)
    height, width = x.shape[2:]
    for i, j, down, right in np.ndindex(height, width, 3, 3):
        row, column = min(max(i + down - 1, 0), height - 1), min(max(j + right - 1, 0), width - 1)
        out[:, :, i, j] += (1, 2, 1)[down] * (1, 2, 1)[right] / 16 * x[:, :, row, column]
    return out


def logistic_loss(x, sign):
    """Compute the mean of -log sigmoid(sign x), without overflow."""
    z = -sign * x
    return (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))).mean()


def logistic_back(g, x, sign):
    """Compute its gradient to x for the gradient g of the loss: -g sign sigmoid(-sign x) / n."""
    return -g * sign / x.size * sigmoid(-sign * x)


def logistic_losses(x, first):
    """Compute the loss of logits (N,), the first of which are to be called real (sign 1), the others not (sign -1)."""
    return logistic_loss(x[:first], 1) + logistic_loss(x[first:], -1)


def logistic_losses_back(g, x, first):
    """Compute its gradient to x for the gradient g of the loss."""
    return np.concatenate([logistic_back(g, x[:first], 1), logistic_back(g, x[first:], -1)])


# ---- patches -----------------------------------------------------------------------------------------------------
# On a GPU maps are (C, N, H, W); order (N,) or None: slot s of the columns holds sample order[s].


def im2col(big, order, first, count, kernel, stride, padding):
    """Unroll slots first to first + count of big (B, N, H, W) to columns (B * kh * kw, count * h * w)."""
    hw = [small_size(big.shape[2 + d], kernel[d], stride[d], padding[d]) for d in (0, 1)]
    columns = np.zeros((big.shape[0], *kernel, count, *hw), big.dtype)
    for s in range(count):
        n = first + s if order is None else order[first + s]
        for y, x, i, j, big_y, big_x in _ties(big.shape[2:], hw, kernel, stride, padding):
            columns[:, i, j, s, y, x] = big[:, n, big_y, big_x]
    return columns.reshape(big.shape[0] * kernel[0] * kernel[1], -1)


def col2im(columns, order, first, count, big, hw, kernel, stride, padding):
    """Apply the transpose, in place: overwrite those samples of big (B, N, H, W) with the sum of what belongs there."""
    columns = columns.reshape(big.shape[0], *kernel, count, *hw)
    for s in range(count):
        n = first + s if order is None else order[first + s]
        big[:, n] = 0
        for y, x, i, j, big_y, big_x in _ties(big.shape[2:], hw, kernel, stride, padding):
            big[:, n, big_y, big_x] += columns[:, i, j, s, y, x]


# ---- routes ------------------------------------------------------------------------------------------------------
# order (N,) and starts (K + 1,) are a plan: slots starts[k] to starts[k + 1] - 1 hold the samples of set k, slot s
# sample order[s]. small (A, N, pixels) lies in the batch's order; columns (D, last - first, pixels) hold the slots from
# first to before last, or with is_map (D, N, pixels) all samples in the batch's order. filters and gradient: (K, A, D).


def plan_routes(routes, bank):
    """Make the plans of routes (L, N): order (L, N), starts (L, bank + 1), and which sets are used (L, bank)."""
    order, starts = np.empty(routes.shape, np.int32), np.empty((len(routes), bank + 1), np.int32)
    used = np.empty((len(routes), bank), np.uint8)
    for layer, route in enumerate(routes):
        sets = [[n for n in range(len(route)) if route[n] == k] for k in range(bank)]
        order[layer] = sum(sets, [])
        starts[layer] = [len(sum(sets[:k], [])) for k in range(bank + 1)]
        used[layer] = [len(samples) > 0 for samples in sets]
    return order, starts, used


def _slots(order, starts, first, last, is_map):
    """Yield (set, sample, where its columns are) of all slots that the columns hold."""
    for k in range(len(starts) - 1):
        for s in range(max(starts[k], first), min(starts[k + 1], last)):
            yield k, order[s], order[s] if is_map else s - first


def routed_product(filters, small, columns, order, starts, first, last, is_map, turned):
    """Write in place, slot by slot: small = its set's filters @ columns; turned: columns = filters.T @ small."""
    for k, n, place in _slots(order, starts, first, last, is_map):
        if turned:
            columns[:, place] = filters[k].T @ small[:, n]
        else:
            small[:, n] = filters[k] @ columns[:, place]


def routed_gradient(grad, small, columns, order, starts, first, last, is_map):
    """Add in place, slot by slot: small @ columns.T to the gradient of the slot's set."""
    for k, n, place in _slots(order, starts, first, last, is_map):
        grad[k] += small[:, n] @ columns[:, place].T


def tf32(x):
    """Round to TF32: 10 bits behind the point instead of 23, a half away from zero."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


# ---- pooling and resizing: x (N, C, H, W) --------------------------------------------------------------------------


def max_pool(x, size, stride):
    """Find the largest of each window and its number in row order; the first of equals, a NaN before all."""
    h, w = ((n - size) // stride + 1 for n in x.shape[2:])
    best, which = np.empty((*x.shape[:2], h, w), x.dtype), np.empty((*x.shape[:2], h, w), np.int32)
    for n, c, i, j in np.ndindex(best.shape):
        window = x[n, c, i * stride:i * stride + size, j * stride:j * stride + size].ravel()
        which[n, c, i, j] = window.argmax()  # NumPy's argmax stops at the first NaN
        best[n, c, i, j] = window[which[n, c, i, j]]
    return best, which


def pool_take(x, which, size, stride):
    """Take from each window the pixel whose number `which` (N, C, h, w) gives."""
    out = np.empty(which.shape, x.dtype)
    for n, c, i, j in np.ndindex(which.shape):
        row, column = divmod(int(which[n, c, i, j]), size)
        out[n, c, i, j] = x[n, c, i * stride + row, j * stride + column]
    return out


def pool_put(g, which, size, stride, shape):
    """Apply the transpose of pool_take: zeros of `shape` with every number of g added where it was taken."""
    out = np.zeros(shape, g.dtype)
    for n, c, i, j in np.ndindex(which.shape):
        row, column = divmod(int(which[n, c, i, j]), size)
        out[n, c, i * stride + row, j * stride + column] += g[n, c, i, j]
    return out


def matmul(a, b):
    """Multiply matrices (..., n, k) and (..., k, m); leading axes broadcast."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    out = np.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
    for *of, row, column in np.ndindex(out.shape):
        out[(*of, row, column)] = (a[(*of, row)] * b[(*of, slice(None), column)]).sum()
    return out


def mean_pool(x, size):
    """Average each size x size block."""
    out = np.empty((*x.shape[:2], x.shape[2] // size, x.shape[3] // size), x.dtype)
    for i, j in np.ndindex(out.shape[2:]):
        out[:, :, i, j] = x[:, :, i * size:(i + 1) * size, j * size:(j + 1) * size].mean(axis=(2, 3))
    return out


def mean_unpool(g, size):
    """Apply its transpose: an equal share of g for every pixel of a block."""
    out = np.empty((*g.shape[:2], g.shape[2] * size, g.shape[3] * size), g.dtype)
    for i, j in np.ndindex(out.shape[2:]):
        out[:, :, i, j] = g[:, :, i // size, j // size] / size**2
    return out


def resize(x, rows, columns):
    """Compute rows @ x @ columns.T for every map; rows (h, H) and columns (w, W) are matrices."""
    out = np.zeros((*x.shape[:2], len(rows), len(columns)), x.dtype)
    for i, j in np.ndindex(out.shape[2:]):
        out[:, :, i, j] = (x * rows[i][:, None] * columns[j]).sum(axis=(2, 3))
    return out


# ---- views: images sampled along affine maps -----------------------------------------------------------------------
# View m shows image sources[m] of x (N, C, H, W) through matrices[m] (2, 3): its pixel (i, j) is sampled at the
# position (row, column) = matrix @ (i, j, 1), computed in the dtype of the maps as (a i + b j) + c. Pixel centres lie
# at whole numbers, and a position is tied to the four pixels less than 1 away from it, along both axes.


def _views(matrices, sources, size, limits, dtype):
    """Yield all (m, i, j, n, Y, X, weight) that belong together: view and pixel, image and pixel inside it."""
    for m, matrix in enumerate(np.asarray(matrices, dtype)):
        for i, j in np.ndindex(*size):
            row, column = ((a * i + b * j) + c for a, b, c in matrix)
            for y in (np.floor(row), np.floor(row) + 1):
                for x in (np.floor(column), np.floor(column) + 1):
                    if 0 <= y < limits[0] and 0 <= x < limits[1]:
                        weight = (1 - abs(row - y)) * (1 - abs(column - x))
                        yield m, i, j, int(sources[m]), int(y), int(x), weight


def warp(x, matrices, sources, size):
    """Sample the views (M, C, *size) bilinearly; what lies outside an image counts as 0."""
    out = np.zeros((len(matrices), x.shape[1], *size), x.dtype)
    for m, i, j, n, row, column, weight in _views(matrices, sources, size, x.shape[2:], x.dtype):
        out[m, :, i, j] += weight * x[n, :, row, column]
    return out


def warp_back(g, matrices, sources, shape):
    """Apply the transpose of warp: views g (M, C, h, w) -> `shape` (N, C, H, W)."""
    out = np.zeros(shape, g.dtype)
    for m, i, j, n, row, column, weight in _views(matrices, sources, g.shape[2:], shape[2:], g.dtype):
        out[n, :, row, column] += weight * g[m, :, i, j]
    return out
