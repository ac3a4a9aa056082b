"""Writes one HTML page about a run, or about several beside each other.

    diffusion-jax report --workdir runs/digits
    diffusion-jax report --workdir runs/digits,runs/wider --out comparison.html

The page shows curves of the loss, of the held-out loss by log-SNR, of the learning rate and of the speed, the grids of
samples over the steps, the configuration and the environment. It is one file that needs no network: send it to anyone.
Files are only read, also while the run is training, and no device is needed.
"""

from absl.flags import FlagValues

from diffusion_jax.cli import flags
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.terminal import one_line


def run(options: FlagValues) -> None:
    out = flags.parse_out(options.out, (".html",))
    import jax

    jax.config.update("jax_platforms", "cpu")  # Orbax asks for the process, and a training may hold the device
    from diffusion_jax.report.page import format_size, write_report

    flags.make_parent(out)
    size = write_report(options.workdir, out, grids=options.grids)
    print(one_line(f"{', '.join(options.workdir)} in {out}, {format_size(size)}"))


COMMAND = Command(
    name="diffusion-jax report",
    text=str(__doc__),
    flags=(
        Flag("workdir", list, "Directories of up to 8 runs, or gs://bucket/run.", required=True),
        Flag("out", str, "Output file.", "report.html"),
        Flag(
            "grids",
            int,
            "Most grids of samples per run: evenly spaced, with the first and the last.",
            20,
            limits={"lower_bound": 1},
        ),
    ),
    run=run,
)
