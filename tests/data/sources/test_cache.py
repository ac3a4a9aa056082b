import logging
import os
import threading
import time
from pathlib import Path

import pytest

from diffusion_jax.data.sources import cache
from diffusion_jax.data.sources.base import DataError

RECORDS = [bytes([i]) * 100 for i in range(30)]


class Builder:
    """Writes RECORDS, and counts how often it was asked to."""

    def __init__(self, records=RECORDS, wait=0.0):
        self.records, self.wait, self.calls = records, wait, 0

    def __call__(self, write):
        self.calls += 1
        time.sleep(self.wait)
        for record in self.records:
            write(record)
        return {"of": "what"}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "diffusion_jax" / "x.array_record"


def built(file, stamp="1", build=None):
    return cache.open_or_build(file, stamp, build or Builder())


def content(opened):
    return [opened[i] for i in range(len(opened))]


def test_what_was_written_is_read(file):
    opened = built(file)
    assert content(opened) == RECORDS
    assert opened.about["of"] == "what"


def test_the_second_time_nothing_is_built(file):
    built(file)
    again = Builder()
    assert content(built(file, build=again)) == RECORDS
    assert again.calls == 0


def test_one_without_records_is_a_cache_too(file):
    assert len(built(file, build=Builder([]))) == 0
    again = Builder()
    assert len(built(file, build=again)) == again.calls == 0


def test_another_stamp_replaces_it(file):
    """Who has the old one open goes on with it."""
    old = built(file)
    size = sum(f.stat().st_size for f in file.parent.iterdir())
    new = built(file, "2", Builder(RECORDS[::-1]))
    assert content(new) == RECORDS[::-1]
    assert content(old) == RECORDS
    assert sum(f.stat().st_size for f in file.parent.iterdir()) == size
    assert {f.name for f in file.parent.iterdir()} == {"x.array_record", "x.lock"}


def truncated(file):
    file.write_bytes(file.read_bytes()[:70_000])


def emptied(file):
    file.write_bytes(b"")


def other_bytes(file):
    file.write_bytes(b"x" * file.stat().st_size)


def fewer_records(file):
    """A sound file whose last record tells of more than there are."""
    writer = cache.ArrayRecordWriter(str(file), "group_size:1")
    for record in [*RECORDS[:5], b'{"stamp": "1", "count": 30}']:
        writer.write(record)
    writer.close()


def no_index(file):
    writer = cache.ArrayRecordWriter(str(file), "group_size:1")
    writer.write(RECORDS[0])
    writer.close()


def no_records(file):
    cache.ArrayRecordWriter(str(file), "group_size:1").close()


@pytest.mark.parametrize(
    "damage", [truncated, emptied, other_bytes, fewer_records, no_index, no_records], ids=lambda f: f.__name__
)
def test_damage_is_told_and_mended(file, damage, caplog):
    built(file)
    damage(file)
    with caplog.at_level(logging.WARNING):
        assert content(built(file)) == RECORDS
    assert [r.message.startswith(f"cache {file} is damaged") for r in caplog.records] == [True]
    assert "\n" not in caplog.text.strip()
    again = Builder()
    built(file, build=again)
    assert again.calls == 0


def test_a_record_that_is_damaged_is_refused_when_it_is_read(file):
    records = [os.urandom(1000) for _ in RECORDS]
    built(file, build=Builder(records))
    data = file.read_bytes()
    where = data.index(records[20]) + 500
    file.write_bytes(data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :])
    opened = built(file)
    with pytest.raises(DataError, match=f"cache {file} is damaged .*delete it and start again") as error:
        opened[20]
    assert "\n" not in str(error.value)
    assert opened[19] == records[19]


def test_a_build_that_fails_leaves_the_old_one(file):
    built(file)

    def fails(write):
        write(b"x")
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        built(file, "2", fails)
    assert {f.name for f in file.parent.iterdir()} == {"x.array_record", "x.lock"}
    never = Builder()
    assert content(built(file, "1", never)) == RECORDS
    assert never.calls == 0


def test_what_a_killed_process_left_is_no_hindrance(file):
    file.parent.mkdir(parents=True)
    file.with_suffix(".new").write_bytes(b"half")
    file.with_suffix(".lock").touch()
    assert content(built(file)) == RECORDS
    assert {f.name for f in file.parent.iterdir()} == {"x.array_record", "x.lock"}


def test_at_once_one_builds_and_the_others_wait(file):
    """The lock is of the open file, so that threads stand for processes here."""
    build, found = Builder(wait=0.2), []
    threads = [threading.Thread(target=lambda: found.append(built(file, build=build))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.calls == 1
    assert [content(opened) for opened in found] == [RECORDS] * 5


def test_any_number_of_threads_read_it(file):
    opened, wrong = built(file), []

    def read(seed):
        wrong.extend(i for k in range(500) if opened[i := (k * seed) % 30] != RECORDS[i])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in (1, 7, 11, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_its_files_are_closed_with_it(file):
    built(file)  # whatever the library opens once and for all
    before = len(os.listdir("/proc/self/fd"))
    opened = [built(file) for _ in range(10)]
    assert len(os.listdir("/proc/self/fd")) > before
    del opened
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f'cache_dir = "{tmp_path}/file": cannot be written .*; name') as error:
        built(tmp_path / "file" / "diffusion_jax" / "x.array_record")
    assert "\n" not in str(error.value)


def test_a_full_disk_is_told_in_one_line(file):
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(DataError, match='cache_dir = ".*": cannot be written .*File too large'):
            built(file, build=Builder([os.urandom(10_000) for _ in range(50)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert {f.name for f in file.parent.iterdir()} == {"x.lock"}


def test_where_caches_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.directory("") == tmp_path / "home" / ".cache" / "diffusion_jax"
    assert cache.directory("~/x") == tmp_path / "home" / "x" / "diffusion_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be passed over, says the standard
    assert cache.directory("") == tmp_path / "home" / ".cache" / "diffusion_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.directory("") == tmp_path / "xdg" / "diffusion_jax"
    assert cache.directory(str(tmp_path / "mine")) == tmp_path / "mine" / "diffusion_jax"
