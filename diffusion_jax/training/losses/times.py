"""Distributions of training times.

To add one, subclass `Times` and define `draw`. The other methods are for a distribution that adapts to the
losses: its memory is a pytree that the training state carries.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.process.schedules.base import check_discrete
from diffusion_jax.validation import Checked, integer, number

__all__ = ["LogNormalTimes", "LossHistory", "LossSecondMomentTimes", "StratifiedTimes", "Times", "UniformTimes"]


@dataclasses.dataclass(frozen=True)
class Times(Checked):
    """Base of the distributions of training times.

    >>> class Middle(Times):
    ...     def draw(self, key, schedule, n):
    ...         return jnp.full(n, 0.5)
    >>> Middle().draw(jax.random.key(0), dj.schedules.Cosine(), 3).tolist()
    [0.5, 0.5, 0.5]
    """

    def check(self, schedule: Schedule) -> None:
        """Raises ValueError if these times cannot be drawn for `schedule`."""

    def draw(self, key: jax.Array, schedule: Schedule, n: int) -> jax.Array:
        """n times in [0, 1], float32 [n]."""
        raise NotImplementedError

    def init(self, schedule: Schedule) -> Any:
        """The memory before the first step; a pytree without leaves by default."""
        return ()

    def draw_weighted(
        self, key: jax.Array, schedule: Schedule, n: int, memory: Any
    ) -> tuple[jax.Array, jax.Array | None]:
        """n times, and the weight of the loss at each of them in the mean over the batch, [n]; None: all 1."""
        return self.draw(key, schedule, n), None

    def update(self, memory: Any, schedule: Schedule, t: jax.Array, losses: jax.Array) -> Any:
        """The memory after a batch at times t [B] with unweighted `losses` [B]."""
        return memory


@dataclasses.dataclass(frozen=True)
class UniformTimes(Times):
    """Independent uniform times (Ho et al. 2020, Alg. 1).

    >>> UniformTimes().draw(jax.random.key(0), dj.schedules.Cosine(), 4).shape
    (4,)
    """

    def draw(self, key, schedule, n):
        return jax.random.uniform(key, (n,))


@dataclasses.dataclass(frozen=True)
class StratifiedTimes(Times):
    """t_i = (u + i/n) mod 1 with one uniform u, in random order (Kingma et al. 2021, App. I.1).

    Each of the n equal parts of [0, 1] gets one time; each time by itself is uniform.

    >>> t = StratifiedTimes().draw(jax.random.key(0), dj.schedules.Cosine(), 4)
    >>> sorted((t * 4).astype(int).tolist())
    [0, 1, 2, 3]
    """

    def draw(self, key, schedule, n):
        offset_key, order_key = jax.random.split(key)
        row = (jax.random.uniform(offset_key) + jnp.arange(n) / n) % 1.0
        return jax.random.permutation(order_key, row)


@dataclasses.dataclass(frozen=True)
class LogNormalTimes(Times):
    """log(sigma/alpha) normal with `mean` and `std` (Karras et al. 2022, Table 1), clipped to the schedule's range.

    Attributes:
      mean: mean of log(sigma/alpha).
      std: standard deviation of log(sigma/alpha).

    >>> LogNormalTimes(std=0.5).draw(jax.random.key(0), dj.schedules.Karras(), 4).shape
    (4,)
    """

    mean: float = dataclasses.field(default=-1.2, metadata=number())
    std: float = dataclasses.field(default=1.2, metadata=number("(0, inf)"))

    def draw(self, key, schedule, n):
        log_nsr = self.mean + self.std * jax.random.normal(key, (n,))
        return schedule.time(-2 * log_nsr)


class LossHistory(NamedTuple):
    """The newest losses at each time k/T, k = 1..T.

    >>> LossSecondMomentTimes(history=10).init(dj.schedules.Cosine(steps=4)).losses.shape
    (4, 10)
    """

    losses: jax.Array  # float32 [T, history], a ring buffer for each time
    counts: jax.Array  # int32 [T], the number of losses so far at each time


@dataclasses.dataclass(frozen=True)
class LossSecondMomentTimes(StratifiedTimes):
    """p_t proportional to sqrt(E[L_t^2]) (Nichol and Dhariwal 2021, Eq. 18), for a discrete schedule.

    Each loss has the weight 1/(T p_t), so that the mean over a batch stays an unbiased estimate of the mean over
    all times. It has less noise if losses differ by orders of magnitude, as the terms of the variational bound do.
    All times are equally likely until each has `history` losses. Unlike the paper's, the times of a batch are
    stratified, by inverting their distribution function.

    Attributes:
      history: number of newest losses at t over which E[L_t^2] is taken.
      uniform: share of the draws that is spread evenly over all times, so that none is forgotten.

    >>> times = LossSecondMomentTimes(history=1, uniform=0.2)
    >>> memory = LossHistory(losses=jnp.array([[3.0], [1.0]]), counts=jnp.array([1, 1]))
    >>> [f"{p:.2f}" for p in times.probabilities(memory)]
    ['0.70', '0.30']
    """

    history: int = dataclasses.field(default=10, metadata=integer(1))
    uniform: float = dataclasses.field(default=0.001, metadata=number("(0, 1]"))

    def check(self, schedule: Schedule) -> None:
        """Raises ValueError for a continuous schedule, which has no table of times to keep losses for."""
        check_discrete("times LossSecondMomentTimes", schedule)

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
        later = jnp.triu(same, 1).sum(1)  # examples at the same time, later in the batch
        earlier = jnp.tril(same, -1).sum(1)
        slot = (memory.counts[k] + earlier) % self.history
        # If a batch has more losses at one time than `history`, the newest stay. The others get a row past the
        # end, which mode="drop" ignores; -1 would wrap around.
        row = jnp.where(later < self.history, k, schedule.steps)
        losses = memory.losses.at[row, slot].set(losses, mode="drop")
        return LossHistory(losses, memory.counts.at[k].add(1))
