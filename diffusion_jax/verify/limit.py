"""Samplers that draw noise, on so many pictures that a tenth too much of it, or too little, shows."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles.data import exact_denoiser
from diffusion_jax.process.predictions import V
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import grids
from diffusion_jax.sampling.loop import march
from diffusion_jax.sampling.randomness import image_keys, standard_normal
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.verify.cases import LAWS, SIGMAS
from diffusion_jax.verify.marched import GAUSSIAN, Marched, Together, padded
from diffusion_jax.verify.report import Row

STEPS = (50, 100)
PICTURES, PIXELS = 2048, 32
# What may be left of the bias. In the deviation, of the second order: 0.015 for DDPM (0.08 for a method with
# twice the noise of the reverse SDE: it needs more steps, and fails here). In the mean, what a schedule that
# ends at some SNR brings along: 0.025 for the last of the linear betas.
LEFT = 0.03


def check(marched: Marched, samplers: dict[str, Sampler], where: str) -> Iterator[Row]:
    """The moments of the samples of a Gaussian, extrapolated to endless steps, are those of the data.

    A first order method may miss them by a tenth in 50 steps and still be right: but then in 100 by half of
    that. What twice the one less the other leaves is the noise that was drawn too much. Samplers whose exact
    law is known are held to that instead.
    """
    drawing = {n: one for n, one in samplers.items() if n not in LAWS and not marched.deterministic(n)}
    if not drawing:
        return
    few, many = ends(marched.schedule, drawing)
    for i, name in enumerate(drawing):
        n = few[i].size
        off = [_off(x[i]) for x in (few, many)]
        mean, deviation = np.abs(2 * off[1] - off[0])
        spread = SIGMAS * np.sqrt((2**2 + 1) / n)
        yield Row("limit", f"{where}, mean", mean, LEFT + spread, subject=name)
        yield Row("limit", f"{where}, deviation", deviation, LEFT + spread / np.sqrt(2), subject=name)


def _off(x: np.ndarray) -> np.ndarray:
    """How far mean and deviation are from the data's, in deviations of these."""
    return np.array([x.mean() - GAUSSIAN.mean, x.std() - GAUSSIAN.std]) / GAUSSIAN.std


def ends(schedule: Schedule, samplers: dict[str, Sampler]) -> np.ndarray:
    """Samples of GAUSSIAN after so many STEPS, [2, sampler, picture, pixel]."""
    denoise = jax.jit(exact_denoiser(GAUSSIAN, schedule, V()))
    together = Together(tuple(samplers.values()))

    def drawn(key: jax.Array, times: jax.Array) -> jax.Array:
        keys = image_keys(key, jnp.arange(PICTURES))
        start = schedule.sigma(times[0]) * standard_normal(keys, (1, 1, PIXELS))
        end, _ = march(keys, denoise, schedule, together, jnp.concatenate([start] * len(samplers)), times)
        return end.reshape(len(samplers), PICTURES, PIXELS)

    times = jnp.asarray(padded([grids.Uniform()(schedule, steps) for steps in STEPS]), jnp.float32)
    with jax.debug_key_reuse(False):  # all samplers draw the same noise
        found = jax.jit(jax.vmap(drawn))(jax.random.split(jax.random.key(2), len(STEPS)), times)
    return np.asarray(found, np.float64)
