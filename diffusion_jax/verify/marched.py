"""Every sampler on every grid, prediction and closed-form data with one compile for each schedule.

The samplers, the predictions and the data lie side by side in one program, the grids are traced: so much
is run that compiling each case by itself would take hours.
"""

import copy
import dataclasses
from collections.abc import Callable
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.oracles.data import Correlated, Gaussian, Mixture, exact_denoiser, side_by_side
from diffusion_jax.process.predictions import Denoised, V
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import grids
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.guidance import classifier_free
from diffusion_jax.sampling.loop import march
from diffusion_jax.sampling.randomness import image_keys, standard_normal
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.verify.cases import predictions_for

# Compiling is most of what this costs, and little of it is needed at these sizes.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

GAUSSIAN, POINT = Gaussian(0.3, 0.5), Gaussian(-0.4, 0.0)
BOTH = Gaussian((GAUSSIAN.mean, POINT.mean), (GAUSSIAN.std, POINT.std))
MIXTURE, CORRELATED = Mixture(), Correlated()
# Two Gaussians of one width, guided from the second to the first by SCALE: a Gaussian again.
COND, UNCOND, SCALE = Gaussian(0.2, 0.5), Gaussian(-0.1, 0.5), 2.5
GUIDED = Gaussian(UNCOND.mean + SCALE * (COND.mean - UNCOND.mean), COND.std)
DATA = (BOTH, GUIDED, MIXTURE, CORRELATED)

# A list of times as people publish them, drawn out to any number of steps.
ALIGNED = grids.Explicit((1.0, 0.85, 0.7, 0.5, 0.3, 0.15, 0.05, 0.0), interpolate=True)

FEW_STEPS, MANY_STEPS = (*range(1, 11), 20), range(40, 51)
PICTURES = 24
_HALF = PICTURES // 2
ORDER_STEPS = (20, 40)
_OTHER_STEPS = (3, 20, 50)
_TWENTY = FEW_STEPS.index(20)  # the row of 20 uniform steps


