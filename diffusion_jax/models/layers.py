"""Layers that the networks share."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

conv_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
Conv3x3 = functools.partial(nn.Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), kernel_init=conv_init)
Dense = functools.partial(nn.Dense, kernel_init=conv_init)


def sinusoid(time: jax.Array, width: int, max_period: float = 10_000.0) -> jax.Array:
    """Sines, then cosines at width/2 frequencies from 1 to 1/max_period (Vaswani et al. 2017, Sec. 3.5).

    `time` is [B] in units of DDPM steps; returns [B, width], float32.
    """
    half = width // 2
    frequency = jnp.exp(-jnp.log(max_period) * jnp.arange(half) / max(half - 1, 1))
    angle = time[:, None].astype(jnp.float32) * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class GroupNorm(nn.Module):
    """Group normalisation with float32 statistics, whatever the compute dtype."""

    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The fast variance E[x^2] - E[x]^2 can go below zero.
        norm = nn.GroupNorm(self.groups, epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32)
        return norm(x).astype(self.dtype)


class ClassEmbedding(nn.Module):
    """A vector for each class, and one more for no class: what a label below 0 gets."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, labels: jax.Array) -> jax.Array:
        rows = jnp.where(labels < 0, self.num_classes, labels)
        return nn.Embed(self.num_classes + 1, self.width)(rows)  # [B, width]
