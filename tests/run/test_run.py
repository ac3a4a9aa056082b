"""A run's images: what they depend on, and that the settings do what the wrappers of `guidance` do."""

import dataclasses
import functools
import gc
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from oracles import quick_jit
from slow import slow

import diffusion_jax as dj
from diffusion_jax.run import Network, Run, Sampling, batch
from diffusion_jax.runtime.mesh import MeshShape, make_mesh

LABELS = np.arange(20) % 10
KEY = jax.random.key(0)


class Elementwise(tiny.Affine):
    """A network that treats each image by itself, with a nonlinearity and no sum whose order could change."""

    def apply(self, params, x, time, labels=None):
        return jnp.tanh(super().apply(params, x, time, labels))


AFFINE, ELEMENTWISE = tiny.Affine(), Elementwise()
PARAMS = {"w": np.float32(0.3), "u": np.float32(0.1), "classes": np.linspace(-0.3, 0.3, 11, dtype="f4")}
WEAK_PARAMS = PARAMS | {"w": np.float32(0.1), "u": np.float32(-0.3)}


def make_run(devices, model=AFFINE, num_classes=10, params=PARAMS, **sampling) -> Run:
    """A run on a mesh of `devices`, by default with 3 steps of DDIM(0.5)."""
    network = Network(model, dj.schedules.Cosine(50), dj.predictions.V(), (4, 4, 1), num_classes)
    settings = Sampling(**({"steps": 3, "sampler": dj.samplers.DDIM(0.5)} | sampling))
    return Run(network, params, settings, make_mesh(MeshShape(), devices))


def random_unet():
    """A network and its parameters. Blocks start at zeros; here every layer has an effect."""
    model = dj.models.UNet(channels=(4,), blocks=1, attention=(), groups=2, num_classes=10)
    shapes = jax.eval_shape(model.init, KEY, np.zeros((1, 4, 4, 1)), np.zeros(1), np.zeros(1, int))
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def run(devices) -> Run:
    return make_run(devices[:1])


@pytest.fixture(scope="module")
def weaker(devices) -> Run:
    return make_run(devices[:1], params=WEAK_PARAMS)


def with_network(run: Run, **changes) -> Run:
    return dataclasses.replace(run, network=dataclasses.replace(run.network, **changes))


# An image depends on (params, settings, key, i, label, scale) alone


def assert_images_do_not_depend_on_the_batch(devices):
    """Bit for bit: other batch sizes, fewer images, other devices and the key's own noise passed in."""
    run = make_run(devices[:1], ELEMENTWISE)
    draw = {"labels": LABELS, "guidance": 2.0}
    whole = run.sample(KEY, 20, **draw)
    assert whole.shape == (20, 4, 4, 1)
    assert len({image.tobytes() for image in whole}) == 20
    for size in (1, 6):
        np.testing.assert_array_equal(whole, run.sample(KEY, 20, batch_size=size, **draw))
    np.testing.assert_array_equal(whole[:6], run.sample(KEY, 6, labels=LABELS[:6], guidance=2.0))
    np.testing.assert_array_equal(whole, make_run(devices, ELEMENTWISE).sample(KEY, 20, **draw))
    np.testing.assert_array_equal(whole, run.sample(KEY, 20, noise=run.noise(KEY, 20), **draw))


def test_images_do_not_depend_on_the_batch_with_the_default_options(devices, default_options):
    assert_images_do_not_depend_on_the_batch(devices)


class Recording(Elementwise):
    """It notes the batch sizes that it is traced with. No two are equal, so that each is traced."""

    __eq__, __hash__ = object.__eq__, object.__hash__

    def __init__(self):
        self.sizes = set()

    def apply(self, params, x, time, labels=None):
        self.sizes.add(len(x))
        return super().apply(params, x, time, labels)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("n", "batch_size"), [(1, None), (3, 1), (3, 2)])
def test_no_device_gets_a_single_image(n, batch_size, count, devices):
    """The compiler would drop the dimension of 1, and then round differently."""
    recording = Recording()
    make_run(devices[:count], recording).sample(KEY, n, labels=LABELS[:n], batch_size=batch_size)
    assert recording.sizes == {2}


