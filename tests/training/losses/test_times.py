"""Distributions of training times; importance sampling by the losses so far, against a record in plain Python."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import quick_jit

from diffusion_jax.process import predictions, schedules
from diffusion_jax.training import losses
from diffusion_jax.training.losses import LossHistory, LossSecondMomentTimes


def name_of(value):
    return type(value).__name__


def draw_rows(times, schedule, n, seeds):
    """Times for many keys, [seeds, n]."""
    keys = jax.random.split(jax.random.key(0), seeds)
    return np.asarray(quick_jit(jax.vmap(lambda key: times.draw(key, schedule, n)))(keys))


@pytest.mark.parametrize("n", [1, 7])
def test_stratified_times_put_one_in_each_nth(n):
    rows = draw_rows(losses.StratifiedTimes(), schedules.RectifiedFlow(), n, 200)
    assert ((rows >= 0) & (rows < 1)).all()
    gaps = np.diff(np.sort(rows, axis=1), axis=1)
    np.testing.assert_allclose(gaps, 1 / n, atol=1e-6)


@pytest.mark.parametrize("times", [losses.UniformTimes(), losses.StratifiedTimes()], ids=name_of)
def test_each_time_by_itself_is_uniform(times):
    """Kolmogorov's distance of 4 000 draws is above 0.035 once in 10 000 times."""
    rows = draw_rows(times, schedules.RectifiedFlow(), 4, 4000)
    for column in rows.T:
        distance = np.abs(np.sort(column) - (np.arange(4000) + 0.5) / 4000).max()
        assert distance < 0.035


def test_stratified_times_come_in_random_order():
    """Otherwise image i of every batch would get the noise level next to its neighbour's."""
    rows = draw_rows(losses.StratifiedTimes(), schedules.RectifiedFlow(), 8, 500)
    steps = np.rint((rows[:, 1] - rows[:, 0]) % 1 * 8)
    assert set(steps) == {1, 2, 3, 4, 5, 6, 7}


def test_uniform_times_are_independent():
    rows = draw_rows(losses.UniformTimes(), schedules.RectifiedFlow(), 2, 4000)
    assert abs(np.corrcoef(rows.T)[0, 1]) < 5 / np.sqrt(4000)


@pytest.mark.parametrize(
    "schedule",
    [schedules.Karras(), schedules.RectifiedFlow(), schedules.Cosine()],
    ids=name_of,
)
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.5, 0.5)])
def test_log_normal_times_are_normal_in_log_sigma_over_alpha(schedule, mean, std):
    n = 20_000

    @quick_jit
    def draw_nsr(key):
        t = losses.LogNormalTimes(mean, std).draw(key, schedule, n)
        return schedule.sigma(t) / schedule.alpha(t)

    values = np.log(np.asarray(draw_nsr(jax.random.key(0)), np.float64))
    assert values.mean() == pytest.approx(mean, abs=5 * std / np.sqrt(n))
    assert values.std() == pytest.approx(std, rel=0.03)
    skew = np.mean((values - mean) ** 3) / std**3
    assert abs(skew) < 0.15


def test_log_normal_times_stay_within_the_schedule():
    t = draw_rows(losses.LogNormalTimes(0.0, 50.0), schedules.Karras(), 1000, 1)
    assert ((t >= 0) & (t <= 1)).all()


# By the second moment of the losses


SCHEDULE = schedules.Cosine(steps=6)
TIMES = LossSecondMomentTimes(history=3, uniform=0.1)


def expected_probabilities(record, times=TIMES):
    """Eq. 18 of Nichol and Dhariwal (2021), of a deque for each time."""
    if any(len(row) < times.history for row in record):
        return np.full(len(record), 1 / len(record))
    root = np.sqrt([np.mean(np.square(row)) for row in record])
    return (1 - times.uniform) * root / root.sum() + times.uniform / len(record)


def test_the_newest_losses_of_each_time_are_kept():
    """Batches where a time comes up more often than is kept, and others where it doesn't at all."""
    rng = np.random.default_rng(0)
    update = quick_jit(lambda memory, t, values: TIMES.update(memory, SCHEDULE, t, values))
    memory = TIMES.init(SCHEDULE)
    record = [collections.deque(maxlen=3) for _ in range(6)]
    known = []
    for step in range(12):
        k = rng.integers(2, 7, 10) if step < 3 else rng.integers(1, 7, 10) ** 2 // 7 + 1
        values = np.exp(rng.normal(size=10)).astype(np.float32) * k
        memory = update(memory, jnp.float32(k / 6), values)
        for time, value in zip(k, values, strict=True):
            record[time - 1].append(value)
        found = TIMES.probabilities(memory)
        np.testing.assert_allclose(found, expected_probabilities(record), rtol=1e-5)
        known.append(len(set(np.asarray(found).tolist())) > 1)
    assert (known[0], known[-1]) == (False, True)  # uniform at first, and not forever


