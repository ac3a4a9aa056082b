"""DPM-Solver++ against float64 integrators, closed forms and the samplers that it equals."""

import dataclasses
import itertools
from functools import cache, partial
from itertools import pairwise

import integrators as float64
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from integrators import GAUSSIAN, KINDS, POINT, weights
from oracles import SCHEDULES, assert_moments, quick_jit

import diffusion_jax as dj
from diffusion_jax.sampling.samplers import DDIM, DPMSolverPP, DPMSolverPP2S, Sampler

every_kind = pytest.mark.parametrize("schedule", KINDS)


def _multistep(order, eta, at, x, noises):
    """The chain in float64, D through the last `order` x0 of finite log-SNR; first order in infinite steps."""
    places, values = [], []
    for i, (at_t, at_s) in enumerate(pairwise(at)):
        here, there = float64.half_log_snr(at_t), float64.half_log_snr(at_s)
        places, values = [here, *places][:order], [float64.denoised(x, at_t), *values][:order]
        direction = values[0]
        if np.isfinite(there - here):
            known = int(np.isfinite(places).sum())
            rate = 0.0 if order == 2 else 1.0 + eta
            direction = float64.average(places[:known], values[:known], here, there, rate)
        keep, gain, spread = float64.exact_step(at_t, at_s, eta)
        x = keep * x + gain * direction + spread * noises[i]
    return x


def _single_step(schedule, eta, times, x, noises):
    """The chain of 2S in float64, with a middle where the step has a length; noises [step, 2, ...]."""
    at = float64.points(schedule, times)
    mids = float64.points(schedule, _middles(schedule, times))
    for at_t, at_mid, at_s, (early, late) in zip(at[:-1], mids, at[1:], noises, strict=False):
        here, there = float64.half_log_snr(at_t), float64.half_log_snr(at_s)
        x0 = direction = float64.denoised(x, at_t)
        keep, gain, spread = float64.exact_step(at_t, at_s, eta)
        drawn = spread * early
        if np.isfinite(there - here):
            to_mid, onward = float64.exact_step(at_t, at_mid, eta), float64.exact_step(at_mid, at_s, eta)
            drawn = onward[0] * to_mid[2] * early + onward[2] * late
            x_mid = to_mid[0] * x + to_mid[1] * x0 + to_mid[2] * early
            # The line through both x0, at half of the step.
            both = [x0, float64.denoised(x_mid, at_mid)]
            direction = float64.average([here, float64.half_log_snr(at_mid)], both, here, there, 0.0)
        x = keep * x + gain * direction + drawn
    return x


@cache
def _middles_of(name: str, times: tuple[float, ...]) -> np.ndarray:
    halves = [float64.half_log_snr(point) for point in float64.points(name, np.array(times))]
    log_snr = np.clip(halves, -30, 30)  # an infinite step has no middle and does not use one
    middles = float64.evaluate(SCHEDULES[name].time, log_snr[:-1] + log_snr[1:])
    steps = SCHEDULES[name].steps
    if steps is not None:
        middles = np.round(middles * steps) / steps
    return np.where(middles < times[:-1], middles, times[1:])


def _middles(name: str, times: np.ndarray) -> np.ndarray:
    """For each step the time halfway in log-SNR; the nearest of a table, except the start of the step."""
    return _middles_of(name, tuple(times.tolist()))


def _law(chain, steps: int, first: tuple[float, float]) -> tuple[float, float]:
    """Mean and standard deviation of the Gaussian after a chain that is linear in x and its noises."""
    alpha, sigma = first
    unit = np.eye(2 * steps + 1, 2 * steps + 2, 1)[..., None]  # [noise, column, 1]; the first has none
    start = alpha * GAUSSIAN.mean + np.hypot(alpha * GAUSSIAN.std, sigma) * unit[0]
    end = chain(start, unit[1:].reshape(steps, 2, -1, 1))[:, 0]
    return end[0], np.sqrt(((end[1:] - end[0]) ** 2).sum())


