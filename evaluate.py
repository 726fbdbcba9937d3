"""Measure how good and how varied a trained generator's digits are, and what its routes do.

    python evaluate.py --checkpoint runs/mnist-sgan-1
    python evaluate.py --checkpoint runs/mnist-sgan-1 --json figures.json --reconstruct 200

Every figure stands beside a value to compare it with, made by the same code from as many images: real test digits
where there are such, else the value that perfect samples or chance would give. The last column says which. What each
measure means is explained in tinygan/metrics.py and tinygan/metrics_routes.py.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygan import __version__, cli, data, metrics, metrics_routes, metrics_training, runfiles
from tinygan.device import Device, pick_device
from tinygan.engine import Tensor, frozen
from tinygan.errors import TinyganError, UsageError
from tinygan.files import whole_file
from tinygan.kernels import threads
from tinygan.models.adapted_gan import Generator
from tinygan.models.digits import DigitNet, find_classifier
from tinygan.module import Parameter
from tinygan.optim import RMSprop
from tinygan.sampling import as_digits, generate, load_generator, run_folder

ROUTES, PER_ROUTE = 64, 100  # routes asked, and noise vectors for each
LAYER_SAMPLES = 1000  # images for the effect of one layer
WINDOW = 10  # logged values over which the jumps of the loss are taken
NEIGHBOURS = 5  # k of precision, recall, density and coverage
BINS = 100  # of NDB
BIN_DIGITS = 45_000  # training digits that the bins are made from, as in the paper of NDB
COPY_SAMPLES = 2000  # samples among which copies are looked for
LISTED, PUREST = 16, 5  # routes that are all listed; of more, so many that draw one digit above all, and dead ones
# What RESULTS.md measures against: the hashes (Digits.hash) of MNIST's 60,000 and 10,000 digits.
ORIGINAL = {"train": "1552f0aa6c31edaad3198dfd13adc4b1",
            "test": "c1ab80bd2a482e38bafba0ced7322587"}
RECONSTRUCT_STEPS, RECONSTRUCT_LR, RECONSTRUCT_ROUTES = 50, 0.01, 8


class Row(NamedTuple):
    """One line of the table. compare: the value to hold it against; basis: what that is, and how many images."""

    part: str
    key: str
    label: str
    value: Any
    compare: Any
    basis: str


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.n < 2 * BINS:
        raise UsageError(f"--n {args.n}: the measures need at least {2 * BINS} samples")
    if args.json is not None and (args.json.is_dir() or not args.json.parent.is_dir()):  # now, not after a minute
        raise UsageError(f"--json {args.json}: " + ("that is a folder; name a file" if args.json.is_dir() else
                                                    f"there is no folder {args.json.parent}"))
    threads.set_threads(args.threads)
    device = pick_device(args.device)
    generator, meta = load_generator(args.checkpoint, device)
    if generator.config.channels != 1:
        raise TinyganError(f"{args.checkpoint} draws images of {generator.config.channels} colours; the digit "
                           "classifier takes gray ones")
    classifier = classifier_or_error()
    train, test = load_digits(args.data_dir, args.checkpoint)
    subject = Subject(generator, classifier, device, train, test, args.seed)
    note(f"drawing {args.n:,} samples")
    rows, drawn = measure_samples(subject, args.n, full=args.full), None
    if generator.config.route_count > 1:
        note("asking the routes")
        of_routes, drawn = measure_routes(subject)
        rows += of_routes
    rows += measure_training(args.checkpoint)
    if args.reconstruct:
        note(f"reconstructing {args.reconstruct:,} test digits")
        rows.append(measure_reconstruction(subject, args.reconstruct))
    head = {"checkpoint": str(args.checkpoint), "step": meta.get("step"), "tinygan": __version__, "samples": args.n,
            "seed": args.seed, "bank": list(generator.config.bank), "routes": generator.config.route_count,
            "features": f"the {classifier.last.weight.shape[2]} before the classifier's last layer",
            "train": train.source, "test": test.source,
            "comparable": all(digits.hash == ORIGINAL[split]
                              for split, digits in (("train", train), ("test", test)))}
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


def load_digits(folder: Path | None, checkpoint: Path) -> list[data.Digits]:
    """The training and the test digits in `folder`; None: where the run of `checkpoint` had its own from.

    Raises TinyganError where they are not, or not there any more.
    """
    stored = None
    if folder is None and (run_folder(checkpoint) / "config.json").is_file():
        stored = runfiles.read_config(run_folder(checkpoint))["flags"].get("data_dir")
        if stored is not None and not isinstance(stored, str):
            raise TinyganError(f"config.json names {stored!r} as the run's --data-dir, which is no path: say with "
                               "--data-dir where the digits are")
        if stored is not None and not runfiles.is_there(stored):
            raise TinyganError(f"the run was trained on the digits in {stored}, which is gone, or not seen from this "
                               "folder: say with --data-dir where they are now")
    try:
        return [data.load_mnist(split, data_dir=folder or stored, say=note) for split in ("train", "test")]
    except TinyganError as error:
        if stored is None:
            raise
        raise TinyganError(f"{error}; that is the run's own folder: name another with --data-dir") from None


class Subject(NamedTuple):
    """What is measured, and against what."""

    generator: Generator
    classifier: DigitNet
    device: Device
    train: data.Digits
    test: data.Digits
    seed: int

    def rng(self, purpose: int) -> np.random.Generator:
        """One random stream per purpose, so that no measure depends on which others were made."""
        return np.random.default_rng([self.seed, 100 + purpose])

    def draw(self, z: np.ndarray, routes: np.ndarray) -> np.ndarray:
        """Digits (N, 1, 28, 28)."""
        return as_digits(generate(self.generator, z, routes, self.device))


# ---- the samples -----------------------------------------------------------------------------------------------------


def measure_samples(s: Subject, n: int, *, full: bool = False) -> list[Row]:
    """Labels, confidence, features and pixels of n samples with random noise and routes.

    Where two sets of images are compared, both have m images: n, or as many as the test set has. full: copies are
    looked for among all m samples rather than 2,000.
    """
    rng = s.rng(0)
    fake = s.draw(s.generator.draw_noise(rng, n), s.generator.draw_routes(rng, n))
    m = min(n, len(s.test), len(s.train))
    shuffled = s.rng(1).permutation(len(s.train))  # the files may be in some order; the bins take the other end
    train, test = s.train.images[shuffled[:m], None], s.test.images[:, None]
    p_fake, f_fake = s.classifier.classify(fake)
    p_test, f_test = s.classifier.classify(test)
    _, f_train = s.classifier.classify(train)

    def pixels(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) / np.float32(255) if images.dtype == np.uint8 else \
            images.reshape(len(images), -1)

    few = m if full else min(m, COPY_SAMPLES)
    in_bins = s.train.images[shuffled[-BIN_DIGITS:]]
    work: dict[str, Callable[[], Any]] = {  # the slow ones first; each is one job for one core
        "copies": lambda: metrics.copy_check(pixels(fake[:few]), pixels(test[:few]), pixels(s.train.images)),
        "bins": lambda: compare_bins(pixels(in_bins), pixels(fake[:m]), pixels(test[:m]), s.seed),
        "prdc": lambda: metrics.prdc(f_train, f_fake[:m], k=NEIGHBOURS),
        "prdc_real": lambda: metrics.prdc(f_train, f_test[:m], k=NEIGHBOURS),
        "spread": lambda: metrics.pairwise_spread(pixels(fake[:m]), pixels(train)),
        "spread_real": lambda: metrics.pairwise_spread(pixels(test[:m]), pixels(train)),
        "frechet": lambda: metrics.frechet_distance(f_train, f_fake[:m]),
        "frechet_real": lambda: metrics.frechet_distance(f_train, f_test[:m]),
    }
    note(f"measuring ({len(work)} jobs on {threads.get_threads()} threads)")
    found: dict[str, Any] = {}
    threads.run([lambda name=name, job=job: found.update({name: job()}) for name, job in work.items()])

    histogram, h_test = (metrics.class_histogram(p.argmax(axis=1)) for p in (p_fake, p_test))
    prior = np.bincount(s.train.labels, minlength=10)
    bins, bins_real = found["bins"]
    real = f"{len(test):,} test digits"
    both = f"{m:,} test against {m:,} training digits"
    rows = [
        ("labels", "classes", "classes with at least 1 %", metrics.classes_covered(histogram),
         metrics.classes_covered(h_test), real),
        ("labels", "histogram", "share of each class, %", shares(histogram), shares(prior), "training labels"),
        ("labels", "kl_uniform", "KL to equal shares, nats", metrics.label_kl(histogram), metrics.label_kl_floor(n),
         f"{n:,} perfect samples, on average"),
        ("labels", "kl_prior", "KL to the training shares, nats", metrics.label_kl(histogram, prior),
         metrics.label_kl(h_test, prior), real),
        ("confidence", "confidence", "mean confidence", metrics.mean_confidence(p_fake),
         metrics.mean_confidence(p_test), real),
        ("confidence", "confident", "share above 0.9", metrics.share_confident(p_fake),
         metrics.share_confident(p_test), real),
        ("confidence", "classifier_score", "classifier score, at most 10", metrics.classifier_score(p_fake),
         metrics.classifier_score(p_test), real),
        ("features", "frechet", "Fréchet distance", found["frechet"], found["frechet_real"], both),
        *(("features", name, f"{name} (k = {NEIGHBOURS})", found["prdc"][name], found["prdc_real"][name], both)
          for name in ("precision", "recall", "density", "coverage")),
        ("pixels", "ndb", f"NDB: bins of {BINS} that differ", bins["ndb"], bins_real["ndb"],
         f"{m:,} test digits; bins of {len(in_bins):,} training digits"),
        ("pixels", "js", "JS divergence of the bins, nats", bins["js"], bins_real["js"],
         f"the same; perfect samples {bins['js_floor']:.4f}"),
        ("pixels", "spread", "distance of two samples / of two training digits", found["spread"]["ratio"],
         found["spread_real"]["ratio"], f"{m:,} test digits"),
        ("pixels", "spread_wasserstein", "Wasserstein distance of those distances", found["spread"]["wasserstein"],
         found["spread_real"]["wasserstein"], f"{m:,} test digits"),
        ("pixels", "copies", "distance to the nearest training digit", found["copies"]["fake"], found["copies"]["test"],
         f"{few:,} test digits; {len(s.train):,} training digits"),
        ("pixels", "nearest_copy", "the smallest such distance", found["copies"]["nearest_fake"], None,
         "0 would be a copy"),
    ]
    return [Row(*row) for row in rows]


def compare_bins(train: np.ndarray, fake: np.ndarray, test: np.ndarray, seed: int) -> tuple[dict, dict]:
    """NDB of fakes and of test digits in the same bins of training digits."""
    bins = metrics.make_bins(train, BINS, iterations=20, seed=seed)
    return metrics.ndb(bins, fake), metrics.ndb(bins, test)


def shares(histogram: np.ndarray) -> list[float]:
    """Percentages of each class."""
    return [round(100 * float(x), 2) for x in histogram / histogram.sum()]


# ---- the routes ------------------------------------------------------------------------------------------------------


class DrawnDigits(NamedTuple):
    """Which digits the routes that were asked draw, and the filter sets of each layer, {layer: {set: shares}}."""

    by_route: list[metrics_routes.Drawn]
    by_set: dict[str, dict[int, list[float]]]


def measure_routes(s: Subject) -> tuple[list[Row], DrawnDigits]:
    """What 64 routes (or all, if there are fewer) draw from 100 noise vectors each, and what each layer adds."""
    config, rng = s.generator.config, s.rng(2)
    chosen = some_routes(s.generator, ROUTES, rng)
    routes = np.repeat(chosen, PER_ROUTE, axis=0)
    images = s.draw(s.generator.draw_noise(rng, len(routes)), routes)
    probabilities, features = s.classifier.classify(images)
    labels = probabilities.argmax(axis=1)
    prior = np.bincount(s.train.labels, minlength=10)
    # Deal the same routes to the same images at random: what chance alone would give.
    dealt = routes[rng.permutation(len(routes))]
    dead = metrics_routes.dead_routes(routes, probabilities, images)
    dead_dealt = metrics_routes.dead_routes(dealt, probabilities, images)
    information = metrics_routes.route_information(labels, routes, seed=s.seed)
    special, special_dealt = (metrics_routes.specialised_classes(labels, r, prior) for r in (routes, dealt))
    eta = metrics_routes.eta_squared(features, routes)
    chance = f"the same {len(routes):,} images, routes shuffled"
    by_chance = information["label_entropy"] - information["information_shuffled"]
    rows = [
        ("dead_routes", f"share of dead routes, of {len(chosen)}", dead["share"], dead_dealt["share"], chance),
        ("entropy_given_route", "H(label | route), nats", information["entropy_given_route"], by_chance, chance),
        ("information", "I(label; route), nats", information["information"], information["information_shuffled"],
         chance),
        ("specialised", "classes per route above 3 times their share", special["per_route"],
         special_dealt["per_route"], chance),
        ("specialised_routes", "routes with such a class", special["routes_share"], special_dealt["routes_share"],
         chance),
        ("eta_squared", "eta squared: features' variance between routes", eta["eta_squared"], eta["by_chance"],
         chance),
    ]
    drawn = DrawnDigits(metrics_routes.drawn_by_route(routes, probabilities, images),
                        {} if config.tied else {name: metrics_routes.drawn_by_set(labels, routes, layer)
                                                for layer, name in banked_layers(config.bank).items()})
    return [Row("routes", *row) for row in rows] + measure_layers(s, rng, tied=config.tied), drawn


def banked_layers(bank: Sequence[int]) -> dict[int, str]:
    """The layers with more than one filter set: {number: name}."""
    names = ["projection"] + [f"deconvs.{i}" for i in range(len(bank) - 1)]
    return {layer: names[layer] for layer, k in enumerate(bank) if k > 1}


def measure_training(checkpoint: Path) -> list[Row]:
    """What the log of the run says about its stability; nothing where there is no log beside the checkpoint."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    try:
        log = runfiles.columns(runfiles.read_log(folder))
    except (TinyganError, OSError) as error:  # no reason to lose the other figures
        note(f"note: nothing is said of the training: {error}")
        return []
    if not {"step", "d_loss", "g_loss", "g_grad"} <= set(log) or len(log["step"]) < WINDOW:
        return []
    steps, every = log["step"], f"{len(log['step'])} logged steps"
    measured = [(s, c) for s, c in zip(steps, log.get("classes", []), strict=False) if not math.isnan(c)]
    lived = metrics_training.survival(*zip(*measured, strict=True)) if measured else {}
    reasons = metrics_training.immediate_collapse(
        steps, by=max(500, int(steps[0])), d_loss=log["d_loss"], g_loss=log["g_loss"], logit_gap=log.get("logit_gap"),
        pixel_std=log.get("spread"), data_pixel_std=1.0, entropy=[math.log(10) - kl for kl in log["kl"]]
        if "kl" in log else None)
    rows = [("immediate_collapse", "signs of immediate collapse at step 500", len(reasons), None, every),
            ("hard_collapse", "step of hard collapse", metrics_training.hard_collapse(
                steps, log["d_loss"], log["g_grad"]), None, every),
            ("reached", "step at which 8 classes were reached", lived.get("reached"), None,
             f"{len(measured)} measured"),
            ("lost", "step at which 8 classes were first lost", lived.get("lost_first"), None,
             f"{len(measured)} measured"),
            ("volatility", f"G's loss: std within {WINDOW} logged values", metrics_training.loss_volatility(
                log["g_loss"], window=WINDOW), None, every)]
    return [Row("training", *row) for row in rows]


