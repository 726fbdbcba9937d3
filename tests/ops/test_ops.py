"""Every primitive against NumPy and finite differences, to second order; kinks, extremes, operators and dtypes."""

import sys
import types

import numpy as np
import pytest
from op_cases import CASES, OURS

from tinygan import Tensor, check_grads, grad, ops
from tinygan.errors import GraphError


def test_every_primitive_has_a_case(capsys):
    assert sorted({c.op for c in CASES}) == OURS
    with capsys.disabled():
        print(f"\nprimitives {len(OURS)}: order 1 checked {len(OURS)}, order 2 checked {len(OURS)}; {len(CASES)} cases")


# ---- four checks for every row of the table -----------------------------------------------------------------------

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@every_case
def test_gradients_of_first_and_second_order(case):
    assert check_grads(case, case.inputs(), order=2, name=str(case)) < 1e-6


@every_case
def test_value_is_that_of_plain_numpy(case):
    arrays = case.inputs(seed=1)
    wanted = case.plain(*arrays, **case.options)
    y = case(*[Tensor(a) for a in arrays])
    assert isinstance(y.data, np.ndarray) and y.shape == np.shape(wanted)
    np.testing.assert_allclose(y.data, wanted, rtol=1e-12, atol=1e-13)


LAYOUTS = {
    "reversed": lambda a: np.flip(np.flip(a).copy()) if a.ndim else a,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    "Fortran": lambda a: np.array(a, order="F"),
    "read-only": lambda a: a,
}


def value_and_gradients(case, arrays):
    tensors = [Tensor(a, requires_grad=True) for a in arrays]
    y = case(*tensors)
    seed = np.random.default_rng(5).standard_normal(y.shape).astype(y.dtype)
    return [y.data] + [g.data for g in grad(y, tensors, seed=seed)]


@every_case
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_order_changes_nothing(case, layout):
    arrays = case.inputs(seed=2)
    laid_out = [LAYOUTS[layout](a.copy()) for a in arrays]
    for a in laid_out:
        a.flags.writeable = False
    got, wanted = value_and_gradients(case, laid_out), value_and_gradients(case, arrays)
    for a, b in zip(got, wanted, strict=True):
        summed = len(arrays) > 1 and a.shape != got[0].shape  # a broadcast input: its gradient is a sum
        if layout == "read-only" or (case.exact and not summed):
            assert np.array_equal(a, b), "not the same bits"
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)
    for a, b in zip(laid_out, arrays, strict=True):
        assert np.array_equal(a, b), "an input was written to"


@every_case
def test_gradients_of_strided_inputs(case):
    for layout in ("reversed", "strided"):
        check_grads(case, [LAYOUTS[layout](a) for a in case.inputs(seed=3)], order=2, draws=2, name=str(case))


@every_case
def test_float32_stays_float32(case):
    tensors = [Tensor(a, requires_grad=True) for a in case.inputs(dtype=np.float32)]
    y = case(*tensors) if case.op != "astype" else ops.astype(*tensors, dtype=np.float32)
    assert y.dtype == np.float32
    first = grad(y, tensors, create_graph=True, seed=np.ones(y.shape, np.float32))
    assert {g.dtype for g in first} == {np.dtype(np.float32)}
    for g in first:
        if g.requires_grad:
            second = grad(g, tensors, seed=np.ones(g.shape, np.float32))
            assert {h.dtype for h in second} == {np.dtype(np.float32)}


# ---- composites --------------------------------------------------------------------------------------------------


def plain_log_softmax(a, axis=-1):
    return a - np.log(np.exp(a).sum(axis=axis, keepdims=True))


