import re
from pathlib import Path

import numpy as np
import pytest

from diffusion_jax.data.sources import TFDS, DataError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "tfds"


@pytest.fixture
def prepared():
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return str(SHARED)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "counts", "shape", "classes"),
    [
        ("mnist", (60_000, 10_000), (28, 28, 1), "0 1 2 3 4 5 6 7 8 9"),
        (
            "cifar10",
            (50_000, 10_000),
            (32, 32, 3),
            "airplane automobile bird cat deer dog frog horse ship truck",
        ),
    ],
)
def test_tfds_reads_prepared_data(prepared, name, counts, shape, classes):
    parts = TFDS(name, data_dir=prepared).open()
    assert tuple(len(part) for part in parts) == counts
    for part in parts:
        assert part.image_shape == shape
        assert part.num_classes == 10
        assert " ".join(part.class_names) == classes
        row = part.rows[0]
        assert (row["image"].shape, row["image"].dtype) == (shape, np.uint8)
        assert (row["label"].shape, row["label"].dtype) == ((), np.int32)
        assert row["image"].std() > 10  # a picture, not a blank
    assert parts[0].fingerprint != parts[1].fingerprint


def test_tfds_pictures_are_random_access(prepared):
    training, _ = TFDS("mnist", data_dir=prepared).open()
    again, _ = TFDS("mnist:3.0.1", data_dir=prepared).open()
    for i in (59_999, 0, 31_234):
        np.testing.assert_array_equal(training.rows[i]["image"], again.rows[i]["image"])
    assert training.fingerprint == again.fingerprint


def test_tfds_splits_are_those_asked_for(prepared):
    named = TFDS("mnist", data_dir=prepared, train_split="train[:100]", heldout_split="train[100:]")
    training, held_out = named.open()
    assert (len(training), len(held_out)) == (100, 59_900)
    whole, _ = TFDS("mnist", data_dir=prepared).open()
    np.testing.assert_array_equal(held_out.rows[0]["image"], whole.rows[100]["image"])


def test_tfds_names_the_splits_that_there_are(prepared):
    with pytest.raises(DataError, match="split \"trian\" .*\\['test', 'train'\\]") as error:
        TFDS("mnist", data_dir=prepared, train_split="trian").open()
    assert "heldout_split" not in one_line(error)


def test_tfds_tells_how_to_hold_out_what_is_no_split_of_its_own(prepared):
    with pytest.raises(DataError, match='split "validation"') as error:
        TFDS("mnist", data_dir=prepared, heldout_split="validation").open()
    remedy = dict(re.findall(r'(\w+_split)="(.+?)"', one_line(error)))
    training, held_out = TFDS("mnist", data_dir=prepared, **remedy).open()
    assert (len(training), len(held_out)) == (54_000, 6_000)


@pytest.mark.parametrize(("wrong", "right"), [("mnst", "mnist"), ("cifar", "cifar10")])
def test_tfds_offers_the_nearest_names(wrong, right):
    with pytest.raises(DataError, match=f'dataset = "{wrong}": .*did you mean .*{right}') as error:
        TFDS(wrong).open()
    one_line(error)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "mnist:3.0.1", "imdb_reviews"])
def test_tfds_says_how_to_prepare_what_is_not_there(tmp_path, name):
    with pytest.raises(DataError) as error:
        TFDS(name, data_dir=str(tmp_path)).open()
    plain = name.split(":")[0]
    command = f"`tfds build {plain} --file_format=array_record --data_dir={tmp_path}`"
    assert command in one_line(error)


def test_what_is_trained_on_is_not_held_out():
    with pytest.raises(ValueError, match='heldout_split = "train": is what is trained on; to hold out'):
        TFDS("mnist", train_split="train", heldout_split="train")
