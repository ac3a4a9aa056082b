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
from diffusion_jax.sampling.denoiser import Denoise, of_one_schedule
from diffusion_jax.sampling.grids import Grid, UniformLogSNR
from diffusion_jax.sampling.likelihood import base
from diffusion_jax.sampling.randomness import as_image_indices, fold, image_keys
from diffusion_jax.validation import checked, describe, floats

__all__ = ["by_ode", "log_density"]

Probes = int | Literal["exact"]


@of_one_schedule("denoise")
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
    """Returns -log2 P(x0) per dimension with uniform dequantization (Song et al. 2021, Sec. 4.3; Theis et al. 2016).

    The value x0 of a pixel represents its bin, x0 + u with u uniform in [-1/255, 1/255), 1/127.5 wide. By Jensen's
    inequality log P(x0) >= E log p(x0 + u) - D log 127.5, so that the bits are at most

      log2 127.5 - E log2 p(x0 + u) / D,

    with p from `log_density` and one u for each image. The standard error covers the trace alone; the error of u
    shows in the spread over images or keys.

    Args:
      x0: images [B, H, W, C] with the 256 values k/127.5 - 1.
      key, denoise, schedule, steps, grid, probes, indices: as in `log_density`, which raises the same errors.

    >>> schedule = dj.schedules.RectifiedFlow()
    >>> denoise = dj.denoiser(lambda params, x, time, labels: x, None, schedule, dj.predictions.Velocity())
    >>> dj.likelihood.by_ode(jax.random.key(0), denoise, schedule, np.ones((2, 4, 4, 1)), steps=2).value.shape
    (2,)
    """
    x0 = base.as_uint8_values(x0)
    shape = x0.shape[1:]
    keys = image_keys(key, as_image_indices(indices, len(x0)))

    def within_a_bin(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, shape, jnp.float32, -1 / 255, 1 / 255)

    x = x0 + jax.vmap(within_a_bin)(fold(keys, 0))
    nats = log_density(key, denoise, schedule, x, steps=steps, grid=grid, probes=probes, indices=indices)
    per_nat = 1 / (math.log(2) * math.prod(shape))
    return base.Estimate(math.log2(127.5) - per_nat * nats.value, per_nat * nats.standard_error)


@of_one_schedule("denoise")
@checked(x=floats("B", "..."))
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
    """Returns log p(x) in nats of the distribution of the deterministic samplers (Song et al. 2021, Eq. 39).

    With the angle phi, tan(phi) = sigma/alpha, and y = x_t / sqrt(alpha^2 + sigma^2), the flow of every
    schedule is dy = x0 d(cos phi) + eps d(sin phi) = v dphi (Salimans and Ho 2022, App. D). Its divergence is
    (D cos(phi) - tr dx0/dy) / sin(phi), and the integral of the first part is known. From phi_0 at the grid's
    last time before 0 to phi_1 at t = 1 the change of variables (Chen et al. 2018, Eq. 8) gives

      log p(x) = log N(y_1 / sin(phi_1); 0, I) - D log tan(phi_0) - integral of (tr dx0/dy) / sin(phi) dphi.

    Heun's method for y (as in `samplers.Heun`) and the trapezoidal rule in log tan(phi/2) for the trace are of
    second order in 1/steps, and exact for a point mass. The network is only called at the grid's times.

    Both ends: the flow stops at the last time t_0 before 0, so that p is the density of x_t0/alpha_0, of the data plus
    noise of standard deviation tan(phi_0): 0.0064 for 1 000 cosine steps, 0.001 for a rectified flow and the default
    grid. It is still a density: stopping there hides no bits. At t = 1 it starts from N(0, sigma(1)^2), as `sample`
    does, whatever signal of x0 is left there.

    Args:
      key: a threefry key.
      denoise: denoise(x_t, t) -> Denoised(x0, eps), differentiable in x_t.
      schedule: the noise schedule of the denoiser.
      x: float32 [B, ...], any values.
      steps, grid: the times are grid(schedule, steps) without 0, two calls of the denoiser for each.
      probes: number of Rademacher vectors for the trace (Hutchinson 1989), at least 2, new ones at each time; "exact"
        uses every pixel in turn, for tiny images.
      indices: int [B], the stream of noise of each image for this key; default 0..B-1.

    Returns log p [B] and its standard error over the probes, 0 for "exact". Raises ValueError for a bad
    steps, grid, probes or indices, and x that is not finite.

    >>> schedule = dj.schedules.RectifiedFlow()
    >>> denoise = dj.denoiser(lambda params, x, time, labels: x, None, schedule, dj.predictions.Velocity())
    >>> dj.likelihood.log_density(jax.random.key(0), denoise, schedule, np.ones((2, 4, 4, 1)), steps=2).value.shape
    (2,)
    """
    if probes != "exact" and not (isinstance(probes, int | np.integer) and probes >= 2):  # True is below 2
        raise ValueError(f'probes = {describe(probes)}: must be "exact" or an integer >= 2')
    x, path = jnp.asarray(x, jnp.float32), _path(schedule, grid, steps)
    keys = image_keys(key, as_image_indices(indices, len(x)))

    def body(carry: tuple[jax.Array, jax.Array], node: tuple) -> tuple[tuple[jax.Array, jax.Array], None]:
        (y, integrals), (i, here, there) = carry, node
        x0, pull, eps = jax.vjp(lambda y: _as_pair(denoise(here.length * y, here.t)), y, has_aux=True)
        integrals += here.weight * _traces(fold(keys, i + 1), pull, y, probes)
        x0_there, eps_there = _as_pair(denoise(there.length * (y + here.d_cos * x0 + here.d_sin * eps), there.t))
        y += here.d_cos * (x0 + x0_there) / 2 + here.d_sin * (eps + eps_there) / 2
        return (y, integrals), None

    there = _Node(*(np.append(part[1:], part[-1:]) for part in path))  # the last is repeated
    start = (path.cos[0] * x, jnp.zeros((1 if probes == "exact" else probes, len(x))))
    (y, integrals), _ = jax.lax.scan(body, start, (jnp.arange(len(path.t)), path, there))
    exact = probes == "exact"
    trace = base.Estimate(integrals[0], jnp.zeros(len(x))) if exact else base.average(integrals)
    normal = jax.scipy.stats.norm.logpdf(y / path.sin[-1]) - math.log(path.sin[0] / path.cos[0])
    return trace._replace(value=normal.reshape(len(x), -1).sum(1) - trace.value)


