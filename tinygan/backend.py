"""Where arrays live: NumPy on the processor, CuPy on a CUDA GPU.

There is no global switch. Every function asks the array it was given which module made it (`xp_of`) and goes on
with that module, so the same code serves both. CuPy is never imported before somebody asks for a GPU.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np

from tinygan.errors import TinyganError, UsageError

INSTALL_HINT = 'pip install ".[cuda13]" for driver 580 or newer, ".[cuda12]" for older ones'


def is_cupy(array: Any) -> bool:
    """Whether CuPy made `array`; told by its type's module, so that nothing has to be imported to ask."""
    return type(array).__module__.partition(".")[0] == "cupy"


def xp_of(array: Any) -> Any:
    """The module that made `array`: cupy for a CuPy array, numpy for everything else."""
    return importlib.import_module("cupy") if is_cupy(array) else np


def to_numpy(array: Any) -> np.ndarray:
    """The same values as a NumPy array (a copy where they were on a GPU)."""
    return np.asarray(array) if xp_of(array) is np else array.get()


class Device(NamedTuple):
    """A place to compute. `xp` is numpy or cupy; `line` says in words what was chosen and why."""

    kind: str
    xp: Any
    line: str

    def put(self, array: np.ndarray) -> Any:
        """The array on this device (the array itself when it is there already)."""
        return array if self.xp is np else self.xp.asarray(array)


def pick_device(name: str = "auto") -> Device:
    """Turn `--device auto|cpu|gpu|gpu:N` (cuda means gpu) into a Device.

    Raises UsageError for another name, TinyganError when a GPU was asked for and none works.
    """
    wanted, _, number = name.replace("cuda", "gpu").partition(":")
    if wanted not in ("auto", "cpu", "gpu") or (number and (wanted != "gpu" or not number.isdigit())):
        raise UsageError(f"unknown device {name!r}: use auto, cpu, gpu or gpu:N")
    if wanted == "cpu":
        return Device("cpu", np, f"device: cpu, NumPy {np.__version__}")
    cupy, why = find_gpu(int(number or 0))
    if cupy is not None:
        return Device("gpu", cupy, why)
    if wanted == "gpu":
        raise TinyganError(f"no GPU to use: {why}")
    return Device("cpu", np, f"device: cpu, NumPy {np.__version__} (no GPU: {why})")


def first_line(problem: Exception) -> str:
    """An exception in one line: the first of its message, or its kind where it has none."""
    return (str(problem).splitlines() or [type(problem).__name__])[0]


def find_gpu(number: int = 0) -> tuple[Any, str]:
    """(cupy, a line naming the device) if a GPU truly works, else (None, the reason in one line).

    An importable CuPy proves nothing: libraries are loaded at first use. So a small matrix product is made and
    compared with the right answer before the device is trusted.
    """
    try:
        import cupy
    except ImportError:
        return None, f"CuPy is not installed ({INSTALL_HINT})"
    try:
        if cupy.cuda.runtime.driverGetVersion() == 0:
            return None, "no CUDA driver on this machine"
        count = cupy.cuda.runtime.getDeviceCount()
        if number >= count:
            return None, f"there is no GPU number {number}: this machine has {count}"
        cupy.cuda.Device(number).use()
        four = cupy.arange(4, dtype=cupy.float32).reshape(2, 2)
        if float((four @ four).sum()) != 22.0:  # [[0 1] [2 3]] squared is [[2 3] [6 11]]
            return None, "a small test product on the GPU came out wrong"
        title = cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()
    except Exception as problem:  # CuPy raises many kinds, RuntimeError and ImportError among them
        return None, f"CuPy does not work here: {first_line(problem)} ({INSTALL_HINT})"
    return cupy, f"device: gpu {number}, {title}, CuPy {cupy.__version__}, float32"
