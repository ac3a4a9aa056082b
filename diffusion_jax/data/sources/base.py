"""Datasets and their sources of examples; the simplest source, over arrays in memory."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from diffusion_jax.data.sources.checks import as_labels, check_classes, check_images, split_holdout, warn_of_gaps
from diffusion_jax.validation import Checked, instance

__all__ = ["ArrayRows", "Dataset", "Rows", "Source", "from_arrays"]


class Rows(Protocol):
    """Random access to examples; a list of dicts is the simplest.

    >>> rows = [{"image": np.zeros((8, 8, 1), np.uint8), "label": np.int32(3)}]
    >>> dj.sources.Source(rows, (8, 8, 1), num_classes=10, class_names=(), fingerprint="mine").rows[0].keys()
    dict_keys(['image', 'label'])
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples, and their properties.

    Attributes:
      rows: random access to examples, {"image": uint8 or float32 [H, W, C]} and, if there are classes, "label" int32.
      image_shape: (H, W, C).
      num_classes: number of classes; 0 if there are no labels.
      class_names: names of the classes; () if they have none.
      fingerprint: changes with the data, so that a run is not resumed on other data.
      earlier_fingerprints: what earlier versions of the library computed for the same data.
      dtype: of the images, uint8 in 0..255 or float32 around [-1, 1].
      largest: the largest magnitude of float images, as far as it is known; 1 for uint8.

    >>> training, held_out = dj.sources.Digits().open()
    >>> len(training), training.image_shape, training.num_classes
    (1617, (8, 8, 1), 10)
    >>> training.rows[0]["image"].shape
    (8, 8, 1)
    """

    rows: Rows
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    fingerprint: str
    earlier_fingerprints: tuple[str, ...] = ()
    dtype: np.dtype = np.dtype(np.uint8)
    largest: float = 1.0

    def __len__(self) -> int:
        return len(self.rows)

    def has_fingerprint(self, stored: str | None) -> bool:
        """Whether a run that stored this fingerprint was trained on these examples.

        >>> training, held_out = dj.sources.Digits().open()
        >>> training.has_fingerprint(training.fingerprint), training.has_fingerprint(held_out.fingerprint)
        (True, False)
        """
        return stored in (self.fingerprint, *self.earlier_fingerprints)


@dataclasses.dataclass(frozen=True)
class Dataset(Checked):
    """Base of the datasets: a frozen dataclass whose `open` returns two sources.

    Attributes:
      flip: mirror each training image left to right with probability 1/2.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Noise(dj.sources.Dataset):
    ...     n: int = 100
    ...
    ...     def open(self):
    ...         images = np.random.default_rng(0).integers(0, 256, (self.n, 8, 8, 1), np.uint8)
    ...         return dj.sources.from_arrays(images)
    >>> training, held_out = Noise(flip=True).open()
    >>> len(training), len(held_out)
    (90, 10)
    """

    flip: bool = dataclasses.field(default=False, kw_only=True, metadata=instance(bool, "True"))

    def open(self) -> tuple[Source, Source]:
        """Returns (training examples, held-out examples). Raises DataError if they cannot be read."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ArrayRows:
    """Examples in memory: images as `check_images` accepts them, labels int32 [N] from 0 to the number of classes - 1.

    >>> rows = ArrayRows(np.zeros((10, 8, 8, 1), np.uint8), np.arange(10, dtype=np.int32))
    >>> rows.take(np.array([7, 7, 3]))["label"].tolist()
    [7, 7, 3]
    """

    images: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.take(index)

    def take(self, index: Any) -> dict[str, np.ndarray]:
        """One example, or several for indices [B]: {"image": [B, H, W, C]} and, with labels, "label" int32 [B]."""
        rows = {"image": self.images[index]}
        return rows if self.labels is None else rows | {"label": self.labels[index]}


def from_arrays(
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray | None = None,
    *,
    num_classes: int | None = None,
    holdout: int = 10,
) -> tuple[Source, Source]:
    """Returns sources of training and held-out examples over arrays in memory.

    Args:
      images: uint8 in 0..255, or float32 around [-1, 1], [N, H, W, C]; any number of channels.
      labels: integers [N] from 0; None if there are no classes.
      num_classes: number of classes; None for the largest label plus 1.
      holdout: every `holdout`-th image is held out, from the first on.

    Raises DataError for other types or shapes, for a single class, and if all images of a class are held out.

    >>> images = np.zeros((100, 8, 8, 1), np.uint8)
    >>> training, held_out = dj.sources.from_arrays(images, labels=np.arange(100) % 7, holdout=5)
    >>> len(training), len(held_out), training.num_classes
    (80, 20, 7)
    """
    images = np.asarray(images)
    largest = check_images(images)
    out = split_holdout(len(images), holdout)
    if labels is not None:
        labels = as_labels(labels, len(images), num_classes)
        check_classes(labels, labels[~out])
        num_classes = num_classes or int(labels.max()) + 1
        warn_of_gaps(labels[~out], num_classes)
    training, held_out = (
        array_source(images[part], None if labels is None else labels[part], num_classes or 0, largest)
        for part in (~out, out)
    )
    return training, held_out


def array_source(images: np.ndarray, labels: np.ndarray | None, num_classes: int, largest: float = 1.0) -> Source:
    """Returns one source over images [N, H, W, C], as `check_images` accepts them, and labels int32 [N]."""
    digest = hashlib.sha256(str(images.shape).encode() + images.tobytes())
    if labels is not None:
        digest.update(labels.tobytes())
    rows = ArrayRows(images, labels)
    fingerprint = digest.hexdigest()[:16]
    return Source(rows, images.shape[1:], num_classes, (), fingerprint, dtype=images.dtype, largest=largest)
