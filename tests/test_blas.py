"""tinygan.blas names an OpenBLAS core only for processors that OpenBLAS misjudges and that can run it."""

import os
import subprocess
import sys

import pytest

from tinygan.blas import NEEDED, choose

ZEN5 = "processor : 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nflags : fpu " + " ".join(NEEDED) + "\n"


@pytest.mark.parametrize("text, core", [
    (ZEN5, "SkylakeX"),
    (ZEN5.replace("26", "25"), None),  # Zen 4 is known
    (ZEN5.replace("AuthenticAMD", "GenuineIntel"), None),
    (ZEN5.replace("avx512bw", ""), None),
    (ZEN5.replace("26", "unknown"), None),
    ("", None),
    ("Features : neon\n", None),
])
def test_choice(text, core):
    assert choose(text) == core


def test_a_users_choice_is_kept_and_a_loaded_numpy_left_alone():
    def core(code, **extra):
        env = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"} | extra
        done = subprocess.run([sys.executable, "-c", code + "\nimport os; print(os.environ.get('OPENBLAS_CORETYPE'))"],
                              env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert core("import tinygan.blas", OPENBLAS_CORETYPE="Haswell") == "Haswell"
    assert core("import numpy, tinygan.blas") == "None"
