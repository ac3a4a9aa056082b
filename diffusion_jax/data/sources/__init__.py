"""Where pictures come from: random-access sources of {"image": uint8 [H, W, C], "label": int32 []}.

A data set is a frozen dataclass whose `open()` gives two `Source`s, one to train on and one held out. To
add one, subclass `Dataset`.
"""

from diffusion_jax.data.sources.arrays import IDX as IDX
from diffusion_jax.data.sources.arrays import NPZ as NPZ
from diffusion_jax.data.sources.arrays import Digits as Digits
from diffusion_jax.data.sources.base import DataError as DataError
from diffusion_jax.data.sources.base import Dataset as Dataset
from diffusion_jax.data.sources.base import Rows as Rows
from diffusion_jax.data.sources.base import Source as Source
from diffusion_jax.data.sources.base import from_arrays as from_arrays
from diffusion_jax.data.sources.folder import Folder as Folder
from diffusion_jax.data.sources.tfds import TFDS as TFDS
