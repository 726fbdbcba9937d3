"""The layer of VGG16 on NumPy, and its max pool: every way of cutting the work against the loops, and the rules."""

import numpy as np
import pytest

import tinygan.ops.fused
from tinygan import Tensor, check_grads, frozen, grad, no_grad
from tinygan.errors import GraphError
from tinygan.kernels import reference, threads
from tinygan.kernels.base import Kernels
from tinygan.kernels.cpu import CpuKernels, conv3x3, max_pool
from tinygan.ops import where
from tinygan.ops.conv import conv2d
from tinygan.ops.fused import conv_relu
from tinygan.ops.pooling import max_pool2d

CPU = CpuKernels()
CUTS = {  # FEW, LARGE, BLOCK_BYTES, GROUP_BYTES, PART
    "as it comes": None,
    "unrolled": (100, 1 << 30, 1, 1, 64),
    "one tile at a time": (0, 1 << 30, 1, 1, 64),
    "blocks of some tiles": (0, 1 << 30, 36 * 8 * 7 * 5, 1, 64),
    "filters by parts": (0, 0, 36 * 8 * 7 * 2, 36 * 8 * 7 * 6, 2),
    "filters by parts, a tile at a time": (0, 0, 1, 1, 1),
}
SHAPES = [  # samples, channels in and out, rows, columns
    (2, 5, 6, 8, 8), (1, 6, 3, 5, 7), (2, 3, 4, 6, 9), (1, 1, 5, 3, 2), (2, 7, 1, 4, 13), (1, 7, 7, 1, 1),
    (3, 8, 5, 13, 6), (1, 6, 5, 2, 16), (0, 5, 5, 4, 4), (0, 2, 3, 4, 4),
]


@pytest.fixture(params=CUTS)
def cut(request, monkeypatch):
    """One way of cutting the work, whatever the sizes."""
    if CUTS[request.param] is not None:
        set_cut(monkeypatch, request.param)
    return request.param


@pytest.fixture(autouse=True)
def one_thread():
    yield
    if threads.get_threads() > 1:
        threads.set_threads(1)


def set_cut(monkeypatch, name):
    for setting, value in zip(("FEW", "LARGE", "BLOCK_BYTES", "GROUP_BYTES", "PART"), CUTS[name], strict=True):
        monkeypatch.setattr(conv3x3, setting, value)


def layer(shape, dtype=float, seed=0):
    """x, weight, bias and a cotangent of the result."""
    n, b, a, h, w = shape
    rng = np.random.default_rng(seed)
    sizes = (n, b, h, w), (a, b, 3, 3), (a,), (n, a, h, w)
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


def close(got, wanted, tolerance=1e-11):
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(1, np.abs(wanted).max(initial=0)))


# ---- the kernels against the loops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layer_and_its_gradient_equal_the_loops(cut, shape):
    x, weight, bias, g = layer(shape)
    y = reference.conv_relu(x, weight, bias, 1)
    dx = reference.conv_relu_dx(g, y, weight, 1)
    for kernels in (CPU, Kernels()):
        close(kernels.conv_relu(x, weight, bias, 1), y)
        close(kernels.conv_relu_dx(g, y, weight, 1), dx)


@pytest.mark.parametrize("kernel, padding", [((1, 1), 0), ((5, 5), 2), ((3, 3), 0), ((3, 3), 2), ((2, 3), 1)])
def test_other_kernels_and_paddings(kernel, padding):
    rng = np.random.default_rng(1)
    x, weight, bias = rng.standard_normal((2, 5, 7, 6)), rng.standard_normal((4, 5, *kernel)), rng.standard_normal(4)
    y = reference.conv_relu(x, weight, bias, padding)
    g = rng.standard_normal(y.shape)
    for kernels in (CPU, Kernels()):
        close(kernels.conv_relu(x, weight, bias, padding), y)
        close(kernels.conv_relu_dx(g, y, weight, padding), reference.conv_relu_dx(g, y, weight, padding))


