"""Sound pixels beside damaged metadata are used, and the damage is told; damaged pixels are refused."""

import io
import random
import re
import struct
import zlib

import numpy as np
import pytest
from handmade import SIGNATURE, chunk, chunks, encode, tiff, with_chunks, with_segment
from PIL import Image, ImageCms, PngImagePlugin, features

from diffusion_jax.data.sources import decode as decode_module
from diffusion_jax.data.sources.decode import Decoder
from diffusion_jax.data.sources.formats import ImageError
from diffusion_jax.data.sources.metadata import is_whole_exif, strip_metadata
from diffusion_jax.data.sources.modes import DAMAGED

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's own words on the damage

PIXELS = np.kron(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
IMAGE = Image.fromarray(PIXELS)
TURNED = np.rot90(PIXELS, -1)  # by orientation 6
PNG = encode(IMAGE, "PNG")
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF></rdf:RDF></x:xmpmeta>' * 3


def exif(orientation=6):
    """EXIF data with a second directory."""
    data = Image.Exif()
    data[0x0112], data[0x010F], data[0x0110] = orientation, "Maker", "Model"
    data.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment"
    return data


@pytest.fixture
def decode(tmp_path):
    def run(data, size=PIXELS.shape[:2], **settings):
        (tmp_path / "x").write_bytes(data)
        defaults = {"channels": 3, "crop": "squash", "background": "white", "max_pixels": 100_000}
        return Decoder(size, **(defaults | settings))(tmp_path / "x")

    return run


def assert_used(decoded, pixels=PIXELS, atol=0):
    np.testing.assert_allclose(decoded.pixels.astype(int), pixels, atol=atol)
    assert decoded.notes == (DAMAGED,)


# PNG


def zeros(megabytes):
    return zlib.compress(bytes(megabytes * 2**20), 9)


PNG_DAMAGE = {
    "EXIF that is no TIFF": chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03 and so on"),
    "empty EXIF": chunk(b"eXIf", b"Exif\0\0"),
    "EXIF twice": chunk(b"eXIf", b"Exif\0\0Exif\0\0II*\0\x08\0\0\0\0\0"),
    "EXIF cut within its directory": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x09\x01\x12"),
    "EXIF as text that is not hexadecimal": chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n4\nxyz")
    ),
    "3 MiB of compressed text": chunk(b"zTXt", b"Comment\0\0" + zeros(3)),
    "3 MiB of compressed international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros(3)),
    "70 MiB of text": b"".join(chunk(b"tEXt", b"%d\0" % i + bytes(10 * 2**20)) for i in range(7)),
    "an unknown compression": chunk(b"zTXt", b"Comment\0\7" + zeros(1)),
    "a profile of 3 MiB": chunk(b"iCCP", b"ICC\0\0" + zeros(3)),
    "a profile that is not compressed": chunk(b"iCCP", b"ICC\0\0 profile"),
    "a profile of an unknown compression": chunk(b"iCCP", b"ICC\0\7" + zeros(1)),
    "a profile without its name's end": chunk(b"iCCP", b"ICC"),
    "gamma cut short": chunk(b"gAMA", b"\0"),
    "chromaticities cut short": chunk(b"cHRM", bytes(8)),
    "intent cut short": chunk(b"sRGB", b""),
    "density cut short": chunk(b"pHYs", bytes(5)),
    "a wrong checksum of text": chunk(b"tEXt", b"a\0b", crc=1),
    "a wrong checksum of a private chunk": chunk(b"prVt", b"abc", crc=1),
    "a wrong checksum of the time": chunk(b"tIME", bytes(7), crc=1),
    "an animation cut short": chunk(b"acTL", b"\0"),
    "a frame beyond the image": chunk(b"fcTL", struct.pack(">5I", 0, 900, 900, 0, 0) + bytes(6)),
    "a chunk that claims 2 GiB": b"\x7f\xff\xff\xfftEXta\0b\0\0\0\0",
    "a chunk that claims too little": b"\0\0\0\x01tEXta\0bcdefghij\0\0\0\0",
}


