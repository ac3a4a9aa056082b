"""Independent answers that the tests compare with, and the lists of cases that they walk.

For data x0 ~ N(mean, std^2) everything about diffusion is closed form: the denoiser, the
probability flow and the law of every sampler whose step is linear. All of it is float64 numpy,
but for the networks, which have to run inside the samplers.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise

# Compiling is most of what these tests cost, and little of it is needed at their sizes.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SCHEDULES: dict[str, Schedule] = {
    "linear": dj.schedules.LinearBeta(),
    "cosine": dj.schedules.Cosine(),
    "sigmoid": dj.schedules.Sigmoid(),
    "betas": dj.schedules.Betas(tuple(np.geomspace(1e-4, 0.02, 1000))),
    "zero_terminal": dj.schedules.ZeroTerminalSNR(dj.schedules.LinearBeta()),
    "rectified": dj.schedules.RectifiedFlow(),
    "karras": dj.schedules.Karras(),
    "shifted_cosine": dj.schedules.Shifted(dj.schedules.Cosine(), resolution=128),
    "shifted_rectified": dj.schedules.Shifted(dj.schedules.RectifiedFlow(), resolution=32),
}
DISCRETE = [name for name, schedule in SCHEDULES.items() if schedule.steps is not None]
ZERO_TERMINAL = ["zero_terminal", "rectified", "shifted_rectified"]  # alpha(1) = 0: no eps there

PREDICTIONS: dict[str, Prediction] = {
    "eps": dj.predictions.Eps(),
    "x0": dj.predictions.X0(),
    "v": dj.predictions.V(),
    "velocity": dj.predictions.Velocity(),
    "preconditioned": dj.predictions.Preconditioned(0.5),
}


def predictions_for(schedule: str) -> dict[str, Prediction]:
    """The predictions that work with the schedule of that name."""
    allowed = dict(PREDICTIONS)
    if schedule in ZERO_TERMINAL:
        del allowed["eps"]
    return allowed


def scales(schedule: Schedule, t) -> tuple[np.ndarray, np.ndarray]:
    """(alpha, sigma) at t as float64; `test_schedules.py` is what makes them trustworthy."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return np.asarray(alpha, np.float64), np.asarray(sigma, np.float64)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Data N(mean, std^2), each a number or one for each channel. std = 0 is a point mass."""

    mean: float | tuple[float, ...] = 0.3
    std: float | tuple[float, ...] = 0.5

    def denoised(self, x_t, alpha, sigma) -> dj.Denoised:
        """(E[x0 | x_t], E[eps | x_t]), by the rule for jointly Gaussian variables."""
        mean, variance = jnp.asarray(self.mean), jnp.asarray(self.std) ** 2
        surprise = (x_t - alpha * mean) / (alpha**2 * variance + sigma**2)
        return dj.Denoised(mean + alpha * variance * surprise, sigma * surprise)

    def flow(self, x_t, at_t, at_s) -> np.ndarray:
        """The probability flow's x_s from x_t; `at_t`, `at_s` are (alpha, sigma). float64."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
        mean, variance = np.asarray(self.mean), np.asarray(self.std) ** 2
        gain = np.sqrt((alpha_s**2 * variance + sigma_s**2) / (alpha_t**2 * variance + sigma_t**2))
        return alpha_s * mean + gain * (np.asarray(x_t, np.float64) - alpha_t * mean)

    def denoiser(self, schedule: Schedule, prediction: Prediction) -> Denoise:
        """A network that always outputs the best `prediction`, behind `dj.denoiser`."""

        def apply(params, x, time, labels):
            time = time.reshape(-1, *[1] * (x.ndim - 1))
            if isinstance(prediction, dj.predictions.Preconditioned):
                # It is told -log_snr/8, and shown x_t at unit variance (for the std it assumes).
                alpha, sigma = schedule.scales(-8 * time)
                x = x * jnp.sqrt(sigma**2 + (alpha * prediction.sigma_data) ** 2)
            else:
                alpha, sigma = schedule.alpha(time), schedule.sigma(time)
            return prediction.target(*self.denoised(x, alpha, sigma), alpha, sigma)

        return dj.denoiser(apply, None, schedule, prediction)


def side_by_side(denoisers: list[Denoise], channels: int = 1) -> Denoise:
    """Each denoiser on `channels` channels of its own: many cases for the price of one compile."""

    def denoise(x_t, t):
        parts = jnp.split(x_t, len(denoisers), axis=-1)
        assert parts[0].shape[-1] == channels
        both = [f(x, t) for f, x in zip(denoisers, parts, strict=True)]
        return dj.Denoised(*(jnp.concatenate(part, -1) for part in zip(*both, strict=True)))

    return denoise


def posterior_variance(at_t, at_s) -> float:
    """Variance of q(x_s | x_t, x0): the Gaussians q(x_s | x0) and q(x_t | x_s) multiplied."""
    (alpha_t, _), (alpha_s, sigma_s) = at_t, at_s
    ratio, step = alpha_t / alpha_s, step_variance(at_t, at_s)
    return sigma_s**2 * step / (step + ratio**2 * sigma_s**2)


def step_variance(at_t, at_s) -> float:
    """Variance of q(x_t | x_s): what x_t has beyond x_s scaled by alpha_t/alpha_s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
    return sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2


def ancestral_law(
    data: Gaussian,
    alphas: np.ndarray,
    sigmas: np.ndarray,
    kept: Callable[..., float],
    drawn: Callable[..., float],
) -> tuple[float, float]:
    """Exact mean and standard deviation of samples of `data` with its exact denoiser.

    `alphas` and `sigmas` are those of the times, from noise to data; x starts as N(0, sigmas[0]^2).
    A step is x_s = a x_t + b x0-hat + noise. Its a and b follow from asking that x_s has the
    marginal N(alpha_s x0, sigma_s^2) for the true x0 and noise of variance kept(at_t, at_s); the
    noise drawn has variance drawn(at_t, at_s) (the same but for "large" DDPM).
    """
    mean, variance = 0.0, sigmas[0] ** 2
    for at_t, at_s in pairwise(zip(alphas.tolist(), sigmas.tolist(), strict=True)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
        a = np.sqrt(max(sigma_s**2 - kept(at_t, at_s), 0)) / sigma_t
        b = alpha_s - a * alpha_t
        gain = alpha_t * data.std**2 / (alpha_t**2 * data.std**2 + sigma_t**2)
        mean = (a + b * gain) * mean + b * (1 - gain * alpha_t) * data.mean
        variance = (a + b * gain) ** 2 * variance + drawn(at_t, at_s)
    return mean, np.sqrt(variance)


def assert_moments(x, mean: float, std: float, sigmas: float = 5.0) -> None:
    """Independent draws have this mean and standard deviation, within their sampling error."""
    x = np.asarray(x, np.float64).ravel()
    assert abs(x.mean() - mean) < sigmas * std / np.sqrt(x.size), (x.mean(), mean)
    assert abs(x.std() - std) < sigmas * std / np.sqrt(2 * x.size), (x.std(), std)
