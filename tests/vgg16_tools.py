"""What the tests of VGG16 share: a net of small widths, the same net in plain NumPy, and files of other layouts."""

import importlib.util
import sys
from pathlib import Path

import numpy as np

from tinygan.app.vgg16_file import save_vgg16
from tinygan.models.classifiers.vgg16 import BLOCKS, CONVOLUTIONS, HEAD, VGG16

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = (4, 4, 5, 5, 6, 6, 6, 5, 5, 5, 6, 6, 6)  # of the convolutions
HEAD_WIDTHS, SIDE = (7, 6, 5), 2
NAMES = ("a cat", "zebra", "oiseau-mouche", "Übel", "jay")


def converter():
    """weights/convert_vgg16.py as a module, loaded once."""
    if "convert_vgg16" not in sys.modules:
        spec = importlib.util.spec_from_file_location("convert_vgg16", ROOT / "weights" / "convert_vgg16.py")
        sys.modules["convert_vgg16"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["convert_vgg16"])
    return sys.modules["convert_vgg16"]


def small_weights(seed=0, *, widths=WIDTHS, head=HEAD_WIDTHS, side=SIDE, dtype=np.float32):
    """Layer -> (weight, bias), such that signals keep their size from layer to layer and scores differ."""
    rng = np.random.default_rng(seed)
    weights, inputs = {}, 3
    for name, outputs in zip((*CONVOLUTIONS, *HEAD), (*widths, *head), strict=True):
        inputs *= side * side if name == "fc6" else 1
        shape = (outputs, inputs, 3, 3) if name in CONVOLUTIONS else (outputs, inputs)
        scale = np.sqrt(2 / np.prod(shape[1:])) * (0.02 if name == "conv1_1" else 1)  # it sees 0 to 255
        weights[name] = (rng.standard_normal(shape) * scale).astype(dtype), (
            rng.standard_normal(outputs) * 0.1).astype(dtype)
        inputs = outputs
    return weights


def small_net(seed=0, *, dtype=np.float32, names=NAMES, **sizes):
    return VGG16(small_weights(seed, dtype=dtype, **sizes), dtype=dtype, class_names=names,
                 about={"source": "a test", "sha256": "0" * 64, "licence": "none"})


def small_file(path, seed=0, *, storage="float32", **options):
    """A sound weight file of `small_net`."""
    save_vgg16(small_net(seed, **options), path, storage=storage)
    return path


def some_images(count=2, height=64, width=64, *, seed=1, dtype=np.float32):
    """Images (N, 3, H, W) in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, height, width)).astype(dtype)


def plain_scores(images, weights, *, input_range=255.0, mean=(123.68, 116.779, 103.939), std=(1.0, 1.0, 1.0)):
    """The scores (N, classes) by the definition, one sample and one tap at a time, float64; the map must be the
    head's side."""
    scores = []
    for image in np.asarray(images, np.float64):
        x = (image + 1) / 2 * input_range
        x = (x - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
        for block, count in enumerate(BLOCKS, 1):
            for i in range(1, count + 1):
                w, b = (p.astype(np.float64) for p in weights[f"conv{block}_{i}"])
                height, width = x.shape[1:]
                padded = np.zeros((len(x), height + 2, width + 2))
                padded[:, 1:-1, 1:-1] = x
                x = sum(np.tensordot(w[:, :, u, v], padded[:, u:u + height, v:v + width], 1)
                        for u in range(3) for v in range(3))
                x = np.maximum(x + b[:, None, None], 0)
            x = np.maximum(np.maximum(x[:, ::2, ::2], x[:, 1::2, ::2]), np.maximum(x[:, ::2, 1::2], x[:, 1::2, 1::2]))
        x = x.reshape(-1)
        for name in HEAD:
            w, b = (p.astype(np.float64) for p in weights[name])
            x = w @ x + b
            x = np.maximum(x, 0) if name != "fc8" else x
        scores.append(x)
    return np.array(scores)


def keras_weights(weights):
    """Keras' layer name -> (kernel, bias) in Keras' layout: kernels (row, column, in, out) for BGR images, fc1 over the
    map flattened in the order (row, column, channel)."""
    found = {}
    for name, (w, b) in weights.items():
        if name in CONVOLUTIONS:
            kernel = np.empty((3, 3, *w.shape[1::-1]), w.dtype)
            for o in range(w.shape[0]):
                for i in range(w.shape[1]):
                    kernel[:, :, 2 - i if name == "conv1_1" else i, o] = w[o, i]
            found[f"block{name[4]}_conv{name[6]}"] = kernel, b
        elif name == "fc6":
            channels = len(weights["conv5_3"][1])
            side = round((w.shape[1] / channels) ** 0.5)
            kernel = np.empty(w.shape[::-1], w.dtype)
            for channel in range(channels):
                for place in range(side * side):
                    kernel[place * channels + channel] = w[:, channel * side * side + place]
            found["fc1"] = kernel, b
        else:
            found[{"fc7": "fc2", "fc8": "predictions"}[name]] = w.T.copy(), b
    return found


KERAS_LAYOUTS = {  # (weight, bias) of layer number i, called `name`
    "keras 1": ("{name}/{name}_W_1:0", "{name}/{name}_b_1:0"),
    "keras 1, first session": ("{name}/{name}_W:0", "{name}/{name}_b:0"),
    "keras 2": ("{name}/{name}/kernel:0", "{name}/{name}/bias:0"),
    "keras 2, short": ("{name}/kernel:0", "{name}/bias:0"),
    "whole model": ("model_weights/{name}/{name}/kernel:0", "model_weights/{name}/{name}/bias:0"),
    "whole model, sequential": ("model_weights/{name}/sequential/{name}/kernel",
                                "model_weights/{name}/sequential/{name}/bias"),
    "whole model, a net inside": ("model_weights/vgg16/{name}/kernel:0", "model_weights/vgg16/{name}/bias:0"),
    "keras 3": ("layers/{name}/vars/0", "layers/{name}/vars/1"),
    "keras 3, counted": ("layers/{counted}/vars/0", "layers/{counted}/vars/1"),
    "keras 3, functional": ("_layer_checkpoint_dependencies/{name}/vars/0",
                            "_layer_checkpoint_dependencies/{name}/vars/1"),
}


def write_keras(path, weights, layout="keras 1"):
    """A file as Keras writes it, with the groups of layers that have no weights."""
    import h5py

    counts = {"conv2d": 0, "dense": 0}
    with h5py.File(path, "w") as file:
        if layout.startswith("keras 2"):
            file.attrs["backend"] = np.bytes_(b"tensorflow")
        if "model" in layout:
            file.create_dataset("optimizer_weights/training/iterations:0", data=np.int64(3))
        if layout.startswith("keras 3"):
            file.create_group("vars")
            file.create_group("layers/input_layer/vars") if "functional" not in layout else None
        for name, parts in keras_weights(weights).items():
            kind = "conv2d" if "conv" in name else "dense"
            counted = kind + (f"_{counts[kind]}" if counts[kind] else "")
            counts[kind] += 1
            for full, part in zip(KERAS_LAYOUTS[layout], parts, strict=True):
                file.create_dataset(full.format(name=name, counted=counted), data=part)
        if layout.startswith(("keras 1", "keras 2")):
            file.create_group("block1_pool")
    return path
