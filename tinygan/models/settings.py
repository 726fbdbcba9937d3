"""Settings of a training script as fields of dataclasses: default, allowed values and words in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def setting(default: Any, words: str = "", choices: tuple | None = None, *, kind: str | None = None,
            flag: str | None = None, codes: Mapping[str, Any] | None = None) -> Any:
    """Declare a field of a dataclass that a script may set.

    words: what --help and --list-settings tell of it. choices: the allowed values. kind: the function of cli.py that
    reads the value where there are none. flag: its name on the command line, if it is not the field's. codes: the words
    that stand for its values there.
    """
    told = {"words": words, "choices": choices, "kind": kind, "flag": flag, "codes": codes}
    return dataclasses.field(default=default, metadata={"setting": told})


def settings_of(cls: type) -> list[tuple[dataclasses.Field, dict[str, Any]]]:
    """List the fields of a dataclass that are settings, each with what `setting` was told."""
    return [(field, {**field.metadata["setting"], "flag": field.metadata["setting"]["flag"] or field.name})
            for field in dataclasses.fields(cls) if "setting" in field.metadata]


def make(cls: type, flags: Mapping[str, Any], **others: Any) -> Any:
    """Make a dataclass from the flags; others: its fields that are no flags, or mean something else here."""
    values = {}
    for field, told in settings_of(cls):
        if field.name not in others:
            value = flags[told["flag"]]
            value = told["codes"][value] if told["codes"] else value
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**values, **others)
