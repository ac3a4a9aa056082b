"""Checks of schedules, predictions and grids against closed forms in float64."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles import posterior_variance, scales, step_variance
from diffusion_jax.process import forward, predictions, schedules
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Discrete, Schedule
from diffusion_jax.sampling import grids
from diffusion_jax.verify.compilation import quick_jit
from diffusion_jax.verify.report import Row


def check_schedule(schedule: Schedule, where: str) -> list[Row]:
    """Everything that a schedule promises; also for a user's own schedule."""
    rows = [*_check_ends_of_time(schedule, where), *_check_log_snr(schedule, where), *_check_two_times(schedule, where)]
    if isinstance(schedule, Discrete):
        rows += _check_table_of_betas(schedule, where)
    return rows


def _check_ends_of_time(schedule: Schedule, where: str) -> Iterator[Row]:
    (alpha_0, alpha_1), (sigma_0, sigma_1) = scales(schedule, np.array([0.0, 1.0]))
    yield Row("alpha(0) = 1 and sigma(0) = 0", where, max(abs(alpha_0 - 1), sigma_0), 0.0)
    yield Row("alpha(1)/sigma(1) is small", where, alpha_1 / sigma_1, 0.2)


def _check_log_snr(schedule: Schedule, where: str) -> Iterator[Row]:
    steps = schedule.steps or 1000
    t = np.arange(1, steps + 1) / steps
    log_snr = np.asarray(schedule.log_snr(t), np.float64)
    yield Row("log_snr decreases strictly", where, float(np.max(np.diff(log_snr))), -1e-9)
    alpha, sigma = scales(schedule, t)
    inside = alpha > 0
    error = np.abs(log_snr - 2 * np.log(np.where(inside, alpha, 1) / sigma))[inside].max()
    yield Row("log_snr = 2 log(alpha/sigma)", where, error, 2e-4)
    again, finite = schedule.scales(log_snr), np.isfinite(log_snr)
    error = max(np.abs(np.asarray(a) - b)[finite].max() for a, b in zip(again, (alpha, sigma), strict=True))
    yield Row("scales(log_snr(t)) = alpha, sigma", where, error / sigma.max(), 1e-4)
    error = np.abs(np.asarray(schedule.time(log_snr), np.float64) - t).max()
    yield Row("time(log_snr(t)) = t", where, error, 1e-4)
    yield Row("scales at log-SNR -20 to 20", where, _error_of_scales(schedule), 1e-5)


def _error_of_scales(schedule: Schedule) -> float:
    """Error of log sigma where it is known, of variance preserving schedules; NaN if a scale is not finite."""
    log_snr = np.linspace(-20, 20, 81)
    found = np.stack([np.asarray(x, np.float64) for x in schedule.scales(log_snr)])
    if not np.isfinite(found).all():
        return np.nan
    alpha, sigma = scales(schedule, np.array([0.2, 0.5, 0.8]))
    if not np.allclose(alpha**2 + sigma**2, 1, atol=1e-5):
        return 0.0
    return float(np.abs(np.log(found[1]) + np.logaddexp(0, log_snr) / 2).max())


def _check_table_of_betas(schedule: Discrete, where: str) -> Iterator[Row]:
    """alpha and sigma at k/T, k = 0 to T, against the product of the betas in float64."""
    found = scales(schedule, np.arange(schedule.steps + 1) / schedule.steps)
    with np.errstate(divide="ignore"):
        log_abar = np.concatenate([[0], np.cumsum(np.log1p(-schedule.betas()))])
    exact = np.exp(log_abar / 2), np.sqrt(-np.expm1(log_abar))
    for name, x, right in zip(("alpha", "sigma"), found, exact, strict=True):
        difference = np.abs(x - right)
        error = np.where(right < 1e-7, difference, difference / np.maximum(right, 1e-30))
        yield Row(f"{name}(k/T) is the product of the betas", where, error.max(), 2e-5)
    between = (np.arange(schedule.steps) + 0.5) / schedule.steps
    k = np.asarray(schedule.round(between), np.float64) * schedule.steps
    yield Row("round gives k/T, k = 1 to T", where, np.abs(k - np.arange(1, schedule.steps + 1)).max(), 1e-3)


def _check_two_times(schedule: Schedule, where: str) -> Iterator[Row]:
    """q(x_s | x_t, x0) and q(x_t | x_s) against products of Gaussians, for strides from 1/T to the whole range."""
    t, s = np.array([1.0, 0.9, 0.7, 0.5, 0.31, 0.2]), np.array([0.0, 0.1, 0.5, 0.49, 0.3, 0.01])
    x_t, x0 = jnp.full(len(t), 0.7), jnp.full(len(t), -0.3)
    mean, variance = forward.posterior(schedule, x_t, x0, t, s)
    found = np.array([mean, variance, forward.transition(schedule, x_t, t, s)[1]], np.float64)
    at_t, at_s = scales(schedule, t), scales(schedule, s)
    for i in range(len(t)):
        kept, step = (
            f((at_t[0][i], at_t[1][i]), (at_s[0][i], at_s[1][i])) for f in (posterior_variance, step_variance)
        )
        a = np.sqrt(max(at_s[1][i] ** 2 - kept, 0)) / at_t[1][i]
        exact = np.array([a * 0.7 - (at_s[0][i] - a * at_t[0][i]) * 0.3, kept, step])
        error = np.abs(found[:, i] - exact) / np.maximum(np.abs(exact), at_t[1][i] ** 2 * 1e-2)
        yield Row("posterior and transition for any s < t", f"{where}, {t[i]} to {s[i]}", np.max(error), 5e-3)


