"""The parts that samplers share; tests/verify compares every sampler with closed forms."""

import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
    SCHEDULES,
    Gaussian,
    ancestral_law,
    assert_moments,
    exact_denoiser,
    posterior_variance,
    quick_jit,
    scales,
    step_variance,
)

import diffusion_jax as dj
from diffusion_jax.sampling.samplers import (
    DDIM,
    DDPM,
    DEIS,
    DPMSolverPP,
    Heun,
    Sampler,
    SelfConditioned,
    StridedPosterior,
    UniPC,
)
from diffusion_jax.sampling.samplers.base import check_sampler
from diffusion_jax.validation import STATIC, number

STOCHASTIC = {
    "ddpm_small": DDPM("small"),
    "ddpm_large": DDPM("large"),
    "ddim_half": DDIM(eta=0.5),
    "ddim_1": DDIM(eta=1.0),
}
SAMPLERS = STOCHASTIC | {"heun": Heun(), "dpm_1": DPMSolverPP(order=1), "dpm_2": DPMSolverPP(order=2)}
GAUSSIAN = Gaussian(0.3, 0.5)


def _half_noise(at_t, at_s):
    return 0.25 * posterior_variance(at_t, at_s)


# The variance that a step leaves room for and the variance that it adds.
LAWS = {
    "ddpm_small": (posterior_variance, posterior_variance),
    "ddpm_large": (posterior_variance, step_variance),
    "ddim_half": (_half_noise, _half_noise),
    "ddim_1": (posterior_variance, posterior_variance),
}


@pytest.mark.parametrize("schedule", ["linear", "rectified", "karras"])
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_one_step_has_the_mean_and_std_of_its_law(schedule, sampler):
    """From one x_t; over many steps the law of the samples hardly depends on the noise of a step."""
    schedule, x_t = SCHEDULES[schedule], np.full((20_000, 1, 1, 1), 0.9, np.float32)
    points = list(zip(*scales(schedule, np.array([0.6, 0.4])), strict=True))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = points

    def denoise(x_t, t):
        return GAUSSIAN.denoised(x_t, schedule.alpha(t), schedule.sigma(t))

    keys = jax.random.split(jax.random.key(4), len(x_t))
    x_s, _ = SAMPLERS[sampler].step(keys, denoise, schedule, x_t, 0.6, 0.4, ())
    kept, added = (law(*points) for law in LAWS[sampler])
    a = np.sqrt(sigma_s**2 - kept) / sigma_t
    x0 = float(GAUSSIAN.denoised(0.9, alpha_t, sigma_t).x0)
    assert_moments(x_s, a * 0.9 + (alpha_s - a * alpha_t) * x0, np.sqrt(added))


@pytest.mark.parametrize("ratio", [0.4, 1.0, 3.0])
def test_the_two_step_rule_holds_for_unequal_steps(ratio):
    """Error h^3 of one step after a `ratio` times as long one, where x0 = lambda = log_snr/2.

    There x/sigma has the slope e^lambda x0 in lambda: the integral is (lambda - 1) e^lambda.
    The global order cannot tell: a rule with the ratio upside down has errors that telescope.
    """
    schedule, sampler = SCHEDULES["rectified"], DPMSolverPP(order=2)

    def denoise(x_t, t):
        x0 = jnp.broadcast_to(schedule.log_snr(t) / 2, x_t.shape)
        return dj.Denoised(x0, x0)

    def exact(t):
        sigma, half = float(schedule.sigma(t)), float(schedule.log_snr(t)) / 2
        return np.full((1, 1, 1, 1), sigma * (half - 1) * np.exp(half), np.float32)

    def error(h):
        before, here, after = schedule.time(2 * np.array([0.5 - ratio * h, 0.5, 0.5 + h]))
        memory = sampler.init(exact(before))
        _, memory = sampler.step(None, denoise, schedule, exact(before), before, here, memory)
        x_s, _ = sampler.step(None, denoise, schedule, exact(here), here, after, memory)
        return abs(float((x_s - exact(after)).item()))

    assert np.log2(error(0.4) / error(0.2)) > 2.7


def _halve(x, t):
    return dj.Denoised(0.5 * x, 0.5 * x)


