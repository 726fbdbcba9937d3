"""Time tinygan on a GPU against PyTorch on the same one: the stochastic layer, VGG16, and whole training steps.

    python benchmarks/gpu.py                       all rows, fp32 and tf32: compiling takes most of the time
    python benchmarks/gpu.py --quick --no-compile  small ones, to see that it works

PyTorch may run eagerly or compiled (torch.compile, mode reduce-overhead, which replays CUDA graphs), with banks by a
loop over the filter sets in use or by a grouped convolution (gpu_torch.py has all forms). Its fastest counts. tinygan
runs kernel by kernel and recorded as one CUDA graph, as the training scripts do. What makes the comparison fair:

  - all get the same weights, images, noise and routes and the same math mode: float32, or products in TF32
  - before anything is timed, losses and gradients must agree in float32, and so must the distance that one step moves
    each parameter; a row where they do not says "differs" and the exit code is 1. So does one where the recorded form
    has not the very bits of the other
  - all run in this one process on one GPU and take turns, round by round
  - a time is the median over the rounds of each round's median, by events in the stream around each iteration.
    Where the GPU waits for the host, the waiting is in it; the time by the wall stands beside it, and the host's share
    of it: until a call returns while the GPU has nothing else to do

One thing is not equal: tinygan draws the noise of the GPAN's views on the host within its step, and sends it; PyTorch
finds it on the GPU.

VGG16 has random weights, so no file is needed; the GPAN's steps are against it (gpan_problem.py). Near a ReLU's kink
rounding decides which way a gradient goes, so theirs need only agree to a tenth; benchmarks/cpu.py checks them closely.

Beside the times stand the floor (the larger of: operations over the speed of a large product in that math mode, bytes
over the speed of a large copy, both measured here; bytes are each operand once, and the matrix of columns written and
read; of VGG16 its maps and weights once, of the GPAN those of its classifier alone), how many kernels tinygan launches,
and how many nodes its graph has.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from gpan_problem import GRADIENT_LIMIT, NARROW, GPANProblem, VGG16Problem
from gpan_problem import MOVES_LIMIT as GPAN_MOVES_LIMIT
from gpu_tinygan import (
    EAGER,
    MATHS,
    WARM_UP,
    CupyClock,
    LayerProblem,
    StepProblem,
    copy_speed,
    counted,
    difference,
    floors,
    handed_over,
    host,
    product_speed,
    replayed,
    timed_round,
)

from tinygan.app import cli
from tinygan.app.device import first_line, memory_is_full, pick_device, version
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels.gpu import launch
from tinygan.models.gpan.nets import SIZES

Problem = LayerProblem | StepProblem | VGG16Problem | GPANProblem
KINDS = ("layer", "step", "vgg16", "gpan")
HANDED = 10  # iterations by which the host's share is measured
OURS = ("tinygan", "tinygan graph")  # its forms; the others are PyTorch's
# The largest relative difference that passes, by math mode. TF32 has 13 bits fewer, so there it only separates nonsense
# from rounding; that the same forms agree in float32 has been checked before.
LIMITS = {"fp32": 1e-3, "tf32": 1e-1}
MOVES_LIMIT = 1e-2  # of the distances that an optimiser moves the parameters


@dataclass
class Place:
    """Where to run: tinygan's array module, its clock, PyTorch's device, how PyTorch compiles, and whether CuPy records
    graphs there."""

    xp: Any
    clock: Any
    device: str
    compiling: Callable | None  # None: no compiled forms
    records: bool = False
    speed: dict[str, dict[str, float]] = field(default_factory=dict)  # by math mode: gflops, gbytes


@dataclass
class Row:
    """One problem in one math mode, and what was measured of it. Forms: those of OURS, "eager ...", "compiled ..."."""

    problem: Problem
    math: str
    status: str = ""  # "differs" or "out of memory", or nothing
    ms: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)  # losses and gradients of a form against tinygan's
    launches: float = 0.0
    products: float = 0.0
    nodes: int | None = None
    notes: list[str] = field(default_factory=list)

    def best(self, kind: str = "") -> str | None:
        """Return PyTorch's fastest form ("eager" or "compiled" ones, or of all); None if none was timed."""
        return min((form for form in self.ms if form not in OURS and form.startswith(kind)), key=self.ms.get,
                   default=None)

    @property
    def ours(self) -> str | None:
        """Return tinygan's fastest form; None if none was timed."""
        return min((form for form in OURS if form in self.ms), key=self.ms.get, default=None)

    def ratio(self, kind: str = "") -> float | None:
        """Return the time of tinygan's fastest form over that of PyTorch's fastest of a kind (see `best`)."""
        return self.ms[self.ours] / self.ms[self.best(kind)] if self.ours and self.best(kind) else None


