import os

import pytest

from diffusion_jax.data.sources.base import DataError
from diffusion_jax.data.sources.scan import make_stamp, scan


@pytest.fixture
def tree(tmp_path):
    """Makes empty files of these names."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def test_images_are_found_at_any_depth_whatever_the_case_of_their_ending(tree):
    names = ["a.png", "b.JPG", "c/d.jpeg", "c/d/e.WebP"]
    assert set(scan(tree(*names, "a.txt", "b.gif", "png", "c/e.png.bak"))) == set(names)


def test_hidden_files_and_directories_are_ignored(tree):
    assert list(scan(tree("a.png", ".b.png", "._a.png", ".thumbs/c.png", "d/.e/f.png"))) == ["a.png"]


def test_the_order_is_by_name_with_slashes(tree):
    """Not by the parts of the names, and not as a disk lists them: "-" < "." < "/" < "0" < "B" < "a"."""
    names = ["a-b.png", "a.png", "a/b.png", "a0.png", "B.png", "b.png"]
    assert list(scan(tree(*reversed(names)))) == ["B.png", *(n for n in names if n != "B.png")]


def test_links_are_followed_but_not_in_a_circle(tree, tmp_path_factory):
    root = tree("a/b.png")
    other = tmp_path_factory.mktemp("other")
    (other / "c.png").touch()
    (root / "linked").symlink_to(other)
    (root / "a" / "d.png").symlink_to(other / "c.png")
    (root / "a" / "up").symlink_to(root)
    assert list(scan(root)) == ["a/b.png", "a/d.png", "linked/c.png"]


def test_links_between_two_directories_count_each_image_once(tree):
    root = tree("a/1.png", "b/2.png")
    (root / "a" / "l").symlink_to(root / "b")
    (root / "b" / "l").symlink_to(root / "a")
    assert len(scan(root)) == 2


def test_a_pipe_is_not_an_image(tree):
    root = tree("a.png")
    os.mkfifo(root / "b.png")
    assert list(scan(root)) == ["a.png"]


def test_missing_images_are_reported_in_one_line(tree, tmp_path):
    root = tree("a/b.txt", "a/.c.png")
    for path, says in [
        (tmp_path / "none", "does not exist"),
        (root / "a" / "b.txt", "is not a directory"),
        (root, "has no images; their names must end in .png, .jpg, .jpeg, .webp"),
    ]:
        with pytest.raises(DataError, match=f'path = "{path}": {says}') as error:
            scan(path)
        assert "\n" not in str(error.value)


def test_a_broken_link_is_listed(tree):
    root = tree("a.png")
    (root / "b.png").symlink_to(root / "none")
    assert scan(root)["b.png"] == (-1, 0)


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
    before = make_stamp(scan(root))
    assert make_stamp(scan(root)) == before
    change(root)
    assert make_stamp(scan(root)) != before


def test_the_stamp_does_not_depend_on_other_files(tree):
    root = tree("a.png")
    before = make_stamp(scan(root))
    tree("a.txt", ".b.png", "d/e.json")
    assert make_stamp(scan(root)) == before
