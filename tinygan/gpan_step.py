"""One look at a batch of the GPAN's images: what every loss says of them, and which way each pulls.

The images are where all the losses meet. So a step is taken in two halves: here every loss is differentiated down to
the images (and L_split to the stochastic layers' maps) and no further; then the generator is given the weighted sum of
these pulls. Each loss's graph is gone before the next one is built, so that a step needs the memory of the largest, not
of their sum; and how hard each loss pulls is known at every step, for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from tinygan import gpan_losses as losses
from tinygan.engine import Tensor, frozen, grad
from tinygan.gradcam import grad_cam
from tinygan.models.gpan import PatchDiscriminator
from tinygan.module import Module
from tinygan.views import Views, look, whole
from tinygan.warp import warp

CAM_SIDE = 28  # of an importance map that comes from a random view
CAM_MODES = ("soft", "binary", "blend", "off")


class Batch(NamedTuple):
    """What n images are made of, and the wanted class ids that all of them share.

    target (n, C, S, S): the substrates; mask (n, 1, S, S): where their objects are. seen, x: what the generator and
    the discriminator see of them. code (n, categories), noise (n, channels, 2, 2); routes (n, stochastic layers) are
    on the host.
    """

    target: Tensor
    mask: Tensor
    seen: Tensor
    x: Tensor
    code: Tensor
    noise: Tensor
    routes: np.ndarray
    wanted: tuple[int, ...]


@dataclass(frozen=True)
class LossSettings:
    """Weights and variants of the losses; the defaults are the paper's weights and the readings of gpan_losses.py.

    cam: how the importance of a region for the classifier takes it out of L_cGAN: "soft" and "binary" weights, "blend"
    of the image with its substrate, "off". cam_discriminator: whether the discriminator's loss is weighted, too.
    substrate_everywhere: False weights L_sub by 1 - importance as well (not in the paper). barrier: `limit` of
    substrate_loss; with 1e-6 a few pixels that are black instead of white pull a thousand times harder than all others.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict(losses.PAPER_WEIGHTS))
    cam: str = "soft"
    cam_threshold: float = 0.5
    cam_discriminator: bool = True
    substrate_everywhere: bool = True
    generator: str = "nonsaturating"
    classes: str = "softmax"
    unwanted: str = "sum"
    background: str = "all"
    barrier: float = 0.01
    split_sign: int = -1
    split_scale: float = losses.SPLIT_SCALE
    split_unit: bool = True


@dataclass
class Verdict:
    """What the losses say: their values by name, how the images (and maps) should change, and where the classifier
    looks, S (n, h, w), None if nobody asked. `scores`: of the whole images where they were looked at, else of the
    first view."""

    terms: dict[str, Tensor]
    image_pulls: dict[str, Any]
    map_pulls: list[Any]
    importance: Any
    scores: Any


