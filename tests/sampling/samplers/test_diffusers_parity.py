"""Parity with PyPI's diffusers: its schedulers and our samplers on one network, from one state, by one noise.

    pip install -e ".[test,parity]" && pytest -n 0 -s tests/sampling/samplers/test_diffusers_parity.py

prints the table of docs/parity.md, which gives the reason of each difference of convention that is
neutralized here. Their tables and states are converted to float64, so that methods are compared and not roundings;
ours stay float32. Their results in float32, as shipped, are printed as well.
"""

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import quick_jit

import diffusion_jax as dj
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers import DDIM, DDPM, DEIS, DPMSolverPP, Euler, EulerAncestral, Heun, UniPC
from diffusion_jax.sampling.samplers.base import Sampler

_MISSING = 'needs PyTorch and diffusers: pip install -e ".[parity]"'
torch = pytest.importorskip("torch", reason=_MISSING)
diffusers = pytest.importorskip("diffusers", reason=_MISSING)

LIMIT = 1e-4  # of the largest difference, relative to the standard deviation of the result
T = 1000
STEPS = (10, 25, 50)
SCHEDULES = {
    "linear": (dj.schedules.LinearBeta(), dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)),
    "cosine": (dj.schedules.Cosine(), dict(beta_schedule="squaredcos_cap_v2")),
}
# With the channels of the state that each has for itself.
PREDICTIONS = {
    "eps": (dj.predictions.Eps(), dict(prediction_type="epsilon"), slice(0, 2)),
    "v": (dj.predictions.V(), dict(prediction_type="v_prediction"), slice(2, 4)),
}
SHAPE, CHANNELS = (4, 4, 4, 4), 2


@dataclasses.dataclass(frozen=True)
class Pair:
    """A sampler of ours and their scheduler, with the `options` that neutralise its conventions.

    `scaled`: their state is x_t/alpha, with noise of nsr = sigma/alpha, up to 20 291 on the cosine.
    `spacing` is that of their timesteps; `step` goes to each of their steps.
    """

    ours: Sampler
    scheduler: type
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    scaled: bool = False
    spacing: str = "trailing"
    step: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def learned(self) -> bool:
        return self.ours == DDPM("learned")

    def timestep_spacing(self, schedule: str) -> str:
        # x0 is lost in float32 beside a noise of 20 291: by "leading" they start at 34 or less.
        return "leading" if self.scaled and schedule == "cosine" else self.spacing


class WholeCurvature(diffusers.DPMSolverMultistepScheduler):
    """Their 3M takes half the curvature of the parabola through the last three x0: this adds the rest."""

    def multistep_dpm_solver_third_order_update(self, x0s, *, sample, noise):
        i = self.step_index
        h, h_0, h_1 = torch.log(self.sigmas[[i + 1, i, i - 1, i - 2]]).diff()  # of lambda = -log(nsr)
        curvature = h**2 * ((x0s[-1] - x0s[-2]) / h_0 - (x0s[-2] - x0s[-3]) / h_1) / (h_0 + h_1)
        alpha = 1 / torch.sqrt(1 + self.sigmas[i + 1] ** 2)
        rest = alpha * (0.5 - (torch.expm1(-h) + h) / h**2) * curvature
        return super().multistep_dpm_solver_third_order_update(x0s, sample=sample, noise=noise) + rest


_UNCLIPPED = dict(clip_sample=False, thresholding=False)  # ours clips where the denoiser is told to
_FULL = dict(lower_order_final=False)  # ours has a lower order in the step to data alone
_SHORT = _FULL | dict(final_sigmas_type="sigma_min")


def _ddim(eta: float) -> Pair:
    return Pair(DDIM(eta), diffusers.DDIMScheduler, _UNCLIPPED, step=dict(eta=eta))


def _ddpm(ours: str, theirs: str) -> Pair:
    # Their last step of "trailing" puts the larger variances on the data, that of "leading" does not.
    spacing = "trailing" if ours == "small" else "leading"
    return Pair(DDPM(ours), diffusers.DDPMScheduler, _UNCLIPPED | dict(variance_type=theirs), spacing=spacing)


