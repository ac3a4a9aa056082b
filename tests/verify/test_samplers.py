"""Every sampler x schedule x prediction x grid x data keeps its promises, and every mistake is found."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import optimized_jit
from mistakes import Overstated, Wrong
from oracles import SCHEDULES, quick_jit
from slow import slow

from diffusion_jax.sampling.grids import Uniform
from diffusion_jax.verify.batch import Results, sample_all, sample_one
from diffusion_jax.verify.cases import ASK_ELSEWHERE_FIRST, KINDS, SAMPLERS
from diffusion_jax.verify.compilation import compile_functions
from diffusion_jax.verify.infinite_steps import check_infinite_steps
from diffusion_jax.verify.problems import POINT, make_problems
from diffusion_jax.verify.report import format_row
from diffusion_jax.verify.routes import FEWEST_STEPS, IMAGES, Route
from diffusion_jax.verify.samplers import check_samplers

# The others take long, and `diffusion-jax verify` runs them too.
ALL_SCHEDULES = ["rectified", *slow(*(name for name in SCHEDULES if name != "rectified"))]


@cache
def results(where: str) -> Results:
    return sample_all(compile_functions(SCHEDULES[where]), SAMPLERS)


@pytest.mark.parametrize("where", ALL_SCHEDULES)
def test_every_sampler_keeps_its_promises_on_every_prediction_grid_and_data(where):
    rows = check_samplers(results(where), SAMPLERS, where)
    assert {row.subject for row in rows} >= set(SAMPLERS)
    failed = [format_row(row) for row in rows if not row.passed]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("where", ["rectified", *slow(*(name for name in KINDS if name != "rectified"))])
def test_samplers_with_noise_have_the_law_of_the_data_at_infinitely_many_steps(where):
    rows = list(check_infinite_steps(results(where), SAMPLERS, where))
    assert {row.subject for row in rows} == {"EulerAncestral(eta=0.5)", "Heun(churn=0.4)"} | {
        f"{name}eta=1.0)" for name in ("DPMSolverPP(", "DPMSolverPP(order=3, ", "DPMSolverPP2S(")
    }
    failed = [format_row(row) for row in rows if not row.passed]
    assert not failed, "\n".join(failed)


FAST = [
    ("DDPM()", "rectified", "Uniform, 3 steps", "v"),
    ("Heun(churn=0.4)", "rectified", "Karras, 20 steps", "correlated"),
    ("UniPC(order=3)", "rectified", "20 unequal steps of log-SNR", "guided"),
    ("SelfConditioned(sampler=Heun())", "rectified", "Uniform, 10 steps", "velocity"),
    ("DPMSolverPP2S(eta=1.0)", "rectified", "Uniform, 20 steps, reversed and among other images", "mixture"),
    *slow(("DPMSolverPP(order=3, eta=1.0)", "linear", "Leading, 20 steps", "eps")),
]


@pytest.mark.parametrize(("sampler", "where", "route", "problem"), FAST)
def test_the_batched_run_gives_the_results_of_single_cases(sampler, where, route, problem):
    """The definition with the sampler as an argument of jit and with constant times, as users call it."""
    _assert_equal_to_single_case(sampler, where, route, problem)


@pytest.mark.slow
@pytest.mark.parametrize("where", KINDS)
def test_the_batched_run_gives_the_results_of_every_sampler_route_and_problem(where):
    found = results(where)
    problems, routes, samplers = list(found.problems), list(found.routes), list(SAMPLERS)
    for i in range(max(len(problems), len(routes), len(samplers))):
        _assert_equal_to_single_case(
            samplers[i % len(samplers)], where, routes[i % len(routes)], problems[i % len(problems)]
        )


def _assert_equal_to_single_case(sampler: str, where: str, route: str, problem: str) -> None:
    found, schedule = results(where), SCHEDULES[where]
    n = len(found.problems)
    start = np.pad(found.start[route], ((0, 0), (0, n % 2), (0, 0))).reshape(-1, 2, 2, (n + 1) // 2)
    start = jnp.asarray(start, jnp.float32)
    run = quick_jit(lambda s, x: sample_one(make_problems(schedule)[problem], schedule, s, found.routes[route], x))
    end = np.asarray(run(SAMPLERS[sampler], start)).reshape(len(start), -1, 2)
    index = list(found.problems).index(problem)
    scale = float(found.scales[route][1][0])  # sigma at the start: 80 on Karras' schedule
    np.testing.assert_allclose(end[:, index], found.ends(sampler, route, problem), atol=1e-4 * max(1.0, scale))


# With one step and eta traced, twice float32's maximum overflowed in the coefficients of DPM-Solver++.
# `verify` compiles such programs with cheaper options (see test_run_sample.py).
FEW_STEPS = [
    pytest.param(
        where,
        name,
        steps,
        marks=[pytest.mark.slow] * ((where, name, steps) != ("rectified", "DPMSolverPP()", 1)),
    )
    for where in KINDS
    for name in SAMPLERS
    for steps in FEWEST_STEPS
]


@pytest.mark.parametrize(("where", "name", "steps"), FEW_STEPS)
def test_few_steps_hit_a_point_mass_in_the_programs_of_users(where, name, steps):
    """With the default compiler options, the sampler as an argument of jit, and constant times."""
    schedule = SCHEDULES[where]
    problem, sigma = make_problems(schedule)["v"], float(schedule.sigma(1.0))
    start = sigma * jax.random.normal(jax.random.key(0), (IMAGES, 2, 2, 2))
    route = Route(Uniform()(schedule, steps), steps, steps)
    run = optimized_jit(lambda sampler, x: sample_one(problem, schedule, sampler, route, x))
    end = run(SAMPLERS[name], start)
    np.testing.assert_allclose(end[..., 1], POINT.mean, atol=3e-5 * max(1, sigma))


def test_a_sampler_that_first_asks_elsewhere_is_noticed():
    """Heun with churn, treated as if its first call were at (x_t, t), gives NaN and not a wrong answer."""
    (churn,) = ASK_ELSEWHERE_FIRST
    found = sample_all(compile_functions(SCHEDULES["rectified"]), {churn: SAMPLERS[churn]}, elsewhere=())
    assert np.isnan(found.end[churn]["Uniform, 20 steps"]).all()


MISTAKES = {
    "one-step posterior": {"point mass"},
    "noise at the end": {"point mass"},
    "direction not shrunk": {"gaussian"},
    "noise left out": {"gaussian"},
    "noise of one image": {"other batch"},
    "mean of the batch": {"other batch"},
    "axes swapped": {"point mass"},
    "a tenth too much": {"infinite steps"},
    "a tenth too little": {"infinite steps"},
}


def test_every_mistake_is_found_and_nothing_else_is():
    own = {name: Wrong(name) for name in (*MISTAKES, "none")} | {"overstated": Overstated()}
    found = sample_all(compile_functions(SCHEDULES["cosine"]), own)
    rows = [*check_samplers(found, own, "cosine"), *check_infinite_steps(found, own, "cosine")]
    failed = {name: {row.check for row in rows if row.subject == name and not row.passed} for name in own}
    assert failed["none"] == set()
    assert failed["overstated"] == {"order", "every grid"}
    for name, checks in MISTAKES.items():
        assert failed[name] >= checks, name
