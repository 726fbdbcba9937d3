"""Drawing images from a generator, and bringing a trained one back from its run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinygan import checkpoint
from tinygan.device import Device, memory_is_full
from tinygan.engine import Tensor, no_grad
from tinygan.errors import TinyganError
from tinygan.kernels import for_array
from tinygan.models.adapted_gan import GANConfig, Generator
from tinygan.module import Module


def generate(generator: Generator, z: np.ndarray, routes: np.ndarray, device: Device, *,
             batch: int = 250) -> np.ndarray:
    """Images (N, C, side, side) in [0, 1] on the host, for noise (N, latent) and routes (N, layers), in batches.

    Where a batch does not fit into memory, smaller ones are tried (`in_batches`).
    """
    return in_batches(len(z), batch, lambda part: generator(Tensor(device.put(z[part])), routes[part]).numpy())


def in_batches(n: int, batch: int, draw: Callable[[slice], np.ndarray]) -> np.ndarray:
    """draw(part) for the parts of n images, `batch` at a time, joined; nothing is recorded for a gradient.

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


def counter_normal(device: Device, seed: int, stream: int, shape: tuple[int, ...]) -> Any:
    """Standard normal noise of `shape`, float32, on the device, as a function of seed and stream alone.

    The same bits on every device (kernels/counter.py). A GPU makes it itself, so that nothing is sent there.
    """
    kernels = for_array(device.xp.empty(0, np.float32))
    return kernels.counter_normal(seed, stream, int(np.prod(shape))).reshape(shape)


def as_digits(images: np.ndarray) -> np.ndarray:
    """The 28 x 28 pixels of MNIST from a generator's canvas: (N, C, 32 or 64, ...) -> (N, C, 28, 28).

    A side of 64 is the canvas of 32 twice as large: 2 x 2 blocks are averaged first. Then 2 pixels are cut off
    each side, which undoes the padding that the data got.
    """
    if images.shape[2] == 64:
        n, c, _, _ = images.shape
        images = images.reshape(n, c, 32, 2, 32, 2).mean(axis=(3, 5))
    return images[:, :, 2:30, 2:30] if images.shape[2] == 32 else images


def load_generator(path: str | os.PathLike, device: Device, *, average: bool = True) -> tuple[Generator, dict]:
    """The generator of a run of train_mnist.py (its folder or checkpoint file) and the checkpoint's header.

    average: take the moving average of the weights where the run kept one: its images are better.
    Raises TinyganError in one line if there is no checkpoint of a GAN there.
    """
    arrays, meta = checkpoint.load(path)
    return restore_generator(path, arrays, meta, device, average=average), meta


def restore_generator(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any],
                      device: Device, *, average: bool = True) -> Generator:
    """The same from a checkpoint's arrays and header, which were read from `path`."""
    if meta.get("kind") == "gpan":
        raise TinyganError(f"{path} is a run of train_gpan.py: its report.html has what was measured of it, and "
                           "sample.py draws from it")
    if meta.get("kind") != "gan" or not isinstance(meta.get("config"), dict):
        raise TinyganError(f"{path}: this checkpoint is not one of a GAN made by train_mnist.py")
    try:
        config = GANConfig(**meta["config"])
    except TypeError as error:
        raise TinyganError(f"{path}: the checkpoint's settings are not understood ({error})") from None
    return load_best(Generator(config, rng=np.random.default_rng(0)), arrays, average).to(device.put)


def load_best(generator: Module, arrays: Mapping[str, np.ndarray], average: bool = True) -> Module:
    """Fill a generator with the weights of a checkpoint: their moving average, if it is wanted and was kept."""
    part = "average" if average and any(name.startswith("average/") for name in arrays) else "generator"
    generator.load_state_dict(section(arrays, part))
    return generator


def run_folder(path: str | os.PathLike) -> Path:
    """The folder of a run that is named by its folder or by its checkpoint."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def section(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The entries `name/...` of a checkpoint, without that prefix."""
    prefix = name + "/"
    return {key[len(prefix):]: value for key, value in arrays.items() if key.startswith(prefix)}


def with_prefix(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The opposite of `section`."""
    return {f"{name}/{key}": value for key, value in arrays.items()}
