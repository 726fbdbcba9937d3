"""Files from an unknown source: one table of faults x readers; every fault is one line that names the file."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vgg16_tools import small_file

from tinygan.app import checkpoint
from tinygan.data import files
from tinygan.data.idx import read_images
from tinygan.data.images import read_image
from tinygan.errors import Refused, TinyganError
from tinygan.models.classifiers.vgg16 import load_vgg16
from weights.torchfile import read_state_dict

STORED = Path(__file__).parents[1] / "stored"
WEB_PAGE = b"<!DOCTYPE html><html><body>404</body></html>"


def good_npz(path):
    checkpoint.save(path, {"a": np.arange(500.0)}, {"step": 1})


def good_idx(path):
    header = np.array([2051, 3, 28, 28], ">i4").tobytes()
    path.write_bytes(gzip.compress(header + np.random.default_rng(0).bytes(3 * 784)))


def good_png(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(path, format="PNG")


READERS = {  # a good file, and its reader
    "npz": (good_npz, checkpoint.load),
    "h5": (lambda path: small_file(path), load_vgg16),
    "pth": (lambda path: path.write_bytes((STORED / "small_vgg16.pth").read_bytes()),
            lambda path: read_state_dict(path, max_bytes=1 << 20)),
    "idx": (good_idx, read_images),
    "png": (good_png, read_image),
}


def absent(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def loop(path):
    path.unlink()
    path.symlink_to(path)


def content(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


FAULTS = {  # what is done to a good file, and words of the line
    "absent": (absent, "no file"), "folder": (folder, "not a file|no checkpoint.npz in folder"),
    "pipe": (pipe, "not a file"), "link to itself": (loop, "symbolic links|no file"),
    "empty": (content(lambda data: b""), "it is empty"), "web page": (content(lambda data: WEB_PAGE), "not a|web page"),
    "half": (content(lambda data: data[:len(data) // 2]), "cut"),
    "first bytes": (content(lambda data: data[:9]), "cut|not a picture|TIFF"),
    "zeros": (content(lambda data: bytes(len(data))), "not "),
}


def refusal(read, path) -> str:
    with pytest.raises(TinyganError) as caught:
        read(path)
    text = str(caught.value)
    assert text.isprintable() and caught.value.exit_code == 1
    return text


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_reader_refuses_every_fault_in_one_line(tmp_path, reader, fault):
    if fault == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("no pipes on this system")
    make, read = READERS[reader]
    spoil, words = FAULTS[fault]
    path = tmp_path / f"a.{reader}"
    make(path)
    read(path)
    spoil(path)
    text = refusal(read, path)
    assert any(word in text for word in words.split("|")) and str(path) in text


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["zero\0byte", "two\nlines", "long" * 100])
def test_odd_names(tmp_path, reader, name):
    refusal(READERS[reader][1], tmp_path / name)


def test_the_size_is_checked_before_opening(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(1001))
    with pytest.raises(TinyganError, match="it has 1,001 bytes, more than the 1,000"), files.reading(path, 1000):
        raise AssertionError("opened")
    with files.reading(path, 1001) as file:
        assert len(file.read()) == 1001


def test_what_the_block_raises(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    for error, words in ((Refused("it is odd"), "cannot use .*a: it is odd$"), (KeyError("x"), r"cut off.*\('x'\)$"),
                         (OSError("broken"), r"cut off.*\(broken\)$")):
        with pytest.raises(TinyganError, match=words), files.reading(path, 9, damage=(KeyError,)):
            raise error
    with pytest.raises(ValueError), files.reading(path, 9):  # a bug of ours is no damaged file
        raise ValueError
