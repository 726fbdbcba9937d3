"""One process of the benchmark: one framework, one net, one form, its own threads and its own peak memory.

It is started by cpu.py, which sends it one JSON list per line on standard input and reads one JSON answer per line:

    ["check", path]     train three steps from known weights; losses, gradients (and tinygan's weights) go to a file
    ["round", n]        milliseconds of each of n training steps, and the peak memory so far
    ["profile", n]      milliseconds per step of tinygan's operations

Both frameworks are given the same weights, images, noise and routes, drawn with NumPy before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np

BATCHES = 8  # different batches, used in turn: the routes change from step to step, as they do in training
LATENT, LR, CHECK_STEPS = 128, 1e-4, 3


def make_batches(size: int, bank: int, count: int = BATCHES, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """What a training step consumes: real images, and noise and routes for both of its halves."""
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
        from tinygan.models.adapted_gan import Discriminator, GANConfig, Generator
        from tinygan.optim import RMSprop

        config = GANConfig(base_channels=base, bank=(bank,), latent_dim=LATENT)
        rng = np.random.default_rng(1)
        self.nets = {"G": Generator(config, rng=rng, dtype=np.dtype(dtype).type),
                     "D": Discriminator(config, rng=rng, dtype=np.dtype(dtype).type)}
        self.g_optimizer, self.d_optimizer = (
            RMSprop(self.nets[net].named_parameters(), lr=lr, alpha=0.9, eps=1e-6) for net in ("G", "D"))

    def shake(self) -> None:
        """Move slopes, shifts, gains and biases off their round initial values, so that a check sees them all."""
        rng = np.random.default_rng(2)
        for net in self.nets.values():
            for name, p in net.named_parameters():
                if not name.endswith("weight"):
                    p.data += rng.uniform(-0.1, 0.1, p.shape).astype(p.dtype)

    def weights(self) -> dict[str, np.ndarray]:
        return {key: array for net, module in self.nets.items() for name, p in module.named_parameters()
                for key, array in by_set(f"{net}.{name}", p.data, None)}

    def gradients(self, net: str) -> dict[str, np.ndarray]:
        """Gradients by name and filter set; a set that took no part has none."""
        return {key: array for name, p in self.nets[net].named_parameters() if p.grad is not None
                for key, array in by_set(f"{net}.{name}", p.grad.data, p.grad.rows)}

    def step(self, batch: dict[str, np.ndarray]) -> tuple[float, float]:
        """One step of the discriminator, one of the generator; returns both losses."""
        d_loss, g_loss = self.train(batch)
        return d_loss.item(), g_loss.item()

    def train(self, batch: dict[str, Any]) -> tuple[Any, Any]:
        """The same, with the losses as tensors: to read a number makes a GPU wait."""
        from tinygan.engine import Tensor, frozen, no_grad
        from tinygan.layers import normalised
        from tinygan.losses import discriminator_loss, generator_loss
        from tinygan.ops import concatenate

        G, D = self.nets["G"], self.nets["D"]
        real = Tensor(batch["real"])
        with no_grad(), normalised(G, batch["routes1"]):
            fake = G(Tensor(batch["z1"]), batch["routes1"])
        D.zero_grad()
        with normalised(D):
            logits = D(concatenate([real, fake]))
            d_loss = discriminator_loss(real=logits[:len(real)], fake=logits[len(real):])
            d_loss.backward()
        self.d_optimizer.step()

        G.zero_grad()
        with frozen(D), normalised(D), normalised(G, batch["routes2"]):
            g_loss = generator_loss(fake=D(G(Tensor(batch["z2"]), batch["routes2"])))
            g_loss.backward()
        self.g_optimizer.step()
        return d_loss, g_loss


def by_set(name: str, array: np.ndarray, rows: np.ndarray | None) -> list[tuple[str, np.ndarray]]:
    """A weight (K, ...) as its K sets `name.k`, without those that `rows` leaves out; anything else as it is."""
    if not name.endswith("weight"):
        return [(name, array)]
    return [(f"{name}.{k}", array[k]) for k in range(len(array)) if rows is None or rows[k]]


def check(trainer: Any, batches: list[dict[str, np.ndarray]], path: str) -> None:
    """Train three steps; write the losses of all, the gradients of the first and the weights from before.

    The losses of the second and third step also depend on what the optimisers did.
    """
    arrays = {}
    if isinstance(trainer, TinyganTrainer):  # np.savez writes at the end, the weights must be those of now
        arrays = {f"weights/{key}": value.copy() for key, value in trainer.weights().items()}
    losses = [trainer.step(batches[0])]
    for net in ("G", "D"):
        arrays |= {f"gradients/{key}": value.copy() for key, value in trainer.gradients(net).items()}
    losses += [trainer.step(batch) for batch in batches[1:CHECK_STEPS]]
    np.savez(path, losses=np.array(losses), **arrays)


def timed_steps(trainer: Any, batches: list[dict[str, np.ndarray]], count: int) -> list[float]:
    """Milliseconds of each step."""
    times = []
    for i in range(count):
        started = time.perf_counter()
        trainer.step(batches[i % len(batches)])
        times.append((time.perf_counter() - started) * 1e3)
    return times


def profile(trainer: TinyganTrainer, batches: list[dict[str, np.ndarray]], count: int) -> dict[str, Any]:
    """Milliseconds per step: all operations, what works on weights outside of them, and what is left (Python)."""
    from tinygan.engine import profile as profiling

    with profiling(show=False) as report:
        total = sum(timed_steps(trainer, batches, count))
    rows = [(name, calls / count, ms / count) for name, calls, ms in report.rows()]
    rest = total / count - sum(ms for _, _, ms in rows)
    return {"rows": rows, "rest_ms": rest, "total_ms": total / count}


def peak_mb() -> float:
    """The most memory this process has had, in units of 10^6 bytes (Linux counts in KiB, macOS in bytes)."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def torch_trainer(args: argparse.Namespace, batches: list[dict[str, np.ndarray]]) -> Any:
    """PyTorch's nets with tinygan's weights, and whichever form of its optimiser is faster on them."""
    import torch
    import torch_nets

    torch.set_num_threads(args.threads)
    torch.set_default_dtype(getattr(torch, args.dtype))
    trainer = torch_nets.Trainer(args.base, args.bank, LATENT, args.form, lr=LR)
    with np.load(args.weights) as stored:
        weights = {key.removeprefix("weights/"): stored[key] for key in stored if key.startswith("weights/")}
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


def tinygan_trainer(args: argparse.Namespace) -> TinyganTrainer:
    from tinygan.kernels import pool

    pool.set_threads(args.threads)
    pool.reuse_heap()
    return TinyganTrainer(args.base, args.bank, dtype=args.dtype)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--framework", choices=("tinygan", "torch"))
    parser.add_argument("--form", default="")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--weights", help="file of tinygan's check, with the weights that PyTorch starts from")
    for name in ("--base", "--bank", "--batch", "--threads"):
        parser.add_argument(name, type=int)
    args = parser.parse_args()
    batches = [{name: a if a.dtype.kind == "i" else a.astype(args.dtype) for name, a in batch.items()}
               for batch in make_batches(args.batch, args.bank)]
    if args.framework == "tinygan":
        trainer = tinygan_trainer(args)
        trainer.shake()
    else:
        trainer = torch_trainer(args, batches)
    for line in sys.stdin:
        command, value = json.loads(line)
        answer: Any = "done"
        if command == "check":
            check(trainer, batches, value)
        elif command == "round":
            answer = {"ms": timed_steps(trainer, batches, value), "mb": peak_mb()}
        elif command == "profile":
            answer = profile(trainer, batches, value)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
