"""`check_grads`: compares gradients with finite differences, and names the one that is wrong and its error.

The idea: for a function y = f(x), a random *cotangent* u (a weight for each entry of y) and a random *direction* d
(a step for each entry of the inputs), the number

    <u, f(x + h d) - f(x - h d)> / 2h      must equal      <vjp(u), d>.

One such number depends on every entry of the gradient. Both must be random: a cotangent of ones cannot tell a
gradient from its mirror image or its average, and one probed entry misses an error in the others. The second order
is checked by applying the same test to the gradient itself, as a function of the inputs and of the cotangent.

At a kink (|x| at 0) there is no derivative to compare with. It is recognised by comparing two step sizes and the two
one-sided differences, and reported as a warning rather than as a wrong rule, so keep inputs away from kinks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygan.engine.tensor import Tensor, _ancestors, describe, grad
from tinygan.errors import TinyganError
from tinygan.kernels.arguments import strided_like


class GradientError(TinyganError):
    """A gradient disagrees with finite differences."""


class KinkWarning(UserWarning):
    """The function has no derivative near this input, so nothing could be checked there."""


class _Probe(Tensor):
    """A tensor that records in `read` whether its values were read; its shape and dtype do not count."""

    __slots__ = ("read",)
    shape, ndim, dtype = (property(lambda self, name=name: getattr(Tensor.data.__get__(self), name))
                          for name in ("shape", "ndim", "dtype"))

    @property
    def data(self) -> Any:
        self.read = True
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, array: Any) -> None:
        Tensor.data.__set__(self, array)
        self.read = False


def check_grads(function: Callable[..., Tensor], inputs: Sequence[Any], order: int = 2, *, module: Any = None,
                draws: int = 2, step: float = 1e-5, tolerance: float = 1e-6, seed: int = 0,
                name: str | None = None) -> float:
    """Check every gradient of `function(*tensors)` up to `order`; return the worst relative error.

    inputs: a list of arrays or tensors; they are copied to float64 with their strides, so a strided or
        Fortran-ordered input is checked as such. The function must not draw random numbers.
    order: 1 for the gradients, 2 for the gradients of these as well, and so on.
    module: a module that the function calls: the gradients of its parameters are checked as well, in float64. Where
        the function is itself a module, it is that one: check_grads(net, [x]). seed: of the random numbers. name: of
        the function, for messages.
    draws: random (cotangent, direction) pairs per input. step: h of the central difference; two steps, h and h / 4,
        are combined (Richardson) so that its h^2 error cancels. tolerance: largest allowed |numeric - analytic|
        relative to the gradient's size, so that a small gradient (down to `step`) is checked as sharply as a
        large one. What rounding leaves is near 1e-10 for functions of moderate size, wrong rules are off by 1e-3
        and more.
    Raises GradientError naming the op, the order, the input and the worst error; TinyganError when the function
    returns something other than a float64 Tensor, not the same twice, or never reads one of its inputs (nothing about
    that one would be checked). Warns (KinkWarning) at a kink.
    The test is our choice; its design (directional derivative, random cotangent) is that of HIPS/autograd and JAX.
    """
    if module is None and hasattr(function, "named_parameters"):
        module, name = function, name or type(function).__name__
    name = name or getattr(function, "__name__", None) or str(function)
    if isinstance(inputs, (Tensor, np.ndarray)):
        raise TinyganError(f"check_grads: the inputs of {name} are a list: write check_grads(f, [x])")
    arrays, labels = [_as_float64(x) for x in inputs], [f"input {i}" for i in range(len(inputs))]
    named = [] if module is None else list(module.named_parameters())
    kept = [(p, p.data, p.grad, p.requires_grad, p.version, p.name) for _, p in named]
    if named:
        function = _of_parameters(function, [p for _, p in named], len(arrays))
        arrays += [_as_float64(p) for _, p in named]
        labels += [f"parameter {key}" for key, _ in named]
    try:
        probes = [_Probe(a, requires_grad=True) for a in arrays]
        first = function(*probes)
        if not isinstance(first, Tensor) or first.dtype != np.float64:
            raise TinyganError(f"check_grads: {name} must return a float64 Tensor, got {describe(first)}")
        used = {id(t) for t in _ancestors(first)}
        second = function(*[Tensor(a) for a in arrays])
        if not np.array_equal(first.data, second.data, equal_nan=True):
            raise TinyganError(f"check_grads: {name} gives different values for the same input; fix its random numbers")
        if not np.isfinite(first.data).all():
            raise TinyganError(f"check_grads: {name} is not finite at the inputs given")
        if unread := [label for label, t in zip(labels, probes, strict=True) if not t.read and id(t) not in used]:
            raise TinyganError(f"check_grads: {name} never reads {', '.join(unread)}, or no gradient leads there, so "
                               "nothing would be checked: compute with it, or leave it out")
        settings = _Settings(order, draws, step, tolerance, np.random.default_rng(seed))
        return _check(function, arrays, labels, name, settings)
    finally:
        for p, data, gradient, learned, version, label in kept:
            p._set(data, learned)
            p.grad, p.version, p.name = gradient, version, label


def _of_parameters(function: Callable[..., Tensor], parameters: list, count: int) -> Callable[..., Tensor]:
    """Make a function of `count` inputs one of these inputs and of the values of these parameters."""
    def whole(*tensors: Tensor) -> Tensor:
        for p, t in zip(parameters, tensors[count:], strict=True):
            # The parameter becomes the result of an operation that copies t, so its gradient is passed on to t.
            edges = ((t, 0, t.version),) if t.requires_grad else ()
            p._set(Tensor.data.__get__(t), t.requires_grad, edges, (lambda g, y: g,), "parameter")
        return function(*tensors[:count])

    return whole


class _Settings(NamedTuple):
    """The options of one call of `check_grads`, and its random numbers."""

    order: int
    draws: int
    step: float
    tolerance: float
    rng: np.random.Generator


def _check(function: Callable, arrays: list, labels: list[str], name: str, s: _Settings, level: int = 1) -> float:
    """Check the gradients of a function, then the gradients of these gradients; return the worst relative error."""
    worst, shape = 0.0, function(*[Tensor(a) for a in arrays]).shape
    for draw in range(s.draws):
        cotangent = s.rng.standard_normal(shape)
        if draw % 2:
            cotangent = np.flip(cotangent)  # negative strides: a rule must not depend on the memory order of g
        tensors = [Tensor(a, requires_grad=True, name=label) for a, label in zip(arrays, labels, strict=True)]
        # Recorded in every second draw: a kernel may compute the gradients where nothing is recorded (tensor.Rules).
        gradients = grad(function(*tensors), tensors, create_graph=bool(draw % 2), seed=Tensor(cotangent))
        for i, g in enumerate(gradients):
            place = f"{name}: the order-{level} gradient of {labels[i]} {arrays[i].shape}"
            if g.shape != arrays[i].shape:
                raise GradientError(f"{place} has another shape, {g.shape}")
            if g.size:
                worst = max(worst, _compare(function, arrays, i, g.numpy(), cotangent, place, s))
    for i, label in enumerate(labels if s.order > level else ()):
        # The gradient for input i, as a function of all inputs and of the cotangent: checked like any other.
        def gradient_i(*tensors: Tensor, i: int = i) -> Tensor:
            *xs, cot = [t if t.requires_grad else Tensor(t.data, requires_grad=True) for t in tensors]
            return grad(function(*xs), [xs[i]], create_graph=True, seed=cot)[0]

        worst = max(worst, _check(gradient_i, [*arrays, s.rng.standard_normal(shape)], [*labels, "the cotangent"],
                                  f"{name} (gradient of {label})", s, level + 1))
    return worst


def _compare(function: Callable, arrays: list, i: int, gradient: np.ndarray, cotangent: np.ndarray, place: str,
             s: _Settings) -> float:
    """Compare the gradient of input i along one random direction; return its relative error."""
    direction = s.rng.standard_normal(arrays[i].shape)
    direction /= np.linalg.norm(direction)

    def along(h: float) -> np.ndarray:
        moved = strided_like(arrays[i], arrays[i] + h * direction)
        return function(*[Tensor(moved if j == i else a) for j, a in enumerate(arrays)]).data * cotangent

    step, tolerance = s.step, s.tolerance
    here, ahead, behind, near_ahead, near_behind = (
        float(along(h).sum()) for h in (0.0, step, -step, step / 4, -step / 4))
    wide, narrow = (ahead - behind) / (2 * step), (near_ahead - near_behind) / (step / 2)
    numeric, doubt = (16 * narrow - wide) / 15, abs(narrow - wide)
    analytic = float((gradient * direction).sum())
    # What an error is measured by: the product itself. It may be near 0 by chance, so also by what it usually is,
    # |gradient| / sqrt(n); never by less than the step, over which a gradient changes by about as much; nor by
    # less than what the rounding of the function's values (some 1e-14 of them) makes of a difference.
    rounding = 1e-14 * np.linalg.norm(along(0.0)) / step
    size = max(abs(numeric), abs(analytic), np.linalg.norm(gradient) / gradient.size ** 0.5, rounding / tolerance, step)
    error = abs(numeric - analytic) / size
    # Left and right slopes differ by h f'' for a smooth function, so a quarter of the step leaves a quarter; at a
    # kink the difference stays. A kink beside the input instead makes the two central differences disagree.
    bend, near_bend = abs(ahead - 2 * here + behind) / step, abs(near_ahead - 2 * here + near_behind) / (step / 4)
    at_kink = bend > tolerance * size and near_bend > bend / 2
    if at_kink or doubt > 1e-3 * size or tolerance < error <= doubt / size:
        warnings.warn(f"{place} is not checked in one direction: no derivative within {step:g} of the input (a kink)",
                      KinkWarning, stacklevel=4)
        return 0.0
    if not error <= tolerance:  # also true for NaN
        raise GradientError(f"{place} is wrong: analytic {analytic:.8g}, numeric {numeric:.8g}, relative error "
                            f"{error:.2g} > {tolerance:g}")
    return error


def _as_float64(x: Any) -> np.ndarray:
    """Copy values to a float64 array with the same strides, counted in entries."""
    array = x.numpy() if isinstance(x, Tensor) else np.asarray(x)
    return strided_like(array, array.astype(np.float64))
