"""State is the thread's, not the process's: trainings side by side, modes that do not leak, new processes."""

import multiprocessing
import threading

import numpy as np
import pytest
from game import grown, play

from tinygan import Tensor, anomaly, grad, no_grad, profile
from tinygan.kernels import threads
from tinygan.models.gan.nets import GANConfig
from tinygan.nn.optim import Adam, RMSprop

STEPS = 4
TRAININGS = {"sgan": (GANConfig(base_channels=4, latent_dim=8, bank=(3,)), Adam, 1),
             "gan": (GANConfig(base_channels=8, latent_dim=8, bank=(1,)), RMSprop, 2)}


def is_recording() -> bool:
    """Whether an operation records edges in this thread now."""
    return (Tensor(np.ones(1), requires_grad=True) * 2.0).requires_grad


def bits(name: str, steps: int = STEPS) -> list[bytes]:
    """Losses, gradients and final weights of a small training."""
    config, optimizer, seed = TRAININGS[name]
    players = grown(config, optimizer=optimizer)
    losses, gradients = play(players, steps, seed=seed)
    arrays = [t.data for t in losses] + [g.data for step in gradients for _, g in sorted(step.items())]
    return [a.tobytes() for a in arrays + [p.data for net in players[:2] for p in net.parameters()]]


def in_threads(*works):
    """Run each in a thread of its own, all at once; what each returned, or the first error."""
    results, errors = [None] * len(works), []
    start = threading.Barrier(len(works))

    def run(i, work):
        start.wait(30)
        try:
            results[i] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("count", [1, 2])
def test_two_trainings_in_two_threads_are_those_of_each_alone(count):
    before = threads.get_threads()
    threads.set_threads(count)
    try:
        alone = [bits(name) for name in TRAININGS]
        assert in_threads(*(lambda name=name: bits(name) for name in TRAININGS)) == alone
        same = in_threads(lambda: bits("sgan"), lambda: bits("sgan"), lambda: threads.set_threads(count))
        assert same[0] == same[1] == alone[0]
    finally:
        threads.set_threads(before)


def test_a_mode_is_the_threads_own():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def other():
        with no_grad(), anomaly(), profile(show=False) as report:
            inside.set()
            leave.wait(30)
            x * 2.0
            seen.extend([dict(report.calls), is_recording()])

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(30)
    with np.errstate(divide="ignore"):
        y = x * x / 0.0  # an infinity: no anomaly here
    squares = x * x
    leave.set()
    thread.join(30)
    assert is_recording() and y.requires_grad and seen == [{"multiply": 1}, False]
    assert grad((squares + 3.0 * x).sum(), [x])[0].data.tolist() == [5, 7]


def test_modes_left_in_another_order_stay_apart():
    first_in, second_in = threading.Event(), threading.Event()

    def first():
        with no_grad():
            first_in.set()
            second_in.wait(30)
        assert is_recording()

    def second():
        first_in.wait(30)
        with no_grad():
            second_in.set()
        assert is_recording()

    in_threads(first, second)
    assert is_recording()


def _report_recording(queue):
    queue.put(is_recording())


@pytest.mark.parametrize("how", [how for how in ("fork", "spawn") if how in multiprocessing.get_all_start_methods()])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_new_process_starts_clean(how):
    context = multiprocessing.get_context(how)
    queue = context.SimpleQueue()
    with no_grad():
        process = context.Process(target=_report_recording, args=(queue,))
        process.start()
    process.join(60)
    assert process.exitcode == 0 and queue.get() is True and is_recording()
