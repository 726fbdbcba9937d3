"""Reverse-mode automatic differentiation: the idea that everything else in this package stands on.

A `Tensor` holds an array. Every operation on tensors is a *primitive*: a function that returns its value and, for
each input, a rule (a vector-Jacobian product, VJP) which turns a gradient of the output into a gradient of that
input. The result remembers its inputs and their rules: these are its edges. Following the edges backwards from a
loss, and adding up what arrives at each tensor, is all that `backward` does.

Rules are themselves written with primitives. So the backward pass can be recorded like any other computation
(`create_graph=True`) and differentiated again, to any order, without another line of code.

Edges point only from an output to its inputs. There are no cycles, so Python's reference counting frees a whole
graph the moment its last tensor is dropped.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygan.arrays import ArrayLike, is_own, listed, operand, own_array, real_array, tensors_of
from tinygan.errors import GraphError, TinyganError
from tinygan.kernels import for_array
from tinygan.kernels.arrays import xp_of

_clock = itertools.count()
PRIMITIVES: dict[str, Callable] = {}


class _Mode(threading.local):
    """What the engine is doing besides computing, in each thread by itself; set only by the context managers at the end
    of this file."""

    recording = True
    anomaly = False
    profile: Profile | None = None


_mode = _Mode()
if hasattr(os, "register_at_fork"):  # a process forked inside `no_grad` begins as any other
    os.register_at_fork(after_in_child=lambda: _mode.__dict__.clear())


class AnomalyError(TinyganError):
    """An operation made the first NaN or infinity (raised only inside `anomaly()`)."""


class Tensor(ArrayLike):
    """An array of floating-point numbers that remembers how it was made.

    data: a NumPy or CuPy array, or anything `numpy.asarray` takes. Integers and bools become float64. An array of
        floating-point numbers is not copied: do not write into it before `backward` is through with the graph.
    requires_grad: True for a tensor (a *leaf*) whose gradient is wanted; `backward` puts it in `.grad`, a Tensor.
    name: what error messages call it. version: how often its array was changed in place, for `grad` to check.
    rows: on the gradient of a filter bank, which filter sets took part (see `_union`).
    """

    __slots__ = ("data", "grad", "requires_grad", "name", "rows", "version", "_edges", "_born", "_op", "_where",
                 "__weakref__")

    def __init__(self, data: Any, requires_grad: bool = False, name: str = "") -> None:
        self._set(data.data if isinstance(data, Tensor) else real_array(data), requires_grad, (), "")
        self.name = name

    def _set(self, array: Any, requires_grad: bool, edges: tuple, op: str) -> None:
        self.data, self.grad, self.requires_grad = array, None, requires_grad
        self.name, self.rows, self.version = "", None, 0
        self._edges, self._born, self._op, self._where = edges, next(_clock), op, ""

    def detach(self) -> Tensor:
        """The same array as a constant: gradients stop here."""
        return Tensor(self.data)

    def backward(self, gradient: Any = None) -> None:
        """Add d(self)/d(leaf) to `.grad` of every leaf that this tensor was made from.

        gradient: the gradient with respect to this tensor, of its shape; may be left out for a single number (1).
        A second call on the same graph adds the same gradients again. Raises GraphError where nothing that
        requires a gradient leads here.
        """
        if not self.requires_grad:
            raise GraphError(f"nothing to differentiate: {describe(self)} was made from constants alone")
        leaves = [t for t in _ancestors(self) if not t._edges]
        seed = _seed(self, gradient)
        handed_out = [seed.data]
        with _set_mode(recording=False):
            for leaf, g in zip(leaves, _grad(self, leaves, False, seed), strict=True):
                if leaf.grad is not None:
                    leaf.add_gradient(g.data, g.rows)
                else:
                    leaf.grad = _own_copy(g, handed_out)
                handed_out.append(leaf.grad.data)

    def add_gradient(self, array: Any, rows: np.ndarray | None = None) -> None:
        """Add an array to `.grad`, or begin with it (then it must be nobody else's). rows: as of a bank's gradient."""
        total = _tagged(array, rows)
        if self.grad is not None:
            # A new array: the old one may be in somebody's hands.
            total = _tagged(self.grad.data + array, _union(self.grad.rows, rows))
        self.grad = total

    def __repr__(self) -> str:
        return f"Tensor({self.data}{', requires_grad=True' if self.requires_grad else ''})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to copy or store a tensor with a graph: what the copy was made from would be copies, too, and their
        gradients would reach nobody."""
        if self._edges:
            raise GraphError(f"{describe(self)} cannot be copied or stored with its graph: take .detach(), or .data")
        return super().__reduce_ex__(protocol)


def describe(t: Any) -> str:
    """A tensor in a few words, for error messages: its name or the op that made it, its shape and its device."""
    if not isinstance(t, Tensor):
        return f"{type(t).__name__} {getattr(t, 'shape', '')}".strip()
    where = "NumPy" if t.xp is np else "CuPy"
    return f"{t.name or t._op or 'tensor'} {t.shape} ({where} {t.dtype})"


# ---- operations --------------------------------------------------------------------------------------------------


def primitive(function: Callable) -> Callable[..., Tensor]:
    """Make a differentiable operation of `function(*tensors, **options) -> (array, one VJP per tensor)`.

    Positional arguments are the tensors (numbers and arrays are lifted to constants), keyword arguments are
    options. A VJP is called as `vjp(g, y)` with the gradient of the output and the output itself, and returns the
    gradient for its input, still of the broadcast shape if the op broadcast; None in its place says that the
    gradient is zero. The output is handed in rather than captured: capturing it would make a cycle.
    """
    name = function.__name__.strip("_")

    def apply(*args: Any, **options: Any) -> Tensor:
        inputs = _lift(args, name)
        started = time.perf_counter() if _mode.profile is not None else 0.0
        result = function(*inputs, **options)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple)
                and len(result[1]) == len(inputs)):
            raise GraphError(f"{name} must return an array and a tuple of {len(inputs)} rules, one (or None) per input")
        array, vjps = result
        if isinstance(array, np.generic):  # NumPy turns 0-d results into scalars; tensors hold arrays
            array = np.asarray(array)
        if _mode.profile is not None:
            _mode.profile.add(name, time.perf_counter() - started, array)
        edges = ()
        if _mode.recording:
            edges = tuple((t, vjp, t.version) for t, vjp in zip(inputs, vjps, strict=True)
                          if t.requires_grad and vjp is not None)
        out = Tensor.__new__(Tensor)
        out._set(array, bool(edges), edges, name)
        if _mode.anomaly:
            out._where = _caller()
            _check_finite(out, "gave", inputs)
        return out

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = function.__doc__
    apply.__wrapped__ = function
    PRIMITIVES[name] = apply
    return apply


