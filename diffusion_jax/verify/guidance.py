"""Checks of guidance and thresholds: what they promise of one call of the denoiser, in closed form."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles.data import Gaussian, Mixture, exact_denoiser
from diffusion_jax.process import schedules
from diffusion_jax.process.predictions import Denoised, V
from diffusion_jax.sampling import guidance
from diffusion_jax.sampling.denoiser import Denoise, clipped
from diffusion_jax.sampling.thresholding import dynamic_threshold
from diffusion_jax.verify.marched import scales
from diffusion_jax.verify.report import Row

_SCHEDULES = {
    "cosine": schedules.Cosine(),
    "rectified": schedules.RectifiedFlow(),
    "karras": schedules.Karras(),
}
_T = 0.5
_MIXTURE = Mixture()
_COMPONENT = Gaussian(_MIXTURE.means[1], _MIXTURE.std)


def check() -> list[Row]:
    rows: list[Row] = []
    for where, schedule in _SCHEDULES.items():
        cond, uncond = (exact_denoiser(data, schedule, V()) for data in (_COMPONENT, _MIXTURE))
        alpha, sigma = scales(schedule, _T)
        x_t = jnp.linspace(-3, 3, 96).reshape(8, 12, 1, 1) * np.hypot(alpha * 0.6, sigma)
        x_t = x_t.astype(jnp.float32)
        rows += _conventions(cond, uncond, schedule, x_t, where)
        rows += _on_a_mixture(cond, uncond, schedule, x_t, where)
        rows += _classifier(uncond, schedule, x_t, where)
        rows += _whole(cond, uncond, schedule, x_t, where)
    return [*rows, *_fraction()]


def _conventions(cond, uncond, schedule, x_t, where) -> Iterator[Row]:
    """w = 1 is the conditional model and 0 the unconditional one, in every bit."""
    same = {
        "w = 1": (guidance.classifier_free(cond, uncond, 1.0), cond),
        "w = 0": (guidance.classifier_free(cond, uncond, 0.0), uncond),
        "autoguidance, w = 1": (guidance.autoguidance(cond, uncond, 1.0), cond),
        "outside of the interval": (
            guidance.classifier_free(cond, uncond, guidance.interval(3.0, schedule, 1e6, 1e7)),
            cond,
        ),
        "rescale by 0": (guidance.rescale(cond, uncond, schedule, 0.0), cond),
        "scales [1, 0, ...]": (
            guidance.classifier_free(cond, uncond, jnp.arange(8) % 2 == 0),
            lambda x, t: jax.tree.map(lambda c, u: jnp.where(_even(x), c, u), cond(x, t), uncond(x, t)),
        ),
    }
    for case, (one, other) in same.items():
        apart = _apart(one(x_t, _T), other(x_t, _T))
        yield Row("guidance is this model, bit for bit", f"{case}, {where}", apart, 0.0)
    # The interval is one of sigma/alpha: just above and just below that of _T.
    alpha, sigma = scales(schedule, _T)
    for case, low, high, other in (
        ("begins above", 1.01, 9.0, cond),
        ("ends below", 0.0, 0.99, cond),
        ("is around", 0.99, 1.01, guidance.classifier_free(cond, uncond, 3.0)),
    ):
        w = guidance.interval(3.0, schedule, low * float(sigma / alpha), high * float(sigma / alpha))
        apart = _apart(guidance.classifier_free(cond, uncond, w)(x_t, _T), other(x_t, _T))
        yield Row("guidance acts within its interval of sigma/alpha", f"{case}, {where}", apart, 1e-5)
    within = guidance.classifier_free(cond, uncond, guidance.interval(3.0, schedule, 0.0, 1e7))
    apart = _apart(within(x_t, _T), guidance.classifier_free(cond, uncond, 3.0)(x_t, _T))
    yield Row("inside of its interval guidance is the same", where, apart, 1e-5)


def _even(x: jax.Array) -> jax.Array:
    return (jnp.arange(len(x)) % 2 == 0).reshape(-1, 1, 1, 1)


def _apart(one: Denoised, other: Denoised) -> float:
    return float(max(jnp.abs(one.x0 - other.x0).max(), jnp.abs(one.eps - other.eps).max()))


def _on_a_mixture(cond, uncond, schedule, x_t, where) -> Iterator[Row]:
    """eps = -sigma d/dx [w log p(x_t | component) + (1 - w) log p(x_t)], the densities in float64."""
    alpha, sigma = scales(schedule, _T)
    x = np.asarray(x_t, np.float64)
    spread2 = (alpha * _MIXTURE.std) ** 2 + sigma**2
    densities = [
        weight * np.exp(-((x - alpha * mean) ** 2) / (2 * spread2))
        for weight, mean in zip(_MIXTURE.weights, _MIXTURE.means, strict=True)
    ]
    slopes = [-(x - alpha * mean) / spread2 for mean in _MIXTURE.means]
    of_mixture = sum(d * s for d, s in zip(densities, slopes, strict=True)) / sum(densities)
    for w in (-1.0, 0.5, 2.0, 7.5):
        exact = -sigma * (w * slopes[1] + (1 - w) * of_mixture)
        found = guidance.classifier_free(cond, uncond, w)(x_t, _T)
        error = np.abs(np.asarray(found.eps, np.float64) - exact).max() / np.abs(exact).max()
        yield Row("guidance on a mixture is its scores'", f"w = {w}, {where}", error, 1e-4)


def _classifier(uncond, schedule, x_t, where) -> Iterator[Row]:
    """With the exact log p(component | x_t) the mixture's denoiser becomes the component's."""
    network_time = schedule.round(jnp.float32(_T))
    alpha, sigma = schedule.alpha(network_time), schedule.sigma(network_time)
    spread2 = (alpha * _MIXTURE.std) ** 2 + sigma**2

    def log_probability(x, time):
        logits = [
            jnp.log(weight) - (x - alpha * mean) ** 2 / (2 * spread2)
            for weight, mean in zip(_MIXTURE.weights, _MIXTURE.means, strict=True)
        ]
        return jax.nn.log_softmax(jnp.stack(logits), axis=0)[1].sum((1, 2, 3))

    found = guidance.classifier(uncond, log_probability, schedule)(x_t, _T)
    exact = _COMPONENT.denoised(x_t, alpha, sigma)
    yield Row("an exact classifier makes the conditional model", where, _apart(found, exact), 1e-3)


def _whole(cond, uncond, schedule, x_t, where) -> Iterator[Row]:
    """alpha x0 + sigma eps = x_t stays true under every wrapper."""
    strong = guidance.classifier_free(cond, uncond, 9.0)

    def log_probability(x, time):
        return -(x**2).sum((1, 2, 3))

    wrappers: dict[str, Denoise] = {
        "classifier_free": strong,
        "rescale": guidance.rescale(strong, cond, schedule, 0.7),
        "classifier": guidance.classifier(uncond, log_probability, schedule, 2.0),
        "clipped": clipped(strong, schedule, -0.3, 0.3),
        "dynamic_threshold": dynamic_threshold(strong, schedule, 0.9),
    }
    contrast = guidance.rescale(strong, cond, schedule, 1.0)(x_t, _T).x0.std((1, 2, 3))
    off = jnp.abs(contrast / cond(x_t, _T).x0.std((1, 2, 3)) - 1).max()
    yield Row("rescale by 1 gives the conditional model's contrast", where, float(off), 1e-4)
    loud = guidance.classifier_free(cond, uncond, 60.0)
    sizes = jnp.sort(jnp.abs(loud(x_t, _T).x0).reshape(len(x_t), -1), axis=1)
    s = jnp.maximum(sizes[:, -1], 1.0).reshape(-1, 1, 1, 1)
    apart = dynamic_threshold(loud, schedule, 1.0)(x_t, _T).x0 - loud(x_t, _T).x0 / s
    yield Row("a threshold at the largest |x0| divides by it", where, float(jnp.abs(apart).max()), 1e-4)
    alpha, sigma = schedule.alpha(_T), schedule.sigma(_T)
    for name, wrapped in wrappers.items():
        found = wrapped(x_t, _T)
        error = jnp.abs(alpha * found.x0 + sigma * found.eps - x_t).max() / jnp.abs(x_t).max()
        yield Row("alpha x0 + sigma eps = x_t under wrappers", f"{name}, {where}", float(error), 1e-5)


def _fraction() -> Iterator[Row]:
    """Guidance moves the data and leaves a learned variance as the conditional model has it."""
    x = jnp.ones((2, 1, 1, 1))

    def learned(x0, fraction) -> Denoise:
        return lambda x_t, t: Denoised(x0 * x, (1 - x0) * x, fraction * x)

    found = guidance.classifier_free(learned(0.5, 0.2), learned(0.1, 0.9), 3.0)(x, 0.5)
    fraction = np.nan if found.variance_fraction is None else np.asarray(found.variance_fraction)
    error = np.abs(fraction - 0.2).max()
    yield Row("guidance leaves a learned variance alone", "w = 3", float(error), 0.0)
