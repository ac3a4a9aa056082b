import dataclasses
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError, Namespace, build
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data import sources
from diffusion_jax.data.pipeline import Batches
from diffusion_jax.data.sources import DataError, Folder
from diffusion_jax.data.sources.decode import Decoder
from diffusion_jax.workdir.resume import write_config

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
NAMES = [f"{i:02d}.png" for i in range(20)]


def colour(i):
    return (i * 11 % 256, i * 7 % 256, i)


def paint(folder, names=NAMES):
    """A picture of its own colour for each name, 6x4."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), colour(i)).save(folder / name)
    return folder


@pytest.fixture
def pictures(tmp_path):
    return paint(tmp_path / "pictures")


@pytest.fixture
def folder(tmp_path):
    """Folder(path, ...) of 4x4, with its cache in a place of its own."""

    def make(path, **settings):
        return Folder(str(path), **({"size": 4, "cache_dir": str(tmp_path / "cache")} | settings))

    return make


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """The names of the files that this test has decoded; threads of the last one may still be at work."""
    names, real = [], Decoder.__call__

    def call(self, path):
        names.extend([path.name] if path.is_relative_to(tmp_path) else [])
        return real(self, path)

    monkeypatch.setattr(Decoder, "__call__", call)
    return names


def colours(source):
    """The colour of each picture, all of whose pixels must be alike."""
    images = [source.rows[i]["image"] for i in range(len(source))]
    assert all((image == image[0, 0]).all() for image in images)
    return [tuple(int(c) for c in image[0, 0]) for image in images]


def refused(dataset, says):
    with pytest.raises(DataError, match=says) as error:
        dataset.open()
    assert "\n" not in str(error.value)


def listing(root):
    return {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}


# What is in it


def test_every_nth_picture_in_the_order_of_the_names_is_held_out_and_none_is_lost(pictures, folder):
    training, held_out = folder(pictures, holdout=4).open()
    assert colours(held_out) == [colour(i) for i in (0, 4, 8, 12, 16)]
    assert colours(training) == [colour(i) for i in range(20) if i % 4]
    row = training.rows[0]
    assert training.image_shape == row["image"].shape == (4, 4, 3)
    assert row["image"].dtype == np.uint8
    assert row.keys() == {"image"}
    assert (training.num_classes, training.class_names) == (0, ())


@pytest.mark.parametrize(
    ("settings", "shape"),
    [({"size": 5}, (5, 5, 3)), ({"size": (4, 6)}, (4, 6, 3)), ({"size": (6, 4), "channels": 1}, (6, 4, 1))],
)
def test_pictures_have_the_size_and_channels_asked_for(pictures, folder, settings, shape):
    for source in folder(pictures, **settings).open():
        assert source.image_shape == source.rows[1]["image"].shape == shape


def test_batches_can_be_made_of_it(pictures, folder):
    training, _ = folder(pictures).open()
    batch = next(Batches(training, 8, flip=True).iterate())
    assert batch["image"].shape == (8, 4, 4, 3)
    assert {tuple(int(c) for c in x[0, 0]) for x in batch["image"]} <= set(colours(training))


def test_it_is_reached_from_a_config(pictures, tmp_path):
    spec = {"name": "Folder", "path": str(pictures), "size": [4, 6], "cache_dir": str(tmp_path / "cache")}
    made = build(spec, Namespace(sources, sources.Dataset), "data")
    assert made.open()[0].image_shape == (4, 6, 3)
    for wrong, says in [
        ({"size": "64"}, "config.data.size = '64': must be of type int"),
        ({"size": [4, 6, 3]}, r"config.data: size = \(4, 6, 3\): must be"),
        ({"sise": 4}, "config.data.sise: there is no such field; did you mean size"),
        ({"classes": "folders"}, 'config.data: classes = "folders": must be "none", "folder" or "csv"'),
    ]:
        with pytest.raises(ConfigError, match=says):
            build(spec | wrong, Namespace(sources, sources.Dataset), "data")


# Classes


CLASSED = [f"{name}/{i}.png" for name in ("cow", "ape", "bee") for i in range(6)]


def test_classes_are_the_sub_folders_in_alphabetical_order(tmp_path, folder):
    training, held_out = folder(paint(tmp_path / "x", CLASSED), classes="folder", holdout=6).open()
    of = {colour(i): name.split("/")[0] for i, name in enumerate(CLASSED)}
    for source in (training, held_out):
        assert source.class_names == ("ape", "bee", "cow")
        assert source.num_classes == 3
        found = [source.class_names[source.rows[i]["label"]] for i in range(len(source))]
        assert found == [of[c] for c in colours(source)]
    label = training.rows[0]["label"]
    assert (label.dtype, label.shape) == (np.int32, ())


def test_classes_are_those_of_the_table_and_change_without_decoding(tmp_path, pictures, folder, decoded):
    table = tmp_path / "x.csv"
    table.write_text("name,kind\n" + "".join(f"{n},{'even' if int(n[:2]) % 2 == 0 else 'odd'}|x\n" for n in NAMES))
    dataset = folder(pictures, classes="csv", csv=str(table), csv_file="name", csv_class="kind", csv_separator="|")
    before, held_out = dataset.open()
    assert before.class_names == ("even", "odd")
    assert [int(held_out.rows[i]["label"]) for i in range(2)] == [0, 0]
    assert [int(before.rows[i]["label"]) for i in range(4)] == [1, 0, 1, 0]
    table.write_text(table.read_text().replace("01.png,odd", "01.png,even"))
    after, _ = dataset.open()
    assert [int(after.rows[i]["label"]) for i in range(4)] == [0, 0, 1, 0]
    assert after.fingerprint != before.fingerprint
    assert len(decoded) == 20


def test_a_picture_that_is_skipped_takes_its_label_along(tmp_path, folder):
    root = paint(tmp_path / "x", CLASSED)
    (root / "bee/3.png").write_bytes(b"")
    training, held_out = folder(root, classes="folder", max_skipped=1, holdout=6).open()
    of = {colour(i): name.split("/")[0] for i, name in enumerate(CLASSED)}
    for source in (training, held_out):
        found = [source.class_names[source.rows[i]["label"]] for i in range(len(source))]
        assert found == [of[c] for c in colours(source)]
    assert len(training) + len(held_out) == 17


def test_a_picture_without_a_class_is_refused_before_anything_is_decoded(tmp_path, folder, decoded):
    names = ["a/1.png", "b/2.png", "3.png"]
    refused(folder(paint(tmp_path / "x", names), classes="folder", holdout=2), "3.png lies in no sub-folder")
    assert decoded == []


def test_one_class_only_is_refused(tmp_path, folder):
    names = ["a/1.png", "a/2.png", "a/b/3.png"]
    says = 'there is only the class "a"; need two, or no classes'
    refused(folder(paint(tmp_path / "x", names), classes="folder", holdout=2), says)


def test_a_class_whose_pictures_are_all_skipped_does_not_count(tmp_path, folder):
    root = paint(tmp_path / "x", ["a/1.png", "b/2.png", "b/3.png"])
    (root / "a/1.png").write_bytes(b"")
    refused(folder(root, classes="folder", holdout=2, max_skipped=1), 'there is only the class "b"')


def test_a_class_that_is_all_held_out_is_refused(tmp_path, folder):
    root = paint(tmp_path / "x", ["a/1.png", "b/2.png", "b/3.png", "b/4.png"])
    refused(folder(root, classes="folder", holdout=3), 'class "a": all its pictures are held out')


# Pictures that cannot be used


def spoil(pictures):
    """Four pictures that cannot be used, for four reasons."""
    (pictures / "03.png").write_bytes((pictures / "03.png").read_bytes()[:45])
    (pictures / "04.png").write_text("no picture")
    Image.new("RGB", (30, 40)).save(pictures / "10.png")
    Image.new("CMYK", (6, 4)).save(pictures / "11.png", format="JPEG")


REASONS = {
    "03.png": "cannot be decoded",
    "04.png": "is no PNG, JPEG or WebP",
    "10.png": "30x40 is more than max_pixels = 100",
    "11.png": "mode CMYK is neither",
}


def test_more_of_them_than_the_budget_are_an_error_that_names_the_first(pictures, folder, decoded):
    spoil(pictures)
    for budget in (0, 3):
        dataset = folder(pictures, max_pixels=100, max_skipped=budget)
        refused(
            dataset,
            f"max_skipped = {budget}: 4 of the pictures in .*03.png .cannot.*04.png .is no.*10.png .30x40",
        )
    assert len(decoded) == 20  # what is wrong is known the second time


def test_within_the_budget_they_are_skipped_and_told_on_every_opening(pictures, folder, caplog):
    spoil(pictures)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            parts = folder(pictures, max_pixels=100, max_skipped=4, holdout=8).open()
        assert len(caplog.records) == 4
        for record, (name, why) in zip(caplog.records, REASONS.items(), strict=True):
            assert f"skipped {name} ({why}" in record.message
        kept = [i for i in range(20) if i not in (3, 4, 10, 11)]
        assert colours(parts[1]) == [colour(kept[0]), colour(kept[8])]
        assert colours(parts[0]) == [colour(i) for n, i in enumerate(kept) if n % 8]


def test_at_most_ten_are_named_and_the_rest_counted(pictures, folder, caplog):
    for name in NAMES[:13]:
        (pictures / name).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        folder(pictures, max_skipped=13, holdout=2).open()
    assert len(caplog.records) == 11
    assert caplog.records[-1].message == f"{pictures}: skipped 3 more"


def test_where_none_is_left_there_is_no_data_set(pictures, folder):
    for name in NAMES:
        (pictures / name).write_bytes(b"")
    refused(folder(pictures, max_skipped=20), "holdout = 10: must be at least 2 and at most the 0 pictures")


def test_a_bomb_is_told_once(pictures, folder, recwarn):
    """Pillow's own warning is not heard: ours names the picture."""
    Image.new("1", (9500, 9500)).save(pictures / "05.png")  # a few kB, 90 megapixels
    refused(folder(pictures), "05.png .9500x9500 is more than max_pixels = 64000000")
    assert not recwarn.list


