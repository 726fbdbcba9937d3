"""CUDA C on the processor: compile a kernel file with g++ and run its kernels on NumPy arrays.

The call has the shape of CuPy's: `HostModule(code).get_function(name)(grid, block, args)`. So kernels can be read,
tried, tested and stepped through where there is no GPU, and faults that a GPU does not report are reported here:
a wrong number of arguments, an array of the wrong type, a barrier that not all threads reach, shared memory that was
read before it was written (it starts as NaN) and, with `reverse`, a missing barrier. With sanitize=True the
compiler's own checks find reads and writes out of bounds and integer overflow.

The kernels must be plain CUDA C: no #include, no dynamic shared memory (`extern __shared__`). Inline assembly must
stand under `#ifdef __CUDA_ARCH__`, which is not defined here, and the same in plain C in its `#else`.
What is not shown here: speed, true concurrency, the GPU's fused multiply-add and its limit on shared memory.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygan.errors import TinyganError

HEADER = Path(__file__).with_name("emulator.h")
FILE_NAME = "kernels.cu"  # what the compiler calls the code in its messages
FLAGS = ("-std=c++17", "-O1", "-g", "-w", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE",
         "-fvisibility=hidden", "-shared", "-fPIC")
SANITIZE_FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fsanitize-sections=cuda_shared",
                  "-fno-omit-frame-pointer")
MAX_GRID = (2**31 - 1, 65_535, 65_535)
MAX_BLOCK = (1024, 1024, 64)
MAX_THREADS = 1024  # of a block, whatever its shape

_DIVERGED, _STUCK, _BARRIER_IN_LOOP, _STACK_OVERFLOW, _THROWN = 1, 2, 3, 4, 5  # as in emulator.h
_KERNEL = re.compile(r"__global__\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?void\s+"
                     r"(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
_TEMPLATE = re.compile(r"template\s*<[^;{}]*>\s*(?:static\s+|inline\s+)*$")


class HostModule:
    """The kernels of one piece of CUDA C, compiled for the processor.

    `reverse`: run the blocks of a grid and the threads of a block last to first. A correct kernel gives the same
    result; one that lacks a barrier usually does not.
    Raises TinyganError where g++ is missing or the code does not compile (with the compiler's first errors), and with
    sanitize=True in a process that was not started with `sanitizer_environment()`.
    """

    def __init__(self, code: str, *, sanitize: bool = False) -> None:
        plain = without_comments(code)
        if re.search(r"\bextern\s+__shared__", plain):
            raise TinyganError("extern __shared__ (shared memory sized at the launch) cannot be run on the processor")
        if sanitize and "libasan" not in os.environ.get("LD_PRELOAD", ""):
            raise TinyganError("sanitize=True needs a process started with the variables of sanitizer_environment()")
        bodies = kernel_bodies(plain)
        outside = plain
        for body in bodies.values():
            outside = outside.replace(body, "")
        shared_outside = "__shared__" in outside  # a helper function may hold it
        self.reverse = False
        self._flags = {name: ("sync" in body, shared_outside or "__shared__" in body) for name, body in bodies.items()}
        self._library = _load(str(_compiled(_full_source(code, list(bodies)), sanitize)))
        self._kernels: dict[str, HostKernel] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Name the kernels of the module, in the order of the code."""
        return tuple(self._flags)

    def get_function(self, name: str) -> HostKernel:
        """Return the kernel called `name`. Raises TinyganError, naming the ones there are, when there is none."""
        if name not in self._flags:
            raise TinyganError(f"no kernel {name!r} here: there are {', '.join(self._flags) or 'none'}")
        if name not in self._kernels:
            self._kernels[name] = HostKernel(self, name, *self._flags[name])
        return self._kernels[name]


class HostKernel:
    """One kernel: call it with (grid, block, args).

    args: NumPy arrays (C-contiguous; the kernel gets a pointer), NumPy scalars (their own bytes), None (a null
    pointer) and, as CuPy has it, int (as int64), float (as double) and bool. So a Python float is garbage for a
    parameter that is a `float`, here as on the GPU: pass np.float32(x).

    Raises TypeError for a wrong number or kind of arguments, ValueError for an array with gaps and for a launch that a
    GPU refuses, RuntimeError for threads that do not meet at one barrier. `synchronizes`: whether its body has the
    word "sync", so that each of its threads gets a stack; all other kernels run as plain loops.
    """

    def __init__(self, module: HostModule, name: str, synchronizes: bool, uses_shared: bool) -> None:
        self.name, self.synchronizes = name, synchronizes
        self._module, self._uses_shared = module, uses_shared
        self._run = getattr(module._library, f"host_run_{name}")
        described = (ctypes.c_int * 4 * 256)()
        count = getattr(module._library, f"host_describe_{name}")(described)
        self._parameters = [tuple(described[i]) for i in range(count)]  # (bytes, pointer?, target's bytes, floating?)

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any]) -> None:
        grid, block = self._dimensions(grid, block)
        if len(args) != len(self._parameters):
            raise TypeError(f"{self.name} takes {len(self._parameters)} arguments, not {len(args)}")
        packed = [self._pack(i, arg) for i, arg in enumerate(args)]
        pointers = (ctypes.c_void_p * max(1, len(packed)))(*[ctypes.addressof(one) for one in packed])
        dims = (ctypes.c_uint * 9)(*grid, *block, self._module.reverse, self.synchronizes, self._uses_shared)
        report = (ctypes.c_int * 2)()
        outcome = self._run(dims, pointers, report)
        if outcome:
            raise RuntimeError(self._problem(outcome, *report))

    def _dimensions(self, grid: Sequence[int], block: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return both as three numbers, if a GPU could launch them."""
        full = []
        for what, sizes, limits in (("grid", grid, MAX_GRID), ("block", block, MAX_BLOCK)):
            if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= 3:
                raise TypeError(f"{self.name}: {what} must be a tuple of 1 to 3 integers, not {sizes!r}")
            sizes = (*map(int, sizes), 1, 1)[:3]
            for axis, size, limit in zip("xyz", sizes, limits, strict=True):
                if not 1 <= size <= limit:
                    raise ValueError(f"{self.name}: {what}.{axis} is {size}; a GPU takes 1 to {limit}")
            full.append(sizes)
        threads = full[1][0] * full[1][1] * full[1][2]
        if threads > MAX_THREADS:
            raise ValueError(f"{self.name}: a block of {threads} threads; a GPU takes up to {MAX_THREADS}")
        return full[0], full[1]

    def _pack(self, i: int, arg: Any) -> ctypes.Array:
        """Return the bytes of argument i as the kernel reads them."""
        size, pointer, target, floating = self._parameters[i]
        if isinstance(arg, np.ndarray):
            if not pointer:
                raise TypeError(f"{self.name}: argument {i} is a number, not an array")
            if not arg.flags.c_contiguous:
                raise ValueError(f"{self.name}: argument {i} has gaps (shape {arg.shape}, strides {arg.strides})")
            # A pointer to a struct, a vector type or single bytes may point into any array; one to numbers may not.
            if target > 1 and (arg.itemsize != target or (arg.dtype.kind == "f") != bool(floating)):
                kind = "floating-point" if floating else "whole"
                raise TypeError(f"{self.name}: argument {i} must hold {kind} numbers of {target} bytes, "
                                f"not {arg.dtype}")
            data = np.uint64(arg.ctypes.data).tobytes()
        elif arg is None:
            data = bytes(8)
        elif isinstance(arg, np.generic):
            data = arg.tobytes()
        elif isinstance(arg, bool):
            data = np.bool_(arg).tobytes()
        elif isinstance(arg, int):
            data = (np.uint64 if arg > 2**63 - 1 else np.int64)(arg).tobytes()
        elif isinstance(arg, float):
            data = np.float64(arg).tobytes()
        else:
            raise TypeError(f"{self.name}: argument {i} cannot be a {type(arg).__name__}")
        if len(data) < size:
            raise TypeError(f"{self.name}: argument {i} has {len(data)} bytes and the kernel reads {size}")
        return (ctypes.c_char * len(data)).from_buffer_copy(data)

    def _problem(self, outcome: int, first: int, second: int) -> str:
        if outcome == _BARRIER_IN_LOOP:
            return (f"{self.name}: a barrier at line {first}, though the kernel's body does not say \"sync\": "
                    "call the function that waits something_sync")
        if outcome in (_DIVERGED, _STUCK):
            lines = f"lines {first} and {second}" if second and second != first else f"line {first}"
            return f"{self.name}: barrier divergence, the threads of a block do not all meet ({lines} of the code)"
        if outcome == _STACK_OVERFLOW:
            return f"{self.name}: a thread's local variables are too large for its stack"
        return f"{self.name}: the kernel threw an exception"


def sanitizer_environment() -> dict[str, str]:
    """Return the environment variables for a Python process in which HostModule(code, sanitize=True) works.

    The checking libraries must be loaded before everything else. Raises TinyganError where g++ or one of them is
    missing.
    """
    paths = []
    for library in ("libasan.so", "libubsan.so", "libstdc++.so"):
        printed = subprocess.run([_compiler(), f"-print-file-name={library}"], capture_output=True, text=True).stdout
        path = os.path.realpath(printed.strip())
        if os.sep not in printed or not os.path.exists(path):
            raise TinyganError(f"{library} is missing: install your system's sanitizer libraries for g++")
        paths.append(path)
    return {
        "LD_PRELOAD": ":".join(paths),
        # Python never frees everything, and a fiber's stack must stay where it is.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def without_comments(code: str) -> str:
    """Return the code with each comment replaced by a space."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", " ", code, flags=re.DOTALL)


