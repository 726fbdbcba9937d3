"""The training script from its flags to its files: what a run leaves, and what stopping, resuming and NaN do to it.

The nets are as small as they can be and the digits are made up, so that whole runs take a fraction of a second.
"""

import csv
import gzip
import html
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from script_tools import (
    COUNT,
    ROOT,
    TINY,
    check_training_without_a_log,
    contents,
    full_at,
    idx_images,
    listed_settings,
    load_script,
    over,
    real_mnist,
    start_script,
    write_mnist,
)

from tinygan import Tensor, data
from tinygan.app import checkpoint, cli, gan_game, pictures, runfiles
from tinygan.app.device import pick_device
from tinygan.data.mnist import BUNDLED
from tinygan.kernels import counter
from tinygan.metrics import log as metrics_log
from tinygan.models.classifiers.load import find_classifier
from tinygan.models.gan.game import turn_of_d, turn_of_g
from tinygan.models.gan.nets import GANConfig

script = load_script("train_mnist")
SIDE = 8 * (32 + 2) + 2  # pixels of a picture of 8 x 8 images


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_mnist(tmp_path_factory.mktemp("mnist"))


@pytest.fixture(autouse=True)
def no_classifier(monkeypatch):
    """What the digit classifier measures is tested with it; here it would only cost time."""
    monkeypatch.setattr(script, "find_classifier", lambda notify=print: None)


@pytest.fixture
def plain_finish(monkeypatch):
    """Leave out the curves, the animation and the report at the end of a run."""
    monkeypatch.setattr(script.Run, "finish", lambda run: [])


@pytest.fixture
def train(digits, tmp_path, monkeypatch):
    """train("--flag", ...) runs the script in an empty folder and returns its exit code.

    A run that is resumed is told nothing of its settings: they must come back from its folder.
    """
    monkeypatch.chdir(tmp_path)

    def run(*words):
        first = [] if "--resume" in words else [*TINY, "--data-dir", str(digits)]
        return cli.run_main(script.main, over(first, words))

    return run


