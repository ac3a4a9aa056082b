"""Loss weights, against their formulas and in the form that each prediction type gives them."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import predictions
from diffusion_jax.training import losses


@pytest.mark.parametrize("sigma_data", [0.2, 0.5, 1.0])
def test_edm_weighs_the_output_of_its_own_network_by_one(sigma_data):
    """The reason for the preconditioning: at every noise level the error of the output counts the same."""
    weight = losses.EDM(sigma_data)(predictions.Preconditioned(sigma_data), jnp.linspace(-15, 15, 61))
    np.testing.assert_allclose(weight, 1, rtol=1e-5)


def test_sigmoid_weighs_the_noise_by_a_sigmoid():
    log_snr = jnp.linspace(-10, 10, 21)
    weight = losses.Sigmoid(bias=2.0)(predictions.Eps(), log_snr)
    np.testing.assert_allclose(weight, 1 / (1 + np.exp(np.asarray(log_snr) - 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.MinSNR(0.0), "gamma = 0.0: must be > 0 and finite"),
        (lambda: losses.EDM(-1.0), "sigma_data = -1.0: must be > 0 and finite"),
        (lambda: losses.Sigmoid(float("nan")), "bias = nan: must be finite"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
