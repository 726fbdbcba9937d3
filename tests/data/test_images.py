"""Picture files as people have them, broken in the ways files break, and class names as people type them."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from tinygan.app.classes import find_classes
from tinygan.data import images
from tinygan.data.images import read_image, resize_image
from tinygan.errors import TinyganError, UsageError

AVIF = features.check("avif")


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def save(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def png(width, height, depth, colour, rows, extra=b""):
    """A PNG by hand, for what Pillow does not write."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# ---- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "bmp", "webp", "tif"])
def test_colours_are_kept(tmp_path, rng, kind):
    array = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    array[0, 0], array[0, 1] = 255, 0
    rgb, alpha = read_image(save(tmp_path / f"a.{kind}", array, lossless=True))
    assert rgb.shape == (3, 5, 7) and rgb.dtype == np.float32 and alpha is None
    assert np.allclose(rgb, array.transpose(2, 0, 1) / 127.5 - 1)
    assert (rgb[:, 0, 0] == 1).all() and (rgb[:, 0, 1] == -1).all()  # exactly
    assert rgb.flags.c_contiguous


def test_jpeg_grey_and_palette(tmp_path, rng):
    flat = np.full((16, 16, 3), (204, 102, 51), np.uint8)
    expected = (np.array([204, 102, 51]) / 127.5 - 1)[:, None, None]
    for name, mode, options in (("a.jpg", None, {"quality": 95}), ("a.gif", None, {}), ("b.png", "P", {}),
                                ("c.jpg", "CMYK", {"quality": 95})):
        rgb, alpha = read_image(save(tmp_path / name, flat, mode, **options))
        assert alpha is None and abs(rgb - expected).max() < 0.05
    grey = rng.integers(0, 256, (4, 6), dtype=np.uint8)
    rgb, alpha = read_image(save(tmp_path / "grey.png", grey))
    assert alpha is None and np.allclose(rgb, (grey / 127.5 - 1)[None].repeat(3, axis=0))
    rgb, _ = read_image(save(tmp_path / "bits.png", grey, "1"))
    assert set(np.unique(rgb)) <= {-1.0, 1.0}


def test_the_content_counts_not_the_name(tmp_path):
    path = tmp_path / "really-a-png.jpg"
    save(path, np.zeros((2, 2, 3), np.uint8), format="PNG")
    assert read_image(path)[0].shape == (3, 2, 2) and read_image(str(path))[0].min() == -1


def test_sixteen_bits_are_scaled(tmp_path):
    """256 of 65535 is nearly black; cut off at 255, it would be white like 65535."""
    grey = np.array([[0, 256, 32768, 65535]], np.uint16)
    rgb, alpha = read_image(save(tmp_path / "a.png", grey))
    assert alpha is None and np.allclose(rgb[0, 0], grey[0] / 32767.5 - 1, atol=1e-6) and rgb[0, 0, 3] == 1
    deep = tmp_path / "deep.png"
    deep.write_bytes(png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 256, 0, 0, 65535, 32768, 0)))
    rgb, _ = read_image(deep)
    assert np.allclose(rgb[:, 0].T, [[-0.992, -1, -1], [1, 0, -1]], atol=0.005)


def test_a_see_through_pixel_is_white_whatever_lies_under_it(tmp_path):
    array = np.zeros((2, 2, 4), np.uint8)
    array[0, 0] = (255, 0, 0, 0)    # hidden red
    array[0, 1] = (255, 0, 0, 255)
    array[1, 0] = (0, 0, 0, 51)     # a fifth of black
    for name in ("a.png", "a.webp"):
        rgb, alpha = read_image(save(tmp_path / name, array, lossless=True, **({"exact": True} if "w" in name else {})))
        assert np.allclose(alpha, [[0, 1], [0.2, 0]]) and alpha.dtype == np.float32
        assert rgb[:, 0, 0].tolist() == [1, 1, 1] and rgb[:, 0, 1].tolist() == [1, -1, -1]
        assert np.allclose(rgb[:, 1, 0], 0.8 - 0.2)


def test_other_kinds_of_transparency(tmp_path):
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    for name in ("a.gif", "a.png"):
        palette.save(tmp_path / name, transparency=0)
        rgb, alpha = read_image(tmp_path / name)
        assert alpha.tolist() == [[0, 1]] and rgb[:, 0].T.tolist() == [[1, 1, 1], [-1, -1, 1]]
    grey = np.array([[300, 70]], np.uint16)
    key = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 300)
    (tmp_path / "b.png").write_bytes(png(2, 1, 16, 0, b"\0" + grey.astype(">u2").tobytes(),
                                         key + struct.pack(">I", zlib.crc32(key[4:]))))
    rgb, alpha = read_image(tmp_path / "b.png")
    assert alpha.tolist() == [[0, 1]] and rgb[0, 0, 0] == 1 and rgb[0, 0, 1] < -0.99


