"""Loss on held-out pictures, in all and by log-SNR."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.runtime.mesh import batch_sharding, put_batch
from diffusion_jax.training.losses import Loss
from diffusion_jax.training.state import Model

# Edges of the bins; the outer two are open.
LOG_SNR_EDGES = (-8.0, -4.0, 0.0, 4.0, 8.0)


def make_evaluate(
    model: Model, loss: Loss, mesh: Mesh, draws: int = 4
) -> Callable[[Any, Iterable[tuple[dict, np.ndarray]], jax.Array], dict[str, float]]:
    """evaluate(params, batches, key) -> {"eval_loss": ..., "eval_loss/log_snr_-4_0": ..., ...}.

    Each example is seen at `draws` noise levels, with its label, stratified times and the noise of `key`:
    the same in every evaluation, so that two differ by the parameters only. A self-conditioned network is
    shown its guess of every one. Other parts of the loss are told in all: "eval_vlb" of a `HybridLoss`.
    `batches` gives (batch, valid bool [B]), where examples that are not valid do not count.
    """
    loss = loss.evaluated()

    def sums(params: Any, batch: dict, valid: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """The sum of each part of the loss in each bin, [bins], and how many examples that is."""
        examples = loss.draw(key, batch)
        log_snr = loss.schedule.log_snr(examples.t)
        chosen = jnp.digitize(log_snr, jnp.asarray(LOG_SNR_EDGES))
        bins = jax.nn.one_hot(chosen, len(LOG_SNR_EDGES) + 1) * valid[:, None]
        parts = loss.parts(model.apply, params, examples)
        return {"count": bins.sum(0)} | {name: value @ bins for name, value in parts.items()}

    sharded = batch_sharding(mesh)
    jitted = jax.jit(sums, in_shardings=(None, sharded, sharded, None))

    def evaluate(params: Any, batches: Iterable, key: jax.Array) -> dict[str, float]:
        total: dict[str, jax.Array] = {}  # on the device until the end
        for i, (batch, valid) in enumerate(batches):
            arrays = put_batch(mesh, {**batch, "valid": valid})
            valid = arrays.pop("valid")
            for draw in range(draws):
                more = jitted(params, arrays, valid, jax.random.fold_in(key, draws * i + draw))
                total = jax.tree.map(jnp.add, total, more) if total else more
        return _named(jax.device_get(total))

    return evaluate


def _named(total: dict[str, np.ndarray]) -> dict[str, float]:
    counts = total.pop("count")
    edges = [f"{edge:g}" for edge in (-np.inf, *LOG_SNR_EDGES, np.inf)]
    named = {f"eval_{name}": float(value.sum() / counts.sum()) for name, value in total.items()}
    for low, high, value, count in zip(edges[:-1], edges[1:], total["loss"], counts, strict=True):
        if count:
            named[f"eval_loss/log_snr_{low}_{high}"] = float(value / count)
    return named
