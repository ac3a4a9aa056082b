"""Inpainting: images of which a part is known."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process import forward
from diffusion_jax.process.numerics import safe_sqrt
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.denoiser import Denoise, of_one_schedule
from diffusion_jax.sampling.editing.images import keep_known
from diffusion_jax.sampling.grids import Grid, Uniform, make_times
from diffusion_jax.sampling.loop import as_batch, march
from diffusion_jax.sampling.randomness import as_image_indices, first_noise, fold, image_keys, standard_normal
from diffusion_jax.sampling.samplers import DDIM, Sampler
from diffusion_jax.sampling.samplers.base import check_sampler
from diffusion_jax.validation import checked, integer

__all__ = ["Replacement", "inpaint", "insert_jumps"]

# Folded into each image's key of a step, so that the noise here is independent of the sampler's.
_KNOWN = 0x6B6E


@of_one_schedule("denoise")
def inpaint(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    images: ArrayLike,
    mask: ArrayLike,
    *,
    resamples: int = 1,
    jump_length: int = 1,
    sampler: Sampler = DDIM(),
    steps: int = 50,
    grid: Grid = Uniform(),
    indices: ArrayLike | None = None,
    noise: ArrayLike | None = None,
) -> jax.Array:
    """Generates the pixels of `images` outside `mask`; the known pixels are returned bit for bit.

    After each step of any sampler the known pixels are replaced by alpha x0 + sigma z of the step's time
    (Song et al. 2021, SDE, App. I.2). The generated pixels then hardly depend on them: replacement alone is biased,
    even with a perfect denoiser. RePaint reduces the bias (Lugmayr et al. 2022, Alg. 1): every `jump_length` steps,
    noise takes the image `jump_length` steps back, and it comes down again, `resamples` times in all, which
    multiplies the network calls by about as much. As `resamples` and `steps` grow, the result tends to the
    conditional law given the known pixels; long jumps leave out the last steps, where the bias remains.

    For example, of two pixels with correlation 0.88, one known to lie 0.7 above its mean, the mean of the other should
    rise by 0.56: with 50 steps of DDPM, replacement alone falls short by 0.18, 10 resamples by 0.02.
    `conditioned(..., Mask(mask))` of an exact denoiser has no such bias, but needs gradients of the network.

    Args:
      key, denoise, schedule, sampler, steps, grid, indices, noise: as in `sample`.
      images: float32 [B, H, W, C] in [-1, 1]; the values of unknown pixels have no effect.
      mask: [H, W, 1 or C] or one per image, [B, H, W, 1 or C]; true or 1 where the image is known. Traced.
      resamples: how often each part of the way is sampled; 1 is replacement alone.
      jump_length: number of steps of a jump back.

    Returns float32 [B, H, W, C]. Raises ValueError for a mask of another shape or with values other than 0
    and 1, resamples or jump_length below 1, jumps longer than half of the steps, and everything that `sample`
    refuses.

    >>> schedule = dj.schedules.RectifiedFlow()
    >>> def denoise(x_t, t):  # the exact denoiser of data whose pixels are all 0.5
    ...     return dj.Denoised(jnp.full_like(x_t, 0.5), (x_t - 0.5 * schedule.alpha(t)) / schedule.sigma(t))
    >>> images, mask = np.full((1, 1, 2, 1), 0.25), np.array([[[1], [0]]])
    >>> dj.editing.inpaint(jax.random.key(0), denoise, schedule, images, mask, steps=4).ravel().tolist()
    [0.25, 0.5]
    """
    check_sampler(sampler)
    images, known = keep_known(images, mask)
    times = insert_jumps(make_times(grid, schedule, steps), jump_length, resamples)
    indices = as_image_indices(indices, len(images))
    keys = image_keys(key, indices)
    if noise is None:
        noise = first_noise(key, indices, images.shape[1:])
    x = forward.diffuse(schedule, images, jnp.float32(times[0]), as_batch("noise", noise, images.shape))
    replacement = Replacement(sampler, images, known)
    x, _ = march(keys, denoise, schedule, replacement, x, jnp.asarray(times, jnp.float32))
    return jnp.where(known, images, x)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Replacement(Sampler):
    """Steps of `inner` whose known pixels are replaced by noisy pixels of `images`; steps up add noise.

    `known`, bool, broadcasts to `images`, [B, H, W, C]. After a step up `inner` starts without memory. `order` is 0,
    because it does not converge to the data.

    >>> Replacement(DDIM(), jnp.zeros((1, 8, 8, 1)), jnp.ones((8, 8, 1), bool)).order
    0
    """

    inner: Sampler
    images: jax.Array
    known: jax.Array

    @property
    def order(self):
        return 0

    def init(self, x):
        return self.inner.init(x)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        def down() -> tuple[jax.Array, Any]:
            x_s, new = self.inner.step(keys, denoise, schedule, x_t, t, s, memory)
            z = standard_normal(fold(keys, _KNOWN), x_t.shape[1:])
            return jnp.where(self.known, forward.diffuse(schedule, self.images, s, z), x_s), new

        def up() -> tuple[jax.Array, Any]:
            mean, variance = forward.transition(schedule, x_t, s, t)
            x_s = mean + safe_sqrt(variance) * standard_normal(fold(keys, _KNOWN), x_t.shape[1:])
            return x_s, self.inner.init(x_s)

        return jax.lax.cond(s < t, down, up)


@checked(jump_length=integer(1), resamples=integer(1))
def insert_jumps(times: np.ndarray, jump_length: int, resamples: int) -> np.ndarray:
    """Returns the decreasing `times` with the jumps of RePaint: up `jump_length` times, and down again one by one.

    Each time that is k steps from the data is visited `resamples` times, for the multiples k of `jump_length` with
    0 < k <= steps - jump_length. With a length of 1 this is Lugmayr et al. 2022, Alg. 1. Raises ValueError.

    >>> insert_jumps(np.array([1.0, 0.5, 0.0]), 1, 2).tolist()
    [1.0, 0.5, 1.0, 0.5, 0.0]
    """
    steps = len(times) - 1
    if resamples > 1 and 2 * jump_length > steps:
        raise ValueError(f"jump_length = {jump_length}: must be at most half of the {steps} steps, or use resamples=1")
    left = [steps]  # steps to the data from each state
    for k in range(steps - 1, -1, -1):
        left.append(k)
        if k % jump_length == 0 and 0 < k <= steps - jump_length:
            left += list(range(k + jump_length, k - 1, -1)) * (resamples - 1)
    return times[steps - np.asarray(left)]
