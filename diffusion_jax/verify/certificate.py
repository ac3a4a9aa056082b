"""All checks in one call."""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.grids import Trailing, Uniform
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.verify.batch import sample_all
from diffusion_jax.verify.cases import (
    ASK_ELSEWHERE_FIRST,
    EQUAL_SAMPLERS,
    KINDS,
    PREDICTIONS,
    SAMPLERS,
    SCHEDULES,
    adaptive_samplers,
)
from diffusion_jax.verify.compilation import compile_functions
from diffusion_jax.verify.contract import check_sampler_contract, check_schedule_contract
from diffusion_jax.verify.editing import check_editing
from diffusion_jax.verify.guidance import check_guidance
from diffusion_jax.verify.infinite_steps import check_infinite_steps
from diffusion_jax.verify.likelihood import check_likelihood
from diffusion_jax.verify.loop import check_loop
from diffusion_jax.verify.process import (
    check_grid,
    check_learned_variance,
    check_prediction,
    check_refusals,
    check_schedule,
)
from diffusion_jax.verify.report import Row
from diffusion_jax.verify.routes import other_grids
from diffusion_jax.verify.run_sample import Case, check_run_sample, plan_cases
from diffusion_jax.verify.samplers import check_samplers


def run(
    samplers: Mapping[str, Sampler] | None = None,
    schedules: Mapping[str, Schedule] | None = None,
    done: Callable[[str], None] = lambda part: None,
    all_grids: bool = False,
) -> list[Row]:
    """Compares every schedule x prediction x sampler x grid x data with closed forms, and checks the other promises.

    Takes some minutes on 2 CPU cores. Programs are compiled in threads, one per core up to 4.

    Args:
      samplers: your own samplers by name. Only they are checked, on every schedule.
      schedules: your own schedules by name. Only they are checked, with every sampler.
      done: called with the name of each part that is finished.
      all_grids: call `Run.sample` with every sampler x schedule x grid, instead of one grid for each sampler and
        schedule.

    Returns:
      one `Row` per case; `format_table` prints them.

    Raises:
      ValueError: in one line, before anything is compiled, if a sampler or schedule does not keep to its interface.

    >>> dj.verify.run(samplers={"mine": dj.samplers.RK45()})
    Traceback (most recent call last):
    ValueError: mine: chooses its own steps, so its order cannot be measured, except in the full table
    """
    is_own = samplers is not None or schedules is not None
    adaptive = adaptive_samplers() if samplers is None else {}
    samplers = SAMPLERS if samplers is None else dict(samplers)
    schedules = SCHEDULES if schedules is None else dict(schedules)
    for name, sampler in samplers.items():
        check_sampler_contract(name, sampler)
    for where, schedule in schedules.items():
        check_schedule_contract(where, schedule)

    parts: dict[str, Callable[[], Iterable[Row]]] = {"schedules and grids": partial(check_schedules, schedules)}
    if not is_own:
        parts |= {
            "predictions": check_predictions,
            "guidance": check_guidance,
            "the loop": check_loop,
            "editing": check_editing,
            "likelihood": check_likelihood,
        }
    # Samplers last: they take longest, and several of them keep all cores busy to the end.
    cases = plan_cases({**samplers, **adaptive}, schedules, all_grids)
    for where, schedule in schedules.items():
        with_moments = is_own or where in KINDS
        parts[f"samplers on {where}"] = partial(
            check_samplers_on, schedule, samplers, where, cases[where], with_moments
        )

    def run_part(part: str) -> list[Row]:
        rows = list(parts[part]())
        done(part)
        return rows

    # Compilation takes most of the time and releases the interpreter's lock.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        return list(itertools.chain.from_iterable(pool.map(run_part, parts)))


def check_schedules(schedules: Mapping[str, Schedule]) -> list[Row]:
    """The promises of schedules, and of every grid on them."""
    rows: list[Row] = []
    for where, schedule in schedules.items():
        schedule = compile_functions(schedule)
        rows += check_schedule(schedule, where)
        rows += [check_grid(grid, schedule, where) for grid in (Uniform(), Trailing(), *other_grids(schedule))]
    return rows


def check_predictions() -> list[Row]:
    """The promises of predictions, and what is refused."""
    rows: list[Row] = []
    for name, prediction in PREDICTIONS.items():
        rows += check_prediction(prediction, name)
    return [*rows, *check_refusals(), *check_learned_variance()]


def check_samplers_on(
    schedule: Schedule, samplers: Mapping[str, Sampler], where: str, cases: Sequence[Case], with_moments: bool
) -> list[Row]:
    """Every check of the samplers on one schedule, `cases` with `Run.sample`.

    `with_moments` includes the slow check at infinitely many steps. Samplers that must equal another one are compared
    with it, whether it is among them or not.
    """
    partners = {other: SAMPLERS[other] for name, other in EQUAL_SAMPLERS.items() if name in samplers}
    elsewhere = {*ASK_ELSEWHERE_FIRST, *(name for name in samplers if name not in SAMPLERS)}
    results = sample_all(compile_functions(schedule), partners | dict(samplers), elsewhere)
    rows = [*check_samplers(results, dict(samplers), where), *check_run_sample(results, cases, where)]
    return [*rows, *check_infinite_steps(results, dict(samplers), where)] if with_moments else rows
