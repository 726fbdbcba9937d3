"""One table of every primitive: how to call it, on which shapes, and what plain NumPy makes of the same arrays.

test_ops.py runs every check on every row; test_gradcheck.py plants wrong rules and expects these rows to notice.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import tinygan
from tinygan import Tensor, ops
from tinygan.engine.tensor import PRIMITIVES
from tinygan.kernels import reference
from tinygan.kernels.cpu import CpuKernels
from tinygan.kernels.geometry import interpolation_matrix
from tinygan.ops.routes import Route

for module in pkgutil.walk_packages(tinygan.__path__, "tinygan."):
    importlib.import_module(module.name)  # so that PRIMITIVES holds the whole package's

OURS = sorted(name for name, op in PRIMITIVES.items() if op.__wrapped__.__module__.startswith("tinygan."))


@dataclass(frozen=True)
class Case:
    """One row: `op(*tensors, **options)` for inputs of these shapes; `plain` takes arrays.

    kinds, one per input: normal, positive (0.5 to 2), unit (0.1 to 0.9) or grid: multiples of 0.37, shifted by
    another amount for every input, so that no value is near 0 and no two inputs are nearly equal.
    exact: the result does not depend on the memory order of the inputs, bit for bit. Sums and matrix products do:
    they add in the order in which the numbers lie. So do exp and its kind: NumPy has two codes for them, one for
    neighbouring numbers, and their last bits may differ.
    """

    op: str
    label: str
    shapes: tuple
    plain: Callable
    kinds: tuple = ()
    options: dict = field(default_factory=dict)
    exact: bool = True
    call: Callable | None = None

    def __call__(self, *tensors: Tensor) -> Tensor:
        call = self.call or PRIMITIVES[self.op]
        options = dict(self.options)
        if options.get("routes") is not None:  # a kernel takes the integers, an operation a Route
            options["routes"] = Route(options["routes"], options.get("bank", len(tensors[-1])))
        return call(*tensors, **options)

    def inputs(self, seed: int = 0, dtype: type = np.float64) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        kinds = self.kinds or ("normal",) * len(self.shapes)
        return [draw(rng, shape, kind, i).astype(dtype)
                for i, (shape, kind) in enumerate(zip(self.shapes, kinds, strict=True))]

    def __str__(self) -> str:
        return f"{self.op}-{self.label}"


def draw(rng: np.random.Generator, shape: tuple, kind: str, place: int) -> np.ndarray:
    if kind == "grid":
        count = int(np.prod(shape))
        return (0.37 * (rng.permutation(count) - count // 2 + 0.25 + 0.3 * place)).reshape(shape)
    low, high = {"positive": (0.5, 2.0), "unit": (0.1, 0.9), "normal": (0, 0)}[kind]
    return np.asarray(rng.standard_normal(shape) if kind == "normal" else rng.uniform(low, high, shape))


CASES: list[Case] = []


def case(op: str, label: str, shapes: tuple, plain: Callable, kinds: str = "", *, exact: bool = True,
         call: Callable | None = None, **options) -> None:
    CASES.append(Case(op, label, shapes, plain, tuple(kinds.split()), options, exact, call))


# ---- elementwise -------------------------------------------------------------------------------------------------

ONE = {"plain": (3, 4), "size 1": (1, 3, 1), "0-d": (), "empty": (0, 3)}
TWO = {"plain": ((3, 4), (3, 4)), "broadcast": ((3, 1, 4), (2, 1)), "size 1": ((1, 1), (3, 1)), "0-d": ((), ()),
       "with 0-d": ((3, 2), ()), "empty": ((0, 3), (3,))}

for op, plain, kind in (("negative", np.negative, "normal"), ("exp", np.exp, "normal"), ("log", np.log, "positive"),
                        ("sqrt", np.sqrt, "positive"), ("sin", np.sin, "normal"), ("cos", np.cos, "normal"),
                        ("tanh", np.tanh, "normal"), ("absolute", np.abs, "grid"),
                        ("sigmoid", lambda a: 1 / (1 + np.exp(-a)), "normal"),
                        ("softplus", lambda a: np.log(1 + np.exp(a)), "normal")):
    for label, shape in ONE.items():
        case(op, label, (shape,), plain, kind, exact=op in ("negative", "sqrt", "absolute"))
for op, plain, kinds in (("add", np.add, "normal normal"), ("subtract", np.subtract, "normal normal"),
                         ("multiply", np.multiply, "normal normal"), ("divide", np.divide, "normal positive"),
                         ("maximum", np.maximum, "grid grid"), ("minimum", np.minimum, "grid grid"),
                         ("tensor_power", np.power, "positive normal")):
    for label, shapes in TWO.items():
        case(op, label, shapes, plain, kinds, exact=op != "tensor_power")
for op, plain in (("copy", lambda a: a), ("astype", lambda a, dtype: a)):
    for label, shape in ONE.items():
        case(op, label, (shape,), plain, **({"dtype": np.float64} if op == "astype" else {}))
for exponent in (0, 1, 2, 3):
    case("power", f"{exponent}", ((3, 4),), lambda a, exponent: a ** exponent, exact=False,
         exponent=exponent)
for exponent in (-2, -1, 0.5, 2.5):
    for label, shape in ONE.items():
        case("power", f"{exponent} {label}", (shape,), lambda a, exponent: a ** exponent, "positive", exact=False,
             exponent=exponent)
for label, shapes, condition in (
        ("plain", ((2, 3), (2, 3)), np.array([[True, False, True], [False, False, True]])),
        ("broadcast", ((3,), (2, 1)), np.array([[True], [False]])), ("0-d", ((), ()), np.array(True)),
        ("condition larger", ((3,), ()), np.arange(12).reshape(2, 2, 3) % 5 > 1),
        ("empty", ((0, 3), (3,)), np.zeros((0, 3), bool))):
    case("where", label, shapes, lambda a, b, condition: np.where(condition, a, b), condition=condition)

# ---- shape -------------------------------------------------------------------------------------------------------


def plain_sum_to(a: np.ndarray, shape: tuple) -> np.ndarray:
    a = a.sum(axis=tuple(range(a.ndim - len(shape))))
    return a.sum(axis=tuple(i for i, n in enumerate(shape) if n != a.shape[i]), keepdims=True)


for old, new in (((2, 3, 4), (3, 1)), ((3, 4), (3, 4)), ((2, 3), ()), ((), ()), ((0, 3), (1, 3)), ((1, 3), (1, 1))):
    case("sum_to", f"{old} to {new}", (old,), plain_sum_to, shape=new, exact=old == new)
for old, new in (((3, 1), (2, 3, 4)), ((), (2, 3)), ((), ()), ((1,), (0,)), ((1, 3), (1, 3))):
    case("broadcast_to", f"{old} to {new}", (old,), np.broadcast_to, shape=new)
for old, new in (((2, 6), (3, 4)), ((2, 3), (-1,)), ((), (1, 1)), ((1, 1), ()), ((0, 3), (3, 0)), ((2, 3), (2, 1, 3))):
    case("reshape", f"{old} to {new}", (old,), lambda a, shape: a.reshape(shape), shape=new)
for old, axes in (((2, 3, 4), (2, 0, 1)), ((2, 3, 4), (-1, 0, -2)), ((), ()), ((0, 3), (1, 0)), ((1, 3, 1), (1, 2, 0))):
    case("permute", f"{old} {axes}", (old,), np.transpose, axes=axes)


def plain_put(a: np.ndarray, index, shape: tuple) -> np.ndarray:
    out = np.zeros(shape)
    np.add.at(out, index, a)
    return out


INDICES = {"row": ((3, 4), 1), "last": ((3, 4), -1), "reversed": ((3, 4), (slice(None), slice(None, None, -1))),
           "none of it": ((3, 4), slice(0, 0)), "steps": ((3, 5), (slice(None, None, 2), slice(4, 0, -2))),
           "new axis": ((3,), (None, slice(1, 3))), "dots": ((2, 3, 4), (..., 1)), "number": ((3, 4), (2, 1)),
           "0-d": ((), ()), "list twice": ((3, 4), [0, 2, 0]), "rows twice": ((3, 4), (np.array([1, 1, 0]),)),
           "pairs": ((3, 4), (np.array([0, 2, 2]), np.array([3, 1, 1]))),
           "bools": ((3, 4), np.arange(12).reshape(3, 4) % 3 > 0),
           "mixed": ((3, 4), (slice(1, None), np.array([3, 3]))), "empty": ((0, 3), (slice(None), 1)),
           "size 1": ((1, 3, 1), (0, slice(None), 0)), "numpy int": ((3, 4), np.int64(2))}
for label, (shape, index) in INDICES.items():
    case("getitem", label, (shape,), lambda a, index: a[index], index=index)
    case("put", label, (np.zeros(shape)[index].shape,), plain_put, index=index, shape=shape)

for shapes, axis in ((((2, 3),), 0), (((2, 3), (2, 1)), 1), (((1, 2), (3, 2), (2, 2)), -2), (((0, 2), (2, 2)), 0),
                     (((0, 3), (0, 3)), 1)):
    case("concatenate", f"{shapes} {axis}", shapes, lambda *a, axis: np.concatenate(a, axis),
         call=lambda *t, axis: ops.concatenate(t, axis), axis=axis)

# ---- products ----------------------------------------------------------------------------------------------------

for a, b in (((2, 3), (3, 4)), ((2, 1, 2, 3), (2, 3, 2)), ((1, 1), (1, 1)), ((4, 2, 3), (3, 1)), ((0, 3), (3, 2)),
             ((2, 0), (0, 3))):
    case("matmul", f"{a} {b}", (a, b), np.matmul, exact=False)

ROUTED = {"stride": (2, 2), "padding": (1, 1), "routes": np.array([2, 0, 2])}  # set 1 of 3 is not used
UNEVEN = {"stride": (1, 2), "padding": (0, 1), "routes": None}
EMPTY = {"stride": (1, 1), "padding": (0, 0), "routes": None}
for label, n, bank, a, b, kernel, big, small, same in (
        ("routed", 3, 3, 2, 3, (4, 4), (5, 4), (2, 2), ROUTED), ("uneven", 2, 1, 3, 2, (2, 3), (3, 6), (2, 3), UNEVEN),
        ("size 1", 1, 1, 1, 1, (1, 1), (1, 1), (1, 1), EMPTY), ("empty", 0, 1, 2, 3, (2, 2), (3, 3), (2, 2), EMPTY)):
    weight = (bank, a, b, *kernel)
    case("conv", label, ((n, b, *big), weight), reference.conv, exact=False, **same)
    case("conv_transpose", label, ((n, a, *small), weight), reference.conv_transpose, exact=False, output_size=big,
         **same)
    case("conv_weight", label, ((n, b, *big), (n, a, *small)), reference.conv_weight, exact=False, kernel=kernel,
         bank=bank, **same)

for label, n, a, b, kernel, size, padding in (
        ("many channels", 1, 3, 5, (3, 3), (5, 3), 1), ("few channels", 2, 3, 2, (3, 3), (3, 2), 1),
        ("another kernel", 1, 2, 2, (2, 3), (3, 4), 0), ("size 1", 1, 1, 1, (3, 3), (1, 1), 1),
        ("empty", 0, 2, 5, (3, 3), (3, 3), 1)):
    h, w = (m + 2 * padding - k + 1 for m, k in zip(size, kernel, strict=True))
    case("conv_relu", label, ((n, b, *size), (a, b, *kernel), (a,)), reference.conv_relu, exact=False, padding=padding)
    case("conv_relu_dx", label, ((n, a, h, w), (a, b, *kernel)),
         lambda g, weight, y, padding: reference.conv_relu_dx(g, y, weight, padding), exact=False,
         y=np.random.default_rng(5).standard_normal((n, a, h, w)).clip(0), padding=padding)

# ---- pooling, weight normalisation, PReLU ------------------------------------------------------------------------


for label, shape, small, size, stride in (
        ("plain", (2, 2, 4, 4), (2, 2), 2, 2), ("overlap", (1, 2, 5, 5), (3, 3), 3, 1),
        ("size 1", (1, 1, 1, 1), (1, 1), 1, 1), ("empty", (0, 2, 4, 4), (2, 2), 2, 2)):
    which = np.random.default_rng(3).integers(0, size * size, (*shape[:2], *small)).astype(np.int32)
    case("pool_take", label, (shape,), reference.pool_take, which=which, size=size, stride=stride)
    case("pool_put", label, (which.shape,), reference.pool_put, which=which, size=size, stride=stride, shape=shape)

for label, shape, size in (("plain", (2, 2, 2, 3), 2), ("size 1", (1, 1, 1, 1), 1), ("empty", (0, 2, 2, 2), 3)):
    n, c, h, w = shape
    case("mean_pool", label, ((n, c, h * size, w * size),), reference.mean_pool, exact=False, size=size)
    case("mean_unpool", label, (shape,), reference.mean_unpool, size=size)

for label, shape, size, antialias in (("larger", (2, 2, 3, 2), (5, 5), False), ("smaller", (1, 2, 5, 6), (2, 3), True),
                                      ("size 1", (1, 1, 1, 1), (1, 1), False), ("empty", (0, 1, 3, 3), (2, 2), True)):
    matrices = [interpolation_matrix(a, b, antialias) for a, b in zip(shape[2:], size, strict=True)]
    case("resize", label, (shape,), reference.resize, exact=False, rows=matrices[0], columns=matrices[1])

TURNED = np.array([[[0.8, -0.45, 1.1], [0.5, 0.85, -0.7]], [[-0.6, 0.9, 1.3], [0.9, 0.35, -0.4]],
                   [[0.3, 0.1, 0.2], [-0.1, 0.4, 0.9]]])
for label, shape, size, pick in (
        ("plain", (2, 2, 4, 3), (3, 4), [0, 1, 0]), ("unseen", (3, 1, 2, 3), (2, 2), [2, 2, 2]),
        ("size 1", (1, 1, 1, 1), (1, 1), [0, 0, 0]), ("empty", (2, 2, 3, 3), (2, 2), [])):
    same = {"matrices": TURNED[:len(pick)], "sources": np.array(pick, np.int64)}
    case("warp", label, (shape,), reference.warp, size=size, **same)
    case("warp_back", label, ((len(pick), shape[1], *size),), reference.warp_back, exact=False, shape=shape, **same)


def plain_blur(a: np.ndarray) -> np.ndarray:
    padded = np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    h, w = a.shape[2:]
    return sum((0.25, 0.5, 0.25)[i] * (0.25, 0.5, 0.25)[j] * padded[:, :, i:i + h, j:j + w]
               for i in range(3) for j in range(3))


for label, shape in (("plain", (2, 2, 4, 3)), ("size 1", (1, 1, 1, 1)), ("one row", (1, 2, 1, 3)),
                     ("empty", (0, 1, 2, 2))):
    case("blur", label, (shape,), plain_blur)


def norms_first(kernels):
    """normalize_dx with its norms computed from w, as weight_norm does."""
    def dx(g, w, out_axis, scale, eps, rows):
        return kernels.normalize_dx(g, w, kernels.filter_norms(w, out_axis, scale, eps, rows), out_axis, scale, rows)
    return dx


def call_dx(g: Tensor, w: Tensor, *, out_axis: int, scale: float, eps: float, rows) -> Tensor:
    norms = CpuKernels.filter_norms(w.data, out_axis, scale, eps, rows)
    return PRIMITIVES["weight_norm_dx"](g, w, norms=norms, out_axis=out_axis, scale=scale, eps=eps, rows=rows)


for label, shape, rest in (
        ("conv", (2, 3, 2, 2, 2), {"out_axis": 1, "scale": 1.0, "rows": None}),
        ("transposed", (2, 2, 3, 2, 2), {"out_axis": 2, "scale": 0.25, "rows": None}),
        ("unused set", (3, 2, 2, 2, 1), {"out_axis": 2, "scale": 0.25, "rows": np.array([True, False, True])}),
        ("size 1", (1, 1, 1, 1, 1), {"out_axis": 1, "scale": 1.0, "rows": None})):
    case("weight_norm", label, (shape,), lambda w, **o: reference.normalize(w, **o)[0], exact=False, eps=0.1, **rest)
    case("weight_norm_dx", label, (shape, shape), norms_first(reference), exact=False, call=call_dx, eps=0.1, **rest)

def plain_logistic(x: np.ndarray, sign: float) -> np.ndarray:
    return np.asarray(reference.logistic_loss(x, sign) if x.size else 0.0)


for label, shape in (("plain", (4, 3)), ("size 1", (1,)), ("single", ())):
    for sign in (1.0, -1.0):
        case("logistic_loss", f"{label} {sign:+.0f}", (shape,), plain_logistic, exact=False, sign=sign)
        case("logistic_dx", f"{label} {sign:+.0f}", ((), shape), reference.logistic_back, exact=False, sign=sign)

for n, first in ((7, 3), (2, 1), (4, 0), (4, 4)):
    case("logistic_losses", f"{first} of {n}", ((n,),), lambda x, first: sum(
        plain_logistic(part, sign) for part, sign in ((x[:first], 1.0), (x[first:], -1.0))), exact=False, first=first)

for label, shape in (("plain", (2, 3, 2, 2)), ("no pixels", (4, 3)), ("size 1", (1, 1, 1, 1)), ("empty", (0, 3, 2, 2))):
    case("scale_shift", label, (shape, shape[1:2], shape[1:2]), reference.affine)

for routes, shape in (([1, 0, 1, 1], (3, 2)), ([0], (1, 1)), ([], (2, 3))):
    case("gather_sets", f"{routes}", (shape,), lambda a, routes: a[routes], routes=np.array(routes, int))

dslope, below = reference.tprelu_dslope, reference.tprelu_below
for label, shape in (("plain", (2, 3, 2, 2)), ("no pixels", (4, 3)), ("size 1", (1, 1, 1, 1)), ("empty", (0, 3, 2, 2))):
    c = shape[1:2]
    case("tprelu", label, (shape, c, c), reference.tprelu, "grid unit grid", exact=False)
    case("tprelu", f"{label}, no shift", (shape, c), lambda x, a: reference.tprelu(x, a, None), "grid unit")
    case("tprelu_dx", label, (shape, shape, c, c), reference.tprelu_dx, "normal grid unit grid")
    case("tprelu_dx", f"{label}, no shift", (shape, shape, c), lambda g, x, a: reference.tprelu_dx(g, x, a, None),
         "normal grid unit")
    case("tprelu_dslope", label, (shape, shape, c), dslope, "normal grid grid", exact=False)
    case("tprelu_dslope", f"{label}, no shift", (shape, shape), lambda g, x: dslope(g, x, None), "normal grid",
         exact=False)
    case("tprelu_masked_sum", label, (shape, shape, c), below, "normal grid grid",
         exact=False)
    case("tprelu_masked_sum", f"{label}, no shift", (shape, shape), lambda g, x: below(g, x, None), "normal grid",
         exact=False)
