"""Datasets: random-access sources of {"image": uint8 [H, W, C], "label": int32 []}.

A dataset is a frozen dataclass whose `open()` returns two `Source`s, one to train on and one held out. To add
one, subclass `Dataset`.
"""

from diffusion_jax.data.sources.arrays import IDX, NPZ, Digits
from diffusion_jax.data.sources.base import Dataset, Rows, Source, from_arrays
from diffusion_jax.data.sources.checks import DataError
from diffusion_jax.data.sources.folder import Folder
from diffusion_jax.data.sources.tfds import TFDS
from diffusion_jax.data.sources.user_data import UserData

__all__ = [
    "IDX",
    "NPZ",
    "TFDS",
    "DataError",
    "Dataset",
    "Digits",
    "Folder",
    "Rows",
    "Source",
    "UserData",
    "from_arrays",
]


def __dir__() -> list[str]:
    return __all__
