"""The part of CuPy's cuBLAS module that tinygan calls, on host memory: same names, arguments and values.

Matrices are column-major and given by raw pointers and leading dimensions, as in cuBLAS. What cuBLAS answers with an
error code, or not at all, is a ValueError here: a leading dimension that is too small, a pointer into memory that is
not an array's, alpha and beta on the wrong side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided

CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C = 0, 1, 2
CUBLAS_POINTER_MODE_HOST, CUBLAS_POINTER_MODE_DEVICE = 0, 1
CUBLAS_GEMM_DEFAULT, CUBLAS_GEMM_DEFAULT_TENSOR_OP = -1, 99
CUBLAS_DEFAULT_MATH, CUBLAS_TENSOR_OP_MATH = 0, 1
CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_PEDANTIC, CUBLAS_COMPUTE_32F_FAST_TF32 = 68, 69, 77
CUDA_R_32F = 0  # CuPy has this one in its runtime module
TF32_MATH = 3  # CUBLAS_TF32_TENSOR_OP_MATH: cuBLAS knows it, but CuPy has no name for it

FUNCTIONS = ("create", "destroy", "setStream", "getStream", "setMathMode", "getMathMode", "setPointerMode",
             "getPointerMode", "sgemm", "gemmEx", "sgemmStridedBatched")

calls: list[tuple[int, int, int, int]] = []  # (m, n, k, compute type) of every product, in order

# What tells device memory from other memory: a function of (pointer, bytes). None: no pointer is checked.
on_device: Callable[[int, int], bool] | None = None

_COMPUTE_TYPES = (CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_PEDANTIC, CUBLAS_COMPUTE_32F_FAST_TF32)
_state = {"stream": 0, "math": CUBLAS_DEFAULT_MATH, "pointers": CUBLAS_POINTER_MODE_HOST}


def reset() -> None:
    """Forget all calls and choices."""
    calls.clear()
    _state.update(stream=0, math=CUBLAS_DEFAULT_MATH, pointers=CUBLAS_POINTER_MODE_HOST)


def create() -> int:
    """A handle. There is one state for all of them."""
    return 1


def destroy(handle: int) -> None:
    """Give a handle back."""


def setStream(handle: int, stream: int) -> None:
    """Choose the stream of the calls to come."""
    _state["stream"] = int(stream)


def getStream(handle: int) -> int:
    """The stream chosen last."""
    return _state["stream"]


def setMathMode(handle: int, mode: int) -> None:
    """Choose how sgemm rounds. The values computed here do not depend on it; `calls` tells what was asked for."""
    _state["math"] = int(mode)


def getMathMode(handle: int) -> int:
    """The math mode chosen last."""
    return _state["math"]


def setPointerMode(handle: int, mode: int) -> None:
    """Say where alpha and beta lie: on the host or on the device."""
    _state["pointers"] = int(mode)


def getPointerMode(handle: int) -> int:
    """Where alpha and beta lie."""
    return _state["pointers"]


def sgemm(handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, lda: int, B: int, ldb: int,
          beta: int, C: int, ldc: int) -> None:
    """C (m, n) = alpha op(A) (m, k) @ op(B) (k, n) + beta C, float32; every pointer is an int.

    Raises ValueError for a bad transpose, size, leading dimension or pointer.
    """
    fast = _state["math"] in (CUBLAS_TENSOR_OP_MATH, TF32_MATH)
    calls.append((m, n, k, CUBLAS_COMPUTE_32F_FAST_TF32 if fast else CUBLAS_COMPUTE_32F))
    _gemm(transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)


def gemmEx(handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int,
           B: int, Btype: int, ldb: int, beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int) -> None:
    """sgemm with the types spelled out. Raises ValueError also for types other than float32."""
    if (Atype, Btype, Ctype) != (CUDA_R_32F,) * 3 or computeType not in _COMPUTE_TYPES:
        raise ValueError(f"gemmEx: only CUDA_R_32F here, not {Atype}, {Btype}, {Ctype} in compute type {computeType}")
    if algo not in (CUBLAS_GEMM_DEFAULT, CUBLAS_GEMM_DEFAULT_TENSOR_OP):
        raise ValueError(f"gemmEx: unknown algorithm {algo}")
    calls.append((m, n, k, computeType))
    _gemm(transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)


class Library:
    """cuBLAS as ctypes loads it, as far as tinygan calls it: functions that return a status, 0 for success.

    product: gemmEx, or what calls it.
    """

    def __init__(self, product: Callable[..., None] = gemmEx) -> None:
        self.product = product

    def cublasCreate_v2(self, handle: object) -> int:
        return 0

    def cublasSetStream_v2(self, handle: object, stream: ctypes.c_void_p) -> int:
        setStream(1, stream.value or 0)
        return 0

    def cublasSetWorkspace_v2(self, handle: object, pointer: ctypes.c_void_p, size: ctypes.c_size_t) -> int:
        if on_device is not None and not on_device(pointer.value, size.value):
            raise ValueError("cuBLAS: the workspace is not device memory")
        return 0

    def cublasGemmEx(self, *args: int) -> int:
        self.product(*args)
        return 0


def sgemmStridedBatched(handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, lda: int,
                        strideA: int, B: int, ldb: int, strideB: int, beta: int, C: int, ldc: int, strideC: int,
                        batchCount: int) -> None:
    """`batchCount` products whose matrices lie the given numbers of floats apart. Raises ValueError as sgemm does."""
    if batchCount > 1 and abs(strideC) < ldc * (n - 1) + m:
        raise ValueError("sgemmStridedBatched: the results of two products overlap")
    for i in range(batchCount):
        sgemm(handle, transa, transb, m, n, k, alpha, A + 4 * i * strideA, lda, B + 4 * i * strideB, ldb, beta,
              C + 4 * i * strideC, ldc)


def _gemm(transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, lda: int, B: int, ldb: int, beta: int,
          C: int, ldc: int) -> None:
    for name, value in (("transa", transa), ("transb", transb)):
        if value not in (CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C):
            raise ValueError(f"cuBLAS: {name} is {value}")
    if min(m, n, k) < 0:
        raise ValueError(f"cuBLAS: a product of size m={m}, n={n}, k={k}")
    scale, keep = _scalar("alpha", alpha), _scalar("beta", beta)
    a = _matrix("A", A, k, m, lda).T if transa else _matrix("A", A, m, k, lda)
    b = _matrix("B", B, n, k, ldb).T if transb else _matrix("B", B, k, n, ldb)
    c = _matrix("C", C, m, n, ldc)
    if c.size:
        product = scale * (a @ b)
        c[...] = product + keep * c if keep else product  # beta = 0: C may hold anything, NaN too


def _scalar(name: str, pointer: int) -> np.float32:
    """The float32 behind a pointer to alpha or beta."""
    if on_device is not None and on_device(int(pointer), 4) != (_state["pointers"] == CUBLAS_POINTER_MODE_DEVICE):
        raise ValueError(f"cuBLAS: {name} is not where the pointer mode says")
    if not pointer:
        raise ValueError(f"cuBLAS: {name} is a null pointer")
    return np.float32(ctypes.c_float.from_address(int(pointer)).value)


def _matrix(name: str, pointer: int, rows: int, columns: int, leading: int) -> np.ndarray:
    """A view (rows, columns) of column-major memory."""
    if leading < max(1, rows):
        raise ValueError(f"cuBLAS: the leading dimension of {name} is {leading}, with {rows} rows in memory")
    if not rows or not columns:
        return np.zeros((rows, columns), np.float32)
    count = leading * (columns - 1) + rows
    if pointer % 4 or not pointer or on_device is not None and not on_device(int(pointer), 4 * count):
        raise ValueError(f"cuBLAS: {name} (rows {rows}, columns {columns}, leading dimension {leading}) reaches beyond "
                         "the array it points into")
    flat = np.frombuffer((ctypes.c_float * count).from_address(int(pointer)), np.float32)
    return as_strided(flat, (rows, columns), (4, 4 * leading))
