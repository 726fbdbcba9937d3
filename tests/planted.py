"""Operations with a planted wrong rule, and correct ones beside them: what `check_grads` must tell apart.

Each entry is (function of tensors, input arrays). Most are an honest forward pass with one dishonest rule.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinygan import Tensor, ops, primitive
from tinygan.engine.tensor import sum_to
from tinygan.kernels import reference
from tinygan.ops.conv import conv2d, conv2d_weight, conv_transpose2d
from tinygan.ops.fused import gather_sets, tprelu, weight_norm
from tinygan.ops.pooling import resize_bilinear

rng = np.random.default_rng(11)
A, B, SQUARE = (rng.standard_normal((3, 3)) for _ in range(3))
POSITIVE = rng.uniform(0.5, 2.0, (3, 3))
APART = (rng.permutation(9) - 3.75).reshape(3, 3) * 0.4  # no value near 0
CUBE = rng.standard_normal((3, 3, 3))
TALL = rng.standard_normal((12, 2))
MANY = rng.standard_normal((10, 10))
STRIDED = rng.standard_normal((3, 6))[:, ::2]


def op(forward: Callable, *rules: Callable | None) -> Callable[..., Tensor]:
    """A primitive of `forward(*arrays)` with `rule(g, y, *tensors)` for each input."""
    @primitive
    def made(*inputs: Tensor):
        vjps = tuple(rule and (lambda g, y, rule=rule: rule(g, y, *inputs)) for rule in rules)
        return forward(*[t.data for t in inputs]), vjps

    return made


def fixed(values: np.ndarray) -> Tensor:
    """A constant: gradients do not go through it."""
    return Tensor(np.array(values))


def cut(g: Tensor, *index) -> Tensor:
    """g with one part set to 0."""
    mask = np.ones(g.shape)
    mask[index] = 0.0
    return g * fixed(mask)


def mean_instead(g: Tensor, shape: tuple) -> Tensor:
    total = sum_to(g, shape=shape)
    return total * (total.size / g.size)


def right_tanh(g: Tensor, y: Tensor, a: Tensor) -> Tensor:
    return g * (1.0 - y * y)


def dmultiply(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return g * b


def at_b(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return g * a


def passed(g: Tensor, y: Tensor, *inputs: Tensor) -> Tensor:
    return g


bent_square = op(np.square, lambda g, y, a: g * a * 2.002)

PLANTED = {
    # wrong numbers
    "scaled by 1.001": (op(np.multiply, lambda g, y, a, b: g * b * 1.001, at_b), [A, B]),
    "scaled by 1.01": (op(np.multiply, lambda g, y, a, b: g * b * 1.01, at_b), [A, B]),
    "scaled by 1.001, the gradient itself 1e-5": (op(lambda a: 1e-5 * np.tanh(a), lambda g, y, a: g * (
        1.0 - ops.tanh(a) ** 2) * 1.001e-5), [A]),
    "constant error 5e-3": (op(np.tanh, lambda g, y, a: right_tanh(g, y, a) + g * 5e-3), [A]),
    "sign of subtraction": (op(np.subtract, passed, passed), [A, B]),
    "noise of 1e-4": (op(np.tanh, lambda g, y, a: right_tanh(g, y, a) + fixed(1e-4 * np.cos(7 * a.data))), [A]),
    "division without the square": (op(np.divide, lambda g, y, a, b: g / b, lambda g, y, a, b: -(g * a / b)),
                                    [A, POSITIVE]),
    "root without the half": (op(np.sqrt, lambda g, y, a: g / y), [POSITIVE]),
    "sigmoid without 1 - y": (op(lambda a: 1 / (1 + np.exp(-a)), lambda g, y, a: g * y), [A]),
    "softplus slope as a step": (op(lambda a: np.log1p(np.exp(a)), lambda g, y, a: g * fixed(a.data > 0)), [APART]),
    "wrong only for negative inputs": (op(np.square, lambda g, y, a: g * abs(a) * 2.0), [APART]),
    "mean over the wrong count": (op(lambda a: a.mean(axis=0), lambda g, y, a: ops.broadcast_to(
        g, shape=a.shape) * (1 / a.shape[1])), [TALL]),
    "log-softmax without the softmax": (op(lambda a: a - np.log(np.exp(a).sum(-1, keepdims=True)), passed), [A]),
    # right numbers in the wrong place
    "operands swapped": (op(np.multiply, at_b, dmultiply), [A, B]),
    "weight transposed": (op(lambda a: a @ SQUARE, lambda g, y, a: g @ fixed(SQUARE)), [A]),
    "product transposed": (op(np.matmul, lambda g, y, a, b: g @ b.T, lambda g, y, a, b: g.T @ a), [A, B]),
    "axis reversed": (op(np.add, lambda g, y, a, b: g[:, ::-1], passed), [A, B]),
    "rolled by one": (op(np.tanh, lambda g, y, a: ops.concatenate(
        [right_tanh(g, y, a)[1:], right_tanh(g, y, a)[:1]])), [A]),
    "averaged over an axis": (op(np.positive, lambda g, y, a: ops.broadcast_to(
        g.mean(axis=1, keepdims=True), shape=g.shape)), [A]),
    "permuted forwards instead of back": (op(lambda a: a.transpose(1, 2, 0), lambda g, y, a: g.transpose(1, 2, 0)),
                                          [CUBE]),
    "reshaped in Fortran order": (op(lambda a: a.reshape(9), lambda g, y, a: g.reshape(3, 3).T), [A]),
    "summed over the wrong axis": (op(lambda a: a.sum(axis=0), lambda g, y, a: ops.broadcast_to(
        g.reshape(3, 1), shape=(3, 3))), [A]),
    "pieces of a concatenation swapped": (op(lambda a, b: np.concatenate([a, b]), lambda g, y, a, b: g[3:],
                                             lambda g, y, a, b: g[:3]), [A, B]),
    # something lost or added
    "last column lost": (op(np.tanh, lambda g, y, a: cut(right_tanh(g, y, a), slice(None), -1)), [A]),
    "one entry of a hundred lost": (op(np.tanh, lambda g, y, a: cut(right_tanh(g, y, a), 7, 3)), [MANY]),
    "no rule at all": (op(np.multiply, dmultiply, None), [A, B]),
    "repeated index overwritten, not added": (op(lambda a: a[[0, 2, 0]], lambda g, y, a: ops.concatenate(
        [g[2:], g[:1] * 0.0, g[1:2]])), [A]),
    "tie given to both": (lambda x: op(np.maximum, lambda g, y, a, b: g * fixed(a.data >= b.data),
                                       lambda g, y, a, b: g * fixed(b.data >= a.data))(x, x), [A]),
    "broadcast factor forgotten": (op(lambda a: a + np.zeros((4, 3, 3)), lambda g, y, a: mean_instead(g, a.shape)),
                                   [A]),
    "scalar gradient for an array": (op(lambda a: a.sum(), lambda g, y, a: g), [A]),
    # wrong on some inputs only
    "wrong only when broadcast": (op(np.multiply, lambda g, y, a, b: (g * b).mean(axis=0) if a.ndim < g.ndim else
                                     g * b, at_b), [A[0], B]),
    "wrong only for axes of length 1": (op(np.square, lambda g, y, a: g * a * (1.0 if 1 in a.shape else 2.0)),
                                        [A[:1]]),
    "wrong only for more than 8 rows": (op(np.tanh, lambda g, y, a: cut(right_tanh(g, y, a), slice(8, None))),
                                        [TALL]),
    "wrong only for strided inputs": (op(np.square, lambda g, y, a: g * 2.0 * (
        a if a.data.flags.c_contiguous else ops.absolute(a))), [STRIDED]),
    "reads a Fortran input in memory order": (op(np.square, lambda g, y, a: g * 2.0 * fixed(
        a.data.ravel(order="K").reshape(a.shape))), [np.asfortranarray(A)]),
    "wrong only for a strided gradient": (op(np.square, lambda g, y, a: g * a * (
        2.0 if g.data.flags.c_contiguous else 2.02)), [A]),
    "wrong dtype": (op(np.square, lambda g, y, a: Tensor((g.data * 2 * a.data).astype(np.float32))), [A]),
    # right at first order, wrong at second
    "values used for the output": (op(np.tanh, lambda g, y, a: g * fixed(1 - y.data ** 2)), [A]),
    "values used for the other input": (op(np.multiply, lambda g, y, a, b: g * fixed(b.data), at_b), [A, B]),
    "values used for the gradient": (op(np.square, lambda g, y, a: fixed(g.data) * a * 2.0), [A]),
    "one factor of two a constant": (op(lambda a: a ** 3, lambda g, y, a: g * 3.0 * a * fixed(a.data)), [A]),
    "a wrong rule inside a rule": (op(np.tanh, lambda g, y, a: g * (1.0 - bent_square(y))), [A]),
}

# ---- convolutions, weight normalisation, PReLU -------------------------------------------------------------------

BIG, SMALL = rng.standard_normal((3, 2, 5, 5)), rng.standard_normal((3, 2, 3, 3))
BANK, ROUTES = rng.standard_normal((3, 2, 2, 3, 3)), np.array([0, 2, 0])
S, P = (2, 2), (1, 1)


def conv_back(g, w, *, stride=S, padding=P, routes=ROUTES, size=(5, 5)):
    return Tensor(reference.conv_transpose(g.data, w, stride, padding, routes, size))


def conv_weight_back(big, g, *, routes=ROUTES):
    return reference.conv_weight(big.data, g.data, (3, 3), S, P, routes, 3)


def conv_with(rule: Callable, weight_rule: Callable | None = None) -> Callable:
    honest = (lambda g, y, x, w: Tensor(conv_weight_back(x, g))) if weight_rule is None else weight_rule
    return op(lambda x, w: reference.conv(x, w, S, P, ROUTES), rule, honest)


def honest_dx(g, y, x, w):
    return conv_back(g, w.data)


def one_tap_less(w: np.ndarray) -> np.ndarray:
    w = w.copy()
    w[..., 0, 2] = 0
    return w


def filled(array: np.ndarray, index: int, value: float) -> np.ndarray:
    array[index] = value
    return array


PLANTED |= {
    "convolution with the flipped kernel": (conv_with(lambda g, y, x, w: conv_back(g, w.data[..., ::-1, ::-1])),
                                            [BIG, BANK]),
    "stride of 1 on the way back": (conv_with(lambda g, y, x, w: conv_back(g, w.data, stride=(1, 1))), [BIG, BANK]),
    "padding of one axis": (conv_with(lambda g, y, x, w: conv_back(g, w.data, padding=(1, 0))), [BIG, BANK]),
    "stride and padding swapped": (conv_with(lambda g, y, x, w: conv_back(g, w.data, stride=P, padding=S)),
                                   [BIG, BANK]),
    "a tap missing": (conv_with(lambda g, y, x, w: conv_back(g, one_tap_less(w.data))), [BIG, BANK]),
    "routes off by one": (conv_with(lambda g, y, x, w: conv_back(g, w.data, routes=(ROUTES + 1) % 3)), [BIG, BANK]),
    "weight gradient to the next set": (conv_with(honest_dx, lambda g, y, x, w: Tensor(
        conv_weight_back(x, g, routes=(ROUTES + 1) % 3))), [BIG, BANK]),
    "an unused set receives something": (conv_with(honest_dx, lambda g, y, x, w: Tensor(
        filled(conv_weight_back(x, g), 1, 1e-3))), [BIG, BANK]),
    "one sample's weight gradient lost": (conv_with(honest_dx, lambda g, y, x, w: Tensor(conv_weight_back(
        x, cut(g, 1)))), [BIG, BANK]),
}

SCALE, EPS = 0.25, 0.1


def normalized(rule: Callable) -> Callable:
    return op(lambda w: reference.normalize(w, 2, SCALE, EPS)[0], rule)


def norm_back(g: Tensor, w: Tensor, *, scale: float = SCALE, eps: float = EPS, outside: float = 0.0) -> Tensor:
    """(g - scale (w . g) w / n^2) / n per filter, with an error to choose."""
    n = ops.sqrt((w * w).sum((1, 3, 4), keepdims=True) * SCALE + eps) + outside
    return (g - (w * g).sum((1, 3, 4), keepdims=True) * w * scale / (n * n)) / n


X, SLOPE, SHIFT = (rng.permutation(24) - 11.5).reshape(2, 3, 2, 2) * 0.3, np.array([0.2, 0.5, 0.7]), \
    np.array([0.01, -0.3, 0.3])


def tprelu_with(slope_rule: Callable, shift_rule: Callable | None) -> Callable:
    return op(reference.tprelu, lambda g, y, x, a, t: Tensor(reference.tprelu_dx(g.data, x.data, a.data, t.data)),
              slope_rule, shift_rule)


def per_channel(t: Tensor) -> np.ndarray:
    return t.data.reshape(1, -1, 1, 1)


def honest_slope(g, y, x, a, t):
    return Tensor(reference.tprelu_dslope(g.data, x.data, t.data))


def honest_shift(g, y, x, a, t):
    return Tensor((1 - a.data) * reference.tprelu_below(g.data, x.data, t.data))


PLANTED |= {
    "weight norm without the scale factor": (normalized(lambda g, y, w: norm_back(g, w, scale=1.0)), [BANK]),
    "weight norm with eps outside the root": (normalized(lambda g, y, w: norm_back(g, w, eps=0.0, outside=EPS)),
                                              [BANK]),
    "weight norm with a constant norm": (normalized(lambda g, y, w: norm_back(g, w, scale=0.0)), [BANK]),
    "weight norm over the other channels": (normalized(lambda g, y, w: norm_back(
        g.transpose(0, 2, 1, 3, 4), w.transpose(0, 2, 1, 3, 4)).transpose(0, 2, 1, 3, 4)), [BANK]),
    "slope gradient with its mask flipped": (tprelu_with(lambda g, y, x, a, t: Tensor((g.data * (
        x.data - per_channel(t)) * (x.data > per_channel(t))).sum((0, 2, 3))), honest_shift), [X, SLOPE, SHIFT]),
    "slope gradient without the shift": (tprelu_with(lambda g, y, x, a, t: Tensor((g.data * x.data * (
        x.data <= per_channel(t))).sum((0, 2, 3))), honest_shift), [X, SLOPE, SHIFT]),
    "shift gradient forgotten": (tprelu_with(honest_slope, None), [X, SLOPE, SHIFT]),
    "shift gradient without 1 - a": (tprelu_with(honest_slope, lambda g, y, x, a, t: Tensor(
        reference.tprelu_below(g.data, x.data, t.data))), [X, SLOPE, SHIFT]),
}

# ---- correct ones: no alarm wanted -------------------------------------------------------------------------------

CONTROLS = {
    "tanh": (op(np.tanh, right_tanh), [A]),
    "multiply": (op(np.multiply, dmultiply, at_b), [A, B]),
    "multiply, broadcast": (op(np.multiply, dmultiply, at_b), [A[0], B]),
    "tiny": (lambda a: ops.tanh(a) * 1e-7, [A]),
    "huge": (lambda a: ops.tanh(a) * 1e7, [A]),
    "offset": (lambda a: ops.tanh(a) + 1e4, [A]),
    "strided": (ops.exp, [STRIDED]),
    "Fortran": (lambda a: a * ops.sin(a), [np.asfortranarray(A)]),
    "a hundred entries": (lambda a: ops.log_softmax(a * 3.0), [MANY]),
    "matmul": (ops.matmul, [A, B]),
    "division": (ops.divide, [A, POSITIVE]),
    "root and power": (lambda a: ops.sqrt(a) * a ** -1.5, [POSITIVE]),
    "softplus and sigmoid": (lambda a: ops.softplus(a) - ops.sigmoid(a * 2.0), [A]),
    "away from kinks": (lambda a: ops.absolute(a) + ops.relu(a) + a.clip(-1.2, 1.1), [APART]),
    "indexing": (lambda a: a[[0, 2, 0]] * a[:, ::-1], [A]),
    "tie of a tensor with itself": (lambda a: ops.maximum(a, a), [A]),
    "a number": (lambda a: ops.exp(a), [np.array(0.7)]),
    "nothing": (lambda a: ops.exp(a), [np.zeros((0, 3))]),
    "does not depend on its input": (lambda a: a * 0.0, [A]),
    "conv2d": (lambda x, w: conv2d(x, w, stride=2, padding=1, routes=ROUTES), [BIG, BANK]),
    "conv_transpose2d": (lambda x, w: conv_transpose2d(x, w, stride=2, padding=1, routes=ROUTES), [SMALL, BANK]),
    "conv2d_weight": (lambda b, s: conv2d_weight(b, s, kernel=3, stride=2, padding=1, routes=ROUTES, bank=3),
                      [BIG, SMALL]),
    "weight norm": (lambda w: weight_norm(w, out_axis=2, scale=SCALE, eps=EPS), [BANK]),
    "translated PReLU": (tprelu, [X, SLOPE, SHIFT]),
    "gather": (lambda v: gather_sets(v, ROUTES), [A]),
    "resize": (lambda x: resize_bilinear(x, (3, 7)), [BIG]),
}
