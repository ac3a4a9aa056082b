"""What every network shares: the channels of its output, its estimate of x0 as input, its variance as output."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import abstract, inputs, output, randoms

from diffusion_jax.models import ConvNeXtUNet, FiLMUNet

FILM = partial(FiLMUNet, width=8, multipliers=(1, 2), attention=(4,), heads=2, head_channels=4)
CONVNEXT = partial(
    ConvNeXtUNet, channels=(4, 6), strides=(2,), last_width=3, attention=(4,), expansion=2, embedding_width=8
)
# One level: quick to compile.
SHALLOW = {
    "film": partial(FILM, multipliers=(1,), attention=()),
    "convnext": partial(CONVNEXT, channels=(4,), strides=(), attention=()),
}


@pytest.mark.parametrize("make", [FILM, CONVNEXT], ids=SHALLOW)
def test_the_number_of_output_channels_can_be_set(make):
    model = make(out_channels=5)
    x, time = inputs()
    assert jax.eval_shape(model.apply, abstract(model), x, time).shape == (2, 8, 8, 5)


@pytest.mark.parametrize("make", SHALLOW.values(), ids=SHALLOW)
def test_the_guess_follows_x_and_the_variance_follows_the_prediction(make):
    """Equal to a network with twice the input channels and twice the output channels."""
    x, time = inputs()
    guess = np.random.default_rng(3).normal(size=x.shape).astype(np.float32)
    model = make(learn_variance=True, self_condition=True)
    params = randoms(abstract(model))
    seen = np.concatenate([x, np.clip(guess, -1, 1)], axis=-1)
    expected = output(make(), seen, time, params=params)
    assert expected.shape == (2, 8, 8, 2)
    found = output(model, x, time, params=params, x0_hat=guess)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", SHALLOW.values(), ids=SHALLOW)
@pytest.mark.parametrize("shape", [(8, 8, 1), (2, 6)], ids=["one image", "points"])
def test_data_that_are_no_batch_of_images_are_refused(make, shape):
    x, time = jnp.zeros(shape), jnp.zeros(shape[0])
    with pytest.raises(ValueError, match=r"x has shape \(.*\): must be \[B, H, W, C\]"):
        jax.eval_shape(make().init, jax.random.key(0), x, time)
