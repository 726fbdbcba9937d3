"""The convolution triangle on tensors: three maps, one trilinear form; banks and routes; pooling and resizing."""

import sys
import types

import numpy as np
import pytest

from tinygan import Tensor, check_grads, grad
from tinygan.errors import GraphError
from tinygan.kernels import reference
from tinygan.kernels.arguments import pair
from tinygan.kernels.geometry import interpolation_matrix
from tinygan.ops.conv import conv2d, conv2d_weight, conv_transpose2d
from tinygan.ops.fused import weight_norm
from tinygan.ops.pooling import max_pool2d, mean_pool2d, resize_bilinear

TRIANGLES = 150


def random_triangle(seed: int) -> tuple:
    """Arrays (big, weight, small) that fit together and the options (stride, padding, routes) that tie them."""
    rng = np.random.default_rng(seed)
    kernel, stride, padding = ([int(n) for n in rng.integers(low, high, 2)] for low, high in ((1, 6), (1, 4), (0, 3)))
    n, a, b, bank = (int(rng.integers(1, high)) for high in (5, 4, 4, 5))
    size = [int(max(1, k - 2 * p) + rng.integers(0, 6)) for k, p in zip(kernel, padding, strict=True)]
    small = [(m + 2 * p - k) // s + 1 for m, p, k, s in zip(size, padding, kernel, stride, strict=True)]
    routes = rng.integers(0, bank, n) if bank > 1 or rng.random() < 0.5 else None
    arrays = (rng.standard_normal((n, b, *size)), rng.standard_normal((bank, a, b, *kernel)),
              rng.standard_normal((n, a, *small)))
    return arrays, {"stride": tuple(stride), "padding": tuple(padding), "routes": routes}


def three_maps(big, weight, small, options) -> list[Tensor]:
    """What each pair of the three makes of the third: shaped like small, big and weight."""
    return [conv2d(big, weight, **options),
            conv_transpose2d(small, weight, output_size=big.shape[2:], **options),
            conv2d_weight(big, small, kernel=weight.shape[3:], bank=len(weight), **options)]


def close(a, b) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(TRIANGLES))
def test_triangle_equals_the_loops_and_is_adjoint(seed):
    arrays, options = random_triangle(seed)
    big, weight, small = (Tensor(a, requires_grad=True) for a in arrays)
    to_small, to_big, to_weight = three_maps(big, weight, small, options)
    s, p, routes = options.values()
    close(to_small.data, reference.conv(arrays[0], arrays[1], s, p, routes))
    close(to_big.data, reference.conv_transpose(arrays[2], arrays[1], s, p, routes, big.shape[2:]))
    close(to_weight.data, reference.conv_weight(arrays[0], arrays[2], weight.shape[3:], s, p, routes, len(weight)))

    form = [(to_small.data * small.data).sum(), (to_big.data * big.data).sum(), (to_weight.data * weight.data).sum()]
    close(form[0], form[1])
    close(form[0], form[2])
    close(grad(to_small, [big], seed=arrays[2])[0].data, to_big.data)  # each map is the rule of the others
    close(grad(to_small, [weight], seed=arrays[2])[0].data, to_weight.data)
    close(grad(to_big, [small], seed=arrays[0])[0].data, to_small.data)
    close(grad(to_big, [weight], seed=arrays[0])[0].data, to_weight.data)
    close(grad(to_weight, [big], seed=arrays[1])[0].data, to_big.data)
    close(grad(to_weight, [small], seed=arrays[1])[0].data, to_small.data)


@pytest.mark.parametrize("kernel, stride, padding, size", [(3, 1, 1, 8), (4, 2, 1, 8), (5, 2, 2, 7)])
@pytest.mark.parametrize("bank", [1, 3])
def test_triangle_at_widths_where_the_fast_forms_are_used(kernel, stride, padding, size, bank):
    rng = np.random.default_rng(1)
    options = {"stride": (stride, stride), "padding": (padding, padding), "routes": np.sort(rng.integers(0, bank, 6))}
    small_size = (size + 2 * padding - kernel) // stride + 1
    big, small = rng.standard_normal((6, 32, size, size)), rng.standard_normal((6, 32, small_size, small_size))
    weight = rng.standard_normal((bank, 32, 32, kernel, kernel))
    maps = three_maps(*(Tensor(a) for a in (big, weight, small)), options)
    s, p, routes = options.values()
    close(maps[0].data, reference.conv(big, weight, s, p, routes))
    close(maps[1].data, reference.conv_transpose(small, weight, s, p, routes, (size, size)))
    close(maps[2].data, reference.conv_weight(big, small, (kernel, kernel), s, p, routes, bank))


