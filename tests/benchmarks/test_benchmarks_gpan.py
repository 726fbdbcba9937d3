"""The benchmark of VGG16 and the GPAN's step: its problems, its counts, and (with PyTorch) that both sides agree."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from counting import counting_kernels

import tinygan.ops.conv
import tinygan.ops.fused
from tinygan import Tensor
from tinygan.app.train_flags import make
from tinygan.errors import TinyganError
from tinygan.models import LossSettings, ViewSettings
from tinygan.models.classifiers.vgg16 import VGG16 as VGG16Net

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cpu
import cpu_nets
import cpu_worker
import gpan_problem
import gpan_tinygan
import gpu
from gpan_problem import Classifier, GPANProblem, VGG16Problem

VGG16 = VGG16Problem(batch=2, side=32, narrow=32)
# 64 pixels for the classifier: its last map then has four places, and Grad-CAM something to choose from.
GPANS = [GPANProblem(size=64, batch=3, base=2, patch=2, sees=sees, side=64, narrow=32) for sees in gpan_problem.SEES]
LARGE = replace(GPANS[1], size=256, batch=2)  # views are shrunk by means, then by interpolation


# ---- the problems ------------------------------------------------------------------------------------------------


def test_the_settings_are_those_of_the_script():
    """Of train_gpan.py with a VGG16 on a CPU: nets, losses, views, learning rates, batch size."""
    import train_gpan

    flags, _ = train_gpan.read_flags(["--classifier", "vgg16.h5", "--wanted", "zebra", "--device", "cpu"])
    problem = GPANProblem()
    settings = problem.config.to_dict()
    del settings["condition_channels"], settings["categories"]  # of the classifier and of --wanted
    assert {**settings, "bank": problem.config.bank[:1]} == {name: flags[name] for name in settings}
    weights = {name: flags[f"weight_{name}"] for name in train_gpan.WEIGHTS}
    assert problem.losses == make(LossSettings, flags, weights=weights)
    assert gpan_problem.VIEW_SETTINGS == make(ViewSettings, flags)
    assert (problem.batch, gpan_problem.G_RATE, gpan_problem.D_RATE, gpan_problem.BETAS) == (
        flags["batch_size"], flags["lr"], flags["d_lr"], (flags["beta1"], flags["beta2"]))
    assert (flags["painter_sees"], flags["critic_sees"]) == ("substrate", "silhouette")  # as in `batches`


def test_signals_keep_their_size():
    """Otherwise the net's values would be beyond float32, or all zero, and the comparison would be of nothing."""
    problem = VGG16Problem(batch=2, side=64, narrow=4)
    net = gpan_tinygan.make_vgg16(problem.classifier, "float32")
    images = Tensor(problem.batches()[0]["images"])
    for layer in ("conv1_1", "conv3_1", "conv5_3", "pool5"):
        maps = net.maps(images, layer).numpy()
        assert 0.2 < maps.std() < 30 and 0.05 < (maps > 0).mean() < 0.99
    scores = net.scores(images).numpy()
    assert 0.1 < scores.std() < 5


def test_weights_are_the_same_for_both_sides():
    a, b = (Classifier(32, 32).weights() for _ in range(2))
    assert all(np.array_equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))
    assert a["fc8"][0].shape == (31, 128) and a["conv1_1"][0].shape == (2, 3, 3, 3)
    assert {w.dtype for pair in Classifier(32, 32).weights("float64").values() for w in pair} == {np.dtype("float64")}


def test_published_widths():
    shapes = dict(Classifier().shapes())
    assert shapes["conv5_3"] == (512, 512, 3, 3) and shapes["fc6"] == (4096, 25088) and shapes["fc8"] == (1000, 4096)


@pytest.mark.parametrize("problem", [VGG16, *GPANS], ids=lambda problem: problem.name)
def test_batches_are_drawn_alike(problem):
    a, b = problem.batches(), problem.batches()
    for x, y in zip(a, b, strict=True):
        assert all(np.array_equal(x[name], y[name]) for name in x if isinstance(x[name], np.ndarray))
        assert {value.dtype for value in x.values() if isinstance(value, np.ndarray)} <= {np.dtype("float32"),
                                                                                          np.dtype("int64")}
    assert not np.array_equal(*(next(iter(batch.values())) for batch in a[:2]))


def test_a_problem_travels_as_a_line():
    for problem in (VGG16, *GPANS):
        assert gpan_problem.from_json(gpan_problem.to_json(problem)) == problem


# ---- the counts --------------------------------------------------------------------------------------------------


