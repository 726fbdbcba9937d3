"""Kernels: the array work under the engine. `for_array(x)` returns those for the type of x.

    base.py         class Kernels: every kernel, on any array with NumPy's interface
    elementwise.py  those of them that go number by number: scale and bias, the sigmoid, the loss
    cpu/, gpu/      CpuKernels and CudaKernels, which override what they do faster: NumPy arrays, float32 CuPy arrays
    reference.py    what each kernel must compute, as plain loops; the tests hold all three classes against it
    geometry.py     sizes and overlaps of convolutions, sampling positions of affine maps
    update.py       Update: what an optimiser passes to its kernel
    counter.py      random numbers without a state
    arrays.py       which module made an array; to a device and back
    arguments.py    checks of what users pass: arrays, indices, axes
    threads.py      threads and scratch memory of the CPU kernels
    host.py         what the host computes for a step, once more where a GPU replays the step

A kernel takes and returns raw arrays; gradients are the engine's part. It never writes to its inputs, but for those of
the optimisers and the moving average, which work in place. Maps are (N, C, H, W) whatever their strides.
The work is done where the array lies; there is no separate switch.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tinygan.kernels.arrays import is_cupy
from tinygan.kernels.base import Kernels
from tinygan.kernels.cpu import CpuKernels

_ON_ANY_ARRAY, _ON_NUMPY = Kernels(), CpuKernels()


def for_array(array: Any) -> Kernels:
    """Return the kernels for arrays of this type and dtype.

    Raises TypeError for an array that is neither NumPy's nor CuPy's.
    """
    if isinstance(array, np.ndarray):
        return _ON_NUMPY
    if is_cupy(array):
        return _on_cuda() if array.dtype == np.float32 else _ON_ANY_ARRAY
    kind = f"{type(array).__module__}.{type(array).__name__}"
    raise TypeError(f"no kernels for {kind}: use a NumPy or CuPy array")


@functools.cache
def _on_cuda() -> Kernels:
    """Import the GPU's kernels; done for the first CuPy array, so that NumPy alone never imports them."""
    from tinygan.kernels.gpu import CudaKernels

    return CudaKernels()