def _dpm(order: int, **options: Any) -> Pair:
    eta = 1.0 if "algorithm_type" in options else 0.0
    scheduler = diffusers.DPMSolverMultistepScheduler if order < 3 else WholeCurvature
    return Pair(DPMSolverPP(order, eta), scheduler, _FULL | dict(solver_order=order, **options))


def _uni(order: int, variant: str) -> Pair:
    # Theirs makes NaN of "bh1", and has no third order before, in a step to data: end at t = 1/T instead.
    end, spacing = ({}, "trailing") if (order, variant) == (2, "bh2") else (_SHORT, "leading")
    options = end | dict(solver_order=order, solver_type=variant)
    return Pair(UniPC(order, variant), diffusers.UniPCMultistepScheduler, options, spacing=spacing)


def _deis(order: int) -> Pair:
    # It always ends at t = 1/T.
    options = _FULL | dict(solver_order=order)
    return Pair(DEIS(order), diffusers.DEISMultistepScheduler, options, spacing="leading")


PAIRS = {
    "DDIM()": _ddim(0.0),
    "DDIM(eta=0.5)": _ddim(0.5),
    "DDIM(eta=1)": _ddim(1.0),
    "DDPM('small')": _ddpm("small", "fixed_small"),
    "DDPM('large')": _ddpm("large", "fixed_large"),
    "DDPM('learned')": _ddpm("learned", "learned_range"),
    "DPMSolverPP(1)": _dpm(1),
    "DPMSolverPP(2)": _dpm(2),
    "DPMSolverPP(2, eta=1)": _dpm(2, algorithm_type="sde-dpmsolver++"),
    "DPMSolverPP(3)": _dpm(3, solver_type="heun"),  # the exact average in its second step
    "UniPC(2, 'bh2')": _uni(2, "bh2"),
    "UniPC(2, 'bh1')": _uni(2, "bh1"),
    "UniPC(3, 'bh2')": _uni(3, "bh2"),
    "DEIS(2)": _deis(2),
    "DEIS(3)": _deis(3),
    "Euler()": Pair(Euler(), diffusers.EulerDiscreteScheduler, scaled=True),
    "EulerAncestral()": Pair(EulerAncestral(), diffusers.EulerAncestralDiscreteScheduler, scaled=True),
    "Heun()": Pair(Heun(), diffusers.HeunDiscreteScheduler, scaled=True),
}


# The network: one numpy function that both sides call, far from linear in x and t, which mixes neighbours and
# holds x0 within [-1, 1]. An error made on the way is about as large in the result or larger, never lost.


def _x0(x: np.ndarray, t: float) -> np.ndarray:
    places = np.arange(x[0].size).reshape(x[0].shape)
    return 0.6 * np.sin(2 * x + 5 * t + places) + 0.4 * np.cos(np.roll(x, 1, axis=1) - 7 * t)


@cache
def _scales(schedule: str) -> tuple[np.ndarray, np.ndarray]:
    """(alpha, sigma) at t = k/T, k = 1..T, float64, from the betas of the papers."""
    f = np.cos(np.pi / 2 * (np.arange(T + 1) / T + 0.008) / 1.008) ** 2
    betas = {"linear": np.linspace(1e-4, 0.02, T), "cosine": np.minimum(1 - f[1:] / f[:-1], 0.999)}
    log_abar = np.cumsum(np.log1p(-betas[schedule]))
    return np.exp(log_abar / 2), np.sqrt(-np.expm1(log_abar))


def _network(schedule: str, prediction: str, learned: bool) -> Callable[[np.ndarray, int], np.ndarray]:
    """network(x [B, H, W, C], index k of t = (k + 1)/T) -> float32 [B, H, W, C], or 2C if `learned`."""

    def network(x, index):
        x, (alpha, sigma) = np.asarray(x, np.float64), (scale[index] for scale in _scales(schedule))
        x0 = _x0(x, (index + 1) / T)
        eps = (x - alpha * x0) / sigma
        output = eps if prediction == "eps" else alpha * eps - sigma * x0
        return np.concatenate([output, np.sin(3 * x)][: 1 + learned], -1).astype(np.float32)

    return network


