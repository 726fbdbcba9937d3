"""weights/convert_vgg16.py: every layout gives the same scores, every bad source one line, downloads go on."""

import gzip
import hashlib
import json
import os
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from vgg16_tools import (
    KERAS_LAYOUTS,
    NAMES,
    converter,
    keras_weights,
    plain_scores,
    small_file,
    small_net,
    small_weights,
    some_images,
    write_keras,
)

from tinygan import Tensor, no_grad
from tinygan.app import cli
from tinygan.data import download
from tinygan.errors import TinyganError, UsageError
from tinygan.models.classifiers.vgg16 import load_vgg16
from weights import vgg16_layouts

h5py = pytest.importorskip("h5py")

STORED = Path(__file__).parents[1] / "stored"


def scores_of(net, images):
    with no_grad():
        return net.scores(Tensor(images)).numpy()


def convert(source, out, *words):
    assert converter().main([str(source), "--out", str(out), *words]) == 0
    return load_vgg16(out)


def refusal(path) -> str:
    with pytest.raises(TinyganError) as caught:
        converter().read_source(Path(path))
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400 + len(str(path)) and Path(path).name in line
    return line


# ---- every layout gives the same net -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", KERAS_LAYOUTS)
def test_keras_files_of_every_layout(tmp_path, layout):
    weights, images = small_weights(3), some_images()
    net = convert(write_keras(tmp_path / "keras.h5", weights, layout), tmp_path / "net.h5")
    for name, (weight, bias) in weights.items():
        assert net.layers[name].weight.data.tobytes() == weight.tobytes(), name
        assert net.layers[name].bias.data.tobytes() == bias.tobytes(), name
    np.testing.assert_allclose(scores_of(net, images), plain_scores(images, weights), rtol=1e-3, atol=1e-4)
    assert net.about["source"] == "keras.h5" and net.about["licence"] == "not stated by the source"
    assert net.about["sha256"] == hashlib.sha256((tmp_path / "keras.h5").read_bytes()).hexdigest()


