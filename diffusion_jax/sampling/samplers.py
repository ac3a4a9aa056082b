"""Samplers: one reverse step from time t to time s < t, with the whole algorithm on one screen.

A sampler is a frozen dataclass with a declared `order` (of its global error, checked by the tests)
and `step(keys, denoise, schedule, x_t, t, s, memory) -> (x_s, memory)`. It receives the denoiser, so that
it may call it twice; `keys` holds one key a picture, [B]; `memory` is what a multistep method carries
from step to step, made by `init`. Its float fields are traced under jit, the others static.

To add one, subclass `Sampler`; `sample` holds the only loop.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.process import forward
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise


def _flatten(sampler: "Sampler") -> tuple[tuple, tuple]:
    fields = dataclasses.fields(sampler)
    traced = tuple(field.name for field in fields if field.type in (float, "float"))
    static = tuple((f.name, getattr(sampler, f.name)) for f in fields if f.name not in traced)
    return tuple(getattr(sampler, name) for name in traced), (traced, static)


def _unflatten(cls: type, names: tuple, leaves: tuple) -> "Sampler":
    sampler: Sampler = object.__new__(cls)
    for name, value in [*zip(names[0], leaves, strict=True), *names[1]]:
        object.__setattr__(sampler, name, value)
    return sampler


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Base of the samplers. A subclass is a pytree: fields typed `float` are leaves, the rest is static."""

    order: ClassVar[int]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_node(cls, _flatten, lambda *parts: _unflatten(cls, *parts))

    def init(self, x: jax.Array) -> Any:
        """What the first step finds in `memory`."""
        return ()

    def step(
        self,
        keys: jax.Array,
        denoise: Denoise,
        schedule: Schedule,
        x_t: jax.Array,
        t: jax.Array,
        s: jax.Array,
        memory: Any,
    ) -> tuple[jax.Array, Any]:
        """x_s from x_t, [B, H, W, C] each, for scalar times s < t; at s = 0 that is clean data."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling from p(x_s | x_t) = q(x_s | x_t, x0-hat) (Ho et al. 2020, Alg. 2).

    `variance` is "small", that of the posterior (their beta-tilde, right for point-mass data), or
    "large", that of the forward step q(x_t | x_s) (their beta, right for Gaussian data of unit variance).
    """

    order: ClassVar[int] = 1
    variance: str = "small"

    def __post_init__(self):
        if self.variance not in ("small", "large"):
            raise ValueError(f'variance = "{self.variance}": must be "small" or "large"')

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        mean, variance = forward.posterior(schedule, x_t, denoise(x_t, t).x0, t, s)
        if self.variance == "large":
            forward_variance = forward.transition(schedule, x_t, t, s)[1]
            variance = jnp.where(schedule.sigma(s) > 0, forward_variance, 0.0)  # no noise on data
        return mean + jnp.sqrt(variance) * noise(keys, x_t.shape[1:]), memory


