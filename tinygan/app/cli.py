"""What every script's command line has in common: value types, one-line errors, exit codes.

Exit codes: 0 done, 1 the run failed, 2 the command was typed wrong, 130 stopped (Ctrl-C). Every failure a
user can cause or act on is one line, "error: what, where, what to do". Anything else is a bug and shows its
traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from tinygan.app import streams
from tinygan.app.device import memory_is_full
from tinygan.errors import TinyganError

MAX_GRID = 10_000  # images in one picture


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for flags whose default is nothing or stands in the help text itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, tuple) and action.default:
            return f"{action.help} (default: {as_typed(action.default)})"
        nothing = any(action.default is value for value in (None, False, ()))
        given = nothing or "[default" in (action.help or "")
        return action.help if given else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors (exit code 2), suggestions for mistyped flags, no guessing, and --version.

    A flag that is typed twice is refused, where argparse would keep the last value in silence; action="append" is for
    flags that may be.
    """

    def __init__(self, *args, version: str | None = None, **kwargs):
        kwargs.setdefault("formatter_class", _Help)
        # Abbreviated flags would change their meaning whenever a flag is added.
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self._seen: set[argparse.Action] = set()
        self.settings: dict[str, argparse.Action] = {}  # by the names that --set takes
        if version is not None:
            text = f"{self.prog} (tinygan {version})"
            self.add_argument("--version", action="version", version=text, help="print the version and exit")

    def hide_all_but(self, frequent: Collection[str], names: Mapping[str, str]) -> None:
        """Leave flags out of --help that are not frequent: they stay, also as `--set NAME=VALUE`, and --list-settings
        lists all.

        frequent, and the keys of names: attributes of the parsed arguments. names: those of the settings that are not
        the group's title, a dot and the attribute.
        """
        for group in self._action_groups[2:]:
            for action in group._group_actions:
                name = names.get(action.dest, f"{group.title}.{action.dest}")
                self.settings[name] = action
        more = self.add_argument_group("more settings")
        more.add_argument("--set", metavar="NAME=VALUE", default=argparse.SUPPRESS, help="a setting that has no place "
                          "here, such as optimizer.beta1=0.9; may be repeated")
        more.add_argument("--list-settings", nargs=0, action=_ListSettings, default=argparse.SUPPRESS,
                          help="list all settings and exit")
        self.words = {action: self._words(action) for action in self.settings.values()}
        for action in self.settings.values():
            if action.dest not in frequent:
                action.help = argparse.SUPPRESS

    def _words(self, action: argparse.Action) -> str:
        formatter = self._get_formatter()
        if not action.help and action.default not in (None, False):
            action.help = "%(default)s"
        words = formatter._expand_help(action) if action.help else ""
        return f"{words} ({self._allowed(action)})".strip()

    def _allowed(self, action: argparse.Action) -> str:
        if action.nargs == 0:
            return "yes or no"
        if action.choices:
            return ", ".join(map(str, action.choices))
        if action.type in (None, int, float):
            return "a number" if action.type else "text"
        return action.type.__doc__.partition(".")[0].removeprefix("Read ")

    def _near_settings(self, name: str) -> list[str]:
        """Return the names nearest to `name`: of settings, or of their last parts and flags, which may be meant."""
        spellings = {word: setting for setting, action in self.settings.items()
                     for word in (setting, setting.partition(".")[2], action.dest)}
        near = difflib.get_close_matches(name.replace("-", "_").lstrip("_"), spellings, n=4, cutoff=0.6)
        return list(dict.fromkeys(spellings[word] for word in near))[:2]

    def _expanded(self, words: Sequence[str]) -> list[str]:
        """Write every --set NAME=VALUE as the flag that it stands for."""
        expanded, rest = [], iter(words)
        for word in rest:
            if word != "--set" and not word.startswith("--set="):
                expanded.append(word)
                continue
            name, sign, value = (next(rest, "") if word == "--set" else word[6:]).partition("=")
            if name not in self.settings:
                near = self._near_settings(name)
                self.error(f"--set {name}: must be NAME=VALUE, and there is no setting of that name"
                           + (f": did you mean {' or '.join(near)}?" if near else ""))
            if not sign:
                self.error(f"--set {name}: must be NAME=VALUE, and there is no value")
            action = self.settings[name]
            flag = max(action.option_strings, key=len)
            if action.nargs != 0:
                expanded.append(f"{flag}={value}")
            elif value not in ("yes", "no"):
                self.error(f"--set {name}: must be yes or no, not {value!r}")
            elif value == "yes":
                expanded.append(flag)
        return expanded

    def parse_args(self, args=None, namespace=None):
        self._seen = set()
        args = self._expanded(sys.argv[1:] if args is None else args) if self.settings else args
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._about(unknown[0]))
        return namespace

    def error(self, message: str):
        """Print one line and exit with code 2."""
        self.exit(2, f"error: {' '.join(message.split())} (--{'list-settings' if self.settings else 'help'} lists all "
                     "flags)\n")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]):
        # argparse calls this for each flag of the command line.
        if action.option_strings and arg_strings == ["--"]:  # it would take that for no value at all
            raise argparse.ArgumentError(action, "needs a value, which -- is not")
        if action.option_strings and not isinstance(action, argparse._AppendAction):
            if action in self._seen:
                more = ", with all its values after it" if action.nargs == "+" else ""
                raise argparse.ArgumentError(action, f"is given twice: give it once{more}")
            self._seen.add(action)
        return super()._get_values(action, arg_strings)

    def _about(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument {word!r}: every value follows its flag"
        flag = word.split("=")[0]
        near = difflib.get_close_matches(flag, self._option_string_actions, n=2, cutoff=0.6)
        return f"unknown flag {flag}" + (f": did you mean {' or '.join(near)}?" if near else "")


class _ListSettings(argparse.Action):
    """Prints the name, the flag, the words, the default and the allowed values of every setting, and exits."""

    def __call__(self, parser, namespace, values, option_string=None):
        for name, action in parser.settings.items():
            print(f"{name:30} {', '.join(action.option_strings):24} {parser.words[action]}".rstrip())
        parser.exit()


def typed(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> set[str]:
    """Return the names (args attributes) that the user typed, as against those left at their defaults.

    For a resumed run: what was typed must agree with the stored run, what was not is taken from it.
    """
    # A flag that may be repeated appends to a copy of the list in the namespace; for the others any object will do.
    unset = {action.dest: [] if isinstance(action, argparse._AppendAction) else object()
             for action in parser._actions}
    blank = argparse.Namespace(**unset)
    # argparse sets no default for a name the namespace already has, so what changed was typed.
    parsed = parser.parse_args(argv, blank)
    return {name for name, value in vars(parsed).items() if value is not unset.get(name)}


def run_main(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None, *,
             leaves_files: bool = False) -> int:
    """Call main(argv) and return the exit code, printing one line for every failure a user can act on.

    Nothing stops because standard output or error is missing or closed, as by `| head`. At the end it counts as a
    failure that what was printed did not arrive, unless main leaves_files: then they are what counts.
    """
    with streams.patient() as out:
        for stream in (sys.stdout, sys.stderr):  # a folder's name may hold bytes that are no text: show, never fail
            with contextlib.suppress(AttributeError, ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")
        code = _run(main, argv)
        out.flush()
        if code or leaves_files or out.lost is None:
            return code
        if isinstance(out.lost, BrokenPipeError):  # the reader has read enough: no failure to report
            return 1
        return _fail(f"standard output was lost: {getattr(out.lost, 'strerror', None) or out.lost}", 1)


def _run(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None) -> int:
    try:
        return main(argv) or 0
    except TinyganError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C", 130, word="")
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        return _fail(f"out of memory ({error or 'no details'}): "
                     "try fewer images at a time (--batch-size, --n) or smaller nets", 1)
    except OSError as error:
        # Not only files: a missing shared library or a refused connection is an OSError, too. One line for all.
        where = f" ({error.filename})" if error.filename else ""
        hint = ": make room there or choose another folder" if error.errno in _ROOM else ""
        return _fail(f"{error.strerror or error}{where}{hint}", 1)


_ROOM = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM)


def _fail(message: str, code: int, *, word: str = "error: ") -> int:
    print(f"{word}{' '.join(message.split())}", file=sys.stderr)
    return code


def as_typed(value: object) -> str:
    """Write a setting as it is typed on the command line: (16, 16, 1) is 16,16,1."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


# ---- value types: each takes the typed text and returns the value, or raises with one line on its form ----
# The first sentence of a docstring is what --list-settings prints of the values that are allowed.


def positive_int(text: str) -> int:
    """Read a whole number above 0."""
    return _integer(text, 1)


def non_negative_int(text: str) -> int:
    """Read a whole number of 0 or more."""
    return _integer(text, 0)


def positive_float(text: str) -> float:
    """Read a number above 0."""
    value = _float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def non_negative_float(text: str) -> float:
    """Read a number of 0 or more."""
    value = _float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of 0 or more, not {text!r}")
    return value


def number_range(text: str) -> tuple[float, float]:
    """Read two numbers above 0 with a comma, the smaller first. Such as "0.45,1.1"."""
    parts = [_float(part) for part in text.split(",")]
    if len(parts) != 2 or not 0 < parts[0] <= parts[1] < math.inf:
        raise argparse.ArgumentTypeError(f"must be two numbers above 0, the smaller first, such as "
                                         f"0.45,1.1, not {text!r}")
    return parts[0], parts[1]


def probability(text: str) -> float:
    """Read a number from 0 to 1."""
    value = _float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return value


def bank_list(text: str) -> tuple[int, ...]:
    """Read whole numbers above 0 with commas, or one. Filter sets per layer, from the noise to the image, such as
    "16,16,16,1"; what one number means depends on the net (GANConfig, GPANConfig)."""
    if not re.fullmatch(r"[1-9][0-9]{0,5}(,[1-9][0-9]{0,5})*", text):
        raise argparse.ArgumentTypeError(
            f"must be whole numbers above 0 with commas, such as 16,16,16,1, not {text!r}"
        )
    return tuple(int(part) for part in text.split(","))


def category_list(text: str) -> tuple[int, ...]:
    """Read whole numbers above 1 with commas, or nothing. Such as "4,4,4"; an empty text is none."""
    if not re.fullmatch(r"([1-9][0-9]{0,5}(,[1-9][0-9]{0,5})*)?", text) or "1" in text.split(","):
        raise argparse.ArgumentTypeError(f"must be whole numbers above 1 with commas, such as 4,4,4, not {text!r}")
    return tuple(int(part) for part in text.split(",") if part)


def some_of(names: Collection[str], kind: str = "") -> Callable[[str], tuple[str, ...]]:
    """Return a parser of "gan,sgan" -> ("gan", "sgan") for these names; kind: of what, in the message, as "part "."""
    def parse(text: str) -> tuple[str, ...]:
        """Parse names between commas."""
        words = tuple(text.split(","))
        if unknown := [word for word in words if word not in names]:
            raise argparse.ArgumentTypeError(f"there is no {kind}{unknown[0]!r}: take some of {', '.join(names)}")
        return words

    return parse


def grid_size(text: str) -> tuple[int, int]:
    """Read rows x columns, such as 8x8."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})[xX]([1-9][0-9]{0,5})", text)
    if not match or int(match[1]) * int(match[2]) > MAX_GRID:
        raise argparse.ArgumentTypeError(
            f"must be rows x columns, such as 8x8, at most {MAX_GRID:,} images in all, not {text!r}"
        )
    return int(match[1]), int(match[2])


def path(text: str) -> Path:
    """Read a file or folder. A ~ at its beginning is the home folder, also where the shell left it (--out=~/run)."""
    if not text or "\0" in text:  # an empty one is a variable that was not set: it would mean the working folder
        raise argparse.ArgumentTypeError(f"must be a path, not {text!r}")
    return Path(os.path.expanduser(text))


def route_mode(text: str) -> str:
    """Read sample, batch or group:SIZE. How routes are drawn: each its own; one for all; one for every SIZE samples."""
    if text in ("sample", "batch") or re.fullmatch(r"group:[1-9][0-9]{0,5}", text):
        return text
    raise argparse.ArgumentTypeError(f"must be sample, batch or group:SIZE (such as group:8), not {text!r}")


def device(text: str) -> str:
    """Read auto, cpu, gpu or gpu:NUMBER. cuda is another word for gpu."""
    name = text.lower().replace("cuda", "gpu")
    if name in ("auto", "cpu", "gpu") or re.fullmatch(r"gpu:[0-9]{1,3}", name):
        return name
    raise argparse.ArgumentTypeError(f"must be auto, cpu, gpu or gpu:NUMBER, not {text!r}")


def _integer(text: str, least: int) -> int:
    if not re.fullmatch(r"\+?[0-9]{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
    return int(text)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
