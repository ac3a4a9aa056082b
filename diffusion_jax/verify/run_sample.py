"""Checks of the program that `Run.sample` compiles, in one, two and three steps.

The other checks of samplers run one program per schedule (see `batch`), whose times are traced and whose samplers are
constants. Users run another one: the times are constants, the sampler's numbers are traced, and guidance and clipping
are part of it. XLA rewrites the two differently, most of all where the loop has a single step.

That program is compiled here with the cheap options of `quick_jit`, in a sixth of the time: XLA's rewrites are the
same, and only the optimizations of machine code are left out.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles import Gaussian, perfect_network
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.run import Network
from diffusion_jax.run.batch import PerImage, Shared, sample_batch
from diffusion_jax.runtime.mesh import make_mesh
from diffusion_jax.sampling.grids import Grid, Uniform
from diffusion_jax.sampling.randomness import image_keys, standard_normal
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.verify.batch import Results
from diffusion_jax.verify.cases import PREDICTIONS, predictions_for
from diffusion_jax.verify.compilation import quick_jit
from diffusion_jax.verify.problems import GAUSSIAN_AND_POINT, POINT, image_shape
from diffusion_jax.verify.report import Row
from diffusion_jax.verify.routes import FEWEST_STEPS, IMAGES, Route, other_grids, route_name
from diffusion_jax.verify.samplers import point_mass_limit

POINT_CHECK, SAME_CHECK = "run.sample: point mass", "run.sample: same images"


class SampleSettings(NamedTuple):
    """What is done to the output of the network: x0 clipped, or guided in an interval that contains every time."""

    clip: bool
    guided: bool


# Taken in turn. The first is the default.
SETTINGS = (
    SampleSettings(clip=True, guided=False),
    SampleSettings(clip=False, guided=False),
    SampleSettings(clip=False, guided=True),
)

# Guidance from data that lie _SHIFT and twice _SHIFT below leads to the data themselves.
_SHIFT, _SCALE = 0.2, 2.0


class Case(NamedTuple):
    """One call of `Run.sample`."""

    name: str  # of the sampler
    sampler: Sampler
    grid: Grid
    steps: int
    prediction: str
    settings: SampleSettings


def plan_cases(
    samplers: Mapping[str, Sampler], schedules: Mapping[str, Schedule], all_grids: bool = False
) -> dict[str, list[Case]]:
    """The calls to check on each schedule.

    Every sampler takes one step, and in turn two or three, on one grid. The grid is the one that this sampler, and then
    this schedule, has had least often: with the samplers and schedules of the library, every sampler meets every grid
    and every grid every schedule, with one step and with more. With `all_grids`, every sampler takes one, two and three
    steps on every grid. Predictions and settings are taken in turn.

    Samplers that differ in traced numbers only share their cases, and so their programs.
    """
    kinds: dict[jax.tree_util.PyTreeDef, list[str]] = {}
    for name, sampler in samplers.items():
        kinds.setdefault(jax.tree.structure(sampler), []).append(name)
    grids = {where: [Uniform(), *other_grids(schedule)] for where, schedule in schedules.items()}
    predictions = {where: list(predictions_for(schedule)) for where, schedule in schedules.items()}
    uses: Counter[tuple] = Counter()
    cases: dict[str, list[Case]] = {where: [] for where in schedules}
    for steps, (j, where), (i, kind) in itertools.product(FEWEST_STEPS, enumerate(schedules), enumerate(kinds)):
        if not all_grids and steps == 2 + (i // 4 + j) % 2:
            continue

        def pairs(grid: Grid, loop=steps > 1, where=where, kind=kind) -> list[tuple]:
            return [(grid, loop, kind), (grid, loop, where), (grid, kind, where)]

        rarest = min(grids[where], key=lambda grid: [uses[pair] for pair in pairs(grid)])
        for k, grid in enumerate(grids[where] if all_grids else [rarest]):
            uses.update(pairs(grid))
            turn = i + j + k + min(steps, 2)
            in_turn = predictions[where][turn % len(predictions[where])], SETTINGS[turn % len(SETTINGS)]
            cases[where] += [Case(name, samplers[name], grid, steps, *in_turn) for name in kinds[kind]]
    return cases


def check_run_sample(results: Results, cases: Sequence[Case], where: str) -> Iterator[Row]:
    """A point mass is hit in few steps, and the images are those of `results`, from the same noise.

    With clipping on, `results` has other images of the Gaussian.
    """
    for case in cases:
        route, subject = route_name(case.grid, case.steps), case.name
        text, limit = f"{where}, {route}, {case.prediction}", point_mass_limit(results, case.prediction)
        if case.settings.guided:  # w c + (1 - w) u has the rounding errors of both
            text, limit = f"{text}, guided", limit * (2 * _SCALE - 1)
        pairs = sample_pairs(results.schedule, case, results.routes[route], len(results.problems))
        yield Row(POINT_CHECK, text, np.abs(pairs[..., 1] - POINT.mean).max(), limit, subject=subject)
        if subject in results.end and not case.settings.clip:
            found = pairs[:, list(results.problems).index(case.prediction)]
            difference = np.abs(found - results.ends(subject, route, case.prediction)).max()
            yield Row(SAME_CHECK, text, difference, 2 * limit, subject=subject)


def sample_pairs(schedule: Schedule, case: Case, route: Route, n: int) -> np.ndarray:
    """The images of one call, from the noise of the route, as n pairs of pixels, float64 [image, n, 2].

    Every pair is a Gaussian beside a point mass.
    """
    guided, shape = case.settings.guided, image_shape(n)
    model = PerfectModel(schedule, PREDICTIONS[case.prediction])
    mean, std = np.float32(GAUSSIAN_AND_POINT.mean), np.float32(GAUSSIAN_AND_POINT.std)
    shift = np.float32(_SHIFT if guided else 0.0)
    params = {"std": std, "labelled": mean - shift, "unlabelled": mean - 2 * shift}
    network = Network(model, schedule, model.prediction, shape, num_classes=int(guided))
    images = PerImage(
        np.arange(IMAGES),
        np.zeros(IMAGES, np.int32),
        _noise(route.start_key, shape),
        np.full(IMAGES, _SCALE, np.float32) if guided else None,
    )
    interval = (np.float32(0), np.float32(np.inf)) if guided else None
    x = _sample_batch(
        (params, None),
        route.step_key,
        images,
        Shared(network.adapt_sampler(case.sampler), interval, rescale=None, threshold=None),
        network=network,
        weaker=None,
        steps=case.steps,
        grid=case.grid,
        clip=case.settings.clip,
        keep=0,
        keep_x0=False,
        mesh=make_mesh(devices=jax.devices()[:1]),
    )
    return np.asarray(x, np.float64).reshape(IMAGES, -1, 2)[:, :n]


_STATIC = ("network", "weaker", "steps", "grid", "clip", "keep", "keep_x0", "mesh")
_sample_batch = quick_jit(sample_batch, static_argnames=_STATIC)
_noise = jax.jit(lambda key, shape: standard_normal(image_keys(key, jnp.arange(IMAGES)), shape), static_argnums=1)


@dataclasses.dataclass(frozen=True)
class PerfectModel:
    """The perfect network of pairs of pixels, whose means depend on whether there are labels."""

    schedule: Schedule
    prediction: Prediction

    def apply(self, params, x, time, labels, **kwargs):
        mean = params["unlabelled" if labels is None else "labelled"]
        network = perfect_network(Gaussian(mean, params["std"]), self.schedule, self.prediction)
        return network(None, x.reshape(len(x), 1, -1, 2), time, labels, **kwargs).reshape(x.shape)
