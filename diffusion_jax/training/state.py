"""Everything that a training step changes, as one pytree."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.training.losses import Loss


class Model(Protocol):
    """What the library asks of a network: a Flax Linen module is one.

    Runs ask for two things more: that it is hashable, and `num_classes`, the number of classes that it
    takes (0: none). A method `check(image_shape)` is called, where there is one, before anything is compiled.
    """

    def init(self, key: jax.Array, x: jax.Array, time: jax.Array, labels: jax.Array) -> Any:
        """Parameters, from x [B, H, W, C], time [B] and labels int32 [B]."""

    def apply(self, params: Any, x: jax.Array, time: jax.Array, labels: Any, **kwargs: Any) -> Any:
        """The network's output, [B, H, W, C], or [B, H, W, 2 C] where it learns its variance.

        kwargs are train=True and rngs={"dropout": key}, and x0_hat [B, H, W, C] where it is self-conditioned.
        """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State of a training run after `step` steps."""

    step: jax.Array  # int32, counts every batch
    params: Any
    opt_state: Any
    ema_params: Any  # float32
    skipped: jax.Array  # int32, batches whose loss or gradient was not finite
    memory: Any = ()  # what the loss remembers of the batches before

    @classmethod
    def create(
        cls,
        key: jax.Array,
        model: Model,
        tx: optax.GradientTransformation,
        image_shape: tuple[int, int, int],
        shardings: Any = None,
        loss: Loss | None = None,
    ) -> "TrainState":
        """The state before the first step, for pictures of `image_shape` (H, W, C).

        `shardings`, a pytree like the state, says where its leaves live. `loss` is needed where it learns
        from the batches, as with `losses.LossSecondMomentTimes`.
        """

        def initial(key: jax.Array) -> "TrainState":
            x = jnp.zeros((1, *image_shape))
            params = model.init(key, x, jnp.zeros(1), jnp.zeros(1, jnp.int32))
            return cls(
                step=jnp.int32(0),
                params=params,
                opt_state=tx.init(params),
                ema_params=jax.tree.map(lambda p: p.astype(jnp.float32), params),
                skipped=jnp.int32(0),
                memory=() if loss is None else loss.init(),
            )

        # Under jit the parts are compiled together, and no two leaves share a buffer: the step donates all.
        return jax.jit(initial, out_shardings=shardings)(key)