def log_rows(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def saved(folder):
    return (folder / "checkpoint.npz").read_bytes()


# ---- what a run leaves -------------------------------------------------------------------------------------------


def test_a_run_leaves_its_folder_and_nothing_else(train, tmp_path, capsys):
    assert train("--steps", 7, "--log-every", 2, "--sample-every", 3, "--save-every", 5) == 0
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    run = "runs/mnist-sgan-1"
    names = ["checkpoint.npz", "config.json", "log.csv", "loss.png", "report.html", "routes.png", "samples",
             "samples/step_000000.png", "samples/step_000003.png", "samples/step_000006.png",
             "samples/step_000007.png", "training.gif"]
    assert found == ["runs", run, *(f"{run}/{name}" for name in names)]

    folder = tmp_path / run
    flags = json.loads((folder / "config.json").read_text())["flags"]
    assert (flags["steps"], flags["bank"], flags["model"], flags["routes"]) == (7, [2], "sgan", "sample")
    rows = log_rows(folder)
    assert [int(row["step"]) for row in rows] == [2, 3, 4, 6, 7]  # every second step, and those with a picture
    assert all(np.isfinite(float(row[name])) for row in rows for name in ("d_loss", "g_loss", "d_grad", "g_grad"))
    # The spread is known where samples were drawn, and belongs to the row of that step.
    assert [bool(row["spread"]) for row in rows] == [False, True, False, True, True]
    for path in [*folder.glob("samples/*.png"), folder / "routes.png"]:
        with Image.open(path) as picture:
            names = pictures.LINE + 2 if path.name == "routes.png" else 0  # above its columns
            assert picture.size == (SIDE, SIDE + names)
    with Image.open(folder / "training.gif") as gif:
        assert gif.n_frames == 4
    assert "http" not in re.sub(r'"data:[^"]*"|http://www.w3.org[^"]*', "", (folder / "report.html").read_text())
    out = capsys.readouterr()
    assert "seed: 0" in out.out and "runs/mnist-sgan-1/report.html" in out.out
    assert re.search(r"step 7/7 +100% .*left", out.err)


def test_samples_come_at_the_papers_steps(train, tmp_path, plain_finish):
    assert train("--steps", 101, "--log-every", 40, "--model", "gan", "--bank", 1, "--batch-size", 1) == 0
    names = sorted(path.name for path in tmp_path.glob("runs/mnist-gan-1/samples/*"))
    assert names == [f"step_{step:06d}.png" for step in (0, 50, 100, 101)]


def test_the_columns_of_routes_png_share_a_route_and_are_named(train, tmp_path, monkeypatch, plain_finish):
    """Given routes that a fake generator paints in grey, every column is of one grey, and its name is that route."""
    named, sheet = [], pictures.routes_sheet
    monkeypatch.setattr(pictures, "routes_sheet", lambda images, headers: named.extend(headers) or sheet(images))

    def paint(generator, z, routes, device):
        return np.broadcast_to((routes[:, :1, None, None] / 10).astype(np.float32), (len(z), 1, 32, 32)).copy()

    monkeypatch.setattr(gan_game, "generate", paint)
    assert train("--steps", 1, "--bank", 9) == 0
    image = pictures.read_png(tmp_path / "runs/mnist-sgan-1/routes.png")
    centres = image[16::34, 16::34].reshape(8, 8, -1)[:, :, 0]
    assert (centres == centres[0]).all() and len(set(centres[0])) > 2
    assert all(re.fullmatch(r"\d,\d,\d,0", name) for name in named)
    assert [round(int(name[0]) / 10 * 255) for name in named] == centres[0].tolist()


def test_dry_run_does_everything_in_a_folder_that_it_names(train, tmp_path, tmp_path_factory, monkeypatch, capsys):
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert train("--dry-run") == 0
    assert list(tmp_path.iterdir()) == []
    (folder,) = scratch.iterdir()
    out = capsys.readouterr().out
    assert "dry run" in out and f"its pictures and report are in {folder}" in out and (folder / "report.html").exists()
    assert train("--dry-run", "--bank", "2,2") == 2
    assert list(scratch.iterdir()) == [folder]  # what comes to nothing leaves nothing
    assert train("--dry-run", "--out", tmp_path / "kept") == 0
    assert (tmp_path / "kept/report.html").exists() and len(log_rows(tmp_path / "kept")) == 2


class Sure:
    """A digit classifier that names every digit equally often."""

    def classify(self, images):
        assert images.shape[1:] == (1, 28, 28)
        labels = np.arange(len(images)) % 10
        return (0.05 + 0.5 * np.eye(10))[labels], np.zeros((len(images), 2), np.float32)


@pytest.mark.parametrize("every, samples, n", [
    (2, ["1000", "2000"], 1000), (4, ["", "2000"], 1000), (0, ["", "2000"], 1000), (2, ["300", "2000"], 300),
    (2, ["2500", "2500"], 2500)])
def test_measurements_of_a_classifier_are_logged_and_printed(train, tmp_path, monkeypatch, plain_finish, capsys, every,
                                                             samples, n):
    """Now and then with --eval-samples images, at the end, whatever --eval-every says, with 2,000 or more."""
    monkeypatch.setattr(script, "find_classifier", lambda notify=print: Sure())
    assert train("--steps", 4, "--log-every", 2, "--eval-every", every, "--eval-samples", n) == 0
    rows = log_rows(tmp_path / "runs/mnist-sgan-1")
    assert [row["samples"] for row in rows] == samples
    assert [row["classes"] for row in rows] == ["10" if n else "" for n in samples]
    assert float(rows[1]["kl"]) == 0 and float(rows[1]["confidence"]) == pytest.approx(0.55)
    assert "10 of 10 digits drawn, KL to equal shares 0.000 nats" in capsys.readouterr().out
    # Where the run goes on, its row stays as it is.
    before = (tmp_path / "runs/mnist-sgan-1/log.csv").read_bytes()
    assert train("--resume", "--steps", 5) == 0
    assert [row["samples"] for row in log_rows(tmp_path / "runs/mnist-sgan-1")] == [*samples, samples[-1]]
    assert (tmp_path / "runs/mnist-sgan-1/log.csv").read_bytes().startswith(before)


def test_the_spread_is_that_of_the_images_that_were_measured(training, monkeypatch):
    """In a row with both a measurement and a picture, too, whose 64 images have another."""
    training.classifier = Sure()
    measured = training.measure(50)
    drawn = gan_game.generate(training.best, training.fixed_z, training.fixed_routes, training.device)
    for latest, expected in ((dict(measured), measured["spread"]),
                             ({"g_loss": 1.0}, metrics_log.relative_spread(drawn, training.reference))):
        training.latest = latest
        training.draw_samples(SimpleNamespace(save_sample=lambda step, picture: None))
        assert training.latest["spread"] == expected
    assert metrics_log.relative_spread(drawn, training.reference) != measured["spread"] > 0


def test_console_and_report_say_the_same(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "find_classifier", lambda notify=print: Sure())
    monkeypatch.setattr(metrics_log, "EARLY", 2)
    assert train("--steps", 7, "--log-every", 1, "--sample-every", 3, "--out", "run") == 0
    printed, page = capsys.readouterr(), html.unescape((tmp_path / "run/report.html").read_text())
    step, sentence = re.findall(r"^step (\d+): (.*)$", printed.out, re.MULTILINE)[-1]
    assert step == "7" and f"At step 7, {sentence}." in page and "10 of 10 classes, KL 0.00 nats" in sentence
    assert "images that were measured" in page
    # So do the lines on the way, which the report tells as its story: they are of the log as it was then.
    rows = runfiles.read_log(tmp_path / "run")
    assert re.findall(r"^step \d+: .*$", printed.err, re.MULTILINE) == [
        metrics_log.line([row for row in rows if row["step"] <= step]) for step in (3, 6)]


@pytest.mark.parametrize("stacked", [[], ["--stacked"]])
def test_what_is_no_digit_is_not_measured_as_one(tmp_path, monkeypatch, plain_finish, capsys, stacked):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "find_classifier", lambda notify=print: pytest.fail("clothes are no digits"))
    words = [*TINY, "--data-dir", str(write_mnist(tmp_path / "fashion")), "--steps", "1", "--eval-every", "1", *stacked]
    assert cli.run_main(script.main, words) == 0
    out = capsys.readouterr().out
    assert f"data: Fashion-MNIST train: {COUNT} clothes from {tmp_path / 'fashion'}\n" in out
    assert "note: Fashion-MNIST shows clothes: classes drawn, KL and confidence are of digits, so they are not" in out


