"""From the start of a process to the first samples. python benchmarks/speed/start.py --network digits

Starts fresh processes that import, build the network, take two training steps and generate two batches of samples. With
JAX: without the persistent cache of compiled programs, with an empty one, and with one that an earlier process has
filled. With PyTorch: each row of --rivals. The first call of a program compiles it, the second does not.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import options
import rivals
from comparison import Task, tell
from first_calls import STAGES
from options import BATCH, DTYPE, JSON, NETWORK, THREADS
from results import format_time, markdown, report
from torch_twins import MISSING

from diffusion_jax.cli.command import Command, Flag

_CACHE = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
_COLUMNS = (*STAGES, "whole process")


def measure(flags: Any) -> None:
    names = options.parse_names("rivals", flags.rivals, tuple(rivals.MODES))
    out = options.start(flags)
    task = Task.from_flags(flags, flags.steps)
    ours = {"side": "jax", "network": flags.network, "steps": flags.steps}
    shared = {"dtype": flags.dtype, "batch": task.batch, "platform": task.platform}
    rows = []
    for name, caches in (("no cache", []), ("empty cache", ["new"]), ("filled cache", ["new", "kept"])):
        rows.append(measure_row(f"diffusion_jax, {name}", ours | shared, flags.repeats, caches))
    for name in names:
        settings = {"side": name, "twin": dataclasses.asdict(task.twin)} | shared
        rows.append(measure_row(f"PyTorch, {rivals.MODES[name].text}", settings, flags.repeats, []))
    settings = {"network": flags.network, "batch": task.batch, "steps": flags.steps, "processes": flags.repeats}
    report("start", settings | {"dtype": flags.dtype}, make_table(rows), {"rows": rows}, out)


def measure_row(name: str, settings: dict[str, Any], repeats: int, caches: list[str]) -> dict[str, Any]:
    """The stages of `repeats` processes; with `caches`, of the last of as many processes that share a cache."""
    tell(name)
    try:
        runs = [_run_with_caches(settings, caches) for _ in range(repeats)]
    except RuntimeError as error:
        return {"name": name, "problem": str(error)}
    medians = {column: statistics.median(run[column] for run in runs) for column in _COLUMNS}
    return {"name": name, "medians": medians, "processes": runs}


def _run_with_caches(settings: dict[str, Any], caches: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        # Inductor's own cache of compiled programs would make the second process of PyTorch a warm one.
        places = {"TORCHINDUCTOR_CACHE_DIR": f"{directory}/inductor"}
        if caches:
            places |= dict(zip(_CACHE, (f"{directory}/jax", "0"), strict=True))
        for _ in caches[1:]:
            run_process(settings, places)
        return run_process(settings, places)


def run_process(settings: dict[str, Any], places: dict[str, str]) -> dict[str, float]:
    """The stages of a fresh process. Raises RuntimeError, in one line, if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in _CACHE} | places
    script = str(Path(__file__).with_name("first_calls.py"))
    start = time.perf_counter()
    command = [sys.executable, script, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(MISSING if MISSING in last else f"failed: {last[:200]}")
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"whole process": seconds}


def make_table(rows: list[dict[str, Any]]) -> str:
    """The table of all rows, medians over the processes."""
    table = [("", *_COLUMNS)]
    for row in rows:
        if "problem" in row:
            table.append((row["name"], row["problem"], *[""] * (len(_COLUMNS) - 1)))
        else:
            table.append((row["name"], *(format_time(row["medians"][column]) for column in _COLUMNS)))
    return markdown(table)


COMMAND = Command(
    name="start.py",
    text=str(__doc__),
    flags=(
        NETWORK,
        BATCH,
        DTYPE,
        Flag("steps", int, "Steps of the samples.", 20, limits={"lower_bound": 1, "upper_bound": 100}),
        Flag("rivals", list, f"Rows of PyTorch, some of {', '.join(rivals.MODES)}.", "eager,compile"),
        Flag("repeats", int, "Processes per row.", 3, limits={"lower_bound": 1}),
        THREADS,
        JSON,
    ),
    run=measure,
)

if __name__ == "__main__":
    options.run(COMMAND)
