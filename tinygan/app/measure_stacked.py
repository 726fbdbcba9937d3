"""Measures of a GAN of stacked digits: the classifier reads each colour channel by itself (metrics/modes.py)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinygan import metrics
from tinygan.app.device import Device
from tinygan.app.measure import PER_ROUTE, Row, Subject, banked_layers, draw_by_route
from tinygan.metrics.modes import SURE, TRIPLES, triple_labels
from tinygan.models.classifiers.digits import DigitNet
from tinygan.models.gan.nets import Generator


def measure_triples(classifier: DigitNet, images: np.ndarray) -> dict[str, float]:
    """Measure images (N, 3, 28, 28), as floats in [0, 1] or uint8, by metrics.stacked_modes."""
    return metrics.stacked_modes(*_classified(classifier, images))


def _classified(classifier: DigitNet, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest digit of each channel and its probability, (N, 3) each."""
    probabilities, _ = classifier.classify(images.reshape(-1, 1, *images.shape[2:]))
    by_channel = probabilities.reshape(*images.shape[:2], -1)
    return by_channel.argmax(axis=2), by_channel.max(axis=2)


def digits_by_route(generator: Generator, classifier: DigitNet, device: Device, rng: np.random.Generator
                    ) -> tuple[np.ndarray, np.ndarray]:
    """Classify what `draw_by_route` draws; return the digits (N, 3) and the routes (N, L)."""
    images, routes = draw_by_route(generator, device, rng)
    return _classified(classifier, images)[0], routes


def triples_per_route(digits: np.ndarray, routes: np.ndarray) -> float:
    """Count the triples among the samples of a route, a mean over routes."""
    return metrics.classes_per_route(triple_labels(digits), routes, classes=TRIPLES)


def in_words(measured: Mapping[str, float]) -> str:
    """Return one line on what `measure_triples` found in so many samples, from a row of the log."""
    return (f"{measured['modes']:,.0f} of {TRIPLES:,} triples drawn, KL to equal shares {measured['modes_kl']:.3f} "
            f"nats, classifier's mean confidence {measured['confidence']:.3f}; {measured['modes_sure']:,.0f} triples "
            f"among the {100 * measured['sure']:.0f} % of the samples with three digits above {SURE} "
            f"(over {measured['samples']:,.0f} samples)")


def measure_stacked(s: Subject, n: int) -> list[Row]:
    """Measure n samples with random noise and routes, beside as many triples of random test digits."""
    rng = s.rng(0)
    fake = measure_triples(s.classifier, s.draw(s.generator.draw_noise(rng, n), s.generator.draw_routes(rng, n)))
    real = measure_triples(s.classifier, s.test.images[s.rng(1).integers(len(s.test), size=(n, 3))])
    basis = f"{n:,} triples of test digits"
    floor = metrics.label_kl_floor(n, classes=TRIPLES)
    rows = [("triples", "modes", f"distinct triples, of {TRIPLES:,}", basis),
            ("triples", "modes_kl", "KL to equal shares, nats", f"{basis}; perfect samples {floor:.4f}"),
            ("confidence", "confidence", "mean confidence", basis),
            ("confidence", "sure", f"share with three digits above {SURE}", basis),
            ("confidence", "modes_sure", "distinct triples among those", basis)]
    measured = [Row(part, key, label, fake[key], real[key], words) for part, key, label, words in rows]
    return measured + (_rows_of_routes(s) if s.generator.config.route_count > 1 else [])


def _rows_of_routes(s: Subject) -> list[Row]:
    """Measure how many triples a single route draws, and what the filter set of a layer decides about the digits."""
    rng = s.rng(2)
    digits, routes = digits_by_route(s.generator, s.classifier, s.device, rng)
    chance = f"the same {len(routes):,} images, routes shuffled"
    rows = [Row("routes", "triples_per_route", f"distinct triples of {PER_ROUTE} images of a route",
                triples_per_route(digits, routes), triples_per_route(digits, rng.permutation(routes)), chance)]
    config = s.generator.config
    for layer, name in ({} if config.tied else banked_layers(config.bank)).items():
        found = [metrics.route_information(digits[:, channel], routes[:, layer], seed=s.seed) for channel in range(3)]
        value, by_chance = (float(np.mean([f[key] for f in found])) for key in ("information", "information_shuffled"))
        rows.append(Row("routes", f"information_{name}", f"I(digit; set of {name}), nats", value, by_chance,
                        f"{chance}; mean of the channels"))
    return rows
