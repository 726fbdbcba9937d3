"""Modules: names, states, copies, and how many numbers the spec's nets learn."""

from collections import OrderedDict, deque
from types import MappingProxyType

import numpy as np
import pytest

from tinygan import Tensor
from tinygan.errors import TinyganError
from tinygan.models.gan.nets import Discriminator, GANConfig, Generator
from tinygan.nn.layers import ConvTranspose2d, Linear, StochasticConvTranspose2d, TPReLU
from tinygan.nn.module import Module, Parameter, Sequential
from tinygan.nn.optim import RMSprop


@pytest.fixture
def rng():
    return np.random.default_rng(3)


class Small(Module):
    """Two parameters of its own around a list and a tuple of modules."""

    def __init__(self, rng):
        self.width = 3  # neither a parameter nor a module: not listed
        self.first = Parameter(np.arange(3, dtype=np.float32))
        self.layers = [Linear(3, 2, rng=rng), TPReLU(2)]
        self.pair = (Linear(2, 2, bias=False, rng=rng), None)
        self.last = Parameter(np.ones((2, 2), np.float32))


SMALL_NAMES = ["first", "layers.0.weight", "layers.0.bias", "layers.1.slope", "layers.1.shift", "pair.0.weight",
               "last"]

# ---- names -------------------------------------------------------------------------------------------------------


def test_names_are_paths_in_order_of_assignment(rng):
    net = Small(rng)
    assert [name for name, _ in net.named_parameters()] == SMALL_NAMES
    assert [name for name, _ in net.named_parameters("g.")] == ["g." + name for name in SMALL_NAMES]
    assert [id(p) for p in net.parameters()] == [id(p) for _, p in net.named_parameters()]
    assert net.parameter_count() == 3 + 6 + 2 + 2 + 2 + 4 + 4


def test_a_shared_parameter_is_listed_once_under_its_first_name(rng):
    net = Small(rng)
    net.again = net.layers[0]
    net.alias = net.last
    assert [name for name, _ in net.named_parameters()] == SMALL_NAMES
    assert list(net.state_dict()) == SMALL_NAMES


def test_deques_and_mappings_are_lists_and_dicts_too(rng):
    net = Module()
    net.queue = deque([Linear(2, 2, bias=False, rng=rng)])
    net.table = MappingProxyType({"a": OrderedDict(b=Parameter(np.ones(2)))})
    assert list(net.state_dict()) == ["queue.0.weight", "table.a.b"]


def test_a_way_back_is_not_gone_twice(rng):
    net = Small(rng)
    net.itself, net.layers[0].parent = net, net
    net.ring = [net]
    net.ring.append(net.ring)
    assert [name for name, _ in net.named_parameters()] == SMALL_NAMES
    assert list(net.state_dict()) == SMALL_NAMES and sum(m is net for m in net.modules()) == 1


@pytest.mark.parametrize("build, message", [
    (lambda net, rng: setattr(net, "bag", {Linear(2, 2, rng=rng)}), "bag is a set"),
    (lambda net, rng: setattr(net, "bag", [frozenset([Parameter(np.ones(1))])]), "bag.0 is a set"),
    (lambda net, rng: setattr(net, "layers.0.bias", Parameter(np.ones(1))), "'layers.0.bias': rename"),
    (lambda net, rng: setattr(net, "d", {1: Parameter(np.ones(1)), "1": Parameter(np.ones(1))}), "'d.1': rename"),
])
def test_parameters_without_a_name_of_their_own_are_refused(rng, build, message):
    net = Small(rng)
    build(net, rng)
    for use in (net.state_dict, net.parameters, lambda: RMSprop(net.named_parameters()),
                lambda: net.load_state_dict({})):
        with pytest.raises(TinyganError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)
    net.tags = {"a", "b"}  # a set of anything else is no concern


def test_forward_must_be_defined():
    with pytest.raises(NotImplementedError, match="Module does not define forward"):
        Module()(1)


# ---- states ------------------------------------------------------------------------------------------------------


