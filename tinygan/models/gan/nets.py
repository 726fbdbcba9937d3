"""The adapted GAN, and the SGAN that grows from it by giving its deep layers a bank of filters.

The adapted GAN is the plain, weight-normalised, strided net of Xiang & Li 2017 (arXiv 1704.03971):

    generator       z (N, latent) -> projection to f0 x s0 x s0 -> transposed convolutions, each doubling the side and
                    halving the channels -> image in [0, 1]
    discriminator   the mirror image: strided convolutions down to s0 x s0, then one filter of that size -> a logit

The SGAN of Chaplygin & Chacksfield 2018 (arXiv 1802.02436) keeps the discriminator and the generator's last layer, and
gives each of the generator's other layers a bank of K filter sets. Each sample takes one set per layer, drawn at
random: its *route*. Four layers with 16 sets each are 65,536 generators, for 16 times the weights and no more
arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tinygan import ops
from tinygan.engine.tensor import Tensor
from tinygan.errors import UsageError
from tinygan.models.settings import setting
from tinygan.nn.layers import CLAMPS, NORMS, Conv2d, StochasticConvTranspose2d, TPReLU
from tinygan.nn.module import Module
from tinygan.ops.routes import routes_of

SIZES = {28: 32, 32: 32, 64: 64, 128: 128}  # image side -> side the nets work on (28 is padded by 2 on each side)
MAX_BANK = 1_024  # filter sets of one layer
MAX_CATEGORIES = 65_536  # of one one-hot vector
ACTIVATIONS = ("tprelu", "prelu")
OUTPUTS = ("sigmoid", "tanh")


class NetConfig:
    """The base of the settings of nets with banks, frozen dataclasses. act, slope, clamp: where these are a choice."""

    bank: tuple[int, ...]
    tied: bool = False
    act: str
    slope: float
    clamp: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary for JSON; the class called with it gives the configuration back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def route_count(self) -> int:
        """Count the routes: the product of the bank sizes, or with tied the size of one bank."""
        return max(self.bank) if self.tied else int(np.prod(self.bank))


def check_settings(config: NetConfig, allowed: dict[str, tuple], least: dict[str, int]) -> None:
    """Check the fields of a configuration.

    allowed: field -> its values. least: field -> the smallest whole number. Raises UsageError for any other value, and
    for a slope outside [0, 1].
    """
    for name, values in allowed.items():
        if getattr(config, name) not in values:
            raise UsageError(f"{name} is {getattr(config, name)!r}: use one of {', '.join(map(str, values))}")
    for name, low in least.items():
        if not isinstance(getattr(config, name), int) or getattr(config, name) < low:
            raise UsageError(f"{name} is {getattr(config, name)!r}: use a whole number of {low} or more")
    if not 0 <= config.slope <= 1:
        raise UsageError(f"slope is {config.slope}: use a number from 0 to 1")


def full_bank(bank: Any, layers: int, place: str, *, shared_last: bool = False, tied: bool = False
              ) -> tuple[int, ...]:
    """Return the number of filter sets of each layer; one number is repeated for all layers.

    place: the layers in words, for the error message. shared_last: a single number leaves the last layer one set.
    Raises UsageError for another length, for anything but whole numbers from 1 to MAX_BANK, and for a tied ensemble's
    banks of several sizes.
    """
    bank = tuple(bank) if isinstance(bank, (list, tuple)) else (bank,)
    given = ",".join(map(str, bank))
    if len(bank) == 1:
        bank = bank * (layers - shared_last) + (1,) * shared_last
    if len(bank) != layers or not all(isinstance(k, int) and 1 <= k <= MAX_BANK for k in bank):
        raise UsageError(f"bank {given}: give one whole number from 1 to {MAX_BANK:,}, or {layers} of them {place}")
    if tied and len({k for k in bank if k > 1}) > 1:
        raise UsageError(f"bank {','.join(map(str, bank))}: a tied ensemble has one index for all layers, so "
                         "all its banks must be of one size (or 1)")
    return bank


def activation(config: NetConfig, width: int, dtype: type, bank: int = 1) -> TPReLU:
    """Make the activation for maps of `width` channels, one for each of `bank` filter sets.

    config: its act, slope and clamp are used.
    """
    return TPReLU(width, slope=config.slope, clamp=config.clamp, shift=config.act == "tprelu", bank=bank, dtype=dtype)


@dataclass(frozen=True)
class GANConfig(NetConfig):
    """The settings of both nets: shapes, normalisation, activations. What the paper leaves open is a setting.

    size, channels: image side (28, 32, 64 or 128) and 1 or 3 colours. base_channels: channels next to the image (64 in
        Xiang & Li's code), doubling with every halving of the side; d_base_channels: of the discriminator, where it
        is another number than 0. latent_dim: length of z ~ N(0, 1).
    one_hot: categories of one-hot vectors that follow z, one drawn evenly for each number. Their 1 is sqrt(categories),
        so that their mean square is 1, as the noise's (our choice).
    pack: images that the discriminator takes at once, as the channels of one: it then tells packs of real images from
        packs of generated ones, in which a lack of variety shows (PacGAN, Lin et al. 2018). 1: images, as usual.
    bank: filter sets of the projection and of each transposed convolution; one number means that many everywhere
        but in the last layer, which is shared by all routes ("to provide refinement"). 1 is the plain GAN.
    tied: all layers use the same index: K whole generators under a shared last layer, the costly equivalent that the
        paper names. norm: weight normalisation of all layers but each net's last, which is affine unless norm is none.
    act, slope, clamp: tprelu or prelu, initial slope (0.2 in the SGAN's paper, 0.25 in Xiang & Li's), and how it is
        kept within [0, 1] (layers.TPReLU).
    bank_affine, bank_act: scale and bias (with norm affine), or slopes, for every filter set instead of shared ones.
    init_factor, init_scale: multiply the initial weights of the projection (0.01 in Xiang & Li's code) and of every
        layer. With weight normalisation the forward pass depends on neither, as long as filters are much longer than
        sqrt(eps) = 0.001: they set how large an optimiser's steps are beside the weights, that is, a learning rate for
        directions apart from that for slopes and shifts.
    discriminator_input: "pm1" feeds images as 2x - 1, "01" as they are. output: "sigmoid" (0 to 1) or "tanh", which
        is mapped to the same range.
    Raises UsageError in one line for a value that makes no net.
    """

    size: int = setting(32, "pixels; 28 is padded to 32", tuple(SIZES))
    channels: int = 1
    base_channels: int = setting(64, kind="positive_int")
    d_base_channels: int = setting(0, "of the discriminator; 0: as base_channels", kind="non_negative_int")
    pack: int = setting(1, "images that the discriminator takes at once (PacGAN)", kind="positive_int")
    latent_dim: int = setting(128, "length of the noise", kind="positive_int")
    one_hot: tuple[int, ...] = setting((), "categories of one-hot vectors beside the noise", kind="category_list")
    bank: tuple[int, ...] = setting((16,), "filter sets per layer; one number: all but the last", kind="bank_list")
    tied: bool = False
    norm: str = setting("strict", "weight normalisation", NORMS)
    act: str = setting("tprelu", "activation", ACTIVATIONS)
    slope: float = setting(0.2, "initial slope of the activation", kind="probability")
    clamp: str = setting("project", "how slopes are kept within [0, 1]", CLAMPS)
    bank_affine: bool = setting(False, "scale and bias for every filter set (with norm affine)")
    bank_act: bool = setting(False, "activation slopes for every filter set")
    init_factor: float = setting(0.01, "of the projection's initial weights", kind="positive_float")
    init_scale: float = setting(1.0, "of all initial weights", kind="positive_float")
    discriminator_input: str = setting("pm1", "range of the discriminator's input", ("pm1", "01"), flag="d_input")
    output: str = setting("sigmoid", "the generator's last function", OUTPUTS)

    def __post_init__(self) -> None:
        check_settings(self, {"size": tuple(SIZES), "channels": (1, 3), "norm": NORMS, "act": ACTIVATIONS,
                              "clamp": CLAMPS, "output": OUTPUTS, "discriminator_input": ("pm1", "01")},
                       {"base_channels": 1, "latent_dim": 1, "d_base_channels": 0, "pack": 1})
        if not all(isinstance(k, int) and 2 <= k <= MAX_CATEGORIES for k in self.one_hot):
            raise UsageError(f"one_hot {','.join(map(str, self.one_hot))}: give whole numbers from 2 to "
                             f"{MAX_CATEGORIES:,}")
        for name, factor in (("init_factor", self.init_factor), ("init_scale", self.init_scale)):
            if not 0 < factor < float("inf"):
                raise UsageError(f"{name} is {factor}: use a positive number")
        bank = full_bank(self.bank, self.depth + 1, f"(projection and {self.depth} transposed convolutions at "
                         f"{self.size} pixels)", shared_last=True, tied=self.tied)
        if self.bank_affine and self.norm == "strict":
            raise UsageError("bank_affine gives every filter set its own scale and bias, which strict weight "
                             "normalisation has none of: use norm affine or none")
        object.__setattr__(self, "bank", bank)
        object.__setattr__(self, "one_hot", tuple(self.one_hot))

    @property
    def noise_length(self) -> int:
        """Return the length of the noise and the one-hot vectors together."""
        return self.latent_dim + sum(self.one_hot)

    @property
    def side(self) -> int:
        """Return the side of the images inside the nets."""
        return SIZES[self.size]

    @property
    def depth(self) -> int:
        """Count the halvings, by Xiang & Li's rule: while the side is 8 or more, halve it."""
        side, depth = self.side, 0
        while side >= 8:
            side, depth = side // 2, depth + 1
        return depth


class Generator(Module):
    """z (N, noise_length) and routes (N, depth + 1) -> images (N, channels, side, side) in [0, 1]."""

    def __init__(self, config: GANConfig, *, rng: np.random.Generator, dtype: type = np.float32) -> None:
        c, n = config, config.depth
        self.config = config
        self.start = c.side // 2 ** n
        widths = [c.base_channels * 2 ** i for i in reversed(range(n))] + [c.channels]
        common = {"norm": c.norm, "bank_affine": c.bank_affine, "rng": rng, "dtype": dtype}
        # A fully-connected layer is a transposed convolution of a 1 x 1 map, and every output unit has a norm,
        # as in Xiang & Li's code. Its units are ordered (row, column, channel): channels-last, like all that the
        # kernels make.
        self.projection = StochasticConvTranspose2d(c.noise_length, widths[0] * self.start ** 2, 1, bank=c.bank[0],
                                                    init_factor=c.init_factor * c.init_scale, **common)
        self.activations = [activation(c, width, dtype, bank if c.bank_act else 1)
                            for width, bank in zip(widths[:-1], c.bank[:-1], strict=True)]
        self.deconvs = []
        for i in range(n):
            last = {"norm": "none" if c.norm == "none" else "affine"} if i == n - 1 else {}
            self.deconvs.append(StochasticConvTranspose2d(widths[i], widths[i + 1], 4, bank=c.bank[i + 1], stride=2,
                                                          padding=1, **(common | last), init_factor=c.init_scale))

    def forward(self, z: Tensor, routes: Sequence | None = None) -> Tensor:
        """Generate images; routes: host integers (N, depth + 1), column l in [0, bank[l]), or None if every bank is 1.

        Raises GraphError for routes that are missing, of another shape or outside a bank.
        """
        n = len(z)
        # Column l of the routes belongs to layer l; an activation follows the layer before it.
        columns = routes_of(routes, self.config.bank, n)
        x = self.projection(z.reshape(n, -1, 1, 1), columns[0])
        x = x.reshape(n, self.start, self.start, -1).transpose(0, 3, 1, 2)
        for deconv, act, before, column in zip(self.deconvs, self.activations, columns, columns[1:], strict=False):
            x = deconv(act(x, before), column)
        return ops.sigmoid(x) if self.config.output == "sigmoid" else (ops.tanh(x) + 1.0) * 0.5

    def draw_noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draw z (n, noise_length), float32, on the host: the same numbers on any device.

        The first latent_dim numbers of a row are standard normal, the others are the one-hot vectors.
        """
        return draw_noise(rng, n, self.config.latent_dim, self.config.one_hot)

    def draw_routes(self, rng: np.random.Generator, n: int, mode: str = "sample") -> np.ndarray:
        """Draw filter-set indices (n, depth + 1) for n samples. mode, errors: as of the function `draw_routes`."""
        return draw_routes(rng, n, self.config.bank, mode, tied=self.config.tied)


class Discriminator(Module):
    """Images (N, channels, side, side) in [0, 1] -> logits (N / pack,): positive means "real".

    pack images in a row are taken as one of pack * channels channels; N is a multiple of pack.
    """

    def __init__(self, config: GANConfig, *, rng: np.random.Generator, dtype: type = np.float32) -> None:
        c, n = config, config.depth
        self.config = config
        widths = [c.pack * c.channels] + [(c.d_base_channels or c.base_channels) * 2 ** i for i in range(n)]
        self.convs = [Conv2d(widths[i], widths[i + 1], 4, stride=2, padding=1, norm=c.norm,
                             init_factor=c.init_scale, rng=rng, dtype=dtype) for i in range(n)]
        self.activations = [activation(c, width, dtype) for width in widths[1:]]
        self.last = Conv2d(widths[-1], 1, c.side // 2 ** n, norm="none" if c.norm == "none" else "affine",
                           init_factor=c.init_scale, rng=rng, dtype=dtype)

    def forward(self, images: Tensor) -> Tensor:
        pack = self.config.pack
        x = images if pack == 1 else images.reshape(len(images) // pack, -1, *images.shape[2:])
        x = ops.fused.scale_shift(x, 2.0, -1.0) if self.config.discriminator_input == "pm1" else x
        for conv, act in zip(self.convs, self.activations, strict=True):
            x = act(conv(x))
        return self.last(x).reshape(-1)


def draw_noise(rng: np.random.Generator, n: int, length: int, one_hot: Sequence[int] = ()) -> np.ndarray:
    """Draw noise (n, length), standard normal, float32, and beside it one-hot vectors of so many categories each.

    A one-hot vector is scaled by the root of its length, so that its entries have a mean square of 1, as the noise's.
    """
    codes = [rng.standard_normal((n, length), dtype=np.float32)]
    codes += [(np.arange(k) == rng.integers(k, size=(n, 1))) * np.float32(k ** 0.5) for k in one_hot]
    return np.concatenate(codes, axis=1)


def draw_routes(rng: np.random.Generator, n: int, bank: tuple[int, ...], mode: str = "sample", *,
                tied: bool = False) -> np.ndarray:
    """Draw filter-set indices (n, layers), each uniform in [0, bank[layer]) and independent of the others.

    mode: "sample" draws for every sample (each batch of D then holds the whole mixture, our default); "batch" once for
        all (the literal reading of the paper); "group:g" once for every g samples in a row.
    bank: filter sets of each layer. tied: one index for all layers of a bank larger than 1. Raises UsageError for an
    unknown mode.
    """
    size = {"sample": 1, "batch": max(n, 1)}.get(mode)
    if size is None:
        kind, _, number = mode.partition(":")
        if kind != "group" or not number.isdecimal() or int(number) < 1:
            raise UsageError(f"unknown route mode {mode!r}: use sample, batch or group:g with g of 1 or more")
        size = int(number)
    groups = -(-n // size)
    if tied:
        index = rng.integers(0, max(bank), (groups, 1))
        drawn = np.where(np.asarray(bank) > 1, index, 0)
    else:
        drawn = np.stack([rng.integers(0, k, groups) for k in bank], axis=1)
    return np.repeat(drawn, size, axis=0)[:n]