@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - tau^2) eps + tau z, with tau^2 = eta^2 var.

    (Song et al. 2021, Eq. 12 and 16.) var is the posterior's variance: eta = 0 follows the
    probability flow, eta = 1 is DDPM in law.
    """

    order: ClassVar[int] = 1
    eta: float = 0.0

    def __post_init__(self):
        _check_eta(self)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0, eps = denoise(x_t, t)
        variance = self.eta**2 * forward.posterior(schedule, x_t, x0, t, s)[1]
        direction = jnp.sqrt(jnp.maximum(schedule.sigma(s) ** 2 - variance, 0.0))
        x_s = schedule.alpha(s) * x0 + direction * eps
        return x_s + jnp.sqrt(variance) * noise(keys, x_t.shape[1:]), memory


@dataclasses.dataclass(frozen=True)
class Heun(Sampler):
    """The trapezoidal rule on dx = x0 d(alpha) + eps d(sigma) (Karras et al. 2022, Alg. 1).

    Where alpha = 1 that is EDM's, on a rectified flow Heun's on the velocity, and it divides by neither
    alpha nor sigma. Two calls of the denoiser a step, one in the step to data.
    """

    order: ClassVar[int] = 2

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        d_alpha = schedule.alpha(s) - schedule.alpha(t)
        d_sigma = schedule.sigma(s) - schedule.sigma(t)
        here = denoise(x_t, t)
        euler = x_t + d_alpha * here.x0 + d_sigma * here.eps

        def corrected() -> jax.Array:
            there = denoise(euler, s)
            x0, eps = (here.x0 + there.x0) / 2, (here.eps + there.eps) / 2
            return x_t + d_alpha * x0 + d_sigma * eps

        # At sigma = 0 there is no eps to ask for; x0-hat itself is the answer.
        end = schedule.alpha(s) * here.x0
        return jax.lax.cond(schedule.sigma(s) > 0, corrected, lambda: end), memory


@dataclasses.dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """DPM-Solver++ in x0, multistep (Lu et al. 2022b, Prop. 4.1 and Alg. 2).

    x_s = (sigma_s/sigma_t) x_t + (alpha_s - alpha_t sigma_s/sigma_t) D, where D is x0 at order 1 (DDIM) and
    x0 + h/(2 h_prev) (x0 - x0_prev) at order 2, with h the step of log_snr/2. First order where a step
    starts at zero SNR or ends on data.
    """

    order: int = 2  # type: ignore[misc]  # a choice here, not a constant

    def __post_init__(self):
        if self.order not in (1, 2):
            raise ValueError(f"order = {self.order}: must be 1 or 2")

    def init(self, x):
        return jnp.zeros_like(x), jnp.float32(-jnp.inf)  # x0 and log-SNR of the step before

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0 = denoise(x_t, t).x0
        log_snr = schedule.log_snr(t)
        direction = x0
        if self.order == 2:
            x0_before, log_snr_before = memory
            h, h_before = schedule.log_snr(s) - log_snr, log_snr - log_snr_before
            both_finite = jnp.isfinite(h) & jnp.isfinite(h_before)
            direction = x0 + jnp.where(both_finite, h / (2 * h_before), 0.0) * (x0 - x0_before)
        ratio = schedule.sigma(s) / schedule.sigma(t)
        x_s = ratio * x_t + (schedule.alpha(s) - schedule.alpha(t) * ratio) * direction
        return x_s, (x0, log_snr)


@dataclasses.dataclass(frozen=True)
class StridedPosterior(Sampler):
    """The rule of github.com/okarthikb/diffusion, to reproduce that project. Its law is wrong: use `DDIM`.

    x_s = (x_t - b eps/sigma_t)/sqrt(1 - b) + sqrt(eta b) z with b = clip(posterior variance, 0, 0.999).
    DDPM's mean (Ho et al. 2020, Alg. 2) has the forward step's beta, 1 - alpha_t^2/alpha_s^2, where this has
    the posterior variance, and the step to s = 0 has b = 0 and changes nothing. On Gaussian data of standard
    deviation 0.5, a perfect denoiser makes 0.026 at eta = 0, 0.177 at 0.1 and 0.554 at 1. Their settings
    are T = 500, eta = 0.1, `grids.Leading` with 35 steps, no clipping. For variance preserving schedules.
    """

    order: ClassVar[int] = 0  # it does not converge to the data
    eta: float = 0.1

    def __post_init__(self):
        _check_eta(self)

    def init(self, x):
        return jnp.bool_(True)  # the first step is still to come

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        # Theirs starts at unit variance, wherever its first time lies.
        x_t = jnp.where(memory, x_t / schedule.sigma(t), x_t)
        x0, eps = denoise(x_t, t)
        b = jnp.clip(forward.posterior(schedule, x_t, x0, t, s)[1], 0.0, 0.999)
        mean = (x_t - b / schedule.sigma(t) * eps) / jnp.sqrt(1 - b)
        return mean + jnp.sqrt(self.eta * b) * noise(keys, x_t.shape[1:]), jnp.bool_(False)


def _check_eta(sampler: DDIM | StridedPosterior) -> None:
    """Makes eta a float in [0, 1], but where jit traces it."""
    if isinstance(sampler.eta, int | float | np.number):
        object.__setattr__(sampler, "eta", float(sampler.eta))
        if not 0 <= sampler.eta <= 1:
            raise ValueError(f"eta = {sampler.eta}: must be in [0, 1]")


def noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, *shape], float32: picture i from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
