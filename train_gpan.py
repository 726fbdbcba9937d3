"""Train a GPAN: a generator of images on a given shape that a pre-trained classifier assigns to chosen classes.

    python train_gpan.py                          digits on drawn shapes, with this project's classifier
    python train_gpan.py --classifier weights/vgg16.h5 --wanted flamingo
    python train_gpan.py --classifier weights/vgg16.h5 --wanted zebra,flamingo --wanted turtle --substrate shirt.png
    python train_gpan.py --resume                 go on with the newest run

The output is in runs/NAME: sample pictures, importance maps (cams.png), the log with every loss and the norm
of its gradient, curves, a checkpoint, report.html. The training loop is `train` below, a step of it `learn`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tinygan import Tensor
from tinygan.app import cli, gpan_measure
from tinygan.app.classes import find_sets
from tinygan.app.device import Device, pick_device
from tinygan.app.feeds import FedRouteParts, fed_substrates, view_arrays, view_variant
from tinygan.app.gpan_game import MeasuredGPAN
from tinygan.app.loop import Loop, Step, end_run, start
from tinygan.app.resume import file_inputs
from tinygan.app.run import Run
from tinygan.app.state import gradient_square
from tinygan.app.train_flags import TrainParser, make
from tinygan.data import Substrates, open_substrates
from tinygan.data.substrates import CONDITIONS
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels.gpu.feed import fed
from tinygan.models import (
    Batch,
    GPANConfig,
    GPANGenerator,
    LossSettings,
    PatchDiscriminator,
    ViewSettings,
    draw_views,
    learn_discriminator,
    learn_generator,
    load_classifier,
    load_vgg16,
    loss_gradients,
)
from tinygan.models.gpan.losses import PAPER_WEIGHTS
from tinygan.models.gpan.nets import BOTTLENECK
from tinygan.models.gpan.views import Views, scale_ranges
from tinygan.nn import Module
from tinygan.nn.layers import normalized
from tinygan.ops import sigmoid

# Defaults of flags, by the classifier: the digits' one that comes with the project, or a VGG16.
PRESETS = {
    "digits": {"wanted": ["3", "5", "8"], "size": 64, "steps": 1_000, "batch_size": 8, "lr_decay": 0, "beta2": 0.99,
               "ema": 0.99, "base_channels": 16, "patch_channels": 16, "start": "substrate", "smooth": 2, "views": 3,
               "view_scale": (0.8, 1.15), "view_rotation": 0.2, "view_shift": 0.1, "view_flip": "no",
               "view_noise": 0.05, "view_warmup": 0, "view_plain": 0.0, "save_every": 100},
    "vgg16": {"wanted": None, "size": 128, "steps": 700, "batch_size": 4, "lr_decay": 900, "beta2": 0.9,
              "ema": 0.99, "base_channels": 32, "patch_channels": 32, "start": "nothing", "smooth": 1, "views": 1,
              "view_scale": (0.45, 1.1), "view_rotation": 0.35, "view_shift": 0.35, "view_flip": "yes",
              "view_noise": 0.08, "view_warmup": 100, "view_plain": 0.5, "save_every": 100},
}
# With a VGG16 on a GPU: the paper's size and channels; a checkpoint of 1.7 GB is not saved too often.
GPU_PRESET = {"size": 1024, "steps": 2_000, "base_channels": 64, "patch_channels": 64, "lr_decay": 2_600,
              "save_every": 500}
RATES = {"adam": 6e-4, "rmsprop": 5e-5}  # the generator's learning rate; at 2e-3 RMSprop diverges
# Adam moves every weight by about the learning rate, and so an output by that times the number of its inputs. With 64
# channels 6e-4 diverged within 50 steps, and a quarter of it did not (RESULTS.md).
WIDEST = 32  # base channels up to which Adam's rate holds; beyond, it falls with their square
FREQUENT = {"classifier", "wanted", "substrate", "size", "accumulate", "bank", "cam", "views", "lr"}  # shown by --help
LARGEST = {"batch_size": 4_096, "base_channels": 1_024, "patch_channels": 1_024, "noise_dim": 65_536, "views": 64}
# The paper's weights; L_VGG is L_p + L_n.
WEIGHTS = {"split": "L_split", "cgan": "L_cGAN", "vgg": "L_VGG", "background": "L_m", "substrate": "L_sub"}


def main(argv: list[str] | None = None) -> int:
    """Train by the flags of the command line; returns the exit code."""
    flags, run = read_flags(argv)
    return start(flags, run, name="gpan", build=build, train=train)


def train(game: GPANGame, run: Run) -> int:
    """Run the loop: a step of both nets on the same images, and now and then pictures and measurements."""
    shown = ("wanted", "unwanted", "background", "substrate", "cgan", "split", "d_loss")
    recorded = game.recorded(partial(learn, game), what_changes)  # on a GPU: a CUDA graph from the third step on
    with Loop(game, run) as steps:
        for step in steps:
            numbers = take_step(game, step, recorded)
            step.show(**{name: numbers[name] for name in shown if name in numbers})
            step.record(**numbers)
    return end_run(steps)


def take_step(game: GPANGame, step: Step, learn_from: Callable[..., dict] | None = None) -> dict[str, float]:
    """Draw the wanted classes and the views, take a step, and return numbers for the log.

    learn_from(step, wanted, views): `learn` as a GPU records it. The arguments decide which kernels are launched.
    """
    settings, parts = game.losses, game.flags["accumulate"]
    wanted = game.draw_wanted()
    views = [game.draw_views(game.flags["batch_size"] // parts) for _ in range(parts)]
    found = (learn_from or partial(learn, game))(step, wanted, views)
    numbers = {name: value.item() for name, value in found["losses"].items()} if step.read else {}
    if step.log:
        numbers["g_loss"] = sum(weight * numbers.get(name, 0.0) for name, weight in settings.weights.items())
        numbers["g_loss"] += settings.weights["vgg"] * (numbers["wanted"] + numbers["unwanted"])
        pulls = gpan_measure.gradient_norms(found["pulls"], settings)
        numbers |= {f"pull_{name}": value for name, value in pulls.items()}
        numbers["map_size"] = sum(map(float, found["maps"])) / len(found["maps"])  # L_split may blow maps up
        numbers |= {name: float(found[name]) ** 0.5 for name in ("g_grad", "d_grad")}
        numbers |= gpan_measure.hit_rates(found["scores"], wanted, prefix="train_")
    return numbers


def learn(game: GPANGame, step: Step, wanted: Sequence[int], views: Sequence[Views | None]) -> dict[str, Any]:
    """Update both nets from one batch, in micro-batches whose gradients add up; returns what the log is made of.

    Both are updated at the end, from the same images: with micro-batches neither can wait for the other. Nothing is
    read here, so that a GPU may record it: the numbers returned are still on the device.
    """
    G, D, settings, share = game.G, game.D, game.losses, 1.0 / len(views)
    routes, of_parts = game.draw_routes()
    sums: dict[str, Tensor] = {}
    game.zero_grad()
    with normalized(G, routes), normalized(D):
        for part_routes, part_views in zip(of_parts, views, strict=True):
            batch = game.next_batch(wanted, part_routes)
            images, maps = G(batch.g_condition, batch.code, batch.noise, batch.routes)
            losses = loss_gradients(images, maps, batch, part_views, discriminator=D, classifier=game.classifier,
                                    settings=settings)
            terms = dict(losses.terms)

            # (1) discriminator: patches of substrates against G's, weighted by 1 - the classifier's importance map
            if settings.weights["cgan"]:
                terms["d_loss"], real, fake = learn_discriminator(images, batch, losses.importance, D, settings, share)
                terms |= {"d_real": sigmoid(real).mean(), "d_fake": sigmoid(fake).mean(),
                          "logit_gap": real.mean() - fake.mean()}
            for value in terms.values():
                step.check(value, [("the batch of substrates", batch.target)], [("the batch of images", images)])

            # (2) generator: backpropagate the weighted sum of the losses' gradients with respect to the images
            learn_generator(images, maps, losses, settings, share)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * share
    found = {"losses": sums}
    if step.log:
        found |= {"pulls": gpan_measure.gradient_squares(losses), "maps": [abs(m.data).mean() for m in maps],
                  "g_grad": gradient_square(G), "d_grad": gradient_square(D), "scores": losses.scores}
    if settings.weights["cgan"]:
        game.d_optimizer.step()
    game.g_optimizer.step()
    game.update_average()
    return found


def what_changes(step: Step, wanted: np.ndarray, views: Sequence[Views | None]) -> tuple[tuple, list[np.ndarray]]:
    """Return what decides which kernels a step launches, and the host's arrays whose numbers change with every step."""
    return ((step.log, len(wanted), *map(view_variant, views)),
            [wanted, *(array for one in views for array in view_arrays(one))])


