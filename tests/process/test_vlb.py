"""The variational bound, against quadrature, float64 and the entropy of Gaussian data."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import DISCRETE, KINDS_FIRST, SCHEDULES, Gaussian, posterior_variance, quick_jit, scales, step_variance
from scipy.special import logsumexp

import diffusion_jax as dj
from diffusion_jax.process import vlb
from diffusion_jax.process.predictions import Denoised

every_schedule = pytest.mark.parametrize("name", KINDS_FIRST)
LEVELS = np.arange(256) / 127.5 - 1


def log_normal(x, mean, std):
    return -(((x - mean) / std) ** 2) / 2 - np.log(std * np.sqrt(2 * np.pi))


@pytest.mark.parametrize(
    ("mean1", "std1", "mean2", "std2"),
    [(0.0, 1.0, 0.0, 1.0), (0.3, 0.5, -0.2, 0.7), (1.0, 2.0, 0.0, 0.3), (0.0, 0.999, 0.01, 1.0)],
)
def test_the_divergence_of_two_normals_is_the_integral_of_p_log_p_over_q(mean1, std1, mean2, std2):
    x = np.linspace(mean1 - 12 * std1, mean1 + 12 * std1, 100_001)
    p, q = log_normal(x, mean1, std1), log_normal(x, mean2, std2)
    expected = np.sum(np.exp(p) * (p - q)) * (x[1] - x[0])
    found = vlb.normal_kl(mean1, 2 * np.log(std1), mean2, 2 * np.log(std2))
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-7)


# The decoder


def log_masses(mean, std):
    """log of the mass in each level's bin, by the midpoint rule; the outer two go on for 12 std."""
    low, high = LEVELS - 1 / 255, LEVELS + 1 / 255
    low[0], high[-1] = min(-1, mean) - 12 * std, max(1, mean) + 12 * std
    n = 8000
    x = low[:, None] + (high - low)[:, None] * (np.arange(n) + 0.5) / n
    return logsumexp(log_normal(x, mean, std), axis=1) + np.log((high - low) / n)


@pytest.fixture(scope="module")
def log_likelihood():
    return quick_jit(vlb.discretised_log_likelihood)


@pytest.mark.parametrize(
    ("std", "tolerance"), [(0.005, 6e-6), (0.03, 6e-6), (0.38, 6e-6), (0.41, 1.5e-6), (3.0, 1.5e-6)]
)
@pytest.mark.parametrize("mean", [-0.999, 0.1, 0.7, 1.3])
def test_the_decoder_integrates_each_level_s_bin(mean, std, tolerance, log_likelihood):
    found = log_likelihood(jnp.float32(LEVELS), jnp.full(256, mean), jnp.full(256, np.log(std)))
    np.testing.assert_allclose(found, log_masses(mean, std), rtol=tolerance, atol=tolerance)


# The mass in 256 bins, were the outer two not open, would be 0.68 at a std of 1 and next to none at 100.
@pytest.mark.parametrize("std", [1e-6, 1e-3, 0.01, 0.39, 1.0, 100.0, 1e6])
def test_the_masses_of_all_levels_sum_to_one_whatever_the_mean(std, log_likelihood):
    for mean in (-3.0, -1.0, 0.0039, 0.998, 1.0):
        found = log_likelihood(jnp.float32(LEVELS), jnp.full(256, mean), jnp.full(256, np.log(std)))
        assert np.isfinite(found).all()
        assert np.exp(np.float64(found)).sum() == pytest.approx(1, abs=1e-5)


def test_the_decoder_s_gradients_are_finite_far_from_the_image():
    std = jnp.asarray([1e-6, 1e-3, 0.38, 0.41, 1e3, 1e6])
    x0, mean, log_std = jnp.meshgrid(jnp.asarray([-1.0, 0.0, 1.0]), jnp.asarray([-3.0, 0.0, 1.0]), jnp.log(std))

    def total(mean, log_std):
        return vlb.discretised_log_likelihood(x0, mean, log_std).sum()

    gradients = quick_jit(jax.grad(total, argnums=(0, 1)))(mean, log_std)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


# The terms, in expectation over Gaussian data and its noise. They are quadratic in both, for which the four
# points x0 = mean +- std, eps = +- 1 stand for the whole law.

