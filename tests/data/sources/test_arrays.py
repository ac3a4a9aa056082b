import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from prepared import arrays, one_line, stacked
from sklearn.datasets import load_digits

from diffusion_jax.data.sources import IDX, NPZ, DataError, Digits

IMAGES, LABELS = arrays()


# Digits


def test_digits_are_1797_with_every_tenth_held_out():
    training, held_out = Digits().open()
    assert (len(training), len(held_out)) == (1617, 180)
    labels = load_digits().target
    np.testing.assert_array_equal(stacked(held_out, "label"), labels[::10])
    np.testing.assert_array_equal(stacked(training, "label"), [label for i, label in enumerate(labels) if i % 10])


def test_digits_are_images_of_8x8_in_10_classes():
    for source in Digits().open():
        assert source.image_shape == (8, 8, 1)
        assert source.num_classes == 10
        row = source.rows[0]
        assert (row["image"].shape, row["image"].dtype) == ((8, 8, 1), np.uint8)
        assert (row["label"].shape, row["label"].dtype) == ((), np.int32)


def test_the_ink_of_digits_comes_back_exactly():
    """0..16 as 0..255 loses nothing: 17 levels, white and black at the ends."""
    _, held_out = Digits().open()
    levels = stacked(held_out, "image")[..., 0]
    ink = load_digits().images[::10]
    np.testing.assert_array_equal(np.rint(levels / 255 * 16), ink)
    assert (levels[ink == 0] == 0).all()
    assert (levels[ink == 16] == 255).all()
    assert len(np.unique(levels)) == 17


# NPZ


def test_npz_holds_what_was_saved(tmp_path):
    np.savez(tmp_path / "x.npz", image=IMAGES, label=LABELS)
    training, held_out = NPZ(str(tmp_path / "x.npz"), holdout=4).open()
    np.testing.assert_array_equal(stacked(held_out, "image"), IMAGES[::4])
    np.testing.assert_array_equal(stacked(held_out, "label"), LABELS[::4])
    assert (len(training), training.num_classes) == (15, 5)


def test_npz_needs_no_labels(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", image=IMAGES)
    assert NPZ(str(tmp_path / "x.npz")).open()[0].num_classes == 0


def no_file(path):
    pass


def no_image(path):
    np.savez(path, images=IMAGES, label=LABELS)


def pickled(path):
    np.savez(path, image=np.array([{"a": 1}] * 20, dtype=object))


def not_npz(path):
    path.write_text("image,label\n")


def a_directory(path):
    path.mkdir()


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    np.savez(path, image=IMAGES, label=LABELS)
    path.write_bytes(path.read_bytes()[:300])


def flipped_bit(path):
    np.savez(path, image=IMAGES, label=LABELS)
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("image.npy").header_offset
    data = bytearray(path.read_bytes())
    data[start + 300] ^= 1
    path.write_bytes(data)


def a_single_array(path):
    with path.open("wb") as file:
        np.save(file, IMAGES)


def large_labels(path):
    np.savez(path, image=IMAGES, label=LABELS.astype(np.uint64) << 40)


def labels_as_floats(path):
    np.savez(path, image=IMAGES, label=LABELS / 1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_file, "cannot be read as .npz .*No such file"),
        (no_image, r"must have the array .image..*; it has \['images', 'label'\]"),
        (pickled, "cannot be read as .npz"),
        (not_npz, "cannot be read as .npz"),
        (a_directory, "cannot be read as .npz"),
        (empty, "cannot be read as .npz"),
        (truncated, "cannot be read as .npz"),
        (flipped_bit, "cannot be read as .npz"),
        (a_single_array, "cannot be read as .npz"),
        (large_labels, "labels contain 1099511627776: must be from 0"),
        (labels_as_floats, "labels = an array float64.20.: must be 20 integers"),
    ],
)
def test_a_wrong_npz_is_refused_by_name_in_one_line(tmp_path, make, says):
    path = tmp_path / "x.npz"
    make(path)
    with pytest.raises(DataError, match=says) as error:
        NPZ(str(path)).open()
    assert f'path = "{path}"' in one_line(error)


def test_pickled_content_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    np.savez(tmp_path / "x.npz", image=np.array([Bomb()], dtype=object))
    with pytest.raises(DataError):
        NPZ(str(tmp_path / "x.npz")).open()
    assert not (tmp_path / "ran").exists()


# IDX


TRAIN = arrays(20, (5, 4), classes=3)
TEST = arrays(6, (5, 4), classes=4, seed=1)


