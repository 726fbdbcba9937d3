"""All lessons as web pages and as notebooks, with what they print and draw.

    pip install ".[site]" && python lessons/build_site.py

runs every lesson and writes lessons/out/site/index.html, a page for each lesson, and notebooks/ beside them.
The pages need no network. --quick runs the lessons' short forms, --no-run leaves out what they print and draw.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import html
import io
import multiprocessing
import shutil
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
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
pre.out { background: #fff; border-left: 3px solid #c9d3de; border-radius: 0; color: #35404d; white-space: pre-wrap;
          overflow-wrap: anywhere; }
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
    """What one code cell left: its text, and the pictures it saved."""

    text: str
    pictures: list[Path]


def find_lessons(folder: Path = HERE) -> list[Path]:
    """The lessons in their order: NN_title.py."""
    return sorted(folder.glob("[0-9][0-9]_*.py"))


def read(path: Path) -> list[Any]:
    """The cells of a lesson, each with cell_type ("markdown" or "code") and source."""
    import jupytext

    return jupytext.read(path).cells


def about(cells: list[Any]) -> dict[str, str]:
    """title, goal and minutes from a lesson's first cell, one paragraph for each."""
    found = {"title": cells[0].source.partition("\n")[0].lstrip("# ")}
    text = " ".join(line.strip() or "\n" for line in cells[0].source.splitlines())
    for name, mark, end in (("goal", "**Goal.**", "\n"), ("minutes", "**Minutes:**", ".")):
        found[name] = text.partition(mark)[2].partition(end)[0].strip()
    return found


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
    """One cell as HTML."""
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


def page(title: str, body: str, links: tuple[str, str, str] | None = None) -> str:
    """A whole page; links: previous, contents and next, as HTML."""
    def nav(place: str) -> str:
        return "" if links is None else (f'<nav class="{place}" aria-label="lessons">'
                                         + "".join(f"<span>{link}</span>" for link in links) + "</nav>")

    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
            f"<style>{STYLE}</style></head><body>{nav('top')}<main>{body}</main>{nav('end')}</body></html>\n")


def link(path: Path, cells: list[Any], before: str = "", after: str = "") -> str:
    return f'<a href="{path.stem}.html">{before}{html.escape(about(cells)["title"])}{after}</a>'


def contents(lessons: list[tuple[Path, list[Any], list[Shown]]]) -> str:
    """The page that leads to all others."""
    rows = []
    for path, cells, shown in lessons:
        told = about(cells)
        picture = next((p for s in shown for p in s.pictures), None)
        image = f'<img src="pictures/{picture.name}" alt="" loading="lazy">' if picture else ""
        book = f'<a href="notebooks/{path.stem}.ipynb">notebook</a>'
        rows.append(f'<li>{image}<div><p>{link(path, cells)}</p><p>{html.escape(told["goal"].replace("*", ""))}</p>'
                    f'<p class="about">Minutes: {html.escape(told["minutes"])}; {book}</p></div></li>')
    return page("tinygan: lessons", "<h1>From one derivative to a GPAN</h1><p>Each lesson is a Python script that "
                "explains, computes, draws and checks itself. What follows is what the scripts printed and drew. "
                "Run one yourself: <code>python lessons/01_a_derivative_three_ways.py</code>.</p>"
                f'<ol class="lessons">{"".join(rows)}</ol>')


def notebook(path: Path, shown: list[Shown]) -> str:
    """The lesson as a notebook in Jupyter's format, with what its cells left."""
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
    first.source = ('import sys\nsys.path += ["..", "../..", "../../.."]  # where lesson.py and tinygan are\n\n'
                    + first.source)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    from nbformat import from_dict, writes

    return writes(from_dict(book))


def build(lessons: list[Path], out: Path, *, quick: bool = False, run: bool = True) -> list[str]:
    """Write the site to `out`; returns what went wrong, a line for each lesson that failed."""
    shutil.rmtree(out, ignore_errors=True)
    for part in ("pictures", "notebooks"):
        (out / part).mkdir(parents=True)
    done, failed = [], []
    for i, path in enumerate(lessons):
        started, shown = time.monotonic(), []
        if run:
            print(f"{i + 1}/{len(lessons)} {path.name} ...", end=" ", flush=True)
            # Each in a process of its own, so that none sees what another left.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                shown = pool.submit(run_cells, path, quick).result()
            print(f"{time.monotonic() - started:.0f} s")
            if shown and isinstance(shown[-1], str):
                failed.append(f"{path.name}: {shown.pop().strip().splitlines()[-1]}")
        for picture in (p for s in shown for p in s.pictures):
            shutil.copy(picture, out / "pictures")
        done.append((path, read(path), shown))
    for i, (path, cells, shown) in enumerate(done):
        results, number = iter(shown), path.name[:2]
        body = "\n".join(cell_html(cell, next(results, None) if cell.cell_type == "code" else None, number)
                         for cell in cells)
        back = link(*done[i - 1][:2], before="← ") if i else ""
        on = link(*done[i + 1][:2], after=" →") if i + 1 < len(done) else ""
        title = about(cells)["title"]
        (out / f"{path.stem}.html").write_text(
            page(title, body, (back, '<a href="index.html">contents</a>', on)), "utf-8")
        (out / "notebooks" / f"{path.stem}.ipynb").write_text(notebook(path, shown), "utf-8")
    (out / "index.html").write_text(contents(done), "utf-8")
    return failed


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--out", type=Path, default=HERE / "out" / "site", help="default: lessons/out/site")
    p.add_argument("--quick", action="store_true", help="run the lessons' short forms")
    p.add_argument("--no-run", action="store_true", help="pages without what the lessons print and draw")
    args = p.parse_args(argv)
    try:
        import jupytext  # noqa: F401 - here for its message
    except ImportError:
        print('the site needs jupytext: pip install ".[site]"', file=sys.stderr)
        return 1
    failed = build(find_lessons(), args.out, quick=args.quick, run=not args.no_run)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    print(f"open {args.out / 'index.html'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
