"""A training step recorded as one CUDA graph, and replayed with new numbers.

The idea: a step launches some hundred kernels, the same ones with the same arguments every time, and launching them
from Python takes longer than they run. CUDA records what is launched on a stream, without running it, and starts all
of it again in one call. What differs between two steps (feed.py) lies in device memory, at places that stay the same:

    step = RecordedStep(cupy, one_step, note=print)
    while ...:
        losses = step()         # two times one_step() itself, then the recording, from then on replays of it

Where the host decides what is launched, as whether a view is blurred, a step has variants: each is a graph.

The rules of recording, each for a reason that a GPU does not report:

* nothing may wait for the device, and nothing may be sent from the host: the copy would be recorded, from memory that
  is soon used for something else. CuPy is given no pinned memory meanwhile, so that such a copy raises;
* arrays that are made meanwhile belong to the graph as long as it is replayed. They come from a pool of its own, which
  the steps before have filled, and which nothing else uses. All variants share it: they run one after the other, and
  what one leaves there (but its results) no other reads;
* the caller keeps what it gave to the step (nets, optimisers) and does not replace it.

A replay gives the bits of the step itself: it launches the same kernels in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygan.errors import TinyganError
from tinygan.kernels.arguments import kept_numbers
from tinygan.kernels.gpu.feed import ALIGN, Recording, follow, set_recording

WARM_UP = 2  # steps before the recording, which compile the kernels and fill the pool and all caches
AHEAD = 2  # replays that the host may run ahead of the device, each with a buffer of its own
MOST = 16  # graphs of one step


class _Variant:
    """The calls of a variant of a step, and once it is recorded its graph, its feed and what it returned."""

    def __init__(self) -> None:
        self.calls, self.size, self.possible, self.graph = 0, 0, True, None
        self.recording = self.area = self.result = None
        self.live: Sequence[np.ndarray] = ()


class _Area:
    """The device's buffer for what is fed, and the host's buffers from which it is filled, of `size` bytes."""

    def __init__(self, cupy: Any, size: int) -> None:
        self.size, self.device = size, cupy.empty(size, np.uint8)
        self.hosts = [_pinned(cupy, size) for _ in range(AHEAD)]
        self.sent = [cupy.cuda.Event(disable_timing=True) for _ in range(AHEAD)]

    def send(self, recording: Recording, turn: int, stream: Any) -> None:
        """Fill the device's buffer with what `recording` writes."""
        self.sent[turn].synchronize()  # until the copy of AHEAD replays ago is done: the host is far ahead by then
        host = self.hosts[turn][:recording.size]
        recording.write(host)
        self.device.data.copy_from_host_async(host.ctypes.data, host.nbytes, stream)
        self.sent[turn].record(stream)


class RecordedStep:
    """A function that trains one step, which is recorded at its third call and replayed from then on.

    step: called with the arguments of each call until it is recorded; what it returns is returned by every replay,
    with new values in the same device arrays; while it is recorded it must read nothing (feed.recording() tells).
    note(line): called once for each reason why it, or a variant of it, cannot be recorded; its calls are then ones of
    `step`.
    changes: of the arguments, (variant, live): a hashable that says what is launched, for which the step is recorded
    apart, and host arrays, whose numbers in a later call of this variant are copied into those of the recorded one. No
    more than MOST variants are recorded; note(line) says so.
    """

    def __init__(self, cupy: Any, step: Callable[..., Any], note: Callable[[str], None],
                 changes: Callable[..., tuple[Hashable, Sequence[np.ndarray]]] = lambda *args: (None, ())) -> None:
        self._cupy, self._step, self._note, self._changes = cupy, step, note, changes
        self._blocks: list[Any] = []
        self._pool = cupy.cuda.MemoryPool(self._new_block)
        self._variants: dict[Hashable, _Variant] = {}
        self._area: _Area | None = None
        self._noted: set[str] = set()
        self.replays = 0

    @property
    def graphs(self) -> dict[Hashable, Any]:
        """Return the graphs by variant."""
        return {key: variant.graph for key, variant in self._variants.items() if variant.graph is not None}

    @property
    def pool_bytes(self) -> int:
        """Return the bytes of device memory that the step's own arrays take."""
        return self._pool.total_bytes()

    def __call__(self, *args: Any) -> Any:
        """Train one step; returns what `step` returns."""
        key, live = self._changes(*args)
        variant = self._variants.setdefault(key, _Variant())
        if variant.graph is None and variant.possible and variant.calls >= WARM_UP:
            self._record(variant, args, live)
        if variant.graph is not None:
            return self._replay(variant, live)
        variant.calls += 1
        measured = Recording()
        set_recording(measured=measured)
        try:
            with self._cupy.cuda.using_allocator(self._pool.malloc):
                return self._step(*args)
        finally:
            variant.size = measured.size
            set_recording()

    def _new_block(self, size: int) -> Any:
        """Allocate memory for the pool and keep it: short of memory, a pool gives back what graphs still write into.

        What the default pool holds and does not use, as after a measurement, is given back first where it is needed.
        """
        try:
            memory = self._cupy.cuda.Memory(size)
        except self._cupy.cuda.runtime.CUDARuntimeError:
            self._cupy.get_default_memory_pool().free_all_blocks()
            memory = self._cupy.cuda.Memory(size)
        self._blocks.append(memory)
        return self._cupy.cuda.MemoryPointer(memory, 0)

    def _record(self, variant: _Variant, args: tuple, live: Sequence[np.ndarray]) -> None:
        """Record the step; nothing of it runs, on the device or the host, before the first replay."""
        cupy, stream = self._cupy, self._cupy.cuda.get_current_stream()
        variant.possible = False
        if len(self.graphs) >= MOST:
            self._note_once(f"note: the step has more than {MOST} variants; the kernels of further ones are launched "
                            "one by one")
            return
        if self._area is None or self._area.size < variant.size:  # graphs that were recorded before keep theirs
            self._area = _Area(cupy, max(variant.size, ALIGN))
        recording, graph = Recording(cupy.cuda.MemoryPool(), self._area.device), None
        set_recording(recorded=recording)
        follow(*live)
        try:
            with no_uploads(cupy), cupy.cuda.using_allocator(self._pool.malloc):
                stream.begin_capture()
                try:
                    variant.result = self._step(*args)
                finally:
                    graph = stream.end_capture()
            recording.send_constants()
            recording.held.append(kept_numbers())
        except (RuntimeError, NotImplementedError, MemoryError, TinyganError) as problem:
            self._note_once(f"note: the step cannot be recorded as one CUDA graph ({problem}); its kernels are "
                            "launched one by one")
            return
        finally:
            set_recording()
        variant.graph, variant.recording, variant.area, variant.live = graph, recording, self._area, live

    def _note_once(self, line: str) -> None:
        if line not in self._noted:
            self._noted.add(line)
            self._note(line)

    def _replay(self, variant: _Variant, live: Sequence[np.ndarray]) -> Any:
        for mine, given in zip(variant.live, live, strict=True):
            mine[...] = given
        stream = self._cupy.cuda.get_current_stream()
        variant.area.send(variant.recording, self.replays % AHEAD, stream)
        variant.graph.launch(stream)
        self.replays += 1
        return variant.result


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
