"""The operations on tensors: a closed set of primitives, each with its rule, and what is built from them.

    basic.py     arithmetic, indexing, reductions, and the operators of Tensor
    routes.py    the filter set of a bank that each sample goes through
    conv.py      convolution, transposed convolution and the weight gradient, each with a bank of filters
    pooling.py   pooling and resizing
    fused.py     weight normalisation, PReLU and losses, each in one pass over memory
    affine.py    affine resampling and blur
"""

from tinygan.ops import basic
from tinygan.ops.affine import blur, warp
from tinygan.ops.basic import *  # noqa: F403 (its __all__)
from tinygan.ops.conv import conv2d, conv2d_weight, conv_transpose2d
from tinygan.ops.fused import conv_relu, gather_sets, logistic_loss, tprelu, weight_norm
from tinygan.ops.pooling import max_pool2d, mean_pool2d, resize_bilinear
from tinygan.ops.routes import Route

__all__ = [*basic.__all__, "Route", "blur", "conv2d", "conv2d_weight", "conv_relu", "conv_transpose2d", "gather_sets",
           "logistic_loss", "max_pool2d", "mean_pool2d", "resize_bilinear", "tprelu", "warp", "weight_norm"]