@pytest.mark.slow
def test_images_of_a_unet_change_by_rounding_only(devices):
    """Convolutions and matrix products sum in an order that the compiler chooses by shape."""
    model, params = random_unet()
    settings = {"sampler": dj.samplers.DPMSolverPP(), "guidance": 1.5, "params": params}
    single, eight = make_run(devices[:1], model, **settings), make_run(devices, model, **settings)
    whole = single.sample(KEY, 9, labels=LABELS[:9])
    assert whole.std() > 0.1
    for run, size in ((single, 4), (eight, 64)):
        np.testing.assert_allclose(whole, run.sample(KEY, 9, labels=LABELS[:9], batch_size=size), atol=1e-5)


def test_noise_passed_in_depends_on_neither_batch_nor_devices(devices):
    single, eight = make_run(devices[:1], ELEMENTWISE), make_run(devices, ELEMENTWISE)
    noise = single.noise(jax.random.key(5), 20)
    whole = single.sample(KEY, 20, labels=LABELS, noise=noise)
    for run, size in ((single, 7), (eight, None)):
        np.testing.assert_array_equal(whole, run.sample(KEY, 20, labels=LABELS, noise=noise, batch_size=size))
    reversed_noise = single.sample(KEY, 20, labels=LABELS, noise=noise[::-1])
    assert (np.abs(whole - reversed_noise).max((1, 2, 3)) > 1e-3).all()


def assert_each_image_has_its_own_guidance(devices):
    """Bit for bit as if each were generated with its scale for all, whatever the batches."""
    run, labels = make_run(devices[:1], ELEMENTWISE), LABELS[:9]
    scales = np.array([2.0, 0.0, 3.5, 2.0, 1.0, -1.0, 3.5, 0.5, 7.0])
    whole = run.sample(KEY, 9, labels=labels, guidance=scales)
    for scale in set(scales):
        same = run.sample(KEY, 9, labels=labels, guidance=scale)
        np.testing.assert_array_equal(whole[scales == scale], same[scales == scale])
    np.testing.assert_array_equal(whole, run.sample(KEY, 9, labels=labels, guidance=scales, batch_size=4))


@pytest.mark.slow
def test_each_image_may_have_its_own_guidance_with_the_default_options(devices, default_options):
    assert_each_image_has_its_own_guidance(devices)


@pytest.mark.slow
@pytest.mark.parametrize("others", [2.0, 0.0])
def test_a_unet_s_image_without_guidance_does_not_feel_the_guidance_of_others(devices, default_options, others):
    model, params = random_unet()
    run, labels = make_run(devices[:1], model, params=params), LABELS[:6]
    scales = np.array([1.0, others, 1.0, others, others, 1.0])
    mixed, frames = run.sample(KEY, 6, labels=labels, guidance=scales, keep=2)
    plain, plain_frames = run.sample(KEY, 6, labels=labels, guidance=1.0, keep=2)
    np.testing.assert_array_equal(mixed[scales == 1], plain[scales == 1])
    np.testing.assert_array_equal(frames.x[:, scales == 1], plain_frames.x[:, scales == 1])
    assert (np.abs(mixed - plain)[scales != 1].max((1, 2, 3)) > 1e-3).all()


def assert_guidance_of_one_is_the_conditional_model(run):
    """At the same network calls: the run leaves guidance out. And within guided images, to the bit of x0 and eps."""
    plain = run.sample(KEY, 4, labels=LABELS[:4])
    np.testing.assert_array_equal(plain, run.sample(KEY, 4, labels=LABELS[:4], guidance=1.0))
    params = jax.tree.map(jnp.asarray, run.params)

    @jax.jit
    def both(x, scale):
        cond, uncond = (
            dj.denoiser(ELEMENTWISE.apply, params, run.schedule, run.prediction, rows) for rows in (LABELS[:4], None)
        )
        return cond(x, 0.5), dj.guidance.classifier_free(cond, uncond, scale)(x, 0.5)

    cond, guided = both(jnp.asarray(run.noise(KEY, 4)), jnp.array([1.0, 2.0, 1.0, 1.0]))
    for a, b in ((cond.x0, guided.x0), (cond.eps, guided.eps)):
        np.testing.assert_array_equal(a[::2], b[::2])
        assert np.abs(a[1] - b[1]).max() > 1e-3


def test_guidance_of_one_is_the_conditional_model(devices):
    assert_guidance_of_one_is_the_conditional_model(make_run(devices[:1], ELEMENTWISE))


def test_guidance_of_one_is_the_conditional_model_with_the_default_options(devices, default_options):
    assert_guidance_of_one_is_the_conditional_model(make_run(devices[:1], ELEMENTWISE))