@every_kind
@pytest.mark.parametrize("order", [1, 2, 3])
def test_multistep_is_its_integrator_in_float64(schedule, order):
    """With the noise that it draws, at eta = 0, 1 and between."""
    for times, eta in itertools.product(float64.grids(schedule), (0.0, 0.4, 1.0)):
        x = float64.first_states(schedule, times)
        expected = _multistep(order, eta, float64.points(schedule, times), x, float64.noises())
        found = float64.run(DPMSolverPP(order, eta), schedule, times, x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * (1 + abs(x).max()))


@every_kind
@pytest.mark.parametrize("sampler", [DPMSolverPP(1), DPMSolverPP(2), DPMSolverPP(3), DPMSolverPP2S()], ids=str)
def test_the_declared_order_is_measured(schedule, sampler):
    assert float64.measured_order(sampler, schedule) > sampler.order - 0.15


@every_kind
def test_the_single_step_is_its_integrator_in_float64(schedule):
    for times in float64.grids(schedule):
        x = float64.first_states(schedule, times)
        expected = _single_step(schedule, 0.0, times, x, np.zeros((len(times), 2)))
        found = float64.run(DPMSolverPP2S(), schedule, times, x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * (1 + abs(x).max()))


@pytest.mark.parametrize("schedule", ["cosine", "rectified"])
@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_the_single_step_draws_with_the_law_of_its_integrator(schedule, eta):
    """In few steps, where it shows whether the noise of the first part belongs to the whole step."""
    for times in (float64.spaced(schedule, 4), dj.grids.Uniform()(SCHEDULES[schedule], 4)):
        first, *_, last = float64.points(schedule, times)
        mean, std = _law(lambda x, z, t=times: _single_step(schedule, eta, t, x, z), len(times) - 1, first)
        found = float64.run(DPMSolverPP2S(eta), schedule, times, float64.first_states(schedule, times, 20_000))
        assert_moments(found[..., 0], mean, std)
        if last[1] > 0:
            assert_moments(found[..., 1], last[0] * POINT.mean, last[1])


@pytest.mark.parametrize(("name", "order"), [("1m", 1), ("2m", 2), ("3m", 2), ("2s", 2)])
def test_the_law_of_the_sde_is_right_to_the_documented_order(name, order):
    """At eta = 1, for the standard deviation of Gaussian data, by the chains above, which the samplers follow."""
    schedule, errors = "rectified", []
    for steps in (20, 40):
        times = float64.spaced(schedule, steps)
        at = float64.points(schedule, times)

        def chain(x, z, times=times, at=at):
            if name == "2s":
                return _single_step(schedule, 1.0, times, x, z)
            return _multistep(int(name[0]), 1.0, at, x, z[:, 0])

        errors.append(abs(_law(chain, steps, at[0])[1] - np.hypot(at[-1][0] * GAUSSIAN.std, at[-1][1])))
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.4


def test_samples_of_the_sde_have_the_law_of_the_data():
    times = dj.grids.Uniform()(SCHEDULES["cosine"], 50)
    start = float64.first_states("cosine", times, 20_000)
    x = float64.run(DPMSolverPP(2, 1.0), "cosine", times, start)[..., 0]
    assert abs(x.mean() - GAUSSIAN.mean) < 5 * GAUSSIAN.std / np.sqrt(x.size)
    assert abs(x.std() - GAUSSIAN.std) < 0.02 * GAUSSIAN.std


@every_kind
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_order_1_is_ddim(schedule, eta):
    """At both ends of eta, with the same noise; in between they scale it differently."""
    for times in float64.grids(schedule)[-3:]:
        x = float64.first_states(schedule, times)
        both = [float64.run(kind(eta=eta), schedule, times, x) for kind in (partial(DPMSolverPP, 1), DDIM)]
        np.testing.assert_allclose(*both, rtol=0, atol=1e-5 * (1 + abs(x).max()))


