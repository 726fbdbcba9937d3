"""The GPU's code path without a GPU: wrappers, layers and whole training steps over a strict stand-in for CuPy whose
kernels run on the processor and whose cuBLAS is NumPy's. Same numbers as the NumPy path, no waiting, few launches.
"""

from __future__ import annotations

import numpy as np
import pytest
from game import grown, play
from test_kernels import problem, random_problem

from tinygan.device import Device
from tinygan.engine import Tensor, grad
from tinygan.fused import tprelu
from tinygan.kernels import counter, for_array, reference
from tinygan.kernels.base import Kernels
from tinygan.kernels.gpu import CudaKernels, conv, launch
from tinygan.layers import Linear
from tinygan.models.adapted_gan import GANConfig
from tinygan.optim import Adam, RMSprop
from tinygan.pooling import interpolation_matrix

pytestmark = pytest.mark.kernels
TOLERANCE = 1e-5


class OnDevice:
    """CudaKernels, taking and giving NumPy arrays: everything goes to the device and back."""

    def __init__(self, xp) -> None:
        self.xp = xp

    def __getattr__(self, name):
        def call(*args, **options):
            moved = [self.put(a) for a in args]
            result = getattr(CudaKernels(), name)(*moved, **options)
            for before, after in zip(args, moved, strict=True):  # what the optimisers changed in place
                if isinstance(before, np.ndarray) and before.dtype == np.float32 and before.flags.writeable:
                    before[...] = after.get()
            return tuple(map(self.get, result)) if isinstance(result, tuple) else self.get(result)
        return call

    def put(self, a):
        return self.xp.asarray(a) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a

    def get(self, a):
        return None if a is None else a.get()


@pytest.fixture
def device(xp):
    return OnDevice(xp)


def near(got, wanted, tolerance=TOLERANCE):
    got, wanted = (x if isinstance(x, tuple) else (x,) for x in (got, wanted))
    for a, b in zip(got, wanted, strict=True):
        if a is None and b is None:
            continue
        assert a.shape == b.shape and a.dtype == np.float32
        scale = np.abs(b).max() if b.size else 0.0
        assert np.abs(a - b).max(initial=0.0) <= tolerance * (scale + 1e-30), np.abs(a - b).max()


def triangle(module, geometry, arrays):
    kernel, stride, padding, size = geometry
    big, small, weight, routes = arrays
    return (module.conv(big, weight, stride, padding, routes),
            module.conv_transpose(small, weight, stride, padding, routes, size),
            module.conv_weight(big, small, kernel, stride, padding, routes, len(weight)))


def single(arrays):
    return tuple(a.astype(np.float32) if a is not None and a.dtype.kind == "f" else a for a in arrays)


def check(device, geometry, arrays):
    arrays = single(arrays)
    wide = tuple(a.astype(float) if a is not None and a.dtype.kind == "f" else a for a in arrays)
    results = triangle(device, geometry, arrays)
    near(results, triangle(reference, geometry, wide))
    return results


# ---- wrappers ----------------------------------------------------------------------------------------------------


def test_triangle_equals_loops_on_random_problems(device):
    for seed in range(80):
        check(device, *random_problem(seed))


def test_triangle_cut_into_the_smallest_chunks(device, monkeypatch):
    """One sample's columns at a time: what very large images do."""
    monkeypatch.setattr(conv, "COLUMNS", 1)
    for seed in range(40):
        check(device, *random_problem(seed))
    monkeypatch.setattr(conv, "COLUMNS", 2000)
    for seed in range(40):
        check(device, *random_problem(seed))


@pytest.mark.parametrize("geometry, channels", [
    (((4, 4), (2, 2), (1, 1), (8, 8)), (6, 5)), (((4, 4), (2, 2), (1, 1), (8, 8)), (6, 1)),
    (((4, 4), (1, 1), (0, 0), (4, 4)), (1, 5)), (((1, 1), (1, 1), (0, 0), (1, 1)), (3, 40)),
    (((1, 1), (1, 1), (0, 0), (5, 5)), (3, 4)), (((3, 3), (1, 1), (1, 1), (6, 5)), (3, 8))])