def main(argv: Sequence[str] | None = None) -> int:
    args = read_args(argv)
    if importlib.util.find_spec("torch") is None:
        raise TinyganError('PyTorch is not installed, and this benchmark compares with it: pip install ".[bench]"')
    device = pick_device("gpu")
    import gpu_torch
    import torch

    if not torch.cuda.is_available():
        raise TinyganError(f"PyTorch {torch.__version__} finds no GPU that it can use, though CuPy does: install a "
                           "PyTorch for CUDA (pytorch.org shows the command)")
    place = Place(device.xp, CupyClock(device.xp), "cuda", None if args.no_compile else gpu_torch.compile_reduced,
                  records=True)
    return run(place, args, conditions(device.xp, torch, args))


def run(place: Place, args: argparse.Namespace, lines: list[str]) -> int:
    """Measure all rows in a place, print them, write them; the exit code."""
    started = time.monotonic()
    rows: list[Row] = []
    try:
        measure_speed(place, args)
        for problem in problems(args):
            rows += measure(problem, place, args)
    finally:
        set_math("fp32")
    print(report(rows, place.speed, lines))
    if args.json:
        content = {"conditions": lines, "speed": place.speed, "rows": [json_row(row, place.speed) for row in rows]}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    say(f"took {time.monotonic() - started:.0f} s")
    return int(any(row.status == "differs" for row in rows))


def problems(args: argparse.Namespace) -> list[Problem]:
    """List the rows of the table, in one math mode."""
    layers = [LayerProblem(bank, batch, args.inputs, args.outputs, args.side, args.kernel, args.stride, args.padding)
              for bank in args.bank for batch in args.batch]
    steps = [StepProblem(args.base, bank, args.step_batch) for bank in args.step_bank]
    vgg16 = [VGG16Problem(args.photos, args.side_vgg16, args.narrow)]
    gpans = [GPANProblem(size, args.gpan_batch, base=args.gpan_base, patch=args.gpan_base, side=args.side_vgg16,
                         narrow=args.narrow) for size in args.size]
    return [problem for kind, group in zip(KINDS, (layers, steps, vgg16, gpans), strict=True)
            if args.only in (kind, None) for problem in group]


# ---- measuring ---------------------------------------------------------------------------------------------------


def measure(problem: Problem, place: Place, args: argparse.Namespace) -> list[Row]:
    """Measure a row for each math mode. Float32 always comes first: there the forms must agree."""
    rows = [Row(problem, math) for math in MATHS if math == "fp32" or math in args.math]
    forms = torch_forms(problem, place)
    for row in rows:
        first = rows[0]
        if first.status:
            row.status, row.notes = first.status, first.notes
            continue
        try:
            measure_row(row, place, args, forms, timed=row.math in args.math)
        except Exception as error:
            if not memory_is_full(error):
                raise
            row.status, row.ms = "out of memory", {}
        free(place)  # out here, where the error holds no array any more
        forms = list(row.differences)  # in TF32 no form that has not been checked in float32
    return [row for row in rows if row.math in args.math]


