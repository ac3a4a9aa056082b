"""Checks of schedules, predictions, the forward process and grids beside closed forms in float64."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles.chain import posterior_variance, step_variance
from diffusion_jax.process import forward, predictions, schedules
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Discrete, Schedule
from diffusion_jax.sampling import grids
from diffusion_jax.verify.marched import scales
from diffusion_jax.verify.report import Row

_SMALL = 2e-6  # relative: a few roundings of float32


def check_schedule(schedule: Schedule, where: str) -> list[Row]:
    """Everything that a schedule promises, for the user's own as well."""
    rows = [*_ends(schedule, where), *_log_snr(schedule, where), *_two_times(schedule, where)]
    if isinstance(schedule, Discrete):
        rows += _table(schedule, where)
    return rows


def _ends(schedule: Schedule, where: str) -> Iterator[Row]:
    (alpha, no_alpha), (no_sigma, sigma) = scales(schedule, np.array([0.0, 1.0]))
    yield Row("t = 0 is data: alpha = 1, sigma = 0", where, max(abs(alpha - 1), no_sigma), 0.0)
    yield Row("t = 1 is noise: alpha/sigma", where, no_alpha / sigma, 0.2)


def _log_snr(schedule: Schedule, where: str) -> Iterator[Row]:
    t = np.linspace(0, 1, 1001)[1:] if schedule.steps is None else np.arange(1, schedule.steps + 1)
    t = t if schedule.steps is None else t / schedule.steps
    log_snr = np.asarray(schedule.log_snr(t), np.float64)
    yield Row("log-SNR falls strictly", where, float(np.max(np.diff(log_snr))), -1e-9)
    alpha, sigma = scales(schedule, t)
    inside = alpha > 0
    error = np.abs(log_snr - 2 * np.log(np.where(inside, alpha, 1) / sigma))[inside].max()
    yield Row("log_snr = 2 log(alpha/sigma)", where, error, 2e-4)
    again, finite = schedule.scales(log_snr), np.isfinite(log_snr)
    error = max(np.abs(np.asarray(a) - b)[finite].max() for a, b in zip(again, (alpha, sigma), strict=True))
    yield Row("scales(log_snr(t)) = alpha, sigma", where, error / sigma.max(), 1e-4)
    back = np.asarray(schedule.time(log_snr), np.float64)
    yield Row("time(log_snr(t)) = t", where, np.abs(back - t).max(), 1e-4)
    wide = np.linspace(-20, 20, 81)
    found = np.stack([np.asarray(x, np.float64) for x in schedule.scales(wide)])
    exact = -np.logaddexp(0, wide) / 2 if _preserves_variance(schedule) else None  # log sigma
    off = 0.0 if exact is None else np.abs(np.log(found[1]) - exact).max()
    worst = off if np.isfinite(found).all() else np.nan
    yield Row("alpha, sigma at log-SNR -20 .. 20", where, worst, 1e-5)


def _preserves_variance(schedule: Schedule) -> bool:
    alpha, sigma = scales(schedule, np.array([0.2, 0.5, 0.8]))
    return bool(np.allclose(alpha**2 + sigma**2, 1, atol=1e-5))


def _table(schedule: Discrete, where: str) -> Iterator[Row]:
    """alpha and sigma at k/T, k = 0 .. T, beside the product of the betas in float64."""
    alpha, sigma = scales(schedule, np.arange(schedule.steps + 1) / schedule.steps)
    with np.errstate(divide="ignore"):
        log_abar = np.concatenate([[0], np.cumsum(np.log1p(-schedule.betas()))])
    exact = np.exp(log_abar / 2), np.sqrt(-np.expm1(log_abar))
    for name, found, right in zip(("alpha", "sigma"), (alpha, sigma), exact, strict=True):
        error = np.abs(found - right) / np.maximum(right, 1e-30)
        error = np.where(right < 1e-7, np.abs(found - right), error)
        yield Row(f"{name}(k/T) is the product of the betas", where, error.max(), 2e-5)
    between = (np.arange(schedule.steps) + 0.5) / schedule.steps
    up = np.asarray(schedule.round(between), np.float64) * schedule.steps
    error = np.abs(up - np.arange(1, schedule.steps + 1)).max()
    yield Row("a network sees k/T, k = 1 .. T, only", where, error, 1e-3)


