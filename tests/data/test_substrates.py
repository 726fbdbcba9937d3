"""Substrates: from image files with white, transparent or masked backgrounds, from folders, and drawn shapes."""

import numpy as np
import pytest
from PIL import Image

from tinygan.data import shapes
from tinygan.data.shapes import SHAPES
from tinygan.data.substrates import (
    NEAR_WHITE,
    border_region,
    condition,
    drawn_shapes,
    from_files,
    from_folder,
    open_substrates,
)
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels.arrays import to_numpy


def picture(height=40, width=40, colour=(200, 40, 40), background=255):
    """uint8 (H, W, 3): a box in the middle half, on a plain background."""
    image = np.full((height, width, 3), background, np.uint8)
    image[height // 4 : -(height // 4), width // 4 : -(width // 4)] = colour
    return image


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path)
    return path


def one(source, size=20, channels=3, **options):
    """The only item of a source: T (C, S, S), m (S, S)."""
    target, mask = from_files([source], size, channels, flip=False, **options).next(np.random.default_rng(0), 1)
    return target[0], mask[0, 0]


def check_items(target, mask, n, channels, size):
    assert target.shape == (n, channels, size, size) and mask.shape == (n, 1, size, size)
    assert target.dtype == mask.dtype == np.float32
    assert set(np.unique(mask)) <= {0, 1}
    assert target.min() >= -1 and target.max() <= 1
    assert (target[np.broadcast_to(mask == 0, target.shape)] == 1).all()


# ---- drawn shapes ----


@pytest.mark.parametrize("kind", SHAPES)
def test_a_drawn_shape_fits_and_is_what_near_white_leaves(kind):
    target, mask = drawn_shapes(48, kinds=[kind]).next(np.random.default_rng(1), 24)
    check_items(target, mask, 24, 3, 48)
    shares = mask.mean(axis=(1, 2, 3))
    assert shares.min() > 0.03 and shares.max() < 0.7
    assert mask[:, :, [0, -1]].sum() == mask[..., [0, -1]].sum() == 0  # nothing is cut off at the border
    white = (target > NEAR_WHITE).all(axis=1)
    assert (white == (mask[:, 0] == 0)).all()
    enclosed = [int((a & ~border_region(a)).sum()) for a in white]
    # White that the object encloses: the bag's handle alone has any, but for a pixel in a shirt's armpit.
    assert min(enclosed) > 20 if kind == "bag" else max(enclosed) <= 1


