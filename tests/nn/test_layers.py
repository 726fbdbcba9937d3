"""The layers against plain loops written from their formulas, and what weight normalisation and banks promise."""

import contextlib
import math

import numpy as np
import pytest

from tinygan import Tensor, check_grads, frozen, grad, ops
from tinygan.errors import GraphError, TinyganError
from tinygan.kernels.arrays import bank_order
from tinygan.nn.layers import (
    NORMS,
    Conv2d,
    ConvTranspose2d,
    Linear,
    PReLU,
    StochasticConvTranspose2d,
    TPReLU,
    normalized,
)
from tinygan.nn.module import Module
from tinygan.nn.optim import RMSprop
from tinygan.ops.routes import Route

ROUTES = [2, 0, 2]  # of a bank of four: sets 1 and 3 are unused


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def make(kind, rng, norm="strict", **options):
    """(layer, input, routes): float64, small, with scale and bias off their initial values."""
    options |= {"norm": norm, "rng": rng, "dtype": np.float64}
    if kind == "linear":
        layer, shape = Linear(5, 3, **options), (4, 5)
    elif kind == "conv":
        layer, shape = Conv2d(2, 3, (3, 4), stride=(1, 2), padding=(1, 0), **options), (2, 2, 4, 6)
    elif kind == "deconv":
        layer, shape = ConvTranspose2d(3, 2, 4, stride=2, padding=1, **options), (2, 3, 2, 3)
    else:
        layer = StochasticConvTranspose2d(3, 2, (4, 3), bank=4, stride=(2, 3), padding=(1, 0), **options)
        shape = (3, 3, 2, 2)
    for p in (layer.gain, layer.bias):
        if p is not None:
            p.data += rng.standard_normal(p.shape)
    return layer, rng.standard_normal(shape), ROUTES if kind == "stochastic" else None


def call(layer, x, routes):
    return layer(x) if routes is None else layer(x, routes)


KINDS = ("linear", "conv", "deconv", "stochastic")

# ---- the definition, one multiplication at a time ----------------------------------------------------------------


def plain_layer(layer, x, routes):
    """y_o = (w_o . x) / n_o, then scale and bias, for a layer of this file: loops over every pixel and tap."""
    kind = type(layer)
    out = []
    for sample, image in enumerate(x):
        k = 0 if routes is None else routes[sample]
        w = layer.weight.data[k]
        if kind is Linear:
            y = plain_correlate(image[:, None, None], w, (1, 1), (0, 0))
        elif kind is Conv2d:
            y = plain_correlate(image, w, layer.stride, layer.padding)
        else:
            y = plain_paint(image, w, layer.stride, layer.padding)
        for o in range(len(y)):
            own = w[o] if kind in (Linear, Conv2d) else w[:, o]
            share = 1.0 if kind in (Linear, Conv2d) else 1.0 / (layer.stride[0] * layer.stride[1])
            if layer.norm != "none":
                y[o] /= math.sqrt(share * sum(v * v for v in own.ravel()) + 1e-6)
            if layer.gain is not None:
                y[o] *= layer.gain.data[k if len(layer.gain) > 1 else 0, o]
            if layer.bias is not None:
                y[o] += layer.bias.data[k if len(layer.bias) > 1 else 0, o]
        out.append(y)
    return np.stack(out).reshape(len(x), len(out[0])) if kind is Linear else np.stack(out)


