"""Multilayer perceptrons in place of the convolutional nets: a GAN, an SGAN and a tied ensemble of points or digits.

    generator       z (N, latent) -> hidden layers, each with a bank of filter sets -> (N, outputs)
    discriminator   (N, outputs) -> hidden layers -> a logit for each sample, or for each pack of samples

They are made of the layers of the convolutional nets (a linear layer is a convolution of a 1 x 1 map) and trained by
the same step, models/gan/game.py. Nothing is normalised: the 2-D mixtures and the digits of the study come from public
experiments with plain perceptrons (docs/study.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinygan import ops
from tinygan.engine.tensor import Tensor
from tinygan.models.gan.nets import NetConfig, draw_noise, draw_routes, full_bank
from tinygan.nn.layers import Conv2d, StochasticConvTranspose2d, TPReLU
from tinygan.nn.module import Module
from tinygan.ops.routes import routes_of


@dataclass(frozen=True)
class MLPConfig(NetConfig):
    """The settings of both perceptrons.

    outputs: numbers of a sample. latent_dim: length of the noise. width, d_width: units of each hidden layer of G and
    of D; layers: their number, in both. bank: filter sets of each hidden layer of G, one number for all of them; the
    last layer is shared by all routes. tied: one index for all layers. one_hot: categories whose one-hot vector is
    added to the noise (0: none). pack: samples that D judges together (Lin et al. 2018). image: whether samples are
    pixels, in [0, 1] by a sigmoid; else they are points, in units of `scale`.
    Raises UsageError for a bank that does not fit.
    """

    outputs: int = 2
    latent_dim: int = 2
    width: int = 128
    d_width: int = 128
    layers: int = 3
    bank: tuple[int, ...] = (1,)
    tied: bool = False
    one_hot: int = 0
    pack: int = 1
    image: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bank", full_bank(self.bank, self.layers, "(hidden layers)", tied=self.tied))


class MLPGenerator(Module):
    """z (N, latent_dim + one_hot) and routes (N, layers) -> samples (N, outputs)."""

    def __init__(self, config: MLPConfig, *, rng: np.random.Generator) -> None:
        self.config = config
        widths = [config.latent_dim + config.one_hot] + [config.width] * config.layers
        self.hidden = [StochasticConvTranspose2d(widths[i], widths[i + 1], 1, bank=config.bank[i], rng=rng)
                       for i in range(config.layers)]
        self.activations = [TPReLU(config.width) for _ in range(config.layers)]
        self.last = Conv2d(config.width, config.outputs, 1, rng=rng)

    def forward(self, z: Tensor, routes: Sequence | None = None) -> Tensor:
        """Generate samples; routes: host integers (N, layers), or None if every bank is 1."""
        n = len(z)
        x = z.reshape(n, -1, 1, 1)
        for layer, act, column in zip(self.hidden, self.activations, routes_of(routes, self.config.bank, n),
                                      strict=True):
            x = act(layer(x, column))
        y = self.last(x).reshape(n, -1)
        return ops.sigmoid(y) if self.config.image else y * self.config.scale

    def draw_noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draw z (n, latent_dim + one_hot), float32: normal noise and, where there is one, a one-hot vector."""
        return draw_noise(rng, n, self.config.latent_dim, (self.config.one_hot,) if self.config.one_hot else ())

    def draw_routes(self, rng: np.random.Generator, n: int, mode: str = "sample") -> np.ndarray:
        """Draw filter-set indices (n, layers) for n samples. mode, errors: as of models.draw_routes."""
        return draw_routes(rng, n, self.config.bank, mode, tied=self.config.tied)


class MLPDiscriminator(Module):
    """Samples (N, outputs) -> logits (N / pack,): positive means "real"."""

    def __init__(self, config: MLPConfig, *, rng: np.random.Generator) -> None:
        self.config = config
        widths = [config.outputs * config.pack] + [config.d_width] * config.layers
        self.hidden = [Conv2d(widths[i], widths[i + 1], 1, rng=rng) for i in range(config.layers)]
        self.activations = [TPReLU(config.d_width) for _ in range(config.layers)]
        self.last = Conv2d(config.d_width, 1, 1, rng=rng)

    def forward(self, samples: Tensor) -> Tensor:
        x = samples.reshape(len(samples) // self.config.pack, -1, 1, 1)
        x = ops.fused.scale_shift(x, 2.0, -1.0) if self.config.image else x * (1.0 / self.config.scale)
        for layer, act in zip(self.hidden, self.activations, strict=True):
            x = act(layer(x))
        return self.last(x).reshape(-1)
