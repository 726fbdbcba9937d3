"""The folder of a run, and what is written there.

    runs/mnist-sgan-1/  config.json     every flag as it was used, and the versions
                        log.csv         one row per logged step
                        samples/        step_000100.png: the same noise and routes every time
                        checkpoint.npz  all that is needed to go on
                        loss.png  training.gif  routes.png  report.html; of a GPAN cams.png, too

`Run` keeps these files consistent: a folder that is not empty is refused, and on resume log and samples are cut back to
the checkpoint's step, so that nothing is there twice. Where pictures, curves or the report cannot be written, a note is
printed and the training goes on. It does not train: the loop
stands in the script.

The columns of log.csv are those of columns.py; others may be added freely. A log with the column wanted is a GPAN's.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

import tinygan
from tinygan.app import checkpoint, cli, curves, pictures, report
from tinygan.app.runfiles import columns, read_config, read_log, samples
from tinygan.app.runlog import RunLog
from tinygan.data.files import is_systems, put_aside, whole_file
from tinygan.errors import TinyganError, UsageError

GIF_WIDTH = 800  # pixels at most, so that the film can still be mailed
# Flags of where, how long and how often, not of what is computed: a resumed run may change them.
MAY_CHANGE = frozenset(
    {"steps", "epochs", "out", "resume", "overwrite", "data_dir", "photos", "device", "tf32", "threads", "dry_run"}
    | {"detect_anomaly", "log_every", "sample_every", "save_every", "eval_every", "eval_samples"}
)
MADE = ("log.csv", "routes.png", "nearest.png", "cams.png", "loss.png", "training.gif", "report.html",
        checkpoint.FILE_NAME, "config.json")  # beside samples/


class Busy(TinyganError):
    """Another process is writing the run."""


class Run:
    """One run's folder. Make it with `Run.create` (a new run) or `Run.resume` (an existing one).

    flags: the settings in force; after a resume, the stored ones with the changes that were typed.
    folder: where everything is written.
    inputs: what was given to the run from outside: {name: {"hash", "source"}}, kept in config.json.
    print_line: what is called with each one-line note, such as a picture that could not be written.
    """

    _lock: int | None = None

    def __init__(self, folder: Path, flags: Mapping, config: Mapping | None = None):
        self.folder = folder
        self.flags = dict(flags)
        self.checkpoint_path = folder / checkpoint.FILE_NAME
        self.log_path = folder / "log.csv"
        self.print_line: Callable[[str], None] = print
        self._config = dict(config or {})
        self.inputs: dict[str, dict[str, str]] = dict(self._config.get("inputs") or {})
        self._log = RunLog(self.log_path)
        self._noted: set[str] = set()
        self._lock = _lock_folder(folder)

    @classmethod
    def create(cls, flags: Mapping, *, out: str | os.PathLike | None = None, name: str = "run",
               root: str | os.PathLike = "runs", overwrite: bool = False,
               inputs: Mapping[str, Mapping[str, str]] | None = None) -> Run:
        """Start a new run in `out`, or in root/name-1, root/name-2 ... (the next free number).

        Raises UsageError if `out` has anything in it, unless `overwrite`; then the files of the earlier run
        are removed and anything else in the folder is left alone.
        """
        folder = _next_free(Path(root), name) if out is None else _claim(Path(out), overwrite)
        run = cls(folder, flags, {"inputs": inputs, "command": _command()})
        if overwrite:
            run._remove_files()
        _make_samples(folder)
        run._write_config()
        return run

    @classmethod
    def resume(cls, path: str | os.PathLike, flags: Mapping, *, typed: Iterable[str] = (),
               may_change: Iterable[str] = MAY_CHANGE) -> Run:
        """Go on with the run in folder `path` (or the folder of the checkpoint file `path`).

        flags: the settings of this call; typed: the names among them that the user typed (cli.typed). What
        was not typed is taken from the stored run; what was typed may differ from it only if it is in
        `may_change`. Raises UsageError for a typed flag that contradicts the stored run, TinyganError if
        there is no run at `path`.
        """
        folder = Path(path).parent if Path(path).is_file() else Path(path)
        config = read_config(folder)
        stored = config["flags"]
        typed, may_change = frozenset(typed), frozenset(may_change)
        merged = {}
        for name, value in flags.items():
            merged[name] = value if name in typed and name in may_change else stored.get(name, value)
            if name in typed and name not in may_change and _as_json(value) != _as_json(merged[name]):
                flag = "--" + name.replace("_", "-")
                stored_value = cli.as_typed(merged[name])
                raise UsageError(
                    f"{flag} is {cli.as_typed(value)} but the run in {folder} was made with {stored_value}: "
                    f"leave {flag} out to go on with it, or start a new run with --out"
                )
        return cls(folder, merged, config)

    def check_input(self, name: str, made_of: Mapping[str, str], advice: str) -> None:
        """Keep what a resumed run is given, {"hash", "source"}, if it is what the run was made with.

        Runs of older versions have no hash, and any input is accepted. Raises TinyganError, with both sources.
        """
        known = self.inputs.get(name)
        if known and known["hash"] != made_of["hash"]:
            raise TinyganError(f"the run in {self.folder} was trained on {known['source']}; what is there now "
                               f"({made_of['source']}) holds something else: {advice}")
        self.inputs[name] = dict(made_of)

    def load(self) -> tuple[dict[str, np.ndarray], dict]:
        """Load the checkpoint (arrays, meta), with log and samples cut back to its step, meta["step"]."""
        arrays, meta = checkpoint.load(self.folder)
        step = meta.get("step")
        if not isinstance(step, int):
            raise TinyganError(
                f"the checkpoint in {self.folder} does not say its step: it is not one of a training run"
            )
        Path(f"{os.path.realpath(self.checkpoint_path)}.tmp").unlink(missing_ok=True)  # left by a kill during a save
        self._log.cut(step, self._note)
        for number, path in self.samples():
            if number > step:
                path.unlink()
        self._config["resumed"] = [*(self._config.get("resumed") or []), _command()]
        self._write_config()
        return arrays, meta

    def save(self, arrays: Mapping[str, np.ndarray], meta: Mapping) -> None:
        """Write the checkpoint; meta must hold "step", an int. On TinyganError the earlier one is intact."""
        checkpoint.save(self.checkpoint_path, arrays, meta)

    def log(self, step: int, **numbers: float) -> None:
        """Append one row to log.csv. A column that was not there before is added to the whole file.

        Where the file was edited since the last row, all edits are kept. Where it cannot be written
        (full disk, a spreadsheet that holds it), the row waits for the next one.
        """
        self._log.append({"step": step, **numbers}, self._note)

    def amend(self, step: int, **numbers: float) -> None:
        """Add numbers to the row of `step`, the last one in log.csv: what is measured after it was written."""
        self._log.amend(step, numbers, self._note)

    def save_sample(self, step: int, picture: np.ndarray) -> None:
        """Write a uint8 picture as samples/step_000100.png; where that fails, print a note once."""
        def write() -> None:
            _make_samples(self.folder)  # it may have been deleted under way
            pictures.save_png(self.folder / "samples" / f"step_{step:06d}.png", picture)

        self._attempt("samples", write)

    def save_picture(self, name: str, picture: np.ndarray | Callable[[], np.ndarray]) -> None:
        """Write a uint8 picture, or what a function draws, beside the log, as routes.png for instance; where that
        fails, print a note once."""
        self._attempt(name, lambda: pictures.save_png(self.folder / name, picture() if callable(picture) else picture))

    def rows(self) -> list[dict[str, float]]:
        """Return the rows of log.csv so far; none where it cannot be read, with a note once: no reason to stop."""
        try:
            return read_log(self.folder)
        except (TinyganError, OSError) as error:
            self._note("rows", str(error) if isinstance(error, TinyganError) else
                       f"log.csv cannot be read now ({error.strerror or error})")
            return []

    def samples(self) -> list[tuple[int, Path]]:
        """List the sample pictures so far: (step, path), by step."""
        return samples(self.folder)

    def finish(self) -> list[str]:
        """Draw loss.png, training.gif and report.html from what is in the folder. May be called at any time.

        A run that trained for hours must not fail for want of a plotting library: what cannot be drawn is
        returned as a list of one-line notes to show.
        """
        # The report first, lest anything keep it away, and again with what was drawn.
        jobs = {
            "log.csv": lambda: self._log.write(self._note),
            "report.html": lambda: report.write_report(self.folder),
            "loss.png": self._draw_curves,
            "training.gif": self._write_gif,
        }
        notes = [_problem(name, job) for name, job in [*jobs.items(), ("report.html", jobs["report.html"])]]
        return [note for note in dict.fromkeys(notes) if note]

    def close(self) -> None:
        """Release the lock on the folder, for another process to go on with the run (as at the end of this one)."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __del__(self) -> None:
        self.close()  # a run that was refused after all must not keep others, in this process, from its folder

    def _draw_curves(self) -> None:
        title = os.fsencode(self.folder.name).decode(errors="backslashreplace")  # it may hold bytes that are no text
        curves.loss_plot(self.folder / "loss.png", columns(read_log(self.folder)), title=title)

    def _write_gif(self) -> None:
        if paths := [path for _, path in self.samples()]:
            frames = [pictures.shrunk(pictures.read_png(path), GIF_WIDTH) for path in paths]
            pictures.save_gif(self.folder / "training.gif", frames, ms=350)

    def _write_config(self) -> None:
        versions = {"tinygan": tinygan.__version__, "numpy": np.__version__, "python": platform.python_version(),
                    "system": platform.platform()}
        config = {"flags": _as_json(self.flags), "versions": versions, "inputs": self.inputs}
        config |= {name: value for name, value in self._config.items() if name not in config}
        with whole_file(self.folder / "config.json") as file:
            file.write((json.dumps(config, indent=2) + "\n").encode())

    def _remove_files(self) -> None:
        """Remove the files of an earlier run, and nothing that no run made."""
        paths = [path for path in (self.folder / name for name in MADE) if os.path.lexists(path)]
        paths = [path for _, path in self.samples()] + paths
        for path in paths:
            if path.is_dir():
                raise UsageError(f"{path} is a folder, which no run made: move it away, or choose another --out")
        if os.path.lexists(self.folder / "samples") and not (self.folder / "samples").is_dir():
            raise UsageError(f"{self.folder / 'samples'} is no folder: move it away, or choose another --out")
        if paths and not _is_run(self.folder):
            raise UsageError(f"{self.folder} has a {paths[0].relative_to(self.folder)} but no config.json of a run: "
                             "--overwrite replaces runs only, so move the file away, or choose another --out")
        for path in paths:
            if not path.is_symlink():
                path.unlink()
            elif path.exists():
                kept = put_aside(path)
                self._note(str(path), f"{path.name} is a link: what it named is kept as {kept}")
            path.with_name(path.name + ".tmp").unlink(missing_ok=True)

    def _attempt(self, name: str, job: Callable[[], object]) -> None:
        if problem := _problem(name, job):
            self._note(name, problem)

    def _note(self, about: str, text: str) -> None:
        """Print a note once about the same thing."""
        if about not in self._noted:
            self._noted.add(about)
            self.print_line(f"note: {text}")