def test_state_goes_round_and_is_a_copy(rng):
    one, other = Small(rng), Small(rng)
    state = one.state_dict()
    versions = [p.version for p in other.parameters()]
    other.load_state_dict(state)
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert np.array_equal(p.data, q.data), name
    assert all(p.version == v + 1 for p, v in zip(other.parameters(), versions, strict=True))
    state["first"][...] = 9
    assert one.first.data.tolist() == other.first.data.tolist() == [0, 1, 2]


def test_loading_keeps_dtype_memory_and_identity(rng):
    net = StochasticConvTranspose2d(3, 2, 4, bank=2, rng=rng)
    array, strides = net.weight.data, net.weight.data.strides
    net.load_state_dict({"weight": np.ones((2, 3, 2, 4, 4)), "bias": np.zeros((1, 2))})
    assert net.weight.data is array and array.strides == strides and array.dtype == np.float32
    assert (array == 1).all()


@pytest.mark.parametrize("spoil, message", [
    (lambda s: s.pop("layers.1.slope"), "has no entry 'layers.1.slope' for Small"),
    (lambda s: s.update(stranger=np.zeros(1)), "has an unknown entry 'stranger' for Small"),
    (lambda s: s.update(last=np.zeros((2, 3))), r"last: the saved shape \(2, 3\) is not \(2, 2\), that of Small"),
])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(rng, spoil, message):
    net = Small(rng)
    before = net.state_dict()
    state = {name: value + 1 for name, value in before.items()}
    spoil(state)
    with pytest.raises(TinyganError, match=message) as caught:
        net.load_state_dict(state)
    assert "\n" not in str(caught.value)
    after = net.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_graph_made_before_loading_is_not_used_after_it(rng):
    layer = Linear(3, 2, rng=rng)
    loss = layer(Tensor(np.ones((1, 3), np.float32))).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(TinyganError, match="changed in place"):
        loss.backward()


# ---- freezing, copying -------------------------------------------------------------------------------------------


def test_freeze_and_unfreeze(rng):
    net = Sequential(Linear(3, 2, rng=rng), TPReLU(2))
    x = Tensor(np.ones((1, 3), np.float32), requires_grad=True)
    assert net.freeze() is net
    net(x).sum().backward()
    assert x.grad is not None and all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert net.unfreeze() is net
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_a_copy_is_equal_independent_and_lies_the_same_way_in_memory(rng):
    net = Generator(GANConfig(base_channels=2, latent_dim=3, bank=3), rng=rng)
    twin = net.copy()
    for (name, p), (same, q) in zip(net.named_parameters(), twin.named_parameters(), strict=True):
        assert name == same and p is not q and p.bank == q.bank
        assert np.array_equal(p.data, q.data) and p.data.strides == q.data.strides
        assert not np.shares_memory(p.data, q.data)
        q.data += 1
        assert not np.array_equal(p.data, q.data)


def test_filters_lie_in_the_kernels_order(rng):
    """Stored as (K, A, kh, kw, B): the kernels' matrix, with nothing to repack."""
    weight = StochasticConvTranspose2d(3, 5, (2, 4), bank=2, rng=rng).weight.data
    assert weight.shape == (2, 3, 5, 2, 4) and weight.transpose(0, 1, 3, 4, 2).flags.c_contiguous


def test_shared_parameters_stay_shared_in_a_copy(rng):
    net = Small(rng)
    net.alias = net.last
    twin = net.copy()
    assert twin.alias is twin.last and twin.last is not net.last


def test_to_moves_every_parameter(rng):
    net = Small(rng)
    net.to(lambda array: array.astype(np.float64))
    assert all(p.dtype == np.float64 for p in net.parameters())


# ---- Sequential --------------------------------------------------------------------------------------------------


def test_sequential_gives_each_stochastic_layer_its_column(rng):
    first = StochasticConvTranspose2d(2, 3, 4, bank=2, stride=2, padding=1, rng=rng)
    act = TPReLU(3)
    plain = ConvTranspose2d(3, 3, 3, padding=1, rng=rng)
    last = StochasticConvTranspose2d(3, 1, 4, bank=3, stride=2, padding=1, rng=rng)
    x = Tensor(rng.standard_normal((4, 2, 2, 2), dtype=np.float32))
    routes = np.array([[0, 2], [1, 1], [1, 0], [0, 1]])
    got = Sequential(first, act, plain, last)(x, routes)
    assert np.array_equal(got.data, last(plain(act(first(x, routes[:, 0]))), routes[:, 1]).data)


