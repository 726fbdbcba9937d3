"""Build web pages and notebooks of all lessons, with what they print and draw.

    pip install ".[site]" && python lessons/build_site.py        all lessons
    python lessons/build_site.py 07 12                           these two; the other pages stay as they are

runs the lessons and writes lessons/out/site/index.html, a page for each lesson, and notebooks/ beside them.
The pages need no network. --quick runs the lessons' short forms and notes it on the pages, --no-run leaves out what
they print and draw.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import multiprocessing
import re
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from tinygan import __version__
from tinygan.app import cli
from tinygan.errors import TinyganError, UsageError

HERE = Path(__file__).resolve().parent
TITLE = "tinygan: lessons"  # of the contents, by which a folder is known as a site
QUICK = ("The lesson's short form: fewer steps and samples than in the text, so its numbers and pictures are "
         "poorer. Whole: python lessons/build_site.py")
STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --code: #f5f7f9; --link: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 17px/1.6 Georgia, "Times New Roman", serif; }
main, nav { max-width: 58rem; margin: 0 auto; padding: 0 1rem; }
nav { display: flex; justify-content: space-between; gap: 1rem; padding-top: .8rem; padding-bottom: .8rem;
      font: 14px/1.4 system-ui, sans-serif; }
nav.top { border-bottom: 1px solid var(--line); } nav.end { border-top: 1px solid var(--line); margin-top: 2.5rem; }
nav span { flex: 1; } nav span:nth-child(2) { text-align: center; } nav span:nth-child(3) { text-align: right; }
p, ul, ol, h1, h2, h3 { max-width: 46rem; }
h1, h2, h3 { font-family: system-ui, sans-serif; line-height: 1.25; }
h1 { font-size: 1.7rem; margin: 1.6rem 0 .8rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
pre { margin: .8rem 0; padding: .7rem .9rem; overflow-x: auto; background: var(--code); border-radius: 4px;
      font: 13.5px/1.5 ui-monospace, Menlo, Consolas, monospace; }
code { font: .86em ui-monospace, Menlo, Consolas, monospace; background: var(--code); overflow-wrap: anywhere; }
pre code { background: none; font: inherit; overflow-wrap: normal; }
pre.out { background: #fff; border-left: 3px solid #c9d3de; border-radius: 0; color: #35404d; }
p.quick { margin: 1rem 0 0; padding: .6rem .9rem; border-left: 4px solid #d9822b; background: #fdf3e7; }
img { display: block; max-width: 100%; height: auto; margin: 1rem auto; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .95em; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; vertical-align: top; }
ol.lessons { list-style: none; padding: 0; } ol.lessons li { display: flex; gap: 1rem; padding: .9rem 0;
          border-bottom: 1px solid var(--line); align-items: flex-start; }
ol.lessons img { width: 8.5rem; margin: .2rem 0 0; flex: none; } ol.lessons p { margin: .2rem 0; }
ol.lessons .about { color: var(--soft); font-size: .92em; }
@media (max-width: 34rem) { body { font-size: 16px; } ol.lessons img { width: 5.5rem; } pre { font-size: 12.5px; } }
"""


class Shown(NamedTuple):
    """The output of one code cell: its text, and the pictures it saved."""

    text: str
    pictures: list[Path]


def find_lessons(folder: Path = HERE) -> list[Path]:
    """List the lessons, NN_title.py, in their order."""
    return sorted(folder.glob("[0-9][0-9]_*.py"))


def read(path: Path) -> list[Any]:
    """Read the cells of a lesson, each with cell_type ("markdown" or "code") and source."""
    import jupytext

    return jupytext.read(path).cells


def about(cells: list[Any]) -> dict[str, str]:
    """Take title, goal and minutes from a lesson's first cell, a paragraph for each."""
    facts = {"title": cells[0].source.partition("\n")[0].lstrip("# ")}
    text = " ".join(line.strip() or "\n" for line in cells[0].source.splitlines())
    for name, mark, end in (("goal", "**Goal.**", "\n"), ("minutes", "**Minutes:**", ".")):
        facts[name] = text.partition(mark)[2].partition(end)[0].strip()
    return facts


