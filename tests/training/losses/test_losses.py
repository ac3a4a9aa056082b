import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import predictions, schedules
from diffusion_jax.process.pixels import NO_LABEL, to_float
from diffusion_jax.training import losses
from diffusion_jax.training.losses import DiffusionLoss, Examples

SCHEDULES = [
    schedules.Cosine(),
    schedules.RectifiedFlow(),
    schedules.Karras(),
    schedules.Shifted(schedules.Cosine(), resolution=256),
    schedules.ZeroTerminalSNR(schedules.LinearBeta()),
]
PREDICTIONS = [
    predictions.Eps(),
    predictions.X0(),
    predictions.V(),
    predictions.Velocity(),
    predictions.Preconditioned(),
]
WEIGHTINGS = [losses.Uniform(), losses.MinSNR(), losses.EDM(), losses.Sigmoid()]


def named(value):
    return type(value).__name__


def images(n=6, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (n, 4, 4, 2)), jnp.float32)


def noise(n=6, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, 4, 4, 2)), jnp.float32)


def at_times(t):
    t = jnp.asarray(t, jnp.float32)
    return Examples(images(len(t)), None, t, noise(len(t)))


# One network's opinion of x0, told in each of the ways that a network may be asked for. All of these are
# for a variance-preserving schedule: alpha^2 + sigma^2 = 1.


def opinion(x0):
    return 0.7 * x0 + 0.1


def as_eps(x_t, x0, alpha, sigma):
    return (x_t - alpha * x0) / sigma


def as_x0(x_t, x0, alpha, sigma):
    return x0


def as_v(x_t, x0, alpha, sigma):
    return alpha * as_eps(x_t, x0, alpha, sigma) - sigma * x0


def as_velocity(x_t, x0, alpha, sigma):
    return as_eps(x_t, x0, alpha, sigma) - x0


def as_preconditioned(x_t, x0, alpha, sigma, sigma_data=0.5):
    """F of x0 = c_skip x + c_out F with x = x_t/alpha (Karras et al. 2022, Table 1)."""
    s = sigma / alpha
    c_skip = sigma_data**2 / (s**2 + sigma_data**2)
    c_out = s * sigma_data / jnp.sqrt(s**2 + sigma_data**2)
    return (x0 - c_skip * x_t / alpha) / c_out


TOLD = list(zip(PREDICTIONS, [as_eps, as_x0, as_v, as_velocity, as_preconditioned], strict=True))


@pytest.mark.parametrize(("prediction", "told"), TOLD, ids=[named(p) for p in PREDICTIONS])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_the_same_loss_for_every_prediction(prediction, told, gamma):
    """min(SNR, gamma) |x0_hat - x0|^2, where SNR = abar/(1 - abar) from the schedule's float64 table."""
    schedule = schedules.Cosine(steps=100)
    steps = np.array([1, 3, 20, 50, 80, 95])
    examples = at_times(steps / 100)
    abar = schedule.abar()[steps]
    alpha, sigma = (jnp.asarray(np.sqrt(x)[:, None, None, None], jnp.float32) for x in (abar, 1 - abar))
    x_t = alpha * examples.x0 + sigma * examples.eps

    def apply(params, x, time, labels):
        return told(x_t, opinion(examples.x0), alpha, sigma)

    loss = DiffusionLoss(schedule, prediction, losses.MinSNR(gamma))
    error = np.square(np.asarray(opinion(examples.x0) - examples.x0)).mean(axis=(1, 2, 3))
    expected = np.minimum(abar / (1 - abar), gamma) * error
    np.testing.assert_allclose(loss.per_example(apply, None, examples), expected, rtol=2e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=named)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_losses_and_gradients_are_finite_at_both_ends(schedule, prediction):
    try:
        prediction.check(schedule)
    except ValueError:
        pytest.skip("these do not go together")
    examples = at_times([0.0, 1e-6, 1e-3, 0.5, 0.999, 1.0])

    def total(params):
        """params has a number for each weighting and example, so that each has its own gradient."""
        values = jnp.stack(
            [
                DiffusionLoss(schedule, prediction, weighting).per_example(
                    lambda factor, x, time, labels: factor * x + time.reshape(-1, 1, 1, 1),
                    factors.reshape(-1, 1, 1, 1),
                    examples,
                )
                for weighting, factors in zip(WEIGHTINGS, params, strict=True)
            ]
        )
        return values.sum(), values

    params = jnp.full((len(WEIGHTINGS), 6), 0.3)
    both = jax.jit(
        jax.value_and_grad(total, has_aux=True),
        compiler_options={"xla_backend_optimization_level": 0},  # compiles sooner
    )
    (_, values), grads = both(params)
    assert values.shape == grads.shape == params.shape
    assert jnp.isfinite(values).all()
    assert (values >= 0).all()
    assert jnp.isfinite(grads).all()


