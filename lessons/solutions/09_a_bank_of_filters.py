"""Solutions of lesson 09."""

import numpy as np


def exercise_1(x, g, r, sets):
    """The cotangent (sets, inputs, outputs) of the bank, for y[n] = x[n] @ W[r[n]]."""
    # Every sample adds the outer product of x[n] and g[n] to its set. For all samples of one set that sum is one
    # matrix product; a set without samples keeps its zeros.
    out = np.zeros((sets, x.shape[1], g.shape[1]))
    for k in np.unique(r):
        out[k] = x[r == k].T @ g[r == k]
    return out


def exercise_2(n, routes):
    """How many different routes n random draws out of `routes` hold on average."""
    # A route is missed by all n draws with the probability (1 - 1 / routes) ** n.
    return routes * (1 - (1 - 1 / routes) ** n)