def test_keras_conventions_by_their_definition(tmp_path):
    """What Keras computes from its own file: BGR, channels last, pool5 flattened as (row, column, channel)."""
    weights, images = small_weights(4, dtype=np.float64), some_images(1, dtype=np.float64)
    path = write_keras(tmp_path / "keras.h5", {name: tuple(p.astype(np.float32) for p in pair)
                                               for name, pair in weights.items()})
    with h5py.File(path) as file:
        def pair(name):
            return (file[f"{name}/{name}_{part}_1:0"][()].astype(np.float64) for part in "Wb")

        x = ((images[0] + 1) * 127.5).transpose(1, 2, 0)[:, :, ::-1] - np.array([103.939, 116.779, 123.68])
        for block, count in enumerate((2, 2, 3, 3, 3), 1):
            for i in range(1, count + 1):
                kernel, bias = pair(f"block{block}_conv{i}")
                height, width, _ = x.shape
                padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
                x = np.maximum(bias + sum(padded[u:u + height, v:v + width] @ kernel[u, v]
                                          for u in range(3) for v in range(3)), 0)
            x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))
        x = x.reshape(-1)
        for name in ("fc1", "fc2", "predictions"):
            kernel, bias = pair(name)
            x = np.maximum(x @ kernel + bias, -np.inf if name == "predictions" else 0)
    found = scores_of(convert(path, tmp_path / "net.h5"), images.astype(np.float32))[0]
    np.testing.assert_allclose(found, x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("file", ["small_keras.weights.h5", "small_keras_whole.h5"])
def test_files_of_keras_3_give_its_scores(tmp_path, file):
    """Written by Keras itself (make_vgg16_oracle.py)."""
    net, expected = convert(STORED / file, tmp_path / "net.h5"), json.loads(
        (STORED / "small_keras_scores.json").read_text())
    np.testing.assert_allclose(scores_of(net, some_images(1))[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", ["small_vgg16.pth", "small_vgg16_old.pth"])
def test_torchvision_files_give_pytorchs_scores(tmp_path, file):
    net = convert(STORED / file, tmp_path / "net.h5")
    assert (net.input_range, net.mean, net.std) == (1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for size, expected in json.loads((STORED / "small_vgg16_scores.json").read_text()).items():
        images = some_images(1, *map(int, size.split("x")), dtype=np.float64).astype(np.float32)
        np.testing.assert_allclose(scores_of(net, images)[0], expected, rtol=1e-4, atol=1e-5)


def test_files_of_our_own_change_their_dtype_names_and_licence(tmp_path):
    source, images = small_file(tmp_path / "net.h5"), some_images()
    right = scores_of(load_vgg16(source), images)
    half = convert(source, tmp_path / "half.h5", "--dtype", "float16")
    assert half.class_names == NAMES and half.about == {**small_net().about, "storage": "float16"}
    assert 0 < np.abs(scores_of(half, images) - right).max() < 5e-3 * np.abs(right).max()
    (tmp_path / "names.txt").write_text("\n".join("abcde"))
    again = convert(tmp_path / "half.h5", tmp_path / "again.h5", "--classes", str(tmp_path / "names.txt"),
                    "--licence", "CC0")
    assert again.class_names == tuple("abcde") and again.about["licence"] == "CC0"
    assert again.about["storage"] == "float16"  # as it was
    assert np.array_equal(scores_of(again, images), scores_of(half, images))
    convert(source, tmp_path / "copy.h5")
    assert (tmp_path / "copy.h5").read_bytes() == source.read_bytes()


def test_keras_half_precision(tmp_path):
    halves = {name: tuple(p.astype(np.float16) for p in pair) for name, pair in small_weights().items()}
    net = convert(write_keras(tmp_path / "keras.h5", halves), tmp_path / "net.h5", "--dtype", "float16")
    assert net.layers["fc6"].weight.dtype == np.float32
    assert np.array_equal(net.layers["fc6"].weight.data, halves["fc6"][0].astype(np.float32))


# ---- nets that somebody fine-tuned -------------------------------------------------------------------------------


def write_own(path, weights, *, root="", inside="", names=("dense", "dense_1", "dense_2"), config=None, extra=(),
              **options):
    """A VGG16 without its top and three Dense layers more, as Keras writes it; extra: (name, shape) of more arrays."""
    keras = keras_weights(weights)
    with h5py.File(path, "w") as file:
        for name, pair in keras.items():
            head = name in ("fc1", "fc2", "predictions")
            called = names[("fc1", "fc2", "predictions").index(name)] if head else name
            group = file.require_group("/".join(filter(None, (root, "" if head else inside, called))))
            for part, array in zip(("kernel:0", "bias:0"), pair, strict=True):
                group.create_dataset(f"{called}/{part}", data=array, **options)
        for full, shape in extra:
            file.create_dataset("/".join(filter(None, (root, full))), data=np.ones(shape, np.float32))
        if config is not None:
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "s", "layers": [
                {"class_name": kind, "config": {"name": name, "activation": act}} for kind, name, act in config]}})
    return path


@pytest.mark.parametrize("form", [
    {}, {"root": "model_weights", "inside": "vgg16"}, {"names": ("dense_3", "dense_4", "dense_5")},
    {"names": ("dense_9", "dense_10", "dense_11")}, {"names": ("hidden", "out", "bottle")},
    {"root": "model_weights", "inside": "vgg16", "names": ("fc1", "fc2", "predictions"), "config": [
        ("Flatten", "flatten", None), ("Dense", "fc1", "relu"), ("Dense", "predictions", "softmax")]},
    {"extra": [("dropout/seed_generator/vars/0", (2,)), ("random_flip/StateVar:0", (3,))]},
])
def test_heads_of_ones_own(tmp_path, form):
    """Own names, own numbers, nested nets: three Dense layers follow each other in one way."""
    weights, images = small_weights(6), some_images()
    net = convert(write_own(tmp_path / "own.h5", weights, **form), tmp_path / "net.h5")
    np.testing.assert_allclose(scores_of(net, images), plain_scores(images, weights), rtol=1e-3, atol=1e-4)
    assert net.side == 64


@pytest.mark.parametrize("words, side", [([], 224), (["--side", "64"], 64), (["--side", "32"], 32)])
def test_a_head_over_the_mean_of_each_channel(tmp_path, words, side, capsys):
    """What GlobalAveragePooling2D computes, in images of another size, too."""
    weights, images = small_weights(7, side=1), some_images(1, side, side)
    net = convert(write_own(tmp_path / "own.h5", weights), tmp_path / "net.h5", *words)
    assert net.side == side and f"GlobalAveragePooling) of images of {side} pixels" in capsys.readouterr().out
    with no_grad():
        means = net.features(Tensor(images)).numpy().mean(axis=(2, 3)).astype(np.float64)
    for name in ("fc6", "fc7", "fc8"):
        means = np.maximum(means @ weights[name][0].T + weights[name][1], -np.inf if name == "fc8" else 0)
    np.testing.assert_allclose(scores_of(net, images), means, rtol=1e-3, atol=1e-4)


def test_a_model_that_says_it_flattens_one_place_is_taken_at_its_word(tmp_path):
    weights = small_weights(7, side=1)
    path = write_own(tmp_path / "own.h5", weights, root="model_weights", config=[("Flatten", "flatten", None)])
    assert np.array_equal(convert(path, tmp_path / "net.h5").layers["fc6"].weight.data, weights["fc6"][0])
    with pytest.raises(UsageError, match="--side 64: the shapes in this file give 32"):
        converter().read_source(path, side=64)
    with pytest.raises(UsageError, match="multiple of 32"):
        convert(path, tmp_path / "net2.h5", "--side", "65")
    with pytest.raises(UsageError, match="for Keras' files"):
        converter().read_source(STORED / "small_vgg16.pth", side=64)


@pytest.mark.parametrize("form, words", [
    ({"extra": [("batch_normalization/gamma:0", (6,)), ("batch_normalization/beta:0", (6,))]},
     "it has batch_normalization (6 and 6), dense (24x7 and 7), dense_1 (7x6 and 6), dense_2 (6x5 and 5), and a VGG16"),
    ({"config": [("Dense", "dense", "relu"), ("Dense", "dense_1", "tanh")]},
     "its layer dense_1 has the activation 'tanh'"),
    ({"config": [("GlobalMaxPooling2D", "g", None)], "side": 1}, "GlobalMaxPooling2D"),
])
def test_heads_of_other_forms_are_named(tmp_path, form, words):
    form = dict(form)
    path = write_own(tmp_path / "own.h5", small_weights(6, side=form.pop("side", 2)), **form)
    assert words in refusal(path) and "notop" not in refusal(path)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_layers_than_three_are_named(tmp_path, count):
    path = write_own(tmp_path / "own.h5", small_weights(6))
    with h5py.File(path, "a") as file:
        for name in ("dense", "dense_1")[:3 - count]:
            del file[name]
    assert f"it has {'dense_1 (7x6 and 6), ' * (count == 2)}dense_2 (6x5 and 5), and a VGG16 has three" in refusal(path)


@pytest.mark.parametrize("options", [
    {"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": True}, {"chunks": True},
    {"fletcher32": True}, {"compression": 9, "chunks": "odd"}, {"dtype": np.float64},
    {"dtype": ">f8", "compression": "gzip", "shuffle": True},
])
def test_layers_that_are_compressed_in_chunks_or_of_double_precision(tmp_path, options):
    weights = small_weights(6)
    if options.get("chunks") == "odd":  # chunks that reach beyond the edge
        path = write_own(tmp_path / "own.h5", weights)
        with h5py.File(path, "a") as file:
            for name in ("block2_conv1/block2_conv1/kernel:0", "dense/dense/kernel:0"):
                values = file[name][()]
                del file[name]
                file.create_dataset(name, data=values, compression=9, chunks=tuple(max(1, n - 1) for n in values.shape))
    else:
        path = write_own(tmp_path / "own.h5", weights, **options)
    net = convert(path, tmp_path / "net.h5")
    for name, (weight, bias) in weights.items():
        assert net.layers[name].weight.data.tobytes() == weight.tobytes(), name
        assert net.layers[name].bias.data.tobytes() == bias.tobytes(), name


def test_a_double_beyond_single_precision_is_refused(tmp_path):
    path = write_own(tmp_path / "own.h5", {name: tuple(p.astype(np.float64) for p in pair)
                                           for name, pair in small_weights(6).items()})
    with h5py.File(path, "a") as file:
        file["dense/dense/bias:0"][0] = 1e300
    with pytest.raises(TinyganError, match="fc6/bias holds a number that float32 cannot"):
        converter().main([str(path), "--out", str(tmp_path / "net.h5")])


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "model.module.", "_orig_mod."])
def test_names_with_something_before_them(tmp_path, monkeypatch, prefix):
    """DataParallel, Lightning, torch.compile; what lies beside the net, such as a loss's weights, is passed over."""
    def change(state):
        for name in list(state):
            state[prefix + name] = state.pop(name).astype(np.float64)
        state["criterion.weight"] = np.ones(5)

    right = scores_of(converter().read_source(STORED / "small_vgg16.pth").net, some_images(1))
    torch_state(change, monkeypatch)
    net, found = converter().read_source(STORED / "small_vgg16.pth")
    assert np.array_equal(scores_of(net, some_images(1)), right) and repr(prefix) in found


