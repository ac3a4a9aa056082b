"""A checkpoint written by 1, 2 or 8 devices, split or not, and read by all the others: the same bits."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from small_run import Outcome, run_python

# Writes a state that is split over the devices, or reads it; restoring compares the fingerprint of every leaf.
CODE = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.mesh import MeshShape, make_mesh, state_sharding
folder, fsdp, act = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
state = {"a": rng.normal(size=(128, 40)), "b": rng.normal(size=(3, 3, 16, 64)), "c": rng.normal(size=13)}
state = {name: jnp.asarray(x, jnp.float32) for name, x in state.items()} | {"step": jnp.int32(7)}
mesh = make_mesh(MeshShape(-1, fsdp))
sharding = state_sharding(mesh, state)
with Checkpoints(folder) as checkpoints:
    if act == "write":
        checkpoints.save(1, {"state": jax.device_put(state, sharding)}, {})
    else:
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, sharding)
        _, items, _ = checkpoints.restore({"state": target})
        jax.tree.map(np.testing.assert_array_equal, items["state"], state)
"""


def drill(scratch: Path, short: bool, seed: int) -> Iterator[Outcome]:
    layouts = [(1, 1), (2, 1), (2, 2), (8, 1), (8, 8), (8, 4)]
    pairs = list(itertools.product(layouts, layouts))
    for (devices, fsdp), (other, other_fsdp) in pairs[1::12] if short else pairs:
        folder = scratch / f"{devices}_{fsdp}"
        problem = "" if folder.exists() else run_on(folder, devices, fsdp, "write")
        problem = problem or run_on(folder, other, other_fsdp, "read")
        yield Outcome(f"{devices} devices, fsdp {fsdp} -> {other} devices, fsdp {other_fsdp}", problem)


def run_on(folder: Path, devices: int, fsdp: int, act: str) -> str:
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = run_python(CODE, folder, fsdp, act, env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"})
    return "" if done.returncode == 0 else done.stderr[-500:]
