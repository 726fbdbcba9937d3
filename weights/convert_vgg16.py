"""Make this project's VGG16 weight file of Keras' or PyTorch's.

    python weights/convert_vgg16.py --download
    python weights/convert_vgg16.py vgg16_weights_tf_dim_ordering_tf_kernels.h5
    python weights/convert_vgg16.py vgg16-397923af.pth --classes imagenet_class_index.json --dtype float16

Read are Keras' weight files (.h5 and .weights.h5 of Keras 1, 2 and 3, or a whole model), torchvision's .pth, both also
with three fully-connected layers of one's own, and files that this script made, to change their dtype or class names.
Keras is not needed for it, nor PyTorch, and nothing in the file is run as code.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import stat
import sys
from collections.abc import Sequence
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from tinygan import __version__, cli, data
from tinygan.data import download
from tinygan.errors import Refused, TinyganError, UsageError
from tinygan.hdf5 import SIGNATURE, Reader, open_hdf5
from tinygan.models.vgg16 import (
    CONVOLUTIONS,
    FORMAT,
    HEAD,
    KINDS,
    LAYERS,
    MAX_BYTES,
    MAX_NAMES,
    MAX_SIZE,
    STEP,
    VGG16,
    check_shapes,
    load_vgg16,
    save_vgg16,
)
from weights.torchfile import is_torch_file, read_state_dict

FILE_NAME = "vgg16.h5"
KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{KERAS_FILE}"
KERAS_MD5, KERAS_BYTES = "64373286793e3c8b2b4e3219cbf3544b", 553_467_096
KERAS_LICENCE = "CC BY 4.0, Simonyan and Zisserman, Visual Geometry Group, University of Oxford"
NAMES_URL = "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json"
NAMES_MD5 = "c2c37ea517e94d9795004a39431a14cb"
ATTEMPTS = 5  # to go on with a download that broke off
# What keras.applications feeds its VGG16: 0 to 255, less the mean colour of the training set, BGR. Here in RGB order,
# since the converter turns the first layer's input channels round.
CAFFE = {"input_range": 255.0, "mean": (123.68, 116.779, 103.939), "std": (1.0, 1.0, 1.0)}
TORCHVISION = {"input_range": 1.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
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


class Source(NamedTuple):
    """What was found in a file: the net, and one line about it."""

    net: VGG16
    found: str


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if (args.source is None) != args.download:
        raise UsageError("name the file to convert, or type --download to get Keras' own" if args.source is None else
                         "--download gets a file of its own: type it, or name a file, not both")
    if args.out.exists() and not args.overwrite:
        raise UsageError(f"{args.out} exists: --overwrite replaces it, --out names another file")
    if not args.out.parent.is_dir():
        raise UsageError(f"there is no folder {args.out.parent} to write {args.out.name} to")
    if args.side is not None and args.side % STEP:
        raise UsageError(f"--side {args.side}: a VGG16 halves its maps five times, so give a multiple of {STEP}")
    path, classes = (args.source, args.classes) if args.source else downloaded(args.classes)
    names = read_classes(classes) if classes else ()
    net, found = read_source(path, names, args.licence, args.side)
    print(f"{path}: {found}")
    storage = args.dtype or net.about.get("storage", "float32")
    save_vgg16(net, args.out, storage=storage)
    del net  # two of them are more than some computers hold
    net = load_vgg16(args.out)  # asks the file's own questions
    print(f"{args.out}: {args.out.stat().st_size:,} bytes, {net.parameter_count():,} weights as {storage}, "
          f"{net.classes:,} classes{'' if net.has_names else ' without names (--classes gives them)'}, for images "
          f"of {net.side} x {net.side}; it gives the answers of its key")
    print(f"licence: {net.about['licence']}" + ("" if args.licence or "CC BY" in net.about["licence"] else
                                                " (--licence notes one)"))
    print(f"next: python gradcam.py IMAGE --classifier {args.out}")
    return 0


def read_source(path: Path, names: Sequence[str] = (), licence: str | None = None, side: int | None = None) -> Source:
    """The net in a file of any known kind. side: of the images in pixels, where a mean over the map hides it from us.
    Raises TinyganError, one line that names the file, for any other."""
    kind = kind_of(path)
    if kind == "own":
        net = load_vgg16(path)
        about = {**net.about, **({"licence": licence} if licence else {})}
        weights: Weights = {name: (layer.weight.data, layer.bias.data) for name, layer in net.layers.items()}
        options: dict[str, Any] = {"input_range": net.input_range, "mean": net.mean, "std": net.std}
        names = names or (net.class_names if net.has_names else ())
        found = f"a file of this project, made from {about['source']}"
    else:
        sha256, md5 = digests(path)
        licence = licence or (KERAS_LICENCE if md5 == KERAS_MD5 else "not stated by the source")
        about = {"source": path.name, "sha256": sha256, "licence": licence}
        (weights, found), options = ((read_keras(path, side), CAFFE) if kind == "keras" else
                                     (read_torch(path, side), TORCHVISION))
    try:
        return Source(VGG16(weights, class_names=names, about=about, **options), found)
    except TinyganError as error:
        raise TinyganError(f"cannot use {path}: {error}") from None


def kind_of(path: Path) -> str:
    """"own", "keras" or "torch". Raises TinyganError where it is none of them."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # asked first: opening a pipe would wait for its other end
            raise TinyganError(f"cannot use {path}: it is not a file; name a weight file")
        with open(path, "rb") as file:
            start = file.read(len(SIGNATURE))
    except FileNotFoundError:
        raise TinyganError(f"no file {path}") from None
    if start == SIGNATURE:
        with open_hdf5(path, max_bytes=MAX_BYTES) as file:
            return "own" if file.attribute("format", "") == FORMAT else "keras"
    if is_torch_file(start):
        return "torch"
    what = "empty" if not start else "neither HDF5 nor a PyTorch file"
    raise TinyganError(f"cannot use {path}: it is {what}; use another copy")


