"""Bits per dimension by the variational bound."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process import forward, vlb
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, of_one_schedule
from diffusion_jax.sampling.grids import Grid, Uniform
from diffusion_jax.sampling.likelihood import base
from diffusion_jax.sampling.randomness import as_image_indices, fold, image_keys, standard_normal
from diffusion_jax.validation import checked, concrete, integer, numbers

__all__ = ["Bound", "by_log_snr", "by_sampled_vlb", "by_vlb"]

# Default number of terms of a continuous schedule, whose bound may have any number.
_CONTINUOUS_STEPS = 1000


class Bound(NamedTuple):
    """The bound in bits per dimension and its terms: total = prior + the sum of diffusion + decoder.

    Attributes:
      total: [B].
      prior: [B].
      diffusion: [S - 1, B], the terms of the steps from times[i] to times[i + 1].
      decoder: [B], the term of the step from times[S - 1] to the image's values.
      times: [S], decreasing from 1, the times of the denoiser's calls.

    >>> diffusion, decoder = jnp.array([[0.5], [1.5]]), jnp.array([1.0])
    >>> bound = dj.likelihood.Bound(jnp.array([3.0]), jnp.array([0.0]), diffusion, decoder, jnp.array([1.0, 0.5, 0.1]))
    >>> (bound.prior + bound.diffusion.sum(0) + bound.decoder).tolist()
    [3.0]
    """

    total: jax.Array
    prior: jax.Array
    diffusion: jax.Array
    decoder: jax.Array
    times: jax.Array


@of_one_schedule("denoise")
def by_vlb(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    x0: ArrayLike,
    *,
    variance: str = "large",
    steps: int | None = None,
    grid: Grid = Uniform(),
    indices: ArrayLike | None = None,
) -> Bound:
    """Returns the bound of ancestral sampling on -log2 P(x0) per dimension (Ho et al. 2020, Eq. 5).

    All terms of the grid, each at one sample x_t ~ q(x_t | x0), so that their sum is an unbiased estimate of the bound.
    Because the posteriors hold for any two times, every grid gives a valid bound; fewer steps make it looser. Terms are
    evaluated one at a time, so memory does not grow with their number.

    Args:
      key: a threefry key.
      denoise: denoise(x_t, t) -> Denoised(x0, eps).
      schedule: the noise schedule of the denoiser.
      x0: images [B, H, W, C] with the 256 values k/127.5 - 1; no noise is added to them.
      variance: variance of p(x_s | x_t), as in `vlb.term`: "small", "large" or "learned".
      steps, grid: the times are grid(schedule, steps). None means all steps of a discrete schedule, 1 000 of a
        continuous one.
      indices: int [B], the stream of noise of each image for this key; default 0..B-1.

    Raises ValueError for a bad variance, steps, grid, x0 or indices.

    >>> schedule = dj.schedules.Cosine(10)
    >>> denoise = dj.denoiser(lambda params, x, time, labels: x, None, schedule, dj.predictions.V())
    >>> dj.likelihood.by_vlb(jax.random.key(0), denoise, schedule, np.ones((2, 4, 4, 1)), steps=3).total.shape
    (2,)
    """
    x0, times = base.as_uint8_values(x0), _make_bound_times(schedule, grid, steps)
    keys = image_keys(key, as_image_indices(indices, len(x0)))

    def term(node: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        i, t, s = node
        return _sample_term(fold(keys, i), denoise, schedule, x0, t, s, variance)

    terms = jax.lax.map(term, (jnp.arange(len(times) - 1), times[:-1], times[1:]))
    prior = vlb.prior(schedule, x0)
    return Bound(prior + terms.sum(0), prior, terms[:-1], terms[-1], times[:-1])


@of_one_schedule("denoise")
@checked(draws=integer(2))
def by_sampled_vlb(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    x0: ArrayLike,
    *,
    draws: int,
    variance: str = "large",
    steps: int | None = None,
    grid: Grid = Uniform(),
    indices: ArrayLike | None = None,
) -> base.Estimate:
    """Estimates `by_vlb`'s total from a few of its terms: 2 `draws` calls of the denoiser instead of S.

    A draw is prior + (S - 1) times one of the S - 1 diffusion terms, chosen uniformly, + the decoder's term. The mean
    of independent draws is an unbiased estimate of the bound, returned with its standard error.

    Args:
      key, denoise, schedule, x0, variance, steps, grid, indices: as in `by_vlb`.
      draws: number of draws, at least 2, which the standard error needs.

    Raises ValueError as `by_vlb` does, and for fewer than 2 draws.

    >>> schedule = dj.schedules.Cosine(10)
    >>> denoise = dj.denoiser(lambda params, x, time, labels: x, None, schedule, dj.predictions.V())
    >>> dj.likelihood.by_sampled_vlb(jax.random.key(0), denoise, schedule, np.ones((2, 4, 4, 1)), draws=2).value.shape
    (2,)
    """
    x0, times = base.as_uint8_values(x0), _make_bound_times(schedule, grid, steps)
    keys, last = image_keys(key, as_image_indices(indices, len(x0))), len(times) - 2

    def draw(j: jax.Array) -> jax.Array:
        time_keys, noise_keys, decoder_keys = (fold(keys, 3 * j + k) for k in range(3))
        i = jax.vmap(lambda key: jax.random.randint(key, (), 0, last))(time_keys)
        diffusion = _sample_term(noise_keys, denoise, schedule, x0, times[i], times[i + 1], variance)
        decoder = _sample_term(decoder_keys, denoise, schedule, x0, times[last], times[last + 1], variance)
        return last * diffusion + decoder

    value, standard_error = base.average(jax.lax.map(draw, jnp.arange(draws)))
    return base.Estimate(vlb.prior(schedule, x0) + value, standard_error)


@checked(edges=numbers())
def by_log_snr(bound: Bound, schedule: Schedule, edges: ArrayLike) -> jax.Array:
    """Sums the diffusion terms by the log-SNR of x_t, bits per dimension [bins, B].

    The sum over the bins, plus the prior and the decoder's term, is the total.

    Args:
      bound: the result of `by_vlb`.
      schedule: the noise schedule.
      edges: increasing log-SNRs, such as `training.evaluate.LOG_SNR_EDGES`; the outer two of the len(edges) + 1 bins
        are open.

    Raises ValueError unless the edges increase.

    >>> diffusion, decoder = jnp.array([[0.5], [1.5]]), jnp.array([1.0])
    >>> bound = dj.likelihood.Bound(jnp.array([3.0]), jnp.array([0.0]), diffusion, decoder, jnp.array([1.0, 0.5, 0.1]))
    >>> dj.likelihood.by_log_snr(bound, dj.schedules.RectifiedFlow(), [-2.0, 2.0]).tolist()
    [[0.5], [1.5], [0.0]]
    """
    found = concrete("edges", edges)
    if found is not None and (found.ndim != 1 or not (np.diff(found) > 0).all()):
        raise ValueError(f"edges = {edges}: must be a list of increasing numbers")
    edges = jnp.asarray(edges, jnp.float32)
    bins = jnp.digitize(schedule.log_snr(bound.times[:-1]), edges)
    return jax.ops.segment_sum(bound.diffusion, bins, len(edges) + 1)


def _make_bound_times(schedule: Schedule, grid: Grid, steps: int | None) -> jax.Array:
    if steps is None:
        steps = _CONTINUOUS_STEPS if schedule.steps is None else schedule.steps
    return jnp.asarray(base.make_full_times(schedule, grid, steps), jnp.float32)


def _sample_term(
    keys: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    x0: jax.Array,
    t: jax.Array,
    s: jax.Array,
    variance: str,
) -> jax.Array:
    """One term of the bound, [B], at an x_t sampled with `keys`."""
    x_t = forward.diffuse(schedule, x0, t, standard_normal(keys, x0.shape[1:]))
    return vlb.term(schedule, x0, denoise(x_t, t), t, s, variance)
