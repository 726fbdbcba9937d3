"""The adapted GAN and the SGAN: shapes, routes, settings, and the whole net's gradient."""

import json
import math

import numpy as np
import pytest

from tinygan import Tensor, frozen, no_grad
from tinygan.errors import TinyganError, UsageError
from tinygan.models.gan.game import turn_of_d, turn_of_g
from tinygan.models.gan.nets import Discriminator, GANConfig, Generator, draw_routes
from tinygan.nn.layers import ConvTranspose2d, Linear, StochasticConvTranspose2d
from tinygan.nn.losses import discriminator_loss, generator_loss
from tinygan.nn.optim import RMSprop
from tinygan.ops import sigmoid


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def tiny(**options):
    return GANConfig(**({"base_channels": 2, "latent_dim": 3, "bank": 2} | options))


def nets(config, seed=0, dtype=np.float32):
    return tuple(net(config, rng=np.random.default_rng(seed), dtype=dtype) for net in (Generator, Discriminator))


def images(g, z, routes=None):
    with no_grad():
        return g(Tensor(z), routes).data


# ---- shapes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size, side, depth", [(28, 32, 3), (32, 32, 3), (64, 64, 4), (128, 128, 5)])
def test_shapes(size, side, depth, channels, rng):
    config = tiny(size=size, channels=channels)
    assert (config.side, config.depth, len(config.bank)) == (side, depth, depth + 1)
    g, d = nets(config)
    z, routes = g.draw_noise(rng, 5), g.draw_routes(rng, 5)
    assert z.shape == (5, 3) and z.dtype == np.float32 and routes.shape == (5, depth + 1)
    pictures = g(Tensor(z), routes)
    assert pictures.shape == (5, channels, side, side) and pictures.dtype == np.float32
    assert 0 <= pictures.data.min() < pictures.data.max() <= 1
    assert d(pictures).shape == (5,)


@pytest.mark.parametrize("size, widths", [(32, (256, 128, 64, 1)), (64, (512, 256, 128, 64, 1))])
def test_widths_of_the_paper(size, widths):
    """Shapes of Xiang & Li's net; the discriminator is the mirror image."""
    class Zeros:
        uniform = staticmethod(lambda low, high, shape: np.broadcast_to(np.float32(0), shape))

    config = GANConfig(size=size, bank=1)
    g, d = Generator(config, rng=Zeros()), Discriminator(config, rng=Zeros())
    assert g.projection.weight.shape == (1, 128, widths[0] * 16, 1, 1)
    assert [layer.weight.shape for layer in g.deconvs] == [
        (1, a, b, 4, 4) for a, b in zip(widths, widths[1:], strict=False)]
    up = widths[::-1]
    assert [layer.weight.shape for layer in [*d.convs, d.last]] == [
        (1, b, a, 4, 4) for a, b in zip(up, (*up[1:], 1), strict=True)]
    assert [layer.norm for layer in [*g.deconvs, *d.convs, d.last]] == (
        ["strict"] * (len(g.deconvs) - 1) + ["affine"] + ["strict"] * len(d.convs) + ["affine"])
    assert all((layer.stride, layer.padding) == ((2, 2), (1, 1)) for layer in [*g.deconvs, *d.convs])
    assert (d.last.stride, d.last.padding) == ((1, 1), (0, 0))


