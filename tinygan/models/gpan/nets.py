"""The GPAN: a generator conditioned on a picture, and a patch discriminator (Chaplygin & Chacksfield 2018).

    generator       the condition x, a picture to paint on -> convolutions down to 2 x 2
                    -> there the wanted categories and noise are concatenated
                    -> stochastic transposed convolutions to 4, 8, 16, 32, 64: each sample takes one of K filter sets
                    -> ordinary ones up to the image, tanh
    discriminator   x and an image -> strided convolutions -> a grid of logits, one for every patch ("PatchGAN" of
                    Isola et al. 2017, pix2pix)

The paper's sizes are 1024 pixels, 512 for the discriminator, five stochastic layers of four sets: 1,024 routes. Its
text leaves much open; our choices are marked as ours, and are settings. All layers have weight normalisation and
PReLUs that start at 0.2; smaller images have fewer ordinary layers, and below 128 pixels one stochastic layer less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinygan import ops
from tinygan.engine.tensor import Tensor
from tinygan.errors import UsageError
from tinygan.models.gan.nets import ACTIVATIONS, NetConfig, activation, check_settings, draw_routes, full_bank
from tinygan.models.settings import setting
from tinygan.nn.layers import CLAMPS, NORMS, Conv2d, ConvTranspose2d, StochasticConvTranspose2d
from tinygan.nn.module import Module
from tinygan.ops.affine import blur
from tinygan.ops.pooling import mean_pool2d
from tinygan.ops.routes import routes_of

SIZES = (64, 128, 256, 512, 1024)
BOTTLENECK = 2  # side of the map where encoder and decoder meet
LARGEST_STOCHASTIC = 64  # largest side of a stochastic layer's output
ENCODER_SIDE = 512  # largest side of the inputs of the encoder's and the discriminator's first layer (paper)
WIDEST = 8  # times base_channels, as in pix2pix: 512 = 8 * 64
SKIPS = ("none", "upper", "all")
STARTS = ("substrate", "nothing")
MAP_NORMS = ("pixel", "none")
WHITEST = 0.98  # factor on x before the inverse of tanh, which is infinite at 1, and where tanh has no slope
# Strided layers of the discriminator by the side of its input. Three are pix2pix's, whose patches are 70 pixels wide; a
# smaller picture gets smaller patches (34 and 16 pixels), or one patch would be most of it. Our choice.
STRIDED = {64: 1, 128: 2, 256: 3, 512: 3}


@dataclass(frozen=True)
class GPANConfig(NetConfig):
    """The settings of both nets: shapes, normalisation, activations.

    size: side of the image. channels: of the image; condition_channels: of x. categories: length of the code, a 0 or 1
        for each category. noise_dim: channels of noise (0: the route alone is random).
    bank: filter sets of each stochastic layer; one number means that many in all. The paper's is 4.
    base_channels: of the encoder's first layer, doubling with every halving up to 8 times as many; the decoder mirrors
        it. patch_channels: the same for the discriminator (64 in pix2pix).
    skips: which decoder layers read the encoder's map of the same side, too. "upper": the ordinary layers alone, so
        that the outline can bypass the stochastic layers, and the content cannot; "none", "all".
    map_norm: "pixel" divides every pixel of the encoder's last map and of the stochastic layers' maps by the root of
        its mean square over the channels (Karras et al. 2018, progressive GANs), as weight normalisation bounds no map
        whose inputs are alike. "none", the paper's, is the default: bounded maps learned far more slowly.
    start: "substrate" adds the last layer's output to x before the tanh, so the untrained generator returns x;
        "nothing" does not. Our choice: with "nothing" the substrate's colours were lost.
    smooth: how many of the last transposed convolutions are followed by a [1 2 1] blur: their 4 x 4 kernels leave a
        checkerboard of single pixels. Our choice.
    norm, act, slope, clamp: as in GANConfig (gan/nets.py). Raises UsageError in one line for a value that makes no net.
    """

    size: int = setting(128, "pixels", SIZES)
    channels: int = setting(3, "grey or colour", (1, 3))
    condition_channels: int = 3
    categories: int = 1
    noise_dim: int = setting(16, "channels of noise beside the route", kind="non_negative_int")
    bank: tuple[int, ...] = setting((4,), "filter sets of the stochastic layers", kind="bank_list")
    base_channels: int = setting(32, kind="positive_int")
    patch_channels: int = setting(32, "base channels of the discriminator", kind="positive_int")
    skips: str = setting("upper", "layers that read the encoder's maps", SKIPS)
    map_norm: str = setting("none", "of the maps that L_split compares", MAP_NORMS)
    start: str = setting("substrate", "what the generator adds its output to", STARTS)
    smooth: int = setting(2, "last layers that are followed by a blur", kind="non_negative_int")
    norm: str = setting("strict", "weight normalisation", NORMS)
    act: str = setting("tprelu", "activation", ACTIVATIONS)
    slope: float = setting(0.2, "initial slope of the activation", kind="probability")
    clamp: str = setting("project", "how slopes are kept within [0, 1]", CLAMPS)

    def __post_init__(self) -> None:
        check_settings(self, {"size": SIZES, "channels": (1, 3), "condition_channels": (1, 3), "skips": SKIPS,
                              "start": STARTS, "map_norm": MAP_NORMS, "norm": NORMS, "act": ACTIVATIONS,
                              "clamp": CLAMPS},
                       {"base_channels": 1, "categories": 1, "patch_channels": 1, "noise_dim": 0, "smooth": 0})
        if self.start == "substrate" and self.channels != self.condition_channels:
            raise UsageError(f"start substrate adds x to the image, but they have {self.condition_channels} and "
                             f"{self.channels} channels: use start nothing")
        bank = full_bank(self.bank, len(self.stochastic_sides), "(the stochastic layers at "
                         f"{self.size} pixels)")
        object.__setattr__(self, "bank", bank)

    @property
    def encoder_side(self) -> int:
        """Return the side of the first layer's input, in the encoder and in the discriminator."""
        return min(self.size, ENCODER_SIDE)

    @property
    def encoder_sides(self) -> list[int]:
        """List the sides of the encoder's maps, first to bottleneck: 256, 128, ..., 2 for the paper's size."""
        return _halvings(self.encoder_side)

    @property
    def stochastic_sides(self) -> list[int]:
        """List the sides of the stochastic layers' outputs: 4, 8, ... 64 at most, and below the image's."""
        return [side for side in reversed(_halvings(self.size)) if BOTTLENECK < side <= LARGEST_STOCHASTIC]

    @property
    def ordinary_sides(self) -> list[int]:
        """List the sides of the outputs of the ordinary layers after them, the image's last."""
        return [side for side in [*reversed(_halvings(self.size)), self.size] if side > self.stochastic_sides[-1]]

    def encoder_width(self, side: int) -> int:
        """Return the number of channels of the encoder's map of this side."""
        return self.base_channels * min(WIDEST, self.encoder_side // (2 * side))

    def decoder_width(self, side: int) -> int:
        """Return the number of channels of the decoder's map of this side."""
        return self.channels if side == self.size else self.base_channels * min(WIDEST, self.size // (2 * side))

    def skip_width(self, side: int) -> int:
        """Return the number of channels that are concatenated to the decoder's map of this side, 0 for none."""
        stochastic = side < self.stochastic_sides[-1]
        if self.skips == "none" or (self.skips == "upper" and stochastic):
            return 0
        if side == self.encoder_side:  # 512 of 1024: the encoder's input itself
            return self.condition_channels
        return self.encoder_width(side) if side in self.encoder_sides else 0


def _halvings(side: int) -> list[int]:
    """Return side / 2, side / 4, ... down to the bottleneck."""
    sides = []
    while side > BOTTLENECK:
        side //= 2
        sides.append(side)
    return sides


class Batch(NamedTuple):
    """The inputs of both nets and of the losses for n images.

    target (n, C, S, S): the substrates, pictures of an object on white; mask (n, 1, S, S): 1 on the object, else 0.
    g_condition, d_condition (n, C, S, S): x of the generator and of the discriminator, made from target or mask.
    code (n, categories), noise (n, noise_dim, 2, 2), routes (n, stochastic layers) on the host: of the generator.
    wanted: ids of the classes that the images should be classified as, the same for all images of the batch.
    """

    target: Tensor
    mask: Tensor
    g_condition: Tensor
    d_condition: Tensor
    code: Tensor
    noise: Tensor
    routes: np.ndarray
    wanted: tuple[int, ...]


class GPANGenerator(Module):
    """x (N, condition_channels, size, size), code (N, categories), noise (N, noise_dim, 2, 2), routes -> images, maps.

    Images (N, channels, size, size) lie in [-1, 1]; maps are the outputs of the stochastic layers, which L_split
    compares.
    """

    def __init__(self, config: GPANConfig, *, rng: np.random.Generator, dtype: type = np.float32) -> None:
        c = self.config = config
        common = {"stride": 2, "padding": 1, "rng": rng, "dtype": dtype}

        widths = [c.condition_channels, *(c.encoder_width(side) for side in c.encoder_sides)]
        self.convs = [Conv2d(a, b, 4, norm=c.norm, **common) for a, b in zip(widths, widths[1:], strict=False)]
        self.encoder_activations = [activation(c, width, dtype) for width in widths[1:]]

        self.deconvs, self.activations = [], []
        width, before = widths[-1] + c.categories + c.noise_dim, BOTTLENECK
        for side, bank in zip(c.stochastic_sides, c.bank, strict=True):
            # At the bottleneck the decoder's map is the encoder's, so there is no skip.
            width += c.skip_width(before) if before > BOTTLENECK else 0
            self.deconvs.append(StochasticConvTranspose2d(width, c.decoder_width(side), 4, bank=bank, norm=c.norm,
                                                          **common))
            self.activations.append(activation(c, c.decoder_width(side), dtype))
            width, before = c.decoder_width(side), side
        for side in c.ordinary_sides:
            last = side == c.size
            norm = "affine" if last and c.norm == "strict" else c.norm
            self.deconvs.append(ConvTranspose2d(width + c.skip_width(before), c.decoder_width(side), 4, norm=norm,
                                                **common))
            if not last:
                self.activations.append(activation(c, c.decoder_width(side), dtype))
            width, before = c.decoder_width(side), side

    def forward(self, x: Tensor, code: Tensor, noise: Tensor, routes: Sequence | None = None
                ) -> tuple[Tensor, list[Tensor]]:
        """Generate images and maps; routes: host integers (N, stochastic layers), or None where every bank is 1.

        Raises UsageError for inputs of another shape, GraphError for routes of another shape or outside a bank.
        """
        c, n = self.config, len(x)
        columns = routes_of(routes, c.bank, n)
        quarters = (BOTTLENECK, BOTTLENECK)
        for name, given, shape in (("x", x, (n, c.condition_channels, c.size, c.size)),
                                   ("code", code, (n, c.categories)), ("noise", noise, (n, c.noise_dim, *quarters))):
            if given.shape != shape:
                raise UsageError(f"{name} must be of shape {shape} for this generator, not {given.shape}")
        start = x * WHITEST
        x = shrink(x, c.encoder_side)
        encoded = {c.encoder_side: x}
        for conv, act in zip(self.convs, self.encoder_activations, strict=True):
            x = act(conv(x))
            encoded[x.shape[2]] = x
        x = self._pixel_norm(x)
        code_maps = ops.broadcast_to(code.reshape(n, -1, 1, 1), shape=(n, c.categories, *quarters))
        x = ops.concatenate([x, code_maps * self._gain(code), noise * self._gain(noise)], axis=1)
        maps = []
        for i, deconv in enumerate(self.deconvs):
            stochastic, side = i < len(c.bank), x.shape[2]
            if side > BOTTLENECK and c.skip_width(side):
                x = ops.concatenate([x, encoded[side]], axis=1)
            x = deconv(x, columns[i] if stochastic else None)
            if len(self.deconvs) - i <= c.smooth:
                x = blur(x)
            if i < len(self.activations):
                x = self.activations[i](x)
            if stochastic:
                x = self._pixel_norm(x)
                maps.append(x)
        if c.start == "substrate":
            x = x + ops.log((1.0 + start) / (1.0 - start)) * 0.5  # the inverse of tanh
        return ops.tanh(x), maps

    def _pixel_norm(self, x: Tensor) -> Tensor:
        """Divide every pixel by its root mean square over the channels, for map_norm "pixel"."""
        if self.config.map_norm == "none":
            return x
        return x * ops.power(ops.mean(x * x, axis=1, keepdims=True) + 1e-8, exponent=-0.5)

    def _gain(self, part: Tensor) -> float:
        """Return the factor that makes the few channels of `part` as large together as the encoder's hundreds.

        Our choice; without it a generator of three classes drew the same image for all.
        """
        return float((self.config.encoder_width(BOTTLENECK) / max(1, part.shape[1])) ** 0.5)

    def draw_noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draw (n, noise_dim, 2, 2) standard normal numbers on the host, float32; 2 x 2: the quarters of the image."""
        return rng.standard_normal((n, self.config.noise_dim, BOTTLENECK, BOTTLENECK), dtype=np.float32)

    def draw_routes(self, rng: np.random.Generator, n: int, mode: str = "sample") -> np.ndarray:
        """Draw filter-set indices (n, stochastic layers); mode, errors: as of gan.nets.draw_routes."""
        return draw_routes(rng, n, self.config.bank, mode)


class PatchDiscriminator(Module):
    """x (the condition) and images, both (N, ., size, size) -> logits (N, 1, h, w) that each patch is real.

    C64-C128-C256-C512-C1 of pix2pix, 62 x 62 logits at 512 pixels; larger inputs are averaged down to 512 (as in the
    paper), smaller ones have fewer strided layers (STRIDED). Kernels 4 x 4, the last two layers with stride 1.
    """

    def __init__(self, config: GPANConfig, *, rng: np.random.Generator, dtype: type = np.float32) -> None:
        c = self.config = config
        strided = STRIDED[c.encoder_side]
        widths = [c.condition_channels + c.channels,
                  *(c.patch_channels * min(WIDEST, 2 ** i) for i in range(strided + 1))]
        self.convs = [Conv2d(a, b, 4, stride=2 if i < strided else 1, padding=1, norm=c.norm, rng=rng, dtype=dtype)
                      for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))]
        self.activations = [activation(c, width, dtype) for width in widths[1:]]
        self.last = Conv2d(widths[-1], 1, 4, padding=1, norm="affine" if c.norm == "strict" else c.norm, rng=rng,
                           dtype=dtype)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of the logits."""
        side = self.config.encoder_side >> STRIDED[self.config.encoder_side]
        return side - 2, side - 2  # each layer of stride 1 and kernel 4, padded by 1, makes the side smaller by one

    def forward(self, x: Tensor, images: Tensor) -> Tensor:
        h = shrink(ops.concatenate([x, images], axis=1), self.config.encoder_side)
        for conv, act in zip(self.convs, self.activations, strict=True):
            h = act(conv(h))
        return self.last(h)


def shrink(images: Tensor, side: int) -> Tensor:
    """Average images (N, C, H, W), H = W a multiple of `side`, down to (N, C, side, side)."""
    factor = images.shape[2] // side
    return mean_pool2d(images, factor) if factor > 1 else images

