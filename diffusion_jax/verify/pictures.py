"""Checks of the loop itself: noise, memory, compiles, and what one call leaves for the next."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles.data import Gaussian, exact_denoiser
from diffusion_jax.process import forward, schedules
from diffusion_jax.process.predictions import Denoised, V
from diffusion_jax.sampling import guidance
from diffusion_jax.sampling.loop import sample
from diffusion_jax.sampling.samplers import DDIM, DDPM, DPMSolverPP, Sampler
from diffusion_jax.verify.marched import quick_jit
from diffusion_jax.verify.report import Row

_COSINE = schedules.Cosine()


def check() -> list[Row]:
    with jax.debug_key_reuse(False):  # what is compared draws the same noise
        return [*_noise(), *_memory(), *_recompiles(), *_again(), *_learned()]


def _noise() -> Iterator[Row]:
    """A denoiser that sees nothing but noise to be: each state is its own step's noise, of known variance."""

    def nothing(x_t, t):
        return Denoised(jnp.zeros_like(x_t), jnp.zeros_like(x_t))

    steps, n = 8, 64
    draw = quick_jit(
        lambda key: sample(key, nothing, _COSINE, (n, 8, 8, 1), sampler=DDIM(1.0), steps=steps, keep=steps + 1)
    )
    frames = draw(jax.random.key(0))[1]
    z = np.asarray(frames.x[:-1], np.float64).reshape(steps, n, -1)  # the last is data, without noise
    t = np.asarray(frames.times)
    for i in range(1, steps):
        variance = float(forward.posterior(_COSINE, jnp.float32(0), jnp.float32(0), t[i - 1], t[i])[1])
        z[i] /= np.sqrt(variance)
    limit = 5 / np.sqrt(z[0].size)
    yield Row("noise: mean 0", "by step", np.abs(z.mean((1, 2))).max(), limit)
    yield Row("noise: variance 1", "by step", np.abs((z**2).mean((1, 2)) - 1).max(), 1.5 * limit)
    between = np.corrcoef(z.reshape(steps, -1)) - np.eye(steps)
    yield Row("noise: uncorrelated", "step with step", np.abs(between).max(), limit)
    pictures = np.corrcoef(z.swapaxes(0, 1).reshape(n, -1)) - np.eye(n)
    yield Row("noise: uncorrelated", "picture with picture", np.abs(pictures).max(), 6 / np.sqrt(steps * 64))
    other = draw(jax.random.key(1))[1]
    seeds = np.corrcoef(z.ravel(), np.asarray(other.x[:-1]).ravel())[0, 1]
    yield Row("noise: uncorrelated", "seed with seed", abs(seeds), limit)
    yield Row("the last step draws no noise", "DDIM(eta=1.0)", float(jnp.abs(frames.x[-1]).max()), 0.0)


def _memory() -> Iterator[Row]:
    """The loop holds one state, not one for each step: memory_analysis of the compiled program."""
    denoise = exact_denoiser(Gaussian(), _COSINE, V())

    def temporary(steps: int) -> int:
        draw = quick_jit(
            lambda key: sample(key, denoise, _COSINE, (16, 32, 32, 3), sampler=DPMSolverPP(order=3), steps=steps)
        )
        analysis: Any = draw.lower(jax.random.key(0)).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    grown = (temporary(200) - temporary(10)) / (16 * 32 * 32 * 3 * 4)
    yield Row("memory of 190 more steps, in states", "DPMSolverPP(order=3)", grown, 0.1)


def _recompiles() -> Iterator[Row]:
    """One program for every scale, interval, eta, seed and label."""
    traces = []

    @jax.jit
    def draw(key, sampler, scale, low, high, labels):
        traces.append(1)
        where = labels.reshape(-1, 1, 1, 1) / 10

        def model(mean) -> Any:
            return lambda x_t, t: Gaussian().denoised(x_t - mean, *_scales(t))

        w = guidance.interval(scale, _COSINE, low, high)
        guided = guidance.classifier_free(model(where), model(0.0), w)
        return sample(key, guided, _COSINE, (3, 2, 2, 1), sampler=sampler, steps=4)

    calls = [
        (0, DDIM(0.0), jnp.float32(2.0), 0.1, 5.0, [0, 1, 2]),
        (1, DDIM(0.0), jnp.float32(2.0), 0.1, 5.0, [0, 1, 2]),
        (1, DDIM(0.7), jnp.float32(2.0), 0.1, 5.0, [0, 1, 2]),
        (1, DDIM(0.7), jnp.float32(4.0), 0.1, 5.0, [0, 1, 2]),
        (1, DDIM(0.7), jnp.float32(4.0), 0.3, 2.0, [0, 1, 2]),
        (1, DDIM(0.7), jnp.float32(4.0), 0.3, 2.0, [9, 1, 2]),
    ]
    drawn = [np.asarray(draw(jax.random.key(s), *rest, jnp.asarray(labels))) for s, *rest, labels in calls]
    yield Row("compiles beside the first", "scale, interval, eta, seed, labels", len(traces) - 1, 0.0)
    same = sum(np.array_equal(one, other) for one, other in pairwise(drawn))
    yield Row("settings that change nothing", "seed, eta, scale, interval, labels", same, 0.0)


def _scales(t):
    return _COSINE.alpha(t), _COSINE.sigma(t)


def _again() -> Iterator[Row]:
    """Nothing of one call is found by the next: a multistep sampler draws the same twice."""
    denoise, sampler = exact_denoiser(Gaussian(), _COSINE, V()), DPMSolverPP(order=3)
    draw = partial(sample, denoise=denoise, schedule=_COSINE, shape=(2, 2, 2, 1), sampler=sampler, steps=5)
    one, _, again = (np.asarray(draw(jax.random.key(seed))) for seed in (0, 1, 0))
    yield Row("a second call draws the same", "DPMSolverPP(order=3)", np.abs(one - again).max(), 0.0)


def _learned() -> Iterator[Row]:
    """DDPM with a learned range is "small" at its lower end and "large" at its upper."""
    x_t, keys = jnp.ones((4, 2, 2, 1)), jax.random.split(jax.random.key(0), 4)
    for fraction, variance in ((0.0, "small"), (1.0, "large")):

        def denoise(x_t, t, fraction=fraction):
            here = Gaussian().denoised(x_t, *_scales(t))
            return dataclasses.replace(here, variance_fraction=jnp.full_like(x_t, fraction))

        def step(sampler: Sampler, denoise=denoise):
            t, s = jnp.float32(0.6), jnp.float32(0.4)
            return sampler.step(keys, denoise, _COSINE, x_t, t, s, ())[0]

        apart = jnp.abs(step(DDPM("learned")) - step(DDPM(variance))).max()
        yield Row("a learned variance reaches from small to large", variance, float(apart), 1e-5)