def plain_correlate(image, w, stride, padding):
    """image (B, H, W), w (A, B, kh, kw): slide the window over the padded image."""
    (outputs, inputs, kh, kw), (sh, sw), (ph, pw) = w.shape, stride, padding
    padded = np.pad(image, ((0, 0), (ph, ph), (pw, pw)))
    y = np.zeros((outputs, (padded.shape[1] - kh) // sh + 1, (padded.shape[2] - kw) // sw + 1))
    for o, i, j in np.ndindex(y.shape):
        for c, u, v in np.ndindex(inputs, kh, kw):
            y[o, i, j] += padded[c, i * sh + u, j * sw + v] * w[o, c, u, v]
    return y


def plain_paint(image, w, stride, padding):
    """image (A, h, w), w (A, B, kh, kw): every pixel paints its patch; the border of `padding` is cut off."""
    (inputs, outputs, kh, kw), (sh, sw), (ph, pw) = w.shape, stride, padding
    h, wide = image.shape[1:]
    canvas = np.zeros((outputs, sh * (h - 1) + kh, sw * (wide - 1) + kw))
    for c, i, j in np.ndindex(inputs, h, wide):
        for o, u, v in np.ndindex(outputs, kh, kw):
            canvas[o, i * sh + u, j * sw + v] += image[c, i, j] * w[c, o, u, v]
    return canvas[:, ph:canvas.shape[1] - ph, pw:canvas.shape[2] - pw]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_values(kind, norm, rng):
    layer, x, routes = make(kind, rng, norm)
    y = call(layer, Tensor(x), routes)
    expected = plain_layer(layer, x, routes)
    assert y.shape == expected.shape
    assert np.allclose(y.data, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["affine", "none"])
def test_values_with_scale_and_bias_of_each_set(norm, rng):
    layer, x, routes = make("stochastic", rng, norm, bank_affine=True)
    assert layer.bias.shape == (4, 2)
    assert np.allclose(layer(Tensor(x), routes).data, plain_layer(layer, x, routes), rtol=0, atol=1e-12)


def test_which_layer_has_which_parameters(rng):
    def names(**options):
        layer = StochasticConvTranspose2d(2, 3, 4, bank=2, rng=rng, **options)
        return {name: (p.shape, p.bank) for name, p in layer.named_parameters()}

    weight = {"weight": ((2, 2, 3, 4, 4), True)}
    assert names(norm="strict") == names(norm="strict", bank_affine=True) == names(bias=False) == weight
    assert names(norm="none") == weight | {"bias": ((1, 3), False)}
    assert names(norm="affine") == weight | {"gain": ((1, 3), False), "bias": ((1, 3), False)}
    assert names(norm="affine", bank_affine=True) == weight | {"gain": ((2, 3), True), "bias": ((2, 3), True)}
    affine = Conv2d(2, 3, 4, norm="affine", rng=rng)
    assert affine.gain.data.tolist() == [[1, 1, 1]] and affine.bias.data.tolist() == [[0, 0, 0]]


# ---- gradients ---------------------------------------------------------------------------------------------------


def with_parameters(layer, routes=None):
    """The layer as a function of its input and of its parameters, for check_grads."""
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *values):
        for name, value in zip(names, values, strict=True):
            setattr(layer, name, value)
        return call(layer, x, routes)

    return function, [p.data for p in layer.parameters()]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_to_second_order(kind, norm, rng):
    layer, x, routes = make(kind, rng, norm)
    function, values = with_parameters(layer, routes)
    check_grads(function, [x, *values], name=f"{kind} {norm}")


def test_gradients_with_scale_and_bias_of_each_set(rng):
    layer, x, routes = make("stochastic", rng, "affine", bank_affine=True)
    function, values = with_parameters(layer, routes)
    check_grads(function, [x, *values], name="stochastic, bank_affine")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["strict", "affine"])
def test_gradient_is_orthogonal_to_every_filter(kind, norm, rng):
    """The length of a filter changes nothing, so no gradient points along it: for each set and output channel."""
    layer, x, _ = make(kind, rng, norm, eps=0.0)
    routes = [3, 0, 2] if kind == "stochastic" else None
    y = call(layer, Tensor(x), routes)
    y.backward(rng.standard_normal(y.shape))
    w, g = layer.weight.data, layer.weight.grad.data
    axes = tuple(i for i in range(1, 5) if i != layer.out_axis)
    along = (w * g).sum(axes) / np.sqrt((w * w).sum(axes))
    length = np.sqrt((g * g).sum(axes))
    used = np.isin(np.arange(len(w)), [0] if routes is None else routes)
    assert (abs(along[used]) < 1e-12 * length[used]).all() and (length[used] > 1e-3).all()
    assert (length[~used] == 0).all()


def test_epsilon_leaves_the_share_of_the_gradient_that_the_formula_says(rng):
    """With eps inside the root, w . dL/dw = (w . G) eps / n^3: tiny for weights of ordinary length."""
    layer, x, _ = make("linear", rng, eps=1e-2)
    y = layer(Tensor(x))
    seed = rng.standard_normal(y.shape)
    y.backward(seed)
    w, g = (a[0, :, :, 0, 0] for a in (layer.weight.data, layer.weight.grad.data))
    cotangent = seed.T @ x
    expected = (w * cotangent).sum(1) * 1e-2 / ((w * w).sum(1) + 1e-2) ** 1.5
    assert np.allclose((w * g).sum(1), expected, rtol=1e-10)


