"""Measures of stacked digits: how many of the 1,000 triples a generator draws, and how clearly.

A classifier finds a triple in a smear, too, and it counts as a mode: so the modes are also counted among the samples
whose three digits have a high probability each. No samples reach 0 nats: label_kl_floor(n, classes=1000) is what n
perfect ones have on average, to first order.
"""

import numpy as np
from numpy.typing import ArrayLike

from tinygan.errors import TinyganError
from tinygan.metrics.checks import as_labels
from tinygan.metrics.samples import class_histogram, label_kl

TRIPLES = 1000
SURE = 0.9  # confidence above which a digit counts as clear; our choice


def triple_labels(digits: np.ndarray) -> np.ndarray:
    """Number the triples of digits (N, 3) from 0 to 999: (N,)."""
    return digits @ (100, 10, 1)


def stacked_modes(labels: ArrayLike, confidence: ArrayLike, *, sure: float = SURE) -> dict[str, float]:
    """Count the triples of digits that stacked samples show, and measure how clear these are to a classifier.

    labels: integers (N, 3) in [0, 10), the class of the digit in each channel. confidence: (N, 3), the probability of
    that class. Returns modes: distinct triples, of 1,000 (as in VEEGAN and PacGAN). modes_kl: KL of their shares to
    equal ones, in nats. confidence: the mean over samples and channels. sure: the share of samples whose three channels
    are all above the threshold `sure`. modes_sure: distinct triples among those.
    Raises TinyganError for other shapes and labels, or no samples.
    """
    labels, confidence = np.asarray(labels), np.asarray(confidence, np.float64)
    if labels.ndim != 2 or labels.shape[1] != 3 or confidence.shape != labels.shape:
        raise TinyganError(f"labels and confidence must be of shape (N, 3), got {labels.shape} and {confidence.shape}")
    triples = triple_labels(as_labels("labels", labels.ravel(), 10).reshape(labels.shape))
    certain = (confidence > sure).all(axis=1)
    histogram = class_histogram(triples, classes=TRIPLES)
    return {"modes": int(np.count_nonzero(histogram)), "modes_kl": label_kl(histogram),
            "confidence": float(confidence.mean()), "sure": float(certain.mean()),
            "modes_sure": len(np.unique(triples[certain]))}
