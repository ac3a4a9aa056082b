"""Inpainting on the page: the image, the mask that is painted over it, and the result."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from diffusion_jax.demo.results import Demo
from diffusion_jax.demo.settings import Choices
from diffusion_jax.edit import tasks
from diffusion_jax.edit.job import Job
from diffusion_jax.process.pixels import to_uint8
from diffusion_jax.run import Run
from diffusion_jax.runtime import images

__all__ = ["Inpainted", "enlarge_to_paint", "find_painted", "first_image", "read_upload", "repaint"]

_CANVAS = 480  # pixels of the longer side of the image that is painted on
# A pixel is repainted if this part of it is painted: less than a round brush as wide as a pixel covers, and more than
# the edge of a stroke beside it.
_PAINTED = 0.3


class Inpainted(NamedTuple):
    """The files of one result, and the command that writes `path` again, from `image` and `mask`."""

    path: Path
    command: str
    image: Path
    mask: Path


def first_image(run: Run, settings: Choices) -> np.ndarray:
    """The first image of `settings`, uint8 [H, W, C].

    >>> run = dj.load("runs/digits")  # doctest: +SKIP
    >>> first_image(run, default_settings(run)).shape  # doctest: +SKIP
    (8, 8, 1)
    """
    x = run.sample(jax.random.key(settings.seed), settings.number, **settings.arguments(run))
    return to_uint8(x[0])


def read_upload(run: Run, path: str) -> np.ndarray:
    """An image file as `edit --resize` reads it, uint8 [H, W, C]. Raises ValueError if it cannot be read.

    >>> read_upload(dj.load("runs/digits"), "photo.jpg").shape  # doctest: +SKIP
    (8, 8, 1)
    """
    try:
        return to_uint8(Job(run, jax.random.key(0), [path], resize=True).read()[0])
    except ValueError as error:
        raise ValueError(str(error).replace(path, Path(path).name)) from error


def enlarge_to_paint(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] in colour, enlarged by an integer factor so that one can paint on it.

    >>> enlarge_to_paint(np.zeros((8, 8, 1), np.uint8)).size
    (480, 480)
    """
    height, width, _ = image.shape
    factor = max(1, _CANVAS // max(height, width))
    return _to_pillow(image).convert("RGB").resize((width * factor, height * factor), Image.Resampling.NEAREST)


def find_painted(layers: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """The pixels of an image that are painted on its enlarged `layers`, uint8 [h, w, 4]; bool [height, width].

    >>> layer = np.zeros((80, 80, 4), np.uint8)
    >>> layer[:20, 40:, 3] = 255
    >>> np.argwhere(find_painted([layer], 4, 4)).tolist()
    [[0, 2], [0, 3]]
    """
    painted = np.zeros((height, width), bool)
    for layer in layers:
        opaque = Image.fromarray(np.where(layer[..., 3] > 0, 255, 0).astype(np.uint8))
        painted |= np.asarray(opaque.resize((width, height), Image.Resampling.BOX)) > 255 * _PAINTED
    return painted


def repaint(demo: Demo, settings: Choices, image: np.ndarray, painted: np.ndarray) -> Inpainted:
    """Generates the painted pixels, bool [H, W], of an image, uint8 [H, W, C], `settings.number` times.

    Raises ValueError if no pixel is painted, and as `editing.inpaint` does.

    >>> demo = Demo(dj.pretrained("digits"), "digits", ("--pretrained", "digits"), Path("/tmp"))  # doctest: +SKIP
    >>> image, painted = np.zeros((8, 8, 1), np.uint8), np.arange(64).reshape(8, 8) < 32
    >>> repaint(demo, default_settings(demo.run), image, painted).mask.name  # doctest: +SKIP
    'mask.png'
    """
    if not painted.any():
        raise ValueError("mask: no pixel is painted; paint over the part that should be generated")
    folder = demo.make_folder()
    files = Inpainted(folder / "inpainted.png", "", folder / "image.png", folder / "mask.png")
    images.save(_to_pillow(image), files.image)
    images.save(Image.fromarray(np.where(painted, 0, 255).astype(np.uint8)), files.mask)  # edit repaints black
    paths = [str(files.image)] * settings.number
    job = Job(demo.run, jax.random.key(settings.seed), paths, **settings.arguments(demo.run))
    edited = tasks.inpaint(job, mask=[str(files.mask)], invert_mask=False, resamples=5, jump_length=1)
    columns = edited.inputs | edited.outputs
    images.save(images.table(np.stack(list(columns.values()), 1), columns=list(columns)), files.path)
    flags = ["--image", _join_list(paths), "--mask", _join_list([str(files.mask)]), "--table"]
    flags += [*settings.edit_labels(demo.run), *settings.flags(), "--out", files.path.name]
    return files._replace(command=demo.command("edit inpaint", *flags))


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _join_list(items: Sequence[str]) -> str:
    """A list as a flag reads it: an item with a comma in quotes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(items)
    return text.getvalue()
