"""evaluate.py: every row is there, a perfect and a collapsed generator get the figures they deserve."""

import importlib.util
import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from script_tools import TINY, write_mnist

from tinygan import data
from tinygan.app import checkpoint, measure, measure_stacked
from tinygan.app.device import pick_device
from tinygan.data.mnist import BUNDLED
from tinygan.errors import TinyganError
from tinygan.metrics import routes as metrics_routes
from tinygan.models.classifiers import digits
from tinygan.models.classifiers.load import find_classifier
from tinygan.models.gan.nets import GANConfig, Generator

pytest.importorskip("h5py")
ROOT = Path(__file__).parents[2]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


evaluate, train_mnist = script("evaluate"), script("train_mnist")
CPU = pick_device("cpu")
SAMPLES = ["classes", "histogram", "kl_uniform", "kl_prior", "confidence", "confident", "classifier_score", "frechet",
           "precision", "recall", "density", "coverage", "ndb", "js", "spread", "spread_wasserstein", "copies",
           "nearest_copy"]
ROUTES = ["dead_routes", "entropy_given_route", "information", "specialised", "specialised_routes", "eta_squared"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Less of everything than a figure worth printing needs."""
    less = {"ROUTES": 8, "PER_ROUTE": 20, "LAYER_SAMPLES": 40, "RECONSTRUCT_STEPS": 3, "BINS": 20, "BIN_DIGITS": 1000,
            "COPY_SAMPLES": 50}
    for name, value in less.items():
        monkeypatch.setattr(measure, name, value)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A dry run of each model."""
    folder = tmp_path_factory.mktemp("runs")
    for model in ("sgan", "gan", "tied"):
        banks = [] if model == "gan" else ["--bank", "3,3,1,1"]
        words = ["--model", model, "--dry-run", "--out", str(folder / model), "--data-dir", str(BUNDLED),
                 "--base-channels", "4", "--threads", "1", "--device", "cpu", *banks]
        assert train_mnist.cli.run_main(train_mnist.main, words) == 0
    return folder


@pytest.fixture(scope="module")
def subject():
    generator = Generator(GANConfig(base_channels=4, latent_dim=8, bank=(3, 1, 2, 1)), rng=np.random.default_rng(0))
    train, test = (data.load_mnist(split, data_dir=BUNDLED) for split in ("train", "test"))
    return measure.Subject(generator, find_classifier(), CPU, train, test, seed=0)


def run(*words, threads=1):
    return evaluate.cli.run_main(evaluate.main, [*map(str, words), "--threads", str(threads)])


def draws(monkeypatch, function):
    """Let every generator draw what `function(z, routes)` gives: uint8 digits (N, 28, 28)."""
    monkeypatch.setattr(measure, "generate", lambda g, z, routes, device: data.to_canvas(function(z, routes), 32))


def values(rows):
    return {row.key: row.value for row in rows}, {row.key: row.compare for row in rows}


# ---- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, effects", [("sgan", ["effect.projection", "effect.deconvs.0"]), ("gan", []),
                                            ("tied", ["effect.all layers"])])
