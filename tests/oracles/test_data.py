"""The closed forms agree with one another and with numerical integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, quick_jit
from scipy.integrate import quad

from diffusion_jax.oracles import Correlated, Gaussian, Mixture, PointMass, scales

DATA = [Gaussian(0.3, 0.5), PointMass(0.2), Correlated(), Mixture()]
BY_NAME = {"argvalues": DATA, "ids": lambda data: type(data).__name__}


@pytest.mark.parametrize("data", **BY_NAME)
def test_the_flow_has_the_slope_of_the_denoiser(data):
    """x0 d(alpha) + eps d(sigma), by central differences."""
    x = np.linspace(-1.0, 1.2, 6).reshape(3, 2)
    at, h = (0.8, 0.6), 1e-4
    d_alpha, d_sigma = -0.6 * h, 0.8 * h
    ahead, behind = ((at[0] + k * d_alpha, at[1] + k * d_sigma) for k in (1, -1))
    slope = (data.flow(x, at, ahead) - data.flow(x, at, behind)) / (2 * h)
    found = quick_jit(lambda x: data.denoised(x, *at))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(slope, -0.6 * found.x0 + 0.8 * found.eps, atol=1e-3)


@pytest.mark.parametrize("data", **BY_NAME)
def test_the_parts_add_up_to_x_t(data):
    x = jnp.linspace(-1.0, 1.2, 6).reshape(3, 2)
    found = quick_jit(lambda x: data.denoised(x, 0.8, 0.6))(x)
    np.testing.assert_allclose(0.8 * found.x0 + 0.6 * found.eps, x, atol=1e-6)


@pytest.mark.parametrize("data", [Gaussian(0.3, 0.5), Mixture()], ids=lambda data: type(data).__name__)
def test_the_denoiser_is_the_mean_under_the_density(data):
    """E[x0 | x_t] by quadrature of p(x0) N(x_t; alpha x0, sigma^2)."""
    alpha, sigma = 0.8, 0.6

    def moment(n, x_t):
        def integrand(x0):
            return x0**n * np.exp(data.log_density(x0) - (x_t - alpha * x0) ** 2 / (2 * sigma**2))

        return quad(integrand, -4, 4, points=[-0.6, 0.3, 0.5])[0]

    for x_t in (-0.9, 0.4):
        x0 = quick_jit(lambda x: data.denoised(x, alpha, sigma).x0)(jnp.float32([x_t]))
        assert x0.item() == pytest.approx(moment(1, x_t) / moment(0, x_t), abs=1e-5)


def test_the_density_of_a_pair_is_a_product_along_its_axes():
    data = Correlated(correlation=0.0)
    x = np.array([[0.1, 0.2], [1.0, -0.3]])
    each = Gaussian(np.array(data.mean), np.array(data.std)).log_density(x)
    np.testing.assert_allclose(data.log_density(x), each.sum(-1))


def test_the_density_of_a_pair_integrates_to_one():
    grid = np.linspace(-4, 4, 401)
    pairs = np.stack(np.meshgrid(grid, grid), -1)
    assert np.exp(Correlated().log_density(pairs)).sum() * 0.02**2 == pytest.approx(1, abs=1e-6)


def test_the_cdf_of_a_mixture_is_the_integral_of_its_density():
    data = Mixture()
    integral = quad(lambda x: np.exp(data.log_density(x)), -4, 0.1, points=[-0.6])[0]
    assert data.cdf(0.1) == pytest.approx(integral, abs=1e-8)


def test_a_point_mass_is_a_gaussian_without_width():
    x = jnp.ones((2, 1))
    assert PointMass(0.2).std == 0
    np.testing.assert_array_equal(PointMass(0.2).denoised(x, 0.8, 0.6).x0, Gaussian(0.2, 0.0).denoised(x, 0.8, 0.6).x0)


def test_scales_are_float64():
    alpha, sigma = scales(SCHEDULES["karras"], np.array([0.0, 1.0]))
    assert alpha.dtype == sigma.dtype == np.float64
    assert isinstance(SCHEDULES["karras"].alpha(0.5), jax.Array)
