"""Guidance: wrappers that take denoisers and return a denoiser.

Apply them in this order, from the inside out: guidance (`classifier_free`, `autoguidance` or `classifier`), then
`rescale`, then a threshold (`denoiser.clipped` or `thresholding.dynamic_threshold`), because each limits the
overshoot of the one before. All of them keep alpha x0 + sigma eps = x_t. They change x0 and eps in all channels; a
learned variance stays the conditional model's.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.numerics import safe_sqrt
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, of_one_schedule, replace_x0
from diffusion_jax.validation import check_below, check_number, check_shape, checked, number, numbers

__all__ = ["autoguidance", "classifier", "classifier_free", "interval", "rescale"]

# w as a function of the time.
ScaleOfTime = Callable[[ArrayLike], jax.Array]


@of_one_schedule("cond", "uncond", "scale")
def classifier_free(cond: Denoise, uncond: Denoise, scale: ArrayLike | ScaleOfTime) -> Denoise:
    """Returns uncond + scale (cond - uncond), on both x0 and eps (Ho and Salimans 2022, Eq. 6).

    Args:
      cond, uncond: the denoisers with and without labels.
      scale: w = 1 + (their w): 1 is the conditional model and 0 the unconditional one, both bit for bit; above 1 the
        class is exaggerated. A scalar or one per image, [B]; traced, so that another scale does not recompile. Or a
        function of the time that returns these, such as `interval`: at times where it is 1 for all images,
        `uncond` is not called.

    Raises ValueError for a scale that is not finite, and, when the result is called, for a scale of another shape.

    >>> def model(x0):
    ...     return lambda x_t, t: dj.Denoised(jnp.full_like(x_t, x0), x_t)
    >>> denoise = dj.guidance.classifier_free(model(0.5), model(0.25), scale=2.0)
    >>> denoise(jnp.zeros((1, 8, 8, 1)), 0.5).x0[0, 0, 0].tolist()
    [0.75]
    """
    if not callable(scale):
        check_number("scale", scale)

    def denoise(x_t: jax.Array, t: ArrayLike, **kwargs: jax.Array) -> Denoised:
        c = cond(x_t, t, **kwargs)

        def ask_uncond() -> Denoised:
            return dataclasses.replace(uncond(x_t, t, **kwargs), variance_fraction=c.variance_fraction)

        if callable(scale):
            w = jnp.asarray(scale(t), jnp.float32)
            u = jax.lax.cond(jnp.any(w != 1), ask_uncond, lambda: c)
        else:
            w, u = jnp.asarray(scale, jnp.float32), ask_uncond()
        w = _per_image("scale", w, x_t)
        # Not u + w (c - u), which differs from c by a rounding at w = 1.
        return dataclasses.replace(c, x0=w * c.x0 + (1 - w) * u.x0, eps=w * c.eps + (1 - w) * u.eps)

    return denoise


@checked(scale=numbers(), low=number("[0, inf)"), high=number("[0, inf]"))
@of_one_schedule()
def interval(scale: ArrayLike, schedule: Schedule, low: ArrayLike, high: ArrayLike) -> ScaleOfTime:
    """Returns `scale` at noise levels low < sigma/alpha <= high, and 1 outside (Kynkaanniemi et al. 2024, Sec. 3).

    The result is a scale for `classifier_free` or `autoguidance`. The noise level is their sigma, the
    noise-to-signal ratio, so that their numbers apply to every schedule; high may be infinite. Outside the interval
    the guided denoiser is the conditional model bit for bit and costs one call. `scale`, a scalar or [B], `low` and
    `high` are traced.

    Raises ValueError unless 0 <= low < high, and for a scale that is not finite.

    >>> scale = dj.guidance.interval(3.0, dj.schedules.RectifiedFlow(), 0.5, 2.0)
    >>> [scale(t).item() for t in (0.1, 0.5, 0.9)]  # sigma/alpha is 1/9, 1 and 9
    [1.0, 3.0, 1.0]
    """
    check_below("low", low, "high", high)

    def scale_at(t: ArrayLike) -> jax.Array:
        nsr = schedule.sigma(t) / schedule.alpha(t)  # infinite at alpha = 0
        return jnp.where((low < nsr) & (nsr <= high), jnp.asarray(scale, jnp.float32), 1.0)

    return scale_at


def autoguidance(main: Denoise, weaker: Denoise, scale: ArrayLike | ScaleOfTime) -> Denoise:
    """Returns weaker + scale (main - weaker), away from a weaker version of the model (Karras et al. 2024, Sec. 4).

    The formula and scales are those of `classifier_free`. The second model receives the same labels as the first
    and is smaller, trained for less long, or an earlier average of the weights. It should make the errors of
    `main`, only larger ones: both must be trained on the same data, schedule and conditions.

    >>> def model(x0):
    ...     return lambda x_t, t: dj.Denoised(jnp.full_like(x_t, x0), x_t)
    >>> denoise = dj.guidance.autoguidance(model(0.5), model(0.25), scale=2.0)
    >>> denoise(jnp.zeros((1, 8, 8, 1)), 0.5).x0[0, 0, 0].tolist()
    [0.75]
    """
    return classifier_free(main, weaker, scale)


@checked(factor=numbers("[0, 1]"))
@of_one_schedule("guided", "cond")
def rescale(guided: Denoise, cond: Denoise, schedule: Schedule, factor: ArrayLike) -> Denoise:
    """Returns `guided` with the contrast of `cond` (Lin et al. 2024, Sec. 3.4, Eq. 15 and 16).

    Multiplies x0 by 1 + factor (std(cond.x0)/std(guided.x0) - 1), with standard deviations over all pixels and
    channels of each image, and changes eps to match. The paper rescales the network's output; here it is x0,
    whatever the network predicts. An image of a single color is unchanged.

    Args:
      guided: the guided denoiser.
      cond: the conditional denoiser inside `guided`. Under jit the compiler merges the two identical calls.
      schedule: the noise schedule of both.
      factor: their phi, from 0 (no change) to 1 (the std of `cond`), a scalar or [B], traced; they use 0.7.

    Raises ValueError for a factor outside [0, 1].

    >>> def model(gain):
    ...     return lambda x_t, t: dj.Denoised(gain * x_t, x_t)
    >>> denoise = dj.guidance.rescale(model(4.0), model(1.0), dj.schedules.Cosine(), 1.0)
    >>> denoise(jnp.array([[-1.0, 1.0]]), 0.5).x0.tolist()
    [[-1.0, 1.0]]
    """

    def denoise(x_t: jax.Array, t: ArrayLike, **kwargs: jax.Array) -> Denoised:
        here, wanted = guided(x_t, t, **kwargs), _image_std(cond(x_t, t, **kwargs).x0)
        found = _image_std(here.x0)
        ratio = jnp.where(found > 0, wanted / jnp.where(found > 0, found, 1.0), 1.0)
        part = _per_image("factor", jnp.asarray(factor, jnp.float32), x_t)
        gain = 1 + part * (expand(ratio, x_t) - 1)  # exactly 1 where guidance changed nothing
        return replace_x0(here, gain * here.x0, schedule, t)

    return denoise


@checked(scale=numbers())
@of_one_schedule("denoise")
def classifier(
    denoise: Denoise,
    log_probability: Callable[[jax.Array, jax.Array], jax.Array],
    schedule: Schedule,
    scale: ArrayLike = 1.0,
) -> Denoise:
    """Returns eps - scale sigma grad log p(y | x_t) (Dhariwal and Nichol 2021, Eq. 14 and Alg. 2), and x0 to match.

    x0 becomes x0 + scale (sigma^2/alpha) grad, so that alpha x0 + sigma eps stays x_t. With the exact log p(y | x_t)
    and scale 1, the denoiser of p(x0) becomes the denoiser of p(x0 | y). At alpha = 0, x_t is independent of x0 and
    nothing is changed. Just below that time, an error of the gradient is multiplied by sigma^2/alpha, 20 291 for the
    cosine schedule: apply a threshold afterwards.

    Args:
      denoise: the denoiser to guide.
      log_probability: log_probability(x_t, time) -> [B], the log probability of the wanted property (a class, say)
        given the noisy image; differentiable in x_t, and computed for each image alone. time is float32 [B], times
        that the schedule trains on (k/T for a discrete schedule).
      schedule: the noise schedule of `denoise`.
      scale: 0 does not guide; a scalar or one per image, [B]; traced.

    Raises ValueError for a scale that is not finite, and, when the result is called, for a scale of another shape
    or a log_probability that does not return one number per image.

    >>> def denoise(x_t, t):
    ...     return dj.Denoised(x_t, x_t)
    >>> brighter = dj.guidance.classifier(denoise, lambda x, time: x.sum((1, 2, 3)), dj.schedules.RectifiedFlow())
    >>> brighter(jnp.zeros((1, 8, 8, 1)), 0.5).x0[0, 0, 0].tolist()
    [0.5]
    """
    scale = jnp.asarray(scale, jnp.float32)

    def total(x_t: jax.Array, time: jax.Array) -> jax.Array:
        each = log_probability(x_t, time)
        check_shape("log_probability(x_t, time)", each, x_t.shape[:1])
        return each.sum()

    def guided(x_t: jax.Array, t: ArrayLike, **kwargs: jax.Array) -> Denoised:
        here = denoise(x_t, t, **kwargs)
        time = jnp.broadcast_to(schedule.round(t), x_t.shape[:1])
        push = _per_image("scale", scale, x_t) * jax.grad(total)(x_t, time)
        alpha, sigma = expand(schedule.alpha(t), x_t), expand(schedule.sigma(t), x_t)
        push = jnp.where(alpha > 0, push, 0.0)
        gain = sigma**2 / jnp.where(alpha > 0, alpha, 1.0)
        return dataclasses.replace(here, x0=here.x0 + gain * push, eps=here.eps - sigma * push)

    return guided


def _per_image(name: str, value: jax.Array, x_t: jax.Array) -> jax.Array:
    """Shapes one number, or one per image, to multiply x_t. Raises ValueError for another shape."""
    check_shape(name, value, (), x_t.shape[:1])
    return expand(value, x_t)


def _image_std(x: jax.Array) -> jax.Array:
    """The std of each image, [B]."""
    return safe_sqrt(x.reshape(x.shape[0], -1).var(axis=1))


def __dir__() -> list[str]:
    return __all__
