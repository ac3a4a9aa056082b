"""What a data set is: two sources of examples. And the simplest one, over arrays in memory."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class DataError(ValueError):
    """A data set that cannot be had or read."""


class Rows(Protocol):
    """Random access to examples."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples and what is known about them.

    Attributes:
      rows: random access to examples.
      image_shape: (H, W, C).
      num_classes: number of classes, 0 where there are no labels.
      class_names: their names, [] where they have none.
      fingerprint: changes when the data change, so that a run is not resumed on other data.
    """

    rows: Rows
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Base of the data sets. With `flip`, training shows each picture mirrored half of the time."""

    flip: bool = dataclasses.field(default=False, kw_only=True)

    def open(self) -> tuple[Source, Source]:
        """(training examples, held-out examples). Raises DataError where they cannot be had."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class _ArrayRows:
    images: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = {"image": self.images[index]}
        return row if self.labels is None else row | {"label": self.labels[index]}


def from_arrays(
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray | None = None,
    *,
    num_classes: int | None = None,
    holdout: int = 10,
) -> tuple[Source, Source]:
    """Sources over arrays in memory: images uint8 [N, H, W, C], labels int [N] from 0.

    Every `holdout`-th is held out; the class count is the largest label's unless `num_classes` is given.

    Raises DataError where images or labels are not so.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
        raise DataError(f"images are {images.dtype} {images.shape}: need uint8 [N, H, W, C]")
    check_holdout(holdout, len(images))
    if labels is not None:
        labels = _checked_labels(labels, len(images), num_classes)
        num_classes = num_classes or int(labels.max()) + 1
    chosen = held_out(len(images), holdout)
    if labels is not None:
        check_classes(labels, labels[~chosen])
    training, rest = (
        array_source(images[part], None if labels is None else labels[part], num_classes or 0)
        for part in (~chosen, chosen)
    )
    return training, rest


def array_source(images: np.ndarray, labels: np.ndarray | None, num_classes: int) -> Source:
    """One source over images uint8 [N, H, W, C] and labels int32 [N]."""
    digest = hashlib.sha256(str(images.shape).encode() + images.tobytes())
    if labels is not None:
        digest.update(labels.tobytes())
    rows = _ArrayRows(images, labels)
    return Source(rows, images.shape[1:], num_classes, (), digest.hexdigest()[:16])


def check_holdout(holdout: int, n: int) -> None:
    """Raises DataError unless every `holdout`-th of n pictures leaves some for either part."""
    if holdout < 2 or n < holdout:
        raise DataError(f"holdout = {holdout}: must be at least 2 and at most the {n} pictures")


def check_classes(labels: np.ndarray, trained: np.ndarray, names: Sequence[str] = ()) -> None:
    """Raises DataError for one class only, and for one with no picture among those that are trained on."""
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(f'there is only the class "{names[0] if names else present[0]}"; need two, or no classes')
    if len(missing := np.setdiff1d(present, trained)):
        name = names[missing[0]] if names else missing[0]
        raise DataError(f'class "{name}": all its pictures are held out; change holdout, or give it more')


def held_out(n: int, holdout: int) -> np.ndarray:
    """Which of n pictures are held out, bool [n]: every `holdout`-th, from the first on."""
    return np.arange(n) % holdout == 0


def _checked_labels(labels: Any, n: int, num_classes: int | None) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels are {labels.dtype} {labels.shape}: need one integer a picture, [{n}]")
    if labels.min() < 0 or (num_classes and labels.max() >= num_classes):
        bad = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"labels contain {bad}: must be from 0 to num_classes - 1")
    return labels.astype(np.int32)