def test_weights_of_length_zero_give_finite_gradients(rng):
    layer, x, _ = make("conv", rng)
    layer.weight.data[0, 1] = 0
    y = layer(Tensor(x))
    y.backward(np.ones(y.shape))
    assert (y.data[:, 1] == 0).all() and np.isfinite(layer.weight.grad.data).all()


# ---- banks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm, bank_affine", [("strict", False), ("affine", False), ("affine", True), ("none", True)])
def test_one_set_alone_is_an_ordinary_layer_with_that_set(norm, bank_affine, rng):
    layer, x, _ = make("stochastic", rng, norm, bank_affine=bank_affine)
    for k in range(4):
        alone = ConvTranspose2d(3, 2, (4, 3), stride=(2, 3), padding=(1, 0), norm=norm, rng=rng, dtype=np.float64)
        alone.weight.data[...] = layer.weight.data[k]
        for own, theirs in ((alone.gain, layer.gain), (alone.bias, layer.bias)):
            if own is not None:
                own.data[0] = theirs.data[k if bank_affine else 0]
        assert np.allclose(layer(Tensor(x), [k] * 3).data, alone(Tensor(x)).data, rtol=0, atol=1e-13)


def test_each_sample_meets_its_own_set_and_no_other(rng):
    layer, x, _ = make("stochastic", rng, "affine", bank_affine=True)
    mixed = layer(Tensor(x), [1, 3, 1]).data
    for n, k in enumerate([1, 3, 1]):
        assert np.allclose(mixed[n], layer(Tensor(x[n:n + 1]), [k]).data[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("norm", NORMS)
def test_unused_sets_get_no_gradient_and_are_told_from_used_ones(norm, rng):
    layer, x, routes = make("stochastic", rng, norm, bank_affine=True)
    y = layer(Tensor(x), routes)
    y.backward(rng.standard_normal(y.shape))
    for name, p in layer.named_parameters():
        assert p.grad.rows.tolist() == [True, False, True, False], name
        assert (p.grad.data[[1, 3]] == 0).all() and (p.grad.data[[0, 2]] != 0).any(), name


@pytest.mark.parametrize("norm", ["strict", "affine"])
def test_unused_sets_are_not_even_normalised(norm, rng):
    layer, _, routes = make("stochastic", rng, norm)
    some, every = layer.filters(Route(routes, 4)).data, layer.filters(Route(range(4), 4)).data
    assert (some[[1, 3]] == 0).all() and np.array_equal(some[[0, 2]], every[[0, 2]]) and (every != 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_used_set_with_gradient_zero_counts_as_used(norm, rng):
    layer, x, routes = make("stochastic", rng, norm, bank_affine=True)
    (layer(Tensor(x), routes) * 0.0).sum().backward()
    for name, p in layer.named_parameters():
        assert (p.grad.data == 0).all() and p.grad.rows.tolist() == [True, False, True, False], name


def test_gradients_of_two_passes_add_up_and_so_do_their_used_sets(rng):
    layer, x, _ = make("stochastic", rng)
    both = []
    for routes in ([0, 0, 2], [2, 3, 3]):
        layer.zero_grad()
        (layer(Tensor(x), routes) ** 2.0).sum().backward()
        both.append(layer.weight.grad.data)
    layer.zero_grad()
    for routes in ([0, 0, 2], [2, 3, 3]):
        (layer(Tensor(x), routes) ** 2.0).sum().backward()
    assert np.allclose(layer.weight.grad.data, both[0] + both[1], rtol=0, atol=1e-12)
    assert layer.weight.grad.rows.tolist() == [True, False, True, True]


def test_shared_parameters_of_a_bank_and_banks_of_one_have_no_unused_sets(rng):
    layer, x, routes = make("stochastic", rng, "affine")
    layer(Tensor(x), routes).sum().backward()
    assert layer.gain.grad.rows is None and layer.bias.grad.rows is None
    plain, x, _ = make("deconv", rng, "affine")
    plain(Tensor(x)).sum().backward()
    assert plain.weight.grad.rows is None


@pytest.mark.parametrize("routes, message", [
    (None, "needs routes"), ([0, 1], "3 integers"), ([0, 1, 4], r"\[0, 4\)"), ([0, -1, 1], r"\[0, 4\)"),
    ([0.0, 1.0, 2.0], "3 integers"),
])
def test_wrong_routes(routes, message, rng):
    layer, x, _ = make("stochastic", rng)
    with pytest.raises(TinyganError, match=message):
        layer(Tensor(x), routes)


# ---- scale of the outputs ----------------------------------------------------------------------------------------


def spread(layer, x, routes=None, cut=0):
    y = call(layer, Tensor(x), routes).data
    return y[..., cut:y.shape[-2] - cut, cut:y.shape[-1] - cut].std() if y.ndim == 4 else y.std()


@pytest.mark.parametrize("norm", ["strict", "affine"])
def test_unit_variance_in_unit_variance_out(norm, rng):
    """Over many channels and pixels. Pixels at the border of an image see fewer taps and are cut off."""
    options = {"norm": norm, "rng": rng}

    def noise(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    assert spread(Linear(64, 96, **options), noise(256, 64)) == pytest.approx(1, abs=0.03)
    assert spread(Conv2d(16, 32, 4, stride=2, **options), noise(16, 16, 18, 18)) == pytest.approx(1, abs=0.03)
    deconv = ConvTranspose2d(16, 32, 4, stride=2, padding=1, **options)
    assert spread(deconv, noise(16, 16, 9, 9), cut=2) == pytest.approx(1, abs=0.03)
    wide = ConvTranspose2d(16, 32, (4, 6), stride=(2, 3), **options)
    assert spread(wide, noise(16, 16, 9, 9), cut=6) == pytest.approx(1, abs=0.03)
    bank = StochasticConvTranspose2d(16, 32, 4, bank=4, stride=2, padding=1, **options)
    assert spread(bank, noise(16, 16, 9, 9), routes=[0, 1, 2, 3] * 4, cut=2) == pytest.approx(1, abs=0.03)


def test_the_transposed_layers_norm_counts_a_quarter_of_the_taps(rng):
    """Without the factor 1 / (s_h s_w) the spread of the same layer would be a half."""
    layer = ConvTranspose2d(16, 32, 4, stride=2, padding=1, norm="strict", rng=rng)
    x = rng.standard_normal((16, 16, 9, 9), dtype=np.float32)
    with_factor = spread(layer, x, cut=2)
    layer.norm_scale = 1.0
    assert spread(layer, x, cut=2) == pytest.approx(with_factor / 2, rel=1e-3)


# ---- initial weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_layer, fan_in", [
    (lambda rng, **o: Linear(50, 60, **o, rng=rng), 50),
    (lambda rng, **o: Conv2d(8, 16, (3, 4), **o, rng=rng), 8 * 12),
    (lambda rng, **o: ConvTranspose2d(8, 16, (3, 4), **o, rng=rng), 8 * 12),
    (lambda rng, **o: StochasticConvTranspose2d(8, 16, 4, bank=3, **o, rng=rng), 8 * 16),
])
@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_initial_weights_are_uniform_up_to_one_over_root_of_inputs(make_layer, fan_in, factor, rng):
    weight = make_layer(rng, init_factor=factor).weight.data
    bound = factor / math.sqrt(fan_in)
    assert weight.dtype == np.float32
    assert 0.98 * bound < abs(weight).max() <= bound * (1 + 1e-6)
    assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert abs(weight.mean()) < 0.05 * bound


def test_sets_of_a_bank_start_different(rng):
    weight = StochasticConvTranspose2d(2, 3, 4, bank=3, rng=rng).weight.data
    assert not np.isclose(weight[0], weight[1]).any() and not np.isclose(weight[1], weight[2]).any()


def test_bank_order_changes_memory_alone(rng):
    weight = rng.standard_normal((2, 3, 5, 4, 2))
    ordered = bank_order(weight)
    assert np.array_equal(ordered, weight) and ordered.transpose(0, 1, 3, 4, 2).flags.c_contiguous


@pytest.mark.parametrize("call_it, message", [
    (lambda rng: Linear(2, 3, norm="batch", rng=rng), "unknown weight normalisation 'batch': use one of strict, aff"),
    (lambda rng: Conv2d(0, 3, 4, rng=rng), "every size must be 1 or more"),
    (lambda rng: StochasticConvTranspose2d(2, 3, 4, bank=0, rng=rng), "every size must be 1 or more"),
])
def test_wrong_settings(call_it, message, rng):
    with pytest.raises(TinyganError, match=message) as caught:
        call_it(rng)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_float32_stays_float32(kind, norm, rng):
    layer, x, routes = make(kind, rng, norm)
    layer.to(lambda a: a.astype(np.float32))
    x = Tensor(x.astype(np.float32), requires_grad=True)
    y = call(layer, x, routes)
    (y * y).mean().backward()
    assert {y.dtype, x.grad.dtype, *(p.grad.dtype for p in layer.parameters())} == {np.dtype(np.float32)}


# ---- PReLU and TPReLU --------------------------------------------------------------------------------------------


def plain_tprelu(x, a, t):
    """f(x) = PReLU_a(x - t) + t, one number at a time; a and t are per channel."""
    y = np.empty_like(x)
    for index in np.ndindex(x.shape):
        u = x[index] - t[index[1]]
        y[index] = (u if u > 0 else a[index[1]] * u) + t[index[1]]
    return y


def away_from(kinks, rng, shape):
    """Numbers at least 0.1 from the kink of their channel."""
    u = rng.standard_normal(shape)
    return u + 0.1 * np.sign(u) + np.reshape(kinks, (1, -1) + (1,) * (len(shape) - 2))


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 2)])
def test_tprelu(shape, rng):
    act = TPReLU(3, dtype=np.float64)
    assert act.slope.data.tolist() == [[0.2] * 3] and act.shift.data.tolist() == [[0.0] * 3]
    a, t = np.array([0.1, 0.5, 0.9]), np.array([-0.3, 0.0, 0.4])
    act.slope.data[0], act.shift.data[0] = a, t
    x = away_from(t, rng, shape)
    assert np.allclose(act(Tensor(x)).data, plain_tprelu(x, a, t), rtol=0, atol=1e-14)
    function, values = with_parameters(act)
    check_grads(function, [x, *values], name="TPReLU")


