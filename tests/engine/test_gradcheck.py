"""The checker checked: every planted wrong rule is caught, correct ones pass, kinks are named as such.

    python -m pytest tests/engine/test_gradcheck.py -q -s -k score     prints the score
"""

import inspect
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from op_cases import CASES, OURS
from planted import CONTROLS, PLANTED, op, passed

from tinygan import Tensor, check_grads, ops, primitive
from tinygan.engine import tensor as engine
from tinygan.engine.gradcheck import GradientError, KinkWarning
from tinygan.engine.tensor import PRIMITIVES, Rules
from tinygan.errors import GraphError, TinyganError
from tinygan.nn.module import Module, Parameter
from tinygan.ops import basic, conv, fused

SEEDS = range(4)


def caught(function, inputs, **options) -> bool:
    """Whether the checker refuses a rule. A KinkWarning does not count: it would be an error in this suite."""
    try:
        check_grads(function, inputs, **options)
    except (GradientError, GraphError) as problem:  # GraphError: the engine itself refuses a gradient's dtype
        assert str(problem) and "\n" not in str(problem)
        return True
    return False


# ---- the score ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_wrong_rule_is_caught_for_every_seed(name):
    assert all(caught(*PLANTED[name], seed=seed, name=name) for seed in SEEDS)


@pytest.mark.parametrize("name", CONTROLS)
def test_each_correct_control_passes_for_every_seed(name):
    assert all(check_grads(*CONTROLS[name], seed=seed, name=name) < 1e-6 for seed in range(10))


def test_score(capsys):
    found = sum(caught(*plant) for plant in PLANTED.values())
    false = sum(caught(*control) for control in CONTROLS.values())
    killed, mutants = package_mutants()
    with capsys.disabled():
        print(f"\nwrong rules caught / planted: {found} / {len(PLANTED)}"
              f"\nfalse alarms / correct controls: {false} / {len(CONTROLS)}"
              f"\nrules of the package made wrong, noticed by the op table: {killed} / {mutants}")
    assert found == len(PLANTED) >= 36 and false == 0 and len(CONTROLS) >= 15
    assert killed == mutants > 150


def multiply_at_once(rule_factor: float, together_factor: float):
    @primitive
    def times(a: Tensor, b: Tensor):
        rules = (lambda g, y: g * b * rule_factor, lambda g, y: g * a)
        return a.data * b.data, Rules(rules, lambda g: [g.data * b.data * together_factor, g.data * a.data])

    del PRIMITIVES["times"]
    return times


def test_gradients_computed_at_once_are_checked_and_so_are_the_rules_beside_them():
    arrays = [np.array([0.5, -1.0]), np.array([2.0, 3.0])]
    check_grads(multiply_at_once(1.0, 1.0), arrays)
    for factors in ((1.0, 1.1), (1.1, 1.0)):
        with pytest.raises(GradientError, match="order-1 gradient of input 0"):
            check_grads(multiply_at_once(*factors), arrays)


# ---- wrong rules planted into the package --------------------------------------------------------------------------


def table_notices(name: str) -> bool:
    return any(caught(case, case.inputs()) for case in CASES if case.op == name)


@contextmanager
def wrong_rule(name: str, place: int, change):
    """Primitive `name` of the package with its rule number `place` changed."""
    apply = PRIMITIVES[name]
    cell = apply.__closure__[apply.__code__.co_freevars.index("function")]
    right = cell.cell_contents

    def function(*inputs, **options):
        value, rules = right(*inputs, **options)
        if place < len(rules) and rules[place] is not None:
            rules = (*rules[:place], change(rules[place]), *rules[place + 1:])
        return value, rules

    cell.cell_contents = function
    try:
        yield
    finally:
        cell.cell_contents = right


CHANGES = {
    "scaled by 1.001": lambda rule: lambda g, y: rule(g, y) * 1.001,
    "sign": lambda rule: lambda g, y: -rule(g, y),
    "dropped": lambda rule: None,
}


