"""Routes: the times at which samplers stop on the way from noise to data, and the random numbers that they use."""

from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import grids

IMAGES = 24
HALF = IMAGES // 2

FEW_STEPS, MANY_STEPS = (*range(1, 11), 20), range(40, 51)
ORDER_STEPS = (20, 40)
FEWEST_STEPS = (1, 2, 3)
_OTHER_STEPS = (*FEWEST_STEPS, 20, 50)

# A list of times as it might be published, interpolated to any number of steps.
PUBLISHED = grids.Explicit((1.0, 0.85, 0.7, 0.5, 0.3, 0.15, 0.05, 0.0), interpolate=True)


def route_name(grid: grids.Grid, steps: int) -> str:
    """The name of a route to data, which tells the times."""
    return f"{type(grid).__name__}, {steps} steps"


TWENTY_STEPS = route_name(grids.Uniform(), 20)
OTHER_STEP_NOISE = f"{TWENTY_STEPS}, other noise in the steps"
OTHER_BATCH = f"{TWENTY_STEPS}, reversed and among other images"
ORDER_ROUTES = tuple(f"{steps} unequal steps of log-SNR" for steps in ORDER_STEPS)


class Route(NamedTuple):
    """Times from noise to data, and the random numbers of the images that take this way."""

    times: np.ndarray  # float64 [steps + 1]
    start_seed: int
    step_seed: int
    indices: np.ndarray = np.arange(IMAGES)

    @property
    def start_key(self) -> jax.Array:
        """Key of the noise at the first time."""
        return jax.random.fold_in(jax.random.key(0), self.start_seed)

    @property
    def step_key(self) -> jax.Array:
        """Key of the noise that samplers add in their steps."""
        return jax.random.fold_in(jax.random.key(1), self.step_seed)


def routes_to_data(schedule: Schedule) -> dict[str, Route]:
    """Every grid, with few steps and many, by name; all end at t = 0."""
    uniform = [(grids.Uniform(), steps) for steps in (*FEW_STEPS, *MANY_STEPS)]
    others = [(grid, steps) for grid in other_grids(schedule) for steps in _OTHER_STEPS]
    return {
        route_name(grid, steps): Route(grid(schedule, steps), i, i)
        for i, (grid, steps) in enumerate([*uniform, *others])
    }


def all_routes(schedule: Schedule) -> dict[str, Route]:
    """Routes to data; two that end before it, for the order; and 20 uniform steps twice more.

    The two routes for the order start from the same noise. The repeats differ from the first run in one thing each:
    the noise that is added in the steps, and the batch: half of the images, in reverse order, among other images.
    """
    routes = routes_to_data(schedule)
    first = len(routes)
    for i, (name, steps) in enumerate(zip(ORDER_ROUTES, ORDER_STEPS, strict=True)):
        routes[name] = Route(alternating_times(schedule, steps), first, first + i)
    twenty = routes[TWENTY_STEPS]
    batch = np.concatenate([np.arange(HALF)[::-1], np.arange(HALF, IMAGES) + IMAGES])
    return routes | {
        OTHER_STEP_NOISE: twenty._replace(step_seed=first + 2),
        OTHER_BATCH: twenty._replace(indices=batch),
    }


def other_grids(schedule: Schedule) -> list[grids.Grid]:
    """The grids besides Uniform; Leading exists for tables only."""
    found = [grids.UniformLogSNR(), grids.Karras(), grids.Quadratic(), grids.Trailing(), PUBLISHED]
    return [*found, grids.Leading()] if schedule.steps is not None else found


def alternating_times(schedule: Schedule, steps: int) -> np.ndarray:
    """Times of the schedule with alternately short and long steps of log-SNR, at a ratio of one to two.

    Unequal steps, because multistep methods can go wrong there. They end before t = 0, where sigma of a variance
    preserving schedule behaves like the square root of t and no method reaches its order.
    """
    low, high = max(float(schedule.log_snr(1.0)), -6.0), 6.0
    position = np.cumsum([0, *[1, 2] * (steps // 2)])
    log_snr = low + (high - low) * position / position[-1]
    return np.asarray(schedule.round(schedule.time(log_snr)), np.float64)


def pad_times(rows: list[np.ndarray]) -> np.ndarray:
    """The times of all rows, float32 [row, most steps + 1]; shorter rows repeat their last time."""
    most = max(map(len, rows))
    return np.stack([np.pad(times, (0, most - len(times)), mode="edge") for times in rows]).astype(np.float32)
