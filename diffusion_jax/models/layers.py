"""Layers that the networks share."""

import functools
from collections.abc import Callable
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.models.convolution import conv_general_dilated

conv_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)
Conv3x3 = functools.partial(Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), kernel_init=conv_init)
Dense = functools.partial(nn.Dense, kernel_init=conv_init)


def dense(x: jax.Array, features: int, **kwargs: Any) -> jax.Array:
    return Dense(features, **kwargs)(x)


def zero_dense(x: jax.Array, features: int, **kwargs: Any) -> jax.Array:
    return nn.Dense(features, kernel_init=nn.initializers.zeros, **kwargs)(x)


def torch_dense(x: jax.Array, features: int, **kwargs: Any) -> jax.Array:
    """A dense layer, or a 1x1 convolution, with the initial values of PyTorch."""
    init = torch_init(x.shape[-1])
    return nn.Dense(features, kernel_init=init, bias_init=init, **kwargs)(x)


def torch_conv3x3(x: jax.Array, features: int, **kwargs: Any) -> jax.Array:
    """A 3x3 convolution, padded by 1 on all sides, with the initial values of PyTorch."""
    init = torch_init(9 * x.shape[-1])
    return Conv3x3(features, kernel_init=init, bias_init=init, **kwargs)(x)


def torch_init(fan_in: int) -> Callable[..., jax.Array]:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the initial weights and biases of PyTorch's layers."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] -> [B, H/patch, W/patch, patch^2 C]: the pixels of each square, row by row, as channels.

    >>> space_to_depth(jnp.arange(4).reshape(1, 2, 2, 1), patch=2).tolist()
    [[[[0, 1, 2, 3]]]]
    """
    return einops.rearrange(x, "b (h i) (w j) c -> b h w (i j c)", i=patch, j=patch)


def depth_to_space(x: jax.Array, patch: int) -> jax.Array:
    """The inverse of `space_to_depth` (Shi et al. 2016)."""
    return einops.rearrange(x, "b h w (i j c) -> b (h i) (w j) c", i=patch, j=patch)


def double_nearest(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, 2 H, 2 W, C] by nearest neighbour.

    >>> double_nearest(jnp.arange(2).reshape(1, 1, 2, 1))[0, ..., 0].tolist()
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    return einops.repeat(einops.repeat(x, "b h w c -> b (h 2) w c"), "b h w c -> b h (w 2) c")


def sinusoid(time: jax.Array, width: int, max_period: float = 10_000.0) -> jax.Array:
    """Sines, then cosines at width/2 frequencies from 1 to 1/max_period (Vaswani et al. 2017, Sec. 3.5).

    `time` is [B] in units of DDPM steps; returns [B, width], float32 (float64 if the time is).

    >>> sinusoid(jnp.zeros(1), 4).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    time = jnp.asarray(time)
    time = time.astype(at_least_float32(time.dtype))
    half = width // 2
    # By numpy, in float64: float32's power is off by several roundings, each a thousandfold at time 1000.
    frequency = max_period ** -(np.arange(half) / max(half - 1, 1))
    angle = time[:, None] * jnp.asarray(frequency, time.dtype)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """Returns float32 for narrower dtypes, and the dtype itself otherwise."""
    return jnp.promote_types(dtype, jnp.float32)


class GroupNorm(nn.Module):
    """Group normalisation with float32 statistics in every compute dtype."""

    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The fast variance E[x^2] - E[x]^2 can go below zero.
        wide = at_least_float32(self.dtype)
        norm = nn.GroupNorm(self.groups, epsilon=1e-5, use_fast_variance=False, dtype=wide)
        return norm(x).astype(self.dtype)


class ClassEmbedding(nn.Module):
    """A vector for each class, and one more for labels below 0, which mean no class."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, labels: jax.Array) -> jax.Array:
        # A label that is not a class is outside the table, so NaN; the row after the last class is "no class".
        rows = jnp.where(
            labels < 0, self.num_classes, jnp.where(labels < self.num_classes, labels, self.num_classes + 1)
        )
        return nn.Embed(self.num_classes + 1, self.width)(rows)  # [B, width]


class Attention(nn.Module):
    """Multi-head self-attention over all positions, x + out(softmax(q k^T / sqrt(d)) v), q, k, v of norm(x).

    Attributes:
      heads: number of heads.
      head_channels: d, the channels per head; heads * head_channels may differ from the width of x.
      groups: of the norm.
      qkv_bias: whether q, k and v have a bias.
      layer: the layer of q, k and v, called as layer(x, features, dtype=, name=).
      last_layer: the layer `out`, called likewise.
      kernel: "xla" or "cudnn"; see `ImageNetwork.attention_kernel`.
    """

    heads: int
    head_channels: int
    groups: int
    dtype: jnp.dtype
    qkv_bias: bool = True
    layer: Callable[..., jax.Array] = dense
    last_layer: Callable[..., jax.Array] = zero_dense
    kernel: str = "xla"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, height, width, channels = x.shape
        inner, dtype = self.heads * self.head_channels, self.dtype
        h = GroupNorm(self.groups, dtype, name="norm")(x)
        qkv = [self.layer(h, inner, use_bias=self.qkv_bias, dtype=dtype, name=name) for name in "qkv"]
        q, k, v = (einops.rearrange(part, "b h w (n d) -> b (h w) n d", n=self.heads) for part in qkv)
        h = attend(q, k, v, self.kernel)
        h = einops.rearrange(h, "b (h w) n d -> b h w (n d)", h=height, w=width)
        return x + self.last_layer(h, channels, dtype=dtype, name="out")


def attend(q: jax.Array, k: jax.Array, v: jax.Array, kernel: str = "xla") -> jax.Array:
    """softmax(q k^T / sqrt(d)) v for [B, N, heads, d], with logits and softmax in at least float32."""
    # Not lax.platform_dependent: JAX looks for cuDNN already when it traces.
    if kernel == "cudnn" and jax.default_backend() == "gpu":
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    # jax.nn.dot_product_attention rounds float64 logits to float32.
    wide = at_least_float32(q.dtype)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits).astype(v.dtype), v)
