"""Guidance: wrappers that take denoisers and return a denoiser.

The order, from the inside out: guidance (`classifier_free`, `autoguidance` or `classifier`), then `rescale`,
then a threshold (`denoiser.clipped` or `thresholding.dynamic_threshold`), because each undoes what the one
before overdoes. All keep alpha x0 + sigma eps = x_t. They guide x0 and eps, all channels of them; where the
network learns its variance too, the fraction is the conditional model's, as it stands.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, with_x0
from diffusion_jax.validation import as_number, check_number

__all__ = ["autoguidance", "classifier", "classifier_free", "interval", "rescale"]

# w as a function of the time.
ScaleOfTime = Callable[[ArrayLike], jax.Array]


def classifier_free(cond: Denoise, uncond: Denoise, scale: ArrayLike | ScaleOfTime) -> Denoise:
    """uncond + scale (cond - uncond), on x0 and eps alike (Ho and Salimans 2022, Eq. 6).

    `scale` is w = 1 + (their w): 1 is the conditional model and 0 the unconditional one, both bit
    for bit; above 1 the class is exaggerated. A scalar or one a picture, [B]; traced, so that
    another scale never recompiles. Or a function of the time that gives these, such as `interval`: at
    times where it is 1 for all pictures, `uncond` is not called.

    Raises ValueError for a scale that is not finite, and, when called, for one of another shape.
    """
    if not callable(scale):
        check_number("scale", scale)

    def denoise(x_t: jax.Array, t: ArrayLike, **given: jax.Array) -> Denoised:
        c = cond(x_t, t, **given)

        def other() -> Denoised:
            return dataclasses.replace(uncond(x_t, t, **given), variance_fraction=c.variance_fraction)

        if callable(scale):
            w = jnp.asarray(scale(t), jnp.float32)
            u = jax.lax.cond(jnp.any(w != 1), other, lambda: c)
        else:
            w, u = jnp.asarray(scale, jnp.float32), other()
        w = _one_each("scale", w, x_t)
        # Not u + w (c - u), which rounds away from c at w = 1.
        return dataclasses.replace(c, x0=w * c.x0 + (1 - w) * u.x0, eps=w * c.eps + (1 - w) * u.eps)

    return denoise


def interval(scale: ArrayLike, schedule: Schedule, low: ArrayLike, high: ArrayLike) -> ScaleOfTime:
    """`scale` at noise levels low < sigma/alpha <= high, 1 outside (Kynkaanniemi et al. 2024, Sec. 3).

    The scale of `classifier_free` or `autoguidance`. The noise level is their sigma, the noise-to-signal
    ratio, so that their numbers serve every schedule; high may be infinite. Outside, the guided denoiser is
    the conditional model bit for bit and costs one call. `scale`, a scalar or [B], `low` and `high` are
    traced.

    Raises ValueError unless 0 <= low < high, and for a scale that is not finite.
    """
    check_number("scale", scale)
    low, high = as_number("low", low, "[0, inf)"), as_number("high", high, "[0, inf]")
    if isinstance(low, float) and isinstance(high, float) and not low < high:
        raise ValueError(f"low = {low}, high = {high}: need 0 <= low < high, noise levels sigma/alpha")

    def scale_at(t: ArrayLike) -> jax.Array:
        nsr = schedule.sigma(t) / schedule.alpha(t)  # infinite at alpha = 0
        return jnp.where((low < nsr) & (nsr <= high), jnp.asarray(scale, jnp.float32), 1.0)

    return scale_at


def autoguidance(main: Denoise, weaker: Denoise, scale: ArrayLike | ScaleOfTime) -> Denoise:
    """weaker + scale (main - weaker): away from a worse version of the model (Karras et al. 2024, Sec. 4).

    The formula and the scales of `classifier_free`; what differs is the second model, which has the same
    labels as the first and is smaller, trained for less long, or an earlier average of the weights. It
    should err as `main` does, only more: the two must come of the same data, schedule and conditions.
    """
    return classifier_free(main, weaker, scale)


def rescale(guided: Denoise, cond: Denoise, schedule: Schedule, factor: ArrayLike) -> Denoise:
    """`guided` with the contrast of `cond` (Lin et al. 2024, Sec. 3.4, Eq. 15 and 16).

    x0 times 1 + factor (std(cond.x0)/std(guided.x0) - 1), the standard deviations over all pixels and
    channels of a picture; eps is moved with it. Theirs is the network's output, here it is x0, whatever
    the network predicts. `factor`, their phi, is from 0 (as it is) to 1 (the deviation of `cond`), a scalar
    or [B], traced; they use 0.7. A picture of one colour is left alone.

    `cond` is what `guided` was made of. Under jit the compiler sees that it is called twice with the same
    and calls it once.

    Raises ValueError for a factor that is not in [0, 1].
    """
    check_number("factor", factor, "[0, 1]")

    def denoise(x_t: jax.Array, t: ArrayLike, **given: jax.Array) -> Denoised:
        here, wanted = guided(x_t, t, **given), _deviation(cond(x_t, t, **given).x0)
        found = _deviation(here.x0)
        ratio = jnp.where(found > 0, wanted / jnp.where(found > 0, found, 1.0), 1.0)
        part = _one_each("factor", jnp.asarray(factor, jnp.float32), x_t)
        gain = 1 + part * (expand(ratio, x_t) - 1)  # exactly 1 where nothing was guided
        return with_x0(here, gain * here.x0, schedule, t)

    return denoise


def _one_each(name: str, value: jax.Array, x_t: jax.Array) -> jax.Array:
    """A number, or one a picture, shaped to multiply x_t. Raises ValueError for another shape."""
    if value.shape not in ((), x_t.shape[:1]):
        raise ValueError(f"{name} has shape {value.shape}: give one number, or {len(x_t)}, one a picture")
    return expand(value, x_t)


def _deviation(x: jax.Array) -> jax.Array:
    """Standard deviation of each picture, [B]."""
    return x.reshape(len(x), -1).std(axis=1)


def classifier(
    denoise: Denoise,
    log_probability: Callable[[jax.Array, jax.Array], jax.Array],
    schedule: Schedule,
    scale: ArrayLike = 1.0,
) -> Denoise:
    """eps - scale sigma grad log p(y | x_t) (Dhariwal and Nichol 2021, Eq. 14 and Alg. 2), x0 with it.

    x0 + scale (sigma^2/alpha) grad, so that alpha x0 + sigma eps = x_t still. With the exact log p(y | x_t)
    and scale 1, the denoiser of p(x0) becomes that of p(x0 | y). At alpha = 0 x_t says nothing of x0, nor
    does any gradient in x_t: nothing is moved there. Just below, an error of the gradient is multiplied by
    sigma^2/alpha, 20 291 for the cosine schedule: put a threshold around it.

    Args:
      log_probability: log_probability(x_t, time) -> [B], of what is asked for (a class, say) given the noisy
        picture; differentiable in x_t, and each picture's its own. time is float32 [B], times that the
        schedule trains on (k/T where it is discrete).
      scale: 0 does not guide; a scalar or one a picture, [B]; traced.

    Raises ValueError for a scale that is not finite, and, when called, where it or what log_probability gives
    is anything but one number a picture.
    """
    check_number("scale", scale)
    scale = jnp.asarray(scale, jnp.float32)

    def total(x_t: jax.Array, time: jax.Array) -> jax.Array:
        each = log_probability(x_t, time)
        if each.shape != x_t.shape[:1]:
            raise ValueError(f"log_probability gives {each.shape}: need one number a picture, {x_t.shape[:1]}")
        return each.sum()

    def guided(x_t: jax.Array, t: ArrayLike, **given: jax.Array) -> Denoised:
        here = denoise(x_t, t, **given)
        time = jnp.broadcast_to(schedule.round(t), x_t.shape[:1])
        push = _one_each("scale", scale, x_t) * jax.grad(total)(x_t, time)
        alpha, sigma = expand(schedule.alpha(t), x_t), expand(schedule.sigma(t), x_t)
        push = jnp.where(alpha > 0, push, 0.0)
        gain = sigma**2 / jnp.where(alpha > 0, alpha, 1.0)
        return dataclasses.replace(here, x0=here.x0 + gain * push, eps=here.eps - sigma * push)

    return guided


def __dir__() -> list[str]:
    return __all__
