"""Schedules: golden tables, identities, precision at both ends, errors."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import DISCRETE, SCHEDULES, ZERO_TERMINAL

import diffusion_jax as dj
from diffusion_jax.process.schedules import (
    Betas,
    Cosine,
    Discrete,
    Karras,
    LinearBeta,
    RectifiedFlow,
    Shifted,
    Sigmoid,
    ZeroTerminalSNR,
)


def _at(f: Callable, t) -> np.ndarray:
    """f at all of t as float64, padded to one length so that few programs are compiled."""
    t = np.asarray(t, np.float32)
    return np.asarray(f(np.pad(t, (0, 4001 - t.size), mode="edge")), np.float64)[: t.size]


every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_discrete = pytest.mark.parametrize("name", DISCRETE)


def _digits(printed: str) -> float:
    """Half a unit of the last digit of a printed number: its precision."""
    mantissa, _, exponent = printed.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 0.5000001 * 10.0 ** (int(exponent or 0) - decimals)


def _assert_printed(value: float, printed: str, rtol: float = 1e-6) -> None:
    """Equal to a printed number, up to its last digit and a relative error."""
    expected = float(printed)
    assert abs(value - expected) <= _digits(printed) + rtol * abs(expected), (value, printed)


def _rounding(t: float) -> float:
    """1e-6, and the relative rounding of cos^2 in float32, in which the two projects computed.

    The angle is off by up to 1.2e-7, which has more effect the nearer the angle is to pi/2.
    """
    return 1e-6 + 2 * 1.2e-7 / (np.pi / 2 * (1 - t) / 1.008)


# --- golden tables ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "first", "last", "log_snr_first", "log_snr_last"),
    [
        (LinearBeta(1000), "0.9999", "4.03583e-5", "9.2102", "-10.1177"),
        (LinearBeta(4000), "0.999975", "4.24665e-5", "10.5966", "-10.0668"),
        (LinearBeta(250), "0.9996", "3.26441e-5", "7.8236", "-10.3298"),
        (Cosine(1000), "0.999958716", "2.42877e-9", "10.0950", "-19.8359"),
        (Cosine(4000), "0.999990134", "1.51798e-10", "11.5264", "-22.6085"),
        (Cosine(250), "0.999805731", "3.88598e-8", "8.5461", "-17.0633"),
        (Sigmoid(1000), "0.999699721", "3.00279e-7", None, None),
    ],
    ids=str,
)
def test_the_fields_standard_tables(schedule, first, last, log_snr_first, log_snr_last):
    abar = schedule.abar()
    assert abar.dtype == np.float64
    assert len(abar) == schedule.steps + 1
    _assert_printed(abar[1], first)
    _assert_printed(abar[-1], last)
    if log_snr_first:
        log_snr = np.log(abar[[1, -1]]) - np.log1p(-abar[[1, -1]])
        _assert_printed(log_snr[0], log_snr_first)
        _assert_printed(log_snr[1], log_snr_last)
        np.testing.assert_allclose(_at(schedule.log_snr, np.array([1 / schedule.steps, 1])), log_snr, 3e-6)


def test_zero_terminal_snr_keeps_the_first_step_and_ends_at_exactly_zero():
    schedule = ZeroTerminalSNR(LinearBeta())
    _assert_printed(schedule.abar()[1], "0.9999")
    assert schedule.abar()[-1] == 0.0
    assert schedule.alpha(1.0) == 0.0
    assert schedule.sigma(1.0) == 1.0
    assert schedule.log_snr(1.0) == -np.inf


@pytest.mark.parametrize(
    ("i", "beta", "abar", "root", "inverse_root", "ratio"),
    [
        (0, "0.00063127", "9.99368727e-1", "0.025125", "1.000316", "0.025125"),
        (25, "0.01344913", "8.35620701e-1", "0.405437", "1.006793", "0.033172"),
        (50, "0.03154624", "4.78264600e-1", "0.722313", "1.016156", "0.043674"),
        (75, "0.07470107", "1.33494779e-1", "0.930863", "1.039582", "0.080249"),
        (98, "0.74993998", "2.42855196e-4", "0.999879", "1.999760", "0.750031"),
        (99, "0.99989998", "2.42895499e-8", "1.000000", "99.991707", "0.999900"),
    ],
)
def test_the_pokemon_projects_table(i, beta, abar, root, inverse_root, ratio):
    """Their index i is k = i + 1 here. They clip in float32, whose 0.9999 is 0.99989998."""
    schedule = Cosine(steps=100, min_beta=1e-4, max_beta=float(np.float32(0.9999)))
    b, a = schedule.betas()[i], schedule.abar()[i + 1]
    rounding = _rounding(min((i + 1) / 100, 0.99))  # the last beta is clipped, the curve not used
    _assert_printed(a, abar, rtol=rounding)
    _assert_printed(1 - b, str(1 - float(beta)), rtol=rounding + 6e-8 / (1 - b))
    _assert_printed(np.sqrt(1 - a), root)
    _assert_printed(1 / np.sqrt(1 - b), inverse_root, rtol=rounding)
    _assert_printed(b / np.sqrt(1 - a), ratio)


@pytest.mark.parametrize(
    ("t", "abar"),
    [
        (1, "0.99991262"),
        (2, "0.99980581"),
        (15, "0.99665242"),
        (29, "0.98961300"),
        (100, "0.89870596"),
        (250, "0.49384356"),
        (400, "0.09404556"),
        (477, "0.00513047"),
        (499, "9.714e-6"),
    ],
)
def test_the_mnist_projects_table(t, abar):
    _assert_printed(Cosine(steps=500, max_beta=1.0).abar()[t], abar, rtol=_rounding(t / 500))


def test_the_mnist_projects_last_entry_is_exactly_zero():
    """Its printed 1.911e-15 is cos^2 of float32's pi/2, which is not quite a right angle."""
    assert Cosine(steps=500, max_beta=1.0).abar()[500] == 0.0
    f0 = np.cos(np.pi / 2 * 0.008 / 1.008) ** 2
    _assert_printed(np.cos(float(np.float32(np.pi / 2))) ** 2 / f0, "1.911e-15")


