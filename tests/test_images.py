import numpy as np
import pytest
from PIL import Image

from diffusion_jax.runtime.images import grid, save_folder, save_grid, to_uint8

LEVELS = np.arange(256, dtype=np.uint8)


def scaled(levels):
    """uint8 as the pictures in [-1, 1] that the networks see."""
    return levels.astype(np.float32) / 127.5 - 1


def pictures(n, size=40, channels=3, seed=0):
    """n random pictures in [-1, 1], each of one hue of its own and never white: easy to find."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 200, (n, size, size, channels), dtype=np.uint8)
    levels[:, 0, 0] = levels[:, -1, -1] = 0
    return scaled(levels), levels


def ink(canvas):
    """Where a canvas is not white, bool [H, W]."""
    return (np.asarray(canvas) != 255).any(-1)


def bands(filled):
    """(first, last + 1) of each run of True in a bool vector."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], filled.astype(int), [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_every_level_survives_the_way_to_the_network_and_back():
    np.testing.assert_array_equal(to_uint8(scaled(LEVELS)), LEVELS)


def test_conversion_has_no_bias():
    """Truncating (x + 1) * 127.5 instead is half a level dark."""
    x = np.random.default_rng(0).uniform(-1, 1, 1_000_000)
    error = to_uint8(x).astype(np.float64) - (x + 1) * 127.5
    assert abs(error.mean()) < 0.02
    assert np.abs(error).max() < 0.5 + 1e-4


@pytest.mark.parametrize(
    ("value", "level"), [(-1, 0), (1, 255), (-7, 0), (7, 255), (1.001, 255), (-np.inf, 0)]
)
def test_conversion_clips(value, level):
    assert to_uint8(np.array([value])) == level
    assert to_uint8(np.array([value])).dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("n", "columns", "rows_and_columns"), [(5, None, (2, 3)), (9, None, (3, 3)), (5, 4, (2, 4))]
)
def test_grid_shows_picture_i_in_row_order(n, columns, rows_and_columns, channels):
    x, levels = pictures(n, channels=channels)
    canvas = np.asarray(grid(x, columns))
    rows, across = bands(ink(canvas).any(1)), bands(ink(canvas).any(0))
    assert (len(rows), len(across)) == rows_and_columns
    for i in range(n):
        (top, bottom), (left, right) = rows[i // len(across)], across[i % len(across)]
        tile = canvas[top:bottom, left:right]
        np.testing.assert_array_equal(tile, np.broadcast_to(levels[i], (40, 40, 3)))
    assert ink(canvas).sum() == n * 40 * 40  # and nothing else


def test_small_pictures_are_enlarged_by_a_whole_factor():
    x, levels = pictures(1, size=8)
    canvas = grid(x)
    (top, bottom), (left, right) = bands(ink(canvas).any(1))[0], bands(ink(canvas).any(0))[0]
    factor = (bottom - top) // 8
    assert factor > 1
    tile = np.asarray(canvas)[top:bottom, left:right]
    np.testing.assert_array_equal(tile, levels[0].repeat(factor, 0).repeat(factor, 1))


def test_grid_takes_uint8_as_it_is():
    x, levels = pictures(4)
    np.testing.assert_array_equal(np.asarray(grid(levels)), np.asarray(grid(x)))


def test_labels_are_written_over_their_pictures():
    white = np.ones((2, 40, 40, 3), np.float32)
    assert not ink(grid(white)).any()
    named = grid(white, labels=["7", ""])
    assert ink(named)[:, : named.width // 2].any()
    assert not ink(named)[:, named.width // 2 :].any()
    other = grid(white, labels=["1", ""])
    assert (np.asarray(named) != np.asarray(other)).any()


def test_labels_leave_the_pictures_whole():
    x, levels = pictures(3)
    canvas = np.asarray(grid(x, columns=1, labels=["ship", 8, "frog"]))
    height = len(canvas) // 3
    for i in range(3):
        cell = canvas[i * height : (i + 1) * height + 2]
        found = [
            (cell[top : top + 40, left : left + 40] == levels[i]).all()
            for top in range(len(cell) - 39)
            for left in range(cell.shape[1] - 39)
        ]
        assert sum(found) == 1


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 2), (4, 8, 8, 4), (0, 8, 8, 3), (8, 8)])
def test_grid_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="need \\[N, H, W, C\\]"):
        grid(np.zeros(shape))


@pytest.mark.parametrize("labels", [[], [1], [1, 2, 3]])
def test_grid_refuses_another_number_of_labels(labels):
    with pytest.raises(ValueError, match=f"{len(labels)} labels for 2 pictures"):
        grid(np.zeros((2, 8, 8, 1)), labels=labels)


def test_save_grid_writes_the_grid_and_makes_its_folder(tmp_path):
    x, _ = pictures(3)
    save_grid(x, tmp_path / "a" / "b" / "samples.png", columns=2, labels=[1, 2, 3])
    with Image.open(tmp_path / "a" / "b" / "samples.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(grid(x, 2, [1, 2, 3])))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (None, ["000000.png", "000001.png", "000002.png"]),
        (["cat", 3, "dog"], ["000000_cat.png", "000001_3.png", "000002_dog.png"]),
    ],
)
def test_save_folder_writes_each_picture_exactly(tmp_path, channels, labels, names):
    x, levels = pictures(3, size=7, channels=channels)
    save_folder(x, tmp_path / "samples", labels)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == names
    for name, picture in zip(names, levels, strict=True):
        with Image.open(tmp_path / "samples" / name) as saved:
            assert saved.mode == ("L" if channels == 1 else "RGB")
            np.testing.assert_array_equal(np.asarray(saved).reshape(picture.shape), picture)
