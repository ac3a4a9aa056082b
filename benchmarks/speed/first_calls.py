"""A fresh process for start.py: prints the seconds of each stage from the start to samples, as one line of JSON.

The argument is JSON: {"side": "jax", "network", "dtype", "batch", "steps"}, or {"side": one of rivals.MODES, "twin",
"dtype", "batch", "platform"}. Nothing is imported before the clock runs.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

STAGES = ("import", "build", "first step", "second step", "first samples", "second samples")


class Stages:
    """Seconds of each stage, by its name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, name: str) -> None:
        """Ends the stage `name`, which began where the last one ended."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def start_jax(settings: dict[str, Any], stages: Stages) -> None:
    import jax
    import ours
    from cases import find_case

    case, batch = find_case(settings["network"], settings["dtype"]), settings["batch"]
    jax.devices()
    stages.end("import")
    step, state, images = ours.make_step(case, batch)
    jax.block_until_ready(state)
    stages.end("build")
    for name in ("first step", "second step"):
        state, metrics = step(state, images, jax.random.key(1))
        jax.block_until_ready((state, metrics))
        stages.end(name)
    run, key, labels = ours.make_run(case, state.ema_params), jax.random.key(0), images.get("label")
    for name in ("first samples", "second samples"):
        run.sample(key, batch, labels=labels, steps=settings["steps"], batch_size=batch)
        stages.end(name)


def start_torch(settings: dict[str, Any], stages: Stages) -> None:
    import rivals
    from torch_twins import Twin, build

    arguments, mode = (settings["batch"], settings["dtype"], settings["platform"]), rivals.MODES[settings["side"]]
    twin = Twin(**settings["twin"])
    torch = rivals.import_torch()
    torch.zeros(1, device=rivals.find_device(torch, settings["platform"]))
    build(twin)  # imports what the network needs
    stages.end("import")
    train = rivals.make_train(*arguments)(twin, mode)
    stages.end("build")
    _run_twice(train.run, ("first step", "second step"), stages)
    sampling = rivals.make_sampling(*arguments)(twin, mode)
    _run_twice(sampling.run, ("first samples", "second samples"), stages)


def _run_twice(run: Callable[[int], None], names: tuple[str, str], stages: Stages) -> None:
    for name in names:
        run(1)
        stages.end(name)


if __name__ == "__main__":
    clock = Stages()
    settings = json.loads(sys.argv[1])
    (start_jax if settings["side"] == "jax" else start_torch)(settings, clock)
    print(json.dumps(clock.seconds))