def test_every_row_is_printed_and_in_the_json(runs, tmp_path, capsys, model, effects):
    out = tmp_path / "figures.json"
    words = ["--checkpoint", runs / model, "--n", 200, "--data-dir", BUNDLED, "--json", out, "--reconstruct", 2]
    assert run(*words) == 0
    table = capsys.readouterr().out
    found = json.loads(out.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    expected = SAMPLES + (ROUTES if model != "gan" else []) + effects + ["reconstruction"]
    assert list(found["rows"]) == expected
    if model == "gan":
        assert set(found) == {"run", "rows"} and "--route" not in table
    else:
        assert "which digit a route draws" in table and "confidence" in table
        assert all(sum(d["shares"]) == pytest.approx(1) and len(d["route"]) == 4 for d in found["by_route"])
        assert set(found["by_set"]) == (set() if model == "tied" else {"projection", "deconvs.0"})
    for key, row in found["rows"].items():
        assert row["label"] in table, key
        assert row["compare_with"] in table, key
        assert row["value"] is not None, key
    assert "200 samples, seed 0" in table and "step 2" in table
    assert "test: 1,000 digits" in found["run"]["test"] and "train: 5,000 digits" in table
    assert found["run"]["samples"] == 200 and found["run"]["step"] == 2
    assert sum(found["rows"]["histogram"]["value"]) == pytest.approx(100, abs=0.1)
    assert not re.search(r"\bnan\b|\binf\b", table)
    first, second = re.findall(r"^    (?:samples|training labels) .*$", table, re.MULTILINE)
    assert len(first) == len(second) and "against what" in table


def test_a_run_on_stacked_digits(runs, tmp_path, capsys):
    words = [*TINY, "--stacked", "--steps", "2", "--data-dir", str(BUNDLED), "--eval-every", "0", "--out",
             str(tmp_path / "run")]
    assert train_mnist.cli.run_main(train_mnist.main, words) == 0
    capsys.readouterr()
    words = ["--checkpoint", tmp_path / "run", "--n", 400, "--data-dir", BUNDLED]
    assert run(*words, "--json", tmp_path / "figures.json") == 0
    found, table = json.loads((tmp_path / "figures.json").read_text())["rows"], capsys.readouterr().out
    assert list(found) == ["modes", "modes_kl", "confidence", "sure", "modes_sure", "triples_per_route",
                           "information_projection", "information_deconvs.0", "information_deconvs.1"]
    assert "features" not in table
    assert all(row["label"] in table and row["compare_with"] in table for row in found.values())
    real = {key: row["compare"] for key, row in found.items()}
    assert 300 < real["modes_sure"] < real["modes"] < 360  # of 400 even draws of 1,000: 330 on average
    assert found["modes_kl"]["compare_with"] == "400 triples of test digits; perfect samples 1.2488"
    assert real["modes_kl"] == pytest.approx(1.25, abs=0.15) and real["confidence"] > 0.98 > real["sure"] > 0.9
    code, line = answer(capsys, *words, "--reconstruct", 2)
    assert code == 2 and "--reconstruct is of digits" in line


def test_a_generator_of_real_triples_measures_like_real_triples(subject, monkeypatch):
    monkeypatch.setattr(measure, "PER_ROUTE", 100)
    monkeypatch.setattr(measure, "generate", lambda g, z, routes, device: next(
        data.StackedDigits(subject.train, len(z), 32, np.random.default_rng(4))))
    value, compare = values(measure_stacked.measure_stacked(subject, 600))
    for key in ("triples_per_route", "information_projection", "information_deconvs.1"):
        assert value[key] == pytest.approx(compare[key], rel=0.03, abs=0.01), key
    assert value["modes_kl"] == pytest.approx(compare["modes_kl"], abs=0.1)
    assert value["sure"] == pytest.approx(compare["sure"], abs=0.04) and value["modes"] > 400


def test_routes_that_draw_one_triple_each_are_found(subject, monkeypatch):
    first_of = [np.flatnonzero(subject.train.labels == digit)[0] for digit in range(10)]

    def planted(generator, z, routes, device):  # the set of the first layer decides all three digits
        return np.repeat(data.to_canvas(subject.train.images[first_of][routes[:, 0]], 32), 3, axis=1)

    monkeypatch.setattr(measure, "PER_ROUTE", 100)
    monkeypatch.setattr(measure, "generate", planted)
    value, compare = values(measure_stacked._rows_of_routes(subject))
    assert value["triples_per_route"] == 1 and compare["triples_per_route"] == 3  # the bank there has 3 sets
    assert value["information_projection"] == pytest.approx(np.log(3))
    assert value["information_deconvs.1"] == pytest.approx(0, abs=1e-9) and compare["information_projection"] < 0.01


def test_same_seed_same_figures_on_any_number_of_threads(runs, capsys):
    words = ["--checkpoint", runs / "sgan", "--n", 200, "--data-dir", BUNDLED, "--json", "-"]
    texts = []
    for threads, seed in ((1, 0), (2, 0), (1, 1)):
        assert run(*words, "--seed", seed, threads=threads) == 0
        texts.append(json.loads(capsys.readouterr().out)["rows"])
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_damaged_log_costs_no_other_figures(tmp_path):
    notes: list[str] = []
    (tmp_path / "log.csv").write_text("no log\n")
    assert measure.measure_training(tmp_path, notes.append) == []
    assert "log.csv is damaged" in notes[-1]
    (tmp_path / "log.csv").unlink()
    (tmp_path / "log.csv").mkdir()
    assert measure.measure_training(tmp_path, notes.append) == []
    assert len(notes) == 2 and "nothing is measured of the training" in notes[-1]


def test_nothing_but_json_where_json_is_asked_for(runs, capsys):
    path = runs / "gan" / checkpoint.FILE_NAME
    assert run("--checkpoint", path, "--n", 200, "--data-dir", BUNDLED, "--json", "-") == 0
    printed = capsys.readouterr()
    assert set(json.loads(printed.out)) == {"run", "rows"} and "drawing 200 samples" in printed.err


def test_numbers_that_are_not_finite_become_null():
    row = evaluate.Row("labels", "x", "an x", math.inf, [1.0, math.nan], "y")
    assert json.loads(evaluate.as_json({}, [row]))["rows"]["x"]["value"] is None
    assert json.loads(evaluate.as_json({}, [row]))["rows"]["x"]["compare"] == [1.0, None]


# ---- generators whose figures are known --------------------------------------------------------------------------


def test_a_generator_of_real_digits_measures_like_real_digits(subject, monkeypatch):
    fresh = subject.train.images[np.random.default_rng(5).permutation(len(subject.train))]
    draws(monkeypatch, lambda z, routes: fresh[:len(z)])
    value, compare = values(measure.measure_samples(subject, 800))
    assert value["classes"] == 10 and value["kl_uniform"] < 4 * compare["kl_uniform"]
    assert value["confidence"] == pytest.approx(compare["confidence"], abs=0.02)
    assert value["classifier_score"] > 9.5
    assert value["frechet"] < 1.5 * compare["frechet"]
    assert value["ndb"] <= compare["ndb"] + 2 and value["js"] < 1.5 * compare["js"]
    assert value["spread"] == pytest.approx(1, abs=0.02)
    for name in ("precision", "recall", "coverage"):
        assert value[name] > compare[name] - 0.05
    assert value["nearest_copy"] == 0 and value["copies"] == 0  # they are copies


def test_a_generator_of_one_digit_has_collapsed(subject, monkeypatch):
    draws(monkeypatch, lambda z, routes: np.repeat(subject.test.images[:1], len(z), axis=0))
    value, compare = values(measure.measure_samples(subject, 400))
    assert value["classes"] == 1 and value["kl_uniform"] == pytest.approx(math.log(10))
    assert max(value["histogram"]) == 100 and value["classifier_score"] == pytest.approx(1, abs=1e-6)
    assert value["spread"] == 0 and value["coverage"] < 0.05 and value["recall"] < 0.05
    assert value["ndb"] > 10 and value["frechet"] > 5 * compare["frechet"]


def test_routes_that_choose_the_digit_are_found_out(subject, monkeypatch):
    """The filter set of layer 0 decides the class, that of layer 2 nothing at all."""
    groups = [subject.test.images[subject.test.labels == label] for label in (1, 4, 8)]

    def digit_of_route(z, routes):
        return np.stack([groups[r[0]][int(abs(v[0]) * 1e4) % 90] for v, r in zip(z, routes, strict=True)])

    draws(monkeypatch, digit_of_route)
    rows, drawn = measure.measure_routes(subject)
    value, compare = values(rows)
    assert value["information"] > 0.9 and value["information"] > 10 * compare["information"]
    assert value["entropy_given_route"] < 0.2 < compare["entropy_given_route"]
    assert value["specialised_routes"] == 1 and value["specialised"] == pytest.approx(1, abs=0.1)
    assert value["dead_routes"] == 0 and value["eta_squared"] > 0.3 > compare["eta_squared"]
    assert value["effect.deconvs.1"] == 0 < value["effect.projection"]
    digit = {0: 1, 1: 4, 2: 8}
    assert all(np.argmax(d.shares) == digit[d.route[0]] and max(d.shares) > 0.9 and not d.dead for d in drawn.by_route)
    assert [d.route for d in drawn.by_route] == [[i, 0, j, 0] for i in range(3) for j in range(2)]
    assert {k: np.argmax(row) for k, row in drawn.by_set["projection"].items()} == digit
    assert all(row[d] == pytest.approx(1 / 3, abs=0.02) for row in drawn.by_set["deconvs.1"].values() for d in (1, 4))
    lines = evaluate.as_routes(drawn, 6).splitlines()
    assert "(6 of 6 routes measured)" in lines[0] and lines[1].split() == ["--route", *"0123456789", "confidence"]
    assert re.fullmatch(r" +2,0,1,0 +0 +0 +0 +0 +0 +0 +0 +0 +\d+ +0 +0\.\d\d", lines[7])


def test_routes_that_draw_nothing_are_dead(subject, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)
    draws(monkeypatch, lambda z, routes: np.where((routes[:, 0] == 0)[:, None, None], noise,
                                                  subject.test.images[:len(z)]))
    rows, drawn = measure.measure_routes(subject)
    assert values(rows)[0]["dead_routes"] == pytest.approx(1 / 3)
    assert [d.route[0] for d in drawn.by_route if d.dead] == [0, 0]
    assert evaluate.as_routes(drawn, 6).count("  dead\n") == 2


def test_of_many_routes_those_worth_a_look_are_listed():
    """Of 20 routes one draws mostly fours, and two are dead, which alone draw sevens."""
    def drawn(i):
        shares = np.full(10, 0.1) + (np.arange(10) == 4) * (i == 12) * 0.7
        shares[7] = 0.9 if i in (3, 5) else 0
        return metrics_routes.Drawn([i, 0], (shares / shares.sum()).tolist(), 0.9, i in (3, 5))

    table = measure.DrawnDigits([drawn(i) for i in range(20)], {"projection": {i: [0.1] * 10 for i in range(20)}})
    lines = evaluate.as_routes(table, 20).splitlines()
    assert "20 of 20 routes measured, all of them in --json" in lines[0]
    assert [line.split()[4] for line in lines if "most of digit" in line][4] == "12,0"
    assert lines[11].split()[:2] == ["purest", "12,0"] and lines[11].split()[6] == "50"
    assert [line.split()[0] for line in lines if line.endswith("dead")] == ["3,0", "5,0"]
    assert "most of digit 7" not in " ".join(lines) and lines[-1] == "  no live route draws 7"
    assert len(lines) == 2 + 9 + evaluate.PUREST + 2 + 1


# ---- the reference digits ----------------------------------------------------------------------------------------


def moved_data(run, folder):
    """The run as if it had been trained on the digits in `folder`."""
    config = json.loads((run / "config.json").read_text())
    config["flags"]["data_dir"] = None if folder is None else str(folder)
    (run / "config.json").write_text(json.dumps(config))


def test_the_runs_own_digits_are_the_reference_unless_told(runs, tmp_path, capsys, monkeypatch):
    run_folder, few = shutil.copytree(runs / "gan", tmp_path / "run"), write_mnist(tmp_path / "few", 300)
    words = ["--checkpoint", run_folder, "--n", 200]
    for stored, typed, expected in ((few, None, "300 digits"), (few, BUNDLED, "1,000 digits"),
                                    (tmp_path / "gone", BUNDLED, "1,000 digits")):
        moved_data(run_folder, stored)
        assert run(*words, *(["--data-dir", typed] if typed else [])) == 0
        table = capsys.readouterr().out
        assert f"test: {expected}" in table and "not comparable with RESULTS.md" in table
    code, line = answer(capsys, *words)
    assert code == 1 and f"trained on the digits in {tmp_path / 'gone'}" in line and "--data-dir" in line
    next(few.glob("t10k-labels*")).unlink()
    moved_data(run_folder, few)
    code, line = answer(capsys, *words)
    assert code == 1 and "t10k-labels" in line and "name another with --data-dir" in line
    # The checkpoint by itself says nothing of its data: what is found on the machine will do.
    (run_folder / "config.json").unlink()
    monkeypatch.setenv("TINYGAN_DATA", str(BUNDLED))
    assert run(*words) == 0 and "test: 1,000 digits" in capsys.readouterr().out


def test_digits_that_the_start_of_their_names_says(tmp_path):
    few = write_mnist(tmp_path / "gzip", 30)
    for path in list(few.iterdir()):
        path.rename(few / f"emnist-digits-{path.name.replace('t10k', 'test')}")
    (tmp_path / "config.json").write_text(json.dumps({"flags": {"data_dir": str(few / "emnist-digits")}}))
    assert [len(digits) for digits in evaluate.load_digits(None, tmp_path)] == [30, 30]
    for stored, words in ((str(few / "emnist-letters"), "which is gone"), (5, "names 5"), (["a"], "which is no path")):
        (tmp_path / "config.json").write_text(json.dumps({"flags": {"data_dir": stored}}))
        with pytest.raises(TinyganError, match=f"{words}.*--data-dir"):
            evaluate.load_digits(None, tmp_path)


def test_the_original_digits_are_comparable(runs, capsys, monkeypatch):
    marks = {split: data.load_mnist(split, data_dir=BUNDLED).hash for split in ("train", "test")}
    monkeypatch.setattr(evaluate, "ORIGINAL", marks)
    words = ["--checkpoint", runs / "gan", "--n", 200, "--data-dir", BUNDLED]
    assert run(*words) == 0 and "not comparable" not in capsys.readouterr().out
    monkeypatch.setitem(marks, "test", marks["train"])
    assert run(*words, "--json", "-") == 0 and json.loads(capsys.readouterr().out)["run"]["comparable"] is False


@pytest.mark.skipif("TINYGAN_DATA" not in os.environ, reason="TINYGAN_DATA does not name a folder with the real MNIST")
def test_the_fingerprints_are_those_of_mnist():
    for split, mark in evaluate.ORIGINAL.items():
        assert data.load_mnist(split, download=False, allow_bundled=False).hash == mark


def test_routes_asked_are_all_different(subject):
    rng = np.random.default_rng(0)
    assert len(measure.some_routes(subject.generator, 64, rng)) == 6  # 3 x 2: all there are
    assert len(np.unique(measure.some_routes(subject.generator, 4, rng), axis=0)) == 4


def test_reconstruction_goes_down_and_finds_what_the_generator_can_draw(subject, monkeypatch):
    generator, rng = subject.generator, np.random.default_rng(0)
    z, routes = generator.draw_noise(rng, 6), generator.draw_routes(rng, 6)
    target = measure.generate(generator, z, routes, CPU)
    errors = []
    for steps in (0, 10, 60):
        monkeypatch.setattr(measure, "RECONSTRUCT_STEPS", steps)
        errors.append(measure.reconstruct(generator, CPU, target, routes))
    start = ((measure.generate(generator, np.zeros_like(z), routes, CPU) - target) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(errors[0], start, rtol=1e-4)
    assert (errors[1] < errors[0]).all() and errors[2].mean() < 0.5 * errors[0].mean()
    assert all(p.requires_grad and p.grad is None for p in generator.parameters())


def test_reconstruction_moves_the_noise_and_leaves_the_categories(subject, monkeypatch):
    """From the categories that made a digit it comes nearer than from others; and the row says what was tried."""
    generator = Generator(GANConfig(base_channels=4, latent_dim=3, one_hot=(3,), bank=1, init_factor=1.0),
                          rng=np.random.default_rng(0))
    z = generator.draw_noise(np.random.default_rng(0), 6)
    target, code = measure.generate(generator, z, np.zeros((6, 4), int), CPU), z[:, 3:]
    monkeypatch.setattr(measure, "RECONSTRUCT_STEPS", 60)
    own, other = (measure.reconstruct(generator, CPU, target, np.zeros((6, 4), int), codes)
                  for codes in (code, np.roll(code, 1, axis=1)))
    assert own.mean() < 0.5 * other.mean()
    row = measure.measure_reconstruction(subject._replace(generator=generator), 2)
    assert "best of 8 categories" in row.label and row.value > 0


# ---- bad input ---------------------------------------------------------------------------------------------------


def answer(capsys, *words):
    capsys.readouterr()
    try:
        code = run(*words)
    except SystemExit as stop:
        code = stop.code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return code, errors[0]


def test_bad_input_is_answered_in_one_line(runs, tmp_path, capsys, monkeypatch):
    config = GANConfig(base_channels=2, channels=3, bank=(1,))
    colour = Generator(config, rng=np.random.default_rng(0)).state_dict()
    checkpoint.save(tmp_path / "colour.npz", {f"generator/{name}": a for name, a in colour.items()},
                    {"kind": "gan", "config": config.to_dict(), "step": 1})
    checkpoint.save(tmp_path / "other.npz", {}, {"kind": "something else"})
    checkpoint.save(tmp_path / "gpan.npz", {}, {"kind": "gpan"})
    (tmp_path / "page.npz").write_text("<html>")
    good = ["--checkpoint", runs / "gan", "--n", "200", "--data-dir", BUNDLED]
    table = [
        ([], 2, "--checkpoint"), (["--checkpoint", tmp_path / "absent"], 1, "no file"),
        (["--checkpoint", tmp_path], 1, "no checkpoint.npz"), (["--checkpoint", tmp_path / "page.npz"], 1, "page.npz"),
        (["--checkpoint", tmp_path / "other.npz"], 1, "not one of a GAN"),
        (["--checkpoint", tmp_path / "gpan.npz"], 1, "its report.html has what was measured"),
        (["--checkpoint", tmp_path / "colour.npz"], 1, "3 colours"), ([*good[:2], "--n", "0"], 2, "whole number"),
        ([*good[:2], "--n", "10"], 2, "at least 40"), ([*good, "--seed", "-1"], 2, "--seed"),
        ([*good, "--json", tmp_path / "absent" / "x.json"], 2, "no folder"),
        ([*good, "--samples", "3"], 2, "unknown flag"),
        ([*good[:4], "--data-dir", tmp_path], 1, "MNIST is four files"), ([*good, "--device", "tpu"], 2, "auto, cpu"),
        ([*good, "--reconstruct", "-1"], 2, "--reconstruct"), ([*good, "--json", tmp_path], 2, "is a folder"),
        ([*good, *good[:2]], 2, "one run per call"), ([*good[:2], runs / "gan"], 2, "one run per call"),
    ]
    for words, code, expected in table:
        got, line = answer(capsys, *words)
        assert got == code and expected in line, (words, got, line)
    monkeypatch.setattr(digits, "SHIPPED", tmp_path / "absent.h5")
    got, line = answer(capsys, *good)
    assert got == 1 and "without the digit classifier" in line and "train_digits.py" in line
