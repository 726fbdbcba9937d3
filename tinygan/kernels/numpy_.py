"""The fast kernels for NumPy arrays, gathered from the files that hold them."""

from tinygan.kernels.numpy_act import tprelu, tprelu_below, tprelu_dslope, tprelu_dx
from tinygan.kernels.numpy_conv import conv, conv_transpose, conv_weight, empty_weight
from tinygan.kernels.numpy_conv3x3 import conv_relu, conv_relu_dx
from tinygan.kernels.numpy_pool import max_pool, pool_put, pool_take
from tinygan.kernels.numpy_warp import warp, warp_back
from tinygan.kernels.numpy_weights import adam, filter_norms, lerp, normalize, normalize_dx, rmsprop
from tinygan.kernels.portable import (
    logistic_back,
    logistic_loss,
    mean_pool,
    mean_unpool,
    resize,
    sigmoid,
)

__all__ = [
    "adam", "conv", "conv_relu", "conv_relu_dx", "conv_transpose", "conv_weight", "empty_weight", "filter_norms",
    "lerp", "logistic_back", "logistic_loss", "max_pool", "mean_pool", "mean_unpool", "normalize", "normalize_dx",
    "pool_put", "pool_take", "resize", "rmsprop", "sigmoid", "tprelu", "tprelu_below", "tprelu_dslope",
    "tprelu_dx", "warp", "warp_back",
]
