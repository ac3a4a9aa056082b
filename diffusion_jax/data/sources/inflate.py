"""Compressed files, bounded before they are inflated: a few megabytes can stand for terabytes."""

import zipfile
from pathlib import Path

from diffusion_jax.data.sources.checks import DataError

__all__ = ["check_inflated", "check_zip"]

_MAX_INFLATED = 2**31

# Other methods take memory that the file chooses, and np.savez writes none of them.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check_inflated(path: Path, size: int, remedy: str) -> None:
    """Raises DataError if a file that claims `size` bytes of content needs more than 2 GiB.

    A file that is not compressed is as large itself, and always passes.
    """
    if size > max(_MAX_INFLATED, path.stat().st_size):
        raise DataError(f"{path}: inflates to {size} bytes, and at most {_MAX_INFLATED} are read; {remedy}")


def check_zip(path: Path) -> None:
    """Raises DataError if the members of a zip file need more than 2 GiB, zipfile.BadZipFile if it is not a zip file.

    A member that claims less than it holds is cut off there by `zipfile`, and then fails its checksum.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    remedy = "if you trust the file, save the arrays with np.savez, which does not compress"
    check_inflated(path, sum(member.file_size for member in members), remedy)
    other = [member.filename for member in members if member.compress_type not in _METHODS]
    if other:
        raise DataError(f"{path}: {other[0]!r:.60} is compressed in a way that np.savez never uses; save it again")
