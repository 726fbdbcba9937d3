"""The kernel distance against its definition in loops, and the coarse features: what they measure of photos."""

import numpy as np
import pytest

from tinygan import metrics
from tinygan.errors import TinyganError


def by_definition(x, y):
    """The unbiased squared maximum mean discrepancy of x (n, F) and y (m, F), one pair at a time."""
    def kernel(a, b):
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_the_kernel_distance_is_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 3)), rng.standard_normal((7, 3)) + 0.5
    found = metrics.kernel_distance(x, y, subsets=3)
    assert found["mean"] == pytest.approx(by_definition(x, y)) and found["size"] == 7
    assert found["std"] == pytest.approx(0, abs=1e-9)  # every subset is the whole set
    # Of a larger set: the mean and spread over subsets that are drawn from it, none with a row twice.
    found = metrics.kernel_distance(x, y, subsets=5, size=4, seed=1)
    draws = np.random.default_rng(1)
    values = [by_definition(*(z[draws.choice(7, 4, replace=False)] for z in (x, y))) for _ in range(5)]
    assert (found["mean"], found["std"], found["size"]) == (pytest.approx(np.mean(values)),
                                                            pytest.approx(np.std(values)), 4)


def test_the_kernel_distance_of_two_pairs_by_hand():
    """F = 1. x = 0, 1 and y = 2, 3: k(0, 1) = 1, k(2, 3) = 7^3 = 343; across 1, 1, 3^3 = 27, 4^3 = 64."""
    found = metrics.kernel_distance(np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]]), subsets=2)
    assert found["mean"] == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)


def test_the_kernel_distance_of_equal_distributions_is_0_on_average_whatever_n():
    rng = np.random.default_rng(0)
    for n in (5, 20):
        values = np.array([metrics.kernel_distance(*rng.standard_normal((2, n, 4)), subsets=1)["mean"]
                           for _ in range(2000)])
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values)) and (values < 0).any()


@pytest.mark.parametrize("shapes, options, words", [
    (((1, 3), (5, 3)), {}, "at least 2"),
    (((5, 3), (5, 4)), {}, "must agree"),
    (((5, 3), (5, 3)), {"size": 1}, "rows of a subset must be at least 2"),
    (((5, 3), (5, 3)), {"subsets": 0}, "number of subsets must be at least 1"),
])
def test_what_the_kernel_distance_refuses(shapes, options, words):
    with pytest.raises(TinyganError, match=words):
        metrics.kernel_distance(*map(np.zeros, shapes), **options)


# ---- coarse features -----------------------------------------------------------------------------------------------


def made_up_photos(n, seed, side=32):
    """Smooth colours with a few flat rectangles: edges, and places without any."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    slopes = rng.uniform(-0.5, 0.5, (2, n, 3, 1, 1))
    images = 0.5 + slopes[0] * (y - 0.5) + slopes[1] * (x - 0.5)
    for image in images:
        for _ in range(6):
            top, left = rng.integers(0, side - 8, 2)
            image[:, top : top + rng.integers(4, 16), left : left + rng.integers(4, 16)] = rng.random((3, 1, 1))
    return images.astype(np.float32)


def blurred(images):
    wide = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    return sum(wide[:, :, i : i + 32, j : j + 32] for i in range(3) for j in range(3)) / 9


def test_coarse_features_by_hand():
    """An image that is black on the left and white on the right of a line through the middle of cell column 4."""
    image = np.zeros((1, 3, 16, 16), np.float32)
    image[:, :, :, 9:] = 1
    colours, across, down = metrics.coarse_features(image).reshape(3, 3, 8, 8)
    assert (colours == [0, 0, 0, 0, 0.5, 1, 1, 1]).all() and (down == 0).all()
    assert (across == [0, 0, 0, 0, 4 * 0.5, 0, 0, 0]).all()  # of two pixels in a row one differs from the next


def test_coarse_features_tell_real_photos_from_others():
    real, other = made_up_photos(300, 0), made_up_photos(300, 1)
    noise = np.random.default_rng(2).normal(0, 0.05, other.shape).astype(np.float32)
    of_real = metrics.coarse_features(real)
    wrong = {"blurred": blurred(other), "noisy": (other + noise).clip(0, 1),
             "ten of them": np.tile(other[:10], (30, 1, 1, 1)),
             "one subject": other[other[:, 0].mean(axis=(1, 2)) > 0.55]}
    near = {name: metrics.kernel_distance(of_real, metrics.coarse_features(images), size=100, subsets=30)["mean"]
            for name, images in {"real": other, **wrong}.items()}
    assert all(near[name] > 3 * abs(near["real"]) for name in wrong), near


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 12, 12), (2, 3, 16, 8), (3, 16, 16)])
def test_coarse_features_refuse_other_shapes(shape):
    with pytest.raises(TinyganError, match="coarse features are of images"):
        metrics.coarse_features(np.zeros(shape, np.float32))
