"""The results of jobs: read from their folders, kept in one small file for each part, joined.

The files have a line of JSON for each job, sorted by name, so that the tables can be made again from the repository
alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinygan.data.files import whole_file
from tinygan.errors import TinyganError
from tinygan.study.jobs import RESULT, parse_result, read_result, where_of
from tinygan.study.plan import CELLS, COLLAPSING, PARTS, Job, jobs_of, settings_of

FOLDER = "results"
DRAWN = ("C", "E")  # parts whose loss curves are drawn; of the others they are not kept
Result = dict[str, Any]


class Results:
    """Results by part and arm, each a list by seed."""

    def __init__(self, by_name: Mapping[str, Result]) -> None:
        self.by_name = dict(by_name)
        self._by_arm: dict[tuple[str, str], list[Result]] = {}
        for name in sorted(self.by_name):
            result = self.by_name[name]
            self._by_arm.setdefault((result["part"], result["arm"]), []).append(result)

    def of(self, part: str, arm: str) -> list[Result]:
        """Return the results of an arm, by seed."""
        return self._by_arm.get((part, arm), [])

    def part(self, part: str) -> list[Result]:
        """Return the results of a part."""
        return [result for arm in PARTS[part].arms for result in self.of(part, arm)]

    def numbers(self, part: str, arm: str, measure: str) -> list[float]:
        """Return one number for each seed of an arm: a measure at the last step; a seed without it is left out."""
        values = [value_of(result, measure) for result in self.of(part, arm)]
        return [value for value in values if value is not None]

    def arms(self, part: str) -> list[str]:
        """List the arms of a part that have results, in the order of the plan."""
        return [arm for arm in PARTS[part].arms if self.of(part, arm)]


def value_of(result: Result, measure: str) -> float | None:
    """Return a measure of one result: of its last scoring, or an outcome; None where it has none."""
    for place in (result.get("final", {}), result.get("outcomes", {}), result):
        value = place.get(measure)
        if isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
    return None


def collect(out: Path, stored: Path | None) -> Results:
    """Read the results of all jobs in `out`, and those stored in another folder for jobs that are not there.

    Raises TinyganError for a damaged file.
    """
    found: dict[str, Result] = {}
    for path in sorted((stored / FOLDER).glob("*.jsonl")) if stored else ():
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            try:
                result = parse_result(line)
                found[result["job"]] = result
            except ValueError:
                raise TinyganError(f"{path}, line {number}, is no result of a job: delete the line, and run the job "
                                   "again") from None
    planned = {job.name: job for job in jobs_of(list(PARTS))}
    for folder in sorted(path.parent for path in out.glob(f"*/{RESULT}") if path.parent.name in planned):
        found[folder.name] = _kept(read_result(folder), folder)
    _check(found, planned)
    return Results(found)


def _check(found: Mapping[str, Result], planned: Mapping[str, Job]) -> None:
    """Raise TinyganError for results of other settings than the plan's, or of other data than those beside them."""
    inputs: dict[str, tuple[str, Any]] = {}
    for name, result in found.items():
        if name not in planned or result.get("plan") != _plan_of(settings_of(planned[name])):
            raise TinyganError(f"the result of {name} is of other settings than the plan's: delete it where it lies, "
                               "and run the job again")
        first, data = inputs.setdefault(result["part"], (name, result.get("inputs")))
        if result.get("inputs") != data:
            raise TinyganError(f"{name} and {first} learned from, or were measured with, different data: delete one of "
                               "them, and run it again with the other's")


def _plan_of(settings: Any) -> str:
    """Return a short hash of a job's settings."""
    text = json.dumps(settings, sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def jobs_to_run(parts: Sequence[str], results: Results) -> list[Job]:
    """List the jobs of parts; of C-cells only those in cells in which the GAN collapsed in C-pilot."""
    found = cells_found(results)
    return [job for job in jobs_of(parts) if is_wanted(job, found)]


def cells_found(results: Results) -> set[str]:
    """Return the cells of the stress grid in which the GAN ended collapsed in enough of its pilot runs."""
    return {cell for cell in CELLS if hits(results.of("C-pilot", f"gan@{cell}"), "ended") >= COLLAPSING}


def is_wanted(job: Job, found: set[str]) -> bool:
    """Return whether a job is to be run: in C-cells only those in the cells found."""
    return job.part != "C-cells" or job.arm.partition("@")[2] in found


def hits(results: Sequence[Result], outcome: str) -> int:
    """Count the runs with an outcome."""
    return sum(bool(result["outcomes"][outcome]) for result in results)


def _kept(result: Result, folder: Path) -> Result:
    """Return what is stored of a result: all but its settings, which the plan has, and curves that nobody draws."""
    dropped = {"settings"} | (set() if result["part"] in DRAWN else {"losses"})
    where = {name: value for name, value in where_of(folder).items() if name != "machine"}
    return {name: value for name, value in result.items() if name not in dropped} | {
        "plan": _plan_of(result["settings"]), "where": where}


def store(results: Results, folder: Path) -> None:
    """Write the results of each part to folder/results/PART.jsonl."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        lines = [json.dumps(result, separators=(",", ":")) for name, result in sorted(results.by_name.items())
                 if result["part"] == part]
        if lines:
            with whole_file(folder / FOLDER / f"{part}.jsonl") as file:
                file.write(("\n".join(lines) + "\n").encode())
