"""Figures of a run, each compared with images that are known otherwise."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax import figures
from diffusion_jax.data.sources import DataError, Digits
from diffusion_jax.run import Network, Run, Sampling
from diffusion_jax.runtime.mesh import MeshShape, make_mesh

AFFINE = tiny.Affine()
NAMES = tuple("abcdefghij")


def a_run(devices, schedule=dj.schedules.Cosine(50), num_classes=10, shape=(8, 8, 1), **config) -> Run:
    """Of a "network" that is a fixed function of each image; DDIM, which adds no noise."""
    network = Network(AFFINE, schedule, dj.predictions.V(), shape, num_classes)
    params = {"w": np.float32(0.3), "u": np.float32(0.1), "classes": np.linspace(-0.9, 0.9, 11, dtype="f4")}
    settings = Sampling(dj.samplers.DDIM(), steps=4)
    mesh = make_mesh(MeshShape(), devices[:1])
    return Run(network, params, settings, mesh, NAMES, {"data": {"name": "Digits"}} | config)


def key():
    return jax.random.key(7)


def assert_same_figure(a, b) -> None:
    """Up to one level of rounding."""
    a, b = np.asarray(a).astype(int), np.asarray(b).astype(int)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 1


def test_a_strip_ends_in_the_samples_and_begins_with_noise(devices):
    run = a_run(devices)
    draw = {"labels": [1, 2, 3], "steps": 5}
    x, kept = run.sample(key(), 3, keep=6, keep_x0=True, **draw)
    np.testing.assert_array_equal(np.clip(kept.x[-1], -1, 1), x)
    expected = dj.images.strip(kept.x, kept.x0, [1, 0.8, 0.6, 0.4, 0.2, 0], ["b", "c", "d"])
    assert_same_figure(figures.strip(run, key(), 3, **draw), expected)


@pytest.mark.parametrize(("given", "states"), [({"steps": 45}, 40), ({"frames": 3}, 3)])
def test_states_are_40_or_the_number_asked_for(given, states, devices):
    assert figures.trajectory(a_run(devices), key(), 2, **given).x.shape == (states, 2, 8, 8, 1)


@pytest.mark.parametrize("schedule", [dj.schedules.Cosine(50), dj.schedules.RectifiedFlow()], ids=str)
def test_forward_is_the_mixture_of_image_and_noise(schedule, devices):
    run = a_run(devices, schedule)
    x0 = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    eps = run.noise(key(), 2)
    times = np.linspace(0, 1, 6)
    states = [float(schedule.alpha(t)) * x0 + float(schedule.sigma(t)) * eps for t in times]
    expected = dj.images.strip(np.stack(states), times=times, labels=["c", "a"])
    assert_same_figure(figures.forward(run, key(), x0, frames=6, labels=[2, 0]), expected)


def test_states_of_more_than_unit_variance_are_scaled_down(devices):
    """Karras' x_1 = x0 + 80 eps looks like eps; a state of less variance stays as it is."""
    schedule = dj.schedules.Karras()
    eps = a_run(devices).noise(key(), 2)
    states = np.stack([80 * eps, 0.5 * eps])
    scaled = figures.normalize_states(schedule, states, np.array([1.0, 0.0]))
    np.testing.assert_allclose(scaled, np.stack([eps, 0.5 * eps]), rtol=1e-3)
    flow = figures.normalize_states(dj.schedules.RectifiedFlow(), states, np.array([0.5, 0.2]))
    np.testing.assert_array_equal(flow, states)


def test_held_out_images_are_those_of_the_data(devices):
    x, labels = figures.held_out_images(a_run(devices), 180)
    _, source = Digits().open()
    assert x.dtype == np.float32
    np.testing.assert_array_equal(dj.pixels.to_uint8(x), [row["image"] for row in source.rows])
    np.testing.assert_array_equal(labels, [row["label"] for row in source.rows])
    few, their = figures.held_out_images(a_run(devices), 3)
    np.testing.assert_array_equal(few[[0, -1]], x[[0, -1]])
    np.testing.assert_array_equal(their[[0, -1]], labels[[0, -1]])


@pytest.mark.parametrize(
    ("n", "changed", "message"),
    [
        (181, {}, "n = 181: must be from 1 to 180, the number of held-out images"),
        (0, {}, "n = 0: must be from 1 to 180"),
        (1, {"shape": (4, 4, 1)}, r"images of \(8, 8, 1\), the network was trained on \(4, 4, 1\)"),
        (1, {"data": {"name": "NPZ", "path": "gone.npz"}}, "gone.npz"),
    ],
)
def test_missing_or_changed_data_are_refused_in_one_line(n, changed, message, devices):
    with pytest.raises((DataError, OSError), match=message) as error:
        figures.held_out_images(a_run(devices, **changed), n)
    assert "\n" not in str(error.value)


