"""tinygan: stochastic deconvolutional GANs, from scratch on NumPy and CuPy arrays.

The rooms, from the idea to the scripts (README.md has an order in which to read):

    engine/    Tensor, backward, the check of a gradient
    ops/       the closed set of operations, the convolutions and their filter banks
    nn/        modules, layers, losses, optimisers
    models/    the paper's nets (GAN and SGAN; GPAN) and the classifiers that they are measured with
    kernels/   the arithmetic on arrays, for NumPy and for CUDA
    data/      files from disk or a download, and drawn shapes
    metrics/   how many of the classes a generator draws, and how well
    app/       what the scripts run on; nothing else imports it

Importing the package needs NumPy alone. docs/api.md lists every public name.
"""

import importlib
from types import ModuleType

from tinygan import ops  # gives Tensor its operators
from tinygan.engine.debug import AnomalyError, anomaly, profile
from tinygan.engine.gradcheck import GradientError, KinkWarning, check_grads
from tinygan.engine.tensor import Tensor, frozen, grad, no_grad, primitive
from tinygan.errors import GraphError, TinyganError, UsageError
from tinygan.kernels.threads import set_threads

__version__ = "0.1.0"

_LATER = ("nn", "models", "data", "metrics")  # imported at their first use: Tensor needs none of them

__all__ = ["AnomalyError", "GradientError", "GraphError", "KinkWarning", "Tensor", "TinyganError", "UsageError",
           "anomaly", "check_grads", "data", "frozen", "grad", "metrics", "models", "nn", "no_grad", "ops", "primitive",
           "profile", "set_threads"]


def __getattr__(name: str) -> ModuleType:
    """Import a room at its first use."""
    if name in _LATER:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
