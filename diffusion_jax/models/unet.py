"""The U-Net of DDPM and ADM (Ho et al. 2020, App. B; Dhariwal and Nichol 2021, Sec. 3).

Layer for layer the `UNet2DModel` of the diffusers library: at each level ResNet blocks with attention behind
them where asked for, a strided convolution down, nearest-neighbour and a convolution up, and a skip
connection for the first convolution and for every block and downsampling of the way down.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.models.layers import (
    Attention,
    ClassEmbedding,
    Conv3x3,
    Dense,
    GroupNorm,
    at_least_float32,
    check_dtype,
    check_halved,
    sinusoid,
    with_guess,
)


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, with the time between and the input added at the end."""

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
        # Zero at the start: every block begins as the identity, as in the code of Ho et al. (2020).
        zeros = nn.initializers.zeros
        h = Conv3x3(self.width, dtype=self.dtype, kernel_init=zeros, name="conv2")(h)
        if x.shape[-1] != self.width:
            x = Dense(self.width, dtype=self.dtype, name="shortcut")(x)  # a 1x1 convolution
        return x + h


class UNet(nn.Module):
    """The DDPM U-Net.

    Attributes:
      channels: width of each level, the finest first. H and W must divide by 2^(levels - 1).
      blocks: ResNet blocks a level on the way down (one more on the way up).
      attention: resolutions (the smaller side, in pixels) at whose level each block is followed by
        attention; the middle always has it.
      heads: number of attention heads, if `head_channels` is 0.
      head_channels: channels per attention head; 0 for the fixed number `heads`.
      scale_shift: the time scales and shifts the second norm (ADM) instead of adding to its input.
      num_classes: size of the class embedding; 0 for an unconditional network.
      dropout: rate, in training.
      groups: of the group norms; must divide every width.
      out_channels: 0 for as many as the input has.
      learn_variance: twice the channels come out; the second half says where the log variance of the reverse
        step lies, from the posterior's at -1 to the forward step's at 1 (Nichol and Dhariwal 2021, Eq. 15).
      self_condition: the network is shown its own guess of x0 beside x (Chen et al. 2023, Sec. 3.2).
      patch: side of the squares of pixels that are laid into channels before the first convolution, and back
        after the last (Shi et al. 2016): 2 makes every level four times cheaper. Divides H and W.
      time_scale: what the time is multiplied by before its sines: 1000 makes [0, 1] DDPM's steps.
      downsample_padding: 1 pads a strided convolution on all sides, 0 at the end only (as DDPM's own).
      dtype: of the computation, "float32" or "bfloat16"; parameters are float32.
    """

    channels: tuple[int, ...] = (128, 256, 256, 256)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    heads: int = 1
    head_channels: int = 0
    scale_shift: bool = False
    num_classes: int = 0
    dropout: float = 0.0
    groups: int = 32
    out_channels: int = 0
    learn_variance: bool = False
    self_condition: bool = False
    patch: int = 1
    time_scale: float = 1000.0
    downsample_padding: int = 1
    dtype: str = "float32"

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError where the settings don't fit together or `image_shape` (H, W, C) doesn't."""
        self._check_settings()
        height, width, channels = image_shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"patch = {self.patch}: must divide the pictures of {height} x {width}")
        for width in self.channels:
            if width % self.groups:
                raise ValueError(f"groups = {self.groups}: must divide every width of {self.channels}")
            heads = width // self.head_channels if self.head_channels else self.heads
            if heads < 1 or width % heads or (self.head_channels and width % self.head_channels):
                raise ValueError(
                    f"heads = {self.heads}, head_channels = {self.head_channels}: must divide the width {width}"
                )
        patched = (image_shape[0] // self.patch, image_shape[1] // self.patch, channels * self.patch**2)
        check_halved(len(self.channels), self.attention, patched)

    def _check_settings(self) -> None:
        if not self.channels or min(self.channels) < 2 or self.channels[0] % 2:
            raise ValueError(f"channels = {self.channels}: need at least one level of 2 or more, the first even")
        for name in ("blocks", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.groups < 1 or self.num_classes < 0 or self.out_channels < 0:
            raise ValueError(
                f"groups = {self.groups}, num_classes = {self.num_classes}, "
                f"out_channels = {self.out_channels}: need groups >= 1 and the others not negative"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout}: must be in [0, 1)")
        if self.downsample_padding not in (0, 1):
            raise ValueError(f"downsample_padding = {self.downsample_padding}: must be 0 or 1")
        check_dtype(self.dtype)

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

        x0_hat, [B, H, W, C], is the guess of a self-conditioned network; None for no guess. With
        `learn_variance` the output has twice the channels.
        """
        self.check((x.shape[1], x.shape[2], x.shape[3]))
        out_channels = (self.out_channels or x.shape[-1]) * (1 + self.learn_variance) * self.patch**2
        x = _pixels_to_channels(with_guess(x, x0_hat, self.self_condition), self.patch)
        dtype = jnp.dtype(self.dtype)
        embedding = self._embed(time, labels, dtype)
        finest = min(x.shape[1:3])

        def block(x: jax.Array, width: int, level: int, name: str) -> jax.Array:
            x = self._res_block(width, dtype, name)(x, embedding, train)
            attends = finest // 2**level in self.attention
            return self._attention(width, dtype, f"{name}_attention")(x) if attends else x

        x = Conv3x3(self.channels[0], dtype=dtype, name="conv_in")(x.astype(dtype))
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
                x = x.repeat(2, axis=1).repeat(2, axis=2)  # nearest neighbour
                x = Conv3x3(width, dtype=dtype, name=f"up{level}_sample")(x)

        x = nn.silu(GroupNorm(self.groups, dtype, name="norm_out")(x))
        zeros = nn.initializers.zeros
        x = Conv3x3(out_channels, dtype=dtype, kernel_init=zeros, name="conv_out")(x)
        return _channels_to_pixels(x, self.patch).astype(at_least_float32(dtype))

    def _embed(self, time: jax.Array, labels: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
        """Time and class as one vector, [B, 4 * channels[0]]."""
        width = 4 * self.channels[0]
        embedding = sinusoid(time * self.time_scale, self.channels[0]).astype(dtype)
        embedding = nn.silu(Dense(width, dtype=dtype, name="time0")(embedding))
        embedding = Dense(width, dtype=dtype, name="time1")(embedding)
        if self.num_classes:
            labels = jnp.full(time.shape, -1) if labels is None else labels
            classes = ClassEmbedding(self.num_classes, width, name="classes")
            embedding = embedding + classes(labels).astype(dtype)
        return embedding

    def _res_block(self, width: int, dtype: jnp.dtype, name: str) -> ResBlock:
        return ResBlock(width, self.groups, self.scale_shift, self.dropout, dtype, name=name)

    def _attention(self, width: int, dtype: jnp.dtype, name: str) -> Attention:
        heads = width // self.head_channels if self.head_channels else self.heads
        return Attention(heads, width // heads, self.groups, dtype, name=name)

    def _downsample(self, width: int, dtype: jnp.dtype, name: str) -> nn.Conv:
        before = self.downsample_padding
        padding = ((before, 1), (before, 1))
        return Conv3x3(width, strides=(2, 2), padding=padding, dtype=dtype, name=name)


def _pixels_to_channels(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] as [B, H/patch, W/patch, patch^2 C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, h // patch, w // patch, patch**2 * c)


def _channels_to_pixels(x: jax.Array, patch: int) -> jax.Array:
    """The inverse of `_pixels_to_channels`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // patch**2).swapaxes(2, 3)
    return x.reshape(b, h * patch, w * patch, c // patch**2)
