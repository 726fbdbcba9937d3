"""What is measured of images of photos: real ones measure like real ones, copies are found, mirrored or not."""

import numpy as np
import pytest
from script_tools import write_photos
from vgg16_tools import small_file, small_net

from tinygan import Tensor
from tinygan.app import measure_photos
from tinygan.app.device import pick_device
from tinygan.app.measure_photos import PhotoMeasures, as_floats, find_features, nearest_photos, pairs_with_nearest
from tinygan.data.photos import Photos, load_photos
from tinygan.errors import TinyganError

CPU = pick_device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return load_photos(write_photos(tmp_path_factory.mktemp("photos"), 60), 32)


@pytest.fixture
def measures(photos):
    return PhotoMeasures(photos, find_features(None, CPU), 0)


def test_the_halves_hold_each_photo_once(measures, photos):
    both = np.concatenate([measures.first(30), measures.other(30)])
    assert measures.half == 30
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in as_floats(photos.images))


def test_features_of_photos_are_computed_once(measures, photos):
    calls = []
    counted = measure_photos.Features(lambda images: calls.append(len(images)) or images.mean(axis=(2, 3)), "")
    measures = PhotoMeasures(photos, counted, 0)
    found = [measures.features_of_first(m) for m in (10, 25, 10)]
    assert calls == [10, 15]
    assert [len(part) for part in found] == [10, 25, 10]
    np.testing.assert_array_equal(found[1], measures.first(25).mean(axis=(2, 3)))


def test_real_photos_measure_like_real_photos_and_others_do_not(measures):
    real = measures.measure(measures.other(30))
    noise = np.random.default_rng(0).random((30, 3, 32, 32)).astype(np.float32)
    wrong = {"noise": noise, "one photo": np.repeat(measures.other(1), 30, axis=0),
             "grey": np.full_like(noise, 0.5)}
    assert real["samples"] == 30 and real["precision"] > 0.6 < real["recall"] and real["coverage"] > 0.8
    for name, images in wrong.items():
        found = measures.measure(images)
        assert found["kid"] > 10 * abs(real["kid"]) and found["frechet"] > 2 * real["frechet"], name
        assert found["recall"] < 0.3 and found["coverage"] < 0.5, name


def test_copies_are_at_distance_0_mirrored_or_not(measures, photos, monkeypatch):
    monkeypatch.setattr(measure_photos, "BLOCK", 7)  # several blocks, the last one not whole
    some = np.array([3, 59, 20, 6, 7])
    images = as_floats(photos.images[some])
    images[[1, 4]] = images[[1, 4], ..., ::-1]
    index, mirrored, distance = nearest_photos(images, photos.images)
    assert index.tolist() == some.tolist() and mirrored.tolist() == [False, True, False, False, True]
    assert (distance == 0).all()
    assert measures.measure(images)["nearest"] == 0
    gap = images.copy()
    gap[0, 0, 0, 0] += 0.25  # of one pixel: that is the distance
    assert nearest_photos(gap, photos.images)[2].tolist() == [0.25, 0, 0, 0, 0]


def test_pairs_show_the_photo_below_the_image_the_nearest_first(photos):
    images = as_floats(photos.images[[5, 1, 8, 2]])
    for row, brighter in enumerate((0.03, 0.0, 0.01, 0.02)):
        images[row] += np.float32(brighter)
    images[3] = images[3, ..., ::-1]  # its photo is shown mirrored
    pairs = pairs_with_nearest(images, photos.images, 2)
    order = [1, 2, 3, 0]
    np.testing.assert_array_equal(pairs[[0, 1, 4, 5]], images[order])
    shown = as_floats(photos.images[[1, 8, 2, 5]])
    shown[2] = shown[2, ..., ::-1]
    np.testing.assert_array_equal(pairs[[2, 3, 6, 7]], shown)


def test_too_few_photos_leave_the_distance_to_the_nearest(photos):
    few = Photos(photos.images[:8], "")
    found = PhotoMeasures(few, find_features(None, CPU), 0).measure(as_floats(photos.images[10:14]))
    assert set(found) == {"nearest", "samples"} and found["nearest"] > 0
    assert measure_photos.in_words(found) == f"nearest photo at {found['nearest']:.3g} (4 samples)"


def test_vgg16s_features_are_means_of_its_last_map(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(measure_photos, "AT_ONCE", 3)
    features = find_features(small_file(tmp_path / "small.h5"), CPU)
    images = as_floats(photos.images[:5])
    maps = small_net().maps(Tensor(2 * images - 1), "conv5_3").numpy()
    np.testing.assert_allclose(features.compute(images), maps.mean(axis=(2, 3)) / 10, rtol=1e-4, atol=1e-6)
    assert "6 means of conv5_3 of the VGG16 in small.h5" in features.words
    with pytest.raises(TinyganError, match="absent"):
        find_features(tmp_path / "absent.h5", CPU)
