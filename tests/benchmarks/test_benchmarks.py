"""The parts of the CPU benchmark that need neither a clock nor PyTorch: its counts, its check, its report."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from counting import counting_kernels

import tinygan.ops.conv
from tinygan.app import cli
from tinygan.errors import TinyganError, UsageError
from tinygan.models.gan.nets import GANConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cpu
import cpu_counts
import cpu_nets
import cpu_report
import cpu_worker
import gpan_problem

SPEED = {"gflops": 100.0, "gbytes": 10.0}


def test_flop_by_hand():
    """Base 64, one sample: each layer's product, times how often a step runs it."""
    projection, middle, last = 2 * 128 * 4096, 2 * 16 * 256 * 128 * 16, 2 * 256 * 64 * 16
    generator = 3 * projection + 4 * (middle + middle + last)
    discriminator = 6 * last + 8 * (middle + middle) + 8 * 2 * 256 * 16
    assert cpu_counts.step_flop(GANConfig(base_channels=64), 1) == generator + discriminator


@pytest.mark.parametrize("bank", [1, 3])
def test_flop_is_what_a_step_multiplies(monkeypatch, bank):
    """Count the kernel calls of a real step; the count from the shapes must give the same number."""
    seen = []
    monkeypatch.setattr(tinygan.ops.conv, "for_array", counting_kernels(seen))
    cpu_worker.TinyganTrainer(2, bank).step(cpu_worker.make_batches(5, bank, count=1)[0])
    assert sum(seen) == cpu_counts.step_flop(GANConfig(base_channels=2, bank=(bank,)), 5)


def test_layers_have_the_nets_weights():
    config = GANConfig(base_channels=4, bank=(3,))
    trainer = cpu_worker.TinyganTrainer(4, 3)
    made = [p.size for net in trainer.nets.values() for name, p in net.named_parameters() if name.endswith("weight")]
    assert sorted(made) == sorted(layer.bank * layer.weights for layer in cpu_counts.layers(config))


def test_used_sets_and_bytes():
    assert cpu_counts.used_sets(1, 64) == 1
    assert cpu_counts.used_sets(16, 1) == pytest.approx(1)
    assert 15.7 < cpu_counts.used_sets(16, 64) < 16
    plain, banked = (cpu_counts.step_bytes(GANConfig(base_channels=16, bank=(k,)), 64) for k in (1, 16))
    assert plain < banked < 16 * plain
    assert cpu_counts.step_bytes(GANConfig(base_channels=16, bank=(1,)), 128) < 2 * plain  # the weights stay


def test_batches_are_the_same_for_both_sides():
    a, b = (cpu_worker.make_batches(4, 16, count=2) for _ in range(2))
    assert all(np.array_equal(x[key], y[key]) for x, y in zip(a, b, strict=True) for key in x)
    assert a[0]["routes1"].shape == (4, 4)
    assert not a[0]["routes1"][:, 3].any()
    assert not np.array_equal(a[0]["routes1"], a[1]["routes1"])


def test_by_set_leaves_out_unused_sets():
    array = np.arange(6.0).reshape(3, 2)
    assert [key for key, _ in cpu_worker.by_set("G.a.weight", array, np.array([True, False, True]))] == [
        "G.a.weight.0", "G.a.weight.2"]
    assert [key for key, _ in cpu_worker.by_set("G.a.gain", array, None)] == ["G.a.gain"]


def results():
    rng = np.random.default_rng(0)
    return {"losses": np.array([[1.4, 0.7]]), "gradients/a": rng.normal(size=(50, 40)),
            "gradients/b": rng.normal(size=3)}


def test_disagreement_lets_rounding_pass():
    ours, theirs = results(), results()
    assert cpu.disagreement(ours, theirs) == ""
    theirs["gradients/a"] *= 1 + 1e-9
    assert cpu.disagreement(ours, theirs) == ""
    theirs["gradients/a"][3, 5] += 0.01  # one entry in 2,000
    assert "gradients/a" in cpu.disagreement(ours, theirs)