def count_live_programs() -> int:
    """The compiled batches that the backend holds, whoever keeps them."""
    gc.collect()
    modules = [executable.hlo_modules()[0] for executable in jax.devices()[0].client.live_executables()]
    return sum(module.name == "jit_sample_batch" for module in modules)


def test_programs_that_were_not_used_for_longest_are_freed(run, monkeypatch):
    """Three are kept. Another n or number of steps is another program; the images stay the same bits."""
    monkeypatch.setattr(batch, "_compile", functools.lru_cache(3)(batch._compile.__wrapped__))
    before = count_live_programs()

    def draw(n, steps):
        return run.sample(KEY, n, labels=LABELS[:n], steps=steps, sampler=dj.samplers.Euler())

    first = draw(5, 2)
    for n, steps, kept in ((5, 3, 2), (6, 3, 3), (5, 2, 3), (5, 4, 3), (7, 4, 3)):
        draw(n, steps)
        assert count_live_programs() - before == kept
    draw(5, 2)  # used since (5, 3) and (6, 3), which are gone
    assert batch._compile.cache_info().misses == 5
    draw(5, 3)
    assert batch._compile.cache_info().misses == 6
    np.testing.assert_array_equal(first, draw(5, 2))


def test_the_number_of_programs_is_bounded():
    assert batch._compile.cache_info().maxsize == batch._compile_noise.cache_info().maxsize == batch.PROGRAMS


def test_changing_a_value_does_not_recompile(run, weaker):
    guidance = dj.Guidance(2.0, interval=(0.3, 3.0), rescale=0.7, weaker=weaker)
    draw = {"labels": LABELS[:8], "sampler": dj.samplers.DDIM(0.5), "guidance": guidance, "threshold": 0.9}
    first = run.sample(KEY, 8, **draw)
    compiled = count_live_programs()
    changes = (
        {"guidance": dataclasses.replace(guidance, scale=3.5)},
        {"guidance": dataclasses.replace(guidance, scale=np.linspace(1.5, 7, 8))},
        {"guidance": dataclasses.replace(guidance, interval=(0.1, np.inf))},
        {"guidance": dataclasses.replace(guidance, rescale=0.2)},
        {"guidance": dataclasses.replace(guidance, weaker=dataclasses.replace(weaker, params=run.params))},
        {"threshold": 0.5},
        {"sampler": dj.samplers.DDIM(0.1)},
        {"labels": LABELS[::-1][:8]},
    )
    for change in changes:
        assert np.abs(first - run.sample(KEY, 8, **(draw | change))).max() > 1e-4, change
    run.sample(jax.random.key(1), 8, **draw)
    assert count_live_programs() == compiled


# The settings are the wrappers, in their order


def compose(run, n, wrap) -> np.ndarray:
    """Images by `dj.sample` from `wrap(cond, uncond)` of the run's network."""
    params = jax.tree.map(jnp.asarray, run.params)

    @quick_jit
    def draw():
        cond, uncond = (
            dj.denoiser(AFFINE.apply, params, run.schedule, run.prediction, rows) for rows in (LABELS[:n], None)
        )
        return dj.sample(
            KEY, wrap(cond, uncond), run.schedule, (n, 4, 4, 1), sampler=run.sampling.sampler, steps=run.sampling.steps
        )

    return np.clip(draw(), -1, 1)


def denoise_weaker(weaker, labels=None):
    params = jax.tree.map(jnp.asarray, weaker.params)
    return dj.denoiser(AFFINE.apply, params, weaker.schedule, weaker.prediction, labels)


