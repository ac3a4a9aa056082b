"""A directory of image files, decoded once."""

import dataclasses
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np

from diffusion_jax.data.sources import cache
from diffusion_jax.data.sources.base import Dataset, Source
from diffusion_jax.data.sources.checks import DataError, check_classes, split_holdout
from diffusion_jax.data.sources.decode import VERSION, Decoded, Decoder
from diffusion_jax.data.sources.formats import ImageError, make_format_stamp
from diffusion_jax.data.sources.labels import Table, classes_from_directories
from diffusion_jax.data.sources.scan import File, make_stamp, scan
from diffusion_jax.runtime.progress import progress_bar
from diffusion_jax.validation import choice, integer, location, printable

__all__ = ["Folder"]

log = logging.getLogger(__name__)

_MAX_LISTED = 10  # skipped images that are logged by name


@dataclasses.dataclass(frozen=True)
class Folder(Dataset):
    """The image files in a directory and its subdirectories, in the order of their names.

    PNG, JPEG, WebP, BMP, TIFF, GIF and AVIF are read, and HEIC with `pip install "diffusion_jax[heic]"`. 16-bit grey is
    scaled to 8 bits, CMYK is converted to RGB, and damaged metadata are left out; each is logged with the number of
    images. Hidden files and directories are ignored, other files are counted and logged.

    The first `open` decodes the images and stores them in `cache_dir`/diffusion_jax, one cache for each directory and
    way to decode; it is built again when an image is added, removed or changed. Accents in names may be composed or
    not: the same images copied from another system are the same data.

    Attributes:
      path: the directory.
      size: of the decoded images, H = W or (H, W).
      channels: 3, or 1 for grey.
      crop: "center" keeps the largest centred part with the aspect ratio of `size`; "squash" keeps everything.
      background: colour behind transparent parts, a name or #rrggbb.
      classes: "none"; "folder" for the subdirectories of `path`; "csv" for a column of the file `csv`.
      csv: a CSV file with a header line and one row per image.
      csv_file: column with the name of the image, relative to `path`.
      csv_class: column with its class.
      csv_separator: the class ends at the first of these; "" takes the whole text.
      holdout: every `holdout`-th image is held out, from the first on.
      max_skipped: unreadable images are listed and skipped; more than this number is an error.
      max_pixels: an image with more pixels counts as unreadable and is not decoded.
      cache_dir: a directory outside of `path`; "" for $XDG_CACHE_HOME or ~/.cache.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     for i in range(20):
    ...         os.makedirs(f"{directory}/images/{i % 2}", exist_ok=True)
    ...         Image.new("RGB", (12, 10)).save(f"{directory}/images/{i % 2}/{i}.png")
    ...     data = dj.sources.Folder(f"{directory}/images", size=8, classes="folder", cache_dir=directory)
    ...     training, held_out = data.open()
    >>> len(training), len(held_out), training.image_shape, training.num_classes
    (18, 2, (8, 8, 3), 2)
    """

    path: str = dataclasses.field(metadata=location("images"))
    size: int | tuple[int, int] = 64
    channels: int = 3
    crop: str = "center"
    background: str = "white"
    classes: str = dataclasses.field(default="none", metadata=choice("none", "folder", "csv"))
    csv: str = dataclasses.field(default="", metadata=location())
    csv_file: str = "file"
    csv_class: str = "class"
    csv_separator: str = ""
    holdout: int = dataclasses.field(default=10, metadata=integer(2))
    max_skipped: int = dataclasses.field(default=0, metadata=integer(0))
    max_pixels: int = 64_000_000
    cache_dir: str = dataclasses.field(default="", metadata=location())

    def __post_init__(self):
        super().__post_init__()
        if (self.classes == "csv") != bool(self.csv):
            raise ValueError(f'csv = "{self.csv}": must be a file if classes = "csv", and "" otherwise')
        self._decoder()  # checks its own fields

    @property
    def root(self) -> Path:
        """The directory, as an absolute path."""
        return _absolute_path(self.path)

    def open(self) -> tuple[Source, Source]:
        root, decoder = self.root, self._decoder()
        listing = scan(root, ignored=[_absolute_path(self.csv)] if self.csv else [])
        files = listing.images
        classes = self._classes(list(files))
        split_holdout(len(files), self.holdout)  # raises before anything is decoded
        stamp = f"{VERSION} {make_format_stamp()} {make_stamp(files)}"
        build = _make_builder(decoder, root, files)
        images = cache.open_or_build(self._cache_path(root, decoder), stamp, decoder.image_shape, build)
        skipped = images.about["skipped"]
        if unused := listing.describe_unused():
            log.warning("%s: %s", root, unused)
        self._report_skipped(root, skipped)
        for note, (count, name) in images.about["notes"].items():
            log.warning("%s: %d image%s: %s (for example %s)", root, count, "s" * (count > 1), note, name)
        return self._sources(images, {name: classes[name] for name in classes if name not in skipped})

    def _decoder(self) -> Decoder:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        return Decoder(size, self.channels, self.crop, self.background, self.max_pixels)

    def _classes(self, names: list[str]) -> dict[str, str]:
        """The class of each image; {} if there are no classes."""
        if self.classes == "none":
            return {}
        if self.classes == "folder":
            return classes_from_directories(names)
        table = Table(_absolute_path(self.csv), self.csv_file, self.csv_class, self.csv_separator)
        return table.read_classes(names)

    def _cache_path(self, root: Path, decoder: Decoder) -> Path:
        directory = cache.cache_directory(self.cache_dir)
        if directory.is_relative_to(root):
            raise DataError(f'cache_dir = "{self.cache_dir}": {directory} lies among the images; use another directory')
        key = hashlib.sha256(f"{root} {decoder}".encode(errors="surrogateescape"))
        return directory / f"{key.hexdigest()[:16]}.json"

    def _report_skipped(self, root: Path, skipped: dict[str, str]) -> None:
        """Logs the skipped images. Raises DataError if there are more than `max_skipped`."""
        lines = [f"{name} ({reason})" for name, reason in skipped.items()]
        if len(lines) > self.max_skipped:
            found = f"{len(lines)} images in {root} cannot be used, {', '.join(lines[:3])}{', ...' * (len(lines) > 3)}"
            raise DataError(f"max_skipped = {self.max_skipped}: {found}; repair them, or allow {len(lines)}")
        for line in lines[:_MAX_LISTED]:
            log.warning("%s: skipped %s", root, line)
        if len(lines) > _MAX_LISTED:
            log.warning("%s: skipped %d more", root, len(lines) - _MAX_LISTED)

    def _sources(self, images: cache.Cache, classes: dict[str, str]) -> tuple[Source, Source]:
        """Both sources; `classes` has the class of each image, or is empty."""
        names = tuple(sorted(set(classes.values())))
        number = {name: i for i, name in enumerate(names)}
        all_labels = np.array([number[name] for name in classes.values()], np.int32) if classes else None
        shape = self._decoder().image_shape

        def part(chosen: np.ndarray) -> Source:
            digest = hashlib.sha256(f"{shape} {images.about['digest']}".encode() + chosen.tobytes())
            labels = None
            if all_labels is not None:
                labels = all_labels[chosen]
                digest.update(labels.tobytes())
            rows = _CachedRows(images, np.flatnonzero(chosen), labels)
            return Source(rows, shape, len(names), names, digest.hexdigest()[:16])

        out = split_holdout(len(images), self.holdout)
        if all_labels is not None:
            check_classes(all_labels, all_labels[~out], names)
        return part(~out), part(out)


