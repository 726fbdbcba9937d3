"""The collapse measures: closed forms, brute force, and a planted collapse that each of them must see.

The full self-test of precision / recall / density / coverage (10,000 x 1,000 values, about 10 s) runs with
TINYGAN_SLOW_TESTS=1.
"""

import math
import os

import numpy as np
import pytest

from tinygan import metrics as m
from tinygan.errors import TinyganError
from tinygan.metrics import log as mt
from tinygan.metrics import routes as mr
from tinygan.metrics import samples


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def gaussian_mixture(rng, labels, *, features=16, spread=0.5):
    """Features (N, F) in ten separate clusters, one per label: a stand-in for a classifier's features."""
    centres = np.random.default_rng(0).standard_normal((10, features)) * 3
    return (centres[labels] + spread * rng.standard_normal((len(labels), features))).astype(np.float32)


def brute_distances(a, b):
    return np.sqrt(((a[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(-1))


# ---- Labels and probabilities ----


def test_histogram_and_coverage():
    labels = np.repeat(np.arange(10), [500, 300, 100, 50, 30, 10, 9, 1, 0, 0])
    histogram = m.class_histogram(labels)
    assert histogram.tolist() == [500, 300, 100, 50, 30, 10, 9, 1, 0, 0]
    assert m.classes_covered(histogram) == 6  # 10 of 1,000 is covered, 9 of 1,000 is not
    assert m.classes_covered(histogram, share=0.009) == 7


@pytest.mark.parametrize(
    "p, q, expected",
    [
        ([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], None, math.log(10)),
        ([1] * 10, None, 0.0),
        ([3, 1], None, 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
        ([3, 1], [1, 3], 0.75 * math.log(3) + 0.25 * math.log(1 / 3)),
        ([1, 0], [1, 3], math.log(4)),
        ([1, 1], [1, 0], math.inf),
    ],
)
def test_label_kl(p, q, expected):
    assert m.label_kl(p, q) == pytest.approx(expected, abs=1e-15)


def test_label_kl_floor_is_what_perfect_samples_give(rng):
    measured = np.mean([m.label_kl(rng.multinomial(2000, [0.1] * 10)) for _ in range(2000)])
    assert measured == pytest.approx(m.label_kl_floor(2000), rel=0.05)
    assert m.label_kl_floor(10_000) == pytest.approx(4.5e-4)
    assert m.label_kl_floor(26_000, classes=1000) == pytest.approx(0.0192, abs=1e-4)


def test_entropy_and_js():
    assert m.label_entropy([5, 0, 0]) == 0
    assert m.label_entropy([1, 1, 2]) == pytest.approx(1.5 * math.log(2))
    assert m.js_divergence([1, 0], [0, 1]) == pytest.approx(math.log(2))
    assert m.js_divergence([2, 6], [1, 3]) == pytest.approx(0, abs=1e-15)
    assert m.js_divergence([1, 2, 3], [3, 1, 0]) == m.js_divergence([3, 1, 0], [1, 2, 3])


def test_confidence_and_classifier_score():
    sure = np.eye(10, dtype=np.float32)
    assert m.mean_confidence(sure) == 1 and m.share_confident(sure) == 1
    assert m.classifier_score(sure) == pytest.approx(10)
    assert m.classifier_score(sure[[3] * 8]) == pytest.approx(1)  # one class only
    assert m.classifier_score(np.full((8, 10), 0.1)) == pytest.approx(1)  # all unsure
    mixed = np.array([[0.95, 0.05], [0.2, 0.8], [0.9, 0.1]])
    assert m.mean_confidence(mixed) == pytest.approx((0.95 + 0.8 + 0.9) / 3)
    assert m.share_confident(mixed) == pytest.approx(1 / 3)
    assert m.share_confident(mixed, threshold=0.85) == pytest.approx(2 / 3)


# ---- Fréchet distance ----


def test_frechet_of_known_gaussians(rng):
    mean, other_mean = rng.standard_normal((2, 6))
    scale, other_scale = rng.uniform(0.5, 2, (2, 6))
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]  # covariances that commute: a sum over axes
    expected = ((mean - other_mean) ** 2).sum() + ((scale - other_scale) ** 2).sum()
    covariances = [basis @ np.diag(s**2) @ basis.T for s in (scale, other_scale)]
    assert m.frechet_from_statistics(mean, covariances[0], other_mean, covariances[1]) == pytest.approx(
        expected
    )


def test_frechet_of_covariances_that_do_not_commute(rng):
    a, b = (x @ x.T for x in rng.standard_normal((2, 5, 5)))
    # A B has the eigenvalues of A^1/2 B A^1/2, real and non-negative
    root_trace = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    expected = np.trace(a) + np.trace(b) - 2 * root_trace
    zero = np.zeros(5)
    assert m.frechet_from_statistics(zero, a, zero, b) == pytest.approx(expected)
    assert m.frechet_from_statistics(zero, b, zero, a) == pytest.approx(expected)


def test_frechet_statistics_are_those_of_numpy(rng):
    x = (rng.standard_normal((5000, 7)) + 100).astype(np.float32)  # more rows than one chunk, far from 0
    mean, covariance = m.feature_statistics(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-12)


def test_frechet_without_full_rank(rng):
    few = rng.standard_normal((20, 50))  # rank 19 of 50
    assert m.frechet_distance(few, few) < 1e-9
    assert m.frechet_distance(few, few + 2) == pytest.approx(4 * 50)
    point = np.zeros((9, 50))  # a generator that makes one image: covariance 0
    expected = (few.mean(0) ** 2).sum() + np.trace(np.cov(few, rowvar=False))
    assert m.frechet_distance(few, point) == pytest.approx(expected)
    assert m.frechet_distance(point, point) == 0
    with_dead = np.concatenate([few, np.zeros((20, 5))], axis=1)  # features that never fire
    assert m.frechet_distance(with_dead, with_dead + 2) == pytest.approx(4 * 55)


# ---- Precision, recall, density, coverage ----


def prdc_by_definition(real, fake, k):
    real_real, fake_fake = brute_distances(real, real), brute_distances(fake, fake)
    across = brute_distances(real, fake)
    r = [sorted(np.delete(row, i))[k - 1] for i, row in enumerate(real_real)]
    s = [sorted(np.delete(row, j))[k - 1] for j, row in enumerate(fake_fake)]
    reals, fakes = range(len(real)), range(len(fake))
    return {
        "precision": np.mean([any(across[i, j] < r[i] for i in reals) for j in fakes]),
        "recall": np.mean([any(across[i, j] < s[j] for j in fakes) for i in reals]),
        "density": sum(across[i, j] < r[i] for i in reals for j in fakes) / (k * len(fake)),
        "coverage": np.mean([min(across[i]) < r[i] for i in reals]),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_prdc_is_its_definition(rng, k, dtype):
    real = rng.standard_normal((60, 4)).astype(dtype)
    fake = (rng.standard_normal((45, 4)) * 0.8 + 0.4).astype(dtype)
    assert m.prdc(real, fake, k=k) == pytest.approx(prdc_by_definition(real, fake, k))


def test_prdc_far_from_the_origin(rng):
    """In float32, 1000^2 swallows the squared distances: only the shift to the mean saves them."""
    real, fake = rng.standard_normal((2, 80, 3))
    shifted = [(x + 1000).astype(np.float32) for x in (real, fake)]
    assert m.prdc(*shifted) == pytest.approx(prdc_by_definition(*shifted, 5))


def test_prdc_of_identical_and_of_disjoint_sets(rng):
    x = rng.standard_normal((200, 8)).astype(np.float32)
    same = m.prdc(x, x)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert same["density"] == 1  # a ball holds its own centre and k - 1 more: the k-th lies on its edge
    assert m.prdc(x, x + 100) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_prdc_expectations_for_equal_distributions(rng):
    real, fake = rng.standard_normal((2, 3000, 3)).astype(np.float32)
    got = m.prdc(real, fake)
    assert got["density"] == pytest.approx(1, abs=0.05)
    assert got["coverage"] == pytest.approx(1 - 2**-5, abs=0.015)


def test_prdc_counts_exact_duplicates_as_distance_zero():
    """Balls of radius 0 hold nothing, not even a copy: d < r is strict, and rounding must not decide it."""
    images = np.random.default_rng(1).random((8, 784), dtype=np.float32)
    copies = np.repeat(images, 10, axis=0)
    assert m.prdc(copies, copies) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_prdc_does_not_depend_on_the_order(rng):
    real, fake = rng.standard_normal((2, 300, 5))
    shuffled = m.prdc(rng.permutation(real), rng.permutation(fake))
    assert shuffled == pytest.approx(m.prdc(real, fake))


@pytest.mark.skipif(
    not os.environ.get("TINYGAN_SLOW_TESTS"), reason="set TINYGAN_SLOW_TESTS=1: takes about 10 s"
)
def test_prdc_full_self_test():
    """Two samples of 10,000 from N(0, I) in 1,000 dimensions; the figures are those of the authors' code."""
    real, fake = np.random.default_rng(0).standard_normal((2, 10_000, 1000), dtype=np.float32)
    got = m.prdc(real, fake)
    assert got["precision"] == pytest.approx(0.4772, abs=0.015)
    assert got["recall"] == pytest.approx(0.4705, abs=0.015)
    assert got["density"] == pytest.approx(1.0555, abs=0.03)
    assert got["coverage"] == pytest.approx(0.9735, abs=0.005)


# ---- Distances ----


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-4), (np.float64, 1e-12)])
def test_distances_are_those_of_subtraction_in_every_block(rng, dtype, tolerance):
    rows, columns = rng.standard_normal((301, 9)).astype(dtype), rng.standard_normal((77, 9)).astype(dtype)
    got = np.empty((301, 77), dtype)
    blocks = 0
    for part, squared in samples._distance_blocks(rows, columns, elements=77 * 128):
        assert squared.dtype == dtype
        got[part] = np.sqrt(squared)
        blocks += 1
    assert blocks == 3
    np.testing.assert_allclose(got, brute_distances(rows, columns), rtol=tolerance)


def test_nearest_is_exact_for_copies(rng):
    train = rng.random((400, 1, 28, 28)).astype(np.float32)
    index, distance = m.nearest(train[[5, 399, 0]], train)
    assert index.tolist() == [5, 399, 0]
    assert distance.tolist() == [0, 0, 0]
    assert distance.dtype == np.float32


def test_float32_and_float64_agree_and_integers_are_taken(rng):
    images = rng.integers(0, 256, (90, 5, 5), dtype=np.uint8)
    others = rng.integers(0, 256, (80, 5, 5), dtype=np.uint8)
    exact = m.nearest(images.astype(np.float64), others.astype(np.float64))
    for given in (images, images.astype(np.float32)):
        index, distance = m.nearest(given, others)
        assert np.array_equal(index, exact[0])
        np.testing.assert_allclose(distance, exact[1], rtol=1e-6)


# ---- Bins ----


def test_kmeans_finds_separate_clusters(rng):
    labels = rng.integers(0, 10, 1000)
    x = gaussian_mixture(rng, labels, spread=0.1)
    centres, assigned = m.kmeans(x, 10)
    assert len({(a, b) for a, b in zip(labels, assigned, strict=True)}) == 10
    for cluster in range(10):
        np.testing.assert_allclose(centres[cluster], x[assigned == cluster].mean(0), atol=1e-5)


def test_kmeans_is_repeatable_and_leaves_no_cluster_empty(rng):
    x = rng.standard_normal((500, 3))
    first, second = m.kmeans(x, 60, seed=3), m.kmeans(x, 60, seed=3)
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert np.bincount(first[1], minlength=60).min() >= 1


def test_ndb_of_hand_made_counts():
    """60 and 40 in training, 75 and 25 in the query: z = .15 / sqrt(.675 * .325 / 50) = 2.265."""
    bins = m.Bins(np.array([[0.0], [10.0]]), np.array([60, 40]))
    query = np.repeat([[1.0], [9.0]], [75, 25], axis=0)
    assert m.ndb(bins, query, threshold=2.27)["ndb"] == 0
    got = m.ndb(bins, query, threshold=2.26)
    assert got["ndb"] == 2 and got["ndb_share"] == 1
    assert got["js"] == pytest.approx(m.js_divergence([60, 40], [75, 25]))


def test_ndb_of_the_same_distribution_and_of_a_missing_class(rng):
    train = gaussian_mixture(rng, rng.integers(0, 10, 6000))
    bins = m.make_bins(train, 50, seed=1)
    assert bins.counts.sum() == 6000
    held_out = m.ndb(bins, gaussian_mixture(rng, rng.integers(0, 10, 3000)))
    without_nine = m.ndb(bins, gaussian_mixture(rng, rng.integers(0, 9, 3000)))
    assert held_out["ndb"] <= 2 and held_out["js"] == pytest.approx(held_out["js_floor"], rel=0.4)
    assert without_nine["ndb"] >= 4 and without_nine["js"] > 0.02


# ---- Copies, spread, near-duplicates ----


def test_copy_check(rng):
    train, test = rng.random((300, 50)), rng.random((100, 50))
    fresh = m.copy_check(rng.random((100, 50)), test, train)
    assert fresh["ratio"] == pytest.approx(1, abs=0.05) and fresh["nearest_fake"] > 0.5
    copied = m.copy_check(train[:100], test, train)
    assert copied["fake"] == copied["ratio"] == copied["nearest_fake"] == 0
    assert copied["test"] == pytest.approx(brute_distances(test, train).min(1).mean())


def test_pairwise_spread(rng):
    real = rng.standard_normal((500, 20))
    got = m.pairwise_spread(0.5 * real, real)
    assert got["ratio"] == pytest.approx(0.5)
    assert got["wasserstein"] == pytest.approx(got["real"] / 2)
    assert got["real"] == pytest.approx(
        brute_distances(real, real)[~np.eye(500, dtype=bool)].mean(), rel=0.01
    )
    assert m.pairwise_spread(real[:250], real[250:])["ratio"] == pytest.approx(1, abs=0.05)


def test_pixel_std():
    images = np.zeros((4, 1, 2, 1), np.float32)
    images[:2, 0, 0] = 1  # one pixel differs (variance 1/4), one does not
    assert m.pixel_std(images) == pytest.approx(math.sqrt(0.125))
    assert m.pixel_std(np.ones((5, 3))) == 0


# ---- A planted collapse is seen by every measure ----


def test_every_measure_sees_a_generator_with_one_class_left(rng):
    labels, other_labels = rng.integers(0, 10, (2, 2000))
    train, test = gaussian_mixture(rng, labels), gaussian_mixture(rng, other_labels)
    collapsed_labels = np.ones(2000, int)
    collapsed = gaussian_mixture(rng, collapsed_labels)
    histogram = m.class_histogram(collapsed_labels)
    assert m.classes_covered(histogram) == 1
    assert m.label_kl(histogram) == pytest.approx(math.log(10))
    assert m.label_entropy(histogram) == 0
    assert m.classifier_score(np.eye(10)[collapsed_labels]) == pytest.approx(1)
    assert m.frechet_distance(train, collapsed) > 100 * m.frechet_distance(train, test)
    fair, got = m.prdc(train, test), m.prdc(train, collapsed)
    assert got["recall"] < 0.2 < 0.8 < fair["recall"]
    assert got["coverage"] < 0.2 < 0.9 < fair["coverage"]
    assert got["precision"] > 0.8  # what is left looks real: precision alone does not see a collapse
    bins = m.make_bins(train, 50)
    assert m.ndb(bins, collapsed)["ndb_share"] > 0.5 > m.ndb(bins, test)["ndb_share"]
    assert m.pairwise_spread(collapsed, train)["ratio"] < 0.5
    assert m.pixel_std(collapsed) < 0.5 * m.pixel_std(train)
    assert m.copy_check(train[:50] + 0.001, test, train)["ratio"] < 0.1  # a generator of near-copies


def test_quality_measures_see_noise(rng):
    train, test = (gaussian_mixture(rng, rng.integers(0, 10, 1000)) for _ in range(2))
    noise = rng.standard_normal((1000, 16)).astype(np.float32) * 3
    assert m.prdc(train, noise)["precision"] < 0.1 < 0.8 < m.prdc(train, test)["precision"]
    assert m.prdc(train, noise)["density"] < 0.1
    assert m.mean_confidence(np.full((5, 10), 0.1)) == pytest.approx(0.1)


# ---- Routes ----


def test_classes_per_route_by_hand():
    routes = [[0, 1], [0, 1], [0, 1], [1, 1], [1, 1], [0, 0]]
    assert mr.classes_per_route([7, 2, 7, 500, 500, 7], routes, classes=1000) == pytest.approx((2 + 1 + 1) / 3)
    assert mr.classes_per_route([7, 2, 7, 5, 5, 7], np.zeros(6, int)) == 3
    with pytest.raises(TinyganError, match="0 to 9"):
        mr.classes_per_route([10], [0])


def test_information_when_the_route_decides_the_label(rng):
    routes = np.stack([rng.integers(0, 5, 2000), rng.integers(0, 2, 2000)], axis=1)
    labels = routes[:, 0] + 5 * routes[:, 1]
    got = mr.route_information(labels, routes)
    assert mr.entropy_given_route(labels, routes) == got["entropy_given_route"] == 0
    assert got["information"] == got["label_entropy"] == pytest.approx(math.log(10), abs=0.01)
    assert got["information_shuffled"] < 0.05 and got["information_net"] > 2.2
    assert got["routes"] == 10 and got["samples_per_route"] == 200
    one_layer = mr.route_information(labels, routes[:, 1])
    assert one_layer["information"] == pytest.approx(math.log(2), abs=0.01)


def test_information_when_the_route_does_not_matter(rng):
    labels, routes = rng.integers(0, 10, 6400), np.repeat(np.arange(64), 100)
    got = mr.route_information(labels, routes)
    assert got["information_shuffled"] == pytest.approx(63 * 9 / 12800, rel=0.1)  # the bias Miller gives
    assert abs(got["information_net"]) < 0.005
    assert got["information"] == pytest.approx(got["label_entropy"] - got["entropy_given_route"])
    alone = mr.route_information(
        labels, np.arange(6400)
    )  # one sample per route: pure bias, and shown as such
    assert alone["information"] == pytest.approx(alone["label_entropy"])
    assert alone["information_net"] == pytest.approx(0)


def test_route_measures_do_not_depend_on_order_or_numbering(rng):
    routes = rng.integers(0, 3, (900, 2))
    labels = (routes.sum(axis=1) + rng.integers(0, 3, 900)) % 10
    features = rng.standard_normal((900, 4)) + routes[:, :1]
    order = rng.permutation(900)
    renamed = routes * 7 + 2
    assert mr.entropy_given_route(labels[order], renamed[order]) == pytest.approx(
        mr.entropy_given_route(labels, routes)
    )
    assert mr.eta_squared(features[order], renamed[order]) == pytest.approx(mr.eta_squared(features, routes))


def test_eta_squared(rng):
    routes = np.repeat(np.arange(20), 50)
    assert mr.eta_squared(routes[:, None] * np.ones((1, 3)), routes)["eta_squared"] == pytest.approx(1)
    chance = [mr.eta_squared(rng.standard_normal((1000, 8)), routes) for _ in range(20)]
    assert np.mean([c["eta_squared"] for c in chance]) == pytest.approx(19 / 999, rel=0.15)
    assert chance[0]["by_chance"] == pytest.approx(19 / 999)
    halves = np.repeat([0.0, 2.0], 2)[:, None] + np.array([-1, 1, -1, 1.0])[:, None]  # between 4, within 4
    assert mr.eta_squared(halves, np.array([0, 0, 1, 1]))["eta_squared"] == pytest.approx(0.5)
    assert mr.eta_squared(np.ones((4, 2)), np.array([0, 0, 1, 1]))["eta_squared"] == 0


def test_dead_routes(rng):
    routes = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], 10, axis=0)
    probabilities = np.tile([0.9, 0.1], (40, 1))
    probabilities[10:20] = np.tile([0.45, 0.3, 0.25], (10, 1))[:, :2] / 0.75  # 0.6: sure enough
    assert mr.dead_routes(routes, probabilities)["share"] == 0
    three = np.concatenate([probabilities * 0.7, np.full((40, 1), 0.3)], axis=1)
    three[20:30] = [0.4, 0.3, 0.3]
    images = rng.random((40, 1, 4, 4))
    images[30:] = images[30]
    assert mr.dead_routes(routes, three) == {"share": 0.5, "unsure": 2, "constant": 0}  # 0.42 and 0.4
    assert mr.dead_routes(routes, three, images) == {"share": 0.75, "unsure": 2, "constant": 1}
    singles = mr.dead_routes(np.arange(40), probabilities, images)
    assert singles["constant"] == 0  # a single image says nothing about spread


