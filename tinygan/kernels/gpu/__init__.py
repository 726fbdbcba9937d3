"""`CudaKernels`: the kernels for float32 CuPy arrays, written in CUDA C (kernels.cu) around cuBLAS' matrix products.

    kernels.cu      all kernels, in CUDA C without a single include
    launch.py       compiles and launches them, with checked arguments; cuBLAS products
    conv.py         the three convolution maps
    direct.py       the same where a map has one channel, without columns
    routes.py       the samples of each filter set, and their products with its filters
    maps.py         activation, sums per channel, loss, pooling, resizing
    warp.py         bilinear sampling along affine maps
    weights.py      weight normalisation and optimisers, a whole net in one launch
    feed.py         numbers from the host: sent at once, or in one copy before a recorded step is replayed
    graph.py        a step recorded as one CUDA graph
    random.py       random numbers, the same bits as counter.py's
    emulator.py     compiles kernels.cu for the processor, with emulator.h, and runs it on NumPy arrays: for tests
"""

from tinygan.kernels.base import Kernels
from tinygan.kernels.gpu import conv, feed, launch, maps, random, warp, weights


class CudaKernels(Kernels):
    """The kernels for float32 CuPy arrays; maps come out channels-first in memory, a whole net's weights in one launch.

    What is not named here, such as conv_relu, is made of these in the base class.
    """

    conv, conv_transpose, conv_weight = map(staticmethod, (conv.conv, conv.conv_transpose, conv.conv_weight))
    channel_sums, matmul = staticmethod(maps.channel_sums), staticmethod(launch.matmul)
    tprelu, tprelu_dx, tprelu_dslope, tprelu_below, tprelu_back = map(staticmethod, (
        maps.tprelu, maps.tprelu_dx, maps.tprelu_dslope, maps.tprelu_below, maps.tprelu_back))
    concatenate, affine, affine_back = map(staticmethod, (maps.concatenate, maps.affine, maps.affine_back))
    sigmoid, sigmoid_back = staticmethod(maps.sigmoid), staticmethod(maps.sigmoid_back)
    logistic_loss, logistic_back, logistic_losses, logistic_losses_back = map(staticmethod, (
        maps.logistic_loss, maps.logistic_back, maps.logistic_losses, maps.logistic_losses_back))
    max_pool, pool_take, pool_put = map(staticmethod, (maps.max_pool, maps.pool_take, maps.pool_put))
    mean_pool, mean_unpool, resize = map(staticmethod, (maps.mean_pool, maps.mean_unpool, maps.resize))
    warp, warp_back = map(staticmethod, (warp.warp, warp.warp_back))
    filter_norms, normalize, normalize_dx = map(staticmethod, (
        weights.filter_norms, weights.normalize, weights.normalize_dx))
    normalize_all, normalize_dx_all = map(staticmethod, (weights.normalize_all, weights.normalize_dx_all))
    pack, rmsprop, adam, lerp = map(staticmethod, (weights.pack, weights.rmsprop, weights.adam, weights.lerp))
    rmsprop_all, adam_all, lerp_all = map(staticmethod, (weights.rmsprop_all, weights.adam_all, weights.lerp_all))
    each_step = staticmethod(feed.each_step)
    counter_bits, counter_uniform, counter_normal, counter_integers = map(staticmethod, (
        random.counter_bits, random.counter_uniform, random.counter_normal, random.counter_integers))
