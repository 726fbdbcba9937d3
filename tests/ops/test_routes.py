"""Routes: checked once, whatever takes them; a matrix of them is split into one Route per layer."""

import numpy as np
import pytest

from tinygan import Tensor
from tinygan.errors import GraphError
from tinygan.models.gan.nets import GANConfig, Generator
from tinygan.nn.layers import normalized
from tinygan.ops.conv import conv_transpose2d
from tinygan.ops.fused import gather_sets
from tinygan.ops.routes import Route, route_of, routes_of

X, BANK = Tensor(np.ones((3, 2, 2, 2))), Tensor(np.arange(4.0 * 2 * 1 * 2 * 2).reshape(4, 2, 1, 2, 2))


def test_a_route_knows_which_sets_it_uses():
    given = np.array([2, 0, 2])
    route = Route(given, 4)
    given[:] = 3  # a buffer that is filled again
    assert route.indices.tolist() == [2, 0, 2] and len(route) == 3
    assert route.used.tolist() == [True, False, True, False] and route.used is route.used


def test_operations_take_integers_or_a_route():
    route = Route([2, 0, 2], 4)
    for f in (lambda r: conv_transpose2d(X, BANK, routes=r), lambda r: gather_sets(BANK, r)):
        assert np.array_equal(f([2, 0, 2]).data, f(route).data)


@pytest.mark.parametrize("routes, samples, bank, message", [
    (None, 3, 4, "a bank of 4 filter sets needs routes"),
    ([0, 1], 3, 4, "routes must be 3 integers"),
    ([0.5, 1.0, 2.0], 3, 4, "routes must be 3 integers"),
    ([0, 1, 4], 3, 4, r"routes must lie in \[0, 4\)"),
    ([0, 0, 1], 3, 1, r"routes must lie in \[0, 1\)"),
    (Route([0, 1], 4), 3, 4, "a route of 2 samples through 4 filter sets does not fit 3 samples and 4 sets"),
    (Route([0, 1, 1], 2), 3, 4, "through 2 filter sets does not fit"),
])
def test_routes_that_do_not_fit(routes, samples, bank, message):
    with pytest.raises(GraphError, match=message):
        route_of(routes, samples, bank)


def test_a_bank_of_one_needs_no_route():
    assert route_of(None, 3, 1) is None and route_of([0, 0, 0], 3, 1) is None and route_of(Route([0], 1), 1, 1) is None
    assert routes_of(None, (1, 1)) == (None, None) and routes_of(None, ()) == ()


def test_a_matrix_is_split_once():
    columns = routes_of([[0, 2, 0], [1, 1, 0]], (2, 3, 1), 2)
    assert columns[2] is None and [c.indices.tolist() for c in columns[:2]] == [[0, 1], [2, 1]]
    assert routes_of(columns, (2, 3, 1), 2) == columns == routes_of(columns, (2, 3, 1))


@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("matrix", [None, [0, 1], [[0, 0]] * 2, [[0, 0, 0, 0]] * 2, ((0, 1), (1, 0)),
                                    routes_of([[0, 0]] * 2, (2, 2))])
def test_a_matrix_of_another_shape(matrix, samples):
    with pytest.raises(GraphError, match=r"routes must be of shape \((2|N), 3\), a row for each sample"):
        routes_of(matrix, (2, 3, 2), samples)


def test_another_number_of_samples():
    for matrix in ([[0, 0]] * 3, routes_of([[0, 0]] * 3, (2, 2))):
        with pytest.raises(GraphError, match=r"routes must be of shape \(2, 2\).*not \(3, 2\)"):
            routes_of(matrix, (2, 2), 2)


def test_a_net_and_its_context_take_the_same_routes():
    config = GANConfig(base_channels=2, latent_dim=3, bank=3)
    net, z = Generator(config, rng=np.random.default_rng(0)), Tensor(np.ones((2, 3), np.float32))
    matrix = np.array([[0, 2, 1, 0], [1, 2, 0, 0]])
    columns = routes_of(matrix, config.bank)
    wanted = net(z, matrix).data
    with normalized(net, columns):
        assert np.array_equal(net(z, columns).data, wanted) and np.array_equal(net(z, matrix).data, wanted)
