"""NVIDIA's compiler for kernels, NVRTC, through ctypes: it needs no driver and no GPU, only its own library.

The library comes in the wheel nvidia-cuda-nvrtc, which the test extra installs. CuPy uses the same library with the
same options.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from pathlib import Path

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)  # Turing to Blackwell
OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space", "--ptxas-options=-v")


@functools.cache
def library() -> ctypes.CDLL | None:
    """NVRTC of the newest CUDA whose wheel is installed, or None."""
    spec = importlib.util.find_spec("nvidia")
    places = [Path(p) for p in spec.submodule_search_locations] if spec else []
    found = sorted(file for place in places for file in place.rglob("libnvrtc.so.1*") if "alt" not in file.name)
    return ctypes.CDLL(str(found[-1])) if found else None


def version() -> str:
    """Such as 13.0."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compile_for(architecture: int, source: str) -> tuple[bytes, str]:
    """(machine code for sm_`architecture`, the compiler's log). Raises ValueError with the log of a failure."""
    nvrtc, program = library(), ctypes.c_void_p()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None):
        raise ValueError("NVRTC takes no program")
    try:
        words = [w.encode() for w in (*OPTIONS, f"-arch=sm_{architecture}")]
        failed = nvrtc.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
        log = _bytes(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        log = log.rstrip(b"\0").decode(errors="replace")
        if failed:
            raise ValueError(log)
        return _bytes(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(size: ctypes._FuncPtr, get: ctypes._FuncPtr, program: ctypes.c_void_p) -> bytes:
    """What NVRTC has to say of a program, by the function that tells its length and the one that copies it."""
    n = ctypes.c_size_t()
    size(program, ctypes.byref(n))
    buffer = ctypes.create_string_buffer(n.value)
    get(program, buffer)
    return buffer.raw


def spilled(log: str) -> list[str]:
    """The kernels whose numbers do not fit a GPU's registers, so that it keeps some in memory; from ptxas -v's log."""
    name, found = "", []
    for line in log.splitlines():
        if match := re.search(r"Function properties for (\w+)", line):
            name = match[1]
        if match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if (match[1], match[2]) != ("0", "0"):
                found.append(name)
    return found


def registers(log: str) -> dict[str, int]:
    """How many registers a thread of each kernel needs."""
    pairs = re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", log, re.DOTALL)
    return {name: int(count) for name, count in pairs}


def compiled(log: str) -> set[str]:
    """The kernels that ptxas says it compiled."""
    return set(re.findall(r"Compiling entry function '(\w+)'", log))
