"""VGG16, the classifier of photographs (Simonyan & Zisserman 2014, configuration D), and its weight file.

    images (N, 3, H, W), RGB in [-1, 1]
      -> 13 convolutions 3x3 with ReLU in five blocks, each block followed by a 2x2 max pool -> pool5 (N, 512, h, w)
      -> fc6, fc7 with ReLU, fc8 -> scores (N, classes), before the softmax

All is differentiable down to the image, and the weights are constants: no gradient is computed for them (`unfreeze()`
makes them learnable). The scale of the net's input and its mean colours differ from file to file and are applied here;
callers give images in [-1, 1].

The weights come from a file that weights/convert_vgg16.py makes of Keras' or torchvision's. Loading recomputes stored
answers and refuses the file if they differ (data/answer_key.py).
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygan import ops
from tinygan.data import answer_key
from tinygan.data.hdf5 import Reader, open_hdf5
from tinygan.engine.tensor import Tensor, describe, no_grad
from tinygan.errors import Refused, TinyganError, UsageError
from tinygan.models.classifiers.base import Classifier
from tinygan.nn.module import Module, Parameter
from tinygan.ops.fused import conv_relu
from tinygan.ops.pooling import _resize, max_pool2d

FORMAT, VERSION = "tinygan VGG16", 1
LAYOUT = "convolutions (out, in, 3, 3); fc (out, in), fc6 over the flattened (channel, row, column) map"
BLOCKS = (2, 2, 3, 3, 3)  # convolutions in each block, configuration D
CONVOLUTIONS = tuple(f"conv{block}_{i}" for block, count in enumerate(BLOCKS, 1) for i in range(1, count + 1))
HEAD = ("fc6", "fc7", "fc8")
LAYERS = CONVOLUTIONS + HEAD
# The maps that `VGG16.maps` can give, in the order in which they arise.
MAPS = tuple(name for block in range(1, 6)
             for name in (*(c for c in CONVOLUTIONS if c[4] == str(block)), f"pool{block}"))
STEP = 2 ** len(BLOCKS)  # pixels of the image under one of pool5
KINDS = ("float16", "float32")  # how weights may be stored
MAX_WIDTH, MAX_SIDE = 1 << 16, 64  # of a layer, of the map that fc6 takes: far beyond any net in use (our choice)
MAX_SIZE = 1 << 29  # numbers in one array; fc6 of the ImageNet net has 103 million
MAX_BYTES = 1 << 31  # of a weight file; the ImageNet net has 553 MB
MAX_NAMES = 1 << 20  # bytes of class names


class Layer(Module):
    """A layer with a weight and a bias: a convolution if the weight has four axes, else a fully-connected one."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        self.weight, self.bias = Parameter(weight, copy=False), Parameter(bias, copy=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute max(0, conv(x) + b) for a convolution, x W^T + b for a fully-connected layer."""
        if self.weight.ndim == 4:
            return conv_relu(x, self.weight, self.bias)
        return ops.matmul(x, ops.transpose(self.weight)) + self.bias


