"""Grad-CAM: where in an image a classifier sees what it sees (Selvaraju et al. 2017).

    alpha_k = mean over places of d y / d A_k        how much channel k of a feature map speaks for the classes
    map     = max(0, sum_k alpha_k A_k)              where those channels are active

y is the score of a class before the softmax, or the sum of several. The GPAN takes pool5 of VGG16 for A, so that only
the fully-connected layers are gone through backwards; any layer does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygan.engine import Tensor, _set_mode, describe, grad
from tinygan.errors import UsageError
from tinygan.kernels.arrays import to_numpy
from tinygan.pooling import interpolation_matrix

# Importance -> colour: from a dark violet over red and orange to a light yellow. Each step is lighter than the one
# before, so that it reads in grey as well, and to eyes that do not tell red from green.
HEAT = ((0.0, (38, 12, 64)), (0.3, (130, 24, 92)), (0.55, (212, 58, 62)), (0.8, (246, 146, 44)), (1.0, (252, 238, 140)))
COVER = 0.75  # share of the colour where the importance is 1; the rest is the image, so that one sees what it is on


def grad_cam(features: Tensor, head: Callable[[Tensor], Tensor], classes: Sequence[int], eps: float = 1e-8,
             normalise: bool = True) -> Any:
    """Importance maps (N, h, w), an array on the features' device; a constant, no gradient goes through it.

    features: A, (N, channels, h, w), the maps of some layer. head: the rest of the classifier, A -> scores (N,
    classes), before the softmax; the scores of an image must depend on that image alone. classes: ids; several give the
    map of the sum of their scores. normalise: divide each map by (its largest value + eps), to [0, 1]; a map of zeros,
    where nothing speaks for the classes, stays one.
    Only the gradient with respect to A is computed, none for the head's weights, also inside `no_grad()`.
    Raises UsageError for a class the head does not know and for features of another shape.
    """
    if features.ndim != 4:
        raise UsageError(f"Grad-CAM takes feature maps (N, channels, h, w), got {describe(features)}")
    with _set_mode(recording=True):
        a = Tensor(features.data, requires_grad=True)
        scores = head(a)
    ids = [int(c) for c in classes]
    if scores.ndim != 2 or not ids or min(ids) < 0 or max(ids) >= scores.shape[1]:
        raise UsageError(f"classes {ids} of {describe(scores)}: give ids below the number of classes, one or more")
    # The gradient of a sum of scores in one pass: begin with 1 at each of them.
    seed = scores.xp.zeros(scores.shape, scores.dtype)
    for c in ids:
        seed[:, c] = 1.0
    slope = grad(scores, [a], seed=seed)[0].data
    n, channels, height, width = a.shape
    alpha = slope.mean(axis=(2, 3)).reshape(n, 1, channels)
    cam = (alpha @ a.data.reshape(n, channels, height * width)).reshape(n, height, width).clip(0.0, None)
    return cam / (cam.max(axis=(1, 2), keepdims=True) + eps) if normalise else cam


def heat(values: np.ndarray) -> np.ndarray:
    """Importance in [0, 1] as a colour: (...) -> uint8 (..., 3). See HEAT."""
    places, colours = zip(*HEAT, strict=True)
    levels = np.stack([np.interp(values, places, part) for part in zip(*colours, strict=True)], axis=-1)
    return levels.round().astype(np.uint8)


def resized(cam: Any, size: tuple[int, int]) -> np.ndarray:
    """One map (h, w) as (H, W) = size on the host, bilinearly."""
    cam = to_numpy(cam)
    rows, columns = (interpolation_matrix(n, m, antialias=True) for n, m in zip(cam.shape, size, strict=True))
    return rows @ cam @ columns.T


def overlay(image: Any, cam: Any) -> np.ndarray:
    """The map in colours over the image in grey: uint8 (H, W, 3).

    image: an array (3, H, W), RGB in [-1, 1]. cam: (h, w) in [0, 1], resized to the image bilinearly. The colour
    covers the more, the more important a place is: what does not matter is a plain grey picture.
    Raises UsageError for other shapes.
    """
    image = to_numpy(image)
    if image.ndim != 3 or image.shape[0] != 3 or cam.ndim != 2:
        raise UsageError(f"an overlay takes an image (3, H, W) and a map (h, w), not {image.shape} and {cam.shape}")
    importance = resized(cam, image.shape[1:]).clip(0.0, 1.0)[:, :, None]
    luma = np.tensordot((0.299, 0.587, 0.114), (image + 1.0) * 127.5, 1)[:, :, None]  # ITU-R BT.601
    share = COVER * importance * (2.0 - importance)  # rises fast, so that the middle of the range is seen as well
    mixed = luma * (1.0 - share) + heat(importance[:, :, 0]) * share
    return mixed.clip(0.0, 255.0).round().astype(np.uint8)
