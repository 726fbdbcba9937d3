"""The real CuPy on a processor: `start()`, and from then on `import cupy` is CuPy itself, on a device of host memory.

All of CuPy's wheel runs as it was shipped: arguments, types, strides, memory pools, streams, graphs. Only what talks to
NVIDIA's driver is replaced, by device.cpp, blas.cpp and runtime.cpp, and kernels are compiled by g++ (build.py). In a
process that has `on_path` on its path, `import cupy` starts it by itself.

What this cannot show: speed of kernels, true concurrency, fused multiply-add, CUB's sums and sorts (CuPy's own kernels
take their place), the driver's launch time.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import build

HERE = Path(__file__).resolve().parent
FIELDS = re.findall(r"\w+", re.search(r"Count \{\s+long long ([^;]*);", (HERE / "device.cpp").read_text("utf-8"))[1])
_TYPES = {"int": ctypes.c_int, "intptr_t": ctypes.c_ssize_t, "size_t": ctypes.c_size_t, "unsigned int": ctypes.c_uint,
          "float": ctypes.c_float, "uintmax_t": ctypes.c_uint64}
_PROPERTIES = {"name": b"a processor in a GPU's place", "totalGlobalMem": 8 << 30, "major": 9, "minor": 0,
               "warpSize": 32, "multiProcessorCount": 132, "maxThreadsPerBlock": 1024, "sharedMemPerBlock": 49152}
_STAYS = ("check_status", "runtimeGetVersion")  # need no device

_device: Any = None  # the library made of device.cpp


class _Count(ctypes.Structure):
    _fields_ = [(name, ctypes.c_longlong) for name in FIELDS]


class _Optional(ctypes.Structure):
    """How Cython passes one optional argument."""

    _fields_ = [("count", ctypes.c_int), ("value", ctypes.c_int)]


# ---- starting ----------------------------------------------------------------------------------------------------


def start() -> Any:
    """Import CuPy on this device and return it. What is missing is built, at most once per machine.

    Raises ModuleNotFoundError where CuPy is not installed, RuntimeError where it was imported before.
    """
    global _device
    if _device is not None:
        return sys.modules["cupy"]
    if "cupy" in sys.modules:
        raise RuntimeError("cupy was imported before cpucupy.start()")
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB is compiled for GPUs
    backends = importlib.util.find_spec("cupy_backends")
    if backends is None:
        raise ModuleNotFoundError("No module named 'cupy'", name="cupy")
    path = build.device()
    _device = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # found by its name from now on
    for name, result in (("fake_node", ctypes.c_char_p), ("fake_problem", ctypes.c_char_p)):
        getattr(_device, name).restype = result
    _give_blas()
    _replace_runtime(path)
    _replace_cublas(Path(backends.submodule_search_locations[0]), path)
    cupy = importlib.import_module("cupy")
    _replace_compiler(cupy)
    set_limit(8 << 30)
    return cupy


def _give_blas() -> None:
    """Give NumPy's OpenBLAS to the device."""
    found = sorted(Path(np.__file__).resolve().parent.parent.glob("numpy.libs/libscipy_openblas64*"))
    if not found:
        raise RuntimeError("cpucupy multiplies with the OpenBLAS of NumPy's wheel, and this NumPy has none")
    blas = ctypes.CDLL(str(found[0]))
    _device.fake_blas(*(ctypes.cast(getattr(blas, f"scipy_cblas_{letter}gemm64_"), ctypes.c_void_p) for letter in "sd"))


def _replace_runtime(device: Path) -> None:
    """Put our C functions into the runtime module's table, and what calls them into the module.

    The module itself, its classes, constants and messages stay as they were shipped.
    """
    module = importlib.import_module("cupy_backends.cuda.api.runtime")
    table, api = module.__pyx_capi__, ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    names = {name: api.PyCapsule_GetName(capsule) for name, capsule in table.items() if name not in _STAYS}
    library = ctypes.PyDLL(str(build.runtime({name: text.decode() for name, text in names.items()}, device)))
    check_status = table["check_status"]
    check = api.PyCapsule_GetPointer(check_status, api.PyCapsule_GetName(check_status))
    ctypes.c_void_p.in_dll(library, "real_check_status").value = check
    for name, value in (("rt_pointer_attributes", module.PointerAttributes), ("rt_properties", _PROPERTIES)):
        place = ctypes.py_object.in_dll(library, name)
        place.value = value
        _KEPT.append(place)
    for name, signature in names.items():
        try:
            function = getattr(library, f"rt_{name}")
        except AttributeError:  # a constant, or it needs no device
            continue
        _KEPT.append(signature)  # a capsule keeps the address of its name
        table[name] = api.PyCapsule_New(ctypes.cast(function, ctypes.c_void_p), signature, None)
        if hasattr(module, name):
            setattr(module, name, _as_python(function, signature.decode()))


