"""DPM-Solver++."""

import dataclasses

import jax.numpy as jnp

from diffusion_jax.sampling.samplers.base import Sampler


@dataclasses.dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """DPM-Solver++ in x0, multistep (Lu et al. 2022b, Prop. 4.1 and Alg. 2).

    x_s = (sigma_s/sigma_t) x_t + (alpha_s - alpha_t sigma_s/sigma_t) D, where D is x0 at order 1 (DDIM) and
    x0 + h/(2 h_prev) (x0 - x0_prev) at order 2, with h the step of log_snr/2. First order where a step
    starts at zero SNR or ends on data.
    """

    order: int = 2  # type: ignore[misc]  # a choice here, not a constant

    def __post_init__(self):
        if self.order not in (1, 2):
            raise ValueError(f"order = {self.order}: must be 1 or 2")

    def init(self, x):
        return jnp.zeros_like(x), jnp.float32(-jnp.inf)  # x0 and log-SNR of the step before

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0 = denoise(x_t, t).x0
        log_snr = schedule.log_snr(t)
        direction = x0
        if self.order == 2:
            x0_before, log_snr_before = memory
            h, h_before = schedule.log_snr(s) - log_snr, log_snr - log_snr_before
            both_finite = jnp.isfinite(h) & jnp.isfinite(h_before)
            direction = x0 + jnp.where(both_finite, h / (2 * h_before), 0.0) * (x0 - x0_before)
        ratio = schedule.sigma(s) / schedule.sigma(t)
        x_s = ratio * x_t + (schedule.alpha(s) - schedule.alpha(t) * ratio) * direction
        return x_s, (x0, log_snr)
