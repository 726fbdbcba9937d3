"""The configurations that the CPU benchmark can measure, and what was measured of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cpu_counts
import gpan_problem

from tinygan.models import GANConfig


@dataclass
class Measured:
    """What was measured of one configuration, by form ("tinygan" is one)."""

    ms: dict[str, float] = field(default_factory=dict, kw_only=True)  # per step, the median of the rounds' medians
    least: dict[str, float] = field(default_factory=dict, kw_only=True)  # the shortest step, in ms
    mb: dict[str, float] = field(default_factory=dict, kw_only=True)
    above: dict[str, float] = field(default_factory=dict, kw_only=True)  # MB above the state at rest
    profile: dict[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def best_form(self) -> str:
        """Return PyTorch's fastest form."""
        return min(self.torch_forms, key=lambda form: self.ms[form])


@dataclass
class Net(Measured):
    """The step of a GAN (bank 1) or an SGAN."""

    base: int
    bank: int
    batch: int

    @property
    def name(self) -> str:
        """Return its name in the table."""
        return f"{'SGAN' if self.bank > 1 else 'GAN'} base {self.base} K {self.bank} batch {self.batch}"

    @property
    def torch_forms(self) -> list[str]:
        """List PyTorch's forms."""
        return torch_forms(self.bank)

    @property
    def config(self) -> GANConfig:
        """Return the nets' settings."""
        return GANConfig(base_channels=self.base, bank=(self.bank,))

    @property
    def flop(self) -> float:
        """Count the operations of the products of a step."""
        return cpu_counts.step_flop(self.config, self.batch)

    def words(self, check: bool) -> list[str]:
        """Return the flags with which a worker runs it."""
        return ["--base", str(self.base), "--bank", str(self.bank), "--batch", str(self.batch)]


@dataclass
class Problem(Measured):
    """VGG16 or a step of the GPAN."""

    problem: gpan_problem.VGG16Problem | gpan_problem.GPANProblem

    @property
    def name(self) -> str:
        """Return its name in the table."""
        return self.problem.name

    @property
    def torch_forms(self) -> list[str]:
        """List PyTorch's forms."""
        return torch_forms(self.problem.bank)

    @property
    def flop(self) -> float:
        """Count the operations of the products of a step."""
        return self.problem.flop

    def words(self, check: bool) -> list[str]:
        """Return the flags with which a worker runs it; for the check a smaller one."""
        return ["--problem", gpan_problem.to_json(self.problem.for_check if check else self.problem)]


def torch_forms(bank: int) -> list[str]:
    """List PyTorch's forms for a bank of K: memory order, and how a bank is routed."""
    layouts = ("plain", "channels_last")
    return [f"{layout}{routing}" for routing in ((" loop", " grouped") if bank > 1 else ("",)) for layout in layouts]
