"""UniPC against the two-state recursion of its paper in float64, closed forms and equal methods."""

from itertools import pairwise

import integrators as float64
import jax
import numpy as np
import pytest
from integrators import KINDS, POINT
from oracles import SCHEDULES

import diffusion_jax as dj
from diffusion_jax.sampling.samplers import DDIM, UniPC

every_kind = pytest.mark.parametrize("schedule", KINDS)
ALL = [UniPC(1), UniPC(2, "bh1"), UniPC(2), UniPC(3)]


def _average(places, values, start, stop, variant):
    if len(places) != 2:
        return float64.average(places, values, start, stop, 1.0)
    h = stop - start
    flat = {"bh1": h, "bh2": 1 - np.exp(-h)}[variant] / 2  # a_1 B(h) with a_1 = 1/2
    return values[0] + flat / (1 - np.exp(-h)) * (values[1] - values[0]) * h / (places[1] - places[0])


def _recursion(order, variant, at, x):
    """Predict, call the denoiser, correct from the same state, and so on; the last state is only predicted."""
    past = [(float64.half_log_snr(at[0]), float64.denoised(x, at[0]))]
    for at_t, at_s in pairwise(at):
        known = [(place, x0) for place, x0 in past[:order] if np.isfinite(place)]
        here, there = float64.half_log_snr(at_t), float64.half_log_snr(at_s)
        keep, gain, _ = float64.exact_step(at_t, at_s)
        if not np.isfinite(there - here):
            x = predicted = keep * x + gain * past[0][1]
        else:
            predicted = keep * x + gain * _average(*map(list, zip(*known, strict=True)), here, there, variant)
        if at_s[1] > 0:
            past = [(there, float64.denoised(predicted, at_s)), *past]
            if np.isfinite(there - here):
                places, values = zip(*known, past[0], strict=True)
                x = keep * x + gain * _average(list(places), list(values), here, there, variant)
    return predicted


@every_kind
@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_it_is_the_recursion_of_the_paper_in_float64(schedule, sampler):
    for times in float64.grids(schedule):
        x = float64.first_states(schedule, times)
        expected = _recursion(sampler.order, sampler.variant, float64.points(schedule, times), x)
        found = float64.run(sampler, schedule, times, x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * (1 + abs(x).max()))


@every_kind
@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_the_corrector_raises_the_declared_order_by_one(schedule, sampler):
    # At order 3 float32 is reached with more steps.
    measured = float64.measured_order(sampler, schedule, 10 if sampler.order == 3 else 20)
    assert measured > sampler.order + 0.85


@every_kind
@pytest.mark.parametrize("sampler", [UniPC(2), UniPC(3)], ids=str)
def test_a_point_mass_is_hit_exactly(schedule, sampler):
    for times in float64.grids(schedule)[:-2]:
        end = float64.run(sampler, schedule, times, float64.first_states(schedule, times))
        assert np.isfinite(end).all()
        np.testing.assert_allclose(end[..., 1], POINT.mean, atol=3e-7)


@every_kind
def test_the_first_step_is_ddim(schedule):
    times = float64.spaced(schedule, 6)[:2]
    x = float64.first_states(schedule, times)
    first, ddim = (float64.run(sampler, schedule, times, x) for sampler in (UniPC(3), DDIM()))
    np.testing.assert_allclose(first, ddim, rtol=0, atol=1e-6 * (1 + abs(x).max()))


def test_one_call_of_the_denoiser_a_step():
    calls = []

    def denoise(x_t, t):
        calls.append(t)
        return dj.Denoised(0.5 * x_t, x_t)

    x = np.ones((2, 1, 1, 1), np.float32)
    schedule, sampler = SCHEDULES["rectified"], UniPC(3)
    jax.eval_shape(lambda x: sampler.step(None, denoise, schedule, x, 0.6, 0.4, sampler.init(x)), x)
    assert calls == [0.6]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: UniPC(0), "order = 0: must be 1, 2 or 3"),
        (lambda: UniPC(4), "order = 4"),
        (lambda: UniPC(2, "bh3"), 'variant = \'bh3\': must be "bh1" or "bh2"'),
    ],
)
def test_a_wrong_argument_is_refused_by_name(build, words):
    with pytest.raises(ValueError, match=words):
        build()
