"""One step of the GPAN against its slow definition: all losses in one graph, one backward pass from their weighted sum.

Everything is float64 and as small as it can be. The step must give the same gradient in every parameter, of either net,
whatever the settings; the parts that it is made of are held one by one after that.
"""

from dataclasses import replace

import numpy as np
import pytest

from tinygan import Tensor, frozen, grad, no_grad
from tinygan.app.gpan_measure import gradient_norms, gradient_squares
from tinygan.models.classifiers.digits import DigitNet
from tinygan.models.classifiers.gradcam import grad_cam
from tinygan.models.classifiers.load import find_classifier
from tinygan.models.gpan import losses
from tinygan.models.gpan import step as gpan_step
from tinygan.models.gpan.losses import CAM_MODES, LossSettings
from tinygan.models.gpan.nets import Batch, GPANConfig, GPANGenerator, PatchDiscriminator
from tinygan.models.gpan.step import (
    CAM_SIDE,
    learn_discriminator,
    learn_generator,
    loss_gradients,
    select_view,
)
from tinygan.models.gpan.views import ViewSettings, apply_views, draw_views, plain_view

pytest.importorskip("h5py")
CONFIG = GPANConfig(size=64, base_channels=1, patch_channels=1, noise_dim=2, bank=(2,), categories=3)
WANTED = (3, 5)
N = 4
WEIGHTS = {"split": 3.0, "cgan": 10.0, "vgg": 2.0, "background": 25.0, "substrate": 7.0}  # of like effect


@pytest.fixture(scope="module")
def classifier():
    net = DigitNet(rng=np.random.default_rng(0), dtype=np.float64)
    found = find_classifier()
    if found is None:
        pytest.skip("no digit classifier")
    net.load_state_dict(found.state_dict())
    return net.freeze()


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.fixture
def nets(rng):
    """(G, D) in float64, their biases and shifts away from the zeros that they start with."""
    made = [net(CONFIG, rng=rng, dtype=np.float64) for net in (GPANGenerator, PatchDiscriminator)]
    for net in made:
        for p in net.parameters():
            p.data += 0.05 * rng.standard_normal(p.shape)
    return made


@pytest.fixture
def batch(rng, nets):
    mask = np.zeros((N, 1, 64, 64))
    mask[:, :, 16:50, 12:52] = 1.0
    target = 1 - mask * rng.uniform(0.2, 1.8, (N, 3, 1, 1))
    code = np.tile([1.0, 1.0, 0.0], (N, 1))
    return Batch(Tensor(target), Tensor(mask), Tensor(target), Tensor(np.repeat(2 * mask - 1, 3, axis=1)), Tensor(code),
                 Tensor(nets[0].draw_noise(rng, N).astype(np.float64)), nets[0].draw_routes(rng, N), WANTED)


def part(batch, rows):
    return Batch(*(item[rows] for item in batch[:-1]), batch.wanted)


def some_views(rng, n=N, **options):
    """Views without noise, so that all at once are the same as one after the other."""
    return draw_views(rng, n, ViewSettings(**{"per_image": 2, "noise": 0.0, "scale": (0.8, 1.1)} | options), 64, 64, 28)


def gradients(net):
    return {name: p.grad.numpy().copy() for name, p in net.named_parameters() if p.grad is not None}


def same(found, expected, rtol=1e-9):
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=rtol * (1e-9 + abs(value).max()), err_msg=name)


# ---- the slow definition -----------------------------------------------------------------------------------------


def importance_of(classifier, images, views=None, whole=True):
    """S, a constant: of the plain images where they are classified, else the mean of the views', in the image."""
    def cam(inputs):
        with no_grad():
            features = classifier.features(inputs)
        return grad_cam(features, classifier.head, WANTED)

    images = images.detach()
    if whole or views is None or views.matrices is None:
        return cam(plain_view(images, 28))
    back = [resampled(one, views, m) for m, one in enumerate(cam(apply_views(images, views)))]
    return np.mean(np.reshape(back, (-1, N, CAM_SIDE, CAM_SIDE)), axis=0)


