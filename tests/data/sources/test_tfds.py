import io
import re
import shutil
from pathlib import Path

import numpy as np
import prepared
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image
from prepared import one_line
from tensorflow_datasets.proto import tf_example_pb2

from diffusion_jax.data.pipeline import Batches, in_order
from diffusion_jax.data.sources import TFDS, DataError, shards

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


# Doors


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
def test_a_description_cannot_import_a_module(tmp_path, monkeypatch, key):
    """TFDS imports the module of a feature's class, whatever it is."""
    rows = prepared.examples(4, (4, 4, 1), 0)
    prepared.prepare(tmp_path, "own", "1.0.0", (4, 4, 1), {"train": rows[:2], "test": rows[2:]})
    assert len(TFDS("own", str(tmp_path)).open()[0]) == 2
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "hostile_feature.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path / "code")
    path = tmp_path / "own" / "1.0.0" / "features.json"
    own = '"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image"'
    assert own in path.read_text()
    path.write_text(path.read_text().replace(own, f'"{key}": "hostile_feature.Image"'))
    with pytest.raises(DataError, match=f"^{path}: names the class 'hostile_feature.Image', which would") as error:
        TFDS("own", str(tmp_path)).open()
    one_line(error)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["huggingface:mnist", "kaggle:me/mnist", "../mnist", "/etc", "mnist/a=1", "mnist:3", "m\nn"]
)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match=r"must be name, name/config or name:1\.0\.0") as error:
        TFDS(name)
    one_line(error)


@pytest.mark.parametrize(
    "name", ["imagenet_resized/64x64", "wikipedia/20230601.en:1.0.0", "mnist:3.*.*", "mnist:experimental_latest"]
)
def test_names_of_configs_and_versions_pass(name):
    assert TFDS(name).dataset == name


# Splits that share examples


@pytest.mark.parametrize(
    ("train", "held_out", "shares"),
    [
        ("train+test", "test", 10),
        ("test", "train+test", 10),
        ("train", "train[90%:]", 5),
        ("train[10%:20%]", "train", 5),
        ("train[:30]", "train[20:40]", 10),
        ("train[:-10]", "train[-11:]", 1),
        ("train[:50%]+train[60%:]", "train[55%:]+test", 20),
        ("train[0:50]", "train[:100%]", 50),
    ],
)
def test_splits_that_share_examples_are_refused(data_dir, train, held_out, shares):
    with pytest.raises(DataError) as error:
        TFDS("mnist", data_dir=data_dir, train_split=train, heldout_split=held_out).open()
    says = f'heldout_split = "{held_out}": must share no examples with train_split = "{train}", shares {shares}; use '
    assert one_line(error).startswith(says)


@pytest.mark.parametrize(
    ("train", "held_out"),
    [("train[:90%]", "train[90%:]"), ("train[10:]", "train[:10]"), ("train[:-10]+test[:5]", "train[-10:]+test[5:]")],
)
def test_splits_that_share_nothing_pass(data_dir, train, held_out):
    training, held = TFDS("mnist", data_dir=data_dir, train_split=train, heldout_split=held_out).open()
    assert not content(training).keys() & content(held).keys()


# Damaged files


@pytest.fixture
def copied(data_dir, tmp_path):
    """A copy of the prepared data, to damage."""
    return Path(shutil.copytree(data_dir, tmp_path / "tfds"))


def find_shard(data_dir, split):
    (shard,) = data_dir.glob(f"mnist/3.0.1/mnist-{split}.array_record*")
    return shard


def open_mnist(data_dir):
    return TFDS("mnist", data_dir=str(data_dir)).open()


def cut(shard):
    shard.write_bytes(shard.read_bytes()[:70_000])


def change_a_byte(shard):
    data = bytearray(shard.read_bytes())
    data[5000] ^= 255  # inside an example
    shard.write_bytes(data)


def replace_by_a_directory(shard):
    shard.unlink()
    shard.mkdir()


def replace_by_the_other_split(shard):
    other = "test" if "train" in shard.name else "train"
    shutil.copy(find_shard(shard.parents[2], other), shard)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "cannot be read (Corrupted Riegeli"),
        (lambda shard: shard.write_bytes(shard.read_bytes()[:2000]), "should be at least 64KB big"),
        (change_a_byte, "cannot be read (Corrupted Riegeli"),
        (lambda shard: shard.write_bytes(np.random.default_rng(0).bytes(131_072)), "cannot be read (Corrupted Riegeli"),
        (lambda shard: shard.write_bytes(b""), "is empty"),
        (lambda shard: shard.unlink(), "cannot be read (No such file or directory)"),
        (replace_by_a_directory, "cannot be read (Is a directory)"),
        (replace_by_the_other_split, "examples, and dataset_info.json says"),
    ],
)
def test_a_damaged_shard_is_named_before_anything_is_trained(copied, split, damage, says):
    shard = find_shard(copied, split)
    damage(shard)
    with pytest.raises(DataError) as error:
        open_mnist(copied)
    line = one_line(error)
    assert line.startswith(f"{shard}: ")
    assert says in line
    assert line.endswith("; copy the file again, or prepare the dataset again")


