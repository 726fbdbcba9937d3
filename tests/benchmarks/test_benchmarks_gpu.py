"""The GPU benchmark without a GPU: tinygan's side over the stand-in for CuPy, PyTorch's (where it is installed) on the
processor. That both compute the same is tested for every form; only the times mean nothing here."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from script_tools import over

from tinygan.app import cli
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels.gpu import launch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cpu_counts
import gpu
import gpu_tinygan
from gpan_problem import GPANProblem, VGG16Problem
from gpu_tinygan import CupyClock, HostClock, LayerProblem, StepProblem, TinyganLayer, TinyganStep, difference

SPEED = {math: {"gflops": 50_000.0, "gbytes": 2_000.0} for math in gpu_tinygan.MATHS}
LAYERS = [LayerProblem(1, 3, 5, 4, 3), LayerProblem(4, 6, 5, 4, 3), LayerProblem(16, 5, 3, 2, 4, 3, 1, 1),
          LayerProblem(2, 4, 3, 2, 3, 5, 3, 0)]
STEPS = [StepProblem(2, 3, 4), StepProblem(2, 1, 3)]
GPANS = [VGG16Problem(2, 32, 32), GPANProblem(64, 2, base=2, patch=2, side=64, narrow=32),
         GPANProblem(64, 2, bank=1, base=2, patch=2, sees="both", side=64, narrow=32)]


def no_compile(function):
    """In place of torch.compile, which takes long."""
    return function


@pytest.fixture
def place(standin):
    cupy = standin.module
    return gpu.Place(cupy, CupyClock(cupy), "cpu", no_compile)


@pytest.fixture
def gpu_torch():
    """PyTorch's side, with PyTorch's settings put back afterwards."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import gpu_torch

    switches = [(torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32"),
                (torch.backends.cudnn, "benchmark")]
    before = [getattr(*switch) for switch in switches]
    yield gpu_torch
    for (module, name), value in zip(switches, before, strict=True):
        setattr(module, name, value)


# ---- both sides --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [*LAYERS, *STEPS, *GPANS], ids=lambda problem: problem.name)
def test_every_form_computes_what_tinygan_computes(place, gpu_torch, problem):
    row = gpu.Row(problem, "fp32")
    forms = gpu_torch.forms(problem)
    sides = gpu.agreeing_sides(row, place, forms)
    assert list(sides) == ["tinygan", *forms] and row.status == "" and row.notes == []
    assert max(row.differences.values()) < (1e-3 if problem in GPANS else 2e-5)
    for side in sides.values():
        for _ in range(side.period + 1):
            side.run()


def test_forms(gpu_torch):
    assert gpu_torch.forms(STEPS[1]) == ["eager plain", "eager channels_last", "compiled plain",
                                         "compiled plain optimisers"]
    banked = gpu_torch.forms(STEPS[0])
    assert banked[:4] == ["eager plain loop", "eager channels_last loop", "eager plain grouped",
                          "eager channels_last grouped"]
    assert banked[4:] == ["compiled plain grouped", "compiled plain grouped optimisers"]
    assert gpu_torch.forms(LAYERS[1])[4:] == ["compiled plain loop", "compiled plain grouped"]
    assert not any(form.startswith("compiled") for form in gpu_torch.forms(LAYERS[1], compiled=False))
    assert gpu_torch.forms(GPANS[0]) == ["eager plain", "eager channels_last", "compiled plain"]
    assert gpu_torch.forms(GPANS[1]) == banked[:4]


def test_a_wrong_gradient_is_seen(place, gpu_torch, monkeypatch):
    """An epsilon of another size inside the root of the generator's weight normalisation."""
    monkeypatch.setattr(gpu_torch, "EPS", 1e-2)
    row = gpu.Row(STEPS[1], "fp32")
    gpu.agreeing_sides(row, place, ["eager plain"])
    assert row.status == "differs" and row.notes[0].startswith("eager plain differs: ")


def test_an_optimiser_that_stands_still_is_seen(place, gpu_torch, monkeypatch):
    def make(*args):
        side = gpu_torch.TorchStep(*args)
        side.g_update = lambda: None
        return side

    monkeypatch.setattr(gpu, "make_theirs", lambda problem, form, place, weights: make(problem, form, "cpu", weights,
                                                                                       None))
    row = gpu.Row(STEPS[1], "fp32")
    gpu.agreeing_sides(row, place, ["eager plain"])
    assert row.status == "differs" and "the step of G." in row.notes[0]


def words(*more):
    small = ["--bank", "2", "--batch", "3", "--inputs", "3", "--outputs", "2", "--side", "3", "--base", "2",
             "--step-bank", "2", "--step-batch", "3", "--product", "16", "--copy-mb", "1", "--photos", "2",
             "--gpan-batch", "2", "--gpan-base", "2"]
    return gpu.read_args(["--quick", *over(small, more)])


def test_a_whole_run(place, gpu_torch, tmp_path, capsys, monkeypatch):
    path = tmp_path / "rows.json"
    for module, name, value in ((gpu, "NARROW", 32), (gpu, "WARM_UP", 1), (VGG16Problem, "count", 1),
                                (GPANProblem, "count", 1), (TinyganStep, "period", 1),
                                (gpu_torch.TorchStep, "period", 1)):  # few steps: the stand-in takes its time
        monkeypatch.setattr(module, name, value)
    assert gpu.run(place, words("--json", str(path), "--steps", "1"), ["conditions"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("conditions\nfp32: a large product at ") and "layer K 2 batch 3" in out
    assert "round 2 of 2" in err and "does it compute the same?" in err
    content = json.loads(path.read_text())
    assert content["conditions"] == ["conditions"] and set(content["speed"]) == {"fp32", "tf32"}
    assert [(row["name"], row["math"]) for row in content["rows"]] == [
        (name, math) for name in ("layer K 2 batch 3", "SGAN step base 2 K 2 batch 3", "VGG16 64 px batch 2 narrow 32",
                                  "GPAN 64 px batch 2 K 4, view") for math in ("fp32", "tf32")]
    for row in content["rows"]:
        assert row["status"] == "" and row["ratio"] > 0 and row["launches"] > 0
        assert (row["products"] > 0) != row["name"].startswith("layer")  # whose products are routed
        assert row["eager_ms"] > 0 and (row["compiled_ms"] or row["name"].startswith("GPAN")) and row["floor_ms"] > 0
        if row["math"] == "fp32":  # in TF32 products round on the processor, too: the status says that it is not more
            assert row["difference"] < (0.1 if row["name"].startswith(("GPAN", "VGG16")) else 1e-4)
    assert not launch.get_tf32()


def test_tf32_is_set_on_both_sides(place, gpu_torch):
    import torch

    gpu.set_math("tf32")
    assert launch.get_tf32() and torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    gpu.set_math("fp32")
    assert not (launch.get_tf32() or torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)


def test_a_form_that_does_not_compile_is_left_out(place, gpu_torch, capsys):
    def broken(function):
        def call(*args):
            raise RuntimeError("Cannot find a working triton installation.\nA page of advice follows.")
        return call

    place.compiling = broken
    assert gpu.run(place, words("--only", "layer", "--math", "fp32"), []) == 0
    out = capsys.readouterr().out
    assert "compiled plain loop left out: RuntimeError: Cannot find a working triton installation." in out
    assert "advice" not in out and "eager plain loop" in out


# ---- tinygan's side alone ----------------------------------------------------------------------------------------


@pytest.mark.kernels
@pytest.mark.parametrize("problem", [LAYERS[1], STEPS[0], *GPANS], ids=lambda problem: problem.name)
def test_tinygan_computes_the_same_on_both_devices(place, problem):
    on_gpu, on_cpu = gpu.make_ours(problem, place), gpu.make_ours(problem, host_place())
    found = difference(on_cpu.results(), on_gpu.results())
    limit = 1e-3 if problem in GPANS else 2e-5  # a number next to a ReLU's kink may fall to either side
    assert {name: value < limit for name, (value, _) in found.items()} == dict.fromkeys(found, True)


@pytest.mark.kernels
@pytest.mark.parametrize("problem", [STEPS[0], *GPANS[:2]], ids=lambda problem: problem.name)
def test_a_step_reads_nothing_back(place, standin, problem):
    side = gpu.make_ours(problem, place)
    side.run()
    standin.reset_count()
    side.run()
    assert standin.count["syncs"] == 0


@pytest.mark.kernels
def test_launches_are_counted(place, standin):
    routes = LAYERS[1].routes()
    assert (np.diff(routes) < 0).any()  # so that there is something to sort
    side = TinyganLayer(LAYERS[1], place.xp, place.clock)
    side.run()
    before = launch.launch
    with gpu_tinygan.counted() as seen:
        side.run()
    # Forward: product, col2im; back to the input: im2col, product; to the weight: im2col, gradient; all of them routed.
    assert seen == {"launches": 6, "products": 0}
    step = TinyganStep(STEPS[0], place.xp, place.clock)
    step.run()
    standin.reset_count()
    standin.host_blas.calls.clear()
    with gpu_tinygan.counted() as seen:
        step.run()
    assert seen["products"] == len(standin.host_blas.calls) > 10
    assert 40 < seen["launches"] < standin.count["launches"] - seen["products"]  # CuPy's own come on top
    assert launch.launch is before and gpu_tinygan.launch.gemm.__name__ == "gemm"


@pytest.mark.kernels
def test_speed_and_clock(place):
    assert gpu_tinygan.product_speed(place.xp, place.clock, 8, 2) > 0
    assert gpu_tinygan.copy_speed(place.xp, place.clock, 1, 2) > 0
    times, wall = gpu_tinygan.timed_round(lambda: None, 3, place.clock)
    assert len(times) == 3 and all(t >= 0 for t in times) and wall >= max(times) / 3


@pytest.mark.kernels
def test_out_of_memory_in_one_row(place, standin, monkeypatch, capsys):
    quiet(monkeypatch, {"eager plain": Fake})
    args = words("--only", "layer", "--math", "fp32", "--batch", "3,4000", "--no-compile")
    standin.leave_room(launch.WORKSPACE + 2_100_000)
    assert gpu.run(place, args, []) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("layer")]
    assert rows[1].endswith("fp32 out of memory") and "out" not in rows[0]


# ---- turns, with made-up sides -----------------------------------------------------------------------------------


class Fake:
    """A side that computes what tinygan does, on NumPy."""

    period, clock, order = 1, HostClock(), []

    def __init__(self, problem, name="fake"):
        self.problem, self.name = problem, name

    def run(self):
        self.order.append(self.name)

    def results(self):
        return TinyganLayer(self.problem, np, HostClock()).results()


def quiet(monkeypatch, forms):
    """PyTorch's side replaced by made-up forms {name: function of a problem}."""
    monkeypatch.setattr(gpu, "set_math", lambda math: None)
    monkeypatch.setattr(gpu, "free", lambda place: None)
    monkeypatch.setattr(gpu, "torch_forms", lambda problem, place: list(forms))
    monkeypatch.setattr(gpu, "make_theirs", lambda problem, form, place, weights: forms[form](problem))


def host_place():
    return gpu.Place(np, HostClock(), "cpu", None)


def test_turns(monkeypatch, capsys):
    order = []
    monkeypatch.setattr(Fake, "order", order)
    quiet(monkeypatch, {"eager plain": lambda p: Fake(p, "e"), "compiled plain": lambda p: Fake(p, "c")})
    (row,) = gpu.measure(LAYERS[0], host_place(), words("--math", "fp32", "--steps", "2"))
    handed = "e" * gpu.HANDED + "c" * gpu.HANDED
    assert "".join(order) == "e" * gpu.WARM_UP + "c" * gpu.WARM_UP + "eecc" * 2 + handed
    assert row.status == "" and set(row.ms) == {"tinygan", "eager plain", "compiled plain"}
    assert set(row.wall) == set(row.host) == set(row.ms)


@pytest.mark.parametrize("math, names", [("fp32", ["fp32"]), ("tf32", ["tf32"]), ("fp32,tf32", ["fp32", "tf32"])])
def test_a_row_that_differs_is_not_timed(monkeypatch, capsys, math, names):
    class Wrong(Fake):
        def results(self):
            return {name: array * np.float32(1.01) for name, array in super().results().items()}

        def run(self):
            raise AssertionError("timed")

    quiet(monkeypatch, {"eager plain": Wrong})
    rows = gpu.measure(LAYERS[0], host_place(), words("--math", math))
    assert [row.math for row in rows] == names
    for row in rows:
        assert row.status == "differs" and row.ms == {} and row.notes[0] == "eager plain differs: output by 9.9e-03"
    monkeypatch.setattr(gpu, "measure", lambda *args: rows)
    monkeypatch.setattr(gpu, "measure_speed", lambda *args: None)
    assert gpu.run(host_place(), words(), []) == 1
    assert "differs" in capsys.readouterr().out


def test_a_form_without_room_is_left_out_and_a_mistake_is_not(monkeypatch, capsys):
    def full(problem):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    quiet(monkeypatch, {"eager plain": Fake, "eager channels_last": full})
    (row,) = gpu.measure(LAYERS[0], host_place(), words("--math", "fp32"))
    assert row.notes == ["eager channels_last left out: out of memory"] and set(row.ms) == {"tinygan", "eager plain"}

    def mistaken(problem):
        raise ValueError("a mistake")

    quiet(monkeypatch, {"eager plain": mistaken})
    with pytest.raises(ValueError, match="a mistake"):
        gpu.measure(LAYERS[0], host_place(), words())


def test_a_compiled_form_that_fails_late_is_left_out(monkeypatch, capsys):
    class Late(Fake):
        def run(self):
            raise RuntimeError("accessing tensor output of CUDAGraphs that has been overwritten")

    quiet(monkeypatch, {"eager plain": Fake, "compiled plain": Late})
    (row,) = gpu.measure(LAYERS[0], host_place(), words("--math", "fp32"))
    assert set(row.ms) == {"tinygan", "eager plain"} and "overwritten" in row.notes[0]


# ---- differences, floors, table ----------------------------------------------------------------------------------


def test_difference():
    ours = {"losses/both": np.array([1.0, 2.0]), "gradients/G.a": np.array([3.0, 4.0]), "gradients/G.b.0": np.zeros(2)}
    theirs = {name: array.copy() for name, array in ours.items()} | {"gradients/G.b.1": np.zeros(2)}
    assert difference(ours, theirs) == {"losses": (0.0, "both"), "gradients": (0.0, "G.b.1")}
    theirs["gradients/G.a"] = np.array([3.0, 4.5])
    value, where = difference(ours, theirs)["gradients"]
    assert where == "G.a" and value == pytest.approx(0.5 / np.hypot(3, 4.5))
    theirs["gradients/G.b.1"] = np.array([3.0, 4.5])  # one side has it, the other not
    assert difference(ours, theirs)["gradients"] == (1.0, "G.b.1")
    for bad in (np.array([np.nan, 1.0]), np.array([[3.0, 4.0]])):
        assert difference(ours, ours | {"gradients/G.a": bad})["gradients"][0] == float("inf")


def test_the_difference_of_a_small_gradient():
    """Measured against a thousandth of its net's whole gradient where it is shorter than that."""
    ours = {"gradients/D.a": np.array([1000.0]), "gradients/D.b": np.array([0.1]), "gradients/G.b": np.array([0.1])}
    value, where = difference(ours, ours | {"gradients/D.b": np.array([0.2])})["gradients"]
    assert where == "D.b" and value == pytest.approx(0.1 / 1)
    value, where = difference(ours, ours | {"gradients/G.b": np.array([0.2])})["gradients"]
    assert where == "G.b" and value == pytest.approx(0.5)


def test_floors_by_hand():
    layer = LayerProblem(4, 10, 8, 6, 5)
    sets = len(set(layer.routes()))
    assert layer.big_side == 10
    assert layer.flop == 3 * 2 * 10 * 25 * 8 * 6 * 16
    maps, weights, matrix = 10 * (8 * 25 + 6 * 100), sets * 8 * 6 * 16, 10 * 25 * 6 * 16
    assert layer.bytes_moved == 4 * 3 * (maps + weights + 2 * matrix)
    assert gpu_tinygan.floors(layer, {"gflops": 2.0, "gbytes": 4.0}) == pytest.approx(
        (layer.flop / 2e9 * 1e3, layer.bytes_moved / 4e9 * 1e3))
    step = StepProblem(2, 3, 4)
    assert step.flop == cpu_counts.step_flop(step.config, 4)
    g, d = 4 * (4 * 16 * 16 + 2 * 16 * 64 + 1 * 16 * 256), (2 + 3 + 3) * (2 * 16 * 64 + 4 * 16 * 16 + 8 * 16)
    first = (2 + 1 + 3) * 16 * 256  # of D; its last layer has one pixel and a filter of 4 x 4
    assert step.bytes_moved == pytest.approx(cpu_counts.step_bytes(step.config, 4) + 8 * 4 * (g + d + first))


def test_problems_are_drawn_alike():
    a, b = (LAYERS[1].arrays() for _ in range(2))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert np.array_equal(a["routes"], LAYERS[1].routes())
    assert a["dy"].shape == (6, 4, 6, 6) and a["weight"].shape == (4, 5, 4, 4, 4) and a["x"].dtype == np.float32
    routes = [tuple(column) for batch in STEPS[0].batches() for half in ("routes1", "routes2")
              for column in batch[half].T[:3]]
    assert len(routes) == 96


def made_up():
    timed = gpu.Row(StepProblem(64, 16, 64), "fp32", launches=88, products=199, nodes=158)
    timed.ms = {"tinygan": 9.0, "tinygan graph": 3.0, "eager plain loop": 8.0, "eager plain grouped": 6.0,
                "compiled plain grouped": 2.0}
    timed.wall = {form: ms + 0.5 for form, ms in timed.ms.items()}
    timed.host = {form: ms / 8 for form, ms in timed.ms.items()}
    timed.differences = {"eager plain loop": 1e-6, "compiled plain grouped": 2e-6}
    alone = gpu.Row(LayerProblem(64, 256), "tf32", ms={"tinygan": 4.0}, wall={"tinygan": 4.5}, notes=["eager: none"])
    return [timed, alone, gpu.Row(LayerProblem(1, 64), "fp32", "differs", notes=["eager plain differs: output by 1"])]


def test_rows():
    row = gpu.json_row(made_up()[0], SPEED)
    assert (row["tinygan_ms"], row["graph_ms"], row["eager_ms"], row["compiled_ms"]) == (9.0, 3.0, 6.0, 2.0)
    assert row["ratio"] == row["compiled_ratio"] == 1.5 and row["tinygan_wall_ms"] == 3.5 and row["nodes"] == 158
    assert (row["tinygan_host_ms"], row["graph_host_ms"], row["torch_host_ms"]) == (1.125, 0.375, 0.25)
    assert row["torch_form"] == "compiled plain grouped" and row["torch_wall_ms"] == 2.5
    assert row["floor_ms"] == max(gpu_tinygan.floors(StepProblem(64, 16, 64), SPEED["fp32"]))
    assert row["floor_percent"] == pytest.approx(100 * row["floor_ms"] / 3) and row["difference"] == 2e-6
    empty = gpu.json_row(made_up()[1], SPEED)
    assert empty["tinygan_wall_ms"] == 4.5 and all(empty[key] is None for key in (
        "ratio", "compiled_ratio", "graph_ms", "graph_host_ms", "eager_ms", "difference", "nodes"))
    json.dumps([gpu.json_row(row, SPEED) for row in made_up()], allow_nan=False)


def test_table():
    lines = gpu.report(made_up(), SPEED, ["NVIDIA X"]).splitlines()
    assert lines[0] == "NVIDIA X" and "50.0 TFLOP/s, a large copy at 2000 GB/s" in lines[1]
    head = next(i for i, line in enumerate(lines) if "own launches" in line and "% of floor" in line)
    rows = lines[head + 1:]
    assert rows[0].split()[8:16] == ["fp32", "9.000", "3.000", "6.000", "2.000", "1.50", "1.50", "3.500"]
    assert rows[0].split()[16:23] == ["2.500", "1.125", "0.375", "0.250", "88", "199", "158"]
    assert rows[0].endswith("2e-06") and len(rows[0]) == len(lines[head])
    assert rows[1].strip().startswith("eager plain loop 8.000 ms, eager plain grouped 6.000 ms, compiled")
    assert rows[2].startswith("layer K 64 batch 256") and rows[2].split()[7:10] == ["-", "-", "-"]
    assert rows[3].strip() == "eager: none"
    assert rows[4].startswith("layer K 1 batch 64") and rows[4].endswith("fp32 differs")
    assert rows[5].strip() == "eager plain differs: output by 1"


# ---- the command line --------------------------------------------------------------------------------------------


def test_flags(capsys):
    args = gpu.read_args(["--quick", "--bank", "1,8", "--math", "tf32,fp32"])
    assert (args.bank, args.batch, args.rounds, args.math) == ((1, 8), (16,), 2, ("fp32", "tf32"))
    assert [p.name for p in gpu.problems(gpu.read_args([]))] == [
        *(f"layer K {k} batch {n}" for k in (1, 4, 16, 64) for n in (64, 256)), "SGAN step base 64 K 16 batch 64",
        "GAN step base 64 K 1 batch 64", "VGG16 224 px batch 32", "GPAN 256 px batch 4 K 4, view",
        "GPAN 1024 px batch 4 K 4, view"]
    assert len(gpu.problems(gpu.read_args(["--only", "step"]))) == 2
    (problem,) = gpu.problems(gpu.read_args(["--only", "gpan", "--size", "512", "--gpan-base", "32"]))
    assert (problem.size, problem.base, problem.patch, problem.narrow) == (512, 32, 32, 1)
    for typed in (["--math", "fp16"], ["--bank", "0"], ["--steps", "x"], ["--only", "nets"], ["--bankk", "1"],
                  ["--size", "100"]):
        with pytest.raises(SystemExit) as stop:
            gpu.read_args(typed)
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UsageError, match="--padding 9 leaves no pixel: use less than 9"):
        gpu.read_args(["--padding", "9"])
    assert gpu.read_args(["--padding", "8"]).padding == 8
    with pytest.raises(UsageError, match="use 2 or more"):
        gpu.read_args(["--gpan-batch", "1"])


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        gpu.main(["--help"])
    assert stop.value.code == 0
    assert "--no-compile" in capsys.readouterr().out


def test_without_torch_one_line(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.run_main(gpu.main, ["--quick"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and 'pip install ".[bench]"' in err


def test_without_a_gpu_one_line(monkeypatch, capsys):
    def none(name):
        raise TinyganError("no GPU to use: there is none")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(gpu, "pick_device", none)
    assert cli.run_main(gpu.main, []) == 1
    assert capsys.readouterr().err == "error: no GPU to use: there is none\n"


def test_torch_without_cuda_one_line(standin, gpu_torch, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.run_main(gpu.main, ["--quick"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "finds no GPU that it can use" in err and "pytorch.org" in err


@pytest.mark.kernels
def test_conditions(standin, monkeypatch):
    from types import SimpleNamespace

    torch = SimpleNamespace(__version__="2.13.0", version=SimpleNamespace(cuda="13.0"),
                            backends=SimpleNamespace(cudnn=SimpleNamespace(version=lambda: 91900)))
    monkeypatch.setattr(gpu, "driver_version", lambda: "580.65")
    first, second, third, fourth = gpu.conditions(standin.module, torch, gpu.read_args([]))
    assert first == "stand-in, driver 580.65 (CUDA 13.0)"
    assert "PyTorch 2.13.0 (CUDA 13.0, cuDNN 91900)" in second
    assert third == "math fp32 and tf32 on both sides, median of 5 rounds of 20 iterations"
    assert "256 -> 128 channels, 8x8" in fourth and "batch 64; VGG16" in fourth and "base 64" in fourth


def test_driver_version(monkeypatch):
    import subprocess

    def missing(*args, **options):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", missing)
    assert gpu.driver_version() == "unknown"
