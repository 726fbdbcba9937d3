"""train_mnist.py and sample.py on the GPU's path: over the stand-in here, in test_gpu.py on a real GPU."""

from __future__ import annotations

import csv
import gc
import operator
import re

import numpy as np
import pytest
from game import grown, play
from script_tools import TINY, load_script, over, write_mnist, write_photos

from tinygan.app import cli
from tinygan.app.device import Device, pick_device
from tinygan.app.draw import generate
from tinygan.app.feeds import FedPhotos
from tinygan.errors import TinyganError
from tinygan.kernels.gpu import launch
from tinygan.models.gan.nets import GANConfig
from tinygan.nn.optim import RMSprop

pytestmark = pytest.mark.kernels
script = load_script("train_mnist")
SAME = [*"--optimizer rmsprop --lr 1e-3 --lr-decay 0 --ema 0.9 --init-factor 1 --init-scale 1".split(),
        *"--noise counter --seed 3".split()]  # what the two devices' presets would choose differently


@pytest.fixture
def train(xp, tmp_path, monkeypatch):
    """train("--flag", ...) runs the script on the GPU (the stand-in, or a real one) and returns its exit code."""
    digits = write_mnist(tmp_path / "mnist")
    monkeypatch.setattr(script, "find_classifier", lambda say=print: None)
    monkeypatch.setattr(script.Run, "finish", lambda run: [])
    monkeypatch.chdir(tmp_path)
    tiny = [word if word != "cpu" else "gpu" for word in TINY]
    if "stand-in" in str(xp.cuda.runtime.getDeviceProperties(0)["name"]):  # it records no graphs
        tiny += ["--cuda-graph", "no"]

    def run(*words):
        first = [] if "--resume" in words else [*tiny, "--data-dir", str(digits), "--eval-every", "0"]
        return cli.run_main(script.main, over(first, words))

    yield run
    launch.set_tf32(False)


def numbers(folder):
    with open(folder / "log.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize("model", ["sgan", "gan", "tied"])
def test_twenty_steps_on_either_device_are_the_same_training(train, tmp_path, model, capsys):
    words = ["--model", model, "--steps", 20, "--log-every", 1, *SAME] + (["--bank", 1] if model == "gan" else [])
    for device in ("gpu", "cpu"):
        assert train(*words, "--device", device, "--out", tmp_path / device) == 0
    rows = [numbers(tmp_path / device) for device in ("gpu", "cpu")]
    assert len(rows[0]) == len(rows[1]) == 20
    worst = max(abs(a[name] - b[name]) / (abs(b[name]) + 0.01)
                for a, b in zip(*rows, strict=True) for name in ("d_loss", "g_loss", "d_real", "d_fake"))
    assert worst < 1e-3
    with capsys.disabled():
        print(f"\n{model}: 20 steps on both devices, losses apart by at most {worst:.1e}")


def test_the_device_is_named_with_its_precision(train, tmp_path, capsys):
    assert train("--steps", 1, "--out", "plain") == 0
    assert train("--steps", 1, "--tf32", "--out", "fast") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("device:")]
    assert re.fullmatch(r"device: gpu 0, .+, CuPy [\d.]+, float32, TF32 off", lines[0])
    assert lines[1] == lines[0].replace("off", "on") and launch.get_tf32()


@pytest.mark.parametrize("words", [
    "--model gan --bank 1", "--model tied --routes batch", "--bank 2,1,3,1", "--routes group:3", "--size 64",
    "--size 28",
    "--optimizer adam --bank-updates dense", "--loss saturating", "--bce clamped", "--norm affine", "--norm none",
    "--act prelu", "--act prelu --norm none", "--clamp forward", "--clamp none", "--bank-affine --norm affine",
    "--bank-affine --norm none", "--bank-act", "--d-input 01", "--output tanh", "--ema 0.9", "--lr-warmup 3",
    "--detect-anomaly", "--d-steps 3", "--pack 2 --d-base-channels 3", "--one-hot 3,2 --noise host", "--freeze-banks",
    "--stacked --pack 2", "--stacked --size 64"])