def memory_of(root, counts=3):
    """A memory in which the losses of each time have this root of the second moment."""
    rows = np.asarray(root)[:, None] * np.sqrt([0.3, 0.7, 2.0])
    return LossHistory(jnp.float32(rows), jnp.full(len(rows), counts, jnp.int32))


N = 6000
draw = quick_jit(lambda key, memory: TIMES.draw_weighted(key, SCHEDULE, N, memory))


def drawn(memory, seed=0):
    t, weight = draw(jax.random.key(seed), memory)
    k = np.rint(np.asarray(t, np.float64) * 6).astype(int)
    np.testing.assert_allclose(t, k / 6, rtol=1e-6)
    return k, np.asarray(weight, np.float64)


ROOT = np.array([9.0, 4.0, 0.0, 1.0, 1.0, 5.0])


def test_times_come_up_as_often_as_they_should():
    k, weight = drawn(memory_of(ROOT))
    p = expected_probabilities([[r] * 3 for r in ROOT])
    counts = np.bincount(k, minlength=7)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / N, p, atol=2 / N)  # stratified: no luck in it
    np.testing.assert_allclose(weight, (1 / (6 * p))[k - 1], rtol=1e-5)


def test_the_weighted_mean_is_that_over_all_times():
    """E[w L] over p is the plain mean of L, whatever L is."""
    k, weight = drawn(memory_of(ROOT))
    values = np.array([7.0, 3.0, 50.0, 2.0, 0.5, 11.0])
    assert np.mean(weight * values[k - 1]) == pytest.approx(values.mean(), rel=5e-3)


@pytest.mark.parametrize(("counts", "root"), [(2, ROOT), (3, 0 * ROOT)])
def test_until_losses_are_known_all_times_are_equally_likely(counts, root):
    k, weight = drawn(memory_of(root, counts))
    np.testing.assert_allclose(np.bincount(k, minlength=7)[1:], 1000, atol=1)
    np.testing.assert_allclose(weight, 1, rtol=1e-6)


def test_draws_are_in_random_order_and_of_their_key():
    (a, _), (again, _), (b, _) = (drawn(memory_of(ROOT), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert (a != b).any()
    assert (np.diff(a) < 0).any()


def test_a_loss_remembers_what_its_times_do():
    loss = losses.DiffusionLoss(SCHEDULE, predictions.V(), times=TIMES)
    assert jax.tree.map(jnp.shape, loss.init()) == LossHistory((6, 3), (6,))

    def step(key, memory):
        examples = loss.draw(key, {"image": jnp.zeros((4, 2, 2, 1))}, memory)
        return examples, loss.update(memory, examples, jnp.arange(4.0))

    examples, memory = quick_jit(step)(jax.random.key(0), memory_of(ROOT))
    k = np.rint(examples.t * 6).astype(int)
    p = expected_probabilities([[r] * 3 for r in ROOT])
    np.testing.assert_allclose(examples.weight, 1 / (6 * p[k - 1]), rtol=1e-5)
    np.testing.assert_array_equal(memory.counts, 3 + np.bincount(k, minlength=7)[1:])
    assert losses.DiffusionLoss(SCHEDULE, predictions.V()).init() == ()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: losses.LogNormalTimes(std=0.0), "std = 0.0: must be > 0 and finite"),
        (lambda: LossSecondMomentTimes(history=0), "history = 0: must be an integer >= 1"),
        (lambda: LossSecondMomentTimes(uniform=0.0), r"uniform = 0.0: must be in \(0, 1\]"),
        (lambda: LossSecondMomentTimes(uniform=1.5), r"uniform = 1.5: must be in \(0, 1\]"),
        (
            lambda: losses.DiffusionLoss(schedules.RectifiedFlow(), predictions.V(), times=TIMES),
            "LossSecondMomentTimes cannot be used with RectifiedFlow, which is continuous; use a discrete",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says) as error:
        make()
    assert "\n" not in str(error.value)
