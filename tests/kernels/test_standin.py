"""The stand-ins for CuPy and cuBLAS: they compute as NumPy does, refuse what CuPy refuses, and count the cost."""

import copy
import gc
import importlib
import sys

import numpy as np
import pytest
from standin import host_blas, strict_cupy

from tinygan.app.device import find_gpu
from tinygan.kernels.arrays import is_cupy, to_numpy, xp_of

pytestmark = pytest.mark.kernels

count = strict_cupy.count


@pytest.fixture
def cp():
    before = sys.modules.get("cupy")
    yield strict_cupy.install()
    strict_cupy.uninstall()
    assert sys.modules.get("cupy") is before


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Counted:
    """What was counted inside a with block."""

    def __enter__(self):
        strict_cupy.reset_count()
        return count

    def __exit__(self, *problem):
        pass


# ---- being cupy --------------------------------------------------------------------------------------------------


def test_it_is_found_as_cupy_and_taken_away_again(cp):
    import cupy
    from cupy_backends.cuda.libs import cublas

    assert cupy is cp and importlib.import_module("cupy.cuda").Device is cp.cuda.Device
    x = cp.zeros(3)
    assert type(x).__name__ == "ndarray" and type(x).__module__ == "cupy"
    assert is_cupy(x) and xp_of(x) is cp and isinstance(x, cp.ndarray)
    assert np.array_equal(to_numpy(x), np.zeros(3))
    assert cp.get_array_module(x) is cp and cp.get_array_module(np.ones(1)) is np
    assert cublas.CUBLAS_COMPUTE_32F_FAST_TF32 == 77 and not hasattr(cublas, "CUDA_R_32F")
    assert not hasattr(cublas, "CUBLAS_TF32_TENSOR_OP_MATH")  # CuPy has no name for it
    chosen, line = find_gpu(0)
    assert chosen is cp and "stand-in" in line and cp.__version__ in line
    strict_cupy.uninstall()
    assert "cupy" not in sys.modules and "cupy_backends.cuda.libs" not in sys.modules
    strict_cupy.install()


def test_names_that_cupy_lacks_are_missing(cp):
    for name in ("block", "insert", "errstate", "nditer", "no_such_thing"):
        with pytest.raises(AttributeError):
            getattr(cp, name)
    for name in ("ctypes", "resize", "setflags", "__index__", "no_such_thing"):
        with pytest.raises(AttributeError):
            getattr(cp.zeros(2), name)
    with pytest.raises(AttributeError, match="does not offer"):
        cp.fuse  # noqa: B018


# ---- what CuPy refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("misuse", [
    lambda cp, x, h: np.asarray(x), lambda cp, x, h: np.array([x, x]), lambda cp, x, h: np.exp(x),
    lambda cp, x, h: np.sum(x), lambda cp, x, h: np.concatenate([x, x]), lambda cp, x, h: np.zeros_like(x),
    lambda cp, x, h: h * x, lambda cp, x, h: x * h, lambda cp, x, h: h @ x.T, lambda cp, x, h: x @ h.T,
    lambda cp, x, h: cp.exp(h), lambda cp, x, h: cp.concatenate([x, h]), lambda cp, x, h: x.__iadd__(h),
    lambda cp, x, h: cp.where(x > 0, x, h), lambda cp, x, h: cp.empty_like(h), lambda cp, x, h: h.__iadd__(x),
    lambda cp, x, h: x > h, lambda cp, x, h: x.dot(h.T), lambda cp, x, h: [1, 2][cp.asarray(1)],
])
def test_host_arrays_are_refused(cp, misuse):
    with pytest.raises(TypeError):
        misuse(cp, cp.asarray(numbers(2, 3)), numbers(2, 3))


def test_the_words_of_the_refusal_are_cupys(cp):
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        np.asarray(cp.zeros(2))
    with pytest.raises(ValueError, match="cannot be used for fill"):
        cp.zeros((2, 3))[0] = np.ones(3)


def test_numpy_numbers_are_fine(cp):
    x = cp.asarray(numbers(2, 3))
    for y in (np.float32(2) * x, x * np.float32(2), 2 * x, x * 2.0, 2 - (2 - x) + x):
        assert isinstance(y, cp.ndarray) and y.dtype == np.float32
    assert (np.float64(2) * x).dtype == np.float64