@pytest.mark.parametrize("seed", range(12))
def test_three_maps_to_second_order(seed):
    (big, weight, small), options = random_triangle(seed)
    check_grads(lambda x, w: conv2d(x, w, **options), [big, weight])
    check_grads(lambda x, w: conv_transpose2d(x, w, output_size=big.shape[2:], **options), [small, weight])
    check_grads(lambda x, y: conv2d_weight(x, y, kernel=weight.shape[3:], bank=len(weight), **options), [big, small])


def test_the_transposed_convolution_covers_evenly():
    """Kernel 4, stride 2: every inner pixel is painted by the same number of taps, so no checkerboard."""
    y = conv_transpose2d(Tensor(np.ones((1, 1, 6, 6))), Tensor(np.ones((1, 1, 4, 4))), stride=2, padding=1)
    assert y.shape == (1, 1, 12, 12) and set(y.data[0, 0, 1:-1, 1:-1].ravel()) == {4.0}


def test_output_sizes_that_a_stride_allows():
    x, w = Tensor(np.ones((1, 1, 3, 3))), Tensor(np.ones((1, 1, 3, 3)))
    for size, padding in (((7, 7), 0), ((8, 7), 0), ((5, 6), 1)):
        y = conv_transpose2d(x, w, stride=2, padding=padding, output_size=size)
        assert y.shape[2:] == size and conv2d(y, w, stride=2, padding=padding).shape == x.shape
    assert conv_transpose2d(x, w, stride=(2, 1)).shape == (1, 1, 7, 5)


# ---- banks and routes ----------------------------------------------------------------------------------------------


