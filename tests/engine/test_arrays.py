"""Tensors against NumPy: what may stand in an index or beside a tensor, and what a tensor does as an array.

    python -m pytest tests/engine/test_arrays.py -s -k fuzz     prints how many random expressions were compared
"""

import array
import copy
import operator
import pickle
import warnings

import numpy as np
import pytest

from tinygan import Tensor, check_grads, frozen, grad, ops
from tinygan.errors import GraphError, TinyganError
from tinygan.models.gpan.losses import background_loss, split_loss, wanted_loss
from tinygan.nn.layers import StochasticConvTranspose2d, normalized
from tinygan.nn.losses import cross_entropy
from tinygan.nn.module import Parameter, Sequential
from tinygan.ops import conv2d, conv2d_weight, conv_transpose2d, max_pool2d, mean_pool2d, resize_bilinear
from tinygan.ops.affine import warp
from tinygan.ops.fused import gather_sets, weight_norm

COUNT = 2000


def one_line(problem) -> str:
    message = str(problem.value)
    assert message and "\n" not in message and len(message) < 400
    return message


# ---- indices -----------------------------------------------------------------------------------------------------


def random_slice(rng, n):
    def bound():
        return None if rng.random() < 0.4 else rng.integers(-n - 2, n + 3)
    step = rng.choice([-2, -1, 1, 2, 3])
    return slice(bound(), bound(), None if rng.random() < 0.5 else step)


def random_numbers(rng, n, kinds):
    """Places along an axis of length n, some of them twice, as one of NumPy's or Python's sequences."""
    shape = [(int(rng.integers(0, 5)),), (2, int(rng.integers(1, 3)))][rng.random() < 0.25]
    if n == 0:
        shape = (0,)
    values = rng.integers(-n, n, shape) if n else np.zeros(shape, int)
    kind = rng.choice(kinds)
    if kind == "array":
        return np.asarray(values, rng.choice(["i1", "i2", ">i4", "i8", "<i8"]))
    if kind == "unsigned":
        return np.asarray(values % max(n, 1), rng.choice(["u1", "u8"]))
    if kind == "nested tuple":
        return tuple(map(tuple, values.tolist())) if values.ndim > 1 else tuple(values.tolist())
    if kind == "array.array":
        return array.array("q", values.ravel().tolist())
    if kind == "memoryview":
        return memoryview(np.ascontiguousarray(values))
    return values.tolist()


def random_part(rng, n):
    kind = rng.integers(0, 9)
    if kind < 2:
        return random_slice(rng, n)
    if kind == 2 and n:
        return rng.choice([int, np.int64, np.array, np.uint8])(rng.integers(0, n))
    if kind == 3 and n:
        return int(rng.integers(-n, n))
    if kind == 4:
        mask = rng.random(n) < 0.5
        return mask if rng.random() < 0.5 else mask.tolist()
    return random_numbers(rng, n, ["array", "unsigned", "list", "nested tuple", "array.array", "memoryview"])


def random_index(rng, shape):
    if rng.random() < 0.25 and shape:  # one object and no tuple
        if rng.random() < 0.3:
            return rng.random(shape) < 0.5
        return random_numbers(rng, shape[0], ["array", "list", "array.array", "memoryview"])
    parts = [random_part(rng, n) for n in shape[:rng.integers(0, len(shape) + 1)]]
    if rng.random() < 0.3:
        front = len(parts) if len(parts) < 2 else int(rng.integers(0, len(parts)))
        back = len(parts) - front  # these count from the end
        parts = parts[:front] + [...] + [random_part(rng, n) for n in (shape[len(shape) - back:] if back else ())]
    for extra, share in ((None, 0.2), (True, 0.08), (np.False_, 0.04)):
        if rng.random() < share:
            parts.insert(int(rng.integers(0, len(parts) + 1)), extra)
    return tuple(parts)


