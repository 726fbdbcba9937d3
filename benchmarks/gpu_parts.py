"""The parts of gpu_check.py: what each does on a GPU, and what it reports."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as tree
import zipfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tinygan.app.device import find_gpu
from tinygan.kernels.gpu import launch
from tinygan.models import GANConfig
from tinygan.nn import RMSprop

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "pytest", "pytest-xdist", "pytest-timeout", "h5py",
            "pillow", "matplotlib", "tqdm", "threadpoolctl", "nvidia-cublas", "nvidia-cuda-nvrtc")
PROGRAMS = {"nvidia-smi": ["--query-gpu=name,driver_version,memory.total,clocks.sm,pstate", "--format=csv,noheader"],
            "g++": ["--version"], "nvcc": ["--version"], "compute-sanitizer": ["--version"]}
# Of a row of benchmarks/gpu.py; bench.json has it whole.
SHOWN = ("status", "tinygan_ms", "eager_ms", "compiled_ms", "ratio", "torch_form", "floor_ms", "difference", "notes")
APART = 1e-3  # how far the GPU's losses and gradients may be from NumPy's, both float32
SANITIZED = "kernel_gives and not counter"  # the table of kernels


class Part(NamedTuple):
    """A check: how many seconds it may take, how many must be left for it to begin, and what it does."""

    limit: int
    least: int
    run: Callable[[argparse.Namespace], dict]


PARTS: dict[str, Part] = {}  # in the order in which they run


def part(limit: int, least: int = 10) -> Callable:
    """Enter a function into PARTS. It returns its measurements, or raises Wrong or NotHere."""
    def enter(function: Callable) -> Callable:
        PARTS[function.__name__] = Part(limit, least, function)
        return function
    return enter


class Wrong(Exception):
    """The part ran, and something is not as it should be. Its only argument is what was measured."""


class NotHere(Exception):
    """This machine lacks what the part needs. Its only argument says what."""


# ---- the parts ---------------------------------------------------------------------------------------------------


@part(40)
def env(args: argparse.Namespace) -> dict:
    """Collect versions, what the device is, and how fast it copies and multiplies."""
    from gpu_tinygan import CupyClock, copy_speed, product_speed

    found = {"python": platform.python_version(), "processor": f"{platform.machine()}, {os.cpu_count()} threads"}
    found |= {name: installed(name) for name in PACKAGES}
    for name, words in PROGRAMS.items():  # of what it prints the line with a version
        found[name] = next((line for line in printed_by(name, *words).splitlines() if re.search(r"\d\.\d", line)), None)
    started = time.perf_counter()
    cupy, found["find_gpu"] = find_gpu()
    found["seconds to find it"] = round(time.perf_counter() - started, 1)
    clock = CupyClock(cupy)
    found["copy GB/s"] = round(copy_speed(cupy, clock, 4 if args.small else 512))
    for math in ("fp32", "tf32"):
        launch.set_tf32(math == "tf32")
        found[f"product TFLOP/s {math}"] = float(f"{product_speed(cupy, clock, 256 if args.small else 8192) / 1e3:.3g}")
    return found


@part(60)
def smoke(args: argparse.Namespace) -> dict:
    """Take one step of a GAN and of an SGAN: all losses and gradients beside NumPy's."""
    from game import grown, play

    cupy, _ = find_gpu()
    found = {}
    for name, bank in (("GAN", 1), ("SGAN", 4)):
        config = GANConfig(base_channels=4 if args.small else 16, latent_dim=32, bank=bank, init_factor=1.0)
        results = []
        for put in (np.asarray, cupy.asarray):
            started = time.perf_counter()
            losses, gradients = play(grown(config, put, RMSprop), 1, put, batch=4 if args.small else 16)
            results.append(([loss.item() for loss in losses], {k: g.numpy() for k, g in gradients[0].items()}))
            seconds = time.perf_counter() - started
        (losses, gradients), (ours, our_gradients) = results
        found[name] = {"losses": ours, "apart": max(abs(a / b - 1) for a, b in zip(ours, losses, strict=True)),
                       "gradients apart": max(float(np.linalg.norm(our_gradients[k] - g) / np.linalg.norm(g))
                                              for k, g in gradients.items()),
                       "seconds with compiling": round(seconds, 1)}
    if not all(one[key] < APART for one in found.values() for key in ("apart", "gradients apart")):
        raise Wrong(found)
    return found


