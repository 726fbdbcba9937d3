"""Checkpoints: same content, same bytes; a kill or a full disk loses nothing; bad files are refused."""

import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tinygan.app import checkpoint
from tinygan.data import files
from tinygan.errors import TinyganError


def state(seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        "g.proj.weight": rng.standard_normal((3, 4, 5)).astype(np.float32),
        "d.bias": rng.standard_normal(7),
        "count": np.array(41),
        "order": rng.permutation(10),
        "empty": np.zeros((0, 3), np.float32),
        "mask": np.array([True, False]),
        "letters": np.array(["a", "ä€"]),
    }
    return arrays, {"step": 12, "rng": rng.bit_generator.state, "bank": [4, 4, 1]}


def one_line(path):
    with pytest.raises(TinyganError) as caught:
        checkpoint.load(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400 + len(str(path))
    assert "checkpoint" in text and ("run" in text or "copy" in text or "never" in text)
    return text


# --- what goes in comes out ---


def test_round_trip_keeps_values_types_and_random_state(tmp_path):
    arrays, meta = state()
    checkpoint.save(tmp_path / "checkpoint.npz", arrays, meta)
    for path in (tmp_path / "checkpoint.npz", tmp_path, str(tmp_path)):
        loaded, loaded_meta = checkpoint.load(path)
        assert loaded.keys() == arrays.keys()
        for name, array in arrays.items():
            assert loaded[name].dtype == array.dtype and loaded[name].shape == array.shape
            assert np.array_equal(loaded[name], array)
            assert loaded[name].flags.writeable and loaded[name].flags.c_contiguous
        assert loaded_meta == meta
    rng = np.random.default_rng()
    rng.bit_generator.state = loaded_meta["rng"]
    other = np.random.default_rng(0)
    other.bit_generator.state = meta["rng"]
    assert np.array_equal(rng.random(5), other.random(5))


def test_plain_numpy_reads_it_without_pickle(tmp_path):
    arrays, meta = state()
    checkpoint.save(tmp_path / "c.npz", arrays, meta)
    with np.load(tmp_path / "c.npz", allow_pickle=False) as file:
        assert np.array_equal(file["g.proj.weight"], arrays["g.proj.weight"])
        assert json.loads(file["meta"].item())["meta"]["step"] == 12


def test_same_content_same_bytes_whatever_memory_order_path_or_moment(tmp_path, monkeypatch):
    arrays, meta = state()
    checkpoint.save(tmp_path / "a.npz", arrays, meta)
    odd = {}
    for name in reversed(arrays):
        array = arrays[name]
        if array.ndim == 3:
            array = np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0)
            assert not array.flags.c_contiguous
        elif array.ndim == 1 and array.size > 1:
            array = np.stack([array, array], 1)[:, 0]
        odd[name] = array
    monkeypatch.setattr("time.time", lambda: 2e9)
    (tmp_path / "deep").mkdir()
    checkpoint.save(tmp_path / "deep" / "b.npz", odd, dict(reversed(meta.items())))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "deep" / "b.npz").read_bytes()


def test_a_changed_bit_of_state_changes_the_bytes(tmp_path):
    arrays, meta = state()
    checkpoint.save(tmp_path / "a.npz", arrays, meta)
    arrays["d.bias"][3] = np.nextafter(arrays["d.bias"][3], 9)
    checkpoint.save(tmp_path / "b.npz", arrays, meta)
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "b.npz").read_bytes()


def test_numpy_scalars_in_meta_become_plain_numbers(tmp_path):
    checkpoint.save(tmp_path / "c.npz", {}, {"loss": np.float32(0.5), "key": np.arange(3, dtype=np.uint32)})
    assert checkpoint.load(tmp_path / "c.npz")[1] == {"loss": 0.5, "key": [0, 1, 2]}


def test_fortran_order_and_big_endian_members_are_read(tmp_path):
    arrays, meta = state()
    checkpoint.save(tmp_path / "c.npz", {}, meta)
    header = np.array(np.load(tmp_path / "c.npz")["meta"].item().replace("[]", '["big","f"]', 1))
    weight = arrays["g.proj.weight"]
    np.savez(tmp_path / "d.npz", meta=header, f=np.asfortranarray(weight), big=weight.astype(">f4"))
    loaded, _ = checkpoint.load(tmp_path / "d.npz")
    assert np.array_equal(loaded["f"], weight) and np.array_equal(loaded["big"], weight)
    assert loaded["big"].dtype == np.float32 and loaded["big"].dtype.isnative


