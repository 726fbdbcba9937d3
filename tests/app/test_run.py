"""The run folder: never overwritten unasked, consistent after a resume, and a report that stands alone."""

import contextlib
import csv
import html.parser
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from script_tools import ROOT, contents, full_at

from tinygan.app import pictures, report, run, runfiles, streams
from tinygan.app.loop import sample_due
from tinygan.app.run import Run
from tinygan.app.streams import Progress
from tinygan.data import files
from tinygan.errors import TinyganError, UsageError

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


@pytest.mark.parametrize("text", ["", "{", "[]", '{"flags": 3}', "null", '{"flags": [1]}', "[" * 100_000,
                                  '{"flags": {}, "inputs": [1]}', '{"flags": {}, "inputs": {"data": {}}}',
                                  '{"flags": {}, "resumed": 3}'])
def test_damaged_config_is_one_line(tmp_path, text):
    filled(tmp_path).close()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TinyganError, match="config.json is damaged") as caught:
        Run.resume(tmp_path, FLAGS)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_in_the_place_of_a_file_is_one_line_and_nothing_waits(tmp_path):
    made, said = filled(tmp_path), []
    made.print_line = said.append
    for name, read in (("config.json", lambda: Run.resume(tmp_path, FLAGS)),
                       ("config.json", lambda: runfiles.read_config(tmp_path)),
                       ("log.csv", lambda: runfiles.read_log(tmp_path)),
                       ("log.csv", lambda: Run.resume(tmp_path, FLAGS).load()),
                       ("a.png", lambda: pictures.read_png(tmp_path / "a.png")),
                       ("a.png", lambda: pictures.is_made_by(tmp_path / "a.png", "tinygan")),
                       ("a.png", lambda: runfiles.hash_files([tmp_path / "a.png"]))):
        before = (tmp_path / name).read_bytes() if (tmp_path / name).exists() else b""
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        made.close()
        with pytest.raises(TinyganError, match=f"cannot use .*{name}: it is not a file") as caught:
            read()
        assert "\n" not in str(caught.value)
        if name == "log.csv":
            made.log(9999, d_loss=1.0)
            assert made.rows() == [] and (tmp_path / name).is_fifo() and not list(tmp_path.glob("log-kept*"))
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(before)
    assert any("its rows wait" in line for line in said)
    (tmp_path / "loss.png").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "loss.png")
    assert "Settings" in report.write_report(tmp_path).read_text()


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
        (3200, "paper", [0, 50, 1426, 2000, 3000, 3200]),
    ],
)
def test_sample_schedule(total, every, steps):
    assert [step for step in range(total + 1) if sample_due(step, total, every, (0, 50, 1426))] == steps


# --- what others do to its files ---


def edited(text: str) -> bytes:
    """A column of notes, as a user adds it."""
    head, *rows = text.splitlines()
    return "\n".join([head + ",Notiz", *(row + ',"gut, für 1,5 h"' for row in rows), ""]).encode()


SAVED_AS = {  # what a spreadsheet or an editor makes of the log: as bytes, of its text
    "as it was": lambda text: text.encode(),
    "a mark and CRLF": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "semicolons, decimal commas": lambda text: text.replace(",", ";").replace(".", ",").encode(),
    "semicolons, CR": lambda text: text.replace(",", ";").replace("\n", "\r").encode(),
    "CR alone": lambda text: text.replace("\n", "\r").encode(),
    "UTF-16 with tabs": lambda text: text.replace(",", "\t").encode("utf-16"),
    "quoted decimal commas": lambda text: "\n".join(
        ",".join(f'"{cell}"'.replace(".", ",") for cell in line.split(",")) for line in text.splitlines()).encode(),
    "no last line end": lambda text: text.rstrip("\n").encode(),
    "notes": edited,
    "notes in an old code": lambda text: edited(text).decode().encode("latin-1"),
    "notes without a name, no last line end": lambda text: text.replace(
        "\n200,0.01,0.5\n", "\n200,0.01,0.5,gut,x\n").rstrip("\n").encode(),
    "notes without a name": lambda text: text.replace("\n200,0.01,0.5\n", "\n200,0.01,0.5,gut,x\n").encode(),
    "columns in another order": lambda text: "\n".join(
        ",".join(reversed(line.split(","))) for line in text.splitlines()).encode() + b"\n",
}


