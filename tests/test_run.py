"""The run folder: never overwritten unasked, consistent after a resume, and a report that stands alone."""

import html.parser
import io
import itertools
import json
import math
import os
import re

import numpy as np
import pytest

from tinygan import pictures, report, run, runfiles
from tinygan.errors import TinyganError, UsageError
from tinygan.run import Progress, Run, sample_due

FLAGS = {"model": "sgan", "bank": (4, 4, 1), "steps": 1000, "lr": 2e-4, "out": None, "log_every": 50}


def picture(value=0.5):
    return pictures.grid(np.full((4, 1, 8, 8), value), 2, 2)


def filled(folder, steps=1000, every=100, **kwargs):
    """A folder as a run of some steps leaves it, with a checkpoint at the end."""
    made = Run.create(FLAGS, out=folder, **kwargs)
    for step in range(0, steps + 1, every):
        made.log(step, d_loss=1.0 / (step + 1), g_loss=1.0, d_real=0.6, d_fake=0.4)
        if sample_due(step, steps):
            made.save_sample(step, picture(step / steps))
    made.save({"w": np.arange(3.0)}, {"step": steps})
    return made


# --- where a run goes ---


def test_default_folder_is_the_next_free_number(tmp_path):
    names = []
    for name in ("mnist-sgan", "mnist-sgan", "mnist-gan"):
        made = Run.create(FLAGS, name=name, root=tmp_path / "runs")
        names.append(made.folder.name)
        made.close()
    assert names == ["mnist-sgan-1", "mnist-sgan-2", "mnist-gan-1"]
    (tmp_path / "runs" / "mnist-sgan-9").mkdir()
    (tmp_path / "runs" / "mnist-sgan-x").mkdir()
    (tmp_path / "runs" / "other-mnist-sgan-50").mkdir()
    assert Run.create(FLAGS, name="mnist-sgan", root=tmp_path / "runs").folder.name == "mnist-sgan-10"


def test_a_folder_with_anything_in_it_is_not_touched_unasked(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(UsageError, match=r"not empty.*--resume.*--overwrite.*--out"):
        Run.create(FLAGS, out=tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_overwrite_removes_the_earlier_run_and_nothing_else(tmp_path):
    filled(tmp_path).close()
    (tmp_path / "thesis.txt").write_text("three years")
    (tmp_path / "samples" / "mine.png").write_text("mine")
    (tmp_path / "checkpoint.npz.tmp").write_text("half")
    Run.create(FLAGS, out=tmp_path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "samples", "thesis.txt"]
    assert os.listdir(tmp_path / "samples") == ["mine.png"]


def test_places_that_cannot_be_a_run_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("long" * 100)):
        with pytest.raises(TinyganError, match="cannot use .* as run folder.*--out") as caught:
            Run.create(FLAGS, out=out)
        assert "\n" not in str(caught.value)
    with pytest.raises(TinyganError, match="--out"):
        Run.create(FLAGS, root=tmp_path / "file")
    with pytest.raises(TinyganError, match="cannot make the run folder.*--out"):
        Run.create(FLAGS, root=tmp_path / "file" / "below")


def test_two_processes_cannot_write_one_run(tmp_path):
    pytest.importorskip("fcntl")
    first = filled(tmp_path)
    with pytest.raises(TinyganError, match="another process is writing"):
        Run.resume(tmp_path, FLAGS)
    first.close()
    Run.resume(tmp_path, FLAGS).close()


# --- settings ---


def test_config_holds_every_flag_and_the_versions(tmp_path):
    Run.create(FLAGS | {"out": tmp_path}, out=tmp_path)
    config = runfiles.read_config(tmp_path)
    assert config["flags"] == FLAGS | {"out": str(tmp_path)}  # tuples again
    assert config["versions"]["numpy"] == np.__version__ and "python" in config["versions"]
    assert json.loads((tmp_path / "config.json").read_text())["flags"]["lr"] == 2e-4


def test_resume_takes_what_was_not_typed_from_the_stored_run(tmp_path):
    filled(tmp_path).close()
    defaults = {"model": "gan", "bank": (16, 16, 1), "steps": 5000, "lr": 1e-3, "out": None, "log_every": 100}
    again = Run.resume(tmp_path, defaults | {"steps": 2000}, typed={"steps"})
    assert again.flags == FLAGS | {"steps": 2000}
    again.load()
    assert runfiles.read_config(tmp_path)["flags"]["steps"] == 2000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bank": (16, 16, 1)}, r"--bank is 16,16,1 but the run in .* was made with 4,4,1: leave --bank out"),
        ({"model": "gan"}, r"--model is gan but .* sgan"),
        ({"lr": 1e-3}, r"--lr is 0.001 but"),
    ],
)
def test_resume_with_another_model_is_refused_in_one_line(tmp_path, change, words):
    filled(tmp_path).close()
    with pytest.raises(UsageError, match=words) as caught:
        Run.resume(tmp_path, FLAGS | change, typed=set(change))
    assert "\n" not in str(caught.value)
    assert runfiles.read_config(tmp_path)["flags"] == FLAGS  # and nothing was written


