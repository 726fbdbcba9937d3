"""A training step as one CUDA graph: the same bits as the step itself, and what cannot be recorded is said.

On a GPU, or on the real CuPy without one (tests/cpucupy).
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from game import grown

from tinygan.app.feeds import FedImages, FedNoise, FedRoutes
from tinygan.kernels import host
from tinygan.kernels.gpu import graph as graphs
from tinygan.kernels.gpu.feed import each_step, fed, recording, table
from tinygan.kernels.gpu.graph import RecordedStep
from tinygan.kernels.gpu.routes import _uploaded, plan_of
from tinygan.models.gan.game import turn_of_d, turn_of_g
from tinygan.models.gan.nets import GANConfig
from tinygan.nn.optim import Adam, RMSprop

pytestmark = pytest.mark.gpu
NETS = {"GAN": {"bank": 1}, "SGAN": {"bank": 4}, "tied": {"bank": 4, "tied": True}}
STEPS, BATCH = 54, 6


class Training:
    """A GAN on random images, on a stream of its own, whose step may be recorded."""

    def __init__(self, xp, config, optimizer, note=None, counted=True, d_steps=1, freeze_banks=False):
        self.config, self.step_number, self.rng = config, 0, np.random.default_rng(1)
        self.g, self.d, self.g_optimizer, self.d_optimizer, self.average = grown(config, xp.asarray, optimizer)
        self.images = FedImages(xp, self.rng.integers(0, 256, (20, 28, 28), np.uint8), 32, config.channels)
        self.routes = FedRoutes(xp, BATCH, config.bank, d_steps + 1)
        self.noise = FedNoise(5 if counted else None, (BATCH, config.noise_length), d_steps + 1)
        self.counted, self.d_steps, self.stream = counted, d_steps, xp.cuda.Stream(non_blocking=True)
        for p in self.g.parameters() if freeze_banks else ():
            p.requires_grad = not p.bank
        self.step = self.one_step if note is None else RecordedStep(xp, self.one_step, note)

    def drawn(self, turn):
        noise = self.noise.drawn(turn, (lambda: (self.d_steps + 1) * self.step_number) if self.counted else
                                 lambda: self.g.draw_noise(self.rng, BATCH))
        return noise, self.routes.drawn(turn, lambda: self.g.draw_routes(self.rng, BATCH))

    def one_step(self):
        for turn in range(self.d_steps):
            real = self.images.batch(BATCH, lambda: self.rng.integers(0, 20, (BATCH, self.config.channels)))
            d_loss, _, _ = turn_of_d(self.g, self.d, self.d_optimizer, real, self.drawn(turn))
        g_loss = turn_of_g(self.g, self.d, self.g_optimizer, self.drawn(self.d_steps))
        self.average.update(self.g)
        return d_loss, g_loss

    def run(self, steps):
        losses = []
        with self.stream:
            for _ in range(steps):
                self.g_optimizer.lr = self.d_optimizer.lr = 1e-3 / (1 + self.step_number)
                losses.append([loss.item() for loss in self.step()])
                self.step_number += 1
            states = [part.state_dict() for part in (self.g, self.d, self.g_optimizer, self.d_optimizer,
                                                     self.average.module)]
        return losses, {f"{i}.{k}": v for i, state in enumerate(states) for k, v in state.items()}


@pytest.fixture
def order(request):
    """The order of blocks and threads on a processor; a GPU has its own."""
    if os.environ.get("TINYGAN_CUPY") == "cpu":
        import cpucupy

        cpucupy.reverse(request.param == "last to first")
        yield
        cpucupy.reverse(False)
    else:
        yield


@pytest.mark.parametrize("name, optimizer, order", [
    *((name, optimizer, "first to last") for name in NETS for optimizer in (Adam, RMSprop)),
    *((name, Adam, "last to first") for name in NETS)], indirect=["order"])
def test_a_replayed_step_has_the_bits_of_the_step_itself(gpu, name, optimizer, order):
    config, notes = GANConfig(base_channels=4, latent_dim=8, init_factor=1.0, **NETS[name]), []
    eager, graph = Training(gpu, config, optimizer), Training(gpu, config, optimizer, notes.append)
    (losses, state), (replayed, after) = eager.run(STEPS), graph.run(STEPS)
    assert not notes and graph.step.replays == STEPS - 2
    assert losses == replayed and len({loss for pair in losses for loss in pair}) > STEPS
    assert all(state[key].tobytes() == after[key].tobytes() for key in state)
    assert graph.average.updates == eager.average.updates == STEPS
    for mine, other in zip(graph.g.parameters(), eager.g.parameters(), strict=True):
        assert mine.version == other.version


NODES = {"GAN": ({"bank": 1}, 107), "SGAN": ({"bank": 16}, 110), "tied": ({"bank": 16, "tied": True}, 110)}


@pytest.mark.parametrize("name", NODES)
def test_a_recorded_step_has_so_many_nodes(gpu, name, monkeypatch, capsys):
    """All of them: kernels, products, copies. Kernels do nothing here, so nothing is computed."""
    if os.environ.get("TINYGAN_CUPY") != "cpu":
        pytest.skip("a GPU's graphs do not list their nodes; those of its device without one do")
    import cpucupy

    settings, most = NODES[name]
    monkeypatch.setitem(globals(), "BATCH", 64)
    cpucupy.null(True)
    try:
        training = Training(gpu, GANConfig(base_channels=64, latent_dim=128, **settings), RMSprop, lambda line: None)
        with training.stream:
            for _ in range(3):
                training.step()
        nodes = cpucupy.nodes(training.step.graphs[None])
    finally:
        cpucupy.null(False)
    with capsys.disabled():
        print(f"\n{name}: {len(nodes)} nodes")
    assert 0 < len(nodes) <= most


@pytest.mark.parametrize("settings, options", [
    ({}, {"counted": False}),
    ({"pack": 2, "d_base_channels": 3, "one_hot": (3, 2)}, {"counted": False, "d_steps": 3, "freeze_banks": True}),
    ({"pack": 3, "channels": 3}, {"d_steps": 2}),
])
def test_noise_of_the_hosts_generator_and_several_turns_of_d_are_fed_too(gpu, settings, options):
    config, notes = GANConfig(base_channels=4, latent_dim=8, bank=2, **settings), []
    (losses, state), (replayed, after) = (
        Training(gpu, config, Adam, note, **options).run(8) for note in (None, notes.append))
    assert not notes and losses == replayed
    assert all(state[key].tobytes() == after[key].tobytes() for key in state)


def recorded(xp, work):
    """The results of six calls of work(), recorded at the third; the notes; the step."""
    notes = []
    step = RecordedStep(xp, work, notes.append)
    with xp.cuda.Stream(non_blocking=True):
        results = [step().get().tolist() for _ in range(6)]
    return results, notes, step


def test_what_is_fed_is_new_at_every_replay_and_tables_stay(gpu):
    count = iter(range(100))
    constant = np.array([10.0, 20.0], np.float32)

    def work():
        base = table(constant).view(np.float32)
        return base + fed((2,), np.float32, lambda out: np.copyto(out, next(count)))

    results, notes, step = recorded(gpu, work)
    assert not notes and step.replays == 4
    assert results == [[10.0 + i, 20.0 + i] for i in range(6)]


def test_an_array_of_a_step_is_not_written_over_by_a_table(gpu):
    """The memory of a freed array of the step may be used again within the step, but not for what stays."""
    def work():
        for size in (512, 1024, 2048):
            gpu.full(size, 7.0, np.float32)  # freed at once
        return table(np.arange(128, dtype=np.float32)).view(np.float32)[:3] * 1.0

    results, notes, _ = recorded(gpu, work)
    assert not notes and results == [[0.0, 1.0, 2.0]] * 6


def sends_an_array(xp):
    return xp.asarray(np.ones(2, np.float32))


def waits_for_a_number(xp):
    return xp.ones(2, np.float32) * float(xp.ones(1, np.float32).sum())


def asks_for_more_than_before(xp):
    return fed((2 + 1000 * (recording() is not None),), np.float32, lambda out: out.fill(1.0))[:2]


def runs_out_of_memory(xp):
    if recording() is not None:
        raise xp.cuda.memory.OutOfMemoryError(8, 8)
    return xp.ones(2, np.float32)


@pytest.mark.parametrize("work", [sends_an_array, waits_for_a_number, asks_for_more_than_before, runs_out_of_memory])
def test_what_cannot_be_recorded_is_said_once_and_done_anyway(gpu, work):
    counted = []

    def step():
        each_step(lambda: counted.append(1))
        return work(gpu)

    results, notes, step = recorded(gpu, step)
    assert results == [[1.0, 1.0]] * 6 and len(counted) == 6 and step.replays == 0
    assert len(notes) == 1 and "cannot be recorded as one CUDA graph" in notes[0] and "\n" not in notes[0]
    assert recording() is None
    gpu.asarray(np.ones(3, np.float32)).get()  # what was not allowed meanwhile is allowed again


def test_a_mask_that_does_not_follow_the_routes_is_not_recorded(gpu):
    """It would stay that of the recorded step: wrong filter sets would be updated from then on."""
    config, notes = GANConfig(base_channels=4, latent_dim=8, bank=2), []
    training = Training(gpu, config, Adam, notes.append)
    plain = training.drawn
    training.drawn = lambda turn: (plain(turn)[0], training.g.draw_routes(training.rng, BATCH))
    training.run(4)
    assert len(notes) == 1 and training.step.replays == 0


def test_a_step_is_fed_in_one_copy_and_never_waits(gpu):
    if os.environ.get("TINYGAN_CUPY") != "cpu":
        pytest.skip("a GPU does not count; its device without one does")
    import cpucupy

    training = Training(gpu, GANConfig(base_channels=4, latent_dim=8, bank=4), Adam, lambda line: None)
    training.run(4)
    cpucupy.reset()
    with training.stream:
        training.step()
    count = cpucupy.count()
    assert (count["graph_launches"], count["up"], count["launches"], count["gemms"]) == (1, 1, 0, 0)


# ---- variants ----------------------------------------------------------------------------------------------------


class Counted:
    """A step of two variants that works on the same arrays; each call is given its number."""

    def __init__(self, xp, note=None):
        self.xp, self.total = xp, xp.zeros(3, np.float32)
        self.step = self.one_step if note is None else RecordedStep(
            xp, self.one_step, note, lambda given: (len(given), [given]))

    def one_step(self, given):
        scratch = self.xp.zeros(64, np.float32) + host.sent(self.total, lambda: given.sum(keepdims=True), given)
        doubled = host.renewed(self.total, lambda: given * 2, given)
        rest = host.sent(self.total, lambda: doubled[-1:] + 1, doubled)
        self.total += scratch[:3] * len(given) + rest
        return self.total * 1.0

    def run(self, steps):
        rng = np.random.default_rng(3)
        with self.xp.cuda.Stream(non_blocking=True):
            return [self.step(rng.standard_normal(rng.integers(1, 3)).astype(np.float32)).get().tobytes()
                    for _ in range(steps)]


def test_variants_are_recorded_apart_and_share_their_memory(gpu):
    notes = []
    recorded = Counted(gpu, notes.append)
    assert recorded.run(30) == Counted(gpu).run(30) and not notes
    assert set(recorded.step.graphs) == {1, 2} and recorded.step.replays == 26


def test_a_cache_that_a_later_variant_fills_is_not_written_over(gpu):
    """A number that a step keeps on the device must not lie where an earlier graph has arrays of its own."""
    from tinygan import Tensor

    def step(given):
        if len(given) == 1:
            for size in (128, 256, 512):
                gpu.full(size, 7.0, np.float32)  # freed at once
        return (Tensor(gpu.ones(2, np.float32)) * (0.123 + len(given))).data

    recorded = RecordedStep(gpu, step, pytest.fail, lambda given: (len(given), []))
    with gpu.cuda.Stream(non_blocking=True):
        for length in (1, 1, 1, 2, 2, 1, 2, 1, 2):
            found = recorded(np.zeros(length)).get()
            assert found.tolist() == [np.float32(0.123 + length)] * 2
    assert recorded.replays == 5


def test_what_is_not_said_to_change_is_not_recorded(gpu):
    notes, changing = [], np.zeros(2, np.float32)
    for work in (lambda: host.sent(gpu.zeros(1), lambda: changing + 1, changing),
                 lambda: gpu.asarray(host.renewed(gpu.zeros(1), lambda: changing + 1, changing[1:]))):
        results, notes, step = recorded(gpu, work)
        assert len(notes) == 1 and step.replays == 0 and results == [[1.0, 1.0]] * 6


def test_no_more_variants_are_recorded_than_are_allowed(gpu, monkeypatch):
    monkeypatch.setattr(graphs, "MOST", 2)
    notes, step = [], None
    step = RecordedStep(gpu, lambda kind: gpu.full(2, float(kind), np.float32), notes.append, lambda kind: (kind, ()))
    with gpu.cuda.Stream(non_blocking=True):
        for _ in range(5):
            for kind in range(4):
                assert step(kind).get().tolist() == [kind, kind]
    assert sorted(step.graphs) == [0, 1] and step.replays == 6
    assert len(notes) == 1 and "more than 2 variants" in notes[0]


def test_memory_that_a_graph_writes_is_not_given_back(gpu):
    """Short of memory, a pool frees its free blocks, and the next replay would write into what is someone else's."""
    step = RecordedStep(gpu, lambda: (gpu.ones(1 << 20, np.float32) + 1)[:2] * 1.0, pytest.fail)
    with gpu.cuda.Stream(non_blocking=True):
        for _ in range(3):
            step()
        step._pool.free_all_blocks()
        others = [gpu.zeros(1 << 20, np.float32) for _ in range(4)]
        assert step().get().tolist() == [2.0, 2.0]
        assert not any(other.any() for other in others)


