"""The GPAN and VGG16 in PyTorch, as a PyTorch user writes them: the same computation as tinygan's, for the benchmarks.

The nets are those of tinygan/models/gpan/nets.py with the settings of gpan_problem.py, and their parameters have the
same names; layers with weight normalisation and banks come from torch_nets.py. All losses go into one sum that is
differentiated at once; Grad-CAM uses the graph of the head, which the losses build anyway. Views are F.grid_sample,
resizing F.interpolate.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import combinations
from math import log
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gpan_problem import BETAS, D_RATE, G_RATE, TERMS, WANTED, GPANProblem, VGG16Problem
from torch import Tensor, nn
from torch_nets import LAYOUTS, Conv, Deconv, NamedNets, TPReLU

from tinygan.models import GPANConfig, LossSettings
from tinygan.models.classifiers.vgg16 import BLOCKS, HEAD
from tinygan.models.gpan.losses import split_weights
from tinygan.models.gpan.nets import BOTTLENECK, STRIDED, WHITEST, WIDEST
from tinygan.models.gpan.step import CAM_SIDE
from tinygan.models.gpan.views import Views

MEAN, HALF = (123.68, 116.779, 103.939), 127.5  # VGG16's input is HALF * g + HALF - MEAN of an image g in [-1, 1]
SETTINGS, TINY = LossSettings(), 1e-8  # of the variants only the defaults are here
OPTIMIZERS = ({"foreach": False}, {"foreach": True}, {"fused": True})  # PyTorch's forms of Adam; the fastest counts


def forms(problem: VGG16Problem | GPANProblem) -> list[str]:
    """Name the forms that solve a problem: the memory order, and for a bank how it is routed (torch_nets.py)."""
    routings = (" loop", " grouped") if problem.bank > 1 else ("",)
    return [f"{layout}{routing}" for routing in routings for layout in LAYOUTS]


class VGG16(nn.Module):
    """Images (N, 3, H, W) in [-1, 1] -> pool5 (`features`) -> scores (`head`); the weights are constants."""

    def __init__(self, weights: Mapping[str, tuple[np.ndarray, np.ndarray]], layout: str, device: str = "cpu") -> None:
        super().__init__()
        self.layout = layout
        for name, (weight, bias) in weights.items():
            w = torch.from_numpy(weight).to(device)
            w = w.contiguous(memory_format=LAYOUTS[layout]) if w.ndim == 4 else w
            self.register_buffer(f"{name}_weight", w)
            self.register_buffer(f"{name}_bias", torch.from_numpy(bias).to(device))
        self.register_buffer("shift", (HALF - torch.tensor(MEAN, dtype=torch.float64)).view(1, 3, 1, 1).to(w))

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Return weight and bias."""
        return getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")

    def features(self, images: Tensor) -> Tensor:
        """Compute the map after the last pool."""
        x = (images * HALF + self.shift).contiguous(memory_format=LAYOUTS[self.layout])
        for block, count in enumerate(BLOCKS, 1):
            for i in range(1, count + 1):
                x = F.relu(F.conv2d(x, *self.layer(f"conv{block}_{i}"), padding=1), inplace=True)
            x = F.max_pool2d(x, 2)
        return x

    def head(self, features: Tensor) -> Tensor:
        """Compute the scores of the classes."""
        x = features.flatten(1)
        for name in HEAD[:-1]:
            x = F.relu(F.linear(x, *self.layer(name)), inplace=True)
        return F.linear(x, *self.layer(HEAD[-1]))


