import dataclasses
import logging
import os
import shutil
import unicodedata

import numpy as np
import pytest
import tiny
from handmade import chunk, encode, with_chunks
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError, Namespace, build
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data import sources
from diffusion_jax.data.pipeline import Batches
from diffusion_jax.data.sources import DataError, Folder, formats
from diffusion_jax.data.sources.decode import Decoder
from diffusion_jax.workdir.resume import find_changes, write_config

NAMES = [f"{i:02d}.png" for i in range(20)]


def colour(i):
    return (i * 11 % 256, i * 7 % 256, i)


def paint(folder, names=NAMES):
    """Writes an image of its own colour for each name, 6x4."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), colour(i)).save(folder / name)
    return folder


@pytest.fixture
def images(tmp_path):
    return paint(tmp_path / "images")


@pytest.fixture
def folder(tmp_path):
    """Folder(path, ...) of 4x4, with its cache in a place of its own."""

    def make(path, **settings):
        return Folder(str(path), **({"size": 4, "cache_dir": str(tmp_path / "cache")} | settings))

    return make


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """The names of the files that this test has decoded; threads of the last test may still run."""
    names, real = [], Decoder.__call__

    def call(self, path):
        names.extend([path.name] if path.is_relative_to(tmp_path) else [])
        return real(self, path)

    monkeypatch.setattr(Decoder, "__call__", call)
    return names


def colours(source):
    """The colour of each image, all of whose pixels must be equal."""
    pixels = [source.rows[i]["image"] for i in range(len(source))]
    assert all((image == image[0, 0]).all() for image in pixels)
    return [tuple(int(c) for c in image[0, 0]) for image in pixels]


def assert_refused(dataset, says):
    with pytest.raises(DataError, match=says) as error:
        dataset.open()
    assert "\n" not in str(error.value)


def listing(root):
    return {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}


# Content


def test_every_nth_image_in_the_order_of_the_names_is_held_out_and_none_is_lost(images, folder):
    training, held_out = folder(images, holdout=4).open()
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
def test_images_have_the_size_and_channels_asked_for(images, folder, settings, shape):
    for source in folder(images, **settings).open():
        assert source.image_shape == source.rows[1]["image"].shape == shape


def test_batches_can_be_made_of_it(images, folder):
    training, _ = folder(images).open()
    batch = next(Batches(training, 8, flip=True).iterate())
    assert batch["image"].shape == (8, 4, 4, 3)
    assert {tuple(int(c) for c in x[0, 0]) for x in batch["image"]} <= set(colours(training))


def test_it_is_reached_from_a_config(images, tmp_path):
    spec = {"name": "Folder", "path": str(images), "size": [4, 6], "cache_dir": str(tmp_path / "cache")}
    made = build(spec, Namespace(sources, sources.Dataset), "data")
    assert made.open()[0].image_shape == (4, 6, 3)
    for wrong, says in [
        ({"size": "64"}, "config.data.size = '64': must be"),
        ({"size": [4, 6, 3]}, r"config.data: size = \(4, 6, 3\): must be"),
        ({"sise": 4}, "config.data.sise: .*did you mean size"),
        ({"classes": "folders"}, 'config.data: classes = .folders.: must be "none", "folder" or "csv"'),
    ]:
        with pytest.raises(ConfigError, match=says):
            build(spec | wrong, Namespace(sources, sources.Dataset), "data")


# Classes


CLASSED = [f"{name}/{i}.png" for name in ("cow", "ape", "bee") for i in range(6)]


def test_classes_are_the_subdirectories_in_alphabetical_order(tmp_path, folder):
    training, held_out = folder(paint(tmp_path / "x", CLASSED), classes="folder", holdout=6).open()
    of = {colour(i): name.split("/")[0] for i, name in enumerate(CLASSED)}
    for source in (training, held_out):
        assert source.class_names == ("ape", "bee", "cow")
        assert source.num_classes == 3
        found = [source.class_names[source.rows[i]["label"]] for i in range(len(source))]
        assert found == [of[c] for c in colours(source)]
    label = training.rows[0]["label"]
    assert (label.dtype, label.shape) == (np.int32, ())


def test_classes_come_from_the_table_and_change_without_decoding(tmp_path, images, folder, decoded):
    table = tmp_path / "x.csv"
    table.write_text("name,kind\n" + "".join(f"{n},{'even' if int(n[:2]) % 2 == 0 else 'odd'}|x\n" for n in NAMES))
    dataset = folder(images, classes="csv", csv=str(table), csv_file="name", csv_class="kind", csv_separator="|")
    before, held_out = dataset.open()
    assert before.class_names == ("even", "odd")
    assert [int(held_out.rows[i]["label"]) for i in range(2)] == [0, 0]
    assert [int(before.rows[i]["label"]) for i in range(4)] == [1, 0, 1, 0]
    table.write_text(table.read_text().replace("01.png,odd", "01.png,even"))
    after, _ = dataset.open()
    assert [int(after.rows[i]["label"]) for i in range(4)] == [0, 0, 1, 0]
    assert after.fingerprint != before.fingerprint
    assert len(decoded) == 20


def test_a_skipped_image_takes_its_label_along(tmp_path, folder):
    root = paint(tmp_path / "x", CLASSED)
    (root / "bee/3.png").write_bytes(b"")
    training, held_out = folder(root, classes="folder", max_skipped=1, holdout=6).open()
    of = {colour(i): name.split("/")[0] for i, name in enumerate(CLASSED)}
    for source in (training, held_out):
        found = [source.class_names[source.rows[i]["label"]] for i in range(len(source))]
        assert found == [of[c] for c in colours(source)]
    assert len(training) + len(held_out) == 17


def test_an_image_without_a_class_is_refused_before_anything_is_decoded(tmp_path, folder, decoded):
    names = ["a/1.png", "b/2.png", "3.png"]
    assert_refused(
        folder(paint(tmp_path / "x", names), classes="folder", holdout=2),
        "3.png must lie in the subdirectory of its class",
    )
    assert decoded == []


def test_one_class_only_is_refused(tmp_path, folder):
    names = ["a/1.png", "a/2.png", "a/b/3.png"]
    says = 'class "a": must not be the only class'
    assert_refused(folder(paint(tmp_path / "x", names), classes="folder", holdout=2), says)


def test_a_class_whose_images_are_all_skipped_does_not_count(tmp_path, folder):
    root = paint(tmp_path / "x", ["a/1.png", "b/2.png", "b/3.png"])
    (root / "a/1.png").write_bytes(b"")
    assert_refused(folder(root, classes="folder", holdout=2, max_skipped=1), 'class "b": must not be the only class')


def test_a_class_that_is_all_held_out_is_refused(tmp_path, folder):
    root = paint(tmp_path / "x", ["a/1.png", "b/2.png", "b/3.png", "b/4.png"])
    assert_refused(folder(root, classes="folder", holdout=3), 'class "a": all its images are held out')


# Images that cannot be used


def spoil(images):
    """Makes four images unusable, for four reasons."""
    (images / "03.png").write_bytes((images / "03.png").read_bytes()[:45])
    (images / "04.png").write_text("no image")
    Image.new("RGB", (30, 40)).save(images / "10.png")
    Image.new("F", (6, 4)).save(images / "11.png", format="TIFF")


REASONS = {
    "03.png": "cannot be decoded",
    "04.png": "is not a PNG, JPEG, WebP, BMP, TIFF, GIF",
    "10.png": "30x40 is more than max_pixels = 100",
    "11.png": "has mode F (floats, of which black and white are not known",
}


def test_more_of_them_than_the_budget_are_an_error_that_names_the_first(images, folder, decoded):
    spoil(images)
    for budget in (0, 3):
        dataset = folder(images, max_pixels=100, max_skipped=budget)
        assert_refused(
            dataset,
            f"max_skipped = {budget}: 4 images in .*03.png .cannot.*04.png .is not.*10.png .30x40.*or allow 4",
        )
    assert len(decoded) == 20  # what is wrong is known the second time


def test_within_the_budget_they_are_skipped_and_logged_on_every_opening(images, folder, caplog):
    spoil(images)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            parts = folder(images, max_pixels=100, max_skipped=4, holdout=8).open()
        assert len(caplog.records) == 4
        for record, (name, why) in zip(caplog.records, REASONS.items(), strict=True):
            assert f"skipped {name} ({why}" in record.message
        kept = [i for i in range(20) if i not in (3, 4, 10, 11)]
        assert colours(parts[1]) == [colour(kept[0]), colour(kept[8])]
        assert colours(parts[0]) == [colour(i) for n, i in enumerate(kept) if n % 8]


def test_at_most_ten_are_named_and_the_rest_counted(images, folder, caplog):
    for name in NAMES[:13]:
        (images / name).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        folder(images, max_skipped=13, holdout=2).open()
    assert len(caplog.records) == 11
    assert caplog.records[-1].message == f"{images}: skipped 3 more"


def test_without_any_usable_image_there_is_no_dataset(images, folder):
    for name in NAMES:
        (images / name).write_bytes(b"")
    assert_refused(folder(images, max_skipped=20), "holdout = 10: must be >= 2 and at most 0, the number of images")


def test_a_bomb_is_reported_once(images, folder, recwarn):
    """Pillow's own warning is suppressed: ours names the image."""
    Image.new("1", (9500, 9500)).save(images / "05.png")  # a few kB, 90 megapixels
    assert_refused(folder(images), "05.png .9500x9500 is more than max_pixels = 64000000")
    assert not recwarn.list


