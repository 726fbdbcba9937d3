"""The curves and the report of a GPAN's run: what its log says is drawn, in words, and nothing else is in the file."""

import json
import math

import numpy as np
import pytest
from script_tools import load_script
from test_pictures import colour_count, opened
from test_run import read_page

from tinygan.app import curves, pictures, report
from tinygan.app.columns import BLACK, BLUE, COLUMNS, GPAN_PANELS, GREEN, PINK, RED, SKY
from tinygan.app.gpan_measure import in_words
from tinygan.app.run import Run

STEPS = np.arange(20, 420, 20)
LOSSES = {"wanted": 4.0, "unwanted": 1.2, "cgan": 0.7, "background": 0.02, "substrate": 0.1, "split": 11.0}
PULLS = {"pull_vgg": 60.0, "pull_cgan": 0.04, "pull_background": 0.1, "pull_substrate": 0.5, "pull_split": 0.08}
BATCH = {"train_top1": 0.25, "train_top5": 1.0, "train_probability": 0.3}
GAME = {"d_loss": 1.3, "g_loss": 300.0, "d_real": 0.6, "d_fake": 0.4, "logit_gap": 0.8, "g_grad": 2000.0, "d_grad": 0.9,
        "map_size": 0.7}
MEASURED = {"top1": 0.5, "top5": 0.9, "probability": 0.45, "view_top1": 0.4, "view_probability": 0.35, "variety": 1.5,
            "speckle": 0.03, "samples": 30}


def rows(*parts):
    """A log whose numbers move a little, with what is measured at every fifth row."""
    every = {name: value for part in parts for name, value in part.items()}
    return [{"step": int(step)} | {name: value * (1 + 0.02 * i) for name, value in every.items()
                                   if name not in MEASURED or i % 5 == 4} for i, step in enumerate(STEPS)]


def as_columns(log):
    names = dict.fromkeys(name for row in log for name in row)
    return {name: [row.get(name, math.nan) for row in log] for name in names}


def made(folder, log, sizes=((96, 96),)):
    run = Run.create({"classifier": None, "wanted": ["3", "5"], "steps": 400}, out=folder, name="gpan")
    for row in log:
        run.log(**row)
    for number, (height, width) in enumerate(sizes):
        run.save_sample(100 * number, np.full((height, width, 3), 90 + number, np.uint8))
    for name in ("cams.png", "routes.png"):
        run.save_picture(name, np.full((40, 60, 3), 120, np.uint8))
    return run


# ---- curves ------------------------------------------------------------------------------------------------------


def test_each_group_of_numbers_has_a_panel_of_its_own(tmp_path):
    pytest.importorskip("matplotlib")
    heights, seen = [], []
    for parts in ((LOSSES,), (LOSSES, PULLS), (LOSSES, PULLS, BATCH), (LOSSES, PULLS, BATCH, MEASURED),
                  (LOSSES, PULLS, BATCH, MEASURED, GAME)):
        curves.loss_plot(tmp_path / "a.png", as_columns(rows(*parts)), title="a run")
        heights.append(opened(tmp_path / "a.png").shape[0])
        seen.append({name: colour_count(tmp_path / "a.png", colour) for name, colour in (
            ("blue", BLUE), ("red", RED), ("green", GREEN), ("pink", PINK), ("black", BLACK), ("sky", SKY))})
    assert heights == sorted(set(heights))
    assert all(min(counts.values()) > 100 for counts in seen)


def test_every_curve_is_drawn(tmp_path):
    """One after the other: a log of one column more than nothing has more ink of that curve's colour."""
    pytest.importorskip("matplotlib")
    names = [name for panel in GPAN_PANELS for name in panel.curves]
    assert len(set(names)) == len(names)
    assert set(LOSSES) | set(PULLS) <= set(names) <= {*LOSSES, *PULLS, *BATCH, *MEASURED, *GAME}
    for panel in GPAN_PANELS:
        for name in panel.curves:
            colour = panel.colours.get(name, COLUMNS[name].colour)
            log = [{"step": int(step), "wanted": math.nan, name: 0.5} for step in STEPS]
            curves.loss_plot(tmp_path / "a.png", as_columns(log))
            assert colour_count(tmp_path / "a.png", colour) > 100, name


@pytest.mark.parametrize("change", [
    {"split": -3.0, "cgan": -0.4},  # as printed, and saturating: below 0
    {"background": 0.0, "pull_background": 0.0}, {"wanted": math.inf}, {"wanted": math.nan, "pull_vgg": math.nan},
    {"variety": math.inf}, dict.fromkeys(PULLS, 0.0), {"wanted": 1e30, "pull_vgg": 1e-30},
])
def test_odd_numbers_are_still_a_picture(tmp_path, change):
    pytest.importorskip("matplotlib")
    log = [row | {name: value for name, value in change.items() if name in row}
           for row in rows(LOSSES, PULLS, BATCH, MEASURED, GAME)]
    curves.loss_plot(tmp_path / "a.png", as_columns(log))
    assert opened(tmp_path / "a.png").shape[0] > 1000