def places_with_a_rule(name: str) -> list[int]:
    """Which inputs of this primitive have a rule."""
    places = []
    for place in range(4):
        seen = []
        with wrong_rule(name, place, lambda rule, seen=seen: seen.append(rule) or rule):
            for case in CASES:
                if case.op == name:
                    case(*[Tensor(a) for a in case.inputs()])
        places += [place] if seen else []
    return places


def package_mutants() -> tuple[int, int]:
    killed = total = 0
    for name in OURS:
        for place in places_with_a_rule(name):
            for change in CHANGES.values():
                with wrong_rule(name, place, change):
                    killed += table_notices(name)
                    total += 1
    return killed, total


def overwriting_put(g: Tensor, *, index, shape) -> Tensor:
    out = np.zeros(shape)
    out[index] = g.data
    return Tensor(out)


# What a slip of the pen in one of the package's own lines would do: (module, name, the slip, primitive that fails).
SLIPS = {
    "sine for cosine": (basic, "cos", ops.sin, "sin"),
    "minus forgotten": (basic, "negative", lambda a: a, "subtract"),
    "tanh for sigmoid": (basic, "sigmoid", ops.tanh, "softplus"),
    "reshaped, not transposed": (basic, "_swapped", lambda a: ops.reshape(
        a, shape=(*a.shape[:-2], a.shape[-1], a.shape[-2])), "matmul"),
    "put that overwrites": (basic, "put", overwriting_put, "getitem"),
    "un-broadcast by the mean": (engine, "sum_to", lambda g, *, shape: ops.sum_to(g, shape=shape) * (
        np.prod(shape) / g.size), "add"),
    "mask of the other side": (fused, "_below", lambda x, shift: 1.0 - right_below(x, shift), "tprelu_dslope"),
    "convolution for its transpose": (conv, "_conv_transpose", lambda g, w, *, output_size, **o: Tensor(
        np.resize(g.data, (len(g), w.shape[2], *output_size))), "conv"),
}
right_below = fused._below


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_the_package_makes_the_op_table_fail(slip, monkeypatch):
    module, name, wrong, primitive = SLIPS[slip]
    assert not table_notices(primitive)
    monkeypatch.setattr(module, name, wrong)
    with np.errstate(all="ignore"):
        assert table_notices(primitive)


# ---- kinks -------------------------------------------------------------------------------------------------------


def check_expecting_a_kink(function, x, **options):
    with pytest.warns(KinkWarning, match="gradient of input 0 .* no derivative within 1e-05 of the input") as seen:
        worst = check_grads(function, [np.array(x, float)], name="bent", **options)
    assert all("\n" not in str(w.message) and str(w.message).startswith("bent") for w in seen)
    return worst


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-7, 1e-6, 1.4e-6, 3e-6, 6e-6, 9e-6])
@pytest.mark.parametrize("function", [ops.absolute, ops.relu, lambda a: ops.maximum(a * 3.0, a * 2.0)],
                         ids=["absolute", "relu", "maximum"])
def test_a_warning_at_and_beside_a_kink(function, distance):
    for sign in (1, -1):
        assert check_expecting_a_kink(function, [sign * distance]) < 1e-6


@pytest.mark.parametrize("distance", [1.1e-5, 1e-4, 0.1])
def test_no_warning_out_of_reach_of_a_kink(distance):
    for sign in (1, -1):
        check_grads(lambda a: ops.absolute(a) * a + ops.relu(a), [np.array([sign * distance])])


