"""3x3 convolution with stride 1 and padding 1, bias and ReLU in one go, on NumPy: the layer that VGG16 is made of.

Winograd's form F(4x4, 3x3) (S. Winograd 1980; for convolutional nets: Lavin and Gray, arXiv:1509.09308): a tile of
4x4 outputs y depends on 6x6 inputs d. With three small matrices, each applied along both axes,

    y = AT [ (G w GT) * (BT d B) ] A        36 products for a pair of channels in place of 144.

Summed over the channels, each of the 36 places is a matrix product (tiles, in) @ (in, out). The gradient to the input
is a convolution of the same kind, with the filters turned by 180 degrees; of what arrives, only that counts where ReLU
let something through, which is applied while reading it.

The three matrices belong to six points at which polynomials are evaluated. Ours are 0, r, -r, -1/r, 1/r and infinity
with r = sqrt 2, for two reasons. In float32 the rounding error is a quarter of that of the usual 0, 1, -1, 2, -2
(measured on sums over 64 channels). And their reciprocals are the same points in reverse order, so filters turned by
180 degrees have the same 36 matrices in reverse order.

What is not finite, or huge, spreads within its tiles: every output of a tile is a sum over all its 36 inputs in which
those outside the output's own window cancel. So an infinity or a NaN makes the 4x4 outputs of each tile that reads it
NaN, not its 3x3 window alone, and a pixel of size M leaves a rounding error of some 2 ** -24 M |w| (measured: up to 23
times that) in them. No other tile changes by a bit. (F(2x2, 2x2), for strided layers, has nothing that cancels.)

How the work is cut: where the transformed filters fit a cache, a block of tiles goes through everything on one core
before the next one is touched. Where they do not (256 channels and more), many tiles are transformed first, by all
cores; then each core takes some output channels, transforms their filters, and finishes these channels for all the
tiles. Bias and ReLU are done while the result is in cache. Maps of up to FEW channels are unrolled (im2col) instead.
`reference.py` is the definition.
"""

from collections.abc import Sequence

import numpy as np

from tinygan.kernels import threads
from tinygan.kernels.cpu import conv
from tinygan.kernels.cpu.max_pool import zero_unless
from tinygan.kernels.cpu.patches import LONG_PRODUCT
from tinygan.kernels.geometry import overlap

FEW = 4  # channels up to which a map is unrolled
BLOCK_BYTES = 1 << 20  # transformed inputs of a block of tiles, or its products: about a core's L2 cache (measured)
GROUP_BYTES = 1 << 24  # the same of the blocks that large filters are shared by
LARGE = 1 << 16  # filters of so many pairs of channels are transformed by parts
PART = 64  # output channels of a part

_R = 2**0.5
_BT = ((1, 0, -5 / 2, 0, 1, 0),
       (0, -1 / 6, -_R / 12, 1 / 3, _R / 6, 0),
       (0, 1 / 6, -_R / 12, -1 / 3, _R / 6, 0),
       (0, -2 / 3, 2 * _R / 3, 1 / 3, -_R / 3, 0),
       (0, 2 / 3, 2 * _R / 3, -1 / 3, -_R / 3, 0),
       (0, 1, 0, -5 / 2, 0, 1))
_G = ((1, 0, 0), (1 / _R, 1, _R), (1 / _R, -1, _R), (_R, -1, 1 / _R), (_R, 1, 1 / _R), (0, 0, 1))
_AT = ((1, 1, 1, 1, 1, 0),
       (0, _R, -_R, -1 / _R, 1 / _R, 0),
       (0, 2, 2, 1 / 2, 1 / 2, 0),
       (0, 2 * _R, -2 * _R, -_R / 4, _R / 4, 1))

Block = tuple[int, slice, slice]  # a sample, and rows and columns of its tiles


def conv_relu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, padding: int) -> np.ndarray:
    """Compute max(0, conv(x) + bias), stride 1: x (N, B, H, W), weight (A, B, kh, kw), bias (A,)."""
    if weight.shape[2:] != (3, 3) or padding != 1:
        y = conv.conv(x, weight[None], (1, 1), (padding, padding), None).transpose(0, 2, 3, 1)
        y += bias
        return np.maximum(y, 0, out=y).transpose(0, 3, 1, 2)
    maps = x.transpose(0, 2, 3, 1)
    y = np.empty((*maps.shape[:3], len(weight)), x.dtype)
    if x.shape[1] <= FEW:
        _from_few(maps, weight, bias, y)
    else:
        _winograd(maps, None, weight.transpose(1, 0, 2, 3), bias, y)
    return y.transpose(0, 3, 1, 2)


