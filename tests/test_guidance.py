"""Classifier-free guidance: the two ends bit for bit, linearity, and the direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, scales

import diffusion_jax as dj
from diffusion_jax.process.predictions import X0

SCHEDULE = SCHEDULES["cosine"]


def _network(factor):
    def apply(params, x, time, labels):
        return jnp.tanh(factor * x + 0.1)

    return dj.denoiser(apply, None, SCHEDULE, X0())


COND, UNCOND = _network(0.7), _network(-1.3)
X_T = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype(np.float32)


def _guided(scale, x_t=X_T, t=0.37):
    return dj.guidance.classifier_free(COND, UNCOND, scale)(x_t, t)


@pytest.mark.parametrize(("scale", "model"), [(1.0, COND), (0.0, UNCOND)])
@pytest.mark.parametrize("t", [1.0, 0.37, 0.001])
def test_1_is_the_conditional_and_0_the_unconditional_model_bit_for_bit(scale, model, t):
    found, exact = _guided(scale, t=t), model(X_T, t)
    np.testing.assert_array_equal(found.x0, exact.x0)
    np.testing.assert_array_equal(found.eps, exact.eps)


def test_guidance_is_linear_in_the_scale():
    """Equal steps of the scale are equal steps of both parts, through w = 0, 1 and beyond."""
    row = [np.asarray(_guided(w), np.float64) for w in (-1.0, 0.0, 1.0, 2.0, 5.0)]
    step = row[2] - row[1]
    for found, count in zip(row, (-1, 0, 1, 2, 5), strict=True):
        np.testing.assert_allclose(found, row[1] + count * step, rtol=1e-4, atol=1e-4)


def test_each_picture_may_have_its_own_scale():
    scales_of_each = np.array([0.0, 1.0, 2.0, 3.0, 7.5, -1.0])
    together = _guided(scales_of_each)
    for i, scale in enumerate(scales_of_each):
        alone = _guided(scale, X_T[i : i + 1])
        np.testing.assert_array_equal(together.x0[i], alone.x0[0])
        np.testing.assert_array_equal(together.eps[i], alone.eps[0])


def test_another_scale_never_recompiles():
    traces = []

    @jax.jit
    def run(scale):
        traces.append(scale)
        return _guided(scale)

    low, high = run(1.5), run(4.0)
    assert len(traces) == 1
    np.testing.assert_allclose(high.x0, _guided(4.0).x0, rtol=1e-4, atol=1e-4)
    assert not np.allclose(low.x0, high.x0)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_both_parts_still_add_up_to_x_t(scale):
    alpha, sigma = scales(SCHEDULE, 0.37)
    x0, eps = (np.asarray(part, np.float64) for part in _guided(scale))
    np.testing.assert_allclose(alpha * x0 + sigma * eps, X_T, rtol=0, atol=2e-5)


def _two_classes(labels=None):
    """Exact denoiser of 1/2 N(-0.6, 0.2^2) + 1/2 N(0.6, 0.2^2), or of the class where it is given."""
    means = np.array([-0.6, 0.6])

    def denoise(x_t, t):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        variance = alpha**2 * 0.04 + sigma**2
        surprise = (x_t[..., None] - alpha * means) / variance
        weight = jax.nn.softmax(-(surprise**2) * variance / 2, -1)
        if labels is not None:
            weight = jax.nn.one_hot(labels, 2)
        x0 = jnp.sum(weight * (means + alpha * 0.04 * surprise), -1)
        return dj.Denoised(x0, (x_t - alpha * x0) / sigma)

    return denoise


@pytest.mark.parametrize(("label", "sign"), [(0, -1), (1, 1)])
def test_guidance_moves_the_samples_towards_the_class_and_away_from_the_other(label, sign):
    """w = 0 draws both classes, w = 1 this one, w = 3 lies beyond it on the far side of the other."""

    @jax.jit
    def draw(scale):
        denoise = dj.guidance.classifier_free(_two_classes(label), _two_classes(), scale)
        return dj.sample(jax.random.key(5), denoise, SCHEDULE, (256, 1, 1, 1), steps=20)

    free, plain, strong = (sign * np.asarray(draw(scale)) for scale in (0.0, 1.0, 3.0))
    assert 0.35 < np.mean(free > 0) < 0.65
    assert abs(plain.mean() - 0.6) < 0.05
    assert (plain > 0).mean() > 0.98
    assert strong.mean() > plain.mean() + 0.02
    assert strong.min() > 0


def test_where_a_class_is_likely_guidance_adds_the_difference_of_the_two_opinions():
    x_t = jnp.zeros((1, 1, 1, 1)) + 0.1
    cond, uncond = _two_classes(1), _two_classes()
    guided = dj.guidance.classifier_free(cond, uncond, 2.0)(x_t, 0.5).x0
    assert uncond(x_t, 0.5).x0 < cond(x_t, 0.5).x0 < guided
