"""One training step of a GAN: an update of the discriminator, one of the generator (Goodfellow et al. 2014).

Each returns its loss (the discriminator's its logits, too) as constants and frees the graph before the optimiser steps:
otherwise two graphs would be in memory at once. No number is copied to the host, as that waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinygan.engine.tensor import Tensor, frozen, no_grad
from tinygan.nn.layers import normalized
from tinygan.nn.losses import generator_loss, joint_loss
from tinygan.nn.module import Module
from tinygan.nn.optim import Optimizer
from tinygan.ops import concatenate

Drawn = tuple[Tensor, np.ndarray]  # the generator's inputs for N images: noise (N, latent) and routes (N, layers)
Check = Callable[[Tensor], object]


def turn_of_d(G: Module, D: Module, optimizer: Optimizer | None, real: Tensor, drawn: Drawn, *,
              form: str = "logits", check: Check = lambda loss: None) -> tuple[Tensor, Tensor, Tensor]:
    """Update the discriminator on a batch of real images (N, C, side, side) and as many of G's.

    Returns (loss, logits of the real images, logits of G's). D may give one logit for m images in a row, a pack (Lin et
    al. 2018), N being a multiple of m. form: losses.discriminator_loss's. check(loss) is called
    before any weight changes, and may raise. optimizer: None computes the gradients of D and changes no weight.
    Goodfellow et al. 2014, algorithm 1.
    """
    with no_grad(), normalized(G, drawn[1]):  # no gradient needs to reach the generator
        fake = G(*drawn)
    D.zero_grad()
    with normalized(D):
        logits = D(concatenate([real, fake]))  # one call on both does the same as two, in half the operations
        reals = len(logits) // 2  # fewer than images where D takes packs of them
        loss = joint_loss(logits, reals, form)
        check(loss)
        loss.backward()
    loss, logits = loss.detach(), logits.detach()
    del fake
    if optimizer is not None:
        optimizer.step()
    return loss, logits[:reals], logits[reals:]


def turn_of_g(G: Module, D: Module, optimizer: Optimizer | None, drawn: Drawn, *, kind: str = "nonsaturating",
              form: str = "logits", check: Check = lambda loss: None) -> Tensor:
    """Update the generator by the gradient of its loss through a frozen D, on new noise and routes.

    Returns the loss. kind, form: losses.generator_loss's. check, optimizer: as of `turn_of_d`.
    """
    G.zero_grad()
    with frozen(D), normalized(D), normalized(G, drawn[1]):
        loss = generator_loss(fake=D(G(*drawn)), kind=kind, form=form)
        check(loss)
        loss.backward()
    loss = loss.detach()
    if optimizer is not None:
        optimizer.step()
    return loss