def test_the_run_as_a_denoiser_is_the_one_it_samples_with(run):
    scales = np.linspace(0.0, 4.0, 4)
    guided = dj.Guidance(scales, interval=(0.3, 3.0))
    with_arrays = dataclasses.replace(run, params=jax.tree.map(jnp.asarray, run.params))
    denoise = with_arrays.denoiser(4, labels=LABELS[:4], guidance=guided)
    images = run.sample(KEY, 4, labels=LABELS[:4], guidance=guided)

    def wrap(cond, uncond):
        w = dj.guidance.interval(scales, run.schedule, 0.3, 3.0)
        return dj.clipped(dj.guidance.classifier_free(cond, uncond, w), run.schedule)

    for wrapped in (wrap, lambda cond, uncond: denoise):
        np.testing.assert_allclose(compose(run, 4, wrapped), images, rtol=0, atol=2e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_settings_are_the_wrappers_in_their_order(threshold, run, weaker):
    """Guidance in its interval, then its rescaling, then a threshold: dynamic, or else the clip."""
    guided = dj.Guidance(2.5, interval=(0.2, 3.0), rescale=0.7, weaker=weaker)
    images = run.sample(KEY, 4, labels=LABELS[:4], guidance=guided, threshold=threshold)

    def wrap(cond, uncond):
        scale = dj.guidance.interval(2.5, run.schedule, 0.2, 3.0)
        denoise = dj.guidance.autoguidance(cond, denoise_weaker(weaker, LABELS[:4]), scale)
        denoise = dj.guidance.rescale(denoise, cond, run.schedule, 0.7)
        if threshold:
            return dj.dynamic_threshold(denoise, run.schedule, threshold)
        return dj.clipped(denoise, run.schedule)

    np.testing.assert_allclose(images, compose(run, 4, wrap), rtol=0, atol=2e-5)


def test_a_weaker_run_guides_without_labels_too(run, weaker):
    images = run.sample(KEY, 4, guidance=dj.Guidance(2.5, weaker=weaker))

    def wrap(cond, uncond):
        return dj.clipped(dj.guidance.autoguidance(uncond, denoise_weaker(weaker), 2.5), run.schedule)

    np.testing.assert_allclose(images, compose(run, 4, wrap), rtol=0, atol=2e-5)


class SelfConditioned(tiny.Affine):
    """Its output depends on its own estimate of the step before."""

    self_condition = True

    def apply(self, params, x, time, labels=None, x0_hat=None):
        return super().apply(params, x, time, labels) - 0.2 * (0.0 if x0_hat is None else x0_hat)


def test_a_self_conditioned_network_receives_its_estimate_from_every_sampler(run):
    conditioned = with_network(run, model=SelfConditioned())
    draw = {"labels": LABELS[:4], "guidance": 2.0, "clip": False}
    found = conditioned.sample(KEY, 4, **draw)
    assert np.abs(found - run.sample(KEY, 4, **draw)).max() > 1e-3
    wrapped = dj.samplers.SelfConditioned(run.sampling.sampler)
    np.testing.assert_array_equal(found, conditioned.sample(KEY, 4, sampler=wrapped, **draw))
    with pytest.raises(ValueError, match="weaker: its self_condition is True, this run's is False"):
        run.sample(KEY, 4, labels=LABELS[:4], guidance=dj.Guidance(2.0, weaker=conditioned))


class LearnedVariance(tiny.Affine):
    """Twice the channels: the prediction, and the variance fraction that its parameter f says."""

    learn_variance = True

    def apply(self, params, x, time, labels=None):
        prediction = super().apply(params, x, time, labels)
        return jnp.concatenate([prediction, params["f"] + 0 * prediction], -1)


@pytest.mark.parametrize(("f", "variance"), [(-1.0, "small"), (1.0, "large")])
def test_guidance_does_not_change_a_learned_variance(f, variance, run):
    learned = with_network(run, model=LearnedVariance())
    learned = dataclasses.replace(learned, params=run.params | {"f": np.float32(f)})
    draw = {"labels": LABELS[:4], "guidance": dj.Guidance(3.0, rescale=0.5), "threshold": 0.9}
    found = learned.sample(KEY, 4, sampler=dj.samplers.DDPM("learned"), **draw)
    exact = run.sample(KEY, 4, sampler=dj.samplers.DDPM(variance), **draw)
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-5)


def test_guidance_and_labels_have_an_effect(run):
    cond = run.sample(KEY, 4, labels=[3] * 4, clip=False)
    others = [
        run.sample(KEY, 4, labels=[4] * 4, clip=False),
        run.sample(KEY, 4, labels=[3] * 4, clip=False, guidance=2.0),
        run.sample(KEY, 4, clip=False),
        run.sample(jax.random.key(1), 4, labels=[3] * 4, clip=False),
    ]
    assert all(np.abs(cond - other).max() > 1e-3 for other in others)


def test_the_default_settings_are_the_runs_own(devices):
    run = make_run(devices[:1], guidance=2.0)
    own = run.sample(KEY, 4, labels=[1] * 4)
    settings = {"guidance": 2.0, "steps": 3, "sampler": dj.samplers.DDIM(0.5), "grid": dj.grids.Uniform(), "clip": True}
    np.testing.assert_array_equal(own, run.sample(KEY, 4, labels=[1] * 4, **settings))
    np.testing.assert_array_equal(own, run.sample(KEY, 4, labels=[1] * 4, sampling=Sampling(**settings)))
    other = Sampling(**settings | {"guidance": 1.0})
    np.testing.assert_array_equal(own, run.sample(KEY, 4, labels=[1] * 4, sampling=other, guidance=2.0))


