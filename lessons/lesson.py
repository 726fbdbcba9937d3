"""The parts that all lessons use: flags, pictures, and the check of an exercise.

    python lessons/07_length_and_direction.py               the whole lesson
    python lessons/07_length_and_direction.py --quick       the same with fewer steps and samples
    python lessons/07_length_and_direction.py --solutions   does what is in lessons/solutions/ pass the exercises?

There is nothing to learn here: everything that a lesson teaches is in the lesson itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

if "ipykernel" not in sys.modules:
    matplotlib.use("Agg")  # pictures go to files, so no window and no display are needed
import matplotlib.pyplot as plt

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
if (ROOT / "tinygan" / "__init__.py").is_file():
    sys.path.insert(0, str(ROOT))  # the package beside this folder, installed or not
from tinygan.errors import TinyganError  # noqa: E402
from tinygan.kernels import threads  # noqa: E402
from tinygan.models.classifiers import digits  # noqa: E402

OUT = Path(os.environ.get("TINYGAN_LESSONS_OUT") or FOLDER / "out")  # the tests set it
WIDTH = 7.0  # inches; with DPI and 10 point letters a picture can be read on a phone
DPI = 120
BLUE, ORANGE, GREEN, RED, GREY = "#1f5fa8", "#d9822b", "#2f8f5b", "#c23b3b", "#8a8a8a"

plt.rcParams.update({"font.size": 10, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
                     "figure.dpi": DPI, "savefig.dpi": DPI, "legend.frameon": False,
                     "figure.constrained_layout.use": True,
                     "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, GREY, "#7a4fa3"])})

SHORT = ("the short form (--quick): fewer steps and samples. It tries the lesson out; its figures and pictures "
         "mean little")

saved: list[Path] = []  # pictures in the order in which they were made
_printed: list[str] = []  # lines that are printed once only

# One thread for the BLAS, whose threads wait for each other in busy loops: beside another busy program on two cores a
# lesson's small products took six times as long.
threads.set_threads(os.cpu_count() or 1)


def flags() -> argparse.Namespace:
    """Read the command line: quick and solutions (bool), classifier (a path or None). In a notebook all are off."""
    if "ipykernel" in sys.modules:
        return argparse.Namespace(quick=False, solutions=False, classifier=None)
    p = argparse.ArgumentParser(description="A lesson: it explains, computes, draws to lessons/out and checks itself.")
    p.add_argument("--quick", action="store_true", help="fewer steps and samples: a test of the lesson, in seconds")
    p.add_argument("--solutions", action="store_true", help="put lessons/solutions in place of your exercises")
    p.add_argument("--classifier", metavar="FILE", help="a VGG16 file (weights/README.md), for lessons 11 to 14")
    args = p.parse_args()
    if args.quick and not _printed:
        _printed.append(SHORT)
        print(SHORT)
    return args


def figure(rows: int = 1, columns: int = 1, height: float = 2.8, **more: Any) -> tuple[Any, Any]:
    """Return a figure of a lesson's width and `height` inches a row, and its axes, as plt.subplots does."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height * rows), **more)


def save(fig: Any, name: str) -> None:
    """Write a figure to lessons/out/NAME.png, and print its path."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.png"
    fig.savefig(path)
    if "ipykernel" not in sys.modules:
        plt.close(fig)
    saved.append(path)
    print(f"picture: {os.path.relpath(path)}")


def exercise(attempt: Callable, check: Callable[[Callable], None]) -> None:
    """Run check(attempt) and print whether it passes; with --solutions the function of the same name in the lesson's
    file in lessons/solutions must pass, too."""
    title = attempt.__name__.replace("_", " ")
    if flags().solutions:
        check(getattr(_solutions(), attempt.__name__))  # a wrong solution ends the lesson with its error
        print(f"{title}: the solution passes")
    try:
        check(attempt)
    except Exception as error:  # an unfinished attempt may fail in any way, and the lesson goes on
        print(f"{title}: not solved yet ({str(error).strip() or type(error).__name__})")
    else:
        print(f"{title}: solved")


def _solutions() -> Any:
    """Load lessons/solutions/NAME.py of the lesson that runs."""
    path = FOLDER / "solutions" / Path(sys.argv[0]).name
    spec = importlib.util.spec_from_file_location("solutions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digit_net() -> digits.DigitNet:
    """Load the digit classifier that comes with tinygan. Where it is missing the lesson ends with a one-line error."""
    try:
        return digits.load()
    except TinyganError as error:
        raise SystemExit(str(error)) from None


def classifier_file() -> Path | None:
    """Find the VGG16 file: --classifier, TINYGAN_VGG16 or weights/vgg16.h5; None where there is none."""
    named = flags().classifier or os.environ.get("TINYGAN_VGG16")
    path = Path(named) if named else ROOT / "weights" / "vgg16.h5"
    if named and not path.is_file():
        raise SystemExit(f"there is no file {path}: weights/README.md says how to make one, or leave it out")
    return path if path.is_file() else None