def test_prelu_has_no_shift(rng):
    act = PReLU(3, slope=0.25, dtype=np.float64)
    assert [name for name, _ in act.named_parameters()] == ["slope"]
    x = away_from([0, 0, 0], rng, (4, 3))
    assert np.allclose(act(Tensor(x)).data, np.where(x > 0, x, 0.25 * x), rtol=0, atol=1e-15)
    function, values = with_parameters(act)
    check_grads(function, [x, *values], name="PReLU")


@pytest.mark.parametrize("bank", [1, 2])
def test_a_clamped_slope_acts_as_its_bound_and_gets_no_gradient(bank, rng):
    act = TPReLU(3, bank=bank, clamp="forward", dtype=np.float64)
    act.slope.data[:] = [-0.5, 0.5, 1.5]
    x = -1 - rng.random((4, 3))  # all below the kink
    routes = [0, 1, 1, 0] if bank == 2 else None
    y = act(Tensor(x), routes)
    y.sum().backward()
    assert np.allclose(y.data, x * [0, 0.5, 1.0])
    assert (act.slope.grad.data[:, [0, 2]] == 0).all() and (act.slope.grad.data[:, 1] < 0).all()


def test_a_projected_slope_returns_to_its_bound_and_keeps_its_gradient():
    act = TPReLU(2, shift=False, dtype=np.float64)
    optimizer = RMSprop(act.named_parameters(), lr=10.0)
    x = Tensor(-np.ones((4, 2)))
    (act(x) * Tensor(np.array([1.0, -1.0]))).sum().backward()
    optimizer.step()
    assert act.slope.data.tolist() == [[1.0, 0.0]]  # thrown out on either side, and put on the bounds
    act.zero_grad()
    act(x).sum().backward()
    assert (act.slope.grad.data != 0).all()
    with pytest.raises(TinyganError, match="clamp"):
        TPReLU(2, clamp="sometimes")


