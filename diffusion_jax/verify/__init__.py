"""The proof that ships with the library: samplers, schedules and guidance against closed forms.

`run()` compares everything, which is what the command `verify` prints; it also checks your own samplers and schedules:

    rows = dj.verify.run(samplers={"mine": MySampler(strength=0.3)})
    print(dj.verify.format_table(rows))

The closed forms are in `dj.oracles`.
"""

from diffusion_jax.verify.certificate import run
from diffusion_jax.verify.report import Row, format_row, format_table

__all__ = ["Row", "format_row", "format_table", "run"]


def __dir__() -> list[str]:
    return __all__
