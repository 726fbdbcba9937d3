"""Weight normalisation, translated PReLU and the gathering of sets: the fused forms against their definitions."""

import numpy as np
import pytest

from tinygan import Tensor, check_grads, grad, ops
from tinygan.errors import GraphError
from tinygan.ops.fused import gather_sets, tprelu, weight_norm

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((3, 4, 5, 2, 3))
SOME = np.array([True, False, True])
AXES = {1: (2, 3, 4), 2: (1, 3, 4)}  # axis of the output channels: the axes of one filter


def composite_norm(w: Tensor, out_axis: int, scale: float, eps: float, rows=None) -> Tensor:
    """The definition: w / sqrt(scale sum w^2 + eps)."""
    v = w / ops.sqrt((w * w).sum(AXES[out_axis], keepdims=True) * scale + eps)
    return v if rows is None else v * Tensor(rows.reshape(-1, 1, 1, 1, 1).astype(w.dtype))


# ---- weight normalisation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, SOME], ids=["all sets", "some sets"])
@pytest.mark.parametrize("out_axis, scale", [(1, 1.0), (2, 1.0), (2, 0.25)])
def test_weight_norm_equals_its_definition_to_second_order(out_axis, scale, rows):
    fused, plain = Tensor(WEIGHT, requires_grad=True), Tensor(WEIGHT, requires_grad=True)
    u, uu = RNG.standard_normal((2, *WEIGHT.shape))
    results = []
    for w, y in ((fused, weight_norm(fused, out_axis=out_axis, scale=scale, eps=1e-3, rows=rows)),
                 (plain, composite_norm(plain, out_axis, scale, 1e-3, rows))):
        seed = Tensor(u, requires_grad=True)
        first, = grad(y, [w], create_graph=True, seed=seed)
        results.append([t.data for t in (y, first, *grad(first, [w, seed], seed=uu))])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows", [None, SOME], ids=["all sets", "some sets"])
@pytest.mark.parametrize("out_axis, scale", [(1, 1.0), (2, 0.25)])
def test_weight_norm_to_second_order(out_axis, scale, rows):
    check_grads(lambda w: weight_norm(w, out_axis=out_axis, scale=scale, rows=rows), [WEIGHT])
    check_grads(lambda w: weight_norm(w, out_axis=out_axis, scale=scale, rows=rows), [WEIGHT[:, ::-1, :, ::-1]])


@pytest.mark.parametrize("out_axis", [1, 2])
def test_every_filter_has_length_one_and_its_gradient_is_orthogonal_to_it(out_axis):
    w = Tensor(WEIGHT, requires_grad=True)
    v = weight_norm(w, out_axis=out_axis, eps=0.0)
    np.testing.assert_allclose((v.data ** 2).sum(AXES[out_axis]), 1.0)
    gradient, = grad(v, [w], seed=RNG.standard_normal(WEIGHT.shape))
    along = (gradient.data * WEIGHT).sum(AXES[out_axis])
    lengths = np.sqrt((gradient.data ** 2).sum(AXES[out_axis]) * (WEIGHT ** 2).sum(AXES[out_axis]))
    assert (abs(along) < 1e-13 * lengths).all() and (lengths > 0.1).all()


@pytest.mark.parametrize("out_axis", [1, 2])
def test_the_scale_of_a_transposed_convolution(out_axis):
    v = weight_norm(Tensor(WEIGHT), out_axis=out_axis, scale=0.25, eps=0.0)
    np.testing.assert_allclose((v.data ** 2).sum(AXES[out_axis]), 4.0)


@pytest.mark.parametrize("out_axis", [1, 2])
def test_the_length_of_a_filter_does_not_matter(out_axis):
    shape = [3, 1, 1, 1, 1]
    shape[out_axis] = WEIGHT.shape[out_axis]
    longer = RNG.uniform(0.1, 100.0, shape)
    a, b = (weight_norm(Tensor(w), out_axis=out_axis, eps=1e-20) for w in (WEIGHT, WEIGHT * longer))
    np.testing.assert_allclose(a.data, b.data, rtol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e20])
@pytest.mark.parametrize("out_axis, scale", [(1, 1.0), (2, 0.25)])
def test_values_and_gradients_are_finite_at_extreme_weights(size, out_axis, scale):
    w = Tensor(WEIGHT * size, requires_grad=True)
    y = weight_norm(w, out_axis=out_axis, scale=scale)
    first, = grad(y, [w], create_graph=True, seed=np.ones(w.shape))
    second, = grad(first, [w], seed=np.ones(w.shape))
    assert all(np.isfinite(t.data).all() for t in (y, first, second))
    if size < 1:  # eps = 1e-6 alone is under the root
        np.testing.assert_allclose(first.data, 1e3)
    else:
        np.testing.assert_allclose((y.data ** 2).sum(AXES[out_axis]), 1 / scale)


def test_sets_outside_rows_are_not_read():
    poisoned = WEIGHT.copy()
    poisoned[1] = np.nan
    w = Tensor(poisoned, requires_grad=True)
    y = weight_norm(w, out_axis=1, rows=SOME)
    assert (y.data[1] == 0).all() and np.isfinite(y.data).all()
    y.sum().backward()
    assert (w.grad.data[1] == 0).all() and np.isfinite(w.grad.data).all() and w.grad.rows.tolist() == SOME.tolist()


