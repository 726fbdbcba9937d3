"""Raw arrays of either kind: NumPy's on a processor, CuPy's on a CUDA GPU.

Every function computes with the module that made its array (`xp_of`), so the same code serves both and there is no
switch. CuPy is imported only where one of its arrays is given.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


def is_cupy(array: Any) -> bool:
    """Tell whether CuPy made `array`, by the module of its type: nothing has to be imported for that."""
    kind = type(array)
    return kind is not np.ndarray and kind.__module__.partition(".")[0] == "cupy"


def xp_of(array: Any) -> Any:
    """Return the module that made `array`: cupy for a CuPy array, numpy for everything else."""
    # The first test is by far the most frequent case: small nets make hundreds of these calls in a step.
    return np if type(array) is np.ndarray or not is_cupy(array) else importlib.import_module("cupy")


def send(xp: Any, values: Any, dtype: Any = None) -> Any:
    """Copy a host array or a number to the device of `xp` (cupy), in C order.

    A lone number goes up with an axis: CuPy would make it by a fill, which clears the bytes of whatever equals zero
    and so turns -0.0 into 0.0.
    """
    if is_cupy(values) or np.ndim(values):
        return xp.asarray(values, dtype=dtype, order="C")
    return xp.asarray(np.array([values], dtype)).reshape(())


def to_numpy(array: Any) -> np.ndarray:
    """Return the same values as a NumPy array (a copy where they were on a GPU)."""
    return np.asarray(array) if xp_of(array) is np else array.get()


def bank_order(weight: np.ndarray) -> np.ndarray:
    """Store a (K, A, B, kh, kw) array as (K, A, kh, kw, B), the order of the kernels' matrices."""
    return np.ascontiguousarray(weight.transpose(0, 1, 3, 4, 2)).transpose(0, 1, 4, 2, 3)
