"""What the command lines of the training scripts have in common."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinygan.app import cli
from tinygan.app.state import LR_FLOOR
from tinygan.errors import UsageError

# Flags that --help shows in each script.
FREQUENT_EVERYWHERE = {"steps", "batch_size", "routes", "seed", "device", "threads", "out", "resume", "overwrite",
                       "log_every", "eval_every", "dry_run"}
SHORT = {"latent_dim": ("--nz",)}  # other names of flags


def check_numbers(flags: Mapping[str, Any], typed: set[str], largest: Mapping[str, int]) -> None:
    """Raise UsageError for values that argparse cannot check one by one."""
    if flags["optimizer"] == "rmsprop" and {"beta1", "beta2"} & typed:
        raise UsageError("--beta1 and --beta2 are Adam's: leave them out, or use --optimizer adam")
    for name, most in largest.items():
        if flags[name] > most:
            raise UsageError(f"--{name.replace('_', '-')} {flags[name]}: the most that makes sense here is {most:,}")
    for name in ("beta1", "beta2", "ema"):
        if flags[name] == 1:
            raise UsageError(f"--{name} 1 keeps the first value for ever: use a number below 1")


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


def add_settings(group: argparse._ArgumentGroup, cls: type, preset: Callable[[str], str],
                 skip: Sequence[str] = ()) -> dict[str, str]:
    """Add a flag for every setting of a dataclass; returns {attribute: name of the setting, GROUP.FIELD}.

    preset(flag): words on a default that depends on the machine or on another flag, "" where the dataclass' own holds.
    """
    names = {}
    for field, declared in settings_of(cls):
        flag, codes = declared["flag"], declared["codes"]
        if field.name in skip:
            continue
        options: dict[str, Any] = {"help": f"{declared['words']} {preset(flag)}".strip() or None}
        if isinstance(field.default, bool) and not codes:
            options["action"] = "store_true"
        else:
            default, choices = field.default, declared["choices"]
            if codes:
                default, choices = next(word for word in codes if codes[word] == default), tuple(codes)
            options |= {"default": None if preset(flag) else default, "choices": choices}
            if declared["kind"]:
                options |= {"type": vars(cli)[declared["kind"]]}
            elif isinstance(default, int):
                options["type"] = int
        names[flag] = f"{group.title}.{field.name}"
        group.add_argument("--" + flag.replace("_", "-"), *SHORT.get(flag, ()), **options)
    return names


def add_training_flags(group: argparse._ArgumentGroup, preset: Callable[[str], str]) -> None:
    """Add --steps, --batch-size, --routes and --seed; preset(flag): words on a default that depends on the machine."""
    group.add_argument("--steps", type=cli.positive_int, help=f"total to reach {preset('steps')}")
    group.add_argument("-b", "--batch-size", type=cli.positive_int, help=preset("batch_size"))
    group.add_argument("--routes", type=cli.route_mode, default="sample", help="sample, batch or group:g: how many "
                       "images share a route in training")
    group.add_argument("--seed", type=cli.non_negative_int, default=0, help="same seed, same machine, same thread "
                       "count: same bits")


def add_optimiser_flags(group: argparse._ArgumentGroup, preset: Callable[[str], str], rates: str, d_rates: str,
                        beta2: str = "") -> None:
    """Add --optimizer to --bank-updates; preset(name) returns words on a default that depends on the machine, and
    beta2 holds them where its default is not always 0.99."""
    group.add_argument("--optimizer", choices=("adam", "rmsprop"), help=preset("optimizer"))
    group.add_argument("--lr", type=cli.positive_float, help=f"learning rate [default: {rates}]")
    group.add_argument("--d-lr", type=cli.positive_float, help=f"the discriminator's [default: {d_rates}]")
    group.add_argument("--lr-decay", type=cli.non_negative_int, help="steps over which the learning rate falls to "
                       f"{LR_FLOOR:g} of itself; 0: constant {preset('lr_decay')}")
    group.add_argument("--lr-warmup", type=cli.non_negative_int, default=0, help="steps over which it first rises "
                       "from a tenth")
    group.add_argument("--beta1", type=cli.probability, default=0.5, help="Adam's")
    group.add_argument("--beta2", type=cli.probability, default=None if beta2 else 0.99,
                       help=f"Adam's {beta2}".strip())
    group.add_argument("--ema", type=cli.probability,
                       help=f"moving average of the generator; 0: none {preset('ema')}")
    group.add_argument("--bank-updates", choices=("lazy", "dense"), default="lazy", help="what the optimiser does with "
                       "filter sets that no sample used: nothing, or a step with gradient zero")


def add_place_flags(group: argparse._ArgumentGroup, *, name: str, pictures: str, measured_with: str,
                    log_every: int, save_every: int, eval_every: int) -> None:
    """Add --device to --detect-anomaly: where a run works and lies, and how often it reports."""
    group.add_argument("--device", type=cli.device, default="auto", help="auto, cpu, gpu or gpu:N")
    group.add_argument("--tf32", action="store_true", help="let a GPU multiply matrices in TF32: faster, less exact")
    group.add_argument("--threads", type=cli.positive_int, default=os.cpu_count() or 1, help="CPU threads")
    group.add_argument("-o", "--out", type=cli.path, help=f"run folder [default: the next free runs/{name}-N]")
    group.add_argument("--resume", nargs="?", type=cli.path, const=True, metavar="PATH", help="go on with a run (its "
                       "folder); without a path, with the one in --out or else the newest of this kind")
    group.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    group.add_argument("--log-every", type=cli.positive_int, default=log_every, help="steps between log rows")
    group.add_argument("--sample-every", type=cli.positive_int, help=f"steps between pictures [default: {pictures}]")
    group.add_argument("--save-every", type=cli.positive_int, default=save_every, help="steps between checkpoints")
    group.add_argument("--eval-every", type=cli.non_negative_int, default=eval_every, help="steps between measurements "
                       f"with {measured_with}; 0: only at the end")
    group.add_argument("--dry-run", action="store_true", help="two steps with everything a run does, then stop")
    group.add_argument("--detect-anomaly", action="store_true", help="stop at the operation that makes a NaN (slow)")
