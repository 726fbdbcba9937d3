"""`CpuKernels`: the kernels for NumPy arrays, in jobs that fit a core's cache, on as many threads as threads.py has.

    conv.py           the three convolution maps: one matrix product per run of samples
    patches.py        what they share: runs of samples, patches cut out and added
    winograd.py       the same maps with 9 products in place of 16, where the kernel is twice the stride
    conv3x3.py        3x3 convolution, bias and ReLU in one, the layer of VGG16
    activations.py    TPReLU and its derivatives
    max_pool.py       2x2 max pooling
    warp.py           bilinear sampling along affine maps
    weights.py        weight normalisation, RMSprop, Adam, the moving average
"""

from tinygan.kernels.base import Kernels
from tinygan.kernels.cpu import activations, conv, conv3x3, max_pool, warp, weights


class CpuKernels(Kernels):
    """The kernels for NumPy arrays; maps come out channels-last in memory."""

    conv, conv_transpose, conv_weight = map(staticmethod, (conv.conv, conv.conv_transpose, conv.conv_weight))
    conv_relu, conv_relu_dx = map(staticmethod, (conv3x3.conv_relu, conv3x3.conv_relu_dx))
    tprelu, tprelu_dx, tprelu_dslope, tprelu_below = map(staticmethod, (
        activations.tprelu, activations.tprelu_dx, activations.tprelu_dslope, activations.tprelu_below))
    max_pool, pool_take, pool_put = map(staticmethod, (max_pool.max_pool, max_pool.pool_take, max_pool.pool_put))
    warp, warp_back = map(staticmethod, (warp.warp, warp.warp_back))
    filter_norms, normalize, normalize_dx = map(staticmethod, (
        weights.filter_norms, weights.normalize, weights.normalize_dx))
    rmsprop, adam, lerp = map(staticmethod, (weights.rmsprop, weights.adam, weights.lerp))