class TorchVGG16:
    """Scores and the gradient to the images; has the methods of cpu_worker.TinyganTrainer."""

    nets = ("image",)

    def __init__(self, problem: VGG16Problem, form: str, dtype: str = "float32", device: str = "cpu") -> None:
        self.layout, self.device = form.split(" ")[0], device
        self.net, self.gradient = VGG16(problem.classifier.weights(dtype), self.layout, device), None
        self.scores = lambda images: self.net.head(self.net.features(images))

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Do nothing: both sides draw the same weights."""

    def gradients(self, net: str) -> dict[str, np.ndarray]:
        """Return the gradient of the last images."""
        return {net: self.gradient.cpu().numpy()}

    def train(self, batch: Mapping[str, Any]) -> tuple[Tensor]:
        """Compute the weighted sum of the scores; its gradient is kept."""
        images = as_tensor(batch["images"], self.device).contiguous(memory_format=LAYOUTS[self.layout])
        images = images.detach().requires_grad_()
        value = (self.scores(images) * as_tensor(batch["cotangent"], self.device)).sum()
        (self.gradient,) = torch.autograd.grad(value, images)
        return (value.detach(),)

    def step(self, batch: Mapping[str, Any]) -> tuple[float]:
        """Compute the same, as a number."""
        return tuple(value.item() for value in self.train(batch))


def as_tensor(values: Any, device: str) -> Tensor:
    """Copy an array to a tensor on the device; return a tensor as it is."""
    return values if isinstance(values, Tensor) else torch.from_numpy(values).to(device)


# ---- the nets ----------------------------------------------------------------------------------------------------


def blur(x: Tensor) -> Tensor:
    """Blur: each channel mixed with its neighbours, 1/4 1/2 1/4 along both axes, the border pixel repeated."""
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])


def shrink(images: Tensor, side: int) -> Tensor:
    """Average images of a multiple of `side` pixels down to it."""
    factor = images.shape[2] // side
    return F.avg_pool2d(images, factor) if factor > 1 else images


class Generator(nn.Module):
    """The GPAN's generator: x, code, noise and routes -> (images in [-1, 1], maps of the stochastic layers)."""

    def __init__(self, config: GPANConfig, *, routing: str, layout: str) -> None:
        super().__init__()
        c = self.config = config
        self.layout = layout
        widths = [c.condition_channels, *(c.encoder_width(side) for side in c.encoder_sides)]
        self.convs = nn.ModuleList(Conv(a, b, 4, 2, 1, affine=False, layout=layout)
                                   for a, b in zip(widths, widths[1:], strict=False))
        self.encoder_activations = nn.ModuleList(TPReLU(width) for width in widths[1:])
        sides = [*c.stochastic_sides, *c.ordinary_sides]
        banks = [*c.bank, *(1 for _ in c.ordinary_sides)]
        width, before = widths[-1] + c.categories + c.noise_dim, BOTTLENECK
        deconvs, activations = [], []
        for side, bank in zip(sides, banks, strict=True):
            width += c.skip_width(before) if before > BOTTLENECK else 0
            deconvs.append(Deconv(width, c.decoder_width(side), bank=bank, affine=side == c.size, routing=routing,
                                  layout=layout))
            if side < c.size:
                activations.append(TPReLU(c.decoder_width(side)))
            width, before = c.decoder_width(side), side
        self.deconvs, self.activations = nn.ModuleList(deconvs), nn.ModuleList(activations)

    def forward(self, x: Tensor, code: Tensor, noise: Tensor, routes: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        c, start = self.config, x * WHITEST
        x = shrink(x, c.encoder_side)
        encoded = {c.encoder_side: x}
        for conv, act in zip(self.convs, self.encoder_activations, strict=True):
            x = act(conv(x))
            encoded[x.shape[2]] = x
        x = self.pixel_norm(x)
        gains = [(c.encoder_width(BOTTLENECK) / part.shape[1]) ** 0.5 for part in (code, noise)]
        code_maps = code[:, :, None, None].expand(-1, -1, BOTTLENECK, BOTTLENECK)
        x = torch.cat([x, code_maps * gains[0], noise * gains[1]], 1).contiguous(memory_format=LAYOUTS[self.layout])
        maps = []
        for i, deconv in enumerate(self.deconvs):
            side, stochastic = x.shape[2], i < len(c.bank)
            if side > BOTTLENECK and c.skip_width(side):
                x = torch.cat([x, encoded[side]], 1)
            x = deconv(x, routes[:, i] if stochastic else None)
            if len(self.deconvs) - i <= c.smooth:
                x = blur(x)
            if i < len(self.activations):
                x = self.activations[i](x)
            if stochastic:
                x = self.pixel_norm(x)
                maps.append(x)
        return torch.tanh(x + torch.atanh(start) if c.start == "substrate" else x), maps

    def pixel_norm(self, x: Tensor) -> Tensor:
        """Divide every pixel by its root mean square over the channels, for map_norm "pixel"."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + TINY) if self.config.map_norm == "pixel" else x


class Discriminator(nn.Module):
    """The patch discriminator: x and images -> logits (N, 1, h, w)."""

    def __init__(self, config: GPANConfig, *, layout: str) -> None:
        super().__init__()
        c = self.config = config
        strided = STRIDED[c.encoder_side]
        widths = [c.condition_channels + c.channels,
                  *(c.patch_channels * min(WIDEST, 2 ** i) for i in range(strided + 1))]
        self.convs = nn.ModuleList(Conv(a, b, 4, 2 if i < strided else 1, 1, affine=False, layout=layout)
                                   for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)))
        self.activations = nn.ModuleList(TPReLU(width) for width in widths[1:])
        self.last = Conv(widths[-1], 1, 4, 1, 1, affine=True, layout=layout)

    def forward(self, x: Tensor, images: Tensor) -> Tensor:
        h = shrink(torch.cat([x, images], 1), self.config.encoder_side)
        for conv, act in zip(self.convs, self.activations, strict=True):
            h = act(conv(h))
        return self.last(h)


# ---- views -------------------------------------------------------------------------------------------------------


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly, anti-aliased where it shrinks."""
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)


