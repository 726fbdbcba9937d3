"""Drawing images from a generator, and loading a trained one from its run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygan.app import checkpoint
from tinygan.app.classes import find_classes
from tinygan.app.device import Device, memory_is_full
from tinygan.app.runfiles import read_config
from tinygan.data.files import shown
from tinygan.data.substrates import CONDITIONS, Substrates, condition, open_substrates
from tinygan.engine.tensor import Tensor, no_grad
from tinygan.errors import TinyganError, UsageError
from tinygan.models.gan.nets import GANConfig, Generator
from tinygan.models.gpan.nets import Batch, GPANConfig, GPANGenerator
from tinygan.nn.module import Module

AT_ONCE = 8  # images of a GPAN that are generated at a time
LARGE = 256  # pixels from which on they are generated one by one: eight at once are hardly faster


def generate(generator: Generator, z: np.ndarray, routes: np.ndarray, device: Device, *,
             batch: int = 250) -> np.ndarray:
    """Generate images (N, C, side, side) in [0, 1] on the host from noise (N, latent) and routes (N, layers).

    Where a batch does not fit into memory, smaller ones are tried (`in_batches`).
    """
    return in_batches(len(z), batch, lambda part: generator(Tensor(device.put(z[part])), routes[part]).numpy())


def in_batches(n: int, batch: int, draw: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Join draw(part) for the parts of n images, `batch` at a time; nothing is recorded for a gradient.

    Where a part does not fit into memory, smaller ones are tried: a picture must not end a training that fits.
    """
    pictures, start = [], 0
    with no_grad():
        while start < n:
            try:
                pictures.append(draw(slice(start, start + batch)))
                start += batch
            except (MemoryError, RuntimeError) as error:
                if batch == 1 or not memory_is_full(error):
                    raise
                batch = -(-batch // 4)
    return np.ascontiguousarray(np.concatenate(pictures))


def generate_gpan(generator: GPANGenerator, batch: Batch) -> np.ndarray:
    """Generate a GPAN's images (n, C, S, S) in [-1, 1] on the host, in smaller parts where memory is short."""
    def draw(part: slice) -> np.ndarray:
        """Generate the images of a part."""
        images, _ = generator(batch.g_condition[part], batch.code[part], batch.noise[part], batch.routes[part])
        return images.numpy()

    return in_batches(len(batch.g_condition), len(batch.g_condition), draw)


def as_digits(images: np.ndarray) -> np.ndarray:
    """Cut the 28 x 28 pixels of MNIST from a generator's canvas: (N, C, 32 or 64, ...) -> (N, C, 28, 28).

    A side of 64 is the canvas of 32 twice as large: 2 x 2 blocks are averaged first. Then 2 pixels are cut off
    each side, which undoes the padding that the data got.
    """
    if images.shape[2] == 64:
        n, c, _, _ = images.shape
        images = images.reshape(n, c, 32, 2, 32, 2).mean(axis=(3, 5))
    return images[:, :, 2:30, 2:30] if images.shape[2] == 32 else images


def load_generator(path: str | os.PathLike, device: Device, *, average: bool = True) -> tuple[Generator, dict]:
    """Load the generator of a GAN's run (its folder or checkpoint file) and the checkpoint's header.

    average: take the moving average of the weights where the run kept one: its images are better.
    Raises TinyganError in one line if there is no checkpoint of a GAN there.
    """
    arrays, meta = checkpoint.load(path)
    return restore_generator(path, arrays, meta, device, average=average), meta


def restore_generator(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any],
                      device: Device, *, average: bool = True) -> Generator:
    """Load the same from a checkpoint's arrays and header, which were read from `path`."""
    if meta.get("kind") == "gpan":
        raise TinyganError(f"{path} is a run of train_gpan.py: its report.html has what was measured of it, and "
                           "sample.py draws from it")
    if meta.get("kind") != "gan" or not isinstance(meta.get("config"), dict):
        raise TinyganError(f"{path}: this checkpoint is not one of a GAN made by train_mnist.py or "
                           "train_photos.py")
    try:
        config = GANConfig(**meta["config"])
    except TypeError as error:
        raise TinyganError(f"{path}: the checkpoint's settings are not understood ({error})") from None
    return load_best(Generator(config, rng=np.random.default_rng(0)), arrays, average).to(device.put)


def load_best(generator: Module, arrays: Mapping[str, np.ndarray], average: bool = True) -> Module:
    """Load a generator with the weights of a checkpoint: their moving average, if it is wanted and was kept."""
    part = "average" if average and any(name.startswith("average/") for name in arrays) else "generator"
    generator.load_state_dict(section(arrays, part))
    return generator


