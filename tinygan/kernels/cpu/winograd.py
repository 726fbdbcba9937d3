"""Convolutions whose kernel is twice their stride, with 9 products in place of 16 (Winograd, F(2x2, 2x2)).

Cut the padded big map into cells of stride x stride pixels. Then such a convolution is one of 2x2 cells with
stride 1. Along one axis two neighbouring outputs of a 2-tap filter g on cells d cost three products instead
of four:

    y0 = d0 g0 + d1 g1 = m0 + m1        m0 = (d0 - d1) g0
    y1 = d1 g0 + d2 g1 = m1 + m2        m1 = d1 (g0 + g1)       m2 = (d2 - d1) g1

and along both axes 9 instead of 16 (S. Winograd 1980; for convolutional nets: Lavin and Gray,
arXiv:1509.09308). Only sums and differences surround the products, so almost no precision is lost. Four small
maps do it all:

    spread     (s0, s1)     -> (s0, s0 + s1, s1)             filters; the small map on its way to the big
    gather     (m0, m1, m2) -> (m0 + m1, m1 + m2)            its transpose
    difference cells        -> (d0 - d1, d1, d2 - d1)        the big map
    scatter    its transpose: back to cells, neighbours added

The price is the transforms, above all that of the filters; it pays when many pixels share a filter set
(`pays`).
"""

from collections.abc import Iterator

import numpy as np

from tinygan.kernels import threads
from tinygan.kernels.cpu.patches import Samples, filter_matrices, run_jobs, sample_runs
from tinygan.kernels.geometry import Pair

TILES_PER_JOB = 192  # rows of the nine products: with fewer, packing the filters costs more than multiplying
PIXELS_PER_SET = 512  # below, transforming a filter set costs more than the products it saves (measured)
CHANNELS = 48  # with fewer, the transforms cost more than the products they save (measured)


def pays(big_shape: tuple[int, ...], small_shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair,
         routes: np.ndarray | None) -> bool:
    """Tell whether maps (N, B, H, W) and (N, A, h, w) can be done here, and whether that is faster."""
    n_samples, out_channels, *small_hw = small_shape
    for d in (0, 1):
        padded = (small_hw[d] + 1) * stride[d]  # a stride that leaves pixels over does not fit
        if kernel[d] != 2 * stride[d] or small_hw[d] % 2 or big_shape[2 + d] + 2 * padding[d] != padded:
            return False
    pixels = n_samples * small_hw[0] * small_hw[1]
    if pixels < PIXELS_PER_SET or min(big_shape[1], out_channels) < CHANNELS:
        return False
    return routes is None or pixels >= PIXELS_PER_SET * len(np.unique(routes))


