"""Data sets of TensorFlow Datasets, by name."""

import dataclasses
import difflib
import hashlib
import io
from contextlib import redirect_stderr
from typing import Any

import numpy as np

from diffusion_jax.data.sources.base import DataError, Dataset, Rows, Source
from diffusion_jax.runtime.errors import first_line

_PARTS = 'train_split="train[:90%]", heldout_split="train[90%:]"'


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
        if self.train_split == self.heldout_split:
            raise ValueError(
                f'heldout_split = "{self.heldout_split}": is what is trained on; to hold out a part: {_PARTS}'
            )

    def open(self) -> tuple[Source, Source]:
        builder = self._builder()
        features = builder.info.features
        if "image" not in features:
            raise DataError(f'dataset = "{self.dataset}": has no feature "image", only {sorted(features)}')
        shape = features["image"].shape
        if None in shape:
            raise DataError(
                f'dataset = "{self.dataset}": its pictures differ in size {shape}; use one whose pictures are all alike'
            )
        if features["image"].np_dtype != np.uint8:
            raise DataError(
                f'dataset = "{self.dataset}": its pictures are {features["image"].np_dtype}, not 8-bit; '
                "use another data set"
            )
        label = dict(features).get("label")
        if label is not None and not hasattr(label, "num_classes"):
            raise DataError(f'dataset = "{self.dataset}": its feature "label" is no class; use another data set')
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
        except Exception as error:  # some builders need TensorFlow, or a network, to say so much as their name
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
            remedy = f"; to hold out a part: {_PARTS}" if split == self.heldout_split else ""
            raise DataError(
                f'split "{split}" of dataset "{self.dataset}" cannot be read ({first_line(error)}); '
                f"it has the splits {known}, which must be in array_record form{remedy}"
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


def _tfds_print(builder: Any, split: str) -> str:
    """Identity of a prepared split: TFDS' own name, version, counts and sizes."""
    parts = [builder.info.full_name, split]
    for name, info in sorted(builder.info.splits.items()):
        parts += [name, str(info.num_examples), str(info.num_bytes)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
