"""What the GPU benchmark runs, and tinygan's side of it: the problems, the clocks, the count of launches, the floors.

Problems are drawn with NumPy, so that both sides get the same numbers. A side has

    run()         one iteration, reading nothing back: work is handed to the GPU and Python goes on
    results()     what it computes, as NumPy arrays: see `difference`
    bits(n)       what n iterations compute, as NumPy arrays: the recorded form must have the bits of the eager one
    period        how many different inputs it runs through
    clock         marks moments in the stream that its work is in

Everything takes the array module (`xp`) and a clock, so all but the GPU itself can be tested without one.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any

import cpu_counts
import gpan_tinygan
import numpy as np
from cpu_worker import LR, TinyganTrainer, make_batches
from gpan_problem import WANTED, GPANProblem, VGG16Problem

from tinygan import Tensor, grad
from tinygan.app.device import load_driver
from tinygan.app.feeds import FedRoutes, view_arrays, view_variant
from tinygan.kernels.arrays import to_numpy
from tinygan.kernels.gpu import launch
from tinygan.kernels.gpu.feed import fed
from tinygan.kernels.gpu.graph import RecordedStep
from tinygan.models import GANConfig
from tinygan.nn import RMSprop
from tinygan.ops import conv_transpose2d

MATHS = ("fp32", "tf32")
# Sixteen batches have 96 lists of routes, more than the kernels keep (64): as in training, every one is sorted and
# sent to the GPU anew.
BATCHES = 16
# Iterations before anything is timed, or as many as there are different inputs. The GPAN has three, of two variants at
# most, and each is recorded when it comes for the third time.
WARM_UP = 10
SMALL_GRADIENT = 1e-3  # of its net's whole gradient: below it, a difference is measured against this share

# ---- problems ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerProblem:
    """A stochastic transposed convolution, forward and backward, with one draw of routes."""

    bank: int
    batch: int
    inputs: int = 256
    outputs: int = 128
    side: int = 8
    kernel: int = 4
    stride: int = 2
    padding: int = 1

    @property
    def name(self) -> str:
        """Return its name in the table."""
        return f"layer K {self.bank} batch {self.batch}"

    @property
    def big_side(self) -> int:
        """Return side of the output."""
        return self.stride * (self.side - 1) + self.kernel - 2 * self.padding

    @property
    def counts(self) -> cpu_counts.Layer:
        """Describe the layer as cpu_counts.py describes one."""
        return cpu_counts.Layer("G", self.inputs, self.outputs, self.kernel, self.side, self.big_side, self.bank,
                                False, False)

    def routes(self) -> np.ndarray:
        """Draw a filter set for each sample."""
        return np.random.default_rng(0).integers(0, self.bank, self.batch)

    def arrays(self) -> dict[str, np.ndarray]:
        """Draw x (N, A, h, w), weight (K, A, B, k, k), dy (N, B, H, W) and routes (N,)."""
        rng = np.random.default_rng(1)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, dtype=np.float32)

        scale = np.float32((self.inputs * self.kernel ** 2) ** -0.5)
        return {"routes": self.routes(), "x": normal(self.batch, self.inputs, *[self.side] * 2),
                "weight": normal(self.bank, self.inputs, self.outputs, *[self.kernel] * 2) * scale,
                "dy": normal(self.batch, self.outputs, *[self.big_side] * 2)}

    @property
    def flop(self) -> float:
        """Count the operations of its three products."""
        return 3 * self.batch * self.counts.flop

    @property
    def bytes_moved(self) -> float:
        """Count each operand of the three maps once, and the matrix of columns written and read in each."""
        used = len(np.unique(self.routes()))
        maps = self.batch * (self.counts.small + self.counts.big)
        return cpu_counts.FLOAT_BYTES * 3 * (maps + used * self.counts.weights + 2 * self.batch * columns(self.counts))


@dataclass(frozen=True)
class StepProblem:
    """One training step of the GAN (bank 1) or the SGAN: D and G with their optimisers, 32 x 32 images."""

    base: int
    bank: int
    batch: int

    @property
    def name(self) -> str:
        """Return its name in the table."""
        return f"{'SGAN' if self.bank > 1 else 'GAN'} step base {self.base} K {self.bank} batch {self.batch}"

    @property
    def config(self) -> GANConfig:
        """Return the nets' settings."""
        return GANConfig(base_channels=self.base, bank=(self.bank,))

    def batches(self) -> list[dict[str, np.ndarray]]:
        """Draw images, noise and routes of the steps."""
        return make_batches(self.batch, self.bank, BATCHES)

    @property
    def flop(self) -> float:
        """Count the operations of the products of a step."""
        return cpu_counts.step_flop(self.config, self.batch)

    @property
    def bytes_moved(self) -> float:
        """Count what cpu_counts.py counts, and the matrix of columns written and read in every pass of every layer."""
        through = sum(sum(layer.passes()) * columns(layer) for layer in cpu_counts.layers(self.config))
        return cpu_counts.step_bytes(self.config, self.batch) + cpu_counts.FLOAT_BYTES * 2 * through * self.batch