def test_a_kink_among_many_entries_is_a_warning_and_never_a_wrong_rule():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.uniform(0.5, 2.0, 30)
        x[rng.integers(30)] = rng.uniform(-1e-5, 1e-5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", KinkWarning)
            check_grads(ops.relu, [x], order=1, seed=seed)


def test_a_kink_of_a_higher_derivative_is_seen_at_its_order():
    def bowl(a):
        return ops.relu(a) ** 4 + a * a + a

    check_grads(bowl, [np.zeros(1)], order=2)
    check_expecting_a_kink(bowl, [0.0], order=3, draws=1)


@pytest.mark.parametrize("function", [ops.cos, lambda a: a * a, lambda a: a * a * a, lambda a: ops.sin(a) ** 2 * a,
                                      lambda a: ops.log_softmax(a), lambda a: a - a])
def test_a_gradient_of_zero_is_no_alarm(function):
    for seed in range(10):
        check_grads(function, [np.zeros(3)], seed=seed)
        check_grads(function, [np.array([0.0, 1e-9, 0.5])], seed=seed)


def test_a_jump_is_a_warning():
    check_expecting_a_kink(op(np.sign, None), [0.0], order=1)


CURVED = {
    "sin 300 x": (lambda a: ops.sin(a * 300.0), [0.1, 0.7, -0.4]),
    "sin 1000 x": (lambda a: ops.sin(a * 1000.0), [0.1, 0.7, -0.4]),
    "exp 20 x": (lambda a: ops.exp(a * 20.0), [0.1, 0.7, -0.4]),
    "1 / x": (lambda a: 1.0 / a, [0.02, -0.03, 1.0]),
    "x ** 12": (lambda a: a ** 12, [1.5, -2.0, 0.1]),
    "log": (ops.log, [0.01, 0.1, 5.0]),
    "softplus 100 x": (lambda a: ops.softplus(a * 100.0), [0.0, 0.01, -0.02]),
}


@pytest.mark.parametrize("name", CURVED)
def test_strong_curvature_is_no_kink_and_hides_no_error(name):
    function, x = CURVED[name]
    for seed in SEEDS:
        check_grads(function, [np.array(x)], seed=seed)
        off = op(np.positive, lambda g, y, a: g * 1.001)
        assert caught(lambda a, off=off: off(function(a)), [np.array(x)], seed=seed)
        assert caught(lambda a, off=off: function(off(a)), [np.array(x)], seed=seed)


# ---- what it refuses, returns and says -----------------------------------------------------------------------------


def test_it_refuses_what_it_cannot_check():
    generator = np.random.default_rng(0)
    for function, x, words in (
            (lambda a: a * generator.standard_normal(3), np.ones(3), "random"),
            (lambda a: Tensor(a.data.astype(np.float32)), np.ones(3), "float32"),
            (lambda a: a.data, np.ones(3), "ndarray"),
            (lambda a: ops.power(a, exponent=-1.0), np.zeros(3), "not finite")):
        with np.errstate(divide="ignore"), pytest.raises(TinyganError) as problem:
            check_grads(function, [x], name="mine")
        message = str(problem.value)
        assert "mine" in message and words in message and "\n" not in message
        assert not isinstance(problem.value, GradientError)


def test_the_error_names_op_order_input_and_size_of_the_error():
    wrong = PLANTED["scaled by 1.01"][0]
    with pytest.raises(GradientError) as problem:
        check_grads(wrong, PLANTED["scaled by 1.01"][1], name="product")
    message = str(problem.value)
    for words in ("product", "order-1", "input 0", "(3, 3)", "relative error 0.0"):
        assert words in message
    with pytest.raises(GradientError, match=r"order-2 gradient of input 0"):
        check_grads(*PLANTED["values used for the output"])
    check_grads(*PLANTED["values used for the output"], order=1)  # nothing wrong at first order


def test_it_returns_the_worst_error_and_copies_its_inputs():
    x = np.linspace(0.1, 1, 6).reshape(2, 3)
    kept = x.copy()
    assert 0 <= check_grads(ops.exp, [x]) < 1e-7
    assert check_grads(ops.exp, [Tensor(x.astype(np.float32))]) < 1e-7, "checked in float64"
    assert np.array_equal(x, kept)
    shapes = set()
    check_grads(lambda a: shapes.add(a.shape) or ops.exp(a), [np.array(0.5)])
    assert shapes == {()}, "a 0-d input stays 0-d"


def test_inputs_keep_their_memory_order():
    for x in (np.ones((4, 6))[:, ::2], np.ones((4, 6))[::-1], np.asfortranarray(np.ones((4, 3)))):
        seen = set()
        check_grads(lambda a, seen=seen: seen.add(tuple(np.sign(a.data.strides))) or ops.exp(a), [x], order=1)
        assert seen == {tuple(np.sign(x.strides))}


def test_a_looser_or_sharper_tolerance_is_obeyed():
    slightly = op(np.square, lambda g, y, a: g * a * (2 + 2e-5))
    assert caught(slightly, [np.ones(3)]) and not caught(slightly, [np.ones(3)], tolerance=1e-3)


def test_the_checker_is_public_and_typed():
    signature = inspect.signature(check_grads)
    assert list(signature.parameters)[:3] == ["function", "inputs", "order"]
    assert signature.parameters["order"].default == 2
    assert op(np.positive, passed)(Tensor([1.0])).data.tolist() == [1]


# ---- modules, and inputs that take no part -------------------------------------------------------------------------


class Halves(Module):
    """Two parameters, one of them in a list; its float32 values are checked in float64."""

    def __init__(self, rule=None):
        self.first = Parameter(np.array([[0.5, -1.0], [2.0, 0.3]], np.float32))
        self.rest = [Parameter(np.array([0.1, 0.7], np.float32))]
        self.op = op(np.exp, rule or (lambda g, y, a: g * ops.exp(a)))

    def forward(self, x):
        return self.op(x @ self.first) * self.rest[0]


def test_a_module_is_checked_with_its_parameters_in_one_call():
    net, x = Halves(), np.array([[0.4, -0.2]])
    net.first.grad, version = Tensor([1.0]), net.first.version
    before = net.first.data
    assert check_grads(net, [x]) < 1e-7 and check_grads(lambda a: net(a * a), [x], module=net) < 1e-7
    assert net.first.data is before and net.first.grad.data.tolist() == [1.0] and net.first.version == version
    assert net.first.requires_grad and not net.first._edges and net.first.dtype == np.float32
    with pytest.raises(GradientError, match="Halves: the order-1 gradient of (input 0|parameter first)"):
        check_grads(Halves(lambda g, y, a: g * ops.exp(a) * 1.01), [x])
    net.freeze()
    check_grads(net, [x])
    assert not net.first.requires_grad


def test_a_parameters_wrong_gradient_is_caught_by_its_name():
    net = Halves()
    twice = op(np.positive, lambda g, y, a: g * 2.0)
    net.forward = lambda x: x * twice(net.rest[0])
    with pytest.raises(TinyganError, match="never reads parameter first"):
        check_grads(net, [np.ones(2)])
    del net.first
    with pytest.raises(GradientError, match="gradient of parameter rest.0"):
        check_grads(net, [np.ones(2)])


def test_an_input_that_is_never_read_is_refused():
    net, x = Halves(), np.array([[0.4, -0.2]])
    for p in net.parameters():
        p.data = p.data.astype(float)
    for function, inputs, words in ((lambda a, w: a * a, [x, x], "never reads input 1"),
                                    (lambda a, w: net(a), [x, net.first], "never reads input 1"),
                                    (lambda a, b: a * b.shape[0] * len(b), [x, x], "never reads input 1"),
                                    (lambda a: Tensor([1.0]), [x], "never reads input 0")):
        with pytest.raises(TinyganError, match=words) as problem:
            check_grads(function, inputs)
        assert "\n" not in str(problem.value) and not isinstance(problem.value, GradientError)
    check_grads(lambda a, b: ops.where(b.data > 0, a, 0.0) + b * 0.0, [np.ones(2), np.array([1.0, -1.0])])
    check_grads(lambda a: a * a, [np.lib.stride_tricks.sliding_window_view(np.linspace(0.1, 1, 5), 3)])


@pytest.mark.parametrize("inputs", [np.ones((1, 3)), Tensor([1.0, 2.0]), np.array(2.0)])
def test_inputs_that_are_no_list_are_refused(inputs):
    with pytest.raises(TinyganError, match=r"write check_grads\(f, \[x\]\)"):
        check_grads(lambda a: a * a, inputs)
