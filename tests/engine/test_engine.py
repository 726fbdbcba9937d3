"""The engine: which gradients arrive, what is kept alive, what is written to, and what is said when it goes wrong."""

import gc
import inspect
import os
import re
import weakref

import numpy as np
import pytest

from tinygan import Tensor, anomaly, check_grads, frozen, grad, no_grad, ops, primitive, profile
from tinygan.engine.debug import AnomalyError
from tinygan.engine.tensor import PRIMITIVES
from tinygan.errors import GraphError


def leaf(*values, **options) -> Tensor:
    return Tensor(np.array(values, float), requires_grad=True, **options)


def one_line(problem) -> str:
    message = str(problem.value)
    assert message and "\n" not in message and len(message.replace(os.path.dirname(__file__), "")) < 300
    return message


# ---- graphs --------------------------------------------------------------------------------------------------------


def test_diamond():
    x = leaf(2.0, 3.0)
    a, b = x * x, ops.sin(x)
    (a * b).sum().backward()
    np.testing.assert_allclose(x.grad.data, 2 * x.data * np.sin(x.data) + x.data ** 2 * np.cos(x.data))


def test_a_tensor_used_five_times():
    x = leaf(2.0)
    (x * x * x + x / x + x).sum().backward()
    np.testing.assert_allclose(x.grad.data, [3 * 4 + 1])
    y = leaf(2.0)
    (y + y + y + y + y).sum().backward()
    assert y.grad.data.tolist() == [5]


def test_two_backward_calls_add_up_and_intermediates_keep_no_gradient():
    x = leaf(1.0, 2.0)
    middle = x * x
    loss = middle.sum()
    loss.backward()
    loss.backward()
    assert x.grad.data.tolist() == [4, 8]
    assert middle.grad is None and loss.grad is None
    (3 * x).sum().backward()
    assert x.grad.data.tolist() == [7, 11]


def test_detach_and_no_grad_stop_gradients():
    x = leaf(2.0)
    (x * (x * x).detach()).sum().backward()
    assert x.grad.data.tolist() == [4]
    with no_grad():
        y = x * x
    assert not y.requires_grad
    with pytest.raises(GraphError) as problem:
        y.sum().backward()
    assert "constants" in one_line(problem)
    assert (x * x).requires_grad, "recording goes on after no_grad"


def test_no_grad_ends_when_an_error_leaves_it():
    x = leaf(2.0)
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert (x * x).requires_grad


def test_fifty_thousand_operations_deep():
    x = leaf(1.0)
    y = x
    for _ in range(25_000):
        y = y + 1e-4 * x  # two operations
    y.sum().backward()
    np.testing.assert_allclose(x.grad.data, [3.5])


def test_forty_diamonds_visit_each_tensor_once():
    visits = []

    @primitive
    def half(a: Tensor):
        def vjp(g, y):
            visits.append(1)
            return g * 0.5
        return a.data * 0.5, (vjp,)

    x = leaf(1.0)
    y = x
    for _ in range(40):
        y = half(y)
        y = y + y  # 2 ** 40 paths
    y.sum().backward()
    assert x.grad.data.tolist() == [1] and len(visits) == 40


def test_grad_for_tensors_in_the_middle_and_for_unreachable_ones():
    x, other = leaf(1.0, 2.0), leaf(1.0, 1.0, 1.0)
    middle = x * x
    loss = (middle * middle).sum() + middle.sum()
    at_middle, at_x, at_other, at_loss = grad(loss, [middle, x, other, loss])
    np.testing.assert_allclose(at_middle.data, 2 * middle.data + 1)
    np.testing.assert_allclose(at_x.data, (2 * middle.data + 1) * 2 * x.data)
    assert at_other.data.tolist() == [0, 0, 0] and at_loss.item() == 1
    assert x.grad is None, "grad() leaves .grad alone"
    assert grad(Tensor(3.0), [x])[0].data.tolist() == [0, 0]


def test_backward_with_a_gradient_given():
    x = leaf(1.0, 2.0)
    (x * x).backward([1.0, 10.0])
    assert x.grad.data.tolist() == [2, 40]


def test_a_leaf_can_be_its_own_output():
    x = Tensor(3.0, requires_grad=True)
    x.backward()
    assert x.grad.item() == 1 and x.grad.shape == ()


# ---- frozen --------------------------------------------------------------------------------------------------------


def counting_product():
    calls = []

    @primitive
    def product(x: Tensor, weight: Tensor):
        def at_weight(g, y):
            calls.append("weight")
            return g * x
        return x.data * weight.data, (lambda g, y: g * weight, at_weight)

    return product, calls