def run_cells(path: Path, quick: bool) -> list[Shown | str]:
    """Run a lesson's code cells one after the other, as Python would run the file; a str, the error, ends the list."""
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path), *(["--quick"] if quick else [])]
    import lesson

    lines, at, shown = path.read_text("utf-8").splitlines(), 0, []
    names = {"__name__": "__main__", "__file__": str(path)}
    for cell in read(path):
        if cell.cell_type != "code":
            continue
        first = cell.source.splitlines()[0]
        at = lines.index(first, at)  # so that an error names the line of the lesson
        out, before = io.StringIO(), len(lesson.saved)
        try:
            with contextlib.redirect_stdout(out):
                exec(compile("\n" * at + cell.source, str(path), "exec"), names)
        except BaseException:
            return [*shown, out.getvalue() + traceback.format_exc(limit=-1)]
        shown.append(Shown(out.getvalue(), lesson.saved[before:]))
        at += 1
    return shown


def cell_html(cell: Any, shown: Shown | None, number: str) -> str:
    """Render one cell as HTML."""
    if cell.cell_type == "markdown":
        from markdown_it import MarkdownIt

        return MarkdownIt("commonmark").enable("table").render(cell.source)
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    parts = [highlight(cell.source, PythonLexer(), HtmlFormatter(noclasses=True, style="friendly", nobackground=True,
                                                                 wrapcode=True))]
    if shown:
        if shown.text.strip():
            parts.append(f'<pre class="out">{html.escape(shown.text.rstrip())}</pre>')
        parts += [f'<img src="pictures/{p.name}" alt="{html.escape(p.stem.replace("_", " "))}, drawn by lesson '
                  f'{number}">' for p in shown.pictures]
    return "\n".join(parts)


def quick_note(number: str) -> str:
    """Return the note that stands first on the page of a short form."""
    return f'<p class="quick">{html.escape(QUICK)} {number}</p>'


def page(title: str, body: str, links: tuple[str, str, str] | None = None) -> str:
    """Return a whole page; links: previous, contents and next, as HTML."""
    def nav(place: str) -> str:
        return "" if links is None else (f'<nav class="{place}" aria-label="lessons">'
                                         + "".join(f"<span>{link}</span>" for link in links) + "</nav>")

    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
            f"<style>{STYLE}</style></head><body>{nav('top')}<main>{body}</main>{nav('end')}</body></html>\n")


def link(path: Path, cells: list[Any], before: str = "", after: str = "") -> str:
    return f'<a href="{path.stem}.html">{before}{html.escape(about(cells)["title"])}{after}</a>'


def contents(lessons: list[tuple[Path, list[Any]]], out: Path) -> str:
    """Return the page with links to every lesson that has its page in `out`."""
    rows = []
    for path, cells in lessons:
        if not (out / f"{path.stem}.html").is_file():
            continue
        facts, made = about(cells), (out / f"{path.stem}.html").read_text("utf-8")
        picture = re.search(r'<img src="(pictures/[^"]+)"', made)
        image = f'<img src="{picture[1]}" alt="" loading="lazy">' if picture else ""
        book = f'<a href="notebooks/{path.stem}.ipynb">notebook</a>'
        short = "; the short form" if quick_note(path.name[:2]) in made else ""
        rows.append(f'<li>{image}<div><p>{link(path, cells)}</p><p>{html.escape(facts["goal"].replace("*", ""))}</p>'
                    f'<p class="about">Minutes: {html.escape(facts["minutes"])}; {book}{short}</p></div></li>')
    return page(TITLE, "<h1>From one derivative to a GPAN</h1><p>Each lesson is a Python script that "
                "explains, computes, draws and checks itself. What follows is what the scripts printed and drew. "
                "Run one yourself: <code>python lessons/01_a_derivative_three_ways.py</code>.</p>"
                f'<ol class="lessons">{"".join(rows)}</ol>')


def notebook(path: Path, shown: list[Shown], quick: bool) -> str:
    """Return the lesson as a notebook in Jupyter's format, with the output of its cells."""
    import jupytext

    book, results = jupytext.read(path), iter(shown)
    for cell in book.cells:
        if cell.cell_type != "code" or (result := next(results, None)) is None:
            continue
        if result.text:
            cell.outputs.append({"output_type": "stream", "name": "stdout", "text": result.text})
        cell.outputs += [{"output_type": "display_data", "metadata": {},
                          "data": {"image/png": base64.b64encode(p.read_bytes()).decode()}} for p in result.pictures]
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    first.source = ('import sys\nsys.path.insert(0, "../../..")  # the folder lessons/, if it is there\n\n'
                    + first.source)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    from nbformat import from_dict, writes
    from nbformat.v4 import new_markdown_cell

    if quick:
        book.cells.insert(0, new_markdown_cell(f"**{QUICK} {path.name[:2]}**"))
    return writes(from_dict(book))


