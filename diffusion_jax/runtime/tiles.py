"""Tiles in rows and columns with captions, drawn on one canvas."""

import numpy as np
from einops import repeat
from PIL import Image, ImageDraw

from diffusion_jax.runtime.captions import choose_font

__all__ = ["above_first_row", "check_size", "draw_tiles", "enlarge"]

# Smaller tiles are enlarged by an integer factor, so that 8x8 images can be seen; not beyond the larger size.
_MIN_TILE, _MAX_TILE = 96, 1024
# As many as a large screen has a hundred times; more would take gigabytes.
_MAX_PIXELS = 2**28
_GAP, _GROUP_GAP = 2, 6


def check_size(pixels: int, scale: int) -> None:
    """Raises ValueError if a picture of so many pixels is too large when each becomes a square of `scale`."""
    if pixels * scale**2 > _MAX_PIXELS:
        raise ValueError(
            f"scale = {scale}: the picture would have {pixels * scale**2:,} pixels, more than {_MAX_PIXELS:,}; "
            "use a smaller scale, or fewer images"
        )


def enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    return repeat(pixels, "h w c -> (h a) (w b) c", a=scale, b=scale)


def above_first_row(captions: list[str], rows: int) -> list[list[str]]:
    return [captions] + [[""] * len(captions)] * (rows - 1)


def draw_tiles(
    tiles: np.ndarray, above: list[list[str]], left: list[str], scale: int | None, group: int = 1
) -> Image.Image:
    """Draws uint8 tiles [R, K, H, W, C] with a caption `above` each, [R][K], and one `left` of each row, [R].

    A row without captions leaves no room for them, and no column is narrower than its captions. With `group` > 1,
    a wider gap follows every `group` rows.
    """
    rows, columns, height, width, _ = tiles.shape
    scale = scale or max(1, min(-(-_MIN_TILE // min(height, width)), _MAX_TILE // max(height, width)))
    check_size(rows * columns * height * width, scale)
    height, width = height * scale, width * scale
    top, side = [[choose_font(text) for text in row] for row in above], [choose_font(text) for text in left]
    margin = max(caption.width for caption in side)
    cell = max(width, *(caption.width for row in top for caption in row)) + _GAP
    text_heights = [max(caption.height for caption in row) for row in top]
    tops = [_GAP]
    for r, text_height in enumerate(text_heights):
        ends_group = group > 1 and (r + 1) % group == 0 and r + 1 < rows
        tops.append(tops[-1] + text_height + height + _GAP + _GROUP_GAP * ends_group)

    canvas = Image.new("RGB", (margin + columns * cell + _GAP, tops[-1]), "white")
    draw = ImageDraw.Draw(canvas)
    for r, k in np.ndindex(rows, columns):
        x, y = margin + _GAP + k * cell + (cell - _GAP - width) // 2, tops[r] + text_heights[r]
        pixels = enlarge(tiles[r, k], scale)
        canvas.paste(Image.fromarray(np.broadcast_to(pixels, (height, width, 3)).copy()), (x, y))
        text, font = top[r][k]
        draw.text((x + width / 2, tops[r] + top[r][k].rise), text, fill="black", anchor="ma", font=font)
        if k == 0:
            draw.text((margin - _GAP, y + height / 2), side[r].text, fill="black", anchor="rm", font=side[r].font)
    return canvas
