"""Adaptive integration against the closed-form flow."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, Gaussian, quick_jit, scales
from slow import slow

import diffusion_jax as dj
from diffusion_jax.sampling.samplers import RK45

DATA = Gaussian(0.3, 0.5)
NOISE = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype(np.float32)


def _flow_error(name, times):
    """The largest error of `sampler` over `times`, as a function of it: one compile for all tolerances."""
    schedule = SCHEDULES[name]

    def denoise(x_t, t):
        return DATA.denoised(x_t, schedule.alpha(t), schedule.sigma(t))

    @quick_jit
    def draw(sampler):
        return dj.sample(jax.random.key(0), denoise, schedule, NOISE.shape, sampler=sampler, times=times, noise=NOISE)

    at_t, at_s = zip(*scales(schedule, np.float32([times[0], times[-1]])), strict=True)
    exact = DATA.flow(at_t[1] * NOISE, at_t, at_s)
    return lambda sampler: np.abs(draw(sampler) - exact).max()


@pytest.mark.parametrize(
    ("name", "times"),
    [("rectified", [1.0, 0.0]), ("karras", [1.0, 0.0]), *slow(("zero_terminal", [1.0, 0.4, 0.002]))],
)
def test_the_error_falls_with_the_tolerance(name, times):
    """From zero SNR too, to data and to a time before it, in one step or two."""
    error = _flow_error(name, times)
    errors = [error(RK45(tolerance, tolerance)) for tolerance in (1e-2, 1e-4, 1e-5)]
    assert errors[1] < 3e-3
    assert errors[2] < 3e-4
    assert errors[2] < errors[0] / 3
    assert error(RK45(rtol=1.0, atol=1e-5)) > errors[2]  # both count
    if times[-1] == 0:  # from t = 1/2 on the last step, of Euler's rule, has a plain error
        assert error(RK45(1e-5, 1e-5, last=0.5)) > 100 * errors[2]


def _grow(rate):
    """A denoiser whose slope eps - x0 is rate * x."""
    return lambda x, t: dj.Denoised(jnp.zeros_like(x), rate * x)


def test_the_worst_image_of_a_batch_determines_the_steps():
    """A fast image among many constant ones takes the same steps as alone: no mean hides it."""
    schedule, rates = SCHEDULES["rectified"], np.zeros((64, 1, 1, 1), np.float32)
    rates[5] = -6.0

    @quick_jit
    def step(rates):
        x_t, sampler = jnp.ones((len(rates), 2, 2, 1)), RK45(rtol=0.0, atol=1e-2)
        return sampler.step(None, _grow(rates), schedule, x_t, 1.0, 0.5, ())[0]

    together, alone = step(rates), step(rates[5:6])
    np.testing.assert_allclose(together[5], alone[0], rtol=1e-6)
    np.testing.assert_array_equal(together[:5], 1.0)
    assert 1e-4 < np.abs(alone / np.exp(3.0) - 1).max() < 1e-2  # other steps would show


def test_too_many_steps_make_nan_instead_of_a_wrong_image():
    def step(sampler):
        x_t = jnp.ones((1, 1, 1, 1))
        return sampler.step(None, _grow(-50.0), SCHEDULES["rectified"], x_t, 0.9, 0.1, ())[0]

    assert np.isnan(quick_jit(step)(RK45(max_steps=4))).all()


def test_without_diffrax_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ValueError, match=r"RK45 needs diffrax.*diffusion_jax\[ode\]"):
        RK45()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rtol": -1e-3}, "rtol = -0.001"),
        ({"atol": 0.0}, "atol = 0.0: must be >= 1e-06"),
        ({"last": 0.0}, "last = 0.0"),
        ({"last": 0.7}, "last = 0.7"),
        ({"max_steps": 0}, "max_steps = 0"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(wrong, words):
    with pytest.raises(ValueError, match=words):
        RK45(**wrong)