def test_frozen_parameters_cost_nothing_and_gradients_pass_through():
    product, calls = counting_product()
    x, weight = leaf(2.0), leaf(5.0)
    with frozen(weight):
        loss = product(x, weight).sum()
    loss.backward()
    assert x.grad.data.tolist() == [5] and weight.grad is None and calls == []
    assert weight.requires_grad, "thawed afterwards"
    product(x, weight).sum().backward()
    assert weight.grad.data.tolist() == [2] and calls == ["weight"]


def test_frozen_takes_modules_and_leaves_frozen_ones_frozen():
    class Net:
        def __init__(self):
            self.a, self.b = leaf(1.0), Tensor([1.0])

        def parameters(self):
            return [self.a, self.b]

    net = Net()
    with frozen(net), frozen(net, net.a):
        assert not net.a.requires_grad
    assert net.a.requires_grad and not net.b.requires_grad


def test_rules_that_lead_nowhere_wanted_are_not_called():
    product, calls = counting_product()
    x, weight = leaf(2.0), leaf(5.0)
    grad(product(x, weight).sum(), [x])
    assert calls == []


# ---- memory --------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def deep_net(x):
    a = ops.tanh(x * x)
    b = ops.softplus(a) / (ops.sqrt(a * a + 1.0) + ops.exp(a))
    c = ops.maximum(b, 0.1) @ ops.transpose(a)
    d = ops.concatenate([c[0:1], ops.log_softmax(c), ops.absolute(c)])
    return [a, b, c, d, d.mean()]


def test_reference_counting_alone_frees_the_graph(without_gc):
    x = Tensor(np.linspace(0.1, 1, 6).reshape(2, 3), requires_grad=True)
    tensors = deep_net(x)
    watched = [weakref.ref(t) for t in tensors]
    tensors[-1].backward()
    del tensors
    assert [w() for w in watched] == [None] * len(watched)


def test_reference_counting_frees_a_graph_that_was_differentiated_twice(without_gc):
    x = Tensor(np.linspace(0.1, 1, 6).reshape(2, 3), requires_grad=True)
    tensors = deep_net(x)
    gradient, = grad(tensors[-1], [x], create_graph=True)
    penalty = (gradient * gradient).sum()
    watched = [weakref.ref(t) for t in (*tensors, gradient, penalty)]
    penalty.backward()
    del tensors, gradient, penalty
    assert [w() for w in watched] == [None] * len(watched)
    assert x.grad is not None and not x.grad._edges


def test_no_grad_keeps_nothing_alive(without_gc):
    x = leaf(1.0)
    with no_grad():
        middle = x * 2.0
        y = middle + 1.0
    watched = weakref.ref(middle)
    del middle
    assert watched() is None and y.data.tolist() == [3]


# ---- aliasing ------------------------------------------------------------------------------------------------------


def no_two_share(*arrays):
    return not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


@pytest.mark.parametrize("make", [
    lambda p, q: p + q,
    lambda p, q: p.reshape(6) + q.reshape(6),
    lambda p, q: p.T.T + q[::-1][::-1],
    lambda p, q: ops.concatenate([p, q], axis=1)[:, ::2],
    lambda p, q: ops.concatenate([p, p, q]),
    lambda p, q: (p + q).sum(axis=1),
    lambda p, q: ops.broadcast_to(p, shape=(2, 2, 3)) + q,
], ids=["sum", "reshape", "views", "concatenate", "used twice", "broadcast gradient", "broadcast"])
def test_every_gradient_is_its_own_writable_array(make):
    p, q = (Tensor(np.ones((2, 3)) * k, requires_grad=True) for k in (1, 2))
    y = make(p, q)
    seed = np.arange(y.size, dtype=float).reshape(y.shape)
    kept = seed.copy()
    y.backward(seed)
    assert no_two_share(p.grad.data, q.grad.data, seed, p.data, q.data)
    before = q.grad.data.copy()
    p.grad.data[...] = 99.0
    assert np.array_equal(q.grad.data, before) and np.array_equal(seed, kept)
    held = q.grad.data
    y.backward(seed)
    assert np.array_equal(held, before), "a second backward writes to a new array"
    assert np.array_equal(q.grad.data, 2 * before) and np.array_equal(seed, kept)


def test_a_seed_tensor_is_not_handed_out():
    p, seed = leaf(1.0, 2.0), Tensor([3.0, 4.0])
    p.reshape(2).backward(seed)
    p.grad.data[...] = 0
    assert seed.data.tolist() == [3, 4]


