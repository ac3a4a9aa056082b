"""What a batch must be: checked by its types and shapes when a step is traced, by its values on the device."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from diffusion_jax.process.pixels import LARGEST_FLOAT

__all__ = ["Batch", "are_classes", "are_pixels", "check_batch", "check_channels_last"]

Batch = dict[str, jax.Array]


def check_batch(batch: Mapping[str, jax.Array]) -> None:
    """Raises ValueError unless `batch` is {"image": [B, ...], "label": int [B]}, the label being optional.

    Images are uint8 in 0..255, or floats around [-1, 1]: integers of another type would be taken for such floats.

    >>> check_batch({"image": jnp.zeros((2, 8, 8, 3), jnp.uint8), "labels": jnp.zeros(2, jnp.int32)})
    Traceback (most recent call last):
    ...
    ValueError: batch["labels"]: must be only "image" and "label"; rename or remove it
    """
    for name in batch:
        if name not in ("image", "label"):
            raise ValueError(f'batch["{name}"]: must be only "image" and "label"; rename or remove it')
    if "image" not in batch:
        raise ValueError('batch["image"] is missing: must be uint8 [B, H, W, C], or float in [-1, 1]')
    image, label = batch["image"], batch.get("label")
    if image.dtype != jnp.uint8 and not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f'batch["image"] is {image.dtype}: must be uint8 in 0..255, or float in [-1, 1]')
    if image.ndim < 2:
        raise ValueError(f'batch["image"] has shape {image.shape}: must be [B, H, W, C]')
    check_channels_last('batch["image"]', image.shape[1:])
    if label is not None and (label.shape != image.shape[:1] or not jnp.issubdtype(label.dtype, jnp.integer)):
        raise ValueError(f'batch["label"] is {label.dtype} {label.shape}: must be integers of shape {image.shape[:1]}')


def check_channels_last(name: str, shape: Sequence[int]) -> None:
    """Raises ValueError for the shape (C, H, W) of an image as other libraries have it.

    >>> check_channels_last("image_shape", (3, 32, 32))
    Traceback (most recent call last):
    ...
    ValueError: image_shape has shape (3, 32, 32): must be (H, W, C); move the channels to the end
    """
    if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 4 and max(shape[1:]) <= 4 * min(shape[1:]):
        raise ValueError(f"{name} has shape {tuple(shape)}: must be (H, W, C); move the channels to the end")


def are_pixels(x0: jax.Array) -> jax.Array:
    """Whether images look scaled, rather than floats in 0..255; bool.

    >>> are_pixels(jnp.array([-1.0, 3.5])).item(), are_pixels(jnp.array([0.0, 255.0])).item()
    (True, False)
    """
    return jnp.abs(x0).max() <= LARGEST_FLOAT


def are_classes(labels: jax.Array | None, num_classes: int) -> jax.Array:
    """Whether all labels are below `num_classes`; bool. A network without classes (0) does not look at them.

    >>> are_classes(jnp.array([-1, 9]), 10).item(), are_classes(jnp.array([10]), 10).item()
    (True, False)
    """
    return jnp.bool_(True) if labels is None or not num_classes else jnp.all(labels < num_classes)
