"""A U-Net of ConvNeXt blocks with additive time and class, as in github.com/okarthikb/diffusion.

Layer for layer the network of that project's DDPM on MNIST where `stem` is off and `attention` names every
level. That form has two defects: the first block's norm sees a single channel and so erases the time and the
class, and attention over all pixels of the finest level is most of its cost. The defaults mend both.
ConvNeXt is of Liu et al. (2022); the layers start as PyTorch starts them.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.models.layers import (
    Attention,
    GroupNorm,
    at_least_float32,
    check_attention,
    check_counts,
    check_dtype,
    torch_conv3x3,
    torch_dense,
    torch_init,
    with_guess,
)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, time and class added; norm, convolution to expansion * width, GELU, norm, convolution.

    The input is added, through a 1x1 convolution where the width changes.
    """

    width: int
    expansion: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array, label: jax.Array | None) -> jax.Array:
        """x [B, H, W, C] -> [B, H, W, width]; time and label are embeddings [B, E], label None for none."""
        channels, dtype = x.shape[-1], self.dtype
        bias = torch_dense(nn.silu(time), channels, dtype=dtype, name="time")
        if label is not None:
            bias = bias + torch_dense(nn.silu(label), channels, dtype=dtype, name="label")
        h = DepthwiseConv(7, dtype, name="depthwise")(x) + bias[:, None, None, :]

        h = GroupNorm(1, dtype, name="norm1")(h)
        h = torch_conv3x3(h, self.expansion * self.width, dtype=dtype, name="conv1")
        h = GroupNorm(1, dtype, name="norm2")(nn.gelu(h, approximate=False))
        h = torch_conv3x3(h, self.width, dtype=dtype, name="conv2")
        if channels != self.width:
            x = torch_dense(x, self.width, dtype=dtype, name="shortcut")
        return h + x


class DepthwiseConv(nn.Module):
    """A convolution of each channel by itself, size x size, at the input's resolution."""

    size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, init = x.shape[-1], torch_init(self.size**2)
        kernel = self.param("kernel", init, (self.size, self.size, 1, channels)).astype(self.dtype)
        bias = self.param("bias", init, (channels,)).astype(self.dtype)
        return jax.lax.platform_dependent(x, kernel, cpu=_banded_products, default=_grouped_conv) + bias


def _grouped_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _banded_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as matrix products, one for each row of the kernel: on a CPU XLA's own is slow."""
    size, (height, width) = len(kernel), x.shape[1:3]
    before = size // 2
    # One where pixel w of a row reads pixel u = w + j - before by tap j.
    reads = np.stack([np.eye(width, k=before - j) for j in range(size)])  # [j, u, w]
    bands = jnp.einsum("ijc,juw->icuw", kernel[:, :, 0], jnp.asarray(reads, x.dtype))
    rows = jnp.pad(x, ((0, 0), (before, before), (0, 0), (0, 0))).transpose(3, 0, 1, 2)  # [C, B, H, W]
    parts = (jnp.einsum("cbhu,cuw->cbhw", rows[:, :, i : i + height], bands[i]) for i in range(size))
    return functools.reduce(jnp.add, parts).transpose(1, 2, 3, 0)


class Upsample(nn.Module):
    """The transposed 3x3 convolution back to `shape` [B, H, W, C], from which `stride` came down."""

    stride: int
    shape: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # (n - 1) stride + 1 pixels come back without padding at the end.
        end = [self.shape[axis] - (x.shape[axis] - 1) * self.stride for axis in (1, 2)]
        init = torch_init(9 * self.shape[-1])
        return nn.ConvTranspose(
            self.shape[-1],
            kernel_size=(3, 3),
            strides=(self.stride, self.stride),
            padding=[(1, n) for n in end],
            kernel_init=init,
            bias_init=init,
            dtype=self.dtype,
            name="conv",
        )(x)


