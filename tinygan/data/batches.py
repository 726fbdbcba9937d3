"""Batches for a training step: stored digits as float pixels on a canvas, in a shuffled order.

The order is an object of its own because a run that is stopped and resumed must get the same images as one that
never stopped: the batches to come are a function of `Batches.state()` alone.
"""

import copy
from collections.abc import Iterator

import numpy as np

from tinygan.errors import TinyganError, UsageError

SIZES = (28, 32, 64)


def to_canvas(images: np.ndarray, size: int = 32) -> np.ndarray:
    """Convert uint8 digits (N, 28, 28) to float32 (N, 1, size, size) in [0, 1], black 0.

    size 28: as they are. 32: two black pixels on each side, as a network that halves its maps needs. 64: the
    32 canvas made twice as large by bilinear interpolation with pixel centres matched (align_corners=False),
    so that a digit takes the same share of either canvas (our choice). A batch at a time: all of MNIST at 64
    is 1 GB. Raises UsageError for another size, TinyganError for another array.
    """
    if size not in SIZES:
        raise UsageError(f"canvas sizes are {', '.join(map(str, SIZES))}, not {size!r}")
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
        raise TinyganError(f"expected uint8 images of shape (N, 28, 28), got {images.dtype} {images.shape}")
    edge = 0 if size == 28 else 2
    inner = slice(edge, edge + 28)
    canvas = np.zeros((len(images), 1, 28 + 2 * edge, 28 + 2 * edge), np.float32)
    np.divide(images, np.float32(255), out=canvas[:, 0, inner, inner], dtype=np.float32)
    if size == 64:
        canvas = np.ascontiguousarray(_double(_double(canvas).swapaxes(2, 3)).swapaxes(2, 3))
    return canvas


def _double(x: np.ndarray) -> np.ndarray:
    """Double the number of columns. A new pixel's centre lies 1/4 from one old centre and 3/4 from the next one."""
    before = np.concatenate([x[..., :1], x[..., :-1]], axis=-1)
    after = np.concatenate([x[..., 1:], x[..., -1:]], axis=-1)
    pairs = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=-1)
    return pairs.reshape(*x.shape[:-1], 2 * x.shape[-1])


class Batches:
    """An endless iterator over shuffled batches of indices into n images: int64 (batch_size,) each.

    Every epoch is a new permutation of all n, cut into whole batches; the n % batch_size left over sit that
    epoch out, so that every batch has the same size. When n < batch_size, a batch is all n, repeated until it
    is full (and the last repeat cut): the counts of two images differ by one at most.

        order = Batches(len(digits), 64, np.random.default_rng(seed))
        x = to_canvas(digits.images[next(order)])

    rng: the Generator that draws the permutations; only this object draws from it from here on. The rules for what
    is left over are our choice. Raises
    TinyganError for n < 1, UsageError for a batch_size < 1.
    """

    def __init__(self, n: int, batch_size: int, rng: np.random.Generator) -> None:
        if n < 1:
            raise TinyganError("no images to draw batches from")
        if batch_size < 1:
            raise UsageError(f"the batch size must be at least 1, not {batch_size}")
        self.n, self.batch_size, self.rng = int(n), int(batch_size), rng
        self.epoch = 0  # whole epochs before the current one
        self._position = 0  # in self._order, where the next batch starts
        self._order = self._shuffled()

    @property
    def batches_per_epoch(self) -> int:
        """Return the number of whole batches in an epoch, at least 1."""
        return max(1, self.n // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        if self._position + self.batch_size > len(self._order):
            self._order = self._shuffled()
            self._position = 0
            self.epoch += 1
        self._position += self.batch_size
        return self._order[self._position - self.batch_size : self._position].copy()

    def _shuffled(self) -> np.ndarray:
        repeats = -(-self.batch_size // self.n)
        if repeats == 1:
            return self.rng.permutation(self.n)
        return np.concatenate([self.rng.permutation(self.n) for _ in range(repeats)])[: self.batch_size]

    def state(self) -> dict:
        """Return everything that the batches to come depend on, the Generator's state included.

        Plain numbers and dicts, fit for JSON, but for "order": int64 (n,), or (batch_size,) when that is
        more.
        """
        return {
            "n": self.n,
            "batch_size": self.batch_size,
            "epoch": self.epoch,
            "position": self._position,
            "rng": copy.deepcopy(self.rng.bit_generator.state),
            "order": self._order.copy(),
        }

    def set_state(self, state: dict) -> None:
        """Restore a `state`. Raises TinyganError, changing nothing, when it is damaged or of another n."""
        try:
            for key, ours in (("n", self.n), ("batch_size", self.batch_size)):
                if state[key] != ours:
                    raise TinyganError(f"the saved data order has {key} {state[key]}, this run {ours}")
            order = np.array(state["order"])
            epoch, position = int(state["epoch"]), int(state["position"])
            if order.shape != self._order.shape or order.dtype.kind not in "iu":
                raise TinyganError(f"the saved data order has shape {order.shape}, not {self._order.shape}")
            counts = np.bincount(order, minlength=self.n) if order.min() >= 0 else np.zeros(1, int)
            if len(counts) != self.n or counts.max() - counts.min() > 1:
                raise TinyganError("the saved data order is not a permutation of the images")
            if not 0 <= position <= len(order) or epoch < 0:
                raise TinyganError(f"the saved data order has epoch {epoch}, position {position}: impossible")
            self.rng.bit_generator.state = state["rng"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise TinyganError(f"the saved data order is damaged: {error!r}") from None
        self._order, self.epoch, self._position = order.astype(np.int64), epoch, position
