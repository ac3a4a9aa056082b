"""Checks of image editing on data with a closed form."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles import exact_denoiser, scales
from diffusion_jax.process.predictions import V
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import editing
from diffusion_jax.sampling.grids import Quadratic
from diffusion_jax.sampling.randomness import first_noise
from diffusion_jax.sampling.samplers import DPMSolverPP
from diffusion_jax.verify.cases import SCHEDULES
from diffusion_jax.verify.compilation import compile_functions, quick_jit
from diffusion_jax.verify.problems import CORRELATED, GAUSSIAN
from diffusion_jax.verify.report import Row


def check_editing() -> list[Row]:
    rows: list[Row] = []
    with jax.debug_key_reuse(False):  # the noise of a run is drawn again for comparison
        for where in ("cosine", "rectified", "karras"):
            schedule = compile_functions(SCHEDULES[where])
            rows += _check_image_to_image(schedule, where)
            rows += _check_inversion(schedule, where)
            rows += _check_inpainting(schedule, where)
    return [*rows, *_check_interpolation()]


def _check_image_to_image(schedule: Schedule, where: str) -> Iterator[Row]:
    """Images noised to t and denoised from that t follow the closed-form flow from there."""
    x0 = GAUSSIAN.mean + GAUSSIAN.std * jax.random.normal(jax.random.key(1), (64, 4, 4, 1))
    denoise, key = exact_denoiser(GAUSSIAN, schedule, V()), jax.random.key(2)
    noise = np.asarray(first_noise(key, jnp.arange(64), (4, 4, 1)), np.float64)
    grid, steps = Quadratic(), 20  # few steps, short ones at the end: starting one step off shows
    settings: dict[str, Any] = dict(sampler=DPMSolverPP(order=3), steps=steps, grid=grid)
    times, strengths = grid(schedule, steps), (0.3, 0.7)
    edit = quick_jit(lambda x0: [editing.image_to_image(key, denoise, schedule, x0, s, **settings) for s in strengths])
    for strength, x in zip(strengths, edit(x0), strict=True):
        first = int(np.argmax(times <= strength))
        at_t, at_next, at_0 = zip(*scales(schedule, np.array([times[first], times[first + 1], 0.0])), strict=True)
        x_t = at_t[0] * np.asarray(x0, np.float64) + at_t[1] * noise
        exact = GAUSSIAN.flow(x_t, at_t, at_0)
        one_off = np.abs(GAUSSIAN.flow(x_t, at_next, at_0) - exact).mean()
        error = np.abs(np.asarray(x) - exact).mean() / one_off
        yield Row("image_to_image: error, in errors of starting one step off", f"{strength}, {where}", error, 0.5)


def _check_inversion(schedule: Schedule, where: str) -> Iterator[Row]:
    """Images go to their noise and come back."""
    x0 = GAUSSIAN.mean + GAUSSIAN.std * jax.random.normal(jax.random.key(3), (8, 4, 4, 1))
    denoise = exact_denoiser(GAUSSIAN, schedule, V())
    back = quick_jit(lambda x0: editing.reconstruct(denoise, schedule, x0, steps=100))(x0)
    yield Row("reconstruct(x) = x, mean error", where, float(np.abs(back - x0).mean()), 0.02)


def _check_inpainting(schedule: Schedule, where: str) -> Iterator[Row]:
    """The known pixel keeps every bit, and with resampling the other one is generated given it."""
    data, n = CORRELATED, 4096
    denoise, known = exact_denoiser(data, schedule, V()), data.mean[0] + data.std[0]
    images, mask = jnp.full((n, 1, 1, 2), known), np.array([True, False]).reshape(1, 1, 2)
    settings: dict[str, Any] = dict(steps=20, resamples=6)
    x = quick_jit(lambda images: editing.inpaint(jax.random.key(4), denoise, schedule, images, mask, **settings))(
        images
    )
    yield Row("inpaint keeps the known pixels", where, float(np.abs(x[..., 0] - known).max()), 0.0)
    # The known pixel is one standard deviation above its mean.
    conditional_mean = data.mean[1] + data.correlation * data.std[1]
    error = abs(np.asarray(x[..., 1], np.float64).mean() - conditional_mean) / data.std[1]
    yield Row("inpaint: mean of the unknown pixel given the known, in stds", where, error, 0.2)


def _check_interpolation() -> Iterator[Row]:
    a, b = jax.random.normal(jax.random.key(5), (2, 4, 4, 4, 1))
    for weight, end in ((0.0, a), (1.0, b)):
        distance = float(jnp.abs(editing.slerp(a, b, weight) - end).max())
        yield Row("slerp ends at its arguments", f"weight {weight}", distance, 0.0)
    half = editing.slerp(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 3.0]]), 0.5)
    yield Row("slerp follows the arc", "half way", float(jnp.abs(half - 3 * np.sqrt(0.5)).max()), 1e-5)
