"""Self-conditioning: a network that receives its previous x0, against a separate loop in float64."""

import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import SCHEDULES, quick_jit, scales

import diffusion_jax as dj
from diffusion_jax.sampling.samplers import DDIM, DDPM, DPMSolverPP, Heun, Sampler, SelfConditioned

NAMES = ["rectified", "karras"]
NOISE = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)
STEPS = 5


def _network(x_t, t, x0_hat):
    """x0 = 0.5 x_t - 0.4 x0_hat + t/10: the estimate that it receives always has an effect."""
    return 0.5 * x_t - 0.4 * x0_hat + 0.1 * t


def _denoise(schedule, traced=None, called=None):
    """Lists the calls that are traced and those that run."""

    def denoise(x_t, t, x0_hat):
        if traced is not None:
            traced.append(t)
        if called is not None:
            jax.debug.callback(lambda t: called.append(float(t)), t)
        x0 = _network(x_t, t, x0_hat)
        return dj.Denoised(x0, (x_t - schedule.alpha(t) * x0) / schedule.sigma(t))

    return denoise


def _generate(name, sampler, noise=NOISE, **calls):
    schedule, key = SCHEDULES[name], jax.random.key(2)
    denoise = _denoise(schedule, **calls)

    @quick_jit
    def generate(sampler, noise):
        return dj.sample(key, denoise, schedule, noise.shape, sampler=sampler, steps=STEPS, noise=noise)

    x = np.asarray(generate(sampler, noise), np.float64)
    jax.effects_barrier()
    return x


def _loop(name, step):
    """x after STEPS steps of `step(x, x0_hat, at_t, at_s) -> (x, x0_hat)`, where at = (t, alpha, sigma)."""
    schedule = SCHEDULES[name]
    times = np.float32(dj.grids.Uniform()(schedule, STEPS))
    alphas, sigmas = scales(schedule, times)
    x, x0_hat = sigmas[0] * NOISE.astype(np.float64), np.zeros(NOISE.shape)
    for at_t, at_s in pairwise(zip(times.astype(np.float64), alphas, sigmas, strict=True)):
        x, x0_hat = step(x, x0_hat, at_t, at_s)
    return x


def _ddim_step(x, x0_hat, at_t, at_s):
    """Bits' Alg. 2 with the DDIM step."""
    (t, alpha, sigma), (_, alpha_s, sigma_s) = at_t, at_s
    x0 = _network(x, t, x0_hat)
    return alpha_s * x0 + sigma_s * (x - alpha * x0) / sigma, x0


