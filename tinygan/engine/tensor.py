"""Reverse-mode automatic differentiation: `Tensor`, `primitive`, `backward` and `grad`.

A `Tensor` holds an array. Every operation on tensors is a *primitive*: a function that returns its value and, for
each input, a rule (a vector-Jacobian product, VJP) which turns a gradient of the output into a gradient of that
input. The result keeps its inputs, its edges, and their rules. Following the edges backwards from a loss, and adding
up what arrives at each tensor, is all that `backward` does.

Rules are themselves written with primitives. So the backward pass can be recorded like any other computation
(`create_graph=True`) and differentiated again, to any order, without another line of code.

Edges point only from an output to its inputs. There are no cycles, so Python's reference counting frees a whole
graph the moment its last tensor is dropped.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygan.errors import GraphError
from tinygan.kernels import for_array
from tinygan.kernels.arguments import all_tensors, copy_array, is_unshared, operand, tensor_list
from tinygan.kernels.arraylike import ArrayLike, describe, real_array
from tinygan.kernels.host import renewed

_clock = itertools.count()
PRIMITIVES: dict[str, Callable] = {}


class _Mode(threading.local):
    """The engine's settings, one set per thread; changed only by context managers, here and in debug.py."""

    recording = True  # whether operations record edges
    watch: Any = None  # a debug.Watch, called around operations and rules


_mode = _Mode()
if hasattr(os, "register_at_fork"):  # a process forked inside `no_grad` begins as any other
    os.register_at_fork(after_in_child=lambda: _mode.__dict__.clear())


class Tensor(ArrayLike):
    """An array of floating-point numbers, with the operation and the inputs that it was computed from.

    data: a NumPy or CuPy array, or anything `numpy.asarray` takes. Integers and bools become float64. An array of
        floating-point numbers is not copied: do not write into it before `backward` has used the graph.
    requires_grad: True for a *leaf*, a tensor for which `backward` computes the gradient; it is stored in `.grad`, a
        Tensor of the same shape.
    name: for error messages. version: how often its array was changed in place, for `grad` to check.
    rows: of the gradient of a filter bank: a bool mask over its first axis, the filter sets that took part.
    Raises GraphError for data that are no real numbers.

    Operators and methods have NumPy's names: + - * / ** @ abs(), indexing, .T, sum, mean, max, clip, reshape,
    transpose, squeeze, astype, and shape, ndim, size, dtype. They are operations of tinygan.ops; max(axis, keepdims)
    is max_along. Comparisons return arrays of bools, numpy() the values as a NumPy array, item() the only number as a
    float; to these no gradient flows. NumPy's functions raise TypeError for a tensor.
    """

    __slots__ = ("data", "grad", "requires_grad", "name", "rows", "version", "_edges", "_rules", "_born", "_op",
                 "_where", "__weakref__")

    def __init__(self, data: Any, requires_grad: bool = False, name: str = "") -> None:
        self._set(data.data if isinstance(data, Tensor) else real_array(data), requires_grad)
        self.name = name

    def _set(self, array: Any, requires_grad: bool, edges: tuple = (), rules: tuple = (), op: str = "") -> None:
        """Set all fields. edges: (input, index of its rule, version of the input when it was read)."""
        self.data, self.grad, self.requires_grad = array, None, requires_grad
        self.name, self.rows, self.version = "", None, 0
        self._edges, self._rules, self._born, self._op, self._where = edges, rules, next(_clock), op, ""

    def detach(self) -> Tensor:
        """Return a tensor of the same array, not copied, as a constant: no gradient flows through it."""
        return Tensor(self.data)

    def backward(self, gradient: Any = None) -> None:
        """Add d(self)/d(leaf) to `.grad` of every leaf that this tensor was computed from.

        gradient: the gradient with respect to this tensor, of its shape; may be left out for a single number (1).
        A second call on the same graph adds the same gradients again. Raises GraphError for a tensor that was computed
        from constants alone, for a gradient of another shape or dtype, and where a tensor of the graph was changed in
        place after it was used.
        """
        if not self.requires_grad:
            raise GraphError(f"nothing to differentiate: {describe(self)} was made from constants alone")
        leaves = [t for t in _ancestors(self) if not t._edges]
        seed = _seed(self, gradient)
        others = [seed.data]
        with _set_mode(recording=False):
            for leaf, g in zip(leaves, _grad(self, leaves, False, seed), strict=True):
                if leaf.grad is not None:
                    leaf.add_gradient(g.data, g.rows)
                else:
                    leaf.grad = _unshared(g, others)
                others.append(leaf.grad.data)

    def add_gradient(self, array: Any, rows: np.ndarray | None = None) -> None:
        """Add an array of this tensor's shape to `.grad`; where that is None, it becomes the array itself.

        rows: of the gradient of a filter bank: a bool mask, the sets that took part; None for all.
        """
        total = _tagged(array, rows)
        if self.grad is not None:
            # A new array: a caller may have kept the old one.
            total = _tagged(self.grad.data + array, _union(array, self.grad.rows, rows))
        self.grad = total

    def __repr__(self) -> str:
        return f"Tensor({self.data}{', requires_grad=True' if self.requires_grad else ''})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to copy or store a tensor with a graph: copies of its inputs would receive the gradients."""
        if self._edges:
            raise GraphError(f"{describe(self)} cannot be copied or stored with its graph: take .detach(), or .data")
        return super().__reduce_ex__(protocol)