def test_every_net_and_loss_runs_on_either_device_alike(train, tmp_path, words):
    """Three steps with each option that decides what is computed."""
    for device in ("gpu", "cpu"):
        assert train(*over(SAME, words.split()), "--steps", 3, "--log-every", 1, "--device", device,
                     "--out", tmp_path / device) == 0
    for on_gpu, on_cpu in zip(numbers(tmp_path / "gpu"), numbers(tmp_path / "cpu"), strict=True):
        assert on_gpu["d_loss"] == pytest.approx(on_cpu["d_loss"], rel=1e-3)
        assert on_gpu["g_loss"] == pytest.approx(on_cpu["g_loss"], rel=1e-3)


def test_tf32_means_nothing_to_a_processor(train, capsys):
    assert train("--steps", 1, "--tf32", "--device", "cpu") == 0
    assert "--tf32 is for GPUs: ignored" in capsys.readouterr().out and not launch.get_tf32()


@pytest.mark.parametrize("options", [
    [], ["--optimizer", "adam", "--noise", "counter"], ["--model", "tied"],
    "--d-steps 2 --pack 2 --one-hot 3 --noise host --freeze-banks".split()])
def test_a_resumed_run_has_the_bytes_of_one_that_was_never_stopped(train, tmp_path, options):
    def saved(folder):
        return (tmp_path / folder / "checkpoint.npz").read_bytes()

    assert train(*options, "--steps", 6, "--out", "whole") == 0
    assert train(*options, "--steps", 4, "--out", "part") == 0
    assert saved("part") != saved("whole")
    assert train("--resume", tmp_path / "part", "--steps", 6) == 0
    assert saved("part") == saved("whole")


def test_a_gpus_checkpoint_goes_on_and_draws_on_a_processor(train, tmp_path, capsys):
    sample = load_script("sample")
    assert train("--steps", 2, "--out", "run") == 0
    for device in ("cpu", "gpu"):
        out = tmp_path / f"{device}.png"
        assert cli.run_main(sample.main, ["--checkpoint", "run", "--grid", "2x2", "--device", device, "--seed", "1",
                                          "--out", str(out)]) == 0
    from tinygan.app.pictures import read_png

    assert np.abs(read_png(tmp_path / "cpu.png").astype(int) - read_png(tmp_path / "gpu.png")).max() <= 1
    assert train("--resume", tmp_path / "run", "--steps", 3, "--device", "cpu") == 0


def test_nothing_is_read_from_the_device_between_log_rows(train, standin, monkeypatch):
    """Steps 1 to 3 of four, with a log row at step 4: not one wait, and every launch of a step is the same."""
    waits = []
    set_rate = script.MnistGame.set_learning_rate

    def note(training):
        waits.append((standin.count["syncs"], standin.count["launches"]))
        set_rate(training)

    monkeypatch.setattr(script.MnistGame, "set_learning_rate", note)
    assert train("--steps", 5, "--log-every", 4, "--sample-every", 4, "--save-every", 100, "--bank", 1,
                 "--model", "gan", "--out", "run") == 0
    syncs = [after[0] - before[0] for before, after in zip(waits, waits[1:], strict=False)]
    launches = [after[1] - before[1] for before, after in zip(waits, waits[1:], strict=False)]
    assert syncs[:3] == [0, 0, 0] and syncs[3] > 0
    assert launches[1] == launches[2]


