"""The device mesh ('data', 'fsdp') and where arrays live on it.

The batch is split over both axes; parameters, their average and the optimizer's state are split over 'fsdp',
each large leaf along its largest dimension that divides.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion_jax.validation import Checked, integer

# A leaf smaller than this costs more to gather than it saves.
_SMALLEST_SPLIT = 2**12


@dataclasses.dataclass(frozen=True)
class MeshShape(Checked):
    """Devices along each axis; `data=-1` takes all that `fsdp` leaves."""

    data: int = dataclasses.field(default=-1, metadata=integer(-1))
    fsdp: int = dataclasses.field(default=1, metadata=integer(1))

    def __post_init__(self):
        super().__post_init__()
        if self.data == 0:
            raise ValueError("data = 0: must be a number of devices, or -1 for all that fsdp leaves")


def make_mesh(shape: MeshShape = MeshShape(), devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of `shape` over `devices` (all, unless given). Raises ValueError where they don't fit."""
    devices = jax.devices() if devices is None else devices
    data = len(devices) // shape.fsdp if shape.data == -1 else shape.data
    if data < 1 or data * shape.fsdp != len(devices):
        raise ValueError(
            f"mesh data = {shape.data}, fsdp = {shape.fsdp} does not fit {len(devices)} device(s): "
            "data * fsdp must equal their number"
        )
    # Auto axes: the compiler places what is not annotated.
    axes = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, shape.fsdp), ("data", "fsdp"), axis_types=axes, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def state_sharding(mesh: Mesh, state: Any) -> Any:
    """A sharding for each leaf (array or shape) of `state`."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _split(leaf.shape, mesh)), state)


def _split(shape: tuple[int, ...], mesh: Mesh) -> P:
    parts = mesh.shape["fsdp"]
    dividing = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not dividing or np.prod(shape) < _SMALLEST_SPLIT:
        return P()
    largest = max(dividing, key=lambda axis: shape[axis])
    return P(*[None] * largest, "fsdp")  # no None behind it: jit would take that for another sharding


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Raises ValueError where the devices don't divide each of the batch's `accumulate` parts."""
    parts = mesh.size * accumulate
    if batch_size % parts:
        inside = f"the {mesh.size} devices of the mesh" + (f" times accumulate = {accumulate}" * (accumulate > 1))
        raise ValueError(
            f"batch_size = {batch_size}: must be divisible by {inside}; use {max(1, batch_size // parts) * parts}"
        )


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process' part of a global batch, on its devices."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
