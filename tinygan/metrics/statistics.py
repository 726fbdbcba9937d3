"""Statistics over seeds: intervals, exact tests, survival curves and Holm's correction, on NumPy alone.

    rates       clopper_pearson, fisher_exact            how many of so many seeds collapsed
    numbers     bca_interval, permutation_test,          one number per seed, such as the modes at the last step
                hodges_lehmann
    survival    kaplan_meier, log_rank                   when a run collapsed, if it did before its end
    several     holm                                     p values of several comparisons

One value stands for one seed, since seeds are independent and the samples of one run are not. No test assumes normal
values: with few seeds nobody can tell. How little few seeds show: of 20 against 20, none against 5 gives p = 0.047,
none against 4 p = 0.11.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice
from statistics import NormalDist

import numpy as np

from tinygan.errors import TinyganError

BLOCK = 10_000  # splits held at once
MAX_CELLS = 10_000_000  # of the table of sums, 80 MB
TIE = 1e-10  # statistics that differ by less, relative to their scale, are equal but for rounding

# ---- rates ----


def clopper_pearson(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Compute the exact confidence interval of a probability, from `successes` of `trials`.

    The ends are the probabilities at which so few, or so many, successes have a chance of (1 - level) / 2 (Clopper and
    Pearson 1934), found by bisection; 0 at no success, 1 at nothing else. It covers with at least `level`, mostly more.
    Raises TinyganError for successes outside 0..trials, no trial, and a level outside 0..1.
    """
    successes, trials = _rate(successes, trials)
    tail = _tail(level)
    return 1 - _highest(trials - successes, trials, tail), _highest(successes, trials, tail)


def fisher_exact(a: int, n: int, b: int, m: int) -> float:
    """Compute the two-sided p value of a of n against b of m, by Fisher's exact test (Fisher 1935).

    Given the a + b successes, the number among the first n is hypergeometric; p is the sum of all its probabilities
    that are not larger than the observed one, equal ones told to 1e-7 as R's fisher.test does. Summed in whole
    numbers, so without rounding. Raises TinyganError for a outside 0..n, b outside 0..m, and no trial.
    """
    (a, n), (b, m) = _rate(a, n), _rate(b, m)
    ways = [math.comb(n, x) * math.comb(m, a + b - x) for x in range(a + b + 1)]  # 0 where impossible
    observed = math.comb(n, a) * math.comb(m, b)
    return sum(way for way in ways if way * 10**7 <= observed * (10**7 + 1)) / sum(ways)


# ---- one number per seed ----


