"""Solutions of lesson 08."""

import numpy as np


def exercise_1(s):
    """d/ds of log(1 - sigmoid(s)), at each s."""
    # log(1 - sigmoid(s)) = -log(1 + exp(s)), so the slope is -sigmoid(s). exp is only taken of numbers below 0.
    small = np.exp(-np.abs(s))
    return -np.where(s > 0, 1.0, small) / (1.0 + small)


def exercise_2(p, q):
    """The logit of the best discriminator, for shares p of real and q of generated points."""
    # The slope -p (1 - sigmoid(s)) + q sigmoid(s) is 0 at sigmoid(s) = p / (p + q): s is the log of the ratio p / q.
    return np.log(p) - np.log(q)
