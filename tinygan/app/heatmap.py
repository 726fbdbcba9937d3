"""Pictures of importance maps (gradcam.py): as colours, and over the image they belong to."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygan.errors import UsageError
from tinygan.kernels.arrays import to_numpy
from tinygan.kernels.geometry import interpolation_matrix

# Importance -> colour: from a dark violet over red and orange to a light yellow. Each step is lighter than the one
# before, so that it reads in grey as well, and for readers who cannot distinguish red from green.
HEAT = ((0.0, (38, 12, 64)), (0.3, (130, 24, 92)), (0.55, (212, 58, 62)), (0.8, (246, 146, 44)), (1.0, (252, 238, 140)))
COVER = 0.75  # share of the colour where the importance is 1; the rest is the image


def heat(values: np.ndarray) -> np.ndarray:
    """Convert importance in [0, 1] to colours: (...) -> uint8 (..., 3). See HEAT."""
    places, colours = zip(*HEAT, strict=True)
    levels = np.stack([np.interp(values, places, part) for part in zip(*colours, strict=True)], axis=-1)
    return levels.round().astype(np.uint8)


def resized(cam: Any, size: tuple[int, int]) -> np.ndarray:
    """Resize one map (h, w) bilinearly to (H, W) = size, on the host."""
    cam = to_numpy(cam)
    rows, columns = (interpolation_matrix(n, m, antialias=True) for n, m in zip(cam.shape, size, strict=True))
    return rows @ cam @ columns.T


def overlay(image: Any, cam: Any) -> np.ndarray:
    """Draw the map in colours over the image in grey: uint8 (H, W, 3).

    image: an array (3, H, W), RGB in [-1, 1]. cam: (h, w) in [0, 1], resized to the image bilinearly. The colour
    covers more where a place is more important; elsewhere the image stays grey.
    Raises UsageError for other shapes.
    """
    image = to_numpy(image)
    if image.ndim != 3 or image.shape[0] != 3 or cam.ndim != 2:
        raise UsageError(f"an overlay takes an image (3, H, W) and a map (h, w), not {image.shape} and {cam.shape}")
    importance = resized(cam, image.shape[1:]).clip(0.0, 1.0)[:, :, None]
    luma = np.tensordot((0.299, 0.587, 0.114), (image + 1.0) * 127.5, 1)[:, :, None]  # ITU-R BT.601
    share = COVER * importance * (2.0 - importance)  # rises fast, so that the middle of the range is visible
    mixed = luma * (1.0 - share) + heat(importance[:, :, 0]) * share
    return mixed.clip(0.0, 255.0).round().astype(np.uint8)