# Their side.


def _scheduler(pair: Pair, schedule: str, prediction: str, steps: int, exact: bool = True) -> Any:
    """Theirs, ready for `steps` steps, its tables in float64 if `exact`."""
    scheduler = pair.scheduler(
        num_train_timesteps=T,
        timestep_spacing=pair.timestep_spacing(schedule),
        **SCHEDULES[schedule][1],
        **PREDICTIONS[prediction][1],
        **pair.options,
    )
    scheduler.set_timesteps(steps)
    if exact:
        alpha, sigma = _scales(schedule)
        scheduler.alphas_cumprod = torch.from_numpy(alpha**2)
        if hasattr(scheduler, "sigmas"):  # nsr at each timestep and at the end
            end = sigma[0] / alpha[0] if _stops_short(scheduler) else 0.0
            at_steps = (sigma / alpha)[scheduler.timesteps.long().numpy()]
            scheduler.sigmas = torch.from_numpy(np.append(at_steps, end))
    return scheduler


def _stops_short(scheduler: Any) -> bool:
    """Whether its last step ends at t = 1/T and not on data."""
    return hasattr(scheduler, "sigmas") and bool(scheduler.sigmas[-1] > 0)


def _times(scheduler: Any) -> np.ndarray:
    """Our times of its steps: their index k is t = (k + 1)/T."""
    indices = np.unique(scheduler.timesteps.numpy())[::-1]
    return np.append((indices + 1) / T, 1 / T if _stops_short(scheduler) else 0.0)


def _theirs(name: str, schedule: str, prediction: str, steps: int, exact: bool) -> np.ndarray:
    """The result [4, 4, 4, CHANNELS], float64."""
    pair, channels = PAIRS[name], PREDICTIONS[prediction][2]
    scheduler = _scheduler(pair, schedule, prediction, steps, exact)
    network = _network(schedule, prediction, pair.learned)
    first, *noises = (_tensor(x[..., channels], exact) for x in _noises(steps))
    drawn = iter(noises)
    with pytest.MonkeyPatch.context() as patch:
        module = sys.modules[pair.scheduler.step.__module__]
        patch.setattr(module, "randn_tensor", lambda *_, **__: next(drawn), raising=False)
        # Their state may be x_t/alpha: the first is the one that they scale to ours for the network.
        x = first / scheduler.scale_model_input(torch.ones_like(first), scheduler.timesteps[0])
        for index in scheduler.timesteps:
            seen = np.moveaxis(scheduler.scale_model_input(x, index).numpy(), 1, -1)
            output = _tensor(network(seen, int(index)), exact)
            x = scheduler.step(output, index, x, **pair.step).prev_sample
    return np.moveaxis(x.double().numpy(), 1, -1)


def _tensor(x: np.ndarray, exact: bool) -> Any:
    """[B, H, W, C] as [B, C, H, W]."""
    return torch.tensor(np.moveaxis(x, -1, 1).copy(), dtype=torch.float64 if exact else torch.float32)


# Our side. Both predictions in one compile, side by side in the channels.


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noises(Sampler):
    """Its state after a step is the noise that every sampler receives there."""

    order = 0

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        return standard_normal(keys, x_t.shape[1:]), memory


@dataclasses.dataclass(frozen=True)
class Scaled(Schedule):
    """The schedule of x_t/alpha: alpha = 1 and sigma = nsr."""

    schedule: Schedule

    def log_snr(self, t):
        return self.schedule.log_snr(t)

    def time(self, log_snr):
        return self.schedule.time(log_snr)

    def scales(self, log_snr):
        return jnp.ones_like(log_snr), jnp.exp(-log_snr / 2)


@cache
def _noises(steps: int) -> np.ndarray:
    """The first state, and what each step draws: [steps + 1, *SHAPE]."""
    march = _march(None, SCHEDULES["linear"][0], np.linspace(1, 0, steps + 1), keep=steps + 1)
    return np.array(march(Noises(), jax.random.normal(jax.random.key(1), SHAPE))[1].x)


