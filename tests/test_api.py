"""docs/make_api.py: what it makes of a tiny module, and that a stale page is noticed."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "make_api.py"
SOURCE = '''
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
import numpy as np

class Box:
    """A box of numbers.

    value: what is in it,
        on two lines.

        box = Box(3)
    """
    def __init__(self, value: int = 3) -> None:
        """Not shown."""
    def double(self, times: float = 2.0) -> float:
        """Multiply the value."""
    @property
    def half(self) -> float:
        """Half the value."""
    @staticmethod
    def make(text: str) -> Box:
        """Make a box of text."""
    def silent(self): ...

@dataclass
class Plain:
    size: int = 1

def long(first: np.ndarray, second: Path | None = None, *, third: tuple[int, ...] = (1, 2), call=np.sum, fourth=None
         ) -> tuple[np.ndarray, float]:
    """Compute it (N, 2), in pixels. Raises UsageError."""

def _hidden(): ...
CONSTANT = 4
'''


@pytest.fixture(scope="module")
def api():
    spec = importlib.util.spec_from_file_location("make_api", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(monkeypatch):
    module = types.ModuleType("tiny_room")
    monkeypatch.setitem(sys.modules, "tiny_room", module)
    code = compile(SOURCE, "tiny_room.py", "exec")
    types.FunctionType(code, module.__dict__)()
    return module


def test_public_names(api, tiny):
    assert list(api.public_names([tiny])) == ["Box", "Plain", "long"]
    assert list(api.public_names([tiny], ["long", "Box"])) == ["long", "Box"]
    tiny.__all__ = ["Path", "CONSTANT", "long"]  # a name from elsewhere is shown where it is listed
    assert list(api.public_names([tiny])) == ["Path", "long"]
    with pytest.raises(LookupError, match="no module has absent"):
        api.public_names([tiny], ["absent"])
    tiny.__all__ = ["absent"]
    with pytest.raises(AttributeError):
        api.public_names([tiny])


def test_the_page(api, tiny):
    text = api.page({"tiny": ("A tiny room.", ("tiny_room",), ())})
    assert "- [`tiny`](#tiny): A tiny room. [`Box`](#tiny-Box), [`Plain`](#tiny-Plain), [`long`](#tiny-long)" in text
    assert all(text.count(f'<a id="{place}"></a>') == 1 for place in ("tiny", "tiny-Box", "tiny-Plain", "tiny-long"))
    assert "class Box(value: int = 3)" in text and "class Plain(size: int = 1)" in text
    assert "double(self, times: float = 2.0) -> float" in text and "make(text: str) -> Box" in text
    assert "half  # property" in text and "Half the value." in text
    assert "value: what is in it,\n    on two lines.\n\n```python\nbox = Box(3)\n```" in text
    assert ("long(\n    first: np.ndarray,\n    second: Path | None = None,\n    *,\n    third: tuple[int, ...] = (1, "
            "2),\n    call=sum,\n    fourth=None,\n) -> tuple[np.ndarray, float]") in text
    assert "Compute it (N, 2), in pixels. Raises UsageError." in text
    assert not any(word in text for word in ("_hidden", "Not shown", "silent", "CONSTANT", "0x", "= 1)\n\n"))


def test_a_stale_page_is_one_line(api, tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(api, "ROOMS", {"tiny": ("A tiny room.", ("tiny_room",), ())})
    page = tmp_path / "api.md"
    assert api.main(["--check", "--page", str(page)]) == 1
    assert api.main(["--page", str(page)]) == 0 and api.main(["--check", "--page", str(page)]) == 0
    capsys.readouterr()
    tiny.long.__doc__ = "Compute another."
    assert api.main(["--check", "--page", str(page)]) == 1
    assert capsys.readouterr().err == "api.md is not what the docstrings say; run python docs/make_api.py\n"


def test_every_room_can_be_read(api):
    """Every module of the table exists, and every name has a signature and a docstring."""
    text = api.page(api.ROOMS)
    assert text == api.page(api.ROOMS) and " at 0x" not in text
    assert all(f"\n## {room}\n" in text for room in api.ROOMS)


def test_the_page_is_what_the_docstrings_say(api):
    assert api.main(["--check"]) == 0
