"""Measures of generated images: quality, variety, and mode collapse.

Mode collapse appears in different places, so no single number suffices:

* in the labels and probabilities of a classifier: is every class generated, and is each image clearly of one class;
* in feature space: Fréchet distance, and precision / recall / density / coverage;
* in the pixels: bins of training images (NDB), distances between samples, near-duplicates, copies.

Every measure of a finite sample has a value that perfect samples would reach; it is given by a formula here,
or by running the same function on real images against real images. Report a figure beside that
value and its N. Measures of the routes are in routes.py, those of a training log in log.py.

All are pure functions on NumPy arrays. Shapes: features (N, F), or images of any shape (N, ...), which are
flattened; labels (N,) integers; probabilities (N, classes). Divergences and entropies are in nats.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tinygan.errors import TinyganError
from tinygan.metrics.checks import as_labels, as_matrix, as_probabilities, as_shares, check_least, same_features

# ---- Labels: which classes appear ----


def class_histogram(labels: ArrayLike, *, classes: int = 10) -> np.ndarray:
    """Count the samples of each class: (classes,) int64. `labels` (N,) are integers in [0, classes).

    Raises TinyganError for other labels, or none.
    """
    return np.bincount(as_labels("labels", labels, classes), minlength=classes)


def classes_covered(histogram: ArrayLike, *, share: float = 0.01) -> int:
    """Count the classes that hold at least `share` of the samples (1 %: 10 of 1,000; our choice).

    histogram: counts or shares (classes,). Raises TinyganError for negative ones, or zeros alone.
    """
    return int(np.count_nonzero(as_shares("the histogram", histogram) >= share))


def label_kl(histogram: ArrayLike, reference: ArrayLike | None = None) -> float:
    """Compute KL(generated || reference) in nats, of class counts or shares (classes,); `reference` None: uniform.

    One class alone gives ln(classes) against uniform: 2.303 for ten digits. Infinite when a generated class
    is absent from the reference. Even perfect samples do not reach 0: see label_kl_floor. Raises TinyganError
    for negative counts, zeros alone, or different numbers of classes.
    """
    p = as_shares("the histogram", histogram)
    q = as_shares("the reference histogram", np.ones(p.size) if reference is None else reference)
    if p.shape != q.shape:
        raise TinyganError(
            f"the histogram has {p.size} classes but the reference has {q.size}; compare the same classes"
        )
    return _kl(p, q)


def label_kl_floor(samples: int, *, classes: int = 10) -> float:
    """Compute the mean label_kl, in nats, of N = `samples` perfect draws: (classes - 1) / (2 N), to first order.

    2 N KL is chi-squared with classes - 1 degrees of freedom (Wilks 1938). Raises TinyganError for N < 1.
    """
    return (classes - 1) / (2 * check_least("the number of samples", samples, 1))


def label_entropy(histogram: ArrayLike) -> float:
    """Compute the entropy of the class shares in nats: 0 for one class, ln(classes) when all are equal.

    histogram: counts or shares (classes,). Raises TinyganError for negative ones, or zeros alone.
    """
    p = as_shares("the histogram", histogram)
    p = p[p > 0]
    return max(0.0, float(-(p * np.log(p)).sum()))


def js_divergence(histogram_a: ArrayLike, histogram_b: ArrayLike) -> float:
    """Compute the Jensen-Shannon divergence in nats, in [0, ln 2]: symmetric, finite for any two histograms (Lin 1991).

    Both are counts or shares (bins,). Raises TinyganError for negative ones, zeros alone, or different numbers of bins.
    """
    p, q = as_shares("the first histogram", histogram_a), as_shares("the second histogram", histogram_b)
    if p.shape != q.shape:
        raise TinyganError(f"the histograms have {p.size} and {q.size} bins; compare the same bins")
    middle = 0.5 * (p + q)
    return 0.5 * (_kl(p, middle) + _kl(q, middle))


# ---- Probabilities: is each image clearly of one class ----


def mean_confidence(probabilities: ArrayLike) -> float:
    """Compute the mean over samples of the largest class probability, from the softmax (N, classes).

    Raises TinyganError for rows that do not sum to 1.
    """
    return float(as_probabilities(probabilities).max(axis=1).mean())


def share_confident(probabilities: ArrayLike, *, threshold: float = 0.9) -> float:
    """Compute the share of samples, in [0, 1], whose largest class probability exceeds `threshold` (0.9 is our choice).

    probabilities: the softmax (N, classes). Raises TinyganError for rows that do not sum to 1.
    """
    return float((as_probabilities(probabilities).max(axis=1) > threshold).mean())


def classifier_score(probabilities: ArrayLike) -> float:
    """Compute exp of the mean KL(p(y|x) || p(y)), in [1, classes]: the inception score (Salimans et al. 2016).

    probabilities: the softmax (N, classes). The classifier is ours, not Inception, so the value compares runs of this
    project only. Raises TinyganError for rows that do not sum to 1.
    """
    p = as_probabilities(probabilities)
    p = p / p.sum(axis=1, keepdims=True)
    marginal = p.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / marginal), 0.0)
    return float(np.exp(terms.sum(axis=1).mean()))


# ---- Features: the Fréchet distance ----


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Compute the squared Fréchet distance of the Gaussians fitted to two feature sets (Heusel et al. 2017, eq. 6).

    Fitted to finite samples it is biased upwards, so give both sets the same N, and put the real-against-real
    value beside it. features: (N, F) and (M, F), N and M >= 2; the result has their
    unit squared. Features of different classifiers give values that cannot be compared. Raises TinyganError for fewer
    samples, different F, NaN or infinity.
    """
    return frechet_from_statistics(*feature_statistics(features_a), *feature_statistics(features_b))