@cache
def _ours(name: str, schedule: str, steps: int) -> np.ndarray:
    pair, start = PAIRS[name], _noises(steps)[0]
    times = tuple(_times(_scheduler(pair, schedule, "v", steps)).tolist())
    # Ours is the trapezoidal rule for x_t, theirs for x_t/alpha: the same one where alpha = 1.
    scaled = name == "Heun()"
    if scaled:
        start = start / SCHEDULES[schedule][0].alpha(times[0])
    return np.asarray(_marching(schedule, times, pair.learned, scaled)(pair.ours, start), np.float64)


@cache
def _marching(schedule: str, times: tuple, learned: bool, scaled: bool):
    """One compile for the samplers that differ in a traced number alone."""
    process, denoise = SCHEDULES[schedule][0], _denoise(schedule, learned)
    if not scaled:
        return _march(denoise, process, times)
    return _march(lambda x, t: denoise(process.alpha(t) * x, t), Scaled(process), times)


def _denoise(schedule: str, learned: bool) -> Denoise:
    def apply(network, x, time, labels):
        output = jax.ShapeDtypeStruct((*x.shape[:-1], CHANNELS * (1 + learned)), jnp.float32)
        return jax.pure_callback(lambda x, t: network(x, round(T * float(t[0])) - 1), output, x, time)

    process = SCHEDULES[schedule][0]
    denoisers = [
        dj.denoiser(apply, _network(schedule, name, learned), process, prediction)
        for name, (prediction, *_) in PREDICTIONS.items()
    ]

    def denoise(x_t, t):
        both = [f(x, t) for f, x in zip(denoisers, jnp.split(x_t, len(denoisers), -1), strict=True)]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, -1), *both)

    return denoise


def _march(denoise, schedule, times, keep=0):
    def march(sampler, start):
        key = jax.random.key(0)
        return dj.sample(key, denoise, schedule, SHAPE, sampler=sampler, times=times, start=start, keep=keep)

    return quick_jit(march)


# Both.


@pytest.fixture(scope="module")
def measured():
    """Differences of each sampler, (in float64, as shipped), printed when all have run."""
    table: dict[str, dict[tuple, tuple[float, float]]] = defaultdict(dict)
    yield table
    print(_markdown(table))


def _markdown(table) -> str:
    """A row for each sampler: 1e6 times its differences at each number of steps, and the largest ones."""
    columns = [(s, p) for s in SCHEDULES for p in PREDICTIONS]
    rows = [["sampler", *map(", ".join, columns), "largest", "in float32"], ["---"] * (len(columns) + 3)]
    for name, found in table.items():
        cells = [" ".join(f"{1e6 * d:.1f}" for k, (d, _) in found.items() if k[:2] == c) for c in columns]
        largest = np.max(list(found.values()), axis=0)
        rows.append([f"`{name}`", *cells, *(f"{d:.1e}" for d in largest)])
    return "\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", PAIRS)
def test_parity(name, schedule, prediction, steps, measured):
    case = (name, schedule, prediction, steps)
    ours = _ours(name, schedule, steps)[..., PREDICTIONS[prediction][2]]
    exact, shipped = (_theirs(*case, exact) for exact in (True, False))
    assert exact.std() > 0.3  # the network's, not a constant
    differences = tuple(float(np.abs(ours - x).max() / exact.std()) for x in (exact, shipped))
    measured[name][case[1:]] = differences
    assert differences[0] < LIMIT


@pytest.mark.parametrize("steps", STEPS)
def test_their_spacings_are_grids_of_ours(steps):
    for spacing, grid in (("trailing", dj.grids.Uniform()), ("leading", dj.grids.Leading())):
        theirs = diffusers.DDIMScheduler(num_train_timesteps=T, timestep_spacing=spacing)
        theirs.set_timesteps(steps)
        np.testing.assert_allclose(_times(theirs), grid(dj.schedules.LinearBeta(), steps), rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_their_schedules_are_ours_up_to_float32(schedule):
    ours, options = SCHEDULES[schedule]
    theirs = diffusers.DDIMScheduler(num_train_timesteps=T, **options).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(theirs, ours.abar()[1:], rtol=1e-4)
