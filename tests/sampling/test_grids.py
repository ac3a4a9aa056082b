"""Grids: exactly S times, on the table, from 1 to 0."""

import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.process import schedules
from diffusion_jax.sampling.grids import (
    Explicit,
    Grid,
    Karras,
    Leading,
    Quadratic,
    Trailing,
    Uniform,
    UniformLogSNR,
)

# The ten steps of Align Your Steps for Stable Diffusion 1.5.
ALIGNED = (1.0, 0.851, 0.737, 0.646, 0.546, 0.456, 0.344, 0.234, 0.125, 0.025, 0.0)
GRIDS = {
    "uniform": Uniform(),
    "quadratic": Quadratic(),
    "trailing": Trailing(),
    "log_snr": UniformLogSNR(),
    "karras": Karras(),
    "explicit": Explicit(ALIGNED, interpolate=True),
}
TABLES = {
    "linear": schedules.LinearBeta(8, end=0.007),
    "cosine": schedules.Cosine(8),
    "to_the_end": schedules.Cosine(8, max_beta=1.0),
    "sigmoid": schedules.Sigmoid(8),
    "zero_terminal": schedules.ZeroTerminalSNR(schedules.LinearBeta(8, end=0.007)),
    "betas": schedules.Betas(tuple(np.geomspace(1e-3, 0.3, 8))),
    "shifted": schedules.Shifted(schedules.Cosine(8), resolution=256),
}
FLOWS = {
    "rectified": schedules.RectifiedFlow(),
    "karras": schedules.Karras(),
    "shifted": schedules.Shifted(schedules.RectifiedFlow(), resolution=256),
}

every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


@every_grid
@pytest.mark.parametrize("schedule", TABLES.values(), ids=TABLES)
def test_every_number_of_steps_gives_as_many_falling_times_of_the_table(schedule, grid):
    for steps in range(1, 9):
        times = grid(schedule, steps)
        k = times * 8
        assert times.shape == (steps + 1,)
        assert (times[0], times[-1]) == (1.0, 0.0)
        np.testing.assert_allclose(k, np.round(k), rtol=0, atol=1e-12)
        assert (np.diff(np.round(k)) <= -1).all()


@every_grid
@pytest.mark.parametrize("steps", [1, 40, 1000])
def test_a_long_table_too(grid, steps):
    k = grid(schedules.Cosine(1000), steps) * 1000
    assert len(k) == steps + 1
    np.testing.assert_allclose(k, np.round(k), rtol=0, atol=1e-9)
    assert (np.round(k[[0, -1]]) == (1000, 0)).all()
    assert (np.diff(np.round(k)) <= -1).all()