def columns(layer: cpu_counts.Layer) -> int:
    """Count the numbers of one sample in the matrix of columns; a 1 x 1 kernel needs none."""
    return layer.big_channels * layer.kernel ** 2 * layer.small_side ** 2 if layer.kernel > 1 else 0


# ---- tinygan's side ----------------------------------------------------------------------------------------------


class TinyganLayer:
    """The layer problem on arrays of `xp`."""

    period = 1

    def __init__(self, problem: LayerProblem, xp: Any, clock: Any) -> None:
        arrays = problem.arrays()
        self.problem, self.clock = problem, clock
        self.routes = arrays["routes"] if problem.bank > 1 else None
        self.x, self.dy = (Tensor(as_maps(xp, arrays[name]), requires_grad=name == "x") for name in ("x", "dy"))
        self.weight = Tensor(xp.asarray(arrays["weight"]), requires_grad=True)

    def compute(self) -> tuple[Any, list[Any]]:
        """Compute (output, [gradient of the input, gradient of the weight])."""
        y = conv_transpose2d(self.x, self.weight, stride=self.problem.stride, padding=self.problem.padding,
                             routes=self.routes)
        return y, grad(y, [self.x, self.weight], seed=self.dy)

    def run(self) -> Any:
        """Run forward and backward once; returns what `compute` returns."""
        return self.compute()

    def results(self) -> dict[str, np.ndarray]:
        """Compute the output and both gradients."""
        y, (dx, dw) = self.run()
        return {"losses/output": y.numpy(), "gradients/layer.input": dx.numpy(), "gradients/layer.weight": dw.numpy()}

    def bits(self, runs: int) -> dict[str, np.ndarray]:
        """Compute the same at the last of so many runs."""
        return [self.results() for _ in range(runs)][-1]


def as_maps(xp: Any, array: np.ndarray) -> Any:
    """Copy (N, C, H, W) to the device in the memory order of a net's maps there: channel, sample, row, column."""
    return xp.asarray(np.ascontiguousarray(array.swapaxes(0, 1))).swapaxes(0, 1)


class Steps:
    """What the training steps share. take(batch) takes a step, and returns its losses."""

    def run(self) -> Any:
        """Take one step with the next batch; returns its losses."""
        losses = self.take(self.batches[self.at % self.period])
        self.at += 1
        return losses

    def bits(self, runs: int) -> dict[str, np.ndarray]:
        """Compute the losses of so many steps, each read at its end, and the weights after them."""
        losses = [[loss.item() for loss in self.run()] for _ in range(runs)]
        return {"losses": np.array(losses)} | host(self.weights())


