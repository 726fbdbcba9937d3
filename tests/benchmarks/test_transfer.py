"""benchmarks/transfer.py: the same images measured by several classifiers."""

import sys

import numpy as np
import pytest
from gpan_tools import TINY
from script_tools import ROOT, load_script

from tinygan.app import cli
from tinygan.models.classifiers.load import find_classifier

pytest.importorskip("h5py")
sys.path.insert(0, str(ROOT / "benchmarks"))
import transfer  # noqa: E402

from weights import train_digits  # noqa: E402

script = load_script("train_gpan")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    if find_classifier() is None:
        pytest.skip("no classifier")
    folder = tmp_path_factory.mktemp("transfer") / "run"
    assert cli.run_main(script.main, [*TINY, "--steps", "1", "--eval-every", "0", "--out", str(folder)]) == 0
    return folder


def test_classifiers_get_the_same_images(run, tmp_path, capsys):
    twin = tmp_path / "twin.h5"
    net = find_classifier()
    train_digits.save(net, twin, np.zeros((2, 28, 28), np.uint8), {})
    assert cli.run_main(transfer.main, [str(run), "--judge", str(twin), "--n", "6", "--threads", "1"]) == 0
    of_run, other = capsys.readouterr().out.splitlines()[-2:]
    assert of_run.split("top-1")[1] == other.split("top-1")[1]  # the same net gives the same numbers
    assert "the run's classifier" in of_run and "twin.h5" in other


@pytest.mark.parametrize(("words", "message"), [
    (lambda run, tmp: [str(tmp / "none")], "none"),
    (lambda run, tmp: [str(run), "--judge", str(tmp / "none.h5")], "no file"),
    (lambda run, tmp: [str(run), "--n", "0"], "at least 1"),
])
def test_bad_input_gets_one_line(run, tmp_path, capsys, words, message):
    try:
        code = cli.run_main(transfer.main, words(run, tmp_path))
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code in (1, 2) and message in err and err.count("\n") == 1 and "Traceback" not in err
