"""The device mesh ('data', 'fsdp') and the placement of arrays on it.

The batch is split over both axes. Parameters, their average and the optimizer's state are split over 'fsdp',
each large leaf along its largest dimension that is divisible.
"""

import dataclasses
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion_jax.validation import Checked, integer

# Splitting a smaller leaf would cost more in gathering than it saves in memory.
_MIN_SPLIT_SIZE = 2**12


@dataclasses.dataclass(frozen=True)
class MeshShape(Checked):
    """Number of devices along each axis of the mesh.

    Attributes:
      data: devices that share a batch; -1 for all devices that `fsdp` leaves.
      fsdp: devices that share a batch and also split the parameters, their average and the optimizer's state.

    >>> make_mesh(MeshShape(data=1, fsdp=1), jax.devices()[:1]).axis_names
    ('data', 'fsdp')
    """

    data: int = dataclasses.field(default=-1, metadata=integer(-1))
    fsdp: int = dataclasses.field(default=1, metadata=integer(1))

    def __post_init__(self):
        super().__post_init__()
        if self.data == 0:
            raise ValueError("data = 0: must be a number of devices >= 1, or -1 for all that fsdp leaves")


def make_mesh(shape: MeshShape = MeshShape(), devices: list[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over `devices`, by default all. Raises ValueError if `shape` does not match their number."""
    devices = jax.devices() if devices is None else devices
    data = len(devices) // shape.fsdp if shape.data == -1 else shape.data
    if data < 1 or data * shape.fsdp != len(devices):
        raise ValueError(f"data = {shape.data}, fsdp = {shape.fsdp}: data * fsdp must be the {len(devices)} devices")
    # Auto axes: the compiler places arrays that have no annotation.
    axes = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, shape.fsdp), ("data", "fsdp"), axis_types=axes, devices=devices)


def batch_sharding(mesh: Mesh, stacked: bool = False) -> NamedSharding:
    """The first dimension split over all devices; of `stacked` batches [K, B, ...] the second."""
    return NamedSharding(mesh, P(*[None] * stacked, ("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def state_sharding(mesh: Mesh, state: Any) -> Any:
    """A sharding for each leaf (array or shape) of `state`."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _leaf_spec(leaf.shape, mesh)), state)


def _leaf_spec(shape: tuple[int, ...], mesh: Mesh) -> P:
    parts = mesh.shape["fsdp"]
    divisible = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not divisible or np.prod(shape) < _MIN_SPLIT_SIZE:
        return P()
    largest = max(divisible, key=lambda axis: shape[axis])
    return P(*[None] * largest, "fsdp")  # no None after it: jit would treat that as a different sharding


def check_batch_size(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Raises ValueError unless each of the batch's `accumulate` parts is divisible by the number of devices."""
    parts = mesh.size * accumulate
    nearest = max(1, batch_size // parts) * parts
    if batch_size != nearest:
        divisor = f"the {mesh.size} devices" + f" times accumulate = {accumulate}" * (accumulate > 1)
        raise ValueError(f"batch_size = {batch_size}: must be divisible by {divisor}; use {nearest}")


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray], stacked: bool = False) -> dict[str, jax.Array]:
    """Places this process's part of a global batch, or of `stacked` ones, on its devices."""
    sharding = batch_sharding(mesh, stacked)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def find_capacity(mesh: Mesh) -> int:
    """Bytes that each device of this machine has for programs; 0 if JAX does not tell.

    CPU devices share the machine's memory.
    """
    device = next(iter(mesh.local_devices))
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(mesh.local_devices)
    return (device.memory_stats() or {}).get("bytes_limit", 0)
