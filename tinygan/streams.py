"""Standard output and error that may be missing, closed, or read by nobody any more, without a run's noticing.

A service, cron, pythonw and `>&-` start a program without them; `| head` goes away while it works, and so does a
terminal. None of that is a reason to lose a training: what cannot be shown is dropped.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
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
        """Write `text` if somebody can still read it; returns its length."""
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
        """Whether somebody looks on: a terminal."""
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