def test_fuzz_of_indices(capsys):
    """NumPy's value, and the gradient that central differences give (exactly: an index is linear)."""
    rng, compared, refused = np.random.default_rng(0), 0, 0
    while compared < COUNT:
        shape = tuple(rng.integers(0, 5, rng.integers(0, 4)))
        x, index = rng.standard_normal(shape), random_index(rng, shape)
        try:
            right = x[index]
        except (IndexError, ValueError, TypeError) as error:
            with pytest.raises(type(error)):
                Tensor(x)[index]
            refused += 1
            continue
        t = Tensor(x, requires_grad=True)
        y = t[index]
        assert np.array_equal(y.data, right), (shape, index)
        seed, direction = rng.standard_normal(right.shape), rng.standard_normal(shape)
        (g,) = grad(y, [t], seed=seed)
        numeric = (seed * (np.asarray((x + direction)[index]) - np.asarray((x - direction)[index]))).sum() / 2
        assert abs((g.data * direction).sum() - numeric) < 1e-11, (shape, index)
        compared += 1
    with capsys.disabled():
        print(f"\nindices: {compared} compared, 0 differ; {refused} more that NumPy refuses are refused with its error")
    assert refused < COUNT / 4


def test_an_index_of_tensors_or_text_is_refused():
    x = Tensor(np.ones((2, 3)))
    for bad in (Tensor([0.0]), "a", 1.5, [0.5], (slice(0, 1.5),), [[0], [0, 1]], {0}, np.array([1 + 0j])):
        with pytest.raises((IndexError, TypeError)) as problem:
            x[bad]
        one_line(problem)


# ---- elementwise -------------------------------------------------------------------------------------------------

UNARY = {"negative": (ops.negative, np.negative), "positive": (operator.pos, np.positive), "abs": (abs, np.abs),
         "exp": (ops.exp, np.exp), "sqrt": (ops.sqrt, np.sqrt), "log": (ops.log, np.log), "sin": (ops.sin, np.sin),
         "tanh": (ops.tanh, np.tanh), "square": (lambda a: a ** 2, lambda a: a ** 2),
         "clip": (lambda a: a.clip(0.75, np.uint8(1)), lambda a: a.clip(0.75, 1))}
BINARY = {"+": (operator.add, np.add), "-": (operator.sub, np.subtract), "*": (operator.mul, np.multiply),
          "/": (operator.truediv, np.divide), "**": (operator.pow, np.power), "maximum": (ops.maximum, np.maximum),
          "minimum": (ops.minimum, np.minimum),
          "where": (lambda a, b: ops.where(a < b, a, b), lambda a, b: np.where(a < b, a, b))}
COMPARISONS = {name: (getattr(operator, name),) * 2 for name in ("eq", "ne", "lt", "le", "gt", "ge")}
CLOSE = {np.float16: 4e-3, np.float32: 1e-6, np.float64: 1e-14}  # powers and functions may differ in their last bits


def random_values(rng, shape, dtype, signs):
    values = rng.uniform(0.3, 2.0, shape) * (rng.choice([-1, 1], shape) if signs else 1)
    a = np.asarray(values).astype(dtype)
    layout = rng.integers(0, 4)
    if layout == 1 and a.ndim:  # gaps
        a = np.repeat(a, 2, axis=0)[::2]
    elif layout == 2 and a.ndim:
        a = np.flip(a).copy()[(slice(None, None, -1),) * a.ndim]
    elif layout == 3:
        a = np.asfortranarray(a)
    return a


