"""Pictures that editing cannot take are refused by every function."""

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
def test_levels_and_single_pictures_are_refused(edit):
    with pytest.raises(ValueError, match="images are uint8: give floats in"):
        edit(np.zeros((2, 4, 4, 1), np.uint8))
    with pytest.raises(ValueError, match=r"images have shape \(4, 4, 1\)"):
        edit(jnp.zeros((4, 4, 1)))
