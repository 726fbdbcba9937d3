"""What the NumPy convolutions share: runs of samples, and patches cut out of a map or added into it.

Maps are channels-last here: big (n, H, W, B), small (n, h, w, A). `columns` is the matrix with one row per
small pixel that holds the patch of the big map under the kernel: (n*h*w, kh*kw*B).
"""

from collections.abc import Callable, Iterable

import numpy as np

from tinygan.kernels import threads
from tinygan.kernels.geometry import Pair, overlap

Samples = slice | np.ndarray  # which samples: a range when they lie side by side, else their indices

LONG_PRODUCT = 1 << 26  # multiplications
PLANES_BELOW = 4  # up to and with this many big channels, columns are stored as planes: one long row per tap


def filter_matrices(weight: np.ndarray, runs: Iterable[tuple[int, Samples, int]]) -> dict[int, np.ndarray]:
    """Reshape the filter sets that `runs` name to matrices (A, kh*kw*B); views, if B is innermost in memory."""
    flat = weight.transpose(0, 1, 3, 4, 2)
    return {k: flat[k].reshape(weight.shape[1], -1) for k in {run[0] for run in runs}}


def sample_runs(routes: np.ndarray | None, n_samples: int, at_most: int) -> list[tuple[int, Samples, int]]:
    """List (filter set, samples, how many) covering all samples, each at most `at_most` long, in a fixed order."""
    if n_samples == 0:
        return []
    if routes is None:
        order, sets, starts = None, [0], [0, n_samples]
    else:
        order = np.argsort(routes, kind="stable")
        ordered = routes[order]
        starts = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), n_samples]
        sets = ordered[starts[:-1]].tolist()
    runs = []
    for k, start, stop in zip(sets, starts[:-1], starts[1:], strict=True):
        pieces = -(-(stop - start) // max(1, at_most))
        if pieces % 2 and 1 < pieces < stop - start:
            pieces += 1  # an even number of jobs: two cores end together
        for piece in range(pieces):
            a = start + (stop - start) * piece // pieces
            b = start + (stop - start) * (piece + 1) // pieces
            samples = slice(a, b) if order is None else order[a:b]
            if order is not None and samples[-1] - samples[0] == b - 1 - a:  # side by side: a view will do
                samples = slice(int(samples[0]), int(samples[-1]) + 1)
            runs.append((k, samples, b - a))
    return runs


def run_jobs(job: Callable[[int, Samples, int], None], runs: Iterable[tuple[int, Samples, int]], *,
             worth_it: bool = True) -> None:
    """Call job(filter set, samples, how many) for every run, over the threads where that is worth it."""
    threads.run([lambda run=run: job(*run) for run in runs], worth_it=worth_it)


def long_product(n_samples: int, small_hw: Pair, weight_shape: tuple[int, ...]) -> bool:
    """Tell whether a map of these shapes multiplies long enough (a millisecond) to be divided among threads."""
    _, small, big, kh, kw = weight_shape
    return n_samples * small_hw[0] * small_hw[1] * small * big * kh * kw >= LONG_PRODUCT


def pixel_matrix(small: np.ndarray, samples: Samples, count: int) -> np.ndarray:
    """Reshape the samples' pixels to a matrix (count*h*w, A); `small` is (N, h, w, A). A view where memory allows."""
    return small[samples].reshape(count * small.shape[1] * small.shape[2], small.shape[3])


def column_matrix(big, samples, count, small_hw, kernel, stride, padding) -> np.ndarray:
    """Unroll the samples' patches to a matrix (count*h*w, kh*kw*B); `big` is (N, H, W, B)."""
    channels = big.shape[3]
    (h, w), (kh, kw), (sh, sw) = small_hw, kernel, stride
    if map_is_columns(big.shape, small_hw, kernel, stride, padding):
        return big[samples].reshape(count * h * w, kh * kw * channels)
    padded = padded_samples(big, samples, count, ((h - 1) * sh + kh, (w - 1) * sw + kw), padding)
    by_sample, by_row, by_column, by_channel = padded.strides
    patches = np.lib.stride_tricks.as_strided(
        padded, (count, h, w, kh, kw, channels),
        (by_sample, sh * by_row, sw * by_column, by_row, by_column, by_channel))
    if channels <= PLANES_BELOW:
        planes = threads.scratch("columns", (kh, kw, channels, count, h, w), big.dtype)
        planes[...] = patches.transpose(3, 4, 5, 0, 1, 2)
        return planes.reshape(kh * kw * channels, count * h * w).T
    columns = threads.scratch("columns", patches.shape, big.dtype)
    columns[...] = patches
    return columns.reshape(count * h * w, kh * kw * channels)


def map_is_columns(big_shape, small_hw, kernel, stride, padding) -> bool:
    """Tell whether the big map is its own matrix of columns: one patch covers it, or every pixel is a patch."""
    if padding != (0, 0):
        return False
    return small_hw == (1, 1) and kernel == big_shape[1:3] or (
        kernel == stride == (1, 1) and tuple(small_hw) == big_shape[1:3])


def padded_samples(big, samples, count, size, padding) -> np.ndarray:
    """Pad the samples with a border of zeros and cut them to `size`: (count, *size, B) in scratch memory."""
    (height, width), (ph, pw), (rows, columns) = big.shape[1:3], padding, size
    if padding == (0, 0) and rows <= height and columns <= width and isinstance(samples, slice):
        return big[samples]
    padded = threads.scratch("padded", (count, rows, columns, big.shape[3]), big.dtype)
    bottom, right = min(rows, ph + height), min(columns, pw + width)
    padded[:, :ph] = 0
    padded[:, bottom:] = 0
    padded[:, ph:bottom, :pw] = 0
    padded[:, ph:bottom, right:] = 0
    inside = padded[:, ph:bottom, pw:right]
    if isinstance(samples, slice):
        inside[...] = big[samples, :bottom - ph, :right - pw]
    else:
        for place, sample in enumerate(samples.tolist()):  # gather and pad in one copy
            inside[place] = big[sample, :bottom - ph, :right - pw]
    return padded


def add_patches(columns, big, stride, padding) -> None:
    """Sum all patches (col2im), columns (n, h, w, kh, kw, B), into `big` (n, H, W, B).

    The layers of a GAN have kernel = 2 * stride: a patch then overlaps its neighbours by half, and every big
    pixel is the sum of two rows and two columns of patches. Adding first rows, then columns, moves long runs
    of memory, and half as much of it as adding tap by tap.
    """
    n, h, w, kh, kw, channels = columns.shape
    (sh, sw), (ph, pw), (height, width) = stride, padding, big.shape[1:3]
    halves = (kh, kw) == (2 * sh, 2 * sw) and (h - 1) * sh < height + ph <= (h + 1) * sh and ph <= sh
    halves = halves and (w - 1) * sw < width + pw <= (w + 1) * sw and pw <= sw
    if not halves:
        big[...] = 0
        for i in range(kh):
            rows, big_rows = overlap(h, i - ph, sh, height)
            for j in range(kw):
                cols, big_cols = overlap(w, j - pw, sw, width)
                big[:, big_rows, big_cols] += columns[:, rows, cols, i, j]
    elif channels <= PLANES_BELOW:
        rows = threads.scratch("rows", (sh, kw, channels, n, h + 1, w), big.dtype)
        planes = columns.transpose(1, 3, 4, 5, 0, 2)
        _join(planes[:, :sh], planes[:, sh:], rows.transpose(4, 0, 1, 2, 3, 5))
        both = threads.scratch("both", (sh, sw, channels, n, h + 1, w + 1), big.dtype)
        planes = rows.transpose(5, 1, 0, 2, 3, 4)
        _join(planes[:, :sw], planes[:, sw:], both.transpose(5, 1, 0, 2, 3, 4))
        whole = threads.scratch("whole", (n, h + 1, sh, w + 1, sw, channels), big.dtype)
        whole[...] = both.transpose(3, 4, 0, 5, 1, 2)
        big[...] = whole.reshape(n, (h + 1) * sh, (w + 1) * sw, channels)[:, ph:ph + height, pw:pw + width]
    else:
        rows = threads.scratch("rows", (n, h + 1, sh, w, kw * channels), big.dtype)
        patches = columns.reshape(n, h, w, kh, kw * channels).transpose(1, 3, 0, 2, 4)
        _join(patches[:, :sh], patches[:, sh:], rows.transpose(1, 2, 0, 3, 4))
        rows = rows.reshape(n, (h + 1) * sh, w, kw * channels)[:, ph:ph + height]
        half, left, right = sw * channels, sw - pw, w * sw - pw
        inner = big[:, :, left:right].reshape(n, height, w - 1, half)
        np.add(rows[:, :, 1:, :half], rows[:, :, :-1, half:], out=inner)
        big[:, :, :left] = rows[:, :, 0, pw * channels:half].reshape(n, height, left, channels)
        rest = (width - right) * channels
        big[:, :, right:] = rows[:, :, -1, half:half + rest].reshape(n, height, width - right, channels)


def _join(first, second, out) -> None:
    """Compute out[q] = first[q] + second[q - 1] along axis 0, with nothing beyond the ends; out is one longer."""
    np.add(first[1:], second[:-1], out=out[1:-1])
    out[0] = first[0]
    out[-1] = second[-1]
