"""PyTorch's side of the GPU benchmark: the same layer and the same training step, in the forms that are fast on a GPU.

The discriminator is that of torch_nets.py. The generator differs from the one there in that a bank is one parameter
(K, in, out, kh, kw): normalising it takes a few launches instead of a few for each of K sets. A filter set that no
sample used then has a gradient of zeros rather than none. Forms of a routed layer, as in torch_nets.py:

    loop       sort the samples by route, one call for each filter set in use, put the results back in order
    grouped    gather one filter set per sample, one call of a grouped convolution with as many groups as samples

and each in the memory orders "plain" and "channels_last". Compiled forms start from the plain order (the compiler
chooses the order) and, in the training step, come with and without the optimisers compiled as well. The step's loop is
not compiled: the number of samples per set changes from step to step, and every change would be compiled anew.

VGG16 and the GPAN's step are those of torch_gpan.py. The GPAN's step has no compiled form: its discriminator is called
three times before a gradient is computed, which CUDA graphs do not allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torch_gpan
from cpu_worker import LATENT, LR
from gpan_problem import GPANProblem, VGG16Problem
from gpu_tinygan import BATCHES, HostClock, LayerProblem, StepProblem, moves
from torch import Tensor, nn
from torch_nets import EPS, LAYOUTS, Discriminator, TPReLU

Compile = Callable[[Callable], Callable]


class TorchClock:
    """Events in PyTorch's current stream."""

    def mark(self) -> torch.cuda.Event:
        """Record an event after all work queued so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """Wait until all work is done."""
        torch.cuda.synchronize()

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Measure the milliseconds from one event to another; both must have come."""
        return start.elapsed_time(end)


def compile_reduced(function: Callable) -> Callable:
    """Compile by torch.compile with CUDA graphs, for inputs whose shapes never change."""
    return torch.compile(function, mode="reduce-overhead", dynamic=False)


def set_math(math: str) -> None:
    """Allow TF32 in products and convolutions, or not; and make cuDNN time its algorithms once and keep the fastest."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = math == "tf32"
    torch.backends.cudnn.benchmark = True


def forget() -> None:
    """Give up what was compiled, and the memory that nothing uses."""
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


Problem = LayerProblem | StepProblem | VGG16Problem | GPANProblem


def forms(problem: Problem, compiled: bool = True) -> list[str]:
    """List the forms that solve a problem: "eager" or "compiled", then the memory order, the routing and so on."""
    routings = (" loop", " grouped") if problem.bank > 1 else ("",)
    names = [f"eager {layout}{routing}" for routing in routings for layout in LAYOUTS]
    if compiled and isinstance(problem, (LayerProblem, VGG16Problem)):
        names += [f"compiled plain{routing}" for routing in routings]
    elif compiled and isinstance(problem, StepProblem):
        names += [f"compiled plain{routings[-1]}{more}" for more in ("", " optimisers")]
    return names


def make(problem: Problem, form: str, device: str, weights: Mapping[str, np.ndarray] | None,
         compiling: Compile = compile_reduced) -> TorchLayer | TorchStep | TorchGPAN:
    """Make the side that solves `problem` in that form; weights: tinygan's, for a step."""
    compiling = compiling if form.startswith("compiled") else None
    if isinstance(problem, LayerProblem):
        return TorchLayer(problem, form, device, compiling)
    kind = TorchStep if isinstance(problem, StepProblem) else TorchGPAN
    return kind(problem, form, device, weights, compiling)


def clock_for(device: str) -> TorchClock | HostClock:
    """Make a clock: events on a GPU, the processor's clock elsewhere."""
    return TorchClock() if device.startswith("cuda") else HostClock()


# ---- routing -----------------------------------------------------------------------------------------------------


class Sorted(NamedTuple):
    """Routes of one layer for the loop: the samples by filter set, the way back, and each set with its samples."""

    order: Tensor
    inverse: Tensor
    used: list[int]
    counts: list[int]


def plan(routes: np.ndarray, routing: str, device: str) -> list[Any]:
    """Return what the layers need, one entry for each column of routes (N, layers), in one copy to the device."""
    if not routing:
        return [None] * routes.shape[1]
    if routing == "grouped":
        return list(torch.from_numpy(np.ascontiguousarray(routes.T)).to(device, non_blocking=True).unbind(0))
    order = np.argsort(routes, axis=0, kind="stable")
    on_device = torch.from_numpy(np.stack([order.T, np.argsort(order, axis=0).T])).to(device, non_blocking=True)
    columns = []
    for i, column in enumerate(routes.T):
        used, counts = np.unique(column, return_counts=True)
        columns.append(Sorted(on_device[0, i], on_device[1, i], used.tolist(), counts.tolist()))
    return columns


