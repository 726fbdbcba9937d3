"""data/photos.py: which files of a folder become photos, how each is cut, and what bad folders are told."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygan.data.photos import load_photos, square
from tinygan.errors import TinyganError


def save(path: Path, pixels, mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(path)
    return path


def plain(path: Path, value=100, side=32) -> Path:
    return save(path, np.full((side, side, 3), value))


def test_the_central_square_of_each_picture_is_kept(tmp_path):
    wide = np.zeros((32, 80, 3), np.uint8)
    wide[:, 24:56] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    save(tmp_path / "a.png", wide)
    save(tmp_path / "b.png", wide.swapaxes(0, 1))
    photos = load_photos(tmp_path, 32)
    middle = wide[:, 24:56].transpose(2, 0, 1)
    assert (photos.images[0] == middle).all() and (photos.images[1] == middle.swapaxes(1, 2)).all()
    assert photos.images.dtype == np.uint8 and len(photos) == 2


def test_an_odd_pixel_more_is_cut_off_at_the_bottom_and_on_the_right():
    picture = np.linspace(-1, 1, 3 * 8 * 11, dtype=np.float32).reshape(3, 8, 11)
    kept = np.rint((picture[:, :, 1:9] + 1) * 127.5).astype(np.uint8)
    assert (square(picture, 8) == kept).all()
    kept = np.rint((picture.swapaxes(1, 2)[:, 1:9] + 1) * 127.5).astype(np.uint8)
    assert (square(picture.swapaxes(1, 2), 8) == kept).all()


def test_a_picture_is_shrunk_by_averages_not_by_leaving_pixels_out():
    stripes = np.tile(np.array([-1, 1], np.float32), (3, 64, 32))
    assert abs(square(stripes, 16)[:, :, 2:-2].astype(int) - 128).max() <= 3


def test_grey_transparent_and_nested_pictures_of_any_format(tmp_path):
    save(tmp_path / "1.png", np.full((32, 32), 50), "L")
    save(tmp_path / "2.png", np.concatenate([np.full((32, 32, 3), 0), np.zeros((32, 32, 1))], axis=2), "RGBA")
    save(tmp_path / "deep" / "er" / "3.bmp", np.full((32, 32, 3), 7))
    save(tmp_path / "deep" / "4.gif", np.full((32, 32), 9), "L")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    photos = load_photos(tmp_path, 32, say=pytest.fail)
    assert [image.min() for image in photos.images] == [50, 255, 9, 7]
    assert np.ptp(photos.images, axis=(1, 2, 3)).max() == 0
    assert photos.source == f"4 photos of 32 pixels from {tmp_path}"


def test_the_hash_is_of_the_pixels_wherever_they_lie(tmp_path):
    for place in ("here", "there"):
        plain(tmp_path / place / "a.png")
        plain(tmp_path / place / "b.png", 3)
    here, there = (load_photos(tmp_path / place, 32).hash for place in ("here", "there"))
    assert here == there != load_photos(tmp_path / "here", 16).hash
    plain(tmp_path / "there" / "b.png", 4)
    assert load_photos(tmp_path / "there", 32).hash != here


def test_what_cannot_be_read_is_left_out_in_a_few_lines_and_a_count(tmp_path):
    for i in range(3):
        plain(tmp_path / f"good{i}.png", side=20 + i)
    for i in range(6):
        (tmp_path / f"bad{i}.jpg").write_bytes(b"<html>not found</html>" if i else b"")
    lines, seen = [], []
    photos = load_photos(tmp_path, 22, say=lines.append, progress=lambda *at: seen.append(at))
    assert len(photos) == 3 and "6 left out" in photos.source
    assert len(lines) == 5 and all("\n" not in line for line in lines)
    assert "bad0.jpg: it is empty" in lines[0] and "bad2.jpg: it is not a picture" in lines[2]
    assert lines[3] == "note: left out: 3 more"
    assert lines[4].startswith("note: 2 of the 3 pictures are smaller than 22 pixels and were enlarged")
    assert seen == [(i, 9) for i in range(1, 10)]


def empty(folder):
    folder.mkdir()


def words_alone(folder):
    folder.mkdir()
    (folder / "a.txt").write_text("a")


def none_readable(folder):
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\nrubbish")


BAD = {
    "a folder that is not there": (lambda folder: None, "photos is not there: name a folder of pictures"),
    "a file": (lambda folder: plain(folder.with_suffix(".png")).rename(folder), "is a file, no folder"),
    "an empty folder": (empty, "no pictures in .*: it is empty; expected .png"),
    "a folder of other files": (words_alone, r"no pictures in .*: 1 files there \(1 .txt\); expected .png"),
    "damaged pictures alone": (none_readable, "none of the 2 pictures in .* can be read; the first: .*a.png"),
    "a single picture": (lambda folder: plain(folder / "a.png"), "holds one picture that can be read: give a folder"),
}


@pytest.mark.parametrize("make, words", BAD.values(), ids=BAD)
def test_a_bad_folder_gets_one_line(tmp_path, make, words):
    make(tmp_path / "photos")
    with pytest.raises(TinyganError, match=words) as caught:
        load_photos(tmp_path / "photos", 32)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.skipif(not Path(os.environ.get("TINYGAN_DATA", "nowhere"), "photos").is_dir(),
                    reason="TINYGAN_DATA names no folder with photos/")
def test_all_of_the_varied_photos_can_be_read(tmp_path):
    folder = Path(os.environ["TINYGAN_DATA"], "photos")
    some = tmp_path / "some"
    some.mkdir()
    for path in sorted(folder.glob("*.jpg"))[::60]:
        (some / path.name).symlink_to(path)
    photos = load_photos(some, 64, say=pytest.fail)
    assert len(photos) == len(list(some.iterdir())) > 30
    assert 60 < photos.images.mean() < 200 and photos.images.std() > 40