@pytest.mark.parametrize("name", SAVED_AS)
def test_a_log_that_was_saved_by_another_program_loses_nothing(tmp_path, name):
    made = Run.create(FLAGS, out=tmp_path)
    for step in (100, 200, 300, 400):
        made.log(step, d_loss=step / 20000, g_loss=0.5)
    made.save({}, {"step": 300})
    made.close()
    log = tmp_path / "log.csv"
    log.write_bytes(SAVED_AS[name](log.read_text()))
    again = Run.resume(tmp_path, FLAGS)
    again.load()
    expected = [{"step": step, "d_loss": step / 20000, "g_loss": 0.5} for step in (100, 200, 300)]
    assert runfiles.read_log(tmp_path) == expected
    again.log(400, d_loss=0.5, g_loss=0.5)
    again.log(500, kl=0.25)
    expected += [{"step": 400, "d_loss": 0.5, "g_loss": 0.5}, {"step": 500, "kl": 0.25}]
    assert runfiles.read_log(tmp_path) == expected
    text = log.read_text(encoding="utf-8")
    assert text.count("gut") == (1 if "notes without a name" in name else 3 if "notes" in name else 0)
    assert text.count('"gut, für 1,5 h"') == (3 if "Notiz" in text else 0)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.npz", "config.json", "log.csv", "samples"]  # nothing put aside


@pytest.mark.parametrize(("content", "rows", "words"), [
    (b"PK\x03\x04\x00\x00 a spreadsheet's own format", 0, "no column is named step"),
    (b"Schritt;d_loss\n100;1\n", 0, "no column is named step"),
    (b"step,d_loss\n100," + b"1" * 200_000 + b"\n", 0, "field larger"),
    (b"step,d_loss\n100,1\nmean,1\n200,1\n", 2, "1 of its lines are no whole rows"),
    (b"step,d_loss,note\n100,1,good\n200,2", 1, "1 of its lines are no whole rows"),
    (b"step,d_loss\n100,1\nmean,1", 1, "1 of its lines are no whole rows"),
])
def test_what_cannot_be_read_of_a_log_is_kept_and_said(tmp_path, content, rows, words):
    filled(tmp_path, steps=300).close()
    (tmp_path / "log-kept-1.csv").write_text("of an earlier time")
    (tmp_path / "log.csv").write_bytes(content)
    again, said = Run.resume(tmp_path, FLAGS), []
    again.print_line = said.append
    again.load()
    again.log(400, d_loss=1.0)
    assert (tmp_path / "log-kept-2.csv").read_bytes() == content
    assert (tmp_path / "log-kept-1.csv").read_text() == "of an earlier time"
    assert len(runfiles.read_log(tmp_path)) == rows + 1
    (line,) = said
    assert words in line and "log-kept-2.csv" in line and "\n" not in line


def test_a_log_that_is_edited_while_the_run_goes_on(tmp_path):
    made = Run.create(FLAGS, out=tmp_path)
    made.log(1, d_loss=1.5)
    log = tmp_path / "log.csv"
    log.write_bytes(b"step;d_loss;note\r\n1;1,5;good\r\n")
    made.log(2, d_loss=2.5)
    made.log(3, d_loss=3.5)
    assert log.read_text() == "step,d_loss,note\n1,1.5,good\n2,2.5,\n3,3.5,\n"
    log.unlink()
    made.log(4, d_loss=4.5)
    assert log.read_text() == "step,d_loss\n4,4.5\n"


def test_rows_of_a_log_that_cannot_be_written_wait(tmp_path):
    made, said = Run.create(FLAGS, out=tmp_path), []
    made.print_line = said.append
    made.log(1, d_loss=1.5)
    log = tmp_path / "log.csv"
    log.rename(tmp_path / "away")
    log.mkdir()
    for step in (2, 3):
        made.log(step, d_loss=0.5)
    assert len(said) == 1 and "log.csv cannot be written" in said[0]
    log.rmdir()
    (tmp_path / "away").rename(log)
    made.log(4, d_loss=0.5)
    assert [row["step"] for row in runfiles.read_log(tmp_path)] == [1, 2, 3, 4]