@pytest.mark.parametrize("damage", PNG_DAMAGE)
def test_a_png_with_damaged_metadata_is_used(decode, damage):
    assert_used(decode(with_chunks(PNG, PNG_DAMAGE[damage])))


@pytest.mark.parametrize(
    "damage", ["3 MiB of compressed text", "a wrong checksum of the time", "EXIF that is no TIFF", "70 MiB of text"]
)
def test_damage_behind_the_pixels_costs_no_image_either(decode, damage):
    np.testing.assert_array_equal(decode(with_chunks(PNG, PNG_DAMAGE[damage], before=b"IEND")).pixels, PIXELS)


def test_a_png_that_is_cut_behind_its_pixels_is_used(decode):
    whole = with_chunks(PNG, chunk(b"tEXt", b"Comment\0" + bytes(1000)), before=b"IEND")
    np.testing.assert_array_equal(decode(whole[:-500]).pixels, PIXELS)


@pytest.mark.parametrize(
    "damage", ["3 MiB of compressed text", "a wrong checksum of text", "a chunk that claims 2 GiB"]
)
def test_sound_exif_beside_other_damage_turns_the_image(decode, damage):
    png = encode(IMAGE, "PNG", exif=exif())
    for before in (b"eXIf", b"IDAT"):
        assert_used(decode(with_chunks(png, PNG_DAMAGE[damage], before=before), TURNED.shape[:2]), TURNED)


def test_transparency_and_the_palette_are_no_metadata(decode):
    image = IMAGE.quantize(8)
    png = encode(image, "PNG", transparency=0)
    sound = decode(png, background="red")
    damaged = decode(with_chunks(png, PNG_DAMAGE["a wrong checksum of text"]), background="red")
    assert_used(damaged, sound.pixels)
    assert (sound.pixels == (255, 0, 0)).all(-1).any()


def test_a_bomb_of_text_is_not_inflated(decode, monkeypatch):
    """1 GiB in 1 MB; what is asked of zlib stays below 4 MiB."""
    real, largest = zlib.decompressobj, [0]

    class Watched:
        def __init__(self, *options):
            self.real = real(*options)

        def decompress(self, data, limit=0):
            out = self.real.decompress(data, limit)
            largest[0] = max(largest[0], len(out))
            return out

        def __getattr__(self, name):
            return getattr(self.real, name)

    inflater = zlib.compressobj(9)
    bomb = b"".join([*(inflater.compress(bytes(2**20)) for _ in range(64)), inflater.flush()])
    monkeypatch.setattr(PngImagePlugin.zlib, "decompressobj", Watched)
    assert_used(decode(with_chunks(PNG, chunk(b"zTXt", b"Comment\0\0" + bomb))))
    assert 0 < largest[0] <= 4 * 2**20


# JPEG, WebP, TIFF, GIF, AVIF


def profile_segment(count):
    return b"ICC_PROFILE\0\1" + bytes([count]) + ICC


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE0, b"JFIF\0"),
        (0xE1, b"Exif\0\0not a TIFF"),
        (0xE1, b"Exif\0\0Exif\0\0II*\0\x08\0\0\0\0\0"),
        (0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        (0xE1, b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"),
        (0xE2, b"ICC_PROFILE\0\1"),
        (0xE2, profile_segment(3)),
        (0xEE, b"Adobe"),
    ],
)
def test_a_jpeg_with_damaged_metadata_is_used(decode, marker, content):
    jpeg = encode(IMAGE, "JPEG", quality=95, subsampling=0)
    assert_used(decode(with_segment(jpeg, marker, content)), decode(jpeg).pixels)


def test_a_broken_index_of_more_images_costs_no_photo(decode):
    index = b"MPF\0II*\0\x08\0\0\0\1\0\1\xb0\4\0\1\0\0\0\2\0\0\0\0\0\0\0"
    jpeg = encode(IMAGE, "JPEG", quality=95)
    for content in (index, index[:20], b"MPF\0", b"MPF\0II*\0\xff\xff\xff\xff"):
        np.testing.assert_array_equal(decode(with_segment(jpeg, 0xE2, content)).pixels, decode(jpeg).pixels)