class TinyganStep(Steps, TinyganTrainer):
    """The training step on arrays of `xp`."""

    period = BATCHES

    def __init__(self, problem: StepProblem, xp: Any, clock: Any) -> None:
        super().__init__(problem.base, problem.bank)
        self.shake()
        for net in self.nets.values():
            net.to(xp.asarray)
        # Made again: on a GPU an optimiser gathers the weights that it is given in one buffer.
        self.g_optimizer, self.d_optimizer = (
            RMSprop(self.nets[net].named_parameters(), lr=LR, alpha=0.9, eps=1e-6) for net in ("G", "D"))
        self.clock, self.at = clock, 0
        self.batches = [{name: a if a.dtype.kind == "i" else xp.asarray(a) for name, a in batch.items()}
                        for batch in problem.batches()]

    def take(self, batch: dict[str, Any]) -> Any:
        """Take one step, kernel by kernel."""
        return self.train(batch)

    def results(self) -> dict[str, np.ndarray]:
        """Compute losses and gradients from the weights as they are, then how far one step moves each parameter."""
        before = host(self.weights())
        for optimizer in (self.g_optimizer, self.d_optimizer):
            optimizer.step = lambda: None  # so that the second loss does not depend on the first update
        losses = self.train(self.batches[0])
        for optimizer in (self.g_optimizer, self.d_optimizer):
            del optimizer.step
        arrays = {"losses/both": np.array([loss.item() for loss in losses])}
        for net in ("G", "D"):
            arrays |= {f"gradients/{name}": a for name, a in host(self.gradients(net)).items()}
        self.train(self.batches[0])
        return arrays | moves(before, host(self.weights()))


class TinyganGPAN(Steps):
    """VGG16, or a training step of the GPAN, on arrays of `xp`."""

    def __init__(self, problem: VGG16Problem | GPANProblem, xp: Any, clock: Any) -> None:
        self.side = gpan_tinygan.make(problem)
        self.side.shake()
        self.side.to(xp.asarray)
        self.clock, self.at, self.period = clock, 0, problem.count
        # The noise of the views is drawn within the step, and routes and views stay on the host.
        self.batches = [{name: xp.asarray(a) if getattr(a, "dtype", None) == np.float32 and name != "view_noise" else a
                         for name, a in batch.items()} for batch in problem.batches()]

    def weights(self) -> dict[str, Any]:
        """Return those of the nets that learn."""
        return self.side.weights()

    def take(self, batch: dict[str, Any]) -> Any:
        """Take one step, kernel by kernel."""
        return self.side.train(batch)

    def results(self) -> dict[str, np.ndarray]:
        """Compute losses and gradients, then how far the step moved each parameter.

        Both nets are updated at the end of the step, so no loss depends on an update.
        """
        before = host(self.weights())
        arrays = {"losses/all": np.array([loss.item() for loss in self.side.train(self.batches[0])])}
        for net in self.side.nets:
            arrays |= {f"gradients/{name}": a for name, a in host(self.side.gradients(net)).items()}
        return arrays | moves(before, host(self.weights()))


def host(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copy the arrays to the host."""
    return {name: to_numpy(array).copy() for name, array in arrays.items()}


def moves(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the length of the way each parameter went.

    Its direction is left out: where a gradient is next to zero, its sign depends on rounding, and RMSprop then takes a
    step of full size one way or the other.
    """
    return {f"moves/{name}": np.array([np.linalg.norm(after[name] - before[name])]) for name in before}


def difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, tuple[float, str]]:
    """Compute for "losses", "gradients" and "moves": (the largest relative difference, its place); infinite for NaN.

    An array that one side lacks counts as zeros: tinygan gives a filter set that no sample used no gradient. A
    gradient's difference is measured against its length, but at least SMALL_GRADIENT of the length of all gradients
    of its net together: what is left after most of a sum cancels has few digits that are right on any side.
    """
    whole: dict[str, float] = {}
    for key, array in theirs.items():
        whole[net_of(key)] = float(np.hypot(whole.get(net_of(key), 0.0), np.linalg.norm(array)))
    worst: dict[str, tuple[float, str]] = {}
    for key in sorted(ours.keys() | theirs.keys()):
        kind, _, name = key.partition("/")
        a, b = (np.asarray(side.get(key, 0.0), np.float64) for side in (ours, theirs))
        if a.ndim and b.ndim and a.shape != b.shape:
            worst[kind] = float("inf"), f"{name}: shapes {a.shape} and {b.shape}"
            continue
        least = SMALL_GRADIENT * whole.get(net_of(key), 0.0) if kind == "gradients" else 0.0
        gap, size = float(np.linalg.norm(a - b)), max(float(np.linalg.norm(b)), least)
        relative = gap / size if size and np.isfinite(gap) else 0.0 if gap == 0 else float("inf")
        if relative >= worst.get(kind, (0.0, ""))[0]:
            worst[kind] = relative, name
    return worst


