"""Image files without their metadata: damage there must not cost an image whose pixels are sound.

Each function returns the bytes of a file with the parts alone that its pixels depend on. Nothing is inflated or
decoded, no length is trusted beyond the end of the file, and damaged pixels stay damaged.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import Literal

__all__ = ["is_whole_exif", "strip_metadata"]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Start and end of an image, EXIF data, and quantization tables of the usual lengths.
_JPEG_MARKS = re.compile(rb"\xff\xd8\xff|\xff\xd9|\xff\xe1..Exif\0\0|\xff\xdb\0[\x43\x84\xc5]", re.DOTALL)
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
_WEBP_FLAGS, _WEBP_EXIF_FLAG = 0b00101100, 0b00001000  # ICC profile, EXIF and XMP
# Size, bits, compression, colours, strips, tiles, orientation, palette, samples, and what JPEG and YCbCr need.
_TIFF_PIXELS = {*range(254, 260), 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325}
_TIFF_PIXELS |= {332, 334, 338, 339, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532}


def strip_metadata(data: bytes) -> Iterator[bytes]:
    """Yields the file without metadata: first with the EXIF data, which may be sound and hold the orientation.

    Yields nothing for formats that have no metadata which Pillow trips over.
    """
    for start, strip in _STRIPPERS.items():
        if re.match(start, data, re.DOTALL):
            with_exif, without = strip(data, True), strip(data, False)
            yield with_exif
            if without != with_exif:
                yield without


def is_whole_exif(data: bytes) -> bool:
    """Whether the first directory of EXIF data, where the orientation is, lies within them; so for no data.

    >>> is_whole_exif(b""), is_whole_exif(b"Exif\\0\\0MM\\0*\\0\\0\\0\\x08\\0\\1")
    (True, False)
    """
    data = data.removeprefix(b"Exif\0\0")
    if not data:
        return True
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    start = int.from_bytes(data[4:8], order)
    count = int.from_bytes(data[start : start + 2], order)
    return len(data) >= start + 2 + 12 * count


def _strip_png(data: bytes, exif: bool) -> bytes:
    kept = (*_PNG_PIXELS, b"eXIf") if exif else _PNG_PIXELS
    parts, position = [_PNG], len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind in kept:
            parts.append(data[position:end])
        elif not data[end + 4 : end + 8].isalpha():  # no chunk: the length is damaged too
            end = _find(b"|".join(kept), data, position + 12) - 4
        position = end
    return b"".join(parts)


def _find(pattern: bytes, data: bytes, position: int) -> int:
    """Where the next match starts; the end of the data if there is none."""
    found = re.compile(pattern, re.DOTALL).search(data, position)
    return found.start() if found else len(data)


def _strip_jpeg(data: bytes, exif: bool) -> bytes:
    """Keeps the JFIF and Adobe segments, on which the colours depend, if a decoder takes them for whole."""
    parts, position = [data[:2]], 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            position += 1
            continue
        kind, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if kind in (0x00, 0x01, 0xFF, 0xD8):
            position += 1
        elif kind == 0xDA:  # the rest is the compressed image
            return b"".join([*parts, data[position:]])
        else:
            end = position + 2 + length
            if _is_metadata(kind) and data[end : end + 1] != b"\xff":  # the length is damaged too
                end = _find_jpeg_header(data, position + 4, exif)
            elif _is_needed(kind, data[position + 4 : end], exif):
                parts.append(data[position:end])
            position = end
    return b"".join(parts)


def _find_jpeg_header(data: bytes, position: int, exif: bool) -> int:
    """The next EXIF data or quantization table, except those of a thumbnail; the end if there is none."""
    depth = 0
    for found in _JPEG_MARKS.finditer(data, position):
        start = found[0][:2]
        if start == b"\xff\xd8":  # the start of a thumbnail
            depth += 1
        elif start == b"\xff\xd9":
            depth = max(depth - 1, 0)
        elif not depth and (exif or start == b"\xff\xdb"):
            return found.start()
    return len(data)


def _is_metadata(kind: int) -> bool:
    return 0xE0 <= kind <= 0xEF or kind == 0xFE


def _is_needed(kind: int, content: bytes, exif: bool) -> bool:
    if kind == 0xE1:
        return exif and content.startswith(b"Exif\0\0")
    if kind in (0xE0, 0xEE):
        return len(content) >= (12 if kind == 0xEE else 14)
    return not _is_metadata(kind)


def _strip_webp(data: bytes, exif: bool) -> bytes:
    kept = (*_WEBP_PIXELS, b"EXIF") if exif else _WEBP_PIXELS
    metadata_flags = _WEBP_FLAGS if not exif else _WEBP_FLAGS & ~_WEBP_EXIF_FLAG
    parts, position = [], 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length + length % 2
        if kind in kept:
            chunk = data[position:end]
            parts.append(chunk[:8] + bytes([chunk[8] & ~metadata_flags]) + chunk[9:] if kind == b"VP8X" else chunk)
        elif data[end : end + 4] not in kept:  # metadata of an unknown kind, or a damaged length
            end = _find(b"|".join(kept), data, position + 8)
        position = end
    content = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _strip_gif(data: bytes, exif: bool) -> bytes:
    """Keeps the first frame and its graphic control, where the transparent colour is."""
    frame = b"!\xf9\x04|," + re.escape(bytes(4) + data[6:10])
    start = 13 + (3 * 2 ** (data[10] % 8 + 1) if data[10:11] > b"\x7f" else 0)
    return data[:start] + data[_find(frame, data, start) :]


def _strip_tiff(data: bytes, exif: bool) -> bytes:
    """Leaves other tags out of the first directory, in place; the orientation is a tag of its own."""
    order = "<" if data[:2] == b"II" else ">"
    offset = int.from_bytes(data[4:8], "little" if order == "<" else "big")
    if len(data) < offset + 2:
        return data
    (count,) = struct.unpack_from(order + "H", data, offset)
    entries = [data[i : i + 12] for i in range(offset + 2, offset + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if len(entry) == 12 and struct.unpack(order + "H", entry[:2])[0] in _TIFF_PIXELS]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:offset] + directory + data[offset + len(directory) :]


def _hide_items(data: bytes, exif: bool) -> bytes:
    """Renames the items of an AVIF or HEIC file that hold EXIF and XMP data; turns are boxes of their own."""
    return re.sub(rb"(infe.{8})(Exif|mime)", rb"\1skip", data, flags=re.DOTALL)


_STRIPPERS: dict[bytes, Callable[[bytes, bool], bytes]] = {
    re.escape(_PNG): _strip_png,
    b"\xff\xd8\xff": _strip_jpeg,
    b"RIFF....WEBP": _strip_webp,
    b"GIF8[79]a.{7}": _strip_gif,
    rb"II\*\0|MM\0\*": _strip_tiff,
    b"....ftyp": _hide_items,
}