@every_grid
@pytest.mark.parametrize("schedule", FLOWS.values(), ids=FLOWS)
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_continuous_schedules_get_falling_times_from_1_to_0(schedule, grid, steps):
    times = grid(schedule, steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == np.float64
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert (np.diff(times) < 0).all()
    assert (np.diff(times.astype(np.float32)) < 0).all()  # `sample` keeps them so


@every_grid
def test_as_many_steps_as_the_table_has_visit_every_entry(grid):
    np.testing.assert_allclose(grid(TABLES["cosine"], 8) * 8, np.arange(8, -1, -1), atol=1e-12)


@every_grid
@pytest.mark.parametrize("steps", [0, -1])
def test_fewer_than_one_step_are_refused(grid, steps):
    with pytest.raises(ValueError, match=f"steps = {steps}"):
        grid(FLOWS["rectified"], steps)


@every_grid
def test_more_steps_than_the_table_has_are_refused(grid):
    with pytest.raises(ValueError, match="steps = 9: must be at most 8"):
        grid(TABLES["cosine"], 9)


def test_uniform_steps_are_equal():
    np.testing.assert_allclose(np.diff(Uniform()(FLOWS["rectified"], 7)), -1 / 7)
    times = Uniform()(schedules.Cosine(1000), 25)
    np.testing.assert_allclose(np.diff(times), -0.04)


def test_quadratic_times_are_the_squares_of_uniform_ones():
    """tau_i = floor(c i^2) of Song et al. 2021, with c = T/S^2, but rounded to the nearest."""
    np.testing.assert_allclose(np.sqrt(Quadratic()(FLOWS["rectified"], 7)) * 7, np.arange(7, -1, -1))
    k = Quadratic()(schedules.LinearBeta(), 20) * 1000
    assert np.abs(k - 2.5 * np.arange(20, -1, -1) ** 2).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("steps", [10, 16, 25, 50, 80])
def test_trailing_times_are_those_of_lin_et_al(steps):
    """round(arange(T, 0, -T/S)), counted from 1; where a half is rounded, `Uniform` may differ."""
    k = Trailing()(schedules.LinearBeta(), steps) * 1000
    np.testing.assert_allclose(k, [*np.round(np.arange(1000, 0, -1000 / steps)), 0], atol=1e-9)
    uniform = Uniform()(schedules.LinearBeta(), steps) * 1000
    halves = 1000 * np.arange(steps, -1, -1) / steps % 1 == 0.5
    np.testing.assert_allclose(k[~halves], uniform[~halves], atol=1e-9)
    assert steps not in (16, 80) or not np.allclose(k, uniform)


def test_trailing_times_of_a_continuous_schedule_are_uniform():
    np.testing.assert_array_equal(Trailing()(FLOWS["karras"], 13), Uniform()(FLOWS["karras"], 13))


@pytest.mark.parametrize("interpolate", [False, True])
def test_explicit_times_are_used_unchanged(interpolate):
    for schedule in (schedules.LinearBeta(), FLOWS["rectified"]):
        times = Explicit(list(ALIGNED), interpolate)(schedule, 10)
        np.testing.assert_allclose(times, ALIGNED, rtol=0, atol=1e-12)
    assert hash(Explicit(list(ALIGNED))) == hash(Explicit(ALIGNED))


@pytest.mark.parametrize(("name", "skipped"), [("karras", 0), ("rectified", 1)])
def test_explicit_times_are_interpolated_in_log_snr(name, skipped):
    """Twice as many steps less one meet every second time again, between them the log-SNR is the mean.

    A flow starts at zero SNR, and only from the second time on there is a log-SNR to interpolate.
    """
    schedule, own = FLOWS[name], np.array(ALIGNED[skipped:-1])
    times = Explicit(ALIGNED, interpolate=True)(schedule, 2 * len(own) - 1 + skipped)
    assert times[0] == 1.0
    times = times[skipped:-1]
    np.testing.assert_allclose(times[::2], own, rtol=1e-5)
    log_snr = np.asarray(schedule.log_snr(times), np.float64)
    np.testing.assert_allclose(log_snr[1::2], (log_snr[:-1:2] + log_snr[2::2]) / 2, atol=1e-4)


def test_explicit_times_for_another_number_of_steps_are_refused():
    with pytest.raises(ValueError, match="steps = 9: must be 10, the steps of the times; or use interpolate=True"):
        Explicit(ALIGNED)(FLOWS["rectified"], 9)


def test_explicit_times_without_two_finite_log_snrs_cannot_be_interpolated():
    with pytest.raises(ValueError, match="times = .*must have at least two times of finite log-SNR to interpolate"):
        Explicit((1.0, 0.5, 0.0), interpolate=True)(FLOWS["rectified"], 4)


@pytest.mark.parametrize(
    "times",
    [(), (1.0,), (1.0, 0.5), (0.9, 0.0), (1.0, 0.5, 0.5, 0.0), (1.0, 0.2, 0.3, 0.0), (0.0, 1.0), ((1, 0),)],
)
def test_explicit_times_must_fall_from_1_to_0(times):
    with pytest.raises(ValueError, match="times = .*must decrease strictly from 1.0 to 0.0"):
        Explicit(times)


@pytest.mark.parametrize("steps", [18, 40])
def test_the_karras_grid_on_the_karras_schedule_is_edms_steps(steps):
    """sigma_i of Karras et al. 2022, Eq. 5, and then 0: 18 steps are the paper's CIFAR-10 setting."""
    i = np.arange(steps)
    edm = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    schedule = schedules.Karras()
    sigma = np.asarray(schedule.sigma(Karras()(schedule, steps)))
    np.testing.assert_allclose(sigma[:-1], edm, rtol=2e-5)
    assert sigma[-1] == 0.0


@pytest.mark.parametrize("name", ["rectified", "shifted"])
def test_the_karras_grid_has_its_equal_steps_on_every_schedule(name):
    """(sigma/alpha)^(1/7) in equal steps, but for the first: a flow starts at zero SNR."""
    schedule = FLOWS[name]
    times = Karras()(schedule, 40)[1:-1]
    nsr = np.exp(-np.asarray(schedule.log_snr(times), np.float64) / 2)
    np.testing.assert_allclose(np.diff(nsr ** (1 / 7), 2), 0.0, atol=1e-4)
    assert times[-1] == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("last", [1e-3, 0.05])
def test_uniform_log_snr_steps_are_equal_down_to_the_last(name, last):
    schedule = FLOWS[name]
    times = UniformLogSNR(last)(schedule, 40)
    log_snr = np.asarray(schedule.log_snr(times[1:-1]), np.float64)
    np.testing.assert_allclose(np.diff(log_snr), np.diff(log_snr).mean(), rtol=2e-3)
    assert times[-2] == pytest.approx(last, rel=1e-4)


def test_uniform_log_snr_steps_on_a_fine_table_are_equal_but_for_its_rounding():
    schedule = schedules.LinearBeta(4000)
    times = UniformLogSNR()(schedule, 40)
    log_snr = np.asarray(schedule.log_snr(times[:-1]), np.float64)
    np.testing.assert_allclose(np.diff(log_snr), np.diff(log_snr).mean(), rtol=0.1)


@pytest.mark.parametrize("grid", [UniformLogSNR, Karras])
@pytest.mark.parametrize(("table", "steps"), [(20, 6), (50, 10), (100, 20)])
def test_the_last_time_before_data_is_at_least_the_first_of_the_table(grid, table, steps):
    """The log-SNR below 1/T, where no network is trained, has no part in the spacing."""
    schedule = schedules.Cosine(table)
    times = grid(last=1e-3)(schedule, steps)
    np.testing.assert_array_equal(times, grid(last=1 / table)(schedule, steps))


def test_leading_times_are_those_of_the_mnist_project():
    """T = 500 in 35 steps starts at 477 (tau = 1, 15, 29, ..., 477); here the step to data follows."""
    k = Leading()(schedules.Cosine(500), 35) * 500
    np.testing.assert_allclose(k[[0, -4, -3, -2, -1]], [477, 29, 15, 1, 0], atol=1e-9)
    np.testing.assert_allclose(np.diff(k[:-1]), -14, atol=1e-9)


@pytest.mark.parametrize(("steps", "first"), [(10, 901), (25, 961), (50, 981), (1000, 1000), (999, 999)])
def test_leading_times_start_at_the_time_of_that_spacing(steps, first):
    """900, 960 and 980 for 10, 25 and 50 of 1000 steps, counted from 0."""
    times = Leading()(schedules.LinearBeta(), steps)
    assert len(times) == steps + 1
    assert times[0] * 1000 == pytest.approx(first)
    assert (np.diff(times) < 0).all()


def test_leading_needs_a_table_to_stride_over():
    with pytest.raises(ValueError, match="grid Leading: RectifiedFlow is continuous"):
        Leading()(FLOWS["rectified"], 4)


def test_a_user_s_own_grid_is_moved_onto_the_table():
    class Bunched(Grid):
        def spread(self, schedule, steps):
            return np.linspace(1.0, 0.0, steps + 1) ** 4

    np.testing.assert_allclose(Bunched()(schedules.Cosine(50), 5) * 50, [50, 20, 6, 2, 1, 0], atol=1e-12)


@pytest.mark.parametrize("last", [0.0, 0.5, -0.1])
@pytest.mark.parametrize("grid", [UniformLogSNR, Karras])
def test_the_last_time_must_lie_near_0(grid, last):
    with pytest.raises(ValueError, match=f"last = {last}"):
        grid(last=last)


def test_a_wrong_rho_is_refused():
    with pytest.raises(ValueError, match=r"rho = 0\.0"):
        Karras(rho=0.0)


def test_two_times_of_finite_log_snr_are_enough_to_interpolate():
    """Between them the log-SNR is a straight line."""
    schedule = dj.schedules.Karras()  # finite at t = 1
    times = Explicit((1.0, 0.5, 0.0), interpolate=True)(schedule, 5)
    spacing = np.diff(np.asarray(schedule.log_snr(times[:-1]), np.float64))
    np.testing.assert_allclose(spacing, spacing.mean(), rtol=1e-3)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_interpolate_must_be_a_bool(value):
    with pytest.raises(ValueError, match="interpolate"):
        Explicit((1.0, 0.0), interpolate=value)