# --- identities of every schedule ------------------------------------------------------------


def _times(name: str) -> np.ndarray:
    """Times in (0, 1], the first and last steps among them, on the table of a discrete schedule."""
    steps = SCHEDULES[name].steps or 1000
    k = np.unique(np.r_[1, 2, 3, np.linspace(1, steps, 61).astype(int), steps - 1, steps])
    return (k / steps).astype(np.float32)


@every_schedule
def test_time_zero_is_data(name):
    schedule = SCHEDULES[name]
    assert schedule.alpha(0.0) == 1.0
    assert schedule.sigma(0.0) == 0.0
    assert schedule.log_snr(0.0) == np.inf


@every_schedule
def test_log_snr_falls_strictly_between_grid_points_too(name):
    t = np.linspace(0, 1, 1501, dtype=np.float32)  # 1.5 for each step of the finest table
    log_snr = _at(SCHEDULES[name].log_snr, t)
    assert not np.isnan(log_snr).any()
    assert (log_snr[1:] < log_snr[:-1]).all()


@every_schedule
def test_time_is_the_inverse_of_log_snr(name):
    schedule = SCHEDULES[name]
    half = 0.5 / (schedule.steps or 1000)
    t = np.concatenate([_times(name), _times(name) - np.float32(half)])
    np.testing.assert_allclose(_at(schedule.time, _at(schedule.log_snr, t)), t, rtol=2e-6, atol=2e-6)


@every_schedule
def test_alpha_and_sigma_agree_with_log_snr(name):
    schedule = SCHEDULES[name]
    t = _times(name)
    t = t[np.isfinite(_at(schedule.log_snr, t))]
    alpha, sigma = _at(schedule.alpha, t), _at(schedule.sigma, t)
    np.testing.assert_allclose(2 * np.log(alpha / sigma), _at(schedule.log_snr, t), rtol=2e-6, atol=2e-6)
    again_alpha = _at(lambda t: schedule.scales(schedule.log_snr(t))[0], t)
    again_sigma = _at(lambda t: schedule.scales(schedule.log_snr(t))[1], t)
    np.testing.assert_allclose(again_alpha, alpha, rtol=3e-6)
    np.testing.assert_allclose(again_sigma, sigma, rtol=3e-6)


