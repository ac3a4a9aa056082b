"""The schedules, predictions and samplers that are verified, and the known facts about the samplers."""

import dataclasses

import numpy as np

from diffusion_jax.oracles import half_noise, no_noise, posterior_variance, step_variance_unless_data
from diffusion_jax.oracles.laws import Variance
from diffusion_jax.process import predictions, schedules
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import samplers
from diffusion_jax.sampling.samplers import Sampler

# A correct sampler exceeds five standard errors once in two million draws.
STANDARD_ERRORS = 5.0

SCHEDULES: dict[str, Schedule] = {
    "linear": schedules.LinearBeta(),
    "cosine": schedules.Cosine(),
    "sigmoid": schedules.Sigmoid(),
    "betas": schedules.Betas(tuple(np.geomspace(1e-4, 0.02, 1000))),
    "zero_terminal": schedules.ZeroTerminalSNR(schedules.LinearBeta()),
    "rectified": schedules.RectifiedFlow(),
    "karras": schedules.Karras(),
    "shifted_cosine": schedules.Shifted(schedules.Cosine(), resolution=128),
    "shifted_rectified": schedules.Shifted(schedules.RectifiedFlow(), resolution=32),
}

# One schedule of each kind, for slow checks: a table, straight lines, a variance that grows without bound.
KINDS = ("linear", "rectified", "karras")

PREDICTIONS: dict[str, Prediction] = {
    "eps": predictions.Eps(),
    "x0": predictions.X0(),
    "v": predictions.V(),
    "velocity": predictions.Velocity(),
    "preconditioned": predictions.Preconditioned(0.5),
}


def predictions_for(schedule: Schedule) -> dict[str, Prediction]:
    """The predictions that work with `schedule`: all, except eps if the terminal SNR is zero."""
    return {name: prediction for name, prediction in PREDICTIONS.items() if _is_usable(prediction, schedule)}


def _is_usable(prediction: Prediction, schedule: Schedule) -> bool:
    try:
        prediction.check(schedule)
    except ValueError:
        return False
    return True


def sampler_name(sampler: Sampler) -> str:
    """The sampler as Python code, without arguments that have their default value.

    >>> dj.verify.cases.sampler_name(dj.samplers.SelfConditioned(dj.samplers.DDIM(eta=0.5)))
    'SelfConditioned(sampler=DDIM(eta=0.5))'
    """
    fields = [f for f in dataclasses.fields(sampler) if getattr(sampler, f.name) != f.default]
    values = [(field.name, getattr(sampler, field.name)) for field in fields]
    arguments = [f"{name}={sampler_name(v) if isinstance(v, Sampler) else repr(v)}" for name, v in values]
    return f"{type(sampler).__name__}({', '.join(arguments)})"


_SAMPLERS = (
    samplers.DDPM(),
    samplers.DDPM("large"),
    samplers.DDIM(),
    samplers.DDIM(0.5),
    samplers.DDIM(1.0),
    samplers.Euler(),
    samplers.EulerAncestral(),
    samplers.EulerAncestral(0.5),
    samplers.Heun(),
    samplers.Heun(churn=0.4),
    samplers.Midpoint(),
    samplers.DPMSolverPP(order=1),
    samplers.DPMSolverPP(order=2),
    samplers.DPMSolverPP(order=3),
    samplers.DPMSolverPP(order=1, eta=1.0),
    samplers.DPMSolverPP(order=2, eta=1.0),
    samplers.DPMSolverPP(order=3, eta=1.0),
    samplers.DPMSolverPP2S(),
    samplers.DPMSolverPP2S(eta=1.0),
    samplers.UniPC(order=1),
    samplers.UniPC(order=2),
    samplers.UniPC(order=3),
    samplers.DEIS(order=2),
    samplers.DEIS(order=3),
    samplers.SelfConditioned(),
    samplers.SelfConditioned(samplers.Heun()),
)
SAMPLERS: dict[str, Sampler] = {sampler_name(sampler): sampler for sampler in _SAMPLERS}


def adaptive_samplers() -> dict[str, Sampler]:
    """Samplers that choose their own steps, so that their order cannot be measured; none without diffrax."""
    try:
        import diffrax  # noqa: F401
    except ImportError:
        return {}
    return {"RK45()": samplers.RK45()}


# Samplers whose step asks the denoiser somewhere else before it asks at (x_t, t): churn first adds noise.
ASK_ELSEWHERE_FIRST = ("Heun(churn=0.4)",)

# The two variances of `ancestral_law`, for each sampler whose step is linear in x_t and x0.
LAWS: dict[str, tuple[Variance, Variance]] = {
    "DDPM()": (posterior_variance, posterior_variance),
    "DDPM(variance='large')": (posterior_variance, step_variance_unless_data),
    "DDIM()": (no_noise, no_noise),
    "DDIM(eta=0.5)": (half_noise, half_noise),
    "DDIM(eta=1.0)": (posterior_variance, posterior_variance),
    "Euler()": (no_noise, no_noise),
    "EulerAncestral()": (posterior_variance, posterior_variance),
    "DPMSolverPP(order=1)": (no_noise, no_noise),
    "DPMSolverPP(order=1, eta=1.0)": (posterior_variance, posterior_variance),
}

# Pairs of names for one method: they give the same images from the same noise.
EQUAL_SAMPLERS = {
    "DDIM(eta=1.0)": "DDPM()",
    "EulerAncestral()": "DDPM()",
    "DPMSolverPP(order=1, eta=1.0)": "DDPM()",
    "DPMSolverPP(order=1)": "DDIM()",
    "Euler()": "DDIM()",
    "SelfConditioned()": "DDIM()",  # for a network that ignores its previous estimate
    "SelfConditioned(sampler=Heun())": "Heun()",
}
