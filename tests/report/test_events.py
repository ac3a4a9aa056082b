import os
import struct

import numpy as np
import pytest
from run_files import make_run

from diffusion_jax.report.events import read_sessions
from diffusion_jax.runtime.writers import MetricsWriter


def read(directory):
    notes = []
    return read_sessions(directory, notes.append), notes


def event_file(directory):
    (path,) = (directory / "events").iterdir()
    return path


def test_the_speed_is_what_was_written(tmp_path):
    (session,), notes = read(make_run(tmp_path / "run"))
    assert session.speed == {20: 120.0, 40: 140.0, 60: 160.0, 80: 180.0}
    assert 1.7e9 < session.start <= session.end < 4e9
    assert notes == []


def test_images_between_the_numbers_are_skipped(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    with MetricsWriter(tmp_path) as writer:
        writer.write_speed(10, 100.0)
        writer.write_image(10, "samples", noise)
        writer.write_speed(20, 200.0)
    assert event_file(tmp_path).stat().st_size > 100_000
    (session,), _ = read(tmp_path)
    assert session.speed == {10: 100.0, 20: 200.0}


def test_each_start_is_a_session_in_the_order_of_time(tmp_path):
    for start in (0, 20):
        with MetricsWriter(tmp_path, start) as writer:
            writer.write_speed(start + 10, start + 1.0)
    later = max((tmp_path / "events").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    later.rename(later.with_name("a"))  # names do not count
    sessions, _ = read(tmp_path)
    assert [session.speed for session in sessions] == [{10: 1.0}, {30: 21.0}]


@pytest.mark.parametrize("cut", [1, 3, 20, 40])
def test_a_record_that_is_being_written_is_left_out(tmp_path, cut):
    with MetricsWriter(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.write_speed(step, 100.0)
    os.truncate(event_file(tmp_path), event_file(tmp_path).stat().st_size - cut)
    (session,), notes = read(tmp_path)
    assert session.speed == {10: 100.0, 20: 100.0}
    assert notes == []


@pytest.mark.parametrize("data", [b"", b"\xff" * 500, b"\x00" * 500, struct.pack("<QI", 8, 0) + b"\xff" * 12])
def test_a_file_of_something_else_costs_nothing_but_a_note(tmp_path, data):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "events" / "other").write_bytes(data)
    (session,), notes = read(tmp_path / "run")
    assert len(session.speed) == 4
    assert all(note.startswith("events/other cannot be used (") for note in notes)


def test_no_events_are_no_sessions(tmp_path):
    assert read(tmp_path) == ([], [])
    (tmp_path / "events").write_text("a file")
    assert read(tmp_path) == ([], [])