def _lift(args: tuple, op: str) -> list[Tensor]:
    """Tensors pass; numbers and arrays become constants (`operand`) like the first tensor."""
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
    """a + b, broadcast as NumPy does."""
    return a.data + b.data, (lambda g, y: g, lambda g, y: g)


@primitive
def sum_to(a: Tensor, *, shape: tuple[int, ...]):
    """Sum `a` down to `shape`: the transpose of broadcasting `shape` up to a's shape."""
    data = a.data
    if data.ndim > len(shape):
        data = data.sum(axis=tuple(range(data.ndim - len(shape))))
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and data.shape[i] != 1)
    if axes:
        if axes == (0, 2, 3):  # a kernel of its own: CuPy's sum is slow along such axes
            data = for_array(data).channel_sums(data).reshape(shape)
        else:
            data = data.sum(axis=axes, keepdims=True)
    return data, (lambda g, y: broadcast_to(g, shape=a.shape),)


@primitive
def broadcast_to(a: Tensor, *, shape: tuple[int, ...]):
    """Repeat `a` along new and length-1 axes up to `shape` (a read-only view, no copy)."""
    return a.xp.broadcast_to(a.data, shape), (lambda g, y: sum_to(g, shape=a.shape),)


@primitive
def copy(a: Tensor):
    """The same values in memory of their own."""
    return a.data.copy(order="K" if a.xp is np else "C"), (lambda g, y: g,)  # a GPU's optimisers take nothing but C


# ---- backward ----------------------------------------------------------------------------------------------------


