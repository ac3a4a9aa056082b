"""Errors of data, and checks of images and labels before any of their values is narrowed."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_jax.process.pixels import LARGEST_FLOAT
from diffusion_jax.validation import describe, printable

__all__ = ["DataError", "as_labels", "check_classes", "check_images", "check_row", "split_holdout", "warn_of_gaps"]

log = logging.getLogger(__name__)

_MAX_CLASSES = 2**31 - 1  # labels are int32
_PIXELS = (np.dtype(np.uint8), np.dtype(np.float32))  # the device would narrow others, or take 0..255 for -1..1


class DataError(ValueError):
    """A dataset that is missing, damaged or unsuitable. The message is one line that says what to change.

    >>> dj.sources.NPZ("missing.npz").open()
    Traceback (most recent call last):
    ...
    diffusion_jax.data.sources.checks.DataError: path = "missing.npz": cannot be read as .npz (FileNotFoundError...
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


def check_images(images: np.ndarray) -> float:
    """Returns the largest magnitude of float32 images, 1 for uint8. Raises DataError for others than [N, H, W, C].

    Floats that cannot be around [-1, 1] are refused; those that are all in [0, 1] are logged, because they may be
    meant so.
    """
    if images.dtype not in _PIXELS or images.ndim != 4 or 0 in images.shape:
        raise DataError(f"images = {describe(images)}: must be uint8 or float32 [N, H, W, C]; {_advice(images)}")
    if images.dtype == np.uint8:
        return 1.0
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        raise DataError("images are not finite: remove NaN and infinity")
    if max(-low, high) > LARGEST_FLOAT:
        raise DataError(f"images reach from {low:g} to {high:g}: scale floats to [-1, 1], or use uint8 in 0..255")
    if low >= 0 and 0 < high <= 1:
        log.warning("images are all from %g to %g; floats should be around [-1, 1]: use 2 * x - 1", low, high)
    return max(-low, high)


def _advice(images: np.ndarray) -> str:
    if images.ndim == 3:
        return "use images[..., None]"
    if images.ndim != 4:
        return "for data without height and width, write the training loop yourself"
    if 0 in images.shape:
        return "use at least one"
    dtype = "np.float32" if np.issubdtype(images.dtype, np.floating) else "np.uint8, if they are in 0..255"
    return f"use images.astype({dtype})"


def check_row(
    row: Mapping[str, Any], where: str, image_shape: tuple[int, ...], num_classes: int
) -> dict[str, np.ndarray]:
    """Returns "image" and, if it is there, "label" of an example; the label as int32. No value is lost.

    Raises DataError, which starts with `where`, unless the image is uint8 of `image_shape`, or float32, which is used
    as it is, and the label an integer from 0 to `num_classes` - 1.

    >>> check_row({"image": np.zeros((8, 8, 1), np.uint8), "label": 2**40}, "example 7", (8, 8, 1), 10)
    Traceback (most recent call last):
    ...
    diffusion_jax.data.sources.checks.DataError: example 7: label = 1099511627776: must be an integer from 0 to ...
    """
    image = np.asarray(row["image"])
    if image.dtype not in _PIXELS or image.shape != image_shape:
        raise DataError(f"{where}: image = {describe(image)}: must be uint8{list(image_shape)}, or float32 in [-1, 1]")
    if "label" not in row:
        if num_classes:
            raise DataError(f"{where} has no label: must have an integer from 0 to {num_classes - 1}")
        return {"image": image}
    label, last = np.asarray(row["label"]), num_classes - 1
    if label.ndim or label.dtype.kind not in "iu" or not 0 <= label <= last:
        raise DataError(f"{where}: label = {describe(label.tolist())}: must be an integer from 0 to {last}")
    return {"image": image, "label": label.astype(np.int32)}


def as_labels(labels: Any, n: int, num_classes: int | None = None) -> np.ndarray:
    """Returns `labels` as int32 [n]. Raises DataError unless they are n integers from 0 to `num_classes` - 1."""
    labels = np.asarray(labels)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels = {describe(labels)}: must be {n} integers, one per image")
    limit = num_classes or _MAX_CLASSES
    outside = labels[(labels < 0) | (labels >= limit)]
    if outside.size:
        raise DataError(f"labels contain {outside[0]}: must be from 0 to {limit - 1}")
    return labels.astype(np.int32)


def check_classes(labels: np.ndarray, training_labels: np.ndarray, names: Sequence[str] = ()) -> None:
    """Raises DataError if there is a single class, or if a class has no training images."""
    present = np.unique(labels)
    missing = np.setdiff1d(present, training_labels)
    name_of = names or range(int(present[-1]) + 1)
    if len(present) < 2:
        raise DataError(f'class "{name_of[present[0]]}": must not be the only class; add another, or use no classes')
    if len(missing):
        raise DataError(f'class "{name_of[missing[0]]}": all its images are held out; change holdout, or add images')


def warn_of_gaps(labels: np.ndarray, num_classes: int) -> None:
    """Logs the classes from 0 to `num_classes` - 1 that have no images, because labels are often numbered with gaps."""
    present = np.unique(labels)
    absent = num_classes - len(present)
    if absent:
        # The first gap is where the sorted labels stop being 0, 1, 2, ...
        first = next((i for i, label in enumerate(present) if i != label), len(present))
        log.warning(
            "labels: %d of the %d classes have no training images, the first is %d; number the classes without gaps",
            *(absent, num_classes, first),
        )


def split_holdout(n: int, holdout: int) -> np.ndarray:
    """Returns which of n images are held out, bool [n]: every `holdout`-th, from the first on.

    Raises DataError unless both parts have images.
    """
    if holdout < 2 or n < holdout:
        raise DataError(f"holdout = {holdout}: must be >= 2 and at most {n}, the number of images")
    return np.arange(n) % holdout == 0
