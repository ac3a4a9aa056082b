"""Data passed from Python: arrays and sequences."""

import dataclasses
import logging

import numpy as np
import pytest
from prepared import arrays, one_line, stacked

from diffusion_jax.data.pipeline import Batches
from diffusion_jax.data.sources import DataError, UserData

IMAGES, LABELS = arrays(40, (6, 5, 3), classes=4)
ROWS = [{"image": image, "label": label} for image, label in zip(IMAGES, LABELS, strict=True)]
FLOATS = (IMAGES / 127.5 - 1).astype(np.float32)


class Lazy:
    """A sequence that is no list, and counts what is read."""

    def __init__(self, rows):
        self.rows, self.read = rows, []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        self.read.append(i)
        return self.rows[i]


@pytest.mark.parametrize("data", [(IMAGES, LABELS), {"image": IMAGES, "label": list(LABELS)}, ROWS, Lazy(ROWS)])
def test_every_form_gives_the_same_examples(data):
    training, held_out = UserData(data, holdout=5).open()
    assert (len(training), len(held_out), training.num_classes) == (32, 8, 4)
    out = np.arange(40) % 5 == 0
    for source, part in ((training, ~out), (held_out, out)):
        np.testing.assert_array_equal(stacked(source, "image"), IMAGES[part])
        np.testing.assert_array_equal(stacked(source, "label"), LABELS[part])
    assert Batches(training, 8, seed=0)[0]["image"].shape == (8, 6, 5, 3)


@pytest.mark.parametrize("shape", [(6, 5, 1), (6, 5, 2), (4, 4, 16)])
@pytest.mark.parametrize("as_rows", [False, True])
def test_float_images_of_any_number_of_channels_stay_as_they_are(shape, as_rows):
    images = np.random.default_rng(0).normal(size=(30, *shape)).astype(np.float32)
    training, held_out = UserData([{"image": x} for x in images] if as_rows else images).open()
    assert (training.image_shape, training.dtype, training.num_classes) == (shape, np.float32, 0)
    assert training.largest == pytest.approx(np.abs(images).max())
    np.testing.assert_array_equal(stacked(held_out, "image"), images[::10])


def test_a_sequence_is_not_read_as_a_whole_if_its_classes_are_known():
    lazy = Lazy(ROWS * 100)
    training, _ = UserData(lazy, num_classes=4).open()
    assert len(lazy.read) < 300
    first = len(lazy.read)
    training.rows[0]
    assert len(lazy.read) == first + 1


@pytest.mark.parametrize("as_rows", [False, True])
def test_the_fingerprint_is_that_of_the_content(as_rows):
    def fingerprint(images, **settings):
        data = [{"image": x} for x in images] if as_rows else images
        return UserData(data, **settings).open()[0].fingerprint

    other = IMAGES.copy()
    other[1, 0, 0, 0] ^= 1
    found = [fingerprint(IMAGES), fingerprint(other), fingerprint(IMAGES[:-1]), fingerprint(IMAGES, holdout=5)]
    assert len(set(found)) == 4
    assert fingerprint(IMAGES.copy()) == found[0]


def test_an_example_that_was_not_looked_at_is_checked_when_it_is_read():
    rows = [{"image": x, "label": 1} for x in np.repeat(FLOATS, 20, 0)]
    rows[101] = {"image": IMAGES[0], "label": 1}
    training, _ = UserData(rows, num_classes=4).open()
    position = [i for i in range(800) if i % 10].index(101)
    with pytest.raises(DataError, match=r"example 101: image = .*uint8.*: must be as example 0, .*float32"):
        training.rows[position]


def test_the_fingerprint_of_a_sequence_has_all_labels_that_were_read():
    def fingerprint(change=None, kind=int, **settings):
        rows = [{"image": x, "label": kind(i % 4)} for i, x in enumerate(np.repeat(IMAGES, 20, 0))]
        if change is not None:
            rows[change]["label"] = kind(3)
        return UserData(rows, **settings).open()[0].fingerprint

    assert fingerprint(101) != fingerprint()
    assert fingerprint(kind=np.int16) == fingerprint()
    assert fingerprint(num_classes=5) != fingerprint(num_classes=4)