@pytest.mark.parametrize("depth, colour, key, row", [
    (1, 0, [1], b"\x40"), (1, 0, [0], b"\x80"), (2, 0, [2], b"\x60"), (2, 0, [3], b"\x70"), (4, 0, [7], b"\x67"),
    (8, 0, [7], b"\x06\x07"), (8, 2, [1, 0, 9], bytes([1, 1, 9, 1, 0, 9])),
    (16, 2, [256, 0, 9], struct.pack(">6H", 512, 0, 9, 256, 0, 9)), (16, 0, [300], struct.pack(">2H", 1, 300)),
])
def test_a_key_colour_counts_at_every_depth(tmp_path, depth, colour, key, row):
    """The second of two pixels has the colour that is transparent."""
    chunk = b"tRNS" + struct.pack(f">{len(key)}H", *key)
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(png(2, 1, depth, colour, b"\0" + row, chunk))
    rgb, alpha = read_image(tmp_path / "a.png")
    assert alpha.tolist() == [[1, 0]] and (rgb[:, 0, 1] == 1).all() and rgb[0, 0, 0] < 1 or key == [0]


@pytest.mark.parametrize("mode, compression", [("RGBA", None), ("L", "tiff_lzw"), ("1", "group4"), ("P", None),
                                               ("CMYK", None), ("LA", None)])
def test_tiff_as_it_comes(tmp_path, rng, mode, compression):
    picture = Image.fromarray(rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)).convert(mode)
    picture.save(tmp_path / "a.tiff", compression=compression)
    rgb, alpha = read_image(tmp_path / "a.tiff")
    right = np.asarray(picture.convert("RGBA" if "A" in mode else "RGB")).transpose(2, 0, 1).astype(np.float32)
    assert (alpha is not None) == ("A" in mode)
    if alpha is None:
        assert np.allclose(rgb, right / 127.5 - 1)
    else:
        assert np.allclose(alpha, right[3] / 255)


def test_tiff_of_sixteen_bits_and_on_its_side(tmp_path):
    rgb, _ = read_image(save(tmp_path / "deep.tif", np.array([[0, 256, 65535]], np.uint16)))
    assert np.allclose(rgb[0, 0], [-1, 256 / 32767.5 - 1, 1])
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(save(tmp_path / "a.tif", np.zeros((4, 9, 3), np.uint8), exif=exif))[0].shape == (3, 9, 4)


def test_a_damaged_tiff_is_one_line_and_libtiff_says_nothing(tmp_path, rng, capfd):
    array = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    good = save(tmp_path / "a.tif", array, compression="tiff_lzw").read_bytes()
    for place in (10, 11, 12):
        (tmp_path / "a.tif").write_bytes(good[:place] + b"\xff\xff\xff" + good[place + 3:])
        with pytest.raises(TinyganError, match="cut off, damaged") as caught:
            read_image(tmp_path / "a.tif")
        assert "\n" not in str(caught.value)
    os.write(2, b"still there")
    assert capfd.readouterr() == ("", "still there")


@pytest.mark.skipif(not AVIF, reason="this Pillow has no AVIF")
def test_avif_where_pillow_has_it(tmp_path, monkeypatch):
    path = save(tmp_path / "a.avif", np.full((16, 16, 3), (204, 102, 51), np.uint8), quality=95)
    assert abs(read_image(path)[0] - (np.array([204, 102, 51]) / 127.5 - 1)[:, None, None]).max() < 0.05
    monkeypatch.delitem(Image.OPEN, "AVIF")
    with pytest.raises(TinyganError, match="it is AVIF, which .*this Pillow does not read .*11.3.*: save it as") as no:
        read_image(path)
    assert "\n" not in str(no.value) and str(no.value).endswith("read are PNG, JPEG, WEBP, BMP, GIF, TIFF")


