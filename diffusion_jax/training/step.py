"""One training step, as a pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from diffusion_jax.runtime.mesh import batch_sharding, state_sharding
from diffusion_jax.training import ema
from diffusion_jax.training.losses import Examples, Loss
from diffusion_jax.training.state import Model, TrainState
from diffusion_jax.validation import check_integer, check_number

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def make_train_step(
    model: Model,
    tx: optax.GradientTransformation,
    loss: Loss,
    *,
    ema_decay: float = 0.999,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    lr_schedule: optax.Schedule | None = None,
) -> TrainStep:
    """The jitted step (state, batch, key) -> (state, metrics); the old state is donated.

    All randomness comes from fold_in(key, state.step), so one key serves the whole run. A batch whose
    loss, gradient or update is not finite is counted in `skipped` and changes nothing else. A loss that
    learns from the batches has its memory in the state: `TrainState.create(..., loss=loss)`. Metrics are the
    scalars loss, grad_norm, skipped and, with `lr_schedule`, learning_rate, left on the device.

    Args:
      ema_decay: of the averaged parameters, after its warm-up.
      accumulate: micro-batches that a batch is computed in, one after the other; their number must
        divide the batch. Apart from rounding (and dropout's draws) the result is that of one batch.
      mesh: where to compute: the batch split over its devices, the state over 'fsdp'.
      lr_schedule: that of `tx`, to report its value at this update as the metric learning_rate.
    """
    check_number("ema_decay", ema_decay, "[0, 1)")
    check_integer("accumulate", accumulate, 1)

    def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        _check_memory(loss, state)
        key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        examples = loss.draw(key, batch, state.memory)
        value, losses, grads = gradient(model, loss, state.params, examples, dropout_key, accumulate)
        grad_norm = optax.tree.norm(grads)
        updated = _update(state, grads, tx, ema_decay)
        updated = dataclasses.replace(updated, memory=loss.update(state.memory, examples, losses))
        # The parameters too: a step size that overflows makes them NaN out of a sound gradient.
        norms = jnp.stack([value, grad_norm, optax.tree.norm(updated.params)])
        finite = jnp.isfinite(norms).all()
        new_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        skipped = state.skipped + jnp.where(finite, 0, 1)
        new_state = dataclasses.replace(new_state, step=state.step + 1, skipped=skipped)
        if mesh is not None:
            # The state leaves as it came, so that the next call finds the same program.
            shardings = state_sharding(mesh, new_state)
            new_state = jax.lax.with_sharding_constraint(new_state, shardings)
        metrics = {"loss": value, "grad_norm": grad_norm, "skipped": skipped}
        if lr_schedule is not None:
            metrics["learning_rate"] = jnp.float32(lr_schedule(state.step - state.skipped))
        return new_state, metrics

    if mesh is None:
        return jax.jit(train_step, donate_argnums=0)
    in_shardings = (None, batch_sharding(mesh), None)  # None: as the argument comes
    return jax.jit(train_step, donate_argnums=0, in_shardings=in_shardings)


def gradient(
    model: Model,
    loss: Loss,
    params: Any,
    examples: Examples,
    dropout_key: jax.Array,
    accumulate: int,
) -> tuple[jax.Array, jax.Array, Any]:
    """(weighted mean of the losses, the losses [B], gradient of the mean), in `accumulate` micro-batches."""

    def mean_loss(params: Any, part: Examples, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        kwargs = {"train": True, "rngs": {"dropout": key}}
        losses = loss.per_example(model.apply, params, part, **kwargs)
        return jnp.mean(losses if part.weight is None else part.weight * losses), losses

    value_and_grad = jax.value_and_grad(mean_loss, has_aux=True)
    if accumulate == 1:
        (value, losses), grads = value_and_grad(params, examples, dropout_key)
        return value, losses, grads

    def add(total: Any, i_and_part: tuple[jax.Array, Examples]) -> tuple[Any, jax.Array]:
        i, part = i_and_part
        (value, losses), grads = value_and_grad(params, part, jax.random.fold_in(dropout_key, i))
        return jax.tree.map(jnp.add, total, (value, grads)), losses

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    parts = jax.tree.map(lambda x: _split(x, accumulate), examples)
    total, losses = jax.lax.scan(add, zero, (jnp.arange(accumulate), parts))
    value, grads = jax.tree.map(lambda x: x / accumulate, total)
    return value, _joined(losses), grads


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] as [parts, B/parts, ...], each part taken from all over the batch and so from every device."""
    if x.shape[0] % parts:
        raise ValueError(f"accumulate = {parts}: must divide the batch of {x.shape[0]}")
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


def _joined(parts: jax.Array) -> jax.Array:
    """The inverse of `_split`."""
    return parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])


def _check_memory(loss: Loss, state: TrainState) -> None:
    wanted = jax.tree.map(jnp.shape, jax.eval_shape(loss.init))
    if wanted != jax.tree.map(jnp.shape, state.memory):
        raise ValueError(
            f"state.memory is not that of this {type(loss).__name__}; use TrainState.create(..., loss=loss)"
        )


def _update(state: TrainState, grads: Any, tx: optax.GradientTransformation, ema_decay: float) -> TrainState:
    """`state` with its parameters moved along `grads` and averaged, step and counts as they were."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema.decay_at(state.step - state.skipped, ema_decay)
    ema_params = ema.update(state.ema_params, params, decay)
    return dataclasses.replace(state, params=params, opt_state=opt_state, ema_params=ema_params)
