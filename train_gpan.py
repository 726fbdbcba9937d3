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
import traceback
import warnings
from collections.abc import Sequence

import numpy as np

from tinygan import __version__, checkpoint, cli, gpan_losses, gpan_measure, health, pictures
from tinygan.classes import find_classes
from tinygan.data.substrates import CONDITIONS, Substrates, condition, open_substrates
from tinygan.debug import anomaly
from tinygan.device import Device, first_line, memory_is_full, pick_device
from tinygan.engine import Tensor
from tinygan.errors import TinyganError, UsageError
from tinygan.gpan_step import (
    CAM_MODES,
    Batch,
    LossSettings,
    judge,
    learn_discriminator,
    learn_generator,
    pull_lengths,
)
from tinygan.kernels import threads
from tinygan.kernels.gpu.launch import set_tf32
from tinygan.layers import CLAMPS, NORMS, normalised
from tinygan.losses import GENERATOR_LOSSES
from tinygan.models.adapted_gan import ACTIVATIONS
from tinygan.models.gpan import MAP_NORMS, SIZES, SKIPS, STARTS, GPANConfig, GPANGenerator, PatchDiscriminator
from tinygan.module import Module
from tinygan.ops import sigmoid
from tinygan.optim import EMA
from tinygan.run import QUIET, Progress, Run, sample_due
from tinygan.signals import StopSignal
from tinygan.training import (
    add_optimiser_flags,
    add_place_flags,
    check_numbers,
    check_steps,
    dry_run,
    file_inputs,
    gradient_norm,
    make_optimizer,
    nets_state,
    out_of_memory,
    rate_factor,
    refuse_other_entries,
    restore_nets,
    resumed,
    stop_if_not_finite,
)
from tinygan.views import ViewSettings, draw_views, milder

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
ROWS, COLUMNS = 4, 6  # of the pictures: a row shares substrate, wanted classes and noise, a column its route
LARGEST = {"batch_size": 4_096, "base_channels": 1_024, "patch_channels": 1_024, "noise_dim": 65_536, "views": 64}
# The paper's weights; L_VGG is L_p + L_n.
WEIGHTS = {"split": "L_split", "cgan": "L_cGAN", "vgg": "L_VGG", "background": "L_m", "substrate": "L_sub"}


def main(argv: list[str] | None = None) -> int:
    flags, run = read_flags(argv)
    if flags["dry_run"] and not flags["out"]:
        return dry_run(start, flags)
    return start(flags, run)


def start(flags: dict, run: Run | None) -> int:
    """Put everything together and train; run: the one to go on with, None for a new one."""
    print(f"threads: {threads.set_threads(flags['threads'])}, seed: {flags['seed']}")
    threads.reuse_heap()
    device = pick_device(flags["device"], tf32=flags["tf32"])
    set_tf32(flags["tf32"] and device.kind == "gpu")
    print(device.line)
    classifier = gpan_measure.load_classifier(flags["classifier"]).to(device.put)
    if getattr(classifier, "channels", flags["channels"]) != flags["channels"]:
        raise UsageError(f"--channels {flags['channels']}: this classifier sees colours, so leave it out")
    names = classifier.class_names
    sets = find_sets(flags, names)
    if full := [words for words, ids in zip(flags["wanted"], sets, strict=True) if len(ids) == len(names)]:
        raise UsageError(f"--wanted {full[0]}: that is every class there is, and one must be left that is not wanted")
    print("wanted: " + "; ".join(", ".join(names[i] for i in ids) for ids in sets))
    substrates = open_substrates(flags["substrate"] or None, flags["size"], flags["channels"],
                                 flip=flags["substrate_flip"] == "yes")
    print(substrates.describe())
    categories = sorted({i for ids in sets for i in ids})
    same = ("size", "channels", "noise_dim", "bank", "base_channels", "patch_channels", "skips", "start", "map_norm",
            "smooth", "norm", "act", "slope", "clamp")
    config = GPANConfig(condition_channels=flags["channels"], categories=len(categories),
                        **{name: flags[name] for name in same})
    training = Training(config, flags, classifier, sets, substrates, device)
    if run is None:
        run = Run.create(flags, out=flags["out"], name="gpan", overwrite=flags["overwrite"],
                         inputs=file_inputs(flags))
    else:
        training.restore(*checkpoint.load(run.folder))  # may refuse: so before the log is cut back to its step
        check_steps(training.step, flags, run)
        run.load()
        print(f"going on at step {training.step} of {run.folder}")
    estimate = gpan_measure.estimate_bytes(training.G, training.D, classifier, flags["batch_size"], flags["accumulate"])
    print(f"generator {training.G.parameter_count():,} weights, {config.route_count:,} routes; discriminator "
          f"{training.D.parameter_count():,} weights; a step needs about {estimate / 2**30:.1f} GiB of memory")
    try:
        return train(training, run, flags)
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the step that did not fit
        parts = flags["accumulate"]
        advice = out_of_memory(first_line(error), flags, run, (training.G, training.D), device, training.rehearse,
                               "try a larger --accumulate, a smaller --size or --base-channels", multiple=parts,
                               least=parts * (2 if flags["weight_split"] else 1))
        raise TinyganError(f"step {training.step + 1}: {advice}") from None


