"""Every lesson is found by its name, has the form that the others have, runs quickly, draws, and checks itself.

The list of lessons is the folder. Here they run in their short form; .ci/weekly runs them whole.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LESSON_TESTS

from tinygan.kernels import threads

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "lessons"
LESSONS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
CPU_SECONDS = 40      # 20 on each of two cores
PEAK_BYTES = 1.5e9
PROSE_PER_CODE = 1.5  # characters
lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def cells(path: Path) -> list[tuple[str, str]]:
    """(kind, text) of each cell; "markdown" cells without their `# `."""
    found = []
    for cell in re.split(r"^# %%", path.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        head, _, text = cell.partition("\n")
        if "[markdown]" in head:
            found.append(("markdown", re.sub(r"^# ?", "", text, flags=re.MULTILINE).strip()))
        else:
            found.append(("code", text.strip()))
    return found


def check_form(path: Path) -> None:
    """What every lesson has, so that a reader knows where to look."""
    parts = cells(path)
    assert path.read_text("utf-8").startswith("# %% [markdown]\n"), "it does not begin with a markdown cell"
    first, number = parts[0][1], path.name[:2]
    assert re.match(rf"# {number} · \S", first), "its title is not `# NN · Title`"
    for words in ("**Goal.**", "**You need**", "**Minutes:**", "**The package's tests:**"):
        assert words in first, f"its first cell lacks {words}"
    headings = re.findall(r"^## (.+)", "\n".join(text for kind, text in parts if kind == "markdown"), re.MULTILINE)
    assert headings[-2:] == ["What you learned", "Exercises"], f"it ends with {headings[-2:]}"
    code = "\n".join(text for kind, text in parts if kind == "code")
    assert 2 <= len(re.findall(r"^lesson\.exercise\(", code, re.MULTILINE)) <= 3, "2 or 3 exercises"
    prose, program = (sum(len(line.strip()) for kind, text in parts if kind == wanted for line in text.splitlines())
                      for wanted in ("markdown", "code"))
    assert prose <= PROSE_PER_CODE * program, f"{prose / program:.2f} times as much prose as code"


# Linux counts what a process had in memory when it started another as that one's own. So it is not started from
# here, where all earlier tests have left their mark, but from a process that holds nothing.
MEASURE = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
with open(sys.argv[1], "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, peak], file)
"""


def measured(words: list[str], out: Path, **options) -> tuple[int, float, float]:
    """(exit code, seconds of processor time, bytes at the peak) of a command and of what it starts itself."""
    into = out / "measured.json"
    subprocess.run([sys.executable, "-c", MEASURE, str(into), *words], check=True, **options)
    return tuple(json.loads(into.read_text("utf-8")))


