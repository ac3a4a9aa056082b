"""Writes a run's network as one .safetensors file: the averaged weights and the config.

    diffusion-jax export --workdir runs/digits --out digits.safetensors
    diffusion-jax sample --workdir digits.safetensors
    diffusion-jax train --config digits --workdir runs/mine --config.train.init_from=digits.safetensors

The names of the arrays are those of the parameters, such as params/conv_in/kernel; other libraries read them too.
"""

from absl.flags import FlagValues

import diffusion_jax as dj
from diffusion_jax.cli import flags
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.terminal import one_line


def run(options: FlagValues) -> None:
    out = flags.parse_out(options.out, (".safetensors",))
    loaded = flags.load_run(options)
    flags.make_parent(out)
    dj.export(loaded, out)
    print(one_line(f"step {loaded.step} in {out}, {out.stat().st_size / 1e6:.1f} MB"))


COMMAND = Command(
    name="diffusion-jax export",
    text=str(__doc__),
    flags=(*flags.RUN, Flag("out", str, "The file to write.", "network.safetensors"), flags.ALLOW_CODE),
    run=run,
)
