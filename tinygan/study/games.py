"""The study's own games: perceptrons on a mixture of Gaussians, and on digits. The others are those of the scripts.

A game is trained by the loop of train_mnist.py, so that its folder has what that script's has: config.json, log.csv,
pictures, a checkpoint with which it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinygan import data, metrics
from tinygan.app import pictures
from tinygan.app.device import Device
from tinygan.app.draw import in_batches
from tinygan.app.gan_game import freeze_banks, measure_digits
from tinygan.app.run import Run
from tinygan.app.state import Game
from tinygan.engine.tensor import Tensor
from tinygan.models import turn_of_d, turn_of_g
from tinygan.models.classifiers.digits import load
from tinygan.study.mixtures import MIXTURES, SAMPLES, mixture_scores, picture, sliced_wasserstein
from tinygan.study.mlp import MLPConfig, MLPDiscriminator, MLPGenerator

SHOWN = 64  # digits of a picture
GRID_SAMPLES = 7  # the purpose of the stream that the scored samples are drawn from
ROUTES, PER_ROUTE = 32, 200  # single routes that are scored, and points of each


class MLPGame(Game):
    """The base of both games: perceptrons, their noise and routes, and what a checkpoint holds of them."""

    kind, script = "mlp", "study.py"
    resume_command, sample_command = "python study.py run, with the words it was started with", ""
    samples = (SAMPLES, SAMPLES, 200)

    def __init__(self, config: MLPConfig, flags: dict, device: Device) -> None:
        # Streams of their own, so that every arm has the same initial D, data and noise.
        init, order, noise, routes, init_d = (np.random.default_rng([flags["seed"], purpose]) for purpose in range(5))
        G, D = MLPGenerator(config, rng=init), MLPDiscriminator(config, rng=init_d)
        if flags["freeze_banks"]:
            freeze_banks(G)
        super().__init__(config, flags, device, G, D)
        self.streams = {"data": order, "noise": noise, "routes": routes}

    def draw(self, turn: int) -> tuple[Tensor, np.ndarray]:
        """Draw noise and routes for one batch; all turns draw from the same streams."""
        n = self.flags["batch_size"]
        z = self.G.draw_noise(self.streams["noise"], n)
        return Tensor(z, name="noise"), self.G.draw_routes(self.streams["routes"], n, self.flags["routes"])

    def generate(self, G: MLPGenerator, n: int, purpose: int) -> tuple[np.ndarray, np.ndarray]:
        """Generate n samples (n, outputs) that are the same whenever they are drawn, and return their routes, too."""
        rng = np.random.default_rng([self.flags["seed"], purpose])
        z, routes = G.draw_noise(rng, n), G.draw_routes(rng, n)
        return in_batches(n, 500, lambda part: G(Tensor(z[part]), routes[part]).numpy()), routes

    def rehearse(self, n: int) -> None:
        """Compute the gradients of a step of n samples and change nothing."""
        rng = np.random.default_rng(0)
        drawn = Tensor(self.G.draw_noise(rng, n)), self.G.draw_routes(rng, n)
        turn_of_d(self.G, self.D, None, Tensor(np.zeros((n, self.config.outputs), np.float32)), drawn)
        turn_of_g(self.G, self.D, None, drawn)

    def extra(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return the states of the streams."""
        return {}, self.stream_states()

    def set_extra(self, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
        """Restore what `extra` returned."""
        self.set_stream_states(header)

    def next_real(self) -> Tensor:
        """Return the next batch of real samples."""
        raise NotImplementedError


class MixtureGame(MLPGame):
    """Perceptrons on a mixture: both G's weights and their moving average are scored."""

    def __init__(self, flags: dict, device: Device) -> None:
        self.mixture = MIXTURES[flags["mixture"]]
        super().__init__(MLPConfig(scale=self.mixture.scale, **flags["net"]), flags, device)

    def next_real(self) -> Tensor:
        """Draw a batch of the mixture."""
        return Tensor(self.mixture.draw(self.streams["data"], self.flags["batch_size"]), name="real points")

    def measure(self, n: int) -> dict[str, float]:
        """Score n points of G and of its average; the average's columns start with avg_."""
        scores = mixture_scores(self.generate(self.G, n, GRID_SAMPLES)[0], self.mixture)
        if self.average is not None:
            of_average = mixture_scores(self.generate(self.average.module, n, GRID_SAMPLES)[0], self.mixture)
            scores |= {f"avg_{name}": value for name, value in of_average.items()}
        return scores

    def draw_samples(self, run: Run) -> None:
        """Draw 2,500 points, coloured by their filter set in the first layer."""
        points, routes = self.generate(self.G, SAMPLES, GRID_SAMPLES)
        run.save_sample(self.step, picture(points, self.mixture, routes[:, 0]))

    def distance(self) -> float:
        """Compute the sliced Wasserstein distance of G's points to as many of the mixture's."""
        real = self.mixture.draw(np.random.default_rng([self.flags["seed"], 8]), SAMPLES)
        return sliced_wasserstein(self.generate(self.G, SAMPLES, GRID_SAMPLES)[0], real)

    def modes_per_route(self) -> float:
        """Compute how many modes a single route covers: the mean over 32 random routes, 200 points each."""
        rng = np.random.default_rng([self.flags["seed"], 9])
        z = self.G.draw_noise(rng, PER_ROUTE * ROUTES)
        routes = np.repeat(self.G.draw_routes(rng, ROUTES), PER_ROUTE, axis=0)
        points = in_batches(len(z), PER_ROUTE, lambda part: self.G(Tensor(z[part]), routes[part]).numpy())
        return float(np.mean([mixture_scores(part, self.mixture)["modes"] for part in np.split(points, ROUTES)]))

    def status_lines(self, rows: list[dict[str, float]], measured: Mapping[str, float] | None = None) -> list[str]:
        """Return a line on the modes that are covered."""
        if not measured:
            return []
        return [f"{measured['modes']:.0f} of {len(self.mixture.means)} modes covered, {100 * measured['good']:.0f} % "
                f"good samples, KL {measured['modes_kl']:.3f} nats"]


class DigitGame(MLPGame):
    """Perceptrons on MNIST's digits, 784 pixels in [0, 1]."""

    samples = (2_000, 2_000, 200)

    def __init__(self, flags: dict, device: Device) -> None:
        super().__init__(MLPConfig(outputs=784, image=True, **flags["net"]), flags, device)
        digits = data.load_mnist("train", data_dir=flags["data_dir"])
        self.inputs = {"data": {"hash": digits.hash, "source": digits.source}}
        self.images = digits.images.reshape(len(digits), 784)
        self.reference = digits.images[:2_000, None].astype(np.float32) / 255
        self.classifier = load()

    def next_real(self) -> Tensor:
        """Draw a batch of the training digits, with replacement."""
        chosen = self.streams["data"].integers(0, len(self.images), self.flags["batch_size"])
        return Tensor(self.images[chosen] / np.float32(255), name="real digits")

    def draw_samples(self, run: Run) -> None:
        """Draw 64 digits from the same noise through the same routes."""
        digits = self.generate(self.G, SHOWN, 6)[0].reshape(SHOWN, 1, 28, 28)
        run.save_sample(self.step, pictures.grid(digits, 8, 8))

    def measure(self, n: int) -> dict[str, float]:
        """Measure classes, KL and confidence by the digit classifier, and the spread."""
        digits = self.generate(self.G, n, GRID_SAMPLES)[0].reshape(n, 1, 28, 28)
        return {**measure_digits(self.classifier, digits), "samples": n,
                "spread": metrics.relative_spread(digits, self.reference)}
