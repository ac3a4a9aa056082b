"""Reverse sampling: the only loop over steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.grids import Grid, Uniform, times_of
from diffusion_jax.sampling.randomness import first_noise, fold, image_indices, image_keys
from diffusion_jax.sampling.samplers import DDIM, Sampler
from diffusion_jax.sampling.samplers.base import check_sampler
from diffusion_jax.validation import check_floats, check_instance, check_integer, describe


class Frames(NamedTuple):
    """States kept on the way, evenly spaced from noise to data.

    x0, None unless asked for, is what the denoiser makes of each; x itself where no noise is left.
    """

    times: jax.Array  # [k]
    x: jax.Array  # [k, B, H, W, C]
    x0: jax.Array | None  # [k, B, H, W, C]


def sample(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    shape: tuple[int, ...],
    *,
    sampler: Sampler = DDIM(),
    steps: int = 50,
    grid: Grid = Uniform(),
    times: ArrayLike | None = None,
    indices: ArrayLike | None = None,
    noise: ArrayLike | None = None,
    start: ArrayLike | None = None,
    keep: int = 0,
    keep_x0: bool = False,
):
    """Draws pictures by running `sampler` from noise at t = 1 to data at t = 0.

    Picture i depends on (denoise, settings, key, indices[i]) alone: not on the batch that it is drawn
    in, nor on the devices (but for the last bit, where the compiler rounds a batch of another shape
    otherwise). Works under the caller's jit; `steps`, `grid`, `times`, `keep` and `keep_x0` are static.

    Args:
      key: a threefry key (`jax.random.key(0)`); other generators draw a picture's noise from its batch.
      denoise: denoise(x_t, t) -> Denoised(x0, eps); see `denoiser` and `guidance`.
      shape: [B, H, W, C] of the pictures.
      steps, grid: the times are grid(schedule, steps).
      times: the times themselves in place of these, strictly decreasing within [0, 1].
      indices: int [B], which pictures of the endless row of this key; 0..B-1 unless given.
      noise: standard normal [B, H, W, C] to start from; `first_noise(key, indices, [H, W, C])` unless given.
        The key still draws the noise of later steps, where the sampler adds any.
      start: the state [B, H, W, C] at the first of the times, in place of sigma(t) times the noise.
      keep: number of states to keep, from the first noise to the result; 0 or at least 2.
      keep_x0: keep x0-hat of these too, which costs one more call of the denoiser for each.

    Returns:
      x float32 [B, H, W, C], or (x, Frames) when `keep` is asked for.

    Raises:
      ValueError: for a bad shape, sampler, steps, grid, times, keep, indices, noise or start, a key that is
        not one of threefry, and a denoiser that makes another shape of x_t.
    """
    if not isinstance(shape, tuple | list) or len(shape) < 2:
        raise ValueError(f"shape = {describe(shape)}: give [B, H, W, C]")
    for size in shape:
        check_integer("shape", size)
    times = times_of(grid, schedule, steps) if times is None else _checked(times)
    indices = image_indices(indices, shape[0])
    keys = image_keys(key, indices)
    check_integer("keep", keep, 0)
    if keep and not 2 <= keep <= len(times):
        raise ValueError(f"keep = {keep}: must be 0 or from 2 to steps + 1 = {len(times)}")
    kept = np.round(np.linspace(0, len(times) - 1, keep)).astype(int)
    if start is not None and noise is not None:
        raise ValueError("noise and start: give one of them; start is the state itself, noise and all")

    t = jnp.asarray(times, jnp.float32)
    if start is None:
        noise = first_noise(key, indices, shape[1:]) if noise is None else as_batch("noise", noise, shape)
        # The barrier keeps the compiler from working sigma into the drawing: noise given back is the same
        # bits.
        x = schedule.sigma(t[0]) * jax.lax.optimization_barrier(noise)
    else:
        x = as_batch("start", start, shape)
    x, frames = march(keys, denoise, schedule, sampler, x, t, kept)
    if not keep:
        return x
    return x, Frames(t[kept], frames, _opinions(denoise, schedule, t[kept], frames) if keep_x0 else None)


def march(
    keys: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    sampler: Sampler,
    x: jax.Array,
    times: jax.Array,
    kept: np.ndarray = np.zeros(0, int),
) -> tuple[jax.Array, jax.Array]:
    """Takes x [B, H, W, C] from times[0] to times[-1], a step of `sampler` between two neighbours.

    The loop under everything that samples. `keys`, [B], are the pictures' (`image_keys`); `times`, float32
    [steps + 1], may be traced, and may rise where the sampler knows how. Returns x and the states number
    `kept` on the way, [len(kept), B, H, W, C].
    """

    check_sampler(sampler)
    check_instance("schedule", schedule, Schedule, "Cosine()")
    checked_denoise = check_output(denoise)

    def body(carry, i):
        x, memory, frames = carry
        frames = _record(frames, kept, i, x)
        step_keys = fold(keys, i + 1)
        x, memory = sampler.step(step_keys, checked_denoise, schedule, x, times[i], times[i + 1], memory)
        return (x, memory, frames), None

    last = len(times) - 1
    start = (x, sampler.init(x), jnp.zeros((len(kept), *x.shape), jnp.float32))
    (x, _, frames), _ = jax.lax.scan(body, start, jnp.arange(last))
    return x, _record(frames, kept, last, x)


def check_output(denoise: Denoise) -> Denoise:
    """`denoise`, which raises ValueError if it does not return a `Denoised` shaped like its input."""

    def checked(x_t: jax.Array, t: ArrayLike, **kwargs: jax.Array) -> Denoised:
        here = denoise(x_t, t, **kwargs)
        if not isinstance(here, Denoised):
            raise ValueError(f"denoise returns {type(here).__name__}: must return Denoised(x0, eps)")
        for part in (here.x0, here.eps):
            if jnp.shape(part) != x_t.shape:  # it would broadcast
                raise ValueError(f"denoise maps x_t of shape {x_t.shape} to {jnp.shape(part)}: must be the same shape")
        return here

    return checked


def as_batch(name: str, x: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """x as float32. Raises ValueError where it has not the `shape` of the pictures, or is no finite float."""
    check_floats(name, x)
    x = jnp.asarray(x, jnp.float32)
    if x.shape != tuple(shape):
        raise ValueError(f"{name} has shape {x.shape}: the pictures have {tuple(shape)}")
    return x


def _opinions(denoise: Denoise, schedule: Schedule, times: jax.Array, x: jax.Array) -> jax.Array:
    """x0-hat of the states x [k, B, H, W, C] at `times`, one state after the other."""

    def x0(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        t, x_t = state
        return jax.lax.cond(schedule.sigma(t) > 0, lambda: denoise(x_t, t).x0, lambda: x_t)

    return jax.lax.map(x0, (times, x))


def _record(frames: jax.Array, kept: np.ndarray, i: ArrayLike, x: jax.Array) -> jax.Array:
    """`frames` with x in the place of state i, if it is one of those kept."""
    if not len(kept):
        return frames
    here = (jnp.asarray(kept) == i).reshape(-1, *[1] * x.ndim)
    return jnp.where(here, x, frames)


def _checked(times: ArrayLike) -> np.ndarray:
    times = np.asarray(times, np.float32)  # as they will be used: two that are one there are refused
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times have shape {times.shape}: need a row of at least two")
    if not (np.diff(times) < 0).all() or times[0] > 1 or times[-1] < 0:
        raise ValueError("times must decrease strictly within [0, 1], from noise to data")
    return times