def test_classes_of_a_sequence_are_checked(caplog):
    with pytest.raises(DataError, match="must not be the only class"):
        UserData([{"image": x, "label": 0} for x in IMAGES]).open()
    UserData([{"image": x, "label": i % 3 * 2} for i, x in enumerate(IMAGES)]).open()
    assert "2 of the 5 classes have no training images" in caplog.text


def test_black_floats_are_not_taken_for_0_to_1(caplog):
    UserData(np.zeros((20, 4, 4, 1), np.float32)).open()
    assert caplog.messages == []


def test_data_of_arrays_can_be_compared():
    assert UserData(IMAGES) == UserData(IMAGES)
    assert UserData(IMAGES) != UserData(IMAGES, holdout=5)


def test_both_parts_of_a_sequence_have_their_own_fingerprint():
    training, held_out = UserData(ROWS).open()
    assert training.fingerprint != held_out.fingerprint


def test_class_names_reach_both_sources():
    names = ("cat", "dog", "owl", "fox")
    assert all(source.class_names == names for source in UserData(ROWS, class_names=names).open())


def changed(row: int, **fields):
    rows = [dict(each) for each in ROWS]
    rows[row] = {key: value for key, value in (rows[row] | fields).items() if value is not None}
    return rows


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "data = None: the data came from Python"),
        (3, "dataset = 3: must be arrays"),
        ("images", "dataset = 'images': must be arrays"),
        ([], "dataset is empty"),
        (IMAGES[..., 0], r"images = .*uint8\[40, 6, 5\].* use images\[..., None\]"),
        (IMAGES.astype(np.float64), "float64"),
        (IMAGES.astype(np.int32), "int32"),
        (FLOATS * 127.5, "scale floats"),
        (FLOATS * np.nan, "not finite"),
        ((IMAGES, LABELS[:-1]), "must be 40 integers, one per image"),
        ((IMAGES, LABELS - 1), "labels contain -1"),
        ({"image": IMAGES, "caption": LABELS}, r"dataset has \['caption', 'image'\]"),
        ({"label": LABELS}, r"dataset has \['label'\]"),
        (list(IMAGES), "example 0 is .*: must be a dict"),
        ([{"image": x, "text": "a"} for x in IMAGES], r"example 0 is a dict of \['image', 'text'\]"),
        (changed(7, label=None), "example 7 has image, example 0 has image and label"),
        ([*ROWS[:7], (IMAGES[7], 3), *ROWS[8:]], "example 7 is .*: must be a dict"),
        ([{"image": x[..., 0]} for x in IMAGES], r"example 0: image = .*\[6, 5\].* use image\[..., None\]"),
        ({"image": [IMAGES[0], IMAGES[1, :3]]}, "image cannot be one array"),
        (changed(7, label=[1, 2]), "example 7: label = .*: must be one integer"),
        (changed(7, image=IMAGES[0, :3]), r"example 7: image = .*\[3, 5, 3\].*: must be as example 0"),
        (changed(7, image=FLOATS[0]), "example 7: image = .*float32"),
        (changed(7, label=1.5), "example 7: label = 1.5: must be one integer"),
        (changed(7, label=2**40), "labels contain 1099511627776"),
        ((x for x in ROWS), r"use list\(...\) for an iterator"),
    ],
)
def test_other_data_are_refused_in_one_line(data, message):
    with pytest.raises(DataError, match=message) as error:
        UserData(data).open()
    assert len(one_line(error)) < 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_names": "abcd"}, "class_names = 'abcd': must be a list of texts"),
        ({"class_names": (1, 2, 3, 4)}, "must be a list of texts"),
        ({"class_names": ("a",)}, "class_names has length 1: must be 4"),
        ({"num_classes": 3}, "labels contain 3: must be from 0 to 2"),
        ({"holdout": 41}, "holdout = 41"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        UserData((IMAGES, LABELS), **settings).open()


def test_classes_without_labels_are_refused():
    with pytest.raises(DataError, match="num_classes = 3: the data have no labels"):
        UserData(IMAGES, num_classes=3).open()


def test_floats_that_are_all_from_0_to_1_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        UserData(FLOATS).open()
        assert caplog.messages == []
        UserData((FLOATS + 1) / 2).open()
    assert "use 2 * x - 1" in caplog.messages[0]


def test_the_data_are_the_only_field_that_a_config_lacks():
    fields = {field.name for field in dataclasses.fields(UserData)}
    assert fields == {"data", "holdout", "num_classes", "class_names", "flip"}
