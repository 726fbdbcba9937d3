"""Train a GAN on MNIST: the SGAN (a generator with banks of filters), the plain adapted GAN, or the tied ensemble.

    python train_mnist.py                     an SGAN, with settings that suit this machine
    python train_mnist.py --model gan         the same net without filter banks
    python train_mnist.py --resume            go on with the newest run

Everything lands in runs/NAME: samples as they improve, the log, curves, an animation, a checkpoint, report.html.
The training loop is `train` below; what it calls is explained in the modules it imports.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np

from tinygan import Tensor, __version__, data, metrics
from tinygan.app import cli, pictures
from tinygan.app.device import Device, pick_device
from tinygan.app.draw import as_digits, counter_normal, generate
from tinygan.app.loop import Loop, finish, start
from tinygan.app.resume import load_digits, resumed
from tinygan.app.run import Run
from tinygan.app.state import Game, gradient_norm
from tinygan.app.train_flags import (
    FREQUENT_EVERYWHERE,
    add_optimiser_flags,
    add_place_flags,
    add_settings,
    add_training_flags,
    check_numbers,
    make,
)
from tinygan.errors import UsageError
from tinygan.metrics import log as metrics_log
from tinygan.models import Discriminator, GANConfig, Generator, find_classifier, turn_of_d, turn_of_g
from tinygan.nn.losses import FORMS, GENERATOR_LOSSES
from tinygan.ops import sigmoid

# What a flag means when it is not given. On a GPU: the paper's sizes and the optimiser of the net it adapts
# (Xiang & Li 2017). On a processor: the same systems at a size that two cores train in minutes (RESULTS.md).
PRESETS = {
    "gpu": {"steps": 50_000, "batch_size": 32, "base_channels": 64, "latent_dim": 128, "bank": (16,),
            "optimizer": "rmsprop", "lr_decay": 0, "ema": 0.0, "init_factor": 0.01, "init_scale": 1.0},
    "cpu": {"steps": 6_000, "batch_size": 64, "base_channels": 16, "latent_dim": 64, "bank": (4,),
            "optimizer": "adam", "lr_decay": 6_000, "ema": 0.998, "init_factor": 1.0, "init_scale": 0.125},
}
RATES = {"adam": (2e-3, 0.5), "rmsprop": (1e-4, 1.0)}  # the generator's learning rate; the discriminator's share of it
FREQUENT = FREQUENT_EVERYWHERE | {"model", "bank", "base_channels", "latent_dim", "size", "optimizer", "lr", "data_dir",
                             "sample_every"}  # flags that --help shows
GRID = 8  # samples per side of the pictures
LARGEST = {"batch_size": 65_536, "base_channels": 4_096, "latent_dim": 65_536}  # beyond lie typing errors


def main(argv: list[str] | None = None) -> int:
    """Train as the command line asks; returns the exit code."""
    flags, run = read_flags(argv)
    return start(flags, run, name=f"mnist-{flags['model']}", build=build, train=train)


def train(game: MnistGame, run: Run) -> int:
    """Run the loop: one step of the discriminator, one of the generator, and now and then pictures and measurements."""
    G, D, flags = game.G, game.D, game.flags
    with Loop(game, run) as steps:
        for step in steps:
            real = game.next_real()
            check = partial(step.check, inputs=[("the batch of real images", real)])

            # (1) discriminator: learn to tell real images from G's
            d_loss, of_real, of_fake = turn_of_d(G, D, game.d_optimizer, real, game.draw(0), form=flags["bce"],
                                                 check=check)

            # (2) generator: learn to make images, from new noise through new routes, that D takes for real
            g_loss = turn_of_g(G, D, game.g_optimizer, game.draw(1), kind=flags["loss"], form=flags["bce"],
                               check=check)
            game.update_average()

            if step.read:  # on a GPU only when a number is shown: reading one makes it wait
                step.show(d_loss=d_loss.item(), g_loss=g_loss.item())
            if step.log:
                step.record(d_loss=d_loss.item(), g_loss=g_loss.item(),
                            d_real=sigmoid(of_real).mean().item(), d_fake=sigmoid(of_fake).mean().item(),
                            logit_gap=of_real.mean().item() - of_fake.mean().item(),
                            d_grad=gradient_norm(D), g_grad=gradient_norm(G))
    return finish(steps)


def build(flags: dict, run: Run | None, device: Device) -> MnistGame:
    """Make the data and nets that the flags describe; run: the one to go on with, whose data they must be."""
    config = make(GANConfig, flags, bank=(1,) if flags["model"] == "gan" else tuple(flags["bank"]),
                  tied=flags["model"] == "tied")
    digits = load_digits(flags, run)
    print(f"data: {digits.source}")
    game = MnistGame(config, flags, digits, device)
    if flags["epochs"]:
        flags["steps"] = flags["epochs"] * game.batches.batches_per_epoch
    game.inputs = {"data": {"hash": digits.hash, "source": digits.source}}
    if run is not None:
        run.check_input("data", game.inputs["data"], "name the folder of the old ones with --data-dir")
    return game


class MnistGame(Game):
    """The game on MNIST's digits, and everything that changes during it."""

    kind, script, otherwise = "gan", "train_mnist.py", "try smaller nets (--base-channels, --bank)"

    def __init__(self, config: GANConfig, flags: dict, digits: data.Digits, device: Device) -> None:
        init, order, noise, routes, fixed = (np.random.default_rng([flags["seed"], purpose]) for purpose in range(5))
        super().__init__(config, flags, device, Generator(config, rng=init), Discriminator(config, rng=init))
        self.streams = {"noise": noise, "routes": routes}
        self.digits, self.batches = digits, data.Batches(len(digits), flags["batch_size"], order)
        self.fixed_z = self.G.draw_noise(fixed, GRID * GRID)
        self.fixed_routes = self.G.draw_routes(fixed, GRID * GRID)
        self.reference = data.to_canvas(digits.images[:1000], config.side)
        self.classifier = None
        if digits.shows == "digits":
            self.classifier = find_classifier(print)
        else:
            print(f"note: {digits.kind} shows {digits.shows}: classes drawn, KL and confidence are of digits, so they "
                  "are not measured")

    def describe(self) -> str:
        """Return one line about the nets."""
        routes = self.config.route_count
        return (f"{self.flags['model']}: generator {self.G.parameter_count():,} weights, {routes:,} "
                f"route{'s' if routes > 1 else ''}; discriminator {self.D.parameter_count():,} weights")

    def next_real(self) -> Tensor:
        """Return the next batch of real images."""
        images = data.to_canvas(self.digits.images[next(self.batches)], self.config.side)
        return Tensor(self.device.put(images), name="real images")

    def draw(self, turn: int) -> tuple[Tensor, np.ndarray]:
        """Draw noise and routes for one batch; turn: 0 for the discriminator's, 1 for the generator's."""
        n = self.flags["batch_size"]
        if self.flags["noise"] == "counter":
            z = counter_normal(self.device, self.flags["seed"], 2 * self.step + turn, (n, self.config.latent_dim))
        else:
            z = self.device.put(self.G.draw_noise(self.streams["noise"], n))
        return Tensor(z, name="noise"), self.G.draw_routes(self.streams["routes"], n, self.flags["routes"])

    def rehearse(self, n: int) -> None:
        """Compute the gradients of a step of n images and change nothing."""
        rng = np.random.default_rng(0)
        drawn = Tensor(self.device.put(self.G.draw_noise(rng, n))), self.G.draw_routes(rng, n)
        blank = np.zeros((n, self.config.channels, self.config.side, self.config.side), np.float32)
        turn_of_d(self.G, self.D, None, Tensor(self.device.put(blank)), drawn)
        turn_of_g(self.G, self.D, None, drawn)

    def extra(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return (arrays, header entries) of the data's order, the streams and what the pictures are drawn from."""
        order = self.batches.state()
        arrays = {"fixed_z": self.fixed_z, "fixed_routes": self.fixed_routes, "order": order.pop("order")}
        return arrays, {"batches": order, **{name: rng.bit_generator.state for name, rng in self.streams.items()}}

    def set_extra(self, arrays: dict[str, np.ndarray], header: dict) -> None:
        """Restore what `extra` returned."""
        self.batches.set_state({**header["batches"], "order": arrays["order"]})
        for name, rng in self.streams.items():
            rng.bit_generator.state = header[name]
        self.fixed_z, self.fixed_routes = arrays["fixed_z"], arrays["fixed_routes"]

    # ---- pictures and measurements

    def look(self, run: Run, say: Callable[[str], None]) -> None:
        """Draw the same noise through the same routes every time; the images' spread goes into the log."""
        images = generate(self.best, self.fixed_z, self.fixed_routes, self.device)
        run.save_sample(self.step, pictures.grid(crop(images, self.flags), GRID, GRID))
        if self.latest:
            self.latest["spread"] = metrics_log.relative_spread(images, self.reference)

    def measure(self, n: int = 1000) -> dict[str, float]:
        """Measure classes drawn, KL of their shares to equal ones, and the classifier's confidence: {} without one."""
        if self.classifier is None:
            return {}
        rng = np.random.default_rng([self.flags["seed"], 8])
        images = generate(self.best, self.G.draw_noise(rng, n), self.G.draw_routes(rng, n), self.device)
        probabilities, _ = self.classifier.classify(as_digits(images))
        histogram = metrics.class_histogram(probabilities.argmax(axis=1))
        return {"classes": metrics.classes_covered(histogram), "kl": metrics.label_kl(histogram),
                "confidence": metrics.mean_confidence(probabilities), "samples": n}

    def last_look(self, run: Run) -> None:
        """Draw routes.png, and take the last measurement into the log, and from there into the report."""
        if self.config.route_count > 1:
            run.save_picture("routes.png", self.routes_picture)
        if measured := self.measure(200 if self.flags["dry_run"] else 2000):
            run.amend(self.step, **measured)
            print(f"{measured['classes']:.0f} of 10 digits drawn, KL to equal shares {measured['kl']:.3f} nats, "
                  f"classifier's mean confidence {measured['confidence']:.3f} (over {measured['samples']:,} samples)")
        for words in self.words(run.rows()):
            print(words)

    def routes_picture(self) -> np.ndarray:
        """Draw a picture whose columns share a route, and whose rows share their noise."""
        rng = np.random.default_rng([self.flags["seed"], 9])
        z, routes = self.G.draw_noise(rng, GRID), self.G.draw_routes(rng, GRID)
        images = generate(self.best, np.tile(z, (GRID, 1)), np.repeat(routes, GRID, axis=0), self.device)
        images = crop(images, self.flags)
        names = [cli.as_typed(route.tolist()) for route in routes]
        return pictures.routes_sheet(images.reshape(GRID, GRID, *images.shape[1:]), headers=names)


def crop(images: np.ndarray, flags: dict) -> np.ndarray:
    """Cut images to what --size asked for: 28 pixels are trained on a canvas of 32."""
    return as_digits(images) if flags["size"] == 28 else images


# ---- flags -------------------------------------------------------------------------------------------------------


def read_flags(argv: list[str] | None) -> tuple[dict, Run | None]:
    """The settings in force, and the run to go on with if --resume was given."""
    parser, run = build_parser(), None
    flags, typed = vars(parser.parse_args(argv)), cli.typed(parser, argv)
    if flags["steps"] and flags["epochs"]:
        raise UsageError("give --steps or --epochs, not both")
    if flags["dry_run"] and flags["resume"] is not None:
        raise UsageError("--dry-run tries out a new run: leave --resume out")
    if flags["model"] == "gan" and "bank" in typed and set(flags["bank"]) != {1}:
        raise UsageError("--model gan has no filter banks: leave --bank out, or use --model sgan")
    if flags["resume"] is not None:
        flags, run = resumed(parser, flags, typed, f"mnist-{flags['model']}", "model")
    kind = "cpu" if flags["device"] == "cpu" or pick_device(flags["device"]).kind == "cpu" else "gpu"
    for name, value in PRESETS[kind].items():
        if flags[name] is None:
            flags[name] = value
    rate, share = RATES[flags["optimizer"]]
    flags["lr"] = flags["lr"] or rate
    flags["d_lr"] = flags["d_lr"] or flags["lr"] * share
    if flags["model"] == "gan":
        flags["bank"] = (1,)
    check_numbers(flags, typed, LARGEST)
    if flags["dry_run"] and run is None:
        flags |= {"steps": 2, "epochs": None, "log_every": 1, "eval_every": 0}
    return flags, run


def build_parser() -> cli.Parser:
    """Make the parser: flags for the run, and those of GANConfig's fields."""
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)
    cpu, gpu = PRESETS["cpu"], PRESETS["gpu"]

    def preset(name: str) -> str:
        if name not in cpu:
            return ""
        return f"[default: {cli.as_typed(cpu[name])} on a CPU, {cli.as_typed(gpu[name])} on a GPU]"

    group = p.add_argument_group("training")
    group.add_argument("--model", choices=("sgan", "gan", "tied"), default="sgan", help="banks of filters; none; one "
                       "index for all layers (whole generators under a shared last layer)")
    add_training_flags(group, preset)
    group.add_argument("--epochs", type=cli.positive_int, help="the same in passes over the data")
    names = add_settings(p.add_argument_group("nets"), GANConfig, preset)
    group = p.add_argument_group("optimizer")
    add_optimiser_flags(group, preset, "0.002 with adam, 0.0001 with rmsprop",
                        "half of --lr with adam, --lr with rmsprop")
    group.add_argument("--loss", choices=GENERATOR_LOSSES, default="nonsaturating", help="the generator's")
    group.add_argument("--bce", choices=FORMS, default="logits", help="clamped: log(sigmoid + 1e-12), which can freeze")
    group.add_argument("--noise", choices=("host", "counter"), default="host", help="a generator with a state, or a "
                       "counter-based one, whose numbers a GPU makes itself, the same bits as a CPU's")
    group = p.add_argument_group("place")
    group.add_argument("--data-dir", type=cli.path, help="folder with the four MNIST files")
    add_place_flags(group, name="mnist-MODEL", pictures="0, 50, 100, 250, 500, then every 1,000",
                    measured_with="the digit classifier", log_every=50, save_every=500, eval_every=500)
    p.hide_all_but(FREQUENT, names)
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