def test_a_disk_that_fails_does_not_count_as_a_skipped_image(images, folder, monkeypatch):
    def fails(self, path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Decoder, "__call__", fails)
    assert_refused(folder(images, max_skipped=20), "images/00.png cannot be read .Input/output error.; repair")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": ""}, "path = '': must be a string that is not empty"),
        ({"classes": "sub"}, "classes = 'sub': must be"),
        ({"classes": "csv"}, 'csv = "": must be a file if classes = "csv"'),
        ({"csv": "x.csv"}, 'csv = "x.csv": must be a file if classes = "csv", and "" otherwise'),
        ({"max_skipped": -1}, "max_skipped = -1: must be an integer >= 0"),
        ({"size": 0}, "size.0. = 0: must be an integer from 1"),
        ({"channels": 2}, "channels = 2"),
        ({"holdout": 1}, "holdout = 1: must be an integer >= 2"),
        ({"holdout": 0}, "holdout = 0: must be an integer >= 2"),
    ],
)
def test_wrong_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Folder(**({"path": "x"} | settings))


def test_both_parts_must_have_images(images, folder, decoded):
    assert_refused(folder(images, holdout=21), "holdout = 21: must be >= 2 and at most 20")
    assert decoded == []


def test_there_must_be_a_directory_with_images(tmp_path, folder):
    assert_refused(folder(tmp_path / "none"), "does not exist")
    (tmp_path / "empty").mkdir()
    assert_refused(folder(tmp_path / "empty"), "has no images")


