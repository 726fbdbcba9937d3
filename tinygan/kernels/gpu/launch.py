"""Launching the kernels of kernels.cu, and matrix products by cuBLAS: everything that uses CuPy's low-level interfaces.

CuPy checks nothing about a kernel's arguments: a Python float becomes a double and is read as garbage by a kernel whose
parameter is a float, and an array of the wrong type or with gaps is read as if it were dense. So the signatures are
read from the source once, and every launch is checked and cast by them (TypeError, ValueError naming the kernel).

Nothing here waits for the GPU. Python runs ahead of it and queues launches, which keeps it busy.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tinygan.kernels.arrays import xp_of

SOURCE = Path(__file__).with_name("kernels.cu")
OPTIONS = ("--std=c++17",)
THREADS = 256  # per block; kernels.cu says the same
MAX_BLOCKS = 4096  # of a grid-stride loop: many times what any GPU runs at once
MAX_GRID_Y = 65_535
MAX_SIZE = 2**31 - THREADS * MAX_BLOCKS  # kernels count in int32, and a loop overshoots by up to one grid

_C_TYPES = {"float": np.float32, "int": np.int32, "unsigned int": np.uint32, "unsigned char": np.uint8,
            "Bank": np.uint8, "Entry": np.uint8}  # tables of structs travel as bytes


# ---- kernels -----------------------------------------------------------------------------------------------------


@functools.cache
def signatures() -> dict[str, tuple[tuple[Any, bool], ...]]:
    """Read the parameters of each kernel of kernels.cu, in order: (NumPy type, whether it is a pointer)."""
    text = re.sub(r"//[^\n]*", "", SOURCE.read_text("utf-8"))
    types = {}
    for name, parameters in re.findall(r"__global__\s+void\s+(\w+)\s*\(([^)]*)\)", text):
        words = [re.sub(r"\bconst\b|__restrict__", " ", p).split() for p in parameters.split(",")]
        types[name] = tuple((_C_TYPES[" ".join(w[:-1]).replace("*", "").strip()], "*" in "".join(w)) for w in words)
    return types


@functools.cache
def _module() -> Any:
    """Compile the kernels. CuPy does so at the first use on a device and keeps the result on disk."""
    return importlib.import_module("cupy").RawModule(code=SOURCE.read_text("utf-8"), options=OPTIONS)


@functools.cache
def _kernel(name: str) -> Any:
    return _module().get_function(name)


def forget() -> None:
    """Load the kernels anew at the next launch (tests put another module in CuPy's place)."""
    for cached in (_module, _kernel, _blas, _current_stream):
        cached.cache_clear()


def launch(name: str, grid: int | tuple[int, int], *args: Any) -> None:
    """Start kernel `name` on `grid` blocks of THREADS threads; args: device arrays (None: null) and numbers.

    Raises TypeError for a wrong number, type or memory layout of the arguments, ValueError for a size out of range.
    """
    grid = grid if isinstance(grid, tuple) else (grid,)
    if not all(1 <= n <= limit for n, limit in zip(grid, (2**31 - 1, MAX_GRID_Y), strict=False)):
        raise ValueError(f"{name}: a grid of {grid} blocks cannot be launched")
    _kernel(name)(grid, (THREADS,), cast(name, args))


def cast(name: str, args: tuple) -> tuple:
    """Cast the arguments to the types of the kernel's parameters."""
    parameters = signatures()[name]
    if len(args) != len(parameters):
        raise TypeError(f"{name} takes {len(parameters)} arguments, not {len(args)}")
    out = []
    for i, (arg, (dtype, pointer)) in enumerate(zip(args, parameters, strict=True)):
        if not pointer:
            if dtype is np.int32 and not -2**31 <= arg <= MAX_SIZE:
                raise ValueError(f"{name}: argument {i} is {arg}, beyond the kernels' int32: take fewer samples at "
                                 "once")
            out.append(dtype(arg))
        elif arg is None:
            out.append(None)
        else:
            if arg.dtype != dtype or not arg.flags.c_contiguous:
                raise TypeError(f"{name}: argument {i} must be a dense array of {dtype.__name__}, "
                                f"not {arg.dtype} {arg.shape} with strides {arg.strides}")
            if arg.size > MAX_SIZE:
                raise ValueError(f"{name}: argument {i} has {arg.size:,} numbers, more than a kernel can count; "
                                 "take fewer samples at once")
            out.append(arg)
    return tuple(out)


def blocks_for(total: int) -> int:
    """Count the blocks of a grid-stride loop over `total` items. Raises ValueError for more than a kernel can count."""
    if total > MAX_SIZE:
        raise ValueError(f"{total:,} numbers are more than a kernel can count: take fewer samples at once")
    return max(1, min(-(-total // THREADS), MAX_BLOCKS))


# ---- matrix products ---------------------------------------------------------------------------------------------

_math = {"tf32": False}


def set_tf32(on: bool) -> None:
    """Let matrix products round their inputs to TF32 (10 bits instead of 23): faster, on GPUs since Ampere."""
    _math["tf32"] = bool(on)


def get_tf32() -> bool:
    """Tell whether matrix products may use TF32."""
    return _math["tf32"]


_COEFFICIENTS = np.array([0.0, 1.0], np.float32)  # cuBLAS gets their addresses, so they must stay where they are
_ZERO, _ONE = _COEFFICIENTS.ctypes.data, _COEFFICIENTS[1:].ctypes.data
_REAL_32 = 0  # CUDA_R_32F
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 68, 77  # CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32
_DEFAULT_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT
_STATUS = {1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 8: "ARCH_MISMATCH", 11: "MAPPING_ERROR",
           13: "EXECUTION_FAILED", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED"}
WORKSPACE = 32 << 20  # bytes: what NVIDIA advises for Hopper


def gemm(c: Any, a: Any, b: Any, *, a_transposed: bool = False, b_transposed: bool = False, add: bool = False) -> None:
    """Compute c = op(a) @ op(b), or c += with `add`, for float32 matrices whose rows are dense; rows may lie apart.

    So a range of columns of a larger matrix can be read or written in place: its leading dimension says how far apart
    its rows are. cuBLAS counts in columns: in its reading our rows are the transpose, so it is called for
    c^T = op(b)^T op(a)^T. Raises ValueError for shapes that do not fit, TypeError for other arrays.
    """
    m, k = a.shape[::-1] if a_transposed else a.shape
    k2, n = b.shape[::-1] if b_transposed else b.shape
    if k != k2 or c.shape != (m, n):
        raise ValueError(f"a product of {(m, k)} and {(k2, n)} does not give {c.shape}")
    for matrix in (a, b, c):
        if matrix.dtype != np.float32 or (matrix.shape[1] > 1 and matrix.strides[1] != 4):
            raise TypeError(f"cuBLAS takes float32 matrices with dense rows, not {matrix.dtype} with strides "
                            f"{matrix.strides}")
    if 0 in (m, n):
        return
    blas = _blas(c.data.device_id, _current_stream()().ptr)
    mode = _COMPUTE_32F_FAST_TF32 if _math["tf32"] else _COMPUTE_32F
    blas.run("cublasGemmEx", blas.handle, int(b_transposed), int(a_transposed), n, m, k, _ONE,
             b.data.ptr, _REAL_32, _row_step(b), a.data.ptr, _REAL_32, _row_step(a),
             _ONE if add else _ZERO, c.data.ptr, _REAL_32, _row_step(c), mode, _DEFAULT_ALGORITHM)


def matmul(a: Any, b: Any) -> Any:
    """Compute a @ b for float32 matrices (..., n, k) and (..., k, m); leading axes broadcast, with a product for each.

    CuPy's own products cannot be recorded (graph.py).
    """
    xp, batch = xp_of(a), np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = *batch, a.shape[-2], b.shape[-1]
    if 0 in (*a.shape, *b.shape):
        return xp.zeros(shape, np.float32)
    out = xp.empty(shape, np.float32)
    a, b = (xp.broadcast_to(matrix, (*batch, *matrix.shape[-2:])) for matrix in (a, b))
    for i in np.ndindex(batch):
        (left, turned), (right, also_turned) = (_dense_rows(matrix[i]) for matrix in (a, b))
        gemm(out[i], left, right, a_transposed=turned, b_transposed=also_turned)
    return out


def _dense_rows(matrix: Any) -> tuple[Any, bool]:
    """Return a matrix with dense rows, and whether it is the transpose of the one given."""
    for view, turned in ((matrix, False), (matrix.T, True)):
        rows, columns = view.shape
        if (columns == 1 or view.strides[1] == 4) and (rows == 1 or view.strides[0] >= 4 * columns):
            return view, turned
    return xp_of(matrix).ascontiguousarray(matrix), False


def _row_step(matrix: Any) -> int:
    """Return the leading dimension: numbers from one row to the next."""
    return matrix.strides[0] // 4 if matrix.shape[0] > 1 else max(1, matrix.shape[1])


class _Blas:
    """cuBLAS on one stream by a handle of our own: CuPy does not allow its own while a stream is captured.

    The workspace is ours too, or each recorded graph would allocate one; products on other streams have others.
    """

    def __init__(self, cupy: Any, stream: int) -> None:
        self.library, self.handle = cublas_library(cupy), ctypes.c_void_p()
        self.run("cublasCreate_v2", ctypes.byref(self.handle))
        self.run("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream))
        self.workspace = cupy.empty(WORKSPACE, np.uint8)  # given last: choosing a stream takes it away
        self.run("cublasSetWorkspace_v2", self.handle, ctypes.c_void_p(self.workspace.data.ptr),
                 ctypes.c_size_t(WORKSPACE))

    def run(self, name: str, *args: Any) -> None:
        """Call a function of cuBLAS. Raises RuntimeError with the name of the status where it is not success."""
        status = getattr(self.library, name)(*args)
        if status:
            raise RuntimeError(f"{name}: CUBLAS_STATUS_{_STATUS.get(status, status)}")


def cublas_library(cupy: Any) -> Any:
    """Load the cuBLAS that CuPy uses, with the types of the functions that are called here."""
    # As an attribute of its package, which first loads the library that pip installed; an import by its name does not.
    importlib.import_module("cupy_backends.cuda.libs").cublas  # noqa: B018
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    library = ctypes.CDLL(f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}")
    p, i = ctypes.c_void_p, ctypes.c_int
    library.cublasGemmEx.argtypes = [p, i, i, i, i, i, p, p, i, i, p, i, i, p, p, i, i, i, i]
    return library


@functools.cache
def _blas(device: int, stream: int) -> _Blas:
    return _Blas(importlib.import_module("cupy"), stream)


@functools.cache
def _current_stream() -> Any:
    return importlib.import_module("cupy").cuda.get_current_stream
