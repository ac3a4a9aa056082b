"""DEIS against a float64 integrator and closed forms."""

from itertools import pairwise

import integrators as float64
import numpy as np
import pytest
from integrators import KINDS, POINT, weights

from diffusion_jax.sampling.samplers import DEIS

every_kind = pytest.mark.parametrize("schedule", KINDS)
every_order = pytest.mark.parametrize("order", [2, 3])


def _integrated(order, at, x):
    """d(x/alpha) = eps d(nsr), with the polynomial through the last eps of finite log-SNR; DDIM elsewhere."""
    places, values = [], []
    for at_t, at_s in pairwise(at):
        here, there = float64.half_log_snr(at_t), float64.half_log_snr(at_s)
        x0 = float64.denoised(x, at_t)
        places, values = [here, *places][:order], [(x - at_t[0] * x0) / at_t[1], *values][:order]
        if not np.isfinite(there - here):
            x = at_s[0] * x0 + at_s[1] * values[0]
            continue
        known = int(np.isfinite(places).sum())
        mean = float64.average(places[:known], values[:known], here, there, -1.0)
        x = at_s[0] * (x / at_t[0] + (at_s[1] / at_s[0] - at_t[1] / at_t[0]) * mean)
    return x


@every_kind
@every_order
def test_it_is_its_integrator_in_float64(schedule, order):
    for times in float64.grids(schedule):
        x = float64.first_states(schedule, times)
        expected = _integrated(order, float64.points(schedule, times), x)
        found = float64.run(DEIS(order), schedule, times, x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * (1 + abs(x).max()))


@every_kind
@every_order
def test_the_declared_order_is_measured(schedule, order):
    assert float64.measured_order(DEIS(order), schedule) > order - 0.15


@every_kind
@every_order
def test_a_point_mass_is_hit_exactly(schedule, order):
    for times in float64.grids(schedule)[:-2]:
        end = float64.run(DEIS(order), schedule, times, float64.first_states(schedule, times))
        assert np.isfinite(end).all()
        np.testing.assert_allclose(end[..., 1], POINT.mean, atol=3e-7)


@pytest.mark.parametrize("ratios", [(0.4, 1.0), (3.0, 0.5)])
def test_a_parabola_is_integrated_exactly_after_unequal_steps(ratios):
    """eps = lambda^2, and the primitive of e^-l l^2 is -e^-l (l^2 + 2 l + 2)."""
    here, h = 0.3, 0.8
    places = here - h * np.cumsum(ratios)
    found = here**2 + weights(places, here, here + h, -1.0) @ (places**2 - here**2)
    end = np.array([here, here + h])
    exact = np.diff(np.exp(-end) * (end**2 + 2 * end + 2)) / np.diff(np.exp(-end))
    np.testing.assert_allclose(found, exact.item(), rtol=1e-5)


@pytest.mark.parametrize("order", [1, 4])
def test_a_wrong_order_is_refused_by_name(order):
    with pytest.raises(ValueError, match=f"order = {order}: must be 2 or 3"):
        DEIS(order)