# What is told


def test_other_files_are_told_once_on_every_opening(tmp_path, folder, caplog):
    """The table in use is left out; formats that nobody would miss are used."""
    root = paint(tmp_path / "x", [f"{i}.{ending}" for i, ending in enumerate(["jpg", "bmp", "tif", "jfif", "gif"] * 2)])
    for name in ("a.psd", "b.psd", "notes.txt", "LICENSE"):
        (root / name).touch()
    (root / "t.csv").write_text("file,class\n" + "".join(f"{p.name},{p.name < '5'}\n" for p in root.glob("[0-9]*")))
    for _ in range(2):
        caplog.clear()
        parts = folder(root, classes="csv", csv=str(root / "t.csv"), holdout=5).open()
        assert sum(map(len, parts)) == 10
        assert [record.message for record in caplog.records] == [
            f"{root}: 4 files are not used: 2 .psd, 1 without an ending, 1 .txt"
        ]


def test_what_was_converted_is_counted_on_every_opening(images, folder, caplog):
    for i in (3, 5, 7):
        Image.fromarray(np.full((4, 6), 257 * (40 + i), np.uint16)).save(images / f"{i:02d}.png")
    Image.new("CMYK", (6, 4), (0, 0, 0, 255)).save(images / "04.png", format="TIFF")
    png = encode(Image.new("RGB", (6, 4), colour(8)), "PNG")
    (images / "08.png").write_bytes(with_chunks(png, chunk(b"tEXt", b"a\0b", crc=1)))
    for _ in range(2):
        caplog.clear()
        training, _ = folder(images).open()
        assert colours(training)[2:8] == [(43,) * 3, (0, 0, 0), (45,) * 3, colour(6), (47,) * 3, colour(8)]
        assert [record.message for record in caplog.records] == [
            f"{images}: 3 images: 16-bit grey, scaled to 8 bits (for example 03.png)",
            f"{images}: 1 image: CMYK without a profile, converted to RGB by the plain formula (for example 04.png)",
            f"{images}: 1 image: damaged metadata, which were left out (for example 08.png)",
        ]


