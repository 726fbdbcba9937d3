"""One HTML file that shows a whole run: pictures, curves, settings, figures. It can be mailed, or read on a phone.

All content is inside the file (pictures as data), nothing is fetched and no script runs.
"""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygan.app import pictures
from tinygan.app.columns import COLUMNS, Column
from tinygan.app.gpan_measure import in_words
from tinygan.app.measure_stacked import in_words as triples_in_words
from tinygan.app.runfiles import read_config, read_log, samples
from tinygan.data.files import reading, whole_file
from tinygan.errors import TinyganError
from tinygan.metrics import log as metrics_log

STRIP = 8  # pictures in the strip of samples over the steps
CAMS = "cams.png"
STRIP_WIDTH = 600  # pixels of one at most; they are shown small, and the file is to be mailed
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; } .pixels { image-rendering: pixelated; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .6rem; }
.strip img, .wide { width: 100%; }
figure { margin: 0; } figcaption { font-size: .85rem; color: #666; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #ddd; }
td { overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.health { border-left: .3rem solid #009e73; padding: .4rem .8rem; background: #f4f4f4; }
.health.bad { border-color: #d55e00; }
"""


def write_report(folder: str | os.PathLike) -> Path:
    """Write folder/report.html from what lies in the run folder; return its path. What is absent is left out.

    Raises TinyganError if the folder is not a run's, OSError if the file cannot be written.
    """
    folder = Path(folder)
    config, rows = read_config(folder), read_log(folder)
    title = html.escape(folder.resolve().name)
    parts = [f"<h1>{title}</h1>", _health(rows), _pictures(folder), _metrics(rows), _config(config)]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    with whole_file(folder / "report.html") as file:
        file.write(page.encode(errors="backslashreplace"))
    return folder / "report.html"


def _health(rows: Sequence[Mapping[str, float]]) -> str:
    """Format the state of the run at the last logged step, and the states before it, as HTML."""
    if not rows:
        return "<p>Nothing has been logged yet.</p>"
    gpan = _of_classifier(rows)
    if gpan and "d_loss" not in rows[-1]:  # no discriminator
        return gpan
    now = metrics_log.assess_log(rows)
    mood = "health" if now.status in ("well", "starting") else "health bad"
    text = f'<p class="{mood}">At step {rows[-1]["step"]:,}, {html.escape(now.sentence)}.</p>'
    if now.status not in ("starting", "broken"):
        text += (f"<p><small>D's probabilities, losses and gradients are medians over the last "
                 f"{metrics_log.WINDOW} rows of the log; the table below has the last row.</small></p>")
    story = metrics_log.history(rows)
    if len(story) > 1:
        shown = story if len(story) <= 12 else story[:6] + story[-6:]
        cut = "" if len(story) <= 12 else f" (the first and last 6 of {len(story)} changes)"
        items = "".join(f"<li>step {step:,}: {html.escape(state.sentence)}</li>" for step, state in shown)
        text += f"<details><summary>How it came to this{cut}</summary><ul>{items}</ul></details>"
    return gpan + _of_triples(rows) + text


def _of_triples(rows: Sequence[Mapping[str, float]]) -> str:
    """Describe the triples of stacked digits that were measured last; "" for another run."""
    measured = [row for row in rows if "modes_sure" in row]  # the study's points have modes, too
    if not measured:
        return ""
    return f'<p class="health">At step {measured[-1]["step"]:,}, {html.escape(triples_in_words(measured[-1]))}.</p>'


def _of_classifier(rows: Sequence[Mapping[str, float]]) -> str:
    """Describe how well a GPAN's images show the wanted classes at the last logged step; "" for another run."""
    if "wanted" not in rows[-1]:
        return ""
    words = in_words(rows[-1])
    return f'<p class="health">{html.escape(words[:1].upper() + words[1:])}.</p>'


def _pictures(folder: Path) -> str:
    """Format the pictures of the run folder as HTML, each under its heading."""
    parts = []
    every = samples(folder)
    if every:
        chosen = [
            every[i]
            for i in sorted({round(i) for i in np.linspace(0, len(every) - 1, min(STRIP, len(every)))})
        ]
        strip = "".join(_figure(path, f"step {step:,}", widest=STRIP_WIDTH) for step, path in chosen)
        parts.append(f'<h2>Samples while it learned</h2><div class="strip">{strip}</div>')
        step, path = every[-1]
        parts.append(f"<h2>Samples at the end</h2>{_figure(path, f'step {step:,}')}")
    gpan = (folder / CAMS).is_file()
    of_routes = ("left the substrate; each further column is one route through the filter banks, each row one noise"
                 if gpan else "each column is one route through the filter banks, each row one noise vector")
    of_routes += "; above a column its route, as sample.py --route takes it"
    for name, heading, caption, style in (
        (CAMS, "Importance maps", "beside each image: the brighter a place, the more it raises the "
         "score of the wanted classes", "wide"),
        ("training.gif", "The same noise, step by step", "", "pixels"),
        ("routes.png", "Routes", of_routes, "pixels"),
        ("nearest.png", "Samples and the photos nearest to them", "rows in pairs: samples, those nearest to a photo "
         "first, and under each the photo that its pixels are nearest to (mirrored where that is nearer)", "pixels"),
        ("loss.png", "Curves", "", "wide"),
    ):
        if (folder / name).is_file():
            parts.append(f"<h2>{heading}</h2>{_figure(folder / name, caption, style)}")
    return "\n".join(parts)


def _figure(path: Path, caption: str, style: str = "pixels", widest: int | None = None) -> str:
    """Format a picture with its caption as HTML, shrunk to `widest` pixels; "" where it cannot be read."""
    try:
        with reading(path, math.inf) as file:
            content = file.read()
    except TinyganError:  # removed this moment, or not readable for this user
        return ""
    if widest:
        try:
            picture = pictures.read_png(path)
        except TinyganError:  # a damaged one is shown as what it is: no reason to have no report
            picture = None
        if picture is not None and picture.shape[1] > widest:
            content = pictures.png_bytes(pictures.shrunk(picture, widest))
    source = f"data:image/{path.suffix[1:]};base64,{base64.b64encode(content).decode()}"
    image = f'<img class="{style}" alt="{html.escape(caption or path.stem)}" src="{source}">'
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _metrics(rows: Sequence[Mapping[str, float]]) -> str:
    """Format the first, best and last value of each logged column as an HTML table."""
    lines = []
    for name in dict.fromkeys(name for row in rows for name in row if name and name != "step"):
        known = [(row[name], row["step"]) for row in rows if name in row]
        finite = [pair for pair in known if np.isfinite(pair[0])]
        best = "–"
        column = COLUMNS.get(name, Column(name))
        if column.best and finite:
            value, step = column.best(finite, key=lambda pair: pair[0])
            best = f"{value:.4g} (step {step:,})"
        cells = (f"{known[0][0]:.4g}", best, f"{known[-1][0]:.4g}")
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        lines.append(f"<tr><td>{html.escape(column.words)}</td>{numbers}</tr>")
    if not lines:
        return ""
    head = (
        "<tr><th></th>"
        + "".join(f'<th class="number">{word}</th>' for word in ("first", "best", "last"))
        + "</tr>"
    )
    return f'<h2>Figures</h2><div class="table"><table>{head}{"".join(lines)}</table></div>'


def _config(config: Mapping) -> str:
    """Format the settings and versions of the run as HTML tables."""
    def table(entries: Mapping) -> str:
        """Format names and values as an HTML table."""
        lines = "".join(
            f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(_text(value))}</td></tr>"
            for name, value in entries.items()
        )
        return f'<div class="table"><table>{lines}</table></div>'

    versions = config.get("versions")
    tail = f"<h2>Versions</h2>{table(versions)}" if isinstance(versions, dict) else ""
    return f"<h2>Settings</h2>{table(config['flags'])}{tail}"


def _text(value: Any) -> str:
    """Format a setting, a list by commas."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
