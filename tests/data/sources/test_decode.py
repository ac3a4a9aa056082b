import contextlib
import itertools
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, features

from diffusion_jax.data.sources import decode
from diffusion_jax.data.sources.budget import Budget
from diffusion_jax.data.sources.decode import Decoder
from diffusion_jax.data.sources.formats import ImageError

avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow is built without AVIF")

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def decoder(size=(8, 8), **settings):
    """Path -> pixels; `decode_all` gives the notes too."""
    decode_path = decode_all(size, **settings)
    return lambda path: decode_path(path).pixels


def decode_all(size=(8, 8), **settings):
    defaults = {"channels": 3, "crop": "center", "background": "white", "max_pixels": 10_000}
    return Decoder(size, **(defaults | settings))


def noise(height=8, width=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def bands(*colours, width=10, height=20):
    """Vertical bands of one colour each, from left to right."""
    row = np.repeat(np.array(colours, np.uint8), width, axis=0)
    return np.broadcast_to(row, (height, *row.shape)).copy()


@pytest.fixture
def saved(tmp_path):
    """Writes pixels to a file and returns its path."""

    def save(pixels, name="x.png", **options):
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.squeeze())
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


# Formats


@pytest.mark.parametrize(("name", "options"), [("x.png", {}), ("x.webp", {"lossless": True}), ("x.PNG", {})])
def test_a_lossless_image_of_the_right_size_comes_back_exactly(saved, name, options):
    made = decoder()(saved(noise(), name, **options))
    assert (made.dtype, made.shape) == (np.uint8, (8, 8, 3))
    np.testing.assert_array_equal(made, noise())


def test_jpeg_comes_back_nearly(saved):
    smooth = np.linspace(0, 255, 8 * 8 * 3).reshape(8, 8, 3).astype(np.uint8)
    np.testing.assert_allclose(decoder()(saved(smooth, "x.jpg", quality=100, subsampling=0)), smooth, atol=4)


def test_the_content_decides_on_the_format_not_the_name(saved):
    np.testing.assert_array_equal(decoder()(saved(noise(), "x.jpg", format="PNG")), noise())