def check_prediction(prediction: Prediction, name: str) -> Iterator[Row]:
    """`target` and `denoised` are inverse, and alpha x0 + sigma eps = x_t, on every kind of schedule."""
    x0, eps = (jax.random.normal(jax.random.key(i), (41, 8)) for i in (0, 1))

    @quick_jit
    def restore(alpha: jax.Array, sigma: jax.Array):
        x_t = alpha * x0 + sigma * eps
        return x_t, prediction.denoised(prediction.target(x0, eps, alpha, sigma), x_t, alpha, sigma)

    for kind in (schedules.Cosine(), schedules.RectifiedFlow(), schedules.Karras()):
        alpha, sigma = (np.asarray(x)[:, None] for x in kind.scales(np.linspace(-10, 10, 41)))
        x_t, found = jax.tree.map(np.asarray, restore(alpha, sigma))
        precision = np.maximum(alpha / sigma, sigma / alpha)  # of the smaller part in float32
        error = max(np.abs(a / precision).max() for a in (found.x0 - x0, found.eps - eps))
        case = f"{name}, {type(kind).__name__}"
        yield Row("denoised inverts target", case, float(error), 1e-5)
        relative = np.abs(alpha * found.x0 + sigma * found.eps - x_t) / np.abs(x_t).max(axis=1, keepdims=True)
        yield Row("alpha x0 + sigma eps = x_t", case, float(relative.max()), 1e-5)


def check_refusals() -> Iterator[Row]:
    """Settings that cannot work are refused."""
    zero = schedules.ZeroTerminalSNR(schedules.LinearBeta())
    attempts: dict[str, Callable[[], object]] = {
        "eps with zero terminal SNR": lambda: predictions.Eps().check(zero),
        "LinearBeta of 20 steps": lambda: schedules.LinearBeta(steps=20),
        "1001 of 1000 steps": lambda: grids.Uniform()(schedules.Cosine(), 1001),
        "no steps": lambda: grids.Uniform()(schedules.Cosine(), 0),
    }
    for case, attempt in attempts.items():
        yield Row("invalid settings are refused", case, float(not _is_refused(attempt)), 0.0)
    ends = [float(schedules.LinearBeta(steps=steps).log_snr(1.0)) for steps in (50, 100, 1000)]
    yield Row("LinearBeta: range of log_snr(1) over T", "50, 100 and 1000 steps", max(ends) - min(ends), 3.0)


def _is_refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except ValueError:
        return True
    return False


def check_grid(grid: grids.Grid, schedule: Schedule, where: str) -> Row:
    """S steps are S + 1 strictly decreasing times of the table, from 1 (Leading: from below) to 0, for every S."""
    most = schedule.steps or 50
    counts = sorted({s for s in (*range(1, 21), 50, 99, 250, 999, most) if s <= most})
    wrong = sum(not _are_times(grid(schedule, steps), grid, schedule, steps) for steps in counts)
    return Row("S steps: S + 1 times of the table, from 1 to 0", f"{type(grid).__name__}, {where}", wrong, 0.0)


def _are_times(times: np.ndarray, grid: grids.Grid, schedule: Schedule, steps: int) -> bool:
    k = times * (schedule.steps or 0)
    return bool(
        times.shape == (steps + 1,)
        and (np.diff(times) < 0).all()
        and times[-1] == 0
        and (times[0] == 1 or (isinstance(grid, grids.Leading) and times[0] <= 1))
        and np.abs(k - np.round(k)).max() < 1e-6
    )


def check_learned_variance() -> Iterator[Row]:
    """The learned variance interpolates in log space, from the posterior's variance to the forward step's."""
    fraction = np.array([0.0, 0.25, 0.5, 1.0])
    for where, schedule in (("cosine", schedules.Cosine()), ("rectified", schedules.RectifiedFlow())):
        learned = quick_jit(
            lambda t, s, schedule=schedule: forward.learned_variance(schedule, jnp.asarray(fraction), t, s)
        )
        for t, s in ((0.9, 0.85), (0.5, 0.3), (0.2, 0.19)):
            (alpha_t, alpha_s), (sigma_t, sigma_s) = scales(schedule, np.array([t, s]))
            low, high = (f((alpha_t, sigma_t), (alpha_s, sigma_s)) for f in (posterior_variance, step_variance))
            exact = low ** (1 - fraction) * high**fraction
            error = np.abs(np.asarray(learned(t, s), np.float64) / exact - 1).max()
            yield Row("learned variance interpolates in log space", f"{where}, {t} to {s}", error, 2e-3)
