"""Every class of kernels against reference.py: Kernels, CpuKernels, and CudaKernels over the stand-in (on a GPU in
test_gpu.py); and the threads of the processor's."""

import inspect
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tinygan import kernels
from tinygan.kernels import reference, threads
from tinygan.kernels.base import Kernels
from tinygan.kernels.cpu import CpuKernels, conv, patches, winograd
from tinygan.kernels.geometry import interpolation_matrix
from tinygan.kernels.gpu import CudaKernels
from tinygan.kernels.update import Update


class Tried:
    """One class of kernels, called with NumPy arrays: as they are, or with `xp` in float32 on the device and back."""

    def __init__(self, kernels, xp=None):
        self.kernels, self.xp = kernels, xp

    def __getattr__(self, name):
        kernel = getattr(self.kernels, name)
        if self.xp is None:
            return kernel

        def call(*args, **options):
            moved = [a if i and name == "resize" else self.put(a) for i, a in enumerate(args)]
            result = kernel(*moved, **options)
            if result is None:  # in place
                for before, after in zip(args, moved, strict=True):
                    if self.is_map(before):
                        before[...] = after.get()
            return tuple(map(self.get, result)) if isinstance(result, tuple) else self.get(result)
        return call

    @staticmethod
    def is_map(a):
        """Whether an argument lives on the device: matrices, routes and masks stay on the host."""
        return isinstance(a, np.ndarray) and (a.ndim not in (1, 2) or a.dtype.kind == "f") and a.dtype.kind != "b"

    def put(self, a):
        if not self.is_map(a):
            return a
        return self.xp.asarray(a.astype(np.float32) if a.dtype.kind == "f" else a)

    def get(self, a):
        assert a is None or a.dtype.kind != "f" or a.dtype == np.float32
        return None if a is None else a.get()

    def close(self, got, wanted, tolerance=1e-10):
        """Hold results against float64 ones, to the tolerance; on a device to 1e-5 of the largest."""
        if self.xp is None:
            close(got, wanted, tolerance)
            return
        got, wanted = (x if isinstance(x, tuple) else (x,) for x in (got, wanted))
        for a, b in zip(got, wanted, strict=True):
            assert a.shape == b.shape
            assert np.abs(a - b).max(initial=0.0) <= 2e-5 * np.abs(b).max(initial=1e-30)


CPU = Tried(CpuKernels())


@pytest.fixture(params=[Kernels, CpuKernels, pytest.param(CudaKernels, marks=pytest.mark.kernels)])
def module(request):
    """Each class of kernels in turn."""
    return Tried(request.param(), request.getfixturevalue("xp") if request.param is CudaKernels else None)


@pytest.fixture(autouse=True)
def one_thread():
    """Tests that want more threads ask for them; none leaves them behind."""
    yield
    if threads.get_threads() > 1:
        threads.set_threads(1)


@pytest.fixture
def winograd_always(monkeypatch):
    """Take the Winograd form wherever it fits, however small the maps."""
    monkeypatch.setattr(winograd, "PIXELS_PER_SET", 0)
    monkeypatch.setattr(winograd, "CHANNELS", 1)
    monkeypatch.setattr(winograd, "TILES_PER_JOB", 6)


