"""The layers of the paper's nets: filters with weight normalisation, banks of filters, and PReLUs.

Two kinds of weight normalisation, or none (`norm`):
  strict  y = (w . x) / |w|            direction alone; no scale, no bias
  affine  y = g (w . x) / |w| + b      the same with a learned scale and bias
  none    y = w . x + b                an ordinary layer
|w| is taken per output channel and, in a bank, per filter set; it is scaled for strided transposed convolutions and
kept above 0 (fused.weight_norm has the formula). The shapes, initial values and the choice of strict layers follow
Xiang & Li 2017 (arXiv 1704.03971) and its published code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from tinygan import ops
from tinygan.engine.tensor import Tensor, watched
from tinygan.errors import GraphError, TinyganError
from tinygan.kernels import for_array
from tinygan.kernels.arguments import pair
from tinygan.kernels.arrays import bank_order
from tinygan.nn.module import Module, Parameter
from tinygan.ops.conv import Pair, conv2d, conv_transpose2d
from tinygan.ops.fused import gather_sets, scale_shift, tprelu, weight_norm
from tinygan.ops.routes import Route, Routed, route_of, routes_of

NORMS = ("strict", "affine", "none")
CLAMPS = ("project", "forward", "none")


class _Filters(Module):
    """The base of the layers below: a bank of weights, its normalisation, a scale and a bias.

    Initial weights are uniform in +- init_factor / sqrt(inputs * kh * kw), for transposed convolutions too (as in
    Xiang & Li's code). bias=False leaves b out; it counts with norm "none" alone, since strict
    has no b and affine always has one. Raises TinyganError for an unknown norm or a size below 1.
    """

    def __init__(self, shape: tuple[int, ...], out_axis: int, *, norm: str, bias: bool, eps: float, init_factor: float,
                 rng: np.random.Generator, dtype: type, norm_scale: float = 1.0, bank_affine: bool = False) -> None:
        if norm not in NORMS:
            raise TinyganError(f"unknown weight normalisation {norm!r}: use one of {', '.join(NORMS)}")
        if min(shape) < 1:
            raise TinyganError(f"a layer of shape {shape} has no weights: every size must be 1 or more")
        self.bank, channels = shape[0], shape[out_axis]
        self.out_axis, self.norm, self.norm_scale, self.eps = out_axis, norm, norm_scale, eps
        bound = init_factor / (math.prod(shape[1:]) // channels) ** 0.5
        self.weight = Parameter(bank_order(rng.uniform(-bound, bound, shape).astype(dtype)), bank=self.bank > 1)
        sets = self.bank if bank_affine else 1
        self.gain = self.bias = None
        self.given: tuple[Tensor, np.ndarray | None] | None = None  # by `normalized`: filters, which sets they hold
        if norm == "affine":
            self.gain = Parameter(np.ones((sets, channels), dtype), bank=sets > 1)
        if norm == "affine" or (norm == "none" and bias):
            self.bias = Parameter(np.zeros((sets, channels), dtype), bank=sets > 1)

    def filters(self, route: Route | None = None) -> Tensor:
        """Return the weights as they are applied, (K, A, B, kh, kw). Sets that the route does not use are left zero."""
        if self.norm == "none":
            return self.weight
        if self.given is not None:
            v, rows = self.given
            if rows is not None and (missing := route.used & ~rows).any():
                raise GraphError(f"the net is called with routes to sets {np.flatnonzero(missing).tolist()}, which the "
                                 "routes given to `normalized` left out: give both the same")
            return v if self.weight.requires_grad else v.detach()
        return weight_norm(self.weight, out_axis=self.out_axis, scale=self.norm_scale, eps=self.eps,
                           rows=None if route is None else route.used)

    def scaled(self, y: Tensor, route: Route | None = None) -> Tensor:
        """Apply scale and bias, one per output channel (and per filter set where the layer has bank_affine)."""
        if self.gain is not None and len(self.gain) == 1:
            return scale_shift(y, self.gain.reshape(-1), self.bias.reshape(-1))
        if self.gain is not None:
            y = y * _for_samples(self.gain, route, y.ndim)
        if self.bias is not None:
            y = y + _for_samples(self.bias, route, y.ndim)
        return y


class Linear(_Filters):
    """A linear layer y = x W^T: (N, inputs) -> (N, outputs), with `weight` (1, outputs, inputs, 1, 1).

    norm: weight normalisation, "strict", "affine" or "none" (nn/layers.py has the formulas); eps is added to |w|^2.
    bias: with norm "none", add b. Initial weights are uniform in +- init_factor / sqrt(inputs), drawn from rng.
    Raises TinyganError for an unknown norm or a size below 1; a call raises GraphError for an x that does not fit.
    """

    def __init__(self, inputs: int, outputs: int, *, norm: str = "none", bias: bool = True, eps: float = 1e-6,
                 init_factor: float = 1.0, rng: np.random.Generator, dtype: type = np.float32) -> None:
        super().__init__((1, outputs, inputs, 1, 1), 1, norm=norm, bias=bias, eps=eps, init_factor=init_factor,
                         rng=rng, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        w = self.filters()
        return self.scaled(ops.matmul(x, ops.transpose(w.reshape(w.shape[1:3]))))


class Conv2d(_Filters):
    """A convolution (N, inputs, H, W) -> (N, outputs, h, w), with `weight` (1, outputs, inputs, kh, kw).

    kernel, stride, padding: pixels, one number or (rows, columns); `ops.conv2d` has the sizes. norm, bias, eps,
    init_factor, rng and errors: as for Linear, with inputs * kh * kw in place of inputs.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Pair, *, stride: Pair = 1, padding: Pair = 0,
                 norm: str = "none", bias: bool = True, eps: float = 1e-6, init_factor: float = 1.0,
                 rng: np.random.Generator, dtype: type = np.float32) -> None:
        super().__init__((1, outputs, inputs, *pair(kernel)), 1, norm=norm, bias=bias, eps=eps,
                         init_factor=init_factor, rng=rng, dtype=dtype)
        self.stride, self.padding = pair(stride), pair(padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(conv2d(x, self.filters(), stride=self.stride, padding=self.padding))


class StochasticConvTranspose2d(_Filters):
    """The paper's layer: a transposed convolution that draws its filters from a bank of K complete sets.

    (N, inputs, h, w) -> (N, outputs, H, W); `weight` (K, inputs, outputs, kh, kw). `routes` gives the set for each
    sample, N host integers in [0, K) or a Route; the net draws it (models/gan/nets.py), so that a sample can be made
    again. kernel, stride, padding: pixels, one number or (rows, columns); `ops.conv_transpose2d` has the sizes.
    norm, bias, eps, init_factor, rng and errors: as for Conv2d. |w|^2 is divided by the stride's product.
    bank_affine: each set has its own scale and bias (norm affine or none); by default they are shared, because the
    paper selects filters and nothing else.
    """

    stochastic = True

    def __init__(self, inputs: int, outputs: int, kernel: Pair, *, bank: int, stride: Pair = 1, padding: Pair = 0,
                 norm: str = "none", bias: bool = True, bank_affine: bool = False, eps: float = 1e-6,
                 init_factor: float = 1.0, rng: np.random.Generator, dtype: type = np.float32) -> None:
        self.stride, self.padding = pair(stride), pair(padding)
        super().__init__((bank, inputs, outputs, *pair(kernel)), 2, norm=norm, bias=bias, eps=eps,
                         init_factor=init_factor, rng=rng, dtype=dtype, norm_scale=1.0 / math.prod(self.stride),
                         bank_affine=bank_affine)

    def forward(self, x: Tensor, routes: Routed = None) -> Tensor:
        route = route_of(routes, len(x), self.bank)
        y = conv_transpose2d(x, self.filters(route), stride=self.stride, padding=self.padding, routes=route)
        return self.scaled(y, route)


class ConvTranspose2d(StochasticConvTranspose2d):
    """An ordinary transposed convolution (N, inputs, h, w) -> (N, outputs, H, W): a bank of one.

    options: those of StochasticConvTranspose2d, without bank.
    """

    stochastic = False

    def __init__(self, inputs: int, outputs: int, kernel: Pair, **options) -> None:
        super().__init__(inputs, outputs, kernel, bank=1, **options)


class TPReLU(Module):
    """Translated PReLU, per channel: f(x) = x where x > t, else a (x - t) + t; (N, channels, ...) to the same shape.

    slope: initial a (0.2 in the paper, 0.25 in Xiang & Li's code). shift=False leaves t out (PReLU).
    clamp: how a is kept within [0, 1]. "project", the default, lets the optimiser move it back after each step;
        "forward" uses the nearest allowed value and gives a slope outside it no gradient, so that it stays there (at
        high learning rates this happens to most slopes of a net: RESULTS.md); "none" does not limit it. Xiang & Li's
        Lua code projects, their Python code clamps in the forward pass.
    bank > 1: a and t for every filter set, selected by routes, N host integers in [0, bank) or a Route.
    Raises TinyganError for an unknown clamp.
    """

    def __init__(self, channels: int, *, slope: float = 0.2, clamp: str = "project", shift: bool = True,
                 bank: int = 1, dtype: type = np.float32) -> None:
        if clamp not in CLAMPS:
            raise TinyganError(f"unknown clamp {clamp!r}: use one of {', '.join(CLAMPS)}")
        self.clamp, self.bank = clamp, bank
        self.slope = Parameter(np.full((bank, channels), slope, dtype), bank=bank > 1,
                               bounds=(0.0, 1.0) if clamp == "project" else None)
        self.shift = Parameter(np.zeros((bank, channels), dtype), bank=bank > 1) if shift else None

    def forward(self, x: Tensor, routes: Routed = None) -> Tensor:
        limit = (lambda a: ops.clip(a, 0.0, 1.0)) if self.clamp == "forward" else (lambda a: a)
        route = route_of(routes, len(x), self.bank) if self.bank > 1 else None
        if route is None:
            shift = None if self.shift is None else self.shift.reshape(-1)
            return tprelu(x, limit(self.slope.reshape(-1)), shift)
        a = limit(_for_samples(self.slope, route, x.ndim))
        t = _for_samples(self.shift, route, x.ndim) if self.shift is not None else 0.0
        u = x - t
        return ops.where(u.data > 0, u, a * u) + t


def PReLU(channels: int, *, slope: float = 0.2, clamp: str = "project", dtype: type = np.float32) -> TPReLU:
    """Make a TPReLU without its shift: x where x > 0, else a x (He et al. 2015).

    channels, slope, clamp and errors: as for TPReLU.
    """
    return TPReLU(channels, slope=slope, clamp=clamp, shift=False, dtype=dtype)


@contextmanager
def normalized(net: Module, routes: Sequence | None = None) -> Iterator[None]:
    """Normalise the filters of a net's layers once, however often the net is called inside the context.

    Weight normalisation is a change of variables, v = w / |w|. So a training step may compute v before the net is
    called, let `backward` compute its gradient, and turn that into w's when the context ends. This way a net that is
    called twice normalises once, and on a GPU the filters of a whole net take one launch, and their gradients another.

    routes: those of every call that is made inside, (N, stochastic layers); sets they do not use are left out, and a
    call that needs one raises GraphError. None: all sets are normalised. Only `backward` computes gradients of the
    weights here, and only to first order; for anything else leave the context out. Gradients are added to those the
    weights have. A context within a context of the same net replaces it until it ends. Use a net in one thread at a
    time.
    """
    modules = list(net.modules())
    layers = [m for m in modules if isinstance(m, _Filters) and m.norm != "none"]
    stochastic = [m for m in modules if getattr(m, "stochastic", False)]
    columns = [None] * len(stochastic) if routes is None else routes_of(routes, [m.bank for m in stochastic])
    used = {id(m): route.used for m, route in zip(stochastic, columns, strict=True) if route is not None}
    rows = [used.get(id(m)) for m in layers]
    if not layers:
        yield
        return
    values = watched("normalize", layers[0].weight.data, lambda: for_array(layers[0].weight.data).normalize_all([
        (m.weight.data, m.out_axis, m.norm_scale, m.eps, r) for m, r in zip(layers, rows, strict=True)]))
    before = [(m.given, m.weight.detached) for m in layers]
    filters = [Tensor(v, requires_grad=m.weight.requires_grad, name="normalised filters")
               for m, (v, _) in zip(layers, values, strict=True)]
    for layer, v, r in zip(layers, filters, rows, strict=True):
        layer.given, layer.weight.detached = (v, r), True
    try:
        yield
        parts = [(m, n, v.grad) for m, v, (_, n) in zip(layers, filters, values, strict=True) if v.grad is not None]
        if parts:
            gradients = watched("normalize_dx", parts[0][2].data, lambda: for_array(parts[0][2].data).normalize_dx_all([
                (g.data, m.weight.data, n, m.out_axis, m.norm_scale, g.rows) for m, n, g in parts]))
            for (m, _, g), array in zip(parts, gradients, strict=True):
                m.weight.add_gradient(array, g.rows)
    finally:
        for layer, (given, detached) in zip(layers, before, strict=True):
            layer.given, layer.weight.detached = given, detached


def _for_samples(values: Tensor, route: Route | None, ndim: int) -> Tensor:
    """Select (K, C) values for a batch: row 0 for all, or that of each sample's set; shaped (N or 1, C, 1, 1)."""
    picked = values if len(values) == 1 else values[0:1] if route is None else gather_sets(values, route)
    return picked.reshape(picked.shape + (1,) * (ndim - 2))
