"""The compiled programs that generate one batch."""

import functools
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from diffusion_jax.run.network import Network
from diffusion_jax.run.settings import Sampling
from diffusion_jax.runtime.mesh import replicated
from diffusion_jax.sampling import guidance
from diffusion_jax.sampling.denoiser import Denoise, clipped, denoiser
from diffusion_jax.sampling.grids import Grid
from diffusion_jax.sampling.loop import Frames, sample
from diffusion_jax.sampling.randomness import first_noise
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.sampling.thresholding import dynamic_threshold

__all__ = [
    "PROGRAMS",
    "Arguments",
    "PerImage",
    "Settings",
    "Shared",
    "Static",
    "generate_noise",
    "lower_batch",
    "network_denoiser",
    "run_batch",
    "sample_batch",
    "sample_images",
]


# The programs that are kept: tens of MiB of code each. The one that was not used for longest is dropped first.
PROGRAMS = 32


class PerImage(NamedTuple):
    """The inputs that differ from image to image."""

    indices: Any  # int [B], the positions of the images in the endless sequence of the key
    labels: Any  # int32 [B]
    noise: Any | None  # [B, H, W, C] to start from; None for the noise of the key
    scale: Any | None  # [B], of guidance; None for no guidance


class Shared(NamedTuple):
    """The inputs that all images share. They are traced: only changing between None and a value recompiles."""

    sampler: Sampler
    interval: tuple[Any, Any] | None  # noise levels at which guidance acts; None for all
    rescale: Any | None  # factor of `guidance.rescale`
    threshold: Any | None  # quantile of `dynamic_threshold`


class Arguments(NamedTuple):
    """The checked inputs of `sample` and `denoiser`."""

    labels: np.ndarray  # int32 [n]
    scale: np.ndarray | None  # of guidance, float32 [n]; None if no image is guided
    shared: Shared
    settings: Sampling
    networks: tuple[Network, Network | None]  # this network and the weaker one
    params: tuple[Any, Any]  # theirs


class Settings(TypedDict):
    """What a program is compiled for, beside the shapes of its inputs."""

    network: Network
    weaker: Network | None
    steps: int
    grid: Grid
    clip: bool
    keep: int
    keep_x0: bool


class Static(Settings):
    """`Settings`, and the devices of `sample_batch`."""

    mesh: Mesh


def run_batch(
    params: tuple[Any, Any], key: jax.Array, images: PerImage, shared: Shared, **static: Unpack[Static]
) -> Any:
    """`sample_batch`, compiled: the programs of the last PROGRAMS different calls are kept and used again."""
    leaves, structure = jax.tree.flatten((params, key, images, shared))
    return _compile(structure, tuple(map(jax.typeof, leaves)), **static)(params, key, images, shared)


def lower_batch(
    params: tuple[Any, Any], key: Any, images: PerImage, shared: Shared, **static: Unpack[Static]
) -> jax.stages.Lowered:
    """The program of `run_batch`, not yet compiled; the arguments may be shapes."""
    return jax.jit(functools.partial(sample_batch, **static)).lower(params, key, images, shared)


def sample_batch(
    params: tuple[Any, Any],
    key: jax.Array,
    images: PerImage,
    shared: Shared,
    *,
    mesh: Mesh,
    **static: Unpack[Settings],
) -> Any:
    """One batch of images, replicated on all processes. `params` are the network's and the weaker network's."""
    # Each device generates its part with the program that a single device would run. If the compiler split the
    # batch, it would also round differently.
    split = PartitionSpec(mesh.axis_names)
    everywhere, split_frames = PartitionSpec(), PartitionSpec(None, mesh.axis_names)
    frames: Any = Frames(everywhere, split_frames, split_frames if static["keep_x0"] else None)  # type: ignore
    sampled = jax.shard_map(
        functools.partial(sample_images, **static),
        mesh=mesh,
        in_specs=(everywhere, everywhere, split, everywhere),
        out_specs=(split, frames) if static["keep"] else split,
        check_vma=False,
    )(params, key, images, shared)
    return jax.lax.with_sharding_constraint(sampled, replicated(mesh))


def sample_images(
    params: tuple[Any, Any],
    key: jax.Array,
    images: PerImage,
    shared: Shared,
    *,
    network: Network,
    weaker: Network | None,
    steps: int,
    grid: Grid,
    clip: bool,
    keep: int,
    keep_x0: bool,
) -> Any:
    """The part of a batch that one device generates, as `dj.sample` returns it: not yet clipped to [-1, 1]."""
    return sample(
        key,
        network_denoiser(network, weaker, params, images, shared, clip),
        network.schedule,
        (images.indices.shape[0], *network.image_shape),
        sampler=shared.sampler,
        steps=steps,
        grid=grid,
        indices=images.indices,
        noise=images.noise,
        keep=keep,
        keep_x0=keep_x0,
    )


def generate_noise(key: jax.Array, n: int, image_shape: tuple[int, ...]) -> jax.Array:
    """The noise [n, *image_shape] that the images 0..n-1 of `key` start from."""
    return _compile_noise(n, image_shape)(key, np.arange(n))


# A jitted function of its own for each program: the code is freed with the function, which jit alone never does.
@functools.lru_cache(PROGRAMS)
def _compile(_structure: Any, _types: tuple, **static: Any) -> Any:
    return jax.jit(functools.partial(sample_batch, **static))


@functools.lru_cache(PROGRAMS)
def _compile_noise(_n: int, image_shape: tuple[int, ...]) -> Any:
    return jax.jit(functools.partial(first_noise, shape=image_shape))


def network_denoiser(
    network: Network,
    weaker: Network | None,
    params: tuple[Any, Any],
    images: PerImage,
    shared: Shared,
    clip: bool,
) -> Denoise:
    """The network as a denoiser, guided, rescaled and clipped according to the inputs."""
    schedule = network.schedule
    main = denoise = _plain_denoiser(network, params[0], images.labels)
    if images.scale is not None:
        scale = images.scale
        if shared.interval is not None:
            scale = guidance.interval(scale, schedule, *shared.interval)
        if weaker is not None:
            denoise = guidance.autoguidance(main, _plain_denoiser(weaker, params[1], images.labels), scale)
        else:
            denoise = guidance.classifier_free(main, _plain_denoiser(network, params[0], None), scale)
        if shared.rescale is not None:
            denoise = guidance.rescale(denoise, main, schedule, shared.rescale)
    if shared.threshold is not None:
        return dynamic_threshold(denoise, schedule, shared.threshold)
    return clipped(denoise, schedule) if clip else denoise


def _plain_denoiser(network: Network, params: Any, labels: jax.Array | None) -> Denoise:
    labels = labels if network.num_classes else None
    return denoiser(network.model.apply, params, network.schedule, network.prediction, labels)