def test_triples_of_stacked_digits_are_counted_and_shown(train, tmp_path, monkeypatch, capsys):
    """Sure's labels of 3 N channels are 012, 345, ...: ten triples, equally often, none with confidence above 0.9."""
    monkeypatch.setattr(script, "find_classifier", lambda notify=print: Sure())
    monkeypatch.setattr(metrics_log, "EARLY", 1)
    assert train("--stacked", "--steps", 4, "--log-every", 1, "--eval-every", 2, "--sample-every", 2,
                 "--eval-samples", 100, "--out", "run") == 0
    rows, printed = log_rows(tmp_path / "run"), capsys.readouterr()
    assert [(row["modes"], row["samples"]) for row in rows] == [("", ""), ("10", "100"), ("", ""), ("10", "2000")]
    for row in rows[1::2]:
        assert float(row["modes_kl"]) == pytest.approx(np.log(100), rel=1e-4)
        assert float(row["confidence"]) == pytest.approx(0.55)
        assert (float(row["sure"]), float(row["modes_sure"])) == (0, 0) and float(row["spread"]) > 0
    line = ("10 of 1,000 triples drawn, KL to equal shares 4.605 nats, classifier's mean confidence 0.550; 0 triples "
            "among the 0 % of the samples with three digits above 0.9 (over {} samples)")
    assert line.format(100) in printed.err.splitlines() and line.format("2,000") in printed.out.splitlines()
    page = html.unescape((tmp_path / "run/report.html").read_text())
    assert f"At step 4, {line.format('2,000')}." in page and "distinct triples, of 1,000" in page
    assert "classes" not in metrics_log.assess_log(runfiles.read_log(tmp_path / "run")).sentence
    assert cli.run_main(load_script("sample").main, ["--checkpoint", "run", "--n", "4", "--out", "grid.png"]) == 0
    assert pictures.read_png(tmp_path / "grid.png").shape == (70, 70, 3)


def test_the_shipped_classifier_measures(train, monkeypatch, plain_finish, capsys):
    if find_classifier() is None:
        pytest.skip(f"no classifier: {capsys.readouterr().out}")
    monkeypatch.setattr(script, "find_classifier", find_classifier)
    assert train("--dry-run", "--size", 64) == 0
    assert re.search(r"\d+ of 10 digits drawn, KL .* \(over 200 samples\)", capsys.readouterr().out)


@pytest.mark.skipif(not real_mnist(), reason="TINYGAN_DATA names no folder with the real MNIST")
def test_real_mnist(tmp_path, monkeypatch, capsys, plain_finish):
    monkeypatch.chdir(tmp_path)
    assert cli.run_main(script.main, [*TINY, "--steps", "2"]) == 0
    assert "60,000 digits" in capsys.readouterr().out


# ---- the same bytes ----------------------------------------------------------------------------------------------

MAIN = ["--ema", 0.9, "--lr-decay", 10, "--lr-warmup", 2]  # with Adam and an SGAN, the defaults
VARIANTS = {
    "gan, rmsprop": (3, ["--model", "gan", "--bank", 1, "--optimizer", "rmsprop", "--ema", 0]),
    "tied, batch": (3, ["--model", "tied", "--routes", "batch", "--bank", 3]),
    "affine bank, dense": (3, ["--norm", "affine", "--bank-affine", "--bank-act", "--bank-updates", "dense"]),
    "set smaller than a batch": (1, ["--batch-size", COUNT + 5]),
    "stacked, two steps of D on packs, one-hot": (3, ["--stacked", "--d-steps", 2, "--pack", 2, "--one-hot", "3,2",
                                                      "--freeze-banks"]),
}
# One step, inside an epoch, after the last batch of an epoch, inside the second one.
STOPS = [(f"sgan, adam, after {n}", n, MAIN) for n in (1, 3, 6, 7)] + [(name, *rest) for name, rest in VARIANTS.items()]


def test_resume_gives_the_bytes_of_a_run_never_stopped(train, tmp_path, plain_finish, capsys):
    whole, equal = {}, []
    for name, n, options in STOPS:
        if str(options) not in whole:
            out = tmp_path / f"whole-{len(whole)}"
            assert train(*options, "--steps", 8, "--out", out) == 0
            whole[str(options)] = saved(out)
        part = tmp_path / re.sub(r"\W+", "-", name)
        assert train(*options, "--steps", n, "--out", part) == 0
        assert saved(part) != whole[str(options)]
        assert train("--resume", part, "--steps", 8) == 0
        equal.append(saved(part) == whole[str(options)])
    with capsys.disabled():
        print(f"\nresume {sum(equal)}/{len(equal)} byte-equal")
    assert equal == [True] * len(STOPS), [name for (name, *_), same in zip(STOPS, equal, strict=True) if not same]


def test_same_seed_same_bytes_and_another_seed_others(train, tmp_path, plain_finish):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert train("--steps", 3, "--seed", seed, "--out", tmp_path / name) == 0
    a, b, c = (tmp_path / name for name in "abc")
    assert saved(a) == saved(b) != saved(c)
    assert (a / "log.csv").read_bytes() == (b / "log.csv").read_bytes() != (c / "log.csv").read_bytes()
    assert (a / "routes.png").read_bytes() == (b / "routes.png").read_bytes()