DATA = Gaussian(0.3, 0.5)
SIGNS = np.array([(i, j) for i in (1, -1) for j in (1, -1)], np.float32)


@functools.cache
def steps_of(name):
    """Times with strides of some size, from t = 1 over a nearly clean image to t = 0, [14]."""
    schedule = SCHEDULES[name]
    last = max(float(schedule.log_snr(1.0)), -8.0)
    inner = np.asarray(schedule.time(jnp.linspace(last, 4.0, 13)))[1:]
    return np.concatenate([[1], inner, [0]]).astype(np.float32)


@functools.cache
def exact(name):
    """float64: SNR at each t and s, the variance of x0 given x_t, and mean and variance of p(x_s | x_t)."""
    times = steps_of(name)
    t, s = scales(SCHEDULES[name], times[:-1]), scales(SCHEDULES[name], times[1:])
    with np.errstate(divide="ignore"):
        snr_t, snr_s = ((alpha / sigma) ** 2 for alpha, sigma in (t, s))
    unknown = 1 / (1 / DATA.std**2 + snr_t)  # precisions add
    # By the posterior's mean x_s moves by so much for one of x0, and by the rest with x_t, which is known.
    gain = s[0] * (1 - snr_t / snr_s)
    small = s[1] ** 2 * (1 - snr_t / snr_s)
    return snr_t, snr_s, unknown, gain, small, step_variance(t, s)


@functools.cache
def true_fraction(name):
    """Where the true variance of x_s given x_t lies in the learned range, [13], in float64.

    The range is from the posterior's to the forward step's; at s = 0 from the posterior's between the first two times
    of the table, or just the forward step's for a schedule without a table.
    """
    schedule, (_, _, unknown, gain, small, large) = SCHEDULES[name], exact(name)
    lowest = small.copy()
    lowest[-1] = large[-1]
    if schedule.steps is not None:
        lowest[-1] = posterior_variance(*(scales(schedule, k / schedule.steps) for k in (2, 1)))
    low, high = np.log(lowest), np.log(large)
    return (np.log(small + gain**2 * unknown) - low) / np.where(high > low, high - low, 1.0)


@functools.cache
def expected_terms(name):
    """The mean term of each step with the exact denoiser, [13], for each variance; "true" is the best."""
    schedule, times = SCHEDULES[name], steps_of(name)

    def terms(times, fraction):
        t, s = (jnp.repeat(row, 4) for row in (times[:-1], times[1:]))
        x0, eps = (jnp.tile(jnp.asarray(row), 13)[:, None] for row in SIGNS.T)
        x0 = DATA.mean + DATA.std * x0
        alpha, sigma = (f(t)[:, None] for f in (schedule.alpha, schedule.sigma))
        denoised = DATA.denoised(alpha * x0 + sigma * eps, alpha, sigma)

        def term(fraction):
            learned = dataclasses.replace(denoised, variance_fraction=fraction[:, None])
            return vlb.term(schedule, x0, learned, t, s, "learned")

        return jax.lax.map(term, jnp.stack([jnp.zeros(52), jnp.ones(52), fraction]))

    found = quick_jit(terms)(times, np.repeat(np.float32(true_fraction(name)), 4))
    return dict(zip(("small", "large", "true"), np.float64(found).reshape(3, 13, 4).mean(2), strict=True))


@every_schedule
def test_with_the_posterior_s_variance_a_term_is_the_loss_of_snr(name):
    """(SNR(s) - SNR(t)) E|x0 - x0-hat|^2 / 2 (Kingma et al. 2021, Eq. 13 and 14), whatever the schedule."""
    snr_t, snr_s, unknown, *_ = exact(name)
    expected = ((snr_s - snr_t) * unknown / 2 / np.log(2))[:-1]
    np.testing.assert_allclose(expected_terms(name)["small"][:-1], expected, rtol=1e-4)


@every_schedule
def test_with_the_forward_step_s_variance_a_term_costs_what_that_is_off(name):
    *_, unknown, gain, small, large = (row[:-1] for row in exact(name))
    expected = (np.log(large / small) + (small + gain**2 * unknown) / large - 1) / 2 / np.log(2)
    np.testing.assert_allclose(expected_terms(name)["large"][:-1], expected, rtol=2e-3)


