"""Time a full training step of tinygan against PyTorch's best on this machine's CPU.

    python benchmarks/cpu.py                          four nets: base channels 16 and 64, banks of 1 and 16
    python benchmarks/cpu.py --quick --threads 1      a small one, to see that it works

A step is one of the discriminator and one of the generator, with optimisers (32 x 32 x 1 images, RMSprop). PyTorch
may choose: memory order plain or channels_last; banks by a loop over the filter sets in use, or by one grouped
convolution over gathered sets. Its fastest form counts. What makes the comparison fair:

  - both nets get the same weights, images, noise and routes; first, losses of three steps and all gradients of
    the first must agree in float64, or nothing is timed
  - every framework and form runs in a process of its own with the same number of threads; they take turns, round
    by round, so that whatever else the machine does hits all of them alike
  - a time is the median over the rounds of each round's median step

Beside the times stand the floors (cpu_counts.py): the operations of the matrix products over the speed of a large
product, and the bytes that must move over the speed of a large copy, both measured here with the same threads.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

import cpu_counts
import numpy as np

from tinygan import cli
from tinygan.errors import TinyganError
from tinygan.models.adapted_gan import GANConfig

HERE = Path(__file__).resolve().parent
WARM_UP = 6  # steps before the first round: memory, code and routes not met before
ROUND_SECONDS = 1.2  # a round takes about as long where --steps does not say how many steps it has
# The check runs in float64. In float32 an optimiser, which divides by the size of the gradient, turns the rounding of a
# small one into a step of full size in the other direction, and the third step's losses differ by more than 1e-3.
TOLERANCE = 1e-6


@dataclass
class Net:
    """One configuration, and what was measured of it."""

    base: int
    bank: int
    batch: int
    ms: dict[str, float] = field(default_factory=dict)  # form -> milliseconds per step; "tinygan" is one of them
    mb: dict[str, float] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{'SGAN' if self.bank > 1 else 'GAN'} base {self.base} K {self.bank}"

    @property
    def torch_forms(self) -> list[str]:
        layouts = ("plain", "channels_last")
        if self.bank == 1:
            return list(layouts)
        return [f"{layout} {routing}" for routing in ("loop", "grouped") for layout in layouts]

    @property
    def best_form(self) -> str:
        return min(self.torch_forms, key=lambda form: self.ms[form])

    @property
    def config(self) -> GANConfig:
        return GANConfig(base_channels=self.base, bank=(self.bank,))


def main(argv: Sequence[str] | None = None) -> int:
    args = read_args(argv)
    if importlib.util.find_spec("torch") is None:
        raise TinyganError('PyTorch is not installed, and this benchmark compares with it: pip install ".[bench]"')
    started = time.monotonic()
    speed = measure_speed(args.threads)
    nets = [Net(base, bank, args.batch) for base in args.base for bank in args.bank]
    for net in nets:
        measure(net, args)
    again = measure_speed(args.threads)  # a busy moment must not lower a floor: the better of before and after
    speed = {key: max(value, again[key]) for key, value in speed.items()}
    print(report(nets, speed, args))
    if args.json:
        rows = json.dumps([json_row(net, speed) for net in nets], indent=2)
        args.json.write_text(rows + "\n", encoding="utf-8")
    say(f"took {time.monotonic() - started:.0f} s")
    return 0


# ---- measuring ---------------------------------------------------------------------------------------------------


def measure(net: Net, args: argparse.Namespace) -> None:
    """Check that all forms compute the same, then time them in turns; the results go into `net`."""
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "tinygan.npz"
        workers: dict[str, Worker] = {}
        try:
            for form in ("tinygan", *net.torch_forms):
                say(f"{net.name}: {form}: does it compute the same?")
                path = reference if form == "tinygan" else Path(folder) / "torch.npz"
                checker = workers["checker"] = Worker(net, form, args.threads, reference, dtype="float64")
                checker.ask("check", str(path))
                workers.pop("checker").close()
                if form != "tinygan":
                    require_agreement(f"{net.name}, PyTorch {form}", reference, path)
            workers = {form: Worker(net, form, args.threads, reference) for form in ("tinygan", *net.torch_forms)}
            times: dict[str, list[float]] = {form: [] for form in workers}
            warm = {form: min(worker.ask("round", WARM_UP)["ms"]) for form, worker in workers.items()}
            steps = {form: args.steps or steps_for(step_ms) for form, step_ms in warm.items()}
            for turn in range(args.rounds):
                say(f"{net.name}: round {turn + 1} of {args.rounds}")
                for form, worker in workers.items():
                    answer = worker.ask("round", steps[form])
                    times[form].append(median(answer["ms"]))
                    net.mb[form] = answer["mb"]
            net.ms = {form: median(values) for form, values in times.items()}
            net.profile = workers["tinygan"].ask("profile", steps["tinygan"])
        finally:
            for worker in workers.values():
                worker.close()


def steps_for(step_ms: float) -> int:
    """Steps in a round: as many as fit, at least 1 and at most 20."""
    return min(20, max(1, round(ROUND_SECONDS * 1e3 / step_ms)))


class Worker:
    """A process that runs one framework in one form (cpu_worker.py), and waits between its turns."""

    def __init__(self, net: Net, form: str, threads: int, reference: Path, dtype: str = "float32") -> None:
        framework = "tinygan" if form == "tinygan" else "torch"
        words = [sys.executable, str(HERE / "cpu_worker.py"), "--framework", framework, "--form", form,
                 "--weights", str(reference), "--base", str(net.base), "--bank", str(net.bank),
                 "--batch", str(net.batch), "--threads", str(threads), "--dtype", dtype]
        self.name = f"{net.name}: {form}"
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self.process = subprocess.Popen(words, env=environment(threads), stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=self.errors)

    def ask(self, command: str, value: Any) -> Any:
        """Send a command and wait for its answer. Raises TinyganError with the last line the process wrote."""
        try:
            self.process.stdin.write(json.dumps([command, value]) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            code = self.process.wait()
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or [f"exit code {code}; out of memory?"])[-1]
            raise TinyganError(f"{self.name}: the measuring process died: {last}") from None

    def close(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def environment(threads: int) -> dict[str, str]:
    """The same number of threads for every library that asks the environment."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONPATH": str(HERE.parent)}


