"""Classify a GPAN's images with classifiers that it was not trained with, and through other views.

    python benchmarks/transfer.py runs/gpan-1                                   the classifier of the run
    python benchmarks/transfer.py runs/gpan-1 runs/gpan-2 --judge other.h5      and another one, for two runs

Images can be adversarial for one classifier alone. So all classifiers get the same images, whole and through views that
training did not use; printed are the share with a wanted class on top, and the mean probability of the wanted classes.
A classifier file is one of weights/train_digits.py or weights/convert_vgg16.py, with the classes of the run's.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from tinygan import __version__, checkpoint, cli
from tinygan.backend import pick_device
from tinygan.errors import TinyganError
from tinygan.gpan_measure import hit_rates, load_classifier, scores_of
from tinygan.gpan_sampling import AT_ONCE, Painter, load_painter
from tinygan.kernels import pool
from tinygan.models import digits
from tinygan.models.vgg16 import load_vgg16
from tinygan.module import Module


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    pool.set_threads(args.threads)
    device = pick_device(args.device)
    for run in args.runs:
        arrays, meta = checkpoint.load(run)
        if meta.get("kind") != "gpan":
            raise TinyganError(f"{run}: this is not a run of train_gpan.py")
        painter = load_painter(run, arrays, meta, device)
        source = painter.flags.get("classifier")
        classifiers = {"the run's classifier": load_classifier(source)}
        classifiers |= {path.name: open_classifier(path) for path in args.judge}
        print(f"{run}, step {meta['step']:,}, {args.n} images")
        for name, classifier in classifiers.items():
            if len(classifier.class_names) != len(painter.class_names):
                raise TinyganError(f"{name} has {len(classifier.class_names)} classes, the run's classifier "
                                   f"{len(painter.class_names)}: they must have the same ones")
            rates = mean_rates(painter, classifier.to(device.put), args.n, args.seed)
            print(f"  {name:24s} top-1 {rates['top1']:.2f}  probability {rates['probability']:.2f}   through other "
                  f"views {rates['view_top1']:.2f}  {rates['view_probability']:.2f}")
    return 0


def mean_rates(painter: Painter, classifier: Module, n: int, seed: int) -> dict[str, float]:
    """Compute top1 and probability of n images, whole and (view_) through views of gpan_measure.HELD_OUT: means over
    the run's sets of classes."""
    rng, rows = np.random.default_rng([seed, 3]), []
    each = max(1, n // len(painter.sets))
    for wanted in painter.sets:
        routes = painter.generator.draw_routes(rng, -(-each // AT_ONCE) * AT_ONCE)
        images = np.concatenate(list(painter.images(wanted, routes, painter.substrates(), seed)))[:each] * 2 - 1
        row = hit_rates(scores_of(classifier, images, painter.device)[0], wanted)
        row |= hit_rates(scores_of(classifier, images, painter.device, views_seed=seed)[0], wanted, prefix="view_")
        rows.append(row)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def open_classifier(path: Path) -> Module:
    """Load the VGG16 or the digit classifier that the file holds. Raises TinyganError if it is neither."""
    try:
        return digits.DigitEye(digits.load(path))
    except TinyganError as not_digits:
        try:
            return load_vgg16(path)
        except TinyganError as not_vgg16:
            raise TinyganError(f"no classifier: as digits, {not_digits}; as VGG16, {not_vgg16}") from None


def build_parser() -> cli.Parser:
    p = cli.Parser(description=__doc__, version=__version__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="+", type=cli.path, metavar="RUN", help="folder of a run of train_gpan.py")
    p.add_argument("--judge", action="append", type=cli.path, default=[], metavar="FILE", help="a classifier file; "
                   "repeat it for more")
    p.add_argument("--n", type=cli.positive_int, default=96, help="images of each run")
    p.add_argument("--seed", type=cli.non_negative_int, default=0)
    p.add_argument("--device", type=cli.device, default="auto")
    p.add_argument("--threads", type=cli.positive_int, default=os.cpu_count() or 1)
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
