"""The losses against their formulas, far beyond the logits of a healthy run, and what their gradients do there."""

import math

import numpy as np
import pytest

from tinygan import Tensor, check_grads, frozen, grad, no_grad
from tinygan.errors import TinyganError
from tinygan.models.gan.nets import Discriminator, GANConfig, Generator
from tinygan.nn.losses import CLAMP_EPS, FORMS, GENERATOR_LOSSES, cross_entropy, discriminator_loss, generator_loss
from tinygan.nn.optim import RMSprop

CEILING = -math.log(CLAMP_EPS)  # 27.6...


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def minus_log_sigmoid(logits, form):
    """Per logit, in float64 and without the library: -log s, or -log(s + 1e-12)."""
    out = []
    for a in np.asarray(logits, np.float64).ravel():
        small = math.exp(-abs(a))
        if form == "logits":
            out.append(max(-a, 0.0) + math.log1p(small))
        else:
            out.append(-math.log((1 / (1 + small) if a >= 0 else small / (1 + small)) + 1e-12))
    return np.array(out)


def slope(loss, logit, dtype=np.float64):
    """d loss / d logit for a batch of one."""
    x = Tensor(np.array([logit], dtype), requires_grad=True)
    return grad(loss(x), [x])[0].item()


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_values(rng, form, scale):
    real, fake = scale * rng.standard_normal(7), scale * rng.standard_normal((4, 1))
    on_real, on_fake = minus_log_sigmoid(real, form).mean(), minus_log_sigmoid(-fake, form).mean()
    with np.errstate(all="raise", under="ignore"):
        d = discriminator_loss(real=Tensor(real), fake=Tensor(fake), form=form)
        g = generator_loss(fake=Tensor(fake), form=form)
        saturating = generator_loss(fake=Tensor(fake), kind="saturating", form=form)
    assert d.item() == pytest.approx(on_real + on_fake, rel=1e-12)
    assert g.item() == pytest.approx(minus_log_sigmoid(fake, form).mean(), rel=1e-12)
    assert saturating.item() == pytest.approx(-on_fake, rel=1e-12)


def test_an_undecided_discriminator_costs_two_log_two():
    zero = Tensor(np.zeros(3))
    assert discriminator_loss(real=zero, fake=zero).item() == pytest.approx(2 * math.log(2))
    assert generator_loss(fake=zero).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_certainty_stays_finite(dtype, form, logit):
    x = Tensor(np.array([logit], dtype), requires_grad=True)
    with np.errstate(all="raise", under="ignore"):
        for loss in (discriminator_loss(real=x, fake=x, form=form), generator_loss(fake=x, form=form),
                     generator_loss(fake=x, kind="saturating", form=form)):
            g = grad(loss, [x])[0]
            assert loss.dtype == g.dtype == dtype
            assert np.isfinite(loss.data).all() and np.isfinite(g.data).all()


def test_the_clamped_form_has_a_ceiling():
    """27.6 is the "practical max" of the loss curves in the paper; the exact form has none."""
    certain = Tensor(np.array([-1e4]))
    assert CEILING == pytest.approx(27.631, abs=1e-3)
    assert generator_loss(fake=certain, form="clamped").item() == pytest.approx(CEILING)
    assert generator_loss(fake=certain).item() == pytest.approx(1e4)
    assert discriminator_loss(real=certain, fake=-certain, form="clamped").item() == pytest.approx(2 * CEILING)


# ---- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_gradients(rng, form):
    real, fake = 2 * rng.standard_normal(5), 2 * rng.standard_normal(4)
    check_grads(lambda r, f: discriminator_loss(real=r, fake=f, form=form), [real, fake])
    for kind in GENERATOR_LOSSES:
        check_grads(lambda f, kind=kind: generator_loss(fake=f, kind=kind, form=form), [fake])


