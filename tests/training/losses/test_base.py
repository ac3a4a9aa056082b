"""Self-conditioning in the loss: a first pass, its guess, and who is shown it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import quick_jit

from diffusion_jax.process import predictions, schedules
from diffusion_jax.training.losses import DiffusionLoss, Examples, HybridLoss, UniformTimes

SCHEDULE = schedules.RectifiedFlow()


def images(n=6, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (n, 4, 4, 1)), jnp.float32)


N = 4000


@functools.cache
def drawer(rate):
    settings = {"times": UniformTimes(), "label_drop": 0.5, "self_condition": rate}
    return quick_jit(DiffusionLoss(SCHEDULE, predictions.X0(), **settings).draw)


def draw(rate, seed=0):
    batch = {"image": jnp.zeros((N, 1, 1, 1)), "label": jnp.arange(N) % 10}
    return drawer(rate)(jax.random.key(seed), batch)


def test_without_it_the_same_is_drawn_as_with_it():
    """And as there was before: nothing else moves when a network is given its guesses."""
    without, shown = draw(0.0), draw(0.3)
    assert without.self_conditioned is None
    jax.tree.map(np.testing.assert_array_equal, without, shown._replace(self_conditioned=None))


def test_who_is_shown_a_guess_is_drawn_for_each_example_at_the_rate():
    rows = [np.asarray(draw(0.3, seed).self_conditioned) for seed in (0, 1)]
    for row in rows:
        assert abs(row.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / N)
    assert (rows[0] != rows[1]).any()


def test_who_is_shown_a_guess_has_nothing_to_do_with_the_rest():
    """A key used twice would tie it to the times, the noise or the labels."""
    drawn = draw(0.3)
    others = {"t": drawn.t, "eps": drawn.eps[:, 0, 0, 0], "dropped": drawn.labels < 0}
    for other in others.values():
        assert abs(np.corrcoef(np.asarray(drawn.self_conditioned, float), other)[0, 1]) < 5 / np.sqrt(N)


class Recorder:
    """w x + g x0_hat, and what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, params, x, time, labels, **kwargs):
        self.calls.append(kwargs)
        guess = kwargs.get("x0_hat", jnp.zeros_like(x))
        return params["w"] * x + params["g"] * guess


PARAMS = {"w": jnp.float32(0.6), "g": jnp.float32(0.3)}


def at_half(guessed):
    n = len(guessed)
    return Examples(images(n), None, jnp.full(n, 0.5), images(n, 1), jnp.asarray(guessed))


def test_the_guess_is_the_first_pass_s_x0_and_zeros_for_the_others():
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


def test_no_gradient_flows_through_the_guess():
    """With x0-hat = w x held, the slope of mean (w x + g x0-hat - x0)^2 in w is 2 mean(error x)."""
    seen = at_half([True] * 4)
    loss = DiffusionLoss(SCHEDULE, predictions.X0(), self_condition=1.0)
    slope = quick_jit(jax.grad(lambda p: loss.per_example(Recorder(), p, seen).mean()))(PARAMS)
    x = np.asarray(seen.x0 + seen.eps, np.float64) / 2
    error = 0.6 * x + 0.3 * (0.6 * x) - np.asarray(seen.x0)
    assert float(slope["w"]) == pytest.approx(2 * np.mean(error * x), rel=1e-4)
    assert float(slope["g"]) == pytest.approx(2 * np.mean(error * 0.6 * x), rel=1e-4)


def test_without_it_the_network_is_called_once_and_shown_nothing():
    network, seen = Recorder(), at_half([True])._replace(self_conditioned=None)
    DiffusionLoss(SCHEDULE, predictions.X0()).per_example(network, PARAMS, seen)
    assert network.calls == [{}]


def test_a_guess_comes_of_a_network_that_learns_its_variance_too():
    seen, shown = at_half([True, True]), []

    def network(params, x, time, labels, x0_hat):
        shown.append(x0_hat)
        return jnp.concatenate([0.5 * x, jnp.ones_like(x)], axis=-1)

    loss = HybridLoss(schedules.Cosine(steps=4), predictions.X0(), self_condition=1.0)
    _, guess = quick_jit(lambda: (loss.per_example(network, None, seen), shown[1]))()
    np.testing.assert_allclose(guess, 0.5 * loss.diffuse(seen)[0], rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match=rf"self_condition = {rate}: must be in \[0, 1\]"):
        DiffusionLoss(SCHEDULE, predictions.X0(), self_condition=rate)
