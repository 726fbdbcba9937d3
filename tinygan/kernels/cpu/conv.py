"""The three convolution maps on NumPy: one matrix product per run of samples that share a filter set.

The idea: unroll the big map into a matrix of columns, one row per small pixel, holding the patch of the big
map under the kernel (im2col). With that matrix all three maps are a single product each:

    conv            small   = columns @ filters.T
    conv_transpose  columns = small @ filters,  then every patch is added back into the big map (col2im)
    conv_weight     filters = small.T @ columns

Everything lies channels-last in memory, so a patch is a few long runs and `filters`, (A, kh*kw*B), is a plain
view of a weight in the order `empty_weight` gives. Samples that share a filter set form one run; runs are cut
into jobs that fit a core's cache, and the jobs go to the threads. No filters are copied per sample,
and a filter set that no sample uses costs nothing. Where many pixels share a filter set,
`winograd.py` saves products. `reference.py` is the definition; shapes are given there.
"""

import numpy as np

from tinygan.kernels import threads
from tinygan.kernels.cpu import winograd
from tinygan.kernels.cpu.patches import (
    PLANES_BELOW,
    Samples,
    add_patches,
    column_matrix,
    filter_matrices,
    long_product,
    map_is_columns,
    pixel_matrix,
    run_jobs,
    sample_runs,
)
from tinygan.kernels.geometry import Pair, overlap, small_size

JOB_BYTES = 1 << 20  # columns per job: about a core's L2 cache


