"""The loss on held-out images, overall and by log-SNR."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.runtime.mesh import batch_sharding, put_batch
from diffusion_jax.training.losses import Loss
from diffusion_jax.training.state import Model

__all__ = ["LOG_SNR_EDGES", "make_evaluate"]

# Edges of the bins; the outer two bins are open.
LOG_SNR_EDGES = (-8.0, -4.0, 0.0, 4.0, 8.0)


def make_evaluate(
    model: Model, loss: Loss, mesh: Mesh, draws: int = 4
) -> Callable[[Any, Iterable[tuple[dict, np.ndarray]], jax.Array], dict[str, float]]:
    """Makes evaluate(params, batches, key) -> {"eval_loss": ..., "eval_loss/log_snr_-4_0": ..., ...}.

    Each example is evaluated at `draws` noise levels, with its label, at stratified times and with noise from
    `key`. Times and noise are the same in every evaluation, so two of them differ by the parameters only. A
    self-conditioned network always receives its own estimate. The other parts of a loss are reported as overall
    means, such as "eval_vlb" of a `HybridLoss`. `batches` yields (batch, valid bool [B]); examples that are not
    valid do not count.
    """
    loss = loss.for_evaluation()

    def sum_bins(params: Any, batch: dict, valid: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """The number of examples in each bin, [bins], and the sum of each part of the loss over them."""
        examples = loss.draw(key, batch)
        bin_of = jnp.digitize(loss.schedule.log_snr(examples.t), jnp.asarray(LOG_SNR_EDGES))
        bins = jax.nn.one_hot(bin_of, len(LOG_SNR_EDGES) + 1) * valid[:, None]  # [B, bins]
        parts = loss.parts(model.apply, params, examples)
        return {"count": bins.sum(0)} | {name: value @ bins for name, value in parts.items()}

    sharding = batch_sharding(mesh)
    sum_bins_jit = jax.jit(sum_bins, in_shardings=(None, sharding, sharding, None))

    def evaluate(params: Any, batches: Iterable, key: jax.Array) -> dict[str, float]:
        total: dict[str, jax.Array] = {}  # on the device until the end
        for i, (batch, valid) in enumerate(batches):
            arrays = put_batch(mesh, {**batch, "valid": valid})
            valid = arrays.pop("valid")
            for draw in range(draws):
                sums = sum_bins_jit(params, arrays, valid, jax.random.fold_in(key, draws * i + draw))
                total = jax.tree.map(jnp.add, total, sums) if total else sums
        return _compute_means(jax.device_get(total))

    return evaluate


def _compute_means(total: dict[str, np.ndarray]) -> dict[str, float]:
    counts = total.pop("count")
    edges = [f"{edge:g}" for edge in (-np.inf, *LOG_SNR_EDGES, np.inf)]
    means = {f"eval_{name}": float(value.sum() / counts.sum()) for name, value in total.items()}
    for low, high, value, count in zip(edges[:-1], edges[1:], total["loss"], counts, strict=True):
        if count:
            means[f"eval_loss/log_snr_{low}_{high}"] = float(value / count)
    return means
