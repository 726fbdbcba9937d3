"""One process of the benchmark: one framework, one net, one form, its own threads and its own memory.

It is started by cpu.py, which sends it one JSON list per line on standard input and reads one JSON answer per line:

    ["check", path]     train three steps from known weights; losses, gradients (and tinygan's weights) go to a file
    ["weights", path]   tinygan's weights go to a file
    ["round", n]        milliseconds of each of n training steps, the losses of the last, and the memory: the most
                        while it stepped so far, and what it had before the first step
    ["profile", n]      milliseconds per step of tinygan's operations

Both frameworks are given the same weights, images, noise and routes, drawn with NumPy before the clock starts. Without
--problem a step is one of the GAN's; with it, what gpan_problem.py describes.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from typing import Any

import numpy as np

BATCHES = 8  # different batches, used in turn: the routes change from step to step, as they do in training
LATENT, LR, CHECK_STEPS = 128, 1e-4, 3


def make_batches(size: int, bank: int, count: int = BATCHES, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Draw what a training step consumes: real images, and noise and routes for both of its halves."""
    rng = np.random.default_rng(seed)
    banks = (bank, bank, bank, 1)  # projection and two transposed convolutions; the last one is shared

    def routes() -> np.ndarray:
        return np.stack([rng.integers(0, k, size) for k in banks], axis=1)

    def noise() -> np.ndarray:
        return rng.standard_normal((size, LATENT), dtype=np.float32)

    return [{"real": rng.random((size, 1, 32, 32), dtype=np.float32), "z1": noise(), "routes1": routes(),
             "z2": noise(), "routes2": routes()} for _ in range(count)]


class TinyganTrainer:
    """The two nets, their optimisers and one training step, as in train_mnist.py."""

    def __init__(self, base: int, bank: int, *, lr: float = LR, dtype: str = "float32") -> None:
        from tinygan.models import Discriminator, GANConfig, Generator
        from tinygan.nn import RMSprop

        config = GANConfig(base_channels=base, bank=(bank,), latent_dim=LATENT)
        rng = np.random.default_rng(1)
        self.nets = {"G": Generator(config, rng=rng, dtype=np.dtype(dtype).type),
                     "D": Discriminator(config, rng=rng, dtype=np.dtype(dtype).type)}
        self.g_optimizer, self.d_optimizer = (
            RMSprop(self.nets[net].named_parameters(), lr=lr, alpha=0.9, eps=1e-6) for net in ("G", "D"))

    def shake(self) -> None:
        """Move slopes, shifts, gains and biases off their round initial values, so that a check covers them all."""
        rng = np.random.default_rng(2)
        for net in self.nets.values():
            for name, p in net.named_parameters():
                if not name.endswith("weight"):
                    p.data += rng.uniform(-0.1, 0.1, p.shape).astype(p.dtype)

    def weights(self) -> dict[str, np.ndarray]:
        return {key: array for net, module in self.nets.items() for name, p in module.named_parameters()
                for key, array in by_set(f"{net}.{name}", p.data, None)}

    def gradients(self, net: str) -> dict[str, np.ndarray]:
        """Return gradients by name and filter set; a set that took no part has none."""
        return {key: array for name, p in self.nets[net].named_parameters() if p.grad is not None
                for key, array in by_set(f"{net}.{name}", p.grad.data, p.grad.rows)}

    def step(self, batch: dict[str, np.ndarray]) -> tuple[float, float]:
        """Take one step of the discriminator and one of the generator; returns both losses."""
        d_loss, g_loss = self.train(batch)
        return d_loss.item(), g_loss.item()

    def train(self, batch: dict[str, Any]) -> tuple[Any, Any]:
        """Take the same steps, with the losses as tensors: to read a number makes a GPU wait."""
        from tinygan import Tensor
        from tinygan.models import turn_of_d, turn_of_g

        G, D = self.nets["G"], self.nets["D"]
        d_loss, _, _ = turn_of_d(G, D, self.d_optimizer, Tensor(batch["real"]), (Tensor(batch["z1"]), batch["routes1"]))
        g_loss = turn_of_g(G, D, self.g_optimizer, (Tensor(batch["z2"]), batch["routes2"]))
        return d_loss, g_loss


def by_set(name: str, array: np.ndarray, rows: np.ndarray | None) -> list[tuple[str, np.ndarray]]:
    """Split a weight (K, ...) into its K sets `name.k`, without those that `rows` leaves out; keep anything else."""
    if not name.endswith("weight"):
        return [(name, array)]
    return [(f"{name}.{k}", array[k]) for k in range(len(array)) if rows is None or rows[k]]


def check(trainer: Any, batches: list[dict[str, np.ndarray]], path: str) -> None:
    """Train three steps; write the losses of all, the gradients of the first and the weights from before.

    The losses of the second and third step also depend on what the optimisers did.
    """
    arrays = weights_of(trainer)
    losses = [trainer.step(batches[0])]
    for net in trainer.nets:
        arrays |= {f"gradients/{key}": value.copy() for key, value in trainer.gradients(net).items()}
    losses += [trainer.step(batch) for batch in batches[1:CHECK_STEPS]]
    np.savez(path, losses=np.array(losses), **arrays)