def measure_layers(s: Subject, rng: np.random.Generator, *, tied: bool) -> list[Row]:
    """How far the features move when one layer takes another filter set and the noise stays.

    A tied ensemble has one index for all layers, so there the whole route is changed.
    """
    bank = s.generator.config.bank
    z, routes = s.generator.draw_noise(rng, LAYER_SAMPLES), s.generator.draw_routes(rng, LAYER_SAMPLES)
    names = banked_layers(bank)
    banked = list(names)
    if tied:
        other = np.array(routes)
        other[:, banked] = metrics_routes.change_one_layer(routes, banked[0], bank[banked[0]], rng)[:, banked[:1]]
        changed = {"all layers": other}
    else:
        changed = {names[layer]: metrics_routes.change_one_layer(routes, layer, bank[layer], rng) for layer in names}

    def features(noise: np.ndarray, way: np.ndarray) -> np.ndarray:
        return s.classifier.classify(s.draw(noise, way))[1]

    variants = [features(z, way) for way in changed.values()]
    variants.append(features(s.generator.draw_noise(rng, LAYER_SAMPLES), routes))
    *effects, of_noise = metrics_routes.per_layer_effect(features(z, routes), variants)
    basis = f"other noise, same route; {LAYER_SAMPLES:,} samples"
    return [Row("routes", f"effect.{name}", f"features moved by the choice in {name}", effect, of_noise, basis)
            for name, effect in zip(changed, effects, strict=True)]


