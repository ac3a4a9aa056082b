"""Pictures to files: uint8 conversion, grids, folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Tiles smaller than this are enlarged by a whole factor, so that a person can see 8x8 pictures.
_SMALLEST_TILE = 40
_GAP = 2


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Pictures in [-1, 1] as uint8: floor(127.5 x + 128), clipped; u/127.5 - 1 backwards, without bias.

    uint8 comes back as it is.
    """
    x = np.asarray(x)
    if x.dtype == np.uint8:
        return x
    return np.clip(x.astype(np.float32) * 127.5 + 128.0, 0, 255).astype(np.uint8)


def grid(x: np.ndarray, columns: int | None = None, labels: Sequence[object] | None = None) -> Image.Image:
    """Pictures [N, H, W, C] in [-1, 1] (or uint8) row by row, C of 1 or 3, each under its label if given.

    As square as can be unless `columns` is given. Raises ValueError for another shape or a number of
    labels that differs.
    """
    x = np.asarray(x)
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or not len(x):
        raise ValueError(f"pictures have shape {x.shape}: need [N, H, W, C] with C of 1 or 3")
    if labels is not None and len(labels) != len(x):
        raise ValueError(f"{len(labels)} labels for {len(x)} pictures")
    x = to_uint8(x)
    n, height, width, _ = x.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    scale = max(1, -(-_SMALLEST_TILE // min(height, width)))
    text_height = 0 if labels is None else 14
    cell_h, cell_w = height * scale + text_height + _GAP, width * scale + _GAP

    rows = -(-n // columns)
    canvas = Image.new("RGB", (columns * cell_w + _GAP, rows * cell_h + _GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=11)
    for i, picture in enumerate(np.broadcast_to(x, (*x.shape[:3], 3))):
        top, left = _GAP + i // columns * cell_h, _GAP + i % columns * cell_w
        if labels is not None:
            place = (left + width * scale / 2, top)
            draw.text(place, str(labels[i]), fill="black", anchor="ma", font=font)
        tile = Image.fromarray(np.ascontiguousarray(picture))
        tile = tile.resize((width * scale, height * scale), Image.Resampling.NEAREST)
        canvas.paste(tile, (left, top + text_height))
    return canvas


def save_grid(
    x: np.ndarray,
    path: str | Path,
    columns: int | None = None,
    labels: Sequence[object] | None = None,
) -> None:
    """Writes `grid(x, columns, labels)` to a picture file; the suffix of `path` says the format."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    grid(x, columns, labels).save(path)


def save_folder(x: np.ndarray, folder: str | Path, labels: Sequence[object] | None = None) -> None:
    """Writes pictures [N, H, W, C] as `folder`/000000.png .., with the label behind the number if given."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(to_uint8(x)):
        label = "" if labels is None else f"_{labels[i]}".replace("/", "_")
        picture = picture[..., 0] if picture.shape[-1] == 1 else picture
        Image.fromarray(picture).save(folder / f"{i:06d}{label}.png")
