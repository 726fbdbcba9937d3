"""Convolutions whose kernel is twice their stride, with 9 products where there were 16 (Winograd, F(2x2, 2x2)).

Cut the padded big map into cells of stride x stride pixels. Then such a convolution is one of 2x2 cells with stride 1.
Along one axis two neighbouring outputs of a 2-tap filter g on cells d cost three products instead of four:

    y0 = d0 g0 + d1 g1 = m0 + m1        m0 = (d0 - d1) g0
    y1 = d1 g0 + d2 g1 = m1 + m2        m1 = d1 (g0 + g1)       m2 = (d2 - d1) g1

and along both axes 9 instead of 16 (S. Winograd 1980; for convolutional nets: Lavin and Gray, arXiv:1509.09308). Only
sums and differences surround the products, so almost no precision is lost. Four small maps do it all:

    spread     (s0, s1)     -> (s0, s0 + s1, s1)             filters, and the small map on its way to the big one
    gather     (m0, m1, m2) -> (m0 + m1, m1 + m2)            its transpose
    difference cells        -> (d0 - d1, d1, d2 - d1)        the big map
    scatter    its transpose: back to cells, neighbours added

The price is the transforms, above all that of the filters; it pays when many pixels share a filter set (`pays`).
"""

import numpy as np

from . import pool
from .numpy_patches import Pair, filter_matrices, padded_samples, run_jobs, sample_runs

JOB_BYTES = 1 << 20  # transformed cells per job
PIXELS_PER_SET = 512  # below, transforming a filter set costs more than the products it saves (measured)
CHANNELS = 16  # below, the transforms' inner loops are too short (measured)


def pays(big_shape: tuple[int, ...], small_shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair,
         sets: int) -> bool:
    """Whether these maps, (N, B, H, W) and (N, A, h, w) meeting `sets` filter sets, can and should be done here."""
    n_samples, out_channels, h, w = small_shape
    fits = all(kernel[d] == 2 * stride[d] and small_shape[2 + d] % 2 == 0
               and big_shape[2 + d] + 2 * padding[d] == (small_shape[2 + d] + 1) * stride[d] for d in (0, 1))
    return fits and min(big_shape[1], out_channels) >= CHANNELS and n_samples * h * w >= PIXELS_PER_SET * sets


