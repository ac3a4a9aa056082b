"""Euler's method and its ancestral form, against float64 and the methods that they equal."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, Gaussian, ancestral_law, assert_moments, posterior_variance, quick_jit, scales

import diffusion_jax as dj
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers import DDIM, DDPM, Euler, EulerAncestral

NAMES = ["rectified", "karras"]
# From noise, between, to data.
STEPS = [(1.0, 0.98), (0.6, 0.4), (0.02, 0.0), (1.0, 0.0)]
X_T = np.random.default_rng(0).normal(size=(8, 2, 2, 1)).astype(np.float32)

ETAS = (0.0, 0.5, 1.0, 1.3, 100.0)


def _exact(schedule, data=Gaussian(0.3, 0.5)):
    return lambda x_t, t: data.denoised(x_t, schedule.alpha(t), schedule.sigma(t))


def _keys():
    return jax.random.split(jax.random.key(3), len(X_T))


@cache
def _steps(name):
    """x_s of each of STEPS for many samplers from the same noise, [4, 8, 2, 2, 1] each: one compile."""
    schedule = SCHEDULES[name]
    samplers = {"euler": Euler(), "ddpm": DDPM()}
    samplers |= {f"ancestral_{eta}": EulerAncestral(eta) for eta in ETAS}
    samplers |= {f"ddim_{eta}": DDIM(eta) for eta in ETAS if eta <= 1}

    @quick_jit
    @jax.vmap
    def step(t, s):
        x_t = schedule.sigma(t) * X_T
        return {
            name: sampler.step(_keys(), _exact(schedule), schedule, x_t, t, s, ())[0]
            for name, sampler in samplers.items()
        }

    return step(*jnp.asarray(STEPS, jnp.float32).T)


@pytest.mark.parametrize("name", NAMES)
def test_euler_is_ddim_and_so_is_the_ancestral_step_up_to_eta_1(name):
    """With the same noise; at eta = 1 they are DDPM. x_t and alpha x0 + sigma eps differ by a rounding."""
    x_s, atol = _steps(name), max(2e-5, 20 * 2**-24 * float(SCHEDULES[name].sigma(1.0)))
    pairs = [("euler", "ddim_0.0"), *((f"ancestral_{eta}", f"ddim_{eta}") for eta in (0.0, 0.5, 1.0))]
    for one, other in [*pairs, ("ancestral_1.0", "ddpm")]:
        np.testing.assert_allclose(x_s[one], x_s[other], rtol=0, atol=atol, err_msg=one)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("name", NAMES)
def test_the_ancestral_split_is_k_diffusions(name, eta):
    """Theirs is in nsr: z = x/alpha, d = (z - x0)/nsr_t, z + (down - nsr_t) d + up noise; in float64."""
    schedule = SCHEDULES[name]
    (alpha_t, alpha_s), (sigma_t, sigma_s) = scales(schedule, np.float32(STEPS[1]))
    high, low = sigma_t / alpha_t, sigma_s / alpha_s
    up = min(low, eta * np.sqrt(low**2 * (high**2 - low**2) / high**2))
    x_t = sigma_t * np.asarray(X_T, np.float64)
    x0 = np.asarray(Gaussian(0.3, 0.5).denoised(x_t, alpha_t, sigma_t).x0, np.float64)
    wanted = x_t / alpha_t + (np.sqrt(low**2 - up**2) - high) * (x_t / alpha_t - x0) / high
    wanted = alpha_s * (wanted + up * np.asarray(standard_normal(_keys(), X_T.shape[1:])))
    found = _steps(name)[f"ancestral_{eta}"][1]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5 * max(1, sigma_s))


def test_on_a_rectified_flow_euler_follows_the_velocity():
    """For any denoiser: only eps - x0 has an effect (Liu et al. 2022)."""
    found = Euler().step(None, lambda x, t: dj.Denoised(jnp.sin(x), x**2), SCHEDULES["rectified"], X_T, 0.7, 0.3, ())
    x = X_T.astype(np.float64)
    np.testing.assert_allclose(found[0], x + (0.3 - 0.7) * (x**2 - np.sin(x)), rtol=1e-5, atol=1e-6)


def test_on_the_karras_schedule_euler_is_edms():
    """x + (sigma_s - sigma_t) (x - D(x; sigma_t))/sigma_t for any D (Karras et al. 2022, Alg. 1)."""
    schedule = SCHEDULES["karras"]
    sigma_t, sigma_s = scales(schedule, np.float32([0.7, 0.4]))[1]

    def denoise(x, t):
        return dj.Denoised(jnp.sin(x), (x - jnp.sin(x)) / schedule.sigma(t))

    x = 5 * X_T.astype(np.float64)
    found = Euler().step(None, denoise, schedule, jnp.asarray(5 * X_T), 0.7, 0.4, ())[0]
    np.testing.assert_allclose(found, x + (sigma_s - sigma_t) * (x - np.sin(x)) / sigma_t, rtol=1e-5, atol=1e-5)


def test_samples_with_eta_above_1_have_the_law_of_their_chain():
    """From zero SNR to data, where the last step adds no noise."""
    schedule, data, steps = SCHEDULES["rectified"], Gaussian(0.3, 0.5), 20

    def most(at_t, at_s):
        return min(at_s[1] ** 2, 1.5**2 * posterior_variance(at_t, at_s))

    def draw(key):
        sampler = EulerAncestral(1.5)
        return dj.sample(key, _exact(schedule, data), schedule, (2000, 2, 2, 1), sampler=sampler, steps=steps)

    alphas, sigmas = scales(schedule, dj.grids.Uniform()(schedule, steps))
    mean, std = ancestral_law(data, alphas, sigmas, most, most)
    assert_moments(quick_jit(draw)(jax.random.key(0)), mean, std)


@pytest.mark.parametrize("eta", [-0.1, float("nan")])
def test_a_wrong_eta_is_refused(eta):
    with pytest.raises(ValueError, match=f"eta = {eta}: must be >= 0"):
        EulerAncestral(eta)
