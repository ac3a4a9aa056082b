"""The compiled programs of a run: its training step and its sampler."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data.sources import Source
from diffusion_jax.preflight.memory import Memory, read_memory
from diffusion_jax.runtime.errors import RunError, first_line
from diffusion_jax.workdir.layout import abstract_state
from diffusion_jax.workdir.load import build_run
from diffusion_jax.workdir.program import abstract_batch, build_call, split_seed
from diffusion_jax.workdir.samples import sample_labels

__all__ = ["SHORTAGE", "Program", "compile_program", "count_flops", "lower_sampler", "lower_train_step"]

# How compilers and devices begin to say that there is not enough memory.
SHORTAGE = "RESOURCE_EXHAUSTED"


@dataclasses.dataclass(frozen=True)
class Program:
    """One program, compiled for one mesh.

    Attributes:
      name: "train step" or "sampler".
      mesh: devices along the axes "data" and "fsdp".
      seconds: how long tracing and compiling took.
      memory: per device; None if the compiler found that it is too large.
      refusal: what the compiler said then.

    >>> Program("sampler", {"data": 4, "fsdp": 1}, 2.0, Memory(300, 500, 20)).fits(800)
    False
    """

    name: str
    mesh: dict[str, int]
    seconds: float
    memory: Memory | None = None
    refusal: str = ""

    def fits(self, capacity: int) -> bool:
        """Whether devices with `capacity` bytes can run it; always, if the capacity is 0, not known."""
        return self.memory is not None and (not capacity or self.memory.total <= capacity)


def lower_train_step(experiment: Experiment, training: Source) -> jax.stages.Lowered:
    """What the training loop of a run calls, from shapes alone."""
    key = jax.eval_shape(lambda: split_seed(0).step)
    batch = abstract_batch(experiment, training, stacked=experiment.plan.steps_per_call > 1)
    return build_call(experiment).lower(abstract_state(experiment), batch, key)  # type: ignore[union-attr]


def lower_sampler(experiment: Experiment, training: Source) -> jax.stages.Lowered:
    """The program that generates the samples during training, from shapes alone."""
    run = build_run(experiment, abstract_state(experiment).ema_params, training.class_names, {}, 0)
    n, labels = sample_labels(run)
    return run.lower(n, labels=labels)


def count_flops(experiment: Experiment, training: Source) -> float:
    """Floating-point operations of one training step over all devices, counted in the program before compilation.

    The count is that of the whole batch at once: in a loop over micro-batches, JAX counts one of them.
    """
    plan = dataclasses.replace(experiment.plan, accumulate=1, steps_per_call=1)
    whole = dataclasses.replace(experiment, plan=plan)
    cost: Any = lower_train_step(whole, training).cost_analysis()
    return cost["flops"]


def compile_program(
    name: str, mesh: Mesh, lower: Callable[[], jax.stages.Lowered], kept: int = 0
) -> tuple[Program, jax.stages.Compiled | None]:
    """Traces and compiles a program; (what is known about it, the program), without it if it does not fit.

    `kept` bytes are on each device besides what the program needs.

    Raises RunError if the compiler fails for another reason than a lack of memory.
    """
    start, shape = time.perf_counter(), dict(mesh.shape)
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        text, seconds = first_line(error), time.perf_counter() - start
        if SHORTAGE not in text:
            raise RunError(f"{name}: the compiler fails ({text})") from error
        return Program(name, shape, seconds, refusal=text.partition(": ")[2] or text), None
    return Program(name, shape, time.perf_counter() - start, read_memory(compiled, kept)), compiled
