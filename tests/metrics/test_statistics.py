"""The statistics over seeds: values worked out by hand or published, and slow definitions written out here."""

import itertools
import math
import statistics as stdlib

import numpy as np
import pytest

from tinygan.errors import TinyganError
from tinygan.metrics import statistics as st

# ---- rates ----


def test_clopper_pearson_at_none_and_all():
    # none of 20: the chance of that, (1 - p)^20, is 0.025 at p = 1 - 0.025^(1/20) = 0.1684; all of 20 is its mirror
    assert st.clopper_pearson(0, 20) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20), abs=1e-12))
    assert st.clopper_pearson(20, 20) == (pytest.approx(0.025 ** (1 / 20), abs=1e-12), 1.0)
    assert st.clopper_pearson(0, 20)[1] == pytest.approx(0.1684, abs=5e-5)
    assert st.clopper_pearson(0, 1, level=0.9) == (0.0, pytest.approx(0.95, abs=1e-12))  # (1 - p)^1 = 0.05


@pytest.mark.parametrize("successes, trials, level", [(6, 20, 0.95), (1, 10, 0.9), (9, 10, 0.99), (400, 1000, 0.95)])
def test_at_the_ends_of_clopper_pearson_the_tails_have_their_chance(successes, trials, level):
    def chance(counts, p):
        return sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in counts)

    low, high = st.clopper_pearson(successes, trials, level=level)
    assert chance(range(successes, trials + 1), low) == pytest.approx((1 - level) / 2, rel=1e-9)
    assert chance(range(successes + 1), high) == pytest.approx((1 - level) / 2, rel=1e-9)


def test_clopper_pearson_of_six_of_twenty():
    low, high = st.clopper_pearson(6, 20)
    assert (low, high) == (pytest.approx(0.1189, abs=5e-5), pytest.approx(0.5428, abs=5e-5))
    assert abs(low - (0.3 - 1.96 * math.sqrt(0.3 * 0.7 / 20))) > 0.015  # the normal approximation begins at 0.099


@pytest.mark.parametrize(
    "table, ways, p",
    [
        # Fisher's tea: C(4, x) C(4, 4 - x) = 1, 16, 36, 16, 1 of 70; not above 16 are 1 + 16 + 16 + 1
        ((3, 4, 1, 4), 34 / 70, 0.4857),
        # C(20, x) C(20, 6 - x) grows up to x = 3: only x = 0 and x = 6 are as rare as none against six
        ((0, 20, 6, 20), 2 * math.comb(20, 6) / math.comb(40, 6), 0.0202),
        ((0, 20, 5, 20), 2 * math.comb(20, 5) / math.comb(40, 5), 0.0471),
        ((0, 20, 4, 20), 2 * math.comb(20, 4) / math.comb(40, 4), 0.1060),
        # x = 12 to 16, and their mirrors x = 0 to 4
        ((12, 20, 4, 20), 2 * sum(math.comb(20, x) * math.comb(20, 16 - x) for x in range(12, 17)) / math.comb(40, 16),
         0.0225),
        # unequal groups: C(2, x) C(3, 3 - x) = 1, 6, 3 of 10, so the other side adds nothing here
        ((0, 2, 3, 3), 1 / 10, 0.1),
        ((2, 2, 1, 3), 4 / 10, 0.4),
        ((0, 5, 0, 7), 1.0, 1.0),
        ((5, 5, 7, 7), 1.0, 1.0),
    ],
)
def test_fisher_exact(table, ways, p):
    a, n, b, m = table
    assert st.fisher_exact(a, n, b, m) == pytest.approx(ways, rel=1e-12) == pytest.approx(p, abs=5e-5)
    assert st.fisher_exact(b, m, a, n) == st.fisher_exact(n - a, n, m - b, m) == st.fisher_exact(a, n, b, m)


def test_neither_one_side_nor_twice_one_side_is_fishers_p():
    one_side = 17 / 70  # of the tea: 3 or 4 cups
    assert st.fisher_exact(3, 4, 1, 4) > one_side + 0.2
    assert st.fisher_exact(0, 2, 3, 3) < 2 * 1 / 10 - 0.05
    assert st.fisher_exact(2, 2, 1, 3) < 2 * 3 / 10 - 0.1


# ---- the bootstrap ----

SKEWED = [0.1, 0.7, 1.3, 2.9, 5.2, 13.7]


