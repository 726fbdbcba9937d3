"""Measures of a training log: whether the training goes well, and whether and when it collapsed.

A GAN's losses do not fall as training goes well. More informative are D's mean probability "real" for real and for
generated images, whether G still receives a gradient, and how much the samples differ from one another. `assess` turns
these into one of eight states and a sentence with the numbers; the functions below it measure whole series, one value
per logged step. Both use the same thresholds.

    state      meaning                                 decided by (the first rule that holds)
    broken     NaN or infinity                         a loss, a probability or a gradient is not finite
    starting   too early                               step < 100
    frozen     hard collapse: D is perfect, G's        D loss < 1e-3 and norm of G's gradient < 1e-6
               gradient has vanished
    collapsed  G makes (nearly) one picture            spread < 10 % of the data's, or at most 2 of 10 classes, or
                                                       KL > 1.80 nats: label entropy < 0.5 (one class only: 2.303)
    D wins     D separates (nearly) all images         logit gap > 20, or D loss < 1e-3, or
                                                       D(x) > 0.95 and D(G(z)) < 0.05
    G wins     D(G(z)) is too high                     D(G(z)) > 0.75, or D(G(z)) > D(x) + 0.05
    narrow     variety is being lost                   spread < 50 %, or fewer than 8 classes, or KL > 0.5
    well       none of these

The figures 1e-3, 20, 10 % and 0.5 nat are the usual marks of hard collapse, saturated logits and immediate collapse;
the others are our choice, meant as a first warning. Report a threshold with the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tinygan.errors import TinyganError
from tinygan.metrics.samples import classes_covered, label_kl

EARLY = 100  # steps
HARD_LOSS, HARD_GRADIENT = 1e-3, 1e-6
SATURATED_GAP = 20.0  # logits; the sigmoid of -20 is 2e-9
SATURATED_LOSS = -0.9 * math.log(1e-12)  # 24.9: 90 % of the largest loss that a sigmoid clamped at 1e-12 can show
COLLAPSED_SPREAD, NARROW_SPREAD = 0.10, 0.50  # of the data's
COLLAPSED_CLASSES, NARROW_CLASSES = 2, 8  # of 10
COLLAPSED_ENTROPY = 0.5  # nats, of the labels
COLLAPSED_KL, NARROW_KL = math.log(10) - COLLAPSED_ENTROPY, 0.5  # nats, of ten classes to equal shares
SURE, UNSURE = 0.95, 0.05
FAKES_REAL, REVERSED = 0.75, 0.05
WINDOW = 5  # rows of the log whose median is taken; our choice


class Health(NamedTuple):
    """The state of a run. status: broken, starting, frozen, collapsed, D wins, G wins, narrow or well; sentence: the
    state in words, with its numbers and what to do."""

    status: str
    sentence: str


# ---- the state of a run ----


def assess(
    *,
    d_real: float,
    d_fake: float,
    d_loss: float,
    g_loss: float,
    step: int | None = None,
    d_grad: float | None = None,
    g_grad: float | None = None,
    logit_gap: float | None = None,
    spread: float | None = None,
    classes: float | None = None,
    kl: float | None = None,
    histogram: Sequence[int] | None = None,
) -> Health:
    """Classify the state of a run at one step, by the first rule that holds of the table in tinygan/metrics/log.py.

    d_real, d_fake: D's mean probability "real" for real and generated images, in [0, 1]. d_loss, g_loss: the losses, in
    nats. d_grad, g_grad: L2 norms of the gradients of all weights of D and of G. logit_gap: mean logit of real minus
    mean logit of generated images. spread: see `relative_spread`. classes, kl: of the ten digits the number with a
    share >= 1 %, and KL of the class histogram to equal shares, in nats; or give `histogram`, ten counts, and both
    follow from it. A value that is None is not used; NaN counts as None but in losses, probabilities and gradient
    norms, where it makes the run broken. step: training steps so far; before 100 the state is "starting".

    The thresholds are the usual marks of hard collapse, saturated logits and immediate collapse; the others are our
    choice, meant as a first warning. Raises TinyganError for a histogram of negative counts or of zeros alone.
    """
    if histogram is not None:
        classes, kl = classes_covered(histogram), label_kl(histogram)
    logit_gap, spread, classes, kl = (_measured(value) for value in (logit_gap, spread, classes, kl))

    required = {"D loss": d_loss, "G loss": g_loss, "D(x)": d_real, "D(G(z))": d_fake}
    gradients = {"D's gradient": d_grad, "G's gradient": g_grad}
    given = required | {name: value for name, value in gradients.items() if value is not None}
    if odd := [f"{name} is {value}" for name, value in given.items() if not math.isfinite(value)]:
        return Health("broken", f"broken: {', '.join(odd)}: start again with a lower --lr or another --seed")
    if step is not None and step < EARLY:
        return Health("starting", f"starting: too early before step {EARLY}")

    variety = _variety(spread, classes, kl)
    if d_loss < HARD_LOSS and g_grad is not None and g_grad < HARD_GRADIENT:
        return Health(
            "frozen",
            f"frozen (hard collapse): D loss {d_loss:.1e}, G gradient {g_grad:.1e}: D is perfect and G's "
            "gradient has vanished; it will not come back: start again with another --seed, a lower --lr or "
            "--bce logits",
        )
    if (
        _below(spread, COLLAPSED_SPREAD)
        or (classes is not None and classes <= COLLAPSED_CLASSES)
        or _above(kl, COLLAPSED_KL)
    ):
        return Health(
            "collapsed",
            f"G collapsed: {variety}: G makes nearly the same picture whatever the noise; "
            "it may recover by itself, else start again with a larger --bank, a lower --lr or another --seed",
        )
    narrow = _below(spread, NARROW_SPREAD) or _below(classes, NARROW_CLASSES) or _above(kl, NARROW_KL)
    return _balance(d_real, d_fake, d_loss, g_loss, logit_gap, variety, narrow)


def _balance(d_real: float, d_fake: float, d_loss: float, g_loss: float, logit_gap: float | None, variety: str,
             narrow: bool) -> Health:
    """Return the state of a run that has not collapsed, from the balance of the two nets."""
    answers = f"D calls real images {d_real:.2f} real and generated ones {d_fake:.2f}"
    if _above(logit_gap, SATURATED_GAP) or d_loss < HARD_LOSS or (d_real > SURE and d_fake < UNSURE):
        gap = f", logit gap {logit_gap:.1f}" if logit_gap is not None else ""
        return Health(
            "D wins",
            f"D wins: {answers} (D loss {d_loss:.2g}, G loss {g_loss:.2g}{gap}): D separates nearly all images, so "
            "G's gradient is small; normal for a while, but if it lasts 1,000 steps start again with a lower --d-lr",
        )
    if d_fake > FAKES_REAL or d_fake > d_real + REVERSED:
        return Health(
            "G wins",
            f"G wins: {answers} (D loss {d_loss:.2g}, G loss {g_loss:.2g}): D takes generated images for real, so G's "
            "gradient hardly improves them; if it lasts 1,000 steps start again with a higher --d-lr",
        )
    if narrow:
        return Health("narrow", f"G is losing variety: {variety}: watch the next samples for a collapse")
    gap = d_real - d_fake
    balance = f"D separates them {'mostly' if gap > 0.4 else 'partly' if gap > 0.1 else 'hardly'}"
    tail = f"; {variety}" if variety else ""
    return Health("well", f"all is well: {answers}: {balance}, and G learns from it{tail}")


def assess_log(rows: Iterable[Mapping[str, float]], *, window: int = WINDOW) -> Health:
    """Classify the state at the end of a log, by `assess` of the medians over the last `window` rows.

    Medians, since one batch varies much (our choice). rows: {column: number} each, with a "step", as
    app.runfiles.read_log returns them; columns are named like the arguments of `assess`, others are ignored. Measures
    that are logged less often (spread, classes, kl) take their last logged value. The state is "starting" without
    rows, or where d_real, d_fake, d_loss or g_loss is missing. Raises KeyError for a last row without a step.
    """
    rows = list(rows)
    if not rows:
        return Health("starting", "starting: nothing has been logged yet")
    recent = rows[-window:]
    numbers = {name: _median(recent, name) for name in (*_LIVE, "logit_gap")}
    for name in ("spread", "classes", "kl"):
        numbers[name] = next((row[name] for row in reversed(rows) if _measured(row.get(name)) is not None), None)
    if missing := [name for name in _LIVE[:4] if numbers[name] is None]:
        return Health("starting", f"starting: the log has no value of {', '.join(missing)}")
    return assess(step=int(rows[-1]["step"]), **numbers)


def line(rows: Sequence[Mapping[str, float]]) -> str:
    """Return the sentence of `assess_log` after the step of the last row, as a script prints it."""
    return f"step {rows[-1]['step']}: {assess_log(rows).sentence}"


def history(rows: Sequence[Mapping[str, float]]) -> list[tuple[int, Health]]:
    """Return (step, health) at the first logged step and at each change of state."""
    changes: list[tuple[int, Health]] = []
    for end in range(1, len(rows) + 1):
        health = assess_log(rows[max(0, end - 50) : end])
        if not changes or changes[-1][1].status != health.status:
            changes.append((int(rows[end - 1]["step"]), health))
    return changes


def relative_spread(samples: np.ndarray, reference: np.ndarray) -> float:
    """Compute how much images differ from one another, relative to real ones.

    The mean over pixels of the standard deviation over samples (N, C, H, W), divided by the same for `reference`
    images (M, C, H, W) in the same units: no unit. 1 is the data's variety, 0 one picture; NaN where the reference
    images are all equal. A share of the data's value is our choice, as it depends neither on units nor on the set.
    """
    data = float(np.std(reference, axis=0, dtype=np.float64).mean())
    return float(np.std(samples, axis=0, dtype=np.float64).mean()) / data if data > 0 else math.nan


# ---- whole series ----


def immediate_collapse(
    steps: ArrayLike,
    *,
    by: int = 500,
    entropy: ArrayLike | None = None,
    pixel_std: ArrayLike | None = None,
    data_pixel_std: float | None = None,
    d_loss: ArrayLike | None = None,
    g_loss: ArrayLike | None = None,
    logit_gap: ArrayLike | None = None,
) -> list[str]:
    """List the reasons why a run counts as collapsed at the last logged step not after `by`; [] when it does not.

    steps, and each series beside it: one value for each logged step. entropy: of the labels, in nats. pixel_std: how
    much samples differ, and data_pixel_std the same measure of real images, in one unit. logit_gap: mean logit of real
    minus mean logit of generated images. The last step alone is read, since every generator is collapsed at step 0.

    The rules, the usual marks of immediate collapse: label entropy below 0.5 nats; pixel_std below a tenth of the
    data's; a loss above 24.9; real and fake logits more than 20 apart. entropy and pixel_std may hold NaN where they
    were not measured: their last measured value counts. A NaN loss is a collapse. The rate of immediate collapse is the
    share of seeds (10 or more) with a non-empty list. Raises TinyganError for series of different lengths, a log
    without a step up to `by`, and a pixel_std without data_pixel_std.
    """
    (steps,) = _series(steps)
    if not (steps <= by).any():
        raise TinyganError(f"the log has no step up to {by}; log more often, or take a later step")
    if pixel_std is not None and data_pixel_std is None:
        raise TinyganError("pixel_std needs data_pixel_std, the same measure of real images, beside it")

    def last(series: ArrayLike | None, *, measured: bool = False) -> float | None:
        """Return the last value up to `by`, or the last that is not NaN."""
        if series is None:
            return None
        values = _series(steps, series)[1][steps <= by]
        values = values[~np.isnan(values)] if measured else values
        return float(values[-1]) if len(values) else None

    reasons = []
    value = last(entropy, measured=True)
    if value is not None and value < COLLAPSED_ENTROPY:
        reasons.append(f"label entropy {value:.2f} nat is below {COLLAPSED_ENTROPY}")
    value = last(pixel_std, measured=True)
    if value is not None and value < COLLAPSED_SPREAD * data_pixel_std:
        reasons.append(f"pixel std {value:.3g} is below a tenth of the data's {data_pixel_std:.3g}")
    # "not (value <= limit)" and not "value > limit": NaN is a failure too
    for name, value in (("D", last(d_loss)), ("G", last(g_loss))):
        if value is not None and not value <= SATURATED_LOSS:
            reasons.append(f"{name} loss {value:.1f} is saturated")
    value = last(logit_gap)
    if value is not None and not abs(value) <= SATURATED_GAP:
        reasons.append(f"real and fake logits are {abs(value):.1f} apart")
    return reasons


def hard_collapse(
    steps: ArrayLike,
    d_loss: ArrayLike,
    g_grad_norm: ArrayLike,
    *,
    loss_below: float = HARD_LOSS,
    grad_below: float = HARD_GRADIENT,
    longer_than: int = 500,
) -> int | None:
    """Return the step from which on G's gradient has vanished, or None.

    From there to the end of the log, over more than `longer_than` steps, D's loss (nats) is under `loss_below` and
    the L2 norm of G's gradient under `grad_below`. (1e-6 and 500 are our choice.) steps, d_loss, g_grad_norm: one value
    for each logged step. Raises TinyganError for series of different lengths, or none.
    """
    steps, d_loss, g_grad_norm = _series(steps, d_loss, g_grad_norm)
    alive = np.flatnonzero(~((d_loss < loss_below) & (g_grad_norm < grad_below)))
    begin = alive[-1] + 1 if len(alive) else 0
    if begin == len(steps) or steps[-1] - steps[begin] <= longer_than:
        return None
    return int(steps[begin])


def survival(steps: ArrayLike, covered: ArrayLike, *, needed: int = NARROW_CLASSES) -> dict[str, int | None]:
    """Return the steps at which `needed` classes were `reached`, `lost_first`, `lost_for_good`; None if never.

    covered: classes with samples (see `classes_covered`), a value for each of steps. Losses count from the step at
    which the classes were first reached: no generator starts with them. needed: 8 of 10 is our choice. Raises
    TinyganError for series of different lengths, or none.
    """
    steps, covered = _series(steps, covered)
    enough = np.flatnonzero(covered >= needed)
    if not len(enough):
        return {"reached": None, "lost_first": None, "lost_for_good": None}
    lost = [int(step) for i, step in enumerate(steps) if i > enough[0] and covered[i] < needed]
    for_good = int(steps[enough[-1] + 1]) if enough[-1] + 1 < len(steps) else None
    return {
        "reached": int(steps[enough[0]]),
        "lost_first": lost[0] if lost else None,
        "lost_for_good": for_good,
    }


def loss_volatility(loss: ArrayLike, *, window: int = 100) -> float:
    """Compute the standard deviation of the loss in windows of `window` logged values, averaged over windows.

    loss: one value for each logged step; the result has its unit (nats), and values after the last whole window do not
    count. Windows, so that a slow trend counts little (our choice). Raises TinyganError for fewer values than a window,
    or a window of fewer than 2.
    """
    (loss,) = _series(loss)
    whole = len(loss) // window
    if window < 2 or not whole:
        raise TinyganError(
            f"{len(loss)} losses do not fill a window of {window}; take a shorter one, of 2 or more"
        )
    return float(loss[: whole * window].reshape(whole, window).std(axis=1).mean())


# ---- helpers ----


def _variety(spread: float | None, classes: float | None, kl: float | None) -> str:
    """Describe the variety of the samples by what was measured of it."""
    words = []
    if spread is not None:
        words.append(f"samples differ by {100 * spread:.0f} % of what real images do")
    if classes is not None:
        words.append(f"{classes:.0f} of 10 classes")
    if kl is not None:
        words.append(f"KL {kl:.2f} nats (one class only: 2.30)")
    return ", ".join(words)


_LIVE = ("d_real", "d_fake", "d_loss", "g_loss", "d_grad", "g_grad")


def _median(rows: Sequence[Mapping[str, float]], name: str) -> float | None:
    """Compute the median of a column's finite values; in one of _LIVE a last NaN or infinity is returned instead."""
    values = [row[name] for row in rows if name in row]
    if name in _LIVE and values and not math.isfinite(values[-1]):
        return values[-1]  # a run that has just broken is broken, whatever came before
    values = [value for value in values if math.isfinite(value)]
    return float(np.median(values)) if values else None


def _measured(value: float | None) -> float | None:
    """Return a value, None in place of NaN."""
    return None if value is None or math.isnan(value) else value


def _below(value: float | None, bound: float) -> bool:
    """Return whether a value is there and below a bound."""
    return value is not None and value < bound


def _above(value: float | None, bound: float) -> bool:
    """Return whether a value is there and above a bound."""
    return value is not None and value > bound


def _series(*columns: ArrayLike) -> list[np.ndarray]:
    """Convert series to float64 arrays. Raises TinyganError unless all have one length, at least 1."""
    arrays = [np.asarray(column, np.float64) for column in columns]
    if any(array.shape != (len(arrays[0]),) or not array.size for array in arrays):
        raise TinyganError(
            f"series need one value per logged step, got shapes {[array.shape for array in arrays]}"
        )
    return arrays
