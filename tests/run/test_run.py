import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from oracles import quick_jit

import diffusion_jax as dj
from diffusion_jax.run import Network, Run, Sampling, batch
from diffusion_jax.runtime.mesh import MeshShape, make_mesh
from diffusion_jax.sampling.thresholding import dynamic_threshold

LABELS = np.arange(20) % 10


def affine_run(devices, num_classes=10, **sampling) -> Run:
    """A "network" that is a fixed function of each picture, on a mesh of `devices`."""
    network = Network(AFFINE, dj.schedules.Cosine(50), dj.predictions.V(), (4, 4, 1), num_classes)
    params = {"w": np.float32(0.3), "u": np.float32(0.1), "classes": np.linspace(-0.3, 0.3, 11, dtype="f4")}
    settings = Sampling(**({"steps": 5, "sampler": dj.samplers.DDIM(0.5)} | sampling))
    return Run(network, params, settings, make_mesh(MeshShape(), devices))


AFFINE = tiny.Affine()


def unet_run(devices) -> Run:
    model = dj.models.UNet(channels=(8,), blocks=1, attention=(), groups=4, num_classes=10)
    params = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1)), np.zeros(1), np.zeros(1, int))
    # Away from the zeros that blocks start from, so that every layer has a say.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    shaken = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    network = Network(model, dj.schedules.Cosine(50), dj.predictions.V(), (8, 8, 1), 10)
    settings = Sampling(dj.samplers.DPMSolverPP(), steps=4, guidance=1.5)
    return Run(network, jax.tree.unflatten(tree, shaken), settings, make_mesh(MeshShape(), devices))


def test_pictures_do_not_change_with_the_batch_size(devices):
    """Bit for bit: this network treats each picture by itself, with no sum whose order could change."""
    run = affine_run(devices[:1])
    whole = run.sample(jax.random.key(0), 20, labels=LABELS, guidance=2.0)
    assert whole.shape == (20, 4, 4, 1)
    assert len({picture.tobytes() for picture in whole}) == 20
    for size in (1, 7, 64):
        parts = run.sample(jax.random.key(0), 20, labels=LABELS, guidance=2.0, batch_size=size)
        np.testing.assert_array_equal(whole, parts)
    fewer = run.sample(jax.random.key(0), 6, labels=LABELS[:6], guidance=2.0)
    np.testing.assert_array_equal(whole[:6], fewer)


def test_pictures_do_not_change_with_the_devices(devices):
    single, eight = (affine_run(d).sample(jax.random.key(0), 20, labels=LABELS) for d in (devices[:1], devices))
    np.testing.assert_array_equal(single, eight)


def test_a_unet_s_pictures_change_by_rounding_only(devices):
    """Convolutions and matrix products sum in an order that the compiler chooses by shape."""
    single, eight = unet_run(devices[:1]), unet_run(devices)
    labels = np.arange(9)
    whole = single.sample(jax.random.key(0), 9, labels=labels)
    assert whole.std() > 0.1
    for run, size in ((single, 1), (single, 7), (eight, 64)):
        other = run.sample(jax.random.key(0), 9, labels=labels, batch_size=size)
        np.testing.assert_allclose(whole, other, atol=1e-5)


def test_nothing_traced_recompiles(devices):
    run, weaker = affine_run(devices[:1], steps=3), weaker_run(devices[:1])
    draw = {
        "n": 8,
        "labels": LABELS[:8],
        "sampler": dj.samplers.DDIM(0.5),
        "guidance": 2.0,
        "guidance_interval": (0.3, 3.0),
        "guidance_rescale": 0.7,
        "threshold": 0.9,
        "weaker": weaker,
    }
    first = run.sample(jax.random.key(0), **draw)
    compiled = batch.draw._cache_size()
    changes = (
        {"guidance": 3.5},
        {"guidance": np.linspace(0, 7, 8)},
        {"guidance_interval": (0.1, np.inf)},
        {"guidance_rescale": 0.2},
        {"threshold": 0.5},
        {"sampler": dj.samplers.DDIM(0.1)},
        {"labels": LABELS[::-1][:8]},
        {"weaker": dataclasses.replace(weaker, params=run.params)},
    )
    for change in changes:
        other = run.sample(jax.random.key(0), **(draw | change))
        assert np.abs(first - other).max() > 1e-4, change
    run.sample(jax.random.key(1), **draw)
    assert batch.draw._cache_size() == compiled


