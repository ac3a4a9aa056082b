"""The forward process: marginals, transitions and Bayes' rule, against float64."""

import jax
import numpy as np
import pytest
from oracles import SCHEDULES, assert_moments, scales

import diffusion_jax as dj
from diffusion_jax.process import forward

every_schedule = pytest.mark.parametrize("name", SCHEDULES)

# (t, s) in steps of a thousand: neighbours, strides, both ends.
PAIRS = np.array([(1000, 0), (1000, 20), (1000, 980), (980, 500), (500, 480), (60, 40), (40, 20), (20, 0)])


def _pairs(name: str) -> np.ndarray:
    """PAIRS as times of the schedule's table, [8, 2]."""
    steps = SCHEDULES[name].steps or 1000
    return np.round(PAIRS * (steps / 1000)) / steps


def _at(name: str, times: np.ndarray):
    """float64 (alpha, sigma) at each row of times, from the log-SNR where that is finite."""
    return scales(SCHEDULES[name], times.astype(np.float32))


def _bayes(x_t, x0, at_t, at_s):
    """Mean and variance of x_s from the joint covariance of (x_s, x_t) given x0.

    x_s = alpha_s x0 + sigma_s e and x_t = (alpha_t/alpha_s) x_s + independent noise, so that
    cov(x_s, x_t) = (alpha_t/alpha_s) sigma_s^2; the rest is conditioning of a Gaussian pair.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
    covariance = alpha_t / alpha_s * sigma_s**2
    mean = alpha_s * x0 + covariance / sigma_t**2 * (x_t - alpha_t * x0)
    return mean, sigma_s**2 - covariance**2 / sigma_t**2


@every_schedule
def test_diffuse_is_the_marginal_one_time_for_each_image(name):
    schedule, t = SCHEDULES[name], _pairs(name)[:, 0]
    x0, eps = np.random.default_rng(0).normal(size=(2, 8, 3, 2, 1)).astype(np.float32)
    x_t = forward.diffuse(schedule, x0, t, eps)
    alpha, sigma = _at(name, t)
    for i in range(8):
        np.testing.assert_allclose(x_t[i], alpha[i] * x0[i] + sigma[i] * eps[i], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(forward.diffuse(schedule, x0, 0.0, eps), x0)


def test_diffuse_with_one_time_for_all_is_the_same_as_with_one_for_each():
    x0, eps = np.random.default_rng(1).normal(size=(2, 5, 2, 2, 3)).astype(np.float32)
    schedule = SCHEDULES["cosine"]
    together = forward.diffuse(schedule, x0, 0.3, eps)
    np.testing.assert_array_equal(together, forward.diffuse(schedule, x0, np.full(5, 0.3), eps))


@every_schedule
def test_two_steps_of_noising_have_the_marginal_of_one(name):
    """x_t by way of x_s: means multiply to alpha_t, variances add up to sigma_t^2."""
    schedule, (t, s) = SCHEDULES[name], _pairs(name).T
    ones = np.ones((8, 1, 1, 1), np.float32)
    gain, variance = forward.transition(schedule, ones, t, s)
    gain, variance = np.asarray(gain, np.float64).ravel(), np.asarray(variance, np.float64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = _at(name, t), _at(name, s)
    np.testing.assert_allclose(gain * alpha_s, alpha_t, rtol=1e-6)
    np.testing.assert_allclose(gain**2 * sigma_s**2 + variance, sigma_t**2, rtol=3e-6)
    assert (variance > 0).all()


@every_schedule
def test_the_posterior_is_bayes_rule_for_any_two_times(name):
    schedule, (t, s) = SCHEDULES[name], _pairs(name).T
    x0, x_t = np.random.default_rng(2).normal(size=(2, 8, 2, 2, 1)).astype(np.float32)
    mean, variance = forward.posterior(schedule, x_t, x0, t, s)
    at_t, at_s = _at(name, t), _at(name, s)
    for i in range(8):
        exact = _bayes(x_t[i], x0[i], *((alpha[i], sigma[i]) for alpha, sigma in (at_t, at_s)))
        np.testing.assert_allclose(mean[i], exact[0], rtol=1e-4, atol=2e-5)
        # float64 algebra, but on alphas and sigmas of float32, whose difference this is
        np.testing.assert_allclose(variance[i], exact[1], rtol=1e-4, atol=3e-7 * at_s[1][i] ** 2)


@every_schedule
@pytest.mark.parametrize("t", [1.0, 0.5])
def test_the_posterior_at_time_zero_is_x0_itself_without_variance(name, t):
    x0, x_t = np.random.default_rng(3).normal(size=(2, 4, 1, 1, 1)).astype(np.float32)
    mean, variance = forward.posterior(SCHEDULES[name], x_t, x0, t, 0.0)
    np.testing.assert_array_equal(mean, x0)
    assert variance == 0.0


def test_a_stride_is_the_one_step_posteriors_in_a_row():
    """q(x_s | x_t, x0) over 3 steps, by composing 3 one-step posteriors in float64."""
    schedule, x0 = SCHEDULES["linear"], np.full((1, 1, 1, 1), 0.7, np.float32)

    def one(x_t, k):
        mean, variance = forward.posterior(schedule, np.full_like(x0, x_t), x0, k / 1000, (k - 1) / 1000)
        return float(mean.item()), float(variance)

    mean, variance = 1.3, 0.0
    for k in (503, 502, 501):
        slope = one(2.0, k)[0] - one(1.0, k)[0]
        mean, added = one(mean, k)
        variance = slope**2 * variance + added
    stride = forward.posterior(schedule, np.full_like(x0, 1.3), x0, 0.503, 0.5)
    np.testing.assert_allclose(stride[0].item(), mean, rtol=1e-5)
    np.testing.assert_allclose(stride[1], variance, rtol=1e-3)


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid", "betas"])
def test_neighbouring_times_keep_their_relative_precision(name):
    """var q(x_t | x_s) = beta_t, var q(x_s | x_t, x0) = beta_t (1 - abar_s)/(1 - abar_t) (DDPM, Eq. 7).

    To three digits, although both are what is left between nearly equal numbers.
    """
    schedule = SCHEDULES[name]
    beta, k = schedule.betas(), np.arange(2, schedule.steps + 1)
    t, s = k / schedule.steps, (k - 1) / schedule.steps
    ones = np.ones((len(k), 1), np.float32)
    _, step = forward.transition(schedule, ones, t, s)
    _, variance = forward.posterior(schedule, ones, ones, t, s)
    rest = np.cumsum(np.r_[0, beta * np.r_[1, schedule.abar()[1:-1]]])  # 1 - abar without cancelling
    np.testing.assert_allclose(step, beta[1:], rtol=2e-3)
    np.testing.assert_allclose(variance, beta[1:] * rest[k - 1] / rest[k], rtol=2e-3)


@pytest.mark.parametrize("name", ["linear", "zero_terminal"])
def test_diffused_images_have_the_moments_of_the_marginal(name):
    schedule = SCHEDULES[name]
    eps = jax.random.normal(jax.random.key(0), (8, 64, 64, 1))
    x_t = dj.forward.diffuse(schedule, np.full(eps.shape, 0.8, np.float32), 0.5, eps)
    alpha, sigma = scales(schedule, 0.5)
    assert_moments(x_t, 0.8 * alpha, float(sigma))


@pytest.mark.parametrize("name", ["zero_terminal", "rectified", "shifted_rectified"])
def test_everything_is_finite_where_the_signal_is_gone(name):
    """At alpha(1) = 0 x_t says nothing: the posterior is the marginal of x_s."""
    schedule, x = SCHEDULES[name], np.full((2, 1, 1, 1), 0.7, np.float32)
    mean, variance = forward.posterior(schedule, 5 * x, x, 1.0, 0.5)
    alpha, sigma = scales(schedule, 0.5)
    np.testing.assert_allclose(mean, alpha * x, rtol=1e-6)
    np.testing.assert_allclose(variance, sigma**2, rtol=1e-6)
    mean, variance = forward.transition(schedule, x, 1.0, 0.5)
    np.testing.assert_array_equal(mean, 0 * x)
    assert variance == 1.0


def test_each_image_has_its_own_two_times():
    """Each image has its own time: swapping two images swaps the results."""
    schedule, t, s = SCHEDULES["karras"], np.array([0.9, 0.4]), np.array([0.5, 0.1])
    x0, x_t = np.random.default_rng(4).normal(size=(2, 2, 2, 1, 1)).astype(np.float32)
    mean, variance = forward.posterior(schedule, x_t, x0, t, s)
    swapped = forward.posterior(schedule, x_t[::-1], x0[::-1], t[::-1], s[::-1])
    np.testing.assert_array_equal(mean[::-1], swapped[0])
    np.testing.assert_array_equal(variance[::-1], swapped[1])
