"""Layers that the networks share."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

conv_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
Conv3x3 = functools.partial(nn.Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), kernel_init=conv_init)
Dense = functools.partial(nn.Dense, kernel_init=conv_init)


def dense(x: jax.Array, features: int, **kwargs: Any) -> jax.Array:
    return Dense(features, **kwargs)(x)


def zero_dense(x: jax.Array, features: int, **kwargs: Any) -> jax.Array:
    return nn.Dense(features, kernel_init=nn.initializers.zeros, **kwargs)(x)


def torch_dense(x: jax.Array, features: int, **kwargs: Any) -> jax.Array:
    """A dense layer, or a 1x1 convolution, that starts as PyTorch's does."""
    init = torch_init(x.shape[-1])
    return nn.Dense(features, kernel_init=init, bias_init=init, **kwargs)(x)


def torch_conv3x3(x: jax.Array, features: int, **kwargs: Any) -> jax.Array:
    """A 3x3 convolution, padded by 1 on all sides, that starts as PyTorch's does."""
    init = torch_init(9 * x.shape[-1])
    return Conv3x3(features, kernel_init=init, bias_init=init, **kwargs)(x)


def torch_init(fan_in: int) -> Callable[..., jax.Array]:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): how PyTorch starts the weight and the bias of its layers."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def check_counts(num_classes: int, out_channels: int) -> None:
    """Raises ValueError for less than none."""
    if num_classes < 0 or out_channels < 0:
        raise ValueError(f"num_classes = {num_classes}, out_channels = {out_channels}: must not be negative")


def with_guess(x: jax.Array, x0_hat: jax.Array | None, self_condition: bool) -> jax.Array:
    """x, and where the network is self-conditioned its guess of x0 behind it, [B, H, W, 2 C].

    Zeros stand for no guess (Chen et al. 2023, Sec. 3.2). The guess is clipped to the pictures' [-1, 1]: that
    of eps-prediction near t = 1 is thousands of times x. Raises ValueError for one that is not wanted.
    """
    if not self_condition:
        if x0_hat is not None:
            raise ValueError("x0_hat: this network is not self-conditioned; use self_condition=True")
        return x
    guess = jnp.zeros_like(x) if x0_hat is None else jnp.clip(x0_hat, -1.0, 1.0).astype(x.dtype)
    return jnp.concatenate([x, guess], axis=-1)


def check_dtype(dtype: str) -> None:
    """Raises ValueError for a dtype that networks do not compute in."""
    if dtype not in ("float32", "bfloat16", "float64"):
        raise ValueError(f'dtype = "{dtype}": use "float32" or "bfloat16"')
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError('dtype = "float64": needs JAX_ENABLE_X64=1; use "float32"')


def check_halved(levels: int, attention: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError where pictures (H, W, C) can't be halved for each level, or attention is at none."""
    factor = 2 ** (levels - 1)
    if image_shape[0] % factor or image_shape[1] % factor:
        raise ValueError(
            f"{levels} levels, so pictures must divide by {factor}, not {image_shape[0]}x{image_shape[1]}; "
            "use fewer levels or another size"
        )
    check_attention(attention, [min(image_shape[:2]) // 2**level for level in range(levels)])


def check_attention(attention: tuple[int, ...], sides: list[int]) -> None:
    """Raises ValueError for a resolution that no level has."""
    if not set(attention) <= set(sides):
        raise ValueError(f"attention = {attention}: the levels have resolutions {sorted(sides)}")


def sinusoid(time: jax.Array, width: int, max_period: float = 10_000.0) -> jax.Array:
    """Sines, then cosines at width/2 frequencies from 1 to 1/max_period (Vaswani et al. 2017, Sec. 3.5).

    `time` is [B] in units of DDPM steps; returns [B, width], float32 (float64 where the time is).
    """
    time = jnp.asarray(time)
    time = time.astype(at_least_float32(time.dtype))
    half = width // 2
    # By numpy, in float64: float32's power is off by several roundings, each a thousandfold at time 1000.
    frequency = max_period ** -(np.arange(half) / max(half - 1, 1))
    angle = time[:, None] * jnp.asarray(frequency, time.dtype)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


class GroupNorm(nn.Module):
    """Group normalisation with float32 statistics, whatever the compute dtype."""

    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The fast variance E[x^2] - E[x]^2 can go below zero.
        wide = at_least_float32(self.dtype)
        norm = nn.GroupNorm(self.groups, epsilon=1e-5, use_fast_variance=False, dtype=wide)
        return norm(x).astype(self.dtype)


class ClassEmbedding(nn.Module):
    """A vector for each class, and one more for no class: what a label below 0 gets."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, labels: jax.Array) -> jax.Array:
        rows = jnp.where(labels < 0, self.num_classes, labels)
        return nn.Embed(self.num_classes + 1, self.width)(rows)  # [B, width]


class Attention(nn.Module):
    """Multi-head self-attention over all positions, x + out(softmax(q k^T / sqrt(d)) v), q, k, v of norm(x).

    Attributes:
      heads, head_channels: d is head_channels; their product need not be the width of x.
      groups: of the norm.
      qkv_bias: whether q, k and v have one.
      layer, last_layer: before and after, called as layer(x, features, dtype=, name=).
    """

    heads: int
    head_channels: int
    groups: int
    dtype: jnp.dtype
    qkv_bias: bool = True
    layer: Callable[..., jax.Array] = dense
    last_layer: Callable[..., jax.Array] = zero_dense

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        inner = self.heads * self.head_channels
        h = GroupNorm(self.groups, self.dtype, name="norm")(x)
        split = (batch, height * width, self.heads, self.head_channels)
        bias, dtype = self.qkv_bias, self.dtype
        q, k, v = (self.layer(h, inner, use_bias=bias, dtype=dtype, name=n).reshape(split) for n in "qkv")
        h = attend(q, k, v).reshape(batch, height, width, inner)
        return x + self.last_layer(h, channels, dtype=dtype, name="out")


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v for [B, N, heads, d], with logits and softmax in at least float32."""
    # jax.nn.dot_product_attention rounds float64 logits to float32.
    wide = at_least_float32(q.dtype)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits).astype(v.dtype), v)
