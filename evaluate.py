"""Measure how good and how varied a trained generator's digits or photos are, and what its routes do.

    python evaluate.py --checkpoint runs/mnist-sgan-1
    python evaluate.py --checkpoint runs/mnist-sgan-1 --json figures.json --reconstruct 200
    python evaluate.py --checkpoint runs/photos-sgan-1 --vgg16 weights/vgg16.h5

Every figure stands beside a value to compare it with, made by the same code from as many images: real test digits, or
the other half of the photos, where there are such, else the value that perfect samples or chance would give. The last
column names it. The measures are explained in tinygan/metrics/samples.py and tinygan/metrics/routes.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygan import __version__, data
from tinygan.app import cli, measure, measure_photos, measure_stacked, runfiles
from tinygan.app.device import Device, pick_device
from tinygan.app.draw import generate, load_generator, run_folder
from tinygan.app.measure import DrawnDigits, Row, Subject
from tinygan.data.files import whole_file
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels import threads
from tinygan.models import DigitNet, Generator, find_classifier

OF_DIGITS, OF_PHOTOS = ("full", "reconstruct", "data_dir"), ("photos", "vgg16")  # flags of one kind of runs
HEAD = {"train": "training digits", "test": "test digits", "photos": "photos", "features": "features"}
USUAL = {"digits": 10_000, "photos": 1_000}  # samples
LISTED, PUREST = 16, 5  # routes that are all listed; of more, so many that draw one digit above all, and dead ones
# What RESULTS.md measures against: the hashes (Digits.hash) of MNIST's 60,000 and 10,000 digits.
ORIGINAL = {"train": "1552f0aa6c31edaad3198dfd13adc4b1",
            "test": "c1ab80bd2a482e38bafba0ced7322587"}


def main(argv: list[str] | None = None) -> int:
    """Measure a run and print the table; return the exit code."""
    args = build_parser().parse_args(argv)
    if args.json is not None and (args.json.is_dir() or not args.json.parent.is_dir()):  # now, not after a minute
        raise UsageError(f"--json {args.json}: " + ("that is a folder; name a file" if args.json.is_dir() else
                                                    f"there is no folder {args.json.parent}"))
    threads.set_threads(args.threads)
    device = pick_device(args.device)
    generator, meta = load_generator(args.checkpoint, device)
    run = stored(args.checkpoint)
    of_photos = args.photos is not None or "photos" in run.get("flags", {})
    check_flags(args, of_photos)
    head = {"checkpoint": str(args.checkpoint), "step": meta.get("step"), "tinygan": __version__, "samples": args.n,
            "seed": args.seed, "bank": list(generator.config.bank), "routes": generator.config.route_count}
    if of_photos:
        more, rows, drawn = *evaluate_photos(args, generator, run, device), None
    else:
        more, rows, drawn = evaluate_digits(args, generator, device, is_stacked(meta))
    head |= more
    text = as_json(head, rows, drawn)
    if str(args.json) == "-":
        print(text)
        return 0
    print(as_table(head, rows))
    if drawn is not None:
        print(as_routes(drawn, generator.config.route_count))
    if args.json is not None:
        with whole_file(args.json) as file:
            file.write((text + "\n").encode())
    return 0


def check_flags(args: argparse.Namespace, of_photos: bool) -> None:
    """Set --n where it was not given. Raises UsageError for flags that mean nothing for runs of this kind."""
    scripts = ["train_mnist.py", "train_photos.py"]
    own, other = reversed(scripts) if of_photos else scripts
    for name in OF_DIGITS if of_photos else OF_PHOTOS:
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')} is for runs of {other}, and {args.checkpoint} is one of "
                             f"{own}: leave it out")
    args.n = args.n or USUAL["photos" if of_photos else "digits"]
    least = measure.NEIGHBOURS + 1 if of_photos else 2 * measure.BINS
    if args.n < least:
        raise UsageError(f"--n {args.n}: the measures need at least {least} samples")


def stored(checkpoint: Path) -> dict[str, Any]:
    """Read the settings of the run of `checkpoint`: {} where they do not lie beside it."""
    folder = run_folder(checkpoint)
    return runfiles.read_config(folder) if (folder / "config.json").is_file() else {}


def evaluate_digits(args: argparse.Namespace, generator: Generator, device: Device, stacked: bool
                    ) -> tuple[dict[str, Any], list[Row], DrawnDigits | None]:
    """Measure a run of digits; return what the head of the table says of it, the rows, and what routes draw.

    stacked: whether it is one of stacked digits.
    """
    if generator.config.channels != 1 and not stacked:
        raise TinyganError(f"{args.checkpoint} draws images of {generator.config.channels} colours; the digit "
                           "classifier takes gray ones (where it is a run of train_photos.py: say with --photos where "
                           "its photos are)")
    if stacked and args.reconstruct:
        raise UsageError(f"--reconstruct is of digits, and {args.checkpoint} draws stacked ones: leave it out")
    classifier = classifier_or_error()
    train, test = load_digits(args.data_dir, args.checkpoint)
    subject = Subject(generator, classifier, device, train, test, args.seed)
    note(f"drawing {args.n:,} samples")
    drawn = None
    if stacked:  # whose features and pixels are not measured
        rows = measure_stacked.measure_stacked(subject, args.n)
    else:
        rows = measure.measure_samples(subject, args.n, full=args.full, notify=note)
    if generator.config.route_count > 1 and not stacked:
        note("measuring the routes")
        of_routes, drawn = measure.measure_routes(subject)
        rows += of_routes
    rows += measure.measure_training(args.checkpoint, note)
    if args.reconstruct:
        note(f"reconstructing {args.reconstruct:,} test digits")
        rows.append(measure.measure_reconstruction(subject, args.reconstruct))
    head = {"features": "" if stacked else f"the {classifier.last.weight.shape[2]} before the classifier's last layer",
            "train": train.source, "test": test.source,
            "comparable": all(digits.hash == ORIGINAL[split]
                              for split, digits in (("train", train), ("test", test)))}
    return head, rows, drawn


def evaluate_photos(args: argparse.Namespace, generator: Generator, run: Mapping[str, Any], device: Device
                    ) -> tuple[dict[str, Any], list[Row]]:
    """Measure a run of photos; return what the head of the table says of it, and the rows. run: its settings."""
    config, folder = generator.config, args.photos or run["flags"]["photos"]
    if config.channels != 3:
        raise UsageError(f"--photos: {args.checkpoint} draws gray images, so it is no run of train_photos.py")
    if not isinstance(folder, (str, Path)):
        raise TinyganError(f"config.json names {folder!r} as the run's photos, which is no path: say with --photos "
                           "where they are")
    if args.photos is None and not os.path.isdir(folder):
        raise TinyganError(f"the run was trained on the photos in {folder}, which is gone, or not there from this "
                           "folder: say with --photos where they are now")
    features = measure_photos.find_features(args.vgg16, device)
    photos = measure_photos.read_photos(folder, config.size, note)
    measures = measure_photos.PhotoMeasures(photos, features, args.seed)
    if measures.half <= measure.NEIGHBOURS:
        raise TinyganError(f"{folder} holds {len(photos)} photos: the measures compare one half of them with the "
                           f"other, and need at least {2 * measure.NEIGHBOURS + 2}")
    note(f"drawing {args.n:,} samples")
    rng = np.random.default_rng([args.seed, 100])
    images = generate(generator, generator.draw_noise(rng, args.n), generator.draw_routes(rng, args.n), device)
    rows = measure_photos.measure_photos(measures, images, args.checkpoint, note)
    known = (run.get("inputs") or {}).get("photos")
    return {"features": features.words, "photos": photos.source,
            "learned_from": known["source"] if known and known["hash"] != photos.hash else photos.source}, rows


def is_stacked(meta: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint's header is that of a run on stacked digits."""
    batches = meta.get("batches")
    return isinstance(batches, dict) and "stacked" in batches


