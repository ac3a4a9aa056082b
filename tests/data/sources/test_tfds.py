import re

import numpy as np
import prepared
import pytest
from prepared import one_line

from diffusion_jax.data.sources import TFDS, DataError

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SPLITS = {"train": 50, "test": 10}


def examples_of(name):
    shape = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[name]
    return {split: prepared.examples(n, shape, seed) for seed, (split, n) in enumerate(SPLITS.items())}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """MNIST and CIFAR-10 as TFDS prepares them, with 50 and 10 images of noise."""
    path = tmp_path_factory.mktemp("tfds")
    prepared.prepare(path, "mnist", "3.0.1", (28, 28, 1), examples_of("mnist"))
    prepared.prepare(path, "cifar10", "3.0.2", (32, 32, 3), examples_of("cifar10"), class_names=CIFAR10)
    return str(path)


def content(source):
    """Label of each image, by its pixels."""
    rows = [source.rows[i] for i in range(len(source))]
    return {row["image"].tobytes(): int(row["label"]) for row in rows}


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("mnist", (28, 28, 1), list("0123456789")), ("cifar10", (32, 32, 3), CIFAR10)],
)
def test_tfds_reads_prepared_data(data_dir, name, shape, classes):
    parts = TFDS(name, data_dir=data_dir).open()
    for part, examples in zip(parts, examples_of(name).values(), strict=True):
        assert part.image_shape == shape
        assert part.num_classes == 10
        assert list(part.class_names) == classes
        row = part.rows[0]
        assert (row["image"].shape, row["image"].dtype) == (shape, np.uint8)
        assert (row["label"].shape, row["label"].dtype) == ((), np.int32)
        assert row.keys() == {"image", "label"}
        assert len(part) == len(examples)
        assert content(part) == {example["image"].tobytes(): example["label"] for example in examples}
    assert parts[0].fingerprint != parts[1].fingerprint


def test_tfds_is_random_access(data_dir):
    training, _ = TFDS("mnist", data_dir=data_dir).open()
    again, _ = TFDS("mnist:3.0.1", data_dir=data_dir).open()
    for i in (49, 0, 31):
        np.testing.assert_array_equal(training.rows[i]["image"], again.rows[i]["image"])
    assert training.fingerprint == again.fingerprint


def test_tfds_opens_the_splits_that_are_asked_for(data_dir):
    training, held_out = TFDS("mnist", data_dir=data_dir, train_split="train[:20]", heldout_split="train[20:]").open()
    assert (len(training), len(held_out)) == (20, 30)
    whole, _ = TFDS("mnist", data_dir=data_dir).open()
    np.testing.assert_array_equal(held_out.rows[0]["image"], whole.rows[20]["image"])


def test_tfds_lists_the_splits(data_dir):
    with pytest.raises(DataError, match="split \"trian\" .*\\['test', 'train'\\]") as error:
        TFDS("mnist", data_dir=data_dir, train_split="trian").open()
    assert "heldout_split" not in one_line(error)


def test_tfds_says_how_to_hold_out_a_part(data_dir):
    with pytest.raises(DataError, match='split "validation"') as error:
        TFDS("mnist", data_dir=data_dir, heldout_split="validation").open()
    remedy = dict(re.findall(r'(\w+_split)="(.+?)"', one_line(error)))
    training, held_out = TFDS("mnist", data_dir=data_dir, **remedy).open()
    assert (len(training), len(held_out)) == (45, 5)


def test_tfds_without_labels_has_no_classes(tmp_path):
    prepared.prepare(
        tmp_path, "unlabelled", "1.0.0", (4, 4, 3), {"train": prepared.examples(4, (4, 4, 3), 0)}, label=None
    )
    training, _ = TFDS("unlabelled", str(tmp_path), train_split="train[:2]", heldout_split="train[2:]").open()
    assert (training.num_classes, training.class_names) == (0, ())
    assert training.rows[0].keys() == {"image"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": None}, r"must have a feature \"image\", has \['label'\]"),
        ({"shape": (None, None, 3)}, r"must have the same size, got \(None, None, 3\)"),
        ({"dtype": np.uint16}, "must have 8 bits per channel, got .*uint16"),
        ({"label": np.int64}, 'its feature "label" must be a class'),
    ],
)
def test_tfds_refuses_other_features(tmp_path, changes, says):
    shape = changes.pop("shape", (4, 4, 1))
    rows = prepared.examples(2, (4, 4, shape[-1]), 0)
    prepared.prepare(tmp_path, "odd", "1.0.0", shape, {"train": rows, "test": rows}, **changes)
    with pytest.raises(DataError, match=f'dataset = "odd": .*{says}.*; use another dataset') as error:
        TFDS("odd", data_dir=str(tmp_path)).open()
    one_line(error)


@pytest.mark.parametrize(("wrong", "right"), [("mnst", "mnist"), ("cifar", "cifar10")])
def test_tfds_offers_the_nearest_names(wrong, right):
    with pytest.raises(DataError, match=f'dataset = "{wrong}": .*did you mean .*{right}') as error:
        TFDS(wrong).open()
    one_line(error)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "mnist:3.0.1", "imdb_reviews"])
def test_tfds_says_how_to_prepare_a_missing_dataset(tmp_path, name):
    with pytest.raises(DataError) as error:
        TFDS(name, data_dir=str(tmp_path)).open()
    plain = name.split(":")[0]
    command = f"`tfds build {plain} --file_format=array_record --data_dir={tmp_path}`"
    assert command in one_line(error)


def test_the_training_split_is_not_held_out():
    with pytest.raises(
        ValueError, match='heldout_split = "train": must differ from train_split; use train_split="train'
    ):
        TFDS("mnist", train_split="train", heldout_split="train")


def test_a_dataset_needs_a_name():
    with pytest.raises(ValueError, match="dataset = '': must be a string that is not empty"):
        TFDS("")