def test_a_run_without_a_config_has_no_data(devices):
    run = a_run(devices)
    run.config.clear()
    with pytest.raises(DataError, match="run.config has no data section"):
        figures.held_out_images(run, 1)


def test_interpolation_goes_from_one_sample_to_the_next(devices):
    run = a_run(devices)
    samples = run.sample(key(), 6, labels=[4, 4, 5, 5, 6, 6])
    expected = dj.images.table(samples.reshape(3, 2, 8, 8, 1), ["e", "f", "g"], [0, 1])
    assert_same_figure(figures.interpolation(run, key(), 3, frames=2, labels=[4, 5, 6]), expected)


def test_the_noise_of_the_sampler_is_the_same_along_a_row(devices, monkeypatch):
    """With one start for a whole row, a stochastic sampler gives one image."""
    monkeypatch.setattr(figures, "slerp", lambda a, b, weight: a)
    run = a_run(devices, num_classes=0)
    figure = figures.interpolation(run, key(), 2, frames=3, sampler=dj.samplers.DDPM())
    tiles = np.asarray(figure)[-196:, 2:].reshape(2, 98, 3, 98, 3)[:, :96, :, :96]
    assert tiles.std() > 10
    np.testing.assert_array_equal(tiles[:, :, 0], tiles[:, :, 1])
    np.testing.assert_array_equal(tiles[:, :, 0], tiles[:, :, 2])
    assert (tiles[0] != tiles[1]).any()


def test_guidance_has_the_unconditional_and_the_conditional_model_in_their_columns(devices):
    run = a_run(devices)
    rows = np.array([0, 9, 4])
    free, bound = run.sample(key(), 3), run.sample(key(), 3, labels=rows, guidance=1.0)
    x = np.stack([free, bound, bound], 1)
    figure = figures.guidance(run, key(), [0, 1, 1], labels=rows)
    assert_same_figure(figure, dj.images.table(x, ["a", "j", "e"], ["w = 0", "w = 1", "w = 1"]))


@pytest.mark.slow
def test_guidance_keeps_its_interval_and_takes_another(devices):
    run, rows = a_run(devices), np.array([2, 7])
    guided = dj.Guidance(1.0, interval=(0.5, 2.0))
    x = run.sample(key(), 2, labels=rows, guidance=dj.Guidance(3.0, interval=(0.5, 2.0)))
    expected = dj.images.table(x[:, None], ["c", "h"], ["w = 3"])
    assert_same_figure(figures.guidance(run, key(), [3], labels=rows, guidance=guided), expected)
    sampling = dataclasses.replace(run.sampling, guidance=guided)
    assert_same_figure(figures.guidance(run, key(), [3], labels=rows, sampling=sampling), expected)
    plain = figures.guidance(run, key(), [3], labels=rows)
    assert (np.asarray(plain) != np.asarray(expected)).any()


def test_guidance_shows_the_first_ten_classes_at_four_scales(devices):
    with_names = figures.guidance(a_run(devices), key())
    assert with_names.height == 2 + 14 + 10 * 98
    assert with_names.width > 4 * 98


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda run: figures.trajectory(run, key(), 2, frames=6), "frames = 6: 4 steps have 5 times; use at most 5"),
        (lambda run: figures.strip(run, key(), 2, frames=4, steps=2), "frames = 4: 2 steps have 3"),
        (lambda run: figures.strip(run, key(), 2, frames=1), "frames = 1: must be an integer >= 2"),
        (lambda run: figures.strip(run, key(), 2, steps=0), "steps = 0"),
        (lambda run: figures.forward(run, key(), np.zeros((1, 8, 8, 1)), frames=1), "frames = 1"),
        (lambda run: figures.interpolation(run, key(), 2, frames=0), "frames = 0"),
        (lambda run: figures.interpolation(run, key(), 0), "n = 0"),
        (lambda run: figures.guidance(run, key(), []), r"scales = \[\]: must be one or more finite numbers"),
        (lambda run: figures.guidance(run, key(), [1, np.inf]), "finite numbers"),
        (lambda run: figures.guidance(run, key(), labels=[10]), "labels contain 10"),
    ],
)
def test_bad_input_is_refused_in_one_line(draw, message, devices):
    with pytest.raises(ValueError, match=message) as error:
        draw(a_run(devices))
    assert "\n" not in str(error.value)


def test_guidance_needs_classes(devices):
    with pytest.raises(ValueError, match="guidance: this network was trained without classes"):
        figures.guidance(a_run(devices, num_classes=0), key())
