"""The fast kernels for NumPy arrays, gathered from the three files that hold them."""

from tinygan.kernels.numpy_act import tprelu, tprelu_below, tprelu_dslope, tprelu_dx
from tinygan.kernels.numpy_conv import conv, conv_transpose, conv_weight, empty_weight
from tinygan.kernels.numpy_weights import adam, filter_norms, lerp, normalize, normalize_dx, rmsprop

__all__ = [
    "adam", "conv", "conv_transpose", "conv_weight", "empty_weight", "filter_norms", "lerp", "normalize",
    "normalize_dx", "rmsprop", "tprelu", "tprelu_below", "tprelu_dslope", "tprelu_dx",
]
