"""Checks of what is built on the samplers: editing, likelihood, adaptive steps."""

import importlib.util
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles.data import Correlated, Gaussian, exact_denoiser
from diffusion_jax.process import schedules
from diffusion_jax.process.predictions import V
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import editing, likelihood
from diffusion_jax.sampling.grids import Quadratic
from diffusion_jax.sampling.loop import sample
from diffusion_jax.sampling.randomness import first_noise
from diffusion_jax.sampling.samplers import RK45, DPMSolverPP
from diffusion_jax.verify.marched import quick_jit, scales
from diffusion_jax.verify.report import Row

_SCHEDULES: dict[str, Schedule] = {
    "cosine": schedules.Cosine(),
    "rectified": schedules.RectifiedFlow(),
    "karras": schedules.Karras(),
}
_DATA = Gaussian(0.3, 0.5)


def check() -> list[Row]:
    rows: list[Row] = []
    with jax.debug_key_reuse(False):  # the start of what was drawn is drawn again
        for where, schedule in _SCHEDULES.items():
            rows += _image_to_image(schedule, where)
            rows += _inversion(schedule, where)
            rows += _inpainting(schedule, where)
            rows += _density(schedule, where)
            rows += _adaptive(schedule, where)
    return [*rows, *_interpolation(), *_bound()]


def _image_to_image(schedule: Schedule, where: str) -> Iterator[Row]:
    """Data noised to t and denoised from that same t are data: their flow from there is closed form."""
    x0 = _DATA.mean + _DATA.std * jax.random.normal(jax.random.key(1), (64, 4, 4, 1))
    denoise, key = exact_denoiser(_DATA, schedule, V()), jax.random.key(2)
    noise = first_noise(key, jnp.arange(64), (4, 4, 1))
    grid, steps = Quadratic(), 20  # few steps, short ones at the end: starting one off shows
    for strength in (0.3, 0.7):
        x = quick_jit(
            lambda x0, strength=strength: editing.image_to_image(
                key,
                denoise,
                schedule,
                x0,
                strength,
                sampler=DPMSolverPP(order=3),
                steps=steps,
                grid=grid,
            )
        )(x0)
        times = grid(schedule, steps)
        first = int(np.argmax(times <= strength))
        alpha, sigma = scales(schedule, np.array([times[first], times[first + 1], 0.0]))
        ends = [(alpha[i], sigma[i]) for i in range(3)]
        x_t = alpha[0] * np.asarray(x0, np.float64) + sigma[0] * np.asarray(noise, np.float64)
        at_t, at_next, at_0 = ends
        exact = _DATA.flow(x_t, at_t, at_0)
        off_by_one = np.abs(_DATA.flow(x_t, at_next, at_0) - exact).mean()
        error = np.abs(np.asarray(x) - exact).mean() / off_by_one
        yield Row("image_to_image, in errors of one step off", f"strength {strength}, {where}", error, 0.5)


def _inversion(schedule: Schedule, where: str) -> Iterator[Row]:
    """Data go to their noise and come back."""
    x0 = _DATA.mean + _DATA.std * jax.random.normal(jax.random.key(3), (8, 4, 4, 1))
    denoise = exact_denoiser(_DATA, schedule, V())
    back = quick_jit(lambda x0: editing.reconstruct(denoise, schedule, x0, steps=100))(x0)
    yield Row("reconstruct(invert(x)) = x, mean error", where, float(jnp.abs(back - x0).mean()), 0.02)


def _inpainting(schedule: Schedule, where: str) -> Iterator[Row]:
    """The known pixel stays in every bit, and with resampling the other one is drawn given it."""
    data, n = Correlated(), 4096
    denoise = exact_denoiser(data, schedule, V())
    known = data.mean[0] + data.std[0]  # one deviation up
    images, mask = jnp.full((n, 1, 1, 2), known), np.array([True, False]).reshape(1, 1, 2)
    x = quick_jit(
        lambda images: editing.inpaint(jax.random.key(4), denoise, schedule, images, mask, steps=20, resamples=6)
    )(images)
    yield Row("inpainting keeps the known pixels", where, float(jnp.abs(x[..., 0] - known).max()), 0.0)
    other = np.asarray(x[..., 1], np.float64)
    mean = data.mean[1] + data.correlation * data.std[1]
    off = abs(other.mean() - mean) / data.std[1]
    yield Row("RePaint: the others' mean given them, in deviations", where, off, 0.2)