def test_the_callers_array_is_the_tensors_array_and_is_never_written():
    array = np.ones(3)
    x = Tensor(array, requires_grad=True)
    assert x.data is array
    array.flags.writeable = False
    (x * x).sum().backward()
    assert array.tolist() == [1, 1, 1] and x.grad.data.flags.writeable


# ---- higher orders -------------------------------------------------------------------------------------------------


def test_third_and_fourth_derivative():
    x = leaf(0.3, 1.2)
    y = ops.sin(x) * x
    for _ in range(4):
        y, = grad(y.sum(), [x], create_graph=True)
    np.testing.assert_allclose(y.data, x.data * np.sin(x.data) - 4 * np.cos(x.data))


def test_third_order_by_the_checker():
    assert check_grads(lambda a: ops.tanh(a) * ops.exp(a), [np.array([0.2, -0.7])], order=3, draws=1) < 1e-6


def test_gradient_penalty_against_finite_differences():
    """d/d(weights) of mean (|d out / d x| - 1)^2: a gradient through a gradient."""
    rng = np.random.default_rng(0)
    x, first, second = rng.standard_normal((4, 3)), rng.standard_normal((3, 5)), rng.standard_normal((5, 1))

    def penalty(a: Tensor, b: Tensor) -> Tensor:
        point = Tensor(x, requires_grad=True)
        slope, = grad((ops.tanh(point @ a) @ b).sum(), [point], create_graph=True)
        norm = ops.sqrt((slope * slope).sum(axis=1) + 1e-12)
        return ((norm - 1.0) ** 2).mean()

    weights = [Tensor(first, requires_grad=True), Tensor(second, requires_grad=True)]
    penalty(*weights).backward()
    for i, w in enumerate(weights):
        numeric = np.zeros(w.shape)
        for at in np.ndindex(w.shape):
            ends = []
            for h in (1e-5, -1e-5):
                moved = [first.copy(), second.copy()]
                moved[i][at] += h
                ends.append(penalty(*[Tensor(m) for m in moved]).item())
            numeric[at] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(w.grad.data, numeric, rtol=1e-6, atol=1e-8)


def test_backward_records_nothing_by_itself():
    x = leaf(2.0)
    gradient, = grad((x * x).sum(), [x])
    assert not gradient.requires_grad
    gradient, = grad((x * x).sum(), [x], create_graph=True)
    assert gradient.requires_grad


# ---- changes in place, anomaly, profile ----------------------------------------------------------------------------


def test_a_change_in_place_between_forward_and_backward_is_refused():
    x, weight = leaf(1.0), leaf(2.0, name="weight")
    for wanted in ([weight], [x], [x, weight]):
        y = (x * weight).sum()
        weight.data -= 0.5
        weight.version += 1
        with pytest.raises(GraphError) as problem:
            grad(y, wanted)
        message = one_line(problem)
        assert "weight" in message and "in place" in message and "multiply" in message
    (x * weight).sum().backward()  # a new forward pass is fine


def line_of(marker: str) -> str:
    source, start = inspect.getsourcelines(inspect.currentframe().f_back)
    return f"test_engine.py:{start + next(i for i, line in enumerate(source) if marker in line)}"


def test_anomaly_mode_names_the_op_and_the_line_of_a_bad_value():
    x = leaf(1.0, 0.0, name="image")
    with np.errstate(divide="ignore"), anomaly(), pytest.raises(AnomalyError) as problem:
        y = x * 2.0
        y = 1.0 + ops.log(y)  # the bad line
        y.sum()
    message = one_line(problem)
    assert message.startswith("log gave") and "1 of 2" in message and line_of("# the bad line") in message