def test_a_disk_that_fails_is_no_matter_of_the_budget(pictures, folder, monkeypatch):
    def fails(self, path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Decoder, "__call__", fails)
    refused(folder(pictures, max_skipped=20), "pictures/00.png cannot be read .Input/output error.; mend")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": ""}, 'path = "": name a folder'),
        ({"classes": "sub"}, 'classes = "sub": must be'),
        ({"classes": "csv"}, 'csv = "": must name a file where classes = "csv"'),
        ({"csv": "x.csv"}, 'csv = "x.csv": must name a file where classes = "csv", and only there'),
        ({"max_skipped": -1}, "max_skipped = -1: must be 0 or more"),
        ({"size": 0}, "size = .0, 0.: must be"),
        ({"channels": 2}, "channels = 2"),
    ],
)
def test_wrong_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Folder(**({"path": "x"} | settings))


@pytest.mark.parametrize("holdout", [0, 1, 21])
def test_both_parts_must_have_pictures(pictures, folder, decoded, holdout):
    refused(folder(pictures, holdout=holdout), f"holdout = {holdout}: must be at least 2 and at most the 20")
    assert decoded == []


def test_there_must_be_a_folder_with_pictures(tmp_path, folder):
    refused(folder(tmp_path / "none"), "there is no such folder")
    (tmp_path / "empty").mkdir()
    refused(folder(tmp_path / "empty"), "holds no picture")


