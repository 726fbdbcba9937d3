"""Random views of images, the classifier's inputs: scaled, rotated, shifted, mirrored, blurred, with noise.

A generator that is trained against a fixed classifier soon makes a fine checkerboard that the classifier scores as the
wanted class, and in which no person recognises it. With a new random view of every image in each step, patterns of
single pixels no longer lower the loss, and the images resemble the class more. The scheme is the expectation over
transformations of Athalye et al. 2018 (arXiv:1707.07397), and the random crops, rotations and noise of feature
visualisation (Olah et al. 2017).

Views are made by `warp` and `blur` (ops/affine.py), linear in the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinygan.engine.tensor import Tensor, describe
from tinygan.errors import GraphError, UsageError
from tinygan.kernels.host import normal_rows, renewed, sent
from tinygan.models.settings import setting
from tinygan.ops import concatenate
from tinygan.ops.affine import blur, warp
from tinygan.ops.pooling import mean_pool2d, resize_bilinear

Range = tuple[float, float]
MOST_STEP = 2.0  # pixels of the image from one pixel of a view to the next: with two taps none lies between


# ---- settings and draws ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ViewSettings:
    """The ranges of the random views; each value is drawn uniformly from its range. Defaults: our choice.

    per_image: views of each image in a step. enabled: False gives one plain view of each image.
    scale: side of a view's part of the image, as a share of the image's side; above 1 the view has a white margin.
    rotation: radians either way. shift: either way along each axis, in halves of the side. flip: mirror half of them.
    blur: probability of a 3 x 3 blur, in the image's pixels. contrast: factor on the distance to white.
    noise: standard deviation of the noise added to each pixel of a view. coarse: factor on the side to which all images
        of one draw are first shrunk, drawn uniformly in its logarithm; below 1, fine textures do not lower the loss.
    Raises UsageError for an empty or invalid range.
    """

    per_image: int = setting(1, "random views of each image; 0: none", kind="non_negative_int", flag="views")
    scale: Range = setting((0.45, 1.1), "share of the side in a view", kind="number_range", flag="view_scale")
    rotation: float = setting(0.35, "radians", kind="non_negative_float", flag="view_rotation")
    shift: float = setting(0.35, "in half sides", kind="non_negative_float", flag="view_shift")
    flip: bool = setting(True, "mirror half of them", flag="view_flip", codes={"yes": True, "no": False})
    blur: float = setting(0.5, "share of them that is blurred", kind="probability", flag="view_blur")
    contrast: Range = (0.8, 1.1)
    noise: float = setting(0.08, "added to every pixel", kind="non_negative_float", flag="view_noise")
    coarse: Range = setting((1.0, 1.0), "images are first shrunk to this", kind="number_range", flag="view_coarse")
    enabled: bool = True

    def __post_init__(self) -> None:
        for name, most in (("scale", 100), ("contrast", 100), ("coarse", 1)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise UsageError(f"views: {name} must be two numbers in (0, {most}], the smaller first, not "
                                 f"{low}, {high}")
        for name, most in (("rotation", np.pi), ("shift", 10), ("blur", 1), ("noise", 10)):
            if not 0 <= getattr(self, name) <= most:
                raise UsageError(f"views: {name} must lie between 0 and {most:.4g}, not {getattr(self, name)}")
        if self.per_image < 1:
            raise UsageError(f"views: per_image must be 1 or more, not {self.per_image}")


def held_out(settings: ViewSettings, **changes: Any) -> ViewSettings:
    """Return settings to evaluate with: by default narrower ranges than in training, without blur and without noise.

    changes: any field of ViewSettings. With a generator of a fixed seed, draw_views gives the same views each time.
    Raises UsageError for an empty or invalid range.
    """
    narrower = {"scale": (0.7, 1.0), "rotation": 0.2, "shift": 0.15, "blur": 0.0, "contrast": (0.9, 1.1), "noise": 0.0,
              "coarse": (1.0, 1.0), "enabled": True}
    return replace(settings, **narrower | changes)


def scale_ranges(settings: ViewSettings, share: float) -> ViewSettings:
    """Return the settings with every range multiplied by `share`: 0 is the plain image, 1 all of it (for a warm-up).

    Raises UsageError for a share that is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise UsageError(f"views: share must lie between 0 and 1, not {share}")
    if share == 1:
        return settings
    towards = {name: tuple(1.0 + share * (value - 1.0) for value in getattr(settings, name))
               for name in ("scale", "contrast", "coarse")}
    return replace(settings, **towards, **{name: share * getattr(settings, name)
                                           for name in ("rotation", "shift", "blur", "noise")})


@dataclass(frozen=True)
class Views:
    """The random transformations of a batch's views; row m of every array belongs to view m.

    images: number of images; original: their (height, width); size: (height, width) to which they are shrunk first;
        side: of a view. matrices (views, 2, 3): from a view's pixels to those of the shrunk image, None for plain
        views. sources (views,): index of the image. blurred (views,) bool; contrast (views,); noise: its standard
        deviation; seed (): of the noise, turn: which view of its image each is, a part of the seed.
    """

    images: int
    original: tuple[int, int]
    size: tuple[int, int]
    side: int
    sources: np.ndarray
    matrices: np.ndarray | None = None
    blurred: np.ndarray | None = None
    contrast: np.ndarray | None = None
    noise: float = 0.0
    seed: np.ndarray | int = 0
    turn: int = 0

    def __len__(self) -> int:
        return len(self.sources)


