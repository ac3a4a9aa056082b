import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from diffusion_jax.data.sources import cache
from diffusion_jax.data.sources.checks import DataError

SHAPE = (5, 4, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (30, *SHAPE), np.uint8)


class Builder:
    """Writes IMAGES, and counts its calls."""

    def __init__(self, images=IMAGES, wait=0.0):
        self.images, self.wait, self.calls = images, wait, 0

    def __call__(self, write):
        self.calls += 1
        time.sleep(self.wait)
        for image in self.images:
            write(image)
        return {"of": "these"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "diffusion_jax" / "x.json"


def build(path, stamp="1", builder=None):
    return cache.open_or_build(path, stamp, SHAPE, builder or Builder())


def content(opened):
    return np.array([opened[i] for i in range(len(opened))]).reshape(-1, *SHAPE)


def assert_holds(opened, images=IMAGES):
    np.testing.assert_array_equal(content(opened), images)


def images_path(path):
    """The one file of images beside the JSON file."""
    (found,) = path.parent.glob("*.npy")
    return found


def names(path):
    """The files of a cache; the one of the images, whose name has a checksum, as "npy"."""
    return sorted("npy" if file.suffix == ".npy" else file.name for file in path.parent.iterdir())


WHOLE = ["npy", "x.json", "x.lock"]


def test_the_images_are_read_as_they_were_written(path):
    opened = build(path)
    assert_holds(opened)
    assert opened[3].dtype == np.uint8
    assert opened.about == {
        "of": "these",
        "stamp": "1",
        "count": 30,
        "digest": hashlib.sha256(IMAGES.tobytes()).hexdigest(),
    }
    assert names(path) == WHOLE


def test_indices_are_those_of_a_sequence(path):
    opened = build(path)
    np.testing.assert_array_equal(opened[-1], IMAGES[29])
    for index in (30, -31):
        with pytest.raises(IndexError):
            opened[index]


def test_the_images_are_a_numpy_file(path):
    build(path)
    records = np.load(images_path(path), allow_pickle=False)
    np.testing.assert_array_equal(records["image"], IMAGES)


def test_the_second_time_nothing_is_built(path):
    build(path)
    again = Builder()
    assert_holds(build(path, builder=again))
    assert again.calls == 0


def test_a_cache_may_be_empty(path):
    assert len(build(path, builder=Builder([]))) == 0
    again = Builder()
    assert len(build(path, builder=again)) == again.calls == 0


def test_another_stamp_replaces_it(path):
    """A process that has the old one open continues with it."""
    old = build(path)
    new = build(path, "2", Builder(IMAGES[::-1]))
    assert_holds(new, IMAGES[::-1])
    assert_holds(old)
    assert names(path) == WHOLE


def test_the_caches_of_version_0_1_0_are_removed(path):
    path.parent.mkdir(parents=True)
    path.with_suffix(".array_record").write_bytes(b"old")
    assert_holds(build(path))
    assert names(path) == WHOLE


# Damage


def truncated(path):
    images_path(path).write_bytes(images_path(path).read_bytes()[:-1])


def lengthened(path):
    with images_path(path).open("ab") as file:
        file.write(b"x")


def emptied(path):
    images_path(path).write_bytes(b"")


def other_bytes(path):
    images_path(path).write_bytes(b"x" * images_path(path).stat().st_size)


def other_header(path):
    data = images_path(path).read_bytes()
    images_path(path).write_bytes(data.replace(b"(30,)", b"(29,)"))


def no_images(path):
    images_path(path).unlink()


def a_bit_of_the_description(path):
    """The digest is part of the fingerprint of the data, and the names of skipped images choose the labels."""
    path.write_text(path.read_text().replace("these", "those"))


def a_truncated_description(path):
    path.write_text(path.read_text()[:-1])


def no_description(path):
    path.write_text("")


def another_description(path):
    """JSON of the right checksum that describes no cache."""
    path.write_text("[]")
    images_path(path).rename(cache._images_path(path, "[]"))


def fewer_images(path):
    """A sound file that does not have the images of the description."""
    text = json.dumps(json.loads(path.read_text()) | {"count": 29})
    path.write_text(text)
    images_path(path).rename(cache._images_path(path, text))


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        lengthened,
        emptied,
        other_bytes,
        other_header,
        no_images,
        a_bit_of_the_description,
        a_truncated_description,
        no_description,
        another_description,
        fewer_images,
    ],
)
def test_damage_is_logged_and_the_cache_built_again(path, damage, caplog):
    build(path)
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert_holds(build(path))
    assert [r.message.startswith(f"cache {path} is damaged") for r in caplog.records] == [True]
    assert "\n" not in caplog.text.strip()
    assert names(path) == WHOLE
    again = Builder()
    build(path, builder=again)
    assert again.calls == 0


def flip_a_bit(file, position):
    with file.open("r+b") as opened:
        opened.seek(position)
        byte = opened.read(1)[0]
        opened.seek(position)
        opened.write(bytes([byte ^ 1]))


RECORD = 5 * 4 * 3 + 4


@pytest.mark.parametrize("where", [0, 30, RECORD - 5, RECORD - 1])
@pytest.mark.parametrize("opened_before", [False, True])
def test_a_damaged_image_is_refused_when_it_is_read(path, where, opened_before):
    """A bit in its pixels or its checksum; the neighbours are read."""
    opened = build(path)
    file = images_path(path)
    flip_a_bit(file, file.stat().st_size - 10 * RECORD + where)
    opened = opened if opened_before else build(path)
    with pytest.raises(DataError, match=rf"cache {file} is damaged .image 20.; delete it and start again") as error:
        opened[20]
    assert "\n" not in str(error.value)
    for neighbour in (19, 21):
        np.testing.assert_array_equal(opened[neighbour], IMAGES[neighbour])


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_file_that_is_cut_short_after_it_was_opened_is_refused(path, size):
    """A memory-mapped file would kill the process here."""
    opened = build(path)
    os.truncate(images_path(path), size % images_path(path).stat().st_size)
    says = rf"^cache {images_path(path)} was cut short while it was in use .image 29.; delete it and start again$"
    with pytest.raises(DataError, match=says):
        opened[29]


