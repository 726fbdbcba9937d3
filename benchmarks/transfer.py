"""Classify a GPAN's images with classifiers that it was not trained with, and through other views.

    python benchmarks/transfer.py runs/gpan-1                                   the classifier of the run
    python benchmarks/transfer.py runs/gpan-1 runs/gpan-2 --judge other.h5      and another one, for two runs

A generator can learn the blind spots of the classifier that trained it. So all classifiers get the same images, whole
and through views that training did not use: for each, the share with a wanted class on top, and the mean probability
of the wanted classes. A classifier is a file of digits (weights/train_digits.py) or a VGG16 (weights/convert_vgg16.py)
with the classes of the run's.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from tinygan import __version__
from tinygan.app import checkpoint, cli
from tinygan.app.device import pick_device
from tinygan.app.draw import AT_ONCE, GPANSampler, load_gpan
from tinygan.app.gpan_measure import hit_rates, scores_of
from tinygan.errors import TinyganError
from tinygan.kernels import threads
from tinygan.models import Classifier, load_classifier


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    threads.set_threads(args.threads)
    device = pick_device(args.device)
    for run in args.runs:
        arrays, meta = checkpoint.load(run)
        if meta.get("kind") != "gpan":
            raise TinyganError(f"{run}: this is not a run of train_gpan.py")
        sampler = load_gpan(run, arrays, meta, device)
        source = sampler.flags.get("classifier")
        classifiers = {"the run's classifier": load_classifier(source)}
        classifiers |= {path.name: load_classifier(path) for path in args.judge}
        print(f"{run}, step {meta['step']:,}, {args.n} images")
        for name, classifier in classifiers.items():
            if len(classifier.class_names) != len(sampler.class_names):
                raise TinyganError(f"{name} has {len(classifier.class_names)} classes, the run's classifier "
                                   f"{len(sampler.class_names)}: they must have the same ones")
            found = measure_transfer(sampler, classifier.to(device.put), args.n, args.seed)
            print(f"  {name:24s} top-1 {found['top1']:.2f}  probability {found['probability']:.2f}   through other "
                  f"views {found['view_top1']:.2f}  {found['view_probability']:.2f}")
    return 0


def measure_transfer(sampler: GPANSampler, classifier: Classifier, n: int, seed: int) -> dict[str, float]:
    """Compute means over the run's sets of top1 and probability, of whole images and (view_) through the views of
    gpan_measure.HELD_OUT."""
    rng, found = np.random.default_rng([seed, 3]), []
    each = max(1, n // len(sampler.sets))
    for wanted in sampler.sets:
        routes = sampler.generator.draw_routes(rng, -(-each // AT_ONCE) * AT_ONCE)
        images = np.concatenate(list(sampler.images(wanted, routes, sampler.substrates(), seed)))[:each] * 2 - 1
        row = hit_rates(scores_of(classifier, images, sampler.device)[0], wanted)
        row |= hit_rates(scores_of(classifier, images, sampler.device, views_seed=seed)[0], wanted, prefix="view_")
        found.append(row)
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]}


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
