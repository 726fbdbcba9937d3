"""Hit rates, the variety of routes, and speckle: by hand, by other formulas, and on pictures whose value is known."""

import itertools

import numpy as np
import pytest

from tinygan.errors import TinyganError, UsageError
from tinygan.metrics.gpan import hit_rates, pixel_spread, route_variety, speckle

# ---- hit rates ----


def test_hit_rates_by_hand():
    """Three images, seven classes, probabilities that are easy to add up."""
    shares = np.array([[0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02],  # best: 0
                       [0.02, 0.03, 0.4, 0.3, 0.1, 0.1, 0.05],  # best five: 2 3 4 5 6
                       [0.05, 0.02, 0.4, 0.3, 0.13, 0.03, 0.07]])  # best five: 2 3 4 6 0
    scores = np.log(shares) + np.array([[3.0], [-700.0], [700.0]])  # softmax does not see what is added to all
    found = hit_rates(scores, [0])
    assert found == pytest.approx({"top1": 1 / 3, "top5": 2 / 3, "probability": (0.4 + 0.02 + 0.05) / 3})
    found = hit_rates(scores, {1, 0})
    assert found == pytest.approx({"top1": 1 / 3, "top5": 2 / 3, "probability": (0.7 + 0.05 + 0.07) / 3})
    found = hit_rates(scores, (2, 2, 3))  # a class that is named twice counts once
    assert found == pytest.approx({"top1": 2 / 3, "top5": 1, "probability": (0.2 + 0.7 + 0.7) / 3})
    assert all(type(value) is float for value in found.values())


def test_hit_rates_at_the_extremes():
    scores = np.array([[1e4, -1e4, 0.0]], np.float32)
    assert hit_rates(scores, [0]) == {"top1": 1, "top5": 1, "probability": 1}
    assert hit_rates(scores, [1])["probability"] == 0 and hit_rates(scores, [1])["top5"] == 1  # fewer than five classes
    tied = np.zeros((2, 10))
    assert hit_rates(tied, [0])["top1"] == 1 and hit_rates(tied, [4])["top5"] == 1 and hit_rates(tied, [5])["top5"] == 0


@pytest.mark.parametrize("wanted", [[], [10], [-1]])
def test_hit_rates_of_classes_that_are_not_there(wanted):
    with pytest.raises(UsageError, match="0 to 9"):
        hit_rates(np.zeros((2, 10)), wanted)


def test_hit_rates_of_broken_scores():
    with pytest.raises(TinyganError, match="NaN"):
        hit_rates(np.full((2, 10), np.nan), [1])


# ---- routes ----


def pair_mean(rows):
    return np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(rows.reshape(len(rows), -1), 2)])


def test_route_variety_is_a_ratio_of_pair_distances():
    rng = np.random.default_rng(0)
    by_route, by_noise = rng.normal(size=(4, 7)), 3 * rng.normal(size=(5, 7))
    assert route_variety(by_route, by_noise) == pytest.approx(pair_mean(by_route) / pair_mean(by_noise))
    groups, noises = rng.normal(size=(3, 4, 2, 5)), rng.normal(size=(2, 6, 2, 5))
    expected = np.mean([pair_mean(g) for g in groups]) / np.mean([pair_mean(g) for g in noises])
    assert route_variety(groups, noises) == pytest.approx(expected)
    assert route_variety(groups.astype(np.float32), noises) == pytest.approx(expected, rel=1e-5)


