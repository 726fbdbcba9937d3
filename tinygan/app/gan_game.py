"""The part of a GAN's training that draws and measures: fixed samples, the picture of routes, digits that are drawn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinygan import metrics
from tinygan.app import cli, pictures
from tinygan.app.draw import as_digits, generate
from tinygan.app.run import Run
from tinygan.app.state import Game
from tinygan.models.classifiers.digits import DigitNet

GRID = 8  # samples per side of the pictures


class MeasuredGAN(Game):
    """A Game whose G is a gan.nets.Generator, with all that draws and measures its images.

    fixed_z: noise of the sample pictures, (GRID * GRID, latent). fixed_routes: their routes, (GRID * GRID, layers).
    reference: real images, (n, C, side, side) in [0, 1], with whose spread that of the samples is compared. classifier:
    of digits; None where it is missing, or where the data shows something else.
    """

    samples = (1000, 2000, 200)
    fixed_z: np.ndarray
    fixed_routes: np.ndarray
    reference: np.ndarray
    classifier: DigitNet | None

    def cut(self, images: np.ndarray) -> np.ndarray:
        """Cut images from the canvas to --size: 28 pixels are trained on a canvas of 32."""
        return as_digits(images) if self.flags["size"] == 28 else images

    def draw_samples(self, run: Run) -> None:
        """Draw the same noise through the same routes every time; the images' spread goes into the log."""
        images = generate(self.best, self.fixed_z, self.fixed_routes, self.device)
        run.save_sample(self.step, pictures.grid(self.cut(images), GRID, GRID))
        if self.latest:
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

    def measure(self, n: int) -> dict[str, float]:
        """Measure classes drawn, KL of their shares to equal ones, and the classifier's confidence: {} without one."""
        if self.classifier is None:
            return {}
        rng = np.random.default_rng([self.flags["seed"], 8])
        images = generate(self.best, self.G.draw_noise(rng, n), self.G.draw_routes(rng, n), self.device)
        probabilities, _ = self.classifier.classify(as_digits(images))
        histogram = metrics.class_histogram(probabilities.argmax(axis=1))
        return {"classes": metrics.classes_covered(histogram), "kl": metrics.label_kl(histogram),
                "confidence": metrics.mean_confidence(probabilities), "samples": n}

    def status_lines(self, rows: list[dict[str, float]], measured: Mapping[str, float] | None = None) -> list[str]:
        """Return lines on the two nets and, after the last step, on the digits that were drawn."""
        lines = super().status_lines(rows)
        if measured:
            lines.insert(0, f"{measured['classes']:.0f} of 10 digits drawn, KL to equal shares {measured['kl']:.3f} "
                            f"nats, classifier's mean confidence {measured['confidence']:.3f} "
                            f"(over {measured['samples']:,} samples)")
        return lines
