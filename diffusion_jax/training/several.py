"""Several training steps in one call, for devices that are faster than the host can start them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffusion_jax.runtime.mesh import batch_sharding
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import Batch, Metrics, TrainStep
from diffusion_jax.validation import check_integer

__all__ = ["TrainSteps", "make_train_steps"]


@dataclasses.dataclass(frozen=True)
class TrainSteps:
    """The jitted call (state, batches, key, n) -> (state, metrics); see `make_train_steps`."""

    program: Any

    def __call__(self, state: TrainState, batches: Batch, key: jax.Array, n: int) -> tuple[TrainState, Metrics]:
        check_integer("n", n, 1, _count(batches))
        return self.program(state, batches, key, n)

    def lower(self, state: Any, batches: Any, key: Any) -> jax.stages.Lowered:
        """The program for arrays, or shapes, like these, as `jax.jit` lowers it; it takes n too."""
        return self.program.lower(state, batches, key, _count(batches))


def make_train_steps(train_step: TrainStep, mesh: Mesh | None = None) -> TrainSteps:
    """Makes the call (state, batches, key, n) -> (state, metrics) of the first n of K training steps.

    `batches` are K batches, stacked: {"image": [K, B, H, W, C], "label": [K, B]}. Step i of the call takes batch i.
    Each metric has the shape [K], a value for each step; from n on they are 0. The old state is donated. Another n does
    not recompile, and the new state is that of n calls of `train_step`.

    Args:
      train_step: from `make_train_step`.
      mesh: the devices, as for `make_train_step`; each batch is split over all of them.

    The call raises ValueError unless n is from 1 to K.

    >>> import optax
    >>> class Scale:
    ...     def init(self, key, x, time, labels):
    ...         return {"w": jnp.float32(0.5)}
    ...     def apply(self, params, x, time, labels, **kwargs):
    ...         return params["w"] * x
    >>> tx, loss = optax.sgd(0.1), dj.losses.DiffusionLoss(dj.schedules.Cosine(), dj.predictions.V())
    >>> state = dj.TrainState.create(jax.random.key(0), Scale(), tx, image_shape=(8, 8, 1))
    >>> train_steps = make_train_steps(dj.make_train_step(Scale(), tx, loss))
    >>> batches = {"image": jnp.zeros((10, 16, 8, 8, 1), jnp.uint8)}
    >>> state, metrics = train_steps(state, batches, jax.random.key(1), n=7)
    >>> state.step.item(), metrics["loss"].shape
    (7, (10,))
    """

    # A loop of a length that is traced: one of a known length 1 is no loop to the compiler, and its body may then be
    # compiled in another way, with other roundings.
    def train_steps(state: TrainState, batches: Batch, key: jax.Array, n: jax.Array) -> tuple[TrainState, Metrics]:
        def pick(i: jax.Array) -> Batch:
            return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batches)

        def body(carry: Any) -> Any:
            i, state, history = carry
            state, metrics = train_step(state, pick(i), key)
            return i + 1, state, jax.tree.map(lambda all_steps, x: all_steps.at[i].set(x), history, metrics)

        _, shapes = jax.eval_shape(train_step, state, pick(jnp.int32(0)), key)
        history = jax.tree.map(lambda x: jnp.zeros((_count(batches), *x.shape), x.dtype), shapes)
        _, state, history = jax.lax.while_loop(lambda carry: carry[0] < n, body, (jnp.int32(0), state, history))
        return state, history

    sharding = None if mesh is None else batch_sharding(mesh, stacked=True)
    return TrainSteps(jax.jit(train_steps, donate_argnums=0, in_shardings=(None, sharding, None, None)))


def _count(batches: Any) -> int:
    """K, the number of batches that are stacked."""
    return jax.tree.leaves(batches)[0].shape[0]