def slow_bca(statistic, samples, *, percentile=False):
    """BCa of every resample there is, and with each value really left out: no random numbers."""
    every = [list(itertools.product(sample, repeat=len(sample))) for sample in samples]
    resampled = sorted(statistic(*picked) for picked in itertools.product(*every))
    point = statistic(*samples)
    moves = []
    for place, sample in enumerate(samples):
        n = len(sample)
        for i in range(n):
            without = [*samples[:place], sample[:i] + sample[i + 1:], *samples[place + 1:]]
            moves.append((point - statistic(*without)) * (n - 1) / n)
    normal = stdlib.NormalDist()
    share = (sum(value < point - 1e-9 for value in resampled) + sum(value < point + 1e-9 for value in resampled)) / 2
    z0 = normal.inv_cdf(share / len(resampled))
    acceleration = sum(move**3 for move in moves) / (6 * sum(move**2 for move in moves) ** 1.5)
    if percentile:
        z0 = acceleration = 0.0
    ends = []
    for tail in (0.025, 0.975):
        z = z0 + normal.inv_cdf(tail)
        ends.append(np.quantile(resampled, normal.cdf(z0 + z / (1 - acceleration * z))))
    return ends


def difference(a, b):
    return sum(a) / len(a) - sum(b) / len(b)


def test_bca_is_that_of_every_resample():
    # 6^6 = 46,656 resamples; of 200,000 random ones the ends' standard error is about 0.01
    found = st.bca_interval(SKEWED, resamples=200_000)
    assert found == pytest.approx(slow_bca(stdlib.fmean, [SKEWED]), abs=0.05)
    low, high = slow_bca(stdlib.fmean, [SKEWED], percentile=True)
    assert found[0] > low + 0.2 and found[1] > high + 0.5  # a skewed sample moves both ends up


def test_bca_of_a_difference_is_that_of_every_pair_of_resamples():
    a, b = [0.1, 0.7, 5.2, 13.7], [2.1, 2.9, 11.4]  # 4^4 x 3^3 = 6,912 pairs
    found = st.bca_interval(a, b, resamples=200_000)
    assert found == pytest.approx(slow_bca(difference, [a, b]), abs=0.05)
    assert abs(np.subtract(found, slow_bca(difference, [a, b], percentile=True))).max() > 0.2


def test_bca_of_a_symmetric_sample_is_the_percentile_interval():
    # no bias and no skewness; zeros and ones tie with the mean of 0.5 in C(10, 5) / 2^10 = 25 % of resamples, and would
    # be biased if those counted as above it. The share of ones is binomial(10, 0.5) / 10, with 1.1 % at most at 0.1 and
    # 5.5 % at most at 0.2
    assert st.bca_interval([0] * 5 + [1] * 5) == pytest.approx((0.2, 0.8))
    symmetric = [-3.1, -1.2, -0.4, 0.0, 0.4, 1.2, 3.1]
    resampled = np.random.default_rng(5).choice(symmetric, (200_000, 7)).mean(axis=1)
    for level in (0.8, 0.95):
        percentiles = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
        assert st.bca_interval(symmetric, level=level, resamples=100_000) == pytest.approx(percentiles, abs=0.03)


def test_bca_covers_the_mean_of_a_normal_distribution():
    rng = np.random.default_rng(3)
    covered = 0
    for i in range(500):
        low, high = st.bca_interval(rng.normal(7, 2, 20), resamples=1000, seed=i)
        covered += low <= 7 <= high
    # 0.925 for 20 values, measured on 2,000 samples; of 500 the standard error is 0.012, and three of them are allowed
    assert 0.89 < covered / 500 < 0.96


def test_bca_without_spread_is_the_point():
    assert st.bca_interval([4, 4, 4]) == (4, 4) == st.bca_interval([4])
    assert st.bca_interval([25] * 20, [11] * 3) == (14, 14)
    low, high = st.bca_interval([25] * 20, [10, 11, 12])
    assert 13 <= low < 14 < high <= 15


def test_bca_has_an_end_where_no_resample_is_below_the_mean():
    one_sided = 0
    for seed in range(50):  # 4 resamples fall on one side of the mean in about an eighth of the seeds
        low, high = st.bca_interval(SKEWED, level=0.5, resamples=4, seed=seed)
        assert min(SKEWED) <= low <= high <= max(SKEWED)
        one_sided += not low <= np.mean(SKEWED) <= high
    assert one_sided > 0
    assert st.bca_interval(SKEWED, seed=1) == st.bca_interval(SKEWED, seed=1) != st.bca_interval(SKEWED, seed=2)


# ---- permutation ----