# ---- the report --------------------------------------------------------------------------------------------------


def test_report_says_what_was_found(tmp_path):
    run = made(tmp_path / "run", rows(LOSSES, PULLS, BATCH, MEASURED, GAME))
    run.finish()
    page = read_page(tmp_path / "run/report.html")
    assert all(link.startswith("data:image/") for link in page.links)
    for words in ("The classifier finds what is wanted in 69% of the images", "all is well",
                  "Importance maps", "left the substrate",
                  "L_p: low where the classifier gives the wanted classes",
                  "norm of the gradient of L_sub, weighted, at the images",
                  "4 (step 20)", "0.69 (step 400)"):
        assert words in page.text, words
    order = [page.text.index(words) for words in ("Samples at the end", "Importance maps",
                                                  "The same noise, step by step", "Routes", "Curves", "Figures")]
    assert order == sorted(order)


def test_every_column_has_words(tmp_path):
    log = rows(LOSSES, PULLS, BATCH, MEASURED, GAME)
    text = report.write_report(made(tmp_path / "run", log).folder).read_text().split("Settings")[0]
    for name in (*LOSSES, *PULLS, *BATCH, *MEASURED, *GAME):
        assert name in COLUMNS and f"<td>{name}</td>" not in text


def test_best_is_the_end_that_is_better(tmp_path):
    text = read_page(report.write_report(made(tmp_path / "run", rows(LOSSES, MEASURED)).folder)).text
    assert "0.02 (step 20)" in text  # the background: the less the better
    assert "0.621 (step 400)" in text  # the probability


def test_report_without_a_discriminator(tmp_path):
    """Nothing is said of a game that was not played."""
    page = read_page(report.write_report(made(tmp_path / "run", rows(LOSSES, BATCH)).folder))
    assert "finds what is wanted in 34% of the batch" in page.text and "the log says nothing" not in page.text


def test_a_gans_report_knows_nothing_of_all_this(tmp_path):
    run = Run.create({"model": "sgan"}, out=tmp_path / "run")
    run.log(100, d_loss=1.0, g_loss=1.0, d_real=0.6, d_fake=0.4)
    page = read_page(report.write_report(run.folder))
    assert "wanted" not in page.text and "classifier" not in page.text


def test_large_pictures_are_small_in_the_strip_and_in_the_film(tmp_path):
    pytest.importorskip("matplotlib")
    noise = np.random.default_rng(0).integers(0, 255, (1032, 1550, 3), np.uint8)
    run = Run.create({"steps": 1}, out=tmp_path / "run")
    for step in (0, 50):
        run.save_sample(step, noise)
    run.log(50, **LOSSES)
    assert run.finish() == []
    from PIL import Image

    with Image.open(run.folder / "training.gif") as film:
        assert film.size == (775, 516)
    size = len(noise.tobytes()) / 3 * 4  # of one such picture in the page, which cannot be packed
    assert size < (run.folder / "report.html").stat().st_size < 2.2 * size  # one whole, two small, and the film


@pytest.mark.parametrize("shape", [(10, 10), (7, 21, 3), (20, 9), (1, 100, 3)])
def test_shrunk(shape):
    picture = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    small = pictures.shrunk(picture, 10)
    factor = -(-shape[1] // 10)
    assert small.dtype == np.uint8 and small.shape[:2] == tuple(-(-n // factor) for n in shape[:2])
    assert small.shape[2:] == shape[2:] and small.shape[1] <= 10
    assert small[0, 0] == pytest.approx(np.rint(picture[:factor, :factor].mean(axis=(0, 1))))
    assert pictures.shrunk(picture, shape[1]) is picture


def test_a_damaged_sample_is_no_reason_to_have_no_report(tmp_path):
    run = made(tmp_path / "run", rows(LOSSES), sizes=((8, 8), (8, 8)))
    run.samples()[0][1].write_bytes(b"<html>")
    assert "Samples at the end" in read_page(report.write_report(run.folder)).text


def test_overwrite_removes_cams_too(tmp_path):
    made(tmp_path / "run", rows(LOSSES)).close()
    (tmp_path / "run/mine.txt").write_text("mine")
    Run.create({}, out=tmp_path / "run", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "mine.txt", "samples"]
    assert json.loads((tmp_path / "run/config.json").read_text())["flags"] == {}


def test_the_script_logs_what_the_report_knows():
    """Its own columns are those of test_train_gpan.py: here only the losses' names must be the same."""
    assert {f"pull_{name}" for name in load_script("train_gpan").WEIGHTS} == set(PULLS)


@pytest.mark.parametrize("name", [*MEASURED, *BATCH])
def test_a_number_that_a_user_has_taken_out_of_the_log_is_missing_in_the_words(name):
    row = LOSSES | (MEASURED if name in MEASURED else BATCH)
    words = in_words({key: value for key, value in row.items() if key != name})
    assert "background 0.020 from white" in words and ("nan" in words) == ("view" in name or "probability" in name)