def test_flop_of_the_published_net():
    """15.35 thousand million multiplications in the convolutions of one image, 124 million in the head."""
    convolutions, head = Classifier().flop()
    assert convolutions == 2 * 15_346_630_656 and head == 2 * (25088 * 4096 + 4096 * 4096 + 4096 * 1000)
    assert VGG16Problem(batch=3).flop == 6 * (convolutions + head)


@pytest.mark.parametrize("problem", [VGG16, *GPANS, LARGE], ids=lambda problem: problem.name)
def test_flop_is_what_a_step_multiplies(monkeypatch, problem):
    """Count the kernel calls of a real step; the count from the shapes must give the same number."""
    seen = []
    plain, heads = VGG16Net.head, []

    def head(net, features):
        heads.append(len(features))
        return plain(net, features)

    trainer, batch = gpan_tinygan.make(problem), problem.batches()[0]
    counting = counting_kernels(seen)
    monkeypatch.setattr(tinygan.ops.conv, "for_array", counting)
    monkeypatch.setattr(tinygan.ops.fused, "for_array", counting)
    monkeypatch.setattr(VGG16Net, "head", head)
    trainer.step(batch)
    assert sum(seen) + 2 * sum(heads) * problem.classifier.flop()[1] == problem.flop  # heads: there and back


def test_bytes_of_vgg16():
    """By hand: 13 convolutions and three layers of the head, all widths 2 but the last two, one place at the end."""
    widths = (2, 2, 4, 4, 8, 8, 8, 16, 16, 16, 16, 16, 16)
    assert VGG16.classifier.widths == (*widths, 128, 128, 31)
    sides = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)
    total, inputs = 0, 3
    for width, side in zip(widths, sides, strict=True):
        total += 2 * (inputs + width) * side ** 2 + 9 * inputs * width
        inputs = width
    for inputs, width in ((16, 128), (128, 128), (128, 31)):
        total += 2 * (inputs + width) + inputs * width
    assert VGG16.bytes_moved == 2 * 4 * total  # there and back, four bytes each
    assert GPANS[2].bytes_moved == 2 * GPANS[1].bytes_moved  # two looks instead of one


# ---- what a GPU's float32 may differ by -----------------------------------------------------------------------------


def test_the_gradients_of_vgg16_have_a_limit_of_their_own():
    for value, status in ((0.05, ""), (0.2, "differs")):
        row = gpu.Row(VGG16, "fp32")
        gpu.compare(row, "eager plain", {"losses": (1e-4, "all"), "gradients": (value, "image")})
        assert row.status == status
    row = gpu.Row(GPANS[0], "fp32")
    gpu.compare(row, "eager plain", {"losses": (0.0, "all"), "gradients": (0.0, "G.a"), "moves": (1.0, "G.a")})
    assert row.status == "differs" and row.notes == ["eager plain differs: the step of G.a by 1.0e+00"]
    row = gpu.Row(VGG16, "fp32")
    gpu.compare(row, "eager plain", {"losses": (2e-3, "all"), "gradients": (0.0, "image")})
    assert row.status == "differs" and row.notes == ["eager plain differs: all by 2.0e-03"]


# ---- tinygan's side ----------------------------------------------------------------------------------------------


def test_the_step_is_the_training_scripts():
    """The same losses and gradients as train_gpan.take_step's from the same batch: nothing was left out or put in."""
    import train_gpan

    problem = GPANS[1]
    ours, theirs = (gpan_tinygan.make(problem) for _ in range(2))
    (batch, *_) = problem.batches()
    found = dict(zip(gpan_problem.TERMS, ours.step(batch), strict=True))
    given = gpan_tinygan.as_batch(batch)

    class Game:
        """What take_step asks of its game."""

        G, D, classifier, losses = theirs.nets["G"], theirs.nets["D"], theirs.classifier, theirs.losses
        g_optimizer, d_optimizer = theirs.g_optimizer, theirs.d_optimizer
        flags = {"accumulate": 1, "batch_size": problem.batch, "routes": "sample", "whole": "no"}
        def draw_wanted(self):
            return gpan_problem.WANTED

        def next_batch(self, wanted, routes):
            return given

        def draw_routes(self):
            return batch["routes"], [batch["routes"]]

        def draw_views(self, n):
            return batch["views"]

        def zero_grad(self):
            self.G.zero_grad()
            self.D.zero_grad()

        def update_average(self):
            pass

    class Step:
        """A step whose numbers are read, but not logged."""

        read, log = True, False

        def check(self, *args):
            pass

    game = Game()
    numbers = train_gpan.take_step(game, Step())
    assert {name: numbers[name] for name in found} == found
    for net in ("G", "D"):
        after = [dict(side.nets[net].named_parameters()) for side in (ours, theirs)]
        assert all(np.array_equal(after[0][name].data, after[1][name].data) for name in after[0])