@dataclasses.dataclass(frozen=True)
class Marched:
    """Where every sampler came from and where it went, on every grid of a schedule.

    `start` is [row, picture, pixel]; `end` has the same for each sampler. A row is a grid: uniform ones
    of FEW_STEPS and MANY_STEPS, the other grids, two for the order, and uniform 20 steps again twice: with
    other keys for the steps, and with the first half of the pictures in reverse, among others.
    """

    schedule: Schedule
    rows: list[tuple[str, np.ndarray]]  # name and times of each row
    start: np.ndarray
    end: dict[str, np.ndarray]

    @cached_property
    def scales(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(alpha, sigma) at the times of each row, float64."""
        both = scales(self.schedule, padded([times for _, times in self.rows]))
        lengths = [len(times) for _, times in self.rows]
        return [(both[0][i, :n], both[1][i, :n]) for i, n in enumerate(lengths)]

    @cached_property
    def predictions(self) -> list[str]:
        return list(predictions_for(self.schedule))

    @property
    def drawing(self) -> range:
        """The rows from t = 1, or near, to data."""
        return range(len(self.rows) - 4)

    @property
    def many_steps(self) -> slice:
        """The rows of MANY_STEPS uniform steps."""
        return slice(len(FEW_STEPS), len(FEW_STEPS) + len(MANY_STEPS))

    @property
    def order(self) -> tuple[int, int]:
        """The rows with few and twice as many steps, from the same noise, that end before data."""
        return len(self.rows) - 4, len(self.rows) - 3

    def to_data(self) -> list[int]:
        """The rows of 20 and 50 steps from t = 1 to data.

        Not Karras' 20: from a very low SNR their first steps of log-SNR are so long that a polynomial
        through the steps before overshoots.
        """
        wanted = [i for i in self.drawing if self.rows[i][0].endswith((" 20 steps", " 50 steps"))]
        return [i for i in wanted if not self.rows[i][0].startswith(("Leading", "Karras, 20"))]

    def pixels(self, data: str, prediction: str = "") -> slice:
        """Where the data of that name lie: "gaussian" or "point" of a prediction, or the others."""
        if prediction:
            first = 2 * self.predictions.index(prediction) + (data == "point")
            return slice(first, first + 1)
        after = 2 * len(self.predictions)
        first, width = {"guided": (0, 1), "mixture": (1, 1), "correlated": (2, 2)}[data]
        return slice(after + first, after + first + width)

    def deterministic(self, sampler: str) -> bool:
        """Whether other keys for its steps gave the same pictures."""
        return bool(np.array_equal(self.end[sampler][_TWENTY], self.end[sampler][-2]))

    def in_company(self, sampler: str) -> tuple[np.ndarray, np.ndarray]:
        """The same pictures, drawn in their order, and in reverse among others; both in their order."""
        return self.end[sampler][_TWENTY, :_HALF], self.end[sampler][-1, :_HALF][::-1]


def scales(schedule: Schedule, t) -> tuple[np.ndarray, np.ndarray]:
    """(alpha, sigma) at t as float64; `process.check_schedule` is what makes them trustworthy."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return np.asarray(alpha, np.float64), np.asarray(sigma, np.float64)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Together(Sampler):
    """Samplers side by side along the batch, that ask the denoiser once for all where their steps begin.

    Once the times repeat they stay where they are: grids of any length fit one program.
    """

    samplers: tuple[Sampler, ...] = ()

    @property
    def order(self):
        return 0

    def init(self, x):
        parts = jnp.split(x, len(self.samplers))
        return tuple(sampler.init(part) for sampler, part in zip(self.samplers, parts, strict=True))

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        parts = jnp.split(x_t, len(self.samplers))
        first, schedule = denoise(x_t, t), _known_at(schedule, t, s)
        each = map(Denoised, jnp.split(first.x0, len(parts)), jnp.split(first.eps, len(parts)))
        moved = [
            sampler.step(keys, _asked_once(denoise, part, t, here), schedule, part, t, s, before)
            for sampler, part, here, before in zip(self.samplers, parts, each, memory, strict=True)
        ]
        x_s, after = jnp.concatenate([x_s for x_s, _ in moved]), tuple(after for _, after in moved)
        return jax.tree.map(lambda new, old: jnp.where(s < t, new, old), (x_s, after), (x_t, memory))


def _asked_once(denoise: Denoise, x_t: jax.Array, t: jax.Array, here: Denoised) -> Denoise:
    """`denoise`, with the answer for this very state and time at hand."""

    def ask(x, time, **given):
        return here if x is x_t and time is t else denoise(x, time, **given)

    return ask


def _known_at(schedule: Schedule, *times: jax.Array) -> Schedule:
    """`schedule` with its answers for these very times at hand: they are half of what there is to compile."""

    def known(method: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        answers = {id(time): method(time) for time in times}
        return lambda t: answers[id(t)] if id(t) in answers else method(t)

    same = copy.copy(schedule)
    for name in ("alpha", "sigma", "log_snr"):
        object.__setattr__(same, name, known(getattr(schedule, name)))
    return same


def run(schedule: Schedule, samplers: dict[str, Sampler]) -> Marched:
    """Compiles and runs everything for one schedule."""
    rows = _rows(schedule)
    denoise, pixels = _denoise(schedule)
    denoise = jax.jit(denoise)  # traced once, not once for each sampler

    def one_row(start_key: jax.Array, step_key: jax.Array, indices: jax.Array, times: jax.Array):
        normal = standard_normal(image_keys(start_key, indices), (2, 2, pixels // 4))
        start = schedule.sigma(times[0]) * normal
        keys = image_keys(step_key, indices)
        together = Together(tuple(samplers.values()))
        starts = jnp.concatenate([start] * len(samplers))
        end, _ = march(keys, denoise, schedule, together, starts, times)
        return start, dict(zip(samplers, jnp.split(end, len(samplers)), strict=True))

    n = len(rows)
    start_seeds, step_seeds = np.arange(n), np.arange(n)
    start_seeds[[n - 4, n - 3]] = n - 4  # the rows for the order start from the same noise
    start_seeds[[n - 2, n - 1]] = step_seeds[n - 1] = _TWENTY
    indices = np.tile(np.arange(PICTURES), (n, 1))
    indices[-1, :_HALF] = indices[-1, :_HALF][::-1]
    indices[-1, _HALF:] += PICTURES
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    keys = fold(jax.random.key(0), start_seeds), fold(jax.random.key(1), step_seeds)
    times = jnp.asarray(padded([times for _, times in rows]), jnp.float32)
    with jax.debug_key_reuse(False):  # samplers that are compared draw the same noise
        states = quick_jit(jax.vmap(one_row))(*keys, indices, times)
    start, end = jax.tree.map(lambda x: np.asarray(x, np.float64).reshape(n, PICTURES, pixels), states)
    return Marched(schedule, rows, start, end)


def _denoise(schedule: Schedule) -> tuple[Denoise, int]:
    """The exact denoiser of all data, laid over pictures [B, 2, 2, C], and how many pixels that is.

    Over all three axes, so that a sampler which mixes up any shows it.
    """
    pixels = [2] * len(predictions_for(schedule)) + [1, 1, 2]
    pixels += [-sum(pixels) % 4]  # a picture is full

    def denoise(x_t: jax.Array, t: jax.Array, **given: jax.Array) -> Denoised:
        return side_by_side(_denoisers(_known_at(schedule, t)), pixels)(x_t, t, **given)

    return denoise, sum(pixels)


def _denoisers(schedule: Schedule) -> list[Denoise]:
    """Those of all data, in the order of their pixels, and one for what is left of a picture."""
    networks = [exact_denoiser(BOTH, schedule, p) for p in predictions_for(schedule).values()]
    cond, uncond, mixture, correlated = (
        exact_denoiser(data, schedule, V()) for data in (COND, UNCOND, MIXTURE, CORRELATED)
    )
    return [*networks, classifier_free(cond, uncond, SCALE), mixture, correlated, cond]


def padded(rows: list[np.ndarray]) -> np.ndarray:
    """The times of all rows, [row, most steps + 1], the last of each repeated."""
    most = max(map(len, rows))
    return np.stack([np.pad(times, (0, most - len(times)), mode="edge") for times in rows])


def _rows(schedule: Schedule) -> list[tuple[str, np.ndarray]]:
    uniform = [_row(grids.Uniform(), schedule, steps) for steps in (*FEW_STEPS, *MANY_STEPS)]
    others = [_row(grid, schedule, n) for grid in other_grids(schedule) for n in _OTHER_STEPS]
    order = [(f"order, {n} steps", alternating(schedule, n)) for n in ORDER_STEPS]
    return [*uniform, *others, *order, uniform[_TWENTY], uniform[_TWENTY]]


def other_grids(schedule: Schedule) -> list[grids.Grid]:
    """The grids beside Uniform; Leading is for tables only."""
    found = [grids.UniformLogSNR(), grids.Karras(), grids.Quadratic(), grids.Trailing(), ALIGNED]
    return [*found, grids.Leading()] if schedule.steps is not None else found


def _row(grid: grids.Grid, schedule: Schedule, steps: int) -> tuple[str, np.ndarray]:
    return f"{type(grid).__name__}, {steps} steps", grid(schedule, steps)


def alternating(schedule: Schedule, steps: int) -> np.ndarray:
    """Times of the schedule whose steps of log-SNR are short, long, short, long, one to two.

    Unequal, for that is where a multistep method can go wrong; and ending before t = 0, where sigma of
    a variance preserving schedule goes like a square root of t and no method has its order.
    """
    low, high = max(float(schedule.log_snr(1.0)), -6.0), 6.0
    position = np.cumsum([0, *[1, 2] * (steps // 2)])
    log_snr = low + (high - low) * position / position[-1]
    return np.asarray(schedule.round(schedule.time(log_snr)), np.float64)
