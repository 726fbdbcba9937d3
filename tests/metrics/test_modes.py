"""The measures of stacked digits, by hand and against samples that are perfect."""

import math

import numpy as np
import pytest

from tinygan import metrics
from tinygan.errors import TinyganError


def test_by_hand():
    """Six samples of three triples, 3 + 2 + 1; two of them, of one triple, are clear in all channels."""
    labels = [[1, 2, 3], [1, 2, 3], [1, 2, 3], [3, 2, 1], [3, 2, 1], [9, 9, 9]]
    confidence = np.full((6, 3), 0.95)
    confidence[2, 0], confidence[3, 1], confidence[4, 2], confidence[5] = 0.9, 0.5, 0.2, 0.1
    found = metrics.stacked_modes(labels, confidence)
    kl = 0.5 * math.log(500) + math.log(1000 / 3) / 3 + math.log(1000 / 6) / 6
    assert found == {"modes": 3, "modes_kl": pytest.approx(kl, rel=1e-12), "sure": pytest.approx(1 / 3),
                     "confidence": pytest.approx((12 * 0.95 + 0.9 + 0.5 + 0.2 + 3 * 0.1) / 18),
                     "modes_sure": 1}
    assert metrics.stacked_modes(labels, confidence, sure=0.89)["sure"] == 0.5
    assert metrics.stacked_modes(labels[5:], confidence[5:])["modes_sure"] == 0


def test_perfect_samples_reach_the_floor():
    labels = np.random.default_rng(0).integers(10, size=(26_000, 3))
    found = metrics.stacked_modes(labels, np.ones((26_000, 3)))
    assert (found["modes"], found["modes_sure"], found["sure"], found["confidence"]) == (1000, 1000, 1, 1)
    assert found["modes_kl"] == pytest.approx(metrics.label_kl_floor(26_000, classes=1000), rel=0.1)


def test_each_triple_counts_as_itself():
    every = np.stack(np.unravel_index(np.arange(1000), (10, 10, 10)), axis=1)
    assert metrics.stacked_modes(every, np.ones((1000, 3))) == {
        "modes": 1000, "modes_kl": pytest.approx(0, abs=1e-12), "confidence": 1, "sure": 1, "modes_sure": 1000}


@pytest.mark.parametrize("labels, confidence, words", [
    (np.zeros((4, 2), int), np.zeros((4, 2)), r"of shape \(N, 3\)"),
    (np.zeros((4, 3), int), np.zeros((5, 3)), r"of shape \(N, 3\)"),
    (np.zeros((0, 3), int), np.zeros((0, 3)), "N >= 1"), (np.full((4, 3), 10), np.zeros((4, 3)), "0 to 9")])
def test_other_arrays_are_refused(labels, confidence, words):
    with pytest.raises(TinyganError, match=words):
        metrics.stacked_modes(labels, confidence)
