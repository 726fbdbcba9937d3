"""Train a GAN on MNIST: the SGAN (a generator with banks of filters), the plain adapted GAN, or the tied ensemble.

    python train_mnist.py                     an SGAN, with settings that suit this machine
    python train_mnist.py --model gan         the same net without filter banks
    python train_mnist.py --resume            go on with the newest run

Everything lands in runs/NAME: samples as they improve, the log, curves, an animation, a checkpoint, report.html.
The training loop is `train` below; what it calls is explained in the modules it imports.
"""

from __future__ import annotations

import sys
import traceback
import warnings

import numpy as np

from tinygan import __version__, checkpoint, cli, data, health, metrics, pictures
from tinygan.debug import anomaly
from tinygan.device import Device, first_line, memory_is_full, pick_device
from tinygan.engine import Tensor, frozen, no_grad
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels import threads
from tinygan.kernels.gpu.launch import set_tf32
from tinygan.layers import CLAMPS, NORMS, normalised
from tinygan.losses import FORMS, GENERATOR_LOSSES, discriminator_loss, generator_loss
from tinygan.models.adapted_gan import ACTIVATIONS, OUTPUTS, SIZES, Discriminator, GANConfig, Generator
from tinygan.models.digits import find_classifier
from tinygan.ops import concatenate, sigmoid
from tinygan.optim import EMA
from tinygan.run import QUIET, Progress, Run, sample_due
from tinygan.sampling import as_digits, counter_normal, generate
from tinygan.signals import StopSignal
from tinygan.training import (
    add_optimiser_flags,
    add_place_flags,
    check_numbers,
    check_steps,
    dry_run,
    gradient_norm,
    load_digits,
    make_optimizer,
    nets_state,
    out_of_memory,
    rate_factor,
    refuse_other_entries,
    restore_nets,
    resumed,
    stop_if_not_finite,
)

# What a flag means when it is not given. On a GPU: the paper's sizes and the optimiser of the net it adapts
# (Xiang & Li 2017). On a processor: the same systems at a size that two cores train in minutes (RESULTS.md).
PRESETS = {
    "gpu": {"steps": 50_000, "batch_size": 32, "base_channels": 64, "latent_dim": 128, "bank": (16,),
            "optimizer": "rmsprop", "lr_decay": 0, "ema": 0.0, "init_factor": 0.01, "init_scale": 1.0},
    "cpu": {"steps": 6_000, "batch_size": 64, "base_channels": 16, "latent_dim": 64, "bank": (4,),
            "optimizer": "adam", "lr_decay": 6_000, "ema": 0.998, "init_factor": 1.0, "init_scale": 0.125},
}
RATES = {"adam": (2e-3, 0.5), "rmsprop": (1e-4, 1.0)}  # the generator's learning rate; the discriminator's share of it
GRID = 8  # samples per side of the pictures
LARGEST = {"batch_size": 65_536, "base_channels": 4_096, "latent_dim": 65_536}  # beyond lie typing errors


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
    config = GANConfig(size=flags["size"], base_channels=flags["base_channels"], latent_dim=flags["latent_dim"],
                       bank=(1,) if flags["model"] == "gan" else tuple(flags["bank"]), tied=flags["model"] == "tied",
                       norm=flags["norm"], act=flags["act"], slope=flags["slope"], clamp=flags["clamp"],
                       bank_affine=flags["bank_affine"], bank_act=flags["bank_act"],
                       init_factor=flags["init_factor"], init_scale=flags["init_scale"],
                       discriminator_input=flags["d_input"], output=flags["output"])
    digits = load_digits(flags, run)
    print(f"data: {digits.source}")
    training = Training(config, flags, digits, device)
    if flags["epochs"]:
        flags["steps"] = flags["epochs"] * training.batches.batches_per_epoch
    of_data = {"hash": digits.hash, "source": digits.source}
    # Last, so that a command which cannot be carried out leaves no folder behind, and replaces none.
    if run is None:
        run = Run.create(flags, out=flags["out"], name=f"mnist-{flags['model']}", overwrite=flags["overwrite"],
                         inputs={"data": of_data})
    else:
        run.check_input("data", of_data, "name the folder of the old ones with --data-dir")
        training.restore(*checkpoint.load(run.folder))  # may refuse: so before the log is cut back to its step
        check_steps(training.step, flags, run)
        run.load()
        print(f"going on at step {training.step} of {run.folder}")
    print(f"{flags['model']}: generator {training.G.parameter_count():,} weights, {config.route_count:,} "
          f"route{'s' if config.route_count > 1 else ''}; discriminator {training.D.parameter_count():,} weights")
    try:
        return train(training, run, flags)
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the step that did not fit
        advice = out_of_memory(first_line(error), flags, run, (training.G, training.D), device,
                               lambda n: rehearse(training, n), "try smaller nets (--base-channels, --bank)")
        raise TinyganError(f"step {training.step + 1}: {advice}") from None


