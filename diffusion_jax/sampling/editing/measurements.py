"""Linear measurements y = A x0 of images.

A measurement is a pytree with `forward`, A, and `adjoint`, its transpose, both on batches. In the measurements here
A A^T is a number, `gain`, times the identity, so that the pseudo-inverse is the adjoint divided by it.
To add one, subclass `Measurement`; `conditioned` only needs forward and adjoint.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax.typing import ArrayLike

from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.editing.images import as_mask
from diffusion_jax.validation import Checked, check_divides, check_shape, integer

__all__ = ["Downsample", "Grayscale", "Mask", "Measurement"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, which Pillow's "L" uses


@dataclasses.dataclass(frozen=True)
class Measurement(Checked):
    """Base of the linear measurements.

    >>> @jax.tree_util.register_static
    ... class FirstRow(dj.editing.Measurement):
    ...     def forward(self, x):
    ...         return x[:, :1]
    ...
    ...     def adjoint(self, y):
    ...         return jnp.pad(y, ((0, 0), (0, 7), (0, 0), (0, 0)))
    >>> FirstRow().forward(jnp.ones((1, 8, 8, 3))).shape
    (1, 1, 8, 3)
    """

    def forward(self, x: jax.Array) -> jax.Array:
        """Returns y = A x of images [B, H, W, C]; [B, ...]."""
        raise NotImplementedError

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Returns A^T y, shaped like the images: <A x, y> = <x, A^T y>."""
        raise NotImplementedError

    @property
    def gain(self) -> float:
        """A A^T."""
        raise NotImplementedError

    def pinv(self, y: jax.Array) -> jax.Array:
        """Returns the images of the smallest norm whose measurement is y: A^T (A A^T)^-1 y."""
        return self.adjoint(y) / self.gain

    def project(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the images nearest to x whose measurement is y: x + A^T (A A^T)^-1 (y - A x)."""
        return x + self.pinv(y - self.forward(x))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Downsample(Measurement):
    """The mean of each block of `factor` x `factor` pixels: y [B, H/factor, W/factor, C].

    Attributes:
      factor: side of a block in pixels; must divide height and width.

    >>> dj.editing.Downsample(4).forward(jnp.ones((1, 8, 8, 3))).shape
    (1, 2, 2, 3)
    """

    factor: int = dataclasses.field(default=2, metadata=integer(1))

    def forward(self, x):
        check_shape("images", x, ("B", "H", "W", "C"))
        check_divides("factor", self.factor, "height, width", x.shape[1:3])
        blocks = rearrange(x, "b (h fh) (w fw) c -> b h fh w fw c", fh=self.factor, fw=self.factor)
        return jnp.mean(blocks, axis=(2, 4))

    def adjoint(self, y):
        return self.gain * repeat(jnp.asarray(y), "b h w c -> b (h fh) (w fw) c", fh=self.factor, fw=self.factor)

    @property
    def gain(self):
        return 1 / self.factor**2


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Grayscale(Measurement):
    """The luma of colors, 0.299 R + 0.587 G + 0.114 B (ITU-R 601): y [B, H, W, 1].

    >>> dj.editing.Grayscale().forward(jnp.ones((1, 8, 8, 3))).shape
    (1, 8, 8, 1)
    """

    def forward(self, x):
        check_shape("images", x, ("B", "H", "W", 3))
        return jnp.sum(x * jnp.asarray(_LUMA), axis=-1, keepdims=True)

    def adjoint(self, y):
        return y * jnp.asarray(_LUMA)

    @property
    def gain(self):
        return sum(weight**2 for weight in _LUMA)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask(Measurement):
    """The known pixels, and 0 elsewhere: y shaped like x.

    Attributes:
      known: 1 where a pixel is known, 0 elsewhere; [..., 1 or C] for x [B, ..., C], or one per image, with B in front.

    Raises ValueError, when it is used, for another shape and for values other than 0 and 1.

    >>> dj.editing.Mask(np.array([[[1], [0]]])).forward(jnp.full((1, 1, 2, 1), 0.5)).ravel().tolist()
    [0.5, 0.0]
    """

    known: ArrayLike

    def forward(self, x):
        return jnp.where(as_mask(self.known, x.shape), x, 0.0)

    def adjoint(self, y):
        return self.forward(y)

    @property
    def gain(self):
        return 1.0
