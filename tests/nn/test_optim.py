"""The optimisers against their formulas, stored numbers and promises: which filter sets move, and which do not."""

import math
from contextlib import contextmanager

import numpy as np
import pytest

from tinygan import Tensor, frozen
from tinygan.engine import debug
from tinygan.engine.tensor import _set_mode
from tinygan.errors import TinyganError
from tinygan.models.gan.game import turn_of_d, turn_of_g
from tinygan.models.gan.nets import Discriminator, GANConfig, Generator
from tinygan.nn.layers import StochasticConvTranspose2d, normalized
from tinygan.nn.losses import generator_loss
from tinygan.nn.module import Module, Parameter
from tinygan.nn.optim import EMA, Adam, RMSprop

START = (0.5, -1.2, 2.0)
SCALE, PHASE = (1.0, 10.0, 0.1), (0.0, 1.0, 2.0)


def slopes(p, t):
    """A gradient that turns: of 1/2 scale p^2 + p cos(t + phase)."""
    return [s * v + math.cos(t + f) for v, s, f in zip(p, SCALE, PHASE, strict=True)]


def follow(optimizer_of, steps=10):
    """The parameter after each step."""
    p = Parameter(np.array(START))
    optimizer = optimizer_of([("p", p)])
    path = []
    for t in range(steps):
        p.grad = Tensor(np.array(slopes(p.data.tolist(), t)))
        optimizer.step()
        path.append(p.data.tolist())
    return np.array(path)


# ---- trajectories ------------------------------------------------------------------------------------------------


def test_rmsprop_follows_its_formula():
    p, v, path = list(START), [0.0] * 3, []
    for t in range(10):
        for i, g in enumerate(slopes(p, t)):
            v[i] = 0.9 * v[i] + 0.1 * g * g
            p[i] -= 0.05 * g / (math.sqrt(v[i]) + 1e-6)
        path.append(list(p))
    assert np.allclose(follow(lambda named: RMSprop(named, lr=0.05)), path, rtol=1e-12, atol=0)


def test_adam_follows_its_formula():
    p, m, v, path = list(START), [0.0] * 3, [0.0] * 3, []
    for t in range(10):
        for i, g in enumerate(slopes(p, t)):
            m[i] = 0.5 * m[i] + 0.5 * g
            v[i] = 0.99 * v[i] + 0.01 * g * g
            mean, square = m[i] / (1 - 0.5 ** (t + 1)), v[i] / (1 - 0.99 ** (t + 1))
            p[i] -= 0.05 * mean / (math.sqrt(square) + 1e-8)
        path.append(list(p))
    assert np.allclose(follow(lambda named: Adam(named, lr=0.05)), path, rtol=1e-12, atol=0)


def test_both_agree_with_pytorch():
    """Numbers after steps 1, 5 and 10, made once with PyTorch 2.13 (float64, CPU):

        p = torch.tensor([0.5, -1.2, 2.0], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.RMSprop([p], lr=0.05, alpha=0.9, eps=1e-6)
        # or       torch.optim.Adam([p], lr=0.05, betas=(0.5, 0.99), eps=1e-8)
        for t in range(10):
            optimizer.zero_grad()
            (0.5 * scale * p * p + p * torch.cos(t + phase)).sum().backward()
            optimizer.step()
    """
    rmsprop = [[0.3418864503242116, -1.0418861606227372, 2.158111569799986],
               [0.37221109738894254, -0.7051724161870967, 2.1784000324619166],
               [0.1991747623499271, -0.45814344774138915, 2.183906747687616]]
    adam = [[0.4500000003333333, -1.1500000000436312, 2.049999997686758],
            [0.3965400726629853, -0.9529228290337408, 2.1025944865573374],
            [0.25986530193552715, -0.7352130175497777, 2.0651673901494476]]
    for optimizer_of, stored in ((lambda named: RMSprop(named, lr=0.05), rmsprop),
                                 (lambda named: Adam(named, lr=0.05), adam)):
        assert np.allclose(follow(optimizer_of)[[0, 4, 9]], stored, rtol=1e-11, atol=0)


