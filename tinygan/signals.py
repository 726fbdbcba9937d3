"""Ctrl-C without losing the step: the signal is noted and acted on between two steps, never inside one."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignal:
    """`with StopSignal() as stop:` sets stop.requested on Ctrl-C (or a termination request) instead of breaking in.

    A loop that looks at it after each step can save a whole state, equal to that of a run that was told to end
    there. A second Ctrl-C breaks in at once.
    """

    requested = False

    def __enter__(self) -> StopSignal:
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread (a notebook, a test): signals keep their usual meaning
                break
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
