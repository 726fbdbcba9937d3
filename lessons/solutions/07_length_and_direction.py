"""Solutions of lesson 07."""

import numpy as np


def exercise_1(g, w, x):
    # Without g this is the rule of the lesson, with x for G: what lies along v is taken away. g multiplies it all.
    length = np.linalg.norm(w)
    v = w / length
    return g * (x - (v @ x) * v) / length


def exercise_2(a):
    # A number that is uniform in +-b has the variance b b / 3. A sum over all inputs has the variance f f / 3 times the
    # mean square of the signal. The PReLU keeps (1 + a a) / 2 of a square. The product must be 1.
    return np.sqrt(6 / (1 + a * a))


def exercise_3(x, a, t):
    # Above the bend t plays no part. Below, a (x - t) + t has the slope 1 - a.
    return np.where(x > t, 0.0, 1 - a)