def install(folder: Path) -> Path:
    """Put the package into `folder` as `pip install` does: the files that pyproject.toml names, and no others."""
    told = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    for package in told["packages"]:
        place = ROOT.joinpath(*package.split("."))
        for pattern in ("*.py", *told["package-data"].get(package, [])):
            for file in place.glob(pattern):
                (folder / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / file.relative_to(ROOT))
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder like site-packages, with an installed copy of the package."""
    return install(tmp_path_factory.mktemp("site-packages"))


@pytest.fixture(scope="module")
def wrong_package(tmp_path_factory):
    """A folder like site-packages, with a tinygan that must not be taken."""
    folder = tmp_path_factory.mktemp("wrong-packages")
    (folder / "tinygan").mkdir()
    (folder / "tinygan" / "__init__.py").write_text("raise ImportError('not the tinygan beside lessons/')\n", "utf-8")
    return folder


def run(path: Path, out: Path, packages: Path) -> tuple[int, str, float, float]:
    """(exit code, output, seconds of processor time, bytes at the peak) of one lesson's short form, with its solutions
    tried.

    As a reader runs it: from the folder it lies in. packages: where the installed packages are said to be.
    """
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("TINYGAN_DATA", "TINYGAN_VGG16")}
    with open(out / "printed.txt", "w+b") as printed:
        code, seconds, peak = measured([sys.executable, str(path), "--quick", "--solutions"], out, stdout=printed,
                                       stderr=subprocess.STDOUT, cwd=path.parent,
                                       env=environment | {"TINYGAN_LESSONS_OUT": str(out), "PYTHONPATH": str(packages)})
        printed.seek(0)
        return code, printed.read().decode(), seconds, peak


def test_the_lessons_are_numbered_and_have_solutions():
    numbers = [int(path.name[:2]) for path in LESSONS]
    assert numbers == list(range(1, len(LESSONS) + 1)) and numbers
    assert [path.name for path in LESSONS] == sorted(p.name for p in (FOLDER / "solutions").glob("*.py"))


def test_no_notebook_is_kept():
    assert not [p for p in ROOT.rglob("*.ipynb") if not {"out", "runs", ".venv"} & set(p.relative_to(ROOT).parts)]


@lesson
def test_its_form(path):
    check_form(path)


def test_a_wrong_form_would_be_seen(tmp_path):
    right = LESSONS[0].read_text("utf-8")
    wrong = {"title": right.replace("# # 01", "# # 02", 1), "Goal": right.replace("**Goal.**", "Goal", 1),
             "begin": right.replace("# %% [markdown]\n", "import os\n# %% [markdown]\n", 1),
             "ends": right.replace("## What you learned", "## Learned"),
             "exercises": right.replace("lesson.exercise(", "print("),
             "prose": right.replace("# **Goal.**", "# **Goal.** " + "word " * 5_000, 1)}
    for words, text in wrong.items():
        path = tmp_path / LESSONS[0].name
        path.write_text(text, "utf-8")
        with pytest.raises(AssertionError, match=words):
            check_form(path)


@lesson
def test_it_runs(path, tmp_path, wrong_package):
    code, printed, seconds, peak = run(path, tmp_path, wrong_package)
    assert code == 0, printed[-2_000:]
    assert printed.startswith("the short form (--quick)") and printed.count("the short form") == 1
    pictures = sorted(tmp_path.glob("*.png"))
    assert pictures and all(p.name.startswith(path.name[:2] + "_") for p in pictures)
    for picture in pictures:
        assert f"picture: {os.path.relpath(picture, path.parent)}\n" in printed
        assert picture.read_bytes()[:4] == b"\x89PNG"
    exercises = path.read_text("utf-8").count("\nlesson.exercise(")
    assert printed.count("the solution passes") == exercises
    assert printed.count("not solved yet") == exercises, "an exercise is solved before the reader comes"
    assert seconds <= CPU_SECONDS
    assert peak <= PEAK_BYTES, f"{peak / 1e6:.0f} MB at the peak"


def test_its_memory_is_its_own(tmp_path):
    """Neither what this process holds nor what earlier children held."""
    held = bytearray(b"1" * 300_000_000)
    measured([sys.executable, "-c", "held = b'1' * 400_000_000"], tmp_path)
    assert measured([sys.executable, "-c", ""], tmp_path)[2] < 1e8 < len(held)
    code, seconds, peak = measured([sys.executable, "-c", "held = b'1' * 200_000_000; raise SystemExit(3)"], tmp_path)
    assert code == 3 and seconds > 0 and 2e8 < peak < 3e8


def until_the_classifier(sources: list[str]) -> str:
    """The code cells of a lesson up to the one that loads the classifier, and a line that says whose code ran, on how
    many threads of each BLAS: two of them wait for each other, for seconds where another program takes their core."""
    end = next(i for i, source in enumerate(sources) if "lesson.digit_net()" in source)
    return "\n".join([*sources[:end + 1], "import threadpoolctl, tinygan",
                      "blas = [p['num_threads'] for p in threadpoolctl.threadpool_info() if p['user_api'] == 'blas']",
                      "print(tinygan.__file__, set(blas) | {1})"])


def run_elsewhere(folder: Path, name: str, code: str, packages: Path) -> tuple[int, list[str]]:
    """(exit code, lines printed) of `code` as the file `name` in `folder`, run from there."""
    (folder / name).write_text(code, "utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, name, "--quick"], cwd=folder, capture_output=True, text=True,
                          env=environment | {"PYTHONPATH": str(packages), "TINYGAN_LESSONS_OUT": str(folder / "out")})
    return done.returncode, (done.stdout + done.stderr).splitlines()


needs_the_classifier = pytest.mark.parametrize("path", [LESSONS[9], LESSONS[13]], ids=lambda path: path.stem)


@needs_the_classifier
def test_a_copied_lesson_takes_the_installed_package_and_its_classifier(path, tmp_path, installed):
    shutil.copy(FOLDER / "lesson.py", tmp_path)
    code = until_the_classifier([text for kind, text in cells(path) if kind == "code"])
    code, lines = run_elsewhere(tmp_path, path.name, code, installed)
    assert code == 0 and lines[-1] == f"{installed / 'tinygan' / '__init__.py'} {{1}}", lines[-3:]


@needs_the_classifier
def test_its_notebook_takes_the_package_beside_lessons(path, tmp_path, wrong_package, monkeypatch):
    pytest.importorskip("jupytext")
    monkeypatch.syspath_prepend(str(FOLDER))
    import build_site

    tree = install(tmp_path / "tree")
    site = tree / "lessons" / "out" / "site"
    site.mkdir(parents=True)
    shutil.copy(FOLDER / "lesson.py", tree / "lessons")
    build_site.build(LESSONS, site, only=[path.name[:2]], run=False)
    book = json.loads((site / "notebooks" / f"{path.stem}.ipynb").read_text("utf-8"))
    code = until_the_classifier(["".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"])
    code, lines = run_elsewhere(site / "notebooks", path.name, code, wrong_package)
    assert code == 0 and lines[-1] == f"{tree / 'tinygan' / '__init__.py'} {{1}}", lines[-3:]


def test_a_missing_classifier_is_said_in_one_line(tmp_path):
    packages = install(tmp_path / "packages")
    (packages / "tinygan" / "models" / "classifiers" / "digits.h5").unlink()
    shutil.copy(FOLDER / "lesson.py", tmp_path)
    code, lines = run_elsewhere(tmp_path, LESSONS[9].name, "import lesson\nlesson.digit_net()\n", packages)
    assert code == 1 and len(lines) == 1 and "digits.h5" in lines[0] and "train_digits.py" in lines[0]


def test_a_lesson_that_fails_is_seen(tmp_path):
    text = LESSONS[0].read_text("utf-8").replace("assert best[np.float64] < 1e-9", "assert best[np.float64] < 0")
    path = tmp_path / LESSONS[0].name
    path.write_text(text, "utf-8")
    (tmp_path / "lesson.py").write_text((FOLDER / "lesson.py").read_text("utf-8"), "utf-8")
    code, printed, _, _ = run(path, tmp_path, ROOT)
    assert code == 1 and "AssertionError" in printed


def test_an_exercise_is_tried_and_told(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["01_x.py"])
    before = threads.get_threads()
    import lesson

    threads.set_threads(before)

    def exercise_1(x):
        return x + 1

    def check(f):
        assert f(1) == 2, "f(1) should be 2"

    lesson.exercise(exercise_1, check)
    lesson.exercise(lambda x: x, check)
    assert capsys.readouterr().out.splitlines()[0] == "exercise 1: solved"
    monkeypatch.setattr(sys, "argv", ["01_x.py", "--solutions"])
    monkeypatch.setattr(lesson, "_solutions", lambda: sys)  # a module without that solution
    with pytest.raises(AttributeError):
        lesson.exercise(exercise_1, check)


@lesson
def test_its_package_tests_are_found(path):
    """`pytest -m lessonNN` picks the tests that the lesson names in its first cell (see conftest.py)."""
    names = LESSON_TESTS[f"lesson{path.name[:2]}"]
    assert names, "it names no test"
    for name in names:
        assert len(list((ROOT / "tests").rglob(name))) == 1, f"there is no {name}"