@pytest.mark.parametrize("sigma_data", [0.2, 0.5, 1.0])
def test_edm_weighs_the_output_of_its_own_network_by_one(sigma_data):
    """Why the preconditioning is as it is: at every noise level the output's error counts the same."""
    weight = losses.EDM(sigma_data)(predictions.Preconditioned(sigma_data), jnp.linspace(-15, 15, 61))
    np.testing.assert_allclose(weight, 1, rtol=1e-5)


def test_sigmoid_weighs_the_noise_by_a_sigmoid():
    log_snr = jnp.linspace(-10, 10, 21)
    weight = losses.Sigmoid(bias=2.0)(predictions.Eps(), log_snr)
    np.testing.assert_allclose(weight, 1 / (1 + np.exp(np.asarray(log_snr) - 2)), rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=named)
def test_uniform_is_the_plain_squared_error(prediction):
    """Against a network that says 0, of which the target's square is what remains."""
    schedule, examples = schedules.Karras(), at_times([0.1, 0.25, 0.5, 0.75, 0.9])
    alpha, sigma = schedule.alpha(examples.t), schedule.sigma(examples.t)
    target = prediction.target(
        examples.x0,
        examples.eps,
        alpha.reshape(-1, 1, 1, 1),
        sigma.reshape(-1, 1, 1, 1),
    )
    loss = DiffusionLoss(schedule, prediction, losses.Uniform())
    found = loss.per_example(lambda params, x, time, labels: jnp.zeros_like(x), None, examples)
    expected = [np.mean(np.square(row, dtype=np.float64)) for row in np.asarray(target)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=named)
