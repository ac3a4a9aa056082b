"""What is walked: every schedule, every prediction that goes with it, every sampler."""

import dataclasses

import numpy as np

from diffusion_jax.oracles import chain
from diffusion_jax.process import predictions, schedules
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import samplers
from diffusion_jax.sampling.samplers import Sampler

# A sampling error of five standard errors comes once in two million draws.
SIGMAS = 5.0

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

# One of each kind, for what takes long: a table, straight lines, a variance that grows without end.
KINDS = ("linear", "rectified", "karras")

PREDICTIONS: dict[str, Prediction] = {
    "eps": predictions.Eps(),
    "x0": predictions.X0(),
    "v": predictions.V(),
    "velocity": predictions.Velocity(),
    "preconditioned": predictions.Preconditioned(0.5),
}


def predictions_for(schedule: Schedule) -> dict[str, Prediction]:
    """The predictions that work with `schedule`: all but eps where the terminal SNR is zero."""
    return {name: one for name, one in PREDICTIONS.items() if _works(one, schedule)}


def _works(prediction: Prediction, schedule: Schedule) -> bool:
    try:
        prediction.check(schedule)
    except ValueError:
        return False
    return True


def named(*found: Sampler) -> dict[str, Sampler]:
    """Samplers under their names, with the arguments that are not the defaults."""
    return {name_of(sampler): sampler for sampler in found}


def name_of(sampler: Sampler) -> str:
    fields = [f for f in dataclasses.fields(sampler) if getattr(sampler, f.name) != f.default]
    values = [(field.name, getattr(sampler, field.name)) for field in fields]
    shown = [f"{name}={name_of(v) if isinstance(v, Sampler) else repr(v)}" for name, v in values]
    return f"{type(sampler).__name__}({', '.join(shown)})"


SAMPLERS = named(
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

# For each sampler of a linear step, the noise that the step leaves room for and the noise that it draws.
LAWS: dict[str, tuple[chain.Variance, chain.Variance]] = {
    "DDPM()": (chain.posterior_variance, chain.posterior_variance),
    "DDPM(variance='large')": (chain.posterior_variance, chain.large_noise),
    "DDIM()": (chain.no_noise, chain.no_noise),
    "DDIM(eta=0.5)": (chain.half_noise, chain.half_noise),
    "DDIM(eta=1.0)": (chain.posterior_variance, chain.posterior_variance),
    "Euler()": (chain.no_noise, chain.no_noise),
    "EulerAncestral()": (chain.posterior_variance, chain.posterior_variance),
    "DPMSolverPP(order=1)": (chain.no_noise, chain.no_noise),
    "DPMSolverPP(order=1, eta=1.0)": (chain.posterior_variance, chain.posterior_variance),
}

# Two names of one method: the same numbers from the same noise.
EQUAL = {
    "DDIM(eta=1.0)": "DDPM()",
    "EulerAncestral()": "DDPM()",
    "DPMSolverPP(order=1, eta=1.0)": "DDPM()",
    "DPMSolverPP(order=1)": "DDIM()",
    "Euler()": "DDIM()",
    "SelfConditioned()": "DDIM()",  # of a network that needs no guess
    "SelfConditioned(sampler=Heun())": "Heun()",
}
