"""VGG16: the net against plain NumPy and PyTorch's numbers, its weight file, and what other people's files try."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from vgg16_tools import (
    NAMES,
    SIDE,
    converter,
    plain_scores,
    small_file,
    small_net,
    small_weights,
    some_images,
    write_keras,
)

from tinygan import Tensor, check_grads, no_grad
from tinygan.app.vgg16_file import save_vgg16
from tinygan.data import hdf5
from tinygan.errors import TinyganError, UsageError
from tinygan.models.classifiers import vgg16
from tinygan.models.classifiers.vgg16 import MAPS, VGG16, averaging_matrix, load_vgg16
from tinygan.ops.pooling import _resize

h5py = pytest.importorskip("h5py")

FOLDER = Path(os.environ.get("TINYGAN_DATA", "/nowhere")) / "vgg16"
STORED = Path(__file__).parents[1] / "stored"


def scores_of(net, images):
    with no_grad():
        return net.scores(Tensor(images)).numpy()


def refusal(path) -> str:
    with pytest.raises(TinyganError) as caught:
        load_vgg16(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400 + 2 * len(str(path)) and Path(path).name in text
    return text


# ---- the net -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"input_range": 1.0, "mean": (0.485, 0.456, 0.406), "std": (0.2, 0.3, 0.4)}])
def test_scores_are_those_of_the_definition(options):
    weights = small_weights(dtype=np.float64)
    if options:
        weights["conv1_1"] = weights["conv1_1"][0] * 50, weights["conv1_1"][1]
    net = VGG16(weights, dtype=np.float64, **options)
    images = some_images(2, dtype=np.float64)
    expected = plain_scores(images, weights, **options)
    assert np.abs(expected).max() > 0.1 and np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(scores_of(net, images), expected, rtol=1e-9, atol=1e-9)


def test_a_wrong_net_would_be_seen():
    weights, images = small_weights(dtype=np.float64), some_images(2, dtype=np.float64)
    right = scores_of(VGG16(weights, dtype=np.float64), images)
    swapped = {**weights, "conv1_1": (weights["conv1_1"][0][:, ::-1], weights["conv1_1"][1])}
    fc6 = weights["fc6"][0].reshape(len(weights["fc6"][1]), -1, SIDE * SIDE)
    other_order = {**weights, "fc6": (fc6.transpose(0, 2, 1).reshape(len(fc6), -1), weights["fc6"][1])}
    for wrong in (VGG16(swapped, dtype=np.float64), VGG16(other_order, dtype=np.float64),
                  VGG16(weights, dtype=np.float64, mean=(103.939, 116.779, 123.68))):
        assert np.abs(scores_of(wrong, images) - right).max() > 1e-3


def test_what_it_says_of_itself():
    net = small_net()
    assert (net.side, net.channels, net.classes, net.class_names) == (64, 3, 5, NAMES)
    bare = small_net(names=())
    assert bare.class_names == ("0", "1", "2", "3", "4") and not bare.has_names
    assert net.features(Tensor(some_images(2, 96, 32))).shape == (2, 6, 3, 1)
    names = [name for name, _ in net.named_parameters()]
    assert len(names) == 32 and names[:2] == ["layers.conv1_1.weight", "layers.conv1_1.bias"]
    assert MAPS[:3] == ("conv1_1", "conv1_2", "pool1") and MAPS[-2:] == ("conv5_3", "pool5") and len(MAPS) == 18
    assert scores_of(net, some_images()).dtype == np.float32
    assert np.array_equal(net(Tensor(some_images())).numpy(), scores_of(net, some_images()))


def test_maps_and_the_rest_make_the_scores():
    net, images = small_net(), Tensor(some_images())
    with no_grad():
        whole = net.scores(images).numpy()
        for layer in MAPS:
            found = net.maps(images, layer)
            assert found.numpy().min() >= 0  # after the ReLU
            np.testing.assert_array_equal(net.rest(found, layer).numpy(), whole)
    for use in (lambda: net.maps(images, "conv6_1"), lambda: net.rest(images, "fc6")):
        with pytest.raises(UsageError, match="it has conv1_1, conv1_2, pool1"):
            use()


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 60, 64), (1, 3, 64, 33), (1, 3, 0, 32),
                                   (1, 4, 64, 64)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(TinyganError, match="multiples of 32") as caught:
        small_net().scores(Tensor(np.zeros(shape, np.float32)))
    assert "64 x 64" in str(caught.value)


@pytest.mark.parametrize("shape", [(6, 2, 2), (1, 5, 2, 2), (1, 6, 0, 2)])
def test_maps_that_do_not_fit_the_head(shape):
    with pytest.raises(TinyganError, match="takes maps"):
        small_net().head(Tensor(np.zeros(shape, np.float32)))


@pytest.mark.parametrize("n, m", [(7, 7), (14, 7), (8, 7), (1, 7), (5, 7), (9, 4), (3, 1)])
def test_averaging_windows(n, m):
    matrix, x = averaging_matrix(n, m), np.random.default_rng(0).standard_normal(n)
    for i in range(m):  # the definition of PyTorch's AdaptiveAvgPool
        window = x[i * n // m:int(np.ceil((i + 1) * n / m))]
        assert np.isclose(matrix[i] @ x, window.mean())
    assert (matrix > 0).any(axis=0).all()
    if n == m:
        assert np.array_equal(matrix, np.eye(n))


def test_the_head_takes_maps_of_any_side():
    net = small_net(dtype=np.float64)
    small = np.random.default_rng(0).uniform(0, 1, (2, 6, 2, 2))
    right = net.head(Tensor(small)).numpy()
    np.testing.assert_allclose(net.head(Tensor(small.repeat(3, 2).repeat(2, 3))).numpy(), right)
    flat = net.head(Tensor(small[:, :, :1, :1])).numpy()
    np.testing.assert_allclose(net.head(Tensor(small[:, :, :1, :1].repeat(2, 2).repeat(2, 3))).numpy(), flat)
    assert np.abs(flat - right).max() > 1e-3


def test_gradient_to_the_image_and_to_maps():
    net = small_net(dtype=np.float64)
    check_grads(lambda x: net.scores(x), [some_images(1, 32, 64, dtype=np.float64)], order=1)
    maps = np.random.default_rng(0).uniform(0.1, 1, (2, 6, 3, 3))
    check_grads(lambda x: net.head(x), [maps])
    check_grads(lambda x: _resize(x, rows=averaging_matrix(3, 2), columns=averaging_matrix(5, 2)),
                [np.random.default_rng(0).standard_normal((1, 2, 3, 5))])
    deep = np.random.default_rng(1).uniform(0.1, 1, (1, 6, 8, 8))
    check_grads(lambda x: net.rest(x, "conv3_3"), [deep], order=1)


def test_weights_are_constants_until_unfrozen():
    net, images = small_net(), Tensor(some_images(), requires_grad=True)
    net.scores(images).sum().backward()
    assert np.abs(images.grad.numpy()).max() > 0 and all(p.grad is None for p in net.parameters())
    net.unfreeze().scores(images).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in net.parameters())


def test_it_runs_on_the_gpus_arrays(standin):
    cupy = standin.module
    net, images = small_net(), some_images(2, 64, 96)
    with no_grad():
        expected = net.scores(Tensor(images)).numpy()
        on_device = net.to(cupy.asarray).scores(Tensor(cupy.asarray(images)))
    np.testing.assert_allclose(cupy.asnumpy(on_device.data), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change, words", [
    (lambda w: w.pop("fc7"), "fc7 is missing"),
    (lambda w: w.update(conv1_1=(np.zeros((4, 1, 3, 3)), np.zeros(4))), "conv1_1 has a weight 4x1x3x3"),
    (lambda w: w.update(conv3_1=(np.zeros((6, 5, 5, 5)), np.zeros(6))), "conv3_1 has a weight 6x5x5x5"),
    (lambda w: w.update(conv3_1=(np.zeros((6, 4, 3, 3)), np.zeros(6))), "conv3_1"),
    (lambda w: w.update(conv5_3=(w["conv5_3"][0], np.zeros(5))), "a bias 5"),
    (lambda w: w.update(fc6=(np.zeros((7, 6 * 5)), np.zeros(7))), "fc6 has a weight 7x30"),
    (lambda w: w.update(fc6=(np.zeros(7), np.zeros(7))), "fc6"),
    (lambda w: w.update(fc8=(np.zeros((5, 7)), np.zeros(5))), "fc8 has a weight 5x7"),
])
def test_weights_that_do_not_fit_together(change, words):
    weights = small_weights()
    change(weights)
    with pytest.raises(TinyganError, match=words):
        VGG16(weights)


def test_class_names_must_be_as_many_as_classes():
    with pytest.raises(TinyganError, match="4 class names for 5 classes"):
        small_net(names=NAMES[:4])


# ---- the weight file ---------------------------------------------------------------------------------------------


def test_a_file_comes_back_as_the_same_net(tmp_path):
    net, images = small_net(), some_images()
    before = net.state_dict()
    save_vgg16(net, tmp_path / "net.h5")
    found = load_vgg16(tmp_path / "net.h5")
    assert {name: p.tobytes() for name, p in found.state_dict().items()} == {
        name: p.tobytes() for name, p in before.items()}
    assert np.array_equal(scores_of(found, images), scores_of(net, images))
    assert found.class_names == NAMES and found.side == 64
    assert found.about == {"source": "a test", "sha256": "0" * 64, "licence": "none", "storage": "float32"}
    assert not any(p.requires_grad for p in found.parameters())
    double = load_vgg16(tmp_path / "net.h5", dtype=np.float64)
    assert {p.dtype for p in double.parameters()} == {np.dtype(np.float64)}
    np.testing.assert_allclose(scores_of(double, images.astype(np.float64)), scores_of(net, images), rtol=1e-3,
                               atol=1e-4)


def test_the_preprocessing_comes_back(tmp_path):
    weights = small_weights()
    net = VGG16(weights, input_range=1.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    save_vgg16(net, tmp_path / "net.h5")
    found = load_vgg16(tmp_path / "net.h5")
    assert (found.input_range, found.mean, found.std) == (1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert found.class_names == ("0", "1", "2", "3", "4") and found.about["licence"] == "not stated"


def test_float16_halves_the_file_and_changes_scores_little(tmp_path):
    sizes = {"head": (300, 200, 50), "names": ()}
    small_file(tmp_path / "single.h5", **sizes)
    net = small_net(**sizes)
    right = scores_of(net, some_images())
    save_vgg16(net, tmp_path / "half.h5", storage="float16")
    single, half = ((tmp_path / f"{name}.h5").stat().st_size for name in ("single", "half"))
    assert single - half > 0.9 * 2 * net.parameter_count()
    found = load_vgg16(tmp_path / "half.h5")
    assert {p.dtype for p in found.parameters()} == {np.dtype(np.float32)}
    assert np.array_equal(scores_of(found, some_images()), scores_of(net, some_images()))  # net was rounded, too
    difference = np.abs(scores_of(found, some_images()) - right).max()
    assert 0 < difference < 5e-3 * np.abs(right).max()


def test_saving_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path):
    small_file(tmp_path / "a.h5")
    small_file(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "b.h5"]


def test_saving_refuses_in_one_line(tmp_path):
    with pytest.raises(TinyganError, match="cannot write"):
        save_vgg16(small_net(), tmp_path / "absent" / "x.h5")
    with pytest.raises(UsageError, match="float16 or float32"):
        save_vgg16(small_net(), tmp_path / "x.h5", storage="float64")
    net = small_net()
    net.layers["fc7"].weight.data[0, 0] = 1e6
    with pytest.raises(TinyganError, match="fc7/weight holds a number that float16 cannot"):
        save_vgg16(net, tmp_path / "x.h5", storage="float16")
    assert os.listdir(tmp_path) == []


def test_loading_takes_the_memory_of_the_weights(tmp_path):
    path = small_file(tmp_path / "wide.h5", head=(2000, 2000, 50), names=())
    tracemalloc.start()
    net = load_vgg16(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = 4 * net.parameter_count()
    assert size > 16e6 and peak < 1.35 * size  # a quarter for the check of the largest layer


def test_other_files(tmp_path):
    whole = small_file(tmp_path / "good.h5").read_bytes()
    for name, content, words in [
        ("empty.h5", b"", "empty"), ("page.h5", b"<!DOCTYPE html><html>404</html>", "not an HDF5 file"),
        ("signature.h5", whole[:8], "cut off"),
        *((f"cut{n}.h5", whole[:len(whole) * n // 10], "cut off") for n in range(1, 10)),
    ]:
        (tmp_path / name).write_bytes(content)
        assert words in refusal(tmp_path / name)
    assert "no file" in refusal(tmp_path / "absent.h5")
    assert "not a file" in refusal(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.h5")
        assert "not a file" in refusal(tmp_path / "pipe.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["block1_conv1/block1_conv1_W_1:0"] = np.zeros(3)
    convert = "first: python weights/convert_vgg16.py"
    assert f"HDF5 of another program; if these are a VGG16's weights, convert them {convert} {tmp_path}/foreign.h5" in (
        refusal(tmp_path / "foreign.h5"))
    # What is to be converted is told so, by its content: Keras' files of any layout, PyTorch's, archives.
    write_keras(tmp_path / "of keras.h5", small_weights())
    assert f"{convert} '{tmp_path}/of keras.h5'" in refusal(tmp_path / "of keras.h5")
    for name in ("small_vgg16.pth", "small_vgg16_old.pth", "small_keras.weights.h5", "small_keras_whole.h5"):
        (tmp_path / name).write_bytes((STORED / name).read_bytes())
        assert f"{convert} {tmp_path}/{name}" in refusal(tmp_path / name)
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04" + bytes(50))
    assert "a PyTorch file or a .keras archive; convert" in refusal(tmp_path / "model.keras")
    with open(tmp_path / "huge.h5", "wb") as file:  # sparse: takes no room on the disk
        file.write(whole)
        file.truncate(vgg16.MAX_BYTES + 1)
    assert "more than" in refusal(tmp_path / "huge.h5")


W = "conv2_1/weight"


def replaced(file, name, **options):
    """Put another data set in the place of `name`; keep its shape and type unless told."""
    old = file[name]
    options = {"shape": old.shape, "dtype": old.dtype, **options}
    del file[name]
    return file.create_dataset(name, **options)


def linked(name, make):
    def spoil(file, folder):
        del file[name]
        file[name] = make(folder)
    return spoil


def external_storage(file, folder):
    (folder / "secret.bin").write_bytes(bytes(1 << 16))
    replaced(file, W, external=[(str(folder / "secret.bin"), 0, file[W].nbytes)])


def virtual(file, folder):
    layout = h5py.VirtualLayout(file[W].shape, file[W].dtype)
    layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "x", file[W].shape)
    del file[W]
    file.create_virtual_dataset(W, layout)


def filled(name, value):
    def spoil(file, folder):
        file[name][...] = value
    return spoil


def swapped(name, axis):
    """Two entries of an axis change places: finite, of the right size, and wrong."""
    def spoil(file, folder):
        values = file[name][()]
        first, second = np.take(values, 0, axis), np.take(values, 1, axis)
        index = [slice(None)] * values.ndim
        for at, part in ((0, second), (1, first)):
            index[axis] = at
            values[tuple(index)] = part
        file[name][...] = values
    return spoil


def attribute(name, value):
    def spoil(file, folder):
        file.attrs[name] = value
    return spoil


def names_of(data):
    def spoil(file, folder):
        replaced(file, "class_names", shape=None, dtype=None, data=np.frombuffer(data, np.uint8))
    return spoil


ATTACKS = {
    "soft link": (linked(W, lambda folder: h5py.SoftLink("/conv2_2/weight")), "link to somewhere else"),
    "external link": (linked(W, lambda folder: h5py.ExternalLink(str(folder / "x.h5"), "x")), "link to somewhere else"),
    "link for a layer": (linked("fc7", lambda folder: h5py.ExternalLink("x.h5", "/")), "link to somewhere else"),
    "link in a circle": (linked("fc7", lambda folder: h5py.SoftLink("/fc7")), "link to somewhere else"),
    "external storage": (external_storage, "stored in another file"),
    "virtual data set": (virtual, "stored in another file"),
    "absurd size": (lambda f, d: replaced(f, W, shape=(1 << 20, 1 << 20, 3, 3), chunks=(1, 1024, 3, 3)),
                    "declares 1,048,576x"),
    "large but allowed size": (lambda f, d: replaced(f, "fc7/weight", shape=(1 << 14, 1 << 14), chunks=(1, 1024)),
                               "are stored"),
    "declared but not stored": (lambda f, d: replaced(f, W), "are stored"),
    "absurd chunks": (lambda f, d: replaced(f, W, maxshape=(None,) * 4, chunks=(1 << 12, 24, 50, 50)), "chunks"),
    "compressed": (lambda f, d: replaced(f, W, compression="gzip"), "compressed"),
    "wrong shape": (lambda f, d: replaced(f, W, data=np.zeros((5, 4, 5, 5)), shape=None, dtype="f4"), "5x4x5x5"),
    "scalar": (lambda f, d: replaced(f, W, shape=()), "no numbers"),
    "wrong type": (lambda f, d: replaced(f, W, dtype=np.int32), "int32"),
    "text": (lambda f, d: replaced(f, W, dtype=h5py.string_dtype()), "holds object"),
    "group for an array": (lambda f, d: (f.__delitem__(W), f.create_group(W)), "not an array"),
    "array for a group": (lambda f, d: (f.__delitem__("fc7"), f.create_dataset("fc7", data=[1])), "not a group"),
    "missing layer": (lambda f, d: f.__delitem__("fc8"), "parts"),
    "missing bias": (lambda f, d: f.__delitem__("fc8/bias"), "lacks 'bias'"),
    "one layer more": (lambda f, d: f.create_dataset("fc9/weight", data=[1.0]), "parts"),
    "NaN": (filled(W, np.nan), "NaN or infinity"),
    "infinity": (filled("fc8/bias", -np.inf), "NaN or infinity"),
    "kernels in a wrong order": (swapped(W, 1), "answer key does not fit: pool5"),
    "colours in a wrong order": (swapped("conv1_1/weight", 1), "answer key does not fit: pool5"),
    "fc6 in a wrong order": (swapped("fc6/weight", 1), "answer key does not fit: scores"),
    "zero weights": (filled("fc7/weight", 0), "answer key does not fit: scores"),
    "other answers": (filled("answer_key/scores", 1), "answer key does not fit: scores"),
    "other format": (attribute("format", "something else"), "not a file of"),
    "other version": (attribute("version", 2), "version is 2"),
    "array for a text": (attribute("format", np.zeros(3)), "not one value"),
    "other colours": (attribute("channel_order", "BGR"), "its channel_order is 'BGR'"),
    "other layout": (attribute("layout", "HWIO"), "its layout is 'HWIO'"),
    "other range": (attribute("input_range", 100.0), "input_range is 100"),
    "range that is wrong": (attribute("input_range", 1.0), "answer key does not fit"),
    "other mean": (attribute("mean", np.array([103.939, 116.779, 123.68])), "answer key does not fit"),
    "mean of one": (attribute("mean", 3.0), "'mean' is not 3 numbers"),
    "mean in words": (attribute("mean", "123 117 104"), "'mean' is not 3 numbers"),
    "mean that is NaN": (attribute("mean", np.array([1, 2, np.nan])), "'mean' holds NaN"),
    "std of zero": (attribute("std", np.zeros(3)), "its std is"),
    "no std": (lambda f, d: f.attrs.__delitem__("std"), "lacks the attribute 'std'"),
    "other count": (attribute("classes", 1000), "1000 classes and has 5"),
    "other side": (attribute("head_side", 7), "'head_side' does not fit"),
    "names, but fewer": (names_of(b"a\nb\nc\nd"), "not 5 lines of text"),
    "names that are no text": (names_of(b"a\nb\nc\nd\n\x80e\x1b[2J"), "not 5 lines of text"),
    "an empty name": (names_of(b"a\nb\nc\n \ne"), "not 5 lines of text"),
    "no names": (lambda f, d: f.__delitem__("class_names"), "parts"),
}


@pytest.fixture(scope="module")
def good_bytes(tmp_path_factory):
    return small_file(tmp_path_factory.mktemp("good") / "good.h5").read_bytes()


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_on_the_reader(tmp_path, good_bytes, attack):
    spoil, words = ATTACKS[attack]
    path = tmp_path / "spoilt.h5"
    path.write_bytes(good_bytes)
    with h5py.File(path, "a") as file:
        spoil(file, tmp_path)
    assert words in refusal(path)


def test_the_file_of_the_attacks_is_sound(tmp_path, good_bytes):
    (tmp_path / "good.h5").write_bytes(good_bytes)
    load_vgg16(tmp_path / "good.h5")


def test_a_changed_byte_is_refused_or_harmless(tmp_path, good_bytes):
    """Checksums cover the structure and the arrays; whatever passes must be the same net."""
    path, random = tmp_path / "net.h5", np.random.default_rng(0)
    path.write_bytes(good_bytes)
    right, refused = load_vgg16(path), 0
    for _ in range(200):
        spoilt = bytearray(good_bytes)
        spoilt[int(random.integers(len(spoilt)))] ^= int(random.integers(1, 256))
        path.write_bytes(spoilt)
        try:
            found = load_vgg16(path)
        except TinyganError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert (found.mean, found.std, found.class_names) == (right.mean, right.std, right.class_names)
            state = found.state_dict()
            assert all(np.array_equal(state[name], value) for name, value in right.state_dict().items())
    assert refused > 100


# ---- chunks of large arrays --------------------------------------------------------------------------------------


def test_large_arrays_are_stored_in_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "CHUNK_BYTES", 1000)
    arrays = {"long": np.arange(1001, dtype=np.float32), "wide": np.ones((3, 4000), np.float16),
              "deep": np.random.default_rng(0).standard_normal((37, 5, 3, 3))}
    hdf5.write_hdf5(tmp_path / "x.h5", arrays, {})
    with h5py.File(tmp_path / "x.h5") as file:
        assert {name: file[name].chunks for name in arrays} == {"long": (201,), "wide": (1, 4000), "deep": (3, 5, 3, 3)}
    with hdf5.open_hdf5(tmp_path / "x.h5", max_bytes=1 << 20) as file:
        for name, array in arrays.items():
            assert np.array_equal(file.array(name, array.shape, (array.dtype.name,)), array)
            assert file.shape(name, (array.dtype.name,), max_size=array.size) == array.shape
        assert file.arrays() == ["deep", "long", "wide"]
    with pytest.raises(TinyganError, match="1 to 1,000 numbers"), hdf5.open_hdf5(
            tmp_path / "x.h5", max_bytes=1 << 20) as file:
        file.shape("long", ("float32",), max_size=1000)


def test_a_missing_chunk_is_not_hidden_by_the_surplus_of_others(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", (3, 5), np.float32, chunks=(2, 4))  # 4 chunks of 8 numbers for 15
        data[:2], data[2, :4] = 1, 1  # one chunk is never written
    with pytest.raises(TinyganError, match="declares 128 bytes but 96 are stored"), hdf5.open_hdf5(
            tmp_path / "x.h5", max_bytes=1 << 20) as file:
        file.array("x", (3, 5), ("float32",))


def test_groups_without_an_end_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/b/x"] = [1.0]
        file["a/b/again"] = file["a"]  # a hard link upwards: a path can go on for ever
    with pytest.raises(TinyganError, match="go too deep"), hdf5.open_hdf5(
            tmp_path / "x.h5", max_bytes=1 << 20) as file:
        file.arrays()


# ---- the real net ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """(the net of the real file, photograph -> its scores)."""
    if not (FOLDER / "vgg16_caltech102_keras.h5").is_file():
        pytest.skip("TINYGAN_DATA does not name a folder with vgg16/vgg16_caltech102_keras.h5")
    image = pytest.importorskip("PIL.Image")
    out = tmp_path_factory.mktemp("real") / "vgg.h5"
    assert converter().main([str(FOLDER / "vgg16_caltech102_keras.h5"), "--classes", str(FOLDER / "classes.txt"),
                             "--out", str(out)]) == 0
    net, scores = load_vgg16(out), {}
    for path in sorted((FOLDER / "photos").glob("*.png")):
        photo = np.asarray(image.open(path).convert("RGB"), np.float32).transpose(2, 0, 1)[None]
        scores[path.stem] = scores_of(net, photo / 127.5 - 1.0)[0]
    return net, scores


def test_real_photographs_are_named(real):
    net, scores = real
    right = [name for name, s in scores.items() if net.class_names[int(s.argmax())] == name]
    assert len(scores) == 24 and len(right) >= 20
    assert {"flamingo", "hawksbill", "dalmatian", "kangaroo"} <= set(right)


def test_real_scores_are_those_of_pytorch(real):
    stored = json.loads((STORED / "vgg16_caltech102_scores.json").read_text())
    assert stored.keys() == real[1].keys()
    for name, expected in stored.items():
        error = np.abs(real[1][name] - expected).max()
        assert error <= 1e-4 * np.abs(expected).max(), name


def test_the_real_convolutions_are_kept_bit_for_bit(real):
    net, _ = real
    with h5py.File(FOLDER / "vgg16_caltech102_keras.h5") as file:
        for name in vgg16.CONVOLUTIONS:
            keras = f"block{name[4]}_conv{name[6]}"
            kernel = net.layers[name].weight.data.transpose(2, 3, 1, 0)
            kernel = kernel[:, :, ::-1] if name == "conv1_1" else kernel
            assert kernel.tobytes() == file[f"{keras}/{keras}_W_1:0"][()].tobytes()
            assert net.layers[name].bias.data.tobytes() == file[f"{keras}/{keras}_b_1:0"][()].tobytes()
    assert net.side == 224 and net.classes == 102 and net.parameter_count() == 21_229_478
