"""Every lesson is found by its name, has the form that the others have, runs quickly, draws, and checks itself.

The list of lessons is the folder. Here they run in their short form; .ci/weekly runs them whole.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LESSON_TESTS

ROOT = Path(__file__).resolve().parents[1]
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


def run(path: Path, out: Path) -> tuple[int, str, object]:
    """(exit code, output, resource usage) of one lesson's short form, with its solutions tried."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("TINYGAN_DATA", "TINYGAN_VGG16")}
    with open(out / "printed.txt", "w+b") as printed:
        process = subprocess.Popen([sys.executable, str(path), "--quick", "--solutions"], stdout=printed,
                                   stderr=subprocess.STDOUT, cwd=out,
                                   env=environment | {"TINYGAN_LESSONS_OUT": str(out), "PYTHONPATH": str(ROOT)})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        return process.returncode, printed.read().decode(), usage


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
def test_it_runs(path, tmp_path):
    code, printed, usage = run(path, tmp_path)
    assert code == 0, printed[-2_000:]
    pictures = sorted(tmp_path.glob("*.png"))
    assert pictures and all(p.name.startswith(path.name[:2] + "_") for p in pictures)
    for picture in pictures:
        assert f"{picture.name}\n" in printed and picture.read_bytes()[:4] == b"\x89PNG"
    exercises = path.read_text("utf-8").count("\nlesson.exercise(")
    assert printed.count("the solution passes") == exercises
    assert printed.count("not solved yet") == exercises, "an exercise is solved before the reader comes"
    assert usage.ru_utime + usage.ru_stime <= CPU_SECONDS
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1_024)
    assert peak <= PEAK_BYTES, f"{peak / 1e6:.0f} MB at the peak"


def test_a_lesson_that_fails_is_seen(tmp_path):
    text = LESSONS[0].read_text("utf-8").replace("assert best[np.float64] < 1e-9", "assert best[np.float64] < 0")
    path = tmp_path / LESSONS[0].name
    path.write_text(text, "utf-8")
    (tmp_path / "lesson.py").write_text((FOLDER / "lesson.py").read_text("utf-8"), "utf-8")
    code, printed, _ = run(path, tmp_path)
    assert code == 1 and "AssertionError" in printed


def test_an_exercise_is_tried_and_told(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["01_x.py"])
    import lesson

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
        assert (ROOT / "tests" / name).is_file(), f"there is no {name}"
