"""What the benchmarks measure of the GPAN: VGG16 alone, and a whole training step, with the numbers they consume.

Both sides, tinygan (gpan_tinygan.py) and PyTorch (torch_gpan.py), get the same images, substrates, masks, noise,
routes, views and weights. The classifier has the widths of the published VGG16 and random weights: the times do not
depend on their values, and no file of 550 MB is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tinygan.models import GPANConfig, LossSettings, ViewSettings, draw_views
from tinygan.models.classifiers.vgg16 import CONVOLUTIONS, HEAD, STEP
from tinygan.models.gpan.nets import BOTTLENECK, STRIDED
from tinygan.models.gpan.views import _noise

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 4096, 4096, 1000)  # of all 16 layers
CHANNELS, CATEGORIES = 3, 2
WANTED = (3, 7)  # class ids
NARROW = 8  # the check divides the classifier's widths by it: float64 has room, and takes seconds
INPUT_SCALE = 0.02  # of conv1_1's weights, whose inputs are pixels from about -124 to 151: its maps are then near 1
SCORE_SCALE = 0.25  # of fc8's: five max pools let signals grow; scores stay near 1, and a softmax is not certain
SEES = ("whole", "view", "both")
# The losses that a step returns, in this order.
TERMS = ("wanted", "unwanted", "cgan", "background", "substrate", "split", "d_loss")
# How far gradients may lie apart in float32, relative to their length. Where a number is next to a ReLU's kink, or two
# of a window are next to equal, rounding decides which way the gradient goes: over 13 layers that changes it by some
# percent, on any side. In float64 the same forms agree to 1e-9 (benchmarks/cpu.py checks that).
GRADIENT_LIMIT = 1e-1
# And the distances that an optimiser moves the parameters: Adam divides by the size of the gradient, so where that is
# next to nothing, rounding decides. One that stands still is off by 1.
MOVES_LIMIT = 5e-1
FLOAT_BYTES = 4
# train_gpan.py's settings with a VGG16: the dataclasses' defaults, and these. A test compares them with its flags.
NET_SETTINGS = {"start": "nothing", "smooth": 1}
VIEW_SETTINGS = ViewSettings()
G_RATE, D_RATE, BETAS = 6e-4, 3e-4, (0.5, 0.9)


@dataclass(frozen=True)
class Classifier:
    """Sizes of a VGG16: side of its input in pixels, a multiple of 32; narrow divides all widths."""

    side: int = 224
    narrow: int = 1

    @property
    def widths(self) -> tuple[int, ...]:
        """List channels or units of the 16 layers; the classes come last."""
        return tuple(max(1, width // self.narrow) for width in WIDTHS[:-1]) + (max(10, WIDTHS[-1] // self.narrow),)

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """List (layer, shape of its weight), in order."""
        inputs = CHANNELS
        for name, outputs in zip((*CONVOLUTIONS, *HEAD), self.widths, strict=True):
            inputs *= (self.side // STEP) ** 2 if name == "fc6" else 1
            yield name, (outputs, inputs, 3, 3) if name in CONVOLUTIONS else (outputs, inputs)
            inputs = outputs

    def weights(self, dtype: str = "float32") -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Draw layer -> (weight, bias), so that signals keep their size from layer to layer (He et al. 2015)."""
        rng, layers = np.random.default_rng(3), {}
        scales = {"conv1_1": INPUT_SCALE, "fc8": SCORE_SCALE}
        for name, shape in self.shapes():
            weight = rng.standard_normal(shape, dtype=np.float32)
            weight *= np.float32(scales.get(name, 1.0) * (2 / np.prod(shape[1:])) ** 0.5)
            bias = rng.standard_normal(shape[0], dtype=np.float32) * np.float32(0.1)
            layers[name] = weight.astype(dtype, copy=False), bias.astype(dtype, copy=False)
        return layers

    def flop(self) -> tuple[int, int]:
        """Count the operations of (the convolutions, the three layers of the head) on one image, forward."""
        convolutions = head = 0
        for name, shape in self.shapes():
            if name in HEAD:
                head += 2 * int(np.prod(shape))
            else:
                convolutions += 2 * int(np.prod(shape)) * (self.side >> (int(name[4]) - 1)) ** 2
        return convolutions, head

    def bytes_moved(self, batch: int) -> int:
        """Count forward, and back to the image: every layer's maps and weights once each, read or written."""
        numbers, inputs, side = 0, CHANNELS, self.side
        for name, shape in self.shapes():
            if name == "fc6":
                side = 1
            elif name in CONVOLUTIONS:
                side = self.side >> (int(name[4]) - 1)
            into = shape[1] if name in HEAD else inputs * side ** 2
            numbers += 2 * (batch * (into + shape[0] * side ** 2) + int(np.prod(shape)))
            inputs = shape[0]
        return FLOAT_BYTES * numbers