def net_of(key: str) -> str:
    """Name the net: "gradients/G.deconvs.0.weight.3" -> "gradients/G"."""
    return key.partition(".")[0]


# ---- the same, recorded as one CUDA graph ------------------------------------------------------------------------


class Recorded:
    """What the recorded sides share: the graph, and a stream of its own, which waits for no other one.

    notes: why it could not be recorded; nothing where it could. Each variant's third run is the first recorded one.
    """

    def record(self, xp: Any, work: Callable[..., Any], *changes: Callable[..., Any]) -> None:
        """Let self.recorded be the recorded form of work; changes: RecordedStep's."""
        self.notes: list[str] = []
        self.recorded = RecordedStep(xp, work, self.notes.append, *changes)
        self.stream = _own_stream(xp)
        self.clock = CupyClock(xp, self.stream)
        self.clock.wait()  # for what was sent before, in another stream

    def bits(self, runs: int) -> dict[str, np.ndarray]:
        """Compute what the eager side computes, read inside the stream."""
        with self.stream:
            return super().bits(runs)

    @property
    def graph(self) -> Any:
        """Return the graph, of several that of the variant that was recorded first; None before."""
        return next(iter(self.recorded.graphs.values()), None)

    @property
    def nodes(self) -> dict[str, int] | None:
        """Count the nodes by their kind; None before it was recorded, or where they cannot be counted."""
        graph = self.graph
        return None if graph is None else node_kinds(graph)


@functools.cache
def _own_stream(xp: Any) -> Any:
    """Make the stream of all recorded sides: cuBLAS' handle and workspace for a stream stay."""
    return xp.cuda.Stream(non_blocking=True)


class RecordedLayer(Recorded, TinyganLayer):
    """The layer problem. Its routes stay the same: they lie on the device from the first run on."""

    def __init__(self, problem: LayerProblem, xp: Any, clock: Any) -> None:
        super().__init__(problem, xp, clock)
        self.record(xp, self.compute)

    def run(self) -> Any:
        """Replay forward and backward once."""
        with self.stream:
            return self.recorded()


class RecordedTraining(Recorded, TinyganStep):
    """The training step. Images and noise lie on the device, as PyTorch's do; the number of a batch and its routes are
    sent before each replay."""

    def __init__(self, problem: StepProblem, xp: Any, clock: Any) -> None:
        super().__init__(problem, xp, clock)
        self.resident = {name: xp.stack([batch[name] for batch in self.batches]) for name in ("real", "z1", "z2")}
        self.routes, self.turns = FedRoutes(xp, problem.batch, problem.config.bank, 2), cycle(("routes1", "routes2"))
        self.record(xp, self.one_step)

    def one_step(self) -> Any:
        """Take one step with the next batch: the code that is recorded."""
        at = fed((1,), np.int32, lambda out: out.fill(self.at % BATCHES))
        batch = {name: arrays.take(at, axis=0)[0] for name, arrays in self.resident.items()}
        for turn in range(2):
            batch[f"routes{turn + 1}"] = self.routes.drawn(
                turn, lambda: self.batches[self.at % BATCHES][next(self.turns)])
        return self.train(batch)

    def take(self, batch: dict[str, Any]) -> Any:
        """Replay one step; the batch is that of `self.at`."""
        with self.stream:
            return self.recorded()