def test_a_classifier_with_other_numbers(monkeypatch):
    def change(state):
        for old, new in (("classifier.3.", "classifier.2."), ("classifier.6.", "classifier.11.")):
            for part in ("weight", "bias"):
                state[new + part] = state.pop(old + part)

    right = scores_of(converter().read_source(STORED / "small_vgg16.pth").net, some_images(1))
    torch_state(change, monkeypatch)
    assert np.array_equal(scores_of(converter().read_source(STORED / "small_vgg16.pth").net, some_images(1)), right)


# ---- class names -------------------------------------------------------------------------------------------------


def test_class_names_from_text_and_from_keras_index(tmp_path):
    (tmp_path / "names.txt").write_text("a cat\nzebra \n\u65d7\n", "utf-8")
    (tmp_path / "index.json").write_text(json.dumps({str(i): [f"n{i}", name] for i, name in enumerate("abc")}))
    assert converter().read_classes(tmp_path / "names.txt") == ("a cat", "zebra", "\u65d7")
    assert converter().read_classes(tmp_path / "index.json") == ("a", "b", "c")


@pytest.mark.parametrize("content", [b"", b"a\n\nb", b"\xff\xfe", b"a\x1b[2J", b"a" * (1 << 21), b"{", b"{}",
                                     b'{"0": 3}', b'{"0": [1, 2]}',
                                     b'{"0": ["n", "a"], "2": ["n", "b"]}', b'{"0":' * 5000])
