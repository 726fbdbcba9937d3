"""The second classifier's script without its network: pictures in, tables out. With it, if its packages are there."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tinygan.app import cli
from tinygan.app.pictures import grid, save_png
from tinygan.errors import TinyganError, UsageError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import second_opinion

missing = [name for name in second_opinion.PACKAGES if importlib.util.find_spec(name) is None]
needs_net = pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


def redness(images):
    """A made-up network: flamingo's score is the mean of red, zebra's of blue, all others lie below."""
    scores = np.full((len(images), second_opinion.CLASSES), -40.0)
    scores[:, 130], scores[:, 340] = 10 * images[:, 0].mean(axis=(1, 2)), 10 * images[:, 2].mean(axis=(1, 2))
    return scores


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(second_opinion, "class_scores", redness)
    monkeypatch.setattr(second_opinion, "load_net", lambda: None)


def flat(red, blue, size=8):
    """An image (3, size, size) with a corner pixel in another colour, as no painted one is of one colour alone."""
    image = np.zeros((3, size, size), np.float32)
    image[0], image[2], image[1, 0, 0] = red, blue, 1.0
    return image


# ---- judging ----


def test_judge(made_up):
    images = np.stack([flat(1, -1), flat(-1, 1), flat(0, 0)])
    result = second_opinion.classify(images, [130])
    assert result["top1"] == pytest.approx(2 / 3)  # of equal scores, the lower number
    assert result["top5"] == 1 and result["probability"] == pytest.approx(0.5, abs=1e-6)
    assert result["best"].shape == (3, 5) and result["best"][:, 0].tolist() == [130, 340, 130]
    assert np.allclose(result["wanted_probability"], [1, 0, 0.5], atol=1e-6)
    assert np.allclose(result["best_probability"][2, :2], 0.5)
    assert second_opinion.classify(images, [340, 130, 130])["probability"] == pytest.approx(1)


@pytest.mark.parametrize("images", [np.zeros((3, 8, 8)), np.zeros((1, 1, 8, 8)), np.zeros((0, 3, 8, 8)),
                                    np.full((1, 3, 8, 8), np.nan)])
def test_images_that_cannot_be_judged(images):
    with pytest.raises(TinyganError, match="images to classify"):
        second_opinion.class_scores(images)


def test_missing_packages_are_named_in_a_line(monkeypatch, capsys, tmp_path):
    second_opinion.load_net.cache_clear()
    real = importlib.util.find_spec
    gone = second_opinion.PACKAGES[1:]
    monkeypatch.setattr(second_opinion.importlib.util, "find_spec", lambda name: None if name in gone else real(name))
    assert cli.run_main(second_opinion.main, [str(tmp_path), "--wanted", "zebra"]) == 1
    line = capsys.readouterr().err
    names = [name for name in second_opinion.PACKAGES if name in gone or real(name) is None]  # torch, perhaps
    assert line.count("\n") == 1 and f"pip install {' '.join(names)}" in line


@needs_net
def test_the_network_sees_what_is_there():
    """Classify spots and stripes: no names are checked, but that scores are finite, differ, and follow the picture."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (3, 3, 40, 56)).astype(np.float32)
    images[2] = images[1]
    scores = second_opinion.class_scores(images)
    assert scores.shape == (3, 1000) and scores.dtype == np.float64 and np.isfinite(scores).all()
    assert np.allclose(scores[1], scores[2], atol=1e-3) and abs(scores[0] - scores[1]).max() > 0.05
    assert second_opinion.load_net() is second_opinion.load_net()
    assert not second_opinion.load_net().training


@needs_net
def test_the_network_gets_what_it_was_trained_on(monkeypatch):
    """Black and white of [-1, 1] arrive as (0 - 127) / 128 and (255 - 127) / 128, at 224 x 224."""
    seen = []

    def net(x):
        seen.append(x.numpy())
        import torch

        return torch.zeros(len(x), 1000)

    monkeypatch.setattr(second_opinion, "load_net", lambda: net)
    images = np.stack([np.full((3, 30, 50), value, np.float32) for value in (-1, 0, 1)] * 7)
    assert second_opinion.class_scores(images).shape == (21, 1000)
    assert [x.shape for x in seen] == [(16, 3, 224, 224), (5, 3, 224, 224)]
    for image, value in zip(np.concatenate(seen), [0, 127.5, 255] * 7, strict=True):
        assert np.allclose(image, (value - 127) / 128, atol=1e-5)


# ---- pictures ----


