"""The metrics of a run: the record `metrics.jsonl` and TensorBoard events.

Both are side products: if one cannot be written, that is one warning, and training continues. Nothing here runs in a
thread of its own, because a thread that has died can leave the training waiting for it.
"""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from diffusion_jax.runtime.errors import first_line
from diffusion_jax.runtime.files import replace_text
from diffusion_jax.runtime.place import Mirror, Place, is_remote
from diffusion_jax.runtime.processes import is_owner

log = logging.getLogger(__name__)

OnMetrics = Callable[[int, dict[str, float]], object]
OnImages = Callable[[int, np.ndarray], object]

# After a failure, the events are tried again this much later, in a new file.
_RETRY_SECONDS = 60
_COPY_SECONDS = 30


class MetricsWriter:
    """Writes the metrics of a run from step `start` on.

    `metrics.jsonl` holds the values that follow from config and seed alone, one line per step and kind, so that
    a resumed run has the same file as an uninterrupted one. Speed goes to TensorBoard only. Lines after `start`,
    which an interrupted run wrote and the resumed one will write again, are removed, and so are final lines, unless
    the run is `complete`. A number that is not finite is null in `metrics.jsonl`: JSON has no other word for it.
    `on_metrics(step, metrics)` and `on_images(step, image)` are told the same, and the speed, as it is written.
    Of several processes only the owner of the directory writes. In a bucket, where nothing can be appended, both files
    are replaced by longer ones twice a minute and at `flush`.
    """

    def __init__(
        self,
        workdir: Place,
        start: int = 0,
        complete: bool = False,
        on_metrics: OnMetrics | None = None,
        on_images: OnImages | None = None,
    ):
        self._writes = is_owner()
        self._on_metrics, self._on_images = _Listener("on_metrics", on_metrics), _Listener("on_images", on_images)
        self._mirror = Mirror(workdir, "metrics.jsonl") if self._writes and is_remote(workdir) else None
        self._copied = time.monotonic()
        if self._writes:
            directory = self._mirror.local if self._mirror else Path(workdir)
            self._record = _Record(directory / "metrics.jsonl", start, complete)
            self._events = _Events(directory / "events", start)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writes:
            self._events.close()
        if self._mirror:
            self._mirror.close()

    def flush(self) -> None:
        """Brings all that was written to the directory of the run. A run resumes after a checkpoint, so call it before.

        Local files are written at once.
        """
        if self._mirror:
            self._mirror.copy()
            self._copied = time.monotonic()

    def has(self, step: int, name: str) -> bool:
        """Whether the record that this session found has a line of `step` with the metric `name`."""
        return self._writes and any(line["step"] == step and name in line for line in self._record.found)

    def write(self, step: int, scalars: Mapping[str, float], final: bool = False) -> None:
        """Writes one line of the record. `final` marks an evaluation off schedule, made because the run ends here."""
        if not self._writes:
            return
        values = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._record.write({"step": step, **values} | ({"final": True} if final else {}))
        self._on_metrics.tell(step, dict(scalars))
        self._add(
            step, lambda: Summary(value=[each for item in scalars.items() for each in summary.scalar(*item).value])
        )

    def write_speed(self, step: int, images_per_second: float) -> None:
        self._add(step, lambda: summary.scalar("images_per_second", images_per_second))
        if self._writes:
            self._on_metrics.tell(step, {"images_per_second": images_per_second})

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes an image, uint8 [H, W, 3], to TensorBoard."""
        self._add(step, lambda: summary.image(name, image, dataformats="HWC"))
        if self._writes:
            self._on_images.tell(step, image)

    def _add(self, step: int, summarize: Callable[[], Any]) -> None:
        if self._writes:
            self._events.write(lambda: Event(wall_time=time.time(), step=step, summary=summarize()))
        if time.monotonic() - self._copied > _COPY_SECONDS:
            self.flush()


class _Listener:
    """A caller's function of (step, value). If it fails, that is one warning, and it is called again the next time."""

    def __init__(self, name: str, function: Callable[[int, Any], object] | None):
        self._name, self._function, self._failed = name, function, False

    def tell(self, step: int, value: Any) -> None:
        if self._function is None:
            return
        try:
            self._function(step, value)
        except Exception as error:  # whatever it is, it is not worth the run
            if not self._failed:
                log.warning("%s failed at step %d (%s); training continues", self._name, step, first_line(error))
            self._failed = True