@pytest.mark.parametrize("spoil, word", [
    (lambda r: r.update(losses=r["losses"] * 1.01), "losses"),
    (lambda r: r.update(losses=r["losses"] * np.nan), "losses"),
    (lambda r: r["gradients/b"].__imul__(1.0001), "gradients/b"),
    (lambda r: r["gradients/a"].__imul__(-1), "gradients/a"),
    (lambda r: r["gradients/a"].__setitem__(7, 0.0), "gradients/a"),
    (lambda r: r["gradients/a"].fill(np.nan), "gradients/a"),
    (lambda r: r.update({"gradients/a": r["gradients/a"].T}), "shapes"),
    (lambda r: r.pop("gradients/b"), "gradients/b"),
    (lambda r: r.update({"gradients/c": np.zeros(1)}), "gradients/c"),
])
def test_disagreement_names_what_differs(spoil, word):
    ours, theirs = results(), results()
    spoil(theirs)
    assert word in cpu.disagreement(ours, theirs)


def measured(net, tinygan_ms, torch_ms):
    net.ms = {"tinygan": tinygan_ms} | {form: torch_ms + i for i, form in enumerate(net.torch_forms)}
    net.least = {form: ms - 5 - 3 * (form.startswith("channels_last")) for form, ms in net.ms.items()}
    net.mb, net.above = dict.fromkeys(net.ms, 100.0), dict.fromkeys(net.ms, 30.0)
    net.profile = {"rows": [(f"op{i}", 1.0, 12.0 - i) for i in range(12)], "rest_ms": 3.0, "total_ms": 81.0}
    return net


def test_report_and_rows():
    nets = [measured(cpu_nets.Net(16, 1, 64), 50.0, 40.0), measured(cpu_nets.Net(16, 16, 64), 60.0, 80.0),
            measured(cpu_nets.Problem(gpan_problem.GPANProblem()), 300.0, 200.0)]
    args = cpu.read_args(["--threads", "1"])
    text = cpu_report.report(nets, SPEED, args)
    assert "K 16 over K 1 at base 16: tinygan 1.20, torch 2.00" in text
    assert "op9" in text and "op10" not in text
    row = cpu_report.json_row(nets[1], SPEED)
    assert row["name"] == "SGAN base 16 K 16 batch 64" and row["torch_form"] == "plain loop"
    assert row["ratio"] == pytest.approx(0.75)
    assert row["torch_least_ms"] == 73.0 and row["least_ratio"] == pytest.approx(55 / 73)  # of any form
    assert row["floor_ms"] == pytest.approx(max(cpu_report.floors(nets[1], SPEED)))
    assert row["tinygan_gflops"] == pytest.approx(cpu_counts.step_flop(nets[1].config, 64) / 55e-3 / 1e9)
    assert row["tinygan_mb"] == 100.0 and row["torch_above_mb"] == 30.0
    assert "floor_ms" not in cpu_report.json_row(nets[2], SPEED)
    line = next(line for line in text.splitlines() if line.startswith("GPAN 128 px"))
    assert "300.0 (295.0)" in line and "200.0 (193.0)" in line and "100 (30)" in line and " 1.50 " in line


def test_report_without_gans():
    """No floors, and nothing to say of banks."""
    net = measured(cpu_nets.Problem(gpan_problem.VGG16Problem()), 300.0, 200.0)
    text = cpu_report.report([net], SPEED, cpu.read_args(["--only", "vgg16"]))
    assert "Floors" not in text and "over K 1" not in text and "VGG16 224 px batch 4" in text


def test_floors_units():
    """1.65 GFLOP at 100 GFLOP/s are 16.5 ms."""
    net = cpu_nets.Net(16, 1, 64)
    compute, moving = cpu_report.floors(net, SPEED)
    assert compute == pytest.approx(cpu_counts.step_flop(net.config, 64) / 100e9 * 1e3)
    assert moving == pytest.approx(cpu_counts.step_bytes(net.config, 64) / 10e9 * 1e3)