def draw_views(rng: np.random.Generator, n: int, settings: ViewSettings, height: int, width: int, side: int) -> Views:
    """Draw the views of n images of height x width pixels, each view side x side; random numbers are drawn on the host.

    View v of image i is row v * n + i. The same state of rng gives the same views. Raises UsageError for a size below
    1.
    """
    if min(height, width, side) < 1 or n < 0:
        raise UsageError(f"views: {n} images of {height} x {width} have no views of {side} x {side}")
    if not settings.enabled:
        return Views(n, (height, width), (height, width), side, np.arange(n))
    count = n * settings.per_image
    scale = rng.uniform(*settings.scale, count)
    turn = rng.uniform(-settings.rotation, settings.rotation, count)
    shift = rng.uniform(-settings.shift, settings.shift, (count, 2))
    mirror = np.where(settings.flip & (rng.random(count) < 0.5), -1.0, 1.0)
    blurred = rng.random(count) < settings.blur
    contrast = rng.uniform(*settings.contrast, count)
    size = _working_size(height, width, settings.scale[1], side)
    if settings.coarse != (1.0, 1.0):
        share = np.exp(rng.uniform(*np.log(settings.coarse)))
        size = tuple(max(1, int(round(n * share))) for n in size)
    step = scale[:, None] * (np.array(size) / side)  # pixels of the image per pixel of the view, (rows, columns)
    sine, cosine = np.sin(turn), np.cos(turn)
    linear = np.stack([np.stack([cosine, sine * mirror], -1), np.stack([-sine, cosine * mirror], -1)], 1)
    linear = linear * step[:, None, :]
    middle = (np.array(size) - 1) / 2 + shift * np.array(size) / 2
    start = middle - linear.sum(axis=2) * ((side - 1) / 2)
    return Views(n, (height, width), size, side, np.tile(np.arange(n), settings.per_image),
                 np.concatenate([linear, start[:, :, None]], axis=2), blurred, contrast, float(settings.noise),
                 np.array(rng.integers(2**63)))


def _working_size(height: int, width: int, scale: float, side: int) -> tuple[int, int]:
    """Return the largest size of this aspect ratio at which neighbours in a view are MOST_STEP pixels apart at most."""
    share = min(1.0, MOST_STEP * side / (scale * max(height, width)))
    return max(1, int(height * share)), max(1, int(width * share))


# ---- resampling --------------------------------------------------------------------------------------------------


def apply_views(images: Tensor, views: Views) -> Tensor:
    """Resample images (N, C, H, W) in [-1, 1] to their views (len(views), C, side, side). Beyond an image is white, 1.

    An image much larger than a view is shrunk first, with anti-aliasing, so that no pixel is skipped. Then some are
    blurred, then all are warped; contrast scales the distance to white, so a white background stays white, and noise
    is added last. Differentiable in the images.
    Raises GraphError for images other than those the views were drawn for.
    """
    if images.ndim != 4 or (len(images), images.shape[2:]) != (views.images, views.original):
        raise GraphError(f"apply_views: the views were drawn for {views.images} images of {views.original} pixels, "
                         f"not for {describe(images)}")
    if views.matrices is None:
        return plain_view(images, views.side)
    x = _shrunk(images, views.size) - 1.0  # white is 0 from here on, warp's value beyond the image
    sources = views.sources
    if views.blurred.any():
        x = concatenate([x, blur(x)])
        sources = renewed(x.data, lambda: views.sources + views.images * views.blurred, views.sources, views.blurred)
    y = warp(x, views.matrices, (views.side, views.side), sources)
    dtype, channels = y.dtype, y.shape[1]
    contrast = sent(y.data, lambda: views.contrast.reshape(-1, 1, 1, 1).astype(dtype), views.contrast)
    white = Tensor(sent(y.data, lambda: _noise(views, channels).astype(dtype), views.seed)) if views.noise else 1.0
    return y * Tensor(contrast) + white


def plain_view(images: Tensor, side: int) -> Tensor:
    """Resize images (N, C, H, W) to (N, C, side, side), bilinear and anti-aliased: the view without any randomness."""
    return images if images.shape[2:] == (side, side) else resize_bilinear(images, (side, side), antialias=True)


def _shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Shrink images to `size`: by means of whole blocks as far as possible, which is cheap, then by interpolation."""
    most = min(n // m for n, m in zip(images.shape[2:], size, strict=True))
    blocks = max(k for k in range(1, most + 1) if not any(n % k for n in images.shape[2:]))
    x = mean_pool2d(images, blocks) if blocks > 1 else images
    return x if x.shape[2:] == tuple(size) else resize_bilinear(x, size, antialias=True)


def _noise(views: Views, channels: int) -> np.ndarray:
    """Draw 1 + noise, float32 (views, C, side, side)."""
    shape = len(views), views.side, views.side, channels
    return normal_rows(int(views.seed) + views.turn, shape, 1.0, views.noise).transpose(0, 3, 1, 2)  # as warp's result