def kernel_bodies(code: str) -> dict[str, str]:
    """Map each kernel's name to its body, in code without comments. Templates, which have many, are left out."""
    bodies = {}
    for match in _KERNEL.finditer(code):
        before = code[: match.start()].rstrip()
        if _TEMPLATE.search(before):
            continue
        start = end = code.find("{", match.end())
        depth = 0
        while 0 <= end < len(code):
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
            if depth == 0:
                bodies[match[1]] = code[start:end]
                break
    return bodies


def _full_source(code: str, names: list[str]) -> str:
    """Join the header, the code, and for each kernel two functions that Python can find."""
    # The unnamed namespace keeps a kernel's name apart from those of other libraries, and the shared arrays of inline
    # functions in the section with all others.
    return f'{HEADER.read_text("utf-8")}\nnamespace {{\n#line 1 "{FILE_NAME}"\n{code}\n}}\n{_entry_points(names)}'


def _entry_points(names: Iterable[str]) -> str:
    """Write the two functions for each kernel."""
    return '#line 1 "wrappers"\n' + "".join(
        f'extern "C" __attribute__((visibility("default"))) int host_run_{name}(const unsigned* d, void** a, int* r) '
        f"{{ return host::launch({name}, d, a, r); }}\n"
        f'extern "C" __attribute__((visibility("default"))) int host_describe_{name}(int* out) '
        f"{{ return host::describe({name}, out); }}\n" for name in names)