def composed(run, key, n, wrap) -> np.ndarray:
    """Pictures by `dj.sample` from `wrap(cond, uncond)` of the run's network."""
    params = jax.tree.map(jnp.asarray, run.params)

    @quick_jit
    def draw():
        cond, uncond = (
            dj.denoiser(AFFINE.apply, params, run.schedule, run.prediction, rows) for rows in (LABELS[:n], None)
        )
        shape, sampler = (n, 4, 4, 1), dj.samplers.DDIM(0.5)
        return dj.sample(key, wrap(cond, uncond), run.schedule, shape, sampler=sampler, steps=5)

    return np.clip(draw(), -1, 1)


def test_the_run_as_a_denoiser_is_what_it_draws_with(devices):
    run, scales = affine_run(devices[:1], guidance_interval=(0.3, 3.0)), np.linspace(0.0, 4.0, 6)
    params = jax.tree.map(jnp.asarray, run.params)
    denoise = dataclasses.replace(run, params=params).denoiser(6, labels=LABELS[:6], guidance=scales)
    exact = run.sample(jax.random.key(0), 6, labels=LABELS[:6], guidance=scales)

    def wrap(cond, uncond):
        w = dj.guidance.interval(scales, run.schedule, 0.3, 3.0)
        return dj.clipped(dj.guidance.classifier_free(cond, uncond, w), run.schedule)

    for wrapped in (wrap, lambda cond, uncond: denoise):
        drawn = composed(run, jax.random.key(0), 6, wrapped)
        np.testing.assert_allclose(drawn, exact, rtol=0, atol=2e-5)


def weaker_run(devices) -> Run:
    run = affine_run(devices)
    return dataclasses.replace(run, params=run.params | {"w": np.float32(0.1), "u": np.float32(-0.3)})


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_settings_do_what_the_wrappers_do_in_their_order(threshold, devices):
    """Guidance in its interval, then its contrast, then a threshold: dynamic, or else the clip."""
    run = affine_run(devices[:1], guidance_interval=(0.2, 3.0), guidance_rescale=0.7)
    weaker = weaker_run(devices[:1])
    settings = {"labels": LABELS[:6], "guidance": 2.5, "weaker": weaker, "threshold": threshold}
    own = run.sample(jax.random.key(0), 6, **settings)

    def wrap(cond, uncond):
        params = jax.tree.map(jnp.asarray, weaker.params)
        other = dj.denoiser(AFFINE.apply, params, run.schedule, run.prediction, LABELS[:6])
        guided = dj.guidance.autoguidance(cond, other, dj.guidance.interval(2.5, run.schedule, 0.2, 3.0))
        guided = dj.guidance.rescale(guided, cond, run.schedule, 0.7)
        if threshold:
            return dynamic_threshold(guided, run.schedule, threshold)
        return dj.clipped(guided, run.schedule)

    exact = composed(run, jax.random.key(0), 6, wrap)
    np.testing.assert_allclose(own, exact, rtol=0, atol=2e-5)


def test_a_weaker_run_guides_without_labels_too(devices):
    run, weaker = affine_run(devices[:1]), weaker_run(devices[:1])
    own = run.sample(jax.random.key(0), 6, guidance=2.5, weaker=weaker)

    def wrap(cond, uncond):
        params = jax.tree.map(jnp.asarray, weaker.params)
        other = dj.denoiser(AFFINE.apply, params, run.schedule, run.prediction)
        return dj.clipped(dj.guidance.autoguidance(uncond, other, 2.5), run.schedule)

    exact = composed(run, jax.random.key(0), 6, wrap)
    np.testing.assert_allclose(own, exact, rtol=0, atol=2e-5)


def test_each_picture_may_have_its_own_guidance(devices):
    """As if each were drawn with its scale for all, whatever the batches."""
    run, labels = affine_run(devices[:1]), LABELS[:9]
    scales = np.array([2.0, 0.0, 3.5, 2.0, 1.0, -1.0, 3.5, 0.5, 7.0])
    whole = run.sample(jax.random.key(0), 9, labels=labels, guidance=scales)
    for scale in set(scales) - {1.0}:
        alone = run.sample(jax.random.key(0), 9, labels=labels, guidance=scale)
        np.testing.assert_array_equal(whole[scales == scale], alone[scales == scale])
    parts = run.sample(jax.random.key(0), 9, labels=labels, guidance=scales, batch_size=4)
    np.testing.assert_array_equal(whole, parts)


class Guessing(tiny.Affine):
    """It leans on its own guess of the step before."""

    self_condition = True

    def apply(self, params, x, time, labels=None, x0_hat=None):
        guess = 0.0 if x0_hat is None else x0_hat
        return super().apply(params, x, time, labels) - 0.2 * guess


