"""Train a GAN on MNIST: the SGAN (a generator with banks of filters), the plain adapted GAN, or the tied ensemble.

    python train_mnist.py                     an SGAN, with settings that suit this machine
    python train_mnist.py --model gan         the same net without filter banks
    python train_mnist.py --resume            go on with the newest run

The output is in runs/NAME: sample pictures, the log, curves, an animation, a checkpoint, report.html.
The training loop is `train` below; what it calls is explained in the modules it imports.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np

from tinygan import Tensor, data
from tinygan.app import cli
from tinygan.app.device import Device
from tinygan.app.feeds import FedImages
from tinygan.app.gan_game import MeasuredGAN
from tinygan.app.loop import Loop, Step, end_run, start
from tinygan.app.resume import load_digits
from tinygan.app.run import Run
from tinygan.app.state import gradient_norm
from tinygan.app.train_flags import LARGEST_OF_GAN, TrainParser, fit_gan_flags, gan_config, gan_preset
from tinygan.errors import UsageError
from tinygan.models import GANConfig, find_classifier, turn_of_d, turn_of_g
from tinygan.ops import sigmoid

# Defaults of flags: the same systems at a size that a GPU trains in minutes and at one that two cores train in minutes,
# both chosen by training them (RESULTS.md). paper: the paper's sizes, and the optimiser of the net that it adapts
# (Xiang & Li 2017).
PRESETS = {
    "gpu": {"steps": 4_000, "batch_size": 256, "base_channels": 32, "latent_dim": 128, "bank": (16,),
            "optimizer": "adam", "lr_decay": 4_000, "ema": 0.998, "init_factor": 1.0, "init_scale": 0.5,
            "noise": "counter"},
    "cpu": {"steps": 6_000, "batch_size": 64, "base_channels": 16, "latent_dim": 64, "bank": (4,),
            "optimizer": "adam", "lr_decay": 6_000, "ema": 0.998, "init_factor": 1.0, "init_scale": 0.125,
            "noise": "host"},
    "paper": {"steps": 50_000, "batch_size": 32, "base_channels": 64, "latent_dim": 128, "bank": (16,),
              "optimizer": "rmsprop", "lr_decay": 0, "ema": 0.0, "init_factor": 0.01, "init_scale": 1.0,
              "noise": "host"},
}
RATES = {"adam": 2e-3, "rmsprop": 1e-4}  # the generator's learning rate
FREQUENT = {"model", "preset", "bank", "base_channels", "size", "optimizer", "lr", "data_dir", "sample_every"}


def main(argv: list[str] | None = None) -> int:
    """Train by the flags of the command line; returns the exit code."""
    flags, run = read_flags(argv)
    return start(flags, run, name=f"mnist-{flags['model']}", build=build, train=train)


def train(game: MnistGame, run: Run) -> int:
    """Run the loop: one step of the discriminator, one of the generator, and now and then pictures and measurements."""
    G, D, flags = game.G, game.D, game.flags
    d_steps, kind, form = flags["d_steps"], flags["loss"], flags["bce"]

    def one_step(step: Step) -> tuple[Tensor, ...]:
        """Train both nets once; returns the loss of D, its logits of real images and of G's, and the loss of G."""
        # (1) discriminator: logits above 0 for real images, below 0 for G's. Once, but with --d-steps
        for turn in range(d_steps):
            real = game.next_real()
            check = partial(step.check, inputs=[("the batch of real images", real)])
            d_loss, of_real, of_fake = turn_of_d(G, D, game.d_optimizer, real, game.draw(turn), form=form, check=check)

        # (2) generator: from new noise through new routes, images to which D gives logits above 0
        g_loss = turn_of_g(G, D, game.g_optimizer, game.draw(d_steps), kind=kind, form=form, check=check)
        game.update_average()
        return d_loss, of_real, of_fake, g_loss

    one_step = game.recorded(one_step)  # on a GPU: launched as one CUDA graph from the third step on
    with Loop(game, run) as steps:
        for step in steps:
            d_loss, of_real, of_fake, g_loss = one_step(step)
            if step.read:  # on a GPU only where a number is shown: reading one makes it wait
                step.show(d_loss=d_loss.item(), g_loss=g_loss.item())
            if step.log:
                step.record(d_loss=d_loss.item(), g_loss=g_loss.item(),
                            d_real=sigmoid(of_real).mean().item(), d_fake=sigmoid(of_fake).mean().item(),
                            logit_gap=of_real.mean().item() - of_fake.mean().item(),
                            d_grad=gradient_norm(D), g_grad=gradient_norm(G))
    return end_run(steps)