class RecordedGPAN(Recorded, TinyganGPAN):
    """VGG16, or the GPAN's training step. Images, substrates and the generator's noise lie on the device, as PyTorch's
    do; routes, views and their noise are sent before each replay. A batch with blurred views has a graph of its own."""

    def __init__(self, problem: VGG16Problem | GPANProblem, xp: Any, clock: Any) -> None:
        super().__init__(problem, xp, clock)
        first = self.batches[0]
        self.resident = {name: xp.stack([batch[name] for batch in self.batches]) for name, array in first.items()
                         if isinstance(array, xp.ndarray)}
        self.routes = FedRoutes(xp, problem.batch, problem.config.bank, 1) if "routes" in first else None
        self.record(xp, self.one_step, lambda wanted, views: (view_variant(views), [wanted, *view_arrays(views)]))

    def one_step(self, wanted: np.ndarray, views: Any) -> Any:
        """Take one step with the next batch: the code that is recorded."""
        at = fed((1,), np.int32, lambda out: out.fill(self.at % self.period))
        batch = {name: arrays.take(at, axis=0)[0] for name, arrays in self.resident.items()}
        batch |= {"wanted": wanted, "views": views}
        if self.routes is not None:
            batch["routes"] = self.routes.drawn(0, lambda: self.batches[self.at % self.period]["routes"])
        return self.side.train(batch)

    def take(self, batch: dict[str, Any]) -> Any:
        """Replay one step; the batch is that of `self.at`."""
        with self.stream:  # replays write into the views that were recorded
            return self.recorded(np.array(WANTED), deepcopy(batch.get("views")))


RECORDED = {LayerProblem: RecordedLayer, StepProblem: RecordedTraining, VGG16Problem: RecordedGPAN,
            GPANProblem: RecordedGPAN}
EAGER = {LayerProblem: TinyganLayer, StepProblem: TinyganStep, VGG16Problem: TinyganGPAN, GPANProblem: TinyganGPAN}
KINDS_OF_NODES = {0: "kernel", 1: "copy", 2: "memset", 10: "allocation", 11: "free"}  # of CUDA's CUgraphNodeType


def replayed(problem: Any, xp: Any, clock: Any, runs: int) -> tuple[Any, list[str]]:
    """Return the recorded side after so many runs, and what is not equal bit by bit to as many eager ones.

    Where it could not be recorded, the list says why.
    """
    eager = EAGER[type(problem)](problem, xp, clock).bits(runs)
    side = RECORDED[type(problem)](problem, xp, clock)
    recorded = side.bits(runs)
    apart = [name for name, array in eager.items() if array.tobytes() != recorded[name].tobytes()]
    return side, side.notes or apart


def node_kinds(graph: Any) -> dict[str, int] | None:
    """Count the nodes of a CuPy Graph by their kind, from the driver's library; None where it does not tell."""
    if "cpucupy" in sys.modules:
        names = sys.modules["cpucupy"].nodes(graph)
        return dict(Counter(name if name in ("copy", "memset") else "kernel" for name in names))
    driver, count = load_driver(), ctypes.c_size_t()
    address = ctypes.c_void_p(graph.graph)
    if driver.cuGraphGetNodes(address, None, ctypes.byref(count)):
        return None
    nodes = (ctypes.c_void_p * count.value)()
    driver.cuGraphGetNodes(address, nodes, ctypes.byref(count))
    kinds, kind = Counter(), ctypes.c_int()
    for node in nodes:
        driver.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind))
        kinds[KINDS_OF_NODES.get(kind.value, f"type {kind.value}")] += 1
    return dict(kinds)


# ---- clocks ------------------------------------------------------------------------------------------------------


class HostClock:
    """For work that is done when the call returns."""

    def mark(self) -> float:
        """Return the time now."""
        return time.perf_counter()

    def wait(self) -> None:
        """Return at once: nothing is left to be done."""

    def between(self, start: float, end: float) -> float:
        """Measure the milliseconds from one mark to another."""
        return (end - start) * 1e3


