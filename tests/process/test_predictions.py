"""Predictions: the ways there and back, gains by differentiation, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PREDICTIONS, SCHEDULES, ZERO_TERMINAL, predictions_for

from diffusion_jax.process.predictions import X0, Eps, Preconditioned, V, Velocity
from diffusion_jax.process.schedules import Betas, Cosine, RectifiedFlow

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
        found = prediction.denoised(output, x_t, alpha, sigma)
        assert np.isfinite(found.x0).all(), kind
        assert np.isfinite(found.eps).all(), kind
        size = np.abs(alpha * found.x0) + np.abs(sigma * found.eps) + np.abs(x_t)
        np.testing.assert_array_less(np.abs(alpha * found.x0 + sigma * found.eps - x_t), 1e-6 * size)


@every_prediction
@pytest.mark.parametrize("name", ["cosine", "rectified", "karras"])
def test_x0_gain_is_the_derivative_of_x0_by_the_output(name, prediction):
    """A function of the log-SNR alone, whichever family alpha and sigma come from."""
    log_snr = jnp.linspace(-20.0, 20.0, 41)

    def x0(output, alpha, sigma):
        return prediction.denoised(output, jnp.float32(0.3), alpha, sigma).x0

    slope = jax.vmap(jax.grad(x0), (None, 0, 0))(jnp.float32(0.7), *SCHEDULES[name].scales(log_snr))
    np.testing.assert_allclose(prediction.x0_gain(log_snr), np.abs(slope), rtol=3e-5)


@every_prediction
def test_x0_gain_is_finite_where_the_snr_is_zero_or_infinite(prediction):
    gain = prediction.x0_gain(jnp.array([-jnp.inf, jnp.inf]))
    assert np.isfinite(gain).all()
    assert (np.asarray(gain) >= 0).all()


def test_preconditioning_gives_network_input_and_target_unit_variance():
    """For images of standard deviation sigma_data, at every noise level (EDM, App. B.6)."""
    prediction = Preconditioned(0.5)
    x0, eps = 0.5 * _normal(4, (1, 256, 256, 1)), _normal(5, (1, 256, 256, 1))
    for name in ("cosine", "rectified", "karras"):
        alpha, sigma = _scales(name, (0.0001, 0.3, 0.6, 1.0))
        seen = prediction.network_input(alpha * x0 + sigma * eps, alpha, sigma)
        wanted = prediction.target(x0, eps, alpha, sigma)
        np.testing.assert_allclose(np.std(seen, axis=(1, 2, 3)), 1.0, rtol=0.02)
        np.testing.assert_allclose(np.std(wanted, axis=(1, 2, 3)), 1.0, rtol=0.02)


def test_preconditioned_is_edms_table_1_with_alpha_1():
    """D = c_skip x + c_out F, the four factors of Karras et al. 2022 in float64."""
    prediction, sd = Preconditioned(0.5), 0.5
    schedule = SCHEDULES["karras"]
    for t in (0.01, 0.3, 0.7, 1.0):
        sigma = float(schedule.sigma(t))
        c_skip, c_out = sd**2 / (sigma**2 + sd**2), sigma * sd / np.hypot(sigma, sd)
        c_in, c_noise = 1 / np.hypot(sigma, sd), np.log(sigma) / 4
        x, output, scale = 1.7, -0.6, (jnp.float32(1.0), jnp.float32(sigma))
        np.testing.assert_allclose(prediction.denoised(output, x, *scale).x0, c_skip * x + c_out * output, rtol=2e-6)
        np.testing.assert_allclose(prediction.network_input(x, *scale), c_in * x, rtol=1e-6)
        np.testing.assert_allclose(prediction.network_time(schedule, jnp.float32(t)), c_noise, rtol=1e-5)


def test_preconditioning_depends_on_the_ratio_of_signal_and_noise_alone():
    """On x/alpha every schedule is EDM's: the same network serves them all."""
    prediction, alpha, sigma = Preconditioned(0.5), jnp.float32(0.3), jnp.float32(0.9)
    x_t, output = _normal(6), _normal(7)
    here = prediction.denoised(output, x_t, alpha, sigma)
    edm = prediction.denoised(output, x_t / alpha, jnp.float32(1.0), sigma / alpha)
    np.testing.assert_allclose(here.x0, edm.x0, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(here.eps, edm.eps, rtol=1e-5, atol=1e-6)


def test_velocity_is_the_time_derivative_of_a_rectified_flow():
    flow = RectifiedFlow()
    x0, eps = jnp.float32(0.3), jnp.float32(-1.2)
    path, slope = jax.jvp(lambda t: flow.alpha(t) * x0 + flow.sigma(t) * eps, (0.4,), (1.0,))
    target = Velocity().target(x0, eps, flow.alpha(0.4), flow.sigma(0.4))
    np.testing.assert_allclose(target, slope, rtol=1e-6)
    found = Velocity().denoised(slope, path, flow.alpha(0.4), flow.sigma(0.4))
    np.testing.assert_allclose((found.x0, found.eps), (x0, eps), rtol=1e-5)


def test_v_is_the_derivative_of_x_t_by_the_angle():
    """alpha = cos, sigma = sin of the angle on a variance preserving schedule."""
    x0, eps, angle = 0.3, -1.2, 0.7
    slope = jax.grad(lambda a: jnp.cos(a) * x0 + jnp.sin(a) * eps)(angle)
    np.testing.assert_allclose(V().target(x0, eps, np.cos(angle), np.sin(angle)), slope, rtol=1e-6)


@pytest.mark.parametrize("name", [*ZERO_TERMINAL, "curve_to_the_end", "last_beta_1"])
def test_eps_is_refused_where_the_terminal_snr_is_zero(name):
    extra = {"curve_to_the_end": Cosine(max_beta=1.0), "last_beta_1": Betas((0.1, 1.0))}
    schedule = (SCHEDULES | extra)[name]
    with pytest.raises(ValueError, match=rf"Eps .*{type(schedule).__name__}.*use V, X0 or Velocity"):
        Eps().check(schedule)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in ZERO_TERMINAL])