def test_a_network_with_its_own_guess_is_given_it_by_every_sampler(devices):
    run, model = affine_run(devices[:1], steps=4, clip=False), Guessing()
    guessing = dataclasses.replace(run, network=dataclasses.replace(run.network, model=model))
    draw = {"n": 4, "labels": LABELS[:4], "guidance": 2.0}
    found = guessing.sample(jax.random.key(0), **draw)
    assert np.abs(found - run.sample(jax.random.key(0), **draw)).max() > 1e-3
    wrapped = dj.samplers.SelfConditioned(run.sampling.sampler)
    np.testing.assert_array_equal(found, guessing.sample(jax.random.key(0), sampler=wrapped, **draw))
    with pytest.raises(ValueError, match="weaker: its self_condition is True, this run's is False"):
        run.sample(jax.random.key(0), weaker=guessing, **draw)


class Plain(tiny.Affine):
    """It says what it does not do, as the library's own networks do."""

    self_condition = learn_variance = False


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (dj.samplers.SelfConditioned(dj.samplers.DDPM()), "takes no guesses of its own; use DDPM"),
        (
            dj.samplers.DDPM("learned"),
            'DDPM.variance="learned".: this network learns no variance; use "small"',
        ),
    ],
)
def test_a_sampler_that_the_network_says_it_cannot_serve_is_refused(sampler, message, devices):
    run = affine_run(devices[:1])
    plain = dataclasses.replace(run, network=dataclasses.replace(run.network, model=Plain()))
    with pytest.raises(ValueError, match=message) as error:
        plain.sample(jax.random.key(0), 1, sampler=sampler)
    assert "\n" not in str(error.value)


class Spread(tiny.Affine):
    """Twice the channels: the prediction, and as much between the variances as its parameter says."""

    learn_variance = True

    def apply(self, params, x, time, labels=None):
        prediction = super().apply(params, x, time, labels)
        return jnp.concatenate([prediction, params["f"] + 0 * prediction], -1)


SPREAD = Spread()


@pytest.mark.parametrize(("f", "variance"), [(-1.0, "small"), (1.0, "large")])
def test_a_learned_variance_stays_what_it_is_under_guidance(f, variance, devices):
    run = affine_run(devices[:1])
    network, params = dataclasses.replace(run.network, model=SPREAD), run.params | {"f": np.float32(f)}
    learned = dataclasses.replace(run, network=network, params=params)
    draw = {"n": 4, "labels": LABELS[:4], "guidance": 3.0, "guidance_rescale": 0.5, "threshold": 0.9}
    found = learned.sample(jax.random.key(0), sampler=dj.samplers.DDPM("learned"), **draw)
    exact = run.sample(jax.random.key(0), sampler=dj.samplers.DDPM(variance), **draw)
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-5)


def test_guidance_and_labels_have_an_effect(devices):
    run = affine_run(devices[:1])
    draw = {"key": jax.random.key(0), "n": 4, "clip": False}
    cond = run.sample(labels=[3] * 4, **draw)
    others = [
        run.sample(labels=[4] * 4, **(draw | {"key": jax.random.key(0)})),
        run.sample(labels=[3] * 4, guidance=2.0, **(draw | {"key": jax.random.key(0)})),
        run.sample(**(draw | {"key": jax.random.key(0)})),
        run.sample(labels=[3] * 4, **(draw | {"key": jax.random.key(1)})),
    ]
    assert all(np.abs(cond - other).max() > 1e-3 for other in others)


def test_what_is_not_given_is_the_run_s_own(devices):
    run = affine_run(devices[:1], guidance=2.0)
    own = run.sample(jax.random.key(0), 4, labels=[1] * 4)
    given = run.sample(
        jax.random.key(0),
        4,
        labels=[1] * 4,
        guidance=2.0,
        steps=5,
        sampler=dj.samplers.DDIM(0.5),
        grid=dj.grids.Uniform(),
        clip=True,
    )
    np.testing.assert_array_equal(own, given)


def test_frames_end_in_the_result(devices):
    run = affine_run(devices[:1])
    x, frames = run.sample(jax.random.key(0), 5, labels=[1] * 5, keep=3, batch_size=2)
    assert frames.x.shape == (3, 5, 4, 4, 1)
    assert frames.x0 is None
    np.testing.assert_array_equal(np.clip(frames.x[-1], -1, 1), x)
    assert frames.times[0] == 1
    assert frames.times[-1] == 0