@pytest.mark.parametrize("sampler", [DDPM("small"), DDIM(eta=0.5)], ids=str)
def test_many_steps_give_the_mean_and_std_of_the_data(sampler):
    """Ancestral sampling converges to the data itself, at first order in the step."""
    schedule, data = SCHEDULES["linear"], Gaussian(0.3, 0.5)
    denoise = exact_denoiser(data, schedule, dj.predictions.V())
    shape = (512, 4, 4, 1)
    draw = quick_jit(lambda key: dj.sample(key, denoise, schedule, shape, sampler=sampler, steps=250))
    x = np.asarray(draw(jax.random.key(1)), np.float64)
    assert abs(x.mean() - 0.3) < 5 * 0.5 / np.sqrt(x.size)
    assert abs(x.std() - 0.5) < 0.01 + 5 * 0.5 / np.sqrt(2 * x.size)


def test_ddim_with_eta_1_narrows_a_gaussian_by_the_right_amount():
    """250 of 1000 steps of std 0.2 give 0.188; without the noise 0.0003, unshrunk direction 0.72."""
    schedule, data = SCHEDULES["linear"], Gaussian(0.0, 0.2)
    alphas, sigmas = scales(schedule, dj.grids.Uniform()(schedule, 250))
    _, std = ancestral_law(data, alphas, sigmas, posterior_variance, posterior_variance)
    assert round(std, 3) == 0.188
    denoise = exact_denoiser(data, schedule, dj.predictions.Eps())
    sampler = DDIM(eta=1.0)
    draw = quick_jit(lambda key: dj.sample(key, denoise, schedule, (512, 6, 6, 1), sampler=sampler, steps=250))
    assert_moments(draw(jax.random.key(2)), 0.0, std)


def _count_traces(step):
    """A jitted function of (sampler, x) around `step`, and the list that grows with each trace."""
    traces = []

    def run(sampler, x):
        traces.append(sampler)
        return step(sampler, x)

    return jax.jit(run), traces


def _one_step(sampler, x, t=0.6, s=0.3):
    keys = jax.random.split(jax.random.key(0), len(x))
    times = jnp.float32(t), jnp.float32(s)
    flow = SCHEDULES["rectified"]
    return sampler.step(keys, _halve, flow, x, *times, sampler.init(x))[0]


def test_eta_is_traced_so_that_another_one_never_recompiles():
    run, traces = _count_traces(_one_step)
    x = jnp.ones((4, 1, 1, 1))
    outputs = [run(DDIM(eta=eta), x) for eta in (0.0, 0.3, 1.0)]
    assert len(traces) == 1
    for eta, x_s in zip((0.0, 0.3, 1.0), outputs, strict=True):
        np.testing.assert_allclose(x_s, _one_step(DDIM(eta=eta), x), rtol=1e-5, atol=1e-6)
    assert not np.allclose(outputs[0], outputs[2])


def test_a_field_marked_static_compiles_again():
    run, traces = _count_traces(_one_step)
    x = jnp.ones((4, 1, 1, 1))
    small, large = run(DDPM("small"), x), run(DDPM("large"), x)
    assert len(traces) == 2
    assert not np.allclose(small, large)


def test_the_strided_posterior_has_the_known_error():
    """Standard deviations measured on that project's own code, T = 500 in 35 steps; DDIM's is right."""
    schedule, data = dj.schedules.Cosine(500, max_beta=1.0), Gaussian(0.0, 0.5)

    def denoise(x_t, t):
        return data.denoised(x_t, schedule.alpha(t), schedule.sigma(t))

    @quick_jit
    def spread(sampler):
        shape, grid = (200, 16, 16, 1), dj.grids.Leading()
        return dj.sample(jax.random.key(0), denoise, schedule, shape, sampler=sampler, steps=35, grid=grid).std()

    for eta, std in {0.0: 0.026, 0.1: 0.177, 1.0: 0.554}.items():
        assert spread(StridedPosterior(eta)) == pytest.approx(std, rel=0.02)
    assert spread(DDIM(0.0)) == pytest.approx(0.480, rel=0.01)