def test_class_names_that_are_refused(tmp_path, content):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(TinyganError, match="names.txt: it (is|has)") as caught:
        converter().read_classes(tmp_path / "names.txt")
    assert "\n" not in str(caught.value)


def test_class_names_must_fit(tmp_path):
    (tmp_path / "names.txt").write_text("a\nb")
    write_keras(tmp_path / "keras.h5", small_weights())
    with pytest.raises(TinyganError, match="2 class names for 5 classes"):
        convert(tmp_path / "keras.h5", tmp_path / "net.h5", "--classes", str(tmp_path / "names.txt"))
    with pytest.raises(TinyganError, match="no file"):
        convert(tmp_path / "keras.h5", tmp_path / "net.h5", "--classes", str(tmp_path / "absent.txt"))


# ---- attacks and accidents ---------------------------------------------------------------------------------------

W = "block2_conv1/block2_conv1_W_1:0"


def replaced(name, **options):
    def spoil(file, folder):
        kept = {"shape": file[name].shape, "dtype": file[name].dtype, **options}
        del file[name]
        file.create_dataset(name, **kept)
    return spoil


def linked(name, make):
    def spoil(file, folder):
        del file[name]
        file[name] = make(folder)
    return spoil


def without(*names):
    def spoil(file, folder):
        for name in names:
            del file[name]
    return spoil