def _two_times(schedule: Schedule, where: str) -> Iterator[Row]:
    """q(x_s | x_t, x0) and q(x_t | x_s) beside products of Gaussians, at strides from 1/T to all of it."""
    t, s = np.array([1.0, 0.9, 0.7, 0.5, 0.31, 0.2]), np.array([0.0, 0.1, 0.5, 0.49, 0.3, 0.01])
    x_t, x0 = jnp.float32(0.7), jnp.float32(-0.3)
    error = []
    for at in zip(t, s, strict=True):
        (alpha_t, alpha_s), (sigma_t, sigma_s) = scales(schedule, np.array(at))
        points = (alpha_t, sigma_t), (alpha_s, sigma_s)
        mean, variance = forward.posterior(schedule, x_t, x0, *at)
        _, step = forward.transition(schedule, x_t, *at)
        kept = posterior_variance(*points)
        a = np.sqrt(max(sigma_s**2 - kept, 0)) / sigma_t
        exact = np.array([a * x_t + (alpha_s - a * alpha_t) * x0, kept, step_variance(*points)])
        found = np.array([mean, variance, step], np.float64)
        error.append(np.abs(found - exact) / np.maximum(np.abs(exact), sigma_t**2 * 1e-2))
    yield Row("posterior and transition for any s < t", where, np.max(error), 5e-3)


def check_prediction(prediction: Prediction, name: str) -> Iterator[Row]:
    """target and denoised are inverse, and x_t stays whole, on every kind of schedule."""
    x0, eps = (jax.random.normal(jax.random.key(i), (41, 8)) for i in (0, 1))
    for kind in (schedules.Cosine(), schedules.RectifiedFlow(), schedules.Karras()):
        alpha, sigma = (x[:, None] for x in kind.scales(np.linspace(-10, 10, 41)))
        x_t = alpha * x0 + sigma * eps
        found = prediction.denoised(prediction.target(x0, eps, alpha, sigma), x_t, alpha, sigma)
        scale = jnp.maximum(alpha / sigma, sigma / alpha)  # what float32 can hold of the smaller part
        error = max(float(jnp.abs(a / scale).max()) for a in (found.x0 - x0, found.eps - eps))
        case = f"{name}, {type(kind).__name__}"
        yield Row("a perfect output gives back x0 and eps", case, error, 1e-5)
        whole = jnp.abs(alpha * found.x0 + sigma * found.eps - x_t) / jnp.abs(x_t).max(axis=1, keepdims=True)
        yield Row("alpha x0 + sigma eps = x_t", case, float(whole.max()), 1e-5)


def check_refusals() -> Iterator[Row]:
    """What cannot work is refused: eps where the terminal SNR is zero, a linear schedule of too few steps."""
    zero = schedules.ZeroTerminalSNR(schedules.LinearBeta())
    refused = [
        ("eps with zero terminal SNR", lambda: predictions.Eps().check(zero)),
        ("LinearBeta of 20 steps", lambda: schedules.LinearBeta(steps=20)),
        ("1001 of 1000 steps", lambda: grids.Uniform()(schedules.Cosine(), 1001)),
        ("no steps", lambda: grids.Uniform()(schedules.Cosine(), 0)),
    ]
    for case, attempt in refused:
        yield Row("what cannot work is refused", case, float(not _raises(attempt)), 0.0)
    ends = [float(schedules.LinearBeta(steps=steps).log_snr(1.0)) for steps in (50, 100, 1000)]
    case = "50, 100 and 1000 steps"
    yield Row("LinearBeta ends alike for every T, in log-SNR", case, max(ends) - min(ends), 3.0)


def _raises(attempt) -> bool:
    try:
        attempt()
    except ValueError:
        return True
    return False


def check_grid(grid: grids.Grid, schedule: Schedule, where: str) -> Iterator[Row]:
    """Every number of steps gives so many strictly decreasing times of the table, from 1 to 0."""
    most = schedule.steps or 50
    counts = sorted({s for s in (*range(1, 21), 50, 99, 250, 999, most) if s <= most})
    wrong = 0
    for steps in counts:
        times = grid(schedule, steps)
        k = times * (schedule.steps or 0)
        sound = (
            times.shape == (steps + 1,)
            and (np.diff(times) < 0).all()
            and times[-1] == 0
            and (times[0] == 1 or (isinstance(grid, grids.Leading) and times[0] <= 1))
            and np.abs(k - np.round(k)).max() < 1e-6
        )
        wrong += not sound
    yield Row("S steps, from 1 to 0, on the table", f"{type(grid).__name__}, {where}", wrong, 0.0)


def check_learned_variance() -> Iterator[Row]:
    """The range is interpolated in logs, from the posterior's variance to the forward step's."""
    for where, schedule in (("cosine", schedules.Cosine()), ("rectified", schedules.RectifiedFlow())):
        for t, s in ((0.9, 0.85), (0.5, 0.3), (0.2, 0.19)):
            (alpha_t, alpha_s), (sigma_t, sigma_s) = scales(schedule, np.array([t, s]))
            points = (alpha_t, sigma_t), (alpha_s, sigma_s)
            low, high = posterior_variance(*points), step_variance(*points)
            fraction = np.array([0.0, 0.25, 0.5, 1.0])
            exact = low ** (1 - fraction) * high**fraction
            found = forward.learned_variance(schedule, jnp.asarray(fraction, jnp.float32), t, s)
            error = np.abs(np.asarray(found, np.float64) / exact - 1).max()
            yield Row("learned range of variance, in logs", f"{where}, {t} to {s}", error, 2e-3)
