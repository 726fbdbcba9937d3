"""Write the weight file of a VGG16, which models/classifiers/vgg16.py reads (weights/convert_vgg16.py, lesson 11)."""

from __future__ import annotations

import os

import numpy as np

from tinygan.data import answer_key
from tinygan.data.hdf5 import write_hdf5
from tinygan.errors import TinyganError, UsageError
from tinygan.models.classifiers.vgg16 import CONVOLUTIONS, FORMAT, KINDS, LAYOUT, STEP, VERSION, VGG16, answers


def save_vgg16(net: VGG16, path: str | os.PathLike, *, storage: str = "float32") -> None:
    """Write a VGG16 and its answer key to an HDF5 file, whole or not at all; round `net` to what is written.

    storage: "float32" or "float16" (half the size). Raises UsageError for another, TinyganError where a weight is not
    finite (float16 reaches to 65504) or the file cannot be written.
    """
    if storage not in KINDS:
        raise UsageError(f"weights are stored as {' or '.join(KINDS)}, not {storage}")
    arrays: dict[str, np.ndarray] = {}
    for name, layer in net.layers.items():
        for part, p in (("weight", layer.weight), ("bias", layer.bias)):
            with np.errstate(over="ignore"):  # what overflows is caught below
                stored = p.numpy().astype(storage, copy=False)
            if not np.isfinite(stored).all():
                raise TinyganError(f"{name}/{part} holds a number that {storage} cannot; nothing was written")
            if stored.dtype != p.dtype:
                p.data[...] = p.xp.asarray(stored, dtype=p.dtype)
                p.version += 1
            arrays[f"{name}/{part}"] = stored
    if net.has_names:
        arrays["class_names"] = np.frombuffer("\n".join(net.class_names).encode("utf-8"), np.uint8)
    image, pattern = probes(net)
    pool5, scores = answers(net, image, pattern)
    key = {"image": image, "pool5": pool5, "map": pattern, "scores": scores}
    arrays |= {f"{answer_key.GROUP}/{name}": array for name, array in key.items()}
    texts = {key: str(net.about.get(key, "not stated")) for key in ("source", "sha256", "licence")}
    write_hdf5(path, arrays, {
        "format": FORMAT, "version": VERSION, "layout": LAYOUT, "channel_order": "RGB", "input_range": net.input_range,
        "mean": np.array(net.mean), "std": np.array(net.std), "classes": net.classes, "head_side": net.head_side,
        "storage": storage, "named": int(net.has_names),
        **{key: np.bytes_(text.encode("utf-8")) for key, text in texts.items()}})


def probes(net: VGG16) -> tuple[np.ndarray, np.ndarray]:
    """Return (an image uint8 (32, 32, 3) RGB, a map uint8 (channels, side, side) for the head), both from a formula.

    The image gives pool5 one place, which is fast. The head needs a map of its own, in which neighbouring channels and
    places differ and none is zero, or a permutation of its inputs would not show.
    """
    y, x, c = np.ogrid[:STEP, :STEP, :3]
    image = (37 * y + 91 * x + 53 * c + x * y) % 256
    channels, side = len(net.layers[CONVOLUTIONS[-1]].bias), net.head_side
    c, y, x = np.ogrid[:channels, :side, :side]
    pattern = 1 + (7 * c + 13 * y + 5 * x + c * y + 3 * c * x) % 23
    return image.astype(np.uint8), pattern.astype(np.uint8)