def conv(big, weight, stride, padding, routes, small_hw):
    """big (N, H, W, B) -> small (N, h, w, A); both channels-last."""
    (h, w), out_channels = small_hw, weight.shape[1]
    small = np.empty((len(big), h, w, out_channels), big.dtype)
    filters = _Spread(weight, stride)

    def job(k, samples, count):
        cells = _differences(big, samples, count, small_hw, stride, padding)
        products = pool.scratch("products", (3, 3, cells.shape[2], out_channels), big.dtype)
        np.matmul(cells, filters[k].transpose(0, 1, 3, 2), out=products)
        target = small[samples] if isinstance(samples, slice) else pool.scratch(
            "small", (count, h, w, out_channels), big.dtype)
        _gather(products.reshape(3, 3, count, h // 2, w // 2, out_channels), _tiles(target))
        if target.base is not small:
            small[samples] = target

    run_jobs(job, sample_runs(routes, len(big), JOB_BYTES // _bytes_each(big, small_hw, stride)), filters)
    return small


def conv_transpose(small, weight, stride, padding, routes, output_size):
    """small (N, h, w, A) -> big (N, *output_size, B); both channels-last."""
    n_samples, h, w, _ = small.shape
    channels = weight.shape[2]
    big = np.empty((n_samples, *output_size, channels), small.dtype)
    filters = _Spread(weight, stride)
    (sh, sw), (ph, pw) = stride, padding

    def job(k, samples, count):
        pixels = _spread_pixels(small, samples, count, pool.scratch("pixels", (3, 3, count, h // 2, w // 2,
                                                                            small.shape[3]), big.dtype))
        products = pool.scratch("products", (3, 3, count, h // 2, w // 2, sh, sw * channels), big.dtype)
        np.matmul(pixels, filters[k], out=products.reshape(3, 3, -1, sh * sw * channels))
        columns = pool.scratch("columns", (3, count, h // 2, sh, w + 1, sw * channels), big.dtype)
        _scatter(products.transpose(1, 4, 0, 2, 3, 5, 6), columns.transpose(4, 0, 1, 2, 3, 5))
        whole = pool.scratch("whole", (count, h + 1, sh, w + 1, sw * channels), big.dtype)
        _scatter(columns.transpose(0, 2, 1, 3, 4, 5), whole.transpose(1, 0, 2, 3, 4))
        whole = whole.reshape(count, (h + 1) * sh, (w + 1) * sw, channels)
        big[samples] = whole[:, ph:ph + output_size[0], pw:pw + output_size[1]]

    run_jobs(job, sample_runs(routes, n_samples, JOB_BYTES // _bytes_each(big, (h, w), stride)), filters)
    return big


def conv_weight(big, small, stride, padding, routes, grad):
    """big (N, H, W, B) and small (N, h, w, A) -> grad (K, A, kh, kw, B), the sets in use."""
    _, h, w, out_channels = small.shape
    (sh, sw), channels = stride, big.shape[3]
    at_most = JOB_BYTES // _bytes_each(big, (h, w), stride)
    for k, samples, count in sample_runs(routes, len(big), len(big)):
        tiles = (3, 3, count, h // 2, w // 2)
        cells = pool.scratch("all cells", (*tiles, sh * sw * channels), big.dtype)
        pixels = pool.scratch("all pixels", (*tiles, out_channels), big.dtype)
        products = pool.scratch("all products", (3, 3, out_channels, sh * sw * channels), big.dtype)

        def transform(_, part, size, samples=samples, cells=cells, pixels=pixels):
            ids = (slice(samples.start + part.start, samples.start + part.stop) if isinstance(samples, slice)
                   else samples[part])
            _differences(big, ids, size, (h, w), stride, padding, cells[:, :, part])
            _spread_pixels(small, ids, size, pixels[:, :, part])

        def multiply(i, j, cells=cells, pixels=pixels, products=products):
            tall = pixels[i, j].reshape(-1, out_channels)
            np.matmul(tall.T, cells[i, j].reshape(len(tall), -1), out=products[i, j])

        run_jobs(transform, sample_runs(None, count, at_most))
        pool.run([lambda i=i, j=j: multiply(i, j) for i in range(3) for j in range(3)])
        target = grad[k].reshape(out_channels, 2, sh, 2, sw * channels).transpose(1, 3, 0, 2, 4)
        _gather(products.reshape(3, 3, out_channels, sh, sw * channels), target)


class _Spread:
    """spread[k]: filter set k transformed, (3, 3, A, sh*sw*B), made on first use."""

    def __init__(self, weight, stride):
        self.matrices, self.stride, self.channels = filter_matrices(weight), stride, weight.shape[2]
        self.done = {}

    def prepare(self, k):
        sh, sw = self.stride
        matrix = self.matrices[k]
        taps = matrix.reshape(len(matrix), 2, sh, 2, sw * self.channels)
        out = np.empty((3, 3, len(matrix), sh, sw * self.channels), matrix.dtype)
        step = max(1, (1 << 16) // matrix.shape[1])

        def job(part):
            _spread(taps[part].transpose(1, 3, 0, 2, 4), out[:, :, part])

        pool.run([lambda part=slice(a, a + step): job(part) for a in range(0, len(matrix), step)])
        self.done[k] = out.reshape(3, 3, len(matrix), sh * sw * self.channels)

    def __getitem__(self, k):
        return self.done[k]


def _bytes_each(big, small_hw, stride) -> int:
    """Size of one sample's transformed cells."""
    return max(1, 9 * (small_hw[0] // 2) * (small_hw[1] // 2) * stride[0] * stride[1] * big.shape[3] * big.itemsize)


def _tiles(small):
    """A channels-last map (n, h, w, A) as (2, 2, n, h/2, w/2, A): position in the 2x2 tile first."""
    n, h, w, channels = small.shape
    return small.reshape(n, h // 2, 2, w // 2, 2, channels).transpose(2, 4, 0, 1, 3, 5)


def _spread(pair, out) -> None:
    """(2, 2, ...) -> out (3, 3, ...): (s0, s0 + s1, s1) along both leading axes."""
    out[::2, ::2] = pair
    np.add(out[0, ::2], out[2, ::2], out=out[1, ::2])
    np.add(out[:, 0], out[:, 2], out=out[:, 1])


def _gather(products, out) -> None:
    """(3, 3, ...) -> out (2, 2, ...): (m0 + m1, m1 + m2) along both leading axes."""
    rows = pool.scratch("gather", (2, *products.shape[1:]), products.dtype)
    np.add(products[:2], products[1:], out=rows)
    np.add(rows[:, :2], rows[:, 1:], out=out)


def _difference(cells, out) -> None:
    """cells (2t + 1, ...) -> out (3, t, ...): (d0 - d1, d1, d2 - d1), neighbouring tiles share a cell."""
    middle = cells[1::2]
    np.subtract(cells[:-1:2], middle, out=out[0])
    out[1] = middle
    np.subtract(cells[2::2], middle, out=out[2])


def _scatter(products, out) -> None:
    """products (3, t, ...) -> out (2t + 1, ...), the transpose of `_difference`."""
    middle = out[1::2]
    np.subtract(products[1], products[0], out=middle)
    middle -= products[2]
    out[0] = products[0, 0]
    np.add(products[0, 1:], products[2, :-1], out=out[2:-1:2])
    out[-1] = products[2, -1]


def _differences(big, samples, count, small_hw, stride, padding, out=None):
    """The samples' cells, transformed: (3, 3, tiles, sh*sw*B) in scratch memory or `out` (3, 3, n, h/2, w/2, ...)."""
    (h, w), (sh, sw), channels = small_hw, stride, big.shape[3]
    padded = padded_samples(big, samples, count, ((h + 1) * sh, (w + 1) * sw), padding)
    padded = padded.reshape(count, h + 1, sh, w + 1, sw * channels)
    rows = pool.scratch("rows", (3, count, h // 2, sh, w + 1, sw * channels), big.dtype)
    _difference(padded.transpose(1, 0, 2, 3, 4), rows.transpose(0, 2, 1, 3, 4, 5))
    if out is None:
        out = pool.scratch("cells", (3, 3, count, h // 2, w // 2, sh * sw * channels), big.dtype)
    target = out.reshape(3, 3, count, h // 2, w // 2, sh, sw * channels)
    _difference(rows.transpose(4, 0, 1, 2, 3, 5), target.transpose(1, 4, 0, 2, 3, 5, 6))
    return out.reshape(3, 3, -1, sh * sw * channels) if out.flags.c_contiguous else out


def _spread_pixels(small, samples, count, out):
    """The samples' pixels, transformed, in `out` (3, 3, n, h/2, w/2, A); returned as (3, 3, tiles, A) if contiguous."""
    _spread(_tiles(small[samples]), out)
    return out.reshape(3, 3, -1, small.shape[3]) if out.flags.c_contiguous else out
