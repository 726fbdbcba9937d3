"""The study's tables, as Markdown: jobs done, the primary comparisons, and every part arm by arm.

A number of a seed is its last scoring's. Means have a BCa bootstrap interval over seeds, rates a Clopper-Pearson one,
both of 95 %; p values are of permutation and Fisher tests, log-rank by permutation. Only those of the primary
comparisons are corrected for their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tinygan.app.measure import PER_ROUTE
from tinygan.metrics import label_kl_floor
from tinygan.metrics.modes import TRIPLES
from tinygan.metrics.statistics import (
    bca_interval,
    clopper_pearson,
    fisher_exact,
    hodges_lehmann,
    holm,
    log_rank,
    permutation_test,
)
from tinygan.study.plan import ARMS, PARTS, kind_of
from tinygan.study.results import Result, Results, hits, jobs_to_run, value_of
from tinygan.study.rules import GUARD_CONFIDENCE, GUARD_GOOD, PRIMARY, Comparison, survival_of
from tinygan.study.summary import STACKED_SAMPLES

CONTROL, TREATMENT = "gan", "sgan4"  # with which every other arm is compared
REAL = {"triples": "triples of test digits", "photos": "other photos"}  # rows of real data
FEWEST = 3  # seeds of an arm for an interval
OUTCOMES = ("ended collapsed", "p", "reached 8 classes", "then lost them", "p, log-rank", "immediate collapse")


class Measure(NamedTuple):
    """A column of a part's table: a number of each seed. digits: after the point."""

    name: str
    words: str
    digits: int = 2


_POINTS = (Measure("modes", "modes", 1), Measure("good", "share of good samples"), Measure("modes_kl", "KL, nats"),
            Measure("distance", "sliced W1"), Measure("modes_per_route", "modes of one route", 1),
            Measure("avg_modes", "modes, averaged weights", 1), Measure("avg_modes_kl", "KL, averaged weights"))
_TRIPLES = (Measure("modes_kl", "KL, nats", 3), Measure("modes", "modes of 1,000", 1),
            Measure("modes_per_route", f"modes of {PER_ROUTE} samples of a route", 1),
            Measure("modes_sure", "modes, confident samples", 1), Measure("sure", "share of those", 3),
            Measure("confidence", "confidence"), Measure("raw_modes", "modes, last weights", 1),
            Measure("raw_modes_kl", "KL, last weights", 3))
_DIGITS = (Measure("classes", "classes", 1), Measure("kl", "KL, nats"), Measure("confidence", "confidence"),
           Measure("spread", "spread"), Measure("volatility", "std of G's loss"))
_PHOTOS = (Measure("kid", "KID", 3), Measure("frechet", "Fréchet distance", 1), Measure("precision", "precision"),
           Measure("recall", "recall"), Measure("density", "density"), Measure("coverage", "coverage"),
           Measure("spread", "spread"), Measure("volatility", "std of G's loss"))


def measures_of(part: str) -> tuple[Measure, ...]:
    """Return the measures in a part's table, the first of which its arms are compared by."""
    return {"points": _POINTS, "triples": _TRIPLES, "digits": _DIGITS, "photos": _PHOTOS}[kind_of(part)]


# ---- numbers in words ------------------------------------------------------------------------------------------------


def mean_words(values: Sequence[float], digits: int) -> str:
    """Format a mean and its interval; "-" where there is none, no interval for fewer than 3 seeds."""
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.{digits}f}"
    if len(values) < FEWEST:
        return mean
    low, high = bca_interval(values)
    return f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"


def difference_words(a: Sequence[float], b: Sequence[float], digits: int) -> tuple[str, float | None]:
    """Return the difference of means with its interval and the Hodges-Lehmann shift, and the permutation test's p."""
    if min(len(a), len(b)) < FEWEST:
        return "-", None
    low, high = bca_interval(a, b)
    mean = sum(a) / len(a) - sum(b) / len(b)
    p, exact = permutation_test(a, b)
    words = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}], shift {hodges_lehmann(a, b):+.{digits}f}"
    return f"{words}, p = {p_words(p)}{'' if exact else ' (random splits)'}", p


def rate_words(count: int, runs: int) -> str:
    """Format a rate and its interval."""
    if not runs:
        return "-"
    low, high = clopper_pearson(count, runs)
    return f"{count} of {runs} [{low:.2f}, {high:.2f}]"


