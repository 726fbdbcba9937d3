"""Data: bad files are refused in one line, downloads leave no bad file behind, a data order can be resumed.

No test touches the network or the user's folders: a server in a thread plays the mirrors, and every folder
that the code looks at is set to a temporary one. Real MNIST is checked too when TINYGAN_DATA names a folder
that has it.
"""

import gzip
import hashlib
import http.server
import json
import os
import socket
import struct
import sys
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from script_tools import real_mnist

from tinygan.data import Batches, cache_dir, download, load_mnist, mnist, read_images, read_labels, to_canvas
from tinygan.data.batches import _double
from tinygan.data.sets import find_set
from tinygan.errors import TinyganError, UsageError
from weights.make_bundled import first_of_each
from weights.make_bundled import main as make_bundled

REAL = real_mnist()  # read before the fixture below takes it away
real_data = pytest.mark.skipif(not REAL, reason="TINYGAN_DATA names no folder with the four MNIST files")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    for name in ("TINYGAN_DATA", "XDG_CACHE_HOME", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TINYGAN_HOME", str(tmp_path / "home"))
    nobody = "http://127.0.0.1:9/"  # a port that nobody listens on
    monkeypatch.setattr(mnist, "MIRRORS", (nobody, nobody))
    monkeypatch.setattr(mnist, "_failed_downloads", {})


def idx(values: np.ndarray, *, magic: int | None = None, shape: tuple[int, ...] | None = None) -> bytes:
    header = (magic or {3: 2051, 1: 2049}[values.ndim], *(shape or values.shape))
    return struct.pack(f">{len(header)}I", *header) + values.tobytes()


def some_digits(n: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), (np.arange(n) % 10).astype(np.uint8)


def put(
    folder: Path, *, split: str = "train", n: int = 20, suffix: str = ".gz", dotted: bool = False
) -> Path:
    """Write a made-up split of n digits into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for (stem, _), values in zip(mnist.FILES[split], some_digits(n), strict=True):
        name = stem.replace("-idx", ".idx") if dotted else stem
        data = gzip.compress(idx(values)) if suffix == ".gz" else idx(values)
        (folder / (name + suffix)).write_bytes(data)
    return folder


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert text and "\n" not in text and "Traceback" not in text
    return text


# --------------------------------------------------------------------------------------------- the idx format


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_reads_what_was_written(tmp_path, pack):
    images, labels = some_digits(7)
    odd = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    for values, read in ((images, read_images), (odd, read_images), (labels, read_labels)):
        path = tmp_path / "file"  # no .gz in the name: the content decides
        path.write_bytes(pack(idx(values)))
        got = read(path)
        assert got.dtype == np.uint8 and got.shape == values.shape and np.array_equal(got, values)
        got[0] = 0  # the caller owns it


IMAGES, LABELS = some_digits(10)
GOOD, GOOD_LABELS = idx(IMAGES), idx(LABELS)
GZ = gzip.compress(GOOD)
HTML = b"\n<!DOCTYPE html><html><body>503 Service Unavailable</body></html>"


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


BAD_IMAGES = {
    "empty": (b"", "empty"),
    "empty gz": (gzip.compress(b""), "empty"),
    "web page": (HTML, "web page"),
    "web page gz": (gzip.compress(HTML), "web page"),
    "labels as images": (GOOD_LABELS, "labels file (2049)"),
    "labels as images gz": (gzip.compress(GOOD_LABELS), "labels file (2049)"),
    "three bytes": (GOOD[:3], "starts with 00 00 08"),
    "header cut": (GOOD[:9], "16-byte header"),
    "header only": (GOOD[:16], "16 bytes long"),
    "float idx": (idx(IMAGES, magic=0x0D03), "starts with 00 00 0d 03"),
    "little endian": (struct.pack("<4I", 2051, 10, 28, 28) + IMAGES.tobytes(), "starts with 03 08 00 00"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "starts with 89 50 4e 47"),
    "no images": (idx(IMAGES[:0]), "nothing to read"),
    "no rows": (idx(IMAGES, shape=(10, 0, 28)), "nothing to read"),
    "no columns": (idx(IMAGES, shape=(10, 28, 0)), "nothing to read"),
    "one too few": (idx(IMAGES[:9], shape=(10, 28, 28)), "bytes long"),
    "one too few gz": (gzip.compress(idx(IMAGES[:9], shape=(10, 28, 28))), "holds 7,056"),
    "one byte short": (GOOD[:-1], "bytes long"),
    "one byte over": (GOOD + b"\0", "bytes long"),
    "one byte over gz": (gzip.compress(GOOD + b"\0"), "goes on"),
    "gz cut": (GZ[: len(GZ) // 2], "cut short"),
    "gz cut in its tail": (GZ[:-3], "cut short"),
    "gz two bytes": (GZ[:2], "cut short"),
    "gz checksum": (flipped(GZ, len(GZ) - 8), "damaged"),
    "gz length": (flipped(GZ, len(GZ) - 1), "damaged"),
    "gz method": (flipped(GZ, 2), "damaged"),
    "gz with a tail": (GZ + b"more", "damaged"),
    "4 billion cubed": (idx(IMAGES, shape=(2**32 - 1,) * 3), "limit"),
    "4 billion cubed gz": (gzip.compress(idx(IMAGES, shape=(2**32 - 1,) * 3)), "limit"),
    "1 GB": (idx(IMAGES, shape=(1 << 20, 32, 32)), "bytes long"),
    "1 GB gz": (gzip.compress(idx(IMAGES, shape=(1 << 20, 32, 32))), "gzipped bytes can hold"),
}
BAD_LABELS = {
    "empty": (b"", "empty"),
    "images as labels": (GOOD, "images file (2051)"),
    "header cut": (GOOD_LABELS[:7], "8-byte header"),
    "none": (idx(LABELS[:0]), "nothing to read"),
    "one short": (GOOD_LABELS[:-1], "bytes long"),
    "one over gz": (gzip.compress(GOOD_LABELS + b"\1"), "goes on"),
    "a ten": (idx(np.array([1, 10, 3], np.uint8)), "label 10 at position 1"),
    "web page": (HTML, "web page"),
    "4 GB": (idx(LABELS, shape=(2**32 - 1,)), "limit"),
}


@pytest.mark.parametrize(
    "read, data, fault",
    [pytest.param(read_images, *case, id=f"images: {name}") for name, case in BAD_IMAGES.items()]
    + [pytest.param(read_labels, *case, id=f"labels: {name}") for name, case in BAD_LABELS.items()],
)
def test_bad_file_is_refused_in_one_line_and_without_memory(tmp_path, read, data, fault):
    path = tmp_path / "bad-file"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(TinyganError) as error:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fault in one_line(error) and str(path) in str(error.value)
    assert peak < 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_a_name_that_is_not_utf8_can_be_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/d\xff"
    Path(os.fsdecode(path)).write_bytes(b"")
    for given in (path, os.fsdecode(path)):
        with pytest.raises(TinyganError) as error:
            read_images(given)
        one_line(error).encode("utf-8")


def test_fuzz(tmp_path):
    """2,400 mutated files: each is read or refused with a TinyganError; nothing else escapes."""
    rng = np.random.default_rng(7)
    small = idx(some_digits(3)[0][:, :5, :4])
    seeds = [small, gzip.compress(small), GOOD_LABELS, gzip.compress(GOOD_LABELS)]
    path = tmp_path / "fuzzed"
    read_well = refused = 0
    for trial in range(2400):
        data = bytearray(seeds[trial % 4])
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(0, max(1, len(data))))
            kind = int(rng.integers(6))
            if kind == 0 and data:
                data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data[at:at] = rng.bytes(int(rng.integers(1, 9)))
            elif kind == 3:
                del data[at : at + int(rng.integers(1, 9))]
            elif kind == 4:  # a header field
                field = 4 * int(rng.integers(4))
                value = int(rng.choice([0, 1, 255, 2**20, 2**31, 2**32 - 1]))
                data[field : field + 4] = struct.pack(">I", value)
            else:
                data += data[:at]
        if trial % 3 == 0 and data[:2] == b"\x1f\x8b":  # damage below a sound gzip layer
            try:
                data = bytearray(gzip.compress(flipped(gzip.decompress(bytes(data)), int(rng.integers(8)))))
            except (OSError, EOFError, ValueError, IndexError, zlib.error):
                pass
        path.write_bytes(data)
        for read in (read_images, read_labels):
            try:
                values = read(path)
            except TinyganError as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                assert values.dtype == np.uint8 and values.size > 0
                read_well += 1
    assert read_well > 20 and refused > 2000


# -------------------------------------------------------------------------------------------- where files are


@pytest.mark.parametrize("sub", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dotted", [False, True])
def test_data_dir_accepts_the_names_in_use(tmp_path, sub, suffix, dotted):
    put(tmp_path / "d" / sub, suffix=suffix, dotted=dotted)
    lines = []
    digits = load_mnist("train", data_dir=tmp_path / "d", say=lines.append)
    assert len(digits) == 20 and digits.images.shape == (20, 28, 28) and digits.labels.shape == (20,)
    assert np.array_equal(digits.images, some_digits(20)[0])
    assert str(tmp_path / "d") in digits.source and "\n" not in digits.source and not lines


PLAIN = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
DOTTED = "train-images.idx3-ubyte", "train-labels.idx1-ubyte"
EMNIST = "emnist-{}-train-images-idx3-ubyte", "emnist-{}-train-labels-idx1-ubyte"
LAYOUTS = {  # folder of the set -> (names, the set's name, what it shows, whether the images are turned)
    "": (PLAIN, "MNIST", "digits", False), "mnist": (DOTTED, "MNIST", "digits", False),
    "MNIST/raw": (PLAIN, "MNIST", "digits", False), "archive": (DOTTED, "MNIST", "digits", False),
    "KMNIST/raw": (PLAIN, "KMNIST", "cursive Japanese characters", False),
    "kuzushiji-mnist": (PLAIN, "KMNIST", "cursive Japanese characters", False),
    "FashionMNIST/raw": (PLAIN, "Fashion-MNIST", "clothes", False),
    "data/fashion": (PLAIN, "Fashion-MNIST", "clothes", False),
    "Fashion MNIST/archive": (PLAIN, "Fashion-MNIST", "clothes", False),
    "mnist/sets": (("fashion-mnist-train-images-idx3-ubyte", "fashion-mnist-train-labels-idx1-ubyte"), None, "", False),
    "EMNIST/raw": ([name.format("digits") for name in EMNIST], "EMNIST's digits", "digits", True),
    "gzip": ([name.format("letters") for name in EMNIST], "EMNIST's letters", "letters", True),
    "emnist_source_files": ([name.format("byclass") for name in EMNIST], "EMNIST's byclass", "digits and letters",
                            True),
    "EMNIST": ([name.format("mnist") for name in EMNIST], "EMNIST's own MNIST", "digits", True),
    "emnist/plain": (PLAIN, None, "", False),
}


@pytest.mark.parametrize("sub", LAYOUTS)
@pytest.mark.parametrize("form", ["plain", "gz", "folders", "folders of 7-Zip"])
def test_the_relatives_of_mnist_are_found_and_named(tmp_path, sub, form):
    """As torchvision, Kaggle, their own makers and unpacking programs lay them out; "folders": one for each file."""
    names, kind, shows, turned = LAYOUTS[sub]
    images, labels = some_digits()
    labels = labels + 20 * (shows == "digits and letters") + 17 * (shows == "letters")
    for name, values in zip(names, (images, labels), strict=True):
        inner = name.replace("-idx", ".idx") if form == "folders of 7-Zip" else name
        path = tmp_path / "d" / sub / (f"{name}/{inner}" if "folders" in form else name + ".gz" * (form == "gz"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx(values)) if form == "gz" else idx(values))
    if kind is None:  # of folders that no set is kept in
        with pytest.raises(TinyganError, match="holds no train-images"):
            load_mnist("train", data_dir=tmp_path / "d")
        return
    digits = load_mnist("train", data_dir=tmp_path / "d", other_sets=True)
    assert (digits.kind, digits.shows) == (kind, shows)
    assert np.array_equal(digits.images, images.transpose(0, 2, 1) if turned else images)
    assert np.array_equal(digits.labels, labels) and digits.images.flags.c_contiguous
    assert digits.source.startswith(f"{kind} train: 20 {shows}{', turned upright,' * turned} from {tmp_path}")
    named = (tmp_path / "d" / sub).parent if sub.endswith("raw") else tmp_path / "d" / sub
    assert load_mnist("train", data_dir=named, other_sets=True).kind == kind
    if shows != "digits":
        with pytest.raises(TinyganError, match=f"digits are needed here.*{kind} train: 20 {shows}.*--data-dir") as no:
            load_mnist("train", data_dir=tmp_path / "d")
        one_line(no)


@pytest.mark.parametrize("names, words", [
    ((), "is empty: MNIST is four files"),
    (("a.png",), "holds 1 picture and none of MNIST's files; own pictures cannot"),
    (("a.png", "cats/b.JPG", "cats/c.txt"), "holds 2 pictures and"), (("a.txt",), "holds no train-images"),
    (("a.png", "train-images-idx3-ubyte"), "holds no train-labels"),
])
def test_a_folder_without_digits_is_refused_by_what_it_holds(tmp_path, names, words):
    (tmp_path / "d").mkdir()
    for name in names:
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"x")
    with pytest.raises(TinyganError) as error:
        load_mnist("train", data_dir=tmp_path / "d")
    assert f"{tmp_path / 'd'} {words}" in one_line(error)


def test_the_test_digits_of_emnist_have_names_of_their_own(tmp_path):
    for name, values in zip(EMNIST, some_digits(12), strict=True):
        (tmp_path / name.format("digits").replace("train", "test")).write_bytes(idx(values))
    assert len(load_mnist("test", data_dir=tmp_path)) == 12
    with pytest.raises(TinyganError, match="holds no train-images-idx3-ubyte and no train-labels"):
        load_mnist("train", data_dir=tmp_path)


def test_several_sets_in_one_folder_are_refused_until_one_is_named(tmp_path, monkeypatch):
    put(tmp_path / "root/MNIST/raw", n=11)
    put(tmp_path / "root/KMNIST/raw", n=12)
    put(tmp_path / "others/KMNIST/raw", n=12)
    put(tmp_path / "others/FashionMNIST/raw", n=12)
    for part, n in (("digits", 13), ("letters", 14)):
        for name, values in zip(EMNIST, some_digits(n), strict=True):
            (tmp_path / "gzip").mkdir(exist_ok=True)
            (tmp_path / "gzip" / f"{name.format(part)}.gz").write_bytes(gzip.compress(idx(values)))
    assert len(load_mnist("train", data_dir=tmp_path / "root", other_sets=True)) == 11  # MNIST is what was asked for
    for folder, parts in (("others", ("FashionMNIST/raw (Fashion-MNIST)", "KMNIST/raw (KMNIST)")),
                          ("gzip", ("emnist-digits (EMNIST's digits)", "emnist-letters (EMNIST's letters)"))):
        monkeypatch.setenv("TINYGAN_DATA", str(tmp_path / folder))
        for options in ({"data_dir": tmp_path / folder}, {}):
            with pytest.raises(TinyganError, match="holds several sets; name one of them with --data-dir") as error:
                load_mnist("train", other_sets=True, **options)
            assert all(f"{tmp_path / folder}/{part}" in one_line(error).replace(os.sep, "/") for part in parts)
    for name, n in (("root/MNIST/raw", 11), ("root/KMNIST", 12), ("gzip/emnist-digits", 13),
                    ("gzip/EMNIST-letters", 14)):
        assert len(load_mnist("train", data_dir=tmp_path / name, other_sets=True)) == n
    with pytest.raises(TinyganError, match="there is no folder"):
        load_mnist("train", data_dir=tmp_path / "gzip/emnist-balanced")
    put(tmp_path / "root/mnist", n=15)  # the same set twice is no question, nor are files in the folder itself
    (tmp_path / "root/KMNIST").rename(tmp_path / "root/gone")
    assert len(load_mnist("train", data_dir=tmp_path / "root")) == 15
    (tmp_path / "root/gone").rename(tmp_path / "root/KMNIST")
    put(tmp_path / "root", n=16)
    assert len(load_mnist("train", data_dir=tmp_path / "root")) == 16


def bundled(count=2000):
    digits = load_mnist("train", data_dir=mnist.BUNDLED)
    some = np.random.default_rng(0).permutation(len(digits))[:count]
    return digits.images[some], digits.labels[some]


def test_digits_are_told_and_turned_by_their_looks(tmp_path):
    """Whatever the names say: EMNIST's digits under MNIST's names, upright ones under EMNIST's, no digits at all."""
    images, labels = bundled()
    lying = np.ascontiguousarray(images.transpose(0, 2, 1))
    clothes = np.ascontiguousarray(np.roll(images, 9, axis=2)[:, ::-1])
    letters = np.where(labels < 5, labels, labels + 30).astype(np.uint8)
    for number, (names, given, labelled, right, kind, turned) in enumerate([
        (PLAIN, images, labels, images, "MNIST", False), (PLAIN, lying, labels, images, "EMNIST's digits", True),
        ([name.format("digits") for name in EMNIST], lying, labels, images, "EMNIST's digits", True),
        ([name.format("digits") for name in EMNIST], images, labels, images, "EMNIST's digits", False),
        ([name.format("letters") for name in EMNIST], lying, letters % 27, images, "EMNIST's letters", True),
        (["fashion-" + name for name in PLAIN], images, labels, images, "MNIST", False),
        (["fashion-" + name for name in PLAIN], clothes, labels, clothes, "Fashion-MNIST", False),
        (PLAIN, clothes, labels, clothes, "unknown set", False),
        (PLAIN, images, np.roll(labels, 1), images, "unknown set", False),
    ]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, values in zip(names, (given, labelled), strict=True):
            (folder / name).write_bytes(idx(values))
        digits = load_mnist("train", data_dir=folder, other_sets=True)
        assert np.array_equal(digits.images, right) and digits.kind == kind, number
        assert ("turned upright" in digits.source) == turned, number
    assert digits.source.startswith("unknown set train: 2,000 images unlike MNIST's digits from ")
    assert len(load_mnist("train", data_dir=folder)) == 2000  # one's own digits may look otherwise


def test_data_of_another_form_is_named(tmp_path):
    for name, words in (("mnist_train.csv", "mnist_train.csv there is of another form"),
                        ("kmnist-train-imgs.npz", "kmnist-train-imgs.npz there is of another form"),
                        ("archive.zip", "archive.zip there has to be unpacked")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(TinyganError, match=words) as error:
            load_mnist("train", data_dir=tmp_path)
        one_line(error)
        (tmp_path / name).unlink()


@real_data
def test_real_digits_are_told_by_their_looks(tmp_path):
    for split in ("train", "test"):
        digits = load_mnist(split, data_dir=REAL)
        for name, values in zip(("images-idx3", "labels-idx1"), (digits.images.transpose(0, 2, 1), digits.labels),
                                strict=True):
            (tmp_path / f"{split}-{name}-ubyte").write_bytes(idx(np.ascontiguousarray(values)))
        turned = load_mnist(split, data_dir=tmp_path)
        assert digits.kind == "MNIST" and turned.kind == "EMNIST's digits"
        assert np.array_equal(turned.images, digits.images)


def test_a_named_folder_without_the_files_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGAN_DATA", str(put(tmp_path / "elsewhere")))  # must not be used instead
    (tmp_path / "empty").mkdir()
    put(tmp_path / "half")
    (tmp_path / "half" / "train-labels-idx1-ubyte.gz").unlink()
    for name in ("empty", "half", "absent"):
        with pytest.raises(TinyganError) as error:
            load_mnist("train", data_dir=tmp_path / name)
        text = one_line(error)
        words = {"empty": "is empty", "half": "no train-labels", "absent": "there is no folder"}[name]
        assert str(tmp_path / name) in text and words in text
        assert all(f"{stem}.gz" in text for pair in mnist.FILES.values() for stem, _ in pair)
    for wrong in ("", 7):
        with pytest.raises(UsageError):
            load_mnist("train", data_dir=wrong)
    with pytest.raises(UsageError):
        load_mnist("validation")


def test_files_that_do_not_belong_together(tmp_path):
    put(tmp_path, n=20, suffix="")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    with pytest.raises(TinyganError, match="20 images but 10 labels"):
        load_mnist("train", data_dir=tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.ones((10, 32, 32), np.uint8)))
    with pytest.raises(TinyganError, match="32x32"):
        load_mnist("train", data_dir=tmp_path)


def test_search_order(tmp_path, monkeypatch):
    """Each place is used only when those before it lack the files; the sizes tell the places apart."""
    cache = put(cache_dir() / "mnist", n=12).parent
    shared, named = put(tmp_path / "shared" / "mnist", n=13).parent, put(tmp_path / "named", n=14)
    lines = []

    def load(**kw):
        return len(load_mnist("train", say=lines.append, **kw))

    monkeypatch.setenv("TINYGAN_DATA", str(shared))
    assert load(data_dir=named) == 14
    assert load() == 13
    monkeypatch.setenv("TINYGAN_DATA", str(shared / "mnist"))
    assert load() == 13 and not lines
    monkeypatch.setenv("TINYGAN_DATA", str(tmp_path / "nothing"))
    assert load() == 12 and len(lines) == 1 and "TINYGAN_DATA" in lines[0]
    monkeypatch.delenv("TINYGAN_DATA")
    for file in (cache / "mnist").iterdir():
        file.unlink()
    assert load(download=False) == 5000
    with pytest.raises(TinyganError) as error:
        load(download=False, allow_bundled=False)
    assert "--data-dir" in one_line(error)


def test_damage_in_a_named_folder_is_not_passed_over(tmp_path, monkeypatch):
    path = put(tmp_path / "shared") / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    monkeypatch.setenv("TINYGAN_DATA", str(tmp_path / "shared"))
    with pytest.raises(TinyganError, match="cut short"):
        load_mnist("train")


def test_cache_folder(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "home"
    monkeypatch.setenv("TINYGAN_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "tinygan"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for platform, where in (("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "local")):
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_dir() == tmp_path / where / "tinygan"


# --------------------------------------------------------------------------------------------------- download

BODY = np.random.default_rng(3).bytes(200_000)
BODY_MD5 = hashlib.md5(BODY).hexdigest()


class Mirror(http.server.BaseHTTPRequestHandler):
    """Answers /WHAT/name in the way WHAT says; self.server.files holds name -> bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        what, name = self.path.strip("/").split("/", 1)
        self.server.asked.append(what)
        body = self.server.files.get(name, BODY)
        self.close_connection = True
        if what.isdecimal():
            self.send_error(int(what))
            return
        if what == "nothing":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if what == "silent":
            self.server.stop.wait(5)
            return
        if what == "moved":
            self.send_response(302)
            self.send_header("Location", f"/good/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if what == "wrong":
            body = body[:-1] + b"!"
        elif what == "page":
            body = HTML
        elif what == "huge":
            body = body * 3
        self.send_response(200)
        if what not in ("nolength", "nolength-half"):
            self.send_header("Content-Length", "junk" if what == "junk" else str(len(body)))
        self.end_headers()
        if what in ("half", "nolength-half"):
            body = body[: len(body) // 2]
        if what == "slow":
            for byte in body:
                if self.server.stop.wait(0.05):
                    return
                self.wfile.write(bytes([byte]))
        elif what == "stall":
            self.wfile.write(body[:1000])
            self.server.stop.wait(5)
        else:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is what these tests are about


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Mirror)
    server.files, server.asked, server.stop = {}, [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()


FAILURES = {
    "403": "HTTP 403",
    "404": "HTTP 404",
    "503": "HTTP 503",
    "half": "broke off after 100,000 of 200,000",
    "nolength-half": "other bytes",
    "wrong": "other bytes",
    "page": "other bytes",
    "nothing": "",
    "silent": "no answer within",
    "slow": "too slow",
    "stall": "",
    "huge": "at most 300,000",
}


@pytest.mark.parametrize("what", FAILURES)
def test_second_mirror_takes_over_and_nothing_bad_stays(tmp_path, server, what):
    path = tmp_path / "new" / "folder" / "file.bin"
    lines = []
    options = {"timeout": 0.4, "max_bytes": 300_000, "say": lines.append}

    with pytest.raises(TinyganError) as error:  # alone: one line, and no file, whole or half
        download.fetch([f"{server.url}/{what}/file.bin"] * 2, path, BODY_MD5, **options)
    text = one_line(error)
    assert FAILURES[what] in text and text.count("127.0.0.1:") == 3  # both mirrors, and the address to get it from
    assert text.endswith(f"; get {server.url}/{what}/file.bin by hand and put it in {path.parent}")
    assert server.asked == [what, what]
    assert not path.parent.exists() or not list(path.parent.iterdir())

    urls = [f"{server.url}/{what}/file.bin", f"{server.url}/good/file.bin"]
    assert download.fetch(urls, path, BODY_MD5, **options) == path
    assert path.read_bytes() == BODY and [p.name for p in path.parent.iterdir()] == ["file.bin"]
    assert server.asked[2:] == [what, "good"] and len(lines) == 4

    assert download.fetch(urls, path, BODY_MD5, **options) == path  # there already: the network is left alone
    assert len(server.asked) == 4 and len(lines) == 4


@pytest.mark.parametrize("what", ["good", "moved", "nolength"])
def test_good_answers(tmp_path, server, what):
    path = download.fetch([f"{server.url}/{what}/x"], tmp_path / "x", BODY_MD5, say=lambda line: None)
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("what", ["good", "wrong"])
def test_stale_part_and_old_file(tmp_path, server, what):
    """A half-written .part of a killed run is written over; a wrong file is replaced by a right one only."""
    path, part = tmp_path / "x", tmp_path / "x.part"
    part.write_bytes(b"z" * 999_999)
    path.write_bytes(b"old")
    url = [f"{server.url}/{what}/x"]
    if what == "good":
        download.fetch(url, path, BODY_MD5, progress=False)
        assert path.read_bytes() == BODY
    else:
        with pytest.raises(TinyganError):
            download.fetch(url, path, BODY_MD5, progress=False)
        assert path.read_bytes() == b"old"
    assert not part.exists()


def test_unwritable_folder_is_one_line_and_asks_one_mirror(tmp_path, server):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TinyganError) as error:
        download.fetch([f"{server.url}/good/x"] * 2, tmp_path / "file" / "x", BODY_MD5, progress=False)
    text = one_line(error)
    assert "cannot write" in text and "TINYGAN_HOME" in text and server.asked == ["good"]
    (tmp_path / "taken").mkdir()
    with pytest.raises(TinyganError, match="cannot write"):
        download.fetch([f"{server.url}/good/x"] * 2, tmp_path / "taken", BODY_MD5, progress=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_full_disk(tmp_path, server, monkeypatch):
    monkeypatch.setattr(download, "_writable", lambda part, mode: open("/dev/full", mode, buffering=0))
    server.files["small"] = b"ten bytes."
    for name in ("large", "small"):
        with pytest.raises(TinyganError, match="cannot write"):
            download.fetch([f"{server.url}/good/{name}"], tmp_path / name, BODY_MD5, progress=False)


@pytest.mark.parametrize("tqdm_there", [True, False])
def test_progress(tmp_path, server, monkeypatch, capsys, tqdm_there):
    if tqdm_there:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    lines = []
    download.fetch([f"{server.url}/good/x"], tmp_path / "x", BODY_MD5, progress=True, say=lines.append)
    assert lines[0].startswith("downloading x from 127.0.0.1")
    assert len(lines) == 1 if tqdm_there else lines[-1] == "  x: 100 % of 0.2 MB"
    assert ("x:" in capsys.readouterr().err) == tqdm_there


def test_names_that_cannot_be_looked_up_cost_one_timeout(tmp_path, monkeypatch):
    """Without a network the system's own look-up can take many seconds; its answer is not waited for."""
    done = threading.Event()

    def look_up(*args, **kw):
        done.wait(5)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(TinyganError, match=r"mirror\.invalid \(no answer within 0\.2 s\)"):
        download.fetch(["http://mirror.invalid/x"], tmp_path / "x", BODY_MD5, timeout=0.2, progress=False)
    assert not done.is_set()
    done.set()


@pytest.fixture
def mirrored(server, monkeypatch):
    """A made-up MNIST on the local server, with its checksums in place of the real ones."""
    files = {}
    for split, n in (("train", 30), ("test", 20)):
        pairs = []
        for (stem, _), values in zip(mnist.FILES[split], some_digits(n), strict=True):
            server.files[f"{stem}.gz"] = data = gzip.compress(idx(values), mtime=0)
            pairs.append((stem, hashlib.md5(data).hexdigest()))
        files[split] = tuple(pairs)
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server.url}/404/", f"{server.url}/good/"))
    return server


def test_mnist_is_downloaded_once(mirrored):
    lines = []
    assert len(load_mnist("train", say=lines.append)) == 30
    assert mirrored.asked == ["404", "good"] * 2 and len(lines) == 4 and "HTTP 404" in lines[1]
    assert sorted(p.name for p in (cache_dir() / "mnist").iterdir()) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]
    assert len(load_mnist("train", say=lines.append)) == 30
    assert len(load_mnist("test", say=lines.append)) == 20
    assert len(mirrored.asked) == 8