def test_anomaly_mode_names_the_op_and_the_line_of_a_bad_gradient():
    x = leaf(1.0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"), anomaly(), pytest.raises(AnomalyError) as problem:
        y = ops.sqrt(x)  # the root of it
        (y * 3.0).sum().backward()
    message = one_line(problem)
    assert "gradient of sqrt" in message and line_of("# the root of it") in message


def test_anomaly_mode_sees_through_operators_and_composites():
    x = leaf(1.0, 0.0)
    with np.errstate(divide="ignore"), anomaly(), pytest.raises(AnomalyError) as problem:
        y = 1.0 / x  # reflected operator
        y.sum()
    assert line_of("# reflected operator") in one_line(problem)


def test_anomaly_mode_is_quiet_when_all_is_well_and_off_afterwards():
    x = leaf(1.0, 2.0)
    with anomaly():
        ops.log(x).sum().backward()
    with np.errstate(divide="ignore"):
        assert ops.log(Tensor(0.0)).item() == -np.inf


def test_profile_prints_calls_and_milliseconds_per_op(capsys):
    x = Tensor(np.ones((50, 50)), requires_grad=True)
    with profile() as report:
        (ops.tanh(x @ x) * x).sum().backward()
    rows = {name: calls for name, calls, _ in report.rows()}
    assert rows["matmul"] == 3 and rows["tanh"] == 1
    assert [ms for *_, ms in report.rows()] == sorted((ms for *_, ms in report.rows()), reverse=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["op", "calls", "ms", "ms/call", "share"] and len(lines) == len(rows) + 1
    assert all(re.fullmatch(r"\w+ +\d+ +[\d.]+ +[\d.]+ +[\d.]+%", line) for line in lines[1:])
    calls_before = dict(report.calls)
    x @ x
    assert report.calls == calls_before, "nothing is counted after the block"
    with profile(show=False):
        x @ x
    assert capsys.readouterr().out == ""


# ---- errors and small things ---------------------------------------------------------------------------------------


def test_errors_are_one_line():
    x = leaf(1.0, 2.0, name="x")
    for bad, words in ((lambda: (x * x).backward(), "multiply (2,)"),
                       (lambda: (x * x).backward([1.0]), "shape (1,)"),
                       (lambda: Tensor([1.0]).backward(), "nothing to differentiate")):
        with pytest.raises(GraphError) as problem:
            bad()
        assert words in one_line(problem)


def test_a_rule_of_another_dtype_is_refused():
    @primitive
    def careless(a: Tensor):
        return a.data * 1, (lambda g, y: Tensor(g.data.astype(np.float32)),)

    with pytest.raises(GraphError) as problem:
        careless(leaf(1.0)).sum().backward()
    assert "careless" in one_line(problem) and "float32" in one_line(problem)


def test_what_a_tensor_is_made_of():
    assert Tensor([1, 2]).dtype == np.float64 and Tensor([True]).dtype == np.float64
    assert Tensor(np.float32(2)).dtype == np.float32 and Tensor(np.float32(2)).shape == ()
    assert Tensor(Tensor([1.0])).data.tolist() == [1]
    t = Tensor([[1.0, 2.0]], requires_grad=True)
    assert len(t) == 1 and t.ndim == 2 and t.size == 2 and t.numpy() is t.data and float(t[0, 1]) == 2
    assert repr(t) == "Tensor([[1. 2.]], requires_grad=True)"
    assert [row.data.tolist() for row in t] == [[1, 2]]
    assert bool(Tensor(1.0)) and not bool(Tensor(0.0))


def test_rows_of_two_uses_are_united():
    """A gradient's `rows` names the filter sets that took part: two uses give the union, one unmarked use all."""
    def marked(rows):
        @primitive
        def use(a: Tensor):
            def vjp(g, y):
                out = g * 1.0
                out.rows = None if rows is None else np.array(rows)
                return out
            return a.data * 1.0, (vjp,)
        return use

    bank = leaf(1.0, 2.0, 3.0)
    (marked([True, False, False])(bank) + marked([False, False, True])(bank)).sum().backward()
    assert bank.grad.rows.tolist() == [True, False, True]
    marked([False, True, False])(bank).sum().backward()
    assert bank.grad.rows.tolist() == [True, True, True]
    bank.grad = None
    (marked([True, False, False])(bank) + marked(None)(bank)).sum().backward()
    assert bank.grad.rows is None


def test_a_primitive_of_another_form_is_refused_with_its_name():
    def build(result):
        def mine(a, b):
            return result(a, b)
        op = primitive(mine)
        del PRIMITIVES["mine"]
        return op

    x = leaf(1.0, 2.0)
    for result in (lambda a, b: a.data * b.data, lambda a, b: (a.data, lambda g, y: g), lambda a, b: (a.data, ()),
                   lambda a, b: (a.data * b.data, (lambda g, y: g,)), lambda a, b: None):
        with pytest.raises(GraphError, match="mine must return an array and a tuple of 2 rules") as problem:
            build(result)(x, x)
        one_line(problem)
    array = build(lambda a, b: (a.data * b.data, (lambda g, y: g.data * b.data, None)))
    with pytest.raises(GraphError, match="the rule of mine made ndarray .2,.: write it with operations") as problem:
        array(x, x).sum().backward()
    one_line(problem)
