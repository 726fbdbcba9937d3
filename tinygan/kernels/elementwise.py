"""Kernels for any array that go number by number: scale and bias, the sigmoid, the GAN's loss; a blur, and joining.

class Kernels has them as methods. reference.py has every formula as a plain loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygan.kernels.arrays import xp_of

Array = Any  # NumPy's or CuPy's
BLUR = (0.25, 0.5)  # binomial weights of a neighbour and of the pixel itself


def per_channel(vector: Array, x: Array) -> Array:
    """Shape (C,) to broadcast over x (N, C, ...)."""
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def channel_sums(x: Array) -> Array:
    """Sum (N, C, ...) over samples and pixels: (C,)."""
    return x.sum(axis=(0, *range(2, x.ndim)))


def concatenate(arrays: Sequence[Array], axis: int) -> Array:
    """Join arrays along an axis."""
    return xp_of(arrays[0]).concatenate(arrays, axis=axis)


def affine(x: Array, gain: Array, bias: Array) -> Array:
    """Compute gain x + bias of x (N, C, ...), gain and bias (C,) or ()."""
    return x * per_channel(gain, x) + per_channel(bias, x)


def affine_back(g: Array, x: Array, gain: Array) -> tuple[Array, Array, Array]:
    """Compute its gradients: to x, gain g; to gain, the sum of g x per channel; to bias, that of g."""
    return g * per_channel(gain, x), channel_sums(g * x), channel_sums(g)


def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + e^-x), and e^x / (1 + e^x) for x < 0: neither overflows, and small values stay exact."""
    xp = xp_of(x)
    small = xp.exp(-abs(x))
    return xp.where(x >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def sigmoid_back(g: Array, y: Array) -> Array:
    """Compute its gradient to x from its value y: g y (1 - y)."""
    return g * y * (1.0 - y)


def logistic_loss(x: Array, sign: float) -> Array:
    """Compute the mean of -log sigmoid(sign x), a 0-d array."""
    return softplus(-sign * x).sum() * (1 / max(1, x.size))


def logistic_back(g: Array, x: Array, sign: float) -> Array:
    """Compute its gradient to x for the gradient g (0-d) of the loss: -g sign sigmoid(-sign x) / n."""
    return (g * (-sign / max(1, x.size))) * sigmoid(-sign * x)


def logistic_losses(x: Array, first: int) -> Array:
    """Compute logistic_loss(x[:first], 1) + logistic_loss(x[first:], -1) of x (N,), a 0-d array."""
    return logistic_loss(x[:first], 1.0) + logistic_loss(x[first:], -1.0)


def logistic_losses_back(g: Array, x: Array, first: int) -> Array:
    """Compute its gradient to x for the gradient g (0-d) of the loss."""
    return xp_of(x).concatenate([logistic_back(g, x[:first], 1.0), logistic_back(g, x[first:], -1.0)])


def softplus(x: Array) -> Array:
    """Compute log(1 + e^x), without overflow."""
    xp = xp_of(x)
    return xp.maximum(x, 0.0) + xp.log1p(xp.exp(-abs(x)))


def blur(x: Array) -> Array:
    """Blur maps (N, C, H, W) with the weights 1/4, 1/2, 1/4 along rows and columns, the border pixel repeated."""
    return _blur_along(_blur_along(x, 2), 3)


def _blur_along(a: Array, axis: int) -> Array:
    near, centre = BLUR
    ahead, behind = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(None, -1)))
    first, last = ((slice(None),) * axis + (part,) for part in (slice(None, 1), slice(-1, None)))
    out, share = a * centre, a * near
    out[ahead] += share[behind]
    out[behind] += share[ahead]
    out[first] += share[first]
    out[last] += share[last]
    return out
