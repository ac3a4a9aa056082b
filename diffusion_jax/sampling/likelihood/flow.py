"""Bits per dimension by the probability-flow ODE."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.grids import Grid, UniformLogSNR
from diffusion_jax.sampling.likelihood import base
from diffusion_jax.sampling.randomness import fold
from diffusion_jax.validation import check_floats, describe

Probes = int | Literal["exact"]


def by_ode(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    x0: ArrayLike,
    *,
    steps: int = 100,
    grid: Grid = UniformLogSNR(),
    probes: Probes = 4,
    indices: ArrayLike | None = None,
) -> base.Estimate:
    """-log2 P(x0) per dimension with uniform dequantisation (Song et al. 2021, Sec. 4.3; Theis et al. 2016).

    The level x0 of a pixel stands for its bin, x0 + u with u uniform in [-1/255, 1/255), 1/127.5 wide. By
    Jensen's inequality log P(x0) >= E log p(x0 + u) - D log 127.5, so that the bits are at most

      log2 127.5 - E log2 p(x0 + u) / D,

    with p from `log_density` and one u for each picture. The standard error is that of the trace alone; that
    of u is seen in the spread over pictures or keys.

    x0 are pictures [B, H, W, C] of the 256 levels k/127.5 - 1. The other arguments and the errors are those
    of `log_density`.
    """
    x0 = base.checked_pictures(x0)
    shape = x0.shape[1:]

    def within_a_bin(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, shape, jnp.float32, -1 / 255, 1 / 255)

    x = x0 + jax.vmap(within_a_bin)(fold(base.keys_of(key, len(x0), indices), 0))
    nats = log_density(key, denoise, schedule, x, steps=steps, grid=grid, probes=probes, indices=indices)
    per_nat = 1 / (math.log(2) * math.prod(shape))
    return base.Estimate(math.log2(127.5) - per_nat * nats.value, per_nat * nats.standard_error)


def log_density(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    x: ArrayLike,
    *,
    steps: int = 100,
    grid: Grid = UniformLogSNR(),
    probes: Probes = 4,
    indices: ArrayLike | None = None,
) -> base.Estimate:
    """log p(x) in nats of what the deterministic samplers draw (Song et al. 2021, Eq. 39).

    With the angle phi, tan(phi) = sigma/alpha, and y = x_t / sqrt(alpha^2 + sigma^2), the flow of every
    schedule is dy = x0 d(cos phi) + eps d(sin phi) = v dphi (Salimans and Ho 2022, App. D). Its divergence is
    (D cos(phi) - tr dx0/dy) / sin(phi), and the first part's integral is known. From phi_0 at the grid's
    last time before 0 to phi_1 at t = 1 the change of variables (Chen et al. 2018, Eq. 8) leaves

      log p(x) = log N(y_1 / sin(phi_1); 0, I) - D log tan(phi_0) - integral of (tr dx0/dy) / sin(phi) dphi.

    Heun's rule for y (as in `samplers.Heun`) and the trapezoidal rule in log tan(phi/2) for the trace are of
    second order in 1/steps, and exact for a point mass. The network sees no time but the grid's.

    Both ends: the flow stops at the last time t_0 before 0, so that p is the density of x_t0/alpha_0, that
    of the data with noise of deviation tan(phi_0) added: 0.0064 for 1 000 cosine steps, 0.001 for a
    rectified flow and the default grid. It is a density all the same: stopping there hides no bits.
    At t = 1 it starts from N(0, sigma(1)^2), as `sample` does, whatever x0 still shows there.

    Args:
      x: float32 [B, ...], any values.
      steps, grid: the times are grid(schedule, steps) without 0, two calls of the denoiser for each.
      probes: number of Rademacher vectors for the trace (Hutchinson 1989), drawn anew at each time; "exact"
        takes every pixel in turn, for tiny pictures.
      indices: int [B], which stream of noise of this key is each picture's; 0..B-1 unless given.

    Returns log p [B] and its standard error over the probes, 0 where "exact". Raises ValueError for a bad
    steps, grid, probes or indices, and x that is not finite.
    """
    whole = isinstance(probes, int | np.integer) and not isinstance(probes, bool)
    if probes != "exact" and not (whole and probes >= 2):
        raise ValueError(
            f'probes = {describe(probes)}: must be "exact", or a whole number of at least 2 for a standard error'
        )
    check_floats("x", x)
    x, path = jnp.asarray(x, jnp.float32), _path(schedule, grid, steps)
    base.check_batch("x", x)
    keys = base.keys_of(key, len(x), indices)

    def body(carry: tuple[jax.Array, jax.Array], node: tuple) -> tuple[tuple[jax.Array, jax.Array], None]:
        (y, integrals), (i, here, there) = carry, node
        x0, along, eps = jax.linearize(lambda y: _parts(denoise(here.length * y, here.t)), y, has_aux=True)
        integrals += here.weight * _traces(fold(keys, i + 1), along, y, probes)
        x0_there, eps_there = _parts(denoise(there.length * (y + here.d_cos * x0 + here.d_sin * eps), there.t))
        y += here.d_cos * (x0 + x0_there) / 2 + here.d_sin * (eps + eps_there) / 2
        return (y, integrals), None

    there = _Node(*(np.append(part[1:], part[-1:]) for part in path))  # the last stays where it is
    start = (path.cos[0] * x, jnp.zeros((1 if probes == "exact" else probes, len(x))))
    (y, integrals), _ = jax.lax.scan(body, start, (jnp.arange(len(path.t)), path, there))
    exact = probes == "exact"
    trace = base.Estimate(integrals[0], jnp.zeros(len(x))) if exact else base.mean_of(integrals)
    normal = jax.scipy.stats.norm.logpdf(y / path.sin[-1]) - math.log(path.sin[0] / path.cos[0])
    return trace._replace(value=normal.reshape(len(x), -1).sum(1) - trace.value)


def _parts(denoised: Denoised) -> tuple[jax.Array, jax.Array]:
    return denoised.x0, denoised.eps


class _Node(NamedTuple):
    """A time, with the angle there; or a row of them from data to noise, float32 [S] each."""

    t: np.ndarray
    length: np.ndarray  # sqrt(alpha^2 + sigma^2)
    cos: np.ndarray
    sin: np.ndarray
    d_cos: np.ndarray  # from here to the next, 0 at the last
    d_sin: np.ndarray
    weight: np.ndarray  # of the trace, in the integral over dphi / sin(phi) = d log tan(phi/2)


def _path(schedule: Schedule, grid: Grid, steps: int) -> _Node:
    t = base.checked_times(schedule, grid, steps)[-2::-1].astype(np.float32)
    with jax.ensure_compile_time_eval():
        alpha, sigma = (np.asarray(part(t), np.float64) for part in (schedule.alpha, schedule.sigma))
    length = np.hypot(alpha, sigma)
    cos, sin = alpha / length, sigma / length
    d_cos, d_sin = (np.diff(part, append=part[-1]) for part in (cos, sin))
    widths = np.diff(np.log(np.tan(np.arctan2(sigma, alpha) / 2)))
    weight = (np.append(0, widths) + np.append(widths, 0)) / 2
    parts = (t, length, cos, sin, d_cos, d_sin, weight)
    return _Node(*(part.astype(np.float32) for part in parts))


def _traces(keys: jax.Array, along: Callable, y: jax.Array, probes: Probes) -> jax.Array:
    """The trace of the Jacobian that `along` multiplies with: [1, B], or estimates [probes, B]."""

    def quadratic(direction: jax.Array) -> jax.Array:
        return (direction * along(direction)).reshape(len(y), -1).sum(1)

    if probes == "exact":
        pixels = jnp.eye(math.prod(y.shape[1:])).reshape(-1, *y.shape[1:])
        return jax.lax.map(lambda one: quadratic(jnp.broadcast_to(one, y.shape)), pixels).sum(0)[None]

    def probe(j: jax.Array) -> jax.Array:
        draw = lambda key: jax.random.rademacher(key, y.shape[1:], jnp.float32)  # noqa: E731
        return quadratic(jax.vmap(draw)(fold(keys, j)))

    return jax.lax.map(probe, jnp.arange(probes))
