"""Random numbers on a GPU, the same bits as those of kernels/counter.py, which describes how they are made.

The device draws them itself, so nothing is sent there. All raise ValueError as the host's functions do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygan.kernels import counter
from tinygan.kernels.gpu.feed import fed
from tinygan.kernels.gpu.launch import blocks_for, launch


def counter_bits(seed: int, stream: int, n: int) -> Any:
    """Draw n words of 32 random bits, uint32 (n,)."""
    return _draw("counter_bits", np.uint32, seed, stream, n)


def counter_uniform(seed: int, stream: int, n: int) -> Any:
    """Draw n numbers even on (0, 1), float32 (n,)."""
    return _draw("counter_uniform", np.float32, seed, stream, n)


def counter_normal(seed: int, stream: int, n: int) -> Any:
    """Draw n standard normal numbers, float32 (n,)."""
    return _draw("counter_normal", np.float32, seed, stream, n)


def normal_of_step(seed: int, streams: Callable[[], Sequence[int]], shape: tuple[int, int], draws: int) -> list[Any]:
    """Draw standard normal numbers (N, length) of several streams in one launch, each as counter_normal does.

    The streams are those that streams() returns now, or of a recorded step before each replay. The numbers
    are stored (length, N), which is what the first layer of a net takes without a copy.
    """
    def fill(words: np.ndarray) -> None:
        """Write the words of the key and the stream of each draw."""
        for line, stream in zip(words, streams(), strict=True):
            line[...] = *counter.halves(seed, "seed"), *counter.halves(stream, "stream")

    (samples, length), n = shape, shape[0] * shape[1]
    out = importlib.import_module("cupy").empty((draws, length, samples), np.float32)
    counter.check(draws * n)
    launch("normal_of_step", blocks_for(draws * -(-n // 4)), out, n, length, fed((draws, 4), np.uint32, fill), draws)
    return [numbers.T for numbers in out]


def counter_integers(seed: int, stream: int, n: int, high: int) -> Any:
    """Draw n integers of [0, high), int32 (n,)."""
    return _draw("counter_integers", np.int32, seed, stream, n, high)


def _draw(kernel: str, dtype: type, seed: int, stream: int, n: int, *more: int) -> Any:
    counter.check(n, *more)
    words = *counter.halves(seed, "seed"), *counter.halves(stream, "stream")
    out = importlib.import_module("cupy").empty(n, dtype)
    if n:
        launch(kernel, blocks_for(-(-n // 4)), out, n, *more, *words)
    return out
