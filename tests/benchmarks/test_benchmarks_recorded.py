"""The recorded forms of the GPU benchmark, on a GPU or on the real CuPy without one: they have the bits of the eager
form, or the row says why not. What they cost is counted by benchmarks/gpu_launches.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinygan.errors import TinyganError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gpu as benchmark
import gpu_tinygan
from gpan_problem import GPANProblem, VGG16Problem
from gpu_tinygan import CupyClock, HostClock, LayerProblem, RecordedTraining, StepProblem, TinyganLayer, replayed

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]
LAYER, SGAN, GAN = LayerProblem(4, 6, 5, 4, 3), StepProblem(2, 3, 4), StepProblem(2, 1, 3)
GPAN = GPANProblem(64, 2, 3, base=2, patch=2, side=32, narrow=64)  # of its three batches one is blurred: two variants
VGG16 = VGG16Problem(2, 32, 64)


@pytest.fixture
def place(gpu, monkeypatch):
    """The device, with nothing of PyTorch's."""
    monkeypatch.setattr(benchmark, "set_math", lambda math: None)
    return benchmark.Place(gpu, CupyClock(gpu), "cpu", None, records=True)


@pytest.mark.parametrize(("problem", "variants"), [(LAYER, 1), (SGAN, 1), (GAN, 1), (VGG16, 1), (GPAN, 2)],
                         ids=lambda value: getattr(value, "name", ""))
def test_a_recorded_side_has_the_bits_of_the_eager_one(gpu, problem, variants):
    assert replayed(problem, gpu, CupyClock(gpu), 20)[1] == []
    side = gpu_tinygan.RECORDED[type(problem)](problem, gpu, CupyClock(gpu))
    assert side.nodes is None
    times, wall = gpu_tinygan.timed_round(side.run, benchmark.WARM_UP, side.clock)
    assert len(times) == benchmark.WARM_UP and wall > 0 and side.notes == []
    assert len(side.recorded.graphs) == variants and side.recorded.replays == benchmark.WARM_UP - 2 * variants
    assert side.nodes["kernel"] >= 6 and "allocation" not in side.nodes


def test_other_numbers_than_the_eager_side_has_are_seen(place, monkeypatch):
    class Late(RecordedTraining):
        def run(self):
            losses = super().run()
            self.at -= self.at == 4  # the fourth batch again: a replay of numbers that were not sent anew
            return losses

    monkeypatch.setitem(gpu_tinygan.RECORDED, StepProblem, Late)
    row = benchmark.Row(SGAN, "fp32")
    assert list(benchmark.agreeing_sides(row, place, [])) == ["tinygan"]
    assert row.status == "differs" and row.notes[0].startswith("tinygan graph differs: losses")


def test_what_cannot_be_recorded_is_left_out_with_the_reason(place, monkeypatch):
    def sends(self):
        self.x.xp.asarray(np.ones(3, np.float32))
        return self.compute()

    monkeypatch.setattr(gpu_tinygan.RecordedLayer, "__init__", lambda self, problem, xp, clock: (
        TinyganLayer.__init__(self, problem, xp, clock), self.record(xp, lambda: sends(self)))[0])
    row = benchmark.Row(LAYER, "fp32")
    assert list(benchmark.agreeing_sides(row, place, [])) == ["tinygan"] and row.status == ""
    (note,) = row.notes
    assert "cannot be recorded as one CUDA graph (a host array is sent to the device)" in note


class Theirs:
    """A side in PyTorch's place."""

    period, clock = 1, HostClock()

    def __init__(self, problem):
        self.problem = problem

    def run(self):
        pass

    def results(self):
        return TinyganLayer(self.problem, np, HostClock()).results()


def test_a_row_has_both_forms(place, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "make_theirs", lambda problem, form, place, weights: Theirs(problem))
    row = benchmark.Row(LAYER, "fp32")
    benchmark.measure_row(row, place, benchmark.read_args(["--quick"]), ["eager plain", "compiled plain"])
    found = benchmark.json_row(row, {})
    assert row.status == "" and list(row.ms) == ["tinygan", "tinygan graph", "eager plain", "compiled plain"]
    assert found["graph_ms"] > 0 and found["graph_host_ms"] > 0 and found["nodes"] >= 6 and found["launches"] == 6
    assert found["compiled_ratio"] == min(found["graph_ms"], found["tinygan_ms"]) / found["compiled_ms"]


def test_launches_are_counted_by_the_device(tmp_path):
    if os.environ.get("TINYGAN_CUPY") != "cpu":
        pytest.skip("no GPU: this counts on the real CuPy without one")
    path = tmp_path / "rows.json"
    words = ["--base", "2", "--bank", "3", "--batch", "4", "--size", "64", "--gpan-batch", "2", "--steps", "2"]
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "gpu_launches.py"), *words, "--json", str(path)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    assert list(rows) == [f"{name}{form}" for name in ("GAN step base 2 K 1 batch 4", "SGAN step base 2 K 3 batch 4",
                                                       "layer K 3 batch 4", "GPAN 64 px batch 2 K 4, view")
                          for form in ("", ", recorded")]
    assert len(done.stdout.splitlines()) == 1 + len(rows)
    for name, row in rows.items():
        recorded = name.endswith(", recorded")
        if recorded:
            assert (row["uploads"], row["waits"]) == (0 if name.startswith("layer") else 1, 1)
        else:
            assert row["waits"] == 0
        assert row["kernels"] >= 6 and row["host ms"] <= row["median"] and row["pool MB"] > 0
    eager, recorded = rows["SGAN step base 2 K 3 batch 4"], rows["SGAN step base 2 K 3 batch 4, recorded"]
    assert eager["uploads"] > 2 and recorded["kernels"] > 40 and recorded["products"] == eager["products"]


def test_counting_without_cupy_is_one_line(monkeypatch):
    import gpu_launches

    monkeypatch.setattr(gpu_launches.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TinyganError, match=r'pip install "\.\[test-cupy\]"'):
        gpu_launches.main([])


def test_a_problem_that_there_is_not_is_one_line(capsys):
    import gpu_launches

    with pytest.raises(SystemExit, match="2"):
        gpu_launches.read_args(["--only", "gan,vgg"])
    assert "--only: there is no 'vgg': take some of gan, sgan, layer, gpan" in capsys.readouterr().err
    assert gpu_launches.read_args(["--only", "sgan,gan"]).only == ("sgan", "gan")
