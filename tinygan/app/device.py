"""Choose where to compute: on the processor with NumPy, or on a CUDA GPU with CuPy.

CuPy is never imported unless a GPU is to be used. Where none works, `find_gpu` returns the reason in one line, with the
command to type on this computer.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import re
import sys
from typing import Any, NamedTuple

import numpy as np

from tinygan.errors import TinyganError, UsageError
from tinygan.kernels.arrays import send

DRIVERS = {12: 525, 13: 580}  # major version of CUDA, as in our extras cuda12 and cuda13: the oldest driver for it
CUDA_13_CAPABILITY = 75       # CUDA 13 compiles nothing for GPUs before compute capability 7.5
NO_DRIVER = "there is no NVIDIA driver on this machine (a container must be started with --gpus all)"

PACKAGE = re.compile(r"cupy(-cuda\d+x?|-rocm-.*)?")  # each holds a whole CuPy; cupy-wheel and plugins do not
NO_LIBRARY = re.compile(r"DynamicLibNotFound|Failure finding|cannot open (shared object|source) file"
                        r"|lib(nvrtc|cublas|cudart|curand|cusolver|cusparse|cufft|nvJitLink)")
OLD_DRIVER = re.compile(r"cudaError(InsufficientDriver|CallRequiresNewerDriver)")
NO_MEMORY = re.compile(r"OutOfMemory|MemoryError|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
                       r"|CUBLAS_STATUS_ALLOC_FAILED|out of memory", re.IGNORECASE)


def memory_is_full(problem: BaseException) -> bool:
    """Return whether an exception means that memory ran out: the host's, CuPy's pool, or what a GPU needs beside it.

    The last (a kernel's code, cuBLAS' workspace, pinned buffers) CuPy reports by RuntimeErrors of several kinds, which
    differ from others in their words alone; so an `except (MemoryError, RuntimeError)` calls this function.
    """
    return isinstance(problem, MemoryError) or bool(NO_MEMORY.search(f"{type(problem).__name__}: {problem}"))


class Device(NamedTuple):
    """A place to compute. `xp` is numpy or cupy; `line` describes in words what was chosen and why."""

    kind: str
    xp: Any
    line: str

    def put(self, array: np.ndarray) -> Any:
        """Copy an array to this device; return the array itself when it is there already."""
        return array if self.xp is np else send(self.xp, array)


def pick_device(name: str = "auto", tf32: bool = False) -> Device:
    """Choose the Device of `--device auto|cpu|gpu|gpu:N` (cuda means gpu).

    `tf32` only changes the text of the line; the caller passes it to the kernels.
    Raises UsageError for another name, TinyganError for gpu where none works.
    """
    wanted, _, number = name.replace("cuda", "gpu").partition(":")
    if wanted not in ("auto", "cpu", "gpu") or (number and (wanted != "gpu" or not number.isdecimal())):
        raise UsageError(f"unknown device {name!r}: use auto, cpu, gpu or gpu:N")
    cpu = f"device: cpu, NumPy {np.__version__}"
    ignored = " (--tf32 is for GPUs: ignored)" if tf32 else ""
    if wanted == "cpu":
        return Device("cpu", np, cpu + ignored)
    cupy, line = find_gpu(int(number or 0))
    if cupy is not None:
        return Device("gpu", cupy, f"{line}, float32, TF32 {'on' if tf32 else 'off'}")
    if wanted == "gpu":
        raise TinyganError(f"no GPU to use: {line}")
    return Device("cpu", np, f"{cpu} (no GPU: {line}){ignored}")


def find_gpu(number: int = 0) -> tuple[Any, str]:
    """Find GPU `number`: (cupy, a line naming the device) if it works, else (None, the reason and remedy in one line).

    That CuPy can be imported does not suffice: libraries are loaded at first use. So a small matrix product is
    computed and compared with the right result.
    """
    packages = cupy_packages()
    if len(packages) > 1:  # checked before the import, which would print a page of warning
        return None, f"two CuPy packages overwrite each other: {reinstall(packages, number)}"
    try:
        cupy = importlib.import_module("cupy")
        runtime = cupy.cuda.runtime  # an uninstall may leave a folder that imports and holds nothing
    except Exception as problem:  # a broken install may raise anything
        return None, why_no_import(problem, packages, number)
    try:
        why = why_no_device(runtime, number, packages) or why_no_product(cupy, number, packages)
        if why:
            return None, why
        title = runtime.getDeviceProperties(number)["name"].decode()
    except Exception as problem:  # CuPy raises many kinds, RuntimeError and ImportError among them
        return None, explain(problem, runtime, number, packages)
    return cupy, f"device: gpu {number}, {title}, CuPy {cupy.__version__}"


# What may be wrong, one function each. It returns one line that says what to do, or "" where all is well.

def why_no_import(problem: Exception, packages: list[str], number: int) -> str:
    """Explain why CuPy cannot be imported: it or its CUDA libraries are missing, or its files are damaged."""
    if isinstance(problem, ModuleNotFoundError) and problem.name == "cupy":
        driver = read_driver(number)
        if driver.cuda == 0:  # no package would help
            return f"CuPy is not installed, and {NO_DRIVER}"
        return f"CuPy is not installed: {install(driver)}"
    if NO_LIBRARY.search(f"{type(problem).__name__}: {problem}"):
        return no_libraries(problem, packages, number)
    return f"CuPy does not import ({first_line(problem)}): {reinstall(packages, number)}"


def why_no_device(runtime: Any, number: int, packages: list[str]) -> str:
    """Check for a driver that is missing or too old for this CuPy, a missing GPU, and one too old for this CuPy."""
    driver = runtime.driverGetVersion()
    if driver == 0:
        return NO_DRIVER
    built = runtime.runtimeGetVersion()
    if driver // 1000 < built // 1000:
        return driver_too_old(driver, built, packages)
    try:
        count = runtime.getDeviceCount()
    except RuntimeError as problem:
        if "cudaErrorNoDevice" not in str(problem):
            raise
        count = 0
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if chosen is None else f"; CUDA_VISIBLE_DEVICES is {chosen!r} and may hide some: unset it"
    if count == 0:
        return f"the NVIDIA driver shows no GPU (nvidia-smi should list one{hidden})"
    if number >= count:
        known = "gpu:0" if count == 1 else f"gpu:0 to gpu:{count - 1}"
        return f"there is no GPU number {number}: this machine shows {count}, take --device {known}{hidden}"
    gpu = runtime.getDeviceProperties(number)
    if built // 1000 >= 13 and gpu["major"] * 10 + gpu["minor"] < CUDA_13_CAPABILITY:
        return (f"{gpu['name'].decode()} (compute capability {gpu['major']}.{gpu['minor']}) is too old for CUDA "
                f"{built // 1000}: {uninstall(packages)}, then {pip_install(12)}")
    return ""


def why_no_product(cupy: Any, number: int, packages: list[str]) -> str:
    """Check a product computed on the GPU, which stays the current one if it is right; else the one before is again."""
    before = cupy.cuda.runtime.getDevice()
    try:
        cupy.cuda.Device(number).use()
        four = cupy.arange(4, dtype=cupy.float32).reshape(2, 2)
        total = float((four @ four).sum())  # [[0 1] [2 3]] squared is [[2 3] [6 11]]
        if total == 22.0:
            return ""
        why = (f"a small test product on GPU {number} came out wrong ({total:g} instead of 22), so its results cannot "
               "be relied on: take another (--device gpu:N) or --device cpu")
    except Exception as problem:
        why = explain(problem, cupy.cuda.runtime, number, packages)
    with contextlib.suppress(Exception):  # a GPU that fails may refuse this too; the reason above is what counts
        cupy.cuda.Device(before).use()
    return why


def explain(problem: Exception, runtime: Any, number: int, packages: list[str]) -> str:
    """Explain an exception of CuPy's to the user, with the remedy."""
    text = f"{type(problem).__name__}: {problem}"
    if NO_LIBRARY.search(text):
        return no_libraries(problem, packages, number)
    if OLD_DRIVER.search(text):
        return driver_too_old(runtime.driverGetVersion(), runtime.runtimeGetVersion(), packages)
    if memory_is_full(problem):
        room = ""
        with contextlib.suppress(Exception):  # where not even a context fits, this fails as well
            free, total = (size / 2**30 for size in runtime.memGetInfo())
            room = f" ({free:.1f} of {total:.1f} GiB are free)"
        return (f"GPU {number} is out of memory{room}: other processes hold it, nvidia-smi shows them; "
                "--device gpu:N picks another GPU")
    return f"CuPy does not work here: {first_line(problem)}"