def channels_last(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def in_own_order(w):
    return np.ascontiguousarray(w.transpose(0, 1, 3, 4, 2)).transpose(0, 1, 4, 2, 3)


def close(got, wanted, tolerance=1e-10):
    got, wanted = (x if isinstance(x, tuple) else (x,) for x in (got, wanted))
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def problem(rng, kernel, stride, padding, size, bank, samples, small_channels, big_channels, dtype=float):
    """big, small, weight, routes of matching shapes."""
    hw = [reference.small_size(size[d], kernel[d], stride[d], padding[d]) for d in (0, 1)]
    big = rng.standard_normal((samples, big_channels, *size)).astype(dtype)
    small = rng.standard_normal((samples, small_channels, *hw)).astype(dtype)
    weight = rng.standard_normal((bank, small_channels, big_channels, *kernel)).astype(dtype)
    routes = rng.integers(0, bank, samples) if bank > 1 else None
    return big, small, weight, routes


def random_problem(seed, fits_winograd=False):
    rng = np.random.default_rng(seed)
    bank, samples = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    channels = [int(c) for c in rng.integers(1, 8, 2)]
    if fits_winograd:
        stride = [int(s) for s in rng.integers(1, 4, 2)]
        kernel = [2 * s for s in stride]
        padding = [int(rng.integers(0, s + 1)) for s in stride]
        size = [(2 * int(rng.integers(1, 4)) + 1) * stride[d] - 2 * padding[d] for d in (0, 1)]
    else:
        kernel, stride, padding = ([int(v) for v in rng.integers(low, high, 2)] for low, high in
                                   ((1, 6), (1, 4), (0, 4)))
        size = [int(rng.integers(max(1, kernel[d] - 2 * padding[d]), kernel[d] + 7)) for d in (0, 1)]
    kernel, stride, padding, size = tuple(kernel), tuple(stride), tuple(padding), tuple(size)
    geometry = kernel, stride, padding, size
    return geometry, problem(rng, *geometry, bank, samples, *channels)


def check_triangle(module, geometry, arrays):
    """The three maps equal the loops, and <conv(x), s> = <x, conv_transpose(s)> = <w, conv_weight(x, s)>."""
    kernel, stride, padding, size = geometry
    big, small, weight, routes = arrays
    got = (module.conv(big, weight, stride, padding, routes),
           module.conv_transpose(small, weight, stride, padding, routes, size),
           module.conv_weight(big, small, kernel, stride, padding, routes, len(weight)))
    module.close(got, (reference.conv(big, weight, stride, padding, routes),
                reference.conv_transpose(small, weight, stride, padding, routes, size),
                reference.conv_weight(big, small, kernel, stride, padding, routes, len(weight))))
    pairings = [np.vdot(got[0], small), np.vdot(big, got[1]), np.vdot(weight, got[2])]
    scale = np.linalg.norm(got[0]) * np.linalg.norm(small) + 1e-300
    assert max(pairings) - min(pairings) <= (1e-10 if module.xp is None else 1e-5) * scale
    return got


# ---- the convolution triangle ------------------------------------------------------------


def test_triangle_equals_loops_on_random_problems(module):
    for seed in range(120):
        check_triangle(module, *random_problem(seed))


def test_triangle_cut_into_the_smallest_jobs(monkeypatch):
    """Every sample its own job, and every kernel row in the weight gradient."""
    monkeypatch.setattr(conv, "JOB_BYTES", 1)
    for seed in range(60):
        check_triangle(CPU, *random_problem(seed))


def test_triangle_in_winograd_form(winograd_always, monkeypatch):
    taken = []
    pays = winograd.pays
    monkeypatch.setattr(winograd, "pays", lambda *a: taken.append(pays(*a)) or taken[-1])
    for seed in range(60):
        check_triangle(CPU, *random_problem(seed, fits_winograd=True))
    assert len(taken) == 180 and all(taken)


def test_winograd_leaves_alone_what_does_not_fit(winograd_always):
    rng = np.random.default_rng(14)
    for geometry in (((4, 4), (2, 2), (0, 0), (11, 11)), ((4, 4), (2, 2), (1, 1), (6, 6)),
                     ((4, 3), (2, 2), (1, 1), (8, 8)), ((4, 4), (2, 1), (1, 1), (8, 8))):
        check_triangle(CPU, geometry, problem(rng, *geometry, 2, 4, 6, 5))


def test_winograd_is_taken_by_the_wide_layers_of_a_gan_and_keeps_float32():
    rng = np.random.default_rng(0)
    geometry = ((4, 4), (2, 2), (1, 1), (16, 16))
    arrays = problem(rng, *geometry, 1, 8, 64, 48, np.float32)
    big, small, weight, _ = arrays
    assert winograd.pays(big.shape, small.shape, *geometry[:3], None)
    assert not winograd.pays(big.shape, small.shape, *geometry[:3], np.arange(8))
    wide_big, wide_small, wide_weight = (a.astype(np.float64) for a in arrays[:3])
    for module, b, s, w in ((CPU, big, small, weight), (reference, wide_big, wide_small, wide_weight)):
        maps = (module.conv(b, w, (2, 2), (1, 1), None),
                module.conv_transpose(s, w, (2, 2), (1, 1), None, (16, 16)),
                module.conv_weight(b, s, (4, 4), (2, 2), (1, 1), None, 1))
        if module is CPU:
            fast = maps
    for got, wanted in zip(fast, maps, strict=True):
        assert got.dtype == np.float32
        assert np.abs(got - wanted).max() <= 2e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("geometry, channels", [
    (((4, 4), (2, 2), (1, 1), (8, 8)), (6, 5)),  # a middle layer
    (((4, 4), (2, 2), (1, 1), (8, 8)), (6, 1)),  # the image side of either net
    (((4, 4), (2, 2), (1, 1), (8, 8)), (6, 3)),
    (((4, 4), (1, 1), (0, 0), (4, 4)), (7, 5)),  # the projection
    (((4, 4), (1, 1), (0, 0), (4, 4)), (1, 5)),  # the last layer of the discriminator
    (((1, 1), (1, 1), (0, 0), (1, 1)), (3, 40)),  # a linear layer
    (((1, 1), (1, 1), (0, 0), (5, 5)), (3, 4)),  # a linear map per pixel
    (((3, 3), (1, 1), (1, 1), (6, 5)), (3, 8)),
    (((4, 4), (2, 2), (0, 1), (11, 8)), (3, 5)),
    (((4, 4), (2, 2), (1, 0), (8, 11)), (3, 5)),
    (((4, 4), (2, 2), (3, 1), (6, 8)), (3, 5)),  # patches that lie outside but for a corner
    (((4, 4), (2, 2), (1, 1), (9, 7)), (3, 5)),  # the stride leaves a row and a column over
])
@pytest.mark.parametrize("bank", [1, 3])
def test_triangle_on_the_layers_nets_are_made_of(module, geometry, channels, bank):
    check_triangle(module, geometry, problem(np.random.default_rng(1), *geometry, bank, 5, *channels))


def test_output_size_picks_one_of_the_big_maps_that_fit(module):
    rng = np.random.default_rng(2)
    kernel, stride, padding = (3, 4), (3, 2), (1, 0)
    for height in (7, 8, 9):
        for width in (8, 9):
            arrays = problem(rng, kernel, stride, padding, (height, width), 2, 3, 4, 5)
            assert arrays[1].shape[2:] == (3, 3)
            check_triangle(module, (kernel, stride, padding, (height, width)), arrays)


@pytest.mark.parametrize("routes", [[2, 2, 2, 2], [3, 0, 1, 2], [1, 0, 1, 0], [0, 1, 1, 4], [4, 4, 0, 0]])
def test_routes_of_every_kind(module, routes):
    geometry = ((4, 4), (2, 2), (1, 1), (6, 6))
    big, small, weight, _ = problem(np.random.default_rng(3), *geometry, 5, 4, 6, 5)
    routes = np.array(routes)
    grad = check_triangle(module, geometry, (big, small, weight, routes))[2]
    for k in range(5):
        assert grad[k].any() == (k in routes)  # a set that no sample uses is exactly zero


@pytest.mark.parametrize("routes", [None, np.zeros(0, np.int64)])
def test_no_samples(module, routes):
    bank = 1 if routes is None else 3
    big, small, weight = np.zeros((0, 5, 8, 8)), np.zeros((0, 6, 4, 4)), np.ones((bank, 6, 5, 4, 4))
    assert module.conv(big, weight, (2, 2), (1, 1), routes).shape == small.shape
    assert module.conv_transpose(small, weight, (2, 2), (1, 1), routes, (8, 8)).shape == big.shape
    grad = module.conv_weight(big, small, (4, 4), (2, 2), (1, 1), routes, bank)
    assert grad.shape == weight.shape and not grad.any()


def awkward_views(x):
    """The same numbers in other memory: reversed, strided, broadcast-like and read-only."""
    reversed_ = x[::-1, ::-1].copy()[::-1, ::-1]
    strided = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)[..., ::2]
    strided[...] = x
    upside_down = x[..., ::-1, :].copy()[..., ::-1, :]
    read_only = x.copy()
    read_only.flags.writeable = False
    return [reversed_, strided, upside_down, read_only, np.asfortranarray(x), channels_last(x)]