@dataclass(frozen=True)
class VGG16Problem:
    """Scores of `batch` images, and the gradient of a weighted sum of them to the images; the weights are constants."""

    batch: int = 4
    side: int = 224
    narrow: int = 1
    kind = "vgg16"
    bank = 1
    count = 4  # different batches, used in turn

    @property
    def name(self) -> str:
        """Return its name in the table."""
        return f"VGG16 {self.side} px batch {self.batch}" + (f" narrow {self.narrow}" if self.narrow > 1 else "")

    @property
    def classifier(self) -> Classifier:
        """Return the net's sizes."""
        return Classifier(self.side, self.narrow)

    @property
    def for_check(self) -> VGG16Problem:
        """Return a smaller one of the same computation, for the check in float64."""
        return replace(self, batch=min(2, self.batch), narrow=max(NARROW, self.narrow))

    def batches(self, dtype: str = "float32") -> list[dict[str, Any]]:
        """Draw images (N, 3, side, side) in [-1, 1], cotangent (N, classes)."""
        rng = np.random.default_rng(4)
        return [{"images": rng.uniform(-1, 1, (self.batch, CHANNELS, self.side, self.side)).astype(dtype),
                 "cotangent": rng.standard_normal((self.batch, self.classifier.widths[-1])).astype(dtype)}
                for _ in range(self.count)]

    @property
    def flop(self) -> int:
        """Count forward, and back to the image: two products of the same size in each layer."""
        return 2 * self.batch * sum(self.classifier.flop())

    @property
    def bytes_moved(self) -> int:
        """Count the bytes that the layers read and write at least."""
        return self.classifier.bytes_moved(self.batch)


