"""What the checkpoints of two runs have in common."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from diffusion_jax.runtime.mesh import MeshShape, make_mesh, state_sharding


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


def placed(items, data, fsdp, devices):
    mesh = make_mesh(MeshShape(data, fsdp), devices[: data * fsdp])
    return jax.device_put(items, state_sharding(mesh, items))


def large(step=0):
    """Leaves that are split over devices along their different dimensions, and some that are not."""
    rng = np.random.default_rng(step)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "first": draw(128, 40),
        "last": draw(3, 3, 16, 64),
        "bf16": draw(8, 1024).astype(jnp.bfloat16),
        "bytes": jnp.asarray(rng.integers(0, 256, 8192), jnp.uint8),
        "whole": draw(13),
        "count": jnp.int32(step),
    }
