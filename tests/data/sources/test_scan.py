import os
import unicodedata
from collections import Counter

import pytest

from diffusion_jax.data.sources import formats
from diffusion_jax.data.sources.checks import DataError
from diffusion_jax.data.sources.scan import File, Listing, make_stamp, scan


@pytest.fixture
def tree(tmp_path):
    """Makes empty files of these names."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def names(root):
    return list(scan(root).images)


def stamp(root):
    return make_stamp(scan(root).images)


def test_images_are_found_at_any_depth_whatever_the_case_of_their_ending(tree):
    found = [
        "a.png",
        "b.JPG",
        "c/d.jpeg",
        "c/d/e.WebP",
        "f.jfif",
        "g.JPE",
        "h.tif",
        "i.TIFF",
        "j.bmp",
        "k.gif",
        "l.dib",
    ]
    assert set(names(tree(*found, "a.txt", "b.psd", "png", "c/e.png.bak"))) == set(found)


def test_hidden_files_and_directories_are_ignored(tree):
    listing = scan(tree("a.png", ".b.png", "._a.png", ".DS_Store", ".thumbs/c.png", "d/.e/f.png", "d/.e/g.txt"))
    assert list(listing.images) == ["a.png"]
    assert listing.unused == {}


def test_the_order_is_by_name_with_slashes(tree):
    """Not by the parts of the names, and not as a disk lists them: "-" < "." < "/" < "0" < "B" < "a"."""
    ordered = ["B.png", "a-b.png", "a.png", "a/b.png", "a0.png", "b.png"]
    assert names(tree(*reversed(ordered))) == ordered


def test_links_are_followed_but_not_in_a_circle(tree, tmp_path_factory):
    root = tree("a/b.png")
    other = tmp_path_factory.mktemp("other")
    (other / "c.png").touch()
    (root / "linked").symlink_to(other)
    (root / "a" / "d.png").symlink_to(other / "c.png")
    (root / "a" / "up").symlink_to(root)
    assert names(root) == ["a/b.png", "a/d.png", "linked/c.png"]


def test_links_between_two_directories_count_each_image_once(tree):
    root = tree("a/1.png", "b/2.png")
    (root / "a" / "l").symlink_to(root / "b")
    (root / "b" / "l").symlink_to(root / "a")
    assert len(names(root)) == 2


def test_a_pipe_is_not_an_image(tree):
    root = tree("a.png")
    os.mkfifo(root / "b.png")
    assert names(root) == ["a.png"]


def test_missing_images_are_reported_in_one_line(tree, tmp_path):
    root = tree("a/b.txt", "a/.c.png")
    for path, says in [
        (tmp_path / "none", "does not exist"),
        (root / "a" / "b.txt", "is not a directory"),
        (root, "has no images .1 file is not used: 1 .txt.; their names must end in .png, .*.jpg, .jpeg, .*.tiff, "),
    ]:
        with pytest.raises(DataError, match=f'path = "{path}": {says}') as error:
            scan(path)
        assert "\n" not in str(error.value)


def test_a_broken_link_is_listed(tree):
    root = tree("a.png")
    (root / "b.png").symlink_to(root / "none")
    assert scan(root).images["b.png"] == File("b.png", -1, 0)


def test_a_directory_that_cannot_be_listed_is_named(tree, monkeypatch):
    root = tree("a/b.png")
    listed = os.scandir

    def deny(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(DataError, match="/a cannot be read .Permission denied."):
        scan(root)


def grown(root):
    (root / "a.png").write_bytes(b"x")
    os.utime(root / "a.png", ns=(5, 5))


def touched(root):
    os.utime(root / "a.png", ns=(5, 6))


def added(root):
    (root / "c.png").touch()


def deleted(root):
    (root / "b.png").unlink()


def renamed(root):
    (root / "b.png").rename(root / "c.png")


@pytest.mark.parametrize("change", [grown, touched, added, deleted, renamed])
def test_the_stamp_changes_with_every_image(tree, change):
    root = tree("a.png", "b.png")
    os.utime(root / "a.png", ns=(5, 5))
    before = stamp(root)
    assert stamp(root) == before
    change(root)
    assert stamp(root) != before


def test_the_stamp_does_not_depend_on_other_files(tree):
    root = tree("a.png")
    before = stamp(root)
    tree("a.txt", ".b.png", "d/e.json")
    assert stamp(root) == before


# Other files


def test_other_files_are_counted_by_their_ending(tree):
    """The table in use, pipes and hidden files are no such files."""
    root = tree("a.png", "b.txt", "c/d.TXT", "c/e.psd", "README", "f.tar.gz", ".hidden.txt", "labels.csv", "other.csv")
    os.mkfifo(root / "pipe.txt")
    listing = scan(root, ignored=[root / "labels.csv"])
    assert listing.unused == {".txt": 2, ".psd": 1, "": 1, ".gz": 1, ".csv": 1}
    said = "6 files are not used: 2 .txt, 1 without an ending, 1 .csv, 1 .gz, 1 .psd"
    assert listing.describe_unused() == said


@pytest.mark.parametrize(
    ("unused", "said"),
    [
        ({}, ""),
        ({".svg": 1}, "1 file is not used: 1 .svg"),
        ({".psd": 30, ".txt": 30, "": 2}, "62 files are not used: 30 .psd, 30 .txt, 2 without an ending"),
        (
            {f".{i}": 1 for i in range(20)} | {".raw": 500},
            "520 files are not used: 500 .raw, 1 .0, 1 .1, 1 .10, 1 .11, 1 .12, 1 .13, 1 .14, 13 with 13 other endings",
        ),
    ],
)
def test_they_are_told_in_one_line(unused, said):
    assert Listing({}, Counter(unused)).describe_unused() == said


def test_photos_that_need_the_extra_are_told_with_it(tree, monkeypatch):
    monkeypatch.setattr(formats, "_heif", lambda: None)
    root = tree("a.png", "IMG_1.HEIC", "IMG_2.heif")
    listing = scan(root)
    assert list(listing.images) == ["a.png"]
    assert listing.describe_unused() == (
        '2 files are not used: 1 .heic, 1 .heif; for HEIC: pip install "diffusion_jax[heic]"'
    )
    (root / "a.png").unlink()
    with pytest.raises(DataError, match='has no images .2 files .* pip install "diffusion_jax.heic."'):
        scan(root)


# Accents, composed or not: Latin, Hangul, Vietnamese, Japanese, Greek


NAMES = [
    "\u00c4pfel/\u00e9.png",
    "\ud55c\uae00.png",
    "Ti\u1ebfng Vi\u1ec7t.png",
    "\u30ac.png",
    "\u03ac\u1f82.png",
    "z.png",
]


def form(kind, names):
    return [unicodedata.normalize(kind, name) for name in names]


def test_decomposed_names_are_the_same_names_in_the_same_order(tree, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    for folder, kind in (("c", "NFC"), ("d", "NFD")):
        tree(*(f"{folder}/{name}" for name in form(kind, NAMES)))
    composed, decomposed = scan(tmp_path / "c").images, scan(tmp_path / "d").images
    assert list(decomposed) == list(composed) == sorted(NAMES)
    assert [file.path for file in composed.values()] == form("NFC", composed)
    assert [file.path for file in decomposed.values()] == form("NFD", composed) != list(composed)
    assert all((tmp_path / "d" / file.path).is_file() for file in decomposed.values())


def test_the_order_is_that_of_the_composed_names(tree):
    """Decomposed, the first letter would be an E, and come first."""
    assert names(tree("E\u0301.png", "Z.png")) == ["Z.png", "\u00c9.png"]


@pytest.mark.parametrize("kind", ["NFC", "NFD"])
def test_of_two_links_to_one_directory_the_same_is_taken(tree, tmp_path_factory, kind):
    root, other = tree("Z/z.png"), tmp_path_factory.mktemp("other")
    (other / "c.png").touch()
    for name in form(kind, ["\u00c9", "Zz"]):
        (root / name).symlink_to(other)
    assert names(root) == ["Z/z.png", "Zz/c.png"]


@pytest.mark.parametrize("name", ["\u00e9.png", "a/\ud55c.png", "\u1ec7/b.png", "\u212b.png"])
def test_two_names_that_differ_in_their_accents_only_are_refused(tree, name):
    """The last one is the sign of the unit, which has no other form than the letter."""
    other = unicodedata.normalize("NFD", name)
    root = tree(name, other)
    if len(list(root.rglob("*.png"))) < 2:
        pytest.skip("this file system takes both for the same name")
    with pytest.raises(
        DataError, match=f"two images have the name {unicodedata.normalize('NFC', name)}, .*; rename one"
    ):
        scan(root)


def test_a_name_that_is_no_text_is_kept(tree):
    root = tree("a.png")
    (root / os.fsdecode(b"\xff\xe9.png")).touch()
    assert names(root) == ["a.png", os.fsdecode(b"\xff\xe9.png")]
    assert stamp(root)
