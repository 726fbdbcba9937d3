"""train_photos.py: what a run leaves, how photos are mirrored, going on, bad input; sample.py and evaluate.py on it."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_tools import TINY, listed_settings, load_script, over, write_mnist, write_photos
from vgg16_tools import small_file

from tinygan.app import checkpoint, cli, pictures
from tinygan.app.device import pick_device
from tinygan.app.measure_photos import as_floats

script, sample, evaluate = (load_script(name) for name in ("train_photos", "sample", "evaluate"))
SIDE = 8 * (32 + 2) + 2  # pixels of a picture of 8 x 8 images
MEASURED = {"kid", "kid_std", "frechet", "precision", "recall", "density", "coverage", "nearest", "samples"}
ROWS = ["kid", "kid_std", "frechet", "precision", "recall", "density", "coverage", "spread", "nearest",
        "nearest_least", "nearest_any", "nearest_copy"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def train_whole(photos, tmp_path, monkeypatch):
    """train_whole("--flag", ...) runs the script in an empty folder, with few images measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.PhotoGame, "samples", (10, 12, 8))

    def run(*words):
        first = [] if "--resume" in words else [*TINY, "--size", "32", "--photos", str(photos), "--eval-every", "2"]
        return cli.run_main(script.main, over(first, words))

    return run


@pytest.fixture
def train(train_whole, monkeypatch):
    """The same without the curves, the animation and the report at the end of a run."""
    monkeypatch.setattr(script.Run, "finish", lambda run: [])
    return train_whole


@pytest.fixture(scope="module")
def done(photos, tmp_path_factory):
    """A finished dry run."""
    folder = tmp_path_factory.mktemp("run") / "photos"
    words = [*TINY, "--size", "32", "--photos", str(photos), "--dry-run", "--out", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script.Run, "finish", lambda run: [])
        assert cli.run_main(script.main, words) == 0
    return folder


def answer(capsys, main, *words):
    """The exit code, and the one line that says what is wrong."""
    capsys.readouterr()
    try:
        code = cli.run_main(main, [*map(str, words)])
    except SystemExit as stop:
        code = stop.code
    errors = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") for line in errors) == 1, errors
    return code, errors[-1]


def saved(folder):
    return (folder / "checkpoint.npz").read_bytes()