def test_the_first_frame_of_a_film(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[0][:, 1, 1].tolist() == [1, -1, -1]


@pytest.mark.parametrize("orientation, corner", [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_a_camera_held_sideways(tmp_path, orientation, corner):
    array = np.zeros((16, 24, 3), np.uint8)
    array[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb, _ = read_image(save(tmp_path / "a.jpg", array, exif=exif, quality=95))
    assert rgb.shape == ((3, 16, 24) if orientation < 5 else (3, 24, 16))
    assert rgb[0, corner[0], corner[1]] > 0.9 and rgb[0].mean() < -0.5


def test_a_damaged_orientation_is_passed_over(tmp_path):
    data = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 16)).save(data, "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(data.getvalue().replace(b"MM\0*", b"MM\xff\xff").replace(b"II*\0", b"II\xff\xff"))
    assert read_image(tmp_path / "a.jpg")[0].shape == (3, 16, 24)


# ---- what is refused ---------------------------------------------------------------------------------------------


def bad_files(folder, rng):
    """(path, words of the one line)."""
    array = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    yield folder / "absent.png", "no file"
    yield folder, "a folder, not a file"
    for name, data, words in (
        ("empty.png", b"", "it is empty"),
        ("page.jpg", b"\n<!DOCTYPE html><html><body>404</body></html>", "it is a web page"),
        ("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "it is a drawing in SVG"),
        ("text.png", b"no picture at all", "not a picture"),
        ("head.png", b"\x89PNG\r\n\x1a\n", "not a picture|cut off, damaged"),
        ("bomb.png", png(20_000, 20_000, 8, 0, b""), "more than 67,108,864 pixels"),
        ("large.png", png(9_000, 9_000, 8, 0, b""), "9,000 x 9,000 pixels"),
        ("wide.png", png(2**31 - 1, 1, 8, 0, b""), "more than 67,108,864 pixels"),
    ):
        (folder / name).write_bytes(data)
        yield folder / name, words
    for name, options in (("a.png", {}), ("a.jpg", {}), ("a.bmp", {}), ("a.webp", {"lossless": True}), ("a.gif", {}),
                          ("a.tif", {"compression": "tiff_lzw"}), *((("a.avif", {}),) if AVIF else ())):
        data = save(folder / name, array, **options).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
        yield folder / name, "cut off, damaged|damaged or cut off|not a picture"
    for name, picture, words in (
        ("float.tif", Image.fromarray(array[..., 0].astype(np.float32)), "floating-point numbers, .*save it as a PNG"),
        ("deep.tif", Image.fromarray(array[..., 0].astype(np.int32)), "numbers of 32 bits, .*save it as a PNG"),
        ("lab.tif", Image.new("LAB", (4, 4)), "CIELAB colours, .*save it as a PNG"),
    ):
        picture.save(folder / name)
        yield folder / name, words
    for name, start, words in (
        ("a.heic", b"\0\0\0\x18ftypheic", "it is HEIC, .*save it as PNG or JPEG; read are PNG, JPEG, WEBP, BMP, GIF"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n", "it is JPEG 2000 or JPEG XL: save it as PNG"),
        ("a.psd", b"8BPS\0\1", "Photoshop's own format: save it as PNG"),
    ):
        (folder / name).write_bytes(start + bytes(40))
        yield folder / name, words
    (folder / "b.png").write_bytes(png(4, 4, 8, 2, b"\0" * 52).replace(b"IDAT", b"IDAT\xff", 1))
    yield folder / "b.png", "damaged"


def test_bad_files_get_one_line(tmp_path, rng):
    seen = 0
    for path, words in bad_files(tmp_path, rng):
        with pytest.raises(TinyganError, match=words) as caught:
            read_image(path)
        text = str(caught.value)
        assert "\n" not in text and str(path) in text and caught.value.exit_code == 1
        seen += 1
    assert seen == 23 + AVIF


def test_changed_bytes_never_escape(tmp_path, rng):
    """Any byte may be wrong: a picture or one line, nothing else."""
    array = rng.integers(0, 256, (12, 12, 4), dtype=np.uint8)
    refused = 0
    for name, mode in (("a.png", "RGBA"), ("a.jpg", "RGB"), ("a.gif", "P"), ("a.webp", "RGBA"), ("a.bmp", "RGB"),
                       ("a.tif", "RGBA"), *((("a.avif", "RGB"),) if AVIF else ())):
        good = save(tmp_path / name, array, mode).read_bytes()
        for _ in range(60):
            data = bytearray(good)
            for place in rng.integers(0, min(len(data), 120), 3):
                data[place] = rng.integers(256)
            (tmp_path / name).write_bytes(data)
            try:
                rgb, _ = read_image(tmp_path / name)
                assert rgb.shape[0] == 3 and np.isfinite(rgb).all()
            except TinyganError as error:
                refused += "\n" not in str(error)
    assert refused > 50


def test_the_limit_is_of_pixels(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", np.zeros((10, 11), np.uint8))
    monkeypatch.setattr(images, "MAX_PIXELS", 110)
    assert read_image(path)[0].shape == (3, 10, 11)
    monkeypatch.setattr(images, "MAX_PIXELS", 109)
    with pytest.raises(TinyganError, match="11 x 10 pixels, where at most 109"):
        read_image(path)


# ---- resizing ----------------------------------------------------------------------------------------------------


def test_shrinking_by_a_whole_number_is_the_mean(rng):
    image = rng.uniform(-1, 1, (3, 12, 8)).astype(np.float32)
    small = resize_image(image, 4, filter="box")
    assert small.shape == (3, 4, 4) and small.dtype == np.float32
    assert np.allclose(small, image.reshape(3, 4, 3, 4, 2).mean(axis=(2, 4)), atol=1e-6)


def test_shrinking_leaves_no_pattern_of_skipped_pixels(rng):
    board = np.indices((64, 64)).sum(0)[None] % 2 * 2.0 - 1.0
    for method in ("box", "lanczos"):
        assert abs(resize_image(board, 16, filter=method)).max() < 0.1


@pytest.mark.parametrize("method", ["lanczos", "box"])
def test_resizing_stays_in_range(rng, method):
    image = np.where(rng.random((3, 9, 9)) < 0.5, -1.0, 1.0).astype(np.float32)
    for side in (1, 5, 9, 20):
        out = resize_image(image, side, filter=method)
        assert out.min() >= -1 and out.max() <= 1 and out.shape == (3, side, side)
    assert np.array_equal(resize_image(image, 9, filter=method), image)
    assert np.array_equal(resize_image(np.ones((3, 7, 3), np.float32), 5, filter=method), np.ones((3, 5, 5)))


def test_padding_keeps_proportions(rng):
    image = np.full((1, 10, 20), -1.0, np.float32)
    out = resize_image(image, 8, fit="pad")[0]
    assert (out[2:6] == -1).all() and (out[:2] == 1).all() and (out[6:] == 1).all()
    assert np.array_equal(resize_image(image.transpose(0, 2, 1), 8, fit="pad")[0], out.T)
    assert (resize_image(image, 8) == -1).all()
    assert resize_image(np.zeros((3, 1, 900), np.float32), 4, fit="pad").shape == (3, 4, 4)  # a line stays a line


def test_wrong_resizing():
    image = np.zeros((3, 4, 4), np.float32)
    for call, words in ((lambda: resize_image(image[0], 4), "a picture is"), (lambda: resize_image(image, 0), "side"),
                        (lambda: resize_image(image, 4, fit="crop"), "unknown fit 'crop'"),
                        (lambda: resize_image(image, 4, filter="cubic"), "filter 'cubic'")):
        with pytest.raises(UsageError, match=words):
            call()


# ---- names of classes --------------------------------------------------------------------------------------------

NAMES = ("loggerhead, loggerhead turtle", "mud turtle", "box turtle, box tortoise", "Zebra", "saint_bernard",
         "crane", "crane", "zebra finch", "ant", "antelope", "7", "heron, egret", "egret tree")


@pytest.mark.parametrize("word, found", [
    ("zebra", 3), ("ZEBRA", 3), ("saint bernard", 4), ("Saint-Bernard", 4), (" saint__bernard ", 4), ("bernard", 4),
    ("box tortoise", 2), ("tortoise", 2), ("loggerhead", 0), ("finch", 7), ("ant", 8), ("telop", 9), ("5", 5),
    ("7", 10), ("loggerhead, loggerhead turtle", 0), ("egret", 11),
])
def test_a_word_means_a_class(word, found):
    assert find_classes([word], NAMES) == [found]


def test_several_words():
    assert find_classes(["zebra", "2", "Box Turtle", "ant"], NAMES) == [3, 2, 8]


@pytest.mark.parametrize("word, words", [
    ("turtle", "class 'turtle' is part of 3 names: loggerhead, loggerhead turtle, mud turtle, box turtle"),
    ("zebre", "unknown class 'zebre': did you mean Zebra"),
    ("crane", "2 classes have that name, give an id: 5, 6"),
    ("13", "class 13: ids are 0 to 12"), ("9" * 30, "unknown class '9999"),
    ("qqqq", "there are 13, such as .*, ...; or give an id from 0 to 12"),
    ("", "unknown class ''"), (" _ ", "unknown class"), ("-1", "class -1: ids are 0 to 12"),
])
def test_a_word_that_means_none_or_many(word, words):
    with pytest.raises(UsageError, match=words) as caught:
        find_classes([word], NAMES)
    assert "\n" not in str(caught.value)


def test_no_word_at_all():
    with pytest.raises(UsageError, match="no class given"):
        find_classes([], NAMES)
