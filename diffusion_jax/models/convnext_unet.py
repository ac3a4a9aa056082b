"""A U-Net of ConvNeXt blocks to which time and class are added, as in github.com/okarthikb/diffusion.

Layer for layer the network of that project's DDPM on MNIST if `stem` is off and `attention` lists every level.
That form has two defects: the first block's norm sees a single channel and so erases the time and the class, and
attention over all pixels of the finest level is most of its cost. The defaults correct both. ConvNeXt is by Liu
et al. (2022). The layers have the initial values of PyTorch.
"""

import dataclasses
import functools

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.models.base import MOST_BLOCKS, ImageNetwork, check_attention, even
from diffusion_jax.models.layers import (
    Attention,
    Conv,
    GroupNorm,
    at_least_float32,
    torch_conv3x3,
    torch_dense,
    torch_init,
)
from diffusion_jax.validation import describe, integer, integers

__all__ = ["ConvNeXtBlock", "ConvNeXtUNet", "DepthwiseConv", "Upsample", "interleaved_sinusoid"]


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, plus time and class; norm, convolution to expansion * width, GELU, norm, convolution.

    The input is added, through a 1x1 convolution if the width changes.
    """

    width: int
    expansion: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array, label: jax.Array | None) -> jax.Array:
        """x [B, H, W, C] -> [B, H, W, width]; time and label are embeddings [B, E]; label may be None."""
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
    """A convolution of each channel on its own, size x size, at the resolution of the input."""

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
    """The same function as matrix products, one per row of the kernel: XLA's grouped convolution is slow on a CPU."""
    size, (height, width) = len(kernel), x.shape[1:3]
    before = size // 2
    # 1 if pixel w of a row reads pixel u = w + j - before with tap j.
    reads = np.stack([np.eye(width, k=before - j) for j in range(size)])  # [j, u, w]
    bands = jnp.einsum("ijc,juw->icuw", kernel[:, :, 0], jnp.asarray(reads, x.dtype))
    rows = einops.rearrange(jnp.pad(x, ((0, 0), (before, before), (0, 0), (0, 0))), "b h w c -> c b h w")
    parts = (jnp.einsum("cbhu,cuw->cbhw", rows[:, :, i : i + height], bands[i]) for i in range(size))
    return einops.rearrange(functools.reduce(jnp.add, parts), "c b h w -> b h w c")


class Upsample(nn.Module):
    """The transposed 3x3 convolution back to `shape` [B, H, W, C], the input of the convolution with `stride`."""

    stride: int
    shape: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # Without padding at the end (n - 1) stride + 1 pixels come back.
        end = [self.shape[axis] - (x.shape[axis] - 1) * self.stride for axis in (1, 2)]
        init = torch_init(9 * self.shape[-1])
        return Conv(
            self.shape[-1],
            kernel_size=(3, 3),
            input_dilation=(self.stride, self.stride),
            padding=[(1, n) for n in end],
            kernel_init=init,
            bias_init=init,
            dtype=self.dtype,
            name="conv",
        )(x)


