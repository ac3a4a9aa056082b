"""Datasets of TensorFlow Datasets, by name."""

import dataclasses
import difflib
import hashlib
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.sources.base import Dataset, Source
from diffusion_jax.data.sources.checks import DataError, check_row
from diffusion_jax.data.sources.features import check_features
from diffusion_jax.data.sources.shards import digest_shards, shard_error
from diffusion_jax.runtime.errors import first_line
from diffusion_jax.validation import describe, location, text

__all__ = ["TFDS"]

# Not "namespace:name", which makes TFDS import and download from elsewhere.
_NAME = re.compile(r"\w+(/[\w.+-]+)?(:\d+(\.(\d+|\*)){2}|:experimental_latest)?", re.ASCII)

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
        if not _NAME.fullmatch(self.dataset):
            raise ValueError(f"dataset = {describe(self.dataset)}: must be name, name/config or name:1.0.0")
        if self.train_split == self.heldout_split:
            raise ValueError(f'heldout_split = "{self.heldout_split}": must differ from train_split; use {_PARTS}')

    def open(self) -> tuple[Source, Source]:
        builder = self._builder()
        features = dict(builder.info.features)
        if problem := _problem(features):
            raise DataError(f'dataset = "{self.dataset}": {problem}; use another dataset')
        splits = [self._read_split(builder, name) for name in (self.train_split, self.heldout_split)]
        self._check_apart(splits[0], splits[1])
        digests = digest_shards({Path(s.filename): s.examples_in_shard for split in splits for s in split.shards})
        _check_different(splits[0], splits[1], digests)
        training, held_out = (split.make_source(features, digests) for split in splits)
        return training, held_out

    def _builder(self) -> Any:
        with redirect_stderr(io.StringIO()):  # it warns that TensorFlow is missing
            import tensorflow_datasets as tfds

        directory = {"data_dir": self.data_dir} if self.data_dir else {}
        name = self.dataset.split(":")[0].split("/")[0]
        check_features(Path(self.data_dir or tfds.core.constants.DATA_DIR, name))
        try:
            builder = tfds.builder(self.dataset, **directory)
        except tfds.core.DatasetNotFoundError:
            near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise DataError(f'dataset = "{self.dataset}": must be a dataset of TFDS{hint}') from None
        except Exception as error:  # some builders need TensorFlow, or a network, for as little as their name
            prepared = sorted(Path(self.data_dir or tfds.core.constants.DATA_DIR, name).rglob("dataset_info.json"))
            if prepared:
                raise shard_error(prepared[-1].parent, f"cannot be read ({first_line(error)})") from error
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

    def _read_split(self, builder: Any, name: str) -> "_Split":
        try:
            examples = builder.as_data_source(split=name)
            return _Split(examples, builder.info.splits[name].file_instructions, _recorded(builder, name))
        except (KeyError, ValueError, NotImplementedError) as error:
            known = sorted(builder.info.splits)
            remedy = f"; to hold out a part, use {_PARTS}" if name == self.heldout_split else ""
            raise DataError(
                f'split "{name}" of dataset "{self.dataset}" cannot be read ({first_line(error)}); '
                f"it has the splits {known}, which must be in array_record form{remedy}"
            ) from error

    def _check_apart(self, training: "_Split", held_out: "_Split") -> None:
        """Raises DataError if the splits share examples: the held-out loss would mean nothing."""
        shared = sum(_count_shared(a, b) for a in training.shards for b in held_out.shards)
        if shared:
            problem = f'must share no examples with train_split = "{self.train_split}", shares {shared}'
            raise DataError(f'heldout_split = "{self.heldout_split}": {problem}; use {_PARTS}')


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


def _check_different(training: "_Split", held_out: "_Split", digests: Mapping[Path, str]) -> None:
    """Raises DataError if a file of the held-out split is a copy of a file of the training split."""
    found = {digests[Path(shard.filename)]: shard.filename for shard in training.shards}
    for file in (shard.filename for shard in held_out.shards):
        other = found.get(digests[Path(file)], file)
        if other != file:
            raise shard_error(file, f"has the same examples as {other}")


def _count_shared(a: Any, b: Any) -> int:
    """The number of examples that two parts of shards have in common."""
    if a.filename != b.filename:
        return 0
    return max(0, min(a.skip + a.take, b.skip + b.take) - max(a.skip, b.skip))


@dataclasses.dataclass(frozen=True)
class _Split:
    """A prepared split.

    Attributes:
      examples: random access to all features of the examples.
      shards: the parts of files that they lie in, one after the other.
      recorded: identifies what TFDS has recorded about the split; the fingerprint of earlier versions.
    """

    examples: Any
    shards: Sequence[Any]
    recorded: str

    def make_source(self, features: Mapping[str, Any], digests: Mapping[Path, str]) -> Source:
        label, shape = features.get("label"), features["image"].shape
        num_classes = label.num_classes if label is not None else 0
        names = tuple(label.names) if label is not None and label.names else ()
        rows = _TFDSRows(self, shape, num_classes)
        parts = [self.recorded, *(f"{digests[Path(s.filename)]} {s.skip} {s.take}" for s in self.shards)]
        return Source(rows, shape, num_classes, names, _hash(parts), earlier_fingerprints=(self.recorded,))

    def find_shard(self, index: int) -> str:
        """The file of an example."""
        ends = itertools.accumulate(shard.take for shard in self.shards)
        return next(shard.filename for shard, end in zip(self.shards, ends, strict=True) if index < end)


@dataclasses.dataclass(frozen=True)
class _TFDSRows:
    """The examples of a split, reduced to "image" and "label"."""

    split: _Split
    image_shape: tuple[int, int, int]
    num_classes: int

    def __len__(self) -> int:
        return len(self.split.examples)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        try:
            example = self.split.examples[index]
        except Exception as error:  # what readers and decoders raise for damaged files is not documented
            problem = f"example {index} cannot be read ({first_line(error)})"
            raise shard_error(self.split.find_shard(index), problem) from error
        where = f"{self.split.find_shard(index)}: example {index}"
        return check_row(example, where, self.image_shape, self.num_classes)


def _recorded(builder: Any, split: str) -> str:
    """Identifies a prepared split by the name, version, counts and sizes that TFDS recorded."""
    parts = [builder.info.full_name, split]
    for name, info in sorted(builder.info.splits.items()):
        parts += [name, str(info.num_examples), str(info.num_bytes)]
    return _hash(parts)


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
