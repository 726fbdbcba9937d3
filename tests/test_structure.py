"""The shape of the project, held by reading its source: floors, imports, forbidden words, file sizes, documentation."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tinygan"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(path for folder in (".", "weights", "benchmarks", "lessons") for path in (ROOT / folder).glob("*.py"))
LESSON = re.compile(r"\d\d_.*\.py")  # begins with a cell of prose, see test_lessons.py
MAX_CODE_LINES = 250  # of a file
MAX_FUNCTION_LINES = 60  # of a function, its docstring included
# What a reader goes through to understand the nets, from the engine to one step of the GPAN: all of it together.
READ = ("engine", "ops", "nn", "models")
MAX_READ = 2500

# Imports go down only: a room may import the rooms on floors below its own, and nothing else. docs/architecture.md
# draws them. __init__, what `import tinygan` offers, leaves app alone; app takes the version from it.
FLOORS = (("errors",), ("kernels", "metrics"), ("engine", "data"), ("ops",), ("nn",), ("models",),
          ("__init__",), ("app",), ("study",))
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LAZY = {"PIL", "h5py", "matplotlib", "tqdm", "threadpoolctl", "cupy"}  # imported inside functions only


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def room(name: str) -> str:
    return name.partition(".")[0]


def imports(tree: ast.Module, name: str, is_package: bool = False) -> list[tuple[str, bool, int]]:
    """(what is imported, whether at the top level, line): modules of the package start with "tinygan"."""
    inside = {id(node) for outer in ast.walk(tree) if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef))
              for node in ast.walk(outer)}
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["tinygan", *name.split(".")] if name != "__init__" else ["tinygan", "x"]
                above = above if is_package else above[:-1]
                base = ".".join([*above[: len(above) - node.level + 1], *([base] if base else [])])
            # `from tinygan import ops` means the module, `from tinygan.ops import log` a thing in it.
            names = [f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in node.names]
        found += [(imported, id(node) not in inside, node.lineno) for imported in names]
    return found


def is_module(dotted: str) -> bool:
    head, _, rest = dotted.partition(".")
    return head == "tinygan" and rest in MODULES


def own_imports(name: str) -> set[str]:
    """The package's modules that module `name` imports."""
    path = MODULES[name]
    found = set()
    for imported, _, _ in imports(ast.parse(path.read_text("utf-8")), name, path.name == "__init__.py"):
        if room(imported) == "tinygan":
            inner = imported.partition(".")[2] or "__init__"
            assert inner in MODULES, f"{name} imports {imported}, which is no module"
            found.add(inner)
    return found - {name}