def require_agreement(name: str, reference: Path, path: Path) -> None:
    """TinyganError unless both files hold the same losses and gradients, and the same parameters have one."""
    with np.load(reference) as ours, np.load(path) as theirs:
        wrong = disagreement(ours, theirs)
    if wrong:
        raise TinyganError(f"{name} does not compute what tinygan computes: {wrong}")


def disagreement(ours: Any, theirs: Any) -> str:
    """What differs between two sets of `losses` and `gradients/...`, in a few words; empty if nothing does."""
    def gradients(arrays: Any) -> set[str]:
        return {key for key in arrays if key.startswith("gradients/")}

    if not np.allclose(ours["losses"], theirs["losses"], rtol=TOLERANCE, atol=0):
        return f"losses {np.round(ours['losses'], 5).tolist()} and {np.round(theirs['losses'], 5).tolist()}"
    if odd := sorted(gradients(ours) ^ gradients(theirs)):
        return f"only one of them has {odd[0]}"
    for key in sorted(gradients(ours)):
        a, b = ours[key], theirs[key]
        if a.shape != b.shape:
            return f"{key} has shapes {a.shape} and {b.shape}"
        whole = float(np.linalg.norm(a - b) / np.linalg.norm(b))
        if not whole <= TOLERANCE:
            return f"{key} differs by {whole:.1e} of its length"
    return ""


