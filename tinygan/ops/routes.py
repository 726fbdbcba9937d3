"""`Route`: the filter set of a bank that each sample of a batch uses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from tinygan.errors import GraphError
from tinygan.kernels.arguments import copy_integers
from tinygan.kernels.arrays import is_cupy


class Route:
    """Indices into a bank of filter sets, one per sample, checked once; operations take a Route or a list of integers.

    indices: host integers in [0, bank), as many as `samples` where that is given; they are copied to an int64 array.
    They stay on the host, where the work is split by them before it is sent to a GPU. bank: the number of filter sets.
    Raises GraphError for anything else.
    """

    def __init__(self, indices: Sequence[int], bank: int, samples: int | None = None) -> None:
        if is_cupy(indices):
            raise GraphError("routes must be host integers (a NumPy array or a list), not a GPU array")
        samples = len(indices) if samples is None else samples
        self.indices, self.bank = copy_integers(indices, "routes", samples, bank), bank

    def __len__(self) -> int:
        return len(self.indices)

    def replace(self, indices: np.ndarray) -> None:
        """Set other indices, in [0, bank), within the same arrays: those of a recorded step's next replay."""
        self.indices[...] = indices
        self.used[...] = np.bincount(self.indices, minlength=self.bank) > 0

    @cached_property
    def used(self) -> np.ndarray:
        """Return a bool mask over the bank: the sets that at least one sample uses."""
        return np.bincount(self.indices, minlength=self.bank) > 0


Routed = Route | Sequence[int] | None  # what operations and layers accept as `routes`


def route_of(routes: Routed, samples: int, bank: int) -> Route | None:
    """Return the Route of a batch of `samples` through a bank, None for a bank of one set.

    routes: a Route, integers, or None for a bank of one. Raises GraphError where they fit neither batch nor bank.
    """
    if routes is None:
        if bank != 1:
            raise GraphError(f"a bank of {bank} filter sets needs routes: one integer in [0, {bank}) per sample")
        return None
    if not isinstance(routes, Route):
        routes = Route(routes, bank, samples)
    if (len(routes), routes.bank) != (samples, bank):
        raise GraphError(f"a route of {len(routes)} samples through {routes.bank} filter sets does not fit {samples} "
                         f"samples and {bank} sets")
    return None if bank == 1 else routes


def routes_of(matrix: Sequence | None, banks: Sequence[int], samples: int | None = None) -> tuple[Route | None, ...]:
    """Split a matrix of routes into the Route of each layer; None for a layer whose bank holds one set.

    matrix: host integers (samples, layers), column l in [0, banks[l]); None where all banks are 1; or a tuple that this
        function returned. samples: their number, where it is known.
    Raises GraphError for another shape or an index outside its bank.
    """
    if matrix is None and max(banks, default=1) == 1:
        return (None,) * len(banks)
    if isinstance(matrix, tuple) and all(r is None or isinstance(r, Route) for r in matrix):
        columns, shape = matrix, (next((len(r) for r in matrix if r is not None), 0), len(matrix))
    else:
        columns, shape = np.transpose(matrix), None if matrix is None else np.shape(matrix)
    n = samples if samples is not None else shape[0] if shape else "N"
    if shape != (n, len(banks)):
        raise GraphError(f"routes must be of shape ({n}, {len(banks)}), a row for each sample and a column for each "
                         f"stochastic layer, not {shape}")
    return tuple(route_of(column, n, k) for column, k in zip(columns, banks, strict=True))
