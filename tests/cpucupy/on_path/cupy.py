"""What `import cupy` finds in a process that has this folder on its path: the real CuPy, on a processor."""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != here]
sys.path.append(str(here.parents[1]))
sys.modules.pop("cupy", None)

import cpucupy  # noqa: E402 - found by the line above

cpucupy.start()  # puts the real one in this module's place
