"""Every format that is read shows its colours, upright; every other one is refused."""

import io
import struct
import sys

import numpy as np
import pytest
from handmade import encode
from PIL import Image, features

from diffusion_jax.data.sources import formats
from diffusion_jax.data.sources.decode import Decoder
from diffusion_jax.data.sources.formats import ImageError, explain_missing, open_image, read_suffixes

avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow is built without AVIF")
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def decode(tmp_path):
    """Decodes the bytes of a file, whatever its name."""

    def run(data, size=(16, 16), name="x.png", **settings):
        (tmp_path / name).write_bytes(data)
        defaults = {"channels": 3, "crop": "squash", "background": "white", "max_pixels": 10_000}
        return Decoder(size, **(defaults | settings))(tmp_path / name)

    return run


def quarters():
    """Red and green above blue and white, 32x16."""
    image = Image.new("RGB", (32, 16), WHITE)
    for colour, box in [(RED, (0, 0, 16, 8)), (GREEN, (16, 0, 32, 8)), (BLUE, (0, 8, 16, 16))]:
        image.paste(colour, box)
    return image


def assert_quarters(pixels, atol=0):
    """Away from the edges, where lossy formats and the resize mix colours."""
    corners = pixels[[2, 2, -3, -3], [2, -3, 2, -3]]
    np.testing.assert_allclose(corners, [RED, GREEN, BLUE, WHITE], atol=atol)


FORMATS = [
    ("PNG", {}, 0),
    ("JPEG", {"quality": 95, "subsampling": 0}, 6),
    ("WEBP", {"lossless": True}, 0),
    ("BMP", {}, 0),
    ("DIB", {}, 0),
    ("TIFF", {}, 0),
    ("TIFF", {"compression": "tiff_lzw"}, 0),
    ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
    ("TIFF", {"compression": "packbits"}, 0),
    ("TIFF", {"compression": "jpeg", "quality": 95}, 12),
    ("GIF", {}, 0),
    pytest.param("AVIF", {"quality": 95}, 12, marks=avif),
]


@pytest.mark.parametrize(("format", "options", "atol"), FORMATS)
def test_colours_are_right_in_every_format(decode, format, options, atol):
    decoded = decode(encode(quarters(), format, **options))
    assert_quarters(decoded.pixels, atol)
    assert decoded.notes == ()


@pytest.mark.parametrize(
    ("mode", "format", "options"),
    [
        ("1", "TIFF", {}),
        ("1", "TIFF", {"compression": "group4"}),
        ("1", "BMP", {}),
        ("L", "BMP", {}),
        ("L", "TIFF", {}),
        ("L", "GIF", {}),
        ("P", "BMP", {}),
        ("P", "TIFF", {}),
        ("P", "TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_black_and_white_grey_and_palettes_are_read(decode, mode, format, options):
    image = Image.new("RGB", (16, 16), "white")
    image.paste("black", (0, 0, 8, 16))
    decoded = decode(encode(image.convert(mode), format, **options))
    np.testing.assert_array_equal(decoded.pixels[:, :8], 0)
    np.testing.assert_array_equal(decoded.pixels[:, 8:], 255)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "BMP", pytest.param("AVIF", marks=avif)])
def test_half_transparent_red_is_pink_on_white(decode, format):
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 51))
    shown = (255, 0, 0) if format == "BMP" else (255, 204, 204)  # Pillow writes the alpha of a BMP, and reads none
    np.testing.assert_allclose(decode(encode(image, format)).pixels[8, 8], shown, atol=4)


def test_the_transparent_colour_of_a_gif_shows_the_background(decode):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([*RED, *BLUE])
    image.paste(0, (0, 0, 8, 16))
    decoded = decode(encode(image, "GIF", transparency=0), background="lime")
    assert decoded.pixels[8, [2, -3]].tolist() == [list(GREEN), list(BLUE)]


# Orientation, by the table of the EXIF standard

