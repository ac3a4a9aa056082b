"""Drawing of times, noise, dropped labels and self-conditioning; and the first pass of self-conditioning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import quick_jit

from diffusion_jax.process import predictions, schedules
from diffusion_jax.process.pixels import NO_LABEL
from diffusion_jax.training import losses
from diffusion_jax.training.losses import DiffusionLoss, Examples, HybridLoss, UniformTimes

SCHEDULE = schedules.RectifiedFlow()
N = 4000


def make_loss(label_drop=0.1, schedule=SCHEDULE, times=UniformTimes(), self_condition=0.0):
    settings = {"times": times, "label_drop": label_drop, "self_condition": self_condition}
    return DiffusionLoss(schedule, predictions.V(), **settings)


@functools.cache
def jit_draw(loss):
    return quick_jit(loss.draw)


def draw(loss, seed=0, n=N, side=1):
    """Examples of n black images with labels 0, 1, .., 9, 0, .."""
    batch = {"image": jnp.zeros((n, side, side, 1)), "label": jnp.arange(n) % 10}
    return jit_draw(loss)(jax.random.key(seed), batch)


# Times, noise and labels


@pytest.mark.parametrize("times", [UniformTimes(), losses.LogNormalTimes()], ids=lambda times: type(times).__name__)
@pytest.mark.parametrize("steps", [1, 1000, 4000])
def test_a_discrete_schedule_is_only_trained_at_its_steps(steps, times):
    loss = make_loss(schedule=schedules.Cosine(steps=steps), times=times)
    t = np.asarray(draw(loss).t)
    k = np.rint(t.astype(np.float64) * steps)
    np.testing.assert_allclose(t, k / steps, rtol=2e-7)
    assert ((k >= 1) & (k <= steps)).all()


def test_all_steps_of_a_discrete_schedule_are_equally_likely():
    t = draw(make_loss(schedule=schedules.Cosine(steps=4))).t
    counts = np.bincount(np.rint(np.asarray(t) * 4).astype(int), minlength=5)
    assert counts[0] == 0
    assert (np.abs(counts[1:] - N / 4) < 5 * np.sqrt(N * 0.25 * 0.75)).all()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_each_label_is_dropped_independently_at_the_rate(rate):
    first, second = (np.asarray(draw(make_loss(rate), seed).labels) for seed in (0, 1))
    for labels in (first, second):
        dropped = labels == NO_LABEL
        assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / N)
        np.testing.assert_array_equal(labels[~dropped], (np.arange(N) % 10)[~dropped])
    both = np.mean((first == NO_LABEL) & (second == NO_LABEL))
    assert abs(both - rate**2) < 5 * rate / np.sqrt(N)


def test_labels_may_all_be_kept_or_all_be_dropped():
    np.testing.assert_array_equal(draw(make_loss(0.0), n=1000).labels, np.arange(1000) % 10)
    assert (draw(make_loss(1.0), n=1000).labels == NO_LABEL).all()


def test_a_batch_without_labels_has_no_labels():
    assert jax.eval_shape(make_loss().draw, jax.random.key(0), {"image": jnp.zeros((2, 4, 4, 1))}).labels is None


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"label_drop": 1.5}, r"label_drop = 1.5: must be in \[0, 1\]"),
        ({"label_drop": -0.1}, r"label_drop = -0.1: must be in \[0, 1\]"),
        ({"self_condition": 1.5}, r"self_condition = 1.5: must be in \[0, 1\]"),
        ({"self_condition": -0.1}, r"self_condition = -0.1: must be in \[0, 1\]"),
    ],
)
def test_a_rate_out_of_range_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_loss(**kwargs)


def draw_examples(seed):
    return draw(make_loss(0.5), seed, n=64, side=4)


def test_examples_depend_on_the_key_alone():
    jax.tree.map(np.testing.assert_array_equal, draw_examples(3), draw_examples(3))


@pytest.mark.parametrize("part", ["t", "eps", "labels"])
def test_another_key_changes_times_noise_and_dropped_labels(part):
    a, b = (np.asarray(getattr(draw_examples(seed), part)) for seed in (0, 1))
    assert (a != b).any()
    rows = a.reshape(len(a), -1)
    assert len(np.unique(rows, axis=0)) > 1  # and the examples differ from each other


def test_noise_is_standard_normal_and_not_shared():
    eps = np.asarray(draw_examples(0).eps).reshape(64, -1)
    assert abs(eps.mean()) < 5 / np.sqrt(eps.size)
    assert abs(eps.std() - 1) < 5 / np.sqrt(2 * eps.size)
    assert len(np.unique(eps)) > 0.99 * eps.size


def test_pixels_of_0_and_255_are_minus_one_and_one():
    levels = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    x0 = jit_draw(make_loss())(jax.random.key(0), {"image": levels}).x0
    assert x0.dtype == jnp.float32
    np.testing.assert_array_equal(x0.flatten(), [-1, 1])


# Who is self-conditioned


def test_self_conditioning_does_not_change_what_else_is_drawn():
    """Nor does it change examples of versions without it."""
    without, conditioned = draw(make_loss(0.5)), draw(make_loss(0.5, self_condition=0.3))
    assert without.self_conditioned is None
    jax.tree.map(np.testing.assert_array_equal, without, conditioned._replace(self_conditioned=None))


def test_each_example_is_self_conditioned_independently_at_the_rate():
    """And independently of the times, the noise and the labels, to which a key used twice would tie it."""
    drawn = [draw(make_loss(0.5, self_condition=0.3), seed) for seed in (0, 1)]
    rows = [np.asarray(examples.self_conditioned, float) for examples in drawn]
    for row in rows:
        assert abs(row.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / N)
    assert (rows[0] != rows[1]).any()
    for other in (drawn[0].t, drawn[0].eps[:, 0, 0, 0], drawn[0].labels < 0):
        assert abs(np.corrcoef(rows[0], other)[0, 1]) < 5 / np.sqrt(N)


def images(n=6, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (n, 4, 4, 1)), jnp.float32)


class Recorder:
    """w x + g x0_hat; it records the keyword arguments of its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, params, x, time, labels, **kwargs):
        self.calls.append(kwargs)
        return params["w"] * x + params["g"] * kwargs.get("x0_hat", jnp.zeros_like(x))


