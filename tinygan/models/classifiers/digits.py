"""A small classifier of digits, which measures the images of a GAN and trains a GPAN.

    image (N, 1, 28, 28) in [0, 1] -> five convolutions, down to one point -> 64 features -> 10 logits

It is made of the layers of the adapted GAN's discriminator (filters of length one, translated PReLUs). Its weights,
digits.h5, were made by weights/train_digits.py; loading recomputes stored answers and refuses the file if they differ
(data/answer_key.py).
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import numpy as np

from tinygan import ops
from tinygan.data import answer_key
from tinygan.data.hdf5 import open_hdf5
from tinygan.engine.tensor import Tensor, no_grad
from tinygan.errors import Refused, TinyganError
from tinygan.models.classifiers.base import Classifier
from tinygan.nn.layers import Conv2d, Linear, TPReLU

CLASSES = 10
FORMAT, VERSION = "tinygan digit classifier", 1
SHIPPED = Path(str(files("tinygan.models.classifiers") / "digits.h5"))
REMEDY = "install tinygan again, or make it with: python weights/train_digits.py"
MAX_BYTES = 1 << 20  # of a weight file
# (channels, kernel, stride, padding) of each convolution; sides 28 -> 14 -> 14 -> 7 -> 3 -> 1. Our choice: ending in a
# mean over a 7 x 7 map instead of filters for every place learned much more slowly.
CONVOLUTIONS = ((24, 5, 2, 2), (32, 3, 1, 1), (48, 4, 2, 1), (64, 3, 2, 0), (64, 3, 1, 0))
MAPS_AFTER = 3  # convolutions; the last maps with more than 3 x 3 places
INK_BELOW, INK_STEEPNESS = 0.2, 6.0  # our choice: white (1) becomes 0.001, black (-1) 0.99, -0.2 one half


class DigitNet(Classifier):
    """The digit classifier. It takes two kinds of images:

    * `classify`, `logits` and `embed`: MNIST's, (N, 1, 28, 28) in [0, 1], white on black;
    * `features`, `head` and `scores`, as every `Classifier`: pictures (N, C, 28, 28) in [-1, 1], dark ink on white.
    """

    side, class_names, mirrored = 28, tuple("0123456789"), False

    def __init__(self, *, rng: np.random.Generator, dtype: type = np.float32) -> None:
        widths = [1] + [c for c, *_ in CONVOLUTIONS]
        self.convs = [Conv2d(widths[i], c, k, stride=s, padding=p, norm="strict", rng=rng, dtype=dtype)
                      for i, (c, k, s, p) in enumerate(CONVOLUTIONS)]
        self.activations = [TPReLU(c, clamp="project", dtype=dtype) for c in widths[1:]]
        self.last = Linear(widths[-1], CLASSES, rng=rng, dtype=dtype)

    def features(self, images: Tensor) -> Tensor:
        """Return the maps (N, 48, 7, 7) of pictures. Raises TinyganError for another side than 28.

        Colours are averaged, and dark ink on light paper becomes light ink on MNIST's black ground. Values above about
        mid grey count as paper, as for a scanner, so a digit may stand on a pale shape.
        """
        if images.ndim != 4 or images.shape[2:] != (self.side, self.side):
            raise TinyganError(f"the digit classifier takes images of 28 x 28 pixels, not {images.shape}")
        digits = ops.sigmoid((images.mean(axis=1, keepdims=True) + INK_BELOW) * -INK_STEEPNESS)
        return self._run(digits, slice(None, MAPS_AFTER))

    def head(self, features: Tensor) -> Tensor:
        """Return the logits (N, 10) for maps (N, 48, 7, 7)."""
        x = self._run(features, slice(MAPS_AFTER, None))
        return self.last(x.reshape(len(x), -1))

    def logits(self, digits: Tensor) -> Tensor:
        """Return the logits (N, 10) of MNIST digits. Raises as `embed` does."""
        return self.last(self.embed(digits))

    def embed(self, digits: Tensor) -> Tensor:
        """Return the features (N, 64) of MNIST digits, the input of the last layer. Raises TinyganError for another
        shape than (N, 1, 28, 28)."""
        if digits.ndim != 4 or digits.shape[1:] != (1, 28, 28):
            raise TinyganError(f"the digit classifier takes images of shape (N, 1, 28, 28), not {digits.shape}; "
                               "draw.as_digits cuts a generator's canvas to size")
        x = self._run(digits, slice(None))
        return x.reshape(len(x), -1)

    def _run(self, x: Tensor, layers: slice) -> Tensor:
        for conv, activation in zip(self.convs[layers], self.activations[layers], strict=True):
            x = activation(conv(x))
        return x

    def classify(self, images: np.ndarray, *, batch: int = 250) -> tuple[np.ndarray, np.ndarray]:
        """Compute (probabilities (N, 10), features (N, 64)), float32, of MNIST digits (N, 1, 28, 28) in [0, 1].

        Runs on NumPy, in batches. uint8 images (0 to 255) are scaled. Raises TinyganError for another shape, NaN or no
        image.
        """
        images = np.asarray(images)
        if not images.size or images.dtype.kind not in "fu" or (images.dtype.kind == "u" and images.dtype != np.uint8):
            raise TinyganError(f"nothing to classify in an array of {images.dtype} {images.shape}; "
                               "give images as floats or uint8")
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        probabilities, features = [], []
        with no_grad():
            for start in range(0, len(images), batch):
                part = self.embed(Tensor(images[start:start + batch].astype(np.float32) / scale))
                probabilities.append(ops.exp(ops.log_softmax(self.last(part))).numpy())
                features.append(part.numpy())
        if not np.isfinite(features[-1]).all() or not all(np.isfinite(p).all() for p in probabilities):
            raise TinyganError("the images to classify hold NaN or infinity; check the generator they come from")
        return np.concatenate(probabilities), np.concatenate(features)


# ---- the weight file -----------------------------------------------------------------------------------------------


def load(path: str | os.PathLike | None = None) -> DigitNet:
    """Load the net of a weight file, its weights frozen; None: the file that comes with the package.

    Recomputes the file's stored answers. Raises TinyganError, one line that names the file, for anything but a whole
    and sound file of this format.
    """
    if path is None:
        path = SHIPPED
        if not path.is_file():
            raise TinyganError(f"there is no {path}, the classifier that comes with tinygan; {REMEDY}")
    net = DigitNet(rng=np.random.default_rng(0))
    with open_hdf5(path, max_bytes=MAX_BYTES) as file:
        answer_key.check_format(file, FORMAT, VERSION, "use the one that came with this version")
        shapes = {name: p.shape for name, p in net.named_parameters()}
        if file.names() != [answer_key.GROUP, "parameters"] or file.names("parameters") != sorted(shapes):
            raise Refused("its parts are not those of this net; use the file that came with this version")
        net.load_state_dict({name: file.array(f"parameters/{name}", shape, ("float16", "float32"))
                             for name, shape in shapes.items()})
        probes = file.attribute("probes")
        if not isinstance(probes, int) or not 1 <= probes <= 1000:
            raise Refused(f"its answer key is said to have {probes} images")
        answer_key.check(file, {"images": (probes, 28, 28)}, {"logits": (probes, CLASSES)},
                         lambda images: [answers(net, images)], floor=1.0)
    return net.freeze()


def answers(net: DigitNet, images: np.ndarray) -> np.ndarray:
    """Compute logits (P, 10) float32 for uint8 images (P, 28, 28)."""
    with no_grad():
        return net.logits(Tensor(images[:, None].astype(np.float32) / 255.0)).numpy().astype(np.float32)
