"""Resuming a run: its settings, and the data and files that it was made of, which may lie elsewhere by now."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygan import data
from tinygan.app import cli, runfiles
from tinygan.app.run import MAY_CHANGE, Run
from tinygan.data.mnist import BUNDLED
from tinygan.errors import TinyganError, UsageError

FILES = ("classifier", "substrate", "vgg16")  # flags that name files whose content a run depends on
FOLDERS = ("data_dir", "photos")  # those of its data, which are compared when they are loaded


def resumed(parser: cli.Parser, flags: dict, typed: set[str], name: str, own: str) -> tuple[dict, Run]:
    """Return the flags in force and the run to go on with, where --resume was given.

    name: of the newest run that a bare --resume means. own: a flag that no other script's runs have. Files that the run
    was made with may lie elsewhere by now. Raises TinyganError for the run of another script, and where such a file
    holds something else.
    """
    if "overwrite" in typed:
        raise UsageError("--resume goes on with a run, --overwrite starts anew: give one of them")
    folder = Path(flags["out"] or runfiles.newest("runs", name) if flags["resume"] is True else flags["resume"])
    folder = folder.parent if folder.is_file() else folder
    if "out" in typed and os.path.realpath(flags["out"]) != os.path.realpath(folder):
        raise UsageError(f"--out {flags['out']}: a run goes on where it is, in {folder}: leave --out out")
    config = runfiles.read_config(folder)
    if own not in config["flags"]:
        raise TinyganError(f"{folder} is not a run of {parser.prog}: its settings have no "
                           f"--{own.replace('_', '-')}")
    moved = {name for name in FILES if name in typed and _same_files(config, name, flags[name])}
    run = Run.resume(folder, flags, typed=typed, may_change=MAY_CHANGE | moved)
    run.flags["detect_anomaly"] = "detect_anomaly" in typed  # only where it is typed anew: it is slow
    if "steps" in typed:
        run.flags["epochs"] = None  # the total typed last holds
    # config.json is a text that anybody may edit: its values must be ones that could be typed.
    flags = vars(parser.parse_args(as_words({**run.flags, "resume": str(folder)})))
    run.flags |= {name: flags[name] for name in (*FOLDERS, *FILES) if flags.get(name)}  # as paths: kept absolute
    for name in (*FOLDERS, *FILES):
        for path in _listed(flags.get(name)):
            if not (runfiles.is_there(path) if name == "data_dir" else path.exists()):
                flag = "--" + name.replace("_", "-")
                raise TinyganError(f"{flag} {path}, which the run in {folder} was made with, is not there: if it lies "
                                   f"elsewhere now, say where with {flag}")
    for name, made_of in file_inputs(flags).items():
        run.check_input(name, made_of, f"name the old one with --{name}, wherever it lies now, or start a new run")
    return flags, run


def _same_files(config: Mapping[str, Any], name: str, typed: Any) -> bool:
    """Return whether the typed paths may be those that the run was made with: they have the same content or, where
    nothing is known of that (an older run), are the same place, or the old ones are gone.

    Raises UsageError for other content, TinyganError for paths that do not exist.
    """
    known, before = (config.get("inputs") or {}).get(name), _listed(config["flags"].get(name))
    paths = _listed(typed)
    if not known:
        return bool(before) and (list(map(os.path.abspath, before)) == list(map(os.path.abspath, paths))
                                 or not all(path.exists() for path in before))
    if missing := [path for path in paths if not path.exists()]:
        raise TinyganError(f"--{name} {missing[0]}: there is no such file or folder")
    if runfiles.hash_files(paths) != known["hash"]:
        raise UsageError(f"--{name} is {cli.as_typed(typed)} but the run was made with {known['source']}, which held "
                         f"something else: leave --{name} out, or name what it was made with")
    return True


def _listed(value: Any) -> list[Path]:
    """List the paths in the value of a flag: none, one or several."""
    return [Path(path) for path in (value if isinstance(value, (list, tuple)) else [value] if value else [])]


def load_digits(flags: Mapping[str, Any], run: Run | None) -> data.Digits:
    """Load the digits to train on. A run that began on the bundled set goes on with it, though there are more by now.

    Raises TinyganError where there are none in --data-dir.
    """
    digits = data.load_mnist("train", data_dir=flags["data_dir"], other_sets=True)
    known = run.inputs.get("data") if run else None
    if known and not flags["data_dir"] and known["hash"] != digits.hash:
        bundled = data.load_mnist("train", data_dir=BUNDLED)
        if known["hash"] == bundled.hash:
            print(f"the run began on the bundled set and goes on with it, not with {digits.source}")
            return dataclasses.replace(bundled, source=known["source"])
    return digits


def file_inputs(flags: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Describe the files that the flags name as Run keeps them: {flag: {"hash", "source"}}."""
    return {name: {"hash": runfiles.hash_files(paths), "source": cli.as_typed([os.path.abspath(p) for p in paths])}
            for name in FILES if (paths := _listed(flags.get(name)))}


def as_words(flags: Mapping[str, Any]) -> list[str]:
    """Write the command line that gives these settings."""
    words = []
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], (str, Path)):  # may be repeated
            words += [f"{flag}={item}" for item in value]
        elif value is not None and value is not False:
            words.append(flag + ("" if value is True else f"={cli.as_typed(value)}"))
    return words
