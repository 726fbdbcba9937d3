"""Pictures, opened again and looked at pixel by pixel."""

import os

import numpy as np
import pytest

from tinygan.app import curves, pictures
from tinygan.errors import TinyganError, UsageError

Image = pytest.importorskip("PIL.Image")


def flat(levels, channels=1, height=4, width=6):
    """One evenly grey (or coloured) image per level."""
    levels = np.asarray(levels, np.float32).reshape(len(levels), -1, 1, 1)
    return np.broadcast_to(levels, (len(levels), channels, height, width))


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image)


# --- numbers to pixels ---


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (0, 0),
        (1, 255),
        (0.5, 128),
        (1 / 255, 1),
        (-3, 0),
        (7, 255),
        (np.inf, 255),
        (-np.inf, 0),
        (np.nan, 128),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_to_grey_level(value, level, dtype):
    with np.errstate(all="raise"):
        assert pictures.to_uint8(np.array([value], dtype)).tolist() == [level]


def test_other_range_and_uint8_as_it_is():
    assert pictures.to_uint8(np.array([-1.0, 0.0, 1.0]), low=-1, high=1).tolist() == [0, 128, 255]
    same = np.array([3, 200], np.uint8)
    assert pictures.to_uint8(same).tolist() == [3, 200]


def test_every_level_survives():
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(pictures.to_uint8(levels.astype(np.float32) / 255), levels)


# --- grids ---


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("pad", "scale"), [(2, 1), (0, 1), (1, 3)])
def test_grid_puts_every_image_in_its_place(channels, pad, scale):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, channels, 4, 6), dtype=np.uint8)
    picture = pictures.grid(images, 2, 3, pad=pad, scale=scale)
    assert picture.dtype == np.uint8
    assert picture.shape[:2] == ((2 * (4 + pad) + pad) * scale, (3 * (6 + pad) + pad) * scale)
    assert picture.ndim == (2 if channels == 1 else 3)
    small = picture[::scale, ::scale].reshape(2 * (4 + pad) + pad, 3 * (6 + pad) + pad, channels)
    assert np.array_equal(picture, small.repeat(scale, 0).repeat(scale, 1).reshape(picture.shape))
    covered = np.zeros(small.shape[:2], bool)
    for index in range(5):
        top, left = pad + index // 3 * (4 + pad), pad + index % 3 * (6 + pad)
        assert np.array_equal(small[top : top + 4, left : left + 6], images[index].transpose(1, 2, 0))
        covered[top : top + 4, left : left + 6] = True
    assert (small[~covered] == pictures.GAP).all()


def test_grid_takes_channels_last_memory_and_leaves_its_input_alone():
    images = np.random.default_rng(1).random((4, 5, 6, 3), dtype=np.float32).transpose(0, 3, 1, 2)
    before = images.copy()
    images.flags.writeable = False
    assert np.array_equal(pictures.grid(images, 2, 2), pictures.grid(before, 2, 2))
    assert np.array_equal(images, before)


@pytest.mark.parametrize(
    ("shape", "rows", "cols"),
    [
        ((5, 1, 4, 4), 2, 2),
        ((4, 2, 4, 4), 2, 2),
        ((4, 4, 4), 2, 2),
        ((0, 1, 4, 4), 0, 3),
        ((1, 1, 4, 4), 1, -1),
    ],
)
def test_what_is_no_grid_is_refused(shape, rows, cols):
    with pytest.raises(UsageError):
        pictures.grid(np.zeros(shape), rows, cols)


