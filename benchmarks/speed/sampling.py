"""Samples per second. python benchmarks/speed/sampling.py --network digits --steps 20

Times DDIM with clipped x0, one call of the network per step, in turns: `dj.sample` under jit, `Run.sample`, and a loop
in PyTorch under inference_mode. The weights are random. The rate counts image-steps: images, times their steps.
docs/speed.md explains the table.
"""

from typing import Any

import options
import ours
import rivals
from comparison import FLAGS, Task, run_comparison

from diffusion_jax.cli.command import Command, Flag


def measure(flags: Any) -> None:
    names = options.parse_names("rivals", flags.rivals, rivals.RIVALS)
    out = options.start(flags)
    task = Task.from_flags(flags, flags.steps)
    contestants = [
        *ours.sampling_contestants(task.case, task.batch, flags.steps),
        *rivals.sampling_contestants(task.twin, task.batch, flags.dtype, names, task.platform),
    ]
    run_comparison("sampling", task, contestants, "image-steps/s", flags.steps, flags, out)


COMMAND = Command(
    name="sampling.py",
    text=str(__doc__),
    flags=(
        Flag("steps", int, "Steps of the sampler.", 20, limits={"lower_bound": 1, "upper_bound": 100}),
        *FLAGS,
    ),
    run=measure,
)

if __name__ == "__main__":
    options.run(COMMAND)
