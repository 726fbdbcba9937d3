"""The parts of gpu_check.py: what each does on a GPU, and what it reports."""

from __future__ import annotations

import argparse
import gc
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
SHOWN = ("status", "tinygan_ms", "graph_ms", "eager_ms", "compiled_ms", "ratio", "compiled_ratio", "torch_form",
         "tinygan_host_ms", "graph_host_ms", "nodes", "floor_ms", "difference", "notes")
APART = 1e-3  # how far the GPU's losses and gradients may be from NumPy's, both float32
SANITIZED = "kernel_gives and not counter"  # the table of kernels
TESTS = ("tests/kernels/test_gpu.py", "tests/kernels/test_graph.py", "tests/kernels/test_gpan_graph.py")
REPLAYED = 6  # steps of which the recorded form must have the bits: two before it is recorded, then replays
TENSOR_CORES = 80  # the compute capability from which a GPU multiplies TF32


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


@part(70)
def smoke(args: argparse.Namespace) -> dict:
    """Take one step of a GAN and an SGAN, with NumPy's losses and gradients; replay recorded ones with equal bits."""
    from game import grown, play
    from gpu_tinygan import CupyClock, LayerProblem, StepProblem, replayed

    cupy, _ = find_gpu()
    found: dict[str, Any] = {}
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
    right = all(one[key] < APART for one in found.values() for key in ("apart", "gradients apart"))
    layer = LayerProblem(4, 6, 5, 4, 3) if args.small else LayerProblem(16, 64)
    problems = [layer, *(StepProblem(2, bank, 4) if args.small else StepProblem(16, bank, 16) for bank in (1, 4))]
    for math in ("fp32",) if args.small else ("fp32", "tf32"):
        launch.set_tf32(math == "tf32")
        for problem in problems:
            # The replays run in a stream that waits for no other one, and their losses are read inside it.
            _, apart = replayed(problem, cupy, CupyClock(cupy), REPLAYED)
            found[f"{problem.name} {math}, replayed"] = apart or "equal bits"
            right = right and not apart
    if not right:
        raise Wrong(found)
    return found


@part(40, 20)
def sass(args: argparse.Namespace) -> dict:
    """Check that TF32's products run on tensor cores, HMMA in their machine code, and float32's do not."""
    if args.small:
        raise NotHere("there is no device whose machine code it would be")
    tool = shutil.which("cuobjdump", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))
    if tool is None:
        raise NotHere("cuobjdump is not installed (it comes with the CUDA toolkit, or as nvidia-cuda-cuobjdump)")
    cupy, _ = find_gpu()
    capability = cupy.cuda.Device().compute_capability
    if int(capability) < TENSOR_CORES:
        raise NotHere(f"a GPU of compute capability {capability} does not multiply TF32")
    return hmma_of_products(cupy.cuda.nvrtc, tool, capability, args.scratch)


def hmma_of_products(nvrtc: Any, tool: str, capability: str, folder: Path) -> dict[str, int | None]:
    """Return how many HMMA each routed product has. Raises Wrong where a TF32 one has none, or another one has some."""
    program = nvrtc.createProgram(launch.SOURCE.read_text("utf-8"), "kernels.cu", [], [])
    nvrtc.compileProgram(program, (*launch.OPTIONS, f"-arch=sm_{capability}"))
    binary = folder / "kernels.cubin"
    binary.write_bytes(nvrtc.getCUBIN(program) + b"\0")  # CuPy's copy lacks the last byte, and cuobjdump minds
    nvrtc.destroyProgram(program)
    counts = tensor_core_instructions(subprocess.run([tool, "-sass", str(binary)], capture_output=True, text=True,
                                                     check=True).stdout)
    found = {name: counts.get(name) for name in launch.signatures() if name.startswith("routed_")}
    if not found or any(bool(count) != name.endswith("_tf32") for name, count in found.items()):
        raise Wrong(found)
    return found


