"""The laws of chains against simulation and against the product of Gaussians."""

import numpy as np
import pytest

from diffusion_jax.oracles import (
    Gaussian,
    ancestral_law,
    half_noise,
    no_noise,
    posterior_variance,
    step_variance,
    step_variance_unless_data,
)

AT_T, AT_S = (0.6, 0.8), (0.8, 0.6)


def test_the_posterior_is_the_product_of_two_gaussians():
    """1/variance adds up: that of q(x_s | x0), and that of q(x_t | x_s) as a function of x_s."""
    ratio = AT_T[0] / AT_S[0]
    precision = 1 / AT_S[1] ** 2 + ratio**2 / step_variance(AT_T, AT_S)
    assert posterior_variance(AT_T, AT_S) == pytest.approx(1 / precision)


def test_a_step_restores_the_marginal():
    assert (AT_T[0] / AT_S[0] * AT_S[1]) ** 2 + step_variance(AT_T, AT_S) == pytest.approx(AT_T[1] ** 2)


def test_noise_is_absent_where_the_name_says():
    data = (1.0, 0.0)
    assert no_noise(AT_T, AT_S) == 0
    assert posterior_variance(AT_T, data) == half_noise(AT_T, data) == step_variance_unless_data(AT_T, data) == 0
    assert step_variance_unless_data(AT_T, AT_S) == step_variance(AT_T, AT_S) > 0
    assert half_noise(AT_T, AT_S) == posterior_variance(AT_T, AT_S) / 4


@pytest.mark.parametrize("noise", [no_noise, half_noise, posterior_variance])
def test_the_law_is_that_of_simulated_chains(noise):
    data, rng = Gaussian(0.3, 0.5), np.random.default_rng(0)
    alphas, sigmas = np.array([0.1, 0.5, 0.8, 1.0]), np.array([0.99, 0.85, 0.6, 0.0])
    x = sigmas[0] * rng.normal(size=200_000)
    for i in range(3):
        at_t, at_s = (alphas[i], sigmas[i]), (alphas[i + 1], sigmas[i + 1])
        residual = (x - at_t[0] * data.mean) / (at_t[0] ** 2 * data.std**2 + at_t[1] ** 2)
        x0, eps = data.mean + at_t[0] * data.std**2 * residual, at_t[1] * residual
        variance = noise(at_t, at_s)
        x = at_s[0] * x0 + np.sqrt(at_s[1] ** 2 - variance) * eps + np.sqrt(variance) * rng.normal(size=x.size)
    mean, std = ancestral_law(data, alphas, sigmas, noise, noise)
    assert x.mean() == pytest.approx(mean, abs=5 * std / np.sqrt(x.size))
    assert x.std() == pytest.approx(std, abs=5 * std / np.sqrt(2 * x.size))
