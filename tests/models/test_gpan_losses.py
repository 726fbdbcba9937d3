"""The GPAN's losses against their formulas in plain loops, at their optimum, at the extremes, and under descent."""

import itertools
import math

import numpy as np
import pytest
from planted import fixed, op

from tinygan import Tensor, check_grads, grad
from tinygan.engine.gradcheck import GradientError
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels.geometry import interpolation_matrix
from tinygan.models.gpan import losses as gl
from tinygan.nn.losses import discriminator_loss, generator_loss

KINDS = ("nonsaturating", "saturating")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def softplus(a):
    return max(a, 0.0) + math.log1p(math.exp(-abs(a)))


def slopes(loss, *arrays):
    """The loss of these arrays as a number and its gradients, all made with floating-point warnings as errors."""
    inputs = [Tensor(a, requires_grad=True) for a in arrays]
    with np.errstate(all="raise", under="ignore"):
        value = loss(*inputs)
        found = grad(value, inputs)
    assert value.shape == () and value.dtype == arrays[0].dtype == found[0].dtype
    assert np.isfinite(value.data) and all(np.isfinite(g.data).all() for g in found)
    return value.item(), *(g.data for g in found)


# ---- importance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_importance_is_one_minus_the_map_resized(rng, dtype):
    cam = rng.random((2, 3, 4)).astype(dtype)
    rows, columns = interpolation_matrix(3, 7), interpolation_matrix(4, 9)
    weight = gl.importance(cam, (7, 9))
    assert weight.shape == (2, 1, 7, 9) and weight.dtype == dtype and not weight.requires_grad
    assert np.allclose(weight.data[:, 0], 1 - rows @ cam @ columns.T, atol=1e-6)
    assert np.array_equal(gl.importance(Tensor(cam, requires_grad=True), (7, 9)).data, weight.data)
    assert gl.importance(cam, 5).shape == (2, 1, 5, 5)


def test_importance_of_all_and_nothing(rng):
    ones = np.ones((1, 7, 7), np.float32)
    assert not gl.importance(ones, 62).data.any() and (gl.importance(0 * ones, 62).data == 1).all()
    weight = gl.importance(rng.random((3, 7, 7), dtype=np.float32).round(), 62).data
    assert 0 <= weight.min() and weight.max() <= 1


def test_binary_importance_cuts_after_resizing():
    cam = np.array([[[0.0, 1.0]]])
    assert gl.importance(cam, (1, 4), "binary").data.tolist() == [[[[1, 1, 0, 0]]]]  # resized: 0, 1/4, 3/4, 1
    assert gl.importance(cam, (1, 4), "binary", threshold=0.75).data.tolist() == [[[[1, 1, 1, 0]]]]
    assert gl.importance(cam, (1, 4), "binary", threshold=0.2).data.tolist() == [[[[1, 0, 0, 0]]]]


def test_a_map_larger_than_the_logits_is_not_skipped_over():
    cam = np.zeros((1, 1, 8))
    cam[0, 0, 0] = 1.0  # without antialiasing, a grid of two would read the four columns 1, 2, 5 and 6 only
    left, right = gl.importance(cam, (1, 2)).data.ravel()
    assert left < 0.95 and right == 1.0


# ---- L_cGAN ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_unweighted_patches_are_the_ordinary_losses(rng, kind):
    real, fake = (Tensor(rng.standard_normal((3, 1, 4, 5))) for _ in range(2))
    assert gl.patch_generator_loss(fake, kind=kind).item() == generator_loss(fake=fake, kind=kind).item()
    assert gl.patch_discriminator_loss(real=real, fake=fake).item() == discriminator_loss(real=real, fake=fake).item()
    for weight in (np.ones(fake.shape), np.full(fake.shape, 0.01)):
        assert gl.patch_generator_loss(fake, weight, kind).item() == pytest.approx(
            generator_loss(fake=fake, kind=kind).item(), rel=1e-12)
        assert gl.patch_discriminator_loss(real=real, fake=fake, fake_weight=weight).item() == pytest.approx(
            discriminator_loss(real=real, fake=fake).item(), rel=1e-12)


