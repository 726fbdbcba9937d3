"""What counts as a collapse, as covering and as a difference: fixed before the first job.

A scoring is one row of a log in which the samples were measured. The rules of MNIST need its columns classes, kl (nats)
and spread (share of the data's).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tinygan.metrics import immediate_collapse, survival
from tinygan.metrics.log import NARROW_CLASSES
from tinygan.metrics.modes import TRIPLES
from tinygan.study.mixtures import MIXTURES
from tinygan.study.plan import PARTS, kind_of

FEW_CLASSES, HIGH_KL, LOW_SPREAD = 5, 1.0, 0.25  # a scoring is collapsed below, above, below
TWICE = 2  # scorings in a row that are collapsed make a collapse
# The quality guard: variety counts only in samples that a judge can name. Of the real digits' confidence, and of the
# samples on a mixture.
GUARD_CONFIDENCE, GUARD_GOOD = 0.85, 0.5

Scoring = Mapping[str, float]


def is_collapsed(scoring: Scoring) -> bool:
    """Return whether a scoring shows fewer than 5 classes with 1 % each, a KL above 1 nat, or a spread below 25 %."""
    return scoring["classes"] < FEW_CLASSES or scoring["kl"] > HIGH_KL or scoring["spread"] < LOW_SPREAD


def ended_collapsed(scorings: Sequence[Scoring], broken: bool = False) -> bool:
    """Return whether the last two scorings are collapsed, or the run broke off at a NaN.

    The outcome of parts C and D: it holds of runs that lost their classes and of runs that never had them.
    """
    return broken or (len(scorings) >= TWICE and all(map(is_collapsed, scorings[-TWICE:])))


def collapse_step(scorings: Sequence[Scoring]) -> int | None:
    """Return the first step of two collapsed scorings in a row after 8 classes had been reached, None if never."""
    reached = survival([s["step"] for s in scorings], [s["classes"] for s in scorings])["reached"]
    if reached is None:
        return None
    later = [s for s in scorings if s["step"] > reached]
    for first, second in zip(later, later[1:], strict=False):
        if is_collapsed(first) and is_collapsed(second):
            return int(first["step"])
    return None


def outcomes(scorings: Sequence[Scoring], rows: Sequence[Scoring], broken: int | None) -> dict[str, Any]:
    """Return what part C and D compare of a run.

    rows: the whole log. broken: the step at which a NaN ended the run, None else. ended: `ended_collapsed`. reached:
    step at which 8 classes were reached. collapse: `collapse_step`; a run that broke after reaching them collapsed
    there. recovered: 8 classes again after a collapse. immediate: signs of immediate collapse at step 500
    (metrics.immediate_collapse).
    """
    steps = [s["step"] for s in scorings]
    reached = survival(steps, [s["classes"] for s in scorings])["reached"] if scorings else None
    collapse = collapse_step(scorings) if scorings else None
    if collapse is None and broken is not None and reached is not None:
        collapse = broken
    early = [row for row in rows if row["step"] <= 500]
    signs = immediate_collapse([row["step"] for row in early], **{name: [row[name] for row in early] for name in (
        "d_loss", "g_loss", "logit_gap")}) if early else []
    last = [s for s in scorings if s["step"] <= 500][-1:]
    return {"ended": ended_collapsed(scorings, broken is not None), "reached": reached, "collapse": collapse,
            "recovered": collapse is not None and any(
                s["step"] > collapse and s["classes"] >= NARROW_CLASSES for s in scorings),
            "immediate": bool(signs) or any(map(_immediate, last)) or (broken is not None and broken <= 500)}


def _immediate(scoring: Scoring) -> bool:
    """Return whether the samples of one scoring show an immediate collapse, by metrics.immediate_collapse."""
    return bool(immediate_collapse([scoring["step"]], entropy=[math.log(10) - scoring["kl"]],
                                   pixel_std=[scoring["spread"]], data_pixel_std=1.0))


def broken_values(part: str) -> dict[str, float]:
    """Return what a run that broke at a NaN counts as: no mode, all in one class; nothing for photos, whose distance
    has no worst value."""
    kind = kind_of(part)
    if kind == "points":
        modes = len(MIXTURES[PARTS[part].settings["mixture"]].means)
        return {"modes": 0, "good": 0.0, "modes_kl": math.log(modes)}
    return {"triples": {"modes": 0, "modes_kl": math.log(TRIPLES), "modes_sure": 0, "sure": 0.0},
            "digits": {"classes": 0, "kl": math.log(10)}}.get(kind, {})


def survival_of(runs: Sequence[Mapping[str, Any]], last: int) -> tuple[list[float], list[bool]]:
    """Return for each run, given by its `outcomes`, the step at which 8 classes were lost, and whether they were lost.

    A run that keeps them is censored at the last step; one that never reached them counts as lost from the start,
    since an arm that learns nothing would survive otherwise.
    """
    steps, lost = [], []
    for run in runs:
        step = 0 if run["reached"] is None else run["collapse"]
        steps.append(float(last if step is None else step))
        lost.append(step is not None)
    return steps, lost


class Comparison(NamedTuple):
    """A comparison of an arm with a control, by one measure of a part. rate: whether that is a share of runs (Fisher's
    test), else a number of each seed (permutation test)."""

    part: str
    arm: str
    control: str
    measure: str
    rate: bool = False


# The five primary comparisons; their p values are corrected together (Holm). All others are exploratory.
PRIMARY = (
    Comparison("A", "sgan4", "gan", "modes"),
    Comparison("B", "sgan4", "gan", "modes_kl"),
    Comparison("B", "sgan4", "wide", "modes_kl"),
    Comparison("C-momentum", "sgan4", "gan", "ended", rate=True),
    Comparison("D", "sgan4", "gan", "ended", rate=True),
)
