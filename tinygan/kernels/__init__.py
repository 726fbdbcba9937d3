"""Kernels: the array work under the engine. `reference.py` defines each one, `numpy_*.py` do it fast on the
processor, `cuda_*.py` with `kernels.cu` on a GPU in float32, `portable.py` on any array with NumPy's interface.

A kernel takes and returns raw arrays and knows nothing of gradients. It never writes to its inputs, but for the
optimisers' and the moving average's, which work in place. Maps are (N, C, H, W) whatever their strides; those that
the convolutions return are channels-last in memory, on a GPU channels-first. `for_array(x)` picks the module by the
array's type, so the array decides where the work is done and there is no switch to forget.

Where one launch can do the work of many, the GPU's module offers more, and who uses it asks with hasattr (`each` does):
tprelu_back, channel_sums, pack, and normalize_all, normalize_dx_all, rmsprop_all, adam_all, lerp_all over a whole net.
NumPy's and the portable one have conv_relu and conv_relu_dx, a layer of VGG16 and its slope, for the same reason.
"""

from types import ModuleType
from typing import Any

import numpy as np

from tinygan.backend import is_cupy
from tinygan.kernels import numpy_


def for_array(array: Any) -> ModuleType:
    """The module whose conv, conv_transpose, conv_weight, tprelu, ... take arrays of this type.

    TypeError for an array that is neither NumPy's nor CuPy's.
    """
    if isinstance(array, np.ndarray):
        return numpy_
    if is_cupy(array):
        from tinygan.kernels import cuda_, portable

        return cuda_ if array.dtype == np.float32 else portable
    kind = f"{type(array).__module__}.{type(array).__name__}"
    raise TypeError(f"no kernels for {kind}: use a NumPy or CuPy array")


def each(name: str, jobs: list[tuple]) -> list:
    """Run kernel `name` on every job, a tuple of its arguments: in one launch where the arrays' kernels offer that."""
    kernels = for_array(jobs[0][0])
    if hasattr(kernels, name + "_all"):
        return getattr(kernels, name + "_all")(jobs)
    return [getattr(kernels, name)(*job) for job in jobs]
