"""All measurements in one command within a time budget. python benchmarks/speed/gpu.py --out speed

For one GPU, in under nine minutes: training steps and sampling of DDPM's CIFAR-10 network and of the small ones beside
PyTorch, the input pipeline, the start, and checkpoints. Each is a process of its own, which writes NAME.json and
NAME.txt to --out; summary.json says what ran, what failed, and what was left out because it did not fit.
--smoke runs the same with a tiny network, to try the command on any machine.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import options
from measuring import Budget, Clock

from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.flags import make_parent, parse_out

MOST_BYTES = 16 * 2**20
_GRACE = 20.0  # seconds for the end of a stage that was told to stop: its rounds, its table


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command of this directory.

    Attributes:
      name: of its files in --out.
      arguments: the script, then its flags.
      seconds: the least time in which it is worth starting.
      most: what it may take at most; a stage that takes --budget is told so and leaves rows out.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: float
    most: float

    def takes_budget(self) -> bool:
        return self.arguments[0] in ("train_step.py", "sampling.py")


def _stage(name: str, seconds: float, most: float, script: str, flags: str) -> Stage:
    return Stage(name, (script, *flags.split()), seconds, most)


_CIFAR10 = "--network=cifar10 --dtype=bfloat16"
_COMPILED = "--rivals=compile_channels_last"
# The most important first: what does not fit is at the end. torch.compile has stages of its own, which it may lose by
# taking too long; our programs are compiled once, and read from the cache there.
STAGES = (
    _stage("train_cifar10", 60, 110, "train_step.py", f"{_CIFAR10} --batch=128 --rivals=channels_last,lucidrains"),
    _stage("train_cifar10_compiled", 60, 130, "train_step.py", f"{_CIFAR10} --batch=128 {_COMPILED}"),
    _stage("sample_cifar10", 40, 70, "sampling.py", f"{_CIFAR10} --batch=128 --steps=20 --rivals=channels_last"),
    _stage("sample_cifar10_compiled", 40, 90, "sampling.py", f"{_CIFAR10} --batch=128 --steps=20 {_COMPILED}"),
    _stage(
        "train_digits", 30, 60, "train_step.py", "--network=digits --variants=several --rivals=eager,reduce_overhead"
    ),
    _stage("train_mnist", 30, 60, "train_step.py", "--network=mnist --batch=512 --rivals=eager,channels_last"),
    _stage("train_pokemon", 30, 60, "train_step.py", "--network=pokemon --batch=64 --rivals=eager,channels_last"),
    _stage("pipeline_cifar10", 25, 45, "pipeline.py", f"{_CIFAR10} --rounds=3"),
    _stage("checkpoint_cifar10", 25, 45, "checkpoint.py", f"{_CIFAR10} --repeats=2"),
    _stage("start_digits", 60, 90, "start.py", "--network=digits --repeats=1 --rivals=eager"),
    _stage(
        "train_cifar10_512",
        *(60, 120, "train_step.py"),
        f"{_CIFAR10} --batch=512 --variants=remat_activations,remat_blocks --rivals=channels_last",
    ),
    _stage("train_cifar10_float32", 50, 100, "train_step.py", "--network=cifar10 --rivals=channels_last"),
)
_TINY = "--network=tiny --rounds=1 --seconds=0"
SMOKE = (
    _stage("train_tiny", 0, 900, "train_step.py", f"{_TINY} --rivals=eager"),
    _stage("sample_tiny", 0, 900, "sampling.py", f"{_TINY} --steps=2 --rivals=eager"),
    _stage("pipeline_tiny", 0, 900, "pipeline.py", f"{_TINY} --images=40"),
    _stage("checkpoint_tiny", 0, 900, "checkpoint.py", "--network=tiny --repeats=1"),
    _stage("start_tiny", 0, 900, "start.py", "--network=tiny --repeats=1 --steps=2 --rivals=eager"),
)
Run = Callable[[Stage, Path, float], str]


def measure(flags: Any) -> int:
    if not 0 < flags.budget < float("inf"):
        raise ValueError(f"--budget = {flags.budget}: must be a number of seconds > 0")
    out = parse_out(flags.out, ("",))
    make_parent(out)
    stages = SMOKE if flags.smoke else STAGES
    with tempfile.TemporaryDirectory() as cache:
        run = make_runner({"JAX_COMPILATION_CACHE_DIR": cache, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"})
        found = run_stages(stages, out, Budget(flags.budget), run)
    size = sum(path.stat().st_size for path in out.iterdir())
    (out / "summary.json").write_text(json.dumps({"stages": found, "bytes": size}, indent=1) + "\n")
    if size > MOST_BYTES:
        raise OSError(f"{out} holds {size} bytes: must be at most {MOST_BYTES}; remove what is not needed")
    print(f"\nfigures in {out}")
    return 1 if any(text.startswith("failed") for text in found.values()) else 0


def run_stages(stages: Sequence[Stage], out: Path, budget: Budget, run: Run) -> dict[str, str]:
    """Runs what fits into the budget; returns what became of each stage, by its name."""
    found = {}
    for stage in stages:
        if budget.left < stage.seconds:
            found[stage.name] = f"left out: {budget.left:.0f} s are left, it needs {stage.seconds:.0f} s"
        else:
            found[stage.name] = run(stage, out, min(stage.most, budget.left))
        print(f"\n{stage.name}: {found[stage.name]}", file=sys.stderr, flush=True)
    return found


def make_runner(environment: dict[str, str], clock: Clock = time.perf_counter) -> Run:
    """Returns run(stage, out, most), which runs a stage in a process of its own for at most `most` seconds."""

    def run(stage: Stage, out: Path, most: float) -> str:
        start = clock()
        script = str(Path(__file__).with_name(stage.arguments[0]))
        budget = [f"--budget={max(1.0, most - _GRACE)}"] if stage.takes_budget() else []
        command = [sys.executable, script, *stage.arguments[1:], *budget, f"--json={out / stage.name}.json"]
        code, text, errors = run_group(command, environment | os.environ, most)
        if code is None:
            return f"failed: took longer than {most:.0f} s and was stopped"
        if code:
            return f"failed: {(errors.strip().splitlines() or ['no message'])[-1][:300]}"
        (out / f"{stage.name}.txt").write_text(text)
        print(text, flush=True)
        return f"done in {clock() - start:.0f} s"

    return run


def run_group(command: list[str], environment: Mapping[str, str], most: float) -> tuple[int | None, str, str]:
    """(exit code, stdout, stderr) of a command; no code if it took longer than `most` s and was killed.

    It is killed with the processes that it has started, such as those in which PyTorch compiles.
    """
    pipes: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        text, errors = process.communicate(timeout=most)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, "", ""
    return process.returncode, text, errors


COMMAND = Command(
    name="gpu.py",
    text=str(__doc__),
    flags=(
        Flag("out", str, "New or empty directory for the results.", required=True),
        Flag("budget", float, "Seconds for everything.", 520.0),
        Flag("smoke", bool, "A tiny network, for a test on any machine.", False),
    ),
    run=measure,
)

if __name__ == "__main__":
    options.run(COMMAND)
