"""The drawn shapes: objects on white that need no file, made anew from random numbers.

A shape is a function of coordinates (u right, v down) that is negative inside, zero on the outline and positive
outside, near the outline about the distance to it. It fits in the unit circle. The shapes are our choice.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np


def _ellipse(u: np.ndarray, v: np.ndarray, a: float, b: float) -> np.ndarray:
    radius = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    slope = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2)
    return (radius - 1) * radius / np.maximum(slope, 1e-6)


def _box(u: np.ndarray, v: np.ndarray, a: float, b: float, corner: float) -> np.ndarray:
    x, y = abs(u) - (a - corner), abs(v) - (b - corner)
    return np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0) - corner


def _polygon(u: np.ndarray, v: np.ndarray, points: Sequence[tuple[float, float]], corner: float) -> np.ndarray:
    """Compute the signed distance to a polygon, its corners rounded outwards by `corner`."""
    nearest = np.full(u.shape, np.inf, u.dtype)
    inside = np.zeros(u.shape, bool)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, (u - x0 - along * dx) ** 2 + (v - y0 - along * dy) ** 2)
        if dy:  # a ray to the right crosses this edge
            inside ^= ((v < y0) != (v < y1)) & (u < x0 + (v - y0) * (dx / dy))
    return np.where(inside, -1, 1).astype(u.dtype) * np.sqrt(nearest) - corner


def _mirrored(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [*points, *[(-x, y) for x, y in reversed(points)]]


def _turned(u: np.ndarray, v: np.ndarray, knots: Sequence[tuple[float, float]]) -> np.ndarray:
    """Outline a body of revolution from the side: half widths at heights, joined smoothly with flat ends at each."""
    heights, widths = np.array(knots, u.dtype).T
    at = np.clip(np.searchsorted(heights, v) - 1, 0, len(knots) - 2)
    t = np.clip((v - heights[at]) / (heights[at + 1] - heights[at]), 0, 1)
    width = widths[at] + (widths[at + 1] - widths[at]) * t * t * (3 - 2 * t)
    middle = 0.5 * float(heights[0] + heights[-1])
    return np.maximum(abs(u) - width, abs(v - middle) - 0.5 * float(heights[-1] - heights[0]))


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Outline the curve x^2 + (y - 0.7 sqrt|x|)^2 = 1, which lies between y = -1 and 1.36."""
    x, y = u * 1.18, 0.18 - v * 1.18
    return x * x + (y - 0.7 * np.sqrt(abs(x))) ** 2 - 1


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    spokes = [(0.95 if k % 2 == 0 else 0.45, math.pi * k / 5) for k in range(10)]
    return _polygon(u, v + 0.05, [(r * math.sin(t), -r * math.cos(t)) for r, t in spokes], 0.04)


def _shirt(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    right = [(0.2, -0.72), (0.4, -0.68), (0.9, -0.26), (0.74, 0.0), (0.47, -0.14), (0.47, 0.76)]
    return np.maximum(_polygon(u, v, _mirrored(right), 0.04), -_ellipse(u, v + 0.8, 0.22, 0.2))


def _dress(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    right = [(0.1, -0.9), (0.3, -0.9), (0.3, -0.5), (0.22, -0.15), (0.6, 0.72), (0.3, 0.8)]
    return np.maximum(_polygon(u, v, _mirrored(right), 0.03), -_ellipse(u, v + 0.98, 0.17, 0.34))


def _bag(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    body = _polygon(u, v, _mirrored([(0.5, -0.16), (0.66, 0.68)]), 0.08)
    return np.minimum(body, np.maximum(abs(_ellipse(u, v + 0.2, 0.32, 0.62)) - 0.055, v))


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda u, v: _ellipse(u, v, 0.92, 0.92),
    "ellipse": lambda u, v: _ellipse(u, v, 0.6, 0.96),
    "square": lambda u, v: _box(u, v, 0.76, 0.76, 0.2),
    "heart": _heart,
    "star": _star,
    "shirt": _shirt,
    "dress": _dress,
    "vase": lambda u, v: _turned(u, v, [(-0.9, 0.34), (-0.58, 0.18), (0.18, 0.62), (0.84, 0.27), (0.92, 0.31)]),
    "bottle": lambda u, v: np.maximum(
        _turned(u, v, [(-0.96, 0.13), (-0.88, 0.14), (-0.4, 0.12), (0.0, 0.36), (1.0, 0.36)]),
        _box(u, v, 0.5, 0.94, 0.06)),
    "bag": _bag,
}


def draw_item(rng: np.random.Generator, names: Sequence[str], size: int,
              channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one item: T (channels, size, size) in [-1, 1] and m (size, size) of 0 and 1, both float32."""
    shape = SHAPES[names[int(rng.integers(len(names)))]]
    centre_u, centre_v = rng.uniform(-0.12, 0.12, 2).tolist()
    radius, tilt = float(rng.uniform(0.6, 0.85)), float(rng.uniform(-0.2, 0.2))
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = (line[None, :] - centre_u) / radius, (line[:, None] - centre_v) / radius
    u = math.cos(tilt) * x + math.sin(tilt) * y
    v = math.cos(tilt) * y - math.sin(tilt) * x
    covered = _coverage(shape(u, v))
    mask = (covered >= 0.5).astype(np.float32)
    colour = _colouring(rng, u, v, channels)
    # An object pixel at the outline: its colour, and white in the part that is not covered.
    target = np.where(mask > 0, 1 - covered * (1 - colour), np.float32(1))
    return target, mask


def _coverage(outline: np.ndarray) -> np.ndarray:
    """Compute the share of each pixel that lies inside, to first order: 1/2 less the distance to the outline in pixels.

    The distance is the function over the length of its gradient, so the function need not be a true distance.
    """
    down, right = np.gradient(outline)
    return np.clip(0.5 - outline / np.maximum(np.hypot(down, right), 1e-6), 0, 1)


def _colouring(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, channels: int) -> np.ndarray:
    """Draw colours (channels, size, size) in [-1, 1]: half are plain, a quarter striped, a quarter blended."""
    first, second = _colour(rng, channels), _colour(rng, channels)
    kind, direction = float(rng.random()), float(rng.uniform(0, math.pi))
    across = math.cos(direction) * u + math.sin(direction) * v
    if kind < 0.25:  # stripes with soft edges
        width, shift = float(rng.uniform(0.16, 0.4)), float(rng.uniform(0, 2 * math.pi))
        share = np.clip(0.5 + 3 * np.sin(across * (math.pi / width) + shift), 0, 1)
    elif kind < 0.5:
        share = np.clip(0.5 + 0.5 * across, 0, 1)
    else:
        share = np.zeros_like(across)
    return first[:, None, None] + share * (second - first)[:, None, None]


def _colour(rng: np.random.Generator, channels: int) -> np.ndarray:
    """Draw a light or middle colour (channels,), float32 in [-1, 1], whose darkest channel is at most 0.6."""
    value = float(rng.uniform(0.55, 0.8))
    if channels == 1:
        return np.array([2 * value - 1], np.float32)
    if rng.random() < 0.85:  # else a grey
        # From HSV to RGB: a channel loses the saturation's share of the value as far as its hue is away.
        hue, saturation, value = float(rng.random()), float(rng.uniform(0.25, 0.7)), float(rng.uniform(0.65, 1.0))
        turn = (np.array([5, 3, 1]) + 6 * hue) % 6
        rgb = value * (1 - saturation * np.clip(np.minimum(turn, 4 - turn), 0, 1))
    else:
        rgb = np.full(3, value)
    return (2 * rgb - 1).astype(np.float32)
