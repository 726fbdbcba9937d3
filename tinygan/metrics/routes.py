"""Measures of the routes of a stochastic generator: how far the filter set chosen per sample changes the image.

A route is the row of bank indices of one sample, one index per layer. Two opposite failures are measured:
routes that make no difference (the network is a plain generator in disguise), and routes that each make one
thing (a hidden ensemble: single routes collapsed, variety only across them). Entropy and information of the
labels distinguish the two.

Estimates from few samples per route are high by chance alone, so each result carries the value that
the same samples give without any tie to the routes. Draw few routes and many samples of each: 64 routes with
100 noise vectors is a good start.

Shapes: routes (N, L) integers, one column per layer with a bank, or (N,) for one layer; labels (N,); features
(N, F).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tinygan.errors import TinyganError
from tinygan.metrics.checks import as_labels, as_matrix, as_probabilities, as_shares
from tinygan.metrics.samples import label_entropy, pixel_std


def entropy_given_route(labels: ArrayLike, routes: ArrayLike, *, classes: int = 10) -> float:
    """Compute H(label | route) in nats: label entropy inside a route, a mean over samples; 0: one class per route.

    labels: (N,) integers in [0, classes); routes: (N, L) or (N,) integers. Raises TinyganError for others.
    """
    labels, ids = as_labels("labels", labels, classes), _route_ids(routes, len(labels))
    return _conditional_entropy(_table(labels, ids, classes))


def classes_per_route(labels: ArrayLike, routes: ArrayLike, *, classes: int = 10) -> float:
    """Count the distinct labels among the samples of a route, a mean over routes: more samples of each show more.

    labels: (N,) integers in [0, classes); routes: (N, L) or (N,) integers. Raises TinyganError for others.
    """
    labels, ids = as_labels("labels", labels, classes), _route_ids(routes, len(labels))
    return float(np.count_nonzero(_table(labels, ids, classes), axis=1).mean())


def route_information(
    labels: ArrayLike, routes: ArrayLike, *, classes: int = 10, shuffles: int = 20, seed: int = 0
) -> dict[str, float]:
    """Compute the entropy of the labels, H(label | route), and I(label; route) = H(label) - H(label | route), in nats.

    labels: (N,) integers in [0, classes); routes: (N, L) or (N,) integers. The plug-in estimate of I is too high by
    about (routes - 1)(classes - 1) / (2 N) (Miller 1955), and by a share that no formula gives when routes have only a
    few samples. So `information_shuffled` is the mean over `shuffles` random pairings of the same labels with the same
    routes, and `information_net` is what remains above it. Also returned: `routes` (distinct ones) and
    `samples_per_route`. Shuffling is our choice. Raises TinyganError for labels or routes of another kind.
    """
    labels = as_labels("labels", labels, classes)
    ids = _route_ids(routes, len(labels))
    table = _table(labels, ids, classes)
    total, conditional = label_entropy(table.sum(axis=0)), _conditional_entropy(table)
    random = np.random.default_rng(seed)
    by_chance = [
        total - _conditional_entropy(_table(random.permutation(labels), ids, classes))
        for _ in range(shuffles)
    ]
    information, chance = max(0.0, total - conditional), float(np.mean(by_chance))
    return {
        "label_entropy": total,
        "entropy_given_route": conditional,
        "information": information,
        "information_shuffled": chance,
        "information_net": information - chance,
        "routes": len(table),
        "samples_per_route": len(labels) / len(table),
    }


def eta_squared(features: ArrayLike, routes: ArrayLike) -> dict[str, float]:
    """Compute the share of the features' variance between routes: between / (between + within) sums of squares.

    `by_chance` is the exact mean when routes are assigned to the same samples at random: (routes - 1) / (N - 1).
    features: (N, F), N >= 2; routes: (N, L) or (N,) integers. Both values are in [0, 1]. The eta squared of an analysis
    of variance (Fisher 1925), over all features together. Raises TinyganError for arrays of another kind.
    """
    x = as_matrix("features", features, at_least=2)
    ids = _route_ids(routes, len(x))
    centred = x - x.mean(axis=0, dtype=np.float64)
    total = float((centred**2).sum())
    between = sum(float((group.sum(axis=0) ** 2).sum()) / len(group) for group in _by_route(centred, ids))
    return {"eta_squared": between / total if total > 0 else 0.0, "by_chance": int(ids.max()) / (len(x) - 1)}


def dead_routes(
    routes: ArrayLike,
    probabilities: ArrayLike,
    images: ArrayLike | None = None,
    *,
    confidence: float = 0.5,
    std: float = 0.01,
) -> dict[str, float]:
    """Compute the share of routes that draw nothing: mean confidence below `confidence`, or all their images alike.

    routes: (N, L) or (N,) integers; probabilities: (N, classes), each row a softmax.
    Alike means a pixel_std below `std`; it is computed only for routes with two samples or more, when `images`
    (N, ...) in [0, 1] are given. The confidence of 0.5 is the protocol's; the std of 0.01 is our choice, a
    26th of that of the MNIST test images. Returns `share`, in [0, 1], and the numbers of
    routes that are `unsure` and `constant`. Raises TinyganError for rows that do not sum to 1, and for arrays of
    different N.
    """
    top = as_probabilities(probabilities).max(axis=1)
    unsure, constant = _dead(_route_ids(routes, len(top)), top, images, confidence, std)
    return {
        "share": float((unsure | constant).mean()),
        "unsure": int(unsure.sum()),
        "constant": int(constant.sum()),
    }


class Drawn(NamedTuple):
    """The images of one route. route: its filter sets, a number for each layer; shares: of each class among the labels,
    (classes,) that sum to 1; confidence: the mean of the largest class probability; dead: see `dead_routes`."""

    route: list[int]
    shares: list[float]
    confidence: float
    dead: bool


def drawn_by_route(
    routes: ArrayLike,
    probabilities: ArrayLike,
    images: ArrayLike | None = None,
    *,
    confidence: float = 0.5,
    std: float = 0.01,
) -> list[Drawn]:
    """Describe the images of each route of `routes` (N, L), in the order of their numbers.

    Arguments and errors as of `dead_routes`; a label is the likeliest class.
    """
    p, routes = as_probabilities(probabilities), np.asarray(routes)
    ids, top = _route_ids(routes, len(p)), p.max(axis=1)
    table = _table(p.argmax(axis=1), ids, p.shape[1])
    dead = np.logical_or(*_dead(ids, top, images, confidence, std))
    return [
        Drawn(route.tolist(), (counts / counts.sum()).tolist(), float(group.mean()), bool(is_dead))
        for route, counts, group, is_dead in zip(
            np.unique(routes.reshape(len(p), -1), axis=0), table, _by_route(top, ids), dead, strict=True
        )
    ]


def drawn_by_set(labels: ArrayLike, routes: ArrayLike, layer: int, *, classes: int = 10) -> dict[int, list[float]]:
    """Compute the shares of the classes among the images of each filter set of `layer`: {set: shares (classes,)}.

    labels: (N,) integers in [0, classes); routes: (N, L) integers. Raises TinyganError for others, IndexError for a
    layer that is not there.
    """
    labels, chosen = as_labels("labels", labels, classes), np.asarray(routes)[:, layer]
    table = _table(labels, _route_ids(chosen, len(labels)), classes)
    return {int(k): (row / row.sum()).tolist() for k, row in zip(np.unique(chosen), table, strict=True)}


def specialised_classes(
    labels: ArrayLike,
    routes: ArrayLike,
    prior: ArrayLike | None = None,
    *,
    factor: float = 3.0,
    at_least: int = 20,
    classes: int = 10,
) -> dict[str, float]:
    """Count the classes that a route makes more than `factor` times as often as the prior (None: uniform).

    labels: (N,) integers in [0, classes); routes: (N, L) or (N,) integers; prior: counts or shares (classes,).
    Only routes with `at_least` samples count: the share of a class among fewer is mostly chance. Both limits are our
    choice. Returns `per_route` (mean number of such classes) and `routes_share` (share of routes with at least one).
    Raises TinyganError where no route has so many samples, and for another number of classes in the prior.
    """
    labels = as_labels("labels", labels, classes)
    table = _table(labels, _route_ids(routes, len(labels)), classes)
    prior = np.full(classes, 1.0 / classes) if prior is None else as_shares("the prior", prior)
    if len(prior) != classes:
        raise TinyganError(f"the prior has {len(prior)} classes, the labels {classes}; they must agree")
    table = table[table.sum(axis=1) >= at_least]
    if not len(table):
        raise TinyganError(f"no route has {at_least} samples; draw fewer routes with more samples of each")
    special = table / table.sum(axis=1, keepdims=True) > factor * prior
    return {"per_route": float(special.sum(axis=1).mean()), "routes_share": float(special.any(axis=1).mean())}


def change_one_layer(routes: ArrayLike, layer: int, bank: int, random: np.random.Generator) -> np.ndarray:
    """Draw for every row of `routes` (N, L) another of the `bank` filter sets of `layer`, uniformly; return a copy.

    The other layers keep their indices. Raises TinyganError for a bank of fewer than two.
    """
    changed = np.array(routes)
    if bank < 2:
        raise TinyganError(f"layer {layer} has a bank of {bank}: there is no other filter set to change to")
    changed[:, layer] = (changed[:, layer] + random.integers(1, bank, size=len(changed))) % bank
    return changed


def per_layer_effect(features: ArrayLike, changed: Sequence[ArrayLike]) -> list[float]:
    """Compute the mean feature distance when one layer takes another filter set and the noise stays.

    `features` (N, F) are those of the images as routed; changed[l] (N, F) those of the same noise with layer
    l's index changed. Returns an L2 distance in units of the features for each layer. Our choice. Raises TinyganError
    for features of different shapes.
    """
    x = as_matrix("features", features)
    effects = []
    for layer, other in enumerate(changed):
        other = as_matrix(f"features with layer {layer} changed", other)
        if other.shape != x.shape:
            raise TinyganError(
                f"features with layer {layer} changed are {other.shape}, the unchanged ones {x.shape}"
            )
        effects.append(float(np.linalg.norm(x - other, axis=1).mean(dtype=np.float64)))
    return effects


def _dead(
    ids: np.ndarray, top: np.ndarray, images: ArrayLike | None, confidence: float, std: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (unsure, constant), each a truth value for every route."""
    unsure = np.array([group.mean() < confidence for group in _by_route(top, ids)])
    constant = np.zeros_like(unsure)
    if images is not None:
        pixels = as_matrix("images", images)
        if len(pixels) != len(top):
            raise TinyganError(
                f"{len(pixels)} images but {len(top)} rows of probabilities; give one of each per sample"
            )
        constant = np.array([len(group) > 1 and pixel_std(group) < std for group in _by_route(pixels, ids)])
    return unsure, constant