def find_sets(flags: dict, names: Sequence[str]) -> list[list[int]]:
    """The ids of each set of --wanted. Raises UsageError, which says whose classes `names` are."""
    try:
        return [find_classes(words.split(","), names) for words in flags["wanted"]]
    except UsageError as error:
        if flags["classifier"]:
            raise
        raise UsageError(f"{error}; these are the classes of the digit classifier, and --classifier weights/vgg16.h5 "
                         "has others") from None


def train(t: Training, run: Run, flags: dict) -> int:
    """The loop: a step of both nets on the same images, and now and then a look at the result."""
    total = flags["steps"]
    sys.stdout.flush()  # what was printed so far, where it goes to a file
    with StopSignal() as stop, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, on overflow: stop_if_not_finite says more
        if t.step == 0:
            before = Progress(total)
            before.say("step 0: painting the first pictures")  # which takes a VGG16 a while
            before.update(0)
            look(t, run)
        progress = Progress(total, start=t.step, every=flags["log_every"], quiet=QUIET)  # now: the steps are timed
        run.say = progress.say
        while t.step < total and not stop.requested:
            t.set_learning_rate()
            # Reading a number makes a GPU wait, so there it is done only when a number is shown.
            look_now = sample_due(t.step + 1, total, flags["sample_every"])
            measure_now = flags["eval_every"] and (t.step + 1) % flags["eval_every"] == 0 and t.step + 1 < total
            log_now = look_now or measure_now or (t.step + 1) % flags["log_every"] == 0
            read_now = log_now or t.device.kind == "cpu"
            numbers = take_step(t, run, read_now, log_now)
            t.step += 1

            if read_now:
                shown = ("wanted", "unwanted", "background", "substrate", "cgan", "split", "d_loss")
                progress.update(t.step, **{name: numbers[name] for name in shown if name in numbers})
            if log_now:
                t.latest = numbers
                if measure_now:
                    t.latest |= t.measure()
                if t.step == total:
                    progress.say(f"step {t.step}: the steps are done; painting the last pictures")
                if look_now:
                    look(t, run)
                run.log(t.step, **t.latest)
                if look_now and t.step < total:  # of the last step `finish` says more
                    for words in in_words(run.rows()):
                        progress.say(words)
            if t.step % flags["save_every"] == 0 and t.step < total:
                run.save(*t.state())
        progress.close()
        run.save(*t.state())  # while signals are still held back: a lost terminal often says so twice
    if stop.requested:
        print(f"stopped at step {t.step}; saved. Go on with: python train_gpan.py --resume {run.folder}")
        return 130
    return finish(t, run, flags)


