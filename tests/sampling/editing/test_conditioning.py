"""The denoiser given a measurement: exact on Gaussian data, and harmless where it cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, quick_jit, scales

import diffusion_jax as dj
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.sampling.editing import Downsample, Grayscale, Mask
from diffusion_jax.sampling.editing.conditioning import conditioned
from diffusion_jax.sampling.samplers import DDIM, DPMSolverPP

SHAPE = (2, 2, 3)
SIZE = 12
FACTOR = np.random.default_rng(0).normal(size=(SIZE, SIZE)) / 5
COVARIANCE = FACTOR @ FACTOR.T + 0.02 * np.eye(SIZE)
MEAN = np.linspace(-0.5, 0.5, SIZE)
KNOWN = np.array([[1, 0], [0, 1]]).reshape(2, 2, 1)
MEASUREMENTS = {"downsample": Downsample(2), "grayscale": Grayscale(), "mask": Mask(KNOWN)}


def exact(schedule):
    """E[x0 | x_t] of N(MEAN, COVARIANCE)."""

    def denoise(x_t, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        surprise = (x_t.reshape(-1, SIZE) - alpha * MEAN) @ jnp.linalg.inv(
            alpha**2 * COVARIANCE + sigma**2 * jnp.eye(SIZE)
        )
        x0, eps = MEAN + alpha * surprise @ COVARIANCE, sigma * surprise
        return dj.Denoised(x0.reshape(x_t.shape), eps.reshape(x_t.shape))

    return denoise


def matrix(measurement) -> np.ndarray:
    pixels = np.eye(SIZE, dtype=np.float32).reshape(-1, *SHAPE)
    return np.asarray(measurement.forward(pixels), np.float64).reshape(SIZE, -1).T


def given_all(observations) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x0 given (matrix, value, variance of the noise) observations, by Bayes' rule."""
    a = np.concatenate([row for row, _, _ in observations])
    values = np.concatenate([value for _, value, _ in observations])
    noise = np.concatenate([np.full(len(value), variance) for _, value, variance in observations])
    gain = COVARIANCE @ a.T @ np.linalg.pinv(a @ COVARIANCE @ a.T + np.diag(noise))
    return MEAN + gain @ (values - a @ MEAN), COVARIANCE - gain @ a @ COVARIANCE


