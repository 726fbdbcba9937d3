"""train_gpan.py from its flags to its files: what a run leaves, and what stopping, resuming, NaN and little memory do.

The nets are as small as they can be and the classifier is the digits' own, so that runs take a fraction of a second.
That the gradients are right is held by test_gpan_step.py.
"""

import csv
import html
import json
import os
import re
import signal
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
from gpan_tools import TINY, write_picture
from PIL import Image
from script_tools import ROOT, check_training_without_a_log, contents, listed_settings, load_script, over, start_script
from vgg16_tools import small_file

from tinygan import Tensor
from tinygan.app import cli, gpan_game, pictures
from tinygan.app.device import Device, pick_device
from tinygan.app.gpan_measure import cam_sheet
from tinygan.data.substrates import open_substrates
from tinygan.kernels.gpu import launch
from tinygan.metrics import log as metrics_log
from tinygan.models.classifiers.load import find_classifier
from tinygan.models.gpan.nets import GPANConfig

pytest.importorskip("h5py")
script = load_script("train_gpan")


@pytest.fixture(autouse=True)
def a_classifier(capsys):
    if find_classifier() is None:
        pytest.skip(f"no classifier: {capsys.readouterr().out}")


@pytest.fixture
def quick(monkeypatch):
    """Small pictures, no measurement, no curves, animation and report."""
    monkeypatch.setattr(gpan_game, "ROWS", 1)
    monkeypatch.setattr(gpan_game, "COLUMNS", 2)
    monkeypatch.setattr(script.GPANGame, "measure", lambda training, n=0: {"samples": 0})
    monkeypatch.setattr(script.Run, "finish", lambda run: [])


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train("--flag", ...) runs the script in an empty folder and returns its exit code.

    A run that is resumed is told nothing of its settings: they must come back from its folder.
    """
    monkeypatch.chdir(tmp_path)

    def run(*words):
        return cli.run_main(script.main, over([] if "--resume" in words else TINY, words))

    return run


def log_rows(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def saved(folder):
    return (folder / "checkpoint.npz").read_bytes()


def error_line(capsys):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    return line


# ---- what a run leaves -------------------------------------------------------------------------------------------

COLUMNS = {"step", "wanted", "unwanted", "cgan", "background", "substrate", "split", "d_loss", "d_real", "d_fake",
           "logit_gap", "g_loss", *(f"pull_{name}" for name in script.WEIGHTS), "map_size", "g_grad",
           "d_grad", "train_top1", "train_top5", "train_probability"}
MEASURED = {"top1", "top5", "probability", "view_top1", "view_probability", "variety", "speckle", "samples"}


def test_a_run_leaves_its_folder_and_nothing_else(train, tmp_path, capsys):
    assert train("--steps", 5, "--log-every", 2, "--sample-every", 3, "--save-every", 4, "--eval-every", 4) == 0
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    run = "runs/gpan-1"
    names = ["cams.png", "checkpoint.npz", "config.json", "log.csv", "loss.png", "report.html", "routes.png", "samples",
             "samples/step_000000.png", "samples/step_000003.png", "samples/step_000005.png", "training.gif"]
    assert found == ["runs", run, *(f"{run}/{name}" for name in names)]
    folder = tmp_path / run
    flags = json.loads((folder / "config.json").read_text())["flags"]
    assert (flags["steps"], flags["bank"], flags["wanted"], flags["size"]) == (5, [2], ["3", "5", "8"], 64)
    assert all(value is not None for name, value in flags.items() if name in script.PRESETS["digits"])

    rows = log_rows(folder)
    assert [int(row["step"]) for row in rows] == [2, 3, 4, 5]  # every second step, and those with a picture
    assert COLUMNS | MEASURED <= set(rows[0])
    assert all(np.isfinite(float(value)) for row in rows for value in row.values() if value)
    assert all(row[name] for row in rows for name in COLUMNS)
    assert [bool(row["view_top1"]) for row in rows] == [False, False, True, True]  # the last step is always measured
    for name, names in (("routes.png", pictures.LINE + 2), ("samples/step_000003.png", 0), ("cams.png", 0)):
        assert pictures.read_png(folder / name).shape == (names + 4 * 66 + 2, 6 * 66 + 2, 3), name
    with Image.open(folder / "training.gif") as gif:
        assert gif.n_frames == 3
    out = capsys.readouterr()
    assert "seed: 0" in out.out and "wanted: 3; 5; 8" in out.out and f"{run}/report.html" in out.out
    assert re.search(r"step 5/5 +100% .*left", out.err)
    assert re.search(r"over 63 images: the classifier finds what is wanted in \d+% of the images", out.out)


def test_console_and_report_say_the_same_and_measuring_shows_how_far_it_is(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpan_game, "ROWS", 1)
    monkeypatch.setattr(gpan_game, "COLUMNS", 2)
    monkeypatch.setattr(metrics_log, "EARLY", 2)
    monkeypatch.setattr(gpan_game, "QUIET", 0)
    assert train("--steps", 3, "--log-every", 1, "--sample-every", 2, "--eval-every", 2, "--out", "run") == 0
    printed, page = capsys.readouterr(), html.unescape((tmp_path / "run/report.html").read_text())
    game, seen = re.findall(r"^step 3: (.*)$", printed.out, re.MULTILINE)
    assert f"At step 3, {game}." in page
    words = seen.removeprefix("over 63 images: the")
    assert words != seen and f"The{words}." in page and "routes change" in words
    assert [row["samples"] for row in log_rows(tmp_path / "run")] == ["", "30", "63"]
    assert "step 0/3    0%" in printed.err
    counted = [tuple(map(int, pair))
               for pair in re.findall(r"measuring, image (\d+)/(\d+) ", printed.err)]
    assert [pair for pair in counted if pair[0] in (0, pair[1])] == [(0, 76), (76, 76), (0, 142), (142, 142)]
    assert len(counted) > 10 and sorted(counted, key=lambda pair: (pair[1], pair[0])) == counted


def test_the_weighted_losses_add_up_to_g_loss(train, tmp_path, quick):
    weights = {"split": 2.0, "cgan": 3.0, "vgg": 4.0, "background": 5.0, "substrate": 6.0}
    words = [word for name, value in weights.items() for word in (f"--weight-{name}", value)]
    assert train(*words, "--steps", 2, "--log-every", 1, "--out", "run") == 0
    for row in log_rows(tmp_path / "run"):
        terms = {**row, "vgg": float(row["wanted"]) + float(row["unwanted"])}
        total = sum(weight * float(terms[name]) for name, weight in weights.items())
        assert float(row["g_loss"]) == pytest.approx(total, rel=1e-4)


def test_dry_run_does_everything_in_a_folder_that_it_names(train, tmp_path, tmp_path_factory, monkeypatch, capsys):
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert train("--dry-run") == 0
    assert list(tmp_path.iterdir()) == []
    (folder,) = scratch.iterdir()
    out = capsys.readouterr().out
    assert "dry run" in out and f"its pictures and report are in {folder}" in out and (folder / "cams.png").exists()
    assert train("--dry-run", "--out", tmp_path / "kept") == 0
    assert (tmp_path / "kept/report.html").exists() and len(log_rows(tmp_path / "kept")) == 2


def test_a_picture_shows_its_substrate_and_then_every_route(train, tmp_path, monkeypatch, quick):
    """Painted by routes in grey: a column is of one route, and the same at every step."""
    def paint(training, batch):
        grey = (batch.routes[:, :1, None, None] / 30 - 0.5).astype(np.float32)
        return np.broadcast_to(grey, (len(batch.routes), 3, 64, 64)).copy()

    monkeypatch.setattr(gpan_game, "ROWS", 3)
    monkeypatch.setattr(gpan_game, "COLUMNS", 5)
    monkeypatch.setattr(script.GPANGame, "paint", paint)
    assert train("--steps", 1, "--bank", 30, "--out", "run") == 0
    first, last, routes = (pictures.read_png(tmp_path / "run" / name) for name in (
        "samples/step_000000.png", "samples/step_000001.png", "routes.png"))
    assert (first == last).all()
    routes = routes[-len(first):]  # below the names of its columns
    painted = first[34::66, 34::66][:, 1:, 0]
    assert painted.shape == (3, 4) and (painted == painted[0]).all() and len(set(painted[0])) > 1
    substrates = [picture[2 + 66 * row:66 + 66 * row, 2:66] for picture in (first, routes) for row in range(3)]
    assert any((substrates[0] != other).any() for other in substrates[1:3])  # each row of samples has its own
    assert all((substrates[3] == other).all() for other in substrates[4:])  # those of routes.png are one


def test_masks_and_colours_come_from_the_files(train, tmp_path, monkeypatch, quick):
    """A file, two files and a folder; their objects are inside the mask and everything else is white."""
    seen, next_batch = [], script.GPANGame.next_batch
    red, blue = (write_picture(tmp_path / "in" / f"{name}.png", colour) for name, colour in (
        ("red", (255, 0, 0)), ("blue", (0, 0, 255))))
    monkeypatch.setattr(script.GPANGame, "next_batch", lambda *args: seen.append(next_batch(*args)) or seen[-1])
    for words, colours in ((["--substrate", red], 1), (["--substrate", red, "--substrate", blue], 2),
                           (["--substrate", tmp_path / "in"], 2)):
        seen.clear()
        assert train(*words, "--steps", 3, "--out", f"run{len(os.listdir())}") == 0
        target, mask = (np.concatenate([getattr(batch, name).numpy() for batch in seen]) for name in ("target", "mask"))
        assert set(np.unique(mask)) == {0, 1} and 0.2 < mask.mean() < 0.5
        assert (target[np.broadcast_to(mask, target.shape) == 0] == 1).all()
        assert len(np.unique(target[:, :, 32, 32], axis=0)) == colours
        silhouettes = np.concatenate([batch.d_condition.numpy() for batch in seen])
        assert (silhouettes == 2 * mask - 1).all()


# ---- the same bytes ----------------------------------------------------------------------------------------------

PICTURE = "../picture.png"  # beside the folder that each variant runs in
VARIANTS = {
    "the defaults": [1, 4, []],
    "two sets, after a save": [3, 5, ["--wanted", "3,5", "--wanted", 7, "--save-every", 2, "--ema", 0.9]],
    "accumulate": [2, 4, ["--accumulate", 2, "--batch-size", 4]],
    "accumulate, no split": [2, 4, ["--accumulate", 2, "--weight-split", 0]],
    "rmsprop, cam binary": [2, 4, ["--optimizer", "rmsprop", "--cam", "binary", "--bank-updates", "dense"]],
    "blend, no views": [2, 4, ["--cam", "blend", "--views", 0]],
    "cam off, views alone": [2, 4, ["--cam", "off", "--views", 3, "--whole", "no"]],
    "whole and views": [2, 4, ["--views", 2, "--whole", "yes", "--view-warmup", 3]],
    "groups, no average": [2, 4, ["--routes", "group:2", "--ema", 0, "--lr-decay", 6, "--lr-warmup", 2]],
    "a picture, other losses": [2, 4, ["--substrate", PICTURE, "--class-loss", "hinge", "--unwanted", "mean",
                                       "--split-sign", "plus", "--loss", "saturating"]],
    "no discriminator": [2, 4, ["--weight-cgan", 0]],
    "grey, from nothing": [2, 4, ["--channels", 1, "--start", "nothing", "--painter-sees", "edges", "--map-norm",
                                  "pixel"]],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_resume_gives_the_bytes_of_a_run_never_stopped(train, tmp_path, quick, monkeypatch, name):
    first, total, options = VARIANTS[name]
    write_picture(tmp_path / "picture.png")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert train(*options, "--steps", total, "--out", "whole") == 0
    assert train(*options, "--steps", first, "--out", "part") == 0
    assert saved(tmp_path / "cwd/part") != saved(tmp_path / "cwd/whole")
    assert train("--resume", "part", "--steps", total) == 0
    assert saved(tmp_path / "cwd/part") == saved(tmp_path / "cwd/whole")


def test_same_seed_same_bytes_and_another_seed_others(train, tmp_path, quick):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert train("--steps", 2, "--seed", seed, "--out", tmp_path / name) == 0
    a, b, c = (tmp_path / name for name in "abc")
    assert saved(a) == saved(b) != saved(c)
    for name in ("log.csv", "cams.png", "routes.png", "samples/step_000002.png"):
        assert (a / name).read_bytes() == (b / name).read_bytes() != (c / name).read_bytes(), name


def test_looking_at_a_run_does_not_change_it(train, tmp_path, monkeypatch):
    """Logging, drawing, measuring and saving more often leaves the training itself as it is."""
    monkeypatch.setattr(script.Run, "finish", lambda run: [])
    assert train("--steps", 3, "--out", tmp_path / "a") == 0
    often = [word for name in ("log", "sample", "save", "eval") for word in (f"--{name}-every", 1)]
    assert train("--steps", 3, "--out", tmp_path / "b", *often) == 0
    assert saved(tmp_path / "a") == saved(tmp_path / "b")


def test_a_run_can_move(train, tmp_path, quick, monkeypatch, capsys):
    """Its pictures and its classifier may lie elsewhere by then; what they hold must be the same."""
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, old / "pictures", new):
        folder.mkdir()
    write_picture(old / "pictures" / "a.png")
    write_picture(old / "pictures" / "b.png", colour=(0, 0, 200))
    small_file(old / "net.h5")
    small_file(new / "other.h5", seed=1)
    write_picture(new / "a.png", colour=(0, 200, 0))
    monkeypatch.chdir(old)
    words = ["--size", 64, "--wanted", "1", "--classifier", "net.h5", "--substrate", "pictures"]
    assert train(*words, "--steps", 3, "--out", tmp_path / "whole") == 0
    assert train(*words, "--steps", 1, "--out", tmp_path / "run") == 0
    monkeypatch.chdir(new)
    assert train("--resume", tmp_path / "run", "--steps", 2) == 0  # relative paths hold from here, too
    (old / "net.h5").rename(new / "net.h5")
    (old / "pictures").rename(new / "pictures")
    before, _ = contents(tmp_path / "run"), capsys.readouterr()
    for moved, code, said in (
            ([], 1, f"--classifier {old / 'net.h5'}, which the run"),
            (["--classifier", "net.h5"], 1, f"--substrate {old / 'pictures'}, which the run"),
            (["--classifier", "other.h5"], 2, f"--classifier is other.h5 but the run was made with {old / 'net.h5'}"),
            (["--classifier", "gone.h5"], 1, "--classifier gone.h5: there is no such"),
            (["--classifier", "net.h5", "--substrate", "a.png"], 2, "--substrate is a.png but the run was made with")):
        assert train("--resume", tmp_path / "run", "--steps", 3, *moved) == code
        assert said in error_line(capsys)
    assert contents(tmp_path / "run") == before
    assert train("--resume", tmp_path / "run", "--steps", 3, "--classifier", "net.h5", "--substrate", "pictures") == 0
    assert saved(tmp_path / "run") == saved(tmp_path / "whole")
    flags = json.loads((tmp_path / "run/config.json").read_text())["flags"]
    assert (flags["classifier"], flags["substrate"]) == (str(new / "net.h5"), [str(new / "pictures")])
    write_picture(new / "pictures" / "a.png", colour=(0, 0, 100))  # the same place, and something else there
    assert train("--resume", tmp_path / "run", "--steps", 4) == 1
    assert "holds something else" in error_line(capsys)


def test_a_run_of_an_older_version_can_move_once_its_pictures_are_gone(train, tmp_path, quick, capsys):
    """Its config holds the paths as they were typed, and no hash of their files."""
    write_picture(tmp_path / "ball.png")
    write_picture(tmp_path / "else.png")
    assert train("--substrate", "ball.png", "--steps", 1, "--out", "run") == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    del config["inputs"], config["command"]
    config["flags"]["substrate"] = ["ball.png"]
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert train("--resume", "run", "--steps", 2, "--substrate", "else.png") == 2
    assert "--substrate is else.png but" in error_line(capsys)
    assert train("--resume", "run", "--steps", 2, "--substrate", tmp_path / "ball.png") == 0
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    (tmp_path / "ball.png").unlink()
    assert train("--resume", "run", "--steps", 3, "--substrate", "else.png") == 0
    assert "hash" in json.loads((tmp_path / "run/config.json").read_text())["inputs"]["substrate"]


def test_resume_finds_the_newest_run(train, tmp_path, quick, capsys):
    for _ in range(2):
        assert train("--steps", 1) == 0
    first, second = (tmp_path / f"runs/gpan-{n}" for n in (1, 2))
    os.utime(first / "checkpoint.npz", ns=(1, 1))
    before = saved(first)
    capsys.readouterr()
    assert train("--resume", "--steps", 2) == 0
    assert "going on at step 1 of runs/gpan-2" in capsys.readouterr().out
    assert saved(first) == before and int(log_rows(second)[-1]["step"]) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_signal_saves_and_the_resumed_run_is_the_same(train, tmp_path, quick):
    folder = tmp_path / "run"
    process = start_script("train_gpan", *TINY, "--log-every", "1", "--eval-every", "0", "--steps", "100000", "--out",
                           str(folder))
    seen = [next(process.stderr, "")]
    while seen[-1] and not seen[-1].startswith("step 3/"):
        seen.append(next(process.stderr, ""))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, "".join(seen) + err
    assert f"--resume {folder}" in out and "Traceback" not in err
    steps = [int(row["step"]) for row in log_rows(folder)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 3
    total = len(steps) + 2
    assert train("--resume", folder, "--steps", total) == 0
    assert train("--steps", total, "--out", tmp_path / "whole") == 0
    assert saved(folder) == saved(tmp_path / "whole")


# ---- NaN ---------------------------------------------------------------------------------------------------------


def poison_substrate(training):
    spoilt = training.substrates.next

    def bad(rng, n):
        target, mask = spoilt(rng, n)
        target[0, 0, 5, 5] = np.nan
        return target, mask

    training.substrates.next = bad


def poison_weight(training):
    training.G.deconvs[0].weight.data[:, 0, 0] = np.nan  # of every set: whichever the routes take


def poison_d_weight(training):
    training.D.convs[1].weight.data[0, 0, 0, 0, 0] = np.inf


NAN_CASES = {
    "substrate": (poison_substrate, "the batch of substrates", 3),
    "weight": (poison_weight, "generator.deconvs.0.weight", 3),
    "weight of D": (poison_d_weight, "discriminator.convs.1.weight", 3),
}


@pytest.mark.parametrize("name", NAN_CASES)
def test_nan_stops_the_run_names_the_tensor_and_keeps_the_checkpoint(train, tmp_path, monkeypatch, quick, capsys, name):
    poison, tensor, reported = NAN_CASES[name]
    kept, set_rate = [], script.GPANGame.set_learning_rate

    def spoil(training):
        if training.step == 2:
            kept.append(saved(tmp_path / "run"))
            poison(training)
        set_rate(training)

    monkeypatch.setattr(script.GPANGame, "set_learning_rate", spoil)
    assert train("--steps", 9, "--out", "run", "--save-every", 2) == 1
    line = error_line(capsys)
    assert f"step {reported}: {tensor} is not finite" in line and "from before" in line
    assert kept == [saved(tmp_path / "run")]


# ---- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, limit, advice", [
    (["--batch-size", 12], 6, "try --batch-size 6, which fits"),
    (["--batch-size", 12], 5, "try --batch-size 3, which fits"),
    (["--batch-size", 12], 1, "not even 2 images fit: try a larger --accumulate"),  # L_split compares two
    (["--batch-size", 12, "--weight-split", 0], 1, "try --batch-size 1, which fits"),
    (["--batch-size", 12, "--accumulate", 4], 2, "try --batch-size 8"),  # a part of 3 does not fit, one of 2 does
    (["--batch-size", 12, "--accumulate", 3], 3, "try --batch-size 6, which fits"),  # 2 in a part; 4.5 is none
    (["--batch-size", 12, "--weight-split", 0], 0, "not even one image fits: try a larger --accumulate"),
])
def test_out_of_memory_names_a_batch_size_that_fits(train, monkeypatch, quick, capsys, words, limit, advice):
    """With a generator that has room for `limit` images at a time when it learns."""
    problem = MemoryError("full") if limit % 2 else RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory")
    forward = script.GPANGenerator.forward

    def tight(net, x, *rest):
        if len(x) > limit and net is nets[0]:
            raise problem
        return forward(net, x, *rest)

    nets, init = [], script.GPANGame.__init__
    monkeypatch.setattr(script.GPANGame, "__init__", lambda t, *args: (init(t, *args), nets.append(t.G))[0])
    monkeypatch.setattr(script.GPANGenerator, "forward", tight)
    assert train(*words, "--steps", 3, "--out", "run") == 1
    line = error_line(capsys)
    assert f"step 1: out of memory at --batch-size 12 ({type(problem).__name__}: " in line
    assert "nothing was saved yet" in line
    assert advice in line
    if found := re.search(r"--batch-size (\d+), which", line):
        assert train(*over(words, ["--batch-size", found[1], "--steps", 1, "--out", "smaller"])) == 0


# ---- every flag --------------------------------------------------------------------------------------------------

# flag -> values that must change what is learned; after "|" the flags that the comparison has as well.
CHANGES = {
    "--classifier": ["VGG16 | --wanted 1"], "--wanted": ["7", "3,5", "3 --wanted 9"], "--substrate": ["PICTURE"],
    "--substrate-flip": ["yes | --substrate PICTURE --seed 1"],
    "--size": ["128"], "--channels": ["1"], "--steps": ["3"], "--batch-size": ["3"], "-b": ["4"],
    "--accumulate": ["2 | --batch-size 4"], "--bank": ["3", "2,1,3,1"], "--routes": ["batch", "group:2"],
    "--seed": ["7"],
    **{f"--weight-{name}": ["0", "50"] for name in script.WEIGHTS},
    "--cam": ["binary", "blend", "off"], "--cam-threshold": ["0.1 | --cam binary"], "--cam-for": ["generator"],
    "--substrate-where": ["unimportant"], "--class-loss": ["sigmoid", "hinge"], "--unwanted": ["mean"],
    "--background-over": ["background"], "--split-sign": ["plus"], "--split-scale": ["2"],
    "--split-unit": ["one"],
    "--barrier": ["0.9 | --start nothing"], "--loss": ["saturating"],
    "--views": ["0", "2"], "--whole": ["yes"], "--view-scale": ["0.5,0.9"], "--view-rotation": ["1"],
    "--view-shift": ["0.5"], "--view-flip": ["yes"], "--view-blur": ["0"], "--view-coarse": ["0.4,0.5"],
    "--view-noise": ["0.2"], "--view-warmup": ["4"], "--view-plain": ["1"],
    "--optimizer": ["rmsprop"], "--lr": ["1e-3"], "--d-lr": ["1e-4"], "--lr-decay": ["1"], "--lr-warmup": ["3"],
    "--beta1": ["0"], "--beta2": ["0.9"], "--ema": ["0", "0.05"], "--bank-updates": ["dense | --bank 5"],
    "--base-channels": ["2"], "--patch-channels": ["2"], "--noise-dim": ["0", "5"],
    "--painter-sees": ["silhouette | --start nothing", "edges | --start nothing"],
    "--critic-sees": ["substrate", "edges"], "--skips": ["none", "all"],
    "--start": ["nothing"], "--map-norm": ["pixel"], "--smooth": ["0"], "--norm": ["affine", "none"],
    "--act": ["prelu"], "--slope": ["0.3"], "--clamp": ["none | --slope 0", "forward | --slope 0"],
}
SAME = {  # and those that must not
    "--device": ["auto"], "--tf32": [""], "--threads": ["2"], "--out": ["here"], "-o": ["there"],
    "--cuda-graph": ["no"], "--overwrite": ["--out new"],
    "--log-every": ["1"], "--sample-every": ["1"], "--save-every": ["1"],
    "--eval-every": ["1"], "--detect-anomaly": [""],
}
ELSEWHERE = {"-h", "--help", "--version", "--set", "--list-settings", "--resume", "--dry-run"}  # tested elsewhere


def test_the_tables_of_flags_are_complete():
    flags = {word for action in script.build_parser()._actions for word in action.option_strings}
    assert set(CHANGES) | set(SAME) | ELSEWHERE == flags and not set(CHANGES) & set(SAME)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """learned("words") -> the arrays after two steps with these flags, each command line run once."""
    folder = tmp_path_factory.mktemp("learned")
    files = {"VGG16": small_file(folder / "small.h5"), "PICTURE": write_picture(folder / "picture.png")}
    known = {}

    def run(words):
        if words not in known:
            states = []
            with pytest.MonkeyPatch.context() as patch:
                (folder / str(len(known))).mkdir()
                patch.chdir(folder / str(len(known)))
                patch.setattr("tinygan.app.device.find_gpu", lambda number=0: (None, "hidden"))  # whose bits are others
                patch.setattr(script.GPANGame, "draw_samples", lambda *args: None)
                patch.setattr(script, "end_run", lambda steps: states.append(steps.game.state()[0]) or 0)
                patch.setattr(script.GPANGame, "measure", lambda training, n=0: {})
                typed = [str(files.get(word, word)) for word in words.split()]
                steps = [] if "--steps" in typed else ["--steps", "2"]
                assert cli.run_main(script.main, over(TINY, [*steps, *typed])) == 0, words
            (known[words],) = states
        return known[words]

    return run


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("flag", [*CHANGES, *SAME])
def test_every_flag_does_what_it_is_for(learned, flag):
    for text in (CHANGES | SAME)[flag]:
        value, _, others = (part.strip() for part in text.partition("|"))
        if flag == "--classifier":  # another one sees other things, and its classes are others
            others, value = "", f"{value} {others}"
        found = learned(" ".join(f"{others} {flag} {value}".split()))
        assert all(np.isfinite(array).all() for array in found.values() if array.dtype.kind == "f")
        assert equal(found, learned(others)) == (flag in SAME), text


def test_runs_from_before_there_was_a_flag_go_on_mirroring(train, tmp_path, quick, capsys):
    picture = write_picture(tmp_path / "picture.png")
    words = ["--substrate", picture, "--out", "old"]
    assert train("--steps", 1, *words) == 0 and "mirrored" not in capsys.readouterr().out
    config = json.loads((tmp_path / "old/config.json").read_text())
    assert config["flags"].pop("substrate_flip") == "no"
    assert train("--resume", "old", "--steps", 2) == 0 and "mirrored" not in capsys.readouterr().out
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    for steps in (3, 4):
        assert train("--resume", "old", "--steps", steps, "--substrate-flip", "no") == 2
        assert "--substrate-flip is no but the run in old was made with yes" in error_line(capsys)
        assert train("--resume", "old", "--steps", steps) == 0
        assert "from picture.png; half of them are mirrored, 3 x" in capsys.readouterr().out
        assert json.loads((tmp_path / "old/config.json").read_text())["flags"]["substrate_flip"] == "yes"
    assert train("--substrate-flip", "yes", "--steps", 1) == 2 and "there are none" in error_line(capsys)


def test_a_log_that_cannot_be_read_ends_no_training(train, tmp_path, quick, monkeypatch, capsys):
    check_training_without_a_log(train, tmp_path, script.Run, monkeypatch, capsys, "rubbish")


def test_help_is_short_and_the_list_of_settings_names_every_flag(capsys):
    text = listed_settings(script.build_parser(), capsys)
    assert "with a VGG16" in text and all(word in text for word in CHANGES) and str(ROOT) not in text


def test_presets_know_every_flag_that_has_no_default_of_its_own():
    """A preset's name is a flag's, and no flag that a step reads is left empty."""
    names = {action.dest for action in script.build_parser()._actions}
    assert all(set(preset) <= names for preset in (*script.PRESETS.values(), script.GPU_PRESET))
    assert len({frozenset(preset) for preset in script.PRESETS.values()}) == 1 and set(script.GPU_PRESET) <= set(
        script.PRESETS["vgg16"])
    flags, _ = script.read_flags([*TINY])
    empty = {name for name, value in flags.items() if value is None}
    assert empty == {"classifier", "substrate", "out", "resume", "sample_every"}


def test_wide_nets_before_a_vgg16_learn_more_slowly(monkeypatch):
    flags = {"classifier": "vgg16.h5", "device": "cpu", "optimizer": "adam", "base_channels": None}
    assert "lr" not in script.preset(flags) and "lr" not in script.preset({**flags, "base_channels": 32})
    assert script.preset({**flags, "base_channels": 64})["lr"] == pytest.approx(1.5e-4)
    assert "lr" not in script.preset({**flags, "base_channels": 64, "optimizer": "rmsprop"})
    assert "lr" not in script.preset({**flags, "base_channels": 64, "classifier": None})
    monkeypatch.setattr(script, "pick_device", lambda name: SimpleNamespace(kind="gpu"))
    found = script.preset({**flags, "device": "auto"})
    assert (found["size"], found["base_channels"], found["lr"]) == (1024, 64, pytest.approx(1.5e-4))


# ---- inside a run ------------------------------------------------------------------------------------------------


def made(*words, device=None, base_channels=1):
    """A Training as the script makes it."""
    flags, _ = script.read_flags(over(TINY, words))
    sets = [tuple(map(int, text.split(","))) for text in flags["wanted"]]
    config = GPANConfig(size=64, base_channels=base_channels, patch_channels=1, noise_dim=2, bank=flags["bank"],
                        categories=len({i for ids in sets for i in ids}))
    device = device or pick_device("cpu")
    return script.GPANGame(config, flags, script.load_classifier(None).to(device.put), sets,
                           open_substrates(None, 64, 3), device)


class QuietStep:
    """What take_step asks of a step: here one of which nothing is read."""

    read = log = False

    def check(self, *args):
        pass


class ReadStep(QuietStep):
    read = log = True


def test_a_batch_has_one_set_and_its_code(monkeypatch):
    t = made("--wanted", "3,5", "--wanted", 8, "--wanted", "5,0", "--batch-size", 6, "--accumulate", 2)
    drawn, next_batch = [], t.next_batch
    t.next_batch = lambda *args: drawn.append(next_batch(*args)) or drawn[-1]
    for _ in range(12):
        script.take_step(t, QuietStep())
    codes = {(3, 5): [0, 1, 1, 0], (8,): [0, 0, 0, 1], (5, 0): [1, 0, 1, 0]}  # of the classes 0, 3, 5, 8
    assert {batch.wanted for batch in drawn} == set(codes) and len(drawn) == 24
    for first, second in zip(drawn[::2], drawn[1::2], strict=True):
        assert first.wanted == second.wanted and len(first.routes) == len(second.routes) == 3
        for batch in (first, second):
            assert (batch.code.numpy() == codes[batch.wanted]).all()
        assert (first.noise.numpy() != second.noise.numpy()).any()


@pytest.mark.parametrize("mode, different", [("sample", 8), ("group:4", 2), ("batch", 1)])
def test_routes_of_a_step(mode, different):
    """So many routes in a batch of 8, whose groups may lie across its parts."""
    t = made("--routes", mode, "--batch-size", 8, "--accumulate", 2, "--bank", 50)
    drawn, next_batch = [], t.next_batch
    t.next_batch = lambda wanted, routes: drawn.append(routes) or next_batch(wanted, routes)
    script.take_step(t, QuietStep())
    assert [len(routes) for routes in drawn] == [4, 4]
    assert len(np.unique(np.concatenate(drawn), axis=0)) == different


def test_each_net_is_updated_once_with_its_own_gradient():
    """One update of each net per step; the classifier's weights and the other net's stay as they are meanwhile."""
    t = made("--batch-size", 4, "--accumulate", 2)
    seen = []

    def watch(own, other, optimizer):
        step = optimizer.step

        def watched():
            assert all(p.grad is not None for p in own.parameters())
            before = other.state_dict(), t.classifier.state_dict()
            step()
            for net, state in zip((other, t.classifier), before, strict=True):
                assert all((p.numpy() == state[name]).all() for name, p in net.named_parameters())
            seen.append(type(own).__name__)
        optimizer.step = watched

    watch(t.G, t.D, t.g_optimizer)
    watch(t.D, t.G, t.d_optimizer)
    for _ in range(2):
        script.take_step(t, ReadStep())
    assert seen == ["PatchDiscriminator", "GPANGenerator"] * 2
    assert all(p.grad is None for p in t.classifier.parameters())


def test_without_a_weight_the_discriminator_rests():
    t = made("--weight-cgan", 0)
    before = t.D.state_dict()
    numbers = script.take_step(t, ReadStep())
    assert all((p.numpy() == before[name]).all() for name, p in t.D.named_parameters())
    assert not {"d_loss", "cgan", "d_real", "pull_cgan"} & set(numbers) and numbers["d_grad"] == 0


def test_everything_in_a_step_is_float32(monkeypatch):
    kinds, set_data = set(), Tensor._set

    def spy(tensor, array, *rest):
        kinds.add(array.dtype.name)
        set_data(tensor, array, *rest)

    for words in ([], ["--cam", "blend", "--whole", "yes", "--class-loss", "hinge", "--view-coarse", "0.5,0.9"],
                  ["--cam", "binary", "--views", 0, "--class-loss", "sigmoid", "--background-over", "background",
                   "--substrate-where", "unimportant", "--norm", "affine"]):
        t = made(*words)
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "_set", spy)
            script.take_step(t, ReadStep())
        assert kinds == {"float32"}, words
        assert {p.grad.dtype.name for p in (*t.G.parameters(), *t.D.parameters()) if p.grad is not None} == {"float32"}


def test_views_begin_with_the_plain_image():
    t = made("--view-warmup", 10)
    spread = []
    for t.step in (0, 5, 10, 500):
        views = [t.draw_views(200) for _ in range(2)]
        spread.append(np.std([v.matrices[:, 0, 1] for v in views]))  # of the turns
    assert spread[0] == 0 < spread[1] < spread[2] and spread[3] == pytest.approx(spread[2], rel=0.2)


# ---- the device --------------------------------------------------------------------------------------------------


@pytest.mark.kernels
@pytest.mark.parametrize("words", ["", "--cam blend --whole yes --class-loss sigmoid --view-warmup 3",
                                   "--cam binary --views 0 --class-loss hinge --background-over background",
                                   "--accumulate 2 --batch-size 4 --substrate-where unimportant --optimizer rmsprop"])
def test_a_step_on_a_gpu_is_the_step_on_a_processor(standin, words):
    """Two steps of the same training over the stand-in for CuPy: every number of the log, and where weights go.

    Not with one channel: what is divided by its own size is then only a sign, and rounding may decide which.
    """
    gpu = Device("gpu", standin.module, "")
    on_gpu, on_cpu = (made(*words.split(), device=device, base_channels=4) for device in (gpu, None))
    for _ in range(2):
        rows = [script.take_step(t, ReadStep()) for t in (on_gpu, on_cpu)]
        for name, value in rows[1].items():
            assert rows[0][name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
        for t in (on_gpu, on_cpu):
            t.step += 1
    images = [t.paint(t.fixed_batches()[0]) for t in (on_gpu, on_cpu)]
    np.testing.assert_allclose(*images, atol=1e-3)
    assert all(isinstance(p.data, standin.module.ndarray) for p in on_gpu.G.parameters())
    sheets = [cam_sheet(t.classifier, t.fixed_batches()[:1], images[1:], t.device)
              for t in (on_gpu, on_cpu)]
    assert abs(sheets[0].astype(int) - sheets[1]).max() <= 2


@pytest.mark.kernels
def test_nothing_is_read_from_the_device_in_a_step_that_is_not_logged(standin):
    t = made(device=Device("gpu", standin.module, ""))
    script.take_step(t, ReadStep())
    before = standin.count["syncs"]
    script.take_step(t, QuietStep())
    assert standin.count["syncs"] == before


@pytest.mark.kernels
def test_a_whole_run_on_the_device(standin, train, tmp_path, quick):
    try:
        on_gpu = "--device", "gpu", "--cuda-graph", "no"  # the stand-in records none
        assert train(*on_gpu, "--steps", 3, "--out", "run", "--save-every", 2) == 0
        assert train(*on_gpu, "--steps", 2, "--out", "part") == 0
        assert train("--resume", "part", "--steps", 3) == 0
        assert saved(tmp_path / "run") == saved(tmp_path / "part")
        assert train("--resume", "part", "--device", "cpu", "--steps", 4) == 0
    finally:
        launch.set_tf32(False)
