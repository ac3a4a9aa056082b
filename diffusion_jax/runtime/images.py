"""Pictures to files: uint8 conversion, grids, tables, strips, animations, folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from diffusion_jax.process.pixels import to_uint8

__all__ = ["grid", "save", "save_animation", "save_folder", "save_grid", "strip", "table"]

# Tiles smaller than this are enlarged by a whole factor, so that a person can see 8x8 pictures.
_SMALLEST_TILE = 40
_GAP, _BREAK = 2, 6
_TEXT_HEIGHT = 14

Captions = Sequence[object] | None


def grid(x: ArrayLike, columns: int | None = None, labels: Captions = None) -> Image.Image:
    """Pictures [N, H, W, C] in [-1, 1] (or uint8) row by row, C of 1 or 3, each under its label if given.

    As square as can be unless `columns` is given. Raises ValueError for another shape or a number of
    labels that differs.
    """
    x = _checked(x, "N")
    n = len(x)
    names = _captions(labels, n, "labels", "pictures")
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    empty = rows * columns - n
    x = np.pad(x, ((0, empty), *[(0, 0)] * 3), constant_values=255)
    names += [""] * empty
    above = [names[r * columns : (r + 1) * columns] for r in range(rows)]
    return _layout(x.reshape(rows, columns, *x.shape[1:]), above, [""] * rows)


def table(x: ArrayLike, rows: Captions = None, columns: Captions = None) -> Image.Image:
    """Pictures [R, K, H, W, C] in [-1, 1] (or uint8), with captions left of the rows and above the columns.

    Raises ValueError for another shape or a number of captions that differs.
    """
    x = _checked(x, "R, K")
    left, top = (
        _captions(rows, len(x), "captions", "rows"),
        _captions(columns, x.shape[1], "captions", "columns"),
    )
    return _layout(x, _on_top(top, len(x)), left)


def strip(
    x: ArrayLike, x0: ArrayLike | None = None, times: ArrayLike | None = None, labels: Captions = None
) -> Image.Image:
    """States [K, N, H, W, C], as in `Frames`, as a table: a column for each time, a row for each picture.

    With `x0`, of the same shape, each picture has two rows, x_t over x0-hat. `times`, [K], stand above,
    `labels`, [N], to the left. Raises ValueError for other shapes.
    """
    x = _checked(x, "K, N")
    frames, n = x.shape[:2]
    names = _captions(labels, n, "labels", "pictures")
    top = None if times is None else [f"t = {t:.3g}" for t in np.asarray(times).tolist()]
    above = _captions(top, frames, "times", "states")
    if x0 is None:
        return _layout(x.swapaxes(0, 1), _on_top(above, n), names)
    x0 = _checked(x0, "K, N")
    if x0.shape != x.shape:
        raise ValueError(f"x0 has shape {x0.shape}: x has {x.shape}")
    pairs = np.stack([x, x0], 2).reshape(frames, 2 * n, *x.shape[2:])
    left = [f"{name}  {kind}".strip() for name in names for kind in ("x_t", "x0-hat")]
    return _layout(pairs.swapaxes(0, 1), _on_top(above, 2 * n), left, together=2)


def save(picture: Image.Image, path: str | Path) -> None:
    """Writes a picture file and makes its folder; the suffix of `path` says the format."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def save_grid(x: np.ndarray, path: str | Path, columns: int | None = None, labels: Captions = None) -> None:
    """Writes `grid(x, columns, labels)` to a picture file."""
    save(grid(x, columns, labels), path)


def save_animation(
    frames: ArrayLike,
    path: str | Path,
    columns: int | None = None,
    labels: Captions = None,
    *,
    milliseconds: int = 80,
    hold: int = 2000,
) -> None:
    """Writes states [K, N, H, W, C], as in `Frames`, as a .gif or .webp that repeats for ever.

    Each frame is a `grid`, shown for `milliseconds`, the last for `hold`. WebP is lossless, as is a GIF in
    grey; in colour that has a palette of 256 a frame. Raises ValueError for another suffix or shape.
    """
    suffix, frames = Path(path).suffix.lower(), _checked(frames, "K, N")
    if suffix not in (".gif", ".webp"):
        raise ValueError(f"{path}: an animation is a .gif or a .webp")
    grids = [grid(x, columns, labels) for x in frames]
    if suffix == ".gif":
        grids = [_few_colours(picture, grey=frames.shape[-1] == 1) for picture in grids]
    first, *rest = grids
    durations = [milliseconds] * len(rest) + [hold]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, lossless=True)