def test_empty_exif_data_are_not_damaged(decode):
    """Some programs leave them behind."""
    assert decode(with_segment(encode(IMAGE, "JPEG"), 0xE1, b"Exif\0\0")).notes == ()


def test_sound_exif_of_a_jpeg_turns_it(decode):
    jpeg = encode(IMAGE, "JPEG", quality=95, subsampling=0, exif=exif())
    whole = decode(jpeg, TURNED.shape[:2])
    assert whole.notes == ()
    np.testing.assert_allclose(whole.pixels.astype(int).mean((0, 1)), TURNED.mean((0, 1)), atol=3)
    assert_used(decode(with_segment(jpeg, 0xE2, b"ICC_PROFILE\0\1"), TURNED.shape[:2]), whole.pixels)


def with_thumbnail(orientation):
    """EXIF data as cameras write them: the thumbnail is a JPEG of its own."""
    return exif(orientation).tobytes() + encode(Image.new("RGB", (16, 16), "lime"), "JPEG")


@pytest.mark.parametrize("length", [0, 2, 9, 20, 500, 0xFFFF])
@pytest.mark.parametrize("marker", [b"\xff\xe0", b"\xff\xe1", b"\xff\xe2", b"\xff\xfe"])
def test_a_jpeg_with_a_damaged_length_shows_the_photo_and_not_its_thumbnail(decode, marker, length):
    jpeg = encode(
        IMAGE, "JPEG", quality=95, subsampling=0, exif=with_thumbnail(1), icc_profile=ICC, comment=b"text" * 9
    )
    at = jpeg.index(marker) + 2
    made = decode(jpeg[:at] + struct.pack(">H", length) + jpeg[at + 2 :])
    np.testing.assert_array_equal(made.pixels, decode(jpeg).pixels)


def test_sound_exif_behind_a_damaged_length_turns_the_image(decode):
    jpeg = encode(IMAGE, "JPEG", quality=95, subsampling=0, exif=with_thumbnail(6))
    sound = decode(jpeg, TURNED.shape[:2])
    assert sound.notes == ()
    at = jpeg.index(b"\xff\xe0") + 2
    assert_used(decode(jpeg[:at] + b"\xff\xff" + jpeg[at + 2 :], TURNED.shape[:2]), sound.pixels)


def test_the_colours_of_a_jpeg_survive_the_loss_of_metadata(decode):
    """Adobe's segment is kept. Here nothing else says that the channels are red, green and blue."""
    jpeg = encode(IMAGE, "JPEG", quality=95, subsampling=0, keep_rgb=True)
    for named, numbered in [(b"R\x11\0G\x11\0B\x11\0", b"\1\x11\0\2\x11\0\3\x11\0"), (b"R\0G\0B\0", b"\1\0\2\0\3\0")]:
        assert named in jpeg
        jpeg = jpeg.replace(named, numbered)
    np.testing.assert_allclose(decode(jpeg).pixels.astype(int), PIXELS, atol=20)
    assert_used(decode(with_segment(jpeg, 0xE2, b"ICC_PROFILE\0\1")), PIXELS, atol=20)


def test_the_inks_of_a_jpeg_survive_the_loss_of_metadata(decode):
    jpeg = encode(Image.new("CMYK", (48, 32), (0, 255, 0, 0)), "JPEG", quality=95)
    sound, damaged = decode(jpeg), decode(with_segment(jpeg, 0xE2, b"ICC_PROFILE\0\1"))
    np.testing.assert_array_equal(damaged.pixels, sound.pixels)
    assert damaged.notes == (DAMAGED, *sound.notes)


WEBP = encode(IMAGE, "WEBP", lossless=True, exif=exif().tobytes(), icc_profile=ICC, xmp=XMP)


@pytest.mark.parametrize("kind", [b"ICCP", b"XMP "])
@pytest.mark.parametrize("length", [b"\xff\xff\xff\x7f", b"\x01\0\0\0", b"\0\0\0\0"])
def test_a_webp_with_a_damaged_length_is_used_and_turned(decode, kind, length):
    at = WEBP.index(kind)
    made = decode(WEBP[: at + 4] + length + WEBP[at + 8 :], TURNED.shape[:2])
    np.testing.assert_array_equal(made.pixels, TURNED)