def test_looking_at_a_run_does_not_change_it(train, tmp_path, plain_finish):
    """Logging, drawing and saving more often leaves the training itself as it is."""
    assert train("--steps", 5, "--out", tmp_path / "a") == 0
    assert train("--steps", 5, "--out", tmp_path / "b", "--log-every", 1, "--sample-every", 1, "--save-every", 1) == 0
    assert saved(tmp_path / "a") == saved(tmp_path / "b")


def test_log_and_samples_go_on_without_a_seam(train, tmp_path, plain_finish):
    folder = tmp_path / "run"
    often = ["--log-every", 1, "--sample-every", 2, "--save-every", 100]
    assert train("--steps", 4, "--out", folder, *often) == 0
    early = saved(folder)
    assert train("--resume", folder, "--steps", 7, *often) == 0
    assert [int(row["step"]) for row in log_rows(folder)] == [1, 2, 3, 4, 5, 6, 7]
    # Killed at step 7 with a checkpoint of step 4: rows and pictures after it come again, once.
    (folder / "checkpoint.npz").write_bytes(early)
    assert train("--resume", folder, "--steps", 6, *often) == 0
    assert [int(row["step"]) for row in log_rows(folder)] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in folder.glob("samples/*")) == [f"step_{n:06d}.png" for n in (0, 2, 4, 6)]


def test_resume_finds_the_newest_run_of_the_model(train, tmp_path, plain_finish, capsys):
    for _ in range(2):
        assert train("--steps", 1) == 0
    assert train("--steps", 1, "--model", "gan", "--bank", 1) == 0
    first, second = (tmp_path / f"runs/mnist-sgan-{n}" for n in (1, 2))
    os.utime(first / "checkpoint.npz", ns=(1, 1))
    before = saved(first)
    capsys.readouterr()
    assert train("--resume", "--steps", 2) == 0
    assert "going on at step 1 of runs/mnist-sgan-2" in capsys.readouterr().out
    assert saved(first) == before and int(log_rows(second)[-1]["step"]) == 2