PARAMS = {"w": jnp.float32(0.6), "g": jnp.float32(0.3)}


def at_half(self_conditioned):
    n = len(self_conditioned)
    return Examples(images(n), None, jnp.full(n, 0.5), images(n, 1), jnp.asarray(self_conditioned))


def test_x0_hat_is_the_x0_of_the_first_pass_and_zeros_for_the_others():
    seen, network = at_half([True, False, True]), Recorder()
    loss = DiffusionLoss(SCHEDULE, predictions.Velocity(), self_condition=0.5)
    found = loss.per_example(network, PARAMS, seen, train=True, rngs={})
    first, second = network.calls
    x_t = (seen.x0 + seen.eps) / 2
    assert set(first) == {"x0_hat"}  # as in sampling: no dropout
    assert not np.asarray(first["x0_hat"]).any()
    assert second["train"] is True
    # eps - x0 = u and x_t = x0/2 + eps/2 give x0 = x_t - u/2.
    expected = (x_t - 0.6 * x_t / 2) * np.array([1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(second["x0_hat"], expected, atol=1e-6)
    error = 0.6 * x_t + 0.3 * expected - (seen.eps - seen.x0)
    np.testing.assert_allclose(found, np.mean(np.square(error), (1, 2, 3)), rtol=1e-5)


def test_no_gradient_flows_through_x0_hat():
    """With a constant x0-hat = w x, the slope of mean (w x + g x0-hat - x0)^2 in w is 2 mean(error x)."""
    seen = at_half([True] * 4)
    loss = DiffusionLoss(SCHEDULE, predictions.X0(), self_condition=1.0)
    slope = quick_jit(jax.grad(lambda p: loss.per_example(Recorder(), p, seen).mean()))(PARAMS)
    x = np.asarray(seen.x0 + seen.eps, np.float64) / 2
    error = 0.6 * x + 0.3 * (0.6 * x) - np.asarray(seen.x0)
    assert float(slope["w"]) == pytest.approx(2 * np.mean(error * x), rel=1e-4)
    assert float(slope["g"]) == pytest.approx(2 * np.mean(error * 0.6 * x), rel=1e-4)


def test_without_self_conditioning_the_network_is_called_once_and_without_x0_hat():
    network, seen = Recorder(), at_half([True])._replace(self_conditioned=None)
    DiffusionLoss(SCHEDULE, predictions.X0()).per_example(network, PARAMS, seen)
    assert network.calls == [{}]


def test_a_network_that_learns_its_variance_is_self_conditioned_too():
    seen, received = at_half([True, True]), []

    def network(params, x, time, labels, x0_hat):
        received.append(x0_hat)
        return jnp.concatenate([0.5 * x, jnp.ones_like(x)], axis=-1)

    loss = HybridLoss(schedules.Cosine(steps=4), predictions.X0(), self_condition=1.0)
    _, second = quick_jit(lambda: (loss.per_example(network, None, seen), received[1]))()
    np.testing.assert_allclose(second, 0.5 * loss.diffuse(seen)[0], rtol=1e-6)