SHOWN = [
    lambda x: x,
    lambda x: x[:, ::-1],
    lambda x: x[::-1, ::-1],
    lambda x: x[::-1],
    lambda x: x.swapaxes(0, 1),
    lambda x: np.rot90(x, -1),
    lambda x: np.rot90(x, 2).swapaxes(0, 1),
    lambda x: np.rot90(x),
]


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        pytest.param("AVIF", {"quality": 100, "subsampling": "4:4:4"}, marks=avif),
    ],
)
def test_images_stand_upright(decode, format, options):
    """PNG and JPEG are in test_decode.py."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    for orientation, shown in enumerate(SHOWN, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        decoded = decode(encode(Image.fromarray(pixels), format, exif=exif, **options), shown(pixels).shape[:2])
        np.testing.assert_allclose(decoded.pixels, shown(pixels), atol=12 if format == "AVIF" else 0)
        assert decoded.notes == ()


# Several frames


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "PNG", pytest.param("AVIF", marks=avif)])
def test_the_first_frame_is_used_and_told(decode, format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    decoded = decode(encode(frames[0], format, save_all=True, append_images=frames[1:]))
    np.testing.assert_allclose(decoded.pixels[8, 8], RED, atol=4)
    assert decoded.notes == ("several frames or pages, of which the first is used",)


def test_of_the_two_images_of_a_phone_the_photo_is_used(decode):
    """MPO: a preview or a depth map follows, of which nobody wants to hear for each photo."""
    photo, preview = quarters(), Image.new("RGB", (8, 8), "black")
    decoded = decode(encode(photo, "MPO", save_all=True, append_images=[preview], quality=95), name="x.jpg")
    assert_quarters(decoded.pixels, atol=60)
    assert decoded.notes == ()


def gif(screen, frame, offset, background=0, transparent=None):
    """A red frame somewhere on a canvas; the palette has black, green, red and blue."""
    palette = bytes([0, 0, 0, *GREEN, *RED, *BLUE])
    image = Image.new("P", frame, 2)
    image.putpalette(palette)
    written = encode(image, "GIF", optimize=False)
    body = bytearray(written[written.index(b",\0\0\0\0") :])
    body[1:5] = struct.pack("<HH", *offset)
    control = b"" if transparent is None else b"!\xf9\x04\x01\0\0" + bytes([transparent, 0])
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0x81, background, 0) + palette + control + bytes(body)


@pytest.mark.parametrize("background", [0, 1, 3])
@pytest.mark.parametrize("transparent", [None, 0, 3])
def test_a_gif_is_empty_where_its_first_frame_does_not_reach(decode, background, transparent):
    """As browsers show it; Pillow fills in the colour 0 of the palette."""
    data = gif((4, 1), (2, 1), (1, 0), background, transparent)
    assert decode(data, (1, 4), background="yellow").pixels[0].tolist() == [
        [255, 255, 0],
        list(RED),
        list(RED),
        [255, 255, 0],
    ]


def test_a_gif_whose_frame_is_larger_than_its_canvas(decode):
    assert decode(gif((1, 1), (4, 2), (0, 0)), (2, 4)).pixels.tolist() == [[list(RED)] * 4] * 2


# HEIC


def heic(image, **options):
    """Lossy, and with colours at half the resolution."""
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(image).save(file, quality=95, **options)
    return file.getvalue()


def test_heic_is_read_with_the_extra(decode):
    decoded = decode(heic(quarters().resize((64, 64), Image.Resampling.NEAREST)))
    assert_quarters(decoded.pixels, atol=12)
    assert decoded.notes == ()
    half = Image.new("RGBA", (64, 64), (255, 0, 0, 51))
    np.testing.assert_allclose(decode(heic(half)).pixels[8, 8], (255, 204, 204), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_stands_upright(decode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = quarters().resize((64, 64), Image.Resampling.NEAREST)
    made = decode(heic(image, exif=exif.tobytes())).pixels
    wanted = SHOWN[orientation - 1](decode(heic(image)).pixels)
    np.testing.assert_allclose(made.astype(int), wanted, atol=12)


def test_heic_of_more_bits_is_reduced_and_told(decode):
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_bytes("RGB;16", (64, 64), np.full((64, 64, 3), 40_000, np.uint16).tobytes()).save(file, quality=95)
    decoded = decode(file.getvalue())
    np.testing.assert_allclose(decoded.pixels, 40_000 / 257, atol=2)
    assert decoded.notes == ("more than 8 bits per channel, reduced to 8",)


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats._heif.cache_clear()
    yield
    formats._heif.cache_clear()


def test_without_the_extra_heic_is_refused_with_what_to_install(decode, without_heif):
    """The first bytes of an iPhone's photo, also in a file that is called .jpg."""
    photo = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100)
    with pytest.raises(ImageError, match=r'^is a HEIC file; pip install "diffusion_jax\[heic\]"$'):
        decode(photo, name="IMG_0001.jpg")
    assert ".heic" not in read_suffixes()
    assert explain_missing({".heic", ".txt"}) == '; for HEIC: pip install "diffusion_jax[heic]"'
    assert explain_missing({".txt"}) == ""
    assert "HEIC" not in formats.make_format_stamp()


def test_pillow_itself_does_not_learn_heic(decode):
    """A program that uses both must not find its own list of formats changed."""
    data = heic(Image.new("RGB", (64, 64)))
    decode(data)
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(data))


# Names and limits


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.jfif"])
@pytest.mark.parametrize("format", ["JPEG", "GIF", "TIFF", "PNG"])
def test_the_name_does_not_matter(decode, name, format):
    np.testing.assert_allclose(
        decode(encode(Image.new("RGB", (16, 16), RED), format), name=name).pixels[8, 8], RED, atol=2
    )


def test_the_endings_are_those_of_the_formats():
    assert {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"} <= set(
        read_suffixes()
    )
    assert (".avif" in read_suffixes()) == features.check("avif")
    assert not {".eps", ".pdf", ".psd", ".svg", ".tga", ".jp2", ".ico", ".ps"} & set(read_suffixes())


@pytest.mark.parametrize(
    "format", ["PNG", "BMP", "DIB", "TIFF", "GIF", "JPEG", "WEBP", pytest.param("AVIF", marks=avif)]
)
def test_the_size_is_checked_before_decoding(decode, format, monkeypatch):
    data = encode(Image.new("RGB", (101, 100)), format)
    monkeypatch.setattr(Decoder, "_pixels", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="101x100 is more than max_pixels = 10000"):
        decode(data)


def test_the_size_of_heic_is_checked_before_decoding(decode, monkeypatch):
    data = heic(Image.new("RGB", (128, 100)))
    monkeypatch.setattr(Decoder, "_pixels", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="128x100 is more than max_pixels = 10000"):
        decode(data)


@pytest.mark.parametrize(
    "format", ["BMP", "TIFF", "GIF", "PNG", "JPEG", "WEBP", pytest.param("AVIF", marks=avif), "HEIC"]
)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused(decode, format, kept):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    options = {"compression": "tiff_lzw"} if format == "TIFF" else {}
    data = heic(image) if format == "HEIC" else encode(image, format, **options)
    with pytest.raises(ImageError) as error:
        decode(data[: int(kept * len(data))])
    assert "\n" not in str(error.value)


def test_an_image_of_another_kind_is_left_to_other_programs():
    """A PostScript file would start Ghostscript."""
    with pytest.raises(ImageError, match="is not a PNG, JPEG"):
        open_image(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"))
