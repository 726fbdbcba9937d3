"""What README.md shows must run, and what it links to must be there."""

import re
from pathlib import Path

import pytest

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


def test_commands_name_files_that_exist():
    scripts = set(re.findall(r"python ((?:\w+/)*\w+\.py)", README))
    assert "train_mnist.py" in scripts
    assert [s for s in scripts if not (ROOT / s).exists()] == []