SPEED_CODE = """
import json, sys, time, numpy as np
from tinygan.kernels import pool

def best(work, repeat):
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)

a, b = np.random.default_rng(0).random((2, 2048, 2048), dtype=np.float32)
out = np.empty_like(a)
np.matmul(a, b, out=out)
gflops = 2 * 2048 ** 3 / best(lambda: np.matmul(a, b, out=out), 6) / 1e9
pool.set_threads(int(sys.argv[1]))
source, target = np.ones((2, 64, 1 << 18), np.float32)
gbytes = 2 * source.nbytes / best(lambda: pool.run([lambda i=i: np.copyto(target[i], source[i])
                                                    for i in range(64)]), 12) / 1e9
print(json.dumps({"gflops": gflops, "gbytes": gbytes}))
"""


def measure_speed(threads: int) -> dict[str, float]:
    """What this machine can do: GFLOP/s of a 2048 x 2048 float32 product (NumPy's BLAS), GB/s (read and written) of
    copying 64 MB; the best of several, with `threads` threads."""
    say("the machine: a large matrix product, a large copy")
    done = subprocess.run([sys.executable, "-c", SPEED_CODE, str(threads)], env=environment(threads), text=True,
                          stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise TinyganError("measuring the matrix product and the copy failed (its message stands above)")
    return json.loads(done.stdout)


def floors(net: Net, speed: dict[str, float]) -> tuple[float, float]:
    """Milliseconds that (the matrix products, the moving of bytes) of one step take at least."""
    flop = cpu_counts.step_flop(net.config, net.batch)
    moved = cpu_counts.step_bytes(net.config, net.batch)
    return flop / speed["gflops"] / 1e6, moved / speed["gbytes"] / 1e6


# ---- reporting ---------------------------------------------------------------------------------------------------


def json_row(net: Net, speed: dict[str, float]) -> dict[str, Any]:
    ours, theirs = net.ms["tinygan"], net.ms[net.best_form]
    return {"name": net.name, "tinygan_ms": ours, "torch_ms": theirs, "ratio": ours / theirs,
            "torch_form": net.best_form, "tinygan_mb": net.mb["tinygan"], "torch_mb": net.mb[net.best_form],
            "floor_ms": max(floors(net, speed))}


def matrix_library() -> str:
    """The library behind NumPy's matrix product and the processor it was built for: it decides half of the time.

    OPENBLAS_CORETYPE in the environment overrides what OpenBLAS finds; a slower code there is easily forgotten.
    """
    try:
        import threadpoolctl
    except ImportError:
        return "matrix library unknown (threadpoolctl is not installed)"
    found = [f"{i['internal_api']} {i['version']} for {i.get('architecture', 'any processor')}"
             for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"]
    forced = os.environ.get("OPENBLAS_CORETYPE")
    return ", ".join(found) + (f", forced by OPENBLAS_CORETYPE={forced}" if forced else "")


def report(nets: list[Net], speed: dict[str, float], args: argparse.Namespace) -> str:
    lines = [f"One training step (D and G), batch {args.batch}, {args.threads} "
             f"thread{'s' * (args.threads > 1)}, median of {args.rounds} rounds",
             f"NumPy {np.__version__}, {matrix_library()}", "",
             f"{'net':20} {'tinygan ms':>10} {'torch ms':>9} {'ratio':>6} {'tinygan MB':>11} {'torch MB':>9}  "
             "best form of torch (all below)"]
    for net in nets:
        row = json_row(net, speed)
        lines += [f"{net.name:20} {row['tinygan_ms']:10.1f} {row['torch_ms']:9.1f} {row['ratio']:6.2f} "
                  f"{row['tinygan_mb']:11.0f} {row['torch_mb']:9.0f}  {net.best_form}",
                  " " * 21 + ", ".join(f"{form} {net.ms[form]:.1f} ms {net.mb[form]:.0f} MB"
                                       for form in net.torch_forms)]
    if cost := bank_cost(nets):
        lines += ["", *cost]
    lines += ["", *floor_table(nets, speed)]
    for net in nets:
        lines += ["", *profile_table(net)]
    return "\n".join(lines)


def bank_cost(nets: list[Net]) -> list[str]:
    """What a bank of K costs against a bank of one, at equal width."""
    lines = []
    for plain in (net for net in nets if net.bank == 1):
        for net in nets:
            if net.base == plain.base and net.bank > 1:
                theirs = net.ms[net.best_form] / plain.ms[plain.best_form]
                lines.append(f"K {net.bank} over K 1 at base {net.base}: tinygan "
                             f"{net.ms['tinygan'] / plain.ms['tinygan']:.2f}, torch {theirs:.2f}")
    return lines


def floor_table(nets: list[Net], speed: dict[str, float]) -> list[str]:
    lines = [f"Floors, from a product at {speed['gflops']:.0f} GFLOP/s and a copy at {speed['gbytes']:.1f} GB/s; "
             "arrays that stay in cache can be faster",
             f"{'net':20} {'GFLOP':>7} {'ms':>8} {'MB moved':>9} {'ms':>8} {'tinygan / larger floor':>23}"]
    for net in nets:
        compute, moving = floors(net, speed)
        lines.append(f"{net.name:20} {cpu_counts.step_flop(net.config, net.batch) / 1e9:7.2f} {compute:8.1f} "
                     f"{cpu_counts.step_bytes(net.config, net.batch) / 1e6:9.1f} {moving:8.1f} "
                     f"{net.ms['tinygan'] / max(compute, moving):23.2f}")
    return lines


def profile_table(net: Net) -> list[str]:
    """The ten costliest operations of tinygan, forward and backward together."""
    rows, total = net.profile["rows"], net.profile["total_ms"]
    lines = [f"{net.name}: tinygan's costliest operations ({total:.1f} ms per step while watched)",
             f"  {'op':24} {'calls':>6} {'ms':>8} {'share':>6}"]
    lines += [f"  {name:24} {calls:6.0f} {ms:8.2f} {ms / total:6.1%}" for name, calls, ms in rows[:10]]
    others = sum(ms for _, _, ms in rows[10:])
    lines += [f"  {'all other ops':24} {'':6} {others:8.2f} {others / total:6.1%}",
              f"  {'Python between ops':24} {'':6} {net.profile['rest_ms']:8.2f} {net.profile['rest_ms'] / total:6.1%}"]
    return lines


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- flags -------------------------------------------------------------------------------------------------------


def read_args(argv: Sequence[str] | None) -> argparse.Namespace:
    p = cli.Parser(description=__doc__.split("\n\n")[0])
    p.add_argument("--threads", type=cli.positive_int, default=cores(), help="on both sides")
    p.add_argument("--rounds", type=cli.positive_int, default=5, help="turns that each process takes")
    p.add_argument("--steps", type=cli.positive_int, help=f"per round [default: about {ROUND_SECONDS} seconds]")
    p.add_argument("--base", type=numbers, default=(16, 64), help="channels next to the image, one net for each")
    p.add_argument("--bank", type=numbers, default=(1, 16), help="filter sets, one net for each")
    p.add_argument("--batch", type=cli.positive_int, default=64, help="samples per batch")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the table's rows there as well")
    p.add_argument("--quick", action="store_true", help="2 rounds of 2 steps, base 16, batch 16, where not given")
    args = p.parse_args(argv)
    if args.quick:
        small = {"rounds": 2, "steps": 2, "base": (16,), "batch": 16}
        for name in small.keys() - cli.typed(p, argv):
            setattr(args, name, small[name])
    return args


def numbers(text: str) -> tuple[int, ...]:
    """"16,64" -> (16, 64)."""
    try:
        return tuple(cli.positive_int(word) for word in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r}: give positive whole numbers such as 16,64") from None


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