def train(t: Training, run: Run, flags: dict) -> int:
    """The loop: one step of the discriminator, one of the generator, and now and then a look at the result."""
    total = flags["steps"]
    sys.stdout.flush()  # what was printed so far, where it goes to a file
    with StopSignal() as stop, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, on overflow: check_finite says more
        if t.step == 0:
            Progress(total).update(0)
            look(t, run, flags)
        progress = Progress(total, start=t.step, every=flags["log_every"], quiet=QUIET)  # now: the steps are timed
        run.say = progress.say
        while t.step < total and not stop.requested:
            t.set_learning_rate()
            real = t.next_real()
            # Reading a number makes a GPU wait, so there it is done only when a number is shown.
            look_now = sample_due(t.step + 1, total, flags["sample_every"])
            measure_now = flags["eval_every"] and (t.step + 1) % flags["eval_every"] == 0 and t.step + 1 < total
            log_now = look_now or measure_now or (t.step + 1) % flags["log_every"] == 0
            read_now = log_now or t.device.kind == "cpu"

            # The discriminator learns to tell real from fake; no gradient needs to reach the generator.
            z, routes = t.draw(0)
            with no_grad(), normalised(t.G, routes):
                fake = t.G(z, routes)
            t.D.zero_grad()
            with normalised(t.D):
                logits = t.D(concatenate([real, fake]))  # one call on both does the same as two, in half the steps
                real_logits, fake_logits = logits[:len(real)], logits[len(real):]
                d_loss = discriminator_loss(real=real_logits, fake=fake_logits, form=flags["bce"])
                if read_now:
                    t.check_finite(d_loss, real, run)  # before an update spreads a NaN to all weights
                d_loss.backward()
            # Let go of the graph: with it in hand the next one would be built beside it.
            d_loss, real_logits, fake_logits = (x.detach() for x in (d_loss, real_logits, fake_logits))
            del logits, fake
            t.d_optimizer.step()

            # The generator learns to make fresh images (new noise, new routes) that the discriminator calls real.
            z, routes = t.draw(1)
            t.G.zero_grad()
            with frozen(t.D), normalised(t.D), normalised(t.G, routes):
                g_loss = generator_loss(fake=t.D(t.G(z, routes)), kind=flags["loss"], form=flags["bce"])
                if read_now:
                    t.check_finite(g_loss, real, run)
                g_loss.backward()
            g_loss = g_loss.detach()
            t.g_optimizer.step()
            if t.average is not None:
                t.average.update(t.G)
            t.step += 1

            if read_now:
                progress.update(t.step, d_loss=d_loss.item(), g_loss=g_loss.item())
            if log_now:
                t.latest = {"d_loss": d_loss.item(), "g_loss": g_loss.item(),
                            "d_real": sigmoid(real_logits).mean().item(), "d_fake": sigmoid(fake_logits).mean().item(),
                            "logit_gap": real_logits.mean().item() - fake_logits.mean().item(),
                            "d_grad": gradient_norm(t.D), "g_grad": gradient_norm(t.G)}
                if measure_now:
                    t.latest |= measure(t, 1000)
                if look_now:
                    look(t, run, flags)
                run.log(t.step, **t.latest)
                if look_now and t.step < total:  # of the last step `finish` says more
                    if rows := run.rows():
                        progress.say(health.line(rows))
            if t.step % flags["save_every"] == 0 and t.step < total:
                run.save(*t.state())
        progress.close()
        run.save(*t.state())  # while signals are still held back: a lost terminal often says so twice
    if stop.requested:
        print(f"stopped at step {t.step}; saved. Go on with: python train_mnist.py --resume {run.folder}")
        return 130
    return finish(t, run, flags)