def weights_of(trainer: Any) -> dict[str, np.ndarray]:
    """Return copies of tinygan's weights as they are now; nothing for PyTorch, which is given them."""
    weights = trainer.weights() if hasattr(trainer, "weights") else {}
    return {f"weights/{key}": value.copy() for key, value in weights.items()}


def timed_steps(trainer: Any, batches: list[dict[str, np.ndarray]], count: int) -> tuple[list[float], tuple]:
    """Return (milliseconds of each step, the losses of the last)."""
    times, losses = [], ()
    for i in range(count):
        started = time.perf_counter()
        losses = trainer.step(batches[i % len(batches)])
        times.append((time.perf_counter() - started) * 1e3)
    return times, losses


def profile(trainer: TinyganTrainer, batches: list[dict[str, np.ndarray]], count: int) -> dict[str, Any]:
    """Measure milliseconds per step: all operations, passes over the weights outside of them, and the rest (Python)."""
    from tinygan import profile as profiling

    with profiling(show=False) as report:
        total = sum(timed_steps(trainer, batches, count)[0])
    rows = [(name, calls / count, ms / count) for name, calls, ms in report.rows()]
    rest = total / count - sum(ms for _, _, ms in rows)
    return {"rows": rows, "rest_ms": rest, "total_ms": total / count}


def memory_mb() -> tuple[float, float]:
    """Return (the most memory this process has had since `forget_peak`, what it has now), in units of 10^6 bytes."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            kib = dict(line.split(":", 1) for line in file)
        peak, now = (int(kib[name].split()[0]) * 1024 / 1e6 for name in ("VmHWM", "VmRSS"))
        return peak, now
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return float("nan"), float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes, others in KiB
    return (peak if sys.platform == "darwin" else peak * 1024) / 1e6, float("nan")


def forget_peak() -> None:
    """Start counting anew, where Linux allows it: drawing the weights took more than they take afterwards."""
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


def stored_weights(path: str) -> dict[str, np.ndarray]:
    """Return tinygan's weights by name, from the file of a check or of the command "weights"."""
    with np.load(path) as stored:
        return {key.removeprefix("weights/"): stored[key] for key in stored if key.startswith("weights/")}


def torch_trainer(args: argparse.Namespace, problem: Any, batches: list[dict[str, np.ndarray]]) -> Any:
    """Return PyTorch's nets with tinygan's weights, and whichever form of its optimiser is faster on them."""
    import torch

    torch.set_num_threads(args.threads)
    torch.set_default_dtype(getattr(torch, args.dtype))
    weights = stored_weights(args.weights)
    if problem is not None:
        import torch_gpan

        trainer = torch_gpan.make(problem, args.form, args.dtype)
        trainer.load(weights)
        if hasattr(trainer, "choose_optimizer"):
            trainer.choose_optimizer()
        return trainer
    import torch_nets

    trainer = torch_nets.Trainer(args.base, args.bank, LATENT, args.form, lr=LR)
    trainer.load(weights)
    trainer.step(batches[0])  # the optimisers need gradients
    seconds = {}
    for foreach in (False, True):
        trainer.use_optimizer(foreach)
        for _ in range(4):  # the first one sets up its state; the fastest counts
            started = time.perf_counter()
            trainer.g_optimizer.step()
            trainer.d_optimizer.step()
            seconds[foreach] = min(seconds.get(foreach, 1e9), time.perf_counter() - started)
    trainer.use_optimizer(min(seconds, key=seconds.get))
    trainer.load(weights)
    return trainer


def tinygan_trainer(args: argparse.Namespace, problem: Any) -> Any:
    """Return tinygan's nets, shaken."""
    from tinygan.kernels import threads

    threads.set_threads(args.threads)
    threads.reuse_heap()
    if problem is None:
        trainer = TinyganTrainer(args.base, args.bank, dtype=args.dtype)
    else:
        import gpan_tinygan

        trainer = gpan_tinygan.make(problem, args.dtype)
    trainer.shake()
    return trainer


def draw(args: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    """Draw (the problem, None for the GAN's step; the batches of the steps)."""
    if args.problem:
        import gpan_problem

        problem = gpan_problem.from_json(args.problem)
        return problem, problem.batches(args.dtype)
    return None, [{name: a if a.dtype.kind == "i" else a.astype(args.dtype) for name, a in batch.items()}
                  for batch in make_batches(args.batch, args.bank)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--framework", choices=("tinygan", "torch"))
    parser.add_argument("--form", default="")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--weights", help="file of tinygan's weights, with which PyTorch starts")
    parser.add_argument("--problem", help="a line of gpan_problem.to_json, in place of --base, --bank and --batch")
    for name in ("--base", "--bank", "--batch", "--threads"):
        parser.add_argument(name, type=int)
    args = parser.parse_args()
    problem, batches = draw(args)
    ours = args.framework == "tinygan"
    trainer = tinygan_trainer(args, problem) if ours else torch_trainer(args, problem, batches)
    forget_peak()
    rest = memory_mb()[1]
    for line in sys.stdin:
        command, value = json.loads(line)
        answer: Any = "done"
        if command == "check":
            check(trainer, batches, value)
        elif command == "weights":
            np.savez(value, **weights_of(trainer))
        elif command == "round":
            times, losses = timed_steps(trainer, batches, value)
            answer = {"ms": times, "losses": losses, "mb": memory_mb()[0], "rest_mb": rest}
        elif command == "profile":
            answer = profile(trainer, batches, value)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