def test_the_strided_posterior_is_the_loop_of_that_project():
    """Its loop in float64: A, P = abar at tau_i and tau_(i-1), n - 1 calls, no step to x0."""
    schedule, rng = dj.schedules.Cosine(500, max_beta=1.0), np.random.default_rng(0)
    abar, tau = schedule.abar(), np.arange(0, 500, 500 // 20) + 1
    start = rng.normal(size=(4, 2, 2, 1))
    x = start.copy()
    for i in range(19, 0, -1):
        a, p = abar[tau[i]], abar[tau[i - 1]]
        b = np.clip((1 - a / p) * (1 - p) / (1 - a), 0, 0.999)
        x = (x - b * np.sin(x + i) / np.sqrt(1 - a)) / np.sqrt(1 - b)

    def denoise(x_t, t):  # an arbitrary eps for each index of time
        eps = jnp.sin(x_t + (t * 500 - 1) / 25)
        return dj.Denoised((x_t - schedule.sigma(t) * eps) / schedule.alpha(t), eps)

    sampler, times = StridedPosterior(0.0), dj.grids.Leading()(schedule, 20)
    found = jnp.asarray(start, jnp.float32) * schedule.sigma(times[0])
    memory = sampler.init(found)
    for t, s in pairwise(times):
        keys = jax.random.split(jax.random.key(int(t * 500)), 4)  # not used at eta = 0
        found, memory = sampler.step(keys, denoise, schedule, found, jnp.float32(t), jnp.float32(s), memory)
    np.testing.assert_allclose(found, x, rtol=1e-3, atol=1e-3)


# --- samplers as pytrees ---------------------------------------------------------------------


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Relaxed(Sampler):
    """A user's sampler: a step of `pull` towards x0, away from it for a negative `sign`."""

    pull: float = 1.0
    sign: int = dataclasses.field(default=1, metadata=STATIC)
    offset: "float | None" = None
    share: float = dataclasses.field(default=0.5, metadata=number("[0, 1]"))
    order = 1

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x_s = x_t + self.sign * self.pull * (denoise(x_t, t).x0 - x_t)
        return x_s if self.offset is None else x_s + self.offset, memory


@dataclasses.dataclass(frozen=True)
class Unregistered(Relaxed):
    pass


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Named(Relaxed):
    name: str = "a"


def _generate(sampler, n=2):
    schedule = SCHEDULES["rectified"]
    return dj.sample(jax.random.key(0), _halve, schedule, (n, 1, 1, 1), sampler=sampler, times=[0.8, 0.4, 0.2])


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_samplers_are_pytrees_that_survive_a_round_trip(sampler):
    leaves, structure = jax.tree.flatten(sampler)
    assert structure.unflatten(leaves) == sampler
    traced = [field for field in dataclasses.fields(sampler) if "static" not in field.metadata]
    assert len(leaves) == len(traced)


@pytest.mark.parametrize("eta", [0, 1, np.float32(0.5)])
def test_eta_is_traced_whatever_number_it_is(eta):
    assert jax.tree.leaves(DDIM(eta)) == [float(eta)]


def test_a_user_s_sampler_works_inside_jit_with_its_numbers_traced():
    """A field that may be None is traced as well; only fields marked static compile again."""
    run, traces = _count_traces(_one_step)
    x = jnp.ones((2, 1, 1, 1))
    np.testing.assert_allclose(run(Relaxed(pull=1.0), x), 0.5 * x)
    np.testing.assert_allclose(run(Relaxed(pull=0.5), x), 0.75 * x)
    assert len(traces) == 1
    np.testing.assert_allclose(run(Relaxed(pull=1.0, sign=-1), x), 1.5 * x)
    assert len(traces) == 2
    for offset in (0.25, 3.0):
        np.testing.assert_allclose(run(Relaxed(offset=offset), x), 0.5 * x + offset)
    assert len(traces) == 3


def test_a_sampler_is_an_argument_of_jit_as_well_as_a_constant():
    run = jax.jit(_generate)
    for sampler in (DDIM(0.7), Relaxed(0.3)):
        np.testing.assert_allclose(run(sampler), _generate(sampler), rtol=1e-6)


def test_eta_can_be_mapped_over():
    """Several samplers at once: their leaves stacked, `dj.sample` under vmap."""
    etas = [0.0, 0.5, 1.0]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(DDIM, etas))
    assert stacked.eta.shape == (3,)
    found = jax.jit(jax.vmap(_generate))(stacked)
    for x, eta in zip(found, etas, strict=True):
        np.testing.assert_allclose(x, _generate(DDIM(eta)), rtol=1e-5, atol=1e-6)
    nested = jax.device_get(jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(SelfConditioned, map(DDIM, etas))))
    assert nested.sampler.eta.tolist() == etas