def routed(one: Callable[[Tensor, Tensor], Tensor], each: Callable[[Tensor, Tensor], Tensor], x: Tensor,
           filters: Tensor, routes: Sorted | Tensor | None) -> Tensor:
    """Apply filters (K, ...) to samples x. one(x, w): a set to all of x; each(x, w): w[n] to sample n."""
    if routes is None:
        return one(x, filters[0])
    if isinstance(routes, Tensor):
        return each(x, filters.index_select(0, routes))
    sets = filters.unbind(0)  # rather than filters[k]: its gradient is one copy of the bank instead of K
    parts = x.index_select(0, routes.order).split(routes.counts)
    made = [one(part, sets[k]) for k, part in zip(routes.used, parts, strict=True)]
    return torch.cat(made).index_select(0, routes.inverse)


def deconvolution(x: Tensor, filters: Tensor, routes: Sorted | Tensor | None, bias: Tensor | None = None, *,
                  stride: int = 2, padding: int = 1, layout: str = "plain") -> Tensor:
    """Compute a transposed convolution of x (N, A, h, w) with filters (K, A, B, kh, kw)."""
    order = LAYOUTS[layout]

    def one(x: Tensor, w: Tensor) -> Tensor:
        return F.conv_transpose2d(x, w, bias, stride, padding)

    def each(x: Tensor, w: Tensor) -> Tensor:
        n = len(x)
        wide = x.reshape(1, -1, *x.shape[2:]).contiguous(memory_format=order)
        y = F.conv_transpose2d(wide, w.flatten(0, 1).contiguous(memory_format=order), None, stride, padding, groups=n)
        return y.reshape(n, -1, *y.shape[2:]).contiguous(memory_format=order)

    return routed(one, each, x, filters, routes)


def in_order(bank: Tensor, layout: str) -> Tensor:
    """Copy a bank (K, A, B, kh, kw) so that each set lies in memory in the order `layout`."""
    if layout == "plain":
        return bank.contiguous()
    return bank.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


# ---- the layer ---------------------------------------------------------------------------------------------------


