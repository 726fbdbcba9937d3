"""The losses of the GPAN (Chaplygin & Chacksfield 2018), as pure functions of tensors.

    L = 3 L_split + 10 L_cGAN + 100 L_VGG + 25 L_m + 100 L_sub        with L_VGG = L_p + L_n

    L_split   the images of a batch should have different feature maps                             split_loss
    L_cGAN    the patch discriminator should classify them as real                                 patch_generator_loss
    L_p, L_n  the classifier should give all probability to the wanted classes, none to others     classifier_loss
    L_m       the background should be white                                                       background_loss
    L_sub     the image should be near its substrate, the picture it is painted on                 substrate_loss

Images are (N, 3, H, W) in [-1, 1], white is 1. Every loss is a tensor of one number, lower is better, and is finite,
with a finite gradient, for every finite input. Masks, weights and importance maps are constants: arrays or tensors, on
the images' device or the host, through which no gradient flows. Choices that the paper leaves open are marked as ours.
A wrong option or shape raises UsageError.

To add a loss, see `image_losses` at the end of this file: the losses of a step that are functions of the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygan.engine.tensor import Tensor, describe
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels.arguments import copy_array, pair, whole_numbers
from tinygan.kernels.host import class_mask, sent
from tinygan.models.gpan.nets import Batch, PatchDiscriminator
from tinygan.models.settings import setting
from tinygan.nn.losses import GENERATOR_LOSSES, discriminator_loss, generator_loss
from tinygan.ops import exp, log, log_softmax, max_along, minimum, relu, softplus, sqrt, tanh, where
from tinygan.ops.conv import Pair
from tinygan.ops.fused import logistic_loss
from tinygan.ops.pooling import resize_bilinear

PAPER_WEIGHTS = {"split": 3.0, "cgan": 10.0, "vgg": 100.0, "background": 25.0, "substrate": 100.0}
IMPORTANCE_MODES = ("soft", "binary")
CAM_MODES = (*IMPORTANCE_MODES, "blend", "off")
CLASS_FORMS = ("softmax", "sigmoid", "hinge")
SPLIT_SCALE = 25.0    # the constant inside the paper's F
HINGE_MARGIN = 1.0    # our choice, that of support vector machines
LEAST_WEIGHT = 1e-12  # weights that sum to less count as none at all
SATURATED = 5.0       # tanh(5 ** 2) rounds to 1 in float32 and in float64
OUT_OF_REACH = 1e30   # beyond every score

# ---- importance: which places the classifier's scores depend on ----------------------------------------------------


def importance(cam: Any, size: Pair, mode: str = "soft", threshold: float = 0.5) -> Tensor:
    """Compute W = 1 - S, the weight of each place in the discriminator's losses: a constant (N, 1, h, w) in [0, 1].

    cam: S, the classifier's importance map (gradcam.grad_cam), (N, h', w') in [0, 1]. size: (h, w), or one number for
    both; S is resized to it bilinearly. mode: "soft" is 1 - S; "binary" is 1 where S <= threshold, else 0.
    The paper: regions important to the classifier were "masked in a cGAN loss". A weight, and a soft one, is our
    choice: a threshold is one more number to guess. Raises UsageError for another mode or shape.
    """
    if mode not in IMPORTANCE_MODES:
        raise UsageError(f"unknown importance mode {mode!r}: use one of {', '.join(IMPORTANCE_MODES)}")
    cam = cam.detach() if isinstance(cam, Tensor) else Tensor(cam)
    if cam.ndim != 3:
        raise UsageError(f"an importance map is (N, h, w), got {describe(cam)}")
    n, height, width = cam.shape
    resized = resize_bilinear(cam.reshape(n, 1, height, width), pair(size), antialias=True).data
    if mode == "binary":
        return Tensor((resized <= threshold).astype(cam.dtype))
    return Tensor((1.0 - resized).clip(0.0, 1.0))  # rounding may have left the range by a hair


def blend(images: Tensor, other: Tensor, cam: Any, mode: str = "soft", threshold: float = 0.5) -> Tensor:
    """Compute S * other + (1 - S) * images, the discriminator's input when the images are masked, not the loss.

    images, other: (N, C, H, W); `other` (the substrate, or the real image) gets no gradient. cam, mode, threshold: as
    of `importance`. Where S is 1 the discriminator's input is real, so the generator gets no gradient from there.
    """
    weight = importance(cam, images.shape[2:], mode, threshold)
    if other.shape != images.shape or len(weight) != len(images):
        raise UsageError(f"blend: {describe(images)}, {describe(other)} and {len(weight)} importance maps do not fit")
    return other.detach() * (1.0 - weight) + images * weight


# ---- L_cGAN --------------------------------------------------------------------------------------------------------


def patch_generator_loss(fake: Tensor, weight: Any = None, kind: str = "nonsaturating") -> Tensor:
    """Compute the generator's part of L_cGAN from the logits of its images' patches.

        per image  sum_p W_p l_p / sum_p W_p,  then the mean over the batch;  l_p = -log D_p, or log(1 - D_p)

    fake: logits (N, 1, h, w), D = sigmoid(logit). weight: W, (N, 1, h, w), all equal if left out; an image without any
    weight costs nothing. kind: as of losses.generator_loss, "nonsaturating" is our default (Isola et al. 2017 and
    Xiang & Li 2017 train with it), "saturating" is the form printed in the paper.
    """
    if weight is None:
        return generator_loss(fake=fake, kind=kind)
    if kind not in GENERATOR_LOSSES:
        raise UsageError(f"unknown generator loss {kind!r}: use one of {', '.join(GENERATOR_LOSSES)}")
    return _weighted_mean(softplus(-fake) if kind == "nonsaturating" else -softplus(fake), weight)


def patch_discriminator_loss(*, real: Tensor, fake: Tensor, fake_weight: Any = None) -> Tensor:
    """Compute the discriminator's part of L_cGAN: mean of -log D(x, y) + weighted mean of -log(1 - D(x, G(x, z))).

    real, fake: logits (N, 1, h, w) of a discriminator whose input includes the condition x (Isola et al. 2017).
    fake_weight: W, (N, 1, h, w), as of `patch_generator_loss`: patches without weight in the generator's loss have none
    in the discriminator's (our choice; leave it out to weigh all patches alike).
    """
    if fake_weight is None:
        return discriminator_loss(real=real, fake=fake)
    return logistic_loss(real, 1.0) + _weighted_mean(softplus(fake), fake_weight)


# ---- L_m and L_sub -------------------------------------------------------------------------------------------------


def background_loss(images: Tensor, mask: Any, over: str = "all") -> Tensor:
    """Compute L_m = mean of (1 - m) (1 - G), which is 0 exactly where the background is white.

    images: G, (N, C, H, W). mask: m, (N, 1, H, W), 1 on the object, 0 on the background. The paper prints 1 - M(G),
    with M(G) "the masked output of the generator"; we read M(G) = m + (1 - m) G, the object painted white.
    over: what the mean is over, "all" pixels, or the "background" of each image, so that a small background weighs as
    much as a large one (an image without any costs nothing).
    """
    background = 1.0 - _constant(mask, images, "mask")
    if over == "all":
        return ((1.0 - images) * background).mean()
    if over == "background":
        return _weighted_mean(1.0 - images, background)
    raise UsageError(f"unknown mean {over!r} of the background loss: use one of all, background")


def substrate_loss(images: Tensor, target: Any, weight: Any = None, limit: float = 1e-6) -> Tensor:
    """Compute L_sub = mean of |d| - log(1 - d^2 / 4), d = T - G: a distance with a barrier at |d| = 2, the largest d.

    images: G, target: T, both (N, C, H, W) in [-1, 1]; the formula is taken for each value. weight: (N, 1, H, W), such
    as `importance`, makes the mean of each image a weighted one.
    limit: d^2 / 4 is held to 1 - limit, as the barrier is infinite between black and white, which a tanh in float32
    does reach. Below it the slope of one value grows to 1 / limit; beyond it that of |d|, 1, is left.
    """
    target = _constant(target, images, "target", images.shape)
    d = target - images
    barrier = log(1.0 - minimum(d * d * 0.25, 1.0 - limit))
    values = abs(d) - barrier
    return values.mean() if weight is None else _weighted_mean(values, weight)


# ---- L_VGG ---------------------------------------------------------------------------------------------------------


def classifier_loss(scores: Tensor, wanted: Sequence[int], form: str = "softmax", reduce: str = "sum") -> Tensor:
    """Compute L_VGG = L_p + L_n; see `wanted_loss` and `unwanted_loss`."""
    return wanted_loss(scores, wanted, form) + unwanted_loss(scores, wanted, form, reduce)


def wanted_loss(scores: Tensor, wanted: Sequence[int], form: str = "softmax") -> Tensor:
    """Compute L_p, low where every wanted class is probable: the mean over the batch of, x being an image's scores,

        softmax   - mean_c log(|C| p_c),  p = softmax(x): 0 when the wanted classes C share all probability equally
        sigmoid   mean_c -log sigmoid(x_c - mean(x)): classes are independent, several may be near 1 at once
        hinge     mean_c max(0, 1 - x_c + the best unwanted score)

    scores: (N, classes), before the softmax. wanted: the ids of C, one set for the whole batch. The paper describes
    L_p in words only; these forms are ours. The softmax form is exact however small p is (p is never rounded or
    clamped: that would end the gradient where it is needed most).
    """
    chosen = _chosen(scores, wanted, form, others_needed=form == "hinge")
    count = len(wanted)
    if form == "softmax":
        return _sum_per_image(log_softmax(scores), chosen) * (-1.0 / count) - math.log(count)
    if form == "sigmoid":
        return _sum_per_image(softplus(-_centred(scores)), chosen) * (1.0 / count)
    best_other = max_along(where(chosen, -OUT_OF_REACH, scores), 1, keepdims=True)
    return _sum_per_image(relu(HINGE_MARGIN - scores + best_other), chosen) * (1.0 / count)


def unwanted_loss(scores: Tensor, wanted: Sequence[int], form: str = "softmax", reduce: str = "sum") -> Tensor:
    """Compute L_n, low where no other class is probable: the mean over the batch of a sum over classes u not in C,

        softmax   - sum_u log(1 - p_u): 0 when their probability is 0, about their probability when it is small
        sigmoid   sum_u -log(1 - sigmoid(x_u - mean(x)))
        hinge     sum_u max(0, 1 + x_u - the worst wanted score)

    scores, wanted, form: as of `wanted_loss`. reduce: "sum", or "mean" over those classes.
    1 - p is never formed where p is near 1, so where a wrong class has p = 1 the loss is finite and its gradient not 0.
    """
    if reduce not in ("sum", "mean"):
        raise UsageError(f"unknown reduction {reduce!r}: use one of sum, mean")
    chosen = _chosen(scores, wanted, form, others_needed=True)
    if form == "softmax":
        values = _minus_log_not(scores)
    elif form == "sigmoid":
        values = softplus(_centred(scores))
    else:
        worst_wanted = -max_along(where(chosen, -scores, -OUT_OF_REACH), 1, keepdims=True)
        values = relu(HINGE_MARGIN + scores - worst_wanted)
    total = _sum_per_image(values, ~chosen)
    return total if reduce == "sum" else total * (1.0 / (scores.shape[1] - len(wanted)))


def _minus_log_not(scores: Tensor) -> Tensor:
    """Compute -log(1 - p) for each class, p = softmax(scores).

    Only the largest p can be near 1, where 1 - p would lose all its digits. With t = x_max - log sum_(others) e^x,
    p_max is sigmoid(t), and -log(1 - p_max) = softplus(t) is exact for any t. The rest have p <= 1/2.
    """
    x = scores.data
    largest = scores.xp.arange(x.shape[1]) == x.argmax(axis=1)[:, None]
    second = Tensor(scores.xp.where(largest, -OUT_OF_REACH, x).max(axis=1, keepdims=True))  # a constant: it cancels
    rest = where(largest, 0.0, exp(where(largest, 0.0, scores - second))).sum(1, keepdims=True)
    of_largest = softplus(scores - second - log(rest))
    return where(largest, of_largest, -log(1.0 - exp(where(largest, -1.0, log_softmax(scores)))))


def _centred(scores: Tensor) -> Tensor:
    """Subtract the mean of the scores: a softmax leaves their zero open, and a sigmoid needs one."""
    return scores - scores.mean(1, keepdims=True)


def _sum_per_image(values: Tensor, chosen: Any) -> Tensor:
    """Sum the values of the chosen classes, then take the mean over the batch."""
    return where(chosen, values, 0.0).sum() * (1.0 / len(values))


def _chosen(scores: Tensor, wanted: Sequence[int], form: str, others_needed: bool) -> Any:
    """Check form, scores and ids; return the wanted classes as a bool array (1, classes) on the scores' device."""
    if form not in CLASS_FORMS:
        raise UsageError(f"unknown form of the classifier's loss {form!r}: use one of {', '.join(CLASS_FORMS)}")
    if scores.ndim != 2:
        raise UsageError(f"the classifier's loss takes scores (N, classes), got {describe(scores)}")
    classes, ids = scores.shape[1], whole_numbers(wanted, "wanted classes")
    if not ids or len(set(ids)) < len(ids) or min(ids) < 0 or max(ids) >= classes:
        raise UsageError(f"wanted classes {list(ids)}: give one or more different ids from 0 to {classes - 1}")
    if others_needed and len(ids) == classes:
        raise UsageError(f"all {classes} classes are wanted: this loss needs one that is not")
    return class_mask(scores.data, wanted, classes)


