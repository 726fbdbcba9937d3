"""The study from its plan to its tables: settings, rules, scores by hand, jobs that are cut off, shares joined."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from script_tools import ROOT, load_script

from tinygan import Tensor
from tinygan.app import pictures
from tinygan.errors import TinyganError, UsageError
from tinygan.metrics import label_kl
from tinygan.models import GANConfig, Generator, turn_of_d
from tinygan.study import games, jobs
from tinygan.study.figures import loss_curves, paper_table
from tinygan.study.mixtures import MIXTURES, mixture_scores, picture, sliced_wasserstein
from tinygan.study.mlp import MLPConfig, MLPDiscriminator, MLPGenerator
from tinygan.study.plan import ARMS, CELLS, MOMENTUM, PARTS, Job, jobs_of, settings_of, share_of
from tinygan.study.results import Results, collect, jobs_to_run, store
from tinygan.study.rules import (
    PRIMARY,
    broken_values,
    collapse_step,
    ended_collapsed,
    outcomes,
    survival_of,
)
from tinygan.study.tables import tables

script = load_script("study")

# ---- the plan --------------------------------------------------------------------------------------------------------


def test_every_job_has_its_own_folder_and_settings_that_differ():
    every = jobs_of(list(PARTS))
    assert len({job.name for job in every}) == len(every)
    for part in ("A", "B", "C-momentum", "D"):
        made = [json.dumps(settings_of(Job(part, arm, 0)), sort_keys=True) for arm in PARTS[part].arms]
        assert len(set(made)) == len(made), part


def test_the_arms_are_what_they_say():
    gan, sgan, slow, pac = (settings_of(Job("C-momentum", arm, 3)) for arm in ("gan", "sgan4", "slow", "pac2"))
    assert (gan["model"], gan["seed"], sgan["model"], sgan["bank"]) == ("gan", 103, "sgan", (4,)) and "bank" not in gan
    assert slow["lr"] == gan["lr"] / 4 and slow["d_lr"] == gan["d_lr"]
    assert (pac["pack"], pac["batch_size"]) == (2, 2 * gan["batch_size"])
    wide = settings_of(Job("B", "wide", 0))
    assert wide["base_channels"] > wide["d_base_channels"] == 16 and wide["model"] == "gan"
    first, frozen, one_hot, batch = (settings_of(Job("B", arm, 0)) for arm in ("first4", "frozen4", "onehot", "batch4"))
    assert first["bank"] == (4, 1, 1, 1) and frozen["freeze_banks"] and not first["freeze_banks"]
    assert one_hot["one_hot"] == (64,) and batch["routes"] == "batch"
    assert settings_of(Job("A", "first4", 0))["net"]["bank"] == (4, 1, 1)
    assert settings_of(Job("A", "tied16", 0))["net"] == {"bank": (16,), "tied": True, "one_hot": 0, "pack": 1}
    cell = settings_of(Job("C-pilot", "gan@rmsprop-5e-4_f10_d5_sat", 1))
    assert (cell["optimizer"], cell["lr"], cell["init_factor"], cell["d_steps"], cell["loss"], cell["bce"], cell["seed"]
            ) == ("rmsprop", 5e-4, 10.0, 5, "saturating", "clamped", 201)
    assert len(CELLS) == 96


@pytest.mark.parametrize("part", [part for part in PARTS if part not in ("C-pilot", "C-cells", "A-ring", "A-quick")])
def test_the_wide_generator_has_the_nearest_number_of_weights(part):
    def weights(arm: str, wider: int = 0) -> int:
        flags, rng = settings_of(Job(part, arm, 0)), np.random.default_rng(0)
        if "net" in flags:
            more = {"outputs": 784, "image": True} if PARTS[part].program == "digits" else {}
            net = {**flags["net"], "width": flags["net"].get("width", 128) + wider}
            return MLPGenerator(MLPConfig(**net, **more), rng=rng).parameter_count()
        channels = 1 if PARTS[part].program == "train_mnist" and not flags.get("stacked") else 3
        return Generator(GANConfig(
            size=flags["size"], channels=channels, base_channels=flags["base_channels"] + wider,
            latent_dim=flags["latent_dim"], bank=flags.get("bank", (1,))), rng=rng).parameter_count()

    wanted = weights("sgan4")
    off = [abs(weights("wide", wider) - wanted) for wider in (-1, 0, 1)]
    assert off[1] == min(off) and off[1] < 0.03 * wanted


def test_shares_divide_the_jobs():
    every = jobs_of(["A-quick"])
    shares = [share_of(every, (i, 3)) for i in (1, 2, 3)]
    assert sorted(job.name for share in shares for job in share) == sorted(job.name for job in every)
    assert len(every) == 20 and max(map(len, shares)) - min(map(len, shares)) <= 1
    for n in (2, 4):  # no share is of a few arms alone
        assert {job.arm for job in share_of(every, (1, n))} == {"gan", "sgan4", "tied4", "wide"}


def test_the_primary_comparisons_are_planned():
    assert len(PRIMARY) == 5
    for comparison in PRIMARY:
        assert {comparison.arm, comparison.control} <= set(PARTS[comparison.part].arms) <= set(ARMS)


# ---- the rules -------------------------------------------------------------------------------------------------------


def scorings(*classes: int, **others) -> list[dict]:
    return [{"step": 100 * (i + 1), "classes": c, "kl": 0.1, "spread": 1.0, **others} for i, c in enumerate(classes)]


def test_a_collapse_is_two_scorings_in_a_row_after_8_classes():
    assert collapse_step(scorings(4, 4, 8, 4, 9, 4, 3, 9)) == 600
    assert collapse_step(scorings(4, 4, 7, 4, 4)) is None  # never had them
    assert collapse_step(scorings(9, 4, 9, 4, 9)) is None  # never two in a row
    assert collapse_step([*scorings(9), *({**s, "step": s["step"] + 100} for s in scorings(9, 9, kl=1.01))]) == 200
    assert collapse_step([*scorings(9), *({**s, "step": s["step"] + 100} for s in scorings(9, 9, spread=0.24))]) == 200
    assert ended_collapsed(scorings(9, 4, 4)) and not ended_collapsed(scorings(4, 4, 9)) and not ended_collapsed(
        scorings(9, 9, 4))
    assert ended_collapsed(scorings(9, 9), broken=True)


def test_outcomes_of_a_run():
    rows = [{"step": 100 * i, "d_loss": 1.0, "g_loss": 1.0, "logit_gap": 1.0} for i in range(1, 9)]
    assert outcomes(scorings(9, 9, 4, 4, 9, 9, 9, 9), rows, None) == {
        "ended": False, "reached": 100, "collapse": 300, "recovered": True, "immediate": False}
    assert outcomes(scorings(9, 9), rows[:2], 250)["collapse"] == 250
    assert outcomes(scorings(1, 1, 1, 1, 1), rows, None) == {
        "ended": True, "reached": None, "collapse": None, "recovered": False, "immediate": False}
    assert outcomes(scorings(1, 1, 1, 1, 1, kl=2.3), rows, None)["immediate"]  # label entropy of 0
    assert outcomes(scorings(9), [{**row, "logit_gap": 21.0} for row in rows], None)["immediate"]
    runs = [{"reached": None, "collapse": None}, {"reached": 50, "collapse": 300}, {"reached": 50, "collapse": None}]
    assert survival_of(runs, 500) == ([0.0, 300.0, 500.0], [True, True, False])


def test_a_broken_run_counts_as_the_worst():
    assert broken_values("A") == {"modes": 0, "good": 0.0, "modes_kl": pytest.approx(np.log(25))}
    assert broken_values("B")["modes_kl"] == pytest.approx(np.log(1000)) and broken_values("E") == {}
    assert outcomes([], [], 20) == {"ended": True, "reached": None, "collapse": None, "recovered": False,
                                    "immediate": True}


# ---- mixtures --------------------------------------------------------------------------------------------------------


def test_scores_of_points_by_hand():
    grid = MIXTURES["grid"]
    at = np.array([(-4, -4), (-4, -4), (2, 0), (2.149, 0), (2.151, 0), (1, 1)], np.float64)  # 3 std: 0.15
    scores = mixture_scores(at, grid)
    assert scores["modes"] == 2 and scores["good"] == pytest.approx(4 / 6)
    assert scores["modes_kl"] == pytest.approx(np.log(25) - np.log(2))  # two modes, two samples each
    of_all = np.zeros(25)
    of_all[0], of_all[17], of_all[12] = 2, 3, 1  # (1, 1) is as near to four means, the first of which is (0, 0)
    assert scores["modes_kl_all"] == pytest.approx(label_kl(of_all))
    none = mixture_scores(np.full((5, 2), 1.0), grid)
    assert (none["modes"], none["good"], none["modes_kl"]) == (0, 0.0, pytest.approx(np.log(25)))


def test_perfect_samples_cover_every_mode():
    for name, mixture in MIXTURES.items():
        scores = mixture_scores(mixture.draw(np.random.default_rng(0), 2_500), mixture)
        assert scores["modes"] == len(mixture.means) and scores["good"] == pytest.approx(1 - np.exp(-4.5), abs=0.01)
        assert scores["modes_kl"] < 0.02, name


def test_sliced_distance_of_a_shift():
    a = np.random.default_rng(0).standard_normal((50, 2))
    shifted = sliced_wasserstein(a, a + np.array([3.0, 0.0]))
    assert shifted == pytest.approx(3 * 2 / np.pi, rel=1e-3)  # the mean of |cos| is 2 / pi
    assert sliced_wasserstein(a, a[::-1]) == 0


def test_a_picture_shows_points_in_the_colour_of_their_group():
    drawn = picture(np.array([[0.0, 2.0], [4.0, -4.0]]), MIXTURES["grid"], np.array([0, 1]), side=100)
    assert drawn.shape == (100, 100, 3) and tuple(drawn[30, 50]) == (0, 114, 178)  # 2 / 5.2 of the way up
    assert tuple(drawn[88, 88]) == (213, 94, 0) and tuple(drawn[0, 0]) == (255, 255, 255)


# ---- perceptrons -----------------------------------------------------------------------------------------------------


def test_perceptrons_take_packs_and_one_hot_vectors():
    config, rng = MLPConfig(width=8, d_width=8, bank=(3,), one_hot=5, pack=2), np.random.default_rng(0)
    G, D = MLPGenerator(config, rng=rng), MLPDiscriminator(config, rng=rng)
    z = G.draw_noise(rng, 6)
    assert z.shape == (6, 7) and ((z[:, 2:] > 0).sum(axis=1) == 1).all() and z[:, 2:].max() == np.float32(5 ** 0.5)
    routes = G.draw_routes(rng, 6)
    assert routes.shape == (6, 3) and config.route_count == 27
    real = Tensor(rng.standard_normal((6, 2)).astype(np.float32))
    loss, of_real, of_fake = turn_of_d(G, D, None, real, (Tensor(z), routes))
    assert of_real.shape == of_fake.shape == (3,)  # a logit for each pack of two
    both = D(Tensor(np.concatenate([real.numpy(), G(Tensor(z), routes).numpy()]))).numpy()
    assert np.allclose(both, np.concatenate([of_real.numpy(), of_fake.numpy()]), rtol=1e-5)
    expected = np.log1p(np.exp(-both[:3])).mean() + np.log1p(np.exp(both[3:])).mean()
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(UsageError, match="one size"):
        MLPConfig(bank=(2, 3, 4), tied=True)


# ---- jobs ------------------------------------------------------------------------------------------------------------

SMALL = {"steps": 12, "eval_every": 4, "save_every": 3, "log_every": 2, "sample_every": 6, "batch_size": 8}


@pytest.fixture
def small(monkeypatch):
    """Parts whose jobs take a moment: the grid with two arms of three seeds, perceptrons on digits with one."""
    parts = {name: PARTS[name]._replace(settings={**PARTS[name].settings, **SMALL}, arms=arms, seeds=seeds)
             for name, arms, seeds in (("A-quick", ("gan", "sgan4"), 3), ("D", ("tied4",), 1))}
    for name in PARTS:
        monkeypatch.setitem(PARTS, name, parts.get(name, PARTS[name]))
    monkeypatch.setattr(games, "SAMPLES", 200)
    monkeypatch.setattr(games.MixtureGame, "samples", (200, 200, 200))
    monkeypatch.setattr(games.DigitGame, "samples", (100, 100, 100))
    return parts


def cut_off_after(monkeypatch, batches: int) -> None:
    """Let the training end as a power cut ends it, with nothing saved, after so many batches."""
    kind, left = games.MixtureGame, [batches]
    original = kind.next_real

    def next_real(game):
        left[0] -= 1
        if left[0] < 0:
            raise SystemError("power cut")
        return original(game)

    monkeypatch.setattr(kind, "next_real", next_real)


def test_a_job_that_was_cut_off_three_times_has_the_same_result(small, tmp_path, monkeypatch):
    job = Job("A-quick", "sgan4", 1)
    assert jobs.run_job(job, tmp_path / "whole", script.SCRIPTS) == 0
    moments = np.random.default_rng(5).integers(1, 5, 3)
    for batches in moments:
        with monkeypatch.context() as patch:
            cut_off_after(patch, int(batches))
            with pytest.raises(SystemError):
                jobs.run_job(job, tmp_path / "cut", script.SCRIPTS)
        assert not jobs.is_done(tmp_path / "cut")
    assert jobs.run_job(job, tmp_path / "cut", script.SCRIPTS) == 0
    assert (tmp_path / "cut" / "result.json").read_bytes() == (tmp_path / "whole" / "result.json").read_bytes()
    assert jobs.where_of(tmp_path / "cut")["starts"] == 4
    result = jobs.read_result(tmp_path / "whole")
    assert result["series"]["step"] == [4, 8, 12] and result["broken"] is None
    assert {"modes", "good", "modes_kl", "distance", "modes_per_route", "avg_modes"} <= result["final"].keys()
    printed = (tmp_path / "whole" / "output.txt").read_text()
    assert "was not made" not in printed and printed.endswith("/report.html shows it all\n")  # sample.py cannot draw it
    assert "modes covered" in (tmp_path / "whole" / "report.html").read_text()


def test_a_job_that_is_interrupted_says_how_it_goes_on(small, tmp_path, monkeypatch):
    original = games.MixtureGame.next_real
    monkeypatch.setattr(games.MixtureGame, "next_real",
                        lambda game: signal.raise_signal(signal.SIGINT) or original(game))
    assert jobs.run_job(Job("A-quick", "gan", 0), tmp_path, script.SCRIPTS) == 130
    printed = (tmp_path / "output.txt").read_text()  # not --resume, which study.py does not have
    assert printed.endswith("Go on with: python study.py run, with the words it was started with\n")


def test_two_shares_copied_together_give_the_same_tables(small, tmp_path, capsys):
    run = ["run", "--quick", "--out"]
    assert script.main([*run, str(tmp_path / "all")]) == 0
    for i in (1, 2):
        assert script.main([*run, str(tmp_path / f"share{i}"), "--only", f"{i}/2"]) == 0
    shutil.copytree(tmp_path / "share1", tmp_path / "share2", dirs_exist_ok=True)
    texts = []
    for name in ("all", "share2"):
        results = collect(tmp_path / name, None)
        for result in results.by_name.values():
            del result["where"]  # the seconds
        texts.append(tables(results))
    assert texts[0] == texts[1] and "| SGAN, 4 sets a layer | 133,506 | 3 |" in texts[0]
    assert script.main(["list", "--quick", "--out", str(tmp_path / "all")]) == 0
    printed = capsys.readouterr().out
    assert "3 of   3" in printed and "6 of 6 jobs done" in printed


def test_the_tables_come_from_the_stored_results_too(small, tmp_path, capsys):
    assert script.main(["run", "--quick", "--out", str(tmp_path / "s")]) == 0
    assert script.main(["table", "--out", str(tmp_path / "s"), "--to", str(tmp_path / "t")]) == 0
    text = (tmp_path / "t" / "tables.md").read_text("utf-8")
    assert (tmp_path / "t" / "modes-A-quick.png").exists() and (tmp_path / "t" / "points-A-quick.png").exists()
    assert "1,275 planned jobs are missing" not in capsys.readouterr().out  # D has one here
    assert tables(collect(tmp_path / "nothing", tmp_path / "t")) == text
    store(collect(tmp_path / "s", None), tmp_path / "u")
    assert (tmp_path / "u" / "results" / "A-quick.jsonl").read_bytes() == (
        tmp_path / "t" / "results" / "A-quick.jsonl").read_bytes()


@pytest.mark.parametrize(("last", "steps"), [(7, [4]), (1, [])])
def test_a_run_that_becomes_nan_is_a_result(small, tmp_path, monkeypatch, last, steps):
    original = games.DigitGame.next_real
    monkeypatch.setattr(games.DigitGame, "next_real", lambda game: original(game) if game.step < last else Tensor(
        np.full((8, 784), np.nan, np.float32)))
    job = Job("D", "tied4", 0)
    assert jobs.run_job(job, tmp_path / job.name, script.SCRIPTS) == 0
    result = jobs.read_result(tmp_path / job.name)
    assert result["broken"] == last + 1 and result["outcomes"]["ended"] and result["series"].get("step", []) == steps
    assert "| 1, 1 broke | 1 of 1" in tables(collect(tmp_path, None))


def test_weights_that_become_nan_where_they_are_scored_are_found(small, tmp_path, monkeypatch):
    def poisoned(game, kept=games.MixtureGame.update_average):
        kept(game)
        if game.step == 7:  # in the update of step 8, which is scored; its losses are finite
            game.G.last.weight.data[...] = np.nan

    monkeypatch.setattr(games.MixtureGame, "update_average", poisoned)
    job = Job("A-quick", "gan", 0)
    assert jobs.run_job(job, tmp_path / job.name, script.SCRIPTS) == 0
    result = jobs.read_result(tmp_path / job.name)
    assert result["broken"] == 8 and result["final"]["modes"] == 0


def test_what_does_not_belong_together_is_refused(small, tmp_path, monkeypatch):
    job = Job("A-quick", "gan", 0)
    folder = tmp_path / job.name
    with monkeypatch.context() as patch:
        cut_off_after(patch, 5)
        with pytest.raises(SystemError):
            jobs.run_job(job, folder, script.SCRIPTS)
    with monkeypatch.context() as patch:
        patch.setitem(PARTS, "A-quick", small["A-quick"]._replace(settings={**small["A-quick"].settings, "lr": 0.5}))
        with pytest.raises(TinyganError, match="was begun with lr 0.001, and the plan has 0.5: delete the folder"):
            jobs.run_job(job, folder, script.SCRIPTS)
    assert jobs.run_job(job, folder, script.SCRIPTS) == 0
    store(collect(tmp_path, None), tmp_path / "kept")
    with monkeypatch.context() as patch:
        patch.setitem(PARTS, "A-quick", small["A-quick"]._replace(settings={**small["A-quick"].settings, "lr": 0.5}))
        with pytest.raises(TinyganError, match="A-quick.gan.100 is of other settings than the plan's"):
            collect(tmp_path / "nothing", tmp_path / "kept")
    other = jobs.read_result(folder) | {"job": "A-quick.gan.101", "seed": 101, "inputs": {"data": "others"}}
    other["settings"]["seed"] = 101
    (tmp_path / "A-quick.gan.101").mkdir()
    (tmp_path / "A-quick.gan.101" / "result.json").write_text(json.dumps(other))
    with pytest.raises(TinyganError, match="A-quick.gan.101 and A-quick.gan.100 learned from, or were measured with"):
        collect(tmp_path, None)


def test_a_log_that_lacks_a_scoring_is_refused(small, tmp_path):
    job = Job("A-quick", "gan", 2)
    folder = tmp_path / job.name
    assert jobs.run_job(job, folder, script.SCRIPTS) == 0
    (folder / "result.json").unlink()
    lines = (folder / "log.csv").read_text().splitlines()
    (folder / "log.csv").write_text("\n".join(line for line in lines if not line.startswith("8,")) + "\n")
    with pytest.raises(TinyganError, match="has no scoring of step 8"):
        jobs.run_job(job, folder, script.SCRIPTS)


def test_a_job_that_another_process_is_at_is_left_alone(small, tmp_path, capsys):
    job = Job("A-quick", "gan", 0)
    folder = tmp_path / job.name
    folder.mkdir()
    held = subprocess.Popen([sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1], 'w'); "
                             "fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()",
                             str(folder / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        held.stdout.readline()
        assert script.main(["run", "--quick", "--only", "1/6", "--out", str(tmp_path)]) == 0
    finally:
        held.communicate()
    assert "another process is at it" in capsys.readouterr().err and not (folder / "where.json").exists()


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "result.json").write_text('{"job": ')
    with pytest.raises(TinyganError, match="result.json is damaged .* delete it"):
        jobs.read_result(tmp_path)


def test_only_cells_that_collapse_are_compared():
    cell = next(iter(CELLS))
    pilots = {f"p{i}": {"part": "C-pilot", "arm": f"gan@{cell}", "outcomes": {"ended": i < 3}} for i in range(5)}
    assert cell != MOMENTUM and not any(MOMENTUM in job.arm for job in jobs_of(["C-cells"]))
    assert {job.arm.partition("@")[2] for job in jobs_to_run(["C-cells"], Results(pilots))} == {cell}
    pilots["p2"]["outcomes"]["ended"] = False
    assert jobs_to_run(["C-cells"], Results(pilots)) == []


def test_curves_are_drawn_where_a_nan_ended_the_first_run_early():
    def result(seed: int, *steps: int) -> dict:
        values = [1.0] * len(steps)
        return {"part": "C", "arm": "gan", "losses": {"step": list(steps), "d_loss": values, "g_loss": values},
                "seed": seed, "series": {}}

    drawn = loss_curves(Results({"a": result(100, 10, 20), "b": result(101, 10, 20, 30)}), "C")
    assert drawn.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize(("part", "there", "other"), [
    ("C", [0, 50, 4_388], 1), ("D", [0, 1_000, 9_000, 10_000], 4_388), ("E", [0, 654, 2_380, 10_000], 7)])
def test_the_papers_table_shows_every_step_that_is_there(part, there, other, tmp_path, monkeypatch):
    assert paper_table(Results({}), tmp_path, part) is None
    for arm in ("gan", "sgan4"):
        folder = tmp_path / f"{part}.{arm}.100" / "samples"
        folder.mkdir(parents=True)
        for step in [*there, other]:
            pictures.save_png(folder / f"step_{step:06d}.png", np.zeros((20, 20), np.uint8))
    shown, read = [], pictures.read_png
    monkeypatch.setattr(pictures, "read_png", lambda path: shown.append(path) or read(path))
    assert paper_table(Results({}), tmp_path, part).getvalue().startswith(b"\xff\xd8")  # a JPEG
    assert [(path.parts[-3], path.name) for path in shown] == [
        (f"{part}.{arm}.100", f"step_{step:06d}.png") for arm in ("gan", "sgan4") for step in there]


@pytest.mark.parametrize(("words", "line"), [
    (["run"], "say which jobs: --part A"),
    (["run", "--part", "Z"], "there is no part Z: use one of A, A-ring"),
    (["run", "--quick", "--part", "A"], "leave --part out"),
    (["run", "--quick", "--only", "3/2"], "3/2 is not a share such as 3/8"),
    (["list", "--quick", "--arm", "sgan5"], "there is no arm sgan5 in A-quick: use gan, sgan4, tied4, wide"),
    (["run", "--part", "E"], "E.gan.100 needs --photos: name the folder"),
    (["table", "--out", "nowhere"], "there is no result in nowhere: python study.py run --quick"),
    (["table", "--part", "A"], "table takes all results that are there: leave --part"),
    (["run", "--part", "C-cells"], "480 jobs of C-pilot are missing"),
])
def test_bad_flags_get_one_line(words, line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    try:
        script.main(words)
    except (TinyganError, SystemExit) as error:
        text = str(error) + capsys.readouterr().err
    assert line in text


def test_the_committed_tables_are_those_of_the_committed_results():
    folder = ROOT / "docs" / "study"
    assert (folder / "tables.md").read_text("utf-8") == tables(collect(Path("nowhere"), folder))


def test_a_primary_comparison_has_no_p_value_before_its_last_run():
    whole = collect(Path("nowhere"), ROOT / "docs" / "study")
    part = Results({name: result for name, result in whole.by_name.items() if name != "A.gan.119"})
    lines, fewer = ([line.split(" | ") for line in tables(results).splitlines() if line.startswith("| A | SGAN") or
                     line.startswith(("| SGAN, 4 sets a layer | 133,506 |", "| 4 whole generators | 133,506 |"))][:3]
                    for results in (whole, part))
    assert "p = " in lines[0][5] and float(lines[0][6].split()[0]) < 1e-7
    assert fewer[0][4:] == ["20 of 20, 19 of 20", "-", "- |"]
    assert "p = " in lines[1][-2] and fewer[1][-2:] == ["-", " |"]  # nor has it in the table of the part
    assert "p = " in fewer[2][-2] and "p = " in fewer[2][-1]  # 4 whole generators against GAN and SGAN, exploratory
