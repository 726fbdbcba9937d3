"""Views: the affine map against its definition and its transpose, and the classifier's inputs."""

import dataclasses

import numpy as np
import pytest

import tinygan.ops.affine
from tinygan import Tensor, check_grads, grad
from tinygan.errors import GraphError, UsageError
from tinygan.kernels import reference, threads
from tinygan.kernels.base import Kernels
from tinygan.kernels.cpu import CpuKernels
from tinygan.kernels.gpu import CudaKernels
from tinygan.kernels.gpu.warp import inverse
from tinygan.models.gpan.views import ViewSettings, apply_views, draw_views, held_out, plain_view, scale_ranges
from tinygan.ops.affine import blur, warp

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
ALL_ON = ViewSettings(per_image=2, blur=1.0)
QUIET = ViewSettings(noise=0.0)


@pytest.fixture(autouse=True)
def one_thread():
    """Tests that want more threads ask for them; none leaves them behind."""
    yield
    if threads.get_threads() > 1:
        threads.set_threads(1)


def random_problem(seed, dtype=float):
    """x, g, matrices, sources: nearer and farther views, turned, mirrored, some far outside, some of one point."""
    rng = np.random.default_rng(seed)
    n, c, views = (int(k) for k in rng.integers(1, 4, 3))
    limits, size = ([int(k) for k in rng.integers(1, 9, 2)] for _ in range(2))
    matrices = rng.standard_normal((views, 2, 3)) * [1, 1, 4] * rng.choice([0.1, 1.0, 3.0])
    kind = seed % 6
    if kind == 0:
        matrices[0, :, :2] = 0.0
    elif kind == 1:
        matrices[0, 1] = 2 * matrices[0, 0]
    elif kind == 2:
        matrices[:, :, 2] += 1e4
    elif kind == 3:
        matrices = np.round(matrices)
    sources = rng.integers(0, n, views)
    x, g = rng.standard_normal((n, c, *limits)), rng.standard_normal((views, c, *size))
    return x.astype(dtype), g.astype(dtype), matrices, sources


def images(n=2, side=12, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3, side, side)).astype(dtype)


def draw(settings, n=2, side=12, view=10, seed=3):
    return draw_views(np.random.default_rng(seed), n, settings, side, side, view)


# ---- kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [CpuKernels(), Kernels()])
def test_views_and_their_transpose_equal_the_loops(module):
    for seed in range(60):
        x, g, matrices, sources = random_problem(seed)
        for got, wanted in (
                (module.warp(x, matrices, sources, g.shape[2:]), reference.warp(x, matrices, sources, g.shape[2:])),
                (module.warp_back(g, matrices, sources, x.shape), reference.warp_back(g, matrices, sources, x.shape))):
            assert got.shape == wanted.shape and got.dtype == wanted.dtype
            np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("module", [CpuKernels(), Kernels(), reference])
def test_the_two_maps_are_adjoint(module):
    for seed in range(40):
        x, g, matrices, sources = random_problem(seed)
        y, back = module.warp(x, matrices, sources, g.shape[2:]), module.warp_back(g, matrices, sources, x.shape)
        scale = np.linalg.norm(y) * np.linalg.norm(g) + 1e-300
        assert abs(np.vdot(y, g) - np.vdot(x, back)) <= 1e-10 * scale


def test_a_wrong_transpose_would_be_noticed():
    """The transpose of another view is not adjoint: the identity above can fail."""
    x, g, matrices, sources = random_problem(5)
    y = CpuKernels.warp(x, matrices, sources, g.shape[2:])
    back = CpuKernels.warp_back(g, matrices + 0.01, sources, x.shape)
    assert abs(np.vdot(y, g) - np.vdot(x, back)) > 1e-6


def test_a_view_is_cut_into_jobs_without_a_seam(monkeypatch):
    x, g, matrices, sources = random_problem(4)
    wanted = CpuKernels.warp(x, matrices, sources, (9, 5))
    monkeypatch.setattr("tinygan.kernels.cpu.warp.JOB_PIXELS", 10)
    np.testing.assert_array_equal(CpuKernels.warp(x, matrices, sources, (9, 5)), wanted)