def conv(big: np.ndarray, weight: np.ndarray, stride: Pair, padding: Pair, routes: np.ndarray | None,
         small_hw: Pair) -> np.ndarray:
    """Convolve big (N, B, H, W) to small (N, A, *small_hw)."""
    big = big.transpose(0, 2, 3, 1)
    (h, w), out_channels = small_hw, weight.shape[1]
    small = np.empty((len(big), h, w, out_channels), big.dtype)
    runs = sample_runs(routes, len(big), _samples_per_job(h, w))
    filters = _spread_filters(weight, stride, runs)

    def job(k: int, samples: Samples, count: int) -> None:
        tiles = (3, 3, w // 2, h // 2, count)
        cells = threads.scratch("cells", (*tiles, filters[k].shape[3]), big.dtype)
        products = threads.scratch("products", (*tiles, out_channels), big.dtype)
        _difference_cells(big, samples, stride, padding, cells)
        np.matmul(_flat(cells), filters[k].transpose(0, 1, 3, 2), out=_flat(products))
        if isinstance(samples, slice):
            _gather(products, _tiles(small[samples]))
        else:
            target = threads.scratch("target", (count, h, w, out_channels), big.dtype)
            _gather(products, _tiles(target))
            small[samples] = target

    run_jobs(job, runs)
    return small.transpose(0, 3, 1, 2)


def conv_transpose(small: np.ndarray, weight: np.ndarray, stride: Pair, padding: Pair,
                   routes: np.ndarray | None, output_size: Pair) -> np.ndarray:
    """Convolve small (N, A, h, w) the transposed way to big (N, B, *output_size)."""
    small = small.transpose(0, 2, 3, 1)
    n_samples, h, w, out_channels = small.shape
    channels = weight.shape[2]
    big = np.empty((n_samples, *output_size, channels), small.dtype)
    sh, sw = stride
    runs = sample_runs(routes, n_samples, _samples_per_job(h, w))
    filters = _spread_filters(weight, stride, runs)

    def job(k: int, samples: Samples, count: int) -> None:
        tiles, size = (3, 3, w // 2, h // 2, count), sh * sw * channels
        pixels = threads.scratch("pixels", (*tiles, out_channels), big.dtype)
        products = threads.scratch("products", (*tiles, size), big.dtype)
        columns = threads.scratch("columns", (w + 1, 3, h // 2, count, size), big.dtype)
        cells = threads.scratch("cells", (w + 1, h + 1, count, size), big.dtype)
        _spread(_tiles(small[samples]), pixels)
        np.matmul(_flat(pixels), filters[k], out=_flat(products))
        _scatter(products.transpose(0, 2, 1, 3, 4, 5), columns)
        _scatter(columns.transpose(1, 2, 0, 3, 4), cells.transpose(1, 0, 2, 3))
        target = big[samples] if isinstance(samples, slice) else threads.scratch(
            "target", (count, *big.shape[1:]), big.dtype)
        for in_cells, in_map in _cuts(cells, target, stride, padding):
            in_map[...] = in_cells
        if not isinstance(samples, slice):
            big[samples] = target

    run_jobs(job, runs)
    return big.transpose(0, 3, 1, 2)


def conv_weight(big: np.ndarray, small: np.ndarray, stride: Pair, padding: Pair, routes: np.ndarray | None,
                grad: np.ndarray) -> None:
    """Compute the weight gradient into grad (K, A, B, kh, kw), for the filter sets in use."""
    big, small = big.transpose(0, 2, 3, 1), small.transpose(0, 2, 3, 1)
    _, h, w, out_channels = small.shape
    (sh, sw), channels = stride, big.shape[3]
    taps = grad.transpose(0, 1, 3, 4, 2).reshape(len(grad), out_channels, 2, sh, 2, sw * channels)
    for k, samples, count in sample_runs(routes, len(big), len(big)):
        tiles = (3, 3, w // 2, h // 2, count)
        # This thread's scratch, filled by all: every sample meets every other in the sum.
        cells = threads.scratch("all cells", (*tiles, sh * sw * channels), big.dtype)
        pixels = threads.scratch("all pixels", (*tiles, out_channels), big.dtype)
        products = threads.scratch("all products", (3, 3, out_channels, sh, sw * channels), big.dtype)
        left, right = _flat(pixels), _flat(cells)

        def transform(_, part, size, samples=samples, cells=cells, pixels=pixels):
            several = (slice(samples.start + part.start, samples.start + part.stop)
                       if isinstance(samples, slice) else samples[part])
            _difference_cells(big, several, stride, padding, cells[..., part, :])
            _spread(_tiles(small[several]), pixels[..., part, :])

        def multiply(i, j, left=left, right=right, products=products):
            np.matmul(left[i, j].T, right[i, j], out=products[i, j].reshape(out_channels, -1))

        run_jobs(transform, sample_runs(None, count, _samples_per_job(h, w)))
        threads.run([lambda i=i, j=j: multiply(i, j) for i in range(3) for j in range(3)])
        _gather(products, taps[k].transpose(3, 1, 0, 2, 4))


def _spread_filters(weight: np.ndarray, stride: Pair, runs) -> dict[int, np.ndarray]:
    """Transform the filter sets that `runs` name: (3, 3, A, sh*sw*B) each."""
    (sh, sw), channels = stride, weight.shape[2]
    done, jobs = {}, []
    for k, matrix in filter_matrices(weight, runs).items():
        out_channels, numbers = matrix.shape
        taps = matrix.reshape(out_channels, 2, sh, 2, sw * channels).transpose(3, 1, 0, 2, 4)
        spread = np.empty((3, 3, *taps.shape[2:]), weight.dtype)
        done[k] = spread.reshape(3, 3, out_channels, numbers // 4)
        step = max(1, (1 << 16) // numbers)  # a cacheful
        for start in range(0, out_channels, step):
            part = slice(start, start + step)
            jobs.append(lambda pair=taps[:, :, part], out=spread[:, :, part]: _spread(pair, out))
    threads.run(jobs)
    return done


def _samples_per_job(h: int, w: int) -> int:
    return max(1, TILES_PER_JOB // (h // 2 * (w // 2)))


def _flat(transformed: np.ndarray) -> np.ndarray:
    """Reshape (3, 3, w/2, h/2, n, channels) to nine matrices, one row per tile."""
    return transformed.reshape(3, 3, -1, transformed.shape[5])


def _tiles(small: np.ndarray) -> np.ndarray:
    """Reshape the map (n, h, w, A) to (2, 2, w/2, h/2, n, A): first the place in a 2x2 tile."""
    n, h, w, channels = small.shape
    return small.reshape(n, h // 2, 2, w // 2, 2, channels).transpose(4, 2, 3, 1, 0, 5)


def _spread(pair: np.ndarray, out: np.ndarray) -> None:
    """Write (2, 2, ...) to out (3, 3, ...): (s0, s0 + s1, s1) along both leading axes."""
    out[::2, ::2] = pair
    np.add(out[0, ::2], out[2, ::2], out=out[1, ::2])
    np.add(out[:, 0], out[:, 2], out=out[:, 1])


def _gather(products: np.ndarray, out: np.ndarray) -> None:
    """Write (3, 3, ...) to out (2, 2, ...): (m0 + m1, m1 + m2) along both leading axes."""
    half = threads.scratch("gather", (2, *products.shape[1:]), products.dtype)
    np.add(products[:2], products[1:], out=half)
    np.add(half[:, :2], half[:, 1:], out=out)


def _difference(cells: np.ndarray, out: np.ndarray) -> None:
    """Write cells (2t + 1, ...) to out (3, t, ...): (d0 - d1, d1, d2 - d1); neighbouring tiles share a cell."""
    middle = cells[1::2]
    np.subtract(cells[:-1:2], middle, out=out[0])
    out[1] = middle
    np.subtract(cells[2::2], middle, out=out[2])


def _scatter(products: np.ndarray, out: np.ndarray) -> None:
    """Write products (3, t, ...) to out (2t + 1, ...), the transpose of `_difference`."""
    middle = out[1::2]
    np.subtract(products[1], products[0], out=middle)
    middle -= products[2]
    out[0] = products[0, 0]
    np.add(products[0, 1:], products[2, :-1], out=out[2:-1:2])
    out[-1] = products[2, -1]


def _difference_cells(big: np.ndarray, samples: Samples, stride: Pair, padding: Pair,
                      out: np.ndarray) -> None:
    """Transform the samples' cells into `out` (3, 3, w/2, h/2, n, sh*sw*B)."""
    _, _, tiles_x, tiles_y, n, size = out.shape
    cells = threads.scratch("padded", (2 * tiles_x + 1, 2 * tiles_y + 1, n, size), big.dtype)
    if padding != (0, 0):
        for edge in (cells[0], cells[-1], cells[:, 0], cells[:, -1]):
            edge[...] = 0
    for in_cells, in_map in _cuts(cells, big[samples], stride, padding):
        in_cells[...] = in_map
    columns = threads.scratch("columns", (3, tiles_x, *cells.shape[1:]), big.dtype)
    _difference(cells, columns)
    _difference(columns.transpose(2, 0, 1, 3, 4), out.transpose(1, 3, 0, 2, 4, 5))


def _cuts(cells: np.ndarray, big: np.ndarray, stride: Pair,
          padding: Pair) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of views that tie all of `big` (n, H, W, B) to its place in `cells` (w+1, h+1, n, sh*sw*B).

    Samples stand inside the cells, so that every sum and difference above runs over long stretches of memory.
    """
    (sh, sw), channels = stride, big.shape[3]
    cells = cells.reshape(*cells.shape[:3], sh, sw, channels)
    for cell_y, inside_y, pixels_y in _spans(big.shape[1], sh, padding[0]):
        for cell_x, inside_x, pixels_x in _spans(big.shape[2], sw, padding[1]):
            in_cells = cells[cell_x, cell_y, :, inside_y, inside_x]
            nx, ny, n, height, width, _ = in_cells.shape
            in_map = big[:, pixels_y, pixels_x].reshape(n, ny, height, nx, width, channels)
            yield in_cells, in_map.transpose(3, 1, 0, 2, 4, 5)


def _spans(size: int, stride: int, padding: int) -> list[tuple[slice, slice, slice]]:
    """List how `size` pixels fall into the first cell, the full ones and the last: (cells, offsets, pixels)."""
    first = -padding % stride
    cell = -(-padding // stride)
    full = (size - first) // stride
    last = size - first - full * stride
    spans = [(slice(cell - 1, cell), slice(stride - first, stride), slice(0, first)),
             (slice(cell, cell + full), slice(0, stride), slice(first, first + full * stride)),
             (slice(cell + full, cell + full + 1), slice(0, last), slice(size - last, size))]
    return [span for span in spans if span[2].stop > span[2].start]