def feature_statistics(features: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean (F,) and unbiased covariance (F, F) of features (N, F), N >= 2, in float64.

    Raises TinyganError for fewer samples, NaN or infinity.
    """
    x = as_matrix("features", features, at_least=2)
    mean = x.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), 4096):
        centred = x[start : start + 4096] - mean
        covariance += centred.T @ centred
    return mean, covariance / (len(x) - 1)


def frechet_from_statistics(
    mean_a: ArrayLike, covariance_a: ArrayLike, mean_b: ArrayLike, covariance_b: ArrayLike
) -> float:
    """Compute |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), for means (F,) and covariances A, B (F, F).

    With A = R R^T and B = S S^T from two symmetric eigendecompositions, the trace of that root is the sum of
    the singular values of R^T S. Nothing is inverted and no root of a non-symmetric matrix is taken, so
    covariances without full rank (fewer samples than features, features that never fire, a collapsed
    generator) need no small number on the diagonal. The result has the features' unit squared. Raises TinyganError for
    shapes that do not fit, NaN or infinity.
    """
    mean_a, mean_b = np.asarray(mean_a, np.float64), np.asarray(mean_b, np.float64)
    covariance_a, covariance_b = np.asarray(covariance_a, np.float64), np.asarray(covariance_b, np.float64)
    square = (mean_a.size, mean_a.size)
    shapes = [mean_a.shape, mean_b.shape, covariance_a.shape, covariance_b.shape]
    if mean_a.ndim != 1 or shapes != [mean_a.shape, mean_a.shape, square, square]:
        raise TinyganError(f"means and covariances of shapes {shapes} do not belong to the same features")
    root_trace = np.linalg.svd(_factor(covariance_a).T @ _factor(covariance_b), compute_uv=False).sum()
    spread = np.trace(covariance_a) + np.trace(covariance_b) - 2 * root_trace
    return max(0.0, float(((mean_a - mean_b) ** 2).sum() + spread))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return R (F, rank) with R R^T = covariance; eigenvalues that rounding alone could have made are dropped."""
    if not np.isfinite(covariance).all():
        raise TinyganError("a covariance holds NaN or infinity; check the features it was made from")
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    keep = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, keep] * np.sqrt(values[keep])


# ---- Features: the kernel distance ----


def kernel_distance(features_a: ArrayLike, features_b: ArrayLike, *, subsets: int = 100, size: int = 1000,
                    seed: int = 0) -> dict[str, float]:
    """Compute the kernel distance of two feature sets, (N, F) and (M, F), N and M >= 2 (KID, Binkowski et al. 2018).

    It is the unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) with the kernel
    (x.y / F + 1)^3, of `size` rows that are drawn from each set without replacement; `subsets` times. Its expectation
    is 0 for samples of one distribution whatever N, so that it can be below 0, where the Fréchet distance grows as N
    shrinks. Returns `mean` and `std` over the subsets, and `size`, which is less than asked for where a set has fewer
    rows. Subsets overlap, so std shrinks to 0 as they become whole sets: take a size of at most half a set to have one
    that says something. It has the unit of the features to the sixth power. Raises TinyganError for fewer rows,
    different F, NaN or infinity, subsets < 1 or size < 2.
    """
    check_least("the number of subsets", subsets, 1)
    a, b = same_features("the first features", features_a, "the second features", features_b, at_least=2)
    size = min(check_least("the rows of a subset", size, 2), len(a), len(b))
    random = np.random.default_rng(seed)
    values = [_squared_discrepancy(*(x[random.choice(len(x), size, replace=False)].astype(np.float64) for x in (a, b)))
              for _ in range(subsets)]
    return {"mean": float(np.mean(values)), "std": float(np.std(values)), "size": size}


