"""The interface of a pre-trained classifier: what Grad-CAM, the GPAN's losses and its measures call."""

from __future__ import annotations

from tinygan.engine.tensor import Tensor
from tinygan.nn.module import Module


class Classifier(Module):
    """A pre-trained classifier of images (N, C, side, side) in [-1, 1], in two parts.

        images -> features -> maps (N, K, h, w) -> head -> scores (N, classes), before the softmax

    All is differentiable down to the image; the weights are constants (`unfreeze()` makes them learnable).
    side: pixels of an image. channels: C, None where any number will do. class_names: by class id. mirrored: whether a
    mirror image shows the same class. Subclasses define these, `features` and `head`.
    """

    side: int
    channels: int | None = None
    class_names: tuple[str, ...]
    mirrored = True

    def forward(self, images: Tensor) -> Tensor:
        """Return the same as `scores`."""
        return self.scores(images)

    def scores(self, images: Tensor) -> Tensor:
        """Return the scores (N, classes) before the softmax. Raises TinyganError for images of another shape."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Return the maps (N, K, h, w) that Grad-CAM is computed on. Raises TinyganError for another shape."""
        raise NotImplementedError(f"{type(self).__name__} does not define features")

    def head(self, features: Tensor) -> Tensor:
        """Return the scores (N, classes) for maps (N, K, h, w) of `features`."""
        raise NotImplementedError(f"{type(self).__name__} does not define head")
