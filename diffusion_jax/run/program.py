"""The program that an exported sampler holds: `Run.sample` on one device, for any number of images."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.process.pixels import NO_LABEL
from diffusion_jax.run.batch import PerImage, Shared, sample_images
from diffusion_jax.run.batches import MIN_IMAGES
from diffusion_jax.run.network import Network
from diffusion_jax.runtime.errors import first_line
from diffusion_jax.sampling.grids import Grid

__all__ = ["DTYPES", "Contents", "serialize_program", "stored_part"]

# Of the inputs that may be constants.
DTYPES = {"seed": np.uint32, "labels": np.int32, "guidance": np.float32}


class Contents(NamedTuple):
    """What the programs of a file share."""

    params: tuple[Any, Any]  # of the network and the weaker one
    shared: Shared
    constants: dict[str, Any]  # the inputs that are stored, by name; no labels for images of no class
    inputs: tuple[str, ...]  # those that the caller gives, beside `indices`
    networks: tuple[Network, Network | None]  # the network and the weaker one
    grid: Grid
    clip: bool


def stored_part(contents: Contents) -> tuple[Any, Shared, dict[str, Any]]:
    """What is an array in the file and an argument of its programs."""
    return contents.params, contents.shared, contents.constants


def serialize_program(
    contents: Contents, stored: Sequence[np.ndarray], steps: int, n: int | None, platforms: Sequence[str]
) -> np.ndarray:
    """The program of one number of steps, as bytes."""
    structure = jax.tree.structure(stored_part(contents))

    def generate(stored: list, *, indices: jax.Array, **given: jax.Array) -> jax.Array:
        params, shared, constants = jax.tree.unflatten(structure, stored)
        here = contents._replace(params=params, shared=shared, constants=constants)
        return _generate(here, indices, given, steps)

    batch = jax.export.symbolic_shape("n") if n is None else (n,)
    given = {name: jax.ShapeDtypeStruct(batch if name == "labels" else (), DTYPES[name]) for name in contents.inputs}
    abstract = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in stored]
    # JAX's check for keys that are used twice, off by default, cannot tell two halves of a batch of open size apart.
    with _without_positions(), _explain_symbols(n), jax.debug_key_reuse(False):
        program = jax.export.export(jax.jit(generate), platforms=platforms)
        exported = program(abstract, indices=jax.ShapeDtypeStruct(batch, jnp.int32), **given)
    return np.frombuffer(exported.serialize(), np.uint8)


def _generate(contents: Contents, indices: jax.Array, given: Mapping[str, jax.Array], steps: int) -> jax.Array:
    """The images `indices` as `Run.sample` computes them; NaN for one that is not finite or whose label is no class."""
    values, n = contents.constants | dict(given), indices.shape[0]
    # A single image is generated twice, as in `Run.sample`.
    rows = jnp.minimum(jnp.arange(jax.core.max_dim(n, MIN_IMAGES)), n - 1)
    labels = jnp.broadcast_to(values.get("labels", jnp.int32(NO_LABEL)), (n,))
    images = PerImage(indices[rows], labels[rows], None, None)
    key = jax.random.key(values["seed"], impl="threefry2x32")

    def plain() -> jax.Array:
        return _sample(contents, key, images, steps)

    def guided() -> jax.Array:
        scale = jnp.broadcast_to(values["guidance"], rows.shape)
        return _sample(contents, key, images._replace(scale=scale), steps)

    if "guidance" in given:  # `Run.sample` computes images of scale 1 without guidance
        x = jax.lax.cond(values["guidance"] == 1, plain, guided)[:n]
    else:
        x = (guided() if "guidance" in values else plain())[:n]
    has_class = (labels >= 0) & (labels < contents.networks[0].num_classes) if "labels" in given else True
    sound = has_class & jnp.isfinite(x).all(axis=range(1, x.ndim))
    return jnp.where(sound.reshape(-1, *[1] * (x.ndim - 1)), jnp.clip(x, -1, 1), jnp.nan)


def _sample(contents: Contents, key: jax.Array, images: PerImage, steps: int) -> jax.Array:
    return sample_images(
        contents.params,
        key,
        images,
        contents.shared,
        network=contents.networks[0],
        weaker=contents.networks[1],
        steps=steps,
        grid=contents.grid,
        clip=contents.clip,
        keep=0,
        keep_x0=False,
    )


@contextmanager
def _explain_symbols(n: int | None) -> Iterator[None]:
    """Raises ValueError where code of the network or the sampler needs to know the number of images, which is open."""
    try:
        yield
    except (TypeError, jax.errors.InconclusiveDimensionOperation) as error:
        if n is not None or (isinstance(error, TypeError) and "_DimExpr" not in str(error)):
            raise
        reason = f"the program cannot be written for any number of images ({first_line(error)})"
        raise ValueError(f"n: {reason}; give a fixed one, such as n=16") from error


@contextmanager
def _without_positions() -> Iterator[None]:
    """Leaves the names of source files and callers out of programs: nobody else's business, and not always the same."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
