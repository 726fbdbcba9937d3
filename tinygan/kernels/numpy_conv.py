"""The three convolution maps on NumPy: sort the samples by filter set, then one matrix product per run of samples.

The idea: unroll the big map into a matrix of columns, one row per small pixel, holding the patch of the big map under
the kernel (im2col). With that matrix all three maps are a single product each:

    conv            small   = columns @ filters.T
    conv_transpose  columns = small @ filters,  then every patch is added back into the big map (col2im)
    conv_weight     filters = small.T @ columns

Everything lies channels-last in memory, so a patch is a few long runs and `filters`, (A, kh*kw*B), is a plain view of a
weight in the order `empty_weight` gives. Samples that share a filter set form one run; runs are cut into jobs that
fit a core's cache, and the jobs go to the thread pool. Nothing is copied per sample but the columns themselves, and a
filter set that no sample uses costs nothing. `reference.py` is the definition; shapes are given there.
"""

from collections.abc import Callable, Iterator

import numpy as np

from . import pool

Pair = tuple[int, int]
Samples = slice | np.ndarray  # which samples: a range when they lie side by side, else their indices

JOB_BYTES = 1 << 20  # columns per job: about a core's L2 cache
PLANES_BELOW = 4  # up to this many big channels, columns are stored as planes (one long row per tap)


def conv(big: np.ndarray, weight: np.ndarray, stride: Pair, padding: Pair, routes: np.ndarray | None) -> np.ndarray:
    """big (N, B, H, W) -> small (N, A, h, w)."""
    n_samples, channels, height, width = big.shape
    _, out_channels, _, kh, kw = weight.shape
    h, w = small_size(height, kh, stride[0], padding[0]), small_size(width, kw, stride[1], padding[1])
    big = big.transpose(0, 2, 3, 1)
    small = np.empty((n_samples, h, w, out_channels), big.dtype)
    filters = _Filters(weight)

    def job(k: int, samples: Samples, count: int) -> None:
        columns = column_matrix(big, samples, count, (h, w), (kh, kw), stride, padding)
        if isinstance(samples, slice):
            np.matmul(columns, filters[k].T, out=small[samples].reshape(-1, out_channels))
        else:
            product = pool.scratch("small", (count, h, w, out_channels), big.dtype)
            np.matmul(columns, filters[k].T, out=product.reshape(-1, out_channels))
            small[samples] = product

    bytes_per_sample = h * w * kh * kw * channels * big.itemsize
    _run(job, routes, n_samples, bytes_per_sample)
    return small.transpose(0, 3, 1, 2)


def conv_transpose(small: np.ndarray, weight: np.ndarray, stride: Pair, padding: Pair, routes: np.ndarray | None,
                   output_size: Pair) -> np.ndarray:
    """small (N, A, h, w) -> big (N, B, *output_size)."""
    n_samples, _, h, w = small.shape
    _, _, channels, kh, kw = weight.shape
    small = small.transpose(0, 2, 3, 1)
    big = np.empty((n_samples, *output_size, channels), small.dtype)
    filters = _Filters(weight)
    map_is_columns = _map_iscolumn_matrix(big.shape, (h, w), (kh, kw), stride, padding)

    def job(k: int, samples: Samples, count: int) -> None:
        pixels = pixel_matrix(small, samples, count)
        direct = isinstance(samples, slice)
        target = big[samples] if direct else pool.scratch("big", (count, *output_size, channels), big.dtype)
        if map_is_columns:  # nothing to add up
            np.matmul(pixels, filters[k], out=target.reshape(-1, kh * kw * channels))
        else:
            if channels <= PLANES_BELOW:
                planes = pool.scratch("columns", (kh, kw, channels, count, h, w), big.dtype)
                np.matmul(filters[k].T, pixels.T, out=planes.reshape(kh * kw * channels, -1))
                columns = planes.transpose(3, 4, 5, 0, 1, 2)
            else:
                columns = pool.scratch("columns", (count, h, w, kh, kw, channels), big.dtype)
                np.matmul(pixels, filters[k], out=columns.reshape(-1, kh * kw * channels))
            add_patches(columns, target, stride, padding)
        if not direct:
            big[samples] = target

    bytes_per_sample = h * w * kh * kw * channels * big.itemsize
    _run(job, routes, n_samples, bytes_per_sample)
    return big.transpose(0, 3, 1, 2)


def conv_weight(big: np.ndarray, small: np.ndarray, kernel: Pair, stride: Pair, padding: Pair,
                routes: np.ndarray | None, bank: int) -> np.ndarray:
    """(big, small) -> (bank, A, B, kh, kw); sets that no sample uses are exactly zero."""
    n_samples, channels = big.shape[:2]
    out_channels, h, w = small.shape[1:]
    kh, kw = kernel
    big, small = big.transpose(0, 2, 3, 1), small.transpose(0, 2, 3, 1)
    grad = np.empty((bank, out_channels, kh, kw, channels), big.dtype)
    bytes_each = h * w * kh * kw * channels * big.itemsize
    runs = list(_runs(routes, n_samples, n_samples))

    def job(k: int, samples: Samples, count: int) -> None:
        columns = column_matrix(big, samples, count, (h, w), kernel, stride, padding)
        pixels = pixel_matrix(small, samples, count)
        np.matmul(pixels.T, columns, out=grad[k].reshape(out_channels, -1))

    def one_row(i: int, k: int, samples: Samples, count: int) -> None:
        """Row i of the kernel alone: it meets every stride[0]-th row of the big map."""
        rows, big_rows = overlap(h, i - padding[0], stride[0], big.shape[1])
        columns = column_matrix(big[:, big_rows], samples, count, (h, w), (1, kw), (1, stride[1]),
                           (rows.start, padding[1]))
        product = pool.scratch("product", (out_channels, kw * channels), big.dtype)
        np.matmul(pixel_matrix(small, samples, count).T, columns, out=product)
        grad[k, :, i] = product.reshape(out_channels, kw, channels)

    unused = np.ones(bank, bool)
    jobs = []
    for run in runs:
        unused[run[0]] = False
        if run[2] * bytes_each <= JOB_BYTES or _map_iscolumn_matrix(big.shape, (h, w), kernel, stride, padding):
            jobs.append(lambda run=run: job(*run))
        else:  # one filter set, many samples: the kernel's rows are independent products, so no sum crosses jobs
            jobs += [lambda i=i, run=run: one_row(i, *run) for i in range(kh)]
    grad[unused] = 0
    pool.run(jobs)
    return grad.transpose(0, 1, 4, 2, 3)


def empty_weight(bank: int, small_channels: int, big_channels: int, kernel: Pair, dtype: np.dtype) -> np.ndarray:
    """Uninitialised weight (K, A, B, kh, kw) in the memory order (K, A, kh, kw, B) that needs no repacking."""
    return np.empty((bank, small_channels, *kernel, big_channels), dtype).transpose(0, 1, 4, 2, 3)