def test_an_unclamped_slope_may_leave_the_interval():
    act = TPReLU(2, clamp="none", dtype=np.float64)
    act.slope.data[:] = [-0.5, 1.5]
    y = act(Tensor([[-1.0, -2.0]]))
    y.sum().backward()
    assert np.allclose(y.data, [[0.5, -3.0]]) and np.allclose(act.slope.grad.data, [[-1.0, -2.0]])


@pytest.mark.parametrize("shift", [True, False])
def test_activation_of_each_set(shift, rng):
    act = TPReLU(3, bank=4, shift=shift, dtype=np.float64)
    act.slope.data[:] = rng.uniform(0.05, 0.95, (4, 3))
    t = np.zeros((4, 3))
    if shift:
        act.shift.data[:] = t = rng.uniform(-0.5, 0.5, (4, 3))
    x = np.concatenate([away_from(t[k], rng, (1, 3, 2, 2)) for k in ROUTES])
    expected = [plain_tprelu(x[n:n + 1], act.slope.data[k], t[k]) for n, k in enumerate(ROUTES)]
    assert np.allclose(act(Tensor(x), ROUTES).data, np.concatenate(expected), rtol=0, atol=1e-14)
    act(Tensor(x), ROUTES).sum().backward()
    for p in act.parameters():
        assert p.bank and p.grad.rows.tolist() == [True, False, True, False] and (p.grad.data[[1, 3]] == 0).all()
    function, values = with_parameters(act, ROUTES)
    check_grads(function, [x, *values], name="TPReLU of a bank")


