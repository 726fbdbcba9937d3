"""tinygan's side of the GPAN's benchmark: VGG16 forward and back to the image, and a training step of both nets.

The step is that of train_gpan.py (tinygan/models/gpan/step.py does the work) without its moving average, its checks for
NaN and its log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cpu_worker import TinyganTrainer
from gpan_problem import BETAS, D_RATE, G_RATE, TERMS, WANTED, Classifier, GPANProblem, VGG16Problem

from tinygan import Tensor, grad
from tinygan.models import (
    VGG16,
    Batch,
    GPANGenerator,
    PatchDiscriminator,
    learn_discriminator,
    learn_generator,
    loss_gradients,
)
from tinygan.nn import Adam
from tinygan.nn.layers import normalized


def make_vgg16(classifier: Classifier, dtype: str) -> VGG16:
    """Make the net with its random weights, as constants."""
    return VGG16(classifier.weights(dtype), dtype=np.dtype(dtype).type)


class TinyganVGG16:
    """VGG16 on a batch of images; has the methods of cpu_worker.TinyganTrainer."""

    nets = ("image",)

    def __init__(self, problem: VGG16Problem, dtype: str = "float32") -> None:
        self.net, self.gradient = make_vgg16(problem.classifier, dtype), None

    def to(self, put: Callable[[np.ndarray], Any]) -> None:
        """Move the net."""
        self.net.to(put)

    def shake(self) -> None:
        """Do nothing: the biases are random already."""

    def weights(self) -> dict[str, np.ndarray]:
        """Return nothing: both sides draw the same."""
        return {}

    def gradients(self, net: str) -> dict[str, Any]:
        """Return the gradient of the last images."""
        return {net: self.gradient}

    def train(self, batch: dict[str, Any]) -> tuple[Tensor]:
        """Compute the weighted sum of the scores; its gradient is kept."""
        images = Tensor(batch["images"], requires_grad=True)
        value = (self.net.scores(images) * Tensor(batch["cotangent"])).sum()
        self.gradient = grad(value, [images])[0].data
        return (value.detach(),)

    def step(self, batch: dict[str, Any]) -> tuple[float]:
        """Compute the same, as a number."""
        return tuple(value.item() for value in self.train(batch))


class TinyganGPAN(TinyganTrainer):
    """Generator, discriminator, classifier, two Adams and one training step."""

    def __init__(self, problem: GPANProblem, dtype: str = "float32") -> None:
        rng, kind = np.random.default_rng(1), np.dtype(dtype).type
        self.nets = {"G": GPANGenerator(problem.config, rng=rng, dtype=kind),
                     "D": PatchDiscriminator(problem.config, rng=rng, dtype=kind)}
        self.classifier = make_vgg16(problem.classifier, dtype)
        self.losses = problem.losses
        self.to(lambda array: array)

    def to(self, put: Callable[[np.ndarray], Any]) -> None:
        """Move the nets; the optimisers are made again, as on a GPU they gather the weights in a buffer."""
        for net in (*self.nets.values(), self.classifier):
            net.to(put)
        self.g_optimizer, self.d_optimizer = (
            Adam(self.nets[net].named_parameters(), lr=rate, betas=BETAS) for net, rate in (("G", G_RATE),
                                                                                             ("D", D_RATE)))

    def train(self, batch: dict[str, Any]) -> list[Tensor]:
        """Take one training step of both nets; returns the losses named in TERMS."""
        G, D = self.nets["G"], self.nets["D"]
        given = as_batch(batch)
        G.zero_grad()
        D.zero_grad()
        with normalized(G, given.routes), normalized(D):
            images, maps = G(given.g_condition, given.code, given.noise, given.routes)
            result = loss_gradients(images, maps, given, batch["views"], discriminator=D, classifier=self.classifier,
                                    settings=self.losses)
            d_loss, _, _ = learn_discriminator(images, given, result.importance, D, self.losses)
            learn_generator(images, maps, result, self.losses)
        self.d_optimizer.step()
        self.g_optimizer.step()
        terms = {**result.terms, "d_loss": d_loss}
        return [terms[name] for name in TERMS]

    def step(self, batch: dict[str, Any]) -> tuple[float, ...]:
        """Call `train`; returns its losses as numbers."""
        return tuple(loss.item() for loss in self.train(batch))


def as_batch(batch: dict[str, Any]) -> Batch:
    """Make the step's Batch from a batch of gpan_problem.py."""
    names = ("target", "mask", "g_condition", "d_condition", "code", "noise")
    return Batch(*(Tensor(batch[name]) for name in names), batch["routes"], batch.get("wanted", WANTED))


def make(problem: VGG16Problem | GPANProblem, dtype: str = "float32") -> TinyganVGG16 | TinyganGPAN:
    """Make tinygan's side of a problem."""
    return (TinyganGPAN if problem.kind == "gpan" else TinyganVGG16)(problem, dtype)