def test_only_the_saturating_loss_stops_teaching_when_the_discriminator_wins():
    """With logit a: -log s has slope s - 1, log(1 - s) has slope -s. Both push up; at s = 1/2 equally."""
    for a in (-30.0, -5.0, 0.0, 5.0):
        s = 1 / (1 + math.exp(-a))
        assert slope(lambda x: generator_loss(fake=x), a) == pytest.approx(s - 1, rel=1e-9)
        assert slope(lambda x: generator_loss(fake=x, kind="saturating"), a) == pytest.approx(-s, rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hard_collapse_is_the_clamped_forms_alone(dtype):
    """Slope of -log(s + eps) is -s (1 - s) / (s + eps): gone once s is far below eps, where -log s keeps -1."""
    assert slope(lambda x: generator_loss(fake=x, form="clamped"), -10.0, dtype) == pytest.approx(-1.0, rel=1e-4)
    s = math.exp(-40.0)
    assert slope(lambda x: generator_loss(fake=x, form="clamped"), -40.0, dtype) == pytest.approx(-s / 1e-12, rel=1e-4)
    assert abs(slope(lambda x: generator_loss(fake=x, form="clamped"), -200.0, dtype)) < 1e-70
    for a in (-40.0, -200.0, -1e4):
        assert slope(lambda x: generator_loss(fake=x), a, dtype) == pytest.approx(-1.0, abs=1e-6)


# ---- classifiers -------------------------------------------------------------------------------------------------


def test_cross_entropy(rng):
    logits, labels = rng.standard_normal((6, 4)), np.array([0, 3, 1, 1, 2, 0])
    expected = np.mean([math.log(np.exp(row).sum()) - row[k] for row, k in zip(logits, labels, strict=True)])
    assert cross_entropy(Tensor(logits), labels).item() == pytest.approx(expected, rel=1e-12)
    assert cross_entropy(Tensor(logits), labels.tolist()).item() == pytest.approx(expected, rel=1e-12)
    assert cross_entropy(Tensor(np.zeros((2, 10))), [3, 4]).item() == pytest.approx(math.log(10))
    check_grads(lambda a: cross_entropy(a, labels), [logits])


def test_cross_entropy_of_extreme_logits(rng):
    logits = Tensor(np.array([[1e4, 0, -1e4], [-1e4, 0, 1e4]], np.float32), requires_grad=True)
    loss = cross_entropy(logits, [0, 0])
    assert loss.dtype == np.float32 and loss.item() == pytest.approx(1e4)
    assert grad(loss, [logits])[0].numpy().tolist() == [[0, 0, 0], [-0.5, 0, 0.5]]


# ---- wrong calls -------------------------------------------------------------------------------------------------


def test_unknown_kind_and_form():
    x = Tensor(np.zeros(2))
    with pytest.raises(TinyganError, match="unknown generator loss 'hinge': use one of nonsaturating, saturating"):
        generator_loss(fake=x, kind="hinge")
    for call in (lambda: generator_loss(fake=x, form="probabilities"),
                 lambda: discriminator_loss(real=x, fake=x, form="probabilities")):
        with pytest.raises(TinyganError, match="unknown loss form 'probabilities': use one of logits, clamped"):
            call()


def test_real_and_fake_cannot_be_confused():
    x = Tensor(np.zeros(2))
    with pytest.raises(TypeError):
        discriminator_loss(x, x)
    with pytest.raises(TypeError):
        generator_loss(x)


# ---- in the game -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", GENERATOR_LOSSES)
def test_one_step_of_each_player_helps_that_player(kind, form):
    config = GANConfig(base_channels=4, latent_dim=8, bank=2)
    g, d = (net(config, rng=np.random.default_rng(0)) for net in (Generator, Discriminator))
    rng = np.random.default_rng(1)
    z, routes = Tensor(g.draw_noise(rng, 8)), g.draw_routes(rng, 8)
    real = Tensor(rng.random((8, 1, 32, 32), dtype=np.float32))
    g_steps, d_steps = RMSprop(g.named_parameters(), lr=1e-4), RMSprop(d.named_parameters(), lr=1e-4)

    def score():
        with no_grad():
            return d(g(z, routes)).mean().item()

    def d_loss():
        with no_grad():
            fake = g(z, routes)
        return discriminator_loss(real=d(real), fake=d(fake), form=form)

    before = d_loss()
    before.backward()
    d_steps.step()
    assert d_loss().item() < before.item()

    score_before = score()
    with frozen(d):
        generator_loss(fake=d(g(z, routes)), kind=kind, form=form).backward()
    g_steps.step()
    assert score() > score_before
