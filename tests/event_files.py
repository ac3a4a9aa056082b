"""Reads the files that TensorBoard shows."""

import struct

from tensorboardX.proto.event_pb2 import Event


def events(folder):
    """All values in the TensorBoard files of a directory, as (tag, step, value)."""
    found = []
    for path in sorted((folder / "events").iterdir()):
        for event in read_events(path):
            found += [(value.tag, event.step, value) for value in event.summary.value]
    return found


def read_events(path):
    data = path.read_bytes()
    while data:  # length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
