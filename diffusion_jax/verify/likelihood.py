"""Checks of likelihoods against exact densities."""

from collections.abc import Iterator

import jax
import numpy as np
from scipy.special import ndtr

from diffusion_jax.oracles import Gaussian, exact_denoiser
from diffusion_jax.process import schedules
from diffusion_jax.process.predictions import V
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import likelihood
from diffusion_jax.verify.cases import SCHEDULES, STANDARD_ERRORS
from diffusion_jax.verify.compilation import compile_functions, quick_jit
from diffusion_jax.verify.problems import CORRELATED
from diffusion_jax.verify.report import Row


def check_likelihood() -> list[Row]:
    rows: list[Row] = []
    for where in ("cosine", "rectified", "karras"):
        rows += _check_density(compile_functions(SCHEDULES[where]), where)
    return [*rows, *_check_variational_bound()]


def _check_density(schedule: Schedule, where: str) -> Iterator[Row]:
    """log p(x) of a Gaussian by the probability flow, with the exact trace and with Hutchinson's estimate."""
    denoise = exact_denoiser(CORRELATED, schedule, V())
    x = np.array([[0.4, -0.2], [1.0, 0.1], [0.0, 0.3], [-0.5, -0.6]], np.float32).reshape(4, 1, 1, 2)
    exact = CORRELATED.log_density(x).reshape(4)
    for probes in ("exact", 64) if where == "cosine" else ("exact",):
        settings = dict(steps=200, probes=probes)
        found = quick_jit(
            lambda x, settings=settings: likelihood.log_density(jax.random.key(6), denoise, schedule, x, **settings)
        )(x)
        error = np.abs(np.asarray(found.value) - exact) - STANDARD_ERRORS * np.asarray(found.standard_error)
        bits = error.max() / (2 * np.log(2))
        yield Row("log_density: error in bits per dimension", f"{probes} probes, {where}", bits, 0.02)


def _check_variational_bound() -> Iterator[Row]:
    """On 8-bit levels of a Gaussian the bound lies above the exact number of bits, and close to it."""
    schedule, data = compile_functions(schedules.Cosine()), Gaussian(0.1, 0.3)
    denoise = exact_denoiser(data, schedule, V())
    levels = np.clip(np.round((data.mean + data.std * np.random.default_rng(0).normal(size=4096) + 1) * 127.5), 1, 254)
    x0 = (levels / 127.5 - 1).astype(np.float32).reshape(64, 8, 8, 1)
    below, above = (ndtr((x0.astype(np.float64) + side / 255 - data.mean) / data.std) for side in (-1, 1))
    exact = -np.log2(above - below).mean()
    found = quick_jit(lambda x0: likelihood.by_vlb(jax.random.key(7), denoise, schedule, x0).total)(x0)
    excess = float(found.mean()) - exact
    yield Row("by_vlb is not below the exact bits", "cosine", excess, -0.01, at_least=True)
    yield Row("by_vlb: bits per dimension above the exact ones", "cosine", excess, 0.1)
