"""The benchmark's nets in PyTorch: the adapted GAN and the SGAN for 32 x 32 x 1 images, as a PyTorch user writes them.

They are the nets of tinygan/models/gan/nets.py with the default settings (strict weight normalisation, TPReLU,
images fed to the discriminator as 2x - 1), and their parameters have the same names. A bank is a list of K parameters,
so a filter set that no sample uses has no gradient, and the optimiser skips it, as tinygan's does. PyTorch has no
routed convolution; the two usual ways to get one are both here, and the benchmark takes the faster:

    loop       sort the samples by route, one call for each filter set in use, put the results back in order
    grouped    gather one filter set per sample, one call of a grouped convolution with as many groups as samples
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # inside the root of weight normalisation
LAYOUTS = {"plain": torch.contiguous_format, "channels_last": torch.channels_last}


class Filters(nn.Module):
    """A bank of K weights (in, out, kh, kw) for transposed or (out, in, kh, kw) for ordinary convolutions."""

    def __init__(self, shape: tuple[int, ...], *, bank: int, out_axis: int, scale: float, affine: bool,
                 layout: str) -> None:
        super().__init__()
        self.weight = nn.ParameterList(torch.empty(shape).contiguous(memory_format=LAYOUTS[layout])
                                       for _ in range(bank))
        self.axes, self.scale = [axis for axis in range(4) if axis != out_axis], scale
        channels = shape[out_axis]
        self.gain = nn.Parameter(torch.empty(1, channels)) if affine else None
        self.bias = nn.Parameter(torch.empty(1, channels)) if affine else None
        self.per_channel = [channels if axis == out_axis else 1 for axis in range(4)]

    def norm(self, k: int) -> Tensor:
        """Compute the length of each output channel's filter in set k, shaped to broadcast over the weight."""
        return torch.sqrt(self.scale * self.weight[k].square().sum(self.axes, keepdim=True) + EPS)

    def filters(self, k: int = 0) -> Tensor:
        """Set k as it is applied; an affine layer's gain is multiplied in here, where the arrays are smallest."""
        n = self.norm(k)
        return self.weight[k] / n if self.gain is None else self.weight[k] * (self.gain.view(self.per_channel) / n)

    def flat_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias.view(-1)


class Conv(Filters):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int, *, affine: bool,
                 layout: str) -> None:
        super().__init__((outputs, inputs, kernel, kernel), bank=1, out_axis=0, scale=1.0, affine=affine,
                         layout=layout)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters(), self.flat_bias(), self.stride, self.padding)


class Deconv(Filters):
    """A transposed convolution, kernel 4, stride 2, padding 1, that takes a filter set for each sample."""

    def __init__(self, inputs: int, outputs: int, *, bank: int, affine: bool, routing: str, layout: str) -> None:
        super().__init__((inputs, outputs, 4, 4), bank=bank, out_axis=1, scale=0.25, affine=affine, layout=layout)
        self.routing, self.layout = routing, layout

    def forward(self, x: Tensor, routes: np.ndarray) -> Tensor:
        if len(self.weight) == 1:
            return self.apply_set(x, self.filters())
        return loop(self, x, routes) if self.routing == "loop" else self.grouped(x, routes)

    def apply_set(self, x: Tensor, filters: Tensor) -> Tensor:
        return F.conv_transpose2d(x, filters, self.flat_bias(), stride=2, padding=1)

    def grouped(self, x: Tensor, routes: np.ndarray) -> Tensor:
        n, inputs, height, width = x.shape
        gathered = gather_filters(self, routes)
        gathered = gathered.flatten(0, 1).contiguous(memory_format=LAYOUTS[self.layout])
        wide = x.reshape(1, n * inputs, height, width).contiguous(memory_format=LAYOUTS[self.layout])
        y = F.conv_transpose2d(wide, gathered, stride=2, padding=1, groups=n)
        return y.reshape(n, -1, 2 * height, 2 * width).contiguous(memory_format=LAYOUTS[self.layout])


class Projection(Filters):
    """z (N, latent) -> (N, units): a fully connected layer with a bank."""

    def __init__(self, latent: int, units: int, *, bank: int, routing: str) -> None:
        super().__init__((latent, units, 1, 1), bank=bank, out_axis=1, scale=1.0, affine=False, layout="plain")
        self.routing = routing

    def forward(self, z: Tensor, routes: np.ndarray) -> Tensor:
        if len(self.weight) == 1:
            return self.apply_set(z, self.filters())
        if self.routing == "loop":
            return loop(self, z, routes)
        return torch.bmm(z[:, None], gather_filters(self, routes).flatten(2)).squeeze(1)

    def apply_set(self, z: Tensor, filters: Tensor) -> Tensor:
        return z @ filters.flatten(1)


def loop(layer: Deconv | Projection, x: Tensor, routes: np.ndarray) -> Tensor:
    """Make one call for each filter set in use, on the samples routed through it."""
    order = np.argsort(routes, kind="stable")
    used, counts = np.unique(routes, return_counts=True)
    parts = x.index_select(0, torch.from_numpy(order).to(x.device)).split(counts.tolist())
    made = [layer.apply_set(part, layer.filters(k)) for k, part in zip(used.tolist(), parts, strict=True)]
    return torch.cat(made).index_select(0, torch.from_numpy(np.argsort(order)).to(x.device))