def test_drawn_items_follow_the_generator_and_differ():
    source = drawn_shapes(32)
    first, again, other = (source.next(np.random.default_rng(seed), 6) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert len({item.tobytes() for item in first[0]}) == 6


def test_drawn_outlines_are_not_stairs():
    """At the outline, some pixels in the mask are between the object's colour and white."""
    target, mask = drawn_shapes(64, channels=1, kinds=["disc"]).next(np.random.default_rng(0), 40)
    plain = [(t[0], m[0]) for t, m in zip(target, mask, strict=True) if (t[m > 0] == np.median(t[m > 0])).mean() > 0.8]
    assert len(plain) > 5
    for t, m in plain:
        colour = np.median(t[m > 0])
        between = (m > 0) & (t > colour + 0.02)
        assert between.sum() > 15 and t[between].max() < (1 + colour) / 2 + 0.01  # never more than half white


def test_a_discs_area():
    """Coverage of at least half: the mask's area is the disc's, to a part of the outline's pixels."""
    grid = (np.arange(200, dtype=np.float32) + 0.5) / 100 - 1
    outline = SHAPES["disc"](grid[None, :] / 0.8, grid[:, None] / 0.8)
    covered = shapes._coverage(outline)
    assert covered.dtype == np.float32
    assert covered.sum() * 0.01**2 == pytest.approx(np.pi * (0.92 * 0.8) ** 2, rel=1e-3)
    assert (covered >= 0.5).sum() * 0.01**2 == pytest.approx(np.pi * (0.92 * 0.8) ** 2, rel=5e-3)


def test_colours_are_never_near_white():
    rng = np.random.default_rng(0)
    colours = np.stack([shapes._colour(rng, 3) for _ in range(2000)])
    assert colours.min(axis=1).max() <= 0.61 and colours.min() > -0.7
    assert np.ptp(colours, axis=1).max() > 1  # strong colours are among them
    assert max(shapes._colour(rng, 1)[0] for _ in range(200)) <= 0.61


@pytest.mark.parametrize("call", [lambda: drawn_shapes(32, kinds=["cube"]), lambda: drawn_shapes(32, kinds=[]),
                                  lambda: drawn_shapes(4), lambda: drawn_shapes(32, channels=2),
                                  lambda: drawn_shapes(32).next(np.random.default_rng(0), 0)])
def test_wrong_use_of_drawn_shapes(call):
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---- files ----


def test_white_background(tmp_path):
    target, mask = one(save(tmp_path / "a.png", picture()), size=40)
    box = np.zeros((40, 40))
    box[10:30, 10:30] = 1
    assert np.array_equal(mask, box)
    assert np.allclose(target[:, 20, 20], np.array([200, 40, 40]) / 127.5 - 1, atol=1 / 127)
    assert (target[:, box == 0] == 1).all()


def test_white_inside_an_object_stays_object(tmp_path):
    image = picture()
    image[18:22, 18:22] = 255
    target, mask = one(save(tmp_path / "a.png", image), size=40)
    assert mask[10:30, 10:30].all() and mask.sum() == 400
    assert (target[:, 19:21, 19:21] == 1).all()


def test_threshold(tmp_path):
    path = save(tmp_path / "a.png", picture(background=235))  # 0.843
    with pytest.raises(TinyganError, match="no background found"):
        one(path)
    target, mask = one(path, size=40, threshold=0.8)
    assert mask.sum() == 400
    assert (target[:, mask == 0] == 1).all()  # the grey background is gone
    assert target[0, 11:29, 11:29].max() < 0.6


@pytest.mark.parametrize("fill", [(0, 0, 0), (30, 200, 30), (255, 255, 255)])
def test_transparent_background_whatever_colour_lies_under_it(tmp_path, fill):
    image = np.concatenate([picture(background=0), np.zeros((40, 40, 1), np.uint8)], axis=2)
    image[..., :3][(picture() == 255).all(axis=2)] = fill
    image[10:30, 10:30, 3] = 255
    image[15:18, 15:18] = 255  # opaque white is object
    image[:5, :5] = (0, 0, 0, 100)  # a faint shadow is background
    target, mask = one(save(tmp_path / "a.png", image), size=40)
    assert mask.sum() == 400 and mask[10:30, 10:30].all()
    assert (target[:, mask == 0] == 1).all()


def test_an_opaque_alpha_channel_is_no_transparency(tmp_path):
    image = np.concatenate([picture(), np.full((40, 40, 1), 255, np.uint8)], axis=2)
    assert one(save(tmp_path / "a.png", image), size=40)[1].sum() == 400


def test_a_mask_beside_the_image_wins(tmp_path):
    path = save(tmp_path / "photo.jpg", picture(background=90))
    mask = np.zeros((40, 40), np.uint8)
    mask[:, :10] = 255
    save(tmp_path / "photo.mask.png", mask)
    assert np.array_equal(one(path, size=40)[1], mask / 255)
    save(tmp_path / "photo.mask.png", mask[:, :30])
    with pytest.raises(TinyganError, match="30 x 40 but its image 40 x 40"):
        one(path)
    save(tmp_path / "photo.mask.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(TinyganError, match=r"photo\.mask\.png is black"):
        one(path)
    save(tmp_path / "photo.mask.png", np.full((40, 40), 255, np.uint8))
    with pytest.raises(TinyganError, match=r"photo\.mask\.png marks all of it as object"):
        one(path)


INSIDE = np.zeros((40, 40), bool)
INSIDE[:, :10] = True
CLEAR = np.zeros((40, 40, 4), np.uint8)
CLEAR[INSIDE] = 255
BLACK_AND_WHITE = CLEAR.copy()
BLACK_AND_WHITE[:, 10:20, 3] = 255
BLACK_AND_WHITE[:, 20, 3] = 160  # black that fades out
CUT_OUT = np.random.default_rng(0).integers(0, 256, (40, 40, 4), dtype=np.uint8)
CUT_OUT[..., 3] = INSIDE * np.uint8(255)
SOFT = np.where(INSIDE, 255, 0).astype(np.uint8)
SOFT[:, 9:11] = 200, 90


def in_palette(indices, *colours):
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([part for colour in colours for part in colour])
    return image


MASKS = {
    "white on transparent": CLEAR, "black and white on transparent": BLACK_AND_WHITE, "the object, cut out": CUT_OUT,
    "grey with transparency": Image.fromarray(CLEAR).convert("LA"),
    "0 and 1": INSIDE.astype(np.uint8), "0 and 1 in 16 bits": INSIDE.astype(np.uint16), "0 to 255": SOFT,
    "bits": Image.fromarray(INSIDE), "labels": INSIDE * np.tile(np.arange(1, 5, dtype=np.uint8), (40, 10)),
    "labels in 16 bits": INSIDE * np.tile(np.arange(1, 5, dtype=np.uint16), (40, 10)),
    "a palette of two": in_palette(INSIDE, (0, 0, 0), (128, 0, 0)),
    "a palette, white first": in_palette(~INSIDE, (255, 255, 255), (0, 0, 0)),
    "a palette of labels": in_palette(INSIDE * np.tile([1, 2, 3, 3], (40, 10)), (0, 0, 0), (128, 0, 0), (0, 128, 0),
                                      (224, 224, 192)),
    "two greys": np.where(INSIDE, 255, 140).astype(np.uint8),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("suffix", [".mask.png", ".mask.PNG", ".Mask.Png"])
def test_masks_as_programs_write_them(tmp_path, kind, suffix):
    mask = MASKS[kind]
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(tmp_path / f"p{suffix}", "PNG")
    path = save(tmp_path / "p.png", picture(background=90))
    assert np.array_equal(one(path, size=40)[1], INSIDE)
    assert np.array_equal(from_folder(tmp_path, 40).next(np.random.default_rng(0), 1)[1][0, 0], INSIDE)


def test_which_mask_is_whose(tmp_path):
    path = save(tmp_path / "p.png", picture(background=90))
    Image.fromarray(INSIDE).save(tmp_path / "p.MASK.png")
    both = from_files(sorted(tmp_path.glob("*.png")), 40)  # what *.png gives a shell
    assert "from p.png" in both.describe() and np.array_equal(both.next(np.random.default_rng(0), 1)[1][0, 0], INSIDE)
    if not (tmp_path / "P.PNG").exists():  # names differ in case here
        Image.fromarray(~INSIDE).save(tmp_path / "p.mask.PNG", "PNG")
        with pytest.raises(TinyganError, match=r"p\.png has 2 masks, p\.MASK\.png and p\.mask\.PNG: keep one"):
            one(path)
        Image.fromarray(~INSIDE).save(tmp_path / "p.mask.png")  # the very name
        assert np.array_equal(one(path, size=40)[1], ~INSIDE)
    Image.fromarray(~INSIDE).convert("RGBA").save(tmp_path / "p.mask.png")
    assert np.array_equal(one(path, size=40)[1], ~INSIDE)  # all of it opaque


def test_aspect_is_kept_and_padding_is_white(tmp_path):
    """A box half as wide and as high as its wide image: the same share of a square twice as wide as high."""
    target, mask = one(save(tmp_path / "wide.png", picture(height=40, width=80)), size=40)
    box = np.zeros((40, 40))
    box[15:25, 10:30] = 1
    assert np.array_equal(mask, box)
    assert (target[:, :10] == 1).all() and (target[:, 30:] == 1).all()


def test_shrinking_does_not_alias(tmp_path):
    """Stripes of one pixel become their mean, not one of their colours."""
    image = np.full((160, 160, 3), 255, np.uint8)
    image[24:136, 24:136] = 0
    image[24:136, 24:136:2] = 200
    target, mask = one(save(tmp_path / "a.png", image))
    inner = target[:, 5:15, 5:15]
    assert mask.sum() == 14 * 14
    assert abs(inner - (100 / 127.5 - 1)).max() < 0.05


def test_grey(tmp_path):
    target, mask = one(save(tmp_path / "a.png", picture(colour=(30, 60, 90))), size=40, channels=1)
    assert target.shape == (1, 40, 40)
    assert target[0, 20, 20] == pytest.approx(60 / 127.5 - 1, abs=0.01)


def test_several_files_each_comes_once_before_any_comes_twice(tmp_path):
    paths = [save(tmp_path / f"{k}.png", picture(colour=(k * 40, 0, 0))) for k in range(5)]
    source = from_files(paths, 16, flip=False)
    rng = np.random.default_rng(0)
    for n in (3, 5, 10):
        target, mask = source.next(rng, n)
        check_items(target, mask, n, 3, 16)
        counts = np.unique(target[:, 0, 8, 8], return_counts=True)[1]
        assert len(counts) == min(n, 5) and counts.max() == -(-n // 5)
    assert source.describe() == "substrates from 5 files, 3 x 16 x 16"


def test_flip_mirrors_picture_and_mask_together(tmp_path):
    image = picture()
    image[10:30, 10:15] = (0, 0, 200)  # blue on the left
    image[10:30, 25:30] = 255  # and shorter on the right
    source = from_files([save(tmp_path / "a.png", image)], 40, flip=True)
    target, mask = source.next(np.random.default_rng(0), 60)
    assert source.describe() == "substrates from a.png; half of them are mirrored, 3 x 40 x 40"
    assert "mirrored" in open_substrates(tmp_path, 40, flip=True).describe()
    as_it_is = from_files([tmp_path / "a.png"], 40)
    plain = as_it_is.next(np.random.default_rng(0), 1)
    assert all(np.array_equal(t, plain[0][0]) for t in as_it_is.next(np.random.default_rng(1), 60)[0])  # unless asked
    assert "mirrored" not in as_it_is.describe()
    mirrored = [array[..., ::-1] for array in plain]
    kinds = [[np.array_equal(t, a[0][0]) and np.array_equal(m, a[1][0]) for a in (plain, mirrored)]
             for t, m in zip(target, mask, strict=True)]
    assert all(sum(kind) == 1 for kind in kinds)
    assert 15 < sum(kind[1] for kind in kinds) < 45
    again = source.next(np.random.default_rng(0), 60)
    assert np.array_equal(again[0], target)  # nothing was mirrored in memory


@pytest.mark.parametrize("array, words", [
    (np.full((40, 40, 3), 255, np.uint8), "no object found"),
    (np.full((40, 40, 3), 90, np.uint8), "no background found"),
    (np.zeros((40, 40, 4), np.uint8), "no object found"),
])
def test_no_object_or_no_background(tmp_path, array, words):
    path = save(tmp_path / "a.png", array)
    with pytest.raises(TinyganError, match=words) as caught:
        one(path)
    assert "\n" not in str(caught.value) and "a.png" in str(caught.value)
    assert ("a.mask.png" in str(caught.value)) == ("background" in words)


def test_an_object_too_thin_for_the_size(tmp_path):
    image = np.full((400, 400, 3), 255, np.uint8)
    image[:, 200] = 0
    with pytest.raises(TinyganError, match="too thin to show at 16 pixels"):
        one(save(tmp_path / "a.png", image), size=16)


def test_unreadable_and_missing_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"<html>not found</html>")
    for path in (tmp_path / "a.png", tmp_path / "b.png"):
        with pytest.raises(TinyganError, match=path.name) as caught:
            one(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"size": 3}, {"channels": 4}, {"threshold": 1.0}, {"threshold": -2.0}])
def test_wrong_options(tmp_path, options):
    with pytest.raises(UsageError):
        from_files([save(tmp_path / "a.png", picture())], **({"size": 16} | options))
    with pytest.raises(UsageError):
        from_files([], 16)


# ---- folders ----


def test_a_nested_folder(tmp_path):
    save(tmp_path / "one.png", picture(colour=(0, 0, 0)))
    save(tmp_path / "more" / "TWO.JPG", picture(colour=(80, 80, 80)))
    save(tmp_path / "more" / "three.png", picture(colour=(160, 160, 160), background=100))
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    save(tmp_path / "more" / "three.mask.png", mask)
    save(tmp_path / ".thumbs" / "four.png", picture(colour=(200, 200, 200)))
    save(tmp_path / "photo.png", picture(background=90))
    (tmp_path / "._one.png").write_bytes(b"\0\5\x16\7")  # of macOS, beside each file on a foreign disk
    (tmp_path / "notes.txt").write_text("notes")
    source = from_folder(tmp_path, 40)
    target, mask = source.next(np.random.default_rng(0), 3)
    check_items(target, mask, 3, 3, 40)
    shades = sorted((target[:, 0, 20, 20] + 1) * 127.5)
    assert np.allclose(shades, [0, 80, 160], atol=3)
    assert "3 images" in source.describe() and "1 left out" in source.describe() and "photo.png" in source.describe()
    assert "\n" not in source.describe()


def test_linked_folders_are_looked_through_once(tmp_path):
    """As data sets are shared: a folder of class folders that lie elsewhere. Links may lead back, too."""
    for name in ("balls", "cubes"):
        save(tmp_path / "shared" / name / "a.png", picture())
    used = tmp_path / "used"
    used.mkdir()
    try:
        for name in ("balls", "cubes"):
            (used / name).symlink_to(tmp_path / "shared" / name)
        (used / "again").symlink_to(tmp_path / "shared" / "cubes")
        (used / "circle").symlink_to(used)
        (tmp_path / "shared" / "balls" / "up").symlink_to(tmp_path / "shared")
        (used / "gone").symlink_to(tmp_path / "nowhere")
        (used / "gone.png").symlink_to(tmp_path / "nowhere.png")
    except OSError:
        pytest.skip("no links on this system")
    assert "from 2 images in" in from_folder(used, 16).describe()
    (tmp_path / "link").symlink_to(used)
    assert "from 2 images in" in from_folder(tmp_path / "link", 16).describe()


def test_folders_without_substrates(tmp_path):
    with pytest.raises(TinyganError, match="it is empty"):
        from_folder(tmp_path, 16)
    with pytest.raises(TinyganError, match="no folder"):
        from_folder(tmp_path / "nowhere", 16)
    for name in (".DS_Store", "._x.png", "Thumbs.db", "desktop.ini", "__MACOSX/._y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(TinyganError, match="it is empty"):
        from_folder(tmp_path, 16)
    for name in ("a.txt", "b.txt", "c.xcf", "README"):
        (tmp_path / name).write_text("x")
    with pytest.raises(TinyganError, match=r"4 files there \(2 \.txt, 1 .*, 1 ") as caught:
        from_folder(tmp_path, 16)
    assert ".png" in str(caught.value)
    save(tmp_path / "photo.png", picture(background=90))
    (tmp_path / "z.jpg").write_text("no picture")
    with pytest.raises(TinyganError, match="none of the 2 images.*photo.png") as caught:
        from_folder(tmp_path, 16)
    assert "\n" not in str(caught.value)


def test_open_substrates_takes_what_it_is_given(tmp_path):
    path = save(tmp_path / "a.png", picture())
    assert open_substrates(None, 16).describe().startswith("drawn shapes")
    assert "1 images in" in open_substrates(tmp_path, 16, flip=False).describe()
    assert "from a.png" in open_substrates(str(path), 16).describe()
    assert "from 2 files" in open_substrates([path, path], 16, channels=1).describe()


# ---- the region that borders reach ----


def flood(candidate):
    """The definition: a pixel at a time."""
    height, width = candidate.shape
    waiting = [(i, j) for i in range(height) for j in range(width)
               if candidate[i, j] and (i in (0, height - 1) or j in (0, width - 1))]
    reached = np.zeros_like(candidate)
    while waiting:
        i, j = waiting.pop()
        if 0 <= i < height and 0 <= j < width and candidate[i, j] and not reached[i, j]:
            reached[i, j] = True
            waiting += [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
    return reached


def spiral(size):
    """A path one pixel wide from the border to the middle."""
    path = np.zeros((size, size), bool)
    for ring in range(0, size // 2, 2):
        path[ring, ring : size - ring] = path[size - 1 - ring, ring : size - ring] = True
        path[ring : size - ring, ring] = path[ring : size - ring, size - 1 - ring] = True
        path[ring + 1, ring] = False
        if ring + 2 < size // 2:
            path[ring + 2, ring + 1] = True
    return path


def test_border_region_is_a_flood_fill():
    rng = np.random.default_rng(0)
    cases = [rng.random((height, width)) < share for height, width in ((1, 1), (1, 9), (9, 1), (17, 12), (30, 41))
             for share in (0.0, 0.4, 0.6, 0.7, 1.0)]
    cases += [spiral(31), ~spiral(31), np.pad(spiral(15), 1), np.pad(~spiral(15), 1)]
    for candidate in cases:
        assert np.array_equal(border_region(candidate), flood(candidate))
    assert any(0 < border_region(case).sum() < case.sum() for case in cases)


# ---- conditions ----


def test_conditions():
    target, mask = drawn_shapes(64).next(np.random.default_rng(0), 3)
    outside = np.broadcast_to(mask == 0, target.shape)
    silhouette = condition(mask, target)
    edges = condition(mask, target, "edges")
    for x in (silhouette, edges):
        assert x.shape == target.shape and x.dtype == np.float32 and set(np.unique(x)) == {-1, 1}
        assert (x[outside] == -1).all()
    assert (silhouette[~outside] == 1).all()
    assert condition(mask, target, "substrate") is target
    with pytest.raises(UsageError, match="silhouette, edges, substrate"):
        condition(mask, target, "sketch")


def test_edges_are_the_outline_and_grow_with_the_size():
    mask = np.zeros((1, 1, 16, 16), np.float32)
    mask[..., :8, 4:12] = 1  # it touches the border above, which counts as background
    edges = condition(mask, np.zeros((1, 3, 16, 16), np.float32), "edges")
    expected = -np.ones((16, 16))
    expected[:8, 4:12] = 1
    expected[1:7, 5:11] = -1
    assert all(np.array_equal(channel, expected) for channel in edges[0])
    large = mask.repeat(16, axis=2).repeat(16, axis=3)  # 256 pixels: four wide
    edges = condition(large, np.zeros((1, 1, 256, 256), np.float32), "edges")
    assert (edges > 0).sum() == 128 * 128 - 120 * 120


@pytest.mark.kernels
@pytest.mark.parametrize("kind", ["silhouette", "edges", "substrate"])
def test_conditions_on_a_gpu(standin, kind):
    xp = standin.module
    target, mask = drawn_shapes(16).next(np.random.default_rng(0), 2)
    x = condition(xp.asarray(mask), xp.asarray(target), kind)
    assert isinstance(x, xp.ndarray) and x.dtype == np.float32
    assert np.array_equal(to_numpy(x), condition(mask, target, kind))