def measure_row(row: Row, place: Place, args: argparse.Namespace, forms: list[str], timed: bool = True) -> None:
    """Check that all forms compute the same, then time them in turns; the results go into `row`."""
    set_math(row.math)
    sides = agreeing_sides(row, place, forms)
    if row.status or not timed:
        return
    repeat = max(WARM_UP, sides["tinygan"].period)
    with counted() as counts:
        timed_round(sides["tinygan"].run, repeat, place.clock)
    row.launches, row.products = counts["launches"] / repeat, counts["products"] / repeat
    times: dict[str, list[tuple[float, float]]] = {form: [] for form in sides}
    for turn in range(-1, args.rounds):  # the first one is a warm-up: memory, code and shapes are new
        say(f"{row.problem.name}, {row.math}: " + (f"round {turn + 1} of {args.rounds}" if turn >= 0 else "warm-up"))
        for form in list(sides):
            side = sides[form]
            with left_out(row, form, sides):
                if turn < 0:
                    timed_round(side.run, max(WARM_UP, side.period), side.clock)
                else:
                    each, wall = timed_round(side.run, args.steps, side.clock)
                    times[form].append((median(each), wall))
    row.ms = {form: median(ms for ms, _ in times[form]) for form in sides}
    row.wall = {form: median(wall for _, wall in times[form]) for form in sides}
    row.host = {form: handed_over(side.run, HANDED, side.clock) for form, side in sides.items()}
    if "tinygan graph" in sides:
        nodes = sides["tinygan graph"].nodes
        row.nodes = None if nodes is None else sum(nodes.values())


def agreeing_sides(row: Row, place: Place, forms: list[str]) -> dict[str, Any]:
    """Make tinygan and all forms, each checked against tinygan; row.status is set if one differs."""
    say(f"{row.problem.name}, {row.math}: tinygan: does it run?")
    sides: dict[str, Any] = {"tinygan": make_ours(row.problem, place)}
    # A copy, as the check moves them.
    weights = None if isinstance(row.problem, LayerProblem) else host(sides["tinygan"].weights())
    expected = sides["tinygan"].results()
    if place.records:
        say(f"{row.problem.name}, {row.math}: tinygan graph: has it the same bits?")
        add_recorded(row, place, sides)
    for form in forms:
        say(f"{row.problem.name}, {row.math}: {form}: does it compute the same?")
        with left_out(row, form, sides):
            side = make_theirs(row.problem, form, place, weights)
            compare(row, form, difference(expected, side.results()))
            sides[form] = side
    return sides


def add_recorded(row: Row, place: Place, sides: dict[str, Any]) -> None:
    """Make the recorded form, if it can be recorded; row.status is set if its bits are not those of the eager one."""
    with left_out(row, "tinygan graph", sides):
        side, apart = replayed(row.problem, place.xp, place.clock, WARM_UP)
        if not apart:
            sides["tinygan graph"] = side
        elif apart[0].startswith("note: "):
            row.notes += [f"tinygan graph: {apart[0]}"]
        else:
            row.notes += [f"tinygan graph differs: {', '.join(apart[:3])}"]
            row.status = "differs"


def compare(row: Row, form: str, differences: Mapping[str, tuple[float, str]]) -> None:
    """Note the difference of a form, and whether it is too large."""
    limits = {"losses": LIMITS[row.math], "gradients": LIMITS[row.math], "moves": MOVES_LIMIT}
    if isinstance(row.problem, (VGG16Problem, GPANProblem)):
        limits |= {"gradients": GRADIENT_LIMIT if row.math == "fp32" else 1.0, "moves": GPAN_MOVES_LIMIT}
    row.differences[form] = max(differences[kind][0] for kind in ("losses", "gradients") if kind in differences)
    if row.math != "fp32":
        limits.pop("moves")
    wrong = [(differences[kind][0], ("the step of " if kind == "moves" else "") + differences[kind][1])
             for kind, limit in limits.items() if kind in differences and not differences[kind][0] <= limit]
    if wrong:
        row.status = "differs"
        row.notes += [f"{form} differs: {where} by {value:.1e}" for value, where in wrong]


@contextmanager
def left_out(row: Row, form: str, sides: dict[str, Any]) -> Iterator[None]:
    """Leave out a form but tinygan's that has no room or does not compile, with a note; raise any other exception."""
    try:
        yield
    except Exception as error:
        if form != "tinygan" and memory_is_full(error):
            why = "out of memory"
        elif form.startswith("compiled"):
            why = " ".join(first_line(error).split())[:200]
        else:
            raise
        sides.pop(form, None)
        row.notes.append(f"{form} left out: {why}")
        say(f"{row.problem.name}, {row.math}: {row.notes[-1]}")


