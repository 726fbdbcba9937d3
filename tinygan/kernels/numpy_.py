"""The fast kernels for NumPy arrays, gathered from the three files that hold them."""

from .numpy_act import tprelu, tprelu_dx, tprelu_sums
from .numpy_conv import conv, conv_transpose, conv_weight, empty_weight
from .numpy_weights import adam, filter_norms, lerp, normalize, normalize_dx, rmsprop

__all__ = [
    "adam", "conv", "conv_transpose", "conv_weight", "empty_weight", "filter_norms", "lerp", "normalize",
    "normalize_dx", "rmsprop", "tprelu", "tprelu_dx", "tprelu_sums",
]