@pytest.mark.parametrize("unit", [1, 0.1, 1 / 3, 1e6 / 7])
@pytest.mark.parametrize("most", [200_000, 0])
def test_a_permutation_test_small_enough_to_list(unit, most):
    # sums of three of 1 ... 6 are 6 to 15; 6 (1 + 2 + 3) and 15 are the furthest from 10.5: 2 of C(6, 3) = 20.
    # 1, 2, 4 against 3, 5, 6: sums 6, 7, 14 and 15: 4 of 20. With one side it would be half of each.
    for a, b, p in (((1, 2, 3), (4, 5, 6), 0.1), ((6, 4, 5), (3, 2, 1), 0.1), ((4, 1, 2), (5, 3, 6), 0.2)):
        if most or unit == 1:
            assert st.permutation_test(np.multiply(a, unit), np.multiply(b, unit), most=most) == (
                pytest.approx(p, rel=1e-12), True)


def test_groups_of_different_size_are_compared_by_their_means():
    # one of 1, 2, 6 against the other two, means 6 - 1.5 = 4.5, 2 - 3.5 = -1.5, 1 - 4 = -3: only 6 is as far as 6
    for most in (200_000, 0):
        assert st.permutation_test([6], [1, 2], most=most)[0] == pytest.approx(1 / 3)
        assert st.permutation_test([1, 2], [6], most=most)[0] == pytest.approx(1 / 3)
        assert st.permutation_test([1], [2, 6], most=most)[0] == pytest.approx(2 / 3)


def test_sums_of_whole_numbers_count_as_the_splits_do(monkeypatch):
    rng = np.random.default_rng(0)
    for n, m in ((6, 7), (8, 5), (1, 9)):
        a, b = rng.integers(-5, 20, n), rng.integers(0, 25, m)
        every, summed = st.permutation_test(a, b), st.permutation_test(a, b, most=0)
        assert every == (pytest.approx(summed[0], rel=1e-12), True) and summed[1]
    monkeypatch.setattr(st, "MAX_CELLS", 20)
    assert st.permutation_test(a, b, most=0, draws=99)[1] is False  # a table too large


def test_twenty_against_twenty_is_exact_for_whole_numbers():
    # of zeros and ones a group's sum is its number of ones: Fisher's test
    for few, many in ((0, 6), (0, 5), (4, 12)):
        p, exact = st.permutation_test([1] * few + [0] * (20 - few), [0] * (20 - many) + [1] * many)
        assert exact and p == pytest.approx(st.fisher_exact(few, 20, many, 20), rel=1e-12)
    # the two most extreme of C(40, 20) = 137,846,528,820 splits
    assert st.permutation_test(range(20), range(20, 40))[0] == pytest.approx(2 / math.comb(40, 20), rel=1e-9)
    assert st.permutation_test([3] * 20, [3] * 20) == (pytest.approx(1), True)
    for ones in range(1, 20):  # equal groups: every split counts, and rounding may not make that more than 1
        group = [1] * ones + [0] * (20 - ones)
        assert 1 - 1e-12 < st.permutation_test(group, group)[0] <= 1


def test_ten_against_ten_tries_every_split():
    numbers = np.sqrt(np.arange(1, 21))
    p, exact = st.permutation_test(numbers[:10], numbers[10:])
    assert exact and p == 2 / 184_756
    assert st.permutation_test(numbers[:3], numbers[3:6], most=20) == (0.1, True)  # C(6, 3) = 20 are at most 20
    assert st.permutation_test(numbers[:3], numbers[3:6], most=19)[1] is False


def test_random_splits_come_near_to_every_split():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 8), rng.normal(0.8, 1, 8)
    exact, yes = st.permutation_test(a, b)
    near = [st.permutation_test(a, b, most=0, draws=25_000, seed=seed) for seed in range(6)]
    assert yes and not any(flag for _, flag in near) and len({p for p, _ in near}) > 1 and 0.02 < exact < 0.5
    standard_error = math.sqrt(exact * (1 - exact) / (6 * 25_000))
    assert np.mean([p for p, _ in near]) == pytest.approx(exact, abs=3 * standard_error)
    # none of 999 random splits is like the observed one of 20 against 20: the smallest p there is, not 0
    assert st.permutation_test(np.sqrt(range(20)), np.sqrt(range(20, 40)), draws=999) == (1 / 1000, False)


