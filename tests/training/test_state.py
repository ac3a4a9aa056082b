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


@pytest.mark.parametrize(("model", "loss"), [(tiny.Affine(), tiny.loss()), (tiny.Learned(), tiny.learning_loss())])
def test_a_step_keeps_every_type_of_the_state_so_that_the_next_does_not_compile_again(model, loss):
    """Weak types too, which equal dtypes hide."""
    tx = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-3, 5, 20))
    state = jax.eval_shape(
        lambda key: dj.TrainState.create(key, model, tx, (4, 4, 1), loss=loss, skip_spikes=True), jax.random.key(0)
    )
    step = dj.make_train_step(model, tx, loss, skip_spikes=3.0)
    after, _ = jax.eval_shape(step, state, tiny.batch(), jax.random.key(1))
    types = [[(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(each)] for each in (state, after)]
    assert types[0] == types[1]