def conv_relu_dx(g: np.ndarray, y: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    """Compute its gradient to x: the transposed convolution of g where y = conv_relu(x) > 0, else of 0."""
    if weight.shape[2:] != (3, 3) or padding != 1:
        size = tuple(n + k - 1 - 2 * padding for n, k in zip(g.shape[2:], weight.shape[2:], strict=True))
        return conv.conv_transpose(np.where(y > 0, g, 0), weight[None], (1, 1), (padding, padding), None, size)
    maps, y = g.transpose(0, 2, 3, 1), y.transpose(0, 2, 3, 1)
    dx = np.empty((*maps.shape[:3], weight.shape[1]), g.dtype)
    if weight.shape[1] <= FEW:
        _to_few(maps, y, weight, dx)
    else:
        _winograd(maps, y, weight, None, dx)
    return dx.transpose(0, 3, 1, 2)


# ---- Winograd's form -----------------------------------------------------------------------------------------------


def _winograd(maps: np.ndarray, y: np.ndarray | None, weight: np.ndarray, bias: np.ndarray | None,
              out: np.ndarray) -> None:
    """Convolve maps (N, H, W, C) with weight (C, O, 3, 3) into out (N, H, W, O).

    With a bias, ReLU follows. With y, of the maps only what is left where y > 0 counts, and the filters are turned by
    180 degrees.
    """
    dtype, (channels, wanted) = maps.dtype, weight.shape[:2]
    bt, at = (np.array(m, dtype) for m in (_BT, _AT))
    if bias is not None:  # a seventh row of every column: the bias, which counts once in each output
        at = np.concatenate([at, np.ones((4, 1), dtype)], axis=1)

    # BLAS multiplies by a matrix this small without repacking the other side, if that is not too long: hence the stacks
    # of products below, and one such product costs less than two sums in NumPy.

    def multiply(blocks: Sequence[Block], inputs: np.ndarray, filters: np.ndarray, part: slice) -> None:
        tiles, some = inputs.shape[1], filters.shape[2]
        products = threads.scratch("products", (6, 6, tiles * some), dtype)
        np.matmul(inputs, filters, out=products.reshape(36, tiles, some))
        half = threads.scratch("half", (at.shape[1], 4, tiles * some), dtype)
        np.matmul(at[:, :6], products, out=half[:6])
        if bias is not None:
            half[6].reshape(-1, some)[...] = bias[part]
        result = threads.scratch("result", (4, 4, tiles * some), dtype)
        np.matmul(at, half.transpose(1, 0, 2), out=result.transpose(1, 0, 2))
        if bias is not None:
            _relu(result.reshape(16, -1))
        _write_tiles(result.reshape(4, 4, tiles, some), blocks, out[..., part])

    def transformed(part: slice) -> np.ndarray:
        filters = _transformed(weight[:, part])
        return filters if y is None else filters[::-1]

    def convolve(blocks: Sequence[Block], filters: np.ndarray | None) -> None:  # None: each part's are made for it
        # This thread's memory, filled by all.
        inputs = threads.scratch("inputs", (36, sum(map(_tiles, blocks)), channels), dtype)
        jobs, start = [], 0
        for block in blocks:
            stop = start + _tiles(block)
            jobs.append(lambda block=block, at=slice(start, stop): _transform(maps, y, block, bt, inputs[:, at]))
            start = stop
        threads.run(jobs, worth_it=worth_it)
        if filters is not None:
            multiply(blocks, inputs, filters, slice(0, wanted))
            return
        parts = [slice(start, min(wanted, start + PART)) for start in range(0, wanted, PART)]
        threads.run([lambda part=part: multiply(blocks, inputs, transformed(part), part) for part in parts],
                    worth_it=worth_it)

    blocks = _blocks(maps.shape[:3], 36 * max(channels, wanted) * maps.itemsize)
    worth_it = 36 * sum(map(_tiles, blocks)) * channels * wanted >= LONG_PRODUCT
    if channels * wanted >= LARGE:
        for group in _grouped(blocks, GROUP_BYTES // (36 * channels * maps.itemsize)):
            convolve(group, None)
    else:
        filters = transformed(slice(0, wanted))
        threads.run([lambda block=block: convolve([block], filters) for block in blocks], worth_it=worth_it)


def _write_tiles(result: np.ndarray, blocks: Sequence[Block], out: np.ndarray) -> None:
    """Write the tiles of the blocks, (4, 4, tiles, O), to their places in out (N, H, W, O)."""
    start = 0
    for n, rows, columns in blocks:
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        tile = result[:, :, start:start + high * wide].reshape(4, 4, high, wide, -1)
        start += high * wide
        for i in range(4):
            for j in range(4):
                place = out[n, 4 * rows.start + i:4 * rows.stop:4, 4 * columns.start + j:4 * columns.stop:4]
                place[...] = tile[i, j, :place.shape[0], :place.shape[1]]


def _blocks(maps: tuple[int, ...], tile_bytes: int) -> list[Block]:
    """Cut all tiles of maps (N, H, W) into blocks."""
    samples, rows, columns = maps[0], -(-maps[1] // 4), -(-maps[2] // 4)
    tiles = max(1, BLOCK_BYTES // tile_bytes)
    wide = _step(columns, tiles)
    high = _step(rows, max(1, tiles // wide))
    return [(n, slice(top, min(rows, top + high)), slice(left, min(columns, left + wide)))
            for n in range(samples) for top in range(0, rows, high) for left in range(0, columns, wide)]


def _step(total: int, at_most: int) -> int:
    """Compute the length of pieces, as equal as can be, that are not longer than `at_most`."""
    return -(-total // -(-total // at_most))


def _tiles(block: Block) -> int:
    _, rows, columns = block
    return (rows.stop - rows.start) * (columns.stop - columns.start)


def _grouped(blocks: Sequence[Block], at_most: int) -> list[list[Block]]:
    """Group the blocks in order, as many in each group as have at most so many tiles (but one at least)."""
    groups, tiles = [], 0
    for block in blocks:
        tiles += _tiles(block)
        if not groups or tiles > at_most:
            groups.append([])
            tiles = _tiles(block)
        groups[-1].append(block)
    return groups


def _transformed(weight: np.ndarray) -> np.ndarray:
    """Compute G w GT of every filter, (C, O, 3, 3) -> (36, C, O), in this thread's scratch."""
    channels, wanted = weight.shape[:2]
    both = np.kron(np.array(_G), np.array(_G)).astype(weight.dtype)
    filters = threads.scratch("filters", (36, channels, wanted), weight.dtype)
    np.matmul(both, weight.reshape(channels, wanted, 9).transpose(0, 2, 1), out=filters.transpose(1, 0, 2))
    return filters


def _transform(maps: np.ndarray, y: np.ndarray | None, block: Block, bt: np.ndarray, out: np.ndarray) -> None:
    """Compute BT d B for the tiles of a block of maps (N, H, W, C), or of what is left where y > 0: (36, tiles, C)."""
    n, rows, columns = block
    _, height, width, channels = maps.shape
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    top, left = max(0, 4 * rows.start - 1), max(0, 4 * columns.start - 1)
    bottom, right = min(height, 4 * rows.stop + 1), min(width, 4 * columns.stop + 1)
    pixels = maps[n, top:bottom, left:right]
    if y is not None or pixels.strides[1:] != (channels * maps.itemsize, maps.itemsize):
        pixels = threads.scratch("pixels", pixels.shape, maps.dtype)
        _read(maps[n, top:bottom, left:right], None if y is None else y[n, top:bottom, left:right], pixels)
    half = threads.scratch("half", (6, high, right - left, channels), maps.dtype)
    for k in range(high):  # pixels above and below the map are zeros: their columns of bt are left out
        first = 4 * (rows.start + k) - 1
        above, below = max(first, 0), min(first + 6, height)
        np.matmul(bt[:, above - first:below - first], pixels[above - top:below - top].reshape(below - above, -1),
                  out=half[:, k].reshape(6, -1))
    gathered = threads.scratch("gathered", (6, 6, high, wide, channels), maps.dtype)
    for j in range(6):
        inside, at = overlap(wide, 4 * columns.start - 1 - left + j, 4, right - left)
        gathered[j, :, :, :inside.start] = 0
        gathered[j, :, :, inside] = half[:, :, at]
        gathered[j, :, :, inside.stop:] = 0
    out = out.reshape(6, 6, -1)
    np.matmul(bt, gathered.reshape(6, 6, -1).transpose(1, 0, 2), out=out)


def _read(maps: np.ndarray, y: np.ndarray | None, out: np.ndarray) -> None:
    """Copy maps to out, or 0 where y is not positive."""
    if y is None:
        out[...] = maps
    else:
        zero_unless(np.greater(y, 0, out=threads.scratch("mask", y.shape, np.bool_)), maps, out)


def _relu(x: np.ndarray) -> None:
    """Apply ReLU in place to a matrix with long rows. (A maximum with one number takes three times as long.)"""
    zeros = threads.scratch("zeros", x.shape[1:], x.dtype)
    zeros[...] = 0
    np.maximum(x, zeros, out=x)


# ---- maps of few channels ------------------------------------------------------------------------------------------


def _from_few(maps: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """Compute the layer on maps (N, H, W, C) of few channels: unroll some rows, multiply; the bias is one more tap."""
    samples, height, width, channels = maps.shape
    wanted, count = len(weight), 9 * channels + 1
    taps = np.concatenate([weight.transpose(2, 3, 1, 0).reshape(-1, wanted), bias[None]])
    step = max(1, BLOCK_BYTES // (4 * width * (wanted + 2 * count)))

    def job(n: int, top: int, bottom: int) -> None:
        planes = threads.scratch("planes", (channels, bottom - top + 2, width + 2), maps.dtype)
        planes[...] = 0
        first, last = max(0, top - 1), min(height, bottom + 1)
        planes[:, first - top + 1:last - top + 1, 1:-1] = maps[n, first:last].transpose(2, 0, 1)
        columns = threads.scratch("columns", (count, bottom - top, width), maps.dtype)
        for i in range(3):
            for j in range(3):
                tap = channels * (3 * i + j)
                columns[tap:tap + channels] = planes[:, i:i + bottom - top, j:j + width]
        columns[-1] = 1
        y = out[n, top:bottom].reshape(-1, wanted)
        np.matmul(columns.reshape(count, -1).T, taps, out=y)
        _relu(y.reshape(bottom - top, -1))

    _run_rows(job, samples, height, step, samples * height * width * wanted * count)


def _to_few(maps: np.ndarray, y: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """Compute the gradient to maps of few channels: multiply some rows, then every pixel adds up its nine products."""
    samples, height, width, channels = maps.shape
    wanted = weight.shape[1]
    taps = weight.transpose(2, 3, 1, 0).reshape(9 * wanted, channels)
    step = max(4, BLOCK_BYTES // (4 * width * (channels + 9 * wanted)))

    def job(n: int, top: int, bottom: int) -> None:
        first, last = max(0, top - 1), min(height, bottom + 1)
        pixels = threads.scratch("pixels", (last - first, width, channels), maps.dtype)
        _read(maps[n, first:last], y[n, first:last], pixels)
        products = threads.scratch("products", (3, 3, wanted, last - first, width), maps.dtype)
        np.matmul(taps, pixels.reshape(-1, channels).T, out=products.reshape(9 * wanted, -1))
        total = threads.scratch("total", (wanted, bottom - top, width), maps.dtype)
        total[...] = 0
        for i in range(3):
            rows, from_rows = overlap(bottom - top, top + 1 - i - first, 1, last - first)
            for j in range(3):
                cols, from_cols = overlap(width, 1 - j, 1, width)
                total[:, rows, cols] += products[i, j, :, from_rows, from_cols]
        out[n, top:bottom] = total.transpose(1, 2, 0)

    _run_rows(job, samples, height, step, samples * height * width * 9 * channels * wanted)


def _run_rows(job, samples: int, height: int, step: int, work: int) -> None:
    """Call job(sample, first row, end) for all rows; work: multiplications."""
    threads.run([lambda n=n, top=top: job(n, top, min(height, top + step))
                 for n in range(samples) for top in range(0, height, step)], worth_it=work >= LONG_PRODUCT)
