"""The fast kernels for float32 CuPy arrays, gathered from the files that hold them."""

from tinygan.kernels.cuda_conv import conv, conv_transpose, conv_weight
from tinygan.kernels.cuda_launch import get_tf32, set_tf32
from tinygan.kernels.cuda_maps import (
    channel_sums,
    counter_bits,
    counter_integers,
    counter_normal,
    counter_uniform,
    logistic_back,
    logistic_loss,
    max_pool,
    mean_pool,
    mean_unpool,
    pool_put,
    pool_take,
    resize,
    sigmoid,
    tprelu,
    tprelu_back,
    tprelu_below,
    tprelu_dslope,
    tprelu_dx,
)
from tinygan.kernels.cuda_warp import warp, warp_back
from tinygan.kernels.cuda_weights import (
    adam,
    adam_all,
    filter_norms,
    lerp,
    lerp_all,
    normalize,
    normalize_all,
    normalize_dx,
    normalize_dx_all,
    pack,
    rmsprop,
    rmsprop_all,
)

__all__ = [
    "adam", "adam_all", "channel_sums", "conv", "conv_transpose", "conv_weight", "counter_bits", "counter_integers",
    "counter_normal", "counter_uniform", "filter_norms", "get_tf32", "lerp", "lerp_all", "logistic_back",
    "logistic_loss", "max_pool", "mean_pool", "mean_unpool", "normalize", "normalize_all", "normalize_dx",
    "normalize_dx_all", "pack", "pool_put", "pool_take", "resize", "rmsprop", "rmsprop_all", "set_tf32",
    "sigmoid", "tprelu", "tprelu_back", "tprelu_below", "tprelu_dslope", "tprelu_dx", "warp", "warp_back",
]