def test_activation_of_each_set_needs_routes(rng):
    with pytest.raises(TinyganError, match="needs routes"):
        TPReLU(3, bank=2)(Tensor(np.zeros((2, 3), np.float32)))


@pytest.mark.parametrize("bank", [1, 2])
def test_at_the_kink_the_lower_slope_is_used(bank):
    """x = t: the same choice whether one slope serves all samples or every set has its own."""
    act = TPReLU(2, bank=bank, dtype=np.float64)
    act.shift.data[:] = [0.0, 0.7]
    x = Tensor(np.array([[0.0, 0.7]]), requires_grad=True)
    y = act(x, [1] if bank == 2 else None)
    assert np.allclose(y.data, [[0.0, 0.7]], rtol=0, atol=1e-15)
    assert np.allclose(grad(y.sum(), [x])[0].numpy(), 0.2, rtol=0, atol=1e-12)


def test_a_strict_tprelu_stack_with_an_affine_end_is_an_ordinary_one(rng):
    """Xiang & Li's claim: with slopes at 0 a strict, translated stack under one affine layer equals linear + ReLU."""
    strict = Linear(4, 3, norm="strict", rng=rng, dtype=np.float64, eps=0.0)
    act = TPReLU(3, slope=0.0, dtype=np.float64)
    act.shift.data[:] = rng.standard_normal(3)
    last = Linear(3, 2, norm="affine", rng=rng, dtype=np.float64, eps=0.0)
    x = rng.standard_normal((6, 4))
    w = strict.weight.data[0, :, :, 0, 0]
    w = w / np.sqrt((w * w).sum(1, keepdims=True))
    v = last.weight.data[0, :, :, 0, 0]
    v = v / np.sqrt((v * v).sum(1, keepdims=True))
    t = act.shift.data[0]
    hidden = ops.relu(Tensor(x @ w.T - t)).data  # an ordinary layer with bias -t ...
    expected = hidden @ v.T + v @ t  # ... under one whose bias takes the translation in
    assert np.allclose(last(act(strict(Tensor(x)))).data, expected, rtol=0, atol=1e-13)


# ---- filters shared within `normalized` --------------------------------------------------------------------------


class TwoLayers(Module):
    """A stochastic layer and a convolution, with an activation that has no filters between them."""

    def __init__(self, norm="strict"):
        rng = np.random.default_rng(0)
        self.first = StochasticConvTranspose2d(3, 4, 4, bank=3, stride=2, padding=1, norm=norm, rng=rng, dtype=float)
        self.act = TPReLU(4, dtype=float)
        self.second = Conv2d(4, 2, 3, padding=1, norm=norm, rng=rng, dtype=float)

    def forward(self, x, routes):
        return self.second(self.act(self.first(x, routes)))