def random_operand(rng, shape, dtype, signs):
    """(what stands beside the tensor, the same as an array of the tensor's dtype)."""
    kind = rng.choice(["tensor", "array", "integers", "unsigned", "bools", "list", "number", "scalar", "big-endian"])
    values = random_values(rng, shape, dtype, signs)
    if kind == "tensor":
        return Tensor(values, requires_grad=True), values
    if kind in ("integers", "unsigned", "bools"):
        low = -3 if signs and kind == "integers" else 1
        types = {"integers": ["i1", ">i2", "i8"], "unsigned": ["u1", ">u2", "u8"], "bools": ["?"]}[kind]
        values = rng.integers(low, 4, shape).astype(rng.choice(types))
        return values, values.astype(dtype)
    if kind == "list":
        values = rng.integers(1, 4, shape)
        return values.tolist(), values.astype(dtype)
    if kind == "number":
        value = [int(rng.integers(1, 4)), float(rng.uniform(0.3, 2)), True][rng.integers(0, 3)]
        return value, np.asarray(value, dtype)
    if kind == "scalar":
        value = [np.uint8(rng.integers(1, 200)), np.int64(2), np.float64(0.7), np.float32(0.5), np.True_,
                 np.array(3, ">i4")][rng.integers(0, 6)]
        return value, np.asarray(value).astype(dtype)
    if kind == "big-endian":
        return values.astype(values.dtype.newbyteorder(">")), values
    return values, values


def test_fuzz_of_elementwise_calls(capsys):
    """NumPy's value for every dtype, sign, layout and operand; in float64 the gradient of central differences."""
    rng, checked = np.random.default_rng(1), 0
    table = [*UNARY.items(), *BINARY.items(), *BINARY.items(), *COMPARISONS.items()]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        for _ in range(COUNT):
            name, (call, plain) = table[rng.integers(len(table))]
            dtype = [np.float16, np.float32, np.float64, np.float64][rng.integers(4)]
            shape = tuple(rng.integers(0 if rng.random() < 0.1 else 1, 4, rng.integers(0, 4)))
            signs = name not in ("sqrt", "log") and rng.random() < 0.5
            x = random_values(rng, shape, dtype, signs)
            t = Tensor(x if rng.random() < 0.8 else x.astype(x.dtype.newbyteorder(">")), requires_grad=True)
            inputs, arrays = [t], [x]
            if name not in UNARY:
                other, values = random_operand(rng, tuple(1 if rng.random() < 0.3 else n for n in shape[rng.integers(
                    0, len(shape) + 1):]), dtype, signs)
                inputs, arrays = [t, other], [x, values]
                if rng.random() < 0.5:
                    inputs, arrays = inputs[::-1], arrays[::-1]
            right, y = plain(*arrays), call(*inputs)
            values = y if name in COMPARISONS else y.data
            assert values.dtype == right.dtype and values.shape == right.shape, (name, inputs)
            close = CLOSE[dtype] if name in ("**", "square", "exp", "log", "sin", "tanh", "sqrt") else 0
            np.testing.assert_allclose(values, right, rtol=close, atol=0, err_msg=f"{name} {inputs}")
            leaves = [i for i, a in enumerate(inputs) if isinstance(a, Tensor)]
            near = name in ("maximum", "minimum", "where", "clip") and (
                any((abs(np.subtract(*np.broadcast_arrays(*pair))) < 1e-3).any() for pair in (
                    [arrays] if len(arrays) == 2 else [(x, 0.75), (x, 1.0)])))
            undefined = not np.isfinite(right).all() or (name == "**" and (arrays[0] <= 0).any())
            if dtype != np.float64 or name in COMPARISONS or near or undefined:
                continue
            seed = rng.standard_normal(right.shape)
            for i, g in zip(leaves, grad(y, [inputs[i] for i in leaves], seed=seed), strict=True):
                d, h = rng.standard_normal(arrays[i].shape), 1e-5
                ahead, behind = (plain(*[a + s * h * d if j == i else a for j, a in enumerate(arrays)])
                                 for s in (1, -1))
                numeric, size = (seed * (ahead - behind)).sum() / (2 * h), np.sqrt((g.data ** 2).sum())
                assert abs((g.data * d).sum() - numeric) <= 1e-6 * (1 + size), (name, inputs)
                checked += 1
    with capsys.disabled():
        print(f"\nelementwise calls: {COUNT} compared, 0 differ; {checked} gradients against central differences")
    assert checked > COUNT / 4


