"""The result of a finished job: what the tables need of its log and its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygan import data
from tinygan.app import checkpoint, runfiles
from tinygan.app.device import Device, pick_device
from tinygan.app.draw import as_digits
from tinygan.app.measure_stacked import digits_by_route, measure_triples, triples_per_route
from tinygan.app.run import Run
from tinygan.app.state import Game
from tinygan.errors import TinyganError
from tinygan.metrics import loss_volatility, mean_confidence
from tinygan.study.plan import Job, kind_of, settings_of
from tinygan.study.rules import broken_values, outcomes

SCORED = ("classes", "modes", "kid")  # columns of a log: a row with one of them is a scoring
DRAWN_LOSSES = 200  # points of a loss curve that are kept
REAL_SAMPLES = 2_000  # triples of test digits in which the judge's confidence is taken
STACKED_SAMPLES = 26_000  # of the last score on Stacked MNIST, VEEGAN's and PacGAN's number
WINDOW, FINE = 100, 10  # steps over which the loss's standard deviation is taken, and rows that these must have
LIVE = {"d_loss", "g_loss", "d_real", "d_fake", "d_grad", "g_grad", "logit_gap", "samples"}  # of a step, not of samples
Build = Callable[[dict, Run | None, Device], Game]


def result_of(job: Job, folder: Path, build: Build, broken: int | None) -> dict[str, Any]:
    """Return what the tables need of a finished job.

    broken: the step at which a NaN ended it. inputs: hashes of the data. series: {column: values} of the rows in which
    samples were measured. final: the last of them, and what is measured once, at the end; of a broken run
    `broken_values`. losses: G's and D's, thinned. volatility: standard deviation of G's loss within 100 steps, where
    the log is fine enough for it. Raises TinyganError where a scoring that was due is not in the log.
    """
    config = runfiles.read_config(folder)
    rows = runfiles.read_log(folder) if (folder / "log.csv").exists() else []
    scorings = [row for row in rows if any(math.isfinite(row.get(name, math.nan)) for name in SCORED)]
    _check_scorings(job, folder, [int(row["step"]) for row in scorings], broken)
    names = sorted({name for row in scorings for name in row} - LIVE)
    series = {name: [row.get(name, math.nan) for row in scorings] for name in names}
    result = {"job": job.name, "part": job.part, "arm": job.arm, "seed": job.seed, "broken": broken,
              "settings": settings_of(job), "series": series,
              "inputs": {name: made_of["hash"] for name, made_of in (config.get("inputs") or {}).items()}}
    if broken is None:
        game = restored(folder, build)
        result["weights"] = {"G": game.G.parameter_count(), "D": game.D.parameter_count()}
        result["final"] = {name: values[-1] for name, values in series.items()} | _measured_once(job, game)
    else:
        result["final"] = broken_values(job.part)
    if kind_of(job.part) == "digits":
        result["outcomes"] = outcomes(scorings, rows, broken)
    apart = int(rows[1]["step"] - rows[0]["step"]) if len(rows) > 1 else WINDOW
    if len(rows) >= WINDOW // apart >= FINE:
        result["volatility"] = loss_volatility([row["g_loss"] for row in rows], window=WINDOW // apart)
    thin = rows[::max(1, -(-len(rows) // DRAWN_LOSSES))]
    losses = {name: [row[name] for row in thin] for name in ("step", "d_loss", "g_loss")}
    return _rounded({**result, "losses": losses})


def restored(folder: Path, build: Build) -> Game:
    """Restore the game of a run from its checkpoint."""
    game = build(runfiles.read_config(folder)["flags"], None, pick_device("cpu"))
    game.restore(*checkpoint.load(folder))
    return game


def _check_scorings(job: Job, folder: Path, steps: Sequence[int], broken: int | None) -> None:
    """Raise TinyganError unless the log has every scoring up to the end, or up to the step at which a run broke."""
    total, every = settings_of(job)["steps"], settings_of(job)["eval_every"]
    due = {*range(every, total, every), total}
    missing = sorted(step for step in due - set(steps) if broken is None or step < broken)
    if missing:
        raise TinyganError(f"the log in {folder} has no scoring of step {missing[0]:,}: is there a classifier to score "
                           "with, and was log.csv changed? Delete the folder, and the job runs anew")


def _measured_once(job: Job, game: Game) -> dict[str, float]:
    """Measure what is too slow to be measured all along."""
    if kind_of(job.part) == "points":
        of_routes = {"modes_per_route": game.modes_per_route()} if game.config.route_count > 1 else {}
        return {"distance": game.distance(), **of_routes}
    if kind_of(job.part) == "triples":
        of_best = game.measure(STACKED_SAMPLES)
        rng = np.random.default_rng([game.flags["seed"], 9])
        of_best["modes_per_route"] = triples_per_route(*digits_by_route(game.best, game.classifier, game.device, rng))
        game.average = None
        of_raw = game.measure(STACKED_SAMPLES)
        return of_best | _prefixed("raw", of_raw) | _prefixed("real", _real_triples(job, game))
    if kind_of(job.part) == "photos":
        return _prefixed("real", game.measures.measure_real(game.samples[1])) if _is_first(job) else {}
    probabilities, _ = game.classifier.classify(as_digits(game.reference))
    return {"real_confidence": mean_confidence(probabilities)}


def _real_triples(job: Job, game: Game) -> dict[str, float]:
    """Measure triples of test digits: in one job as many as are drawn, in the others enough for the confidence."""
    n = STACKED_SAMPLES if _is_first(job) else REAL_SAMPLES
    images = data.load_mnist("test", data_dir=game.flags["data_dir"]).images
    chosen = np.random.default_rng(0).integers(len(images), size=(n, 3))
    measured = measure_triples(game.classifier, images[chosen])
    return measured if n == STACKED_SAMPLES else {"confidence": measured["confidence"]}


def _is_first(job: Job) -> bool:
    """Return whether a job is the one in its part that real data is measured with."""
    return (job.arm, job.number) == ("gan", 0)


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in values.items()}


def _rounded(value: Any) -> Any:
    """Round numbers to 6 digits, and write what is not finite as null: JSON has nothing else for it."""
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