@pytest.mark.parametrize("part", [0, 1])
def test_a_shard_that_is_damaged_after_the_start_is_named_when_it_is_read(copied, part):
    source, shard = open_mnist(copied)[part], find_shard(copied, ["train", "test"][part])
    cut(shard)
    for read in (lambda: next(Batches(source, 4).iterate()), lambda: next(in_order(source, 4))):
        with pytest.raises(DataError, match=rf"^{shard}: example \d+ cannot be read .Corrupted Riegeli") as error:
            read()
        one_line(error)


def test_a_copy_of_the_training_file_is_not_held_out(tmp_path):
    rows = prepared.examples(10, (28, 28, 1), 0)
    prepared.prepare(tmp_path, "mnist", "3.0.1", (28, 28, 1), {"train": rows, "test": rows})
    shutil.copy(find_shard(tmp_path, "train"), find_shard(tmp_path, "test"))
    with pytest.raises(DataError, match="has the same examples as .*mnist-train") as error:
        open_mnist(tmp_path)
    assert one_line(error).startswith(str(find_shard(tmp_path, "test")))


def write_records(shard, records):
    writer = ArrayRecordWriter(str(shard), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize(
    ("label", "shape", "says"),
    [
        (-1, (28, 28), "label = -1: must be an integer from 0 to 9"),
        (2**40, (28, 28), "label = 1099511627776: must be an integer"),
        (3, (28, 27), r"image = an array uint8\[28, 27, 1\]: must be uint8\[28, 28, 1\]"),
    ],
)
def test_values_that_the_description_excludes_are_refused(copied, label, shape, says):
    """TFDS itself marks the examples of some test splits by the label -1."""
    shard, png = find_shard(copied, "test"), io.BytesIO()
    Image.new("L", shape[::-1]).save(png, "PNG")
    records = read_records(shard)
    example = tf_example_pb2.Example.FromString(records[4])
    example.features.feature["label"].int64_list.value[0] = label
    example.features.feature["image"].bytes_list.value[0] = png.getvalue()
    write_records(shard, [*records[:4], example.SerializeToString(), *records[5:]])
    source = TFDS("mnist", str(copied), "train[:40]", "train[40:]+test").open()[1]
    with pytest.raises(DataError, match=f"^{shard}: example 14: {says}") as error:
        list(in_order(source, 8))
    one_line(error)


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"\xff" + data])
def test_a_damaged_description_is_not_called_missing(copied, damage):
    path = copied / "mnist" / "3.0.1" / "dataset_info.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"^{path.parent}: cannot be read .*; copy the file again") as error:
        open_mnist(copied)
    one_line(error)


# The fingerprint


def read_records(shard):
    reader = ArrayRecordReader(str(shard))
    return reader.read_all()


def test_the_fingerprint_sees_changed_content(copied):
    """As many examples, of as many bytes."""
    before = open_mnist(copied)[0]
    shard = find_shard(copied, "train")
    records = read_records(shard)
    write_records(shard, [records[1], records[0], *records[2:]])
    after = open_mnist(copied)[0]
    assert after.fingerprint != before.fingerprint
    assert not after.has_fingerprint(before.fingerprint)


def test_the_fingerprint_depends_on_the_content_alone(copied):
    """Another compression of the same examples, as another version of TFDS might write, are the same data."""
    before = [part.fingerprint for part in open_mnist(copied)]
    shard = find_shard(copied, "train")
    written = shard.read_bytes()
    write_records(shard, read_records(shard))
    assert shard.read_bytes() != written
    assert [part.fingerprint for part in open_mnist(copied)] == before


def test_a_run_of_an_earlier_version_is_resumed_on_the_same_data(data_dir):
    """The fingerprints that the version before this one stored for these data."""
    training, held_out = open_mnist(data_dir)
    assert training.has_fingerprint("761994196cc53abb")
    assert training.has_fingerprint(training.fingerprint)
    assert not training.has_fingerprint(held_out.fingerprint)
    assert not training.has_fingerprint(None)


def test_of_large_data_every_kth_example_is_digested(copied, monkeypatch):
    shard = find_shard(copied, "train")
    monkeypatch.setattr(shards, "_MAX_DIGESTED", shard.stat().st_size // 5 + 1)
    before, records = shards.digest_shards({shard: 50}), read_records(shard)
    write_records(shard, [*records[:46], b"x", *records[47:]])
    assert shards.digest_shards({shard: 50}) == before
    write_records(shard, [*records[:45], b"x", *records[46:]])
    assert shards.digest_shards({shard: 50}) != before
