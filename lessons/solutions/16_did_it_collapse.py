"""Solutions of lesson 16."""

from itertools import combinations

import numpy as np


def exercise_1(n):
    """The largest probability at which none of n has a chance of 2.5 %."""
    # (1 - q) ** n = 0.025
    return 1 - 0.025 ** (1 / n)


def exercise_2(a, b):
    """The share of all splits whose means differ at least as much as those of a and b."""
    both = np.concatenate([a, b]).astype(float)
    ours, splits = abs(np.mean(a) - np.mean(b)), list(combinations(range(len(both)), len(a)))
    as_far = 0
    for chosen in splits:
        rest = np.delete(both, chosen)
        as_far += abs(both[list(chosen)].mean() - rest.mean()) >= ours - 1e-9
    return as_far / len(splits)
