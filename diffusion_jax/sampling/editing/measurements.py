"""What is known of pictures x0: linear measurements y = A x0.

A measurement is a pytree with `forward`, A, and `adjoint`, its transpose, both on batches. In those here
A A^T is a number, `gain`, times the identity, so that the pseudo-inverse is the adjoint divided by it.
To add one, subclass `Measurement`; `conditioned` needs no more than forward and adjoint.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.sampling.editing.pictures import known_pixels
from diffusion_jax.validation import check_integer

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601: what Pillow's "L" is


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Base of the linear measurements."""

    def forward(self, x: jax.Array) -> jax.Array:
        """y = A x of pictures [B, H, W, C]; [B, ...]."""
        raise NotImplementedError

    def adjoint(self, y: jax.Array) -> jax.Array:
        """A^T y, shaped like the pictures: <A x, y> = <x, A^T y>."""
        raise NotImplementedError

    @property
    def gain(self) -> float:
        """A A^T."""
        raise NotImplementedError

    def pinv(self, y: jax.Array) -> jax.Array:
        """The picture of the smallest norm that measures as y: A^T (A A^T)^-1 y."""
        return self.adjoint(y) / self.gain

    def project(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The picture nearest to x that measures as y: x + A^T (A A^T)^-1 (y - A x)."""
        return x + self.pinv(y - self.forward(x))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Downsample(Measurement):
    """The mean of each block of `factor` x `factor` pixels: y [B, H/factor, W/factor, C]."""

    factor: int = 2

    def __post_init__(self):
        check_integer("factor", self.factor)

    def forward(self, x):
        if x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(f"factor = {self.factor}: does not divide pictures of {x.shape[1]}x{x.shape[2]} pixels")
        batch, height, width, channels = x.shape
        blocks = (batch, height // self.factor, self.factor, width // self.factor, self.factor, channels)
        return jnp.mean(x.reshape(blocks), axis=(2, 4))

    def adjoint(self, y):
        return self.gain * jnp.repeat(jnp.repeat(y, self.factor, axis=1), self.factor, axis=2)

    @property
    def gain(self):
        return 1 / self.factor**2


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Grayscale(Measurement):
    """The luma of colours, 0.299 R + 0.587 G + 0.114 B (ITU-R 601): y [B, H, W, 1]."""

    def forward(self, x):
        if x.shape[-1] != 3:
            raise ValueError(f"pictures have {x.shape[-1]} channel(s): only those of 3 have colours to lose")
        return jnp.sum(x * jnp.asarray(_LUMA), axis=-1, keepdims=True)

    def adjoint(self, y):
        return y * jnp.asarray(_LUMA)

    @property
    def gain(self):
        return sum(weight**2 for weight in _LUMA)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask(Measurement):
    """The known pixels, 0 elsewhere: y shaped like x. `known`, [H, W, 1 or C] or [B, ...], is 1 there.

    Raises ValueError, when it is used, for another shape and for values other than 0 and 1.
    """

    known: ArrayLike

    def forward(self, x):
        return jnp.where(known_pixels(self.known, x.shape), x, 0.0)

    def adjoint(self, y):
        return self.forward(y)

    @property
    def gain(self):
        return 1.0