def grad(output: Tensor, inputs: Sequence[Tensor], create_graph: bool = False, seed: Any = None) -> list[Tensor]:
    """d(output)/d(input) for each of `inputs`, as tensors of their shapes (zeros where nothing leads there).

    seed: gradient with respect to `output`, of its shape (default 1, for outputs of one element only).
    create_graph: record the backward pass as well, so that the results can be differentiated again.
    The results share no memory with one another, with the seed or with the inputs: they may be changed in place.
    Raises GraphError if a tensor of the graph was changed in place after it was used, or the seed does not fit.
    """
    output, *inputs = listed([output, *listed(inputs, "grad(y, [x])")], "grad(y, [x])")
    if hidden := [t for t in inputs if getattr(t, "outside", False)]:
        raise GraphError(f"the way from {describe(hidden[0])} to the loss is not recorded inside `normalised`: "
                         "leave that context, or use backward()")
    seed = _seed(output, seed)
    gradients, others = [], [seed.data, *(t.data for t in inputs)]
    with _set_mode(recording=create_graph):
        for g in _grad(output, inputs, create_graph, seed):
            gradients.append(_own_copy(g, others))
            others.append(gradients[-1].data)
    return gradients


def _seed(output: Tensor, seed: Any) -> Tensor:
    """The gradient of the output with respect to itself, from which the backward pass starts."""
    if seed is None:
        if output.size != 1:
            raise GraphError(f"give the gradient of {describe(output)}: only a single number has an obvious one (1)")
        return Tensor(output.xp.ones_like(output.data))
    if not isinstance(seed, Tensor):
        seed = Tensor(own_array(seed, output.xp, output.dtype))
    if seed.shape != output.shape or seed.dtype != output.dtype or seed.xp is not output.xp:
        raise GraphError(f"the gradient given, {describe(seed)} of shape {seed.shape}, is unlike {describe(output)}")
    return seed


def _grad(output: Tensor, inputs: Sequence[Tensor], create_graph: bool, seed: Tensor) -> list[Tensor]:
    wanted = {id(t) for t in inputs}
    order = _ancestors(output)  # newest first: everything made from a tensor comes before the tensor itself
    leads = set(wanted)  # ids of the tensors through which something wanted is reached; the rest is skipped
    for t in reversed(order):
        if any(id(source) in leads for source, _, _ in t._edges):
            leads.add(id(t))

    arrived: dict[int, Tensor] = {id(output): seed}
    with _set_mode(recording=create_graph):
        for t in order:
            g = arrived.get(id(t)) if id(t) in wanted else arrived.pop(id(t), None)
            if g is None:
                continue
            for source, vjp, version in t._edges:
                if source.version != version:  # the other inputs' rules may read it too, so before the next line
                    raise GraphError(f"{describe(source)} was changed in place after {t._op} had used it; "
                                     "run the forward pass again")
                if id(source) not in leads:
                    continue
                try:
                    part = vjp(g, t)
                except AnomalyError as problem:
                    raise AnomalyError(f"in the gradient of {t._op} (used at {t._where}): {problem}") from None
                if not isinstance(part, Tensor):
                    raise GraphError(f"the rule of {t._op} made {describe(part)}: write it with operations on g and y")
                # Central and easily forgotten: if the op broadcast this input, its gradient must be summed back.
                if part.shape != source.shape:
                    part = sum_to(part, shape=source.shape)
                if part.dtype != source.dtype:
                    raise GraphError(f"the rule of {t._op} made a {part.dtype} gradient for {describe(source)}")
                if _mode.anomaly:
                    _check_finite(part, f"the gradient of {t._op} (used at {t._where}) is", [g])
                known = arrived.get(id(source))
                arrived[id(source)] = part if known is None else _add_gradients(known, part)
    return [arrived[id(t)] if id(t) in arrived else Tensor(t.xp.zeros_like(t.data)) for t in inputs]


def _ancestors(root: Tensor) -> list[Tensor]:
    """Every tensor that `root` was made from and that needs a gradient, itself included, newest first.

    A tensor is always younger than its inputs, so sorting by birth is a topological order: no recursion, and each
    tensor is visited once however many paths lead to it.
    """
    seen, stack = {id(root): root}, [root]
    while stack:
        for source, _, _ in stack.pop()._edges:
            if id(source) not in seen:
                seen[id(source)] = source
                stack.append(source)
    return sorted(seen.values(), key=lambda t: -t._born)


def _add_gradients(a: Tensor, b: Tensor) -> Tensor:
    """a + b, never in place: either may also be on its way to somewhere else."""
    total = add(a, b)
    total.rows = _union(a.rows, b.rows)
    return total


