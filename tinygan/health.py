"""Is the training going well? The answer in words, from the numbers of the log.

A GAN's losses do not fall as training goes well, so they say little to a newcomer. What says something is how
sure D is (its mean probability "real" for real and for generated images), whether G still receives a
gradient, and how much the samples differ from one another. `assess` turns these into one of eight states and
a sentence with the numbers.

    state      meaning                                 decided by (the first rule that holds)
    broken     NaN or infinity                         a loss, an answer of D or a gradient is not finite
    starting   too early to judge                      step < 100
    frozen     hard collapse: D is perfect, G's        D loss < 1e-3 and norm of G's gradient < 1e-6
               gradient has vanished
    collapsed  G makes (nearly) one picture            spread < 10 % of the data's, or at most 2 of 10
                                                       classes, or KL > 1.5 nats (one class only: 2.303)
    D wins     D tells every fake                      logit gap > 20, or D loss < 1e-3, or
                                                       D(x) > 0.95 and D(G(z)) < 0.05
    G wins     D is fooled                             D(G(z)) > 0.75, or D(G(z)) > D(x) + 0.05
    narrow     variety is being lost                   spread < 50 %, or fewer than 8 classes, or KL > 0.5
    well       none of these

The figures 1e-3, 20 and 10 % are the usual marks of hard collapse, saturated logits and immediate collapse;
the others are our choice: a first warning, not a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tinygan import metrics

EARLY = 100  # steps
HARD_LOSS, HARD_GRADIENT = 1e-3, 1e-6
SATURATED_GAP = 20.0  # logits; the sigmoid of -20 is 2e-9
COLLAPSED_SPREAD, NARROW_SPREAD = 0.10, 0.50  # of the data's
COLLAPSED_CLASSES, NARROW_CLASSES = 2, 8  # of 10
COLLAPSED_KL, NARROW_KL = 1.5, 0.5  # nats
SURE, UNSURE = 0.95, 0.05
FOOLED, REVERSED = 0.75, 0.05
WINDOW = 5  # rows of the log that are judged together


class Health(NamedTuple):
    """status: broken, starting, frozen, collapsed, D wins, G wins, narrow or well; sentence: the same for people."""

    status: str
    sentence: str


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
    """Judge one moment of a run.

    d_real, d_fake: D's mean probability "real" for real and generated images. d_grad, g_grad: gradient norms.
    logit_gap: mean logit of real minus mean logit of generated images. spread: see `relative_spread`.
    classes, kl: classes with a share >= 1 %, and KL of the class histogram to equal shares, in nats; or give
    `histogram`, ten counts, and both follow from it. What is None is not used.
    """
    if histogram is not None:
        classes, kl = metrics.classes_covered(histogram), metrics.label_kl(histogram)
    logit_gap, spread, classes, kl = (_known(value) for value in (logit_gap, spread, classes, kl))

    required = {"D loss": d_loss, "G loss": g_loss, "D(x)": d_real, "D(G(z))": d_fake}
    gradients = {"D's gradient": d_grad, "G's gradient": g_grad}
    given = required | {name: value for name, value in gradients.items() if value is not None}
    if odd := [f"{name} is {value}" for name, value in given.items() if not math.isfinite(value)]:
        return Health("broken", f"broken: {', '.join(odd)}: start again with a lower --lr or another --seed")
    if step is not None and step < EARLY:
        return Health("starting", f"starting: too early to judge before step {EARLY}")

    answers = f"D calls real images {d_real:.2f} real and generated ones {d_fake:.2f}"
    variety = _variety(spread, classes, kl)
    if d_loss < HARD_LOSS and g_grad is not None and g_grad < HARD_GRADIENT:
        return Health(
            "frozen",
            f"frozen (hard collapse): D loss {d_loss:.1e}, G gradient {g_grad:.1e}: D is perfect and G "
            "learns nothing any more; this will not heal: start again with another --seed, a lower --lr or "
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
    if _above(logit_gap, SATURATED_GAP) or d_loss < HARD_LOSS or (d_real > SURE and d_fake < UNSURE):
        gap = f", logit gap {logit_gap:.1f}" if logit_gap is not None else ""
        return Health(
            "D wins",
            f"D wins: {answers} (D loss {d_loss:.2g}, G loss {g_loss:.2g}{gap}): D tells every fake and G "
            "hardly learns from it; normal for a while, but if it lasts 1,000 steps start again with a lower --d-lr",
        )
    if d_fake > FOOLED or d_fake > d_real + REVERSED:
        return Health(
            "G wins",
            f"G wins: {answers} (D loss {d_loss:.2g}, G loss {g_loss:.2g}): D is fooled and teaches G "
            "little; if it lasts 1,000 steps start again with a higher --d-lr",
        )
    if _below(spread, NARROW_SPREAD) or _below(classes, NARROW_CLASSES) or _above(kl, NARROW_KL):
        return Health("narrow", f"G is losing variety: {variety}: watch the next samples for a collapse")
    gap = d_real - d_fake
    balance = f"D can {'mostly' if gap > 0.4 else 'just' if gap > 0.1 else 'hardly'} tell them apart"
    tail = f"; {variety}" if variety else ""
    return Health("well", f"all is well: {answers}: {balance}, and G learns from it{tail}")


def assess_log(rows: Iterable[Mapping[str, float]], *, window: int = WINDOW) -> Health:
    """Judge the end of a log: the median of each column over the last `window` rows (one batch says little).

    rows: what `runfiles.read_log` gives; columns are named like the arguments of `assess`, others ignored.
    Measures that are logged less often (spread, classes, kl) take their last known value.
    """
    rows = list(rows)
    if not rows:
        return Health("starting", "starting: nothing has been logged yet")
    recent = rows[-window:]
    numbers = {name: _median(recent, name) for name in (*_LIVE, "logit_gap")}
    for name in ("spread", "classes", "kl"):
        numbers[name] = next((row[name] for row in reversed(rows) if _known(row.get(name)) is not None), None)
    if missing := [name for name in _LIVE[:4] if numbers[name] is None]:
        return Health("starting", f"starting: the log says nothing about {', '.join(missing)}")
    return assess(step=int(rows[-1]["step"]), **numbers)


def line(rows: Sequence[Mapping[str, float]]) -> str:
    """What `assess_log` says of a log with rows, as the line that a script prints: with the step of its last row."""
    return f"step {rows[-1]['step']}: {assess_log(rows).sentence}"


def history(rows: Sequence[Mapping[str, float]]) -> list[tuple[int, Health]]:
    """(step, health) at the first logged step and wherever the state changed: a short story of the run."""
    story: list[tuple[int, Health]] = []
    for end in range(1, len(rows) + 1):
        health = assess_log(rows[max(0, end - 50) : end])
        if not story or story[-1][1].status != health.status:
            story.append((int(rows[end - 1]["step"]), health))
    return story


def relative_spread(samples: np.ndarray, reference: np.ndarray) -> float:
    """How much images differ from one another, relative to the data: mean over pixels of the standard
    deviation over samples (N, C, H, W), divided by the same for `reference` images. 1 is the data's variety,
    0 is one picture."""
    data = float(np.std(reference, axis=0, dtype=np.float64).mean())
    return float(np.std(samples, axis=0, dtype=np.float64).mean()) / data if data > 0 else math.nan


def _variety(spread: float | None, classes: int | None, kl: float | None) -> str:
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
    values = [row[name] for row in rows if name in row]
    if name in _LIVE and values and not math.isfinite(values[-1]):
        return values[-1]  # a run that has just broken is broken, whatever came before
    values = [value for value in values if math.isfinite(value)]
    return float(np.median(values)) if values else None


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _below(value: float | None, bound: float) -> bool:
    return value is not None and value < bound


def _above(value: float | None, bound: float) -> bool:
    return value is not None and value > bound
