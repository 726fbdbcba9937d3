"""Measures of a GAN of photos, for train_photos.py and evaluate.py: how near its images come to the photos.

Distances are taken between features: the means over all places of VGG16's map conv5_3 where a weight file is given,
else metrics.coarse_features, a stand-in that needs no file. Figures of one kind compare with one another only, and no
published figure with either (those are of an Inception net).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygan import metrics
from tinygan.app.device import Device
from tinygan.app.draw import in_batches
from tinygan.app.loop import QUIET
from tinygan.app.measure import NEIGHBOURS, Row, measure_training
from tinygan.app.streams import Progress
from tinygan.data.photos import Photos, load_photos
from tinygan.engine.tensor import Tensor
from tinygan.kernels import threads
from tinygan.metrics.coarse import COARSE_WORDS
from tinygan.models.classifiers.vgg16 import load_vgg16

LAYER = "conv5_3"
SCALE = 10.0  # VGG16's numbers are divided by it; their root mean square is about 7 with the published weights
AT_ONCE = 50  # images that go through VGG16 at a time
SUBSETS, SUBSET = 100, 1000  # of the kernel distance, as in its paper
PAIRS = 10_000  # of images, whose mean distance is the spread
BLOCK = 1024  # photos that are searched at a time for the nearest one: as floats all at once may not fit into memory
OF_FEATURES = ("kid", "kid_std", "frechet", "precision", "recall", "density", "coverage")


class Features(NamedTuple):
    """A way to describe photos by numbers. compute: images (N, 3, S, S) in [0, 1] -> (N, F). words: what they are."""

    compute: Callable[[np.ndarray], np.ndarray]
    words: str


def find_features(vgg16: str | os.PathLike | None, device: Device) -> Features:
    """Return the features of VGG16 from its weight file, computed on `device`, or the stand-in where none is given.

    Images enter VGG16 at their own size, not resized to the 224 pixels that it was trained with: the same for photos
    and images, and fast. Its numbers are divided by 10 (our choice), so that the terms of the kernel (x.y / F + 1)^3
    are of one size: of numbers as they are the cubed one decides alone, and with it a few photos that stand out. Raises
    TinyganError for a file that holds none.
    """
    if vgg16 is None:
        return Features(metrics.coarse_features, COARSE_WORDS)
    net = load_vgg16(vgg16).to(device.put)

    def compute(images: np.ndarray) -> np.ndarray:
        """Average the map over its places."""
        return in_batches(len(images), AT_ONCE, lambda part: net.maps(
            Tensor(device.put(images[part] * 2 - 1)), LAYER).numpy().mean(axis=(2, 3)) / SCALE)

    return Features(compute, f"{len(net.layers[LAYER].bias)} means of {LAYER} of the VGG16 in {Path(vgg16).name}, "
                             f"divided by {SCALE:g}, of images at their own size")


def read_photos(folder: str | os.PathLike, size: int, say: Callable[[str], None] = print) -> Photos:
    """Load the photos of a folder (data.photos.load_photos) with a line of progress."""
    bars: list[Progress] = []

    def show(done: int, total: int) -> None:
        """Show how many files were read."""
        if not bars:
            bars.append(Progress(total, every=0, quiet=QUIET, word="photo"))
        bars[0].update(done)
        if done == total:
            bars[0].clear()

    return load_photos(folder, size, say=say, progress=show)


class PhotoMeasures:
    """Photos to measure images against, in a random order: the first half of it is compared with, and where real photos
    stand in for images, they are the second half. Features of photos are computed once."""

    def __init__(self, photos: Photos, features: Features, seed: int) -> None:
        self.photos, self.features = photos, features
        self.order = np.random.default_rng([seed, 200]).permutation(len(photos))
        self._known = np.empty((0, 0), np.float32)

    @property
    def half(self) -> int:
        """Return the number of photos in half of them: the most that two sets can have."""
        return len(self.photos) // 2

    def first(self, m: int) -> np.ndarray:
        """Return the first m photos, (m, 3, S, S) in [0, 1]."""
        return as_floats(self.photos.images[self.order[:m]])

    def other(self, m: int) -> np.ndarray:
        """Return the first m photos of the second half."""
        return as_floats(self.photos.images[self.order[self.half:][:m]])

    def features_of_first(self, m: int) -> np.ndarray:
        """Return the features of the first m photos, (m, F)."""
        if len(missing := self.order[len(self._known):m]):
            new = self.features.compute(as_floats(self.photos.images[missing]))
            self._known = np.concatenate([self._known, new]) if len(self._known) else new
        return self._known[:m]

    def measure(self, images: np.ndarray) -> dict[str, float]:
        """Measure images (N, 3, S, S) in [0, 1]: the distances of features, and to the nearest of all photos.

        Of the features as many images count as there are photos in the first half. Where these are five or fewer,
        `nearest` is all that is measured.
        """
        m, measured = min(len(images), self.half), {}
        if m > NEIGHBOURS:
            measured = distances(self.features_of_first(m), self.features.compute(images[:m]))
        nearest = nearest_photos(images, self.photos.images)[2]
        return measured | {"nearest": float(nearest.mean(dtype=np.float64)), "samples": len(images)}

    def measure_real(self, n: int) -> dict[str, float]:
        """Measure photos of the second half in the place of n images: {} where a half holds five or fewer."""
        m = min(n, self.half)
        return {} if m <= NEIGHBOURS else distances(self.features_of_first(m), self.features.compute(self.other(m)))


def distances(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Compare two sets of features of one size (m, F): a number for each of OF_FEATURES.

    The kernel distance is of 100 subsets of half of the rows, at most 1,000.
    """
    kernel = metrics.kernel_distance(real, fake, subsets=SUBSETS, size=min(SUBSET, len(real) // 2))
    return {"kid": kernel["mean"], "kid_std": kernel["std"], "frechet": metrics.frechet_distance(real, fake),
            **metrics.prdc(real, fake, k=NEIGHBOURS)}


def nearest_photos(images: np.ndarray, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the photo (uint8) that is nearest to each image (N, 3, S, S) in [0, 1]: (index, mirrored, L2 distance).

    Each photo and its mirror image are compared. mirrored: whether it is the mirror image that is nearest.
    """
    index, flipped = np.zeros(len(images), np.int64), np.zeros(len(images), bool)
    distance = np.full(len(images), np.inf, np.float32)
    for start in range(0, len(photos), BLOCK):
        block = as_floats(photos[start : start + BLOCK])
        for mirrored, those in ((False, images), (True, images[..., ::-1])):
            found, far = metrics.nearest(those, block)
            nearer = far < distance
            index[nearer], flipped[nearer], distance[nearer] = start + found[nearer], mirrored, far[nearer]
    return index, flipped, distance


def pairs_with_nearest(images: np.ndarray, photos: np.ndarray, columns: int) -> np.ndarray:
    """Return images in [0, 1], nearest to a photo first, with the photo of each in the row below it, for a grid.

    images: (N, 3, S, S), N a multiple of columns; the result has 2 N. photos: uint8; one whose mirror image is nearest
    is shown mirrored.
    """
    index, mirrored, distance = nearest_photos(images, photos)
    order = np.argsort(distance, kind="stable")
    shown = as_floats(photos[index])
    shown[mirrored] = shown[mirrored, ..., ::-1]
    rows = [part.reshape(-1, columns, *images.shape[1:])[:, None] for part in (images[order], shown[order])]
    return np.concatenate(rows, axis=1).reshape(-1, *images.shape[1:])


def as_floats(photos: np.ndarray) -> np.ndarray:
    """Scale uint8 photos to float32 in [0, 1]."""
    return np.divide(photos, np.float32(255), dtype=np.float32)


def in_words(measured: Mapping[str, float]) -> str:
    """Describe what `PhotoMeasures.measure` returned in one line."""
    parts = []
    if "kid" in measured:
        parts = [f"kernel distance {measured['kid']:.4g} (std {measured['kid_std']:.2g})",
                 f"Fréchet distance {measured['frechet']:.4g}", f"precision {measured['precision']:.2f}",
                 f"recall {measured['recall']:.2f}", f"coverage {measured['coverage']:.2f}"]
    return ", ".join([*parts, f"nearest photo at {measured['nearest']:.3g}"]) + f" ({measured['samples']:,} samples)"


# ---- the table of evaluate.py --------------------------------------------------------------------------------------


def measure_photos(measures: PhotoMeasures, images: np.ndarray, checkpoint: Path,
                   notify: Callable[[str], None] = lambda line: None) -> list[Row]:
    """Measure images (N, 3, S, S) in [0, 1] of a generator against its photos, and the run's log.

    Each figure stands beside that of real photos: m of one half of them against m of the other, m being N or the half.
    """
    m = min(len(images), measures.half)
    real, other, fake = measures.first(m), measures.other(m), images[:m]
    notify(f"features of 3 x {m:,} images")
    f_real = measures.features_of_first(m)
    f_fake, f_other = measures.features.compute(fake), measures.features.compute(other)
    every = measures.photos.images
    in_first = every[measures.order[:m]]
    work: dict[str, Callable[[], Any]] = {  # each is one job for one core
        "nearest": lambda: nearest_photos(fake, in_first)[2],
        "nearest_real": lambda: nearest_photos(other, in_first)[2],
        "nearest_any": lambda: nearest_photos(fake, every)[2],
        "features": lambda: distances(f_real, f_fake),
        "features_real": lambda: distances(f_real, f_other),
        "spread": lambda: metrics.pairwise_spread(fake, real, pairs=PAIRS)["ratio"],
        "spread_real": lambda: metrics.pairwise_spread(other, real, pairs=PAIRS)["ratio"],
    }
    notify(f"measuring ({len(work)} jobs on {threads.get_threads()} threads)")
    values: dict[str, Any] = {}
    threads.run([lambda name=name, job=job: values.update({name: job()}) for name, job in work.items()])
    return _rows(values, m, len(every)) + measure_training(checkpoint, notify)


def _rows(values: Mapping[str, Any], m: int, count: int) -> list[Row]:
    """Return the rows of features and pixels. m: images of each set; count: all photos."""
    both, size = f"{m:,} photos against {m:,} others", min(SUBSET, m // 2)
    words = {"kid": f"kernel distance, {SUBSETS} subsets of {size:,}", "kid_std": "its std over the subsets",
             "frechet": "Fréchet distance"}
    words |= {name: f"{name} (k = {NEIGHBOURS})" for name in ("precision", "recall", "density", "coverage")}
    rows = [("features", name, words[name], values["features"][name], values["features_real"][name], both)
            for name in OF_FEATURES]
    near, near_real, near_any = (values[name] for name in ("nearest", "nearest_real", "nearest_any"))
    rows += [
        ("pixels", "spread", "distance of two samples / of two photos", values["spread"], values["spread_real"], both),
        ("pixels", "nearest", f"distance to the nearest of {m:,} photos", float(near.mean()), float(near_real.mean()),
         both),
        ("pixels", "nearest_least", "the smallest such distance", float(near.min()), float(near_real.min()), both),
        ("pixels", "nearest_any", f"distance to the nearest of all {count:,} photos", float(near_any.mean()), None,
         "the photos that it learned from"),
        ("pixels", "nearest_copy", "the smallest such distance", float(near_any.min()), None, "0 would be a copy"),
    ]
    return [Row(*row) for row in rows]