def take_step(t: Training, run: Run, read: bool, log: bool) -> dict[str, float]:
    """Both nets learn from one batch, in micro-batches whose gradients add up; returns numbers for the log.

    Both are updated at the end, from the same images: with micro-batches neither can wait for the other.
    """
    wanted, parts, share = t.draw_wanted(), t.flags["accumulate"], 1.0 / t.flags["accumulate"]
    n = t.flags["batch_size"] // parts
    routes = t.G.draw_routes(t.route_rng, n * parts, t.flags["routes"])
    sums: dict[str, Tensor] = {}
    t.G.zero_grad()
    t.D.zero_grad()
    with normalised(t.G, routes), normalised(t.D):
        for part in range(parts):
            batch = t.next_batch(wanted, routes[part * n:(part + 1) * n])
            views = t.draw_views(n)
            images, maps = t.G(batch.seen, batch.code, batch.noise, batch.routes)
            verdict = judge(images, maps, batch, views, t.flags["whole"] == "yes", discriminator=t.D,
                            classifier=t.classifier, settings=t.losses)
            found = dict(verdict.terms)
            if t.losses.weights["cgan"]:
                found["d_loss"], real, fake = learn_discriminator(images, batch, verdict.importance, t.D, t.losses,
                                                                  share)
                found |= {"d_real": sigmoid(real).mean(), "d_fake": sigmoid(fake).mean(),
                          "logit_gap": real.mean() - fake.mean()}
            if read:  # before an update spreads a NaN to all weights
                suspects = [("the batch of substrates", batch.target), *t.weights(), ("the batch of images", images)]
                for value in found.values():
                    stop_if_not_finite(value, suspects, t.step, run)
            learn_generator(images, maps, verdict, t.losses, share)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * share
    numbers = {name: value.item() for name, value in sums.items()} if read else {}
    if log:
        numbers["g_loss"] = sum(weight * numbers.get(name, 0.0) for name, weight in t.losses.weights.items())
        numbers["g_loss"] += t.losses.weights["vgg"] * (numbers["wanted"] + numbers["unwanted"])
        numbers |= {f"pull_{name}": value for name, value in pull_lengths(verdict, t.losses).items()}
        numbers["map_size"] = sum(float(abs(m.data).mean()) for m in maps) / len(maps)  # L_split may blow maps up
        numbers |= {"g_grad": gradient_norm(t.G), "d_grad": gradient_norm(t.D)}
        numbers |= gpan_measure.hit_rates(verdict.scores, batch.wanted, prefix="train_")
    if t.losses.weights["cgan"]:
        t.d_optimizer.step()
    t.g_optimizer.step()
    if t.average is not None:
        t.average.update(t.G)
    return numbers


def look(t: Training, run: Run) -> None:
    """Draw the same substrates, noise and routes as always."""
    batches, images = t.fixed(), []
    for batch in batches:
        images.append(t.paint(batch))
    run.save_sample(t.step, sheet(batches, images))
    run.save_picture("cams.png", gpan_measure.cam_sheet(t.classifier, batches, images, t.device))


def in_words(rows: list[dict[str, float]], over: str = "") -> list[str]:
    """How the game of the two nets goes, where there is one, and what the classifier sees: the words of the report."""
    if not rows:
        return []
    seen = f"step {rows[-1]['step']}: {over}{gpan_measure.in_words(rows[-1])}"
    return [health.line(rows), seen] if "d_loss" in rows[-1] else [seen]


def sheet(batches: list[Batch], images: list[np.ndarray], headers: list[str] | None = None) -> np.ndarray:
    """Rows of: the substrate, then what was painted on it through one route after the other."""
    rows = [gpan_measure.for_the_eye(np.concatenate([batch.target.numpy()[:1], row]))
            for batch, row in zip(batches, images, strict=True)]
    return pictures.routes_sheet(np.stack(rows, axis=1), headers=headers)


