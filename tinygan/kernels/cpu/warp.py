"""Bilinear sampling of images along an affine map, and its transpose, for the processor.

Each view is cut into blocks of rows. A block computes once where its pixels are sampled, as an index into the image
and two fractions, and uses both for every channel. The image gets a frame of zeros first, so that pixels beyond its
rim need no case of their own: positions are clipped to that frame before they become indices.

The transpose adds each pixel to the same four places with the same four weights. It counts in float64 (np.bincount),
always in the order of views, channels, taps and pixels.
"""

import numpy as np

from tinygan.kernels import threads
from tinygan.kernels.geometry import positions

BEFORE, AFTER = 1, 2  # zeros around an image: taps lie between -1 and size + 1
JOB_PIXELS = 1 << 14  # of a view: their indices, fractions and weights stay in the cache


def warp(x, matrices, sources, size):
    """Sample views (M, C, *size) from x (N, C, H, W) along matrices (M, 2, 3); sources (M,), both on the host."""
    channels, height, width = x.shape[1:]
    wide = np.zeros((len(x), channels, height + BEFORE + AFTER, width + BEFORE + AFTER), x.dtype)
    wide[:, :, BEFORE:-AFTER, BEFORE:-AFTER] = x
    planes = wide.reshape(len(x), channels, wide.shape[2] * wide.shape[3])
    matrices = np.asarray(matrices, x.dtype)
    out = np.empty((len(matrices), *size, channels), x.dtype)

    def job(view: int, rows: slice) -> None:
        corner, taps = _taps(matrices[view], np.arange(size[0])[rows], size[1], (height, width))
        for c in range(channels):
            plane, total = planes[sources[view], c], 0.0
            for offset, weight in taps:
                # mode: the indices are known to be good, and the default would check them and copy the result
                total = total + weight * plane[offset:].take(corner, mode="clip")
            out[view, rows, :, c] = total

    step = max(1, JOB_PIXELS // max(1, size[1]))
    threads.run([lambda view=view, start=start: job(view, slice(start, start + step))
                 for view in range(len(matrices)) for start in range(0, size[0], step)],
                worth_it=out.size >= threads.BLOCK)
    return out.transpose(0, 3, 1, 2)


def warp_back(g, matrices, sources, shape):
    """Apply the transpose: g (M, C, h, w) -> shape (N, C, H, W); an image without a view gets zeros."""
    channels, height, width = shape[1:]
    matrices = np.asarray(matrices, g.dtype)
    out = np.empty((shape[0], height, width, channels), g.dtype)

    def job(image: int) -> None:
        wide = np.zeros((channels, height + BEFORE + AFTER, width + BEFORE + AFTER))
        planes = wide.reshape(channels, wide.shape[1] * wide.shape[2])
        for view in np.flatnonzero(sources == image):
            corner, taps = _taps(matrices[view], np.arange(g.shape[2]), g.shape[3], (height, width))
            corner = corner.ravel()
            for c in range(channels):
                for offset, weight in taps:
                    plane = planes[c, offset:]
                    plane += np.bincount(corner, (weight * g[view, c]).ravel(), len(plane))
        out[image] = wide[:, BEFORE:-AFTER, BEFORE:-AFTER].transpose(1, 2, 0)

    threads.run([lambda image=image: job(image) for image in range(len(out))], worth_it=g.size >= threads.BLOCK)
    return out.transpose(0, 3, 1, 2)


def _taps(matrix, rows, width, limits):
    """Return (index of each pixel's upper left tap in the framed image, [(offset, weight) of each of four taps])."""
    stride = limits[1] + BEFORE + AFTER
    corner, fractions = BEFORE * stride + BEFORE, []
    for position, limit, step in zip(positions(matrix, rows, width), limits, (stride, 1), strict=True):
        np.clip(position, -1, limit, out=position)  # beyond these every tap is a zero of the frame
        whole = np.floor(position)
        corner = corner + whole.astype(np.intp) * step
        fractions.append(position - whole)
    down, right = fractions
    up, left = 1 - down, 1 - right
    return corner, [(0, up * left), (1, up * right), (stride, down * left), (stride + 1, down * right)]
