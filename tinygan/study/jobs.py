"""Running a job: its training in a folder of its own, gone on with where it was stopped, and then result.json.

    study/A.sgan4.103/  config.json, log.csv, samples/, checkpoint.npz ...   as every run leaves them
                        output.txt    what the training printed
                        where.json    machine, versions, seconds: what may differ between two runs of one job
                        result.json   what the tables are made of; written last, so that it is there when all is

result.json depends on the job alone (and on NumPy's and the machine's arithmetic): not on when it was stopped.
"""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinygan
from tinygan.app import checkpoint
from tinygan.app.device import Device
from tinygan.app.loop import start
from tinygan.app.resume import as_words
from tinygan.app.run import Busy, Run
from tinygan.app.runfiles import read_config
from tinygan.app.state import Diverged, Game
from tinygan.data.files import whole_file
from tinygan.errors import TinyganError
from tinygan.study import games
from tinygan.study.plan import PARTS, Job, settings_of
from tinygan.study.summary import Build, result_of

RESULT, WHERE, OUTPUT, LOCK = "result.json", "where.json", "output.txt", "lock"
PARTS_OF_A_RESULT = {"job", "part", "arm", "seed", "broken", "series", "final"}

# The flags of a game of games.py that no job changes.
_FIXED = {"device": "cpu", "tf32": False, "cuda_graph": "no", "threads": 1, "detect_anomaly": False, "dry_run": False,
          "overwrite": True, "resume": None, "data_dir": None, "optimizer": "adam", "lr_decay": 0, "lr_warmup": 0,
          "bank_updates": "lazy", "loss": "nonsaturating", "bce": "logits", "d_steps": 1}
Train = Callable[[Game, Run], int]


class Script(NamedTuple):
    """The functions of a training script: of its command line, of its game, and its loop."""

    main: Callable[[list[str]], int]
    build: Build
    train: Train


def build(flags: dict, run: Run | None, device: Device) -> games.MLPGame:
    """Make the game of perceptrons that the flags describe; run: the one to go on with, whose digits they must be."""
    game = (games.MixtureGame if "mixture" in flags else games.DigitGame)(flags, device)
    if run is not None:
        for name, made_of in game.inputs.items():
            run.check_input(name, made_of, "put the old ones where they were, or delete the folder")
    return game


def train_perceptrons(flags: Mapping[str, Any], folder: Path, train: Train) -> int:
    """Train a game of games.py in a folder, from its checkpoint if there is one; returns the exit code."""
    flags = {**_FIXED, **flags, "out": folder}
    run = Run.resume(folder, flags) if (folder / checkpoint.FILE_NAME).exists() else None
    return start(flags if run is None else run.flags, run, name="study", build=build, train=train)


def run_job(job: Job, folder: Path, scripts: Mapping[str, Script], extra: Mapping[str, Sequence[str]] | None = None
            ) -> int:
    """Train a job in `folder` and write its result; returns 130 where it was interrupted, else 0.

    scripts: the training scripts by name, train_mnist among them, whose loop trains the games of games.py, too. extra:
    more words for each of them, such as --photos=FOLDER.
    Raises Busy where another process is at it, TinyganError or OSError where it cannot go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if is_done(folder):  # by the process that had the lock
            return 0
        began, processor = time.time(), time.process_time()
        _add_time(folder, 0, 0, starts=1)
        try:
            with open(folder / OUTPUT, "a", encoding="utf-8") as out, contextlib.redirect_stdout(out), \
                    contextlib.redirect_stderr(out):
                code, broken = _train(job, folder, scripts, (extra or {}).get(PARTS[job.part].program, ()))
                if not code:
                    script = scripts.get(PARTS[job.part].program)
                    result = result_of(job, folder, script.build if script else build, broken)
        finally:
            _add_time(folder, time.time() - began, time.process_time() - processor)
        if not code:
            _write_json(folder / RESULT, result)
        return code


def _train(job: Job, folder: Path, scripts: Mapping[str, Script], extra: Sequence[str]) -> tuple[int, int | None]:
    """Train a job to its end, from its checkpoint if there is one; return the exit code and the step of a NaN."""
    flags, script = settings_of(job), scripts.get(PARTS[job.part].program)
    goes_on = (folder / checkpoint.FILE_NAME).exists()
    if goes_on:
        _check_settings(folder, flags)
    try:
        if script is None:
            return train_perceptrons(flags, folder, scripts["train_mnist"].train), None
        place = [f"--resume={folder}"] if goes_on else [
            f"--out={folder}", "--overwrite", "--device=cpu", "--threads=1", *as_words(flags)]
        return script.main([*place, *extra]), None
    except Diverged as error:
        return 0, error.step


def _check_settings(folder: Path, flags: Mapping[str, Any]) -> None:
    """Raise TinyganError where a folder's run was begun with other settings than the plan has now."""
    began = json.loads(json.dumps(read_config(folder)["flags"]))
    for name, value in json.loads(json.dumps(flags)).items():
        if (began.get(name) or None) != (value or None):
            raise TinyganError(f"{folder} was begun with {name} {began.get(name)}, and the plan has {value}: delete "
                               "the folder, and the job runs anew")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a job's folder, so that no two processes are at it; without locks (Windows) do nothing.

    A file's lock rather than the folder's own (app/run.py): network disks know no other, and it is held until the
    result is there. Raises Busy where another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the two ways in which systems say so
            raise Busy(f"another process is at {folder}") from None
        yield


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


@functools.cache  # what runs is what was there when the process began
def _commit() -> str | None:
    """Return the commit of these files, with -dirty where they were edited since; None outside a repository."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=Path(__file__).parent,
                              capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def read_result(folder: Path) -> dict[str, Any]:
    """Return result.json of a job's folder. Raises TinyganError where it is damaged or not there."""
    path = folder / RESULT
    try:
        return parse_result(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TinyganError(f"{path} is damaged ({error}): delete it, and `study.py run` makes it again") from None


def parse_result(text: str) -> dict[str, Any]:
    """Parse a result. Raises ValueError for anything else."""
    result = json.loads(text)
    if not isinstance(result, dict) or not PARTS_OF_A_RESULT <= result.keys():
        raise ValueError(f"it lacks some of {', '.join(sorted(PARTS_OF_A_RESULT))}")
    return result


def where_of(folder: Path) -> dict[str, Any]:
    """Return where.json of a job's folder: machine, versions, commit and seconds; {} where it cannot be read."""
    try:
        return dict(json.loads((folder / WHERE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def is_done(folder: Path) -> bool:
    """Return whether a job has its result."""
    return (folder / RESULT).exists()