def conv(big: np.ndarray, weight: np.ndarray, stride: Pair, padding: Pair,
         routes: np.ndarray | None) -> np.ndarray:
    """Convolve big (N, B, H, W) to small (N, A, h, w)."""
    out_channels, kernel = weight.shape[1], weight.shape[3:]
    h, w = (small_size(big.shape[2 + d], kernel[d], stride[d], padding[d]) for d in (0, 1))
    shape = (len(big), out_channels, h, w)
    if winograd.pays(big.shape, shape, kernel, stride, padding, routes):
        return winograd.conv(big, weight, stride, padding, routes, (h, w))
    big = big.transpose(0, 2, 3, 1)
    small = np.empty((len(big), h, w, out_channels), big.dtype)
    runs = sample_runs(routes, len(big), JOB_BYTES // _bytes_each(big, (h, w), kernel))
    filters = filter_matrices(weight, runs)

    def job(k: int, samples: Samples, count: int) -> None:
        columns = column_matrix(big, samples, count, (h, w), kernel, stride, padding)
        if isinstance(samples, slice):
            np.matmul(columns, filters[k].T, out=small[samples].reshape(-1, out_channels))
        else:
            product = threads.scratch("product", (count, h, w, out_channels), big.dtype)
            np.matmul(columns, filters[k].T, out=product.reshape(-1, out_channels))
            small[samples] = product

    run_jobs(job, runs, worth_it=long_product(len(big), (h, w), weight.shape))
    return small.transpose(0, 3, 1, 2)


def conv_transpose(small: np.ndarray, weight: np.ndarray, stride: Pair, padding: Pair,
                   routes: np.ndarray | None, output_size: Pair) -> np.ndarray:
    """Convolve small (N, A, h, w) the transposed way to big (N, B, *output_size)."""
    n_samples, _, h, w = small.shape
    _, _, channels, kh, kw = weight.shape
    shape = (n_samples, channels, *output_size)
    if winograd.pays(shape, small.shape, (kh, kw), stride, padding, routes):
        return winograd.conv_transpose(small, weight, stride, padding, routes, output_size)
    small = small.transpose(0, 2, 3, 1)
    big = np.empty((n_samples, *output_size, channels), small.dtype)
    nothing_to_add = map_is_columns(big.shape, (h, w), (kh, kw), stride, padding)
    runs = sample_runs(routes, n_samples, JOB_BYTES // _bytes_each(big, (h, w), (kh, kw)))
    filters = filter_matrices(weight, runs)

    def job(k: int, samples: Samples, count: int) -> None:
        pixels = pixel_matrix(small, samples, count)
        in_place = isinstance(samples, slice)
        target = big[samples] if in_place else threads.scratch("product", (count, *big.shape[1:]), big.dtype)
        if nothing_to_add:
            np.matmul(pixels, filters[k], out=target.reshape(-1, kh * kw * channels))
        elif channels <= PLANES_BELOW:
            planes = threads.scratch("columns", (kh, kw, channels, count, h, w), big.dtype)
            np.matmul(filters[k].T, pixels.T, out=planes.reshape(kh * kw * channels, -1))
            add_patches(planes.transpose(3, 4, 5, 0, 1, 2), target, stride, padding)
        else:
            columns = threads.scratch("columns", (count, h, w, kh, kw, channels), big.dtype)
            np.matmul(pixels, filters[k], out=columns.reshape(-1, kh * kw * channels))
            add_patches(columns, target, stride, padding)
        if not in_place:
            big[samples] = target

    run_jobs(job, runs, worth_it=long_product(n_samples, (h, w), weight.shape))
    return big.transpose(0, 3, 1, 2)


def conv_weight(big: np.ndarray, small: np.ndarray, kernel: Pair, stride: Pair, padding: Pair,
                routes: np.ndarray | None, bank: int) -> np.ndarray:
    """Compute the weight gradient (bank, A, B, kh, kw); sets that no sample uses are exactly zero."""
    n_samples, channels = big.shape[:2]
    out_channels, h, w = small.shape[1:]
    kh, kw = kernel
    runs = sample_runs(routes, n_samples, n_samples)
    grad = empty_weight(bank, out_channels, channels, kernel, big.dtype)
    unused = np.ones(bank, bool)
    unused[[k for k, _, _ in runs]] = False
    grad[unused] = 0
    if winograd.pays(big.shape, small.shape, kernel, stride, padding, routes):
        winograd.conv_weight(big, small, stride, padding, routes, grad)
        return grad
    taps = grad.transpose(0, 1, 3, 4, 2)
    big, small = big.transpose(0, 2, 3, 1), small.transpose(0, 2, 3, 1)
    bytes_each = _bytes_each(big, (h, w), kernel)

    def whole(k: int, samples: Samples, count: int) -> None:
        columns = column_matrix(big, samples, count, (h, w), kernel, stride, padding)
        np.matmul(pixel_matrix(small, samples, count).T, columns, out=taps[k].reshape(out_channels, -1))

    def one_row(i: int, k: int, samples: Samples, count: int) -> None:
        """Compute row i of the kernel alone: it meets every stride[0]-th row of the big map."""
        rows, big_rows = overlap(h, i - padding[0], stride[0], big.shape[1])
        columns = column_matrix(big[:, big_rows], samples, count, (h, w), (1, kw), (1, stride[1]),
                                (rows.start, padding[1]))
        product = threads.scratch("product", (out_channels, kw * channels), big.dtype)
        np.matmul(pixel_matrix(small, samples, count).T, columns, out=product)
        taps[k, :, i] = product.reshape(out_channels, kw, channels)

    jobs = []
    for run in runs:
        if run[2] * bytes_each <= JOB_BYTES or map_is_columns(big.shape, (h, w), kernel, stride, padding):
            jobs.append(lambda run=run: whole(*run))
        else:  # the rows of the kernel are independent products: work for every core, and no sum crosses jobs
            jobs += [lambda i=i, run=run: one_row(i, *run) for i in range(kh)]
    threads.run(jobs, worth_it=long_product(n_samples, (h, w), grad.shape))
    return grad


def empty_weight(bank: int, small_channels: int, big_channels: int, kernel: Pair,
                 dtype: np.dtype) -> np.ndarray:
    """Allocate a weight (K, A, B, kh, kw) in the order (K, A, kh, kw, B) that needs no repacking."""
    return np.empty((bank, small_channels, *kernel, big_channels), dtype).transpose(0, 1, 4, 2, 3)


def _bytes_each(big: np.ndarray, small_hw: Pair, kernel: Pair) -> int:
    """Compute the size of one sample's columns."""
    return max(1, small_hw[0] * small_hw[1] * kernel[0] * kernel[1] * big.shape[3] * big.itemsize)
