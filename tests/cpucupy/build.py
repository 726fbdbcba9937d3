"""Compiling for the device of device.cpp: the device itself, and each kernel that CuPy or tinygan gives to it.

Libraries are kept in the emulator's folder of this user, under the hash of all they are made of.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import subprocess
import sysconfig
from pathlib import Path

from tinygan.kernels.gpu import emulator

HERE = Path(__file__).resolve().parent
FLAGS = ("-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")
# As emulator.FLAGS; -fpermissive: NVRTC lets pass what g++ does not in CuPy's headers.
KERNEL_FLAGS = (*emulator.FLAGS, "-fpermissive")


class DoesNotCompile(Exception):
    """What g++ says about a source."""


def library(name: str, source: str, flags: tuple[str, ...]) -> Path:
    """Return the path of the library `name` made of `source`; it is compiled at most once.

    Raises DoesNotCompile with what g++ said.
    """
    key = "\0".join([source, *flags, _compiler_version()])
    folder = emulator._cache_folder() / f"cpucupy-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    made = folder / name
    if made.exists():
        return made
    folder.mkdir(exist_ok=True)
    unfinished = folder / "unfinished"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who waits here finds it made
        if made.exists():
            return made
        done = subprocess.run(["g++", "-x", "c++", "-", "-x", "none", "-o", unfinished, *flags],
                              input=source, text=True, capture_output=True, env={**os.environ, "LC_ALL": "C"})
        if done.returncode:
            raise DoesNotCompile(done.stderr[:4000])
        os.replace(unfinished, made)  # complete, or not there at all
    return made


@functools.cache
def _compiler_version() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


def device() -> Path:
    """Return the library in the place of the driver and the runtime."""
    return library("libcuda.so.1", (HERE / "device.cpp").read_text("utf-8"), (*FLAGS, "-Wl,-soname,libcuda.so.1"))


def blas(binding: Path, device: Path) -> Path:
    """Return the library in the place of cuBLAS. `binding`: CuPy's module, which holds the names it wants."""
    source = (HERE / "blas.cpp").read_text("utf-8")
    wanted = {name.decode() for name in re.findall(rb"\0(cublas[A-Z]\w+)(?=\0)", binding.read_bytes())}
    rest = sorted(wanted - set(re.findall(r"API int (cublas\w+)", source)))
    source += "".join(f"NOT_OFFERED({name})\n" for name in rest)
    # The binding asks for symbols of a version that has the library's name.
    flags = (*FLAGS, "-Wl,-soname,libcublas.so.13", "-Wl,--default-symver", str(device))
    return library("libcublas.so.13", source, flags)


def runtime(signatures: dict[str, str], device: Path) -> Path:
    """Return the library with the C functions of the runtime module. `signatures`: of its `__pyx_capi__`, by name."""
    source = (HERE / "runtime.cpp").read_text("utf-8")
    for name, parameters in re.findall(r"^API .*?\brt_(\w+)\((.*?)\)", source, re.MULTILINE):
        wanted = signatures.get(name)
        if wanted and _sizes(parameters) != _sizes(wanted.partition("(")[2].rstrip(")")):
            raise DoesNotCompile(f"this CuPy's runtime.{name} is {wanted}, and runtime.cpp has ({parameters})")
    for name, signature in signatures.items():
        if not re.search(rf"\brt_{name}\(", source) and "__pyx_skip_dispatch" in signature:
            answer = signature.partition("(")[0].strip()
            fails_with = "nullptr" if "*" in answer else "0" if answer in ("intptr_t", "uintmax_t") else "-1"
            source += f"NOT_OFFERED({name}, {answer if '*' not in answer else 'void*'}, {fails_with})\n"
    include = sysconfig.get_path("include")
    return library("runtime.so", source, (*FLAGS, f"-I{include}", str(device)))


def _sizes(parameters: str) -> list[int]:
    """Return the bytes of each parameter in a list of C."""
    words = [] if parameters.strip() in ("", "void") else parameters.split(",")
    return [4 if re.match(r"\s*(int|unsigned|cudaMemcpyKind)\b[^*]*$", word) else 8 for word in words]


def kernels(code: str, cupys_headers: Path) -> Path:
    """Return the library of the kernels in `code`, which may include CuPy's headers."""
    plain = emulator.without_comments(code)
    bodies = emulator.kernel_bodies(plain)
    if "cupy/" in code:  # barriers and shared arrays may be in macros outside of the body
        code = re.sub(r"extern\s+__shared__\s+(\w+)\s+(\w+)\[\]", r"__shared__ \1 \2[49152 / sizeof(\1)]", code)
        words = emulator.HEADER.read_text("utf-8") + (HERE / "kernels.h").read_text("utf-8")
        text = f'{words}\n#line 1 "kernel.cu"\n{code}\n{emulator._entry_points(bodies)}'
        flags = (*KERNEL_FLAGS, f"-I{HERE / 'include'}", f"-I{cupys_headers}")
        waits = {name: "sync" in plain for name in bodies}
    else:
        text, flags = emulator._full_source(code, list(bodies)), KERNEL_FLAGS
        waits = {name: "sync" in body for name, body in bodies.items()}
    shared = int("__shared__" in plain)
    text += "".join(f'extern "C" __attribute__((visibility("default"))) unsigned host_flags_{name}[2] = '
                    f"{{{int(waits[name])}, {shared}}};\n" for name in bodies)
    return library("kernels.so", text, flags)
