"""Grad-CAM against its closed form and against differences of the scores; its pictures; the script."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import op
from script_tools import load_script
from vgg16_tools import converter, small_file, small_net, some_images

from tinygan import Tensor, no_grad, ops
from tinygan.app import cli, pictures
from tinygan.app.heatmap import COVER, HEAT, heat, overlay, resized
from tinygan.errors import UsageError
from tinygan.models.classifiers.gradcam import grad_cam

script = load_script("gradcam")
REAL = Path(os.environ.get("TINYGAN_DATA", "")) / "vgg16"
FILE = "vgg16_caltech102_keras.h5"


@pytest.fixture
def rng():
    return np.random.default_rng(4)


@pytest.fixture
def three_layers(rng):
    """(weights of a head on maps (N, 6, 3, 4), the head itself): fc6, fc7 with ReLU, fc8 -> 5 scores."""
    weights = [rng.standard_normal(shape) / 4 for shape in ((9, 72), (8, 9), (5, 8))]

    def head(a):
        x = a.reshape(len(a), -1)
        for w in weights[:-1]:
            x = ops.relu(x @ Tensor(w.T))
        return x @ Tensor(weights[-1].T)

    return weights, head


def closed_form(maps, weights, classes):
    """alpha from dy/dA = W6^T (1[h6 > 0] W7^T (1[h7 > 0] W8[c])), one image at a time; the raw map."""
    out = []
    for a in maps:
        w6, w7, w8 = weights
        h6 = w6 @ a.ravel()
        h7 = w7 @ np.maximum(h6, 0)
        slope = w6.T @ ((h6 > 0) * (w7.T @ ((h7 > 0) * w8[list(classes)].sum(axis=0))))
        alpha = slope.reshape(a.shape).mean(axis=(1, 2))
        out.append(np.maximum(sum(k * m for k, m in zip(alpha, a, strict=True)), 0))
    return np.array(out)


# ---- the map -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [[0], [3], [1, 4], (0, 1, 2, 3, 4)])
def test_closed_form(rng, three_layers, classes):
    weights, head = three_layers
    maps = rng.standard_normal((4, 6, 3, 4))
    raw = closed_form(maps, weights, classes)
    assert (raw > 0).any(axis=(1, 2)).all()  # there is something to compare
    assert np.allclose(grad_cam(Tensor(maps), head, classes, normalise=False), raw, rtol=0, atol=1e-12)
    cam = grad_cam(Tensor(maps), head, classes)
    assert np.allclose(cam, raw / raw.max(axis=(1, 2), keepdims=True), rtol=0, atol=1e-6)
    assert cam.min() == 0 and np.allclose(cam.max(axis=(1, 2)), 1)


def test_central_differences(rng, three_layers):
    """alpha by moving one whole channel at a time, which gives the sum of its slopes over the 12 places."""
    _, head = three_layers
    maps, h = rng.standard_normal((2, 6, 3, 4)), 1e-6
    alpha = np.empty((2, 6))
    for k in range(6):
        moved = [maps.copy(), maps.copy()]
        for m, step in zip(moved, (h, -h), strict=True):
            m[:, k] += step
        up, down = (head(Tensor(m)).numpy()[:, 2] for m in moved)
        alpha[:, k] = (up - down) / (2 * h) / 12
    expected = np.maximum(np.einsum("nk,nkij->nij", alpha, maps), 0)
    assert np.allclose(grad_cam(Tensor(maps), head, [2], normalise=False), expected, atol=1e-6)


def test_wrong_maps_would_be_seen(rng, three_layers):
    """The sum instead of the mean is the same map once normalised; leaving out the mask of a ReLU is not."""
    weights, head = three_layers
    maps = rng.standard_normal((2, 6, 3, 4))
    w6, w7, w8 = weights
    linear = (w6.T @ w7.T @ w8[1]).reshape(6, 3, 4).mean(axis=(1, 2))
    wrong = np.maximum(np.einsum("k,nkij->nij", linear, maps), 0)
    assert abs(grad_cam(Tensor(maps), head, [1], normalise=False) - wrong).max() > 1e-3


def test_several_classes_are_the_map_of_their_summed_scores(rng, three_layers):
    _, head = three_layers
    maps = Tensor(rng.standard_normal((3, 6, 3, 4)))
    both = grad_cam(maps, head, [1, 3], normalise=False)
    summed = grad_cam(maps, lambda a: head(a)[:, 1:2] + head(a)[:, 3:4], [0], normalise=False)
    assert np.allclose(both, summed)
    assert np.array_equal(grad_cam(maps, head, [3, 1], normalise=False), both)
    one_by_one = grad_cam(maps, head, [1], normalise=False) + grad_cam(maps, head, [3], normalise=False)
    assert (both <= one_by_one + 1e-12).all() and not np.allclose(both, one_by_one)  # max(0, .) of the sum


def test_each_image_is_normalised_by_itself(rng, three_layers):
    _, head = three_layers
    maps = rng.random((2, 6, 3, 4))
    maps[1] = maps[0] * 1000  # a head without biases is homogeneous: the same map, a thousand times as large
    raw, cam = (grad_cam(Tensor(maps), head, [0, 1, 2], normalise=n) for n in (False, True))
    assert np.allclose(raw[1], 1000 * raw[0]) and np.allclose(cam[1], cam[0]) and cam[0].max() == pytest.approx(1)
    alone = grad_cam(Tensor(maps[:1]), head, [0, 1, 2])
    assert np.allclose(cam[:1], alone)


def test_a_map_of_zeros_stays_one(rng):
    maps = Tensor(rng.random((2, 3, 4, 4), dtype=np.float32))
    with np.errstate(all="raise"):
        for head in (lambda a: -a.mean(axis=(2, 3)), lambda a: a.mean(axis=(2, 3)) * 0.0):  # against it; not at all
            assert not grad_cam(maps, head, [0, 1]).any()
        tiny = grad_cam(maps, lambda a: a.mean(axis=(2, 3)) * 1e-30, [0])
    assert tiny.max() < 1e-15  # eps: what is next to nothing is not blown up to 1
    assert grad_cam(maps, lambda a: a.mean(axis=(2, 3)) * 1e-30, [0], eps=0.0).max() == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_a_constant_of_the_features_dtype(rng, three_layers, dtype):
    maps = Tensor(rng.random((2, 6, 3, 4)).astype(dtype), requires_grad=True)
    cam = grad_cam(maps * 2.0, lambda a: a.mean(axis=(2, 3)), [0])
    assert isinstance(cam, np.ndarray) and cam.dtype == dtype and cam.shape == (2, 3, 4) and maps.grad is None


def test_inside_no_grad_too(rng, three_layers):
    _, head = three_layers
    maps = Tensor(rng.random((2, 6, 3, 4)))
    outside = grad_cam(maps, head, [0])
    with no_grad():
        inside = grad_cam(maps, head, [0])
        assert not head(Tensor(maps.data, requires_grad=True)).requires_grad  # the mode is back
    assert np.array_equal(inside, outside) and inside.any()


def test_no_gradient_of_a_weight_is_computed(rng):
    asked = []

    def to_weight(g, y, a, b):
        asked.append(1)
        return g * a

    product = op(np.multiply, lambda g, y, a, b: g * b, to_weight)
    weight = Tensor(rng.random((2, 3, 4, 4)), requires_grad=True)
    maps = Tensor(rng.random((2, 3, 4, 4)))
    grad_cam(maps, lambda a: product(a, weight).mean(axis=(2, 3)), [0])
    assert not asked and weight.grad is None
    product(maps, weight).sum().backward()
    assert asked  # the spy does see


def test_wrong_calls(rng, three_layers):
    _, head = three_layers
    maps = Tensor(rng.random((2, 6, 3, 4)))
    for call, words in ((lambda: grad_cam(maps, head, [5]), r"classes \[5\]"),
                        (lambda: grad_cam(maps, head, []), r"classes \[\]"),
                        (lambda: grad_cam(maps, head, [-1]), "below the number of classes"),
                        (lambda: grad_cam(maps[0], head, [0]), "feature maps"),
                        (lambda: overlay(np.zeros((1, 4, 4)), np.zeros((2, 2))), "an overlay takes")):
        with pytest.raises(UsageError, match=words):
            call()


@pytest.mark.kernels
def test_the_same_map_on_a_gpu(rng, xp):
    net = small_net()
    maps = some_images(2, 64, 64)
    with no_grad():
        features = net.features(Tensor(maps))
    here = grad_cam(features, net.head, [1, 2])
    net.to(xp.asarray)
    there = grad_cam(Tensor(xp.asarray(features.data)), net.head, [1, 2])
    assert type(there).__module__.partition(".")[0] == "cupy" and there.dtype == np.float32
    assert np.allclose(here, there.get(), atol=1e-5)


# ---- on VGG16, at any layer --------------------------------------------------------------------------------------


def test_pool5_of_vgg16_is_the_closed_form():
    net = small_net(dtype=np.float64)
    with no_grad():
        pool5 = net.features(Tensor(some_images(3, 64, 64, dtype=np.float64)))
    w6, w7, w8 = (net.layers[name].weight.data for name in ("fc6", "fc7", "fc8"))
    b6, b7 = (net.layers[name].bias.data for name in ("fc6", "fc7"))
    for a, cam in zip(pool5.data, grad_cam(pool5, net.head, [3], normalise=False), strict=True):
        h6 = w6 @ a.ravel() + b6
        h7 = w7 @ np.maximum(h6, 0) + b7
        slope = (w6.T @ ((h6 > 0) * (w7.T @ ((h7 > 0) * w8[3])))).reshape(a.shape)
        expected = np.maximum(np.tensordot(slope.mean(axis=(1, 2)), a, 1), 0)
        assert np.allclose(cam, expected, rtol=0, atol=1e-6 * abs(slope).max())


@pytest.mark.parametrize("layer, side", [("conv5_3", 4), ("pool3", 8), ("conv1_1", 64)])
def test_at_other_layers(layer, side):
    """Against differences of the score when each channel of that layer moves."""
    net, h = small_net(dtype=np.float64), 1e-6
    with no_grad():
        maps = net.maps(Tensor(some_images(1, 64, 64, dtype=np.float64)), layer).data
    cam = grad_cam(Tensor(maps), lambda a: net.rest(a, layer), [2], normalise=False)
    assert cam.shape == (1, side, side)
    alpha = []
    for k in range(maps.shape[1]):
        step = np.zeros_like(maps)
        step[:, k] = h
        with no_grad():
            up, down = (net.rest(Tensor(m), layer).numpy()[0, 2] for m in (maps + step, maps - step))
        alpha.append((up - down) / (2 * h) / side ** 2)
    assert np.allclose(cam[0], np.maximum(np.tensordot(alpha, maps[0], 1), 0), rtol=1e-4, atol=1e-6 * abs(maps).max())


# ---- pictures ----------------------------------------------------------------------------------------------------


def test_heat_rises_in_lightness():
    colours = heat(np.linspace(0, 1, 101)).astype(float)
    assert colours.shape == (101, 3) and colours[0].tolist() == list(HEAT[0][1])
    assert colours[-1].tolist() == list(HEAT[-1][1])
    luma = colours @ (0.299, 0.587, 0.114)
    assert (np.diff(luma) > 0).all() and luma[-1] - luma[0] > 180
    assert heat(np.zeros((4, 5))).shape == (4, 5, 3) and heat(np.zeros((4, 5))).dtype == np.uint8


def test_overlay_shows_the_map_and_the_image(rng):
    image = rng.uniform(-1, 1, (3, 12, 10)).astype(np.float32)
    cam = np.zeros((3, 2), np.float32)
    plain = overlay(image, cam)
    assert plain.shape == (12, 10, 3) and plain.dtype == np.uint8
    assert (plain == plain[:, :, :1]).all() and plain.std() > 10  # grey, and still the image
    full = overlay(image, cam + 1).astype(float)
    assert np.allclose(full, (1 - COVER) * plain + COVER * np.array(HEAT[-1][1]), atol=1.5)
    cam[0, 0] = 1  # the upper left
    mixed = overlay(image, cam).astype(int)
    colour = mixed.max(axis=2) - mixed.min(axis=2)
    assert colour[:2, :2].min() > 40 and not colour[8:, 6:].any()
    assert np.array_equal(overlay(-np.ones((3, 4, 4)), np.zeros((1, 1))), np.zeros((4, 4, 3)))
    assert (overlay(np.ones((3, 4, 4)), np.zeros((1, 1))) == 255).all()


def test_resized_is_bilinear():
    assert resized(np.array([[0.0, 1.0]]), (2, 4)).tolist() == [[0, 0.25, 0.75, 1]] * 2


# ---- the script --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return small_file(tmp_path_factory.mktemp("vgg16") / "small.h5")


@pytest.fixture
def photo(tmp_path, rng):
    path = tmp_path / "a photo.png"
    Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def run(weights):
    def call(*words, classifier=weights):
        words = [*words, "--classifier", classifier, "--device", "cpu", "--threads", "1"]
        return cli.run_main(script.main, [str(w) for w in words])

    return call


def test_script(run, photo, capsys):
    assert run(photo) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[-1].endswith(f"in {photo.with_name('a photo-small-gradcam.png')}")
    shares = [float(line.split("%")[0]) for line in lines[:5]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.1)
    top = lines[0].split("%")[1].rpartition(" (")[0].strip()
    assert f"importance for {top} (" in lines[-1]  # the likeliest class unless one is named
    picture = pictures.read_png(photo.with_name("a photo-small-gradcam.png"))
    assert picture.shape == (64 + 4, 3 * 64 + 8, 3)


def test_script_with_classes_and_layer(run, photo, tmp_path, capsys):
    made = [tmp_path / f"{i}.png" for i in range(3)]
    assert run(photo, "--class", "A_CAT", "--out", made[0]) == 0
    assert "importance for a cat (" in capsys.readouterr().out
    assert run(photo, "--class", "0,zeb", "--layer", "conv5_3", "--out", made[1]) == 0
    assert "4x4 places" in capsys.readouterr().out
    assert run(photo, "--class", "zebra,a cat", "--layer", "conv5_3", "--out", made[2]) == 0
    a, b, c = (pictures.read_png(path) for path in made)
    assert np.array_equal(b, c) and not np.array_equal(a, b)
    assert np.array_equal(a[:, :66], b[:, :66])  # the image itself


def test_no_choice_replaces_the_picture_of_another(run, photo):
    for words, name in (((), ""), (("--class", "zebra"), "-zebra"), (("--class", "a cat,zebra"), "-a-cat-zebra"),
                        (("--layer", "conv5_3"), "-conv5_3"), (("--class", "0", "--layer", "conv5_3"), "-0-conv5_3")):
        before = set(photo.parent.iterdir())
        assert run(photo, *words) == 0
        (made,) = set(photo.parent.iterdir()) - before
        assert re.fullmatch(rf"a photo{name}-small-gradcam\.png", made.name)  # the classifier is small.h5


@pytest.mark.parametrize("words, code, text", [
    (["--class", "zebre"], 2, "did you mean zebra"), (["--class", ""], 2, "unknown class ''"),
    (["--class", "zebra,"], 2, "unknown class ''"),
    (["--class", "5"], 2, "ids are 0 to 4"), (["--layer", "fc6"], 2, "--layer fc6: use one of conv1_1"),
    (["--out", "a.jpg"], 2, "name a .png file"), (["--out", "nowhere/a.png"], 1, "there is no folder nowhere"),
    (["--clas", "zebra"], 2, "unknown flag --clas: did you mean"),
])
def test_wrong_words_get_one_line(run, photo, monkeypatch, capsys, words, code, text):
    monkeypatch.chdir(photo.parent)
    assert _code(lambda: run(photo, *words)) == code
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_wrong_files_get_one_line(run, photo, tmp_path, capsys):
    (tmp_path / "page.png").write_text("<html></html>")
    before = photo.read_bytes()
    for words, classifier, text in (
        ([tmp_path / "page.png"], None, "it is a web page"), ([tmp_path / "absent.png"], None, "no file"),
        ([photo], tmp_path / "absent.h5", "make one with weights/convert_vgg16.py"), ([photo], photo, "a photo.png"),
        ([photo, "--out", photo], None, "is the picture itself"),
    ):
        assert run(*words, **({} if classifier is None else {"classifier": classifier})) in (1, 2)
        error = capsys.readouterr().err
        assert text in error and error.count("\n") == 1
    assert photo.read_bytes() == before


def _code(call):
    try:
        return call()
    except SystemExit as stop:  # argparse
        return stop.code


@pytest.mark.skipif(not (REAL / FILE).is_file(), reason="TINYGAN_DATA names no folder with vgg16/")
def test_a_real_flamingo(run, tmp_path, capsys):
    """The published convolutions: named right, and what is important lies on the bird, not in the corners."""
    made = tmp_path / "vgg16.h5"
    words = [REAL / FILE, "--classes", REAL / "classes.txt", "--out", made]
    assert cli.run_main(converter().main, [str(w) for w in words]) == 0
    capsys.readouterr()
    assert run(REAL / "photos" / "flamingo.png", "--out", tmp_path / "a.png", classifier=made) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["96.40%", "flamingo"] and "7x7 places" in lines[-1]
    picture = pictures.read_png(tmp_path / "a.png")
    importance = picture[2:-2, 228:452].astype(float).sum(axis=2)  # the middle panel
    assert importance[60:190, 80:160].mean() > 2 * importance[:40, 160:].mean()
    assert run(REAL / "photos" / "flamingo.png", "--class", "zebra", "--out", tmp_path / "b.png", classifier=made) == 2