@contextlib.contextmanager
def unwritable(log):
    """A folder lies where the log was."""
    away = log.with_name("away")
    if there := log.exists():
        log.rename(away)
    log.mkdir()
    yield
    log.rmdir()
    if there:
        away.rename(log)


@pytest.mark.parametrize("waiting", [0, 1, 3])
def test_a_disk_that_is_full_for_a_while_leaves_every_row_once(tmp_path, waiting):
    """Whatever a write that failed has left: a part of a line, or rows of which the last is torn."""
    made, said = Run.create(FLAGS, out=tmp_path), []
    made.print_line = said.append
    made.log(100, d_loss=0.125, g_loss=0.5)
    log = tmp_path / "log.csv"
    with unwritable(log):
        for step in range(200, 200 + 100 * waiting, 100):
            made.log(step, d_loss=0.125, g_loss=0.5)
    last = 200 + 100 * waiting
    with full_at(log.stat().st_size + max(1, waiting) * len("200,0.125,0.5\n") - 5):
        made.log(last, d_loss=0.125, g_loss=0.5)
    assert log.read_text().splitlines()[1 + max(1, waiting)].endswith("00,0.125")
    made.log(last + 100, d_loss=0.125, g_loss=0.5)
    rows = [f"{step},0.125,0.5\n" for step in range(100, last + 101, 100)]
    assert log.read_text() == "step,d_loss,g_loss\n" + "".join(rows)
    assert len(said) == 1 and not list(tmp_path.glob("log-kept*"))


@pytest.mark.parametrize("waits", [False, True])
def test_what_is_measured_while_the_log_cannot_be_written_waits_too(tmp_path, waits):
    made, said = Run.create(FLAGS, out=tmp_path), []
    made.print_line = said.append
    made.log(1, d_loss=1.5)
    if not waits:
        made.log(2, d_loss=2.5)
    with unwritable(made.log_path):
        if waits:
            made.log(2, d_loss=2.5)
        made.amend(2, kl=0.5)
    if waits:
        made.amend(2, kl=0.75)
    made.log(3, d_loss=3.5, kl=0.25)
    assert made.log_path.read_text() == f"step,d_loss,kl\n1,1.5,\n2,2.5,{0.75 if waits else 0.5}\n3,3.5,0.25\n"
    assert len(said) == 1 and "log.csv cannot be written" in said[0]


def test_a_log_that_cannot_be_read_leaves_its_place_only_to_a_new_one(tmp_path):
    made, said = Run.create(FLAGS, out=tmp_path), []
    made.print_line = said.append
    content = "step,d_loss\n" + "".join(f"{step},1.5\n" for step in range(100)) + "mean,1.5\n"
    made.log_path.write_text(content)
    with full_at(200):
        made.log(100, d_loss=0.5)
    assert made.log_path.read_text() == content and not list(tmp_path.glob("log-kept*"))
    made.log(101, d_loss=0.5)
    assert [row["step"] for row in made.rows()] == list(range(102))
    assert (tmp_path / "log-kept-1.csv").read_text() == content and len(said) == 2


@pytest.mark.parametrize(("content", "steps", "cell"), [
    ('1,"good,0.5\n2,,1.5\n3,,2.5\n', [1, 2, 3], '"good'),
    ('1,"good,0.5\n2,,1.5\n3,bad",2.5\n4,,3.5\n', [1, 2, 3, 4], '"good'),  # two that nothing closes
    ('1,5" wide,0.5\n2,"so\nand so",1.5\n', [1, 2], "so\nand so"),
    ('1,"a ""b"", c",0.5\n2,,1.5\n', [1, 2], 'a "b", c'),
])
def test_a_quotation_mark_swallows_no_rows(tmp_path, content, steps, cell):
    made = Run.create(FLAGS, out=tmp_path)
    made.log_path.write_text("step,note,d_loss\n" + content)
    assert [(row["step"], row["d_loss"]) for row in made.rows()] == [(step, step - 0.5) for step in steps]
    made.log(9, d_loss=8.5)
    assert [row["step"] for row in made.rows()] == [*steps, 9] and not list(tmp_path.glob("log-kept*"))
    assert cell in [row[1] for row in csv.reader(io.StringIO(made.log_path.read_text()))]