def filled(name, value):
    def spoil(file, folder):
        file[name][...] = value
    return spoil


def external_storage(file, folder):
    (folder / "secret.bin").write_bytes(bytes(1 << 16))
    replaced(W, external=[(str(folder / "secret.bin"), 0, file[W].nbytes)])(file, folder)


def virtual(file, folder):
    layout = h5py.VirtualLayout(file[W].shape, file[W].dtype)
    layout[...] = h5py.VirtualSource(str(folder / "x.h5"), "x", file[W].shape)
    del file[W]
    file.create_virtual_dataset(W, layout)


def theano_order(file, folder):
    for name in list(file):
        if "conv" in name:
            kernel = file[f"{name}/{name}_W_1:0"][()].transpose(3, 2, 0, 1)
            del file[f"{name}/{name}_W_1:0"]
            file[f"{name}/{name}_W_1:0"] = kernel


def bomb(file, folder):
    """A chunk of 288 bytes that unpacks to 64 MB."""
    shape = file[W].shape
    del file[W]
    data = file.create_dataset(W, shape=shape, dtype=np.float32, chunks=(3, 3, 4, 2), compression="gzip")
    data[...] = 1
    data.id.write_direct_chunk((0, 0, 0, 2), zlib.compress(bytes(1 << 26)))


def in_no_order(file, folder):
    for name in ("fc1", "fc2", "predictions"):
        del file[name]
    for name, shape in (("a", (6, 6)), ("b", (24, 6)), ("c", (6, 6))):
        file[f"{name}/kernel:0"], file[f"{name}/bias:0"] = (np.zeros(n, np.float32) for n in (shape, shape[1]))


