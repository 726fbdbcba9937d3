"""What the tests of the scripts share: the scripts as modules, a tiny made-up MNIST, the smallest nets that train."""

import contextlib
import gzip
import hashlib
import importlib.util
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygan.app import checkpoint
from tinygan.data.sets import find_set

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--threads", "1", "--device", "cpu", "--base-channels", "2", "--batch-size", "4", "--bank", "2",
        "--latent-dim", "4"]
COUNT = 24  # images of the made-up set: six batches of four


SHORT = {"-b": "--batch-size", "-o": "--out", "--nz": "--latent-dim"}


def over(defaults, words) -> list[str]:
    """`words` after those flags of `defaults`, each with one value, that they do not give themselves: none is twice."""
    words = [str(word) for word in words]
    names = {SHORT.get(name, name) for name in (word.partition("=")[0] for word in words)}
    pairs = zip(defaults[::2], defaults[1::2], strict=True)
    return [part for flag, value in pairs if flag not in names for part in (flag, str(value))] + words


def load_script(name: str):
    """The script `name`.py of the project's top folder as a module, loaded once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def real_mnist() -> str | None:
    """The folder that TINYGAN_DATA names, if the four files are in it."""
    folder = os.environ.get("TINYGAN_DATA")
    return folder if folder and all(find_set(split, folder) for split in ("train", "test")) else None


def idx_images(images: np.ndarray) -> bytes:
    return struct.pack(">4I", 2051, *images.shape) + images.tobytes()


def idx_labels(labels: np.ndarray) -> bytes:
    return struct.pack(">2I", 2049, len(labels)) + labels.tobytes()


def write_mnist(folder: Path, count: int = COUNT) -> Path:
    """A valid set of `count` made-up digits (and as many to test with): bright blots in different places."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, 28, 28), np.uint8)
    for image in images:
        row, column = rng.integers(4, 16, 2)
        image[row : row + 8, column : column + 8] = rng.integers(100, 256, (8, 8))
    labels = (np.arange(count) % 10).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_images(images), mtime=0))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_labels(labels), mtime=0))
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file below `folder` with the SHA-256 of its bytes."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


@contextlib.contextmanager
def full_at(size):
    """No file of this process grows beyond `size` bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def start_script(name: str, *argv: str | bytes, **options) -> subprocess.Popen:
    """The script as a user starts it: in a process of its own, output to pipes."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "MPLBACKEND": "agg"}
    return subprocess.Popen([sys.executable, str(ROOT / f"{name}.py"), *argv], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, errors="replace", env=env, **options)


def listed_settings(parser, capsys) -> str:
    """What --list-settings prints, once --help was found to show at most 25 flags."""
    shown = [line for line in parser.format_help().splitlines() if line.startswith("  -")]
    assert 10 < len(shown) <= 25
    with pytest.raises(SystemExit) as done:
        parser.parse_args(["--list-settings"])
    assert done.value.code == 0
    return capsys.readouterr().out


def check_training_without_a_log(train, folder: Path, run: type, monkeypatch, capsys, kind: str) -> None:
    """A training whose log.csv is emptied, filled with rubbish or made a folder under way ends well, and says little.

    train: calls a script with words in `folder`; run: the class Run that the script uses.
    """
    log = run.log

    def spoil(self, step, **numbers):
        log(self, step, **numbers)
        if kind == "folder" and step == 1:
            self.log_path.unlink()
            self.log_path.mkdir()
        elif kind != "folder":
            self.log_path.write_text("" if kind == "empty" else "no log")

    monkeypatch.setattr(run, "log", spoil)
    assert train("--steps", 3, "--sample-every", 1, "--out", "run") == 0
    assert checkpoint.load(folder / "run")[1]["step"] == 3
    text = "".join(capsys.readouterr())
    assert "error" not in text and text.count("note: ") <= 4 and ("log.csv" in text) == (kind != "empty")


def write_photos(folder: Path, count: int = 16, side: int = 40) -> Path:
    """Made-up pictures: a coloured block on a slope of two other colours, all different, none its own mirror image."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        slope = np.linspace(0, 1, side)[None, :, None]
        pixels = np.tile(rng.integers(0, 120, 3) + slope * rng.integers(20, 136, 3), (side, 1, 1))
        top, left = rng.integers(0, side // 2, 2)
        pixels[top : top + side // 3, left : left + side // 3] = rng.integers(0, 256, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return folder