def test_typing_the_stored_value_again_is_fine(tmp_path):
    filled(tmp_path).close()
    assert Run.resume(tmp_path / "checkpoint.npz", FLAGS, typed=set(FLAGS)).flags == FLAGS


def test_a_flag_newer_than_the_run_takes_its_default(tmp_path):
    filled(tmp_path).close()
    assert Run.resume(tmp_path, FLAGS | {"ema": 0.0}).flags["ema"] == 0.0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"flags": 3}', "null", '{"flags": [1]}', "[" * 100_000])
def test_damaged_config_is_one_line(tmp_path, text):
    filled(tmp_path).close()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TinyganError, match="config.json is damaged") as caught:
        Run.resume(tmp_path, FLAGS)
    assert "\n" not in str(caught.value)


def test_resume_of_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(TinyganError, match="not the folder of a run"):
            Run.resume(path, FLAGS)
    Run.create(FLAGS, out=tmp_path).close()
    with pytest.raises(TinyganError, match=r"no checkpoint\.npz in folder"):
        Run.resume(tmp_path, FLAGS).load()


def test_newest_is_the_run_that_saved_last(tmp_path):
    with pytest.raises(UsageError, match="--resume found no run"):
        runfiles.newest(tmp_path, "mnist-sgan")
    for number in (1, 2, 3):
        filled(tmp_path / f"mnist-sgan-{number}", steps=100).close()
        os.utime(tmp_path / f"mnist-sgan-{number}" / "checkpoint.npz", (0, 10 - number))
    assert runfiles.newest(tmp_path, "mnist-sgan").name == "mnist-sgan-1"


# --- log and samples ---


def test_log_round_trip_and_a_column_that_comes_later(tmp_path):
    made = Run.create(FLAGS, out=tmp_path)
    made.log(0, d_loss=1.25, g_loss=float("nan"))
    made.log(50, d_loss=np.float32(0.1), g_loss=2)
    assert (tmp_path / "log.csv").read_text() == "step,d_loss,g_loss\n0,1.25,nan\n50,0.1,2\n"
    made.log(100, d_loss=3.0, kl=0.5)
    made.log(150, g_loss=1.0)
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "step,d_loss,g_loss,kl", "0,1.25,nan,", "50,0.1,2,", "100,3,,0.5", "150,,1,",
    ]  # fmt: skip
    rows = runfiles.read_log(tmp_path)
    assert rows[2] == {"step": 100, "d_loss": 3.0, "kl": 0.5} and math.isnan(rows[0]["g_loss"])
    columns = runfiles.columns(rows)
    assert columns["step"] == [0, 50, 100, 150] and columns["kl"][2] == 0.5 and math.isnan(columns["kl"][0])


def test_torn_and_damaged_log_lines_are_skipped(tmp_path):
    (tmp_path / "log.csv").write_bytes(
        b"step,d_loss\n0,1\nrubbish\n50,2,3,4\n\xff\xfe,\n100,x\nnan,1\n150,0.12"
    )
    assert runfiles.read_log(tmp_path) == [{"step": 0, "d_loss": 1}, {"step": 50, "d_loss": 2}, {"step": 100}]
    (tmp_path / "log.csv").write_text("step,d_loss\n0," + "1" * 200_000 + "\n")
    with pytest.raises(TinyganError, match=r"log\.csv is damaged"):
        runfiles.read_log(tmp_path)
    os.unlink(tmp_path / "log.csv")
    assert runfiles.read_log(tmp_path) == []


