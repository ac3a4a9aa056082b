"""Every sampler on every route and problem of a schedule, compiled as one program.

`sample_one` is the definition: one sampler, one list of times, one problem. `sample_all` gives the same answers, and
a test compares them. It exists because each case by itself would take hours to compile: the samplers lie side by side
in the batch, the problems side by side in the image, and the times are traced.
"""

import dataclasses
import itertools
from collections.abc import Collection
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles import scales
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.loop import march, sample
from diffusion_jax.sampling.randomness import image_keys, standard_normal
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.validation import STATIC
from diffusion_jax.verify.cases import ASK_ELSEWHERE_FIRST
from diffusion_jax.verify.compilation import quick_jit
from diffusion_jax.verify.problems import (
    GAUSSIAN_AND_POINT,
    Problem,
    image_shape,
    make_problems,
    on_pairs,
    side_by_side,
)
from diffusion_jax.verify.routes import (
    ORDER_ROUTES,
    OTHER_BATCH,
    OTHER_STEP_NOISE,
    TWENTY_STEPS,
    Route,
    all_routes,
    pad_times,
)


def sample_one(problem: Problem, schedule: Schedule, sampler: Sampler, route: Route, start: jax.Array) -> jax.Array:
    """x [B, 2, 2, C] at the end of the route, from `start` at its first time, with every pair from `problem`.

    The definition of all results, by the same call that users make.
    """
    denoise, key, shape = on_pairs(problem.denoise), route.step_key, start.shape
    times, indices = route.times, route.indices
    return sample(key, denoise, schedule, shape, sampler=sampler, times=times, indices=indices, start=start)


