"""One training step, as a pure function."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from diffusion_jax.runtime.mesh import batch_sharding, state_sharding
from diffusion_jax.training import ema, spikes
from diffusion_jax.training.batch import Batch, are_classes, are_pixels
from diffusion_jax.training.losses import Examples, Loss
from diffusion_jax.training.state import Model, TrainState
from diffusion_jax.validation import check_divides, checked, integer, number

__all__ = ["CAUSES", "Batch", "Metrics", "TrainStep", "make_train_step"]

Metrics = dict[str, jax.Array]
# Why a batch is skipped, by the metric "cause".
CAUSES = (
    "",
    "the images are not finite",
    "the images are far outside [-1, 1]: floats must be x/127.5 - 1 of pixels x in 0..255",
    "a label is not a class of the network",
    "the loss is not finite",
    "the gradient is not finite",
    "the updated parameters are not finite",
    "the loss or the gradient norm is far above its median",
)
TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


@checked(ema_decay=number("[0, 1)"), accumulate=integer(1), skip_spikes=number("[0, inf)"))
def make_train_step(
    model: Model,
    tx: optax.GradientTransformation,
    loss: Loss,
    *,
    ema_decay: float = 0.999,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    lr_schedule: optax.Schedule | None = None,
    skip_spikes: float = 0.0,
) -> TrainStep:
    """Makes the jitted step (state, batch, key) -> (state, metrics); the old state is donated.

    A batch is {"image": uint8 [B, H, W, C] or float in [-1, 1], "label": int [B]}; the label may be missing.

    All randomness comes from fold_in(key, state.step), so one key serves the whole run. A batch whose images, loss,
    gradient or update are not finite, whose float images are far outside [-1, 1], or with a label that the network
    does not have is counted in `skipped` and changes nothing else. If the loss learns from the
    batches, its memory is part of the state: `TrainState.create(..., loss=loss)`. The metrics are the scalars loss,
    grad_norm, skipped, cause (why this batch was skipped, an index of `CAUSES`; 0 if it was not) and, with
    `lr_schedule`, learning_rate; they stay on the device.

    Args:
      model: the network.
      tx: the optimizer. One that takes extra arguments, such as optax.lbfgs or optax.contrib.reduce_on_plateau,
        receives the batch's value (its mean loss), grad and value_fn, with the same noise and dropout.
      loss: the training loss.
      ema_decay: decay of the averaged parameters after the warm-up, in [0, 1).
      accumulate: number of micro-batches, computed one after another, into which a batch is split; it must divide the
        batch size. Except for rounding (and the dropout masks) the result is the same as for one batch.
      mesh: the devices; the batch is split over all of them, the state over 'fsdp'.
      lr_schedule: the learning rate schedule of `tx`; its value at each update becomes the metric learning_rate.
      skip_spikes: also skips a batch whose loss or gradient norm exceeds this multiple of the median of the last 100
        that counted; 0 for never. Needs `TrainState.create(..., skip_spikes=True)`.

    Raises ValueError if ema_decay or accumulate is out of range, and when the step is traced, if accumulate does not
    divide the batch, the state lacks the memory of the loss, or the batch has other keys, types or shapes.

    >>> class Scale:
    ...     def init(self, key, x, time, labels):
    ...         return {"w": jnp.float32(0.5)}
    ...     def apply(self, params, x, time, labels, **kwargs):
    ...         return params["w"] * x
    >>> tx, loss = optax.sgd(0.1), dj.losses.DiffusionLoss(dj.schedules.Cosine(), dj.predictions.V())
    >>> state = dj.TrainState.create(jax.random.key(0), Scale(), tx, image_shape=(8, 8, 1))
    >>> train_step = make_train_step(Scale(), tx, loss)
    >>> batch = {"image": jnp.zeros((16, 8, 8, 1), jnp.uint8)}
    >>> state, metrics = train_step(state, batch, jax.random.key(1))
    >>> state.step.item(), sorted(metrics)
    (1, ['cause', 'grad_norm', 'loss', 'skipped'])
    """

    def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        _check_memory(loss, state)
        if bool(skip_spikes) != isinstance(state.recent, jax.Array):
            raise ValueError(f"skip_spikes = {skip_spikes}: use TrainState.create(skip_spikes={bool(skip_spikes)})")
        key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        examples = loss.draw(key, batch, state.memory)
        value, losses, grads = _compute_gradient(model, loss, state.params, examples, dropout_key, accumulate)
        grad_norm = optax.tree.norm(grads)
        compute_value = partial(_compute_value, model, loss, examples, dropout_key, accumulate)
        updated = _apply_gradient(state, value, grads, compute_value, tx, ema_decay)
        updated = dataclasses.replace(updated, memory=loss.update(state.memory, examples, losses))
        # Includes the parameters, because a step size that overflows makes them NaN from a finite gradient.
        cause = _find_cause(
            jnp.isfinite(examples.x0).all(),
            are_pixels(examples.x0),
            are_classes(batch.get("label"), getattr(model, "num_classes", 0)),
            jnp.isfinite(value),
            jnp.isfinite(grad_norm),
            jnp.isfinite(optax.tree.norm(updated.params)),
            ~spikes.is_spike(state.recent, value, grad_norm, skip_spikes),
        )
        updated = dataclasses.replace(updated, recent=spikes.push(state.recent, value, grad_norm))
        new_state = jax.tree.map(lambda new, old: jnp.where(cause == 0, new, old), updated, state)
        skipped = state.skipped + jnp.where(cause == 0, 0, 1)
        new_state = dataclasses.replace(new_state, step=state.step + 1, skipped=skipped)
        if mesh is not None:
            # The new state has the sharding of the old one, so that the next call does not recompile.
            shardings = state_sharding(mesh, new_state)
            new_state = jax.lax.with_sharding_constraint(new_state, shardings)
        metrics = {"loss": value, "grad_norm": grad_norm, "skipped": skipped, "cause": cause}
        if lr_schedule is not None:
            metrics["learning_rate"] = jnp.float32(lr_schedule(state.step - state.skipped))
        return new_state, metrics

    if mesh is None:
        return jax.jit(train_step, donate_argnums=0)
    in_shardings = (None, batch_sharding(mesh), None)  # None: the sharding that the argument has
    return jax.jit(train_step, donate_argnums=0, in_shardings=in_shardings)


def _find_cause(*sound: jax.Array) -> jax.Array:
    """The index in `CAUSES` of the first that does not hold, int32; 0 if all hold."""
    each = jnp.stack(sound)
    return jnp.where(each.all(), 0, 1 + jnp.argmin(each)).astype(jnp.int32)


def _compute_gradient(
    model: Model,
    loss: Loss,
    params: Any,
    examples: Examples,
    dropout_key: jax.Array,
    accumulate: int,
) -> tuple[jax.Array, jax.Array, Any]:
    """(weighted mean of the losses, the losses [B], gradient of the mean), in `accumulate` micro-batches."""
    value_and_grad = jax.value_and_grad(partial(_mean_loss, model, loss), has_aux=True)
    if accumulate == 1:
        (value, losses), grads = value_and_grad(params, examples, dropout_key)
        return value, losses, grads

    def add(total: Any, i_and_part: tuple[jax.Array, Examples]) -> tuple[Any, jax.Array]:
        i, part = i_and_part
        (value, losses), grads = value_and_grad(params, part, jax.random.fold_in(dropout_key, i))
        return jax.tree.map(jnp.add, total, (value, grads)), losses

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    parts = jax.tree.map(lambda x: _split_batch(x, accumulate), examples)
    total, losses = jax.lax.scan(add, zero, (jnp.arange(accumulate), parts))
    value, grads = jax.tree.map(lambda x: x / accumulate, total)
    return value, _join_batch(losses), grads


def _compute_value(
    model: Model, loss: Loss, examples: Examples, dropout_key: jax.Array, accumulate: int, params: Any
) -> jax.Array:
    """The mean loss of `_compute_gradient` for other parameters, with the same noise and dropout."""
    dropout_key = jax.random.clone(dropout_key)  # used again on purpose
    if accumulate == 1:
        return _mean_loss(model, loss, params, examples, dropout_key)[0]

    def compute(i_and_part: tuple[jax.Array, Examples]) -> jax.Array:
        i, part = i_and_part
        return _mean_loss(model, loss, params, part, jax.random.fold_in(dropout_key, i))[0]

    parts = jax.tree.map(lambda x: _split_batch(x, accumulate), examples)
    return jnp.mean(jax.lax.map(compute, (jnp.arange(accumulate), parts)))


def _mean_loss(model: Model, loss: Loss, params: Any, part: Examples, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(weighted mean of the losses, the losses [B])."""
    losses = loss.per_example(model.apply, params, part, train=True, rngs={"dropout": key})
    return jnp.mean(losses if part.weight is None else part.weight * losses), losses