def load_digits(folder: Path | None, checkpoint: Path) -> list[data.Digits]:
    """Load the training and the test digits in `folder`; None: the folder that the run of `checkpoint` was trained on.

    Raises TinyganError where they are not, or not there any more.
    """
    kept = stored(checkpoint).get("flags", {}).get("data_dir") if folder is None else None
    if kept is not None and not isinstance(kept, str):
        raise TinyganError(f"config.json names {kept!r} as the run's --data-dir, which is no path: say with "
                           "--data-dir where the digits are")
    if kept is not None and not runfiles.is_there(kept):
        raise TinyganError(f"the run was trained on the digits in {kept}, which is gone, or not there from this "
                           "folder: say with --data-dir where they are now")
    try:
        return [data.load_mnist(split, data_dir=folder or kept, say=note) for split in ("train", "test")]
    except TinyganError as error:
        if kept is None:
            raise
        raise TinyganError(f"{error}; that is the folder of the run's digits: name another with --data-dir") from None


# ---- output ----------------------------------------------------------------------------------------------------------


def as_table(head: dict[str, Any], rows: list[Row]) -> str:
    """Format the table as text."""
    lines = [f"{head['checkpoint']}, step {head['step']}: {head['samples']:,} samples, seed {head['seed']}, bank "
             f"{','.join(map(str, head['bank']))} ({head['routes']:,} route{'s' * (head['routes'] > 1)})",
             *(f"{words}: {head[key]}" for key, words in HEAD.items() if head.get(key))]
    if "photos" in head and head["learned_from"] != head["photos"]:
        lines.append(f"these are not the photos that the run learned from: {head['learned_from']}")
    if not head.get("comparable", True):
        lines.append("not comparable with RESULTS.md: its figures are against the 60,000 and 10,000 digits of the "
                     "original MNIST, these are not")
    lines += ["", f"{'':50}{'value':>9}{'against':>9}   against what"]
    part = ""
    for row in rows:
        if row.part != part:
            part = row.part
            lines.append(part)
        if isinstance(row.value, list):
            lines.append(f"  {row.label} (digits 0 to 9)")
            lines += [f"    {name:16}" + "".join(f"{x:6.1f}" for x in values)
                      for name, values in (("samples", row.value), (row.basis, row.compare))]
        else:
            lines.append(f"  {row.label:48}{number(row.value):>9}{number(row.compare):>9}   {row.basis}")
    return "\n".join(lines)