def p_words(p: float) -> str:
    """Format a p value with two digits."""
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def passes_guard(result: Result) -> bool:
    """Return whether a run's samples can be named: the quality guard of rules.py."""
    if (good := value_of(result, "good")) is not None:
        return good >= GUARD_GOOD
    confidence, real = value_of(result, "confidence"), value_of(result, "real_confidence")
    return confidence is not None and real is not None and confidence >= GUARD_CONFIDENCE * real


# ---- the tables ------------------------------------------------------------------------------------------------------


def tables(results: Results) -> str:
    """Return all tables."""
    parts = [part for part in PARTS if results.arms(part)]
    blocks = ["# Tables of the study\n\nMade by `python study.py table`; what they mean: docs/study.md.",
              "## Jobs\n\n" + jobs_table(results), "## Primary comparisons\n\n" + primary_table(results)]
    blocks += [f"## {part}. {PARTS[part].title}\n\n" + part_table(results, part) for part in parts]
    return "\n\n".join(blocks) + "\n"


def jobs_table(results: Results) -> str:
    """Return how many jobs of each part are done, and what they took."""
    lines = ["| part | | jobs done of planned | hours | a job takes, seconds |", "|---|---|---|---|---|"]
    for name, part in PARTS.items():
        done = results.part(name)
        planned = len(jobs_to_run([name], results))
        took = [result["where"]["seconds"] for result in done if result.get("where")]
        mean = f"{sum(took) / len(took):.0f}" if took else "-"
        lines.append(f"| {name} | {part.title} | {len(done):,} of {planned:,} | "
                     f"{sum(took) / 3600:.1f} | {mean} |")
    return "\n".join(lines)


def primary_table(results: Results) -> str:
    """Return the five comparisons that were named beforehand, with Holm's correction.

    One whose runs are not all done has no p value (_enough) and counts as p = 1.
    """
    made = [compare(results, comparison) for comparison in PRIMARY]
    adjusted = holm([1.0 if p is None else p for _, p in made])
    lines = ["| part | arm | control | measure | runs | difference | p, Holm |", "|---|---|---|---|---|---|---|"]
    for comparison, (words, p), corrected in zip(PRIMARY, made, adjusted, strict=True):
        part, arm, control, measure, rate = comparison
        planned = PARTS[part].seeds
        runs = ", ".join(f"{len(results.of(part, name))} of {planned}" for name in (arm, control))
        compared = OUTCOMES[0] if rate else _measure(part, measure).words
        lines.append(f"| {part} | {ARMS[arm].words} | {ARMS[control].words} | {compared} "
                     f"| {runs} | {words} | {'-' if p is None else p_words(corrected)} |")
    return "\n".join(lines)


def compare(results: Results, comparison: Comparison) -> tuple[str, float | None]:
    """Return a comparison in words and its p value; "-" and None until both sides have all their runs."""
    part, arm, control, measure, rate = comparison
    if not _enough(results, part, arm, control):
        return "-", None
    if not rate:
        return difference_words(results.numbers(part, arm, measure), results.numbers(part, control, measure),
                                _measure(part, measure).digits)
    a, b = results.of(part, arm), results.of(part, control)
    p = fisher_exact(hits(a, measure), len(a), hits(b, measure), len(b))
    return (f"{rate_words(hits(a, measure), len(a))} against {rate_words(hits(b, measure), len(b))}, "
            f"p = {p_words(p)}"), p


def _measure(part: str, name: str) -> Measure:
    return next(measure for measure in measures_of(part) if measure.name == name)


def _enough(results: Results, part: str, arm: str, control: str) -> bool:
    """Return whether two arms have the runs for a test: 3 each, all of them in a primary comparison, lest anybody stop
    at a good p value."""
    primary = any(part == c.part and {arm, control} == {c.arm, c.control} for c in PRIMARY)
    return min(len(results.of(part, name)) for name in (arm, control)) >= (PARTS[part].seeds if primary else FEWEST)


