"""Data sets that fit into memory: the digits of scikit-learn, .npz files, the idx files of MNIST."""

import dataclasses
import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from diffusion_jax.data.sources.base import (
    DataError,
    Dataset,
    Source,
    array_source,
    check_classes,
    from_arrays,
)


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
            with np.load(Path(self.path).expanduser(), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except Exception as error:  # what numpy and zipfile raise for a damaged file is not listed anywhere
            raise DataError(f'path = "{self.path}": cannot be read as .npz ({error!r})') from error
        if "image" not in arrays:
            raise DataError(f'path = "{self.path}": has no array "image", only {sorted(arrays)}')
        if more := sorted(arrays.keys() - {"image", "label"}):
            raise DataError(f'path = "{self.path}": has arrays {more}; only "image" and "label" are read')
        return from_arrays(arrays["image"], arrays.get("label"), holdout=self.holdout)


@dataclasses.dataclass(frozen=True)
class IDX(Dataset):
    """The four files of MNIST, and of what is spread in the same form, in folder `path`.

    train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte; also
    with .gz, or as in train-images.idx3-ubyte. The t10k pair is held out; where there is none of it,
    every `holdout`-th of train.
    """

    path: str
    holdout: int = 10

    def __post_init__(self):
        if not self.path or self.holdout < 2:
            raise ValueError(f'path = "{self.path}", holdout = {self.holdout}: need a folder, and at least 2')

    def open(self) -> tuple[Source, Source]:
        folder = Path(self.path).expanduser()
        images, labels = _idx_pair(folder, "train")
        if not any(_find_idx(folder, "t10k", kind) for kind in _IDX_KINDS):
            return from_arrays(images, labels, holdout=self.holdout)
        test_images, test_labels = _idx_pair(folder, "t10k")
        if test_images.shape[1:] != images.shape[1:]:
            raise DataError(
                f'path = "{self.path}": pictures of train are {images.shape[1:]}, of t10k '
                f"{test_images.shape[1:]}; must be alike"
            )
        check_classes(labels, labels)
        num_classes = int(max(labels.max(), test_labels.max())) + 1
        return array_source(images, labels, num_classes), array_source(test_images, test_labels, num_classes)


# What a file holds -> its number of dimensions.
_IDX_KINDS = {"images": 3, "labels": 1}


def _find_idx(folder: Path, part: str, kind: str) -> Path | None:
    ends = [f"{dot}idx{_IDX_KINDS[kind]}-ubyte{gz}" for gz in ("", ".gz") for dot in "-."]
    found = [folder / f"{part}-{kind}{end}" for end in ends]
    return next((path for path in found if path.is_file()), None)


def _idx_pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, 1] and labels int32 [N] of "train" or "t10k"."""
    arrays = []
    for kind, dims in _IDX_KINDS.items():
        path = _find_idx(folder, part, kind)
        if path is None:
            raise DataError(f'path = "{folder}": has no file {part}-{kind}-idx{dims}-ubyte, nor one with .gz')
        arrays.append(_read_idx(path, dims))
    images, labels = arrays
    if len(images) != len(labels) or not len(images):
        raise DataError(
            f'path = "{folder}": {part} has {len(images)} pictures and {len(labels)} labels; '
            "must be as many, and not none"
        )
    return images[..., None], labels.astype(np.int32)


def _read_idx(path: Path, dims: int) -> np.ndarray:
    """The bytes in an idx file: 0, 0, 8 (unsigned byte), the number of dimensions, their sizes, the bytes."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    head = 4 + 4 * dims
    if len(data) < head or data[:4] != bytes((0, 0, 8, dims)):
        raise DataError(f"{path}: is no idx file of unsigned bytes with {dims} dimensions")
    shape = struct.unpack(f">{dims}I", data[4:head])
    if len(data) - head != math.prod(shape):
        raise DataError(f"{path}: holds {len(data) - head} bytes, should hold {math.prod(shape)} for {shape}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