# ---- operations --------------------------------------------------------------------------------------------------


class Rules(tuple):
    """One rule per input, with a function `together(g)` that computes the gradients of all inputs as a list of arrays.

    For operations with a kernel that makes them in one pass. `together` is called unless the backward pass is recorded
    itself: a second derivative needs rules made of operations.
    """

    together: Callable[[Tensor], Sequence[Any]]

    def __new__(cls, rules: Iterable[Callable | None], together: Callable[[Tensor], Sequence[Any]]) -> Rules:
        made = super().__new__(cls, rules)
        made.together = together
        return made


def primitive(function: Callable) -> Callable[..., Tensor]:
    """Make a differentiable operation of `function(*tensors, **options) -> (array, one rule per tensor)`.

    Positional arguments are the tensors (numbers and arrays become constants of the first tensor's dtype), keyword
    arguments are options. A rule is called as `rule(g, y)` with the gradient of the output and the output itself, and
    returns the gradient for its input, still of the broadcast shape if the op broadcast; None in its place means that
    the gradient is zero. The output is passed in rather than captured: capturing it would make a cycle. The rules are
    a tuple, or Rules, and are made of operations, so that they can be differentiated.
    The operation returns a Tensor. It raises GraphError for tensors of different dtypes or devices, and where the
    function does not return an array and a tuple of one rule per tensor.
    """
    name = function.__name__.strip("_")

    def apply(*args: Any, **options: Any) -> Tensor:
        inputs, watch = _lift(args, name), _mode.watch
        if watch is None:
            result = function(*inputs, **options)
        else:
            result = watch.call(name, inputs[0].data, lambda: function(*inputs, **options))
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple)
                and len(result[1]) == len(inputs)):
            raise GraphError(f"{name} must return an array and a tuple of {len(inputs)} rules, one (or None) per input")
        array, rules = result
        if isinstance(array, np.generic):  # NumPy turns 0-d results into scalars; tensors hold arrays
            array = np.asarray(array)
        edges = ()
        if _mode.recording:
            edges = tuple([(t, i, t.version) for i, t in enumerate(inputs)
                           if t.requires_grad and rules[i] is not None])
        out = Tensor.__new__(Tensor)
        out._set(array, bool(edges), edges, rules if edges else (), name)
        if watch is not None:
            watch.made(out, inputs)
        return out

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = function.__doc__
    apply.__wrapped__ = function
    PRIMITIVES[name] = apply
    return apply


def _lift(args: tuple, op: str) -> list[Tensor]:
    """Turn numbers and arrays into constants (`operand`) like the first tensor; tensors stay as they are."""
    first = next((a for a in args if isinstance(a, Tensor)), None)
    if first is None:
        first = Tensor(args[0])
    inputs = []
    for a in args:
        if not isinstance(a, Tensor):
            a = Tensor(operand(a, first.data))
        if a.xp is not first.xp:
            raise GraphError(f"{op}: {describe(first)} and {describe(a)} live on different devices; "
                             "move one of them (cupy.asarray, Tensor.numpy)")
        if a.dtype != first.dtype:
            raise GraphError(f"{op}: {describe(first)} and {describe(a)} differ in dtype; cast one of them (.astype)")
        inputs.append(a)
    return inputs


@primitive
def add(a: Tensor, b: Tensor):
    """Compute a + b, elementwise; shapes broadcast as in NumPy.

    Raises ValueError for shapes that do not broadcast, GraphError for two dtypes or devices.
    """
    return a.data + b.data, (lambda g, y: g, lambda g, y: g)