@pytest.mark.parametrize("bank", [1, 3])
def test_any_memory_layout_gives_the_same_and_inputs_stay_as_they_are(module, bank):
    geometry = ((4, 4), (2, 2), (1, 1), (8, 6))
    big, small, weight, routes = problem(np.random.default_rng(4), *geometry, bank, 5, 6, 5)
    weights = [*awkward_views(weight), in_own_order(weight)]
    for b, s, w in zip([*awkward_views(big), big], [*awkward_views(small), small], weights, strict=True):
        check_triangle(module, geometry, (b, s, w, routes))
        assert np.array_equal(b, big) and np.array_equal(s, small) and np.array_equal(w, weight)


def test_winograd_takes_any_memory_layout(winograd_always):
    geometry = ((4, 4), (2, 2), (1, 1), (8, 12))
    big, small, weight, routes = problem(np.random.default_rng(5), *geometry, 2, 5, 6, 5)
    for b, s, w in zip(awkward_views(big), awkward_views(small), awkward_views(weight), strict=True):
        check_triangle(CPU, geometry, (b, s, w, routes))
        assert np.array_equal(b, big) and np.array_equal(s, small) and np.array_equal(w, weight)


@pytest.mark.parametrize("module", [Kernels(), CpuKernels(), reference])
def test_float32_stays_float32(module):
    geometry = ((4, 4), (2, 2), (1, 1), (8, 8))
    kernel, stride, padding, size = geometry
    big, small, weight, routes = problem(np.random.default_rng(6), *geometry, 2, 4, 6, 5, np.float32)
    a = np.full(5, 0.2, np.float32)
    rows = np.array([True, False])
    n = module.filter_norms(weight, 1, 0.25, 1e-6, rows)
    for got in (module.conv(big, weight, stride, padding, routes), n,
                module.conv_transpose(small, weight, stride, padding, routes, size),
                module.conv_weight(big, small, kernel, stride, padding, routes, 2),
                module.tprelu(big, a, a), module.tprelu_dx(big, big, a, a), module.tprelu_dslope(big, big, a),
                module.tprelu_below(big, big, a),
                *module.normalize(weight, 2, 0.25, 1e-6, rows),
                module.normalize_dx(weight, weight, n, 1, 0.25, rows)):
        assert got.dtype == np.float32


