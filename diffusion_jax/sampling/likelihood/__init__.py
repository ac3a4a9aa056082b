"""Likelihood: bits per dimension of pictures, by the variational bound and by the probability-flow ODE.

Bits per dimension are -log2 P(picture) / (H W C), with P the probability of a uint8 picture, float32 at the
levels k/127.5 - 1, k = 0..255. A model that knows nothing needs 8.0. Both figures are upper bounds of that,
each of the model that its own way of sampling draws from:

- `by_vlb`: the variational bound of ancestral sampling. Its decoder gives each level a probability:
  nothing is added to the pictures.
- `by_ode`: the density of the deterministic samplers at the picture plus uniform noise as wide as a level,
  2/255: uniform dequantisation (Theis et al. 2016, Sec. 3.1).

Picture i's figure depends on (denoise, settings, key, indices[i], x0[i]) alone, not on its batch. All
pictures of a call go through `denoise` at once; more than fit are given in several calls, with their
`indices`.
"""

from diffusion_jax.sampling.likelihood.base import Estimate
from diffusion_jax.sampling.likelihood.bound import Bound, by_log_snr, by_sampled_vlb, by_vlb
from diffusion_jax.sampling.likelihood.flow import by_ode, log_density

__all__ = ["Bound", "Estimate", "by_log_snr", "by_ode", "by_sampled_vlb", "by_vlb", "log_density"]


def __dir__() -> list[str]:
    return __all__