@primitive
def sum_to(a: Tensor, *, shape: tuple[int, ...]):
    """Sum `a` down to `shape`: the transpose of broadcasting `shape`, which must broadcast to a's shape."""
    data = a.data
    if data.ndim > len(shape):
        data = data.sum(axis=tuple(range(data.ndim - len(shape))))
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and data.shape[i] != 1)
    if axes:
        if axes == (0, 2, 3):  # has a kernel: CuPy's sum is slow along such axes
            data = for_array(data).channel_sums(data).reshape(shape)
        else:
            data = data.sum(axis=axes, keepdims=True)
    return data, (lambda g, y: broadcast_to(g, shape=a.shape),)


@primitive
def broadcast_to(a: Tensor, *, shape: tuple[int, ...]):
    """Repeat `a` along new and length-1 axes up to `shape` (a read-only view, no copy).

    Raises ValueError where a does not broadcast to it.
    """
    return a.xp.broadcast_to(a.data, shape), (lambda g, y: sum_to(g, shape=a.shape),)


@primitive
def copy(a: Tensor):
    """Copy the values into new memory; the gradient passes through."""
    return a.data.copy(order="K" if a.xp is np else "C"), (lambda g, y: g,)  # a GPU's optimisers take nothing but C


# ---- backward ----------------------------------------------------------------------------------------------------


def grad(output: Tensor, inputs: Sequence[Tensor], create_graph: bool = False, seed: Any = None) -> list[Tensor]:
    """Compute d(output)/d(input) for each of `inputs`, as tensors of their shapes (zeros where no path leads there).

    inputs: tensors in a list, leaves or not; `.grad` is left alone. seed: the gradient with respect to `output`, of its
    shape (default 1, for outputs of one element only). create_graph: record the backward pass as well, so that the
    results can be differentiated again.
    The results share no memory with one another, with the seed or with the inputs: they may be changed in place.
    Raises GraphError if a tensor of the graph was changed in place after it was used, if the seed has another shape or
    dtype, and for a weight inside `normalized`.
    """
    output, *inputs = tensor_list([output, *tensor_list(inputs, "grad(y, [x])")], "grad(y, [x])")
    if hidden := [t for t in inputs if getattr(t, "detached", False)]:
        raise GraphError(f"the path from {describe(hidden[0])} to the loss is not recorded inside `normalized`: "
                         "leave that context, or use backward()")
    seed = _seed(output, seed)
    gradients, others = [], [seed.data, *(t.data for t in inputs)]
    with _set_mode(recording=create_graph):
        for g in _grad(output, inputs, create_graph, seed):
            gradients.append(_unshared(g, others))
            others.append(gradients[-1].data)
    return gradients


def _seed(output: Tensor, seed: Any) -> Tensor:
    """Return the gradient of the output with respect to itself, from which the backward pass starts."""
    if seed is None:
        if output.size != 1:
            raise GraphError(f"give the gradient of {describe(output)}: only a single number has an obvious one (1)")
        return Tensor(operand(1.0, output.data).reshape(output.shape))
    if not isinstance(seed, Tensor):
        seed = Tensor(copy_array(seed, output.xp, output.dtype))
    if seed.shape != output.shape or seed.dtype != output.dtype or seed.xp is not output.xp:
        raise GraphError(f"the gradient given, {describe(seed)} of shape {seed.shape}, is unlike {describe(output)}")
    return seed


def _grad(output: Tensor, inputs: Sequence[Tensor], create_graph: bool, seed: Tensor) -> list[Tensor]:
    """Run the backward pass; the results may share memory."""
    targets = {id(t) for t in inputs}
    order = _ancestors(output)  # newest first: everything made from a tensor comes before the tensor itself
    leads = set(targets)  # ids of the tensors on a path to an input; the rest is skipped
    for t in reversed(order):
        if any(id(source) in leads for source, _, _ in t._edges):
            leads.add(id(t))

    arrived, watch = {id(output): seed}, _mode.watch
    with _set_mode(recording=create_graph):
        for t in order:
            g = arrived.get(id(t)) if id(t) in targets else arrived.pop(id(t), None)
            if g is None:
                continue
            together = t._rules.together if isinstance(t._rules, Rules) and not create_graph else None
            parts = None
            for source, i, version in t._edges:
                if source.version != version:  # the other inputs' rules may read it too, so before the next line
                    raise GraphError(f"{describe(source)} was changed in place after {t._op} had used it; "
                                     "run the forward pass again")
                if id(source) not in leads:
                    continue
                rule = t._rules[i]
                if together is not None:
                    parts = parts or _all_parts(together, g, t)
                    rule = parts[i]
                part = rule(g, t) if watch is None else watch.gradient(rule, g, t)
                if not isinstance(part, Tensor):
                    raise GraphError(f"the rule of {t._op} made {describe(part)}: write it with operations on g and y")
                # The line most easily left out: if the op broadcast this input, its gradient must be summed back.
                if part.shape != source.shape:
                    part = sum_to(part, shape=source.shape)
                if part.dtype != source.dtype:
                    raise GraphError(f"the rule of {t._op} made a {part.dtype} gradient for {describe(source)}")
                known = arrived.get(id(source))
                arrived[id(source)] = part if known is None else _add_gradients(known, part)
    return [arrived[id(t)] if id(t) in arrived else Tensor(t.xp.zeros_like(t.data)) for t in inputs]


