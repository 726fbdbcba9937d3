"""Stacked digits: what a batch holds, and that a restored state goes on as if nothing had happened."""

import json

import numpy as np
import pytest

from tinygan.data import Digits, StackedDigits, to_canvas
from tinygan.errors import TinyganError, UsageError


def digits(count):
    """Digits whose pixels all have the number of the image."""
    images = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28).reshape(count, 28, 28)
    return Digits(images, np.zeros(count, np.uint8), "made up")


@pytest.mark.parametrize("side", [28, 32, 64])
def test_a_digit_lies_in_each_channel(side):
    stacked, same = (StackedDigits(digits(5), 4, side, np.random.default_rng(3)) for _ in range(2))
    batch, chosen = next(stacked), same.indices()
    assert batch.shape == (4, 3, side, side) and batch.dtype == np.float32 and chosen.shape == (4, 3)
    for image, triple in zip(batch, chosen, strict=True):
        assert np.array_equal(image, to_canvas(digits(5).images[triple], side)[:, 0])


def test_triples_are_drawn_evenly_and_always_anew():
    stacked = StackedDigits(digits(3), 900, 28, np.random.default_rng(0))
    counts = np.zeros(27)
    for _ in range(3):
        batch = np.rint(next(stacked)[:, :, 14, 14] * 255).astype(int)
        counts += np.bincount(batch @ (9, 3, 1), minlength=27)
    assert ((counts - 100) ** 2 / 100).sum() < 54.1  # 0.1 % point of 26 degrees of freedom


def test_a_restored_order_is_the_order_never_stopped():
    whole, part = (StackedDigits(digits(7), 3, 32, np.random.default_rng(seed)) for seed in (1, 2))
    next(whole)
    part.set_state(json.loads(json.dumps(whole.state())))
    assert all(next(whole).tobytes() == next(part).tobytes() for _ in range(3))


@pytest.mark.parametrize("change, words", [
    ({"n": 8}, "has n 8, this run 7"), ({"batch_size": 4}, "has batch_size 4"), ({"stacked": None}, "has stacked None"),
    ({"rng": {"bit_generator": "MT19937"}}, "is damaged"), ({"rng": 5}, "is damaged")])
def test_another_state_is_refused_and_changes_nothing(change, words):
    stacked = StackedDigits(digits(7), 3, 32, np.random.default_rng(1))
    before = stacked.state()
    with pytest.raises(TinyganError, match=words):
        stacked.set_state(before | change)
    assert stacked.state() == before


def test_nothing_to_stack():
    with pytest.raises(TinyganError, match="no digits"):
        StackedDigits(digits(0), 3, 32, np.random.default_rng(1))
    with pytest.raises(UsageError, match="batch size must be at least 1"):
        StackedDigits(digits(2), 0, 32, np.random.default_rng(1))