@pytest.mark.parametrize("content", [None, b"", b"no log\n", "folder"])
def test_rows_that_cannot_be_read_are_none_and_said_once(tmp_path, content):
    made, said = Run.create(FLAGS, out=tmp_path), []
    made.print_line = said.append
    if content == "folder":
        made.log_path.mkdir()
    elif content is not None:
        made.log_path.write_bytes(content)
    assert made.rows() == made.rows() == []
    assert len(said) == (content in (b"no log\n", "folder")) and all("log.csv" in line for line in said)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_linked_files_stay_links(tmp_path):
    run_folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    filled(run_folder, steps=300).close()
    elsewhere.mkdir()
    names = ("checkpoint.npz", "log.csv", "config.json")
    for name in names:
        (run_folder / name).rename(elsewhere / name)
        (run_folder / name).symlink_to(f"../elsewhere/{name}")
    again = Run.resume(run_folder, FLAGS)
    again.load()
    again.log(400, d_loss=0.5, kl=1.0)
    again.save({"w": np.ones(2)}, {"step": 400})
    again.close()
    assert all((run_folder / name).is_symlink() for name in names)
    assert sorted(os.listdir(elsewhere)) == sorted(names)
    assert runfiles.read_log(elsewhere)[-1] == {"step": 400, "d_loss": 0.5, "kl": 1.0}
    assert runfiles.read_config(elsewhere)["resumed"]
    # And a new run in their place destroys nothing that lies elsewhere.
    before = {name: (elsewhere / name).read_bytes() for name in names}
    fresh = Run.create(FLAGS, out=run_folder, overwrite=True)
    fresh.save({"w": np.zeros(2)}, {"step": 1})
    kept = {name: (elsewhere / name.replace(".", "-kept-1.")).read_bytes() for name in names}
    assert kept == before
    assert (run_folder / "checkpoint.npz").is_symlink() and (elsewhere / "checkpoint.npz").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_written_into_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with files.whole_file(tmp_path / "pipe") as file:
        file.write(b"figures")
    assert os.read(reader, 100) == b"figures" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_overwrite_refuses_a_file_named_samples(tmp_path):
    filled(tmp_path, steps=100).close()
    shutil.rmtree(tmp_path / "samples")
    (tmp_path / "samples").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="samples is no folder"):
        Run.create(FLAGS, out=tmp_path, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["loss.png", "checkpoint.npz", "config.json"])
def test_overwrite_refuses_what_no_run_made(tmp_path, name):
    """A folder with such a name, and such a file where no run was."""
    filled(tmp_path / "a", steps=100).close()
    (tmp_path / "a" / name).unlink(missing_ok=True)
    (tmp_path / "a" / name).mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).write_text("mine")
    before = contents(tmp_path)
    for folder, words in (("a", "is a folder, which no run made"), ("b", "no config.json of a run")):
        with pytest.raises(UsageError, match=words):
            Run.create(FLAGS, out=tmp_path / folder, overwrite=True)
    assert contents(tmp_path) == before and not (tmp_path / "b" / "samples").exists()


def test_overwrite_refuses_samples_where_no_run_was(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/step_1234567.png").write_text("mine")
    with pytest.raises(UsageError, match=r"has a samples.step_1234567\.png but no config\.json of a run"):
        Run.create(FLAGS, out=tmp_path, overwrite=True)
    assert (tmp_path / "samples/step_1234567.png").read_text() == "mine"


def test_overwrite_leaves_a_users_files_in_samples(tmp_path):
    filled(tmp_path, steps=100).close()
    (tmp_path / "samples" / "step_7.png").write_text("mine")
    (tmp_path / "samples" / "step_000007.png").mkdir()
    Run.create(FLAGS, out=tmp_path, overwrite=True)
    assert sorted(os.listdir(tmp_path / "samples")) == ["step_000007.png", "step_7.png"]


def test_what_a_file_manager_leaves_is_nothing(tmp_path):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._x"):
        (tmp_path / name).write_bytes(b"")
    Run.create(FLAGS, out=tmp_path).close()
    assert (tmp_path / ".DS_Store").exists() and (tmp_path / "config.json").exists()


def test_config_keeps_the_first_command_and_what_a_user_wrote_there(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/x/train.py", "--steps", "1000"])
    filled(tmp_path, steps=100).close()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"remark": "the good one"}))
    for number in (1, 2):
        monkeypatch.setattr("sys.argv", ["/x/train.py", "--resume", str(number)])
        again = Run.resume(tmp_path, FLAGS)
        again.load()
        again.close()
    config = runfiles.read_config(tmp_path)
    assert config["command"] == ["train.py", "--steps", "1000"] and config["remark"] == "the good one"
    assert config["resumed"] == [["train.py", "--resume", "1"], ["train.py", "--resume", "2"]]