@pytest.mark.parametrize(("prediction", "told"), TOLD, ids=[named(p) for p in PREDICTIONS])
def test_a_perfect_network_has_no_loss(prediction, told, weighting):
    schedule, t = schedules.Cosine(), [0.1, 0.3, 0.5, 0.7, 0.9]
    examples = at_times(t)
    alpha, sigma = (f(examples.t).reshape(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
    x_t = alpha * examples.x0 + sigma * examples.eps

    def perfect(params, x, time, labels):
        return told(x_t, examples.x0, alpha, sigma)

    loss = DiffusionLoss(schedule, prediction, weighting)
    np.testing.assert_allclose(loss.per_example(perfect, None, examples), 0, atol=1e-6)


def test_the_network_sees_the_noised_pictures_the_time_and_the_labels():
    schedule = schedules.RectifiedFlow()
    examples = at_times([0.25, 0.75])._replace(labels=jnp.array([3, NO_LABEL]))
    seen = {}

    def apply(params, x, time, labels, train):
        seen.update(params=params, x=x, time=time, labels=labels, train=train)
        return x

    DiffusionLoss(schedule, predictions.X0()).per_example(apply, "params", examples, train=True)
    for i, t in enumerate([0.25, 0.75]):
        expected = (1 - t) * examples.x0[i] + t * examples.eps[i]
        np.testing.assert_allclose(seen["x"][i], expected, atol=1e-6)
    np.testing.assert_array_equal(seen["time"], [0.25, 0.75])
    np.testing.assert_array_equal(seen["labels"], [3, NO_LABEL])
    assert (seen["params"], seen["train"]) == ("params", True)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.ZeroTerminalSNR(schedules.LinearBeta()),
        schedules.Cosine(max_beta=1.0),
        schedules.RectifiedFlow(),
    ],
    ids=named,
)
def test_eps_is_refused_where_the_terminal_snr_is_zero(schedule):
    with pytest.raises(ValueError, match="Eps cannot be used with .*use V, X0 or Velocity"):
        DiffusionLoss(schedule, predictions.Eps())
    DiffusionLoss(schedule, predictions.V())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: losses.MinSNR(0.0), "gamma = 0.0: must be > 0 and finite"),
        (lambda: losses.EDM(-1.0), "sigma_data = -1.0: must be > 0 and finite"),
        (lambda: losses.LogNormalTimes(std=0.0), "std = 0.0: must be > 0 and finite"),
        (lambda: loss_with(1.5), r"label_drop = 1.5: must be in \[0, 1\]"),
        (lambda: loss_with(-0.1), r"label_drop = -0.1: must be in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# Times


def drawn(times, schedule, n, seeds):
    """Times for many keys, [seeds, n]."""
    keys = jax.random.split(jax.random.key(0), seeds)
    return np.asarray(jax.jit(jax.vmap(lambda key: times.draw(key, schedule, n)))(keys))


@pytest.mark.parametrize("n", [1, 7])
def test_stratified_times_put_one_in_each_nth(n):
    rows = drawn(losses.StratifiedTimes(), schedules.RectifiedFlow(), n, 200)
    assert ((rows >= 0) & (rows < 1)).all()
    gaps = np.diff(np.sort(rows, axis=1), axis=1)
    np.testing.assert_allclose(gaps, 1 / n, atol=1e-6)


@pytest.mark.parametrize("times", [losses.UniformTimes(), losses.StratifiedTimes()], ids=named)
def test_each_time_by_itself_is_uniform(times):
    """Kolmogorov's distance of 4 000 draws passes 0.035 once in 10 000 times."""
    rows = drawn(times, schedules.RectifiedFlow(), 4, 4000)
    for column in rows.T:
        distance = np.abs(np.sort(column) - (np.arange(4000) + 0.5) / 4000).max()
        assert distance < 0.035


def test_stratified_times_come_in_random_order():
    """Else picture i of every batch would see the i-th stretch of noise levels beside its neighbour's."""
    rows = drawn(losses.StratifiedTimes(), schedules.RectifiedFlow(), 8, 500)
    steps = np.rint((rows[:, 1] - rows[:, 0]) % 1 * 8)
    assert set(steps) == {1, 2, 3, 4, 5, 6, 7}


def test_uniform_times_are_independent():
    rows = drawn(losses.UniformTimes(), schedules.RectifiedFlow(), 2, 4000)
    assert abs(np.corrcoef(rows.T)[0, 1]) < 5 / np.sqrt(4000)


@pytest.mark.parametrize("schedule", [schedules.Karras(), schedules.RectifiedFlow(), schedules.Cosine()], ids=named)
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.5, 0.5)])
def test_log_normal_times_are_normal_in_log_sigma_over_alpha(schedule, mean, std):
    n = 20_000
    t = losses.LogNormalTimes(mean, std).draw(jax.random.key(0), schedule, n)
    values = np.log(np.asarray(schedule.sigma(t) / schedule.alpha(t), np.float64))
    assert values.mean() == pytest.approx(mean, abs=5 * std / np.sqrt(n))
    assert values.std() == pytest.approx(std, rel=0.03)
    skew = np.mean((values - mean) ** 3) / std**3
    assert abs(skew) < 0.15


def test_log_normal_times_stay_within_the_schedule():
    t = losses.LogNormalTimes(0.0, 50.0).draw(jax.random.key(0), schedules.Karras(), 1000)
    assert ((t >= 0) & (t <= 1)).all()


# Drawing


def loss_with(label_drop=0.1, schedule=None, times=None):
    return DiffusionLoss(
        schedule or schedules.Cosine(),
        predictions.V(),
        times=times or losses.UniformTimes(),
        label_drop=label_drop,
    )


def draw(loss, seed, batch):
    return jax.jit(loss.draw)(jax.random.key(seed), batch)


def many(n, classes=10):
    return {"image": jnp.zeros((n, 1, 1, 1)), "label": jnp.arange(n, dtype=jnp.int32) % classes}