def test_the_same_noise_and_route_make_the_same_image(rng):
    g, _ = nets(tiny())
    z, routes = g.draw_noise(rng, 4), g.draw_routes(rng, 4)
    assert np.array_equal(images(g, z, routes), images(g, z, routes))
    alone = np.concatenate([images(g, z[n:n + 1], routes[n:n + 1]) for n in range(4)])
    assert np.allclose(images(g, z, routes), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layers_route_changes_the_image(layer, rng):
    g, _ = nets(tiny(bank=3))
    z, routes = g.draw_noise(rng, 2), np.zeros((2, 4), int)
    changed = routes.copy()
    changed[1, layer] = 2
    before, after = images(g, z, routes), images(g, z, changed)
    assert abs(before[0] - after[0]).max() < 1e-5 < 1e-3 < abs(before[1] - after[1]).max()


def test_z_is_standard_normal(rng):
    g, _ = nets(tiny(latent_dim=50))
    z = g.draw_noise(rng, 400)
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03


# ---- the plain GAN is the SGAN with banks of one -----------------------------------------------------------------


def test_banks_of_one_are_the_plain_gan(rng):
    """Rebuilt from ordinary layers, as Xiang & Li describe it: linear, reshape, TPReLU, transposed convolutions."""
    g, _ = nets(tiny(bank=1))
    assert g.config.bank == (1, 1, 1, 1) and g.config.route_count == 1
    linear = Linear(3, 8 * 16, norm="strict", rng=rng)
    linear.weight.data[0, :, :, 0, 0] = g.projection.weight.data[0, :, :, 0, 0].T
    z = g.draw_noise(rng, 4)
    x = linear(Tensor(z)).reshape(4, 4, 4, 8).transpose(0, 3, 1, 2)
    for i, (deconv, act) in enumerate(zip(g.deconvs, g.activations, strict=True)):
        outputs = deconv.weight.shape[2]
        plain = ConvTranspose2d(8 // 2 ** i, outputs, 4, stride=2, padding=1, norm="affine" if i == 2 else "strict",
                                rng=rng)
        plain.load_state_dict(deconv.state_dict())
        x = plain(act(x))
    assert np.allclose(images(g, z), sigmoid(x).data, rtol=0, atol=1e-6)
    assert np.array_equal(images(g, z), images(g, z, np.zeros((4, 4), int)))  # routes may be left out


def test_a_route_through_the_sgan_is_a_plain_gan_with_those_sets(rng):
    """Column l of a route picks the filters of layer l and, with bank_act, the activation that follows it."""
    options = {"norm": "affine", "bank_affine": True, "bank_act": True}
    g, _ = nets(tiny(bank=(2, 3, 4, 2), **options))
    plain, _ = nets(tiny(bank=1, **options))
    for p in g.parameters():
        p.data += 0.1 * rng.standard_normal(p.shape, dtype=np.float32)
    z, route = g.draw_noise(rng, 3), (1, 2, 3, 1)
    for layer, alone, k in zip([g.projection, *g.deconvs], [plain.projection, *plain.deconvs], route, strict=True):
        alone.load_state_dict({name: value[k:k + 1] for name, value in layer.state_dict().items()})
    for act, alone, k in zip(g.activations, plain.activations, route[:-1], strict=True):
        alone.load_state_dict({name: value[k:k + 1] for name, value in act.state_dict().items()})
    assert np.allclose(images(g, z, [route] * 3), images(plain, z), rtol=0, atol=1e-5)


def test_the_discriminator_knows_nothing_of_banks():
    one, other = nets(tiny(bank=1))[1], nets(tiny(bank=4))[1]
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert np.array_equal(p.data, q.data) and not q.bank


# ---- routes ------------------------------------------------------------------------------------------------------


def chi_square(counts):
    expected = sum(counts) / len(counts)
    return sum((c - expected) ** 2 for c in counts) / expected


@pytest.mark.parametrize("mode, groups", [("sample", 6400), ("group:4", 1600)])
def test_routes_are_uniform_and_independent(mode, groups, rng):
    routes = draw_routes(rng, 6400, (8, 8, 1), mode)
    assert routes.shape == (6400, 3) and routes.dtype.kind == "i" and (routes[:, 2] == 0).all()
    drawn = routes[::6400 // groups]
    for column in (0, 1):
        assert chi_square(np.bincount(drawn[:, column], minlength=8)) < 24.3  # 0.1 % point of 7 degrees of freedom
    pairs = np.bincount(8 * drawn[:, 0] + drawn[:, 1], minlength=64)
    assert chi_square(pairs) < 103.4  # 0.1 % point of 63 degrees of freedom


def test_batch_mode_draws_one_route_for_all(rng):
    draws = [draw_routes(rng, 6, (8, 8, 8, 1), "batch") for _ in range(40)]
    assert all((r == r[0]).all() and r.shape == (6, 4) for r in draws)
    assert len({tuple(r[0]) for r in draws}) > 30


def test_group_mode_shares_a_route_among_g_samples_in_a_row(rng):
    routes = draw_routes(rng, 10, (50, 50), "group:4")  # 4 + 4 + 2: n need not be a multiple of g
    assert routes.shape == (10, 2)
    groups = [routes[0:4], routes[4:8], routes[8:10]]
    assert all((r == r[0]).all() for r in groups) and len({tuple(r[0]) for r in groups}) == 3
    assert len(np.unique(draw_routes(rng, 3, (50, 50), "group:100"), axis=0)) == 1


def test_group_of_one_is_sample_and_group_of_all_is_batch():
    for same in (("group:1", "sample"), ("group:9", "batch")):
        one, other = (draw_routes(np.random.default_rng(0), 9, (5, 4), mode) for mode in same)
        assert np.array_equal(one, other)


@pytest.mark.parametrize("mode", ["sample", "batch", "group:3"])
def test_a_tied_ensemble_has_one_index_for_all_layers(mode, rng):
    routes = draw_routes(rng, 300, (6, 6, 6, 1), mode, tied=True)
    assert routes.shape == (300, 4) and (routes[:, :3] == routes[:, :1]).all() and (routes[:, 3] == 0).all()
    if mode == "sample":
        assert chi_square(np.bincount(routes[:, 0], minlength=6)) < 20.5  # 0.1 % point of 5 degrees of freedom


@pytest.mark.parametrize("mode", ["sample", "batch", "group:3"])
@pytest.mark.parametrize("tied", [False, True])
def test_no_samples_no_routes(mode, tied, rng):
    assert draw_routes(rng, 0, (4, 4, 1), mode, tied=tied).shape == (0, 3)


def test_the_generator_draws_by_its_own_settings(rng):
    tied, _ = nets(tiny(bank=5, tied=True))
    routes = tied.draw_routes(rng, 30)
    assert (routes[:, :3] == routes[:, :1]).all() and len(np.unique(routes[:, 0])) == 5
    assert (tied.draw_routes(rng, 30, "batch") == 0).sum() >= 30  # the shared last layer


@pytest.mark.parametrize("mode", ["", "Sample", "group", "group:", "group:0", "group:-1", "group:2.5", "group:²",
                                  "batch:2"])
def test_unknown_route_modes(mode, rng):
    with pytest.raises(UsageError, match="unknown route mode .*use sample, batch or group:g") as caught:
        draw_routes(rng, 4, (2, 2), mode)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bank, options, count", [
    (16, {}, 16 ** 3), (16, {"size": 64}, 65536), (8, {"size": 64}, 4096), ((2, 3, 4, 5), {}, 120), (1, {}, 1),
    (16, {"tied": True}, 16),
])
def test_route_count(bank, options, count):
    assert tiny(bank=bank, **options).route_count == count


