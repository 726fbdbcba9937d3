"""Make docs/api.md, the page of every public name, from the docstrings.

    python docs/make_api.py            # write the page
    python docs/make_api.py --check    # exit code 1 and one line if the page is not what the docstrings say

A room that is a package lists its public names in `__all__`; of a plain module they are what it defines without a
leading underscore.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package beside this folder, installed or not

PAGE = Path(__file__).with_name("api.md")
COMMAND = "python docs/make_api.py"
# Room -> (what it holds, its modules, the names to show: all public ones without any).
ROOMS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "tinygan": ("The engine: tensors, gradients, checks.", ("tinygan.engine.tensor", "tinygan.engine.debug",
                                                            "tinygan.engine.gradcheck", "tinygan.errors",
                                                            "tinygan.kernels.threads"),
                ("Tensor", "primitive", "grad", "no_grad", "frozen", "check_grads", "anomaly", "profile", "set_threads",
                 "TinyganError", "UsageError", "GraphError", "GradientError", "AnomalyError", "KinkWarning")),
    "tinygan.ops": ("Operations on tensors.", ("tinygan.ops",), ()),
    "tinygan.nn": ("Layers, losses and optimisers.", ("tinygan.nn",), ()),
    "tinygan.models": ("The nets, one training step of each, and the classifiers.", ("tinygan.models",), ()),
    "tinygan.data": ("Digits, pictures and the order of batches.", ("tinygan.data",), ()),
    "tinygan.metrics": ("Measures of samples, routes, logs and GPANs.", ("tinygan.metrics",), ()),
}


def main(argv: list[str] | None = None) -> int:
    """Write the page, or compare it with the docstrings; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is stale")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page [default: docs/api.md]")
    args = parser.parse_args(argv)
    text = page(ROOMS)
    if not args.check:
        args.page.write_text(text, "utf-8")
    elif not args.page.is_file() or args.page.read_text("utf-8") != text:
        print(f"{args.page.name} is not what the docstrings say; run {COMMAND}", file=sys.stderr)
        return 1
    return 0


def page(rooms: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]) -> str:
    """Return the whole page as Markdown: a table of contents, then one section a room."""
    contents, sections = [], []
    for room, (words, modules, wanted) in rooms.items():
        names = public_names([importlib.import_module(module) for module in modules], wanted)
        links = ", ".join(f"[`{name}`](#{anchor(room, name)})" for name in names)
        contents.append(f"- [`{room}`](#{anchor(room)}): {words} {links}")
        sections.append(f'<a id="{anchor(room)}"></a>\n\n## {room}\n\n{words}')
        sections += [entry(room, name, value) for name, value in names.items()]
    head = f"# The public names\n\nMade from the docstrings by `{COMMAND}`; not to be edited by hand."
    return "\n\n".join([head, "\n".join(contents), *sections]) + "\n"


def anchor(room: str, name: str = "") -> str:
    """Return the name of a place on the page, such as tinygan-ops-log."""
    return f"{room}.{name}".rstrip(".").replace(".", "-")


