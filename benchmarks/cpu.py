"""Time full training steps of tinygan against PyTorch's best on this machine's CPU.

    python benchmarks/cpu.py                          four GANs, VGG16, and the GPAN at 128 pixels
    python benchmarks/cpu.py --only gpan --size 1024 --batch 2
    python benchmarks/cpu.py --quick --threads 1      small ones, to see that it works

gan     a step of the discriminator and one of the generator, with optimisers (32 x 32 x 1 images, RMSprop): base
        channels 16 and 64, banks of 1 and 16
vgg16   the classifier's scores and their gradient to the images; random weights, so no file is needed
gpan    a step of both nets of the GPAN with all its losses, against that classifier (gpan_problem.py)

PyTorch may choose: memory order plain or channels_last; banks by a loop over the filter sets in use, or by one grouped
convolution over gathered sets; its forms of the optimiser. Its fastest form counts. What makes the comparison fair:

  - both sides get the same weights, images, noise, routes and views; first, losses of three steps and all gradients of
    the first must agree in float64 (VGG16 and the GPAN with fewer channels), or nothing is timed; in float32, at full
    width, the losses of the first step must agree as well
  - every framework and form runs in a process of its own with the same number of threads; they take turns, round
    by round, so that whatever else the machine does hits all of them alike
  - a time is the median over the rounds of each round's median step; the shortest step stands beside it, which on a
    machine with other work to do is the better measure
  - memory is the most that the process had while it stepped, and how much of that came on top of what it had at rest

Beside the times stand the operations of the matrix products per second, counted as plain products (Winograd's forms
need fewer), and for the GANs the floors (cpu_counts.py): these operations over the speed of a large product, and the
bytes that must move over the speed of a large copy, both measured here with the same threads (cpu_report.py).
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
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

import gpan_problem
import numpy as np
from cpu_nets import Net, Problem
from cpu_report import json_row, report

from tinygan.app import cli
from tinygan.errors import TinyganError, UsageError
from tinygan.models.gpan.nets import SIZES

HERE = Path(__file__).resolve().parent
WARM_UP = 6  # steps before the first round: memory, code and routes are new there
FIRST_STEPS = 2  # of them; where a step takes longer than SLOW, the others are left out
SLOW = 1000.0  # milliseconds
KINDS = ("gan", "vgg16", "gpan")
ROUND_SECONDS = 1.2  # of a round, about, where --steps does not set the number of steps
# The check runs in float64. In float32 an optimiser, which divides by the size of the gradient, turns the rounding of a
# small one into a step of full size in the other direction, and the third step's losses differ by more than 1e-3.
TOLERANCE = 1e-6
FLOAT32_TOLERANCE = 1e-3  # of the losses of the first step in float32, relative to the greatest


def main(argv: Sequence[str] | None = None) -> int:
    args = read_args(argv)
    if importlib.util.find_spec("torch") is None:
        raise TinyganError('PyTorch is not installed, and this benchmark compares with it: pip install ".[bench]"')
    started = time.monotonic()
    speed = measure_speed(args.threads)
    nets = chosen(args)
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


def chosen(args: argparse.Namespace) -> list[Net | Problem]:
    """List what to measure, in order."""
    nets: list[Net | Problem] = []
    if "gan" in args.only:
        nets += [Net(base, bank, args.batch or args.gan_batch) for base in args.base for bank in args.bank]
    same = {"batch": args.batch or args.photo_batch, "side": args.side, "narrow": args.narrow}
    if "vgg16" in args.only:
        nets.append(Problem(gpan_problem.VGG16Problem(**same)))
    if "gpan" in args.only:
        nets += [Problem(gpan_problem.GPANProblem(size=size, sees=args.sees, **same)) for size in args.size]
    return nets


# ---- measuring ---------------------------------------------------------------------------------------------------


def measure(net: Net | Problem, args: argparse.Namespace) -> None:
    """Check that all forms compute the same, then time them in turns; the results go into `net`."""
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "tinygan.npz"
        workers: dict[str, Worker] = {}
        try:
            for form in ("tinygan", *net.torch_forms):
                say(f"{net.name}: {form}: does it compute the same?")
                path = reference if form == "tinygan" else Path(folder) / "torch.npz"
                checker = workers["checker"] = Worker(net, form, args.threads, reference, dtype="float64")
                checker.request("check", str(path))
                workers.pop("checker").close()
                if form != "tinygan":
                    require_agreement(f"{net.name}, PyTorch {form}", reference, path)
            workers["tinygan"] = Worker(net, "tinygan", args.threads, reference)
            workers["tinygan"].request("weights", str(reference))  # of full width
            workers |= {form: Worker(net, form, args.threads, reference) for form in net.torch_forms}
            steps = {form: args.steps or steps_for(step_ms) for form, step_ms in warm_up(net, workers).items()}
            times: dict[str, list[list[float]]] = {form: [] for form in workers}
            for turn in range(args.rounds):
                say(f"{net.name}: round {turn + 1} of {args.rounds}")
                for form, worker in workers.items():
                    answer = worker.request("round", steps[form])
                    times[form].append(answer["ms"])
                    net.mb[form], net.above[form] = answer["mb"], answer["mb"] - answer["rest_mb"]
            net.ms = {form: median(map(median, rounds)) for form, rounds in times.items()}
            net.least = {form: min(map(min, rounds)) for form, rounds in times.items()}
            net.profile = workers["tinygan"].request("profile", steps["tinygan"])
        finally:
            for worker in workers.values():
                worker.close()


def warm_up(net: Net | Problem, workers: dict[str, Worker]) -> dict[str, float]:
    """Run the first steps; return milliseconds of a step of each form.

    Raises TinyganError if the first step's losses differ between forms.
    """
    first = {form: worker.request("round", 1)["losses"] for form, worker in workers.items()}
    ours = np.array(first["tinygan"])
    for form, losses in first.items():
        gap = np.abs(ours - losses).max()
        if not gap <= FLOAT32_TOLERANCE * np.abs(ours).max():
            raise TinyganError(f"{net.name}, PyTorch {form}: in float32 the losses differ by {gap:.1e}: "
                               f"{np.round(ours, 5).tolist()} and {np.round(losses, 5).tolist()}")
    least = {}
    for form, worker in workers.items():
        least[form] = min(worker.request("round", FIRST_STEPS - 1)["ms"])
        if least[form] < SLOW:
            least[form] = min(worker.request("round", WARM_UP - FIRST_STEPS)["ms"])
    return least


def steps_for(step_ms: float) -> int:
    """Choose the number of steps in a round: as many as fit, at least 1 and at most 20."""
    return min(20, max(1, round(ROUND_SECONDS * 1e3 / step_ms)))


class Worker:
    """A process that runs one framework in one form (cpu_worker.py), and waits between its turns."""

    def __init__(self, net: Net | Problem, form: str, threads: int, reference: Path, dtype: str = "float32") -> None:
        framework = "tinygan" if form == "tinygan" else "torch"
        words = [sys.executable, str(HERE / "cpu_worker.py"), "--framework", framework, "--form", form,
                 "--weights", str(reference), "--threads", str(threads), "--dtype", dtype,
                 *net.words(check=dtype == "float64")]
        self.name = f"{net.name}: {form}"
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self.process = subprocess.Popen(words, env=environment(threads), stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=self.errors)

    def request(self, command: str, value: Any) -> Any:
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
    """Set the same number of threads for every library that reads the environment."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONPATH": str(HERE.parent)}