def test_what_routes_and_filter_sets_draw():
    """Four images of route (1, 0), two of (0, 2), in no order."""
    routes = [[1, 0], [0, 2], [1, 0], [1, 0], [0, 2], [1, 0]]
    labels = np.array([3, 9, 3, 7, 9, 3])
    probabilities = np.full((6, 10), 0.02)
    probabilities[np.arange(6), labels] = 0.82
    probabilities[[1, 4]] = np.where(np.arange(10) == 9, 0.28, 0.08)
    first, second = mr.drawn_by_route(routes, probabilities)
    assert first.route == [0, 2] and second.route == [1, 0]
    assert first.shares == [0] * 9 + [1] and second.shares == [0, 0, 0, 0.75, 0, 0, 0, 0.25, 0, 0]
    assert (first.confidence, second.confidence) == (pytest.approx(0.28), pytest.approx(0.82))
    assert first.dead and not second.dead
    assert mr.drawn_by_set(labels, routes, 1) == {0: second.shares, 2: first.shares}
    same = np.zeros((6, 1, 2, 2))  # images all alike: dead, however sure the classifier is
    assert [d.dead for d in mr.drawn_by_route(routes, probabilities, same)] == [True, True]


def test_specialised_classes(rng):
    plain = rng.integers(0, 10, 1000)
    routes = np.repeat(np.arange(10), 100)
    assert mr.specialised_classes(plain, routes) == {"per_route": 0, "routes_share": 0}
    some = plain.copy()
    some[:100] = 4
    some[100:200] = np.repeat([1, 2], 50)
    got = mr.specialised_classes(some, routes)
    assert got == {"per_route": pytest.approx(0.3), "routes_share": pytest.approx(0.2)}
    prior = np.bincount(
        [4] * 40 + list(range(10)) * 6, minlength=10
    )  # 46 %: making only 4 is then no speciality
    assert mr.specialised_classes(some, routes, prior)["per_route"] < 0.3


