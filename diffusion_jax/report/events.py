"""What only TensorBoard's files hold: the speed, and when the run was trained."""

import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

from tensorboardX.proto.event_pb2 import Event

from diffusion_jax.report.files import Note, noted
from diffusion_jax.report.metrics import Curve, read_number
from diffusion_jax.runtime.place import Place

__all__ = ["EventSession", "read_sessions"]

# Larger records hold images. They are skipped without being read.
_MOST_BYTES = 2**16
# Seconds since 1970 that have a date.
_LAST_SECOND = 4_000_000_000


class EventSession(NamedTuple):
    """One event file: the seconds since 1970 of its first and last record, and the speed in images per second."""

    start: float
    end: float
    speed: Curve


def read_sessions(workdir: Place, note: Note) -> list[EventSession]:
    """The event files of a run, in the order of time; a record at the end that is not complete is being written."""
    found: list[EventSession] = []
    with noted("events", note):
        directory = workdir / "events"
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            if path.is_file():
                found += _read_session(path, note)
    return sorted(found, key=lambda session: session.start)


def _read_session(path: Place, note: Note) -> list[EventSession]:
    times, speed = list[float](), dict[int, float]()
    with noted(f"events/{path.name}", note), path.open("rb") as file:
        for data in _records(file):
            event = Event.FromString(data)
            if 0 < event.wall_time < _LAST_SECOND:
                times.append(event.wall_time)
            for value in event.summary.value:
                number = read_number(value.simple_value)
                if value.tag == "images_per_second" and number is not None:
                    speed[event.step] = number
    return [EventSession(min(times), max(times), speed)] if times else []


def _records(file: IO[bytes]) -> Iterator[bytes]:
    """The small records of an event file. Each is its length, a checksum of that, the bytes and their checksum."""
    while len(header := file.read(12)) == 12:
        (length,) = struct.unpack("<Q", header[:8])
        if length > _MOST_BYTES:
            file.seek(length + 4, 1)
            continue
        data = file.read(length + 4)
        if len(data) == length + 4:
            yield data[:-4]