def make_ours(problem: Problem, place: Place) -> Any:
    """Make tinygan's side of a problem."""
    return EAGER[type(problem)](problem, place.xp, place.clock)


# PyTorch is imported in these alone, so that without it this file can be imported and one line says so.


def torch_forms(problem: Problem, place: Place) -> list[str]:
    """List the names of the forms that PyTorch has for a problem."""
    import gpu_torch

    return gpu_torch.forms(problem, compiled=place.compiling is not None)


def make_theirs(problem: Problem, form: str, place: Place, weights: Mapping | None) -> Any:
    """Make PyTorch's side of a problem in one form."""
    import gpu_torch

    return gpu_torch.make(problem, form, place.device, weights, place.compiling)


def set_math(math: str) -> None:
    """Set the same math mode on both sides."""
    import gpu_torch

    launch.set_tf32(math == "tf32")
    gpu_torch.set_math(math)


def free(place: Place) -> None:
    """Give the memory of the last row back, so that the next one has it whichever side it belonged to."""
    import gpu_torch

    gc.collect()
    gpu_torch.forget()
    place.xp.get_default_memory_pool().free_all_blocks()


def measure_speed(place: Place, args: argparse.Namespace) -> None:
    """Measure this GPU's speed into `place.speed`: a large copy, and a large product in each math mode."""
    say("the GPU: a large copy, a large matrix product")
    gbytes = copy_speed(place.xp, place.clock, args.copy_mb)
    for math in args.math:
        launch.set_tf32(math == "tf32")
        place.speed[math] = {"gflops": product_speed(place.xp, place.clock, args.product), "gbytes": gbytes}
    place.xp.get_default_memory_pool().free_all_blocks()


# ---- reporting ---------------------------------------------------------------------------------------------------


