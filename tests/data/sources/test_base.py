import numpy as np
import pytest
from prepared import arrays, one_line, stacked

from diffusion_jax.data.sources import DataError, from_arrays


def test_every_nth_image_is_held_out_and_none_is_lost():
    images, labels = arrays(23)
    training, held_out = from_arrays(images, labels, holdout=4)
    np.testing.assert_array_equal(stacked(held_out, "image"), images[[0, 4, 8, 12, 16, 20]])
    assert (len(training), len(held_out)) == (17, 6)
    together = np.concatenate([stacked(part, "image") for part in (training, held_out)])
    assert {x.tobytes() for x in together} == {x.tobytes() for x in images}


def test_an_image_keeps_its_label():
    images, labels = arrays(23)
    of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for source in from_arrays(images, labels):
        for i in range(len(source)):
            row = source.rows[i]
            assert row["label"] == of[row["image"].tobytes()]


def test_images_without_labels_have_no_classes():
    training, _ = from_arrays(arrays()[0])
    assert training.num_classes == 0
    assert training.rows[0].keys() == {"image"}


def test_classes_are_counted_by_default():
    images, labels = arrays(classes=5)
    assert from_arrays(images, labels)[0].num_classes == 5
    assert from_arrays(images, labels, num_classes=9)[0].num_classes == 9


IMAGES, LABELS = arrays()


@pytest.mark.parametrize(
    ("images", "labels", "settings", "says"),
    [
        (IMAGES.astype(np.float32), None, {}, r"images reach from 0 to 255: scale floats to \[-1, 1\]"),
        (IMAGES.astype(np.int32), None, {}, "images = an array int32.* must be uint8"),
        (IMAGES[..., 0], None, {}, r"\[20, 4, 4\]: must be uint8 or float32 \[N, H, W, C\]"),
        (IMAGES, LABELS[:-1], {}, r"labels = an array int64\[19\]: must be 20 integers, one per image"),
        (IMAGES, LABELS[:, None], {}, r"\[20, 1\]: must be 20 integers"),
        (IMAGES, LABELS.astype(np.float32), {}, "labels = an array float32"),
        (IMAGES, LABELS - 1, {}, "contain -1: must be from 0"),
        (IMAGES, LABELS.astype(bool), {}, "labels = an array bool"),
        (IMAGES, LABELS.astype(np.uint64) << 40, {}, "contain 1099511627776: must be from 0 to 2147483646"),
        (IMAGES, LABELS.astype(np.uint64) << 40, {"num_classes": 5}, "contain 1099511627776: must be from 0 to 4"),
        (IMAGES, LABELS + 2**31 - 3, {}, "contain 2147483647: must be from 0 to 2147483646"),
        (IMAGES, LABELS, {"num_classes": 4}, "contain 4: must be from 0 to 3"),
        (IMAGES, LABELS, {"holdout": 1}, "holdout = 1: must be >= 2"),
        (IMAGES, LABELS, {"holdout": 0}, "holdout = 0"),
        (IMAGES, LABELS, {"holdout": 21}, "holdout = 21: .* at most 20, the number of images"),
        (IMAGES[:0], None, {}, r"images = an array uint8\[0, 4, 4, 1\]: must be .*; use at least one"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(images, labels, settings, says):
    with pytest.raises(DataError, match=says) as error:
        from_arrays(images, labels, **settings)
    one_line(error)


def test_labels_up_to_the_last_class_pass():
    assert from_arrays(IMAGES, LABELS, num_classes=5)[0].num_classes == 5


def changed_pixel(images, labels):
    images = images.copy()
    images[1, 3, 2, 0] ^= 1
    return images, labels


def changed_label(images, labels):
    labels = labels.copy()
    labels[1] = (labels[1] + 1) % 5
    return images, labels


def swapped(images, labels):
    order = np.arange(len(images))
    order[[1, 2]] = [2, 1]
    return images[order], labels[order]


def unlabelled(images, labels):
    return images, None


def reshaped(images, labels):
    return images.reshape(20, 2, 8, 1), labels


@pytest.mark.parametrize(
    "change",
    [
        changed_pixel,
        changed_label,
        swapped,
        unlabelled,
        reshaped,
    ],
)
def test_the_fingerprint_changes_with_the_data(change):
    before, _ = from_arrays(IMAGES, LABELS)
    after, _ = from_arrays(*change(IMAGES, LABELS))
    assert before.fingerprint != after.fingerprint


def test_the_fingerprint_depends_on_the_data_alone():
    first, held_out = from_arrays(IMAGES, LABELS)
    again, _ = from_arrays(IMAGES.copy(), LABELS.astype(np.int16).tolist())
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != held_out.fingerprint


@pytest.mark.parametrize(
    ("labels", "num_classes", "says"),
    [
        (2 * LABELS, None, "labels: 4 of the 9 classes have no training images, the first is 1; "),
        (LABELS, 7, "labels: 2 of the 7 classes have no training images, the first is 5; "),
        (LABELS + 1, None, "labels: 1 of the 6 classes have no training images, the first is 0; "),
        (LABELS, 5, None),
    ],
)
def test_labels_with_gaps_are_told_in_one_line(caplog, labels, num_classes, says):
    assert from_arrays(IMAGES, labels, num_classes=num_classes)[0].num_classes == num_classes or labels.max() + 1
    lines = [record.getMessage() for record in caplog.records]
    assert (len(lines) == 1 and lines[0].startswith(says)) if says else not lines


# Classes


def test_one_class_only_is_refused_for_arrays_too():
    images, _ = arrays(20)
    with pytest.raises(DataError, match='class "3": must not be the only class; add another, or use no classes'):
        from_arrays(images, np.full(20, 3))


def test_a_class_that_is_all_held_out_is_refused_for_arrays_too():
    images, _ = arrays(20)
    with pytest.raises(DataError, match='class "1": all its images are held out; change holdout, or add images'):
        from_arrays(images, (np.arange(20) % 10 == 0).astype(int), holdout=10)


def test_images_without_pixels_are_refused():
    with pytest.raises(DataError, match=r"images = an array uint8\[20, 0, 28, 1\]"):
        from_arrays(np.zeros((20, 0, 28, 1), np.uint8))
