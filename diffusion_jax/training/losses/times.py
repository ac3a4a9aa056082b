"""Distributions of training times.

To add one, subclass `Times` and give `draw`. The other three functions are for a distribution that learns
from the losses: its memory is a pytree that the training state carries.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.validation import Checked, integer, number


@dataclasses.dataclass(frozen=True)
class Times(Checked):
    """Base of the distributions of training times."""

    def check(self, schedule: Schedule) -> None:
        """Raises ValueError where these times cannot be drawn for `schedule`."""

    def draw(self, key: jax.Array, schedule: Schedule, n: int) -> jax.Array:
        """n times in [0, 1], float32 [n]."""
        raise NotImplementedError

    def init(self, schedule: Schedule) -> Any:
        """The memory before the first step; a pytree without leaves for times that have none."""
        return ()

    def draw_weighted(
        self, key: jax.Array, schedule: Schedule, n: int, memory: Any
    ) -> tuple[jax.Array, jax.Array | None]:
        """n times, and the weight of each one's loss in the mean over the batch, [n]; None: all 1."""
        return self.draw(key, schedule, n), None

    def update(self, memory: Any, schedule: Schedule, t: jax.Array, losses: jax.Array) -> Any:
        """The memory after a batch whose examples, at times t [B], had `losses` [B], not weighted."""
        return memory


@dataclasses.dataclass(frozen=True)
class UniformTimes(Times):
    """Independent uniform times (Ho et al. 2020, Alg. 1)."""

    def draw(self, key, schedule, n):
        return jax.random.uniform(key, (n,))


@dataclasses.dataclass(frozen=True)
class StratifiedTimes(Times):
    """t_i = (u + i/n) mod 1 with one uniform u, in random order (Kingma et al. 2021, App. I.1).

    Each n-th part of [0, 1] gets one time, each time by itself is uniform.
    """

    def draw(self, key, schedule, n):
        offset_key, order_key = jax.random.split(key)
        row = (jax.random.uniform(offset_key) + jnp.arange(n) / n) % 1.0
        return jax.random.permutation(order_key, row)


@dataclasses.dataclass(frozen=True)
class LogNormalTimes(Times):
    """log(sigma/alpha) normal with `mean` and `std` (Karras et al. 2022, Table 1).

    Clipped to what the schedule has.
    """

    mean: float = dataclasses.field(default=-1.2, metadata=number())
    std: float = dataclasses.field(default=1.2, metadata=number("(0, inf)"))

    def draw(self, key, schedule, n):
        log_nsr = self.mean + self.std * jax.random.normal(key, (n,))
        return schedule.time(-2 * log_nsr)


class LossHistory(NamedTuple):
    """The newest losses of each time k/T, k = 1..T."""

    losses: jax.Array  # float32 [T, length], a ring for each time
    counts: jax.Array  # int32 [T], how many losses each has had so far


@dataclasses.dataclass(frozen=True)
class LossSecondMomentTimes(StratifiedTimes):
    """p_t in proportion to sqrt(E[L_t^2]) (Nichol and Dhariwal 2021, Eq. 18), of a discrete schedule.

    Each loss is weighted by 1/(T p_t), so that the mean over a batch stays an unbiased estimate of the mean
    over all times, with less noise where losses differ by orders of magnitude, as the terms of the
    variational bound do. Until every time has had `history` losses all are equally likely. What differs
    from the paper: the times of a batch are stratified, by the inverse of their distribution function.

    Attributes:
      history: E[L_t^2] is over so many of the newest losses of t.
      uniform: share of the draws that is spread evenly over all times, so that none is forgotten.
    """

    history: int = dataclasses.field(default=10, metadata=integer(1))
    uniform: float = dataclasses.field(default=0.001, metadata=number("(0, 1]"))

    def check(self, schedule: Schedule) -> None:
        """Raises ValueError for a continuous schedule, which has no times to keep losses of."""
        if schedule.steps is None:
            raise ValueError(
                f"times LossSecondMomentTimes cannot be used with {type(schedule).__name__}, which is "
                "continuous; use a discrete schedule such as Cosine, or other times"
            )

    def init(self, schedule):
        return LossHistory(jnp.zeros((schedule.steps, self.history)), jnp.zeros(schedule.steps, jnp.int32))

    def probabilities(self, memory: LossHistory) -> jax.Array:
        """p_t of the times k/T, k = 1..T, float32 [T]."""
        steps = len(memory.counts)
        root = jnp.sqrt(jnp.mean(memory.losses**2, axis=1))
        known = (memory.counts >= self.history).all() & (root.sum() > 0)
        learned = (1 - self.uniform) * root / jnp.where(known, root.sum(), 1.0) + self.uniform / steps
        return jnp.where(known, learned, 1 / steps)

    def draw_weighted(self, key, schedule, n, memory):
        p = self.probabilities(memory)
        edges = jnp.cumsum(p)
        k = jnp.searchsorted(edges / edges[-1], self.draw(key, schedule, n), side="right")
        return (k + 1) / schedule.steps, 1 / (schedule.steps * p[k])

    def update(self, memory, schedule, t, losses):
        k = jnp.rint(t * schedule.steps).astype(jnp.int32) - 1
        same = k[:, None] == k
        later = jnp.triu(same, 1).sum(1)  # of the same time, further on in the batch
        earlier = jnp.tril(same, -1).sum(1)
        slot = (memory.counts[k] + earlier) % self.history
        # Of more than a history of one time the newest stay; -1 would wrap around, so beyond the end.
        row = jnp.where(later < self.history, k, schedule.steps)
        kept = memory.losses.at[row, slot].set(losses, mode="drop")
        return LossHistory(kept, memory.counts.at[k].add(1))