# ---- L_split -------------------------------------------------------------------------------------------------------


def split_weights(sides: Sequence[int]) -> tuple[float, ...]:
    """Return the weights of the feature maps in L_split: side / (2 * the largest side); the last one makes the sum 1.

    sides: of the maps, in the generator's order. 4, 8, 16, 32, 64 gives the paper's numbers: 0.03125, 0.0625, 0.125,
    0.25, 0.53125; the rule behind them is our reading.
    """
    if not sides or min(sides) < 1:
        raise UsageError(f"weights of the split loss: sides of maps are whole numbers above 0, got {list(sides)}")
    weights = [side / (2 * max(sides)) for side in sides[:-1]]
    if sum(weights) >= 1.0:
        raise UsageError(f"weights of the split loss: maps of sides {list(sides)} leave nothing to the last one; "
                         "give the weights")
    return (*weights, 1.0 - sum(weights))


def split_loss(maps: Sequence[Tensor], scale: float = SPLIT_SCALE, sign: int = -1,
               weights: Sequence[float] | None = None, eps: float = 1e-8, unit: bool = False) -> Tensor:
    """Compute L_split = - sum_i w_i * mean over pairs k < j of log F(M_ik, M_ij), low where feature maps differ.

        F(a, b) = mean over elements of tanh(((a - b) / scale)^4), in [0, 1]

    maps: M_i, one tensor (N, channels, side, side) for each stochastic layer, after its activation (our choice), N > 1.
    weights: w_i; default `split_weights` of their sides. eps: bounds -log F at 18.4; identical maps cost that and have
    gradient 0.
    sign: -1; the paper prints the loss without the minus (sign=1), which minimised makes all maps identical, against
    its stated purpose. scale: 25 in the paper, far above maps of unit variance: F is then about 3e-5.
    unit: divide each map by its root mean square first, so that larger maps do not lower the loss; without it they
    grew until the other losses had no effect (our choice where it is used, RESULTS.md; not in the paper).
    Raises TinyganError for a batch of one image, which has no pairs.
    """
    if sign not in (-1, 1):
        raise UsageError(f"sign {sign} of the split loss: use -1, or 1 for the form as printed")
    if not scale > 0:
        raise UsageError(f"scale {scale} of the split loss: must be above 0")
    if isinstance(maps, Tensor) or not maps or any(m.ndim != 4 or len(m) != len(maps[0]) for m in maps):
        raise UsageError("the split loss takes feature maps (N, channels, h, w) of one batch, got "
                         f"{', '.join(map(describe, maps)) or 'none'}, in a list")
    if len(maps[0]) < 2:
        raise TinyganError(f"the split loss compares the images of a batch, and this one has {len(maps[0])}: "
                           "use a batch size of 2 or more")
    weights = split_weights([max(m.shape[2:]) for m in maps]) if weights is None else weights
    if len(weights) != len(maps):
        raise UsageError(f"the split loss got {len(weights)} weights for {len(maps)} feature maps")
    if unit:
        maps = [m / sqrt((m * m).mean() + eps) for m in maps]
    (k, j), one = np.triu_indices(len(maps[0]), 1), np.eye(len(maps[0]), dtype=maps[0].dtype)
    pairs = one[k] - one[j]  # (pairs, N), which subtracts images: +-1 alone, so nothing is rounded
    terms = [log(_mean_difference(m, pairs, scale) + eps).mean() * (sign * float(w))
             for m, w in zip(maps, weights, strict=True)]
    return sum(terms[1:], start=terms[0])