def public_names(modules: Iterable[ModuleType], wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Collect the public functions and classes of modules: name -> object, in the order in which they are listed.

    wanted: the only names to collect; else those in `__all__`, or, without one, those that a module defines itself.
    Raises LookupError for a wanted name that no module has, AttributeError for one in `__all__` that does not exist.
    """
    names: dict[str, Any] = {}
    for module in modules:
        listed = getattr(module, "__all__", None)
        if wanted:
            listed = [name for name in wanted if hasattr(module, name)]
        elif listed is None:
            listed = [name for name, value in vars(module).items()
                      if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__]
        for name in listed:
            if callable(value := getattr(module, name)):
                names.setdefault(name, value)
    if missing := [name for name in wanted if name not in names]:
        raise LookupError(f"no module has {missing[0]}")
    return {name: names[name] for name in wanted or names}


def entry(room: str, name: str, value: Any) -> str:
    """Return the entry of one name: its signature, its docstring, and, of a class, its public methods."""
    parts = [f'<a id="{anchor(room, name)}"></a>\n\n### {name}', fenced(signature(name, value)), prose(value)]
    if inspect.isclass(value):
        for method, inner in vars(value).items():
            if method.startswith("_") or not (words := docstring(inner)):
                continue
            kind = "property" if isinstance(inner, property) else ""
            line = f"{method}  # property" if kind else signature(method, plain(inner))
            parts += [fenced(line), markdown(words)]
    return "\n\n".join(part for part in parts if part)


def plain(value: Any) -> Any:
    """Return the function inside a static or class method."""
    return value.__func__ if isinstance(value, (staticmethod, classmethod)) else value


def signature(name: str, value: Any) -> str:
    """Return a name with its parameters and type hints; a class with those of its constructor.

    One parameter a line where one line would be longer than 100 characters.
    """
    word = "class " if inspect.isclass(value) else ""
    try:
        spec = inspect.signature(value)
    except (TypeError, ValueError):
        return word + name
    parts = [str(p) for p in spec.replace(return_annotation=spec.empty).parameters.values()]
    kinds = [p.kind for p in spec.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parts.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    # `from __future__ import annotations` leaves hints as text, which is shown in quotes.
    returned = spec.return_annotation
    end = "" if word or returned is spec.empty else f" -> {returned if isinstance(returned, str) else hint(returned)}"
    parts = [steady(part) for part in parts]
    line = f"{word}{name}({', '.join(parts)}){steady(end)}"
    if len(line) <= 100:
        return line
    return f"{word}{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){steady(end)}"


def hint(annotation: Any) -> str:
    """Return a type hint as it is written."""
    return inspect.formatannotation(annotation)


def steady(text: str) -> str:
    """Remove what differs between runs and versions: memory addresses, quotes around hints, full paths of modules."""
    text = re.sub(r"<function (\w+) at 0x[0-9a-f]+>|<(?:class|built-in function) '?([\w.]+)'?>",
                  lambda match: match[1] or match[2], text)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    return re.sub(r"\b(?:tinygan|numpy|collections|typing|pathlib)(?:\.\w+)*\.(?=\w)", "", text)


def docstring(value: Any) -> str:
    """Return the docstring of a function, class, property or method that has one itself; "" otherwise."""
    value = plain(value)
    if not (inspect.isfunction(value) or inspect.isclass(value) or isinstance(value, property) or callable(value)):
        return ""
    text = value.__dict__.get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", None)
    return inspect.cleandoc(text) if text else ""


def prose(value: Any) -> str:
    """Return the docstring of a name as Markdown, without what @dataclass writes where there is none."""
    text = docstring(value)
    if inspect.isclass(value) and text.startswith(f"{value.__name__}("):
        return ""
    return markdown(text)


def markdown(text: str) -> str:
    """Return a docstring as Markdown: indented blocks after an empty line become code, other lines stay as they are."""
    out, block = [], []
    for line in [*text.split("\n"), "."]:
        begins = line.startswith("    ") and out and not out[-1].strip()  # else it continues the line above it
        if begins or (block and (line.startswith("    ") or not line.strip())):
            block.append(line[4:])
            continue
        if block:
            code = "\n".join(block).rstrip("\n")
            out += ["", *fenced(code, python(code)).split("\n"), ""]
            block = []
        out.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out[:-1])).strip()


def python(code: str) -> str:
    """Return the name of a block's language: "python" where it parses, "text" otherwise."""
    try:
        ast.parse(code)
    except SyntaxError:
        return "text"
    return "python"


def fenced(code: str, language: str = "python") -> str:
    """Return a block of code as Markdown."""
    return f"```{language}\n{code}\n```"


if __name__ == "__main__":
    sys.exit(main())