def test_a_webp_with_damaged_exif_is_used(decode):
    damaged = re.sub(rb"MM\0\*|II\*\0", b"abcd", WEBP)
    assert damaged != WEBP
    assert_used(decode(damaged))


def test_a_tiff_with_damaged_metadata_is_used(decode):
    """A description, a profile and an EXIF directory that lie behind the end of the file."""
    for options in ({}, {"compression": "tiff_lzw"}):
        sound = encode(IMAGE, "TIFF", description="text" * 9, icc_profile=ICC, exif=exif(1), **options)
        start = int.from_bytes(sound[4:8], "little")
        for i in range(int.from_bytes(sound[start : start + 2], "little")):
            entry = start + 2 + 12 * i
            if int.from_bytes(sound[entry : entry + 2], "little") in (270, 34675, 34665):
                damaged = sound[: entry + 8] + b"\xf0\xff\xff\xff" + sound[entry + 12 :]
                np.testing.assert_array_equal(decode(damaged).pixels, PIXELS)


@pytest.mark.parametrize("kind", ["I", "H", "B"])
@pytest.mark.parametrize("value", [0, 8, 200, 0xF0])
@pytest.mark.parametrize("tag", [34665, 34853, 40965, 330])
def test_a_tiff_with_a_broken_directory_is_used(decode, tag, kind, value):
    """EXIF, GPS and others, which lie in the header, the pixels, beyond the end, or in the image's own directory."""
    value = {200: 208, 0xF0: 0xFFFF_FFF0 if kind == "I" else 0xF0}.get(value, value)
    tags = [(258, "H", (8,)), (262, "H", (1,)), (277, "H", (1,)), (tag, kind, (value,))]
    pixels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    made = decode(tiff(20, 10, pixels.tobytes(), tags), (10, 20), channels=1)
    np.testing.assert_array_equal(made.pixels[..., 0], pixels)


GIF = encode(IMAGE.quantize(16), "GIF", comment=b"a comment " * 9)


@pytest.mark.parametrize("length", [0, 1, 50, 255])
def test_a_gif_with_a_damaged_comment_is_used(decode, length):
    at = GIF.index(b"!\xfe") + 2
    sound = decode(GIF).pixels
    made = decode(GIF[:at] + bytes([length]) + GIF[at + 1 :])
    np.testing.assert_array_equal(made.pixels, sound)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow is built without AVIF")
def test_an_avif_with_damaged_exif_is_used_and_turned(decode):
    """Its turn is a box of its own."""
    data = encode(IMAGE, "AVIF", quality=95, exif=exif(), xmp=XMP)
    sound = decode(data, TURNED.shape[:2])
    assert sound.notes == ()
    damaged = re.sub(rb"(MM\0\*|II\*\0)", b"abcd", data)
    assert damaged != data
    assert_used(decode(damaged, TURNED.shape[:2]), sound.pixels)


def test_a_heic_with_damaged_exif_is_used(decode):
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(IMAGE.resize((64, 64))).save(file, quality=95, exif=exif(1).tobytes())
    sound = decode(file.getvalue())
    damaged = re.sub(rb"(MM\0\*|II\*\0)", b"abcd", file.getvalue())
    np.testing.assert_array_equal(decode(damaged).pixels, sound.pixels)


# Random damage

FULL = with_chunks(
    encode(IMAGE, "PNG", exif=exif(), icc_profile=ICC, dpi=(72, 72)),
    chunk(b"tEXt", b"Title\0a title"),
    chunk(b"zTXt", b"Text\0\0" + zlib.compress(b"a text" * 50)),
    chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
)


def test_no_damage_within_the_metadata_of_a_png_costs_the_image(decode):
    """Any bits of any ancillary chunk, its length and its name among them, except where one becomes a critical one."""
    randoms, position = random.Random(0), len(SIGNATURE)
    for kind, data in chunks(FULL):
        end = position + 12 + len(data)
        for _ in range(20 * kind[:1].islower()):
            damaged = bytearray(FULL)
            for _ in range(randoms.choice((1, 4))):
                damaged[randoms.randrange(position, end)] ^= 1 << randoms.randrange(8)
            if damaged[position + 4 : position + 8].islower():
                made = decode(bytes(damaged), (48, 48))
                turned, upright = (decode(encode(IMAGE, "PNG", **o), (48, 48)).pixels for o in ({"exif": exif()}, {}))
                assert any(np.array_equal(made.pixels, wanted) for wanted in (turned, upright))
                assert made.notes == (DAMAGED,)
        position = end


