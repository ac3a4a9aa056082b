"""How a training step grows. python benchmarks/speed/scaling.py --network digits

Compiles the training step and runs nothing: for larger images, wider networks, larger batches, and 1 to 8 emulated
devices that copy the state (data) or split it (fsdp). From the compiled programs: the operations and the memory of a
device, and what the devices send each other. The sampler is compiled for several numbers of steps. docs/scaling.md
compares the figures with a model of the cost.
"""

import dataclasses
import os
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
import options
from cases import Case, find_case
from collectives import count_sent, find_collectives, sum_sizes
from options import BATCH, DTYPE, JSON
from ours import LEARNING_RATE, count_flops, make_run
from results import markdown, report

import diffusion_jax as dj
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.preflight.memory import read_memory
from diffusion_jax.preflight.text import format_bytes, format_count
from diffusion_jax.runtime.mesh import MeshShape, batch_sharding, make_mesh, state_sharding

DEVICES = 8
UNETS = ("digits", "unet32", "cifar10", "tiny")
_STEPS = (5, 20, 80)


@dataclasses.dataclass(frozen=True)
class Point:
    """One training step to compile: what is varied, the network, the batch and the devices."""

    sweep: str
    value: str
    case: Case
    batch: int
    mesh: MeshShape = MeshShape(1, 1)

    @property
    def devices(self) -> int:
        return self.mesh.data * self.mesh.fsdp


def list_points(case: Case, batch: int, devices: int) -> list[Point]:
    """Twice the side, the width and the batch, and the powers of two up to `devices`; first the network as it is."""
    points = [Point("as it is", "", case, batch)]
    points += [Point("side", "2x", _enlarge(case), batch), Point("width", "2x", _widen(case), batch)]
    points += [Point("batch", f"{batch // 2}", case, batch // 2), Point("batch", f"{2 * batch}", case, 2 * batch)]
    counts = [n for n in (2, 4, 8) if n <= devices]
    points += [Point("devices", f"data={n}", case, batch, MeshShape(n, 1)) for n in counts]
    return points + [Point("devices", f"fsdp={n}", case, batch, MeshShape(1, n)) for n in counts]


def _enlarge(case: Case) -> Case:
    """Images of twice the side, with attention in the same levels."""
    height, width, channels = case.image_shape
    model = case.model.clone(attention=tuple(2 * side for side in case.model.attention))
    return dataclasses.replace(case, model=model, image_shape=(2 * height, 2 * width, channels))


def _widen(case: Case) -> Case:
    return dataclasses.replace(case, model=case.model.clone(channels=tuple(2 * c for c in case.model.channels)))


def measure_point(point: Point) -> dict[str, Any]:
    """What the compiler says of one training step, per device."""
    mesh = make_mesh(point.mesh, jax.devices()[: point.devices])
    case, tx, key = point.case, optax.adamw(LEARNING_RATE), jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: dj.TrainState.create(key, case.model, tx, case.image_shape), key)
    step = dj.make_train_step(case.model, tx, case.loss, mesh=mesh)
    batch = jax.eval_shape(lambda: case.draw_batch(point.batch))
    start = time.perf_counter()
    lowered = step.lower(_place(state, state_sharding(mesh, state)), _spread(batch, mesh), key)
    compiled = lowered.compile()
    seconds, memory = time.perf_counter() - start, read_memory(compiled)
    found = find_collectives(compiled.as_text())
    return {
        "sweep": point.sweep,
        "value": point.value,
        "devices": point.devices,
        "batch": point.batch,
        "parameters": case.count_parameters(),
        "flops": count_flops(lowered) / point.devices,
        "arguments": memory.arguments,
        "temporaries": memory.temporaries,
        "collectives": sum_sizes(found),
        "sent": count_sent(found, point.devices),
        "compile_seconds": seconds,
    }


def _place(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _spread(batch: Any, mesh: Any) -> Any:
    return _place(batch, jax.tree.map(lambda _: batch_sharding(mesh), batch))


def measure_sampler(case: Case, batch: int, steps: int) -> dict[str, Any]:
    """What the compiler says of the sampler with this number of steps."""
    params = jax.eval_shape(case.init, jax.eval_shape(lambda: jax.random.key(0)))
    labels = jnp.zeros(batch, int) if case.model.num_classes else None
    start = time.perf_counter()
    compiled = make_run(case, params).lower(batch, labels=labels, steps=steps).compile()
    seconds, memory = time.perf_counter() - start, read_memory(compiled)
    return {"steps": steps, "temporaries": memory.temporaries, "compile_seconds": seconds}


def draw_table(points: list[dict[str, Any]]) -> str:
    head = ("", "", "parameters", "FLOP", "arguments", "temporaries", "results of exchanges", "sent")
    rows = [
        (
            found["sweep"],
            found["value"],
            f"{found['parameters']:,}",
            format_count(found["flops"], "FLOP"),
            format_bytes(found["arguments"]),
            format_bytes(found["temporaries"]),
            ", ".join(f"{kind} {format_bytes(size)}" for kind, size in found["collectives"].items()) or "none",
            format_bytes(round(found["sent"])),
        )
        for found in points
    ]
    return markdown([head, *rows])


def draw_sampler_table(found: list[dict[str, Any]]) -> str:
    rows = [(str(x["steps"]), format_bytes(x["temporaries"]), f"{x['compile_seconds']:.1f} s") for x in found]
    return markdown([("steps", "temporaries", "trace and compile"), *rows])


def measure(flags: Any) -> None:
    # Read when JAX starts its first device.
    emulate = f"--xla_force_host_platform_device_count={DEVICES}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {emulate}".strip()
    out = options.start(flags)
    case = find_case(flags.network, flags.dtype)
    batch = flags.batch or case.batch
    if batch % max(2, flags.devices):
        raise ValueError(f"--batch = {batch}: must be divisible by 2 and by --devices={flags.devices}")
    points = []
    for point in list_points(case, batch, flags.devices):
        print(f"  {point.sweep} {point.value}", file=sys.stderr, flush=True)
        points.append(measure_point(point))
    samplers = [measure_sampler(case, batch, steps) for steps in _STEPS]
    settings = {"network": case.name, "batch": batch, "dtype": flags.dtype}
    table = f"{draw_table(points)}\n\n{draw_sampler_table(samplers)}"
    report("scaling", settings, table, {"points": points, "samplers": samplers}, out)


COMMAND = Command(
    name="scaling.py",
    text=str(__doc__),
    flags=(
        Flag("network", UNETS, "The network, a U-Net.", "digits"),
        BATCH,
        DTYPE,
        Flag("devices", int, "Emulated devices, at most.", DEVICES, limits={"lower_bound": 1, "upper_bound": DEVICES}),
        JSON,
    ),
    run=measure,
)

if __name__ == "__main__":
    options.run(COMMAND)
