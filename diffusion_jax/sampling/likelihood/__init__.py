"""Likelihood: bits per dimension of images, by the variational bound and by the probability-flow ODE.

Bits per dimension are -log2 P(image) / (H W C), with P the probability of a uint8 image, float32 with values
k/127.5 - 1, k = 0..255. A model that knows nothing needs 8.0. Both figures are upper bounds of this, each for the
model that its own way of sampling generates from:

- `by_vlb`: the variational bound of ancestral sampling. Its decoder gives each of the 256 values a probability:
  nothing is added to the images.
- `by_ode`: the density of the deterministic samplers at the image plus uniform noise as wide as the distance between
  two values, 2/255: uniform dequantization (Theis et al. 2016, Sec. 3.1).

The figure of image i depends only on (denoise, settings, key, indices[i], x0[i]), not on its batch. All images of a
call go through `denoise` at once; if they do not fit, split them over several calls with their `indices`.
"""

from diffusion_jax.sampling.likelihood.base import Estimate
from diffusion_jax.sampling.likelihood.bound import Bound, by_log_snr, by_sampled_vlb, by_vlb
from diffusion_jax.sampling.likelihood.flow import by_ode, log_density

__all__ = ["Bound", "Estimate", "by_log_snr", "by_ode", "by_sampled_vlb", "by_vlb", "log_density"]


def __dir__() -> list[str]:
    return __all__