@pytest.mark.parametrize("routes, message", [
    (None, r"routes must be of shape \(2, 4\).*not None"),
    (np.zeros((2, 3), int), r"of shape \(2, 4\)"),  # one column short: the last layer would be left out
    (np.zeros((2, 5), int), r"of shape \(2, 4\)"),
    (np.zeros((1, 4), int), r"of shape \(2, 4\)"),
    ([0, 0, 0, 0], r"of shape \(2, 4\)"),
    ([[0, 0, 0, 1]] * 2, r"\[0, 1\)"),
    ([[0, 0, 2, 0]] * 2, r"\[0, 2\)"),
    ([[0, 0, -1, 0]] * 2, r"\[0, 2\)"),
])
def test_wrong_routes(routes, message):
    g, _ = nets(tiny())
    with pytest.raises(TinyganError, match=message) as caught:
        g(Tensor(np.zeros((2, 3), np.float32)), routes)
    assert "\n" not in str(caught.value)


# ---- settings ----------------------------------------------------------------------------------------------------


def test_defaults_are_the_papers_sgan():
    config = GANConfig()
    assert config.bank == (16, 16, 16, 1) and config.route_count == 4096
    assert (config.base_channels, config.latent_dim, config.slope, config.norm) == (64, 128, 0.2, "strict")
    assert GANConfig(size=64).bank == (16, 16, 16, 16, 1)  # 65,536 routes


@pytest.mark.parametrize("bank", [4, (4,), [4], (4, 4, 4, 1), [4, 4, 4, 1]])
def test_ways_to_give_the_bank(bank):
    assert GANConfig(bank=bank).bank == (4, 4, 4, 1)