def test_hodges_lehmann():
    # 1, 5, 90 minus 0, 2: sorted -1, 1, 3, 5, 88, 90, the median 4; the means differ by 31
    assert st.hodges_lehmann([1, 5, 90], [0, 2]) == 4
    # 0, 4, 5 minus 0, 1, 6: sorted -6, -2, -1, -1, 0, 3, 4, 4, 5, the median 0; the medians differ by 3
    assert st.hodges_lehmann([0, 4, 5], [0, 1, 6]) == 0
    assert st.hodges_lehmann([0, 2], [1, 5, 90]) == -4


# ---- survival ----

# Remission of leukaemia in weeks, 6-MP against placebo (Freireich et al. 1963); a minus marks a censored time.
MERCAPTOPURINE = [6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16, -17, -19, -20, 22, 23, -25, -32, -32, -34, -35]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def arm(signed):
    return np.abs(signed), np.array(signed) > 0


def test_kaplan_meier_of_the_leukaemia_trial():
    times, events = arm(MERCAPTOPURINE)
    steps, survival = st.kaplan_meier(times[::-1], events[::-1])  # in any order
    assert steps.tolist() == [6, 7, 10, 13, 16, 22, 23]
    # at risk 21, 17, 15, 12, 11, 7, 6: S(6) = 18/21, S(7) = 18/21 x 16/17, and so on
    by_hand = np.cumprod([18 / 21, 16 / 17, 14 / 15, 11 / 12, 10 / 11, 6 / 7, 5 / 6])
    assert survival == pytest.approx(by_hand, rel=1e-12)
    assert survival == pytest.approx([0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], abs=6e-4)
    # the censored one of week 6 is at risk there: 17/20 without it
    assert survival[0] != pytest.approx(17 / 20, abs=1e-3)


def test_kaplan_meier_at_its_limits():
    steps, survival = st.kaplan_meier([3, 5, 5], [False, False, False])
    assert steps.shape == survival.shape == (0,)
    steps, survival = st.kaplan_meier([2, 1, 2, 3], [1, 1, 1, 1])  # without censoring the share that is left
    assert steps.tolist() == [1, 2, 3] and survival == pytest.approx([3 / 4, 1 / 4, 0])


def test_log_rank_statistic_of_the_leukaemia_trial():
    (times_a, events_a), (times_b, events_b) = arm(MERCAPTOPURINE), arm(PLACEBO)
    masks = np.zeros((2, 42))
    masks[0, :21] = masks[1, 21:] = 1
    statistics = st._log_rank_statistic(masks, np.r_[times_a, times_b], np.r_[events_a, events_b])
    assert statistics == pytest.approx([16.793, 16.793], abs=1e-3)  # published: 16.79
    # chi-squared of 16.79 with one degree of freedom: 4e-5; of 5,000 random splits at most a few reach it
    p = st.log_rank(times_a, events_a, times_b, events_b, draws=5000)
    assert 1 / 5001 <= p <= 3 / 5001


@pytest.mark.parametrize(
    "a, b, p",
    [
        # Events at 1, 2, 3, 4, with 4, 3, 2, 1 runs at risk. Runs (1, 2) as a: 2, 1, 0, 0 at risk, so expected
        # 2/4 + 1/3 = 5/6 and observed 2; variance 1/4 + 2/9 = 17/36; (7/6)^2 / (17/36) = 49/17, as for (3, 4).
        # (1, 3), (2, 4): 2, 1, 1, 0 at risk, expected 4/3, variance 1/4 + 2/9 + 1/4 = 13/18, (2/3)^2 / (13/18) = 8/13.
        # (1, 4), (2, 3): expected 7/3, the same variance, 2/13. As large as the observed are 2, 4 or 6 of 6.
        ([1, 2], [3, 4], 2 / 6),
        ([1, 3], [2, 4], 4 / 6),
        ([2, 3], [1, 4], 6 / 6),
        # Run 2 censored: events at 1, 3, 4 with 4, 2, 1 at risk. (1, 2): expected 2/4, observed 1, variance 1/4: 1, and
        # (3, 4) the same. (1, 3): expected 2/4 + 1/2, observed 2, variance 1/4 + 1/4: 2, and (2, 4) the same.
        # (1, 4): expected 2/4 + 1/2 + 1, observed 2: 0, and (2, 3) the same.
        ([1, -2], [3, 4], 4 / 6),
        ([1, 3], [-2, 4], 2 / 6),
        ([1, 4], [-2, 3], 6 / 6),
        # Both events at 1, of four at risk: with one in each group 0, else (2 - 1)^2 / (2 x 1/4 x 2/3) = 3: 2 of 6.
        ([1, 1], [-5, -5], 2 / 6),
        # One against two, events at 1, 2 and 3: (1): expected 1/3, variance 2/9, (2/3)^2 / (2/9) = 2.
        # (2): 1/3 + 1/2, variance 2/9 + 1/4 = 17/36, (1/6)^2 / (17/36) = 1/17. (3): 1/3 + 1/2 + 1, 25/17.
        ([1], [2, 3], 1 / 3),
        ([3], [1, 2], 2 / 3),
    ],
)
def test_log_rank_small_enough_to_list(a, b, p):
    assert st.log_rank(*arm(a), *arm(b)) == pytest.approx(p, rel=1e-12)
    assert st.log_rank(*arm(b), *arm(a)) == pytest.approx(p, rel=1e-12)