def gradients_of(net, routes, calls, *, shared, rows=True):
    x = Tensor(np.random.default_rng(1).standard_normal((4, 3, 5, 5)))
    net.zero_grad()
    with normalized(net, np.array(routes)[:, None] if rows else None) if shared else contextlib.nullcontext():
        loss = sum(((net(x * float(k + 1), routes) ** 2).mean() for k in range(calls)), Tensor(0.0))
        loss.backward()
    return loss.item(), {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("norm", ["strict", "affine", "none"])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("rows", [True, False])
def test_sharing_normalised_filters_changes_no_gradient(norm, calls, rows):
    routes = [2, 0, 2, 2]
    wanted, given = (gradients_of(TwoLayers(norm), routes, calls, shared=shared, rows=rows) for shared in (False, True))
    assert wanted[0] == pytest.approx(given[0], rel=1e-14)
    for name, g in wanted[1].items():
        np.testing.assert_allclose(given[1][name].data, g.data, rtol=1e-10, atol=1e-14)
    assert given[1]["first.weight"].rows.tolist() == [True, False, True]
    assert not given[1]["first.weight"].data[1].any()


def test_filters_are_normalised_once_however_often_the_net_is_called(monkeypatch):
    from tinygan.kernels.base import Kernels

    calls = []
    for name in ("normalize_all", "normalize_dx_all"):
        real = getattr(Kernels, name)
        monkeypatch.setattr(Kernels, name, lambda self, jobs, name=name, real=real: (
            calls.append((name, len(jobs))) or real(self, jobs)))
    gradients_of(TwoLayers(), [0, 1, 2, 0], 3, shared=True)
    assert calls == [("normalize_all", 2), ("normalize_dx_all", 2)]


def test_gradients_add_up_over_several_contexts():
    net, x = TwoLayers(), Tensor(np.random.default_rng(1).standard_normal((2, 3, 5, 5)))
    for routes in ([0, 0], [2, 1]):
        with normalized(net, np.array(routes)[:, None]):
            net(x, routes).sum().backward()
    both = net.first.weight.grad
    assert both.rows.tolist() == [True, True, True] and all(both.data[k].any() for k in range(3))


def test_a_frozen_net_takes_part_and_gets_no_gradient():
    net, x = TwoLayers(), Tensor(np.random.default_rng(1).standard_normal((2, 3, 5, 5)), requires_grad=True)
    with frozen(net), normalized(net, np.array([[0], [1]])):
        net(x, [0, 1]).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in net.parameters())


def test_a_second_way_to_the_weights_is_refused_inside():
    net, x = TwoLayers(), Tensor(np.ones((1, 3, 2, 2)))
    with normalized(net, np.array([[0]])):
        loss = net(x, [0]).sum()
        with pytest.raises(GraphError, match="is not recorded inside `normalized`"):
            grad(loss, [net.first.weight])
    assert grad(net(x, [0]).sum(), [net.first.weight])[0].data.any()


def test_an_error_inside_leaves_the_layers_as_they_were():
    net = TwoLayers()
    with pytest.raises(KeyError), normalized(net, np.array([[0]])):
        raise KeyError
    assert net.first.given is None and not net.first.weight.detached and net.first.weight.grad is None


def test_routes_that_were_not_announced_are_refused():
    net, x = TwoLayers(), Tensor(np.ones((2, 3, 2, 2)))
    with normalized(net, np.array([[0], [1]])):
        net(x, [1, 0])
        with pytest.raises(GraphError, match=r"routes to sets \[2\], which the routes given to `normalized` left out"):
            net(x, [0, 2])
    with normalized(net):  # all sets
        net(x, [0, 2])


def test_a_net_may_be_frozen_within_the_context_as_well():
    net, x = TwoLayers(), Tensor(np.ones((1, 3, 2, 2)), requires_grad=True)
    with normalized(net, np.array([[0]])):
        with frozen(net):
            net(x, [0]).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in net.parameters())


def test_contexts_may_be_nested():
    net, x = TwoLayers(), Tensor(np.random.default_rng(1).standard_normal((1, 3, 4, 4)))
    wanted = gradients = None
    for inner in (False, True):
        net.zero_grad()
        with normalized(net, np.array([[0]])):
            loss = net(x, [0]).sum()
            if inner:
                with normalized(net, np.array([[2]])):
                    net(x, [2])
            loss.backward()
        wanted, gradients = gradients, {name: p.grad.data for name, p in net.named_parameters()}
    for name, g in gradients.items():
        np.testing.assert_array_equal(g, wanted[name])