def some_routes(generator: Generator, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different routes (R, layers), or all there are."""
    drawn = generator.draw_routes(rng, 50 * count)
    different, first = np.unique(drawn, axis=0, return_index=True)
    return different[np.argsort(first)][:count]


# ---- reconstruction --------------------------------------------------------------------------------------------------


def measure_reconstruction(s: Subject, count: int) -> Row:
    """Mean over test digits x of the smallest mean squared error between G(z) and x.

    The test of Xiang & Li 2017 (arXiv 1704.03971): z starts at 0 and takes 50 steps of RMSprop, rate 0.01. With
    routes, 8 random ones are tried per digit and the best counts (our choice). A digit that the generator cannot
    make shows as a large error.
    """
    digits = s.test.images[s.rng(3).permutation(len(s.test))[:count]]
    tries = RECONSTRUCT_ROUTES if s.generator.config.route_count > 1 else 1
    rng, errors = s.rng(4), []
    for start in range(0, len(digits), 64):
        target = data.to_canvas(digits[start:start + 64], s.generator.config.side)
        target = np.repeat(target, tries, axis=0)
        routes = s.generator.draw_routes(rng, len(target))
        errors.append(reconstruct(s.generator, s.device, target, routes).reshape(-1, tries).min(axis=1))
    # In both columns the error is a mean over the canvas, whose border is black.
    mean_digit = s.train.images.mean(axis=0, dtype=np.float64)
    compare = float(((digits - mean_digit) ** 2).mean() / 255 ** 2) * 28 ** 2 / 32 ** 2
    tried = f", best of {tries} routes" if tries > 1 else ""
    return Row("reconstruction", "reconstruction", f"mean squared error{tried}", float(np.concatenate(errors).mean()),
               compare, f"the mean training digit; {len(digits):,} test digits")


def reconstruct(generator: Generator, device: Device, target: np.ndarray, routes: np.ndarray) -> np.ndarray:
    """The mean squared error (N,) that gradient descent on z reaches for each target (N, 1, side, side)."""
    z = Parameter(device.put(np.zeros((len(target), generator.config.latent_dim), np.float32)))
    optimizer = RMSprop([("z", z)], lr=RECONSTRUCT_LR)
    goal = Tensor(device.put(target))
    with frozen(generator):
        for _ in range(RECONSTRUCT_STEPS + 1):
            difference = generator(z, routes) - goal
            errors = (difference * difference).mean(axis=(1, 2, 3))
            z.grad = None
            errors.sum().backward()  # a sum: each z then has the gradient of its own image's error
            optimizer.step()
    return errors.numpy()


# ---- words -----------------------------------------------------------------------------------------------------------


def as_table(head: dict[str, Any], rows: list[Row]) -> str:
    """The table as text."""
    lines = [f"{head['checkpoint']}, step {head['step']}: {head['samples']:,} samples, seed {head['seed']}, bank "
             f"{','.join(map(str, head['bank']))} ({head['routes']:,} route{'s' * (head['routes'] > 1)})",
             f"training digits: {head['train']}", f"test digits: {head['test']}", f"features: {head['features']}"]
    if not head["comparable"]:
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
    """Which digits routes and filter sets draw, as text: all routes, or where they are many those worth a look."""
    def line(words: str, name: str, shares: Sequence[float], rest: str = "") -> str:
        return f"  {words:19}{name:14}" + "".join(f"{100 * x:5.0f}" for x in shares) + rest

    asked, chosen = drawn.by_route, [("", d) for d in drawn.by_route]
    alive = sorted((d for d in asked if not d.dead), key=lambda d: -max(d.shares))
    missing = [digit for digit in range(10) if not any(d.shares[digit] for d in alive)]
    if len(asked) > LISTED:
        chosen = [(f"most of digit {digit}", max(alive, key=lambda d: d.shares[digit])) for digit in range(10)
                  if digit not in missing]
        chosen += [*(("purest", d) for d in alive[:PUREST]),
                   *(("", d) for d in [d for d in asked if d.dead][:PUREST])]
    lines = [f"which digit a route draws, % of {PER_ROUTE} images each ({len(asked):,} of {of:,} routes asked"
             + (", all of them in --json)" if len(asked) > LISTED else ")"),
             line("", "--route", []) + "".join(f"{digit:5}" for digit in range(10)) + "  confidence"]
    lines += [line(words, ",".join(map(str, d.route)), d.shares, f"{d.confidence:12.2f}" + "  dead" * d.dead)
              for words, d in chosen]
    if missing:
        lines.append(f"  no live route draws {', '.join(map(str, missing))}")
    if 1 < sum(map(len, drawn.by_set.values())) <= LISTED:
        lines += [line(layer, f"set {k}", shares) for layer, sets in drawn.by_set.items() for k, shares in sets.items()]
    return "\n".join(lines)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def as_json(head: dict[str, Any], rows: list[Row], drawn: DrawnDigits | None = None) -> str:
    """{"run": ..., "rows": {key: {"value", "compare", "compare_with", "part", "label"}}}; null where not finite. With
    routes also {"by_route": [{"route", "shares", "confidence", "dead"}], "by_set": {layer: {set: shares}}}."""
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    table = {row.key: {"part": row.part, "label": row.label, "value": plain(row.value), "compare": plain(row.compare),
                       "compare_with": row.basis} for row in rows}
    found = {"run": head, "rows": table}
    if drawn is not None:
        found |= {"by_route": [d._asdict() for d in drawn.by_route], "by_set": drawn.by_set}
    return json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False)


def note(line: str) -> None:
    """Progress and notes go to the error stream: the output holds the table alone."""
    print(line, file=sys.stderr, flush=True)


def classifier_or_error() -> DigitNet:
    reasons: list[str] = []
    classifier = find_classifier(say=reasons.append)
    if classifier is None:
        raise TinyganError(f"nothing can be measured without the digit classifier: {reasons[0].removeprefix('note: ')}")
    return classifier


class OneRun(cli.Parser):
    """Says of a second run that there is one per call."""

    def error(self, message: str):
        if message.startswith(("argument --checkpoint: is given twice", "unexpected argument")):
            message += "; one run per call: compare the two tables, or use --json"
        super().error(message)


def build_parser() -> cli.Parser:
    p = OneRun(description=__doc__.split("\n\n")[0], version=__version__)
    p.add_argument("--checkpoint", type=cli.path, required=True, metavar="RUN",
                   help="the run's folder, or its checkpoint")
    p.add_argument("--n", type=cli.positive_int, default=10_000, help=f"samples to measure, at least {2 * BINS}")
    p.add_argument("--seed", type=cli.non_negative_int, default=0, help="of the noise, the routes and the bins")
    p.add_argument("--json", type=cli.path, metavar="FILE", help="write the table there as JSON; - prints JSON, no "
                   "table")
    p.add_argument("--full", action="store_true", help=f"look for copies among all samples, not {COPY_SAMPLES:,}: "
                   "half a minute more")
    p.add_argument("--reconstruct", type=cli.non_negative_int, default=0, metavar="N", help="also search the noise "
                   "that draws each of N test digits")
    p.add_argument("--data-dir", type=cli.path, help="folder with the four MNIST files [default: the one that the "
                   "run was trained on]")
    p.add_argument("--device", type=cli.device, default="cpu", help="auto, cpu, gpu or gpu:N, for the generator")
    p.add_argument("--threads", type=cli.positive_int, default=os.cpu_count() or 1, help="CPU threads")
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