@every_schedule
def test_the_family_is_kept_at_every_time(name):
    """Variance preserving, straight or exploding, on the table and between its entries."""
    schedule, t = SCHEDULES[name], np.linspace(0, 1, 777, dtype=np.float32)
    alpha, sigma = _at(schedule.alpha, t), _at(schedule.sigma, t)
    if "rectified" in name:
        constant = alpha + sigma
    elif name == "karras":
        constant = alpha
    else:
        constant = alpha**2 + sigma**2
    np.testing.assert_allclose(constant, 1.0, rtol=0, atol=3e-7)


@every_schedule
def test_scales_and_time_are_finite_at_every_log_snr(name):
    schedule, log_snr = SCHEDULES[name], np.linspace(-20, 20, 81)
    alpha, sigma = schedule.scales(log_snr)
    time = _at(schedule.time, log_snr)
    assert np.isfinite(alpha).all()
    assert np.isfinite(sigma).all()
    assert (np.asarray(alpha) > 0).all()
    assert (np.asarray(sigma) > 0).all()
    assert ((time >= 0) & (time <= 1)).all()
    assert (np.diff(time) <= 0).all()


@every_schedule
def test_results_are_float32_of_the_shape_of_the_times(name):
    schedule, t = SCHEDULES[name], np.full((2, 3), 0.5)
    for f in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.time, schedule.round):
        for shaped, shape in ((t, (2, 3)), (0.5, ())):
            out = jax.eval_shape(f, shaped)
            assert (out.shape, out.dtype) == (shape, jnp.float32)


# --- precision -------------------------------------------------------------------------------


def _exact_squares(schedule: Discrete) -> tuple[np.ndarray, np.ndarray]:
    """(abar, 1 - abar) of a table with plain products in 80-bit floats, 1e-19 of each factor."""
    kept = np.cumprod(1 - schedule.betas().astype(np.longdouble))
    return kept, 1 - kept


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid", "betas"])
def test_float32_keeps_its_precision_at_both_ends_of_a_table(name):
    """A float32 1 - abar would be off by 1.7e-4 (linear) or 5.3e-4 (cosine) at the first step."""
    schedule = SCHEDULES[name]
    t = np.arange(1, schedule.steps + 1) / schedule.steps
    abar, rest = _exact_squares(schedule)
    np.testing.assert_allclose(_at(schedule.alpha, t), np.sqrt(abar).astype(float), rtol=3e-7)
    np.testing.assert_allclose(_at(schedule.sigma, t), np.sqrt(rest).astype(float), rtol=3e-7)
    naive = np.sqrt(1 - np.float32(abar[0]))
    assert abs(naive / np.sqrt(rest[0]) - 1) > 1e-5  # what is avoided


