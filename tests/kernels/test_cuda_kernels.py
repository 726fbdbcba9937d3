"""Every kernel of kernels.cu compiles for seven GPUs, runs on the processor and gives what its definition says; and
planted bugs are caught. None of it needs a GPU.

What this cannot see: what a real GPU does to the order of memory accesses between threads that do not wait for each
other, and how fast anything is.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import nvrtc
import pytest
from conftest import missing
from kernel_bugs import BUGS
from kernel_cases import DEEP, THREADS, Case, cases, run, wrong

from tinygan.kernels.gpu import launch, routes

pytestmark = pytest.mark.kernels
CASES = cases()


@functools.cache
def source() -> str:
    return launch.SOURCE.read_text("utf-8")


@functools.cache
def module():
    from tinygan.kernels.gpu.emulator import HostModule

    return HostModule(source())


def launcher(on):
    """Return a launch through module `on`, its arguments cast by the parsed signatures as for a GPU."""
    def start(kernel: str, grid: tuple, block: tuple, args: list) -> None:
        on.get_function(kernel)(grid, block, launch.cast(kernel, tuple(args)))
    return start


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_gives_what_its_definition_says(case, gpp):
    for reverse in (False, True):
        module().reverse = reverse
        for grid in case.grids:
            problem = wrong(run(case, launcher(module()), grid))
            assert not problem, f"grid {grid}{', backwards' * reverse}: {problem}"
    module().reverse = False


def test_every_kernel_has_a_case(capsys, gpp):
    names = set(launch.signatures())
    assert names == set(module().names) == {case.kernel for case in CASES}
    with capsys.disabled():
        print(f"\nkernels {len(names)}: run on the processor {len(names)}, as defined {len(names)}; {len(CASES)} cases")


def test_the_host_launches_blocks_of_the_size_that_kernels_count_on():
    assert f"#define THREADS {launch.THREADS} " in source() and launch.THREADS == THREADS
    assert f"#define TALL {routes.TALL} " in source() and f"#define WIDE {routes.WIDE}\n" in source()
    assert f"#define DEEP {DEEP} " in source()


def test_the_signatures_are_those_the_compiler_sees(gpp):
    sizes = {np.float32: 4, np.int32: 4, np.uint32: 4, np.uint8: 1}
    for name, parameters in launch.signatures().items():
        seen = module().get_function(name)._parameters
        assert len(seen) == len(parameters)
        for (size, pointer, _, floating), (dtype, is_pointer) in zip(seen, parameters, strict=True):
            assert bool(pointer) == is_pointer
            assert size == (8 if pointer else sizes[dtype])
            if not pointer:
                assert bool(floating) == (dtype is np.float32)


# ---- compilation -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiler():
    return nvrtc if nvrtc.library() is not None else missing("NVRTC (pip install nvidia-cuda-nvrtc) is not installed")


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_every_kernel_compiles_and_spills_nothing(architecture, compiler):
    code, log = compiler.compile_for(architecture, source())
    assert code.startswith(b"\x7fELF") and compiler.compiled(log) == set(launch.signatures())
    assert compiler.spilled(log) == []
    assert "warning" not in log.lower()
    # Two blocks of a routed product run on a processor at once (routes.BUSY), of the 65,536 registers that it has.
    assert max(count for name, count in compiler.registers(log).items() if name.startswith("routed")) <= 128


def test_a_kernel_that_does_not_compile_or_spills_is_noticed(compiler):
    with pytest.raises(ValueError, match="undefined"):
        compiler.compile_for(90, source().replace("sum += patches[", "sum += patch["))
    greedy = ('extern "C" __global__ void __launch_bounds__(1024) greedy(float* x) { float v[120];\n'
              "for (int i = 0; i < 120; ++i) v[i] = x[i * 1024 + threadIdx.x];\n"
              "for (int k = 0; k < 3; ++k)\n"
              "for (int i = 0; i < 120; ++i) v[i] = v[i] * v[(i + 7) % 120] + v[(i + k) % 120];\n"
              "for (int i = 0; i < 120; ++i) x[i * 1024 + threadIdx.x] = v[i]; }")
    assert compiler.spilled(compiler.compile_for(90, greedy)[1]) == ["greedy"]


def test_nvcc_compiles_the_same_text(tmp_path, capsys):
    """Where the CUDA toolkit is installed, its compiler is asked, too."""
    nvcc = shutil.which("nvcc")
    architectures = nvrtc.ARCHITECTURES if nvcc else ()
    for architecture in architectures:
        done = subprocess.run([nvcc, f"-arch=sm_{architecture}", "-cubin", "-std=c++17", "-Xptxas", "-v", "-Werror",
                               "all-warnings", "-o", tmp_path / "kernels.cubin", launch.SOURCE],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert nvrtc.compiled(done.stderr) == set(launch.signatures()) and nvrtc.spilled(done.stderr) == []
    with capsys.disabled():
        print(f"\nkernels {len(launch.signatures())}: compiled for {len(nvrtc.ARCHITECTURES)} architectures by "
              f"NVRTC {nvrtc.version() if nvrtc.library() else '(missing)'}, for {len(architectures)} by nvcc"
              + ("" if nvcc else " (not installed)"))


# ---- planted bugs ------------------------------------------------------------------------------------------------


@functools.cache
def spoilt_modules() -> dict[str, Future]:
    """Every planted bug's module, compiled side by side: the compiler is what takes the time."""
    from tinygan.kernels.gpu.emulator import HostModule

    pool = ThreadPoolExecutor(os.cpu_count())
    spoilt = {bug: source().replace(bug.right, bug.wrong, bug.times) for bug in BUGS}
    return {bug.label: pool.submit(HostModule, section_of(bug.kernel, code)) for bug, code in spoilt.items()}