def test_outputs_are_channels_last_and_gradients_lie_like_weights():
    geometry = ((4, 4), (2, 2), (1, 1), (8, 8))
    big, small, weight, routes = problem(np.random.default_rng(7), *geometry, 2, 4, 6, 5)
    for maps in (CPU.conv(big, weight, (2, 2), (1, 1), routes), CPU.tprelu(big, np.ones(5), None),
                 CPU.conv_transpose(small, weight, (2, 2), (1, 1), routes, (8, 8))):
        assert maps.transpose(0, 2, 3, 1).flags.c_contiguous
    grad = CPU.conv_weight(big, small, (4, 4), (2, 2), (1, 1), routes, 2)
    own = conv.empty_weight(2, 6, 5, (4, 4), np.float64)
    assert grad.strides == own.strides and grad.shape == own.shape
    assert CPU.normalize(weight, 1, 1.0, 1e-6)[0].strides == own.strides


def test_the_loops_agree_with_a_sum_written_out_by_hand():
    """One sample, one channel, 4x4 under a 3x3 kernel, stride 1: every number by its formula."""
    big = np.arange(16.0).reshape(1, 1, 4, 4)
    weight = np.arange(9.0).reshape(1, 1, 1, 3, 3)
    small = reference.conv(big, weight, (1, 1), (0, 0), None)
    wanted = [[sum(big[0, 0, y + i, x + j] * weight[0, 0, 0, i, j] for i in range(3) for j in range(3))
               for x in range(2)] for y in range(2)]
    assert np.array_equal(small[0, 0], wanted)
    assert reference.conv(big, weight, (2, 2), (1, 1), None)[0, 0, 0, 0] == 0 * 4 + 1 * 5 + 4 * 7 + 5 * 8


# ---- element-wise kernels ------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 7), (3, 16, 8, 8), (64, 3, 5, 5), (2, 1, 16, 32), (1, 5, 3, 3),
                                   (0, 4, 2, 2), (16, 130, 8, 8), (4, 3, 50, 50)])
@pytest.mark.parametrize("translated", [True, False])
@pytest.mark.parametrize("steepest", [0.9, 3.0])
def test_tprelu_and_its_derivatives(module, shape, translated, steepest):
    rng = np.random.default_rng(8)
    x, g = rng.standard_normal((2, *shape))
    slope = rng.uniform(0, steepest, shape[1])
    shift = rng.standard_normal(shape[1]) if translated else None
    kink = (np.zeros(shape[1]) if shift is None else shift).reshape(-1, *[1] * (x.ndim - 2))
    x[::2] = np.where(rng.random(x[::2].shape) < 0.2, kink, x[::2])  # some lie exactly at the kink
    backwards = x[:, ::-1].copy()[:, ::-1]
    for a, b in ((x, g), (channels_last(x), channels_last(g)), (backwards, channels_last(g))):
        a.flags.writeable = b.flags.writeable = False
        module.close(module.tprelu(a, slope, shift), reference.tprelu(x, slope, shift))
        module.close(module.tprelu_dx(b, a, slope, shift), reference.tprelu_dx(g, x, slope, shift))
        module.close(module.tprelu_dslope(b, a, shift), reference.tprelu_dslope(g, x, shift))
        module.close(module.tprelu_below(b, a, shift), reference.tprelu_below(g, x, shift))
        back, wanted = module.tprelu_back(b, a, slope, shift), reference.tprelu_back(g, x, slope, shift)
        assert (back[2] is None) == (wanted[2] is None) == (shift is None)
        module.close(back[:2 if shift is None else 3], wanted[:2 if shift is None else 3])
        module.close(module.channel_sums(a), reference.channel_sums(x))


@pytest.mark.parametrize("shape", [(7,), (3, 1, 2), (300,), ()])
def test_logistic_loss(module, shape):
    x = np.asarray(50 * np.random.default_rng(16).standard_normal(shape))
    module.close(np.asarray(module.sigmoid(x)), np.asarray(reference.sigmoid(x)))
    for sign in (1.0, -1.0):
        module.close(np.asarray(module.logistic_loss(x, sign)), np.asarray(reference.logistic_loss(x, sign)))
        module.close(np.asarray(module.logistic_back(np.array(0.7), x, sign)),
              np.asarray(reference.logistic_back(0.7, x, sign)))


@pytest.mark.parametrize("a, b", [((3, 4), (4, 2)), ((2, 3, 4), (4, 5)), ((5, 1, 3), (5, 3, 4)), ((3, 1), (2, 1, 6)),
                                  ((2, 0), (0, 3)), ((0, 2), (2, 3)), ((1, 1), (1, 1))])
