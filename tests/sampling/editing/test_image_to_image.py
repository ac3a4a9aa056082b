"""Image-to-image on Gaussian data, whose probability flow is known from any time on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, Gaussian, assert_moments, quick_jit, scales

import diffusion_jax as dj
from diffusion_jax.sampling.editing import image_to_image
from diffusion_jax.sampling.editing.image_to_image import cut_times
from diffusion_jax.sampling.samplers import DDIM, DDPM, Heun

DATA = Gaussian(0.3, 0.5)
SHAPE = (4, 3, 2, 1)
IMAGES = np.linspace(-1, 1, 24, dtype=np.float32).reshape(SHAPE)
NOISE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def exact(schedule):
    return lambda x_t, t: DATA.denoised(x_t, schedule.alpha(t), schedule.sigma(t))


def edit(name, images=IMAGES, strength=0.6, key=0, **settings):
    schedule = SCHEDULES[name]
    return quick_jit(lambda key, images: image_to_image(key, exact(schedule), schedule, images, strength, **settings))(
        jax.random.key(key), images
    )


@pytest.mark.parametrize("name", ["cosine", "rectified", "karras"])
def test_it_is_noised_to_the_time_from_which_it_is_denoised(name):
    """The exact flow from alpha x + sigma noise at t; to denoise from the next time is far worse."""
    schedule = SCHEDULES[name]
    at_t, at_next, at_0 = (scales(schedule, t) for t in (0.6, 0.575, 0.0))
    x_t = at_t[0] * IMAGES + at_t[1] * NOISE
    x = edit(name, noise=NOISE, sampler=Heun(), steps=40)
    error, off_by_one = (np.abs(x - DATA.flow(x_t, at, at_0)).max() for at in (at_t, at_next))
    assert error < 0.012
    assert off_by_one > 5 * error, (error, off_by_one)


@pytest.mark.parametrize("sampler", [DDIM(eta=1.0), DDPM("large")], ids=str)
def test_results_have_the_law_of_images_given_a_noisy_image(sampler):
    """x0 ~ p(x0 | x_t) with x_t ~ q(x_t | image): both Gaussian. In the ancestral limit of many steps."""
    alpha, sigma = scales(SCHEDULES["cosine"], 0.5)
    gain = alpha * DATA.std**2 / (alpha**2 * DATA.std**2 + sigma**2)
    mean = DATA.mean + gain * alpha * (0.9 - DATA.mean)
    left = DATA.std**2 * (1 - gain * alpha)
    x = edit("cosine", np.full((64, 16, 16, 1), 0.9), 0.5, sampler=sampler, steps=500)
    assert_moments(x, mean, np.sqrt(gain**2 * sigma**2 + left), sigmas=7)


def test_at_strength_1_it_is_sampling():
    schedule = SCHEDULES["rectified"]  # alpha(1) = 0 exactly
    sampled = quick_jit(
        lambda: dj.sample(jax.random.key(0), exact(schedule), schedule, SHAPE, sampler=DDPM(), steps=8)
    )()
    np.testing.assert_array_equal(edit("rectified", strength=1.0, sampler=DDPM(), steps=8), sampled)


def test_at_a_small_strength_the_image_comes_back():
    x = edit("cosine", strength=0.002, steps=500, noise=NOISE)
    sigma = scales(SCHEDULES["cosine"], 0.002)[1]
    assert 0 < np.abs(x - IMAGES).max() < 4 * sigma < 0.06


def test_an_image_depends_on_its_index_and_not_on_the_batch():
    whole = edit("cosine", sampler=DDPM(), steps=5)
    part = edit("cosine", IMAGES[2:], sampler=DDPM(), steps=5, indices=np.array([2, 3]))
    np.testing.assert_array_equal(part, whole[2:])


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (1.0, [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]),
        (0.6, [0.6, 0.4, 0.2, 0.0]),  # 1 - 2/5 is a little more than 0.6
        (0.79, [0.6, 0.4, 0.2, 0.0]),
        (np.float32(0.2), [0.2, 0.0]),
        (np.nextafter(0.4, 0), [0.4, 0.2, 0.0]),  # or a float32 that is a little less
    ],
)
def test_the_times_are_those_not_above_the_strength(strength, expected):
    times = cut_times(dj.grids.Uniform()(SCHEDULES["cosine"], 5), strength)
    np.testing.assert_allclose(times, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan"), "a"])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match=f"strength = {strength!r}: must be "):
        edit("cosine", strength=strength)


def test_a_strength_below_the_grid_is_refused():
    with pytest.raises(ValueError, match="strength = 0.1: must be at least 0.2, the smallest time; use more steps"):
        edit("cosine", strength=0.1, steps=5)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"noise has shape \(1, 3, 2, 1\): must be \[4, 3, 2, 1\]"):
        edit("cosine", noise=NOISE[:1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": IMAGES[:1]}, r"start has shape \(1, 3, 2, 1\): must be \[4, 3, 2, 1\]"),
        ({"start": IMAGES, "noise": NOISE}, "noise and start are both set: must be one of them"),
    ],
)
def test_a_start_of_another_shape_is_refused(wrong, message):
    schedule = SCHEDULES["cosine"]
    with pytest.raises(ValueError, match=message):
        dj.sample(jax.random.key(0), exact(schedule), schedule, SHAPE, **wrong)


def test_another_image_or_key_does_not_recompile():
    schedule, compiled = SCHEDULES["cosine"], []

    @jax.jit
    def go(key, images):
        compiled.append(1)
        return image_to_image(key, exact(schedule), schedule, images, 0.5, steps=4)

    a, b = go(jax.random.key(0), jnp.asarray(IMAGES)), go(jax.random.key(1), -jnp.asarray(IMAGES))
    assert len(compiled) == 1
    assert np.abs(a - b).max() > 0.1