def resampled(cam, views, m):
    """One view's map, place by place: where in the view lies the centre of this cell of the image? 0 beyond it."""
    out, (linear, offset) = np.zeros((CAM_SIDE, CAM_SIDE)), np.split(views.matrices[m], [2], axis=1)
    padded, side = np.pad(cam, 1), len(cam)
    for i in range(CAM_SIDE):
        for j in range(CAM_SIDE):
            pixel = (np.array([i, j]) + 0.5) * views.size / CAM_SIDE - 0.5
            in_view = np.linalg.solve(linear, pixel - offset[:, 0])
            place = (in_view + 0.5) * side / views.side - 0.5 + 1  # 1: the padding
            if (place <= 0).any() or (place >= side + 1).any():
                continue
            (r, c), (u, v) = place.astype(int), place % 1
            (a, b), (d, e) = padded[r:r + 2, c:c + 2]
            out[i, j] = (1 - u) * ((1 - v) * a + v * b) + u * ((1 - v) * d + v * e)
    return out


def masked(images, batch, s, importance):
    """The discriminator's input, and the weight of its patches."""
    if importance is None:
        return images, None
    if s.cam == "blend":
        return batch.target * Tensor(importance_at(importance, 64)) + images * Tensor(
            1 - importance_at(importance, 64)), None
    weight = 1 - importance_at(importance, 30)
    return images, (weight >= 1 - s.cam_threshold).astype(float) if s.cam == "binary" else weight


def importance_at(importance, side):
    return 1 - losses.importance(importance, side).data


