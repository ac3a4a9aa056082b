"""The probability flow with adaptive steps, by diffrax."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.process.schedules import RectifiedFlow, Schedule
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.validation import STATIC, integer, number

__all__ = ["RK45"]

_FLOW = RectifiedFlow()


@register_dataclass
@dataclasses.dataclass(frozen=True)
class RK45(Sampler):
    """Dormand and Prince's method of order 5 on the probability flow; it chooses its own steps from t to s.

    Normally used with `steps=1`: one adaptive integration from noise to data. Needs the extra `ode` (diffrax).

    In u = sigma/(alpha + sigma), the time of a rectified flow with the same SNR, y = x/(alpha + sigma) has on
    every schedule the slope eps - x0, finite up to u = 1. On data there is no noise left to estimate: from the time
    `last`, or from 1/T where a discrete schedule begins later, one Euler step leads there.

    A step is accepted if every image's root mean square error is within atol + rtol |y|. So the images of a batch
    share their steps, and with this sampler image i depends on its batch: with a trained network, which is not a
    smooth function, another batch changed pixels by up to 0.03 at the default tolerances. The network of a discrete
    schedule receives the next k/T, and its slope jumps there: tolerances far below 1/T cost many calls and gain
    nothing.

    Attributes:
      rtol: relative tolerance of a step.
      atol: absolute tolerance of a step, at least 1e-6, the resolution of float32.
      last: the time at which integration stops, in [1e-6, 0.5].
      max_steps: the largest number of steps; more of them make NaN, which `Run.sample` refuses.

    >>> dj.samplers.RK45(rtol=1e-3).adaptive
    True
    """

    rtol: float = dataclasses.field(default=1e-4, metadata=number("[0, inf)"))
    atol: float = dataclasses.field(default=1e-4, metadata=number("[1e-6, inf)"))
    last: float = dataclasses.field(default=1e-3, metadata=number("[1e-6, 0.5]"))
    max_steps: int = dataclasses.field(default=1000, metadata=STATIC | integer(1))

    def __post_init__(self):
        _import_diffrax()
        super().__post_init__()

    @property
    def order(self):
        return 5

    @property
    def adaptive(self):
        return True

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        def slope(u: jax.Array, y: jax.Array, _: Any = None) -> jax.Array:
            time = schedule.time(_FLOW.log_snr(u))
            here = denoise(_total(schedule, time) * y, time)
            return here.eps - here.x0

        last = self.last if schedule.steps is None else jnp.maximum(self.last, 1 / schedule.steps)
        u_t, u_s, u_last = (_FLOW.time(schedule.log_snr(time)) for time in (t, s, last))
        u_end = jnp.maximum(u_s, jnp.minimum(u_last, u_t))
        y = self._solve(slope, u_t, u_end, x_t / _total(schedule, t))
        y = jax.lax.cond(u_s < u_end, lambda: y + (u_s - u_end) * slope(u_end, y), lambda: y)
        return _total(schedule, s) * y, memory

    def _solve(self, slope, u_t, u_s, y):
        """Integrates y from u_t to u_s."""
        diffrax = _import_diffrax()
        control = diffrax.PIDController(rtol=self.rtol, atol=self.atol, norm=_max_rms)
        term, solver = diffrax.ODETerm(slope), diffrax.Dopri5()
        limits = {"max_steps": self.max_steps, "throw": False}
        found = diffrax.diffeqsolve(term, solver, u_t, u_s, None, y, stepsize_controller=control, **limits)
        return jnp.where(found.result == diffrax.RESULTS.successful, found.ys[-1], jnp.nan)


def _total(schedule: Schedule, t: jax.Array) -> jax.Array:
    return schedule.alpha(t) + schedule.sigma(t)


def _max_rms(y: jax.Array) -> jax.Array:
    """The largest root mean square of an image of the batch."""
    return jnp.sqrt(jnp.max(jnp.mean(y**2, axis=tuple(range(1, y.ndim)))))


def _import_diffrax() -> Any:
    """Returns the module, which is optional and slow to import."""
    try:
        import diffrax
    except ImportError as error:
        raise ValueError('RK45 needs diffrax, which is not installed: pip install "diffusion_jax[ode]"') from error
    return diffrax
