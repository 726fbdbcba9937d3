"""What is shown while a run works: a line of progress, on streams that may be missing or closed.

A service, cron, pythonw and `>&-` start a program without them; `| head` goes away while it works, and so does a
terminal. None of that may end a training: what cannot be written is dropped.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO


class Patient:
    """A text stream whose first failure is noted in `lost`; from then on what is written is dropped.

    stream: None for none at all, which is no failure. Everything but writing is the stream's own.
    """

    def __init__(self, stream: TextIO | Any | None) -> None:
        # Never closed: it is the stream of the whole process.
        self.stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream
        self.lost: Exception | None = None

    def write(self, text: str) -> int:
        """Write `text` unless the stream is lost; returns its length."""
        if self.lost:
            return len(text)
        try:
            self.stream.write(text)
        except UnicodeError:  # a folder's name may hold what the stream cannot show
            self.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Send on what was written."""
        if self.lost:
            return
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        try:
            return self.stream.isatty()
        except ValueError:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _lose(self, error: Exception) -> None:
        self.lost = error
        # What is still in its buffer would make trouble when Python ends.
        with contextlib.suppress(OSError, ValueError, AttributeError):  # not a real file (a test, a notebook)
            number = self.stream.fileno()  # first: of a closed stream there is none
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, number)
            os.close(nothing)


@contextlib.contextmanager
def patient() -> Iterator[Patient]:
    """Make sys.stdout and sys.stderr patient for the time of a block; gives the one for sys.stdout."""
    _hold_numbers()
    before = sys.stdout, sys.stderr
    out, err = sys.stdout, sys.stderr = Patient(sys.stdout), Patient(sys.stderr)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _hold_numbers() -> None:
    """Open nothing where descriptors 0 to 2 are closed: else a data file would get such a number, and whatever a
    library prints would land in it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


class Progress:
    """A line that shows how far the work is: on a terminal it is rewritten in place, elsewhere (a file, a pipe) plain
    lines come every `every` steps (0: none), and after `quiet` seconds without one.

        step 1,200/5,000  24%  11.3 it/s  05:36 left  d_loss 0.812  g_loss 1.31

    word: what is counted.
    """

    def __init__(self, total: int, *, start: int = 0, every: int = 100, quiet: float = math.inf, word: str = "step",
                 stream: TextIO | None = None) -> None:
        self.total, self.start, self.every, self.quiet, self.word = total, start, every, quiet, word
        self.stream = Patient(sys.stderr if stream is None else stream)
        self.on_terminal = self.stream.isatty()
        self._begun = self._last_line = time.monotonic()
        self._shown = -math.inf

    def update(self, step: int, **numbers: float) -> None:
        """Show that `step` steps are done, with a few numbers. Cheap enough to call at every step."""
        now = time.monotonic()
        if self.on_terminal:
            if now - self._shown >= 0.1 or step >= self.total:
                self._shown = now
                width = shutil.get_terminal_size().columns - 1
                self._write("\r" + self.line(step, now - self._begun, numbers)[:width].ljust(width))
        elif (self.every and (step % self.every == 0 or step == self.total)) or now - self._last_line >= self.quiet:
            self._last_line = now
            self._write(self.line(step, now - self._begun, numbers) + "\n")

    def print_line(self, text: str) -> None:
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
        """Return the line after `step` steps in so many seconds; numbers: shown after it."""
        rate = (step - self.start) / seconds if seconds > 0 else 0.0
        parts = [f"{self.word} {step:,}/{self.total:,}", f"{100 * step / max(self.total, 1):3.0f}%"]
        if rate > 0:
            parts += [f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it",
                      f"{_clock((self.total - step) / rate)} left"]
        return "  ".join(parts + [f"{name} {value:.3g}" for name, value in numbers.items()])

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
