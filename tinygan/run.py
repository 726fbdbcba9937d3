"""The folder a run leaves behind, and the line it shows while it works.

    runs/mnist-sgan-1/  config.json     every flag as it was used, and the versions
                        log.csv         one row per logged step
                        samples/        step_000100.png: the same noise and routes every time
                        checkpoint.npz  all that is needed to go on
                        loss.png  training.gif  routes.png  report.html; of a GPAN cams.png, too

`Run` knows where things belong and keeps them consistent: it never writes into somebody's folder unasked, and
on resume it takes the log and the samples back to the checkpoint's step, so that nothing is there twice. It
does not train: the loop stands in the script.

Log columns by convention (curves, health and report know these; others may be added freely): step, d_loss,
g_loss, d_real, d_fake, d_grad, g_grad, logit_gap, spread, classes, kl, confidence, frechet (samples: how many
images the measures before it were taken from). Of a GPAN also its losses, unweighted: wanted, unwanted, cgan,
background, substrate, split; how hard each weighted one pulls: pull_vgg, pull_cgan, pull_background, pull_substrate,
pull_split; how often the classifier finds what is wanted: top1, top5, probability, of the batch train_..., through
views that training does not use view_...; variety, speckle, map_size. A log with the column wanted is a GPAN's.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

import tinygan
from tinygan import checkpoint, cli, pictures, report
from tinygan.errors import TinyganError, UsageError
from tinygan.files import whole_file
from tinygan.runfiles import columns, read_config, read_log, samples

PAPER_STEPS = (0, 50, 100, 250, 500)  # then every 1,000: the steps at which the paper shows samples
QUIET = 15.0  # seconds after which a script that is no terminal's says how far it is
GIF_WIDTH = 800  # pixels at most, so that the film can still be mailed
# Flags that say where, how long and how often, not what is computed: a resumed run may change them.
MAY_CHANGE = frozenset(
    {"steps", "epochs", "out", "resume", "overwrite", "data_dir", "device", "tf32", "threads", "dry_run"}
    | {"log_every", "sample_every", "save_every", "eval_every"}
)


def sample_due(step: int, total: int, every: int | None = None) -> bool:
    """Whether samples are drawn after `step` steps: at 0, 50, 100, 250, 500 and each 1,000 as in the paper,
    or at each multiple of `every` if given; and always at the last step, `total`."""
    if step == total:
        return True
    return step % every == 0 if every else step in PAPER_STEPS or step % 1000 == 0


class Run:
    """One run's folder. Make it with `Run.create` (a new run) or `Run.resume` (an existing one).

    flags: the settings in force; after a resume, the stored ones with the changes that were typed.
    folder: where everything is written.
    """

    def __init__(self, folder: Path, flags: Mapping):
        self.folder = folder
        self.flags = dict(flags)
        self.checkpoint_path = folder / checkpoint.FILE_NAME
        self.log_path = folder / "log.csv"
        self._columns: list[str] = []
        self._lock = _lock_folder(folder)

    @classmethod
    def create(
        cls,
        flags: Mapping,
        *,
        out: str | os.PathLike | None = None,
        name: str = "run",
        root: str | os.PathLike = "runs",
        overwrite: bool = False,
    ) -> Run:
        """Start a new run in `out`, or in root/name-1, root/name-2 ... (the next free number).

        Raises UsageError if `out` has anything in it, unless `overwrite`; then the files of the earlier run
        are removed and anything else in the folder is left alone.
        """
        folder = _next_free(Path(root), name) if out is None else _claim(Path(out), overwrite)
        run = cls(folder, flags)
        if overwrite:
            _remove_run_files(folder)
        (folder / "samples").mkdir(exist_ok=True)
        run._write_config()
        return run

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike,
        flags: Mapping,
        *,
        typed: Iterable[str] = (),
        may_change: Iterable[str] = MAY_CHANGE,
    ) -> Run:
        """Go on with the run in folder `path` (or the folder of the checkpoint file `path`).

        flags: the settings of this call; typed: the names among them that the user typed (cli.typed). What
        was not typed is taken from the stored run; what was typed may differ from it only if it is in
        `may_change`. Raises UsageError for a typed flag that contradicts the stored run, TinyganError if
        there is no run at `path`.
        """
        folder = Path(path).parent if Path(path).is_file() else Path(path)
        stored = read_config(folder)["flags"]
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
        run = cls(folder, merged)
        (folder / "samples").mkdir(exist_ok=True)
        return run

    def load(self) -> tuple[dict[str, np.ndarray], dict]:
        """The checkpoint (arrays, meta), with log and samples cut back to its step, meta["step"]."""
        arrays, meta = checkpoint.load(self.folder)
        step = meta.get("step")
        if not isinstance(step, int):
            raise TinyganError(
                f"the checkpoint in {self.folder} does not say its step: it is not one of a training run"
            )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.checkpoint_path}.tmp")  # left by a kill during a save
        rows = [row for row in read_log(self.folder) if row["step"] <= step]
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        if rows:
            self._rewrite_log(rows)
        else:
            self.log_path.unlink(missing_ok=True)
        for number, path in self.samples():
            if number > step:
                path.unlink()
        self._write_config()
        return arrays, meta

    def save(self, arrays: Mapping[str, np.ndarray], meta: Mapping) -> None:
        """Write the checkpoint; meta must hold "step", an int. On TinyganError the earlier one is intact."""
        checkpoint.save(self.checkpoint_path, arrays, meta)

    def log(self, step: int, **numbers: float) -> None:
        """Append one row to log.csv. A column that was not there before is added to the whole file."""
        row = {"step": step, **numbers}
        if new := [name for name in row if name not in self._columns]:
            rows = read_log(self.folder) if self._columns else []
            self._columns += new
            self._rewrite_log([*rows, row])
            return
        with open(self.log_path, "a", newline="", encoding="utf-8") as file:
            file.write(_csv_line(_cell(row.get(name)) for name in self._columns))

    def amend(self, step: int, **numbers: float) -> None:
        """Add numbers to the row of `step`, the last one in log.csv: what is measured after it was written."""
        rows = read_log(self.folder)
        if not rows or rows[-1]["step"] != step:
            self.log(step, **numbers)
            return
        rows[-1] |= numbers
        self._columns += [name for name in numbers if name not in self._columns]
        self._rewrite_log(rows)

    def save_sample(self, step: int, picture: np.ndarray) -> None:
        """Write a uint8 picture as samples/step_000100.png."""
        pictures.save_png(self.folder / "samples" / f"step_{step:06d}.png", picture)

    def save_picture(self, name: str, picture: np.ndarray) -> None:
        """Write a uint8 picture beside the log, as routes.png for instance."""
        pictures.save_png(self.folder / name, picture)

    def samples(self) -> list[tuple[int, Path]]:
        """The sample pictures so far: (step, path), by step."""
        return samples(self.folder)

    def finish(self) -> list[str]:
        """Draw loss.png, training.gif and report.html from what is in the folder. May be called at any time.

        A run that trained for hours must not fail for want of a plotting library: what cannot be drawn is
        returned as a list of one-line notes to show.
        """
        notes = []
        title = os.fsencode(self.folder.name).decode(errors="backslashreplace")  # it may hold bytes that are no text
        jobs = (
            lambda: pictures.loss_plot(self.folder / "loss.png", columns(read_log(self.folder)), title=title),
            self._write_gif,
            lambda: report.write_report(self.folder),
        )
        for job in jobs:
            try:
                job()
            except (TinyganError, OSError) as error:
                notes.append(" ".join(str(error).split()))
        return notes

    def close(self) -> None:
        """Let go of the folder, so that another process may go on with the run (so does this one's end)."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write_gif(self) -> None:
        if paths := [path for _, path in self.samples()]:
            frames = [pictures.shrunk(pictures.read_png(path), GIF_WIDTH) for path in paths]
            pictures.save_gif(self.folder / "training.gif", frames, ms=350)

    def _write_config(self) -> None:
        versions = {
            "tinygan": tinygan.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
        }
        config = {
            "flags": _as_json(self.flags),
            "versions": versions,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        }
        with whole_file(self.folder / "config.json") as file:
            file.write((json.dumps(config, indent=2) + "\n").encode())

    def _rewrite_log(self, rows: Iterable[Mapping[str, float]]) -> None:
        text = _csv_line(self._columns)
        text += "".join(_csv_line(_cell(row.get(name)) for name in self._columns) for row in rows)
        with whole_file(self.log_path) as file:
            file.write(text.encode())


class Progress:
    """One line that says how far the run is: on a terminal it is rewritten in place, elsewhere (a file, a
    pipe) plain lines come every `every` steps (0: none), and after `quiet` seconds without one.

        step 1,200/5,000  24%  11.3 it/s  05:36 left  d_loss 0.812  g_loss 1.31

    word: what is counted.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        every: int = 100,
        quiet: float = math.inf,
        word: str = "step",
        stream=None,
    ):
        self.total, self.start, self.every, self.quiet, self.word = total, start, every, quiet, word
        self.stream = sys.stderr if stream is None else stream
        self.on_terminal = self.stream.isatty()
        self._begun = self._said = time.monotonic()
        self._shown = -math.inf

    def update(self, step: int, **numbers: float) -> None:
        """Show that `step` steps are done, with a few numbers. Cheap enough to call at every step."""
        now = time.monotonic()
        if self.on_terminal:
            if now - self._shown >= 0.1 or step >= self.total:
                self._shown = now
                width = shutil.get_terminal_size().columns - 1
                self._write("\r" + self.line(step, now - self._begun, numbers)[:width].ljust(width))
        elif (self.every and (step % self.every == 0 or step == self.total)) or now - self._said >= self.quiet:
            self._said = now
            self._write(self.line(step, now - self._begun, numbers) + "\n")

    def say(self, text: str) -> None:
        """Show a whole line of text, above the moving one."""
        self.clear()
        self._write(f"{text}\n")

    def clear(self) -> None:
        """Take the moving line away."""
        if self.on_terminal:
            self._write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self._shown = -math.inf

    def close(self) -> None:
        """End the moving line."""
        if self.on_terminal and self._shown > -math.inf:
            self._write("\n")

    def line(self, step: int, seconds: float, numbers: Mapping[str, float]) -> str:
        rate = (step - self.start) / seconds if seconds > 0 else 0.0
        parts = [f"{self.word} {step:,}/{self.total:,}", f"{100 * step / max(self.total, 1):3.0f}%"]
        if rate > 0:
            parts += [
                f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it",
                f"{_clock((self.total - step) / rate)} left",
            ]
        return "  ".join(parts + [f"{name} {value:.3g}" for name, value in numbers.items()])

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


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
        if any(folder.iterdir()) and not overwrite:
            raise UsageError(
                f"{folder} is not empty: --resume {folder} goes on with the run in it, --overwrite starts "
                "anew in it, --out names another folder"
            )
    except OSError as error:
        raise TinyganError(
            f"cannot use {folder} as run folder: {error.strerror}; choose another with --out"
        ) from error
    return folder


def _remove_run_files(folder: Path) -> None:
    names = (
        "config.json",
        "log.csv",
        "routes.png",
        "cams.png",
        "loss.png",
        "training.gif",
        "report.html",
        checkpoint.FILE_NAME,
    )
    for path in [folder / name for name in names] + [path for _, path in samples(folder)]:
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".tmp").unlink(missing_ok=True)


def _lock_folder(folder: Path) -> int | None:
    """Hold the folder while this process lives, so that two runs never write into one. Where the system has
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
        raise TinyganError(
            f"another process is writing the run in {folder}: wait for it, or choose another --out"
        ) from error
    except OSError:
        pass  # a file system without locks
    return handle


def _as_json(value):
    """`value` as it comes back from JSON: tuples as lists, paths as text."""
    return json.loads(json.dumps(value, default=str))


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int | np.integer) else f"{float(value):.6g}"


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(list(cells))
    return line.getvalue()
