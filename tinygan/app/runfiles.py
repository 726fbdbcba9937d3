"""Reading what a run left in its folder (settings, log, samples) and telling whether what it was made of is the same.

All reading of a run, finished or not (report, resume), is here; writing is in run.py.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinygan.app import checkpoint
from tinygan.data.images import SUFFIXES
from tinygan.data.sets import find_set
from tinygan.data.substrates import MASK_SUFFIX, files_in
from tinygan.errors import TinyganError, UsageError

DECIMAL_COMMA = re.compile(r"^([+-]?\d+),(\d*(?:[eE][+-]?\d+)?)$")  # as spreadsheets of many languages write it


def read_config(folder: str | os.PathLike) -> dict:
    """Read config.json of a run: {"flags", "versions", "inputs", "command", "resumed"}. Lists among the flags
    become tuples again. Runs of older versions lack the last three, or some of them."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_bytes())
        config["flags"] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in config["flags"].items()
        }
        if "wanted" in config["flags"] and config["flags"].get("substrate_flip") is None:
            config["flags"]["substrate_flip"] = "yes"  # a GPAN from before there was this flag mirrored its pictures
        inputs, resumed = config.get("inputs") or {}, config.get("resumed") or []
        if not isinstance(resumed, list) or not all({"hash", "source"} <= given.keys() for given in inputs.values()):
            raise ValueError("inputs, resumed")
        return config
    except OSError as error:
        raise TinyganError(
            f"{folder} is not the folder of a run: cannot read its config.json ({error.strerror})"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TinyganError(f"{path} is damaged: it is not the settings of a run; start a new run") from error


@dataclass
class Table:
    """log.csv as it stands there, text for text. names: of the columns; rows: cells, as many as there are names.

    last: the cells of a last line that does not end (a kill may have torn it, an editor may have left it so), or [];
    whole: whether that has a cell for each name; strange: how many lines were left out because they name no step.
    """

    names: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    last: list[str] = field(default_factory=list)
    whole: bool = False
    strange: int = 0

    def step(self, row: Sequence[str]) -> int | None:
        """Return the step of a row; None where it has none."""
        value = _number(row[self.names.index("step")])
        return int(value) if value is not None and math.isfinite(value) else None


def read_table(folder: str | os.PathLike) -> Table:
    """Read log.csv as a run wrote it, or as a spreadsheet or an editor has saved it since; without a file, no names.

    Read are commas, semicolons and tabs, any line ends, decimal commas, UTF-8 with and without a mark, UTF-16 with one
    and else Latin-1; columns that a user added stay as they are. Raises TinyganError for anything else, OSError as the
    system gives it.
    """
    path = Path(folder) / "log.csv"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Table()
    try:
        return _parse(_decoded(data).replace("\r\n", "\n").replace("\r", "\n"))
    except (csv.Error, ValueError) as error:
        raise TinyganError(f"{path} is damaged ({error}): move it away to go on") from error


def _cells(text: str, delimiter: str) -> list[list[str]]:
    """Split each line into cells.

    A quotation mark that nothing closes is a character like others, where it would make one cell of all the rows that
    follow.
    """
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
        width = len(lines[0]) if lines else 0
        if not any(part.count(delimiter) >= width - 1 for line in lines for cell in line if "\n" in cell
                   for part in cell.split("\n")[1:]):
            return lines
    except csv.Error:
        pass
    lines = []
    for line in text.split("\n"):
        try:
            lines += csv.reader([line], delimiter=delimiter, strict=True)
        except csv.Error:
            lines += csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return lines


def _parse(text: str) -> Table:
    for delimiter in ",;\t":
        lines = [line for line in _cells(text, delimiter) if any(line)]
        names = [name.strip() for name in lines[0]] if lines else []
        if "step" in names:
            break
    else:
        if lines:
            raise ValueError("no column is named step")
        return Table()
    width = max(map(len, lines))  # notes may stand beside the columns, without a name
    whole = len(lines[-1]) >= len(names)
    rest = [line + [""] * (width - len(line)) for line in lines[1:]]
    table = Table(names + [""] * (width - len(names)), whole=whole)
    if rest and not text.endswith("\n"):
        table.last = rest.pop()
    table.rows = [line for line in rest if table.step(line) is not None]
    table.strange = len(rest) - len(table.rows)
    _mend_decimals([*table.rows, *([table.last] if table.last else [])])
    return table


def read_log(folder: str | os.PathLike) -> list[dict[str, float]]:
    """Read log.csv as rows {column: number}; what is no number is left out, a last line torn by a kill is skipped.

    Raises TinyganError where the file cannot be read (`read_table`).
    """
    table = read_table(folder)
    rows = []
    for row in table.rows:
        numbers: dict[str, float] = {}
        for name, cell in zip(table.names, row, strict=True):
            if name and (value := _number(cell)) is not None:
                numbers.setdefault(name, value)
        rows.append(numbers | {"step": table.step(row)})
    return rows


def _decoded(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeError:  # some spreadsheets write the language's old code
        return data.decode("latin-1")


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _mend_decimals(rows: Sequence[list[str]]) -> None:
    """Change 0,5 to 0.5 in every column that holds numbers alone: in a column of notes it may be meant."""
    for place in range(len(rows[0]) if rows else 0):
        cells = [DECIMAL_COMMA.sub(r"\1.\2", row[place]) for row in rows]
        if all(_number(cell) is not None for cell in cells if cell):
            for row, cell in zip(rows, cells, strict=True):
                row[place] = cell


def hash_files(paths: Iterable[str | os.PathLike]) -> str:
    """Compute a hash of the content of files, or of folders of pictures, wherever they lie.

    Of a file its bytes count, and those of its mask (NAME.mask.png beside it), not its name; of a folder the bytes and
    the names, within it, of all pictures. Raises TinyganError for what is not there.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in map(Path, paths):
        if path.is_dir():
            files = [(file.relative_to(path).as_posix(), file) for file in files_in(path)
                     if file.suffix.lower() in SUFFIXES]
        else:
            mask = (path.stem + MASK_SUFFIX).lower()
            files = [("", path)]
            with contextlib.suppress(OSError):  # a file may be read in a folder that must not be listed
                files += [("mask", file) for file in sorted(path.parent.iterdir()) if file.name.lower() == mask]
        for name, file in files:
            digest.update(f"{name}\n{_size(file)}\n".encode(errors="surrogateescape"))
            with open(file, "rb") as content:
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise TinyganError(f"cannot read {file}: {error.strerror}") from error


def is_there(data_dir: str | os.PathLike) -> bool:
    """Return whether there is a folder at a --data-dir, or files whose names start so (data.sets.find_set)."""
    try:
        return os.path.exists(data_dir) or find_set("train", data_dir) is not None
    except TinyganError:  # several sets
        return True
    except OSError:
        return False


def columns(rows: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the same log by column, NaN where a row has no value: what pictures.loss_plot draws."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row) or {"step": None}
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def samples(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """List the sample pictures of a run: (step, path), by step. Other files and folders in samples/ are none."""
    found = Path(folder).glob("samples/step_*.png")
    return sorted((int(match[1]), path) for path in found
                  if (match := re.fullmatch(r"step_(\d{6,})\.png", path.name)) and not path.is_dir())


def newest(root: str | os.PathLike, name: str) -> Path:
    """Return the folder root/name-NUMBER whose checkpoint was written last: what a bare --resume means."""
    found = [path for path in Path(root).glob(f"{name}-*/{checkpoint.FILE_NAME}") if path.is_file()]
    if not found:
        raise UsageError(
            f"--resume found no run {name}-NUMBER with a checkpoint in {root}: name the folder, --resume PATH"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent
