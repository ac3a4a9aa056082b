"""Checks that samplers and schedules keep to their interface, before anything is compiled."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Discrete, RectifiedFlow, Schedule
from diffusion_jax.sampling.randomness import image_keys
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.sampling.samplers.base import check_sampler
from diffusion_jax.validation import describe
from diffusion_jax.verify.routes import ORDER_STEPS, alternating_times

# A coarser table cannot tell the orders of samplers apart.
_FEWEST_STEPS = 500


def check_sampler_contract(name: str, sampler: Sampler) -> None:
    """Traces one step with the sampler's numbers traced, as `Run.sample` does.

    Raises ValueError, in one line, if the sampler is not a registered dataclass, chooses its own steps, has no order,
    or if its step fails or does not return (x_s, memory) of the right shapes.
    """
    check_sampler(sampler)
    if sampler.adaptive:
        raise ValueError(f"{name}: chooses its own steps, so its order cannot be measured, except in the full table")
    if not isinstance(_call(f"{name}: order", lambda: sampler.order), int | float):
        raise ValueError(f"{name}: has no order; define it, for example as the class attribute order = 1")
    x = jnp.zeros((2, 1, 1, 3))

    def step(sampler: Sampler, x_t: jax.Array, t: jax.Array, s: jax.Array):
        keys = image_keys(jax.random.key(0), jnp.arange(len(x_t)))
        memory = sampler.init(x_t)
        return memory, sampler.step(keys, _return_input, RectifiedFlow(), x_t, t, s, memory)

    times = jnp.float32(0.5), jnp.float32(0.25)
    memory, returned = _call(f"{name}: step", lambda: jax.eval_shape(step, sampler, x, *times))
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise ValueError(f"{name}: step returns {type(returned).__name__}: must return (x_s, memory)")
    x_s, after = returned
    _check_alike(f"{name}: step returns x_s", x_s, "x_t", x)
    _check_alike(f"{name}: step returns memory", after, "the memory of init", memory)


def _check_alike(what: str, found: Any, other: str, wanted: Any) -> None:
    """Raises ValueError unless two trees have the same structure, dtypes and shapes."""
    shapes = _describe_shapes(found), _describe_shapes(wanted)
    if shapes[0] != shapes[1]:
        raise ValueError(f"{what} of {shapes[0]}: must be like {other}, {shapes[1]}")


def check_schedule_contract(name: str, schedule: Schedule) -> None:
    """Calls each function of the schedule at a few times.

    Raises ValueError, in one line, if a function fails or returns something that no schedule can, and for a table that
    is too coarse to tell the orders of samplers apart.
    """
    if isinstance(schedule, Discrete):
        _check_betas(name, _call(f"{name}: betas()", schedule.betas))
    steps = _call(f"{name}: steps", lambda: schedule.steps)
    if steps is not None and not (isinstance(steps, int | np.integer) and steps >= _FEWEST_STEPS):
        raise ValueError(f"{name}: has {steps} steps: to measure samplers on it, use an integer >= {_FEWEST_STEPS}")
    for function in ("alpha", "sigma", "log_snr", "time", "round", "scales"):
        what = f"{name}: {function}() under jit, where NumPy and Python's if cannot see values,"
        _call(what, partial(jax.eval_shape, getattr(schedule, function), jnp.float32(0.5)))
    t = np.linspace(0, 1, 9, dtype=np.float32)
    for function in ("alpha", "sigma"):
        values = _evaluate(name, schedule, function, t)
        if not (np.isfinite(values).all() and values.min() >= 0):
            raise ValueError(f"{name}: {function}() is negative or infinite: {_format_few(values)}; clip it at 0")
    log_snr = _evaluate(name, schedule, "log_snr", t)
    if not (np.diff(log_snr) < 0).all():
        raise ValueError(f"{name}: log_snr must decrease strictly from t = 0 to 1; got {_format_few(log_snr)}")
    time = _evaluate(name, schedule, "time", log_snr)
    if time.min() < 0 or time.max() > 1:
        raise ValueError(f"{name}: time, the inverse of log_snr, leaves [0, 1]: {_format_few(time)}")
    for count in ORDER_STEPS:
        times = _call(f"{name}: log_snr(), time() and round()", partial(alternating_times, schedule, count))
        if not (np.diff(times) < 0).all():
            raise ValueError(f"{name}: {count} steps of log-SNR from 6 down coincide: too few to measure an order")


def _check_betas(name: str, betas: Any) -> None:
    if not isinstance(betas, np.ndarray) or betas.dtype != np.float64 or betas.ndim != 1:
        raise ValueError(f"{name}: betas() returns {describe(betas)}: must be a NumPy array, float64 [T]")
    if not np.all((betas >= 0) & (betas <= 1)):
        raise ValueError(f"{name}: betas() goes from {betas.min():.3g} to {betas.max():.3g}: must be in [0, 1]")


def _evaluate(name: str, schedule: Schedule, function: str, at: np.ndarray) -> np.ndarray:
    """schedule.function(at) as float64. Raises ValueError if it fails, has another shape, or is NaN."""
    values = np.asarray(_call(f"{name}: {function}()", lambda: getattr(schedule, function)(at)))
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name}: {function}() returns {values.dtype}: must be float32")
    if values.shape != at.shape:
        raise ValueError(f"{name}: {function}() of {list(at.shape)} is {list(values.shape)}: must be the same shape")
    if np.isnan(values).any():
        raise ValueError(f"{name}: {function}() is NaN at {_format_few(at)}: {_format_few(values)}")
    return values.astype(np.float64)


def _format_few(x: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in x[:: len(x) // 4])


def _call(what: str, function: Callable[[], Any]) -> Any:
    """function(). Raises ValueError of one line for any exception, because it is the user's code."""
    try:
        return function()
    except Exception as error:
        reason = "".join(f": {line}" for line in str(error).splitlines()[:1])
        raise ValueError(f"{what} fails with {type(error).__name__}{reason}") from error


def _return_input(x_t: jax.Array, t: jax.Array, **kwargs: jax.Array) -> Denoised:
    return Denoised(x_t, x_t)


def _describe_shapes(tree: Any) -> str:
    """The tree with each array replaced by its dtype and shape."""
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)).replace("'", "")