def test_damaged_cache_heals(mirrored, monkeypatch):
    load_mnist("train", say=lambda line: None)
    path = cache_dir() / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:500])
    lines = []
    assert len(load_mnist("train", say=lines.append)) == 30
    assert "cut short" in lines[0] and len(mirrored.asked) == 6  # the labels were whole
    # offline with a damaged cache: the bundled set, and the line says why
    path.write_bytes(path.read_bytes()[:500])
    lines.clear()
    assert len(load_mnist("train", download=False, say=lines.append)) == 5000
    assert len(lines) == 1 and "cut short" in lines[0]


def test_no_network_at_all():
    lines = []
    assert len(load_mnist("train", say=lines.append)) == 5000
    assert len(lines) == 3 and lines[2].count("refused") == 2


def test_offline_uses_the_bundled_set_and_says_so(mirrored, monkeypatch):
    monkeypatch.setattr(mnist, "MIRRORS", (f"{mirrored.url}/503/", f"{mirrored.url}/nothing/"))
    lines = []
    digits = load_mnist("train", say=lines.append)
    assert len(digits) == 5000 and "bundled" in digits.source
    said = [line for line in lines if "bundled" in line]
    assert len(said) == 1 and "60,000" in said[0] and "--data-dir" in said[0] and "HTTP 503" in said[0]
    assert all("\n" not in line for line in lines)
    load_mnist("test", say=lines.append)
    assert len(mirrored.asked) == 2  # one attempt per process, then no more waiting
    with pytest.raises(TinyganError) as error:
        load_mnist("train", allow_bundled=False, say=lines.append)
    assert "HTTP 503" in one_line(error) and str(cache_dir()) in str(error.value)
    assert not list((cache_dir() / "mnist").glob("*"))