class VGG16(Classifier):
    """Images (N, 3, H, W), RGB in [-1, 1], H and W multiples of 32 -> scores (N, classes).

    weights: layer -> (weight, bias), for all of LAYERS, see `check_shapes`. All widths are read from them: those of the
    convolutions (64 to 512 in the published net), of fc6 and fc7, the number of classes and the side of the map that
    fc6 takes (7). input_range, mean, std: an image g enters as ((g + 1) / 2 * input_range - mean) / std, mean and std
    in RGB order. class_names: as many as classes, or none. about: texts on the origin of the weights.
    dtype: of the net. Weights that have it are taken over, not copied: they are frozen, and 550 MB are enough once.
    Raises TinyganError if the weights do not fit together.
    """

    channels = 3

    def __init__(self, weights: Mapping[str, tuple[np.ndarray, np.ndarray]], *, input_range: float = 255.0,
                 mean: Sequence[float] = (123.68, 116.779, 103.939), std: Sequence[float] = (1.0, 1.0, 1.0),
                 class_names: Sequence[str] = (), about: Mapping[str, str] | None = None,
                 dtype: type = np.float32) -> None:
        try:
            self.head_side = check_shapes({name: (w.shape, b.shape) for name, (w, b) in weights.items()})
        except Refused as error:
            raise TinyganError(f"these weights are not those of a VGG16: {error}") from None
        self.layers = {name: Layer(*(part.astype(dtype, copy=False) for part in weights[name])) for name in LAYERS}
        self.freeze()
        self.classes = len(weights["fc8"][1])
        if class_names and len(class_names) != self.classes:
            raise TinyganError(f"{len(class_names):,} class names for {self.classes:,} classes; give one for each")
        self.has_names = bool(class_names)
        self.class_names = tuple(class_names) or tuple(map(str, range(self.classes)))
        self.input_range, self.mean, self.std = float(input_range), tuple(map(float, mean)), tuple(map(float, std))
        self.about = dict(about or {})
        half, m, s = self.input_range / 2, np.array(self.mean), np.array(self.std)
        self.gain, self.offset = (v.reshape(1, 3, 1, 1).astype(dtype) for v in (half / s, (half - m) / s))

    @property
    def side(self) -> int:
        """Return the side of an image in pixels whose pool5 has the size that fc6 takes: 224 in the published net."""
        return STEP * self.head_side

    def to(self, put: Callable[[np.ndarray], Any]) -> VGG16:
        """Move all parameters, and the constants of the preprocessing, with `put`; return the net."""
        super().to(put)
        self.gain, self.offset = put(self.gain), put(self.offset)
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return the map after the last pool, (N, 512, H / 32, W / 32). Raises TinyganError for another shape."""
        return self.maps(images, "pool5")

    def maps(self, images: Tensor, layer: str) -> Tensor:
        """Return the map after `layer` and its ReLU, one of MAPS such as "conv5_3" or "pool4".

        Raises TinyganError for images of another shape, UsageError for a layer that has no map.
        """
        last = self._place(layer)
        if images.ndim != 4 or images.shape[1] != self.channels or not all(
                n and n % STEP == 0 for n in images.shape[2:]):
            raise TinyganError(f"VGG16 takes images (N, 3, H, W) with H and W multiples of {STEP}, not "
                               f"{describe(images)}; resize them to {self.side} x {self.side}")
        return self._run(images * Tensor(self.gain) + Tensor(self.offset), MAPS[:last + 1])

    def rest(self, map: Tensor, layer: str) -> Tensor:  # noqa: A002
        """Return scores (N, classes) from the map after `layer`: rest(maps(images, layer), layer) == scores(images).

        Raises UsageError for a layer that has no map, TinyganError for a map that does not fit.
        """
        return self.head(self._run(map, MAPS[self._place(layer) + 1:]))

    def head(self, features: Tensor) -> Tensor:
        """Return scores (N, classes) from the map after the last pool.

        fc6 takes a map of one side, 7 in the published net. A map of another side, of a larger or smaller image, is
        first brought to it by means over windows that cover it evenly: our choice, as torchvision does. Raises
        TinyganError for a map of other channels.
        """
        channels = len(self.layers[CONVOLUTIONS[-1]].bias)
        if features.ndim != 4 or features.shape[1] != channels or not all(features.shape[2:]):
            raise TinyganError(f"the head of this VGG16 takes maps (N, {channels}, h, w), not {describe(features)}")
        side = self.head_side
        if features.shape[2:] != (side, side):
            rows, columns = (averaging_matrix(n, side) for n in features.shape[2:])
            features = _resize(features, rows=rows, columns=columns)
        x = features.reshape(len(features), channels * side * side)
        for name in HEAD[:-1]:
            x = ops.relu(self.layers[name](x))
        return self.layers[HEAD[-1]](x)

    def _run(self, x: Tensor, names: Sequence[str]) -> Tensor:
        for name in names:
            x = max_pool2d(x, 2) if name.startswith("pool") else self.layers[name](x)
        return x

    def _place(self, layer: str) -> int:
        if layer not in MAPS:
            raise UsageError(f"VGG16 has no map {layer!r}: it has {', '.join(MAPS)}")
        return MAPS.index(layer)


def averaging_matrix(n: int, m: int) -> np.ndarray:
    """Return the matrix (m, n) whose row i averages samples floor(i n / m) to ceil((i + 1) n / m) - 1.

    The windows cover all n as evenly as they can and overlap where m does not divide n; every row sums to 1.
    """
    start = np.arange(m) * n // m
    end = -(-(np.arange(m) + 1) * n // m)
    inside = (np.arange(n) >= start[:, None]) & (np.arange(n) < end[:, None])
    return inside / inside.sum(axis=1, keepdims=True)


def check_shapes(shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> int:
    """Check that the layers fit one another and return the side of the map that fc6 takes.

    shapes: layer -> (shape of the weight, shape of the bias): conv weights (out, in, 3, 3), the first from 3 channels;
    fc6 (out, channels * side * side), fc7 and fc8 (out, in); biases (out,). Raises Refused, which names the layer that
    does not fit the one before it.
    """
    missing = [name for name in LAYERS if name not in shapes]
    if missing:
        raise Refused(f"{missing[0]} is missing")
    width, side = 3, 0
    for name in LAYERS:
        weight, bias = shapes[name]
        if name == "fc6":  # the one layer whose input is a map: channels times a square
            side = math.isqrt(math.prod(weight[1:]) // width)
            width *= side * side
        outputs = math.prod(weight[:1])
        expected = (outputs, width, *((3, 3) if name in CONVOLUTIONS else ()))
        if weight != expected or bias != (outputs,) or not 0 < outputs <= MAX_WIDTH or side > MAX_SIDE:
            raise Refused(f"{name} has a weight {'x'.join(map(str, weight))} and a bias {'x'.join(map(str, bias))}, "
                          f"which does not fit the {width} inputs from the layer before it")
        width = outputs
    return side


# ---- the weight file -----------------------------------------------------------------------------------------------


def load_vgg16(path: str | os.PathLike, *, dtype: type = np.float32) -> VGG16:
    """Load a VGG16 from its weight file (app/vgg16_file.py writes it), frozen, of `dtype` and on the host.

    Recomputes the file's stored answers. Raises TinyganError, one line that names the file, for anything but a whole
    and sound file of this format.
    """
    convert = f"python weights/convert_vgg16.py {shlex.quote(os.fsdecode(path))}"
    with open_hdf5(path, max_bytes=MAX_BYTES, convert=convert) as file:
        check_format(file, convert)
        shapes = {name: tuple(file.shape(f"{name}/{part}", KINDS, max_size=MAX_SIZE) for part in ("weight", "bias"))
                  for name in LAYERS}
        side = check_shapes(shapes)
        if file.attribute("head_side") != side:
            raise Refused("its attribute 'head_side' does not fit fc6")
        channels, classes = shapes["conv5_3"][1][0], shapes["fc8"][1][0]
        if file.attribute("classes") != classes:
            raise Refused(f"it says it has {str(file.attribute('classes'))[:60]} classes and has {classes}")
        names = file.lines("class_names", classes, max_size=MAX_NAMES) if file.attribute("named") else ()
        weights = {name: tuple(file.array(f"{name}/{part}", shape, KINDS).astype(dtype, copy=False)
                               for part, shape in zip(("weight", "bias"), shapes[name], strict=True))
                   for name in LAYERS}
        net = VGG16(weights, **_preprocessing(file), class_names=names, dtype=dtype,
                    about={key: str(file.attribute(key)) for key in ("source", "sha256", "licence", "storage")})
        answer_key.check(file, {"image": (STEP, STEP, 3), "map": (channels, side, side)},
                         {"pool5": (channels,), "scores": (classes,)},
                         lambda image, pattern: answers(net, image, pattern), floor=1e-3)
    return net


def check_format(file: Reader, convert: str) -> None:
    """Raise Refused unless format, layout and parts are those of this version. convert: the command for other files."""
    if not str(file.attribute("format", "")):
        raise Refused(f"it is HDF5 of another program; if these are a VGG16's weights, convert them first: {convert}")
    answer_key.check_format(file, FORMAT, VERSION, "make one with weights/convert_vgg16.py")
    for name, value in (("channel_order", "RGB"), ("layout", LAYOUT)):
        if file.attribute(name) != value:
            raise Refused(f"its {name} is {str(file.attribute(name))[:60]!r}, not {value!r}")
    known = sorted([*LAYERS, answer_key.GROUP, *(["class_names"] if file.attribute("named") else [])])
    if file.names() != known:
        raise Refused("its parts are not those of this net; make it again with weights/convert_vgg16.py")


def _preprocessing(file: Reader) -> dict[str, Any]:
    """Return input_range, mean and std, as VGG16 takes them."""
    input_range, mean, std = file.attribute("input_range"), file.numbers("mean", 3), file.numbers("std", 3)
    if input_range not in (1, 255):
        raise Refused(f"its input_range is {str(input_range)[:60]}, not 1 or 255")
    if min(std) <= 0:
        raise Refused(f"its std is {std}; it must be above 0")
    return {"input_range": float(input_range), "mean": mean, "std": std}


# ---- the answer key ------------------------------------------------------------------------------------------------


def answers(net: VGG16, image: np.ndarray, pattern: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute (pool5 (channels,) of the image, scores (classes,) of the map), float32, on the weights' device."""
    bias = net.layers["fc8"].bias
    with no_grad():
        pixels = bias.xp.asarray(image.transpose(2, 0, 1)[None].astype(bias.dtype)) / 127.5 - 1.0
        pool5 = net.features(Tensor(pixels.astype(bias.dtype)))
        scores = net.head(Tensor(bias.xp.asarray(pattern[None].astype(bias.dtype))))
    return pool5.numpy().reshape(-1).astype(np.float32), scores.numpy().reshape(-1).astype(np.float32)