def test_per_layer_effect(rng):
    routes = rng.integers(0, 4, (200, 3))
    changed = mr.change_one_layer(routes, 1, 4, rng)
    assert (changed[:, 1] != routes[:, 1]).all() and changed.min() >= 0 and changed.max() <= 3
    assert np.array_equal(changed[:, [0, 2]], routes[:, [0, 2]])
    features = rng.standard_normal((200, 4))
    step = np.array([3.0, 4.0, 0, 0])
    assert mr.per_layer_effect(features, [features, features + step]) == pytest.approx([0, 5])


# ---- Training logs ----


def test_immediate_collapse_rules():
    steps = [0, 100, 500, 600]
    nan = math.nan
    assert mt.immediate_collapse(steps, entropy=[0, 1, 2, 0], d_loss=[1, 1, 1, 30]) == []
    assert len(mt.immediate_collapse(steps, entropy=[2, 2, 0.4, 2])) == 1
    assert mt.immediate_collapse(steps, entropy=[0, 2, nan, 0]) == []  # not measured at 500: step 100 counts
    assert len(mt.immediate_collapse(steps, entropy=[0, 0.1, nan, 2])) == 1
    assert "tenth" in mt.immediate_collapse(steps, pixel_std=[0, 0, 0.02, 1], data_pixel_std=0.23)[0]
    assert mt.immediate_collapse(steps, pixel_std=[0, 0, 0.03, 0], data_pixel_std=0.23) == []
    assert mt.immediate_collapse(steps, g_loss=[1, 1, 24.9, 1]) == ["G loss 24.9 is saturated"]
    assert mt.immediate_collapse(steps, g_loss=[1, 1, 24.8, 1]) == []
    assert len(mt.immediate_collapse(steps, d_loss=[1, 1, nan, nan], logit_gap=[0, 0, -21, 0])) == 2