def as_routes(drawn: DrawnDigits, of: int) -> str:
    """Format the digits that routes and filter sets draw: all routes, or, of more than LISTED, the purest by digit."""
    def line(words: str, name: str, shares: Sequence[float], rest: str = "") -> str:
        """Format the shares of a route or filter set as a line of the table."""
        return f"  {words:19}{name:14}" + "".join(f"{100 * x:5.0f}" for x in shares) + rest

    measured, chosen = drawn.by_route, [("", d) for d in drawn.by_route]
    alive = sorted((d for d in measured if not d.dead), key=lambda d: -max(d.shares))
    missing = [digit for digit in range(10) if not any(d.shares[digit] for d in alive)]
    if len(measured) > LISTED:
        chosen = [(f"most of digit {digit}", max(alive, key=lambda d: d.shares[digit])) for digit in range(10)
                  if digit not in missing]
        chosen += [*(("purest", d) for d in alive[:PUREST]),
                   *(("", d) for d in [d for d in measured if d.dead][:PUREST])]
    lines = [f"which digit a route draws, % of {measure.PER_ROUTE} images each ({len(measured):,} of {of:,} routes "
             "measured"
             + (", all of them in --json)" if len(measured) > LISTED else ")"),
             line("", "--route", []) + "".join(f"{digit:5}" for digit in range(10)) + "  confidence"]
    lines += [line(words, ",".join(map(str, d.route)), d.shares, f"{d.confidence:12.2f}" + "  dead" * d.dead)
              for words, d in chosen]
    if missing:
        lines.append(f"  no live route draws {', '.join(map(str, missing))}")
    if 1 < sum(map(len, drawn.by_set.values())) <= LISTED:
        lines += [line(layer, f"set {k}", shares) for layer, sets in drawn.by_set.items() for k, shares in sets.items()]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Format a value of the table, "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def as_json(head: dict[str, Any], rows: list[Row], drawn: DrawnDigits | None = None) -> str:
    """Format the table as JSON: {"run": ..., "rows": {key: {"value", "compare", "compare_with", "part", "label"}}}.

    null where a value is not finite. With routes also {"by_route": [{"route", "shares", "confidence", "dead"}],
    "by_set": {layer: {set: shares}}}.
    """
    def plain(value: Any) -> Any:
        """Convert numbers that are not finite to None, for JSON."""
        if isinstance(value, list):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    table = {row.key: {"part": row.part, "label": row.label, "value": plain(row.value), "compare": plain(row.compare),
                       "compare_with": row.basis} for row in rows}
    whole = {"run": head, "rows": table}
    if drawn is not None:
        whole |= {"by_route": [d._asdict() for d in drawn.by_route], "by_set": drawn.by_set}
    return json.dumps(whole, indent=2, allow_nan=False, ensure_ascii=False)


