"""Images per second of the input pipeline alone. python benchmarks/speed/pipeline.py --network digits

Reads `Batches`, with threads and read-ahead as in training, of arrays in memory, of mirrored arrays, and of
directories of PNG and JPEG files that are made for it, in the image size of the network. Each source is read by itself,
after the read-ahead is full. Prints images per second, the CPU time per image over all threads, and how many times as
many images that is as the training step of the network takes, which is timed in the same run.
"""

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import options
import ours
from cases import Case
from comparison import Task, tell
from measuring import Budget, compare
from options import BATCH, DTYPE, JSON, NETWORK, ROUNDS, SECONDS, THREADS
from PIL import Image
from results import format_time, markdown, report

import diffusion_jax as dj
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.data.pipeline import Batches
from diffusion_jax.data.sources import Source

_AHEAD = 8  # batches that are read ahead in training
_SIDE = 96  # of the files


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was measured of a source.

    Attributes:
      name: its row in the table.
      rates: images per second, one number per round.
      cpu: seconds of all threads per image.
      opening: seconds of the first and of the second `open`; None for arrays.
    """

    name: str
    rates: tuple[float, ...]
    cpu: float
    opening: tuple[float, float] | None = None


def measure(flags: Any) -> None:
    out = options.start(flags)
    task = Task.from_flags(flags)
    with tempfile.TemporaryDirectory() as directory:
        readings = list(read_sources(task.case, task.batch, flags, Path(directory)))
    tell("training step")
    step = compare([ours.train_contestant(task.case, task.batch)], flags.rounds, flags.seconds, Budget(0))[0]
    eaten = task.batch / step.median
    settings = {"network": flags.network, "batch": task.batch, "dtype": flags.dtype, "images": flags.images}
    rows = [describe_reading(reading, eaten) for reading in readings]
    figures = {"train_step_images_per_second": eaten, "rows": rows}
    note = f"The training step takes {eaten:.4g} images/s. `open` decodes a directory once and then reads its cache."
    report("input pipeline", settings, f"{make_table(readings, eaten)}\n\n{note}", figures, out)


def read_sources(case: Case, batch: int, flags: Any, directory: Path) -> Iterator[Reading]:
    """Measures every source, one after another."""
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (max(flags.images, 2 * batch), *case.image_shape), np.uint8)
    source = dj.sources.from_arrays(arrays)[0]
    for name, flip in (("arrays in memory", False), ("arrays in memory, mirrored", True)):
        tell(name)
        yield Reading(name, *read(Batches(source, batch, flip=flip), flags.rounds, flags.seconds))
    for ending in ("png", "jpg"):
        name = f"directory of .{ending}, mirrored"
        tell(name)
        folder = write_images(directory / ending, ending, flags.images, case.image_shape, directory / "cache")
        source, first = time_open(folder)
        source, second = time_open(folder)
        rates, cpu = read(Batches(source, batch, flip=True), flags.rounds, flags.seconds)
        yield Reading(name, rates, cpu, (first, second))


def write_images(path: Path, ending: str, count: int, shape: tuple[int, int, int], cache: Path) -> dj.sources.Folder:
    """Writes smooth random images of 96x96 pixels and returns the data set over them, resized to `shape`."""
    path.mkdir()
    rng, (height, width, channels) = np.random.default_rng(0), shape
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        small.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(path / f"{i:06d}.{ending}")
    return dj.sources.Folder(str(path), size=(height, width), channels=channels, cache_dir=str(cache))


def time_open(dataset: dj.sources.Dataset) -> tuple[Source, float]:
    """(the training examples, seconds)."""
    start = time.perf_counter()
    training, _ = dataset.open()
    return training, time.perf_counter() - start


def read(batches: Batches, rounds: int, seconds: float) -> tuple[tuple[float, ...], float]:
    """(images per second of each round, CPU seconds per image), each round after the read-ahead is full."""
    iterator, rates, cpu, images = batches.iterate(ahead=_AHEAD), [], 0.0, 0
    for _ in itertools.repeat(None, 2 * _AHEAD):
        next(iterator)
    for _ in range(rounds):
        start, busy, count = time.perf_counter(), time.process_time(), 0
        # More than are read ahead, so that the round measures reading.
        while count < 2 * _AHEAD or time.perf_counter() - start < seconds:
            next(iterator)
            count += 1
        rates.append(count * batches.batch_size / (time.perf_counter() - start))
        cpu += time.process_time() - busy
        images += count * batches.batch_size
    return tuple(rates), cpu / images


def describe_reading(reading: Reading, eaten: float) -> dict[str, Any]:
    """A reading as JSON values; `eaten` is what the training step takes, in images per second."""
    rate = statistics.median(reading.rates)
    figures = {"images_per_second": rate, "rates": list(reading.rates), "times_train_step": rate / eaten}
    return {"name": reading.name} | figures | {"cpu_seconds_per_image": reading.cpu, "opening": reading.opening}


def make_table(readings: list[Reading], eaten: float) -> str:
    """The table of all readings."""
    rows = [("", "images/s", "slowest", "fastest", "CPU per image", "/ train step", "open", "open again")]
    for reading in readings:
        rate = statistics.median(reading.rates)
        rates = [f"{value:.4g}" for value in (rate, min(reading.rates), max(reading.rates))]
        opening = map(format_time, reading.opening) if reading.opening else ("", "")
        rows.append((reading.name, *rates, f"{reading.cpu * 1e6:.3g} us", f"{rate / eaten:.3g}", *opening))
    return markdown(rows)


COMMAND = Command(
    name="pipeline.py",
    text=str(__doc__),
    flags=(
        NETWORK,
        BATCH,
        DTYPE,
        Flag("images", int, "Images in the arrays and in each directory.", 2000, limits={"lower_bound": 20}),
        ROUNDS,
        SECONDS,
        THREADS,
        JSON,
    ),
    run=measure,
)

if __name__ == "__main__":
    options.run(COMMAND)
