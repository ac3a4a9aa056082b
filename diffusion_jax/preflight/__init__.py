"""What a training run will need and how long it will take, found out before it starts. Nothing is written.

    findings = check_run(dj.configs.digits(), "runs/digits")
    print(write_text(findings))

`check_run` uses the objects of training: its checked experiment, its compiled step and sampler, its batches.
`check_slice` compiles the same programs for a TPU slice that is not here.
"""

from diffusion_jax.preflight.check import check_run, check_slice
from diffusion_jax.preflight.findings import Findings
from diffusion_jax.preflight.text import write_text

__all__ = ["Findings", "check_run", "check_slice", "write_text"]


def __dir__() -> list[str]:
    return __all__
