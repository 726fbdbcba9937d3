"""RMSprop, Adam and a moving average of a net's weights.

A filter bank raises a question that ordinary nets do not: what happens to a set which no sample was routed through in
this step? Here, by default, nothing (*lazy*): its weights stay, its running averages do not decay, and its count of
steps does not advance. The dense alternative treats "unused" as "gradient zero": the running average of the
squared gradient then shrinks between visits (to 0.9^16 = 0.19 of itself for RMSprop with 16 sets and one route per
batch). A step is divided by the root of that average, so the next one is two to three times too long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tinygan.engine.tensor import Tensor, watched
from tinygan.errors import TinyganError
from tinygan.kernels import for_array
from tinygan.kernels.arguments import check_state
from tinygan.kernels.arrays import to_numpy, xp_of
from tinygan.kernels.base import Kernels
from tinygan.kernels.update import Update
from tinygan.nn.module import Module, Parameter


class Optimizer:
    """What both optimisers share: the parameters by name, their state, and which filter sets to touch.

    named: (name, parameter) pairs, such as `net.named_parameters()`. lr: the learning rate; may be changed between
    steps. lazy: leave filter sets without samples alone (see the top of this file).
    Raises TinyganError for anything but such pairs, and where a name or a parameter is among them twice.
    A subclass names its running averages (slots) and calls its kernel.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, named: Iterable[tuple[str, Parameter]], *, lr: float, lazy: bool = True) -> None:
        self.named = [] if isinstance(named, (Tensor, Module)) else list(named)
        if not self.named or not all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Parameter)
                                     for pair in self.named):
            raise TinyganError("an optimiser takes (name, parameter) pairs, at least one: write "
                               f"{type(self).__name__}(net.named_parameters())")
        names, ids = [name for name, _ in self.named], [id(p) for _, p in self.named]
        for i, name in enumerate(names):
            if name in names[:i] or ids[i] in ids[:i]:
                raise TinyganError(f"an optimiser keeps its averages by name, and {name!r} or its parameter is given "
                                   "twice: name two nets apart, with named_parameters('a.') and named_parameters('b.')")
        if not lr > 0:
            raise TinyganError(f"the learning rate must be positive, not {lr}")
        self.lr, self._lr, self.lazy = float(lr), np.array(float(lr)), lazy
        arrays = [p.data for _, p in self.named]
        # On a GPU: one flat buffer for the parameters, one for each of their averages.
        pack = for_array(arrays[0]).pack
        for (_, p), array in zip(self.named, pack(arrays), strict=True):
            p.data = array
        zeros = {slot: pack([p.xp.zeros_like(p.data) for _, p in self.named]) for slot in self.slots}
        self.state = {name: {slot: zeros[slot][i] for slot in self.slots} for i, (name, _) in enumerate(self.named)}
        self.steps = {name: np.zeros(len(p) if p.bank else 1, np.int64) for name, p in self.named}

    def step(self) -> None:
        """Update every parameter that has a gradient, in place. Parameters whose `.grad` is None stay as they are."""
        with_gradient = [(name, p) for name, p in self.named if p.grad is not None]
        if not with_gradient:
            return
        updates = [Update(p.data, tuple(self.state[name].values()), p.grad.data, self.steps[name],
                          p.grad.rows if self.lazy and p.bank else None, p.bounds) for name, p in with_gradient]

        def count() -> None:
            """Count this step; a step that is replayed (kernels/gpu/graph.py) runs no more of this method."""
            self._lr[...] = self.lr
            for (_, p), update in zip(with_gradient, updates, strict=True):
                update.steps[...] += 1 if update.rows is None else update.rows
                p.version += 1

        kernels = for_array(updates[0].p)
        kernels.each_step(count)
        watched(type(self).__name__, updates[0].p, lambda: self._apply(kernels, updates))

    def _apply(self, kernels: Kernels, updates: list[Update]) -> None:
        """Update all parameters in place by the optimiser's kernel."""
        raise NotImplementedError

    def _entries(self) -> dict[str, Any]:
        """List the arrays that are saved, by name: `name/slot` and `name/steps`."""
        return {f"{name}/{slot}": array for name, slots in self.state.items()
                for slot, array in [*slots.items(), ("steps", self.steps[name])]}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copy the state to the host: `name/slot` and `name/steps` -> array."""
        return {key: to_numpy(array).copy() for key, array in self._entries().items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy a saved state in. Raises TinyganError naming the first entry that is missing or of another shape."""
        current = self._entries()
        check_state({key: state[key] for key in current if key in state}, current, type(self).__name__)
        for key, array in current.items():
            array[...] = xp_of(array).asarray(state[key])


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012): v = alpha v + (1 - alpha) g^2;  p -= lr g / (sqrt(v) + eps).

    named: (name, parameter) pairs, such as net.named_parameters(). lr: the learning rate; `.lr` may be changed between
    steps. alpha, eps: 0.9 and 1e-6 as in Xiang & Li's code; no momentum, not centred. lazy: leave filter sets without
    samples as they are (our choice, see the top of nn/optim.py). Raises TinyganError for values outside their ranges
    and for a name or parameter that is given twice. Methods: step, state_dict, load_state_dict.
    """

    slots = ("square",)

    def __init__(self, named: Iterable[tuple[str, Parameter]], *, lr: float = 1e-4, alpha: float = 0.9,
                 eps: float = 1e-6, lazy: bool = True) -> None:
        super().__init__(named, lr=lr, lazy=lazy)
        if not 0 <= alpha < 1:
            raise TinyganError(f"RMSprop's alpha must lie in [0, 1), not {alpha}")
        self.alpha, self.eps = float(alpha), float(eps)

    def _apply(self, kernels: Kernels, updates: list[Update]) -> None:
        kernels.rmsprop_all(updates, lr=self._lr, alpha=self.alpha, eps=self.eps)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015): m, v = averages of g and g^2;  p -= lr m' / (sqrt(v') + eps), m' and v' bias-corrected.

    named, lr, lazy and errors: as for RMSprop. The bias of a filter set is corrected by the number of steps in which it
    was used. betas: decay of m and of v; (0.5, 0.99) is our choice for GANs: m covers few steps, because the direction
    of the gradient changes as D and G play. eps: 1e-8, the paper's. Methods: step, state_dict, load_state_dict.
    """

    slots = ("mean", "square")

    def __init__(self, named: Iterable[tuple[str, Parameter]], *, lr: float = 2e-4,
                 betas: Sequence[float] = (0.5, 0.99), eps: float = 1e-8, lazy: bool = True) -> None:
        super().__init__(named, lr=lr, lazy=lazy)
        if np.shape(betas) != (2,) or not all(0 <= b < 1 for b in betas):
            raise TinyganError(f"Adam's betas must be two numbers in [0, 1), not {betas}")
        self.betas, self.eps = (float(betas[0]), float(betas[1])), float(eps)

    def _apply(self, kernels: Kernels, updates: list[Update]) -> None:
        kernels.adam_all(updates, lr=self._lr, beta1=self.betas[0], beta2=self.betas[1], eps=self.eps)


