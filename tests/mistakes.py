"""Samplers and schedules with one mistake each, for tests that must find them."""

import dataclasses

import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.process import forward
from diffusion_jax.process.schedules import Discrete, RectifiedFlow, Schedule
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers import DDIM, Sampler
from diffusion_jax.validation import STATIC


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Wrong(Sampler):
    """DDIM with one mistake of those that public code bases have made."""

    order = 1
    mistake: str = dataclasses.field(default="none", metadata=STATIC)
    eta: float = 1.0

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        answer = denoise(x_t, t)
        x0, eps = answer.x0, answer.eps
        before = t - 1e-3 if self.mistake == "one-step posterior" else s
        if self.mistake == "axes swapped":
            x0 = x0.swapaxes(1, 2)
        if self.mistake == "mean of the batch":
            x0 = jnp.where(s > 0, x0 + 1e-3 * x0.mean(axis=0), x0)
        variance = self.eta**2 * forward.posterior(schedule, x_t, x0, t, before)[1]
        if self.mistake == "noise at the end":
            variance = jnp.maximum(variance, 1e-4)
        shrunk = jnp.maximum(schedule.sigma(s) ** 2 - variance, 0.0)
        direction = schedule.sigma(s) if self.mistake == "direction not shrunk" else jnp.sqrt(shrunk)
        amounts = {"noise left out": 0.0, "a tenth too much": 1.1, "a tenth too little": 0.9}
        used_keys = keys[:1] if self.mistake == "noise of one image" else keys
        z = amounts.get(self.mistake, 1.0) * standard_normal(used_keys, x_t.shape[1:])
        return schedule.alpha(s) * x0 + direction * eps + jnp.sqrt(variance) * z, memory


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Overstated(DDIM):
    """DDIM that claims second order."""

    order = 2


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Overflowing(Sampler):
    """DPM-Solver++ of order 1, with the infinite step of log-SNR capped at float32's largest number.

    The compiler forms (2 h) eta instead of 2 (h eta), if h is a constant and eta is not: infinity times 0.
    """

    order = 1
    eta: float = 0.0

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        h = jnp.minimum((schedule.log_snr(s) - schedule.log_snr(t)) / 2, jnp.finfo(jnp.float32).max)
        keep = schedule.sigma(s) / schedule.sigma(t) * jnp.exp(-self.eta * h)
        spread = schedule.sigma(s) * jnp.sqrt(-jnp.expm1(-2 * self.eta * h))
        mean = keep * x_t + (schedule.alpha(s) - schedule.alpha(t) * keep) * denoise(x_t, t).x0
        return mean + spread * standard_normal(keys, x_t.shape[1:]), memory


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Untraced(DDIM):
    """DDIM that takes half of eta where jit traces it."""

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        eta = self.eta if isinstance(self.eta, float) else self.eta / 2
        return DDIM(eta).step(keys, denoise, schedule, x_t, t, s, memory)


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Broken(Sampler):
    """Does not keep to the interface of `Sampler`."""

    fault: str = dataclasses.field(default="", metadata=STATIC)
    eta: float = 0.0

    @property
    def order(self):
        if self.fault == "no order":
            raise AttributeError("Broken has no order")
        return "first" if self.fault == "order is text" else 1

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        if self.fault == "raises":
            raise KeyError("out of luck")
        if self.fault == "untraceable" and self.eta > 0:
            return x_t, memory
        return {
            "no memory": x_t,
            "one image": (x_t[:1], memory),
            "half": (x_t.astype(jnp.float16), memory),
            "more memory": (x_t, (x_t,)),
        }[self.fault]


@dataclasses.dataclass(frozen=True)
class Unregistered(Sampler):
    """Not registered as a pytree."""

    order = 1

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        return x_t, memory


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unlucky(DDIM):
    """Cannot be made."""

    def __post_init__(self):
        raise KeyError("no such thing")


class Unfinished(Schedule):
    """Lacks `time`."""

    def log_snr(self, t):
        return 9.0 - 18.0 * jnp.asarray(t)


@dataclasses.dataclass(frozen=True)
class BrokenBetas(Discrete):
    """betas() that are not betas."""

    fault: str = ""

    def betas(self):
        if self.fault == "raises":
            raise RuntimeError("oh\nin two lines")
        return {
            "too large": np.linspace(1e-4, 1.5, 500),
            "two columns": np.full((500, 2), 0.01),
            "a list": [0.01] * 500,
            "float32": np.full(500, 0.01, np.float32),
            "none": None,
        }[self.fault]


@dataclasses.dataclass(frozen=True)
class Line(Schedule):
    """log-SNR from 9 to -9 in a straight line, with one fault."""

    fault: str = ""

    def log_snr(self, t):
        if self.fault == "raises":
            raise ValueError("oh")
        if self.fault == "if" and t > 2:
            return t
        if self.fault == "numpy":
            t = np.minimum(t, 1.0)
        t = jnp.asarray(t, jnp.float32)
        line = 9.0 - 18.0 * t
        wrong = {"nan": line * jnp.nan, "scalar": 9.0, "rises": -line, "late": line - 8.0}
        return wrong.get(self.fault, line)

    def alpha(self, t):
        wrong = {"text": "no number", "negative": -super().alpha(t)}
        return wrong[self.fault] if self.fault in wrong else super().alpha(t)

    def time(self, log_snr):
        t = (9.0 - jnp.asarray(log_snr, jnp.float32)) / 18.0
        return jnp.clip(t - 8 / 18, 0, 1) if self.fault == "late" else 1 + t if self.fault == "outside" else t


@dataclasses.dataclass(frozen=True)
class Late(Schedule):
    """Its inverse is off by a little, and it never ends on data."""

    def log_snr(self, t):
        return 9.0 - 18.0 * jnp.asarray(t, jnp.float32)

    def time(self, log_snr):
        return jnp.clip((9.5 - log_snr) / 18.0, 0.0, 1.0)


class Unscaled(RectifiedFlow):
    """The straight line, with the scales of another schedule."""

    def scales(self, log_snr):
        return Schedule.scales(self, log_snr)

    def alpha(self, t):
        return 1.0 - jnp.asarray(t, jnp.float32)

    def sigma(self, t):
        return jnp.asarray(t, jnp.float32)
