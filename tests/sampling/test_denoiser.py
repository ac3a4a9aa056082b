"""`dj.denoiser`: every prediction leads to the same exact answer, at the times that were trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import DISCRETE, KINDS_FIRST, SCHEDULES, Gaussian, exact_denoiser, predictions_for, quick_jit, scales

import diffusion_jax as dj
from diffusion_jax.process.predictions import X0, Preconditioned
from diffusion_jax.sampling.denoiser import clipped

every_schedule = pytest.mark.parametrize("name", KINDS_FIRST)


def _zero(params, x, time, labels):
    return jnp.zeros_like(x)


def _echo(params, x, time, labels):
    return x


def _images(seed: int = 0, shape=(5, 2, 2, 3)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _assert_adds_up(schedule, parts: dj.Denoised, x_t, t):
    """alpha x0 + sigma eps = x_t."""
    alpha, sigma = (scale.reshape(-1, 1, 1, 1) for scale in scales(schedule, t))
    x0, eps = np.float64(parts.x0), np.float64(parts.eps)
    size = 1 + np.abs(x_t) + np.abs(alpha * x0) + np.abs(sigma * eps)
    np.testing.assert_array_less(np.abs(alpha * x0 + sigma * eps - x_t) / size, 1e-6)


@every_schedule
def test_every_prediction_of_a_perfect_network_is_the_same_denoiser(name):
    """(E[x0 | x_t], E[eps | x_t]) of Gaussian data, in float64, at times along the whole way."""
    schedule, data = SCHEDULES[name], Gaussian(0.3, 0.5)
    t = np.asarray(schedule.round(np.array([0.001, 0.02, 0.3, 0.7, 1.0], np.float32)))
    alpha, sigma = (scale.reshape(-1, 1, 1, 1) for scale in scales(schedule, t))
    x_t = (sigma + 0.5 * alpha) * _images().astype(np.float64)
    surprise = (x_t - alpha * 0.3) / (0.25 * alpha**2 + sigma**2)
    exact = dj.Denoised(0.3 + 0.25 * alpha * surprise, sigma * surprise)
    predictions = predictions_for(name)

    @quick_jit
    def all_of_them(x_t, t):
        return {k: exact_denoiser(data, schedule, p)(x_t, t) for k, p in predictions.items()}

    for kind, found in all_of_them(np.float32(x_t), t).items():
        atol0 = 3e-6 * np.maximum(sigma / alpha if kind == "eps" else 1.0, 1.0)
        atol1 = 3e-6 / np.minimum(sigma, 1.0)
        np.testing.assert_array_less(np.abs(found.x0 - exact.x0), np.broadcast_to(atol0, x_t.shape))
        np.testing.assert_array_less(np.abs(found.eps - exact.eps), np.broadcast_to(atol1, x_t.shape))


@pytest.mark.parametrize("clip", [False, True])
def test_one_time_for_all_is_the_same_as_one_for_each(clip):
    schedule = SCHEDULES["cosine"]
    denoise = dj.denoiser(_echo, None, schedule, dj.predictions.V(), clip=clip)
    x_t = _images()
    one, each = denoise(x_t, 0.4), denoise(x_t, np.full(5, 0.4))
    np.testing.assert_array_equal(one.x0, each.x0)
    np.testing.assert_array_equal(one.eps, each.eps)


def test_each_image_is_denoised_at_its_own_time():
    schedule = SCHEDULES["rectified"]
    denoise = dj.denoiser(_zero, None, schedule, dj.predictions.Velocity())
    x_t, t = _images(), np.array([0.1, 0.3, 0.5, 0.7, 1.0])
    together = denoise(x_t, t)
    for i in range(5):
        alone = denoise(x_t[i : i + 1], t[i])
        np.testing.assert_array_equal(together.x0[i], alone.x0[0])


@every_schedule
@pytest.mark.parametrize("t", [1.0, 0.5, 0.002])
def test_clipping_keeps_x0_in_range_and_x_t_whole(name, t):
    schedule, x_t = SCHEDULES[name], 3 * _images()
    plain = dj.denoiser(_echo, None, schedule, X0())
    denoise = dj.denoiser(_echo, None, schedule, X0(), clip=True)
    found = denoise(x_t, t)
    assert np.abs(plain(x_t, t).x0).max() > 1
    np.testing.assert_array_equal(found.x0, np.clip(plain(x_t, t).x0, -1, 1))
    _assert_adds_up(schedule, found, x_t, t)


def test_clipping_changes_nothing_in_range():
    schedule, x_t = SCHEDULES["cosine"], 0.1 * _images()
    plain = dj.denoiser(_zero, None, schedule, dj.predictions.V())
    found, before = clipped(plain, schedule)(x_t, 0.3), plain(x_t, 0.3)
    np.testing.assert_array_equal(found.x0, before.x0)
    np.testing.assert_array_equal(found.eps, before.eps)


def test_clipping_to_another_range():
    schedule, x_t = SCHEDULES["cosine"], 3 * _images()
    plain = dj.denoiser(_echo, None, schedule, X0())
    found = clipped(plain, schedule, low=0.0, high=0.25)(x_t, 0.6)
    assert np.asarray(found.x0).min() == 0.0
    assert np.asarray(found.x0).max() == 0.25
    _assert_adds_up(schedule, found, x_t, 0.6)


def _network_arguments(schedule, prediction, x_t, t, **kwargs):
    """The network's arguments (x, time, labels)."""
    calls = []

    def apply(params, x, time, labels):
        calls.append((params, x, time, labels))
        return x

    dj.denoiser(apply, "the parameters", schedule, prediction, **kwargs)(x_t, t)
    ((params, x, time, labels),) = calls
    assert params == "the parameters"
    return x, time, labels


