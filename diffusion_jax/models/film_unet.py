"""A U-Net of ResNet blocks whose time embedding scales and shifts, as in github.com/girishdhegde/diffusion.

Layer for layer the network of that project's DDPM on pictures of Pokemon: a skip connection after the first
convolution and after each level, space-to-depth on the way down, nearest neighbour and a convolution up.
FiLM is of Perez et al. (2018); the layers start as PyTorch starts them.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.models.layers import (
    Attention,
    ClassEmbedding,
    GroupNorm,
    at_least_float32,
    check_counts,
    check_dtype,
    check_halved,
    sinusoid,
    torch_conv3x3,
    torch_dense,
    with_guess,
)


class FiLMBlock(nn.Module):
    """Convolution, norm, y (scale + 1) + shift by the time, SiLU; convolution, norm, SiLU; plus the input."""

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


class FiLMUNet(nn.Module):
    """The FiLM U-Net.

    Attributes:
      width: of the first convolution; the time embedding has four times as many.
      multipliers: width of each level, the finest first, in multiples of `width`. H and W must divide
        by 2^(levels - 1).
      attention: resolutions (the smaller side, in pixels) at whose level each block is followed by
        attention; the middle always has it.
      blocks: blocks a level, down and up alike; there is one skip connection a level all the same.
      groups: of the group norms; must divide every width.
      heads, head_channels: of attention.
      num_classes: size of the class embedding, which is added to the time's; 0 for none.
      out_channels: 0 for as many as the input has.
      learn_variance, self_condition: as in `UNet`.
      time_scale, time_offset: the network is shown time * time_scale + time_offset. With T and -1 the times
        k/T are the indices 0 .. T - 1.
      dtype: of the computation, "float32" or "bfloat16"; parameters are float32.
    """

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    attention: tuple[int, ...] = (16, 8)
    blocks: int = 1
    groups: int = 4
    heads: int = 4
    head_channels: int = 32
    num_classes: int = 0
    out_channels: int = 0
    learn_variance: bool = False
    self_condition: bool = False
    time_scale: float = 1000.0
    time_offset: float = -1.0
    dtype: str = "float32"

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError where the settings don't fit together or `image_shape` (H, W, C) doesn't."""
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers = {self.multipliers}: need at least one, all positive")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width = {self.width}: must be positive and even")
        for name in ("blocks", "groups", "heads", "head_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        check_counts(self.num_classes, self.out_channels)
        if self.width % self.groups:
            raise ValueError(f"groups = {self.groups}: must divide width = {self.width}")
        check_dtype(self.dtype)
        check_halved(len(self.multipliers), self.attention, image_shape)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        time: jax.Array,
        labels: jax.Array | None = None,
        train: bool = False,
        x0_hat: jax.Array | None = None,
    ) -> jax.Array:
        """The network's output, float32 [B, H, W, out_channels], for x [B, H, W, C], time [B], labels [B].

        x0_hat and `learn_variance` are as in `UNet`.
        """
        self.check((x.shape[1], x.shape[2], x.shape[3]))
        out_channels = (self.out_channels or x.shape[-1]) * (1 + self.learn_variance)
        x = with_guess(x, x0_hat, self.self_condition)
        dtype = jnp.dtype(self.dtype)
        embedding = self._embed(time, labels, dtype)
        finest = min(x.shape[1:3])

        def level_blocks(x: jax.Array, width: int, level: int, way: str) -> jax.Array:
            for i in range(self.blocks):
                name = f"{way}{level}_block{i}"
                x = FiLMBlock(width, self.groups, dtype, name=name)(x, embedding)
                if finest // 2**level in self.attention:
                    x = self._attention(dtype, f"{name}_attention")(x)
            return x

        x = torch_dense(x.astype(dtype), self.width, dtype=dtype, name="conv_in")  # a 1x1 convolution
        skips = [x]
        widths = [self.width * m for m in self.multipliers]
        for level, width in enumerate(widths):
            x = level_blocks(x, width, level, "down")
            skips.append(x)
            if level < len(widths) - 1:
                x = torch_dense(space_to_depth(x), width, dtype=dtype, name=f"down{level}_sample")

        x = FiLMBlock(widths[-1], self.groups, dtype, name="mid_block0")(x, embedding)
        x = self._attention(dtype, "mid_attention")(x)
        x = FiLMBlock(widths[-1], self.groups, dtype, name="mid_block1")(x, embedding)

        for level, width in reversed(list(enumerate([self.width, *widths[:-1]]))):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = level_blocks(x, width, level, "up")
            if level > 0:
                x = x.repeat(2, axis=1).repeat(2, axis=2)  # nearest neighbour
                x = torch_conv3x3(x, width, dtype=dtype, name=f"up{level}_sample")

        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = FiLMBlock(self.width, self.groups, dtype, name="final_block")(x, embedding)
        x = torch_dense(x, out_channels, dtype=dtype, name="conv_out")
        return x.astype(at_least_float32(dtype))

    def _embed(self, time: jax.Array, labels: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
        """Time and class as one vector, [B, 4 * width]."""
        embedding = sinusoid(time * self.time_scale + self.time_offset, self.width).astype(dtype)
        dense = functools.partial(torch_dense, features=4 * self.width, dtype=dtype)
        embedding = dense(embedding, name="time0")
        embedding = dense(nn.gelu(embedding, approximate=False), name="time1")
        if self.num_classes:
            labels = jnp.full(time.shape, -1) if labels is None else labels
            classes = ClassEmbedding(self.num_classes, 4 * self.width, name="classes")
            embedding = embedding + classes(labels).astype(dtype)
        return embedding

    def _attention(self, dtype: jnp.dtype, name: str) -> Attention:
        return Attention(
            self.heads,
            self.head_channels,
            groups=1,
            dtype=dtype,
            qkv_bias=False,
            layer=torch_dense,
            last_layer=torch_dense,
            name=name,
        )


def space_to_depth(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H/2, W/2, 4 C], the four pixels of each 2x2 square behind one another."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)
