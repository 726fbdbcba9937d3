"""What the host computes for a step: at once, or on a GPU again before every replay of a step that is recorded.

A recorded step (kernels/gpu/graph.py) runs no Python when it is replayed. So what an operation computes on the host
from numbers that change with the step is given as a function, which can be run again. It may hold no tensor: it is kept
as long as the recording, and so would be that tensor's memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygan.kernels import threads
from tinygan.kernels.arrays import is_cupy


def sent(like: Any, compute: Callable[[], np.ndarray], *live: Any) -> Any:
    """Return compute(), an array of the host, on the device of the array `like`.

    live: the host arrays from which it is computed and which change with the step; a range never does. Raises
    TinyganError while a step is recorded for arrays of which that is not known.
    """
    return _feed().sent(compute, *live) if is_cupy(like) else compute()


def renewed(like: Any, compute: Callable[[], np.ndarray], *live: Any) -> np.ndarray:
    """Return compute(), an array that stays on the host; like, live, errors: as of `sent`."""
    return _feed().renewed(compute, *live) if is_cupy(like) else compute()


def class_mask(like: Any, classes: Sequence[int], count: int) -> Any:
    """Return a bool array (1, count) on the device of `like`: which classes have the ids `classes`."""
    return sent(like, lambda: np.isin(np.arange(count), classes)[None], classes)


def normal_rows(seed: int, shape: tuple[int, ...], mean: float, deviation: float) -> np.ndarray:
    """Draw normal numbers, float32 of `shape`: a random stream for each row, so that threads can draw rows."""
    out = np.empty(shape, np.float32)

    def job(row: int) -> None:
        np.random.default_rng([seed, row]).standard_normal(dtype=np.float32, out=out[row])
        out[row] *= deviation
        out[row] += mean

    threads.run([lambda row=row: job(row) for row in range(len(out))])
    return out


def _feed() -> Any:
    """Import what feeds a GPU, so that NumPy alone never does."""
    return importlib.import_module("tinygan.kernels.gpu.feed")