@pytest.mark.parametrize("name", DISCRETE)
def test_the_network_of_a_table_is_only_called_at_times_of_the_table(name):
    schedule = SCHEDULES[name]
    t = np.array([1.0, 0.73219, 0.5003, 0.00001, 0.0], np.float32)
    _, time, _ = _network_arguments(schedule, X0(), _images(), t)
    k = np.asarray(time, np.float64) * schedule.steps
    np.testing.assert_allclose(k, np.round(k), atol=1e-3)
    assert time.shape == (5,)
    assert time.dtype == jnp.float32
    assert (np.round(k) >= 1).all()
    assert (k - t * schedule.steps > -1e-3).all()
    assert (k - np.maximum(t * schedule.steps, 1) < 1).all()


def test_the_network_of_a_flow_receives_the_time_unchanged():
    t = np.array([1.0, 0.73219, 0.5003, 0.00001, 0.2], np.float32)
    np.testing.assert_array_equal(_network_arguments(SCHEDULES["rectified"], X0(), _images(), t)[1], t)


def test_preconditioned_networks_receive_the_log_snr_of_a_table_time():
    schedule = SCHEDULES["linear"]
    _, time, _ = _network_arguments(schedule, Preconditioned(), _images(), 0.50037)
    abar = schedule.abar()[501]
    np.testing.assert_allclose(time, -np.log(abar / (1 - abar)) / 8, rtol=1e-5)


def test_a_single_time_reaches_the_network_once_per_image():
    _, time, labels = _network_arguments(SCHEDULES["linear"], X0(), _images(), 0.5)
    assert time.shape == (5,)
    assert labels is None


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0, 2**40], np.uint64), "labels contain 1099511627776: must be from -2147483648 to 2147483647"),
        ([0, -(2**31) - 1], "labels contain -2147483649: must be"),
        ([0, 2.5], r"labels = \[0, 2.5\]: must be integers"),
        ([False, True], r"labels = \[False, True\]: must be integers"),
    ],
)
def test_labels_that_would_become_others_are_refused(labels, says):
    with pytest.raises(ValueError, match=says):
        dj.denoiser(_zero, None, SCHEDULES["linear"], X0(), labels)


def test_traced_floats_are_no_labels():
    with pytest.raises(ValueError, match="must be integers"):
        jax.jit(lambda labels: dj.denoiser(_zero, None, SCHEDULES["linear"], X0(), labels)(_images(), 0.5))(jnp.ones(2))


def test_labels_reach_the_network_as_int32():
    wanted = [3, 1, 4, 1, -1]
    _, _, labels = _network_arguments(SCHEDULES["linear"], X0(), _images(), 0.5, labels=wanted)
    assert labels.dtype == jnp.int32
    np.testing.assert_array_equal(labels, wanted)


def test_a_bfloat16_network_is_computed_with_in_float32():
    def apply(params, x, time, labels):
        return jnp.full_like(x, 0.3).astype(jnp.bfloat16)

    found = dj.denoiser(apply, None, SCHEDULES["cosine"], dj.predictions.V())(_images(), 0.5)
    assert found.x0.dtype == jnp.float32
    assert found.eps.dtype == jnp.float32
    _assert_adds_up(SCHEDULES["cosine"], found, _images(), 0.5)


def test_eps_with_zero_terminal_snr_is_refused_before_any_network_runs():
    with pytest.raises(ValueError, match="RectifiedFlow"):
        dj.denoiser(None, None, SCHEDULES["rectified"], dj.predictions.Eps())
