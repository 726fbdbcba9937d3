"""What a step draws - real images, substrates, noise, routes - where a GPU makes it from what the host sends.

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
from tinygan.models.gpan.views import Views
from tinygan.ops.routes import Route, routes_of


class FedImages:
    """A data set of uint8 images (count, 28, 28) in a GPU's memory, from which batches are taken.

    side: of the canvas (data.to_canvas). A canvas of 64 is made on the host and sent, as it is interpolated. channels:
    how many of the images make one of a batch, one for each of its colours.
    """

    def __init__(self, xp: Any, images: np.ndarray, side: int, channels: int = 1) -> None:
        self.images, self.side, self.channels = images, side, channels
        self.resident = xp.asarray(images) if side <= 32 else None

    def batch(self, n: int, draw: Callable[[], np.ndarray]) -> Tensor:
        """Return the images whose indices (n,), or (n, channels), draw() returns: (n, channels, side, side) in
        [0, 1]."""
        count, shape = n * self.channels, (n, self.channels, self.side, self.side)
        if self.resident is None:
            return Tensor(fed(shape, np.float32, lambda out: np.copyto(
                out, to_canvas(self.images[draw().ravel()], self.side).reshape(shape))), name="real images")
        indices = fed((count,), np.int32, lambda out: np.copyto(out, draw().ravel(), casting="same_kind"))
        images = canvas(self.resident, indices, (self.side - self.images.shape[1]) // 2)
        return Tensor(images.reshape(shape), name="real images")


class FedPhotos:
    """Photos, uint8 (count, C, side, side), in a GPU's memory, each also mirrored, from which batches are taken."""

    def __init__(self, xp: Any, images: np.ndarray) -> None:
        self.count, self.channels, self.side = images.shape[:3]
        both = np.concatenate([images, images[..., ::-1]])
        # Each colour counts as one image of `canvas`.
        self.resident = xp.asarray(both.reshape(-1, self.side, self.side))

    def batch(self, n: int, draw: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Tensor:
        """Return the photos whose indices (n,), and whether they are mirrored (n,), draw() returns: (n, C, side, side)
        in [0, 1]."""
        def fill(planes: np.ndarray) -> None:
            """Number the colours of the photos drawn."""
            indices, mirrored = draw()
            first = (indices + self.count * mirrored) * self.channels
            planes[...] = (first[:, None] + np.arange(self.channels)).ravel()

        planes = fed((n * self.channels,), np.int32, fill)
        images = canvas(self.resident, planes, 0)
        return Tensor(images.reshape(n, self.channels, self.side, self.side), name="real images")


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


class FedRouteParts:
    """The routes of a batch of n samples that is computed in `parts` parts: FedRoutes of all of it and of each part."""

    def __init__(self, xp: Any, n: int, banks: tuple[int, ...], parts: int) -> None:
        self._whole, self._each = FedRoutes(xp, n, banks, 1), n // parts
        self._parts = [FedRoutes(xp, self._each, banks, 1) for _ in range(parts)] if parts > 1 else []
        self._matrix = np.zeros((n, len(banks)), np.int64)

    def drawn(self, draw: Callable[[], np.ndarray]) -> tuple[Any, list]:
        """Return the routes, whose indices (n, layers) draw() returns: of the batch, and of each part."""
        def replace() -> np.ndarray:
            """Take the next routes."""
            self._matrix[...] = draw()
            return self._matrix

        whole = self._whole.drawn(0, replace)
        rows = [slice(i * self._each, (i + 1) * self._each) for i in range(len(self._parts))]
        parts = [part.drawn(0, lambda of=of: self._matrix[of]) for part, of in zip(self._parts, rows, strict=True)]
        return whole, parts or [whole]


def fed_substrates(n: int, channels: int, side: int, draw: Callable[[], tuple[np.ndarray, np.ndarray]]
                   ) -> tuple[Any, Any]:
    """Return the substrates (n, C, S, S) and masks (n, 1, S, S), float32, that draw() returns."""
    count = n * channels * side * side

    def fill(out: np.ndarray) -> None:
        """Draw both and write them one after the other."""
        target, mask = draw()
        out[:count], out[count:] = target.ravel(), mask.ravel()

    both = fed((count + n * side * side,), np.float32, fill)
    return both[:count].reshape(n, channels, side, side), both[count:].reshape(n, 1, side, side)


def view_variant(views: Views | None) -> tuple | None:
    """Return what decides which kernels the views of a batch take, a hashable: sizes, noise, whether any is blurred."""
    if views is None:
        return None
    return views.size, views.noise, tuple(views.blurred.reshape(-1, views.images).any(axis=1).tolist())


def view_arrays(views: Views | None) -> list[np.ndarray]:
    """List the arrays of a batch's views that change with every step."""
    return [] if views is None else [views.matrices, views.sources, views.blurred, views.contrast, views.seed]


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