def build(flags: dict, run: Run | None, device: Device) -> MnistGame:
    """Make the data and nets that the flags describe; run: the one to go on with, whose data they must be."""
    config = gan_config(flags, channels=3 if flags["stacked"] else 1)
    digits = load_digits(flags, run)
    print(f"data: {digits.source}")
    game = MnistGame(config, flags, digits, device)
    if flags["epochs"]:
        flags["steps"] = flags["epochs"] * game.batches.batches_per_epoch
    game.inputs = {"data": {"hash": digits.hash, "source": digits.source}}
    if run is not None:
        run.check_input("data", game.inputs["data"], "name the folder of the old ones with --data-dir")
    return game


class MnistGame(MeasuredGAN):
    """The game on MNIST's digits; what is the same for any data is in GANGame, what measures digits in MeasuredGAN."""

    script = "train_mnist.py"

    def __init__(self, config: GANConfig, flags: dict, digits: data.Digits, device: Device) -> None:
        super().__init__(config, flags, device)
        self.digits = digits
        if flags["stacked"]:
            self.batches = data.StackedDigits(digits, flags["batch_size"], config.side, self.order)
            rng = np.random.default_rng([flags["seed"], 5])
            self.reference = next(data.StackedDigits(digits, 1000, config.side, rng))
        else:
            self.batches = data.Batches(len(digits), flags["batch_size"], self.order)
            self.reference = data.to_canvas(digits.images[:1000], config.side)
        if device.kind == "gpu":
            self.on_gpu = FedImages(device.xp, digits.images, config.side, config.channels)
        self.classifier = None
        if digits.shows == "digits":
            self.classifier = find_classifier(print)
        else:
            print(f"note: {digits.kind} shows {digits.shows}: classes drawn, KL and confidence are of digits, so they "
                  "are not measured")

    def next_real(self) -> Tensor:
        """Return the next batch of real images."""
        stacked = self.flags["stacked"]
        if self.device.kind == "gpu":
            draw = self.batches.indices if stacked else self.batches.__next__
            return self.on_gpu.batch(self.flags["batch_size"], draw)
        if stacked:
            return Tensor(next(self.batches), name="real images")
        return Tensor(data.to_canvas(self.digits.images[next(self.batches)], self.config.side), name="real images")


# ---- flags -------------------------------------------------------------------------------------------------------


def read_flags(argv: list[str] | None) -> tuple[dict, Run | None]:
    """Return the flags in force, and the run to go on with if --resume was given."""
    flags, typed, run = build_parser().read(argv, preset=partial(gan_preset, PRESETS), largest=LARGEST_OF_GAN,
                                            name="mnist-{model}", own="data_dir")
    fit_gan_flags(flags, typed)
    if flags["stacked"] and flags["epochs"]:
        raise UsageError("--stacked draws fresh triples of digits for ever: give --steps in place of --epochs")
    return flags, run


def build_parser() -> TrainParser:
    """Make the parser: flags for the run, and those of GANConfig's fields."""
    p = TrainParser(__doc__.split("\n\n")[0], {"on a CPU": PRESETS["cpu"], "on a GPU": PRESETS["gpu"]}, RATES)
    p.add_gan_flags(tuple(PRESETS), data.batches.SIZES)
    group = p.add_argument_group("place")
    group.add_argument("--data-dir", type=cli.path, help="folder with the four MNIST files")
    group.add_argument("--stacked", action="store_true", help="train on stacked digits: three random ones, in the "
                       "colours red, green and blue, which make 1,000 modes to count")
    p.add_place_flags(group, name="mnist-MODEL", measured_with="the digit classifier", log_every=50, save_every=500,
                      eval_every=500, paper_steps=True)
    p.hide_rare(FREQUENT)
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
