"""Train a GAN on a folder of photos of your own: the SGAN, the plain adapted GAN, or the tied ensemble.

    python train_photos.py --photos FOLDER                 an SGAN, with settings that suit this machine
    python train_photos.py --photos FOLDER --model gan     the same net without filter banks
    python train_photos.py --photos FOLDER --vgg16 weights/vgg16.h5     measured with VGG16's features
    python train_photos.py --resume                        go on with the newest run

It is the second experiment of the SGAN's paper, whose 2,350 photos were varied: nets of colours, the only change to a
photo that half of them are mirrored. The output is in runs/NAME, as train_mnist.py's, with nearest.png, which shows
whether images are copies of photos. The training loop is `train` below; it is that of train_mnist.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from tinygan import Tensor, data, metrics
from tinygan.app import cli, measure_photos, pictures
from tinygan.app.device import Device
from tinygan.app.draw import generate
from tinygan.app.feeds import FedPhotos
from tinygan.app.gan_game import GRID, PHOTO_STEPS, GANGame
from tinygan.app.loop import Loop, Step, end_run, start
from tinygan.app.measure_photos import PhotoMeasures, as_floats
from tinygan.app.resume import file_inputs
from tinygan.app.run import Run
from tinygan.app.state import gradient_norm
from tinygan.app.train_flags import LARGEST_OF_GAN, TrainParser, fit_gan_flags, gan_config, gan_preset
from tinygan.errors import UsageError
from tinygan.models import GANConfig, turn_of_d, turn_of_g
from tinygan.ops import sigmoid

# Defaults of flags. cpu: train_mnist.py's at a batch that two cores can bear; gpu: twice as wide, with the paper's 16
# filter sets. paper: the paper's sizes, and the optimiser of the net that it adapts (Xiang & Li 2017).
PRESETS = {
    "gpu": {"size": 64, "steps": 10_000, "batch_size": 32, "base_channels": 32, "latent_dim": 128, "bank": (16,),
            "optimizer": "adam", "lr_decay": 10_000, "ema": 0.998, "init_factor": 1.0, "init_scale": 0.125,
            "noise": "counter"},
    "cpu": {"size": 64, "steps": 10_000, "batch_size": 32, "base_channels": 16, "latent_dim": 64, "bank": (4,),
            "optimizer": "adam", "lr_decay": 10_000, "ema": 0.998, "init_factor": 1.0, "init_scale": 0.125,
            "noise": "host"},
    "paper": {"size": 64, "steps": 50_000, "batch_size": 32, "base_channels": 64, "latent_dim": 128, "bank": (16,),
              "optimizer": "rmsprop", "lr_decay": 0, "ema": 0.0, "init_factor": 0.01, "init_scale": 1.0,
              "noise": "host"},
}
# Of cpu and gpu at 128 pixels: with 0.125 the first steps overshoot (logits 1,300 apart after ten; with 0.5: 4).
AT_128 = {"init_scale": 0.5}
RATES = {"adam": 2e-3, "rmsprop": 1e-4}  # the generator's learning rate
SIZES = (32, 64, 128)
FREQUENT = {"model", "preset", "bank", "base_channels", "size", "photos", "flip", "vgg16", "sample_every"}
PAIRS = 4 * GRID  # samples of nearest.png


def main(argv: list[str] | None = None) -> int:
    """Train by the flags of the command line; returns the exit code."""
    flags, run = read_flags(argv)
    return start(flags, run, name=f"photos-{flags['model']}", build=build, train=train)


def train(game: PhotoGame, run: Run) -> int:
    """Run the loop: one step of the discriminator, one of the generator, and now and then pictures and measurements."""
    G, D, flags = game.G, game.D, game.flags
    d_steps, kind, form = flags["d_steps"], flags["loss"], flags["bce"]

    def one_step(step: Step) -> tuple[Tensor, ...]:
        """Train both nets once; returns the loss of D, its logits of photos and of G's images, and the loss of G."""
        # (1) discriminator: logits above 0 for photos, below 0 for G's images. Once, but with --d-steps
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


def build(flags: dict, run: Run | None, device: Device) -> PhotoGame:
    """Make the data and nets that the flags describe; run: the one to go on with, whose photos they must be."""
    config = gan_config(flags, channels=3)
    features = measure_photos.find_features(flags["vgg16"], device)
    photos = measure_photos.read_photos(flags["photos"], flags["size"])
    print(f"data: {photos.source}")
    print(f"measured with: {features.words}")
    game = PhotoGame(config, flags, photos, features, device)
    if flags["epochs"]:
        flags["steps"] = flags["epochs"] * game.batches.batches_per_epoch
    game.inputs = {"photos": {"hash": photos.hash, "source": photos.source}, **file_inputs(flags)}
    if run is not None:
        run.check_input("photos", game.inputs["photos"], "name the folder of the old ones with --photos")
    return game


