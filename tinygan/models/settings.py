"""The settings of a model: fields of a dataclass with default, allowed values and words for the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def setting(default: Any, words: str = "", choices: tuple | None = None, *, kind: str | None = None,
            flag: str | None = None, codes: Mapping[str, Any] | None = None) -> Any:
    """Declare a field of a dataclass that a script may set.

    words: its description in --help and --list-settings. choices: the allowed values. kind: the function of cli.py that
    reads the value where there are none. flag: its name on the command line, if it is not the field's. codes: the words
    that stand for its values there.
    """
    options = {"words": words, "choices": choices, "kind": kind, "flag": flag, "codes": codes}
    return dataclasses.field(default=default, metadata={"setting": options})