@pytest.mark.parametrize("bank", [1, 3])
def test_triangle_on_the_layers_nets_are_made_of(device, geometry, channels, bank):
    check(device, geometry, problem(np.random.default_rng(1), *geometry, bank, 5, *channels))


@pytest.mark.parametrize("routes", [[2, 2, 2, 2], [3, 0, 1, 2], [0, 1, 1, 4], [4, 4, 0, 0]])
def test_an_unused_set_has_exactly_no_gradient(device, routes):
    geometry = ((4, 4), (2, 2), (1, 1), (6, 6))
    big, small, weight, _ = problem(np.random.default_rng(3), *geometry, 5, 4, 6, 5)
    gradient = check(device, geometry, (big, small, weight, np.array(routes)))[2]
    assert [k for k in range(5) if gradient[k].any()] == sorted(set(routes))


@pytest.mark.parametrize("routes", [None, np.zeros(0, np.int64)])
def test_no_samples(device, routes):
    bank = 1 if routes is None else 3
    arrays = np.zeros((0, 5, 8, 8)), np.zeros((0, 6, 4, 4)), np.ones((bank, 6, 5, 4, 4)), routes
    small, big, gradient = triangle(device, ((4, 4), (2, 2), (1, 1), (8, 8)), single(arrays))
    assert small.shape == (0, 6, 4, 4) and big.shape == (0, 5, 8, 8) and not gradient.any()


def test_any_memory_order_is_taken(device):
    geometry = ((4, 4), (2, 2), (1, 1), (8, 6))
    big, small, weight, routes = single(problem(np.random.default_rng(4), *geometry, 3, 5, 6, 5))
    xp = device.xp
    wanted = triangle(CudaKernels, geometry, (xp.asarray(big), xp.asarray(small), xp.asarray(weight), routes))
    for order in ((1, 0, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0)):
        back = np.argsort(order)
        b, s = (xp.asarray(np.ascontiguousarray(a.transpose(order))).transpose(*back) for a in (big, small))
        for got, want in zip(triangle(CudaKernels, geometry, (b, s, xp.asarray(weight), routes)), wanted, strict=True):
            np.testing.assert_array_equal(got.get(), want.get())


def test_maps_come_channels_first_so_that_the_next_layer_copies_nothing(device, standin):
    geometry = ((4, 4), (2, 2), (1, 1), (8, 6))
    big, small, weight, _ = (device.put(a) for a in single(problem(np.random.default_rng(4), *geometry, 1, 5, 6, 5)))
    y = CudaKernels.tprelu(CudaKernels.conv(big, weight, (2, 2), (1, 1), None), device.xp.ones(6, np.float32), None)
    assert y.swapaxes(0, 1).flags.c_contiguous
    standin.reset_count()
    CudaKernels.conv_transpose(y, weight, (2, 2), (1, 1), None, (8, 6))
    assert standin.count["launches"] == 2  # a product and col2im


@pytest.mark.parametrize("shape", [(5, 7), (3, 16, 8, 8), (2, 1, 16, 32), (0, 4, 2, 2), (4, 3, 50, 50)])
@pytest.mark.parametrize("translated", [True, False])
def test_tprelu_and_its_derivatives(device, shape, translated):
    rng = np.random.default_rng(8)
    x, g = rng.standard_normal((2, *shape), dtype=np.float32)
    slope = rng.random(shape[1], dtype=np.float32)
    shift = rng.standard_normal(shape[1], dtype=np.float32) if translated else None
    wide = [a if a is None else a.astype(float) for a in (g, x, slope, shift)]
    near(device.tprelu(x, slope, shift), reference.tprelu(*wide[1:]))
    near(device.tprelu_dx(g, x, slope, shift), reference.tprelu_dx(*wide))
    near(device.tprelu_dslope(g, x, shift), reference.tprelu_dslope(wide[0], wide[1], wide[3]), 1e-4)
    near(device.tprelu_below(g, x, shift), reference.tprelu_below(wide[0], wide[1], wide[3]), 1e-4)
    near(device.tprelu_back(g, x, slope, shift), reference.tprelu_back(*wide), 1e-4)
    near(device.channel_sums(x), reference.channel_sums(wide[1]), 1e-4)


