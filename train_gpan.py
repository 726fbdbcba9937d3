"""Train a GPAN: a generator whose images a pre-trained classifier names as wanted, painted on a given shape.

    python train_gpan.py                          digits on drawn shapes, with this project's classifier
    python train_gpan.py --classifier weights/vgg16.h5 --wanted flamingo
    python train_gpan.py --classifier weights/vgg16.h5 --wanted zebra,flamingo --wanted turtle --substrate shirt.png
    python train_gpan.py --resume                 go on with the newest run

Everything lands in runs/NAME: samples as they improve, where the classifier looks (cams.png), the log with every loss
and how hard it pulls, curves, a checkpoint, report.html. The training loop is `train` below.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np

from tinygan import Tensor, __version__
from tinygan.app import cli, gpan_measure, pictures
from tinygan.app.classes import find_classes
from tinygan.app.device import Device, pick_device
from tinygan.app.draw import generate_gpan
from tinygan.app.loop import QUIET, Loop, Step, finish, start
from tinygan.app.resume import file_inputs, resumed
from tinygan.app.run import Run
from tinygan.app.state import Game, gradient_norm
from tinygan.app.streams import Progress
from tinygan.app.train_flags import (
    FREQUENT_EVERYWHERE,
    add_optimiser_flags,
    add_place_flags,
    add_settings,
    add_training_flags,
    check_numbers,
    make,
)
from tinygan.data import Substrates, condition, open_substrates
from tinygan.data.substrates import CONDITIONS
from tinygan.errors import TinyganError, UsageError
from tinygan.metrics import log as metrics_log
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
from tinygan.models.gpan.step import gradient_norms
from tinygan.models.gpan.views import Views, scale_ranges
from tinygan.nn import Module
from tinygan.nn.layers import normalized
from tinygan.ops import sigmoid

# What a flag means when it is not given, by the classifier: the digits that come with the project, or a VGG16.
PRESETS = {
    "digits": {"wanted": ["3", "5", "8"], "size": 64, "steps": 1_000, "batch_size": 8, "lr": 6e-4, "lr_decay": 0,
               "beta2": 0.99, "ema": 0.99, "base_channels": 16, "patch_channels": 16, "start": "substrate",
               "views": 3, "whole": "no",
               "view_scale": (0.8, 1.15), "view_rotation": 0.2, "view_shift": 0.1, "view_flip": "no",
               "view_noise": 0.05, "view_coarse": (1.0, 1.0), "view_warmup": 0, "view_plain": 0.0, "smooth": 2},
    "vgg16": {"wanted": None, "size": 128, "steps": 700, "batch_size": 4, "lr": 6e-4, "lr_decay": 900,
              "beta2": 0.9, "ema": 0.99, "base_channels": 32, "patch_channels": 32, "start": "nothing",
              "views": 1, "whole": "no",
              "view_scale": (0.45, 1.1), "view_rotation": 0.35, "view_shift": 0.35, "view_flip": "yes",
              "view_noise": 0.08, "view_coarse": (1.0, 1.0), "view_warmup": 100, "view_plain": 0.5, "smooth": 1},
}
# With a VGG16 on a GPU: the paper's sizes.
GPU_PRESET = {"size": 1024, "steps": 20_000, "base_channels": 64, "patch_channels": 64}
RMSPROP_LR = 5e-5  # the presets' rates are Adam's; at 2e-3 RMSprop diverges
D_SHARE = {"adam": 0.5, "rmsprop": 1.0}  # of the generator's learning rate
FREQUENT = FREQUENT_EVERYWHERE | {"classifier", "wanted", "substrate", "size", "accumulate", "bank", "cam", "views",
                                  "lr"}  # flags that --help shows
ROWS, COLUMNS = 4, 6  # of the pictures: a row shares substrate, wanted classes and noise, a column its route
LARGEST = {"batch_size": 4_096, "base_channels": 1_024, "patch_channels": 1_024, "noise_dim": 65_536, "views": 64}
# The paper's weights; L_VGG is L_p + L_n.
WEIGHTS = {"split": "L_split", "cgan": "L_cGAN", "vgg": "L_VGG", "background": "L_m", "substrate": "L_sub"}


def main(argv: list[str] | None = None) -> int:
    """Train as the command line asks; returns the exit code."""
    flags, run = read_flags(argv)
    return start(flags, run, name="gpan", build=build, train=train)


def train(game: GPANGame, run: Run) -> int:
    """Run the loop: a step of both nets on the same images, and now and then pictures and measurements."""
    shown = ("wanted", "unwanted", "background", "substrate", "cgan", "split", "d_loss")
    with Loop(game, run) as steps:
        for step in steps:
            numbers = take_step(game, step)
            step.show(**{name: numbers[name] for name in shown if name in numbers})
            step.record(**numbers)
    return finish(steps)


def take_step(game: GPANGame, step: Step) -> dict[str, float]:
    """Update both nets from one batch, in micro-batches whose gradients add up; returns numbers for the log.

    Both are updated at the end, from the same images: with micro-batches neither can wait for the other.
    """
    G, D, settings, parts = game.G, game.D, game.losses, game.flags["accumulate"]
    wanted, share, n = game.draw_wanted(), 1.0 / parts, game.flags["batch_size"] // parts
    routes = G.draw_routes(game.streams["routes"], n * parts, game.flags["routes"])
    sums: dict[str, Tensor] = {}
    game.zero_grad()
    with normalized(G, routes), normalized(D):
        for part in range(parts):
            batch = game.next_batch(wanted, routes[part * n:(part + 1) * n])
            views = game.draw_views(n)
            images, maps = G(batch.g_condition, batch.code, batch.noise, batch.routes)
            losses = loss_gradients(images, maps, batch, views, discriminator=D, classifier=game.classifier,
                                    settings=settings)
            terms = dict(losses.terms)

            # (1) discriminator: learn to tell patches of substrates from G's, where the classifier does not look
            if settings.weights["cgan"]:
                terms["d_loss"], real, fake = learn_discriminator(images, batch, losses.importance, D, settings, share)
                terms |= {"d_real": sigmoid(real).mean(), "d_fake": sigmoid(fake).mean(),
                          "logit_gap": real.mean() - fake.mean()}
            for value in terms.values():
                step.check(value, [("the batch of substrates", batch.target)], [("the batch of images", images)])

            # (2) generator: learn from the weighted sum of the losses' gradients at the images
            learn_generator(images, maps, losses, settings, share)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * share
    numbers = {name: value.item() for name, value in sums.items()} if step.read else {}
    if step.log:
        numbers["g_loss"] = sum(weight * numbers.get(name, 0.0) for name, weight in settings.weights.items())
        numbers["g_loss"] += settings.weights["vgg"] * (numbers["wanted"] + numbers["unwanted"])
        numbers |= {f"pull_{name}": value for name, value in gradient_norms(losses, settings).items()}
        numbers["map_size"] = sum(float(abs(m.data).mean()) for m in maps) / len(maps)  # L_split may blow maps up
        numbers |= {"g_grad": gradient_norm(G), "d_grad": gradient_norm(D)}
        numbers |= gpan_measure.hit_rates(losses.scores, batch.wanted, prefix="train_")
    if settings.weights["cgan"]:
        game.d_optimizer.step()
    game.g_optimizer.step()
    game.update_average()
    return numbers


def build(flags: dict, run: Run | None, device: Device) -> GPANGame:
    """Make the classifier, the substrates and the nets that the flags describe."""
    classifier = (load_vgg16(flags["classifier"]) if flags["classifier"] else load_classifier(None)).to(device.put)
    if classifier.channels not in (None, flags["channels"]):
        raise UsageError(f"--channels {flags['channels']}: this classifier sees colours, so leave it out")
    names = classifier.class_names
    sets = find_sets(flags, names)
    if full := [words for words, ids in zip(flags["wanted"], sets, strict=True) if len(ids) == len(names)]:
        raise UsageError(f"--wanted {full[0]}: that is every class there is, and one must be left that is not wanted")
    print("wanted: " + "; ".join(", ".join(names[i] for i in ids) for ids in sets))
    substrates = open_substrates(flags["substrate"] or None, flags["size"], flags["channels"],
                                 flip=flags["substrate_flip"] == "yes")
    print(substrates.describe())
    config = make(GPANConfig, flags, condition_channels=flags["channels"],
                  categories=len({i for ids in sets for i in ids}))
    game = GPANGame(config, flags, classifier, sets, substrates, device)
    game.inputs = file_inputs(flags)
    return game


def find_sets(flags: dict, names: Sequence[str]) -> list[list[int]]:
    """Find the ids of each set of --wanted. Raises UsageError, which tells whose classes `names` are."""
    try:
        return [find_classes(words.split(","), names) for words in flags["wanted"]]
    except UsageError as error:
        if flags["classifier"]:
            raise
        raise UsageError(f"{error}; these are the classes of the digit classifier, and --classifier weights/vgg16.h5 "
                         "has others") from None


class GPANGame(Game):
    """The game of the GPAN, and everything that changes during it."""

    kind, script = "gpan", "train_gpan.py"
    otherwise = "try a larger --accumulate, a smaller --size or --base-channels"

    def __init__(self, config: GPANConfig, flags: dict, classifier: Module, sets: list[tuple[int, ...]],
                 substrates: Substrates, device: Device) -> None:
        init, *streams = (np.random.default_rng([flags["seed"], purpose]) for purpose in range(6))
        super().__init__(config, flags, device, GPANGenerator(config, rng=init), PatchDiscriminator(config, rng=init))
        self.streams = dict(zip(("substrates", "wanted", "noise", "routes", "views"), streams, strict=True))
        self.classifier, self.sets, self.substrates = classifier, sets, substrates
        self.categories = sorted({i for ids in sets for i in ids})
        self.losses, self.views = loss_settings(flags), view_settings(flags)
        self.multiple = flags["accumulate"]
        self.least = self.multiple * (2 if flags["weight_split"] else 1)  # L_split compares the images of a part

    def describe(self) -> str:
        """Return one line about the nets."""
        estimate = gpan_measure.estimate_bytes(self.G, self.D, self.classifier, self.flags["batch_size"],
                                               self.flags["accumulate"])
        return (f"generator {self.G.parameter_count():,} weights, {self.config.route_count:,} routes; discriminator "
                f"{self.D.parameter_count():,} weights; a step needs about {estimate / 2**30:.1f} GiB of memory")

    def draw_wanted(self) -> tuple[int, ...]:
        """Draw one set of categories for the whole batch (paper)."""
        return self.sets[self.streams["wanted"].integers(len(self.sets))]

    def next_batch(self, wanted: tuple[int, ...], routes: np.ndarray) -> Batch:
        """Draw noise and substrates for the given classes and routes."""
        return self.batch(wanted, routes, self.G.draw_noise(self.streams["noise"], len(routes)),
                          *self.substrates.next(self.streams["substrates"], len(routes)))

    def batch(self, wanted: tuple[int, ...], routes: np.ndarray, noise: np.ndarray, target: np.ndarray,
              mask: np.ndarray) -> Batch:
        """Put arrays together as a batch on the device."""
        code = np.isin(self.categories, wanted).astype(np.float32)
        put = self.device.put
        seen, x = (condition(mask, target, self.flags[name]) for name in ("painter_sees", "critic_sees"))
        return Batch(Tensor(put(target), name="substrates"), Tensor(put(mask)), Tensor(put(seen)), Tensor(put(x)),
                     Tensor(put(np.tile(code, (len(routes), 1)))), Tensor(put(noise), name="noise"), routes, wanted)

    def draw_views(self, n: int) -> Views | None:
        """Draw random views of n images; None where the classifier is to be given the plain images alone."""
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
                    "streams": {name: rng.bit_generator.state for name, rng in self.streams.items()}}

    def set_extra(self, arrays: dict[str, np.ndarray], header: dict) -> None:
        """Restore the streams. Raises TinyganError where the sets of classes are others."""
        if header["sets"] != [list(ids) for ids in self.sets]:
            raise TinyganError("the checkpoint was made with other settings of the nets than this run's flags")
        for name, rng in self.streams.items():
            rng.bit_generator.state = header["streams"][name]

    # ---- pictures and measurements

    def fixed(self, same_substrate: bool = False) -> list[Batch]:
        """Make ROWS batches, the same every time: each of one substrate, noise and set, through COLUMNS - 1 routes."""
        rng, batches = np.random.default_rng([self.flags["seed"], 100]), []
        routes = self.G.draw_routes(rng, COLUMNS - 1)
        target, mask = self.substrates.next(rng, ROWS)
        for row in range(ROWS):
            of = 0 if same_substrate else row
            wanted = self.sets[of % len(self.sets)]
            noise, item = self.G.draw_noise(rng, 1), slice(of, of + 1)
            batches.append(self.batch(wanted, routes, *(np.repeat(part, COLUMNS - 1, axis=0)
                                                        for part in (noise, target[item], mask[item]))))
        return batches

    def paint(self, batch: Batch) -> np.ndarray:
        """Draw the images of a batch from the generator to show: (n, C, S, S) in [-1, 1] on the host."""
        return generate_gpan(self.best, batch)

    def look(self, run: Run, say: Callable[[str], None]) -> None:
        """Draw the same substrates, noise and routes every time, and where the classifier looks (cams.png)."""
        if self.step in (0, self.flags["steps"]):  # which takes a VGG16 a while
            say("step 0: painting the first pictures" if self.step == 0 else
                f"step {self.step}: the steps are done; painting the last pictures")
        batches = self.fixed()
        images = [self.paint(batch) for batch in batches]
        run.save_sample(self.step, sheet(batches, images))
        run.save_picture("cams.png", gpan_measure.cam_sheet(self.classifier, batches, images, self.device))

    def measure(self, n: int = 32) -> dict[str, float]:
        """Measure how often the classifier finds what is wanted in fresh images, and how much routes change them."""
        total = gpan_measure.images_to_classify(self, n)
        progress = Progress(total, every=0, quiet=QUIET, word="measuring, image")
        progress.update(0)
        numbers = gpan_measure.measure(self, n, progress.update)
        progress.clear()
        return numbers

    def words(self, rows: list[dict[str, float]], over: str = "") -> list[str]:
        """Return the words of the report on the game of the two nets, where there is one, and on the images."""
        if not rows:
            return []
        images = f"step {rows[-1]['step']}: {over}{gpan_measure.in_words(rows[-1])}"
        return [metrics_log.line(rows), images] if "d_loss" in rows[-1] else [images]

    def last_look(self, run: Run) -> None:
        """Draw routes.png, and take the last measurement into the log, and from there into the report."""
        batches = self.fixed(same_substrate=True)
        names = ["substrate", *(cli.as_typed(route.tolist()) for route in batches[0].routes)]
        run.save_picture("routes.png", lambda: sheet(batches, [self.paint(batch) for batch in batches], names))
        measured = self.measure(8 if self.flags["dry_run"] else 64)
        run.amend(self.step, **measured)
        for words in self.words(run.rows(), f"over {measured['samples']:.0f} images: "):
            print(words)


def sheet(batches: list[Batch], images: list[np.ndarray], headers: list[str] | None = None) -> np.ndarray:
    """Draw rows of: the substrate, then what was painted on it through one route after the other."""
    rows = [gpan_measure.as_pictures(np.concatenate([batch.target.numpy()[:1], row]))
            for batch, row in zip(batches, images, strict=True)]
    return pictures.routes_sheet(np.stack(rows, axis=1), headers=headers)


# ---- flags -------------------------------------------------------------------------------------------------------


def loss_settings(flags: dict) -> LossSettings:
    """Make the settings of the losses."""
    return make(LossSettings, flags, weights={name: flags[f"weight_{name}"] for name in WEIGHTS})


def view_settings(flags: dict) -> ViewSettings | None:
    """Make the settings of the views; None where there are none."""
    return make(ViewSettings, flags) if flags["views"] else None


def read_flags(argv: list[str] | None) -> tuple[dict, Run | None]:
    """The settings in force, and the run to go on with if --resume was given."""
    parser, run = build_parser(), None
    flags, typed = vars(parser.parse_args(argv)), cli.typed(parser, argv)
    if flags["dry_run"] and flags["resume"] is not None:
        raise UsageError("--dry-run tries out a new run: leave --resume out")
    if flags["resume"] is not None:
        flags, run = resumed(parser, flags, typed, "gpan", "wanted")
    kind = "vgg16" if flags["classifier"] else "digits"
    preset = dict(PRESETS[kind])
    if flags["optimizer"] == "rmsprop":
        preset["lr"] = RMSPROP_LR
    if kind == "vgg16" and flags["device"] != "cpu" and pick_device(flags["device"]).kind == "gpu":
        preset |= GPU_PRESET
    for name, value in preset.items():
        if flags[name] is None:
            flags[name] = value
    if flags["wanted"] is None:
        raise UsageError("say what to paint: --wanted flamingo, or --wanted zebra,flamingo for both at once (the "
                         "classifier's own names or numbers)")
    flags["d_lr"] = flags["d_lr"] or flags["lr"] * D_SHARE[flags["optimizer"]]
    check_numbers(flags, typed, LARGEST)
    if flags["dry_run"] and run is None:
        flags |= {"steps": 2, "log_every": 1, "eval_every": 0}
    n, parts = flags["batch_size"], flags["accumulate"]
    if n % parts:
        raise UsageError(f"--batch-size {n} cannot be cut into --accumulate {parts} equal parts")
    if flags["weight_split"] and n // parts < 2:
        raise UsageError(f"--batch-size {n} in --accumulate {parts} parts: L_split compares the images of a part, so "
                         "each must have 2 or more (or use --weight-split 0)")
    if not any(flags[f"weight_{name}"] for name in WEIGHTS):
        raise UsageError("every loss has weight 0: there is nothing to learn")
    if flags["start"] == "substrate" and flags["painter_sees"] != "substrate":
        raise UsageError(f"--painter-sees {flags['painter_sees']}: a generator that starts at what it sees would start "
                         "on black: add --start nothing")
    if flags["substrate_flip"] == "yes" and "substrate_flip" in typed and not flags["substrate"]:
        raise UsageError("--substrate-flip yes mirrors the pictures of --substrate, and there are none: leave it out")
    flags["substrate_flip"] = flags["substrate_flip"] or "no"
    if not flags["views"]:
        if "whole" in typed and flags["whole"] == "no":
            raise UsageError("--views 0 --whole no leaves the classifier nothing to look at: give one of them")
        flags["whole"] = "yes"
    return flags, run


def build_parser() -> cli.Parser:
    """Make the parser: flags for the run, and those of the fields of the nets', losses' and views' settings."""
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)

    def preset(name: str) -> str:
        if name not in PRESETS["digits"]:
            return ""
        small, large = (cli.as_typed(PRESETS[kind][name]) for kind in ("digits", "vgg16"))
        return f"[default: {small}]" if small == large else f"[default: {small}; {large} with a VGG16]"

    group = p.add_argument_group("training")
    group.add_argument("--classifier", type=cli.path, metavar="FILE", help="a VGG16 made by weights/convert_vgg16.py "
                       "[default: the digit classifier that comes with the project]")
    group.add_argument("--wanted", action="append", metavar="CLASS[,CLASS]", help="classes of one image, by name or "
                       "number; repeat it for several sets, of which each batch has one [default: 3; 5; 8, for digits]")
    group.add_argument("--substrate", action="append", type=cli.path, metavar="PATH", help="pictures to paint on: a "
                       "file on transparent or white ground (repeat for more) or a folder [default: drawn shapes]")
    group.add_argument("--substrate-flip", choices=("yes", "no"), help="mirror half of the pictures of --substrate: "
                       "not for what has a text or a handle [default: no]")
    add_training_flags(group, preset)
    group.add_argument("--accumulate", type=cli.positive_int, default=1, help="do a batch in so many parts: less "
                       "memory, the same gradient but for L_split, which compares the images of a part")
    names = add_settings(p.add_argument_group("nets"), GPANConfig, preset)
    group = p.add_argument_group("losses")
    for name, words in WEIGHTS.items():
        group.add_argument(f"--weight-{name}", type=cli.non_negative_float, default=PAPER_WEIGHTS[name],
                           help=f"of {words}; the default is the paper's")
    names |= add_settings(group, LossSettings, preset)
    group = p.add_argument_group("views")
    names |= add_settings(group, ViewSettings, preset)
    group.add_argument("--view-plain", type=cli.probability, help="share of the steps with the plain images and no "
                       f"views {preset('view_plain')}")
    group.add_argument("--view-warmup", type=cli.non_negative_int, help="steps over which the views' ranges grow from "
                       f"nothing {preset('view_warmup')}")
    add_optimiser_flags(p.add_argument_group("optimizer"), preset, "0.0006; with rmsprop 0.00005",
                        "half of --lr with adam, --lr with rmsprop", beta2=preset("beta2"))
    group = p.add_argument_group("conditions")
    group.add_argument("--painter-sees", choices=CONDITIONS, default="substrate", help="the generator's")
    group.add_argument("--critic-sees", choices=CONDITIONS, default="silhouette", help="the discriminator's; given the "
                       "substrate, it would only have to compare")
    add_place_flags(p.add_argument_group("place"), name="gpan", pictures="0, 50, 100, 250, 500, then every 1,000",
                    measured_with="the classifier", log_every=20, save_every=100, eval_every=100)
    p.set_defaults(optimizer="adam", lr_warmup=20)
    p.hide_all_but(FREQUENT, names)
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