def test_products_of_matrices(module, a, b):
    rng = np.random.default_rng(18)
    x, y = rng.standard_normal(a), rng.standard_normal(b)
    module.close(module.matmul(x, y), reference.matmul(x, y))
    x, y = (rng.standard_normal((*shape[:-2], *shape[:-3:-1])).swapaxes(-1, -2) for shape in (a, b))
    module.close(module.matmul(x, y), reference.matmul(x, y))


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (0, 2, 4, 5), (2, 1, 3, 3), (2, 0, 3, 3)])
def test_two_batches_are_joined(module, shape):
    rng = np.random.default_rng(196)
    a, b = rng.standard_normal(shape), rng.standard_normal((5, *shape[1:]))
    for first, second, axis in ((a, b, 0), (channels_last(a), b, 0), (b, channels_last(a), 0), (a, a, 1), (b, b, 0)):
        put = (lambda x: x) if module.xp is None else module.put
        got = module.kernels.concatenate([put(first), put(second)], axis)
        module.close(got if module.xp is None else module.get(got), np.concatenate([first, second], axis))


@pytest.mark.parametrize("n, first", [(8, 4), (301, 1), (5, 2)])
def test_both_halves_of_a_loss(module, n, first):
    x = 50 * np.random.default_rng(190).standard_normal(n)
    module.close(np.asarray(module.logistic_losses(x, first)), np.asarray(reference.logistic_losses(x, first)))
    module.close(np.asarray(module.logistic_losses_back(np.array(0.7), x, first)),
                 reference.logistic_losses_back(0.7, x, first))


@pytest.mark.parametrize("shape", [(5, 7), (3, 16, 8, 8), (2, 1, 16, 32), (1, 5, 3, 3), (0, 4, 2, 2), (4, 3, 50, 50)])
def test_scale_and_bias_and_the_sigmoid(module, shape):
    rng = np.random.default_rng(191)
    x, g = rng.standard_normal((2, *shape))
    gain, bias = rng.standard_normal((2, shape[1]))
    for a, b in ((x, g), (channels_last(x), channels_last(g)), (channels_last(x), g)):
        a.flags.writeable = b.flags.writeable = False
        module.close(module.affine(a, gain, bias), reference.affine(x, gain, bias))
        module.close(module.affine(a, np.array(2.0), np.array(-1.0)), 2.0 * x - 1.0)
        module.close(module.affine_back(b, a, gain), reference.affine_back(g, x, gain))
        module.close(module.sigmoid_back(b, a), reference.sigmoid_back(g, x))
        module.close(module.softplus(50 * a), reference.softplus(50 * x))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 4), (1, 2, 1, 6), (0, 2, 3, 3)])
def test_a_blur(module, shape):
    x = np.random.default_rng(197).standard_normal(shape)
    for a in (x, channels_last(x)):
        module.close(module.blur(a), reference.blur(x))


@pytest.mark.parametrize("size, stride, shape", [(2, 2, (2, 3, 4, 6)), (3, 1, (1, 2, 5, 4)), (2, 3, (2, 1, 6, 5)),
                                                 (1, 1, (1, 1, 1, 1)), (2, 2, (0, 2, 4, 4))])
def test_pooling(module, size, stride, shape):
    rng = np.random.default_rng(17)
    x = rng.integers(0, 3, shape).astype(float)  # many ties
    if x.size > 20:
        x[0, 0, 1, :2] = np.nan
    (best, which), wanted = module.max_pool(x, size, stride), reference.max_pool(x, size, stride)
    np.testing.assert_array_equal(best, wanted[0])
    np.testing.assert_array_equal(which, wanted[1])
    x, g = rng.standard_normal(shape), rng.standard_normal(which.shape)
    module.close(module.pool_take(x, which, size, stride), reference.pool_take(x, which, size, stride))
    module.close(module.pool_put(g, which, size, stride, shape), reference.pool_put(g, which, size, stride, shape))
    module.close(module.mean_unpool(x, size), reference.mean_unpool(x, size))
    spread = reference.mean_unpool(x, size) + 1
    module.close(module.mean_pool(spread, size), reference.mean_pool(spread, size))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_mean_pool_in_any_memory_order(module, size):
    """Blocks of numbers that all differ, read-only; the result lies in memory as the maps do."""
    x = np.random.default_rng(18).standard_normal((2, 3, 4 * size, 2 * size))
    for maps in (x, channels_last(x), x[::-1, :, :, ::-1]):
        maps.flags.writeable = False
        got = module.mean_pool(maps, size)
        module.close(got, reference.mean_pool(maps, size))
        assert got.flags.writeable and not np.shares_memory(got, x)
    assert module.xp is not None or module.mean_pool(channels_last(x), size).strides[1] == x.itemsize


