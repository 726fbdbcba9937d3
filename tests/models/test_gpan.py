"""The GPAN's nets: shapes at every size, routes, the inputs' effects, errors, and the whole nets' gradients."""

import json
import math

import numpy as np
import pytest

from tinygan import Tensor, check_grads, no_grad, ops
from tinygan.errors import TinyganError, UsageError
from tinygan.models.gpan.nets import BOTTLENECK, SIZES, WHITEST, GPANConfig, GPANGenerator, PatchDiscriminator, shrink


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def tiny(**options):
    return GPANConfig(**({"size": 64, "base_channels": 1, "patch_channels": 1, "noise_dim": 2, "bank": 2,
                          "categories": 3} | options))


def nets(config, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return tuple(net(config, rng=rng, dtype=dtype) for net in (GPANGenerator, PatchDiscriminator))


def inputs(g, rng, n=2, dtype=np.float32):
    """(x, code, noise) of n images, x within [-1, 1] as a substrate is."""
    config = g.config
    x = rng.uniform(-1, 1, (n, config.condition_channels, config.size, config.size)).astype(dtype)
    code = (np.arange(n * config.categories).reshape(n, -1) % 2).astype(dtype)
    return Tensor(x), Tensor(code), Tensor(g.draw_noise(rng, n).astype(dtype))


def paint(g, given, routes=None):
    with no_grad():
        return g(*given, routes)[0].data


# ---- shapes ------------------------------------------------------------------------------------------------------

SIDES = {  # size: sides of the maps out of the banks, of the others, side of the discriminator's input, and its grid
    64: ([4, 8, 16, 32], [64], 64, 30),
    128: ([4, 8, 16, 32, 64], [128], 128, 30),
    256: ([4, 8, 16, 32, 64], [128, 256], 256, 30),
    512: ([4, 8, 16, 32, 64], [128, 256, 512], 512, 62),
    1024: ([4, 8, 16, 32, 64], [128, 256, 512, 1024], 512, 62),
}


def test_the_table_of_sides_is_complete():
    assert tuple(SIDES) == SIZES


@pytest.mark.parametrize("size", SIDES)
def test_shapes(size, rng):
    stochastic, ordinary, input_side, grid = SIDES[size]
    config = tiny(size=size)
    assert (config.stochastic_sides, config.ordinary_sides) == (stochastic, ordinary)
    assert config.bank == (2,) * len(stochastic) and config.route_count == 2 ** len(stochastic)
    assert config.encoder_sides == [input_side >> i for i in range(1, int(math.log2(input_side)))]
    assert config.encoder_sides[-1] == BOTTLENECK
    g, d = nets(config)
    n = 2 if size < 512 else 1
    x, code, noise = inputs(g, rng, n)
    with no_grad():
        images, maps = g(x, code, noise, g.draw_routes(rng, n))
        logits = d(x, images)
    assert images.shape == (n, 3, size, size) and images.dtype == np.float32
    assert -1 <= images.data.min() < images.data.max() <= 1
    assert [m.shape for m in maps] == [(n, config.decoder_width(side), side, side) for side in stochastic]
    assert logits.shape == (n, 1, grid, grid) and d.grid == (grid, grid)


@pytest.mark.parametrize("channels, condition_channels", [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_grey_and_colour(channels, condition_channels, rng):
    config = tiny(channels=channels, condition_channels=condition_channels, start="nothing")
    g, d = nets(config)
    x, code, noise = inputs(g, rng)
    images, _ = g(x, code, noise, np.zeros((2, 4), int))
    assert images.shape == (2, channels, 64, 64) and d(x, images).shape == (2, 1, 30, 30)


def test_widths_of_the_paper():
    """At 1,024 pixels: pix2pix's encoder of 512 pixels, the same widths back up to the image, its discriminator."""
    class Zeros:
        uniform = staticmethod(lambda low, high, shape: np.broadcast_to(np.float32(0), shape))

    config = GPANConfig(size=1024, base_channels=64, patch_channels=64, noise_dim=16, categories=3, skips="all")
    g, d = GPANGenerator(config, rng=Zeros()), PatchDiscriminator(config, rng=Zeros())
    assert [conv.weight.shape[1] for conv in g.convs] == [64, 128, 256, 512, 512, 512, 512, 512]
    widths = [deconv.weight.shape[2] for deconv in g.deconvs]
    assert widths == [512, 512, 512, 512, 512, 256, 128, 64, 3]
    assert [deconv.weight.shape[0] for deconv in g.deconvs] == [4] * 5 + [1] * 4
    # What each layer reads: the map before it and the encoder's of the same side; the last, the encoder's input.
    assert [deconv.weight.shape[1] for deconv in g.deconvs] == [
        512 + 3 + 16, 512 + 512, 512 + 512, 512 + 512, 512 + 512, 512 + 256, 256 + 128, 128 + 64, 64 + 3]
    assert [conv.weight.shape[1:3] for conv in [*d.convs, d.last]] == [(64, 6), (128, 64), (256, 128), (512, 256),
                                                                      (1, 512)]
    assert [conv.stride[0] for conv in [*d.convs, d.last]] == [2, 2, 2, 1, 1]
    assert [layer.norm for layer in g.deconvs] == ["strict"] * 8 + ["affine"] and d.last.norm == "affine"


def test_what_is_larger_than_the_encoder_is_averaged_down(rng):
    x = rng.standard_normal((1, 2, 8, 8))
    assert np.allclose(shrink(Tensor(x), 4).data, x.reshape(1, 2, 4, 2, 4, 2).mean(axis=(3, 5)))
    same = Tensor(x)
    assert shrink(same, 8) is same


# ---- routes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_every_layers_route_changes_one_image_alone(layer, rng):
    config = tiny(bank=3)
    g, _ = nets(config)
    given, routes = inputs(g, rng), np.zeros((2, 4), int)
    changed = routes.copy()
    changed[1, layer] = 2
    before, after = paint(g, given, routes), paint(g, given, changed)
    assert abs(before[0] - after[0]).max() < 1e-5 < 1e-3 < abs(before[1] - after[1]).max()


def test_an_image_does_not_depend_on_its_batch(rng):
    config = tiny()
    g, _ = nets(config)
    given, routes = inputs(g, rng, 4), g.draw_routes(rng, 4)
    alone = [paint(g, [part[i:i + 1] for part in given], routes[i:i + 1]) for i in range(4)]
    assert np.allclose(paint(g, given, routes), np.concatenate(alone), rtol=0, atol=1e-5)


def test_a_bank_of_one_needs_no_routes(rng):
    config = tiny(bank=1)
    g, _ = nets(config)
    given = inputs(g, rng)
    assert config.route_count == 1
    assert np.array_equal(paint(g, given), paint(g, given, np.zeros((2, 4), int)))


def test_a_gradient_reaches_exactly_the_sets_on_the_routes(rng):
    config = tiny(bank=4)
    g, _ = nets(config)
    images, _ = g(*inputs(g, rng), [[0, 1, 2, 3], [0, 3, 2, 1]])
    (images * Tensor(rng.standard_normal(images.shape).astype(np.float32))).sum().backward()
    used = [layer.weight.grad.rows.tolist() for layer in g.deconvs[:4]]
    assert used == [[True, False, False, False], [False, True, False, True], [False, False, True, False],
                    [False, True, False, True]]
    for layer, rows in zip(g.deconvs, used, strict=False):
        assert [bool(grad.any()) for grad in layer.weight.grad.data] == rows


# ---- the inputs' effect on an image ------------------------------------------------------------------------------


@pytest.mark.parametrize("categories, noise_dim", [(3, 2), (1, 16), (20, 1)])
@pytest.mark.parametrize("part", ["x", "code", "noise"])
def test_substrate_code_and_noise_change_the_image(part, categories, noise_dim, rng):
    """Each changes the image that it belongs to, well above rounding, and no other."""
    config = tiny(categories=categories, noise_dim=noise_dim, base_channels=2)
    g, _ = nets(config)
    given, routes = list(inputs(g, rng)), np.zeros((2, 4), int)
    before = paint(g, given, routes)
    index = ("x", "code", "noise").index(part)
    changed = given[index].numpy().copy()
    changed[1] = -changed[1] if part == "x" else 1 - changed[1]
    given[index] = Tensor(changed)
    after = paint(g, given, routes)
    assert abs(before[0] - after[0]).max() < 1e-5 < 1e-2 < abs(before[1] - after[1]).max()


def test_maps_cannot_grow_where_they_are_bounded(rng):
    """Ten times the weights of a layer without weight normalisation: its map is as large as before, or ten times."""
    for map_norm, factor in (("pixel", 1.0), ("none", 10.0)):
        config = tiny(map_norm=map_norm, norm="none", base_channels=4)
        g, _ = nets(config, dtype=np.float64)
        given, sizes = inputs(g, rng, dtype=np.float64), []
        for scale in (1.0, 10.0):
            g.deconvs[3].weight.data[...] *= scale
            with no_grad():
                sizes.append([abs(m.data).mean() for m in g(*given, np.zeros((2, 4), int))[1]])
        assert sizes[1][:3] == sizes[0][:3]
        assert sizes[1][3] / sizes[0][3] == pytest.approx(factor, rel=1e-4)
        if map_norm == "pixel":
            assert all(0.1 < size <= 1.01 for size in sizes[1])


def test_a_few_channels_are_as_large_as_the_encoders_many(rng):
    """The first layer reads 8 channels of the encoder, one of the code and two of noise: they are scaled up."""
    config = tiny(base_channels=4, categories=1)
    g, _ = nets(config)
    width = config.encoder_width(BOTTLENECK)
    _, code, noise = inputs(g, rng)
    assert g._gain(code) == pytest.approx(width ** 0.5) and g._gain(noise) == pytest.approx((width / 2) ** 0.5)


def test_no_noise_at_all(rng):
    config = tiny(noise_dim=0)
    g, _ = nets(config)
    assert g.draw_noise(rng, 3).size == 0
    assert np.isfinite(paint(g, inputs(g, rng), np.zeros((2, 4), int))).all()


def test_start_at_the_substrate(rng):
    """With a last layer that adds nothing, the image is the substrate; from nothing, it is grey whatever x is."""
    for start in ("substrate", "nothing"):
        config = tiny(start=start)
        g, _ = nets(config)
        g.deconvs[-1].gain.data[...] = 0.0
        x, code, noise = inputs(g, rng)
        images = paint(g, (x, code, noise), np.zeros((2, 4), int))
        expected = WHITEST * x.data if start == "substrate" else np.zeros_like(x.data)
        assert np.allclose(images, expected, rtol=0, atol=1e-6)


def test_a_white_substrate_can_still_be_painted_on(rng):
    """At tanh's end no gradient is left: so a white pixel starts a little below it."""
    config = tiny()
    g, _ = nets(config, dtype=np.float64)
    x, code, noise = inputs(g, rng, dtype=np.float64)
    x = Tensor(np.ones_like(x.data))
    images, _ = g(x, code, noise, np.zeros((2, 4), int))
    images.sum().backward()
    assert abs(g.deconvs[-1].gain.grad.data).max() > 1e-3


@pytest.mark.parametrize("skips, widths", [("none", [0, 0, 0, 0]), ("upper", [0, 0, 0, 1]), ("all", [8, 4, 2, 1])])
def test_skips(skips, widths, rng):
    """Channels that the layers after the sides 4, 8, 16, 32 read beside the decoder's own."""
    config = tiny(skips=skips)
    assert [config.skip_width(side) for side in (4, 8, 16, 32)] == widths
    g, _ = nets(config)
    decoder = [config.decoder_width(side) for side in (4, 8, 16, 32)]
    assert [deconv.weight.shape[1] for deconv in g.deconvs[1:]] == [a + b for a, b in zip(decoder, widths, strict=True)]
    assert np.isfinite(paint(g, inputs(g, rng), np.zeros((2, 4), int))).all()


def test_without_skips_a_shifted_outline_reaches_the_image_through_the_bottleneck_alone(rng):
    """If the bottleneck is cut off, an image without skips does not depend on x; with them it does."""
    for skips, knows in (("none", False), ("upper", True), ("all", True)):
        config = tiny(skips=skips, start="nothing")
        g, _ = nets(config)
        g.deconvs[0].weight.data[:, :config.encoder_width(BOTTLENECK)] = 0.0
        x, code, noise = inputs(g, rng)
        other = Tensor(x.data[:, :, ::-1].copy())
        routes = np.zeros((2, 4), int)
        moved = abs(paint(g, (x, code, noise), routes) - paint(g, (other, code, noise), routes)).max()
        assert (moved > 1e-3) == knows, skips


@pytest.mark.parametrize("smooth", [0, 1, 2, 9])
def test_smooth_takes_away_the_grid_of_single_pixels(smooth, rng):
    """A blur of [1 2 1] is 0 at the highest frequency. White noise of a last layer shows it: without, it stays."""
    config = tiny(smooth=smooth, start="nothing", base_channels=4)
    g, _ = nets(config)
    images = np.arctanh(paint(g, inputs(g, rng), np.zeros((2, 4), int)).astype(np.float64))
    signs = (-1.0) ** np.arange(64)
    window = np.hanning(48)  # or the window's own edges would count as the highest frequency
    along = (images[:, :, 8:-8, 8:-8] * (signs[8:-8] * window / window.sum())).sum(axis=3)
    share = abs(along).max() / images.std()
    assert (share < 0.01) == (smooth > 0), share


# ---- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, message", [
    ({"size": 32}, "size is 32: use one of 64, 128, 256, 512, 1024"),
    ({"size": "64"}, "size is '64'"),
    ({"channels": 2}, "channels is 2: use one of 1, 3"),
    ({"condition_channels": 4}, "condition_channels is 4: use one of 1, 3"),
    ({"skips": "some"}, "skips is 'some': use one of none, upper, all"),
    ({"start": "noise"}, "start is 'noise': use one of substrate, nothing"),
    ({"norm": "batch"}, "norm is 'batch'"),
    ({"map_norm": "batch"}, "map_norm is 'batch': use one of pixel, none"),
    ({"act": "relu"}, "act is 'relu'"),
    ({"clamp": "hard"}, "clamp is 'hard'"),
    ({"base_channels": 0}, "base_channels is 0: use a whole number of 1 or more"),
    ({"base_channels": 1.5}, "base_channels is 1.5: use a whole number"),
    ({"patch_channels": -1}, "patch_channels is -1"),
    ({"categories": 0}, "categories is 0"),
    ({"noise_dim": -1}, "noise_dim is -1: use a whole number of 0 or more"),
    ({"smooth": -1}, "smooth is -1: use a whole number of 0 or more"),
    ({"slope": 1.5}, "slope is 1.5: use a number from 0 to 1"),
    ({"slope": math.nan}, "slope is nan: use a number from 0 to 1"),
    ({"channels": 1}, "start substrate adds x to the image, but they have 3 and 1 channels: use start nothing"),
    ({"bank": 0}, "bank 0: give one whole number from 1 to"),
    ({"bank": (2, 2)}, "bank 2,2: give one whole number from 1 to"),
    ({"bank": ()}, "bank : give one whole number from 1 to"),
    ({"bank": (2, 2, 2, 2, 2)}, "bank 2,2,2,2,2: give one whole number from 1 to"),
    ({"bank": (2, 2, 2, -2)}, "bank 2,2,2,-2: give"),
    ({"bank": "four"}, "bank four: give"),
])
def test_wrong_settings(options, message):
    with pytest.raises(UsageError) as caught:
        tiny(**options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil, message", [
    (lambda x, code, noise, routes: (x, code, noise, None), r"routes must be of shape \(2, 4\).*not None"),
    (lambda x, code, noise, routes: (x, code, noise, routes[:, :3]), r"routes must be of shape \(2, 4\)"),
    (lambda x, code, noise, routes: (x, code, noise, routes[:1]), r"routes must be of shape \(2, 4\)"),
    (lambda x, code, noise, routes: (x, code, noise, routes + 2), r"\[0, 2\)"),
    (lambda x, code, noise, routes: (x, code, noise, routes - 1), r"\[0, 2\)"),
    (lambda x, code, noise, routes: (x[:, :1], code, noise, routes), r"x must be of shape \(2, 3, 64, 64\)"),
    (lambda x, code, noise, routes: (x[:, :, ::2], code, noise, routes), r"x must be of shape \(2, 3, 64, 64\)"),
    (lambda x, code, noise, routes: (x, code[:, :2], noise, routes), r"code must be of shape \(2, 3\)"),
    (lambda x, code, noise, routes: (x, code[:1], noise, routes), r"code must be of shape \(2, 3\)"),
    (lambda x, code, noise, routes: (x, code, code, routes), r"noise must be of shape \(2, 2"),
])
def test_wrong_inputs(spoil, message, rng):
    config = tiny()
    g, _ = nets(config)
    with pytest.raises(TinyganError, match=message) as caught:
        g(*spoil(*inputs(g, rng), np.zeros((2, 4), int)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [GPANConfig(), tiny(bank=(1, 2, 3, 4), skips="all", start="nothing", channels=1),
                                    GPANConfig(size=1024, norm="affine", act="prelu", clamp="none", smooth=0)])
def test_settings_go_through_json(config):
    assert GPANConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_the_same_seed_makes_the_same_weights_and_another_seed_others():
    one, same, other = (nets(tiny(), seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["convs.0.weight"], other["convs.0.weight"])


def test_draws_are_those_of_the_config(rng):
    g, _ = nets(tiny(bank=(1, 2, 3, 4), noise_dim=300))
    routes, noise = g.draw_routes(rng, 200), g.draw_noise(rng, 200)
    assert routes.shape == (200, 4) and routes.max(axis=0).tolist() == [0, 1, 2, 3]
    assert noise.shape[:2] == (200, 300) and noise.dtype == np.float32 and abs(noise.std() - 1) < 0.02
    assert len(np.unique(g.draw_routes(rng, 8, "batch"), axis=0)) == 1


# ---- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"skips": "all", "norm": "affine", "smooth": 0, "map_norm": "pixel"},
                                     {"skips": "none", "map_norm": "pixel", "norm": "none", "act": "prelu",
                                      "start": "nothing"}])
