"""What a step gets from the host: numbers that change from step to step, and tables that do not.

The idea: a step that is recorded as a CUDA graph (graph.py) and replayed runs no Python, so whatever the host computes
for it - routes, noise, learning rates - must lie in device memory at a fixed place before the replay. So the code of a
step does not send such numbers; it names their place and a function that writes them:

    rates = fed((entries, 2), np.float32, fill)      # a device array; fill(host array) writes it

Ordinarily `fill` runs at once and its array is sent. While a step is recorded nothing is sent: the place is part of one
buffer, and before every replay all fills run, in the same order, and the buffer goes to the device in one copy.
`each_step` is the same for work on the host alone, such as counting steps. `table` sends what stays as it is.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygan.errors import TinyganError

ALIGN = 256  # bytes: where a part of the buffer may begin
Fill = Callable[[np.ndarray], None]


class Recording:
    """The feed of one step: first its size is measured, then its places are given out, then it is filled by `write`.

    buffer: device memory of `size` bytes; None while it is only measured. tables: a pool for constants. They must not
    come from the pool of the step's own arrays: there a table could get the memory of an earlier array of the same
    step that has been freed, and every replay would write that array over it.
    """

    def __init__(self, tables: Any) -> None:
        self.tables, self.buffer, self.size = tables, None, 0
        self.constants: list[tuple[Any, np.ndarray]] = []
        self.following: dict[int, np.ndarray] = {}
        self._work: list[Callable[[np.ndarray], None]] = []

    def begin(self, cupy: Any) -> None:
        """Give out places from here on, in a buffer of the size that was measured."""
        with cupy.cuda.using_allocator(self.tables.malloc):
            self.buffer = cupy.empty(max(self.size, ALIGN), np.uint8)
        self.size = 0

    def place(self, shape: tuple[int, ...], dtype: Any, fill: Fill) -> Any:
        """Give out the next place of the buffer, a device array that is written by `fill` before each replay."""
        start, count = self.size, math.prod(shape) * np.dtype(dtype).itemsize
        self.size += -(-count // ALIGN) * ALIGN
        if self.size > self.buffer.nbytes:
            raise TinyganError("it needs more numbers from the host than the step before")
        self._work.append(lambda host: fill(host[start:start + count].view(dtype).reshape(shape)))
        return self.buffer[start:start + count].view(dtype).reshape(shape)

    def add_work(self, work: Callable[[], None]) -> None:
        """Run work() before each replay, in its turn among the fills."""
        self._work.append(lambda host: work())

    def write(self, host: np.ndarray) -> None:
        """Run all fills, which write the buffer's next contents into `host` (bytes)."""
        for work in self._work:
            work(host)

    def send_constants(self) -> None:
        """Fill the tables, once the recording has ended."""
        for array, host in self.constants:
            array.set(host)
        self.constants.clear()


_now: dict[str, Recording | None] = {"measured": None, "recorded": None}


def recording() -> Recording | None:
    """Return the recording that is being made, or None."""
    return _now["recorded"]


def set_recording(*, measured: Recording | None = None, recorded: Recording | None = None) -> None:
    """Set which recording takes the calls to come: to measure its size, or to give out its places; None for neither."""
    _now.update(measured=measured, recorded=recorded)


def fed(shape: tuple[int, ...], dtype: Any, fill: Fill) -> Any:
    """Return a device array that fill(host array) writes: now, or before each replay of the step that is recorded."""
    if _now["recorded"] is not None:
        return _now["recorded"].place(shape, dtype, fill)
    host = np.zeros(shape, dtype)
    fill(host)
    if _now["measured"] is not None:
        _now["measured"].size += -(-host.nbytes // ALIGN) * ALIGN
    return importlib.import_module("cupy").asarray(host)


def each_step(work: Callable[[], None]) -> None:
    """Run work() on the host: now, or before each replay of the step that is recorded."""
    if _now["recorded"] is not None:
        _now["recorded"].add_work(work)
    else:
        work()


def table(host: np.ndarray) -> Any:
    """Send a table of structs as bytes. CuPy copies it to pinned memory first, so the host does not wait.

    While a step is recorded the table is sent after it: the copy would be recorded as well, from memory that is soon
    used for something else.
    """
    cupy, taken = importlib.import_module("cupy"), _now["recorded"]
    data = np.frombuffer(host.tobytes(), np.uint8)
    if taken is None:
        return cupy.asarray(data)
    with cupy.cuda.using_allocator(taken.tables.malloc):
        array = cupy.empty(data.size, np.uint8)
    taken.constants.append((array, data))
    return array
