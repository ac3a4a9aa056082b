"""Data that a caller passes from Python: arrays, or any sequence of dicts."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax.data.sources.base import Dataset, Source, from_arrays
from diffusion_jax.data.sources.checks import (
    DataError,
    as_labels,
    check_classes,
    check_images,
    split_holdout,
    warn_of_gaps,
)
from diffusion_jax.validation import describe, integer, optional

__all__ = ["UserData"]

_NAMES = ("image", "label")
# UserData of a sequence that are read to check and to recognize the data; reading all of them may take hours.
_LOOKED_AT = 256


@dataclasses.dataclass(frozen=True)
class UserData(Dataset):
    """Data from Python: `dj.train(config, workdir, dataset=images)`, or `dataset=dj.sources.UserData(images, ...)`.

    A config cannot hold the data, so that a resumed run needs them again.

    Attributes:
      data: one of
        - images [N, H, W, C], uint8 in 0..255 or float32 around [-1, 1], of any number of channels;
        - a pair (images, labels), or {"image": images, "label": labels}, labels being integers [N] from 0;
        - a sequence, anything with len() and [i], of {"image": [H, W, C]} or {"image": [H, W, C], "label": integer},
          such as a list or the data set of another library, read as the batches need it.
      holdout: every `holdout`-th example is held out, from the first on.
      num_classes: number of classes; None for the largest label plus 1, for which all labels are read first.
      class_names: names of the classes, for captions and `--labels`.

    >>> images = np.zeros((100, 8, 8, 4), np.float32)
    >>> training, held_out = dj.sources.UserData((images, np.arange(100) % 7), holdout=5).open()
    >>> len(training), len(held_out), training.image_shape, training.num_classes
    (80, 20, (8, 8, 4), 7)
    >>> rows = [{"image": image} for image in images]
    >>> dj.sources.UserData(rows).open()[0].dtype
    dtype('float32')
    """

    data: Any = None
    holdout: int = dataclasses.field(default=10, metadata=integer(2))
    num_classes: int | None = dataclasses.field(default=None, metadata=optional(integer(2)))
    class_names: tuple[str, ...] = ()

    def open(self) -> tuple[Source, Source]:
        parts = self._open()
        names, num_classes = tuple(self.class_names), parts[0].num_classes
        if names and len(names) != num_classes:
            raise DataError(f"class_names has length {len(names)}: must be {num_classes}, one per class")
        training, held_out = (dataclasses.replace(part, class_names=names) for part in parts)
        return training, held_out

    def _open(self) -> tuple[Source, Source]:
        if self.data is None:
            raise DataError("dataset = None: the data come from Python; pass dj.train(config, workdir, dataset=...)")
        images, labels = _as_arrays(self.data)
        if images is None:
            return self._open_sequence(self.data)
        if labels is None and self.num_classes:
            raise DataError(f"num_classes = {self.num_classes}: the data have no labels; leave it out")
        return from_arrays(images, labels, num_classes=self.num_classes, holdout=self.holdout)

    def _open_sequence(self, data: Any) -> tuple[Source, Source]:
        out = split_holdout(_check_sequence(data), self.holdout)
        names = _field_names(data[0])
        looked_at = [_read_example(data, int(i), names) for i in _spread(len(out))]
        images = [each["image"] for each in looked_at]
        for i, image in zip(_spread(len(out)), images, strict=True):
            if (image.shape, image.dtype) != (images[0].shape, images[0].dtype):
                raise DataError(f"example {i}: image = {describe(image)}: must be as example 0, {describe(images[0])}")
        largest = check_images(np.stack(images))
        num_classes = _count_classes(data, out, self.num_classes) if "label" in names else 0
        digest = hashlib.sha256(f"{len(out)} {images[0].shape} {num_classes}".encode())
        for value in (value for each in looked_at for value in each.values()):
            digest.update(value.tobytes())
        training, held_out = (
            Source(
                _SequenceRows(data, np.flatnonzero(part), names),
                images[0].shape,
                num_classes,
                (),
                hashlib.sha256(digest.digest() + part.tobytes()).hexdigest()[:16],
                dtype=images[0].dtype,
                largest=largest,
            )
            for part in (~out, out)
        )
        return training, held_out


@dataclasses.dataclass(frozen=True)
class _SequenceRows:
    """Some examples of a sequence."""

    data: Any
    indices: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return _read_example(self.data, int(self.indices[index]), self.names)


def _spread(n: int) -> np.ndarray:
    """The indices of the examples that are looked at: evenly spaced, both ends included."""
    return np.linspace(0, n - 1, min(n, _LOOKED_AT)).astype(int)


def _field_names(row: Any) -> tuple[str, ...]:
    """The fields of example 0: "image" and maybe "label"."""
    if not isinstance(row, Mapping) or "image" not in row or set(row) - set(_NAMES):
        found = sorted(map(str, row)) if isinstance(row, Mapping) else describe(row)
        raise DataError(f'example 0 = {found}: must be a dict of "image" and, if there are classes, "label"')
    return tuple(name for name in _NAMES if name in row)


def _read_example(data: Any, index: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    row = data[index]
    if not isinstance(row, Mapping) or set(row) != set(names):
        found = sorted(map(str, row)) if isinstance(row, Mapping) else describe(row)
        raise DataError(f"example {index} = {found}: must have {' and '.join(names)}, as example 0")
    return {name: np.asarray(row[name]) for name in names}


def _as_arrays(data: Any) -> tuple[Any, Any]:
    """(images, labels) of data in arrays; (None, None) of a sequence."""
    if isinstance(data, Mapping):
        if "image" not in data or set(data) - set(_NAMES):
            raise DataError(f'dataset has {sorted(map(str, data))}: must be "image" and, if there are classes, "label"')
        return np.asarray(data["image"]), data.get("label")
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], Mapping):
        return np.asarray(data[0]), data[1]
    return (np.asarray(data), None) if hasattr(data, "dtype") and hasattr(data, "shape") else (None, None)


def _check_sequence(data: Any) -> int:
    """The length of a sequence. Raises DataError for anything else."""
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or isinstance(data, str | bytes):
        raise DataError(
            f"dataset = {describe(data)}: must be arrays, a Dataset, or a sequence of dicts with len() and [i]"
        )
    if not len(data):
        raise DataError("dataset is empty: must have at least one example")
    return len(data)


def _count_classes(data: Any, out: np.ndarray, num_classes: int | None) -> int:
    """The number of classes of a sequence, from all its labels unless it is known."""
    if num_classes:
        return num_classes
    labels = as_labels(np.array([data[i]["label"] for i in range(len(out))]), len(out))
    check_classes(labels, labels[~out])
    found = int(labels.max()) + 1
    warn_of_gaps(labels[~out], found)
    return found
