"""The proof that is shipped with the library: everything beside its closed form, as a table of pass or fail.

`run()` is what `python -m diffusion_jax.verify` prints and what the tests walk.
"""

from diffusion_jax.verify.certificate import run as run
from diffusion_jax.verify.report import Row as Row
from diffusion_jax.verify.report import full as full
from diffusion_jax.verify.report import table as table