def _as_pair(denoised: Denoised) -> tuple[jax.Array, jax.Array]:
    return denoised.x0, denoised.eps


class _Node(NamedTuple):
    """A time and its angle; or S of them from data to noise, float32 [S] each."""

    t: np.ndarray
    length: np.ndarray  # sqrt(alpha^2 + sigma^2)
    cos: np.ndarray
    sin: np.ndarray
    d_cos: np.ndarray  # to the next time, 0 at the last
    d_sin: np.ndarray
    weight: np.ndarray  # of the trace, in the integral over dphi / sin(phi) = d log tan(phi/2)


def _path(schedule: Schedule, grid: Grid, steps: int) -> _Node:
    t = base.make_full_times(schedule, grid, steps)[-2::-1].astype(np.float32)
    with jax.ensure_compile_time_eval():
        alpha, sigma = (np.asarray(part(t), np.float64) for part in (schedule.alpha, schedule.sigma))
    length = np.hypot(alpha, sigma)
    cos, sin = alpha / length, sigma / length
    d_cos, d_sin = (np.diff(part, append=part[-1]) for part in (cos, sin))
    widths = np.diff(np.log(np.tan(np.arctan2(sigma, alpha) / 2)))
    weight = (np.append(0, widths) + np.append(widths, 0)) / 2
    parts = (t, length, cos, sin, d_cos, d_sin, weight)
    return _Node(*(part.astype(np.float32) for part in parts))


def _traces(keys: jax.Array, pull: Callable, y: jax.Array, probes: Probes) -> jax.Array:
    """The trace of the Jacobian whose transpose times a vector is `pull`: [1, B], or estimates [probes, B]."""

    def quadratic(direction: jax.Array) -> jax.Array:
        return (direction * pull(direction)[0]).reshape(len(y), -1).sum(1)

    if probes == "exact":
        pixels = jnp.eye(math.prod(y.shape[1:])).reshape(-1, *y.shape[1:])
        return jax.lax.map(lambda one: quadratic(jnp.broadcast_to(one, y.shape)), pixels).sum(0)[None]

    def probe(j: jax.Array) -> jax.Array:
        draw = lambda key: jax.random.rademacher(key, y.shape[1:], jnp.float32)  # noqa: E731
        return quadratic(jax.vmap(draw)(fold(keys, j)))

    return jax.lax.map(probe, jnp.arange(probes))