def test_the_same_bits_with_any_number_of_threads():
    pytest.importorskip("threadpoolctl")
    x, results = images(3, 64), []
    for count in (1, 2, 3):
        threads.set_threads(count)
        tensor = Tensor(x, requires_grad=True)
        y = apply_views(tensor, draw(ALL_ON, 3, 64, 96))
        assert y.size >= threads.BLOCK  # large enough to be shared out
        seed = np.random.default_rng(7).standard_normal(y.shape, dtype=np.float32)
        results.append((y.data.tobytes(), grad(y, [tensor], seed=seed)[0].data.tobytes()))
    assert results[0] == results[1] == results[2]


def test_memory_order_changes_nothing_and_inputs_stay_as_they_are():
    x, g, matrices, sources = random_problem(11)
    wanted = CpuKernels.warp(x, matrices, sources, (6, 7)), CpuKernels.warp_back(g, matrices, sources, x.shape)
    for order in ((0, 2, 3, 1), (3, 2, 1, 0)):
        a, b = (np.ascontiguousarray(v.transpose(order)).transpose(*np.argsort(order)) for v in (x, g))
        a.flags.writeable = b.flags.writeable = False
        np.testing.assert_array_equal(CpuKernels.warp(a, matrices, sources, (6, 7)), wanted[0])
        np.testing.assert_array_equal(CpuKernels.warp_back(b, matrices, sources, x.shape), wanted[1])


@pytest.mark.kernels
def test_the_device_gives_what_the_loops_give(xp):
    for seed in range(60):
        x, g, matrices, sources = random_problem(seed, np.float32)
        for name, array, shape in (("warp", x, g.shape[2:]), ("warp_back", g, x.shape)):
            got = getattr(CudaKernels, name)(xp.asarray(array), matrices, sources, shape).get()
            wanted = getattr(reference, name)(array, matrices, sources, shape)
            assert got.dtype == np.float32 and got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * (1 + np.abs(wanted).max(initial=0.0)))


@pytest.mark.kernels
def test_the_device_takes_float64_through_the_kernels_for_any_array(xp):
    x, g, matrices, sources = random_problem(9)
    tensor = Tensor(xp.asarray(x), requires_grad=True)
    y = warp(tensor, matrices, g.shape[2:], sources)
    np.testing.assert_allclose(y.numpy(), reference.warp(x, matrices, sources, g.shape[2:]), rtol=1e-10, atol=1e-12)
    back = grad(y, [tensor], seed=xp.asarray(g))[0].numpy()
    np.testing.assert_allclose(back, reference.warp_back(g, matrices, sources, x.shape), rtol=1e-10, atol=1e-12)


def test_the_inverse_misses_no_pixel_that_matters():
    """Whatever the matrix, each pixel with a weight lies in the rows that the device searches."""
    for seed in range(60):
        x, g, matrices, sources = random_problem(seed, np.float32)
        table = inverse(matrices.astype(np.float32), g.shape[2:], x.shape[2:])
        assert np.isfinite(table).all() and (table[:, 3] >= 1).all()
        for m, i, _, _, y, column, weight in reference._views(matrices, sources, g.shape[2:], x.shape[2:], np.float32):
            p, q, s, reach, _ = table[m]
            assert weight == 0 or abs(p * y + q * column + s - i) <= reach


def test_the_inverse_leaves_few_rows_to_search_unless_there_is_none():
    half, point = (np.array([IDENTITY * k], np.float32) for k in (0.5, 0.0))
    p, q, s, reach, _ = inverse(half, (100, 100), (50, 50))[0]
    assert (p, q, s) == (2, 0, 0) and 3 <= reach < 3.01  # (Y, X) is seen by rows 2 Y - 1 to 2 Y + 1
    assert inverse(point, (100, 100), (50, 50))[0, 3] == 100  # all of them


# ---- the operation -----------------------------------------------------------------------------------------------