def _compiler() -> str:
    path = shutil.which("g++")
    if path is None:
        raise TinyganError("g++ is missing: install it (Debian, Ubuntu: apt install g++; macOS runs no CUDA C here)")
    return path


def _cache_folder() -> Path:
    """Return a folder of this user alone: libraries are loaded from it, so no other user may be able to write there."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"tinygan-emulator-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != user or state.st_mode & 0o022:
        raise TinyganError(f"{folder} does not belong to you alone: remove it, or set TMPDIR to another folder")
    return folder


def _compiled(source: str, sanitize: bool) -> Path:
    """Compile `source` to a library, at most once, under a name that holds everything it depends on."""
    compiler = _compiler()
    flags = (*FLAGS, *(SANITIZE_FLAGS if sanitize else ()))
    state = os.stat(compiler)
    key = "\0".join([source, *flags, compiler, f"{state.st_size} {state.st_mtime_ns}", platform.machine()])
    library = _cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.so"
    if library.exists():
        return library
    handle, unfinished = tempfile.mkstemp(dir=library.parent, suffix=".part")
    os.close(handle)
    try:
        environment = {**os.environ, "LC_ALL": "C", "LD_PRELOAD": ""}  # English messages, an unchecked compiler
        done = subprocess.run([compiler, *flags, "-x", "c++", "-", "-o", unfinished], input=source, text=True,
                              encoding="utf-8", capture_output=True, env=environment)
        if done.returncode:
            raise TinyganError(f"the kernels do not compile: {_first_errors(done.stderr)}")
        os.replace(unfinished, library)  # complete or not there at all, also when two processes compile the same
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return library


def _first_errors(text: str, count: int = 3) -> str:
    lines = [line.strip() for line in text.splitlines()]
    errors = [line for line in lines if "error:" in line or "undefined reference" in line] or lines[:1]
    return "; ".join(errors[:count])


@functools.cache
def _load(path: str) -> Any:
    # PyDLL keeps Python's lock during a call. threadIdx and the rest are one per library, so two launches at a time
    # would disturb each other.
    return ctypes.PyDLL(path)
