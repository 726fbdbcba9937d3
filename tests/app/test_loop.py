"""The loop around a training's steps, over a toy game: what is due when, Ctrl-C, resume, NaN, memory that runs out.

That each script's own steps behave in it is tested with the scripts.
"""

import os
import re
import signal
import threading
import warnings

import numpy as np
import pytest

from tinygan import Tensor
from tinygan.app import checkpoint
from tinygan.app.device import Device
from tinygan.app.loop import STOP_SIGNALS, Loop, Step, StopSignal, end_run, start
from tinygan.app.run import Run
from tinygan.app.runfiles import read_log
from tinygan.app.state import Game
from tinygan.errors import TinyganError, UsageError
from tinygan.models.gan.game import turn_of_d, turn_of_g
from tinygan.nn.layers import Linear, TPReLU
from tinygan.nn.module import Module

unix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
FLAGS = {"device": "cpu", "tf32": False, "threads": 1, "seed": 0, "out": None, "overwrite": False, "dry_run": False,
         "detect_anomaly": False, "steps": 6, "epochs": None, "batch_size": 8, "log_every": 2, "sample_every": 3,
         "save_every": 4, "eval_every": 4, "optimizer": "adam", "beta1": 0.5, "beta2": 0.9, "bank_updates": "lazy",
         "lr": 0.01, "d_lr": 0.01, "lr_decay": 0, "lr_warmup": 0, "ema": 0.9}


class Settings:
    """The configuration of the toy's nets, of which there is nothing to tell."""

    def to_dict(self):
        return {}


class Points(Module):
    """Noise to points on a line; the routes choose nothing."""

    def __init__(self, rng):
        self.layer, self.act = Linear(2, 1, rng=rng), TPReLU(1)

    def forward(self, z, routes):
        return self.act(self.layer(z))


class Toy(Game):
    """Points around 3 are real. `due` notes what the loop calls; at `spoil` a function is applied to the game."""

    kind, script, otherwise, samples = "toy", "toy.py", "try a smaller toy", (10, 20, 5)

    def __init__(self, flags, run=None, device=None):
        init, noise = (np.random.default_rng([flags["seed"], purpose]) for purpose in range(2))
        super().__init__(Settings(), flags, device or Device("cpu", np, ""), Points(init), Linear(1, 1, rng=init))
        self.streams, self.due, self.spoil, self.room = {"noise": noise}, [], {}, 1_000

    def real(self):
        return Tensor(np.float32(3) + self.streams["noise"].standard_normal((self.flags["batch_size"], 1),
                                                                            dtype=np.float32))

    def draw(self, n):
        if n > self.room:
            raise MemoryError("no room")
        return Tensor(self.streams["noise"].standard_normal((n, 2), dtype=np.float32)), np.zeros((n, 0), int)

    def rehearse(self, n):
        before = self.streams["noise"].bit_generator.state
        self.draw(n)
        self.streams["noise"].bit_generator.state = before

    def draw_samples(self, run):
        self.due.append(("picture", self.step))

    def measure(self, n):
        self.due.append(("measure", self.step, n))
        return {"confidence": 0.5}

    def status_lines(self, rows, measured=None):
        self.due.append(("lines", self.step))
        return ["lines of the game"]

    def draw_final(self, run):
        self.due.append(("last", self.step))

    def extra(self):
        return {}, {"noise": self.streams["noise"].bit_generator.state}

    def set_extra(self, arrays, header):
        self.streams["noise"].bit_generator.state = header["noise"]


def train(game, run):
    with Loop(game, run) as steps:
        for step in steps:
            game.spoil.get(game.step, lambda: None)()
            n, real = game.flags["batch_size"], game.real()

            def check(loss, step=step, real=real):
                step.check(loss, inputs=[("the real points", real)])

            d_loss, _, _ = turn_of_d(game.G, game.D, game.d_optimizer, real, game.draw(n), check=check)
            g_loss = turn_of_g(game.G, game.D, game.g_optimizer, game.draw(n), check=check)
            game.update_average()
            step.show(d_loss=d_loss.item())
            step.record(d_loss=d_loss.item(), g_loss=g_loss.item())
    return end_run(steps)