class CupyClock:
    """Events in a stream of CuPy's: the one that is given, or else the current one."""

    def __init__(self, cupy: Any, stream: Any = None) -> None:
        self.cuda, self.stream = cupy.cuda, stream

    def mark(self) -> Any:
        """Record an event after all work queued so far."""
        event = self.cuda.Event()
        event.record(self.stream)
        return event

    def wait(self) -> None:
        """Wait until all work is done."""
        self.cuda.Device().synchronize()

    def between(self, start: Any, end: Any) -> float:
        """Measure the milliseconds from one event to another; both must have come."""
        return self.cuda.get_elapsed_time(start, end)


def timed_round(run: Callable[[], None], steps: int, clock: Any) -> tuple[list[float], float]:
    """Measure (milliseconds of each of `steps` runs by the clock's marks, milliseconds per run by the wall)."""
    clock.wait()
    marks = []
    started = time.perf_counter()
    for _ in range(steps):
        begin = clock.mark()
        run()
        marks.append((begin, clock.mark()))
    clock.wait()  # never inside the loop: the host may run ahead of the GPU, as it does in training
    wall = (time.perf_counter() - started) * 1e3 / steps
    return [clock.between(begin, end) for begin, end in marks], wall


def handed_over(run: Callable[[], None], runs: int, clock: Any) -> float:
    """Measure the median milliseconds until run() returns while the GPU has nothing else to do: the host's share."""
    times = []
    for _ in range(runs):
        clock.wait()
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1e3)
    clock.wait()
    return median(times)


# ---- counts and floors -------------------------------------------------------------------------------------------


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count the kernels that tinygan launches and its calls of matrix products, inside the `with`.

    What CuPy launches by itself (copies, sums, a table sent to the GPU) is not counted.
    """
    from tinygan.kernels import gpu  # noqa: F401  all of its modules must be there to be wrapped

    counts = {"launches": 0, "products": 0}

    def counting(kind: str, function: Callable) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            counts[kind] += 1
            return function(*args, **options)
        return call

    wrapped = [("launches", "launch", launch.launch), ("products", "gemm", launch.gemm)]
    replaced = []
    for module in [m for title, m in sys.modules.items() if title.partition(".")[0] == "tinygan"]:
        for kind, name, function in wrapped:
            if vars(module).get(name) is function:
                setattr(module, name, counting(kind, function))
                replaced.append((module, name, function))
    try:
        yield counts
    finally:
        for module, name, function in replaced:
            setattr(module, name, function)


def product_speed(xp: Any, clock: Any, size: int, repeat: int = 10) -> float:
    """Measure the GFLOP/s of a size x size x size product in the math mode that is set; the best of several."""
    rng = np.random.default_rng(0)
    # Numbers that all differ: a GPU that multiplies zeros draws less power and runs faster than it does at work.
    a, b = (xp.asarray(rng.standard_normal((size, 1), dtype=np.float32))
            * xp.asarray(rng.standard_normal((1, size), dtype=np.float32)) for _ in range(2))
    out = xp.empty((size, size), np.float32)
    launch.gemm(out, a, b)  # the first call loads and chooses
    times, _ = timed_round(lambda: launch.gemm(out, a, b), repeat, clock)
    return 2 * size ** 3 / min(times) / 1e6


def copy_speed(xp: Any, clock: Any, megabytes: int, repeat: int = 20) -> float:
    """Measure the GB/s, read and written, of copying an array of so many MB; the best of several."""
    source, target = xp.ones(megabytes * 250_000, np.float32), xp.zeros(megabytes * 250_000, np.float32)
    xp.copyto(target, source)
    times, _ = timed_round(lambda: xp.copyto(target, source), repeat, clock)
    return 2 * source.nbytes / min(times) / 1e6


def floors(problem: Any, speed: Mapping[str, float]) -> tuple[float, float]:
    """Compute the milliseconds that (the products, the moving of bytes) take at least, at `gflops` and `gbytes`."""
    return problem.flop / speed["gflops"] / 1e6, problem.bytes_moved / speed["gbytes"] / 1e6