def no_libraries(problem: Exception, packages: list[str], number: int) -> str:
    """Explain that CUDA's libraries are missing: CuPy's package holds none, our extra of the same CUDA adds them."""
    known = re.fullmatch(r"cupy-cuda(\d+)x", "".join(packages))
    extra = pip_install(int(known[1])) if known and int(known[1]) in DRIVERS else reinstall(packages, number)
    return f"CuPy does not find the CUDA libraries ({first_line(problem)}): {extra}"


def driver_too_old(driver: int, built: int, packages: list[str]) -> str:
    """Explain that the driver is too old: both versions, and a CuPy for an older CUDA if we have one, or an update."""
    major = built // 1000
    older = min(driver // 1000, major - 1)
    ways = [f"{uninstall(packages)}, then {pip_install(older)}"] if older in DRIVERS else []
    ways += ["update the driver" + (f" to {DRIVERS[major]} or newer" if major in DRIVERS else "")]
    return (f"the NVIDIA driver runs CUDA {version(driver)} at most, and this CuPy was built for CUDA "
            f"{version(built)}: {', or '.join(ways)}")


# What to type.

class Driver(NamedTuple):
    """The newest CUDA a driver runs (13000 is 13.0) and a GPU's compute capability (75 is 7.5); 0 for none."""

    cuda: int
    capability: int


def load_driver() -> Any:
    """Load the NVIDIA driver's library, which is there without CuPy and CUDA. Raises OSError if there is none."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def read_driver(number: int) -> Driver:
    """Read the driver's version and the compute capability of GPU `number` from the driver's library."""
    try:
        driver = load_driver()
    except OSError:
        return Driver(0, 0)
    newest, gpu, major, minor = (ctypes.c_int() for _ in range(4))
    driver.cuDriverGetVersion(ctypes.byref(newest))
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(gpu), ctypes.c_int(number)) == 0:
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, gpu)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, gpu)
    return Driver(newest.value, major.value * 10 + minor.value)


def install(driver: Driver) -> str:
    """Return the command that installs the CuPy that fits the driver."""
    fits_13 = driver.capability == 0 or driver.capability >= CUDA_13_CAPABILITY
    major = 13 if fits_13 else 12
    if driver.cuda == 0:
        return f"{pip_install(13)} or {pip_install(12)}, whichever fits the driver"
    if driver.cuda < 12000:
        return (f"update the NVIDIA driver, which runs CUDA {version(driver.cuda)} at most, to {DRIVERS[major]} "
                f"or newer, then {pip_install(major)}")
    return pip_install(min(major, driver.cuda // 1000))


def pip_install(major: int) -> str:
    """Return the command for our extra of that CUDA; it is to be typed in this project's folder."""
    return f'pip install ".[cuda{major}]"'


def uninstall(packages: list[str]) -> str:
    """Return the command that removes these packages: a second CuPy must not be put over the first."""
    return f"pip uninstall {' '.join(packages) or 'cupy'}"


def reinstall(packages: list[str], number: int) -> str:
    """Return the commands that remove these packages and install the one that fits this computer."""
    return f"{uninstall(packages)}, then {install(read_driver(number))}"


def cupy_packages() -> list[str]:
    """List the installed packages that hold a CuPy, each once though a folder is searched twice."""
    names = (distribution.metadata["Name"] or "" for distribution in importlib.metadata.distributions())
    names = (re.sub(r"[-_.]+", "-", name).lower() for name in names)
    return sorted({name for name in names if PACKAGE.fullmatch(name)})


def version(number: int) -> str:
    """Format CUDA's number of a version: 12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def first_line(problem: BaseException) -> str:
    """Format an exception in one line: its kind and the first line of its message that holds text.

    CuPy wraps what stopped its import in a page of advice, so the cause is taken where there is one.
    """
    problem = problem.__cause__ or problem
    lines = [line.strip() for line in str(problem).splitlines() if line.strip(" =")]
    return ": ".join([type(problem).__name__, *lines[:1]])