def test_route_variety_tells_routes_from_noise():
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(2, 200, 30))
    assert route_variety(samples[0], samples[1]) == pytest.approx(1, abs=0.05)
    assert route_variety(0.1 * samples[0], samples[1]) == pytest.approx(0.1, abs=0.01)
    same = np.ones((3, 30))
    assert route_variety(same, samples[1]) == 0
    assert route_variety(samples[0], same) == np.inf
    assert route_variety(same, same) == 0
    # Offsets between groups are no variety inside one.
    offset = samples[0].reshape(2, 100, 30) + np.array([0, 1000])[:, None, None]
    assert route_variety(offset, samples[1]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("routes", [np.ones((1, 5)), np.ones((3, 1, 5)), np.ones(5), np.ones((0, 4, 5)),
                                    np.full((3, 5), np.inf)])
def test_route_variety_of_what_has_none(routes):
    with pytest.raises(TinyganError) as caught:
        route_variety(routes, np.ones((3, 5)))
    assert "features by route" in str(caught.value) and "\n" not in str(caught.value)


def test_pixel_spread_by_hand():
    images = np.zeros((2, 1, 2, 2), np.float32)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = -1, 1  # one pixel of four with variance 1
    assert pixel_spread(images) == pytest.approx(0.5)
    assert pixel_spread(np.stack([images, np.zeros_like(images)])) == pytest.approx(np.sqrt(1 / 8))
    assert pixel_spread(images + 5) == pytest.approx(0.5)
    # What differs between groups alone is no spread.
    assert pixel_spread(np.stack([np.zeros_like(images), np.ones_like(images)])) == 0
    for wrong in (images[:1], images[0], np.zeros((0, 2, 1, 2, 2))):
        with pytest.raises(TinyganError):
            pixel_spread(wrong)


# ---- speckle ----


def share_above(height, width):
    """White noise has the same power in every bin: count them."""
    down, across = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    return float((np.hypot(down, across) > 0.25).mean())


@pytest.mark.parametrize("shape", [(64, 64), (63, 65), (33, 128)])
def test_speckle_of_white_noise_is_the_share_of_bins(shape):
    noise = np.random.default_rng(0).normal(size=(24, 3, *shape))
    assert speckle(noise) == pytest.approx(share_above(*shape), abs=0.006)
    assert share_above(*shape) == pytest.approx(1 - np.pi / 16, abs=0.01)


def test_speckle_is_the_ratio_of_a_full_transform():
    """Against the plain definition: all bins of the complex transform, one image and channel at a time."""
    rng = np.random.default_rng(2)
    images = rng.normal(size=(2, 3, 12, 15)).cumsum(axis=3)
    shares = []
    hann = [np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2 for size in (12, 15)]
    for channel in images.reshape(6, 12, 15):
        window = np.outer(*hann)
        power = abs(np.fft.fft2((channel - channel.mean()) * window)) ** 2
        radius = np.hypot(np.fft.fftfreq(12)[:, None], np.fft.fftfreq(15))
        shares.append(power[radius > 0.25].sum() / power.sum())
    assert speckle(images) == pytest.approx(np.mean(shares), rel=1e-12)


def test_speckle_of_smooth_pictures_and_checkerboards():
    line = np.linspace(-1, 1, 64)
    gradient = np.broadcast_to(line, (1, 1, 64, 64))
    bump = np.exp(-4 * (line[:, None] ** 2 + line**2))[None, None]
    assert speckle(gradient) < 1e-4 and speckle(bump) < 1e-4
    i, j = np.indices((64, 64))
    board = np.where((i + j) % 2 == 0, 1.0, -1.0)[None, None]
    assert speckle(board) > 0.999
    assert speckle(np.where(j % 2 == 0, 1.0, -1.0)[None, None]) > 0.999
    # Coarse squares with hard edges lie between: their harmonics are fine detail.
    coarse = [speckle(np.where((i // k + j // k) % 2 == 0, 1.0, -1.0)[None, None]) for k in (2, 4, 8)]
    assert coarse[0] > 0.9 and 0.2 < coarse[1] < 0.3 and coarse[2] < 0.2
    assert speckle(np.concatenate([gradient, board])) == pytest.approx((speckle(gradient) + speckle(board)) / 2)


def test_speckle_ignores_brightness_and_contrast():
    image = np.random.default_rng(3).normal(size=(2, 3, 32, 32)).cumsum(axis=2)
    assert speckle(0.25 * image + 3) == pytest.approx(speckle(image))
    assert speckle(image.astype(np.float32)) == pytest.approx(speckle(image), rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.1, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_speckle_of_a_constant_picture_is_0(value, dtype):
    assert speckle(np.full((2, 3, 33, 32), value, dtype)) == 0


@pytest.mark.parametrize("images", [np.ones((3, 32, 32)), np.ones((1, 1, 3, 32)), np.full((1, 1, 8, 8), np.nan),
                                    np.ones((0, 3, 32, 32))])
def test_speckle_of_no_pictures(images):
    with pytest.raises(TinyganError):
        speckle(images)