def test_an_interval_at_scale_one_changes_nothing(run):
    plain = run.sample(KEY, 4, labels=LABELS[:4])
    scale_one = dj.Guidance(1.0, interval=(0.3, 3.0), rescale=0.5)
    np.testing.assert_array_equal(plain, run.sample(KEY, 4, labels=LABELS[:4], guidance=scale_one))


def test_default_guidance_has_no_effect_without_labels(devices):
    guided = make_run(devices[:1], guidance=dj.Guidance(3.0, interval=(0.3, 3.0), rescale=0.5))
    plain = make_run(devices[:1]).sample(KEY, 4)
    np.testing.assert_array_equal(guided.sample(KEY, 4), plain)
    explicit = dataclasses.replace(guided.sampling)
    with pytest.raises(ValueError, match="guidance = 3.0: needs labels"):
        guided.sample(KEY, 4, sampling=explicit)


# States on the way, noise, range


def test_frames_end_in_the_result(run):
    x, frames = run.sample(KEY, 5, labels=[1] * 5, keep=3, batch_size=2)
    assert frames.x.shape == (3, 5, 4, 4, 1)
    assert frames.x0 is None
    np.testing.assert_array_equal(np.clip(frames.x[-1], -1, 1), x)
    assert frames.times[0] == 1
    assert frames.times[-1] == 0


def test_frames_hold_the_networks_estimate_at_each_state(run):
    """For an affine network that predicts v, x0 = alpha x_t - sigma v."""
    x, frames = run.sample(
        KEY, 5, labels=[1] * 5, keep=4, keep_x0=True, batch_size=2, sampler=dj.samplers.DDIM(), clip=False
    )
    label = run.params["classes"][1]
    for t, x_t, x0 in zip(frames.times[:-1], frames.x, frames.x0, strict=False):
        alpha, sigma = float(run.schedule.alpha(t)), float(run.schedule.sigma(t))
        v = run.params["w"] * x_t + run.params["u"] * t + label
        np.testing.assert_allclose(x0, alpha * x_t - sigma * v, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(np.clip(frames.x0[-1], -1, 1), x)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_the_noise_of_a_key_is_where_its_images_start(eta, run):
    draw = {"labels": LABELS[:9], "keep": 2, "sampler": dj.samplers.DDIM(eta)}
    noise = run.noise(KEY, 9)
    assert noise.shape == (9, 4, 4, 1)
    assert noise.dtype == np.float32
    x, frames = run.sample(KEY, 9, **draw)
    again, _ = run.sample(KEY, 9, noise=noise, **draw)
    np.testing.assert_array_equal(x, again)
    np.testing.assert_allclose(frames.x[0], noise * float(run.schedule.sigma(1.0)), rtol=1e-6)


def test_images_are_in_range(run):
    steep = dataclasses.replace(run, params=run.params | {"w": np.float32(-5.0)})
    x = steep.sample(KEY, 4, labels=[0] * 4, clip=False)
    assert x.dtype == np.float32
    assert np.abs(x).max() == 1.0


# Refusals


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n": 0}, "n = 0"),
        ({"n": "2"}, "n = '2': must be an integer"),
        ({"labels": [10, 0]}, "labels contain 10: must be from 0 to 9"),
        ({"labels": [-1, 0]}, "labels contain -1"),
        ({"labels": [1]}, r"labels must be 2 integers \(one per image\), got int64 of shape \(1,\)"),
        ({"labels": [1.5, 2.0]}, "labels must be 2 integers .*got float64"),
        ({"guidance": 2.0}, "guidance = 2.0: needs labels"),
        ({"guidance": [1.0, 3.0]}, "guidance = 3.0: needs labels"),
        ({"guidance": [2.0] * 3, "labels": [1, 2]}, r"guidance has shape \(3,\): must be one number or \[2\]"),
        ({"guidance": dj.Guidance(2.0, weaker="runs/small")}, "weaker = 'runs/small': must be of type Run"),
        ({"guidance": "2", "labels": [1, 2]}, "guidance = '2': must be a number"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"batch_size": 2.0}, "batch_size = 2.0: must be an integer"),
        ({"key": 0}, r"key = 0: .*jax.random.key\(0\)"),
        ({"key": jax.random.split(KEY, 2)}, r"key has shape \(2,\)"),
        ({"sampler": "DDIM"}, r"sampler = 'DDIM': must be of type Sampler, such as DDIM\(\)"),
        ({"keep": [2]}, r"keep = \[2\]: must be an integer"),
        ({"keep": "all"}, "keep = 'all': must be an integer"),
        ({"keep": 1}, "keep = 1"),
        ({"steps": 51}, "steps = 51: must be at most 50, the steps of the schedule"),
        ({"noise": np.zeros((3, 4, 4, 1))}, r"noise has shape \(3, 4, 4, 1\): must be \[2, 4, 4, 1\]"),
        ({"noise": np.full((2, 4, 4, 1), np.nan)}, "noise is not finite"),
    ],
)
def test_bad_input_is_refused_in_one_line(kwargs, message, run):
    with pytest.raises(ValueError, match=message) as error:
        run.sample(**({"key": KEY, "n": 2} | kwargs))
    assert "\n" not in str(error.value)


