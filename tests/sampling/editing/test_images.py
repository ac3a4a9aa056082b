"""Every editing function refuses images of the wrong shape, type or range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj

SCHEDULE = dj.schedules.Cosine()
MASK = np.ones((4, 4, 1))


def denoise(x_t, t):
    return dj.Denoised(x_t, x_t)


EDITS = {
    "image_to_image": lambda x: dj.editing.image_to_image(jax.random.key(0), denoise, SCHEDULE, x, 0.5),
    "inpaint": lambda x: dj.editing.inpaint(jax.random.key(0), denoise, SCHEDULE, x, MASK),
    "invert": lambda x: dj.editing.invert(denoise, SCHEDULE, x),
    "decode": lambda x: dj.editing.decode(denoise, SCHEDULE, x),
    "interpolate": lambda x: dj.editing.interpolate(denoise, SCHEDULE, x, x, [0.5]),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_integers_and_single_images_are_refused(edit):
    with pytest.raises(ValueError, match="(images|latents|x) has dtype uint8: must be floats"):
        edit(np.zeros((2, 4, 4, 1), np.uint8))
    with pytest.raises(ValueError, match=r"(images|latents) has shape \(4, 4, 1\): must be \[B, H, W, C\]"):
        edit(jnp.zeros((4, 4, 1)))


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_values_that_are_not_finite_are_refused(edit):
    with pytest.raises(ValueError, match="(images|latents) has values that are not finite"):
        edit(np.full((2, 4, 4, 1), np.nan))


@pytest.mark.parametrize("name", [name for name in EDITS if name != "decode"])
def test_the_range_of_bytes_is_refused(name):
    with pytest.raises(ValueError, match=r"images are from 0 to 255: must be floats in \[-1, 1\]"):
        EDITS[name](np.linspace(0, 255, 32).reshape(2, 4, 4, 1))