@pytest.mark.parametrize("size", [(3, 9), (5, 6), (12, 2), (1, 1)])
@pytest.mark.parametrize("antialias", [False, True])
def test_resizing(module, size, antialias):
    x = np.random.default_rng(18).standard_normal((2, 3, 5, 6))
    rows, columns = (interpolation_matrix(n, m, antialias) for n, m in zip(x.shape[2:], size, strict=True))
    y = module.resize(x, rows, columns)
    module.close(y, reference.resize(x, rows, columns))
    module.close(module.resize(y, rows.T, columns.T), reference.resize(y, rows.T, columns.T))


@pytest.mark.parametrize("module", [Kernels(), CpuKernels(), reference])
def test_tprelu_at_the_kink_takes_the_negative_side(module):
    x = np.array([[0.5], [0.25], [0.75]])
    slope, shift, ones = np.array([0.25]), np.array([0.5]), np.ones((3, 1))
    assert np.allclose(module.tprelu_dx(ones, x, slope, shift)[:, 0], [0.25, 0.25, 1.0], rtol=0, atol=1e-15)
    assert np.array_equal(module.tprelu(x, slope, shift)[:, 0], [0.5, 0.4375, 0.75])
    assert module.tprelu_dslope(ones, x, shift).item() == -0.25
    assert module.tprelu_below(ones, x, shift).item() == 2.0


@pytest.mark.parametrize("out_axis", [1, 2])
@pytest.mark.parametrize("named", [None, [True, False, True], [False, False, False]])
@pytest.mark.parametrize("channels", [(4, 3), (3, 1), (1, 5), (40, 150)])
def test_weight_normalisation(module, out_axis, named, channels):
    rng = np.random.default_rng(9)
    w, g = rng.standard_normal((2, 3, *channels, 4, 3))
    rows = None if named is None else np.array(named)
    for a, b in ((w, g), (in_own_order(w), in_own_order(g)), (in_own_order(w), g)):
        module.close(module.filter_norms(a, out_axis, 0.25, 1e-6, rows),
              reference.filter_norms(w, out_axis, 0.25, 1e-6, rows))
        v, n = module.normalize(a, out_axis, 0.25, 1e-6, rows)
        module.close((v, n), reference.normalize(w, out_axis, 0.25, 1e-6, rows))
        back = module.normalize_dx(b, a, n, out_axis, 0.25, rows)
        module.close(back, reference.normalize_dx(g, w, n, out_axis, 0.25, rows))
        if rows is not None:
            assert not v[~rows].any() and not back[~rows].any() and (n[~rows] == 1).all()


def test_the_gradient_through_a_norm_is_orthogonal_to_the_weight():
    rng = np.random.default_rng(10)
    w, g = rng.standard_normal((2, 2, 6, 5, 4, 4))
    for out_axis, others in ((1, (2, 3, 4)), (2, (1, 3, 4))):
        _, n = CPU.normalize(w, out_axis, 0.25, 0.0)
        across = (w * CPU.normalize_dx(g, w, n, out_axis, 0.25)).sum(axis=others)
        assert np.abs(across).max() < 1e-12


def fast_and_loops(module, name, arrays, **options):
    """Run an in-place kernel and its definition on copies; return both results."""
    results = []
    for owner in (module, reference):
        copies = [a.copy(order="K") for a in arrays]
        getattr(owner, name)(*copies, **options)
        results.append(tuple(copies))
    return results


@pytest.mark.parametrize("named", [None, [True, False, True], [False, False, False]])
@pytest.mark.parametrize("shape", [(3, 5, 4, 4, 4), (3, 7), (3,), (3, 300, 200)])
def test_optimisers_and_average(module, named, shape):
    rng = np.random.default_rng(11)
    p, m, g = rng.standard_normal((3, *shape))
    v = rng.random(shape)
    rows = None if named is None else np.array(named)
    layouts = [(p, m, v, g)]
    if len(shape) == 5:
        layouts += [tuple(map(in_own_order, layouts[0])), (in_own_order(p), m, in_own_order(v), g)]
    for a, b, c, d in layouts:
        module.close(*fast_and_loops(module, "rmsprop", (a, c, d), lr=0.1, alpha=0.9, eps=1e-6, rows=rows))
        for step in (3, np.array([1, 20, 300])):
            module.close(*fast_and_loops(module, "adam", (a, b, c, d), lr=0.1, beta1=0.5, beta2=0.99, eps=1e-8,
                                  step=step, rows=rows))
        module.close(*fast_and_loops(module, "lerp", (a, c), decay=0.9))


