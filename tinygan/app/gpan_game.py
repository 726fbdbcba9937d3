"""The part of a GPAN's training that draws and measures: batches of given noise, fixed pictures, measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tinygan.app import cli, gpan_measure
from tinygan.app.draw import generate_gpan
from tinygan.app.loop import QUIET
from tinygan.app.run import Run
from tinygan.app.state import Game
from tinygan.app.streams import Progress
from tinygan.data.substrates import Substrates, condition
from tinygan.engine.tensor import Tensor
from tinygan.kernels.host import sent
from tinygan.metrics import gpan as metrics_gpan
from tinygan.metrics import log as metrics_log
from tinygan.models.classifiers.base import Classifier
from tinygan.models.gpan.nets import Batch

ROWS, COLUMNS = 4, 6  # of the pictures: a row shares substrate, wanted classes and noise, a column its route
ROUTES, NOISES = 4, 4  # of which route variety compares all pairs


class MeasuredGPAN(Game):
    """A Game whose G is a GPANGenerator, with all that draws and measures its images.

    classifier: on the game's device. sets: ids of the wanted classes, of which each batch has one set. substrates: the
    shapes that are painted on.
    """

    samples = (32, 64, 8)
    classifier: Classifier
    sets: Sequence[Sequence[int]]
    substrates: Substrates

    def batch(self, wanted: Sequence[int], routes: np.ndarray, noise: np.ndarray, target: np.ndarray,
              mask: np.ndarray) -> Batch:
        """Put arrays, of the host or the device, together as a batch on the device.

        noise (n, C, h, w), target (n, C, S, S), mask (n, 1, S, S).
        """
        ids, n = sorted({i for ids in self.sets for i in ids}), len(target)
        target, mask, noise = (self.device.put(array) for array in (target, mask, noise))
        for_g, for_d = (condition(mask, target, self.flags[name]) for name in ("painter_sees", "critic_sees"))
        code = sent(target, lambda: np.tile(np.isin(ids, wanted).astype(np.float32), (n, 1)), wanted)
        return Batch(Tensor(target, name="substrates"), Tensor(mask), Tensor(for_g), Tensor(for_d), Tensor(code),
                     Tensor(noise, name="noise"), routes, wanted)

    def fixed_batches(self, same_substrate: bool = False) -> list[Batch]:
        """Make ROWS batches, the same every time: each of one substrate, noise and set, through COLUMNS - 1 routes."""
        rng, batches = np.random.default_rng([self.flags["seed"], 100]), []
        routes = self.G.draw_routes(rng, COLUMNS - 1)
        target, mask = self.substrates.next(rng, ROWS)
        for row in range(ROWS):
            of = 0 if same_substrate else row
            wanted = self.sets[of % len(self.sets)]
            noise, item = self.G.draw_noise(rng, 1), slice(of, of + 1)
            batches.append(self.batch(wanted, routes, *(np.repeat(part, COLUMNS - 1, axis=0)
                                                        for part in (noise, target[item], mask[item]))))
        return batches

    def paint(self, batch: Batch) -> np.ndarray:
        """Generate the images of a batch from the moving average: (n, C, S, S) in [-1, 1] on the host."""
        return generate_gpan(self.best, batch)

    def draw_samples(self, run: Run) -> None:
        """Draw the same substrates, noise and routes every time, and their importance maps (cams.png)."""
        if self.step in (0, self.flags["steps"]):  # which takes a VGG16 a while
            run.print_line("step 0: painting the first pictures" if self.step == 0 else
                           f"step {self.step}: the steps are done; painting the last pictures")
        batches = self.fixed_batches()
        images = [self.paint(batch) for batch in batches]
        run.save_sample(self.step, gpan_measure.image_sheet(batches, images))
        run.save_picture("cams.png", gpan_measure.cam_sheet(self.classifier, batches, images, self.device))

    def draw_final(self, run: Run) -> None:
        """Draw routes.png: one substrate, a row for each noise, a column for each route."""
        batches = self.fixed_batches(same_substrate=True)
        names = ["substrate", *(cli.as_typed(route.tolist()) for route in batches[0].routes)]
        run.save_picture("routes.png", lambda: gpan_measure.image_sheet(
            batches, [self.paint(batch) for batch in batches], names))

    def status_lines(self, rows: list[dict[str, float]], measured: Mapping[str, float] | None = None) -> list[str]:
        """Return lines on the two nets, where there are two, and on how well the images show what is wanted."""
        if not rows:
            return []
        over = f"over {measured['samples']:.0f} images: " if measured else ""
        images = f"step {rows[-1]['step']}: {over}{gpan_measure.in_words(rows[-1])}"
        return [metrics_log.line(rows), images] if "d_loss" in rows[-1] else [images]

    def measure(self, n: int) -> dict[str, float]:
        """Measure n fresh images of all sets: top1, top5, probability of whole images; view_top1, view_probability
        through views that training did not use; variety: metrics_gpan.route_variety; speckle."""
        rng = np.random.default_rng([self.flags["seed"], 101])
        each, with_variety = max(2, n // len(self.sets)), self.config.route_count > 1 and self.config.noise_dim > 0
        # Every image is classified twice, those of which routes are compared once.
        count = Counter(2 * each * len(self.sets) + (ROUTES * NOISES if with_variety else 0))
        rows = [self._measure_set(i, each, rng, count) for i in range(len(self.sets))]
        numbers = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        numbers["samples"] = each * len(self.sets)
        if with_variety:
            numbers["variety"] = self._variety(rng, count)
        count.line.clear()
        return numbers

    def _measure_set(self, i: int, n: int, rng: np.random.Generator, count: Counter) -> dict[str, float]:
        wanted = self.sets[i]
        images = self.paint(self.batch(wanted, self.best.draw_routes(rng, n), self.best.draw_noise(rng, n),
                                       *self.substrates.next(rng, n)))
        scores, _ = gpan_measure.scores_of(self.classifier, images, self.device, progress=count.add)
        numbers = gpan_measure.hit_rates(scores, wanted)
        scores, _ = gpan_measure.scores_of(self.classifier, images, self.device, self.flags["seed"] + i, count.add)
        in_views = gpan_measure.hit_rates(scores, wanted, prefix="view_")
        return numbers | {name: value for name, value in in_views.items() if name != "view_top5"} | {
            "speckle": metrics_gpan.speckle(images)}

    def _variety(self, rng: np.random.Generator, count: Counter) -> float:
        """Compute how far routes move the classifier's features, over how far noises do, on one substrate."""
        target, mask = self.substrates.next(rng, 1)
        routes, noises = self.best.draw_routes(rng, ROUTES), self.best.draw_noise(rng, NOISES)
        n = ROUTES * NOISES  # row r * NOISES + z: route r with noise z
        images = self.paint(self.batch(
            self.sets[0], np.repeat(routes, NOISES, axis=0), np.tile(noises, (ROUTES, 1, 1, 1)),
            np.repeat(target, n, axis=0), np.repeat(mask, n, axis=0)))
        _, features = gpan_measure.scores_of(self.classifier, images, self.device, progress=count.add)
        features = features.reshape(ROUTES, NOISES, -1)
        return float(metrics_gpan.route_variety(features.transpose(1, 0, 2), features))


class Counter:
    """A progress line that counts images as they are classified."""

    def __init__(self, total: int) -> None:
        self.done, self.line = 0, Progress(total, every=0, quiet=QUIET, word="measuring, image")
        self.line.update(0)

    def add(self, count: int) -> None:
        """Count more images."""
        self.done += count
        self.line.update(self.done)