def test_resume_cuts_log_and_samples_back_and_goes_on_without_a_seam(tmp_path):
    straight = filled(tmp_path / "a", steps=1000)
    stopped = filled(tmp_path / "b", steps=1000)
    stopped.save({"w": np.arange(3.0)}, {"step": 450})  # as if killed at 1000, with the last save at 450
    stopped.close()
    with open(tmp_path / "b" / "log.csv", "a") as file:
        file.write("1100,0.0")
    (tmp_path / "b" / "checkpoint.npz.tmp").write_bytes(b"half")
    again = Run.resume(tmp_path / "b", FLAGS)
    arrays, meta = again.load()
    assert meta["step"] == 450 and np.array_equal(arrays["w"], np.arange(3.0))
    assert [row["step"] for row in runfiles.read_log(again.folder)] == [0, 100, 200, 300, 400]
    assert [step for step, _ in again.samples()] == [0, 100]
    assert not (tmp_path / "b" / "checkpoint.npz.tmp").exists()
    for step in range(500, 1001, 100):
        again.log(step, d_loss=1.0 / (step + 1), g_loss=1.0, d_real=0.6, d_fake=0.4)
        if sample_due(step, 1000):
            again.save_sample(step, picture(step / 1000))
    assert again.log_path.read_bytes() == straight.log_path.read_bytes()
    assert [step for step, _ in again.samples()] == [step for step, _ in straight.samples()]


def test_resume_before_the_first_log_row_starts_the_log_anew(tmp_path):
    made = filled(tmp_path, steps=1000)
    made.save({}, {"step": -1})
    made.close()
    again = Run.resume(tmp_path, FLAGS)
    again.load()
    assert not again.log_path.exists()
    again.log(0, other=1.0)
    assert again.log_path.read_text() == "step,other\n0,1\n"


def test_checkpoint_without_a_step_is_refused(tmp_path):
    made = filled(tmp_path)
    made.save({}, {"epoch": 3})
    with pytest.raises(TinyganError, match="does not say its step"):
        made.load()


@pytest.mark.parametrize(
    ("total", "every", "steps"),
    [
        (2500, None, [0, 50, 100, 250, 500, 1000, 2000, 2500]),
        (300, None, [0, 50, 100, 250, 300]),
        (1, None, [0, 1]),
        (10, 4, [0, 4, 8, 10]),
    ],
)
def test_sample_schedule(total, every, steps):
    assert [step for step in range(total + 1) if sample_due(step, total, every)] == steps


# --- what it leaves ---


