"""The log of a run: log.csv, written a row at a time, also while others edit the file.

What a user adds to it (notes, columns) stays; what cannot be read of it is kept under another name; and where it
cannot be written its rows wait.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from tinygan.app.runfiles import Table, read_table
from tinygan.data.files import put_aside, whole_file
from tinygan.errors import TinyganError

Note = Callable[[str, str], None]


class RunLog:
    """log.csv at `path`. The methods call note(about, text) with one line for the user."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []
        self._waiting: list[dict[str, str]] = []  # rows that are not in the file yet
        self._amends = False  # whether the first of them adds to the file's last row
        self._stamp = _stamp(path)

    def append(self, row: Mapping[str, float], note: Note) -> None:
        """Add a row, {column: number} with a step; a column that was not there before is added to the whole file."""
        self._waiting.append({name: _cell(value) for name, value in row.items()})
        self._try(note)

    def amend(self, step: int, numbers: Mapping[str, float], note: Note) -> None:
        """Add numbers to the last row if it is that of `step`, else append a row with them."""
        row = {name: _cell(value) for name, value in {"step": step, **numbers}.items()}
        if not self._waiting:
            self._amends = True
        elif self._waiting[-1]["step"] == row["step"]:
            row = self._waiting.pop() | row
        self._waiting.append(row)
        self._try(note)

    def _try(self, note: Note) -> None:
        try:
            self.write(note)
        except OSError as error:
            note("log.csv", f"log.csv cannot be written now ({error.strerror or error}): its rows wait")

    def write(self, note: Note) -> None:
        """Write the rows that wait: at the end of the file or, where its columns change, it has the row of such a step
        or it was changed from outside, all of it anew. Raises OSError as the system gives it."""
        if not self._waiting:
            return
        new = [name for row in self._waiting for name in row if name not in self._columns]
        if new or self._amends or self._stamp != _stamp(self._path):
            # A last line that does not end may be what a full disk left of the first row that waits.
            table, problem = self._read(int(self._waiting[0]["step"]) - (0 if self._amends else 1))
            self._rewrite(table, table.rows, problem, note)
        else:
            with open(self._path, "ab") as file:
                file.write(_csv(_in_columns(row, self._columns) for row in self._waiting))
        self._waiting, self._amends = [], False
        self._stamp = _stamp(self._path)

    def cut(self, step: int, note: Note) -> None:
        """Take the log back to `step`, with whatever a user has added to the rows that stay. Raises OSError as the
        system gives it."""
        table, problem = self._read(step)
        rows = [row for row in table.rows if table.step(row) <= step]
        if rows:
            self._rewrite(table, rows, problem, note)
        elif problem:
            self._put_aside(problem, note)
        else:
            Path(os.path.realpath(self._path)).unlink(missing_ok=True)
        self._stamp = _stamp(self._path)

    def _rewrite(self, table: Table, rows: Iterable[list[str]], problem: str, note: Note) -> None:
        """Replace the file by these rows of it and those that wait; problem: why it is kept under another name."""
        names = list(dict.fromkeys(name for row in self._waiting for name in row if name not in table.names))
        names = [*table.names, *names]
        lines = [row + [""] * (len(names) - len(row)) for row in rows]
        places = {table.step(line): place for place, line in enumerate(lines)}
        for row in self._waiting:
            # Its step is there already where it adds to a row, or where a full disk took some of the rows.
            if (place := places.get(int(row["step"]))) is None:
                lines.append(_in_columns(row, names))
            else:
                for name, cell in row.items():
                    lines[place][names.index(name)] = cell
        with whole_file(self._path) as file:
            file.write(_csv([names, *lines]))
            if problem:
                file.flush()  # as the old file leaves its place only now, what cannot be written costs nothing
                self._put_aside(problem, note)
        self._columns = names

    def _put_aside(self, problem: str, note: Note) -> None:
        kept = put_aside(self._path)
        note(str(kept), f"log.csv is written anew without what could not be read in it ({problem}): the file as it was "
                        f"is {kept.name}")

    def _read(self, step: int) -> tuple[Table, str]:
        """Read the log to be written anew, its last line among the rows if that is whole and not beyond `step`, and
        describe what would be lost of it."""
        try:
            table = read_table(self._path.parent)
        except TinyganError as error:
            return Table(), str(error.__cause__)
        lost, last = table.strange, table.step(table.last) if table.last else None
        if table.last and (last is None or last <= step):
            if table.whole and last is not None:
                table.rows.append(table.last)
            else:
                lost += 1
        return table, f"{lost} of its lines are no whole rows" if lost else ""


def _stamp(path: Path) -> tuple[int, ...]:
    """Return numbers that change whenever a file is written; () where there is none."""
    try:
        status = os.stat(path)
        return status.st_ino, status.st_size, status.st_mtime_ns
    except OSError:
        return ()


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int | np.integer) else f"{float(value):.6g}"


def _in_columns(row: Mapping[str, str], names: Iterable[str]) -> list[str]:
    left = dict(row)
    return [left.pop(name, "") for name in names]  # of two columns of one name, the first


def _csv(lines: Iterable[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()
