"""What a step gets from the host: numbers that change from step to step, and tables that do not.

The idea: a step that is recorded as a CUDA graph (graph.py) and replayed runs no Python, so whatever the host computes
for it - routes, noise, learning rates - must lie in device memory at a fixed place before the replay. So the code of a
step does not send such numbers; it names their place and a function that writes them:

    rates = fed((entries, 2), np.float32, fill)      # a device array; fill(host array) writes it

Ordinarily `fill` runs at once and its array is sent. While a step is recorded nothing is sent: the place is part of one
buffer, and before every replay all fills run, in the same order, and the buffer goes to the device in one copy.
`sent` is the same for what is computed from other host arrays. `each_step` and `renewed` are for work on the host
alone: counting steps, arrays made of others. `table` sends what stays as it is.

What a fill reads must change with the step, too: such arrays are called live. Routes are (`follow`), the arrays that
the caller of a recorded step gives it are (graph.py), and what `renewed` makes of them. `sent` and `renewed` refuse any
other. What a function given to `fed` or `each_step` reads is not checked.
"""

from __future__ import annotations

import contextlib
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

    buffer: device memory for all places; None while only their size is measured. tables: a pool for constants. They
    must not come from the pool of the step's own arrays: there a table could get the memory of an earlier array of the
    same step that has been freed, and every replay would write that array over it. live: host arrays by id that change
    with the step. held: what the recorded kernels read and a cache may drop.
    """

    def __init__(self, tables: Any = None, buffer: Any = None) -> None:
        self.tables, self.buffer, self.size = tables, buffer, 0
        self.constants: list[tuple[Any, np.ndarray]] = []
        self.live: dict[int, np.ndarray] = {}
        self.held: list[Any] = []
        self._work: list[Callable[[np.ndarray], None]] = []

    def place(self, shape: tuple[int, ...], dtype: Any, fill: Fill) -> Any:
        """Give out the next place of the buffer, a device array that is written by `fill` before each replay."""
        start, count = self.size, math.prod(shape) * np.dtype(dtype).itemsize
        self.add_size(count)
        if self.size > self.buffer.nbytes:
            raise TinyganError("it needs more numbers from the host than the step before")
        self._work.append(lambda host: fill(host[start:start + count].view(dtype).reshape(shape)))
        return self.buffer[start:start + count].view(dtype).reshape(shape)

    def add_size(self, count: int) -> None:
        """Count the bytes of a place."""
        self.size += -(-count // ALIGN) * ALIGN

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
    return _send(host)


def sent(compute: Callable[[], np.ndarray], *live: Any) -> Any:
    """Return compute(), an array of the host, on the device; it is computed from the `live` arrays, or from constants.

    Raises TinyganError as `check_live` does.
    """
    if _now["recorded"] is None:
        return _send(compute())
    check_live(*live)
    host = compute()
    return fed(host.shape, host.dtype, lambda out: np.copyto(out, compute()))


def _send(host: np.ndarray) -> Any:
    if _now["measured"] is not None:
        _now["measured"].add_size(host.nbytes)
    return importlib.import_module("cupy").asarray(host, order="C")


def renewed(compute: Callable[[], np.ndarray], *live: Any) -> np.ndarray:
    """Return compute(), an array of the host, which before each replay gets the numbers that compute() returns then.

    compute, live: as for `sent`; the array is live itself.
    """
    host = compute()
    if _now["recorded"] is not None:
        check_live(*live)
        follow(host)
        each_step(lambda: np.copyto(host, compute()))
    return host


def follow(*arrays: np.ndarray) -> None:
    """Take host arrays as live, where a step is recorded: whoever calls this sees to it that they are."""
    if _now["recorded"] is not None:
        _now["recorded"].live.update((id(_whole(array)), array) for array in arrays)


def check_live(*arrays: Any) -> None:
    """Raise TinyganError while a step is recorded for a host array that is not live: it would stay as it is now."""
    taken = _now["recorded"]
    if taken is not None and not all(isinstance(a, range) or id(_whole(a)) in taken.live for a in arrays):
        raise TinyganError("numbers of the host do not change with the step")


def _whole(array: Any) -> Any:
    """Return the array of which this one is a part."""
    while isinstance(getattr(array, "base", None), np.ndarray):
        array = array.base
    return array


def each_step(work: Callable[[], None]) -> None:
    """Run work() on the host: now, or before each replay of the step that is recorded."""
    if _now["recorded"] is not None:
        _now["recorded"].add_work(work)
    else:
        work()


def held(arrays: Any) -> Any:
    """Return arrays of the device that a cache holds, and where a step is recorded keep them as long as its graph."""
    if _now["recorded"] is not None:
        _now["recorded"].held.append(arrays)
    return arrays


def lasting(cupy: Any) -> Any:
    """Return a context for making arrays that outlive their step, as those of a cache do.

    They must not come from the pool of a step's own arrays: a graph that was recorded before writes on into what is
    free there.
    """
    if _now["recorded"] is None and _now["measured"] is None:
        return contextlib.nullcontext()
    return cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc)


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