def test_powers_at_and_below_zero():
    x = Tensor([2.0, 3.0], requires_grad=True)
    assert (0 ** x).data.tolist() == [0, 0] and ((-2.0) ** x).data.tolist() == [4, -8]
    assert (np.array([2.0, -3.0]) ** x).data.tolist() == [4, -27] and (x ** np.array([2, 3])).data.tolist() == [4, 27]
    zeros = Tensor([0.0, 0.0], requires_grad=True)
    by_base, by_exponent = grad((zeros ** x).sum(), [zeros, x])
    assert by_base.data.tolist() == [0, 0] and by_exponent.data.tolist() == [0, 0]
    assert grad((zeros ** Tensor([0.0, 1.0])).sum(), [zeros])[0].data.tolist() == [0, 1]
    assert grad((Tensor([-2.0]) ** Tensor([3.0])).sum(), [x])[0].data.tolist() == [0, 0]
    base = Tensor([-2.0], requires_grad=True)
    assert grad((base ** np.array([3.0])).sum(), [base])[0].data.tolist() == [12]


def test_the_mean_of_many_half_precision_numbers():
    x = Tensor(np.ones((70_000, 2), np.float16), requires_grad=True)
    y = x.mean()
    assert y.dtype == np.float16 and y.item() == 1.0 and x.mean(0).data.tolist() == [1, 1]
    assert np.array_equal(grad(y, [x])[0].data, np.full(x.shape, 1 / 140_000, np.float16))


def test_numbers_of_numpy_as_shapes_and_axes():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert x.reshape(np.prod((2, 3))).shape == (6,) and x.reshape(np.int8(3), -1).shape == (3, 2)
    assert x.transpose(np.int64(1), 0).shape == (3, 2) and x.sum(np.int64(0)).data.tolist() == [3, 5, 7]
    assert Tensor([1.0]).transpose(np.int64(0)).shape == (1,) and x.transpose(None).shape == x.T.shape == (3, 2)
    for bad in (lambda: x.sum((0, 0)), lambda: x.mean((1, -1)), lambda: x.sum(1.0), lambda: x.max((0, 1)),
                lambda: x.transpose(0, 0), lambda: x.transpose(0), lambda: x.reshape(2.0, 3), lambda: x.reshape("6"),
                lambda: ops.concatenate(x), lambda: ops.stack([]), lambda: ops.concatenate([x, x], axis=[0, 1]),
                lambda: ops.log_softmax(x, axis=5), lambda: grad(x.sum(), x), lambda: grad(x.sum(), [x.data])):
        with pytest.raises(GraphError) as problem:
            bad()
        one_line(problem)


# ---- a tensor as an array ----------------------------------------------------------------------------------------


def test_a_tensor_is_iterated_formatted_and_compared_as_an_array():
    x = Tensor([1.0, 2.0], requires_grad=True)
    first, second = x
    (first * 3 + second).backward()
    assert x.grad.data.tolist() == [3, 1]
    assert sum(x).item() == 3 and max(x).item() == 2 and 2.0 in x and 5.0 not in x and int(second) == 2
    assert f"{second:.2f}" == "2.00" and f"{x}" == str(x) and +x is x
    assert (x == 1).tolist() == [True, False] and (x != [1, 3]).tolist() == [False, True]
    assert (2 > x).tolist() == [True, False] and (np.array([1.0, 5.0]) >= x).tolist() == [True, True]
    assert x[x > 1].data.tolist() == [2] and ops.where(x == 1, 0.0, x).data.tolist() == [0, 2]
    assert not x == None and x != "a" and x in {x: 1} and x not in {Tensor([1.0, 2.0]): 1}  # noqa: E711
    for bad in (lambda: list(Tensor(3.0)), lambda: sum(Tensor(3.0)), lambda: f"{x:.2f}", lambda: x < "a",
                lambda: x > None):
        with pytest.raises(TypeError) as problem:
            bad()
        one_line(problem)


