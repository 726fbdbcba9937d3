"""The study's plan: its parts, the arms that are compared in each, and the settings of every job.

A job is one training: a part, an arm, a seed. The arms, the settings of a part and the rules in rules.py stood before
its first job ran, and no seed here was used to choose a setting: the trials behind them had the seeds 0 to 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tinygan.errors import UsageError

FIRST_SEED = 100


@dataclass(frozen=True)
class Arm:
    """What one arm changes. model, bank, routes, pack: as the flags of train_mnist.py.

    first_only: a bank in the first layer alone. frozen: banks are drawn once and never trained. wide: a plain GAN whose
    generator has as many weights as the SGAN's with 4 sets, and the same D. one_hot: a one-hot vector of as many
    categories as that SGAN has routes, beside the noise. rate: of G's learning rate. batches: of the batch size.
    """

    words: str
    model: str = "gan"
    bank: int = 1
    routes: str = "sample"
    first_only: bool = False
    frozen: bool = False
    wide: bool = False
    one_hot: bool = False
    pack: int = 1
    rate: float = 1.0
    batches: int = 1


ARMS = {
    "gan": Arm("plain GAN"),
    "sgan4": Arm("SGAN, 4 sets a layer", "sgan", 4),
    "tied4": Arm("4 whole generators", "tied", 4),
    "wide": Arm("GAN with as many weights", wide=True),
    "pac2": Arm("GAN, packs of 2, twice the images", pack=2, batches=2),
    "sgan2": Arm("SGAN, 2 sets", "sgan", 2),
    "sgan8": Arm("SGAN, 8 sets", "sgan", 8),
    "sgan16": Arm("SGAN, 16 sets", "sgan", 16),
    "tied16": Arm("16 whole generators", "tied", 16),
    "slow": Arm("GAN, G's rate / 4", rate=1 / 4),
    "onehot": Arm("GAN, a one-hot vector beside the noise", one_hot=True),
    "first4": Arm("SGAN, 4 sets in the first layer alone", "sgan", 4, first_only=True),
    "frozen4": Arm("SGAN, 4 sets that are never trained", "sgan", 4, frozen=True),
    "batch4": Arm("SGAN, 4 sets, one route per batch", "sgan", 4, routes="batch"),
    "slow2": Arm("GAN, G's rate / 2", rate=1 / 2),
    "pac2-equal": Arm("GAN, packs of 2, the same images", pack=2),
    "sgan4-batches": Arm("SGAN, 4 sets, 4 times the images", "sgan", 4, batches=4),
}
MAIN = ("gan", "sgan4", "tied4", "wide", "pac2")


class Part(NamedTuple):
    """A part of the study. program: who trains it, mixture and digits (games.py) or a script. settings: flags of all
    its jobs, `net` those of perceptrons. wide: the width of the arm wide. banks: layers with a bank, for its route
    count. arms, seeds: how many jobs."""

    title: str
    program: str
    settings: dict[str, Any]
    wide: int
    banks: int
    arms: tuple[str, ...]
    seeds: int


_MIXTURE = {"steps": 10_000, "batch_size": 100, "lr": 1e-3, "d_lr": 1e-3, "beta1": 0.5, "beta2": 0.999, "ema": 0.998,
            "log_every": 50, "eval_every": 500, "sample_every": 1_000, "save_every": 1_000, "net": {}}
_ADAM = {"optimizer": "adam", "lr": 2e-3, "d_lr": 1e-3, "init_factor": 1.0, "init_scale": 0.125, "latent_dim": 64,
         "base_channels": 16, "d_base_channels": 16, "batch_size": 64, "ema": 0.998}
_STACKED = {**_ADAM, "stacked": True, "size": 32, "log_every": 50, "eval_every": 1_000, "eval_samples": 5_000,
            "save_every": 1_000}
_MNIST = {"size": 28, "log_every": 10, "eval_samples": 2_000}
_STRESS = {**_ADAM, **_MNIST, "base_channels": 8, "d_base_channels": 8, "batch_size": 32, "ema": 0.0, "lr_decay": 0,
           "steps": 500, "eval_every": 50, "save_every": 250}
_REST = tuple(arm for arm in ARMS if arm not in MAIN)

# The stress grid: optimiser and rate x factor on the projection's initial weights x steps of D x loss. A cell counts as
# collapsing if the GAN ends collapsed in COLLAPSING of the 5 seeds of C-pilot; only such cells are compared in C-cells.
_OPTIMIZERS = {
    **{f"rmsprop-{lr}": {"optimizer": "rmsprop", "lr": float(lr), "d_lr": float(lr), "init_scale": 1.0}
       for lr in ("1e-4", "5e-4", "2e-3")},
    **{f"adam{beta}-{lr}": {"lr": float(lr), "d_lr": float(lr), "beta1": float(beta)}
       for beta, lr in (("0.9", "2e-3"), ("0.9", "4e-3"), ("0.9", "8e-3"), ("0.9", "16e-3"), ("0.5", "8e-3"))}}
_LOSSES = {"ns": {}, "sat": {"loss": "saturating", "bce": "clamped"}}
CELLS = {f"{name}_f{factor}_d{d_steps}_{loss}": {**rate, "init_factor": float(factor), "d_steps": d_steps, **form}
         for name, rate in _OPTIMIZERS.items() for factor in ("1", "0.01", "10") for d_steps in (1, 5)
         for loss, form in _LOSSES.items()}
COLLAPSING = 3
MOMENTUM = "adam0.9-16e-3_f1_d1_ns"  # the cell that is part C-momentum, and not done again in C-cells

PARTS = {
    "A": Part("25-grid of Gaussians", "mixture", {**_MIXTURE, "mixture": "grid"}, 255, 3, MAIN + _REST, 20),
    "A-ring": Part("8-ring of Gaussians", "mixture", {**_MIXTURE, "mixture": "ring"}, 255, 3, MAIN, 10),
    "A-quick": Part("25-grid, 1,500 steps", "mixture", {**_MIXTURE, "mixture": "grid", "steps": 1_500}, 255, 3,
                    ("gan", "sgan4", "tied4", "wide"), 5),
    "C-momentum": Part("MNIST, Adam 0.016 with beta1 0.9", "train_mnist",
                       {**_STRESS, "lr": 16e-3, "d_lr": 16e-3, "beta1": 0.9}, 22, 3,
                       ("gan", "sgan4", "tied4", "wide", "slow", "pac2", "sgan16"), 20),
    "D": Part("MNIST, perceptrons, 5 steps of D", "digits",
              {"steps": 10_000, "batch_size": 64, "lr": 3e-4, "d_lr": 3e-4, "beta1": 0.9, "beta2": 0.999, "ema": 0.0,
               "d_steps": 5, "log_every": 50, "eval_every": 500, "sample_every": 1_000, "save_every": 500,
               "net": {"latent_dim": 100, "width": 256, "d_width": 256, "layers": 2}}, 430, 2,
              ("gan", "sgan4", "tied4", "wide", "slow", "pac2"), 10),
    "B": Part("Stacked MNIST, D as wide as G", "train_mnist", {**_STACKED, "steps": 10_000, "lr_decay": 10_000}, 40, 3,
              MAIN + _REST, 5),
    "C": Part("MNIST, the paper's optimiser and steps", "train_mnist",
              {**_MNIST, "optimizer": "rmsprop", "lr": 1e-4, "d_lr": 1e-4, "init_factor": 0.01, "init_scale": 1.0,
               "latent_dim": 128, "base_channels": 16, "d_base_channels": 16, "batch_size": 32, "ema": 0.0,
               "lr_decay": 0, "steps": 4_388, "eval_every": 250, "sample_every": "paper", "save_every": 500}, 45, 3,
              ("gan", "sgan4", "sgan16", "tied4", "wide", "slow"), 10),
    "E": Part("2,350 photos at 64 pixels", "train_photos",
              {**_ADAM, "size": 64, "batch_size": 32, "steps": 10_000, "lr_decay": 10_000, "log_every": 10,
               "eval_every": 1_000, "eval_samples": 1_000, "sample_every": "paper", "save_every": 500}, 37, 4,
              ("gan", "sgan4", "tied4", "wide", "sgan16"), 2),
    "C-pilot": Part("MNIST, which settings make the GAN collapse", "train_mnist", _STRESS, 22, 3,
                    tuple(f"gan@{cell}" for cell in CELLS), 5),
    "C-cells": Part("MNIST, in those that do", "train_mnist", _STRESS, 22, 3,
                    tuple(f"{arm}@{cell}" for cell in CELLS if cell != MOMENTUM
                          for arm in ("gan", "sgan4", "tied4", "wide")), 20),
    "B-half": Part('Stacked MNIST, D of 4-8-16 channels, "1/2 G"', "train_mnist",
                   {**_STACKED, "d_base_channels": 4, "steps": 20_000, "lr_decay": 20_000}, 40, 3, MAIN, 5),
    "B-quarter": Part('Stacked MNIST, D of 2-4-8 channels, "1/4 G"', "train_mnist",
                      {**_STACKED, "d_base_channels": 2, "steps": 20_000, "lr_decay": 20_000}, 40, 3, MAIN, 5),
}


def kind_of(part: str) -> str:
    """Return what the samples of a part are: points, triples (of digits), digits or photos."""
    program, stacked = PARTS[part].program, PARTS[part].settings.get("stacked")
    return {"mixture": "points", "train_photos": "photos"}.get(program, "triples" if stacked else "digits")


class Job(NamedTuple):
    """One training. number: of the seed in its arm, from 0. arm: a name of ARMS, in the stress grid ARM@CELL."""

    part: str
    arm: str
    number: int

    @property
    def name(self) -> str:
        """Return the name of the job's folder."""
        return f"{self.part}.{self.arm}.{self.seed}"

    @property
    def seed(self) -> int:
        """Return the seed; the pilot's are used nowhere else."""
        return FIRST_SEED * (2 if self.part == "C-pilot" else 1) + self.number


