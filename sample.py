"""Draw images from a trained run.

    python sample.py --checkpoint runs/mnist-sgan-1                      64 digits in one picture
    python sample.py --checkpoint runs/mnist-sgan-1 --route 3,0,2,0      all through one route
    python sample.py --checkpoint runs/mnist-sgan-1 --n 500 --individual --out digits
    python sample.py --checkpoint runs/gpan-1 --wanted 3                 16 pictures of a GPAN, on new substrates
    python sample.py --checkpoint runs/gpan-1 --substrate vase.png shirt.png --route 0,1,2,3
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tinygan import __version__
from tinygan.app import checkpoint, cli, pictures
from tinygan.app.device import Device, pick_device
from tinygan.app.draw import AT_ONCE as GPAN_AT_ONCE
from tinygan.app.draw import as_digits, generate, load_gpan, restore_generator, run_folder
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels import threads
from tinygan.models import Generator, GPANGenerator

MOST_FILES, MOST_SCALE, MOST_PIXELS = 100_000, 64, 1 << 30
ONE_ROUTE = re.compile(r"\d{1,6}(,\d{1,6})*")  # a filter set for each layer, such as 3,0,2,0
USUAL = {"gan": 64, "gpan": 16}  # images in a picture
# Images are drawn so many at a time, never fewer: the last bit of an image depends on how many its product holds.
AT_ONCE = {"gan": 64, "gpan": GPAN_AT_ONCE}
MADE_BY = "tinygan sample.py"  # written into single images, which a later call may replace
OF_A_GPAN = ("wanted", "substrate")  # flags that a GAN does not have


def main(argv: list[str] | None = None) -> int:
    """Draw and write the images; return the exit code."""
    args = build_parser().parse_args(argv)
    if args.individual and args.grid:
        raise UsageError("give --grid or --individual, not both")
    for name, value, most in (("n", args.n or 1, MOST_FILES if args.individual else cli.MAX_GRID),
                              ("scale", args.scale, MOST_SCALE)):
        if value > most:
            raise UsageError(f"--{name} {value}: at most {most:,}{'' if args.individual else ' in one picture'}")
    threads.set_threads(args.threads)
    device = pick_device(args.device)
    arrays, meta = checkpoint.load(args.checkpoint)
    kind = "gpan" if meta.get("kind") == "gpan" else "gan"
    rows, columns = args.grid or square(args.n or USUAL[kind])
    n = args.n or rows * columns
    if args.grid and n > rows * columns:
        raise UsageError(f"a grid of {rows}x{columns} holds {rows * columns} images, not {n}: leave --n out")
    draw = draw_gpan if kind == "gpan" else draw_gan
    whole = math.ceil(n / AT_ONCE[kind]) * AT_ONCE[kind]
    side, parts = draw(args, arrays, meta, device, whole)
    parts = first(parts, n)
    folder = run_folder(args.checkpoint)
    if args.individual:
        out, count = args.out or folder / f"images{name_of(args)}", 0
        earlier = earlier_images(out)
        for images in parts:
            count += len(pictures.save_individual(out, images, start=count, made_by=MADE_BY))
        print(f"{count} images of {side}x{side} pixels in {out}, step {meta['step']}")
        if stale := [path for path in earlier if int(path.stem) >= n]:
            for path in stale:
                path.unlink()
            one = len(stale) == 1
            which = stale[0].name if one else f"{stale[0].name} to {stale[-1].name}"
            print(f"removed {len(stale)} image{'s' * (not one)} of an earlier call there, {which}")
        return 0
    out = args.out or folder / f"grid{name_of(args)}.png"
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: a grid is one picture, name a .png file (or use --individual)")
    if not out.parent.is_dir():
        raise TinyganError(f"--out {out}: there is no folder {out.parent}; make it first")
    if rows * columns * (side * args.scale) ** 2 > MOST_PIXELS:
        raise UsageError(f"{rows} x {columns} images of {side} pixels, enlarged {args.scale} times, make a picture "
                         "too large to be shown: take fewer (--n), or one file for each (--individual)")
    images = np.concatenate([pictures.to_uint8(part) for part in parts])
    pictures.save_png(out, pictures.grid(images, rows, columns, scale=args.scale))
    print(f"{n} images, {rows} rows of {columns}, in {out}, step {meta['step']}")
    return 0


def draw_gan(args: argparse.Namespace, arrays: dict[str, np.ndarray], meta: dict, device: Device, n: int
             ) -> tuple[int, Iterator[np.ndarray]]:
    """Return the side in pixels and a generator of images of a run of train_mnist.py or train_photos.py.

    It yields n images in parts (..., C, side, side), float32 in [0, 1]. Raises UsageError for the flags of a GPAN.
    """
    if typed := [name for name in OF_A_GPAN if getattr(args, name) is not None]:
        raise UsageError(f"--{typed[0]} is for runs of train_gpan.py, and {args.checkpoint} is not one: leave it out")
    generator = restore_generator(args.checkpoint, arrays, meta, device, average=not args.no_average)
    # A stream for each: with one for both, the routes would depend on how much noise was drawn before them.
    z = generator.draw_noise(np.random.default_rng(args.seed), n)
    routes = choose_routes(generator, args.route, np.random.default_rng([args.seed, 1]), n)
    size, at_once = generator.config.size, AT_ONCE["gan"]

    def draw(part: slice) -> np.ndarray:
        """Generate the images of a part."""
        images = generate(generator, z[part], routes[part], device)
        return as_digits(images) if size == 28 else images

    return size, (draw(slice(start, start + at_once)) for start in range(0, n, at_once))


def draw_gpan(args: argparse.Namespace, arrays: dict[str, np.ndarray], meta: dict, device: Device, n: int
              ) -> tuple[int, Iterator[np.ndarray]]:
    """Return the same of a run of train_gpan.py."""
    sampler = load_gpan(args.checkpoint, arrays, meta, device, average=not args.no_average)
    wanted = sampler.find_set(args.wanted)
    routes = choose_routes(sampler.generator, args.route, np.random.default_rng(args.seed), n)
    substrates = sampler.substrates(args.substrate)
    print(f"wanted: {sampler.describe(wanted)}; on {substrates.describe()}")
    return sampler.generator.config.size, sampler.images(wanted, routes, substrates, args.seed)


def choose_routes(generator: Generator | GPANGenerator, wanted: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """Convert --route to (n, layers) indices: a mode draws them, a list of numbers is used for every image.

    They are drawn AT_ONCE at a time, never fewer, so that the first ones do not depend on n.
    """
    config = generator.config
    if not ONE_ROUTE.fullmatch(wanted):
        share = {"sample": 1, "batch": n}.get(wanted) or min(n, int(wanted.removeprefix("group:")))
        groups = math.ceil(n / share)  # of images with one route
        drawn = np.concatenate([generator.draw_routes(rng, AT_ONCE["gan"]) for _ in range(0, groups, AT_ONCE["gan"])])
        return np.repeat(drawn[:groups], share, axis=0)[:n]
    route = [int(part) for part in wanted.split(",")]
    if len(route) != len(config.bank) or any(r >= k for r, k in zip(route, config.bank, strict=False)):
        raise UsageError(f"--route {wanted}: this generator takes {len(config.bank)} numbers, each below its bank "
                         f"size: {','.join(map(str, config.bank))}")
    if getattr(config, "tied", False) and len({r for r, k in zip(route, config.bank, strict=True) if k > 1}) > 1:
        raise UsageError(f"--route {wanted}: a tied ensemble has the same number in every layer with a bank")
    return np.tile(np.asarray(route, np.int64), (n, 1))


def first(parts: Iterator[np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Yield the first n images of `parts`, drawing no more parts than needed."""
    while n > 0:
        part = next(parts)[:n]
        n -= len(part)
        yield part


