"""benchmarks/gpu_check.py, which waits for a GPU: its small form runs to its end on the real CuPy without one.

That form is tested by TINYGAN_CUPY=cpu pytest -m gpu; the rest needs no CuPy.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from script_tools import TINY, write_mnist

from tinygan.app import cli

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gpu
import gpu_check
import gpu_parts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def processor():
    """Skip where CuPy is not meant to run on a processor."""
    if os.environ.get("TINYGAN_CUPY") != "cpu":
        pytest.skip("no GPU: --small is for the real CuPy without one")


def check(out, *words, **options):
    """(exit code, printed lines, results) of the script as it is typed."""
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--out", str(out), *words],
                          capture_output=True, text=True, timeout=1200, **options)
    results = out / "results.json"
    return done.returncode, done.stdout.splitlines() + done.stderr.splitlines(), \
        json.loads(results.read_text()) if results.is_file() else {}


@pytest.fixture(scope="module")
def small(processor, tmp_path_factory):
    out = tmp_path_factory.mktemp("small") / "out"
    code, printed, results = check(out, "--small")
    return code, printed, results, out


RUNS = ("env", "smoke", "tests", "steps", "train", "gpan_1024")


@pytest.mark.gpu
def test_the_small_form_runs_to_its_end(small):
    code, printed, results, out = small
    assert code == 0 and list(results) == list(gpu_parts.PARTS)
    assert {name for name, result in results.items() if result["status"] == "ok"} == set(RUNS)
    for name in set(results) - set(RUNS):
        assert results[name]["status"] == "not here" and results[name]["found"]["reason"]
    assert re.fullmatch(r"took \d+ s; .*results.md has it all", printed[-1]) and len(printed) == len(results) + 1
    assert {path.name for path in out.iterdir()} == {"results.json", "results.md", "log.txt", "junit.xml",
                                                      "train_mnist.zip", "train_gpan.zip"}
    text = (out / "results.md").read_text()
    assert all(f"\n## {name}: " in text for name in results) and "a processor in a GPU's place" in text
    assert str(ROOT) not in text


@pytest.mark.gpu
def test_what_the_small_form_finds(small):
    found = {name: result["found"] for name, result in small[2].items()}
    assert "a processor in a GPU's place" in found["env"]["find_gpu"] and found["env"]["copy GB/s"] > 0
    replayed = {name: one for name, one in found["smoke"].items() if name.endswith(", replayed")}
    assert set(replayed.values()) == {"equal bits"} and len(replayed) == 3
    assert all(one["gradients apart"] < 1e-4 for name, one in found["smoke"].items() if name not in replayed)
    assert found["tests"]["tests"] > 20 and found["tests"]["failed"] == [] and found["tests"]["skipped"] == 0
    recorded = {name: one for name, one in found["steps"].items() if name.endswith(", recorded")}
    assert len(found["steps"]) == 8 and len(recorded) == 4
    assert all(one["own launches"] > 0 for name, one in found["steps"].items() if name not in recorded)
    assert all(one["nodes"]["kernel"] > 20 and one["notes"] == [] for one in recorded.values())
    assert found["train"]["recorded"] and all(found["train"][f"steps/s with --cuda-graph {graph}"] > 0
                                              for graph in ("yes", "no"))
    for name, script in (("train", "train_mnist"), ("gpan_1024", "train_gpan")):
        assert found[name]["exit code"] == 0 and "in a GPU's place" in found[name]["first lines"][1]
        names = zipfile.ZipFile(small[3] / f"{script}.zip").namelist()
        assert "log.csv" in names and "step_000000.png" in names and names == sorted(set(names))


@pytest.mark.gpu
def test_another_call_goes_on_with_what_is_not_ok(small, tmp_path):
    _, _, results, _ = small
    done = tmp_path / "before.json"
    wrong = {"status": "wrong", "found": {}}
    done.write_text(json.dumps(results | {"env": wrong, "smoke": wrong}))
    code, printed, now = check(tmp_path / "out", "--small", "--done", str(done), "--only", "env,smoke,tests",
                               "--seconds", "13.5")  # room for env alone, as that takes more than 0.5 s
    assert [line.split(",")[0] for line in printed[:2]] == ["env: ok", "smoke: no time"]
    assert code == 0 and "the same command with --done" in printed[-1]
    assert now == results | {"env": now["env"], "smoke": {"status": "no time", "found": {}}}


def alive(number):
    """Return whether a process runs; a zombie, whose exit code was not read, does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False


