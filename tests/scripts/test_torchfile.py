"""PyTorch's files without PyTorch: stored files of torch.save come back, and a program does nothing but describe data.

Programs are written here instruction by instruction: `program(...)` is what torch.save would write, and the attacks
change it.
"""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from vgg16_tools import small_weights

from tinygan.errors import TinyganError
from weights.torchfile import OLD_MAGIC, OLD_VERSION, is_torch_file, read_state_dict

STORED = Path(__file__).parents[1] / "stored"
MAX = 1 << 20


# ---- what torch.save writes, by hand -----------------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if abs(value) < 1 << 31 else (
        b"\x8a" + bytes([n := value.bit_length() // 8 + 1]) + value.to_bytes(n, "little", signed=True))


def group(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def name(module: str, what: str) -> bytes:
    return b"c" + f"{module}\n{what}\n".encode()


def storage(key="0", numbers=6, kind="FloatStorage", *rest: bytes) -> bytes:
    return group(text("storage"), name("torch", kind), text(key), text("cpu"), whole(numbers), *rest) + b"Q"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, numbers=None, *, of=None, function="_rebuild_tensor_v2") -> bytes:
    of = storage(numbers=6) if of is None else of
    return name("torch._utils", function) + group(
        of, whole(offset), group(*map(whole, shape)), group(*map(whole, strides)), b"\x89",
        name("collections", "OrderedDict") + b")R") + b"R"


def program(*entries: bytes, values: bytes = None) -> bytes:
    values = text("a.weight") + tensor() if values is None else values
    return b"\x80\x02" + name("collections", "OrderedDict") + b")Rq\x01(" + values + b"u" + b"".join(entries) + b"."


NUMBERS = np.arange(6, dtype="<f4") / 4
GOOD = {"net/data.pkl": program(), "net/byteorder": b"little", "net/data/0": NUMBERS.tobytes(), "net/version": b"3\n"}


def write_zip(path, entries=GOOD, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return path


def write_old(path, *, magic=OLD_MAGIC, version=OLD_VERSION, little=True, found=None, keys=("0",), numbers=6,
              data=None):
    if found is None:
        found = program(values=text("a.weight") + tensor(of=storage("0", 6, "FloatStorage", b"N")))
    facts = b"\x80\x02}(" + text("little_endian") + (b"\x88" if little else b"\x89") + b"u."
    listed = b"\x80\x02](" + b"".join(map(text, keys)) + b"e."
    path.write_bytes(b"\x80\x02" + whole(magic) + b"." + b"\x80\x02" + whole(version) + b"." + facts + found + listed
                     + struct.pack("<q", numbers) + (NUMBERS.tobytes() if data is None else data))
    return path


def refusal(path, **options) -> str:
    with pytest.raises(TinyganError) as caught:
        read_state_dict(path, max_bytes=MAX, **options)
    line = str(caught.value)
    assert "\n" not in line and line.isprintable() and len(line) < 400 + len(str(path)) and Path(path).name in line
    return line


# ---- files that are read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["small_vgg16.pth", "small_vgg16_old.pth"])
def test_files_of_pytorch_come_back(file):
    """Written by PyTorch itself, in both of its forms (make_vgg16_oracle.py)."""
    found = read_state_dict(STORED / file, max_bytes=MAX)
    expected = small_weights(5)
    assert list(found)[:2] == ["features.0.weight", "features.0.bias"] and len(found) == 32
    assert np.array_equal(found["features.0.weight"], expected["conv1_1"][0] * np.float32(50))
    for theirs, ours in (("features.28", "conv5_3"), ("classifier.0", "fc6"), ("classifier.6", "fc8")):
        for part, array in zip(("weight", "bias"), expected[ours], strict=True):
            assert found[f"{theirs}.{part}"].tobytes() == array.tobytes()
            assert found[f"{theirs}.{part}"].dtype == np.float32


def test_programs_written_by_hand(tmp_path):
    for path in (write_zip(tmp_path / "a.pth"), write_old(tmp_path / "b.pth")):
        found = read_state_dict(path, max_bytes=MAX)
        assert list(found) == ["a.weight"] and np.array_equal(found["a.weight"], NUMBERS.reshape(2, 3))
        assert found["a.weight"].flags.writeable and is_torch_file(path.read_bytes()[:8])


def test_parts_of_one_storage_half_precision_parameters_and_notes(tmp_path):
    metadata = b"}q\x05(" + text("_metadata") + name("collections", "OrderedDict") + b")R" + b"ub"
    parameter = name("torch._utils", "_rebuild_parameter") + group(
        tensor((1, 4), (4, 1), 2), b"\x88", name("collections", "OrderedDict") + b")R") + b"R"
    half = tensor((3,), (1,), of=storage("h", 3, "HalfStorage"))
    values = text("a") + tensor((2,), (1,)) + text("b") + parameter + text("c") + half + text("d") + tensor((), (), 5)
    write_zip(tmp_path / "x.pth", {**GOOD, "net/data.pkl": program(metadata, values=values),
                                   "net/data/h": np.array([1, 2, 3], "<f2").tobytes()})
    found = read_state_dict(tmp_path / "x.pth", max_bytes=MAX)
    assert found["a"].tolist() == [0, 0.25] and found["b"].tolist() == [[0.5, 0.75, 1.0, 1.25]]
    assert found["c"].dtype == np.float16 and found["c"].tolist() == [1, 2, 3] and found["d"].item() == 1.25


@pytest.mark.parametrize("kind, dtype", [("DoubleStorage", "<f8"), ("LongStorage", "<i8")])
def test_numbers_of_eight_bytes(tmp_path, kind, dtype):
    values = np.arange(6, dtype=dtype) * 3
    entries = {**GOOD, "net/data.pkl": program(values=text("a") + tensor(of=storage("0", 6, kind))),
               "net/data/0": values.tobytes()}
    found = read_state_dict(write_zip(tmp_path / "x.pth", entries), max_bytes=MAX)["a"]
    assert found.dtype == np.dtype(dtype) and np.array_equal(found.ravel(), values)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "net"])
def test_the_state_dict_of_a_training_checkpoint(tmp_path, key):
    """Beside it lie numbers, texts and the optimiser's state, whose tensors are passed over, in both forms of file."""
    def inner(*rest):
        return program(values=text("a.weight") + tensor(of=storage("0", 6, "FloatStorage", *rest)))[2:-1]

    def state(*rest):  # of an optimiser: {"state": {0: {"step": tensor}}, "param_groups": [{"lr": 0.5, ...}]}
        step = tensor((2,), (1,), of=storage("7", 2, "FloatStorage", *rest))
        groups = b"](}(" + text("lr") + b"G" + struct.pack(">d", 0.5) + text("betas") + b"G" + bytes(8) + b"K\x01\x86"
        groups += text("params") + b"]K\x00au" + b"e"
        return b"}(" + text("state") + b"}K\x00}" + text("step") + step + b"ss" + text("param_groups") + groups + b"u"

    for form, rest in (("zip", ()), ("old", (b"N",))):
        code = program(values=text("epoch") + whole(3) + text("arch") + text("vgg16") + text("optimizer") + state(*rest)
                       + text(key) + inner(*rest) + text("best") + b"\x89")
        if form == "zip":
            path = write_zip(tmp_path / "x.pth", {**GOOD, "net/data.pkl": code, "net/data/7": bytes(8)})
        else:
            path = write_old(tmp_path / "y.pth", found=code, keys=("7", "0"), numbers=2,
                             data=bytes(8) + struct.pack("<q", 6) + NUMBERS.tobytes())
        found = read_state_dict(path, max_bytes=MAX)
        assert list(found) == ["a.weight"] and np.array_equal(found["a.weight"], NUMBERS.reshape(2, 3))


def test_files_that_python_2_wrote(tmp_path):
    """Short texts of bytes, an OrderedDict made of pairs, tensors of the first kind."""
    def short(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    of = group(short("storage"), name("torch", "FloatStorage"), short("7"), short("cuda:0"), whole(6), b"N") + b"Q"
    old = name("torch._utils", "_rebuild_tensor") + group(of, b"K\x00", b"K\x02K\x03\x86", b"K\x03K\x01\x86") + b"R"
    pairs = b"](](" + short("a") + old + b"ee"
    found = b"\x80\x02" + name("collections", "OrderedDict") + pairs + b"\x85R."
    write_old(tmp_path / "x.pth", found=found, keys=("7",))
    assert np.array_equal(read_state_dict(tmp_path / "x.pth", max_bytes=MAX)["a"], NUMBERS.reshape(2, 3))


# ---- files that are refused --------------------------------------------------------------------------------------


def calls(module: str, what: str, argument: str) -> bytes:
    """A program that, run by Python's own reader, would call module.what(argument)."""
    return b"\x80\x02" + name(module, what) + text(argument) + b"\x85R."


INNER = program()[2:-1]
PROGRAMS = {  # program: words of the refusal
    "a shell": (calls("os", "system", "ls"), "names 'os.system', which is never looked up"),
    "a built-in function": (calls("builtins", "print", "x"), "names 'builtins.print'"),
    "a function of torch": (calls("torch.hub", "load", "x"), "names 'torch.hub.load'"),
    "a name with escape codes": (b"\x80\x02c\x1b[2J\nx\n.", "never looked up"),
    "a module": (program(values=text("a") + name("torch.nn.modules.conv", "Conv2d") + b")\x81"), "a whole net"),
    "other numbers": (program(values=text("a") + tensor(of=storage("0", 6, "BFloat16Storage"))), "of 'torch.BFloat16"),
    "two dictionaries of tensors": (program(values=text("net") + INNER + text("ema") + INNER),
                                    "several dictionaries of tensors, 'net', 'ema'"),
    "a class made by an instruction": (program(values=text("a") + b")i" + b"os\nsystem\n"), "instruction b'i'"),
    "an instruction of protocol 4": (b"\x80\x02\x95" + bytes(8) + b".", "instruction b'\\x95'"),
    "protocol 4": (b"\x80\x04}.", "not of protocol 2"),
    "a list": (b"\x80\x02].", "no dictionary"), "a tensor alone": (b"\x80\x02" + tensor() + b".", "no dictionary"),
    "a dictionary inside": (program(values=text("state_dict") + b"}"), "entry 'state_dict' is not a tensor (is the"),
    "a number in it": (program(values=text("epoch") + whole(3)), "entry 'epoch' is not a tensor"),
    "a name that is a number": (program(values=whole(3) + tensor()), "entry '3' is not a tensor"),
    "strides out of order": (program(values=text("a") + tensor((2, 3), (1, 2))), "not in order; call .contiguous()"),
    "strides of zero": (program(values=text("a") + tensor((2, 3), (0, 0))), "not in order"),
    "a shape beyond the numbers": (program(values=text("a") + tensor((3, 3), (3, 1))), "3x3 does not fit"),
    "an offset beyond the numbers": (program(values=text("a") + tensor(offset=1)), "does not fit its numbers"),
    "a negative offset": (program(values=text("a") + tensor(offset=-1)), "damaged"),
    "a negative shape": (program(values=text("a") + tensor((-2, -3), (3, 1))), "damaged"),
    "an absurd shape": (program(values=text("a") + tensor((1 << 40, 1 << 40), (1 << 40, 1))), "does not fit"),
    "many dimensions": (program(values=text("a") + tensor((1,) * 40, (1,) * 40)), "damaged"),
    "absurd numbers": (program(values=text("a") + tensor(of=storage("0", 1 << 40))), "4,398,046,511,104 bytes but 24"),
    "negative numbers": (program(values=text("a") + tensor(of=storage("0", -6))), "in an unknown way"),
    "another file as a key": (program(values=text("a") + tensor(of=storage("../../etc"))), "lacks the numbers"),
    "a part of a storage": (program(values=text("a") + tensor(of=storage("0", 6, "FloatStorage", whole(1)))),
                            "in an unknown way"),
    "a storage that is none": (program(values=text("a") + tensor(of=text("0"))), "damaged"),
    "a reference that is none": (program(values=text("a") + b")Q"), "damaged"),
    "a call of a text": (b"\x80\x02" + text("os") + b")R.", "damaged"),
    "a call of a storage": (b"\x80\x02" + name("torch", "FloatStorage") + b")R.", "damaged"),
    "state for a text": (b"\x80\x02" + text("a") + b"}b.", "damaged"),
    "no end": (program()[:-1], "cut off"), "nothing": (b"", "cut off"),
    "nothing on the stack": (b"\x80\x02.", "damaged"), "too much on the stack": (b"\x80\x02}}.", "damaged"),
    "a mark as a value": (b"\x80\x02(.", "no dictionary"), "a memory that is empty": (b"\x80\x02h\x07.", "damaged"),
    "a key that is a tuple": (program(values=b")" + tensor()), "damaged"),
    "half a pair": (program(values=text("a")), "damaged"),
    "an absurd text": (b"\x80\x02X\xff\xff\xff\xff.", "cut off"),
}


@pytest.mark.parametrize("attack", PROGRAMS)
def test_programs_that_are_refused(tmp_path, attack):
    code, words = PROGRAMS[attack]
    assert words in refusal(write_zip(tmp_path / "x.pth", {**GOOD, "net/data.pkl": code}))
    refusal(write_old(tmp_path / "y.pth", found=code))


def test_nothing_is_run(tmp_path):
    """The same program, given to Python's own reader, does run: the attack is a real one."""
    import pickle

    (tmp_path / "here").mkdir()
    code = calls("os", "rmdir", str(tmp_path / "here"))
    refusal(write_zip(tmp_path / "x.pth", {**GOOD, "net/data.pkl": code}))
    refusal(write_old(tmp_path / "y.pth", found=code))
    assert (tmp_path / "here").is_dir()
    pickle.loads(code)
    assert not (tmp_path / "here").exists()


def test_a_program_that_grows_costs_nothing(tmp_path):
    """Tuples of tuples of tuples: 2**60 members if anyone counted them."""
    code = b"\x80\x02)" + b"q\x01h\x01\x86" * 60 + b"."
    assert "no dictionary" in refusal(write_zip(tmp_path / "x.pth", {**GOOD, "net/data.pkl": code}))
    deep = b"\x80\x02)" + b"\x85" * 100_000 + b"."
    assert "no dictionary" in refusal(write_zip(tmp_path / "x.pth", {**GOOD, "net/data.pkl": deep}))


def test_archives_that_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    for entries, words in [
        ({}, "not a PyTorch file"), ({"model.weights.h5": b"", "config.json": b""}, "of a .keras archive, unzip"),
        ({**GOOD, "other/data.pkl": program()}, "without one PyTorch program"),
        ({**GOOD, "net/code/x.py": b""}, "TorchScript"), ({**GOOD, "net/byteorder": b"big"}, "big-endian"),
        ({key: value for key, value in GOOD.items() if "data/0" not in key}, "lacks the numbers '0'"),
        ({**GOOD, "net/data/0": bytes(23)}, "declare 24 bytes but 23"),
        ({**GOOD, "net/data/0": bytes(25)}, "declare 24 bytes but 25"),
    ]:
        assert words in refusal(write_zip(path, entries))
    assert "compressed or encrypted" in refusal(write_zip(path, compression=zipfile.ZIP_DEFLATED))
    good = write_zip(path).read_bytes()
    at = good.rindex(b"PK\x01\x02")  # an entry of the directory at the end: its flags say that it is encrypted
    path.write_bytes(good[:at + 8] + b"\x01\x00" + good[at + 10:])
    assert "encrypted" in refusal(path)
    at = good.index(NUMBERS.tobytes())
    path.write_bytes(good[:at] + b"\xff" + good[at + 1:])
    assert "CRC" in refusal(path)
    first = good.index(b"PK\x01\x02")
    path.write_bytes(good[:first + 20] + struct.pack("<2I", 1 << 30, 1 << 30) + good[first + 28:])
    assert "more bytes than it has" in refusal(path)


def test_old_files_that_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    for options, words in [
        ({"magic": 1}, "not a PyTorch file"), ({"version": 1002}, "format is unknown"),
        ({"little": False}, "big-endian"),
        ({"keys": ("9",)}, "belong to no tensor"), ({"keys": ()}, "damaged"),
        ({"numbers": 7}, "not as many as declared"), ({"numbers": -1}, "not as many as declared"),
        ({"data": NUMBERS.tobytes()[:-1]}, "declare 24 bytes but 23"), ({"found": b"\x80\x02].", }, "no dictionary"),
    ]:
        assert words in refusal(write_old(path, **options))


def test_other_files(tmp_path):
    good, old = write_zip(tmp_path / "good.pth").read_bytes(), write_old(tmp_path / "old.pth").read_bytes()
    for file, content, words in [
        ("empty", b"", "empty"), ("page", b"<!DOCTYPE html><html>404</html>", "not a PyTorch file"),
        ("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100), "not a PyTorch file"), ("start", good[:10], "damaged"),
        *((f"cut{n}", good[:len(good) * n // 10], "damaged") for n in range(1, 10)),
        *((f"cut old{n}", old[:len(old) * n // 10], "") for n in range(1, 10)),
    ]:
        (tmp_path / file).write_bytes(content)
        assert words in refusal(tmp_path / file)
    with pytest.raises(TinyganError, match="more than the 100"):
        read_state_dict(tmp_path / "good.pth", max_bytes=100)


@pytest.mark.parametrize("file", ["small_vgg16.pth", "small_vgg16_old.pth"])
def test_a_changed_byte_is_one_line_or_harmless(tmp_path, file):
    """The zip form carries checksums; the older form carries none, and a changed number passes for another one."""
    content, random, path = (STORED / file).read_bytes(), np.random.default_rng(0), tmp_path / "x.pth"
    right, refused = read_state_dict(STORED / file, max_bytes=MAX), 0
    for _ in range(300):
        spoilt = bytearray(content)
        spoilt[int(random.integers(len(spoilt)))] ^= int(random.integers(1, 256))
        path.write_bytes(spoilt)
        try:
            found = read_state_dict(path, max_bytes=MAX)
        except TinyganError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        if "old" not in file and list(found) == list(right):
            assert all(np.array_equal(found[key], value) or found[key].shape != value.shape
                       for key, value in right.items())
    assert refused > 30