def _heun_step(x, x0_hat, at_t, at_s):
    """Both the second call and the next step receive the first call's x0."""
    (t, alpha, sigma), (s, alpha_s, sigma_s) = at_t, at_s
    x0 = _network(x, t, x0_hat)
    if sigma_s == 0:
        return x0, x0
    eps = (x - alpha * x0) / sigma
    there = alpha_s * x0 + sigma_s * eps
    x0_there = _network(there, s, x0)
    eps_there = (there - alpha_s * x0_there) / sigma_s
    x = x + (alpha_s - alpha) * (x0 + x0_there) / 2 + (sigma_s - sigma) * (eps + eps_there) / 2
    return x, x0


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Copying(Sampler):
    """`inner` on copies of the state and the time, equal in value but other arrays."""

    inner: Sampler = DDIM()
    order = 1

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        def on_copies(x, time):
            return denoise(jnp.where(time > -1, x, 0.0), jnp.maximum(time, -1.0))

        return self.inner.step(keys, on_copies, schedule, x_t, t, s, memory)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("inner", "step", "traced", "called"),
    [
        (DDIM(), _ddim_step, 1, STEPS),
        (Heun(), _heun_step, 4, 2 * STEPS - 1),
        (Copying(DDIM()), _ddim_step, 2, STEPS),
        (Copying(Heun()), _heun_step, 4, 2 * STEPS - 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_each_step_receives_the_previous_x0(name, inner, step, traced, called):
    """Zeros in the first step. Calls are recognized by value: copies of x_t are x_t, traced churn of 0 is none."""
    calls = {"traced": [], "called": []}
    found = _generate(name, SelfConditioned(inner), **calls)
    np.testing.assert_allclose(found, _loop(name, step), rtol=1e-4, atol=1e-5)
    assert len(calls["called"]) == called
    assert len(calls["traced"]) <= traced  # in the body of the scan


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moving(Sampler):
    """A DDIM step from a state of which images above 1 on average are moved."""

    order = 1

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        moved = x_t + (jnp.mean(x_t, axis=(1, 2, 3), keepdims=True) > 1)
        return DDIM().step(keys, denoise, schedule, moved, t, s, memory)


def test_an_image_does_not_depend_on_whether_others_have_moved():
    """An image that asks at its x_t receives the first answer, whatever the rest of the batch asks for."""
    noise = np.array([0.3, 2.0], np.float32).reshape(2, 1, 1, 1) + np.zeros((2, 2, 2, 1), np.float32)
    together = _generate("rectified", SelfConditioned(Moving()), noise)
    for i in range(2):
        np.testing.assert_array_equal(
            together[i : i + 1], _generate("rectified", SelfConditioned(Moving()), noise[i : i + 1])
        )
    assert not np.allclose(together[0], together[1])


def test_memory_and_noise_of_the_sampler_inside_are_unchanged():
    """For a network that ignores x0_hat nothing changes, neither with a multistep method nor with noise."""
    schedule, key = SCHEDULES["rectified"], jax.random.key(7)

    def denoise(x_t, t, **kwargs):
        x0 = jnp.sin(x_t) + t
        return dj.Denoised(x0, (x_t - schedule.alpha(t) * x0) / schedule.sigma(t))

    def draw(sampler):
        return dj.sample(key, denoise, schedule, NOISE.shape, sampler=sampler, steps=STEPS)

    for sampler in (DPMSolverPP(), DDPM()):
        alone, within = quick_jit(lambda s=sampler: (draw(s), draw(SelfConditioned(s))))()
        np.testing.assert_allclose(alone, within, rtol=0, atol=1e-6)


def test_floats_of_the_sampler_inside_are_traced():
    traces = []

    @jax.jit
    def step(sampler, x):
        traces.append(sampler)
        keys, memory = jax.random.split(jax.random.key(0), len(x)), sampler.init(x)
        flow = SCHEDULES["rectified"]
        return sampler.step(keys, _denoise(flow), flow, x, jnp.float32(0.6), jnp.float32(0.3), memory)[0]

    some = [step(SelfConditioned(DDIM(eta)), jnp.asarray(NOISE)) for eta in (0.0, 0.5, 1.0)]
    assert len(traces) == 1
    assert not np.allclose(some[0], some[1])
    assert jax.tree.leaves(SelfConditioned(DDIM(0.25))) == [0.25]
    step(SelfConditioned(DDPM("large")), jnp.asarray(NOISE))
    assert len(traces) == 2


def test_a_sampler_within_a_sampler_survives_a_round_trip_of_its_leaves():
    for sampler in (SelfConditioned(DDIM(0.3)), SelfConditioned(DPMSolverPP(1)), SelfConditioned()):
        leaves, structure = jax.tree.flatten(sampler)
        assert structure.unflatten(leaves) == sampler
        assert hash(structure.unflatten(leaves)) == hash(sampler)


def test_the_order_is_the_order_of_the_sampler_inside():
    orders = [SelfConditioned(sampler).order for sampler in (DDIM(), Heun(), DPMSolverPP(1), DPMSolverPP(2))]
    assert orders == [1, 2, 1, 2]
    assert isinstance(SelfConditioned(), Sampler)


@pytest.mark.parametrize("wrong", ["DDIM", DDIM, SelfConditioned()], ids=str)
def test_only_another_sampler_can_be_inside(wrong):
    with pytest.raises(ValueError, match="sampler = .*: must "):
        SelfConditioned(wrong)
