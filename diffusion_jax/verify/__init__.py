"""The proof that is shipped with the library: everything beside its closed form, as a table of pass or fail.

`run()` is what `python -m diffusion_jax.verify` prints and what the tests walk.
"""

from diffusion_jax.verify.certificate import run
from diffusion_jax.verify.report import Row, full, table

__all__ = ["Row", "full", "run", "table"]


def __dir__() -> list[str]:
    return __all__