class PhotoGame(GANGame):
    """The game on photos; what is the same for any data is in GANGame."""

    script, paper_steps = "train_photos.py", PHOTO_STEPS
    samples = (500, 1000, 50)

    def __init__(self, config: GANConfig, flags: dict, photos: data.Photos, features: measure_photos.Features,
                 device: Device) -> None:
        super().__init__(config, flags, device)
        self.photos, self.batches = photos, data.Batches(len(photos), flags["batch_size"], self.order)
        self.streams["flips"] = np.random.default_rng([flags["seed"], 5])
        if device.kind == "gpu":
            self.on_gpu = FedPhotos(device.xp, photos.images)
        self.measures = PhotoMeasures(photos, features, flags["seed"])
        self.reference = self.measures.first(1000)

    def next_indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the next batch, and which of its photos are mirrored: half of them, by chance."""
        indices = next(self.batches)
        if self.flags["flip"] == "no":
            return indices, np.zeros(len(indices), bool)
        return indices, self.streams["flips"].random(len(indices)) < 0.5

    def next_real(self) -> Tensor:
        """Return the next batch of photos."""
        if self.device.kind == "gpu":
            return self.on_gpu.batch(self.flags["batch_size"], self.next_indices)
        indices, mirrored = self.next_indices()
        images = as_floats(self.photos.images[indices])
        images[mirrored] = images[mirrored, ..., ::-1]
        return Tensor(images, name="real images")

    def measure(self, n: int) -> dict[str, float]:
        """Measure how near n images come to the photos, and their spread."""
        images = self.images_to_measure(n)
        return self.measures.measure(images) | {"spread": metrics.relative_spread(images, self.reference)}

    def status_lines(self, rows: list[dict[str, float]], measured: Mapping[str, float] | None = None) -> list[str]:
        """Return lines on the two nets and, after the last step, on what was measured."""
        return ([measure_photos.in_words(measured)] if measured else []) + super().status_lines(rows)

    def draw_final(self, run: Run) -> None:
        """Draw routes.png, and nearest.png: samples above the photos that are nearest to them."""
        super().draw_final(run)
        run.save_picture("nearest.png", self.nearest_picture)

    def nearest_picture(self) -> np.ndarray:
        """Draw samples, those nearest to a photo first, and under each that photo."""
        images = generate(self.best, self.fixed_z[:PAIRS], self.fixed_routes[:PAIRS], self.device)
        pairs = measure_photos.pairs_with_nearest(images, self.photos.images, GRID)
        return pictures.grid(pairs, len(pairs) // GRID, GRID)


# ---- flags -------------------------------------------------------------------------------------------------------


def read_flags(argv: list[str] | None) -> tuple[dict, Run | None]:
    """Return the flags in force, and the run to go on with if --resume was given."""
    flags, typed, run = build_parser().read(argv, preset=preset, largest=LARGEST_OF_GAN,
                                            name="photos-{model}", own="photos")
    if flags["photos"] is None:
        raise UsageError("there is no --photos: name the folder of pictures to learn from")
    fit_gan_flags(flags, typed)
    return flags, run


def preset(flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the defaults that --preset names, or those for the device and size that the flags name."""
    values = gan_preset(PRESETS, flags)
    return {**values, **AT_128} if flags["size"] == 128 and flags["preset"] != "paper" else values


def build_parser() -> TrainParser:
    """Make the parser: flags for the run, and those of GANConfig's fields."""
    presets = {"on a CPU": PRESETS["cpu"], "on a GPU": PRESETS["gpu"], "at 128 pixels": AT_128}
    p = TrainParser(__doc__.split("\n\n")[0], presets, RATES)
    p.add_gan_flags(tuple(PRESETS), SIZES)
    group = p.add_argument_group("photos")
    group.add_argument("--photos", type=cli.path, metavar="FOLDER", help="the pictures to learn from, also those in "
                       "folders in it; the central square of each is shrunk to --size")
    group.add_argument("--flip", choices=("yes", "no"), default="yes", help="whether half of the photos of a batch, "
                       "drawn by chance, are mirrored")
    group.add_argument("--vgg16", type=cli.path, metavar="FILE", help="a VGG16 made by weights/convert_vgg16.py, whose "
                       "features images are measured with [default: colours and edges on a coarse grid]")
    p.add_place_flags(p.add_argument_group("place"), name="photos-MODEL", measured_with="the photos", log_every=50,
                      save_every=500, eval_every=500, paper_steps=True)
    p.hide_rare(FREQUENT)
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
