"""The game of a GAN around its loop: both nets, their noise and routes, fixed samples, the digits that are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from tinygan import metrics
from tinygan.app import cli, measure_stacked, pictures
from tinygan.app.device import Device
from tinygan.app.draw import as_digits, generate
from tinygan.app.feeds import FedNoise, FedRoutes
from tinygan.app.run import Run
from tinygan.app.state import Game
from tinygan.data.batches import Batches
from tinygan.data.stacked import StackedDigits
from tinygan.engine.tensor import Tensor
from tinygan.kernels import counter
from tinygan.models.classifiers.digits import DigitNet
from tinygan.models.gan.game import turn_of_d, turn_of_g
from tinygan.models.gan.nets import Discriminator, GANConfig, Generator
from tinygan.nn.module import Module

GRID = 8  # samples per side of the pictures
# Steps at which Chaplygin & Chacksfield 2018 show samples, of digits and of photos, those of GAN and SGAN together.
DIGIT_STEPS = (0, 50, 100, 250, 500, 1000, 1500, 2000, 2500, 2667, 3000, 3500, 4000, 4388)
PHOTO_STEPS = (0, 50, 100, 500, 654, 700, 824, 871, 956, 1000, 1100, 1250, 1426, 1500, 2000, 2380)


class GANGame(Game):
    """A Game of models.gan's nets, and everything that changes during it but its data.

    A script's game is a subclass. It adds next_real(), which returns a batch of real images, and where it can `measure`
    and `status_lines`. It sets batches: an iterator with state() and set_state(), as data.Batches, made with the random
    generator `order`; and reference: real images, (n, C, side, side) in [0, 1], with whose spread that of the samples
    is compared. fixed_z: noise of the sample pictures, (GRID * GRID, noise_length). fixed_routes: their routes,
    (GRID * GRID, layers).
    """

    kind, otherwise = "gan", "try smaller nets (--base-channels, --bank)"
    paper_steps = DIGIT_STEPS
    batches: Batches | StackedDigits
    reference: np.ndarray

    def __init__(self, config: GANConfig, flags: dict, device: Device) -> None:
        init, self.order, noise, routes, fixed = (
            np.random.default_rng([flags["seed"], purpose]) for purpose in range(5))
        super().__init__(config, flags, device, Generator(config, rng=init), Discriminator(config, rng=init))
        self.streams = {"noise": noise, "routes": routes}
        self.multiple = self.least = config.pack
        if n := flags["eval_samples"]:
            self.samples = (n, max(n, self.samples[1]), self.samples[2])
        self.turns = flags["d_steps"] + 1  # batches of G's images in a step
        if flags["freeze_banks"]:
            freeze_banks(self.G)
        if device.kind == "gpu":
            self.routes = FedRoutes(device.xp, flags["batch_size"], config.bank, self.turns)
            self.noise = FedNoise(flags["seed"] if flags["noise"] == "counter" else None,
                                  (flags["batch_size"], config.noise_length), self.turns)
        self.fixed_z = self.G.draw_noise(fixed, GRID * GRID)
        self.fixed_routes = self.G.draw_routes(fixed, GRID * GRID)

    def describe(self) -> str:
        """Return one line about the nets."""
        routes = self.config.route_count
        return (f"{self.flags['model']}: generator {self.G.parameter_count():,} weights, {routes:,} "
                f"route{'s' if routes > 1 else ''}; discriminator {self.D.parameter_count():,} weights")

    def draw(self, turn: int) -> tuple[Tensor, np.ndarray | tuple]:
        """Draw noise and routes for one batch; turn: below d_steps for the discriminator's, d_steps for the
        generator's."""
        n, seed, counted = self.flags["batch_size"], self.flags["seed"], self.flags["noise"] == "counter"
        next_noise = partial(self.G.draw_noise, self.streams["noise"], n)
        next_routes = partial(self.G.draw_routes, self.streams["routes"], n, self.flags["routes"])
        if self.device.kind == "gpu":
            # The number of a stream is that of the step which is made when it is drawn.
            z = self.noise.drawn(turn, (lambda: self.turns * self.step) if counted else next_noise)
            return z, self.routes.drawn(turn, next_routes)
        length = self.config.noise_length
        stream = self.turns * self.step + turn
        z = counter.normal(seed, stream, n * length).reshape(n, length) if counted else next_noise()
        return Tensor(z, name="noise"), next_routes()

    def rehearse(self, n: int) -> None:
        """Compute the gradients of a step of n images and change nothing."""
        rng = np.random.default_rng(0)
        drawn = Tensor(self.device.put(self.G.draw_noise(rng, n))), self.G.draw_routes(rng, n)
        blank = np.zeros((n, self.config.channels, self.config.side, self.config.side), np.float32)
        turn_of_d(self.G, self.D, None, Tensor(self.device.put(blank)), drawn)
        turn_of_g(self.G, self.D, None, drawn)

    def extra(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return (arrays, header entries) of the data's order, the streams and what the pictures are drawn from."""
        order = self.batches.state()
        arrays = {"fixed_z": self.fixed_z, "fixed_routes": self.fixed_routes}
        if "order" in order:
            arrays["order"] = order.pop("order")
        return arrays, {"batches": order, **self.stream_states()}

    def set_extra(self, arrays: Mapping[str, np.ndarray], header: Mapping) -> None:
        """Restore what `extra` returned."""
        self.batches.set_state({**header["batches"], "order": arrays.get("order")})
        self.set_stream_states(header)
        self.fixed_z, self.fixed_routes = arrays["fixed_z"], arrays["fixed_routes"]

    def images_to_measure(self, n: int) -> np.ndarray:
        """Generate n images (n, C, side, side) from noise and routes that are the same at every measurement."""
        rng = np.random.default_rng([self.flags["seed"], 8])
        return generate(self.best, self.G.draw_noise(rng, n), self.G.draw_routes(rng, n), self.device)

    def cut(self, images: np.ndarray) -> np.ndarray:
        """Cut images from the canvas to --size: 28 pixels are trained on a canvas of 32."""
        return as_digits(images) if self.flags["size"] == 28 else images

    def draw_samples(self, run: Run) -> None:
        """Draw the same noise through the same routes every time; where the images' spread was not measured, that of
        these goes into the log."""
        images = generate(self.best, self.fixed_z, self.fixed_routes, self.device)
        run.save_sample(self.step, pictures.grid(self.cut(images), GRID, GRID))
        if self.latest and "spread" not in self.latest:
            self.latest["spread"] = metrics.relative_spread(images, self.reference)

    def draw_final(self, run: Run) -> None:
        """Draw routes.png."""
        if self.config.route_count > 1:
            run.save_picture("routes.png", self.routes_picture)

    def routes_picture(self) -> np.ndarray:
        """Draw a picture whose columns share a route, and whose rows share their noise."""
        rng = np.random.default_rng([self.flags["seed"], 9])
        z, routes = self.G.draw_noise(rng, GRID), self.G.draw_routes(rng, GRID)
        images = self.cut(generate(self.best, np.tile(z, (GRID, 1)), np.repeat(routes, GRID, axis=0), self.device))
        names = [cli.as_typed(route.tolist()) for route in routes]
        return pictures.routes_sheet(images.reshape(GRID, GRID, *images.shape[1:]), headers=names)


class MeasuredGAN(GANGame):
    """A GANGame of digits, or of stacked ones, with what is measured of its images.

    classifier: of digits; None where it is missing, or where the data shows something else.
    """

    samples = (1000, 2000, 200)
    classifier: DigitNet | None

    def measure(self, n: int) -> dict[str, float]:
        """Measure classes drawn (of stacked digits: triples), KL of their shares to equal ones, the classifier's
        confidence and the images' spread: {} without a classifier."""
        if self.classifier is None:
            return {}
        images = self.images_to_measure(n)
        of_all = {"samples": n, "spread": metrics.relative_spread(images, self.reference)}
        if self.config.channels > 1:
            return measure_stacked.measure_triples(self.classifier, as_digits(images)) | of_all
        return measure_digits(self.classifier, as_digits(images)) | of_all

    def status_lines(self, rows: list[dict[str, float]], measured: Mapping[str, float] | None = None) -> list[str]:
        """Return lines on the two nets and, after the last step, on the digits that were drawn; on triples of digits
        wherever they were measured."""
        lines = super().status_lines(rows)
        triples = measured or (rows[-1] if rows else {})
        if "modes" in triples:
            lines.insert(0, measure_stacked.in_words(triples))
        elif measured:
            lines.insert(0, f"{measured['classes']:.0f} of 10 digits drawn, KL to equal shares {measured['kl']:.3f} "
                            f"nats, classifier's mean confidence {measured['confidence']:.3f} "
                            f"(over {measured['samples']:,} samples)")
        return lines


def freeze_banks(net: Module) -> None:
    """Make the filter sets of a net's banks constants; what all routes share stays as it is."""
    for p in net.parameters():
        p.requires_grad = not p.bank


def measure_digits(classifier: DigitNet, images: np.ndarray) -> dict[str, float]:
    """Measure images (N, 1, 28, 28): the classes drawn, KL of their shares to equal ones (nats), mean confidence."""
    probabilities, _ = classifier.classify(images)
    histogram = metrics.class_histogram(probabilities.argmax(axis=1))
    return {"classes": metrics.classes_covered(histogram), "kl": metrics.label_kl(histogram),
            "confidence": metrics.mean_confidence(probabilities)}