def broken_floors(graph: dict[str, set[str]]) -> list[str]:
    broken = []
    for name, targets in graph.items():
        for target in targets:
            mine, theirs = room(name), room(target)
            if mine != theirs and FLOOR[theirs] >= FLOOR[mine]:
                broken.append(f"{name} (floor {FLOOR[mine]}) imports {target} (floor {FLOOR[theirs]})")
    return broken


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring, or []."""
    left = {name: set(targets) for name, targets in graph.items()}
    while free := [name for name, targets in left.items() if not targets & set(left)]:
        for name in free:
            del left[name]
    return sorted(left)


def test_every_module_has_a_floor():
    assert {room(name) for name in MODULES} == set(FLOOR)


def test_imports_go_down_only():
    graph = {name: own_imports(name) for name in MODULES}
    assert sum(map(len, graph.values())) > 50  # the reader of imports reads
    assert broken_floors(graph) == []
    assert cycle(graph) == []


def test_a_wrong_import_would_be_seen():
    good = {name: own_imports(name) for name in MODULES}
    for name, target in (("engine.tensor", "ops.basic"), ("kernels.base", "engine.tensor"), ("data.idx", "ops.basic"),
                         ("metrics.samples", "kernels.arrays"), ("nn.layers", "app.run"), ("__init__", "app.run"),
                         ("models.gan.nets", "app.checkpoint"), ("ops", "nn"), ("models", "app")):
        (line,) = broken_floors(good | {name: good[name] | {target}})
        assert f"{name} (floor" in line and f"imports {target} (floor" in line
    assert cycle(good | {"ops.basic": {"ops.conv"}})
    assert cycle({"a": {"b"}, "b": {"a"}, "c": set(), "d": {"c"}}) == ["a", "b"]
    text = "from . import checkpoint\nfrom .errors import UsageError\nimport tinygan\ndef f():\n    import PIL.Image\n"
    assert [(name, top) for name, top, _ in imports(ast.parse(text), "app.run")] == [
        ("tinygan.app.checkpoint", True), ("tinygan.app.errors", True), ("tinygan", True), ("PIL.Image", False)]
    assert imports(ast.parse("from ..errors import UsageError"), "data.idx")[0][0] == "tinygan.errors"
    assert imports(ast.parse("from .idx import read_images"), "data", is_package=True)[0][0] == "tinygan.data.idx"


def test_third_party_modules_are_imported_where_they_are_used():
    wrong = []
    for name, path in MODULES.items():
        for imported, top, line in imports(ast.parse(path.read_text("utf-8")), name, path.name == "__init__.py"):
            first = imported.partition(".")[0]
            if first in sys.stdlib_module_names or first in ("tinygan", "numpy") or (first in LAZY and not top):
                continue
            wrong.append(f"{path.name}:{line}: {imported}")
    assert wrong == []


def test_import_tinygan_needs_numpy_alone():
    code = ("import sys; before = set(sys.modules); import tinygan; assert 'tinygan.models' not in sys.modules; "
            "[getattr(tinygan, name) for name in tinygan.__all__]; assert 'tinygan.models' in sys.modules; "
            "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))")
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name for name in out.stdout.split() if name not in sys.stdlib_module_names}
    loaded.discard("cython_runtime")  # numpy.random's
    assert {name for name in loaded if not name.startswith("_")} == {"tinygan", "numpy"}


# ---- words -------------------------------------------------------------------------------------------------------

FORBIDDEN = re.compile(r"pickle|\beval\s*\(|\bexec\s*\(|\bmarshal\b|\bshelve\b", re.IGNORECASE)
ALLOWED = ("allow_pickle=False",)


def forbidden_words(text: str) -> list[str]:
    for phrase in ALLOWED:
        text = text.replace(phrase, "")
    return FORBIDDEN.findall(text)


RUNS_LESSONS = ROOT / "lessons" / "build_site.py"  # cell by cell, to show what each printed: code, not data


def test_no_code_is_ever_loaded_from_data():
    found = [f"{path.relative_to(ROOT)}: {word}" for path in [*FILES, *SCRIPTS] if path != RUNS_LESSONS
             for word in forbidden_words(path.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize("text", ["import pickle", "np.load(f, allow_pickle=True)", "eval('1')", "exec (code)",
                                  "from cPickle import loads", "builtins.eval(x)"])
def test_a_forbidden_word_would_be_seen(text):
    assert forbidden_words(text)


# ---- size --------------------------------------------------------------------------------------------------------


def docstrings(tree: ast.Module) -> set[int]:
    """The lines that docstrings stand on."""
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and \
                ast.get_docstring(node, clean=False) is not None:
            lines |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def code_lines(text: str) -> int:
    """Lines that hold code: no blank ones, comments or docstrings."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings(ast.parse(text)))


def test_no_file_of_the_package_is_long():
    sizes = {str(path.relative_to(ROOT)): code_lines(path.read_text("utf-8")) for path in FILES}
    assert {name: size for name, size in sizes.items() if size > MAX_CODE_LINES} == {}


def test_what_is_read_stays_short():
    sizes = {name: code_lines(path.read_text("utf-8")) for name, path in MODULES.items() if room(name) in READ}
    assert len(sizes) > 15 and sum(sizes.values()) <= MAX_READ, sizes


def test_code_lines_counts_code():
    text = '"""Doc\nof two lines."""\n\n# comment\nx = (1,\n     2)\n\n\ndef f():\n    """Doc."""\n    return x\n'
    assert code_lines(text) == 4


def long_functions(text: str) -> list[str]:
    return [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES]


def test_no_function_is_long():
    found = [f"{path.relative_to(ROOT)}: {name}" for path in [*FILES, *SCRIPTS]
             for name in long_functions(path.read_text("utf-8"))]
    assert found == []


def test_a_long_function_would_be_seen():
    body = "    x = 1\n" * (MAX_FUNCTION_LINES - 1)
    assert long_functions("def f():\n" + body) == [] and long_functions("def f():\n" + body + "    x = 1\n") == ["f"]


# ---- kernels -----------------------------------------------------------------------------------------------------


def probes(text: str) -> list[int]:
    """The lines on which hasattr or getattr asks kernels what they can do."""
    return [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr")
            and re.search(r"kernels|for_array", ast.unparse(node.args[0]), re.IGNORECASE)]


