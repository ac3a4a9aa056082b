"""Whether samplers and schedules keep to their contracts, before anything is compiled."""

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
from diffusion_jax.validation import describe
from diffusion_jax.verify.marched import ORDER_STEPS, alternating

_FEWEST = 500


def check_sampler(name: str, sampler: Sampler) -> None:
    """Traces a step, and the sampler's float fields with it, as `Run.sample` does.

    Raises ValueError, in one line, for one that fails or gives back something else.
    """
    if sampler.adaptive:
        raise ValueError(f"{name}: chooses its own steps, so it has no order in ours; the full verify has its row")
    if not isinstance(_asked(f"{name}: its order", lambda: getattr(sampler, "order", None)), int | float):
        raise ValueError(f"{name}: has no order; declare it, order: ClassVar[int] = 1")
    x = jnp.zeros((2, 1, 1, 3))

    def step(sampler: Sampler, x_t: jax.Array, t: jax.Array, s: jax.Array):
        keys = image_keys(jax.random.key(0), jnp.arange(len(x_t)))
        memory = sampler.init(x_t)
        return memory, sampler.step(keys, _denoise, RectifiedFlow(), x_t, t, s, memory)

    at = x, jnp.float32(0.5), jnp.float32(0.25)
    memory, made = _asked(f"{name}: its step", lambda: jax.eval_shape(step, sampler, *at))
    if not (isinstance(made, tuple) and len(made) == 2):
        raise ValueError(f"{name}: step returns {type(made).__name__}, must return (x_s, memory)")
    x_s, after = made
    if _shapes(x_s) != _shapes(x):
        raise ValueError(f"{name}: step makes x_s of {_shapes(x_s)}, must be like x_t, {_shapes(x)}")
    if _shapes(after) != _shapes(memory):
        raise ValueError(f"{name}: step makes memory of {_shapes(after)}, must be like that of init, {_shapes(memory)}")


def check_schedule(name: str, schedule: Schedule) -> None:
    """Asks each of the schedule's functions at a few times.

    Raises ValueError, in one line, for one that fails, or answers with what is no schedule at all; and for a
    table that is too coarse to tell the orders of samplers apart on.
    """
    if isinstance(schedule, Discrete):
        _check_betas(name, _asked(f"{name}: betas()", schedule.betas))
    steps = _asked(f"{name}: its steps", lambda: schedule.steps)
    if steps is not None and not (isinstance(steps, int | np.integer) and steps >= _FEWEST):
        raise ValueError(
            f"{name}: has {steps} steps; to measure samplers on it needs a whole number, {_FEWEST} or more"
        )
    for part in ("alpha", "sigma", "log_snr", "time", "round", "scales"):
        what = f"{name}: {part}() under jit, where NumPy and Python's if cannot see values,"
        _asked(what, partial(jax.eval_shape, getattr(schedule, part), jnp.float32(0.5)))
    t = np.linspace(0, 1, 9, dtype=np.float32)
    alpha, sigma, log_snr = (_numbers(name, schedule, part, t) for part in ("alpha", "sigma", "log_snr"))
    for part, found in (("alpha", alpha), ("sigma", sigma)):
        if not (np.isfinite(found).all() and found.min() >= 0):
            raise ValueError(f"{name}: {part}() is negative or infinite: {_few(found)}; clip it at 0")
    if not (np.diff(log_snr) < 0).all():
        raise ValueError(f"{name}: log_snr must fall strictly from t = 0 to 1; here it goes {_few(log_snr)}")
    time = _numbers(name, schedule, "time", log_snr)
    if time.min() < 0 or time.max() > 1:
        raise ValueError(f"{name}: time, the inverse of log_snr, leaves [0, 1]: {_few(time)}")
    for count in ORDER_STEPS:
        times = _asked(f"{name}: log_snr(), time() and round()", partial(alternating, schedule, count))
        if not (np.diff(times) < 0).all():
            raise ValueError(f"{name}: {count} steps of log-SNR from 6 down meet; no order shows on so few")


def _check_betas(name: str, betas: Any) -> None:
    if not isinstance(betas, np.ndarray) or betas.dtype != np.float64 or betas.ndim != 1:
        raise ValueError(f"{name}: betas() makes {describe(betas)}, must make a NumPy array, float64 [T]")
    if not np.all((betas >= 0) & (betas <= 1)):
        raise ValueError(f"{name}: betas() goes from {betas.min():.3g} to {betas.max():.3g}, must be in [0, 1]")


def _numbers(name: str, schedule: Schedule, part: str, at: np.ndarray) -> np.ndarray:
    """schedule.part(at) as float64. Raises ValueError where it fails, has another shape, or is NaN."""
    found = np.asarray(_asked(f"{name}: {part}()", lambda: getattr(schedule, part)(at)))
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{name}: {part}() makes {found.dtype}, must make float32")
    if found.shape != at.shape:
        raise ValueError(f"{name}: {part}() of {list(at.shape)} is {list(found.shape)}, must be alike")
    if np.isnan(found).any():
        raise ValueError(f"{name}: {part}() is NaN from {_few(at)}: {_few(found)}")
    return found.astype(np.float64)


def _few(x: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in x[:: len(x) // 4])


def _asked(what: str, ask: Callable[[], Any]) -> Any:
    """ask(). Raises ValueError of one line for whatever it raises: it is somebody's code."""
    try:
        return ask()
    except Exception as error:
        reason = "".join(f": {line}" for line in str(error).splitlines()[:1])
        raise ValueError(f"{what} fails with {type(error).__name__}{reason}") from error


def _denoise(x_t: jax.Array, t: jax.Array, **given) -> Denoised:
    return Denoised(x_t, x_t)


def _shapes(tree) -> str:
    """The tree with, in place of each array, its dtype and shape."""
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)).replace("'", "")
