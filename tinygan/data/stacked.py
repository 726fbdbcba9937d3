"""Stacked digits: images of three colour channels with a digit in each, a data set of 1,000 modes that can be counted.

Its triples of digits are the test that papers on mode collapse share (Metz et al. 2017, VEEGAN, PacGAN): a classifier
of digits tells which of the 1,000 a generator draws.
"""

import copy
from collections.abc import Iterator

import numpy as np

from tinygan.data.batches import to_canvas
from tinygan.data.mnist import Digits
from tinygan.errors import TinyganError, UsageError

CHANNELS = 3


class StackedDigits:
    """An endless iterator over batches of fresh triples: (batch_size, 3, side, side) float32 canvases in [0, 1].

    Each channel of each image is a digit drawn evenly from all, independently of the others; so no set of triples is
    fixed beforehand, and there are no epochs.

        real = StackedDigits(digits, 64, 32, np.random.default_rng(seed))
        x = next(real)

    side: of the canvas (to_canvas). rng: only this object draws from it from here on. The batches to come are a
    function of `state()` alone. Raises TinyganError where there are no digits, UsageError for a batch_size below 1.
    """

    def __init__(self, digits: Digits, batch_size: int, side: int, rng: np.random.Generator) -> None:
        if not len(digits):
            raise TinyganError("no digits to stack")
        if batch_size < 1:
            raise UsageError(f"the batch size must be at least 1, not {batch_size}")
        self.digits, self.batch_size, self.side, self.rng = digits, int(batch_size), side, rng

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        canvases = to_canvas(self.digits.images[self.indices().ravel()], self.side)
        return canvases.reshape(self.batch_size, CHANNELS, self.side, self.side)

    def indices(self) -> np.ndarray:
        """Draw the digits of the next batch: indices int64 (batch_size, 3) into `digits`."""
        return self.rng.integers(len(self.digits), size=(self.batch_size, CHANNELS))

    def state(self) -> dict:
        """Return everything that the batches to come depend on, in plain numbers and dicts, fit for JSON."""
        return {"stacked": CHANNELS, "n": len(self.digits), "batch_size": self.batch_size,
                "rng": copy.deepcopy(self.rng.bit_generator.state)}

    def set_state(self, state: dict) -> None:
        """Restore a `state`. Raises TinyganError, changing nothing, when it is damaged or of other digits."""
        try:
            for key, ours in (("stacked", CHANNELS), ("n", len(self.digits)), ("batch_size", self.batch_size)):
                if state[key] != ours:
                    raise TinyganError(f"the saved order of stacked digits has {key} {state[key]}, this run {ours}")
            self.rng.bit_generator.state = state["rng"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise TinyganError(f"the saved order of stacked digits is damaged: {error!r}") from None
