"""A training step as one CUDA graph: the same bits as the step itself, and what cannot be recorded is said.

On a GPU, or on the real CuPy without one (tests/cpucupy).
"""

from __future__ import annotations

import numpy as np
import pytest
from game import grown
from test_gpu import gpu, xp  # noqa: F401 - CuPy, or a reason to skip

from tinygan import Tensor
from tinygan.app.feeds import FedImages, FedRoutes, fed_noise
from tinygan.kernels.gpu.feed import each_step, fed, recording, table
from tinygan.kernels.gpu.graph import RecordedStep
from tinygan.models.gan.game import turn_of_d, turn_of_g
from tinygan.models.gan.nets import GANConfig
from tinygan.nn.optim import Adam, RMSprop

pytestmark = pytest.mark.gpu
NETS = {"GAN": {"bank": 1}, "SGAN": {"bank": 4}, "tied": {"bank": 4, "tied": True}}
STEPS, BATCH = 54, 6


class Training:
    """A GAN on random images, on a stream of its own, whose step may be recorded."""

    def __init__(self, xp, config, optimizer, note=None, counted=True):
        self.config, self.step_number, self.rng = config, 0, np.random.default_rng(1)
        self.g, self.d, self.g_optimizer, self.d_optimizer, self.average = grown(config, xp.asarray, optimizer)
        self.images = FedImages(xp, self.rng.integers(0, 256, (20, 28, 28), np.uint8), 32)
        self.routes = [FedRoutes(xp, BATCH, config.bank) for _ in range(2)]
        self.counted, self.stream = counted, xp.cuda.Stream(non_blocking=True)
        self.step = self.one_step if note is None else RecordedStep(xp, self.one_step, note)

    def drawn(self, turn):
        shape = BATCH, self.config.latent_dim
        noise = (fed_noise(5, shape, lambda: 2 * self.step_number + turn) if self.counted else
                 fed_noise(None, shape, lambda: self.rng.standard_normal(shape)))
        return noise, self.routes[turn].drawn(lambda: self.g.draw_routes(self.rng, BATCH))

    def one_step(self):
        real = self.images.batch(BATCH, lambda: self.rng.integers(0, 20, BATCH))
        d_loss, _, _ = turn_of_d(self.g, self.d, self.d_optimizer, real, self.drawn(0))
        g_loss = turn_of_g(self.g, self.d, self.g_optimizer, self.drawn(1))
        self.average.update(self.g)
        return d_loss, g_loss

    def run(self, steps):
        losses = []
        with self.stream:
            for _ in range(steps):
                self.g_optimizer.lr = self.d_optimizer.lr = 1e-3 / (1 + self.step_number)
                losses.append([loss.item() for loss in self.step()])
                self.step_number += 1
            states = [part.state_dict() for part in (self.g, self.d, self.g_optimizer, self.d_optimizer,
                                                     self.average.module)]
        return losses, {f"{i}.{k}": v for i, state in enumerate(states) for k, v in state.items()}


@pytest.mark.parametrize("optimizer", [Adam, RMSprop])
@pytest.mark.parametrize("name", NETS)
def test_a_replayed_step_has_the_bits_of_the_step_itself(gpu, name, optimizer, threads_last_to_first):  # noqa: F811
    config, notes = GANConfig(base_channels=4, latent_dim=8, init_factor=1.0, **NETS[name]), []
    eager, graph = Training(gpu, config, optimizer), Training(gpu, config, optimizer, notes.append)
    (losses, state), (replayed, after) = eager.run(STEPS), graph.run(STEPS)
    assert not notes and graph.step.replays == STEPS - 2
    assert losses == replayed and len({loss for pair in losses for loss in pair}) > STEPS
    assert all(state[key].tobytes() == after[key].tobytes() for key in state)
    assert graph.average.updates == eager.average.updates == STEPS
    for mine, other in zip(graph.g.parameters(), eager.g.parameters(), strict=True):
        assert mine.version == other.version
