"""VGG16 in the layouts of Keras and PyTorch: the names and shapes of their files, brought to those of this project.

`read_keras` and `read_torch` return (weights in our layout, one line about the file).
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygan.data.hdf5 import Reader, open_hdf5
from tinygan.errors import Refused, TinyganError, UsageError
from tinygan.models.classifiers.vgg16 import (
    CONVOLUTIONS,
    HEAD,
    KINDS,
    LAYERS,
    MAX_BYTES,
    MAX_SIZE,
    STEP,
    check_shapes,
)
from weights.torchfile import read_state_dict

KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
# Layer names of Keras -> ours: those of keras.applications, or Keras 3's count of each kind.
KERAS_NAMES = {f"block{name[4]}_conv{name[6]}": name for name in CONVOLUTIONS} | dict(
    zip(("fc1", "fc2", "predictions"), HEAD, strict=True))
KERAS_COUNTED = {"conv2d" + (f"_{i}" if i else ""): name for i, name in enumerate(CONVOLUTIONS)}
STORED = (*KINDS, "float64")  # what a source may hold
RELU = ("relu", "linear")  # of a Dense layer before the last: linear, where an Activation layer follows
USUAL_SIDE = 224
KERAS_ROOTS = ("model_weights", "layers", "_layer_checkpoint_dependencies")  # where a file may keep its layers

# torchvision's numbers of the layers with weights, in `features` and in `classifier`.
TORCH_NAMES = dict(zip((*(f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
                        *(f"classifier.{i}" for i in (0, 3, 6))), LAYERS, strict=True))

Weights = dict[str, tuple[np.ndarray, np.ndarray]]


# ---- Keras ---------------------------------------------------------------------------------------------------------


def read_keras(path: Path, side: int | None = None) -> tuple[Weights, str]:
    """Read a Keras file: return (weights in our layout, one line about the file).

    Keras stores kernels as (row, column, in, out), with input channels in Caffe's order, BGR, and flattens pool5 in
    the order (row, column, channel). A first Dense layer that takes the mean of each channel (GlobalAveragePooling)
    becomes one that takes the map of images of `side` pixels, each place with its share of the weight. Raises
    TinyganError, one line that names the file, for whatever is wrong with it.
    """
    with open_hdf5(path, max_bytes=MAX_BYTES, compressed=True) as file:
        if file.attribute("backend", "") == "theano":
            raise Refused(f"its kernels are Theano's, which are flipped; use {KERAS_FILE}")
        names = keras_names(file)
        stored = {name: tuple(file.shape(full, STORED, max_size=MAX_SIZE) for full in pair)
                  for name, pair in names.items()}
        head_side = check_shapes({name: (_our_shape(name, weight), bias) for name, (weight, bias) in stored.items()})
        if sum(math.prod(shape) for pair in stored.values() for shape in pair) > MAX_BYTES // 4:  # when unpacked
            raise Refused(f"its arrays declare more than {MAX_BYTES // 4:,} numbers; use another copy")
        pooled = head_side == 1 and not _is_flattened(file)
        if side is not None and not pooled:
            raise UsageError(f"--side {side}: the shapes in this file give {head_side * STEP}, so leave it out")
        weights: Weights = {}
        for name in LAYERS:
            kernel, bias = (_single(file.array(full, shape, STORED))
                            for full, shape in zip(names[name], stored[name], strict=True))
            if name == "fc6":
                channels = len(weights[CONVOLUTIONS[-1]][1])
                if pooled:
                    places = ((side or USUAL_SIDE) // STEP) ** 2
                    kernel = np.tile(kernel / places, (places, 1))
                places = round((len(kernel) / channels) ** 0.5)
                kernel = kernel.reshape(places, places, channels, -1)
            if kernel.ndim == 4:
                kernel = kernel.transpose(3, 2, 0, 1)
            else:
                kernel = kernel.T
            if name == CONVOLUTIONS[0]:
                kernel = kernel[:, ::-1]
            kernel = np.ascontiguousarray(kernel)
            weights[name] = kernel.reshape(len(kernel), -1) if name in HEAD else kernel, bias
    first, last = (names[name][0] for name in (CONVOLUTIONS[0], HEAD[-1]))
    mean = ("; its first Dense layer is taken to get the mean of each channel (GlobalAveragePooling) of images of "
            f"{side or USUAL_SIDE} pixels (--side gives another number)" if pooled else "")
    return weights, (f"Keras' weights, {first}, 14 layers more and {last}{mean}; taken to get images as "
                     "keras.applications prepares them, 0 to 255, BGR, less the mean colour")


def keras_names(file: Reader) -> dict[str, tuple[str, str]]:
    """Map our layers -> (full name of the weight, of the bias) in the file. Refused where one is missing, or where the
    head is not three fully-connected layers."""
    top = file.names()
    layers: dict[str, list[str]] = {}  # the group of a layer -> its arrays
    for full in file.arrays(next((root for root in KERAS_ROOTS if root in top), "")):
        group = full.rpartition("/")[0].removesuffix("/vars")
        if "seed_generator" not in full and "StateVar" not in full:  # of Dropout and of layers that distort images
            layers.setdefault(group, []).append(full)
    called = {group: group.rpartition("/")[2] for group in layers}
    known = next((known for known in (KERAS_NAMES, KERAS_COUNTED)
                  if any(known.get(name) in CONVOLUTIONS for name in called.values())), None)
    if known is None:
        raise Refused("it has no layers block1_conv1, block1_conv2 ...; it is not a VGG16 of Keras")
    pairs = {}
    for name in CONVOLUTIONS:
        ours = [full for group, arrays in layers.items() if known.get(called[group]) == name for full in arrays]
        keras_name = next(k for k, v in KERAS_NAMES.items() if v == name)
        pairs[name] = _weight_and_bias(ours) or _refuse_arrays(keras_name, ours)
    rest = [group for group in layers if known.get(called[group]) not in CONVOLUTIONS]
    if not rest:
        raise Refused(f"it has the convolutions alone (notop), and cannot name a class; use {KERAS_FILE}")
    for group in rest:
        if called[group] in KERAS_NAMES and not _weight_and_bias(layers[group]):
            _refuse_arrays(called[group], layers[group])
    return pairs | dict(zip(HEAD, _head(file, {group: layers[group] for group in rest}), strict=True))


def _head(file: Reader, layers: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Find (weight, bias) of the three Dense layers after the convolutions, in their order in the net."""
    shapes = {full: file.shape(full, STORED, max_size=MAX_SIZE) for arrays in layers.values() for full in arrays}
    head = ", ".join(f"{group.rpartition('/')[2]} ({' and '.join('x'.join(map(str, shapes[a])) for a in arrays)})"
                     for group in sorted(layers, key=_natural)
                     for arrays in [sorted(layers[group], key=lambda full: -len(shapes[full]))])
    head = f"after the convolutions it has {ascii(head)[1:-1][:300]}"
    pairs = {group: _weight_and_bias(arrays) for group, arrays in layers.items()}
    if len(layers) != len(HEAD) or not all(pair and len(shapes[pair[0]]) == 2 for pair in pairs.values()):
        raise Refused(f"{head}, and a VGG16 has three fully-connected layers there: train such a head, or use "
                      f"{KERAS_FILE}")
    by_number = tuple(sorted(layers, key=_natural))
    orders = [order for order in itertools.permutations(by_number) if all(
        shapes[pairs[a][0]][1] == shapes[pairs[b][0]][0] for a, b in itertools.pairwise(order))]
    order = by_number if by_number in orders or not orders else orders[0]  # where none fits, check_shapes refuses it
    if len(orders) > 1 and order != by_number:
        raise Refused(f"{head}, and neither names nor shapes give their order; name them fc1, fc2, predictions")
    activations = _dense_activations(file)
    for group in order[:-1]:
        kind = activations.get(group.rpartition("/")[2], "relu")
        if kind not in RELU:
            raise Refused(f"its layer {group.rpartition('/')[2]} has the activation {kind[:40]!r}, where a VGG16 has "
                          "relu: train such a head")
    return [pairs[group] for group in order]


