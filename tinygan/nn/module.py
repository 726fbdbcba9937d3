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

from tinygan.engine.tensor import Tensor
from tinygan.errors import TinyganError
from tinygan.kernels.arguments import check_state
from tinygan.ops.routes import routes_of


class Parameter(Tensor):
    """A tensor that an optimiser updates.

    data: as for Tensor, of any shape. bank: axis 0 counts filter sets, which may be used or not in a step. bounds:
    (low, high) between which an optimiser keeps the values, moving them back after each of its steps. copy: False uses
    the array itself, which the caller must not use any more. detached: True inside `normalized`, where the path from
    it to the loss is not recorded, so `grad` refuses it. Raises GraphError for data that are no real numbers.
    """

    __slots__ = ("bank", "bounds", "detached")

    def __init__(self, data: Any, *, bank: bool = False, bounds: tuple[float, float] | None = None,
                 copy: bool = True) -> None:
        super().__init__(data, requires_grad=True)
        if copy:  # an optimiser writes into it
            self.data = self.data.copy(order="K")
        self.bank, self.bounds, self.detached = bank, bounds, False


_PLAIN = (int, float, str, type(None))  # most attributes, which hold no parameters


class Module:
    """The base of everything with parameters. Subclasses set attributes in __init__ and define `forward`.

    Parameters are those among the attributes, and in lists, tuples, deques, mappings and modules among them.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.forward(*args, **options)

    def forward(self, *args: Any, **options: Any) -> Any:
        """Compute the module's result; calling the module calls this."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter) in the order of assignment, each parameter once.

        prefix: put before each name, such as "generator.".
        Raises TinyganError where two parameters would have one name, or where they lie in a set and so have none.
        """
        named: set[str] = set()
        for name, p in self._walk(prefix, set()):
            if isinstance(p, Module):
                continue
            if name in named:
                raise TinyganError(f"two parameters of {type(self).__name__} are called {name!r}: rename one of the "
                                   "attributes or keys that lead to them")
            named.add(name)
            yield name, p

    def _walk(self, prefix: str, walked: set[int]) -> Iterator[tuple[str, Module | Parameter]]:
        """Yield the module and the modules and parameters below it, each once, in the order of assignment."""
        walked.add(id(self))
        yield prefix, self
        for key, value in vars(self).items():
            if isinstance(value, _PLAIN):
                continue
            for name, item in _named(prefix + key, value):
                if id(item) in walked:  # reached by two paths, or from a module inside it
                    continue
                if isinstance(item, Module):
                    yield from item._walk(name + ".", walked)
                elif isinstance(item, Parameter):
                    walked.add(id(item))
                    yield name, item

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it, in the order of assignment, each once."""
        return (item for _, item in self._walk("", set()) if isinstance(item, Module))

    def parameters(self) -> list[Parameter]:
        """List all parameters, in the order of `named_parameters`."""
        return [p for _, p in self.named_parameters()]

    def parameter_count(self) -> int:
        """Count the numbers in all parameters."""
        return sum(p.size for p in self.parameters())

    def zero_grad(self) -> None:
        """Set all gradients to None (not zero: an optimiser skips a parameter without one)."""
        for p in self.parameters():
            p.grad = None

    def freeze(self) -> Module:
        """Make all parameters constants until `unfreeze`; return the module. For one step use `with frozen(net)`."""
        for p in self.parameters():
            p.requires_grad = False
        return self

    def unfreeze(self) -> Module:
        """Let gradients be computed for all parameters again; return the module."""
        for p in self.parameters():
            p.requires_grad = True
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copy all values to the host: dotted name -> NumPy array."""
        return {name: p.numpy().copy() for name, p in self.named_parameters()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy values in, by name; each parameter keeps its dtype and device.

        Names and shapes must match exactly; otherwise TinyganError names the first difference and nothing is changed.
        """
        parameters = dict(self.named_parameters())
        check_state(state, parameters, type(self).__name__)
        for name, p in parameters.items():
            p.data[...] = p.xp.asarray(state[name], dtype=p.dtype)
            p.version += 1

    def to(self, put: Callable[[np.ndarray], Any]) -> Module:
        """Move all parameters with `put`, a function from array to array such as cupy.asarray; return the module."""
        for p in self.parameters():
            p.data = put(p.data)
        return self

    def copy(self) -> Module:
        """Return an independent net with the same values. Raises TinyganError inside `normalized`."""
        if any(p.detached for p in self.parameters()):
            raise TinyganError(f"{type(self).__name__} cannot be copied inside `normalized`: leave that context first")
        return copy.deepcopy(self)


def _named(name: str, value: Any, around: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the members of lists, tuples, deques and mappings, nested ones too, as `name.0`, ... or `name.key`.

    around: the containers that hold this one; a container that holds itself is entered once.
    """
    if isinstance(value, (list, tuple, deque, Mapping)):
        if id(value) not in around:
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                yield from _named(f"{name}.{key}", item, (*around, id(value)))
    elif isinstance(value, (set, frozenset)) and any(isinstance(item, (Module, Parameter)) for item in value):
        raise TinyganError(f"{name} is a set, whose members have no order and so no names: use a list")
    else:
        yield name, value


class Sequential(Module):
    """Modules applied one after the other. A stochastic layer among them takes the next column of `routes`.

    layers: modules, or functions of one tensor.
    """

    def __init__(self, *layers: Callable) -> None:
        self.layers = list(layers)

    def forward(self, x: Tensor, routes: Sequence | None = None) -> Tensor:
        """Apply the modules to x (N, ...) and return the result of the last.

        routes: host integers (N, stochastic layers), or None where every bank is 1. Raises GraphError for routes of
        another shape.
        """
        stochastic = [layer for layer in self.layers if getattr(layer, "stochastic", False)]
        columns = iter(routes_of(routes, [layer.bank for layer in stochastic], len(x)))
        for layer in self.layers:
            x = layer(x, next(columns)) if layer in stochastic else layer(x)
        return x