def _interpolation() -> Iterator[Row]:
    a, b = jax.random.normal(jax.random.key(5), (2, 4, 4, 4, 1))
    for weight, end in ((0.0, a), (1.0, b)):
        apart = float(jnp.abs(editing.slerp(a, b, weight) - end).max())
        yield Row("slerp ends where it should", f"weight {weight}", apart, 0.0)
    half_way = editing.slerp(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 3.0]]), 0.5)
    yield Row("slerp follows the arc", "half way", float(jnp.abs(half_way - 3 * np.sqrt(0.5)).max()), 1e-5)


def _density(schedule: Schedule, where: str) -> Iterator[Row]:
    """log p(x) of a Gaussian by the probability flow, exact trace and Hutchinson's."""
    data = Correlated()
    denoise = exact_denoiser(data, schedule, V())
    x = np.array([[0.4, -0.2], [1.0, 0.1], [0.0, 0.3], [-0.5, -0.6]], np.float32).reshape(4, 1, 1, 2)
    apart = x.reshape(4, 2) - np.array(data.mean)
    squared = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(data.covariance), apart)
    exact = -squared / 2 - np.log(2 * np.pi) - np.linalg.slogdet(data.covariance)[1] / 2
    for probes in ("exact", 64) if where == "cosine" else ("exact",):
        found = quick_jit(
            lambda x, probes=probes: likelihood.log_density(
                jax.random.key(6), denoise, schedule, x, steps=200, probes=probes
            )
        )(x)
        error = np.abs(np.asarray(found.value) - exact) - 5 * np.asarray(found.standard_error)
        bits = error.max() / (2 * np.log(2))
        yield Row("log-likelihood by the flow, bits per dimension", f"{probes} probes, {where}", bits, 0.02)


def _bound() -> Iterator[Row]:
    """On levels of a Gaussian the bound lies above the exact bits, and close."""
    from scipy.special import ndtr

    schedule, data = schedules.Cosine(), Gaussian(0.1, 0.3)
    denoise = exact_denoiser(data, schedule, V())
    levels = np.clip(np.round((data.mean + data.std * np.random.default_rng(0).normal(size=4096) + 1) * 127.5), 1, 254)
    x0 = (levels / 127.5 - 1).astype(np.float32).reshape(64, 8, 8, 1)
    edges = [ndtr((x0.astype(np.float64) + side / 255 - data.mean) / data.std) for side in (-1, 1)]
    exact = -np.log2(edges[1] - edges[0]).mean()
    found = quick_jit(lambda x0: likelihood.by_vlb(jax.random.key(7), denoise, schedule, x0).total)(x0)
    above = float(found.mean()) - exact
    yield Row("the bound is above the exact bits", "cosine", above, -0.01, at_least=True)
    yield Row("the bound, bits per dimension above the exact ones", "cosine", above, 0.1)


def _adaptive(schedule: Schedule, where: str) -> Iterator[Row]:
    """RK45, where diffrax is installed, ends where the flow does."""
    if importlib.util.find_spec("diffrax") is None:
        return
    denoise, key = exact_denoiser(_DATA, schedule, V()), jax.random.key(8)
    draw = quick_jit(lambda key: sample(key, denoise, schedule, (8, 2, 2, 1), sampler=RK45(), steps=1))
    alpha, sigma = scales(schedule, np.array([1.0, 0.0]))
    start = sigma[0] * np.asarray(first_noise(key, jnp.arange(8), (2, 2, 1)), np.float64)
    exact = _DATA.flow(start, (alpha[0], sigma[0]), (alpha[1], sigma[1]))
    yield Row("RK45 follows the flow", where, float(np.abs(np.asarray(draw(key)) - exact).max()), 0.01)