def part_table(results: Results, part: str) -> str:
    """Return the table of a part: an arm a line, then what perfect samples or real data would give."""
    measures = [m for m in measures_of(part)
                if any(results.numbers(part, arm, m.name) for arm in results.arms(part))]
    rows = [_cells(results, part, arm, measures) for arm in results.arms(part)]
    head = list(rows[0])
    rows += [{"arm": words} | {m.words: f"{values[m.name]:.{m.digits}f}" for m in measures if m.name in values}
             for words, values in _references(results, part)]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
                      *("| " + " | ".join(row.get(name, "") for name in head) + " |" for row in rows)])


def _cells(results: Results, part: str, arm: str, measures: Sequence[Measure]) -> dict[str, str]:
    """Return the cells of an arm by their columns."""
    runs, kind = results.of(part, arm), kind_of(part)
    weights = {result["weights"]["G"] for result in runs if "weights" in result}
    broken = sum(result["broken"] is not None for result in runs)
    cells = {"arm": arm_words(arm), "weights of G": f"{max(weights):,}" if weights else "-",
             "runs": f"{len(runs)}" + (f", {broken} broke" if broken else "")}
    if kind == "digits":
        cells |= zip(OUTCOMES, outcome_cells(results, part, arm), strict=True)
    cells |= {m.words: mean_words(results.numbers(part, arm, m.name), m.digits) for m in measures}
    if kind != "photos":  # no judge names the topic of a photo
        cells["passes the guard"] = f"{sum(map(passes_guard, runs))} of {len(runs)}"
    if kind != "digits":
        cells |= _differences(results, part, arm)
    return cells


def _references(results: Results, part: str) -> list[tuple[str, dict[str, float]]]:
    """Return what to compare generated samples with: what perfect ones would give, and real data measured alike."""
    rows = []
    if kind_of(part) == "triples":
        rows.append(("perfect samples", {"modes_kl": label_kl_floor(STACKED_SAMPLES, classes=TRIPLES),
                                         "modes_per_route": TRIPLES * (1 - (1 - 1 / TRIPLES) ** PER_ROUTE)}))
    for result in results.of(part, CONTROL):
        if f"real_{measures_of(part)[0].name}" in result["final"]:
            rows.append((REAL[kind_of(part)], {name.removeprefix("real_"): value for name, value in
                                                     result["final"].items() if name.startswith("real_")}))
    return rows


def arm_words(arm: str) -> str:
    """Describe an arm; in the stress grid with its cell."""
    name, _, cell = arm.partition("@")
    return ARMS[name].words + (f", {cell}" if cell else "")


def _differences(results: Results, part: str, arm: str) -> dict[str, str]:
    """Compare an arm with the GAN and with the SGAN by the part's first measure."""
    measure = measures_of(part)[0]
    cells = {f"{measure.words}: difference to {words}": "" for words in ("GAN", "SGAN")}
    for column, control in zip(cells, (CONTROL, TREATMENT), strict=True):
        if arm == control:
            break  # what is right of it stands in the other arm's line
        a, b = (results.numbers(part, name, measure.name) for name in (arm, control))
        cells[column] = difference_words(a, b, measure.digits)[0] if _enough(results, part, arm, control) else "-"
    return cells


def outcome_cells(results: Results, part: str, arm: str) -> list[str]:
    """Return the cells of what became of an arm's runs, with tests against the GAN of the same settings."""
    name, _, cell = arm.partition("@")
    control = f"{CONTROL}@{cell}" if cell else CONTROL
    runs, others = results.of(part, arm), results.of(part, control)
    ended = hits(runs, "ended")
    reached = sum(result["outcomes"]["reached"] is not None for result in runs)
    lost = sum(result["outcomes"]["collapse"] is not None for result in runs)
    p = p_rank = ""
    if name != CONTROL and _enough(results, part, arm, control):
        p = p_words(fisher_exact(ended, len(runs), hits(others, "ended"), len(others)))
        p_rank = p_words(log_rank(*survival(part, runs), *survival(part, others)))
    again = hits(runs, "recovered")
    return [rate_words(ended, len(runs)), p, f"{reached} of {len(runs)}",
            f"{lost} of {reached}" + (f" ({again} came back)" if again else ""), p_rank,
            f"{hits(runs, 'immediate')} of {len(runs)}"]


def survival(part: str, runs: Sequence[Result]) -> tuple[list[float], list[bool]]:
    """Return when, and whether, each run lost 8 classes (rules.survival_of)."""
    return survival_of([result["outcomes"] for result in runs], PARTS[part].settings["steps"])
