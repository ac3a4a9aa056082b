"""Inpainting of two correlated pixels, whose law is known at every step, and of arbitrary images."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, posterior_variance, quick_jit, scales, step_variance

import diffusion_jax as dj
from diffusion_jax.sampling.editing import inpaint
from diffusion_jax.sampling.editing.inpainting import insert_jumps
from diffusion_jax.sampling.samplers import DDIM, DDPM, DPMSolverPP, Heun

MEAN = np.array([0.2, -0.1])
COVARIANCE = np.array([[0.3, 0.24], [0.24, 0.25]])
Y = 0.9  # the first pixel, 1.3 standard deviations from its mean
LEFT = np.array([1.0, 0.0]).reshape(1, 2, 1)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 2, 3, 2)).astype(np.float32)
FLOW = SCHEDULES["rectified"]
MASK = np.array([[1, 0, 1], [0, 0, 1]]).reshape(2, 3, 1)


def pair(schedule):
    """The exact denoiser of two pixels."""

    def denoise(x_t, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        inverse = jnp.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * jnp.eye(2))
        surprise = (x_t.reshape(-1, 2) - alpha * MEAN) @ inverse
        x0, eps = MEAN + alpha * surprise @ COVARIANCE, sigma * surprise
        return dj.Denoised(x0.reshape(x_t.shape), eps.reshape(x_t.shape))

    return denoise


def shrink(x_t, t):
    """A denoiser for images of any shape, in which neighbours have an effect."""
    schedule = FLOW
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0 = 0.7 * jnp.tanh(alpha * (x_t + jnp.roll(x_t, 1, axis=2)))
    return dj.Denoised(x0, (x_t - alpha * x0) / sigma)


def law(schedule, times) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x at the last of the times, by DDPM: every step is linear in x, or a jump."""
    alpha, sigma = scales(schedule, times[0])
    mean, covariance = np.array([alpha * Y, 0.0]), sigma**2 * np.eye(2)
    for t, s in pairwise(times):
        at_t, at_s = scales(schedule, t), scales(schedule, s)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
        if s > t:
            factor, shift, added = alpha_s / alpha_t * np.eye(2), 0.0, step_variance(at_s, at_t)
        else:
            added = posterior_variance(at_t, at_s)
            a = np.sqrt(sigma_s**2 - added) / sigma_t
            gain = alpha_t * COVARIANCE @ np.linalg.inv(alpha_t**2 * COVARIANCE + sigma_t**2 * np.eye(2))
            factor = a * np.eye(2) + (alpha_s - a * alpha_t) * gain
            shift = (alpha_s - a * alpha_t) * (MEAN - alpha_t * gain @ MEAN)
        mean = factor @ mean + shift
        covariance = factor @ covariance @ factor.T + added * np.eye(2)
        if s < t:
            mean[0], covariance[0], covariance[:, 0] = alpha_s * Y, 0.0, 0.0
            covariance[0, 0] = sigma_s**2
    return mean, covariance


def generate_second(schedule, n, **settings) -> np.ndarray:
    """The second pixel of n samples, given the first."""
    images = np.full((n, 1, 2, 1), Y, np.float32)
    x = quick_jit(lambda key: inpaint(key, pair(schedule), schedule, images, LEFT, sampler=DDPM(), **settings))(
        jax.random.key(0)
    )
    return np.asarray(x)[:, 0, 1, 0]


@pytest.mark.parametrize("name", ["rectified", "karras"])
def test_replacing_and_jumping_back_have_the_law_of_their_linear_steps(name):
    schedule, n = SCHEDULES[name], 20_000
    x = generate_second(schedule, n, steps=8, resamples=4)
    mean, covariance = law(schedule, insert_jumps(dj.grids.Uniform()(schedule, 8), 1, 4))
    std = np.sqrt(covariance[1, 1])
    assert abs(x.mean() - mean[1]) < 5 * std / np.sqrt(n)
    assert abs(x.std() - std) < 5 * std / np.sqrt(2 * n)


@pytest.mark.slow
def test_resampling_closes_the_gap_to_the_law_given_the_known_pixel():
    wanted = MEAN[1] + COVARIANCE[0, 1] / COVARIANCE[0, 0] * (Y - MEAN[0])
    std = np.sqrt(COVARIANCE[1, 1] - COVARIANCE[0, 1] ** 2 / COVARIANCE[0, 0])
    schedule = FLOW
    replaced = generate_second(schedule, 2000, steps=50)
    resampled = generate_second(schedule, 2000, steps=50, resamples=10)
    assert abs(replaced.mean() - wanted) > 0.15
    assert abs(resampled.mean() - wanted) < 0.04
    assert replaced.std() > 1.1 * std > resampled.std()


