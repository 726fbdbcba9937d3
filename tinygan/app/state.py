"""The state of a training run: two nets, their optimisers, the moving average and the random streams, saved and
restored whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygan.app.device import Device
from tinygan.app.draw import section, with_prefix
from tinygan.app.run import Run
from tinygan.engine.tensor import Tensor
from tinygan.errors import TinyganError
from tinygan.kernels.gpu.graph import RecordedStep
from tinygan.metrics import log as metrics_log
from tinygan.nn.module import Module
from tinygan.nn.optim import EMA, Adam, Optimizer, RMSprop

LR_FLOOR = 0.02  # of the learning rate; --lr-decay ends there rather than at 0, so that a longer run still learns


class Diverged(TinyganError):
    """A loss or a weight that is NaN or infinite after `step`."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Game:
    """A generator G and a discriminator D that learn from each other, and all that changes while they do.

    A script's game is a subclass. It sets kind (of the checkpoint), script (its file), and where a step does not fit
    into memory: otherwise (the advice where not even the least number of images fits), multiple and least (the batch
    sizes to try). It adds to `streams` one random generator per purpose, so that drawing more of one thing never
    shifts another. It overrides the methods under "what a script's game overrides".
    """

    kind = script = ""
    resume_command = "python {script} --resume {folder}"  # what a run that was stopped, and one at its end, advise
    sample_command = "python sample.py --checkpoint {folder}"  # "" where it cannot draw from such nets
    otherwise = "try smaller nets"
    multiple = least = 1
    samples = (0, 0, 0)  # images that are measured during a run, at its end, and in a dry run
    paper_steps: Sequence[int] = ()  # at which the paper shows samples

    def __init__(self, config: Any, flags: dict, device: Device, G: Module, D: Module) -> None:
        self.config, self.flags, self.device = config, flags, device
        self.G, self.D = G.to(device.put), D.to(device.put)
        self.g_optimizer, self.d_optimizer = (
            make_optimizer(net, flags, rate) for net, rate in ((self.G, flags["lr"]), (self.D, flags["d_lr"])))
        self.average = EMA(self.G, flags["ema"]) if flags["ema"] else None
        self.streams: dict[str, np.random.Generator] = {}
        self.inputs: dict[str, dict[str, str]] = {}  # what a new run keeps of the files it is made with (run.Run)
        self.step = 0
        self.latest: dict[str, float] = {}  # the numbers of the log row that is being made

    @property
    def best(self) -> Module:
        """Return the generator to show: the moving average where there is one."""
        return self.G if self.average is None else self.average.module

    def set_learning_rate(self) -> None:
        """Set both optimisers to the learning rates of the step after `step` steps."""
        factor = rate_factor(self.flags, self.step)
        self.g_optimizer.lr, self.d_optimizer.lr = self.flags["lr"] * factor, self.flags["d_lr"] * factor

    def recorded(self, step: Callable[..., Any], *changes: Callable[..., Any]) -> Callable[..., Any]:
        """Return step(Step), on a GPU with --cuda-graph one that is launched as one CUDA graph from its third call on.

        changes: RecordedStep's, where a step has variants. A recorded step reads no number: what is not finite shows
        afterwards, in Step.show, when weights have it too.
        """
        if self.device.kind != "gpu" or self.flags["cuda_graph"] == "no" or self.flags["detect_anomaly"]:
            return step
        return RecordedStep(self.device.xp, step, print, *changes)

    def update_average(self) -> None:
        """Move the average, where there is one, towards the generator."""
        if self.average is not None:
            self.average.update(self.G)

    def weights(self) -> list[tuple[str, Tensor]]:
        """List every learned tensor with its full name, such as generator.deconvs.0.weight."""
        return [*self.G.named_parameters("generator."), *self.D.named_parameters("discriminator.")]

    def check_weights(self) -> None:
        """Raise Diverged, naming the tensor, if a weight is not finite."""
        for name, p in self.weights():
            if not np.isfinite(p.numpy()).all():
                raise Diverged(f"step {self.step}: {name} is not finite; this state was not saved", self.step)

    def zero_grad(self) -> None:
        """Drop the gradients of both nets."""
        self.G.zero_grad()
        self.D.zero_grad()

    # ---- what a script's game overrides

    def describe(self) -> str:
        """Return one line about the nets."""
        return f"generator {self.G.parameter_count():,} weights, discriminator {self.D.parameter_count():,} weights"

    def rehearse(self, n: int) -> None:
        """Compute the gradients of a step of n images and change nothing: whether that fits into memory."""
        raise NotImplementedError

    def draw_samples(self, run: Run) -> None:
        """Draw the sample pictures of this step."""

    def measure(self, n: int) -> dict[str, float]:
        """Measure n generated images; returns numbers for the log."""
        return {}

    def status_lines(self, rows: list[dict[str, float]], measured: Mapping[str, float] | None = None) -> list[str]:
        """Return lines on the state of the training, from the rows of the log.

        measured: what was measured last, after the last step; None before.
        """
        return [metrics_log.line(rows)] if rows else []

    def draw_final(self, run: Run) -> None:
        """Draw the pictures that are due once, after the last step."""

    def extra(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return (arrays, header entries) that the checkpoint holds besides the nets and optimisers."""
        return {}, {}

    def set_extra(self, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
        """Restore what `extra` returned."""

    # ---- the checkpoint

    def stream_states(self) -> dict[str, dict]:
        """Return the state of every random stream."""
        return {name: rng.bit_generator.state for name, rng in self.streams.items()}

    def set_stream_states(self, states: Mapping[str, dict]) -> None:
        """Restore what `stream_states` returned. Raises KeyError, TypeError or ValueError for anything else."""
        for name, rng in self.streams.items():
            rng.bit_generator.state = states[name]

    def _holders(self) -> dict[str, Any]:
        holders = {"generator": self.G, "discriminator": self.D, "g_optimizer": self.g_optimizer,
                   "d_optimizer": self.d_optimizer}
        return holders | ({} if self.average is None else {"average": self.average.module})

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return (arrays, header) for the checkpoint: all that decides what comes next, no clock and no path.

        Raises Diverged if a weight is not finite: such a state must not replace a good one.
        """
        self.check_weights()
        arrays = {}
        for part, holder in self._holders().items():
            arrays |= with_prefix(part, holder.state_dict())
        more_arrays, more = self.extra()
        return arrays | more_arrays, {"kind": self.kind, "step": self.step, "config": self.config.to_dict(), **more,
                                      "average_updates": self.average.updates if self.average else 0}

    def restore(self, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
        """Set everything to what `state` returned. Raises TinyganError if the checkpoint is of another game."""
        try:
            if not describes(header["config"], self.config):
                raise TinyganError("the checkpoint was made with other settings of the nets than this run's flags")
            if not isinstance(header["step"], int) or header["step"] < 0:
                raise ValueError("step")
            refuse_other_entries(self.state()[0], arrays)
            for part, holder in self._holders().items():
                holder.load_state_dict(section(arrays, part))
            if self.average is not None:
                self.average.updates = header["average_updates"]
            self.set_extra(arrays, header)
            self.step = header["step"]
        except (KeyError, TypeError, ValueError) as error:
            raise TinyganError(f"the checkpoint lacks or garbles {error}: it is not one of {self.script}") from None


def describes(stored: Any, config: Any) -> bool:
    """Return whether a checkpoint's settings are those of `config`; fields that it lacks, an older one's, have their
    defaults."""
    return isinstance(stored, dict) and {**type(config)().to_dict(), **stored} == config.to_dict()


def refuse_other_entries(expected: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise TinyganError unless a checkpoint's arrays have the expected names and shapes."""
    for name in sorted(expected.keys() | arrays.keys()):
        if name not in expected or name not in arrays:
            raise TinyganError(f"the checkpoint {'lacks' if name in expected else 'has an unknown'} entry {name!r}: "
                               "it was not made with this run's flags")
        if expected[name].shape != arrays[name].shape and name != "order":
            raise TinyganError(f"the checkpoint's {name!r} has shape {arrays[name].shape}, not "
                               f"{expected[name].shape}: it was not made with this run's flags")


def make_optimizer(net: Module, flags: Mapping[str, Any], rate: float) -> Optimizer:
    """Make the optimiser that the flags name, over all parameters of `net`."""
    lazy = flags["bank_updates"] == "lazy"
    if flags["optimizer"] == "adam":
        return Adam(net.named_parameters(), lr=rate, betas=(flags["beta1"], flags["beta2"]), lazy=lazy)
    return RMSprop(net.named_parameters(), lr=rate, lazy=lazy)


def rate_factor(flags: Mapping[str, Any], step: int) -> float:
    """Return the factor on the learning rates in the step after `step` steps: linear decay over --lr-decay steps,
    after a rise over --lr-warmup.

    It does not depend on --steps, so that a run stopped early and resumed is the run that was never stopped.
    """
    end, warm = flags["lr_decay"], flags["lr_warmup"]
    factor = max(LR_FLOOR, 1.0 - step / end) if end else 1.0
    return factor * (0.1 + 0.9 * step / warm) if step < warm else factor


def gradient_square(net: Module) -> Any:
    """Sum the squares of all gradients of a net: a number on its device."""
    return sum((p.grad.data ** 2).sum() for p in net.parameters() if p.grad is not None)


def gradient_norm(net: Module) -> float:
    """Compute the Euclidean norm of all gradients of a net together; a GPU is waited for once."""
    return float(gradient_square(net)) ** 0.5
