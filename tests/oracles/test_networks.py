"""Perfect networks give the exact answer, at the times that they know."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, predictions_for, quick_jit

from diffusion_jax.oracles import Gaussian, exact_denoiser, perfect_network, scales
from diffusion_jax.process.predictions import V


@pytest.mark.parametrize("where", ["linear", "rectified"])
def test_every_perfect_network_gives_the_exact_answer(where):
    schedule, data = SCHEDULES[where], Gaussian(0.3, 0.5)
    x = jnp.linspace(-1.0, 1.0, 4).reshape(2, 2, 1, 1)
    t = jnp.array([0.5, 0.9])

    @quick_jit
    def answers(x, t):
        networks = predictions_for(where).values()
        return [exact_denoiser(data, schedule, prediction)(x, t) for prediction in (None, *networks)]

    direct, *others = answers(x, t)
    for other in others:
        np.testing.assert_allclose(other.x0, direct.x0, atol=1e-4)
        np.testing.assert_allclose(other.eps, direct.eps, atol=1e-4)
    alpha, sigma = scales(schedule, t)
    exact = data.denoised(x, alpha.reshape(2, 1, 1, 1), sigma.reshape(2, 1, 1, 1))
    np.testing.assert_allclose(direct.x0, exact.x0, atol=1e-5)


def test_a_network_knows_only_the_times_of_its_table():
    denoise = exact_denoiser(Gaussian(), SCHEDULES["linear"], V())
    x = jnp.ones((3, 1, 1, 1))
    apply = quick_jit(lambda t: denoise(x, t).x0)
    assert np.isfinite(apply(jnp.array([0.001, 0.5, 1.0]))).all()
    network = perfect_network(Gaussian(), SCHEDULES["linear"], V())
    found = quick_jit(lambda t: network(None, x, t, None))(jnp.array([0.0005, 0.5005, 0.5]))
    assert np.isnan(found).reshape(3).tolist() == [True, True, False]