def test_a_comparison_with_text_is_refused(cp):
    x = cp.asarray(numbers(3))
    for compare in (lambda y: x == y, lambda y: x != y, lambda y: y == x, lambda y: x < y):
        for other in ("a", [1, 2, 3], (1, 2, 3)):
            with pytest.raises(TypeError):
                compare(other)
    assert (x == None) is False and (x != None) is True  # noqa: E711 - as CuPy has it


def test_the_condition_of_where_must_be_an_array(cp):
    x, y = cp.asarray(numbers(3)), cp.zeros(3, cp.float32)
    for condition in (True, 1, [True, False, True]):
        with pytest.raises(AttributeError, match="astype"):
            cp.where(condition, x, y)
    for condition in (np.bool_(True), cp.asarray(True), cp.ones(3)):
        assert np.array_equal(cp.where(condition, x, y).get(), x.get())


def test_cublas_is_found_by_its_package_alone(cp):
    """The package loads the library that pip installed; imported by its own name the module lacks it."""
    name = "cupy_backends.cuda.libs.cublas"
    with pytest.raises(ImportError, match=r"libcublas\.so\.13"):
        importlib.import_module(name)
    found = importlib.import_module("cupy_backends.cuda.libs").cublas
    assert importlib.import_module(name) is found
    strict_cupy.uninstall()
    assert name not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)
    strict_cupy.install()
    with pytest.raises(ImportError, match="libcublas"):
        importlib.import_module(name)


# ---- what it computes --------------------------------------------------------------------------------------------


def test_operations_agree_with_numpy(cp):
    a, b = numbers(4, 5), numbers(4, 5) + 1
    x, y = cp.asarray(a), cp.asarray(b)
    for ours, theirs in [
        (x + y, a + b), (1 - x, 1 - a), (x / y, a / b), (-x, -a), (abs(x), abs(a)), (x**2, a**2), (x @ y.T, a @ b.T),
        (x.sum(axis=0), a.sum(0)), (x.max(), a.max()), (cp.where(x > 0, x, 0.0), np.where(a > 0, a, 0)),
        (cp.concatenate([x, y], axis=1), np.concatenate([a, b], 1)), (cp.maximum(x, y), np.maximum(a, b)),
        (cp.clip(x, -1, 1), a.clip(-1, 1)), (cp.pad(x, 1), np.pad(a, 1)), (cp.einsum("ij,ij->i", x, y), (a * b).sum(1)),
        (x.reshape(2, 10), a.reshape(2, 10)), (x.T, a.T), (x[1:, ::2], a[1:, ::2]), (x[cp.asarray([2, 0])], a[[2, 0]]),
        (x[x > 0], a[a > 0]), (cp.arange(3, dtype=cp.float32), np.arange(3)), (cp.isfinite(x).all(), True),
        (cp.linalg.norm(x), np.linalg.norm(a)), (x.mean(axis=1, keepdims=True), a.mean(1, keepdims=True)),
        (cp.lib.stride_tricks.sliding_window_view(x, (2, 2)), np.lib.stride_tricks.sliding_window_view(a, (2, 2))),
    ]:
        assert isinstance(ours, cp.ndarray)
        np.testing.assert_allclose(ours.get(), theirs, rtol=1e-6)
    assert x.sum().shape == () and x[0, 0].shape == () and cp.array_equal(x, x).shape == ()
    cp.add.at(x, cp.asarray([0, 0]), 1.0)
    np.testing.assert_allclose(x.get()[0], a[0] + 2, rtol=1e-6)
    x[1] += 1.0
    x[2, 3] = 7
    np.testing.assert_allclose(x.get()[1:3], np.stack([a[1] + 1, [*a[2, :3], 7, a[2, 4]]]), rtol=1e-6)
    assert cp.shares_memory(x, x[1]) and not cp.may_share_memory(x, y) and cp.ndim(x) == 2