def test_log_rank_by_random_splits():
    a, b = arm([2, 3, 5, -8, 9, 12, -12]), arm([4, -8, 10, 11, -12, -12, -12])
    exact = st.log_rank(*a, *b)  # C(14, 7) = 3,432 splits
    near = st.log_rank(*a, *b, draws=3431, seed=4)
    assert exact == pytest.approx(round(3432 * exact) / 3432, rel=1e-12) and 0.02 < exact < 0.5
    assert near != exact and near == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / 3431))


def test_without_events_no_difference():
    never = np.full(20, 4388), np.zeros(20, bool)
    assert st.log_rank(*never, *never, draws=99) == 1
    assert st.log_rank([5, 6], [False, False], [7, 8], [False, False]) == 1


# ---- Holm ----


def test_holm():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and the last no less than 0.06
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert st.holm([0.5, 0.4, 0.9]) == [1, 1, 1] and st.holm([0.04]) == [0.04]
    assert st.holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    bonferroni, hochberg = [0.04, 0.16, 0.12, 0.02], [0.03, 0.04, 0.04, 0.02]
    assert st.holm([0.01, 0.04, 0.03, 0.005]) not in (pytest.approx(bonferroni), pytest.approx(hochberg))


# ---- bad input ----

NAN = math.nan


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: st.clopper_pearson(21, 20), "21 of 20 is no rate"),
        (lambda: st.clopper_pearson(-1, 20), "-1 of 20"),
        (lambda: st.clopper_pearson(0, 0), "0 of 0"),
        (lambda: st.clopper_pearson(0.5, 20), "0.5 of 20"),
        (lambda: st.clopper_pearson(NAN, 20), "nan of 20"),
        (lambda: st.clopper_pearson(1, math.inf), "1 of inf"),
        (lambda: st.clopper_pearson(1, 20, level=95), "between 0 and 1, such as 0.95, got 95"),
        (lambda: st.fisher_exact(0, 20, 21, 20), "21 of 20"),
        (lambda: st.bca_interval([]), "a needs one number per seed"),
        (lambda: st.bca_interval([1, 2], []), "b needs one number per seed"),
        (lambda: st.bca_interval([1, NAN]), r"a\[1\] is nan"),
        (lambda: st.bca_interval([1, 2], [[1, 2]]), r"b needs one number per seed.*\(1, 2\)"),
        (lambda: st.bca_interval([1, 2], level=1), "got 1"),
        (lambda: st.bca_interval([1, 2], resamples=30), "30 resamples"),
        (lambda: st.permutation_test([], [1]), "a needs"),
        (lambda: st.permutation_test([1], [math.inf]), r"b\[0\] is inf"),
        (lambda: st.permutation_test([1.5, 2], [3, 4], most=0, draws=0), "draws of at least 1, got 0"),
        (lambda: st.hodges_lehmann([1], [None]), r"b\[0\] is nan"),
        (lambda: st.kaplan_meier([], []), "times needs"),
        (lambda: st.kaplan_meier([1, 2], [True]), "times has 2 values but 1 events"),
        (lambda: st.kaplan_meier([1, 2], [True, 2]), "True .* or False"),
        (lambda: st.kaplan_meier([1, 2], [True, NAN]), r"events\[1\] is nan"),
        (lambda: st.log_rank([1], [1], [1, 2], [1]), "times_b has 2 values but 1 events"),
        (lambda: st.log_rank([1, NAN], [1, 1], [1], [1]), r"times_a\[1\] is nan"),
        (lambda: st.log_rank([1], [1], [1], [1], draws=0), "got 0"),
        (lambda: st.holm([]), "ps needs"),
        (lambda: st.holm([0.1, NAN]), r"ps\[1\] is nan"),
        (lambda: st.holm([0.1, 1.1]), "from 0 to 1, got 0.1 to 1.1"),
    ],
)
def test_bad_input_gets_one_line(call, words):
    with pytest.raises(TinyganError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