@pytest.mark.parametrize("steps", [100, 1000, 4000])
def test_the_cosine_is_the_curve_to_float32_at_its_first_steps(steps):
    """1 - cos^2(b)/cos^2(a) = sin(b - a) sin(b + a)/cos^2(a), without the cancellation."""
    k = np.arange(1, steps // 2)
    a = np.pi / 2 * 0.008 / 1.008
    b = np.pi / 2 * (k / steps + 0.008) / 1.008
    sigma = np.sqrt(np.sin(b - a) * np.sin(b + a)) / np.cos(a)
    np.testing.assert_allclose(_at(Cosine(steps).sigma, k / steps), sigma, rtol=3e-7)


def test_a_shifted_table_keeps_float32s_precision():
    """The noise-to-signal ratio is the old one times resolution/reference."""
    schedule = Shifted(Cosine(), resolution=128)
    abar, rest = _exact_squares(Cosine())
    nsr2 = 4 * (rest / abar)
    t = np.arange(1, 1001) / 1000
    np.testing.assert_allclose(_at(schedule.sigma, t), np.sqrt(nsr2 / (1 + nsr2)).astype(float), rtol=2e-6)
    np.testing.assert_allclose(_at(schedule.alpha, t), np.sqrt(1 / (1 + nsr2)).astype(float), rtol=2e-6)


def test_zero_terminal_alphas_are_the_old_ones_moved_and_stretched():
    """Affine in the old alphas beyond the first step, which stays, with 0 at the end."""
    old, new = np.sqrt(LinearBeta().abar()), np.sqrt(ZeroTerminalSNR(LinearBeta()).abar())
    slope, offset = np.polyfit(old[1:], new[1:], 1)
    np.testing.assert_allclose(new[1:], slope * old[1:] + offset, atol=1e-12)
    assert new[1] == pytest.approx(old[1], rel=1e-14)
    np.testing.assert_allclose(
        _at(SCHEDULES["zero_terminal"].sigma, np.arange(1, 1001) / 1000), np.sqrt(1 - new[1:] ** 2), rtol=3e-7
    )


@pytest.mark.parametrize("steps", [100, 1000, 4000])
@pytest.mark.parametrize("kind", [Cosine, LinearBeta, Sigmoid])
def test_every_float32_time_k_over_T_reads_its_own_entry(kind, steps):
    """k/T times T misses k in float32; near the end of a cosine an entry is 1/1000 of the last."""
    schedule = kind(steps)
    t = np.arange(steps + 1, dtype=np.float32) / np.float32(steps)
    table = np.sqrt(schedule.abar())
    np.testing.assert_allclose(_at(schedule.alpha, t), table, rtol=2e-7)


@every_discrete
def test_betas_are_those_of_the_table(name):
    schedule = SCHEDULES[name]
    if name.startswith("shifted"):
        pytest.skip("a shifted schedule has no table of its own")
    abar = schedule.abar()
    assert abar[0] == 1.0
    assert schedule.betas().shape == (schedule.steps,)
    np.testing.assert_allclose(abar[1:] / abar[:-1], 1 - schedule.betas(), rtol=1e-9, atol=1e-12)


def test_betas_gives_back_the_numbers_it_was_given():
    values = (0.1, 0.2, 0.5, 1.0)
    schedule = Betas(values)
    np.testing.assert_allclose(schedule.abar(), [1.0, 0.9, 0.72, 0.36, 0.0], rtol=1e-15)
    assert schedule.steps == 4
    assert hash(schedule) == hash(Betas(np.array(values)))


# --- what each is ----------------------------------------------------------------------------


def test_karras_is_edms_ramp_above_its_foot_and_a_straight_line_below():
    """sigma^(1/rho) has no second difference above t = 1/1000 and ends at sigma_max = 80."""
    schedule = Karras()
    t = np.linspace(1e-3, 1, 200)
    root = _at(schedule.sigma, t) ** (1 / 7)
    np.testing.assert_allclose(np.diff(root, 2), 0.0, atol=1e-6)
    np.testing.assert_allclose(_at(schedule.sigma, t)[[0, -1]], [0.002, 80.0], rtol=2e-6)
    np.testing.assert_allclose(_at(schedule.sigma, np.array([0, 2.5e-4, 5e-4])), [0, 5e-4, 1e-3], rtol=1e-6)


@pytest.mark.parametrize("inner", [Cosine(), RectifiedFlow(), Karras()], ids=str)
@pytest.mark.parametrize(("resolution", "reference"), [(128, 64), (32, 64), (96, 32), (64, 64)])
def test_shifted_moves_the_log_snr_by_twice_the_log_of_the_ratio(inner, resolution, reference):
    t = np.linspace(0.01, 0.99, 33)
    moved = _at(Shifted(inner, resolution, reference).log_snr, t) - _at(inner.log_snr, t)
    np.testing.assert_allclose(moved, 2 * np.log(reference / resolution), rtol=0, atol=3e-6)


def test_a_higher_resolution_is_noisier():
    assert Shifted(Cosine(), resolution=128).sigma(0.3) > Cosine().sigma(0.3)


def test_a_shifted_flow_is_still_straight():
    """sigma = r t/(1 + (r - 1) t) with r = resolution/reference (Esser et al. 2024, Eq. 23)."""
    t, r = np.linspace(0, 1, 11), 0.5
    sigma = _at(Shifted(RectifiedFlow(), resolution=32).sigma, t)
    np.testing.assert_allclose(sigma, r * t / (1 + (r - 1) * t), rtol=3e-6, atol=1e-7)


@every_schedule
def test_only_continuous_schedules_have_no_steps(name):
    schedule = SCHEDULES[name]
    assert (schedule.steps is None) == (name in ("rectified", "karras", "shifted_rectified"))
    assert (schedule.alpha(1.0) == 0.0) == (name in ZERO_TERMINAL)


@every_discrete
def test_round_gives_the_next_time_of_the_table(name):
    schedule = SCHEDULES[name]
    steps = schedule.steps
    k = np.arange(1, steps + 1)
    grid = (k / steps).astype(np.float32)
    for t in (grid, (k - 0.5) / steps, (k - 0.95) / steps):
        np.testing.assert_allclose(_at(schedule.round, t), grid, rtol=1.3e-7)  # one float32 apart
    assert schedule.round(0.0) == np.float32(1 / steps)


@pytest.mark.parametrize("name", ["rectified", "karras", "shifted_rectified"])
def test_round_leaves_continuous_times_alone(name):
    t = np.linspace(0, 1, 97, dtype=np.float32)
    np.testing.assert_array_equal(_at(SCHEDULES[name].round, t), t)


@every_schedule
def test_schedules_are_values(name):
    schedule = SCHEDULES[name]
    twin = dataclasses.replace(schedule)
    assert twin == schedule
    assert hash(twin) == hash(schedule)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.anything = 1


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 10, 20])
def test_the_linear_schedule_needs_more_than_20_steps(steps):
    with pytest.raises(ValueError, match=rf"steps = {steps}: must exceed 20"):
        LinearBeta(steps)
    assert LinearBeta(21).steps == 21


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: LinearBeta(start=0.0), "start = 0.0"),
        (lambda: LinearBeta(start=0.1, end=0.02), "start = 0.1: must be at most end = 0.02"),
        (lambda: LinearBeta(steps=0), "steps = 0"),
        (lambda: Cosine(steps=0), "steps = 0"),
        (lambda: Cosine(offset=-0.1), "offset = -0.1"),
        (lambda: Cosine(min_beta=-0.1), "min_beta = -0.1"),
        (lambda: Cosine(min_beta=0.5, max_beta=0.4), "min_beta = 0.5: must be below max_beta = 0.4"),
        (lambda: Cosine(min_beta=0.5, max_beta=0.5), "min_beta = 0.5: must be below max_beta = 0.5"),
        (lambda: Cosine(max_beta=1.1), "max_beta = 1.1"),
        (lambda: Sigmoid(steps=-1), "steps = -1"),
        (lambda: Sigmoid(start=3.0, end=-3.0), "start = 3.0: must be below end = -3.0"),
        (lambda: Sigmoid(start=1.0, end=1.0), "start = 1.0: must be below end = 1.0"),
        (lambda: Sigmoid(tau=0.0), "tau = 0.0"),
        (lambda: Sigmoid(max_beta=0.0), "max_beta = 0.0"),
        (lambda: Sigmoid(max_beta=1.5), "max_beta = 1.5"),
        (lambda: Betas(), "values"),
        (lambda: Betas(((0.1, 0.2),)), "values"),
        (lambda: Betas((0.1, 0.0)), "values contains 0:"),
        (lambda: Betas((1.0, 0.5)), "values contains 1:"),
        (lambda: Betas((0.5, 1.5)), "values contains 1.5"),
        (lambda: Betas((0.5, float("nan"))), "values contains nan"),
        (lambda: ZeroTerminalSNR(RectifiedFlow()), "schedule = RectifiedFlow"),
        (lambda: ZeroTerminalSNR(Cosine(steps=1)), "schedule = Cosine.*must have at least 2 steps"),
        (lambda: Karras(sigma_min=0.0), "sigma_min = 0.0"),
        (lambda: Karras(sigma_min=90.0), "sigma_min = 90.0: must be below sigma_max = 80.0"),
        (lambda: Karras(sigma_min=80.0), "sigma_min = 80.0: must be below sigma_max = 80.0"),
        (lambda: Karras(rho=0.0), "rho = 0.0"),
        (lambda: Shifted("cosine", 64), "schedule = 'cosine'"),
        (lambda: Shifted(Cosine(), resolution=0), "resolution = 0"),
        (lambda: Shifted(Cosine(), resolution=64, reference=-1), "reference = -1"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_the_public_names_reach_every_schedule():
    for name in ("Cosine", "LinearBeta", "Sigmoid", "RectifiedFlow", "Karras", "Shifted"):
        assert issubclass(getattr(dj.schedules, name), dj.schedules.Schedule)
