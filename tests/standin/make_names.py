"""Write cupy_names.json: the public names of the installed CuPy. Run it with a Python that has CuPy (no GPU needed).

The stand-in refuses a name that is not in these tables, so a test cannot pass with a function that CuPy lacks.
"""

import json
from pathlib import Path

import cupy


def public(thing: object) -> list[str]:
    """What `thing` offers, without what starts with an underscore."""
    return sorted(name for name in dir(thing) if not name.startswith("_"))


def main() -> None:
    """Make the tables and write them beside this file."""
    tables = {
        "version": cupy.__version__,
        "module": public(cupy),
        "ndarray": public(cupy.ndarray),
        "linalg": public(cupy.linalg),
        "stride_tricks": public(cupy.lib.stride_tricks),
    }
    path = Path(__file__).with_name("cupy_names.json")
    path.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {', '.join(f'{len(v)} of {k}' for k, v in tables.items() if k != 'version')}")


if __name__ == "__main__":
    main()
