"""Solutions of lesson 12."""

import numpy as np


def exercise_1(a, slope):
    # What speaks against a class speaks for minus its score, so every alpha changes its sign.
    alpha = -slope.mean(axis=(1, 2))
    return np.maximum(np.tensordot(alpha, a, 1), 0)


def exercise_2(a, w6, w7, w8, c):
    # Where no ReLU changes sides the head is linear, and without biases a linear function is its slope times its input:
    # y = sum of (dy/da) * a, over all channels and places. Adding over channels alone leaves each place its share.
    h6 = w6 @ a.ravel()
    h7 = w7 @ np.maximum(h6, 0)
    slope = w6.T @ ((h6 > 0) * (w7.T @ ((h7 > 0) * w8[c])))
    return (slope.reshape(a.shape) * a).sum(axis=0)
