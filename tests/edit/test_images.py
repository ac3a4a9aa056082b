import numpy as np
import pytest
from PIL import Image

from diffusion_jax.edit.images import read_images, training_look

LEVELS = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(LEVELS).save(folder / "a.png")
    Image.fromarray(LEVELS.T[::-1]).save(folder / "b.png")
    Image.fromarray(np.tile(LEVELS, (2, 3))).save(folder / "wide.png")
    transparent = np.full((8, 16, 4), 255, np.uint8)
    transparent[:, :8, 3] = 0
    Image.fromarray(transparent).save(folder / "transparent.png")
    (folder / "broken.png").write_bytes(b"not an image")
    return folder


def test_images_are_read_to_their_levels(folder):
    x = read_images([str(folder / "a.png"), str(folder / "b.png")], (8, 8), 1)
    assert x.dtype == np.float32
    np.testing.assert_allclose((x[..., 0] + 1) * 127.5, [LEVELS, LEVELS.T[::-1]], atol=1e-4)
    assert read_images([str(folder / "wide.png")], (8, 8), 3, resize=True).shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        ({"name": "Folder", "crop": "squash", "background": "#000000"}, [0, 1]),
        ({"name": "Folder", "background": "black"}, [0, 1]),
        ({"name": "Digits", "background": "black"}, [1, 1]),
    ],
)
def test_images_are_cropped_and_laid_on_a_background_as_in_training(data, columns, folder):
    look = training_look({"data": data})
    x = read_images([str(folder / "transparent.png")], (8, 8), 3, resize=True, **look)
    np.testing.assert_allclose((x[0, 4, [0, 7], 0] + 1) / 2, columns, atol=0.05)


def test_the_look_is_known_only_for_a_directory_of_images():
    folder = {"name": "Folder", "path": "x", "crop": "squash", "background": "black", "size": 8}
    assert training_look({"data": folder}) == {"crop": "squash", "background": "black"}
    assert training_look({"data": folder | {"name": "Digits"}}) == training_look({}) == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wide.png", "wide.png is 24x16, not 8x8 pixels; resize it, or use --resize"),
        ("broken.png", "broken.png is not a PNG, JPEG, WebP"),
        ("none.png", "none.png does not exist"),
        (".", " is a directory; name image files"),
    ],
)
def test_what_cannot_be_read_is_named(name, message, folder):
    with pytest.raises(ValueError, match=message) as error:
        read_images([str(folder / "a.png"), str(folder / name)], (8, 8), 1)
    assert "\n" not in str(error.value)


def test_formats_of_scanners_and_printers_are_read_and_what_was_converted_is_told(tmp_path, caplog):
    Image.fromarray(LEVELS.astype(np.uint16) * 257).save(tmp_path / "scan.tif")
    x = read_images([str(tmp_path / "scan.tif")], (8, 8), 1)
    np.testing.assert_allclose((x[0, ..., 0] + 1) * 127.5, LEVELS, atol=1e-4)
    assert [record.message for record in caplog.records] == [f"{tmp_path}/scan.tif: 16-bit grey, scaled to 8 bits"]