def tensor_core_instructions(listing: str) -> dict[str, int]:
    """Count HMMA in each function of what cuobjdump prints."""
    parts = re.split(r"^\s*Function : (\w+)$", listing, flags=re.MULTILINE)
    return {name: len(re.findall(r"\bHMMA\.", text)) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


@part(130, 30)
def tests(args: argparse.Namespace) -> dict:
    """Run the tests marked gpu on CuPy itself: kernels, layers, optimisers, graphs, whole trainings, against NumPy."""
    junit = args.out / "junit.xml"
    junit.unlink(missing_ok=True)
    words = ["-m", "gpu", *TESTS, "-q", "-p", "no:cacheprovider", f"--junitxml={junit}"]
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
    """Measure milliseconds of a training step and of the host's share, kernel by kernel and recorded as one graph."""
    from gpu_tinygan import BATCHES, CupyClock, RecordedTraining, StepProblem, TinyganStep

    cupy, _ = find_gpu()
    found = {}
    for bank in (2, 1) if args.small else (16, 1):
        for math in ("fp32", "tf32"):
            launch.set_tf32(math == "tf32")
            problem = StepProblem(4, bank, 4) if args.small else StepProblem(64, bank, 64)
            for form, kind in (("", TinyganStep), (", recorded", RecordedTraining)):
                side = kind(problem, cupy, CupyClock(cupy))
                found[f"{problem.name} {math}{form}"] = measured(side, *((3, 2) if args.small else (BATCHES, 100)))
                del side
                gc.collect()  # a recorded one refers to itself
                cupy.get_default_memory_pool().free_all_blocks()
    apart = [name for name, one in found.items() if one.get("notes")]
    if apart:  # it could not be recorded, or cuBLAS allocates a workspace of its own in every replay
        raise Wrong(found)
    return found


def measured(side: Any, warm: int, repeat: int) -> dict[str, Any]:
    """Return the times of a side of gpu_tinygan.py and what it launches, after `warm` iterations."""
    from gpu_tinygan import counted, handed_over, timed_round

    timed_round(side.run, warm, side.clock)
    with counted() as counts:
        timed_round(side.run, warm, side.clock)
    each, wall = timed_round(side.run, repeat, side.clock)
    found = {"ms by events": round(median(each), 3), "ms by the wall": round(wall, 3),
             "ms of the host": round(handed_over(side.run, min(repeat, 30), side.clock), 3)}
    if not hasattr(side, "recorded"):
        return found | {"own launches": counts["launches"] / warm, "products": counts["products"] / warm}
    nodes = side.nodes or {}
    notes = side.notes + ["the graph allocates memory"] * ("allocation" in nodes)
    return found | {"nodes": nodes, "notes": notes}


@part(110, 50)
def train(args: argparse.Namespace) -> dict:
    """Run python train_mnist.py as a user types it, 45 s and Ctrl-C, with pictures; its steps/s with no graph, too."""
    words, folder = ["--log-every", "100"], args.carry / "mnist"
    shown = ["--sample-every", "500", "--eval-every", "1000"]
    hidden = ["--sample-every", "1000000", "--eval-every", "0", "--steps", "1000000"]
    if args.small:
        words = ["--log-every", "1", "--eval-every", "0", "--steps", "4", "--base-channels", "2", "--bank", "2",
                 "--batch-size", "4", "--latent-dim", "4", "--threads", "1"]
        shown, hidden = ["--sample-every", "2"], []
        from script_tools import write_mnist
        folder = write_mnist(args.scratch / "mnist")
    if folder.is_dir():
        words += ["--data-dir", str(folder)]
    found = script(args, "train_mnist.py", *words, *shown, seconds=200 if args.small else 45)
    for graph in ("yes", "no"):
        code, text, _ = typed(args, "train_mnist.py", *words, *hidden, "--cuda-graph", graph,
                              seconds=200 if args.small else 12)
        found[f"steps/s with --cuda-graph {graph}"] = steps_per_second(text)
        if code not in (0, 130):
            raise Wrong(found | {"error": last_line(text)})
    return found


def steps_per_second(text: str) -> float | None:
    """Return the steps per second between the first and the last line of progress; None with fewer than two."""
    lines = re.findall(r"^step ([\d,]+)/.*?  ([\d.]+) (it/s|s/it)  ", text, re.MULTILINE)
    ends = [(int(step.replace(",", "")), float(rate) if unit == "it/s" else 1 / float(rate))
            for step, rate, unit in lines if float(rate)]
    if len(ends) < 2:
        return None
    (first, at_first), (last, at_last) = ends[0], ends[-1]
    return float(f"{(last - first) / (last / at_last - first / at_first):.3g}")


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
def gpan_1024(args: argparse.Namespace) -> dict:
    """Train the GPAN at 1024 pixels, recorded, before the VGG16 of .carry where there is one, else before digits."""
    words, vgg16 = ["--log-every", "1", "--eval-every", "0", "--steps", "40", "--size", "1024"], args.carry / "vgg16.h5"
    if args.small:
        words[-3:] = ["5", "--size", "64", "--base-channels", "2", "--patch-channels", "2", "--batch-size", "2",
                      "--views", "1", "--bank", "2", "--threads", "1"]
    elif vgg16.is_file():
        from tinygan.models import load_vgg16
        words += ["--classifier", str(vgg16), "--wanted",
                  "flamingo" if "flamingo" in load_vgg16(vgg16).class_names else "0"]
        words += ["--view-warmup", "0", "--view-blur", "1"]  # two variants, so that both are recorded
    return script(args, "train_gpan.py", *words, seconds=400 if args.small else 45)


@part(45, 20)
def profile(args: argparse.Namespace) -> dict:
    """Measure which kernels take the GPU's time in a recorded step, by PyTorch's profiler, which sees CuPy's, too."""
    torch = need_torch()
    from gpu_tinygan import BATCHES, CupyClock, RecordedTraining, StepProblem, timed_round
    cupy, _ = find_gpu()
    torch.zeros(1, device="cuda")
    text, found = "", {}
    for bank in (16, 1):
        side = RecordedTraining(StepProblem(64, bank, 64), cupy, CupyClock(cupy))
        timed_round(side.run, BATCHES, side.clock)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as events:
            timed_round(side.run, 10, side.clock)
        rows = sorted(((event.self_device_time_total / 1e4, event.count / 10, event.key)
                       for event in events.key_averages()), reverse=True)
        found[f"K {bank}"] = {"GPU ms per step": round(sum(ms for ms, _, _ in rows), 3),
                              "launches per step": sum(count for _, count, _ in rows),
                              "the first": [f"{ms:.3f} ms {name[:60]}" for ms, _, name in rows[:5]]}
        text += f"K {bank}\n" + "".join(f"{ms:9.4f} ms {count:6.1f} x  {name[:110]}\n" for ms, count, name in rows)
    (args.out / "profile.txt").write_text(text, encoding="utf-8")
    return found


@part(60, 40)
def bench_gpan(args: argparse.Namespace) -> dict:
    """Time the GPAN's step at 1024 pixels against PyTorch's, eager, in TF32."""
    return bench(args, "bench_gpan", "--only", "gpan", "--size", "1024", "--no-compile", "--math", "tf32", "--rounds",
                 "2", "--steps", "5")


@part(90, 40)
def sanitizer(args: argparse.Namespace) -> dict:
    """Check for reads out of bounds and races on the device: the table of kernels under NVIDIA's compute-sanitizer."""
    if args.small:
        raise NotHere("there is no device; tests/kernels/test_cuda_kernels.py has the processor's sanitizers")
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


def typed(args: argparse.Namespace, name: str, *words: str, seconds: float) -> tuple[int, str, Path]:
    """Run a training script on the GPU and press Ctrl-C after so many seconds: (exit code, output, its folder)."""
    run = args.scratch / f"run-{len(list(args.scratch.glob('run-*')))}"
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a background job: the training would, too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, name, "--device", "gpu", "--out", str(run), *words], cwd=ROOT,
                               text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    timer = threading.Timer(seconds, process.send_signal, [signal.SIGINT])
    timer.start()
    text = process.communicate()[0]
    timer.cancel()
    print(text[-8000:])
    return process.returncode, text, run


def script(args: argparse.Namespace, name: str, *words: str, seconds: float) -> dict:
    """Run a training script as `typed` does, and keep what it drew. Raises Wrong where its step is not recorded."""
    begun = time.monotonic()
    code, text, run = typed(args, name, *words, seconds=seconds)
    lines = text.splitlines()
    progress = [line for line in lines if line.startswith("step ")]
    pictures = sorted(run.glob("samples/*.png"))
    with zipfile.ZipFile(args.out / f"{name.removesuffix('.py')}.zip", "w") as file:
        for path in sorted({*pictures[:2], *pictures[-3:], *run.glob("*.png"), *run.glob("log.csv")}):
            file.write(path, path.name)
    found = {"exit code": code, "seconds": round(time.monotonic() - begun, 1), "first lines": lines[:8],
             "last line": progress[-1] if progress else last_line(text),
             "notes": [line for line in lines if line.startswith("note: ")],
             "recorded": not any("cannot be recorded" in line for line in lines),
             "health": [line for line in progress if re.match(r"step [\d,]+: ", line)][-3:]}
    if code not in (0, 130) or not found["recorded"]:
        raise Wrong(found)
    return found