@dataclasses.dataclass(frozen=True)
class _CachedRows:
    """Some images of a cache, by their indices."""

    images: cache.Cache
    indices: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = {"image": self.images[int(self.indices[index])]}
        return row if self.labels is None else row | {"label": self.labels[index]}


def _absolute_path(path: str) -> Path:
    return Path(path).resolve()


def _make_builder(decoder: Decoder, root: Path, files: dict[str, File]) -> cache.Build:
    """Writes the pixels of each image; returns why images were skipped, by name, and the decoder's notes.

    For each note the number of images is stored, and the name of the first.
    """

    def build(write: Callable[[np.ndarray], object]) -> dict[str, Any]:
        skipped: dict[str, str] = {}
        notes: dict[str, tuple[int, str]] = {}
        results = progress_bar(
            _decode_images(decoder, root, files), f"decoding {printable(str(root))}", len(files), unit="img", delay=2
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # of bombs and metadata, which the decoder reports
            for name, result in zip(files, results, strict=True):
                if isinstance(result, ImageError):
                    skipped[name] = str(result)
                    continue
                write(result.pixels)
                for note in result.notes:
                    count, first = notes.get(note, (0, name))
                    notes[note] = count + 1, first
        return {"skipped": skipped, "notes": notes}

    return build


def _decode_images(decoder: Decoder, root: Path, files: dict[str, File]) -> Iterator[Decoded | ImageError]:
    """Yields the pixels of each image, or why it cannot be used; threads decode a few images ahead."""

    def decode(file: File) -> Decoded | ImageError:
        path = root / file.path
        try:
            return decoder(path)
        except ImageError as error:
            return error
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); repair or remove it") from error

    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(grain.MapDataset.source(list(files.values())).map(decode).to_iter_dataset(options))