def test_routes_sheet_has_one_column_per_route():
    levels = np.arange(6).reshape(3, 2) * 40  # route r, sample s
    images = np.broadcast_to(levels[:, :, None, None, None].astype(np.uint8), (3, 2, 1, 4, 6))
    sheet = pictures.routes_sheet(images)
    assert sheet.shape == (2 * 6 + 2, 3 * 8 + 2)
    for route in range(3):
        for sample in range(2):
            assert (sheet[2 + sample * 6 :][:4, 2 + route * 8 :][:, :6] == levels[route, sample]).all()
    headed = pictures.routes_sheet(images, headers=["0", "1", "2"])
    assert np.array_equal(headed[-len(sheet) :], sheet)
    strip = headed[: -len(sheet)]
    for column in range(3):  # a text above each column
        assert (strip[:, 2 + column * 8 :][:, :6] > pictures.GAP).any()
    colour = pictures.routes_sheet(np.zeros((2, 2, 3, 8, 8)), headers=["a", "b"])
    assert colour.ndim == 3
    wide = [pictures.routes_sheet(np.zeros((2, 1, 1, 32, 32)), headers=["1,2", text]) for text in (
        "3,0,2,0", "15,15,15,0")]
    assert [len(picture) for picture in wide] == [36 + 2 + pictures.LINE * lines for lines in (1, 2)]
    assert not (wide[1][: -36, :2] > pictures.GAP).any() and not (wide[1][: -36, 34:36] > pictures.GAP).any()
    with pytest.raises(UsageError):
        pictures.routes_sheet(images, headers=["0"])
    with pytest.raises(UsageError):
        pictures.routes_sheet(images[0])


def test_a_sheet_without_a_font_has_no_names(monkeypatch):
    from PIL import ImageDraw

    def no_font(*args, **kwargs):
        raise OSError("cannot open resource")

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", no_font)
    images = np.zeros((2, 1, 1, 8, 8))
    assert np.array_equal(pictures.routes_sheet(images, headers=["0", "1"]), pictures.routes_sheet(images))


def test_bitmap_letters_will_do(monkeypatch):
    """A Pillow without FreeType has a font of its own."""
    from PIL import ImageDraw, ImageFont

    monkeypatch.setattr(ImageDraw.ImageDraw, "getfont", lambda self: ImageFont.load_default_imagefont())
    sheet = pictures.routes_sheet(np.zeros((2, 1, 1, 32, 32)), headers=["3,0,2,0", "15,15,15,0"])
    assert len(sheet) > 36 and (sheet[:-36] > pictures.GAP).any()


