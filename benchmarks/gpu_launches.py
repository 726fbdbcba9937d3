"""Count what a training step hands to a GPU and measure what that costs the host: on the real CuPy, without a GPU.

    python benchmarks/gpu_launches.py                     GAN, SGAN K 16, the stochastic layer, the GPAN at 1024 pixels
    python benchmarks/gpu_launches.py --only gan,sgan     some of them

It needs g++ and CuPy (pip install ".[test-cupy]"). CuPy runs on a processor (tests/cpucupy) whose kernels, products and
copies do nothing, so the milliseconds are the host's own. The driver's time for a launch, 2 to 4 us, comes on top.

Each problem has a row kernel by kernel and, where it can be recorded, one as a CUDA graph:

    kernels    launches of kernels, CuPy's own among them; of a graph: its nodes of that kind
    products   calls of cuBLAS
    copies     copies and fills within the device
    uploads    copies from the host
    waits      of the host for the device: none, and one of a recorded step, for the copy of the step before the last
    host ms    the least and the median processor time of a step, in one thread
    pool MB    device memory that CuPy's pools hold after it
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpan_problem import GPANProblem
from gpu_tinygan import EAGER, RECORDED, WARM_UP, CupyClock, LayerProblem, StepProblem

from tinygan.app import cli
from tinygan.errors import TinyganError

PROCESSOR = Path(__file__).resolve().parents[1] / "tests" / "cpucupy" / "on_path"  # `import cupy` finds it there
NAMES = ("gan", "sgan", "layer", "gpan")
COLUMNS = ("kernels", "products", "copies", "uploads", "waits", "host ms", "median", "pool MB")


def main(argv: Sequence[str] | None = None) -> int:
    args = read_args(argv)
    if importlib.util.find_spec("cupy_backends") is None:
        raise TinyganError('CuPy is not installed, and this runs it on a processor: pip install ".[test-cupy]"')
    sys.path.insert(0, str(PROCESSOR))
    cupy = importlib.import_module("cupy")
    cpucupy = importlib.import_module("cpucupy")
    cpucupy.set_limit(args.memory_gb << 30)
    cpucupy.null(True)
    rows, sides = {}, rows_of(args)
    width = max(map(len, sides))
    print(f"{'':{width}} " + " ".join(f"{title:>9}" for title in COLUMNS))
    for title, make in sides.items():
        rows[title] = row = measured(cpucupy, cupy, make(cupy, CupyClock(cupy)), args.steps)
        gc.collect()  # a recorded side refers to itself
        cupy.get_default_memory_pool().free_all_blocks()
        print(f"{title:{width}} " + " ".join(f"{format(row[key]):>9}" for key in COLUMNS), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def rows_of(args: argparse.Namespace) -> dict[str, Callable[[Any, Any], Any]]:
    """Return what makes the side of each row, from CuPy and a clock."""
    problems = {"gan": StepProblem(args.base, 1, args.batch), "sgan": StepProblem(args.base, args.bank, args.batch),
                "layer": LayerProblem(args.bank, args.batch),
                "gpan": GPANProblem(args.size, args.gpan_batch, base=args.base, patch=args.base)}
    return {problem.name + form: partial(kinds[type(problem)], problem) for problem in map(problems.get, args.only)
            for kinds, form in ((EAGER, ""), (RECORDED, ", recorded"))}


def measured(cpucupy: Any, cupy: Any, side: Any, steps: int) -> dict[str, float]:
    """Return the numbers of a row. Raises TinyganError where a side cannot be recorded."""
    for _ in range(WARM_UP):
        side.run()
    graph = hasattr(side, "recorded")
    if graph and side.notes:
        raise TinyganError(side.notes[0])
    seconds = []
    for _ in range(steps):
        cpucupy.reset()
        started = time.thread_time()
        side.run()
        seconds.append(time.thread_time() - started)
    count = cpucupy.count()
    names = cpucupy.nodes(side.graph) if graph else []
    copies, products = sum(name in ("copy", "memset") for name in names), names.count("gemm")
    pools = cupy.get_default_memory_pool().total_bytes() + (side.recorded.pool_bytes if graph else 0)
    return {"kernels": len(names) - copies - products + count["launches"], "products": products + count["gemms"],
            "copies": copies + count["device_copies"] + count["memsets"], "uploads": count["up"],
            "waits": count["syncs"], "host ms": round(min(seconds) * 1e3, 3),
            "median": round(median(seconds) * 1e3, 3), "pool MB": round(pools / 1e6)}


def read_args(argv: Sequence[str] | None) -> argparse.Namespace:
    p = cli.Parser(description=__doc__.split("\n\n")[0])
    p.add_argument("--only", type=cli.some_of(NAMES), default=NAMES, help=f"some of {','.join(NAMES)}")
    p.add_argument("--steps", type=cli.positive_int, default=30, help="steps whose time is taken")
    p.add_argument("--base", type=cli.positive_int, default=64, help="channels next to the image")
    p.add_argument("--bank", type=cli.positive_int, default=16, help="filter sets of the SGAN and the layer")
    p.add_argument("--batch", type=cli.positive_int, default=64, help="samples of these and the GAN")
    p.add_argument("--size", type=cli.positive_int, default=1024, help="pixels of the GPAN's images")
    p.add_argument("--gpan-batch", type=cli.positive_int, default=4, help="images in its step")
    p.add_argument("--memory-gb", type=cli.positive_int, default=16, help="device memory to allow")
    p.add_argument("--json", type=cli.path, metavar="FILE", help="write the rows there as well")
    return p.parse_args(argv)


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
