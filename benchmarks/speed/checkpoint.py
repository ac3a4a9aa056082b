"""How long a checkpoint stops training, and a restore. python benchmarks/speed/checkpoint.py --network cifar10

Saves the whole training state (parameters, their average, the optimizer's state) as training does: fingerprints are
computed, arrays are copied, and files are written in the background while further steps run. Prints how long `save`
holds the loop, how much longer the steps behind it take until the files are written, and how long a verified restore
takes. PyTorch: torch.save and torch.load of the same numbers of the same network, in the loop.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import options
import ours
import rivals
from comparison import Task, tell
from options import BATCH, DTYPE, JSON, NETWORK, THREADS
from results import format_time, markdown, report
from torch_twins import Unavailable, build

from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.preflight.text import format_bytes
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.workdir.layout import checkpoint_items

_BASELINE = 5  # steps that are timed without a checkpoint
_COLUMNS = ("`save` holds the loop", "delay of the steps behind it", "restore", "step")


def measure(flags: Any) -> None:
    out = options.start(flags)
    task = Task.from_flags(flags)
    with tempfile.TemporaryDirectory(dir=flags.directory) as directory:
        tell("diffusion_jax")
        mine = measure_ours(task, flags.repeats, Path(directory))
        tell("PyTorch")
        theirs = measure_torch(task, flags.repeats, Path(directory) / "state.pt")
    settings = {"network": flags.network, "batch": task.batch, "dtype": flags.dtype, "checkpoints": flags.repeats}
    rows = [{"name": "diffusion_jax"} | mine, {"name": "PyTorch, torch.save in the loop"} | theirs]
    report("checkpoint", settings, make_table(rows), {"rows": rows}, out)


def measure_ours(task: Task, repeats: int, directory: Path) -> dict[str, Any]:
    """Seconds of `save`, of the delay that the steps behind it have in all, of a restore, and of a step."""
    step, state, batch = ours.make_step(task.case, task.batch)
    key = jax.random.key(1)

    def advance() -> None:
        nonlocal state
        state, metrics = step(state, batch, key)
        jax.block_until_ready((state, metrics))

    advance()
    saves, delays, restores, steps = [], [], [], []
    with Checkpoints(directory / "checkpoints", keep=1) as checkpoints:
        for number in range(1, repeats + 2):
            plain = [time_call(advance) for _ in range(_BASELINE)]
            save = time_call(lambda: checkpoints.save(number, checkpoint_items(state), {}))  # noqa: B023
            slowed = []
            while not (directory / "checkpoints" / str(number)).exists():  # renamed to it when it is complete
                slowed.append(time_call(advance))
                checkpoints.report()  # raises if the save has failed
            checkpoints.report(wait=True)
            target = jax.tree.map(as_target, checkpoint_items(state))
            restore = time_call(lambda: jax.block_until_ready(checkpoints.restore(target)[1]))  # noqa: B023
            if number > 1:  # the first compiles the fingerprints
                usual = statistics.median(plain)
                saves.append(save)
                delays.append(sum(slowed) - len(slowed) * usual)
                restores.append(restore)
                steps.append(usual)
        size = sum(path.stat().st_size for path in (directory / "checkpoints").rglob("*") if path.is_file())
    return summarize(saves, delays, restores, steps, size)


def as_target(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    """What a restore is asked for."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def time_call(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def summarize(
    saves: list[float], delays: list[float], restores: list[float], steps: list[float], size: int
) -> dict[str, Any]:
    """The medians, by the columns of the table, and all values."""
    values = dict(zip(_COLUMNS, (saves, delays, restores, steps), strict=True))
    medians = {name: statistics.median(seconds) for name, seconds in values.items() if seconds}
    return {"medians": medians, "seconds": values, "bytes": size}


def measure_torch(task: Task, repeats: int, path: Path) -> dict[str, Any]:
    """The same state by torch.save and torch.load; all of the time of `save` is in the loop."""
    try:
        torch = rivals.import_torch()
        device = rivals.find_device(torch, task.platform)
        network = build(task.twin).to(device)
    except Unavailable as error:
        return {"problem": str(error)}
    optimizer = torch.optim.AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the moments
    average = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    def save() -> None:
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "average": average}, path)

    def restore() -> None:
        saved = torch.load(path, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])

    save()
    saves, restores = [], []
    for _ in range(repeats):
        saves.append(time_call(save))
        restores.append(time_call(restore))
    return summarize(saves, [], restores, [], path.stat().st_size)


def make_table(rows: list[dict[str, Any]]) -> str:
    """The table of both sides."""
    table = [("", *_COLUMNS, "size")]
    for row in rows:
        if "problem" in row:
            table.append((row["name"], row["problem"], *[""] * len(_COLUMNS)))
            continue
        medians = row["medians"]
        cells = [format_time(medians[name]) if name in medians else "" for name in _COLUMNS]
        table.append((row["name"], *cells, format_bytes(row["bytes"])))
    return markdown(table)


COMMAND = Command(
    name="checkpoint.py",
    text=str(__doc__),
    flags=(
        NETWORK,
        BATCH,
        DTYPE,
        Flag("repeats", int, "Checkpoints, after one that is not counted.", 3, limits={"lower_bound": 1}),
        Flag("directory", str, "An existing directory on the disk to write to. Default: that of temporary files."),
        THREADS,
        JSON,
    ),
    run=measure,
)

if __name__ == "__main__":
    options.run(COMMAND)
