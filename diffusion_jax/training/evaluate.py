"""Loss on held-out pictures, in all and by log-SNR."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.runtime.mesh import batch_sharding, put_batch
from diffusion_jax.training.losses import DiffusionLoss, StratifiedTimes
from diffusion_jax.training.state import Model

# Edges of the bins; the outer two are open.
LOG_SNR_EDGES = (-8.0, -4.0, 0.0, 4.0, 8.0)


def make_evaluate(
    model: Model, loss: DiffusionLoss, mesh: Mesh, draws: int = 4
) -> Callable[[Any, Iterable[tuple[dict, np.ndarray]], jax.Array], dict[str, float]]:
    """evaluate(params, batches, key) -> {"eval_loss": ..., "eval_loss/log_snr_-4_0": ..., ...}.

    Each example is seen at `draws` noise levels, with its label, stratified times and the noise of `key`:
    the same in every evaluation, so that two differ by the parameters only. `batches` gives
    (batch, valid bool [B]), where examples that are not valid do not count.
    """
    loss = dataclasses.replace(loss, label_drop=0.0, times=StratifiedTimes())

    def sums(params: Any, batch: dict, valid: jax.Array, key: jax.Array) -> jax.Array:
        """(sum of losses, count) for each bin, [bins, 2]."""
        examples = loss.draw(key, batch)
        value = loss.per_example(model.apply, params, examples)
        log_snr = loss.schedule.log_snr(examples.t)
        chosen = jnp.digitize(log_snr, jnp.asarray(LOG_SNR_EDGES))
        bins = jax.nn.one_hot(chosen, len(LOG_SNR_EDGES) + 1) * valid[:, None]
        return jnp.stack([value @ bins, bins.sum(0)], axis=-1)

    sharded = batch_sharding(mesh)
    jitted = jax.jit(sums, in_shardings=(None, sharded, sharded, None))

    def evaluate(params: Any, batches: Iterable, key: jax.Array) -> dict[str, float]:
        total = jnp.zeros((len(LOG_SNR_EDGES) + 1, 2))  # on the device until the end
        for i, (batch, valid) in enumerate(batches):
            arrays = put_batch(mesh, {**batch, "valid": valid})
            valid = arrays.pop("valid")
            for draw in range(draws):
                total += jitted(params, arrays, valid, jax.random.fold_in(key, draws * i + draw))
        return _named(jax.device_get(total))

    return evaluate


def _named(total: np.ndarray) -> dict[str, float]:
    edges = [f"{edge:g}" for edge in (-np.inf, *LOG_SNR_EDGES, np.inf)]
    named = {"eval_loss": float(total[:, 0].sum() / total[:, 1].sum())}
    for low, high, (value, count) in zip(edges[:-1], edges[1:], total, strict=True):
        if count:
            named[f"eval_loss/log_snr_{low}_{high}"] = float(value / count)
    return named