@pytest.mark.parametrize("out_axis", [1, 2])
@pytest.mark.parametrize("named", [None, [True, False, True], [False, False, False]])
@pytest.mark.parametrize("channels", [(4, 3), (3, 1), (1, 5), (40, 50)])
def test_weight_normalisation(device, out_axis, named, channels):
    rng = np.random.default_rng(9)
    w, g = rng.standard_normal((2, 3, *channels, 4, 4), dtype=np.float32)
    rows = None if named is None else np.array(named)
    v, n = device.normalize(w, out_axis, 0.25, 1e-6, rows)
    near((v, n), reference.normalize(w.astype(float), out_axis, 0.25, 1e-6, rows))
    near(device.filter_norms(w, out_axis, 0.25, 1e-6, rows), n)
    back = device.normalize_dx(g, w, n, out_axis, 0.25, rows)
    near(back, reference.normalize_dx(g.astype(float), w.astype(float), n.astype(float), out_axis, 0.25, rows))
    if rows is not None:
        assert not v[~rows].any() and not back[~rows].any() and (n[~rows] == 1).all()


@pytest.mark.parametrize("named", [None, [True, False, True], [False, False, False]])
@pytest.mark.parametrize("shape", [(3, 5, 4, 4, 4), (3, 7), (3,), (3, 300, 20)])
def test_optimisers_and_average(device, named, shape):
    rng = np.random.default_rng(11)
    p, m, g = rng.standard_normal((3, *shape), dtype=np.float32)
    v = rng.random(shape, dtype=np.float32)
    rows = None if named is None else np.array(named)

    def both(name, arrays, **options):
        narrow, wide = [a.copy() for a in arrays], [a.astype(float) for a in arrays]
        getattr(device, name)(*narrow, **options)
        getattr(reference, name)(*wide, **options)
        near(tuple(narrow), tuple(wide))
        if rows is not None and "rows" in options:
            for before, after in zip(arrays, narrow, strict=True):
                assert (before[~rows] == after[~rows]).all()

    both("rmsprop", (p, v, g), lr=0.1, alpha=0.9, eps=1e-6, rows=rows)
    for step in (3, np.array([1, 20, 300])):
        both("adam", (p, m, v, g), lr=0.1, beta1=0.5, beta2=0.99, eps=1e-8, step=step, rows=rows)
    both("lerp", (p, g), decay=0.9)


@pytest.mark.parametrize("shape", [(7,), (3, 1, 2), (300,), ()])
def test_sigmoid_and_logistic_loss(device, shape):
    x = np.asarray(20 * np.random.default_rng(16).standard_normal(shape), np.float32)
    near(device.sigmoid(x), np.asarray(reference.sigmoid(x.astype(float))))
    for sign in (1.0, -1.0):
        near(device.logistic_loss(x, sign), np.asarray(reference.logistic_loss(x.astype(float), sign)))
        near(device.logistic_back(np.array(0.7, np.float32), x, sign),
             np.asarray(reference.logistic_back(0.7, x.astype(float), sign)))


@pytest.mark.parametrize("size, stride, shape", [(2, 2, (2, 3, 4, 6)), (3, 1, (1, 2, 5, 4)), (2, 3, (2, 1, 6, 5)),
                                                 (2, 2, (0, 2, 4, 4))])
def test_pooling(device, size, stride, shape):
    rng = np.random.default_rng(17)
    x, wanted = rng.integers(0, 3, shape).astype(np.float32), None
    best, which = (a.get() for a in CudaKernels.max_pool(device.put(x), size, stride))
    wanted = reference.max_pool(x, size, stride)
    np.testing.assert_array_equal(best, wanted[0])
    np.testing.assert_array_equal(which, wanted[1])
    x, g = (rng.standard_normal(s).astype(np.float32) for s in (shape, which.shape))
    on_device = device.xp.asarray(which)
    near(CudaKernels.pool_take(device.put(x), on_device, size, stride).get(),
         reference.pool_take(x, which, size, stride))
    near(CudaKernels.pool_put(device.put(g), on_device, size, stride, shape).get(),
         reference.pool_put(g.astype(float), which, size, stride, shape))
    near(device.mean_unpool(x, size), reference.mean_unpool(x.astype(float), size))
    spread = reference.mean_unpool(x, size) + np.float32(1)
    near(device.mean_pool(spread, size), reference.mean_pool(spread.astype(float), size))