@pytest.mark.parametrize("options, message", [
    ({"size": 48}, "size is 48: use one of 28, 32, 64, 128"),
    ({"size": "32"}, "size is '32': use one of"),
    ({"channels": 2}, "channels is 2: use one of 1, 3"),
    ({"norm": "batch"}, "norm is 'batch': use one of strict, affine, none"),
    ({"act": "relu"}, "act is 'relu': use one of tprelu, prelu"),
    ({"output": "linear"}, "output is 'linear': use one of sigmoid, tanh"),
    ({"discriminator_input": "11"}, "discriminator_input is '11': use one of pm1, 01"),
    ({"base_channels": 0}, "base_channels is 0: use a whole number of 1 or more"),
    ({"base_channels": 2.5}, "base_channels is 2.5: use a whole number of 1 or more"),
    ({"latent_dim": -3}, "latent_dim is -3: use a whole number of 1 or more"),
    ({"latent_dim": "128"}, "latent_dim is '128': use a whole number of 1 or more"),
    ({"slope": 1.5}, "slope is 1.5: use a number from 0 to 1"),
    ({"slope": math.nan}, "slope is nan: use a number from 0 to 1"),
    ({"init_factor": 0.0}, "init_factor is 0.0: use a positive number"),
    ({"init_factor": math.inf}, "init_factor is inf: use a positive number"),
    ({"bank": 0}, "bank 0: give one whole number from 1 to 1,024, or 4 of them"),
    ({"bank": (4, 4)}, "bank 4,4: give one whole number from 1 to 1,024, or 4 of them"),
    ({"bank": ()}, "bank : give one whole number from 1 to 1,024, or 4 of them"),
    ({"bank": (4, 4, 4, 1), "size": 64}, "bank 4,4,4,1: give one whole number from 1 to 1,024, or 5 of them"),
    ({"bank": (4, -1, 4, 1)}, "bank 4,-1,4,1: give one whole number from 1 to 1,024"),
    ({"bank": 2.5}, "bank 2.5: give one whole number"),
    ({"bank": ("4", 4, 4, 1)}, "bank 4,4,4,1: give one whole number"),
    ({"bank": "16"}, "bank 16: give one whole number"),
    ({"d_base_channels": -1}, "d_base_channels is -1: use a whole number of 0 or more"),
    ({"pack": 0}, "pack is 0: use a whole number of 1 or more"),
    ({"one_hot": (4, 1)}, "one_hot 4,1: give whole numbers from 2 to 65,536"),
    ({"one_hot": "44"}, "one_hot 4,4: give whole numbers from 2 to 65,536"),
    ({"bank": (2, 3, 3, 1), "tied": True}, "bank 2,3,3,1: a tied ensemble has one index for all layers"),
])
def test_wrong_settings(options, message):
    with pytest.raises(UsageError) as caught:
        GANConfig(**options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("config", [GANConfig(), GANConfig(size=64, channels=3, bank=1, norm="affine", act="prelu"),
                                    GANConfig(bank=(3, 1, 3, 1), tied=True, clamp="none", slope=0.25),
                                    GANConfig(d_base_channels=8, pack=2, one_hot=[4, 4])])
def test_settings_go_through_json(config):
    assert GANConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        GANConfig().size = 64


def test_same_seed_same_weights_and_another_seed_others():
    one, same, other = (nets(tiny(), seed=s)[0].state_dict() for s in (0, 0, 1))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["projection.weight"], other["projection.weight"])


def test_initial_weights(rng):
    """init_factor is the projection's alone; all others start at 1 / sqrt(inputs x kernel)."""
    g, d = nets(tiny(base_channels=4, latent_dim=16, init_factor=0.01))
    assert 0.9 < abs(g.projection.weight.data).max() / (0.01 / math.sqrt(16)) <= 1 + 1e-6
    for layer in [*g.deconvs, *d.convs]:
        fan_in = layer.weight.shape[1 if isinstance(layer, StochasticConvTranspose2d) else 2] * 16
        assert 0.9 < abs(layer.weight.data).max() * math.sqrt(fan_in) <= 1 + 1e-6
    assert all((a.slope.data == np.float32(0.2)).all() for a in [*g.activations, *d.activations])


