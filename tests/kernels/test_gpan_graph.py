"""train_gpan.py's step as CUDA graphs: the same checkpoint and log as without them.

On a GPU, or on the real CuPy without one (tests/cpucupy).
"""

from __future__ import annotations

import os

import pytest
from gpan_tools import TINY
from script_tools import load_script, over

from tinygan.app import cli
from tinygan.kernels.gpu.graph import RecordedStep

pytestmark = pytest.mark.gpu
script = load_script("train_gpan")
ON_GPU = over(TINY, ["--device", "gpu", "--save-every", "100", "--eval-every", "0", "--log-every", "5",
                     "--sample-every", "1000", "--ema", "0.9"])
SETTINGS = {  # steps, flags, graphs at least
    "one set": (20, "", 1),
    "every step with views, or not": (24, "--view-plain 0.5 --wanted 3 --wanted 5,8 --view-blur 0.8", 3),
    "parts": (16, "--accumulate 2 --batch-size 4 --view-blur 1 --optimizer rmsprop --cam binary --critic-sees edges",
              1),
    "whole images too, no noise": (12, "--whole yes --view-noise 0 --view-blur 0 --bank 1 --class-loss hinge", 1),
}


@pytest.fixture
def train(gpu, tmp_path, monkeypatch):
    """train(folder, *flags) runs the script and returns (checkpoint, log, recorded steps made)."""
    made = []

    class Noted(RecordedStep):
        """A recorded step that is kept for the test."""

        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr("tinygan.app.state.RecordedStep", Noted)
    monkeypatch.setattr(script, "end_run", lambda steps: 0)
    monkeypatch.setattr(script.GPANGame, "draw_samples", lambda *args: None)

    def run(folder, *words, resume=False):
        made.clear()
        place = str(tmp_path / folder)
        first = ["--resume", place] if resume else [*ON_GPU, "--out", place]
        assert cli.run_main(script.main, over(first, words)) == 0
        files = [(tmp_path / folder / name).read_bytes() for name in ("checkpoint.npz", "log.csv")]
        return *files, list(made)

    yield run


@pytest.mark.parametrize("name", SETTINGS)
def test_graphs_leave_the_checkpoint_as_it_is(train, capsys, name):
    steps, words, least = SETTINGS[name]
    *eager, none = train("eager", *words.split(), "--steps", steps, "--cuda-graph", "no")
    *graphs, (step,) = train("graphs", *words.split(), "--steps", steps)
    assert graphs[0] == eager[0], "the checkpoints differ"
    assert without_times(graphs[1]) == without_times(eager[1]) and not none
    assert len(step.graphs) >= least and step.replays >= 2 * least
    assert "note: the step" not in capsys.readouterr().out


def without_times(log):
    """The rows of a log without the columns of seconds."""
    header, *rows = (line.split(",") for line in log.decode().splitlines())
    return [[value for name, value in zip(header, row, strict=True) if "second" not in name and "time" not in name]
            for row in rows]


def test_a_run_that_was_stopped_goes_on_with_the_same_bytes(train):
    words = "--view-blur", 1
    whole, _, (step,) = train("whole", *words, "--steps", 14)
    assert step.replays
    train("part", *words, "--steps", 6)
    resumed, _, (step,) = train("part", "--steps", 14, resume=True)
    assert resumed == whole and step.replays


def test_a_replay_is_one_copy_and_one_launch_and_waits_for_nothing(train, monkeypatch):
    if os.environ.get("TINYGAN_CUPY") != "cpu":
        pytest.skip("a GPU does not count; its device without one does")
    import cpucupy

    counts, take_step = [], script.take_step

    def counted(*args):
        cpucupy.reset()
        numbers = take_step(*args)
        counts.append(cpucupy.count())
        return numbers

    monkeypatch.setattr(script, "take_step", counted)
    train("run", "--steps", 9, "--log-every", 100, "--view-blur", 1)
    replayed = [c for c in counts if c["graph_launches"]][1:-1]  # the first is the recording, the last is logged
    assert len(replayed) >= 4
    for c in replayed:
        assert (c["graph_launches"], c["up"], c["launches"], c["gemms"], c["down"]) == (1, 1, 0, 0, 0)