def test_steps_after_epochs_and_epochs_after_steps(train, tmp_path, plain_finish):
    folder = tmp_path / "run"
    assert train("--epochs", 1, "--out", folder) == 0
    assert int(log_rows(folder)[-1]["step"]) == COUNT // 4
    assert train("--resume", folder, "--steps", 7) == 0  # fewer than another epoch would be
    assert int(log_rows(folder)[-1]["step"]) == 7
    assert train("--resume", folder, "--epochs", 2) == 0
    assert int(log_rows(folder)[-1]["step"]) == 2 * COUNT // 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_signal_saves_and_the_resumed_run_is_the_same(train, digits, tmp_path, plain_finish):
    folder = tmp_path / "run"
    options = [*TINY, "--data-dir", str(digits), "--log-every", "1", "--eval-every", "0"]
    process = start_script("train_mnist", *options, "--steps", "100000", "--out", str(folder))
    seen = [next(process.stderr, "")]
    while seen[-1] and not seen[-1].startswith("step 5/"):
        seen.append(next(process.stderr, ""))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, "".join(seen) + err
    assert f"--resume {folder}" in out and "Traceback" not in err
    steps = [int(row["step"]) for row in log_rows(folder)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 5

    total = len(steps) + 3
    assert train("--resume", folder, "--steps", total) == 0
    assert train("--steps", total, "--out", tmp_path / "whole") == 0
    assert saved(folder) == saved(tmp_path / "whole")
    assert [int(row["step"]) for row in log_rows(folder)] == list(range(1, total + 1))


# ---- going on with a run -----------------------------------------------------------------------------------------


def test_a_run_that_is_there_already_is_not_rewritten(train, tmp_path, plain_finish, capsys):
    assert train("--steps", 7, "--out", "run") == 0
    before = contents(tmp_path / "run")
    for words, said in ((["--steps", 5], "at step 7 already, and --steps 5 is less: give more"),
                        (["--epochs", 1], "at step 7 already, and --epochs 1 is 6 steps: give more")):
        capsys.readouterr()
        assert train("--resume", "run", *words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert contents(tmp_path / "run") == before
    assert train("--resume", "run") == 0
    assert "this run is finished, at step 7 of 7: more --steps would go on" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/config.json").read_text())["flags"]["steps"] == 7


def test_out_names_the_run_to_go_on_with(train, tmp_path, plain_finish, capsys):
    assert train("--steps", 1, "--out", "a") == 0
    assert train("--steps", 1) == 0  # a newer one, which is not meant
    assert train("--out", "a", "--resume", "--steps", 2) == 0
    assert int(log_rows(tmp_path / "a")[-1]["step"]) == 2
    assert train("--out", "a", "--resume", tmp_path / "a", "--steps", 3) == 0
    capsys.readouterr()
    for words, said in ((["--out", "b", "--resume", "a"], "a run goes on where it is, in a: leave --out out"),
                        (["--out", "a", "--resume", "--overwrite"], "give one of them"),
                        (["--out", "b", "--resume"], "b is not the folder of a run")):
        assert train(*words) != 0
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not (tmp_path / "b").exists()


def test_a_run_knows_its_data(train, digits, tmp_path, plain_finish, monkeypatch, capsys):
    """The same digits elsewhere are the same; others of that number, or none where they lay, are refused."""
    assert train("--steps", 1, "--out", "run") == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    moved, other = shutil.copytree(digits, tmp_path / "moved"), shutil.copytree(digits, tmp_path / "other")
    images = np.full((COUNT, 28, 28), 7, np.uint8)
    (other / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_images(images), mtime=0))
    assert train("--resume", "run", "--data-dir", "moved", "--steps", 2) == 0
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    assert train("--resume", tmp_path / "run", "--steps", 3) == 0  # the relative path was kept as an absolute one
    before, _ = contents(tmp_path / "run"), capsys.readouterr()
    assert train("--resume", tmp_path / "run", "--data-dir", other, "--steps", 4) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"trained on MNIST train: {COUNT} digits from {moved}" in line and f"digits from {other}" in line
    moved.rename(tmp_path / "again")
    assert train("--resume", tmp_path / "run", "--steps", 4) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--data-dir {moved}" in line and "say where with --data-dir" in line
    assert contents(tmp_path / "run") == before
    # A run of an older version, whose folder was kept as it was typed and nothing else of its data.
    del config["inputs"], config["command"]
    monkeypatch.chdir(tmp_path)
    config["flags"]["data_dir"] = "again"
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert train("--resume", "run", "--steps", 5) == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["flags"]["data_dir"] == str(tmp_path / "again") and "hash" in config["inputs"]["data"]


STREAMS = [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | head -1"]


@pytest.mark.skipif(sys.platform == "win32", reason="the shell's own way to close a stream")
@pytest.mark.parametrize("streams", STREAMS)
def test_nobody_watching_is_no_reason_to_stop(digits, tmp_path, streams):
    """The run ends well, and its files are those of a run that was watched."""
    words = [sys.executable, str(ROOT / "train_mnist.py"), *TINY, "--data-dir", str(digits), "--eval-every", "0",
             "--log-every", "1", "--save-every", "2", "--steps", "9", "--out"]
    subprocess.run([*words, "watched"], cwd=tmp_path, capture_output=True, check=True)
    done = subprocess.run(f"({shlex.join([*words, 'alone'])}; echo $? > code) {streams}", shell=True, cwd=tmp_path,
                          capture_output=True, text=True)
    assert (tmp_path / "code").read_text() == "0\n" and "Traceback" not in done.stdout + done.stderr
    a, b = (contents(tmp_path / name) for name in ("watched", "alone"))
    assert a.keys() == b.keys() and all(a[name] == b[name] for name in ("checkpoint.npz", "log.csv", "routes.png"))


@pytest.mark.parametrize("kind", ["empty", "rubbish", "folder"])
def test_a_log_that_cannot_be_read_ends_no_training(train, tmp_path, plain_finish, monkeypatch, capsys, kind):
    check_training_without_a_log(train, tmp_path, script.Run, monkeypatch, capsys, kind)


def test_a_picture_that_cannot_be_drawn_keeps_no_report_away(train, tmp_path, monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise MemoryError("too wide")

    monkeypatch.setattr(pictures, "routes_sheet", broken)
    assert train("--steps", 1, "--out", "run") == 0
    assert (tmp_path / "run/report.html").exists() and not (tmp_path / "run/routes.png").exists()
    assert "note: routes.png was not made (MemoryError: too wide)" in capsys.readouterr().err


def test_a_disk_that_is_full_at_the_end_is_said_in_notes(train, tmp_path, monkeypatch):
    end_run = script.end_run

    def on_a_full_disk(*args):
        with full_at(64):
            return end_run(*args)

    monkeypatch.setattr(script.MnistGame, "measure", lambda game, n: {"classes": 9, "kl": 0.5, "confidence": 1.0,
                                                                       "samples": n})
    monkeypatch.setattr(script, "end_run", on_a_full_disk)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert train("--steps", 1, "--out", "run") == 0
    text = sys.stdout.getvalue() + sys.stderr.getvalue()
    assert all(f"note: {name} " in text for name in ("log.csv", "report.html", "loss.png")) and "routes.png" in text
    assert checkpoint.load(tmp_path / "run")[1]["step"] == 1 and not list((tmp_path / "run").glob("*.tmp"))


def test_a_run_on_the_bundled_set_goes_on_with_it(digits, tmp_path, plain_finish, monkeypatch, capsys):
    """What was found on the machine when it began need not be what is found there later."""
    monkeypatch.chdir(tmp_path)
    for number, (first, then, code) in enumerate(((BUNDLED, digits, 0), (digits, BUNDLED, 1))):
        monkeypatch.setenv("TINYGAN_DATA", str(first))
        assert cli.run_main(script.main, [*TINY, "--steps", "1", "--out", f"{number}"]) == 0
        known = runfiles.read_config(str(number))["inputs"]
        monkeypatch.setenv("TINYGAN_DATA", str(then))
        assert cli.run_main(script.main, ["--resume", f"{number}", "--steps", "2"]) == code
        assert ("began on the bundled set and goes on with it" in capsys.readouterr().out) == (code == 0)
        assert runfiles.read_config(str(number))["inputs"] == known


def test_a_run_on_files_whose_names_start_so_goes_on(train, digits, tmp_path, plain_finish, capsys):
    folder = shutil.copytree(digits, tmp_path / "gzip")
    for path in list(folder.iterdir()):
        path.rename(folder / f"emnist-digits-{path.name}")
    assert train("--steps", 1, "--data-dir", "gzip/emnist-digits", "--out", "run") == 0
    assert train("--resume", "run", "--steps", 2) == 0 and "EMNIST's digits" in capsys.readouterr().out
    shutil.rmtree(folder)
    assert train("--resume", "run", "--steps", 3) == 1 and "say where with --data-dir" in capsys.readouterr().err


def test_samples_that_are_cleared_away_under_way_stop_nothing(train, tmp_path, plain_finish, monkeypatch, capsys):
    draw_samples = script.MnistGame.draw_samples

    def clear(game, run):
        if game.step == 2:
            shutil.rmtree(run.folder / "samples")
            (run.folder / "samples").write_text("mine")
        draw_samples(game, run)

    monkeypatch.setattr(script.MnistGame, "draw_samples", clear)
    assert train("--steps", 6, "--sample-every", 1, "--out", "run") == 0
    assert capsys.readouterr().err.count("note: ") == 1
    assert int(log_rows(tmp_path / "run")[-1]["step"]) == 6 and saved(tmp_path / "run")


# ---- NaN ---------------------------------------------------------------------------------------------------------


def poison_data(training):
    training.next_real = lambda: Tensor(np.full((4, 1, 32, 32), np.nan, np.float32), name="real images")


def poison_weight(training):
    training.G.deconvs[0].weight.data[0, 0, 0] = np.nan


def poison_d_weight(training):
    training.D.convs[1].weight.data[0, 0, 0, 0, 0] = np.inf


NAN_CASES = {
    "data": (poison_data, "the batch of real images", 3),
    "weight": (poison_weight, "generator.deconvs.0.weight", 3),
    "weight of D": (poison_d_weight, "discriminator.convs.1.weight", 3),
}


@pytest.mark.parametrize("name", NAN_CASES)
def test_nan_stops_the_run_names_the_tensor_and_keeps_the_checkpoint(train, tmp_path, monkeypatch, capsys, name):
    poison, tensor, reported = NAN_CASES[name]
    kept = []
    set_rate = script.MnistGame.set_learning_rate

    def spoil(training):
        if training.step == 2:
            kept.append(saved(tmp_path / "run"))
            poison(training)
        set_rate(training)

    monkeypatch.setattr(script.MnistGame, "set_learning_rate", spoil)
    assert train("--steps", 9, "--out", "run", "--save-every", 2) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert f"step {reported}: {tensor} is not finite" in line and "from before" in line
    assert kept == [saved(tmp_path / "run")]


def test_detect_anomaly_names_operation_and_line(train, monkeypatch, capsys):
    def spoil(training):
        poison_data(training)

    monkeypatch.setattr(script.MnistGame, "set_learning_rate", spoil)
    assert train("--steps", 3, "--detect-anomaly", "--out", "run") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: \w+ gave not finite in \d+ of \d+ values at .*\.py:\d+; inputs: .*real images", line), line
    monkeypatch.undo()


# ---- every option ------------------------------------------------------------------------------------------------

OPTIONS = {  # flag -> other values than its default
    "--model": ["gan --bank 1", "tied", "tied --routes batch"], "--steps": ["3"], "--epochs": ["1 --batch-size 12"],
    "--batch-size": ["1", "5"], "-b": ["3"], "--bank": ["3", "2,1,3,1", "1,1,2,2"],
    "--routes": ["batch", "group:2", "group:3", "group:9"], "--base-channels": ["3"], "--latent-dim": ["5"],
    "--nz": ["6"], "--size": ["28", "64"], "--seed": ["7"], "--optimizer": ["rmsprop"], "--lr": ["1e-3"],
    "--d-lr": ["1e-4"], "--lr-decay": ["0", "1"], "--lr-warmup": ["3"], "--beta1": ["0"], "--beta2": ["0.9"],
    "--ema": ["0", "0.5"], "--bank-updates": ["dense"], "--loss": ["saturating"],
    "--bce": ["clamped", "clamped --loss saturating"], "--norm": ["affine", "none"], "--act": ["prelu"],
    "--slope": ["0.25"], "--clamp": ["forward", "none"], "--init-scale": ["0.5"],
    "--bank-affine": ["--norm affine", "--norm none"],
    "--bank-act": ["", "--act prelu"], "--init-factor": ["0.01"], "--d-input": ["01"], "--output": ["tanh"],
    "--device": ["auto"], "--tf32": [""], "--noise": ["counter"], "--threads": ["2"],
    "--out": ["here"], "-o": ["there"], "--overwrite": ["--out new"],
    "--log-every": ["1"], "--sample-every": ["1"], "--save-every": ["1"], "--eval-every": ["0"], "--dry-run": [""],
    "--detect-anomaly": [""], "--cuda-graph": ["no"], "--preset": ["paper", "gpu --bank 2"],
    "--stacked": ["", "--size 28", "--size 64 --model gan --bank 1"],
    "--d-steps": ["2"], "--freeze-banks": ["", "--model tied --bank-act"], "--eval-samples": ["300"],
    "--d-base-channels": ["3"], "--pack": ["2", "4"], "--one-hot": ["3", "2,2 --preset gpu --bank 2"],
}
ELSEWHERE = {"-h", "--help", "--version", "--set", "--list-settings", "--resume", "--data-dir"}  # tested elsewhere


def test_the_table_of_options_is_complete():
    flags = {word for action in script.build_parser()._actions for word in action.option_strings}
    assert set(OPTIONS) | ELSEWHERE == flags


@pytest.mark.parametrize("flag", OPTIONS)
def test_every_option_runs(train, tmp_path, plain_finish, flag):
    for number, value in enumerate(OPTIONS[flag]):
        words = [flag, *value.split()]
        if "--steps" not in words and "--epochs" not in words:
            words += ["--steps", 2]
        if not {"--out", "-o", "--dry-run"} & set(words):
            words += ["--out", tmp_path / f"run{number}"]
        assert train(*words) == 0, words


@pytest.mark.parametrize("words, said", [
    (["--pack", 3], "--batch-size 4 cannot be cut into packs of --pack 3: take a multiple of it"),
    (["--freeze-banks", "--model", "gan", "--bank", 1], "--freeze-banks needs banks: use --model sgan or tied"),
    (["--stacked", "--epochs", 2], "--stacked draws fresh triples of digits for ever: give --steps"),
    (["--freeze-banks", "--bank", 1], "--freeze-banks needs banks"),
    (["--one-hot", "3", "--noise", "counter"], "--one-hot draws its categories with NumPy's generator: use --noise"),
])
def test_flags_that_do_not_fit_together(train, tmp_path, capsys, words, said):
    assert train(*([] if "--epochs" in words else ["--steps", 1]), *words) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}") and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("model", ["sgan", "gan", "tied"])
def test_every_model_at_every_size(train, tmp_path, plain_finish, model):
    for size, side in ((28, 28), (32, 32), (64, 64)):
        out = tmp_path / f"{model}-{size}"
        bank = ["--bank", 1] if model == "gan" else []
        assert train("--model", model, "--size", size, "--steps", 2, "--out", out, *bank) == 0
        assert pictures.read_png(out / "samples/step_000002.png").shape[:2] == (8 * (side + 2) + 2,) * 2


@pytest.mark.parametrize("words, routes, shared", [
    ([], 8, False), (["--routes", "group:4"], 2, False), (["--routes", "batch"], 1, False),
    (["--model", "tied"], 8, True), (["--model", "gan", "--bank", "1"], 1, True)])
def test_routes_and_models_reach_the_loop(train, monkeypatch, plain_finish, words, routes, shared):
    """So many different routes in a batch of 8 (one fewer if two agree by chance); one index for all layers or not."""
    drawn = []
    draw = script.MnistGame.draw

    def spy(training, turn):
        drawn.append(draw(training, turn))
        return drawn[-1]

    monkeypatch.setattr(script.MnistGame, "draw", spy)
    assert train(*over(["--bank", "50", "--batch-size", "8", "--steps", "2"], words)) == 0
    assert len(drawn) == 4  # fresh noise and routes for either net in each step
    for z, chosen in drawn:
        assert z.shape == (8, 4) and chosen.shape == (8, 4) and len(np.unique(chosen, axis=0)) in (routes, routes - 1)
        assert shared == all(len(set(row[:3])) == 1 for row in chosen)


def test_noise_from_a_counter_is_new_at_every_turn_and_the_same_in_every_run(train, monkeypatch, plain_finish):
    drawn, draw = [], script.MnistGame.draw

    def spy(training, turn):
        drawn.append(draw(training, turn))
        return drawn[-1]

    monkeypatch.setattr(script.MnistGame, "draw", spy)
    for _ in range(2):
        assert train("--noise", "counter", "--steps", 3) == 0
    noise = [z.numpy().tobytes() for z, _ in drawn]
    assert len(set(noise)) == 6 and noise[:6] == noise[6:]


def test_each_step_of_d_has_images_noise_and_routes_of_its_own(train, monkeypatch, plain_finish):
    """Two steps with --d-steps 2: three turns each; with a counter its numbers never come again."""
    drawn, draw, real, next_real = [], script.MnistGame.draw, [], script.MnistGame.next_real

    def spy(training, turn):
        drawn.append((turn, draw(training, turn)))
        return drawn[-1][1]

    def spy_real(training):
        real.append(next_real(training))
        return real[-1]

    monkeypatch.setattr(script.MnistGame, "draw", spy)
    monkeypatch.setattr(script.MnistGame, "next_real", spy_real)
    assert train("--noise", "counter", "--steps", 2, "--d-steps", 2) == 0
    assert [turn for turn, _ in drawn] == [0, 1, 2] * 2 and len({x.numpy().tobytes() for x in real}) == 4
    noise = [z.numpy().ravel() for _, (z, _) in drawn]
    assert np.array_equal(noise, [counter.normal(0, stream, 16) for stream in range(6)])


def test_frozen_banks_stay_as_they_were_drawn(train, tmp_path, plain_finish):
    names = {}
    for out, steps in (("start", 1), ("end", 4)):
        assert train("--freeze-banks", "--steps", steps, "--out", out, "--bank-act") == 0
        names[out] = {name: array for name, array in checkpoint.load(tmp_path / out)[0].items()
                      if name.startswith("generator/")}
    moved = {name.removeprefix("generator/") for name, array in names["end"].items()
             if not np.array_equal(array, names["start"][name])}
    assert moved == {"deconvs.2.weight", "deconvs.2.gain", "deconvs.2.bias"}


def test_a_bank_of_one_is_the_plain_gan(train, tmp_path, plain_finish):
    """Same seed: an SGAN whose banks hold one set each trains to the weights of --model gan, bit for bit."""
    assert train("--model", "gan", "--bank", 1, "--steps", 3, "--out", "gan") == 0
    assert train("--model", "sgan", "--bank", "1,1,1,1", "--steps", 3, "--out", "sgan") == 0
    assert saved(tmp_path / "gan") == saved(tmp_path / "sgan")


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_images_than_a_batch(train, tmp_path, plain_finish, count):
    few = write_mnist(tmp_path / "few", count)
    assert train("--data-dir", few, "--steps", 3, "--out", "run") == 0
    assert train("--data-dir", few, "--epochs", 2, "--out", "epochs") == 0
    assert int(log_rows(tmp_path / "epochs")[-1]["step"]) == 2


# ---- one net at a time -------------------------------------------------------------------------------------------


@pytest.fixture
def training(digits):
    flags, _ = script.read_flags([*TINY, "--data-dir", str(digits)])
    config = GANConfig(base_channels=2, latent_dim=4, bank=(2,))
    return script.MnistGame(config, flags, data.load_mnist("train", data_dir=digits), pick_device("cpu"))


def fill_gradients(net):
    for p in net.parameters():
        p.grad = Tensor(np.full_like(p.data, 7.0))
    return [p.grad for p in net.parameters()]


def test_a_step_of_one_net_leaves_the_other_alone(training):
    t = training
    of_g, before = fill_gradients(t.G), t.G.state_dict()
    turn_of_d(t.G, t.D, t.d_optimizer, t.next_real(), t.draw(0))
    assert all(p.grad is g and (g.data == 7.0).all() for p, g in zip(t.G.parameters(), of_g, strict=True))
    assert all((p.numpy() == before[name]).all() for name, p in t.G.named_parameters())

    of_d, before = fill_gradients(t.D), t.D.state_dict()
    turn_of_g(t.G, t.D, t.g_optimizer, t.draw(1))
    assert all(p.grad is g and (g.data == 7.0).all() for p, g in zip(t.D.parameters(), of_d, strict=True))
    assert all((p.numpy() == before[name]).all() for name, p in t.D.named_parameters())
    assert all(p.requires_grad for p in t.D.parameters())


def test_the_loop_itself_keeps_the_nets_apart(train, monkeypatch, plain_finish):
    """In the script's own loop: while one optimiser steps, the other net's gradients are what they were."""
    seen = []

    class Watched(script.MnistGame):
        def __init__(self, *args):
            super().__init__(*args)
            for own, other, optimizer in ((self.D, self.G, self.d_optimizer), (self.G, self.D, self.g_optimizer)):
                optimizer.step = self.watch(own, other, optimizer.step)

        def watch(self, own, other, step):
            def watched():
                assert all(p.grad is not None for p in own.parameters())
                gradients, before = [p.grad for p in other.parameters()], other.state_dict()
                kept = self.__dict__.get("others", gradients)
                assert all(a is b for a, b in zip(gradients, kept, strict=True))
                step()
                assert all((p.numpy() == before[name]).all() for name, p in other.named_parameters())
                self.others = [p.grad for p in own.parameters()]
                seen.append(type(own).__name__)
            return watched

    monkeypatch.setattr(script, "MnistGame", Watched)
    assert train("--steps", 3) == 0
    assert seen == ["Discriminator", "Generator"] * 3


def test_everything_in_a_step_is_float32(train, monkeypatch, plain_finish):
    kinds = set()
    set_data = Tensor._set

    def spy(tensor, array, *rest):
        kinds.add(array.dtype.name)
        set_data(tensor, array, *rest)

    monkeypatch.setattr(Tensor, "_set", spy)
    assert train("--steps", 2, "--bank-act", "--bank-affine", "--norm", "affine", "--loss", "saturating") == 0
    assert kinds == {"float32"}


def test_help_is_short_and_the_list_of_settings_names_every_flag(capsys):
    text = listed_settings(script.build_parser(), capsys)
    assert "on a CPU" in text and "on a GPU" in text and all(word in text for word in OPTIONS)
    assert str(ROOT) not in text


def test_a_setting_is_the_flag_that_it_stands_for(train, tmp_path, plain_finish, capsys):
    words = ["--set", "nets.norm=affine", "--set=nets.bank_affine=yes", "--set", "nets.bank_act=no", "--set",
             "nets.discriminator_input=01"]
    assert train(*words, "--steps", 2, "--out", "set") == 0
    assert train("--norm", "affine", "--bank-affine", "--d-input", "01", "--steps", 2, "--out", "flag") == 0
    assert saved(tmp_path / "set") == saved(tmp_path / "flag")
    assert train("--resume", "set", "--set", "nets.norm=none") == 2
    assert "--norm is none but the run in set was made with affine" in capsys.readouterr().err
    for words, said in ((["nets.nrm=affine"], "did you mean nets.norm"), (["nets.norm"], "must be NAME=VALUE"),
                        ([], "NAME"), (["nets.bank_act=1"], "must be yes or no"),
                        (["nets.norm=x"], "--norm: invalid choice: 'x'"),
                        (["nets.norm=none", "--norm", "none"], "--norm: is given twice")):
        with pytest.raises(SystemExit) as stop:
            train("--steps", 1, "--set", *words)
        assert stop.value.code == 2 and said in capsys.readouterr().err
