"""The midpoint rule on the probability flow."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import RectifiedFlow, Schedule
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.samplers.base import Sampler, nearest_time
from diffusion_jax.sampling.samplers.euler import euler_step

__all__ = ["Midpoint"]

_FLOW = RectifiedFlow()


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Midpoint(Sampler):
    """Euler's method with x0 and eps of the middle of the step, to which a shorter Euler step leads.

    The middle is halfway in u = sigma/(alpha + sigma), the time of a rectified flow with the same SNR. On that flow it
    is the midpoint rule of flow matching, and in u every schedule is smooth up to both ends, so that steps to
    data keep the order too.

    A discrete schedule uses the nearest time of its table, or s if that is t itself. If that time lies a fraction r
    of the way from t to s, x0 and eps get the weight 1/(2r) there and 1 - 1/(2r) at t: the general two-stage rule of
    second order (Butcher 2016, Sec. 320), Heun's at r = 1. Two calls of the denoiser per step; one call and first
    order if the table has no time between t and data.

    >>> dj.samplers.Midpoint().order
    2
    """

    @property
    def order(self):
        return 2

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        here = denoise(x_t, t)
        middle, r = _middle_time(schedule, t, s)

        def corrected() -> jax.Array:
            there = denoise(euler_step(here, x_t, schedule, t, middle, schedule.sigma(middle)), middle)
            w = 1 / (2 * r)
            both = Denoised((1 - w) * here.x0 + w * there.x0, (1 - w) * here.eps + w * there.eps)
            return euler_step(both, x_t, schedule, t, s, schedule.sigma(s))

        end = schedule.alpha(s) * here.x0
        return jax.lax.cond(schedule.sigma(middle) > 0, corrected, lambda: end), memory


def _middle_time(schedule: Schedule, t: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The time of the second call, in [s, t), and the fraction r of the way to it in u, in (0, 1]."""
    u_t, u_s = (_FLOW.time(schedule.log_snr(time)) for time in (t, s))
    middle = nearest_time(schedule, schedule.time(_FLOW.log_snr((u_t + u_s) / 2)))
    step = 0 if schedule.steps is None else 1 / schedule.steps
    middle = jnp.where(middle < t - step / 2, middle, s)  # the nearest time may be t itself, rounded
    return middle, (_FLOW.time(schedule.log_snr(middle)) - u_t) / (u_s - u_t)