def test_weight_norm_keeps_float32_and_refuses_other_shapes():
    w = Tensor(WEIGHT.astype(np.float32), requires_grad=True)
    y = weight_norm(w, out_axis=2, scale=1 / 4)
    first, = grad(y, [w], create_graph=True, seed=np.ones(w.shape))
    assert y.dtype == first.dtype == grad(first.sum(), [w])[0].dtype == np.float32
    for bad in (lambda: weight_norm(w[0], out_axis=1), lambda: weight_norm(w, out_axis=0)):
        with pytest.raises(GraphError, match="expected .K, A, B, kh, kw. and out_axis 1 or 2") as problem:
            bad()
        assert "\n" not in str(problem.value)


# ---- translated PReLU --------------------------------------------------------------------------------------------


X = (RNG.permutation(48) - 23.7).reshape(2, 3, 2, 4) * 0.17
SLOPE, SHIFT = np.array([0.2, 0.0, 1.3]), np.array([0.3, 0.0, -0.4])


def composite_tprelu(x: Tensor, slope: Tensor, shift: Tensor | None = None) -> Tensor:
    """The definition: max(x - t, 0) + a min(x - t, 0) + t, with the negative side's slope at the kink."""
    a, t = (0.0 if p is None else p.reshape(1, -1, *[1] * (x.ndim - 2)) for p in (slope, shift))
    above = x - t
    return ops.where(above.data > 0, above, a * above) + t


@pytest.mark.parametrize("shift", [SHIFT, None], ids=["shift", "no shift"])
@pytest.mark.parametrize("shape", [(2, 3, 2, 4), (16, 3), (2, 3, 8)])
def test_tprelu_equals_its_definition_to_second_order(shape, shift):
    x = X.reshape(shape)
    arrays = [x, SLOPE] + ([] if shift is None else [shift])
    u = RNG.standard_normal(shape)
    results = []
    for f in (tprelu, composite_tprelu):
        tensors = [Tensor(a, requires_grad=True) for a in arrays]
        seed = Tensor(u, requires_grad=True)
        y = f(*tensors)
        first = grad(y, tensors, create_graph=True, seed=seed)
        second = grad(sum((g * g).sum() for g in first), [*tensors, seed])
        results.append([t.data for t in (y, *first, *second)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    check_grads(tprelu, arrays)


def test_tprelu_at_the_kink_uses_the_negative_side():
    x = Tensor(np.array([[0.3], [0.3 + 1e-9], [0.3 - 1e-9]]), requires_grad=True)
    slope, shift = (Tensor(np.array([v]), requires_grad=True) for v in (0.2, 0.3))
    y = tprelu(x, slope, shift)
    np.testing.assert_allclose(y.data, 0.3, atol=1e-8)
    at_x, at_slope, at_shift = grad(y, [x, slope, shift], seed=[[1.0], [10.0], [100.0]])
    np.testing.assert_allclose(at_x.data, [[0.2], [10.0], [20.0]])
    np.testing.assert_allclose(at_slope.data, [-1e-7], rtol=1e-6)  # only the entry below: 100 (x - t)
    np.testing.assert_allclose(at_shift.data, [0.8 * 101])
    zero = Tensor(np.zeros((1, 1)), requires_grad=True)
    np.testing.assert_allclose(grad(tprelu(zero, slope), [zero], seed=[[1.0]])[0].data, 0.2)


def test_tprelu_limits():
    x = Tensor(X)
    one, zero = Tensor(np.ones(3)), Tensor(np.zeros(3))
    np.testing.assert_allclose(tprelu(x, one, Tensor(SHIFT)).data, X, rtol=1e-15, atol=1e-15)
    assert np.array_equal(tprelu(x, zero).data, np.maximum(X, 0))
    np.testing.assert_allclose(tprelu(x, zero, Tensor(SHIFT)).data, np.maximum(X, SHIFT.reshape(1, 3, 1, 1)))


def test_tprelu_keeps_float32_and_refuses_other_channels():
    x, slope = Tensor(X.astype(np.float32), requires_grad=True), Tensor(SLOPE.astype(np.float32), requires_grad=True)
    y = tprelu(x, slope, Tensor(SHIFT.astype(np.float32)))
    assert {y.dtype} | {g.dtype for g in grad(y.sum(), [x, slope])} == {np.dtype(np.float32)}
    for bad in (lambda: tprelu(x, slope[:2]), lambda: tprelu(x, slope, slope[:1])):
        with pytest.raises(GraphError, match="3 channels") as problem:
            bad()
        assert "\n" not in str(problem.value)


# ---- gathering -----------------------------------------------------------------------------------------------------


def test_gather_sets_says_which_rows_took_part():
    values = Tensor(np.arange(8.0).reshape(4, 2), requires_grad=True)
    y = gather_sets(values, np.array([2, 0, 2]))
    assert y.data.tolist() == [[4, 5], [0, 1], [4, 5]]
    (y * 0.0).sum().backward()
    assert values.grad.rows.tolist() == [True, False, True, False]
    y = gather_sets(values, np.array([3]))
    y.backward([[1.0, 2.0]])
    assert values.grad.rows.tolist() == [True, False, True, True]
    assert values.grad.data.tolist() == [[0, 0], [0, 0], [0, 0], [1, 2]]
    check_grads(lambda v: gather_sets(v * v, np.array([2, 0, 2])), [values])
