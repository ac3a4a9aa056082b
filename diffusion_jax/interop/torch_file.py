"""Files of torch.save, read without PyTorch and without being trusted.

Such a file is a zip of a pickle (see torch_pickle.py) and of the raw numbers that its tensors view. Storages
are read once and tensors are views of them: memory stays within the file's own size.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.interop.torch_pickle import SAVE_AGAIN, InteropError, Storage, read_pickle, shown


def read(path: str | Path) -> Any:
    """What torch.save wrote: dicts, lists, tuples and plain values; tensors as read-only numpy arrays.

    Raises InteropError, with one line, for a file that holds anything else, is damaged or in another
    format; OSError where it cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(2)
        try:
            if start != b"PK":
                raise InteropError(_what_else(start))
            with zipfile.ZipFile(file) as opened:
                archive = _Archive(opened, path.stat().st_size)
                return read_pickle(archive.read("data.pkl"), archive.storage)
        except InteropError as error:
            raise InteropError(f"{path}: {error}") from None
        except Exception as error:  # what zipfile and pickletools raise for a damaged file is listed nowhere
            why = shown(" ".join(str(error).split())) or type(error).__name__
            raise InteropError(f"{path}: is damaged ({why}); fetch or save it again") from error


def _what_else(start: bytes) -> str:
    if start[:1] == b"\x80":
        return "is a bare pickle, as PyTorch before 1.6 wrote; load it there and torch.save it with a newer one"
    return f"is no file of torch.save; {SAVE_AGAIN}"


class _Archive:
    """The zip, refused as a whole where it is not as torch.save writes it."""

    def __init__(self, archive: zipfile.ZipFile, size: int):
        self._archive = archive
        self._sizes = {info.filename: info.file_size for info in archive.infolist()}
        self._data: dict[str, bytes] = {}
        roots = [name.removesuffix("/data.pkl") for name in self._sizes if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise InteropError(f"has {len(roots)} entries data.pkl, not one; {SAVE_AGAIN}")
        self._root = roots[0]
        self._check(archive.infolist(), size)

    def _check(self, infos: list[zipfile.ZipInfo], size: int) -> None:
        if len(infos) != len(self._sizes):
            raise InteropError("has two entries of one name; refused")
        if f"{self._root}/constants.pkl" in self._sizes:
            raise InteropError(f"is TorchScript, a program; {SAVE_AGAIN}")
        if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
            raise InteropError(f"is compressed or encrypted, which torch.save never does; {SAVE_AGAIN}")
        if sum(self._sizes.values()) > size:  # sizes made up, or entries that overlap
            raise InteropError("claims to hold more than it does; refused")
        if f"{self._root}/byteorder" in self._sizes and self.read("byteorder").strip() != b"little":
            raise InteropError(f"was not written by a little-endian machine; {SAVE_AGAIN} on one")

    def read(self, name: str) -> bytes:
        return self._archive.read(f"{self._root}/{name}")

    def storage(self, key: str, dtype: np.dtype, numel: int) -> Storage:
        found = self._sizes.get(f"{self._root}/data/{key}")
        if found != numel * dtype.itemsize:
            raise InteropError(
                f"storage {shown(key)} should be {numel} numbers of {dtype}, "
                f"but {'is not there' if found is None else f'has {found} bytes'}; refused"
            )
        if key not in self._data:
            self._data[key] = self.read(f"data/{key}")
        return Storage(self._data[key], dtype)
