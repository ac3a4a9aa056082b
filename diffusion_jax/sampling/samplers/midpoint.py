"""The midpoint rule on the probability flow."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import RectifiedFlow, Schedule
from diffusion_jax.sampling.samplers.base import Sampler, nearest
from diffusion_jax.sampling.samplers.euler import move

_FLOW = RectifiedFlow()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Midpoint(Sampler):
    """Euler's rule with x0 and eps of the middle of the step, where a shorter step of Euler's rule leads.

    The middle is that of u = sigma/(alpha + sigma), the time of a rectified flow with the same SNR. On that
    flow it is flow matching's midpoint rule, and in u every schedule is smooth up to both ends, so that
    steps to data have the order too.

    A discrete schedule is asked at the nearest time of its table, or at s if that is t itself. If it lies
    a fraction r of the way from t to s, x0 and eps count 1/(2r) there and 1 - 1/(2r) at t: the general rule
    of second order in two stages (Butcher 2016, Sec. 320), Heun's at r = 1. Two calls of the denoiser a
    step; one call and first order where the table has nothing between t and data.
    """

    @property
    def order(self):
        return 2

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        here = denoise(x_t, t)
        middle, r = _middle(schedule, t, s)

        def corrected() -> jax.Array:
            there = denoise(move(here, x_t, schedule, t, middle, schedule.sigma(middle)), middle)
            w = 1 / (2 * r)
            both = Denoised((1 - w) * here.x0 + w * there.x0, (1 - w) * here.eps + w * there.eps)
            return move(both, x_t, schedule, t, s, schedule.sigma(s))

        end = schedule.alpha(s) * here.x0
        return jax.lax.cond(schedule.sigma(middle) > 0, corrected, lambda: end), memory


def _middle(schedule: Schedule, t: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The time to ask at, in [s, t), and the fraction r of the way to it in u, in (0, 1]."""
    u_t, u_s = (_FLOW.time(schedule.log_snr(time)) for time in (t, s))
    middle = nearest(schedule, schedule.time(_FLOW.log_snr((u_t + u_s) / 2)))
    step = 0 if schedule.steps is None else 1 / schedule.steps
    middle = jnp.where(middle < t - step / 2, middle, s)  # t itself may come back rounded otherwise
    return middle, (_FLOW.time(schedule.log_snr(middle)) - u_t) / (u_s - u_t)