GRID = (np.random.default_rng(4).permutation(24) - 11.75).reshape(2, 3, 4) * 0.21
HIGHER = GRID + 0.1
COMPOSITES = {
    "sum": (lambda a: a.sum(), np.sum),
    "sum of two axes": (lambda a: a.sum(axis=(0, -1)), lambda a: a.sum(axis=(0, -1))),
    "sum, keepdims": (lambda a: a.sum(1, keepdims=True), lambda a: a.sum(1, keepdims=True)),
    "sum over nothing": (lambda a: a.sum(axis=()), lambda a: a.sum(axis=())),
    "sum, NumPy integer": (lambda a: a.sum(axis=np.int64(1)), lambda a: a.sum(axis=1)),
    "mean": (lambda a: a.mean(), np.mean),
    "mean of two axes": (lambda a: a.mean(axis=(1, 2)), lambda a: a.mean(axis=(1, 2))),
    "mean, keepdims": (lambda a: a.mean(-1, keepdims=True), lambda a: a.mean(-1, keepdims=True)),
    "transpose": (lambda a: a.transpose(), np.transpose),
    "transpose (2, 0, 1)": (lambda a: a.transpose((2, 0, 1)), lambda a: a.transpose(2, 0, 1)),
    "transpose 1, 2, 0": (lambda a: a.transpose(1, 2, 0), lambda a: a.transpose(1, 2, 0)),
    "T": (lambda a: a.T, lambda a: a.T),
    "reshape": (lambda a: a.reshape(4, -1), lambda a: a.reshape(4, -1)),
    "reshape tuple": (lambda a: a.reshape((6, 4)), lambda a: a.reshape(6, 4)),
    "squeeze": (lambda a: a[:1].squeeze(), lambda a: a[:1].squeeze()),
    "max": (lambda a: a.max(), np.max),
    "max along": (lambda a: a.max(axis=1), lambda a: a.max(axis=1)),
    "max, keepdims": (lambda a: a.max(axis=-1, keepdims=True), lambda a: a.max(axis=-1, keepdims=True)),
    "clip": (lambda a: a.clip(-1.0, 1.5), lambda a: a.clip(-1.0, 1.5)),
    "relu": (ops.relu, lambda a: np.maximum(a, 0)),
    "minimum": (lambda a: ops.minimum(a, HIGHER[::-1]), lambda a: np.minimum(a, HIGHER[::-1])),
    "minimum, number first": (lambda a: ops.minimum(0.5, a), lambda a: np.minimum(0.5, a)),
    "log_softmax": (ops.log_softmax, plain_log_softmax),
    "log_softmax axis 1": (lambda a: ops.log_softmax(a, 1), lambda a: plain_log_softmax(a, 1)),
    "stack": (lambda a: ops.stack([a[0], a[1] * a[0]], axis=-1), lambda a: np.stack([a[0], a[1] * a[0]], axis=-1)),
    "stack 0": (lambda a: ops.stack([a, a]), lambda a: np.stack([a, a])),
    "concatenate": (lambda a: ops.concatenate([a, a * a], 1), lambda a: np.concatenate([a, a * a], 1)),
    "index": (lambda a: a[1, ::-2, [0, 0, 3]], lambda a: a[1, ::-2, [0, 0, 3]]),
    "abs": (abs, abs),
    "1 - a": (lambda a: 1 - a, lambda a: 1 - a),
    "2 + a": (lambda a: 2 + a, lambda a: 2 + a),
    "3 * a": (lambda a: 3 * a, lambda a: 3 * a),
    "2 / a": (lambda a: 2 / a, lambda a: 2 / a),
    "a / 2": (lambda a: a / 2, lambda a: a / 2),
    "a ** 3": (lambda a: a ** 3, lambda a: a ** 3),
    "2 ** a": (lambda a: 2 ** a, lambda a: 2 ** a),
    "a ** a": (lambda a: (a * a) ** a, lambda a: (a * a) ** a),
    "-a": (lambda a: -a, lambda a: -a),
    "array * a": (lambda a: HIGHER * a, lambda a: HIGHER * a),
    "array - a": (lambda a: HIGHER - a, lambda a: HIGHER - a),
    "array / a": (lambda a: HIGHER / a, lambda a: HIGHER / a),
    "array @ a": (lambda a: HIGHER[0].T @ a, lambda a: HIGHER[0].T @ a),
    "a @ array": (lambda a: a @ HIGHER[0].T, lambda a: a @ HIGHER[0].T),
    "0-d array * a": (lambda a: np.array(2.0) * a, lambda a: 2.0 * a),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_methods_and_operators(name):
    ours, plain = COMPOSITES[name]
    y = ours(Tensor(GRID))
    assert isinstance(y, Tensor)
    np.testing.assert_allclose(y.data, plain(GRID), rtol=1e-12)
    assert y.shape == np.shape(plain(GRID))
    assert check_grads(ours, [GRID], order=2, name=name) < 1e-6
    if "array" not in name and not name.startswith("minimum"):
        single = Tensor(GRID.astype(np.float32), requires_grad=True)
        value = ours(single)
        assert value.dtype == np.float32
        assert grad(value, [single], seed=np.ones(value.shape))[0].dtype == np.float32


def test_mean_of_nothing_is_nan_and_sum_of_nothing_zero():
    assert np.isnan(Tensor(np.zeros((0, 3))).mean().item()) and Tensor(np.zeros((0, 3))).sum().item() == 0


# ---- kinks and extremes ------------------------------------------------------------------------------------------


def slopes(function, *values):
    tensors = [Tensor(np.array(v, float), requires_grad=True) for v in values]
    return [g.data.tolist() for g in grad(function(*tensors).sum(), tensors)]


def test_the_documented_slope_at_each_kink():
    assert slopes(ops.absolute, [-2, 0, -0.0, 3]) == [[-1, 0, 0, 1]]
    assert slopes(ops.maximum, [1, 2, 3], [2, 2, 2]) == [[0, 1, 1], [1, 0, 0]]
    assert slopes(ops.minimum, [1, 2, 3], [2, 2, 2]) == [[1, 1, 0], [0, 0, 1]]
    assert slopes(lambda a: ops.minimum(2.0, a), [1, 2, 3]) == [[1, 0, 0]]
    assert slopes(ops.relu, [-1, 0, 1]) == [[0, 1, 1]]
    assert slopes(lambda a: a.clip(-1, 1), [-2, -1, 0, 1, 2]) == [[0, 1, 1, 1, 0]]
    assert slopes(lambda a: a.max(axis=1), [[1, 3, 3], [2, 2, 2]]) == [[[0, 1, 0], [1, 0, 0]]]
    assert slopes(lambda a: a.max(), [1, 3, 3]) == [[0, 1, 0]]
    assert slopes(lambda a: a ** 0, [0, 2]) == [[0, 0]]
    assert slopes(lambda a: a ** 1, [0, 2]) == [[1, 1]]
    assert slopes(lambda a: a ** 2, [0, 2]) == [[0, 4]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_inputs_give_finite_values_and_right_gradients(dtype):
    x = Tensor(np.array([-1e4, 0.0, 1e4], dtype), requires_grad=True)

    def both(function, seed):
        y = function(x)
        return y.data.tolist(), grad(y, [x], seed=np.array(seed))[0].data.tolist()

    assert both(ops.sigmoid, [1, 1, 1]) == ([0, 0.5, 1], [0, 0.25, 0])
    values, gradient = both(ops.softplus, [1, 1, 1])
    assert values == [0, pytest.approx(np.log(2)), 1e4] and gradient == [0, 0.5, 1]
    assert both(ops.log_softmax, [0, 0, 1]) == ([-2e4, -1e4, 0], [0, 0, 0])
    assert both(ops.log_softmax, [1, 0, 0]) == ([-2e4, -1e4, 0], [1, 0, -1])
    assert both(ops.tanh, [1, 1, 1]) == ([-1, 0, 1], [0, 1, 0])
    second = grad(grad(ops.softplus(x).sum(), [x], create_graph=True)[0].sum(), [x])[0]
    assert second.data.tolist() == [0, 0.25, 0]


def test_small_probabilities_keep_their_digits():
    assert ops.sigmoid(Tensor(-50.0)).item() == pytest.approx(np.exp(-50), rel=1e-14)
    assert ops.softplus(Tensor(-50.0)).item() == pytest.approx(np.exp(-50), rel=1e-14)


# ---- dtypes and devices ------------------------------------------------------------------------------------------


def one_line(problem) -> str:
    message = str(problem.value)
    assert message and "\n" not in message and len(message) < 250
    return message


@pytest.mark.parametrize("scalar", [2.0, 2, True, np.float64(2), np.float32(2), np.int64(2), np.array(2.0)])
def test_a_number_of_any_type_leaves_float32_alone(scalar):
    t = Tensor(np.full((2, 3), 0.5, np.float32))
    results = [scalar * t, t * scalar, scalar + t, t - scalar, scalar - t, scalar / t, t / scalar,
               ops.maximum(scalar, t), ops.minimum(scalar, t), ops.where(t.data > 0, scalar, t), t.clip(0, scalar)]
    if np.ndim(scalar) == 0 and not isinstance(scalar, np.ndarray):
        results += [t ** scalar, scalar ** t]
    assert all(isinstance(r, Tensor) and r.dtype == np.float32 and r.shape == t.shape for r in results)


def test_numpy_functions_are_refused_rather_than_given_an_array_of_tensors():
    array, tensor = np.ones(3), Tensor(np.ones(3), requires_grad=True)
    for mix in (lambda: np.add(array, tensor), lambda: np.sin(tensor), lambda: array.__iadd__(tensor)):
        with pytest.raises(TypeError, match="does not support ufuncs"):
            mix()
    assert array.tolist() == [1, 1, 1]


def test_mixed_dtypes_are_refused_in_one_line():
    single, double = Tensor(np.ones((2, 3), np.float32), name="image"), Tensor(np.ones(3), name="bias")
    for mix in (lambda: single + double, lambda: double * single, lambda: single * np.ones(3),
                lambda: np.ones(3) * single, lambda: ops.concatenate([single, Tensor(np.ones((1, 3)))])):
        with pytest.raises(GraphError) as problem:
            mix()
        message = one_line(problem)
        assert "float32" in message and "float64" in message
    with pytest.raises(GraphError) as problem:
        single + double
    assert "image" in one_line(problem) and "bias" in one_line(problem)


class ElsewhereArray:
    """What CuPy's array looks like from outside: enough to see that it belongs to another device."""

    dtype, shape, ndim, size = np.dtype(np.float32), (2, 3), 2, 6

    def astype(self, dtype):
        return self


class ElsewhereNumber(ElsewhereArray):
    shape, ndim, size = (), 0, 1


ElsewhereArray.__module__ = ElsewhereNumber.__module__ = "cupy.fake"


def test_mixed_devices_are_refused_in_one_line_naming_both(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    here, there = Tensor(np.ones((2, 3), np.float32), name="image"), Tensor(ElsewhereArray(), name="weight")
    for mix in (lambda: here + there, lambda: there * here, lambda: here - ElsewhereArray(),
                lambda: here - ElsewhereNumber(), lambda: ops.where(True, here, there)):
        with pytest.raises(GraphError) as problem:
            mix()
        message = one_line(problem)
        assert "image" in message and "NumPy" in message and "CuPy" in message and "different devices" in message


@pytest.mark.parametrize("bad", [lambda t: t.sum(axis=5), lambda t: t.mean(axis=-3), lambda t: t.max(axis=2),
                                 lambda t: ops.stack([t, t], axis=4), lambda t: ops.concatenate([t, t], axis=2),
                                 lambda t: Tensor(1.0).sum(axis=0), lambda t: ops.matmul(t, t),
                                 lambda t: t @ np.ones(3), lambda t: Tensor(np.array(["a"])),
                                 lambda t: Tensor(1j), lambda t: Tensor(None)])
def test_bad_calls_are_answered_in_one_line(bad):
    with pytest.raises(GraphError) as problem:
        bad(Tensor(np.ones((2, 3))))
    one_line(problem)
