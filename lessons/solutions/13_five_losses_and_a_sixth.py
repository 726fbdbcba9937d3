"""Solutions of lesson 13."""

import numpy as np


def exercise_1(d):
    # |d| has the slope sign(d), which is 0 at 0. The chain rule through the logarithm gives (d / 2) / (1 - d d / 4):
    # near |d| = 2 the slope grows like 1 / (2 - |d|), without bound.
    return np.sign(d) + (d / 2) / (1 - d * d / 4)


def exercise_2(maps, scale):
    # F is a mean over all elements of a pair; the loss is the mean of -log F over the pairs, each taken once.
    logs = []
    for j in range(len(maps)):
        for k in range(j):
            logs.append(np.log(np.tanh(((maps[k] - maps[j]) / scale) ** 4).mean()))
    return -np.mean(logs)