def save_folder(x: np.ndarray, folder: str | Path, labels: Captions = None) -> None:
    """Writes pictures [N, H, W, C] as `folder`/000000.png .., with the label behind the number if given."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(to_uint8(x)):
        label = "" if labels is None else f"_{labels[i]}".replace("/", "_")
        picture = picture[..., 0] if picture.shape[-1] == 1 else picture
        Image.fromarray(picture).save(folder / f"{i:06d}{label}.png")


def _checked(x: ArrayLike, leading: str) -> np.ndarray:
    """uint8 pictures, [*leading, H, W, C]."""
    x = np.asarray(x)
    if x.ndim != leading.count(",") + 4 or x.shape[-1] not in (1, 3) or not x.size:
        raise ValueError(f"pictures have shape {x.shape}: need [{leading}, H, W, C] with C of 1 or 3")
    return to_uint8(x)


def _captions(given: Captions, number: int, what: str, of: str) -> list[str]:
    """One text for each, "" where none are given."""
    if given is None:
        return [""] * number
    if len(given) != number:
        raise ValueError(f"{len(given)} {what} for {number} {of}")
    return [str(caption) for caption in given]


def _few_colours(picture: Image.Image, grey: bool) -> Image.Image:
    """A picture in 256 colours, dithered: left to itself, Pillow makes bands of a smooth sky."""
    if grey:
        return picture.convert("L")
    palette = picture.quantize(256, Image.Quantize.FASTOCTREE)
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _on_top(captions: list[str], rows: int) -> list[list[str]]:
    return [captions] + [[""] * len(captions)] * (rows - 1)


def _layout(tiles: np.ndarray, above: list[list[str]], left: list[str], together: int = 1) -> Image.Image:
    """uint8 tiles [R, K, H, W, C], each under its caption of `above`, [R][K], each row behind one of `left`.

    A row without captions leaves no room for them, and no column is narrower than its captions. Where more
    than one row stand `together`, a wider gap is between them and the next.
    """
    rows, columns, height, width, _ = tiles.shape
    scale = max(1, -(-_SMALLEST_TILE // min(height, width)))
    height, width = height * scale, width * scale
    font = ImageFont.load_default(size=11)
    margin = max(_width(text, font) for text in left)
    cell = max(width, *(_width(text, font) for row in above for text in row)) + _GAP
    text_heights = [_TEXT_HEIGHT * any(row) for row in above]
    tops = [_GAP]
    for r, text_height in enumerate(text_heights):
        last = together > 1 and (r + 1) % together == 0 and r + 1 < rows
        tops.append(tops[-1] + text_height + height + _GAP + _BREAK * last)

    canvas = Image.new("RGB", (margin + columns * cell + _GAP, tops[-1]), "white")
    draw = ImageDraw.Draw(canvas)
    for r, k in np.ndindex(rows, columns):
        x, y = margin + _GAP + k * cell + (cell - _GAP - width) // 2, tops[r] + text_heights[r]
        picture = np.broadcast_to(tiles[r, k].repeat(scale, 0).repeat(scale, 1), (height, width, 3))
        canvas.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, y))
        draw.text((x + width / 2, tops[r]), above[r][k], fill="black", anchor="ma", font=font)
        if k == 0:
            draw.text((margin - _GAP, y + height / 2), left[r], fill="black", anchor="rm", font=font)
    return canvas


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    """Pixels that a caption takes, with air on both sides; 0 for none."""
    return int(np.ceil(font.getlength(text))) + 2 * _GAP if text else 0


def __dir__() -> list[str]:
    return __all__