def test_paths_are_kept_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Run.create(FLAGS | {"data_dir": Path("data"), "substrate": [Path("a.png"), tmp_path / "b.png"]}, out="run")
    flags = runfiles.read_config("run")["flags"]
    assert flags["data_dir"] == str(tmp_path / "data")
    assert flags["substrate"] == (str(tmp_path / "a.png"), str(tmp_path / "b.png"))


def test_inputs_of_other_content_are_refused(tmp_path):
    known = {"hash": "1", "source": "60,000 digits from /a"}
    Run.create(FLAGS, out=tmp_path, inputs={"data": known}).close()
    again = Run.resume(tmp_path, FLAGS)
    again.check_input("data", {"hash": "1", "source": "60,000 digits from /b"}, "advice")
    with pytest.raises(TinyganError, match="trained on 60,000 digits from /b; .*5,000 of them.* else: name the folder"):
        again.check_input("data", {"hash": "2", "source": "5,000 of them"}, "name the folder")
    again.check_input("other", {"hash": "3", "source": "x"}, "advice")  # an older run says nothing of it


def test_hash_of_files_and_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "cup.png").write_bytes(b"cup")
        (tmp_path / folder / "deep/vase.PNG").write_bytes(b"vase")
    (tmp_path / "b/.DS_Store").write_bytes(b"x")
    (tmp_path / "b/notes.txt").write_bytes(b"x")

    def same(a, b):
        return runfiles.hash_files([tmp_path / a]) == runfiles.hash_files([tmp_path / b])

    assert same("a", "b") and not same("a", "a/cup.png")
    (tmp_path / "b/renamed.png").write_bytes(b"cup")
    assert same("a/cup.png", "b/renamed.png") and not same("a", "b")
    (tmp_path / "b/renamed.MASK.png").write_bytes(b"mask")
    assert not same("a/cup.png", "b/renamed.png")
    for folder in ("a", "b"):
        (tmp_path / folder / "vase.jfif").write_bytes(b"vase")  # a picture by what it holds, not by its name
    assert same("a/vase.jfif", "b/vase.jfif")
    (tmp_path / "b/vase.mask.png").write_bytes(b"mask")
    assert not same("a/vase.jfif", "b/vase.jfif")
    (tmp_path / "b/vase.mask.png").unlink()
    with pytest.raises(TinyganError, match="no file .*gone.png"):
        runfiles.hash_files([tmp_path / "gone.png"])
    if os.name != "nt":
        (tmp_path / "c").mkdir()
        (tmp_path / "c/deep").symlink_to(tmp_path / "a/deep")
        (tmp_path / "c/again").symlink_to(tmp_path / "c")
        before = runfiles.hash_files([tmp_path / "c"])
        (tmp_path / "a/deep/vase.PNG").write_bytes(b"another")
        assert runfiles.hash_files([tmp_path / "c"]) != before
    a = np.arange(6, dtype=np.uint8)
    assert files.hash_arrays(a) == files.hash_arrays(a.copy())
    assert len({files.hash_arrays(x) for x in (a, a.reshape(2, 3), a.astype(np.int8), a[::-1])}) == 4


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
    made = filled(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (note,) = made.finish()
    assert "matplotlib" in note and "\n" not in note
    assert (tmp_path / "report.html").exists() and (tmp_path / "training.gif").exists()


def test_finish_with_a_damaged_sample_says_so(tmp_path):
    made = filled(tmp_path)
    made.samples()[1][1].write_bytes(b"<html>")
    (note,) = made.finish()
    assert "step_000100.png: it is not a PNG" in note


@pytest.mark.parametrize("error", [SystemExit(3), ValueError("two\nlines"), MemoryError(), UserWarning("a glyph")])
def test_nothing_that_drawing_raises_ends_a_run(tmp_path, monkeypatch, error):
    made = filled(tmp_path, steps=100)

    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(run.curves, "loss_plot", broken)
    monkeypatch.setattr(run.pictures, "save_gif", broken)
    notes = made.finish()
    assert len(notes) == 2 and all(type(error).__name__ in note and "\n" not in note for note in notes)
    assert "loss.png" in notes[0] and "training.gif" in notes[1]
    assert (tmp_path / "report.html").exists()


def test_the_report_is_there_before_anything_is_drawn(tmp_path, monkeypatch):
    made = filled(tmp_path, steps=100)

    def stop(*args, **kwargs):
        assert (tmp_path / "report.html").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(run.curves, "loss_plot", stop)
    with pytest.raises(KeyboardInterrupt):
        made.finish()


def test_a_report_that_cannot_be_written_is_one_note(tmp_path):
    made = filled(tmp_path, steps=100)
    (tmp_path / "report.html").mkdir()
    assert len(made.finish()) == 1 and (tmp_path / "loss.png").exists()


@pytest.mark.parametrize("variables", [{}, {"MPLBACKEND": "no-such"}, {"MPLBACKEND": "module://no.such"},
                                       {"PYTHONWARNINGS": "error"}, {"MATPLOTLIBRC": "latex"}])
def test_curves_do_not_depend_on_a_users_matplotlib(tmp_path, variables):
    (tmp_path / "latex").write_text("text.usetex: True\nfont.family: NoSuchFont\nsavefig.format: svg\n")
    code = ("import sys; from tinygan.app.run import Run; r = Run.create({}, out=sys.argv[1])\n"
            "for step in (1, 2, 3): r.log(step, d_loss=1.0, g_loss=2.0)\n"
            "r.save({}, {'step': 3}); print(r.finish())")
    folder = tmp_path / "a$b^{_ \u6f22 $"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **variables})
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)
    assert pictures.read_png(folder / "loss.png").shape[1] == 880


