from pathlib import Path

import pytest

from diffusion_jax.runtime.files import make_writable, replace_text


@pytest.mark.parametrize("before", [None, "old\n", "a much longer text than the new one\n" * 100])
def test_replaced_text_is_the_new_one_and_leaves_nothing_else(tmp_path, before):
    path = tmp_path / "config.json"
    if before is not None:
        path.write_text(before)
    replace_text(path, "new\n")
    assert path.read_text() == "new\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_before_the_rename_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("old\n")

    def fail(*args):
        raise OSError("killed here")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="killed here"):
        replace_text(path, "new\n")
    assert path.read_text() == "old\n"


def test_the_new_text_is_whole_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("old\n")
    seen, rename = [], Path.replace

    def watch(self, target):
        seen.append((self.read_text(), path.read_text()))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watch)
    replace_text(path, "new\n" * 10_000)
    assert seen == [("new\n" * 10_000, "old\n")]


def test_what_an_earlier_failure_left_is_no_obstacle(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *args: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            replace_text(path, "first, and longer\n")
    replace_text(path, "second\n")
    assert path.read_text() == "second\n"


def test_make_writable_creates_the_folder_and_leaves_it_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    make_writable(folder)
    make_writable(folder)  # the second time it is there
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("below", ["", "runs", "runs/digits"])
def test_make_writable_refuses_a_path_under_a_file(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        make_writable(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


def test_make_writable_tries_to_write(tmp_path, monkeypatch):
    """A folder may exist and still not be writable: a full disk, a read-only mount, other people's."""

    def refuse(*args, **kwargs):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OSError, match="read-only"):
        make_writable(tmp_path)