def finish(t: Training, run: Run, flags: dict) -> int:
    """The last pictures and the last measurement, which goes into the log, and from there into the report."""
    batches = t.fixed(same_substrate=True)
    names = ["substrate", *(cli.as_typed(route.tolist()) for route in batches[0].routes)]
    run.save_picture("routes.png", lambda: sheet(batches, [t.paint(batch) for batch in batches], names))
    found = t.measure(8 if flags["dry_run"] else 64)
    run.amend(t.step, **found)
    for words in in_words(run.rows(), f"over {found['samples']:.0f} images: "):
        print(words)
    for note in run.finish():
        print(f"note: {note}")
    run.close()
    if flags["dry_run"]:
        print("dry run: one full cycle of training, saving and drawing works")
        return 0
    print(f"done: {run.folder}/report.html shows it all; more images: python sample.py --checkpoint {run.folder}")
    return 0


class Training:
    """Everything that changes during a run, so that it can be saved whole and brought back whole."""

    def __init__(self, config: GPANConfig, flags: dict, classifier: Module, sets: list[tuple[int, ...]],
                 substrates: Substrates, device: Device) -> None:
        self.config, self.flags, self.classifier, self.device = config, flags, classifier, device
        self.sets, self.substrates = sets, substrates
        self.categories = sorted({i for ids in sets for i in ids})
        # One random stream per purpose: drawing more of one thing never shifts another.
        init, *streams = (np.random.default_rng([flags["seed"], purpose]) for purpose in range(6))
        self.streams = dict(zip(("substrates", "wanted", "noise", "routes", "views"), streams, strict=True))
        self.route_rng = self.streams["routes"]
        self.G = GPANGenerator(config, rng=init).to(device.put)
        self.D = PatchDiscriminator(config, rng=init).to(device.put)
        self.g_optimizer, self.d_optimizer = (
            make_optimizer(net, flags, rate) for net, rate in ((self.G, flags["lr"]), (self.D, flags["d_lr"])))
        self.average = EMA(self.G, flags["ema"]) if flags["ema"] else None
        self.losses = loss_settings(flags)
        self.views = view_settings(flags)
        self.step, self.latest = 0, {}

    @property
    def best(self) -> GPANGenerator:
        """The generator to show: the moving average where there is one."""
        return self.G if self.average is None else self.average.module

    def draw_wanted(self) -> tuple[int, ...]:
        """One set of categories for the whole batch (paper)."""
        return self.sets[self.streams["wanted"].integers(len(self.sets))]

    def next_batch(self, wanted: tuple[int, ...], routes: np.ndarray) -> Batch:
        return self.batch(wanted, routes, self.G.draw_noise(self.streams["noise"], len(routes)),
                          *self.substrates.next(self.streams["substrates"], len(routes)))

    def batch(self, wanted: tuple[int, ...], routes: np.ndarray, noise: np.ndarray, target: np.ndarray,
              mask: np.ndarray) -> Batch:
        code = np.isin(self.categories, wanted).astype(np.float32)
        put = self.device.put
        seen, x = (condition(mask, target, self.flags[name]) for name in ("painter_sees", "critic_sees"))
        return Batch(Tensor(put(target), name="substrates"), Tensor(put(mask)), Tensor(put(seen)), Tensor(put(x)),
                     Tensor(put(np.tile(code, (len(routes), 1)))), Tensor(put(noise), name="noise"), routes, wanted)

    def draw_views(self, n: int):
        """Random views of n images, or None where the classifier is to look at the plain images alone."""
        side, plain = self.config.size, self.flags["view_plain"]
        if self.views is None or plain and self.streams["views"].random() < plain:
            return None
        warm = self.flags["view_warmup"]
        settings = milder(self.views, min(1.0, self.step / warm)) if warm else self.views
        return draw_views(self.streams["views"], n, settings, side, side, self.classifier.side)

    def fixed(self, same_substrate: bool = False) -> list[Batch]:
        """ROWS batches, the same every time: each of one substrate, noise and set, through COLUMNS - 1 routes."""
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
        return gpan_measure.paint(self.best, batch)

    def measure(self, n: int = 32) -> dict[str, float]:
        """How often the classifier finds what is wanted in fresh images, and how much routes change them."""
        looks = gpan_measure.to_judge(self, n)  # two at each image, and one at those of which routes are compared
        progress = Progress(looks, every=0, quiet=QUIET, word="measuring, the classifier's look")
        progress.update(0)
        found = gpan_measure.measure(self, n, progress.update)
        progress.clear()
        return found

    def set_learning_rate(self) -> None:
        factor = rate_factor(self.flags, self.step)
        self.g_optimizer.lr, self.d_optimizer.lr = self.flags["lr"] * factor, self.flags["d_lr"] * factor

    def weights(self) -> list[tuple[str, Tensor]]:
        """Every learned tensor with its full name, such as generator.deconvs.0.weight."""
        return [*self.G.named_parameters("generator."), *self.D.named_parameters("discriminator.")]

    def rehearse(self, n: int) -> bool:
        """Whether a step of n images fits into memory. Changes nothing that lasts."""
        try:
            n = -(-n // self.flags["accumulate"])
            rng = np.random.default_rng(0)
            batch = self.batch(self.sets[0], self.G.draw_routes(rng, n), self.G.draw_noise(rng, n),
                               *self.substrates.next(rng, n))
            images, maps = self.G(batch.seen, batch.code, batch.noise, batch.routes)
            side = self.config.size
            views = None if self.views is None else draw_views(rng, n, self.views, side, side, self.classifier.side)
            verdict = judge(images, maps, batch, views, self.flags["whole"] == "yes", discriminator=self.D,
                            classifier=self.classifier, settings=self.losses)
            learn_discriminator(images, batch, verdict.importance, self.D, self.losses)
            learn_generator(images, maps, verdict, self.losses)
            return True
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
            return False
        finally:
            self.G.zero_grad()
            self.D.zero_grad()

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """(arrays, header) for the checkpoint: all that decides what comes next, no clock and no path."""
        arrays = nets_state(self)
        header = {"kind": "gpan", "step": self.step, "config": self.config.to_dict(),
                  "sets": [list(ids) for ids in self.sets], "classes": list(self.classifier.class_names),
                  "streams": {name: rng.bit_generator.state for name, rng in self.streams.items()},
                  "average_updates": self.average.updates if self.average else 0}
        return arrays, header

    def restore(self, arrays: dict[str, np.ndarray], header: dict) -> None:
        """The opposite of `state`. Raises TinyganError if the checkpoint is of another net."""
        try:
            if header["config"] != self.config.to_dict() or header["sets"] != [list(ids) for ids in self.sets]:
                raise TinyganError("the checkpoint was made with other settings of the nets than this run's flags")
            if not isinstance(header["step"], int) or header["step"] < 0:
                raise ValueError("step")
            refuse_other_entries(self.state()[0], arrays)
            restore_nets(self, arrays, header["average_updates"])
            for name, rng in self.streams.items():
                rng.bit_generator.state = header["streams"][name]
            self.step = header["step"]
        except (KeyError, TypeError, ValueError) as error:
            raise TinyganError(f"the checkpoint lacks or garbles {error}: it is not one of train_gpan.py") from None


# ---- flags -------------------------------------------------------------------------------------------------------


def loss_settings(flags: dict) -> LossSettings:
    return LossSettings(weights={name: flags[f"weight_{name}"] for name in WEIGHTS}, cam=flags["cam"],
                        cam_threshold=flags["cam_threshold"], cam_discriminator=flags["cam_for"] == "both",
                        substrate_everywhere=flags["substrate_where"] == "everywhere", generator=flags["loss"],
                        classes=flags["class_loss"], unwanted=flags["unwanted"], background=flags["background_over"],
                        split_sign=-1 if flags["split_sign"] == "minus" else 1, split_scale=flags["split_scale"],
                        split_unit=flags["split_unit"] == "rms",
                        barrier=flags["barrier"])


def view_settings(flags: dict) -> ViewSettings | None:
    if not flags["views"]:
        return None
    return ViewSettings(per_image=flags["views"], scale=tuple(flags["view_scale"]), rotation=flags["view_rotation"],
                        shift=flags["view_shift"], flip=flags["view_flip"] == "yes", blur=flags["view_blur"],
                        noise=flags["view_noise"], coarse=tuple(flags["view_coarse"]))


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
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)

    def preset(name: str) -> str:
        small, large = (cli.as_typed(PRESETS[kind][name]) for kind in ("digits", "vgg16"))
        return f"[default: {small}]" if small == large else f"[default: {small}; {large} with a VGG16]"

    what = p.add_argument_group("what to train")
    what.add_argument("--classifier", type=cli.path, metavar="FILE", help="a VGG16 made by weights/convert_vgg16.py "
                      "[default: the digit classifier that comes with the project]")
    what.add_argument("--wanted", action="append", metavar="CLASS[,CLASS]", help="classes to be seen in one image, by "
                      "name or number; repeat it for several sets, of which each batch has one [default: 3; 5; 8, for "
                      "digits]")
    what.add_argument("--substrate", action="append", type=cli.path, metavar="PATH", help="pictures to paint on: a "
                      "file on transparent or white ground (repeat for more) or a folder [default: drawn shapes]")
    what.add_argument("--substrate-flip", choices=("yes", "no"), help="mirror half of the pictures of --substrate: not "
                      "for what has a text or a handle [default: no]")
    what.add_argument("--size", type=int, choices=SIZES, help=f"pixels {preset('size')}")
    what.add_argument("--channels", type=int, choices=(1, 3), default=3, help="grey or colour")
    what.add_argument("--steps", type=cli.positive_int, help=f"total to reach {preset('steps')}")
    what.add_argument("-b", "--batch-size", type=cli.positive_int, help=preset("batch_size"))
    what.add_argument("--accumulate", type=cli.positive_int, default=1, help="do a batch in so many parts: less "
                      "memory, the same gradient but for L_split, which compares the images of a part")
    what.add_argument("--bank", type=cli.bank_list, default=(4,), help="filter sets of the stochastic layers")
    what.add_argument("--routes", type=cli.route_mode, default="sample", help="sample, batch or group:g: how many "
                      "images share a route in training")
    what.add_argument("--seed", type=cli.non_negative_int, default=0, help="same seed, same machine, same thread "
                      "count: same bits")
    loss = p.add_argument_group("losses (their weights are the paper's)")
    for name, words in WEIGHTS.items():
        loss.add_argument(f"--weight-{name}", type=cli.non_negative_float, default=gpan_losses.PAPER_WEIGHTS[name],
                          help=words)
    loss.add_argument("--cam", choices=CAM_MODES, default="soft", help="how regions that matter to the classifier are "
                      "kept from the discriminator")
    loss.add_argument("--cam-threshold", type=cli.probability, default=0.5, help="for --cam binary")
    loss.add_argument("--cam-for", choices=("both", "generator"), default="both", help="whose loss is weighted")
    loss.add_argument("--substrate-where", choices=("everywhere", "unimportant"), default="everywhere", help="where "
                      "L_sub holds: unimportant leaves out what matters to the classifier")
    loss.add_argument("--class-loss", choices=gpan_losses.CLASS_FORMS, default="softmax", help="form of L_p and L_n")
    loss.add_argument("--unwanted", choices=("sum", "mean"), default="sum", help="over the classes in L_n")
    loss.add_argument("--background-over", choices=("all", "background"), default="all", help="pixels in L_m's mean")
    loss.add_argument("--split-sign", choices=("minus", "plus"), default="minus", help="plus is L_split as printed, "
                      "which makes all images the same")
    loss.add_argument("--split-scale", type=cli.positive_float, default=gpan_losses.SPLIT_SCALE)
    loss.add_argument("--split-unit", choices=("rms", "one"), default="rms", help="L_split measures each map in units "
                      "of its root mean square, or, as in the paper, as it is")
    loss.add_argument("--barrier", type=cli.probability, default=0.01, help="how near L_sub's barrier comes to its "
                      "pole; slopes reach 1 / this")
    loss.add_argument("--loss", choices=GENERATOR_LOSSES, default="nonsaturating", help="the generator's in L_cGAN")
    view = p.add_argument_group("what the classifier sees")
    view.add_argument("--views", type=cli.non_negative_int, help="random views of each image; 0: none "
                      f"{preset('views')}")
    view.add_argument("--whole", choices=("yes", "no"), help=f"it sees the whole image as well {preset('whole')}")
    view.add_argument("--view-scale", type=cli.number_range, metavar="LOW,HIGH", help="share of the side that a "
                      f"view shows {preset('view_scale')}")
    view.add_argument("--view-rotation", type=cli.non_negative_float, help=f"radians {preset('view_rotation')}")
    view.add_argument("--view-shift", type=cli.non_negative_float, help=f"in half sides {preset('view_shift')}")
    view.add_argument("--view-flip", choices=("yes", "no"), help=f"mirror half of them {preset('view_flip')}")
    view.add_argument("--view-blur", type=cli.probability, default=0.5, help="share of them that is blurred")
    view.add_argument("--view-coarse", type=cli.number_range, metavar="LOW,HIGH", help="share of the pixels that the "
                      f"images of a step are shrunk to first {preset('view_coarse')}")
    view.add_argument("--view-noise", type=cli.non_negative_float, help=preset("view_noise"))
    view.add_argument("--view-plain", type=cli.probability, help="share of the steps in which it sees the plain images "
                      f"and no views {preset('view_plain')}")
    view.add_argument("--view-warmup", type=cli.non_negative_int, help="steps over which the views grow from the plain "
                      f"image to all this {preset('view_warmup')}")
    opt = p.add_argument_group("optimiser")
    add_optimiser_flags(opt, lambda name: preset(name) if name in PRESETS["digits"] else "",
                        "0.0006; with rmsprop 0.00005",
                        "half of --lr with adam, --lr with rmsprop", beta2=preset("beta2"))
    net = p.add_argument_group("details of the nets (the paper leaves them open)")
    net.add_argument("--base-channels", type=cli.positive_int, help=preset("base_channels"))
    net.add_argument("--patch-channels", type=cli.positive_int, help=f"the discriminator's {preset('patch_channels')}")
    net.add_argument("--noise-dim", type=cli.non_negative_int, default=16, help="channels of noise beside the route")
    net.add_argument("--painter-sees", choices=CONDITIONS, default="substrate", help="what the generator sees of what "
                     "it paints on")
    net.add_argument("--critic-sees", choices=CONDITIONS, default="silhouette", help="and the discriminator; if it saw "
                     "the substrate, it would only have to compare")
    net.add_argument("--skips", choices=SKIPS, default="upper", help="layers that see the encoder's maps")
    net.add_argument("--start", choices=STARTS, help="what the generator changes: with nothing it paints from nothing "
                     f"{preset('start')}")
    net.add_argument("--map-norm", choices=MAP_NORMS, default="none", help="of the maps that L_split compares")
    net.add_argument("--smooth", type=cli.non_negative_int, help="last layers that are followed by a blur "
                     f"{preset('smooth')}")
    net.add_argument("--norm", choices=NORMS, default="strict", help="weight normalisation")
    net.add_argument("--act", choices=ACTIVATIONS, default="tprelu")
    net.add_argument("--slope", type=cli.probability, default=0.2, help="initial slope of the activation")
    net.add_argument("--clamp", choices=CLAMPS, default="project", help="how slopes are kept within [0, 1]")
    place = p.add_argument_group("where and how often")
    add_place_flags(place, name="gpan", pictures="0, 50, 100, 250, 500, then every 1,000",
                    measured_with="the classifier", log_every=20, save_every=100, eval_every=100)
    p.set_defaults(optimizer="adam", lr_warmup=20)
    return p


def entry(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if "--detect-anomaly" in words:
        with anomaly():
            return main(argv)
    return main(argv)


if __name__ == "__main__":
    sys.exit(cli.run_main(entry, leaves_files=True))