def test_samples_that_cannot_be_written_are_said_once(tmp_path):
    made, said = Run.create(FLAGS, out=tmp_path), []
    made.print_line = said.append
    (tmp_path / "samples").rmdir()
    made.save_sample(1, picture())
    assert [step for step, _ in made.samples()] == [1] and said == []  # the folder is made again
    made.samples()[0][1].unlink()
    (tmp_path / "samples").rmdir()
    (tmp_path / "samples").write_text("mine")
    (tmp_path / "cams.png").mkdir()
    for step in range(2, 50):
        made.save_sample(step, picture())
        made.save_picture("cams.png", picture())
    assert len(said) == 2 and all(line.startswith("note: ") and "\n" not in line for line in said)
    assert (tmp_path / "samples").read_text() == "mine"


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
    for words in ("all is well", "step 2,000", "4,4,1", "0.2 (step 2,200)", "0.25", "numpy", "a <b> & c",
                  "medians over the last 5 rows"):
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
    monkeypatch.setattr(streams.time, "monotonic", lambda: float(next(clock)))
    out = io.StringIO()
    progress = Progress(250, every=100, stream=out)
    for step in range(1, 251):
        progress.update(step, d_loss=0.5)
    progress.print_line("hello")
    progress.close()
    lines = out.getvalue().splitlines()
    assert "\r" not in out.getvalue()
    assert lines[0] == "step 100/250   40%  1.0 it/s  02:30 left  d_loss 0.5"
    assert [line.split()[1] for line in lines[:3]] == ["100/250", "200/250", "250/250"] and lines[3:] == [
        "hello"
    ]


def test_progress_says_something_now_and_then_however_slow_the_steps(monkeypatch):
    clock = itertools.count(step=4)  # seconds a step
    monkeypatch.setattr(streams.time, "monotonic", lambda: float(next(clock)))
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
    made.amend(3, samples=4)
    made.amend(3, samples=5)  # no new column, and all the same no new row
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
    progress.print_line("all is well")
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
