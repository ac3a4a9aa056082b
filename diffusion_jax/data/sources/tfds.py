"""Datasets of TensorFlow Datasets, by name."""

import dataclasses
import difflib
import hashlib
import io
from contextlib import redirect_stderr
from typing import Any

import numpy as np

from diffusion_jax.data.sources.base import DataError, Dataset, Rows, Source
from diffusion_jax.runtime.errors import first_line
from diffusion_jax.validation import location, text

__all__ = ["TFDS"]

_PARTS = 'train_split="train[:90%]", heldout_split="train[90%:]"'


@dataclasses.dataclass(frozen=True)
class TFDS(Dataset):
    """A dataset of TensorFlow Datasets in its array_record form, read without TensorFlow.

    It must have an "image" feature of a fixed size with 8 bits per channel; "label" is used if it exists.

    Attributes:
      dataset: its name, such as "cifar10" or "mnist:3.0.1".
      data_dir: the directory in which it was prepared; "" for the default of TFDS.
      train_split: split to train on, such as "train" or "train[:90%]".
      heldout_split: split that is held out.

    >>> data = dj.sources.TFDS("cifar10", train_split="train[:90%]", heldout_split="train[90%:]", flip=True)
    >>> data.dataset, data.flip
    ('cifar10', True)
    """

    dataset: str = dataclasses.field(metadata=text("cifar10"))
    data_dir: str = dataclasses.field(default="", metadata=location())
    train_split: str = "train"
    heldout_split: str = "test"

    def __post_init__(self):
        super().__post_init__()
        if self.train_split == self.heldout_split:
            raise ValueError(f'heldout_split = "{self.heldout_split}": must differ from train_split; use {_PARTS}')

    def open(self) -> tuple[Source, Source]:
        builder = self._builder()
        features = dict(builder.info.features)
        if problem := _problem(features):
            raise DataError(f'dataset = "{self.dataset}": {problem}; use another dataset')
        label, shape = features.get("label"), features["image"].shape
        num_classes = label.num_classes if label is not None else 0
        names = tuple(label.names) if label is not None and label.names else ()
        training, held_out = (
            Source(self._rows(builder, split), shape, num_classes, names, _split_fingerprint(builder, split))
            for split in (self.train_split, self.heldout_split)
        )
        return training, held_out

    def _builder(self) -> Any:
        with redirect_stderr(io.StringIO()):  # it warns that TensorFlow is missing
            import tensorflow_datasets as tfds

        directory = {"data_dir": self.data_dir} if self.data_dir else {}
        name = self.dataset.split(":")[0].split("/")[0]
        try:
            builder = tfds.builder(self.dataset, **directory)
        except tfds.core.DatasetNotFoundError:
            near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise DataError(f'dataset = "{self.dataset}": must be a dataset of TFDS{hint}') from None
        except Exception as error:  # some builders need TensorFlow, or a network, for as little as their name
            raise self._not_prepared(name, tfds.core.constants.DATA_DIR) from error
        if not builder.data_path.exists() or not builder.info.splits:
            raise self._not_prepared(name, builder.data_dir)
        return builder

    def _not_prepared(self, name: str, default_dir: Any) -> DataError:
        directory = f" --data_dir={self.data_dir}" if self.data_dir else ""
        return DataError(
            f'dataset = "{self.dataset}": is not prepared in {self.data_dir or default_dir}; run '
            f"`tfds build {name} --file_format=array_record{directory}` on a machine with network access"
        )

    def _rows(self, builder: Any, split: str) -> Rows:
        try:
            return _TFDSRows(builder.as_data_source(split=split))
        except (KeyError, ValueError, NotImplementedError) as error:
            known = sorted(builder.info.splits)
            remedy = f"; to hold out a part, use {_PARTS}" if split == self.heldout_split else ""
            raise DataError(
                f'split "{split}" of dataset "{self.dataset}" cannot be read ({first_line(error)}); '
                f"it has the splits {known}, which must be in array_record form{remedy}"
            ) from error


def _problem(features: dict[str, Any]) -> str:
    """Why a dataset with these features cannot be used; "" if it can."""
    image, label = features.get("image"), features.get("label")
    if image is None:
        return f'must have a feature "image", has {sorted(features)}'
    if None in image.shape:
        return f"its images must have the same size, got {image.shape}"
    if image.np_dtype != np.uint8:
        return f"its images must have 8 bits per channel, got {image.np_dtype}"
    if label is not None and not hasattr(label, "num_classes"):
        return 'its feature "label" must be a class'
    return ""


@dataclasses.dataclass(frozen=True)
class _TFDSRows:
    """A TFDS data source, reduced to "image" and "label"."""

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = self.source[index]
        row = {"image": np.asarray(example["image"], np.uint8)}
        if "label" in example:
            row["label"] = np.asarray(example["label"], np.int32)
        return row


def _split_fingerprint(builder: Any, split: str) -> str:
    """Identifies a prepared split by the name, version, counts and sizes that TFDS recorded."""
    parts = [builder.info.full_name, split]
    for name, info in sorted(builder.info.splits.items()):
        parts += [name, str(info.num_examples), str(info.num_bytes)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
