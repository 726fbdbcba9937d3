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

import numpy as np

from tinygan import __version__, checkpoint, cli, pictures
from tinygan.backend import Device, pick_device
from tinygan.errors import TinyganError, UsageError
from tinygan.gpan_sampling import load_painter
from tinygan.kernels import pool
from tinygan.models.adapted_gan import Generator
from tinygan.models.gpan import GPANGenerator
from tinygan.sampling import as_digits, generate, restore_generator, run_folder

MOST_FILES, MOST_SCALE, MOST_PIXELS = 100_000, 64, 1 << 30
ONE_ROUTE = re.compile(r"\d{1,6}(,\d{1,6})*")  # a filter set for each layer, such as 3,0,2,0
USUAL = {"gan": 64, "gpan": 16}  # images in a picture
OF_A_GPAN = ("wanted", "substrate")  # flags that mean nothing to a GAN


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.individual and args.grid:
        raise UsageError("give --grid or --individual, not both")
    for name, value, most in (("n", args.n or 1, MOST_FILES if args.individual else cli.MAX_GRID),
                              ("scale", args.scale, MOST_SCALE)):
        if value > most:
            raise UsageError(f"--{name} {value}: at most {most:,}{'' if args.individual else ' in one picture'}")
    pool.set_threads(args.threads)
    device = pick_device(args.device)
    arrays, meta = checkpoint.load(args.checkpoint)
    kind = "gpan" if meta.get("kind") == "gpan" else "gan"
    rows, columns = args.grid or square(args.n or USUAL[kind])
    n = args.n or rows * columns
    if args.grid and n > rows * columns:
        raise UsageError(f"a grid of {rows}x{columns} holds {rows * columns} images, not {n}: leave --n out")
    draw = draw_gpan if kind == "gpan" else draw_gan
    side, parts = draw(args, arrays, meta, device, n)
    folder = run_folder(args.checkpoint)
    if args.individual:
        out, count = args.out or folder / "images", 0
        for images in parts:
            count += len(pictures.save_individual(out, images, start=count))
        print(f"{count} images of {side}x{side} pixels in {out}, step {meta['step']}")
        return 0
    out = args.out or folder / "grid.png"
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: a grid is one picture, name a .png file (or use --individual)")
    if not out.parent.is_dir():
        raise TinyganError(f"--out {out}: there is no folder {out.parent}; make it first")
    if rows * columns * (side * args.scale) ** 2 > MOST_PIXELS:
        raise UsageError(f"{rows} x {columns} images of {side} pixels, enlarged {args.scale} times, make a picture "
                         "that nothing can show: take fewer (--n), or one file for each (--individual)")
    images = np.concatenate([pictures.to_uint8(part) for part in parts])
    pictures.save_png(out, pictures.grid(images, rows, columns, scale=args.scale))
    print(f"{n} images, {rows} rows of {columns}, in {out}, step {meta['step']}")
    return 0


def draw_gan(args: argparse.Namespace, arrays: dict[str, np.ndarray], meta: dict, device: Device, n: int
             ) -> tuple[int, Iterator[np.ndarray]]:
    """(side in pixels, images (n, C, side, side) in [0, 1] in parts) of a run of train_mnist.py."""
    if typed := [name for name in OF_A_GPAN if getattr(args, name)]:
        raise UsageError(f"--{typed[0]} is for runs of train_gpan.py, and {args.checkpoint} is not one: leave it out")
    generator = restore_generator(args.checkpoint, arrays, meta, device, average=not args.no_average)
    rng = np.random.default_rng(args.seed)
    z = generator.draw_noise(rng, n)
    routes = choose_routes(generator, args.route, rng, n)
    images = generate(generator, z, routes, device)
    if generator.config.size == 28:
        images = as_digits(images)
    return images.shape[2], iter([images])


def draw_gpan(args: argparse.Namespace, arrays: dict[str, np.ndarray], meta: dict, device: Device, n: int
              ) -> tuple[int, Iterator[np.ndarray]]:
    """The same of a run of train_gpan.py; the images are painted as they are asked for."""
    painter = load_painter(args.checkpoint, arrays, meta, device, average=not args.no_average)
    wanted = painter.find_set(args.wanted)
    routes = choose_routes(painter.generator, args.route, np.random.default_rng(args.seed), n)
    substrates = painter.substrates(args.substrate)
    print(f"wanted: {painter.describe(wanted)}; on {substrates.describe()}")
    return painter.generator.config.size, painter.images(wanted, routes, substrates, args.seed)


def choose_routes(generator: Generator | GPANGenerator, wanted: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """--route as (n, layers) indices: a mode draws them, a list of numbers is used for every image."""
    config = generator.config
    if not ONE_ROUTE.fullmatch(wanted):
        return generator.draw_routes(rng, n, wanted)
    route = [int(part) for part in wanted.split(",")]
    if len(route) != len(config.bank) or any(r >= k for r, k in zip(route, config.bank, strict=False)):
        raise UsageError(f"--route {wanted}: this generator takes {len(config.bank)} numbers, each below its bank "
                         f"size: {','.join(map(str, config.bank))}")
    if getattr(config, "tied", False) and len({r for r, k in zip(route, config.bank, strict=True) if k > 1}) > 1:
        raise UsageError(f"--route {wanted}: a tied ensemble has the same number in every layer with a bank")
    return np.tile(np.asarray(route, np.int64), (n, 1))


def square(n: int) -> tuple[int, int]:
    """Rows and columns of a grid for n images, nearly square."""
    columns = math.ceil(math.sqrt(n))
    return math.ceil(n / columns), columns


def route_choice(text: str) -> str:
    """The value of --route: a mode, or one route written out."""
    if ONE_ROUTE.fullmatch(text):
        return text
    try:
        return cli.route_mode(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or one index per layer such as 3,0,2,0") from None


def build_parser() -> cli.Parser:
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)
    p.add_argument("--checkpoint", type=cli.path, required=True, metavar="RUN",
                   help="a run's folder, or its checkpoint.npz")
    p.add_argument("--n", type=cli.positive_int, help=f"how many images [default: {USUAL['gan']}, of a GPAN "
                   f"{USUAL['gpan']}, or what --grid holds]")
    p.add_argument("--grid", type=cli.grid_size, metavar="RxC", help="rows x columns of the picture")
    p.add_argument("--individual", action="store_true", help="one file for each image")
    p.add_argument("--scale", type=cli.positive_int, default=1, help="enlarge each pixel of a grid to a square")
    p.add_argument("--seed", type=cli.non_negative_int, default=0)
    p.add_argument("--route", type=route_choice, default="sample", help="sample (each image its own), batch (one for "
                   "all), group:g, or the filter sets themselves, one number per layer")
    p.add_argument("--wanted", metavar="CLASS[,CLASS]", help="one of the sets of classes that a GPAN was trained for, "
                   "by name or number [default: the first]")
    p.add_argument("--substrate", nargs="+", type=cli.path, metavar="PATH", help="pictures for a GPAN to paint on, or "
                   "a folder of them [default: what it was trained on]")
    p.add_argument("--no-average", action="store_true", help="the weights themselves, not their moving average")
    p.add_argument("--device", type=cli.device, default="auto")
    p.add_argument("--threads", type=cli.positive_int, default=os.cpu_count() or 1)
    p.add_argument("-o", "--out", type=cli.path, help="file (grid) or folder (individual) [default: in the run's "
                   "folder]")
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