def _natural(name: str) -> list[tuple[int, str]]:
    """Make a sort key that puts dense_2 before dense_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _weight_and_bias(arrays: Sequence[str]) -> tuple[str, str] | None:
    weight = [full for full in arrays if re.search(r"(_W|kernel|/0)(_\d+)?(:0)?$", full)]
    bias = [full for full in arrays if re.search(r"(_b|bias|/1)(_\d+)?(:0)?$", full)]
    return (weight[0], bias[0]) if len(weight) == len(bias) == 1 and len(arrays) == 2 else None


def _refuse_arrays(name: str, arrays: Sequence[str]) -> Any:
    raise Refused(f"{name} has {len(arrays)} arrays, not a weight and a bias; use another copy")


def _model_layers(file: Reader) -> list[dict]:
    """List the layers of all kinds in the description inside a whole model, nested ones too; none in weight files."""
    text, layers = str(file.attribute("model_config", "")), []
    waiting = [json.loads(text)] if text else []
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part.get("class_name"), str) and isinstance(part.get("config"), dict):
                layers.append(part)
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return layers


def _dense_activations(file: Reader) -> dict[str, str]:
    return {str(part["config"].get("name")): str(part["config"].get("activation", "relu"))
            for part in _model_layers(file) if part["class_name"] == "Dense"}


def _is_flattened(file: Reader) -> bool:
    """Tell whether the model's description flattens its map, which has one place then; False where it does not.
    Refused where it takes the maximum over the map."""
    kinds = {part["class_name"] for part in _model_layers(file)}
    if "GlobalMaxPooling2D" in kinds:
        raise Refused("its head takes the maximum over the map (GlobalMaxPooling2D), where a VGG16 flattens it: train "
                      "a head after Flatten or GlobalAveragePooling2D")
    return "Flatten" in kinds and "GlobalAveragePooling2D" not in kinds


def _our_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Convert the shape of a Keras kernel to our layout. Raises Refused for Theano's order."""
    if name in CONVOLUTIONS and len(shape) == 4:
        if shape[2:] == (3, 3) and shape[:2] != (3, 3):
            raise Refused(f"the kernels are in Theano's order; use {KERAS_FILE}")
        return (shape[3], shape[2], *shape[:2])
    return shape[::-1]


