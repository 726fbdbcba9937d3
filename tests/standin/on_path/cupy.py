"""What `import cupy` finds in a process that has this folder on its path: the stand-in (see strict_cupy.py)."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from standin import strict_cupy  # noqa: E402 - found by the line above

strict_cupy.install()  # in this module's place
