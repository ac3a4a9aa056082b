"""Says what a training run will need and how long it will take, before it starts.

    diffusion-jax preflight --config cifar10 --workdir runs/cifar10
    diffusion-jax preflight --config cifar10 --tpu v5e:2x2

Takes the flags of `diffusion-jax train`, and refuses what train would refuse. Shows parameters, operations, memory,
sharding, images and labels, disk space, and the time left by some real steps. Nothing is written in the workdir. With
--tpu, the TPU compiler compiles the same programs for a slice that need not be here: pip install libtpu.
The exit code is 1 if the run does not fit into the memory.
"""

import json
from typing import TYPE_CHECKING, Any

from absl.flags import FlagValues
from ml_collections import ConfigDict

import diffusion_jax as dj
from diffusion_jax.cli import flags, processes
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.devices import check_devices
from diffusion_jax.cli.terminal import one_line

if TYPE_CHECKING:
    from diffusion_jax.preflight import Findings


def run(options: FlagValues, config: ConfigDict) -> int:
    out = flags.parse_out(options.json, (".json",), "--json") if options.json else None
    if out is not None:
        flags.make_parent(out)
    settings = {"workdir": options.workdir, "accept": options.accept}
    if options.tpu:
        findings = _check_slice(options, config, settings)
    else:
        processes.initialize_from_flags(options)
        check_devices()
        from diffusion_jax.preflight import check_run

        progress = dj.processes.is_owner()
        findings = check_run(config, timed_steps=options.timed_steps, progress=progress, **settings)
    if dj.processes.is_owner():
        from diffusion_jax.preflight import write_text

        print(write_text(findings))
        if out is not None:
            out.write_text(json.dumps(findings.to_json(), indent=2) + "\n")
            print(one_line(f"figures in {out}"))
    return 0 if findings.fits else 1


def _check_slice(options: FlagValues, config: ConfigDict, settings: dict[str, Any]) -> "Findings":
    for flag in processes.FLAGS:
        if options[flag.name].value is not None:
            raise ValueError(f"--{flag.name}: does not apply to --tpu, which one process compiles for; leave it out")
    import jax

    jax.config.update("jax_platforms", "cpu")  # libtpu is installed, and would look for a TPU
    from diffusion_jax.preflight import check_slice

    return check_slice(config, options.tpu, progress=True, **settings)


COMMAND = Command(
    name="diffusion-jax preflight",
    text=str(__doc__),
    flags=(
        Flag("workdir", str, "Directory of the run, or gs://bucket/run; need not exist."),
        Flag("accept", list, "Fields that differ from the run in --workdir, as for train.", []),
        Flag("tpu", str, "Compile for this slice instead: v5e, v5p or v6e and its shape in chips, as in v5e:2x2."),
        Flag("timed_steps", int, "Real steps to time after the first; 0 for none.", 10, limits={"lower_bound": 0}),
        Flag("json", str, "Write all figures to this .json file too."),
        *processes.FLAGS,
    ),
    run=run,
    takes_config=True,
)
