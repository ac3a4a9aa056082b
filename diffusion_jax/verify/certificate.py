"""All checks in one call."""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.grids import Trailing, Uniform
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.verify import (
    cases,
    contract,
    extras,
    guidance,
    limit,
    marched,
    pictures,
    process,
    sampling,
)
from diffusion_jax.verify.report import Row


def run(
    samplers: Mapping[str, Sampler] | None = None,
    schedules: Mapping[str, Schedule] | None = None,
    done: Callable[[str], None] = lambda part: None,
) -> list[Row]:
    """Every schedule x prediction x sampler x grid x data against closed forms, and the rest of the promises.

    With `samplers` or `schedules` of one's own, by name, only what is about these: own samplers on every
    schedule, every sampler on own schedules. `done` is called with the name of each part that is through.
    """
    own = samplers is not None or schedules is not None
    samplers = cases.SAMPLERS if samplers is None else dict(samplers)
    walked = cases.SCHEDULES if schedules is None else dict(schedules)

    partners = {other for one, other in cases.EQUAL.items() if one in samplers}
    beside = {name: cases.SAMPLERS[name] for name in partners} | samplers

    def sampled(where: str, schedule: Schedule) -> list[Row]:
        found = marched.run(schedule, beside)
        noise = limit.check(found, samplers, where) if own or where in cases.KINDS else []
        return [*sampling.check(found, samplers, where), *noise]

    # The samplers last: their compiles share the cores, so that none is idle at the end.
    parts: dict[str, Callable[[], Iterable[Row]]] = {"schedules and grids": partial(of_schedules, walked)}
    if not own:
        parts |= {
            "predictions": of_predictions,
            "guidance": guidance.check,
            "the loop": pictures.check,
            "editing and likelihood": extras.check,
        }
    parts |= {f"samplers on {where}": partial(sampled, where, schedule) for where, schedule in walked.items()}

    def one(part: str) -> list[Row]:
        rows = list(parts[part]())
        done(part)
        return rows

    for where, schedule in walked.items():
        contract.check_schedule(where, schedule)
    for name, sampler in samplers.items():
        contract.check_sampler(name, sampler)
    # Compiling is what takes the time, and it lets the other threads go on.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        return list(itertools.chain.from_iterable(pool.map(one, parts)))


def of_schedules(schedules: Mapping[str, Schedule]) -> list[Row]:
    """The promises of schedules, and of every grid on them."""
    rows: list[Row] = []
    for where, schedule in schedules.items():
        rows += process.check_schedule(schedule, where)
        for grid in (Uniform(), Trailing(), *marched.other_grids(schedule)):
            rows += process.check_grid(grid, schedule, where)
    return rows


def of_predictions() -> list[Row]:
    rows: list[Row] = []
    for name, prediction in cases.PREDICTIONS.items():
        rows += process.check_prediction(prediction, name)
    return [*rows, *process.check_refusals(), *process.check_learned_variance()]