@pytest.mark.parametrize("arrays", [{"a": np.array([{}], dtype=object)}, {"meta": np.zeros(2)}])
def test_what_cannot_be_stored_is_refused_before_the_old_file_is_touched(tmp_path, arrays):
    checkpoint.save(tmp_path / "c.npz", {}, {"step": 1})
    with pytest.raises(TinyganError):
        checkpoint.save(tmp_path / "c.npz", arrays, {})
    assert checkpoint.load(tmp_path / "c.npz")[1] == {"step": 1}


# --- writing fails ---


def fail_at(monkeypatch, where, error):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(where, broken)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("os.fsync", OSError(28, "No space left on device")),
        ("numpy.lib.format.write_array", OSError(28, "No space left on device")),
        ("builtins.open", PermissionError(13, "Permission denied")),
        ("builtins.open", OSError(30, "Read-only file system")),
        ("os.replace", OSError(5, "Input/output error")),
    ],
)
def test_failed_write_keeps_the_previous_checkpoint(tmp_path, monkeypatch, where, error):
    path = tmp_path / "checkpoint.npz"
    arrays, meta = state()
    checkpoint.save(path, arrays, meta)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        fail_at(patch, where, error)
        with pytest.raises(TinyganError) as caught:
            checkpoint.save(path, state(1)[0], meta)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and error.strerror in text and "previous" in text
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["checkpoint.npz"]


def test_file_size_limit_is_answered_in_one_line(tmp_path):
    """The system itself refuses to write on: as near to a full disk as one comes without special rights."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, {}, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(TinyganError, match="cannot write checkpoint .* previous checkpoint is intact"):
            checkpoint.save(path, {"big": np.zeros(100_000)}, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert checkpoint.load(path)[1] == {"step": 1} and os.listdir(tmp_path) == ["checkpoint.npz"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path):
    checkpoint.save(tmp_path / "checkpoint.npz", {}, {"step": 1})
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(TinyganError, match="previous checkpoint is intact"):
            checkpoint.save(tmp_path / "checkpoint.npz", {}, {"step": 2})
    finally:
        tmp_path.chmod(0o700)
    assert checkpoint.load(tmp_path)[1] == {"step": 1}


def test_removed_folder_and_file_in_the_way(tmp_path):
    with pytest.raises(TinyganError, match="no earlier checkpoint exists.*--out"):
        checkpoint.save(tmp_path / "gone" / "checkpoint.npz", {}, {})
    (tmp_path / "file").write_text("x")
    with pytest.raises(TinyganError, match="cannot write checkpoint"):
        checkpoint.save(tmp_path / "file" / "checkpoint.npz", {}, {})
    (tmp_path / "checkpoint.npz.tmp").mkdir()
    with pytest.raises(TinyganError, match="cannot write checkpoint"):
        checkpoint.save(tmp_path / "checkpoint.npz", {}, {})


def test_stale_temporary_file_is_replaced_and_a_link_there_is_not_followed(tmp_path):
    path, stale = tmp_path / "checkpoint.npz", tmp_path / "checkpoint.npz.tmp"
    stale.write_bytes(b"half a checkpoint")
    checkpoint.save(path, {}, {"step": 1})
    assert not stale.exists()
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    stale.symlink_to(precious)
    checkpoint.save(path, {}, {"step": 2})
    assert precious.read_text() == "keep me" and checkpoint.load(path)[1] == {"step": 2}


def test_interruption_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), files.whole_file(path) as file:
        file.write(b"new, but")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.txt"]


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from tinygan.app import checkpoint

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
path, rng = folder / "checkpoint.npz", random.Random(5)
lost = unreadable = many = stale = 0
done = 0
for _ in range(kills):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        count = done
        while True:
            count += 1
            checkpoint.save(path, {n: np.full(60_000, count, np.float32) for n in "abcd"}, {"step": count})
            os.write(write, b"%d\\n" % count)
    os.close(write)
    with os.fdopen(read) as pipe:
        first = pipe.readline()  # one save is done: from here on the child is always inside the next one
        time.sleep(rng.uniform(0.0, 0.015))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        promised = [int(line) for line in (first + pipe.read()).split()][-1]  # what has returned must survive
    temporaries = [name for name in os.listdir(folder) if name != "checkpoint.npz"]
    many += len(temporaries) > 1
    stale += len(temporaries) == 1
    try:
        arrays, meta = checkpoint.load(folder)
        done = meta["step"]
        lost += done < promised or any((array != done).any() for array in arrays.values())
    except Exception as error:
        unreadable += 1
        print(error, file=sys.stderr)
checkpoint.save(path, {}, {"step": done})
print(lost, unreadable, many, len(os.listdir(folder)) - 1, stale, done)
"""


