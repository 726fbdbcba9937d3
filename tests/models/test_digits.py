"""The digit classifier: the shipped file answers its key and is right, damaged files are refused, training works."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from script_tools import real_mnist

from tinygan import Tensor, check_grads, data, grad
from tinygan.data import hdf5
from tinygan.data.mnist import BUNDLED
from tinygan.errors import TinyganError
from tinygan.models.classifiers import digits
from tinygan.models.classifiers.digits import SHIPPED, DigitNet
from tinygan.models.classifiers.load import find_classifier

h5py = pytest.importorskip("h5py")

ROOT = Path(__file__).parents[2]


def script():
    """weights/train_digits.py as a module."""
    spec = importlib.util.spec_from_file_location("train_digits", ROOT / "weights" / "train_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def about(path) -> dict:
    """The attributes of a weight file."""
    with hdf5.open_hdf5(path, max_bytes=digits.MAX_BYTES) as file:
        return file.attributes()


@pytest.fixture(scope="module")
def trained():
    return digits.load(SHIPPED)


@pytest.fixture
def good(tmp_path):
    """A fresh, sound weight file of an untrained net."""
    path = tmp_path / "good.h5"
    probe = np.random.default_rng(1).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    script().save(DigitNet(rng=np.random.default_rng(0)), path, probe, {"what": "a test"})
    return path


def refusal(path) -> str:
    with pytest.raises(TinyganError) as caught:
        digits.load(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400 + len(str(path)) and Path(path).name in text
    return text


# ---- the shipped weights -----------------------------------------------------------------------------------------


def test_the_shipped_file_is_small_and_says_what_it_is(trained):
    assert SHIPPED.stat().st_size < 1_000_000
    assert 50_000 <= trained.parameter_count() <= 100_000
    words = about(SHIPPED)
    assert {"what", "source", "data", "licence", "test_accuracy", "format", "version"} <= set(words)
    assert words["test_accuracy"] >= 0.99 and words["test_digits"] == 10_000
    assert "train_digits.py" in words["source"]


def test_it_is_right(trained):
    """On all 10,000 test digits where they are at hand, else on the 1,000 that come with the package."""
    test = data.load_mnist("test", data_dir=real_mnist() or BUNDLED)
    probabilities, features = trained.classify(test.images[:, None])
    accuracy = (probabilities.argmax(axis=1) == test.labels).mean()
    assert accuracy >= (0.99 if len(test) == 10_000 else 0.985)
    if len(test) == 10_000:
        assert accuracy == pytest.approx(about(SHIPPED)["test_accuracy"], abs=3e-4)
    assert probabilities.dtype == features.dtype == np.float32
    assert probabilities.shape == (len(test), 10) and features.shape == (len(test), 64)
    assert abs(probabilities.sum(axis=1) - 1).max() < 1e-5


def test_a_blank_is_no_confident_digit_and_noise_stays_finite(trained):
    blank, _ = trained.classify(np.zeros((1, 1, 28, 28), np.float32))
    assert blank.max() < 0.9
    noise = np.random.default_rng(0).normal(0, 100, (20, 1, 28, 28)).astype(np.float32)
    probabilities, features = trained.classify(noise)
    assert np.isfinite(probabilities).all() and np.isfinite(features).all()


# ---- the net -----------------------------------------------------------------------------------------------------


def test_classify_gives_the_softmax_of_the_scores_in_any_batch_size(trained):
    images = data.load_mnist("test", data_dir=BUNDLED).images[:23, None]
    floats = images.astype(np.float32) / 255
    probabilities, features = trained.classify(images, batch=7)
    scores = trained.logits(Tensor(floats)).numpy()
    softmax = np.exp(scores - scores.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, softmax / softmax.sum(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(features, trained.embed(Tensor(floats)).numpy(), atol=1e-5)
    np.testing.assert_allclose(probabilities, trained.classify(floats.astype(np.float64))[0], atol=1e-6)


def test_scores_and_features_are_differentiable():
    net = DigitNet(rng=np.random.default_rng(0), dtype=np.float64)
    x = np.random.default_rng(1).random((2, 1, 28, 28))
    check_grads(net.logits, [Tensor(x, requires_grad=True)], order=1)
    image = Tensor(x, requires_grad=True)
    g, = grad(net.embed(image).sum(), [image])
    assert g.shape == x.shape and abs(g.numpy()).max() > 0


def test_training_lowers_the_loss_on_one_batch():
    module, net = script(), DigitNet(rng=np.random.default_rng(0))
    batch = data.load_mnist("train", data_dir=BUNDLED)
    x, y = Tensor(data.to_canvas(batch.images[:64], 28)), batch.labels[:64]
    optimizer, losses = module.Adam(net.named_parameters(), lr=5e-3), []
    for _ in range(12):
        loss = module.cross_entropy(net.logits(x), y)
        net.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("images", [
    np.zeros((2, 28, 28), np.float32), np.zeros((2, 3, 28, 28), np.float32), np.zeros((2, 1, 32, 32), np.float32),
    np.zeros((0, 1, 28, 28), np.float32), np.zeros((2, 1, 28, 28), np.int64),
    np.full((2, 1, 28, 28), np.nan, np.float32), np.array(["a"]),
], ids=["no channel", "three colours", "32 pixels", "no image", "int64", "nan", "text"])
def test_classify_refuses_what_it_cannot_judge(trained, images):
    with pytest.raises(TinyganError) as caught:
        trained.classify(images)
    assert "\n" not in str(caught.value)


# ---- the file ----------------------------------------------------------------------------------------------------


def test_a_file_comes_back_as_the_same_net(good):
    net = DigitNet(rng=np.random.default_rng(0))
    found = digits.load(good)
    for (name, a), (_, b) in zip(net.named_parameters(), found.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy().astype(np.float16), b.numpy(), err_msg=name)
        assert b.numpy().dtype == np.float32
    assert about(good)["what"] == "a test"


def test_saving_twice_gives_the_same_bytes_and_leaves_nothing_else(good):
    before = good.read_bytes()
    probe = np.random.default_rng(1).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    script().save(DigitNet(rng=np.random.default_rng(0)), good, probe, {"what": "a test"})
    assert good.read_bytes() == before
    assert [p.name for p in good.parent.iterdir()] == ["good.h5"]


def test_saving_where_nothing_can_be_written_is_one_line(tmp_path):
    with pytest.raises(TinyganError, match="cannot write"):
        hdf5.write_hdf5(tmp_path / "absent" / "x.h5", {}, {})


def test_other_files(tmp_path, good):
    whole = good.read_bytes()
    for name, content, words in [
        ("empty.h5", b"", "empty"), ("page.h5", b"<!DOCTYPE html><html>404</html>", "not an HDF5 file"),
        ("zip.h5", b"PK\x03\x04" + bytes(100), "not an HDF5 file"), ("large.h5", whole + bytes(1 << 20), "more than"),
        ("signature.h5", whole[:8], "cut off"), ("zeros.h5", whole[:8] + bytes(5000), "cut off"),
        *((f"cut{n}.h5", whole[:len(whole) * n // 10], "cut off") for n in range(1, 10)),
    ]:
        (tmp_path / name).write_bytes(content)
        assert words in refusal(tmp_path / name)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["weights"] = np.zeros(3)
    assert "not a file of the tinygan digit classifier" in refusal(tmp_path / "foreign.h5")


def replaced(file, name, **options):
    """Put another data set in the place of `name`; keep its shape and type unless told."""
    old = file[name]
    options = {"shape": old.shape, "dtype": old.dtype, **options}
    del file[name]
    return file.create_dataset(name, **options)


NAME = "parameters/convs.0.weight"


def soft_link(file, folder):
    del file[NAME]
    file[NAME] = h5py.SoftLink("/parameters/convs.1.weight")


def circle(file, folder):
    del file["parameters"]
    file["parameters"] = h5py.SoftLink("/parameters")


def external_link(file, folder):
    with h5py.File(folder / "secret.h5", "w") as other:
        other["x"] = np.zeros((1, 24, 1, 5, 5), np.float16)
    del file[NAME]
    file[NAME] = h5py.ExternalLink(str(folder / "secret.h5"), "x")


def external_group(file, folder):
    del file["answer_key"]
    file["answer_key"] = h5py.ExternalLink(str(folder / "secret.h5"), "/")


def external_storage(file, folder):
    (folder / "secret.bin").write_bytes(bytes(1 << 16))
    old = file[NAME]
    replaced(file, NAME, external=[(str(folder / "secret.bin"), 0, old.nbytes)])


def virtual(file, folder):
    old = file[NAME]
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "x", old.shape)
    del file[NAME]
    file.create_virtual_dataset(NAME, layout)


def without(name):
    def spoil(file, folder):
        del file[name]
    return spoil


def filled(name, value):
    def spoil(file, folder):
        file[name][...] = value
    return spoil


def one_wrong(name):
    """Swap two filters: finite, of the right size, and wrong."""
    def spoil(file, folder):
        values = file[name][()]
        values[:, [0, 1]] = values[:, [1, 0]]
        file[name][...] = values
    return spoil


def attribute(name, value):
    def spoil(file, folder):
        file.attrs[name] = value
    return spoil


ATTACKS = {
    "soft link": (soft_link, "link to somewhere else"),
    "link in a circle": (circle, "link to somewhere else"),
    "external link": (external_link, "link to somewhere else"),
    "external link for a group": (external_group, "link to somewhere else"),
    "external storage": (external_storage, "stored in another file"),
    "virtual data set": (virtual, "stored in another file"),
    "absurd size": (lambda f, d: replaced(f, NAME, shape=(1 << 20, 1 << 20), chunks=(1, 1024)), "declares 1,048,576x"),
    "declared but not stored": (lambda f, d: replaced(f, NAME), "are stored"),
    "absurd chunks": (lambda f, d: replaced(f, NAME, maxshape=(None,) * 5, chunks=(1 << 12, 24, 1, 50, 50)), "chunks"),
    "compressed": (lambda f, d: replaced(f, NAME, compression="gzip"), "compressed"),
    "wrong shape": (lambda f, d: replaced(f, NAME, shape=(1, 24, 1, 5, 4)), "declares 1x24x1x5x4"),
    "scalar": (lambda f, d: replaced(f, NAME, shape=()), "no numbers"),
    "wrong type": (lambda f, d: replaced(f, NAME, dtype=np.int32), "int32"),
    "text": (lambda f, d: replaced(f, NAME, dtype=h5py.string_dtype()), "holds object"),
    "group for an array": (lambda f, d: (f.__delitem__(NAME), f.create_group(NAME)), "not an array"),
    "array for a group": (lambda f, d: (f.__delitem__("parameters"), f.create_dataset("parameters", data=[1])),
                          "not a group"),
    "missing array": (without(NAME), "parts"),
    "missing group": (without("answer_key"), "parts"),
    "one array more": (lambda f, d: f.create_dataset("parameters/extra", data=[1.0]), "parts"),
    "NaN": (filled(NAME, np.nan), "NaN or infinity"),
    "infinity": (filled("answer_key/logits", np.inf), "NaN or infinity"),
    "weights that are wrong": (one_wrong("parameters/convs.1.weight"), "answer key does not fit"),
    "zero weights": (filled("parameters/last.weight", 0), "answer key does not fit"),
    "other answers": (filled("answer_key/logits", 1), "answer key does not fit"),
    "other format": (attribute("format", "something else"), "not a file of"),
    "other version": (attribute("version", 2), "version is 2"),
    "array for a text": (attribute("format", np.zeros(3)), "not one value"),
    "many probes": (attribute("probes", 1 << 40), "said to have"),
    "no probes": (attribute("probes", 0), "said to have"),
    "probes in words": (attribute("probes", "three"), "said to have"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_on_the_reader(good, tmp_path, attack):
    spoil, words = ATTACKS[attack]
    digits.load(good)
    with h5py.File(good, "a") as file:
        spoil(file, tmp_path)
    assert words in refusal(good)


def test_a_changed_byte_is_refused_or_harmless(good):
    """Checksums cover the structure and the arrays; whatever passes must be the same net."""
    whole, random = good.read_bytes(), np.random.default_rng(0)
    right = digits.load(good).state_dict()
    refused = 0
    for _ in range(60):
        spoilt = bytearray(whole)
        # Half of the changes go to the structure, which is a small share of the bytes.
        at = int(random.integers(len(whole)) if random.random() < 0.5 else random.integers(4096))
        spoilt[at] ^= int(random.integers(1, 256))
        good.write_bytes(spoilt)
        try:
            found = digits.load(good)
        except TinyganError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert all(np.array_equal(found.state_dict()[name], value) for name, value in right.items())
    assert refused > 20


# ---- finding it --------------------------------------------------------------------------------------------------


def test_find_classifier_says_in_one_line_what_is_missing(monkeypatch, tmp_path):
    lines = []
    monkeypatch.setattr(digits, "SHIPPED", tmp_path / "absent.h5")
    assert find_classifier(lines.append) is None
    assert len(lines) == 1 and "absent.h5" in lines[0] and "not measured" in lines[0]
    with pytest.raises(TinyganError, match=r"^there is no .*absent\.h5, .* python weights/train_digits\.py$"):
        digits.load()


def test_find_classifier_without_h5py(monkeypatch):
    lines = []
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert find_classifier(lines.append) is None
    assert len(lines) == 1 and "pip install h5py" in lines[0] and "not measured" in lines[0]


def test_find_classifier_finds_the_shipped_one_from_any_folder_and_refuses_a_damaged_one(monkeypatch, tmp_path):
    lines = []
    monkeypatch.chdir(tmp_path)
    assert isinstance(find_classifier(lines.append), DigitNet) and not lines
    monkeypatch.setattr(digits, "SHIPPED", tmp_path / "damaged.h5")
    (tmp_path / "damaged.h5").write_bytes(b"")
    with pytest.raises(TinyganError, match="empty"):
        find_classifier(lines.append)


# ---- the script --------------------------------------------------------------------------------------------------


def test_the_training_script_end_to_end(tmp_path, capsys, monkeypatch):
    """A few steps on the bundled digits; the file it writes is right about its own accuracy."""
    module, out = script(), tmp_path / "small.h5"
    monkeypatch.setattr(module, "BATCH", 200)
    command = ["--epochs", "1", "--out", str(out), "--data-dir", str(BUNDLED), "--threads", "1"]
    assert module.cli.run_main(module.main, command) == 0
    printed = capsys.readouterr().out
    assert re.search(r"epoch 1/1: loss \d", printed) and "note: below" in printed
    test = data.load_mnist("test", data_dir=BUNDLED)
    assert about(out)["test_accuracy"] == module.share_right(digits.load(out), test)
    assert about(out)["test_digits"] == 1000
    assert module.cli.run_main(module.main, command) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("words, code, expected", [
    (["--epochs", "0"], 2, "whole number"), (["--seed", "x"], 2, "whole number"), (["--epoch", "2"], 2, "--epochs"),
    (["--out", "absent/x.h5"], 2, "no folder"), (["--out", "x.h5", "--data-dir", "absent"], 1, "absent"),
])
def test_the_training_script_refuses_in_one_line(words, code, expected, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module = script()
    try:
        got = module.cli.run_main(module.main, words)
    except SystemExit as stop:
        got = stop.code
    error = capsys.readouterr().err
    assert got == code and expected in error and error.count("\n") == 1


def test_distortion_moves_a_digit_a_little_and_keeps_its_ink():
    module = script()
    images = data.to_canvas(data.load_mnist("train", data_dir=BUNDLED).images[:200], 28)
    moved = module.distort(images, np.random.default_rng(0))
    assert moved.shape == images.shape and moved.dtype == np.float32
    assert 0 <= moved.min() and moved.max() <= 1.0001
    ink, ink_moved = images.sum(axis=(1, 2, 3)), moved.sum(axis=(1, 2, 3))
    assert 0.6 < (ink_moved / ink).min() and (ink_moved / ink).max() < 1.5
    assert abs(ink_moved.mean() / ink.mean() - 1) < 0.05
    still = module.distort(images, FixedRandom())
    np.testing.assert_allclose(still, images, atol=1e-5)


class FixedRandom:
    """A generator whose every uniform number is the middle of its interval: no turn, no scale, no shift."""

    def uniform(self, low, high, size):
        return np.full(size, (low + high) / 2)
