"""A folder of pictures, decoded once."""

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
import tqdm
from PIL import Image

from diffusion_jax.data.sources import cache, labels
from diffusion_jax.data.sources.base import (
    DataError,
    Dataset,
    Source,
    check_classes,
    check_holdout,
    held_out,
)
from diffusion_jax.data.sources.decode import VERSION, Decoder, PictureError
from diffusion_jax.data.sources.scan import scan, stamp

log = logging.getLogger(__name__)

_SHOWN = 10  # pictures that are skipped, by name


@dataclasses.dataclass(frozen=True)
class Folder(Dataset):
    """The PNG, JPEG and WebP pictures in a folder and its sub-folders, in the order of their names.

    Hidden files and folders are passed over. Pictures are decoded on the first opening and kept in
    `cache_dir`/diffusion_jax, a file for each folder and way to decode; when a picture is added, taken
    away or changed, that file is written anew. Every `holdout`-th picture is held out.

    Attributes:
      path: the folder.
      size: of the pictures that are made, H = W or (H, W).
      channels: 3, or 1 for grey.
      crop: "center" keeps the largest centred part that has the shape of `size`; "squash" keeps all.
      background: colour behind what is transparent, a name or #rrggbb.
      classes: "none"; "folder" for the sub-folder of `path`; "csv" for a column of the file `csv`.
      csv: a CSV file with a header line and a row for each picture.
      csv_file, csv_class: its columns with the picture's name, from `path` on, and with the class.
      csv_separator: the class is what stands before the first one of these; all where "".
      holdout: every so-many-th picture is held out.
      max_skipped: so many pictures that cannot be used are named and skipped; with more, DataError.
      max_pixels: a picture that has more cannot be used; it is not decoded.
      cache_dir: outside of `path`; $XDG_CACHE_HOME or ~/.cache where "".
    """

    path: str
    size: int | tuple[int, int] = 64
    channels: int = 3
    crop: str = "center"
    background: str = "white"
    classes: str = "none"
    csv: str = ""
    csv_file: str = "file"
    csv_class: str = "class"
    csv_separator: str = ""
    holdout: int = 10
    max_skipped: int = 0
    max_pixels: int = 64_000_000
    cache_dir: str = ""

    def __post_init__(self):
        if not self.path:
            raise ValueError('path = "": name a folder of pictures')
        if self.classes not in ("none", "folder", "csv"):
            raise ValueError(f'classes = "{self.classes}": must be "none", "folder" or "csv"')
        if (self.classes == "csv") != bool(self.csv):
            raise ValueError(f'csv = "{self.csv}": must name a file where classes = "csv", and only there')
        if self.max_skipped < 0:
            raise ValueError(f"max_skipped = {self.max_skipped}: must be 0 or more")
        self._decoder()

    @property
    def root(self) -> Path:
        """The folder, from the root of the disk on."""
        return _absolute(self.path)

    def open(self) -> tuple[Source, Source]:
        root = self.root
        files = scan(root)
        classes = self._classes(list(files))
        check_holdout(self.holdout, len(files))
        mark = f"{VERSION} {stamp(files)}"
        decoder = self._decoder()
        shape = (*decoder.size, decoder.channels)
        pixels = cache.open_or_build(self._cache_file(root), mark, shape, self._build(root, list(files)))
        skipped = pixels.about["skipped"]
        self._check_skipped(root, skipped)
        check_holdout(self.holdout, len(pixels))
        return self._sources(pixels, {name: classes[name] for name in classes if name not in skipped})

    def _decoder(self) -> Decoder:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        return Decoder(size, self.channels, self.crop, self.background, self.max_pixels)

    def _classes(self, names: list[str]) -> dict[str, str]:
        """The class of each picture, {} where there are none."""
        if self.classes == "none":
            return {}
        if self.classes == "folder":
            return labels.from_folders(names)
        table = labels.Table(_absolute(self.csv), self.csv_file, self.csv_class, self.csv_separator)
        return table.classes_of(names)

    def _cache_file(self, root: Path) -> Path:
        where = cache.cache_directory(self.cache_dir)
        if where.is_relative_to(root):
            raise DataError(f'cache_dir = "{self.cache_dir}": {where} lies in the folder of the pictures; name another')
        key = hashlib.sha256(f"{root} {self._decoder()}".encode(errors="surrogateescape"))
        return where / f"{key.hexdigest()[:16]}.json"

    def _build(self, root: Path, names: list[str]) -> cache.Build:
        def build(write: Callable[[np.ndarray], object]) -> dict[str, Any]:
            skipped = {}
            decoded = _decoded(self._decoder(), root, names)
            progress = tqdm.tqdm(decoded, f"decoding {root}", len(names), unit="img", delay=2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the decoder refuses it
                for name, made in zip(names, progress, strict=True):
                    if isinstance(made, PictureError):
                        skipped[name] = str(made)
                    else:
                        write(made)
            return {"skipped": skipped}

        return build

    def _check_skipped(self, root: Path, skipped: dict[str, str]) -> None:
        told = [f"{name} ({why})" for name, why in skipped.items()]
        if len(told) > self.max_skipped:
            raise DataError(
                f"max_skipped = {self.max_skipped}: {len(told)} of the pictures in {root} cannot be used, "
                f"{', '.join(told[:3])}{', ...' if len(told) > 3 else ''}; mend them, or allow so many"
            )
        for line in told[:_SHOWN]:
            log.warning("%s: skipped %s", root, line)
        if len(told) > _SHOWN:
            log.warning("%s: skipped %d more", root, len(told) - _SHOWN)

    def _sources(self, pixels: cache.Cache, classes: dict[str, str]) -> tuple[Source, Source]:
        """Both parts, of pictures with these classes."""
        names = tuple(sorted(set(classes.values())))
        number = {name: i for i, name in enumerate(names)}
        all_labels = np.array([number[name] for name in classes.values()], np.int32) if classes else None
        decoder = self._decoder()
        shape = (*decoder.size, decoder.channels)

        def part(chosen: np.ndarray) -> Source:
            digest = hashlib.sha256(f"{shape} {pixels.about['digest']}".encode() + chosen.tobytes())
            part_labels = None
            if all_labels is not None:
                part_labels = all_labels[chosen]
                digest.update(part_labels.tobytes())
            rows = _Rows(pixels, np.flatnonzero(chosen), part_labels)
            return Source(rows, shape, len(names), names, digest.hexdigest()[:16])

        out = held_out(len(pixels), self.holdout)
        if all_labels is not None:
            check_classes(all_labels, all_labels[~out], names)
        return part(~out), part(out)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Some records of a cache, by their indices."""

    pixels: cache.Cache
    indices: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = {"image": self.pixels[int(self.indices[index])]}
        return row if self.labels is None else row | {"label": self.labels[index]}


def _absolute(path: str) -> Path:
    return Path(os.path.expanduser(path)).resolve()


def _decoded(decoder: Decoder, root: Path, names: list[str]) -> Iterator[np.ndarray | PictureError]:
    """The pixels of each picture in turn, or why there are none; decoded in threads, a few ahead."""

    def decode(name: str) -> np.ndarray | PictureError:
        try:
            return decoder(root / name)
        except PictureError as error:
            return error
        except OSError as error:
            raise DataError(f"{root / name} cannot be read ({error.strerror}); mend or remove it") from error

    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(grain.MapDataset.source(names).map(decode).to_iter_dataset(options))
