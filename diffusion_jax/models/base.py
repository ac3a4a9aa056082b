"""Fields, checks, input and output that the networks share."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.models.convolution import CONVOLUTION
from diffusion_jax.models.layers import ClassEmbedding, at_least_float32
from diffusion_jax.process.pixels import NO_LABEL
from diffusion_jax.validation import check_fields, check_integer, check_shape, choice, integer

# What a gradient computes again, and the policy by which the rest is kept.
REMAT = {
    "none": None,
    "activations": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.save_only_these_names(CONVOLUTION),
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    ),
    "blocks": jax.checkpoint_policies.nothing_saveable,
}

# A network of a million blocks would be traced for days: the config in a checkpoint of somebody else may ask for one.
MOST_BLOCKS = 100

__all__ = ["MOST_BLOCKS", "ImageNetwork", "check_attention", "check_halving", "even"]


def _check_dtype(name: str, value: Any) -> Any:
    if value not in ("float32", "bfloat16", "float64"):
        raise ValueError(f'{name} = "{value}": must be "float32" or "bfloat16"')
    if jax.dtypes.canonicalize_dtype(value) != value:
        raise ValueError(f'{name} = "float64": needs JAX_ENABLE_X64=1; use "float32"')
    return value


class ImageNetwork(nn.Module, kw_only=True):
    """Base of the networks. A subclass computes the output in `compute`; its `check` extends the one here.

    Attributes:
      num_classes: number of classes; 0 for an unconditional network.
      out_channels: 0 for the number of channels of the input.
      learn_variance: return twice the channels; the second half places the log variance of the reverse step
        between the posterior's (-1) and the forward step's (1) (Nichol and Dhariwal 2021, Eq. 15).
      self_condition: the network also sees its own guess of x0, behind x (Chen et al. 2023, Sec. 3.2).
      time_scale: the time is multiplied by this before its sines; 1000 turns [0, 1] into DDPM's steps.
      dtype: of the computation, "float32" or "bfloat16"; parameters are float32.
      remat: what the gradient computes again instead of keeping it in memory: "none"; "activations", everything
        between convolutions and dense layers, such as norms, SiLU and attention weights; "blocks", everything but the
        inputs of the blocks, which is one more forward pass. It changes nothing but rounding.
      attention_kernel: "xla", or "cudnn" for cuDNN's fused attention on NVIDIA GPUs, which does not keep the attention
        weights in memory; elsewhere it is "xla". It needs bfloat16 and head widths that are multiples of 8 up to 128.
    """

    num_classes: int = dataclasses.field(default=0, metadata=integer(0))
    out_channels: int = dataclasses.field(default=0, metadata=integer(0))
    learn_variance: bool = False
    self_condition: bool = False
    time_scale: float = 1000.0
    dtype: str = dataclasses.field(default="float32", metadata={"check": _check_dtype})
    remat: str = dataclasses.field(default="none", metadata=choice(*REMAT))
    attention_kernel: str = dataclasses.field(default="xla", metadata=choice("xla", "cudnn"))

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError unless the settings fit together and suit images of `image_shape` (H, W, C)."""
        check_fields(self)

    def compute(self, x: jax.Array, time: jax.Array, labels: jax.Array, out_channels: int, train: bool) -> jax.Array:
        """Returns [B, H, W, out_channels] for x [B, H, W, C], already in the dtype of the computation."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        time: jax.Array,
        labels: jax.Array | None = None,
        train: bool = False,
        x0_hat: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the output of the network, float32 [B, H, W, out_channels].

        Args:
          x: noised images [B, H, W, C].
          time: their times in [0, 1], [B].
          labels: their classes, integers [B], below 0 for none; None if all have none.
          train: whether dropout is active.
          x0_hat: guess of x0 for a self-conditioned network, [B, H, W, C]; None for no estimate.
        """
        check_shape("x", x, ("B", "H", "W", "C"))
        self.check((x.shape[1], x.shape[2], x.shape[3]))
        out_channels = (self.out_channels or x.shape[-1]) * (1 + self.learn_variance)
        labels = jnp.full(time.shape, NO_LABEL) if labels is None else labels
        dtype = jnp.dtype(self.dtype)
        x = self._with_guess(x, x0_hat).astype(dtype)
        return self.compute(x, time, labels, out_channels, train).astype(at_least_float32(dtype))

    def _block(self, module: Any, static_argnums: tuple[int, ...] = ()) -> Any:
        """The class of a block, whose gradient keeps what `remat` says."""
        if self.remat == "none":
            return module
        return nn.remat(module, policy=REMAT[self.remat], static_argnums=static_argnums)

    def _check_heads(self, widths: Iterable[int]) -> None:
        """Raises ValueError unless `attention_kernel` can have attention heads with these numbers of channels."""
        if self.attention_kernel == "xla":
            return
        if self.dtype != "bfloat16":
            raise ValueError(f'attention_kernel = "cudnn": needs dtype = "bfloat16", got "{self.dtype}"; use "xla"')
        for width in widths:
            if width % 8 or width > 128:
                raise ValueError(
                    f'attention_kernel = "cudnn": needs heads of a multiple of 8 channels up to 128, got {width}; use '
                    'other heads, or "xla"'
                )

    def _with_guess(self, x: jax.Array, x0_hat: jax.Array | None) -> jax.Array:
        """x, followed by the guess of x0 if the network is self-conditioned, [B, H, W, 2 C].

        Zeros stand for no guess (Chen et al. 2023, Sec. 3.2). The guess is clipped to the images' [-1, 1]: with
        eps-prediction near t = 1 it can be thousands of times x.
        """
        if not self.self_condition:
            if x0_hat is not None:
                raise ValueError("x0_hat: must be None, the network is not self-conditioned; use self_condition=True")
            return x
        guess = jnp.zeros_like(x) if x0_hat is None else jnp.clip(x0_hat, -1.0, 1.0).astype(x.dtype)
        return jnp.concatenate([x, guess], axis=-1)

    def _add_class(self, embedding: jax.Array, labels: jax.Array) -> jax.Array:
        """Adds the embedding of the class to `embedding` [B, E], if the network has classes."""
        if not self.num_classes:
            return embedding
        classes = ClassEmbedding(self.num_classes, embedding.shape[-1], name="classes")
        return embedding + classes(labels).astype(embedding.dtype)


def even() -> dict[str, Any]:
    """Field metadata: a positive even integer, as the width of an embedding of sines and cosines."""

    def check(name: str, value: Any) -> Any:
        check_integer(name, value, 2)
        if value % 2:
            raise ValueError(f"{name} = {value}: must be even")
        return value

    return {"check": check}


def check_halving(levels: int, attention: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError unless images (H, W, C) can be halved for each level and `attention` is among the sides."""
    factor, (height, width, _) = 2 ** (levels - 1), image_shape
    if height % factor or width % factor:
        raise ValueError(f"{levels} levels: images must be divisible by {factor}, got {height}x{width}; use fewer")
    check_attention(attention, [min(height, width) // 2**level for level in range(levels)])


def check_attention(attention: tuple[int, ...], sides: list[int]) -> None:
    """Raises ValueError for a resolution that no level has."""
    if not set(attention) <= set(sides):
        raise ValueError(f"attention = {attention}: must be among the resolutions of the levels, {sorted(sides)}")