def test_running_out_of_memory_names_a_batch_that_fits(train, standin, monkeypatch, capsys):
    words = ["--steps", 4, "--base-channels", 4, "--save-every", 1]
    pool, peak = standin.module.get_default_memory_pool(), {}
    for batch in (64, 128):
        gc.collect()
        pool.free_all_blocks()
        assert train(*words, "--batch-size", batch, "--out", f"free-{batch}") == 0
        peak[batch] = pool.total_bytes()
    monkeypatch.setattr(standin, "memory_limit", (peak[64] + peak[128]) // 2)  # what some 96 images need
    assert train(*words, "--batch-size", 256, "--out", "full") == 1
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert "step 1: out of memory at --batch-size 256" in line and "nothing was saved yet" in line
    fits = int(re.search(r"try --batch-size (\d+), which fits", line)[1])
    assert fits == 64  # the failed step must not be counted, nor less than a step be tried
    assert train(*words, "--batch-size", fits, "--out", "smaller") == 0


OUTSIDE = {  # what fails where memory is wanted beside the pool's, how CuPy says so, and the advice
    "a kernel's code": ("RawFunction.__call__", "CUDADriverError", "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
                        "try --batch-size 4, which fits"),
    "cuBLAS' workspace": ("_cublas.gemmEx", "CUBLASError", "CUBLAS_STATUS_ALLOC_FAILED",
                          "try --batch-size 4, which fits"),
    "a pinned buffer": ("_count_upload", "CUDARuntimeError", "cudaErrorMemoryAllocation: out of memory",
                        "try --batch-size 4, which fits"),
}


@pytest.mark.parametrize("where, kind, words, advice", OUTSIDE.values(), ids=OUTSIDE)
def test_memory_that_runs_out_beside_the_pool_ends_in_the_same_line(train, standin, monkeypatch, capsys, where, kind,
                                                                     words, advice):
    """Each fails as soon as arrays hold more than `room`, in a step."""
    real, room, held = operator.attrgetter(where)(standin), [np.inf], [0]

    def full(*args, **kwargs):
        held[0] = max(held[0], standin.live_bytes())
        if standin.live_bytes() > room[0]:
            raise type(kind, (RuntimeError,), {})(words)
        return real(*args, **kwargs)

    place, _, name = where.rpartition(".")
    monkeypatch.setattr(getattr(standin, place, standin), name, full)
    monkeypatch.setattr(script.MnistGame, "draw_samples", lambda *args: None)
    monkeypatch.setattr(script, "end_run", lambda *args: 0)
    for batch in (4, 8):
        gc.collect()
        assert train("--steps", 1, "--batch-size", batch, "--out", f"free-{batch}") == 0
        room.append(held[0])
        held[0] = 0
    gc.collect()
    # Between the two, and nearer to the larger: the trial after a failed step holds somewhat more than a step.
    room[0] = room[1] + 0.75 * (room[2] - room[1])
    capsys.readouterr()
    assert train("--steps", 1, "--batch-size", 8, "--out", "full") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: step 1: out of memory at --batch-size 8 ({kind}: {words}); {advice}")


def test_a_steps_graph_is_gone_before_the_next_is_built(train, standin, monkeypatch):
    """Else every step but the first needs nearly twice the memory."""
    held, set_rate = [], script.MnistGame.set_learning_rate

    def note(training):
        held.append(standin.live_bytes())
        set_rate(training)

    monkeypatch.setattr(script.MnistGame, "set_learning_rate", note)
    launch.gemm(*standin.module.ones((3, 1, 1), np.float32))  # so that cuBLAS' workspace lives from the start
    assert train("--steps", 5, "--batch-size", 64, "--log-every", 1, "--out", "run") == 0
    # Between steps live the nets, what the optimisers keep, gradients, and the images and losses of one step.
    assert max(held[2:]) - held[0] < 64 * 32 * 32 * 4 * 4


def test_a_net_that_never_fits_is_said_to_be_too_large(train, standin, monkeypatch, capsys):
    draw = script.MnistGame.draw

    def tighten(self, turn):
        if self.step == 1:
            standin.leave_room(0)
        return draw(self, turn)

    monkeypatch.setattr(script.MnistGame, "draw", tighten)
    assert train("--steps", 3, "--save-every", 1, "--out", "run") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "step 2: " in line and "not even one image fits: try smaller nets" in line and "from before" in line


def test_pictures_are_drawn_in_smaller_batches_where_memory_is_short(standin):
    config = GANConfig(base_channels=4, latent_dim=8, bank=2)
    g = grown(config, standin.module.asarray)[0]
    device = Device("gpu", standin.module, "")
    rng = np.random.default_rng(0)
    z, routes = g.draw_noise(rng, 40), g.draw_routes(rng, 40)
    whole = generate(g, z, routes, device)
    standin.leave_room(40 * 4 * 1024)
    np.testing.assert_allclose(generate(g, z, routes, device), whole, atol=1e-6)
    standin.leave_room(0)
    with pytest.raises(MemoryError):
        generate(g, z, routes, device)


def test_asking_for_a_gpu_that_is_not_there_fails_in_one_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(TinyganError, match="no GPU to use: CuPy is not installed"):
        pick_device("gpu")
    assert "no GPU: CuPy is not installed" in pick_device("auto").line


# ---- photos --------------------------------------------------------------------------------------------------------


@pytest.fixture
def train_photos(xp, train, tmp_path, monkeypatch):
    """As `train`, of train_photos.py on made-up photos."""
    photos, of_photos = write_photos(tmp_path / "photos"), load_script("train_photos")
    monkeypatch.setattr(of_photos.Run, "finish", lambda run: [])
    monkeypatch.setattr(of_photos.PhotoGame, "samples", (10, 10, 10))
    on_stand_in = "stand-in" in str(xp.cuda.runtime.getDeviceProperties(0)["name"])
    first = [word if word != "cpu" else "gpu" for word in TINY] + ["--cuda-graph", "no"] * on_stand_in
    first += ["--photos", str(photos), "--size", "32", "--eval-every", "0"]
    return lambda *words: cli.run_main(of_photos.main, over([] if "--resume" in words else first, words))


def test_photos_train_alike_on_either_device_and_go_on(train_photos, tmp_path):
    for device in ("gpu", "cpu"):
        assert train_photos(*SAME, "--steps", 12, "--log-every", 1, "--device", device,
                            "--out", tmp_path / device) == 0
    rows = [numbers(tmp_path / device) for device in ("gpu", "cpu")]
    assert len(rows[0]) == len(rows[1]) == 12
    assert max(abs(a[name] - b[name]) / (abs(b[name]) + 0.01)
               for a, b in zip(*rows, strict=True) for name in ("d_loss", "g_loss", "d_real", "d_fake")) < 1e-3
    assert train_photos(*SAME, "--steps", 5, "--out", tmp_path / "part") == 0
    assert train_photos("--resume", tmp_path / "part", "--steps", 12) == 0
    assert (tmp_path / "part/checkpoint.npz").read_bytes() == (tmp_path / "gpu/checkpoint.npz").read_bytes()


@pytest.mark.parametrize("side, channels", [(32, 3), (64, 3), (8, 1)])
def test_a_batch_of_photos_is_made_on_the_device_to_the_bit(xp, side, channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, channels, side, side)).astype(np.uint8)
    indices, mirrored = np.array([8, 0, 3, 3]), np.array([True, False, True, False])
    expected = np.divide(images[indices], np.float32(255), dtype=np.float32)
    expected[mirrored] = expected[mirrored, ..., ::-1]
    batch = FedPhotos(xp, images).batch(4, lambda: (indices, mirrored))
    np.testing.assert_array_equal(batch.numpy(), expected)


def test_optimisers_keep_what_they_update_in_one_buffer(xp):
    config = GANConfig(base_channels=4, latent_dim=8, bank=3)
    g, d, optimizer, _, _ = grown(config, xp.asarray, RMSprop)
    for arrays in ([p.data for p in g.parameters()], [s["square"] for s in optimizer.state.values()]):
        assert len({a.data.mem.ptr for a in arrays}) == 1
        starts = [a.data.ptr - a.data.mem.ptr for a in arrays]
        assert starts == sorted(starts) and all(start % 256 == 0 for start in starts)
    before = g.state_dict()
    play((g, d, optimizer, *grown(config, xp.asarray)[3:]), 1, xp.asarray)
    assert all((before[name] != array).any() for name, array in g.state_dict().items())
