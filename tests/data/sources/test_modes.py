"""Modes beyond 8-bit grey and RGB, by the definition of each."""

import struct
import zlib

import numpy as np
import pytest
from handmade import chunk, chunks, cmyk_profile, encode, grey_tiff, tiff, with_chunks
from PIL import Image, ImageCms

from diffusion_jax.data.sources.decode import Decoder
from diffusion_jax.data.sources.formats import ImageError
from diffusion_jax.data.sources.modes import DAMAGED, to_eight_bits

SCALED = ("16-bit grey, scaled to 8 bits",)
REDUCED = "more than 8 bits per channel, reduced to 8"
PLAIN = "CMYK without a profile, converted to RGB by the plain formula"


@pytest.fixture
def decode(tmp_path):
    def run(data, size, **settings):
        (tmp_path / "x").write_bytes(data)
        defaults = {"channels": 3, "crop": "squash", "background": "white", "max_pixels": 10_000}
        return Decoder(size, **(defaults | settings))(tmp_path / "x")

    return run


def row(decoded):
    """The levels of a grey row."""
    pixels = decoded.pixels[0]
    assert (pixels == pixels[:, :1]).all()
    return pixels[:, 0].tolist()


# 16-bit grey

VALUES = [0, 128, 129, 257, 32_767, 32_768, 65_406, 65_407, 65_535]
LEVELS = [0, 0, 1, 1, 127, 128, 254, 255, 255]  # v / 257 = 0.498, 0.502, ..., 127.498, 127.502, 254.498, 254.502


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_tiff_is_scaled(decode, order):
    decoded = decode(grey_tiff(VALUES, order=order), (1, 9))
    assert row(decoded) == LEVELS
    assert decoded.notes == SCALED


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_16_bit_tiff_is_scaled(decode, compression):
    image = Image.fromarray(np.array([VALUES], np.uint16))
    assert row(decode(encode(image, "TIFF", compression=compression), (1, 9))) == LEVELS


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_png_is_scaled(decode, channels):
    image = Image.fromarray(np.array([VALUES], np.uint16))
    decoded = decode(encode(image, "PNG"), (1, 9), channels=channels)
    assert row(decoded) == LEVELS
    assert decoded.notes == SCALED


def test_a_tall_16_bit_image_is_scaled_to_its_last_row(decode):
    """It is scaled some rows at a time."""
    values = (np.arange(1000) * 65).astype(np.uint16)[:, None].repeat(2, 1)
    made = decode(encode(Image.fromarray(values), "PNG"), (1000, 2)).pixels[..., 0]
    np.testing.assert_allclose(made, values / 257, atol=0.5)


def test_white_may_be_zero(decode):
    """Scanners and microscopes write it; Pillow turns only 8 bits around."""
    assert row(decode(grey_tiff(VALUES, photometric=0), (1, 9))) == [255 - level for level in LEVELS]
    assert row(decode(grey_tiff([0, 5, 255, 100], bits=8, photometric=0), (1, 4))) == [255, 250, 0, 155]


def test_12_bits_are_scaled_from_their_own_white(decode):
    decoded = decode(grey_tiff([0, 8, 9, 2048, 4086, 4095], bits=12), (1, 6))
    assert row(decoded) == [0, 0, 1, 128, 254, 255]  # v / 16.06
    assert decoded.notes == SCALED


@pytest.mark.parametrize("value", [32_768, 32_769])
def test_the_transparent_level_of_a_16_bit_png_is_that_level_only(decode, value):
    image = Image.fromarray(np.array([[0, value, 65_535]], np.uint16))
    data = encode(image, "PNG", transparency=32_768)
    wanted = [255, 0, 0] if value == 32_768 else [128] * 3
    assert decode(data, (1, 3), background="red").pixels[0].tolist() == [[0] * 3, wanted, [255] * 3]