def require_agreement(name: str, reference: Path, path: Path) -> None:
    """Raise TinyganError unless both files hold the same losses and gradients, and the same parameters have one."""
    with np.load(reference) as ours, np.load(path) as theirs:
        wrong = disagreement(ours, theirs)
    if wrong:
        raise TinyganError(f"{name} does not compute what tinygan computes: {wrong}")


def disagreement(ours: Any, theirs: Any) -> str:
    """Describe what differs between two sets of `losses` and `gradients/...`, in a few words; empty if nothing does."""
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
from tinygan.kernels import threads

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
threads.set_threads(int(sys.argv[1]))
source, target = np.ones((2, 64, 1 << 18), np.float32)
gbytes = 2 * source.nbytes / best(lambda: threads.run([lambda i=i: np.copyto(target[i], source[i])
                                                    for i in range(64)]), 12) / 1e9
print(json.dumps({"gflops": gflops, "gbytes": gbytes}))
"""


def measure_speed(threads: int) -> dict[str, float]:
    """Measure this machine's speed: GFLOP/s of a 2048 x 2048 float32 product (NumPy's BLAS), GB/s (read and written) of
    copying 64 MB; the best of several, with `threads` threads."""
    say("the machine: a large matrix product, a large copy")
    done = subprocess.run([sys.executable, "-c", SPEED_CODE, str(threads)], env=environment(threads), text=True,
                          stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise TinyganError("measuring the matrix product and the copy failed (its message stands above)")
    return json.loads(done.stdout)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- flags -------------------------------------------------------------------------------------------------------


def read_args(argv: Sequence[str] | None) -> argparse.Namespace:
    p = cli.Parser(description=__doc__.split("\n\n")[0])
    p.add_argument("--threads", type=cli.positive_int, default=cores(), help="on both sides")
    p.add_argument("--rounds", type=cli.positive_int, default=5, help="turns that each process takes")
    p.add_argument("--steps", type=cli.positive_int, help=f"per round [default: about {ROUND_SECONDS} seconds]")
    p.add_argument("--only", type=kinds, default=KINDS, metavar="KIND[,KIND]", help="gan, vgg16, gpan [default: all]")
    p.add_argument("--batch", type=cli.positive_int, help="samples per batch [default: 64; 4 for vgg16 and gpan]")
    p.add_argument("--base", type=numbers, default=(16, 64), help="gan: channels next to the image, a net for each")
    p.add_argument("--bank", type=numbers, default=(1, 16), help="gan: filter sets, a net for each")
    p.add_argument("--size", type=sizes, default=(128,), help=f"gpan: pixels of the image, some of "
                   f"{', '.join(map(str, SIZES))} [default: 128]")
    p.add_argument("--sees", choices=gpan_problem.SEES, default="view", help="gpan: the classifier's input in a "
                   "step, the whole image, one random view (as train_gpan.py has it), or both")
    p.add_argument("--json", type=cli.path, metavar="FILE", help="write the table's rows there as well")
    p.add_argument("--quick", action="store_true", help="2 rounds of 2 steps, base 16, size 64, small batches and a "
                   "narrow VGG16 of 64 pixels, where not given")
    args = p.parse_args(argv)
    args.gan_batch, args.photo_batch, args.side, args.narrow = 64, 4, 224, 1
    if args.quick:
        args.gan_batch, args.photo_batch, args.side, args.narrow = 16, 2, 64, gpan_problem.NARROW
        small = {"rounds": 2, "steps": 2, "base": (16,), "size": (64,)}
        for name in small.keys() - cli.typed(p, argv):
            setattr(args, name, small[name])
    if "gpan" in args.only and args.batch == 1:
        raise UsageError("--batch 1: the GPAN's L_split compares the images of a batch; use 2 or more")
    return args


def kinds(text: str) -> tuple[str, ...]:
    """Parse "vgg16,gan" -> ("gan", "vgg16"), always in that order."""
    words = text.split(",")
    if not set(words) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"{text!r}: give some of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in words)


def sizes(text: str) -> tuple[int, ...]:
    """Parse "128,1024" -> (128, 1024)."""
    pixels = numbers(text)
    if not set(pixels) <= set(SIZES):
        raise argparse.ArgumentTypeError(f"{text!r}: give some of {', '.join(map(str, SIZES))}")
    return pixels


def numbers(text: str) -> tuple[int, ...]:
    """Parse "16,64" -> (16, 64)."""
    try:
        return tuple(cli.positive_int(word) for word in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r}: give positive whole numbers such as 16,64") from None


def cores() -> int:
    """List the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