def _all_parts(together: Callable, g: Tensor, t: Tensor) -> list[Callable]:
    """Compute the gradients of all inputs of the operation that made t; return one rule for each."""
    arrays = watched(f"{t._op}_back", g.data, lambda: together(g))
    return [lambda g, y, array=array: Tensor(array) for array in arrays]


def _ancestors(root: Tensor) -> list[Tensor]:
    """List every tensor that `root` was computed from and that needs a gradient, itself included, newest first.

    A tensor is always younger than its inputs, so sorting by birth is a topological order: no recursion, and each
    tensor is visited once however many paths lead to it.
    """
    reached, stack = {id(root): root}, [root]
    while stack:
        for source, _, _ in stack.pop()._edges:
            if id(source) not in reached:
                reached[id(source)] = source
                stack.append(source)
    return sorted(reached.values(), key=lambda t: -t._born)


def _add_gradients(a: Tensor, b: Tensor) -> Tensor:
    """Add two gradients of one tensor, never in place: either array may be part of another gradient as well."""
    total = add(a, b)
    total.rows = _union(total.data, a.rows, b.rows)
    return total


def _union(like: Any, a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """Return the filter sets that took part in either of two gradients (None: all of them), arrays such as `like`.

    `rows` on a gradient is a bool mask over the first axis of a filter bank. A set that no sample was routed
    through has gradient zero, but so may a set that was used; an optimiser that leaves unused sets alone must
    distinguish the two.
    """
    return None if a is None or b is None else renewed(like, lambda: a | b, a, b)


def _unshared(g: Tensor, others: list) -> Tensor:
    """Return `g`, or a copy of it if it is read-only or may share memory with others: the caller may change it."""
    kept = g if is_unshared(g.data, others) else copy(g)
    kept.rows = g.rows
    return kept if _mode.recording or not kept._edges else _tagged(kept.data, kept.rows)


def _tagged(array: Any, rows: np.ndarray | None) -> Tensor:
    t = Tensor(array)
    t.rows = rows
    return t


# ---- modes -------------------------------------------------------------------------------------------------------


@contextmanager
def _set_mode(**settings: Any) -> Iterator[None]:
    before = {key: getattr(_mode, key) for key in settings}
    for key, value in settings.items():
        setattr(_mode, key, value)
    try:
        yield
    finally:
        for key, value in before.items():
            setattr(_mode, key, value)


def watched(name: str, like: Any, work: Callable[[], Any]) -> Any:
    """Return work(), which works on arrays such as `like` outside of any primitive, so that `profile` lists it."""
    return work() if _mode.watch is None else _mode.watch.call(name, like, work)


def no_grad() -> Any:
    """Compute without recording edges inside `with no_grad():`, in this thread.

    It is cheaper, and what is computed inside cannot be differentiated: its results have requires_grad False.
    """
    return _set_mode(recording=False)


@contextmanager
def frozen(*modules: Any) -> Iterator[None]:
    """Make the parameters of modules, or tensors, constants inside `with frozen(D):`.

    modules: modules and tensors, one after the other; anything else, such as a list, raises GraphError.
    Gradients still flow through D to its inputs, but none is computed for its parameters. Unlike `no_grad` it changes
    the net, for every thread that uses it: use a net in one thread at a time.
    """
    tensors = all_tensors(modules)
    before = [t.requires_grad for t in tensors]
    for t in tensors:
        t.requires_grad = False
    try:
        yield
    finally:
        for t, flag in zip(tensors, before, strict=True):
            t.requires_grad = flag