def bank_of(k: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return (Tensor(rng.standard_normal((3, 2, 5, 5)), requires_grad=True),
            Tensor(rng.standard_normal((k, 2, 2, 3, 3)), requires_grad=True))


def test_a_weight_without_a_bank_axis_is_a_bank_of_one():
    x, bank = bank_of(1)
    single = Tensor(bank.data[0], requires_grad=True)
    for f in (conv2d, conv_transpose2d):
        a, b = f(x, single), f(x, bank)
        assert np.array_equal(a.data, b.data)
        ga, gb = grad(a.sum(), [single])[0], grad(b.sum(), [bank])[0]
        assert ga.shape == (2, 2, 3, 3) and np.array_equal(ga.data, gb.data[0])
        check_grads(f, [x, single])


def test_a_route_is_the_same_as_that_set_alone():
    x, bank = bank_of()
    routes = [2, 0, 2]
    for f in (conv2d, conv_transpose2d):
        y = f(x, bank, routes=routes)
        for n, r in enumerate(routes):
            close(y.data[n], f(Tensor(x.data[n:n + 1]), Tensor(bank.data[r])).data[0])


@pytest.mark.parametrize("f", [conv2d, conv_transpose2d])
def test_unused_sets_are_not_read_and_get_exactly_zero(f):
    x, bank = bank_of()
    bank.data[[1, 3]] = np.nan
    y = f(x, bank, routes=[2, 0, 2])
    assert np.isfinite(y.data).all()
    (y * y).sum().backward()
    assert np.isfinite(x.grad.data).all()
    assert (bank.grad.data[[1, 3]] == 0).all() and (bank.grad.data[[0, 2]] != 0).all()
    assert bank.grad.rows.tolist() == [True, False, True, False]


def test_rows_tell_unused_from_zero():
    x, bank = bank_of()
    (conv2d(x, bank, routes=[1, 1, 0]) * 0.0).sum().backward()
    assert (bank.grad.data == 0).all() and bank.grad.rows.tolist() == [True, True, False, False]


def test_rows_of_several_uses_and_calls_are_united():
    x, bank = bank_of()
    (conv2d(x, bank, routes=[0, 0, 0]).sum() + conv_transpose2d(x, bank, routes=[2, 2, 0]).sum()).backward()
    assert bank.grad.rows.tolist() == [True, False, True, False]
    conv2d(x, bank, routes=[3, 3, 3]).sum().backward()
    assert bank.grad.rows.tolist() == [True, False, True, True]
    assert (bank.grad.data[1] == 0).all()
    (bank * 2.0).sum().backward()
    assert bank.grad.rows is None, "an ordinary use touches every set"


def test_rows_pass_through_weight_normalisation():
    x, bank = bank_of()
    routes = np.array([2, 2, 1])
    conv_transpose2d(x, weight_norm(bank, out_axis=2), routes=routes).sum().backward()
    assert bank.grad.rows.tolist() == [False, True, True, False] and (bank.grad.data[[0, 3]] == 0).all()
    everywhere = bank.grad.data
    bank.grad = None
    named = weight_norm(bank, out_axis=2, rows=np.array([False, True, True, False]))
    conv_transpose2d(x, named, routes=routes).sum().backward()
    assert bank.grad.rows.tolist() == [False, True, True, False]
    close(bank.grad.data, everywhere)


def test_a_bank_of_one_has_no_rows():
    x, bank = bank_of(1)
    conv2d(x, bank, routes=[0, 0, 0]).sum().backward()
    assert bank.grad.rows is None


def test_an_empty_batch():
    x = Tensor(np.zeros((0, 2, 5, 5), np.float32), requires_grad=True)
    bank = Tensor(np.ones((4, 2, 2, 3, 3), np.float32), requires_grad=True)
    for f, size in ((conv2d, 3), (conv_transpose2d, 7)):
        y = f(x, bank, routes=[])
        assert y.shape == (0, 2, size, size) and y.dtype == np.float32
        at_x, at_bank = grad(y.sum(), [x, bank])
        assert at_x.shape == x.shape and (at_bank.data == 0).all() and not at_bank.rows.any()


# ---- what is said when it does not fit -----------------------------------------------------------------------------


class OnGPU:
    """What a CuPy array of routes looks like from outside."""


OnGPU.__module__ = "cupy.fake"

X, W, BANK = Tensor(np.ones((3, 2, 5, 5)), name="image"), Tensor(np.ones((2, 2, 3, 3))), \
    Tensor(np.ones((4, 2, 2, 3, 3)), name="bank")
BAD = {
    "no routes": (lambda: conv2d(X, BANK), "a bank of 4 filter sets needs routes"),
    "too few routes": (lambda: conv2d(X, BANK, routes=[0, 1]), "must be 3 integers"),
    "routes of two axes": (lambda: conv2d(X, BANK, routes=[[0], [1], [2]]), "must be 3 integers"),
    "routes that are not whole": (lambda: conv_transpose2d(X, BANK, routes=[0.0, 1.0, 2.0]), "must be 3 integers"),
    "bool routes": (lambda: conv_transpose2d(X, BANK, routes=[True, False, True]), "must be 3 integers"),
    "route too large": (lambda: conv2d(X, BANK, routes=[0, 4, 1]), "[0, 4)"),
    "route negative": (lambda: conv2d(X, BANK, routes=[0, -1, 1]), "[0, 4)"),
    "route for a bank of one": (lambda: conv2d(X, W, routes=[0, 0, 1]), "[0, 1)"),
    "routes on the GPU": (lambda: conv2d(X, BANK, routes=OnGPU()), "host integers"),
    "channels of a convolution": (lambda: conv2d(X, Tensor(np.ones((2, 3, 3, 3)))), "takes 3"),
    "channels of a transposed one": (lambda: conv_transpose2d(X, Tensor(np.ones((3, 2, 3, 3)))), "takes 3"),
    "no batch axis": (lambda: conv2d(Tensor(np.ones((2, 5, 5))), W), "(N, C, H, W)"),
    "a matrix as weight": (lambda: conv2d(X, Tensor(np.ones((2, 2)))), "kh, kw"),
    "kernel too large": (lambda: conv2d(X, Tensor(np.ones((2, 2, 6, 6)))), "larger than image (3, 2, 5, 5)"),
    "stride 0": (lambda: conv2d(X, W, stride=0), "stride must be 1 or more"),
    "stride 1.5": (lambda: conv2d(X, W, stride=1.5), "whole number"),
    "three strides": (lambda: conv2d(X, W, stride=(1, 1, 1)), "(rows, columns)"),
    "negative padding": (lambda: conv_transpose2d(X, W, padding=-1), "padding 0 or more"),
    "output too small": (lambda: conv_transpose2d(X, W, output_size=(6, 7)), "(7, 7)"),
    "output too large": (lambda: conv_transpose2d(X, W, stride=2, output_size=(13, 11)), "(11, 11) to (12, 12)"),
    "one output size of three": (lambda: conv_transpose2d(X, W, output_size=(7, 7, 7)), "(rows, columns)"),
    "nothing left": (lambda: conv_transpose2d(Tensor(np.ones((1, 2, 1, 1))), W, padding=2), "(-1, -1)"),
    "maps that do not belong together": (lambda: conv2d_weight(X, X, kernel=3), "do not belong together"),
    "another number of samples": (lambda: conv2d_weight(X, X[:2, :, :3, :3], kernel=3), "do not belong together"),
    "two dtypes": (lambda: conv2d(X, Tensor(W.data.astype(np.float32))), "differ in dtype"),
    "window too large": (lambda: max_pool2d(X, 6), "smaller than the window"),
    "odd sides": (lambda: mean_pool2d(X, 2), "not multiples of 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_calls_are_answered_in_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    call, words = BAD[name]
    with pytest.raises(GraphError) as problem:
        call()
    message = str(problem.value)
    assert words in message and "\n" not in message and len(message) < 250


def test_pairs():
    assert pair(2) == pair(np.int64(2)) == pair([2, 2]) == pair(np.array([2, 2])) == (2, 2)


# ---- pooling and resizing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, stride, shape", [(2, 2, (2, 3, 4, 6)), (2, 2, (1, 1, 5, 5)), (3, 2, (1, 2, 7, 6)),
                                                 (3, 1, (1, 1, 4, 4)), (2, 3, (1, 1, 8, 8))])
def test_max_pool(size, stride, shape):
    rng = np.random.default_rng(0)
    x = (rng.permutation(int(np.prod(shape))) * 0.1).reshape(shape)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    y = max_pool2d(Tensor(x), size, stride)
    assert np.array_equal(y.data, windows.max(axis=(4, 5)))
    check_grads(lambda a: max_pool2d(a, size, stride), [x])
    check_grads(lambda a: max_pool2d(a * a, size, stride), [x[:, :, ::-1]])


def test_max_pool_ties_and_overlaps():
    x = Tensor(np.zeros((1, 1, 4, 4)), requires_grad=True)
    gradient, = grad(max_pool2d(x, 2).sum(), [x])
    assert gradient.data[0, 0].tolist() == [[1, 0, 1, 0], [0] * 4, [1, 0, 1, 0], [0] * 4]
    x = Tensor(np.array([[[[0, 0, 0], [0, 9, 0], [0, 0, 0.0]]]]), requires_grad=True)
    gradient, = grad(max_pool2d(x, 2, 1).sum(), [x])  # one pixel wins all four windows
    assert gradient.data[0, 0].tolist() == [[0] * 3, [0, 4, 0], [0] * 3]


def test_max_pool_keeps_float32():
    x = Tensor(np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32), requires_grad=True)
    y = max_pool2d(x)
    assert y.dtype == np.float32 and grad(y.sum(), [x])[0].dtype == np.float32