# ---- a run -------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_folder_and_nothing_else(train_whole, tmp_path, photos, capsys):
    before = {path: path.stat().st_mtime_ns for path in photos.iterdir()}
    assert train_whole("--steps", 5, "--log-every", 1, "--sample-every", 3) == 0
    run = tmp_path / "runs/photos-sgan-1"
    found = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
    assert found == ["checkpoint.npz", "config.json", "log.csv", "loss.png", "nearest.png", "report.html",
                     "routes.png", "samples", "samples/step_000000.png", "samples/step_000003.png",
                     "samples/step_000005.png", "training.gif"]
    assert {path: path.stat().st_mtime_ns for path in photos.iterdir()} == before
    with Image.open(run / "nearest.png") as nearest, Image.open(run / "samples/step_000003.png") as samples:
        assert nearest.size == samples.size == (SIDE, SIDE) and nearest.mode == samples.mode == "RGB"
    with open(run / "log.csv", newline="") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert [set(row) >= MEASURED for row in rows] == [False, True, False, True, True]  # at 2, 4 and the end
    assert [row.get("samples") for row in rows] == [None, "10", None, "10", "12"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    page = (run / "report.html").read_text()
    assert "Samples and the photos nearest to them" in page and "kernel distance of features" in page
    out = capsys.readouterr().out
    assert "data: 16 photos of 32 pixels from" in out and "576 coarse numbers" in out
    assert "kernel distance" in out and "(12 samples)" in out


def test_a_plain_gan_in_colour_has_no_routes_picture(train, tmp_path):
    assert train("--steps", 1, "--model", "gan", "--bank", 1, "--out", "run") == 0
    assert not (tmp_path / "run/routes.png").exists() and (tmp_path / "run/nearest.png").exists()
    assert checkpoint.load(tmp_path / "run")[1]["config"]["channels"] == 3


def test_an_epoch_is_a_pass_over_the_photos(train, tmp_path):
    assert train("--epochs", 2, "--out", "run") == 0  # of 16 photos in batches of 4
    assert checkpoint.load(tmp_path / "run")[1]["step"] == 8


def test_vgg16s_features_are_taken_where_its_file_is_named(train, tmp_path, capsys):
    file = small_file(tmp_path / "small.h5")
    assert train("--steps", 1, "--vgg16", file, "--out", "run") == 0
    assert "6 means of conv5_3 of the VGG16 in small.h5" in capsys.readouterr().out
    small_file(file, seed=2)  # other weights: the figures of one log would no longer be of one kind
    code, line = answer(capsys, script.main, "--resume", tmp_path / "run", "--steps", 2)
    assert code == 1 and "--vgg16" in line


# ---- mirroring -----------------------------------------------------------------------------------------------------


def make_game(photos, **changes):
    flags, _ = script.read_flags([*over(TINY, ["--batch-size", "16"]), "--size", "32", "--photos", str(photos)])
    return script.build({**flags, **changes}, None, pick_device("cpu"))


def test_half_of_the_photos_are_mirrored_by_chance_and_nothing_else_is_changed(photos):
    game = make_game(photos)
    plain = as_floats(game.photos.images)
    both = {image.tobytes(): (number, flip) for flip, images in enumerate((plain, plain[..., ::-1]))
            for number, image in enumerate(images)}
    assert len(both) == 32
    drawn = np.array([[both[image.tobytes()] for image in game.next_real().numpy()] for _ in range(100)])
    assert (np.sort(drawn[:, :, 0], axis=1) == np.arange(16)).all()  # each photo once in an epoch
    flips = drawn[:, :, 1]
    assert 0.45 < flips.mean() < 0.55 and len({tuple(row) for row in flips}) > 90


def test_without_flips_photos_come_as_they_are_in_the_same_order(photos):
    game, mirrored = make_game(photos, flip="no"), make_game(photos)
    order = [mirrored.next_indices()[0] for _ in range(3)]
    plain = as_floats(game.photos.images)
    for indices in order:
        np.testing.assert_array_equal(game.next_real().numpy(), plain[indices])


# ---- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--model", "tied", "--flip", "no", "--ema", 0]])
def test_a_resumed_run_has_the_bytes_of_one_that_was_never_stopped(train, tmp_path, options):
    assert train(*options, "--steps", 6, "--out", "whole") == 0
    assert train(*options, "--steps", 3, "--out", "part") == 0
    assert saved(tmp_path / "part") != saved(tmp_path / "whole")
    assert train("--resume", tmp_path / "part", "--steps", 6) == 0
    assert saved(tmp_path / "part") == saved(tmp_path / "whole")
    names = ("nearest.png", "samples/step_000006.png")
    assert all((tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)


def test_a_run_goes_on_where_its_photos_were_moved_to_and_with_no_others(train, tmp_path, photos, capsys):
    here, there, few = (tmp_path / name for name in ("here", "there", "few"))
    shutil.copytree(photos, here)
    assert train("--photos", here, "--steps", 1, "--out", "run") == 0
    here.rename(there)
    code, line = answer(capsys, script.main, "--resume", tmp_path / "run", "--steps", 2)
    assert code == 1 and "--photos" in line and f"{here}" in line and "is not there" in line
    code, line = answer(capsys, script.main, "--resume", tmp_path / "run", "--photos", write_photos(few, 3))
    assert code == 1 and "was trained on 16 photos" in line and "3 photos of 32 pixels" in line
    assert train("--resume", tmp_path / "run", "--photos", there, "--steps", 2) == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["flags"]["photos"] == str(there)
    assert train("--resume", tmp_path / "run", "--steps", 3) == 0


def test_neither_script_goes_on_with_a_run_of_the_other(done, tmp_path, capsys):
    code, line = answer(capsys, load_script("train_mnist").main, "--resume", done)
    assert code == 1 and "is not a run of" in line and "no --data-dir" in line
    words = [*TINY, "--data-dir", write_mnist(tmp_path / "mnist"), "--dry-run", "--out", tmp_path / "digits"]
    assert cli.run_main(load_script("train_mnist").main, [*map(str, words)]) == 0
    code, line = answer(capsys, script.main, "--resume", tmp_path / "digits")
    assert code == 1 and "is not a run of" in line and "no --photos" in line


# ---- bad input -------------------------------------------------------------------------------------------------------


BAD = {
    "no folder named": ([], 2, "there is no --photos: name the folder of pictures"),
    "a folder that is not there": (["--photos", "absent"], 1, "absent is not there: name a folder of pictures"),
    "a file": (["--photos", "page.png"], 1, "is a file, no folder"),
    "an empty folder": (["--photos", "empty"], 1, "no pictures in empty: it is empty"),
    "web pages alone": (["--photos", "pages"], 1, "none of the 1 pictures in pages can be read"),
    "the digits' size": (["--photos", "empty", "--size", "28"], 2, "--size"),
    "another size": (["--photos", "empty", "--size", "48"], 2, "--size"),
    "no VGG16": (["--photos", "empty", "--vgg16", "page.png"], 1, "page.png"),
    "digits' folder": (["--data-dir", "empty"], 2, "unknown flag --data-dir"),
}


@pytest.mark.parametrize("words, code, expected", BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_and_leaves_no_run(tmp_path, monkeypatch, capsys, words, code, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/page.png").write_text("<html>")
    got, line = answer(capsys, script.main, *TINY, *words)
    assert got == code and expected in line and not (tmp_path / "runs").exists()


def test_each_script_offers_its_own_sizes(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_photos.py"])
    assert "(32, 64, 128)" in next(line for line in listed_settings(script.build_parser(), capsys).splitlines()
                                   if line.startswith("nets.size"))
    assert "(28, 32, 64)" in next(
        line for line in listed_settings(load_script("train_mnist").build_parser(), capsys).splitlines()
        if line.startswith("nets.size"))


@pytest.mark.parametrize("words, expected", [
    ([], 0.125), (["--size", "128"], 0.5), (["--size", "128", "--init-scale", "0.25"], 0.25),
    (["--size", "128", "--preset", "paper"], 1.0)])
def test_initial_weights_are_larger_at_128_pixels(words, expected):
    flags, _ = script.read_flags(["--photos", "x", "--device", "cpu", *words])
    assert flags["init_scale"] == expected and flags["size"] == (128 if words else 64)


# ---- sample.py and evaluate.py -------------------------------------------------------------------------------------


def test_samples_are_drawn_in_colour(done, tmp_path):
    out = tmp_path / "grid.png"
    words = ["--checkpoint", str(done), "--grid", "2x3", "--device", "cpu", "--out", str(out)]
    assert cli.run_main(sample.main, words) == 0
    assert pictures.read_png(out).shape == (2 * 34 + 2, 3 * 34 + 2, 3)


def table_of(capsys, *words):
    capsys.readouterr()
    assert cli.run_main(evaluate.main, [*map(str, words), "--threads", "1"]) == 0
    return capsys.readouterr().out


def test_every_row_stands_beside_the_other_half_of_the_photos(done, tmp_path, capsys):
    file = tmp_path / "figures.json"
    table = table_of(capsys, "--checkpoint", done, "--n", 20, "--json", file)
    found = json.loads(file.read_text())
    assert list(found["rows"]) == ROWS
    assert all(row["label"] in table and row["value"] is not None for row in found["rows"].values())
    assert all((row["compare"] is None) == (key in ("nearest_any", "nearest_copy"))
               for key, row in found["rows"].items())
    assert "8 photos against 8 others" in table and "all 16 photos" in table  # half of 16
    assert "features: 576 coarse numbers" in table and "a stand-in" in table and "photos: 16 photos" in table
    assert "learned from:" not in table
    assert table_of(capsys, "--checkpoint", done, "--n", 20) == table  # the same seed, the same figures
    small_file(tmp_path / "small.h5")
    named = table_of(capsys, "--checkpoint", done, "--n", 8, "--vgg16", tmp_path / "small.h5")
    assert "features: 6 means of conv5_3 of the VGG16 in small.h5" in named


def test_other_photos_are_named_as_such(done, tmp_path, capsys):
    few = write_photos(tmp_path / "few", 12)
    table = table_of(capsys, "--checkpoint", done, "--n", 6, "--photos", few)
    assert "photos: 12 photos" in table and "not the photos that the run learned from: 16 photos" in table
    shutil.copytree(done, tmp_path / "run")
    (tmp_path / "run/config.json").unlink()  # of the checkpoint by itself the photos must be named
    code, line = answer(capsys, evaluate.main, "--checkpoint", tmp_path / "run", "--n", 200)
    assert code == 1 and "say with --photos" in line
    assert "12 photos" in table_of(capsys, "--checkpoint", tmp_path / "run", "--photos", few, "--n", 6)


def test_evaluate_refuses_what_means_nothing_here(done, tmp_path, capsys):
    few = write_photos(tmp_path / "few", 11)
    moved = shutil.copytree(done, tmp_path / "moved")
    config = json.loads((moved / "config.json").read_text())
    config["flags"]["photos"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    words = ["--data-dir", write_mnist(tmp_path / "mnist"), "--dry-run", "--out", tmp_path / "digits"]
    assert cli.run_main(load_script("train_mnist").main, [*map(str, [*TINY, *words])]) == 0
    table = [
        (done, ["--full"], 2, "--full is for runs of train_mnist.py"),
        (done, ["--reconstruct", 3], 2, "--reconstruct is for runs of train_mnist.py"),
        (done, ["--data-dir", tmp_path], 2, "--data-dir is for runs of train_mnist.py"),
        (done, ["--n", 5], 2, "at least 6 samples"),
        (done, ["--photos", few], 1, "holds 11 photos: the measures compare one half"),
        (moved, [], 1, f"trained on the photos in {tmp_path / 'gone'}, which is gone"),
        (tmp_path / "digits", ["--vgg16", "x.h5"], 2, "--vgg16 is for runs of train_photos.py"),
        (tmp_path / "digits", ["--photos", few], 2, "draws gray images"),
    ]
    for run, more, code, expected in table:
        got, line = answer(capsys, evaluate.main, "--checkpoint", run, *more)
        assert got == code and expected in line, (more, got, line)


# ---- the 2,350 photos ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path(os.environ.get("TINYGAN_DATA", "nowhere"), "photos").is_dir(),
                    reason="TINYGAN_DATA names no folder with photos/")
def test_some_of_the_varied_photos_from_start_to_table(train, tmp_path, capsys):
    every = sorted(Path(os.environ["TINYGAN_DATA"], "photos").glob("*.jpg"))
    assert len(every) == 2350
    some = tmp_path / "some"
    some.mkdir()
    for path in every[::50]:
        (some / path.name).symlink_to(path)
    words = ["--photos", some, "--size", 64, "--base-channels", 4, "--batch-size", 8]
    assert train(*words, "--steps", 6, "--out", "whole") == 0
    assert train(*words, "--steps", 3, "--out", "run") == 0 and train("--resume", "run", "--steps", 6) == 0
    assert saved(tmp_path / "run") == saved(tmp_path / "whole")
    assert cli.run_main(sample.main, ["--checkpoint", "run", "--n", "4", "--device", "cpu", "--out", "four.png"]) == 0
    table = table_of(capsys, "--checkpoint", "run", "--n", 40)
    assert "47 photos of 64 pixels" in table and "23 photos against 23 others" in table