def test_an_unknown_setting_is_refused_with_the_known_ones(run):
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepz'; the settings are sampler, steps, "):
        run.sample(KEY, 2, stepz=3)


@pytest.mark.parametrize("n", [0, 2.0, True])
def test_noise_and_denoiser_refuse_a_bad_number_of_images(n, run):
    for call in (lambda: run.noise(KEY, n), lambda: run.denoiser(n)):
        with pytest.raises(ValueError, match=f"n = {n}: must be an integer >= 1"):
            call()


def test_images_that_are_not_finite_are_refused(run):
    broken = dataclasses.replace(run, params=run.params | {"w": np.float32(np.nan)})
    with pytest.raises(ValueError, match="images from 0 on are not finite; use more steps, or an earlier checkpoint"):
        broken.sample(KEY, 4, labels=LABELS[:4])
    with pytest.raises(ValueError, match="use a guidance below 3, more steps"):
        broken.sample(KEY, 4, labels=LABELS[:4], guidance=3.0)


def test_a_network_that_always_had_labels_needs_them(run):
    always = with_network(run, unlabelled=False)
    with pytest.raises(ValueError, match="guidance = 2.0: this network was never trained without labels; use"):
        always.sample(KEY, 2, labels=[1, 2], guidance=2.0)
    with pytest.raises(ValueError, match="labels: this network was never trained without them; give 2"):
        always.sample(KEY, 2)
    x = always.sample(KEY, 2, labels=[1, 2])
    np.testing.assert_array_equal(x, run.sample(KEY, 2, labels=[1, 2]))


def test_class_names_are_captions(run):
    assert run.class_name(np.int64(3)) == "3"
    named = dataclasses.replace(run, class_names=tuple("abcdefghij"))
    assert named.class_name(3) == "d"
    for wrong in (-1, 10):
        with pytest.raises(ValueError, match=f"labels contain {wrong}: must be from 0 to 9"):
            named.class_name(wrong)


# The program without a call


@pytest.mark.parametrize(
    ("n", "settings"),
    [
        (3, {}),
        (5, {"labels": LABELS[:5], "guidance": [2.0, 1.0, 1.0, 3.0, 1.0]}),
        *slow(
            (5, {"labels": LABELS[:5], "guidance": 2.0, "batch_size": 2}),
            (20, {"labels": LABELS, "steps": 5, "sampler": dj.samplers.Heun(), "threshold": 0.9, "clip": False}),
        ),
    ],
)
def test_lower_gives_the_first_program_of_sample(devices, monkeypatch, n, settings):
    texts = []

    def note(*arguments, **static):
        texts.append(batch.lower_batch(*arguments, **static).as_text())
        return batch.run_batch(*arguments, **static)

    run = make_run(devices[:2])
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.float32), PARAMS)
    lowered = dataclasses.replace(run, params=params).lower(n, **settings)
    monkeypatch.setattr(sys.modules[Run.__module__], "run_batch", note)
    run.sample(KEY, n, **settings)
    assert lowered.as_text() == texts[0]


def test_lower_refuses_what_sample_refuses(run):
    for settings in ({"labels": [10, 0]}, {"steps": 0}, {"guidance": 2.0}):
        messages = []
        for call in (lambda settings: run.lower(2, **settings), lambda settings: run.sample(KEY, 2, **settings)):
            with pytest.raises(ValueError) as error:  # noqa: PT011 the two messages are compared
                call(settings)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