def gather_filters(layer: Deconv | Projection, routes: np.ndarray) -> Tensor:
    """Gather (N, in, out, kh, kw): each sample's filter set, from a stack of the sets in use."""
    used, place = np.unique(routes, return_inverse=True)
    sets = torch.stack([layer.filters(k) for k in used.tolist()])
    return sets.index_select(0, torch.from_numpy(place).to(sets.device))


class TPReLU(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.empty(1, channels))
        self.shift = nn.Parameter(torch.empty(1, channels))

    def forward(self, x: Tensor) -> Tensor:
        t = self.shift.view(1, -1, 1, 1)
        return F.prelu(x - t, self.slope.view(-1).clamp(0, 1)) + t


class Generator(nn.Module):
    """z (N, latent) and routes (N, 4) -> images (N, 1, 32, 32) in [0, 1]."""

    def __init__(self, base: int, bank: int, latent: int, *, routing: str, layout: str) -> None:
        super().__init__()
        self.layout = layout
        common = {"routing": routing, "layout": layout}
        self.projection = Projection(latent, 4 * base * 16, bank=bank, routing=routing)
        self.activations = nn.ModuleList(TPReLU(width) for width in (4 * base, 2 * base, base))
        self.deconvs = nn.ModuleList([Deconv(4 * base, 2 * base, bank=bank, affine=False, **common),
                                      Deconv(2 * base, base, bank=bank, affine=False, **common),
                                      Deconv(base, 1, bank=1, affine=True, **common)])

    def forward(self, z: Tensor, routes: np.ndarray) -> Tensor:
        x = self.projection(z, routes[:, 0])
        # The units are ordered (row, column, channel): channels_last as it is, and a 1 MB copy for the plain layout.
        x = x.view(len(z), 4, 4, -1).permute(0, 3, 1, 2).contiguous(memory_format=LAYOUTS[self.layout])
        for i, (deconv, act) in enumerate(zip(self.deconvs, self.activations, strict=True)):
            x = deconv(act(x), routes[:, i + 1])
        return torch.sigmoid(x)


class Discriminator(nn.Module):
    """Images (N, 1, 32, 32) in [0, 1] -> logits (N,)."""

    def __init__(self, base: int, *, layout: str) -> None:
        super().__init__()
        widths = (1, base, 2 * base, 4 * base)
        self.convs = nn.ModuleList(Conv(a, b, 4, 2, 1, affine=False, layout=layout)
                                   for a, b in zip(widths, widths[1:], strict=False))
        self.activations = nn.ModuleList(TPReLU(width) for width in widths[1:])
        self.last = Conv(widths[-1], 1, 4, 1, 0, affine=True, layout=layout)

    def forward(self, images: Tensor) -> Tensor:
        x = images * 2 - 1
        for conv, act in zip(self.convs, self.activations, strict=True):
            x = act(conv(x))
        return self.last(x).flatten()


class NamedNets:
    """What a trainer does with its nets, a dictionary of modules, by the names of their parameters."""

    nets: dict[str, nn.Module]

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Copy in weights by name, into whatever memory order the layout has."""
        with torch.no_grad():
            for net, module in self.nets.items():
                for name, p in module.named_parameters():
                    p.copy_(torch.from_numpy(weights[f"{net}.{name}"]))

    def gradients(self, net: str) -> dict[str, np.ndarray]:
        """Return gradients by name, on the host; a parameter, or a filter set, that took no part has none."""
        return {f"{net}.{name}": p.grad.cpu().numpy() for name, p in self.nets[net].named_parameters()
                if p.grad is not None}


class Trainer(NamedNets):
    """The two nets, their optimisers and one training step; `cpu_worker.TinyganTrainer` has the same methods."""

    def __init__(self, base: int, bank: int, latent: int, form: str, *, lr: float, foreach: bool = False) -> None:
        layout, _, routing = form.partition(" ")
        self.layout, self.lr = layout, lr
        self.nets = {"G": Generator(base, bank, latent, routing=routing, layout=layout),
                     "D": Discriminator(base, layout=layout)}
        self.use_optimizer(foreach)

    def use_optimizer(self, foreach: bool) -> None:
        """Make new RMSprops; foreach: PyTorch's form that hands over all parameters in one call."""
        self.g_optimizer, self.d_optimizer = (
            torch.optim.RMSprop(self.nets[net].parameters(), lr=self.lr, alpha=0.9, eps=1e-6, foreach=foreach)
            for net in ("G", "D"))

    def step(self, batch: dict[str, np.ndarray]) -> tuple[float, float]:
        """Take one step of the discriminator and one of the generator; returns both losses."""
        G, D = self.nets["G"], self.nets["D"]
        real = torch.from_numpy(batch["real"]).contiguous(memory_format=LAYOUTS[self.layout])
        with torch.no_grad():
            fake = G(torch.from_numpy(batch["z1"]), batch["routes1"])
        logits = D(torch.cat([real, fake]))  # one call on both, as tinygan does
        d_loss = F.softplus(-logits[:len(real)]).mean() + F.softplus(logits[len(real):]).mean()
        self.d_optimizer.zero_grad(set_to_none=True)
        d_loss.backward()
        self.d_optimizer.step()

        D.requires_grad_(False)
        g_loss = F.softplus(-D(G(torch.from_numpy(batch["z2"]), batch["routes2"]))).mean()
        self.g_optimizer.zero_grad(set_to_none=True)
        g_loss.backward()
        self.g_optimizer.step()
        D.requires_grad_(True)
        return d_loss.item(), g_loss.item()