@dataclass(frozen=True)
class GPANProblem:
    """One training step of both nets of a GPAN with the settings of train_gpan.py and a VGG16, and Adam.

    sees: the classifier's inputs, the "whole" images, one random "view" of each, or "both".
    """

    size: int = GPANConfig.size
    batch: int = 4
    bank: int = GPANConfig.bank[0]
    base: int = GPANConfig.base_channels
    patch: int = GPANConfig.patch_channels
    sees: str = "view"
    side: int = 224
    narrow: int = 1
    kind = "gpan"
    count = 3

    @property
    def name(self) -> str:
        """Return its name in the table."""
        return f"GPAN {self.size} px batch {self.batch} K {self.bank}, {self.sees}"

    @property
    def classifier(self) -> Classifier:
        """Return the classifier's sizes."""
        return Classifier(self.side, self.narrow)

    @property
    def config(self) -> GPANConfig:
        """Return the nets' settings."""
        return GPANConfig(size=self.size, categories=CATEGORIES, bank=(self.bank,), base_channels=self.base,
                          patch_channels=self.patch, **NET_SETTINGS)

    @property
    def losses(self) -> LossSettings:
        """Return the losses' weights and variants."""
        return LossSettings(whole=self.sees != "view")

    @property
    def for_check(self) -> GPANProblem:
        """Return the same computation with fewer channels, for the check in float64."""
        few = 8 if self.size > 256 else 16
        return replace(self, batch=2 if self.size > 256 else self.batch, narrow=max(NARROW, self.narrow),
                       base=min(few, self.base), patch=min(few, self.patch))

    def batches(self, dtype: str = "float32") -> list[dict[str, Any]]:
        """Draw the inputs of the steps: target, g_condition, d_condition (N, 3, S, S) and mask (N, 1, S, S), code (N,
        categories), noise (N, noise_dim, 2, 2), routes (N, stochastic layers), views (or None) and their noise.

        Substrates are discs of noise on white. The noise of the views is drawn here for PyTorch, outside of its time;
        tinygan draws the same numbers within its step.
        """
        rng, drawn, c, n = np.random.default_rng(5), [], self.config, self.batch
        y, x = np.mgrid[:c.size, :c.size] / (c.size / 2) - 1
        for _ in range(self.count):
            radius = rng.uniform(0.4, 0.9, (n, 1, 1, 1))
            mask = (x * x + y * y < radius ** 2).astype(np.float32)
            pixels = rng.random((n, CHANNELS, c.size, c.size), dtype=np.float32) * np.float32(1.6) - np.float32(0.9)
            target = np.where(mask > 0, pixels, np.float32(1))
            batch = {"target": target, "mask": mask, "g_condition": target,
                     "d_condition": np.ascontiguousarray(np.broadcast_to(2 * mask - 1, target.shape)),
                     "code": np.ones((n, CATEGORIES), np.float32),
                     "noise": rng.standard_normal((n, c.noise_dim, BOTTLENECK, BOTTLENECK), dtype=np.float32)}
            batch = {name: a.astype(dtype, copy=False) for name, a in batch.items()}
            batch["routes"] = np.stack([rng.integers(0, k, n) for k in c.bank], axis=1)
            batch["views"] = batch["view_noise"] = None
            if self.sees != "whole":
                batch["views"] = draw_views(rng, n, VIEW_SETTINGS, c.size, c.size, self.side)
                batch["view_noise"] = _noise(batch["views"], CHANNELS).astype(dtype, copy=False)
            drawn.append(batch)
        return drawn

    @property
    def flop(self) -> int:
        """Count the operations in the products of a step: the classifier's, the discriminator's and the generator's."""
        return sum(self.flop_parts().values())

    @property
    def bytes_moved(self) -> int:
        """Count the bytes that the classifier alone reads and writes at least."""
        return (2 if self.sees == "both" else 1) * self.classifier.bytes_moved(self.batch)

    def flop_parts(self) -> dict[str, int]:
        """Count the operations in a step: "convolutions" and "heads" of the classifier, "nets" of the GPAN."""
        convolutions, head = (self.batch * part for part in self.classifier.flop())
        inputs = 2 if self.sees == "both" else 1
        return {"convolutions": 2 * inputs * convolutions, "heads": (2 * inputs + 2) * head,  # Grad-CAM: once more
                "nets": self.batch * (self._generator_flop() + self._discriminator_flop())}

    def _generator_flop(self) -> int:
        """Count forward, back to the input (not of the first layer), and to the weight."""
        c = self.config
        widths = [c.condition_channels, *(c.encoder_width(side) for side in c.encoder_sides)]
        layers = [(a, b, side) for a, b, side in zip(widths, widths[1:], c.encoder_sides, strict=False)]
        width, side = widths[-1] + c.categories + c.noise_dim, BOTTLENECK
        while side < c.size:
            layers.append((width, c.decoder_width(2 * side), side))
            side *= 2
            width = c.decoder_width(side) + (c.skip_width(side) if side < c.size else 0)
        return sum(2 * 16 * a * b * small ** 2 * (3 if i else 2) for i, (a, b, small) in enumerate(layers))

    def _discriminator_flop(self) -> int:
        """Count, for the generator's loss, forward and back to the image; for the discriminator's, of real and fake,
        forward, back but for the first layer, and to the weight."""
        c = self.config
        strided, side = STRIDED[c.encoder_side], c.encoder_side
        widths = [c.condition_channels + c.channels, *(c.patch_channels * min(8, 2 ** i) for i in range(strided + 1)),
                  1]
        total = 0
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
            side = side // 2 if i < strided else side - 1
            total += 2 * 16 * a * b * side ** 2 * (2 + 2 * (3 if i else 2))
        return total


def to_json(problem: VGG16Problem | GPANProblem) -> str:
    """Return a line of text that `from_json` reads."""
    return json.dumps({"kind": problem.kind, **asdict(problem)})


def from_json(text: str) -> VGG16Problem | GPANProblem:
    """Return the problem in a line of `to_json`."""
    fields = json.loads(text)
    return {"vgg16": VGG16Problem, "gpan": GPANProblem}[fields.pop("kind")](**fields)
