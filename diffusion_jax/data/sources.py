"""Where pictures come from: random-access sources of {"image": uint8 [H, W, C], "label": int32 []}.

A data set is a frozen dataclass whose `open()` gives two `Source`s, one to train on and one held out. To
add one, subclass `Dataset`.
"""

import dataclasses
import difflib
import hashlib
import io
from collections.abc import Sequence
from contextlib import redirect_stderr
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
class Digits(Dataset):
    """The 1 797 handwritten digits that scikit-learn ships: 8x8, one channel, 10 classes.

    From UCI's repository (Alpaydin and Kaynak 1998). Ink 0..16 becomes 0..255.
    Every tenth picture is held out.
    """

    def open(self) -> tuple[Source, Source]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
        return from_arrays(images, digits.target, num_classes=10, holdout=10)


@dataclasses.dataclass(frozen=True)
class NPZ(Dataset):
    """Arrays in an .npz file: `image` uint8 [N, H, W, C] and, if any, `label` int [N].

    Every `holdout`-th is held out.
    """

    path: str
    holdout: int = 10

    def open(self) -> tuple[Source, Source]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except Exception as error:  # what numpy and zipfile raise for a damaged file is not listed anywhere
            raise DataError(f'path = "{self.path}": cannot be read as .npz ({error!r})') from error
        if "image" not in arrays:
            raise DataError(f'path = "{self.path}": has no array "image", only {sorted(arrays)}')
        return from_arrays(arrays["image"], arrays.get("label"), holdout=self.holdout)


@dataclasses.dataclass(frozen=True)
class TFDS(Dataset):
    """A TensorFlow Datasets data set in its array_record form, read without TensorFlow.

    `dataset` is its name, such as "cifar10" or "mnist:3.0.1"; `data_dir` where it was prepared
    (TFDS' default where ""). It must have an "image" feature; "label" is used where there is one.
    """

    dataset: str
    data_dir: str = ""
    train_split: str = "train"
    heldout_split: str = "test"

    def __post_init__(self):
        if not self.dataset:
            raise ValueError('dataset = "": name one, such as "cifar10"')

    def open(self) -> tuple[Source, Source]:
        builder = self._builder()
        features = builder.info.features
        if "image" not in features:
            raise DataError(f'dataset = "{self.dataset}": has no feature "image", only {sorted(features)}')
        shape = features["image"].shape
        if None in shape:
            raise DataError(
                f'dataset = "{self.dataset}": its pictures differ in size {shape}; '
                "use one whose pictures are all alike"
            )
        label = dict(features).get("label")
        num_classes = label.num_classes if label is not None else 0
        names = tuple(label.names) if label is not None and label.names else ()
        return tuple(  # type: ignore[return-value]
            Source(self._rows(builder, split), shape, num_classes, names, _tfds_print(builder, split))
            for split in (self.train_split, self.heldout_split)
        )

    def _builder(self) -> Any:
        with redirect_stderr(io.StringIO()):  # it warns of TensorFlow's absence
            import tensorflow_datasets as tfds

        where = {"data_dir": self.data_dir} if self.data_dir else {}
        name = self.dataset.split(":")[0].split("/")[0]
        try:
            builder = tfds.builder(self.dataset, **where)
        except tfds.core.DatasetNotFoundError:
            near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise DataError(f'dataset = "{self.dataset}": TFDS knows no such data set{hint}') from None
        except (
            Exception
        ) as error:  # some builders need TensorFlow, or a network, to say so much as their name
            raise DataError(self._unprepared(name, tfds.core.constants.DATA_DIR)) from error
        if not builder.data_path.exists() or not builder.info.splits:
            raise DataError(self._unprepared(name, builder.data_dir))
        return builder

    def _unprepared(self, name: str, where: Any) -> str:
        directory = f" --data_dir={self.data_dir}" if self.data_dir else ""
        return (
            f'dataset = "{self.dataset}": has not been prepared in {self.data_dir or where}; run '
            f"`tfds build {name} --file_format=array_record{directory}` where there is a network"
        )

    def _rows(self, builder: Any, split: str) -> Rows:
        try:
            return _TFDSRows(builder.as_data_source(split=split))
        except (KeyError, ValueError, NotImplementedError) as error:
            known = sorted(builder.info.splits)
            why = str(error).strip().splitlines()[0][:200]
            raise DataError(
                f'split "{split}" of dataset "{self.dataset}" cannot be read ({why}); '
                f"it has the splits {known}, which must be in array_record form"
            ) from error


@dataclasses.dataclass(frozen=True)
class _TFDSRows:
    """A TFDS data source with the features that are used."""

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = self.source[index]
        row = {"image": np.asarray(example["image"], np.uint8)}
        if "label" in example:
            row["label"] = np.asarray(example["label"], np.int32)
        return row


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
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"images are {images.dtype} {images.shape}: need uint8 [N, H, W, C]")
    if holdout < 2 or len(images) < holdout:
        raise DataError(f"holdout = {holdout}: must be at least 2 and at most the {len(images)} pictures")
    if labels is not None:
        labels = _checked_labels(labels, len(images), num_classes)
        num_classes = num_classes or int(labels.max()) + 1
    held_out = np.arange(len(images)) % holdout == 0

    def part(chosen: np.ndarray) -> Source:
        rows = _ArrayRows(images[chosen], None if labels is None else labels[chosen])
        digest = hashlib.sha256(str(rows.images.shape).encode() + rows.images.tobytes())
        if rows.labels is not None:
            digest.update(rows.labels.tobytes())
        return Source(rows, images.shape[1:], num_classes or 0, (), digest.hexdigest()[:16])

    return part(~held_out), part(held_out)


def _checked_labels(labels: Any, n: int, num_classes: int | None) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels are {labels.dtype} {labels.shape}: need one integer a picture, [{n}]")
    if labels.min() < 0 or (num_classes and labels.max() >= num_classes):
        bad = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"labels contain {bad}: must be from 0 to num_classes - 1")
    return labels.astype(np.int32)


def _tfds_print(builder: Any, split: str) -> str:
    """Identity of a prepared split: TFDS' own name, version, counts and sizes."""
    parts = [builder.info.full_name, split]
    for name, info in sorted(builder.info.splits.items()):
        parts += [name, str(info.num_examples), str(info.num_bytes)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