def test_16_bits_per_channel_are_reduced_and_told(decode):
    pixels = struct.pack("<6H", 65_535, 0, 32_768, 0, 65_535, 25_700)
    tags = [(258, "H", (16, 16, 16)), (262, "H", (2,)), (277, "H", (3,))]
    decoded = decode(tiff(2, 1, pixels, tags), (1, 2))
    np.testing.assert_allclose(decoded.pixels[0], [[255, 0, 128], [0, 255, 100]], atol=1)
    assert decoded.notes == (REDUCED,)


@pytest.mark.parametrize(
    ("kind", "channels", "shown"), [(2, 3, [255, 0, 128]), (6, 4, [255, 0, 128]), (4, 2, [255] * 3)]
)
def test_16_bit_png_of_several_channels_is_reduced_and_told(decode, kind, channels, shown):
    """RGB, RGBA and grey with alpha."""
    line = struct.pack(">4H", 65_535, 0 if channels > 2 else 65_535, 32_768, 65_535)[: 2 * channels]
    png = encode(Image.new("RGB", (1, 1)), "PNG")
    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, kind, 0, 0, 0)),
        chunk(b"IDAT", zlib.compress(b"\0" + line)),
        chunk(b"IEND", b""),
    ]
    decoded = decode(png[:8] + b"".join(parts), (1, 1))
    np.testing.assert_allclose(decoded.pixels[0, 0], shown, atol=1)
    assert decoded.notes == (REDUCED,)


# CMYK


@pytest.mark.parametrize("options", [{"format": "JPEG", "quality": 100}, {"format": "TIFF"}])
def test_cmyk_without_a_profile_is_the_plain_formula(decode, options):
    for ink, shown in [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 100, 200, 0), (255, 155, 55)),
    ]:
        decoded = decode(encode(Image.new("CMYK", (8, 8), ink), **options), (1, 1))
        np.testing.assert_allclose(decoded.pixels[0, 0], shown, atol=2)
        assert decoded.notes == (PLAIN,)


def srgb_of_grey(lightness):
    """The level of a neutral grey of CIE L*, by the formulas of CIE Lab and sRGB."""
    y = ((lightness + 16) / 116) ** 3
    return 255 * (1.055 * y ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("options", [{"format": "JPEG", "quality": 100}, {"format": "TIFF"}])
def test_cmyk_is_converted_through_its_profile(decode, options):
    """The paper of this profile is white, its cyan ink a mid grey, its magenta ink a dark one."""
    profile = cmyk_profile({(0, 0, 0, 0): (100, 0, 0), (1, 0, 0, 0): (50, 0, 0), (0, 1, 0, 0): (20, 0, 0)})
    for ink, lightness in [((0, 0, 0, 0), 100), ((255, 0, 0, 0), 50), ((0, 255, 0, 0), 20)]:
        decoded = decode(encode(Image.new("CMYK", (8, 8), ink), icc_profile=profile, **options), (1, 1))
        np.testing.assert_allclose(decoded.pixels[0, 0], srgb_of_grey(lightness), atol=2)
        assert decoded.notes == ("CMYK, converted to RGB with its profile",)


def rgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("profile", [b"garbage", cmyk_profile({})[:200], rgb_profile()], ids=["text", "cut", "of RGB"])
@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_a_profile_that_cannot_be_used_counts_as_damaged_metadata(decode, profile, format):
    decoded = decode(encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), format, icc_profile=profile), (1, 1))
    np.testing.assert_allclose(decoded.pixels[0, 0], (0, 255, 255), atol=2)
    assert decoded.notes == (DAMAGED, "CMYK with a damaged profile, converted to RGB by the plain formula")


# Others


def test_luma_and_chroma_are_converted(decode):
    """Red, by the equations of JFIF."""
    tags = [(258, "H", (8, 8, 8)), (262, "H", (6,)), (277, "H", (3,)), (530, "H", (1, 1))]
    decoded = decode(tiff(2, 1, bytes([76, 85, 255, 255, 128, 128]), tags), (1, 2))
    np.testing.assert_allclose(decoded.pixels[0], [(255, 0, 0), (255, 255, 255)], atol=2)
    assert decoded.notes == ("mode YCbCr, converted to RGB",)


