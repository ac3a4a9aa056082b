"""Inversion on Gaussian data, where the flow to the noise is known, and reconstruction on arbitrary data."""

from functools import cache

import jax
import numpy as np
import pytest
from compiling import optimized_jit
from oracles import SCHEDULES, Gaussian, exact_denoiser, predictions_for, quick_jit, scales, side_by_side

import diffusion_jax as dj
from diffusion_jax.sampling.editing import decode, interpolate, invert, reconstruct, slerp

DATA = Gaussian(0.3, 0.5)


@cache
def images(channels: int = 1, n: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (DATA.mean + DATA.std * rng.normal(size=(n, 3, 2, channels))).astype(np.float32)


def exact(name, predictions=("v",)):
    schedule = SCHEDULES[name]
    return side_by_side([exact_denoiser(DATA, schedule, predictions_for(name)[p]) for p in predictions])


def inverted(name, x, **settings):
    return np.asarray(quick_jit(lambda x: invert(exact(name), SCHEDULES[name], x, **settings))(x))


@pytest.mark.parametrize(("name", "iterations"), [("rectified", 1), ("karras", 6)])
def test_the_latent_is_the_end_of_the_flow_to_first_order(name, iterations):
    schedule = SCHEDULES[name]
    wanted = DATA.flow(images(), scales(schedule, 0.0), scales(schedule, 1.0))

    def latents(x):
        return [invert(exact(name), schedule, x, steps=n, iterations=iterations) for n in (30, 60)]

    errors = [np.abs(z - wanted).max() for z in quick_jit(latents)(images())]
    assert 1.7 < errors[0] / errors[1] < 2.4, errors
    assert errors[1] < 0.1 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero_terminal", "karras"])
def test_with_many_iterations_decoding_undoes_it_for_any_number_of_steps(name):
    """The step solves DDIM's step exactly, so that nothing is lost even in 4 steps; one channel per prediction."""
    predictions = tuple(predictions_for(name))
    denoise, schedule, x = exact(name, predictions), SCHEDULES[name], images(len(predictions))
    there_and_back = quick_jit(lambda x: reconstruct(denoise, schedule, x, steps=4, iterations=150))
    np.testing.assert_allclose(there_and_back(x), x, rtol=0, atol=2e-3)


def test_one_iteration_comes_back_to_second_order():
    def back(x, steps):
        return reconstruct(exact("rectified"), SCHEDULES["rectified"], x, steps=steps, iterations=1)

    x = quick_jit(lambda x: (back(x, 20), back(x, 40)))(images())
    errors = [np.abs(again - images()).max() for again in x]
    assert 3 < errors[0] / errors[1] < 5, errors
    assert errors[1] < 0.02


def test_gaussian_images_become_standard_noise():
    z = inverted("rectified", np.asarray(DATA.mean + DATA.std * np.random.default_rng(1).normal(size=(64, 8, 8, 1))))
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=5 / 64 + 0.02)


def test_each_iteration_is_one_call_and_no_call_is_on_data():
    seen = []

    def denoise(x_t, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t, ordered=True)
        return exact("rectified")(x_t, t)

    jax.block_until_ready(invert(denoise, SCHEDULES["rectified"], images(), steps=3, iterations=2))
    jax.effects_barrier()
    np.testing.assert_allclose(seen, np.repeat([1 / 3, 2 / 3, 1], 2), atol=1e-3)


def test_images_do_not_depend_on_their_batch():
    """Bit for bit, with the compiler options of users."""
    invert_all = optimized_jit(lambda x: invert(exact("rectified"), SCHEDULES["rectified"], x, steps=5))
    np.testing.assert_array_equal(invert_all(images()[1:3]), invert_all(images())[1:3])


def test_interpolation_is_the_flow_of_the_arc_between_the_latents():
    schedule = SCHEDULES["rectified"]
    at_0, at_1 = scales(schedule, 0.0), scales(schedule, 1.0)
    a, b = images()[:2], images()[2:]
    compiled = []

    @quick_jit
    def go(a, b, weights):
        compiled.append(1)
        return interpolate(exact("rectified"), schedule, a, b, weights, steps=100)

    for first, second, weights in ((a, b, np.float32([0.0, 0.3, 1.0])), (b, -a, np.float32([0.9, 0.5, 0.2]))):
        latents = [DATA.flow(x, at_0, at_1) for x in (first, second)]
        between = go(first, second, weights)
        assert between.shape == (3, 2, 3, 2, 1)
        for weight, x in zip(weights, between, strict=True):
            wanted = DATA.flow(slerp(*latents, weight), at_1, at_0)
            np.testing.assert_allclose(x, wanted, rtol=0, atol=0.02)
    assert len(compiled) == 1  # for other images and weights too


def test_latents_are_decoded_from_where_the_grid_begins():
    """`Leading` starts below t = 1, and so do inversion and decoding."""
    grid, schedule = dj.grids.Leading(), SCHEDULES["cosine"]
    z = inverted("cosine", images(), steps=10, grid=grid, iterations=40)
    x = decode(exact("cosine"), schedule, z, steps=10, grid=grid)
    np.testing.assert_allclose(x, images(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, s: invert(d, s, np.ones(3)), r"images has shape \(3,\): must be \[B, ...\]"),
        (lambda d, s: decode(d, s, np.ones(3)), r"latents has shape \(3,\)"),
        (lambda d, s: invert(d, s, images(), iterations=0), "iterations = 0: must be an integer >= 1"),
        (lambda d, s: reconstruct(d, s, images(), steps=0), "steps = 0"),
        (
            lambda d, s: interpolate(d, s, images(), images()[:1], [0.5]),
            r"b has shape \(1, 3, 2, 1\): must be \[4, 3, 2, 1\]",
        ),
        (lambda d, s: interpolate(d, s, images(), images(), 0.5), r"weights has shape \(\): must be a list of numbers"),
        (lambda d, s: interpolate(d, s, images(), images(), []), r"weights has shape \(0,\)"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(exact("cosine"), SCHEDULES["cosine"])