class _Record:
    """Lines of JSON at the end of a file. What cannot be written is kept, and written when it can be."""

    def __init__(self, path: Path, start: int, complete: bool):
        self._path, self._waiting, self._failed = path, "", False
        self.found: list[dict[str, Any]] = []
        self._size = 0
        try:
            self.found = self._rewind(start, complete)
            self._size = path.stat().st_size if path.exists() else 0
        except OSError as error:
            self._fail(error)

    def write(self, line: dict[str, Any]) -> None:
        self._waiting += json.dumps(line, allow_nan=False) + "\n"
        try:
            with self._path.open("ab") as file:
                if file.tell() > self._size:
                    file.truncate(self._size)  # a part of a line, from a write that failed
                file.write(self._waiting.encode())
                file.flush()
                self._size = file.seek(0, os.SEEK_END)
        except OSError as error:
            self._fail(error)
        else:
            self._waiting, self._failed = "", False

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            log.warning("%s cannot be written (%s); training continues", self._path, first_line(error))
        self._failed = True

    def _rewind(self, start: int, complete: bool) -> list[dict[str, Any]]:
        """Removes the lines that a run resumed after `start` writes again; returns the others."""
        if not self._path.exists():
            return []
        text = self._path.read_text(errors="replace")
        entries = [(line, parse_entry(line)) for line in text.splitlines()]
        kept = [(line, entry) for line, entry in entries if entry and _is_kept(entry, start, complete)]
        if (rewound := "".join(line + "\n" for line, _ in kept)) != text:
            replace_text(self._path, rewound)
        return [entry for _, entry in kept]


def parse_entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):  # cut off by a kill, or damaged
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _is_kept(entry: dict[str, Any], start: int, complete: bool) -> bool:
    """Whether a run that resumes after step `start` keeps this line of the record."""
    return entry["step"] <= start and (complete or not entry.get("final", False))


class _Events:
    """TensorBoard's event file, written at once. After a failure it is tried again later, in a new file."""

    def __init__(self, directory: Path, start: int):
        self._directory, self._start = directory, start
        self._writer: EventsWriter | None = None
        self._failed = False
        self._due = time.monotonic()

    def write(self, make_event: Callable[[], Event]) -> None:
        if time.monotonic() < self._due:
            return
        try:
            if self._writer is None:
                self._writer = self._open()
            self._writer.write_event(make_event())
            self._writer.flush()  # so that TensorBoard shows it, and a full disk is noticed
        except Exception as error:  # whatever it is, it is not worth the run
            self._fail(error)

    def close(self) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        except Exception as error:
            self._fail(error)

    def _open(self) -> EventsWriter:
        self._directory.mkdir(exist_ok=True)
        # The name holds the time in seconds; the process keeps two starts within one second apart.
        writer = EventsWriter(str(self._directory / "events"), f".{os.getpid()}.{time.monotonic_ns()}")
        # Tells TensorBoard to drop what an interrupted run wrote from this step on.
        writer.write_event(Event(step=self._start + 1, session_log=SessionLog(status=SessionLog.START)))
        return writer

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            reason = first_line(error)
            log.warning("TensorBoard events cannot be written to %s (%s); training continues", self._directory, reason)
        writer, self._writer, self._failed = self._writer, None, True
        self._due = time.monotonic() + _RETRY_SECONDS
        with contextlib.suppress(Exception):
            if writer is not None:
                # EventsWriter.close() flushes first, fails again, and leaves the file to complain when it is collected.
                writer._py_recordio_writer.close()
