"""Running a job: its training in a folder of its own, gone on with where it was stopped, and then result.json.

    study/A.sgan4.103/  config.json, log.csv, samples/, checkpoint.npz ...   as every run leaves them
                        output.txt    what the training printed
                        where.json    machine, versions, seconds: what may differ between two runs of one job
                        result.json   what the tables are made of; written last, so that it is there when all is

result.json depends on the job alone (and on NumPy's and the machine's arithmetic): not on when it was stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinygan
from tinygan import data
from tinygan.app import checkpoint, runfiles
from tinygan.app.device import Device, pick_device
from tinygan.app.draw import as_digits
from tinygan.app.loop import Diverged, start
from tinygan.app.measure_stacked import measure_triples
from tinygan.app.run import Run
from tinygan.app.state import Game
from tinygan.data.files import whole_file
from tinygan.errors import TinyganError
from tinygan.metrics import loss_volatility, mean_confidence
from tinygan.study import games
from tinygan.study.plan import PARTS, Job, settings_of
from tinygan.study.rules import outcomes

RESULT, WHERE, OUTPUT = "result.json", "where.json", "output.txt"
SCORED = ("classes", "modes", "kid")  # columns of a log: a row with one of them is a scoring
DRAWN_LOSSES = 200  # points of a loss curve that are kept
REAL_SAMPLES = 2_000  # triples of test digits in which the judge's confidence is taken
STACKED_SAMPLES = 26_000  # of the last score on Stacked MNIST, VEEGAN's and PacGAN's number
WINDOW, FINE = 100, 10  # steps over which the loss's standard deviation is taken, and rows that these must have
LIVE = {"d_loss", "g_loss", "d_real", "d_fake", "d_grad", "g_grad", "logit_gap", "samples"}  # of a step, not of samples

# The flags of a game of games.py that no job changes.
_FIXED = {"device": "cpu", "tf32": False, "cuda_graph": "no", "threads": 1, "detect_anomaly": False, "dry_run": False,
          "overwrite": True, "resume": None, "data_dir": None, "optimizer": "adam", "lr_decay": 0, "lr_warmup": 0,
          "bank_updates": "lazy", "loss": "nonsaturating", "bce": "logits", "d_steps": 1}
Build = Callable[[dict, Run | None, Device], Game]
Train = Callable[[Game, Run], int]


class Script(NamedTuple):
    """The functions of a training script: of its command line, of its game, and its loop."""

    main: Callable[[list[str]], int]
    build: Build
    train: Train


def build(flags: dict, run: Run | None, device: Device) -> games.MLPGame:
    """Make the game of perceptrons that the flags describe."""
    game = games.MixtureGame if "mixture" in flags else games.DigitGame
    return game(flags, device)


def train_perceptrons(flags: Mapping[str, Any], folder: Path, train: Train) -> int:
    """Train a game of games.py in a folder, from its checkpoint if there is one; returns the exit code."""
    flags = {**_FIXED, **flags, "out": folder}
    run = Run.resume(folder, flags) if (folder / checkpoint.FILE_NAME).exists() else None
    return start(flags if run is None else run.flags, run, name="study", build=build, train=train)


def words_of(flags: Mapping[str, Any]) -> list[str]:
    """Write the command line that gives a script these flags."""
    words = []
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, (tuple, list)):
            words += [f"{flag}={','.join(map(str, value))}"] if value else []
        elif value is not False:
            words.append(flag if value is True else f"{flag}={value}")
    return words


def run_job(job: Job, folder: Path, scripts: Mapping[str, Script], extra: Mapping[str, Sequence[str]] | None = None
            ) -> int:
    """Train a job in `folder` and write its result; returns 130 where it was interrupted, else 0.

    scripts: the training scripts by name, train_mnist among them, whose loop trains the games of games.py, too. extra:
    more words for each of them, such as --photos=FOLDER.
    Raises TinyganError where the training cannot go on (Busy where another process is at it).
    """
    flags, program = settings_of(job), PARTS[job.part].program
    folder.mkdir(parents=True, exist_ok=True)
    began, processor, broken = time.time(), time.process_time(), None
    _add_time(folder, 0, 0, starts=1)
    with open(folder / OUTPUT, "a", encoding="utf-8") as out, contextlib.redirect_stdout(out), \
            contextlib.redirect_stderr(out):
        try:
            if program in scripts:
                goes_on = (folder / checkpoint.FILE_NAME).exists()
                place = [f"--resume={folder}"] if goes_on else [
                    f"--out={folder}", "--overwrite", "--device=cpu", "--threads=1", *words_of(flags),
                    *(extra or {}).get(program, ())]
                code = scripts[program].main(place)
            else:
                code = train_perceptrons(flags, folder, scripts["train_mnist"].train)
        except Diverged as error:
            broken, code = error.step, 0
        _add_time(folder, time.time() - began, time.process_time() - processor)
        if code:
            return code
        result = result_of(job, folder, scripts[program].build if program in scripts else build, broken)
    _write_json(folder / RESULT, result)
    return 0


# ---- the result ------------------------------------------------------------------------------------------------------


def result_of(job: Job, folder: Path, build: Build, broken: int | None) -> dict[str, Any]:
    """Return what the tables need of a finished job.

    broken: the step at which a NaN ended it. series: {column: values} of the rows in which samples were measured.
    final: the last of them, and what is measured once, at the end. losses: G's and D's, thinned. volatility: standard
    deviation of G's loss within 100 steps, where the log is fine enough for it.
    """
    rows = runfiles.read_log(folder) if (folder / "log.csv").exists() else []
    scorings = [row for row in rows if any(math.isfinite(row.get(name, math.nan)) for name in SCORED)]
    of_mnist = any("classes" in row for row in scorings)
    names = sorted({name for row in scorings for name in row} - LIVE)
    series = {name: [row.get(name, math.nan) for row in scorings] for name in names}
    final = {name: values[-1] for name, values in series.items() if values}
    result = {"job": job.name, "part": job.part, "arm": job.arm, "seed": job.seed, "broken": broken,
              "settings": settings_of(job)}
    if broken is None:
        game = restored(folder, build)
        result["weights"] = {"G": game.G.parameter_count(), "D": game.D.parameter_count()}
        final |= _measured_once(job, game)
    if of_mnist:
        result["outcomes"] = outcomes(scorings, rows, broken)
    apart = int(rows[1]["step"] - rows[0]["step"]) if len(rows) > 1 else WINDOW
    if len(rows) >= WINDOW // apart >= FINE:
        result["volatility"] = loss_volatility([row["g_loss"] for row in rows], window=WINDOW // apart)
    thin = rows[::max(1, -(-len(rows) // DRAWN_LOSSES))]
    losses = {name: [row[name] for row in thin] for name in ("step", "d_loss", "g_loss")}
    return _rounded({**result, "final": final, "series": series, "losses": losses})


def restored(folder: Path, build: Build = build) -> Game:
    """Restore the game of a run from its checkpoint."""
    game = build(runfiles.read_config(folder)["flags"], None, pick_device("cpu"))
    game.restore(*checkpoint.load(folder))
    return game


def _measured_once(job: Job, game: Game) -> dict[str, float]:
    """Measure what is too slow to be measured all along."""
    if isinstance(game, games.MixtureGame):
        of_routes = {"modes_per_route": game.modes_per_route()} if game.config.route_count > 1 else {}
        return {"distance": game.distance(), **of_routes}
    if game.flags.get("stacked"):
        of_best = game.measure(STACKED_SAMPLES)
        game.average = None
        of_raw = game.measure(STACKED_SAMPLES)
        return of_best | _prefixed("raw", of_raw) | _prefixed("real", _real_triples(job, game))
    if PARTS[job.part].program == "train_photos":
        return _prefixed("real", game.measures.measure_real(game.samples[1])) if _is_first(job) else {}
    if game.classifier is not None:
        probabilities, _ = game.classifier.classify(as_digits(game.reference))
        return {"real_confidence": mean_confidence(probabilities)}
    return {}


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


def _add_time(folder: Path, seconds: float, processor: float, starts: int = 0) -> None:
    """Add to where.json: a start at its beginning, its time at its end (a kill leaves that out)."""
    before = where_of(folder)
    _write_json(folder / WHERE, {
        "seconds": round(before.get("seconds", 0) + seconds, 1),
        "processor_seconds": round(before.get("processor_seconds", 0) + processor, 1),
        "starts": before.get("starts", 0) + starts, "machine": platform.platform(), "processor": _processor(),
        "versions": {"tinygan": tinygan.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "commit": _commit()})


def _processor() -> str:
    """Return the processor's name, where the system says it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str | None:
    """Return the commit of these files, None where they are not in a repository."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True,
                              text=True, check=True, timeout=10).stdout.strip()
    return None


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return result.json of a job's folder, None where it is not there yet. Raises TinyganError where it is damaged."""
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text("utf-8"))
        return {**result, "series": dict(result["series"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TinyganError(f"{path} is damaged ({error}): delete it, and `study.py run` makes it again") from None


def where_of(folder: Path) -> dict[str, Any]:
    """Return where.json of a job's folder: machine, versions, commit and seconds; {} where it cannot be read."""
    try:
        return dict(json.loads((folder / WHERE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def is_done(folder: Path) -> bool:
    """Return whether a job has its result."""
    return (folder / RESULT).exists()