def idx(array):
    """The bytes of an idx file, by its description: 0, 0, 8, dimensions, sizes (big-endian), data."""
    sizes = b"".join(struct.pack(">I", n) for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def mnist(directory, form="{}-{}-idx{}-ubyte", compress=lambda data: data, **parts):
    """Writes the files of the parts, (images, labels) of each."""
    for part, (images, labels) in (parts or {"train": TRAIN, "t10k": TEST}).items():
        (directory / form.format(part, "images", 3)).write_bytes(compress(idx(images)))
        (directory / form.format(part, "labels", 1)).write_bytes(compress(idx(labels)))
    return str(directory)


@pytest.mark.parametrize(
    ("form", "compress"),
    [
        ("{}-{}-idx{}-ubyte", bytes),
        ("{}-{}.idx{}-ubyte", bytes),
        ("{}-{}-idx{}-ubyte.gz", gzip.compress),
        ("{}-{}.idx{}-ubyte.gz", gzip.compress),
        ("{}-{}-idx{}-ubyte", gzip.compress),
        ("{}-{}-idx{}-ubyte.gz", bytes),
    ],
)
def test_idx_files_are_read_compressed_or_not(tmp_path, form, compress):
    """Whatever the name says: browsers unpack a .gz and leave its name."""
    parts = IDX(mnist(tmp_path, form, compress)).open()
    for source, (images, labels) in zip(parts, (TRAIN, TEST), strict=True):
        assert source.image_shape == (5, 4, 1)
        assert source.num_classes == 4
        np.testing.assert_array_equal(stacked(source, "image")[..., 0], images)
        np.testing.assert_array_equal(stacked(source, "label"), labels)
        assert source.rows[0]["label"].dtype == np.int32
    assert parts[0].fingerprint != parts[1].fingerprint


def test_without_a_test_pair_a_part_of_train_is_held_out(tmp_path):
    training, held_out = IDX(mnist(tmp_path, train=TRAIN), holdout=5).open()
    np.testing.assert_array_equal(stacked(held_out, "image")[..., 0], TRAIN[0][::5])
    assert (len(training), training.num_classes) == (16, 3)


@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_missing_idx_file_is_named(tmp_path, name):
    path = mnist(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f'path = "{path}": has no file {name}') as error:
        IDX(path).open()
    one_line(error)


def test_no_directory_of_idx_files(tmp_path):
    with pytest.raises(DataError, match="has no file train-images-idx3-ubyte, with or without .gz"):
        IDX(str(tmp_path / "none")).open()


def float_type(data):
    return data[:2] + b"\x0d" + data[3:]


def of_one_dimension(data):
    return data[:3] + b"\x01" + data[4:]


def swapped_bytes(data):
    return data[:4] + data[4:8][::-1] + data[8:]


def half_a_gz(data):
    return gzip.compress(data)[:-20]


def broken_gz(data):
    packed = bytearray(gzip.compress(data))
    packed[len(packed) // 2] ^= 255
    return bytes(packed)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (float_type, "must be an idx file of unsigned bytes with 3 dimensions"),
        (of_one_dimension, "must be an idx file"),
        (lambda data: b"", "must be an idx file"),
        (lambda data: data[:10], "must be an idx file"),
        (lambda data: data[:-1], "must have 400 bytes for .20, 5, 4., got 399"),
        (lambda data: data + b"x", "must have 400 bytes for .20, 5, 4., got 401"),
        (swapped_bytes, "must have 6710886400 bytes for .335544320, 5, 4., got 400"),
        (lambda data: b"\xff" * 16, "must be an idx file"),
        (half_a_gz, "cannot be read"),
        (broken_gz, "cannot be read"),
        (lambda data: gzip.compress(data)[:5], "cannot be read"),
    ],
)
def test_a_damaged_idx_file_is_named_in_one_line(tmp_path, damage, says):
    path = mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=f"{file}: {says}") as error:
        IDX(path).open()
    one_line(error)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"train": (TRAIN[0], TRAIN[1][:-1])}, "train has 20 images and 19 labels; must match"),
        (
            {"train": TRAIN, "t10k": (TEST[0][:-2], TEST[1])},
            "t10k has 4 images and 6 labels; must match",
        ),
        (
            {"train": TRAIN, "t10k": (TEST[0][:0], TEST[1][:0])},
            "t10k has 0 images and 0 labels",
        ),
        (
            {"train": TRAIN, "t10k": (TEST[0][:, :4], TEST[1])},
            r"images of train and t10k are \(5, 4, 1\), \(4, 4, 1\); must match",
        ),
        ({"train": TRAIN, "t10k": TRAIN}, "train and t10k are the same images"),
        ({"train": (TRAIN[0][:5], TRAIN[1][:5])}, "holdout = 10: must be >= 2 and at most 5, the number of images"),
    ],
)
def test_idx_files_that_do_not_fit_together_are_refused(tmp_path, parts, says):
    with pytest.raises(DataError, match=says) as error:
        IDX(mnist(tmp_path, **parts)).open()
    one_line(error)


# Names and settings


def test_npz_with_arrays_that_nobody_reads_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", image=IMAGES, labels=LABELS)
    with pytest.raises(DataError, match=r"must have the array .image., maybe .label.; it has \['image', 'labels'\]"):
        NPZ(str(tmp_path / "x.npz")).open()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: IDX(""), "path = '': must be a string that is not empty"),
        (lambda: IDX("x", 1), "holdout = 1: must be an integer >= 2"),
        (lambda: NPZ("x", 1), "holdout = 1: must be an integer >= 2"),
        (lambda: NPZ("x", flip="no"), "flip = 'no': must be of type bool"),
    ],
)
def test_wrong_settings_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