class EMA:
    """An exponential moving average of a net's weights, in a twin of it (`.module`): steadier images than the net's.

    decay: the share of the old average kept per step, in [0, 1). Early steps keep less, (1 + t) / (10 + t) in step t,
    so that the random initial weights soon have no share (the rule of TensorFlow's ExponentialMovingAverage).
    Raises TinyganError for another decay.
    """

    def __init__(self, net: Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise TinyganError(f"the decay of a moving average must lie in [0, 1), not {decay}")
        self.module, self.decay, self.updates = net.copy().freeze(), float(decay), 0
        self._decay = np.array(0.0)  # of the update that is made

    def update(self, net: Module) -> None:
        """Set average = decay * average + (1 - decay) * weights, in place. net: of the same architecture."""
        pairs = list(zip(self.module.parameters(), net.parameters(), strict=True))

        def count() -> None:
            """Count this update; one that is replayed (kernels/gpu/graph.py) runs no more of this method."""
            self._decay[...] = min(self.decay, (1 + self.updates) / (10 + self.updates))
            self.updates += 1
            for average, _ in pairs:
                average.version += 1

        kernels = for_array(pairs[0][0].data)
        kernels.each_step(count)
        kernels.lerp_all([(average.data, p.data) for average, p in pairs], self._decay)