def _squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """Estimate the squared maximum mean discrepancy of x and y, both (n, F): no row is paired with itself."""
    n = len(x)
    within_x, within_y, across = (_cubic_kernel(left, right) for left, right in ((x, x), (y, y), (x, y)))
    pairs = within_x.sum() - np.trace(within_x) + within_y.sum() - np.trace(within_y)
    return float(pairs / (n * (n - 1)) - 2 * across.mean())


def _cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute (x.y / F + 1)^3 of all rows: (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


# ---- Features: precision, recall, density, coverage ----


def prdc(real: ArrayLike, fake: ArrayLike, *, k: int = 5) -> dict[str, float]:
    """Compute precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    real: (N, F), fake: (M, F), features. Both pairs count the points that lie in balls around others, which reach to
    the k-th nearest neighbour.
    With r_i the distance of real i to its k-th nearest other real, and s_j the same among the fakes:

        precision  share of fakes inside at least one real ball           d(fake_j, real_i) < r_i for some i
        recall     share of reals inside at least one fake ball           d(real_i, fake_j) < s_j for some j
        density    mean number of real balls that a fake is in, over k; may exceed 1
        coverage   share of real balls that hold at least one fake

    Equal distributions give an expected density of 1 and coverage of about 1 - 2^-k. Raises TinyganError unless both
    sets have more than k rows of one F.
    """
    needed = check_least("k", k, 1) + 1
    real, fake = same_features("real features", real, "fake features", fake, at_least=needed)
    real_radius, fake_radius = _ball_radii(real, k), _ball_radii(fake, k)
    fake_inside = np.zeros(len(fake), bool)
    balls_filled = balls_held = reals_inside = 0
    for rows, squared in _distance_blocks(real, fake):
        in_real_ball = squared < real_radius[rows, None]
        fake_inside |= in_real_ball.any(axis=0)
        balls_filled += np.count_nonzero(in_real_ball.any(axis=1))
        balls_held += np.count_nonzero(in_real_ball)
        reals_inside += np.count_nonzero((squared < fake_radius).any(axis=1))
    return {
        "precision": float(fake_inside.mean()),
        "recall": float(reals_inside / len(real)),
        "density": float(balls_held / (k * len(fake))),
        "coverage": float(balls_filled / len(real)),
    }


def _ball_radii(points: np.ndarray, k: int) -> np.ndarray:
    """Compute the squared distance of each point to its k-th nearest other point."""
    radii = np.empty(len(points), points.dtype)
    for rows, squared in _distance_blocks(points, points):
        here = np.arange(rows.start, rows.stop)
        squared[here - rows.start, here] = np.inf
        radii[rows] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return radii


# ---- Pixels: bins of training images (NDB) ----


class Bins(NamedTuple):
    """Clusters of training images: centres (K, F), and the number of training images in each, (K,)."""

    centres: np.ndarray
    counts: np.ndarray


def make_bins(train: ArrayLike, bins: int = 100, *, iterations: int = 40, seed: int = 0) -> Bins:
    """Cluster the training images, (N, ...), for `ndb`, by `kmeans`: made once for all generators to be compared.

    Raises TinyganError for fewer distinct images than bins.
    """
    centres, assigned = kmeans(train, bins, iterations=iterations, seed=seed)
    return Bins(centres, np.bincount(assigned, minlength=bins))


def ndb(bins: Bins, query: ArrayLike, *, threshold: float = 3.0) -> dict[str, float]:
    """Count the statistically different bins (Richardson & Weiss 2018), and the JS divergence of the shares.

    query: images (N, ...) with the F values of a centre each. Each goes to its nearest centre; a bin differs when the
    two-proportion z-test of its shares among the training images and among the query exceeds `threshold` standard
    errors (3 in the read-me of the authors' code, 4 in its demo). By chance alone 3 standard errors flag 0.27 % of the
    bins.

    Returns ndb (count), ndb_share (NDB/K), js (nats), and js_floor: the mean js of perfect samples, to first
    order (K - 1) (1/N_train + 1/N_query) / 8. Raises TinyganError for images of another size.
    """
    x, centres = same_features("query images", query, "bin centres", bins.centres)
    counts = np.bincount(nearest(x, centres)[0], minlength=len(centres))
    n_train, n_query = int(bins.counts.sum()), len(x)
    pooled = (bins.counts + counts) / (n_train + n_query)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n_train + 1 / n_query))
    gap = np.abs(bins.counts / n_train - counts / n_query)
    different = int(np.count_nonzero(gap > threshold * error))
    return {
        "ndb": different,
        "ndb_share": different / len(centres),
        "js": js_divergence(bins.counts, counts),
        "js_floor": (len(centres) - 1) * (1 / n_train + 1 / n_query) / 8,
    }


