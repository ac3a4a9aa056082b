"""Self-conditioning: a network that is shown its own last x0, against a loop of its own in float64."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, quick_jit, scales

import diffusion_jax as dj
from diffusion_jax.sampling.samplers import DDIM, DDPM, DPMSolverPP, Heun, Sampler, SelfConditioned

NAMES = ["rectified", "karras"]
NOISE = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)
STEPS = 5


def _network(x_t, t, guess):
    """x0 = 0.5 x_t - 0.4 guess + t/10: what it was shown always shows."""
    return 0.5 * x_t - 0.4 * guess + 0.1 * t


def _denoise(schedule, calls=None):
    def denoise(x_t, t, x0_hat):
        if calls is not None:
            calls.append(t)
        x0 = _network(x_t, t, x0_hat)
        return dj.Denoised(x0, (x_t - schedule.alpha(t) * x0) / schedule.sigma(t))

    return denoise


def _drawn(name, sampler, calls=None):
    schedule, key = SCHEDULES[name], jax.random.key(2)
    denoise = _denoise(schedule, calls)
    draw = quick_jit(
        lambda noise: dj.sample(key, denoise, schedule, noise.shape, sampler=sampler, steps=STEPS, noise=noise)
    )
    return np.asarray(draw(NOISE), np.float64)


def _loop(name, step):
    """x of STEPS steps of `step(x, guess, at_t, at_s) -> (x, guess)`, where at = (t, alpha, sigma)."""
    schedule = SCHEDULES[name]
    times = np.float32(dj.grids.Uniform()(schedule, STEPS))
    alphas, sigmas = scales(schedule, times)
    x, guess = sigmas[0] * NOISE.astype(np.float64), np.zeros(NOISE.shape)
    for at_t, at_s in pairwise(zip(times.astype(np.float64), alphas, sigmas, strict=True)):
        x, guess = step(x, guess, at_t, at_s)
    return x


@pytest.mark.parametrize("name", NAMES)
def test_each_step_is_shown_the_x0_of_the_one_before(name):
    """Bits' Alg. 2 with the DDIM step; zeros at first. One call of the network a step."""

    def step(x, guess, at_t, at_s):
        (t, alpha, sigma), (_, alpha_s, sigma_s) = at_t, at_s
        x0 = _network(x, t, guess)
        return alpha_s * x0 + sigma_s * (x - alpha * x0) / sigma, x0

    calls = []
    found = _drawn(name, SelfConditioned(DDIM()), calls)
    np.testing.assert_allclose(found, _loop(name, step), rtol=1e-4, atol=1e-5)
    assert len(calls) == 1  # in the body of the scan


@pytest.mark.parametrize("name", NAMES)
def test_a_second_call_in_a_step_is_shown_the_first(name):
    """Heun's, in float64; and the next step is shown the first call's x0, too."""

    def step(x, guess, at_t, at_s):
        (t, alpha, sigma), (s, alpha_s, sigma_s) = at_t, at_s
        x0 = _network(x, t, guess)
        if sigma_s == 0:
            return x0, x0
        eps = (x - alpha * x0) / sigma
        there = alpha_s * x0 + sigma_s * eps
        x0_there = _network(there, s, x0)
        eps_there = (there - alpha_s * x0_there) / sigma_s
        x = x + (alpha_s - alpha) * (x0 + x0_there) / 2 + (sigma_s - sigma) * (eps + eps_there) / 2
        return x, x0

    calls = []
    found = _drawn(name, SelfConditioned(Heun()), calls)
    np.testing.assert_allclose(found, _loop(name, step), rtol=1e-4, atol=1e-5)
    assert len(calls) == 2


def test_what_the_sampler_inside_remembers_and_draws_stays_its_own():
    """For a network that ignores what it is shown nothing changes, with a multistep rule nor with noise."""
    schedule, key = SCHEDULES["rectified"], jax.random.key(7)

    def denoise(x_t, t, **given):
        x0 = jnp.sin(x_t) + t
        return dj.Denoised(x0, (x_t - schedule.alpha(t) * x0) / schedule.sigma(t))

    def draw(sampler):
        return dj.sample(key, denoise, schedule, NOISE.shape, sampler=sampler, steps=STEPS)

    for sampler in (DPMSolverPP(), DDPM()):
        alone, within = quick_jit(lambda s=sampler: (draw(s), draw(SelfConditioned(s))))()
        np.testing.assert_allclose(alone, within, rtol=0, atol=1e-6)


def test_floats_of_the_sampler_inside_are_traced():
    traces = []

    @jax.jit
    def step(sampler, x):
        traces.append(sampler)
        keys, memory = jax.random.split(jax.random.key(0), len(x)), sampler.init(x)
        flow = SCHEDULES["rectified"]
        return sampler.step(keys, _denoise(flow), flow, x, jnp.float32(0.6), jnp.float32(0.3), memory)[0]

    some = [step(SelfConditioned(DDIM(eta)), jnp.asarray(NOISE)) for eta in (0.0, 0.5, 1.0)]
    assert len(traces) == 1
    assert not np.allclose(some[0], some[1])
    assert jax.tree.leaves(SelfConditioned(DDIM(0.25))) == [0.25]
    step(SelfConditioned(DDPM("large")), jnp.asarray(NOISE))
    assert len(traces) == 2


def test_a_sampler_within_a_sampler_survives_a_round_trip_of_its_leaves():
    for sampler in (SelfConditioned(DDIM(0.3)), SelfConditioned(DPMSolverPP(1)), SelfConditioned()):
        leaves, structure = jax.tree.flatten(sampler)
        assert structure.unflatten(leaves) == sampler
        assert hash(structure.unflatten(leaves)) == hash(sampler)


def test_the_order_is_that_of_the_sampler_inside():
    orders = [SelfConditioned(sampler).order for sampler in (DDIM(), Heun(), DPMSolverPP(1), DPMSolverPP(2))]
    assert orders == [1, 2, 1, 2]
    assert isinstance(SelfConditioned(), Sampler)


@pytest.mark.parametrize("wrong", ["DDIM", DDIM, SelfConditioned()], ids=str)
def test_only_another_sampler_can_be_inside(wrong):
    with pytest.raises(ValueError, match="sampler = .*must be another sampler, such as DDIM"):
        SelfConditioned(wrong)
