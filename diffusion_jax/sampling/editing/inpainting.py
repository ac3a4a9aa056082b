"""Pictures of which a part is known."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process import forward
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.editing.pictures import known_part
from diffusion_jax.sampling.grids import Grid, Uniform, times_of
from diffusion_jax.sampling.loop import as_batch, march
from diffusion_jax.sampling.randomness import first_noise, fold, image_indices, image_keys
from diffusion_jax.sampling.randomness import standard_normal as normal
from diffusion_jax.sampling.samplers import DDIM, Sampler
from diffusion_jax.validation import check_integer

# Of each picture's key of a step, which the sampler under it may use in any other way.
_KNOWN = 0x6B6E


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
    """Paints anew what `mask` does not keep of `images`; the known pixels come back in every bit.

    After each step of any sampler the known pixels are replaced by alpha x0 + sigma z of the step's time
    (Song et al. 2021, SDE, App. I.2). What is painted then hardly knows of them: replacement alone is biased,
    even with a perfect denoiser. RePaint brings the two closer (Lugmayr et al. 2022, Alg. 1): every
    `jump_length` steps, noise takes the picture `jump_length` steps back up, and it comes down again,
    `resamples` times in all, at about as many times the network calls. As both that and the steps grow, it
    tends to the law given the known pixels; jumps of many steps leave out the last of them, where the bias
    stays. Of two pixels of correlation 0.88, one being known to lie 0.7 above its mean, the other one's mean
    should rise by 0.56; with 50 steps of DDPM, replacement alone is 0.18 short of it, 10 resamples 0.02.
    `conditioned(..., Mask(mask))` of an exact denoiser has no such bias, but needs gradients of the network.

    Args:
      images: float32 [B, H, W, C] in [-1, 1]; what stands where nothing is known does not matter.
      mask: [H, W, 1 or C] or one a picture, [B, H, W, 1 or C]; true or 1 where the picture is known. Traced.
      indices, noise: as in `sample`.

    Returns float32 [B, H, W, C]. Raises ValueError for a mask of another shape or with values other than 0
    and 1, resamples or jump_length below 1, jumps longer than half of the steps, and what `sample` refuses.
    """
    images, known = known_part(images, mask)
    times = resampled(times_of(grid, schedule, steps), jump_length, resamples)
    indices = image_indices(indices, len(images))
    keys = image_keys(key, indices)
    if noise is None:
        noise = first_noise(key, indices, images.shape[1:])
    x = forward.diffuse(schedule, images, jnp.float32(times[0]), as_batch("noise", noise, images.shape))
    replacing = Replacing(sampler, images, known)
    x, _ = march(keys, denoise, schedule, replacing, x, jnp.asarray(times, jnp.float32))
    return jnp.where(known, images, x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replacing(Sampler):
    """Steps of `inner` whose known pixels are replaced by noisy ones of `images`; steps up add noise.

    `known`, bool, broadcasts to `images`, [B, H, W, C]. After a step up `inner` begins anew.
    """

    inner: Sampler
    images: jax.Array
    known: jax.Array

    @property
    def order(self):
        return 0  # it does not converge to the data

    def init(self, x):
        return self.inner.init(x)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        def down() -> tuple[jax.Array, Any]:
            x_s, new = self.inner.step(keys, denoise, schedule, x_t, t, s, memory)
            z = normal(fold(keys, _KNOWN), x_t.shape[1:])
            return jnp.where(self.known, forward.diffuse(schedule, self.images, s, z), x_s), new

        def up() -> tuple[jax.Array, Any]:
            mean, variance = forward.transition(schedule, x_t, s, t)
            x_s = mean + jnp.sqrt(variance) * normal(fold(keys, _KNOWN), x_t.shape[1:])
            return x_s, self.inner.init(x_s)

        return jax.lax.cond(s < t, down, up)


def resampled(times: np.ndarray, jump_length: int, resamples: int) -> np.ndarray:
    """`times`, falling, with the jumps of RePaint: up `jump_length` times, and down again one by one.

    Every time k steps from the data is come to `resamples` times, for the multiples k of `jump_length` with
    0 < k <= steps - jump_length. With a length of 1 that is Lugmayr et al. 2022, Alg. 1. Raises ValueError.
    """
    steps = len(times) - 1
    for name, value in (("resamples", resamples), ("jump_length", jump_length)):
        check_integer(name, value)
    if resamples > 1 and 2 * jump_length > steps:
        raise ValueError(
            f"jump_length = {jump_length}: {steps} steps allow {steps // 2} at most; use more steps, or resamples=1"
        )
    left = [steps]  # steps to the data from each state
    for k in range(steps - 1, -1, -1):
        left.append(k)
        if k % jump_length == 0 and 0 < k <= steps - jump_length:
            left += list(range(k + jump_length, k - 1, -1)) * (resamples - 1)
    return times[steps - np.asarray(left)]