def test_gradient_of_both_nets_end_to_end(options, rng):
    """A loss of images, maps and logits along a random direction over all parameters, and over each alone, against a
    central difference; so a gradient reaches every parameter of both nets, and it is the right one."""
    config = tiny(base_channels=2, patch_channels=2, **options)  # with one channel a slope may rest: all is positive
    g, d = nets(config, dtype=np.float64)
    given, routes = inputs(g, rng, dtype=np.float64), np.array([[0, 1, 0, 1], [1, 0, 0, 0]])
    parameters = [*g.named_parameters("g."), *d.named_parameters("d.")]
    for _, p in parameters:  # away from the kinks at 0 of biases and shifts that start there
        p.data += 0.05 * rng.standard_normal(p.shape)
    start = [p.data.copy() for _, p in parameters]
    with no_grad():
        images, maps = g(*given, routes)
        cotangents = [rng.standard_normal(t.shape) for t in (images, *maps, d(given[0], images))]

    def loss():
        images, maps = g(*given, routes)
        found = (images, *maps, d(given[0], images))
        return sum((t * Tensor(c)).sum() * (1.0 / t.size ** 0.5) for t, c in zip(found, cotangents, strict=True))

    value = loss()
    assert value.dtype == np.float64
    value.backward()
    directions = [rng.standard_normal(p.shape) / math.sqrt(p.size) for _, p in parameters]

    def along(h, chosen):
        for i, (_, p) in enumerate(parameters):
            p.data[...] = start[i] + (h * directions[i] if i in chosen else 0)
        with no_grad():
            return loss().item()

    every = range(len(parameters))
    for chosen in [every, *([i] for i in every)]:
        numeric = (along(1e-7, chosen) - along(-1e-7, chosen)) / 2e-7  # a longer step would cross a PReLU's kink
        analytic = sum((parameters[i][1].grad.data * directions[i]).sum() for i in chosen)
        names = ", ".join(parameters[i][0] for i in chosen)
        assert numeric == pytest.approx(analytic, rel=1e-4, abs=1e-6), names
        assert all((parameters[i][1].grad.data != 0).any() for i in chosen), names


