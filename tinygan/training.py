"""What the training scripts have in common besides the run's folder: flags, optimisers, checks, and what to do when
memory runs out. The training loops themselves stand in the scripts.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinygan import cli, data, runfiles
from tinygan.data.mnist import BUNDLED
from tinygan.device import Device
from tinygan.engine import Tensor
from tinygan.errors import TinyganError, UsageError
from tinygan.module import Module
from tinygan.optim import Adam, RMSprop
from tinygan.run import MAY_CHANGE, Run
from tinygan.sampling import section, with_prefix

LR_FLOOR = 0.02  # of the learning rate; --lr-decay ends there rather than at 0, so that a longer run still learns
FILES = ("classifier", "substrate")  # flags that name files whose content a run depends on, and may lie elsewhere later

# ---- optimisers --------------------------------------------------------------------------------------------------


def make_optimizer(net: Module, flags: Mapping[str, Any], rate: float) -> Adam | RMSprop:
    """The optimiser that the flags ask for, over all parameters of `net`."""
    lazy = flags["bank_updates"] == "lazy"
    if flags["optimizer"] == "adam":
        return Adam(net.named_parameters(), lr=rate, betas=(flags["beta1"], flags["beta2"]), lazy=lazy)
    return RMSprop(net.named_parameters(), lr=rate, lazy=lazy)


def rate_factor(flags: Mapping[str, Any], step: int) -> float:
    """What the learning rates are multiplied with in the step after `step` steps: linear decay over --lr-decay steps,
    after a rise over --lr-warmup. It does not depend on --steps, so that a run stopped early and resumed is the run
    that was never stopped."""
    end, warm = flags["lr_decay"], flags["lr_warmup"]
    factor = max(LR_FLOOR, 1.0 - step / end) if end else 1.0
    return factor * (0.1 + 0.9 * step / warm) if step < warm else factor


def gradient_norm(net: Module) -> float:
    """Length of the vector of all gradients of a net; a GPU is waited for once."""
    return float(sum((p.grad.data ** 2).sum() for p in net.parameters() if p.grad is not None)) ** 0.5


# ---- checks ------------------------------------------------------------------------------------------------------


def stop_if_not_finite(loss: Tensor, suspects: Iterable[tuple[str, Tensor]], step: int, run: Run) -> None:
    """Stop at the first NaN or infinity, and say where it is: the cause stands before what it spoils.

    suspects: (name, tensor), causes first. Raises TinyganError.
    """
    if np.isfinite(loss.item()):
        return
    tensors = [*suspects, ("the loss", loss)]
    name = next(name for name, tensor in tensors if not np.isfinite(tensor.numpy()).all())
    kept = f"the checkpoint in {run.folder} is from before" if run.checkpoint_path.exists() else "nothing was saved"
    raise TinyganError(f"step {step + 1}: {name} is not finite; {kept}. Try a lower --lr, another --seed, or "
                       "--detect-anomaly to see which operation made it")


def nets_state(t: Any) -> dict[str, np.ndarray]:
    """The arrays of a run's two nets, their optimisers and the moving average, by name, for its checkpoint.

    t: a script's Training, with G, D, g_optimizer, d_optimizer, average (None without one), step and weights().
    Raises TinyganError, naming the tensor, if a weight is not finite: such a state must not replace a good one.
    """
    for name, p in t.weights():
        if not np.isfinite(p.numpy()).all():
            raise TinyganError(f"step {t.step}: {name} is not finite; this state was not saved")
    arrays = {}
    for part, holder in _holders(t).items():
        arrays |= with_prefix(part, holder.state_dict())
    return arrays


def restore_nets(t: Any, arrays: Mapping[str, np.ndarray], average_updates: int) -> None:
    """The opposite of `nets_state`; average_updates: how often the moving average had been updated."""
    for part, holder in _holders(t).items():
        holder.load_state_dict(section(arrays, part))
    if t.average is not None:
        t.average.updates = average_updates


def _holders(t: Any) -> dict[str, Any]:
    holders = {"generator": t.G, "discriminator": t.D, "g_optimizer": t.g_optimizer, "d_optimizer": t.d_optimizer}
    return holders | ({} if t.average is None else {"average": t.average.module})


def refuse_other_entries(own: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]) -> None:
    """TinyganError unless a checkpoint's arrays have the names and shapes of this run's."""
    for name in sorted(own.keys() | arrays.keys()):
        if name not in own or name not in arrays:
            raise TinyganError(f"the checkpoint {'lacks' if name in own else 'has an unknown'} entry {name!r}: "
                               "it was not made with this run's flags")
        if own[name].shape != arrays[name].shape and name != "order":
            raise TinyganError(f"the checkpoint's {name!r} has shape {arrays[name].shape}, not "
                               f"{own[name].shape}: it was not made with this run's flags")


def out_of_memory(problem: str, flags: Mapping[str, Any], run: Run, nets: Iterable[Module], device: Device,
                  fits: Callable[[int], bool], otherwise: str, multiple: int = 1, least: int = 1) -> str:
    """What to do when a step did not fit into memory, in one line: a batch size that was tried and fits.

    fits(n) says whether a step of n images does; otherwise: the advice where not even the `least` number of images
    fits. Only multiples of `multiple` are tried, the others being refused.
    """
    asked, kept = flags["batch_size"], "nothing was saved yet"
    if run.checkpoint_path.exists():
        kept = f"the checkpoint in {run.folder} is from before"
    n, found = asked, False
    while n and not found:
        for net in nets:
            net.zero_grad()
        if device.kind == "gpu":
            device.xp.get_default_memory_pool().free_all_blocks()
        found = fits(n)
        if not found:
            n = max(n // 2 // multiple * multiple, least) if n > least else 0
    if not n:
        advice = f"not even {'one image fits' if least == 1 else f'{least} images fit'}: {otherwise}"
    elif n == asked:
        advice = ("it fits now, so something else took the memory for a while: close it and try again, or try a "
                  "smaller --batch-size")
    else:
        advice = f"try --batch-size {n}, which fits"
    return f"out of memory at --batch-size {asked} ({problem.rstrip('.')}); {advice}; {kept}"


# ---- flags -------------------------------------------------------------------------------------------------------


def resumed(parser: cli.Parser, flags: dict, typed: set[str], name: str, own: str) -> tuple[dict, Run]:
    """The flags in force and the run to go on with, where --resume was given; name: of the newest run it may mean.

    own: a flag that no other script's runs have. Files that the run was made with may lie elsewhere by now. Raises
    TinyganError for the run of another script, and where such a file holds something else.
    """
    if "overwrite" in typed:
        raise UsageError("--resume goes on with a run, --overwrite starts anew: give one of them")
    folder = Path(flags["out"] or runfiles.newest("runs", name) if flags["resume"] is True else flags["resume"])
    folder = folder.parent if folder.is_file() else folder
    if "out" in typed and os.path.realpath(flags["out"]) != os.path.realpath(folder):
        raise UsageError(f"--out {flags['out']}: a run goes on where it is, in {folder}: leave --out out")
    config = runfiles.read_config(folder)
    if own not in config["flags"]:
        raise TinyganError(f"{folder} is not a run of {parser.prog}: its settings say nothing of "
                           f"--{own.replace('_', '-')}")
    moved = {name for name in FILES if name in typed and _same_files(config, name, flags[name])}
    run = Run.resume(folder, flags, typed=typed, may_change=MAY_CHANGE | moved)
    if "steps" in typed:
        run.flags["epochs"] = None  # the total said last holds
    # config.json is a text that anybody may edit: what it says must pass for flags.
    flags = vars(parser.parse_args(as_words({**run.flags, "resume": str(folder)})))
    run.flags |= {name: flags[name] for name in ("data_dir", *FILES) if flags.get(name)}  # as paths: kept absolute
    for name in ("data_dir", *FILES):
        for path in _listed(flags.get(name)):
            if not (runfiles.is_there(path) if name == "data_dir" else path.exists()):
                flag = "--" + name.replace("_", "-")
                raise TinyganError(f"{flag} {path}, which the run in {folder} was made with, is not there: if it lies "
                                   f"elsewhere now, say where with {flag}")
    for name, made_of in file_inputs(flags).items():
        run.check_input(name, made_of, f"name the old one with --{name}, wherever it lies now, or start a new run")
    return flags, run


def _same_files(config: Mapping[str, Any], name: str, typed: Any) -> bool:
    """Whether what was typed may be what the run was made with: it has the same content or, where nothing is known of
    that (an older run), is the same place, or the old one is gone. Raises TinyganError for other content."""
    known, before = (config.get("inputs") or {}).get(name), _listed(config["flags"].get(name))
    paths = _listed(typed)
    if not known:
        return bool(before) and (list(map(os.path.abspath, before)) == list(map(os.path.abspath, paths))
                                 or not all(path.exists() for path in before))
    if missing := [path for path in paths if not path.exists()]:
        raise TinyganError(f"--{name} {missing[0]}: there is no such file or folder")
    if runfiles.hash_files(paths) != known["hash"]:
        raise UsageError(f"--{name} is {cli.as_typed(typed)} but the run was made with {known['source']}, which held "
                         f"something else: leave --{name} out, or name what it was made with")
    return True


def _listed(value: Any) -> list[Path]:
    """The paths in the value of a flag: none, one or several."""
    return [Path(path) for path in (value if isinstance(value, (list, tuple)) else [value] if value else [])]


def load_digits(flags: Mapping[str, Any], run: Run | None) -> data.Digits:
    """The digits to train on. A run that began on the bundled set goes on with it, though there are more by now.

    Raises TinyganError where there are none in --data-dir.
    """
    digits = data.load_mnist("train", data_dir=flags["data_dir"], other_sets=True)
    known = run.inputs.get("data") if run else None
    if known and not flags["data_dir"] and known["hash"] != digits.hash:
        bundled = data.load_mnist("train", data_dir=BUNDLED)
        if known["hash"] == bundled.hash:
            print(f"the run began on the bundled set and goes on with it, not with {digits.source}")
            return dataclasses.replace(bundled, source=known["source"])
    return digits


def file_inputs(flags: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What Run keeps of the files that the flags name: {flag: {"hash", "source"}}, for those that were given."""
    return {name: {"hash": runfiles.hash_files(paths), "source": cli.as_typed([os.path.abspath(p) for p in paths])}
            for name in FILES if (paths := _listed(flags.get(name)))}


