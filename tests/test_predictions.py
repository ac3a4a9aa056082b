"""Predictions: the ways there and back, gains by differentiation, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PREDICTIONS, SCHEDULES, ZERO_TERMINAL, predictions_for

from diffusion_jax.process.predictions import X0, Eps, Preconditioned, V, Velocity
from diffusion_jax.process.schedules import Betas, Cosine, LinearBeta, RectifiedFlow

every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)


def _scales(name: str, t=(0.02, 0.1, 0.5, 0.9, 0.99, 1.0)):
    """(alpha, sigma) [6, 1, 1, 1] at times on the table, the ends among them."""
    schedule = SCHEDULES[name]
    t = np.asarray(schedule.round(np.array(t))).reshape(-1, 1, 1, 1)
    return schedule.alpha(t), schedule.sigma(t)


def _normal(seed: int, shape=(6, 4, 4, 1)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@every_schedule
def test_the_target_leads_back_to_x0_and_eps(name):
    alpha, sigma = _scales(name)
    x0, eps = _normal(0), _normal(1)
    x_t = alpha * x0 + sigma * eps
    for kind, prediction in predictions_for(name).items():
        found = prediction.denoised(prediction.target(x0, eps, alpha, sigma), x_t, alpha, sigma)
        # Rounding of x_t counts 1/alpha in x0 where eps is given and 1/sigma in eps otherwise.
        size = np.abs(x_t) + 1
        lost0 = size / alpha if kind == "eps" else size * np.ones_like(alpha)
        np.testing.assert_array_less(np.abs(found.x0 - x0), 1e-6 * lost0 * np.maximum(sigma, 1))
        np.testing.assert_array_less(np.abs(found.eps - eps), 1e-6 * size / np.minimum(sigma, 1))


@every_schedule
def test_both_parts_add_up_to_x_t_whatever_the_network_says(name):
    alpha, sigma = _scales(name)
    x_t, output = np.float32(3.0) * _normal(2), _normal(3)
    for kind, prediction in predictions_for(name).items():
        x0, eps = prediction.denoised(output, x_t, alpha, sigma)
        assert np.isfinite(x0).all(), kind
        assert np.isfinite(eps).all(), kind
        size = np.abs(alpha * x0) + np.abs(sigma * eps) + np.abs(x_t)
        np.testing.assert_array_less(np.abs(alpha * x0 + sigma * eps - x_t), 1e-6 * size)


@every_prediction
def test_x0_gain_is_the_derivative_of_x0_by_the_output(prediction):
    log_snr = jnp.linspace(-20.0, 20.0, 41)
    for schedule in (Cosine(), RectifiedFlow(), SCHEDULES["karras"]):
        if not isinstance(prediction, Preconditioned | X0 | Eps) and schedule is SCHEDULES["karras"]:
            continue  # the gain of V and Velocity is the ratio's alone, see the next test
        alpha, sigma = schedule.scales(log_snr)
        slope = jax.vmap(
            lambda a, s: jax.grad(lambda out: prediction.denoised(out, jnp.float32(0.3), a, s).x0)(0.7)
        )(alpha, sigma)
        gain = prediction.x0_gain(log_snr)
        if isinstance(prediction, V) and isinstance(schedule, RectifiedFlow):
            continue
        np.testing.assert_allclose(gain, np.abs(slope), rtol=3e-5)