def test_weighted_patches_are_the_brute_force_sum(rng):
    real, fake = rng.standard_normal((2, 3, 1, 4, 5))
    weight = gl.importance(rng.random((3, 2, 2)), (4, 5))
    rows = {"nonsaturating": [], "saturating": []}
    for logits, w in zip(fake, weight.data, strict=True):
        for kind, (sign, inner) in {"nonsaturating": (1, -1), "saturating": (-1, 1)}.items():
            total = sum(sign * softplus(inner * a) * v for a, v in zip(logits.ravel(), w.ravel(), strict=True))
            rows[kind].append(total / w.sum())
    for kind in KINDS:
        assert gl.patch_generator_loss(Tensor(fake), weight, kind).item() == pytest.approx(np.mean(rows[kind]))
    on_real = np.mean([softplus(-a) for a in real.ravel()])
    d = gl.patch_discriminator_loss(real=Tensor(real), fake=Tensor(fake), fake_weight=weight.data)
    assert d.item() == pytest.approx(on_real - np.mean(rows["saturating"]))


def test_an_unimportant_patch_by_hand():
    """Two images of two patches; weights (1, 0) and (1, 3)."""
    fake, weight = np.zeros((2, 1, 1, 2)), np.array([1.0, 0.0, 1.0, 3.0]).reshape(2, 1, 1, 2)
    fake[0, 0, 0, 1] = -1e4  # weighs nothing
    value, g = slopes(lambda f: gl.patch_generator_loss(f, weight), fake)
    assert value == pytest.approx(math.log(2))
    assert g.ravel().tolist() == [-0.25, 0.0, -0.0625, -0.1875]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_image_without_weight_costs_nothing(dtype):
    fake, weight = np.ones((2, 1, 3, 3), dtype), np.ones((2, 1, 3, 3))
    weight[0] = 0.0
    value, g = slopes(lambda f: gl.patch_generator_loss(f, weight), fake)
    assert value == pytest.approx(softplus(-1.0) / 2) and not g[0].any() and g[1].all()
    value, g = slopes(lambda f: gl.patch_discriminator_loss(real=f, fake=f, fake_weight=0.0 * weight), fake)
    assert value == pytest.approx(softplus(-1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_patch_gradients(rng, kind):
    real, fake = 2 * rng.standard_normal((2, 2, 1, 3, 2))
    weight = gl.importance(rng.random((2, 2, 2)), (3, 2))
    check_grads(lambda f: gl.patch_generator_loss(f, weight, kind), [fake])
    check_grads(lambda r, f: gl.patch_discriminator_loss(real=r, fake=f, fake_weight=weight), [real, fake])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_certain_discriminators_stay_finite(rng, dtype, logit):
    fake, weight = np.full((2, 1, 3, 3), logit, dtype), rng.random((2, 1, 3, 3))
    for kind in KINDS:
        slopes(lambda f, kind=kind: gl.patch_generator_loss(f, weight, kind), fake)
    slopes(lambda f: gl.patch_discriminator_loss(real=f, fake=f, fake_weight=weight), fake)


# ---- blend -------------------------------------------------------------------------------------------------------


def test_blend(rng):
    images, other = rng.standard_normal((2, 2, 3, 4, 4))
    cam = rng.random((2, 2, 2))
    s = 1 - gl.importance(cam, 4).data
    assert np.allclose(gl.blend(Tensor(images), Tensor(other), cam).data, s * other + (1 - s) * images)
    hard = gl.blend(Tensor(images), Tensor(other), cam, "binary").data
    assert np.array_equal(hard, np.where(s > 0.5, other, images))
    check_grads(lambda a: gl.blend(a, Tensor(other), cam), [images])
    single = [Tensor(a.astype(np.float32)) for a in (images, other)]
    assert gl.blend(*single, cam.astype(np.float32)).dtype == np.float32


def test_gradients_stop_at_what_is_constant(rng):
    images, other = (Tensor(a, requires_grad=True) for a in rng.random((2, 2, 1, 4, 4)))
    cam, weight = (Tensor(rng.random(shape), requires_grad=True) for shape in ((2, 2, 2), (2, 1, 4, 4)))
    loss = (gl.blend(images, other, cam).sum() + gl.patch_generator_loss(images, weight)
            + gl.background_loss(images, weight) + gl.substrate_loss(images, other, weight))
    to_images, *rest = grad(loss, [images, other, cam, weight])
    assert to_images.data.all() and not any(g.data.any() for g in rest)


# ---- L_m ---------------------------------------------------------------------------------------------------------


def test_background_by_hand():
    """One image, one row: white, grey, black, and an object of any colour."""
    images = Tensor(np.array([1.0, 0.0, -1.0, -0.7]).reshape(1, 1, 1, 4))
    mask = np.array([0, 0, 0, 1]).reshape(1, 1, 1, 4)
    assert gl.background_loss(images, mask).item() == pytest.approx((0 + 1 + 2) / 4)
    assert gl.background_loss(images, mask.astype(bool), over="background").item() == pytest.approx((0 + 1 + 2) / 3)


def test_background_formula_and_gradients(rng):
    images, mask = rng.uniform(-1, 1, (3, 2, 4, 5)), rng.random((3, 1, 4, 5)).round()
    m = np.broadcast_to(mask, images.shape)
    assert gl.background_loss(Tensor(images), mask).item() == pytest.approx((1 - (m + (1 - m) * images)).mean())
    each = [(1 - x)[k == 0].mean() for x, k in zip(images, m, strict=True)]
    assert gl.background_loss(Tensor(images), mask, "background").item() == pytest.approx(np.mean(each))
    for over in ("all", "background"):
        check_grads(lambda x, over=over: gl.background_loss(x, mask, over), [images])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_background_is_zero_exactly_when_white(rng, dtype):
    images, mask = rng.uniform(-1, 1, (2, 3, 4, 4)).astype(dtype), rng.random((2, 1, 4, 4)).round()
    images[np.broadcast_to(mask == 0, images.shape)] = 1.0
    for over in ("all", "background"):
        assert slopes(lambda x, over=over: gl.background_loss(x, mask, over), images)[0] == 0.0
        value, g = slopes(lambda x, over=over: gl.background_loss(x, np.ones_like(mask), over), images)
        assert value == 0.0 and not g.any()  # all object
    assert slopes(lambda x: gl.background_loss(x, mask), np.full_like(images, -1))[0] == pytest.approx(
        2 * (1 - mask).mean())


# ---- L_sub -------------------------------------------------------------------------------------------------------


def test_substrate_by_hand():
    """d = 1: 1 - log(3/4). d = -1/2: 1/2 - log(15/16)."""
    images, target = Tensor(np.array([0.0, 0.5]).reshape(1, 1, 1, 2)), np.array([1.0, 0.0]).reshape(1, 1, 1, 2)
    one, half = 1 - math.log(0.75), 0.5 - math.log(15 / 16)
    assert gl.substrate_loss(images, target).item() == pytest.approx((one + half) / 2, rel=1e-12)
    weight = np.array([1.0, 3.0]).reshape(1, 1, 1, 2)
    assert gl.substrate_loss(images, target, weight).item() == pytest.approx((one + 3 * half) / 4, rel=1e-12)
    assert gl.substrate_loss(images, target, np.full_like(weight, 0.2)).item() == pytest.approx(
        gl.substrate_loss(images, Tensor(target)).item())


def test_substrate_gradients_are_those_of_the_formula(rng):
    images, target = rng.uniform(-0.9, 0.9, (2, 2, 3, 4, 4))
    d = target - images
    _, g = slopes(lambda x: gl.substrate_loss(x, target), images)
    assert np.allclose(g, -(np.sign(d) + d / 2 / (1 - d * d / 4)) / d.size)
    check_grads(lambda x: gl.substrate_loss(x, target), [images])
    check_grads(lambda x: gl.substrate_loss(x, target, rng.random((2, 1, 4, 4)) * 0 + np.arange(4.0)), [images])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_substrate_at_its_extremes(rng, dtype):
    same = rng.uniform(-1, 1, (1, 3, 2, 2)).astype(dtype)
    value, g = slopes(lambda x: gl.substrate_loss(x, same), same)
    assert value == 0.0 and not g.any()
    white = np.ones((1, 3, 2, 2), dtype)
    value, g = slopes(lambda x: gl.substrate_loss(x, white), -white)  # black where white is wanted: d = 2
    assert value == pytest.approx(2 - math.log(1e-6), rel=0.01)
    assert np.allclose(g, -1 / 12)  # of |d|, which still points to the target
    assert slopes(lambda x: gl.substrate_loss(x, -white), white)[0] == pytest.approx(value)
    slopes(lambda x: gl.substrate_loss(x, white), -1e4 * white)  # no tanh, no harm
    near = -white * (1 - 1e-5 if dtype == np.float64 else 0.99)
    _, g = slopes(lambda x: gl.substrate_loss(x, white), near)
    assert (g < -1).all()  # the barrier pushes hard


# ---- L_VGG -------------------------------------------------------------------------------------------------------


def probabilities(row):
    p = np.exp(row - row.max())
    return p / p.sum()


def one_by_one(scores, wanted, form, reduce):
    """(L_p, L_n) in plain loops."""
    p_loss, n_loss = [], []
    for x in scores:
        others = [u for u in range(len(x)) if u not in wanted]
        if form == "softmax":
            p = probabilities(x)
            on = [-math.log(len(wanted) * p[c]) for c in wanted]
            off = [-math.log(1 - p[u]) for u in others]
        elif form == "sigmoid":
            on = [softplus(-(x[c] - x.mean())) for c in wanted]
            off = [softplus(x[u] - x.mean()) for u in others]
        else:
            on = [max(0, 1 - (x[c] - max(x[u] for u in others))) for c in wanted]
            off = [max(0, 1 + x[u] - min(x[c] for c in wanted)) for u in others]
        p_loss.append(np.mean(on))
        n_loss.append(np.sum(off) if reduce == "sum" else np.mean(off))
    return np.mean(p_loss), np.mean(n_loss)


@pytest.mark.parametrize("form", gl.CLASS_FORMS)
@pytest.mark.parametrize("wanted", [[2], [4, 0], (1, 2, 3)])
def test_classifier_losses(rng, form, wanted):
    scores = 2 * rng.standard_normal((4, 6))
    for reduce in ("sum", "mean"):
        on, off = one_by_one(scores, wanted, form, reduce)
        assert gl.wanted_loss(Tensor(scores), wanted, form).item() == pytest.approx(on, rel=1e-10)
        assert gl.unwanted_loss(Tensor(scores), wanted, form, reduce).item() == pytest.approx(off, rel=1e-10)
        assert gl.classifier_loss(Tensor(scores), wanted, form, reduce).item() == pytest.approx(on + off, rel=1e-10)
        check_grads(lambda s, reduce=reduce: gl.unwanted_loss(s, wanted, form, reduce), [scores])
    check_grads(lambda s: gl.wanted_loss(s, wanted, form), [scores])


def test_undecided_classifiers_by_hand():
    """Ten equal scores: p = 1/10."""
    zero = Tensor(np.zeros((3, 10)))
    assert gl.wanted_loss(zero, [7]).item() == pytest.approx(math.log(10))
    assert gl.wanted_loss(zero, [7, 2]).item() == pytest.approx(math.log(5))
    assert gl.unwanted_loss(zero, [7]).item() == pytest.approx(-9 * math.log(0.9))
    assert gl.unwanted_loss(zero, [7, 2], reduce="mean").item() == pytest.approx(-math.log(0.9))
    assert gl.classifier_loss(zero, [7], "sigmoid").item() == pytest.approx(10 * math.log(2))
    assert gl.classifier_loss(zero, [7], "hinge").item() == pytest.approx(1 + 9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wanted", [[1], [1, 3]])
def test_classifier_losses_at_the_optimum(dtype, wanted):
    scores = np.full((2, 5), -200.0, dtype)
    scores[:, wanted] = 200.0
    for form in gl.CLASS_FORMS:
        value, g = slopes(lambda s, form=form: gl.classifier_loss(s, wanted, form), scores)
        assert value == pytest.approx(0.0, abs=1e-6) and np.allclose(g, 0.0, atol=1e-6)
        assert form != "hinge" or value == 0.0 and not g.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", gl.CLASS_FORMS)
def test_classifier_losses_of_extreme_scores(dtype, form):
    scores = np.array([[1e4, -1e4, 0, 1e4, 3], [-1e4] * 5, [1e4, -1e4, -1e4, -1e4, -1e4], [0, 1e-3, 0, 0, 0]], dtype)
    for loss in (gl.wanted_loss, gl.unwanted_loss, gl.classifier_loss):
        for wanted in ([1], [0], [0, 1], [4, 2]):
            slopes(lambda s, loss=loss, wanted=wanted: loss(s, wanted, form), scores)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", gl.CLASS_FORMS)
def test_a_certain_and_wrong_classifier_still_teaches(dtype, form):
    """p of the wanted class underflows to 0, p of another is 1: where a clamped p has gradient 0."""
    scores = np.array([[1e4, -1e4, 0.0]], dtype)
    value, g = slopes(lambda s: gl.wanted_loss(s, [1], form), scores)
    assert value > 1e3 and g[0, 1] < -0.6 and g[0, 0] > 0.3
    value, g = slopes(lambda s: gl.unwanted_loss(s, [1], form), scores)
    assert value > 1e3 and g[0, 0] > 0.4 and g.min() < -0.4


def test_small_and_large_probabilities_are_exact_in_float32():
    """-log(1 - p) from 1e-6 to 1 - 1e-12, against float64 and log1p."""
    for gap in (-14.0, -1.0, 0.0, 1.0, 14.0, 28.0):
        scores = np.array([[gap, 0.0, -40.0]])
        exact = softplus(gap) + math.exp(-40.0) / (1 + math.exp(gap))
        for dtype in (np.float32, np.float64):
            found = gl.unwanted_loss(Tensor(scores.astype(dtype)), [1]).item()
            assert found == pytest.approx(exact, rel=1e-6, abs=1e-7)


def test_every_class_may_be_wanted_where_that_means_something():
    zero = Tensor(np.zeros((1, 2)))
    assert gl.wanted_loss(zero, [0, 1]).item() == pytest.approx(0.0, abs=1e-12)
    for call in (lambda: gl.unwanted_loss(zero, [0, 1]), lambda: gl.wanted_loss(zero, [0, 1], "hinge")):
        with pytest.raises(UsageError, match="all 2 classes are wanted"):
            call()


# ---- L_split -----------------------------------------------------------------------------------------------------


def in_loops(maps, scale=25.0, sign=-1, weights=None, eps=1e-8):
    weights = gl.split_weights([m.shape[2] for m in maps]) if weights is None else weights
    total = 0.0
    for w, m in zip(weights, maps, strict=True):
        logs = []
        for k, j in itertools.combinations(range(len(m)), 2):
            cells = [math.tanh(((a - b) / scale) ** 4) for a, b in zip(m[k].ravel(), m[j].ravel(), strict=True)]
            logs.append(math.log(sum(cells) / len(cells) + eps))
        total += sign * w * sum(logs) / len(logs)
    return total


def test_split_weights():
    assert gl.split_weights([4, 8, 16, 32, 64]) == (0.03125, 0.0625, 0.125, 0.25, 0.53125)  # the paper's
    assert gl.split_weights([7]) == (1.0,)
    assert sum(gl.split_weights([2, 4, 8])) == 1.0
    for sides in ([], [0, 4], [64, 64, 64]):
        with pytest.raises(UsageError, match="weights of the split loss"):
            gl.split_weights(sides)


@pytest.mark.parametrize("batch", [2, 3, 5])
@pytest.mark.parametrize("sign", [-1, 1])
def test_split_loss_is_its_loops(rng, batch, sign):
    maps = [20 * rng.standard_normal((batch, c, side, side)) for c, side in ((3, 2), (2, 4))]
    tensors = [Tensor(m) for m in maps]
    for scale in (25.0, 2.0):
        assert gl.split_loss(tensors, scale, sign).item() == pytest.approx(in_loops(maps, scale, sign), rel=1e-10)
    weights = (0.9, -0.2)
    assert gl.split_loss(tensors, sign=sign, weights=weights).item() == pytest.approx(
        in_loops(maps, sign=sign, weights=weights), rel=1e-10)


def test_split_loss_by_hand():
    """Two images whose maps differ by the scale everywhere: F = tanh(1)."""
    maps = [Tensor(np.array([0.0, 25.0]).reshape(2, 1, 1, 1) + np.arange(4.0).reshape(1, 1, 2, 2))]
    assert gl.split_loss(maps).item() == pytest.approx(-math.log(math.tanh(1) + 1e-8), rel=1e-12)
    assert gl.split_loss(maps, sign=1).item() == pytest.approx(math.log(math.tanh(1)), rel=1e-6)


def test_split_loss_of_unit_maps(rng):
    """What 25 means: -log F of normal maps, by their standard deviation."""
    for std, expected in ((1, 10.4), (2, 7.6), (5, 4.0), (10, 1.8), (25, 0.59)):
        maps = [Tensor(std * rng.standard_normal((2, 50, 40, 40)))]
        assert gl.split_loss(maps).item() == pytest.approx(expected, abs=0.1)


def test_split_gradients(rng):
    maps = [20 * rng.standard_normal((3, 2, side, side)) for side in (1, 2)]
    for sign in (-1, 1):
        check_grads(lambda *m, sign=sign: gl.split_loss(m, sign=sign), maps, tolerance=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [-1, 1])
def test_split_loss_at_its_extremes(rng, dtype, sign):
    same = np.broadcast_to(rng.standard_normal((1, 2, 4, 4)), (3, 2, 4, 4)).astype(dtype)
    value, g = slopes(lambda m: gl.split_loss([m], sign=sign), same)
    assert value == pytest.approx(sign * math.log(1e-8), rel=1e-6) and not g.any()
    almost = same.copy()
    almost[0, 0, 0, 0] += 1e-3
    slopes(lambda m: gl.split_loss([m], sign=sign), almost)
    for huge in (1e3, 1e6, 1e12, 1e18):
        maps = rng.standard_normal((3, 2, 4, 4)).astype(dtype) * dtype(huge)
        value, g = slopes(lambda m: gl.split_loss([m], sign=sign), maps)
        assert value == pytest.approx(0.0, abs=0.05)
    far = np.arange(3, dtype=dtype).reshape(3, 1, 1, 1) * np.ones((3, 2, 4, 4), dtype) * 1000
    value, g = slopes(lambda m: gl.split_loss([m], sign=sign), far)
    assert value == pytest.approx(0.0, abs=1e-6) and not g.any()  # the optimum: all differ fully


def test_a_nan_in_the_maps_is_not_hidden():
    maps = np.ones((2, 1, 2, 2))
    maps[0, 0, 0, 0] = np.nan
    assert math.isnan(gl.split_loss([Tensor(maps)]).item())


def test_the_printed_sign_draws_maps_together_and_ours_apart(rng):
    start = 5 * rng.standard_normal((3, 2, 4, 4))
    spread = {}
    for sign in (-1, 1):
        m = start
        for _ in range(200):
            g = grad(gl.split_loss([leaf := Tensor(m, requires_grad=True)], sign=sign), [leaf])[0].data
            m = m - 0.1 * g / np.sqrt((g * g).mean())
        spread[sign] = np.mean([abs(a - b).mean() for a, b in itertools.combinations(m, 2)])
    before = np.mean([abs(a - b).mean() for a, b in itertools.combinations(start, 2)])
    assert spread[1] < 0.5 * before < 2 * before < spread[-1]


# ---- all together ------------------------------------------------------------------------------------------------


def test_weighted_sum_is_the_papers():
    terms = {name: Tensor(np.array(10.0 ** i), requires_grad=True) for i, name in enumerate(gl.PAPER_WEIGHTS)}
    assert list(gl.PAPER_WEIGHTS.items()) == [("split", 3), ("cgan", 10), ("vgg", 100), ("background", 25),
                                              ("substrate", 100)]
    total = gl.weighted_sum(terms)
    assert total.item() == 3 + 100 + 10_000 + 25_000 + 1_000_000
    assert [g.item() for g in grad(total, list(terms.values()))] == list(gl.PAPER_WEIGHTS.values())


def test_a_weight_of_zero_leaves_the_term_out():
    a, nan = Tensor(np.array(2.0, np.float32)), Tensor(np.array(math.nan, np.float32))
    out = gl.weighted_sum({"a": a, "b": nan}, {"a": 3, "b": 0, "c": 0})
    assert out.item() == 6.0 and out.dtype == np.float32


def test_float32_stays_float32(rng):
    def t(*shape):
        return Tensor(rng.random(shape, dtype=np.float32), requires_grad=True)

    images, logits, scores = t(2, 3, 4, 4), t(2, 1, 4, 4), t(2, 5)
    weight = rng.random((2, 1, 4, 4))  # float64 constants too
    losses = [gl.background_loss(images, weight), gl.background_loss(images, weight, "background"),
              gl.substrate_loss(images, weight.repeat(3, 1)), gl.substrate_loss(images, images.data, weight),
              gl.patch_generator_loss(logits, weight),
              gl.patch_discriminator_loss(real=logits, fake=logits, fake_weight=weight),
              gl.split_loss([t(3, 2, 4, 4), t(3, 1, 8, 8)])]
    losses += [gl.classifier_loss(scores, [1, 2], form, reduce)
               for form in gl.CLASS_FORMS for reduce in ("sum", "mean")]
    assert {loss.dtype for loss in losses} == {np.dtype(np.float32)}
    assert gl.weighted_sum({str(i): loss for i, loss in enumerate(losses)},
                           {str(i): i + 1 for i in range(len(losses))}).dtype == np.float32


# ---- the checks themselves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["fourth power as a constant", "sech forgotten", "pair counted once"])
def test_a_wrong_rule_would_be_noticed(rng, rule):
    """F of two images as an op of its own, honest forward, one wrong rule each: check_grads must refuse it."""
    m = rng.standard_normal((2, 6)) * 20

    def forward(a):
        return np.tanh(((a[0] - a[1]) / 25) ** 4).mean()

    def right(g, y, a):
        u = (a.data[0] - a.data[1]) / 25
        d = (1 - np.tanh(u ** 4) ** 2) * 4 * u ** 3 / 25 / u.size
        if rule == "fourth power as a constant":
            d = d / 4
        if rule == "sech forgotten":
            d = 4 * u ** 3 / 25 / u.size
        return g * fixed(np.stack([d, -d if rule != "pair counted once" else 0 * d]))

    with pytest.raises(GradientError):
        check_grads(op(forward, right), [m], order=1)


def test_the_loops_notice_a_wrong_formula(rng):
    """Pairs with k = j, ordered pairs, another power, the log of the mean: each is far from the loops' number."""
    maps = 20 * rng.standard_normal((3, 2, 2, 2))
    right = in_loops([maps])
    u = (maps[:, None] - maps[None]) / 25
    f = np.tanh(u ** 4).reshape(3, 3, -1).mean(2) + 1e-8
    upper = np.triu_indices(3, 1)
    assert -np.log(f[upper]).mean() == pytest.approx(right)
    wrong = [-np.log(f).mean(), -2 * np.log(f[upper]).mean(), -math.log(f[upper].mean()),
             -np.log(np.tanh(u ** 2).reshape(3, 3, -1).mean(2)[upper]).mean()]
    assert min(abs(w - right) for w in wrong) > 0.01


# ---- wrong calls -------------------------------------------------------------------------------------------------


def wrong_calls():
    x, images, logits = Tensor(np.zeros((2, 4))), Tensor(np.zeros((2, 3, 4, 4))), Tensor(np.zeros((2, 1, 3, 3)))
    maps = [Tensor(np.zeros((2, 1, 2, 2)))]
    return [
        (lambda: gl.importance(np.zeros((2, 1, 3, 3)), 4), "an importance map is"),
        (lambda: gl.importance(np.zeros((2, 3, 3)), 4, "hard"), "importance mode 'hard': use one of soft, binary"),
        (lambda: gl.blend(images, images, np.zeros((3, 2, 2))), "3 importance maps do not fit"),
        (lambda: gl.patch_generator_loss(logits, np.ones((2, 1, 3, 3)), "hinge"), "unknown generator loss 'hinge'"),
        (lambda: gl.patch_generator_loss(logits, kind="hinge"), "unknown generator loss 'hinge'"),
        (lambda: gl.patch_generator_loss(logits, np.ones((2, 1, 1, 3))), r"must have shape \(2, 1, 3, 3\)"),
        (lambda: gl.background_loss(images, np.zeros((2, 4, 4))), r"mask of shape \(2, 4, 4\)"),
        (lambda: gl.background_loss(images, np.zeros((2, 1, 4, 4)), "object"), "unknown mean 'object'"),
        (lambda: gl.substrate_loss(images, np.zeros((2, 1, 4, 4))), r"target of shape \(2, 1, 4, 4\)"),
        (lambda: gl.wanted_loss(x, [4]), "from 0 to 3"),
        (lambda: gl.wanted_loss(x, [-1]), "from 0 to 3"),
        (lambda: gl.wanted_loss(x, []), "one or more"),
        (lambda: gl.unwanted_loss(x, [1, 1]), "different ids"),
        (lambda: gl.unwanted_loss(x, [1], "margin"), "unknown form of the classifier's loss 'margin'"),
        (lambda: gl.unwanted_loss(x, [1], reduce="max"), "unknown reduction 'max'"),
        (lambda: gl.wanted_loss(images, [1]), r"scores \(N, classes\)"),
        (lambda: gl.split_loss([]), "got none"),
        (lambda: gl.split_loss([*maps, Tensor(np.zeros((3, 1, 2, 2)))]), "of one batch"),
        (lambda: gl.split_loss([Tensor(np.zeros((1, 1, 2, 2)))]), "batch size of 2 or more"),
        (lambda: gl.split_loss(maps, sign=0), "sign 0"),
        (lambda: gl.split_loss(maps, scale=0), "scale 0"),
        (lambda: gl.split_loss(maps, weights=[0.5, 0.5]), "2 weights for 1"),
        (lambda: gl.weighted_sum({"split": x, "spilt": x}), "no weight for the loss term 'spilt'"),
        (lambda: gl.weighted_sum({"split": x}), r"no loss term 'background' \(weight 25\)"),
        (lambda: gl.weighted_sum({}, {"split": 0}), "every loss term has weight 0"),
    ]


@pytest.mark.parametrize("number", range(len(wrong_calls())))
def test_wrong_calls_get_one_line(number):
    call, words = wrong_calls()[number]
    with pytest.raises(TinyganError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---- on a GPU ----------------------------------------------------------------------------------------------------


@pytest.mark.kernels
def test_the_same_numbers_on_a_gpu(rng, xp):
    images, mask = rng.uniform(-1, 1, (3, 2, 4, 4)).astype(np.float32), rng.random((3, 1, 4, 4)).round()
    logits, scores = rng.standard_normal((3, 1, 4, 4), np.float32), rng.standard_normal((3, 5), np.float32)
    maps, cam = 9 * rng.standard_normal((3, 2, 4, 4), np.float32), rng.random((3, 2, 2), dtype=np.float32)

    def losses(put):
        a, b, c, m = (Tensor(put(x), requires_grad=True) for x in (images, logits, scores, maps))
        weight = gl.importance(put(cam), 4)
        terms = [gl.background_loss(a, put(mask)), gl.background_loss(a, mask, "background"),
                 gl.substrate_loss(a, put(-0.5 * images), weight), gl.patch_generator_loss(b, weight),
                 gl.patch_discriminator_loss(real=b, fake=b, fake_weight=gl.importance(put(cam), 4, "binary")),
                 gl.split_loss([m]), (gl.blend(a, Tensor(put(-images)), put(cam)) * a).mean()]
        terms += [gl.classifier_loss(c, [1, 2], form) for form in gl.CLASS_FORMS]
        return [[t.item(), *(g.numpy() for g in grad(t, [a, b, c, m]))] for t in terms]

    for here, there in zip(losses(lambda x: x), losses(xp.asarray), strict=True):
        assert here[0] == pytest.approx(there[0], rel=1e-5)
        assert all(np.allclose(x, y, atol=1e-6) for x, y in zip(here[1:], there[1:], strict=True))


def test_in_units_of_their_own_size_maps_gain_nothing_by_growing():
    rng = np.random.default_rng(5)
    maps = [rng.standard_normal((3, 2, side, side)) for side in (2, 4)]
    check_grads(lambda *m: gl.split_loss(m, unit=True), maps)
    small, large = (gl.split_loss([Tensor(m * factor) for m in maps], unit=True).item() for factor in (0.5, 40.0))
    assert small == pytest.approx(large, rel=1e-5)
    small, large = (gl.split_loss([Tensor(m * factor) for m in maps]).item() for factor in (0.5, 40.0))
    assert large < 0.3 * small  # as printed they do
    leaf = Tensor(maps[0], requires_grad=True)
    gl.split_loss([leaf, Tensor(maps[1])], unit=True).backward()
    assert abs((leaf.grad.data * maps[0]).sum()) < 1e-6  # no gradient along the map itself
