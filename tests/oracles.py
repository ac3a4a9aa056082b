"""The cases that tests walk, and short names of the package's own closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
from slow import slow

from diffusion_jax.oracles import Correlated as Correlated
from diffusion_jax.oracles import Gaussian as Gaussian
from diffusion_jax.oracles import Mixture as Mixture
from diffusion_jax.oracles import ancestral_law as ancestral_law
from diffusion_jax.oracles import exact_denoiser as exact_denoiser
from diffusion_jax.oracles import posterior_variance as posterior_variance
from diffusion_jax.oracles import scales as scales
from diffusion_jax.oracles import step_variance as step_variance
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.verify import cases
from diffusion_jax.verify.cases import PREDICTIONS as PREDICTIONS
from diffusion_jax.verify.cases import SCHEDULES as SCHEDULES
from diffusion_jax.verify.compilation import quick_jit as quick_jit

DISCRETE = [name for name, schedule in SCHEDULES.items() if schedule.steps is not None]
# For tests that compile much: one of each kind, and the others in the slow suite.
KINDS_FIRST = [*cases.KINDS, *slow(*(name for name in SCHEDULES if name not in cases.KINDS))]
ZERO_TERMINAL = ["zero_terminal", "rectified", "shifted_rectified"]  # alpha(1) = 0: no eps there


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
