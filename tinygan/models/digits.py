"""A small classifier of digits: the eye with which generated images are judged.

    image (N, 1, 28, 28) in [0, 1] -> five convolutions, down to one point -> 64 features -> 10 logits

It is made of the layers of the adapted GAN's discriminator (filters of length one, translated PReLUs), so it needs no
code of its own. What it is for:

    classify   probabilities and features of many images: classes covered, confidence, Fréchet distance (metrics.py)
    scores     the logits as a differentiable function of the image, features likewise

Its weights, digits.h5 beside this file, were made by weights/train_digits.py. They carry their own answer key, a few
digits and the logits these must give, so a net that loads is a net that works.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinygan import ops
from tinygan.engine import Tensor, no_grad
from tinygan.errors import Refused, TinyganError
from tinygan.hdf5 import Reader, import_h5py, open_hdf5, write_hdf5
from tinygan.layers import Conv2d, Linear, TPReLU
from tinygan.module import Module

CLASSES = 10
FORMAT, VERSION = "tinygan digit classifier", 1
SHIPPED = Path(__file__).with_name("digits.h5")
REMEDY = "install tinygan again, or make it with: python weights/train_digits.py"
MAX_BYTES = 1 << 20  # of a weight file
# (channels, kernel, stride, padding) of each convolution; sides 28 -> 14 -> 14 -> 7 -> 3 -> 1. Our choice. Ending in a
# mean over a 7 x 7 map instead of filters that know where they look learned much more slowly.
CONVOLUTIONS = ((24, 5, 2, 2), (32, 3, 1, 1), (48, 4, 2, 1), (64, 3, 2, 0), (64, 3, 1, 0))


class DigitNet(Module):
    """Images (N, 1, 28, 28) in [0, 1], white on black as in MNIST -> logits (N, 10)."""

    def __init__(self, *, rng: np.random.Generator, dtype: type = np.float32) -> None:
        widths = [1] + [c for c, *_ in CONVOLUTIONS]
        self.convs = [Conv2d(widths[i], c, k, stride=s, padding=p, norm="strict", rng=rng, dtype=dtype)
                      for i, (c, k, s, p) in enumerate(CONVOLUTIONS)]
        self.activations = [TPReLU(c, clamp="project", dtype=dtype) for c in widths[1:]]
        self.last = Linear(widths[-1], CLASSES, rng=rng, dtype=dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Same as `scores`."""
        return self.scores(images)

    def scores(self, images: Tensor) -> Tensor:
        """Logits (N, 10); differentiable."""
        return self.last(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees, (N, 64); differentiable. Raises TinyganError for images of another shape."""
        if images.ndim != 4 or images.shape[1:] != (1, 28, 28):
            raise TinyganError(f"the digit classifier takes images of shape (N, 1, 28, 28), not {images.shape}; "
                               "sampling.as_digits cuts a generator's canvas to size")
        x = images
        for conv, activation in zip(self.convs, self.activations, strict=True):
            x = activation(conv(x))
        return x.reshape(len(x), -1)

    def classify(self, images: np.ndarray, *, batch: int = 250) -> tuple[np.ndarray, np.ndarray]:
        """(probabilities (N, 10), features (N, 64)), both float32, of images (N, 1, 28, 28) in [0, 1], in batches.

        Runs on NumPy. uint8 images (0 to 255) are scaled. Raises TinyganError for another shape, NaN or no image.
        """
        images = np.asarray(images)
        if not images.size or images.dtype.kind not in "fu" or (images.dtype.kind == "u" and images.dtype != np.uint8):
            raise TinyganError(f"nothing to classify in an array of {images.dtype} {images.shape}; "
                               "give images as floats or uint8")
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        probabilities, features = [], []
        with no_grad():
            for start in range(0, len(images), batch):
                part = self.features(Tensor(images[start:start + batch].astype(np.float32) / scale))
                probabilities.append(ops.exp(ops.log_softmax(self.last(part))).numpy())
                features.append(part.numpy())
        if not np.isfinite(features[-1]).all() or not all(np.isfinite(p).all() for p in probabilities):
            raise TinyganError("the images to classify hold NaN or infinity; check the generator they come from")
        return np.concatenate(probabilities), np.concatenate(features)


INK_BELOW, INK_STEEPNESS = 0.2, 6.0  # our choice: white (1) is ink 0.001, black (-1) ink 0.99, -0.2 is half


class DigitEye(Module):
    """The digit classifier as the GPAN's: images (N, C, 28, 28) in [-1, 1], dark ink on white -> scores (N, 10).

    It has what models.vgg16.VGG16 has: `features`, the map that Grad-CAM looks at (48 maps of 7 x 7, the last that
    still have a place), `head` from there to the scores, `scores`, and the names of the classes. Its weights are
    frozen.
    """

    side, class_names, map_after = 28, tuple("0123456789"), 3

    def __init__(self, net: DigitNet) -> None:
        self.net = net
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        """Same as `scores`."""
        return self.scores(images)

    def scores(self, images: Tensor) -> Tensor:
        """Logits (N, 10); differentiable."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """(N, 48, 7, 7). Colours are averaged; dark ink on light paper becomes light ink on MNIST's black ground. What
        is lighter than about mid grey counts as paper, as for a scanner: so a digit may stand on a pale shape."""
        if images.ndim != 4 or images.shape[2:] != (self.side, self.side):
            raise TinyganError(f"the digit classifier takes images of {self.side} x {self.side} pixels, not "
                               f"{images.shape}")
        x = ops.sigmoid((images.mean(axis=1, keepdims=True) + INK_BELOW) * -INK_STEEPNESS)
        return self._through(x, slice(None, self.map_after))

    def head(self, features: Tensor) -> Tensor:
        """From the 7 x 7 maps to the scores."""
        x = self._through(features, slice(self.map_after, None))
        return self.net.last(x.reshape(len(x), -1))

    def _through(self, x: Tensor, layers: slice) -> Tensor:
        for conv, activation in zip(self.net.convs[layers], self.net.activations[layers], strict=True):
            x = activation(conv(x))
        return x


def find_classifier(say: Callable[[str], None] = print) -> DigitNet | None:
    """The trained classifier that comes with the package.

    Returns None, and says why in one line, where there is none or h5py is missing: a GAN trains without it.
    Raises TinyganError if the file is there and cannot be trusted.
    """
    skipped = "classes drawn, KL and confidence are not measured"
    if not SHIPPED.is_file():
        say(f"note: there is no {SHIPPED}, so {skipped}; {REMEDY}")
        return None
    try:
        import_h5py()
    except TinyganError as error:
        say(f"note: {error}; without it {skipped}")
        return None
    return load()


# ---- the weight file -----------------------------------------------------------------------------------------------


def save(net: DigitNet, path: str | os.PathLike, probe: np.ndarray, attributes: dict[str, Any]) -> None:
    """Write the weights as float16, with the net's answers to `probe`, uint8 images (P, 28, 28).

    `net` is rounded to what is written. attributes: texts and numbers that say what the file is (the keys "format",
    "version" and "probes" are set here).
    """
    stored = {name: p.astype(np.float16) for name, p in net.state_dict().items()}
    net.load_state_dict(stored)
    arrays = {f"parameters/{name}": array for name, array in stored.items()}
    arrays |= {"answer_key/images": probe, "answer_key/logits": answers(net, probe)}
    write_hdf5(path, arrays, {"format": FORMAT, "version": VERSION, "probes": len(probe), **attributes})


def load(path: str | os.PathLike | None = None) -> DigitNet:
    """The net in a weight file (without a path the one that comes with the package), after it gave the right answers
    to the file's own questions.

    Raises TinyganError, one line that names the file, for anything but a whole and sound file of this format.
    """
    if path is None:
        path = SHIPPED
        if not path.is_file():
            raise TinyganError(f"there is no {path}, the classifier that comes with tinygan; {REMEDY}")
    net = DigitNet(rng=np.random.default_rng(0))
    with open_hdf5(path, max_bytes=MAX_BYTES) as file:
        check_format(file)
        own = {name: p.shape for name, p in net.named_parameters()}
        if file.names() != ["answer_key", "parameters"] or file.names("parameters") != sorted(own):
            raise Refused("its parts are not those of this net; use the file that came with this version")
        net.load_state_dict({name: file.array(f"parameters/{name}", shape, ("float16", "float32"))
                             for name, shape in own.items()})
        probes = file.attribute("probes")
        if not isinstance(probes, int) or not 1 <= probes <= 1000:
            raise Refused(f"its answer key is said to have {probes} images")
        images = file.array("answer_key/images", (probes, 28, 28), ("uint8",))
        expected = file.array("answer_key/logits", (probes, CLASSES), ("float32",))
        error = np.abs(answers(net, images) - expected).max()
        if not error <= 1e-3 * (1 + np.abs(expected).max()):
            raise Refused(f"its answer key does not fit: a logit is off by {error:.3g}; the weights are damaged")
    return net


def about(path: str | os.PathLike) -> dict[str, Any]:
    """The attributes of a weight file: what, source, test_accuracy, licence ..."""
    with open_hdf5(path, max_bytes=MAX_BYTES) as file:
        check_format(file)
        return file.attributes()


def check_format(file: Reader) -> None:
    if file.attribute("format", "") != FORMAT:
        raise Refused(f"it is not a file of the {FORMAT}; use the one that came with this version")
    if file.attribute("version") != VERSION:
        raise Refused(f"its version is {file.attribute('version')} and this tinygan reads {VERSION}")


def answers(net: DigitNet, images: np.ndarray) -> np.ndarray:
    """Logits (P, 10) float32 for uint8 images (P, 28, 28)."""
    with no_grad():
        return net.scores(Tensor(images[:, None].astype(np.float32) / 255.0)).numpy().astype(np.float32)