def test_finish_leaves_the_pictures_and_the_report(tmp_path):
    made = filled(tmp_path)
    assert made.finish() == []
    assert {"loss.png", "training.gif", "report.html", "config.json", "log.csv", "checkpoint.npz"} <= set(
        os.listdir(tmp_path)
    )
    from PIL import Image

    with Image.open(tmp_path / "training.gif") as film:
        assert film.n_frames == len(made.samples()) == 4
    made.finish()  # may be called again
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_finish_without_matplotlib_still_makes_the_rest(tmp_path, monkeypatch):
    import sys

    made = filled(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (note,) = made.finish()
    assert "matplotlib" in note and "\n" not in note
    assert (tmp_path / "report.html").exists() and (tmp_path / "training.gif").exists()


def test_finish_with_a_damaged_sample_says_so(tmp_path):
    made = filled(tmp_path)
    made.samples()[1][1].write_bytes(b"<html>")
    (note,) = made.finish()
    assert "cannot read picture" in note


class Page(html.parser.HTMLParser):
    """Collects tags and checks that they close in order."""

    VOID = {"meta", "img", "br"}

    def __init__(self):
        super().__init__()
        self.stack, self.tags, self.links, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data


def read_page(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.stack == []
    return page


def test_report_stands_alone(tmp_path):
    made = filled(tmp_path / "a <b> & c", steps=2000)
    made.save_picture("routes.png", picture())
    made.log(2100, d_loss=0.5, g_loss=1.0, d_real=0.6, d_fake=0.4, kl=0.3, classes=9)
    made.log(2200, d_loss=0.5, g_loss=1.0, d_real=0.6, d_fake=0.4, kl=0.2, classes=10)
    made.log(2300, d_loss=0.5, g_loss=1.0, d_real=0.6, d_fake=0.4, kl=0.25, classes=10)
    made.finish()
    path = tmp_path / "a <b> & c" / "report.html"
    text = path.read_text(encoding="utf-8")
    assert not re.search(
        r"https?:|//|@import|url\(|<script|<link", re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    )
    page = read_page(path)
    assert "script" not in page.tags and "b" not in page.tags  # the folder's name was escaped
    assert all(link.startswith("data:image/") for link in page.links)
    assert len(page.links) == 5 + 1 + 3  # strip, last grid, gif, routes, curves
    assert "width=device-width" in text
    for words in ("all is well", "step 2,000", "4,4,1", "0.2 (step 2,200)", "0.25", "numpy", "a <b> & c"):
        assert words in page.text, words


def test_report_of_an_empty_run_and_of_no_run(tmp_path):
    Run.create(FLAGS, out=tmp_path / "run")
    page = read_page(report.write_report(tmp_path / "run"))
    assert "Nothing has been logged" in page.text and page.links == []
    with pytest.raises(TinyganError, match="not the folder of a run"):
        report.write_report(tmp_path)


# --- progress ---


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_elsewhere_is_plain_lines(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(run.time, "monotonic", lambda: float(next(clock)))
    out = io.StringIO()
    progress = Progress(250, every=100, stream=out)
    for step in range(1, 251):
        progress.update(step, d_loss=0.5)
    progress.say("hello")
    progress.close()
    lines = out.getvalue().splitlines()
    assert "\r" not in out.getvalue()
    assert lines[0] == "step 100/250   40%  1.0 it/s  02:30 left  d_loss 0.5"
    assert [line.split()[1] for line in lines[:3]] == ["100/250", "200/250", "250/250"] and lines[3:] == [
        "hello"
    ]


def test_progress_says_something_now_and_then_however_slow_the_steps(monkeypatch):
    clock = itertools.count(step=4)  # seconds a step
    monkeypatch.setattr(run.time, "monotonic", lambda: float(next(clock)))
    for every, expected in ((6, ["5/12", "6/12", "11/12", "12/12"]), (0, ["5/12", "10/12"])):
        out = io.StringIO()
        progress = Progress(12, every=every, quiet=20, word="image", stream=out)
        for number in range(1, 13):
            progress.update(number)
        progress.clear()
        assert [line.split()[:2] for line in out.getvalue().splitlines()] == [["image", n] for n in expected]


def test_what_is_measured_later_is_added_to_the_last_row(tmp_path):
    made = Run.create(FLAGS, out=tmp_path / "run")
    made.log(1, d_loss=0.123456789)
    made.log(2, d_loss=0.5, g_loss=1.0)
    made.amend(2, g_loss=2.0, classes=10)
    made.amend(2, samples=2000)
    made.amend(3, samples=5)
    text = "step,d_loss,g_loss,classes,samples\n1,0.123457,,,\n2,0.5,2,10,2000\n3,,,,5\n"
    assert made.log_path.read_text() == text
    made.log(4, kl=0.5)
    assert made.log_path.read_text().splitlines()[-1] == "4,,,,,0.5"


def test_progress_on_a_terminal_is_one_line_that_fits(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    progress = Progress(1000, stream=out)
    for step in range(1, 1001):
        progress.update(step, d_loss=0.123456, g_loss=math.nan)
    progress.say("all is well")
    progress.close()
    text = out.getvalue()
    shown = [part for part in text.replace("\n", "\r").split("\r") if part.strip()]
    assert max(map(len, shown)) <= 39 and any("100%" in part for part in shown)
    assert text.count("\n") == 1 and len(shown) < 100  # redrawn at most ten times a second


@pytest.mark.parametrize(
    ("step", "start", "seconds", "words"),
    [
        (0, 0, 0.0, "step 0/5,000    0%"),
        (1, 0, 4.0, "4.0 s/it  5:33:16 left"),
        (3000, 1000, 100.0, "20.0 it/s  01:40 left"),
        (5000, 0, 50.0, "100%  100.0 it/s  00:00 left"),
    ],
)
def test_rate_and_time_left(step, start, seconds, words):
    assert words in Progress(5000, start=start, stream=io.StringIO()).line(step, seconds, {})