def test_hard_collapse_needs_to_last():
    steps = np.arange(0, 2000, 100)
    d_loss, gradient = np.full(20, 0.5), np.full(20, 0.1)
    assert mt.hard_collapse(steps, d_loss, gradient) is None
    d_loss[10:], gradient[10:] = 1e-5, 1e-9
    assert mt.hard_collapse(steps, d_loss, gradient) == 1000
    assert mt.hard_collapse(steps, d_loss, np.full(20, 0.1)) is None  # logits: D wins, G still learns
    gradient[15] = 0.1
    assert mt.hard_collapse(steps, d_loss, gradient) is None  # recovered, then only 300 steps


def test_survival_counts_from_the_first_success():
    steps = [0, 1, 2, 3, 4, 5]
    assert mt.survival(steps, [1, 8, 10, 7, 9, 9]) == {"reached": 1, "lost_first": 3, "lost_for_good": None}
    assert mt.survival(steps, [1, 8, 7, 8, 2, 1]) == {"reached": 1, "lost_first": 2, "lost_for_good": 4}
    assert mt.survival(steps, [1] * 6) == {"reached": None, "lost_first": None, "lost_for_good": None}


def test_loss_volatility():
    assert mt.loss_volatility(np.tile([1.0, 3.0], 100), window=50) == 1
    assert mt.loss_volatility(np.repeat([0.0, 9.0], 50), window=50) == 0  # a jump between windows is drift