def test_eps_is_accepted_on_every_other_schedule(name):
    Eps().check(SCHEDULES[name])


@pytest.mark.parametrize("gain", [0.5e6, 2e6])
def test_eps_is_refused_where_x0_is_lost_in_float32(gain):
    """A network's error counts sigma/alpha times in x0: up to a million, x0 keeps a digit or so."""
    schedule = Betas((1 - 1 / (1 + gain**2),))
    np.testing.assert_allclose(schedule.sigma(1.0) / schedule.alpha(1.0), gain, rtol=1e-3)
    if gain < 1e6:
        Eps().check(schedule)
    else:
        with pytest.raises(ValueError, match="Eps cannot be used with Betas: alpha"):
            Eps().check(schedule)


def test_eps_is_refused_under_jit_too():
    def build(x):
        Eps().check(RectifiedFlow())
        return x

    with pytest.raises(ValueError, match="RectifiedFlow"):
        jax.jit(build)(1.0)


@every_prediction
@every_schedule
def test_everything_else_is_accepted_and_finite_at_the_terminal_time(name, prediction):
    if isinstance(prediction, Eps):
        pytest.skip("refused or accepted in the tests above")
    schedule = SCHEDULES[name]
    prediction.check(schedule)
    alpha, sigma = schedule.alpha(1.0), schedule.sigma(1.0)
    x_t = sigma * _normal(8)
    seen = prediction.network_input(x_t, alpha, sigma)
    time = prediction.network_time(schedule, jnp.ones(6))
    found = prediction.denoised(_normal(9), x_t, alpha, sigma)
    target = prediction.target(_normal(10), _normal(11), alpha, sigma)
    for part in (seen, time, target, found.x0, found.eps):
        assert np.isfinite(part).all()


@pytest.mark.parametrize("sigma_data", [0.0, -0.5])
def test_sigma_data_must_be_positive(sigma_data):
    with pytest.raises(ValueError, match=f"sigma_data = {sigma_data}"):
        Preconditioned(sigma_data)


def test_predictions_are_values():
    assert Preconditioned(0.5) == Preconditioned(0.5) != Preconditioned(0.6)
    assert len({X0(), X0(), V(), Velocity(), Eps()}) == 4
