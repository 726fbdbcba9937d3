"""What is said at start when a GPU works, and when it does not: one line, with the command that helps on this computer.

No GPU is needed: a small stand-in for CuPy fails in every way that CuPy is known to fail, and a stand-in for the
driver's library answers what drivers of several ages answer.
"""

import importlib.metadata
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tinygan.app import cli
from tinygan.app.device import cupy_packages, find_gpu, load_driver, memory_is_full, pick_device
from tinygan.app.draw import in_batches
from tinygan.errors import TinyganError, UsageError

CUDA12, CUDA13 = 'pip install ".[cuda12]"', 'pip install ".[cuda13]"'
UNINSTALL = "pip uninstall cupy-cuda13x, then "
GIB = 2**30


class CUDARuntimeError(RuntimeError):
    """Of CuPy's name and base class."""


class DynamicLibNotFoundError(RuntimeError):
    """Of the name and base class of the one that cuda.pathfinder raises."""


class OutOfMemoryError(MemoryError):
    """Of CuPy's name and base class."""


class CUBLASError(RuntimeError):
    """Of CuPy's name and base class."""


class CUDADriverError(RuntimeError):
    """Of CuPy's name and base class."""


def insufficient():
    return CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")


class FakeCupy:
    """As much of CuPy as `find_gpu` touches. `count` and `product` may be exceptions, which are then raised."""

    __version__ = "14.2.0"
    float32 = np.float32

    def __init__(self, driver=13000, built=13020, count=1, title=b"NVIDIA H100", capability=(9, 0), product=None,
                 memory=(GIB // 2, 80 * GIB)):
        self.count, self.product, self.memory = count, product, memory
        self.current = 0
        properties = {"name": title, "major": capability[0], "minor": capability[1]}
        runtime = SimpleNamespace(
            driverGetVersion=lambda: driver, runtimeGetVersion=lambda: built, getDeviceCount=lambda: self.give("count"),
            getDevice=lambda: self.current, getDeviceProperties=lambda number: properties,
            memGetInfo=lambda: self.give("memory"))
        self.cuda = SimpleNamespace(runtime=runtime, Device=self.device)

    def give(self, name):
        value = getattr(self, name)
        if isinstance(value, Exception):
            raise value
        return value

    def device(self, number):
        return SimpleNamespace(use=lambda: setattr(self, "current", number))

    def arange(self, count, dtype):
        product = self.give("product")
        return np.arange(count, dtype=dtype) if product is None else np.full(count, product, dtype)


class FakeDriver:
    """The four functions of the driver's library that are asked, with their C way of answering."""

    def __init__(self, cuda, capability=None):
        self.cuda, self.capability = cuda, capability

    def cuDriverGetVersion(self, version):
        version._obj.value = self.cuda
        return 0

    def cuInit(self, flags):
        return 0 if self.capability else 100  # CUDA_ERROR_NO_DEVICE

    def cuDeviceGet(self, device, number):
        device._obj.value = number.value
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.capability[{75: 0, 76: 1}[attribute]]
        return 0


class RefusingFinder:
    """A finder that makes `import cupy` raise and leaves every other module alone."""

    def __init__(self, problem):
        self.problem = problem

    def find_spec(self, name, path=None, target=None):
        if name == "cupy":
            raise self.problem


def raiser(problem):
    def fail(*args):
        raise problem
    return fail


@pytest.fixture
def computer(monkeypatch):
    """A function that sets up a computer: what `import cupy` gives, the packages installed, and the driver."""
    real_finders = list(sys.meta_path)

    def set_up(cupy=None, packages=("cupy-cuda13x",), driver=None):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(importlib.metadata, "distributions",
                            lambda: [SimpleNamespace(metadata={"Name": name}) for name in packages])
        monkeypatch.setattr("tinygan.app.device.load_driver",
                            raiser(OSError("libcuda.so.1")) if driver is None else lambda: driver)
        if isinstance(cupy, Exception):
            monkeypatch.delitem(sys.modules, "cupy", raising=False)
            monkeypatch.setattr(sys, "meta_path", [RefusingFinder(cupy), *real_finders])
        else:
            monkeypatch.setitem(sys.modules, "cupy", cupy)
        return cupy
    return set_up


def reason(number=0):
    """Why there is no GPU; checks on the way what holds for every reason."""
    cupy, why = find_gpu(number)
    assert cupy is None
    assert why and why.splitlines() == [why]
    return why


def test_a_gpu_that_works(computer):
    cupy = computer(FakeCupy(count=2))
    found, line = find_gpu(1)
    assert found is cupy and cupy.current == 1
    assert line == "device: gpu 1, NVIDIA H100, CuPy 14.2.0"


def test_the_line_names_the_precision(computer):
    cupy = computer(FakeCupy())
    assert pick_device("gpu").line == "device: gpu 0, NVIDIA H100, CuPy 14.2.0, float32, TF32 off"
    device = pick_device("auto", tf32=True)
    assert (device.kind, device.xp) == ("gpu", cupy)
    assert device.line == "device: gpu 0, NVIDIA H100, CuPy 14.2.0, float32, TF32 on"


def test_tf32_is_ignored_on_a_cpu_and_that_is_said(computer):
    computer(FakeCupy(driver=0))
    ending = " (--tf32 is for GPUs: ignored)"
    for name in ("cpu", "auto"):
        with_it, without = pick_device(name, tf32=True).line, pick_device(name).line
        assert with_it == without + ending and "TF32" not in without


# CuPy is not there.

UPDATE = "update the NVIDIA driver, which runs CUDA 11.4 at most"
NOT_THERE = ModuleNotFoundError("No module named 'cupy'", name="cupy")


@pytest.mark.parametrize("driver, advice", [
    (FakeDriver(13000), CUDA13),
    (FakeDriver(13020, (7, 5)), CUDA13),
    (FakeDriver(14000, (12, 0)), CUDA13),
    (FakeDriver(12080, (9, 0)), CUDA12),
    (FakeDriver(12000), CUDA12),
    (FakeDriver(13000, (6, 1)), CUDA12),  # CUDA 13 has dropped that GPU, though its driver runs CUDA 13
    (FakeDriver(11040, (8, 0)), f"{UPDATE}, to 580 or newer, then {CUDA13}"),
    (FakeDriver(11040, (6, 1)), f"{UPDATE}, to 525 or newer, then {CUDA12}"),
])
def test_not_installed(computer, driver, advice):
    computer(NOT_THERE, packages=["numpy"], driver=driver)
    assert reason() == f"CuPy is not installed: {advice}"


def test_not_installed_and_no_driver(computer):
    computer(NOT_THERE, packages=[])
    why = reason()
    assert why.startswith("CuPy is not installed, and there is no NVIDIA driver on this machine (a container")
    assert "pip" not in why


def test_the_capability_asked_is_that_of_the_gpu_asked_for(computer):
    class Two(FakeDriver):
        def cuDeviceGetAttribute(self, value, attribute, device):
            value._obj.value = {75: (9, 6), 76: (0, 1)}[attribute][device.value]
            return 0

    computer(NOT_THERE, packages=[], driver=Two(13000, (9, 0)))
    assert CUDA13 in reason(0) and CUDA12 in reason(1)


def test_the_driver_library_is_asked_for_by_its_name_on_each_system(monkeypatch):
    for system, library in (("linux", "libcuda.so.1"), ("win32", "nvcuda.dll")):
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr("tinygan.app.device.ctypes.CDLL", lambda name: name)
        assert load_driver() == library


# CuPy is there and does not import.

def test_two_packages(computer):
    """Told before the import, which may well work."""
    computer(FakeCupy(), packages=["numpy", "cupy-cuda13x", "cupy_cuda12x"], driver=FakeDriver(12040, (8, 6)))
    assert reason() == ("two CuPy packages overwrite each other: "
                        f"pip uninstall cupy-cuda12x cupy-cuda13x, then {CUDA12}")
    computer(FakeCupy(), packages=["cupy", "cupy-rocm-7-0"])
    assert reason().endswith(f"pip uninstall cupy cupy-rocm-7-0, then {CUDA13} or {CUDA12}, whichever fits the driver")


def test_what_is_not_a_second_cupy(computer):
    computer(FakeCupy(), packages=["cupy-cuda13x", "cupy-cuda13x", "cupy-wheel", "cupyx-something", "cupy-xarray",
                                   "cuda-pathfinder", "notcupy", None])
    assert find_gpu()[0] is not None
    assert cupy_packages() == ["cupy-cuda13x"]


def test_a_broken_install(computer):
    """As CuPy says it: a page of advice around the cause."""
    problem = ImportError("\n=======\nFailed to import CuPy.\n\nmany more lines\n=======\n")
    problem.__cause__ = ImportError("_core.so: undefined symbol: PyFoo\nsecond line")
    computer(problem, driver=FakeDriver(13000))
    assert reason() == ("CuPy does not import (ImportError: _core.so: undefined symbol: PyFoo): "
                        f"pip uninstall cupy-cuda13x, then {CUDA13}")
    problem.__cause__ = None
    assert "(ImportError: Failed to import CuPy.)" in reason()


@pytest.mark.parametrize("problem, told", [
    (ModuleNotFoundError("No module named 'cuda'", name="cuda"), "ModuleNotFoundError: No module named 'cuda'"),
    (AttributeError("numpy has no attribute 'bool8'"), "AttributeError: numpy has no attribute 'bool8'"),
    (RuntimeError(), "(RuntimeError)"),
    (SimpleNamespace(), "has no attribute 'cuda'"),  # the folder that is left of two packages when one is removed
])
def test_other_broken_installs(computer, problem, told):
    computer(problem, driver=FakeDriver(12000))
    why = reason()
    assert why.startswith("CuPy does not import (") and told in why and why.endswith(UNINSTALL + CUDA12)


def test_an_old_cupy_does_not_import_without_its_libraries(computer):
    computer(ImportError("libcublas.so.12: cannot open shared object file: No such file or directory"),
             packages=["cupy-cuda12x"], driver=FakeDriver(13000))
    assert reason().startswith("CuPy does not find the CUDA libraries (ImportError: libcublas.so.12: cannot")
    assert reason().endswith(f"): {CUDA12}")


# The driver.

def test_no_driver(computer):
    computer(FakeCupy(driver=0, count=insufficient()))
    assert reason().startswith("there is no NVIDIA driver on this machine") and "pip" not in reason()


@pytest.mark.parametrize("driver, built, packages, told", [
    (12040, 13020, ["cupy-cuda13x"], f"CUDA 12.4 at most, and this CuPy was built for CUDA 13.2: {UNINSTALL}{CUDA12}, "
                                     "or update the driver to 580 or newer"),
    (11080, 13000, ["cupy-cuda13x"], "CUDA 11.8 at most, and this CuPy was built for CUDA 13.0: "
                                     "update the driver to 580 or newer"),
    (11080, 12090, ["cupy-cuda12x"], "CUDA 11.8 at most, and this CuPy was built for CUDA 12.9: "
                                     "update the driver to 525 or newer"),
    (13000, 14000, ["cupy-cuda14x"], "CUDA 13.0 at most, and this CuPy was built for CUDA 14.0: "
                                     f"pip uninstall cupy-cuda14x, then {CUDA13}, or update the driver"),
])
def test_a_driver_too_old(computer, driver, built, packages, told):
    computer(FakeCupy(driver=driver, built=built, count=insufficient()), packages=packages)
    assert reason() == f"the NVIDIA driver runs {told}"


def test_a_driver_too_old_by_cupys_own_word(computer):
    """Of the same major version, and CuPy refuses it all the same; at whatever call."""
    said = ("the NVIDIA driver runs CUDA 13.0 at most, and this CuPy was built for CUDA 13.2: "
            f"{UNINSTALL}{CUDA12}, or update the driver to 580 or newer")
    newer = CUDARuntimeError("cudaErrorCallRequiresNewerDriver: API call is not supported in the installed CUDA driver")
    for problem in (insufficient(), newer):
        for place in ("count", "product"):
            computer(FakeCupy(**{place: problem}))
            assert reason() == said


# The device.

@pytest.mark.parametrize("count", [0, CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")])
def test_no_device(computer, monkeypatch, count):
    computer(FakeCupy(count=count))
    assert reason() == "the NVIDIA driver shows no GPU (nvidia-smi should list one)"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert reason() == ("the NVIDIA driver shows no GPU (nvidia-smi should list one; "
                        "CUDA_VISIBLE_DEVICES is '' and may hide some: unset it)")


def test_no_device_of_that_number(computer, monkeypatch):
    computer(FakeCupy(count=1))
    assert reason(3) == "there is no GPU number 3: this machine shows 1, take --device gpu:0"
    computer(FakeCupy(count=4))
    assert reason(4) == "there is no GPU number 4: this machine shows 4, take --device gpu:0 to gpu:3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert reason(4).endswith("; CUDA_VISIBLE_DEVICES is '0,1,2,3' and may hide some: unset it")


def test_a_gpu_too_old_for_cuda_13(computer):
    cupy = computer(FakeCupy(title=b"NVIDIA GeForce GTX 1080", capability=(6, 1)))
    assert reason() == ("NVIDIA GeForce GTX 1080 (compute capability 6.1) is too old for CUDA 13: "
                        f"pip uninstall cupy-cuda13x, then {CUDA12}")
    cupy.cuda.runtime.runtimeGetVersion = lambda: 12090  # with CUDA 12 it works
    assert find_gpu()[0] is cupy
    computer(FakeCupy(capability=(7, 5)))
    assert find_gpu()[0] is not None


# The product.

@pytest.mark.parametrize("problem, told", [
    (DynamicLibNotFoundError('Failure finding "libnvrtc.so.13"\n  listdir("/x"):'), 'finding "libnvrtc.so.13"): '),
    (ImportError('Failure finding "libcublasLt.so.13 or libcublasLt.so.12": No such file'), "No such file): "),
    (RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: cannot open shared object file"), "object file): "),
    (RuntimeError('k.cu(1): catastrophic error: cannot open source file "cuda_fp16.h"'), '"cuda_fp16.h"): '),
])
@pytest.mark.parametrize("package, advice", [
    ("cupy-cuda13x", CUDA13), ("cupy-cuda12x", CUDA12), ("cupy", f"pip uninstall cupy, then {CUDA13}"),
    ("cupy-cuda11x", f"pip uninstall cupy-cuda11x, then {CUDA13}"), ("none", f"pip uninstall cupy, then {CUDA13}")])
def test_no_libraries(computer, problem, told, package, advice):
    computer(FakeCupy(product=problem), packages=[package], driver=FakeDriver(13000))
    why = reason()
    assert why.startswith("CuPy does not find the CUDA libraries (") and why.endswith(told + advice)


FULL = [CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"),
        CUDADriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), CUBLASError("CUBLAS_STATUS_ALLOC_FAILED"),
        OutOfMemoryError("Out of memory allocating 512 bytes"), MemoryError()]


@pytest.mark.parametrize("problem", FULL)
def test_out_of_memory(computer, problem):
    rest = "other processes hold it, nvidia-smi shows them; --device gpu:N picks another GPU"
    computer(FakeCupy(product=problem))
    assert reason() == f"GPU 0 is out of memory (0.5 of 80.0 GiB are free): {rest}"
    computer(FakeCupy(product=problem, memory=problem))
    assert reason() == f"GPU 0 is out of memory: {rest}"


@pytest.mark.parametrize("problem", FULL)
def test_every_kind_of_full_memory_ends_a_script_in_one_line(problem, capsys):
    assert cli.run_main(raiser(problem), []) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: out of memory ({problem or 'no details'}): try fewer images at a time (--batch")


@pytest.mark.parametrize("problem", FULL)
def test_every_kind_of_full_memory_makes_smaller_batches(problem):
    """Of pictures, with room for three at a time."""
    sizes = []

    def draw(part):
        sizes.append(len(range(20)[part]))
        if sizes[-1] > 3:
            raise problem
        return np.arange(20)[part]

    assert np.array_equal(in_batches(20, 20, draw), np.arange(20)) and sizes == [20, 5, *[2] * 10]
    with pytest.raises(type(problem)):
        in_batches(5, 5, raiser(problem))


@pytest.mark.parametrize("problem", [
    CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered"),
    CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument"), CUBLASError("CUBLAS_STATUS_NOT_INITIALIZED"),
    RuntimeError("memory"), NotImplementedError()])
def test_other_failures_are_no_matter_of_memory(problem):
    assert not memory_is_full(problem)
    for place in (lambda: cli.run_main(raiser(problem), []), lambda: in_batches(5, 5, raiser(problem))):
        with pytest.raises(type(problem)):
            place()


def test_a_wrong_product(computer):
    computer(FakeCupy(product=1.0))
    assert reason().startswith("a small test product on GPU 0 came out wrong (8 instead of 22), so its results")
    assert "--device cpu" in reason()


@pytest.mark.parametrize("problem, told", [
    (CUDARuntimeError("cudaErrorUnknown: unknown error\nmore"), "CUDARuntimeError: cudaErrorUnknown: unknown error"),
    (CUBLASError("CUBLAS_STATUS_NOT_INITIALIZED"), "CUBLASError: CUBLAS_STATUS_NOT_INITIALIZED"),
    (KeyError(), "KeyError"),
])
@pytest.mark.parametrize("place", ["count", "product"])
def test_anything_else(computer, place, problem, told):
    computer(FakeCupy(**{place: problem}))
    assert reason() == f"CuPy does not work here: {told}"


@pytest.mark.parametrize("product", [1.0, MemoryError(), RuntimeError("unheard of")])
def test_after_a_failure_the_device_before_is_selected(computer, product):
    cupy = computer(FakeCupy(count=3, product=product))
    cupy.current = 1
    reason(2)
    assert cupy.current == 1


def test_a_gpu_that_refuses_to_be_left_hides_no_reason(computer):
    cupy = computer(FakeCupy(count=3, product=MemoryError()))
    uses = {0: raiser(RuntimeError("refused")), 2: lambda: None}
    cupy.cuda.Device = lambda number: SimpleNamespace(use=uses[number])
    assert reason(2).startswith("GPU 2 is out of memory")


# Every case, from `--device`.

CASES = {
    "not installed": (dict(cupy=NOT_THERE, packages=[], driver=FakeDriver(13000)), 0),
    "not installed, no driver": (dict(cupy=NOT_THERE, packages=[]), 0),
    "not installed, driver too old": (dict(cupy=NOT_THERE, packages=[], driver=FakeDriver(11000)), 0),
    "two packages": (dict(cupy=FakeCupy(), packages=["cupy-cuda12x", "cupy-cuda13x"], driver=FakeDriver(13000)), 0),
    "broken": (dict(cupy=ImportError("bad file"), driver=FakeDriver(13000)), 0),
    "no driver": (dict(cupy=FakeCupy(driver=0)), 0),
    "driver too old": (dict(cupy=FakeCupy(driver=12000)), 0),
    "no device": (dict(cupy=FakeCupy(count=0)), 0),
    "no such device": (dict(cupy=FakeCupy()), 7),
    "GPU too old": (dict(cupy=FakeCupy(capability=(7, 0))), 0),
    "no libraries": (dict(cupy=FakeCupy(product=ImportError("Failure finding"))), 0),
    "no memory": (dict(cupy=FakeCupy(product=MemoryError())), 0),
    "wrong": (dict(cupy=FakeCupy(product=2.0)), 0),
    "anything else": (dict(cupy=FakeCupy(product=RuntimeError("unheard of"))), 0),
}


@pytest.mark.parametrize("setting, number", CASES.values(), ids=CASES)
def test_gpu_raises_with_the_line_and_auto_goes_on_with_it(computer, setting, number):
    computer(**setting)
    why = reason(number)
    with pytest.raises(TinyganError) as caught:
        pick_device(f"gpu:{number}")
    assert str(caught.value) == f"no GPU to use: {why}"
    if number == 0:
        device = pick_device("auto")
        assert (device.kind, device.xp) == ("cpu", np)
        assert device.line == f"device: cpu, NumPy {np.__version__} (no GPU: {why})"


def test_no_two_cases_are_told_alike(computer):
    said = []
    for setting, number in CASES.values():
        computer(**setting)
        said.append(reason(number))
    assert len(set(said)) == len(CASES)


def test_a_number_that_int_does_not_read_is_a_usage_error():
    with pytest.raises(UsageError):
        pick_device("gpu:\u00b2")  # a superscript two: isdigit() says yes, int() says no


def test_cpu_asks_nothing(computer):
    computer(AssertionError("imported"))
    assert pick_device("cpu").line == f"device: cpu, NumPy {np.__version__}"
