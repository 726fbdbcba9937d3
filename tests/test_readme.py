"""What README.md shows must run, and what it links to must be there."""

import re
from pathlib import Path

import pytest
from conftest import LESSON_TESTS
from script_tools import load_script

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_snippets():
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs(number, capsys):
    exec(compile(SNIPPETS[number], f"README.md snippet {number}", "exec"), {})
    out = capsys.readouterr().out
    assert out.strip(), "a snippet that prints nothing shows nothing"


def test_local_links_exist():
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if not t.startswith("http")]
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


def tables(text: str) -> list[list[str]]:
    """The markdown tables of a text, each as its lines."""
    return [block.splitlines() for block in re.findall(r"(?m)(?:^\|.*\n?)+", text)]


@pytest.mark.parametrize("path", sorted(p.relative_to(ROOT) for folder in (".", "docs", "weights")
                                        for p in (ROOT / folder).glob("*.md")), ids=str)
def test_no_table_is_cut(path):
    """A blank line within a table ends it: what follows has no head, and is shown as it is typed."""
    for lines in tables((ROOT / path).read_text("utf-8")):
        assert len(lines) > 2 and re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", lines[1]), f"a table without a head: {lines[0]}"
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
        assert set(cells) == {cells[0]}, f"a row has more or fewer cells than its head: {lines[0]}"


def test_commands_name_flags_extras_and_marks_that_exist():
    for script, words in re.findall(r"python ((?:\w+/)*\w+\.py)((?: [^\s`&]+)*)", README):
        if script in ("train_mnist.py", "train_gpan.py"):
            known = set(load_script(script.removesuffix(".py")).build_parser()._option_string_actions)
        else:
            known = set(re.findall(r'"(--[\w-]+)"', (ROOT / script).read_text("utf-8"))) | {"--help"}
        for flag in re.findall(r"--[\w-]+", words):
            assert flag in known, f"{script} {flag}"
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for extra in re.findall(r'"\.\[(\w+)\]"', README):
        assert f"\n{extra} = [" in project
    for mark in re.findall(r"pytest -m (\w+)", README):
        assert mark in LESSON_TESTS or f'"{mark}: ' in project


def test_commands_name_files_that_exist():
    scripts = set(re.findall(r"python ((?:\w+/)*\w+\.py)", README))
    assert "train_mnist.py" in scripts
    assert [s for s in scripts if not (ROOT / s).exists()] == []
