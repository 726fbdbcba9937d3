"""The device of tests/cpucupy: that it counts exactly, follows CUDA's rules, and finds what it is there to find."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest

from tinygan.kernels.gpu import launch

pytestmark = pytest.mark.gpu

RACE = """
extern "C" __global__ void race_sync(float* out) {
    __shared__ float s[64];
    s[threadIdx.x] = threadIdx.x;
    BARRIER
    out[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void add_one(float* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += 1.0f;
}
extern "C" __global__ void far_away(float* x) { x[1 << 28] = 1.0f; }
"""


@pytest.fixture
def device():
    """cpucupy, in its usual state before and after."""
    if os.environ.get("TINYGAN_CUPY") != "cpu":
        pytest.skip("no GPU: and no processor in its place, which TINYGAN_CUPY=cpu asks for")
    import cpucupy

    cpucupy.reset()
    yield cpucupy
    for switch in (cpucupy.null, cpucupy.reverse, cpucupy.late):
        switch(False)
    cpucupy.set_limit(8 << 30)


@pytest.fixture
def cupy(device):
    return device.start()


def kernel(cupy, name: str, barrier: str = "__syncthreads();"):
    return cupy.RawModule(code=RACE.replace("BARRIER", barrier), options=("--std=c++17",)).get_function(name)


def counted(device) -> dict[str, int]:
    """What was asked of the device since the last reset, without zeros and without what CuPy's pools decide."""
    kept = ("event_", "pinned_", "mallocs", "frees", "pointer_")
    return {name: n for name, n in device.count().items() if n and not name.startswith(kept)}


class OwnBlas:
    """A cuBLAS handle of our own, as a captured step needs one."""

    def __init__(self, cupy, stream):
        from cupy_backends.cuda.libs import cublas  # noqa: F401 - loads the library

        self.library, self.handle = ctypes.CDLL("libcublas.so.13"), ctypes.c_void_p()
        self.workspace = cupy.empty(1 << 20, np.uint8)
        assert self.library.cublasCreate_v2(ctypes.byref(self.handle)) == 0
        assert self.library.cublasSetStream_v2(self.handle, ctypes.c_void_p(stream.ptr)) == 0
        self.set_workspace()
        p, i = ctypes.c_void_p, ctypes.c_int
        self.library.cublasGemmEx.argtypes = [p, i, i, i, i, i, p, p, i, i, p, i, i, p, p, i, i, i, i]
        self.numbers = np.array([1, 0], np.float32)

    def set_workspace(self):
        size = ctypes.c_size_t(self.workspace.nbytes)
        assert self.library.cublasSetWorkspace_v2(self.handle, ctypes.c_void_p(self.workspace.data.ptr), size) == 0

    def product(self, c, a, b):
        one = self.numbers.ctypes.data
        (m, k), n = a.shape, b.shape[1]
        return self.library.cublasGemmEx(self.handle, 0, 0, n, m, k, one, b.data.ptr, 0, n, a.data.ptr, 0, k, one + 4,
                                         c.data.ptr, 0, n, 68, -1)


# ---- counts ------------------------------------------------------------------------------------------------------


def test_counts_are_exact(device, cupy):
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    x, y = cupy.asarray(host), cupy.empty((3, 4), np.float32)
    assert counted(device) == {"up": 1, "up_bytes": 48}
    for work, wanted in [
        (lambda: x + 1, {"launches": 1}), (lambda: x.sum(axis=0), {"launches": 1}), (lambda: x.copy(), {"launches": 1}),
        (lambda: cupy.copyto(y, x), {"device_copies": 1}), (lambda: cupy.zeros(3), {"memsets": 1}), (lambda: x.T, {}),
        (lambda: x @ x.T, {"gemms": 1}), (lambda: x.get(), {"down": 1, "syncs": 1}), (lambda: cupy.empty(3), {}),
        (lambda: float(x.sum()), {"launches": 1, "down": 1, "syncs": 1}), (lambda: x[1:].fill(2), {"launches": 1}),
        (lambda: cupy.cuda.Stream.null.synchronize(), {"syncs": 1}), (lambda: x.set(host), {"up": 1, "up_bytes": 48}),
        (lambda: cupy.cuda.Event().synchronize(), {"syncs": 1}), (lambda: cupy.asarray(x), {}),
        (lambda: launch.gemm(cupy.empty((3, 3), np.float32), x, x, b_transposed=True), {"gemms": 1}),
    ]:
        device.reset()
        work()
        assert counted(device) == wanted
    device.reset()
    cupy.cuda.runtime.free(cupy.cuda.runtime.malloc(100))
    assert device.count()["mallocs"] == device.count()["frees"] == 1


def test_null_counts_and_does_nothing(device, cupy):
    x, add = cupy.zeros(8, np.float32), kernel(cupy, "add_one")
    device.null(True)
    device.reset()
    add((1,), (8,), (x, np.int32(8)))
    assert counted(device) == {"launches": 1}
    device.null(False)
    assert not x.get().any()


def test_memory_is_limited_and_starts_as_nan(device, cupy):
    with cupy.cuda.using_allocator(None):
        assert np.isnan(cupy.empty(3, np.float32).get()).all() and (cupy.empty(3, np.int32).get() == -1).all()
    pool = cupy.cuda.MemoryPool()
    device.set_limit(1 << 30)
    assert cupy.cuda.runtime.memGetInfo()[1] == 1 << 30
    with cupy.cuda.using_allocator(pool.malloc), pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(1 << 30, np.uint8)


# ---- capturing ---------------------------------------------------------------------------------------------------


def test_a_captured_step_is_replayed_bit_for_bit(device, cupy):
    rng = np.random.default_rng(1)
    stream, pool, add = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool(), kernel(cupy, "add_one")
    blas, x, square = OwnBlas(cupy, stream), cupy.zeros((5, 5), np.float32), cupy.zeros((5, 5), np.float32)

    def step():
        y = cupy.exp(x) * 2
        add((1,), (25,), (y, np.int32(25)))
        assert blas.product(square, y, x) == 0
        y[0] = 0
        return y, square.sum(axis=1)

    with stream, cupy.cuda.using_allocator(pool.malloc):
        step()
        device.reset()
        stream.begin_capture()
        results = step()
        graph = stream.end_capture()
        assert counted(device) == {} and device.count()["captured_without_workspace"] == 0
        kinds = [name if name.islower() and "cupy" not in name else name.split("__")[0] for name in device.nodes(graph)]
        assert kinds == ["cupy_exp", "cupy_multiply", "add_one", "gemm", "memset", "cupy_sum"] == [
            name.split("__")[0] for name in device.nodes()]
        for _ in range(3):
            x.set(rng.standard_normal((5, 5)).astype(np.float32))
            device.reset()
            graph.launch(stream)
            assert counted(device) == {"graph_launches": 1}
            replayed = [a.get().tobytes() for a in (*results, square)]
            assert [a.get().tobytes() for a in (*step(), square)] == replayed


def test_a_product_without_a_workspace_of_its_own_is_noticed(device, cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    blas, x = OwnBlas(cupy, stream), cupy.ones((4, 4), np.float32)
    for again in (False, True):
        assert blas.library.cublasSetStream_v2(blas.handle, ctypes.c_void_p(stream.ptr)) == 0  # forgets the workspace
        if again:
            blas.set_workspace()
        device.reset()
        with stream:
            stream.begin_capture()
            assert blas.product(cupy.empty((4, 4), np.float32), x, x) == 0
            stream.end_capture()
        assert device.count()["captured_without_workspace"] == (not again)


# What is done while a stream is captured in the mode (0: global, 2: relaxed), what CuPy says of it (None: nothing), and
# whether the capture is lost.
UNSUPPORTED = "cudaErrorStreamCaptureUnsupported"
RULES = {
    "a result is read": (lambda cp, s, x, e: x.get(), 2, "D2H transfers are disallowed", False),
    "a host array is sent": (lambda cp, s, x, e: cp.asarray(np.ones(3)), 2, "H2D transfers are disallowed", False),
    "a number is read": (lambda cp, s, x, e: float(x.sum()), 2, "D2H transfers are disallowed", False),
    "CuPy's own cuBLAS": (lambda cp, s, x, e: x @ x, 2, "cuBLAS API during stream capture", False),
    "the stream is waited for": (lambda cp, s, x, e: s.synchronize(), 2, UNSUPPORTED, True),
    "the device is waited for": (lambda cp, s, x, e: cp.cuda.runtime.deviceSynchronize(), 2, UNSUPPORTED, True),
    "an event in it is asked": (lambda cp, s, x, e: s.record().done, 2, "cudaErrorCapturedEvent", True),
    "an event in it is waited for": (lambda cp, s, x, e: s.record().synchronize(), 2, "cudaErrorCapturedEvent", True),
    "an event from before": (lambda cp, s, x, e: s.wait_event(e), 2, "cudaErrorStreamCaptureIsolation", True),
    "new memory": (lambda cp, s, x, e: cp.cuda.runtime.malloc(10), 0, UNSUPPORTED, True),
    "new memory, relaxed": (lambda cp, s, x, e: cp.cuda.runtime.malloc(10), 2, None, False),
    "an event outside is asked": (lambda cp, s, x, e: e.done, 0, UNSUPPORTED, True),
    "an event outside is asked, relaxed": (lambda cp, s, x, e: e.done, 2, None, False),
    "it begins again": (lambda cp, s, x, e: s.begin_capture(), 2, "cudaErrorInvalidValue|already", False),
}


@pytest.mark.parametrize("case", RULES)
def test_what_is_forbidden_while_capturing(device, cupy, case):
    action, mode, words, lost = RULES[case]
    x, stream = cupy.ones((4, 4), np.float32), cupy.cuda.Stream(non_blocking=True)
    x.sum()  # compiled before
    before = cupy.cuda.Event()
    device.late("from before" in case)  # that event's work has not run
    before.record(cupy.cuda.Stream.null)
    with stream:
        stream.begin_capture(mode)
        with pytest.raises((RuntimeError, NotImplementedError), match=words) if words else contextlib.nullcontext():
            action(cupy, stream, x, before)
        with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalid") if lost else contextlib.nullcontext():
            stream.end_capture()
    assert float(x.sum()) == 16  # all is well again


def test_a_stream_that_waits_for_a_captured_one_is_captured_too(device, cupy):
    first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    x = cupy.zeros(4, np.float32)
    with first:
        first.begin_capture()
        x += 1
        second.wait_event(first.record())
        with second:
            x *= 3
        first.wait_event(second.record())
        graph = first.end_capture()
        graph.launch(first)
        assert len(device.nodes(graph)) == 2 and (x.get() == 3).all()
        first.begin_capture()
        graph.launch(first)
        twice = first.end_capture()
        del graph
        twice.launch(first)
        assert len(device.nodes(twice)) == 2 and (x.get() == 12).all()


def test_a_null_stream_cannot_work_beside_a_captured_one_that_it_would_wait_for(device, cupy):
    stream, x = cupy.cuda.Stream(), cupy.zeros(4, np.float32)
    with stream:
        stream.begin_capture()
    with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureImplicit"):
        cupy.cuda.runtime.memsetAsync(x.data.ptr, 0, 4, 0)
    with stream, pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated"):
        stream.end_capture()


# ---- pointers ----------------------------------------------------------------------------------------------------


def test_memory_that_was_given_back_is_refused(device, cupy):
    add = kernel(cupy, "add_one")
    with cupy.cuda.using_allocator(None):  # without a pool each array is an allocation
        x = cupy.zeros(8, np.float32)
        address = np.uint64(x.data.ptr)
        del x
        with pytest.raises(RuntimeError, match="add_one: argument 0 .* is freed device memory"):
            add((1,), (8,), (address, np.int32(8)))
        with pytest.raises(RuntimeError, match="cudaErrorInvalidValue"):
            cupy.cuda.runtime.memcpyAsync(int(address), int(address), 4, 3, 0)


def test_a_graph_does_not_outlive_its_memory(device, cupy):
    stream, pool, add = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool(), kernel(cupy, "add_one")
    with stream:
        with cupy.cuda.using_allocator(pool.malloc):
            x = cupy.zeros(8, np.float32)
            stream.begin_capture()
            add((1,), (8,), (x, np.int32(8)))
            graph = stream.end_capture()
            graph.launch(stream)
        del x
        pool.free_all_blocks()
        with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress") as caught:
            graph.launch(stream)
    assert "add_one: argument 0" in caught.value.__notes__[0] and "freed device memory" in caught.value.__notes__[0]


def test_pointers_to_the_host_are_refused(device, cupy):
    add, host = kernel(cupy, "add_one"), np.zeros(8, np.float32)
    with pytest.raises(RuntimeError, match="argument 0 .* is memory of the host"):
        add((1,), (8,), (np.uint64(host.ctypes.data), np.int32(8)))
    x = cupy.zeros(128, np.float32)
    with pytest.raises(RuntimeError, match="cudaErrorInvalidValue"):
        cupy.cuda.runtime.memcpyAsync(x.data.ptr, host.ctypes.data, 1 << 40, 1, 0)
    stream = cupy.cuda.Stream(non_blocking=True)
    blas = OwnBlas(cupy, stream)
    assert blas.library.cublasGemmEx(blas.handle, 0, 0, 4, 4, 4, blas.numbers.ctypes.data, host.ctypes.data, 0, 4,
                                     x.data.ptr, 0, 4, blas.numbers.ctypes.data, x.data.ptr, 0, 4, 68, -1) == 13
    assert device.problem().startswith("cuBLAS: A (") and device.problem().endswith("is memory of the host")


def test_an_address_outside_of_all_memory_ends_the_context(device):
    code = ("import cupy\n"
            f"k = cupy.RawModule(code={RACE.replace('BARRIER', '')!r}).get_function('far_away')\n"
            "x = cupy.zeros(8, 'f')\n"
            "for _ in range(2):\n"
            "    try: k((1,), (1,), (x,))\n"
            "    except RuntimeError as e: print(e)\n"
            "try: x.get()\n"
            "except RuntimeError as e: print(e)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("CUDA_ERROR_ILLEGAL_ADDRESS: far_away") == 2, done.stderr
    assert "cudaErrorIllegalAddress" in done.stdout  # nothing works any more, as on a GPU


def test_wrong_launches_and_names(device, cupy):
    add, x = kernel(cupy, "add_one"), cupy.zeros(8, np.float32)
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE: add_one: a grid of 1, 1, 1 blocks of 2048"):
        add((1,), (2048,), (x, np.int32(8)))
    with pytest.raises(RuntimeError, match="CUDA_ERROR_NOT_FOUND"):
        kernel(cupy, "nobody")
    with pytest.raises(NotImplementedError, match="mallocManaged is not offered by tests/cpucupy"):
        cupy.cuda.malloc_managed(8)
    with pytest.raises(cupy.cuda.compiler.CompileException, match="nonsense"):
        cupy.RawModule(code='extern "C" __global__ void f() { nonsense; }').get_function("f")


def test_another_cupys_functions_are_not_taken_for_this_ones(device):
    from cpucupy import build

    with pytest.raises(build.DoesNotCompile, match="runtime.malloc is intptr_t .size_t, int, int"):
        build.runtime({"malloc": "intptr_t (size_t, int, int __pyx_skip_dispatch)"}, build.device())


# ---- orders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("barrier", ["", "__syncthreads();"])
def test_reverse_finds_a_missing_barrier(device, cupy, barrier):
    race, results = kernel(cupy, "race_sync", barrier), []
    for backwards in (False, True):
        device.reverse(backwards)
        out = cupy.empty(64, np.float32)
        race((1,), (64,), (out,))
        results.append(out.get())
    assert np.array_equal(*results, equal_nan=True) == bool(barrier)


def test_late_runs_nothing_before_it_must(device, cupy):
    stream, x = cupy.cuda.Stream(non_blocking=True), cupy.zeros(4, np.float32)
    x.get()
    device.late(True)
    with stream:
        x += 1
        event = stream.record()
    assert not event.done and (x.get() == 0).all()  # the null stream does not wait for this one
    event.synchronize()
    assert event.done and (x.get() == 1).all()
    with stream:
        x += 1
        event = stream.record()
    cupy.cuda.Stream.null.wait_event(event)
    assert (x.get() == 2).all()


# ---- what only this shows ----------------------------------------------------------------------------------------


def read_on_another_stream(xp, plain):
    """Read a result while the stream that computes it may still run."""
    x, stream = plain(np.ones(8, np.float32)), xp.cuda.Stream(non_blocking=True)
    with stream:
        y = x * 3
    assert (y.get() == 3).all()


def fill_a_buffer_again(xp, plain):
    """Send two batches through one pinned buffer without waiting for the first."""
    pinned = getattr(xp.cuda, "alloc_pinned_memory", bytearray)(32)
    buffer = np.frombuffer(pinned, np.float32, 8)
    batches = [xp.empty(8, np.float32) for _ in range(2)]
    for value, batch in enumerate(batches, start=1):
        buffer[...] = value
        batch.set(buffer)
    assert [float(batch[0]) for batch in batches] == [1, 2]


def keep_an_address(xp, plain):
    """Start a kernel with the address of an array that is gone."""
    with getattr(xp.cuda, "using_allocator", contextlib.nullcontext)(None):
        address = plain(np.zeros(8, np.float32)).data.ptr
        kernel(xp, "add_one")((1,), (8,), (np.uint64(address), np.int32(8)))


def upload_while_capturing(xp, plain):
    """Send an optimiser's table in a step that is captured."""
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        getattr(stream, "begin_capture", bool)()
        try:
            xp.asarray(np.zeros(4, np.int64))
        finally:
            getattr(stream, "end_capture", bool)()


@pytest.mark.parametrize("bug", [read_on_another_stream, fill_a_buffer_again, keep_an_address, upload_while_capturing])
def test_bugs_that_the_stand_in_lets_pass(device, cupy, bug):
    """Each would be wrong on a GPU, at times or always."""
    from standin import strict_cupy

    device.late(True)
    with pytest.raises((AssertionError, RuntimeError)):
        bug(cupy, cupy.asarray)
    device.late(False)
    standin = strict_cupy.install()
    try:
        bug(standin, standin.asarray)
    finally:
        strict_cupy.uninstall()