@dataclasses.dataclass(frozen=True)
class Results:
    """Where every sampler started and ended, on every route of a schedule; float64 [image, problem, 2]."""

    schedule: Schedule
    problems: dict[str, Problem]
    routes: dict[str, Route]
    start: dict[str, np.ndarray]  # by route
    end: dict[str, dict[str, np.ndarray]]  # by sampler and route

    @property
    def predictions(self) -> list[str]:
        """Names of the problems that are a Gaussian beside a point mass, one for each prediction."""
        return [name for name, problem in self.problems.items() if problem.data is GAUSSIAN_AND_POINT]

    @property
    def to_data(self) -> list[str]:
        """Names of the routes that end at t = 0, each taken once."""
        return [name for name in self.routes if name not in (*ORDER_ROUTES, OTHER_STEP_NOISE, OTHER_BATCH)]

    @cached_property
    def scales(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(alpha, sigma) at the times of each route, float64."""
        rows = [route.times for route in self.routes.values()]
        alpha, sigma = scales(self.schedule, pad_times(rows))
        return {name: (alpha[i, : len(rows[i])], sigma[i, : len(rows[i])]) for i, name in enumerate(self.routes)}

    def ends(self, sampler: str, route: str, problem: str) -> np.ndarray:
        """Results of one case, [image, 2]."""
        return self.end[sampler][route][:, list(self.problems).index(problem)]

    def flow(self, route: str, problem: str) -> np.ndarray:
        """The exact results of a deterministic sampler, [image, 2]: the end of the probability flow."""
        alphas, sigmas = self.scales[route]
        at_start, at_end = (alphas[0], sigmas[0]), (alphas[-1], sigmas[-1])
        start = self.start[route][:, list(self.problems).index(problem)]
        return self.problems[problem].data.flow(start, at_start, at_end)

    def is_deterministic(self, sampler: str) -> bool:
        """Whether other noise in the steps gave the same images."""
        return bool(np.array_equal(self.end[sampler][TWENTY_STEPS], self.end[sampler][OTHER_STEP_NOISE]))


def sample_all(
    schedule: Schedule, samplers: dict[str, Sampler], elsewhere: Collection[str] = ASK_ELSEWHERE_FIRST
) -> Results:
    """Results of `sample_one` for every sampler, route and problem of the schedule, from one program.

    `elsewhere` names the samplers whose steps do not begin with a call of the denoiser at (x_t, t).
    """
    problems, routes = make_problems(schedule), all_routes(schedule)
    denoise, shape = jax.jit(side_by_side(problems)), image_shape(len(problems))  # traced once for all samplers
    together = SideBySide(tuple(samplers.values()), tuple(name in elsewhere for name in samplers))

    @quick_jit
    def follow(start_key: jax.Array, step_key: jax.Array, indices: jax.Array, times: jax.Array):
        start = schedule.sigma(times[0]) * standard_normal(image_keys(start_key, indices), shape)
        starts = jnp.concatenate([start] * len(samplers))
        end, _ = march(image_keys(step_key, indices), denoise, schedule, together, starts, times)
        return start, jnp.split(end, len(samplers))

    padded = pad_times([route.times for route in routes.values()])
    starts: dict[str, np.ndarray] = {}
    ends: dict[str, dict[str, np.ndarray]] = {name: {} for name in samplers}
    with jax.debug_key_reuse(False):  # samplers that are compared use the same noise
        for (name, route), times in zip(routes.items(), padded, strict=True):
            start, end = follow(route.start_key, route.step_key, route.indices, times)
            starts[name] = _split_problems(start, len(problems))
            for sampler, x in zip(samplers, end, strict=True):
                ends[sampler][name] = _split_problems(x, len(problems))
    return Results(schedule, problems, routes, starts, ends)


def _split_problems(x: jax.Array, n: int) -> np.ndarray:
    """Images [B, 2, 2, C] as float64 [B, n, 2], the pixels of each of n problems."""
    return np.asarray(x, np.float64).reshape(len(x), -1, 2)[:, :n]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SideBySide(Sampler):
    """Samplers side by side along the batch.

    Steps between equal times change nothing, so lists of times of any length can be padded to fit one program. Nearly
    every step first calls the denoiser at (x_t, t). That call is made once for all samplers, because a call of the
    denoiser takes longer to compile than the rest of a step.
    """

    samplers: tuple[Sampler, ...] = ()
    elsewhere: tuple[bool, ...] = dataclasses.field(default=(), metadata=STATIC)  # whose first call is not at (x_t, t)

    @property
    def order(self):
        return 0

    def init(self, x):
        parts = jnp.split(x, len(self.samplers))
        return tuple(sampler.init(part) for sampler, part in zip(self.samplers, parts, strict=True))

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        def take() -> tuple[jax.Array, Any]:
            return self._step_all(keys, denoise, schedule, x_t, t, s, memory)

        return jax.lax.cond(s < t, take, lambda: (x_t, memory))

    def _step_all(self, keys, denoise, schedule, x_t, t, s, memory):
        first = denoise(x_t, t)
        states, x0s, epses = (jnp.split(x, len(self.samplers)) for x in (x_t, first.x0, first.eps))
        steps = []
        for i, (sampler, x) in enumerate(zip(self.samplers, states, strict=True)):
            ask = denoise if self.elsewhere[i] else _answer_first(denoise, x, t, Denoised(x0s[i], epses[i]))
            steps.append(sampler.step(keys, ask, schedule, x, t, s, memory[i]))
        return jnp.concatenate([x_s for x_s, _ in steps]), tuple(after for _, after in steps)


def _answer_first(denoise: Denoise, x_t: jax.Array, t: jax.Array, answer: Denoised) -> Denoise:
    """`denoise`, whose first call must be for (x_t, t) and returns `answer`; NaN if it is for anything else."""
    calls = itertools.count()

    def ask(x: jax.Array, time: jax.Array, **kwargs: jax.Array) -> Denoised:
        if next(calls):
            return denoise(x, time)
        is_expected = (time == t) & jnp.all(x == x_t)
        return jax.tree.map(lambda y: jnp.where(is_expected, y, jnp.nan), answer)

    return ask
