"""Operations that read and write their arrays once: weight normalisation, (T)PReLU, the GAN's loss, a layer of VGG16.

All could be composed from the primitives of basic.py and conv.py (tests do so and compare). As primitives they pass
over memory once, which is what they cost: none does much arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygan.engine.tensor import Rules, Tensor, describe, primitive
from tinygan.errors import GraphError
from tinygan.kernels import for_array
from tinygan.kernels.arguments import check_kernel, copy_mask, windows
from tinygan.ops.basic import concatenate, matmul, multiply, negative, power, put, reshape, sigmoid, where
from tinygan.ops.basic import sum as sum_over
from tinygan.ops.conv import conv2d, conv2d_weight
from tinygan.ops.routes import Route, Routed

# ---- weight normalisation ----------------------------------------------------------------------------------------


def weight_norm(weight: Tensor, *, out_axis: int, scale: float = 1.0, eps: float = 1e-6,
                rows: np.ndarray | None = None) -> Tensor:
    """Divide every filter by its length: v = w / n, n = sqrt(scale * sum w^2 + eps), one n per set and output channel.

    weight: (K, A, B, kh, kw); the result has the same shape. out_axis: where the output channels are: 1 for a
        convolution, 2 for a transposed one.
    scale: 1; for a transposed convolution 1 / (s_h s_w), because each of its output pixels is reached by that share of
        the taps (Xiang & Li 2017, in the authors' code).
    eps stands inside the root, so that the gradient is finite at w = 0.
    rows: bool mask over K; sets outside it are left zero and get no gradient (nothing was routed through them).
    The gradient of each filter is orthogonal to the filter, but for eps: length carries no information.
    Raises GraphError for a weight, an out_axis or rows of another kind.
    """
    if weight.ndim != 5 or out_axis not in (1, 2):
        raise GraphError(f"weight_norm: expected (K, A, B, kh, kw) and out_axis 1 or 2, got {describe(weight)}")
    return _weight_norm(weight, out_axis=out_axis, scale=float(scale), eps=float(eps),
                        rows=copy_mask(rows, len(weight)))


@primitive
def _weight_norm(w: Tensor, *, out_axis: int, scale: float, eps: float, rows: np.ndarray | None):
    """Divide every filter by its length, with arguments that `weight_norm` has checked."""
    value, norms = for_array(w.data).normalize(w.data, out_axis, scale, eps, rows)

    def vjp(g: Tensor, y: Tensor) -> Tensor:
        out = _weight_norm_dx(g, w, norms=norms, out_axis=out_axis, scale=scale, eps=eps, rows=rows)
        out.rows = g.rows if rows is None else rows
        return out

    return value, (vjp,)


@primitive
def _weight_norm_dx(g: Tensor, w: Tensor, *, norms: Any, out_axis: int, scale: float, eps: float,
                    rows: np.ndarray | None):
    """Compute (g - scale (w . g) w / n^2) / n per filter: linear and symmetric in g, so it is the VJP for g, too."""
    same = {"out_axis": out_axis, "scale": scale, "eps": eps, "rows": rows}
    value = for_array(w.data).normalize_dx(g.data, w.data, norms, out_axis, scale, rows)

    def vjp_w(gg: Tensor, y: Tensor) -> Tensor:
        # With p = w.gg, q = w.g, r = g.gg:  d/dw of  r/n - c q p / n^3,  where dn/dw = c w / n.
        axes = tuple(i for i in range(1, 5) if i != out_axis)
        p, q, r = (sum_over(a * b, axes, keepdims=True) for a, b in ((w, gg), (w, g), (g, gg)))
        square = sum_over(w * w, axes, keepdims=True) * scale + eps
        cubed, fifth = power(square, exponent=-1.5), power(square, exponent=-2.5)
        out = (w * r + g * p + gg * q) * (cubed * -scale) + w * (p * q * fifth * (3.0 * scale * scale))
        if rows is not None:
            mask = w.xp.asarray(rows.reshape(-1, 1, 1, 1, 1), dtype=w.dtype)
            out = out * Tensor(mask)
        return out

    return value, (lambda gg, y: _weight_norm_dx(gg, w, norms=norms, **same), vjp_w)


# ---- the GAN's loss ----------------------------------------------------------------------------------------------


def logistic_loss(logits: Tensor, sign: float = 1.0) -> Tensor:
    """Compute the mean of -log sigmoid(sign * logits), a single number: half of D's loss (Goodfellow et al. 2014).

    logits: any shape. sign: 1 for images that D should call real, -1 for fakes. It is exact for logits of any size,
    where a sigmoid would round to 0 or 1.
    """
    return _logistic_loss(logits, sign=float(sign))


@primitive
def _logistic_loss(x: Tensor, *, sign: float):
    """Compute the mean of -log sigmoid(sign * x)."""
    value = for_array(x.data).logistic_loss(x.data, sign)
    return value, (lambda g, y: _logistic_dx(g, x, sign=sign),)


@primitive
def _logistic_dx(g: Tensor, x: Tensor, *, sign: float):
    """Compute -g sign sigmoid(-sign x) / n; as sigmoid' = sigmoid (1 - sigmoid), its slope is g p (1 - p) / n."""
    def by_x(gg: Tensor, y: Tensor) -> Tensor:
        p = sigmoid(x * -sign)
        return gg * g * (p * (1.0 - p)) * (1.0 / max(1, x.size))

    value = for_array(x.data).logistic_back(g.data, x.data, sign)
    return value, (lambda gg, y: sum_over(gg * sigmoid(x * -sign)) * (-sign / max(1, x.size)), by_x)


@primitive
def logistic_losses(logits: Tensor, *, first: int):
    """Compute logistic_loss(logits[:first], 1) + logistic_loss(logits[first:], -1), a single number; logits: (N,)."""
    def dx(g: Tensor, y: Tensor) -> Tensor:
        return concatenate([_logistic_dx(g, logits[:first], sign=1.0), _logistic_dx(g, logits[first:], sign=-1.0)])

    x, kernels = logits.data, for_array(logits.data)
    return kernels.logistic_losses(x, first), Rules((dx,), lambda g: (kernels.logistic_losses_back(g.data, x, first),))


# ---- the values of each sample's filter set -------------------------------------------------------------------------


def gather_sets(values: Tensor, routes: Routed) -> Tensor:
    """Select values[routes]: (K, ...) -> (N, ...), row k for each sample of route k.

    routes: host integers (N,) in [0, K), or a Route; others raise GraphError. The gradient's `rows`, a bool mask over
    K, marks the sets that were used.
    """
    return _gather_sets(values, routes=routes if isinstance(routes, Route) else Route(routes, len(values)))


@primitive
def _gather_sets(values: Tensor, *, routes: Route):
    """Select the row of each sample's route."""
    def vjp(g: Tensor, y: Tensor) -> Tensor:
        if g.xp is np:
            out = put(g, index=(routes.indices,), shape=values.shape)
        else:  # several samples may use one set, and CuPy's put adds them in no fixed order
            chosen = Tensor(g.xp.asarray(routes.indices == np.arange(len(values))[:, None], dtype=g.dtype))
            out = reshape(matmul(chosen, reshape(g, shape=(len(routes), -1))), shape=values.shape)
        out.rows = routes.used
        return out

    return values.data[routes.indices], (vjp,)


# ---- scale and bias ---------------------------------------------------------------------------------------------


@primitive
def scale_shift(x: Tensor, gain: Tensor, bias: Tensor):
    """Compute gain x + bias, per channel. x: (N, C, ...). gain, bias: (C,), or numbers. Returns x's shape."""
    kernels, axes = for_array(x.data), (0, *range(2, x.ndim))
    rules = (lambda g, y: g * _per_channel(gain, x), lambda g, y: sum_over(g * x, axes), lambda g, y: sum_over(g, axes))
    if gain.requires_grad:
        rules = Rules(rules, lambda g: kernels.affine_back(g.data, x.data, gain.data))
    return kernels.affine(x.data, gain.data, bias.data), rules


# ---- PReLU and translated PReLU ----------------------------------------------------------------------------------


def tprelu(x: Tensor, slope: Tensor, shift: Tensor | None = None) -> Tensor:
    """Compute x where x > t, else a (x - t) + t: a PReLU of slope a whose kink is at t, per channel (Xiang & Li 2017).

    x: (N, C, ...). slope a, shift t: (C,); without a shift it is the plain PReLU (t = 0). Returns x's shape. At the
    kink itself the slope is a. Raises GraphError if slope or shift is not of one number per channel.
    """
    for p in (slope, shift):
        if p is not None and p.shape != x.shape[1:2]:
            raise GraphError(f"tprelu: {describe(x)} has {x.shape[1]} channels, {describe(p)} does not fit")
    return _tprelu(x, slope, *(() if shift is None else (shift,)))


@primitive
def _tprelu(x: Tensor, slope: Tensor, *shift: Tensor):
    """Compute x where x > t, else a (x - t) + t; shift: (t,), or nothing for t = 0."""
    kernels = for_array(x.data)
    rules = (lambda g, y: _tprelu_dx(g, x, slope, *shift), lambda g, y: _tprelu_dslope(g, x, *shift))
    if shift:
        rules += (lambda g, y: (1.0 - slope) * _tprelu_masked_sum(g, x, *shift),)
    if slope.requires_grad:
        rules = Rules(rules, lambda g: kernels.tprelu_back(g.data, x.data, slope.data, _array(shift)))
    return kernels.tprelu(x.data, slope.data, _array(shift)), rules


@primitive
def _tprelu_dx(g: Tensor, x: Tensor, slope: Tensor, *shift: Tensor):
    """Compute g above the kink, a g below; which side is a constant, so x and t get no gradient."""
    value = for_array(x.data).tprelu_dx(g.data, x.data, slope.data, _array(shift))
    return value, (lambda gg, y: _tprelu_dx(gg, x, slope, *shift), None,
                   lambda gg, y: _tprelu_masked_sum(multiply(gg, g), x, *shift)) + (None,) * len(shift)


@primitive
def _tprelu_dslope(g: Tensor, x: Tensor, *shift: Tensor):
    """Sum g (x - t) below the kink, per channel."""
    value = for_array(x.data).tprelu_dslope(g.data, x.data, _array(shift))

    def below(gg: Tensor) -> Tensor:
        return Tensor(_below(x, shift)) * _per_channel(gg, x)

    vjps = (lambda gg, y: below(gg) * (x - _per_channel(shift[0], x) if shift else x), lambda gg, y: below(gg) * g)
    if shift:
        vjps += (lambda gg, y: negative(gg * _tprelu_masked_sum(g, x, *shift)),)
    return value, vjps


@primitive
def _tprelu_masked_sum(g: Tensor, x: Tensor, *shift: Tensor):
    """Sum g below the kink, per channel."""
    value = for_array(x.data).tprelu_below(g.data, x.data, _array(shift))
    return value, (lambda gg, y: Tensor(_below(x, shift)) * _per_channel(gg, x), None) + (None,) * len(shift)


def _array(shift: tuple[Tensor, ...]) -> Any:
    """Return the array of t, or None."""
    return shift[0].data if shift else None


def _below(x: Tensor, shift: tuple[Tensor, ...]) -> Any:
    """Return 1 where x <= t, else 0."""
    t = _per_channel(shift[0], x).data if shift else 0.0
    return (x.data <= t).astype(x.dtype)


def _per_channel(a: Tensor, x: Tensor) -> Tensor:
    """Reshape (C,) to broadcast over x (N, C, ...)."""
    return reshape(a, shape=(1, -1) + (1,) * (x.ndim - 2))


# ---- convolution with ReLU, the layer of VGG16 ---------------------------------------------------------------------


def conv_relu(x: Tensor, weight: Tensor, bias: Tensor, *, padding: int = 1) -> Tensor:
    """Compute max(0, conv2d(x, weight) + bias), stride 1: a layer of VGG16 (Simonyan & Zisserman 2014).

    x: (N, B, H, W), weight: (A, B, k, k), bias: (A,). Returns (N, A, H, W) for k = 2 padding + 1. Where the sum is
    exactly 0 the slope is 0. No gradient is computed for a weight or a bias that needs none. On a processor a pixel
    that is huge or not finite also reaches the other outputs of its 4 x 4 tiles (kernels/cpu/conv3x3.py has the bound).
    Raises GraphError where shapes do not fit.
    """
    if not isinstance(x, Tensor) or not x.ndim == weight.ndim == 4 or (
            x.shape[1], *bias.shape) != (weight.shape[1], weight.shape[0]):
        raise GraphError(f"conv_relu: x must be (N, B, H, W), weight (A, B, k, k) and bias (A,), got {describe(x)}, "
                         f"{describe(weight)} and {describe(bias)}")
    kernel, _, padded = windows("conv_relu", weight.shape[2:], 1, padding)
    check_kernel("conv_relu", x, kernel, padded)
    return _conv_relu(x, weight, bias, padding=padding)


@primitive
def _conv_relu(x: Tensor, weight: Tensor, bias: Tensor, *, padding: int):
    """Compute max(0, conv2d(x, weight) + bias), with arguments that `conv_relu` has checked."""
    value = for_array(x.data).conv_relu(x.data, weight.data, bias.data, padding)
    return value, (lambda g, y: _conv_relu_dx(g, weight, y=y.data, padding=padding),
                   lambda g, y: _filter_gradient(x, where(y.data > 0, g, 0.0), weight, padding),
                   lambda g, y: sum_over(where(y.data > 0, g, 0.0), axis=(0, 2, 3)))


@primitive
def _conv_relu_dx(g: Tensor, weight: Tensor, *, y: Any, padding: int):
    """Convolve transposed g where y > 0, else 0: bilinear in g and weight; which side is a constant."""
    value = for_array(g.data).conv_relu_dx(g.data, y, weight.data, padding)
    return value, (lambda gg, out: where(y > 0, conv2d(gg, weight, padding=padding), 0.0),
                   lambda gg, out: _filter_gradient(gg, where(y > 0, g, 0.0), weight, padding))


def _filter_gradient(big: Tensor, small: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Compute the gradient of a weight (A, B, k, k) from both maps."""
    return reshape(conv2d_weight(big, small, kernel=weight.shape[2:], padding=padding), shape=weight.shape)
