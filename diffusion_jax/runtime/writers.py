"""The metrics of a run: the record `metrics.jsonl` and TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorboardX

from diffusion_jax.runtime.files import replace_text

# TensorBoard shows events at most this much later. tensorboardX's own flush() skips what its thread has not seen yet.
_FLUSH_SECONDS = 10


class MetricsWriter:
    """Writes the metrics of a run from step `start` on.

    `metrics.jsonl` holds the values that follow from config and seed alone, one line per step and kind, so that
    a resumed run has the same file as an uninterrupted one. Speed goes to TensorBoard only. Lines after `start`,
    which an interrupted run wrote and the resumed one will write again, are removed.
    """

    def __init__(self, workdir: Path, start: int = 0):
        self._path = Path(workdir) / "metrics.jsonl"
        self._rewind(start)
        self._file = self._path.open("a", buffering=1)  # flushed after each line
        self._events = tensorboardX.SummaryWriter(
            str(Path(workdir) / "events"), purge_step=start + 1, flush_secs=_FLUSH_SECONDS
        )

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._events.close()

    def write(self, step: int, scalars: Mapping[str, float], final: bool = False) -> None:
        """Writes one line of the record. `final` marks an evaluation off schedule, made because the run ends here."""
        line = {"step": step, **scalars} | ({"final": True} if final else {})
        self._file.write(json.dumps(line) + "\n")
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def write_speed(self, step: int, images_per_second: float) -> None:
        self._events.add_scalar("images_per_second", images_per_second, step)

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes an image, uint8 [H, W, 3], to TensorBoard."""
        self._events.add_image(name, image, step, dataformats="HWC")

    def _rewind(self, start: int) -> None:
        if not self._path.exists():
            return
        text = self._path.read_text(errors="replace")
        kept = "".join(line + "\n" for line in text.splitlines() if _is_kept(line, start))
        if kept != text:
            replace_text(self._path, kept)


def _is_kept(line: str, start: int) -> bool:
    """Whether a run that resumes after step `start` keeps this line of the record."""
    try:
        entry = json.loads(line)
    except ValueError:  # cut off by a kill
        return False
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        return False
    return entry["step"] <= start and not entry.get("final", False)
