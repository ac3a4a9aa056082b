import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.edit.tasks import clip_images, project


def test_projecting_ends_within_range_and_on_the_measurement():
    rng = np.random.default_rng(0)
    measurement = dj.editing.Downsample(2)
    y = jnp.asarray(rng.uniform(-1, 1, (2, 4, 4, 1)), jnp.float32).at[0, 0, 0, 0].set(1.0)  # an all-white block
    x = project(jnp.asarray(rng.normal(0, 2, (2, 8, 8, 1)), jnp.float32), measurement, y)
    assert float(jnp.abs(x).max()) <= 1
    np.testing.assert_allclose(measurement.forward(x), y, atol=1e-3)


def test_images_are_clipped_and_must_be_finite():
    np.testing.assert_array_equal(clip_images([-2.0, 0.5, 3.0]), [-1, 0.5, 1])
    with pytest.raises(ValueError, match="images are not finite; use more steps, or an earlier checkpoint"):
        clip_images([np.nan])