def total_loss(g, d, batch, views, classifier, s):
    """The weighted sum of all losses as one graph over the parameters of G, and the sums' parts."""
    images, maps = g(batch.g_condition, batch.code, batch.noise, batch.routes)
    scores = [classifier.scores(plain_view(images, 28))] if s.whole or views is None else []
    if views is not None:
        every = classifier.scores(apply_views(images, views))  # all views at once: v * N + i
        scores += [every[v * N:(v + 1) * N] for v in range(len(views) // N)]
    share = 1.0 / len(scores)
    terms = {"wanted": sum(losses.wanted_loss(x, WANTED, s.classes) for x in scores) * share,
             "unwanted": sum(losses.unwanted_loss(x, WANTED, s.classes, s.unwanted) for x in scores) * share}
    importance = None if s.cam == "off" else importance_of(classifier, images, views, s.whole)
    inputs, weight = masked(images, batch, s, importance)
    terms["cgan"] = losses.patch_generator_loss(d(batch.d_condition, inputs), weight, s.generator)
    terms["background"] = losses.background_loss(images, batch.mask, s.background)
    weight = None if s.substrate_everywhere or importance is None else 1 - importance_at(importance, 64)
    terms["substrate"] = losses.substrate_loss(images, batch.target, weight, s.barrier)
    terms["split"] = losses.split_loss(maps, s.split_scale, s.split_sign, unit=s.split_unit)
    w = s.weights
    total = (terms["wanted"] + terms["unwanted"]) * w["vgg"]
    for name in ("cgan", "background", "substrate", "split"):
        if w[name]:
            total = total + terms[name] * w[name]
    return total, terms


def step_of_g(g, d, batch, views, classifier, s):
    images, maps = g(batch.g_condition, batch.code, batch.noise, batch.routes)
    result = loss_gradients(images, maps, batch, views, discriminator=d, classifier=classifier, settings=s)
    gpan_step.learn_generator(images, maps, result, s)
    return result


SETTINGS = {
    "the defaults": {},
    "cam binary": {"cam": "binary", "cam_threshold": 0.3}, "cam blend": {"cam": "blend"}, "cam off": {"cam": "off"},
    "weighted for G alone": {"cam_discriminator": False},
    "L_sub weighted": {"substrate_everywhere": False},
    "L_sub weighted, cam off": {"substrate_everywhere": False, "cam": "off"},
    "saturating": {"generator": "saturating"}, "sigmoid": {"classes": "sigmoid"},
    "hinge, mean": {"classes": "hinge", "unwanted": "mean"},
    "background alone": {"background": "background"}, "barrier": {"barrier": 0.2},
    "L_split as printed": {"split_sign": 1, "split_scale": 2.0}, "maps as they are": {"split_unit": False},
    **{f"no {name}": {"weights": {**WEIGHTS, name: 0.0}} for name in WEIGHTS},
    **{f"{name} alone": {"weights": {other: float(other == name) for other in WEIGHTS}} for name in WEIGHTS},
}
INPUTS = {"whole": (None, True), "whole for want of views": (None, False), "whole and views": ({}, True),
         "views alone": ({}, False), "three views": ({"per_image": 3, "blur": 1.0}, True),
         "coarse": ({"coarse": (0.4, 0.6)}, False), "plain view": ({"enabled": False}, False)}


def settings(**options):
    return LossSettings(**{"weights": WEIGHTS, "split_scale": 3.0, "whole": True} | options)


def compare(nets, batch, classifier, s, views):
    g, d = nets
    with frozen(d):
        total, terms = total_loss(g, d, batch, views, classifier, s)
        total.backward()
    expected = gradients(g)
    g.zero_grad()
    d.zero_grad()
    result = step_of_g(g, d, batch, views, classifier, s)
    # A weight of 0 leaves out what the slow definition multiplies by it.
    unused = {name: value for name, value in expected.items() if not value.any()}
    same(unused | gradients(g), expected)
    for name, value in result.terms.items():
        assert value.item() == pytest.approx(terms[name].item(), rel=1e-12), name
    asked = {name for name, weight in s.weights.items() if weight} - {"vgg"}
    assert set(result.terms) == asked | {"wanted", "unwanted"}
    assert gradients(d) == {} and all(p.requires_grad for p in d.parameters())
    return result


@pytest.mark.parametrize("name", SETTINGS)
def test_the_generators_gradient_is_that_of_the_weighted_sum(name, nets, batch, classifier, rng):
    compare(nets, batch, classifier, settings(**SETTINGS[name]), some_views(rng))


@pytest.mark.parametrize("name", INPUTS)
def test_with_every_input_of_the_classifier(name, nets, batch, classifier, rng):
    options, whole = INPUTS[name]
    views = None if options is None else some_views(rng, **options)
    result = compare(nets, batch, classifier, settings(whole=whole), views)
    assert result.scores.shape == (N, 10) and len(result.importance) == N


def test_every_mode_of_the_importance_is_among_the_settings():
    assert {options.get("cam", "soft") for options in SETTINGS.values()} == set(CAM_MODES)


FAULTS = {  # what to put in the place of what
    "a weight": ("learn_generator", lambda images, maps, result, s, share=1.0: learn_generator(
        images, maps, result, replace(s, weights={**WEIGHTS, "cgan": 10.1}), share)),
    "the importance of another image": ("grad_cam", lambda *args: grad_cam(*args)[::-1]),
    "importance that stays in its view": ("cam_to_image", lambda cam, views: cam),
    "one view twice": ("select_view", lambda views, i: select_view(views, 0)),
    "a wrong gradient of the maps": ("grad", lambda out, leaves: [
        gradient * (1.001 if len(leaves) > 1 else 1.0) for gradient in grad(out, leaves)]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_step_is_found(fault, nets, batch, classifier, rng, monkeypatch):
    monkeypatch.setattr(gpan_step, *FAULTS[fault])
    with pytest.raises(AssertionError):
        compare(nets, batch, classifier, settings(whole=fault != "importance that stays in its view"), some_views(rng))


# ---- the discriminator -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["the defaults", "cam binary", "cam blend", "cam off", "weighted for G alone"])
def test_the_discriminators_gradient(name, nets, batch, classifier):
    """Of its loss on real and on painted images, and of nothing else: whatever happened to the generator before."""
    g, d = nets
    s = settings(**SETTINGS[name])
    images, maps = g(batch.g_condition, batch.code, batch.noise, batch.routes)
    importance = None if s.cam == "off" else importance_of(classifier, images)
    inputs, weight = masked(images.detach(), batch, s, importance)
    real, fake = d(batch.d_condition, batch.target), d(batch.d_condition, inputs)
    fake_weight = weight if s.cam_discriminator else None
    loss = losses.patch_discriminator_loss(real=real, fake=fake, fake_weight=fake_weight)
    loss.backward()
    expected = gradients(d)
    for before in (False, True):  # the generator learns after the discriminator, or before it
        for net in nets:
            net.zero_grad()
        result = loss_gradients(images, maps, batch, None, discriminator=d, classifier=classifier, settings=s)
        if before:
            learn_generator(images, maps, result, s)
        assert gradients(d) == {}
        of_g = gradients(g)
        found, on_real, on_fake = learn_discriminator(images, batch, result.importance, d, s)
        same(gradients(d), expected)
        assert found.item() == pytest.approx(loss.item(), rel=1e-12)
        assert np.allclose(on_real.data, real.data) and np.allclose(on_fake.data, fake.data)
        assert not any(t.requires_grad for t in (found, on_real, on_fake))
        assert gradients(g).keys() == of_g.keys() and all((gradients(g)[k] == of_g[k]).all() for k in of_g)
        if not before:
            learn_generator(images, maps, result, s)
        same(gradients(d), expected)


# ---- the classifier, the parts of a batch, the norms -------------------------------------------------------------


def test_the_classifier_learns_nothing(nets, batch, classifier, rng):
    before = classifier.state_dict()
    assert not any(p.requires_grad for p in classifier.parameters())
    step_of_g(*nets, batch, some_views(rng), classifier, settings())
    assert all(p.grad is None for p in classifier.parameters())
    assert all((value == before[name]).all() for name, value in classifier.state_dict().items())


@pytest.mark.parametrize("name", ["the defaults", "cam blend", "background alone", "hinge, mean"])
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts, name, nets, batch, classifier, rng):
    """But for L_split, which compares the images of a part: it has weight 0 here."""
    g, d = nets
    s = settings(**{**SETTINGS[name], "weights": {**WEIGHTS, "split": 0.0}})
    views = some_views(rng)
    images, maps = g(batch.g_condition, batch.code, batch.noise, batch.routes)
    result = loss_gradients(images, maps, batch, views, discriminator=d, classifier=classifier, settings=s)
    learn_discriminator(images, batch, result.importance, d, s)
    learn_generator(images, maps, result, s)
    expected = [gradients(net) for net in nets]
    for net in nets:
        net.zero_grad()
    n, terms = N // parts, {}
    for i in range(parts):
        rows = slice(i * n, (i + 1) * n)
        piece, some = part(batch, rows), views_of(views, rows)
        images, maps = g(piece.g_condition, piece.code, piece.noise, piece.routes)
        of_part = loss_gradients(images, maps, piece, some, discriminator=d, classifier=classifier, settings=s)
        learn_discriminator(images, piece, of_part.importance, d, s, 1 / parts)
        learn_generator(images, maps, of_part, s, 1 / parts)
        for key, value in of_part.terms.items():
            terms[key] = terms.get(key, 0.0) + value.item() / parts
    for net, gradient in zip(nets, expected, strict=True):
        same(gradients(net), gradient)
    assert terms == pytest.approx({key: value.item() for key, value in result.terms.items()}, rel=1e-12)


def views_of(views, rows):
    """The same views of some of the images."""
    chosen = np.concatenate([np.arange(N)[rows] + v * N for v in range(len(views) // N)])
    n = rows.stop - rows.start
    return replace(views, images=n, sources=np.tile(np.arange(n), len(views) // N), matrices=views.matrices[chosen],
                   blurred=views.blurred[chosen], contrast=views.contrast[chosen])


def test_each_view_has_other_noise(nets, batch, rng):
    views = some_views(rng, noise=0.5, rotation=0.0, shift=0.0, scale=(1.0, 1.0), blur=0.0, contrast=(1.0, 1.0),
                       flip=False)
    first, second = (apply_views(batch.target, select_view(views, i)).data for i in range(2))
    noise = first - second
    assert abs(noise.std() - 0.5 * 2 ** 0.5) < 0.05
    assert (apply_views(batch.target, select_view(views, 0)).data == first).all()


def test_norms_are_those_of_the_weighted_gradients(nets, batch, classifier, rng):
    """Each loss by itself, differentiated down to the images; L_split to the maps."""
    g, d = nets
    s, views = settings(), some_views(rng)
    images, maps = (g(batch.g_condition, batch.code, batch.noise, batch.routes))
    result = loss_gradients(images, maps, batch, views, discriminator=d, classifier=classifier, settings=s)
    norms = gradient_norms(gradient_squares(result), s)
    leaf, leaves = Tensor(images.data, requires_grad=True), [Tensor(m.data, requires_grad=True) for m in maps]

    class Fixed:
        """A generator whose outputs are given."""

        def __call__(self, *args):
            return leaf, leaves

    assert norms.keys() == set(WEIGHTS)
    for name, norm in norms.items():
        alone = settings(weights={other: WEIGHTS[other] * (other == name) for other in WEIGHTS})
        total, terms = total_loss(Fixed(), d, batch, views, classifier, alone)
        expected = grad(total, leaves if name == "split" else [leaf])
        assert norm == pytest.approx(sum((a.data ** 2).sum() for a in expected) ** 0.5, rel=1e-9), name


def test_only_what_has_a_weight_is_computed(nets, batch, classifier, monkeypatch):
    """A loss of weight 0 costs nothing: the discriminator is not called."""
    g, d = nets
    images, maps = g(batch.g_condition, batch.code, batch.noise, batch.routes)
    monkeypatch.setattr(PatchDiscriminator, "forward", None)
    s = settings(weights={name: float(name in ("vgg", "background")) for name in WEIGHTS})
    result = loss_gradients(images, maps, batch, None, discriminator=d, classifier=classifier, settings=s)
    assert set(result.terms) == {"wanted", "unwanted", "background"} and result.map_gradients == []
    assert gradient_norms(gradient_squares(result), s).keys() == {"vgg", "background"}


def test_every_weight_has_its_loss(nets, batch):
    """image_losses holds all losses but those of the classifier's scores and of the maps."""
    assert losses.image_losses(batch, None, nets[1], settings()).keys() | {"vgg", "split"} == set(losses.PAPER_WEIGHTS)


def test_a_loss_entered_in_image_losses_reaches_the_generator(nets, batch, classifier, monkeypatch):
    """As someone would add one: a line in image_losses and a weight, and nothing else."""
    g, d = nets
    monkeypatch.setattr(losses, "image_losses", lambda *args: {"brightness": lambda images: (images * images).mean()})
    s = settings(weights={**dict.fromkeys(WEIGHTS, 0.0), "brightness": 3.0}, cam="off")
    images, _ = g(batch.g_condition, batch.code, batch.noise, batch.routes)
    ((images * images).mean() * 3.0).backward()
    expected = gradients(g)
    g.zero_grad()
    result = step_of_g(g, d, batch, None, classifier, s)
    same(gradients(g), expected)
    assert set(result.terms) == {"wanted", "unwanted", "brightness"}
    assert set(gradient_norms(gradient_squares(result), s)) == {"brightness"}