def jobs_of(parts: Sequence[str]) -> list[Job]:
    """List the jobs of parts: of the arms in MAIN first, then of the others; seed by seed, so that what is done at any
    time compares the arms of a group. Each seed begins with another arm: else every n-th job would be of one arm.

    parts: names of PARTS. Raises UsageError for any other.
    """
    for name in parts:
        if name not in PARTS:
            raise UsageError(f"there is no part {name}: use one of {', '.join(PARTS)}")
    jobs = []
    for part in dict.fromkeys(parts):
        for main in (True, False):
            arms = [arm for arm in PARTS[part].arms if (arm.partition("@")[0] in MAIN) == main]
            for number in range(PARTS[part].seeds):
                first = number % max(len(arms), 1)
                jobs += [Job(part, arm, number) for arm in arms[first:] + arms[:first]]
    return jobs


def settings_of(job: Job) -> dict[str, Any]:
    """Return the flags of a job: of the script that its part names, or of games.py with those of the nets in `net`."""
    part = PARTS[job.part]
    name, _, cell = job.arm.partition("@")
    arm, flags = ARMS[name], {**part.settings, **CELLS.get(cell, {}), "seed": job.seed}
    layers = part.banks if "net" in flags else part.banks + 1  # a script's nets have a last layer that all routes share
    bank = (arm.bank, *(1,) * (layers - 1)) if arm.first_only else (arm.bank,)
    categories = 4 ** part.banks * arm.one_hot
    flags |= {"lr": flags["lr"] * arm.rate, "batch_size": flags["batch_size"] * arm.batches, "routes": arm.routes,
              "freeze_banks": arm.frozen}
    if "net" in flags:
        width = {"width": part.wide} if arm.wide else {}
        flags["net"] = {**flags["net"], **width, "bank": bank, "tied": arm.model == "tied", "one_hot": categories,
                        "pack": arm.pack}
        return flags
    flags |= {"model": arm.model, "pack": arm.pack, "one_hot": (categories,) if categories else (),
              "base_channels": part.wide if arm.wide else flags["base_channels"]}
    return flags if arm.model == "gan" else {**flags, "bank": bank}


def share_of(jobs: Sequence[Job], only: tuple[int, int]) -> list[Job]:
    """Return every n-th of the jobs from the i-th on; only: (i, n), i from 1."""
    return list(jobs[only[0] - 1::only[1]])
