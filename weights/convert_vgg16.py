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
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from tinygan import __version__
from tinygan.app import cli
from tinygan.app.vgg16_file import save_vgg16
from tinygan.data import cache_dir
from tinygan.data.download import fetch
from tinygan.data.files import reading, reason_of
from tinygan.data.hdf5 import SIGNATURE, open_hdf5
from tinygan.errors import Refused, TinyganError, UsageError
from tinygan.models import VGG16, load_vgg16
from tinygan.models.classifiers.vgg16 import FORMAT, KINDS, MAX_BYTES, MAX_NAMES, STEP
from weights.torchfile import is_torch_file
from weights.vgg16_layouts import KERAS_FILE, USUAL_SIDE, Weights, read_keras, read_torch

FILE_NAME = "vgg16.h5"
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
class Source(NamedTuple):
    """The net in a file, and one line about the file."""

    net: VGG16
    about: str


def main(argv: list[str] | None = None) -> int:
    """Convert the file that the command line names, and write the result; return the exit code."""
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
    net, about = read_source(path, names, args.licence, args.side)
    print(f"{path}: {about}")
    storage = args.dtype or net.about.get("storage", "float32")
    save_vgg16(net, args.out, storage=storage)
    del net  # two of them are more than some computers hold
    net = load_vgg16(args.out)  # recomputes the answers stored in the file
    print(f"{args.out}: {args.out.stat().st_size:,} bytes, {net.parameter_count():,} weights as {storage}, "
          f"{net.classes:,} classes{'' if net.has_names else ' without names (--classes gives them)'}, for images "
          f"of {net.side} x {net.side}; it gives the answers of its key")
    print(f"licence: {net.about['licence']}" + ("" if args.licence or "CC BY" in net.about["licence"] else
                                                " (--licence notes one)"))
    print(f"next: python gradcam.py IMAGE --classifier {args.out}")
    return 0


def read_source(path: Path, names: Sequence[str] = (), licence: str | None = None, side: int | None = None) -> Source:
    """Read the net in a file of any known kind. side: of the images in pixels, which a mean over the map does not show.
    Raises TinyganError, one line that names the file, for any other."""
    kind = kind_of(path)
    if kind == "own":
        net = load_vgg16(path)
        about = {**net.about, **({"licence": licence} if licence else {})}
        weights: Weights = {name: (layer.weight.data, layer.bias.data) for name, layer in net.layers.items()}
        options: dict[str, Any] = {"input_range": net.input_range, "mean": net.mean, "std": net.std}
        names = names or (net.class_names if net.has_names else ())
        line = f"a file of this project, made from {about['source']}"
    else:
        sha256, md5 = digests(path)
        licence = licence or (KERAS_LICENCE if md5 == KERAS_MD5 else "not stated by the source")
        about = {"source": path.name, "sha256": sha256, "licence": licence}
        (weights, line), options = ((read_keras(path, side), CAFFE) if kind == "keras" else
                                     (read_torch(path, side), TORCHVISION))
    try:
        return Source(VGG16(weights, class_names=names, about=about, **options), line)
    except TinyganError as error:
        raise TinyganError(f"cannot use {path}: {error}") from None


def kind_of(path: Path) -> str:
    """Tell the kind of a file by its content: "own", "keras" or "torch". Raises TinyganError for any other."""
    with reading(path, MAX_BYTES, hint="name a weight file") as file:
        start = file.read(len(SIGNATURE))
        if is_torch_file(start):
            return "torch"
        if start != SIGNATURE:
            raise Refused("it is neither HDF5 nor a PyTorch file; use another copy")
    with open_hdf5(path, max_bytes=MAX_BYTES) as file:
        return "own" if file.attribute("format", "") == FORMAT else "keras"


def digests(path: Path) -> tuple[str, str]:
    """Compute (SHA-256, MD5) of a file in hexadecimal."""
    both = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            for digest in both:
                digest.update(block)
    return both[0].hexdigest(), both[1].hexdigest()


def downloaded(classes: Path | None) -> tuple[Path, Path]:
    """Download Keras' weight file and class names to the cache folder, unless they are there; return both paths.

    classes: the user's own file of class names, in the place of Keras'.
    """
    folder = cache_dir() / "vgg16"
    path = fetch([KERAS_URL] * ATTEMPTS, folder / KERAS_FILE, KERAS_MD5, timeout=30.0, max_bytes=KERAS_BYTES,
                 resume=True)
    if classes is None:
        classes = fetch([NAMES_URL], folder / "imagenet_class_index.json", NAMES_MD5, max_bytes=MAX_NAMES)
    return path, classes


def read_classes(path: Path) -> tuple[str, ...]:
    """Read the class names in a text file, one a line, or in Keras' imagenet_class_index.json. Raises TinyganError."""
    with reading(path, MAX_NAMES, hint="name a list of class names") as file:
        try:
            text = file.read().decode("utf-8-sig")
            if text.lstrip().startswith("{"):
                table = json.loads(text)
                names = [table[str(i)][1] for i in range(len(table))]
            else:
                names = [line.strip() for line in text.splitlines()]
            if not all(isinstance(name, str) and name.isprintable() and name.strip() for name in names) or not names:
                raise ValueError("an entry is empty or not text")
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise Refused(f"it is not a list of class names ({reason_of(error)}); give one name a line") from None
        return tuple(names)


def build_parser() -> cli.Parser:
    """Build the parser of the command line."""
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)
    p.add_argument("source", type=cli.path, nargs="?", help="the file to convert")
    p.add_argument("--download", action="store_true", help=f"convert Keras' ImageNet file, {KERAS_BYTES / 1e6:.0f} MB")
    p.add_argument("-o", "--out", type=cli.path, default=Path(__file__).with_name(FILE_NAME), help="the file to write")
    p.add_argument("--overwrite", action="store_true", help="replace the file in --out")
    p.add_argument("--classes", type=cli.path, help="class names: a text file, one a line, or "
                   "imagenet_class_index.json")
    p.add_argument("--side", type=cli.positive_int, help="pixels of the images that a head after GlobalAveragePooling "
                   f"was trained on [default: {USUAL_SIDE}]; in other files it follows from the shapes")
    p.add_argument("--dtype", choices=KINDS, help="how the weights are stored [default: float32, or as they are]")
    p.add_argument("--licence", help="the licence of the weights, to be noted in the file")
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
