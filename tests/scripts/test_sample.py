"""sample.py: pictures of the asked-for size, from the asked-for routes, the same for the same seed."""

import json
import shutil
import sys

import numpy as np
import pytest
from gpan_tools import TINY as GPAN_TINY
from gpan_tools import write_picture
from script_tools import TINY, load_script, over, write_mnist

from tinygan import Tensor, no_grad
from tinygan.app import checkpoint, cli, draw, pictures
from tinygan.app.device import pick_device
from tinygan.app.draw import AT_ONCE, as_digits, generate, load_generator
from tinygan.data.substrates import drawn_shapes
from tinygan.models.classifiers import digits
from tinygan.models.classifiers.load import find_classifier
from tinygan.models.gpan.nets import GPANConfig, GPANGenerator

script, trainer = load_script("sample"), load_script("train_mnist")
KINDS = {
    "sgan": ["--ema", "0.5", "--bank", "3"], "gan": ["--model", "gan", "--bank", "1"],
    "tied": ["--model", "tied", "--bank", "3"], "small": ["--size", "28"], "large": ["--size", "64", "--ema", "0"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """name -> the folder of a run of two steps."""
    root = tmp_path_factory.mktemp("sample")
    digits = write_mnist(root / "mnist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "find_classifier", lambda say=print: None)
        patch.setattr(trainer.Run, "finish", lambda run: [])
        for name, options in KINDS.items():
            words = over([*TINY, "--data-dir", str(digits), "--steps", "2", "--out", str(root / name)], options)
            assert cli.run_main(trainer.main, words) == 0
    return {name: root / name for name in KINDS}


@pytest.fixture
def sample(runs, tmp_path):
    """sample(name, "--flag", ...) draws from a run into a new picture and returns it; with --out, the exit code."""
    made = []

    def draw(name, *words):
        made.append(tmp_path / f"{len(made)}.png")
        own = [] if "--out" in words else ["--out", made[-1]]
        words = ["--checkpoint", runs[name], "--threads", "1", "--device", "cpu", *words, *own]
        code = cli.run_main(script.main, [str(word) for word in words])
        return pictures.read_png(made[-1]) if own and code == 0 else code

    return draw


@pytest.mark.parametrize("name, words, rows, columns, cell", [
    ("sgan", [], 8, 8, 32),
    ("sgan", ["--grid", "2x5"], 2, 5, 32),
    ("sgan", ["--grid", "5x2", "--n", "7"], 5, 2, 32),
    ("sgan", ["--n", "1"], 1, 1, 32),
    ("sgan", ["--n", "10"], 3, 4, 32),
    ("gan", ["--grid", "3x3"], 3, 3, 32),
    ("tied", ["--grid", "1x4"], 1, 4, 32),
    ("small", ["--grid", "4x4"], 4, 4, 28),
    ("large", ["--grid", "2x2"], 2, 2, 64),
])
def test_size_in_pixels(sample, name, words, rows, columns, cell):
    expected = rows * (cell + 2) + 2, columns * (cell + 2) + 2
    assert sample(name, *words).shape[:2] == expected
    assert sample(name, *words, "--scale", 3).shape[:2] == (3 * expected[0], 3 * expected[1])


def test_the_grid_lands_in_the_run_unless_told(runs, capsys):
    assert cli.run_main(script.main, ["--checkpoint", str(runs["gan"]), "--threads", "1"]) == 0
    assert "64 images, 8 rows of 8" in capsys.readouterr().out and (runs["gan"] / "grid.png").exists()
    # The checkpoint's own name will do as well.
    words = ["--checkpoint", str(runs["gan"] / checkpoint.FILE_NAME), "--n", "2", "--individual", "--threads", "1"]
    assert cli.run_main(script.main, words) == 0
    assert len(list((runs["gan"] / "images").iterdir())) == 2


@pytest.mark.parametrize("name, side", [("sgan", 32), ("small", 28), ("large", 64)])
def test_individual_images(sample, tmp_path, name, side, capsys):
    assert sample(name, "--individual", "--n", 11, "--out", tmp_path / "digits") == 0
    files = sorted((tmp_path / "digits").iterdir())
    assert len(files) == 11 and f"11 images of {side}x{side} pixels" in capsys.readouterr().out
    images = [pictures.read_png(path) for path in files]
    assert {image.shape for image in images} == {(side, side)}
    # They are the images of the grid for the same seed.
    grid = sample(name, "--grid", "1x11")
    assert (grid[2 : 2 + side, 2 : 2 + side] == images[0]).all()
    assert (grid[2 : 2 + side, -2 - side : -2] == images[10]).all()


def test_images_of_an_earlier_call_are_not_left_among_the_new(sample, tmp_path, capsys):
    folder = tmp_path / "digits"
    assert sample("sgan", "--individual", "--n", 12, "--out", folder) == 0
    for name in ("notes.txt", "100.png", "00100.jpg", "x00001.png"):
        (folder / name).write_text("mine")
    (folder / "00002.png").unlink()
    assert "removed" not in capsys.readouterr().out
    assert sample("sgan", "--individual", "--n", 4, "--seed", 1, "--out", folder) == 0
    assert "removed 8 images of an earlier call there, 00004.png to 00011.png" in capsys.readouterr().out
    assert sample("sgan", "--individual", "--n", 3, "--out", folder) == 0
    assert "removed 1 image of an earlier call there, 00003.png\n" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000.png", "00001.png", "00002.png", "00100.jpg", "100.png", "notes.txt", "x00001.png"]


@pytest.mark.parametrize("number", [1, 3, 50])
def test_a_picture_of_the_users_own_is_neither_replaced_nor_removed(sample, tmp_path, capsys, number):
    folder = tmp_path / "digits"
    own = folder / f"{number:05d}.png"
    folder.mkdir()
    pictures.save_png(own, np.zeros((4, 4), np.uint8))
    before = own.read_bytes()
    assert sample("sgan", "--individual", "--n", 3, "--out", folder) == 1
    assert f"{own.name} was not made by sample.py" in capsys.readouterr().err
    assert list(folder.iterdir()) == [own] and own.read_bytes() == before


@pytest.mark.parametrize("words, name", [
    ([], "grid.png"), (["--route", "1,0,2,0"], "grid-route-1-0-2-0.png"), (["--route", "group:2"],
     "grid-route-group-2.png"), (["--seed", 7, "--route", "batch"], "grid-seed-7-route-batch.png"),
    (["--individual"], "images"), (["--individual", "--route", "0,0,0,0"], "images-route-0-0-0-0"),
])
def test_a_default_name_says_which_route_and_seed(runs, words, name):
    before = {path.name for path in runs["sgan"].iterdir()} - {name}
    command = ["--checkpoint", runs["sgan"], "--n", 2, "--threads", 1, *words]
    assert cli.run_main(script.main, [str(word) for word in command]) == 0
    assert {path.name for path in runs["sgan"].iterdir()} - before == {name}


@pytest.mark.parametrize("name, route", [("sgan", "sample"), ("sgan", "batch"), ("sgan", "group:5"), ("tied", "sample"),
                                         ("sgan", "2,0,1,0"), ("gan", "sample"), ("small", "group:70")])
def test_an_image_of_a_seed_is_the_same_however_many_are_drawn(sample, name, route):
    whole = sample(name, "--grid", "1x150", "--seed", 3, "--route", route)
    for n in (1, 7, 64, 65, 149):
        part = sample(name, "--grid", f"1x{n}", "--seed", 3, "--route", route)
        assert (part == whole[:, :part.shape[1]]).all(), n


@pytest.mark.parametrize("name", ["sgan", "tied", "gan"])
def test_same_seed_same_picture(sample, name):
    a, b, c = (sample(name, "--n", 9, "--seed", seed) for seed in (5, 5, 6))
    assert (a == b).all() and (a != c).any()


def images_by(runs, name, z, routes):
    generator, _ = load_generator(runs[name], pick_device("cpu"))
    return generate(generator, z, routes, pick_device("cpu"))


def test_a_given_route_is_taken_by_every_image(sample, runs):
    generator, _ = load_generator(runs["sgan"], pick_device("cpu"))
    z = generator.draw_noise(np.random.default_rng(4), 6)
    for text in ("0,0,0,0", "2,0,1,0", "1,2,2,0"):
        route = np.tile([int(part) for part in text.split(",")], (6, 1))
        expected = pictures.grid(images_by(runs, "sgan", z, route), 2, 3)
        assert (sample("sgan", "--grid", "2x3", "--seed", 4, "--route", text) == expected).all()
    assert (sample("tied", "--route", "2,2,2,0", "--n", 4) != sample("tied", "--route", "1,1,1,0", "--n", 4)).any()
    assert (sample("gan", "--route", "0,0,0,0", "--n", 4) == sample("gan", "--n", 4)).all()


def test_route_modes(runs):
    generator, _ = load_generator(runs["sgan"], pick_device("cpu"))
    count = {}
    for mode in ("sample", "batch", "group:3", "1,1,0,0"):
        routes = script.choose_routes(generator, mode, np.random.default_rng(0), 12)
        assert routes.shape == (12, 4) and routes.max() < 3 and (routes[:, 3] == 0).all()
        count[mode] = len(np.unique(routes, axis=0))
        if mode == "group:3":
            assert all(len(np.unique(routes[i : i + 3], axis=0)) == 1 for i in range(0, 12, 3))
    assert count["batch"] == count["1,1,0,0"] == 1 < count["group:3"] <= 4 < count["sample"]


def test_the_moving_average_is_drawn_from_unless_told(sample, runs):
    averaged, plain = sample("sgan", "--n", 4), sample("sgan", "--n", 4, "--no-average")
    assert (averaged != plain).any()
    arrays, _ = checkpoint.load(runs["sgan"])
    generator, _ = load_generator(runs["sgan"], pick_device("cpu"), average=False)
    assert all((p.numpy() == arrays[f"generator/{name}"]).all() for name, p in generator.named_parameters())
    assert (sample("large", "--n", 1) == sample("large", "--n", 1, "--no-average")).all()  # a run without one


def test_large_canvases_become_digits_by_averaging():
    images = np.random.default_rng(0).random((2, 1, 64, 64), dtype=np.float32)
    small = as_digits(images)
    assert small.shape == (2, 1, 28, 28)
    assert small[0, 0, 0, 0] == pytest.approx(images[0, 0, 4:6, 4:6].mean())
    assert as_digits(images[:, :, :32, :32]).shape == small.shape == as_digits(small).shape


def test_many_images_are_drawn_in_parts(runs):
    generator, _ = load_generator(runs["sgan"], pick_device("cpu"))
    rng = np.random.default_rng(0)
    z, routes = generator.draw_noise(rng, 23), generator.draw_routes(rng, 23)
    whole = generate(generator, z, routes, pick_device("cpu"))
    parts = generate(generator, z, routes, pick_device("cpu"), batch=7)
    assert whole.shape == (23, 1, 32, 32) and whole.dtype == np.float32
    np.testing.assert_allclose(parts, whole, atol=1e-6)


@pytest.mark.parametrize("words, text", [
    (["--grid", "2x2", "--n", "5"], "holds 4 images, not 5"),
    (["--grid", "2x2", "--individual"], "not both"),
    (["--grid", "0x3"], "rows x columns"),
    (["--n", "0"], "at least 1"),
    (["--scale", "0"], "at least 1"),
    (["--seed", "-1"], "at least 0"),
    (["--route", "0,0,0"], "takes 4 numbers, each below its bank size: 3,3,3,1"),
    (["--route", "0,0,0,1"], "each below its bank size"),
    (["--route", "3,0,0,0"], "each below its bank size"),
    (["--route", "group:0"], "group:SIZE"),
    (["--route", "each"], "one index per layer"),
    (["--out", "grid.jpg"], "name a .png file"),
])
def test_bad_values(sample, capsys, words, text):
    try:
        code = sample("sgan", *words)
    except SystemExit as stop:  # argparse's own way out
        code = stop.code
    assert code == 2 and text in capsys.readouterr().err


def test_a_tied_ensemble_has_one_index(sample, capsys):
    assert sample("tied", "--route", "0,1,1,0") == 2
    assert "same number in every layer" in capsys.readouterr().err


# ---- runs of train_gpan.py -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def painters(tmp_path_factory):
    """name -> the folder of a GPAN's run of two steps."""
    if find_classifier() is None:
        pytest.skip("no classifier to train a GPAN with")
    root = tmp_path_factory.mktemp("painters")
    picture = write_picture(root / "in/red.png", (255, 0, 0))
    options = {"two": ["--wanted", "3,5", "--wanted", "8", "--bank", "3", "--ema", "0.05"],
               "red": ["--substrate", str(picture), "--wanted", "3", "--ema", "0"],
               "grey": ["--channels", "1", "--start", "nothing", "--painter-sees", "edges"]}
    gpan = load_script("train_gpan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpan.GPANGame, "draw_samples", lambda *args: None)
        patch.setattr(gpan, "end_run", lambda *args: 0)
        for name, words in options.items():
            words = over([*GPAN_TINY, "--steps", "2", "--eval-every", "0", "--out", str(root / name)], words)
            assert cli.run_main(gpan.main, words) == 0
    return {name: root / name for name in options} | {"picture": picture}


@pytest.fixture
def paint(painters, tmp_path, capsys):
    """paint(name, "--flag", ...) draws from a GPAN's run into a new picture and returns it; what is no picture, the
    exit code."""
    made = []

    def draw(name, *words):
        made.append(tmp_path / f"{len(made)}.png")
        own = [] if "--out" in words else ["--out", made[-1]]
        words = over(["--checkpoint", painters[name], "--threads", "1", "--device", "cpu"], [*words, *own])
        code = cli.run_main(script.main, [str(word) for word in words])
        return pictures.read_png(made[-1]) if own and code == 0 else code

    return draw


@pytest.mark.parametrize("name, words, rows, columns", [
    ("two", [], 4, 4), ("two", ["--grid", "2x5"], 2, 5), ("red", ["--n", "3"], 2, 2), ("grey", ["--grid", "1x2"], 1, 2),
])
def test_pictures_of_a_gpan(paint, name, words, rows, columns):
    picture = paint(name, *words)
    expected = rows * 66 + 2, columns * 66 + 2
    assert picture.shape == (expected if name == "grey" else (*expected, 3))
    assert paint(name, *words, "--scale", 2).shape[:2] == (2 * expected[0], 2 * expected[1])


def test_a_gpan_paints_what_its_own_run_painted(paint, painters):
    """The weights, the code, what the generator sees and the range: by hand, from the checkpoint alone."""
    arrays, meta = checkpoint.load(painters["two"])
    config = GPANConfig(**meta["config"])
    generator = GPANGenerator(config, rng=np.random.default_rng(1))
    generator.load_state_dict({name.removeprefix("average/"): array for name, array in arrays.items()
                               if name.startswith("average/")})
    rng = np.random.default_rng
    target, _ = drawn_shapes(64, 3).next(rng([9, 2]), AT_ONCE)
    noise = generator.draw_noise(rng([9, 1]), AT_ONCE)
    for words, code, wanted in (([], [1, 1, 0], "3,5"), (["--wanted", "5, 3"], [1, 1, 0], "3,5"),
                                (["--wanted", 8], [0, 0, 1], "8")):
        with no_grad():
            images, _ = generator(Tensor(target[:4]), Tensor(np.tile(np.float32(code), (4, 1))), Tensor(noise[:4]),
                                  np.tile([2, 0, 1, 2], (4, 1)))
        expected = pictures.grid((images.numpy() + 1) / 2, 2, 2)
        found = paint("two", "--n", 4, "--seed", 9, "--route", "2,0,1,2", *words)
        assert np.abs(found.astype(int) - expected).max() <= 1, wanted


@pytest.mark.parametrize("mode", ["0,1,0,2", "sample", "group:3", "batch"])
@pytest.mark.parametrize("large", [32, 256])
def test_a_gpans_images_do_not_depend_on_how_many_are_drawn(paint, tmp_path, monkeypatch, mode, large):
    monkeypatch.setattr(draw, "LARGE", large)  # of 64 pixels: painted one by one, or several at once
    route = ["--route", mode, "--seed", 3]
    whole = paint("two", "--grid", "1x19", *route)
    for n in (1, 7, 9):
        assert (paint("two", "--grid", f"1x{n}", *route) == whole[:, :n * 66 + 2]).all()
    assert paint("two", "--n", 19, "--individual", "--out", tmp_path / "files", *route) == 0
    files = [pictures.read_png(path) for path in sorted((tmp_path / "files").iterdir())]
    assert len(files) == 19
    assert all((file == whole[2:66, 2 + 66 * i:66 + 66 * i]).all() for i, file in enumerate(files))
    assert (paint("two", "--n", 4, *route[:2], "--seed", 4) != paint("two", "--n", 4, *route)).any()


def test_routes_average_and_seed_of_a_gpan(paint):
    first = paint("two", "--n", 4)
    assert (first == paint("two", "--n", 4)).all()
    for words in (["--seed", 1], ["--no-average"], ["--route", "0,0,0,0"], ["--wanted", 8]):
        assert (first != paint("two", "--n", 4, *words)).any(), words


def test_a_gpan_paints_on_what_it_is_given(paint, painters, tmp_path):
    """On its own picture unless told; a file, several, a folder. After two steps it changes them little."""
    blue, green = (write_picture(tmp_path / f"more/{name}.png", colour) for name, colour in (
        ("blue", (0, 0, 255)), ("green", (0, 200, 0))))
    middle = paint("red", "--n", 8)[34::66, 34::66]
    assert (middle[:2, :, 0] > middle[:2, :, 2]).all()
    middle = paint("red", "--n", 8, "--substrate", blue)[34::66, 34::66]
    assert (middle[:2, :, 2] > middle[:2, :, 0]).all()
    for words in ([blue, green], [tmp_path / "more"]):
        middle = paint("red", "--n", 8, "--substrate", *words)[34::66, 34::66][:2].reshape(-1, 3)
        assert {int(pixel.argmax()) for pixel in middle.astype(int)} == {1, 2}


def test_mirrored_only_where_the_run_was(paint, painters, tmp_path, capsys):
    config = json.loads((painters["red"] / "config.json").read_text())
    del config["flags"]["substrate_flip"]  # as before there was such a flag
    for name, flag in (("old", {}), ("resumed", {"substrate_flip": None})):
        shutil.copytree(painters["red"], tmp_path / name)
        text = json.dumps(config | {"flags": config["flags"] | flag})
        (tmp_path / name / "config.json").write_text(text)
    for run, words, mirrored in ((painters["red"], [], False), (tmp_path / "old", [], True),
                                 (tmp_path / "resumed", [], True),
                                 (tmp_path / "old", ["--substrate", painters["picture"]], False)):
        words = ["--checkpoint", run, "--n", 2, "--device", "cpu", "--out", tmp_path / "a.png", *words]
        assert cli.run_main(script.main, [str(word) for word in words]) == 0
        assert ("half of them are mirrored" in capsys.readouterr().out) == mirrored, words


def test_substrates_that_have_moved_are_asked_for(paint, painters, tmp_path, capsys):
    moved = painters["picture"].rename(tmp_path / "red.png")
    try:
        assert paint("red", "--n", 1) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"trained on {painters['picture']}, which is gone" in line and "--substrate" in line
        assert paint("red", "--n", 1, "--substrate", moved).shape == (68, 68, 3)
    finally:
        moved.rename(painters["picture"])


def test_no_classifier_is_needed_to_paint(paint, monkeypatch, capsys):
    monkeypatch.setattr(digits, "load", None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert paint("two", "--n", 2).shape == (68, 134, 3)
    assert "wanted: 3, 5; on drawn shapes" in capsys.readouterr().out


@pytest.mark.kernels
def test_a_gpan_paints_the_same_on_a_gpu(standin, paint):
    here, there = (paint("two", "--n", 4, "--device", device).astype(int) for device in ("cpu", "gpu"))
    assert abs(here - there).max() <= 1


@pytest.mark.parametrize("words, text", [
    (["--wanted", "5"], "this run was trained for 3, 5; 8"),
    (["--wanted", "3,8"], "this run was trained for 3, 5; 8"),
    (["--wanted", "seven"], "unknown class 'seven'"),
    (["--wanted", ""], "this run was trained for 3, 5; 8"),
    (["--route", "0,0,0"], "takes 4 numbers, each below its bank size: 3,3,3,3"),
    (["--n", "100", "--scale", "64"], "take fewer (--n)"),
])
def test_bad_values_for_a_gpan(paint, capsys, words, text):
    assert paint("two", *words) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--wanted", "3"], ["--wanted", ""], ["--substrate", "x.png"]])
def test_what_only_a_gpan_has(sample, capsys, words):
    assert sample("sgan", *words) == 2
    assert f"{words[0]} is for runs of train_gpan.py" in capsys.readouterr().err
