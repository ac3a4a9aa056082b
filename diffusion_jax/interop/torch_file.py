"""Reads files of torch.save without PyTorch and without trusting them.

Such a file is a zip of a pickle (see torch_pickle.py) and of the raw numbers that its tensors view. Each storage
is read once and tensors are views of it, so memory stays within the size of the file. Most lines here are
checks: they are the point of this module.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.interop.error import SAVE_AGAIN, InteropError, quote
from diffusion_jax.interop.torch_pickle import read_pickle
from diffusion_jax.interop.torch_tensor import Storage
from diffusion_jax.validation import local_path


def read_torch_file(path: str | Path) -> Any:
    """Returns what torch.save wrote: dicts, lists, tuples and plain values; tensors as read-only NumPy arrays.

    Raises InteropError, with one line, if the file contains anything else, is damaged or has another format;
    OSError if it cannot be opened.
    """
    path = local_path("path", path)
    with path.open("rb") as file:
        start = file.read(2)
        try:
            if start != b"PK":
                raise InteropError(_explain_format(start))
            with zipfile.ZipFile(file) as opened:
                archive = _Archive(opened, path.stat().st_size)
                return read_pickle(archive.read("data.pkl"), archive.open_storage)
        except InteropError as error:
            raise InteropError(f"{path}: {error}") from None
        except Exception as error:  # zipfile and pickletools do not document what they raise for damaged files
            reason = quote(" ".join(str(error).split())) or type(error).__name__
            raise InteropError(f"{path}: is damaged ({reason}); download or save it again") from error


def _explain_format(start: bytes) -> str:
    if start[:1] == b"\x80":
        return "is a bare pickle, the format of PyTorch before 1.6; load it there and torch.save it with a newer one"
    return f"is not a file of torch.save; {SAVE_AGAIN}"


class _Archive:
    """The zip file. It is refused as a whole unless it looks as torch.save writes it."""

    def __init__(self, archive: zipfile.ZipFile, size: int):
        self._archive = archive
        self._sizes = {info.filename: info.file_size for info in archive.infolist()}
        self._data: dict[str, bytes] = {}
        roots = [name.removesuffix("/data.pkl") for name in self._sizes if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise InteropError(f"has {len(roots)} entries named data.pkl instead of 1; {SAVE_AGAIN}")
        self._root = roots[0]
        self._check(archive.infolist(), size)

    def _check(self, infos: list[zipfile.ZipInfo], size: int) -> None:
        if len(infos) != len(self._sizes):
            raise InteropError("has two entries of the same name; refused")
        if f"{self._root}/constants.pkl" in self._sizes:
            raise InteropError(f"is TorchScript, a program; {SAVE_AGAIN}")
        if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
            raise InteropError(f"is compressed or encrypted, which torch.save never does; {SAVE_AGAIN}")
        if sum(self._sizes.values()) > size:  # invented sizes, or entries that overlap
            raise InteropError("declares more data than it contains; refused")
        if f"{self._root}/byteorder" in self._sizes and self.read("byteorder").strip() != b"little":
            raise InteropError(f"was not written on a little-endian machine; {SAVE_AGAIN}, on such a machine")

    def read(self, name: str) -> bytes:
        return self._archive.read(f"{self._root}/{name}")

    def open_storage(self, key: str, dtype: np.dtype, numel: int) -> Storage:
        size = self._sizes.get(f"{self._root}/data/{key}")
        if size != numel * dtype.itemsize:
            found = "it is missing" if size is None else f"has {size} bytes"
            raise InteropError(f"storage {quote(key)} should be {numel} numbers of {dtype}, but {found}; refused")
        if key not in self._data:
            self._data[key] = self.read(f"data/{key}")
        return Storage(self._data[key], dtype)
