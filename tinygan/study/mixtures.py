"""Two mixtures of Gaussians in the plane, on which dropped modes can be counted: the 25-grid and the 8-ring.

    grid   25 Gaussians at {-4, -2, 0, 2, 4}^2, standard deviation 0.05 (PacGAN, Lin et al. 2018)
    ring   8 Gaussians on a circle of radius 1, standard deviation 0.01 (Unrolled GAN, Metz et al. 2017)

A sample is good if it lies within 3 standard deviations of the nearest mean; a mode is covered if one sample of 2,500
is good and nearest to it. Both rules are PacGAN's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinygan.metrics import label_kl

SAMPLES = 2_500  # of a score, as in PacGAN
GOOD = 3.0  # standard deviations
DIRECTIONS = 64  # of the sliced Wasserstein distance
# Colours of the filter sets of the first layer, by their number (Okabe and Ito 2008), on white.
COLOURS = np.array([(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0),
                    (68, 68, 68), (150, 110, 60)], np.uint8)


class Mixture(NamedTuple):
    """Gaussians of one standard deviation, std, around `means` (modes, 2), all equally likely."""

    means: np.ndarray
    std: float

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draw n points (n, 2), float32."""
        chosen = self.means[rng.integers(0, len(self.means), n)]
        return (chosen + self.std * rng.standard_normal((n, 2))).astype(np.float32)

    @property
    def scale(self) -> float:
        """Return the standard deviation of the means' coordinates, the unit of the nets' points."""
        return float(self.means.std())


_ANGLES = 2 * np.pi * np.arange(8) / 8
MIXTURES = {"grid": Mixture(np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], np.float64), 0.05),
            "ring": Mixture(np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1), 0.01)}


def mixture_scores(points: np.ndarray, mixture: Mixture) -> dict[str, float]:
    """Score generated points (n, 2) by PacGAN's measures.

    modes: covered ones. good: share of good samples. modes_kl: KL of the good samples' shares of the modes to equal
    shares, in nats ("reverse KL"), ln(modes) where no sample is good. modes_kl_all: the same of all samples, each
    counted with its nearest mean.
    """
    distances = np.linalg.norm(points[:, None].astype(np.float64) - mixture.means[None], axis=2)
    near, good = distances.argmin(axis=1), distances.min(axis=1) < GOOD * mixture.std
    modes = len(mixture.means)
    of_good, of_all = (np.bincount(near[chosen], minlength=modes) for chosen in (good, slice(None)))
    return {"modes": int(np.count_nonzero(of_good)), "good": float(good.mean()),
            "modes_kl": label_kl(of_good) if good.any() else float(np.log(modes)), "modes_kl_all": label_kl(of_all)}


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, *, directions: int = DIRECTIONS) -> float:
    """Compute the sliced Wasserstein-1 distance of as many points a as b, (n, 2) each, in their units.

    The 1-D distance of the projections, which is that of the sorted values, averaged over directions evenly spread
    over half a circle (Bonneel et al. 2015 draw them at random): an exact 2-D distance needs an assignment of all
    points.
    """
    angles = np.pi * np.arange(directions) / directions
    axes = np.stack([np.cos(angles), np.sin(angles)])
    a, b = (np.sort(points.astype(np.float64) @ axes, axis=0) for points in (a, b))
    return float(np.abs(a - b).mean())


def picture(points: np.ndarray, mixture: Mixture, groups: np.ndarray | None = None, *, side: int = 160) -> np.ndarray:
    """Draw points (n, 2) as a uint8 picture (side, side, 3): modes as gray discs, points in the colour of their group.

    groups: (n,) integers, such as the filter sets of the first layer; None: all points have one colour.
    """
    reach = 1.3 * np.abs(mixture.means).max()
    canvas = np.full((side, side, 3), 255, np.uint8)
    rows, columns = np.mgrid[:side, :side]
    for x, y in _pixels(mixture.means, reach, side):
        canvas[(rows - y) ** 2 + (columns - x) ** 2 <= (side / 40) ** 2] = 215
    groups = np.zeros(len(points), np.int64) if groups is None else groups
    at = _pixels(points, reach, side)
    inside = ((at >= 0) & (at < side)).all(axis=1)
    canvas[at[inside, 1], at[inside, 0]] = COLOURS[groups[inside] % len(COLOURS)]
    return canvas


def _pixels(points: np.ndarray, reach: float, side: int) -> np.ndarray:
    """Convert coordinates to (column, row) of a picture that shows -reach to reach, upwards."""
    scaled = np.clip(points / reach, -10, 10) * np.array([1, -1])
    return np.floor((scaled + 1) / 2 * side).astype(np.int64)
