"""The three convolution maps on a GPU: im2col and col2im kernels around cuBLAS products.

The idea: with maps stored as (channel, sample, row, column) the batch of a layer is one matrix with a row per channel,
and all three maps are products with the matrix of columns (a row per channel and tap, a column per small pixel):

    conv            small   = filters @ columns
    conv_transpose  columns = filters.T @ small,  then every big pixel gathers what belongs to it (col2im)
    conv_weight     filters = small @ columns.T

With a filter bank the samples are sorted by filter set. The samples of a set are then a range of columns, and each set
in use is one product on such a range, in place. Only the small map is really sorted; im2col and col2im read and write
through the list of samples (`order`). Routes are known on the host, so nothing waits. Columns are made for as many
samples at once as COLUMNS allows, which bounds the memory at any image size.

Shapes and meaning are those of reference.py. Maps come back as (N, C, H, W) views of that memory; arrays in another
order are copied into it first.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tinygan.kernels.arrays import xp_of
from tinygan.kernels.geometry import small_size
from tinygan.kernels.gpu.launch import blocks_for, gemm, launch

COLUMNS = 1 << 26  # numbers in the matrix of columns at most (256 MB), but never less than one sample
SPECIAL = {((4, 4), (2, 2), (1, 1)): "k4s2p1", ((3, 3), (1, 1), (1, 1)): "k3s1p1"}
_KEPT_ORDERS = 64  # a step uses the same routes forward, back to the input and back to the weights


def conv(big: Any, weight: Any, stride: tuple, padding: tuple, routes: np.ndarray | None) -> Any:
    """Convolve big (N, B, H, W) to small (N, A, h, w)."""
    kernel = weight.shape[3:]
    hw = tuple(small_size(big.shape[2 + d], kernel[d], stride[d], padding[d]) for d in (0, 1))
    layer = _Layer(channel_rows(big), (weight.shape[1], *hw), kernel, stride, padding, routes)
    filters = _filters(weight)
    small = layer.new_small()
    for columns, parts in layer.chunks(layer.im2col):
        for k, inside, outside in parts:
            gemm(small[:, outside], filters[k], columns[:, inside])
    return _logical(layer.unsorted(small))


def conv_transpose(small: Any, weight: Any, stride: tuple, padding: tuple, routes: np.ndarray | None,
                   output_size: tuple) -> Any:
    """Convolve small (N, A, h, w) the transposed way to big (N, B, *output_size)."""
    small = channel_rows(small)
    big = xp_of(small).empty((weight.shape[2], small.shape[1], *output_size), np.float32)
    layer = _Layer(big, (small.shape[0], *small.shape[2:]), weight.shape[3:], stride, padding, routes)
    filters, rows = _filters(weight), layer.sorted(small)
    for columns, parts in layer.chunks(None):
        for k, inside, outside in parts:
            gemm(columns[:, inside], filters[k], rows[:, outside], a_transposed=True)
        layer.col2im(columns)
    return _logical(big)


def conv_weight(big: Any, small: Any, kernel: tuple, stride: tuple, padding: tuple, routes: np.ndarray | None,
                bank: int) -> Any:
    """Compute the weight gradient (bank, A, B, kh, kw), zero for unused sets."""
    xp, small = xp_of(big), channel_rows(small)
    layer = _Layer(channel_rows(big), (small.shape[0], *small.shape[2:]), kernel, stride, padding, routes)
    rows = layer.sorted(small)
    full = len(layer.runs) == bank
    grad = (xp.empty if full else xp.zeros)((bank, small.shape[0], big.shape[1], *kernel), np.float32)
    flat, started = _filters(grad), set()
    for columns, parts in layer.chunks(layer.im2col):
        for k, inside, outside in parts:
            gemm(flat[k], rows[:, outside], columns[:, inside], b_transposed=True, add=k in started)
            started.add(k)
    return grad


class _Layer:
    """One call's geometry, the runs of samples that share a filter set, and the columns, chunk by chunk."""

    def __init__(self, big: Any, small_shape: tuple, kernel: tuple, stride: tuple, padding: tuple,
                 routes: np.ndarray | None) -> None:
        self.xp, self.big, self.small_shape = xp_of(big), big, small_shape
        self.channels, self.samples, *self.size = big.shape
        self.kernel, self.stride, self.padding = tuple(kernel), tuple(stride), tuple(padding)
        self.pixels = small_shape[1] * small_shape[2]
        if routes is None:
            self.order, self.runs = None, [(0, 0, self.samples)] if self.samples else []
        else:
            self.order, self.runs = _order(self.xp, big.data.device_id, np.asarray(routes, np.int32).tobytes())

    def new_small(self) -> Any:
        """Allocate a matrix for the small map, (A, N * h * w)."""
        return self.xp.empty((self.small_shape[0], self.samples * self.pixels), np.float32)

    def sorted(self, small: Any) -> Any:
        """Sort the small map's samples by filter set: a matrix."""
        return self._sort(small, 0).reshape(len(small), -1)

    def unsorted(self, small: Any) -> Any:
        """Bring a matrix of sorted samples back to a map (A, N, h, w) in the batch's order."""
        return self._sort(small, 1).reshape(self.small_shape[0], self.samples, *self.small_shape[1:])

    def _sort(self, x: Any, back: int) -> Any:
        if self.order is None or x.size == 0:
            return x
        out = self.xp.empty(x.shape, np.float32)
        launch("sort_samples", blocks_for(x.size), x, self.order, out, len(x), self.samples, self.pixels, back)
        return out

    def chunks(self, fill: Any):
        """Yield (columns, its parts): a matrix of columns for some samples at a time, filled by `fill` if given.

        Parts are (filter set, columns of this matrix, columns of the whole batch), for the runs that fall into it.
        """
        rows = self.channels * self.kernel[0] * self.kernel[1]
        step = max(1, COLUMNS // max(1, rows * self.pixels))
        for first in range(0, self.samples, step):
            last = min(first + step, self.samples)
            self.first, self.count = first, last - first
            parts = [(k, slice((max(a, first) - first) * self.pixels, (min(b, last) - first) * self.pixels),
                      slice(max(a, first) * self.pixels, min(b, last) * self.pixels))
                     for k, a, b in self.runs if a < last and b > first]
            if self.columns_are_pixels:
                columns = self.big.reshape(self.channels, -1)[:, first * self.pixels:last * self.pixels]
            else:
                columns = self.xp.empty((rows, self.count * self.pixels), np.float32)
                if fill is not None:
                    fill(columns)
            yield columns, parts

    @property
    def columns_are_pixels(self) -> bool:
        """Tell whether the map is its own matrix of columns: a 1 x 1 kernel and one filter set."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0) and self.order is None

    def im2col(self, columns: Any) -> None:
        """Fill the columns of the current chunk from the big map."""
        total = self.channels * self.count * self.pixels
        launch("im2col_" + self._name, blocks_for(total), self.big, self.order, self.first, columns, *self._numbers())

    def col2im(self, columns: Any) -> None:
        """Gather the current chunk's samples of the big map from the columns."""
        if not self.columns_are_pixels:
            total = self.channels * self.count * self.size[0] * self.size[1]
            launch("col2im_" + self._name, blocks_for(total), columns, self.order, self.first, self.big,
                   *self._numbers())

    @property
    def _name(self) -> str:
        return SPECIAL.get((self.kernel, self.stride, self.padding), "any")

    def _numbers(self) -> tuple:
        return (self.channels, self.samples, self.count, *self.size, *self.small_shape[1:], *self.kernel, *self.stride,
                *self.padding)


@functools.lru_cache(_KEPT_ORDERS)
def _order(xp: Any, device: int, routes: bytes) -> tuple[Any, list[tuple[int, int, int]]]:
    """Sort the samples by filter set: (their order on the device, [(filter set, first slot, last slot + 1), ...]).

    The list is None where the samples are sorted already, as when one route serves a whole batch.
    """
    routes = np.frombuffer(routes, np.int32)
    order = np.argsort(routes, kind="stable").astype(np.int32)
    sets, starts = np.unique(routes[order], return_index=True)
    ends = [*starts[1:], len(routes)][:len(sets)]  # no samples, no sets
    runs = [(int(k), int(a), int(b)) for k, a, b in zip(sets, starts, ends, strict=True)]
    in_order = bool((order == np.arange(len(order))).all())
    return None if in_order else xp.asarray(order), runs


def channel_rows(x: Any) -> Any:
    """Return (N, C, ...) as a dense (C, N, ...): a view of what these kernels return, a copy of anything else."""
    rows = x.swapaxes(0, 1)
    return rows if rows.flags.c_contiguous else xp_of(x).ascontiguousarray(rows)


def _logical(rows: Any) -> Any:
    """Return the opposite view: (C, N, ...) as (N, C, ...)."""
    return rows.swapaxes(0, 1)


def _filters(weight: Any) -> Any:
    """Reshape (K, A, B, kh, kw) to matrices (K, A, B * kh * kw)."""
    return xp_of(weight).ascontiguousarray(weight).reshape(*weight.shape[:2], -1)
