"""Train the digit classifier that measures what the GANs draw, and write its weight file.

    python weights/train_digits.py

An ordinary classifier with this project's engine: cross-entropy, Adam, a learning rate that falls to nothing, and a
moving average of the weights, which is what is kept. Training images are shifted, turned, scaled and slanted a
little, at random: handwriting varies like that, and so do the images of a GAN. The last 5,000 training images only
measure the progress; the test images are used once, at the end.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from tinygan import Tensor, __version__, data
from tinygan.app import cli
from tinygan.data import answer_key
from tinygan.data.hdf5 import write_hdf5
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels import threads
from tinygan.models import DigitNet
from tinygan.models.classifiers.digits import FORMAT, SHIPPED, VERSION, answers
from tinygan.nn import EMA, Adam, cross_entropy

BATCH = 100
LR = 4e-3
AVERAGE = 0.998  # decay of the moving average: about the last 500 steps
GOAL = 0.99  # test accuracy that the shipped file has to reach


def main(argv: list[str] | None = None) -> int:
    """Train the classifier with the command line's settings, and write it; return the exit code."""
    args = build_parser().parse_args(argv)
    if args.out.exists() and not args.overwrite:
        raise UsageError(f"{args.out} exists: --overwrite replaces it, --out names another file")
    if not args.out.parent.is_dir():
        raise UsageError(f"there is no folder {args.out.parent} to write {args.out.name} to")
    print(f"threads: {threads.set_threads(args.threads)}, seed: {args.seed}")
    digits = data.load_mnist("train", data_dir=args.data_dir)
    print(f"data: {digits.source}")
    started = time.monotonic()
    net, validation = train(digits, epochs=args.epochs, seed=args.seed)
    seconds = time.monotonic() - started

    # The file holds float16, half the size: so what is measured is the net rounded to that.
    test = data.load_mnist("test", data_dir=args.data_dir, say=lambda line: None)
    attributes = {"what": "weights of tinygan.models.DigitNet: 28x28 digits, white on black in [0, 1]",
                  "source": f"weights/train_digits.py --epochs {args.epochs} --seed {args.seed}, tinygan {__version__}",
                  "data": f"{len(digits):,} MNIST training digits, the last {validation:,} of them for validation",
                  "licence": "MIT"}
    rng = np.random.default_rng([args.seed, 3])
    probe = digits.images[[rng.choice(np.flatnonzero(digits.labels == label)) for label in range(10)]]
    rounded = net.copy()
    rounded.load_state_dict({name: p.astype(np.float16) for name, p in net.state_dict().items()})
    accuracy = share_right(rounded, test)
    save(net, args.out, probe, {**attributes, "test_accuracy": accuracy, "test_digits": len(test)})
    print(f"{args.out}: {args.out.stat().st_size:,} bytes, {net.parameter_count():,} weights, trained in "
          f"{seconds:.0f} s; right for {accuracy:.2%} of {len(test):,} test digits")
    if accuracy < GOAL:
        print(f"note: below {GOAL:.0%}, so figures made with it are not comparable; train longer, on all of MNIST")
    return 0


def train(digits: data.Digits, *, epochs: int, seed: int) -> tuple[DigitNet, int]:
    """Train and return (the averaged net, number of validation images held back)."""
    init, order, noise = (np.random.default_rng([seed, purpose]) for purpose in range(3))
    held_back = len(digits) // 12
    used = len(digits) - held_back
    validation = data.Digits(digits.images[used:], digits.labels[used:], "validation")
    net = DigitNet(rng=init)
    optimizer, average = Adam(net.named_parameters(), lr=LR, betas=(0.9, 0.99)), EMA(net, AVERAGE)
    batches = data.Batches(used, BATCH, order)
    total, step = epochs * batches.batches_per_epoch, 0
    for epoch in range(1, epochs + 1):
        losses, started = [], time.monotonic()
        for _ in range(batches.batches_per_epoch):
            chosen = next(batches)
            images = distort(data.to_canvas(digits.images[chosen], 28), noise)
            loss = cross_entropy(net.logits(Tensor(images)), digits.labels[chosen])
            net.zero_grad()
            loss.backward()
            optimizer.lr = LR * max(0.5 * (1 + math.cos(math.pi * step / total)), 1e-3)
            optimizer.step()
            average.update(net)
            losses.append(loss.item())
            step += 1
        if not np.isfinite(losses).all():
            raise TinyganError(f"epoch {epoch}: the loss is not finite; try another --seed")
        right = share_right(average.module, validation)
        print(f"epoch {epoch}/{epochs}: loss {np.mean(losses):.4f}, right for {right:.2%} of {held_back:,} validation "
              f"digits, {time.monotonic() - started:.0f} s", flush=True)
    return average.module.unfreeze(), held_back


