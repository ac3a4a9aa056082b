"""Checks of the sampling loop: noise, memory, recompilation, and independence of earlier calls."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles import Gaussian, exact_denoiser, scales
from diffusion_jax.process import forward, schedules
from diffusion_jax.process.predictions import Denoised, V
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import guidance
from diffusion_jax.sampling.loop import sample
from diffusion_jax.sampling.randomness import first_noise
from diffusion_jax.sampling.samplers import DDIM, DDPM, RK45, DPMSolverPP, Sampler
from diffusion_jax.verify.cases import SCHEDULES
from diffusion_jax.verify.compilation import compile_functions, quick_jit
from diffusion_jax.verify.problems import GAUSSIAN
from diffusion_jax.verify.report import Row

_COSINE = compile_functions(schedules.Cosine())


def check_loop() -> list[Row]:
    with jax.debug_key_reuse(False):  # runs that are compared use the same noise
        rows = [
            *_check_noise(),
            *_check_memory_growth(),
            *_check_recompilation(),
            *_check_second_call(),
            *_check_ddpm_variance(),
        ]
        for where in ("cosine", "rectified", "karras"):
            rows += _check_adaptive_steps(compile_functions(SCHEDULES[where]), where)
    return rows


def _check_noise() -> Iterator[Row]:
    """If the denoiser returns zeros, each state is the noise of its own step, of known variance."""
    steps, n = 8, 64

    @quick_jit
    def generate(key):
        return sample(key, _return_zeros, _COSINE, (n, 8, 8, 1), sampler=DDIM(1.0), steps=steps, keep=steps + 1)

    frames = generate(jax.random.key(0))[1]
    z = np.asarray(frames.x[:-1], np.float64).reshape(steps, n, -1)  # the last frame is data, without noise
    t = jnp.asarray(frames.times)
    variance = forward.posterior(_COSINE, jnp.zeros(steps - 1), jnp.zeros(steps - 1), t[:-2], t[1:-1])[1]
    z[1:] /= np.sqrt(np.asarray(variance, np.float64))[:, None, None]
    limit = 5 / np.sqrt(z[0].size)
    yield Row("noise: mean 0", "each step", np.abs(z.mean((1, 2))).max(), limit)
    yield Row("noise: variance 1", "each step", np.abs((z**2).mean((1, 2)) - 1).max(), 1.5 * limit)
    steps_apart = np.corrcoef(z.reshape(steps, -1)) - np.eye(steps)
    yield Row("noise: uncorrelated", "steps", np.abs(steps_apart).max(), limit)
    images_apart = np.corrcoef(z.swapaxes(0, 1).reshape(n, -1)) - np.eye(n)
    yield Row("noise: uncorrelated", "images", np.abs(images_apart).max(), 6 / np.sqrt(steps * 64))
    other = generate(jax.random.key(1))[1]
    seeds_apart = np.corrcoef(z.ravel(), np.asarray(other.x[:-1]).ravel())[0, 1]
    yield Row("noise: uncorrelated", "seeds", abs(seeds_apart), limit)
    yield Row("the last step adds no noise", "DDIM(eta=1.0)", float(np.abs(frames.x[-1]).max()), 0.0)


def _return_zeros(x_t: jax.Array, t: jax.Array) -> Denoised:
    return Denoised(jnp.zeros_like(x_t), jnp.zeros_like(x_t))


def _check_memory_growth() -> Iterator[Row]:
    """The loop holds one batch of images, not one per step: memory_analysis of the compiled program."""
    shape, denoise = (16, 32, 32, 3), exact_denoiser(Gaussian(), _COSINE, V())

    def temporary_bytes(steps: int) -> int:
        generate = quick_jit(
            partial(_generate, denoise=denoise, shape=shape, sampler=DPMSolverPP(order=3), steps=steps)
        )
        analysis: Any = generate.lower(jax.random.key(0)).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    growth = (temporary_bytes(200) - temporary_bytes(10)) / (4 * np.prod(shape))
    yield Row("memory for 190 more steps, in batches of images", "DPMSolverPP(order=3)", growth, 0.1)


def _generate(key, denoise, shape, **settings) -> jax.Array:
    return sample(key, denoise, _COSINE, shape, **settings)


def _check_recompilation() -> Iterator[Row]:
    """One program serves every scale, interval, eta, seed and label."""
    traces = []

    @jax.jit
    def generate(key, sampler, scale, low, high, labels):
        traces.append(1)
        means = labels.reshape(-1, 1, 1, 1) / 10
        conditional, unconditional = (exact_denoiser(Gaussian(mean), _COSINE) for mean in (means, 0.0))
        w = guidance.interval(scale, _COSINE, low, high)
        guided = guidance.classifier_free(conditional, unconditional, w)
        return sample(key, guided, _COSINE, (3, 2, 2, 1), sampler=sampler, steps=4)

    calls = [
        (0, DDIM(0.0), jnp.float32(2.0), 0.1, 5.0, [0, 1, 2]),
        (1, DDIM(0.0), jnp.float32(2.0), 0.1, 5.0, [0, 1, 2]),
        (1, DDIM(0.7), jnp.float32(2.0), 0.1, 5.0, [0, 1, 2]),
        (1, DDIM(0.7), jnp.float32(4.0), 0.1, 5.0, [0, 1, 2]),
        (1, DDIM(0.7), jnp.float32(4.0), 0.3, 2.0, [0, 1, 2]),
        (1, DDIM(0.7), jnp.float32(4.0), 0.3, 2.0, [9, 1, 2]),
    ]
    images = [np.asarray(generate(jax.random.key(s), *rest, jnp.asarray(labels))) for s, *rest, labels in calls]
    yield Row("recompilations", "scale, interval, eta, seed, labels", len(traces) - 1, 0.0)
    unchanged = sum(np.array_equal(one, other) for one, other in pairwise(images))
    yield Row("settings without effect", "seed, eta, scale, interval, labels", unchanged, 0.0)


def _check_second_call() -> Iterator[Row]:
    """A multistep sampler keeps nothing from one call to the next."""
    denoise, shape, sampler = exact_denoiser(Gaussian(), _COSINE), (2, 2, 2, 1), DPMSolverPP(order=3)
    generate = partial(_generate, denoise=denoise, shape=shape, sampler=sampler, steps=5)
    first, _, again = (np.asarray(generate(jax.random.key(seed))) for seed in (0, 1, 0))
    yield Row("a repeated call gives the same images", "DPMSolverPP(order=3)", np.abs(first - again).max(), 0.0)


def _check_ddpm_variance() -> Iterator[Row]:
    """DDPM with a learned variance is "small" at the lower end of the range and "large" at the upper end."""
    x_t, keys = jnp.ones((4, 2, 2, 1)), jax.random.split(jax.random.key(0), 4)

    @partial(quick_jit, static_argnums=0)
    def step(sampler: Sampler, fraction: float) -> jax.Array:
        def denoise(x_t, t):
            answer = exact_denoiser(Gaussian(), _COSINE)(x_t, t)
            return dataclasses.replace(answer, variance_fraction=jnp.full_like(x_t, fraction))

        return sampler.step(keys, denoise, _COSINE, x_t, jnp.float32(0.6), jnp.float32(0.4), ())[0]

    for fraction, variance in ((0.0, "small"), (1.0, "large")):
        error = jnp.abs(step(DDPM("learned"), fraction) - step(DDPM(variance), fraction)).max()
        yield Row("learned variance spans small to large", variance, float(error), 1e-5)


def _check_adaptive_steps(schedule: Schedule, where: str) -> Iterator[Row]:
    """RK45, if diffrax is installed, ends where the probability flow does."""
    if importlib.util.find_spec("diffrax") is None:
        return
    denoise, key = exact_denoiser(GAUSSIAN, schedule, V()), jax.random.key(8)
    generate = quick_jit(lambda key: sample(key, denoise, schedule, (8, 2, 2, 1), sampler=RK45(), steps=1))
    alpha, sigma = scales(schedule, np.array([1.0, 0.0]))
    start = sigma[0] * np.asarray(first_noise(key, jnp.arange(8), (2, 2, 1)), np.float64)
    exact = GAUSSIAN.flow(start, (alpha[0], sigma[0]), (alpha[1], sigma[1]))
    yield Row("RK45 follows the flow", where, float(np.abs(np.asarray(generate(key)) - exact).max()), 0.01)
