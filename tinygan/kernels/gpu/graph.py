"""A training step recorded as one CUDA graph, and replayed with new numbers.

The idea: a step launches some hundred kernels, the same ones with the same arguments every time, and launching them
from Python takes longer than they run. CUDA records what is launched on a stream, without running it, and starts all
of it again in one call. What differs between two steps (feed.py) lies in device memory, at places that stay the same:

    step = RecordedStep(cupy, one_step, note=print)
    while ...:
        losses = step()         # two times one_step() itself, then the recording, from then on replays of it

The rules of recording, each for a reason that a GPU does not report:

* nothing may wait for the device, and nothing may be sent from the host: the copy would be recorded, from memory that
  is soon used for something else. CuPy is given no pinned memory meanwhile, so that such a copy raises;
* arrays that are made meanwhile belong to the graph as long as it is replayed. They come from a pool of its own, which
  the steps before have filled, and which nothing else uses;
* the caller keeps what it gave to the step (nets, gradients) and does not replace it.

A replay gives the bits of the step itself: it launches the same kernels in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygan.errors import TinyganError
from tinygan.kernels.gpu.feed import Recording, set_recording

WARM_UP = 2  # steps before the recording, which compile the kernels and fill the pool and all caches
AHEAD = 2  # replays that the host may run ahead of the device, each with a buffer of its own


class RecordedStep:
    """A function that trains one step, which is recorded at its third call and replayed from then on.

    step: called with the arguments of each call until it is recorded; what it returns is returned by every replay,
    with new values in the same device arrays; while it is recorded it must read nothing (feed.recording() tells).
    note(line): called once, with the reason, where it cannot be recorded; every call is then one of `step`.
    """

    def __init__(self, cupy: Any, step: Callable[..., Any], note: Callable[[str], None]) -> None:
        self._cupy, self._step, self._note = cupy, step, note
        self._pool, self._calls, self._graph, self._possible = cupy.cuda.MemoryPool(), 0, None, True
        self.replays = 0

    def __call__(self, *args: Any) -> Any:
        """Train one step; returns what `step` returns."""
        if self._graph is None and self._possible and self._calls >= WARM_UP:
            self._record(args)
        if self._graph is not None:
            self._replay()
            return self._result
        self._calls += 1
        if not self._possible:
            return self._step(*args)
        self._recording = Recording(self._cupy.cuda.MemoryPool())
        set_recording(measured=self._recording)
        try:
            with self._cupy.cuda.using_allocator(self._pool.malloc):
                return self._step(*args)
        finally:
            set_recording()

    def _record(self, args: tuple) -> None:
        """Record the step; nothing of it runs, on the device or the host, before the first replay."""
        cupy, stream = self._cupy, self._cupy.cuda.get_current_stream()
        recording, result = self._recording, None
        recording.begin(cupy)
        try:
            with self._recorded(stream), cupy.cuda.using_allocator(self._pool.malloc):
                result = self._step(*args)
            recording.send_constants()
        except (RuntimeError, NotImplementedError, TinyganError) as problem:
            self._graph, self._possible = None, False
            self._note(f"note: the step cannot be recorded as one CUDA graph ({problem}); its kernels are launched one "
                       "by one")
            return
        self._result = result
        size = recording.buffer.nbytes
        self._hosts = [_pinned(cupy, size) for _ in range(AHEAD)]
        self._sent = [cupy.cuda.Event(disable_timing=True) for _ in range(AHEAD)]

    @contextlib.contextmanager
    def _recorded(self, stream: Any) -> Iterator[None]:
        set_recording(recorded=self._recording)
        try:
            with no_uploads(self._cupy):
                stream.begin_capture()
                try:
                    yield
                finally:
                    self._graph = stream.end_capture()
        finally:
            set_recording()

    def _replay(self) -> None:
        stream, turn = self._cupy.cuda.get_current_stream(), self.replays % AHEAD
        host = self._hosts[turn]
        self._sent[turn].synchronize()  # until the copy of AHEAD replays ago is done: the host is far ahead by then
        self._recording.write(host)
        self._recording.buffer.data.copy_from_host_async(host.ctypes.data, host.nbytes, stream)
        self._sent[turn].record(stream)
        self._graph.launch(stream)
        self.replays += 1


@contextlib.contextmanager
def no_uploads(cupy: Any) -> Iterator[None]:
    """Let every copy from the host raise TinyganError: CuPy makes it through pinned memory, and gets none."""
    def refuse(size: int) -> Any:
        """Raise, whatever the size."""
        raise TinyganError("a host array is sent to the device")

    cupy.cuda.set_pinned_memory_allocator(refuse)
    try:
        yield
    finally:
        cupy.cuda.set_pinned_memory_allocator(cupy.get_default_pinned_memory_pool().malloc)


def _pinned(cupy: Any, size: int) -> np.ndarray:
    """Allocate pinned host memory, from which the device copies while the host goes on: an array of bytes."""
    return np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)
