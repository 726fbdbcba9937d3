"""Two ways to watch the engine: `anomaly()` stops at the first NaN or infinity, `profile()` times every operation.

Both are a `Watch`. While one is set, in this thread, the engine calls it around every operation and every rule.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygan.engine.tensor import Tensor, _mode, _set_mode, describe
from tinygan.errors import TinyganError
from tinygan.kernels.arrays import xp_of

# The rooms that implement operations: `anomaly` names the line that called into them.
INNER = ("tinygan.engine.", "tinygan.ops.", "tinygan.kernels.")


class AnomalyError(TinyganError):
    """An operation made the first NaN or infinity (raised only inside `anomaly()`)."""


class Watch:
    """The base of what `_mode.watch` holds. Each method calls the one set before, so that two can be active at once."""

    def __init__(self) -> None:
        self.outer = _mode.watch

    def call(self, name: str, like: Any, work: Callable[[], Any]) -> Any:
        """Return work(), the computation of an operation or of other work on arrays such as `like`."""
        return work() if self.outer is None else self.outer.call(name, like, work)

    def made(self, out: Tensor, inputs: Sequence[Tensor]) -> None:
        """Receive the result of an operation and its inputs."""
        if self.outer is not None:
            self.outer.made(out, inputs)

    def gradient(self, rule: Callable[[Tensor, Tensor], Tensor], g: Tensor, out: Tensor) -> Tensor:
        """Return rule(g, out), the gradient of one input of the operation that made `out`."""
        return rule(g, out) if self.outer is None else self.outer.gradient(rule, g, out)


# ---- anomaly -----------------------------------------------------------------------------------------------------


class Anomaly(Watch):
    """Checks every value and every gradient; AnomalyError names the operation and the line."""

    def made(self, out: Tensor, inputs: Sequence[Tensor]) -> None:
        """Check a result, and keep on it the line that called the operation."""
        super().made(out, inputs)
        out._where = _caller()
        _check_finite(out, f"{out._op} gave", f" at {out._where}", inputs)

    def gradient(self, rule: Callable[[Tensor, Tensor], Tensor], g: Tensor, out: Tensor) -> Tensor:
        """Check the gradient that a rule returns."""
        try:
            part = super().gradient(rule, g, out)
        except AnomalyError as problem:
            raise AnomalyError(f"in the gradient of {out._op} (used at {out._where}): {problem}") from None
        if isinstance(part, Tensor):
            _check_finite(part, f"the gradient of {out._op} (used at {out._where}) is", "", [g])
        return part


@contextmanager
def anomaly() -> Iterator[None]:
    """Check every result and every gradient inside `with anomaly():`, in this thread.

    The first NaN or infinity raises AnomalyError naming the operation, the line that called it, and its inputs.
    """
    with _set_mode(watch=Anomaly()):
        yield


def _check_finite(t: Tensor, what: str, where: str, inputs: Sequence[Tensor]) -> None:
    if bad := t.size - int(t.xp.isfinite(t.data).sum()):
        raise AnomalyError(f"{what} not finite in {bad} of {t.size} values{where}; inputs: "
                           f"{', '.join(map(describe, inputs))}")


def _caller() -> str:
    """Return file:line of the innermost caller outside the modules that implement operations."""
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith(INNER):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


# ---- profile -----------------------------------------------------------------------------------------------------


class Profile(Watch):
    """Milliseconds and calls per operation, gathered inside `with profile() as p:`; `print(p)` shows the table."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def call(self, name: str, like: Any, work: Callable[[], Any]) -> Any:
        """Time work(), and wait for a GPU to finish it: otherwise its time would be added to a later operation."""
        started = time.perf_counter()
        result = super().call(name, like, work)
        if xp_of(like) is not np:
            xp_of(like).cuda.get_current_stream().synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        self.calls[name] = self.calls.get(name, 0) + 1
        return result

    def rows(self) -> list[tuple[str, int, float]]:
        """List (op, calls, milliseconds), the costliest first."""
        return sorted(((n, self.calls[n], s * 1e3) for n, s in self.seconds.items()), key=lambda row: -row[2])

    def __str__(self) -> str:
        total = sum(ms for _, _, ms in self.rows()) or 1.0
        lines = [f"{'op':24} {'calls':>7} {'ms':>10} {'ms/call':>9} {'share':>6}"]
        lines += [f"{name:24} {calls:7d} {ms:10.2f} {ms / calls:9.4f} {ms / total:6.1%}"
                  for name, calls, ms in self.rows()]
        return "\n".join(lines)


@contextmanager
def profile(show: bool = True) -> Iterator[Profile]:
    """Time every operation inside `with profile():`, forward and backward; print milliseconds per op at the end.

    Work on arrays outside of operations (filters normalised together, optimisers) is listed as well. On a GPU each
    operation is waited for. show: False prints nothing. Yields the Profile p: p.seconds and p.calls per operation,
    p.rows() in milliseconds; print(p) shows the table.
    """
    report = Profile()
    with _set_mode(watch=report):
        yield report
    if show:
        print(report)
