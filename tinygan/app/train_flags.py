"""The command line that both training scripts have: their common flags, and how the settings in force are found."""

from __future__ import annotations

import argparse
import dataclasses
import os
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tinygan import __version__
from tinygan.app import cli
from tinygan.app.device import pick_device
from tinygan.app.resume import resumed
from tinygan.app.run import Run
from tinygan.app.state import LR_FLOOR
from tinygan.errors import UsageError
from tinygan.models.gan.nets import GANConfig
from tinygan.nn.losses import FORMS, GENERATOR_LOSSES

# Flags that --help shows in each script.
FREQUENT_EVERYWHERE = {"steps", "batch_size", "routes", "seed", "device", "threads", "out", "resume", "overwrite",
                       "log_every", "eval_every", "dry_run"}
SHORT = {"latent_dim": ("--nz",)}  # other names of flags
# Of a GAN's flags: beyond lie typing errors.
LARGEST_OF_GAN = {"batch_size": 65_536, "base_channels": 4_096, "d_base_channels": 4_096, "latent_dim": 65_536,
                  "d_steps": 1_000, "eval_samples": 1_000_000}
D_SHARE = {"adam": 0.5, "rmsprop": 1.0}  # the discriminator's learning rate, as a share of the generator's


class TrainParser(cli.Parser):
    """The parser of a training script, which adds its own flags between those that both scripts have.

    presets: {words: {flag: default}}, the defaults that depend on the machine or on another flag, by words on when they
    hold, such as "on a GPU". rates: {optimiser: the generator's learning rate}.
    """

    def __init__(self, description: str, presets: Mapping[str, Mapping[str, Any]], rates: Mapping[str, float]) -> None:
        super().__init__(description=description, version=__version__)
        self.presets, self.rates = presets, rates
        self._names: dict[str, str] = {}

    def preset(self, flag: str) -> str:
        """Return words on the default of a flag that depends on something; "" where it does not."""
        values = {when: cli.as_typed(preset[flag]) for when, preset in self.presets.items() if flag in preset}
        if len(set(values.values())) == 1:
            return f"[default: {next(iter(values.values()))}]"
        words = "; ".join(f"{value} {when}".strip() for when, value in values.items())
        return f"[default: {words}]" if words else ""

    def hide_rare(self, frequent: set[str]) -> None:
        """Leave out of --help what is neither in `frequent` nor in FREQUENT_EVERYWHERE; called after the last flag."""
        self.hide_all_but(frequent | FREQUENT_EVERYWHERE, self._names)

    def add_settings(self, group: argparse._ArgumentGroup, cls: type,
                     choices_of: Mapping[str, tuple] = types.MappingProxyType({})) -> None:
        """Add a flag for every setting of a dataclass (models.settings), which --set calls GROUP.FIELD.

        choices_of: {flag: the values that this script takes}, where these are not all that the setting has.
        """
        for field, about in settings_of(cls):
            flag, codes = about["flag"], about["codes"]
            options: dict[str, Any] = {"help": f"{about['words']} {self.preset(flag)}".strip() or None}
            if isinstance(field.default, bool) and not codes:
                options["action"] = "store_true"
            else:
                default, choices = field.default, choices_of.get(flag, about["choices"])
                if codes:
                    default, choices = next(word for word in codes if codes[word] == default), tuple(codes)
                options |= {"default": None if self.preset(flag) else default, "choices": choices}
                if about["kind"]:
                    options |= {"type": vars(cli)[about["kind"]]}
                elif isinstance(default, int):
                    options["type"] = int
            self._names[flag] = f"{group.title}.{field.name}"
            group.add_argument("--" + flag.replace("_", "-"), *SHORT.get(flag, ()), **options)

    def add_training_flags(self, group: argparse._ArgumentGroup) -> None:
        """Add --steps, --batch-size, --routes and --seed."""
        group.add_argument("--steps", type=cli.positive_int, help=f"total to reach {self.preset('steps')}")
        group.add_argument("-b", "--batch-size", type=cli.positive_int,
                           help=f"images of one step {self.preset('batch_size')}")
        group.add_argument("--routes", type=cli.route_mode, default="sample", help="sample, batch or group:g: how many "
                           "images share a route in training")
        group.add_argument("--seed", type=cli.non_negative_int, default=0, help="of all random numbers: the same seed, "
                           "machine and thread count give the same bits")

    def add_gan_flags(self, presets: Sequence[str], sizes: tuple[int, ...]) -> None:
        """Add what every script that trains a GAN has, in three groups: training, nets and optimizer.

        presets: names for --preset, which decide the defaults (`gan_preset`). sizes: of images in pixels.
        """
        group = self.add_argument_group("training")
        group.add_argument("--model", choices=("sgan", "gan", "tied"), default="sgan", help="banks of filters; none; "
                           "one index for all layers (whole generators under a shared last layer)")
        group.add_argument("--preset", choices=presets, help="which defaults hold: a CPU's, a GPU's or the paper's "
                           "sizes and optimiser [default: those of the device]")
        self.add_training_flags(group)
        group.add_argument("--epochs", type=cli.positive_int, help="total to reach in passes over the data")
        group.add_argument("--d-steps", type=cli.positive_int, default=1, help="updates of the discriminator before "
                           "each one of the generator, on a batch each")
        group.add_argument("--freeze-banks", action="store_true", help="leave the filter sets of the banks as they "
                           "were drawn; what all routes share is trained")
        group.add_argument("--eval-samples", type=cli.positive_int, help="images that are measured at each "
                           "--eval-every, and at the end at least [default: 1,000, at the end 2,000; of photos half "
                           "as many]")
        self.add_settings(self.add_argument_group("nets"), GANConfig, {"size": sizes})
        group = self.add_argument_group("optimizer")
        self.add_optimiser_flags(group)
        group.add_argument("--loss", choices=GENERATOR_LOSSES, default="nonsaturating", help="the generator's loss")
        group.add_argument("--bce", choices=FORMS, default="logits", help="form of the cross-entropy; clamped: "
                           "log(sigmoid + 1e-12), whose gradient can vanish")
        group.add_argument("--noise", choices=("host", "counter"), help="NumPy's generator, or a counter-based one, "
                           f"which a GPU computes itself, with the same bits as a CPU {self.preset('noise')}")

    def add_optimiser_flags(self, group: argparse._ArgumentGroup, rate_falls: str = "") -> None:
        """Add --optimizer to --bank-updates. rate_falls: words on where the default learning rate is less."""
        rates = ", ".join(f"{rate:g} with {name}" for name, rate in self.rates.items())
        group.add_argument("--optimizer", choices=("adam", "rmsprop"),
                           help=f"method of both nets {self.preset('optimizer')}".strip())
        group.add_argument("--lr", type=cli.positive_float, help=f"learning rate [default: {rates}{rate_falls}]")
        group.add_argument("--d-lr", type=cli.positive_float, help="learning rate of the discriminator [default: half "
                           "of --lr with adam, --lr with rmsprop]")
        group.add_argument("--lr-decay", type=cli.non_negative_int, help="steps over which the learning rate falls to "
                           f"{LR_FLOOR:g} of itself; 0: constant {self.preset('lr_decay')}")
        group.add_argument("--lr-warmup", type=cli.non_negative_int, default=0, help="steps over which it first rises "
                           "from a tenth")
        group.add_argument("--beta1", type=cli.probability, default=0.5, help="decay of Adam's mean of gradients")
        beta2 = self.preset("beta2")
        group.add_argument("--beta2", type=cli.probability, default=None if beta2 else 0.99,
                           help=f"decay of Adam's mean of squared gradients {beta2}".strip())
        group.add_argument("--ema", type=cli.probability, help="decay of the moving average of the generator's "
                           f"weights; 0: none {self.preset('ema')}")
        group.add_argument("--bank-updates", choices=("lazy", "dense"), default="lazy", help="what the optimiser does "
                           "with filter sets that no sample used: nothing, or a step with gradient zero")

    def add_place_flags(self, group: argparse._ArgumentGroup, *, name: str, measured_with: str, log_every: int,
                        eval_every: int, save_every: int | None = None, paper_steps: bool = False) -> None:
        """Add --device to --detect-anomaly: where a run works and lies, and how often it reports.

        save_every: None where the presets have it. paper_steps: whether --sample-every takes "paper", as of a game with
        paper_steps.
        """
        group.add_argument("--device", type=cli.device, default="auto", help="auto, cpu, gpu or gpu:N")
        group.add_argument("--tf32", action="store_true", help="multiply matrices in TF32 on a GPU: faster, less exact")
        group.add_argument("--cuda-graph", choices=("yes", "no"), default="yes", help="whether a step on a GPU is "
                           "launched as one CUDA graph instead of kernel by kernel")
        group.add_argument("--threads", type=cli.positive_int, default=os.cpu_count() or 1, help="CPU threads")
        group.add_argument("-o", "--out", type=cli.path, help=f"run folder [default: the next free runs/{name}-N]")
        group.add_argument("--resume", nargs="?", type=cli.path, const=True, metavar="PATH", help="go on with a run "
                           "(its folder); without a path, with the one in --out or else the newest of this kind")
        group.add_argument("--overwrite", action="store_true", help="replace the run in --out")
        group.add_argument("--log-every", type=cli.positive_int, default=log_every, help="steps between log rows")
        or_paper = ", or paper: at the paper's steps, each measured" if paper_steps else ""
        group.add_argument("--sample-every", type=cli.sample_steps if paper_steps else cli.positive_int,
                           help=f"steps between pictures{or_paper} [default: 0, 50, 100, 250, 500, then every 1,000]")
        group.add_argument("--save-every", type=cli.positive_int, default=save_every,
                           help=f"steps between checkpoints {self.preset('save_every')}".strip())
        group.add_argument("--eval-every", type=cli.non_negative_int, default=eval_every, help="steps between "
                           f"measurements with {measured_with}; 0: only at the end")
        group.add_argument("--dry-run", action="store_true", help="two steps with everything a run does, then stop")
        group.add_argument("--detect-anomaly", action="store_true", help="stop at the operation that makes a NaN "
                           "(slow)")

    def read(self, argv: list[str] | None, *, preset: Callable[[dict], Mapping[str, Any]], largest: Mapping[str, int],
             name: str, own: str) -> tuple[dict, set[str], Run | None]:
        """Return the flags in force, the names of those that were typed, and the run to go on with, for --resume.

        preset: returns the defaults that hold with these flags. largest: {flag: limit beyond which lie typing errors}.
        name: of this script's run folders, with {flag} where a flag's value stands. own: a flag that no other script's
        runs have. Raises UsageError, in one line, for what does not fit together.
        """
        flags, typed, run = vars(self.parse_args(argv)), cli.typed(self, argv), None
        if {"steps", "epochs"} <= typed:
            raise UsageError("give --steps or --epochs, not both")
        if flags["dry_run"] and flags["resume"] is not None:
            raise UsageError("--dry-run tries out a new run: leave --resume out")
        if flags["resume"] is not None:
            flags, run = resumed(self, flags, typed, name.format(**flags), own)
        for flag, value in preset(flags).items():
            if flags[flag] is None:
                flags[flag] = value
        flags["lr"] = flags["lr"] or self.rates[flags["optimizer"]]
        flags["d_lr"] = flags["d_lr"] or flags["lr"] * D_SHARE[flags["optimizer"]]
        check_numbers(flags, typed, largest)
        if flags["dry_run"] and run is None:
            flags |= {"steps": 2, "log_every": 1, "eval_every": 0, **({"epochs": None} if "epochs" in flags else {})}
        return flags, typed, run


