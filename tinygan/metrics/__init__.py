"""Metrics: how many classes a generator draws and how well, what its routes do, and signs of collapse in a log.

    samples.py      of labels, features and pixels: coverage, Fréchet and kernel distance, precision, recall, copies
    coarse.py       features of photos without a trained net
    routes.py       of the routes: what each one draws, and how much the choice of a filter set changes
    modes.py        of stacked digits: which of the 1,000 triples are drawn
    log.py          of a training log: its health, and when it collapsed
    gpan.py         of a GPAN's images: hit rates, variety, speckle
    statistics.py   of many runs, one number per seed: intervals, exact tests, survival curves
    checks.py       the arrays that these take, checked
"""

from tinygan.metrics.coarse import coarse_features
from tinygan.metrics.gpan import hit_rates, pixel_spread, route_variety, speckle
from tinygan.metrics.log import (
    Health,
    assess,
    assess_log,
    hard_collapse,
    immediate_collapse,
    loss_volatility,
    relative_spread,
    survival,
)
from tinygan.metrics.modes import stacked_modes
from tinygan.metrics.routes import (
    Drawn,
    change_one_layer,
    classes_per_route,
    dead_routes,
    drawn_by_route,
    drawn_by_set,
    entropy_given_route,
    eta_squared,
    per_layer_effect,
    route_information,
    specialised_classes,
)
from tinygan.metrics.samples import (
    Bins,
    class_histogram,
    classes_covered,
    classifier_score,
    copy_check,
    feature_statistics,
    frechet_distance,
    frechet_from_statistics,
    js_divergence,
    kernel_distance,
    kmeans,
    label_entropy,
    label_kl,
    label_kl_floor,
    make_bins,
    mean_confidence,
    ndb,
    nearest,
    pairwise_spread,
    pixel_std,
    prdc,
    share_confident,
)

__all__ = ["Bins", "Drawn", "Health", "assess", "assess_log", "change_one_layer", "class_histogram", "classes_covered",
           "classes_per_route", "classifier_score", "coarse_features", "copy_check", "dead_routes", "drawn_by_route",
           "drawn_by_set", "entropy_given_route", "eta_squared", "feature_statistics", "frechet_distance",
           "frechet_from_statistics", "hard_collapse", "hit_rates", "immediate_collapse", "js_divergence",
           "kernel_distance", "kmeans", "label_entropy", "label_kl", "label_kl_floor", "loss_volatility", "make_bins",
           "mean_confidence", "ndb", "nearest", "pairwise_spread", "per_layer_effect", "pixel_spread", "pixel_std",
           "prdc", "relative_spread", "route_information", "route_variety", "share_confident", "specialised_classes",
           "speckle", "stacked_modes", "survival"]