@pytest.mark.parametrize("size", [(3, 9), (5, 6), (12, 2), (1, 1)])
@pytest.mark.parametrize("antialias", [False, True])
def test_resizing(device, size, antialias):
    x = np.random.default_rng(18).standard_normal((2, 3, 5, 6), dtype=np.float32)
    rows, columns = (interpolation_matrix(n, m, antialias) for n, m in zip(x.shape[2:], size, strict=True))
    y = device.resize(x, rows, columns)
    near(y, reference.resize(x.astype(float), rows, columns))
    near(device.resize(y, rows.T, columns.T), reference.resize(y.astype(float), rows.T, columns.T))


def test_products_on_views(xp):
    rng = np.random.default_rng(19)
    a, b = rng.standard_normal((5, 7), dtype=np.float32), rng.standard_normal((7, 9), dtype=np.float32)
    for left in (False, True):
        for right in (False, True):
            wide = [xp.asarray(np.ascontiguousarray(np.pad(m.T if t else m, ((1, 2), (3, 1)))))
                    for m, t in ((a, left), (b, right))]
            inner = [m[1:-2, 3:-1] for m in wide]
            c = xp.zeros((6, 12), np.float32)
            for k in range(2):  # the second time added to the first
                launch.gemm(c[:5, 2:11], *inner, a_transposed=left, b_transposed=right, add=k == 1)
            near(c.get()[:5, 2:11], 2 * (a.astype(float) @ b))
            assert not c.get()[5].any() and not c.get()[:, :2].any() and not c.get()[:, 11:].any()


# ---- layers and training steps -----------------------------------------------------------------------------------

SETTINGS = {"GAN": {"bank": 1}, "SGAN": {"bank": 4}, "tied": {"bank": 4, "tied": True},
            "SGAN without norm": {"bank": 3, "act": "prelu", "norm": "none"},
            "SGAN affine": {"bank": 3, "norm": "affine"},
            "SGAN own affine": {"bank": 3, "norm": "affine", "bank_affine": True, "bank_act": True}}


@pytest.mark.parametrize("optimizer", [Adam, RMSprop])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_step_gives_what_numpys_gives(xp, name, optimizer, capsys):
    config = GANConfig(base_channels=4, latent_dim=8, init_factor=1.0, **SETTINGS[name])
    results = []
    for put in (lambda a: a, xp.asarray):
        players = grown(config, put, optimizer)
        losses, gradients = play(players, 2, put)
        results.append(([t.item() for t in losses], {k: g.numpy() for k, g in gradients[0].items()}))
    (losses, gradients), (device_losses, device_gradients) = results
    assert gradients.keys() == device_gradients.keys() and len(gradients) > 20
    worst = max(np.linalg.norm(device_gradients[k] - gradients[k]) / np.linalg.norm(gradients[k]) for k in gradients)
    apart = max(abs(a / b - 1) for a, b in zip(device_losses[:2], losses[:2], strict=True))
    assert worst < 1e-4 and apart < 1e-4
    assert np.allclose(device_losses, losses, rtol=1e-3, atol=0)  # the second step starts from rounded weights
    with capsys.disabled():
        print(f"\n{name}, {optimizer.__name__}: over the stand-in, losses apart by {apart:.1e}, gradients {worst:.1e}")


SMALL = {"base_channels": 4, "latent_dim": 8, "init_factor": 1.0}
DEFAULT = {"base_channels": 64, "latent_dim": 128}  # what train_mnist.py takes on a GPU
LAUNCHES = {  # (settings, batch, launches of a step at most)
    "GAN": (SMALL | SETTINGS["GAN"], 6, 150), "SGAN": (SMALL | SETTINGS["SGAN"], 6, 190),
    "tied": (SMALL | SETTINGS["tied"], 6, 190), "GAN, a GPU's default sizes": (DEFAULT | {"bank": 1}, 32, 155),
    "SGAN, a GPU's default sizes": (DEFAULT | {"bank": 16}, 32, 305)}


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_step_never_waits_and_launches_little(standin, name, capsys):
    from standin import host_blas

    settings, batch, most = LAUNCHES[name]

    def begin(step):
        standin.reset_count()
        host_blas.calls.clear()

    play(grown(GANConfig(**settings), standin.module.asarray, RMSprop), 2, standin.module.asarray, batch, begin)
    assert standin.count["syncs"] == 0
    assert 100 < standin.count["launches"] <= most
    with capsys.disabled():
        print(f"\n{name}: {standin.count['launches']} launches, {len(host_blas.calls)} of them products, "
              f"{standin.count['syncs']} waits, {standin.count['uploads']} uploads of {standin.count['bytes_up']:,} "
              "bytes in a step")