def settings_of(cls: type) -> list[tuple[dataclasses.Field, dict[str, Any]]]:
    """List the fields of a dataclass that are settings, each with the options given to `models.settings.setting`.

    The flag is the field's name where no other was given.
    """
    return [(field, {**field.metadata["setting"], "flag": field.metadata["setting"]["flag"] or field.name})
            for field in dataclasses.fields(cls) if "setting" in field.metadata]


def make(cls: type, flags: Mapping[str, Any], **others: Any) -> Any:
    """Make an instance of a dataclass from the flags.

    others: values of its fields that are no flags or mean something else here. Raises KeyError for a setting without a
    flag, UsageError as the dataclass does.
    """
    values = {}
    for field, declared in settings_of(cls):
        if field.name not in others:
            value = flags[declared["flag"]]
            value = declared["codes"][value] if declared["codes"] else value
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**values, **others)


def gan_preset(presets: Mapping[str, Mapping[str, Any]], flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the defaults that --preset names, or those for the device that the flags name. presets: by name."""
    if flags["preset"]:
        return presets[flags["preset"]]
    on_cpu = flags["device"] == "cpu" or pick_device(flags["device"]).kind == "cpu"
    return presets["cpu" if on_cpu else "gpu"]


def fit_gan_flags(flags: dict, typed: Collection[str]) -> None:
    """Fit the flags of `add_gan_flags` to the model. Raises UsageError for what does not fit together."""
    if flags["model"] == "gan":
        if "bank" in typed and set(flags["bank"]) != {1}:
            raise UsageError("--model gan has no filter banks: leave --bank out, or use --model sgan")
        flags["bank"] = (1,)
    if flags["freeze_banks"] and set(flags["bank"]) == {1}:
        raise UsageError("--freeze-banks needs banks: use --model sgan or tied, with a --bank above 1")
    if flags["batch_size"] % flags["pack"]:
        raise UsageError(f"--batch-size {flags['batch_size']} cannot be cut into packs of --pack {flags['pack']}: take "
                         "a multiple of it")
    if flags["one_hot"] and flags["noise"] == "counter":
        if "noise" in typed:
            raise UsageError("--one-hot draws its categories with NumPy's generator: use --noise host")
        flags["noise"] = "host"


def gan_config(flags: Mapping[str, Any], **others: Any) -> GANConfig:
    """Make the settings of both nets that the flags describe. others: of its fields that are no flags."""
    return make(GANConfig, flags, tied=flags["model"] == "tied", **others)


def check_numbers(flags: Mapping[str, Any], typed: set[str], largest: Mapping[str, int]) -> None:
    """Raise UsageError for values that argparse cannot check one by one."""
    if flags["optimizer"] == "rmsprop" and {"beta1", "beta2"} & typed:
        raise UsageError("--beta1 and --beta2 are Adam's: leave them out, or use --optimizer adam")
    for name, most in largest.items():
        if (flags[name] or 0) > most:
            raise UsageError(f"--{name.replace('_', '-')} {flags[name]}: the most that makes sense here is {most:,}")
    for name in ("beta1", "beta2", "ema"):
        if flags[name] == 1:
            raise UsageError(f"--{name} 1 keeps the first value for ever: use a number below 1")
