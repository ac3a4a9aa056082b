"""The loss on held-out images, overall and by log-SNR."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.runtime.mesh import batch_sharding, put_batch, replicated
from diffusion_jax.training.losses import Loss
from diffusion_jax.training.state import Model

log = logging.getLogger(__name__)

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

    A loss that is not finite counts neither in its bin nor in the overall means; the number of examples that have
    such a loss is reported as "eval_non_finite", if there are any.
    """
    loss = loss.for_evaluation()

    def sum_bins(params: Any, batch: dict, valid: jax.Array, key: jax.Array) -> tuple[dict, jax.Array]:
        """The count of each bin and the sum of each part of the loss over it, [bins]; which losses are not finite."""
        examples = loss.draw(key, batch)
        bin_of = jnp.digitize(loss.schedule.log_snr(examples.t), jnp.asarray(LOG_SNR_EDGES))
        parts = loss.parts(model.apply, params, examples)
        finite = jnp.stack([jnp.isfinite(value) for value in parts.values()]).all(0)
        bins = jax.nn.one_hot(bin_of, len(LOG_SNR_EDGES) + 1) * (valid & finite)[:, None]  # [B, bins]
        # Selected instead of multiplied: NaN times 0 is NaN.
        sums = {name: jnp.where(finite, value, 0) @ bins for name, value in parts.items()}
        return sums | {"count": bins.sum(0)}, valid & ~finite

    sharding = batch_sharding(mesh)
    whole = replicated(mesh)
    sum_bins_jit = jax.jit(sum_bins, in_shardings=(None, sharding, sharding, None), out_shardings=(whole, sharding))
    add_jit = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
    count_jit = jax.jit(lambda masks: jnp.stack(masks).any(0).sum(), out_shardings=whole)

    def evaluate(params: Any, batches: Iterable, key: jax.Array) -> dict[str, float]:
        total: dict[str, jax.Array] = {}  # on the device until the end
        examples: list[jax.Array] = []  # the number of those with a loss that is not finite
        for i, (batch, valid) in enumerate(batches):
            # At most two batches are in flight: XLA's emulated devices block each other at 32 programs.
            previous, arrays = total, put_batch(mesh, {**batch, "valid": valid})
            valid, non_finite = arrays.pop("valid"), []
            for draw in range(draws):
                sums, mask = sum_bins_jit(params, arrays, valid, jax.random.fold_in(key, draws * i + draw))
                total = add_jit(total, sums) if total else sums
                non_finite.append(mask)
            examples.append(count_jit(non_finite))
            jax.block_until_ready(previous)
        means = _compute_means(jax.device_get(total))
        if count := int(sum(jax.device_get(examples))):
            means["eval_non_finite"] = count
            log.warning("%d held-out examples have a loss that is not finite; it does not count", count)
        return means

    return evaluate


def _compute_means(total: dict[str, np.ndarray]) -> dict[str, float]:
    counts = total.pop("count")
    edges = [f"{edge:g}" for edge in (-np.inf, *LOG_SNR_EDGES, np.inf)]
    count = counts.sum()
    means = {f"eval_{name}": float(value.sum() / count) if count else np.nan for name, value in total.items()}
    for low, high, value, count in zip(edges[:-1], edges[1:], total["loss"], counts, strict=True):
        if count:
            means[f"eval_loss/log_snr_{low}_{high}"] = float(value / count)
    return means
