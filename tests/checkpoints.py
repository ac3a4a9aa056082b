"""What the checkpoints of two runs have in common."""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp


def read_checkpoint(workdir: Path) -> tuple[int, dict]:
    """Step and every leaf of the newest checkpoint."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # whichever devices wrote it
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        step = manager.latest_step()
        items = {name: ocp.args.StandardRestore(fallback_sharding=sharding) for name in ("ema_params", "rest")}
        return step, dict(manager.restore(step, args=ocp.args.Composite(**items)))


def assert_same_run(a: Path, b: Path) -> None:
    """The same bits in parameters, average, optimizer and counts, and the same metrics."""
    (step_a, items_a), (step_b, items_b) = read_checkpoint(a), read_checkpoint(b)
    assert step_a == step_b
    jax.tree.map(np.testing.assert_array_equal, items_a, items_b)
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