# ------------------------------------------------------------------------------------------------ bundled set


def test_bundled_counts():
    lines = []
    for split, each in (("train", 500), ("test", 100)):
        digits = load_mnist(split, download=False, say=lines.append)
        assert np.array_equal(np.bincount(digits.labels), [each] * 10)
        assert digits.images.shape == (10 * each, 28, 28) and digits.images.max() == 255
        assert 0.1 < digits.images.mean() / 255 < 0.16  # MNIST's mean is 0.131
    assert len(lines) == 2
    files = [path for path in mnist.BUNDLED.iterdir() if path.suffix == ".gz"]
    assert len(files) == 4 and sum(path.stat().st_size for path in files) < 1_100_000
    assert "LeCun" in (mnist.BUNDLED / "LICENSE.md").read_text()


def test_first_of_each():
    labels = np.tile(np.arange(10)[::-1], 3)
    assert np.array_equal(first_of_each(labels, 2), np.arange(20))
    with pytest.raises(TinyganError, match="fewer than 4"):
        first_of_each(labels, 4)


def test_make_bundled_reports_bad_sources(tmp_path, capsys):
    assert make_bundled([str(put(tmp_path / "few")), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: fewer than 500") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@real_data
def test_real_files():
    for split, n in (("train", 60_000), ("test", 10_000)):
        digits = load_mnist(split, data_dir=REAL)
        assert digits.images.shape == (n, 28, 28) and digits.labels.shape == (n,)
        assert f"{n:,}" in digits.source
        if split == "train":
            assert digits.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
            assert round(float(digits.images.mean()) / 255, 4) == 0.1307
        found = find_set(split, REAL)
        for path, md5 in zip((found.images, found.labels), (md5 for _, md5 in mnist.FILES[split]), strict=True):
            assert path.suffix != ".gz" or hashlib.md5(path.read_bytes()).hexdigest() == md5


@real_data
def test_bundled_set_is_the_one_the_script_makes(tmp_path):
    assert make_bundled([REAL, "--out", str(tmp_path)]) == 0
    for split in ("train", "test"):
        made, shipped = load_mnist(split, data_dir=tmp_path), load_mnist(split, data_dir=mnist.BUNDLED)
        assert np.array_equal(made.images, shipped.images) and np.array_equal(made.labels, shipped.labels)


# ---------------------------------------------------------------------------------------------------- batches


def test_to_canvas():
    images = some_digits(3)[0]
    unit = images.astype(np.float64) / 255
    for size in (28, 32, 64):
        canvas = to_canvas(images, size)
        assert canvas.dtype == np.float32 and canvas.shape == (3, 1, size, size) and canvas.flags.c_contiguous
        assert canvas.min() >= 0 and canvas.max() <= 1
    assert np.allclose(to_canvas(images, 28)[:, 0], unit, atol=1e-7)
    assert np.array_equal(to_canvas(images)[:, :, 2:30, 2:30], to_canvas(images, 28))
    frame = to_canvas(images)
    frame[:, :, 2:30, 2:30] = 0
    assert not frame.any()
    assert to_canvas(images[:0]).shape == (0, 1, 32, 32)
    assert to_canvas(np.full((1, 28, 28), 255, np.uint8), 64).max() == 1
    assert np.array_equal(to_canvas(images[::-1, :, ::-1]), to_canvas(images[::-1, :, ::-1].copy()))


def test_bilinear_doubling_by_its_definition():
    """align_corners=False: output pixel i looks at (i + 1/2) / 2 - 1/2 in the input, clamped to it."""
    small = to_canvas(some_digits(2)[0])[:, 0].astype(np.float64)
    at = np.clip((np.arange(64) + 0.5) / 2 - 0.5, 0, 31)
    low = np.minimum(np.floor(at).astype(int), 30)
    weight = np.zeros((64, 32))
    weight[np.arange(64), low] = 1 - (at - low)
    weight[np.arange(64), low + 1] += at - low
    expected = weight @ small @ weight.T
    assert np.allclose(to_canvas(some_digits(2)[0], 64)[:, 0], expected, atol=1e-6)
    # the black frame around a digit hides the clamping, so that is looked at below it
    edge = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4) + 1
    assert _double(edge).ravel().tolist() == [1, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4]


def test_to_canvas_refuses():
    images = some_digits(2)[0]
    for size in (0, 16, 65, "32", None):
        with pytest.raises(UsageError):
            to_canvas(images, size)
    for wrong in (images / 255, images[0], images[:, :20], images[:, None], images.astype(np.int64)):
        with pytest.raises(TinyganError):
            to_canvas(wrong)


@pytest.mark.parametrize("n, batch", [(10, 3), (10, 5), (10, 10), (65, 64), (1, 1), (64, 1)])
def test_every_epoch_is_a_permutation_in_whole_batches(n, batch):
    order = Batches(n, batch, np.random.default_rng(0))
    assert order.batches_per_epoch == n // batch
    seen = []
    for epoch in range(3):
        indices = []
        for _ in range(n // batch):
            indices.append(next(order))
            assert order.epoch == epoch
        assert all(i.shape == (batch,) and i.dtype == np.int64 for i in indices)
        flat = np.concatenate(indices)
        assert len(set(flat.tolist())) == len(flat) and flat.min() >= 0 and flat.max() < n
        seen.append(flat)
    assert n < 10 or not np.array_equal(seen[0], seen[1])


@pytest.mark.parametrize("n, batch", [(1, 8), (3, 4), (5, 64), (32, 64)])
def test_fewer_images_than_a_batch(n, batch):
    order = Batches(n, batch, np.random.default_rng(0))
    for _ in range(3):
        counts = np.bincount(next(order), minlength=n)
        assert counts.sum() == batch and counts.max() - counts.min() <= 1
    assert order.epoch == 2 and order.batches_per_epoch == 1


def test_batches_are_copies():
    order, other = (Batches(9, 3, np.random.default_rng(1)) for _ in range(2))
    next(order)[:] = -1
    order.state()["order"][:] = -1
    next(other)
    assert all(np.array_equal(next(order), next(other)) for _ in range(7))


@pytest.mark.parametrize("n, batch", [(100, 7), (5, 8), (64, 64)])
@pytest.mark.parametrize("stop", [0, 1, 13, 14, 15, 33])
def test_resumed_order_is_the_order_never_stopped(n, batch, stop):
    whole = Batches(n, batch, np.random.default_rng(5))
    for _ in range(stop):
        next(whole)
    state = whole.state()
    rest = [next(whole) for _ in range(40)]
    array = state.pop("order")
    state = {**json.loads(json.dumps(state)), "order": array}
    resumed = Batches(n, batch, np.random.default_rng(999))
    for _ in range(4):
        next(resumed)
    resumed.set_state(state)
    assert all(np.array_equal(a, next(resumed)) for a in rest)
    assert resumed.epoch == whole.epoch and resumed.rng.random() == whole.rng.random()


def test_bad_order_state_changes_nothing():
    order = Batches(10, 3, np.random.default_rng(0))
    next(order)
    good = order.state()
    changes = [
        {"n": 11},
        {"batch_size": 4},
        {"order": np.zeros(10, np.int64)},
        {"order": np.arange(9)},
        {"order": np.arange(10) - 1},
        {"order": np.arange(10) + 1},
        {"order": np.arange(10) / 2},
        {"order": "all"},
        {"order": None},
        {"position": -1},
        {"position": 11},
        {"position": "x"},
        {"epoch": -1},
        {"rng": {"bit_generator": "MT19937"}},
        {"rng": None},
        {"rng": {}},
    ]
    missing = [{k: v for k, v in good.items() if k != key} for key in good]
    for state in [{**good, **change} for change in changes] + missing:
        with pytest.raises(TinyganError) as error:
            order.set_state(state)
        one_line(error)
        now = order.state()
        assert all(np.array_equal(now[k], good[k]) if k == "order" else now[k] == good[k] for k in good)


def test_batches_refuse():
    for n in (0, -3):
        with pytest.raises(TinyganError):
            Batches(n, 4, np.random.default_rng(0))
    for batch in (0, -1):
        with pytest.raises(UsageError):
            Batches(5, batch, np.random.default_rng(0))
