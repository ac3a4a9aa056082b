"""Independent answers that the tests compare with, and the lists of cases that they walk.

Most of them ship with the library, as `diffusion_jax.verify`; here are the short names.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.oracles import chain
from diffusion_jax.oracles.chain import posterior_variance as posterior_variance
from diffusion_jax.oracles.chain import step_variance as step_variance
from diffusion_jax.oracles.data import Correlated as Correlated
from diffusion_jax.oracles.data import Gaussian as Gaussian
from diffusion_jax.oracles.data import Mixture as Mixture
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.verify import cases
from diffusion_jax.verify.cases import PREDICTIONS as PREDICTIONS
from diffusion_jax.verify.cases import SCHEDULES as SCHEDULES
from diffusion_jax.verify.marched import quick_jit as quick_jit
from diffusion_jax.verify.marched import scales as scales

DISCRETE = [name for name, schedule in SCHEDULES.items() if schedule.steps is not None]
ZERO_TERMINAL = ["zero_terminal", "rectified", "shifted_rectified"]  # alpha(1) = 0: no eps there

ancestral_law = chain.law


def verified() -> list:
    """The schedules to verify samplers on: five kinds, and four more of the same kinds with -m slow."""
    alike = ("sigmoid", "betas", "shifted_cosine", "shifted_rectified")
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in alike)) for name in SCHEDULES]


def predictions_for(schedule: str) -> dict[str, Prediction]:
    """The predictions that work with the schedule of that name."""
    return cases.predictions_for(SCHEDULES[schedule])


def side_by_side(denoisers: list[Denoise], channels: int = 1) -> Denoise:
    """Each denoiser on `channels` channels of its own: many cases for the price of one compile."""

    def denoise(x_t, t):
        parts = jnp.split(x_t, len(denoisers), axis=-1)
        assert parts[0].shape[-1] == channels
        each = [f(x, t) for f, x in zip(denoisers, parts, strict=True)]
        return jax.tree.map(lambda *part: jnp.concatenate(part, -1), *each)

    return denoise


def assert_moments(x, mean: float, std: float, sigmas: float = 5.0) -> None:
    """Independent draws have this mean and standard deviation, within their sampling error."""
    x = np.asarray(x, np.float64).ravel()
    assert abs(x.mean() - mean) < sigmas * std / np.sqrt(x.size), (x.mean(), mean)
    assert abs(x.std() - std) < sigmas * std / np.sqrt(2 * x.size), (x.std(), std)
