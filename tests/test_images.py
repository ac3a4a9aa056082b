import numpy as np
import pytest
from PIL import Image

from diffusion_jax.process.pixels import to_uint8
from diffusion_jax.runtime.images import grid, save, save_animation, save_folder, save_grid, strip, table

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


def flat(*shape, size=40, first=0):
    """uint8 pictures [*shape, size, size, 3], each of one colour that no other has, and the colours."""
    n = np.arange(first, first + np.prod(shape))
    colours = np.stack([60 + n, 250 - 2 * n, 0 * n + 30], -1).astype(np.uint8).reshape(*shape, 3)
    return np.broadcast_to(colours[..., None, None, :], (*shape, size, size, 3)), colours


def box(canvas, colour):
    """(top, left, bottom, right) of all that has a colour, which fills it."""
    there = (np.asarray(canvas) == colour).all(-1)
    (top, bottom), (left, right) = bands(there.any(1))[0], bands(there.any(0))[0]
    assert there.sum() == (bottom - top) * (right - left) > 0
    return top, left, bottom, right


def boxes(canvas, colours):
    """The boxes of colours [R, K, 3] as int [R, K, 4], found to stand in rows and columns."""
    found = np.array([[box(canvas, colour) for colour in row] for row in colours])
    assert (found[:, :, [0, 2]] == found[:, :1, [0, 2]]).all()
    assert (found[:, :, [1, 3]] == found[:1, :, [1, 3]]).all()
    assert (found[1:, :, 0] > found[:-1, :, 2]).all()
    assert (found[:, 1:, 1] > found[:, :-1, 3]).all()
    return found


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


@pytest.mark.parametrize(("value", "level"), [(-1, 0), (1, 255), (-7, 0), (7, 255), (1.001, 255), (-np.inf, 0)])
def test_conversion_clips(value, level):
    assert to_uint8(np.array([value])) == level
    assert to_uint8(np.array([value])).dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "columns", "rows_and_columns"), [(5, None, (2, 3)), (9, None, (3, 3)), (5, 4, (2, 4))])
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


def test_long_labels_do_not_touch_each_other():
    """Side by side they take the room of both, and each is written as if alone."""
    white = np.ones((2, 8, 8, 3), np.float32)
    both = ink(grid(white, labels=["an automobile", "an automobile"]))
    alone = ink(grid(white[:1], labels=["an automobile"]))
    assert both.sum() == 2 * alone.sum() > 0
    half = both.shape[1] // 2
    assert not both[:, half - 1 : half + 1].any()


# --- tables and strips -----------------------------------------------------------------------


def test_a_table_has_rows_and_columns_and_nothing_else():
    x, colours = flat(2, 3)
    canvas = table(x)
    found = boxes(canvas, colours)
    assert (found[..., 2] - found[..., 0] == 40).all()
    assert (found[..., 3] - found[..., 1] == 40).all()
    assert ink(canvas).sum() == 6 * 40 * 40


def test_captions_of_a_table_stand_left_of_the_rows_and_above_the_columns():
    x, colours = flat(2, 3)
    canvas = table(x, rows=["", "a long name"], columns=["", "w = 2", ""])
    found, black = boxes(canvas, colours), (np.asarray(canvas) < 50).all(-1)
    assert black[: found[0, 0, 0], found[0, 1, 1] : found[0, 1, 3]].any()
    assert black[found[1, 0, 0] : found[1, 0, 2], : found[1, 0, 1]].any()
    above, left = black[: found[0, 0, 0]].copy(), black[:, : found[0, 0, 1]].copy()
    above[:, found[0, 1, 1] : found[0, 1, 3]] = False
    left[found[1, 0, 0] : found[1, 0, 2]] = False
    assert not above.any()
    assert not left.any()


def test_a_strip_has_a_row_a_picture_and_a_column_a_time():
    x, colours = flat(3, 2)
    found = boxes(strip(x, times=[1.0, 0.5, 0.0], labels=["cat", "dog"]), colours.swapaxes(0, 1))
    assert found.shape == (2, 3, 4)
    np.testing.assert_array_equal(strip(x), table(x.swapaxes(0, 1)))