def test_settings_are_used():
    assert not np.allclose(follow(lambda n: RMSprop(n, lr=0.05)), follow(lambda n: RMSprop(n, lr=0.05, alpha=0.5)))
    assert not np.allclose(follow(lambda n: Adam(n, lr=0.05)), follow(lambda n: Adam(n, lr=0.05, betas=(0.9, 0.99))))
    first = follow(lambda n: RMSprop(n, lr=0.05, eps=1.0), steps=1)[0]
    g = np.array(slopes(START, 0))
    assert np.allclose(first, np.array(START) - 0.05 * g / (np.sqrt(0.1) * abs(g) + 1.0))


def test_the_learning_rate_may_change_between_steps():
    p = Parameter(np.zeros(1))
    optimizer = RMSprop([("p", p)], lr=1e-3)
    for lr in (1e-3, 1e-1):
        p.grad, optimizer.lr, before = Tensor(np.ones(1)), lr, p.data.copy()
        optimizer.step()
        v = optimizer.state["p"]["square"][0]
        assert (before - p.data)[0] == pytest.approx(lr / (math.sqrt(v) + 1e-6))


# ---- filter banks: lazy and dense --------------------------------------------------------------------------------

OPTIMIZERS = [RMSprop, Adam]


def bank_layer():
    return StochasticConvTranspose2d(2, 3, 4, bank=4, stride=2, padding=1, norm="affine", bank_affine=True,
                                     rng=np.random.default_rng(0))


def one_step(layer, optimizer, routes, scale=1.0, seed=0):
    """Forward, backward and step on one random batch."""
    x = Tensor(np.random.default_rng(seed).standard_normal((len(routes), 2, 2, 2), dtype=np.float32))
    layer.zero_grad()
    (layer(x, routes) ** 2.0 * scale).sum().backward()
    optimizer.step()