def _split_batch(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] as [parts, B/parts, ...]; each part has every `parts`-th example, and so some from every device."""
    check_divides("accumulate", parts, "batch size", x.shape[0])
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


def _join_batch(parts: jax.Array) -> jax.Array:
    """The inverse of `_split_batch`."""
    return parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])


def _check_memory(loss: Loss, state: TrainState) -> None:
    expected = jax.tree.map(jnp.shape, jax.eval_shape(loss.init))
    if expected != jax.tree.map(jnp.shape, state.memory):
        raise ValueError(f"state.memory is not of this {type(loss).__name__}; use TrainState.create(..., loss=loss)")


def _apply_gradient(
    state: TrainState,
    value: jax.Array,
    grads: Any,
    compute_value: Callable[[Any], jax.Array],
    tx: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    """`state` with new parameters, their average and the optimizer's state; step and counts are unchanged."""
    update = optax.with_extra_args_support(tx).update
    extra = {"value": value, "grad": grads, "value_fn": compute_value}
    updates, opt_state = update(grads, state.opt_state, state.params, **extra)
    params = optax.apply_updates(state.params, updates)
    decay = ema.decay_at(state.step - state.skipped, ema_decay)
    ema_params = ema.update_average(state.ema_params, params, decay)
    return dataclasses.replace(state, params=params, opt_state=opt_state, ema_params=ema_params)