# Memory and time


def test_the_file_that_is_read_again_counts_within_the_budget(decode, monkeypatch):
    budget = decode_module.MEMORY
    held = []
    monkeypatch.setattr(decode_module, "MEMORY", type(budget)(budget.limit))
    monkeypatch.setattr(decode_module.MEMORY, "_is_full", lambda size: held.append(size) or False)
    stripped = next(strip_metadata(PNG))
    decode(with_chunks(PNG, PNG_DAMAGE["a wrong checksum of text"]))
    assert held == [12 * 48 * 32 + 2 * len(stripped)]


def test_a_large_file_is_not_read_again(decode, monkeypatch):
    damaged = with_chunks(PNG, PNG_DAMAGE["a wrong checksum of text"])
    monkeypatch.setattr(decode_module, "_MAX_STRIPPED", len(damaged))
    assert_used(decode(damaged))
    monkeypatch.setattr(decode_module, "_MAX_STRIPPED", len(damaged) - 1)
    with pytest.raises(ImageError, match="is not a PNG, JPEG"):
        decode(damaged)


def test_an_image_that_would_be_refused_again_is_not_read_again(decode, monkeypatch):
    monkeypatch.setattr(decode_module, "strip_metadata", lambda data: pytest.fail("read again"))
    with pytest.raises(ImageError, match="is more than max_pixels"):
        decode(PNG, max_pixels=10)
    with pytest.raises(ImageError, match="has mode F"):
        decode(encode(Image.new("F", (8, 8)), "TIFF"))


# Pixels


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("JPEG", {}), ("WEBP", {}), ("GIF", {}), ("BMP", {})])
def test_damaged_metadata_do_not_excuse_pixels_that_are_cut(decode, format, options, kept):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(pixels), format, **options)
    if format == "PNG":
        data = with_chunks(data, PNG_DAMAGE["a wrong checksum of text"])
    if format == "JPEG":
        data = with_segment(data, 0xE2, b"ICC_PROFILE\0\1")
    with pytest.raises(ImageError):
        decode(data[: int(kept * len(data))])


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE"])
def test_a_critical_chunk_with_a_wrong_checksum_is_refused(decode, kind):
    png = encode(IMAGE.quantize(8), "PNG")
    parts = [chunk(k, data, crc=1 if k == kind else None) for k, data in chunks(png)]
    with pytest.raises(ImageError, match="is not a PNG, JPEG.* or a damaged or rare one"):
        decode(SIGNATURE + b"".join(parts))


def test_only_what_the_pixels_depend_on_is_kept():
    with_exif, without = strip_metadata(FULL)
    assert [kind for kind, _ in chunks(with_exif)] == [b"IHDR", b"eXIf", b"IDAT", b"IEND"]
    assert [kind for kind, _ in chunks(without)] == [b"IHDR", b"IDAT", b"IEND"]
    assert list(strip_metadata(b"BM" + bytes(60))) == []


@pytest.mark.parametrize(
    "data", [b"", SIGNATURE, b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"II*\0", b"GIF89a", b"\0\0\0\x18ftypavif"]
)
def test_files_that_end_at_once_are_no_trouble(data):
    for cut in range(len(data), len(data) + 9):
        assert all(len(stripped) <= len(data) + 24 for stripped in strip_metadata(data.ljust(cut, b"\xff")))


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"", True),
        (exif().tobytes(), True),
        (exif().tobytes()[:20], False),
        (b"Exif\0\0MM\0*\0\0\0\x08\0\0", True),
        (b"II*\0\x08\0\0\0\1\0", False),
        (b"II*\0\xff\xff\xff\xff", False),
    ],
)
def test_exif_data_that_end_within_their_directory_are_not_whole(data, whole):
    assert is_whole_exif(data) == whole