def run_folder(path: str | os.PathLike) -> Path:
    """Return the folder of a run that is named by its folder or by its checkpoint."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def section(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the entries `name/...` of a checkpoint, without that prefix."""
    prefix = name + "/"
    return {key[len(prefix):]: value for key, value in arrays.items() if key.startswith(prefix)}


def with_prefix(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Prefix the names with `name/`, the opposite of `section`."""
    return {f"{name}/{key}": value for key, value in arrays.items()}


# ---- a GPAN ----


@dataclass(frozen=True)
class GPANSampler:
    """A GPAN's generator with what it needs to generate images. sets: wanted class ids. condition: the form in which
    the generator takes a substrate, one of data.substrates.CONDITIONS. flags: those of its run."""

    generator: GPANGenerator
    sets: list[tuple[int, ...]]
    class_names: tuple[str, ...]
    condition: str
    flags: Mapping[str, Any]
    device: Device

    def find_set(self, words: str | None) -> tuple[int, ...]:
        """Find the set of class ids that `words` name, such as "3" or "zebra,flamingo", in any order; None: the first.

        Raises UsageError, which lists the sets, for any other.
        """
        if words is None:
            return self.sets[0]
        try:
            ids = find_classes(words.split(","), self.class_names)
        except UsageError as error:
            raise UsageError(f"--wanted {words}: {error}; {self._all_sets()}") from None
        matches = [one for one in self.sets if sorted(one) == sorted(ids)]
        if not matches:
            raise UsageError(f"--wanted {words}: {self._all_sets()}")
        return matches[0]

    def describe(self, wanted: Sequence[int]) -> str:
        """Return the names of a set's classes, with commas."""
        return ", ".join(self.class_names[i] for i in wanted)

    def substrates(self, paths: Sequence[Path] | None = None) -> Substrates:
        """Open the substrates: the pictures of `paths`, or those that the run was trained with."""
        source, config = paths or self.flags.get("substrate") or None, self.generator.config
        if source is not None and not (isinstance(source, (list, tuple)) and
                                       all(isinstance(path, (str, Path)) for path in source)):
            raise TinyganError(f"config.json names {source!r} as substrates, which are no paths: give --substrate")
        if not paths and (gone := [path for path in source or () if not Path(path).exists()]):
            raise TinyganError(f"the run was trained on {shown(gone[0])}, which is gone, or not there "
                               "from this folder: name it, or others, with --substrate")
        flip = not paths and self.flags.get("substrate_flip") == "yes"  # as in the run
        return open_substrates(source, config.size, config.condition_channels, flip=flip)

    def images(self, wanted: Sequence[int], routes: np.ndarray, substrates: Substrates, seed: int
               ) -> Iterator[np.ndarray]:
        """Generate an image for each row of routes (N, stochastic layers), N a multiple of AT_ONCE.

        Yields parts (n, C, S, S) float32 in [0, 1] on the host. All parts have the same n, so the first images are the
        same to the last bit for any N.
        """
        draw_noise, draw_substrates = (np.random.default_rng([seed, purpose]) for purpose in (1, 2))
        categories = sorted({i for ids in self.sets for i in ids})
        code = np.isin(categories, wanted).astype(np.float32)
        n, put = 1 if self.generator.config.size >= LARGE else AT_ONCE, self.device.put
        for start in range(0, len(routes), n):
            if start % AT_ONCE == 0:
                drawn = [*substrates.next(draw_substrates, AT_ONCE), self.generator.draw_noise(draw_noise, AT_ONCE)]
            target, mask, noise = (array[start % AT_ONCE:][:n] for array in drawn)
            conditions = Tensor(put(condition(mask, target, self.condition)))
            images = generate_gpan(self.generator, Batch(Tensor(put(target)), Tensor(put(mask)), conditions, conditions,
                                                 Tensor(put(np.tile(code, (n, 1)))), Tensor(put(noise)),
                                                 routes[start:start + n], tuple(wanted)))
            yield ((images + 1) * 0.5).clip(0, 1)

    def _all_sets(self) -> str:
        """Describe the sets of wanted classes."""
        return f"this run was trained for {'; '.join(self.describe(ids) for ids in self.sets)}"


def load_gpan(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], device: Device, *,
                 average: bool = True) -> GPANSampler:
    """Load the generator of a run of train_gpan.py; arrays, meta: its checkpoint, which was read from `path`.

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
    kind = flags.get("painter_sees")
    if kind not in CONDITIONS:
        raise TinyganError(f"{run_folder(path)}: config.json gives {kind!r} as the generator's condition, which is "
                           f"none of {', '.join(CONDITIONS)}")
    generator = GPANGenerator(config, rng=np.random.default_rng(0))
    return GPANSampler(load_best(generator, arrays, average).to(device.put), sets, names, kind, flags, device)
