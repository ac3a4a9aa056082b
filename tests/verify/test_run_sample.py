"""The program of `Run.sample` is checked on every pair, passes, and mistakes that only it shows are found."""

import functools
import itertools
from unittest import mock

import jax
import pytest
from mistakes import Overflowing, Untraced
from oracles import SCHEDULES
from slow import slow

from diffusion_jax.sampling.denoiser import clipped
from diffusion_jax.sampling.grids import Uniform
from diffusion_jax.sampling.guidance import classifier_free
from diffusion_jax.sampling.loop import sample
from diffusion_jax.sampling.samplers import DDIM
from diffusion_jax.verify import run_sample
from diffusion_jax.verify.batch import Results, sample_all
from diffusion_jax.verify.cases import SAMPLERS, adaptive_samplers, predictions_for
from diffusion_jax.verify.compilation import compile_functions
from diffusion_jax.verify.report import format_row
from diffusion_jax.verify.routes import other_grids
from diffusion_jax.verify.run_sample import (
    POINT_CHECK,
    SAME_CHECK,
    SETTINGS,
    Case,
    check_run_sample,
    plan_cases,
)
from diffusion_jax.verify.samplers import check_samplers

ALL = SAMPLERS | adaptive_samplers()
GRIDS = {where: [type(grid) for grid in (Uniform(), *other_grids(schedule))] for where, schedule in SCHEDULES.items()}
PREDICTIONS = {where: predictions_for(schedule) for where, schedule in SCHEDULES.items()}


@pytest.mark.parametrize("steps", [{1}, {2, 3}])
def test_every_pair_of_sampler_schedule_and_grid_is_planned(steps):
    plan = plan_cases(ALL, SCHEDULES)
    cases = [(where, case) for where in plan for case in plan[where] if case.steps in steps]
    assert sorted((where, case.name) for where, case in cases) == sorted(itertools.product(SCHEDULES, ALL))
    assert {(case.name, type(case.grid)) for _, case in cases} == set(itertools.product(ALL, GRIDS["linear"]))
    assert {(w, type(case.grid)) for w, case in cases} == {(w, grid) for w in SCHEDULES for grid in GRIDS[w]}
    assert {(case.name, case.settings) for _, case in cases} == set(itertools.product(ALL, SETTINGS))
    assert {(case.name, case.steps) for _, case in cases} == set(itertools.product(ALL, steps))
    found = {(w, case.steps, case.prediction) for w, case in cases}
    assert found == {(w, step, name) for w in SCHEDULES for step in steps for name in PREDICTIONS[w]}


def test_all_grids_plans_every_combination_once():
    plan = plan_cases(ALL, SCHEDULES, all_grids=True)
    for where, cases in plan.items():
        found = [(case.name, case.steps, type(case.grid).__name__) for case in cases]
        names = [grid.__name__ for grid in GRIDS[where]]
        assert sorted(found) == sorted(itertools.product(ALL, (1, 2, 3), names))


def test_samplers_of_one_program_share_their_cases():
    plan = plan_cases({"a": DDIM(), "b": DDIM(eta=0.5)}, SCHEDULES)
    for cases in plan.values():
        assert [case[2:] for case in cases if case.name == "a"] == [case[2:] for case in cases if case.name == "b"]


@functools.cache
def results(where: str, *names: str) -> Results:
    return sample_all(compile_functions(SCHEDULES[where]), {name: OWN[name] for name in names}, names)


OURS = ("DDIM(eta=0.5)", "DPMSolverPP()", "SelfConditioned(sampler=Heun())")
OWN = SAMPLERS | {"overflowing": Overflowing(), "untraced": Untraced(eta=1.0)}


def failed_checks(found: Results, cases: list[Case], name: str) -> set[str]:
    return {row.check for row in check_run_sample(found, cases, "here") if row.subject == name and not row.passed}


def test_our_samplers_pass():
    cases = plan_cases({name: ALL[name] for name in (*OURS, "RK45()") if name in ALL}, {"karras": SCHEDULES["karras"]})
    rows = list(check_run_sample(results("karras", *OURS), cases["karras"], "karras"))
    assert {(row.check, row.subject) for row in rows} >= set(itertools.product((POINT_CHECK, SAME_CHECK), OURS))
    failed = [format_row(row) for row in rows if not row.passed]
    assert not failed, "\n".join(failed)


MISTAKES = {"overflowing": {POINT_CHECK, SAME_CHECK}, "untraced": {SAME_CHECK}}


def test_mistakes_that_only_this_program_shows_are_found():
    """One step of DPM-Solver++ was NaN where eta is traced, and every other check passed."""
    found, own = results("rectified", *MISTAKES), {name: OWN[name] for name in MISTAKES}
    assert [row for row in check_samplers(found, own, "rectified") if not row.passed] == []
    steps = {"untraced": 2} | ({"overflowing": 1} if jax.__version_info__ < (0, 11) else {})  # newer ones don't regroup
    for name in steps:
        case = Case(name, own[name], Uniform(), steps[name], "v", SETTINGS[1])
        assert failed_checks(found, [case], name) == MISTAKES[name]


def unscaled(key, denoise, schedule, shape, noise, **kwargs):
    return sample(key, denoise, schedule, shape, start=noise, **kwargs)


def other_times(*args, steps, **kwargs):
    return sample(*args, steps=steps + 1, **kwargs)


def same_noise(*args, indices, **kwargs):
    return sample(*args, indices=0 * indices, **kwargs)


def too_strong(cond, uncond, scale):
    return classifier_free(cond, uncond, lambda t: scale(t) + 0.1)


def half_range(denoise, schedule):
    return clipped(denoise, schedule, 0.0, 1.0)


CLIPPED, PLAIN, GUIDED = SETTINGS
FAULTS = {
    unscaled: ("diffusion_jax.run.batch.sample", PLAIN, {SAME_CHECK}),
    other_times: ("diffusion_jax.run.batch.sample", PLAIN, {SAME_CHECK}),
    same_noise: ("diffusion_jax.run.batch.sample", PLAIN, {SAME_CHECK}),
    too_strong: ("diffusion_jax.sampling.guidance.classifier_free", GUIDED, {POINT_CHECK, SAME_CHECK}),
    half_range: ("diffusion_jax.run.batch.clipped", CLIPPED, {POINT_CHECK}),
}


@pytest.mark.parametrize(
    "fault", [unscaled, *slow(other_times, same_noise, too_strong, half_range)], ids=lambda fault: fault.__name__
)
def test_faults_around_the_sampler_are_found(fault):
    place, settings, checks = FAULTS[fault]
    case = Case("DDIM(eta=0.5)", SAMPLERS["DDIM(eta=0.5)"], Uniform(), 2, "v", settings)
    run_sample._sample_batch.clear_cache()
    with mock.patch(place, fault):
        assert failed_checks(results("karras", *OURS), [case], case.name) == checks
    run_sample._sample_batch.clear_cache()
    assert failed_checks(results("karras", *OURS), [case], case.name) == set()
