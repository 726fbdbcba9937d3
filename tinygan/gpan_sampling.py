"""Drawing images from a trained GPAN: its generator brought back, and painted on the substrates that are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygan.classes import find_classes
from tinygan.data.idx import shown
from tinygan.data.substrates import CONDITIONS, Substrates, condition, open_substrates
from tinygan.device import Device
from tinygan.engine import Tensor
from tinygan.errors import TinyganError, UsageError
from tinygan.gpan_measure import AT_ONCE, paint
from tinygan.gpan_step import Batch
from tinygan.models.gpan import GPANConfig, GPANGenerator
from tinygan.runfiles import read_config
from tinygan.sampling import load_best, run_folder

LARGE = 256  # pixels from which on images are painted one by one: eight at once are hardly faster


@dataclass(frozen=True)
class Painter:
    """A GPAN's generator, and what a picture needs besides: the sets of wanted classes, and how it sees a substrate."""

    generator: GPANGenerator
    sets: list[tuple[int, ...]]
    class_names: tuple[str, ...]
    sees: str
    flags: Mapping[str, Any]
    device: Device

    def find_set(self, words: str | None) -> tuple[int, ...]:
        """The set of class ids that `words` mean, such as "3" or "zebra,flamingo", in any order; None: the first one.

        Raises UsageError, which lists the sets, for any other.
        """
        if words is None:
            return self.sets[0]
        try:
            ids = find_classes(words.split(","), self.class_names)
        except UsageError as error:
            raise UsageError(f"--wanted {words}: {error}; {self._all_sets()}") from None
        found = [known for known in self.sets if sorted(known) == sorted(ids)]
        if not found:
            raise UsageError(f"--wanted {words}: {self._all_sets()}")
        return found[0]

    def describe(self, wanted: Sequence[int]) -> str:
        """The names of a set's classes."""
        return ", ".join(self.class_names[i] for i in wanted)

    def substrates(self, paths: Sequence[Path] | None = None) -> Substrates:
        """What is painted on: the pictures of `paths`, or those that the run was trained with."""
        source, config = paths or self.flags.get("substrate") or None, self.generator.config
        if source is not None and not (isinstance(source, (list, tuple)) and
                                       all(isinstance(path, (str, Path)) for path in source)):
            raise TinyganError(f"config.json names {source!r} as substrates, which are no paths: give --substrate")
        if not paths and (gone := [path for path in source or () if not Path(path).exists()]):
            raise TinyganError(f"the run was trained on {shown(gone[0])}, which is gone, or not seen from this folder: "
                               "say with --substrate where it is now, or what else to paint on")
        flip = not paths and self.flags.get("substrate_flip") == "yes"  # as the run saw them
        return open_substrates(source, config.size, config.condition_channels, flip=flip)

    def images(self, wanted: Sequence[int], routes: np.ndarray, substrates: Substrates, seed: int
               ) -> Iterator[np.ndarray]:
        """An image for each row of routes (N, stochastic layers), N a multiple of AT_ONCE: (n, C, S, S) float32 in
        [0, 1] on the host, a few at a time. All parts have the same n, so the first images are the same to the last
        bit however many there will be."""
        draw_noise, draw_substrates = (np.random.default_rng([seed, purpose]) for purpose in (1, 2))
        categories = sorted({i for ids in self.sets for i in ids})
        code = np.isin(categories, wanted).astype(np.float32)
        n, put = 1 if self.generator.config.size >= LARGE else AT_ONCE, self.device.put
        for start in range(0, len(routes), n):
            if start % AT_ONCE == 0:
                drawn = [*substrates.next(draw_substrates, AT_ONCE), self.generator.draw_noise(draw_noise, AT_ONCE)]
            target, mask, noise = (array[start % AT_ONCE:][:n] for array in drawn)
            seen = Tensor(put(condition(mask, target, self.sees)))
            images = paint(self.generator, Batch(Tensor(put(target)), Tensor(put(mask)), seen, seen,
                                                 Tensor(put(np.tile(code, (n, 1)))), Tensor(put(noise)),
                                                 routes[start:start + n], tuple(wanted)))
            yield ((images + 1) * 0.5).clip(0, 1)

    def _all_sets(self) -> str:
        return f"this run paints {'; '.join(self.describe(ids) for ids in self.sets)}"


def load_painter(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], device: Device, *,
                 average: bool = True) -> Painter:
    """The painter of a run of train_gpan.py; arrays, meta: its checkpoint, which was read from `path`.

    average: take the moving average of the weights where the run kept one. config.json must lie beside the checkpoint.
    Raises TinyganError in one line where the run is damaged.
    """
    flags = read_config(run_folder(path))["flags"]
    try:
        config = GPANConfig(**meta["config"])
        names, sets = tuple(map(str, meta["classes"])), [tuple(map(int, ids)) for ids in meta["sets"]]
        if not sets or not all(ids and min(ids) >= 0 and max(ids) < len(names) for ids in sets):
            raise ValueError("sets")
        if config.categories != len({i for ids in sets for i in ids}):
            raise ValueError("categories")
    except (KeyError, TypeError, ValueError) as error:
        raise TinyganError(f"{path}: the checkpoint's settings are not understood ({error})") from None
    sees = flags.get("painter_sees")
    if sees not in CONDITIONS:
        raise TinyganError(f"{run_folder(path)}: config.json says the generator sees {sees!r}, which is none of "
                           f"{', '.join(CONDITIONS)}")
    generator = GPANGenerator(config, rng=np.random.default_rng(0))
    return Painter(load_best(generator, arrays, average).to(device.put), sets, names, sees, flags, device)
