"""Writes a run's network as one file: the weights, or a sampler that needs JAX only.

    diffusion-jax export --workdir runs/digits --out digits.safetensors
    diffusion-jax sample --workdir digits.safetensors
    diffusion-jax train --config digits --workdir runs/mine --config.train.init_from=digits.safetensors

    diffusion-jax export --workdir runs/digits --out sampler.bin --steps 20
    diffusion-jax export --pretrained digits --out sampler.bin --inputs seed,labels,guidance --steps 10,20

The ending of --out chooses the file:

    .safetensors   the averaged weights and the config. The names of the arrays are those of the parameters, such as
                   params/conv_in/kernel; other libraries read them too
    .bin           a program that generates images without this library, with its weights; docs/export.md has the ten
                   lines that read it. Needs the extra export
"""

from typing import TYPE_CHECKING, Any

from absl.flags import FlagValues

import diffusion_jax as dj
from diffusion_jax.cli import flags
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.labels import parse_labels
from diffusion_jax.cli.terminal import one_line

if TYPE_CHECKING:
    from diffusion_jax.run import Run

# Those of a .bin file; `Run.export` calls --num_samples n.
_PROGRAM = (
    Flag("inputs", list, "What the program takes, of seed, labels, guidance; default: seed, and labels if it can."),
    Flag("steps", list, "Steps from noise to data, a program for each; default: as in the run's config."),
    flags.SEED._replace(help="A constant seed, instead of an input.", default=None),
    flags.LABELS._replace(help="A constant class of all images, a number or a name; none for no class."),
    Flag("num_samples", int, "A fixed number of images; default: any.", limits={"lower_bound": 1}),
    flags.SAMPLER,
    flags.GRID,
    flags.CLIP,
    Flag("threshold", float, "Quantile of |x0| for dynamic thresholding, such as 0.995; 0 turns it off."),
    flags.GUIDANCE,
    Flag("platforms", list, "Where the program runs; default: cpu,cuda,tpu."),
)


def run(options: FlagValues) -> None:
    out = flags.parse_out(options.out, (".safetensors", ".bin"))
    is_program = out.suffix.lower() == ".bin"
    if not is_program:
        _check_flags(options)
    settings = _read_settings(options)
    loaded = flags.load_run(options)
    flags.make_parent(out)
    if is_program:
        loaded.export(out, **settings | _choose_label(options, loaded))
    else:
        dj.export(loaded, out)
    print(one_line(f"step {loaded.step} in {out}, {out.stat().st_size / 1e6:.1f} MB"))


def _check_flags(options: FlagValues) -> None:
    """Raises ValueError if a flag of programs is set."""
    for flag in _PROGRAM:
        if options[flag.name].value is not None:
            raise ValueError(f"--{flag.name}: does not apply to {options.out}; leave it out, or use --out sampler.bin")


def _read_settings(options: FlagValues) -> dict[str, Any]:
    """The arguments of `Run.export`, except the class."""
    names = ("inputs", "seed", "clip", "threshold", "guidance", "platforms", "sampler", "grid")
    settings = flags.set_flags(options, names)
    if options.num_samples is not None:
        settings["n"] = options.num_samples
    if options.steps is not None:
        settings["steps"] = [_parse_integer(text, options.steps) for text in options.steps]
    return settings


def _parse_integer(text: str, texts: list[str]) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"--steps={','.join(texts)}: must be integers, such as 10,20")
    return int(text)


def _choose_label(options: FlagValues, loaded: "Run") -> dict[str, Any]:
    """The class of --labels; for "none", the inputs without labels."""
    if options.labels is None:
        return {}
    labels = parse_labels(options.labels, loaded.class_names, loaded.network.num_classes)
    if labels is None:
        return {} if options.inputs else {"inputs": ["seed"] * (options.seed is None)}
    if len(labels) > 1:
        raise ValueError(f"--labels={options.labels}: must be one class; leave it out for labels as an input")
    return {"labels": labels[0]}


COMMAND = Command(
    name="diffusion-jax export",
    text=str(__doc__),
    flags=(
        *flags.RUN,
        Flag("out", str, "The file to write, .safetensors or .bin.", "network.safetensors"),
        *_PROGRAM,
        flags.ALLOW_CODE,
    ),
    run=run,
)
