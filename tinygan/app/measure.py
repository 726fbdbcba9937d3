"""Measures of a trained GAN of digits: rows of value and comparison, for evaluate.py.

Every figure stands beside a value to compare it with, made by the same code from as many images: real test digits
where there are such, else the value that perfect samples or chance would give. metrics/samples.py and
metrics/routes.py define the measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygan import data, metrics
from tinygan.app import runfiles
from tinygan.app.device import Device
from tinygan.app.draw import as_digits, generate
from tinygan.engine.tensor import Tensor, frozen
from tinygan.errors import TinyganError
from tinygan.kernels import threads
from tinygan.metrics import log as metrics_log
from tinygan.metrics import routes as metrics_routes
from tinygan.models.classifiers.digits import DigitNet
from tinygan.models.gan.nets import Generator
from tinygan.nn.module import Parameter
from tinygan.nn.optim import RMSprop
from tinygan.ops import concatenate

ROUTES, PER_ROUTE = 64, 100  # routes measured, and noise vectors for each
LAYER_SAMPLES = 1000  # images for the effect of one layer
WINDOW = 10  # logged values over which the jumps of the loss are taken
NEIGHBOURS = 5  # k of precision, recall, density and coverage
BINS = 100  # of NDB
BIN_DIGITS = 45_000  # training digits that the bins are made from, as in the paper of NDB
COPY_SAMPLES = 2000  # samples that are searched for copies
RECONSTRUCT_STEPS, RECONSTRUCT_LR, RECONSTRUCT_ROUTES = 50, 0.01, 8


class Row(NamedTuple):
    """A line of the table. compare: the value to compare with; basis: what that is, and how many images."""

    part: str
    key: str
    label: str
    value: Any
    compare: Any
    basis: str


class Subject(NamedTuple):
    """The generator that is measured, the classifier and the digits to compare with, and where to compute."""

    generator: Generator
    classifier: DigitNet
    device: Device
    train: data.Digits
    test: data.Digits
    seed: int

    def rng(self, purpose: int) -> np.random.Generator:
        """Return the random stream of a purpose, one each, so that no measure depends on which others were made."""
        return np.random.default_rng([self.seed, 100 + purpose])

    def draw(self, z: np.ndarray, routes: np.ndarray) -> np.ndarray:
        """Draw digits (N, 1, 28, 28)."""
        return as_digits(generate(self.generator, z, routes, self.device))


def measure_samples(s: Subject, n: int, *, full: bool = False, notify: Callable[[str], None] = lambda line: None
                    ) -> list[Row]:
    """Measure labels, confidence, features and pixels of n samples with random noise and routes.

    Where two sets of images are compared, both have m images: n, or as many as the test set has. full: all m
    samples are searched for copies, rather than 2,000.
    """
    rng = s.rng(0)
    fake = s.draw(s.generator.draw_noise(rng, n), s.generator.draw_routes(rng, n))
    m = min(n, len(s.test), len(s.train))
    shuffled = s.rng(1).permutation(len(s.train))  # the files may be in some order; the bins take the other end
    train, test = s.train.images[shuffled[:m], None], s.test.images[:, None]
    p_fake, f_fake = s.classifier.classify(fake)
    p_test, f_test = s.classifier.classify(test)
    _, f_train = s.classifier.classify(train)

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
    notify(f"measuring ({len(work)} jobs on {threads.get_threads()} threads)")
    values: dict[str, Any] = {}
    threads.run([lambda name=name, job=job: values.update({name: job()}) for name, job in work.items()])
    return _rows_of_classes(s, n, p_fake, p_test) + _rows_of_distances(s, values, m=m, few=few, in_bins=len(in_bins))


def pixels(images: np.ndarray) -> np.ndarray:
    """Flatten images (N, ...) to rows; uint8 is scaled to [0, 1]."""
    rows = images.reshape(len(images), -1)
    return rows / np.float32(255) if images.dtype == np.uint8 else rows


def _rows_of_classes(s: Subject, n: int, p_fake: np.ndarray, p_test: np.ndarray) -> list[Row]:
    """Return the rows of labels and confidence, from the class probabilities of samples and of test digits."""
    histogram, h_test = (metrics.class_histogram(p.argmax(axis=1)) for p in (p_fake, p_test))
    prior = np.bincount(s.train.labels, minlength=10)
    real = f"{len(p_test):,} test digits"
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
    ]
    return [Row(*row) for row in rows]


def _rows_of_distances(s: Subject, values: dict[str, Any], *, m: int, few: int, in_bins: int) -> list[Row]:
    """Return the rows of features and pixels. m, few, in_bins: images compared, for copies, and in the bins."""
    bins, bins_real = values["bins"]
    both = f"{m:,} test against {m:,} training digits"
    rows = [
        ("features", "frechet", "Fréchet distance", values["frechet"], values["frechet_real"], both),
        *(("features", name, f"{name} (k = {NEIGHBOURS})", values["prdc"][name], values["prdc_real"][name], both)
          for name in ("precision", "recall", "density", "coverage")),
        ("pixels", "ndb", f"NDB: bins of {BINS} that differ", bins["ndb"], bins_real["ndb"],
         f"{m:,} test digits; bins of {in_bins:,} training digits"),
        ("pixels", "js", "JS divergence of the bins, nats", bins["js"], bins_real["js"],
         f"the same; perfect samples {bins['js_floor']:.4f}"),
        ("pixels", "spread", "distance of two samples / of two training digits", values["spread"]["ratio"],
         values["spread_real"]["ratio"], f"{m:,} test digits"),
        ("pixels", "spread_wasserstein", "Wasserstein distance of those distances", values["spread"]["wasserstein"],
         values["spread_real"]["wasserstein"], f"{m:,} test digits"),
        ("pixels", "copies", "distance to the nearest training digit", values["copies"]["fake"],
         values["copies"]["test"],
         f"{few:,} test digits; {len(s.train):,} training digits"),
        ("pixels", "nearest_copy", "the smallest such distance", values["copies"]["nearest_fake"], None,
         "0 would be a copy"),
    ]
    return [Row(*row) for row in rows]


def compare_bins(train: np.ndarray, fake: np.ndarray, test: np.ndarray, seed: int) -> tuple[dict, dict]:
    """Compute NDB of fakes and of test digits in the same bins of training digits."""
    bins = metrics.make_bins(train, BINS, iterations=20, seed=seed)
    return metrics.ndb(bins, fake), metrics.ndb(bins, test)


def shares(histogram: np.ndarray) -> list[float]:
    """Return the percentages of each class."""
    return [round(100 * float(x), 2) for x in histogram / histogram.sum()]


class DrawnDigits(NamedTuple):
    """The digits that the measured routes draw, and those of the filter sets of each layer, {layer: {set: shares}}."""

    by_route: list[metrics_routes.Drawn]
    by_set: dict[str, dict[int, list[float]]]


def measure_routes(s: Subject) -> tuple[list[Row], DrawnDigits]:
    """Measure what 64 routes (or all, where fewer) draw from 100 noise vectors each, and what each layer adds."""
    config, rng = s.generator.config, s.rng(2)
    images, routes = draw_by_route(s.generator, s.device, rng)
    probabilities, features = s.classifier.classify(images)
    labels = probabilities.argmax(axis=1)
    prior = np.bincount(s.train.labels, minlength=10)
    # The same routes assigned to the same images at random give the value of chance alone.
    dealt = routes[rng.permutation(len(routes))]
    dead = metrics_routes.dead_routes(routes, probabilities, images)
    dead_dealt = metrics_routes.dead_routes(dealt, probabilities, images)
    information = metrics_routes.route_information(labels, routes, seed=s.seed)
    special, special_dealt = (metrics_routes.specialised_classes(labels, r, prior) for r in (routes, dealt))
    eta = metrics_routes.eta_squared(features, routes)
    chance = f"the same {len(routes):,} images, routes shuffled"
    by_chance = information["label_entropy"] - information["information_shuffled"]
    rows = [
        ("dead_routes", f"share of dead routes, of {len(routes) // PER_ROUTE}", dead["share"], dead_dealt["share"],
         chance),
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


def draw_by_route(generator: Generator, device: Device, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw 100 images (N, C, 28, 28) of each of 64 routes (all, where fewer); return them and the routes (N, L)."""
    routes = np.repeat(some_routes(generator, ROUTES, rng), PER_ROUTE, axis=0)
    return as_digits(generate(generator, generator.draw_noise(rng, len(routes)), routes, device)), routes


