"""What the buttons of the page do: files of images, each with the command that writes the same file."""

import dataclasses
import shlex
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax

from diffusion_jax import figures
from diffusion_jax.demo.settings import Choices
from diffusion_jax.run import Run
from diffusion_jax.runtime import images

__all__ = ["SHOWS", "Demo", "Result", "generate"]

# What can be shown -> the file that the command writes.
SHOWS = {"grid": "samples.png", "strip": "samples.png", "animation": "samples.webp"}


@dataclasses.dataclass(frozen=True)
class Demo:
    """A run to try out.

    Attributes:
      run: the trained network.
      name: of the run, for people.
      load: the flags that load it.
      folder: directory for files, one new directory in it for each result.
    """

    run: Run
    name: str
    load: tuple[str, ...]
    folder: Path

    def command(self, *words: str) -> str:
        """`diffusion-jax` with these words and the flags that load the run, quoted for a shell.

        >>> run = dj.Run(None, None)
        >>> demo = Demo(run, "digits", ("--workdir", "my runs/digits"), Path("/tmp"))
        >>> demo.command("sample", "--steps", "20")
        "diffusion-jax sample --workdir 'my runs/digits' --steps 20"
        """
        command, *flags = words
        return shlex.join(["diffusion-jax", *command.split(), *self.load, *flags])

    def make_folder(self) -> Path:
        """A new directory for the files of one result."""
        return Path(tempfile.mkdtemp(prefix="", dir=self.folder))


class Result(NamedTuple):
    """A file of images, and the command that writes the same file into the current directory."""

    path: Path
    command: str


def generate(demo: Demo, show: str, settings: Choices) -> Result:
    """Generates images and writes them as a grid, as a strip of their states, or as an animation of them.

    Raises ValueError, as `Run.sample` and the figures do, if the settings do not fit the run.

    >>> demo = Demo(dj.pretrained("digits"), "digits", ("--pretrained", "digits"), Path("/tmp"))  # doctest: +SKIP
    >>> generate(demo, "strip", default_settings(demo.run)).path.name  # doctest: +SKIP
    'samples.png'
    """
    run, path = demo.run, demo.make_folder() / SHOWS[show]
    key, n, arguments = jax.random.key(settings.seed), settings.number, settings.arguments(run)
    if show == "strip":
        images.save(figures.strip(run, key, n, **arguments), path)
    elif show == "animation":
        states = figures.trajectory(run, key, n, **arguments).x
        images.save_animation(states, path, labels=run.captions(arguments["labels"]))
    else:
        images.save_grid(run.sample(key, n, **arguments), path, labels=run.captions(arguments["labels"]))
    flags = ["--show", show, "--num_samples", str(n), *settings.sample_labels(run), *settings.flags()]
    return Result(path, demo.command("sample", *flags, "--out", path.name))
