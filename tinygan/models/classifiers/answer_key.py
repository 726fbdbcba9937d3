"""The answer key of a weight file: probe inputs and the answers that the net must reproduce.

Weights can be permuted or scaled wrongly and still have the right shapes. So a weight file stores a few inputs and the
net's outputs for them; loading recomputes the outputs and refuses the file if they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tinygan.data.hdf5 import Reader, Refused

GROUP = "answer_key"
TOLERANCE = 1e-3  # relative to the largest answer


def check(file: Reader, probes: Mapping[str, tuple[int, ...]], answers: Mapping[str, tuple[int, ...]],
          compute: Callable[..., Sequence[np.ndarray]], *, floor: float) -> None:
    """Compare the stored answers with those of the loaded net.

    probes, answers: shapes by name. compute: takes the probes, in that order, and returns the net's answers. floor:
    added to the largest answer before the tolerance is taken of it. Raises Refused where an array is missing or an
    answer differs.
    """
    inputs = [file.array(f"{GROUP}/{name}", shape, ("uint8",)) for name, shape in probes.items()]
    expected = [file.array(f"{GROUP}/{name}", shape, ("float32",)) for name, shape in answers.items()]
    for name, stored, computed in zip(answers, expected, compute(*inputs), strict=True):
        error = np.abs(computed - stored).max()
        if not error <= TOLERANCE * (floor + np.abs(stored).max()):
            raise Refused(f"its answer key does not fit: {name} differ by up to {error:.3g}; the weights are damaged")