@pytest.mark.parametrize("problem", [VGG16, GPANS[1]], ids=lambda problem: problem.name)
def test_a_worker_answers(tmp_path, problem):
    """Through all of cpu_worker.py; `for_check` leaves problems this small as they are."""
    net, path = cpu_nets.Problem(problem), tmp_path / "found.npz"
    assert problem.for_check == problem
    worker = cpu.Worker(net, "tinygan", 1, path, dtype="float64")
    try:
        assert worker.request("check", str(path)) == "done"
        with np.load(path) as saved:
            terms = 1 if problem is VGG16 else len(gpan_problem.TERMS)
            assert saved["losses"].shape == (3, terms) and np.isfinite(saved["losses"]).all()
            assert any(key.startswith("gradients/") for key in saved)
            assert any(key.startswith("weights/") for key in saved) == (problem is not VGG16)
        assert worker.request("weights", str(path)) == "done"
        answer = worker.request("round", 1)
        assert len(answer["losses"]) == terms and answer["mb"] > 0
        assert worker.request("profile", 1)["rows"]
    finally:
        worker.close()


# ---- both sides --------------------------------------------------------------------------------------------------


@pytest.fixture
def torch_gpan():
    """PyTorch's side in float64."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_gpan

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch_gpan
    torch.set_default_dtype(before)


def checked(trainer, problem, path):
    """What the check of cpu_worker.py writes."""
    cpu_worker.check(trainer, problem.batches("float64"), path)
    with np.load(path) as found:
        return dict(found)


def both(torch_gpan, problem, form, tmp_path):
    """(tinygan's, PyTorch's) losses and gradients."""
    ours = gpan_tinygan.make(problem, "float64")
    ours.shake()
    expected = checked(ours, problem, tmp_path / "ours.npz")
    theirs = torch_gpan.make(problem, form, "float64")
    theirs.load(cpu_worker.stored_weights(tmp_path / "ours.npz"))
    if problem.kind == "gpan":
        theirs.choose_optimizer()
    return expected, checked(theirs, problem, tmp_path / "theirs.npz")


@pytest.mark.parametrize("problem", [VGG16, replace(VGG16, side=64), *GPANS, replace(GPANS[1], bank=1), LARGE],
                         ids=lambda problem: problem.name)
def test_every_form_computes_what_tinygan_computes(torch_gpan, problem, tmp_path):
    forms = torch_gpan.forms(problem)
    assert forms == cpu_nets.Problem(problem).torch_forms
    for form in forms if problem in (VGG16, GPANS[1]) else forms[1:2]:
        assert cpu.disagreement(*both(torch_gpan, problem, form, tmp_path)) == ""


@pytest.mark.parametrize("name, value, what", [
    ("split_loss", lambda maps: maps[0].sum() * 0, "losses"),  # a term is missing
    ("blur", lambda x: x, "losses"),
    ("SETTINGS", LossSettings(barrier=0.999), "losses"),
    ("grad_cam", lambda features, scores: features.detach()[:, 0] * 0, "losses"),  # every place counts alike
    ("D_RATE", 1e-3, "losses"),  # of the steps after the first
    ("BETAS", (0.9, 0.999), "losses"),
])
def test_a_difference_would_be_seen(torch_gpan, monkeypatch, tmp_path, name, value, what):
    monkeypatch.setattr(torch_gpan, name, value)
    problem = replace(GPANS[0], sees="both")
    assert cpu.disagreement(*both(torch_gpan, problem, "plain loop", tmp_path)).startswith(what)


def test_a_wrong_gradient_would_be_seen(torch_gpan, monkeypatch, tmp_path):
    """The right value with half its slope."""
    right = torch_gpan.substrate_loss
    monkeypatch.setattr(torch_gpan, "substrate_loss",
                        lambda *args: right(*args) * 0.5 + right(*args).detach() * 0.5)
    expected, found = both(torch_gpan, GPANS[0], "plain loop", tmp_path)
    found["losses"] = expected["losses"]  # of the first step they are the same
    assert cpu.disagreement(expected, found).startswith("gradients/G.")
    monkeypatch.undo()
    with pytest.raises(TinyganError, match="does not compute what tinygan computes"):
        np.savez(tmp_path / "wrong.npz", **found)
        cpu.require_agreement("it", tmp_path / "ours.npz", tmp_path / "wrong.npz")