@pytest.mark.parametrize("routes", [None, [0, 1], [[0], [1]], [[0, 0, 0], [1, 0, 0]], [[0, 0]]])
def test_sequential_refuses_routes_of_another_shape(rng, routes):
    net = Sequential(StochasticConvTranspose2d(2, 2, 1, bank=2, rng=rng),
                     StochasticConvTranspose2d(2, 2, 1, bank=2, rng=rng))
    with pytest.raises(TinyganError, match=r"routes must be of shape \(2, 2\)"):
        net(Tensor(np.ones((2, 2, 1, 1), np.float32)), routes)


def test_sequential_of_plain_layers_takes_no_routes(rng):
    net = Sequential(Linear(2, 2, rng=rng), TPReLU(2))
    x = Tensor(np.ones((3, 2), np.float32))
    assert net(x).shape == (3, 2)
    with pytest.raises(TinyganError, match=r"routes must be of shape \(3, 0\)"):
        net(x, [[0], [0], [0]])


# ---- sizes -------------------------------------------------------------------------------------------------------


class Zeros:
    """Stands in for a random generator where only shapes matter: a net of 60 million zeros is made in no time."""

    @staticmethod
    def uniform(low, high, shape):
        return np.broadcast_to(np.float32(0), shape)


# Weights, then scale and bias of the image's channel, then slope and shift of every other channel.
PLAIN_32 = 128 * 256 * 16 + (256 * 128 + 128 * 64 + 64) * 16 + 2 + 2 * (256 + 128 + 64)
PLAIN_64 = 128 * 512 * 16 + (512 * 256 + 256 * 128 + 128 * 64 + 64) * 16 + 2 + 2 * (512 + 256 + 128 + 64)


@pytest.mark.parametrize("size, bank, exact, millions", [
    (32, 1, PLAIN_32, 1.18),
    (64, 1, PLAIN_64, 3.80),
    (32, 16, PLAIN_32 + 15 * (128 * 256 + 256 * 128 + 128 * 64) * 16, 18.9),
    (64, 16, PLAIN_64 + 15 * (128 * 512 + 512 * 256 + 256 * 128 + 128 * 64) * 16, 60.8),
])
def test_generator_learns_as_many_numbers_as_the_paper_says(size, bank, exact, millions):
    count = Generator(GANConfig(size=size, bank=bank), rng=Zeros()).parameter_count()
    assert count == exact
    assert count / 1e6 == pytest.approx(millions, rel=5e-3)


def test_discriminator_size():
    count = Discriminator(GANConfig(size=32), rng=Zeros()).parameter_count()
    assert count == (64 + 64 * 128 + 128 * 256 + 256) * 16 + 2 + 2 * (64 + 128 + 256)


def test_names_of_the_whole_generator(rng):
    """Checkpoints store these names: they must not change."""
    net = Generator(GANConfig(base_channels=1, latent_dim=2, bank=2), rng=rng)
    assert [name for name, _ in net.named_parameters()] == [
        "projection.weight", "activations.0.slope", "activations.0.shift", "activations.1.slope",
        "activations.1.shift", "activations.2.slope", "activations.2.shift", "deconvs.0.weight", "deconvs.1.weight",
        "deconvs.2.weight", "deconvs.2.gain", "deconvs.2.bias"]
    assert [p.bank for _, p in net.named_parameters()] == [True] + [False] * 6 + [True, True] + [False] * 3
    RMSprop(net.named_parameters())  # names are unique keys
    assert len(net.state_dict()) == 12


def test_modules_come_in_the_order_of_assignment_each_once():
    inner, outer = Module(), Module()
    shared = Module()
    inner.last = shared
    outer.first, outer.several, outer.again = inner, [Module(), {"x": shared}], inner
    found = list(outer.modules())
    assert found == [outer, inner, shared, outer.several[0]]
