"""Measures and pictures of a GPAN's images: hit rates, sheets of images and importance maps, memory of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygan.app import pictures
from tinygan.app.device import Device
from tinygan.app.draw import AT_ONCE
from tinygan.app.heatmap import overlay
from tinygan.engine.tensor import Tensor, no_grad
from tinygan.kernels.arrays import to_numpy
from tinygan.metrics import gpan as metrics_gpan
from tinygan.models.classifiers.base import Classifier
from tinygan.models.classifiers.gradcam import grad_cam
from tinygan.models.classifiers.vgg16 import VGG16
from tinygan.models.gpan.losses import LossSettings
from tinygan.models.gpan.nets import Batch, GPANGenerator, PatchDiscriminator
from tinygan.models.gpan.step import LossGradients
from tinygan.models.gpan.views import ViewSettings, apply_views, draw_views, held_out, plain_view

LARGEST_SHOWN = 256  # pixels of one image in a sheet; larger ones are averaged down
HELD_OUT = held_out(ViewSettings())
HELD_OUT_DIGITS = held_out(HELD_OUT, flip=False, scale=(0.9, 1.1))  # a mirrored 3 is none


def gradient_squares(losses: LossGradients) -> dict[str, Any]:
    """Return name -> sum of squares of each loss's gradient, a number on the device, over the whole batch.

    Of L_split it is that of all maps.
    """
    arrays = {name: [gradient] for name, gradient in losses.image_gradients.items()}
    if losses.map_gradients:
        arrays["split"] = losses.map_gradients
    return {name: sum((a ** 2).sum() for a in parts) for name, parts in arrays.items()}


def gradient_norms(squares: Mapping[str, Any], s: LossSettings) -> dict[str, float]:
    """Return name -> Euclidean norm of the weighted gradient of each loss, from `gradient_squares`."""
    return {name: float(square) ** 0.5 * s.weights[name] for name, square in squares.items()}


def as_pictures(images: np.ndarray) -> np.ndarray:
    """Convert images in [-1, 1] to [0, 1], as pictures.grid takes them, at most LARGEST_SHOWN pixels wide."""
    factor = -(-images.shape[2] // LARGEST_SHOWN)
    if factor > 1:
        n, c, height, width = images.shape
        images = images.reshape(n, c, height // factor, factor, width // factor, factor).mean(axis=(3, 5))
    return ((images + 1) * 0.5).clip(0, 1)


def cam_sheet(classifier: Classifier, batches: Sequence[Batch], images: Sequence[np.ndarray],
              device: Device) -> np.ndarray:
    """Lay out a row for each batch: its first images, each beside its importance map for the wanted classes."""
    rows = []
    for batch, row in zip(batches, images, strict=True):
        for image in row[:3]:
            shown = Tensor(device.put(image[None]))
            with no_grad():
                features = classifier.features(plain_view(shown, classifier.side))
            cam = to_numpy(grad_cam(features, classifier.head, batch.wanted))[0]
            small = as_pictures(image[None])[0]
            small = np.repeat(small, 3 // len(small), axis=0)  # the overlay is in colour, whatever the image is
            rows += [small, overlay(small * 2 - 1, cam).transpose(2, 0, 1) / np.float32(255)]
    return pictures.grid(np.stack(rows), len(images), len(rows) // len(images))


def image_sheet(batches: Sequence[Batch], images: Sequence[np.ndarray], headers: list[str] | None = None) -> np.ndarray:
    """Lay out a row for each batch: its first substrate, then its images."""
    rows = [as_pictures(np.concatenate([batch.target.numpy()[:1], row]))
            for batch, row in zip(batches, images, strict=True)]
    return pictures.routes_sheet(np.stack(rows, axis=1), headers=headers)


def scores_of(classifier: Classifier, images: np.ndarray, device: Device, views_seed: int | None = None,
              progress: Callable[[int], None] = lambda count: None) -> tuple[np.ndarray, np.ndarray]:
    """Compute (scores, features as rows) of images: whole, or with a seed through views of HELD_OUT. progress is called
    with the number of images that have just been classified."""
    scores, features = [], []
    with no_grad():
        for start in range(0, len(images), AT_ONCE):
            part = Tensor(device.put(images[start:start + AT_ONCE]))
            if views_seed is None:
                inputs = plain_view(part, classifier.side)
            else:
                settings = HELD_OUT if classifier.mirrored else HELD_OUT_DIGITS
                rng = np.random.default_rng([views_seed, start])
                inputs = apply_views(part, draw_views(rng, len(part), settings, *images.shape[2:], classifier.side))
            maps = classifier.features(inputs)
            features.append(maps.numpy().reshape(len(part), -1))
            scores.append(classifier.head(maps).numpy())
            progress(len(part))
    return np.concatenate(scores), np.concatenate(features)


def hit_rates(scores: Any, wanted: Sequence[int], prefix: str = "") -> dict[str, float]:
    """Compute metrics_gpan.hit_rates of scores on any device, with names for the log."""
    return {prefix + name: value for name, value in metrics_gpan.hit_rates(to_numpy(scores), wanted).items()}


def in_words(numbers: Mapping[str, float]) -> str:
    """Describe in one line how well the images show the wanted classes, from a log row."""
    parts = []
    if "top1" in numbers:
        whole_sure, top, sure = (numbers.get(name, np.nan) for name in ("probability", "view_top1", "view_probability"))
        parts.append(f"the classifier finds what is wanted in {numbers['top1']:.0%} of the images (probability "
                     f"{whole_sure:.2f}; through other views {top:.0%}, {sure:.2f})")
    elif "train_top1" in numbers:
        parts.append(f"the classifier finds what is wanted in {numbers['train_top1']:.0%} of the batch (probability "
                     f"{numbers.get('train_probability', np.nan):.2f})")
    if "background" in numbers:
        parts.append(f"background {numbers['background']:.3f} from white")
    if "substrate" in numbers:
        parts.append(f"substrate {numbers['substrate']:.2f} away")
    if "variety" in numbers:
        parts.append(f"routes change {numbers['variety']:.2f} as much as noise")
    return "; ".join(parts)


def estimate_bytes(generator: GPANGenerator, discriminator: PatchDiscriminator, classifier: Classifier, batch: int,
                   accumulate: int = 1) -> int:
    """Estimate the memory of a step in bytes: every weight with its gradient and averages, and the maps that the
    backward passes need. The generator's stay while the others come and go."""
    c, n = generator.config, -(-batch // accumulate)
    encoder = sum(c.encoder_width(side) * side ** 2 for side in c.encoder_sides)
    decoder = sum((c.decoder_width(side) + c.skip_width(side) if side < c.size else 4 * c.channels) * side ** 2
                  for side in [*c.stochastic_sides, *c.ordinary_sides])
    patch, side, widths = 0, c.encoder_side, [len(conv.weight.data[0]) for conv in discriminator.convs]
    for width in widths:
        side = max(discriminator.grid[0], side // 2)
        patch += width * side ** 2
    of_classifier = 0
    if isinstance(classifier, VGG16):
        for name, layer in classifier.layers.items():
            if name.startswith("conv"):
                of_classifier += len(layer.bias) * (classifier.side >> (int(name[4]) - 1)) ** 2
    weights = 6 * generator.parameter_count() + 5 * discriminator.parameter_count() + classifier.parameter_count()
    of_generator = 3 * (encoder + decoder)
    return 4 * (weights + n * (of_generator + max(2 * of_classifier, 6 * patch, of_generator)))
