"""Heun's method with churn: EDM's Algorithm 2, in float64 and in law."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, Gaussian, assert_moments, quick_jit, scales

import diffusion_jax as dj
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers import Heun

DATA = Gaussian(0.3, 0.5)
X_T = np.random.default_rng(0).normal(size=(8, 3, 3, 1)).astype(np.float32)


def _keys():
    return jax.random.split(jax.random.key(5), len(X_T))


def _exact(schedule):
    return lambda x_t, t: DATA.denoised(x_t, schedule.alpha(t), schedule.sigma(t))


def _first_call(schedule):
    """The arguments (x, t) of a step's first call: a step to data returns its x0, here these arguments."""

    def echo(x, t):
        return dj.Denoised(x.at[..., 1].set(t), x)  # the second channel makes room for t

    @quick_jit
    def step(sampler, t):
        x_t = jnp.concatenate([X_T, X_T], -1)
        x_s, _ = sampler.step(_keys(), echo, schedule, x_t, t, 0.0, ())
        return x_s[..., :1], x_s[0, 0, 0, 1]

    return step


@pytest.mark.parametrize("name", ["linear", "rectified", "karras"])
def test_a_churned_step_starts_where_edms_does(name):
    """t_hat = (1 + gamma) t and x_hat = x + sqrt(t_hat^2 - t^2) S_noise z (Alg. 2), in nsr and x/alpha.

    On a table, t_hat is the nearest entry, and its noise level is used.
    """
    schedule, first_call = SCHEDULES[name], _first_call(SCHEDULES[name])
    z = np.asarray(standard_normal(_keys(), (3, 3, 2)), np.float64)[..., :1]
    for t, churn, noise_scale in [(0.2, 0.1, 1.0), (0.5, 0.3, 1.007), (0.8, 5.0, 0.9)]:
        x_hat, time = first_call(Heun(churn, noise_scale=noise_scale), t)
        time = float(time)
        (alpha, alpha_hat), (sigma, sigma_hat) = scales(schedule, np.float32([t, time]))
        nsr, nsr_hat = sigma / alpha, sigma_hat / alpha_hat
        wanted = (1 + min(churn, math.sqrt(2) - 1)) * nsr
        if schedule.steps is None:
            assert nsr_hat == pytest.approx(wanted, rel=1e-4)
        else:
            assert time * 1000 == pytest.approx(round(time * 1000), abs=1e-3)
            around = scales(schedule, np.float32([time - 0.51e-3, time + 0.51e-3]))
            assert around[1][0] / around[0][0] < wanted < around[1][1] / around[0][1]
        exact = alpha_hat * (X_T / alpha + np.sqrt(nsr_hat**2 - nsr**2) * noise_scale * z)
        np.testing.assert_allclose(x_hat, exact, rtol=2e-4, atol=2e-4 * sigma_hat)


def test_churn_keeps_to_its_range_and_to_the_times_that_there_are():
    """From t = 1, of zero SNR or not, there is nothing to rise to; nor outside churn_min .. churn_max."""
    for name in ("rectified", "karras"):
        first_call = _first_call(SCHEDULES[name])
        nsr = math.exp(-float(SCHEDULES[name].log_snr(0.5)) / 2)
        still = [
            (Heun(0.3), 1.0),
            (Heun(0.3, churn_min=1.1 * nsr), 0.5),
            (Heun(0.3, churn_max=0.9 * nsr), 0.5),
        ]
        for sampler, t in still:
            x, time = first_call(sampler, t)
            np.testing.assert_array_equal(x, X_T)
            assert time == t
        for sampler in (Heun(0.3, churn_min=0.9 * nsr), Heun(0.3, churn_max=1.1 * nsr)):
            assert first_call(sampler, 0.5)[1] > 0.5
        assert first_call(Heun(0.4), 0.999)[1] <= 1


