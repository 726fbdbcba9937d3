"""Grad-CAM: the contribution of each place of an image to a classifier's score of a class (Selvaraju et al. 2017).

    alpha_k = mean over places of d y / d A_k        by how much channel k raises the score
    map     = max(0, sum_k alpha_k A_k)              where those channels are active

y is the score of a class before the softmax, or the sum of several. The GPAN takes pool5 of VGG16 for A, so that the
backward pass covers the fully-connected layers only; any layer can be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinygan.engine.tensor import Tensor, _set_mode, describe, grad
from tinygan.errors import UsageError
from tinygan.kernels import for_array
from tinygan.kernels.host import class_mask


def grad_cam(features: Tensor, head: Callable[[Tensor], Tensor], classes: Sequence[int], eps: float = 1e-8,
             normalise: bool = True) -> Any:
    """Compute importance maps (N, h, w), an array on the features' device; no gradient flows through it.

    features: A, (N, channels, h, w), the maps of some layer. head: the rest of the classifier, A -> scores (N,
    classes), before the softmax; the scores of an image must depend on that image alone. classes: ids; several give the
    map of the sum of their scores. normalise: divide each map by (its largest value + eps), to [0, 1]; a map of zeros,
    where no channel raises the score, stays one.
    Only the gradient with respect to A is computed, none for the head's weights, also inside `no_grad()`.
    Raises UsageError for a class the head does not have and for features of another shape.
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
    seed = scores.xp.zeros(scores.shape, scores.dtype) + class_mask(scores.data, classes, scores.shape[1])
    slope = grad(scores, [a], seed=seed)[0].data
    n, channels, height, width = a.shape
    alpha = slope.mean(axis=(2, 3)).reshape(n, 1, channels)
    cam = for_array(alpha).matmul(alpha, a.data.reshape(n, channels, height * width)).reshape(n, height, width)
    cam = cam.clip(0.0, None)
    return cam / (cam.max(axis=(1, 2), keepdims=True) + eps) if normalise else cam