def test_a_hidden_wait_would_be_counted(standin):
    x = Tensor(standin.module.ones(3, np.float32), requires_grad=True)
    standin.reset_count()
    loss = (x * 2.0).sum()
    assert standin.count["syncs"] == 0
    assert loss.item() == 6.0 and standin.count["syncs"] == 1


def test_same_seed_same_bits(xp):
    config = GANConfig(base_channels=4, latent_dim=8, bank=4)
    runs = []
    for _ in range(2):
        players = grown(config, xp.asarray)
        play(players, 2, xp.asarray)
        runs.append(players[0].state_dict())
    assert all(runs[0][name].tobytes() == runs[1][name].tobytes() for name in runs[0])


def test_gradients_of_leaves_are_nobody_elses(xp):
    """Slope and shift get views of one array: each may be changed without the other."""
    x, slope, shift = (Tensor(xp.asarray(a), requires_grad=True) for a in
                       np.random.default_rng(20).standard_normal((3, 2, 4)).astype(np.float32))
    y = tprelu(x, slope[0], shift[0])
    (y + x).sum().backward()
    before = shift.grad.numpy().copy()
    slope.grad.data[...] = 5.0
    x.grad.data[...] = 7.0
    np.testing.assert_array_equal(shift.grad.numpy(), before)


def test_backward_twice_through_one_graph_adds_the_same_again(xp):
    x, slope, shift = (Tensor(xp.asarray(a), requires_grad=True) for a in
                       np.random.default_rng(22).standard_normal((3, 4)).astype(np.float32))
    seed = Tensor(xp.asarray(np.random.default_rng(23).standard_normal((2, 4), dtype=np.float32)))
    pair = x.reshape(1, 4) * Tensor(xp.asarray(np.array([[1.0], [2.0]], np.float32)))
    y = tprelu(pair, slope, shift)
    y.backward(seed)
    once = [p.grad.numpy().copy() for p in (x, slope, shift)]
    y.backward(seed)
    for p, first in zip((x, slope, shift), once, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), 2 * first)


def test_an_optimiser_takes_gradients_of_any_memory_order(xp):
    """A linear layer's comes as a broadcast or permuted view."""
    rows = np.arange(3, dtype=np.float32)
    x, states = np.random.default_rng(1).standard_normal((4, 5), dtype=np.float32), []
    for put in (xp.asarray, np.asarray):
        net = Linear(5, 3, rng=np.random.default_rng(0)).to(put)
        optimizer = RMSprop(net.named_parameters(), lr=0.1)
        for _ in range(2):
            net.zero_grad()
            (net(Tensor(put(x))).sum(axis=0) * Tensor(put(rows))).sum().backward()
            optimizer.step()
        states.append(net.state_dict())
    for name, array in states[1].items():
        np.testing.assert_allclose(states[0][name], array, rtol=1e-5, atol=1e-6)


def test_no_two_threads_add_to_one_place(xp, monkeypatch):
    """Sets with their own scale, bias and slopes: samples of one route meet, and must be added in a fixed order."""
    class Add:
        def __call__(self, *args, **options):
            return real(*args, **options)

        def at(self, *args):
            raise AssertionError("cupy.add.at adds in any order")

    real = xp.add
    monkeypatch.setattr(xp, "add", Add(), raising=False)
    config, runs = GANConfig(base_channels=4, latent_dim=8, **SETTINGS["SGAN own affine"]), []
    for _ in range(2):
        players = grown(config, xp.asarray)
        play(players, 2, xp.asarray)
        runs.append(players[0].state_dict())
    assert all(runs[0][name].tobytes() == runs[1][name].tobytes() for name in runs[0])