def test_jax_rebuilds_samplers_with_anything_in_place_of_their_numbers():
    sampler = DPMSolverPP(order=3, eta=0.25)
    assert jax.tree.map(lambda eta: 2 * eta, sampler) == DPMSolverPP(order=3, eta=0.5)
    shapes = jax.eval_shape(lambda sampler: jax.tree.map(lambda leaf: leaf + jnp.zeros(4), sampler), sampler)
    assert shapes.eta.shape == (4,)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert jax.device_put(sampler, jax.tree.map(lambda _: device, sampler)).eta == 0.25
    for each in (sampler, SelfConditioned(sampler)):
        compiled = jax.jit(lambda sampler: 4 * jax.tree.leaves(sampler)[0]).lower(each).compile()  # ahead of time
        assert compiled(each) == 1.0

    def error(sampler):
        return jnp.sum((_generate(sampler) - 3.0) ** 2)

    gradient = jax.grad(error)(Relaxed(0.3))  # outside of the range of `share`, too
    numeric = (error(Relaxed(0.301)) - error(Relaxed(0.299))) / 0.002
    np.testing.assert_allclose(gradient.pull, numeric, rtol=1e-2)
    assert gradient.pull < -1
    assert isinstance(jax.grad(error)(Relaxed(share=0.9)), Relaxed)


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (
            Unregistered(),
            "sampler = Unregistered.*: must be a registered pytree; put @dj.register_dataclass",
        ),
        (SelfConditioned(Unregistered()), "sampler = Unregistered.*: must be a registered pytree"),
        (Named(), "sampler.name = 'a': must be a number, which jit traces; mark a field that is not a number static"),
        (DDIM(jnp.zeros(2)), r"sampler.eta has shape \(2,\): must be one number"),
        (DDIM(np.zeros(1)), r"sampler.eta has shape \(1,\): must be one number"),
        (DDIM(jnp.float32(2.0)), r"eta = 2.0: must be in \[0, 1\]"),
        (SelfConditioned(DDIM(jnp.float32(2.0))), r"eta = 2.0: must be in \[0, 1\]"),
        (DPMSolverPP(order=np.array(2)), "order = array.*: must be 1, 2 or 3"),
        ("DDIM", r"sampler = 'DDIM': must be of type Sampler, such as DDIM\(\)"),
    ],
    ids=str,
)
def test_a_sampler_that_cannot_be_used_is_refused_in_one_line(sampler, words):
    check_sampler(Relaxed(offset=1.0))
    for use in (check_sampler, _generate):
        with pytest.raises(ValueError, match=words) as error:
            use(sampler)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: DDPM(variance="medium"), 'variance = \'medium\': must be "small", "large" or "learned"'),
        (lambda: DDIM(eta=-0.1), "eta = -0.1"),
        (lambda: DDIM(eta=1.5), "eta = 1.5"),
        (lambda: StridedPosterior(eta=2.0), "eta = 2.0"),
        (lambda: DPMSolverPP(order=0), "order = 0"),
        (lambda: DPMSolverPP(order=2.0), "order = 2.0: must be 1, 2 or 3"),
        (lambda: UniPC(order="2"), "order = '2': must be 1, 2 or 3"),
        (lambda: DEIS(order=2.0), "order = 2.0: must be 2 or 3"),
        (lambda: DDIM(eta="0"), "eta = '0': must be a number"),
        (lambda: DDIM(eta=np.float32(2.0)), r"eta = 2.0: must be in \[0, 1\]"),
        (lambda: DDIM(eta=[0.0, 0.0]), r"eta has shape \(2,\): must be one number"),
        (lambda: DPMSolverPP(order=4), "order = 4"),
        (lambda: Relaxed(share=2.0), "share = 2.0"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(build, words):
    with pytest.raises(ValueError, match=words):
        build()
