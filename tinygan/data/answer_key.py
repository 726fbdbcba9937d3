"""The checks of a weight file: its format, and its answer key, inputs with the outputs that the net must reproduce.

Weights can be permuted or scaled wrongly and still have the right shapes. So a weight file stores a few inputs and the
net's outputs for them; loading recomputes the outputs and refuses the file if they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tinygan.data.hdf5 import Reader
from tinygan.errors import Refused

GROUP = "answer_key"
TOLERANCE = 1e-3  # relative to the largest answer


def check_format(file: Reader, name: str, version: int, remedy: str) -> None:
    """Raise Refused unless the file's attributes name this format and version. remedy: where to get such a file."""
    kind = str(file.attribute("format", ""))
    if kind != name:
        raise Refused(f"it is not a file of the {name}{f' but of the {kind[:60]}' if kind else ''}; {remedy}")
    if file.attribute("version") != version:
        raise Refused(f"its version is {str(file.attribute('version'))[:60]} and this tinygan reads {version}")


def check(file: Reader, probes: Mapping[str, tuple[int, ...]], answers: Mapping[str, tuple[int, ...]],
          compute: Callable[..., Sequence[np.ndarray]], *, floor: float) -> None:
    """Recompute the answers of a loaded net and compare them with those stored in the file.

    probes, answers: shapes by name, of uint8 inputs and float32 outputs. compute: the function from the probes, in that
    order, to the net's answers. An answer may differ by TOLERANCE * (floor + the largest stored one), our choice: other
    CPUs and GPUs round otherwise. Raises Refused where an array is missing or an answer differs.
    """
    inputs = [file.array(f"{GROUP}/{name}", shape, ("uint8",)) for name, shape in probes.items()]
    expected = [file.array(f"{GROUP}/{name}", shape, ("float32",)) for name, shape in answers.items()]
    for name, stored, computed in zip(answers, expected, compute(*inputs), strict=True):
        error = np.abs(computed - stored).max()
        if not error <= TOLERANCE * (floor + np.abs(stored).max()):
            raise Refused(f"its answer key does not fit: {name} differ by up to {error:.3g}; the weights are damaged")
