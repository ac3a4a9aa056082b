"""`dj.sample`: the loop, its randomness, its memory and its errors."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import optimized_jit
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import KINDS_FIRST, SCHEDULES, Gaussian, exact_denoiser, predictions_for, quick_jit, scales, side_by_side
from slow import slow

import diffusion_jax as dj
from diffusion_jax.sampling.randomness import first_noise, standard_normal
from diffusion_jax.sampling.samplers import DDIM, DDPM, DPMSolverPP, Heun

COSINE = SCHEDULES["cosine"]
DATA = Gaussian(0.3, 0.5)


def _exact(x_t, t, schedule=COSINE):
    """The exact denoiser of DATA; elementwise."""
    return DATA.denoised(x_t, schedule.alpha(t), schedule.sigma(t))


def _images(batch: int, sampler=DDPM(), key=0, steps=6, shape=(3, 2, 1), **kwargs):
    key = jax.random.key(key)
    return dj.sample(key, _exact, COSINE, (batch, *shape), sampler=sampler, steps=steps, **kwargs)


def _draw(*args, **kwargs):
    """The same, compiled without optimizations."""
    return quick_jit(lambda: _images(*args, **kwargs))()


# --- the answer ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS_FIRST)
def test_every_prediction_of_every_schedule_samples_along_the_probability_flow(name):
    """From the first frame to the last, the exact map of Gaussian data; one channel a prediction."""
    schedule, predictions = SCHEDULES[name], predictions_for(name).values()
    denoise = side_by_side([exact_denoiser(DATA, schedule, p) for p in predictions])
    shape = (16, 1, 1, len(predictions))
    times = dj.grids.UniformLogSNR()(schedule, 60)
    sampler = DPMSolverPP(order=2)
    draw = quick_jit(lambda key: dj.sample(key, denoise, schedule, shape, sampler=sampler, times=times, keep=2))
    x, frames = draw(jax.random.key(0))
    at_t, at_s = zip(*scales(schedule, times[[0, -1]]), strict=True)
    np.testing.assert_allclose(x, DATA.flow(frames.x[0], at_t, at_s), rtol=0, atol=0.01)


def test_correlated_pixels_get_their_covariance():
    """Anything broadcast or transposed on the way would mix up the pixels."""
    factor = np.array([[0.6, 0, 0, 0], [0.4, 0.3, 0, 0], [-0.2, 0.3, 0.2, 0], [0.1, -0.3, 0.2, 0.4]])
    covariance = factor @ factor.T
    mean = np.array([0.5, -0.5, 0.0, 0.2])
    values, vectors = np.linalg.eigh(covariance)

    def denoise(x_t, t):
        alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
        along = (x_t.reshape(-1, 4) - alpha * mean) @ vectors / (alpha**2 * values + sigma**2)
        x0 = mean + (alpha * values * along) @ vectors.T
        eps = sigma * along @ vectors.T
        return dj.Denoised(x0.reshape(x_t.shape), eps.reshape(x_t.shape))

    draw = quick_jit(lambda key: dj.sample(key, denoise, COSINE, (8192, 2, 2, 1), sampler=Heun(), steps=60))
    x = np.asarray(draw(jax.random.key(1)), np.float64).reshape(-1, 4)
    error = 5 / np.sqrt(8192)
    np.testing.assert_allclose(x.mean(0), mean, rtol=0, atol=error * 0.7)
    np.testing.assert_allclose(np.cov(x.T), covariance, rtol=0, atol=error * 0.7 + 0.01)


def test_explicit_times_take_the_place_of_the_grid():
    times = [1.0, 0.6, 0.2, 0.05, 0.0]
    seen = []

    def denoise(x_t, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t, ordered=True)
        return _exact(x_t, t)

    jax.block_until_ready(dj.sample(jax.random.key(0), denoise, COSINE, (2, 1, 1, 1), times=times))
    jax.effects_barrier()
    np.testing.assert_allclose(seen, times[:-1], rtol=1e-6)
    grid = dj.grids.Uniform()(COSINE, 4)
    np.testing.assert_array_equal(_draw(4, steps=4), _draw(4, times=grid, steps=999))


def test_sampling_may_start_and_stop_on_the_way():
    """Noise of sigma(t) at the start, no jump to the data at the end."""
    times = np.linspace(0.8, 0.4, 11)
    x, frames = _draw(64, Heun(), times=times, keep=3, shape=(8, 8, 1))
    at_t, at_s = zip(*scales(COSINE, times[[0, -1]]), strict=True)
    assert np.std(frames.x[0]) == pytest.approx(at_t[1], rel=5 / np.sqrt(2 * 4096))
    np.testing.assert_allclose(x, DATA.flow(frames.x[0], at_t, at_s), rtol=0, atol=0.01)
    np.testing.assert_allclose(frames.times, [0.8, 0.6, 0.4], rtol=1e-6)


def test_the_first_noise_of_karras_has_std_80():
    schedule = SCHEDULES["karras"]
    _, frames = dj.sample(
        jax.random.key(3),
        lambda x, t: _exact(x, t, schedule),
        schedule,
        (64, 8, 8, 1),
        steps=2,
        keep=2,
    )
    assert np.std(frames.x[0]) == pytest.approx(80.0, rel=5 / np.sqrt(2 * 4096))


# --- image i depends on i alone ----------------------------------------------------------------


@cache
def _row(sampler) -> np.ndarray:
    return np.asarray(_draw(64, sampler, shape=(8, 8, 1)))


@pytest.mark.parametrize("sampler", [DDPM(), DPMSolverPP()], ids=str)
@pytest.mark.parametrize("batch", [1, 7])
def test_an_image_does_not_depend_on_its_batch(sampler, batch):
    """Bit for bit, with a denoiser that works pixel by pixel."""
    alone = _draw(batch, sampler, shape=(8, 8, 1))
    np.testing.assert_array_equal(alone, _row(sampler)[:batch])


@pytest.mark.parametrize("sampler", [DDIM(eta=0.5), *slow(DPMSolverPP(order=3))], ids=str)
def test_an_image_does_not_depend_on_its_batch_with_the_compiler_options_of_users(sampler):
    """Bit for bit, as users call it: under jit with the sampler as an argument, and optimized."""
    together, alone = (optimized_jit(lambda s, n=n: _images(n, s, shape=(8, 8, 1)))(sampler) for n in (7, 1))
    np.testing.assert_array_equal(alone, together[:1])


def test_times_that_are_equal_in_float32_are_refused():
    with pytest.raises(ValueError, match="strictly decreasing"):
        _draw(2, times=[1.0, 0.5, 0.5 - 1e-9, 0.0])


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        (np.array([0.5, 1.5], np.float32), r"indices = an array float32\[2\]: must be integers"),
        ([0.0, 1.0], "must be integers"),
        (["a", "b"], "must be integers"),
        ([True, False], "must be integers"),
        ([0, 2**32], "indices contain 4294967296: must be from -2147483648 to 4294967295"),
        ([0, -(2**31) - 1], "indices contain -2147483649: must be from"),
        ([0, 2**70], "must be integers"),
    ],
)
def test_other_indices_are_refused(indices, words):
    with pytest.raises(ValueError, match=words):
        _draw(2, indices=indices)


def test_traced_indices_must_be_integers():
    with pytest.raises(ValueError, match="must be integers"):
        jax.eval_shape(lambda indices: _images(2, indices=indices), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"indices has shape \(3,\): must be \[2\]"):
        jax.eval_shape(lambda indices: _images(2, indices=indices), jnp.zeros(3, int))


def test_indices_choose_images_of_the_same_sequence():
    indices = np.array([5, 63, 0, 17, 5])
    picked = _draw(5, indices=indices, shape=(8, 8, 1))
    np.testing.assert_array_equal(picked, _row(DDPM())[indices])


def test_another_key_gives_other_images():
    assert not np.isclose(_draw(64, key=1, shape=(8, 8, 1)), _row(DDPM()), atol=1e-7).any()


@pytest.mark.parametrize(("sampler", "atol"), [(DDIM(eta=1.0), 0.0), (DDPM(), 1e-6)], ids=str)
def test_images_are_the_same_on_eight_devices_as_on_one(sampler, atol, devices):
    """The first noise bit for bit; the rest up to the order in which XLA multiplies scalars."""
    mesh = jax.make_mesh((8,), ("data",), devices=devices)
    split = NamedSharding(mesh, P("data"))

    def draw(indices):
        x, frames = _images(16, sampler, indices=indices, keep=2, shape=(8, 8, 1))
        return x, frames.x

    alone, alone_frames = jax.jit(draw)(jnp.arange(16))
    indices = jax.device_put(jnp.arange(16), split)
    out = (split, NamedSharding(mesh, P(None, "data")))
    together, frames = jax.jit(draw, out_shardings=out)(indices)
    assert len(together.sharding.device_set) == 8
    assert together.addressable_shards[0].data.shape[0] == 2
    np.testing.assert_array_equal(frames[0], alone_frames[0])
    np.testing.assert_allclose(together, alone, rtol=0, atol=atol)


def test_no_noise_is_used_twice():
    """A sampler that only adds noise: start and increments are independent, and so are images."""

    @dj.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Walk(dj.samplers.Sampler):
        order = 1

        def step(self, keys, denoise, schedule, x_t, t, s, memory):
            return x_t + standard_normal(keys, x_t.shape[1:]), memory

    _, frames = _draw(6, Walk(), steps=4, keep=5, shape=(40, 40, 1))
    states = np.asarray(frames.x, np.float64)
    parts = np.concatenate([states[:1], np.diff(states, axis=0)])  # [5 times, 6 images, ...]
    correlation = np.corrcoef(parts.reshape(30, -1))
    np.testing.assert_allclose(correlation, np.eye(30), rtol=0, atol=5.5 / 40)


# --- noise from the caller ---------------------------------------------------------------------


def test_the_first_noise_passed_back_in_gives_the_same_images():
    noises = first_noise(jax.random.key(0), jnp.arange(64), (8, 8, 1))
    np.testing.assert_array_equal(_draw(64, noise=noises, shape=(8, 8, 1)), _row(DDPM()))


@pytest.mark.parametrize("name", ["cosine", "karras"])
def test_sampling_starts_from_the_noise_of_the_caller(name):
    schedule, noise = SCHEDULES[name], np.linspace(-2, 2, 12, dtype=np.float32).reshape(2, 3, 2, 1)

    def draw(key):
        exact = lambda x, t: _exact(x, t, schedule)  # noqa: E731
        return dj.sample(jax.random.key(key), exact, schedule, (2, 3, 2, 1), steps=3, noise=noise, keep=2)

    (x, frames), (other, _) = quick_jit(lambda: (draw(0), draw(1)))()
    np.testing.assert_allclose(frames.x[0], scales(schedule, 1.0)[1] * noise, rtol=1e-6)
    np.testing.assert_array_equal(x, other)  # DDIM does not use the key otherwise


def test_the_noise_of_later_steps_still_comes_from_the_key():
    noise = np.zeros((64, 8, 8, 1))
    a, b = (np.asarray(_draw(64, key=key, noise=noise, shape=(8, 8, 1))) for key in (0, 1))
    assert abs(np.corrcoef((a - a.mean()).ravel(), (b - b.mean()).ravel())[0, 1]) < 5 / 64


# --- frames and memory -----------------------------------------------------------------------


@pytest.mark.parametrize("keep", [2, 7])
def test_keep_gives_frames_from_the_first_noise_to_the_result(keep):
    x, frames = _draw(64, keep=keep, shape=(8, 8, 1))
    np.testing.assert_array_equal(x, _row(DDPM()))
    assert frames.x0 is None  # costs calls of the denoiser, so it has to be asked for
    assert frames.x.shape == (keep, 64, 8, 8, 1)
    np.testing.assert_array_equal(frames.x[-1], x)
    assert (np.diff(frames.times) < 0).all()
    assert (frames.times[0], frames.times[-1]) == (1.0, 0.0)
    assert np.std(frames.x[0]) == pytest.approx(1.0, rel=5 / np.sqrt(2 * 4096))


@pytest.mark.parametrize(
    ("steps", "keep", "indices"),
    [
        (7, 4, [0, 2, 5, 7]),  # 2.33 and 4.67
        (5, 3, [0, 2, 5]),  # 2.5 to the even index
        (7, 3, [0, 4, 7]),  # 3.5 too
        (6, 5, [0, 2, 3, 4, 6]),  # 1.5, 3 and 4.5
    ],
)
def test_where_keep_does_not_divide_the_steps_the_nearest_states_are_kept(steps, keep, indices):
    _, every = _draw(2, steps=steps, keep=steps + 1)
    _, some = _draw(2, steps=steps, keep=keep)
    np.testing.assert_array_equal(some.times, every.times[np.array(indices)])
    np.testing.assert_array_equal(some.x, every.x[np.array(indices)])


def test_each_frame_is_the_state_at_its_time():
    """The exact denoiser's samples at time t have the standard deviation of x_t, within the step's error."""
    _, frames = _draw(64, Heun(), steps=40, keep=5, shape=(8, 8, 1))
    alpha, sigma = scales(COSINE, frames.times)
    expected = np.sqrt(alpha**2 * DATA.std**2 + sigma**2)
    np.testing.assert_allclose(np.std(frames.x, axis=(1, 2, 3, 4)), expected, rtol=0.05)
    np.testing.assert_allclose(np.mean(frames.x, axis=(1, 2, 3, 4)), alpha * 0.3, atol=0.08)


def test_each_frame_comes_with_its_x0():
    """E[x0 | x_t] of Gaussian data; also of the last state if it is still noisy."""
    times = np.linspace(0.8, 0.4, 11)
    x, frames = _draw(8, times=times, keep=3, keep_x0=True)
    for t, x_t, x0 in zip(frames.times, frames.x, frames.x0, strict=True):
        alpha, sigma = scales(COSINE, t)
        gain = alpha * DATA.std**2 / (alpha**2 * DATA.std**2 + sigma**2)
        expected = DATA.mean + gain * (x_t - alpha * DATA.mean)
        np.testing.assert_allclose(x0, expected, rtol=0, atol=1e-5)
    assert np.abs(frames.x0[-1] - x).max() > 0.05


@pytest.mark.parametrize(("keep", "keep_x0", "calls"), [(0, False, 4), (5, False, 4), (2, True, 5), (5, True, 8)])
def test_x0_costs_one_call_per_noisy_state_and_data_are_their_own_x0(keep, keep_x0, calls):
    seen = []

    def denoise(x_t, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return _exact(x_t, t)

    drawn = dj.sample(jax.random.key(0), denoise, COSINE, (2, 1, 1, 1), steps=4, keep=keep, keep_x0=keep_x0)
    jax.block_until_ready(drawn)
    jax.effects_barrier()
    assert len(seen) == calls
    assert min(seen) > 0  # where it would divide by sigma = 0
    if keep_x0:
        x, frames = drawn
        np.testing.assert_array_equal(frames.x0[-1], x)
        assert np.isfinite(frames.x0).all()


@cache
def _memory(steps: int, **kwargs) -> int:
    draw = jax.jit(lambda indices: _images(16, steps=steps, indices=indices, shape=(32, 32, 3), **kwargs))
    return draw.lower(jnp.arange(16)).compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_number_of_steps():
    one_state = 16 * 32 * 32 * 3 * 4
    few, many = _memory(10), _memory(100)
    assert many - few < one_state / 10


def test_kept_frames_need_no_other_memory():
    one_state = 16 * 32 * 32 * 3 * 4
    assert _memory(100, keep=3) - _memory(100) < 10 * one_state


def test_the_same_images_with_and_without_the_caller_s_jit():
    np.testing.assert_allclose(_draw(7), _images(7), rtol=1e-5, atol=1e-5)


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"steps": 1001}, "steps = 1001"),
        ({"keep": 1}, "keep = 1"),
        ({"keep": 8}, "keep = 8.*7"),
        ({"keep": -2}, "keep = -2"),
        ({"keep": 2.5}, "keep = 2.5: must be an integer >= 0"),
        ({"indices": np.arange(3)}, r"indices has shape \(3,\): must be \[4\]"),
        ({"indices": np.zeros((4, 1), int)}, "indices has shape"),
        ({"noise": np.zeros((4, 3, 2))}, r"noise has shape \(4, 3, 2\): must be \[4, 3, 2, 1\]"),
        ({"noise": np.zeros((1, 3, 2, 1))}, r"noise has shape \(1, 3, 2, 1\)"),
        ({"noise": np.full((4, 3, 2, 1), np.nan)}, "noise has values that are not finite"),
        ({"sampler": "DDIM"}, r"sampler = 'DDIM': must be of type Sampler, such as DDIM\(\)"),
        ({"sampler": DDPM}, "sampler = .*: must be of type Sampler"),
        ({"grid": dj.grids.Uniform}, "grid = .*: must be of type Grid"),
        ({"steps": None}, "steps = None: must be an integer"),
        ({"steps": float("nan")}, "steps = nan: must be an integer"),
        ({"shape": (4, 3.0, 2, 1)}, "shape = 3.0: must be an integer"),
        ({"keep": 2.0}, "keep = 2.0: must be an integer"),
        ({"times": [1.0]}, "times"),
        ({"times": [[1.0, 0.0]]}, "times"),
        ({"times": [0.0, 1.0]}, "times = .*strictly decreasing"),
        ({"times": [1.0, 0.5, 0.5, 0.0]}, "times = .*strictly decreasing"),
        ({"times": [1.2, 0.5, 0.0]}, "times = .*strictly decreasing"),
        ({"times": [1.0, 0.5, -0.1]}, "times = .*strictly decreasing"),
        ({"times": [1.0, float("nan"), 0.0]}, "times = .*strictly decreasing"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(kwargs, words):
    with pytest.raises(ValueError, match=words):
        _images(4, **kwargs)


@pytest.mark.parametrize("shape", [4, (4,), None])
def test_a_shape_that_is_not_a_batch_of_images_is_refused(shape):
    with pytest.raises(ValueError, match="shape = .*: must be .B, H, W, C"):
        dj.sample(jax.random.key(0), _exact, COSINE, shape)


@pytest.mark.parametrize("part", ["x0", "eps"])
def test_a_denoiser_of_another_batch_is_refused(part):
    """One image for four would broadcast."""

    def denoise(x_t, t):
        return dataclasses.replace(dj.Denoised(x_t, x_t), **{part: x_t[:1]})

    words = r"denoise maps x_t of shape \(4, 3, 2, 1\) to \(1, 3, 2, 1\): must be the same shape"
    with pytest.raises(ValueError, match=words):
        dj.sample(jax.random.key(0), denoise, COSINE, (4, 3, 2, 1))


def test_a_denoiser_that_returns_a_tuple_is_refused():
    with pytest.raises(ValueError, match=r"denoise returns tuple: must return Denoised\(x0, eps\)"):
        dj.sample(jax.random.key(0), lambda x_t, t: (x_t, x_t), COSINE, (4, 3, 2, 1))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (0, "key = 0: must be one key"),
        (np.zeros(2, int), "key = an array int64.*must be one key"),
        (lambda: jax.random.split(jax.random.key(0), 4), r"key has shape \(4,\): must be one key"),
    ],
)
def test_other_keys_are_refused(key, words):
    with pytest.raises(ValueError, match=words):
        dj.sample(key() if callable(key) else key, _exact, COSINE, (4, 3, 2, 1))


def test_a_raw_key_is_the_typed_one():
    typed, raw = (
        dj.sample(key, _exact, COSINE, (2, 3, 2, 1), steps=2) for key in (jax.random.key(3), jax.random.PRNGKey(3))
    )
    np.testing.assert_array_equal(typed, raw)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_whose_noise_depends_on_the_batch_are_refused(impl):
    key = jax.random.key(0, impl=impl)
    with pytest.raises(ValueError, match="threefry"):
        dj.sample(key, _exact, COSINE, (2, 1, 1, 1), steps=2)


@pytest.mark.parametrize("name", ["noise", "start"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_arrays_of_another_precision_are_used_as_float32(dtype, name):
    schedule = dj.schedules.Cosine()
    denoise = dj.denoiser(lambda params, x, t, labels: 0.1 * x, None, schedule, dj.predictions.V())
    array = np.random.default_rng(0).standard_normal((2, 4, 4, 1)).astype(dtype)
    images = [
        dj.sample(jax.random.key(0), denoise, schedule, array.shape, steps=3, **{name: given})
        for given in (array, array.astype(np.float32))
    ]
    assert images[0].dtype == jnp.float32
    np.testing.assert_array_equal(*images)
