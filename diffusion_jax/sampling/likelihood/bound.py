"""Bits per dimension by the variational bound."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process import forward, vlb
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.grids import Grid, Uniform
from diffusion_jax.sampling.likelihood import base
from diffusion_jax.sampling.randomness import fold, standard_normal
from diffusion_jax.validation import check_integer, check_number, concrete

# A continuous schedule's bound has as many terms as one likes.
_CONTINUOUS_STEPS = 1000


class Bound(NamedTuple):
    """The bound in bits per dimension, term by term: total = prior + the sum of diffusion + decoder."""

    total: jax.Array  # [B]
    prior: jax.Array  # [B]
    diffusion: jax.Array  # [S - 1, B], that of the step from times[i] to times[i + 1]
    decoder: jax.Array  # [B], that of the step from times[S - 1] to the picture's levels
    times: jax.Array  # [S], from 1 down, where the denoiser was asked


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
    """The bound of ancestral sampling on -log2 P(x0) per dimension (Ho et al. 2020, Eq. 5).

    All terms of the grid, each at one draw of x_t ~ q(x_t | x0), so that their sum is an unbiased estimate of
    the bound. As the posteriors are those of any two times, every grid gives a valid bound; the fewer its
    steps, the looser. Terms are worked out one after the other, in the memory of one.

    Args:
      x0: pictures [B, H, W, C] of the 256 levels k/127.5 - 1; no noise is added to them.
      variance: of p(x_s | x_t), as in `vlb.term`: "small", "large" or "learned".
      steps, grid: the times are grid(schedule, steps). Without steps: each of a discrete schedule, 1 000 of a
        continuous one.
      indices: int [B], which stream of noise of this key is each picture's; 0..B-1 unless given.

    Raises ValueError for a bad variance, steps, grid, x0 or indices.
    """
    x0, times = base.checked_pictures(x0), _times(schedule, grid, steps)
    keys = base.keys_of(key, len(x0), indices)

    def term(node: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        i, t, s = node
        return _term(fold(keys, i), denoise, schedule, x0, t, s, variance)

    terms = jax.lax.map(term, (jnp.arange(len(times) - 1), times[:-1], times[1:]))
    prior = vlb.prior(schedule, x0)
    return Bound(prior + terms.sum(0), prior, terms[:-1], terms[-1], times[:-1])


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
    """`by_vlb`'s total from a few of its terms: 2 `draws` calls of the denoiser in the place of S.

    A draw is prior + (S - 1) times one of the S - 1 diffusion terms, each as likely, + the decoder's. The
    mean of independent draws is an unbiased estimate of the bound, with their standard error. The
    arguments and errors are `by_vlb`'s; `draws` must be at least 2.
    """
    check_integer("draws", draws, 2)  # for a standard error
    x0, times = base.checked_pictures(x0), _times(schedule, grid, steps)
    keys, last = base.keys_of(key, len(x0), indices), len(times) - 2

    def draw(j: jax.Array) -> jax.Array:
        time_keys, noise_keys, decoder_keys = (fold(keys, 3 * j + k) for k in range(3))
        i = jax.vmap(lambda key: jax.random.randint(key, (), 0, last))(time_keys)
        diffusion = _term(noise_keys, denoise, schedule, x0, times[i], times[i + 1], variance)
        decoder = _term(decoder_keys, denoise, schedule, x0, times[last], times[last + 1], variance)
        return last * diffusion + decoder

    value, standard_error = base.mean_of(jax.lax.map(draw, jnp.arange(draws)))
    return base.Estimate(vlb.prior(schedule, x0) + value, standard_error)


def by_log_snr(bound: Bound, schedule: Schedule, edges: ArrayLike) -> jax.Array:
    """The diffusion terms added up by the log-SNR of x_t, bits per dimension [bins, B].

    `edges` rise, as `training.evaluate.LOG_SNR_EDGES` do; the outer two of the len(edges) + 1 bins are open.
    The bins' sum, the prior and the decoder's term are the total.

    Raises ValueError for edges that do not rise.
    """
    check_number("edges", edges)
    found = concrete("edges", edges)
    if found is not None and (found.ndim != 1 or not (np.diff(found) > 0).all()):
        raise ValueError(f"edges = {edges}: must be a row of numbers that rise")
    edges = jnp.asarray(edges, jnp.float32)
    bins = jnp.digitize(schedule.log_snr(bound.times[:-1]), edges)
    return jax.ops.segment_sum(bound.diffusion, bins, len(edges) + 1)


def _times(schedule: Schedule, grid: Grid, steps: int | None) -> jax.Array:
    if steps is None:
        steps = _CONTINUOUS_STEPS if schedule.steps is None else schedule.steps
    return jnp.asarray(base.checked_times(schedule, grid, steps), jnp.float32)


def _term(
    keys: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    x0: jax.Array,
    t: jax.Array,
    s: jax.Array,
    variance: str,
) -> jax.Array:
    """One term of the bound, [B], at an x_t drawn with `keys`."""
    x_t = forward.diffuse(schedule, x0, t, standard_normal(keys, x0.shape[1:]))
    return vlb.term(schedule, x0, denoise(x_t, t), t, s, variance)