@part(130, 30)
def tests(args: argparse.Namespace) -> dict:
    """Run the tests marked gpu: every kernel, layer, optimiser and whole trainings against NumPy, on CuPy itself."""
    junit = args.out / "junit.xml"
    junit.unlink(missing_ok=True)
    words = ["-m", "gpu", "tests/kernels/test_gpu.py", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}"]
    if args.small:
        words += ["-k", "sign_of_zero or pooling or optimiser_takes or (kernel_gives and tprelu)"]
    elif importlib.util.find_spec("xdist"):
        words += ["-n", str(min(8, os.cpu_count() or 1))]
    if importlib.util.find_spec("pytest_timeout"):
        words += ["--timeout=100"]
    code, text = call(sys.executable, "-m", "pytest", *words)
    if not junit.exists():
        raise RuntimeError(last_line(text))
    suite = tree.parse(junit).getroot().find("testsuite")
    found: dict[str, Any] = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    found["failed"] = [f"{case.get('name')}: {(problem.get('message') or '').partition(chr(10))[0][:200]}"
                       for case in suite.iter("testcase")
                       for problem in (*case.findall("failure"), *case.findall("error"))]
    times = sorted(((float(case.get("time")), case.get("name")) for case in suite.iter("testcase")), reverse=True)
    found["slowest"] = [f"{name} {seconds:.1f} s" for seconds, name in times[:5]]
    if code or found["skipped"] == found["tests"]:
        raise Wrong(found)
    return found


@part(60)
def steps(args: argparse.Namespace) -> dict:
    """Measure milliseconds of a training step, and of the host's share: where both agree it is Python that limits."""
    from gpu_tinygan import BATCHES, CupyClock, StepProblem, TinyganStep, counted, timed_round

    cupy, _ = find_gpu()
    clock, found = CupyClock(cupy), {}
    warm, repeat = (1, 2) if args.small else (BATCHES, 100)
    for bank in (2, 1) if args.small else (16, 1):
        for math in ("fp32", "tf32"):
            launch.set_tf32(math == "tf32")
            problem = StepProblem(4, bank, 4) if args.small else StepProblem(64, bank, 64)
            side = TinyganStep(problem, cupy, clock)
            timed_round(side.run, warm, clock)
            with counted() as counts:
                timed_round(side.run, warm, clock)
            each, wall = timed_round(side.run, repeat, clock)
            handed = []
            for _ in range(min(repeat, 30)):
                clock.wait()
                started = time.perf_counter()
                side.run()
                handed.append((time.perf_counter() - started) * 1e3)
            pool = cupy.get_default_memory_pool()
            found[f"{problem.name} {math}"] = {
                "ms by events": round(median(each), 3), "ms by the wall": round(wall, 3),
                "ms of the host": round(median(handed), 3), "own launches": counts["launches"] / warm,
                "products": counts["products"] / warm, "pool MB": round(pool.total_bytes() / 1e6)}
            del side
            pool.free_all_blocks()
    return found


@part(45, 20)
def profile(args: argparse.Namespace) -> dict:
    """Measure which kernels take the GPU's time in a step, by PyTorch's profiler, which records CuPy's launches too."""
    torch = need_torch()
    from gpu_tinygan import BATCHES, CupyClock, StepProblem, TinyganStep, timed_round
    cupy, _ = find_gpu()
    torch.zeros(1, device="cuda")
    clock, text, found = CupyClock(cupy), "", {}
    for bank in (16, 1):
        side = TinyganStep(StepProblem(64, bank, 64), cupy, clock)
        timed_round(side.run, BATCHES, clock)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as events:
            timed_round(side.run, 10, clock)
        rows = sorted(((event.self_device_time_total / 1e4, event.count / 10, event.key)
                       for event in events.key_averages()), reverse=True)
        found[f"K {bank}"] = {"GPU ms per step": round(sum(ms for ms, _, _ in rows), 3),
                              "launches per step": sum(count for _, count, _ in rows),
                              "the first": [f"{ms:.3f} ms {name[:60]}" for ms, _, name in rows[:5]]}
        text += f"K {bank}\n" + "".join(f"{ms:9.4f} ms {count:6.1f} x  {name[:110]}\n" for ms, count, name in rows)
    (args.out / "profile.txt").write_text(text, encoding="utf-8")
    return found


@part(170, 60)
def bench_step(args: argparse.Namespace) -> dict:
    """Time the SGAN's training step against PyTorch's, eager and compiled."""
    return bench(args, "bench_step", "--only", "step", "--step-bank", "16", "--rounds", "3", "--steps", "20")


@part(80, 40)
def bench_layer(args: argparse.Namespace) -> dict:
    """Time the stochastic layer against PyTorch's."""
    return bench(args, "bench_layer", "--only", "layer", "--bank", "16", "--batch", "64", "--rounds", "3", "--steps",
                 "20")


@part(70, 30)
def train(args: argparse.Namespace) -> dict:
    """Run python train_mnist.py as a user types it, for 45 seconds and Ctrl-C; its pictures come along."""
    words = ["--log-every", "100", "--sample-every", "500", "--eval-every", "1000"]
    folder = args.carry / "mnist"
    if args.small:
        words = ["--log-every", "2", "--sample-every", "2", "--eval-every", "0", "--steps", "4", "--base-channels", "2",
                 "--bank", "2", "--batch-size", "4", "--latent-dim", "4", "--threads", "1"]
        from script_tools import write_mnist
        folder = write_mnist(args.scratch / "mnist")
    if folder.is_dir():
        words += ["--data-dir", str(folder)]
    return script(args, "train_mnist.py", *words)