def _route_ids(routes, samples: int) -> np.ndarray:
    """Return one number per sample, equal for equal routes: 0 to (distinct routes - 1)."""
    x = np.asarray(routes)
    if x.ndim not in (1, 2) or x.dtype.kind not in "iu" or len(x) != samples or x.size == 0:
        raise TinyganError(
            f"routes must be integers, one row for each of {samples} samples; got {x.shape} of {x.dtype}"
        )
    return np.unique(x.reshape(samples, -1), axis=0, return_inverse=True)[1].reshape(-1)


def _table(labels: np.ndarray, ids: np.ndarray, classes: int) -> np.ndarray:
    """Count labels by route: (routes, classes)."""
    routes = int(ids.max()) + 1
    cells = ids * classes + labels.astype(np.int64)
    return np.bincount(cells, minlength=routes * classes).reshape(routes, classes)


def _conditional_entropy(table: np.ndarray) -> float:
    """Compute H(column | row) of a table of counts."""
    per_row = table.sum(axis=1, keepdims=True)
    terms = np.zeros(table.shape)
    np.log(table / per_row, out=terms, where=table > 0)
    return max(0.0, float(-(table * terms).sum() / table.sum()))


def _by_route(values: np.ndarray, ids: np.ndarray) -> list[np.ndarray]:
    """Group rows by the number of their route."""
    order = np.argsort(ids, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(ids))[:-1])
