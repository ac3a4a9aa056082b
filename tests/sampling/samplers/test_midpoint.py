"""The midpoint rule against float64 and the closed-form flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, Gaussian, quick_jit, scales

import diffusion_jax as dj
from diffusion_jax.sampling.samplers import Heun, Midpoint
from diffusion_jax.sampling.samplers.midpoint import _middle_time

DATA = Gaussian(0.3, 0.5)
X_T = np.random.default_rng(0).normal(size=(4, 3, 3, 1)).astype(np.float32)


def _exact(schedule):
    return lambda x_t, t: DATA.denoised(x_t, schedule.alpha(t), schedule.sigma(t))


def test_on_a_rectified_flow_it_is_the_midpoint_rule_of_the_velocity():
    """x + (s - t) v(x + (s - t)/2 v(x, t), (t + s)/2), for any v = eps - x0."""

    def denoise(x, t):
        return dj.Denoised(jnp.sin(x) - t, jnp.cos(3 * x) + t**2)

    def v(x, t):
        return np.cos(3 * x) + t**2 - (np.sin(x) - t)

    for t, s in [(1.0, 0.5), (0.7, 0.3), (0.4, 0.0)]:
        x = X_T.astype(np.float64)
        wanted = x + (s - t) * v(x + (s - t) / 2 * v(x, t), (t + s) / 2)
        found, _ = Midpoint().step(None, denoise, SCHEDULES["rectified"], jnp.asarray(X_T), t, s, ())
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def _unequal(steps):
    """Times of a table of 1000, short and long steps in turn, to data."""
    position = np.cumsum([0, *[1, 2] * (steps // 2)])
    return np.round(1000 * (1 - position / position[-1])) / 1000


@pytest.mark.parametrize("name", ["zero_terminal", "rectified", "karras"])
def test_it_follows_the_flow_at_second_order_down_to_data(name):
    schedule, most = SCHEDULES[name], 80
    times = np.stack([np.pad(_unequal(n), (0, most - n)) for n in (most // 2, most)])

    @quick_jit
    @jax.vmap
    def march(times):
        def body(x, now):
            t, s = now
            x_s, _ = Midpoint().step(None, _exact(schedule), schedule, x, t, s, ())
            return jnp.where(s < t, x_s, x), None

        return jax.lax.scan(body, schedule.sigma(times[0]) * X_T, (times[:-1], times[1:]))[0]

    found = np.asarray(march(jnp.asarray(times, jnp.float32)), np.float64)
    at_t, at_s = zip(*scales(schedule, np.float32([1.0, 0.0])), strict=True)
    error = np.sqrt(np.mean((found - DATA.flow(at_t[1] * X_T, at_t, at_s)) ** 2, axis=(1, 2, 3, 4)))
    assert np.log2(error[0] / error[1]) > 1.7, error
    assert error[1] < 0.01


def test_the_second_call_is_between_the_ends_and_at_a_time_of_the_table():
    """For every schedule and many pairs of times, neighbours and both ends among them."""
    pairs = [(t, s) for t in (2, 3, 7, 50, 333, 999, 1000) for s in range(t - 1)]
    pairs += [(t, t - 1) for t in range(1, 1001)]
    t, s = (np.array(pairs, np.float32) / np.float32(1000)).T
    found = quick_jit(lambda t, s: {name: _middle_time(schedule, t, s) for name, schedule in SCHEDULES.items()})(t, s)
    for name, (middle, r) in found.items():
        assert ((s - 1e-6 < middle) & (middle < t)).all(), name
        assert ((r > 0) & (r < 1.001)).all(), name
        if SCHEDULES[name].steps is None:
            np.testing.assert_allclose(r, 0.5, atol=1e-2)
        else:
            np.testing.assert_allclose(middle * 1000, np.round(middle * 1000), atol=2e-4)
            assert (middle < t - 0.9e-3).all()


def test_between_neighbours_of_a_table_it_is_heuns_method():
    """x_t + (k1 + k2)/2 with k2 at the end; and to data x0 itself."""
    schedule = SCHEDULES["cosine"]
    denoise = _exact(schedule)

    @quick_jit
    def step(t, s):
        return [f.step(None, denoise, schedule, X_T, t, s, ())[0] for f in (Midpoint(), Heun())]

    for t in (1.0, 0.999, 0.5, 0.002):
        np.testing.assert_allclose(*step(t, np.float32(t - 1e-3)), rtol=0, atol=2e-6)
    np.testing.assert_allclose(step(1e-3, 0.0)[0], denoise(X_T, 1e-3).x0, rtol=1e-5)