@pytest.fixture
def play(tmp_path, monkeypatch):
    """play(out, flag=value, spoil={step: function of the game}) trains and returns (exit code, game)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Run, "finish", lambda run: ["a note"])

    def call(out, spoil=None, resume=False, **flags):
        flags, games = {**FLAGS, "out": tmp_path / out, **flags}, []

        def build(flags, run, device):
            games.append(Toy(flags))
            games[0].spoil = {at: lambda f=f: f(games[0]) for at, f in (spoil or {}).items()}
            return games[0]

        run = Run.resume(tmp_path / out, flags, typed=["steps"]) if resume else None
        code = start(flags if run is None else {**run.flags, "resume": out}, run, name="toy", build=build, train=train)
        return code, games[0]

    return call


def saved(folder):
    return (folder / "checkpoint.npz").read_bytes()


def test_what_is_due_when(play, tmp_path, capsys):
    """A picture at 0, 3 and the last step, lines after each, measurements at 4 and the last, rows at all of these."""
    code, game = play("run")
    assert code == 0
    assert game.due == [("picture", 0), ("picture", 3), ("lines", 3), ("measure", 4, 10), ("picture", 6), ("last", 6),
                        ("measure", 6, 20), ("lines", 6)]
    rows = read_log(tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 3, 4, 6]
    assert [row.get("confidence") for row in rows] == [None, None, 0.5, 0.5]
    out, err = capsys.readouterr()
    assert "note: a note" in out and "run/report.html shows it all" in out
    assert "lines of the game" in out and "lines of the game" in err


def test_numbers_are_read_on_a_gpu_only_when_they_are_shown(tmp_path):
    game = Toy(FLAGS, device=Device("gpu", np, ""))
    steps = [Step(game, None) for game.step in range(6)]
    assert [step.number for step in steps if step.read] == [2, 3, 4, 6]
    steps[0].check(None)  # does not even touch the loss
    game = Toy(FLAGS)
    assert all(Step(game, None).read for game.step in range(6))


def test_the_learning_rates_follow_the_schedule():
    game = Toy({**FLAGS, "lr": 1.0, "d_lr": 0.5, "lr_warmup": 4, "lr_decay": 10})
    for game.step, expected in ((0, 0.1), (2, 0.55 * 0.8), (4, 0.6), (5, 0.5), (10, 0.02), (50, 0.02)):
        game.set_learning_rate()
        assert (game.g_optimizer.lr, game.d_optimizer.lr) == pytest.approx((expected, expected / 2))


@pytest.mark.parametrize("first", [1, 4, 5])
def test_a_resumed_run_is_the_run_that_was_never_stopped(play, tmp_path, first):
    assert play("whole")[0] == 0
    assert play("part", steps=first)[0] == 0
    assert saved(tmp_path / "part") != saved(tmp_path / "whole")
    assert play("part", resume=True)[0] == 0
    assert saved(tmp_path / "part") == saved(tmp_path / "whole")
    assert [row["step"] for row in read_log(tmp_path / "part")] == sorted({2, 3, 4, 6} | {first})


def test_a_run_that_is_further_than_steps_is_refused(play, tmp_path):
    assert play("run")[0] == 0
    before = saved(tmp_path / "run")
    with pytest.raises(UsageError, match="at step 6 already, and --steps 5 is less"):
        play("run", resume=True, steps=5)
    assert saved(tmp_path / "run") == before


@pytest.mark.parametrize("change, words", [
    (lambda header: header.pop("noise"), "lacks or garbles 'noise': it is not one of toy.py"),
    (lambda header: header.update(step=-1), "lacks or garbles step"),
    (lambda header: header.update(config={"size": 3}), "other settings of the nets")])
def test_the_checkpoint_of_another_game_is_refused(play, tmp_path, change, words):
    game = play("run")[1]
    arrays, header = checkpoint.load(tmp_path / "run")
    change(header)
    with pytest.raises(TinyganError, match=words):
        game.restore(arrays, header)
    for name in ("generator/layer.weight", "average/layer.bias"):
        arrays, header = checkpoint.load(tmp_path / "run")
        array = arrays.pop(name)
        with pytest.raises(TinyganError, match=f"lacks entry '{name}'"):
            game.restore(arrays, header)
        with pytest.raises(TinyganError, match="has shape"):
            game.restore({**arrays, name: array[None]}, header)


# ---- stopping ----------------------------------------------------------------------------------------------------


@unix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_run_after_its_step_and_saves(play, tmp_path, capsys, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    assert play("run", {3: lambda game: signal.raise_signal(number)})[0] == 130
    assert checkpoint.load(tmp_path / "run")[1]["step"] == 4 and signal.getsignal(number) == before
    assert f"stopped at step 4; saved. Go on with: python toy.py --resume {tmp_path / 'run'}" in capsys.readouterr().out
    assert play("whole")[0] == play("run", resume=True)[0] == 0
    assert saved(tmp_path / "run") == saved(tmp_path / "whole")


@unix
def test_a_second_ctrl_c_breaks_in_and_leaves_everything_as_it_was(play, tmp_path):
    before = signal.getsignal(signal.SIGINT), list(warnings.filters)

    def twice(game):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        play("run", {5: twice})
    assert checkpoint.load(tmp_path / "run")[1]["step"] == 4  # the save before
    assert (signal.getsignal(signal.SIGINT), list(warnings.filters)) == before


@pytest.fixture(autouse=True)
def as_they_were():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@unix
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_asks_to_stop_and_has_its_meaning_back_afterwards(number):
    number = getattr(signal, number)
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert signal.getsignal(number) == before


@unix
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_was_ignored_stays_ignored(number):
    number = getattr(signal, number)
    signal.signal(number, signal.SIG_IGN)
    with StopSignal() as stop:
        signal.raise_signal(number)
        assert not stop.requested
    assert signal.getsignal(number) == signal.SIG_IGN


@unix
def test_only_another_ctrl_c_breaks_in():
    with StopSignal() as stop:
        for number in ("SIGHUP", "SIGHUP", "SIGTERM", "SIGTERM"):  # a lost terminal often sends two
            signal.raise_signal(getattr(signal, number))
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_in_another_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with StopSignal() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


# ---- NaN and memory ----------------------------------------------------------------------------------------------


def poison_weight(game):
    game.D.weight.data[0, 0] = np.nan


def poison_data(game):
    game.real = lambda: Tensor(np.full((8, 1), np.inf, np.float32))


def poison_gradient(game):
    step = game.g_optimizer.step

    def bad_step():
        game.G.layer.bias.grad.data[...] = np.nan
        step()

    game.g_optimizer.step = bad_step


@pytest.mark.parametrize("poison, tensor, reported", [
    (poison_data, "the real points", 6), (poison_weight, "discriminator.weight", 6),
    (poison_gradient, "generator.layer.bias", 6)])
def test_nan_names_the_tensor_and_keeps_the_checkpoint(play, tmp_path, poison, tensor, reported):
    at = 4 if poison is poison_gradient else 5  # it is noticed in the step after
    with pytest.raises(TinyganError, match=f"step {reported}: {tensor} is not finite; the checkpoint .* from before"):
        play("run", {at: poison})
    assert checkpoint.load(tmp_path / "run")[1]["step"] == 4
    with pytest.raises(TinyganError, match=r"is not finite; nothing was saved\. Try a lower --lr"):
        play("early", {0: poison})
    assert not (tmp_path / "early/checkpoint.npz").exists()


def test_a_state_with_nan_is_never_saved(play, tmp_path):
    with pytest.raises(TinyganError, match="step 6: generator.layer.bias is not finite; this state was not saved"):
        play("run", {5: poison_gradient})
    assert checkpoint.load(tmp_path / "run")[1]["step"] == 4
    with pytest.raises(TinyganError, match="step 1: generator.layer.bias is not finite; this state was not saved"):
        play("saving", {0: poison_gradient}, save_every=1, log_every=1, sample_every=1)
    assert not list((tmp_path / "saving").glob("checkpoint.npz*"))


def test_detect_anomaly_names_the_operation(play):
    with pytest.raises(TinyganError, match=r"gave not finite in \d+ of \d+ values at .*\.py:\d+"):
        play("run", {1: poison_weight}, detect_anomaly=True)


@pytest.mark.parametrize("room, least, multiple, advice", [
    (4, 1, 1, "try --batch-size 4, which fits"), (5, 1, 1, "try --batch-size 4, which fits"),
    (7, 3, 3, "try --batch-size 3, which fits"), (0, 1, 1, "not even one image fits: try a smaller toy"),
    (1, 2, 2, "not even 2 images fit: try a smaller toy"), (8, 1, 1, "it fits now, so something else took the memory")])
def test_out_of_memory_names_a_batch_size_that_fits(play, tmp_path, room, least, multiple, advice):
    def shrink(game):
        game.room, game.least, game.multiple = room, least, multiple
        if room == 8:
            raise MemoryError("for a while.")

    problem = "for a while" if room == 8 else "no room"
    words = f"step 6: out of memory at --batch-size 8 (MemoryError: {problem}); {advice}"
    with pytest.raises(TinyganError, match=re.escape(words) + ".*; the checkpoint in .* is from before"):
        play("run", {5: shrink})
    with pytest.raises(TinyganError, match="nothing was saved yet"):
        play("early", {0: shrink})


def test_other_errors_are_not_taken_for_memory(play):
    def fail(game):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        play("run", {1: fail})
