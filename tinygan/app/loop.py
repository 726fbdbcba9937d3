"""Everything around the steps of a training run: what is due when, progress, Ctrl-C, checkpoints, memory that runs out.

The steps themselves stand in the scripts:

    with Loop(game, run) as steps:
        for step in steps:
            ...                          # (1) discriminator, (2) generator
            if step.read:                # on a GPU only when a number is shown: reading one makes it wait
                step.show(d_loss=..., g_loss=...)
            if step.log:
                step.record(...)
    return end_run(steps)
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from tinygan.app import checkpoint
from tinygan.app.device import Device, first_line, memory_is_full, pick_device
from tinygan.app.run import Run
from tinygan.app.state import Diverged, Game
from tinygan.app.streams import Progress
from tinygan.engine.debug import anomaly
from tinygan.engine.tensor import Tensor
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels import threads
from tinygan.kernels.gpu.feed import recording
from tinygan.kernels.gpu.launch import set_tf32

QUIET = 15.0  # seconds after which progress is shown where there is no terminal
# Ctrl-C; a request to end; a terminal that has gone (not on Windows).
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
FIRST_STEPS = (0, 50, 100, 250, 500)  # of pictures, then every 1,000
Named = Sequence[tuple[str, Tensor]]


def sample_due(step: int, total: int, every: int | str | None = None, paper: Sequence[int] = ()) -> bool:
    """Return whether samples are drawn after `step` steps, which they always are after the last one, `total`.

    every: None for 0, 50, 100, 250, 500 and each 1,000; a number for its multiples; "paper" for the steps at which the
    paper shows samples, given in `paper`, and then each 1,000.
    """
    if step == total:
        return True
    if isinstance(every, int):
        return step % every == 0
    first = paper if every == "paper" else FIRST_STEPS
    return step in first or (step > first[-1] and step % 1000 == 0)


class Step:
    """What is due at the end of one step: log (a row of the log), picture, measure; read: whether numbers are read."""

    def __init__(self, game: Game, run: Run) -> None:
        flags, self.number = game.flags, game.step + 1
        total, every = flags["steps"], flags["eval_every"]
        self.picture = sample_due(self.number, total, flags["sample_every"], game.paper_steps)
        # Where pictures are compared with the paper's, each is measured, too.
        with_picture = self.picture and flags["sample_every"] == "paper"
        self.measure = (with_picture or bool(every) and self.number % every == 0) and self.number < total
        self.log = self.picture or self.measure or self.number % flags["log_every"] == 0
        self.read = self.log or game.device.kind == "cpu"
        self.shown: dict[str, float] = {}
        self.row: dict[str, float] = {}
        self._game, self._run = game, run

    def show(self, **numbers: float) -> None:
        """Take numbers for the progress line. Raises TinyganError, as `check` does, where one is not finite."""
        values = np.array(list(numbers.values()))
        if not np.isfinite(values).all():
            self._refuse([("the loss", Tensor(values))])
        self.shown = numbers

    def record(self, **numbers: float) -> None:
        """Take numbers for the log."""
        self.row = numbers

    def check(self, loss: Tensor, inputs: Named = (), outputs: Named = ()) -> None:
        """Raise TinyganError if a loss is NaN or infinite, before an update spreads that to all weights.

        The message names the first tensor that is not finite, in the order of cause and effect: inputs, weights of
        both nets, outputs, the loss. Nothing is done where no number is to be read, or none can be, as while a CUDA
        graph is recorded.
        """
        if not self.read or recording() is not None or np.isfinite(loss.item()):
            return
        self._refuse([*outputs, ("the loss", loss)], inputs)

    def _refuse(self, outputs: Named, inputs: Named = ()) -> None:
        """Raise TinyganError naming the first tensor that is not finite."""
        tensors = [*inputs, *self._game.weights(), *outputs]
        name = next(name for name, tensor in tensors if not np.isfinite(tensor.numpy()).all())
        raise Diverged(f"step {self.number}: {name} is not finite; {kept(self._run)}. Try a lower --lr, another "
                       "--seed, or --detect-anomaly to see which operation made it", self.number)


class Loop:
    """The steps that are left of a run, in a `with` block that handles Ctrl-C and saves the state at its end.

    stopped: whether a signal ended it. In between, the state is saved every --save-every steps.
    """

    def __init__(self, game: Game, run: Run) -> None:
        self.game, self.run, self._stop = game, run, StopSignal()

    @property
    def stopped(self) -> bool:
        """Return whether a signal to stop has arrived."""
        return self._stop.requested

    def __enter__(self) -> Loop:
        sys.stdout.flush()  # what was printed so far, where it goes to a file
        with contextlib.ExitStack() as held:
            held.enter_context(self._stop)
            held.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, on overflow: Step.check reports more
            self._held = held.pop_all()
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        with self._held:
            if kind is None:
                self._progress.close()
                self.run.save(*self.game.state())  # while signals are held back: a lost terminal often sends two

    def __iter__(self) -> Iterator[Step]:
        game, run, total = self.game, self.run, self.game.flags["steps"]
        if game.step == 0:
            before = Progress(total)
            before.update(0)
            run.print_line = before.print_line
            game.draw_samples(run)
        # Made now, as it times the steps.
        progress = self._progress = Progress(total, start=game.step, every=game.flags["log_every"], quiet=QUIET)
        run.print_line = progress.print_line
        while game.step < total and not self.stopped:
            game.set_learning_rate()
            step = Step(game, run)
            yield step
            game.step += 1
            if step.read:
                progress.update(game.step, **step.shown)
            if step.log:
                self._log(step, total)
            if game.step % game.flags["save_every"] == 0 and game.step < total:
                run.save(*game.state())

    def _log(self, step: Step, total: int) -> None:
        game, run = self.game, self.run
        game.latest = step.row
        if step.measure:
            game.check_weights()
            game.latest |= game.measure(game.samples[0])
        if step.picture:
            game.draw_samples(run)
        run.log(game.step, **game.latest)
        if step.picture and game.step < total:  # after the last step `end_run` prints more
            for line in game.status_lines(run.rows()):
                run.print_line(line)


def start(flags: dict, run: Run | None, *, name: str, build: Callable[[dict, Run | None, Device], Game],
          train: Callable[[Game, Run], int]) -> int:
    """Build the game that the flags describe and train it; returns the exit code.

    run: the one to go on with, None for a new one, runs/name-NUMBER. build: returns the game, or raises where the flags
    or the run do not fit. A dry run without --out gets a folder among the system's temporary ones.
    """
    if flags["dry_run"] and not flags["out"]:
        folder = tempfile.mkdtemp(prefix="tinygan-dry-run-")
        try:
            code = start({**flags, "out": Path(folder)}, None, name=name, build=build, train=train)
            print(f"its pictures and report are in {folder}")
            return code
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # only where nothing has come of it
    print(f"threads: {threads.set_threads(flags['threads'])}, seed: {flags['seed']}")
    threads.reuse_heap()
    device = pick_device(flags["device"], tf32=flags["tf32"])
    set_tf32(flags["tf32"] and device.kind == "gpu")
    if device.kind == "gpu":
        device.xp.cuda.Stream(non_blocking=True).use()  # only a stream of its own can be recorded
    print(device.line)
    game = build(flags, run, device)
    # Last, so that a command which cannot be carried out leaves no folder behind, and replaces none.
    if run is None:
        run = Run.create(flags, out=flags["out"], name=name, overwrite=flags["overwrite"], inputs=game.inputs)
    else:
        game.restore(*checkpoint.load(run.folder))  # may refuse: so before the log is cut back to its step
        check_steps(game.step, flags, run)
        run.load()
        print(f"going on at step {game.step} of {run.folder}")
    print(game.describe())
    try:
        with anomaly() if flags["detect_anomaly"] else contextlib.nullcontext():
            return train(game, run)
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the step that did not fit
        raise TinyganError(f"step {game.step + 1}: {out_of_memory(first_line(error), game, run)}") from None


def end_run(steps: Loop) -> int:
    """End a run: its last pictures and measurements, curves, animation and report; returns the exit code."""
    game, run = steps.game, steps.run
    if steps.stopped:
        go_on = game.resume_command.format(script=game.script, folder=run.folder)
        print(f"stopped at step {game.step}; saved. Go on with: {go_on}")
        return 130
    game.draw_final(run)
    measured = game.measure(game.samples[2 if game.flags["dry_run"] else 1])
    if measured:
        run.amend(game.step, **measured)  # into the log, and from there into the report
    for line in game.status_lines(run.rows(), measured):
        print(line)
    for note in run.finish():
        print(f"note: {note}")
    run.close()
    if game.flags["dry_run"]:
        print("dry run: one full cycle of training, saving and drawing works")
        return 0
    more = f"; more images: {game.sample_command.format(folder=run.folder)}" if game.sample_command else ""
    print(f"done: {run.folder}/report.html shows it all{more}")
    return 0


def check_steps(step: int, flags: Mapping[str, Any], run: Run) -> None:
    """Raise UsageError where a resumed run has gone beyond --steps or --epochs; print a line where it is just there."""
    total = flags["steps"]
    if step > total:
        given = f"--epochs {flags['epochs']} is {total:,} steps" if flags.get("epochs") else f"--steps {total} is less"
        raise UsageError(f"the run in {run.folder} is at step {step:,} already, and {given}: give more to go on")
    if step == total:
        print(f"this run is finished, at step {step:,} of {total:,}: more --steps would go on; its pictures and report "
              "are made anew")


def kept(run: Run) -> str:
    """Return words on what a run that fails has saved."""
    return f"the checkpoint in {run.folder} is from before" if run.checkpoint_path.exists() else "nothing was saved"


def out_of_memory(problem: str, game: Game, run: Run) -> str:
    """Return advice, in one line, where a step did not fit into memory: a batch size that was tried and fits.

    Batch sizes are halved, down to game.least; only multiples of game.multiple are tried, the others being refused.
    """
    given, least = game.flags["batch_size"], game.least
    n, fit = given, False
    while n and not fit:
        game.zero_grad()
        if game.device.kind == "gpu":
            game.device.xp.get_default_memory_pool().free_all_blocks()
        fit = _fits(game, n)
        if not fit:
            n = max(n // 2 // game.multiple * game.multiple, least) if n > least else 0
    if not n:
        advice = f"not even {'one image fits' if least == 1 else f'{least} images fit'}: {game.otherwise}"
    elif n == given:
        advice = ("it fits now, so something else took the memory for a while: close it and try again, or try a "
                  "smaller --batch-size")
    else:
        advice = f"try --batch-size {n}, which fits"
    saved = kept(run) if run.checkpoint_path.exists() else "nothing was saved yet"
    return f"out of memory at --batch-size {given} ({problem.rstrip('.')}); {advice}; {saved}"


def _fits(game: Game, n: int) -> bool:
    try:
        game.rehearse(n)
        return True
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        return False
    finally:
        game.zero_grad()


class StopSignal:
    """A `with` block in which Ctrl-C, a termination request or a lost terminal sets `requested` instead of breaking in.

    A loop that reads it after each step can save a whole state, equal to that of a run whose --steps ended there.
    Another Ctrl-C breaks in at once; the other signals often come twice, and do not. A signal that was ignored before
    (nohup, the background job of a script) stays ignored.
    """

    requested = False

    def __enter__(self) -> StopSignal:
        self._before = {}
        for number in STOP_SIGNALS:
            before = signal.getsignal(number)
            if before in (signal.SIG_IGN, None):  # None: a handler that was not set from Python, and stays
                continue
            with contextlib.suppress(ValueError):  # not in the main thread (a notebook): they stay as they are
                signal.signal(number, self._note)
                self._before[number] = before
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
