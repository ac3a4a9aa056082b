"""A long run: memory, descriptors and threads stay as they are after the first steps, and nothing compiles again."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from small_run import Outcome, run_python

CODE = """
import json, os, sys, threading
import jax
import tiny
import diffusion_jax as dj
compiled, seen = [], []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None)
def look():
    if look.steps % 100 == 0:
        pages = int(open("/proc/self/statm").read().split()[1])
        seen.append({"memory": pages * os.sysconf("SC_PAGE_SIZE"), "descriptors": len(os.listdir("/proc/self/fd")),
                     "threads": threading.active_count(), "compiles": len(compiled)})
    look.steps += 1
    return False
look.steps = 0
train = dict(steps=int(sys.argv[2]), log_every=20, eval_every=100, sample_every=100, checkpoint_every=100,
             eval_examples=64)
dj.train(tiny.config(tiny.AFFINE, **train), sys.argv[1], should_stop=look)
print(json.dumps(seen))
"""
# Of the memory after the warm-up.
GROWTH = 0.05


def drill(scratch: Path, short: bool, seed: int) -> Iterator[Outcome]:
    steps = 800 if short else 2000
    done = run_python(CODE, scratch / "run", steps, timeout=900, env=os.environ | {"XLA_FLAGS": ""})
    if done.returncode:
        yield Outcome(f"{steps} steps", done.stderr[-500:])
        return
    seen = json.loads(done.stdout.splitlines()[-1])[4:]  # after 400 steps
    growth = seen[-1]["memory"] / seen[0]["memory"] - 1
    yield Outcome(f"memory grows by {growth:.1%}", f"grows by {growth:.1%}" if growth > GROWTH else "")
    for what in ("descriptors", "threads", "compiles"):
        values = [each[what] for each in seen]
        problem = f"goes from {values[0]} to {values[-1]}" if values[-1] > values[0] else ""
        yield Outcome(what, problem)
