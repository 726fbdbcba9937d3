"""A training step through class Kernels, which takes any array, gives what NumPy's give."""

import numpy as np
import pytest

import tinygan.engine.tensor
import tinygan.kernels
import tinygan.nn.optim
import tinygan.ops.basic
import tinygan.ops.conv
import tinygan.ops.fused
from tinygan import Tensor
from tinygan.kernels.base import Kernels
from tinygan.models.gan.game import turn_of_d, turn_of_g
from tinygan.models.gan.nets import Discriminator, GANConfig, Generator
from tinygan.nn.optim import EMA, Adam, RMSprop


def train(config: GANConfig, optimizer, dtype: type, steps: int = 3) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and weights after a few steps, from fixed seeds."""
    init, rng = np.random.default_rng(0), np.random.default_rng(1)
    g, d = Generator(config, rng=init, dtype=dtype), Discriminator(config, rng=init, dtype=dtype)
    g_opt, d_opt = optimizer(g.named_parameters(), lr=1e-3), optimizer(d.named_parameters(), lr=1e-3)
    average, losses = EMA(g, 0.9), []
    for _ in range(steps):
        def draw():
            return Tensor(g.draw_noise(rng, 6).astype(dtype)), g.draw_routes(rng, 6)

        real = Tensor(rng.random((6, 1, 32, 32)).astype(dtype))
        d_loss, _, _ = turn_of_d(g, d, d_opt, real, draw())
        g_loss = turn_of_g(g, d, g_opt, draw())
        average.update(g)
        losses += [d_loss.item(), g_loss.item()]
    return losses, {**g.state_dict(), **{f"average.{k}": v for k, v in average.module.state_dict().items()}}


@pytest.mark.parametrize("optimizer", [Adam, RMSprop])
@pytest.mark.parametrize("settings", [{"bank": 1}, {"bank": 4}, {"bank": 4, "tied": True}, {"bank": 3, "act": "prelu"}])
def test_a_step_by_the_kernels_for_any_array_equals_numpys(settings, optimizer, monkeypatch):
    config = GANConfig(base_channels=4, latent_dim=8, init_factor=1.0, **settings)
    # float64: an optimiser divides by the size of the gradient, so rounding in float32 may turn a step around.
    losses, weights = train(config, optimizer, np.float64)
    for module in (tinygan.ops.basic, tinygan.ops.conv, tinygan.engine.tensor, tinygan.ops.fused, tinygan.kernels,
                   tinygan.nn.optim):
        monkeypatch.setattr(module, "for_array", lambda array: Kernels())
    any_losses, any_weights = train(config, optimizer, np.float64)
    assert np.allclose(losses, any_losses, rtol=1e-10, atol=0)
    for name, value in weights.items():
        assert np.allclose(value, any_weights[name], rtol=1e-6, atol=1e-8), name
    start = Generator(config, rng=np.random.default_rng(0), dtype=np.float64).state_dict()
    assert all((weights[name] != start[name]).any() for name in start)

    single_losses, single = train(config, optimizer, np.float32)
    assert all(value.dtype == np.float32 for value in single.values())
    assert np.allclose(losses, single_losses, rtol=1e-3, atol=0)