class ConvNeXtUNet(ImageNetwork):
    """The ConvNeXt U-Net, with the fields of every `ImageNetwork` and those below.

    A label below 0 is embedded as zero.

    Attributes:
      channels: width of each level, the finest first; the last is the width of the middle.
      strides: of the convolution below each level but the last. Images of any size are accepted: a side n
        becomes floor((n - 1)/stride) + 1, and n again on the way up.
      last_width: width of the finest level on the way up, if there are two levels or more.
      attention: resolutions (the smaller side, in pixels) of the levels whose block is followed by attention.
      expansion: the width inside a block is this multiple of its own.
      embedding_width: of time and class.
      stem: start with a 3x3 convolution to channels[0], so that the first block has several channels to norm.
      time_offset: the position of the sines is time * time_scale + time_offset. With T and 1 the times k/T are
        the positions 2 .. T + 1.

    >>> model = dj.models.ConvNeXtUNet(channels=(4, 8), strides=(2,), attention=(4,), num_classes=10)
    >>> x, time, labels = jnp.zeros((2, 7, 7, 1)), jnp.full(2, 0.5), jnp.array([3, -1])
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x, time, labels)
    >>> jax.eval_shape(model.apply, params, x, time, labels).shape
    (2, 7, 7, 1)
    """

    channels: tuple[int, ...] = dataclasses.field(default=(16, 32, 64, 128), metadata=integers(1))
    strides: tuple[int, ...] = (2, 2, 3)
    last_width: int = dataclasses.field(default=8, metadata=integer(1))
    attention: tuple[int, ...] = (7, 3)
    expansion: int = dataclasses.field(default=3, metadata=integer(1))
    embedding_width: int = dataclasses.field(default=112, metadata=even())
    stem: bool = True
    time_offset: float = 1.0

    def check(self, image_shape: tuple[int, int, int]) -> None:
        super().check(image_shape)
        below = len(self.channels) - 1
        if below >= MOST_BLOCKS:
            raise ValueError(f"channels = {describe(self.channels)}: must be at most {MOST_BLOCKS} integers")
        if len(self.strides) != below or min(self.strides, default=2) < 2:
            raise ValueError(f"strides = {self.strides}: must be {below} integers >= 2, one per level but the last")
        sides = self.sides(min(image_shape[:2]))
        check_attention(self.attention, sides)
        self._check_heads(c for c, side in zip(self.channels, sides, strict=True) if side in self.attention)

    def sides(self, side: int) -> list[int]:
        """Returns the side of the images of each level."""
        sides = [side]
        for stride in self.strides:
            sides.append((sides[-1] - 1) // stride + 1)
        return sides

    def compute(self, x: jax.Array, time: jax.Array, labels: jax.Array, out_channels: int, train: bool) -> jax.Array:
        dtype = x.dtype
        embeddings = self._embed(time, labels, dtype)
        sides = self.sides(min(x.shape[1:3]))
        convnext_block = self._block(ConvNeXtBlock)

        def block(x: jax.Array, width: int, level: int, name: str) -> jax.Array:
            x = convnext_block(width, self.expansion, dtype, name=name)(x, *embeddings)
            attends = sides[level] in self.attention
            return self._attention(width, dtype, f"{name}_attention")(x) if attends else x

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
        return convnext_block(out_channels, self.expansion, dtype, name="final")(x, *embeddings)

    def _embed(self, time: jax.Array, labels: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array | None]:
        """Time and class, [B, embedding_width] each; None for the class if there are no classes."""
        embedding = interleaved_sinusoid(time * self.time_scale + self.time_offset, self.embedding_width)
        if not self.num_classes:
            return embedding.astype(dtype), None
        normal = nn.initializers.normal(1.0)
        table = nn.Embed(self.num_classes, self.embedding_width, embedding_init=normal, name="classes")
        classes = jnp.where(labels[:, None] < 0, 0.0, table(jnp.maximum(labels, 0)))
        return embedding.astype(dtype), classes.astype(dtype)

    def _attention(self, width: int, dtype: jnp.dtype, name: str) -> Attention:
        return self._block(Attention)(
            heads=1,
            head_channels=width,
            groups=1,
            dtype=dtype,
            layer=torch_dense,
            last_layer=torch_dense,
            kernel=self.attention_kernel,
            name=name,
        )


def interleaved_sinusoid(position: jax.Array, width: int) -> jax.Array:
    """sin(p w_k), cos(p w_k) in turn for w_k = 1e-4^(2k/width), k = 1 .. width/2; [B] -> [B, width]."""
    position = jnp.asarray(position)
    position = position.astype(at_least_float32(position.dtype))
    frequency = jnp.asarray(1e-4 ** (2 * np.arange(1, width // 2 + 1) / width), position.dtype)
    angle = position[:, None] * frequency
    return einops.rearrange([jnp.sin(angle), jnp.cos(angle)], "pair b k -> b (k pair)")
