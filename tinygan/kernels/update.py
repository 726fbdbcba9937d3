"""`Update`: what an optimiser passes to its kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygan.kernels.arrays import xp_of


class Update(NamedTuple):
    """What an optimiser's kernel needs of one parameter.

    p, slots, g: the parameter, its running averages and its gradient, of one shape. steps: how often it was updated,
    this time included: (1,), or (K,) for each filter set. rows: mask (K,) of the sets to update, None for all.
    bounds: (low, high), between which p is kept, or None.
    """

    p: Any
    slots: tuple
    g: Any
    steps: np.ndarray
    rows: np.ndarray | None
    bounds: tuple[float, float] | None = None

    def keep_within_bounds(self) -> None:
        """Clip p to its bounds, in place."""
        if self.bounds is not None:
            xp_of(self.p).clip(self.p, *self.bounds, out=self.p)
