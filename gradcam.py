"""Show which places of a picture raise a VGG16's score of a class (Grad-CAM).

    python gradcam.py flamingo.jpg --classifier weights/vgg16.h5
    python gradcam.py zoo.jpg --class zebra,flamingo --layer conv5_3 --out zoo-importance.png

Prints the five likeliest classes and writes three pictures side by side: the image as the classifier gets it, the
importance of each place, and the one over the other.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import numpy as np

from tinygan import Tensor, __version__, no_grad
from tinygan.app import cli, pictures
from tinygan.app.classes import find_classes
from tinygan.app.device import pick_device
from tinygan.app.heatmap import heat, overlay, resized
from tinygan.data.images import read_image, resize_image
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels import threads
from tinygan.kernels.arrays import to_numpy
from tinygan.models import grad_cam, load_vgg16
from tinygan.models.classifiers.vgg16 import MAPS

CLASSIFIER = Path(__file__).resolve().parent / "weights" / "vgg16.h5"
TOP = 5
LAYER = "pool5"


def main(argv: list[str] | None = None) -> int:
    """Draw and write the map; return the exit code."""
    args = build_parser().parse_args(argv)
    if args.layer not in MAPS:
        raise UsageError(f"--layer {args.layer}: use one of {', '.join(MAPS)}")
    if args.image.is_dir():
        raise UsageError(f"{args.image} is a folder: name a picture")
    out = check_out(args.out or args.image.with_name(default_name(args)), args.image)
    picture, _ = read_image(args.image)
    if not args.classifier.is_file():
        raise TinyganError(f"--classifier {args.classifier}: there is no such file; make one with "
                           "weights/convert_vgg16.py")
    threads.set_threads(args.threads)
    device = pick_device(args.device)
    net = load_vgg16(args.classifier)
    names = net.class_names
    ids = find_classes(args.classes.split(","), names) if args.classes is not None else []
    net.to(device.put)

    image = resize_image(picture, net.side)
    with no_grad():
        features = net.maps(Tensor(device.put(image[None])), args.layer)
        p = softmax(net.rest(features, args.layer).numpy()[0])
    for c in np.argsort(-p)[:TOP]:
        print(f"{p[c]:7.2%}  {names[c]} ({c})")
    ids = ids or [int(p.argmax())]
    (cam,) = to_numpy(grad_cam(features, lambda a: net.rest(a, args.layer), ids))

    panels = [pictures.to_uint8(image, low=-1.0).transpose(1, 2, 0), heat(resized(cam, image.shape[1:])),
              overlay(image, cam)]
    pictures.save_png(out, pictures.grid(np.stack(panels).transpose(0, 3, 1, 2), 1, len(panels)))
    wanted = ", ".join(f"{names[c]} ({p[c]:.2%})" for c in ids)
    if not cam.any():
        print(f"nothing at {args.layer} raises the score of {wanted}: the map is zero everywhere")
    print(f"importance for {wanted} at {args.layer}, {cam.shape[0]}x{cam.shape[1]} places, in {out}")
    return 0


def softmax(scores: np.ndarray) -> np.ndarray:
    """Compute the probabilities of one image's scores, in float64."""
    e = np.exp(scores.astype(np.float64) - scores.max())
    return e / e.sum()


def default_name(args: argparse.Namespace) -> str:
    """Return the name of the picture, which holds the class, layer and classifier that are not the defaults.

    So none replaces that of another choice.
    """
    usual = ("", LAYER, CLASSIFIER.stem)
    words = [word for word in (args.classes or "", args.layer, args.classifier.stem) if word not in usual]
    return "-".join([args.image.stem, *(re.sub(r"\W+", "-", word) for word in words), "gradcam.png"])


def check_out(out: Path, image: Path) -> Path:
    """Check the file to write before any work is done; return it. Raises UsageError or TinyganError, one line."""
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: name a .png file")
    if not out.parent.is_dir():
        raise TinyganError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.exists() and image.exists() and out.samefile(image):
        raise UsageError(f"--out {out} is the picture itself: name another file")
    return out


def build_parser() -> cli.Parser:
    """Define the flags of the script."""
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)
    p.add_argument("image", type=cli.path, metavar="IMAGE", help="PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF")
    p.add_argument("--classifier", type=cli.path, default=CLASSIFIER, metavar="FILE",
                   help="weights made by weights/convert_vgg16.py [default: weights/vgg16.h5]")
    p.add_argument("--class", dest="classes", metavar="NAME[,NAME]", help="names or ids [default: the likeliest class]")
    p.add_argument("--layer", default=LAYER, help=f"the map's layer: {MAPS[0]} to {MAPS[-1]}; late ones are closer "
                   "to the classes, early ones have more places")
    p.add_argument("--device", type=cli.device, default="auto")
    p.add_argument("--threads", type=cli.positive_int, default=os.cpu_count() or 1)
    p.add_argument("-o", "--out", type=cli.path, help="the picture to write [default: beside the image, "
                   "IMAGE-gradcam.png; what was typed for class, layer or classifier stands in the name, too: "
                   "IMAGE-ibis-gradcam.png]")
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