# ---- the whole net's gradient ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, {"norm": "affine", "bank_affine": True, "bank_act": True}, {"norm": "none", "act": "prelu", "output": "tanh"}])
def test_gradient_of_both_nets_end_to_end(options, rng):
    """A loss through G and D along a random direction over all their parameters, against a central difference."""
    g, d = nets(tiny(base_channels=1, init_factor=1.0, **options), dtype=np.float64)
    z, routes = Tensor(rng.standard_normal((3, 3))), g.draw_routes(rng, 3)
    real = Tensor(rng.random((3, 1, 32, 32)))
    parameters = [*g.named_parameters("g."), *d.named_parameters("d.")]
    start = [p.data.copy() for _, p in parameters]

    def loss():
        fake = d(g(z, routes))
        return discriminator_loss(real=d(real), fake=fake) + 2.0 * generator_loss(fake=fake)

    value = loss()
    assert value.dtype == np.float64
    value.backward()
    directions = [rng.standard_normal(p.shape) / math.sqrt(p.size) for _, p in parameters]

    def along(h, chosen):
        for i, (_, p) in enumerate(parameters):
            p.data[...] = start[i] + (h * directions[i] if i in chosen else 0)
        return loss().item()

    every = range(len(parameters))
    for chosen in [every, *([i] for i in every)]:  # all at once, and each parameter by itself
        numeric = (along(1e-7, chosen) - along(-1e-7, chosen)) / 2e-7  # a longer step would cross a PReLU's kink
        analytic = sum((parameters[i][1].grad.data * directions[i]).sum() for i in chosen)
        names = ", ".join(parameters[i][0] for i in chosen)
        assert numeric == pytest.approx(analytic, rel=1e-5, abs=1e-8), names
        assert any((parameters[i][1].grad.data != 0).any() for i in chosen), names


def test_a_routed_step_reaches_exactly_the_sets_on_the_route(rng):
    g, d = nets(tiny(bank=4))
    with frozen(d):
        generator_loss(fake=d(g(Tensor(g.draw_noise(rng, 3)), [[0, 1, 2, 0], [0, 3, 2, 0], [0, 1, 1, 0]]))).backward()
    used = [layer.weight.grad.rows.tolist() for layer in [g.projection, *g.deconvs[:2]]]
    assert used == [[True, False, False, False], [False, True, False, True], [False, True, True, False]]
    assert g.deconvs[2].weight.grad.rows is None


# ---- every option trains -----------------------------------------------------------------------------------------


def train(g, d, rng, steps=1, mode="sample"):
    """Take steps of both nets as the training script does; returns all losses."""
    g_steps, d_steps, losses = RMSprop(g.named_parameters()), RMSprop(d.named_parameters()), []
    side, channels = g.config.side, g.config.channels
    for _ in range(steps):
        real = Tensor(rng.random((4, channels, side, side), dtype=np.float32))
        drawn = [(Tensor(g.draw_noise(rng, 4)), g.draw_routes(rng, 4, mode)) for _ in range(2)]
        d_loss, _, _ = turn_of_d(g, d, d_steps, real, drawn[0])
        g_loss = turn_of_g(g, d, g_steps, drawn[1])
        losses += [d_loss.item(), g_loss.item()]
    return losses


@pytest.mark.parametrize("options", [
    {}, {"bank": 1}, {"tied": True}, {"size": 64, "channels": 3}, {"size": 28}, {"norm": "affine"}, {"norm": "none"},
    {"act": "prelu"}, {"slope": 0.25}, {"clamp": "none"}, {"clamp": "forward"}, {"init_scale": 0.125},
    {"norm": "affine", "bank_affine": True},
    {"norm": "none", "bank_affine": True}, {"bank_act": True}, {"bank_act": True, "act": "prelu"},
    {"init_factor": 1.0}, {"discriminator_input": "01"}, {"output": "tanh"},
    {"d_base_channels": 3, "pack": 2, "one_hot": (2, 3), "channels": 3},
], ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "default")
def test_every_option_trains(options, rng):
    g, d = nets(tiny(**options))
    before = g.state_dict() | {"d." + name: v for name, v in d.state_dict().items()}
    assert np.isfinite(train(g, d, rng)).all()
    after = g.state_dict() | {"d." + name: v for name, v in d.state_dict().items()}
    assert all(np.isfinite(v).all() for v in after.values())
    for name, value in after.items():
        assert (value != before[name]).any(), f"{name} did not move"
    pictures = images(g, g.draw_noise(rng, 4), g.draw_routes(rng, 4))
    assert 0 <= pictures.min() < pictures.max() <= 1