def test_of_an_animation_the_first_frame_is_taken(saved):
    frames = [Image.fromarray(noise(seed=i)) for i in range(3)]
    path = saved(frames[0], "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(decoder()(path), noise(seed=0))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_grey_and_palette_become_what_they_look_like(saved, mode):
    black_and_white = bands((0, 0, 0), WHITE, width=4, height=8)
    made = decoder()(saved(Image.fromarray(black_and_white).convert(mode)))
    np.testing.assert_array_equal(made, black_and_white)


def test_one_channel_is_luma(saved):
    made = decoder(channels=1)(saved(bands(RED, GREEN, BLUE, WHITE, width=2, height=8)))
    assert made.shape == (8, 8, 1)
    # The weights of ITU-R 601.
    np.testing.assert_allclose(made[0, ::2, 0], [0.299 * 255, 0.587 * 255, 0.114 * 255, 255], atol=1)


# Transparency


@pytest.mark.parametrize(
    ("background", "rgb"),
    [("white", WHITE), ("black", (0, 0, 0)), ("#ff8000", (255, 128, 0)), ("#f80", (255, 136, 0))],
)
@pytest.mark.parametrize("name", ["x.png", "x.webp"])
def test_alpha_is_composited_on_the_background(saved, background, rgb, name):
    pixels = noise(channels=4)
    options = {"lossless": True, "exact": True} if name == "x.webp" else {}
    made = decoder(background=background)(saved(pixels, name, **options))
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(made, alpha * pixels[..., :3] + (1 - alpha) * np.array(rgb), atol=1)


def test_a_hidden_colour_does_not_bleed_at_the_edge(saved):
    """Fully transparent red leaves no trace when the image is reduced."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, :15] = (255, 0, 0, 0)
    pixels[:, 15:] = (0, 0, 255, 255)
    made = decoder(background="black")(saved(pixels))
    assert made[..., 2].max() == 255
    assert made[..., 0].max() == 0


def test_grey_with_alpha(saved):
    image = Image.merge("LA", [Image.new("L", (8, 8), 100), Image.new("L", (8, 8), 51)])
    np.testing.assert_allclose(decoder()(saved(image)), 0.2 * 100 + 0.8 * 255, atol=1)


def test_a_transparent_palette_entry_shows_the_background(saved):
    image = Image.fromarray(np.repeat([0, 1], 4).astype(np.uint8)[None].repeat(8, 0), "P")
    image.putpalette([*RED, *BLUE])
    path = saved(image, transparency=0)
    np.testing.assert_array_equal(decoder(background="lime")(path), bands((0, 255, 0), BLUE, width=4, height=8))


def test_a_transparent_colour_shows_the_background(saved):
    image = Image.fromarray(bands(RED, BLUE, width=4, height=8))
    np.testing.assert_array_equal(
        decoder(background="white")(saved(image, transparency=RED)), bands(WHITE, BLUE, width=4, height=8)
    )


# Orientation, by the table of the EXIF standard


@pytest.mark.parametrize(
    ("orientation", "shown"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.swapaxes(0, 1)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).swapaxes(0, 1)),
        (8, lambda x: np.rot90(x)),
    ],
)
def test_exif_orientation_is_honoured(saved, orientation, shown):
    exif = Image.Exif()
    exif[0x0112] = orientation
    wanted = shown(noise(8, 12))
    made = decoder(wanted.shape[:2])(saved(noise(8, 12), exif=exif))
    np.testing.assert_array_equal(made, wanted)


def test_a_jpeg_is_turned_too(saved):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter clockwise: left comes to the top
    made = decoder()(saved(bands(RED, BLUE, width=8, height=16), "x.jpg", exif=exif, subsampling=0))
    np.testing.assert_allclose(made[0], np.broadcast_to(RED, (8, 3)), atol=4)
    np.testing.assert_allclose(made[-1], np.broadcast_to(BLUE, (8, 3)), atol=4)


# Crop and resize


def colours_across(made):
    """The colours of the middle row, except where they change from one pixel to the next."""
    row = made[made.shape[0] // 2].astype(int)
    calm = [tuple(int(c) for c in x) for x, y in itertools.pairwise(row) if abs(x - y).max() <= 2]
    return list(dict.fromkeys(c for c in calm if c in (RED, GREEN, BLUE, WHITE)))


@pytest.mark.parametrize(
    ("crop", "size", "seen"),
    [
        ("squash", (20, 20), [RED, GREEN, BLUE, WHITE]),
        ("center", (20, 20), [GREEN, BLUE]),
        ("center", (20, 40), [RED, GREEN, BLUE, WHITE]),
        ("center", (40, 80), [RED, GREEN, BLUE, WHITE]),
        ("center", (40, 20), [GREEN, BLUE]),
        ("squash", (10, 40), [RED, GREEN, BLUE, WHITE]),
    ],
)
def test_crop_takes_the_middle_and_squash_everything(saved, crop, size, seen):
    """An image twice as wide as high, of four bands."""
    made = decoder(size, crop=crop)(saved(bands(RED, GREEN, BLUE, WHITE)))
    assert made.shape == (*size, 3)
    assert colours_across(made) == seen


def test_a_tall_image_is_cropped_above_and_below(saved):
    tall = bands(RED, GREEN, BLUE, WHITE).swapaxes(0, 1)
    assert colours_across(decoder((20, 20))(saved(tall)).swapaxes(0, 1)) == [GREEN, BLUE]


def test_a_crop_of_whole_pixels_is_exact(saved):
    np.testing.assert_array_equal(decoder((8, 8))(saved(noise(8, 12))), noise(8, 12)[:, 2:10])


def test_the_crop_keeps_proportions_for_odd_margins_too(saved):
    """Half a pixel is cut from either side of a ramp; the rest is shifted, and as steep as it was."""
    ramp = np.broadcast_to(np.arange(0, 270, 30).astype(np.uint8), (8, 9))
    made = decoder((8, 8))(saved(ramp))[4, :, 0]
    # Far enough from the edges for the kernel, each lies between two of the old ones.
    np.testing.assert_allclose(made[3:5], [105, 135], atol=1)


@pytest.mark.parametrize("shape", [(31, 17), (17, 31), (5, 4), (64, 63)])
def test_the_crop_is_centred_for_odd_margins_too(saved, shape):
    """Turning the image by 180 degrees turns the result."""
    made, turned = (decoder()(saved(x)) for x in (noise(*shape), noise(*shape)[::-1, ::-1]))
    np.testing.assert_allclose(made.astype(int), turned[::-1, ::-1].astype(int), atol=1)


@pytest.mark.parametrize("crop", ["center", "squash"])
def test_the_resize_is_antialiased(saved, crop):
    """A checkerboard of single pixels becomes grey; picking pixels would give black or white or moire."""
    board = (np.indices((64, 96)).sum(0) % 2 * 255).astype(np.uint8)
    made = decoder(crop=crop)(saved(board))
    np.testing.assert_allclose(made, 127.5, atol=3)


def test_a_small_image_is_enlarged_smoothly(saved):
    pixels = bands((0, 0, 0), (200, 200, 200), width=4, height=8)
    row = decoder((32, 32))(saved(pixels))[16, :, 0].astype(int)
    assert (row[2], row[29]) == (0, 200)
    assert 40 < row[15] < row[16] < 160
    np.testing.assert_allclose(row[15] + row[16], 200, atol=1)


# The pixels behind VERSION


def lanczos(size_in, size_out, low, high):
    """Weights [size_out, size_in] of the resampling of low..high, from the definition of the kernel of 3 lobes.

    Reducing widens the kernel by the factor of the reduction; weights outside of the image are left out, and
    those of each row add up to 1.
    """
    scale = (high - low) / size_out
    centre = low + (np.arange(size_out)[:, None] + 0.5) * scale
    x = (np.arange(size_in) + 0.5 - centre) / max(scale, 1)
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(1, keepdims=True)


def resampled(pixels, size, box):
    """Width first, then height, each rounded to whole levels of 0..255; box is left, top, right, bottom."""
    (height, width), (left, top, right, bottom) = size, box

    def rounded(x):
        return np.clip(np.floor(x + 0.5), 0, 255)

    across = rounded(np.einsum("wx,hxc->hwc", lanczos(pixels.shape[1], width, left, right), pixels))
    return rounded(np.einsum("hy,ywc->hwc", lanczos(pixels.shape[0], height, top, bottom), across))


@pytest.mark.parametrize(
    ("shape", "size", "crop", "box"),
    [
        ((31, 45), (8, 8), "center", (7, 0, 38, 31)),
        ((31, 45), (8, 8), "squash", (0, 0, 45, 31)),
        ((45, 31), (16, 12), "center", (0, 11 / 6, 31, 45 - 11 / 6)),
        ((9, 7), (12, 16), "squash", (0, 0, 7, 9)),
        ((5, 6), (10, 10), "center", (0.5, 0, 5.5, 5)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_pixels_are_those_of_versions_1_and_2(saved, shape, size, crop, box, channels):
    """Anything else needs another VERSION: old caches, and the runs on them, have these pixels.

    Version 2 reads more files than version 1, and those of version 1 as before. The library computes in fixed point,
    so that a few pixels differ by one level.
    """
    assert decode.VERSION == 2
    pixels = noise(*shape, channels)
    found = decoder(size, crop=crop, channels=channels)(saved(pixels)).astype(int)
    difference = np.abs(found - resampled(pixels, size, box))
    assert difference.max() <= 1
    assert difference.mean() < 0.02


# Images that cannot be used


def header(width, height):
    """A PNG of the given size that ends after its header."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    about = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", b"")


