"""How long a training on a CPU will take, told before it starts."""

import logging
import time
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import TrainStep

__all__ = ["warn_of_slow_cpu"]

log = logging.getLogger(__name__)

_LARGE = 10_000_000  # parameters
# Convolutions and their gradients reach about this part of the speed of a matrix product.
_EFFICIENCY = 0.5
_SIDE = 1024


def warn_of_slow_cpu(
    train_step: TrainStep, state: TrainState, batch: dict[str, jax.ShapeDtypeStruct], key: jax.Array, steps: int
) -> None:
    """Logs about how long `steps` steps take if the network has more than 10 million parameters and this is a CPU.

    Nothing large is compiled or computed: the estimate is the number of
    floating-point operations of the program divided by the measured speed of a matrix product. It is right to a
    factor of two or three.
    """
    leaves = jax.tree.leaves(state.params)
    parameters = sum(leaf.size for leaf in leaves)
    if parameters <= _LARGE or next(iter(leaves[0].devices())).platform != "cpu":
        return
    cost: Any = jax.jit(train_step).lower(state, batch, key).cost_analysis()
    seconds = cost["flops"] / _measure_speed()
    log.warning(
        "%.0f million parameters on a CPU: a step will take about %s, %d steps about %s; use a GPU or a TPU, or a "
        "smaller network, such as --config folder:cpu",
        *(parameters / 1e6, format_seconds(seconds), steps, format_seconds(seconds * steps)),
    )


def format_seconds(seconds: float) -> str:
    """A duration with one digit or two, such as "40 minutes".

    >>> format_seconds(0.4), format_seconds(7300.0), format_seconds(9e5)
    ('0.4 seconds', '2 hours', '10 days')
    """
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 10 else f"{seconds:.2g} seconds"


def _measure_speed() -> float:
    """Floating-point operations per second that a training step reaches, from the best of three matrix products."""
    a = jnp.ones((_SIDE, _SIDE))
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        multiply(a, a).block_until_ready()
        times.append(time.perf_counter() - start)
    return _EFFICIENCY * 2 * _SIDE**3 / min(times)