def digests(path: Path) -> tuple[str, str]:
    """(SHA-256, MD5) of a file in hexadecimal."""
    both = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            for digest in both:
                digest.update(block)
    return both[0].hexdigest(), both[1].hexdigest()


# ---- Keras ---------------------------------------------------------------------------------------------------------


def read_keras(path: Path, side: int | None = None) -> tuple[Weights, str]:
    """(weights in our layout, one line about the file) of a Keras file.

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
            raise UsageError(f"--side {side}: this file's own shapes say {head_side * STEP}, so leave it out")
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
    mean = ("; its first Dense layer is taken to see the mean of each channel (GlobalAveragePooling) of images of "
            f"{side or USUAL_SIDE} pixels (--side says another number)" if pooled else "")
    return weights, (f"Keras' weights, {first}, 14 layers more and {last}{mean}; taken to see images as "
                     "keras.applications shows them, 0 to 255, BGR, less the mean colour")


def keras_names(file: Reader) -> dict[str, tuple[str, str]]:
    """Our layer -> (full name of its weight, of its bias) in the file; Refused where one is missing, or where the head
    is not three fully-connected layers."""
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
    """(weight, bias) of the three Dense layers after the convolutions, in the order in which they follow each other."""
    shapes = {full: file.shape(full, STORED, max_size=MAX_SIZE) for arrays in layers.values() for full in arrays}
    found = ", ".join(f"{group.rpartition('/')[2]} ({' and '.join('x'.join(map(str, shapes[a])) for a in arrays)})"
                      for group in sorted(layers, key=_natural)
                      for arrays in [sorted(layers[group], key=lambda full: -len(shapes[full]))])
    found = f"after the convolutions it has {ascii(found)[1:-1][:300]}"
    pairs = {group: _weight_and_bias(arrays) for group, arrays in layers.items()}
    if len(layers) != len(HEAD) or not all(pair and len(shapes[pair[0]]) == 2 for pair in pairs.values()):
        raise Refused(f"{found}, and a VGG16 has three fully-connected layers there: train such a head, or use "
                      f"{KERAS_FILE}")
    by_number = tuple(sorted(layers, key=_natural))
    orders = [order for order in itertools.permutations(by_number) if all(
        shapes[pairs[a][0]][1] == shapes[pairs[b][0]][0] for a, b in itertools.pairwise(order))]
    order = by_number if by_number in orders or not orders else orders[0]  # where none fits, check_shapes says why
    if len(orders) > 1 and order != by_number:
        raise Refused(f"{found}, and neither names nor shapes say in which order; name them fc1, fc2, predictions")
    activations = _dense_activations(file)
    for group in order[:-1]:
        kind = activations.get(group.rpartition("/")[2], "relu")
        if kind not in RELU:
            raise Refused(f"its layer {group.rpartition('/')[2]} has the activation {kind[:40]!r}, where a VGG16 has "
                          "relu: train such a head")
    return [pairs[group] for group in order]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts dense, dense_2, dense_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _weight_and_bias(arrays: Sequence[str]) -> tuple[str, str] | None:
    weight = [full for full in arrays if re.search(r"(_W|kernel|/0)(_\d+)?(:0)?$", full)]
    bias = [full for full in arrays if re.search(r"(_b|bias|/1)(_\d+)?(:0)?$", full)]
    return (weight[0], bias[0]) if len(weight) == len(bias) == 1 and len(arrays) == 2 else None


def _refuse_arrays(name: str, arrays: Sequence[str]) -> Any:
    raise Refused(f"{name} has {len(arrays)} arrays, not a weight and a bias; use another copy")


def _model_layers(file: Reader) -> list[dict]:
    """The layers of all kinds in the description that a whole model carries, nested ones too; none in weight files."""
    text, found = str(file.attribute("model_config", "")), []
    waiting = [json.loads(text)] if text else []
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part.get("class_name"), str) and isinstance(part.get("config"), dict):
                found.append(part)
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return found


def _dense_activations(file: Reader) -> dict[str, str]:
    return {str(part["config"].get("name")): str(part["config"].get("activation", "relu"))
            for part in _model_layers(file) if part["class_name"] == "Dense"}


def _is_flattened(file: Reader) -> bool:
    """Whether the model says that it flattens its map, which has one place then; False where it does not say.
    Refused where it takes the maximum over the map."""
    kinds = {part["class_name"] for part in _model_layers(file)}
    if "GlobalMaxPooling2D" in kinds:
        raise Refused("its head sees the maximum over the map (GlobalMaxPooling2D), where a VGG16 flattens it: train a "
                      "head after Flatten or GlobalAveragePooling2D")
    return "Flatten" in kinds and "GlobalAveragePooling2D" not in kinds


def _our_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a Keras kernel has in our layout; Refused for Theano's order."""
    if name in CONVOLUTIONS and len(shape) == 4:
        if shape[2:] == (3, 3) and shape[:2] != (3, 3):
            raise Refused(f"the kernels are in Theano's order; use {KERAS_FILE}")
        return (shape[3], shape[2], *shape[:2])
    return shape[::-1]