def test_the_loops_are_the_formula():
    """A map of one pixel meets the middle of the filters alone, and the gradient is its transpose."""
    x, weight, bias, g = layer((1, 3, 4, 1, 1))
    total = weight[:, :, 1, 1] @ x[0, :, 0, 0] + bias
    assert (total > 0).any() and (total < 0).any()
    np.testing.assert_allclose(reference.conv_relu(x, weight, bias, 1)[0, :, 0, 0], total.clip(0))
    through = (g[0, :, 0, 0] * (total > 0)) @ weight[:, :, 1, 1]
    np.testing.assert_allclose(reference.conv_relu_dx(g, total[None, :, None, None], weight, 1)[0, :, 0, 0], through)


def views(x):
    """The same numbers in other memory."""
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    strided = np.zeros((*x.shape[:-1], 2 * x.shape[-1]))[..., ::2]
    strided[...] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    return [x, last, strided, read_only, x[::-1, ::-1].copy()[::-1, ::-1], x[:, :, ::-1].copy()[:, :, ::-1]]


def test_any_memory_layout_gives_the_same_and_inputs_stay_as_they_are(cut):
    x, weight, bias, g = layer((2, 6, 7, 9, 6))
    y = reference.conv_relu(x, weight, bias, 1)
    dx = reference.conv_relu_dx(g, y, weight, 1)
    for xs, ws, gs, ys in zip(*map(views, (x, weight, g, y)), strict=True):
        close(CPU.conv_relu(xs, ws, bias, 1), y)
        close(CPU.conv_relu_dx(gs, ys, ws, 1), dx)
        for left, before in ((xs, x), (ws, weight), (gs, g), (ys, y)):
            assert np.array_equal(left, before)


def test_results_are_channels_last_in_memory(cut):
    x, weight, bias, g = layer((2, 6, 7, 9, 6))
    y = CPU.conv_relu(x, weight, bias, 1)
    for maps in (y, CPU.conv_relu_dx(g, y, weight, 1)):
        assert maps.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("shape", [(1, 64, 64, 12, 12), (1, 256, 256, 9, 9), (1, 3, 64, 12, 12), (1, 512, 130, 4, 4)])
def test_float32_stays_float32_and_close_to_float64(shape):
    """Sums of unit size; 40 roundings of the largest are the most that was seen."""
    wide = layer(shape, seed=2)
    wide[1] /= 3 * shape[1] ** 0.5
    x, weight, bias, g = (a.astype(np.float32) for a in wide)
    y = CPU.conv_relu(x, weight, bias, 1)
    sums = CPU.conv(x.astype(float), weight[None].astype(float), (1, 1), (1, 1), None) + bias[:, None, None]
    assert y.dtype == np.float32 and np.abs(y - sums.clip(0)).max() < 100 * 2**-24 * np.abs(sums).max()
    dx = CPU.conv_relu_dx(g, y, weight, 1)
    wanted = CPU.conv_transpose((g * (y > 0)).astype(float), weight[None].astype(float), (1, 1), (1, 1), None,
                                   shape[3:])
    assert dx.dtype == np.float32 and np.abs(dx - wanted).max() < 100 * 2**-24 * np.abs(wanted).max()


@pytest.mark.parametrize("name", CUTS)
def test_same_bits_for_any_number_of_threads(name, monkeypatch):
    pytest.importorskip("threadpoolctl")
    if CUTS[name] is not None:
        set_cut(monkeypatch, name)
    monkeypatch.setattr(conv3x3, "LONG_PRODUCT", 0)  # share even what is too short to be worth it
    monkeypatch.setattr(threads, "MANY", 1)
    monkeypatch.setattr(threads, "BLOCK", 200)
    x, weight, bias, g = layer((2, 12, 14, 10, 9), np.float32)
    small = g[:, :, :5, :4]
    results = []
    for count in (1, 2, 3):
        assert threads.set_threads(count) == count
        y = CPU.conv_relu(x, weight, bias, 1)
        best, which = CPU.max_pool(y, 2, 2)
        results.append([a.tobytes() for a in (y, CPU.conv_relu_dx(g, y, weight, 1), best, which,
                                              CPU.pool_put(small, which, 2, 2, y.shape))])
    assert results[0] == results[1] == results[2]