_KEPT: list[Any] = []


def _as_python(function: Any, signature: str) -> Any:
    """Return a C function of the runtime as a function of Python."""
    answer, _, rest = signature.rstrip(")").partition("(")
    words = [word.strip() for word in rest.split(",")]
    function.restype = ctypes.py_object if "*" in answer else _TYPES[answer.strip()]
    needed = [word for word in words if "__pyx" not in word]
    function.argtypes = [ctypes.py_object if "*" in word else _TYPES.get(word, ctypes.c_int) for word in needed]
    if "__pyx_optional_args" not in words[-1]:
        return function
    function.argtypes += [ctypes.c_int, ctypes.c_void_p]

    def with_optional(*args: Any) -> Any:
        first, rest = args[:len(needed)], args[len(needed):]
        return function(*first, 0, ctypes.byref(_Optional(len(rest), *rest)))

    return with_optional


def _replace_cublas(backends: Path, device: Path) -> None:
    """Let CuPy's search for cuBLAS find ours. Until it searches, there is none, as where cuBLAS comes from a wheel."""
    pathfinder = importlib.import_module("cuda.pathfinder")
    load = pathfinder.load_nvidia_dynamic_lib
    binding = next((backends / "cuda" / "libs").glob("cublas.*"))

    def load_ours(name: str) -> Any:
        if name != "cublas":
            return load(name)
        return ctypes.CDLL(str(build.blas(binding, device)), mode=ctypes.RTLD_GLOBAL)

    pathfinder.load_nvidia_dynamic_lib = load_ours


def _replace_compiler(cupy: Any) -> None:
    """Let g++ compile what CuPy gives to NVRTC."""
    compiler = importlib.import_module("cupy.cuda.compiler")
    headers = Path(cupy.__file__).parent / "_core" / "include"

    def compile_here(source: str, options: tuple[str, ...] = (), **_: Any) -> Any:
        try:
            path = build.kernels(source, headers)
        except build.DoesNotCompile as problem:
            raise compiler.CompileException(str(problem), source, "kernel.cu", options, "g++") from None
        module = cupy.cuda.function.Module()
        module.load(str(path).encode() + b"\0")
        return module

    compiler._compile_module_with_cache = compile_here


# ---- what the device was asked to do -----------------------------------------------------------------------------


def count() -> dict[str, int]:
    """Return how often a GPU would have been asked for each of FIELDS since `reset()`."""
    counters = _Count.in_dll(_device, "fake_count")
    return {name: getattr(counters, name) for name in FIELDS}


def reset() -> None:
    """Set all counts to zero."""
    ctypes.memset(ctypes.addressof(_Count.in_dll(_device, "fake_count")), 0, ctypes.sizeof(_Count))


def nodes(graph: Any = None) -> list[str]:
    """Return the names of a graph's nodes, in order: of kernels, "gemm", "copy", "memset". None: captured last."""
    address = ctypes.c_void_p(graph.graph if graph is not None else 0)
    names: list[str] = []
    while (name := _device.fake_node(address, ctypes.c_size_t(len(names)))) is not None:
        names.append(name.decode())
    return names


def problem() -> str:
    """Return what the device said last of what it refused: more words than CUDA's message has."""
    return _device.fake_problem().decode()


# ---- how it works ------------------------------------------------------------------------------------------------


def null(on: bool) -> None:
    """Let kernels, products and copies do nothing: what remains is the host's own time and the memory pool's size."""
    _device.fake_set_null(int(on))


def reverse(on: bool) -> None:
    """Run blocks and threads last to first, which shows most missing barriers."""
    _device.fake_set_reverse(int(on))


def late(on: bool) -> None:
    """Run nothing before the host or another stream waits for it, so that every wait that is missing shows."""
    _device.fake_set_late(int(on))


def set_limit(size: int) -> None:
    """Set the bytes of memory that the device has."""
    _device.fake_set_limit(ctypes.c_size_t(size))
