"""One training step of the GPAN: the gradient of every loss with respect to the images, then those of the weights.

The gradient is computed in two parts that meet at the images. `loss_gradients` differentiates each loss with respect
to the images (L_split: to the maps of the stochastic layers); `learn_generator` backpropagates the weighted sum of
these gradients through the generator. By the chain rule that is the gradient of the weighted sum of the losses. Each
loss's graph is freed before the next one is built, so a step needs the memory of the generator's graph and of the
largest of these, not of their sum; and the norm of each loss's gradient needs no further backward pass. The losses
themselves, and the place to add one, are in losses.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tinygan.engine.tensor import Tensor, frozen, grad
from tinygan.kernels.host import renewed
from tinygan.models.classifiers.base import Classifier
from tinygan.models.classifiers.gradcam import grad_cam
from tinygan.models.gpan import losses as gpan_losses
from tinygan.models.gpan.losses import LossSettings
from tinygan.models.gpan.nets import Batch, PatchDiscriminator
from tinygan.models.gpan.views import Views, apply_views, plain_view
from tinygan.ops.affine import warp

CAM_SIDE = 28  # of importance maps that are resampled from random views


@dataclass
class LossGradients:
    """The losses of a batch and their gradients, before any weight.

    terms: name -> loss, a tensor of one number without a graph; only losses with a weight, and L_p, L_n ("wanted",
    "unwanted"). image_gradients: name -> gradient with respect to the images, (n, C, S, S); "vgg" is that of L_p + L_n.
    map_gradients: of L_split, with respect to each stochastic layer's maps. scores: the classifier's, (n, classes), of
    the plain images, or of the first view where only views are classified. importance: S, (n, h, w), or None.
    """

    terms: dict[str, Tensor] = field(default_factory=dict)
    image_gradients: dict[str, Any] = field(default_factory=dict)
    map_gradients: list[Any] = field(default_factory=list)
    scores: Any = None
    importance: Any = None


def loss_gradients(images: Tensor, maps: Sequence[Tensor], batch: Batch, views: Views | None, *,
                   discriminator: PatchDiscriminator, classifier: Classifier, settings: LossSettings) -> LossGradients:
    """Compute every loss of the GPAN and its gradient with respect to the images.

    images: (n, C, S, S); maps: of the stochastic layers, as GPANGenerator returns both; their graphs are not used.
    views: random views for the classifier, None for the plain images. No parameter's gradient is changed. Raises
    UsageError for a wrong option or shape, GraphError for views of other images.
    """
    leaf = Tensor(images.data, requires_grad=True)
    result = classifier_gradients(leaf, batch, views, classifier, settings)
    with frozen(discriminator):
        for name, loss in gpan_losses.image_losses(batch, result.importance, discriminator, settings).items():
            value = loss(leaf)
            result.image_gradients[name] = grad(value, [leaf])[0].data
            result.terms[name] = value.detach()
            del value  # frees the graph of this loss before the next is built
    if settings.weights["split"]:
        leaves = [Tensor(m.data, requires_grad=True) for m in maps]
        value = gpan_losses.split_loss(leaves, settings.split_scale, settings.split_sign, unit=settings.split_unit)
        result.map_gradients = [gradient.data for gradient in grad(value, leaves)]
        result.terms["split"] = value.detach()
    return result


def classifier_gradients(images: Tensor, batch: Batch, views: Views | None, classifier: Classifier,
                         settings: LossSettings) -> LossGradients:
    """Compute L_p and L_n, means over the views, their gradient with respect to the images, and the importance map.

    The views are classified one after the other, so their number costs time but no memory. The classifier's weights
    are constants, so no gradient of theirs is computed.
    """
    result, cams, s = LossGradients(), [], settings
    chosen = [None] if s.whole or views is None else []  # None: the plain images, which come first
    chosen += [] if views is None else [select_view(views, i) for i in range(len(views) // views.images)]
    share = 1.0 / len(chosen)
    for view in chosen:
        features = classifier.features(plain_view(images, classifier.side) if view is None else
                                       apply_views(images, view))
        logits = classifier.head(features)
        if result.scores is None:
            result.scores = logits.data  # not copied to the host: a GPU would wait for it at every step
        if s.cam != "off" and result.importance is None:  # the map of the plain images is enough where there is one
            cam = grad_cam(features, classifier.head, batch.wanted)
            if view is None or view.matrices is None:
                result.importance = cam
            else:
                cams.append(cam_to_image(cam, view))
        losses = {"wanted": gpan_losses.wanted_loss(logits, batch.wanted, s.classes),
                  "unwanted": gpan_losses.unwanted_loss(logits, batch.wanted, s.classes, s.unwanted)}
        for name, loss in losses.items():
            result.terms[name] = result.terms.get(name, 0.0) + loss.detach() * share
        if s.weights["vgg"]:
            (gradient,) = grad((losses["wanted"] + losses["unwanted"]) * share, [images])
            sums = result.image_gradients
            sums["vgg"] = sums["vgg"] + gradient.data if "vgg" in sums else gradient.data
        del features, logits, losses, loss  # frees the graph of this view before the next is built
    if cams:
        result.importance = sum(cams) * (1.0 / len(cams))
    return result


def select_view(views: Views, i: int) -> Views:
    """Return view i of every image as Views with one view per image."""
    rows = slice(i * views.images, (i + 1) * views.images)
    if views.matrices is None:
        return views
    return replace(views, sources=views.sources[rows], matrices=views.matrices[rows], blurred=views.blurred[rows],
                   contrast=views.contrast[rows], turn=i)


def cam_to_image(cam: Any, views: Views) -> Any:
    """Resample importance maps from the grid of a view to a grid on the image; 0 where the view does not reach.

    cam: (n, h, w), one map per view. Returns (n, CAM_SIDE, CAM_SIDE). The affine map from the view's pixels to the
    image's is inverted; each grid divides its square evenly.
    """
    h, w = cam.shape[1:]
    matrices = renewed(cam, lambda: _from_cells(views, h, w), views.matrices)
    return warp(Tensor(cam[:, None]), matrices, (CAM_SIDE, CAM_SIDE)).data[:, 0]


def _from_cells(views: Views, h: int, w: int) -> np.ndarray:
    """Return the maps (n, 2, 3) from cells of an image to cells (h, w) of its view's importance map."""
    linear, offset = views.matrices[:, :, :2], views.matrices[:, :, 2]
    per_cell = np.array(views.size) / CAM_SIDE  # pixels of the image
    back = np.linalg.inv(linear) * (np.array([h, w]) / views.side)[:, None]  # from the image's pixels to cells of cam
    first = 0.5 * per_cell - 0.5 - offset  # where cell (0, 0) of the result lies
    start = np.einsum("nij,nj->ni", back, first) + (0.5 * np.array([h, w]) / views.side - 0.5)
    return np.concatenate([back * per_cell, start[:, :, None]], axis=2)