def test_frames_tell_what_the_network_makes_of_each_state(devices):
    """Of an affine network that predicts v: x0 = alpha x_t - sigma v."""
    run = affine_run(devices[:1], sampler=dj.samplers.DDIM(), clip=False)
    x, frames = run.sample(jax.random.key(0), 5, labels=[1] * 5, keep=6, keep_x0=True, batch_size=2)
    label = run.params["classes"][1]
    for t, x_t, x0 in zip(frames.times[:-1], frames.x, frames.x0, strict=False):
        alpha, sigma = float(run.schedule.alpha(t)), float(run.schedule.sigma(t))
        v = run.params["w"] * x_t + run.params["u"] * t + label
        np.testing.assert_allclose(x0, alpha * x_t - sigma * v, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(np.clip(frames.x0[-1], -1, 1), x)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_the_noise_of_a_key_is_where_its_pictures_start(eta, devices):
    run = affine_run(devices[:1], sampler=dj.samplers.DDIM(eta))
    key, draw = jax.random.key(0), {"labels": LABELS[:9], "keep": 2}
    noise = run.noise(key, 9)
    assert noise.shape == (9, 4, 4, 1)
    assert noise.dtype == np.float32
    x, frames = run.sample(key, 9, **draw)
    again, _ = run.sample(key, 9, noise=noise, **draw)
    np.testing.assert_array_equal(x, again)
    np.testing.assert_allclose(frames.x[0], noise * float(run.schedule.sigma(1.0)), rtol=1e-6)


def test_given_noise_depends_on_neither_batch_nor_devices(devices):
    single, eight = affine_run(devices[:1]), affine_run(devices)
    noise = single.noise(jax.random.key(5), 20)
    whole = single.sample(jax.random.key(0), 20, labels=LABELS, noise=noise)
    for run, size in ((single, 7), (eight, None)):
        other = run.sample(jax.random.key(0), 20, labels=LABELS, noise=noise, batch_size=size)
        np.testing.assert_array_equal(whole, other)
    last = single.sample(jax.random.key(0), 20, labels=LABELS, noise=noise[::-1])
    assert (np.abs(whole - last).max((1, 2, 3)) > 1e-3).all()


def test_noise_of_no_pictures_is_refused(devices):
    with pytest.raises(ValueError, match="n = 0: must be at least 1"):
        affine_run(devices[:1]).noise(jax.random.key(0), 0)


def test_pictures_are_in_range(devices):
    run = affine_run(devices[:1])
    run = dataclasses.replace(run, params=run.params | {"w": np.float32(-5.0)})
    x = run.sample(jax.random.key(0), 4, labels=[0] * 4, clip=False)
    assert x.dtype == np.float32
    assert np.abs(x).max() == 1.0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n": 0}, "n = 0"),
        ({"labels": [10, 0]}, "labels contain 10: must be from 0 to 9"),
        ({"labels": [-1, 0]}, "labels contain -1"),
        ({"labels": [1]}, "need 2 integers"),
        ({"labels": [1.5, 2.0]}, "need 2 integers"),
        ({"guidance": 2.0}, "needs labels"),
        ({"guidance": float("nan"), "labels": [1, 2]}, "guidance = nan"),
        ({"guidance": [2.0, np.inf], "labels": [1, 2]}, "guidance = inf: must be finite"),
        ({"guidance": [2.0] * 3, "labels": [1, 2]}, r"guidance has shape \(3,\): give one number, or 2"),
        ({"guidance": [1.0, 3.0]}, "guidance = 3.0: needs labels"),
        ({"guidance_interval": (0.3,)}, r"guidance_interval = \(0.3,\): give two noise levels, low < high"),
        ({"guidance_interval": (3.0, 0.3)}, r"guidance_interval = \(3.0, 0.3\): give two noise levels"),
        ({"guidance_interval": (0.3, 3.0)}, r"guidance_interval = \(0.3, 3.0\): nothing is guided; give lab"),
        ({"guidance_rescale": 0.5, "labels": [1, 2]}, "guidance_rescale = 0.5: nothing is guided"),
        ({"guidance_rescale": 1.5}, r"guidance_rescale = 1.5: must be in \[0, 1\]"),
        ({"threshold": -0.5}, r"threshold = -0.5: must be in \[0, 1\]"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"batch_size": 2.0}, "batch_size = 2.0: must be a whole number"),
        ({"n": "2"}, "n = '2': must be a whole number"),
        ({"key": 0}, r"key = 0: give one such as jax.random.key\(0\)"),
        ({"key": jax.random.split(jax.random.key(0), 2)}, r"key has shape \(2,\): give one key"),
        ({"sampler": "DDIM"}, r"sampler = 'DDIM': must be of type Sampler, such as DDIM\(\)"),
        ({"sampler": dj.samplers.DDIM}, "sampler = .*DDIM.*: must be of type Sampler"),
        ({"grid": "Uniform"}, "grid = 'Uniform': must be of type Grid"),
        ({"steps": 4.0}, "steps = 4.0: must be a whole number"),
        ({"clip": "no"}, "clip = 'no': must be of type bool, such as True"),
        ({"threshold": "0.9"}, "threshold = '0.9': must be a number"),
        ({"guidance_interval": 0.5}, r"guidance_interval = \(0.5,\): give two"),
        ({"guidance_interval": ("a", 1.0)}, r"guidance_interval = \('a', 1.0\): must be a number"),
        ({"threshold": [0.9]}, r"threshold has shape \(1,\): give one number"),
        ({"guidance_rescale": np.ones(2)}, r"guidance_rescale has shape \(2,\)"),
        ({"guidance": 1e39, "labels": [1, 2]}, r"guidance = 1e\+39: must be finite"),
        ({"keep": [2]}, r"keep = \[2\]: must be a whole number"),
        ({"guidance": "2", "labels": [1, 2]}, "guidance = '2': must be a number"),
        ({"weaker": "runs/small", "guidance": 2.0}, "weaker = 'runs/small': must be of type Run"),
        ({"keep": "all"}, "keep = 'all': must be a whole number"),
        ({"steps": 0}, "steps = 0: must be at least 1"),
        ({"steps": 51}, "steps = 51: the schedule has only 50 times"),
        ({"keep": 1}, "keep = 1"),
        ({"noise": np.zeros((3, 4, 4, 1))}, r"noise has shape \(3, 4, 4, 1\): need \(2, 4, 4, 1\)"),
        ({"noise": np.full((2, 4, 4, 1), np.nan)}, "noise is not finite"),
    ],
)
def test_bad_input_is_refused_in_one_line(kwargs, message, devices):
    with pytest.raises(ValueError, match=message) as error:
        affine_run(devices[:1]).sample(**({"key": jax.random.key(0), "n": 2} | kwargs))
    assert "\n" not in str(error.value)