@pytest.mark.gpu
def test_a_part_that_takes_too_long_is_ended_with_all_its_processes(processor, tmp_path):
    """With a train_mnist.py that never ends, in a copy of what the script needs."""
    copy = tmp_path / "copy"
    for folder in ("tinygan", "benchmarks", "tests/cpucupy"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("game.py", "script_tools.py"):
        shutil.copy(ROOT / "tests" / name, copy / "tests")
    (copy / "train_mnist.py").write_text("import os, time\nprint(os.getpid(), flush=True)\n"
                                         f"open({str(tmp_path / 'id')!r}, 'w').write(str(os.getpid()))\n"
                                         "time.sleep(100)\n")
    parts = (copy / "benchmarks" / "gpu_parts.py").read_text().replace("@part(110, 50)", "@part(110, 1)")
    (copy / "benchmarks" / "gpu_parts.py").write_text(parts)
    done = subprocess.run([sys.executable, "benchmarks/gpu_check.py", "--small", "--only", "train", "--out", "out",
                           "--seconds", "7"], cwd=copy, env={**os.environ, "PYTHONPATH": ""}, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 1 and done.stdout.startswith("train: out of time, ")
    number = int((tmp_path / "id").read_text())
    for _ in range(50):
        if not alive(number):
            break
        time.sleep(0.1)
    assert not alive(number)


def test_the_small_form_needs_cupy(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    assert cli.run_main(gpu_check.main, ["--small", "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == 'error: --small needs CuPy, which runs on a processor here: pip install ".[test-cupy]"'


@pytest.mark.parametrize("words, told", [
    (["--only", "env,frobnicate"], "there is no part 'frobnicate': take some of env, smoke"),
    (["--seconds", "0"], "must be a number above 0"), (["--seconds", "nan"], "must be a number above 0"),
    (["--part", "env"], "take --only"), (["--done", "absent.json"], "No such file or directory (absent.json)"),
    (["--done", "bad.json"], "bad.json is not a results.json of this script"),
    (["--done", "other.json"], "other.json is not a results.json of this script"),
    (["--out", "bad.json"], "File exists"), (["--frob"], "unknown flag --frob"),
])
def test_bad_arguments_are_one_line(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_check, "no_gpu", lambda environment: "")
    (tmp_path / "bad.json").write_text("[")
    (tmp_path / "other.json").write_text('{"env": []}')
    try:
        code = cli.run_main(gpu_check.main, words)
    except SystemExit as stop:
        code = stop.code
    (line,) = capsys.readouterr().err.splitlines()
    assert code in (1, 2) and line.startswith("error: ") and told in line


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "no_gpu", lambda environment: "none was built in")
    assert cli.run_main(gpu_check.main, ["--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: no GPU to check: none was built in; --small tries this script without one"
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
def test_a_training_is_interrupted_as_a_user_does_it(processor, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(gpu_check.PROCESSOR), str(ROOT)]))
    args = gpu_check.read_args(["--out", str(tmp_path), "--part", "train", "--scratch", str(tmp_path)])
    tiny = [word for word in TINY if word not in ("--device", "cpu")]
    found = gpu_parts.script(args, "train_mnist.py", *tiny, "--data-dir", str(write_mnist(tmp_path / "mnist")),
                             "--steps", "100000", "--eval-every", "0", "--log-every", "1", seconds=20)
    assert found["exit code"] == 130 and found["seconds"] >= 20 and found["notes"] == []
    with pytest.raises(gpu_parts.Wrong) as caught:
        gpu_parts.script(args, "train_mnist.py", "--frob", seconds=60)
    assert caught.value.args[0]["exit code"] == 2 and "--frob" in caught.value.args[0]["last line"]


def test_what_is_wrong_is_a_result(tmp_path, monkeypatch):
    """A part may find something wrong, lack something, or fail: the next one runs all the same."""
    args = gpu_check.read_args(["--part", "env", "--scratch", str(tmp_path), "--small"])
    for problem, status, found in ((gpu_parts.Wrong({"a": 1}), "wrong", {"a": 1}),
                                   (gpu_parts.NotHere("no x"), "not here", {"reason": "no x"}),
                                   (ValueError("b"), "failed", {"error": "ValueError: b"})):
        def run(args, problem=problem):
            raise problem

        monkeypatch.setitem(gpu_parts.PARTS, "env", gpu_parts.Part(1, 1, run))
        assert gpu_check.run_part(args) == 0
        assert json.loads((tmp_path / "result.json").read_text()) == {"status": status, "found": found}


LISTING = """
\tcode for sm_90
\t\tFunction : routed_product_tf32
        /*0000*/  LDG.E R1, desc[UR4][R2.64] ;
        /*0010*/  HMMA.1688.F32.TF32 R4, R2, R8, R4 ;
        /*0020*/  HMMA.1688.F32.TF32 R4, R3, R9, R4 ;
\t\tFunction : routed_product
        /*0000*/  FFMA R1, R2, R3, R1 ;
"""


def test_instructions_of_tensor_cores_are_counted():
    assert gpu_parts.tensor_core_instructions(LISTING) == {"routed_product_tf32": 2, "routed_product": 0}


@pytest.mark.parametrize("found, wrong", [
    ({"routed_product": 0, "routed_product_tf32": 32, "routed_gradient": 0, "routed_gradient_tf32": 16}, False),
    ({"routed_product": 0, "routed_product_tf32": 0, "routed_gradient": 0, "routed_gradient_tf32": 16}, True),
    ({"routed_product": 4, "routed_product_tf32": 32, "routed_gradient": 0, "routed_gradient_tf32": 16}, True),
    ({"routed_product": 0, "routed_product_tf32": 32}, True)])
def test_a_product_that_is_not_on_tensor_cores_is_wrong(found, wrong, tmp_path, monkeypatch):
    nvrtc = SimpleNamespace(createProgram=lambda *words: 1, compileProgram=lambda program, options: None,
                            getCUBIN=lambda program: b"code", destroyProgram=lambda program: None)
    monkeypatch.setattr(gpu_parts.subprocess, "run", lambda *words, **options: SimpleNamespace(stdout=""))
    monkeypatch.setattr(gpu_parts, "tensor_core_instructions", lambda listing: found)
    if wrong:
        with pytest.raises(gpu_parts.Wrong):
            gpu_parts.hmma_of_products(nvrtc, "cuobjdump", "90", tmp_path)
    else:
        assert gpu_parts.hmma_of_products(nvrtc, "cuobjdump", "90", tmp_path) == found


def test_steps_per_second():
    lines = ["step 0/50,000    0%", "step 100/50,000   0%  50.0 it/s  16:38 left  d_loss 1.4",
             "step 100: starting: too early", "step 1,100/50,000   2%  275.0 it/s  02:58 left  d_loss 1.4"]
    assert gpu_parts.steps_per_second("\n".join(lines)) == 500  # 2 s for the first 100, 4 s for all 1,100
    assert gpu_parts.steps_per_second("\n".join(lines[:2])) is None
    assert gpu_parts.steps_per_second("step 1/4  25%  4.0 s/it  00:12 left\nstep 3/4  75%  2.0 s/it  00:02 left") == 1


def test_rows_of_the_benchmark_come_back(tmp_path, monkeypatch):
    """benchmarks/gpu.py itself needs PyTorch and a GPU: here its flags are read, and its rows made, without."""
    args = gpu_check.read_args(["--out", str(tmp_path)])
    monkeypatch.setattr(gpu_parts, "need_torch", lambda: None)
    for name in ("bench_step", "bench_layer", "bench_gpan"):
        def call(*words, name=name):
            flags = gpu.read_args(words[2:])
            rows = [gpu.Row(problem, math) for problem in gpu.problems(flags) for math in flags.math]
            assert flags.only == name.removeprefix("bench_") and rows
            flags.json.write_text(json.dumps({"rows": [gpu.json_row(row, {}) for row in rows]}))
            return 0, ""

        monkeypatch.setattr(gpu_parts, "call", call)
        found = gpu_parts.PARTS[name].run(args)
        assert found and all(set(row) == set(gpu_parts.SHOWN) for row in found.values())
    whole = json.loads((tmp_path / "bench.json").read_text())
    assert list(whole) == ["bench_step", "bench_layer", "bench_gpan"] and whole["bench_step"]["rows"][0]["bank"] == 16


@pytest.mark.parametrize("has", ["nothing", pytest.param("MNIST", marks=pytest.mark.gpu)])
def test_what_is_carried(has, tmp_path, request):
    """gpu_prepare.sh, in a tree of its own, where nothing but what it is given can be found."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    tree = tmp_path / "a tree"
    for folder in ("tinygan", "benchmarks", "weights"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "vgg16*.h5"))
    environment = {name: value for name, value in os.environ.items() if name not in ("TINYGAN_DATA", "TINYGAN_VGG16")}
    environment["TINYGAN_HOME"] = str(tmp_path / "home")
    if has == "MNIST":
        write_mnist(tmp_path / "my data" / "mnist")
        environment["TINYGAN_DATA"] = str(tmp_path / "my data")
    for _ in range(2):  # a second time, over the first
        done = subprocess.run(["bash", "benchmarks/gpu_prepare.sh", sys.executable], cwd=tree, env=environment,
                              capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert ("without a network, tinygan's own" in done.stdout) == (has == "nothing") and "no VGG16" in done.stdout
        carried = {str(path.relative_to(tree / ".carry")) for path in (tree / ".carry").rglob("*") if path.is_file()}
        names = [f"mnist/{split}-{what}-ubyte.gz" for split in ("train", "t10k")
                 for what in ("images-idx3", "labels-idx1")]
        assert carried == {"gpu_check.py", *(names if has == "MNIST" else ())}
    if has == "nothing":
        return
    request.getfixturevalue("processor")
    shutil.copytree(ROOT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    words = [".carry/gpu_check.py", "--small", "--only", "smoke", "--out", "out"]
    done = subprocess.run([sys.executable, *words], cwd=tree, env={**os.environ, "PYTHONPATH": ""}, capture_output=True,
                          text=True)
    assert done.returncode == 0 and done.stdout.startswith("smoke: ok, ")


def test_the_page_tells_every_part_and_its_time():
    rows = re.findall(r"^\| (\w+) \| (\d+) \| ", (ROOT / "docs" / "gpu.md").read_text("utf-8"), re.MULTILINE)
    assert [(name, int(seconds)) for name, seconds in rows] == [(n, p.limit) for n, p in gpu_parts.PARTS.items()]


def test_it_names_nobodys_machine():
    for name in ("gpu_check.py", "gpu_parts.py", "gpu_prepare.sh"):
        text = (ROOT / "benchmarks" / name).read_text()
        assert not re.search(r"(?<![\w.$])/(work|home|tmp|root|Users|mnt|opt)/", text)