def learn_discriminator(images: Tensor, batch: Batch, importance: Any, discriminator: PatchDiscriminator,
                        s: LossSettings, share: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Add `share` of the discriminator's gradient to its parameters.

    images (n, C, S, S): the generator's. importance (n, h, w): of `loss_gradients`, or None. share: below 1 where a
    batch is computed in parts. Returns (loss, logits of real, logits of fake), logits (n, 1, h, w), without graphs.
    """
    inputs, weight = gpan_losses.discriminator_input(images.detach(), batch.target, importance, discriminator.grid, s)
    real, fake = discriminator(batch.d_condition, batch.target), discriminator(batch.d_condition, inputs)
    fake_weight = weight if s.cam_discriminator else None
    loss = gpan_losses.patch_discriminator_loss(real=real, fake=fake, fake_weight=fake_weight)
    (loss * share).backward()
    return loss.detach(), real.detach(), fake.detach()


def learn_generator(images: Tensor, maps: Sequence[Tensor], losses: LossGradients, s: LossSettings, share: float = 1.0
                    ) -> None:
    """Backpropagate the weighted sum of the losses' gradients: add `share` of it to the generator's parameters.

    images (n, C, S, S), maps: the generator's, with their graph. The gradient of sum(images * constant) with respect to
    the images is the constant, so backward() of it starts with the sum of gradients.
    """
    w, of_images = s.weights, losses.image_gradients
    constants = [(m, gradient * (share * w["split"])) for m, gradient in zip(maps, losses.map_gradients, strict=False)]
    if of_images:
        constants.insert(0, (images, sum(gradient * (share * w[name]) for name, gradient in of_images.items())))
    first, *rest = ((tensor * Tensor(constant)).sum() for tensor, constant in constants)
    sum(rest, start=first).backward()
