"""How a GPAN's images fare before classifiers that it was not trained with, and through other views.

    python benchmarks/transfer.py runs/gpan-1                                   the classifier of the run
    python benchmarks/transfer.py runs/gpan-1 runs/gpan-2 --judge other.h5      and another one, for two runs

A classifier can be fooled where others are not. So the same images are shown to all judges, whole and through views
that training did not use: for each, the share with a wanted class on top, and the mean probability of the wanted
classes. A judge is a file of digits (weights/train_digits.py) or a VGG16 (weights/convert_vgg16.py) with the classes of
the run's own.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from tinygan import __version__, checkpoint, cli
from tinygan.device import pick_device
from tinygan.errors import TinyganError
from tinygan.gpan_measure import hit_rates, load_classifier, scores_of
from tinygan.gpan_sampling import AT_ONCE, Painter, load_painter
from tinygan.kernels import threads
from tinygan.models import digits
from tinygan.models.vgg16 import load_vgg16
from tinygan.module import Module


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    threads.set_threads(args.threads)
    device = pick_device(args.device)
    for run in args.runs:
        arrays, meta = checkpoint.load(run)
        if meta.get("kind") != "gpan":
            raise TinyganError(f"{run}: this is not a run of train_gpan.py")
        painter = load_painter(run, arrays, meta, device)
        source = painter.flags.get("classifier")
        judges = {"its own classifier": load_classifier(source)} | {path.name: open_judge(path) for path in args.judge}
        print(f"{run}, step {meta['step']:,}, {args.n} images")
        for name, judge in judges.items():
            if len(judge.class_names) != len(painter.class_names):
                raise TinyganError(f"{name} knows {len(judge.class_names)} classes, the run's classifier "
                                   f"{len(painter.class_names)}: a judge must have the same ones")
            found = verdict(painter, judge.to(device.put), args.n, args.seed)
            print(f"  {name:24s} top-1 {found['top1']:.2f}  probability {found['probability']:.2f}   through other "
                  f"views {found['view_top1']:.2f}  {found['view_probability']:.2f}")
    return 0


def verdict(painter: Painter, judge: Module, n: int, seed: int) -> dict[str, float]:
    """Means over the run's sets of top1 and probability, whole and (view_) through views of gpan_measure.HELD_OUT."""
    rng, found = np.random.default_rng([seed, 3]), []
    each = max(1, n // len(painter.sets))
    for wanted in painter.sets:
        routes = painter.generator.draw_routes(rng, -(-each // AT_ONCE) * AT_ONCE)
        images = np.concatenate(list(painter.images(wanted, routes, painter.substrates(), seed)))[:each] * 2 - 1
        row = hit_rates(scores_of(judge, images, painter.device)[0], wanted)
        row |= hit_rates(scores_of(judge, images, painter.device, views_seed=seed)[0], wanted, prefix="view_")
        found.append(row)
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]}


def open_judge(path: Path) -> Module:
    """A VGG16 or a digit classifier, whichever the file holds. Raises TinyganError if it is neither."""
    try:
        return digits.DigitEye(digits.load(path))
    except TinyganError as not_digits:
        try:
            return load_vgg16(path)
        except TinyganError as not_vgg16:
            raise TinyganError(f"no judge: as digits, {not_digits}; as VGG16, {not_vgg16}") from None


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
