"""What an optimiser hands to its kernels."""

from typing import Any, NamedTuple

import numpy as np


class Update(NamedTuple):
    """What an optimiser's kernel needs to know about one parameter.

    p, slots, g: the parameter, its running averages and its gradient, of one shape. steps: how often it was updated,
    this time included: (1,), or (K,) for each filter set. rows: mask (K,) of the sets to touch, None for all.
    bounds: (low, high) where p is kept, or None.
    """

    p: Any
    slots: tuple
    g: Any
    steps: np.ndarray
    rows: np.ndarray | None
    bounds: tuple[float, float] | None = None