def test_memory_that_the_default_pool_does_not_use_goes_to_a_step(gpu):
    """As that of a measurement, before the first step with a view."""
    if os.environ.get("TINYGAN_CUPY") != "cpu":
        pytest.skip("the memory of a GPU cannot be made smaller")
    import cpucupy

    size = 1 << 24
    gpu.ones(size, np.float32)  # freed at once, and kept by the default pool
    free, total = gpu.cuda.runtime.memGetInfo()
    cpucupy.set_limit(total - free + size)
    try:
        step = RecordedStep(gpu, lambda: gpu.ones(size, np.float32)[:2] * 1.0, pytest.fail)
        with gpu.cuda.Stream(non_blocking=True):
            assert [step().get().tolist() for _ in range(4)] == [[1.0, 1.0]] * 4 and step.replays == 2
    finally:
        cpucupy.set_limit(total)


def test_routes_of_a_recorded_step_stay_when_the_cache_of_plans_is_emptied(gpu):
    """Host integers are sorted and sent once, into memory that no later step of another variant writes."""
    routes = np.array([1, 0, 1], np.int64)

    def work(kind):
        if kind == 0:
            return plan_of(gpu, 0, routes, 2).order.astype(np.float32)
        others = [gpu.full(count, -1, np.int32) for count in range(1, 200)]
        return others[0] * 1.0

    _uploaded.cache_clear()
    step = RecordedStep(gpu, work, pytest.fail, lambda kind: (kind, ()))
    with gpu.cuda.Stream(non_blocking=True):
        for _ in range(3):
            step(0)
        _uploaded.cache_clear()
        step(1)
        assert step(0).get().tolist() == [1.0, 0.0, 2.0]
