"""A few training steps of a small GAN, as train_mnist.py makes them, on any device: losses, gradients, weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinygan.engine import Tensor, frozen, no_grad
from tinygan.layers import normalised
from tinygan.losses import discriminator_loss, generator_loss
from tinygan.models.adapted_gan import Discriminator, GANConfig, Generator
from tinygan.ops import concatenate
from tinygan.optim import EMA, Adam


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
        with no_grad(), normalised(g, routes):
            fake = g(z, routes)
        real = Tensor(put(rng.random((batch, 1, 32, 32)).astype(np.float32)))
        d.zero_grad()
        with normalised(d):
            logits = d(concatenate([real, fake]))
            d_loss = discriminator_loss(real=logits[:batch], fake=logits[batch:])
            d_loss.backward()
        d_optimizer.step()
        found = {f"d.{name}": p.grad for name, p in d.named_parameters()}
        z, routes = Tensor(put(g.draw_noise(rng, batch))), g.draw_routes(rng, batch)
        g.zero_grad()
        with frozen(d), normalised(d), normalised(g, routes):
            g_loss = generator_loss(fake=d(g(z, routes)))
            g_loss.backward()
        g_optimizer.step()
        average.update(g)
        losses += [d_loss, g_loss]
        gradients.append(found | {f"g.{name}": p.grad for name, p in g.named_parameters()})
    return losses, gradients
