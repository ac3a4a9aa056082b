"""Every file of a run cut, emptied, zeroed, deleted, or with a flipped bit: noticed, or without effect."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from small_run import Outcome, compare, finish, straight

MORE = "--config.train.steps=70"


def flip_bit(path: Path, generator: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(data)


HARMS: dict[str, Callable[[Path, random.Random], object]] = {
    "cut in half": lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path, _: path.write_bytes(b""),
    "zeroed": lambda path, _: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": lambda path, _: path.unlink(),
    "a flipped bit": flip_bit,
}


def drill(scratch: Path, short: bool, seed: int) -> Iterator[Outcome]:
    run = straight(scratch)
    expected = scratch / "expected"
    shutil.copytree(run, expected)
    if problem := finish(scratch, expected, MORE):
        raise RuntimeError(problem)
    generator = random.Random(seed)
    files = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file() and path.stat().st_size)
    # The newest checkpoint, and all that is not a checkpoint.
    files = [path for path in files if path.parts[0] != "checkpoints" or path.parts[1] == "60"]
    cases = [(path, harm) for path in files for harm in HARMS]
    for i, (path, harm) in enumerate(generator.sample(cases, min(len(cases), 2 if short else 40))):
        copy = scratch / f"damaged_{i}"
        shutil.copytree(run, copy)
        HARMS[harm](copy / path, generator)
        problem = finish(scratch, copy, MORE)
        if path.name != "metrics.jsonl":  # what was in it is gone
            problem = problem or compare(expected, copy)
        moved = {each.name for each in (copy / "checkpoints" / "damaged").glob("*")}
        if moved - ({path.parts[1]} if path.parts[0] == "checkpoints" else set()):
            problem = f"healthy checkpoints were moved: {sorted(moved)}"
        yield Outcome(f"{path}, {harm}", problem)
        shutil.rmtree(copy)
