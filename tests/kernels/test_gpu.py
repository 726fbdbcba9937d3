"""What needs a GPU: the tests of the GPU's path once more, on CuPy itself instead of the stand-in, and what only a
device can show. Each is skipped, with find_gpu's reason, where there is none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import warnings

import numpy as np
import pytest
from game import grown, play
from kernel_cases import cases, run, wrong
from script_tools import start_script, write_mnist
from test_cuda import (  # noqa: F401 - collected here once more, with this file's `xp`
    device,
    test_a_training_step_gives_what_numpys_gives,
    test_an_optimiser_takes_gradients_of_any_memory_order,
    test_any_memory_order_is_taken,
    test_backward_twice_through_one_graph_adds_the_same_again,
    test_float64_takes_the_kernels_for_any_array,
    test_gradients_of_leaves_are_nobody_elses,
    test_no_two_threads_add_to_one_place,
    test_products_on_views,
    test_random_numbers_are_those_of_the_host,
    test_same_seed_same_bits,
    test_second_derivatives_work_on_the_device,
    test_the_sign_of_zero_is_kept,
    test_triangle_cut_into_the_smallest_chunks,
    test_wrong_launches_are_refused_before_they_start,
    test_wrong_products_are_refused,
)
from test_cuda_training import (  # noqa: F401
    test_a_batch_of_photos_is_made_on_the_device_to_the_bit,
    test_a_gpus_checkpoint_goes_on_and_draws_on_a_processor,
    test_a_resumed_run_has_the_bytes_of_one_that_was_never_stopped,
    test_every_net_and_loss_runs_on_either_device_alike,
    test_optimisers_keep_what_they_update_in_one_buffer,
    test_photos_train_alike_on_either_device_and_go_on,
    test_the_device_is_named_with_its_precision,
    test_twenty_steps_on_either_device_are_the_same_training,
    train,
    train_photos,
)
from test_kernels import (  # noqa: F401 - every kernel of CudaKernels, by this file's `module`
    Tried,
    test_a_blur,
    test_a_convolution_with_relu,
    test_a_whole_net_at_once,
    test_both_halves_of_a_loss,
    test_logistic_loss,
    test_no_samples,
    test_optimisers_and_average,
    test_output_size_picks_one_of_the_big_maps_that_fit,
    test_pooling,
    test_products_of_matrices,
    test_resizing,
    test_routes_of_every_kind,
    test_scale_and_bias_and_the_sigmoid,
    test_tprelu_and_its_derivatives,
    test_triangle_equals_loops_on_random_problems,
    test_triangle_on_the_layers_nets_are_made_of,
    test_two_batches_are_joined,
    test_weight_normalisation,
)

from tinygan.kernels.gpu import CudaKernels, launch
from tinygan.models.gan.nets import GANConfig
from tinygan.nn.optim import Adam

pytestmark = pytest.mark.gpu


@pytest.fixture
def xp(gpu):
    return gpu


@pytest.fixture
def module(gpu):
    return Tried(CudaKernels(), gpu)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_kernel_gives_what_its_definition_says(gpu, case):
    def start(kernel, grid, block, args):
        launch._kernel(kernel)(grid, block, launch.cast(kernel, tuple(args)))

    if case.kernel.endswith("_tf32") and int(gpu.cuda.Device().compute_capability) < 80:
        pytest.skip("this GPU has no TF32: its kernels of that name round nothing")
    for grid in case.grids:
        results = run(case, start, grid, lambda a: gpu.asarray(a, order="C"), lambda a: a.get(), lambda a: a.data.ptr)
        assert not wrong(results), f"grid {grid}: {wrong(results)}"


def test_a_net_of_the_papers_size_gives_what_numpys_gives(gpu, capsys):
    """The float64 NumPy path is the measure, and nothing is learned between D's gradient and G's: an optimiser's first
    step goes by signs, and those of tiny gradients are a matter of rounding."""
    config, results = GANConfig(base_channels=64, latent_dim=128, bank=16), []
    for put in (lambda a: a.astype(np.float64), gpu.asarray):
        losses, gradients = play(grown(config, put, lr=1e-12), 1, put, batch=32)
        results.append(([t.item() for t in losses], {k: g.numpy() for k, g in gradients[0].items()}))
    worst = max(np.linalg.norm(results[1][1][k] - g) / np.linalg.norm(g) for k, g in results[0][1].items())
    assert np.allclose(results[0][0], results[1][0], rtol=1e-5) and worst < 1e-4
    with capsys.disabled():
        print(f"\nbase 64, K 16: gradients on the GPU apart from NumPy's by at most {worst:.1e}")


def test_twenty_steps_give_the_same_bits_twice(gpu):
    config, runs = GANConfig(base_channels=16, latent_dim=64, bank=4), []
    for _ in range(2):
        players = grown(config, gpu.asarray, Adam)
        play(players, 20, gpu.asarray, batch=16)
        runs.append(players[0].state_dict())
    assert all(runs[0][name].tobytes() == runs[1][name].tobytes() for name in runs[0])


def test_a_step_never_waits_for_a_result(gpu):
    """CuPy itself raises where the host reads or needs a value: `.get()`, float(), bool(), masks, nonzero.

    It does not notice who waits for a stream or an event, nor that a cudaMalloc or a first pinned buffer waits; that
    no code of ours calls the former is for the stand-in's counts (test_cuda.py) to show.
    """
    import cupyx

    config = GANConfig(base_channels=16, latent_dim=64, bank=4)
    players = grown(config, gpu.asarray, Adam)
    play(players, 2, gpu.asarray)
    with contextlib.ExitStack() as forbidden:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that CuPy finds most waits, not all
            forbidden.enter_context(cupyx.allow_synchronize(False))
        with pytest.raises(RuntimeError, match="synchronization"):
            gpu.ones(1).get()
        play(players, 2, gpu.asarray)


def test_a_killed_run_goes_on_to_the_same_bytes(gpu, tmp_path):
    digits = write_mnist(tmp_path / "mnist", 64)
    words = ["--device", "gpu", "--data-dir", str(digits), "--base-channels", "4", "--bank", "4", "--batch-size", "8",
             "--log-every", "1", "--save-every", "5", "--eval-every", "0"]
    process = start_script("train_mnist", *words, "--steps", "100000", "--out", str(tmp_path / "killed"))
    for line in process.stderr:
        if line.startswith("step 12/"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for first in (["--resume", str(tmp_path / "killed")], [*words, "--out", str(tmp_path / "whole")]):
        done = start_script("train_mnist", *first, "--steps", "200")
        _, errors = done.communicate(timeout=300)
        assert done.returncode == 0, errors
    saved = [(tmp_path / folder / "checkpoint.npz").read_bytes() for folder in ("killed", "whole")]
    assert saved[0] == saved[1]
