"""Writes images to files: grids, tables, strips, animations and directories.

Small images are enlarged by an integer `scale`, by default so that each side has at least 96 pixels. Captions are one
line of at most 60 characters, in the first font that has their characters: Pillow's own, the file that the environment
variable DIFFUSION_JAX_FONT names, or one of the system. A character that no font has is written as its number, such as
U+732B, and a warning says so.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import ArrayLike
from PIL import Image

from diffusion_jax.process.pixels import to_uint8
from diffusion_jax.runtime.captions import readable
from diffusion_jax.runtime.errors import first_line
from diffusion_jax.runtime.files import as_file_name, replace_file
from diffusion_jax.runtime.tiles import above_first_row, check_size, draw_tiles, enlarge
from diffusion_jax.validation import check_shape, checked, integer, local_path, optional

__all__ = ["are_visible", "grid", "save", "save_animation", "save_folder", "save_grid", "strip", "table", "to_image"]

log = logging.getLogger(__name__)

Captions = Sequence[object] | None


def are_visible(shape: Sequence[int]) -> bool:
    """Whether images of a shape [..., C] can be written as image files: they have 1 or 3 channels.

    >>> dj.images.are_visible((8, 8, 3)), dj.images.are_visible((8, 8, 4))
    (True, False)
    """
    return shape[-1] in (1, 3)


@checked(columns=optional(integer(1)), scale=optional(integer(1)))
def grid(x: ArrayLike, columns: int | None = None, labels: Captions = None, *, scale: int | None = None) -> Image.Image:
    """Arranges images [N, H, W, C] in rows, C = 1 or 3, each below its label.

    Values are in [-1, 1], or uint8. By default the grid is as square as possible. Raises ValueError for another
    shape or number of labels.

    >>> dj.images.grid(np.zeros((6, 40, 40, 3)), columns=3, scale=1).size
    (128, 86)
    """
    x = _as_pixels(x, "N")
    texts = readable(_as_texts(labels, "labels", len(x), "image"))
    columns = columns or int(np.ceil(np.sqrt(len(x))))
    empty = -len(x) % columns
    x = np.pad(x, ((0, empty), *[(0, 0)] * 3), constant_values=255)
    texts += [""] * empty
    above = [texts[start : start + columns] for start in range(0, len(x), columns)]
    return draw_tiles(rearrange(x, "(r k) h w c -> r k h w c", k=columns), above, [""] * len(above), scale)


@checked(scale=optional(integer(1)))
def table(x: ArrayLike, rows: Captions = None, columns: Captions = None, *, scale: int | None = None) -> Image.Image:
    """Arranges images [R, K, H, W, C] in R rows and K columns, with captions left of the rows and above the columns.

    Values are in [-1, 1], or uint8. Raises ValueError for another shape or number of captions.

    >>> dj.images.table(np.zeros((2, 3, 40, 40, 1)), scale=1).size
    (128, 86)
    """
    x = _as_pixels(x, "R, K")
    left = readable(_as_texts(rows, "rows", len(x), "row"))
    top = readable(_as_texts(columns, "columns", x.shape[1], "column"))
    return draw_tiles(x, above_first_row(top, len(x)), left, scale)


@checked(scale=optional(integer(1)))
def strip(
    x: ArrayLike,
    x0: ArrayLike | None = None,
    times: ArrayLike | None = None,
    labels: Captions = None,
    *,
    scale: int | None = None,
) -> Image.Image:
    """Arranges states [K, N, H, W, C], as in `Frames`, in a table with one column per time and one row per image.

    With `x0`, of the same shape, each image has two rows: x_t, and x0-hat below. `times`, [K], are written above
    the columns, `labels`, [N], left of the rows. Raises ValueError for other shapes.

    >>> states = np.zeros((3, 2, 40, 40, 1))
    >>> dj.images.strip(states, scale=1).height, dj.images.strip(states, x0=states, scale=1).height
    (86, 176)
    """
    x = _as_pixels(x, "K, N")
    frames, n = x.shape[:2]
    names = readable(_as_texts(labels, "labels", n, "image"))
    top = None if times is None else [f"t = {t:.3g}" for t in np.asarray(times).tolist()]
    above = readable(_as_texts(top, "times", frames, "state"))
    if x0 is None:
        return draw_tiles(rearrange(x, "k n h w c -> n k h w c"), above_first_row(above, n), names, scale)
    x0 = _as_pixels(x0, "K, N")
    check_shape("x0", x0, x.shape)
    pairs = rearrange([x, x0], "pair k n h w c -> (n pair) k h w c")
    left = [f"{name}  {kind}".strip() for name in names for kind in ("x_t", "x0-hat")]
    return draw_tiles(pairs, above_first_row(above, 2 * n), left, scale, group=2)


def save(image: Image.Image, path: str | Path) -> None:
    """Writes an image file and creates its directory; the suffix of `path` determines the format.

    The file is replaced at once: if it cannot be written, the old one stays.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "figures" / "grid.png"
    >>> dj.images.save(dj.images.grid(np.zeros((6, 8, 8, 1))), path)
    >>> path.exists()
    True
    """
    path = local_path("path", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as new:
        image.save(new)


def save_grid(
    x: ArrayLike,
    path: str | Path,
    columns: int | None = None,
    labels: Captions = None,
    *,
    scale: int | None = None,
) -> None:
    """Writes `grid(x, columns, labels, scale=scale)` to an image file and creates its directory.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "samples.png"
    >>> dj.images.save_grid(np.zeros((4, 8, 8, 3)), path, labels=["cat", "dog", "ship", "frog"])
    >>> path.exists()
    True
    """
    save(grid(x, columns, labels, scale=scale), path)


@checked(milliseconds=integer(1), hold=integer(1))
def save_animation(
    frames: ArrayLike,
    path: str | Path,
    columns: int | None = None,
    labels: Captions = None,
    *,
    milliseconds: int = 80,
    hold: int = 2000,
    scale: int | None = None,
) -> None:
    """Writes states [K, N, H, W, C], as in `Frames`, as a .gif or .webp that repeats forever.

    Each frame is a `grid`, shown for `milliseconds`; the last is shown for `hold` milliseconds. WebP is lossless,
    and so is GIF for gray images; a colored GIF has a palette of 256 colors per frame. Raises ValueError for
    another suffix or shape.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "samples.gif"
    >>> dj.images.save_animation(np.zeros((3, 4, 8, 8, 1)), path)
    >>> path.exists()
    True
    """
    suffix, frames = Path(path).suffix.lower(), _as_pixels(frames, "K, N")
    if suffix not in (".gif", ".webp"):
        raise ValueError(f"{path}: an animation must be a .gif or .webp; change the suffix")
    grids = [grid(x, columns, labels, scale=scale) for x in frames]
    if suffix == ".gif":
        grids = [_reduce_colors(image, gray=frames.shape[-1] == 1) for image in grids]
    first, *rest = grids
    durations = [milliseconds] * len(rest) + [hold]
    path = local_path("path", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as new:
        first.save(new, save_all=True, append_images=rest, duration=durations, loop=0, lossless=True)


@checked(scale=integer(1))
def save_folder(x: ArrayLike, folder: str | Path, labels: Captions = None, *, scale: int = 1) -> None:
    """Writes images [N, H, W, C] as `folder`/000000.png, 000001.png, ..., with the label after the number.

    They are not enlarged by default. In the names, slashes, control characters and what Windows forbids are "_", and
    labels of more than 128 bytes are cut. If the file system refuses a name even so, the image has its number only, and
    a warning says so. Raises ValueError for another shape or number of labels.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> dj.images.save_folder(np.zeros((2, 8, 8, 1)), folder, labels=["cat", "dog"])
    >>> sorted(path.name for path in folder.iterdir())
    ['000000_cat.png', '000001_dog.png']
    """
    x, folder = _as_pixels(x, "N"), local_path("folder", folder)
    texts = _as_texts(labels, "labels", len(x), "image")
    folder.mkdir(parents=True, exist_ok=True)
    refused = []
    for i, (pixels, text) in enumerate(zip(x, texts, strict=True)):
        image = to_image(pixels, scale)
        name = f"{i:06d}" if labels is None else f"{i:06d}_{as_file_name(text)}"
        try:
            image.save(folder / f"{name}.png")
        except (OSError, UnicodeError) as error:  # a character or a length that this file system does not have
            image.save(folder / f"{i:06d}.png")  # raises again if it is not the name
            refused.append(f"{name}.png ({first_line(error)})")
    if refused:
        log.warning("%s: %d images have no label in their name, refused: %s", folder, len(refused), refused[0])


def to_image(x: ArrayLike, scale: int = 1) -> Image.Image:
    """One image [H, W, C] in [-1, 1], or uint8, with each pixel a square of `scale`. Raises ValueError as `grid` does.

    >>> dj.images.to_image(np.zeros((8, 8, 1)), scale=12).size
    (96, 96)
    """
    pixels = _as_pixels(np.asarray(x)[None], "N")[0]
    check_size(pixels[..., 0].size, scale)
    pixels = enlarge(pixels, scale)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _as_pixels(x: ArrayLike, leading: str) -> np.ndarray:
    """Images as uint8 [*leading, H, W, C]. Raises ValueError for another shape."""
    x = np.asarray(x)
    if x.ndim != leading.count(",") + 4 or not are_visible(x.shape) or not x.size:
        raise ValueError(f"images have shape {x.shape}: must be [{leading}, H, W, C] with C = 1 or 3, and not empty")
    return to_uint8(x)


def _as_texts(captions: Captions, name: str, number: int, item: str) -> list[str]:
    """One text per item, "" without captions. Raises ValueError for another number of captions."""
    if captions is None:
        return [""] * number
    if len(captions) != number:
        raise ValueError(f"{name} has length {len(captions)}: must be {number}, one per {item}")
    return [str(caption) for caption in captions]


def _reduce_colors(image: Image.Image, gray: bool) -> Image.Image:
    """The image in 256 colors, dithered: by default Pillow turns a smooth sky into bands."""
    if gray:
        return image.convert("L")
    palette = image.quantize(256, Image.Quantize.FASTOCTREE)
    return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def __dir__() -> list[str]:
    return __all__