def test_nan_and_infinity_are_passed_on_and_stay_near(cut):
    x, weight, bias, _ = layer((2, 6, 7, 17, 9))
    x[0, 2, 8, 4], x[1] = np.nan, 1.0
    y = CPU.conv_relu(x, weight, bias, 1)
    assert np.isnan(y[0, :, 7:10, 3:6]).all()
    assert np.isfinite(y[0, :, :2]).all() and np.isfinite(y[0, :, 15:]).all() and np.isfinite(y[1]).all()


def test_a_gradient_is_dropped_whatever_it_is_where_relu_let_nothing_through(cut):
    x, weight, bias, g = layer((1, 6, 7, 5, 6))
    y = CPU.conv_relu(x, weight, bias, 1)
    dx = CPU.conv_relu_dx(g, y, weight, 1)
    g[y == 0] = np.inf
    g[0, 0, 0, 0] = np.nan if y[0, 0, 0, 0] == 0 else g[0, 0, 0, 0]
    assert np.array_equal(CPU.conv_relu_dx(g, y, weight, 1), dx)


# ---- the operation -------------------------------------------------------------------------------------------------


def composite(x, weight, bias, padding=1):
    total = conv2d(x, weight, padding=padding) + bias.reshape(1, -1, 1, 1)
    return where(total.data > 0, total, 0.0)


@pytest.mark.parametrize("shape", [(2, 5, 3, 5, 4), (1, 2, 3, 4, 5)])
def test_conv_relu_to_second_order(cut, shape):
    x, weight, bias, _ = layer(shape, seed=3)
    check_grads(conv_relu, [x, weight, bias])
    check_grads(lambda x, w: conv_relu(x * x, w, bias), [x, weight[:, :, ::-1]])


def test_conv_relu_equals_its_definition_to_second_order():
    arrays = layer((2, 5, 6, 5, 6), seed=4)
    u = np.random.default_rng(5).standard_normal(arrays[0].shape)
    results = []
    for function in (conv_relu, composite):
        x, weight, bias = (Tensor(a, requires_grad=True) for a in arrays[:3])
        seed = Tensor(arrays[3], requires_grad=True)
        y = function(x, weight, bias)
        first = grad(y, [x, weight, bias], create_graph=True, seed=seed)
        second = grad(first[0], [weight, seed], seed=u)
        results.append([t.data for t in (y, *first, *second)])
    for a, b in zip(*results, strict=True):
        close(a, b)


def test_the_kernels_for_any_array_give_the_same_layer(monkeypatch):
    x, weight, bias, g = layer((1, 5, 3, 4, 4))
    results = []
    for kernels in (CPU, Kernels()):
        monkeypatch.setattr(tinygan.ops.fused, "for_array", lambda array, kernels=kernels: kernels)
        inputs = [Tensor(a, requires_grad=True) for a in (x, weight, bias)]
        y = conv_relu(*inputs)
        results.append([y.data, *(t.data for t in grad(y, inputs, seed=g))])
    for a, b in zip(*results, strict=True):
        close(a, b)


def test_where_the_sum_is_exactly_zero_the_slope_is_zero(cut):
    _, weight, _, g = layer((1, 6, 7, 5, 6))
    x, bias = Tensor(np.zeros((1, 6, 5, 6)), requires_grad=True), Tensor(np.zeros(7), requires_grad=True)
    weight = Tensor(weight, requires_grad=True)
    y = conv_relu(x, weight, bias)
    assert not y.data.any() and not any(d.data.any() for d in grad(y, [x, weight, bias], seed=g))