def check_steps(step: int, flags: Mapping[str, Any], run: Run) -> None:
    """UsageError where a resumed run has gone beyond --steps or --epochs; says so where it is just there."""
    total = flags["steps"]
    if step > total:
        asked = f"--epochs {flags['epochs']} is {total:,} steps" if flags.get("epochs") else f"--steps {total} is less"
        raise UsageError(f"the run in {run.folder} is at step {step:,} already, and {asked}: give more to go on")
    if step == total:
        print(f"this run is finished, at step {step:,} of {total:,}: more --steps would go on; its pictures and report "
              "are made anew")


def dry_run(start: Callable[[dict, Run | None], int], flags: dict) -> int:
    """Call start for a new run in a folder of its own among the system's temporary ones, which is named at the end."""
    folder = tempfile.mkdtemp(prefix="tinygan-dry-run-")
    try:
        code = start({**flags, "out": Path(folder)}, None)
        print(f"its pictures and report are in {folder}")
        return code
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # only where nothing has come of it


def as_words(flags: Mapping[str, Any]) -> list[str]:
    """The command line that gives these settings."""
    words = []
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], (str, Path)):  # may be repeated
            words += [f"{flag}={item}" for item in value]
        elif value is not None and value is not False:
            words.append(flag + ("" if value is True else f"={cli.as_typed(value)}"))
    return words


def check_numbers(flags: Mapping[str, Any], typed: set[str], largest: Mapping[str, int]) -> None:
    """UsageError for values that argparse cannot judge one by one."""
    if flags["optimizer"] == "rmsprop" and {"beta1", "beta2"} & typed:
        raise UsageError("--beta1 and --beta2 are Adam's: leave them out, or use --optimizer adam")
    for name, most in largest.items():
        if flags[name] > most:
            raise UsageError(f"--{name.replace('_', '-')} {flags[name]}: the most that makes sense here is {most:,}")
    for name in ("beta1", "beta2", "ema"):
        if flags[name] == 1:
            raise UsageError(f"--{name} 1 keeps the first value for ever: use a number below 1")


def add_optimiser_flags(group: argparse._ArgumentGroup, preset: Callable[[str], str], rates: str, d_rates: str,
                        beta2: str = "") -> None:
    """--optimizer to --bank-updates; preset(name) tells a default that depends on the machine, and beta2, where it is
    given, one that is not always 0.99."""
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
    """--device to --detect-anomaly: where a run works and lies, and how often it reports."""
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