@every_schedule
def test_with_the_true_mean_and_variance_the_bound_is_the_entropy_of_the_data(name):
    """Nothing is lost but what N(0, sigma^2) misses of the law of x_1; the bins are narrow for these data."""
    schedule = SCHEDULES[name]
    alpha, sigma = scales(schedule, 1.0)
    missed = mismatch(alpha**2 * DATA.std**2 + sigma**2, sigma**2) + (alpha / sigma * DATA.mean) ** 2 / 2
    if name not in DISCRETE:  # at s = 0 such a schedule knows of one variance only, sigma_t^2
        missed += mismatch(exact(name)[2][-1], scales(schedule, steps_of(name)[-2])[1] ** 2)
    entropy = np.log(2 * np.pi * np.e * DATA.std**2) / 2 + np.log(127.5)
    prior = np.mean(vlb.prior(schedule, jnp.asarray([[DATA.mean + DATA.std], [DATA.mean - DATA.std]])))
    found = expected_terms(name)["true"].sum() + prior
    assert found == pytest.approx((entropy + missed) / np.log(2), rel=3e-4)


def mismatch(variance, assumed):
    """Nats that it costs to take one variance of a normal law for another."""
    return (np.log(assumed / variance) + variance / assumed - 1) / 2


@pytest.mark.parametrize("name", ["linear", "zero_terminal", "rectified", "karras"])
def test_terms_and_gradients_are_finite_at_both_ends(name):
    schedule = SCHEDULES[name]
    t = jnp.asarray([1.0, 1.0, 0.002, 0.001])
    s = jnp.asarray([0.999, 0.0, 0.001, 0.0])
    x0 = jnp.asarray([-1.0, 1.0, 0.2, 0.9])[:, None, None, None] * jnp.ones((4, 2, 2, 1))

    def total(x0_hat, fraction):
        learned = Denoised(x0_hat, x0_hat, fraction)
        terms = vlb.term(schedule, x0, learned, t, s, "learned") + vlb.prior(schedule, x0)
        return terms.sum(), terms

    f = quick_jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, terms), gradients = f(0.5 * x0, jnp.full_like(x0, 0.3))
    assert terms.shape == (4,)
    assert (np.asarray(terms) > 0).all()
    assert all(np.isfinite(leaf).all() for leaf in (terms, *gradients))


def test_what_the_last_x_t_still_shows_is_the_divergence_from_pure_noise():
    """Unit variance where the schedule preserves it, sigma_max^2 where it explodes; nothing at zero SNR."""
    x0 = jnp.asarray([[0.5, -1.0], [0.0, 0.2]])
    for name in ("linear", "karras", "zero_terminal", "rectified"):
        alpha, sigma = scales(SCHEDULES[name], 1.0)
        expected = vlb.normal_kl(alpha * x0, np.log(sigma**2), 0.0, np.log(sigma**2)).mean(1) / np.log(2)
        np.testing.assert_allclose(vlb.prior(SCHEDULES[name], x0), expected, rtol=1e-4)


def test_small_and_large_are_the_ends_of_the_learned_range():
    schedule, x0 = dj.schedules.Cosine(), jnp.full((3, 2), 0.4)
    plain = dj.Denoised(0.5 * x0, x0)
    learned = dataclasses.replace(plain, variance_fraction=jnp.asarray([[0.0], [0.0], [1.0]]) + 0 * x0)
    s = jnp.asarray([0.0, 0.5, 0.5])

    def terms():
        cases = ((plain, "small"), (plain, "large"), (learned, "learned"))
        return [vlb.term(schedule, x0, here, 0.6, s, variance) for here, variance in cases]

    small, large, both = quick_jit(terms)()
    np.testing.assert_array_equal(both, [small[0], small[1], large[2]])
    assert large[1] != small[1]


def test_a_variance_that_is_not_there_is_refused():
    schedule, x0 = dj.schedules.Cosine(), jnp.zeros((2, 4))
    plain = dj.Denoised(x0, x0)
    with pytest.raises(ValueError, match='variance = "learned": the network must learn its variance'):
        vlb.term(schedule, x0, plain, 1.0, 0.5, "learned")
    with pytest.raises(ValueError, match='variance = .tiny.: must be "small", "large" or "learned"'):
        vlb.term(schedule, x0, plain, 1.0, 0.5, "tiny")