# The cache


def test_the_second_opening_decodes_nothing(pictures, folder, decoded):
    first = folder(pictures).open()
    assert sorted(decoded) == NAMES
    # What does not shape pixels can change: holdout, classes, budget.
    for again in (folder(pictures).open(), folder(pictures, holdout=10, max_skipped=3, flip=True).open()):
        assert [colours(s) for s in again] == [colours(s) for s in first]
        assert [s.fingerprint for s in again] == [s.fingerprint for s in first]
    assert len(decoded) == 20


@pytest.mark.parametrize(
    "setting",
    [{"size": 5}, {"channels": 1}, {"crop": "squash"}, {"background": "black"}, {"max_pixels": 30}],
)
def test_what_shapes_pixels_is_decoded_anew_and_kept_apart(pictures, folder, decoded, setting):
    folder(pictures).open()
    folder(pictures, **setting).open()
    assert len(decoded) == 40
    folder(pictures).open()
    folder(pictures, **setting).open()
    assert len(decoded) == 40


def changed(pictures):
    Image.new("RGB", (6, 4), (255, 0, 0)).save(pictures / "05.png")
    os.utime(pictures / "05.png", ns=(1, 1))


def added(pictures):
    shutil.copy(pictures / "05.png", pictures / "055.png")


def deleted(pictures):
    (pictures / "05.png").unlink()