@pytest.mark.filterwarnings("error")
def test_what_pillow_says_of_metadata_is_not_repeated(images, folder, caplog):
    """Its words name no file."""
    png = encode(Image.new("RGB", (6, 4), colour(8)), "PNG")
    (images / "08.png").write_bytes(with_chunks(png, chunk(b"eXIf", b"II*\0\x08\0\0\0\x05\0\x12\x01")))
    folder(images).open()
    assert [record.message for record in caplog.records] == [
        f"{images}: 1 image: damaged metadata, which were left out (for example 08.png)"
    ]


def test_an_extra_that_was_installed_is_noticed(images, folder, monkeypatch):
    """A HEIC file that is called .png was skipped without it."""
    (images / "04.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(4) + b"mif1heic" + bytes(100))
    with monkeypatch.context() as patch:
        patch.setattr(formats, "_heif", lambda: None)
        for _ in range(2):
            assert_refused(folder(images), r'04.png .is a HEIC file; pip install "diffusion_jax\[heic\]"')
    pytest.importorskip("pillow_heif")
    assert_refused(folder(images), "04.png .cannot be decoded|04.png .is not a PNG")


# The cache


def test_the_second_opening_decodes_nothing(images, folder, decoded):
    first = folder(images).open()
    assert sorted(decoded) == NAMES
    # Settings that do not change pixels: holdout, classes, budget.
    for again in (folder(images).open(), folder(images, holdout=10, max_skipped=3, flip=True).open()):
        assert [colours(s) for s in again] == [colours(s) for s in first]
        assert [s.fingerprint for s in again] == [s.fingerprint for s in first]
    assert len(decoded) == 20


@pytest.mark.parametrize(
    "setting",
    [{"size": 5}, {"channels": 1}, {"crop": "squash"}, {"background": "black"}, {"max_pixels": 30}],
)
def test_settings_that_change_pixels_are_decoded_again_and_kept_apart(images, folder, decoded, setting):
    folder(images).open()
    folder(images, **setting).open()
    assert len(decoded) == 40
    folder(images).open()
    folder(images, **setting).open()
    assert len(decoded) == 40


def changed(images):
    Image.new("RGB", (6, 4), (255, 0, 0)).save(images / "05.png")
    os.utime(images / "05.png", ns=(1, 1))


def added(images):
    shutil.copy(images / "05.png", images / "055.png")


def deleted(images):
    (images / "05.png").unlink()


@pytest.mark.parametrize(("change", "count"), [(changed, 20), (added, 21), (deleted, 19)])
def test_a_change_in_the_folder_is_seen_and_the_old_cache_replaced(images, folder, decoded, tmp_path, change, count):
    before = folder(images).open()[0]
    files = [path.suffix for path in sorted(listing(tmp_path / "cache"))]
    change(images)
    parts = folder(images).open()
    assert len(decoded) == 20 + count
    assert sum(len(part) for part in parts) == count
    assert parts[0].fingerprint != before.fingerprint
    assert [path.suffix for path in sorted(listing(tmp_path / "cache"))] == files
    if change is changed:
        assert colours(parts[0])[4] == (255, 0, 0)


def test_a_changed_time_alone_leaves_the_fingerprint(images, folder):
    before = folder(images).open()
    os.utime(images / "05.png", ns=(1, 1))
    assert [s.fingerprint for s in folder(images).open()] == [s.fingerprint for s in before]


def test_a_damaged_cache_is_built_again(images, folder, decoded, tmp_path):
    before = colours(folder(images).open()[0])
    (file,) = tmp_path.glob("cache/diffusion_jax/*.npy")
    file.write_bytes(file.read_bytes()[:-5])
    assert colours(folder(images).open()[0]) == before
    assert len(decoded) == 40


def test_nothing_is_written_among_the_images(images, folder, tmp_path):
    before = listing(images)
    folder(images).open()
    assert listing(images) == before
    assert {path.name for path in tmp_path.iterdir()} == {"images", "cache"}


@pytest.mark.parametrize("inside", ["", "deep/er", "."])
def test_a_cache_among_the_images_is_refused(images, folder, inside):
    assert_refused(folder(images, cache_dir=str(images / inside)), "lies among the images; use another")
    assert sorted(p.name for p in images.iterdir()) == NAMES


def test_a_cache_that_cannot_be_written_is_reported(images, folder, tmp_path):
    (tmp_path / "file").touch()
    assert_refused(
        folder(images, cache_dir=str(tmp_path / "file")),
        f'cache_dir = "{tmp_path}/file": cannot be written',
    )


# The fingerprint


def test_the_same_images_elsewhere_have_the_same_fingerprint(tmp_path, folder):
    """Another machine: other path, times, cache, and names in the same order."""
    first = folder(paint(tmp_path / "here", CLASSED), classes="folder").open()
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    elsewhere = folder(tmp_path / "there", classes="folder", cache_dir=str(tmp_path / "cache2")).open()
    assert [s.fingerprint for s in elsewhere] == [s.fingerprint for s in first]
    assert first[0].fingerprint != first[1].fingerprint


def test_decomposed_names_are_the_same_data(tmp_path, folder):
    """As a Mac writes them: order, held-out images, classes and fingerprint. Latin, Hangul and Vietnamese."""
    composed = [
        f"{name}/{i}\u1ebf.png" for name in ("\u00c4pfel", "Zebra", "\ud55c\uae00", "Vi\u1ec7t") for i in range(6)
    ]
    parts = []
    for kind in ("NFC", "NFD"):
        root = paint(tmp_path / kind, [unicodedata.normalize(kind, name) for name in composed])
        parts.append(folder(root, classes="folder", holdout=5).open())
    for first, second in zip(*parts, strict=True):
        assert second.class_names == first.class_names == ("Vi\u1ec7t", "Zebra", "\u00c4pfel", "\ud55c\uae00")
        assert second.fingerprint == first.fingerprint
        assert colours(second) == colours(first)
        assert [second.rows[i]["label"] for i in range(len(second))] == [
            first.rows[i]["label"] for i in range(len(first))
        ]


def paint_as_before(root):
    """PNG, JPEG and WebP of every mode that the decoder's version 1 read, of the size of the data."""
    pixels = (np.arange(8 * 6 * 4).reshape(8, 6, 4) * 37 % 256).astype(np.uint8)
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    for i, mode in enumerate(["RGBA", "RGB", "L", "LA", "1"]):
        for folder in ("ape", "bee"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            image.convert(mode).save(root / folder / f"{i}.png")
            image.convert(mode).rotate(90, expand=True).save(root / folder / f"{i}turned.png", exif=exif)
            Image.new("L", (6, 8), 40 * i + 16).save(root / folder / f"{i}.jpg")
            image.save(root / folder / f"{i}.webp", lossless=True, exact=True)
    palette = Image.fromarray(pixels[..., 0] % 4, "P")
    palette.putpalette(range(12))
    palette.save(root / "bee" / "palette.png", transparency=1)
    return root


@pytest.mark.parametrize(
    ("settings", "training", "held_out"),
    [
        ({}, "61ce412cf73e6c70", "7a81390e4e0b81f8"),
        ({"classes": "folder", "channels": 1}, "55f234bb38ecbe3e", "9645b66fddebf8c7"),
    ],
)
def test_the_fingerprints_are_those_of_version_1_of_the_decoder(tmp_path, folder, settings, training, held_out):
    """Which the code before version 2 computed: runs that began with it are resumed."""
    parts = folder(paint_as_before(tmp_path / "x"), size=(8, 6), **settings).open()
    assert [part.fingerprint for part in parts] == [training, held_out]


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


def test_other_shapes_and_splits_have_another_fingerprint(images, folder):
    made = [{}, {"size": (2, 8)}, {"size": (8, 2)}, {"holdout": 5}]
    prints = [folder(images, **settings).open()[0].fingerprint for settings in made]
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


def test_a_run_resumes_after_the_images_have_moved_but_not_on_others(tmp_path, folder):
    run, dataset = tmp_path / "run", folder(paint(tmp_path / "x", TEN), classes="folder")
    run.mkdir()

    def start(dataset):
        """As far as `train` goes before it builds anything."""
        training = dataset.open()[0]
        experiment = Experiment.from_config(config(dataset), training.image_shape, training.num_classes)
        write_config(run, experiment, training, find_changes(run, experiment, training))

    start(dataset)
    (run / "checkpoints" / "1" / "meta").mkdir(parents=True)
    (tmp_path / "x").rename(tmp_path / "y")
    moved = dataclasses.replace(dataset, path=str(tmp_path / "y"), cache_dir=str(tmp_path / "cache2"))
    start(moved)
    with pytest.raises(ConfigError, match="config.data.crop = 'squash': .* holds a run with 'center'"):
        start(dataclasses.replace(moved, crop="squash"))
    Image.new("RGB", (6, 4), (1, 2, 3)).save(tmp_path / "y" / "3/1.png")
    with pytest.raises(ConfigError, match="data fingerprint = .* holds a run with"):
        start(moved)


# Photographs with a table


def test_photographs_of_any_size_with_a_table_of_classes(tmp_path, folder):
    """JPEGs on a white ground, the longer side 224, some turned by their EXIF orientation."""
    root = tmp_path / "x"
    root.mkdir()
    types = ["grass|ice", "psychic", "dark|fire", "psychic|ice"]
    rows = []
    for i in range(40):
        width, height = (224, 150 + i) if i % 2 else (150 + i, 224)
        image = Image.new("RGB", (width, height), "white")
        image.paste(colour(i), (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
        exif = Image.Exif()
        exif[0x0112] = 1 + i % 8
        image.save(root / f"{i:02d}.jpg", exif=exif, quality=90)
        rows.append(f"{i:02d}.jpg,{types[i % 4]}")
    (tmp_path / "types.csv").write_text("\n".join(["file,types", *rows]))
    dataset = folder(
        root,
        size=32,
        crop="squash",
        classes="csv",
        csv=str(tmp_path / "types.csv"),
        csv_class="types",
        csv_separator="|",
    )
    training, held_out = dataset.open()
    assert (len(training), len(held_out), training.num_classes) == (36, 4, 3)
    assert training.class_names == ("dark", "grass", "psychic")
    for k, i in enumerate(i for i in range(40) if i % 10):
        row = training.rows[k]
        assert training.class_names[row["label"]] == types[i % 4].split("|")[0]
        assert row["image"].shape == (32, 32, 3)
        assert row["image"][[0, -1]].min() > 240
        np.testing.assert_allclose(row["image"][12:20, 12:20].mean((0, 1)), colour(i), atol=4)