@pytest.mark.parametrize(("size", "says"), [((100, 100), "cannot be decoded"), ((101, 100), "101x100 is more")])
def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(tmp_path, size, says):
    (tmp_path / "x.png").write_bytes(header(*size))
    with pytest.raises(ImageError, match=says):
        decoder()(tmp_path / "x.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused(tmp_path, size):
    (tmp_path / "x.png").write_bytes(header(*size))
    with pytest.raises(ImageError, match="more than max_pixels|exceeds limit"):
        decoder(max_pixels=80_000_000)(tmp_path / "x.png")


class Watched(Budget):
    """Remembers what was asked for, and the most that was held at a time."""

    def __init__(self, limit):
        super().__init__(limit)
        self.sizes, self.peak = [], 0

    @contextlib.contextmanager
    def hold(self, size):
        with super().hold(size):
            self.sizes.append(size)
            self.peak = max(self.peak, self.used)
            yield


@pytest.mark.parametrize(
    ("mode", "name", "per_pixel"),
    [
        ("RGB", "x.png", 12),
        ("L", "x.jpg", 12),
        ("I;16", "x.tif", 12),
        ("CMYK", "x.jpg", 16),
        ("RGBA", "x.png", 24),
        ("LA", "x.tif", 24),
        ("RGB", "x.webp", 24),
        ("P", "x.gif", 24),
        pytest.param("RGB", "x.avif", 24, marks=avif),
    ],
)
def test_images_are_decoded_at_once_within_a_budget(saved, monkeypatch, mode, name, per_pixel):
    """A budget for two of these images; eight threads would decode eight."""
    path, budget = saved(Image.new(mode, (500, 400)), name), Watched(2 * per_pixel * 200_000)
    monkeypatch.setattr(decode, "MEMORY", budget)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decoder(max_pixels=200_000), [path] * 16))
    assert budget.sizes == [per_pixel * 200_000] * 16
    assert budget.peak <= budget.limit


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
@pytest.mark.parametrize("kept", [0, 4, 0.5, 0.9])
def test_a_truncated_image_is_refused(saved, name, kept):
    path = saved(noise(64, 64), name)
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(ImageError, match="cannot be decoded|is not a PNG, JPEG" if kept else "^is empty$") as error:
        decoder()(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("format", ["PPM", "TGA", "EPS", "PDF", "ICO", "PCX", "SGI", "JPEG2000", "DDS", "ICNS"])
def test_other_formats_are_refused(saved, format):
    """Whatever Pillow could do with them: EPS would start Ghostscript."""
    with pytest.raises(ImageError, match="is not a PNG, JPEG, WebP, BMP, TIFF, GIF.* file, or a damaged or rare one$"):
        decoder()(saved(noise(), "x.png", format=format))


def test_an_error_of_the_disk_is_not_an_error_of_the_image(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(IsADirectoryError):
        decoder()(tmp_path / "x.png")


def test_a_broken_link_is_an_image_that_cannot_be_used(tmp_path):
    (tmp_path / "x.png").symlink_to(tmp_path / "none")
    with pytest.raises(ImageError, match="does not exist, or is a broken link"):
        decoder()(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": (8,)}, r"size = \(8,\): must be 2 integers"),
        ({"size": (8, 8, 3)}, "size = "),
        ({"size": (0, 8)}, r"size\[0\] = 0: must be an integer from 1 to 4096"),
        ({"size": (8, 5000)}, r"size\[1\] = 5000: must be an integer from 1 to 4096"),
        ({"size": (8.0, 8)}, r"size\[0\] = 8.0: must be an integer"),
        ({"channels": 4}, "channels = 4: must be 1 or 3"),
        ({"crop": "centre"}, 'crop = .centre.: must be "center" or "squash"'),
        ({"background": "wite"}, 'background = "wite": must be the name of a colour'),
        ({"background": "#ff000080"}, 'background = "#ff000080": must be'),
        ({"background": ""}, "background = "),
        ({"max_pixels": 0}, "max_pixels = 0: must be an integer from 1"),
        ({"max_pixels": 10**9}, "max_pixels = 1000000000: must be an integer from 1 to 89478485"),
    ],
)
def test_wrong_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        decoder(**settings)