def _mean_difference(m: Tensor, pairs: np.ndarray, scale: float) -> Tensor:
    """Compute F of every pair, (pairs,). All differences are one matrix product, whose adjoint is exact."""
    differences = Tensor(sent(m.data, lambda: pairs)) @ m.reshape(len(m), -1)
    u = differences * (1.0 / scale)
    square = u * u
    # Where tanh is 1 anyway, u^4 must not overflow: 0 * inf in the gradient. (> lets a NaN pass.)
    square = where(square.data > SATURATED, SATURATED, square)
    return tanh(square * square).mean(axis=1)


# ---- constants and means -------------------------------------------------------------------------------------------


def _constant(values: Any, like: Tensor, what: str, shape: tuple | None = None) -> Tensor:
    """Return `values` as a constant of `like`'s dtype and device.

    shape: the one required; default (N, 1, H, W) where like is (N, C, H, W).
    """
    if not isinstance(like, Tensor):
        raise UsageError(f"a loss is taken of a tensor, not of {describe(like)}: write Tensor(images)")
    array = copy_array(values, like.xp, like.dtype)
    shape = shape or (*like.shape[:1], 1, *like.shape[2:])
    if array.shape != shape:
        raise UsageError(f"{what} of shape {array.shape} for {describe(like)}: it must have shape {shape}")
    return Tensor(array)


