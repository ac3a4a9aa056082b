"""Sampling problems with known answers: data of two pixels, and a denoiser whose samples must follow them.

All problems fit side by side into one image [2, 2, C], as pairs of pixels in row-major order. They extend over all
three axes, so that a sampler that mixes up axes gives wrong answers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.oracles import Correlated, Data, Gaussian, Mixture, PointMass, exact_denoiser
from diffusion_jax.process.predictions import Denoised, V
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.guidance import classifier_free
from diffusion_jax.verify.cases import predictions_for

GAUSSIAN, POINT = Gaussian(0.3, 0.5), PointMass(-0.4)
GAUSSIAN_AND_POINT = Gaussian((GAUSSIAN.mean, POINT.mean), (GAUSSIAN.std, POINT.std))
MIXTURE, CORRELATED = Mixture(), Correlated()
# Two Gaussians of the same width, guided from the unconditional to the conditional one: again a Gaussian.
CONDITIONAL, UNCONDITIONAL, SCALE = Gaussian(0.2, 0.5), Gaussian(-0.1, 0.5), 2.5
GUIDED = Gaussian(UNCONDITIONAL.mean + SCALE * (CONDITIONAL.mean - UNCONDITIONAL.mean), CONDITIONAL.std)


class Problem(NamedTuple):
    """Data of two pixels, [..., 2], and a denoiser with the probability flow of that data."""

    data: Data
    denoise: Denoise


def make_problems(schedule: Schedule) -> dict[str, Problem]:
    """The problems on `schedule`: Gaussian and point mass for each prediction, by its name; the rest with V."""
    both = {
        name: Problem(GAUSSIAN_AND_POINT, exact_denoiser(GAUSSIAN_AND_POINT, schedule, prediction))
        for name, prediction in predictions_for(schedule).items()
    }
    conditional, unconditional, mixture, correlated = (
        exact_denoiser(data, schedule, V()) for data in (CONDITIONAL, UNCONDITIONAL, MIXTURE, CORRELATED)
    )
    return both | {
        "guided": Problem(GUIDED, classifier_free(conditional, unconditional, SCALE)),
        "mixture": Problem(MIXTURE, mixture),
        "correlated": Problem(CORRELATED, correlated),
    }


def image_shape(n: int) -> tuple[int, int, int]:
    """Shape of an image that holds n problems; if n is odd, one pair is left over."""
    return 2, 2, (n + 1) // 2


def on_pairs(denoise: Denoise) -> Denoise:
    """A denoiser of images [B, 2, 2, C] from one of pairs of pixels [B, 1, 2C, 2]."""

    def denoise_pairs(x_t: jax.Array, t: jax.Array, **kwargs: jax.Array) -> Denoised:
        pairs = denoise(x_t.reshape(len(x_t), 1, -1, 2), t)
        return jax.tree.map(lambda y: y.reshape(x_t.shape), pairs)

    return denoise_pairs


def side_by_side(problems: dict[str, Problem]) -> Denoise:
    """The denoiser of an image that holds the problems in their order; a pair left over repeats the last one."""
    denoisers = [problem.denoise for problem in problems.values()]

    def denoise(pairs: jax.Array, t: jax.Array) -> Denoised:
        columns = jnp.split(pairs, pairs.shape[2], axis=2)
        answers = [denoisers[min(i, len(denoisers) - 1)](column, t) for i, column in enumerate(columns)]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=2), *answers)

    return on_pairs(denoise)