def test_cut_undoes_a_grid():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 9)).astype(np.uint8)
    for pad in (0, 2):
        picture = grid(images, 2, 3, pad=pad).transpose(2, 0, 1)  # the sixth place stays empty
        assert np.array_equal(second_opinion.cut(picture, (6, 9), pad), images)
    with pytest.raises(UsageError, match="change --tile or --pad"):
        second_opinion.cut(picture, (7, 9), 2)
    with pytest.raises(UsageError, match="change --tile or --pad"):
        second_opinion.cut(picture[:, :3], (6, 9), 2)
    with pytest.raises(TinyganError, match="nothing to classify"):
        second_opinion.cut(np.ones((3, 10, 10)), (10, 10), 0)


def test_which_pictures(tmp_path):
    run, folder, empty = (tmp_path / name for name in ("run", "folder", "empty"))
    for path in (run / "samples", folder, empty):
        path.mkdir(parents=True)
    for name in ("step_000100.png", "step_000200.png", "other.png"):
        (run / "samples" / name).touch()
    for name in ("b.png", "a.JPG", "notes.txt", "._b.png", "Thumbs.db"):
        (folder / name).touch()
    single = tmp_path / "x.png"
    assert second_opinion.find_pictures([run], True) == [run / "samples" / "step_000200.png"]
    assert second_opinion.find_pictures([single, folder], False) == [single, folder / "a.JPG", folder / "b.png"]
    with pytest.raises(UsageError, match="--tile"):
        second_opinion.find_pictures([run], False)
    with pytest.raises(TinyganError, match="no pictures in"):
        second_opinion.find_pictures([empty], True)


# ---- the command ----


def run(capsys, *argv):
    code = cli.run_main(second_opinion.main, [str(word) for word in argv])
    return code, *capsys.readouterr()


def test_a_grid_on_the_command_line(made_up, tmp_path, capsys):
    images = np.stack([flat(1, -1), flat(-1, 1), flat(1, -1)])
    save_png(tmp_path / "step_000100.png", grid((images + 1) / 2, 2, 2))
    code, out, err = run(capsys, tmp_path / "step_000100.png", "--wanted", "flamingo", "--tile", "8x8",
                         "--json", tmp_path / "out.json")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].startswith("step_000100.png 1   1.00  flamingo 1.00")
    assert lines[2].startswith("step_000100.png 2   0.00  zebra 1.00, flamingo 0.00")
    assert "on 3 images, wanted: flamingo" in out
    assert "in top 1: 0.67   in top 5: 1.00   mean probability: 0.667" in out
    stored = json.loads((tmp_path / "out.json").read_text())
    assert stored["wanted"] == [130] and stored["top1"] == pytest.approx(2 / 3) and len(stored["best"]) == 3


def test_rates_are_over_images_not_over_files(made_up, tmp_path, capsys):
    for name, images in (("a", [flat(1, -1)] * 3), ("b", [flat(-1, 1)])):
        save_png(tmp_path / f"{name}.png", grid((np.stack(images) + 1) / 2, 1, len(images)))
    code, out, _ = run(capsys, tmp_path / "a.png", tmp_path / "b.png", "--wanted", "flamingo", "--tile", "8x8")
    assert code == 0 and "on 4 images" in out and "in top 1: 0.75" in out


def test_single_pictures_of_different_sizes(made_up, tmp_path, capsys):
    for name, image in (("a", flat(1, -1)), ("b", flat(-1, 1, size=12))):
        save_png(tmp_path / f"{name}.png", grid((image[None] + 1) / 2, 1, 1, pad=0))
    code, out, _ = run(capsys, tmp_path, "--wanted", "zebra,104")
    assert code == 0 and "on 2 images, wanted: zebra, wallaby" in out and "in top 1: 0.50" in out


@pytest.mark.parametrize("argv, code, words", [
    (["x.png"], 2, "--wanted"),
    (["x.png", "--wanted", "unicorn"], 2, "unicorn"),
    (["x.png", "--wanted", "1000"], 2, "1000"),
    (["x.png", "--wanted", "zebra", "--tile", "8"], 2, "128x128"),
    (["nowhere.png", "--wanted", "zebra"], 1, "nowhere.png"),
])
def test_bad_input_is_one_line(made_up, capsys, argv, code, words):
    try:
        got, _, err = run(capsys, *argv)
    except SystemExit as stopped:
        got, err = stopped.code, capsys.readouterr().err
    assert got == code and err.count("\n") == 1 and words in err


def test_wanted_names_and_numbers():
    assert second_opinion.wanted_ids("flamingo") == (130,)
    assert second_opinion.wanted_ids("hawksbill") == second_opinion.wanted_ids("Turtle") == (33, 34, 35, 36, 37)
    assert second_opinion.wanted_ids("0, 999,zebra,340") == (0, 999, 340)
