"""An image, the mask painted over it, and the command that inpaints the same."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw

import diffusion_jax as dj
from diffusion_jax.demo import inpainting
from diffusion_jax.demo.settings import ALL_CLASSES, Choices
from diffusion_jax.process.pixels import NO_LABEL

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4
LEFT = np.broadcast_to(np.arange(8) < 3, (8, 8))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grey", Choices(NO_LABEL, 1.5, 3, "", 5, 2)),
        ("colour", Choices(ALL_CLASSES, 2.0, 2, "DDPM", 0, 3)),
    ],
)
def test_the_command_writes_the_same_bytes(name, settings, make_demo, run_command):
    demo = make_demo(name)
    image = np.repeat(PIXELS, demo.run.network.image_shape[2], -1)
    result = inpainting.repaint(demo, settings, image, LEFT)
    run_command(result.command)
    assert Path("inpainted.png").read_bytes() == result.path.read_bytes()


def test_the_painted_pixels_change_and_the_others_stay(make_demo):
    result = inpainting.repaint(make_demo(), Choices(NO_LABEL, 1.5, 3, "", 5, 2), PIXELS, LEFT)
    np.testing.assert_array_equal(Image.open(result.image), PIXELS[..., 0])
    np.testing.assert_array_equal(np.asarray(Image.open(result.mask)) == 0, LEFT)
    table = np.asarray(Image.open(result.path))[..., 0]
    rows = [table[16 + 98 * row :][:96:12] for row in range(2)]  # below the captions, each pixel enlarged by 12
    right = table.shape[1] - 2 - (table.shape[1] - 2) // 3
    for row in rows:
        inpainted = row[:, right:][:, np.flatnonzero(row[:, right:].min(0) < 255)[0] :][:, :96:12]
        np.testing.assert_array_equal(inpainted[~LEFT], PIXELS[..., 0][~LEFT])
        assert (inpainted[LEFT] != PIXELS[..., 0][LEFT]).mean() > 0.9


def test_a_mask_without_a_painted_pixel_is_refused(make_demo):
    with pytest.raises(ValueError, match="mask: no pixel is painted; paint over"):
        inpainting.repaint(make_demo(), Choices(NO_LABEL, 1.5, 3, "", 5, 2), PIXELS, ~LEFT & LEFT)


def test_the_first_image_is_that_of_the_grid(make_demo):
    run = make_demo("colour").run
    found = inpainting.first_image(run, Choices(4, 2.0, 3, "", 5, 4))
    x = run.sample(jax.random.key(5), 4, labels=[4] * 4, steps=3, guidance=2.0)
    np.testing.assert_array_equal(found, dj.pixels.to_uint8(x[0]))


def test_an_uploaded_image_is_cropped_and_resized(make_demo, tmp_path):
    path = tmp_path / "wide.png"
    Image.fromarray(np.repeat(np.repeat(PIXELS[..., 0], 10, 0), 10, 1)).crop((0, 0, 80, 40)).save(path)
    assert inpainting.read_upload(make_demo("colour").run, str(path)).shape == (8, 8, 3)
    exact = tmp_path / "exact.png"
    Image.fromarray(PIXELS[..., 0]).save(exact)
    np.testing.assert_array_equal(inpainting.read_upload(make_demo().run, str(exact)), PIXELS)


def test_an_upload_that_is_not_an_image_is_called_by_its_name(make_demo, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not an image")
    with pytest.raises(ValueError, match="^notes.txt is not a PNG, JPEG"):
        inpainting.read_upload(make_demo().run, str(path))


@pytest.mark.parametrize(
    ("shape", "size"), [((8, 8, 1), (480, 480)), ((28, 14, 3), (238, 476)), ((512, 600, 3), (600, 512))]
)
def test_small_images_are_enlarged_to_paint_on(shape, size):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    enlarged = inpainting.enlarge_to_paint(image)
    assert (enlarged.size, enlarged.mode) == (size, "RGB")
    factor = size[1] // shape[0]
    np.testing.assert_array_equal(np.asarray(enlarged)[::factor, ::factor], np.broadcast_to(image, (*shape[:2], 3)))


def stroke(size: int, *points: tuple[int, int], width: int) -> np.ndarray:
    """A layer, uint8 [size, size, 4], with a line painted half transparent in a round brush."""
    layer = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(layer)
    draw.line(points, (255, 0, 0, 128), width)
    for x, y in points:
        draw.ellipse((x - width // 2, y - width // 2, x + width // 2, y + width // 2), (255, 0, 0, 128))
    return np.asarray(layer)


@pytest.mark.parametrize("width", [48, 76])  # 76 also covers the edge of the rows beside it
@pytest.mark.parametrize("scale", [1, 2])  # a screen of twice the density may give twice the pixels
def test_a_stroke_marks_the_pixels_that_it_covers(scale, width):
    along = [(90 * scale, 150 * scale), (330 * scale, 150 * scale)]  # the third row, from the second to the sixth pixel
    painted = inpainting.find_painted([stroke(480 * scale, *along, width=width * scale)], 8, 8)
    assert np.argwhere(painted).tolist() == [[2, column] for column in range(1, 6)]


def test_one_click_marks_one_pixel_and_layers_add_up():
    clicks = [stroke(480, (x, 30), width=48) for x in (30, 450)]
    assert np.argwhere(inpainting.find_painted(clicks, 8, 8)).tolist() == [[0, 0], [0, 7]]
    assert not inpainting.find_painted([], 8, 8).any()
