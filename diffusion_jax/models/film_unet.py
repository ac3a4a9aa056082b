"""A U-Net of ResNet blocks that the time scales and shifts, as in github.com/girishdhegde/diffusion.

Layer for layer the network of that project's DDPM on images of Pokemon: a skip connection after the first
convolution and after each level, space-to-depth on the way down, nearest neighbour and a convolution on the way
up. FiLM is by Perez et al. (2018). The layers have the initial values of PyTorch.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.models.base import MOST_BLOCKS, ImageNetwork, check_halving, even
from diffusion_jax.models.layers import (
    Attention,
    GroupNorm,
    double_nearest,
    sinusoid,
    space_to_depth,
    torch_conv3x3,
    torch_dense,
)
from diffusion_jax.validation import divides, integer, integers

__all__ = ["FiLMBlock", "FiLMUNet"]


class FiLMBlock(nn.Module):
    """Convolution, norm, y (scale + 1) + shift from the time, SiLU; convolution, norm, SiLU; plus the input."""

    width: int
    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        y = torch_conv3x3(x, self.width, dtype=self.dtype, name="conv1")
        y = GroupNorm(self.groups, self.dtype, name="norm1")(y)
        film = torch_dense(nn.silu(embedding), 2 * self.width, dtype=self.dtype, name="time")
        scale, shift = jnp.split(film[:, None, None, :], 2, axis=-1)  # [B, 1, 1, C] each
        y = nn.silu(y * (scale + 1) + shift)

        y = torch_conv3x3(y, self.width, dtype=self.dtype, name="conv2")
        y = nn.silu(GroupNorm(self.groups, self.dtype, name="norm2")(y))
        if x.shape[-1] != self.width:
            x = torch_dense(x, self.width, dtype=self.dtype, name="shortcut")  # a 1x1 convolution
        return y + x


class FiLMUNet(ImageNetwork):
    """The FiLM U-Net, with the fields of every `ImageNetwork` and those below.

    Attributes:
      width: of the first convolution; the embedding of time and class is four times as wide.
      multipliers: width of each level, the finest first, in multiples of `width`. H and W must be divisible by
        2^(levels - 1).
      attention: resolutions (the smaller side, in pixels) of the levels whose blocks are followed by attention;
        the middle always has it.
      blocks: blocks per level, on the way down and on the way up; there is one skip connection per level.
      groups: of the group norms; must divide every width.
      heads: number of attention heads.
      head_channels: channels per attention head.
      time_offset: the network sees time * time_scale + time_offset. With T and -1 the times k/T are the indices
        0 .. T - 1.

    >>> model = dj.models.FiLMUNet(width=8, multipliers=(1, 2), attention=(4,))
    >>> x, time = jnp.zeros((2, 8, 8, 3)), jnp.full(2, 0.5)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x, time)
    >>> jax.eval_shape(model.apply, params, x, time).shape
    (2, 8, 8, 3)
    """

    width: int = dataclasses.field(default=64, metadata=even())
    multipliers: tuple[int, ...] = dataclasses.field(default=(1, 2, 4, 8), metadata=integers(1))
    attention: tuple[int, ...] = (16, 8)
    blocks: int = dataclasses.field(default=1, metadata=integer(1, MOST_BLOCKS))
    groups: int = dataclasses.field(default=4, metadata=integer(1) | divides("width"))
    heads: int = dataclasses.field(default=4, metadata=integer(1))
    head_channels: int = dataclasses.field(default=32, metadata=integer(1))
    time_offset: float = -1.0

    def check(self, image_shape: tuple[int, int, int]) -> None:
        super().check(image_shape)
        check_halving(len(self.multipliers), self.attention, image_shape)
        self._check_heads([self.head_channels])

    def compute(self, x: jax.Array, time: jax.Array, labels: jax.Array, out_channels: int, train: bool) -> jax.Array:
        dtype = x.dtype
        embedding = self._embed(time, labels, dtype)
        finest = min(x.shape[1:3])
        film_block = self._block(FiLMBlock)

        def level_blocks(x: jax.Array, width: int, level: int, way: str) -> jax.Array:
            for i in range(self.blocks):
                name = f"{way}{level}_block{i}"
                x = film_block(width, self.groups, dtype, name=name)(x, embedding)
                if finest // 2**level in self.attention:
                    x = self._attention(dtype, f"{name}_attention")(x)
            return x

        x = torch_dense(x, self.width, dtype=dtype, name="conv_in")  # a 1x1 convolution
        skips = [x]
        widths = [self.width * m for m in self.multipliers]
        for level, width in enumerate(widths):
            x = level_blocks(x, width, level, "down")
            skips.append(x)
            if level < len(widths) - 1:
                x = torch_dense(space_to_depth(x, 2), width, dtype=dtype, name=f"down{level}_sample")

        x = film_block(widths[-1], self.groups, dtype, name="mid_block0")(x, embedding)
        x = self._attention(dtype, "mid_attention")(x)
        x = film_block(widths[-1], self.groups, dtype, name="mid_block1")(x, embedding)

        for level, width in reversed(list(enumerate([self.width, *widths[:-1]]))):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = level_blocks(x, width, level, "up")
            if level > 0:
                x = torch_conv3x3(double_nearest(x), width, dtype=dtype, name=f"up{level}_sample")

        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = film_block(self.width, self.groups, dtype, name="final_block")(x, embedding)
        return torch_dense(x, out_channels, dtype=dtype, name="conv_out")

    def _embed(self, time: jax.Array, labels: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Time and class as one vector, [B, 4 * width]."""
        embedding = sinusoid(time * self.time_scale + self.time_offset, self.width).astype(dtype)
        dense = functools.partial(torch_dense, features=4 * self.width, dtype=dtype)
        embedding = dense(embedding, name="time0")
        return self._add_class(dense(nn.gelu(embedding, approximate=False), name="time1"), labels)

    def _attention(self, dtype: jnp.dtype, name: str) -> Attention:
        return self._block(Attention)(
            self.heads,
            self.head_channels,
            groups=1,
            dtype=dtype,
            qkv_bias=False,
            layer=torch_dense,
            last_layer=torch_dense,
            kernel=self.attention_kernel,
            name=name,
        )
