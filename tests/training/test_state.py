import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest
import tiny

import diffusion_jax as dj


def test_a_new_state_starts_at_zero_with_the_average_on_the_parameters():
    state = dj.TrainState.create(jax.random.key(0), tiny.Affine(), optax.adam(1.0), (4, 4, 1))
    assert int(state.step) == int(state.skipped) == 0
    assert jax.tree.map(float, state.ema_params["w"]) == float(state.params["w"])


def test_the_average_of_half_precision_parameters_is_in_float32():
    class Half(tiny.Affine):
        def init(self, *args):
            return jax.tree.map(lambda x: x.astype(jnp.bfloat16), super().init(*args))

    state = dj.TrainState.create(jax.random.key(0), Half(), optax.adam(1.0), (4, 4, 1))
    assert state.params["w"].dtype == jnp.bfloat16
    assert state.ema_params["w"].dtype == jnp.float32


def test_no_two_leaves_share_a_buffer():
    """A donated buffer can be given away once."""
    state = dj.TrainState.create(jax.random.key(0), tiny.Affine(), optax.adam(1.0), (4, 4, 1))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)


def test_a_loss_that_remembers_has_its_memory_in_the_state():
    arguments = (jax.random.key(0), tiny.Learned(), optax.adam(1.0), (4, 4, 1))
    state = dj.TrainState.create(*arguments, loss=tiny.learning_loss())
    assert state.memory.losses.shape == (4, 2)
    assert dj.TrainState.create(*arguments).memory == ()
    assert dj.TrainState.create(*arguments, loss=tiny.loss()).memory == ()


def test_a_state_cannot_be_changed_in_place():
    """A step returns a new state; who keeps the old one must be able to trust it."""
    state = dj.TrainState.create(jax.random.key(0), tiny.Affine(), optax.adam(1.0), (4, 4, 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.params = {}


def test_room_for_the_latest_losses_only_if_spikes_are_skipped():
    arguments = (jax.random.key(0), tiny.Affine(), optax.adam(1.0), (4, 4, 1))
    assert dj.TrainState.create(*arguments, skip_spikes=True).recent.shape == (2, 100)
    assert dj.TrainState.create(*arguments).recent == ()
