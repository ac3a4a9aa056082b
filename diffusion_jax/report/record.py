"""All that the report shows of one run."""

import dataclasses

from diffusion_jax.report.events import EventSession, read_sessions
from diffusion_jax.report.metrics import Curves, read_metrics
from diffusion_jax.report.samples import SampleGrid, read_grids
from diffusion_jax.report.settings import RunSettings, read_settings
from diffusion_jax.runtime.place import Place, run_path, store_errors

__all__ = ["RunRecord", "read_run"]

SPEED = "images_per_second"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What was read of a run.

    Attributes:
      name: the directory, as the caller wrote it.
      curves: each metric, and the speed, over steps.
      sessions: the event files of the run.
      grids: the grids of samples.
      settings: the configuration and the environment.
      notes: sentences about files that are missing or cannot be used.
    """

    name: str
    curves: Curves
    sessions: tuple[EventSession, ...]
    grids: tuple[SampleGrid, ...]
    settings: RunSettings
    notes: tuple[str, ...]


def read_run(name: str, most_grids: int) -> RunRecord:
    """Reads a run, which may be training meanwhile. Nothing is locked, changed or computed.

    Raises ValueError if the directory holds no run, and OSError if it cannot be read.
    """
    workdir = run_path("workdir", name)
    with store_errors(workdir, "read"):
        problem = _find_problem(workdir)
    if problem:
        raise ValueError(f"workdir = {workdir}: {problem}; use the --workdir of a training")
    notes: list[str] = []
    curves, sessions = read_metrics(workdir, notes.append), read_sessions(workdir, notes.append)
    grids, settings = read_grids(workdir, most_grids, notes.append), read_settings(workdir, notes.append)
    notes += ["there is no config.json"] * (not (workdir / "config.json").exists())
    notes += [f"there are no {what}" for what, found in (("metrics", curves), ("samples", grids)) if not found]
    notes += ["there are no events, and so no speed and no time"] * (not sessions)
    return RunRecord(name, curves | _speed(curves, sessions), tuple(sessions), tuple(grids), settings, tuple(notes))


def _find_problem(workdir: Place) -> str | None:
    """Why a directory is no run; None if a training or an import has begun there."""
    if any((workdir / name).exists() for name in ("config.json", "metrics.jsonl", "checkpoints")):
        return None
    return "holds no run" if workdir.exists() else "does not exist"


def _speed(curves: Curves, sessions: list[EventSession]) -> Curves:
    """The speed at the steps of the record: an interrupted session may have gone further than it was saved."""
    recorded = curves.get("loss", {})
    latest = {step: value for session in sessions for step, value in session.speed.items() if step in recorded}
    return {SPEED: dict(sorted(latest.items()))} if latest else {}
