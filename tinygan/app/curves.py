"""Curves of a training log, drawn by matplotlib straight into a PNG: no window, no display, no global state."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinygan.app.columns import COLUMNS, GAN_PANELS, GPAN_PANELS, Column, Panel
from tinygan.app.pictures import write
from tinygan.errors import TinyganError

NEAR_ZERO = 1e-3  # of a symlog scale, which is linear below it: our choice


def loss_plot(path: str | os.PathLike, log: Mapping[str, Sequence[float]], *, title: str = "") -> None:
    """Plot the log of a run as PNG: losses, D's probabilities, and the variety of the samples where it was logged; of
    a GPAN each loss, the norm of its gradient, and how often the classifier gives a wanted class.

    log: by column; "step", and any of columns.COLUMNS. Values that are not finite leave a gap. A column that is absent
    draws nothing. A log with "wanted" is a GPAN's. Raises TinyganError without matplotlib, OSError where the file
    cannot be written.
    """
    values = {name: np.asarray(column, dtype=np.float64) for name, column in log.items()}
    chosen = [panel for panel in (GPAN_PANELS if "wanted" in values else GAN_PANELS)
              if any(np.isfinite(values.get(name, np.nan)).any() for name in panel.curves)] or GAN_PANELS[:1]
    with drawing(8, sum(panel.height for panel in chosen) + 0.5, dpi=110) as (figure, data):
        axes = figure.subplots(len(chosen), 1, sharex=True, squeeze=False,
                               height_ratios=[panel.height for panel in chosen])[:, 0]
        for axis, panel in zip(axes, chosen, strict=True):
            _draw_panel(axis, panel, values)
        axes[-1].set_xlabel("training step")
        if title:
            figure.suptitle(title, parse_math=False)  # a folder's name may hold a $
    write(path, data)


@contextlib.contextmanager
def drawing(width: float, height: float, *, dpi: int, jpeg: bool = False) -> Iterator[tuple[Any, io.BytesIO]]:
    """Make a matplotlib figure of width x height inches that is in memory, as PNG, after the `with` block.

    jpeg: as JPEG in its place, for figures of images, whose PNG would be up to six times as large. Raises TinyganError
    without matplotlib.
    """
    matplotlib = _matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's settings may need LaTeX, or fonts that are not there
        figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
        FigureCanvasAgg(figure)  # draws into memory: no display, no global state
        yield figure, data
        if jpeg:
            figure.savefig(data, format="jpeg", pil_kwargs={"quality": 85})
        else:
            figure.savefig(data, format="png", metadata={"Software": None})


def _matplotlib():
    """Import matplotlib. Raises TinyganError, one line, where it is not installed."""
    # A backend that this matplotlib does not have would make the import fail, and none is needed here.
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise TinyganError("the loss curves need matplotlib: pip install matplotlib") from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend  # as its import would have done
    return matplotlib


def _draw_panel(axis, panel: Panel, values: Mapping[str, np.ndarray]) -> None:
    """Draw the curves of a panel, with its scales and legend."""
    axis.grid(alpha=0.3)
    axis.set_ylabel(panel.words)
    if panel.scale == "share":
        axis.set_ylim(-0.03, 1.03)
    if panel.middle is not None:
        axis.axhline(panel.middle, color="grey", linewidth=0.8, linestyle=":")
    lines, lowest = [], np.inf
    for name in panel.curves:
        if name not in values or not np.isfinite(values[name]).any():
            continue
        value, target, column = values[name], axis, COLUMNS[name]
        column = column._replace(colour=panel.colours.get(name, column.colour))
        if panel.scale == "log":
            value = np.where(value > 0, value, np.nan)
        lowest = min(lowest, np.nanmin(value, initial=np.inf, where=np.isfinite(value)))
        if name == panel.right:
            target = axis.twinx()
            target.set_ylabel(column.label, color=column.colour)
            target.set_ylim(0, max(10.5, np.nanmax(value) + 0.5))
        lines += _draw_line(target, values["step"], value, column)
    if panel.scale == "log" and np.isfinite(lowest):
        axis.set_yscale("log")
    if panel.scale == "symlog":
        axis.set_yscale("symlog", linthresh=NEAR_ZERO)
    if panel.right or panel.scale == "symlog" and lowest >= 0:
        axis.set_ylim(bottom=0)
    if lines:
        axis.legend(handles=lines, loc=panel.legend, fontsize=8, ncols=1 if len(panel.curves) < 5 else 2)


def _draw_line(axis, step: np.ndarray, value: np.ndarray, column: Column) -> list:
    """Draw one curve, smoothed where it has 100 points or more; return matplotlib's lines."""
    finite = np.isfinite(value) & np.isfinite(step)
    step, value = step[finite], value[finite]
    window = len(value) // 50
    if window < 2:
        return axis.plot(step, value, color=column.colour, label=column.label, marker="o", markersize=3, linewidth=1.2,
                         linestyle=column.style)
    # Many points: the raw curve pale, a running mean over 2 % of the run on top of it.
    axis.plot(step, value, color=column.colour, alpha=0.25, linewidth=0.7)
    smooth = np.convolve(value, np.full(window, 1.0 / window), mode="valid")
    middle = step[(window - 1) // 2 :][: len(smooth)]
    return axis.plot(middle, smooth, color=column.colour, label=column.label, linewidth=1.5,
                     linestyle=column.style)