def banked_layers(bank: Sequence[int]) -> dict[int, str]:
    """Return the layers with more than one filter set: {number: name}."""
    names = ["projection"] + [f"deconvs.{i}" for i in range(len(bank) - 1)]
    return {layer: names[layer] for layer, k in enumerate(bank) if k > 1}


def measure_training(checkpoint: Path, notify: Callable[[str], None] = lambda line: None) -> list[Row]:
    """Measure the stability of a run from its log; nothing where there is no log beside the checkpoint."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    try:
        log = runfiles.columns(runfiles.read_log(folder))
    except (TinyganError, OSError) as error:  # no reason to lose the other figures
        notify(f"note: nothing is measured of the training: {error}")
        return []
    if not {"step", "d_loss", "g_loss", "g_grad"} <= set(log) or len(log["step"]) < WINDOW:
        return []
    steps, every = log["step"], f"{len(log['step'])} logged steps"
    measured = [(s, c) for s, c in zip(steps, log.get("classes", []), strict=False) if not math.isnan(c)]
    lived = metrics_log.survival(*zip(*measured, strict=True)) if measured else {}
    reasons = metrics_log.immediate_collapse(
        steps, by=max(500, int(steps[0])), d_loss=log["d_loss"], g_loss=log["g_loss"], logit_gap=log.get("logit_gap"),
        pixel_std=log.get("spread"), data_pixel_std=1.0, entropy=[math.log(10) - kl for kl in log["kl"]]
        if "kl" in log else None)
    rows: list[tuple] = [
        ("immediate_collapse", "signs of immediate collapse at step 500", len(reasons), None, every),
        ("hard_collapse", "step of hard collapse", metrics_log.hard_collapse(
            steps, log["d_loss"], log["g_grad"]), None, every)]
    if not {"modes", "nearest"} & set(log):  # of stacked digits and of photos, which have no ten classes
        rows += [("reached", "step at which 8 classes were reached", lived.get("reached"), None,
                  f"{len(measured)} measured"),
                 ("lost", "step at which 8 classes were first lost", lived.get("lost_first"), None,
                  f"{len(measured)} measured")]
    rows.append(("volatility", f"G's loss: std within {WINDOW} logged values", metrics_log.loss_volatility(
        log["g_loss"], window=WINDOW), None, every))
    return [Row("training", *row) for row in rows]


def measure_layers(s: Subject, rng: np.random.Generator, *, tied: bool) -> list[Row]:
    """Measure how far the features move when one layer takes another filter set and the noise stays.

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

    def features(noise: np.ndarray, routes: np.ndarray) -> np.ndarray:
        """Compute the classifier's features of the images of noise and routes."""
        return s.classifier.classify(s.draw(noise, routes))[1]

    variants = [features(z, other) for other in changed.values()]
    variants.append(features(s.generator.draw_noise(rng, LAYER_SAMPLES), routes))
    *effects, of_noise = metrics_routes.per_layer_effect(features(z, routes), variants)
    basis = f"other noise, same route; {LAYER_SAMPLES:,} samples"
    return [Row("routes", f"effect.{name}", f"features moved by the choice in {name}", effect, of_noise, basis)
            for name, effect in zip(changed, effects, strict=True)]