def name_of(args: argparse.Namespace) -> str:
    """Return the part of a default name that holds seed, route and wanted classes, so that none replaces another."""
    words = [("seed", args.seed or ""), ("route", args.route if args.route != "sample" else ""),
             ("wanted", args.wanted or "")]
    return "".join(f"-{name}-{re.sub(r'[^0-9A-Za-z]+', '-', str(value))}" for name, value in words if value)


def earlier_images(folder: Path) -> list[Path]:
    """List the images that an earlier call left in `folder`, by number.

    Raises TinyganError where another program's file has such a name: this script must neither replace it nor leave it
    among the new ones.
    """
    earlier = sorted(path for path in folder.glob("*.png") if re.fullmatch(r"\d{5}\.png", path.name))
    for path in earlier:
        if not pictures.is_made_by(path, MADE_BY):
            raise TinyganError(f"{path} was not made by sample.py (or by an earlier version of it): move it away, or "
                               "name another folder with --out")
    return earlier


def square(n: int) -> tuple[int, int]:
    """Return rows and columns of a grid for n images, nearly square."""
    columns = math.ceil(math.sqrt(n))
    return math.ceil(n / columns), columns


def route_choice(text: str) -> str:
    """Parse the value of --route: a mode, or one route written out."""
    if ONE_ROUTE.fullmatch(text):
        return text
    try:
        return cli.route_mode(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or one index per layer such as 3,0,2,0") from None


def build_parser() -> cli.Parser:
    """Define the flags of the script."""
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)
    p.add_argument("--checkpoint", type=cli.path, required=True, metavar="RUN",
                   help="a run's folder, or its checkpoint.npz")
    p.add_argument("--n", type=cli.positive_int, help=f"how many images [default: {USUAL['gan']}, of a GPAN "
                   f"{USUAL['gpan']}, or what --grid holds]")
    p.add_argument("--grid", type=cli.grid_size, metavar="RxC", help="rows x columns of the picture")
    p.add_argument("--individual", action="store_true", help="one file for each image")
    p.add_argument("--scale", type=cli.positive_int, default=1, help="enlarge each pixel of a grid to a square")
    p.add_argument("--seed", type=cli.non_negative_int, default=0, help="of noise and routes (of a GPAN also "
                   "which substrate): image number i of a seed is the same whatever --n and --grid")
    p.add_argument("--route", type=route_choice, default="sample", help="sample (one for each image), batch (one for "
                   "all), group:g, or the filter sets, one number per layer (evaluate.py lists the digit that each "
                   "route draws)")
    p.add_argument("--wanted", metavar="CLASS[,CLASS]", help="one of the sets of classes that a GPAN was trained for, "
                   "by name or number [default: the first]")
    p.add_argument("--substrate", nargs="+", type=cli.path, metavar="PATH", help="pictures for a GPAN to draw on, or "
                   "a folder of them [default: what it was trained on]")
    p.add_argument("--no-average", action="store_true", help="the weights of the last step, not their moving average")
    p.add_argument("--device", type=cli.device, default="auto")
    p.add_argument("--threads", type=cli.positive_int, default=os.cpu_count() or 1)
    p.add_argument("-o", "--out", type=cli.path, help="file (grid) or folder (individual) [default: in the run's "
                   "folder, named after seed, route and wanted classes where these are given]")
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
