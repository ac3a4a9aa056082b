"""Where a run's figures go: `metrics.jsonl`, the record, and TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorboardX

from diffusion_jax.runtime.files import replace_text


class MetricsWriter:
    """Writes a run's metrics from step `start` on.

    `metrics.jsonl` holds what follows from config and seed alone, one line a step and kind, so that a resumed
    run has the same file as one that was never stopped; speed goes to TensorBoard only. Lines past
    `start`, which a killed run wrote and the resumed one will write again, are dropped.
    """

    def __init__(self, workdir: Path, start: int = 0):
        self._path = Path(workdir) / "metrics.jsonl"
        self._rewind(start)
        self._file = self._path.open("a", buffering=1)
        self._events = tensorboardX.SummaryWriter(str(Path(workdir) / "events"), purge_step=start + 1)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._events.close()

    def write(self, step: int, scalars: Mapping[str, float], final: bool = False) -> None:
        """One line of the record. `final` marks one off schedule, made because the run ends here."""
        line = {"step": step, **scalars} | ({"final": True} if final else {})
        self._file.write(json.dumps(line) + "\n")
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def write_speed(self, step: int, images_per_second: float) -> None:
        self._events.add_scalar("images_per_second", images_per_second, step)

    def write_image(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture, uint8 [H, W, 3], to TensorBoard."""
        self._events.add_image(name, picture, step, dataformats="HWC")
        self._events.flush()

    def _rewind(self, start: int) -> None:
        if not self._path.exists():
            return
        text = self._path.read_text(errors="replace")
        keep = "".join(line + "\n" for line in text.splitlines() if _stands(line, start))
        if keep != text:
            replace_text(self._path, keep)


def _stands(line: str, start: int) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:  # cut off by a kill
        return False
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        return False
    return entry["step"] <= start and not entry.get("final", False)
