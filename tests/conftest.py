"""One BLAS thread for every test: the results and the time then do not depend on what else the machine does.

Tests marked `kernels` need a compiler. Where one is missing they are skipped with the reason, but in CI
(TINYGAN_CI=1) they fail: a check that quietly does not run is none.

Tests marked `gpu` run on a GPU that CuPy can use. `TINYGAN_CUPY=cpu pytest -m gpu` runs them without one, on the real
CuPy (see tests/cpucupy), in these processes and in those that they start.

`pytest -m lesson07` runs the tests that lesson 07 names in its first cell; they are listed nowhere else.
"""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # read by NumPy's BLAS when it is first imported
os.environ["COLUMNS"] = "80"  # help texts wrap at the terminal's width
for name in ("TINYGAN_LESSONS_OUT", "TINYGAN_VGG16"):
    os.environ.pop(name, None)


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As in a background job; what the tests start would inherit it, and scripts leave an ignored signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ON_A_PROCESSOR = os.environ.get("TINYGAN_CUPY") == "cpu"
if ON_A_PROCESSOR:
    on_path = str(Path(__file__).with_name("cpucupy") / "on_path")  # where `import cupy` is found first
    sys.path.insert(0, on_path)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (on_path, os.environ.get("PYTHONPATH"))))

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
LESSON_TESTS: dict[str, list[str]] = {}  # mark -> files of tests


def pytest_configure(config):
    """Read which tests belong to which lesson, and make the marks lesson01, lesson02, ... known."""
    for path in sorted(LESSONS.glob("[0-9][0-9]_*.py")):
        first = path.read_text("utf-8").partition("\n# %%\n")[0]
        mark = f"lesson{path.name[:2]}"
        LESSON_TESTS[mark] = re.findall(r"test_\w+\.py", first.partition("**The package's tests:**")[2])
        config.addinivalue_line("markers", f"{mark}: what {path.name} is about")
    if ON_A_PROCESSOR:
        try:
            import cupy  # noqa: F401 - builds what it needs, before the tests' time begins
        except ImportError as problem:
            raise pytest.UsageError(f'TINYGAN_CUPY=cpu: {problem}; pip install ".[test-cupy]"') from None


def pytest_terminal_summary(terminalreporter):
    """Say in one line what was not tested for want of a GPU, and how it can be."""
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if "no GPU: " in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests of the GPU path were skipped; without a GPU they run on the "
                                    'real CuPy: pip install ".[test-cupy]" elsewhere, TINYGAN_CUPY=cpu pytest -m gpu')


def pytest_collection_modifyitems(items):
    for mark, names in LESSON_TESTS.items():
        for item in items:
            if item.path.name in names:
                item.add_marker(mark)


def missing(what: str) -> None:
    """Skip, or in CI fail, for want of `what`."""
    if os.environ.get("TINYGAN_CI"):
        pytest.fail(f"{what}: CI must not go on without it")
    pytest.skip(what)


@pytest.fixture(scope="session")
def gpp() -> str:
    """The path of g++, which compiles the GPU kernels for the processor."""
    return shutil.which("g++") or missing("g++ is not installed")


@pytest.fixture(scope="module")
def gpu():
    """CuPy, where it has a GPU or a processor in its place."""
    from tinygan.app.device import find_gpu
    from tinygan.kernels.gpu import launch

    cupy, why = find_gpu()
    if cupy is None:
        pytest.skip(f"no GPU: {why}")
    launch.forget()
    return cupy


@pytest.fixture
def xp(request):
    """The module in CuPy's place: the stand-in, or in test_gpu.py, which replaces this fixture, CuPy itself."""
    return request.getfixturevalue("standin").module


@pytest.fixture
def standin(gpp):
    """The strict stand-in for CuPy, in its place for one test."""
    from standin import strict_cupy

    from tinygan.kernels import arguments as arrays
    from tinygan.kernels.gpu import launch, maps, routes

    def fresh() -> None:
        launch.forget()
        arrays._numbers.clear()  # what earlier tests left on the device
        routes._uploaded.cache_clear()
        maps._band.cache_clear()

    fresh()
    strict_cupy.install()
    yield strict_cupy
    strict_cupy.uninstall()
    fresh()
