"""tinygan: stochastic deconvolutional GANs, from scratch on NumPy and CuPy arrays.

Where to start reading: engine.py (the idea), ops.py and conv.py (the operations), layers.py, models/adapted_gan.py,
and train_mnist.py beside the package (the training loop). Importing this package needs NumPy alone.
"""

from tinygan.conv import conv2d, conv2d_weight, conv_transpose2d
from tinygan.debug import AnomalyError, anomaly, profile
from tinygan.engine import GraphError, Tensor, frozen, grad, no_grad
from tinygan.errors import TinyganError, UsageError
from tinygan.gradcheck import GradientError, KinkWarning, check_grads
from tinygan.kernels.threads import set_threads
from tinygan.pooling import max_pool2d, mean_pool2d, resize_bilinear

__version__ = "0.1.0"

__all__ = ["AnomalyError", "GradientError", "GraphError", "KinkWarning", "Tensor", "TinyganError", "UsageError",
           "anomaly", "check_grads", "conv2d", "conv2d_weight", "conv_transpose2d", "frozen", "grad", "max_pool2d",
           "mean_pool2d", "no_grad", "profile", "resize_bilinear", "set_threads"]