# ---- PyTorch -------------------------------------------------------------------------------------------------------


def read_torch(path: Path, side: int | None = None) -> tuple[Weights, str]:
    """Read torchvision's state_dict: return (weights, whose layout is ours, one line about the file).

    Names may have something before them, such as `module.` or `model.`, and the three layers of the classifier may have
    other numbers. Raises TinyganError, one line that names the file, for whatever is wrong with it.
    """
    if side is not None:
        raise UsageError(f"--side {side} is for Keras' files: leave it out")
    state = read_state_dict(path, max_bytes=MAX_BYTES)
    try:
        first = next(iter(TORCH_NAMES))
        prefixes = [name.removesuffix(f"{first}.weight") for name in state if name.endswith(f"{first}.weight")]
        if len(prefixes) > 1:
            raise Refused(f"it holds {len(prefixes)} nets, under {' and '.join(map(ascii, prefixes))[:120]}; save one")
        (prefix,) = prefixes or [""]
        state = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
        names = _torch_names(state)
        missing = [f"{name}.{part}" for name in names for part in ("weight", "bias") if f"{name}.{part}" not in state]
        if missing or len(state) != 2 * len(names):
            extra = sorted(set(state) - {f"{name}.{part}" for name in names for part in ("weight", "bias")})
            raise Refused(f"it {'lacks ' + missing[0] if missing else 'has ' + ascii(extra[0])[:60]}; it is not "
                          "torchvision's vgg16 (nor vgg16_bn, which is another net)")
        weights = {ours: tuple(_single(state[f"{name}.{part}"]) for part in ("weight", "bias"))
                   for name, ours in names.items()}
        check_shapes({name: (weight.shape, bias.shape) for name, (weight, bias) in weights.items()})
        for name, array in state.items():
            if not np.isfinite(array).all():
                hint = ("; it is the file of features alone, use vgg16-397923af.pth" if name.startswith("classifier")
                        else "; use another copy")
                raise Refused(f"{name} holds NaN or infinity{hint}")
    except Refused as error:
        raise TinyganError(f"cannot use {path}: {error}") from None
    under = f" (under {prefix!r})" if prefix else ""
    return weights, (f"torchvision's weights{under}; taken to get images as torchvision prepares them, 0 to 1, less "
                     "mean, over std")


def _torch_names(state: dict[str, np.ndarray]) -> dict[str, str]:
    """Map torchvision's layer names to ours, with the classifier's as they are numbered in `state`. Refused, naming
    them, where there are others than three; without any, torchvision's, whose absence is reported then."""
    numbered = sorted((name.removesuffix(".weight") for name in state if re.fullmatch(r"classifier\..*\.weight", name)),
                      key=_natural)
    if len(numbered) not in (0, len(HEAD)):
        shapes = ", ".join(f"{name} ({'x'.join(map(str, state[f'{name}.weight'].shape))})" for name in numbered)
        raise Refused(f"its classifier has the layers {shapes[:300]}, and a VGG16 has three: train such a head")
    return {theirs: ours for theirs, ours in TORCH_NAMES.items() if ours not in HEAD or not numbered} | dict(
        zip(numbered, HEAD, strict=False))


def _single(array: np.ndarray) -> np.ndarray:
    """Convert to float32; what does not fit becomes infinite, which is refused when the net is saved."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)
