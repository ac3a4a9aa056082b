"""Writes small TrueType fonts, for tests that must not depend on the fonts of the machine."""

import struct
from pathlib import Path

_EM = 1000


def write_font(path: Path, characters: str, notdef: bool = True) -> Path:
    """A font of these characters, each a filled box; no two have the same size. Without `notdef`, others are blank."""
    points = sorted(map(ord, characters))
    boxes = [(600, 700) if notdef else None, *((300 + 20 * i, 350 + 30 * i) for i in range(len(points)))]
    glyphs = [_glyph(*box) if box else b"" for box in boxes]
    offsets = [sum(map(len, glyphs[:i])) for i in range(len(glyphs) + 1)]
    tables = {
        b"cmap": _cmap(points),
        b"glyf": b"".join(glyphs),
        b"head": struct.pack(
            ">IIIIHHQQhhhhHHhhh", 0x10000, 0, 0, 0x5F0F3CF5, 0, _EM, 0, 0, 0, 0, _EM, _EM, 0, 8, 2, 1, 0
        ),
        b"hhea": struct.pack(">IhhhHhhhhhhhhhhhH", 0x10000, 900, -200, 0, _EM, *[0] * 11, len(glyphs)),
        b"hmtx": b"".join(struct.pack(">Hh", (box or (500,))[0] + 100, 50) for box in boxes),
        b"loca": struct.pack(f">{len(offsets)}I", *offsets),
        b"maxp": struct.pack(">IH13H", 0x10000, len(glyphs), 4, 1, 0, 0, 2, *[0] * 8),
    }
    start, directory, body = 12 + 16 * len(tables), b"", b""
    for tag, data in tables.items():
        directory += struct.pack(">4sIII", tag, 0, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    path.write_bytes(struct.pack(">IHHHH", 0x10000, len(tables), 64, 2, 48) + directory + body)
    return path


def _glyph(width: int, height: int) -> bytes:
    corners = [(50, 0), (50, height), (50 + width, height), (50 + width, 0)]
    steps = [(x - x0, y - y0) for (x, y), (x0, y0) in zip(corners, [(0, 0), *corners], strict=False)]
    xs, ys = zip(*steps, strict=True)
    outline = struct.pack(">hhhhh", 1, 50, 0, 50 + width, height) + struct.pack(">HH4B", 3, 0, 1, 1, 1, 1)
    return (outline + struct.pack(">4h4h", *xs, *ys)).ljust(36, b"\0")


def _cmap(points: list[int]) -> bytes:
    """Format 12: one group for each character."""
    groups = b"".join(struct.pack(">III", point, point, i) for i, point in enumerate(points, 1))
    subtable = struct.pack(">HHIII", 12, 0, 16 + len(groups), 0, len(points)) + groups
    return struct.pack(">HHHHI", 0, 1, 3, 10, 12) + subtable