def test_no_kernel_is_chosen_by_hasattr_or_getattr():
    assert [f"{path.relative_to(ROOT)}:{line}" for path in FILES for line in probes(path.read_text("utf-8"))] == []


def test_a_probe_of_kernels_would_be_seen():
    assert probes("a = 1\nif hasattr(for_array(x.data), 'conv_relu'):\n    getattr(kernels, name)(x)\n") == [2, 3]
    assert probes("hasattr(module, 'parameters')\n") == []


# ---- documentation -----------------------------------------------------------------------------------------------

# What the class says already, or NumPy's name for the same thing: a docstring would repeat it.
PLAIN_NAMES = {"forward", "parameters", "unfreeze", "shape", "ndim", "size", "dtype"}
NO_DOCSTRING = {  # one line each, under a comment or a class that says it for all
    "tinygan/app/cli.py": {"Parser.parse_args", "positive_int", "non_negative_int", "positive_float",
                           "non_negative_float", "probability"},
}
NO_ANNOTATION = {  # argparse's own signature
    "tinygan/app/cli.py": {"Parser.parse_args(args)", "Parser.parse_args(namespace)"},
}
UNTYPED_FOLDER = "tinygan/kernels"  # base.py gives the one signature that all kernels share


def public_functions(tree: ast.Module):
    """(name, node) of the functions and methods that other files may call."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def undocumented(text: str) -> list[str]:
    return [name for name, node in public_functions(ast.parse(text)) if ast.get_docstring(node) is None]


def unannotated(text: str) -> list[str]:
    found = []
    for name, node in public_functions(ast.parse(text)):
        spec = node.args
        for arg in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]:
            if arg.annotation is None and arg.arg not in ("self", "cls"):
                found.append(f"{name}({arg.arg})")
    return found


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_for(path):
    if LESSON.fullmatch(path.name):
        assert path.read_text("utf-8").startswith("# %% [markdown]\n# # ")
        return
    assert (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").strip()


def test_public_functions_are_documented_and_annotated():
    silent, bare = [], []
    for path in FILES:
        name, text = path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
        silent += [f"{name}: {function}" for function in undocumented(text)
                   if function.rpartition(".")[2] not in PLAIN_NAMES and function not in NO_DOCSTRING.get(name, ())]
        if not name.startswith(UNTYPED_FOLDER):
            bare += [f"{name}: {where}" for where in unannotated(text) if where not in NO_ANNOTATION.get(name, ())]
    assert silent == []
    assert bare == []


def test_a_silent_function_would_be_seen():
    text = "def f(a, *, b: int):\n    pass\nclass C:\n    def m(self, x):\n        'Doc.'\ndef _g(a): pass\n"
    assert undocumented(text) == ["f"] and unannotated(text) == ["f(a)", "C.m(x)"]


# ---- docs/architecture.md ----------------------------------------------------------------------------------------


def drawn(text: str) -> set[str]:
    """The entries of tinygan/ that the drawing names: at the start of a line, `name/` or `name.py`."""
    return set(re.findall(r"^    (\w+/|\w+\.py)", text, re.MULTILINE))


def linked(text: str) -> list[str]:
    """Every path of the repository that the page names in code marks."""
    return re.findall(r"`((?:tinygan|lessons|tests|docs|weights|benchmarks)/[\w./]*|[\w]+\.py)`", text)


def test_the_architecture_page_shows_the_folders_as_they_are():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    entries = {path.name + "/" * path.is_dir() for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert drawn(text) == entries and len(entries) == 11
    names = linked(text)
    assert len(names) > 10 and [name for name in names if not (ROOT / name).exists()] == []
    order = [name.rstrip("/") for name in re.findall(r"^    (\w+/|\w+\.py)", text, re.MULTILINE)]
    assert [FLOOR[name.removesuffix(".py")] for name in order] == sorted(
        (FLOOR[name.removesuffix(".py")] for name in order), reverse=True)  # as drawn: what imports stands above


def test_the_architecture_page_fits_one_screen():
    assert len((ROOT / "docs" / "architecture.md").read_text("utf-8").splitlines()) <= 60


def test_a_wrong_drawing_would_be_seen():
    assert drawn("    app/      runs\n    errors.py\n      indented/\n") == {"app/", "errors.py"}
    assert linked("see `tinygan/nn/layers.py`, `sample.py` and `forward`") == ["tinygan/nn/layers.py", "sample.py"]
