"""Parameters and the modules that hold them.

A module is a Python object; its parameters are the `Parameter`s among its attributes, and those of the modules among
its attributes. They are listed in the order in which they were assigned and named by the path to them, such as
`deconvs.0.weight`: the same names and the same order in every process.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinygan.engine import Tensor
from tinygan.errors import TinyganError
from tinygan.routes import routes_of


class Parameter(Tensor):
    """A tensor that is learned.

    bank: axis 0 counts filter sets, which may be used or not in a step. bounds: (low, high) between which an
    optimiser keeps the values, moving them back after each of its steps. copy: False takes the array itself, from a
    caller who gives it away. outside: its way into the loss is not
    recorded at the moment (layers.normalised), so `grad` refuses it.
    """

    __slots__ = ("bank", "bounds", "outside")

    def __init__(self, data: Any, *, bank: bool = False, bounds: tuple[float, float] | None = None,
                 copy: bool = True) -> None:
        super().__init__(data, requires_grad=True)
        if copy:  # an optimiser writes into it
            self.data = self.data.copy(order="K")
        self.bank, self.bounds, self.outside = bank, bounds, False


class Module:
    """Base of everything with parameters. Subclasses set attributes in __init__ and define `forward`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.forward(*args, **options)

    def forward(self, *args: Any, **options: Any) -> Any:
        """What the module computes; calling the module calls this."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) in the order of assignment, each parameter once.

        Raises TinyganError where two parameters would have one name, or where they lie in a set and so have none.
        """
        named: dict[str, Parameter] = {}
        seen: set[int] = set()
        for name, p in self._walk(prefix, set()):
            if id(p) in seen:
                continue
            if name in named:
                raise TinyganError(f"two parameters of {type(self).__name__} are called {name!r}: rename one of the "
                                   "attributes or keys that lead to them")
            seen.add(id(p))
            named[name] = p
            yield name, p

    def _walk(self, prefix: str, walked: set[int]) -> Iterator[tuple[str, Parameter]]:
        if id(self) in walked:  # reached by two ways, or from a module inside it
            return
        walked.add(id(self))
        for key, value in vars(self).items():
            for name, item in _named(prefix + key, value):
                if isinstance(item, Parameter):
                    yield name, item
                elif isinstance(item, Module):
                    yield from item._walk(name + ".", walked)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, in the order of assignment, each once."""
        seen: set[int] = set()
        stack: list[Module] = [self]
        while stack:
            module = stack.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield module
                inner = [item for key, value in vars(module).items() for _, item in _named(key, value)]
                stack += [item for item in reversed(inner) if isinstance(item, Module)]

    def parameters(self) -> list[Parameter]:
        """All parameters, in the order of `named_parameters`."""
        return [p for _, p in self.named_parameters()]

    def parameter_count(self) -> int:
        """How many numbers are learned."""
        return sum(p.size for p in self.parameters())

    def zero_grad(self) -> None:
        """Forget the gradients of the last step (None, not zero: an optimiser skips a parameter without one)."""
        for p in self.parameters():
            p.grad = None

    def freeze(self) -> Module:
        """Make all parameters constants until `unfreeze`. For one step of a GAN, `with frozen(D)` is the tool."""
        for p in self.parameters():
            p.requires_grad = False
        return self

    def unfreeze(self) -> Module:
        """The opposite of `freeze`."""
        for p in self.parameters():
            p.requires_grad = True
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """Name -> copy of the values, on the host."""
        return {name: p.numpy().copy() for name, p in self.named_parameters()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy values in, by name. Names and shapes must match exactly; otherwise TinyganError names the first
        difference and nothing is changed."""
        own = dict(self.named_parameters())
        for name in [*own, *state]:
            if name not in own or name not in state:
                missing = "has no" if name not in state else "has an unknown"
                raise TinyganError(f"the saved state {missing} entry {name!r} for {type(self).__name__}; "
                                   "was it saved with other settings?")
            if own[name].shape != tuple(getattr(state[name], "shape", ())):
                raise TinyganError(f"{name}: the saved shape {np.shape(state[name])} is not this net's "
                                   f"{own[name].shape}; was it saved with other settings?")
        for name, p in own.items():
            p.data[...] = p.xp.asarray(state[name], dtype=p.dtype)
            p.version += 1

    def to(self, put: Callable[[np.ndarray], Any]) -> Module:
        """Move all parameters with `put`, such as Device.put or cupy.asarray."""
        for p in self.parameters():
            p.data = put(p.data)
        return self

    def copy(self) -> Module:
        """An independent twin with the same values. Raises TinyganError inside `normalised`, as it would keep that."""
        if any(p.outside for p in self.parameters()):
            raise TinyganError(f"{type(self).__name__} cannot be copied inside `normalised`: leave that context first")
        return copy.deepcopy(self)


def _named(name: str, value: Any, around: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """A list, tuple, deque or mapping counts as its members, `name.0`, `name.1`, ... or `name.key`, however deep they
    lie; one that holds itself is gone into once (`around`: the containers on the way)."""
    if isinstance(value, (list, tuple, deque, Mapping)):
        if id(value) not in around:
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                yield from _named(f"{name}.{key}", item, (*around, id(value)))
    elif isinstance(value, (set, frozenset)) and any(isinstance(item, (Module, Parameter)) for item in value):
        raise TinyganError(f"{name} is a set, whose members have no order and so no names: use a list")
    else:
        yield name, value


class Sequential(Module):
    """Modules applied one after the other. A stochastic layer among them takes the next column of `routes`."""

    def __init__(self, *layers: Callable) -> None:
        self.layers = list(layers)

    def forward(self, x: Tensor, routes: Sequence | None = None) -> Tensor:
        """Apply the modules; routes: host integers (N, stochastic layers), or None where every bank is 1.

        Raises GraphError for routes of another shape.
        """
        stochastic = [layer for layer in self.layers if getattr(layer, "stochastic", False)]
        columns = iter(routes_of(routes, [layer.bank for layer in stochastic], len(x)))
        for layer in self.layers:
            x = layer(x, next(columns)) if layer in stochastic else layer(x)
        return x
