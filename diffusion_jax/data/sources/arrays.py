"""Datasets that fit into memory: scikit-learn's digits, .npz files, and the idx files of MNIST."""

import dataclasses
import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from diffusion_jax.data.sources.base import Dataset, Source, array_source, from_arrays
from diffusion_jax.data.sources.checks import DataError, as_labels, check_classes, warn_of_gaps
from diffusion_jax.data.sources.inflate import check_inflated, check_zip
from diffusion_jax.validation import integer, location

__all__ = ["IDX", "NPZ", "Digits"]


@dataclasses.dataclass(frozen=True)
class Digits(Dataset):
    """The 1 797 handwritten digits that scikit-learn ships: 8x8, one channel, 10 classes.

    From the UCI repository (Alpaydin and Kaynak 1998). Ink 0..16 becomes 0..255. Every tenth image is held out.

    >>> training, held_out = dj.sources.Digits().open()
    >>> len(training), len(held_out), training.image_shape, training.num_classes
    (1617, 180, (8, 8, 1), 10)
    """

    def open(self) -> tuple[Source, Source]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
        return from_arrays(images, digits.target, num_classes=10, holdout=10)


@dataclasses.dataclass(frozen=True)
class NPZ(Dataset):
    """Arrays in an .npz file: `image` [N, H, W, C] and, optionally, `label` integers [N].

    Images are uint8 in 0..255, or float32 around [-1, 1], of any number of channels.

    Attributes:
      path: the file.
      holdout: every `holdout`-th image is held out.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     np.savez(f"{directory}/mine.npz", image=np.zeros((20, 8, 8, 1), np.uint8))
    ...     training, held_out = dj.sources.NPZ(f"{directory}/mine.npz", holdout=5).open()
    >>> len(training), len(held_out)
    (16, 4)
    """

    path: str = dataclasses.field(metadata=location("digits.npz"))
    holdout: int = dataclasses.field(default=10, metadata=integer(2))

    def open(self) -> tuple[Source, Source]:
        try:
            check_zip(Path(self.path))
            with np.load(self.path, allow_pickle=False) as file:
                names = file.files
                arrays = {name: file[name] for name in ("image", "label") if name in names}
        except DataError:
            raise
        except Exception as error:  # numpy and zipfile do not document what they raise for damaged files
            raise DataError(f'path = "{self.path}": cannot be read as .npz ({error!r})') from error
        if "image" not in arrays or len(arrays) < len(names):
            raise DataError(f'path = "{self.path}": must have the array "image", maybe "label"; it has {sorted(names)}')
        try:
            return from_arrays(arrays["image"], arrays.get("label"), holdout=self.holdout)
        except DataError as error:
            raise DataError(f'path = "{self.path}": {error}') from None


@dataclasses.dataclass(frozen=True)
class IDX(Dataset):
    """The four files of MNIST, or of a dataset distributed in the same form, in the directory `path`.

    The files are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
    t10k-labels-idx1-ubyte, optionally with .gz, or named as in train-images.idx3-ubyte. The t10k pair is held out.

    Attributes:
      path: the directory.
      holdout: without a t10k pair, every `holdout`-th image of train is held out.

    >>> import struct, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     header = struct.pack(">4B3I", 0, 0, 8, 3, 20, 4, 4)  # 20 images of 4x4
    ...     _ = (Path(directory) / "train-images-idx3-ubyte").write_bytes(header + bytes(20 * 4 * 4))
    ...     header = struct.pack(">4BI", 0, 0, 8, 1, 20)
    ...     _ = (Path(directory) / "train-labels-idx1-ubyte").write_bytes(header + bytes([0, 1, 2, 3] * 5))
    ...     training, held_out = dj.sources.IDX(directory, holdout=5).open()
    >>> len(training), len(held_out), training.image_shape, training.num_classes
    (16, 4, (4, 4, 1), 4)
    """

    path: str = dataclasses.field(metadata=location("mnist"))
    holdout: int = dataclasses.field(default=10, metadata=integer(2))

    def open(self) -> tuple[Source, Source]:
        directory = Path(self.path)
        images, labels = _read_pair(directory, "train")
        if not any(_find_file(directory, "t10k", kind) for kind in _DIMENSIONS):
            return from_arrays(images, labels, holdout=self.holdout)
        test_images, test_labels = _read_pair(directory, "t10k")
        shapes = images.shape[1:], test_images.shape[1:]
        if shapes[0] != shapes[1]:
            raise DataError(f'path = "{self.path}": images of train and t10k are {shapes[0]}, {shapes[1]}; must match')
        check_classes(labels, labels)
        num_classes = int(max(labels.max(), test_labels.max())) + 1
        warn_of_gaps(labels, num_classes)
        parts = array_source(images, labels, num_classes), array_source(test_images, test_labels, num_classes)
        if parts[0].fingerprint == parts[1].fingerprint:
            raise DataError(f'path = "{self.path}": train and t10k are the same images; replace one of them')
        return parts


# Content of a file -> its number of dimensions.
_DIMENSIONS = {"images": 3, "labels": 1}


def _find_file(directory: Path, part: str, kind: str) -> Path | None:
    ends = [f"{dot}idx{_DIMENSIONS[kind]}-ubyte{gz}" for gz in ("", ".gz") for dot in "-."]
    paths = [directory / f"{part}-{kind}{end}" for end in ends]
    return next((path for path in paths if path.is_file()), None)


def _read_pair(directory: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads images uint8 [N, H, W, 1] and labels int32 [N] of "train" or "t10k"."""
    arrays = []
    for kind, dimensions in _DIMENSIONS.items():
        path = _find_file(directory, part, kind)
        name = f"{part}-{kind}-idx{dimensions}-ubyte"
        if path is None:
            raise DataError(f'path = "{directory}": has no file {name}, with or without .gz')
        arrays.append(_read_idx(path, dimensions))
    images, labels = arrays
    if len(images) != len(labels) or not len(images):
        raise DataError(f'path = "{directory}": {part} has {len(images)} images and {len(labels)} labels; must match')
    return images[..., None], as_labels(labels, len(labels))


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads an idx file: 0, 0, 8 (unsigned byte), the number of dimensions, their sizes, the bytes."""
    try:
        with _open_idx(path) as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes((0, 0, 8, dimensions)):
                raise DataError(f"{path}: must be an idx file of unsigned bytes with {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            data = _read_bytes(file, path, math.prod(shape))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(data) != math.prod(shape):
        raise DataError(f"{path}: must have {math.prod(shape)} bytes for {shape}, got {len(data)}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _open_idx(path: Path) -> IO[bytes]:
    """Opens a file that may be compressed, whatever its name."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if compressed else path.open("rb")


def _read_bytes(file: IO[bytes], path: Path, size: int) -> bytes:
    """The rest of a file; of a compressed one no more than is needed to see that it has more than `size` bytes."""
    if not isinstance(file, gzip.GzipFile):
        return file.read()
    check_inflated(path, size, "if you trust the file, decompress it with gunzip")
    return file.read(size + 1)
