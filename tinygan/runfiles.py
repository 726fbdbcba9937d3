"""Reading what a run left in its folder: settings, log, samples.

Whoever looks at a run, finished or not (report, resume), goes through here; writing is the business of run.py.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tinygan import checkpoint
from tinygan.errors import TinyganError, UsageError


def read_config(folder: str | os.PathLike) -> dict:
    """config.json of a run: {"flags": ..., "versions": ..., "command": ...}; lists become tuples again."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_bytes())
        config["flags"] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in config["flags"].items()
        }
        return config
    except OSError as error:
        raise TinyganError(
            f"{folder} is not the folder of a run: cannot read its config.json ({error.strerror})"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TinyganError(f"{path} is damaged: it is not the settings of a run; start a new run") from error


def read_log(folder: str | os.PathLike) -> list[dict[str, float]]:
    """log.csv as rows {column: number}; empty cells are left out, a last line torn by a kill is skipped."""
    try:
        with open(Path(folder) / "log.csv", newline="", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        return []
    complete = text[: text.rfind("\n") + 1]
    rows = []
    try:
        for cells in csv.DictReader(io.StringIO(complete)):
            row: dict[str, float] = {}
            for name, cell in cells.items():
                with contextlib.suppress(ValueError, TypeError):  # an empty cell, or one too many in the line
                    row[name] = float(cell)
            if math.isfinite(row.get("step", math.nan)):
                rows.append(row | {"step": int(row["step"])})
    except csv.Error as error:
        raise TinyganError(
            f"{Path(folder) / 'log.csv'} is damaged ({error}): move it away to go on"
        ) from error
    return rows


def columns(rows: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """The same log by column, NaN where a row has no value: what pictures.loss_plot draws."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row) or {"step": None}
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def samples(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """The sample pictures of a run: (step, path), by step."""
    found = Path(folder).glob("samples/step_*.png")
    return sorted(
        (int(match[1]), path) for path in found if (match := re.fullmatch(r"step_(\d+)\.png", path.name))
    )


def newest(root: str | os.PathLike, name: str) -> Path:
    """The folder root/name-NUMBER whose checkpoint was written last: what a bare --resume means."""
    found = [path for path in Path(root).glob(f"{name}-*/{checkpoint.FILE_NAME}") if path.is_file()]
    if not found:
        raise UsageError(
            f"--resume found no run {name}-NUMBER with a checkpoint in {root}: name the folder, --resume PATH"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent
