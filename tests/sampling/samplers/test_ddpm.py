"""DDPM with the variance that its network outputs, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, Gaussian, exact_denoiser, posterior_variance, quick_jit, scales, step_variance
from slow import slow

import diffusion_jax as dj
from diffusion_jax.process import forward
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers import DDPM

SHAPE = (6, 2, 1, 2)
X_T = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
FRACTION = np.random.default_rng(1).uniform(size=SHAPE).astype(np.float32)
STEPS = [(0.6, 0.4), (0.041, 0.04), (1.0, 0.98)]


def _denoise(fraction):
    return lambda x_t, t: Denoised(jnp.sin(x_t), x_t, jnp.broadcast_to(fraction, x_t.shape))


def _keys():
    return jax.random.split(jax.random.key(1), len(X_T))


@pytest.mark.parametrize("name", ["zero_terminal", "rectified", "karras"])
def test_the_learned_variance_lies_between_small_and_large_in_its_logarithm(name):
    """Per pixel, over strides: small at f = 0, large at 1, their geometric mean at 1/2."""
    schedule = SCHEDULES[name]

    @quick_jit
    def drawn(fraction, t, s):
        learned, _ = DDPM("learned").step(_keys(), _denoise(fraction), schedule, X_T, t, s, ())
        return learned, forward.posterior(schedule, X_T, jnp.sin(X_T), t, s)[0]

    z = np.asarray(standard_normal(_keys(), SHAPE[1:]), np.float64)
    for t, s in STEPS:
        points = list(zip(*scales(schedule, np.float32([t, s])), strict=True))
        small, large = posterior_variance(*points), step_variance(*points)
        for f in (0.0, 0.5, 1.0, FRACTION):
            x_s, mean = drawn(jnp.broadcast_to(jnp.float32(f), SHAPE), t, s)
            deviation = small ** ((1 - f) / 2) * large ** (f / 2)
            np.testing.assert_allclose(x_s - mean, deviation * z, rtol=2e-3, atol=1e-5 * points[0][1])
    x0, _ = drawn(FRACTION, 0.02, 0.0)
    np.testing.assert_allclose(x0, np.sin(X_T), rtol=1e-5, atol=1e-6)  # no noise on data


def test_at_data_the_range_begins_as_in_the_paper():
    """beta-tilde_1 = 0 is replaced by beta-tilde_2, in the float64 tables of Nichol and Dhariwal 2021."""
    schedule = dj.schedules.Cosine(50)
    beta, abar = schedule.betas(), schedule.abar()
    tilde = beta * (1 - abar[:-1]) / (1 - abar[1:])
    tilde[0] = tilde[1]
    k = np.arange(1, 51)
    f = np.random.default_rng(0).uniform(size=(50, 2, 2, 1)).astype(np.float32)
    found = quick_jit(lambda f: forward.learned_variance(schedule, f, k / 50, (k - 1) / 50))(f)
    low, high = (np.log(x).reshape(-1, 1, 1, 1) for x in (tilde, beta))
    np.testing.assert_allclose(np.log(found), f * high + (1 - f) * low, rtol=0, atol=2e-4)


@pytest.mark.parametrize("schedule", [SCHEDULES["rectified"], dj.schedules.Betas((0.3,))], ids=["flow", "one"])
def test_without_two_times_above_data_the_range_is_the_forward_steps_variance(schedule):
    found = forward.learned_variance(schedule, jnp.asarray([[0.0, 0.5, 1.0]]), 1.0, 0.0)
    np.testing.assert_allclose(found, float(schedule.sigma(1.0)) ** 2, rtol=1e-6)


def test_the_learned_variance_is_finite_and_grows_with_the_fraction_everywhere():
    """A network's f may leave [0, 1]."""
    t, s = np.meshgrid(np.arange(1, 1001, 37) / 1000, np.arange(0, 1000, 27) / 1000)
    t, s = (np.float32([*times[s < t], end]) for times, end in ((t, 1.0), (s, 0.999)))
    f = np.broadcast_to(np.float32([-1.0, 0.0, 1.0, 2.0]), (len(t), 4))
    found = quick_jit(
        lambda f: {name: forward.learned_variance(schedule, f, t, s) for name, schedule in SCHEDULES.items()}
    )(f)
    for name, variance in jax.tree.map(np.asarray, found).items():
        assert np.isfinite(variance).all(), name
        assert (variance > 0).all(), name
        assert (np.diff(variance, axis=1) >= -1e-6 * variance[:, 1:]).all(), name


def test_a_denoiser_without_a_variance_is_refused():
    with pytest.raises(ValueError, match='DDPM variance = "learned": the network must output twice the channels'):
        DDPM("learned").step(
            _keys(), lambda x, t: dj.Denoised(x, x), SCHEDULES["rectified"], jnp.asarray(X_T), 0.6, 0.4, ()
        )


def test_the_variance_of_a_network_of_twice_the_channels_is_used():
    """Through `dj.denoiser`, clipping and the loop: f = -1 is "small", f = 1 is not."""
    schedule = SCHEDULES["rectified"]

    def draw(variance, f):
        def apply(params, x, time, labels):
            return jnp.concatenate([jnp.sin(x), jnp.full_like(x, f)], -1)

        denoise = dj.denoiser(apply, None, schedule, dj.predictions.V(), clip=True)
        return dj.sample(jax.random.key(0), denoise, schedule, SHAPE, sampler=DDPM(variance), steps=4)

    small, low, high = quick_jit(lambda f: (draw("small", f), draw("learned", f), draw("learned", -f)))(-1.0)
    np.testing.assert_allclose(low, small, rtol=1e-4, atol=1e-5)
    assert not np.allclose(high, small, atol=1e-2)


@pytest.mark.parametrize("variance", ["small", *slow("large")])
def test_the_declared_order_is_that_of_the_error_of_the_standard_deviation(variance):
    """Half as many steps, twice the error: measured on 200 000 pixels, whose own error is 0.0008."""
    schedule, data = dj.schedules.Cosine(), Gaussian(mean=0.0, std=0.5)

    def error(steps):
        denoise = exact_denoiser(data, schedule)
        x = dj.sample(jax.random.key(0), denoise, schedule, (2000, 10, 10, 1), sampler=DDPM(variance), steps=steps)
        return abs(float(x.std()) - 0.5)

    assert np.log2(error(25) / error(50)) == pytest.approx(DDPM(variance).order, abs=0.3)