def test_a_frozen_layer_computes_no_gradient_of_its_weights(monkeypatch):
    calls = []
    conv_weight = CPU.conv_weight
    monkeypatch.setattr(CpuKernels, "conv_weight", lambda self, *a: calls.append("weight") or conv_weight(*a))
    x, weight, bias, g = layer((1, 5, 3, 4, 4))
    x = Tensor(x, requires_grad=True)
    weight, bias = Tensor(weight, requires_grad=True), Tensor(bias, requires_grad=True)
    with frozen(weight, bias):
        conv_relu(x, weight, bias).backward(g)
    assert calls == [] and weight.grad is None and bias.grad is None
    frozen_grad = x.grad.data
    x.grad = None
    conv_relu(x, weight, bias).backward(g)
    assert calls == ["weight"] and weight.grad is not None and bias.grad is not None
    assert np.array_equal(x.grad.data, frozen_grad)


def test_a_weight_changed_in_place_counts_at_once(cut):
    x, weight, bias, g = layer((1, 6, 5, 6, 7))
    for change in (lambda w: w, lambda w: 2 * w, lambda w: w[::-1].copy()):
        weight.flags.writeable = True
        weight[...] = change(weight)
        weight.flags.writeable = False
        y = CPU.conv_relu(x, weight, bias, 1)
        close(y, reference.conv_relu(x, weight, bias, 1))
        close(CPU.conv_relu_dx(g, y, weight, 1), reference.conv_relu_dx(g, y, weight, 1))


def test_a_weight_changed_between_forward_and_backward_is_noticed():
    x, weight, bias, g = layer((1, 5, 3, 4, 4))
    x, weight = Tensor(x, requires_grad=True), Tensor(weight, requires_grad=True)
    y = conv_relu(x, weight, bias)
    weight.version += 1
    with pytest.raises(GraphError, match="changed in place"):
        y.backward(g)


@pytest.mark.parametrize("arrays, words", [
    ((np.ones((1, 4, 5, 5)), np.ones((2, 3, 3, 3)), np.ones(2)), "must be"),
    ((np.ones((1, 3, 5, 5)), np.ones((2, 3, 3, 3)), np.ones(3)), "must be"),
    ((np.ones((3, 5, 5)), np.ones((2, 3, 3, 3)), np.ones(2)), "must be"),
    ((np.ones((1, 3, 5, 5)), np.ones((1, 2, 3, 3, 3)), np.ones(2)), "must be"),
    ((np.ones((1, 3, 2, 9)), np.ones((2, 3, 5, 5)), np.ones(2)), "larger than"),
    ((np.ones((1, 3, 0, 4)), np.ones((2, 3, 3, 3)), np.ones(2)), "larger than"),
])
def test_shapes_that_do_not_fit_are_refused_in_one_line(arrays, words):
    with pytest.raises(GraphError, match=words) as caught:
        conv_relu(*map(Tensor, arrays))
    assert "\n" not in str(caught.value)


def test_a_checker_that_must_fail_does():
    """A layer whose gradient forgets the ReLU is seen by the comparison that the tests above rely on."""
    x, weight, bias, g = layer((1, 5, 6, 5, 6))
    y = reference.conv_relu(x, weight, bias, 1)
    wrong = CPU.conv_relu_dx(g, np.ones_like(y), weight, 1)
    with pytest.raises(AssertionError):
        close(wrong, reference.conv_relu_dx(g, y, weight, 1))
    turned = CPU.conv_relu_dx(g, y, weight[:, :, ::-1, ::-1], 1)
    with pytest.raises(AssertionError):
        close(turned, reference.conv_relu_dx(g, y, weight, 1))


# ---- max pool ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 5, 7, 5), (1, 1, 2, 2), (3, 2, 3, 9), (0, 2, 4, 4),
                                   (1, 40, 30, 22)])
