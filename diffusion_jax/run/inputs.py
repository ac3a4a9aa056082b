"""The arguments of a run's methods, checked and converted."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.run.batch import Arguments, Shared
from diffusion_jax.run.settings import Overrides, Sampling
from diffusion_jax.validation import check_instance

if TYPE_CHECKING:
    from diffusion_jax.run.run import Run

__all__ = ["prepare_inputs"]


def prepare_inputs(
    run: "Run", n: int, labels: ArrayLike | None, sampling: Sampling | None, overrides: Overrides
) -> Arguments:
    """Checks and converts the arguments that `sample`, `denoiser`, `lower` and `export` of a run share."""
    from diffusion_jax.run.run import Run  # which imports this module

    settings = (run.sampling if sampling is None else sampling).override(**overrides)
    guidance, weaker, labelled = settings.guidance, settings.guidance.weaker, labels is not None
    if weaker is not None:
        check_instance("weaker", weaker, Run, 'dj.load("runs/weaker")')
        run.network.check_weaker(weaker.network, n, labelled)
    scale = run.network.guidance_scale(
        n,
        guidance.scale,
        labelled=labelled,
        weaker=weaker is not None,
        explicit=sampling is not None or overrides.get("guidance") is not None,
    )
    shared = Shared(
        sampler=run.network.adapt_sampler(settings.sampler),
        interval=tuple(jnp.float32(level) for level in guidance.interval) or None,
        rescale=jnp.float32(guidance.rescale) if guidance.rescale else None,
        threshold=jnp.float32(settings.threshold) if settings.threshold else None,
    )
    networks = run.network, None if weaker is None else weaker.network
    params = run.params, None if weaker is None else weaker.params
    return Arguments(run.network.label_rows(n, labels), scale, shared, settings, networks, params)