def apply_views(images: Tensor, views: Views, noise: Tensor) -> Tensor:
    """Resample each image to its random view; noise: 1 + noise, (N, 3, side, side)."""
    (height, width), side = views.size, views.side
    factor = min(images.shape[2] // height, images.shape[3] // width)
    while images.shape[2] % factor:
        factor -= 1
    x = resize(F.avg_pool2d(images, factor) if factor > 1 else images, (height, width)) - 1
    if views.blurred.any():
        x = torch.where(constant(views.blurred[:, None, None, None], x, torch.bool), blur(x), x)
    y = warp(x, views.matrices, side)
    return y * constant(views.contrast[:, None, None, None], x) + noise


def warp(x: Tensor, matrices: np.ndarray, side: int) -> Tensor:
    """Sample (N, C, side, side): pixel (i, j) of n is x[n] at (row, column) = matrices[n] @ (i, j, 1); 0 beyond x.

    F.affine_grid takes matrices from [-1, 1] (column, row) to the same, the borders of the maps at -1 and 1.
    """
    size = np.array(x.shape[2:])
    middle = matrices[:, :, 2] + matrices[:, :, :2].sum(axis=2) * ((side - 1) / 2)  # the place of the view's centre
    theta = np.concatenate([matrices[:, :, :2] * (side / size[:, None]),
                            ((2 * middle + 1) / size - 1)[:, :, None]], axis=2)
    theta = theta[:, ::-1][:, :, [1, 0, 2]]
    grid = F.affine_grid(constant(theta, x), [len(x), x.shape[1], side, side], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def cam_to_image(cam: Tensor, views: Views) -> Tensor:
    """Resample importance maps (N, h, h) from the views' grids to grids of CAM_SIDE on the images."""
    linear, offset = views.matrices[:, :, :2], views.matrices[:, :, 2]
    cell = np.array(views.size) / CAM_SIDE  # pixels of the image
    per_pixel = cam.shape[1] / views.side   # cells of cam
    back = np.linalg.inv(linear)
    first = (back @ (cell / 2 - 0.5 - offset)[:, :, None])[:, :, 0]  # the view's pixel under cell (0, 0)
    matrices = np.concatenate([back * cell * per_pixel, ((first + 0.5) * per_pixel - 0.5)[:, :, None]], axis=2)
    return warp(cam[:, None], matrices, CAM_SIDE)[:, 0]


def constant(values: np.ndarray, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a host array to a tensor with the dtype and on the device of a tensor."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, dtype or like.dtype)


# ---- losses ------------------------------------------------------------------------------------------------------


def classifier_losses(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Compute (wanted, unwanted): L_p and L_n in their softmax forms."""
    wanted, log_p = list(WANTED), F.log_softmax(scores, 1)
    others = [i for i in range(scores.shape[1]) if i not in wanted]
    return (-log_p[:, wanted].mean() - log(len(wanted)),
            -torch.log1p(-log_p.exp())[:, others].sum(1).mean())


def grad_cam(features: Tensor, scores: Tensor) -> Tensor:
    """Compute importance maps (N, h, w) in [0, 1], through the graph from the features to the scores, which stays."""
    (slope,) = torch.autograd.grad(scores[:, list(WANTED)].sum(), features, retain_graph=True)
    with torch.no_grad():
        cam = F.relu((slope.mean((2, 3), keepdim=True) * features).sum(1))
        return cam / (cam.amax((1, 2), keepdim=True) + TINY)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Compute per image sum W v / sum W, then the mean over the batch."""
    return ((values * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1e-12)).mean()


def substrate_loss(images: Tensor, target: Tensor) -> Tensor:
    """Compute the mean of |d| - log(1 - d^2 / 4), the second part held off its pole."""
    d = target - images
    return (d.abs() - torch.log(1 - (d * d / 4).clamp_max(1 - SETTINGS.barrier))).mean()


def split_loss(maps: list[Tensor]) -> Tensor:
    """Compute minus the weighted sum over maps of the mean over pairs of images of log F.

    Each map is in units of its root mean square.
    """
    pairs = torch.tensor(list(combinations(range(len(maps[0])), 2)), device=maps[0].device).T
    total = 0.0
    for m, weight in zip(maps, split_weights([m.shape[2] for m in maps]), strict=True):
        m = m * torch.rsqrt(m.square().mean() + TINY)
        different = torch.tanh(((m[pairs[0]] - m[pairs[1]]) / SETTINGS.split_scale) ** 4).mean((1, 2, 3))
        total = total - weight * torch.log(different + TINY).mean()
    return total


# ---- the step ----------------------------------------------------------------------------------------------------


class TorchGPAN(NamedNets):
    """Generator, discriminator, classifier, two Adams and one training step."""

    def __init__(self, problem: GPANProblem, form: str, dtype: str = "float32", device: str = "cpu") -> None:
        self.layout, _, routing = form.partition(" ")
        self.problem, self.device = problem, device
        self.nets = {"G": Generator(problem.config, routing=routing, layout=self.layout).to(device),
                     "D": Discriminator(problem.config, layout=self.layout).to(device)}
        self.classifier = VGG16(problem.classifier.weights(dtype), self.layout, device)
        self.use_optimizer(OPTIMIZERS[1])

    def use_optimizer(self, options: dict[str, bool]) -> None:
        """Make new Adams of one of PyTorch's forms."""
        self.g_optimizer, self.d_optimizer = (
            torch.optim.Adam(self.nets[net].parameters(), lr=rate, betas=BETAS, **options)
            for net, rate in (("G", G_RATE), ("D", D_RATE)))

    def choose_optimizer(self) -> None:
        """Choose the form that is fastest on these parameters, tried with gradients of zero, which move nothing."""
        parameters = [p for net in self.nets.values() for p in net.parameters()]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        seconds = []
        for options in OPTIMIZERS:
            self.use_optimizer(options)
            times = []
            for _ in range(4):  # the first one sets up its state
                started = time.perf_counter()
                self.g_optimizer.step()
                self.d_optimizer.step()
                times.append(time.perf_counter() - started)
            seconds.append(min(times))
        for p in parameters:
            p.grad = None
        self.use_optimizer(OPTIMIZERS[int(np.argmin(seconds))])

    def classify(self, images: Tensor, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Compute (L_p and L_n, the importance map)."""
        losses, cam, side, sees = [], None, self.problem.side, self.problem.sees
        for kind in ("whole", "view") if sees == "both" else (sees,):
            whole = kind == "whole"
            inputs = resize(images, (side, side)) if whole else apply_views(images, batch["views"], batch["view_noise"])
            features = self.classifier.features(inputs)
            scores = self.classifier.head(features)
            losses.append(classifier_losses(scores))
            if cam is None:
                cam = grad_cam(features, scores)
                cam = cam if whole else cam_to_image(cam, batch["views"])
        wanted, unwanted = (sum(parts) / len(losses) for parts in zip(*losses, strict=True))
        return {"wanted": wanted, "unwanted": unwanted}, cam

    def train(self, batch: Mapping[str, Any], update: bool = True) -> list[Tensor]:
        """Take one training step of both nets; returns the losses named in TERMS."""
        G, D = self.nets["G"], self.nets["D"]
        batch = {name: as_tensor(a, self.device) if isinstance(a, np.ndarray) and name != "routes" else a
                 for name, a in batch.items()}
        batch |= {name: batch[name].contiguous(memory_format=LAYOUTS[self.layout])
                  for name in ("target", "g_condition", "d_condition", "mask")}
        self.g_optimizer.zero_grad(set_to_none=True)
        self.d_optimizer.zero_grad(set_to_none=True)
        images, maps = G(batch["g_condition"], batch["code"], batch["noise"], batch["routes"])
        terms, cam = self.classify(images, batch)

        D.requires_grad_(False)
        logits = D(batch["d_condition"], images)
        weight = (1 - resize(cam[:, None], logits.shape[2:])).clamp(0, 1)
        terms["cgan"] = weighted_mean(F.softplus(-logits), weight)
        terms["background"] = ((1 - images) * (1 - batch["mask"])).mean()
        terms["substrate"] = substrate_loss(images, batch["target"])
        terms["split"] = split_loss(maps)
        goal = sum(terms[name] * SETTINGS.weights[name] for name in ("cgan", "background", "substrate", "split"))
        (goal + SETTINGS.weights["vgg"] * (terms["wanted"] + terms["unwanted"])).backward()
        D.requires_grad_(True)

        d_loss = F.softplus(-D(batch["d_condition"], batch["target"])).mean() + weighted_mean(
            F.softplus(D(batch["d_condition"], images.detach())), weight)
        d_loss.backward()
        if update:
            self.d_optimizer.step()
            self.g_optimizer.step()
        terms["d_loss"] = d_loss
        return [terms[name].detach() for name in TERMS]

    def step(self, batch: Mapping[str, Any]) -> tuple[float, ...]:
        """Call `train`; returns its losses as numbers."""
        return tuple(loss.item() for loss in self.train(batch))


def make(problem: VGG16Problem | GPANProblem, form: str, dtype: str = "float32",
         device: str = "cpu") -> TorchVGG16 | TorchGPAN:
    """Make PyTorch's side of a problem in one form."""
    return (TorchGPAN if problem.kind == "gpan" else TorchVGG16)(problem, form, dtype, device)