# ---- PyTorch -------------------------------------------------------------------------------------------------------


def read_torch(path: Path, side: int | None = None) -> tuple[Weights, str]:
    """(weights in our layout, which is torchvision's, one line about the file) of torchvision's state_dict.

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
    return weights, (f"torchvision's weights{under}; taken to see images as torchvision shows them, 0 to 1, less mean, "
                     "over std")


def _torch_names(state: dict[str, np.ndarray]) -> dict[str, str]:
    """Names of torchvision's layers -> ours, with the classifier's as they are numbered in `state`. Refused, naming
    them, where there are others than three; without any, torchvision's own, whose absence is said then."""
    found = sorted((name.removesuffix(".weight") for name in state if re.fullmatch(r"classifier\..*\.weight", name)),
                   key=_natural)
    if len(found) not in (0, len(HEAD)):
        shapes = ", ".join(f"{name} ({'x'.join(map(str, state[f'{name}.weight'].shape))})" for name in found)
        raise Refused(f"its classifier has the layers {shapes[:300]}, and a VGG16 has three: train such a head")
    return {theirs: ours for theirs, ours in TORCH_NAMES.items() if ours not in HEAD or not found} | dict(
        zip(found, HEAD, strict=False))


def _single(array: np.ndarray) -> np.ndarray:
    """As float32; what does not fit becomes infinite, which is refused when the net is saved."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


# ---- download ------------------------------------------------------------------------------------------------------


def downloaded(classes: Path | None) -> tuple[Path, Path]:
    """(Keras' weight file, its class names or the user's) in the cache folder, downloaded if they are not there."""
    folder = data.cache_dir() / "vgg16"
    path = resume(KERAS_URL, folder / KERAS_FILE, KERAS_MD5, size=KERAS_BYTES)
    if classes is None:
        classes = download.fetch([NAMES_URL], folder / "imagenet_class_index.json", NAMES_MD5, max_bytes=MAX_NAMES)
    return path, classes


def resume(url: str, path: Path, md5: str, *, size: int, timeout: float = 30.0) -> Path:
    """Make sure that `path` holds the file of `size` bytes with checksum `md5`; return it.

    What has come lies in `path`.part, and a download that broke off, now or in an earlier run, goes on from there.
    timeout: seconds without a byte after which an attempt is given up. Raises TinyganError after ATTEMPTS.
    """
    if path.is_file() and digests(path)[1] == md5:
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        reasons = []
        while len(reasons) < ATTEMPTS:
            have = part.stat().st_size if part.is_file() else 0
            print(f"downloading {path.name}, {size / 1e6:.0f} MB, from {urlsplit(url).netloc}"
                  + (f", going on at {have / 1e6:.1f} MB" if have else ""), flush=True)
            try:
                if have < size:
                    _append(url, part, have, size, timeout)
                if digests(part)[1] == md5:
                    os.replace(part, path)
                    return path
                part.unlink()
                reasons.append("the bytes that came have another md5")
            except (URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
                reasons.append(" ".join((str(error) or type(error).__name__).split())[:100])
                if not part.is_file() or part.stat().st_size <= have:  # nothing came: asking again would not help
                    break
    except OSError as error:
        raise TinyganError(f"cannot write {path}: {error.strerror or error}; make room, or set TINYGAN_HOME "
                           "elsewhere") from None
    raise TinyganError(f"could not download {path.name} ({reasons[-1]}); type the same again to go on, or get {url} by "
                       f"hand and name it in the place of --download")


def _append(url: str, part: Path, have: int, size: int, timeout: float) -> None:
    """Add to `part`, which has `have` bytes, what is missing; from the start if the server cannot give a part."""
    headers = {"User-Agent": "tinygan", **({"Range": f"bytes={have}-"} if have else {})}
    with urlopen(Request(url, headers=headers), timeout=timeout) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if goes_on else 0
        meter = download._Meter(part.stem, None, print).start(size)
        with open(part, "ab" if goes_on else "wb") as out, closing(meter):
            meter.update(have)
            while block := answer.read(1 << 16):
                have += len(block)
                if have > size:
                    raise ValueError(f"more than {size:,} bytes came")
                out.write(block)
                meter.update(len(block))
    if have < size:
        raise ConnectionError(f"it broke off after {have:,} of {size:,} bytes")


# ---- class names ---------------------------------------------------------------------------------------------------


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one a line, or in Keras' imagenet_class_index.json. Raises TinyganError."""
    try:
        if not path.is_file():
            raise TinyganError(f"no file {path}")
        if path.stat().st_size > MAX_NAMES:
            raise TinyganError(f"{path} is too large for a list of class names")
        text = path.read_text("utf-8-sig")
        if text.lstrip().startswith("{"):
            table = json.loads(text)
            names = [table[str(i)][1] for i in range(len(table))]
        else:
            names = [line.strip() for line in text.splitlines()]
        if not all(isinstance(name, str) and name.isprintable() and name.strip() for name in names) or not names:
            raise ValueError("an entry is empty or not text")
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise TinyganError(f"{path} is not a list of class names ({' '.join(str(error).split())[:80]}); give one name "
                           "a line") from None
    return tuple(names)


def build_parser() -> cli.Parser:
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)
    p.add_argument("source", type=cli.path, nargs="?", help="the file to convert")
    p.add_argument("--download", action="store_true", help=f"convert Keras' ImageNet file, {KERAS_BYTES / 1e6:.0f} MB")
    p.add_argument("-o", "--out", type=cli.path, default=Path(__file__).with_name(FILE_NAME), help="the file to write")
    p.add_argument("--overwrite", action="store_true", help="replace the file in --out")
    p.add_argument("--classes", type=cli.path, help="class names: a text file, one a line, or "
                   "imagenet_class_index.json")
    p.add_argument("--side", type=cli.positive_int, help="pixels of the images that a head after GlobalAveragePooling "
                   f"was trained on [default: {USUAL_SIDE}]; other files say it themselves")
    p.add_argument("--dtype", choices=KINDS, help="how the weights are stored [default: float32, or as they are]")
    p.add_argument("--licence", help="the licence of the weights, to be noted in the file")
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
