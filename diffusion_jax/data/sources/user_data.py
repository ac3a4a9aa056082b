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

    data: Any = dataclasses.field(default=None, compare=False)
    holdout: int = dataclasses.field(default=10, metadata=integer(2))
    num_classes: int | None = dataclasses.field(default=None, metadata=optional(integer(2)))
    class_names: tuple[str, ...] = ()

    def open(self) -> tuple[Source, Source]:
        if isinstance(self.class_names, str) or not all(isinstance(name, str) for name in self.class_names):
            raise DataError(f"class_names = {self.class_names!r}: must be a list of texts, one per class")
        parts = self._open()
        names, num_classes = tuple(self.class_names), parts[0].num_classes
        if names and len(names) != num_classes:
            raise DataError(f"class_names has length {len(names)}: must be {num_classes}, one per class")
        training, held_out = (dataclasses.replace(part, class_names=names) for part in parts)
        return training, held_out

    def _open(self) -> tuple[Source, Source]:
        if self.data is None:
            raise DataError("data = None: the data came from Python, and no config holds them; pass them again")
        images, labels = _as_arrays(self.data)
        if images is None:
            return self._open_sequence(self.data)
        if labels is None and self.num_classes:
            raise DataError(f"num_classes = {self.num_classes}: the data have no labels; leave it out")
        return from_arrays(images, labels, num_classes=self.num_classes, holdout=self.holdout)

    def _open_sequence(self, data: Any) -> tuple[Source, Source]:
        out = split_holdout(_check_sequence(data), self.holdout)
        rows = _SequenceRows(data, np.arange(len(out)), _read_first(data))
        looked_at = [rows[int(i)] for i in np.linspace(0, len(out) - 1, min(len(out), _LOOKED_AT))]
        images = np.stack([each["image"] for each in looked_at])
        largest, labels = check_images(images), self._read_labels(rows, looked_at)
        num_classes = 0 if labels is None else self._count_classes(labels, out)
        digest = hashlib.sha256(f"{len(out)} {images.shape} {images.dtype} {num_classes}".encode() + images.tobytes())
        digest.update(b"" if labels is None else labels.tobytes())
        training, held_out = (
            Source(
                dataclasses.replace(rows, indices=np.flatnonzero(part)),
                images.shape[1:],
                num_classes,
                (),
                hashlib.sha256(digest.digest() + part.tobytes()).hexdigest()[:16],
                dtype=images.dtype,
                largest=largest,
            )
            for part in (~out, out)
        )
        return training, held_out

    def _read_labels(self, rows: "_SequenceRows", looked_at: list[dict[str, np.ndarray]]) -> np.ndarray | None:
        """All labels, if the number of classes depends on them; otherwise those of the examples looked at."""
        if "label" not in rows.first:
            return None
        every = looked_at if self.num_classes else (rows[i] for i in range(len(rows)))
        labels = np.array([int(each["label"]) for each in every])
        return as_labels(labels, len(labels), self.num_classes)

    def _count_classes(self, labels: np.ndarray, out: np.ndarray) -> int:
        if self.num_classes:
            return self.num_classes
        check_classes(labels, labels[~out])
        found = int(labels.max()) + 1
        warn_of_gaps(labels[~out], found)
        return found


@dataclasses.dataclass(frozen=True)
class _SequenceRows:
    """Some examples of a sequence, each of the form of the first."""

    data: Any
    indices: np.ndarray
    first: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        i = int(self.indices[index])
        example = _read_example(self.data[i], i)
        if example.keys() != self.first.keys():
            raise DataError(f"example {i} has {' and '.join(example)}, example 0 has {' and '.join(self.first)}")
        image, first = example["image"], self.first["image"]
        if (image.shape, image.dtype) != (first.shape, first.dtype):
            raise DataError(f"example {i}: image = {describe(image)}: must be as example 0, {describe(first)}")
        return example


def _read_first(data: Any) -> dict[str, np.ndarray]:
    """Example 0. Raises DataError unless its image has three dimensions."""
    first = _read_example(data[0], 0)
    if first["image"].ndim != 3:
        raise DataError(f"example 0: image = {describe(first['image'])}: must be [H, W, C]; use image[..., None]")
    return first


def _read_example(row: Any, i: int) -> dict[str, np.ndarray]:
    """An example as arrays. Raises DataError unless it is a dict of "image" and maybe "label", one integer."""
    fields = f"a dict of {sorted(map(str, row))}" if isinstance(row, Mapping) else describe(row)
    if not isinstance(row, Mapping) or "image" not in row or set(row) - set(_NAMES):
        raise DataError(f'example {i} is {fields}: must be a dict of "image" and, if there are classes, "label"')
    example = {name: np.asarray(row[name]) for name in _NAMES if name in row}
    label = example.get("label", np.int32(0))
    if label.ndim or label.dtype.kind not in "iu":
        raise DataError(f"example {i}: label = {describe(row['label'])}: must be one integer")
    return example


def _as_arrays(data: Any) -> tuple[Any, Any]:
    """(images, labels) of data in arrays; (None, None) of a sequence."""
    if isinstance(data, Mapping):
        if "image" not in data or set(data) - set(_NAMES):
            raise DataError(f'dataset has {sorted(map(str, data))}: must be "image" and, if there are classes, "label"')
        return _stack(data["image"], "image"), data.get("label")
    if isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "shape"):
        return np.asarray(data[0]), data[1]
    return (np.asarray(data), None) if hasattr(data, "dtype") and hasattr(data, "shape") else (None, None)


def _stack(values: Any, name: str) -> np.ndarray:
    """`values` as one array. Raises DataError if they have different shapes."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"{name} cannot be one array ({error}); give all of its elements the same shape") from error


def _check_sequence(data: Any) -> int:
    """The length of a sequence. Raises DataError for anything else."""
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or isinstance(data, str | bytes):
        raise DataError(
            f"dataset = {describe(data)}: must be arrays, a Dataset, or a sequence of dicts with len() and [i]; "
            "use list(...) for an iterator"
        )
    if not len(data):
        raise DataError("dataset is empty: must have at least one example")
    return len(data)