@pytest.mark.parametrize(("change", "count"), [(changed, 20), (added, 21), (deleted, 19)])
def test_a_change_in_the_folder_is_seen_and_the_old_cache_replaced(pictures, folder, decoded, tmp_path, change, count):
    before = folder(pictures).open()[0]
    files = [path.suffix for path in sorted(listing(tmp_path / "cache"))]
    change(pictures)
    parts = folder(pictures).open()
    assert len(decoded) == 20 + count
    assert sum(len(part) for part in parts) == count
    assert parts[0].fingerprint != before.fingerprint
    assert [path.suffix for path in sorted(listing(tmp_path / "cache"))] == files
    if change is changed:
        assert colours(parts[0])[4] == (255, 0, 0)


def test_a_touch_alone_leaves_the_fingerprint(pictures, folder):
    before = folder(pictures).open()
    os.utime(pictures / "05.png", ns=(1, 1))
    assert [s.fingerprint for s in folder(pictures).open()] == [s.fingerprint for s in before]


def test_a_damaged_cache_is_built_anew(pictures, folder, decoded, tmp_path):
    before = colours(folder(pictures).open()[0])
    (file,) = tmp_path.glob("cache/diffusion_jax/*.npy")
    file.write_bytes(file.read_bytes()[:-5])
    assert colours(folder(pictures).open()[0]) == before
    assert len(decoded) == 40


def test_nothing_is_written_where_the_pictures_are(pictures, folder, tmp_path):
    before = listing(pictures)
    folder(pictures).open()
    assert listing(pictures) == before
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "cache"}


@pytest.mark.parametrize("inside", ["", "deep/er", "."])
def test_a_cache_among_the_pictures_is_refused(pictures, folder, inside):
    refused(folder(pictures, cache_dir=str(pictures / inside)), "lies in the folder of the pictures; name another")
    assert sorted(p.name for p in pictures.iterdir()) == NAMES


def test_a_cache_that_cannot_be_written_is_told(pictures, folder, tmp_path):
    (tmp_path / "file").touch()
    refused(
        folder(pictures, cache_dir=str(tmp_path / "file")),
        f'cache_dir = "{tmp_path}/file": cannot be written',
    )


# The fingerprint


def test_the_same_pictures_elsewhere_have_the_same_fingerprint(tmp_path, folder):
    """Another machine: other path, times, cache, and names in the same order."""
    first = folder(paint(tmp_path / "here", CLASSED), classes="folder").open()
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    elsewhere = folder(tmp_path / "there", classes="folder", cache_dir=str(tmp_path / "cache2")).open()
    assert [s.fingerprint for s in elsewhere] == [s.fingerprint for s in first]
    assert first[0].fingerprint != first[1].fingerprint