# ---- Bad input: one line that says what to do ----

GOOD = np.random.default_rng(0).random((6, 4))


@pytest.mark.parametrize(
    "call",
    [
        lambda: m.class_histogram([0, 1, 10]),
        lambda: m.class_histogram([0, -1]),
        lambda: m.class_histogram([0.0, 1.0]),
        lambda: m.class_histogram(np.zeros(0, int)),
        lambda: m.label_kl([0, 0]),
        lambda: m.label_kl([1, -1]),
        lambda: m.label_kl([1, 1], [1, 1, 1]),
        lambda: m.label_kl([math.nan, 1]),
        lambda: m.js_divergence([1, 1], [1, 1, 1]),
        lambda: m.label_kl_floor(0),
        lambda: m.mean_confidence([[3.0, -1.0]]),
        lambda: m.mean_confidence([[0.5, 0.2]]),
        lambda: m.mean_confidence([0.5, 0.5]),
        lambda: m.frechet_distance(GOOD[:1], GOOD),
        lambda: m.frechet_distance(GOOD, GOOD[:, :3]),
        lambda: m.frechet_from_statistics(np.zeros(2), np.full((2, 2), math.nan), np.zeros(2), np.eye(2)),
        lambda: m.prdc(GOOD[:5], GOOD),
        lambda: m.prdc(GOOD, GOOD[:3]),
        lambda: m.prdc(GOOD, GOOD, k=0),
        lambda: m.prdc(GOOD, GOOD[:, :2], k=2),
        lambda: m.prdc(GOOD * math.inf, GOOD, k=2),
        lambda: m.prdc(GOOD.astype(complex), GOOD, k=2),
        lambda: m.kmeans(GOOD, 7),
        lambda: m.kmeans(GOOD, 0),
        lambda: m.kmeans(np.ones((9, 2)), 2),
        lambda: m.ndb(m.Bins(GOOD, np.ones(6)), GOOD[:, :2]),
        lambda: m.copy_check(GOOD, GOOD, GOOD[:, :3]),
        lambda: m.pairwise_spread(GOOD[:1], GOOD),
        lambda: mr.route_information([0, 1], [[0], [1], [2]]),
        lambda: mr.route_information([0, 1], [0.0, 1.0]),
        lambda: mr.eta_squared(GOOD, [0, 1]),
        lambda: mr.dead_routes([0, 0], [[0.5, 0.5]] * 2, GOOD),
        lambda: mr.specialised_classes([0, 1], [0, 1]),
        lambda: mr.specialised_classes([0] * 30, [0] * 30, [0.5, 0.5]),
        lambda: mr.change_one_layer(np.zeros((2, 2), int), 0, 1, np.random.default_rng(0)),
        lambda: mr.per_layer_effect(GOOD, [GOOD[:3]]),
        lambda: mt.immediate_collapse([600], entropy=[0]),
        lambda: mt.immediate_collapse([0, 1], entropy=[0]),
        lambda: mt.immediate_collapse([0], pixel_std=[0]),
        lambda: mt.hard_collapse([0, 1], [0], [0, 1]),
        lambda: mt.survival([], []),
        lambda: mt.loss_volatility([1, 2, 3], window=4),
    ],
)
def test_bad_input_is_answered_in_one_line(call):
    with pytest.raises(TinyganError) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 20


def test_no_measure_changes_its_input(rng):
    real, fake = rng.standard_normal((2, 50, 4)).astype(np.float32)
    for x in (real, fake):
        x.setflags(write=False)
    m.prdc(real, fake)
    m.frechet_distance(real, fake)
    m.ndb(m.make_bins(real, 5), fake)
    m.copy_check(fake, fake, real)
    mr.eta_squared(real, np.arange(50) % 5)