def _weighted_mean(values: Tensor, weight: Any) -> Tensor:
    """Compute sum W v / sum W per image, then the mean over the batch. values (N, C, h, w), weight (N, 1, h, w)."""
    weight = _constant(weight, values, "weight").data
    total = weight.sum(axis=(1, 2, 3), keepdims=True) * float(values.shape[1] * len(values))
    return (values * Tensor(weight / total.clip(LEAST_WEIGHT, None))).sum()


# ---- all losses together -------------------------------------------------------------------------------------------


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float] = PAPER_WEIGHTS) -> Tensor:
    """Compute the sum of weight * term, by name; PAPER_WEIGHTS are those of L. A term of weight 0 is left out.

    Raises UsageError for a term without a weight, and for a weight other than 0 without a term.
    """
    used = {name: weight for name, weight in weights.items() if weight}
    if unknown := sorted(set(terms) - set(weights)):
        raise UsageError(f"no weight for the loss term {unknown[0]!r}: there are {', '.join(weights)}")
    if absent := sorted(set(used) - set(terms)):
        raise UsageError(f"no loss term {absent[0]!r} (weight {used[absent[0]]:g}): compute it, or set its weight to 0")
    if not used:
        raise UsageError("every loss term has weight 0: nothing is left to minimise")
    first, *rest = (terms[name] * float(weight) for name, weight in used.items())
    return sum(rest, start=first)