def build(flags: dict, run: Run | None, device: Device) -> GPANGame:
    """Make the classifier, the substrates and the nets that the flags describe."""
    classifier = (load_vgg16(flags["classifier"]) if flags["classifier"] else load_classifier(None)).to(device.put)
    if classifier.channels not in (None, flags["channels"]):
        raise UsageError(f"--channels {flags['channels']}: this classifier is for images in colour, so leave it out")
    names = classifier.class_names
    sets = find_sets(flags["wanted"], names, "" if flags["classifier"] else "; these are the classes of the digit "
                     "classifier, and --classifier weights/vgg16.h5 has others")
    print("wanted: " + "; ".join(", ".join(names[i] for i in ids) for ids in sets))
    substrates = open_substrates(flags["substrate"] or None, flags["size"], flags["channels"],
                                 flip=flags["substrate_flip"] == "yes")
    print(substrates.describe())
    config = make(GPANConfig, flags, condition_channels=flags["channels"],
                  categories=len({i for ids in sets for i in ids}))
    game = GPANGame(config, flags, classifier, sets, substrates, device)
    game.inputs = file_inputs(flags)
    return game


class GPANGame(MeasuredGPAN):
    """The game of the GPAN, and everything that changes during it; what draws and measures it is in MeasuredGPAN."""

    kind, script = "gpan", "train_gpan.py"
    otherwise = "try a larger --accumulate, a smaller --size or --base-channels"

    def __init__(self, config: GPANConfig, flags: dict, classifier: Module, sets: list[tuple[int, ...]],
                 substrates: Substrates, device: Device) -> None:
        init, *streams = (np.random.default_rng([flags["seed"], purpose]) for purpose in range(6))
        super().__init__(config, flags, device, GPANGenerator(config, rng=init), PatchDiscriminator(config, rng=init))
        self.streams = dict(zip(("substrates", "wanted", "noise", "routes", "views"), streams, strict=True))
        self.classifier, self.sets, self.substrates = classifier, sets, substrates
        self.losses = make(LossSettings, flags, weights={name: flags[f"weight_{name}"] for name in WEIGHTS})
        self.views = make(ViewSettings, flags) if flags["views"] else None
        if device.kind == "gpu":
            self.routes = FedRouteParts(device.xp, flags["batch_size"], config.bank, flags["accumulate"])
        self.multiple = flags["accumulate"]
        self.least = self.multiple * (2 if flags["weight_split"] else 1)  # L_split compares the images of a part

    def describe(self) -> str:
        """Return one line about the nets."""
        estimate = gpan_measure.estimate_bytes(self.G, self.D, self.classifier, self.flags["batch_size"],
                                               self.flags["accumulate"])
        return (f"generator {self.G.parameter_count():,} weights, {self.config.route_count:,} routes; discriminator "
                f"{self.D.parameter_count():,} weights; a step needs about {estimate / 2**30:.1f} GiB of memory")

    def draw_wanted(self) -> Sequence[int]:
        """Draw one set of categories for the whole batch (paper); for a GPU as an array."""
        ids = self.sets[self.streams["wanted"].integers(len(self.sets))]
        return np.array(ids) if self.device.kind == "gpu" else ids

    def draw_routes(self) -> tuple[Any, Sequence]:
        """Draw the routes of a batch; returns them and those of each of its parts."""
        n, parts = self.flags["batch_size"], self.flags["accumulate"]
        draw = partial(self.G.draw_routes, self.streams["routes"], n, self.flags["routes"])
        if self.device.kind == "gpu":
            return self.routes.drawn(draw)
        routes = draw()
        return routes, np.split(routes, parts)

    def next_batch(self, wanted: Sequence[int], routes: Any) -> Batch:
        """Draw noise and substrates for the given classes and routes."""
        n = self.flags["batch_size"] // self.flags["accumulate"]
        noise = partial(self.G.draw_noise, self.streams["noise"], n)
        substrates = partial(self.substrates.next, self.streams["substrates"], n)
        if self.device.kind == "gpu":
            shape = n, self.config.noise_dim, BOTTLENECK, BOTTLENECK
            return self.batch(wanted, routes, fed(shape, np.float32, lambda out: np.copyto(out, noise())),
                              *fed_substrates(n, self.flags["channels"], self.config.size, substrates))
        return self.batch(wanted, routes, noise(), *substrates())

    def draw_views(self, n: int) -> Views | None:
        """Draw random views of n images; None where only the plain images are classified."""
        side, plain = self.config.size, self.flags["view_plain"]
        if self.views is None or plain and self.streams["views"].random() < plain:
            return None
        warm = self.flags["view_warmup"]
        settings = scale_ranges(self.views, min(1.0, self.step / warm)) if warm else self.views
        return draw_views(self.streams["views"], n, settings, side, side, self.classifier.side)

    def rehearse(self, n: int) -> None:
        """Compute the gradients of a step of n images and change nothing."""
        n = -(-n // self.flags["accumulate"])
        rng = np.random.default_rng(0)
        batch = self.batch(self.sets[0], self.G.draw_routes(rng, n), self.G.draw_noise(rng, n),
                           *self.substrates.next(rng, n))
        images, maps = self.G(batch.g_condition, batch.code, batch.noise, batch.routes)
        side = self.config.size
        views = None if self.views is None else draw_views(rng, n, self.views, side, side, self.classifier.side)
        losses = loss_gradients(images, maps, batch, views, discriminator=self.D, classifier=self.classifier,
                                settings=self.losses)
        learn_discriminator(images, batch, losses.importance, self.D, self.losses)
        learn_generator(images, maps, losses, self.losses)

    def extra(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return the sets of classes and the streams, for the checkpoint's header."""
        return {}, {"sets": [list(ids) for ids in self.sets], "classes": list(self.classifier.class_names),
                    "streams": self.stream_states()}

    def set_extra(self, arrays: Mapping[str, np.ndarray], header: Mapping) -> None:
        """Restore the streams. Raises TinyganError where the sets of classes are others."""
        if header["sets"] != [list(ids) for ids in self.sets]:
            raise TinyganError("the checkpoint was made with other settings of the nets than this run's flags")
        self.set_stream_states(header["streams"])


# ---- flags -------------------------------------------------------------------------------------------------------


def read_flags(argv: list[str] | None) -> tuple[dict, Run | None]:
    """Return the flags in force, and the run to go on with if --resume was given."""
    flags, typed, run = build_parser().read(argv, preset=preset, largest=LARGEST, name="gpan", own="wanted")
    if flags["wanted"] is None:
        raise UsageError("say what to paint: --wanted flamingo, or --wanted zebra,flamingo for both at once (the "
                         "classifier's own names or numbers)")
    n, parts = flags["batch_size"], flags["accumulate"]
    if n % parts:
        raise UsageError(f"--batch-size {n} cannot be cut into --accumulate {parts} equal parts")
    if flags["weight_split"] and n // parts < 2:
        raise UsageError(f"--batch-size {n} in --accumulate {parts} parts: L_split compares the images of a part, so "
                         "each must have 2 or more (or use --weight-split 0)")
    if not any(flags[f"weight_{name}"] for name in WEIGHTS):
        raise UsageError("every loss has weight 0: there is nothing to learn")
    if flags["start"] == "substrate" and flags["painter_sees"] != "substrate":
        raise UsageError(f"--painter-sees {flags['painter_sees']}: a generator that starts at its condition would "
                         "start on black: add --start nothing")
    if flags["substrate_flip"] == "yes" and "substrate_flip" in typed and not flags["substrate"]:
        raise UsageError("--substrate-flip yes mirrors the pictures of --substrate, and there are none: leave it out")
    flags["substrate_flip"] = flags["substrate_flip"] or "no"
    if not flags["views"]:
        if "whole" in typed and flags["whole"] == "no":
            raise UsageError("--views 0 --whole no leaves the classifier no images: give one of them")
        flags["whole"] = "yes"
    return flags, run


def preset(flags: dict) -> dict:
    """Return the defaults for the classifier and the device that the flags name."""
    if not flags["classifier"]:
        return PRESETS["digits"]
    on_gpu = flags["device"] != "cpu" and pick_device(flags["device"]).kind == "gpu"
    values = PRESETS["vgg16"] | (GPU_PRESET if on_gpu else {})
    width = flags["base_channels"] or values["base_channels"]
    if flags["optimizer"] == "adam" and width > WIDEST:
        values["lr"] = RATES["adam"] * (WIDEST / width) ** 2
    return values


def build_parser() -> TrainParser:
    """Make the parser: flags for the run, and those of the fields of the nets', losses' and views' settings."""
    presets = {"": PRESETS["digits"], "with a VGG16": PRESETS["vgg16"], "with a VGG16 on a GPU": GPU_PRESET}
    p = TrainParser(__doc__.split("\n\n")[0], presets, RATES)
    group = p.add_argument_group("training")
    group.add_argument("--classifier", type=cli.path, metavar="FILE", help="a VGG16 made by weights/convert_vgg16.py "
                       "[default: the digit classifier that comes with the project]")
    group.add_argument("--wanted", action="append", metavar="CLASS[,CLASS]", help="classes of one image, by name or "
                       "number; repeat it for several sets, of which each batch has one [default: 3; 5; 8, for digits]")
    group.add_argument("--substrate", action="append", type=cli.path, metavar="PATH", help="pictures to paint on: a "
                       "file on transparent or white ground (repeat for more) or a folder [default: drawn shapes]")
    group.add_argument("--substrate-flip", choices=("yes", "no"), help="mirror half of the pictures of --substrate: "
                       "not for what has a text or a handle [default: no]")
    p.add_training_flags(group)
    group.add_argument("--accumulate", type=cli.positive_int, default=1, help="do a batch in so many parts: less "
                       "memory, the same gradient but for L_split, which compares the images of a part")
    p.add_settings(p.add_argument_group("nets"), GPANConfig)
    group = p.add_argument_group("losses")
    for name, words in WEIGHTS.items():
        group.add_argument(f"--weight-{name}", type=cli.non_negative_float, default=PAPER_WEIGHTS[name],
                           help=f"weight of {words}; the default is the paper's")
    p.add_settings(group, LossSettings)
    group = p.add_argument_group("views")
    p.add_settings(group, ViewSettings)
    group.add_argument("--view-plain", type=cli.probability, help="share of the steps with the plain images and no "
                       f"views {p.preset('view_plain')}")
    group.add_argument("--view-warmup", type=cli.non_negative_int, help="steps over which the views' ranges grow from "
                       f"nothing {p.preset('view_warmup')}")
    p.add_optimiser_flags(p.add_argument_group("optimizer"), f"; with adam and a VGG16 beyond {WIDEST} base channels "
                          f"times ({WIDEST} / channels)^2")
    group = p.add_argument_group("conditions")
    group.add_argument("--painter-sees", choices=CONDITIONS, default="substrate", help="the generator's condition")
    group.add_argument("--critic-sees", choices=CONDITIONS, default="silhouette", help="the discriminator's condition; "
                       "given the substrate, comparing the two would be enough")
    p.add_place_flags(p.add_argument_group("place"), name="gpan", measured_with="the classifier", log_every=20,
                      eval_every=100)
    p.set_defaults(optimizer="adam", lr_warmup=20)
    p.hide_rare(FREQUENT)
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
