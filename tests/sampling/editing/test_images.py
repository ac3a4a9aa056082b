"""Every editing function takes data of any shape, and refuses images of the wrong shape, type or range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, exact_denoiser, quick_jit

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
def test_integers_and_single_numbers_are_refused(edit):
    with pytest.raises(ValueError, match="(images|latents|x) has dtype uint8: must be floats"):
        edit(np.zeros((2, 4, 4, 1), np.uint8))
    with pytest.raises(ValueError, match=r"(images|latents) has shape \(4,\): must be \[B, ...\]"):
        edit(jnp.zeros(4))


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_values_that_are_not_finite_are_refused(edit):
    with pytest.raises(ValueError, match="(images|latents) has values that are not finite"):
        edit(np.full((2, 4, 4, 1), np.nan))


@pytest.mark.parametrize("name", [name for name in EDITS if name != "decode"])
def test_the_range_of_bytes_is_refused(name):
    with pytest.raises(ValueError, match=r"images are from 0 to 255: must be floats in \[-1, 1\]"):
        EDITS[name](np.linspace(0, 255, 32).reshape(2, 4, 4, 1))


KEY = jax.random.key(0)
DATA = np.random.default_rng(0).normal(0, 0.8, (4, 6)).astype(np.float32)
KNOWN = np.array([1, 0, 0, 1, 1, 0])


def edit_everything(shape):
    """What sampling, guidance, editing and likelihood make of the six numbers of each row, as data of `shape`."""
    data, mask, schedule = DATA.reshape(-1, *shape), KNOWN.reshape(shape), dj.schedules.RectifiedFlow()
    plain = exact_denoiser(Gaussian(), schedule)
    exact = dj.guidance.rescale(dj.guidance.classifier_free(plain, plain, 2.0), plain, schedule, 0.5)
    measurement = dj.editing.Mask(mask)
    given = dj.editing.conditioned(plain, schedule, measurement, measurement.forward(data))
    settings = {"sampler": dj.samplers.DDPM(), "steps": 3}

    @quick_jit
    def edit(key):
        latents = dj.editing.invert(plain, schedule, data, steps=3)
        return {
            "sample": dj.sample(key, exact, schedule, data.shape, **settings),
            "conditioned": dj.sample(key, given, schedule, data.shape, **settings),
            "image_to_image": dj.editing.image_to_image(key, plain, schedule, data, 0.7, **settings),
            "inpaint": dj.editing.inpaint(key, plain, schedule, data, mask, **settings),
            "decode": dj.editing.decode(plain, schedule, latents, steps=3),
            "interpolate": dj.editing.interpolate(plain, schedule, data, -data, [0.3], steps=3)[0],
            "gradient": jax.grad(lambda x: jnp.sum(plain(x, 0.5).x0 ** 2))(data),
            "log_density": dj.likelihood.log_density(key, plain, schedule, data, steps=3).value[:, None],
        }

    return {name: np.asarray(x).reshape(4, -1) for name, x in edit(KEY).items()}


@pytest.fixture(scope="module")
def as_images():
    return edit_everything((2, 3, 1))


@pytest.mark.parametrize("shape", [(6,), (3, 2), (1, 3, 2, 1)], ids=["points", "audio", "volumes"])
def test_data_of_any_shape_are_edited_as_images_are(as_images, shape):
    for name, found in edit_everything(shape).items():
        np.testing.assert_allclose(found, as_images[name], rtol=0, atol=1e-5, err_msg=name)


def test_a_mask_of_other_data_is_refused():
    with pytest.raises(ValueError, match=r"mask has shape \(3,\): must be \[1\], \[2\], \[4, 1\] or \[4, 2\]"):
        dj.editing.inpaint(KEY, denoise, SCHEDULE, np.zeros((4, 2)), np.ones(3))


def test_blocks_of_pixels_need_images():
    with pytest.raises(ValueError, match=r"images has shape \(4, 6\): must be \[B, H, W, C\]"):
        dj.editing.Downsample(2).forward(jnp.zeros((4, 6)))
