"""The lessons as web pages and notebooks."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LESSON = '''# %% [markdown]
# # {number:02} · Title & <more>
#
# **Goal.** See two
# lines joined.
#
# **You need** nothing. **Minutes:** 1 to read, none to run.

# %%
import lesson

x = 20 + {number}
print(f"x = {{x}} <b>")

# %% [markdown]
# A formula, and a [link]({link}):
#
#     y = a < b

# %%
fig, ax = lesson.figure()
ax.plot([1, 2])
lesson.save(fig, "{number:02}_line")
{last}
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The builder, and a folder for lessons of this test."""
    pytest.importorskip("jupytext")
    monkeypatch.syspath_prepend(str(ROOT / "lessons"))
    monkeypatch.setenv("TINYGAN_LESSONS_OUT", str(tmp_path / "pictures"))
    import build_site

    return build_site


def write(folder: Path, number: int, link: str = "01_a.html", last: str = "") -> Path:
    path = folder / f"{number:02}_{'abc'[number - 1]}.py"
    path.write_text(LESSON.format(number=number, link=link, last=last), "utf-8")
    return path


def broken_links(folder: Path) -> list[str]:
    """Links and pictures of the pages that lead nowhere; what is on the network counts, too."""
    found = []
    for page in sorted(folder.glob("*.html")):
        for target in re.findall(r'(?:href|src)="([^"#]+)"', page.read_text("utf-8")):
            if not (folder / target).is_file():
                found.append(f"{page.name}: {target}")
    return found


def test_pages_show_what_a_lesson_printed_and_drew(site, tmp_path):
    lessons = [write(tmp_path, number) for number in (1, 2, 3)]
    (tmp_path / "lesson.py").write_text((ROOT / "lessons" / "lesson.py").read_text("utf-8"), "utf-8")
    assert site.find_lessons(tmp_path) == lessons
    out = tmp_path / "site"
    assert site.build(lessons, out, quick=True) == []
    text = (out / "02_b.html").read_text("utf-8")
    assert "x = 22 &lt;b&gt;" in text and 'src="pictures/02_line.png"' in text and "y = a &lt; b" in text
    assert 'href="01_a.html">← 01' in text and 'href="03_c.html">03' in text and 'href="index.html"' in text
    contents = (out / "index.html").read_text("utf-8")
    assert "See two lines joined." in contents and "Title &amp; &lt;more&gt;" in contents
    assert broken_links(out) == []
    assert "http" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)  # nothing comes from a network
    book = json.loads((out / "notebooks" / "02_b.ipynb").read_text("utf-8"))
    assert "short form" in "".join(book["cells"][0]["source"]) and "short form" in text.partition("<h1>")[0]
    outputs = [output for cell in book["cells"] for output in cell.get("outputs", [])]
    assert "".join(outputs[0]["text"]).startswith("x = 22") and "image/png" in outputs[-1]["data"]


def test_one_lesson_is_built_and_the_other_pages_stay(site, tmp_path, capsys):
    lessons, out = [write(tmp_path, number) for number in (1, 2, 3)], tmp_path / "site"
    (tmp_path / "lesson.py").write_text((ROOT / "lessons" / "lesson.py").read_text("utf-8"), "utf-8")
    site.build(lessons, out, only=["01", "02"], run=False)
    before = (out / "01_a.html").read_bytes()
    site.build(lessons, out, only=["02"], quick=True)
    assert (out / "01_a.html").read_bytes() == before and not (out / "03_c.html").exists() and broken_links(out) == []
    index = (out / "index.html").read_text("utf-8")
    assert index.count("<li>") == 2 and index.count("the short form") == 1  # of lesson 2
    assert "1/1 02_b.py" in capsys.readouterr().out


def test_what_is_printed_does_not_wrap(site):
    """A table must keep its columns on a narrow screen; it scrolls instead."""
    rules = dict(re.findall(r"(?m)^(pre[^{]*?) \{([^}]*)\}", site.STYLE))
    assert "overflow-x: auto" in rules["pre"] and not any("wrap" in rule for rule in (rules["pre"], rules["pre.out"]))


@pytest.mark.parametrize("make, words, expected", [
    (lambda out: out.mkdir() or (out / "mine.txt").write_text("x"), [], "is no site"),
    (lambda out: out.mkdir() or (out / "index.html").write_text("my page"), [], "is no site"),
    (lambda out: out.write_text("x"), [], "is no site"),
    (lambda out: None, ["99"], "there is no lesson 99"), (lambda out: None, ["7a"], "there is no lesson 7a"),
], ids=["a folder in use", "another site", "a file", "no such lesson", "no number"])
def test_it_refuses_in_one_line_and_leaves_what_is_there(make, words, expected, site, tmp_path, capsys):
    out = tmp_path / "out"
    make(out)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert site.cli.run_main(site.main, [*words, "--no-run", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert before == {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}


def test_a_broken_link_is_seen(site, tmp_path):
    site.build([write(tmp_path, 1, link="nowhere.html")], tmp_path / "site", run=False)
    assert broken_links(tmp_path / "site") == ["01_a.html: nowhere.html"]


def test_a_lesson_that_fails_is_named_with_its_line(site, tmp_path):
    (tmp_path / "lesson.py").write_text((ROOT / "lessons" / "lesson.py").read_text("utf-8"), "utf-8")
    path = write(tmp_path, 1, last="assert x == 0, 'x is wrong'")
    (failed,) = site.build([path], tmp_path / "site")
    assert failed == "01_a.py: AssertionError: x is wrong"
    shown = (tmp_path / "site" / "01_a.html").read_text("utf-8")
    assert "x = 21" in shown  # what came before it is there
    assert "short form" not in shown + (tmp_path / "site" / "notebooks" / "01_a.ipynb").read_text("utf-8")


def test_the_site_of_all_lessons_has_no_broken_link(site, tmp_path):
    lessons = site.find_lessons()
    site.build(lessons, tmp_path / "site", run=False)
    pages = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert pages == {"index", *(path.stem for path in lessons)}
    assert broken_links(tmp_path / "site") == []
    for path in lessons:
        told = site.about(site.read(path))
        assert told["goal"][-1] in ".?" and told["minutes"] and told["title"].startswith(path.name[:2])


def test_without_jupytext_it_says_what_to_install(site, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jupytext", None)
    assert site.cli.run_main(site.main, ["--no-run"]) == 1
    assert capsys.readouterr().err == 'error: the site needs jupytext: pip install ".[site]"\n'