def judge(images: Tensor, maps: Sequence[Tensor], batch: Batch, views: Views | None, see_whole: bool, *,
          discriminator: PatchDiscriminator, classifier: Module, settings: LossSettings) -> Verdict:
    """Differentiate every loss with a weight other than 0 to the images and maps.

    views: random views for the classifier, None for none; see_whole: it looks at the whole image as well. One view
    after the other, so their number costs time but no memory. Nothing is accumulated in any parameter.
    """
    s, side = settings, classifier.side
    leaf = Tensor(images.data, requires_grad=True)
    terms, pulls = {}, {}

    # The classifier: it should see what is wanted, and nothing else. It is frozen, so no weight gradient is computed.
    glances = ([None] if see_whole or views is None else []) + (
        [] if views is None else [one_of_each(views, i) for i in range(len(views) // views.images)])
    scores, importance = None, None
    maps_of_views: list[Any] = []
    for glance in glances:
        seen = whole(leaf, side) if glance is None else look(leaf, glance)
        features = classifier.features(seen)
        found = classifier.head(features)
        if scores is None:
            scores = found.data  # not copied to the host: that would make a GPU wait at every step
        if s.cam != "off" and importance is None:  # the whole image comes first, and then suffices
            cam = grad_cam(features, classifier.head, batch.wanted)
            if glance is None or glance.matrices is None:
                importance = cam
            else:
                maps_of_views.append(in_the_image(cam, glance))
        parts = {"wanted": losses.wanted_loss(found, batch.wanted, s.classes),
                 "unwanted": losses.unwanted_loss(found, batch.wanted, s.classes, s.unwanted)}
        for name, part in parts.items():
            terms[name] = terms.get(name, 0.0) + part.detach() * (1.0 / len(glances))
        if s.weights["vgg"]:
            (pull,) = grad((parts["wanted"] + parts["unwanted"]) * (1.0 / len(glances)), [leaf])
            pulls["vgg"] = pull.data if "vgg" not in pulls else pulls["vgg"] + pull.data
        del seen, features, found, parts  # the graph of this view goes before the next is built
    if maps_of_views:
        importance = sum(maps_of_views) * (1.0 / len(maps_of_views))

    # The discriminator: patches should look real where the classifier does not look.
    if s.weights["cgan"]:
        shown, weight = as_judged(leaf, batch, importance, discriminator, s)
        with frozen(discriminator):
            terms["cgan"] = losses.patch_generator_loss(discriminator(batch.x, shown), weight, s.generator)
    if s.weights["background"]:
        terms["background"] = losses.background_loss(leaf, batch.mask, s.background)
    if s.weights["substrate"]:
        weight = None if s.substrate_everywhere or importance is None else losses.importance(
            importance, images.shape[2:])
        terms["substrate"] = losses.substrate_loss(leaf, batch.target, weight, s.barrier)
    for name in ("cgan", "background", "substrate"):
        if name in terms:
            (pull,) = grad(terms[name], [leaf])
            pulls[name], terms[name] = pull.data, terms[name].detach()

    # And the images of a batch should be different inside.
    map_pulls = []
    if s.weights["split"]:
        leaves = [Tensor(m.data, requires_grad=True) for m in maps]
        split = losses.split_loss(leaves, s.split_scale, s.split_sign, unit=s.split_unit)
        map_pulls = [pull.data for pull in grad(split, leaves)]
        terms["split"] = split.detach()
    return Verdict(terms, pulls, map_pulls, importance, scores)


def one_of_each(views: Views, i: int) -> Views:
    """View i of every image, as a draw of its own."""
    rows = slice(i * views.images, (i + 1) * views.images)
    if views.matrices is None:
        return views
    return replace(views, sources=views.sources[rows], matrices=views.matrices[rows], blurred=views.blurred[rows],
                   contrast=views.contrast[rows], seed=views.seed + i)


def in_the_image(cam: Any, views: Views) -> Any:
    """Importance as a view has it, (n, h, w), brought back to the image, (n, CAM_SIDE, CAM_SIDE); 0 where the view did
    not look. The view's map from its pixels to the image's is turned round; all grids cover their squares evenly."""
    h, w = cam.shape[1:]
    linear, offset = views.matrices[:, :, :2], views.matrices[:, :, 2]
    per_cell = np.array(views.size) / CAM_SIDE  # pixels of the image
    back = np.linalg.inv(linear) * (np.array([h, w]) / views.side)[:, None]  # from the image's pixels to cells of cam
    matrices = np.empty_like(views.matrices)
    matrices[:, :, :2] = back * per_cell
    first = 0.5 * per_cell - 0.5 - offset  # where cell (0, 0) of the result lies
    matrices[:, :, 2] = np.einsum("nij,nj->ni", back, first) + (0.5 * np.array([h, w]) / views.side - 0.5)
    return warp(Tensor(cam[:, None]), matrices, (CAM_SIDE, CAM_SIDE)).data[:, 0]


def as_judged(images: Tensor, batch: Batch, importance: Any, discriminator: PatchDiscriminator, s: LossSettings
              ) -> tuple[Tensor, Tensor | None]:
    """(images, weight of each patch) for the discriminator, by the settings' way of using the importance."""
    if importance is None:
        return images, None
    if s.cam == "blend":
        return losses.blend(images, batch.target, importance), None
    return images, losses.importance(importance, discriminator.grid, s.cam, s.cam_threshold)


def learn_discriminator(images: Tensor, batch: Batch, importance: Any, discriminator: PatchDiscriminator,
                        s: LossSettings, share: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Add `share` of the discriminator's gradient to its parameters; returns (loss, logits of real, of fake)."""
    shown, weight = as_judged(images.detach(), batch, importance, discriminator, s)
    real, fake = discriminator(batch.x, batch.target), discriminator(batch.x, shown)
    loss = losses.patch_discriminator_loss(real=real, fake=fake, fake_weight=weight if s.cam_discriminator else None)
    (loss * share).backward()
    return loss.detach(), real.detach(), fake.detach()


def learn_generator(images: Tensor, maps: Sequence[Tensor], verdict: Verdict, s: LossSettings, share: float = 1.0
                    ) -> None:
    """Hand the weighted pulls on to the generator: add `share` of its gradient to its parameters."""
    w = s.weights
    goal = (images * Tensor(sum(pull * (share * w[name]) for name, pull in verdict.image_pulls.items()))).sum() \
        if verdict.image_pulls else None
    for m, pull in zip(maps, verdict.map_pulls, strict=False):
        part = (m * Tensor(pull * (share * w["split"]))).sum()
        goal = part if goal is None else goal + part
    goal.backward()


def pull_lengths(verdict: Verdict, s: LossSettings) -> dict[str, float]:
    """Length of each weighted pull: how hard a loss pulls at the batch's images (L_split: at its maps)."""
    found = {name: float((pull ** 2).sum()) ** 0.5 * s.weights[name] for name, pull in verdict.image_pulls.items()}
    if verdict.map_pulls:
        found["split"] = float(sum((pull ** 2).sum() for pull in verdict.map_pulls)) ** 0.5 * s.weights["split"]
    return found
