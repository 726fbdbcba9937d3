"""Ctrl-C without losing the step: the signal is noted and acted on between two steps, never inside one."""

from __future__ import annotations

import contextlib
import signal
from types import FrameType

# Ctrl-C; a request to end; a terminal that has gone (not on Windows).
ASK_TO_STOP = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopSignal:
    """`with StopSignal() as stop:` sets stop.requested on Ctrl-C, a termination request or a lost terminal instead of
    breaking in.

    A loop that looks at it after each step can save a whole state, equal to that of a run that was told to end
    there. Another Ctrl-C breaks in at once; the other signals often come twice, and do not. A signal that was ignored
    before (nohup, the background job of a script) stays ignored.
    """

    requested = False

    def __enter__(self) -> StopSignal:
        self._before = {}
        for number in ASK_TO_STOP:
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
