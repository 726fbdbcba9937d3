"""A few training steps of a small GAN, as train_mnist.py makes them, on any device: losses, gradients, weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinygan import Tensor
from tinygan.models.gan.game import turn_of_d, turn_of_g
from tinygan.models.gan.nets import Discriminator, GANConfig, Generator
from tinygan.nn.optim import EMA, Adam


def grown(config: GANConfig, put: Callable = lambda a: a, optimizer: type = Adam, lr: float = 1e-3) -> tuple:
    """(G, D, their optimisers, moving average of G), the same weights whatever the device."""
    rng = np.random.default_rng(0)
    g, d = Generator(config, rng=rng).to(put), Discriminator(config, rng=rng).to(put)
    return g, d, optimizer(g.named_parameters(), lr=lr), optimizer(d.named_parameters(), lr=lr), EMA(g, 0.9)


def play(players: tuple, steps: int, put: Callable = lambda a: a, batch: int = 6,
         before_step: Callable = lambda i: None, seed: int = 1) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Train; (losses, D's and G's in turn; for each step all gradients by name). Nothing is read from the device."""
    g, d, g_optimizer, d_optimizer, average = players
    rng, losses, gradients = np.random.default_rng(seed), [], []
    for i in range(steps):
        before_step(i)
        z, routes = Tensor(put(g.draw_noise(rng, batch))), g.draw_routes(rng, batch)
        real = Tensor(put(rng.random((batch, 1, 32, 32)).astype(np.float32)))
        d_loss, _, _ = turn_of_d(g, d, d_optimizer, real, (z, routes))
        gradients_of_d = {f"d.{name}": p.grad for name, p in d.named_parameters()}
        z, routes = Tensor(put(g.draw_noise(rng, batch))), g.draw_routes(rng, batch)
        g_loss = turn_of_g(g, d, g_optimizer, (z, routes))
        average.update(g)
        losses += [d_loss, g_loss]
        gradients.append(gradients_of_d | {f"g.{name}": p.grad for name, p in g.named_parameters()})
    return losses, gradients
