"""The compiled program that draws one batch."""

import functools
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec

from diffusion_jax.run.network import Network
from diffusion_jax.runtime.mesh import replicated
from diffusion_jax.sampling import guidance
from diffusion_jax.sampling.denoiser import Denoise, clipped, denoiser
from diffusion_jax.sampling.grids import Grid
from diffusion_jax.sampling.sample import Frames, sample
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.sampling.thresholding import dynamic_threshold


class Pictures(NamedTuple):
    """What each picture of a batch has of its own."""

    indices: Any  # int [B], which pictures of the key's endless row
    labels: Any  # int32 [B]
    noise: Any | None  # [B, H, W, C] to start from; the key's own where None
    scale: Any | None  # [B], of guidance; None guides none


class Settings(NamedTuple):
    """What all pictures share, traced: another value does not recompile, None in place of one does."""

    sampler: Sampler
    interval: tuple[Any, Any] | None  # noise levels at which guidance acts; all
    rescale: Any | None  # factor of `guidance.rescale`; not at all
    threshold: Any | None  # quantile of `dynamic_threshold`; none


@functools.partial(
    jax.jit,
    static_argnames=("network", "weaker", "steps", "grid", "clip", "keep", "keep_x0", "mesh"),
)
def draw(
    params: tuple[Any, Any],
    key: jax.Array,
    pictures: Pictures,
    settings: Settings,
    *,
    network: Network,
    weaker: Network | None,
    steps: int,
    grid: Grid,
    clip: bool,
    keep: int,
    keep_x0: bool,
    mesh: Mesh,
) -> Any:
    """One batch of pictures, the same on every process. `params` are the network's and the weaker one's."""

    def draw_part(params, key, pictures, settings):
        return sample(
            key,
            network_denoiser(network, weaker, params, pictures, settings, clip),
            network.schedule,
            (len(pictures.indices), *network.image_shape),
            sampler=settings.sampler,
            steps=steps,
            grid=grid,
            indices=pictures.indices,
            noise=pictures.noise,
            keep=keep,
            keep_x0=keep_x0,
        )

    # Each device draws its part by itself, with the program that a single device would run: were the
    # compiler to split the batch, it would also round differently.
    split = PartitionSpec(mesh.axis_names)
    everywhere, split_frames = PartitionSpec(), PartitionSpec(None, mesh.axis_names)
    frames: Any = Frames(everywhere, split_frames, split_frames if keep_x0 else None)  # type: ignore
    drawn = jax.shard_map(
        draw_part,
        mesh=mesh,
        in_specs=(everywhere, everywhere, split, everywhere),
        out_specs=(split, frames) if keep else split,
        check_vma=False,
    )(params, key, pictures, settings)
    return jax.lax.with_sharding_constraint(drawn, replicated(mesh))


def network_denoiser(
    network: Network,
    weaker: Network | None,
    params: tuple[Any, Any],
    pictures: Pictures,
    settings: Settings,
    clip: bool,
) -> Denoise:
    """The network as a denoiser: guided, rescaled and within its range where asked for."""
    schedule = network.schedule
    main = denoise = _plain(network, params[0], pictures.labels)
    if pictures.scale is not None:
        scale = pictures.scale
        if settings.interval is not None:
            scale = guidance.interval(scale, schedule, *settings.interval)
        if weaker is not None:
            denoise = guidance.autoguidance(main, _plain(weaker, params[1], pictures.labels), scale)
        else:
            denoise = guidance.classifier_free(main, _plain(network, params[0], None), scale)
        if settings.rescale is not None:
            denoise = guidance.rescale(denoise, main, schedule, settings.rescale)
    if settings.threshold is not None:
        return dynamic_threshold(denoise, schedule, settings.threshold)
    return clipped(denoise, schedule) if clip else denoise


def _plain(network: Network, params: Any, labels: jax.Array | None) -> Denoise:
    labels = labels if network.num_classes else None
    return denoiser(network.model.apply, params, network.schedule, network.prediction, labels)