@pytest.mark.parametrize(
    ("steps", "jump_length", "resamples", "left"),
    [
        (3, 1, 1, [3, 2, 1, 0]),
        (3, 1, 2, [3, 2, 3, 2, 1, 2, 1, 0]),  # Lugmayr et al. 2022, Alg. 1 with U = 2
        (4, 2, 3, [4, 3, 2, 4, 3, 2, 4, 3, 2, 1, 0]),
        (5, 2, 2, [5, 4, 3, 2, 4, 3, 2, 1, 0]),
        (4, 9, 1, [4, 3, 2, 1, 0]),
    ],
)
def test_the_jumps_go_back_up_and_down_again(steps, jump_length, resamples, left):
    times = np.linspace(1, 0, steps + 1)
    np.testing.assert_allclose(insert_jumps(times, jump_length, resamples) * steps, left, atol=1e-12)


def test_known_pixels_are_returned_bit_for_bit_by_every_sampler():
    samplers = (DDPM("large"), Heun(), DPMSolverPP())

    @quick_jit
    def edit(key):
        return [inpaint(key, shrink, FLOW, IMAGES, MASK, sampler=s, steps=4, resamples=2) for s in samplers]

    known = np.broadcast_to(MASK == 1, IMAGES.shape)
    for x in edit(jax.random.key(1)):
        np.testing.assert_array_equal(np.asarray(x)[known], IMAGES[known])
        assert np.isfinite(x).all()
        assert np.abs(x - IMAGES)[~known].min() > 1e-6


def test_masks_are_traced_and_nothing_known_is_sampling():
    """One compile for a partial mask, an empty one and a full one."""
    compiled = []

    @jax.jit
    def edit(mask):
        compiled.append(1)
        return inpaint(jax.random.key(0), shrink, FLOW, IMAGES, mask, sampler=DDPM(), steps=5)

    sampled = dj.sample(jax.random.key(0), shrink, FLOW, IMAGES.shape, sampler=DDPM(), steps=5)
    np.testing.assert_allclose(edit(np.zeros_like(MASK)), sampled, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(edit(np.ones_like(MASK)), IMAGES)
    assert np.abs(edit(MASK) - sampled).max() > 0.1
    assert len(compiled) == 1


def test_an_image_depends_on_its_own_mask_and_index_and_not_on_unknown_pixels():
    masks = np.random.default_rng(2).integers(0, 2, (4, 2, 3, 2))
    hidden = np.where(masks, IMAGES, np.nan)

    @quick_jit
    def edit(key):
        whole = inpaint(key, shrink, FLOW, IMAGES, masks, sampler=DDPM(), steps=5)
        part = inpaint(
            key,
            shrink,
            FLOW,
            hidden[1:3],
            masks[1:3],
            sampler=DDPM(),
            steps=5,
            indices=np.array([1, 2]),
        )
        return whole, part

    whole, part = edit(jax.random.key(0))
    np.testing.assert_array_equal(part, whole[1:3])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"mask": np.ones((2, 3))},
            r"mask has shape \(2, 3\): must be \[2, 3, 1\], \[2, 3, 2\], \[4, 2, 3, 1\] or \[4, 2, 3, 2\]",
        ),
        ({"mask": np.ones((3, 2, 3, 1))}, r"mask has shape \(3, 2, 3, 1\)"),
        (
            {"mask": np.full((2, 3, 1), 0.5)},
            "mask has values other than 0 and 1: must be 1 where a pixel is known",
        ),
        ({"resamples": 0}, "resamples = 0: must be an integer >= 1"),
        ({"jump_length": 0}, "jump_length = 0: must be an integer >= 1"),
        ({"resamples": 2, "jump_length": 6, "steps": 10}, "jump_length = 6: must be at most half of the 10 steps"),
        ({"steps": 0}, "steps = 0"),
        ({"sampler": "DDIM"}, "sampler = 'DDIM': must be of type Sampler"),
        ({"sampler": DDIM(np.zeros(2))}, r"sampler.eta has shape \(2,\): must be one number"),
        ({"noise": np.zeros((4, 2, 3, 1))}, "noise has shape"),
        ({"indices": np.arange(3)}, "indices has shape"),
    ],
)
def test_bad_arguments_are_refused(wrong, message):
    arguments = {"images": IMAGES, "mask": MASK} | wrong
    with pytest.raises(ValueError, match=message):
        inpaint(jax.random.key(0), shrink, FLOW, **arguments)