def test_grey_that_is_multiplied_with_its_alpha(decode):
    """50 at an opacity of a half is grey 100; on white half of it is seen, and half of the white."""
    tags = [(258, "H", (8, 8)), (262, "H", (1,)), (277, "H", (2,)), (338, "H", (1,))]
    decoded = decode(tiff(2, 1, bytes([50, 128, 0, 0]), tags), (1, 2))
    np.testing.assert_allclose(row(decoded), [50 + 127, 255], atol=1)
    assert decoded.notes == ("mode La, converted to RGB",)


@pytest.mark.parametrize(
    ("mode", "value", "shown"),
    [("RGBX", (10, 20, 30, 0), (10, 20, 30, 255)), ("RGBa", (50, 0, 25, 128), (100, 0, 50, 128))],
)
def test_modes_of_earlier_versions_of_pillow(mode, value, shown):
    made, notes = to_eight_bits(Image.new(mode, (1, 1), value))
    np.testing.assert_allclose(made.convert("RGBA").getpixel((0, 0)), shown, atol=1)
    assert notes == (f"mode {mode}, converted to RGB",)


def test_32_bit_integers_of_a_png_are_the_16_bits_of_earlier_versions_of_pillow():
    image = Image.fromarray(np.array([VALUES], np.int32))
    image.format = "PNG"
    made, notes = to_eight_bits(image)
    assert np.asarray(made)[0].tolist() == LEVELS
    assert notes == SCALED


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bits": 32}, "has mode I .32-bit integers, of which black and white are not known.; save it as"),
        ({"bits": 32, "sample_format": 3}, "has mode F .floats, of which black and white are not known.; save it as"),
        ({"bits": 16, "sample_format": 2}, "has signed integers, of which black and white are not known; save it as"),
        ({"bits": 8, "sample_format": 2}, "has signed integers, of which black and white are not known; save it as"),
    ],
)
def test_numbers_without_a_certain_black_and_white_are_refused(decode, options, says):
    with pytest.raises(ImageError, match=says):
        decode(grey_tiff([0, 1, 2, 3], **options), (1, 4))


def test_cie_lab_is_refused(decode):
    tags = [(258, "H", (8, 8, 8)), (262, "H", (8,)), (277, "H", (3,))]
    with pytest.raises(ImageError, match="has mode LAB .CIE Lab.; save it as"):
        decode(tiff(2, 1, bytes(6), tags), (1, 2))


def test_tiles_beyond_the_image_are_a_bomb_too(decode):
    """One pixel, in a tile that would take 3.6 GB."""
    tags = [(258, "H", (8,)), (262, "H", (1,)), (277, "H", (1,)), (322, "I", (60_000,)), (323, "I", (60_000,))]
    tags += [(324, "I", (8,)), (325, "I", (100,))]
    with pytest.raises(ImageError, match="has tiles of 60000x60000, more than max_pixels"):
        decode(tiff(1, 1, bytes(100), tags), (1, 1))


def test_plain_images_have_no_notes(decode):
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        assert decode(encode(Image.new(mode, (8, 8)), "PNG"), (8, 8)).notes == ()


def test_the_handmade_chunks_are_those_of_a_writer():
    png = encode(Image.new("RGB", (2, 2)), "PNG")
    assert png[:8] + b"".join(chunk(*parts) for parts in chunks(png)) == png
    assert [kind for kind, _ in chunks(with_chunks(png, chunk(b"tEXt", b"a\0b")))] == [
        b"IHDR",
        b"tEXt",
        b"IDAT",
        b"IEND",
    ]


@pytest.mark.parametrize(("brightest", "is_told"), [(1023, True), (4095, True), (20_000, False), (65_535, False)])
def test_grey_of_few_bits_in_16_is_told_because_it_comes_out_dark(decode, brightest, is_told):
    pixels = np.linspace(0, brightest, 64).astype(np.uint16).reshape(8, 8)
    decoded = decode(encode(Image.fromarray(pixels), "PNG"), (8, 8), channels=1)
    assert any("nearly black; scale its brightest value to 65535" in note for note in decoded.notes) == is_told
    assert decoded.pixels.max() == round(brightest / 257)
