"""Trains an experiment: python train.py --config configs/digits.py --workdir runs/digits

Fields are overridden on the command line, --config.train.steps=500. Running the same command again resumes.
"""

import logging
import re
import signal
import sys

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, a file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if need be.", required=True)


def main(arguments: list[str]) -> None:
    # Here, not above: --help need not wait for JAX.
    import diffusion_jax as dj
    from diffusion_jax.commands import no_more
    from diffusion_jax.runtime.checkpoint import CheckpointError

    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("diffusion_jax").setLevel(logging.INFO)

    stop: list[int] = []

    def ask_to_stop(number: int, _: object) -> None:
        stop.append(number)
        signal.signal(number, signal.SIG_DFL)  # asked twice, it stops at once

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    try:
        no_more(arguments[1:])
        complete = dj.train(_CONFIG.value, _WORKDIR.value, should_stop=lambda: bool(stop))
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {told(error)}")
    if not complete:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + stop[0])
    print(f"done; the pictures are in {_WORKDIR.value}/samples.png")


def parse(arguments: list[str]) -> list[str]:
    """absl's parser; what a config file or ml_collections raises on the way is told in one line."""
    try:
        return flags.FLAGS(arguments)
    except Exception as error:
        sys.exit(f"error: {told(error)}")


def told(error: Exception) -> str:
    """One line of an error of the flags or of the config file."""
    text = str(error).replace("\\n", "\n").strip()
    if unknown := re.fullmatch(r"[\"']+(\w+)[\"']+", text):
        return f'the config has no field "{unknown[1]}"'
    if "Traceback" in text:  # of the config file: what it raised is the last line
        text = re.sub(r"^\w+: ", "", text.splitlines()[-1].strip())
    text = " ".join(text.split())
    if near := re.search(r'Did you mean "(.+)" instead of "(.+)"', text):
        return f'the config has no field "{near[2]}"; did you mean "{near[1]}"?'
    return text


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse)
