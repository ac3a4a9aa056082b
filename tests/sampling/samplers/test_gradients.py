"""Gradients through the samplers, against differences of the images themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, Gaussian, exact_denoiser
from slow import slow

import diffusion_jax as dj
from diffusion_jax.sampling import samplers as s

# With every traced setting away from its ends, where differences exist on both sides.
INSIDE = {
    "ddim": s.DDIM(0.5),
    "ddpm_small": s.DDPM("small"),
    "ddpm_large": s.DDPM("large"),
    "deis": s.DEIS(),
    "dpm_1": s.DPMSolverPP(1, 0.5),
    "dpm_2": s.DPMSolverPP(2, 0.5),
    "dpm_3": s.DPMSolverPP(3, 0.5),
    "dpm_2s": s.DPMSolverPP2S(0.5),
    "euler": s.Euler(),
    "euler_ancestral": s.EulerAncestral(0.5),
    "heun": s.Heun(0.2, 0.01, 50.0, 0.9),
    "midpoint": s.Midpoint(),
    "strided": s.StridedPosterior(0.3),
    "unipc": s.UniPC(),
    "self_conditioned": s.SelfConditioned(s.DDIM(0.5)),
}
ONE_OF_A_KIND = ["ddim", "ddpm_small", "dpm_2", "heun"]

AT_AN_END = {
    "ddim_0": s.DDIM(0.0),
    "ddim_1": s.DDIM(1.0),
    "dpm_1": s.DPMSolverPP(1, 0.0),
    "dpm_2": s.DPMSolverPP(2, 0.0),
    "dpm_3": s.DPMSolverPP(3, 0.0),
    "dpm_2s": s.DPMSolverPP2S(0.0),
    "euler_ancestral": s.EulerAncestral(0.0),
    "heun": s.Heun(0.0),
    "strided": s.StridedPosterior(0.0),
}


@functools.cache
def energy(schedule, steps=4):
    """(sampler, gain, noise) -> mean square of the images of a network that multiplies the exact x0 by `gain`."""
    noise_schedule = SCHEDULES[schedule]
    exact = exact_denoiser(Gaussian(0.3, 0.5), noise_schedule)

    def mean_square(sampler, gain, noise):
        def denoise(x_t, t, **kwargs):
            here = exact(x_t, t)
            return dj.sampling.denoiser.replace_x0(here, gain * here.x0, noise_schedule, t)

        key, settings = jax.random.key(1), {"sampler": sampler, "steps": steps, "noise": noise}
        x = dj.sample(key, denoise, noise_schedule, noise.shape, **settings)
        return jnp.mean(x**2)

    return jax.jit(mean_square), jax.jit(jax.grad(mean_square, argnums=(0, 1, 2)))


def differences(f, h):
    """f'(0), by central differences of fourth order."""
    return float(8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


# Churn moves a discrete schedule's time by jumps: its derivative is 0 almost everywhere.
@pytest.mark.parametrize(
    ("name", "schedule"),
    [(name, "rectified") for name in ONE_OF_A_KIND]
    + slow(*((name, "rectified") for name in INSIDE if name not in ONE_OF_A_KIND), ("heun", "karras")),
)
def test_they_are_the_differences_by_settings_noise_and_parameters(name, schedule):
    sampler, (f, gradient) = INSIDE[name], energy(schedule)
    noise, way = jax.random.normal(jax.random.key(2), (2, 2, 4, 4, 1))
    by_sampler, by_gain, by_noise = gradient(sampler, jnp.float32(1), noise)
    close = functools.partial(np.testing.assert_allclose, rtol=0.01, atol=1e-3)
    close(by_gain, differences(lambda h: f(sampler, jnp.float32(1 + h), noise), 0.03))
    close(jnp.vdot(by_noise, way), differences(lambda h: f(sampler, jnp.float32(1), noise + h * way), 0.03))
    leaves, shape = jax.tree.flatten(sampler)
    for i, slope in enumerate(jax.tree.leaves(by_sampler)):

        def moved(h, i=i):
            values = [value + h * (i == j) for j, value in enumerate(leaves)]
            return f(jax.tree.unflatten(shape, map(jnp.float32, values)), jnp.float32(1), noise)

        close(slope, differences(moved, 0.003 if leaves[i] < 0.1 else 0.02))


@pytest.mark.parametrize(
    "name", ["ddim_0", "dpm_2", *slow(*(name for name in AT_AN_END if name not in ("ddim_0", "dpm_2")))]
)
def test_they_are_finite_where_a_setting_is_at_its_end(name):
    gradients = energy("cosine", 2)[1](AT_AN_END[name], jnp.float32(1), jnp.ones((2, 4, 4, 1)))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_without_noise_ddim_feels_the_noise_that_eta_would_add():
    """Its derivative at eta = 0, from one side only."""
    f, gradient = energy("cosine")
    noise = jax.random.normal(jax.random.key(2), (2, 4, 4, 1))

    def at(eta):
        return f(s.DDIM(jnp.float32(eta)), jnp.float32(1), noise)

    one_sided = (-3 * at(0.0) + 4 * at(0.02) - at(0.04)) / 0.04
    np.testing.assert_allclose(gradient(s.DDIM(0.0), jnp.float32(1), noise)[0].eta, one_sided, rtol=0.02)
    assert abs(one_sided) > 0.01


def test_a_learned_variance_has_gradients_in_the_step_to_data():
    schedule = SCHEDULES["cosine"]
    exact = exact_denoiser(Gaussian(0.3, 0.5), schedule)

    def mean_square(fraction):
        def denoise(x_t, t):
            here = exact(x_t, t)
            return dj.Denoised(here.x0, here.eps, jnp.broadcast_to(fraction, x_t.shape))

        return jnp.mean(dj.sample(key, denoise, schedule, (2, 4, 4, 1), sampler=s.DDPM("learned"), steps=3) ** 2)

    key, f = jax.random.key(0), jax.jit(mean_square)
    expected = differences(lambda h: f(jnp.float32(0.5 + h)), 0.05)
    np.testing.assert_allclose(jax.jit(jax.grad(mean_square))(jnp.float32(0.5)), expected, rtol=0.01)


def test_rescaled_guidance_has_a_gradient_where_an_image_has_one_colour():
    schedule = dj.schedules.RectifiedFlow()

    def flat(x_t, t):
        return dj.Denoised(jnp.full_like(x_t, 0.5), x_t)

    def mean_square(factor):
        denoise = dj.guidance.rescale(lambda x, t: dj.Denoised(0 * x + factor, x), flat, schedule, 0.7)
        return jnp.mean(denoise(jnp.zeros((1, 4, 4, 1)), 0.5).x0 ** 2)

    np.testing.assert_allclose(jax.grad(mean_square)(0.5), 1.0, rtol=1e-6)