def some_routes(generator: Generator, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` different routes (R, layers), or all there are."""
    drawn = generator.draw_routes(rng, 50 * count)
    different, first = np.unique(drawn, axis=0, return_index=True)
    return different[np.argsort(first)][:count]


def measure_reconstruction(s: Subject, count: int) -> Row:
    """Compute the mean over test digits x of the smallest mean squared error between G(z) and x.

    The test of Xiang & Li 2017 (arXiv 1704.03971): z starts at 0 and takes 50 steps of RMSprop, rate 0.01. With
    routes, 8 random ones are tried per digit and the best counts (our choice); so are one-hot vectors beside z. A
    digit that the generator cannot make shows as a large error.
    """
    digits = s.test.images[s.rng(3).permutation(len(s.test))[:count]]
    config = s.generator.config
    tries = RECONSTRUCT_ROUTES if config.route_count > 1 or config.one_hot else 1
    rng, errors = s.rng(4), []
    for start in range(0, len(digits), 64):
        target = data.to_canvas(digits[start:start + 64], config.side)
        target = np.repeat(target, tries, axis=0)
        routes = s.generator.draw_routes(rng, len(target))
        codes = s.generator.draw_noise(rng, len(target))[:, config.latent_dim:] if config.one_hot else None
        errors.append(reconstruct(s.generator, s.device, target, routes, codes).reshape(-1, tries).min(axis=1))
    # In both columns the error is a mean over the canvas, whose border is black.
    mean_digit = s.train.images.mean(axis=0, dtype=np.float64)
    compare = float(((digits - mean_digit) ** 2).mean() / 255 ** 2) * 28 ** 2 / 32 ** 2
    tried = f", best of {tries} {'routes' if config.route_count > 1 else 'categories'}" if tries > 1 else ""
    return Row("reconstruction", "reconstruction", f"mean squared error{tried}", float(np.concatenate(errors).mean()),
               compare, f"the mean training digit; {len(digits):,} test digits")


def reconstruct(generator: Generator, device: Device, target: np.ndarray, routes: np.ndarray,
                codes: np.ndarray | None = None) -> np.ndarray:
    """Compute the mean squared error (N,) that gradient descent on z reaches for each target (N, 1, side, side).

    codes: the one-hot vectors (N, sum of one_hot) that follow z and stay as they are; None where there are none.
    """
    z = Parameter(device.put(np.zeros((len(target), generator.config.latent_dim), np.float32)))
    optimizer = RMSprop([("z", z)], lr=RECONSTRUCT_LR)
    goal, after = Tensor(device.put(target)), [] if codes is None else [Tensor(device.put(codes))]
    with frozen(generator):
        for _ in range(RECONSTRUCT_STEPS + 1):
            difference = generator(concatenate([z, *after], axis=1), routes) - goal
            errors = (difference * difference).mean(axis=(1, 2, 3))
            z.grad = None
            errors.sum().backward()  # a sum: each z then has the gradient of the error of its image
            optimizer.step()
    return errors.numpy()