def test_a_fill_loses_the_sign_of_zero(cp):
    """CuPy clears the bytes of dense memory for whatever equals zero. Lone numbers travel with a fill."""
    lone, part = cp.asarray(-0.0), cp.ones((2, 3))
    part[0], filled, whole = -0.0, cp.ones(3), cp.full(3, -0.0)
    filled.fill(-0.0)
    for lost in (lone, cp.asarray(np.array(-0.0, np.float32)), part[0], filled):
        assert not np.signbit(lost.get()).any()
    columns = cp.ones((2, 3))[:, 1]
    columns.fill(-0.0)
    for kept in (cp.asarray([-0.0]), cp.asarray(np.array([-0.0]).reshape(1, 1)), whole, cp.full_like(whole, -0.0),
                 columns, -cp.asarray(0.0)):
        assert np.signbit(kept.get()).all()


def test_memory_order_is_cupys(cp):
    turned = cp.asarray(numbers(3, 4, 5)).transpose(2, 0, 1)
    assert not turned.flags.c_contiguous
    for fresh in (turned + 1, cp.exp(turned), cp.where(turned > 0, turned, 0.0), turned.copy(),
                  turned[cp.asarray([1, 0])], turned.sum(axis=2), cp.concatenate([turned, turned])):
        assert fresh.flags.c_contiguous  # NumPy would keep the order of the axes in some of these
    for kept in (turned.astype(cp.float64), cp.empty_like(turned), cp.zeros_like(turned), cp.copy(turned)):
        assert kept.strides == tuple(s * kept.itemsize // 4 for s in turned.strides)
    assert np.array_equal(cp.copy(turned).get(), turned.get())
    column_major = np.asfortranarray(numbers(3, 4))
    assert cp.asarray(column_major).flags.f_contiguous and not cp.asarray(column_major).flags["C_CONTIGUOUS"]
    assert cp.asarray(numbers(4, 4, 4).transpose(1, 0, 2)).flags.c_contiguous
    assert cp.asarray(numbers(4, 6)[:, ::2]).flags.c_contiguous
    assert cp.ascontiguousarray(cp.asarray(column_major)).flags.c_contiguous
    assert cp.asfortranarray(turned).flags.f_contiguous
    assert turned.get().flags.c_contiguous


def test_views_and_copies(cp):
    host = numbers(4, 6)
    x = cp.asarray(host)
    host[...] = 0
    assert x.get().any()  # the device has memory of its own
    view = x[1:].reshape(-1)
    assert view.base is x and view.data.mem is x.data.mem and view.data.ptr == x.data.ptr + 24
    assert x.data.mem.ptr == x.data.ptr and x.base is None and view.nbytes == 72 and view.strides == (4,)
    view[0] = 99
    assert float(x[1, 0]) == 99
    for other in (copy.deepcopy(x), copy.copy(x), x.copy(), cp.array(x)):
        assert other.data.mem is not x.data.mem and np.array_equal(other.get(), x.get())
    assert cp.asarray(x) is x and x.astype(cp.float32, copy=False) is x and cp.ascontiguousarray(x) is x
    assert x.view(cp.uint32).data.mem is x.data.mem
    made = cp.ndarray((2, 3), cp.float32, memptr=x.data + 24)
    assert np.array_equal(made.get().ravel(), x.get()[1])
    x.set(np.ones((4, 6), np.float32))
    assert (x.get() == 1).all()
    with pytest.raises(TypeError):
        x.set(np.ones((4, 6)))


# ---- what it counts ----------------------------------------------------------------------------------------------


def test_launches(cp):
    x, y = cp.asarray(numbers(4, 5)), cp.asarray(numbers(5, 3))
    for launches, work in [
        (0, lambda: (x.T, x[1:], x.reshape(-1), x.ravel(), x[0, 0], x.shape, cp.empty(3), cp.empty_like(x), x.view())),
        (0, lambda: (cp.broadcast_to(x, (2, 4, 5)), cp.expand_dims(x, 0), cp.ascontiguousarray(x), cp.shape(x))),
        (1, lambda: x + 1), (1, lambda: x.sum()), (1, lambda: x.copy()), (1, lambda: cp.zeros(3)), (1, lambda: x @ y),
        (1, lambda: cp.full((2,), 3.0)), (1, lambda: cp.concatenate([x, x])), (1, lambda: x.__setitem__(0, 1.0)),
        (1, lambda: x.T.reshape(-1)), (2, lambda: x * 2 + 1), (1, lambda: cp.exp(x, out=x)), (1, lambda: cp.exp(x, x)),
        (1, lambda: x.__iadd__(1)), (1, lambda: x.fill(0)), (1, lambda: cp.ones_like(x)), (1, lambda: cp.arange(4)),
        (1, lambda: x.astype(cp.float64)), (1, lambda: x.data.memset_async(0, 8)),
    ]:
        with Counted() as seen:
            work()
        assert seen["launches"] == launches and seen["syncs"] == seen["uploads"] == 0
    with Counted() as seen:
        x[1] += 1.0  # the view is written in place; putting it back is no work
    assert seen["launches"] == 1


def test_hidden_waits_are_counted(cp):
    x, one = cp.asarray(numbers(4, 5)), cp.ones(())
    for wait in (lambda: x.get(), lambda: x.sum().item(), lambda: float(one), lambda: int(one), lambda: bool(one),
                 lambda: 1 if (one > 0) else 0, lambda: f"{one:.3f}", lambda: cp.asnumpy(x), lambda: x.tolist(),
                 lambda: x[x > 0], lambda: cp.nonzero(x), lambda: cp.shares_memory(x, x), lambda: str(x),
                 lambda: one == 1 and None, lambda: cp.cuda.Device().synchronize(),
                 lambda: cp.cuda.Stream.null.synchronize(),
                 lambda: cp.cuda.get_current_stream().synchronize(), lambda: cp.cuda.runtime.deviceSynchronize()):
        with Counted() as seen:
            wait()
        assert seen["syncs"] == 1
    with Counted() as seen:
        cp.where(x > 0, x, 0.0).sum()
    assert seen["syncs"] == 0


def test_uploads(cp):
    with Counted() as seen:
        x = cp.asarray(numbers(4, 5))
        assert dict(seen) == {"launches": 0, "syncs": 0, "uploads": 1, "bytes_up": 80}
        x.set(numbers(4, 5))
        x[np.array([0, 2])]  # CuPy takes these, and sends them to the device every time
        x[[0, 2]]
        x[np.array([1])] = np.ones((1, 5), np.float32)
    assert seen["uploads"] == 6 and seen["bytes_up"] == 80 + 80 + 16 + 16 + 8 + 20
    with Counted() as seen:
        cp.asarray(x), cp.array(x), cp.asarray(3.0)
    assert seen["uploads"] == 0


# ---- memory ------------------------------------------------------------------------------------------------------


def test_memory_nobody_wrote_is_nan(cp):
    assert np.isnan(cp.empty((2, 3), cp.float32).get()).all() and np.isnan(cp.empty_like(cp.zeros(3)).get()).all()
    assert (cp.empty(3, cp.int32).get() == -1).all() and np.isnan(cp.ndarray((2,), cp.float32).get()).all()


def test_memory_is_accounted_and_limited(cp):
    gc.collect()
    pool, start = cp.get_default_memory_pool(), strict_cupy.live_bytes()
    x = cp.zeros(1000, cp.float32)  # 4000 bytes, in pieces of 512
    view = x[10:]
    assert strict_cupy.live_bytes() == start + 4096 == pool.used_bytes()
    del x
    assert pool.used_bytes() == start + 4096
    del view
    assert pool.used_bytes() == start and pool.total_bytes() >= start + 4096
    pool.free_all_blocks()
    assert pool.total_bytes() == start
    strict_cupy.memory_limit = start + 8192
    kept = cp.zeros(1024, cp.float32)
    with pytest.raises(cp.cuda.memory.OutOfMemoryError, match="Out of memory allocating 8,192 bytes") as caught:
        cp.zeros(2048, cp.float32)
    assert isinstance(caught.value, MemoryError)
    with pytest.raises(MemoryError):
        (kept + 1) + (kept + 2)
    assert cp.cuda.runtime.memGetInfo()[1] == start + 8192
    strict_cupy.memory_limit = None
    cp.zeros(2048, cp.float32)


def test_the_pool_keeps_splits_and_joins_chunks(cp):
    gc.collect()
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    start, blocks = pool.total_bytes(), pool.n_free_blocks()
    assert cp.empty(1000, cp.uint8).data.mem.size == 1024 and cp.empty(0).data.mem.size == 0
    pool.free_all_blocks()
    large = cp.empty(100_000, cp.uint8)  # 100,352 with what rounds it up to a multiple of 512
    assert large.data.mem.size == 100_352 and pool.total_bytes() - start == 100_352
    del large
    strict_cupy.memory_limit = pool.total_bytes()
    first, second = cp.empty(50_176, cp.uint8), cp.empty(25_088, cp.uint8)  # parts of what was kept
    assert pool.total_bytes() - start == 100_352
    del first
    pool.free_all_blocks()
    assert pool.total_bytes() - start == 100_352 and pool.free_bytes() >= 75_264  # the second holds the rest, too
    with pytest.raises(cp.cuda.memory.OutOfMemoryError):
        cp.empty(60_000, cp.uint8)  # there is as much, but in two pieces
    cp.empty(50_176, cp.uint8)
    del second
    assert pool.n_free_blocks() == blocks + 1  # in one piece again
    pool.free_all_blocks()
    assert pool.total_bytes() == start
    strict_cupy.memory_limit = start + 1024
    pool.set_limit(start + 512)
    kept = cp.empty(512, cp.uint8)
    with pytest.raises(MemoryError, match=f"limit set to: {start + 512:,} bytes"):
        cp.empty(512, cp.uint8)
    pool.set_limit(0)
    strict_cupy.leave_room(0)
    with pytest.raises(MemoryError):
        cp.empty(1, cp.uint8)
    del kept
    cp.empty(1, cp.uint8)


def test_the_pool_is_left_alone_while_it_works(cp, monkeypatch):
    """A cycle with an array in it may be collected at any time: when a free chunk is chosen but not taken yet."""
    class Watched(list):
        def remove(self, chunk):
            if gc.isenabled():
                gc.collect()
            super().remove(chunk)

    def leave_cycle(array):
        held = [array]
        held.append(held)

    gc.collect()
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    monkeypatch.setattr(pool, "_free", Watched(pool._free))
    for _ in range(20):
        whole = cp.empty(16 * 512, cp.uint8)
        del whole
        parts = [cp.empty(512, cp.uint8) for _ in range(16)]
        for i in range(0, 16, 2):
            leave_cycle(parts[i])
        parts = parts[1::4]
        kept = cp.empty(512, cp.uint8)
    del parts, kept
    gc.collect()
    assert pool.free_bytes() == sum(chunk.size for chunk in pool._free)


# ---- kernels and cuBLAS ------------------------------------------------------------------------------------------

CODE = r"""
extern "C" __global__ void scale(const float* x, float* y, float by, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n - 1) y[i] = x[i] * by;  // forgets the last one
}
extern "C" __global__ void race(float* out) {
    __shared__ float s[8];
    s[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = s[7 - threadIdx.x];
}
"""


def test_raw_module(cp):
    kernel = cp.RawModule(code=CODE, options=("--std=c++17",)).get_function("scale")
    x, y = cp.asarray(numbers(10)), cp.empty(10, cp.float32)
    with Counted() as seen:
        kernel((2,), (8,), (x, y, np.float32(3), 10))
    assert seen["launches"] == 1
    np.testing.assert_allclose(y.get()[:9], 3 * x.get()[:9])
    assert np.isnan(y.get()[9])  # an output that nobody wrote shows
    with pytest.raises(TypeError, match="numpy.ndarray"):
        kernel((2,), (8,), (x, numbers(10), np.float32(3), 10))
    with pytest.raises(TypeError, match="takes 4 arguments"):
        kernel((2,), (8,), (x, y, 10))
    kernel((2,), (8,), (x.data.ptr, y.data, np.float32(2), np.int32(10)))
    np.testing.assert_allclose(y.get()[:9], 2 * x.get()[:9])
    (raw,) = strict_cupy.raw_modules
    out = [cp.empty(8, cp.float32) for _ in range(2)]
    for raw.host.reverse, one in zip((False, True), out, strict=True):
        raw.get_function("race")((1,), (8,), (one,))
    assert not np.array_equal(out[0].get(), out[1].get(), equal_nan=True)


@pytest.mark.parametrize("transa", [0, 1])
@pytest.mark.parametrize("transb", [0, 1])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_products_on_parts_of_larger_matrices(cp, transa, transb, beta):
    from cupy_backends.cuda.libs import cublas

    m, n, k, gap = 4, 3, 5, 2
    a = numbers(*((m, k) if transa else (k, m)))  # row-major here is column-major turned there
    b = numbers(*((k, n) if transb else (n, k)))
    wide_a, wide_b = (cp.asarray(np.pad(h, ((0, 0), (0, gap)), constant_values=np.nan)) for h in (a, b))
    c = cp.empty((n, m + gap), cp.float32)
    if beta:
        c[:, :m] = 1.0
    alpha, keep, zero = (np.array(value, np.float32) for value in (2, beta, 0))
    handle = cp.cuda.device.get_cublas_handle()
    with Counted() as seen:
        cublas.sgemm(handle, transa, transb, m, n, k, alpha.ctypes.data, wide_a.data.ptr, wide_a.shape[1],
                     wide_b.data.ptr, wide_b.shape[1], keep.ctypes.data, c.data.ptr, m + gap)
    assert seen["launches"] == 1 and host_blas.calls == [(m, n, k, cublas.CUBLAS_COMPUTE_32F)]
    wanted = 2 * ((b.T if transb else b) @ (a.T if transa else a)) + beta
    np.testing.assert_allclose(c.get()[:, :m], wanted, rtol=1e-5, atol=1e-6)
    assert np.isnan(c.get()[:, m:]).all()
    cublas.gemmEx(handle, transa, transb, m, n, k, alpha.ctypes.data, wide_a.data.ptr, 0, wide_a.shape[1],
                  wide_b.data.ptr, 0, wide_b.shape[1], zero.ctypes.data, c.data.ptr, 0, m + gap,
                  cublas.CUBLAS_COMPUTE_32F_FAST_TF32, cublas.CUBLAS_GEMM_DEFAULT)
    np.testing.assert_allclose(c.get()[:, :m], wanted - beta, rtol=1e-5, atol=1e-6)
    assert host_blas.calls[-1] == (m, n, k, 77)


def test_wrong_products_are_refused(cp):
    from cupy_backends.cuda.libs import cublas

    a, b, c = cp.ones((4, 4), cp.float32), cp.ones((4, 4), cp.float32), cp.empty((4, 4), cp.float32)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)

    def product(ta=0, m=4, n=4, lda=4, ldc=4, at=None, alpha=None, c=c):
        cublas.sgemm(1, ta, 0, m, n, 4, alpha or one.ctypes.data, at or a.data.ptr, lda, b.data.ptr, 4,
                     zero.ctypes.data, c.data.ptr, ldc)

    product()
    assert (c.get() == 4).all()
    for wrong, words in [
        ({"lda": 3}, "leading dimension of A is 3"), ({"ldc": 2}, "leading dimension of C"), ({"ta": 5}, "transa"),
        ({"lda": 5}, "A .*reaches beyond"), ({"ldc": 5}, "C .*reaches beyond"), ({"n": 5}, "reaches beyond"),
        ({"at": a.data.ptr + 4}, "reaches beyond"), ({"at": numbers(4, 4).ctypes.data}, "reaches beyond"),
        ({"alpha": a.data.ptr}, "alpha is not where the pointer mode says"), ({"m": -1}, "size m=-1"),
    ]:
        with pytest.raises(ValueError, match=words):
            product(**wrong)
    cublas.setPointerMode(1, cublas.CUBLAS_POINTER_MODE_DEVICE)
    with pytest.raises(ValueError, match="alpha is not where"):
        product()
    assert cublas.getPointerMode(1) == 1
    cublas.setPointerMode(1, cublas.CUBLAS_POINTER_MODE_HOST)
    cublas.setMathMode(1, host_blas.TF32_MATH)
    product()
    assert cublas.getMathMode(1) == 3 and host_blas.calls[-1] == (4, 4, 4, 77)


def test_cuda_modules(cp):
    runtime = cp.cuda.runtime
    assert runtime.driverGetVersion() == runtime.runtimeGetVersion() == 13000 and runtime.getDeviceCount() == 1
    assert runtime.getDeviceProperties(0)["name"] == b"stand-in" and runtime.CUDA_R_32F == 0
    device = cp.cuda.Device(0)
    assert device.use() is device and device.id == 0 and device.compute_capability == "90"
    with pytest.raises(runtime.CUDARuntimeError):
        cp.cuda.Device(1).use()
    with cp.cuda.Stream(non_blocking=True) as stream:
        start, end = cp.cuda.Event(), stream.record()
        start.record()
    assert stream.ptr and cp.cuda.get_current_stream().ptr == 0
    assert cp.cuda.get_elapsed_time(end, start) >= 0
