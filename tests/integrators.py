"""Exponential integrators in float64 numpy, and runs of the library's samplers to compare with them.

A step from (alpha_t, sigma_t) to (alpha_s, sigma_s) is x_s = keep x_t + gain D + spread z. Here the variance of the
noise is an Ito integral, by quadrature; keep and gain follow from the marginals that must be kept, and D from the
polynomial that solves a Vandermonde system, its moments by quadrature too.
"""

from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from oracles import SCHEDULES, Gaussian, quick_jit, scales
from scipy.integrate import quad

import diffusion_jax as dj
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers import Sampler, exponential

# One of each kind: variance preserving on a table, straight with zero terminal SNR, exploding.
KINDS = ["cosine", "rectified", "karras"]
GAUSSIAN, POINT = Gaussian(0.3, 0.5), Gaussian(-0.4, 0.0)
_DATA = Gaussian((GAUSSIAN.mean, POINT.mean), (GAUSSIAN.std, POINT.std))


weights = quick_jit(exponential.weights)

_LONGEST = 50  # steps; every schedule is evaluated at that many times at once, which compiles once


def evaluate(function, values: np.ndarray) -> np.ndarray:
    """A function of the schedule at `values`, [n]."""
    padded = np.pad(values, (0, _LONGEST + 1 - len(values)), mode="edge")
    return np.asarray(function(padded), np.float64)[..., : len(values)]


@cache
def spaced(name: str, steps: int, low: float = -3.0, high: float = 3.0) -> np.ndarray:
    """Times of a schedule whose steps of log_snr/2 from `low` alternate in length, one to two."""
    schedule, position = SCHEDULES[name], np.cumsum([0, *[1, 2] * (steps // 2)])
    log_snr = 2 * (low + (high - low) * position / position[-1])
    return evaluate(lambda x: schedule.round(schedule.time(x)), log_snr)


@cache
def grids(name: str) -> list[np.ndarray]:
    """Few and many steps: equal in t, to data; unequal in log-SNR, to before data."""
    uniform = [dj.grids.Uniform()(SCHEDULES[name], steps) for steps in (1, 2, 3, 4, 7, _LONGEST)]
    return [*uniform, spaced(name, 6), spaced(name, 20)]


def points(name: str, times: np.ndarray) -> list[tuple[float, float]]:
    """(alpha, sigma) at each time."""
    return list(zip(*evaluate(lambda t: scales(SCHEDULES[name], t), times).tolist(), strict=True))


def first_states(name: str, times: np.ndarray, images: int = 4) -> np.ndarray:
    """States at times[0], [images, 1, 1, 2], of the Gaussian and of the point mass."""
    ((alpha, sigma),) = points(name, times[:1])
    x0, eps = np.random.default_rng(0).normal(size=(2, images, 1, 1, 2))
    return alpha * (_DATA.mean + np.asarray(_DATA.std) * x0) + sigma * eps


def step_keys(i: int, images: int) -> jax.Array:
    """Keys of step i, [images]."""
    return jax.random.split(jax.random.key(i), images)


@cache
def noises(images: int = 4) -> np.ndarray:
    """The noise that a sampler generates from `step_keys` at each step, [step, images, 1, 1, 2]."""
    draw = jax.jit(lambda i: standard_normal(step_keys(i, images), (1, 1, 2)))
    return np.asarray([draw(i) for i in range(_LONGEST)], np.float64)


@cache
def _step(name: str):
    schedule = SCHEDULES[name]

    def denoise(x_t, t):
        return _DATA.denoised(x_t, schedule.alpha(t), schedule.sigma(t))

    def step(sampler, i, x_t, t, s, memory):
        return sampler.step(step_keys(i, len(x_t)), denoise, schedule, x_t, t, s, memory)

    return quick_jit(step)


def run(sampler: Sampler, name: str, times: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The result of `sampler`, its numbers traced, from x at times[0] on the Gaussian and the point mass."""
    x = jnp.asarray(x, jnp.float32)
    memory = sampler.init(x)
    for i, (t, s) in enumerate(pairwise(np.float32(times))):
        x, memory = _step(name)(sampler, i, x, t, s, memory)
    return np.asarray(x, np.float64)


def measured_order(sampler: Sampler, name: str, steps: int = 20) -> float:
    """log2 of the ratio of errors on Gaussian data when the steps are halved."""
    errors = []
    for times in (spaced(name, steps), spaced(name, 2 * steps)):
        x, (first, *_, last) = first_states(name, times), points(name, times)
        exact = GAUSSIAN.flow(x[..., 0], first, last)
        errors.append(np.sqrt(np.mean((run(sampler, name, times, x)[..., 0] - exact) ** 2)))
    assert errors[1] < 0.1
    return np.log2(errors[0] / errors[1])


def half_log_snr(point: tuple[float, float]) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(point[0]) - np.log(point[1]))


def denoised(x_t, point: tuple[float, float]) -> np.ndarray:
    """x0 of the Gaussian and of the point mass, which lie along the last axis."""
    (alpha, sigma), mean, spread = point, np.asarray(_DATA.mean), np.asarray(_DATA.std) ** 2
    return mean + alpha * spread / (alpha**2 * spread + sigma**2) * (x_t - alpha * mean)


def variance(at_t: tuple[float, float], at_s: tuple[float, float], eta: float) -> float:
    """Variance of the noise of d(x/sigma) = -eta x/sigma d(lambda) + ... + sqrt(2 eta) dW, times sigma_s^2."""
    h = half_log_snr(at_s) - half_log_snr(at_t)
    if not np.isfinite(h):
        return at_s[1] ** 2 * (eta > 0)  # nothing of the earlier noise is left
    return at_s[1] ** 2 * quad(lambda age: 2 * eta * np.exp(-2 * eta * age), 0, h)[0]


def exact_step(at_t, at_s, eta: float = 0.0) -> tuple[float, float, float]:
    """(keep, gain, spread) of the step that keeps the marginals: sigma_s^2 = keep^2 sigma_t^2 + spread^2."""
    spread2 = variance(at_t, at_s, eta)
    keep = np.sqrt(max(at_s[1] ** 2 - spread2, 0.0)) / at_t[1]
    return keep, at_s[0] - at_t[0] * keep, np.sqrt(spread2)


def average(places: list[float], values: list[np.ndarray], start: float, stop: float, rate: float):
    """Mean over [start, stop] of the polynomial through (places, values), with density e^(rate place)."""
    h = stop - start
    nodes = (np.asarray(places) - start) / h
    inverse = np.linalg.inv(np.vander(nodes, increasing=True))
    moments = [quad(lambda u, n=n: u**n * np.exp(rate * h * u), 0, 1)[0] for n in range(len(places))]
    return np.tensordot(np.asarray(moments) / moments[0] @ inverse, np.asarray(values), 1)
