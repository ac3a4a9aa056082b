"""Image files made byte by byte: what no writer makes, and damage in known places."""

import io
import struct
import zlib
from collections.abc import Iterable

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """A PNG chunk; `crc` for another checksum than the right one."""
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """The (kind, data) of each chunk."""
    found, position = [], len(SIGNATURE)
    while position < len(png):
        (length,) = struct.unpack_from(">I", png, position)
        found.append((png[position + 4 : position + 8], png[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def with_chunks(png: bytes, *added: bytes, before: bytes = b"IDAT") -> bytes:
    """The PNG with more chunks, in front of the first of one kind."""
    at = png.index(before) - 4
    return png[:at] + b"".join(added) + png[at:]


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """The JPEG with one more segment, as the first."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + jpeg[2:]


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def tiff(width: int, height: int, pixels: bytes, tags: Iterable[tuple[int, str, tuple[int, ...]]], order="<") -> bytes:
    """An uncompressed TIFF of one strip; each tag is (number, "B", "H" or "I", values)."""
    common = [
        (256, "I", (width,)),
        (257, "I", (height,)),
        (259, "H", (1,)),
        (273, "I", (8,)),
        (278, "I", (height,)),
        (279, "I", (len(pixels),)),
    ]
    entries, later = [], b""
    given = {number for number, *_ in tags}
    every = sorted([*tags, *(tag for tag in common if tag[0] not in given)])
    after = 8 + len(pixels) + 2 + 12 * len(every) + 4
    for number, kind, values in every:
        data = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(data) > 4:
            later, data = later + data, struct.pack(f"{order}I", after + len(later))
        head = struct.pack(f"{order}HHI", number, {"B": 1, "H": 3, "I": 4}[kind], len(values))
        entries.append(head + data.ljust(4, b"\0"))
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8 + len(pixels))
    return start + pixels + directory + later


def grey_tiff(values, bits: int = 16, photometric: int = 1, order="<", sample_format: int = 1, **more) -> bytes:
    """One row of grey levels; 12 bits are packed."""
    if bits == 12:
        text = "".join(f"{value:012b}" for value in values)
        pixels = int(text, 2).to_bytes(len(text) // 8, "big")
    else:
        pixels = struct.pack(f"{order}{len(values)}{ {8: 'B', 16: 'H', 32: 'I'}[bits] }", *values)
    tags = [(258, "H", (bits,)), (262, "H", (photometric,)), (277, "H", (1,)), (339, "H", (sample_format,))]
    return tiff(len(values), 1, pixels, tags, order)


def cmyk_profile(colours: dict[tuple[int, int, int, int], tuple[int, int, int]]) -> bytes:
    """An ICC profile of CMYK: the colour in CIE Lab of each corner (C, M, Y, K in 0 or 1); others are black."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    lab = [colours.get(corner, (0, 0, 0)) for corner in corners]
    grid = bytes(value for L, a, b in lab for value in (round(L * 2.55), a + 128, b + 128))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    curve = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * curve + grid + 3 * curve
    table += bytes(-len(table) % 4)
    start = 128 + 4 + 12
    header = struct.pack(
        ">I4sI4s4s4s12x4s", start + len(table), b"test", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp"
    )
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)  # the D50 illuminant
    return header.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", start, len(table)) + table
