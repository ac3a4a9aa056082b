"""Checks of guidance and thresholds: one call of the denoiser against its closed form."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles import Gaussian, Mixture, exact_denoiser, scales
from diffusion_jax.process.predictions import Denoised, V
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import guidance
from diffusion_jax.sampling.denoiser import Denoise, clipped
from diffusion_jax.sampling.thresholding import dynamic_threshold
from diffusion_jax.verify.cases import SCHEDULES
from diffusion_jax.verify.compilation import compile_functions, quick_jit
from diffusion_jax.verify.report import Row

T = 0.5
MIXTURE = Mixture()
COMPONENT = Gaussian(MIXTURE.means[1], MIXTURE.std)

Evaluate = Callable[..., Denoised]


def check_guidance() -> list[Row]:
    rows: list[Row] = []
    for where in ("cosine", "rectified", "karras"):
        schedule = compile_functions(SCHEDULES[where])
        alpha, sigma = scales(schedule, T)
        x_t = jnp.asarray(np.linspace(-3, 3, 96).reshape(8, 12, 1, 1) * np.hypot(alpha * 0.6, sigma), jnp.float32)
        cond, uncond = (exact_denoiser(data, schedule, V()) for data in (COMPONENT, MIXTURE))
        guided = quick_jit(lambda x, w, cond=cond, uncond=uncond: guidance.classifier_free(cond, uncond, w)(x, T))
        rows += _check_equal_models(cond, uncond, schedule, x_t, where)
        rows += _check_interval(cond, uncond, guided, schedule, x_t, where)
        rows += _check_scores_of_a_mixture(guided, (alpha, sigma), x_t, where)
        rows += _check_wrappers(cond, uncond, schedule, x_t, where)
    return [*rows, *_check_variance_fraction()]


def _check_equal_models(
    cond: Denoise, uncond: Denoise, schedule: Schedule, x_t: jax.Array, where: str
) -> Iterator[Row]:
    """w = 1 is the conditional model and 0 the unconditional one, in every bit.

    Operation by operation, because the compiler may round two programs differently.
    """
    is_even, c, u = np.arange(8) % 2 == 0, cond(x_t, T), uncond(x_t, T)
    mixed = jax.tree.map(lambda c, u: jnp.where(is_even.reshape(-1, 1, 1, 1), c, u), c, u)
    outside = guidance.interval(3.0, schedule, 1e6, 1e7)
    cases = {
        "w = 1": (guidance.classifier_free(cond, uncond, 1.0), c),
        "w = 0": (guidance.classifier_free(cond, uncond, 0.0), u),
        "scales [1, 0, ...]": (guidance.classifier_free(cond, uncond, is_even), mixed),
        "autoguidance, w = 1": (guidance.autoguidance(cond, uncond, 1.0), c),
        "outside the interval": (guidance.classifier_free(cond, uncond, outside), c),
        "rescale by 0": (guidance.rescale(cond, uncond, schedule, 0.0), c),
    }
    for case, (denoise, expected) in cases.items():
        distance = _distance(denoise(x_t, T), expected)
        yield Row("guidance equals one model, bit for bit", f"{case}, {where}", distance, 0.0)


def _check_interval(cond: Denoise, uncond: Denoise, guided: Evaluate, schedule, x_t, where: str) -> Iterator[Row]:
    """Guidance acts at sigma/alpha above `low` and up to `high`; the limits are just above and below its value at T."""

    @quick_jit
    def guided_within(low: jax.Array, high: jax.Array) -> Denoised:
        return guidance.classifier_free(cond, uncond, guidance.interval(3.0, schedule, low, high))(x_t, T)

    alpha, sigma = scales(schedule, T)
    off, on = guided(x_t, 1.0), guided(x_t, 3.0)
    for case, low, high, expected in (
        ("begins above", 1.01, 9.0, off),
        ("ends below", 0.0, 0.99, off),
        ("is narrow", 0.99, 1.01, on),
        ("is wide", 0.0, 1e7, on),
    ):
        found = guided_within(np.float32(low * sigma / alpha), np.float32(high * sigma / alpha))
        yield Row("guidance acts inside its interval only", f"{case}, {where}", _distance(found, expected), 1e-5)


def _distance(one: Denoised, other: Denoised) -> float:
    return float(max(np.abs(one.x0 - other.x0).max(), np.abs(one.eps - other.eps).max()))


def _check_scores_of_a_mixture(guided: Evaluate, at_t, x_t, where: str) -> Iterator[Row]:
    """eps = -sigma d/dx [w log p(x_t | component) + (1 - w) log p(x_t)], with the densities in float64."""
    (alpha, sigma), x = at_t, np.asarray(x_t, np.float64)
    variance = (alpha * MIXTURE.std) ** 2 + sigma**2
    densities = [
        weight * np.exp(-((x - alpha * mean) ** 2) / (2 * variance))
        for weight, mean in zip(MIXTURE.weights, MIXTURE.means, strict=True)
    ]
    scores = [-(x - alpha * mean) / variance for mean in MIXTURE.means]
    score = sum(d * s for d, s in zip(densities, scores, strict=True)) / sum(densities)
    for w in (-1.0, 0.5, 2.0, 7.5):
        exact = -sigma * (w * scores[1] + (1 - w) * score)
        error = np.abs(np.asarray(guided(x_t, w).eps, np.float64) - exact).max() / np.abs(exact).max()
        yield Row("guidance on a mixture combines the scores", f"w = {w}, {where}", error, 1e-4)


def _check_wrappers(cond: Denoise, uncond: Denoise, schedule: Schedule, x_t, where: str) -> Iterator[Row]:
    """Every wrapper keeps alpha x0 + sigma eps = x_t, and does to x0 what it promises."""
    strong, extreme = (guidance.classifier_free(cond, uncond, scale) for scale in (9.0, 60.0))
    wrappers: dict[str, Denoise] = {
        "classifier_free": strong,
        "rescale": guidance.rescale(strong, cond, schedule, 0.7),
        "classifier": guidance.classifier(uncond, lambda x, time: -(x**2).sum((1, 2, 3)), schedule, 2.0),
        "clipped": clipped(strong, schedule, -0.3, 0.3),
        "dynamic_threshold": dynamic_threshold(strong, schedule, 0.9),
    }
    others: dict[str, Denoise] = {
        "cond": cond,
        "exact classifier": guidance.classifier(uncond, _log_probability_of_component(schedule), schedule),
        "rescale by 1": guidance.rescale(strong, cond, schedule, 1.0),
        "extreme": extreme,
        "threshold at the largest": dynamic_threshold(extreme, schedule, 1.0),
    }
    evaluate = quick_jit(lambda x: {name: denoise(x, T) for name, denoise in (wrappers | others).items()})
    found = jax.tree.map(np.asarray, evaluate(x_t))

    alpha, sigma = scales(schedule, T)
    exact = COMPONENT.denoised(x_t, np.float32(alpha), np.float32(sigma))
    error = _distance(found["exact classifier"], exact)
    yield Row("an exact classifier gives the conditional model", where, error, 1e-3)
    contrast, wanted = (found[name].x0.std((1, 2, 3)) for name in ("rescale by 1", "cond"))
    error = np.abs(contrast / wanted - 1).max()
    yield Row("rescale by 1 gives the conditional model's contrast", where, float(error), 1e-4)
    x0 = found["extreme"].x0
    divisor = np.maximum(np.abs(x0).max((1, 2, 3), keepdims=True), 1.0)
    error = np.abs(found["threshold at the largest"].x0 - x0 / divisor).max()
    yield Row("a threshold at the largest |x0| divides by it", where, float(error), 1e-4)
    for name in wrappers:
        error = np.abs(alpha * found[name].x0 + sigma * found[name].eps - x_t).max() / np.abs(x_t).max()
        yield Row("wrappers keep alpha x0 + sigma eps = x_t", f"{name}, {where}", float(error), 1e-5)


def _log_probability_of_component(schedule: Schedule) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The exact log p(component | x_t) of the mixture at T."""
    alpha, sigma = (np.float32(scale) for scale in scales(schedule, schedule.round(T)))
    variance = (alpha * MIXTURE.std) ** 2 + sigma**2

    def log_probability(x: jax.Array, time: jax.Array) -> jax.Array:
        logits = [
            jnp.log(weight) - (x - alpha * mean) ** 2 / (2 * variance)
            for weight, mean in zip(MIXTURE.weights, MIXTURE.means, strict=True)
        ]
        return jax.nn.log_softmax(jnp.stack(logits), axis=0)[1].sum((1, 2, 3))

    return log_probability


def _check_variance_fraction() -> Iterator[Row]:
    """Guidance keeps the learned variance of the conditional model."""
    x = jnp.ones((2, 1, 1, 1))

    def constant(x0: float, fraction: float) -> Denoise:
        return lambda x_t, t: Denoised(x0 * x, (1 - x0) * x, fraction * x)

    found = guidance.classifier_free(constant(0.5, 0.2), constant(0.1, 0.9), 3.0)(x, T)
    fraction = np.nan if found.variance_fraction is None else np.asarray(found.variance_fraction)
    error = float(np.abs(fraction - np.float32(0.2)).max())
    yield Row("guidance keeps the conditional model's learned variance", "w = 3", error, 0.0)
