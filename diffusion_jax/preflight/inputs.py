"""The training images as the training step receives them: range, type and labels."""

import dataclasses
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from diffusion_jax.data.pipeline import Batch, Batches

__all__ = ["Inputs", "read_inputs"]

# Reading ends after so many images, or seconds.
_MOST, _LONGEST = 10_000, 20.0
# With fewer images per class, a class without images is no news.
_PER_CLASS = 10


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is known about the first batches.

    Attributes:
      images: how many images were read, `total` if all.
      total: number of training images.
      shape, dtype: of one image.
      low, high, mean, std: of all values that are finite.
      constant: images that have the same value everywhere.
      not_finite: images with NaN or infinity.
      seconds: how long the reading took.
      labels: number of images of each class; () without classes.
      class_names: a name per class; () if they have none.
    """

    images: int
    total: int
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    mean: float
    std: float
    constant: int
    not_finite: int
    seconds: float
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def name_class(self, label: int) -> str:
        """The class's number, with its name if it has one."""
        return f'{label} "{self.class_names[label]}"' if self.class_names else str(label)

    def find_warnings(self) -> list[str]:
        """What is unusual about the images, a line each."""
        found = [
            (self.not_finite, f"{self.not_finite} of {self.images} images are not finite; their batches are skipped"),
            (self.constant, f"{self.constant} of {self.images} images have the same value everywhere"),
            (True, self._judge_range()),
            (True, self._judge_labels()),
        ]
        return [text for is_so, text in found if is_so and text]

    def _judge_range(self) -> str:
        values = f"the values are from {self.low:g} to {self.high:g}"
        if self.dtype == "uint8":
            return f"{values}: pixels should fill 0 to 255" * (self.high <= 1)
        if max(-self.low, self.high) > 1:
            return f"{values}: outside [-1, 1]; sampler.clip must then be off"
        return f"{values}: floats should be around [-1, 1]; use 2 * x - 1" * (self.low >= 0)

    def _judge_labels(self) -> str:
        absent = [label for label, count in enumerate(self.labels) if not count]
        if not absent or self.images < min(self.total, _PER_CLASS * len(self.labels)):
            return ""
        more = f" and {len(absent) - 1} more classes have" if len(absent) > 1 else " has"
        return f"class {self.name_class(absent[0])}{more} no example in the {self.images} images that were read"


class _Sums(NamedTuple):
    """Of the values of one batch."""

    images: int
    values: int  # that are finite
    total: float
    squares: float
    low: float
    high: float
    constant: int
    not_finite: int
    labels: np.ndarray  # [classes]


def read_inputs(batches: Batches) -> Inputs:
    """Reads the first batches of a run: one epoch, but at most 10 000 images, and not for more than 20 seconds."""
    source, start = batches.source, time.perf_counter()
    parts = [_measure(batch, source.num_classes) for batch in _take(batches, start + _LONGEST)]
    images, values, total, squares, lows, highs, constant, not_finite, labels = zip(*parts, strict=True)
    count = max(1, sum(values))
    mean = sum(total) / count
    return Inputs(
        images=sum(images),
        total=len(source),
        shape=source.image_shape,
        dtype=str(source.dtype),
        low=min(lows) if any(values) else 0.0,
        high=max(highs) if any(values) else 0.0,
        mean=mean,
        std=max(0.0, sum(squares) / count - mean**2) ** 0.5,
        constant=sum(constant),
        not_finite=sum(not_finite),
        seconds=time.perf_counter() - start,
        labels=tuple(np.sum(labels, axis=0).tolist()),
        class_names=tuple(source.class_names),
    )


def _take(batches: Batches, deadline: float) -> Iterator[Batch]:
    """The first batches until the deadline, or until they have this process's part of an epoch; the last one is cut."""
    left = min(len(batches.source) // batches.processes, _MOST)
    for batch in batches.iterate():
        yield {name: rows[:left] for name, rows in batch.items()}
        left -= len(batch["image"])
        if left <= 0 or time.perf_counter() > deadline:
            return


def _measure(batch: Batch, num_classes: int) -> _Sums:
    flat = batch["image"].reshape(len(batch["image"]), -1)
    is_finite = np.isfinite(flat)
    finite = flat[is_finite].astype(np.float64)
    labels = np.bincount(batch.get("label", ()), minlength=num_classes) if num_classes else np.zeros(0, int)
    return _Sums(
        *(len(flat), len(finite), float(finite.sum()), float(np.square(finite).sum())),
        *(float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf))),
        constant=int((flat == flat[:, :1]).all(1).sum()),
        not_finite=int((~is_finite.all(1)).sum()),
        labels=labels,
    )
