"""The three convolution maps on a GPU: im2col and col2im kernels around matrix products.

The idea: with maps stored as (channel, sample, row, column) the batch of a layer is one matrix with a row per channel,
and all three maps are products with the matrix of columns (a row per channel and tap, a column per small pixel):

    conv            small   = filters @ columns
    conv_transpose  columns = filters.T @ small,  then every big pixel gathers what belongs to it (col2im)
    conv_weight     filters = small @ columns.T

With a filter bank the samples of a set take the place of the batch: im2col and col2im read and write the samples in
the order of their sets (a plan, routes.py), so that those of a set are a range of columns, and one launch multiplies
each range with its set's filters. The small map stays in the batch's order. Columns are made for as many samples at
once as COLUMNS allows, which bounds the memory at any image size. Nothing here depends on which routes they are.

Shapes and meaning are those of reference.py. Maps come back as (N, C, H, W) views of that memory; arrays in another
order are copied into it first. Where a map has one channel, kernels without columns do it (direct.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygan.kernels.arrays import xp_of
from tinygan.kernels.geometry import small_size
from tinygan.kernels.gpu import direct
from tinygan.kernels.gpu.launch import blocks_for, gemm, launch
from tinygan.kernels.gpu.routes import Columns, Plan, gradient, plan_of, product

COLUMNS = 1 << 26  # numbers in the matrix of columns at most (256 MB), but never less than one sample
SPECIAL = {((4, 4), (2, 2), (1, 1)): "k4s2p1", ((3, 3), (1, 1), (1, 1)): "k3s1p1"}


def conv(big: Any, weight: Any, stride: tuple, padding: tuple, routes: np.ndarray | None) -> Any:
    """Convolve big (N, B, H, W) to small (N, A, h, w)."""
    kernel, big = weight.shape[3:], channel_rows(big)
    hw = tuple(small_size(big.shape[2 + d], kernel[d], stride[d], padding[d]) for d in (0, 1))
    small = xp_of(big).empty((weight.shape[1], big.shape[1], *hw), np.float32)
    if routes is None and direct.is_whole(weight.shape, big.shape[2:], padding):
        direct.whole_conv(big, dense(weight)[0], small)
        return _logical(small)
    if routes is None and direct.is_thin(weight):
        direct.thin_conv(big, dense(weight)[0], small, stride, padding)
        return _logical(small)
    layer = _Layer(big, (weight.shape[1], *hw), kernel, stride, padding, _plan(big, routes, len(weight)))
    filters = _filters(weight)
    for columns in layer.chunks(layer.im2col):
        if layer.plan is None:
            gemm(_part(small, columns), filters[0], columns.matrix)
        else:
            product(filters, small, columns, layer.plan, turned=False)
    return _logical(small)


def conv_transpose(small: Any, weight: Any, stride: tuple, padding: tuple, routes: np.ndarray | None,
                   output_size: tuple) -> Any:
    """Convolve small (N, A, h, w) the transposed way to big (N, B, *output_size)."""
    small = channel_rows(small)
    big = xp_of(small).empty((weight.shape[2], small.shape[1], *output_size), np.float32)
    if routes is None and direct.is_whole(weight.shape, output_size, padding):
        direct.whole_transpose(small, dense(weight)[0], big)
        return _logical(big)
    if routes is None and direct.is_thin(weight):
        direct.thin_transpose(small, dense(weight)[0], big, stride, padding)
        return _logical(big)
    layer = _Layer(big, (small.shape[0], *small.shape[2:]), weight.shape[3:], stride, padding,
                   _plan(small, routes, len(weight)))
    filters = _filters(weight)
    for columns in layer.chunks(None):
        if layer.plan is None:
            gemm(columns.matrix, filters[0], _part(small, columns), a_transposed=True)
        else:
            product(filters, small, columns, layer.plan, turned=True)
        layer.col2im(columns)
    return _logical(big)


def conv_weight(big: Any, small: Any, kernel: tuple, stride: tuple, padding: tuple, routes: np.ndarray | None,
                bank: int) -> Any:
    """Compute the weight gradient (bank, A, B, kh, kw), zero for unused sets."""
    big, small = channel_rows(big), channel_rows(small)
    layer = _Layer(big, (small.shape[0], *small.shape[2:]), kernel, stride, padding, _plan(big, routes, bank))
    new = xp_of(big).empty if layer.samples else xp_of(big).zeros  # no samples, no product that writes it
    grad = new((bank, small.shape[0], big.shape[0], *kernel), np.float32)
    if routes is None and layer.samples and direct.is_whole(grad.shape, big.shape[2:], padding):
        direct.whole_weight(big, small, grad[0])
        return grad
    flat = _filters(grad)
    for columns in layer.chunks(layer.im2col):
        add = columns.first > 0
        if layer.plan is None:
            gemm(flat[0], _part(small, columns), columns.matrix, b_transposed=True, add=add)
        else:
            gradient(flat, small, columns, layer.plan, add=add)
    return grad


class _Layer:
    """One call's geometry, the plan of its routes (None: one filter set), and the columns, chunk by chunk."""

    def __init__(self, big: Any, small_shape: tuple, kernel: tuple, stride: tuple, padding: tuple,
                 plan: Plan | None) -> None:
        self.big, self.small_shape, self.plan = big, small_shape, plan
        self.channels, self.samples, *self.size = big.shape
        self.kernel, self.stride, self.padding = tuple(kernel), tuple(stride), tuple(padding)
        self.pixels = small_shape[1] * small_shape[2]
        self.order = None if plan is None else plan.order
        self.is_map = self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    def chunks(self, fill: Callable[[Columns], None] | None) -> Iterator[Columns]:
        """Yield the columns of some slots at a time, filled by `fill` if given.

        Under a 1 x 1 kernel the map is its own matrix of columns, and nothing is filled.
        """
        rows = self.channels * self.kernel[0] * self.kernel[1]
        step = max(1, COLUMNS // max(1, rows * self.pixels))
        for first in range(0, self.samples, step):
            last = min(first + step, self.samples)
            if not self.is_map:
                matrix = xp_of(self.big).empty((rows, (last - first) * self.pixels), np.float32)
            elif self.plan is None:
                matrix = self.big.reshape(rows, -1)[:, first * self.pixels:last * self.pixels]
            else:
                matrix = self.big
            columns = Columns(matrix, self.samples, self.pixels, first, last, self.is_map)
            if fill is not None:
                fill(columns)
            yield columns

    def im2col(self, columns: Columns) -> None:
        """Fill a chunk's columns from the big map."""
        if not self.is_map:
            count = columns.last - columns.first
            launch("im2col_" + self._name, blocks_for(self.channels * count * self.pixels), self.big, self.order,
                   columns.first, columns.matrix, *self._numbers(count))

    def col2im(self, columns: Columns) -> None:
        """Gather a chunk's samples of the big map from the columns."""
        if not self.is_map:
            count = columns.last - columns.first
            total = self.channels * count * self.size[0] * self.size[1]
            launch("col2im_" + self._name, blocks_for(total), columns.matrix, self.order, columns.first, self.big,
                   *self._numbers(count))

    @property
    def _name(self) -> str:
        return SPECIAL.get((self.kernel, self.stride, self.padding), "any")

    def _numbers(self, count: int) -> tuple:
        return (self.channels, self.samples, count, *self.size, *self.small_shape[1:], *self.kernel, *self.stride,
                *self.padding)


def _plan(rows: Any, routes: np.ndarray | None, bank: int) -> Plan | None:
    """Return the plan of a batch's routes; None where there is one filter set."""
    return None if routes is None else plan_of(xp_of(rows), rows.data.device_id, routes, bank)


def _part(small: Any, columns: Columns) -> Any:
    """Cut those columns of a small map (A, N, h, w) out of it: a matrix."""
    return small.reshape(len(small), -1)[:, columns.first * columns.pixels:columns.last * columns.pixels]


def channel_rows(x: Any) -> Any:
    """Return (N, C, ...) as a dense (C, N, ...): a view of what these kernels return, a copy of anything else."""
    return dense(x.swapaxes(0, 1))


def _logical(rows: Any) -> Any:
    """Return the opposite view: (C, N, ...) as (N, C, ...)."""
    return rows.swapaxes(0, 1)


def dense(x: Any) -> Any:
    """Return an array in C order: itself, or a copy of one in another."""
    return x if x.flags.c_contiguous else xp_of(x).ascontiguousarray(x)


def _filters(weight: Any) -> Any:
    """Reshape (K, A, B, kh, kw) to matrices (K, A, B * kh * kw)."""
    return dense(weight).reshape(*weight.shape[:2], -1)
