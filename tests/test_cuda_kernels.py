"""Every kernel of kernels.cu compiles for seven GPUs, runs on the processor and gives what its definition says; and
planted bugs are caught. None of it needs a GPU.

What this cannot see: what a real GPU does to the order of memory accesses between threads that do not wait for each
other, and how fast anything is.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from kernel_cases import Case, cases, run, wrong

from tinygan.kernels import cuda_launch

pytestmark = pytest.mark.kernels
CASES = cases()


@functools.cache
def source() -> str:
    return cuda_launch.SOURCE.read_text("utf-8")


@functools.cache
def module():
    from tinygan.kernels.hostcuda import HostModule

    return HostModule(source())


def launcher(on):
    """A launch through module `on`, its arguments cast by the parsed signatures as for a GPU."""
    def launch(kernel: str, grid: tuple, block: tuple, args: list) -> None:
        on.get_function(kernel)(grid, block, cuda_launch.cast(kernel, tuple(args)))
    return launch


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_gives_what_its_definition_says(case, gpp):
    for reverse in (False, True):
        module().reverse = reverse
        for grid in case.grids:
            problem = wrong(run(case, launcher(module()), grid))
            assert not problem, f"grid {grid}{', backwards' * reverse}: {problem}"
    module().reverse = False