def section_of(kernel: str, code: str) -> str:
    """Cut the code to what all sections share and the section of the kernel, which compiles in a third of the time."""
    shared, *sections = re.split(r"^(?=// ---- )", code, flags=re.MULTILINE)
    (own,) = [section for section in sections if f"__global__ void {kernel}" in section]
    return shared + own


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.label)
def test_a_planted_bug_is_caught(bug, gpp):
    assert bug.right in section_of(bug.kernel, source()), "the line to be spoilt is not there any more"
    spoilt = spoilt_modules()[bug.label].result()
    rows = [case for case in CASES if case.kernel.startswith(bug.kernel)]
    assert rows and fails_apart(lambda: caught(spoilt, rows))


def test_planted_bugs_are_many(capsys):
    assert len(BUGS) >= 13 and len({bug.label for bug in BUGS}) == len(BUGS)
    with capsys.disabled():
        print(f"\nplanted kernel bugs: {len(BUGS)}, each a test that fails unless it is caught")


def fails_apart(check: Callable[[], bool]) -> bool:
    """Run `check` in a process of its own, since a spoilt kernel may write anywhere: whether it says so, crashes or
    hangs."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        signal.alarm(60)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the C library says of a broken heap
        try:
            os._exit(1 if check() else 0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] != 0


def caught(spoilt, rows: list[Case]) -> bool:
    """Whether any row, on any grid and in either order of the threads, comes out wrong or is refused."""
    for reverse in (False, True):
        spoilt.reverse = reverse
        for case in rows:
            for grid in case.grids:
                try:
                    if wrong(run(case, launcher(spoilt), grid)):
                        return True
                except RuntimeError:  # threads that do not meet at a barrier
                    return True
    return False


def test_a_sound_kernel_is_not_called_wrong(gpp):
    assert not fails_apart(lambda: caught(module(), CASES))


# ---- sanitizers --------------------------------------------------------------------------------------------------

WATCHED = """
import sys
sys.path[:0] = {paths!r}
from kernel_cases import cases, run, wrong
from tinygan.kernels.gpu import launch
from tinygan.kernels.gpu.emulator import HostModule

source = launch.SOURCE.read_text("utf-8")
if {bug!r}:
    assert {bug!r}[0] in source
    source = source.replace(*{bug!r})
module, ran = HostModule(source, sanitize=True), 0
def start(kernel, grid, block, args):
    module.get_function(kernel)(grid, block, launch.cast(kernel, tuple(args)))
for case in cases():
    if case.kernel.startswith({only!r}):
        problem = wrong(run(case, start, case.grids[-1]))
        assert not problem or {bug!r}, (str(case), problem)
        ran += 1
print("cases run:", ran)
"""


def watched(bug: tuple = (), only: str = "") -> subprocess.CompletedProcess:
    """The case table in a process whose memory accesses and integers are watched."""
    from tinygan.kernels.gpu.emulator import sanitizer_environment

    root = Path(__file__).resolve().parents[2]
    code = WATCHED.format(paths=[str(root), str(root / "tests")], bug=bug, only=only)
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **sanitizer_environment()},
                          capture_output=True, text=True, timeout=300)


def test_all_kernels_run_clean_under_address_and_undefined_behaviour_sanitizers(gpp):
    done = watched()
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"cases run: {len(CASES)}" in done.stdout


@pytest.mark.parametrize("bug, only, words", [
    (("out += columns;", "out += columns + 1;"), "im2col_any", "heap-buffer-overflow"),
    (("columns) sum += x[(long", "columns) sum += x[THREADS * 8 + (long"), "row_sums", "heap-buffer-overflow"),
    (("int columns = count * h * w;\n", "volatile int huge = 0x7fffffff;\nint columns = huge + count * h * w;\n"),
     "im2col_any", "signed integer overflow"),
])
def test_the_sanitizers_see_what_they_should(bug, only, words, gpp):
    done = watched(bug, only)
    assert done.returncode != 0 and words in done.stderr