class TorchLayer:
    """The layer problem in PyTorch. Its routes lie ready on the device, as tinygan's do after the first run."""

    period = 1

    def __init__(self, problem: LayerProblem, form: str, device: str, compiling: Compile | None) -> None:
        _, layout, routing = f"{form} ".split(" ")[:3]
        arrays = {name: torch.from_numpy(a).to(device) for name, a in problem.arrays().items() if name != "routes"}
        self.x, self.dy = (arrays[name].contiguous(memory_format=LAYOUTS[layout]) for name in ("x", "dy"))
        self.weight = in_order(arrays["weight"], layout)
        self.x.requires_grad_(), self.weight.requires_grad_()
        (routes,) = plan(problem.routes()[:, None], routing, device)
        self.clock, self.compiled = clock_for(device), compiling is not None

        def forward(x: Tensor, weight: Tensor) -> Tensor:
            return deconvolution(x, weight, routes, stride=problem.stride, padding=problem.padding, layout=layout)

        self.forward = compiling(forward) if compiling else forward

    def compute(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Compute (output, (gradient of the input, gradient of the weight))."""
        begin(self.compiled)
        y = self.forward(self.x, self.weight)
        return y, torch.autograd.grad(y, (self.x, self.weight), self.dy)

    def run(self) -> None:
        """Run forward and backward once."""
        self.compute()

    def results(self) -> dict[str, np.ndarray]:
        """Compute the output and both gradients."""
        y, (dx, dw) = self.compute()
        return {"losses/output": numbers(y), "gradients/layer.input": numbers(dx),
                "gradients/layer.weight": numbers(dw)}


def begin(compiled: bool) -> None:
    """Mark the memory of the last iteration's CUDA graphs as free to be overwritten."""
    if compiled:
        torch.compiler.cudagraph_mark_step_begin()


def numbers(tensor: Tensor) -> np.ndarray:
    """Return a copy on the host."""
    return tensor.detach().cpu().numpy().copy()


# ---- the training step -------------------------------------------------------------------------------------------


class Bank(nn.Module):
    """K sets of weights (in, out, kh, kw) of a transposed convolution, normalised per output channel."""

    def __init__(self, sets: int, inputs: int, outputs: int, kernel: int, *, scale: float, layout: str,
                 affine: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(in_order(torch.empty(sets, inputs, outputs, kernel, kernel), layout))
        self.gain = nn.Parameter(torch.empty(1, outputs)) if affine else None
        self.bias = nn.Parameter(torch.empty(1, outputs)) if affine else None
        self.scale, self.layout = scale, layout

    def filters(self) -> Tensor:
        """Compute all sets as they are applied."""
        n = torch.sqrt(self.scale * self.weight.square().sum((1, 3, 4), keepdim=True) + EPS)
        return self.weight / n if self.gain is None else self.weight * (self.gain.view(1, 1, -1, 1, 1) / n)


class Projection(Bank):
    """z (N, latent) -> (N, units)."""

    def forward(self, z: Tensor, routes: Sorted | Tensor | None) -> Tensor:
        return routed(torch.matmul, lambda z, w: torch.bmm(z[:, None], w).squeeze(1), z,
                      self.filters().flatten(2), routes)


class Deconv(Bank):
    """Kernel 4, stride 2, padding 1."""

    def forward(self, x: Tensor, routes: Sorted | Tensor | None) -> Tensor:
        bias = None if self.bias is None else self.bias.view(-1)
        return deconvolution(x, self.filters(), routes, bias, layout=self.layout)


class Generator(nn.Module):
    """z (N, latent) and a plan of routes -> images (N, 1, 32, 32) in [0, 1]."""

    def __init__(self, base: int, bank: int, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.projection = Projection(bank, LATENT, 4 * base * 16, 1, scale=1.0, layout=layout)
        self.activations = nn.ModuleList(TPReLU(width) for width in (4 * base, 2 * base, base))
        deep = {"kernel": 4, "scale": 0.25, "layout": layout}
        self.deconvs = nn.ModuleList([Deconv(bank, 4 * base, 2 * base, **deep), Deconv(bank, 2 * base, base, **deep),
                                      Deconv(1, base, 1, affine=True, **deep)])

    def forward(self, z: Tensor, routes: list[Any]) -> Tensor:
        x = self.projection(z, routes[0])
        x = x.view(len(z), 4, 4, -1).permute(0, 3, 1, 2).contiguous(memory_format=LAYOUTS[self.layout])
        for deconv, act, column in zip(self.deconvs, self.activations, [*routes[1:3], None], strict=True):
            x = deconv(act(x), column)
        return torch.sigmoid(x)


class TorchStep:
    """The training step in PyTorch. Routes come from the host, as they do in tinygan."""

    period = BATCHES

    def __init__(self, problem: StepProblem, form: str, device: str, weights: Mapping[str, np.ndarray],
                 compiling: Compile | None) -> None:
        words = form.split(" ")
        self.layout, self.routing = words[1], next((w for w in words if w in ("loop", "grouped")), "")
        self.G = Generator(problem.base, problem.bank, self.layout).to(device)
        self.D = Discriminator(problem.base, layout=self.layout).to(device)
        self.load(weights)
        self.g_optimizer, self.d_optimizer = (
            torch.optim.RMSprop(net.parameters(), lr=LR, alpha=0.9, eps=1e-6, foreach=True) for net in (self.G, self.D))
        self.compiled = compiling is not None
        if compiling:
            self.d_loss, self.g_loss = compiling(self.d_loss), compiling(self.g_loss)
        self.d_update, self.g_update = self.d_optimizer.step, self.g_optimizer.step
        if compiling and "optimisers" in words:
            self.d_update, self.g_update = (compiling(partial(update, optimizer)) for optimizer in
                                            (self.d_optimizer, self.g_optimizer))
        self.clock, self.device, self.at = clock_for(device), device, 0
        self.batches = [{name: a if a.dtype.kind == "i" else torch.from_numpy(a).to(device) for name, a in b.items()}
                        for b in problem.batches()]

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Copy in tinygan's weights by name; each set of a bank has a name of its own there."""
        with torch.no_grad():
            for name, p in self.named():
                sets = [name] if name in weights else [f"{name}.{k}" for k in range(len(p))]
                values = np.stack([weights[key] for key in sets]) if sets != [name] else weights[name]
                p.copy_(torch.from_numpy(values))

    def named(self) -> list[tuple[str, Tensor]]:
        """Return every parameter with its net's letter before its name."""
        return [(f"{letter}.{name}", p) for letter, net in (("G", self.G), ("D", self.D))
                for name, p in net.named_parameters()]

    def by_set(self, tensors: list[tuple[str, Tensor]]) -> dict[str, np.ndarray]:
        """Return copies on the host, banks set by set, under tinygan's names."""
        arrays = {}
        for name, tensor in tensors:
            array = numbers(tensor)
            arrays |= {f"{name}.{k}": part for k, part in enumerate(array)} if array.ndim == 5 else {name: array}
        return arrays

    def d_loss(self, real: Tensor, z: Tensor, routes: list[Any]) -> Tensor:
        """Compute the discriminator's loss; the generator is run without a record."""
        with torch.no_grad():
            fake = self.G(z, routes)
        logits = self.D(torch.cat([real, fake]).contiguous(memory_format=LAYOUTS[self.layout]))
        return F.softplus(-logits[:len(real)]).mean() + F.softplus(logits[len(real):]).mean()

    def g_loss(self, z: Tensor, routes: list[Any]) -> Tensor:
        """Compute the generator's loss."""
        return F.softplus(-self.D(self.G(z, routes))).mean()

    def train(self, batch: Mapping[str, Any], update: bool = True) -> tuple[Tensor, Tensor]:
        """Take one step of the discriminator and one of the generator."""
        for optimizer in (self.d_optimizer, self.g_optimizer):  # before `begin`: CUDA graphs hold old gradients' memory
            optimizer.zero_grad(set_to_none=True)
        begin(self.compiled)
        d_loss = self.d_loss(batch["real"], batch["z1"], plan(batch["routes1"], self.routing, self.device))
        d_loss.backward()
        if update:
            self.d_update()
        self.D.requires_grad_(False)
        g_loss = self.g_loss(batch["z2"], plan(batch["routes2"], self.routing, self.device))
        g_loss.backward()
        if update:
            self.g_update()
        self.D.requires_grad_(True)
        return d_loss, g_loss

    def run(self) -> None:
        """Take one step with the next batch."""
        self.train(self.batches[self.at % BATCHES])
        self.at += 1

    def results(self) -> dict[str, np.ndarray]:
        """Compute losses and gradients from the weights as they are, then how far one step moves each parameter."""
        before = self.by_set(self.named())
        losses = self.train(self.batches[0], update=False)
        arrays = {"losses/both": np.array([float(loss.detach()) for loss in losses])}
        gradients = [(name, p.grad) for name, p in self.named() if p.grad is not None]
        arrays |= {f"gradients/{name}": a for name, a in self.by_set(gradients).items()}
        self.train(self.batches[0])
        return arrays | moves(before, self.by_set(self.named()))


def update(optimizer: torch.optim.Optimizer) -> None:
    """Make one step of an optimiser, as a function that can be compiled."""
    optimizer.step()


# ---- VGG16 and the GPAN's step -------------------------------------------------------------------------------------


class TorchGPAN:
    """What torch_gpan.py makes of a problem, on the device."""

    def __init__(self, problem: VGG16Problem | GPANProblem, form: str, device: str, weights: Mapping[str, np.ndarray],
                 compiling: Compile | None) -> None:
        self.side = torch_gpan.make(problem, form.partition(" ")[2], "float32", device)
        self.side.load(weights)
        if isinstance(problem, GPANProblem):
            self.side.use_optimizer({"fused": device.startswith("cuda"), "foreach": False})
        self.compiled = compiling is not None
        if compiling:
            self.side.scores = compiling(self.side.scores)
        self.clock, self.at, self.period = clock_for(device), 0, problem.count
        self.batches = [{name: torch.from_numpy(a).to(device) if getattr(a, "dtype", None) == np.float32 else a
                         for name, a in batch.items()} for batch in problem.batches()]

    def train(self) -> list[Tensor]:
        """Take one step with the next batch; return the losses."""
        begin(self.compiled)
        losses = self.side.train(self.batches[self.at % self.period])
        self.at += 1
        return losses

    def run(self) -> None:
        """Take one step with the next batch."""
        self.train()

    def weights(self) -> dict[str, np.ndarray]:
        """Return copies on the host, under tinygan's names."""
        if not hasattr(self.side, "classifier"):
            return {}
        return {f"{net}.{name}": numbers(p) for net, module in self.side.nets.items()
                for name, p in module.named_parameters()}

    def results(self) -> dict[str, np.ndarray]:
        """Compute losses and gradients, then how far the step moved each parameter."""
        before = self.weights()
        self.at = 0
        arrays = {"losses/all": np.array([float(loss) for loss in self.train()])}
        for net in self.side.nets:
            arrays |= {f"gradients/{name}": a.copy() for name, a in self.side.gradients(net).items()}
        return arrays | moves(before, self.weights())
