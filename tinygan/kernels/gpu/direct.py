"""Convolutions on a GPU without a matrix of columns: where one of the maps has a single channel.

A grey image is such a map, and so is what a discriminator's last layer makes of its whole input. The columns would be
as large as the other map, or larger, and few products are made with each of their numbers: one kernel that reads the
maps is faster than im2col and a matrix product. Shapes and meaning: reference.py.
"""

from __future__ import annotations

from typing import Any

from tinygan.kernels.gpu.launch import blocks_for, launch


def is_thin(weight: Any) -> bool:
    """Tell whether the big map of filters (1, A, B, kh, kw) has one channel."""
    return weight.shape[2] == 1


def is_whole(weight_shape: tuple, big_size: tuple, padding: tuple) -> bool:
    """Tell whether a filter (1, A, B, kh, kw) makes one number of the whole big map."""
    return weight_shape[1] == 1 and tuple(weight_shape[3:]) == tuple(big_size) and tuple(padding) == (0, 0)


def thin_conv(big: Any, filters: Any, small: Any, stride: tuple, padding: tuple) -> None:
    """Write small (A, N, h, w) from big (1, N, H, W) and filters (A, 1, kh, kw)."""
    if small.size:
        launch("thin_conv", blocks_for(small.size), big, filters, small,
               *_numbers(big, filters, small, stride, padding))


def thin_transpose(small: Any, filters: Any, big: Any, stride: tuple, padding: tuple) -> None:
    """Write big (1, N, H, W) from small (A, N, h, w): the transpose."""
    if big.size:
        launch("thin_transpose", blocks_for(big.size), small, filters, big,
               *_numbers(big, filters, small, stride, padding))


def whole_conv(big: Any, filters: Any, small: Any) -> None:
    """Write small (1, N, 1, 1) from big (B, N, kh, kw) and the filter (1, B, kh, kw)."""
    if small.size:
        launch("whole_conv", small.size, big, filters, small, *_sizes(big))


def whole_transpose(small: Any, filters: Any, big: Any) -> None:
    """Write big (B, N, kh, kw) from small (1, N, 1, 1): the transpose."""
    if big.size:
        launch("whole_transpose", blocks_for(big.size), small, filters, big, *_sizes(big))


def whole_weight(big: Any, small: Any, grad: Any) -> None:
    """Write the gradient (1, B, kh, kw) of the filter."""
    launch("whole_weight", blocks_for(grad.size), big, small, grad, *_sizes(big))


def _numbers(big: Any, filters: Any, small: Any, stride: tuple, padding: tuple) -> tuple:
    """Return the arguments of the thin kernels that describe a layer."""
    return (len(small), *big.shape[1:], *small.shape[2:], *filters.shape[2:], *stride, *padding)


def _sizes(big: Any) -> tuple:
    """Return the arguments of the other kernels: channels, samples and pixels."""
    return len(big), big.shape[1], big.shape[2] * big.shape[3]