@pytest.mark.parametrize("start", ["substrate", "nothing"])
def test_gradients_with_respect_to_what_is_given(start, rng):
    """With activations of slope 1, the identity, differences meet no kink: layers, skips, blurs, start."""
    config = tiny(channels=1, condition_channels=1, skips="all", start=start, slope=1.0)
    g, d = nets(config, dtype=np.float64)
    x, code, noise = (t.data for t in inputs(g, rng, dtype=np.float64))
    routes = np.array([[0, 1, 0, 1], [1, 1, 0, 0]])
    check_grads(lambda x, code, noise: g(x, code, noise, routes)[0], [x * 0.8, code, noise], order=1, draws=1)
    check_grads(lambda x, code, noise: ops.concatenate([m.reshape(-1) for m in g(x, code, noise, routes)[1]]),
                [x, code, noise], order=1, draws=1)
    check_grads(d, [x, rng.uniform(-1, 1, x.shape)], order=1, draws=1)


def test_everything_is_float32(rng, monkeypatch):
    kinds = set()
    set_data = Tensor._set

    def spy(tensor, array, *rest):
        kinds.add(array.dtype.name)
        set_data(tensor, array, *rest)

    config = tiny(skips="all")
    g, d = nets(config)
    given = inputs(g, rng)
    monkeypatch.setattr(Tensor, "_set", spy)
    images, maps = g(*given, np.zeros((2, 4), int))
    (d(given[0], images).mean() + sum(m.mean() for m in maps)).backward()
    assert kinds == {"float32"}
    assert {p.grad.dtype for net in (g, d) for p in net.parameters()} == {np.dtype("float32")}
