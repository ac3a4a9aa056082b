"""Adapts a network and its parameters to the function that samplers use: denoise(x_t, t) -> Denoised(x0, eps).

Wrappers pass extra keyword arguments on to the denoiser they wrap, such as `x0_hat`, the x0 of the previous step,
for a network that is conditioned on its own estimate (see `samplers.SelfConditioned`).

Denoisers and their wrappers remember the noise schedule that they were made for, in an attribute `schedule`. With
another one, sampling would give garbage, so every function that takes both refuses it.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.predictions import Denoised, Prediction, split_variance
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.validation import bind_arguments, check_integers

__all__ = ["Denoise", "clipped", "denoiser", "of_one_schedule", "replace_x0"]

Denoise = Callable[..., Denoised]
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def of_one_schedule(*names: str) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Decorates a function of the denoisers `names`: raises ValueError unless all are made for its `schedule`.

    A denoiser that the function returns remembers that schedule. A function without an argument `schedule` compares
    its denoisers with each other; one of the user's own, which says nothing, fits to every schedule.

    >>> denoise = dj.denoiser(lambda params, x, t, labels: x, {}, dj.schedules.Cosine(), dj.predictions.V())
    >>> dj.sample(jax.random.key(0), denoise, dj.schedules.LinearBeta(), (1, 8, 8, 1))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: schedule: LinearBeta(steps=1000, start=0.0001, end=0.02) is not the schedule that denoise was made ...
    """

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            bound = bind_arguments(signature, args, kwargs)
            given = bound.arguments if bound else {}
            made_for = {name: getattr(given.get(name), "schedule", None) for name in names}
            schedule = _common_schedule({"schedule": given.get("schedule")} | made_for)
            result = function(*args, **kwargs)
            if schedule is not None and callable(result):
                result.schedule = schedule  # type: ignore[attr-defined]
            return result

        return call

    return decorate


def _common_schedule(schedules: dict[str, Schedule | None]) -> Schedule | None:
    """The one schedule of all that are known, by the name of the argument. Raises ValueError if there are two."""
    known = [(name, schedule) for name, schedule in schedules.items() if schedule is not None]
    for name, schedule in known[1:]:
        first, expected = known[0]
        if not _is_same(schedule, expected):
            made_for = f"{first}: {expected} is not the schedule that {name} was made for, {schedule}"
            raise ValueError(f"{made_for}; use the same for both")
    return known[0][1] if known else None


def _is_same(a: Any, b: Any) -> bool:
    """Whether two schedules are equal, as far as can be told: fields that are traced may be."""
    try:
        return a is b or bool(a == b)
    except (jax.errors.TracerBoolConversionError, ValueError):
        return True


@of_one_schedule()
def denoiser(
    apply: Callable[..., jax.Array],
    params: Any,
    schedule: Schedule,
    prediction: Prediction,
    labels: ArrayLike | None = None,
    clip: bool = False,
) -> Denoise:
    """Returns the denoiser of a network that outputs `prediction` of `schedule`.

    Args:
      apply: the network, apply(params, x, time, labels), with x float32 [B, H, W, C], time float32 [B] and labels
        int32 [B] or None (a negative label means no class). A discrete schedule's network only receives the times
        k/T. An output of twice the channels is (prediction, f), where f in [-1, 1] places the log variance of the
        reverse step between the posterior's and the forward step's (Nichol and Dhariwal 2021, Eq. 15).
      params: the network's parameters.
      schedule: the noise schedule that the network is trained on.
      prediction: the quantity that the network outputs.
      labels: int [B], one class per image, or None.
      clip: clip x0 to [-1, 1] and recompute eps.

    Returns denoise(x_t, t), with t a scalar or [B]; denoise(x_t, t, x0_hat=...) passes x0_hat, shaped like x_t, on to
    `apply`. Raises ValueError if prediction and schedule cannot be combined (eps-prediction with zero terminal
    SNR), if labels are not integers of 32 bits, or if the output has another shape.

    >>> def apply(params, x, time, labels):
    ...     return params * x
    >>> denoise = dj.denoiser(apply, 0.5, dj.schedules.Cosine(), dj.predictions.X0())
    >>> denoise(jnp.ones((2, 8, 8, 3)), 0.3).x0[0, 0, 0].tolist()
    [0.5, 0.5, 0.5]
    """
    prediction.check(schedule)
    labels = None if labels is None else _as_class_indices(labels)

    def denoise(x_t: jax.Array, t: ArrayLike, **kwargs: jax.Array) -> Denoised:
        # A scalar t stays a scalar here: computed once, alpha and sigma round the same for every batch size.
        t = jnp.asarray(t, jnp.float32)
        alpha, sigma = expand(schedule.alpha(t), x_t), expand(schedule.sigma(t), x_t)
        time = prediction.network_time(schedule, schedule.round(t))
        time = jnp.broadcast_to(time, x_t.shape[:1])
        output = apply(params, prediction.network_input(x_t, alpha, sigma), time, labels, **kwargs)
        output, fraction = split_variance(output.astype(jnp.float32), x_t.shape)
        denoised = prediction.denoised(output, x_t, alpha, sigma)
        return dataclasses.replace(denoised, variance_fraction=fraction)

    return clipped(denoise, schedule) if clip else denoise


def _as_class_indices(labels: ArrayLike) -> jax.Array:
    """Labels as int32. Raises ValueError for labels that would become others: floats, or 2**40, which became 0."""
    check_integers("labels", labels, -(2**31), 2**31 - 1)
    return jnp.asarray(labels, jnp.int32)


def replace_x0(denoised: Denoised, x0: jax.Array, schedule: Schedule, t: ArrayLike) -> Denoised:
    """Returns `denoised` with another x0, and with eps changed so that alpha x0 + sigma eps stays x_t.

    >>> half = Denoised(jnp.ones((1, 2)), jnp.ones((1, 2)))
    >>> replace_x0(half, jnp.zeros((1, 2)), dj.schedules.RectifiedFlow(), 0.5).eps.tolist()
    [[2.0, 2.0]]
    """
    ratio = expand(schedule.alpha(t) / schedule.sigma(t), x0)
    return dataclasses.replace(denoised, x0=x0, eps=denoised.eps + ratio * (denoised.x0 - x0))


@of_one_schedule("denoise")
def clipped(denoise: Denoise, schedule: Schedule, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Returns `denoise` with x0 clipped to [low, high] (Saharia et al. 2022, Sec. 2.3, static thresholding).

    Apply it after guidance, which can move x0 out of range again.

    >>> def denoise(x_t, t):
    ...     return dj.Denoised(2 * x_t, x_t)
    >>> dj.clipped(denoise, dj.schedules.Cosine())(jnp.ones((1, 8, 8, 1)), 0.5).x0.max().item()
    1.0
    """

    def denoise_and_clip(x_t: jax.Array, t: ArrayLike, **kwargs: jax.Array) -> Denoised:
        here = denoise(x_t, t, **kwargs)
        return replace_x0(here, jnp.clip(here.x0, low, high), schedule, t)

    return denoise_and_clip