def bca_interval(a: Sequence[float], b: Sequence[float] | None = None, *, level: float = 0.95,
                 resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Compute the BCa bootstrap interval of the mean of a, or of mean(a) - mean(b), in the unit of the values.

    Bias-corrected and accelerated (Efron 1987): the quantiles of the resampled statistic, moved by z0, the normal
    quantile of the share of resamples below the statistic, and by the acceleration, a sixth of the skewness of the
    jackknife values. a and b are resampled independently, and the jackknife leaves out one value of either in turn;
    what a value of a sample of n moves is weighted by (n - 1) / n (Davison and Hinkley 1997, chapter 5), which only
    matters for samples of different sizes.

    Resamples equal to the statistic count half as below it, since whole numbers often tie. A share of 0 or 1, whose
    quantile is infinite, counts as half a resample from it (both our choice). Where all values of a sample are equal,
    and those of the other too, nothing can be resampled: both ends are the statistic itself, which says that the
    spread is unknown, not that there is none. Few values make it too narrow: at a level of 0.95 it covered the mean
    in 84, 90 and 93 % of normal samples of 5, 10 and 20, the difference of two in 88, 91 and 95 %.

    Raises TinyganError for no values, NaN or infinity, a level outside 0..1, and too few resamples for the level.
    """
    tail = _tail(level)
    if resamples * tail < 1:
        raise TinyganError(f"{resamples} resamples have no tail beyond a level of {level}; take more resamples")
    samples = [(1, _numbers("a", a))] + ([] if b is None else [(-1, _numbers("b", b))])
    rng = np.random.default_rng(seed)
    point, resampled, moves = 0.0, np.zeros(resamples), []
    for sign, values in samples:
        picked = values[rng.integers(len(values), size=(resamples, len(values)))]
        point += sign * values.mean()
        resampled += sign * picked.mean(axis=1)
        moves.append(sign * (values - values.mean()) / len(values))
    if all(values.min() == values.max() for _, values in samples):
        return float(point), float(point)

    moved = np.concatenate(moves)
    acceleration = (moved**3).sum() / (6 * (moved**2).sum() ** 1.5)
    rounding = TIE * np.abs(moved).sum()
    below = np.mean(resampled < point - rounding) / 2 + np.mean(resampled <= point + rounding) / 2
    normal = NormalDist()
    bias = normal.inv_cdf(float(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples)))
    shifted = [bias + normal.inv_cdf(end) for end in (tail, 1 - tail)]
    ends = [normal.cdf(bias + shift / (1 - acceleration * shift)) for shift in shifted]
    low, high = np.quantile(resampled, ends)
    return float(low), float(high)


def permutation_test(a: Sequence[float], b: Sequence[float], *, most: int = 200_000, draws: int = 200_000,
                     seed: int = 0) -> tuple[float, bool]:
    """Compute the two-sided p value of the difference of the means of a and b, and whether it is exact.

    p is the share of all splits of the values into groups of these sizes whose means differ at least as much as the
    observed ones (Fisher 1935, Pitman 1937); differences that only rounding separates count as equal. Exact in two
    cases: there are at most `most` splits (10 against 10: 184,756), and each one is tried; or all values are whole
    numbers, and the distribution of a group's sum is computed (20 against 20: 1.4e11 splits). Otherwise, and for whole
    numbers so far apart that the table of sums has over MAX_CELLS cells, `draws` random splits are tried and the
    observed one counts as one more: p = (hits + 1) / (draws + 1) (Phipson and Smyth 2010), which is never 0.

    Raises TinyganError for no values, NaN or infinity, and draws below 1.
    """
    a, b = _numbers("a", a), _numbers("b", b)
    small, large = sorted((a, b), key=len)  # one group's sum gives the other's; the table of the smaller is smaller
    values = np.concatenate([small, large])
    values = values - values.min()
    size, total = len(small), len(values)
    fits = (size + 1) * (size * values.max() + 1) <= MAX_CELLS
    if math.comb(total, size) > most and fits and (values == np.rint(values)).all():
        return _whole_numbers(values.astype(np.int64), size), True

    # with the mean at 0 the means differ the more, the further a group's sum is from 0, whatever the sizes
    centred = values - values.mean()
    observed = abs(centred[:size].sum()) - TIE * np.abs(centred).sum()
    return _permuted(lambda masks: np.abs(masks @ centred), observed, size, total, most, draws, seed)


def hodges_lehmann(a: Sequence[float], b: Sequence[float]) -> float:
    """Compute the shift of a against b: the median of all differences of a value of a and one of b.

    In the unit of the values (Hodges and Lehmann 1963); a single odd seed hardly moves it. Raises TinyganError for no
    values, NaN or infinity.
    """
    return float(np.median(np.subtract.outer(_numbers("a", a), _numbers("b", b))))


# ---- survival ----


def kaplan_meier(times: Sequence[float], events: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the Kaplan-Meier curve: the times at which it falls, and its value after each.

    times: when each run ended, in any unit. events: whether it ended by the event; False is censored, a run that was
    only observed so long, and still counts as at risk at that very time. The curve is 1 before the first time
    returned, and both arrays are empty where no event happened (Kaplan and Meier 1958). Raises TinyganError for no
    times, NaN or infinity, events other than True and False, and different lengths.
    """
    times, events = _survival("times", times, events)
    steps, at_risk, happened = _risk(times, events)
    return steps, np.cumprod(1 - happened / at_risk.sum(axis=0))


def log_rank(times_a: Sequence[float], events_a: Sequence[bool], times_b: Sequence[float], events_b: Sequence[bool],
             *, draws: int = 20_000, seed: int = 0) -> float:
    """Compute the two-sided p value of the log-rank test of two survival curves, by permutation of the labels.

    The statistic is (observed - expected events of a)^2 over its hypergeometric variance, events and times as of
    `kaplan_meier` (Mantel 1966); p is the share of splits of the runs whose statistic is at least the observed one:
    of every split where there are at most `draws`, else of `draws` random ones, as (hits + 1) / (draws + 1). The
    chi-squared distribution, the usual one, is wrong for few events. p is 1 where no event happened. The labels may
    only be exchanged if both arms are censored alike, as runs of equal length are. Raises TinyganError as
    `kaplan_meier` does, and for draws below 1.
    """
    times_a, events_a = _survival("times_a", times_a, events_a)
    times_b, events_b = _survival("times_b", times_b, events_b)
    times, events = np.concatenate([times_a, times_b]), np.concatenate([events_a, events_b])
    size, total = len(times_a), len(times)
    labels = (np.arange(total) < size).astype(np.float64)
    observed = _log_rank_statistic(labels[None], times, events)[0]
    return _permuted(lambda masks: _log_rank_statistic(masks, times, events), observed * (1 - TIE), size, total,
                     draws, draws, seed)[0]


# ---- several comparisons ----


def holm(ps: Sequence[float]) -> list[float]:
    """Compute Holm's adjusted p values, in the order given.

    The smallest p of k is multiplied by k, the next by k - 1 and so on; none may fall below the one before it, nor
    exceed 1 (Holm 1979). Rejecting those below alpha makes any false rejection less likely than alpha. Raises
    TinyganError for no p values, NaN, and values outside 0..1.
    """
    values = _numbers("ps", ps)
    if values.min() < 0 or values.max() > 1:
        raise TinyganError(f"p values are from 0 to 1, got {values.min():g} to {values.max():g}")
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(np.argsort(values, kind="stable")):
        highest = max(highest, min(1.0, float(values[place]) * (len(values) - rank)))
        adjusted[place] = highest
    return adjusted


# ---- helpers ----


def _highest(successes: int, trials: int, tail: float) -> float:
    """Return the probability at which at most `successes` of `trials` have a chance of `tail`."""
    if successes == trials:
        return 1.0
    logs = [math.log(math.comb(trials, k)) for k in range(successes + 1)]
    low, high = 0.0, 1.0
    for _ in range(50):  # halvings, to 1e-15; one more than 52 could round the middle to 1
        middle = (low + high) / 2
        yes, no = math.log(middle), math.log1p(-middle)
        chance = math.fsum(math.exp(log + k * yes + (trials - k) * no) for k, log in enumerate(logs))
        low, high = (middle, high) if chance > tail else (low, middle)
    return (low + high) / 2


def _whole_numbers(values: np.ndarray, size: int) -> float:
    """Compute the share of splits whose first group's sum is as far from its mean as that of the first `size` values.

    values: whole numbers from 0. They are dealt one after another, and chance[k, s] is the probability that k of those
    dealt so far are in the first group and have the sum s.
    """
    total, largest = len(values), int(np.sort(values)[-size:].sum())
    chance = np.zeros((size + 1, largest + 1))
    chance[0, 0] = 1
    for dealt, value in enumerate(values):
        taken = chance * ((size - np.arange(size + 1)) / (total - dealt))[:, None]
        chance -= taken
        chance[1:, value:] += taken[:-1, : largest + 1 - value]
    far = np.abs(total * np.arange(largest + 1) - size * values.sum())  # whole numbers again: ties are exact
    return min(1.0, float(chance[size, far >= far[values[:size].sum()]].sum()))


def _permuted(statistic: Callable[[np.ndarray], np.ndarray], observed: float, size: int, total: int, most: int,
              draws: int, seed: int) -> tuple[float, bool]:
    """Compute the share of splits with a statistic of at least `observed`, and whether every split was tried.

    statistic: of masks (splits, total), 1 in the first group of `size` and 0 in the other, one number per split.
    """
    if draws < 1:
        raise TinyganError(f"a test by random splits needs draws of at least 1, got {draws}")
    splits = math.comb(total, size)
    exact = splits <= most
    blocks = _every_split(size, total) if exact else _random_splits(size, total, draws, seed)
    hits = sum(int((statistic(masks) >= observed).sum()) for masks in blocks)
    return (hits / splits, True) if exact else ((hits + 1) / (draws + 1), False)


def _every_split(size: int, total: int) -> Iterator[np.ndarray]:
    """Yield the masks of all splits, in blocks (splits, total)."""
    members = combinations(range(total), size)
    while block := list(islice(members, BLOCK)):
        masks = np.zeros((len(block), total))
        np.put_along_axis(masks, np.array(block), 1, axis=1)
        yield masks


def _random_splits(size: int, total: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the masks of `draws` random splits, in blocks (splits, total)."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(total) < size).astype(np.float64)
    for begin in range(0, draws, BLOCK):
        yield rng.permuted(np.tile(mask, (min(BLOCK, draws - begin), 1)), axis=1)


def _risk(times: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the times of events (T,), which runs are at risk at each (N, T), and how many events each has (T,)."""
    steps, happened = np.unique(times[events], return_counts=True)
    return steps, times[:, None] >= steps, happened


def _log_rank_statistic(masks: np.ndarray, times: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Compute the log-rank statistic (splits,) of masks (splits, N), 1 for runs of the first group; 0 if none varies.

    The variance is 0 only where observed and expected events are equal too: one group alone was at risk, or all died.
    """
    _, at_risk, happened = _risk(times, events)
    everyone = at_risk.sum(axis=0)
    share = masks @ at_risk.astype(np.float64) / everyone  # of those at risk, how many are in the first group
    expected = share @ happened.astype(np.float64)
    spread = happened * (everyone - happened) / np.maximum(everyone - 1, 1)
    variance = (share * (1 - share)) @ spread
    difference = masks @ events.astype(np.float64) - expected
    return np.divide(difference**2, variance, out=np.zeros_like(variance), where=variance > 0)


def _numbers(name: str, values: Sequence[float]) -> np.ndarray:
    """Convert values to a float64 array (N,). Raises TinyganError for none, and for NaN or infinity."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise TinyganError(f"{name} needs one number per seed, at least one, got an array of shape {array.shape}")
    if odd := np.flatnonzero(~np.isfinite(array)).tolist():
        raise TinyganError(f"{name}[{odd[0]}] is {array[odd[0]]}; leave out the seeds that have no finite number")
    return array


def _survival(name: str, times: Sequence[float], events: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Convert times to float64 and events to bool arrays (N,). Raises TinyganError as `kaplan_meier` does."""
    times, flags = _numbers(name, times), _numbers(name.replace("times", "events"), events)
    if len(times) != len(flags):
        raise TinyganError(f"{name} has {len(times)} values but {len(flags)} events; give one event per time")
    if not np.isin(flags, (0, 1)).all():
        raise TinyganError(f"the events of {name} must be True (it happened) or False (censored)")
    return times, flags.astype(bool)


def _rate(successes: int, trials: int) -> tuple[int, int]:
    """Convert a rate to whole numbers. Raises TinyganError unless it has trials, and successes from 0 to trials."""
    if not (trials >= 1 and 0 <= successes <= trials and successes % 1 == 0 and trials % 1 == 0):
        raise TinyganError(f"{successes} of {trials} is no rate; give whole numbers, 0 to n of n, with n at least 1")
    return int(successes), int(trials)


def _tail(level: float) -> float:
    """Return the chance beyond each end of an interval. Raises TinyganError for a level outside 0..1."""
    if not 0 < level < 1:
        raise TinyganError(f"the level of an interval is between 0 and 1, such as 0.95, got {level}")
    return (1 - level) / 2
