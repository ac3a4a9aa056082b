"""Samplers that add noise, on enough images that a tenth too much noise, or too little, shows."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles import exact_denoiser
from diffusion_jax.process.predictions import V
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import grids
from diffusion_jax.sampling.loop import march
from diffusion_jax.sampling.randomness import image_keys, standard_normal
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.verify.batch import Results, SideBySide
from diffusion_jax.verify.cases import LAWS, STANDARD_ERRORS
from diffusion_jax.verify.compilation import slow_jit
from diffusion_jax.verify.problems import GAUSSIAN
from diffusion_jax.verify.report import Row
from diffusion_jax.verify.routes import pad_times

STEPS = (50, 100)
IMAGES, PIXELS = 2048, 32
# Largest bias left after the extrapolation. Of the standard deviation, the second-order term: 0.015 for DDPM, and 0.08
# for a method with twice the noise of the reverse SDE, which needs more steps and fails here. Of the mean, the effect
# of a schedule that ends at a finite SNR: 0.025 for the last of the linear betas.
REMAINDER = 0.03


def check_infinite_steps(results: Results, samplers: dict[str, Sampler], where: str) -> Iterator[Row]:
    """Samples of a Gaussian have the moments of the data, extrapolated to infinitely many steps.

    A first-order method may miss them by a tenth with 50 steps and be correct, but then it misses them by half of that
    with 100. Twice the second error less the first is due to a wrong amount of noise. Samplers whose exact law is known
    are compared with that law instead.
    """
    checked = {n: one for n, one in samplers.items() if n not in LAWS and not results.is_deterministic(n)}
    if not checked:
        return
    few, many = sample_many(results.schedule, checked)
    for i, name in enumerate(checked):
        errors = [_moment_errors(x[i]) for x in (few, many)]
        mean, std = np.abs(2 * errors[1] - errors[0])
        sampling_error = STANDARD_ERRORS * np.sqrt((2**2 + 1) / few[i].size)
        yield Row("infinite steps", f"{where}, mean", mean, REMAINDER + sampling_error, subject=name)
        yield Row("infinite steps", f"{where}, std", std, REMAINDER + sampling_error / np.sqrt(2), subject=name)


def _moment_errors(x: np.ndarray) -> np.ndarray:
    """Errors of mean and standard deviation, in standard deviations of the data."""
    return np.array([x.mean() - GAUSSIAN.mean, x.std() - GAUSSIAN.std]) / GAUSSIAN.std


def sample_many(schedule: Schedule, samplers: dict[str, Sampler]) -> list[np.ndarray]:
    """Samples of GAUSSIAN with each number of STEPS, float64 [sampler, image, pixel]."""
    denoise = jax.jit(exact_denoiser(GAUSSIAN, schedule, V()))
    together = SideBySide(tuple(samplers.values()), (True,) * len(samplers))

    @slow_jit
    def follow(start_key: jax.Array, times: jax.Array) -> jax.Array:
        keys = image_keys(start_key, jnp.arange(IMAGES))
        start = schedule.sigma(times[0]) * standard_normal(keys, (1, 1, PIXELS))
        end, _ = march(keys, denoise, schedule, together, jnp.concatenate([start] * len(samplers)), times)
        return end.reshape(len(samplers), IMAGES, PIXELS)

    rows = pad_times([grids.Uniform()(schedule, steps) for steps in STEPS])
    keys = jax.random.split(jax.random.key(2), len(STEPS))
    with jax.debug_key_reuse(False):  # all samplers use the same noise
        return [np.asarray(follow(key, times), np.float64) for key, times in zip(keys, rows, strict=True)]