def look(t: Training, run: Run, flags: dict) -> None:
    """Draw the same noise through the same routes as always, and take how much the images differ into the log."""
    images = generate(t.best, t.fixed_z, t.fixed_routes, t.device)
    run.save_sample(t.step, pictures.grid(crop(images, flags), GRID, GRID))
    if t.latest:
        t.latest["spread"] = health.relative_spread(images, t.reference)


def finish(t: Training, run: Run, flags: dict) -> int:
    """The last pictures and the last measurement, which goes into the log, and from there into the report."""
    rng = np.random.default_rng([flags["seed"], 9])
    z, routes = t.G.draw_noise(rng, GRID), t.G.draw_routes(rng, GRID)
    if t.config.route_count > 1:  # a column shares its route, a row its noise
        def draw() -> np.ndarray:
            images = generate(t.best, np.tile(z, (GRID, 1)), np.repeat(routes, GRID, axis=0), t.device)
            images = crop(images, flags)
            names = [cli.as_typed(route.tolist()) for route in routes]
            return pictures.routes_sheet(images.reshape(GRID, GRID, *images.shape[1:]), headers=names)

        run.save_picture("routes.png", draw)
    if found := measure(t, 200 if flags["dry_run"] else 2000):
        run.amend(t.step, **found)
        print(f"{found['classes']:.0f} of 10 digits drawn, KL to equal shares {found['kl']:.3f} nats, "
              f"classifier's mean confidence {found['confidence']:.3f} (over {found['samples']:,} samples)")
    if rows := run.rows():
        print(health.line(rows))
    for note in run.finish():
        print(f"note: {note}")
    run.close()
    if flags["dry_run"]:
        print("dry run: one full cycle of training, saving and drawing works")
        return 0
    print(f"done: {run.folder}/report.html shows it all; more samples: python sample.py --checkpoint {run.folder}")
    return 0


