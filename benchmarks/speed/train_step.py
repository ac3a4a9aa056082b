"""Training steps per second. python benchmarks/speed/train_step.py --network digits

Times the jitted step of `dj.make_train_step` and the same step in PyTorch, in turns. Both sides, from a uint8 batch on
the device: x0 in [-1, 1], uniform times, noise, x_t, the network, the mean squared error of eps, gradients, AdamW, and
the moving average of the parameters. Ours also computes the norm of the gradient, and checks that images, loss,
gradient and parameters are finite. docs/speed.md explains the table.
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
    task = Task.from_flags(flags)
    variants = options.parse_names("variants", flags.variants, tuple(ours.VARIANTS))
    contestants = [
        *(ours.train_contestant(task.case, task.batch, name) for name in dict.fromkeys(["plain", *variants])),
        *rivals.train_contestants(task.twin, task.batch, flags.dtype, names, task.platform),
    ]
    run_comparison("train step", task, contestants, "images/s", 1, flags, out)


COMMAND = Command(
    name="train_step.py",
    text=str(__doc__),
    flags=(
        Flag("variants", list, f"More rows of ours, some of {', '.join(ours.VARIANTS)}.", []),
        *FLAGS,
    ),
    run=measure,
)

if __name__ == "__main__":
    options.run(COMMAND)
