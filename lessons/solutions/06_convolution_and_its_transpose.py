"""Solutions of lesson 06."""

import numpy as np

from tinygan import Tensor
from tinygan.ops import conv2d


def exercise_1(h, k, s, p):
    # The last window starts at s (h - 1) in the padded picture. Up to s - 1 more rows are too few for another one.
    smallest = s * (h - 1) + k - 2 * p
    return list(range(smallest, smallest + s))


def exercise_2(k, s):
    # The patches that reach pixel X start at X, X - s, X - 2s, ...: as many as there are taps u < k with u % s = X % s.
    return sorted({len(range(rest, k, s)) for rest in range(s)})


def exercise_3(y, w):
    # Big pixel X gets small[X - u] w[u]: the filter lies the other way round, in both directions. The window must
    # begin k - 1 before the picture, hence the padding. Channels in and out change places.
    turned = w.numpy()[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return conv2d(y, Tensor(np.ascontiguousarray(turned)), padding=w.shape[2] - 1)
