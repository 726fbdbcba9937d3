"""Kernels: the array work under the engine. `reference.py` defines each one, the other files do it fast.

A kernel takes and returns raw arrays, knows nothing of gradients, and never writes to its inputs. Maps are
(N, C, H, W) whatever their strides; results are channels-last in memory. `for_array(x)` picks the module by
the array's type, so the array decides where the work is done and there is no switch to forget.
"""

from types import ModuleType

import numpy as np

from . import numpy_


def for_array(array: object) -> ModuleType:
    """The module whose conv, conv_transpose, conv_weight, tprelu, ... take arrays of this type.

    TypeError for an array that is neither NumPy's nor CuPy's.
    """
    if isinstance(array, np.ndarray):
        return numpy_
    if type(array).__module__.partition(".")[0] == "cupy":
        from . import portable

        return portable
    kind = f"{type(array).__module__}.{type(array).__name__}"
    raise TypeError(f"no kernels for {kind}: use a NumPy or CuPy array")
