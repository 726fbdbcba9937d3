"""The GPU's code path without a GPU: wrappers, layers and whole training steps over a strict stand-in for CuPy whose
kernels run on the processor and whose cuBLAS is NumPy's. Same numbers as the NumPy path, no waiting, few launches.
"""

from __future__ import annotations

import numpy as np
import pytest
from game import grown, play
from test_kernels import Tried, check_triangle, problem, random_problem

from tinygan import Tensor, grad
from tinygan.app.device import Device
from tinygan.kernels import counter, for_array, reference
from tinygan.kernels.base import Kernels
from tinygan.kernels.gpu import CudaKernels, conv, launch, routes
from tinygan.models.gan.nets import GANConfig
from tinygan.nn.layers import Linear
from tinygan.nn.optim import Adam, RMSprop
from tinygan.ops.fused import tprelu

pytestmark = pytest.mark.kernels
TOLERANCE = 1e-5


@pytest.fixture
def device(xp):
    return Tried(CudaKernels(), xp)


def near(got, wanted, tolerance=TOLERANCE):
    got, wanted = (x if isinstance(x, tuple) else (x,) for x in (got, wanted))
    for a, b in zip(got, wanted, strict=True):
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


# ---- wrappers ----------------------------------------------------------------------------------------------------


def test_triangle_cut_into_the_smallest_chunks(device, monkeypatch):
    """One sample's columns at a time: what very large images do."""
    monkeypatch.setattr(conv, "COLUMNS", 1)
    for seed in range(40):
        check_triangle(device, *random_problem(seed))
    monkeypatch.setattr(conv, "COLUMNS", 2000)
    for seed in range(40):
        check_triangle(device, *random_problem(seed))


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


# ---- routes ------------------------------------------------------------------------------------------------------

ROUTES = {"drawn": [2, 0, 3, 0, 2, 2], "sorted": [0, 0, 1, 2, 3, 3], "one set": [1] * 6, "turned": [3, 3, 2, 1, 1, 0]}


def host_plan(plan):
    return [part.get().tolist() for part in plan]


def test_a_plan_is_uploaded_once_and_the_device_makes_the_same(standin):
    xp = standin.module
    matrix = np.array(list(ROUTES.values()), np.int32)
    orders, starts, used = xp.empty((4, 6), np.int32), xp.empty((4, 5), np.int32), xp.empty((4, 4), np.uint8)
    routes.plan_all(xp.asarray(matrix), orders, starts, used)
    for layer, line in enumerate(matrix.astype(np.int64)):
        standin.reset_count()
        plan = routes.plan_of(xp, 0, line, 4)
        assert routes.plan_of(xp, 0, line.copy(), 4) is plan and standin.count["uploads"] == 1
        assert host_plan(plan) == host_plan((orders[layer], starts[layer], used[layer]))
        assert routes.plan_of(xp, 0, line, 6).starts.shape == (7,)
    assert host_plan(routes.plan_of(xp, 0, np.array([], np.int64), 2)) == [[], [0, 0, 0], [0, 0]]


@pytest.fixture
def launched(monkeypatch):
    """Every launch of the routes' wrappers: name, grid and numbers."""
    seen = []

    def note(name, grid, *args):
        seen.append((name, grid, *(arg for arg in args if isinstance(arg, int))))
        launch.launch(name, grid, *args)

    monkeypatch.setattr(routes, "launch", note)
    monkeypatch.setattr(conv, "launch", note)
    return seen


@pytest.mark.parametrize("size, kernel", [((8, 6), 4), ((1, 1), 1)])
def test_the_same_is_launched_whatever_the_routes_are(device, launched, size, kernel):
    """So a graph of launches that was captured with some routes is right for all."""
    geometry = ((kernel, kernel), (2, 2), (1, 1), size) if kernel > 1 else ((1, 1), (1, 1), (0, 0), size)
    runs = []
    for line in ROUTES.values():
        big, small, weight, _ = single(problem(np.random.default_rng(4), *geometry, 4, 6, 6, 5))
        launched.clear()
        triangle(device, geometry, (big, small, weight, np.array(line)))
        runs.append(launched.copy())
    assert len(runs[0]) >= 3 and all(run == runs[0] for run in runs)


def test_a_resident_plan_stands_for_its_routes(device, monkeypatch):
    """The device has the routes, the host a placeholder."""
    geometry, xp = ((4, 4), (2, 2), (1, 1), (8, 6)), device.xp
    big, small, weight, _ = single(problem(np.random.default_rng(4), *geometry, 4, 6, 6, 5))
    held = np.zeros(6, np.int64)
    plan = routes.Plan(xp.empty(6, np.int32), xp.empty(5, np.int32), xp.empty(4, np.uint8))
    monkeypatch.setitem(routes.RESIDENT, id(held), plan)
    arrays = [xp.asarray(a) for a in (big, small, weight)]
    for line in ROUTES.values():
        routes.plan_all(xp.asarray(np.array([line], np.int32)), *(part[None] for part in plan))
        got = triangle(CudaKernels, geometry, (*arrays, held))
        wanted = triangle(CudaKernels, geometry, (*arrays, np.array(line)))
        assert all(a.get().tobytes() == b.get().tobytes() for a, b in zip(got, wanted, strict=True))


def test_long_sums_are_cut_into_parts_and_tf32_has_kernels_of_its_own(device, launched):
    """Few tiles and a deep sum: several blocks add up a part each."""
    geometry = ((4, 4), (2, 2), (1, 1), (16, 16))
    arrays = single(problem(np.random.default_rng(4), *geometry, 2, 12, 20, 130))
    wanted = triangle(reference, geometry, [a if a.dtype.kind == "i" else a.astype(float) for a in arrays])
    try:
        for on, tolerance in ((False, TOLERANCE), (True, 2e-3)):
            launch.set_tf32(on)
            launched.clear()
            near(triangle(device, geometry, arrays), wanted, tolerance)
            names = [name for name, *_ in launched]
            assert names.count("add_parts") == 2  # forward and in the gradient: 2080 and 192 deep, backward 20
            assert names.count("routed_product" + "_tf32" * on) == 2
            assert names.count("routed_gradient" + "_tf32" * on) == 1
    finally:
        launch.set_tf32(False)


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
PAPER = {"base_channels": 64, "latent_dim": 128}  # train_mnist.py --preset paper
LAUNCHES = {  # (settings, batch, launches of a step at most)
    "GAN": (SMALL | SETTINGS["GAN"], 6, 107), "SGAN": (SMALL | SETTINGS["SGAN"], 6, 107),
    "tied": (SMALL | SETTINGS["tied"], 6, 107), "GAN, the paper's sizes": (PAPER | {"bank": 1}, 32, 108),
    "SGAN, the paper's sizes": (PAPER | {"bank": 16}, 32, 110)}


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_step_never_waits_and_launches_little(standin, name, capsys):
    from standin import host_blas

    settings, batch, most = LAUNCHES[name]

    def begin(step):
        standin.reset_count()
        host_blas.calls.clear()

    play(grown(GANConfig(**settings), standin.module.asarray, RMSprop), 2, standin.module.asarray, batch, begin)
    assert standin.count["syncs"] == 0
    assert 50 < standin.count["launches"] <= most
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
        from tinygan.ops.conv import conv_transpose2d
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
