"""Measures of a GPAN's images: the wanted classes, variety by route, and fine texture, which may mislead a classifier.

* `hit_rates`: how often a classifier gives the wanted classes. A generator can learn the blind spots of the classifier
that
  trained it, so measure with another one;
* `route_variety` and `pixel_spread`: how much the routes change an image, for the same noise and condition;
* `speckle`: the share of the spectrum that lies in details of less than four pixels.

All are pure functions on NumPy arrays.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike

from tinygan.errors import TinyganError, UsageError
from tinygan.metrics.checks import as_matrix

HALF_NYQUIST = 0.25  # cycles per pixel; the finest a picture can hold is 0.5


def hit_rates(scores: ArrayLike, wanted: Collection[int]) -> dict[str, float]:
    """Compute how often a classifier gives the wanted classes, from its scores before softmax, (N, classes).

    wanted: class numbers, of which one suffices. Returns three shares in [0, 1]. top1: share of images whose best class
    is wanted. top5: share with a wanted class among the five best (all classes if there are fewer). probability:
    softmax probability of all wanted classes together, a mean over images. Of equal scores the lower class number
    counts as better. The usual top-1 and top-5 accuracy, with several right answers. Raises TinyganError for scores
    that are not finite, UsageError for wanted classes that are not among the classes, or none.
    """
    x = as_matrix("scores", scores).astype(np.float64)
    ids = sorted({int(number) for number in wanted})
    if not ids or ids[0] < 0 or ids[-1] >= x.shape[1]:
        raise UsageError(f"wanted classes must be one or more of 0 to {x.shape[1] - 1}, not {ids or 'none'}")
    best = np.argsort(-x, axis=1, kind="stable")[:, :5]
    is_wanted = np.isin(best, ids)
    likely = np.exp(x - x.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    return {
        "top1": float(is_wanted[:, 0].mean()),
        "top5": float(is_wanted.any(axis=1).mean()),
        "probability": float(likely[:, ids].sum(axis=1).mean()),
    }


def route_variety(features_by_route: ArrayLike, features_by_noise: ArrayLike) -> float:
    """Compute how far the route changes a picture, divided by how far the noise does.

    features_by_route: images of the same noise and condition along R different routes, (R, F) for one such
    group or (G, R, ...) for G of them; features_by_noise: images of the same route and condition from different
    noises, of the same form (G and R may differ). Of each, the mean L2 distance of the pairs inside a group is
    taken, then over groups; features are flattened. 1: another route changes the picture as much as another
    noise; 0: routes make no difference; above 1: the route decides more than the noise. Our choice of measure:
    the noise is the only reference for what a visible difference is in these features. The result has no unit.

    Infinite when only the noise makes no difference, 0 when neither does. Raises TinyganError for a group of
    fewer than two.
    """
    routes = _mean_distance("features by route", features_by_route)
    noises = _mean_distance("features by noise", features_by_noise)
    if noises == 0:
        return float("inf") if routes > 0 else 0.0
    return routes / noises


def pixel_spread(images_by_route: ArrayLike) -> float:
    """Compute how much pixels differ between routes.

    images_by_route: (R, C, H, W), the same noise and condition along R routes, or (G, R, C, H, W), G such groups.
    Root of the pixels' variance over the routes, averaged over pixels and groups, in the units of the images (for
    images in [-1, 1]: 0 to 1). 0: all routes give the same picture. Our choice: unlike `route_variety` it needs no
    features. Raises TinyganError for fewer than two routes, another number of axes, NaN or infinity.
    """
    images = np.asarray(images_by_route)
    if images.ndim == 4:
        images = images[None]
    if images.ndim != 5:
        raise TinyganError("images by route must be of shape (routes, C, H, W) or (groups, routes, C, H, W), "
                           f"not {images.shape}")
    variances = [as_matrix("images by route", group, at_least=2).var(axis=0, dtype=np.float64) for group in images]
    if not variances:
        raise TinyganError("images by route hold no group")
    return float(np.sqrt(np.mean(variances)))


def speckle(images: ArrayLike) -> float:
    """Compute the share of the images' power in fine detail: above half the Nyquist frequency, 0.25 cycles per pixel.

    images: (N, C, H, W) with at least 4 x 4 pixels. Per image and channel: the mean is taken off, a Hann window
    laid over it (without one, borders that do not match would count as fine detail), and the power of the 2-D
    Fourier transform at radial frequencies above 0.25 divided by all power; then the mean over images and
    channels, our choice. A smooth gradient gives nearly 0, a checkerboard of single pixels nearly 1, and white
    noise 1 - pi / 16 = 0.804, the share of frequencies that lie above. Compare pictures of one size: photos that
    were shrunk to 224 pixels have 0.02 (nine of ten between 0.003 and 0.08), to 64 pixels 0.07 (0.02 to 0.2). A
    constant channel counts as 0. Raises TinyganError for images that are smaller, or hold NaN or infinity.
    """
    x = np.asarray(images)
    if x.ndim != 4 or min(x.shape[2:]) < 4:
        raise TinyganError(f"speckle needs images of shape (N, C, H, W) of at least 4 x 4 pixels, not {x.shape}")
    as_matrix("images", x)
    height, width = x.shape[2:]
    # A real image's spectrum is symmetric and only half of it computed: columns that stand for two count twice.
    down, across = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size) for size in (height, width))
    window = down[:, None] * across
    columns = np.fft.rfftfreq(width)
    fine = np.hypot(np.fft.fftfreq(height)[:, None], columns) > HALF_NYQUIST
    weight = np.where((columns == 0) | (columns == 0.5), 1.0, 2.0)
    shares = []
    for image in x:  # one by one: the transforms of a batch in float64 would be many times its size
        varied = np.ptp(image, axis=(1, 2)) > 0  # rounding leaves a constant a mean that is not quite its value
        flat = image.astype(np.float64)
        flat -= flat.mean(axis=(1, 2), keepdims=True)
        power = weight * np.abs(np.fft.rfft2(flat * window)) ** 2
        total = power.sum(axis=(1, 2))
        above = (power * fine).sum(axis=(1, 2))
        shares.append(np.where(varied & (total > 0), above / np.where(total > 0, total, 1.0), 0.0))
    return float(np.mean(shares))


def _mean_distance(name: str, features: ArrayLike) -> float:
    """Compute the mean L2 distance of the pairs in a group, (R, F) or (G, R, ...), averaged over groups."""
    x = np.asarray(features)
    if x.ndim < 2 or x.shape[0] == 0:
        raise TinyganError(f"{name} must be (R, F) or (groups, R, ...), not {x.shape}")
    means = []
    for group in x[None] if x.ndim == 2 else x:
        rows = as_matrix(name, group, at_least=2).astype(np.float64)
        pairs = [np.linalg.norm(rows[k + 1 :] - rows[k], axis=1) for k in range(len(rows) - 1)]
        means.append(np.concatenate(pairs).mean())
    return float(np.mean(means))
