"""Dynamic thresholding: what it does to images whose quantiles are known."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, quick_jit, scales

import diffusion_jax as dj
from diffusion_jax.process.predictions import X0
from diffusion_jax.sampling.thresholding import dynamic_threshold

COSINE = SCHEDULES["cosine"]


def _echo(schedule):
    """x0 is x_t itself."""
    return dj.denoiser(lambda params, x, time, labels: x, None, schedule, X0())


def _ladder(top: float, seed: int = 0) -> np.ndarray:
    """A image [1, 4, 5, 5]: top * k/100 for k = 1..100, in some order and with some signs."""
    rng = np.random.default_rng(seed)
    rungs = rng.permutation(np.arange(1, 101)) / 100 * rng.choice([-1, 1], 100)
    return (top * rungs).astype(np.float32).reshape(1, 4, 5, 5)


def _thresholded(x, quantile, schedule=COSINE, t=0.4):
    return dynamic_threshold(_echo(schedule), schedule, quantile)(x, t)


@pytest.mark.parametrize(("quantile", "rung"), [(1.0, 100), (90 / 99, 91), (49.5 / 99, 50.5)])
def test_what_is_above_the_quantile_is_cut_and_the_rest_shrunk_to_fill_the_range(quantile, rung):
    """Of 100 evenly spaced sizes the quantile q is the rung 1 + 99 q, halves between two rungs."""
    x, s = _ladder(3.0), 3.0 * rung / 100
    found = np.asarray(_thresholded(x, quantile).x0)
    np.testing.assert_allclose(found, np.clip(x / s, -1, 1), rtol=2e-6)
    assert (np.abs(found) > 0.999999).sum() == 100 - int(np.ceil(rung)) + 1


def test_images_in_range_are_unchanged_bit_for_bit():
    x = np.concatenate([_ladder(1.0), _ladder(0.3, 1)])
    found, before = _thresholded(x, 0.995), _echo(COSINE)(x, 0.4)
    np.testing.assert_array_equal(found.x0, before.x0)
    np.testing.assert_array_equal(found.eps, before.eps)


def test_where_only_few_pixels_are_out_of_range_they_are_clipped():
    """The quantile itself below 1: s = 1, static thresholding."""
    x = _ladder(1.05)
    np.testing.assert_array_equal(_thresholded(x, 0.9).x0, np.clip(x, -1, 1))


def test_the_size_of_enlarged_contrast_has_no_effect():
    """Past s = 1, x0 and any multiple of it are thresholded to the same; each image by its own s."""
    x = np.concatenate([_ladder(2.0), 5 * _ladder(2.0), _ladder(0.5, 1)])
    found = _thresholded(x, 0.995).x0
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)
    np.testing.assert_array_equal(found[2], x[2])


def test_x_t_stays_whole_on_every_schedule_for_quantiles_that_are_traced():
    x = np.concatenate([_ladder(2.0), _ladder(40.0, 1)])
    traces = []

    @quick_jit
    def all_of_them(x, quantile):
        traces.append(quantile)
        return {name: _thresholded(x, quantile, schedule) for name, schedule in SCHEDULES.items()}

    for quantile in (0.5, 0.995):
        for name, found in all_of_them(x, quantile).items():
            alpha, sigma = scales(SCHEDULES[name], 0.4)
            x0, eps = np.float64(found.x0), np.float64(found.eps)
            assert np.abs(x0).max() == 1
            size = 1 + np.abs(alpha * x0) + np.abs(sigma * eps)
            np.testing.assert_array_less(np.abs(alpha * x0 + sigma * eps - x) / size, 1e-6)
    assert len(traces) == 1


def test_it_is_finite_without_signal():
    found = _thresholded(_ladder(40.0), 0.9, SCHEDULES["rectified"], 1.0)
    assert jnp.isfinite(found.eps).all()
    assert np.abs(found.x0).max() == 1


@pytest.mark.parametrize("quantile", [0.0, -0.5, 1.5, float("nan")])
def test_a_quantile_out_of_range_is_refused_in_one_line(quantile):
    with pytest.raises(ValueError, match=f"quantile = {quantile}: must be in "):
        dynamic_threshold(_echo(COSINE), COSINE, quantile)