def _union(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """Filter sets that took part in either of two gradients (None: all of them).

    `rows` on a gradient is a bool mask over the first axis of a filter bank. A set that no sample was routed
    through has gradient zero, but so may a set that was used; an optimiser that leaves unused sets alone must be
    able to tell the two apart.
    """
    return None if a is None or b is None else a | b


def _own_copy(g: Tensor, others: list) -> Tensor:
    """`g` for somebody to keep: copied if it is read-only or may share memory with anything in `others`."""
    kept = g if is_own(g.data, others) else copy(g)
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


def is_recording() -> bool:
    """Whether operations record edges now: not in `no_grad()`, nor in a backward pass without create_graph."""
    return _mode.recording


def no_grad() -> Any:
    """`with no_grad():` computes without recording edges: cheaper, and nothing to differentiate afterwards."""
    return _set_mode(recording=False)


@contextmanager
def frozen(*modules: Any) -> Iterator[None]:
    """`with frozen(D):` makes the parameters of D constants for a while.

    Gradients still flow through D to what it was given, but none is computed for its parameters. Takes modules
    (anything with `parameters()`) or tensors. Unlike `no_grad` it changes the net, for whatever thread uses it: a net
    belongs to one thread at a time.
    """
    tensors = tensors_of(modules)
    before = [t.requires_grad for t in tensors]
    for t in tensors:
        t.requires_grad = False
    try:
        yield
    finally:
        for t, flag in zip(tensors, before, strict=True):
            t.requires_grad = flag


def anomaly() -> Any:
    """`with anomaly():` checks every result; the first NaN or infinity raises AnomalyError naming op and line."""
    return _set_mode(anomaly=True)


def _check_finite(t: Tensor, verb: str, inputs: Iterable[Tensor]) -> None:
    bad = t.size - int(t.xp.isfinite(t.data).sum())
    if bad:
        made = ", ".join(describe(i) for i in inputs)
        where = f" at {t._where}" if verb == "gave" else ""
        name = f"{t._op} {verb}" if verb == "gave" else verb
        raise AnomalyError(f"{name} not finite in {bad} of {t.size} values{where}; inputs: {made}")


def _caller() -> str:
    """file:line of the innermost caller outside the files that only implement operations."""
    frame = sys._getframe(2)
    inner = ("tinygan.arrays", "tinygan.engine", "tinygan.ops", "tinygan.conv", "tinygan.functional")
    while frame.f_back and frame.f_globals.get("__name__") in inner:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class Profile:
    """Milliseconds and calls per op, gathered inside `with profile() as p:`; `print(p)` shows the table."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def add(self, name: str, seconds: float, array: Any) -> None:
        if xp_of(array) is not np:  # a GPU works behind our back: wait for it, or the time belongs to another op
            started = time.perf_counter()
            xp_of(array).cuda.get_current_stream().synchronize()
            seconds += time.perf_counter() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.calls[name] = self.calls.get(name, 0) + 1

    def rows(self) -> list[tuple[str, int, float]]:
        """(op, calls, milliseconds), the costliest first."""
        return sorted(((n, self.calls[n], s * 1e3) for n, s in self.seconds.items()), key=lambda row: -row[2])

    def __str__(self) -> str:
        total = sum(ms for _, _, ms in self.rows()) or 1.0
        lines = [f"{'op':24} {'calls':>7} {'ms':>10} {'ms/call':>9} {'share':>6}"]
        lines += [f"{name:24} {calls:7d} {ms:10.2f} {ms / calls:9.4f} {ms / total:6.1%}"
                  for name, calls, ms in self.rows()]
        return "\n".join(lines)


def watched(name: str, like: Any, work: Callable[[], Any]) -> Any:
    """work(), which is done on arrays such as `like` outside of any op, so that `profile` sees it under `name`."""
    if _mode.profile is None:
        return work()
    started = time.perf_counter()
    result = work()
    _mode.profile.add(name, time.perf_counter() - started, like)
    return result


@contextmanager
def profile(show: bool = True) -> Iterator[Profile]:
    """`with profile():` times every op, forward and backward, and prints ms per op at the end (show=False: not).

    What works on arrays outside of ops (filters normalised together, optimisers) stands in the table, too.
    """
    report = Profile()
    with _set_mode(profile=report):
        yield report
    if show:
        print(report)
