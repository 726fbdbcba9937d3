"""Makes the stored numbers that the tests of VGG16 compare with, by PyTorch and Keras 3 (which tests do not need).

    KERAS_BACKEND=torch python tests/make_vgg16_oracle.py DATA_FOLDER

DATA_FOLDER/vgg16/ holds the weight file and the photographs that tests use when TINYGAN_DATA names it. Written are

    data/vgg16_caltech102_scores.json   the scores of the 24 photographs by torch.nn.functional in float64
    data/small_vgg16.pth, _old.pth      a state_dict of torchvision's layout with small widths, as torch.save writes it
    data/small_vgg16_scores.json        its scores of two images, of 64 and of 96 x 128 pixels
    data/small_keras.weights.h5, _whole.h5    weights and a whole model, with the same widths, as Keras 3 writes them
    data/small_keras_scores.json        Keras' scores of an image of 64 pixels
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from vgg16_tools import HEAD_WIDTHS, WIDTHS, keras_weights, small_weights, some_images

DATA = Path(__file__).with_name("stored")
PLAN = (2, 2, 3, 3, 3)


def torch_scores(images, convolutions, head, side):
    """images: what the first convolution sees; convolutions, head: lists of (weight, bias)."""
    x, layers = images, iter(convolutions)
    for count in PLAN:
        for _ in range(count):
            x = F.relu(F.conv2d(x, *next(layers), padding=1))
        x = F.max_pool2d(x, 2)
    x = F.adaptive_avg_pool2d(x, side).flatten(1)
    for i, (weight, bias) in enumerate(head):
        x = F.linear(x, weight, bias)
        x = F.relu(x) if i < 2 else x
    return x


def real(folder: Path) -> None:
    import h5py
    from PIL import Image

    with h5py.File(folder / "vgg16_caltech102_keras.h5") as file:
        def pair(name):
            return [torch.tensor(file[f"{name}/{name}_{part}_1:0"][()].astype(np.float64)) for part in "Wb"]

        convolutions = [(w.permute(3, 2, 0, 1), b) for w, b in (
            pair(f"block{block}_conv{i}") for block, count in enumerate(PLAN, 1) for i in range(1, count + 1))]
        (w1, b1), (w2, b2), (w3, b3) = (pair(name) for name in ("fc1", "fc2", "predictions"))
    w1 = w1.reshape(7, 7, 512, -1).permute(3, 2, 0, 1).flatten(1)
    scores = {}
    for path in sorted((folder / "photos").glob("*.png")):
        photo = np.asarray(Image.open(path).convert("RGB"), np.float64)
        seen = photo[:, :, ::-1] - np.array([103.939, 116.779, 123.68])  # Keras' "caffe" mode
        out = torch_scores(torch.tensor(seen.transpose(2, 0, 1).copy())[None], convolutions,
                           [(w1, b1), (w2.T, b2), (w3.T, b3)], 7)
        scores[path.stem] = [round(float(v), 6) for v in out[0]]
    (DATA / "vgg16_caltech102_scores.json").write_text(json.dumps(scores).replace("], ", "],\n") + "\n")


def small() -> None:
    state, places = {}, (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    ours = {name: [torch.tensor(p) for p in pair] for name, pair in small_weights(5).items()}
    ours["conv1_1"][0] *= 50  # torchvision's net sees about -2 to 2
    names = [*(f"features.{i}" for i in places), *(f"classifier.{i}" for i in (0, 3, 6))]
    for name, (weight, bias) in zip(names, ours.values(), strict=True):
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    torch.save(state, DATA / "small_vgg16.pth")
    torch.save(state, DATA / "small_vgg16_old.pth", _use_new_zipfile_serialization=False)
    pairs = [[p.double() for p in pair] for pair in ours.values()]
    mean, std = (torch.tensor(v).double().reshape(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    scores = {}
    for height, width in ((64, 64), (96, 128)):
        images = torch.tensor(some_images(1, height, width, dtype=np.float64))
        seen = ((images + 1) / 2 - mean) / std
        scores[f"{height}x{width}"] = torch_scores(seen, pairs[:13], pairs[13:], 2)[0].tolist()
    (DATA / "small_vgg16_scores.json").write_text(json.dumps(scores) + "\n")


def small_keras() -> None:
    import keras

    layers, widths = [keras.Input((64, 64, 3))], iter(WIDTHS)
    for block, count in enumerate(PLAN, 1):
        layers += [keras.layers.Conv2D(next(widths), 3, padding="same", activation="relu", name=f"block{block}_conv{i}")
                   for i in range(1, count + 1)]
        layers.append(keras.layers.MaxPooling2D(2))
    layers.append(keras.layers.Flatten())
    layers += [keras.layers.Dense(width, activation=activation, name=name) for name, width, activation in zip(
        ("fc1", "fc2", "predictions"), HEAD_WIDTHS, ("relu", "relu", None), strict=True)]
    model = keras.Sequential(layers)
    for name, pair in keras_weights(small_weights(6)).items():
        model.get_layer(name).set_weights(pair)
    seen = (some_images(1)[0].transpose(1, 2, 0) + 1) * 127.5
    seen = seen[:, :, ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    scores = model.predict(seen[None].copy(), verbose=0)[0]
    model.save_weights(DATA / "small_keras.weights.h5")
    model.save(DATA / "small_keras_whole.h5")
    (DATA / "small_keras_scores.json").write_text(json.dumps([round(float(v), 7) for v in scores]) + "\n")


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    small()
    small_keras()
    real(Path(sys.argv[1]) / "vgg16")
