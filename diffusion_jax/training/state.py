"""Everything that a training step changes, as one pytree."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.training import spikes
from diffusion_jax.training.batch import check_channels_last
from diffusion_jax.training.losses import Loss

__all__ = ["Model", "TrainState"]


class Model(Protocol):
    """The interface of a network; Flax Linen modules have it.

    A run needs two more things: that the network is hashable, and an attribute `num_classes`, the number of classes
    that it takes (0: no classes). If the network has a method `check(image_shape)`, it is called before anything is
    compiled.
    """

    def init(self, key: jax.Array, x: jax.Array, time: jax.Array, labels: jax.Array) -> Any:
        """Parameters, from x [B, H, W, C], time [B] and labels int32 [B]."""

    def apply(self, params: Any, x: jax.Array, time: jax.Array, labels: Any, **kwargs: Any) -> Any:
        """The network's output, [B, H, W, C], or [B, H, W, 2 C] if it learns its variance.

        kwargs are train=True and rngs={"dropout": key}, and x0_hat [B, H, W, C] if it is self-conditioned.
        """


@register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State of a training run after `step` steps.

    Attributes:
      step: int32, counts every batch.
      params: the parameters.
      opt_state: the state of the optimizer.
      ema_params: the moving average of the parameters, float32.
      skipped: int32, the number of batches that were skipped, because something was not finite or a spike.
      memory: what the loss keeps from earlier batches; () for most losses.
      recent: the latest losses and gradient norms, float32 [2, 100], if spikes are skipped; otherwise ().

    >>> class Scale:  # any object with init and apply is a network
    ...     def init(self, key, x, time, labels):
    ...         return {"w": jnp.float32(0.5)}
    ...     def apply(self, params, x, time, labels, **kwargs):
    ...         return params["w"] * x
    >>> state = TrainState.create(jax.random.key(0), Scale(), optax.sgd(0.1), image_shape=(8, 8, 1))
    >>> state.ema_params
    {'w': Array(0.5, dtype=float32)}
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema_params: Any
    skipped: jax.Array
    memory: Any = ()
    recent: Any = ()

    @classmethod
    def create(
        cls,
        key: jax.Array,
        model: Model,
        tx: optax.GradientTransformation,
        image_shape: tuple[int, ...],
        shardings: Any = None,
        loss: Loss | None = None,
        skip_spikes: bool = False,
    ) -> "TrainState":
        """The state before the first step, for images of `image_shape` (H, W, C), or other data of any shape.

        `shardings`, a pytree like the state, places its leaves on devices. Pass `loss` if it learns from the batches,
        as with `losses.LossSecondMomentTimes`, and `skip_spikes` if the training step skips spikes.

        Raises ValueError for an image_shape (C, H, W).
        """

        check_channels_last("image_shape", image_shape)

        def init(key: jax.Array) -> "TrainState":
            x = jnp.zeros((1, *image_shape))
            params = model.init(key, x, jnp.zeros(1), jnp.zeros(1, jnp.int32))
            return cls(
                step=jnp.int32(0),
                params=params,
                opt_state=tx.init(params),
                ema_params=jax.tree.map(lambda p: p.astype(jnp.float32), params),
                skipped=jnp.int32(0),
                memory=() if loss is None else loss.init(),
                recent=spikes.init() if skip_spikes else (),
            )

        # Under jit, everything compiles together and no two leaves share a buffer, because the step donates them all.
        return jax.jit(init, out_shardings=shardings)(key)