@dataclass(frozen=True)
class LossSettings:
    """Weights and variants of the losses; the defaults are the paper's weights and the readings of this file.

    weights: name -> weight, for every name of PAPER_WEIGHTS.
    cam: how regions that are important to the classifier are taken out of L_cGAN: "soft" and "binary" weights, "blend"
    of the image with its substrate, "off". cam_discriminator: whether the discriminator's loss is weighted, too.
    substrate_everywhere: False weights L_sub by 1 - importance as well (not in the paper). barrier: `limit` of
    substrate_loss; with 1e-6 the gradient of the few pixels that are black instead of white is a thousand times larger
    than of all others. whole: take L_p and L_n of the plain images as well as of their random views.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_WEIGHTS))
    cam: str = setting("soft", "how important regions are taken out of L_cGAN", CAM_MODES)
    cam_threshold: float = setting(0.5, "for cam binary", kind="probability")
    cam_discriminator: bool = setting(True, "whose loss", flag="cam_for", codes={"both": True, "generator": False})
    substrate_everywhere: bool = setting(True, "where L_sub holds: unimportant leaves out the important regions",
                                         flag="substrate_where", codes={"everywhere": True, "unimportant": False})
    generator: str = setting("nonsaturating", "the generator's in L_cGAN", GENERATOR_LOSSES, flag="loss")
    classes: str = setting("softmax", "form of L_p and L_n", CLASS_FORMS, flag="class_loss")
    unwanted: str = setting("sum", "over the classes in L_n", ("sum", "mean"))
    background: str = setting("all", "pixels in L_m's mean", ("all", "background"), flag="background_over")
    barrier: float = setting(0.01, "how near L_sub's barrier comes to its pole", kind="probability")
    split_sign: int = setting(-1, "plus: as printed; images become the same", codes={"minus": -1, "plus": 1})
    split_scale: float = setting(SPLIT_SCALE, "factor in L_split", kind="positive_float")
    split_unit: bool = setting(True, "unit of L_split's maps: their rms, or 1", codes={"rms": True, "one": False})
    whole: bool = setting(False, "classify the plain images, too", codes={"yes": True, "no": False})


def image_losses(batch: Batch, cam: Any, discriminator: PatchDiscriminator, s: LossSettings) -> dict[str, Callable]:
    """Return the losses of a step that have a weight, by name, as functions of the images (N, C, S, S).

    s: weights and variants. cam: S, the classifier's importance map, (N, h, w), or None. L_p, L_n and L_split are not
    among them: they are taken of the classifier's scores and of the feature maps (step.py).
    """
    def cgan(images: Tensor) -> Tensor:
        inputs, weight = discriminator_input(images, batch.target, cam, discriminator.grid, s)
        return patch_generator_loss(discriminator(batch.d_condition, inputs), weight, s.generator)

    def substrate(images: Tensor) -> Tensor:
        weight = None if s.substrate_everywhere or cam is None else importance(cam, images.shape[2:])
        return substrate_loss(images, batch.target, weight, s.barrier)

    # THE PLACE TO ADD A LOSS. Write its function above, enter it here under a name, and give that name a weight in
    # PAPER_WEIGHTS: `loss_gradients` then differentiates it, and `learn_generator` adds its weighted gradient.
    # WEIGHTS in train_gpan.py makes its setting, losses.weight_NAME, and app/columns.py names its columns of the log.
    losses = {"cgan": cgan,
              "background": lambda images: background_loss(images, batch.mask, s.background),
              "substrate": substrate}
    return {name: loss for name, loss in losses.items() if s.weights[name]}


def discriminator_input(images: Tensor, target: Tensor, cam: Any, grid: tuple[int, int], s: LossSettings
                        ) -> tuple[Tensor, Tensor | None]:
    """Apply the importance map to the discriminator's images or to its logits' weights.

    images, target: (N, C, S, S). cam: S, (N, h, w), or None. grid: rows and columns of the logits. Returns (images,
    weight (N, 1, *grid) or None); see LossSettings.cam.
    """
    if cam is None:
        return images, None
    if s.cam == "blend":
        return blend(images, target, cam), None
    return images, importance(cam, grid, s.cam, s.cam_threshold)