def swapped(root):
    (root / "cow/1.png").rename(root / "x")
    (root / "cow/2.png").rename(root / "cow/1.png")
    (root / "x").rename(root / "cow/2.png")


def repainted(root):
    Image.new("RGB", (6, 4), (1, 2, 3)).save(root / "cow/1.png")


def relabelled(root):
    """The same pixels in the same order; the first of the bees becomes the last of the apes."""
    (root / "bee/0.png").rename(root / "ape/9.png")


@pytest.mark.parametrize("change", [swapped, repainted, relabelled])
def test_other_pixels_order_or_labels_have_another_fingerprint(tmp_path, folder, change):
    root = paint(tmp_path / "x", CLASSED)
    before = folder(root, classes="folder").open()[0].fingerprint
    change(root)
    assert folder(root, classes="folder").open()[0].fingerprint != before


def test_other_shapes_and_splits_have_another_fingerprint(pictures, folder):
    made = [{}, {"size": (2, 8)}, {"size": (8, 2)}, {"holdout": 5}]
    prints = [folder(pictures, **settings).open()[0].fingerprint for settings in made]
    assert len(set(prints)) == 4


# In a run


def config(dataset, **train):
    return tiny.config(tiny.AFFINE, **train) | {"data": {"name": "Folder"} | dataclasses.asdict(dataset)}


TEN = [f"{c}/{i}.png" for c in range(10) for i in range(2)]


def test_a_batch_larger_than_the_training_set_is_refused(tmp_path, folder):
    dataset = folder(paint(tmp_path / "x", TEN), classes="folder")
    with pytest.raises(
        ConfigError,
        match="config.train.batch_size = 24: the data have only 18 training images; use at most 18",
    ):
        dj.train(config(dataset, batch_size=24), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_where_the_pictures_have_moved_but_not_on_others(tmp_path, folder):
    run, dataset = tmp_path / "run", folder(paint(tmp_path / "x", TEN), classes="folder")
    run.mkdir()

    def start(dataset):
        """As far as `train` goes before it builds anything."""
        training = dataset.open()[0]
        experiment = Experiment.from_config(config(dataset), training.image_shape, training.num_classes)
        write_config(run, experiment, training)

    start(dataset)
    (run / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "x").rename(tmp_path / "y")
    moved = dataclasses.replace(dataset, path=str(tmp_path / "y"), cache_dir=str(tmp_path / "cache2"))
    start(moved)
    with pytest.raises(ConfigError, match="config.data.crop = 'squash': .* holds a run with 'center'"):
        start(dataclasses.replace(moved, crop="squash"))
    Image.new("RGB", (6, 4), (1, 2, 3)).save(tmp_path / "y" / "3/1.png")
    with pytest.raises(ConfigError, match="data fingerprint = .* holds a run with"):
        start(moved)


# The real thing


def test_a_real_folder_with_a_table(tmp_path):
    if not (SHARED / "pokemon").is_dir():
        pytest.skip("../shared/data is not here")
    dataset = Folder(
        str(SHARED / "pokemon"),
        size=32,
        crop="squash",
        classes="csv",
        csv=str(SHARED / "pokemon_types.csv"),
        csv_class="types",
        csv_separator="|",
        cache_dir=str(tmp_path),
    )
    training, held_out = dataset.open()
    assert (len(training), len(held_out), training.num_classes) == (720, 80, 18)
    assert training.class_names[training.rows[0]["label"]] == "psychic"  # abra, the second by name
    for i in (0, 300, 719):
        image = training.rows[i]["image"]
        assert image.shape == (32, 32, 3)
        assert image[[0, -1]].mean() > 200  # a white ground
        assert image.std() > 10