def test_a_whole_net_at_once(module):
    """The kernels over lists of arrays give what reference.py gives for each array, kept within its bounds."""
    rng, xp = np.random.default_rng(19), module.xp or np
    dtype, near = (float, 1e-10) if module.xp is None else (np.float32, 2e-5)

    def host(a):
        return a if xp is np else a.get()

    shapes, rows = [(3, 4, 5, 2, 2), (7,), (1, 3, 2, 4, 4)], [np.array([True, False, True]), None, None]
    bounds, steps = [None, (0.0, 0.5), None], [np.array([2, 5, 1]), np.array([3]), np.array([1])]
    sets = [[(np.abs(rng.standard_normal(shape)) + 0.1).astype(dtype) for shape in shapes] for _ in range(4)]
    for name, slots, numbers in (("rmsprop", 1, {"lr": 0.1, "alpha": 0.9, "eps": 1e-6}),
                                 ("adam", 2, {"lr": 0.1, "beta1": 0.5, "beta2": 0.99, "eps": 1e-8})):
        wanted = [[a.astype(float) for a in part] for part in sets]
        given = [module.kernels.pack([xp.asarray(a.copy()) for a in part]) for part in sets]
        updates = []
        for i, (p, m, v, g) in enumerate(zip(*given, strict=True)):
            updates.append(Update(p, (m, v)[2 - slots:], g, steps[i], rows[i], bounds[i]))
            more = {} if name == "rmsprop" else {"step": steps[i] if len(steps[i]) > 1 else int(steps[i][0])}
            arrays = [part[i] for part in wanted]
            getattr(reference, name)(arrays[0], *arrays[3 - slots:], rows=rows[i], **numbers, **more)
            if bounds[i]:
                arrays[0].clip(*bounds[i], out=arrays[0])
        getattr(module.kernels, name + "_all")(updates, **numbers)
        for part, right in zip(given, wanted, strict=True):
            for a, b in zip(part, right, strict=True):
                np.testing.assert_allclose(host(a), b, rtol=near, atol=near)
    averages, weights = ([xp.asarray(a.copy()) for a in part] for part in sets[:2])
    module.kernels.lerp_all(list(zip(averages, weights, strict=True)), 0.9)
    for a, p, w in zip(averages, *sets[:2], strict=True):
        np.testing.assert_allclose(host(a), 0.9 * p + 0.1 * w, rtol=near, atol=near)
    banks = [(w, g, axis, mask) for w, g, axis, mask in zip(sets[0], sets[1], (1, 0, 2), rows, strict=True) if axis]
    pairs = module.kernels.normalize_all([(xp.asarray(w), axis, 0.25, 0.1, mask) for w, _, axis, mask in banks])
    back = module.kernels.normalize_dx_all([(xp.asarray(g), xp.asarray(w), n, axis, 0.25, mask)
                                            for (w, g, axis, mask), (_, n) in zip(banks, pairs, strict=True)])
    for (w, g, axis, mask), (v, n), dw in zip(banks, pairs, back, strict=True):
        right = reference.normalize(w.astype(float), axis, 0.25, 0.1, mask)
        dx = reference.normalize_dx(g.astype(float), w.astype(float), right[1], axis, 0.25, mask)
        for a, b in ((v, right[0]), (n, right[1]), (dw, dx)):
            np.testing.assert_allclose(host(a), b, rtol=near, atol=near)


@pytest.mark.parametrize("shape, padding, kernel", [((2, 5, 8, 6), 1, 3), ((1, 3, 5, 4), 0, 1), ((2, 2, 7, 7), 2, 5)])
def test_a_convolution_with_relu(module, shape, padding, kernel):
    rng = np.random.default_rng(20)
    x, weight, bias = rng.standard_normal(shape), rng.standard_normal((6, shape[1], kernel, kernel)), rng.random(6)
    wanted = reference.conv_relu(x, weight, bias, padding)
    module.close(module.conv_relu(x, weight, bias, padding), wanted)
    g = rng.standard_normal(wanted.shape)
    module.close(module.conv_relu_dx(g, wanted, weight, padding), reference.conv_relu_dx(g, wanted, weight, padding))


def test_equal_arrays_stay_equal_under_the_average():
    p = np.random.default_rng(12).standard_normal(1000).astype(np.float32)
    average = p.copy()
    CPU.lerp(average, p, 0.999)
    assert np.array_equal(average, p)


# ---- threads ----------------------------------------------------------------------


def everything(dtype, wide=False):
    """One result of every fast kernel, on maps large enough to be cut into several jobs."""
    rng = np.random.default_rng(13)
    geometry = ((4, 4), (2, 2), (1, 1), (16, 16))
    kernel, stride, padding, size = geometry
    channels = (96, 64) if wide else (40, 30)
    big, small, weight, routes = problem(rng, *geometry, 1 if wide else 4, 48, *channels, dtype)
    slope, shift = rng.random((2, channels[1])).astype(dtype)
    v, n = CPU.normalize(weight, 2, 0.25, 1e-6)
    p, m = weight.copy(), np.zeros_like(weight)
    CPU.rmsprop(p, m, v, lr=0.1, alpha=0.9, eps=1e-6)
    CPU.adam(p, m, np.abs(v), weight, lr=0.1, beta1=0.5, beta2=0.9, eps=1e-6, step=2)
    CPU.lerp(m, p, 0.9)
    return [CPU.conv(big, weight, stride, padding, routes),
            CPU.conv_transpose(small, weight, stride, padding, routes, size),
            CPU.conv_weight(big, small, kernel, stride, padding, routes, len(weight)),
            CPU.tprelu(big, slope, shift), CPU.tprelu_dx(big, big, slope, shift),
            CPU.tprelu_dslope(big, big, shift), CPU.tprelu_below(big, big, shift), v, n,
            CPU.normalize_dx(weight, weight, n, 2, 0.25), CPU.filter_norms(weight, 1), p, m]