@part(70, 30)
def gpan_1024(args: argparse.Namespace) -> dict:
    """Train the GPAN at the paper's 1024 pixels, before the VGG16 of .carry where there is one, else before digits."""
    words, vgg16 = ["--log-every", "1", "--eval-every", "0", "--steps", "40", "--size", "1024"], args.carry / "vgg16.h5"
    if args.small:
        words[-3:] = ["1", "--size", "64", "--base-channels", "2", "--patch-channels", "2", "--batch-size", "2",
                      "--views", "1", "--bank", "2", "--threads", "1"]
    elif vgg16.is_file():
        words += ["--classifier", str(vgg16), "--wanted", "flamingo"]
    return script(args, "train_gpan.py", *words)


@part(60, 40)
def bench_gpan(args: argparse.Namespace) -> dict:
    """Time the GPAN's step at 1024 pixels against PyTorch's, eager, in TF32."""
    return bench(args, "bench_gpan", "--only", "gpan", "--size", "1024", "--no-compile", "--math", "tf32", "--rounds",
                 "2", "--steps", "5")


@part(90, 40)
def sanitizer(args: argparse.Namespace) -> dict:
    """Check for reads out of bounds and races on the device: the table of kernels under NVIDIA's compute-sanitizer."""
    if args.small:
        raise NotHere("the stand-in is no device; test_cuda_kernels.py has the processor's sanitizers")
    if shutil.which("compute-sanitizer") is None:
        raise NotHere("compute-sanitizer is not installed (it comes with the CUDA toolkit)")
    found = {}
    for tool in ("memcheck", "racecheck"):
        code, text = call("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest",
                          "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/kernels/test_gpu.py", "-k", SANITIZED,
                          "-x")
        found[tool] = {"exit code": code, "end": text[-400:]}
    if any(one["exit code"] for one in found.values()):
        raise Wrong(found)
    return found


# ---- what the parts share ----------------------------------------------------------------------------------------


def need_torch() -> Any:
    """Import PyTorch. Raises NotHere if it is not installed, or finds no GPU."""
    if importlib.util.find_spec("torch") is None:
        raise NotHere('PyTorch is not installed: pip install ".[bench]"')
    import torch
    if not torch.cuda.is_available():
        raise NotHere(f"PyTorch {torch.__version__} finds no GPU")
    return torch


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def printed_by(program: str, *words: str) -> str:
    """Return what a program prints; nothing where it is not there."""
    try:
        return subprocess.run([program, *words], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def call(*words: str) -> tuple[int, str]:
    """Run a command and return (exit code, output), in the project's folder; the end of the output goes to the log."""
    done = subprocess.run(words, cwd=ROOT, text=True, errors="replace", stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    print(done.stdout[-8000:])
    return done.returncode, done.stdout


def last_line(text: str) -> str:
    """Return the last line that is not blank."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")


def bench(args: argparse.Namespace, name: str, *words: str) -> dict:
    """Run benchmarks/gpu.py; all it wrote goes into bench.json, its rows come back."""
    need_torch()
    into, whole = args.out / "bench.part", args.out / "bench.json"
    into.unlink(missing_ok=True)
    code, text = call(sys.executable, "benchmarks/gpu.py", *words, "--json", str(into))
    if not into.exists():
        raise RuntimeError(last_line(text))
    content = json.loads(into.read_text("utf-8"))
    into.unlink()
    known = json.loads(whole.read_text("utf-8")) if whole.exists() else {}
    whole.write_text(json.dumps(known | {name: content}, indent=1), encoding="utf-8")
    rows = {f"{row['name']} {row['math']}": {key: row[key] for key in SHOWN} for row in content["rows"]}
    if code:
        raise Wrong(rows)
    return rows


def script(args: argparse.Namespace, name: str, *words: str, seconds: float = 45) -> dict:
    """Run a training script on the GPU, press Ctrl-C after so many seconds, and take along what it drew."""
    run, begun = args.scratch / "run", time.monotonic()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a background job: the training would, too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, name, "--device", "gpu", "--out", str(run), *words], cwd=ROOT,
                               text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    timer = threading.Timer(seconds, process.send_signal, [signal.SIGINT])
    timer.start()
    text = process.communicate()[0]
    timer.cancel()
    print(text[-8000:])
    lines = text.splitlines()
    progress = [line for line in lines if line.startswith("step ")]
    pictures = sorted(run.glob("samples/*.png"))
    with zipfile.ZipFile(args.out / f"{name.removesuffix('.py')}.zip", "w") as file:
        for path in sorted({*pictures[:2], *pictures[-3:], *run.glob("*.png"), *run.glob("log.csv")}):
            file.write(path, path.name)
    found = {"exit code": process.returncode, "seconds": round(time.monotonic() - begun, 1), "first lines": lines[:8],
             "last line": progress[-1] if progress else last_line(text),
             "health": [line for line in progress if re.match(r"step [\d,]+: ", line)][-3:]}
    if process.returncode not in (0, 130):
        raise Wrong(found)
    return found
