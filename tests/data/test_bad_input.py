"""Whatever a user types or hands over: one line that says what is wrong, the right exit code, and nothing lost.

Each case of the table runs through the script's own entry. It starts from a good run and a good data set, both of
which must be the same, byte for byte, afterwards. What the readers of single files refuse has longer tables of its
own (test_data.py, test_checkpoint.py, test_cli.py).
"""

import gzip
import io
import json
import os
import shutil
import struct
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from script_tools import COUNT, TINY, contents, idx_images, idx_labels, load_script, over, start_script, write_mnist

from tinygan.app import checkpoint, cli
from tinygan.app.device import find_gpu

trainer, sampler = load_script("train_mnist"), load_script("sample")
USAGE, FAILED = 2, 1
IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@dataclass
class Place:
    """Where a case happens: a good run and good data, copies of both to spoil, and the folder of it all."""

    root: Path
    run: Path
    data: Path

    def copy_of_run(self, *, without=()) -> Path:
        copy = Path(shutil.copytree(self.run, self.root / "copy"))
        for name in without:
            (copy / name).unlink()
        return copy

    def run_with_file(self, change) -> Path:
        """A copy of the run with the bytes of its checkpoint changed."""
        path = self.copy_of_run() / checkpoint.FILE_NAME
        path.write_bytes(change(path.read_bytes()))
        return path.parent

    def run_with_state(self, change) -> Path:
        """A copy of the run whose checkpoint is whole but says something else: change(arrays, meta)."""
        copy = self.copy_of_run()
        arrays, meta = checkpoint.load(copy)
        change(arrays, meta)
        checkpoint.save(copy / checkpoint.FILE_NAME, arrays, meta)
        return copy

    def run_with_config(self, text=None, **flags) -> Path:
        copy = self.copy_of_run()
        config = json.loads((copy / "config.json").read_text())
        config["flags"] |= flags
        (copy / "config.json").write_text(json.dumps(config) if text is None else text)
        return copy

    def data_with(self, name, content: bytes) -> Path:
        copy = Path(shutil.copytree(self.data, self.root / "bad-data"))
        (copy / name).write_bytes(content)
        return copy

    def folder(self, name="folder", **files) -> Path:
        folder = self.root / name
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)
        return folder

    def unwritable(self) -> Path:
        if sys.platform.startswith("linux") and os.geteuid() == 0:
            return Path("/proc/tinygan-cannot-be-made")  # the superuser may write anywhere else
        folder = self.folder("locked")
        folder.chmod(0o555)
        return folder / "run"


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def numpy_file(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def objects() -> bytes:
    """An npz whose array would need code to be run when it is loaded."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, meta=np.array(1))
    name = "a.npy"
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\x80\x04N.")
    return file.getvalue()


def pop(*names):
    return lambda arrays, meta: [arrays.pop(name) for name in names]


def put(**values):
    return lambda arrays, meta: meta.update(values)


def reshape(name):
    def change(arrays, meta):
        arrays[name] = arrays[name][:-1]
    return change


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


WEB_PAGE = b"<!DOCTYPE html><html><body>403 Forbidden</body></html>"
BLACK = np.zeros((COUNT, 28, 28), np.uint8)


def flags(*words):
    """A command line that is wrong by itself."""
    return lambda place: list(words)


def checked(words):
    return lambda change: lambda place: [*words, str(change(place))]


resume, sample, data_dir, out = (checked(words) for words in (
    ["--steps", "9", "--resume"], ["--checkpoint"], ["--data-dir"], ["--out"]))

# (case, command line, exit code, words that the line must have)
TRAIN = [
    ("mistyped flag", flags("--batchsize", "4"), USAGE, "did you mean --batch-size"),
    ("mistyped flag with =", flags("--setps=5"), USAGE, "did you mean --steps"),
    ("flag of another program", flags("--quux"), USAGE, "unknown flag --quux"),
    ("abbreviated flag", flags("--mod", "gan"), USAGE, "unknown flag --mod"),
    ("a word without a flag", flags("mnist"), USAGE, "unexpected argument 'mnist'"),
    ("flag without its value", flags("--steps"), USAGE, "--steps"),
    ("negative lr", flags("--lr", "-1"), USAGE, "above 0"),
    ("zero lr", flags("--lr", "0"), USAGE, "above 0"),
    ("lr is nan", flags("--lr", "nan"), USAGE, "above 0"),
    ("lr is a word", flags("--lr", "fast"), USAGE, "'fast'"),
    ("infinite d-lr", flags("--d-lr", "inf"), USAGE, "above 0"),
    ("lr that underflows", flags("--lr", "1e-999"), USAGE, "above 0"),
    ("zero steps", flags("--steps", "0"), USAGE, "at least 1"),
    ("negative steps", flags("--steps", "-5"), USAGE, "at least 1"),
    ("half a step", flags("--steps", "1.5"), USAGE, "whole number"),
    ("a number of steps of 40 digits", flags("--steps", "9" * 40), USAGE, "whole number"),
    ("zero epochs", flags("--epochs", "0"), USAGE, "at least 1"),
    ("steps and epochs", flags("--steps", "5", "--epochs", "2"), USAGE, "not both"),
    ("zero batch", flags("--batch-size", "0"), USAGE, "at least 1"),
    ("absurd batch", flags("--batch-size", "9" * 18), USAGE, "the most that makes sense"),
    ("absurd width", flags("--base-channels", "9" * 18), USAGE, "the most that makes sense"),
    ("absurd noise", flags("--latent-dim", "9" * 18), USAGE, "the most that makes sense"),
    ("zero width", flags("--base-channels", "0"), USAGE, "at least 1"),
    ("zero noise", flags("--nz", "0"), USAGE, "at least 1"),
    ("far too many filter sets", flags("--bank", "999999"), USAGE, "from 1 to 1,024"),
    ("bank-affine with strict", flags("--bank-affine"), USAGE, "norm affine"),
    ("Adam's flag without Adam", flags("--optimizer", "rmsprop", "--beta1", "0.9"), USAGE, "--optimizer adam"),
    ("bank of another length", flags("--bank", "2,2"), USAGE, "give one whole number from 1 to 1,024, or 4"),
    ("bank for another size", flags("--bank", "2,2,2,1", "--size", "64"), USAGE, "or 5 of them"),
    ("empty bank", flags("--bank", "0"), USAGE, "16,16,16,1"),
    ("bank with a hole", flags("--bank", "2,,2,1"), USAGE, "16,16,16,1"),
    ("bank with --model gan", flags("--model", "gan", "--bank", "4"), USAGE, "no filter banks"),
    ("tied banks of two sizes", flags("--model", "tied", "--bank", "2,3,2,1"), USAGE, "of one size"),
    ("unknown model", flags("--model", "wgan"), USAGE, "invalid choice: 'wgan'"),
    ("unknown routes", flags("--routes", "each"), USAGE, "group:SIZE"),
    ("empty group", flags("--routes", "group:0"), USAGE, "group:SIZE"),
    ("size between", flags("--size", "48"), USAGE, "48"),
    ("negative seed", flags("--seed", "-1"), USAGE, "at least 0"),
    ("unknown optimiser", flags("--optimizer", "sgd"), USAGE, "'sgd'"),
    ("beta above 1", flags("--beta1", "1.5"), USAGE, "from 0 to 1"),
    ("beta of 1", flags("--beta2", "1"), USAGE, "below 1"),
    ("average of 1", flags("--ema", "1"), USAGE, "below 1"),
    ("negative slope", flags("--slope", "-0.1"), USAGE, "from 0 to 1"),
    ("no projection", flags("--init-factor", "0"), USAGE, "above 0"),
    ("no threads", flags("--threads", "0"), USAGE, "at least 1"),
    ("log never", flags("--log-every", "0"), USAGE, "at least 1"),
    ("save never", flags("--save-every", "0"), USAGE, "at least 1"),
    ("unknown device", flags("--device", "tpu"), USAGE, "auto, cpu, gpu"),
    ("gpu without CuPy", flags("--device", "gpu"), FAILED, "CuPy is not installed"),
    ("gpu of a number without CuPy", flags("--device", "cuda:1"), FAILED, "CuPy is not installed"),
    # places
    ("out is a run", out(lambda p: p.run), USAGE, "--overwrite"),
    ("out is somebody's folder", out(lambda p: p.folder(thesis="three years")), USAGE, "not empty"),
    ("out is a file", out(lambda p: p.run / "log.csv"), FAILED, "--out"),
    ("out below a file", out(lambda p: p.run / "log.csv" / "run"), FAILED, "--out"),
    ("out cannot be written", out(Place.unwritable), FAILED, "--out"),
    ("overwrite with a bad flag", lambda p: ["--out", str(p.run), "--overwrite", "--bank", "2,2"], USAGE, "bank"),
    ("overwrite with bad data", lambda p: ["--out", str(p.run), "--overwrite", "--data-dir", str(p.folder())], FAILED,
     "is empty"),
    # data
    ("data-dir missing", data_dir(lambda p: p.root / "nowhere"), FAILED, "there is no folder"),
    ("data-dir empty", data_dir(Place.folder), FAILED, "is empty: MNIST is four files"),
    ("data-dir is a file", data_dir(lambda p: p.data / IMAGES), FAILED, "is a file: name the folder"),
    ("images cut off", data_dir(lambda p: p.data_with(IMAGES, cut(zipped(idx_images(BLACK + 7))))), FAILED,
     "cut short"),
    ("images with a flipped bit", data_dir(lambda p: p.data_with(IMAGES, flip((p.data / IMAGES).read_bytes()))),
     FAILED, IMAGES),
    ("images are a web page", data_dir(lambda p: p.data_with(IMAGES, WEB_PAGE)), FAILED, "a web page"),
    ("images are empty", data_dir(lambda p: p.data_with(IMAGES, b"")), FAILED, "empty"),
    ("labels as images", data_dir(lambda p: p.data_with(IMAGES, (p.data / LABELS).read_bytes())), FAILED,
     "an idx labels file"),
    ("images as labels", data_dir(lambda p: p.data_with(LABELS, (p.data / IMAGES).read_bytes())), FAILED,
     "an idx images file"),
    ("a picture too few", data_dir(lambda p: p.data_with(IMAGES, zipped(idx_images(BLACK)[:-784]))), FAILED,
     "but holds"),
    ("bytes at the end", data_dir(lambda p: p.data_with(IMAGES, zipped(idx_images(BLACK) + b"x"))), FAILED, "goes on"),
    ("no pictures", data_dir(lambda p: p.data_with(IMAGES, zipped(idx_images(BLACK[:0])))), FAILED, "nothing to read"),
    ("pictures of 20 pixels", data_dir(lambda p: p.data_with(IMAGES, zipped(idx_images(BLACK[:, :20, :20])))), FAILED,
     "20x20"),
    ("fewer labels than pictures", data_dir(lambda p: p.data_with(LABELS, zipped(idx_labels(BLACK[:3, 0, 0])))), FAILED,
     "do not belong together"),
    ("a label of 10", data_dir(lambda p: p.data_with(LABELS, zipped(idx_labels(BLACK[:, 0, 0] + 10)))), FAILED,
     "digits are 0 to 9"),
    ("a header of terabytes", data_dir(lambda p: p.data_with(IMAGES, struct.pack(">4I", 2051, *[2**20] * 3))), FAILED,
     "more than"),
    # resume
    ("resume of nothing", flags("--resume"), USAGE, "no run mnist-sgan-NUMBER"),
    ("resume of a missing folder", resume(lambda p: p.root / "nowhere"), FAILED, "not the folder of a run"),
    ("resume of another folder", resume(Place.folder), FAILED, "not the folder of a run"),
    ("resume without a checkpoint", resume(lambda p: p.copy_of_run(without=[checkpoint.FILE_NAME])), FAILED,
     "no checkpoint.npz"),
    ("resume without settings", resume(lambda p: p.copy_of_run(without=["config.json"])), FAILED, "config.json"),
    ("settings are a web page", resume(lambda p: p.run_with_config(WEB_PAGE.decode())), FAILED, "is damaged"),
    ("settings are a list", resume(lambda p: p.run_with_config("[1]")), FAILED, "is damaged"),
    ("settings edited to a word", resume(lambda p: p.run_with_config(batch_size="four")), USAGE, "'four'"),
    ("settings edited to a list", resume(lambda p: p.run_with_config(lr=[1, 2])), USAGE, "--lr"),
    ("settings of another net", resume(lambda p: p.run_with_config(base_channels=3)), FAILED, "other settings"),
    ("settings of another optimiser", resume(lambda p: p.run_with_config(optimizer="rmsprop")), FAILED,
     "optimizer"),
    ("settings without the average", resume(lambda p: p.run_with_config(ema=0)), FAILED, "'average/"),
    ("another bank", lambda p: ["--resume", str(p.run), "--bank", "3"], USAGE, "--bank is 3 but"),
    ("another model", lambda p: ["--resume", str(p.run), "--model", "tied"], USAGE, "--model is tied but"),
    ("another seed", lambda p: ["--resume", str(p.run), "--seed", "1"], USAGE, "--seed is 1 but"),
    ("another lr", lambda p: ["--resume", str(p.run), "--lr", "0.5"], USAGE, "--lr is 0.5 but"),
    ("another batch size", lambda p: ["--resume", str(p.run), "-b", "5"], USAGE, "--batch-size is 5 but"),
    ("dry run of a resume", lambda p: ["--resume", str(p.run), "--dry-run"], USAGE, "leave --resume out"),
    ("data of another size", lambda p: ["--resume", str(p.run), "--data-dir", str(write_mnist(p.root / "d", 9))],
     FAILED, "24 digits"),
    ("checkpoint cut off", resume(lambda p: p.run_with_file(cut)), FAILED, "checkpoint"),
    ("checkpoint with a flipped bit", resume(lambda p: p.run_with_file(flip)), FAILED, "CRC"),
    ("checkpoint is a web page", resume(lambda p: p.run_with_file(lambda _: WEB_PAGE)), FAILED, "not a checkpoint"),
    ("checkpoint is empty", resume(lambda p: p.run_with_file(lambda _: b"")), FAILED, "checkpoint"),
    ("checkpoint holds objects", resume(lambda p: p.run_with_file(lambda _: objects())), FAILED, "Python objects"),
    ("another program's npz", resume(lambda p: p.run_with_file(lambda _: numpy_file(a=BLACK))), FAILED,
     "another program"),
    ("checkpoint of another net", resume(lambda p: p.run_with_state(reshape("generator/deconvs.0.weight"))), FAILED,
     "deconvs.0.weight"),
    ("checkpoint of another kind", resume(lambda p: p.run_with_state(put(kind="classifier", config=None))), FAILED,
     "other settings"),
    ("checkpoint lacks a weight", resume(lambda p: p.run_with_state(pop("discriminator/last.weight"))), FAILED,
     "last.weight"),
    ("checkpoint lacks the average", resume(lambda p: p.run_with_state(pop("average/projection.weight"))), FAILED,
     "projection.weight"),
    ("checkpoint lacks the optimiser", resume(lambda p: p.run_with_state(pop("g_optimizer/projection.weight/mean"))),
     FAILED, "projection.weight/mean"),
    ("checkpoint lacks the data order", resume(lambda p: p.run_with_state(pop("order"))), FAILED, "'order'"),
    ("checkpoint lacks the noise", resume(lambda p: p.run_with_state(pop("fixed_z"))), FAILED, "fixed_z"),
    ("noise of another shape", resume(lambda p: p.run_with_state(reshape("fixed_z"))), FAILED, "fixed_z"),
    ("routes of another shape", resume(lambda p: p.run_with_state(reshape("fixed_routes"))), FAILED, "fixed_routes"),
    ("random state of another kind", resume(lambda p: p.run_with_state(put(noise={"bit_generator": "MT19937"}))),
     FAILED,
     "PCG64"),
    ("random state is a word", resume(lambda p: p.run_with_state(put(routes="lost"))), FAILED, "train_mnist.py"),
    ("checkpoint at no step", resume(lambda p: p.run_with_state(lambda arrays, meta: meta.pop("step"))), FAILED,
     "step"),
    ("checkpoint at a negative step", resume(lambda p: p.run_with_state(put(step=-3))), FAILED, "step"),
    ("checkpoint at a step in words", resume(lambda p: p.run_with_state(put(step="ten"))), FAILED, "step"),
]

SAMPLE = [
    ("no checkpoint named", flags("--n", "4"), USAGE, "--checkpoint"),
    ("mistyped flag", flags("--chekpoint", "x"), USAGE, "--checkpoint"),
    ("no such folder", sample(lambda p: p.root / "nowhere"), FAILED, "no file"),
    ("an empty name", flags("--checkpoint", ""), USAGE, "must be a path"),
    ("a folder of something else", sample(Place.folder), FAILED, "no checkpoint.npz"),
    ("a picture instead", sample(lambda p: p.run / "samples/step_000000.png"), FAILED, "not a checkpoint"),
    ("checkpoint cut off", sample(lambda p: p.run_with_file(cut)), FAILED, "checkpoint"),
    ("checkpoint with a flipped bit", sample(lambda p: p.run_with_file(flip)), FAILED, "CRC"),
    ("checkpoint is a web page", sample(lambda p: p.run_with_file(lambda _: WEB_PAGE)), FAILED, "not a checkpoint"),
    ("checkpoint is empty", sample(lambda p: p.run_with_file(lambda _: b"")), FAILED, "checkpoint"),
    ("checkpoint holds objects", sample(lambda p: p.run_with_file(lambda _: objects())), FAILED, "Python objects"),
    ("another program's npz", sample(lambda p: p.run_with_file(lambda _: numpy_file(a=BLACK))), FAILED,
     "another program"),
    ("checkpoint of another kind", sample(lambda p: p.run_with_state(put(kind="classifier"))), FAILED,
     "not one of a GAN"),
    ("checkpoint lacks a weight", sample(lambda p: p.run_with_state(pop("average/deconvs.1.weight"))), FAILED,
     "deconvs.1"),
    ("checkpoint lacks the generator", sample(lambda p: p.run_with_state(
        lambda arrays, meta: [arrays.pop(name) for name in list(arrays) if name.startswith(("gen", "ave"))])), FAILED,
     ""),
    ("settings with an unknown entry", sample(lambda p: p.run_with_state(
        lambda arrays, meta: meta["config"].update(shine=3))), FAILED, "shine"),
    ("settings with a word for a bank", sample(lambda p: p.run_with_state(
        lambda arrays, meta: meta["config"].update(bank="lots"))), None, "lots"),
    ("settings of a wider net", sample(lambda p: p.run_with_state(
        lambda arrays, meta: meta["config"].update(base_channels=4))), FAILED, "shape"),
    *[(name, lambda p, words=words: ["--checkpoint", str(p.run), *words], USAGE, text) for name, words, text in [
        ("grid of no rows", ["--grid", "0x3"], "rows x columns"),
        ("grid of one number", ["--grid", "8"], "rows x columns"),
        ("grid too large", ["--grid", "999x999"], "at most 10,000"),
        ("no images", ["--n", "0"], "at least 1"),
        ("absurdly many images", ["--n", "9" * 18], "at most 10,000"),
        ("absurdly many files", ["--individual", "--n", "9" * 18], "at most 100,000"),
        ("absurd scale", ["--scale", "9" * 18], "at most 64"),
        ("grid and individual", ["--grid", "2x2", "--individual"], "not both"),
        ("more than the grid holds", ["--grid", "2x2", "--n", "5"], "holds 4"),
        ("route out of range", ["--route", "2,0,0,0"], "each below its bank size"),
        ("route too short", ["--route", "0"], "takes 4 numbers"),
        ("unknown route mode", ["--route", "any"], "one index per layer"),
        ("not a picture name", ["--out", "grid.bmp"], "name a .png file"),
        ("negative seed", ["--seed", "-2"], "at least 0"),
    ]],
    ("gpu without CuPy", lambda p: ["--checkpoint", str(p.run), "--device", "gpu"], FAILED, "CuPy is not installed"),
    ("out in no folder", lambda p: ["--checkpoint", str(p.run), "--out", str(p.root / "no/grid.png")], FAILED,
     "make it"),
    ("out is a folder", lambda p: ["--checkpoint", str(p.run), "--out", str(p.folder("x.png"))], FAILED, "x.png"),
    ("individual into a file", lambda p: ["--checkpoint", str(p.run), "--individual", "--n", "2", "--out",
                                          str(p.run / "log.csv")], FAILED, "log.csv"),
]

TABLE = [("train_mnist", *case) for case in TRAIN] + [("sample", *case) for case in SAMPLE]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A finished run of four steps and its data."""
    root = tmp_path_factory.mktemp("good")
    digits = write_mnist(root / "mnist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "find_classifier", lambda notify=print: None)
        words = [*TINY, "--data-dir", str(digits), "--steps", "4", "--log-every", "1", "--sample-every", "2"]
        assert cli.run_main(trainer.main, [*words, "--out", str(root / "run")]) == 0
    return root


@pytest.fixture
def no_gpu(monkeypatch):
    """Where CuPy is installed, act as if it were not; and never spend time on the classifier."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(trainer, "find_classifier", lambda notify=print: None)


def answer(entry, words, capsys):
    """(exit code, lines on stderr), or the exception that came out."""
    capsys.readouterr()
    try:
        code = cli.run_main(entry, words)
    except SystemExit as stop:
        code = stop.code
    except Exception as error:
        return f"{type(error).__name__}: {error}", []
    return code, capsys.readouterr().err.splitlines()


def test_every_bad_input_is_answered_in_one_line(good, tmp_path, monkeypatch, no_gpu, capsys):
    names = [(script, name) for script, name, *_ in TABLE]
    assert len(set(names)) == len(names) >= 60
    before, failures = contents(good), []
    for number, (script, name, make_words, code, text) in enumerate(TABLE):
        root = tmp_path / str(number)
        (root / "cwd").mkdir(parents=True)
        monkeypatch.chdir(root / "cwd")
        words = make_words(Place(root, good / "run", good / "mnist"))
        own = contents(root)
        if script == "train_mnist" and "--resume" not in words:
            words = over([*TINY, "--data-dir", str(good / "mnist")], words)
        got, lines = answer(trainer.main if script == "train_mnist" else sampler.main, words, capsys)
        told = len(lines) == 1 and lines[0].startswith("error: ") and text in lines[0] and "Traceback" not in lines[0]
        right_code = got in ((USAGE, FAILED) if code is None else (code,))
        if not (told and right_code):
            failures.append(f"{script}, {name}: exit {got}, said {lines}")
        if contents(good) != before or contents(root) != own:
            failures.append(f"{script}, {name}: files were changed")
    with capsys.disabled():
        print(f"\nbad input answered {len(TABLE) - len(failures)}/{len(TABLE)}")
    assert not failures, "\n".join(failures)


def test_the_table_would_notice(good, monkeypatch, capsys):
    """The table's check refuses an entry that fails in the ways it is there for."""
    def bug(argv):
        raise KeyError("a bug")

    def chatty(argv):
        print("one\ntwo", file=sys.stderr)
        return 1

    assert answer(bug, [], capsys)[0].startswith("KeyError")
    assert answer(chatty, [], capsys) == (1, ["one", "two"])
    before = contents(good)
    (good / "run/extra").write_text("x")
    assert contents(good) != before
    (good / "run/extra").unlink()
    assert contents(good) == before


@pytest.mark.parametrize("script, words, code, text", [
    ("train_mnist", ["--stpes", "5"], USAGE, "did you mean --steps"),
    ("train_mnist", ["--resume"], USAGE, "found no run"),
    ("train_mnist", ["--data-dir", "nowhere", "--device", "cpu"], FAILED, "there is no folder nowhere"),
    ("sample", ["--checkpoint", "nowhere"], FAILED, "no file"),
    ("sample", [b"--checkpoint", b"caf\xe9"], FAILED, "no file"),
    ("train_mnist", [b"--data-dir", b"caf\xe9", b"--device", b"cpu"], FAILED, "there is no folder"),
])
def test_as_a_process_of_its_own(tmp_path, script, words, code, text):
    if isinstance(words[0], bytes) and os.name == "nt":
        pytest.skip("names on Windows are text, not bytes")
    process = start_script(script, *words, cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert len(err.splitlines()) == 1 and err.startswith("error: ") and text in err
    assert list(tmp_path.iterdir()) == []


def test_a_weak_gpu_is_a_reason_not_a_traceback(monkeypatch):
    """A CuPy that imports but cannot work is answered like one that is not there."""
    class Broken:
        class cuda:
            class runtime:
                @staticmethod
                def driverGetVersion():
                    raise RuntimeError("libcudart.so.12: cannot open shared object file\nand more")

    monkeypatch.setitem(sys.modules, "cupy", Broken)
    cupy, why = find_gpu()
    assert cupy is None and "libcudart" in why and "\n" not in why