def test_gradients_of_first_and_second_order():
    for seed in (0, 1, 3, 5):
        x, g, matrices, sources = random_problem(seed)
        assert check_grads(lambda t, m=matrices, s=sources, h=g.shape[2:]: warp(t, m, h, s), [x], order=2) < 1e-6
    views = draw_views(np.random.default_rng(1), 2, ALL_ON, 6, 5, 4)
    x = images(2, 6, dtype=float)[:, :, :, :5]
    assert check_grads(lambda t: apply_views(t, views) ** 2, [x], order=2) < 1e-6
    large = draw_views(np.random.default_rng(1), 1, QUIET, 24, 24, 4)
    assert check_grads(lambda t: apply_views(t, large) ** 2, [images(1, 24, dtype=float)], order=2) < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_moves_are_exact(dtype):
    x = images(1, 9, dtype=dtype)

    def view(matrix):
        return warp(Tensor(x), np.array([matrix]), (9, 9)).data

    np.testing.assert_array_equal(view(IDENTITY), x)
    moved = np.zeros_like(x)
    moved[:, :, :7, 1:] = x[:, :, 2:, :8]
    np.testing.assert_array_equal(view([[1, 0, 2], [0, 1, -1]]), moved)
    np.testing.assert_array_equal(view([[1, 0, 0], [0, -1, 8]]), x[:, :, :, ::-1])
    np.testing.assert_array_equal(view([[-1, 0, 8], [0, 1, 0]]), x[:, :, ::-1])
    np.testing.assert_array_equal(view([[0, 1, 0], [1, 0, 0]]), x.transpose(0, 1, 3, 2))
    half = view([[1, 0, 0], [0, 1, 0.5]])
    np.testing.assert_allclose(half[..., :8], (x[..., :8] + x[..., 1:]) / 2, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(half[..., 8], x[..., 8] / 2, rtol=1e-6)


def test_views_name_their_images():
    x = images(3, 5)
    y = warp(Tensor(x), np.stack([IDENTITY] * 4), (5, 5), [2, 0, 2, 1])
    np.testing.assert_array_equal(y.data, x[[2, 0, 2, 1]])


@pytest.mark.parametrize("call, words", [
    (lambda x: warp(x, np.zeros((2, 3)), (4, 4)), "matrices"),
    (lambda x: warp(x[0], np.zeros((1, 2, 3)), (4, 4)), "N, C"),
    (lambda x: warp(x, np.zeros((1, 2, 3)), (0, 4)), "size"),
    (lambda x: warp(x, np.zeros((3, 2, 3)), (4, 4)), "source"),
    (lambda x: warp(x, np.zeros((1, 2, 3)), (4, 4), [2]), "source"),
    (lambda x: warp(x, np.zeros((1, 2, 3)), (4, 4), [0, 1]), "source"),
    (lambda x: warp(x, np.full((1, 2, 3), np.nan), (4, 4)), "numbers of at most"),
    (lambda x: warp(x, np.full((1, 2, 3), 1e7), (4, 4)), "numbers of at most"),
    (lambda x: apply_views(x, draw(QUIET, 3)), "drawn for 3 images"),
    (lambda x: apply_views(x, draw(QUIET, 2, 11)), "drawn for"),
])
def test_what_does_not_fit_is_refused_in_one_line(call, words):
    with pytest.raises(GraphError, match=words) as problem:
        call(Tensor(images()))
    assert "\n" not in str(problem.value) and len(str(problem.value)) < 250


@pytest.mark.parametrize("wrong", [{"scale": (0.9, 0.5)}, {"scale": (0.0, 1.0)}, {"contrast": (-1, 1)}, {"blur": 1.5},
                                   {"rotation": 4.0}, {"shift": -0.1}, {"noise": np.nan}, {"per_image": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ViewSettings(**wrong)


# ---- draws and resampling ----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_views():
    x = Tensor(images())
    first, again, other = (apply_views(x, draw(ALL_ON, seed=seed)).data for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3)).all()
    assert first.shape == (4, 3, 10, 10)
    np.testing.assert_array_equal(apply_views(x, draw(ALL_ON)).data, first)  # apply_views draws nothing


def test_view_v_of_image_i_is_row_v_n_plus_i():
    views = draw(dataclasses.replace(QUIET, per_image=3), 2)
    assert views.sources.tolist() == [0, 1, 0, 1, 0, 1] and len(views) == 6
    x = images()
    x[0] = 1.0
    y = apply_views(Tensor(x), views).data
    assert (y[::2] == 1).all() and (y[1::2] != 1).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("settings", [QUIET, dataclasses.replace(QUIET, blur=1.0), dataclasses.replace(QUIET, blur=0.0),
                                      held_out(ViewSettings()), ViewSettings(enabled=False)])
@pytest.mark.parametrize("side, view", [(12, 10), (5, 16), (64, 8), (1, 1)])
def test_white_stays_white(settings, side, view):
    for seed in range(5):
        y = apply_views(Tensor(np.ones((2, 3, side, side), np.float32)), draw(settings, 2, side, view, seed))
        assert y.shape[2:] == (view, view)
        np.testing.assert_allclose(y.data, 1.0, rtol=0, atol=1e-6)


def test_views_show_what_affine_maps_of_the_unit_square_show():
    """Each pixel against the map in coordinates from -1 to 1 over the image, for an image that is linear in both."""
    settings = dataclasses.replace(QUIET, scale=(0.3, 0.5), shift=0.2, blur=0.0, contrast=(1.0, 1.0))
    side, view = 24, 9
    v, u = (np.indices((side, side)) + 0.5) * 2 / side - 1
    ramp = np.stack([u, v, 0 * u])[None].repeat(8, 0)
    y = apply_views(Tensor(ramp), draw(settings, 8, side, view)).data
    rng = np.random.default_rng(3)
    scale, turn = rng.uniform(0.3, 0.5, 8), rng.uniform(-settings.rotation, settings.rotation, 8)
    down, right = rng.uniform(-0.2, 0.2, (8, 2)).T
    mirror = np.where(rng.random(8) < 0.5, -1, 1)
    assert len(set(mirror)) == 2
    i, j = (np.indices((view, view)) + 0.5) * 2 / view - 1
    for n in range(8):
        a, b = scale[n] * np.cos(turn[n]), scale[n] * np.sin(turn[n])
        np.testing.assert_allclose(y[n, 0], a * mirror[n] * j - b * i + right[n], atol=1e-12)
        np.testing.assert_allclose(y[n, 1], b * mirror[n] * j + a * i + down[n], atol=1e-12)


def test_blur_contrast_and_noise_do_what_they_say():
    plain = dataclasses.replace(QUIET, scale=(1.0, 1.0), rotation=0.0, shift=0.0, flip=False, blur=0.0, contrast=(1, 1))
    x = images(2, 10, dtype=float)

    def view(**changes):
        return apply_views(Tensor(x), draw(dataclasses.replace(plain, **changes), 2, 10, 10)).data

    np.testing.assert_allclose(view(), x, atol=1e-12)
    np.testing.assert_allclose(view(blur=1.0), blur(Tensor(x)).data, atol=1e-12)
    np.testing.assert_allclose(view(contrast=(0.5, 0.5)), 1 + (x - 1) / 2, atol=1e-12)
    noise = view(noise=0.25, per_image=50) - np.tile(x, (50, 1, 1, 1))
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 0.25) < 0.01
    assert abs(np.corrcoef(noise.reshape(100, -1))[0, 1:]).max() < 0.3  # no two views have the same
    mirrored = view(flip=True, per_image=20)
    straight = [np.allclose(row, x[m % 2]) for m, row in enumerate(mirrored)]
    assert 5 < sum(straight) < 35
    assert all(ok or np.allclose(mirrored[m], x[m % 2, :, :, ::-1]) for m, ok in enumerate(straight))


def test_some_views_are_blurred_and_others_not():
    views = draw(dataclasses.replace(QUIET, per_image=20), 2)
    assert 5 < views.blurred.sum() < 35
    x = Tensor(images())
    y, sharp = apply_views(x, views).data, apply_views(x, dataclasses.replace(views, blurred=np.zeros(40, bool))).data
    assert ((y != sharp).any(axis=(1, 2, 3)) == views.blurred).all()


@pytest.mark.parametrize("side, view", [(12, 10), (16, 40), (96, 8), (90, 8), (97, 8)])
def test_every_pixel_of_a_view_gets_a_gradient(side, view):
    """Also where the image is much larger than the view: shrinking skips nothing."""
    settings = dataclasses.replace(QUIET, scale=(1.0, 1.1), rotation=0.2, shift=0.0, blur=0.0)
    for seed in range(6):
        tensor = Tensor(images(1, side), requires_grad=True)
        y = apply_views(tensor, draw(settings, 1, side, view, seed))
        reached = grad(y, [tensor], seed=np.ones(y.shape, np.float32))[0].data[0, 0] > 0
        middle = slice(side // 8, side - side // 8)
        assert reached[middle, middle].all()


def test_large_images_are_shrunk_and_small_ones_are_not():
    for side, scale, view, wanted in ((1024, 1.1, 224, 407), (128, 1.1, 224, 128), (448, 1.0, 224, 448),
                                      (896, 1.0, 224, 448)):
        settings = dataclasses.replace(QUIET, scale=(0.5, scale))
        assert draw_views(np.random.default_rng(0), 1, settings, side, side, view).size == (wanted, wanted)
    assert draw_views(np.random.default_rng(0), 1, QUIET, 500, 1000, 224).size == (203, 407)


def test_checkerboards_vanish_from_large_images():
    """A pattern of single pixels averages to grey when the image is shrunk; skipping pixels would show stripes."""
    board = np.indices((96, 96)).sum(axis=0) % 2 * 2.0 - 1.0
    inside = dataclasses.replace(QUIET, scale=(0.8, 0.9), shift=0.0, rotation=0.0, contrast=(1, 1))
    y = apply_views(Tensor(np.broadcast_to(board, (2, 3, 96, 96)).copy()), draw(inside, 2, 96, 12)).data
    assert np.abs(y).max() < 0.3 and np.abs(plain_view(Tensor(board[None, None]), 12).data).max() < 0.1


def test_whole_images_and_views_switched_off():
    x = Tensor(images(2, 10))
    assert plain_view(x, 10) is x and plain_view(x, 4).shape == (2, 3, 4, 4)
    off = draw(ViewSettings(per_image=3, enabled=False), 2, 10, 4)
    assert len(off) == 2
    np.testing.assert_array_equal(apply_views(x, off).data, plain_view(x, 4).data)


def test_held_out_settings_are_others_and_can_be_chosen():
    trained = ViewSettings(per_image=4, enabled=False)
    measured = held_out(trained, scale=(0.6, 0.9))
    assert measured.scale == (0.6, 0.9) and measured.noise == 0.0 and measured.enabled and measured.per_image == 4
    assert measured.rotation != trained.rotation
    x = Tensor(images())
    np.testing.assert_array_equal(apply_views(x, draw(measured)).data, apply_views(x, draw(measured)).data)
    with pytest.raises(UsageError, match="scale"):
        held_out(trained, scale=(2.0, 1.0))


def test_ranges_are_scaled_towards_the_plain_image():
    settings = dataclasses.replace(ALL_ON, coarse=(0.5, 1.0))
    assert scale_ranges(settings, 1) is settings
    half, plain = scale_ranges(settings, 0.5), scale_ranges(settings, 0)
    assert half.scale == pytest.approx((0.725, 1.05)) and half.coarse == (0.75, 1.0) and half.noise == 0.04
    assert plain.scale == plain.contrast == plain.coarse == (1, 1) and plain.rotation == plain.shift == plain.blur == 0
    with pytest.raises(UsageError, match="share"):
        scale_ranges(settings, 1.5)


def test_no_images_and_float32():
    assert apply_views(Tensor(np.zeros((0, 3, 12, 12), np.float32)), draw(QUIET, 0)).shape == (0, 3, 10, 10)
    for side in (12, 90):
        tensor = Tensor(images(2, side), requires_grad=True)
        y = apply_views(tensor, draw(ALL_ON, 2, side))
        gradient = grad(y, [tensor], seed=np.ones(y.shape, np.float32))[0]
        assert y.dtype == gradient.dtype == plain_view(tensor, 5).dtype == np.float32
        assert gradient.shape == tensor.shape


# ---- other devices -----------------------------------------------------------------------------------------------


def resampled(x, views):
    tensor = Tensor(x, requires_grad=True)
    y = apply_views(tensor, views)
    seed = np.random.default_rng(7).standard_normal(y.shape).astype(np.float32)
    return y.numpy(), grad(y, [tensor], seed=y.xp.asarray(seed))[0].numpy()


@pytest.mark.kernels
@pytest.mark.parametrize("settings", [ALL_ON, QUIET, ViewSettings(enabled=False)])
@pytest.mark.parametrize("side", [12, 50])
def test_a_device_computes_what_the_host_computes(xp, settings, side):
    x, views = images(2, side), draw(settings, 2, side)
    for got, wanted in zip(resampled(xp.asarray(x), views), resampled(x, views), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * (1 + np.abs(wanted).max()))
    again = [resampled(xp.asarray(x), views) for _ in range(2)]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*again, strict=True))


@pytest.mark.kernels
def test_views_never_wait_for_the_device(standin):
    tensor = Tensor(standin.module.asarray(images()), requires_grad=True)
    views = draw(ALL_ON)
    standin.reset_count()
    y = apply_views(tensor, views)
    grad(y, [tensor], seed=standin.module.ones(y.shape, np.float32))
    assert standin.count["syncs"] == 0 and standin.count["launches"] < 60


def test_the_kernels_for_any_array_give_the_same(monkeypatch):
    x, views = images(2, dtype=float), draw(ALL_ON)
    wanted = apply_views(Tensor(x), views).data
    monkeypatch.setattr(tinygan.ops.affine, "for_array", lambda array: Kernels())
    np.testing.assert_allclose(apply_views(Tensor(x), views).data, wanted, atol=1e-12)