def test_functions_of_numpy_are_refused_in_a_sentence():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    for call in (np.asarray, np.array, lambda x: np.stack([x, x]), lambda x: np.where(x.data > 2, x, 0.0), np.mean,
                 lambda x: np.reshape(x, 4), lambda x: np.concatenate([x, x.data]), np.transpose, np.linalg.norm,
                 lambda x: np.asarray([x, x]), lambda x: np.add(x, 1)):
        with pytest.raises(TypeError) as problem:
            call(x)
        one_line(problem)
    constant = x.detach()
    assert np.asarray(constant) is constant.data or np.array_equal(np.asarray(constant), constant.data)
    assert np.array(constant, dtype=int).tolist() == [[1, 2], [3, 4]]


def test_a_tensor_with_a_graph_is_neither_copied_nor_stored():
    x = Tensor([1.0, 2.0], requires_grad=True)
    loss = (x * 3.0).sum()
    for store in (copy.copy, copy.deepcopy, pickle.dumps, lambda t: copy.deepcopy({"losses": [t]})):
        with pytest.raises(GraphError, match="cannot be copied or stored with its graph") as problem:
            store(loss)
        one_line(problem)
    for again in (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), copy.deepcopy(loss.detach())):
        assert isinstance(again, Tensor)
    assert again.item() == 9


def test_foreign_byte_orders_are_native_at_once():
    for kind in (">f4", ">f8", ">f2", ">i4"):
        x = Tensor(np.arange(3).astype(kind), requires_grad=True)
        assert x.dtype.isnative
        (x * x).sum().backward()
        assert x.grad.data.tolist() == [0, 2, 4]
    for bad in ("text", [1, [2, 3]], 1j, None, {1: 2}):
        with pytest.raises(GraphError) as problem:
            Tensor(bad)
        one_line(problem)