def test_mean_pool():
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    assert mean_pool2d(Tensor(x)).data[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert mean_pool2d(Tensor(x), 4).item() == 7.5
    assert mean_pool2d(Tensor(x.astype(np.float32))).dtype == np.float32
    check_grads(mean_pool2d, [x])


# From torch 2.13, interpolate(x, size, mode="bilinear", align_corners=False, antialias=...), x = arange(12) ** 1.5.
RESIZED = {
    ((2, 3), False): [[2.257514162, 4.6703199648, 8.0719084191], [19.6496497857, 25.2182010187, 31.2254022732]],
    ((2, 2), True): [[4.3902858925, 8.1761516354], [19.9864109346, 26.5907238894]],
    ((6, 3), True): [[0.3, 1.9142135624, 4.4858348333], [2.4635254916, 4.6703199648, 7.7076918653],
                     [6.7905764747, 10.1825327697, 14.1514059292], [12.7003744493, 17.0318264543, 21.7861581875],
                     [20.1929194155, 25.2182010187, 30.61194864], [23.9391918986, 29.3113883008, 35.0248438662]],
}


@pytest.mark.parametrize("size, antialias", RESIZED)
def test_resize_gives_the_values_of_other_libraries(size, antialias):
    x = Tensor((np.arange(12.0) ** 1.5).reshape(1, 1, 3, 4))
    y = resize_bilinear(x, size, antialias=antialias)
    np.testing.assert_allclose(y.data[0, 0], RESIZED[size, antialias], atol=1e-9)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(3, 4), (1, 1), (7, 2), (9, 13)])
def test_resize_is_linear_with_an_exact_adjoint(size, antialias):
    rng = np.random.default_rng(0)
    x, u = Tensor(rng.standard_normal((2, 3, 3, 4)), requires_grad=True), rng.standard_normal((2, 3, *size))
    y = resize_bilinear(x, size, antialias=antialias)
    close((y.data * u).sum(), (grad(y, [x], seed=u)[0].data * x.data).sum())
    for n, m in zip((3, 4), size, strict=True):
        matrix = interpolation_matrix(n, m, antialias)
        assert (matrix >= 0).all()
        close(matrix.sum(axis=1), np.ones(m))
    if size == (3, 4):
        close(y.data, x.data)
    check_grads(lambda a: resize_bilinear(a, size, antialias=antialias), [x])
    single = resize_bilinear(Tensor(x.data.astype(np.float32)), size)
    assert single.dtype == np.float32
