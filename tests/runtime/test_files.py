import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from diffusion_jax.runtime.files import as_file_name, lock_workdir, make_workdir, make_writable, replace_text


@pytest.mark.parametrize("before", [None, "old\n", "a much longer text than the new one\n" * 100])
def test_the_text_is_replaced_and_nothing_else_is_left(tmp_path, before):
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


def test_the_new_text_is_complete_before_it_replaces_the_old(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("old\n")
    seen, rename, sync = [], Path.replace, os.fsync

    def watch_rename(self, target):
        seen.append((self.read_text(), path.read_text()))
        return rename(self, target)

    def watch_sync(descriptor):
        seen.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    monkeypatch.setattr(Path, "replace", watch_rename)
    monkeypatch.setattr(os, "fsync", watch_sync)
    replace_text(path, "new\n" * 10_000)
    assert seen == [40_000, ("new\n" * 10_000, "old\n")]


def test_the_remains_of_an_earlier_failure_do_not_matter(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *args: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            replace_text(path, "first, and longer\n")
    replace_text(path, "second\n")
    assert path.read_text() == "second\n"


def test_make_writable_creates_the_directory_and_leaves_it_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    make_writable(folder)
    make_writable(folder)  # now it exists
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("below", ["", "runs", "runs/digits"])
def test_make_writable_refuses_a_path_under_a_file(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        make_writable(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


def test_make_writable_tries_to_write(tmp_path, monkeypatch):
    """A directory may exist and not be writable: a full disk, a read-only mount, missing permission."""

    def refuse(*args, **kwargs):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OSError, match="read-only"):
        make_writable(tmp_path)


def test_make_workdir_creates_the_directory(tmp_path):
    make_workdir(tmp_path / "runs" / "digits")
    assert list((tmp_path / "runs" / "digits").iterdir()) == []


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="cannot be written") as error:
        make_workdir(tmp_path / "file" / "run")
    line = str(error.value)
    assert line.startswith(f"workdir {tmp_path}/file/run cannot be written (")
    assert line.endswith("); use another directory")
    assert "\n" not in line


# --- locks -----------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from diffusion_jax.runtime.files import as_file_name, lock_workdir
with lock_workdir(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def assert_free(workdir):
    with lock_workdir(workdir):
        pass


def assert_in_use(workdir):
    start = time.monotonic()
    with pytest.raises(OSError, match="in use") as error, lock_workdir(workdir):
        pass
    assert time.monotonic() - start < 5
    assert str(error.value) == f"workdir {workdir} is in use by another process; wait, or use another directory"


def test_the_lock_is_held_inside_the_block_and_free_after_it(tmp_path):
    for _ in range(2):
        with lock_workdir(tmp_path):
            assert_in_use(tmp_path)
            assert_in_use(tmp_path)  # the first attempt did not release it
        assert_free(tmp_path)


def test_an_error_inside_the_block_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), lock_workdir(tmp_path):
        1 / 0  # noqa: B018
    assert_free(tmp_path)


def test_each_directory_has_a_lock_of_its_own(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with lock_workdir(tmp_path / "a"):
        assert_free(tmp_path / "b")


def test_the_lock_of_another_process_is_seen_and_ends_with_kill(tmp_path):
    command, root = [sys.executable, "-c", HOLD, str(tmp_path)], Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert_in_use(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        assert_free(tmp_path)


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    """filelock would take a soft lock there, which a killed process leaves behind."""

    def flock(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="Function not implemented"), lock_workdir(tmp_path):
        pass
    with (
        pytest.warns(UserWarning, match="falling back to SoftFileLock"),
        filelock.FileLock(tmp_path / "soft", blocking=False),
    ):
        pass


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from diffusion_jax.runtime import files, images
path, how = Path(sys.argv[1]), sys.argv[2]
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    if how == "text":
        files.replace_text(path, "x" * 1000)
    else:
        images.save_grid(np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)), path)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize(("how", "name"), [("text", "config.json"), ("image", "samples.png")])
def test_a_full_disk_leaves_the_old_file_and_is_told_with_its_name(tmp_path, how, name):
    path = tmp_path / name
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", FULL, path, how], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"[Errno 27] File too large: '{path}'\n", done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["cat", "café", "cafe\u0301", "猫の写真", "a b", "x.y", "(1) [2] 'a' & b", "x" * 128])
def test_a_name_that_every_system_accepts_stays(text):
    assert as_file_name(text) == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/b", "a_b"),
        ("../x", ".._x"),
        ("..", "__"),
        (".", "_"),
        ('a\\b:c*d?e"f<g>h|i', "a_b_c_d_e_f_g_h_i"),
        ("\x1b[31m\n\x00\x7f", "_[31m___"),
        ("gnp\u202e", "gnp_"),
        ("\udcff", "_"),
        ("dots. ", "dots__"),
        ("", ""),
    ],
)
def test_what_some_system_forbids_is_replaced(text, name):
    assert as_file_name(text) == name


@pytest.mark.parametrize("letter", ["x", "é", "猫", "😀", "e\u0301"])
def test_a_long_name_is_cut_at_the_border_of_a_character(letter, tmp_path):
    name = as_file_name(letter * 250)
    assert 124 < len(name.encode()) <= 128
    assert (letter * 250).startswith(name)
    (tmp_path / f"000000_{name}.png").touch()