def test_labels_for_a_network_without_classes_are_refused(devices):
    with pytest.raises(ValueError, match="trained without classes"):
        affine_run(devices[:1], num_classes=0).sample(jax.random.key(0), 1, labels=[1])


def test_a_network_that_always_had_labels_is_not_asked_to_do_without(devices):
    run = affine_run(devices[:1])
    always = dataclasses.replace(run, network=dataclasses.replace(run.network, unlabelled=False))
    with pytest.raises(ValueError, match="guidance = 2.0: this network was never trained without labels; use"):
        always.sample(jax.random.key(0), 2, labels=[1, 2], guidance=2.0)
    with pytest.raises(ValueError, match="labels: this network was never trained without them; give 2"):
        always.sample(jax.random.key(0), 2)
    x = always.sample(jax.random.key(1), 2, labels=[1, 2])
    np.testing.assert_array_equal(x, run.sample(jax.random.key(1), 2, labels=[1, 2]))


def test_a_weaker_run_that_does_not_fit_is_refused_in_one_line(devices):
    run, draw = affine_run(devices[:1]), {"n": 2, "labels": [1, 2], "guidance": 2.0}
    for change, message in (
        (
            {"image_shape": (8, 8, 1)},
            r"weaker: its image_shape is \(8, 8, 1\), this run's is \(4, 4, 1\); use",
        ),
        ({"num_classes": 0}, "weaker: its num_classes is 0, this run's is 10"),
        ({"schedule": dj.schedules.Cosine(60)}, r"weaker: its schedule is Cosine\(steps=60"),
    ):
        weaker = dataclasses.replace(run, network=dataclasses.replace(run.network, **change))
        with pytest.raises(ValueError, match=message):
            run.sample(jax.random.key(0), weaker=weaker, **draw)
    with pytest.raises(ValueError, match="weaker: give the scale of guidance with it"):
        run.sample(jax.random.key(0), 2, labels=[1, 2], weaker=run)


def test_guidance_of_a_config_limits_nothing_where_pictures_have_no_class(devices):
    run = affine_run(devices[:1], guidance=3.0, guidance_interval=(0.3, 3.0), guidance_rescale=0.5)
    free = affine_run(devices[:1]).sample(jax.random.key(0), 3)
    np.testing.assert_allclose(run.sample(jax.random.key(0), 3), free, rtol=0, atol=1e-6)
