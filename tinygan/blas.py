"""The right matrix product for the processor, chosen before NumPy is loaded.

OpenBLAS, the matrix library in NumPy's wheels, picks its code by the processor's family. Releases that do not know
AMD's family 26 (Zen 5, 2024) fall back to code for processors of 2013, at about two thirds to half of the speed
(RESULTS.md has the figures). The variable below names newer code that such a processor can run. It counts only if it
is set before NumPy is first imported, so the package and the scripts import this module first; a value set by the
user is kept. Programs started from here inherit it.
"""

import os
import sys

FIRST_UNKNOWN_FAMILY = 26
NEEDED = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}  # what OpenBLAS's SkylakeX code uses


def choose(cpuinfo: str) -> str | None:
    """The OPENBLAS_CORETYPE that suits the processor described by Linux's /proc/cpuinfo, None to leave it alone."""
    fields = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    family = fields.get("cpu family", "")
    new_amd = fields.get("vendor_id") == "AuthenticAMD" and family.isdecimal() and int(family) >= FIRST_UNKNOWN_FAMILY
    return "SkylakeX" if new_amd and set(fields.get("flags", "").split()) >= NEEDED else None


def _apply() -> None:
    if "numpy" in sys.modules or "OPENBLAS_CORETYPE" in os.environ:
        return
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            core = choose(file.read(1 << 14))
    except OSError:  # not Linux
        return
    if core:
        os.environ["OPENBLAS_CORETYPE"] = core


_apply()
