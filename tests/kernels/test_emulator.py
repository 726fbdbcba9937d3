"""CUDA C on the processor: kernels give the right numbers, and every planted fault is reported."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from tinygan.errors import TinyganError
from tinygan.kernels.gpu import emulator
from tinygan.kernels.gpu.emulator import HostModule, sanitizer_environment

pytestmark = pytest.mark.kernels

CODE = r"""
struct Pair { float a, b; };
template <int N> __device__ float power(float x) { float y = 1;
#pragma unroll
    for (int i = 0; i < N; ++i) y *= x; return y; }

__device__ __forceinline__ float block_sum_sync(float v) {
    __shared__ float parts[32];
    for (int d = 16; d; d >>= 1) v += __shfl_down_sync(0xffffffffu, v, d);
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0.0f;
    for (int i = 0; i < (blockDim.x + 31) / 32; ++i) v += parts[i];
    __syncthreads();
    return v;
}

extern "C" __global__ void __launch_bounds__(256) cubes(const float* __restrict__ x, float* __restrict__ y, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x)
        y[i] = power<3>(__ldg(x + i));
}
extern "C" __global__ void row_sum(const float* x, float* out, int columns) {
    float sum = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += x[blockIdx.x * columns + i];
    sum = block_sum_sync(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}
extern "C" __global__ void places(int* out) {  // every thread of a 3-d grid of 3-d blocks, once
    int b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    atomicAdd(out + b * blockDim.x * blockDim.y * blockDim.z + t, 1 + t);
}
extern "C" __global__ void lanes(float* down, float* up, float* other, float* picked) {
    float v = threadIdx.x;
    down[threadIdx.x] = __shfl_down_sync(~0u, v, 3);
    up[threadIdx.x] = __shfl_up_sync(~0u, v, 3);
    other[threadIdx.x] = __shfl_xor_sync(~0u, v, 5);
    picked[threadIdx.x] = __shfl_sync(~0u, v, 7);
    __syncwarp();
}
extern "C" __global__ void half_warp(float* out) {  // a mask of those that take part, and one lane that does not
    float v = threadIdx.x;
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, v, 20);
}
extern "C" __global__ void words(float* f, unsigned* u, const float4* v, Pair p, const unsigned char* none) {
    f[0] = rsqrtf(4.0f); f[1] = fmaxf(1.0f, 2.0f); f[2] = max(1, 2.5f); f[3] = __expf(1.0f); f[4] = __fmaf_rn(2, 3, 4);
    f[5] = __uint_as_float(0x40490fdbu); f[6] = v[1].z; f[7] = p.a - p.b; f[8] = none ? 1 : 0;
    float2 t = make_float2(5, 6); f[9] = t.y; f[10] = fabs(-1.5f); f[11] = __fdividef(1, 4);
    f[12] = __fadd_rn(1, 2) * __fsub_rn(5, 2) * __fmul_rn(2, 2) + __fsqrt_rn(__fdiv_rn(8, 2));
    u[0] = __umulhi(0xd2511f53u, 0xcd9e8d57u); u[1] = __float_as_uint(1.0f); u[2] = __float_as_int(__int_as_float(77));
    u[3] = min(3u, 9);
}
extern "C" __global__ void unwritten_shared(float* out) { __shared__ float s[4]; out[0] = s[2]; s[2] = 1; }
extern "C" __global__ void race(float* out) {
    __shared__ float s[64];
    s[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void no_race(float* out) {
    __shared__ float s[64];
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void blocks_race(float* out) { out[0] = blockIdx.x; }
extern "C" __global__ void two_barriers(float* out) {
    if (threadIdx.x < 16)
        __syncthreads();
    else
        __syncthreads();
    out[0] = 1;
}
extern "C" __global__ void stuck(float* out) {
    if (threadIdx.x == 0)
        __syncwarp();
    else
        __syncthreads();
}
extern "C" __global__ void early_exit(float* out) {  // the ones that have ended count as arrived
    if (threadIdx.x >= 40) return;
    __syncthreads();
    out[threadIdx.x] = threadIdx.x;
}
extern "C" __global__ void outside_mask(float* out) { __syncwarp(0xffu); out[threadIdx.x] = 1; }
__device__ void hidden() { __syncthreads(); }
extern "C" __global__ void careless(float* out) { hidden(); }
// extern "C" __global__ void commented_out(float* out) { }
"""


@pytest.fixture(scope="module")
def module():
    return HostModule(CODE)


@pytest.fixture(params=[False, True], ids=["forward", "reverse"])
def both(module, request):
    module.reverse = request.param
    yield module
    module.reverse = False


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def nans(count):
    return np.full(count, np.nan, np.float32)


def test_a_loop_kernel_and_its_names(both):
    x, y = numbers(1000), nans(1000)
    both.get_function("cubes")((3,), (64,), (x, y, np.int32(1000)))
    np.testing.assert_allclose(y, x**3, rtol=1e-6)
    assert not both.get_function("cubes").synchronizes and both.get_function("row_sum").synchronizes
    assert "commented_out" not in both.names and "cubes" in both.names


@pytest.mark.parametrize("threads", [32, 128, 256])
def test_shared_memory_and_barriers(both, threads):
    x, out = numbers(5, 777), nans(5)
    for _ in range(2):  # the second launch finds the stacks of the first
        both.get_function("row_sum")((5,), (threads,), (x, out, 777))
        np.testing.assert_allclose(out, x.sum(1), rtol=1e-4, atol=1e-4)


def test_three_dimensions(both):
    out = np.zeros(2 * 3 * 4 * 24, np.int32)
    both.get_function("places")((2, 3, 4), (4, 3, 2), (out,))
    assert np.array_equal(out.reshape(-1, 24), np.tile(np.arange(1, 25), (24, 1)))


def test_shuffles(both):
    down, up, other, picked = (nans(64) for _ in range(4))
    both.get_function("lanes")((1,), (64,), (down, up, other, picked))
    lane, warp = np.arange(64) % 32, np.arange(64) // 32 * 32
    assert np.array_equal(down, warp + np.where(lane + 3 < 32, lane + 3, lane))
    assert np.array_equal(up, warp + np.where(lane >= 3, lane - 3, lane))
    assert np.array_equal(other, warp + (lane ^ 5))
    assert np.array_equal(picked, warp + 7)
    out = np.zeros(32, np.float32)
    both.get_function("half_warp")((1,), (32,), (out,))
    assert np.isnan(out[:16]).all() and not out[16:].any()  # lane 20 has nothing to show


def test_the_words_of_cuda(module):
    f, u, v = nans(13), np.zeros(4, np.uint32), np.arange(8, dtype=np.float32)
    pair = np.array([(5.0, 3.0)], dtype=[("a", "f4"), ("b", "f4")])[0]
    module.get_function("words")((1,), (1,), (f, u, v, pair, None))
    np.testing.assert_allclose(f, [0.5, 2, 2.5, np.e, 10, np.pi, 6, 2, 0, 6, 1.5, 0.25, 38], rtol=1e-6)
    assert u.tolist() == [0xD2511F53 * 0xCD9E8D57 >> 32, 0x3F800000, 77, 3]


def test_numbers_go_as_cupy_passes_them():
    module = HostModule('extern "C" __global__ void f(float* o, float a, double b, bool c, long long d, int e)'
                        "{ o[0] = a; o[1] = b; o[2] = c; o[3] = d; o[4] = e; }")
    out = nans(5)
    module.get_function("f")((1,), (1,), (out, np.float32(1.5), 2.5, True, -7, -9))
    assert out.tolist() == [1.5, 2.5, 1, -7, -9]
    module.get_function("f")((1,), (1,), (out, 1.5, 2.5, False, -7, -9))
    assert out[0] == 0  # the low half of a double, read as a float
    with pytest.raises(TypeError, match="argument 4 has 4 bytes and the kernel reads 8"):
        module.get_function("f")((1,), (1,), (out, np.float32(1), 1.0, True, np.int32(1), 1))


def test_shared_memory_starts_as_nan_in_every_block(module):
    out = np.zeros(1, np.float32)
    module.get_function("unwritten_shared")((3,), (1,), (out,))
    assert np.isnan(out[0])


def test_reverse_shows_a_missing_barrier(module):
    seen = {}
    for module.reverse in (False, True):
        for name in ("race", "no_race", "blocks_race"):
            out = np.zeros(64, np.float32)
            module.get_function(name)((3,), (64,), (out,))
            seen[name, module.reverse] = out
    module.reverse = False
    assert np.array_equal(seen["no_race", False], seen["no_race", True])
    assert not np.array_equal(seen["race", False], seen["race", True])
    assert seen["blocks_race", False][0] == 2 and seen["blocks_race", True][0] == 0


def test_divergence_is_an_error_and_the_module_lives_on(both):
    first = 1 + CODE[: CODE.index("two_barriers")].count("\n") + 2
    for name, lines in (("two_barriers", (first, first + 2)), ("stuck", ()), ("outside_mask", ())):
        with pytest.raises(RuntimeError, match=f"{name}: barrier divergence") as caught:
            both.get_function(name)((2,), (64,), (nans(64),))
        assert all(str(line) in str(caught.value) for line in lines)
    out = nans(64)
    both.get_function("early_exit")((1,), (64,), (out,))
    assert np.array_equal(out[:40], np.arange(40)) and np.isnan(out[40:]).all()


def test_a_barrier_in_a_kernel_run_as_a_loop(module):
    with pytest.raises(RuntimeError, match='careless: a barrier at line .*"sync"'):
        module.get_function("careless")((1,), (4,), (nans(4),))


@pytest.mark.parametrize("args, problem, words", [
    (lambda x: (x, x), TypeError, "takes 3 arguments, not 2"),
    (lambda x: (x, x, 1, 1), TypeError, "takes 3 arguments, not 4"),
    (lambda x: (x[::2], x, 1), ValueError, "argument 0 has gaps"),
    (lambda x: (x.astype(np.float64), x, 1), TypeError, "floating-point numbers of 4 bytes, not float64"),
    (lambda x: (x.view(np.int32), x, 1), TypeError, "not int32"),
    (lambda x: (x, x, x), TypeError, "argument 2 is a number"),
    (lambda x: (x, x, "1"), TypeError, "cannot be a str"),
])
def test_wrong_arguments(module, args, problem, words):
    with pytest.raises(problem, match=f"cubes.*{words}"):
        module.get_function("cubes")((1,), (1,), args(numbers(8)))


@pytest.mark.parametrize("grid, block, words", [
    ((0,), (1,), "grid.x is 0"), ((2**31,), (1,), "grid.x"), ((1, 65_536), (1,), "grid.y"),
    ((1, 1, 65_536), (1,), "grid.z"), ((1,), (0,), "block.x is 0"), ((1,), (1025,), "block.x"),
    ((1,), (33, 32), "1056 threads"), ((1,), (1, 1, 65), "block.z"),
])
def test_launches_that_a_gpu_refuses(module, grid, block, words):
    with pytest.raises(ValueError, match=words):
        module.get_function("cubes")(grid, block, (numbers(1), numbers(1), 1))


def test_unknown_kernel_and_code_that_does_not_compile(module):
    with pytest.raises(TinyganError, match="no kernel 'nothing' here: there are cubes"):
        module.get_function("nothing")
    with pytest.raises(TinyganError, match=r"kernels\.cu:2:.*error:.*undeclared_name") as caught:
        HostModule('extern "C" __global__ void f(float* x) {\n x[0] = undeclared_name; }')
    assert "\n" not in str(caught.value)
    with pytest.raises(TinyganError, match="extern __shared__"):
        HostModule('extern "C" __global__ void f() { extern __shared__ float s[]; }')


def test_a_missing_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(emulator.shutil, "which", lambda name: None)
    with pytest.raises(TinyganError, match=r"g\+\+ is missing: install it"):
        HostModule(CODE)


def test_a_library_is_compiled_once_and_never_seen_half_done(tmp_path, monkeypatch):
    monkeypatch.setattr(emulator.tempfile, "gettempdir", lambda: str(tmp_path))
    code = 'extern "C" __global__ void one(float* x) { x[0] = 1; }'
    runs, real, problems = [], subprocess.run, []
    monkeypatch.setattr(emulator.subprocess, "run", lambda *a, **k: runs.append(a) or real(*a, **k))

    def use():
        try:
            out = nans(1)
            HostModule(code).get_function("one")((1,), (1,), (out,))
            assert out[0] == 1
        except Exception as problem:  # shown by the main thread
            problems.append(problem)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    before = len(runs)
    HostModule(code)
    assert len(runs) == before
    folder.chmod(0o777)
    with pytest.raises(TinyganError, match="does not belong to you alone"):
        HostModule(code)


FAULTS = r"""
import sys
import numpy as np
from tinygan.kernels.gpu.emulator import HostModule
m = HostModule('''
extern "C" __global__ void good(float* x) { __shared__ float s[64]; s[threadIdx.x] = 1; __syncthreads();
    x[threadIdx.x] = s[63 - threadIdx.x]; }
extern "C" __global__ void beyond(float* x, int n) { if (threadIdx.x <= n) x[threadIdx.x] = 1; }
extern "C" __global__ void beyond_sync(float* x, int n) { __syncthreads(); x[threadIdx.x + n] = 1; }
__device__ __noinline__ void put(float* p, int i) { p[i] = 1; }
extern "C" __global__ void beyond_shared(float* x, int n) { __shared__ float s[8]; put(s, threadIdx.x + n); }
extern "C" __global__ void overflow(float* x, int n) { x[0] = n * (n + threadIdx.x - threadIdx.x > 0 ? n : 1); }
''', sanitize=True)
x = np.zeros(64, np.float32)
for m.reverse in (False, True):
    m.get_function("good")((2,), (64,), (x,))
assert x.all()
print("good", flush=True)
name, n = sys.argv[1], int(sys.argv[2])
m.get_function(name)((1,), (8,), (np.zeros(8, np.float32), n))
print("went on")
"""


@pytest.mark.parametrize("name, n, words", [
    ("beyond", 7, None),
    ("beyond_sync", 1, "heap-buffer-overflow"),
    ("beyond_shared", 1, "global-buffer-overflow"),
    ("overflow", 70_000, "signed integer overflow"),
])
def test_the_sanitizers_see_it(name, n, words):
    done = subprocess.run([sys.executable, "-c", FAULTS, name, str(n)], capture_output=True, text=True,
                          env={**os.environ, **sanitizer_environment()})
    assert done.stdout.startswith("good"), done.stderr
    if words is None:
        assert done.returncode == 0 and "went on" in done.stdout, done.stderr
    else:
        assert done.returncode != 0 and words in done.stderr and "kernels.cu:" in done.stderr


def test_sanitizers_need_their_process():
    with pytest.raises(TinyganError, match=r"sanitizer_environment\(\)"):
        HostModule(CODE, sanitize=True)