@pytest.mark.parametrize("wide", [False, True])
def test_same_bits_for_any_number_of_threads(wide, monkeypatch):
    pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(threads, "MANY", 1)  # share even what is too short to be worth it
    monkeypatch.setattr(patches, "LONG_PRODUCT", 0)
    results = []
    for count in (1, 2, 3, 2):
        assert threads.set_threads(count) == count == threads.get_threads()
        results.append(everything(np.float32, wide))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_every_job_runs_once_on_several_threads_and_raises_what_a_job_raises():
    pytest.importorskip("threadpoolctl")
    threads.set_threads(2)
    seen, both = [], threading.Barrier(2, timeout=20)

    def meet(number):  # passes only if two threads are inside at the same time
        both.wait()
        threads.run([lambda: seen.append(number), lambda: seen.append(number + 100)])  # a nested run is inline

    threads.run([lambda n=n: meet(n) for n in range(2)])
    assert sorted(seen) == [0, 1, 100, 101]

    def fail():
        raise ArithmeticError("a job failed")

    done = []
    with pytest.raises(ArithmeticError, match="a job failed"):
        threads.run([fail, lambda: done.append(1), lambda: done.append(2)])
    threads.run([lambda: done.append(3)])
    assert 3 in done  # and it still works


def test_no_job_outlives_a_run_that_failed():
    pytest.importorskip("threadpoolctl")
    threads.set_threads(2)
    for _ in range(6):  # either thread may get the failing job
        done, both = [], threading.Barrier(2, timeout=20)

        def fail(both=both):
            both.wait()
            raise ArithmeticError("a job failed")

        def finish_later(both=both, done=done):
            both.wait()
            time.sleep(0.05)
            done.append(1)

        with pytest.raises(ArithmeticError):
            threads.run([fail, finish_later])
        assert done == [1]


def test_scratch_is_reused_and_belongs_to_one_thread():
    first = threads.scratch("test", (4, 5), np.float32)
    again = threads.scratch("test", (2, 3), np.float32)
    assert np.shares_memory(first, again) and again.shape == (2, 3)
    assert not np.shares_memory(first, threads.scratch("test", (4, 5), np.float64))
    assert not np.shares_memory(first, threads.scratch("other", (4, 5), np.float32))
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(threads.scratch("test", (4, 5), np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(first, elsewhere[0])


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        threads.set_threads(0)


def test_without_threadpoolctl_it_stays_at_one_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)  # makes the import fail
    with pytest.warns(UserWarning, match="threadpoolctl"):
        assert threads.set_threads(2) == 1


def test_the_heap_can_be_kept():
    code = ("import numpy as np\nfrom tinygan.kernels import threads\n"
            "assert threads.reuse_heap() in (True, False)\n"
            "for _ in range(3):\n    x = np.ones(8_000_000, np.float32)\nassert x.sum() == 8_000_000")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---- dispatch ----------------------------------------------------------------------


def test_the_array_decides_which_kernels():
    assert type(kernels.for_array(np.zeros(1))) is CpuKernels
    like_cupy = type("ndarray", (), {"__module__": "cupy"})()
    for like_cupy.dtype, kind in ((np.dtype(np.float32), CudaKernels), (np.dtype(np.float64), Kernels)):
        found = kernels.for_array(like_cupy)
        assert type(found) is kind and kernels.for_array(like_cupy) is found
    with pytest.raises(TypeError, match="no kernels for builtins.list"):
        kernels.for_array([1.0])


def test_every_kernel_has_a_definition():
    names = {name for name in vars(Kernels) if not name.startswith("_")}
    assert all(name in names for part in (CpuKernels, CudaKernels) for name in vars(part) if not name.startswith("_"))
    # One by one what reference.py defines, or no arithmetic.
    many = {name for name in names if name.endswith("_all")} | {"pack", "each_step"}
    assert {name for name in names - many if not name.startswith("counter_")} <= set(vars(reference))


@pytest.mark.parametrize("part", [CpuKernels, CudaKernels])
def test_an_override_takes_the_same_arguments(part):
    for name in vars(part):
        if not name.startswith("_"):
            mine, general = (list(inspect.signature(getattr(k, name)).parameters) for k in (part(), Kernels()))
            assert mine == general, name
