"""The U-Net of DDPM and ADM (Ho et al. 2020, App. B; Dhariwal and Nichol 2021, Sec. 3).

Layer for layer the `UNet2DModel` of the diffusers library: each level has ResNet blocks, optionally followed by
attention; a strided convolution on the way down; nearest neighbour and a convolution on the way up; and a skip
connection for the first convolution and for every block and downsampling of the way down.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.models.base import MOST_BLOCKS, ImageNetwork, check_halving
from diffusion_jax.models.layers import (
    Attention,
    Conv3x3,
    Dense,
    GroupNorm,
    depth_to_space,
    double_nearest,
    sinusoid,
    space_to_depth,
)
from diffusion_jax.validation import check_divides, check_integer, choice, divides, integer, integers, number

__all__ = ["ResBlock", "UNet"]


class ResBlock(nn.Module):
    """Norm, SiLU and convolution, twice, with the time in between; the input is added at the end."""

    width: int
    groups: int
    scale_shift: bool
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        h = nn.silu(GroupNorm(self.groups, self.dtype, name="norm1")(x))
        h = Conv3x3(self.width, dtype=self.dtype, name="conv1")(h)

        bias_width = 2 * self.width if self.scale_shift else self.width
        bias = Dense(bias_width, dtype=self.dtype, name="time")(nn.silu(embedding))
        bias = bias[:, None, None, :]  # [B, 1, 1, C]
        if self.scale_shift:
            scale, shift = jnp.split(bias, 2, axis=-1)
            h = GroupNorm(self.groups, self.dtype, name="norm2")(h) * (1 + scale) + shift
        else:
            h = GroupNorm(self.groups, self.dtype, name="norm2")(h + bias)

        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        # Zero at first: every block starts as the identity, as in the code of Ho et al. (2020).
        zeros = nn.initializers.zeros
        h = Conv3x3(self.width, dtype=self.dtype, kernel_init=zeros, name="conv2")(h)
        if x.shape[-1] != self.width:
            x = Dense(self.width, dtype=self.dtype, name="shortcut")(x)  # a 1x1 convolution
        return x + h


class UNet(ImageNetwork):
    """The DDPM U-Net, with the fields of every `ImageNetwork` and those below.

    Attributes:
      channels: width of each level, the finest first. H and W must be divisible by 2^(levels - 1).
      blocks: ResNet blocks per level on the way down (one more on the way up).
      attention: resolutions (the smaller side, in pixels) of the levels whose blocks are followed by attention;
        the middle always has it.
      heads: number of attention heads, unless `head_channels` is positive.
      head_channels: channels per attention head; 0 to use `heads`.
      scale_shift: the time scales and shifts the second norm (ADM) instead of being added to its input.
      dropout: rate, in training.
      groups: of the group norms; must divide every width.
      patch: side of the squares of pixels that become channels before the first convolution, and pixels again
        after the last (Shi et al. 2016). 2 makes every level four times cheaper. It must divide H and W.
      downsample_padding: 1 pads a strided convolution on all sides, 0 at the end only (as DDPM's own code).

    >>> model = dj.models.UNet(channels=(8, 16), blocks=1, attention=(4,), groups=4, num_classes=10)
    >>> x, time, labels = jnp.zeros((2, 8, 8, 1)), jnp.full(2, 0.5), jnp.array([3, -1])
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x, time, labels)
    >>> jax.eval_shape(model.apply, params, x, time, labels).shape
    (2, 8, 8, 1)
    """

    channels: tuple[int, ...] = dataclasses.field(default=(128, 256, 256, 256), metadata=integers(2))
    blocks: int = dataclasses.field(default=2, metadata=integer(1, MOST_BLOCKS))
    attention: tuple[int, ...] = (16,)
    heads: int = dataclasses.field(default=1, metadata=integer(0))
    head_channels: int = dataclasses.field(default=0, metadata=integer(0))
    scale_shift: bool = False
    dropout: float = dataclasses.field(default=0.0, metadata=number("[0, 1)"))
    groups: int = dataclasses.field(default=32, metadata=integer(1) | divides("channels"))
    patch: int = dataclasses.field(default=1, metadata=integer(1))
    downsample_padding: int = dataclasses.field(default=1, metadata=choice(0, 1))

    def check(self, image_shape: tuple[int, int, int]) -> None:
        super().check(image_shape)
        height, width, channels = image_shape
        if self.channels[0] % 2:
            raise ValueError(f"channels = {self.channels}: the first must be even")
        check_divides("patch", self.patch, "height, width", (height, width))
        name = "head_channels" if self.head_channels else "heads"
        check_integer(name, getattr(self, name))
        check_divides(name, getattr(self, name), "channels", self.channels)
        patched = (height // self.patch, width // self.patch, channels * self.patch**2)
        check_halving(len(self.channels), self.attention, patched)
        attending = [c for i, c in enumerate(self.channels) if min(patched[:2]) // 2**i in self.attention]
        self._check_heads(self.head_channels or c // self.heads for c in [*attending, self.channels[-1]])

    def compute(self, x: jax.Array, time: jax.Array, labels: jax.Array, out_channels: int, train: bool) -> jax.Array:
        dtype = x.dtype
        x = space_to_depth(x, self.patch)
        embedding = self._embed(time, labels, dtype)
        finest = min(x.shape[1:3])

        def block(x: jax.Array, width: int, level: int, name: str) -> jax.Array:
            x = self._res_block(width, dtype, name)(x, embedding, train)
            attends = finest // 2**level in self.attention
            return self._attention(width, dtype, f"{name}_attention")(x) if attends else x

        x = Conv3x3(self.channels[0], dtype=dtype, name="conv_in")(x)
        skips = [x]
        last = len(self.channels) - 1
        for level, width in enumerate(self.channels):
            for i in range(self.blocks):
                x = block(x, width, level, f"down{level}_block{i}")
                skips.append(x)
            if level < last:
                x = self._downsample(width, dtype, f"down{level}_sample")(x)
                skips.append(x)

        x = self._res_block(x.shape[-1], dtype, "mid_block0")(x, embedding, train)
        x = self._attention(x.shape[-1], dtype, "mid_attention")(x)
        x = self._res_block(x.shape[-1], dtype, "mid_block1")(x, embedding, train)

        for level, width in reversed(list(enumerate(self.channels))):
            for i in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = block(x, width, level, f"up{level}_block{i}")
            if level > 0:
                x = Conv3x3(width, dtype=dtype, name=f"up{level}_sample")(double_nearest(x))

        x = nn.silu(GroupNorm(self.groups, dtype, name="norm_out")(x))
        zeros = nn.initializers.zeros
        x = Conv3x3(out_channels * self.patch**2, dtype=dtype, kernel_init=zeros, name="conv_out")(x)
        return depth_to_space(x, self.patch)

    def _embed(self, time: jax.Array, labels: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Time and class as one vector, [B, 4 * channels[0]]."""
        width = 4 * self.channels[0]
        embedding = sinusoid(time * self.time_scale, self.channels[0]).astype(dtype)
        embedding = nn.silu(Dense(width, dtype=dtype, name="time0")(embedding))
        return self._add_class(Dense(width, dtype=dtype, name="time1")(embedding), labels)

    def _res_block(self, width: int, dtype: jnp.dtype, name: str) -> ResBlock:
        block = self._block(ResBlock, static_argnums=(3,))  # train
        return block(width, self.groups, self.scale_shift, self.dropout, dtype, name=name)

    def _attention(self, width: int, dtype: jnp.dtype, name: str) -> Attention:
        heads = width // self.head_channels if self.head_channels else self.heads
        attention = self._block(Attention)
        return attention(heads, width // heads, self.groups, dtype, kernel=self.attention_kernel, name=name)

    def _downsample(self, width: int, dtype: jnp.dtype, name: str) -> nn.Conv:
        before = self.downsample_padding
        padding = ((before, 1), (before, 1))
        return Conv3x3(width, strides=(2, 2), padding=padding, dtype=dtype, name=name)