def json_row(row: Row, speed: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return a row's numbers by name; None where there is none."""
    compute, moving = floors(row.problem, speed[row.math]) if row.math in speed else (None, None)
    floor = max(compute, moving) if compute is not None else None
    ours, eager, compiled, best = row.ours, row.best("eager"), row.best("compiled"), row.best()
    return {"name": row.problem.name, "math": row.math, "bank": row.problem.bank, "batch": row.problem.batch,
            "status": row.status, "tinygan_ms": row.ms.get("tinygan"), "graph_ms": row.ms.get("tinygan graph"),
            "eager_ms": row.ms.get(eager), "compiled_ms": row.ms.get(compiled), "ratio": row.ratio(),
            "compiled_ratio": row.ratio("compiled"), "torch_form": best,
            "tinygan_wall_ms": row.wall.get(ours), "torch_wall_ms": row.wall.get(best),
            "tinygan_host_ms": row.host.get("tinygan"), "graph_host_ms": row.host.get("tinygan graph"),
            "torch_host_ms": row.host.get(best), "launches": row.launches, "products": row.products,
            "nodes": row.nodes, "floor_ms": floor, "compute_floor_ms": compute, "moving_floor_ms": moving,
            "floor_percent": 100 * floor / row.ms[ours] if ours and floor else None,
            "difference": max(row.differences.values(), default=None),
            "forms": {form: {"ms": row.ms[form], "wall_ms": row.wall[form], "host_ms": row.host.get(form),
                             "difference": row.differences.get(form)} for form in row.ms},
            "notes": row.notes}


COLUMNS = (  # title, width, key of json_row, format
    ("tinygan ms", 10, "tinygan_ms", ".3f"), ("graph ms", 8, "graph_ms", ".3f"), ("eager ms", 8, "eager_ms", ".3f"),
    ("compiled ms", 11, "compiled_ms", ".3f"), ("ratio", 6, "ratio", ".2f"),
    ("to compiled", 11, "compiled_ratio", ".2f"), ("wall: ours", 10, "tinygan_wall_ms", ".3f"),
    ("best", 8, "torch_wall_ms", ".3f"), ("host: ours", 10, "tinygan_host_ms", ".3f"),
    ("graph", 8, "graph_host_ms", ".3f"), ("best", 8, "torch_host_ms", ".3f"),
    ("own launches", 12, "launches", ".0f"), ("products", 8, "products", ".0f"), ("nodes", 6, "nodes", ".0f"),
    ("floor ms", 8, "floor_ms", ".3f"), ("% of floor", 10, "floor_percent", ".0f"),
    ("difference", 10, "difference", ".0e"))


def report(rows: list[Row], speed: Mapping[str, Mapping[str, float]], lines: list[str]) -> str:
    """Format the table, with all forms and notes under each row."""
    names = max([len(row.problem.name) for row in rows], default=0)
    out = [*lines, *(f"{math}: a large product at {s['gflops'] / 1e3:.1f} TFLOP/s, a large copy at "
                     f"{s['gbytes']:.0f} GB/s" for math, s in speed.items()),
           "tinygan: kernel by kernel, graph: recorded as one CUDA graph; eager, compiled: PyTorch's fastest of each",
           "ratio: the faster of tinygan's two over PyTorch's fastest form, by events; wall: the same two by the clock",
           "to compiled: the faster of tinygan's two over PyTorch's fastest compiled form",
           "host: ms until a call returns while the GPU has nothing else to do",
           "own launches, products: tinygan's kernels and cuBLAS calls per iteration; what CuPy launches itself "
           "(copies, sums, uploads) is not counted. nodes: of its graph, all that it launches",
           "% of floor: the floor over tinygan's time; difference: the largest of any form from tinygan, relative", "",
           f"{'':{names}} math " + " ".join(f"{title:>{width}}" for title, width, _, _ in COLUMNS)]
    for row in rows:
        values = json_row(row, speed)
        cells = " ".join(f"{format(values[key], kind) if values[key] is not None else '-':>{width}}"
                         for _, width, key, kind in COLUMNS)
        out.append(f"{row.problem.name:{names}} {row.math} " + (row.status if row.status else cells))
        forms = [f"{form} {row.ms[form]:.3f} ms" for form in row.ms if form not in OURS]
        out += ["    " + line for line in ([", ".join(forms)] if forms else []) + row.notes]
    return "\n".join(out)


def conditions(cupy: Any, torch: Any, args: argparse.Namespace) -> list[str]:
    """List what the numbers depend on, in words."""
    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
    return [f"{name}, driver {driver_version()} (CUDA {version(runtime.driverGetVersion())})",
            f"CuPy {cupy.__version__} (CUDA {version(runtime.runtimeGetVersion())}), PyTorch {torch.__version__} "
            f"(CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()})",
            f"math {' and '.join(args.math)} on both sides, median of {args.rounds} rounds of {args.steps} iterations",
            f"layer: {args.inputs} -> {args.outputs} channels, {args.side}x{args.side}, kernel {args.kernel}, stride "
            f"{args.stride}, padding {args.padding}, forward and both gradients; step: D and G with RMSprop, 32x32x1 "
            f"images, batch {args.step_batch}; VGG16: scores and their gradient to the images; GPAN: both nets with "
            f"Adam, base {args.gpan_base}, one random view"]


def driver_version() -> str:
    """Read the NVIDIA driver's version, which neither library gives."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- flags -------------------------------------------------------------------------------------------------------


def read_args(argv: Sequence[str] | None) -> argparse.Namespace:
    p = cli.Parser(description=__doc__.split("\n\n")[0])
    p.add_argument("--math", type=maths, default=MATHS, help="fp32, tf32 or both [default: fp32,tf32]")
    p.add_argument("--only", choices=KINDS, help="leave the other rows out")
    p.add_argument("--rounds", type=cli.positive_int, default=5, help="turns that each form takes")
    p.add_argument("--steps", type=cli.positive_int, default=20, help="iterations per round")
    p.add_argument("--no-compile", action="store_true", help="leave PyTorch's compiled forms out")
    p.add_argument("--json", type=cli.path, metavar="FILE", help="write the conditions and the rows there as well")
    p.add_argument("--quick", action="store_true", help="small sizes, 2 rounds of 3 iterations, where not given")
    layer = p.add_argument_group("the stochastic transposed convolution")
    layer.add_argument("--bank", type=cli.bank_list, default=(1, 4, 16, 64), help="filter sets, a row for each "
                       "[default: 1,4,16,64]")
    layer.add_argument("--batch", type=cli.bank_list, default=(64, 256), help="samples, a row for each "
                       "[default: 64,256]")
    layer.add_argument("--inputs", type=cli.positive_int, default=256, help="channels of the small map")
    layer.add_argument("--outputs", type=cli.positive_int, default=128, help="channels of the big map")
    layer.add_argument("--side", type=cli.positive_int, default=8, help="pixels of the small map's side")
    layer.add_argument("--kernel", type=cli.positive_int, default=4, help="pixels of a filter's side")
    layer.add_argument("--stride", type=cli.positive_int, default=2, help="big pixels from one filter to the next")
    layer.add_argument("--padding", type=cli.non_negative_int, default=1, help="big pixels cut off on every side")
    step = p.add_argument_group("the training step")
    step.add_argument("--base", type=cli.positive_int, default=64, help="channels next to the image")
    step.add_argument("--step-bank", type=cli.bank_list, default=(16, 1), help="filter sets, a row for each "
                      "[default: 16,1]")
    step.add_argument("--step-batch", type=cli.positive_int, default=64, help="samples")
    gpan = p.add_argument_group("VGG16, and the GPAN's training step")
    gpan.add_argument("--photos", type=cli.positive_int, default=32, help="images in VGG16's batch")
    gpan.add_argument("--size", type=sizes, default=(256, 1024), help="pixels of the GPAN's images, a row for each "
                      f"[default: 256,1024; of {', '.join(map(str, SIZES))}]")
    gpan.add_argument("--gpan-batch", type=cli.positive_int, default=4, help="images in a step, 2 or more")
    gpan.add_argument("--gpan-base", type=cli.positive_int, default=64, help="channels next to the image, of both nets")
    floor = p.add_argument_group("what the floors are measured with")
    floor.add_argument("--product", type=cli.positive_int, default=8192, help="side of the matrices")
    floor.add_argument("--copy-mb", type=cli.positive_int, default=256, help="MB of the array that is copied")
    args = p.parse_args(argv)
    args.side_vgg16, args.narrow = 224, 1
    if args.quick:
        args.side_vgg16, args.narrow = 64, NARROW
        small = {"rounds": 2, "steps": 3, "bank": (1, 4), "batch": (16,), "inputs": 32, "outputs": 16, "base": 16,
                 "step_bank": (4, 1), "step_batch": 16, "product": 2048, "copy_mb": 64,
                 "photos": 4, "size": (64,), "gpan_base": 8}
        for name in small.keys() - cli.typed(p, argv):
            setattr(args, name, small[name])
    if args.stride * (args.side - 1) + args.kernel - 2 * args.padding < 1:
        raise UsageError(f"--padding {args.padding} leaves no pixel: use less than "
                         f"{(args.stride * (args.side - 1) + args.kernel + 1) // 2}")
    if args.gpan_batch < 2:
        raise UsageError("--gpan-batch 1: the GPAN's L_split compares the images of a batch; use 2 or more")
    return args


def sizes(text: str) -> tuple[int, ...]:
    """Parse "256,1024" -> (256, 1024)."""
    pixels = cli.bank_list(text)
    if not set(pixels) <= set(SIZES):
        raise argparse.ArgumentTypeError(f"{text!r}: give some of {', '.join(map(str, SIZES))}")
    return pixels


def maths(text: str) -> tuple[str, ...]:
    """Parse "fp32,tf32" -> ("fp32", "tf32"), always in that order."""
    words = text.split(",")
    if not set(words) <= set(MATHS):
        raise argparse.ArgumentTypeError(f"must be fp32, tf32 or fp32,tf32, not {text!r}")
    return tuple(math for math in MATHS if math in words)


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