# ---- memory ------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(5)
IMAGE, BANK = Tensor(RNG.standard_normal((2, 1, 2, 2))), RNG.standard_normal((2, 1, 1, 2, 2))
KEPT = {  # value of the leaf, what is computed from it and a buffer, the buffer, what is written into it afterwards
    "index array": (np.ones(3), lambda x, b: x[b], np.array([0, 1]), 2),
    "index in a tuple": (np.ones((2, 3)), lambda x, b: x[:, b], np.array([0, 1]), 2),
    "index list": (np.ones(3), lambda x, b: x[b], [0, 1], 2),
    "index array.array": (np.ones(3), lambda x, b: x[b], array.array("i", [0, 1]), 2),
    "index memoryview": (np.ones(3), lambda x, b: x[memoryview(b)], np.array([0, 1]), 2),
    "mask": (np.ones(3), lambda x, b: x[b], np.array([True, False, False]), True),
    "put": (np.ones(2), lambda x, b: ops.put(x, index=b, shape=(3,)) * np.arange(3.0), np.array([0, 1]), 2),
    "condition": (np.ones(3), lambda x, b: ops.where(b, x, 0.0), np.array([True, False, False]), True),
    "factor": (np.ones(3), lambda x, b: x * b, np.array([1.0, 2.0, 3.0]), 7),
    "divisor of a list": (np.ones(3), lambda x, b: x / b, [1.0, 2.0, 4.0], 7),
    "labels": (RNG.standard_normal((3, 4)), cross_entropy, np.array([0, 1, 2]), 3),
    "routes": (BANK, lambda w, b: conv_transpose2d(IMAGE, w, stride=2, routes=b), np.array([0, 1]), 1),
    "routes of a convolution": (BANK, lambda w, b: conv2d(IMAGE, w, routes=b), np.array([0, 1]), 1),
    "routes of a gather": (np.ones((2, 3)), lambda x, b: gather_sets(x, b) * np.arange(6.0).reshape(2, 3),
                           np.array([0, 1]), 1),
    "rows": (BANK, lambda w, b: weight_norm(w, out_axis=1, rows=b, eps=0.1) * BANK, np.array([True, False]), True),
    "matrices": (RNG.standard_normal((1, 1, 3, 3)), lambda x, b: warp(x, b, (2, 2)),
                 np.array([[[1.0, 0, 0.3], [0, 1.0, 0.4]]]), 0.2),
    "sources": (RNG.standard_normal((2, 1, 3, 3)), lambda x, b: warp(x, np.eye(2, 3)[None] * 0.7, (2, 2), b),
                np.array([0]), 1),
    "background mask": (RNG.standard_normal((1, 1, 2, 2)), lambda x, b: background_loss(x, b),
                        np.array([[[[1.0, 0.0], [0.0, 0.0]]]]), 1),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_an_operation_remembers_is_its_own(name):
    value, forward, buffer, later = KEPT[name]
    gradients = []
    for overwrite in (False, True):
        x, mine = Tensor(value, requires_grad=True), copy.copy(buffer)
        y = forward(x, mine)
        if overwrite:
            for place in np.ndindex(np.shape(mine)):
                mine[place if isinstance(mine, np.ndarray) else place[0]] = later
        gradients.append(grad(y, [x], seed=np.ones(y.shape))[0].data)
    assert np.array_equal(*gradients)


def test_a_parameter_does_not_share_the_array_it_was_made_from():
    values = np.ones((2, 3)).T
    p = Parameter(values)
    assert not np.shares_memory(p.data, values) and p.data.strides == values.strides
    p.data += 1
    assert values.max() == 1


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_share_no_memory_and_may_be_changed(create_graph):
    x, w = (Tensor(np.array([[1.0, 2.0]]), requires_grad=True) for _ in range(2))
    for seed in (np.array([[4.0, 8.0]]), Tensor(np.array([[4.0, 8.0]]), requires_grad=create_graph)):
        kept = np.array(seed.data if isinstance(seed, Tensor) else seed)
        for y in (x + w, (x + w).reshape(1, 2), x + w + 0.0):
            gradients = grad(y, [x, w, x], seed=seed, create_graph=create_graph)
            for g in gradients:
                g.data *= 0.5
            assert all(np.array_equal(g.data, kept * 0.5) for g in gradients)
            assert np.array_equal(seed.data if isinstance(seed, Tensor) else seed, kept)
    for g in grad((x + w).sum(), [x, w], create_graph=create_graph):
        g.data *= 0.5
        assert g.data.tolist() == [[0.5, 0.5]]
    if create_graph:  # a copied gradient is still a step on the way to the second one
        seed = Tensor(np.array([[4.0, 8.0]]), requires_grad=True)
        first = grad(x * x + x, [x, x], seed=seed, create_graph=True)
        for g in first:
            assert np.array_equal(grad(g.sum(), [seed])[0].data, 2 * x.data + 1)
            assert np.array_equal(grad(g.sum(), [x])[0].data, 2 * seed.data)


# ---- what public functions are given -------------------------------------------------------------------------------


def test_sizes_are_numbers_or_pairs():
    x = Tensor(np.arange(16.0).reshape(1, 1, 4, 4))
    for size in (2, (2, 2), [2, 2], np.int64(2), np.array([2, 2])):
        assert np.array_equal(max_pool2d(x, size).data, max_pool2d(x).data)
        assert np.array_equal(mean_pool2d(x, size).data, mean_pool2d(x).data)
        assert np.array_equal(resize_bilinear(x, size).data, resize_bilinear(x, (2, 2)).data)


LOGITS, MAP, FILTERS = Tensor(np.zeros((3, 4))), Tensor(np.ones((1, 1, 4, 4))), Tensor(np.ones((2, 1, 2, 2)))
REFUSED = {
    "labels out of range": (lambda: cross_entropy(LOGITS, [0, 1, 4]), r"labels must lie in \[0, 4\)"),
    "labels below zero": (lambda: cross_entropy(LOGITS, [0, -1, 2]), "but they reach from -1 to 2"),
    "too few labels": (lambda: cross_entropy(LOGITS, [0, 1]), "labels must be 3 integers"),
    "labels of floats": (lambda: cross_entropy(LOGITS, [0.0, 1.0, 2.0]), "not float64"),
    "one-hot labels": (lambda: cross_entropy(LOGITS, np.eye(3, 4, dtype=int)), r"not int64 \(3, 4\)"),
    "logits of one sample": (lambda: cross_entropy(LOGITS[0], [0]), r"logits must be \(N, classes\)"),
    "routes of floats": (lambda: gather_sets(LOGITS, [0.5]), "routes must be 1 integers"),
    "routes out of range": (lambda: gather_sets(LOGITS, [3]), r"routes must lie in \[0, 3\)"),
    "rows of integers": (lambda: weight_norm(Tensor(BANK), out_axis=1, rows=[0, 1]), "rows must be 2 bools"),
    "an array for a map": (lambda: conv2d(MAP.data, FILTERS), "x must be"),
    "an array for a weight": (lambda: conv_transpose2d(MAP, FILTERS.data), "weight"),
    "a stride of half": (lambda: conv2d(MAP, FILTERS, stride=0.5), "expected a whole number"),
    "three strides": (lambda: conv2d(MAP, FILTERS, stride=(1, 1, 1)), "two of them"),
    "a kernel of nothing": (lambda: conv2d_weight(MAP, MAP, kernel=0), "kernel and stride must be 1 or more"),
    "padding below zero": (lambda: conv2d_weight(MAP, MAP, kernel=1, padding=-1), "padding 0 or more"),
    "a window of nothing": (lambda: max_pool2d(MAP, 0), "windows are square"),
    "an oblong window": (lambda: max_pool2d(MAP, (2, 1)), "windows are square"),
    "a stride of nothing": (lambda: max_pool2d(MAP, 2, 0), "windows are square"),
    "an oblong block": (lambda: mean_pool2d(MAP, (4, 2)), "windows are square"),
    "blocks that do not fit": (lambda: mean_pool2d(MAP, 3), "not multiples of 3"),
    "a size of nothing": (lambda: resize_bilinear(MAP, 0), "sizes of 1 or more"),
    "a size of half": (lambda: resize_bilinear(MAP, 2.5), "expected a whole number"),
    "no map": (lambda: resize_bilinear(LOGITS, 2), "expected a map"),
    "an array to pool": (lambda: max_pool2d(MAP.data), "ndarray"),
    "an array to paint": (lambda: background_loss(MAP.data, MAP.data), r"write Tensor\(images\)"),
    "an array to differentiate": (lambda: grad(np.ones(1), [MAP]), r"grad\(y, \[x\]\)"),
    "a list to freeze": (lambda: frozen([MAP]).__enter__(), "one after the other"),
    "maps that are no list": (lambda: split_loss(Tensor(np.ones((2, 1, 2, 2)))), "in a list"),
    "half a class": (lambda: wanted_loss(LOGITS, [0.5]), "wanted classes: expected a whole number"),
    "half a source": (lambda: warp(MAP, np.eye(2, 3)[None], 2, [0.7]), "sources must be 1 integers"),
    "half a pixel": (lambda: warp(MAP, np.eye(2, 3)[None], (2.5, 2)), "expected a whole number"),
    "text": (lambda: LOGITS + "a", "real numbers"),
    "None": (lambda: ops.maximum(LOGITS, None), "real numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_public_function_checks_what_it_is_given(name):
    call, words = REFUSED[name]
    with pytest.raises(TinyganError, match=words) as problem:
        call()
    one_line(problem)


def test_the_branch_not_taken_must_be_finite_inside():
    """The trick that `where` documents: keep the inside of what is not taken finite, or its slope times 0 is NaN."""
    x = Tensor([0.0, 4.0], requires_grad=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        (bad,) = grad(ops.where(x.data > 0, ops.sqrt(x), 0.0).sum(), [x])
    (good,) = grad(ops.where(x.data > 0, ops.sqrt(ops.where(x.data > 0, x, 1.0)), 0.0).sum(), [x])
    assert np.isnan(bad.data[0]) and good.data.tolist() == [0, 0.25]


# ---- corners -----------------------------------------------------------------------------------------------------


def test_a_power_has_its_mixed_second_derivative_at_an_exponent_of_zero():
    check_grads(lambda a, b: a ** b, [np.array([2.0, 3.0]), np.array([0.0, 1.0])], order=3)
    a, b = Tensor([np.inf, 0.0], requires_grad=True), Tensor([0.0, 0.0], requires_grad=True)
    assert grad((a ** b).sum(), [a])[0].data.tolist() == [0, 0]


def test_only_floating_point_types_are_cast_to():
    x = Tensor([1.7, 0.5], requires_grad=True)
    assert x.astype("f4").dtype == np.float32 and x.astype(">f4").dtype.isnative
    assert grad(x.astype(np.float16).sum(), [x])[0].dtype == np.float64
    for bad in (int, bool, complex, None, "junk", ">i4"):
        with pytest.raises(GraphError) as problem:
            x.astype(bad)
        one_line(problem)


def test_axes_and_inputs_in_any_sequence():
    x = Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    assert x.transpose(np.array([1, 0])).shape == x.transpose([1, 0]).shape == (3, 2)
    assert x.max(keepdims=True).shape == (1, 1) and x.max().shape == ()
    (g,) = grad(x.sum(), (t for t in [x]))
    assert np.array_equal(g.data, np.ones((2, 3)))
    assert ops.concatenate(t for t in (x, x)).shape == (4, 3)
    assert (Tensor([2.0 ** 70]) == 2 ** 70).tolist() == [True] and None not in x and "a" not in x


def test_ragged_and_complex_values_are_refused_in_one_line():
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    for bad in (lambda: cross_entropy(x, [[0], [1, 1]]), lambda: gather_sets(x, [[0], [1, 1]]),
                lambda: weight_norm(Tensor(BANK), out_axis=1, rows=[[True], [True, False]]),
                lambda: grad(x * 1.0, [x], seed=np.ones((2, 2), complex)), lambda: ops.where(np.array([1j]), x, x)):
        with pytest.raises(GraphError) as problem:
            bad()
        one_line(problem)


def test_devices_are_not_mixed_in_silence(standin):
    cp = standin.module
    there, here = Tensor(cp.asarray(np.ones(2, np.float32)), requires_grad=True), Tensor(np.ones(2, np.float32))
    for bad in (lambda: grad(there + 1.0, [there], seed=here), lambda: (there + 1.0).backward(here),
                lambda: there > here, lambda: there == np.ones(2), lambda: there["a"], lambda: there[[1, None]],
                lambda: there[here]):
        with pytest.raises((GraphError, IndexError)) as problem:
            bad()
        one_line(problem)
    assert (there > np.array(0.5)).all() and (there == 1.0).all() and 1.0 in there
    assert len(grad((there * 2.0).sum(), [there, here])) == 2
    assert there[[1, 0, 1]].shape == (3,) and ops.where([True, False], there, 0.0).numpy().tolist() == [1, 0]
    assert cross_entropy(there.reshape(1, 2), cp.asarray([1])).item() > 0


def test_a_net_inside_normalised_is_not_copied_and_its_routes_are_checked():
    net = Sequential(StochasticConvTranspose2d(1, 1, 2, bank=2, norm="strict", rng=np.random.default_rng(0)))
    with normalized(net), pytest.raises(TinyganError, match="cannot be copied inside") as problem:
        net.copy()
    one_line(problem)
    for routes in ([[0], [9]], [[-1]], [[0.5]], [0, 1], [[0, 1]]):
        with pytest.raises(GraphError) as problem, normalized(net, np.array(routes)):
            pass
        one_line(problem)