def kmeans(
    points: ArrayLike, clusters: int, *, iterations: int = 40, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster points by Lloyd's k-means from a k-means++ start (Arthur & Vassilvitskii 2007).

    points: (N, F). Returns the centres (K, F) and the cluster of each point (N,). Stops when no point changes its
    cluster, or after `iterations`. A cluster that runs empty restarts at the point that lies farthest from its centre
    (our choice). Same points, same seed: same clusters. Raises TinyganError when there are fewer distinct points than
    clusters.
    """
    x = as_matrix("points", points, at_least=check_least("the number of clusters", clusters, 1))
    centres = _spread_start(x, clusters, np.random.default_rng(seed))
    assigned, distances = nearest(x, centres)
    for _ in range(iterations):
        order, counts = np.argsort(assigned, kind="stable"), np.bincount(assigned, minlength=clusters)
        groups = np.split(order, np.cumsum(counts)[:-1])
        farthest = iter(np.argsort(-distances, kind="stable"))
        for cluster, members in enumerate(groups):
            held = x[members] if len(members) else x[[next(farthest)]]
            centres[cluster] = held.mean(axis=0, dtype=np.float64)
        before = assigned
        assigned, distances = nearest(x, centres)
        if np.array_equal(assigned, before):
            break
    return centres, assigned


def _spread_start(x: np.ndarray, clusters: int, random: np.random.Generator) -> np.ndarray:
    """Choose centres by k-means++: each next one is a point, likelier the farther it lies from those so far."""
    centres = np.empty((clusters, x.shape[1]), x.dtype)
    centres[0] = x[random.integers(len(x))]
    squared = np.full(len(x), np.inf)
    for cluster in range(1, clusters):
        for rows, block in _distance_blocks(x, centres[cluster - 1 : cluster]):
            squared[rows] = np.minimum(squared[rows], block[:, 0])
        total = squared.sum()
        if total == 0:
            raise TinyganError(
                f"only {cluster} distinct points for {clusters} clusters; take fewer clusters"
            )
        centres[cluster] = x[random.choice(len(x), p=squared / total)]
    return centres


# ---- Pixels: copies, spread, near-duplicates ----


def copy_check(fake: ArrayLike, test: ArrayLike, train: ArrayLike) -> dict[str, float]:
    """Compute the L2 distances to the nearest training image of fakes and of test images: small ones are copies.

    All three are images (N, ...) of one size, in one unit, that of the distances. Returns `fake` and `test`, the mean
    distances, their `ratio`, and `nearest_fake`, the smallest one. A ratio near 1 is what new images of the same kind
    give. Well below 1 means copies, or images simpler than real ones (blurred, collapsed onto a common shape): the
    pairs show which. The comparison with test images is our choice. Raises TinyganError for images of different sizes.
    """
    fake, train_like_fake = same_features("fake images", fake, "training images", train)
    test, train_like_test = same_features("test images", test, "training images", train)
    of_fake, of_test = nearest(fake, train_like_fake)[1], nearest(test, train_like_test)[1]
    fake_mean, test_mean = float(of_fake.mean(dtype=np.float64)), float(of_test.mean(dtype=np.float64))
    return {
        "fake": fake_mean,
        "test": test_mean,
        "ratio": _ratio(fake_mean, test_mean),
        "nearest_fake": float(of_fake.min()),
    }


def pairwise_spread(
    fake: ArrayLike, real: ArrayLike, *, pairs: int = 50_000, seed: int = 0
) -> dict[str, float]:
    """Compute how far apart two random fakes are, divided by the same for two random reals (mean L2 distances).

    fake, real: images (N, ...), two or more of one size. A ratio well below 1 means that samples resemble each other.
    `wasserstein` is the 1-D Wasserstein distance between the two sets of pair distances: it also detects a mass of
    small distances that leaves the mean in place. Distances are of `pairs` random pairs, computed by subtraction.
    Returns `fake`, `real` and `wasserstein` in the units of the images, and `ratio`. Our choice. Raises TinyganError
    for fewer images, or of different sizes.
    """
    fake, real = same_features("fake images", fake, "real images", real, at_least=2)
    of_fake, of_real = (np.sort(_pair_distances(x, pairs, np.random.default_rng(seed))) for x in (fake, real))
    fake_mean, real_mean = float(of_fake.mean()), float(of_real.mean())
    wasserstein = float(np.abs(of_fake - of_real).mean())
    return {
        "fake": fake_mean,
        "real": real_mean,
        "ratio": _ratio(fake_mean, real_mean),
        "wasserstein": wasserstein,
    }


def pixel_std(images: ArrayLike) -> float:
    """Compute how much samples (N, ...) differ, in their units; 0: all are equal.

    The root of the variance over samples, averaged over pixels. Raises TinyganError for NaN or infinity.
    """
    x = as_matrix("images", images)
    return float(np.sqrt(x.var(axis=0, dtype=np.float64).mean()))


def _pair_distances(x: np.ndarray, pairs: int, random: np.random.Generator) -> np.ndarray:
    """Compute the L2 distances (pairs,) of random pairs of different rows."""
    first = random.integers(len(x), size=pairs)
    second = (first + random.integers(1, len(x), size=pairs)) % len(x)  # never the same sample twice
    distances = np.empty(pairs)
    for start in range(0, pairs, 2048):
        part = slice(start, start + 2048)
        distances[part] = np.linalg.norm(x[first[part]] - x[second[part]], axis=1)
    return distances


# ---- Distances, chunked ----


def nearest(rows: ArrayLike, columns: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of `columns` (M, F) to each of `rows` (N, F): (index, L2 distance), each (N,).

    Raises TinyganError for different F. The distance is taken again by subtraction, so that an exact copy gives exactly
    0.
    """
    rows, columns = same_features("rows", rows, "columns", columns)
    index = np.empty(len(rows), np.int64)
    distance = np.empty(len(rows), rows.dtype)
    for part, squared in _distance_blocks(rows, columns):
        index[part] = squared.argmin(axis=1)
        distance[part] = np.linalg.norm(rows[part] - columns[index[part]], axis=1)
    return index, distance


def _distance_blocks(
    rows: np.ndarray, columns: np.ndarray, *, elements: int = 1 << 21
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of rows, their squared distances to every column); the next block overwrites the array.

    |a|^2 - 2 a.b + |b|^2 by matrix products, in the precision of the inputs. That form loses small distances
    between points far from the origin, so both sides are first moved by the columns' mean, and what is below
    the rounding error of the sum (some units of the last place of |a|^2) becomes exactly 0. Relative to |a|
    that leaves distances under about 0.002 in float32 and 1e-7 in float64 unresolved; a neighbour's distance
    is of the order of |a| in all uses here.
    """
    centre = columns.mean(axis=0, dtype=np.float64).astype(columns.dtype)
    columns = columns - centre
    column_norms = np.einsum("nf,nf->n", columns, columns)
    step = min(4096, max(128, elements // len(columns)))
    buffer = np.empty((min(step, len(rows)), len(columns)), columns.dtype)
    for start in range(0, len(rows), step):
        part = rows[start : start + step] - centre
        norms = np.einsum("nf,nf->n", part, part)
        squared = np.matmul(part * -2, columns.T, out=buffer[: len(part)])
        squared += column_norms
        squared += norms[:, None]
        rounding = norms * (32 * float(np.finfo(columns.dtype).eps))
        squared[squared <= rounding[:, None]] = 0
        yield slice(start, start + len(part)), squared


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    """Compute KL(p || q) of shares in nats; infinite where q lacks what p holds."""
    held = p > 0
    if (q[held] == 0).any():
        return math.inf
    return max(0.0, float((p[held] * np.log(p[held] / q[held])).sum()))


def _ratio(value: float, reference: float) -> float:
    """Divide by a reference; NaN where that is 0."""
    return value / reference if reference > 0 else math.nan