def test_a_strip_shows_x0_under_x_t_and_pairs_apart():
    (x, colours), (x0, below) = flat(3, 2), flat(3, 2, first=6)
    canvas = strip(x, x0, [1.0, 0.5, 0.0])
    found = boxes(canvas, np.stack([colours, below], 2).reshape(3, 4, 3).swapaxes(0, 1))
    gaps = found[1:, 0, 0] - found[:-1, 0, 2]
    assert gaps[0] == gaps[2] < gaps[1]
    black = (np.asarray(canvas) < 50).all(-1)
    assert black[: found[0, 0, 0]].any()  # times
    for top, left, bottom, _ in found[:, 0]:
        assert black[top:bottom, :left].any()  # x_t and x0-hat


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda x: table(x[0]), r"shape \(3, 8, 8, 1\): need \[R, K, H, W, C\]"),
        (lambda x: table(x, rows=["a"]), "1 captions for 2 rows"),
        (lambda x: table(x, columns=["a"]), "1 captions for 3 columns"),
        (lambda x: table(x[..., [0, 0]]), "C of 1 or 3"),
        (lambda x: strip(x[0]), r"need \[K, N, H, W, C\]"),
        (lambda x: strip(x, x[:1]), r"x0 has shape \(1, 3, 8, 8, 1\): x has \(2, 3, 8, 8, 1\)"),
        (lambda x: strip(x, times=[1.0]), "1 times for 2 states"),
        (lambda x: strip(x, labels=[1, 2]), "2 labels for 3 pictures"),
        (lambda x: save_animation(x[0], "x.gif"), r"need \[K, N, H, W, C\]"),
        (lambda x: save_animation(x, "x.png"), "x.png: an animation is a .gif or a .webp"),
        (lambda x: save_animation(x, "x.mp4"), "x.mp4: an animation is a .gif or a .webp"),
    ],
)
def test_other_shapes_captions_and_endings_are_refused(draw, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        draw(np.zeros((2, 3, 8, 8, 1), np.uint8))
    assert list(tmp_path.iterdir()) == []


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "channels"), [(".gif", 1), (".webp", 1), (".webp", 3)])
def test_an_animation_shows_the_grid_of_each_state_and_holds_the_last(tmp_path, suffix, channels):
    frames, _ = pictures(12, size=20, channels=channels)
    frames = frames.reshape(4, 3, 20, 20, channels)
    path = tmp_path / "a" / f"x{suffix}"
    save_animation(frames, path, columns=3, labels=[1, 2, 3], milliseconds=100, hold=900)
    with Image.open(path) as saved:
        assert saved.n_frames == 4
        assert saved.info["loop"] == 0  # for ever
        durations = []
        for i, state in enumerate(frames):
            saved.seek(i)
            saved.load()
            durations.append(saved.info["duration"])
            shown = np.asarray(saved.convert("RGB")).astype(int)
            assert np.abs(shown - np.asarray(grid(state, 3, [1, 2, 3]))).max() <= 1
    assert durations == [100, 100, 100, 900]


def test_a_gif_in_colour_is_right_on_the_average_of_neighbours(tmp_path):
    """A smooth ramp of more than 256 colours: no pixel far off, no patch of 8x8 off at all."""
    ramp = np.linspace(-0.9, 0.9, 64)
    x = np.stack(np.broadcast_arrays(ramp, ramp[:, None], ramp * ramp[:, None]), -1)[None, None]
    save_animation(x, tmp_path / "x.gif")
    with Image.open(tmp_path / "x.gif") as saved:
        error = np.asarray(saved.convert("RGB")).astype(float) - np.asarray(grid(x[0]))
    assert np.abs(error).max() < 50
    patches = error[2:66, 2:66].reshape(8, 8, 8, 8, 3).mean((1, 3))
    assert np.sqrt((patches**2).mean()) < 1.3


def test_save_makes_the_folder_and_the_suffix_says_the_format(tmp_path):
    picture = grid(pictures(1)[0])
    save(picture, tmp_path / "a" / "b" / "x.webp")
    with Image.open(tmp_path / "a" / "b" / "x.webp") as saved:
        assert (saved.format, saved.size) == ("WEBP", picture.size)


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