def note(line: str) -> None:
    """Print progress and notes to the error stream: the output holds the table alone."""
    print(line, file=sys.stderr, flush=True)


def classifier_or_error() -> DigitNet:
    """Load the digit classifier. Raises TinyganError with the reason where it is missing."""
    reasons: list[str] = []
    classifier = find_classifier(reasons.append)
    if classifier is None:
        raise TinyganError(f"nothing can be measured without the digit classifier: {reasons[0].removeprefix('note: ')}")
    return classifier


class OneRun(cli.Parser):
    """A parser whose error for a second run explains that there is one per call."""

    def error(self, message: str):
        """Print the error, with a hint where it is a second run, and exit."""
        if message.startswith(("argument --checkpoint: is given twice", "unexpected argument")):
            message += "; one run per call: compare the two tables, or use --json"
        super().error(message)


def build_parser() -> cli.Parser:
    """Define the flags of the script."""
    p = OneRun(description=__doc__.split("\n\n")[0], version=__version__)
    p.add_argument("--checkpoint", type=cli.path, required=True, metavar="RUN",
                   help="the run's folder, or its checkpoint")
    p.add_argument("--n", type=cli.positive_int, help=f"samples to measure, of digits at least {2 * measure.BINS} "
                   f"[default: {USUAL['digits']:,}, of photos {USUAL['photos']:,}; at most half the photos count]")
    p.add_argument("--seed", type=cli.non_negative_int, default=0, help="of the noise, the routes and the bins")
    p.add_argument("--json", type=cli.path, metavar="FILE", help="write the table there as JSON; - prints JSON, no "
                   "table")
    p.add_argument("--full", action="store_true", help="search all samples for copies, not "
                   f"{measure.COPY_SAMPLES:,}: half a minute more")
    p.add_argument("--reconstruct", type=cli.non_negative_int, default=0, metavar="N", help="also search the noise "
                   "that draws each of N test digits")
    p.add_argument("--data-dir", type=cli.path, help="folder with the four MNIST files [default: the one that the "
                   "run was trained on]")
    p.add_argument("--photos", type=cli.path, metavar="FOLDER", help="photos to compare with [default: those that the "
                   "run was trained on]")
    p.add_argument("--vgg16", type=cli.path, metavar="FILE", help="a VGG16 made by weights/convert_vgg16.py, for the "
                   "features of photos [default: colours and edges on a coarse grid, a stand-in]")
    p.add_argument("--device", type=cli.device, default="cpu", help="auto, cpu, gpu or gpu:N, for the generator (and "
                   "VGG16)")
    p.add_argument("--threads", type=cli.positive_int, default=os.cpu_count() or 1, help="CPU threads")
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