def test_without_churn_not_a_bit_changes():
    """Both as a constant of jit and traced; as a constant, no noise is generated."""
    schedule = SCHEDULES["rectified"]

    def step(sampler, t, s):
        return sampler.step(_keys(), _exact(schedule), schedule, jnp.asarray(X_T), t, s, ())[0]

    known, traced = quick_jit(lambda t, s: step(Heun(), t, s)), quick_jit(step)
    for t in np.linspace(0.05, 1.0, 20):
        for s in (0.5 * t, 0.0):
            np.testing.assert_array_equal(known(t, s), traced(Heun(), t, s))
    assert "random_bits" not in str(jax.make_jaxpr(lambda t, s: step(Heun(), t, s))(0.5, 0.4))
    assert "random_bits" in str(jax.make_jaxpr(step)(Heun(), 0.5, 0.4))


@pytest.mark.parametrize("name", ["linear", "rectified"])
def test_samples_with_churn_have_the_law_of_their_chain_and_of_the_data(name):
    """Every step is linear in x for this denoiser: its gain and offset, in float64, from two x."""
    schedule, steps, churn = SCHEDULES[name], 40, 0.2
    times = dj.grids.Uniform()(schedule, steps)
    at, hat = (np.transpose(scales(schedule, np.float32(t))) for t in (times, _raised(schedule, times, churn)))
    mean, variance = 0.0, at[0, 1] ** 2
    for (alpha, sigma), (alpha_hat, sigma_hat), at_s in zip(at[:-1], hat[:-1], at[1:], strict=True):
        ratio = alpha_hat / alpha if alpha else 1.0  # at zero SNR nothing is raised
        mean, variance = ratio * mean, ratio**2 * variance + sigma_hat**2 - (ratio * sigma) ** 2
        offset, end = _heun(np.array([0.0, 1.0]), alpha_hat, sigma_hat, *at_s)
        mean, variance = offset + (end - offset) * mean, (end - offset) ** 2 * variance
    assert abs(mean - DATA.mean) < 0.01
    assert abs(np.sqrt(variance) - DATA.std) < 0.01

    def draw(key):
        shape = (4000, 2, 2, 1)
        return dj.sample(key, _exact(schedule), schedule, shape, sampler=Heun(churn), steps=steps)

    assert_moments(quick_jit(draw)(jax.random.key(0)), mean, np.sqrt(variance))


def _raised(schedule, times, churn):
    raised = np.asarray(schedule.time(schedule.log_snr(times) - 2 * np.log(1 + churn)), np.float64)
    return raised if schedule.steps is None else np.round(raised * schedule.steps) / schedule.steps


def _heun(x, alpha_t, sigma_t, alpha_s, sigma_s):
    """EDM's step without churn for `DATA`, by the velocity x0 alpha' + eps sigma' of both ends."""

    def velocity(x, alpha, sigma):
        surprise = (x - alpha * DATA.mean) / (alpha**2 * DATA.std**2 + sigma**2)
        x0, eps = DATA.mean + alpha * DATA.std**2 * surprise, sigma * surprise
        return (alpha_s - alpha_t) * x0 + (sigma_s - sigma_t) * eps

    first = velocity(x, alpha_t, sigma_t)
    if sigma_s == 0:
        return x + first
    return x + (first + velocity(x + first, alpha_s, sigma_s)) / 2


def test_churn_is_traced():
    traces = []

    @jax.jit
    def step(sampler, t):
        traces.append(t)
        return sampler.step(_keys(), _exact(SCHEDULES["rectified"]), SCHEDULES["rectified"], X_T, t, 0.3, ())[0]

    one, other, last = (step(sampler, 0.5) for sampler in (Heun(), Heun(0.1), Heun(0.1, noise_scale=1.2)))
    assert len(traces) == 1
    assert not np.allclose(one, other)
    assert not np.allclose(other, last)


@pytest.mark.parametrize("field", ["churn", "churn_min", "churn_max", "noise_scale"])
def test_a_negative_number_is_refused_by_name(field):
    with pytest.raises(ValueError, match=f"{field} = -1.0: must be >= 0"):
        Heun(**{field: -1})