def everything(layer, optimizer):
    """Per parameter, all that an optimiser keeps: weights, running averages, count of steps."""
    return {name: [p.data.copy(), *(a.copy() for a in optimizer.state[name].values()), optimizer.steps[name].copy()]
            for name, p in layer.named_parameters()}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_lazy_leaves_unused_sets_alone_to_the_bit(kind):
    layer = bank_layer()
    optimizer = kind(layer.named_parameters(), lr=1e-2)
    one_step(layer, optimizer, [0, 1, 2, 3])
    before = everything(layer, optimizer)
    one_step(layer, optimizer, [2, 0, 0], seed=1)
    for name, after in everything(layer, optimizer).items():
        for old, new in zip(before[name], after, strict=True):
            assert np.array_equal(old[[1, 3]], new[[1, 3]]), name
            assert (old[[0, 2]] != new[[0, 2]]).reshape(2, -1).any(axis=1).all(), name
        assert after[-1].tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_dense_takes_unused_for_gradient_zero(kind):
    layer = bank_layer()
    optimizer = kind(layer.named_parameters(), lr=1e-2, lazy=False)
    one_step(layer, optimizer, [0, 1, 2, 3])
    before = everything(layer, optimizer)
    one_step(layer, optimizer, [2, 0, 0], seed=1)
    decay = 0.9 if kind is RMSprop else 0.99
    for name, (weight, *_, square, count) in everything(layer, optimizer).items():
        assert np.allclose(square[[1, 3]], decay * before[name][-2][[1, 3]], rtol=1e-6), name
        assert count.tolist() == [2, 2, 2, 2]
        moved = (weight[[1, 3]] != before[name][0][[1, 3]]).any()
        assert moved == (kind is Adam), name  # Adam's mean of the direction goes on, RMSprop has none


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_used_set_with_gradient_zero_decays_under_lazy_too(kind):
    layer = bank_layer()
    optimizer = kind(layer.named_parameters(), lr=1e-2)
    one_step(layer, optimizer, [0, 1, 2, 3])
    before = everything(layer, optimizer)
    one_step(layer, optimizer, [2, 0, 0], scale=0.0)
    decay = 0.9 if kind is RMSprop else 0.99
    for name, (*_, square, count) in everything(layer, optimizer).items():
        old = before[name][-2]
        assert np.allclose(square[[0, 2]], decay * old[[0, 2]], rtol=1e-6), name
        assert np.array_equal(square[[1, 3]], old[[1, 3]]), name
        assert count.tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_lazily_visited_sets_move_as_if_each_had_an_optimiser_of_its_own(kind):
    """The bank's set k, visited now and then, ends where a bank of one does that sees only k's batches."""
    layer = bank_layer()
    start = layer.copy()
    optimizer = kind(layer.named_parameters(), lr=1e-2)
    visits = [0, 3, 3, 1, 0, 3, 1, 3]
    for step, k in enumerate(visits):
        one_step(layer, optimizer, [k, k], seed=step)
    for k in range(4):
        alone = StochasticConvTranspose2d(2, 3, 4, bank=1, stride=2, padding=1, norm="affine",
                                          rng=np.random.default_rng(0))
        for p, theirs in zip(alone.parameters(), start.parameters(), strict=True):
            p.data[0] = theirs.data[k]
        own = kind(alone.named_parameters(), lr=1e-2)
        for step in [s for s, visited in enumerate(visits) if visited == k]:
            one_step(alone, own, [0, 0], seed=step)
        for p, theirs in zip(alone.parameters(), layer.parameters(), strict=True):
            assert np.allclose(p.data[0], theirs.data[k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_lazy_and_dense_agree_when_every_set_is_used(kind):
    layers = [bank_layer(), bank_layer()]
    for layer, laziness in zip(layers, (True, False), strict=True):
        optimizer = kind(layer.named_parameters(), lr=1e-2, lazy=laziness)
        for seed in range(3):
            one_step(layer, optimizer, [3, 1, 0, 2], seed=seed)
    for p, q in zip(*(layer.parameters() for layer in layers), strict=True):
        assert np.array_equal(p.data, q.data)


# ---- what a step touches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_parameters_without_a_gradient_are_skipped(kind):
    a, b = Parameter(np.ones(3)), Parameter(np.ones(3))
    optimizer = kind([("a", a), ("b", b)])
    for _ in range(2):
        a.grad = Tensor(np.ones(3))
        optimizer.step()
    assert (a.data < 1).all() and (b.data == 1).all()
    assert optimizer.steps["a"].tolist() == [2] and optimizer.steps["b"].tolist() == [0]
    assert (a.version, b.version) == (2, 0)
    assert all((slot == 0).all() for slot in optimizer.state["b"].values())


def test_a_graph_made_before_a_step_is_refused_after_it():
    p = Parameter(np.ones(3))
    optimizer = RMSprop([("p", p)])
    loss = (p * p).sum()
    loss.backward()
    optimizer.step()
    with pytest.raises(TinyganError, match="changed in place"):
        loss.backward()


def test_a_step_writes_in_place_and_leaves_the_gradient():
    p = Parameter(np.ones(3, np.float32))
    array, p.grad = p.data, Tensor(np.full(3, 2, np.float32))
    Adam([("p", p)]).step()
    assert p.data is array and p.grad.data.tolist() == [2, 2, 2]


def players(bank=2, **options):
    config = GANConfig(base_channels=2, latent_dim=4, bank=bank, **options)
    return tuple(net(config, rng=np.random.default_rng(0)) for net in (Generator, Discriminator))


def game(g, d, g_steps, d_steps, rng, between=lambda: None):
    """One step of the discriminator, `between`, and one of the generator."""
    z, routes = Tensor(g.draw_noise(rng, 4)), g.draw_routes(rng, 4)
    turn_of_d(g, d, d_steps, Tensor(rng.random((4, 1, 32, 32), dtype=np.float32)), (z, routes))
    between()
    turn_of_g(g, d, g_steps, (z, routes))


def test_each_players_step_leaves_the_other_alone():
    g, d = players()
    g_steps, d_steps = RMSprop(g.named_parameters()), RMSprop(d.named_parameters())
    g_before, seen = g.state_dict(), {}

    def after_the_discriminators_step():
        assert all(p.grad is None for p in g.parameters())
        assert all(np.array_equal(g_before[name], p.data) for name, p in g.named_parameters())
        assert all(p.grad is not None for p in d.parameters())
        seen.update({name: (p.grad, p.grad.data.copy(), p.data.copy()) for name, p in d.named_parameters()})

    game(g, d, g_steps, d_steps, np.random.default_rng(1), after_the_discriminators_step)
    for name, p in d.named_parameters():
        gradient, values, weights = seen[name]
        assert p.grad is gradient and np.array_equal(p.grad.data, values) and np.array_equal(p.data, weights)
        assert p.requires_grad
    assert all(p.grad is not None for p in g.parameters())
    assert any(not np.array_equal(g_before[name], p.data) for name, p in g.named_parameters())


def test_a_frozen_net_that_never_stepped_has_no_gradients():
    g, d = players()
    with frozen(d):
        generator_loss(fake=d(g(Tensor(g.draw_noise(np.random.default_rng(0), 2)), [[0] * 4] * 2))).backward()
    assert all(p.grad is None for p in d.parameters()) and all(p.grad is not None for p in g.parameters())


@contextmanager
def dtypes_of_results():
    """Record the dtypes that each operation returns, forward and backward, by a hook of the engine."""
    seen = {}

    class Recorder(debug.Watch):
        def call(self, name, like, work):  # of normalised filters and optimisers, too, which are no operations
            seen.setdefault(name, set()).add(like.dtype)
            return work()

        def made(self, out, inputs):
            seen.setdefault(out._op, set()).add(out.dtype)

        def gradient(self, rule, g, out):
            part = rule(g, out)
            seen.setdefault(f"a gradient of {out._op}", set()).add(part.dtype)
            return part

    with _set_mode(watch=Recorder()):
        yield seen


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("options", [{}, {"norm": "affine", "bank_affine": True, "bank_act": True, "output": "tanh"}])
def test_a_training_step_is_float32_in_every_operation(kind, options):
    g, d = players(**options)
    g_steps, d_steps, average = kind(g.named_parameters()), kind(d.named_parameters()), EMA(g, 0.9)
    with dtypes_of_results() as seen:
        for seed in range(2):
            game(g, d, g_steps, d_steps, np.random.default_rng(seed))
            average.update(g)
        d(g(Tensor(g.draw_noise(np.random.default_rng(2), 2)), [[0] * 4] * 2))  # outside `normalized`, too
    single = {np.dtype(np.float32)}
    assert {"conv", "conv_transpose", "conv_weight", "normalize", "weight_norm", "logistic_loss",
            "logistic_losses", "logistic_dx", "scale_shift"} <= set(seen)
    assert {op: dtypes for op, dtypes in seen.items() if dtypes != single} == {}
    for net, optimizer in ((g, g_steps), (d, d_steps)):
        for name, p in net.named_parameters():
            assert {p.dtype, p.grad.dtype, *(a.dtype for a in optimizer.state[name].values())} == single, name
    assert {p.dtype for p in average.module.parameters()} == single


def test_the_dtype_recorder_would_notice():
    with dtypes_of_results() as seen:
        Tensor(np.ones(2)) * 2.0
    assert seen == {"multiply": {np.dtype(np.float64)}}


# ---- states ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_saved_state_continues_to_the_same_bits(kind):
    layer = bank_layer()
    optimizer = kind(layer.named_parameters(), lr=1e-2)
    one_step(layer, optimizer, [0, 1, 1])
    one_step(layer, optimizer, [0, 2, 0], seed=1)
    twin = bank_layer()
    twin.load_state_dict(layer.state_dict())
    state = optimizer.state_dict()
    continued = kind(twin.named_parameters(), lr=1e-2)
    continued.load_state_dict(state)
    for seed in range(2, 5):
        one_step(layer, optimizer, [3, 1, 1], seed=seed)
        one_step(twin, continued, [3, 1, 1], seed=seed)
    for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
        assert np.array_equal(p.data, q.data)
    for key, value in continued.state_dict().items():
        assert np.array_equal(value, optimizer.state_dict()[key]), key
    assert state["weight/steps"].tolist() == [2, 1, 1, 0]  # the saved state was a copy


def test_state_has_a_name_for_every_slot():
    p = Parameter(np.ones((2, 3), np.float32))
    assert list(RMSprop([("a.b", p)]).state_dict()) == ["a.b/square", "a.b/steps"]
    assert list(Adam([("a.b", p)]).state_dict()) == ["a.b/mean", "a.b/square", "a.b/steps"]


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    named = [("a", Parameter(np.ones(2))), ("b", Parameter(np.ones(3)))]
    rmsprop = RMSprop(named)
    good = {key: value + 1 for key, value in rmsprop.state_dict().items()}
    for spoil in (lambda s: s.pop("b/square"), lambda s: s.update({"b/square": np.ones(4)}),
                  lambda s: s.pop("b/steps")):
        state = dict(good)
        spoil(state)
        with pytest.raises(TinyganError, match="the saved state has no entry 'b/|b/square: the saved shape") as caught:
            rmsprop.load_state_dict(state)
        assert "\n" not in str(caught.value)
        assert all((value == 0).all() for value in rmsprop.state_dict().values())
    with pytest.raises(TinyganError, match="has no entry 'a/mean' for Adam"):
        Adam(named).load_state_dict(good)


# ---- the moving average ------------------------------------------------------------------------------------------


class Point(Module):
    def __init__(self, value):
        self.p = Parameter(np.array(value, dtype=np.float64))


def test_ema_follows_its_formula():
    net = Point([1.0, -2.0])
    average, expected = EMA(net, 0.3), np.array([1.0, -2.0])
    for t in range(8):
        net.p.data[:] = [math.cos(t), 3.0 * t]
        decay = min(0.3, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * net.p.data
        average.update(net)
        assert np.allclose(average.module.p.data, expected, rtol=1e-12, atol=1e-12)
    assert average.updates == 8 and average.module.p.version == 8


def test_ema_is_a_frozen_twin_that_leaves_the_net_alone():
    net = Point([1.0])
    average = EMA(net, 0.999)
    net.p.data[:] = 5.0
    assert average.module.p.data.tolist() == [1.0]
    average.update(net)
    assert average.module.p.data[0] == pytest.approx(0.1 * 1 + 0.9 * 5)
    assert net.p.data.tolist() == [5.0] and net.p.requires_grad and not average.module.p.requires_grad


def test_ema_of_a_net_that_rests_is_the_net_to_the_bit():
    g, _ = players()
    average = EMA(g, 0.99)
    for _ in range(20):
        average.update(g)
    for p, q in zip(g.parameters(), average.module.parameters(), strict=True):
        assert np.array_equal(p.data, q.data)


# ---- wrong settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make, message", [
    (lambda named: RMSprop(named, lr=0), "learning rate must be positive, not 0"),
    (lambda named: Adam(named, lr=-1e-4), "learning rate must be positive, not -0.0001"),
    (lambda named: Adam(named, lr=math.nan), "learning rate must be positive, not nan"),
    (lambda named: RMSprop(named, alpha=1.0), r"alpha must lie in \[0, 1\), not 1.0"),
    (lambda named: Adam(named, betas=(0.5, 1.0)), r"betas must be two numbers in \[0, 1\), not \(0.5, 1.0\)"),
    (lambda named: Adam(named, betas=(-0.1, 0.9)), "betas must be two numbers"),
    (lambda named: Adam(named, betas=(0.5,)), "betas must be two numbers"),
    (lambda named: RMSprop([]), "takes .name, parameter. pairs"),
    (lambda named: Adam(Point([1.0]).parameters()), r"write Adam\(net.named_parameters\(\)\)"),
    (lambda named: Adam(Point([1.0])), "takes .name, parameter. pairs"),
    (lambda named: Adam(named[0][1]), "takes .name, parameter. pairs"),
    (lambda named: Adam([("p", np.ones(2))]), "takes .name, parameter. pairs"),
    (lambda named: Adam([*named, ("p", Parameter(np.ones(2)))]), "'p' or its parameter is given twice"),
    (lambda named: RMSprop([*named, ("q", named[0][1])]), "'q' or its parameter is given twice"),
    (lambda named: EMA(Point([1.0]), 1.0), r"decay of a moving average must lie in \[0, 1\), not 1.0"),
    (lambda named: EMA(Point([1.0]), -0.5), "decay of a moving average"),
])
def test_wrong_settings(make, message):
    with pytest.raises(TinyganError, match=message) as caught:
        make([("p", Parameter(np.ones(2)))])
    assert "\n" not in str(caught.value)


def test_profile_sees_what_is_no_operation():
    g, d = players()
    g_steps = Adam(g.named_parameters())
    with debug.profile(show=False) as report:
        game(g, d, g_steps, Adam(d.named_parameters()), np.random.default_rng(0))
        with normalized(g):
            pass
    assert report.calls["Adam"] == 2 and report.calls["normalize"] == 5  # a turn of D: G, D; of G: both