@every_kind
def test_a_point_mass_is_hit_exactly(schedule):
    """With noise and without, in any number of steps."""
    for times in float64.grids(schedule)[:-2]:
        x = float64.first_states(schedule, times)
        for sampler in (DPMSolverPP(3), DPMSolverPP(3, 1.0), DPMSolverPP2S(), DPMSolverPP2S(1.0)):
            end = float64.run(sampler, schedule, times, x)
            assert np.isfinite(end).all()
            np.testing.assert_allclose(end[..., 1], POINT.mean, atol=3e-7)


@pytest.mark.parametrize("ratios", [(0.4, 1.0), (3.0, 0.5)])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_order_3_integrates_a_parabola_exactly_after_unequal_steps(ratios, eta):
    """x0 = lambda^2, and the primitive of e^(k l) l^2 is e^(k l) (l^2 - 2 l/k + 2/k^2)/k."""
    here, h, k = 0.3, 0.8, 1 + eta
    places = here - h * np.cumsum(ratios)
    found = here**2 + weights(places, here, here + h, k) @ (places**2 - here**2)
    end = np.array([here, here + h])
    primitive = np.exp(k * end) * (end**2 - 2 * end / k + 2 / k**2)
    np.testing.assert_allclose(found, (np.diff(primitive) / np.diff(np.exp(k * end))).item(), rtol=1e-5)


@pytest.mark.parametrize("h", [1e-4, 1e-2, 1.0, 10.0, 25.0])
def test_weights_keep_their_digits_for_steps_short_and_long(h):
    exact = float64.average([0.0, -h, -3 * h], np.eye(3), 0.0, h, 1.0)
    found = weights(np.array([-h, -3 * h]), np.float32(0.0), np.float32(h), 1.0)
    np.testing.assert_allclose(found, exact[1:], rtol=2e-5)


def test_unknown_places_and_infinite_steps_have_no_weight():
    inf = np.inf
    for start, stop in [(0.0, inf), (-inf, 0.0), (-inf, inf), (inf, 0.0)]:
        assert not weights(np.array([-1.0, inf]), start, stop, 1.0).any()
    alone = float64.average([0.0, -1.0], np.eye(2), 0.0, 1.0, 1.0)[1:]
    for unknown in (inf, -inf):
        found = weights(np.array([-1.0, unknown]), 0.0, 1.0, 1.0)
        np.testing.assert_allclose(found, [alone[0], 0.0], rtol=1e-6)


@pytest.mark.parametrize("sampler", [DPMSolverPP(3), DPMSolverPP2S()], ids=str)
def test_eta_is_traced_and_a_constant_0_generates_no_noise(sampler: Sampler):
    schedule, traces = SCHEDULES["rectified"], []

    def step(sampler, keys):
        traces.append(sampler)
        x = jnp.ones((2, 1, 1, 1))
        time = jnp.float32(0.6), jnp.float32(0.3)
        return sampler.step(keys, lambda x, t: dj.Denoised(0.5 * x, x), schedule, x, *time, sampler.init(x))[0]

    run = quick_jit(step)
    keys = jax.random.split(jax.random.key(0), 2)
    ends = [run(dataclasses.replace(sampler, eta=eta), keys.copy()) for eta in (0.0, 0.3, 1.0)]
    assert len(traces) == 1
    assert len(np.unique(ends[0])) == 1  # images that started equal
    assert len(np.unique(ends)) == 5
    known = quick_jit(partial(step, sampler))(keys)
    np.testing.assert_allclose(known, ends[0], rtol=1e-6)
    assert "random_bits" not in str(jax.make_jaxpr(partial(step, sampler))(jax.random.split(jax.random.key(0), 2)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: DPMSolverPP(0), "order = 0: must be 1, 2 or 3"),
        (lambda: DPMSolverPP(4), "order = 4"),
        (lambda: DPMSolverPP(eta=-0.1), "eta = -0.1"),
        (lambda: DPMSolverPP(eta=1.5), "eta = 1.5"),
        (lambda: DPMSolverPP2S(eta=2), "eta = 2.0"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_the_default_is_2m_without_noise():
    assert DPMSolverPP() == DPMSolverPP(order=2, eta=0.0)
    assert DPMSolverPP(order=2).order == 2