def test_a_disk_that_fails_is_reported_in_one_line(path, monkeypatch):
    opened = build(path)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(DataError, match="cannot be read, Input/output error .image 3."):
        opened[3]


# Interruptions


def test_a_build_that_fails_leaves_the_old_cache(path):
    build(path)

    def fail(write):
        write(IMAGES[0])
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        build(path, "2", fail)
    assert names(path) == WHOLE
    never = Builder()
    assert_holds(build(path, "1", never))
    assert never.calls == 0


def test_the_files_of_a_killed_process_do_not_get_in_the_way(path):
    path.parent.mkdir(parents=True)
    for name in ("x.new", "x.0123456789abcdef.npy", "x.json.new"):
        (path.parent / name).write_bytes(b"half")
    path.with_suffix(".lock").touch()
    (path.parent / "other.json").touch()
    assert_holds(build(path))
    (path.parent / "other.json").unlink()
    assert names(path) == WHOLE


class Killed(BaseException):
    """The place of a kill, at which no handler of exceptions runs."""


@pytest.mark.parametrize(("owner", "name"), [(Path, "replace"), (cache, "replace_text")])
def test_a_kill_before_either_file_is_in_place_leaves_the_old_cache(path, owner, name, monkeypatch):
    build(path)

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, kill)
        with pytest.raises(Killed):
            build(path, "2", Builder(IMAGES[::-1]))
    never = Builder()
    assert_holds(build(path, "1", never))
    assert never.calls == 0
    assert_holds(build(path, "2", Builder(IMAGES[::-1])), IMAGES[::-1])
    assert names(path) == WHOLE


def _build_slowly(path, started):
    def slow(write):
        started.set()
        time.sleep(60)
        return {}

    build(path, builder=slow)


def test_the_lock_of_a_killed_process_is_free(path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_build_slowly, args=(path, started), daemon=True)
    process.start()
    assert started.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert_holds(build(path))
    assert names(path) == WHOLE


# Several readers


def run_threads(target, arguments):
    threads = [threading.Thread(target=target, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_at_the_same_time_one_builds_and_the_others_wait(path):
    """The lock belongs to the open file, so that threads can stand for processes here."""
    builder, found = Builder(wait=0.2), []
    run_threads(lambda _: found.append(build(path, builder=builder)), range(5))
    assert builder.calls == 1
    assert len(found) == 5
    for opened in found:
        assert_holds(opened)


def test_a_cache_that_is_replaced_while_it_is_opened_is_opened_again(path, monkeypatch):
    """Between the two files of the old cache another process puts the new one in place."""
    build(path)
    real, builder = cache._images_path, Builder(IMAGES[::-1])

    def replace_first(path, text):
        monkeypatch.undo()
        found = real(path, text)
        build(path, "2", builder)
        return found

    monkeypatch.setattr(cache, "_images_path", replace_first)
    assert_holds(build(path, "2", builder), IMAGES[::-1])
    assert builder.calls == 1


def test_any_number_of_threads_read_it(path):
    opened, wrong = build(path), []

    def read(seed):
        indices = [k * seed % 30 for k in range(500)]
        wrong.extend(i for i in indices if not np.array_equal(opened[i], IMAGES[i]))

    run_threads(read, (1, 7, 11, 13))
    assert wrong == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_its_file_is_closed_with_it(path):
    build(path)
    before = len(os.listdir("/proc/self/fd"))
    opened = [build(path) for _ in range(10)]
    assert len(os.listdir("/proc/self/fd")) > before
    del opened
    assert len(os.listdir("/proc/self/fd")) == before


# Places that cannot be written


def test_a_place_that_cannot_be_written_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f'cache_dir = "{tmp_path}/file": cannot be written .*; use another') as error:
        build(tmp_path / "file" / "diffusion_jax" / "x.json")
    assert "\n" not in str(error.value)


def test_a_cache_in_a_read_only_directory_is_read_but_not_replaced(path, monkeypatch):
    """The system refuses to create files (also to root, whom permissions do not stop)."""
    build(path)
    real = os.open

    def refuse(file, flags, *arguments, **kwargs):
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system", str(file))
        return real(file, flags, *arguments, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert_holds(build(path))
    (path.with_suffix(".lock")).unlink()
    with pytest.raises(DataError, match="cannot be written .*Read-only file system.*; use another") as error:
        build(path, "2")
    assert "\n" not in str(error.value)


@contextlib.contextmanager
def largest_file(size):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_is_reported_in_one_line(path):
    with largest_file(1000), pytest.raises(DataError, match='cache_dir = ".*": cannot be written .*File too large'):
        build(path)
    assert names(path) == ["x.lock"]


def test_the_directory_of_the_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_directory("") == tmp_path / "home" / ".cache" / "diffusion_jax"
    assert cache.cache_directory("~/x") == tmp_path / "home" / "x" / "diffusion_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # ignored, as the standard says
    assert cache.cache_directory("") == tmp_path / "home" / ".cache" / "diffusion_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_directory("") == tmp_path / "xdg" / "diffusion_jax"
    assert cache.cache_directory(str(tmp_path / "mine")) == tmp_path / "mine" / "diffusion_jax"