def check_place(out: Path) -> None:
    """Raise UsageError if `out` holds something else than a site of this script."""
    index = out / "index.html"
    ours = index.is_file() and f"<title>{TITLE}</title>" in index.read_text("utf-8", errors="replace")
    if out.exists() and not ours and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there and is no site of the lessons; name another folder with --out")


def build(lessons: list[Path], out: Path, *, only: Sequence[str] = (), quick: bool = False,
          run: bool = True) -> list[str]:
    """Write the site to `out`; return a line for each lesson that failed.

    lessons: all there are, in their order. only: numbers ("07") of those to build, all without it. Other pages and
    notebooks that are there already stay. Raises UsageError if the folder holds something else.
    """
    check_place(out)
    for part in ("pictures", "notebooks"):
        (out / part).mkdir(parents=True, exist_ok=True)
    everything = [(path, read(path)) for path in lessons]
    chosen = [i for i, path in enumerate(lessons) if not only or path.name[:2] in only]
    linked = {i for i, path in enumerate(lessons) if i in chosen or (out / f"{path.stem}.html").is_file()}
    shutil.copy(HERE / "lesson.py", out / "notebooks")  # so that they run elsewhere, with an installed tinygan
    (out / "index.html").write_text(contents(everything, out), "utf-8")
    failed = []
    for count, i in enumerate(chosen, 1):
        (path, cells), started, shown = everything[i], time.monotonic(), []
        number = path.name[:2]
        if run:
            print(f"{count}/{len(chosen)} {path.name} ...", end=" ", flush=True)
            # Each in a new process, so that none depends on another.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                shown = pool.submit(run_cells, path, quick).result()
            print(f"{time.monotonic() - started:.0f} s")
            if shown and isinstance(shown[-1], str):
                failed.append(f"{path.name}: {shown.pop().strip().splitlines()[-1]}")
        for old in (out / "pictures").glob(f"{number}_*.png"):
            old.unlink()
        for picture in (p for s in shown for p in s.pictures):
            shutil.copy(picture, out / "pictures")
        results, short = iter(shown), quick and run
        body = "\n".join(cell_html(cell, next(results, None) if cell.cell_type == "code" else None, number)
                         for cell in cells)
        back = link(*everything[i - 1], before="← ") if i - 1 in linked else ""
        on = link(*everything[i + 1], after=" →") if i + 1 in linked else ""
        (out / f"{path.stem}.html").write_text(
            page(about(cells)["title"], (quick_note(number) if short else "") + body,
                 (back, '<a href="index.html">contents</a>', on)), "utf-8")
        (out / "notebooks" / f"{path.stem}.ipynb").write_text(notebook(path, shown, short), "utf-8")
    (out / "index.html").write_text(contents(everything, out), "utf-8")
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(description=__doc__.partition("\n")[0], version=__version__)
    p.add_argument("lesson", nargs="*", help="numbers of lessons to build, such as 07 12; all without any")
    p.add_argument("--out", type=Path, default=HERE / "out" / "site",
                   help="an empty folder, or an earlier site [default: lessons/out/site]")
    p.add_argument("--quick", action="store_true", help="run the lessons' short forms; the pages note it")
    p.add_argument("--no-run", action="store_true", help="pages without what the lessons print and draw")
    args = p.parse_args(argv)
    lessons = find_lessons()
    numbers = [path.name[:2] for path in lessons]
    if unknown := [word for word in args.lesson if word.zfill(2) not in numbers]:
        raise UsageError(f"there is no lesson {unknown[0]}: name numbers from {numbers[0]} to {numbers[-1]}")
    try:
        import jupytext  # noqa: F401 - here for its message
    except ImportError:
        raise TinyganError('the site needs jupytext: pip install ".[site]"') from None
    failed = build(lessons, args.out, only=[word.zfill(2) for word in args.lesson], quick=args.quick,
                   run=not args.no_run)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    print(f"open {args.out / 'index.html'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
