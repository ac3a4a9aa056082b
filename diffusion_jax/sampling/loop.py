"""Reverse sampling: the only loop over steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, of_one_schedule
from diffusion_jax.sampling.grids import Grid, Uniform, make_times
from diffusion_jax.sampling.randomness import as_image_indices, first_noise, fold, image_keys
from diffusion_jax.sampling.samplers import DDIM, Sampler
from diffusion_jax.sampling.samplers.base import check_sampler
from diffusion_jax.validation import check_floats, check_integer, check_shape, checked, describe, instance, integer

__all__ = ["Frames", "as_batch", "march", "sample"]


class Frames(NamedTuple):
    """States kept during sampling, evenly spaced from noise to data.

    Attributes:
      times: float32 [k].
      x: the states at these times, [k, B, H, W, C].
      x0: the denoiser's x0 of each state, [k, B, H, W, C] (a state without noise is its own x0), or None if
        `keep_x0` was not set.
    """

    times: jax.Array
    x: jax.Array
    x0: jax.Array | None


@of_one_schedule("denoise")
@checked(keep=integer(0))
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
) -> Any:
    """Generates images by running `sampler` from noise at t = 1 to data at t = 0.

    Image i depends only on (denoise, settings, key, indices[i]): not on its batch, nor on the devices (except for
    the last bit, where the compiler rounds a batch of another shape differently). Works under the caller's jit;
    `steps`, `grid`, `times`, `keep` and `keep_x0` are static.

    Args:
      key: a threefry key (`jax.random.key(0)`); other generators make an image's noise depend on its batch.
      denoise: denoise(x_t, t) -> Denoised(x0, eps); see `denoiser` and `guidance`.
      schedule: the noise schedule of the denoiser.
      shape: [B, H, W, C] of the images.
      sampler: the reverse step.
      steps, grid: the times are grid(schedule, steps).
      times: the times themselves instead, strictly decreasing within [0, 1].
      indices: int [B], the number of each image in the endless sequence of this key; default 0..B-1.
      noise: standard normal [B, H, W, C] to start from; default `first_noise(key, indices, [H, W, C])`. Stochastic
        samplers still take the noise of later steps from the key.
      start: the state [B, H, W, C] at the first of the times, instead of sigma(t) times the noise.
      keep: number of states to keep, from the first noise to the result; 0 or at least 2. If keep - 1 does not
        divide the number of steps, each state is the nearest to its evenly spaced place, ties to the even index.
      keep_x0: also keep the x0 of each kept state, which costs one more call of the denoiser for each.

    Returns:
      x float32 [B, H, W, C], or (x, Frames) if `keep` is not 0.

    Raises:
      ValueError: for a bad shape, sampler, steps, grid, times, keep, indices, noise or start, for a key that is
        not a threefry key, and for a denoiser whose output is not shaped like x_t.

    >>> schedule = dj.schedules.RectifiedFlow()
    >>> def denoise(x_t, t):  # the exact denoiser of data whose pixels are all 0.5
    ...     return dj.Denoised(jnp.full_like(x_t, 0.5), (x_t - 0.5 * schedule.alpha(t)) / schedule.sigma(t))
    >>> x = dj.sample(jax.random.key(0), denoise, schedule, (2, 4, 4, 1), steps=3)
    >>> x.shape, x.min().item(), x.max().item()
    ((2, 4, 4, 1), 0.5, 0.5)
    """
    check_sampler(sampler)
    _check_image_shape(shape)
    times = make_times(grid, schedule, steps) if times is None else _as_times(times)
    indices = as_image_indices(indices, shape[0])
    kept = _frame_indices(keep, len(times))
    if start is not None and noise is not None:
        raise ValueError("noise and start are both set: must be one of them; start is the state, with its noise")

    keys = image_keys(key, indices)
    t = jnp.asarray(times, jnp.float32)
    if start is None:
        noise = first_noise(key, indices, shape[1:]) if noise is None else as_batch("noise", noise, shape)
        # The barrier keeps the compiler from merging sigma into the generation of the noise: noise that is
        # passed in gives the same bits.
        x = schedule.sigma(t[0]) * jax.lax.optimization_barrier(noise)
    else:
        x = as_batch("start", start, shape)
    x, frames = march(keys, denoise, schedule, sampler, x, t, kept)
    if not keep:
        return x
    return x, Frames(t[kept], frames, _denoise_frames(denoise, schedule, t[kept], frames) if keep_x0 else None)


@checked(schedule=instance(Schedule, "Cosine()"))
def march(
    keys: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    sampler: Sampler,
    x: jax.Array,
    times: jax.Array,
    kept: np.ndarray = np.zeros(0, int),
) -> tuple[jax.Array, jax.Array]:
    """Takes x [B, H, W, C] from times[0] to times[-1], one step of `sampler` per pair of neighbouring times.

    The loop under all sampling and editing. The sampler is not checked.

    Args:
      keys: one key per image, [B] (`image_keys`).
      times: float32 [steps + 1]; may be traced, and may increase if the sampler supports it.
      kept: indices of the states to keep.

    Returns x and the kept states, [len(kept), B, H, W, C].
    """
    checked_denoise = _check_output(denoise)

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


def as_batch(name: str, x: ArrayLike, shape: tuple[int | str, ...]) -> jax.Array:
    """Returns x as float32. Raises ValueError unless x holds finite floats and has the `shape` of the images."""
    check_floats(name, x)
    check_shape(name, x, tuple(shape))
    return jnp.asarray(x, jnp.float32)


def _check_image_shape(shape: tuple[int, ...]) -> None:
    if not isinstance(shape, tuple | list) or len(shape) < 2:
        raise ValueError(f"shape = {describe(shape)}: must be (B, H, W, C)")
    for size in shape:
        check_integer("shape", size)


def _as_times(times: ArrayLike) -> np.ndarray:
    times = np.asarray(times, np.float32)  # checked in float32, because distinct times may round to the same value
    is_valid = times.ndim == 1 and len(times) > 1 and (np.diff(times) < 0).all() and times[0] <= 1 and times[-1] >= 0
    if not is_valid:
        raise ValueError(f"times = {describe(times.tolist())}: must be at least two, in [0, 1], strictly decreasing")
    return times


def _frame_indices(keep: int, states: int) -> np.ndarray:
    """Indices of the states to keep, evenly spaced from the first to the last."""
    if keep != 0 and not 2 <= keep <= states:
        raise ValueError(f"keep = {keep}: must be 0 or an integer from 2 to steps + 1 = {states}")
    return np.round(np.linspace(0, states - 1, keep)).astype(int)


def _check_output(denoise: Denoise) -> Denoise:
    """Returns `denoise` with a check: raises ValueError if the output is not a `Denoised` shaped like the input."""

    def checked_denoise(x_t: jax.Array, t: ArrayLike, **kwargs: jax.Array) -> Denoised:
        here = denoise(x_t, t, **kwargs)
        if not isinstance(here, Denoised):
            raise ValueError(f"denoise returns {type(here).__name__}: must return Denoised(x0, eps)")
        for part in map(jnp.shape, (here.x0, here.eps)):  # another shape would broadcast
            if part != x_t.shape:
                raise ValueError(f"denoise maps x_t of shape {x_t.shape} to {part}: must be the same shape")
        return here

    return checked_denoise


def _denoise_frames(denoise: Denoise, schedule: Schedule, times: jax.Array, x: jax.Array) -> jax.Array:
    """x0 of the states x [k, B, H, W, C] at `times`, one state at a time."""

    def x0(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        t, x_t = state
        return jax.lax.cond(schedule.sigma(t) > 0, lambda: denoise(x_t, t).x0, lambda: x_t)

    return jax.lax.map(x0, (times, x))


def _record(frames: jax.Array, kept: np.ndarray, i: ArrayLike, x: jax.Array) -> jax.Array:
    """`frames` with x in the place of state i, if state i is kept."""
    if not len(kept):
        return frames
    here = (jnp.asarray(kept) == i).reshape(-1, *[1] * x.ndim)
    return jnp.where(here, x, frames)
