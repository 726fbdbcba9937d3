"""Routed products on a GPU: a batch sorted by filter set, and products of each set's samples with its filters.

The idea: grids and arguments depend on shapes alone. How many samples a set has is read on the device, from the plan of
a batch's routes, so that neither another launch nor another argument is needed whatever the routes are.

A plan is made on the host and uploaded, or, by `plan_all`, on the device from routes that lie there.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygan.kernels.arrays import xp_of
from tinygan.kernels.gpu.feed import fed, follow, held, lasting
from tinygan.kernels.gpu.launch import blocks_for, get_tf32, launch

TALL, WIDE = 128, 64  # rows and columns of a result that a block makes; kernels.cu says the same
BUSY = 264  # blocks that keep a GPU busy: two for each of an H100's 132 processors
SHORTEST = 128  # products added up by a block at least, where a sum is cut into parts
_KEPT_PLANS = 64  # a step uses the same routes forward, back to the input and back to the weights


class Plan(NamedTuple):
    """The routes of a batch of N through a bank of K filter sets, on the device.

    order (N,) int32: the samples sorted by set, in slots. starts (K + 1,) int32: the slot where each set begins.
    used (K,) uint8: whether a sample has the set.
    """

    order: Any
    starts: Any
    used: Any


class Columns(NamedTuple):
    """The matrix of columns: which slots it holds, first to before last of `samples`, with `pixels` columns each.

    matrix: (rows, (last - first) * pixels) in slot order; is_map: (rows, samples * pixels), a map in the batch's order.
    """

    matrix: Any
    samples: int
    pixels: int
    first: int
    last: int
    is_map: bool

    @property
    def is_whole(self) -> bool:
        """Tell whether these are the columns of the whole batch."""
        return self.last - self.first == self.samples

    def numbers(self) -> tuple[int, ...]:
        """Return the arguments of the kernels that describe it."""
        return self.samples, self.pixels, self.first, self.last, int(self.is_map)


# Plans that a kernel fills on the device, by the id of the host array that stands for their routes: the values of such
# an array mean nothing. Whoever registers a plan keeps both arrays alive and takes it out again.
RESIDENT: dict[int, Plan] = {}


def plan_of(xp: Any, device_id: int, routes: np.ndarray, bank: int) -> Plan:
    """Return the plan of a batch's routes, host integers (N,) in [0, bank): the resident one, or an uploaded one.

    In a recorded step an uploaded plan is a constant: every replay takes these routes.
    """
    resident = RESIDENT.get(id(routes))
    return resident or held(_uploaded(xp, device_id, np.asarray(routes, np.int32).tobytes(), bank))


@functools.lru_cache(_KEPT_PLANS)
def _uploaded(xp: Any, device_id: int, routes: bytes, bank: int) -> Plan:
    """Sort on the host and send all three arrays at once. A plan is kept for each device."""
    routes = np.frombuffer(routes, np.int32)
    counts = np.bincount(routes, minlength=bank)
    used = np.zeros(-(-bank // 4) * 4, np.uint8)
    used[:bank] = counts > 0
    parts = np.argsort(routes, kind="stable"), np.cumsum([0, *counts]), used.view(np.int32)
    with lasting(xp):
        sent = xp.asarray(np.concatenate(parts, dtype=np.int32, casting="same_kind"))
    first, last = len(routes), len(routes) + bank + 1
    return Plan(sent[:first], sent[first:last], sent[last:].view(np.uint8)[:bank])


def plan_all(routes: Any, orders: Any, starts: Any, used: Any) -> None:
    """Make the plans of L layers on the device, in one launch.

    routes: (L, N) int32. orders (L, N) int32, starts (L, K + 1) int32 and used (L, K) uint8 are written; K is that of
    the largest bank, and the first sets of a row are the plan of a smaller one.
    """
    layers, samples = routes.shape
    launch("plan_routes", blocks_for(starts.size), routes, orders, starts, used, layers, samples, used.shape[1])


def product(filters: Any, small: Any, columns: Columns, plan: Plan, *, turned: bool) -> None:
    """Compute small (A, N, h, w) = filters @ columns, each slot by the filters of its set, for the slots of `columns`.

    filters: (K, A, D). turned: columns = filters.T @ small instead.
    """
    bank, a, d = filters.shape
    source, target = (small, columns.matrix) if turned else (columns.matrix, small)
    rows, depth = (d, a) if turned else (a, d)
    slots = columns.last - columns.first
    tiles = -(-rows // TALL) * max(min(bank, slots), slots * columns.pixels // WIDE)
    parts = _parts(tiles, depth) if columns.is_whole else 1
    out = target if parts == 1 else _side_by_side(target, parts)
    most = -(-rows // TALL) * (bank + slots * columns.pixels // WIDE) * parts
    launch(_name("routed_product"), most, filters, source, out, plan.order, plan.starts, bank, a, d,
           *columns.numbers(), int(turned), parts)
    _add_up(out, target, parts)


def gradient(grad: Any, small: Any, columns: Columns, plan: Plan, *, add: bool) -> None:
    """Compute grad (K, A, D) = small @ columns.T over each set's slots; zero for a set without a slot.

    add: add to what is there, for all chunks of a batch but the first.
    """
    bank, a, d = grad.shape
    tiles = bank * -(-a // TALL) * -(-d // WIDE)
    parts = _parts(tiles, columns.samples * columns.pixels // bank) if columns.is_whole else 1
    out = grad if parts == 1 else _side_by_side(grad, parts)
    launch(_name("routed_gradient"), tiles * parts, small, columns.matrix, out, plan.order, plan.starts, bank, a, d,
           *columns.numbers(), int(add), parts)
    _add_up(out, grad, parts)


def _name(kernel: str) -> str:
    return kernel + "_tf32" * get_tf32()


def _parts(tiles: int, depth: int) -> int:
    """Count the parts that a sum over `depth` is cut into, so that few tiles keep a GPU busy."""
    return max(1, min(BUSY // tiles, depth // SHORTEST))


def _side_by_side(target: Any, parts: int) -> Any:
    """Allocate `parts` arrays like `target` in one."""
    return xp_of(target).empty((parts, *target.shape), np.float32)


def _add_up(parts: Any, target: Any, count: int) -> None:
    if count > 1:
        launch("add_parts", blocks_for(target.size), parts, target, count, target.size)


class LivePlans:
    """Plans of routes that change from step to step, made on the device; the host's arrays stay the same ones.

    layers: (indices (N,) int64, used (K,) bool, K) of each. The plans serve wherever `indices` are given as routes.
    """

    def __init__(self, xp: Any, layers: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> None:
        self._layers, self._shape = layers, (len(layers), len(layers[0][0]))
        widest = max(bank for _, _, bank in layers)
        self._orders = xp.empty(self._shape, np.int32)
        self._starts = xp.empty((len(layers), widest + 1), np.int32)
        self._used = xp.empty((len(layers), widest), np.uint8)
        for row, (indices, _, bank) in enumerate(layers):
            RESIDENT[id(indices)] = Plan(self._orders[row], self._starts[row, :bank + 1], self._used[row, :bank])
            weakref.finalize(self, RESIDENT.pop, id(indices), None)

    def make(self, draw: Callable[[], None]) -> None:
        """Plan the routes that draw() writes into the host's arrays: now, or before each replay of a recorded step."""
        def fill(out: np.ndarray) -> None:
            """Draw the routes and write them."""
            draw()
            for row, (indices, _, _) in zip(out, self._layers, strict=True):
                row[...] = indices

        follow(*(used for _, used, _ in self._layers))
        plan_all(fed(self._shape, np.int32, fill), self._orders, self._starts, self._used)