def _problem(name: str, job: Callable[[], object]) -> str:
    """Do what must not end a run; "", or in one line why `name` was not made."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they may have been turned into errors
            job()
    except KeyboardInterrupt:
        raise
    except TinyganError as error:
        return " ".join(str(error).split())
    except BaseException as error:  # a broken plotting library may raise anything
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{name} was not made ({words[:200]})"
    return ""


def _next_free(root: Path, name: str) -> Path:
    numbered = re.compile(re.escape(name) + r"-(\d{1,9})")
    matches = [numbered.fullmatch(path.name) for path in root.glob(f"{name}-*")]
    first = max([0, *(int(match[1]) for match in matches if match)]) + 1
    for number in range(first, first + 1000):
        folder = root / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:  # another run took it this moment
            if root.exists() and not root.is_dir():
                break
        except OSError as error:
            raise TinyganError(
                f"cannot make the run folder {folder}: {error.strerror}; choose one with --out"
            ) from error
    raise TinyganError(f"cannot make a run folder in {root}; choose one with --out")


def _claim(folder: Path, overwrite: bool) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not overwrite and not all(is_systems(path.name) for path in folder.iterdir()):
            raise UsageError(
                f"{folder} is not empty: --resume {folder} goes on with the run in it, --overwrite starts "
                "anew in it, --out names another folder"
            )
    except OSError as error:
        raise TinyganError(
            f"cannot use {folder} as run folder: {error.strerror}; choose another with --out"
        ) from error
    return folder


def _make_samples(folder: Path) -> None:
    try:
        (folder / "samples").mkdir(exist_ok=True)
    except OSError as error:
        raise TinyganError(f"cannot make the folder {folder / 'samples'}: {error.strerror}; move away what is there, "
                           "or choose another --out") from error


def _is_run(folder: Path) -> bool:
    try:
        return "tinygan" in read_config(folder)["versions"]
    except (TinyganError, KeyError, TypeError):
        return False


def _command() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _lock_folder(folder: Path) -> int | None:
    """Lock the folder while this process lives, so that two runs never write into one. Where the system has
    no such locks the run goes on without."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise Busy(
            f"another process is writing the run in {folder}: wait for it, or choose another --out"
        ) from error
    except OSError:
        pass  # a file system without locks
    return handle


def _as_json(value):
    """Return `value` as it comes back from JSON: tuples as lists, paths as text, absolute so valid everywhere."""
    return json.loads(json.dumps(value, default=lambda v: os.path.abspath(v) if isinstance(v, Path) else str(v)))