def test_the_sign_of_zero_is_kept(xp):
    one = Tensor(xp.ones(1, np.float32))
    with np.errstate(divide="ignore"):
        assert (one / 0.0).item() == np.inf and (one / -0.0).item() == -np.inf
    for zero in (np.array(-0.0, np.float32), np.float32(-0.0), np.full(2, -0.0, np.float32)):
        sent = Device("gpu", xp, "").put(zero)
        assert sent.dtype == np.float32 and sent.shape == zero.shape and np.signbit(sent.get()).all()
        assert Device("gpu", xp, "").put(sent) is sent


def test_second_derivatives_work_on_the_device(xp):
    """A gradient penalty: the fused backward kernel stands aside for rules that can be differentiated again."""
    rng, results = np.random.default_rng(21), []
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((3, 2, 6, 6), (2, 2, 4, 4, 4), (4,), (4,))]
    for put in (np.array, xp.asarray):
        x, w, a, t = (Tensor(put(v), requires_grad=True) for v in arrays)
        from tinygan.conv import conv_transpose2d
        y = tprelu(conv_transpose2d(x, w, stride=2, padding=1, routes=[1, 0, 1]), a, t)
        (dx,) = grad((y * y).sum(), [x], create_graph=True)
        results.append([g.numpy() for g in grad((dx * dx).sum(), [x, w, a, t])])
    for got, wanted in zip(results[1], results[0], strict=True):
        assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


# ---- what the host refuses -----------------------------------------------------------------------------------------


def test_wrong_launches_are_refused_before_they_start(xp):
    x, y = xp.zeros(8, np.float32), xp.zeros(8, np.float32)
    good = (x, y, 8)
    launch.launch("sigmoid", 1, *good)
    for args, kind, words in (((x, y), TypeError, "takes 3 arguments, not 2"),
                              ((x, xp.zeros(8, np.float64), 8), TypeError, "dense array of float32"),
                              ((x[::2], y, 4), TypeError, "strides"), ((x, y, 2**31), ValueError, "int32")):
        with pytest.raises(kind, match=words):
            launch.launch("sigmoid", 1, *args)
    for grid in (0, 2**31, (1, 65_536)):
        with pytest.raises(ValueError, match="cannot be launched"):
            launch.launch("sigmoid", grid, *good)
    with pytest.raises(ValueError, match="more than a kernel can count"):
        launch.blocks_for(2**31 - 5)
    assert launch.blocks_for(2**31 - 2**21) == launch.MAX_BLOCKS


def test_wrong_products_are_refused(xp):
    a, b, c = xp.zeros((2, 3), np.float32), xp.zeros((3, 4), np.float32), xp.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match="does not give"):
        launch.gemm(c, a, b, a_transposed=True)
    with pytest.raises(TypeError, match="dense rows"):
        launch.gemm(c, a, xp.zeros((3, 8), np.float32)[:, ::2])
    with pytest.raises(TypeError, match="float32"):
        launch.gemm(c, a, b.astype(np.float64))


def test_tf32_is_off_until_it_is_asked_for(standin):
    from standin import host_blas

    xp = standin.module
    assert not launch.get_tf32()
    arrays = [xp.zeros((2, 2), np.float32) for _ in range(3)]
    try:
        for on, mode in ((False, 68), (True, 77)):  # CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32
            launch.set_tf32(on)
            launch.gemm(*arrays)
            assert host_blas.calls[-1][-1] == mode
    finally:
        launch.set_tf32(False)


def test_float64_takes_the_kernels_for_any_array(xp):
    assert type(for_array(xp.zeros(1, np.float64))) is Kernels
    assert type(for_array(xp.zeros(1, np.float32))) is CudaKernels


@pytest.mark.parametrize("name, more", [("bits", ()), ("uniform", ()), ("normal", ()), ("integers", (10,))])
def test_random_numbers_are_those_of_the_host(xp, name, more):
    for n in (0, 1, 1030):
        drawn = getattr(CudaKernels(), f"counter_{name}")(7, 2**33 + 1, n, *more)
        wanted = getattr(counter, name)(7, 2**33 + 1, n, *more)
        assert drawn.get().tobytes() == wanted.tobytes() and drawn.dtype == wanted.dtype
    with pytest.raises(ValueError, match="cannot draw"):
        getattr(CudaKernels(), f"counter_{name}")(7, 0, -1, *more)