def kill_savers(folder, kills, before=""):
    """Run KILLER (after the lines `before`) and return its counts."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(checkpoint.__file__).parents[2]),
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", before + KILLER, str(folder), str(kills)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return map(int, result.stdout.split())


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
def test_kill_9_at_random_moments_of_saving_loses_nothing(tmp_path):
    """TINYGAN_KILLS=200 for the long form."""
    kills = int(os.environ.get("TINYGAN_KILLS", "20"))
    lost, unreadable, many, left, stale, done = kill_savers(tmp_path, kills)
    print(f"kills {kills}: lost {lost}, unreadable {unreadable}, torn {stale}, files left {left}")
    assert (lost, unreadable, many, left) == (0, 0, 0, 0)
    assert done >= kills and (stale > 0 or kills < 20)  # the kills did fall into saves


NAIVE = """
from tinygan.app import checkpoint
checkpoint.whole_file = lambda path, durable: open(path, "wb")
"""


@needs_fork
def test_the_kill_test_catches_a_writer_that_is_not_atomic(tmp_path):
    _, unreadable, *_ = kill_savers(tmp_path, 20, before=NAIVE)
    assert unreadable > 0


# --- reading bad files ---


def npz(path, members, *, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def npy(header: str, body: bytes = b"", magic=b"\x93NUMPY\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    return magic + struct.pack("<H", len(text)) + text + body


def good_members():
    buffer = io.BytesIO()
    header = {"format": checkpoint.FORMAT, "version": checkpoint.VERSION, "arrays": [], "meta": {"step": 1}}
    np.save(buffer, np.array(json.dumps(header)))
    return {"meta.npy": buffer.getvalue()}


def with_array(header, body=b""):
    return lambda path: npz(path, good_members() | {"w.npy": npy(header, body)})


def with_meta(value):
    def make(path):
        buffer = io.BytesIO()
        np.save(buffer, np.array(value))
        npz(path, {"meta.npy": buffer.getvalue()})

    return make


def object_array(path):
    with open(path, "wb") as file:
        np.savez(file, meta=np.array("{}"), w=np.array([{"a": 1}], dtype=object))


def flipped_bit(path):
    checkpoint.save(path, {"w": np.zeros(1000)}, {"step": 1})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def truncated(path):
    checkpoint.save(path, {"w": np.zeros(1000)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:3000])


def compressed_bomb(path):
    big = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (5000000,), }", bytes(40_000_000))
    npz(path, good_members() | {"w.npy": big}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000


def overlapping_bomb(path):
    """Many directory entries that all point to the same stored bytes."""
    npz(path, {"w.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (5000,), }", bytes(5000))})
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    start = data.index(b"PK\x01\x02")
    entries = b"".join(data[start:end].replace(b"w.npy", b"%c.npy" % (97 + i)) for i in range(20))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 20, 20, len(entries), start, 0)
    path.write_bytes(data[:start] + entries + tail)


def save_and_drop(path, member):
    checkpoint.save(path, {"w": np.zeros(3), "v": np.ones(2)}, {})
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if name != member}
    npz(path, kept)


def twice_the_same_name(path):
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            archive.writestr("meta.npy", good_members()["meta.npy"])


def encrypted_flag(path):
    npz(path, good_members())
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


F8 = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }"
LATER = b"\x93NUMPY\x09\x00"
TYPE = "{'descr': '%s', 'fortran_order': False, 'shape': (), }"
BAD = {
    "truncated": (truncated, "cut off"),
    "bit flip": (flipped_bit, "CRC"),
    "HTML": (lambda path: path.write_text("<html>404</html>"), "not a checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "text": (lambda path: path.write_text("hello\n" * 1000), "not a checkpoint"),
    "one npy, not npz": (lambda path: path.write_bytes(npy(F8 % "()", bytes(8))), "not a checkpoint"),
    "empty zip": (lambda path: npz(path, {}), "another program"),
    "zip of something else": (lambda path: npz(path, {"readme.txt": "hello"}), "unexpected part"),
    "another program's npz": (lambda path: np.savez(path, w=np.zeros(3)), "another program"),
    "object array": (object_array, "Python objects"),
    "terabytes declared": (with_array(F8 % "(500000000000,)"), "declares 4,000,000,000,000 bytes"),
    "overflowing shape": (with_array(F8 % "(99999999999, 99999999999, 99999999999)"), "declares"),
    "zero times huge": (with_array(F8 % "(0, 99999999999999999999999999)"), "cannot read"),
    "number of 5000 digits": (with_array(F8 % f"({'9' * 5000},)"), "cannot read"),
    "huge text type": (with_array(TYPE % "<U999999999999"), "cannot"),
    "fewer bytes than declared": (with_array(F8 % "(3,)", bytes(23)), "24 bytes but 23"),
    "more bytes than declared": (with_array(F8 % "(3,)", bytes(25)), "24 bytes but 25"),
    "code in the header": (
        with_array("{'descr': __import__('os').getcwd(), 'shape': (), }"),
        "unknown header",
    ),
    "structured type": (with_array((F8 % "(1,)").replace("'<f8'", "[('a', '<f8')]")), "unknown header"),
    "unknown type": (with_array(TYPE % "<f3", b"abc"), "cannot read"),
    "complex numbers": (with_array(TYPE % "<c8", bytes(8)), "type <c8"),
    "later npy version": (
        lambda path: npz(path, {"w.npy": npy(F8 % "()", bytes(8), LATER)}),
        "unknown header",
    ),
    "member of 3 bytes": (lambda path: npz(path, {"w.npy": b"abc"}), "unknown header"),
    "compressed bomb": (compressed_bomb, "compressed"),
    "overlapping bomb": (overlapping_bomb, ""),
    "same name twice": (twice_the_same_name, "unexpected part"),
    "encrypted": (encrypted_flag, "encrypted"),
    "header not JSON": (with_meta("{broken"), "not JSON"),
    "header nested 100,000 deep": (with_meta("[" * 100_000), "not JSON"),
    "header a list": (with_meta("[1]"), "another program"),
    "header an array": (with_meta(["{}"]), "another program"),
    "later format": (with_meta(json.dumps({"format": checkpoint.FORMAT, "version": 7})), "version is 7"),
    "no meta inside": (with_meta(json.dumps({"format": checkpoint.FORMAT, "version": 1})), "incomplete"),
    "array lost": (lambda path: save_and_drop(path, "w.npy"), "missing"),
    "array too many": (with_array(F8 % "()", bytes(8)), "missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_in_one_line(tmp_path, name):
    make, expected = BAD[name]
    path = tmp_path / "checkpoint.npz"
    make(path)
    text = one_line(path)
    assert str(path) in text and expected in text


def test_bad_places_are_refused_in_one_line(tmp_path):
    assert "no checkpoint.npz in folder" in one_line(tmp_path)
    assert "no file" in one_line(tmp_path / "nothing.npz")
    loop = tmp_path / "loop.npz"
    loop.symlink_to(loop)
    assert str(loop) in one_line(loop)
    (tmp_path / "checkpoint.npz").mkdir()
    assert "not a file" in one_line(tmp_path)


def test_huge_declaration_allocates_nothing(tmp_path):
    import tracemalloc

    path = tmp_path / "checkpoint.npz"
    with_array(F8 % "(200000000,)")(path)  # 1.6 GB would succeed on many machines
    tracemalloc.start()
    one_line(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_mutated_files_load_unchanged_or_are_refused(tmp_path):
    """Random damage: never another exception, never other values without an error."""
    arrays, meta = state()
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, arrays, meta)
    good, rng, refused = path.read_bytes(), random.Random(3), 0
    with tempfile.TemporaryDirectory() as folder:
        victim = Path(folder) / "v.npz"
        for _ in range(1500):
            data = bytearray(good)
            at = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f"])
            else:
                del data[at : at + rng.randrange(1, 60)]
            victim.write_bytes(data)
            try:
                loaded, loaded_meta = checkpoint.load(victim)
            except TinyganError as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                assert loaded_meta == meta and loaded.keys() == arrays.keys()
                assert all(np.array_equal(loaded[name], arrays[name]) for name in arrays)
    assert refused > 1000