class Training:
    """Everything that changes during a run, so that it can be saved whole and brought back whole."""

    def __init__(self, config: GANConfig, flags: dict, digits: data.Digits, device: Device) -> None:
        self.config, self.flags, self.digits, self.device = config, flags, digits, device
        # One random stream per purpose: drawing more of one thing never shifts another.
        init, order, self.noise_rng, self.route_rng, fixed = (
            np.random.default_rng([flags["seed"], purpose]) for purpose in range(5))
        self.G = Generator(config, rng=init).to(device.put)
        self.D = Discriminator(config, rng=init).to(device.put)
        self.g_optimizer, self.d_optimizer = (
            make_optimizer(net, flags, rate) for net, rate in ((self.G, flags["lr"]), (self.D, flags["d_lr"])))
        self.average = EMA(self.G, flags["ema"]) if flags["ema"] else None
        self.batches = data.Batches(len(digits), flags["batch_size"], order)
        self.fixed_z = self.G.draw_noise(fixed, GRID * GRID)
        self.fixed_routes = self.G.draw_routes(fixed, GRID * GRID)
        self.reference = data.to_canvas(digits.images[:1000], config.side)
        self.classifier = None
        if digits.shows == "digits":
            self.classifier = find_classifier(say=print)
        else:
            print(f"note: {digits.kind} shows {digits.shows}: classes drawn, KL and confidence are of digits, so they "
                  "are not measured")
        self.step, self.latest = 0, {}

    @property
    def best(self) -> Generator:
        """The generator to show: the moving average where there is one."""
        return self.G if self.average is None else self.average.module

    def next_real(self) -> Tensor:
        images = data.to_canvas(self.digits.images[next(self.batches)], self.config.side)
        return Tensor(self.device.put(images), name="real images")

    def draw(self, turn: int = 0) -> tuple[Tensor, np.ndarray]:
        """Fresh noise and fresh routes for one batch; turn: 0 for the discriminator's, 1 for the generator's."""
        n = self.flags["batch_size"]
        if self.flags["noise"] == "counter":
            z = counter_normal(self.device, self.flags["seed"], 2 * self.step + turn, (n, self.config.latent_dim))
        else:
            z = self.device.put(self.G.draw_noise(self.noise_rng, n))
        return Tensor(z, name="noise"), self.G.draw_routes(self.route_rng, n, self.flags["routes"])

    def set_learning_rate(self) -> None:
        factor = rate_factor(self.flags, self.step)
        self.g_optimizer.lr, self.d_optimizer.lr = self.flags["lr"] * factor, self.flags["d_lr"] * factor

    def check_finite(self, loss: Tensor, real: Tensor, run: Run) -> None:
        """Stop at the first NaN or infinity."""
        stop_if_not_finite(loss, [("the batch of real images", real), *self.weights()], self.step, run)

    def weights(self) -> list[tuple[str, Tensor]]:
        """Every learned tensor with its full name, such as generator.deconvs.0.weight."""
        return [*self.G.named_parameters("generator."), *self.D.named_parameters("discriminator.")]

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """(arrays, header) for the checkpoint: all that decides what comes next, no clock and no path."""
        order = self.batches.state()
        arrays = {**nets_state(self), "fixed_z": self.fixed_z, "fixed_routes": self.fixed_routes,
                  "order": order.pop("order")}
        header = {"kind": "gan", "step": self.step, "config": self.config.to_dict(), "batches": order,
                  "noise": self.noise_rng.bit_generator.state, "routes": self.route_rng.bit_generator.state,
                  "average_updates": self.average.updates if self.average else 0}
        return arrays, header

    def restore(self, arrays: dict[str, np.ndarray], header: dict) -> None:
        """The opposite of `state`. Raises TinyganError if the checkpoint is of another net."""
        try:
            if header["config"] != self.config.to_dict():
                raise TinyganError("the checkpoint was made with other settings of the nets than this run's flags")
            if not isinstance(header["step"], int) or header["step"] < 0:
                raise ValueError("step")
            refuse_other_entries(self.state()[0], arrays)
            restore_nets(self, arrays, header["average_updates"])
            self.batches.set_state({**header["batches"], "order": arrays["order"]})
            self.noise_rng.bit_generator.state = header["noise"]
            self.route_rng.bit_generator.state = header["routes"]
            self.fixed_z, self.fixed_routes, self.step = arrays["fixed_z"], arrays["fixed_routes"], header["step"]
        except (KeyError, TypeError, ValueError) as error:
            raise TinyganError(f"the checkpoint lacks or garbles {error}: it is not one of train_mnist.py") from None


def rehearse(t: Training, n: int) -> bool:
    """Whether the forward and backward passes of a step of n images fit into memory. Changes nothing that lasts."""
    try:
        rng = np.random.default_rng(0)
        z, routes = Tensor(t.device.put(t.G.draw_noise(rng, n))), t.G.draw_routes(rng, n)
        with no_grad(), normalised(t.G, routes):
            fake = t.G(z, routes)
        with normalised(t.D):
            logits = t.D(concatenate([fake, fake]))
            discriminator_loss(real=logits[:n], fake=logits[n:]).backward()
        del logits
        with frozen(t.D), normalised(t.D), normalised(t.G, routes):
            generator_loss(fake=t.D(t.G(z, routes))).backward()
        return True
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        return False
    finally:
        for net in (t.G, t.D):
            net.zero_grad()


def measure(t: Training, n: int) -> dict[str, float]:
    """Classes drawn, KL of their shares to equal ones, classifier's confidence: {} without a digit classifier."""
    if t.classifier is None:
        return {}
    rng = np.random.default_rng([t.flags["seed"], 8])
    images = generate(t.best, t.G.draw_noise(rng, n), t.G.draw_routes(rng, n), t.device)
    probabilities, _ = t.classifier.classify(as_digits(images))
    histogram = metrics.class_histogram(probabilities.argmax(axis=1))
    return {"classes": metrics.classes_covered(histogram), "kl": metrics.label_kl(histogram),
            "confidence": metrics.mean_confidence(probabilities), "samples": n}