# --- files ---


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(tmp_path, channels):
    picture = pictures.grid(np.random.default_rng(2).random((4, channels, 5, 7)), 2, 2)
    pictures.save_png(tmp_path / "a.png", picture)
    assert np.array_equal(opened(tmp_path / "a.png"), picture)
    assert np.array_equal(pictures.read_png(tmp_path / "a.png"), picture)
    pictures.save_png(tmp_path / "b.png", picture.copy(order="F"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


def test_failed_png_leaves_the_old_one(tmp_path, monkeypatch):
    pictures.save_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    before = (tmp_path / "a.png").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        pictures.save_png(tmp_path / "a.png", np.ones((2, 2), np.uint8))
    assert (tmp_path / "a.png").read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("array", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros(4, np.uint8)])
def test_png_of_something_else_is_refused(tmp_path, array):
    with pytest.raises(UsageError):
        pictures.save_png(tmp_path / "a.png", array)
    assert not os.listdir(tmp_path)


def test_individual_files(tmp_path):
    images = np.random.default_rng(3).integers(0, 256, (3, 1, 4, 6), dtype=np.uint8)
    paths = pictures.save_individual(tmp_path / "new" / "folder", images, start=10)
    assert [path.name for path in paths] == ["00010.png", "00011.png", "00012.png"]
    for path, image in zip(paths, images, strict=True):
        assert np.array_equal(opened(path), image[0])
    (path,) = pictures.save_individual(tmp_path, flat([0.5], channels=3), scale=2)
    assert opened(path).shape == (8, 12, 3)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<html>", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_bad_png_is_one_line(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(TinyganError, match="cannot (read|use) .*a.png") as caught:
        pictures.read_png(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def gif_frames(path):
    with Image.open(path) as film:
        frames, times = [], []
        for index in range(film.n_frames):
            film.seek(index)
            times.append(film.info["duration"])
            frames.append(np.asarray(film.convert("RGB")).astype(int))
        return frames, times, film.info.get("loop")


def test_grey_gif_frames_times_and_levels(tmp_path):
    rng = np.random.default_rng(4)
    frames = [rng.integers(0, 256, (20, 30), dtype=np.uint8) for _ in range(5)]
    pictures.save_gif(tmp_path / "t.gif", frames, ms=100, hold_ms=1500)
    shown, times, loop = gif_frames(tmp_path / "t.gif")
    assert times == [100] * 4 + [1500] and loop == 0
    for frame, image in zip(frames, shown, strict=True):
        assert (image == image[..., :1]).all()  # still grey
        assert np.abs(image[..., 0] - frame.astype(int)).max() <= 5  # 32 levels: at most half of 255 / 31
    assert np.array_equal(shown[0][frames[0] == 255][:, 0], np.full((frames[0] == 255).sum(), 255))


def test_colour_gif_keeps_colours(tmp_path):
    frames = [pictures.grid(flat([[1, 0, 0], [0, 1, 0], [0, 0, blue]], 3), 1, 3) for blue in (0.2, 0.6, 1.0)]
    pictures.save_gif(tmp_path / "t.gif", frames)
    shown, times, _ = gif_frames(tmp_path / "t.gif")
    assert len(shown) == 3 and times[-1] > times[0]
    for frame, image in zip(frames, shown, strict=True):
        assert np.abs(image - frame.astype(int)).max() <= 16


def test_long_gif_is_thinned_with_first_and_last_kept(tmp_path):
    frames = [np.full((4, 4), index // 2, np.uint8) for index in range(500)]
    frames[0][:] = 255
    pictures.save_gif(tmp_path / "t.gif", frames)
    shown, _, _ = gif_frames(tmp_path / "t.gif")
    assert len(shown) <= pictures.FRAMES
    assert (shown[0] == 255).all() and np.abs(shown[-1] - 249).max() <= 5


def test_single_frame_gif_and_none(tmp_path):
    pictures.save_gif(tmp_path / "t.gif", [np.zeros((4, 4), np.uint8)])
    assert len(gif_frames_one(tmp_path / "t.gif")) == 1
    for frames in ([], [np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)]):
        with pytest.raises(UsageError):
            pictures.save_gif(tmp_path / "t.gif", frames)


def gif_frames_one(path):
    with Image.open(path) as film:
        return [film.size] * film.n_frames


# --- curves ---


def colour_count(path, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(opened(path)[..., :3].astype(int) - wanted).max(axis=-1) < 12).sum())


def test_loss_plot_draws_each_curve_that_was_logged(tmp_path):
    pytest.importorskip("matplotlib")
    step = list(range(0, 1000, 10))
    falling = list(np.linspace(1.4, 0.6, 100))
    losses = {"step": step, "d_loss": falling, "g_loss": falling[::-1]}
    answers = {"d_real": list(np.linspace(0.5, 0.9, 100)), "d_fake": list(np.linspace(0.5, 0.1, 100))}
    variety = {"kl": [1.0] + [np.nan] * 98 + [0.2], "classes": [3] + [np.nan] * 98 + [10]}
    heights = []
    for name, columns in (("a", losses), ("b", losses | answers), ("c", losses | answers | variety)):
        path = tmp_path / f"{name}.png"
        curves.loss_plot(path, columns, title="a run")
        assert colour_count(path, "#0072b2") > 200 and colour_count(path, "#d55e00") > 200
        heights.append(opened(path).shape[0])
        assert (colour_count(path, "#009e73") > 50) == (name == "c")
    assert heights[0] < heights[1] < heights[2]


@pytest.mark.parametrize(
    "columns",
    [
        {"step": []},
        {"step": [0], "d_loss": [1.0], "g_loss": [2.0]},
        {"step": [0, 1], "d_loss": [np.nan, np.inf], "g_loss": [np.nan, np.nan]},
        {"step": [0, 1, 2], "d_loss": [1.0, np.nan, 1e30], "unknown": [1, 2, 3]},
    ],
)
def test_loss_plot_of_odd_logs_is_still_a_picture(tmp_path, columns):
    pytest.importorskip("matplotlib")
    curves.loss_plot(tmp_path / "a.png", columns)
    assert opened(tmp_path / "a.png").shape[0] > 200
    assert os.listdir(tmp_path) == ["a.png"]


def test_plots_touch_no_global_state(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    curves.loss_plot(tmp_path / "a.png", {"step": [0, 1], "d_loss": [1, 2]})
    assert dict(matplotlib.rcParams) == before


def test_missing_libraries_are_one_line(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(TinyganError, match="pip install pillow"):
        pictures.save_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(TinyganError, match="pip install matplotlib"):
        curves.loss_plot(tmp_path / "a.png", {"step": [0]})