def save(net: DigitNet, path: str | os.PathLike, probe: np.ndarray, attributes: dict[str, Any]) -> None:
    """Write the weights as float16 with the net's logits for `probe`, uint8 images (P, 28, 28).

    Rounds `net` to what is written. attributes: texts and numbers that describe the file (the keys "format", "version"
    and "probes" are set here). Raises TinyganError where nothing can be written.
    """
    stored = {name: p.astype(np.float16) for name, p in net.state_dict().items()}
    net.load_state_dict(stored)
    arrays = {f"parameters/{name}": array for name, array in stored.items()}
    arrays |= {f"{answer_key.GROUP}/images": probe, f"{answer_key.GROUP}/logits": answers(net, probe)}
    write_hdf5(path, arrays, {"format": FORMAT, "version": VERSION, "probes": len(probe), **attributes})


def share_right(net: DigitNet, digits: data.Digits) -> float:
    """Compute the share of digits whose likeliest class is their label."""
    probabilities, _ = net.classify(digits.images[:, None])
    return float((probabilities.argmax(axis=1) == digits.labels).mean())


def distort(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Distort images (N, 1, S, S): turn each (within 12 degrees), scale (12 %), slant (0.15) and shift it (2 pixels).

    Every output pixel is mapped to its place in the image, or in the black around it, and interpolated between the
    four pixels there.
    """
    n, _, side, _ = images.shape
    angle, slant = rng.uniform(-0.21, 0.21, n), rng.uniform(-0.15, 0.15, n)
    scale_y, scale_x = rng.uniform(0.88, 1.12, (2, n))
    shift_y, shift_x = rng.uniform(-2, 2, (2, n, 1))
    cos, sin = np.cos(angle), np.sin(angle)
    y, x = np.mgrid[:side, :side].reshape(2, 1, -1) - (side - 1) / 2
    from_y = (cos / scale_y)[:, None] * y + (sin / scale_x)[:, None] * x + shift_y
    from_x = (slant - sin / scale_y)[:, None] * y + (cos / scale_x)[:, None] * x + shift_x
    edge = 8  # black pixels around the image; what points further out is black as well
    from_y, from_x = (np.clip(v + (side - 1) / 2 + edge, 0, side + 2 * edge - 1.001) for v in (from_y, from_x))
    row, column = from_y.astype(np.int64), from_x.astype(np.int64)
    below, right = (from_y - row).astype(np.float32), (from_x - column).astype(np.float32)
    width = side + 2 * edge
    padded = np.zeros((n, width, width), np.float32)
    padded[:, edge:-edge, edge:-edge] = images[:, 0]
    flat = padded.reshape(-1)
    corner = np.arange(n)[:, None] * width ** 2 + row * width + column
    upper = flat[corner] * (1 - right) + flat[corner + 1] * right
    lower = flat[corner + width] * (1 - right) + flat[corner + width + 1] * right
    return (upper * (1 - below) + lower * below).reshape(images.shape)


def build_parser() -> cli.Parser:
    """Build the parser of the command line."""
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)
    p.add_argument("--epochs", type=cli.positive_int, default=4, help="passes over the training images")
    p.add_argument("--seed", type=cli.non_negative_int, default=0)
    p.add_argument("-o", "--out", type=cli.path, default=SHIPPED, help="the weight file")
    p.add_argument("--overwrite", action="store_true", help="replace the file in --out")
    p.add_argument("--data-dir", type=cli.path, help="folder with the four MNIST files")
    p.add_argument("--threads", type=cli.positive_int, default=os.cpu_count() or 1, help="CPU threads")
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
