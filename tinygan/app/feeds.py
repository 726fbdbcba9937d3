"""What a GAN's step draws - real images, noise, routes - where a GPU makes it from the little that the host sends.

The data set lies in the GPU's memory as bytes; a step is sent indices into it. Noise is made there, or sent where it is
the host's. Routes are sent as integers and planned there (kernels/gpu/routes.py). All of it goes through
kernels/gpu/feed.py, so that the step may be recorded as one CUDA graph and replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygan.data.batches import to_canvas
from tinygan.engine.tensor import Tensor
from tinygan.kernels.gpu.feed import each_step, fed
from tinygan.kernels.gpu.maps import canvas
from tinygan.kernels.gpu.random import normal_of_step
from tinygan.kernels.gpu.routes import LivePlans
from tinygan.ops.routes import Route, routes_of


class FedImages:
    """A data set of uint8 images (count, 28, 28) in a GPU's memory, from which batches are taken.

    side: of the canvas (data.to_canvas). A canvas of 64 is made on the host and sent, as it is interpolated.
    """

    def __init__(self, xp: Any, images: np.ndarray, side: int) -> None:
        self.images, self.side = images, side
        self.resident = xp.asarray(images) if side <= 32 else None

    def batch(self, n: int, draw: Callable[[], np.ndarray]) -> Tensor:
        """Return the images whose indices (n,) draw() returns, (n, 1, side, side) in [0, 1]."""
        if self.resident is None:
            return Tensor(fed((n, 1, self.side, self.side), np.float32, lambda out: np.copyto(
                out, to_canvas(self.images[draw()], self.side))), name="real images")
        indices = fed((n,), np.int32, lambda out: np.copyto(out, draw(), casting="same_kind"))
        return Tensor(canvas(self.resident, indices, (self.side - self.images.shape[1]) // 2), name="real images")


class FedRoutes:
    """The routes of n samples through layers with these banks, drawn anew for every step in the same arrays.

    turns: batches of a step; the routes of all are planned together, when the first one's are taken.
    """

    def __init__(self, xp: Any, n: int, banks: tuple[int, ...], turns: int) -> None:
        self.turns = [routes_of(np.zeros((n, len(banks)), np.int64), banks, n) for _ in range(turns)]
        live = [(route.indices, route.used, route.bank) for columns in self.turns for route in columns
                if route is not None]
        self._plans = LivePlans(xp, live) if live else None

    def drawn(self, turn: int, draw: Callable[[], np.ndarray]) -> tuple[Route | None, ...] | None:
        """Return the routes of a turn, whose indices (n, layers) draw() returns; None where every bank is 1."""
        def replace() -> None:
            """Take the next routes."""
            for columns in self.turns:
                matrix = draw()
                for layer, route in enumerate(columns):
                    if route is not None:
                        route.replace(matrix[:, layer])

        if turn == 0:
            (each_step if self._plans is None else self._plans.make)(replace)
        return None if self._plans is None else self.turns[turn]


class FedNoise:
    """Standard normal noise (n, length), float32, for each turn of a step; made when the first one's is taken.

    seed: of counted noise, made on the device; None: it is the host's.
    """

    def __init__(self, seed: int | None, shape: tuple[int, int], turns: int) -> None:
        self.seed, self.shape, self._count, self._noise = seed, shape, turns, []

    def drawn(self, turn: int, draw: Callable[[], Any]) -> Tensor:
        """Return the noise of a turn. draw() returns the number of the first turn's stream, others follow it; without a
        seed the noise itself, for one turn after the other."""
        if turn == 0:
            self._noise = self._counted(draw) if self.seed is not None else self._sent(draw)
        return Tensor(self._noise[turn], name="noise")

    def _counted(self, draw: Callable[[], int]) -> list[Any]:
        """Make all turns' noise on the device."""
        def streams() -> range:
            """Return the numbers of the streams."""
            first = draw()
            return range(first, first + self._count)

        return normal_of_step(self.seed, streams, self.shape, self._count)

    def _sent(self, draw: Callable[[], np.ndarray]) -> list[Any]:
        """Send all turns' noise, stored as the device makes it."""
        def fill(out: np.ndarray) -> None:
            """Draw the noise."""
            for numbers in out:
                numbers[...] = draw().T

        return [numbers.T for numbers in fed((self._count, *self.shape[::-1]), np.float32, fill)]