@pytest.mark.parametrize(("what", "name"), [("downsample", "cosine"), ("grayscale", "rectified"), ("mask", "karras")])
def test_it_is_the_mean_given_both_the_noisy_image_and_the_measurement(what, name):
    schedule, measurement, times = SCHEDULES[name], MEASUREMENTS[what], np.float32([0.15, 0.4, 0.7])
    x_t = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    y = measurement.forward(np.random.default_rng(2).normal(size=(1, *SHAPE)).astype(np.float32))

    @quick_jit
    def at(t, noise_std):
        denoise = conditioned(exact(schedule), schedule, measurement, y, noise_std, iterations=12, lowest_snr=0)
        return denoise(x_t[:1], t)

    for t in times:
        for noise_std in (0.05, 0.5):
            alpha, sigma = scales(schedule, t)
            here = at(t, noise_std)
            seen = (alpha * np.eye(SIZE), x_t[0].ravel().astype(np.float64), sigma**2)
            known = (matrix(measurement), np.asarray(y, np.float64).ravel(), noise_std**2)
            wanted = given_all([seen, known])[0]
            np.testing.assert_allclose(here.x0.ravel(), wanted, rtol=0, atol=0.01 * np.abs(wanted).max())
            np.testing.assert_allclose(alpha * here.x0 + sigma * here.eps, x_t[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", [DDIM(eta=1.0), DPMSolverPP()], ids=str)
def test_samples_have_the_law_given_the_measurement(sampler):
    """Two numbers known of twelve, with a little noise: their mean and whole covariance."""
    n, noise_std, schedule = 4096, 0.1, SCHEDULES["rectified"]
    measurement = Downsample(2)
    y = np.array([0.6, -0.4, 0.3], np.float32).reshape(1, 1, 1, 3)

    @quick_jit
    def draw(key):
        denoise = conditioned(
            exact(schedule), schedule, measurement, jnp.tile(y, (n, 1, 1, 1)), noise_std, lowest_snr=0
        )
        return dj.sample(key, denoise, schedule, (n, *SHAPE), sampler=sampler, steps=60)

    x = np.asarray(draw(jax.random.key(0)), np.float64).reshape(n, SIZE)
    mean, covariance = given_all([(matrix(measurement), y.ravel(), noise_std**2)])
    std = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((x.mean(0) - mean) / std, 0, atol=5 / np.sqrt(n) + 0.05)
    scaled = (np.cov(x.T) - covariance) / np.outer(std, std)
    np.testing.assert_allclose(scaled, 0, atol=5 * np.sqrt(2 / n) + 0.05)


def test_without_noise_the_measurement_is_met_and_with_much_noise_ignored():
    schedule, measurement = SCHEDULES["cosine"], Grayscale()
    x_t = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    y = np.ones((2, 2, 2, 1), np.float32)
    compiled = []

    @jax.jit
    def at(y, noise_std):
        compiled.append(1)
        return conditioned(exact(schedule), schedule, measurement, y, noise_std, iterations=8)(x_t, 0.5)

    np.testing.assert_allclose(measurement.forward(at(y, 0.0).x0), y, atol=2e-3)
    np.testing.assert_allclose(at(-y, 1e4).x0, exact(schedule)(x_t, 0.5).x0, atol=1e-5)
    assert len(compiled) == 1  # another y or noise does not recompile


def test_without_signal_it_is_pseudo_inverse_guidance_of_unit_variance():
    schedule, measurement = SCHEDULES["rectified"], Downsample(2)  # alpha(1) = 0
    x_t, y = np.ones((1, *SHAPE), np.float32), np.full((1, 1, 1, 3), 0.8, np.float32)
    here = conditioned(exact(schedule), schedule, measurement, y, 0.5)(x_t, 1.0)
    mean = MEAN.reshape(1, *SHAPE)
    surprise = 0.8 - mean.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(here.x0, mean + surprise / 4 / (1 / 4 + 0.5**2), atol=1e-5)
    np.testing.assert_allclose(here.eps, x_t, atol=1e-6)


def test_a_denoiser_without_a_positive_covariance_is_unchanged():
    schedule, y = SCHEDULES["cosine"], np.ones((1, 1, 1, 3), np.float32)
    x_t = np.random.default_rng(3).normal(size=(1, *SHAPE)).astype(np.float32)
    here = conditioned(lambda x, t: dj.Denoised(-x, x), schedule, Downsample(2), y)(x_t, 0.5)
    np.testing.assert_array_equal(here.x0, -x_t)


def test_images_are_independent_and_keyword_arguments_and_the_fraction_pass_through():
    """Conjugate gradients run per image; the learned fraction and x0_hat pass through."""
    schedule = SCHEDULES["cosine"]
    rng = np.random.default_rng(4)
    x_t, y = (rng.normal(size=(3, *shape)).astype(np.float32) for shape in (SHAPE, (1, 1, 3)))

    def denoise(x, t, x0_hat):
        here = exact(schedule)(x, t)
        return Denoised(here.x0 + 0 * x0_hat, here.eps, jnp.full_like(x, 0.25))

    def at(rows):
        wrapped = conditioned(denoise, schedule, Downsample(2), y[rows], np.full(len(rows), 0.1), iterations=1)
        return wrapped(x_t[rows], 0.3, x0_hat=x_t[rows])

    whole, part = at([0, 1, 2]), at([1, 2])
    np.testing.assert_allclose(part.x0, whole.x0[1:], rtol=0, atol=1e-5)
    assert part.variance_fraction is not None
    assert (part.variance_fraction == 0.25).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise_std": -0.1}, "noise_std = -0.1: must be >= 0 and finite"),
        ({"lowest_snr": -1.0}, "lowest_snr = -1.0: must be >= 0 and finite"),
        ({"iterations": 0}, "iterations = 0: must be an integer >= 1"),
        ({"noise_std": np.ones(2)}, r"noise_std has shape \(2,\): must be one number or \[1\]"),
        ({"y": np.ones(3)}, r"y has shape \(3,\): must be \[B, \.\.\.\]"),
        ({"y": np.full((1, 1, 1, 3), np.nan)}, "y has values that are not finite"),
        ({"y": np.ones((2, 1, 1, 3))}, r"y has shape \(2, 1, 1, 3\): must be \[1, 1, 1, 3\]"),
    ],
)
def test_bad_arguments_are_refused(wrong, message):
    schedule = SCHEDULES["cosine"]
    arguments = {"measurement": Downsample(2), "y": np.ones((1, 1, 1, 3))} | wrong
    with pytest.raises(ValueError, match=message):
        conditioned(exact(schedule), schedule, **arguments)(np.ones((1, *SHAPE), np.float32), 0.5)