@pytest.mark.parametrize("mode", ["sample", "batch", "group:2"])
def test_every_route_mode_trains(mode, rng):
    g, d = nets(tiny())
    assert np.isfinite(train(g, d, rng, steps=2, mode=mode)).all()


def test_options_mean_what_they_say(rng):
    z, pictures = rng.standard_normal((2, 3), dtype=np.float32), rng.random((2, 1, 32, 32), dtype=np.float32)

    def discriminate(shift_and_scale, **options):
        a, b = shift_and_scale
        return nets(tiny(**options))[1](Tensor(a * pictures + b)).data

    assert np.allclose(discriminate((1, 0)), discriminate((2, -1), discriminator_input="01"), rtol=0, atol=1e-6)
    a, b = (images(nets(tiny(bank=1, output=o))[0], z) for o in ("sigmoid", "tanh"))
    logit = np.log(a / (1 - a))
    assert np.allclose(b, (np.tanh(logit) + 1) / 2, rtol=0, atol=1e-5)  # the same numbers under another curve
    a, b = (images(nets(tiny(bank=1, init_factor=f))[0], z) for f in (1.0, 4.0))
    assert np.allclose(a, b, rtol=0, atol=1e-4)  # weight normalisation is blind to the initial length
    shapes = {name: p.shape for name, p in nets(tiny(norm="affine", bank_affine=True, bank_act=True))[0]
              .named_parameters()}
    assert shapes["deconvs.0.gain"] == (2, 4) and shapes["activations.2.shift"] == (2, 2)
    assert shapes["deconvs.2.gain"] == (1, 1)


def test_a_discriminator_of_packs_takes_images_in_a_row_as_channels(rng):
    """Its logits are those of an ordinary one with the same weights for images of twice as many colours."""
    g, d = nets(tiny(pack=3, d_base_channels=5))
    assert [c.weight.shape[1:3] for c in d.convs] == [(5, 3), (10, 5), (20, 10)] and g.deconvs[0].weight.shape[1] == 8
    pictures = rng.random((6, 1, 32, 32), dtype=np.float32)
    _, plain = nets(tiny(channels=3, d_base_channels=5))
    plain.load_state_dict(d.state_dict())
    logits = d(Tensor(pictures))
    assert logits.shape == (2,) and np.array_equal(logits.data, plain(Tensor(pictures.reshape(2, 3, 32, 32))).data)


def test_one_hot_vectors_follow_noise_that_stays_as_it_is(rng):
    g, _ = nets(tiny(one_hot=(4, 9)))
    assert g.config.noise_length == 16 == g.projection.weight.shape[1]
    z = g.draw_noise(np.random.default_rng(5), 4000)
    assert z.dtype == np.float32 and np.array_equal(
        z[:, :3], nets(tiny())[0].draw_noise(np.random.default_rng(5), 4000))
    for code, k in ((z[:, 3:7], 4), (z[:, 7:], 9)):
        assert set(np.unique(code)) == {0, np.float32(k ** 0.5)} and ((code != 0).sum(axis=1) == 1).all()
        assert (code ** 2).mean() == pytest.approx(1)
        assert chi_square((code != 0).sum(axis=0)) < 26.1  # 0.1 % point of 8 degrees of freedom
    assert np.isfinite(images(g, z[:2], [[0, 1, 0, 0]] * 2)).all()


@pytest.mark.parametrize("player", [0, 1])
def test_activations_follow_the_settings(player):
    acts = nets(tiny(slope=0.25, clamp="none"))[player].activations
    assert all(a.clamp == "none" and a.shift is not None and (a.slope.data == 0.25).all() for a in acts)
    acts = nets(tiny(act="prelu"))[player].activations
    assert all(a.clamp == "project" and a.shift is None for a in acts)


def test_one_seed_gives_one_history():
    histories = []
    for _ in range(2):
        g, d = nets(tiny())
        losses = train(g, d, np.random.default_rng(9), steps=3)
        histories.append((losses, g.state_dict(), d.state_dict()))
    (losses, g, d), (same_losses, same_g, same_d) = histories
    assert losses == same_losses
    assert all(np.array_equal(g[name], same_g[name]) for name in g)
    assert all(np.array_equal(d[name], same_d[name]) for name in d)