def test_flags(capsys):
    quick = cpu.read_args(["--quick", "--rounds", "4"])
    assert (quick.rounds, quick.steps, quick.base, quick.size) == (4, 2, (16,), (64,))
    assert cpu.read_args(["--bank", "1,4"]).bank == (1, 4)
    for words in (["--base", "16,x"], ["--bank", "0"], ["--rounds", "0"], ["--thread", "2"], ["--only", "vgg"],
                  ["--size", "100"], ["--sees", "nothing"]):
        with pytest.raises(SystemExit) as stop:
            cpu.read_args(words)
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UsageError, match="use 2 or more"):
        cpu.read_args(["--batch", "1"])
    assert cpu.read_args(["--batch", "1", "--only", "vgg16,gan"]).only == ("gan", "vgg16")
    assert [cpu.steps_for(ms) for ms in (1, 100, 5000)] == [20, 12, 1]


def test_what_is_measured():
    def names(*words):
        return [net.name for net in cpu.chosen(cpu.read_args(words))]

    assert names() == ["GAN base 16 K 1 batch 64", "SGAN base 16 K 16 batch 64", "GAN base 64 K 1 batch 64",
                       "SGAN base 64 K 16 batch 64", "VGG16 224 px batch 4", "GPAN 128 px batch 4 K 4, view"]
    assert names("--only", "gpan", "--size", "128,1024", "--batch", "2", "--sees", "both") == [
        "GPAN 128 px batch 2 K 4, both", "GPAN 1024 px batch 2 K 4, both"]
    assert names("--quick") == ["GAN base 16 K 1 batch 16", "SGAN base 16 K 16 batch 16",
                                "VGG16 64 px batch 2 narrow 8", "GPAN 64 px batch 2 K 4, view"]


def test_the_check_is_told_of_a_smaller_problem():
    net = cpu_nets.Problem(gpan_problem.GPANProblem(size=1024, batch=4))
    full, small = (gpan_problem.from_json(net.words(check)[1]) for check in (False, True))
    assert full == net.problem and small == net.problem.for_check
    assert (small.size, small.batch, small.base, small.narrow) == (1024, 2, 8, 8)


class Answers:
    """A worker with fixed answers; each command is kept."""

    def __init__(self, losses, ms):
        self.losses, self.ms, self.asked = losses, ms, []

    def request(self, command, value):
        self.asked.append((command, value))
        return {"losses": self.losses, "ms": [self.ms] * value}


def test_warm_up_compares_the_losses_in_float32():
    net = cpu_nets.Problem(gpan_problem.GPANProblem())
    workers = {"tinygan": Answers([4.0, 1e-4], 90.0), "plain loop": Answers([4.001, 3e-4], 3000.0)}
    assert cpu.warm_up(net, workers) == {"tinygan": 90.0, "plain loop": 3000.0}
    assert sum(value for _, value in workers["tinygan"].asked) == cpu.WARM_UP
    assert sum(value for _, value in workers["plain loop"].asked) == cpu.FIRST_STEPS  # slow: no more than it must
    for losses in ([4.01, 1e-4], [float("nan"), 1e-4]):
        workers["plain loop"] = Answers(losses, 10.0)
        with pytest.raises(TinyganError, match="PyTorch plain loop: in float32 the losses differ"):
            cpu.warm_up(net, workers)


def test_without_torch_one_line(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.run_main(cpu.main, ["--quick"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and 'pip install ".[bench]"' in err


def test_a_worker_answers_and_its_death_is_one_line(tmp_path):
    reference = tmp_path / "tinygan.npz"
    worker = cpu.Worker(cpu_nets.Net(1, 2, 2), "tinygan", 1, reference)
    try:
        assert worker.request("check", str(reference)) == "done"
        with np.load(reference) as saved:
            assert saved["losses"].shape == (3, 2) and np.isfinite(saved["losses"]).all()
            assert any(key.startswith("weights/G.projection.weight.") for key in saved)
        answer = worker.request("round", 2)
        assert len(answer["ms"]) == 2 and len(answer["losses"]) == 2 and answer["mb"] > 0
        shares = worker.request("profile", 1)
        assert shares["total_ms"] == pytest.approx(sum(ms for _, _, ms in shares["rows"]) + shares["rest_ms"])
        with pytest.raises(TinyganError, match="the measuring process died: .*Error"):
            worker.request("round", "many")
    finally:
        worker.close()