@pytest.mark.parametrize("hole", [False, True])
def test_max_pool_equals_the_loops(shape, hole, monkeypatch):
    rng = np.random.default_rng(6)
    monkeypatch.setattr(threads, "BLOCK", 100)  # several jobs
    x = rng.integers(0, 3, shape).astype(float)  # many ties
    if hole and x.size > 20:
        x[0, 0, 1, :2] = x[0, 1, 2:, 3] = np.nan  # two in a window, and one
        x[0, 1, 0, 0] = -np.inf
    wanted = reference.max_pool(x, 2, 2)
    g = rng.standard_normal(wanted[0].shape)
    for a in (x, views(x)[1], views(x)[5]) if x.size else (x,):
        best, which = CPU.max_pool(a, 2, 2)
        np.testing.assert_array_equal(best, wanted[0])
        np.testing.assert_array_equal(which, wanted[1])
        np.testing.assert_array_equal(CPU.pool_take(a, which, 2, 2), reference.pool_take(x, wanted[1], 2, 2))
        assert which.dtype == np.uint8 and best.transpose(0, 2, 3, 1).flags.c_contiguous
        for h in (g, views(g)[1], np.broadcast_to(1.5, g.shape)) if g.size else (g,):
            put = CPU.pool_put(h, which, 2, 2, shape)
            np.testing.assert_array_equal(put, reference.pool_put(h, wanted[1], 2, 2, shape))


def test_an_infinite_gradient_stays_with_the_pixel_that_won():
    x = np.arange(16.0, dtype=np.float32).reshape(1, 1, 4, 4)
    _, which = CPU.max_pool(x, 2, 2)
    g = np.array([[[[np.inf, -np.inf], [np.nan, -1.0]]]], np.float32)
    np.testing.assert_array_equal(CPU.pool_put(g, which, 2, 2, x.shape), reference.pool_put(g, which, 2, 2, x.shape))


def test_zero_unless():
    keep, values, out = np.array([True, False, True]), np.array([-1.0, np.nan, np.inf]), np.empty(3)
    max_pool.zero_unless(keep, values, out)
    assert out.tolist() == [-1.0, 0.0, np.inf]


def test_a_block_of_vgg16_to_second_order():
    x, weight, bias, _ = layer((1, 2, 5, 4, 6), seed=7)
    _, wider, more, _ = layer((1, 5, 6, 4, 6), seed=8)
    check_grads(lambda x: max_pool2d(conv_relu(conv_relu(x, weight, bias), wider, more)), [x])
    with no_grad():
        y = max_pool2d(conv_relu(Tensor(x), weight, bias))
    assert y.shape == (1, 5, 2, 3) and not y.requires_grad


@pytest.mark.parametrize("row, column", [(7, 7), (8, 8), (5, 6), (4, 4)])
def test_a_huge_pixel_stays_within_its_tiles_and_the_bound(row, column):
    """The bound that conv3x3 states: 2 ** -24 of the pixel, some 23 times; other tiles do not change by a bit."""
    rng, huge = np.random.default_rng(0), np.float32(1e6)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1, 64, 16, 16), (64, 64, 3, 3)))
    bias = np.full(64, 100, np.float32)
    tiles = np.zeros((16, 16), bool)  # outputs of the 4x4 tiles that read the pixel
    tiles[(row - 1) // 4 * 4:(row + 1) // 4 * 4 + 4, (column - 1) // 4 * 4:(column + 1) // 4 * 4 + 4] = True
    window = np.zeros((16, 16), bool)
    window[row - 1:row + 2, column - 1:column + 2] = True
    calm = conv3x3.conv_relu(x, w, bias, 1)
    loud = x.copy()
    loud[0, 3, row, column] = huge
    y = conv3x3.conv_relu(loud, w, bias, 1)
    error = abs(y - reference.conv_relu(*(a.astype(float) for a in (loud, w, bias)), 1)).max(axis=(0, 1))
    assert error[~window].max() < 64 * 2.0 ** -24 * huge * abs(w[:, 3]).max()
    assert np.array_equal(y[..., ~tiles], calm[..., ~tiles])
    loud[0, 3, row, column] = np.inf
    with np.errstate(invalid="ignore"):
        y = conv3x3.conv_relu(loud, w, bias, 1)
    assert np.array_equal(y[..., ~tiles], calm[..., ~tiles]) and not np.isfinite(y[..., window]).all()
