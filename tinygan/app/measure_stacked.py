"""Measures of a GAN of stacked digits: the classifier reads each colour channel by itself (metrics/modes.py)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinygan import metrics
from tinygan.app.measure import Row, Subject
from tinygan.metrics.modes import SURE, TRIPLES
from tinygan.models.classifiers.digits import DigitNet


def measure_triples(classifier: DigitNet, images: np.ndarray) -> dict[str, float]:
    """Measure images (N, 3, 28, 28), as floats in [0, 1] or uint8, by metrics.stacked_modes."""
    probabilities, _ = classifier.classify(images.reshape(-1, 1, *images.shape[2:]))
    by_channel = probabilities.reshape(*images.shape[:2], -1)
    return metrics.stacked_modes(by_channel.argmax(axis=2), by_channel.max(axis=2))


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
    return [Row(part, key, label, fake[key], real[key], words) for part, key, label, words in rows]