class ConvNeXtUNet(nn.Module):
    """The ConvNeXt U-Net.

    Attributes:
      channels: width of each level, the finest first; the last is the middle's.
      strides: of the convolution below each level but the last. Any size of picture is taken: a side n
        becomes floor((n - 1)/stride) + 1, and n again on the way up.
      last_width: what the finest level gives to the final block, where there are two or more.
      attention: resolutions (the smaller side, in pixels) at whose levels attention follows the block.
      expansion: of the width inside a block.
      embedding_width: of time and class.
      num_classes: 0 for an unconditional network. A label below 0 is embedded as zero.
      stem: start with a 3x3 convolution to channels[0], so that the first block has channels to norm.
      out_channels: 0 for as many as the input has.
      learn_variance, self_condition: as in `UNet`.
      time_scale, time_offset: the sines are those of position time * time_scale + time_offset. With T and 1
        the times k/T are the positions 2 .. T + 1.
      dtype: of the computation, "float32" or "bfloat16"; parameters are float32.
    """

    channels: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[int, ...] = (2, 2, 3)
    last_width: int = 8
    attention: tuple[int, ...] = (7, 3)
    expansion: int = 3
    embedding_width: int = 112
    num_classes: int = 0
    stem: bool = True
    out_channels: int = 0
    learn_variance: bool = False
    self_condition: bool = False
    time_scale: float = 1000.0
    time_offset: float = 1.0
    dtype: str = "float32"

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError where the settings don't fit together or `image_shape` (H, W, C) doesn't."""
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels = {self.channels}: need at least one level, all positive")
        if len(self.strides) != len(self.channels) - 1 or min(self.strides, default=2) < 2:
            raise ValueError(
                f"strides = {self.strides}: need one of at least 2 below each level but the last, "
                f"{len(self.channels) - 1} for {len(self.channels)} levels"
            )
        if self.last_width < 1 or self.expansion < 1:
            raise ValueError(f"last_width = {self.last_width}, expansion = {self.expansion}: must be at least 1")
        if self.embedding_width < 2 or self.embedding_width % 2:
            raise ValueError(f"embedding_width = {self.embedding_width}: must be positive and even")
        check_counts(self.num_classes, self.out_channels)
        check_dtype(self.dtype)
        check_attention(self.attention, self.sides(min(image_shape[:2])))

    def sides(self, side: int) -> list[int]:
        """The side of each level's pictures."""
        sides = [side]
        for stride in self.strides:
            sides.append((sides[-1] - 1) // stride + 1)
        return sides

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
        embeddings = self._embed(time, labels, dtype)
        sides = self.sides(min(x.shape[1:3]))

        def block(x: jax.Array, width: int, level: int, name: str) -> jax.Array:
            x = ConvNeXtBlock(width, self.expansion, dtype, name=name)(x, *embeddings)
            attends = sides[level] in self.attention
            return self._attention(width, dtype, f"{name}_attention")(x) if attends else x

        x = x.astype(dtype)
        if self.stem:
            x = torch_conv3x3(x, self.channels[0], dtype=dtype, name="stem")
        skips = []
        for level, stride in enumerate(self.strides):
            x = block(x, self.channels[level], level, f"down{level}")
            skips.append(x)
            name, strides = f"down{level}_sample", (stride, stride)
            x = torch_conv3x3(x, self.channels[level + 1], strides=strides, dtype=dtype, name=name)
        x = block(x, self.channels[-1], len(self.strides), "mid")

        for level, stride in reversed(list(enumerate(self.strides))):
            width = self.channels[level] if level else self.last_width
            skip = skips.pop()
            x = Upsample(stride, skip.shape, dtype, name=f"up{level}_sample")(x)
            x = block(jnp.concatenate([x, skip], axis=-1), width, level, f"up{level}")
        x = ConvNeXtBlock(out_channels, self.expansion, dtype, name="final")(x, *embeddings)
        return x.astype(at_least_float32(dtype))

    def _embed(self, time: jax.Array, labels: jax.Array | None, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array | None]:
        """Time and class, [B, embedding_width] each."""
        embedding = interleaved_sinusoid(time * self.time_scale + self.time_offset, self.embedding_width)
        if not self.num_classes:
            return embedding.astype(dtype), None
        labels = jnp.full(time.shape, -1) if labels is None else labels
        normal = nn.initializers.normal(1.0)
        table = nn.Embed(self.num_classes, self.embedding_width, embedding_init=normal, name="classes")
        classes = jnp.where(labels[:, None] < 0, 0.0, table(jnp.maximum(labels, 0)))
        return embedding.astype(dtype), classes.astype(dtype)

    def _attention(self, width: int, dtype: jnp.dtype, name: str) -> Attention:
        return Attention(
            heads=1,
            head_channels=width,
            groups=1,
            dtype=dtype,
            layer=torch_dense,
            last_layer=torch_dense,
            name=name,
        )


def interleaved_sinusoid(position: jax.Array, width: int) -> jax.Array:
    """sin(p w_k), cos(p w_k) side by side for w_k = 1e-4^(2k/width), k = 1 .. width/2; [B] -> [B, width]."""
    position = jnp.asarray(position)
    position = position.astype(at_least_float32(position.dtype))
    frequency = jnp.asarray(1e-4 ** (2 * np.arange(1, width // 2 + 1) / width), position.dtype)
    angle = position[:, None] * frequency
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(len(position), width)
