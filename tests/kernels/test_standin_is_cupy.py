"""The stand-in against CuPy itself: every line of standin/expressions.txt gives the same on both.

The same means type, dtype, shape, strides, memory order and values, or an exception of the same kind. Where the
stand-in refuses what CuPy would do, it is in STRICTER; where CuPy refuses, so must the stand-in. And it counts what
CuPy does: the same uploads, a wait where CuPy waits, no more launches than CuPy has.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.gpu

TEXT = (Path(__file__).parents[1] / "standin" / "expressions.txt").read_text("utf-8")
GROUPS = dict(re.findall(r"^# (.*)\n((?:[^#\n].*\n)+)", TEXT, re.MULTILINE))
HOST = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)

# CuPy goes on in silence: an upload or a wait that nobody wrote, a function of NumPy's on a device array. Or the
# stand-in has no such thing.
STRICTER = frozenset("""
np.exp(x)|np.sum(x)|np.concatenate([x,x])|np.zeros_like(x)|np.maximum(x,0)|np.where(x>0,x,0)|np.isfinite(x)|np.sqrt(x)
np.shape(x)|np.ndim(x)|np.size(x)|np.may_share_memory(x,x)|np.allclose(x,h)|np.stack([x])|np.dot(x,x.T)
cp.empty_like(h)|cp.zeros_like(h)|cp.ones_like(h)|bool(e)|not e
x.ptp()|divmod(s,1.0)|cp.random|cp.get_default_pinned_memory_pool().n_free_blocks()>=0
cp.cuda.MemoryPool().malloc(10).mem.size|cp.cuda.using_allocator|cp.cuda.alloc_pinned_memory(10).size()|cp.cuda.cublas
cp.memoize|cp.fuse|cp.ElementwiseKernel|cp.RawKernel|cp.cuda.graph
""".replace("\n", "|").strip("|").split("|"))

MORE_LAUNCHES = ("cp.divmod(x,1.0)", "cp.arange(0)")  # than CuPy's: two results of one kernel, and none for no numbers


def variables(cp: Any) -> dict[str, Any]:
    """What the expressions are about, anew for each of them."""
    h = HOST.copy()
    return {
        "cp": cp, "np": np, "h": h, "hm": h > 0, "hi": np.array([2, 0, 2]),
        "x": cp.asarray(h), "y": cp.asarray(h + 1), "v": cp.asarray(h[0]), "d": cp.asarray(h.astype(np.float64)),
        "t": cp.asarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)), "s": cp.asarray(np.float32(2.0)),
        "n4": cp.asarray(np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)), "e": cp.empty((0, 4), cp.float32),
        "i": cp.asarray(np.array([2, 0, 2])), "m": cp.asarray(h > 0),
    }


def evaluate(cp: Any, line: str, reset: Callable, count: Callable) -> tuple[Any, Any]:
    """What a line gives, as plain values, and what it costs; a statement gives the arrays that it may have changed."""
    names = variables(cp)
    reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            try:
                result = eval(compile(line, line, "eval"), names)
            except SyntaxError:  # an assignment
                exec(line, names)
                result = None
            cost = count()
            return shown([result, *(names[name] for name in "xdim")]), cost
        except Exception as problem:
            return problem, None


def shown(value: Any) -> Any:
    """A value with all that a caller could notice of it."""
    if isinstance(value, (tuple, list)):
        return [type(value).__name__, *map(shown, value)]
    kind = type(value)
    if kind.__name__ == "ndarray" and kind is not np.ndarray:
        strides = value.strides if value.size and value.ndim else ()
        return ["device", str(value.dtype), value.shape, strides, bool(value.flags.c_contiguous),
                bool(value.flags.f_contiguous), value.get()]
    if isinstance(value, np.ndarray):
        return ["host", str(value.dtype), value.shape, value]
    if isinstance(value, (int, float, str, bytes, np.generic)):
        return [kind.__name__, np.array(value)]
    return "something" if callable(value) or value is not None else None


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Exception) or isinstance(b, Exception):
        kinds = [{c.__name__ for c in type(one).__mro__} - {"Exception", "BaseException", "object"} for one in (a, b)]
        return type(a).__name__ in kinds[1]
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype.kind in "fc" and b.dtype.kind in "fc":
            return np.array_equal(np.signbit(a[a == 0]), np.signbit(b[b == 0])) and np.allclose(
                a, b, rtol=2e-6, atol=2e-6, equal_nan=True)
        return np.array_equal(a, b)
    return a == b


@pytest.mark.parametrize("group", GROUPS)
def test_an_expression_gives_the_same(group):
    if os.environ.get("TINYGAN_CUPY") != "cpu":
        pytest.skip("no GPU: and no processor in its place, which TINYGAN_CUPY=cpu asks for")
    import cpucupy
    import cupy
    from standin import strict_cupy

    def of_cupy():
        c = cpucupy.count()
        return c["launches"] + c["gemms"] + c["device_copies"] + c["memsets"], c["up"], c["up_bytes"], c["syncs"] > 0

    def of_standin():
        c = strict_cupy.count
        return c["launches"], c["uploads"], c["bytes_up"], c["syncs"] > 0

    lines = GROUPS[group].splitlines()
    wanted, costs = zip(*(evaluate(cupy, line, cpucupy.reset, of_cupy) for line in lines), strict=True)
    standin = strict_cupy.install()
    reset = strict_cupy.reset_count
    try:
        found, said = zip(*(evaluate(standin, line, reset, of_standin) for line in lines), strict=True)
    finally:
        strict_cupy.uninstall()
    stricter = {line for line, a, b in zip(lines, wanted, found, strict=True)
                if isinstance(b, Exception) and not isinstance(a, Exception)}
    assert stricter == STRICTER & set(lines)
    differ = {line: (a, b) for line, a, b in zip(lines, wanted, found, strict=True)
              if line not in stricter and not same(a, b)}
    assert not differ
    assert not {line: (a, b) for line, a, b in zip(lines, costs, said, strict=True)
                if a and b and (a[1:] != b[1:] or a[0] < b[0]) and line not in MORE_LAUNCHES}
