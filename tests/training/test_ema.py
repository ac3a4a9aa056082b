import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.process import predictions, schedules
from diffusion_jax.training import ema
from diffusion_jax.training.losses import DiffusionLoss
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import make_train_step


def averaged(start, values, decay):
    """The average after seeing `values` one after the other."""
    average = start
    for step, value in enumerate(values):
        average = ema.update_average(average, value, ema.decay_at(jnp.int32(step), decay))
    return average


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_during_warm_up_the_start_counts_one_over_a_binomial(k):
    """prod (1 + i)/(10 + i) over i < k = k! 9!/(k + 9)!."""
    average = averaged(jnp.float32(1.0), [jnp.float32(0.0)] * k, 0.9999)
    assert float(average) == pytest.approx(1 / math.comb(k + 9, 9), rel=1e-5)


def test_after_warm_up_the_decay_is_constant():
    """(1 + i)/(10 + i) reaches 0.5 at i = 8; from there each update halves what is left."""
    average = averaged(jnp.float32(1.0), [jnp.float32(0.0)] * 18, 0.5)
    assert float(average) == pytest.approx(1 / math.comb(8 + 9, 9) * 0.5**10, rel=1e-5)


def test_constant_parameters_are_their_own_average():
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.float32(-3.5)}
    average = averaged(params, [params] * 7, 0.999)
    jax.tree.map(np.testing.assert_array_equal, average, params)


def test_warm_up_forgets_the_initial_weights():
    """A constant 0.9999 would still hold 37% of them."""
    steps = jnp.arange(10_000)
    left = float(jnp.exp(jnp.sum(jnp.log(ema.decay_at(steps, 0.9999)))))
    assert left < 1e-3


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_decay_rises_and_never_passes_its_limit(decay):
    values = np.asarray(ema.decay_at(jnp.arange(100_000), decay))
    assert (np.diff(values) >= 0).all()
    assert values[-1] == np.float32(decay)
    assert values.max() <= np.float32(decay)


def test_small_changes_of_bfloat16_parameters_add_up_in_float32():
    """In bfloat16, 1 + 1e-3 is 1: such an average never moves."""
    average, params = {"w": jnp.ones(3)}, {"w": jnp.full(3, 2.0, jnp.bfloat16)}
    for _ in range(10):
        average = ema.update_average(average, params, jnp.float32(0.999))
    assert average["w"].dtype == jnp.float32
    np.testing.assert_allclose(average["w"], 2 - 0.999**10, rtol=1e-6)


class Bias:
    """A network that gives one learned number everywhere."""

    def init(self, key, x, time, labels):
        return {"bias": jnp.float32(2.0)}

    def apply(self, params, x, time, labels, **kwargs):
        return jnp.broadcast_to(params["bias"], x.shape)


def test_the_training_step_averages_the_new_parameters():
    """The first decay is 1/10, so that the average is 0.1 old + 0.9 new."""
    tx = optax.sgd(0.1)
    loss = DiffusionLoss(schedules.RectifiedFlow(), predictions.Velocity())
    state = TrainState.create(jax.random.key(0), Bias(), tx, (4, 4, 1))
    batch = {"image": jnp.zeros((8, 4, 4, 1), jnp.uint8), "label": jnp.zeros(8, jnp.int32)}
    new, _ = make_train_step(Bias(), tx, loss)(state, batch, jax.random.key(1))
    moved = float(new.params["bias"])
    assert abs(moved - 2.0) > 0.01
    assert float(new.ema_params["bias"]) == pytest.approx(0.1 * 2.0 + 0.9 * moved, rel=1e-6)
