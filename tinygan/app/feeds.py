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
    """The routes of n samples through layers with these banks, drawn anew for every step in the same arrays."""

    def __init__(self, xp: Any, n: int, banks: tuple[int, ...]) -> None:
        self.columns = routes_of(np.zeros((n, len(banks)), np.int64), banks, n)
        live = [(route.indices, route.used, route.bank) for route in self.columns if route is not None]
        self._plans = LivePlans(xp, live) if live else None

    def drawn(self, draw: Callable[[], np.ndarray]) -> tuple[Route | None, ...] | None:
        """Return the routes, whose indices (n, layers) draw() returns; None where every bank is 1."""
        def replace() -> None:
            """Take the next routes."""
            matrix = draw()
            for layer, route in enumerate(self.columns):
                if route is not None:
                    route.replace(matrix[:, layer])

        if self._plans is None:
            each_step(replace)
            return None
        self._plans.make(replace)
        return self.columns


class FedRouteParts:
    """The routes of a batch of n samples that is computed in `parts` parts: FedRoutes of all of it and of each part."""

    def __init__(self, xp: Any, n: int, banks: tuple[int, ...], parts: int) -> None:
        self._whole, self._each = FedRoutes(xp, n, banks), n // parts
        self._parts = [FedRoutes(xp, self._each, banks) for _ in range(parts)] if parts > 1 else []
        self._matrix = np.zeros((n, len(banks)), np.int64)

    def drawn(self, draw: Callable[[], np.ndarray]) -> tuple[Any, list]:
        """Return the routes, whose indices (n, layers) draw() returns: of the batch, and of each part."""
        def replace() -> np.ndarray:
            """Take the next routes."""
            self._matrix[...] = draw()
            return self._matrix

        whole = self._whole.drawn(replace)
        rows = [slice(i * self._each, (i + 1) * self._each) for i in range(len(self._parts))]
        parts = [part.drawn(lambda of=of: self._matrix[of]) for part, of in zip(self._parts, rows, strict=True)]
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


def fed_noise(seed: int | None, shape: tuple[int, ...], draw: Callable[[], Any]) -> Tensor:
    """Return standard normal noise, float32: draw() is the number of a stream of `seed`; None: draw() is the noise."""
    if seed is None:
        return Tensor(fed(shape, np.float32, lambda out: np.copyto(out, draw())), name="noise")
    return Tensor(normal_of_step(seed, draw, int(np.prod(shape))).reshape(shape), name="noise")