def crop(images: np.ndarray, flags: dict) -> np.ndarray:
    """What --size asked for: 28 pixels are trained on a canvas of 32."""
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
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)
    cpu, gpu = PRESETS["cpu"], PRESETS["gpu"]

    def preset(name: str) -> str:
        return f"[default: {cli.as_typed(cpu[name])} on a CPU, {cli.as_typed(gpu[name])} on a GPU]"

    main_flags = p.add_argument_group("what to train")
    main_flags.add_argument("--model", choices=("sgan", "gan", "tied"), default="sgan", help="banks of filters; none; "
                            "one index for all layers (whole generators under a shared last layer)")
    main_flags.add_argument("--steps", type=cli.positive_int, help=f"total to reach {preset('steps')}")
    main_flags.add_argument("--epochs", type=cli.positive_int, help="the same in passes over the data")
    main_flags.add_argument("-b", "--batch-size", type=cli.positive_int, help=preset("batch_size"))
    main_flags.add_argument("--bank", type=cli.bank_list, help="filter sets of the projection and each transposed "
                            f"convolution, or one number for all but the last {preset('bank')}")
    main_flags.add_argument("--routes", type=cli.route_mode, default="sample", help="sample, batch or group:g: how "
                            "many samples share a route in training")
    main_flags.add_argument("--base-channels", type=cli.positive_int, help=preset("base_channels"))
    main_flags.add_argument("--latent-dim", "--nz", type=cli.positive_int,
                            help=f"length of the noise {preset('latent_dim')}")
    main_flags.add_argument("--size", type=int, choices=tuple(SIZES), default=32, help="pixels; 28 is padded to 32")
    main_flags.add_argument("--seed", type=cli.non_negative_int, default=0, help="same seed, same machine, same "
                            "thread count: same bits")
    opt = p.add_argument_group("optimiser and loss")
    add_optimiser_flags(opt, preset, "0.002 with adam, 0.0001 with rmsprop",
                        "half of --lr with adam, --lr with rmsprop")
    opt.add_argument("--loss", choices=GENERATOR_LOSSES, default="nonsaturating", help="the generator's")
    opt.add_argument("--bce", choices=FORMS, default="logits", help="clamped: log(sigmoid + 1e-12), which can freeze")
    opt.add_argument("--noise", choices=("host", "counter"), default="host", help="a generator with a state, or a "
                     "counter-based one, whose numbers a GPU makes itself, the same bits as a CPU's")
    net = p.add_argument_group("details of the nets (the paper leaves them open)")
    net.add_argument("--norm", choices=NORMS, default="strict", help="weight normalisation")
    net.add_argument("--act", choices=ACTIVATIONS, default="tprelu")
    net.add_argument("--slope", type=cli.probability, default=0.2, help="initial slope of the activation")
    net.add_argument("--clamp", choices=CLAMPS, default="project", help="how slopes are kept within [0, 1]")
    net.add_argument("--bank-affine", action="store_true", help="own scale and bias per filter set (--norm affine)")
    net.add_argument("--bank-act", action="store_true", help="own activation slopes per filter set")
    net.add_argument("--init-factor", type=cli.positive_float, help=f"of the projection {preset('init_factor')}")
    net.add_argument("--init-scale", type=cli.positive_float, help=f"of all weights {preset('init_scale')}")
    net.add_argument("--d-input", choices=("pm1", "01"), default="pm1", help="range of the discriminator's input")
    net.add_argument("--output", choices=OUTPUTS, default="sigmoid", help="the generator's last function")
    place = p.add_argument_group("where and how often")
    place.add_argument("--data-dir", type=cli.path, help="folder with the four MNIST files")
    add_place_flags(place, name="mnist-MODEL", pictures="0, 50, 100, 250, 500, then every 1,000",
                    measured_with="the digit classifier", log_every=50, save_every=500, eval_every=500)
    return p


def entry(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if "--detect-anomaly" in words:
        with anomaly():
            return main(argv)
    return main(argv)


if __name__ == "__main__":
    sys.exit(cli.run_main(entry, leaves_files=True))