ATTACKS = {
    "soft link": (linked(W, lambda d: h5py.SoftLink("/fc1/fc1_W_1:0")), "link to somewhere else"),
    "external link": (linked(W, lambda d: h5py.ExternalLink(str(d / "x.h5"), "x")), "link to somewhere else"),
    "external link for a layer": (linked("fc2", lambda d: h5py.ExternalLink("x.h5", "/")), "link to somewhere else"),
    "circle": (lambda f, d: f["fc2"].__setitem__("again", f["/"]), "go too deep"),
    "external storage": (external_storage, "stored in another file"),
    "virtual data set": (virtual, "stored in another file"),
    "absurd size": (replaced(W, shape=(3, 3, 1 << 20, 1 << 20), chunks=(3, 3, 1, 64)), "where 1 to"),
    "declared but not stored": (replaced(W), "are stored"),
    "compressed otherwise": (replaced(W, compression="lzf"), "compressed with something else than gzip"),
    "compressed and not stored": (replaced(W, compression="gzip"), "has 0 of 1 chunks"),
    "a chunk that grows": (bomb, "has a chunk of other than the 288 bytes"),
    "wrong type": (replaced(W, dtype=np.int64), "holds int64"),
    "text": (replaced(W, dtype=h5py.string_dtype()), "holds object"),
    "no numbers": (replaced(W, shape=()), "no numbers"),
    "NaN": (filled(W, np.nan), "NaN or infinity"), "infinity": (filled("fc1/fc1_b_1:0", np.inf), "NaN or infinity"),
    "wrong kernel": (linked(W, lambda d: np.zeros((5, 5, 4, 5), np.float32)), "conv2_1 has a weight"),
    "wrong width": (linked(W, lambda d: np.zeros((3, 3, 9, 5), np.float32)), "conv2_1 has a weight"),
    "wrong fc1": (linked("fc1/fc1_W_1:0", lambda d: np.zeros((30, 7), np.float32)), "fc6 has a weight"),
    "missing layer": (without("block4_conv2"), "block4_conv2 has 0 arrays"),
    "missing bias": (without("fc2/fc2_b_1:0"), "fc2 has 1 arrays"),
    "one array more": (lambda f, d: f.create_dataset("fc2/fc2_W_2:0", data=[1.0]), "fc2 has 3 arrays"),
    "notop": (without("fc1", "fc2", "predictions"), "convolutions alone (notop)"),
    "half a head": (without("predictions"), "after the convolutions it has fc1 (24x7 and 7), fc2 (7x6 and 6), and a "),
    "a fourth layer": (lambda f, d: f.create_dataset("dense_1/kernel:0", data=np.zeros((5, 5), np.float32)),
                       "it has dense_1 (5x5), fc1 (24x7 and 7), fc2"),
    "a head in no order": (in_no_order, "neither names nor shapes give their order"),
    "head alone": (without(*(f"block{b}_conv{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1))),
                   "not a VGG16 of Keras"),
    "Theano's order": (theano_order, "Theano's order"),
    "Theano": (lambda f, d: f.attrs.__setitem__("backend", np.bytes_(b"theano")), "kernels are Theano's"),
    "backend in numbers": (lambda f, d: f.attrs.__setitem__("backend", np.zeros(3)), "not one value"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_on_the_keras_reader(tmp_path, attack):
    spoil, words = ATTACKS[attack]
    path = write_keras(tmp_path / "keras.h5", small_weights())
    converter().read_source(path)
    with h5py.File(path, "a") as file:
        spoil(file, tmp_path)
    assert words in refusal(path)


def test_other_files(tmp_path):
    whole = write_keras(tmp_path / "keras.h5", small_weights()).read_bytes()
    for name, content, words in [
        ("empty.h5", b"", "empty"), ("page.h5", b"<!DOCTYPE html><html>404</html>", "neither HDF5 nor"),
        ("packed.h5", gzip.compress(whole), "neither HDF5 nor"), ("zip.pth", b"PK\x03\x04" + bytes(100), "damaged"),
        *((f"cut{n}.h5", whole[:len(whole) * n // 10], "cut off") for n in range(1, 10)),
    ]:
        (tmp_path / name).write_bytes(content)
        assert words in refusal(tmp_path / name)
    assert "no file" in refusal(tmp_path / "absent.h5")
    assert "not a file" in refusal(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.h5")
        assert "not a file" in refusal(tmp_path / "pipe.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["dense/kernel:0"] = np.zeros((3, 3))
    assert "not a VGG16 of Keras" in refusal(tmp_path / "other.h5")
    with h5py.File(small_file(tmp_path / "own.h5"), "a") as file:
        file["fc7/weight"][...] = 0
    assert "answer key does not fit" in refusal(tmp_path / "own.h5")


def torch_state(change, monkeypatch):
    """What the converter reads when `change` has been made to a good state_dict."""
    read = vgg16_layouts.read_state_dict

    def changed(path, *, max_bytes):
        state = read(path, max_bytes=max_bytes)
        change(state)
        return state

    monkeypatch.setattr(vgg16_layouts, "read_state_dict", changed)


@pytest.mark.parametrize("change, words", [
    (lambda s: s["classifier.0.weight"].fill(np.nan), "classifier.0.weight holds NaN or infinity; it is the file of"),
    (lambda s: s["features.5.bias"].fill(np.inf), "features.5.bias holds NaN or infinity; use another copy"),
    (lambda s: s.pop("classifier.6.bias"), "lacks classifier.6.bias"),
    (lambda s: s.pop("classifier.3.weight"), "its classifier has the layers classifier.0 (7x24), classifier.6 (5x6)"),
    (lambda s: s.update({f"ema.{name}": array for name, array in s.items()}), "it holds 2 nets, under '' and 'ema.'"),
    (lambda s: s.update({"features.1.running_mean": np.zeros(4)}), "has 'features.1.running_mean'"),
    (lambda s: s.update({"features.0.weight": np.zeros((4, 1, 3, 3))}), "conv1_1 has a weight 4x1x3x3"),
    (lambda s: s.update({"classifier.3.weight": np.zeros((6, 9))}), "fc7 has a weight 6x9"),
])
def test_torchvision_states_that_are_refused(monkeypatch, change, words):
    torch_state(change, monkeypatch)
    assert words in refusal(STORED / "small_vgg16.pth")


def test_a_changed_byte_of_a_source_is_one_line(tmp_path):
    """Keras' files carry no checksums, so that a changed number passes; a changed structure never is a traceback."""
    path = write_keras(tmp_path / "keras.h5", small_weights())
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        spoilt = bytearray(whole)
        # Half of the changes go to the structure, which is a small share of the bytes.
        at = int(random.integers(len(whole)) if random.random() < 0.5 else random.integers(4096))
        spoilt[at] ^= int(random.integers(1, 256))
        path.write_bytes(spoilt)
        try:
            converter().read_source(path)
        except TinyganError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 10


# ---- the command line --------------------------------------------------------------------------------------------


def test_it_says_what_it_did_and_what_comes_next(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("\n".join(NAMES), "utf-8")
    out = tmp_path / "net.h5"
    convert(write_keras(tmp_path / "keras.h5", small_weights()), out, "--classes", str(tmp_path / "names.txt"))
    lines = capsys.readouterr().out.splitlines()
    assert "keras.h5: Keras' weights, block1_conv1/block1_conv1_W_1:0" in lines[0]
    assert f"{out.stat().st_size:,} bytes" in lines[1] and "5 classes, for images of 64 x 64" in lines[1]
    assert lines[2].startswith("licence: not stated") and "--licence" in lines[2]
    assert lines[3] == f"next: python gradcam.py IMAGE --classifier {out}"
    assert sorted(os.listdir(tmp_path)) == ["keras.h5", "names.txt", "net.h5"]


@pytest.mark.parametrize("words, code, expected", [
    ([], 2, "name the file to convert"), (["keras.h5", "--download"], 2, "not both"),
    (["keras.h5", "--out", "absent/net.h5"], 2, "no folder absent"),
    (["keras.h5", "--out", "keras.h5"], 2, "--overwrite"),
    (["keras.h5", "--dtype", "float64"], 2, "invalid choice"), (["absent.h5", "--out", "x.h5"], 1, "no file absent.h5"),
    (["keras.h5", "--class", "x"], 2, "did you mean --classes"), (["page.html", "--out", "x.h5"], 1, "neither HDF5"),
])
def test_the_script_refuses_in_one_line(words, code, expected, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_keras(tmp_path / "keras.h5", small_weights())
    (tmp_path / "page.html").write_text("<html>")
    try:
        found = cli.run_main(converter().main, words)
    except SystemExit as exit:
        found = exit.code
    error = capsys.readouterr().err
    assert found == code and expected in error and error.count("\n") == 1 and error.startswith("error: ")
    assert not (tmp_path / "x.h5").exists()


def test_an_older_file_is_replaced_on_demand_only(tmp_path):
    source, out = write_keras(tmp_path / "keras.h5", small_weights()), tmp_path / "net.h5"
    out.write_text("precious")
    with pytest.raises(TinyganError, match="exists: --overwrite"):
        convert(source, out)
    assert out.read_text() == "precious"
    convert(source, out, "--overwrite")


# ---- downloads ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A server of one file that can break off; it notes what it was asked for."""
    class Handler(BaseHTTPRequestHandler):
        content, break_after, ranges, asked, status = b"", [], True, [], 200

        def do_GET(self):
            cls = type(self)
            wanted = self.headers.get("Range")
            cls.asked.append(wanted)
            start = int(wanted[6:-1]) if wanted and cls.ranges else 0
            if cls.status != 200:
                self.send_error(cls.status)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(cls.content) - 1}/{len(cls.content)}")
            self.send_header("Content-Length", str(len(cls.content) - start))
            self.end_headers()
            part = cls.content[start:]
            self.wfile.write(part[:cls.break_after.pop(0)] if cls.break_after else part)

        def log_message(self, *args):
            pass

    handler = type("Own", (Handler,), {"asked": [], "break_after": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_address[1]}/file.h5"
        yield handler
        running.shutdown()


CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


def fetched(server, path):
    return download.fetch([server.url] * 5, path, MD5, max_bytes=len(CONTENT), timeout=5.0, resume=True)


def test_a_download_that_breaks_off_goes_on(server, tmp_path, capsys):
    server.content, server.break_after = CONTENT, [100_000, 50_000]
    path = tmp_path / "cache" / "file.h5"
    assert fetched(server, path) == path and path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert "going on at 0.1 MB" in capsys.readouterr().out and os.listdir(path.parent) == ["file.h5"]
    assert fetched(server, path) == path and len(server.asked) == 3  # nothing is asked for a file that is there


def test_a_download_goes_on_in_a_later_run(server, tmp_path):
    server.content = CONTENT
    (tmp_path / "file.h5.part").write_bytes(CONTENT[:1234])
    fetched(server, tmp_path / "file.h5")
    assert server.asked == ["bytes=1234-"] and (tmp_path / "file.h5").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.content, server.ranges = CONTENT, False
    (tmp_path / "file.h5.part").write_bytes(b"x" * 1234)
    fetched(server, tmp_path / "file.h5")
    assert (tmp_path / "file.h5").read_bytes() == CONTENT


def test_a_part_of_something_else_is_thrown_away(server, tmp_path):
    server.content = CONTENT
    (tmp_path / "file.h5.part").write_bytes(b"x" * 1234)
    fetched(server, tmp_path / "file.h5")
    assert server.asked == ["bytes=1234-", None] and (tmp_path / "file.h5").read_bytes() == CONTENT


@pytest.mark.parametrize("setting, words", [
    ({"content": CONTENT, "status": 404}, "404"), ({"content": b"x" * len(CONTENT)}, "other bytes"),
    ({"content": CONTENT + b"x"}, "offers 300,001 bytes where at most 300,000"), ({"content": b""}, "other bytes"),
])
def test_downloads_that_fail_say_so_in_one_line(server, tmp_path, setting, words):
    for name, value in setting.items():
        setattr(server, name, value)
    with pytest.raises(TinyganError, match=words) as caught:
        fetched(server, tmp_path / "file.h5")
    text = str(caught.value)
    assert "\n" not in text and f"get {server.url} by hand and put it in {tmp_path}" in text and len(server.asked) <= 5
    assert not (tmp_path / "file.h5").exists()


def test_the_download_is_converted(server, tmp_path, monkeypatch):
    """--download end to end, from a server of our own."""
    script, names = converter(), json.dumps({str(i): [f"n{i}", name] for i, name in enumerate(NAMES)}).encode()
    server.content = write_keras(tmp_path / "keras.h5", small_weights()).read_bytes()
    monkeypatch.setenv("TINYGAN_HOME", str(tmp_path / "home"))
    for name, value in (("KERAS_URL", server.url), ("KERAS_BYTES", len(server.content)),
                        ("KERAS_MD5", hashlib.md5(server.content).hexdigest()), ("NAMES_URL", server.url),
                        ("NAMES_MD5", hashlib.md5(names).hexdigest())):
        monkeypatch.setattr(script, name, value)
    (tmp_path / "home" / "vgg16").mkdir(parents=True)
    (tmp_path / "home" / "vgg16" / "imagenet_class_index.json").write_bytes(names)
    assert script.main(["--download", "--out", str(tmp_path / "net.h5")]) == 0
    net = load_vgg16(tmp_path / "net.h5")
    assert net.class_names == NAMES and net.about["licence"] == script.KERAS_LICENCE


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TinyganError, match="cannot write .* TINYGAN_HOME"):
        fetched(server, tmp_path / "file" / "file.h5")