@pytest.mark.parametrize("times", [losses.UniformTimes(), losses.LogNormalTimes()], ids=named)
@pytest.mark.parametrize("steps", [1, 1000, 4000])
def test_a_discrete_schedule_is_only_trained_at_its_steps(steps, times):
    loss = loss_with(schedule=schedules.Cosine(steps=steps), times=times)
    t = np.asarray(draw(loss, 0, many(2000)).t)
    k = np.rint(t.astype(np.float64) * steps)
    np.testing.assert_allclose(t, k / steps, rtol=2e-7)
    assert ((k >= 1) & (k <= steps)).all()


def test_all_steps_of_a_discrete_schedule_are_equally_likely():
    t = draw(loss_with(schedule=schedules.Cosine(steps=4)), 0, many(4000)).t
    counts = np.bincount(np.rint(np.asarray(t) * 4).astype(int), minlength=5)
    assert counts[0] == 0
    assert (np.abs(counts[1:] - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)).all()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_labels_are_dropped_each_by_itself_at_the_rate(rate):
    n = 4000
    batch = many(n)
    first, second = (np.asarray(draw(loss_with(rate), seed, batch).labels) for seed in (0, 1))
    for labels in (first, second):
        dropped = labels == NO_LABEL
        assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
        np.testing.assert_array_equal(labels[~dropped], batch["label"][~dropped])
    both = np.mean((first == NO_LABEL) & (second == NO_LABEL))
    assert abs(both - rate**2) < 5 * rate / np.sqrt(n)


def test_dropping_none_and_all():
    batch = many(1000)
    kept = draw(loss_with(0.0), 0, batch).labels
    np.testing.assert_array_equal(kept, batch["label"])
    assert (draw(loss_with(1.0), 0, batch).labels == NO_LABEL).all()


def test_a_batch_without_labels_has_none():
    assert draw(loss_with(), 0, {"image": images()}).labels is None


@functools.cache
def draw_of(seed):
    return draw(loss_with(0.5), seed, {**many(64), "image": jnp.zeros((64, 4, 4, 1))})


def test_the_key_says_everything():
    jax.tree.map(np.testing.assert_array_equal, draw_of(3), draw_of.__wrapped__(3))


@pytest.mark.parametrize("part", ["t", "eps", "labels"])
def test_another_key_changes_times_noise_and_dropped_labels(part):
    a, b = (np.asarray(getattr(draw_of(seed), part)) for seed in (0, 1))
    assert (a != b).any()
    rows = a.reshape(len(a), -1)
    assert len(np.unique(rows, axis=0)) > 1  # and one example's are not all examples'


def test_noise_is_standard_normal_and_not_shared():
    eps = np.asarray(draw_of(0).eps).reshape(64, -1)
    assert abs(eps.mean()) < 5 / np.sqrt(eps.size)
    assert abs(eps.std() - 1) < 5 / np.sqrt(2 * eps.size)
    assert len(np.unique(eps)) > 0.99 * eps.size


def test_pictures_of_0_and_255_are_minus_one_and_one():
    levels = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    x0 = draw(loss_with(), 0, {"image": levels}).x0
    assert x0.dtype == jnp.float32
    np.testing.assert_array_equal(x0.flatten(), [-1, 1])


def test_levels_are_evenly_spaced_around_zero():
    x = np.asarray(to_float(jnp.arange(256, dtype=jnp.uint8)), np.float64)
    np.testing.assert_allclose(np.diff(x), 2 / 255, atol=1e-6)
    np.testing.assert_allclose(x, -x[::-1], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_floating_pictures_are_taken_as_they_are(dtype):
    x = jnp.array([-1, -0.5, 0.25, 1], dtype)
    assert to_float(x).dtype == jnp.float32
    np.testing.assert_array_equal(to_float(x), [-1, -0.5, 0.25, 1])


def test_an_output_of_another_shape_is_refused():
    """Three channels against one would broadcast, and the loss would look sound."""
    loss = DiffusionLoss(schedules.Cosine(), predictions.V())
    examples = loss.draw(jax.random.key(0), {"image": np.zeros((2, 4, 4, 1), np.uint8)})
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4, 1\) to \(2, 4, 4, 3\): must be the same shape"):
        loss.per_example(lambda p, x, t, labels: np.zeros((2, 4, 4, 3)), {}, examples)
