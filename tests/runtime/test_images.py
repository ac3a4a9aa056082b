import errno

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.runtime import images
from diffusion_jax.runtime.images import grid, save, save_animation, save_folder, save_grid, strip, table, to_image

LEVELS = np.arange(256, dtype=np.uint8)


def scaled(levels):
    """uint8 as the images in [-1, 1] that networks see."""
    return levels.astype(np.float32) / 127.5 - 1


def make_images(n, size=96, channels=3, seed=0):
    """n random images in [-1, 1], and their levels. They are never white and have black corners: easy to find."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 200, (n, size, size, channels), dtype=np.uint8)
    levels[:, 0, 0] = levels[:, -1, -1] = 0
    return scaled(levels), levels


def flat(*shape, size=96, first=0):
    """uint8 images [*shape, size, size, 3], each of one color that no other has, and the colors."""
    n = np.arange(first, first + np.prod(shape))
    colors = np.stack([60 + n, 250 - 2 * n, 0 * n + 30], -1).astype(np.uint8).reshape(*shape, 3)
    return np.broadcast_to(colors[..., None, None, :], (*shape, size, size, 3)), colors


def box(canvas, color):
    """(top, left, bottom, right) of the rectangle that a color fills."""
    there = (np.asarray(canvas) == color).all(-1)
    (top, bottom), (left, right) = bands(there.any(1))[0], bands(there.any(0))[0]
    assert there.sum() == (bottom - top) * (right - left) > 0
    return top, left, bottom, right


def boxes(canvas, colors):
    """The boxes of colors [R, K, 3] as int [R, K, 4], asserted to be in rows and columns."""
    found = np.array([[box(canvas, color) for color in row] for row in colors])
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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "columns", "rows_and_columns"), [(5, None, (2, 3)), (9, None, (3, 3)), (5, 4, (2, 4))])
def test_grid_shows_the_images_in_row_order(n, columns, rows_and_columns, channels):
    x, levels = make_images(n, channels=channels)
    canvas = np.asarray(grid(x, columns))
    rows, across = bands(ink(canvas).any(1)), bands(ink(canvas).any(0))
    assert (len(rows), len(across)) == rows_and_columns
    for i in range(n):
        (top, bottom), (left, right) = rows[i // len(across)], across[i % len(across)]
        tile = canvas[top:bottom, left:right]
        np.testing.assert_array_equal(tile, np.broadcast_to(levels[i], (96, 96, 3)))
    assert ink(canvas).sum() == n * 96 * 96  # and nothing else


def test_small_images_are_enlarged_by_an_integer_factor():
    x, levels = make_images(1, size=8)
    canvas = grid(x)
    (top, bottom), (left, right) = bands(ink(canvas).any(1))[0], bands(ink(canvas).any(0))[0]
    factor = (bottom - top) // 8
    assert factor > 1
    tile = np.asarray(canvas)[top:bottom, left:right]
    np.testing.assert_array_equal(tile, levels[0].repeat(factor, 0).repeat(factor, 1))


@pytest.mark.parametrize("side", [1, 8, 28, 64, 95, 96, 300])
def test_each_side_of_an_image_has_96_pixels_unless_a_scale_is_given(side):
    x = np.zeros((1, side, side, 1))
    width = grid(x).width - 4
    assert width % side == 0
    assert 96 <= width < 96 + side or width == side
    assert grid(x, scale=2).width - 4 == 2 * side


def test_flat_images_are_not_enlarged_beyond_reason():
    assert grid(np.zeros((4, 1, 1024, 1)), columns=1).size == (1028, 2 + 4 * 3)
    with pytest.raises(ValueError, match="scale = 10000: the picture would have 1,600,000,000 pixels"):
        grid(np.zeros((1, 4, 4, 1)), scale=10000)
    with pytest.raises(ValueError, match="scale = 10000"):
        to_image(np.zeros((4, 4, 1)), 10000)


def test_an_image_alone_has_its_own_pixels():
    x, levels = make_images(1, size=8)
    np.testing.assert_array_equal(np.asarray(to_image(x[0])), levels[0])
    np.testing.assert_array_equal(np.asarray(to_image(x[0], 3)), levels[0].repeat(3, 0).repeat(3, 1))
    assert to_image(x[0, ..., :1]).mode == "L"


def test_grid_takes_uint8_as_it_is():
    x, levels = make_images(4)
    np.testing.assert_array_equal(np.asarray(grid(levels)), np.asarray(grid(x)))


def test_labels_are_written_above_their_images():
    white = np.ones((2, 96, 96, 3), np.float32)
    assert not ink(grid(white)).any()
    named = grid(white, labels=["7", ""])
    assert ink(named)[:, : named.width // 2].any()
    assert not ink(named)[:, named.width // 2 :].any()
    other = grid(white, labels=["1", ""])
    assert (np.asarray(named) != np.asarray(other)).any()


def test_labels_do_not_cover_the_images():
    x, levels = make_images(3)
    canvas = np.asarray(grid(x, columns=1, labels=["ship", 8, "frog"]))
    height = len(canvas) // 3
    for i in range(3):
        cell = canvas[i * height : (i + 1) * height + 2]
        found = [
            (cell[top : top + 96, left : left + 96] == levels[i]).all()
            for top in range(len(cell) - 95)
            for left in range(cell.shape[1] - 95)
        ]
        assert sum(found) == 1


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 2), (4, 8, 8, 4), (0, 8, 8, 3), (8, 8)])
def test_grid_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="must be \\[N, H, W, C\\] with C = 1 or 3"):
        grid(np.zeros(shape))


@pytest.mark.parametrize("labels", [[], [1], [1, 2, 3]])
def test_grid_refuses_another_number_of_labels(labels):
    with pytest.raises(ValueError, match=f"labels has length {len(labels)}: must be 2, one per image"):
        grid(np.zeros((2, 8, 8, 1)), labels=labels)


def test_long_labels_do_not_touch_each_other():
    """Side by side they are as wide as both together, and each is drawn completely."""
    white = np.ones((2, 8, 8, 3), np.float32)
    both = ink(grid(white, labels=["an automobile", "an automobile"]))
    alone = ink(grid(white[:1], labels=["an automobile"]))
    assert both.sum() == 2 * alone.sum() > 0
    half = both.shape[1] // 2
    assert not both[:, half - 1 : half + 1].any()


# --- tables and strips -----------------------------------------------------------------------


def test_a_table_has_rows_and_columns_and_nothing_else():
    x, colors = flat(2, 3)
    canvas = table(x)
    found = boxes(canvas, colors)
    assert (found[..., 2] - found[..., 0] == 96).all()
    assert (found[..., 3] - found[..., 1] == 96).all()
    assert ink(canvas).sum() == 6 * 96 * 96


def test_captions_of_a_table_stand_left_of_the_rows_and_above_the_columns():
    x, colors = flat(2, 3)
    canvas = table(x, rows=["", "a long name"], columns=["", "w = 2", ""])
    found, black = boxes(canvas, colors), (np.asarray(canvas) < 50).all(-1)
    assert black[: found[0, 0, 0], found[0, 1, 1] : found[0, 1, 3]].any()
    assert black[found[1, 0, 0] : found[1, 0, 2], : found[1, 0, 1]].any()
    above, left = black[: found[0, 0, 0]].copy(), black[:, : found[0, 0, 1]].copy()
    above[:, found[0, 1, 1] : found[0, 1, 3]] = False
    left[found[1, 0, 0] : found[1, 0, 2]] = False
    assert not above.any()
    assert not left.any()


def inked(canvas, rows=slice(None), columns=slice(None)):
    """(top, left, bottom, right) of the black text inside a region."""
    black = np.zeros((canvas.height, canvas.width), bool)
    black[rows, columns] = (np.asarray(canvas) < 50).all(-1)[rows, columns]
    (top, bottom), (left, right) = np.flatnonzero(black.any(1))[[0, -1]], np.flatnonzero(black.any(0))[[0, -1]]
    return top, left, bottom + 1, right + 1


def test_a_caption_is_centered_above_its_image():
    x, colors = flat(2, 2)
    canvas = grid(x.reshape(4, 96, 96, 3), columns=2, labels=["0", "MM", "2", "a caption wider than its image"])
    found = boxes(canvas, colors)
    for r, k in np.ndindex(2, 2):
        top, left, _, right = found[r, k]
        above = slice(0 if r == 0 else found[0, k, 2], top)
        half = (found[0, 1, 1] + found[0, 0, 3]) // 2  # the columns meet here
        text = inked(canvas, above, slice(half) if k == 0 else slice(half, None))
        assert abs((text[1] + text[3]) - (left + right)) <= 3  # twice the distance of the centers
        assert top - 14 <= text[0] < text[2] <= top
    assert found[0, 1, 1] - found[0, 0, 3] > 50  # the wide caption makes its column wide


def test_a_caption_of_a_row_ends_at_the_middle_of_its_left_edge():
    x, colors = flat(2, 2)
    canvas = table(x, rows=["a", "a long name"])
    found = boxes(canvas, colors)
    for top, left, bottom, _ in found[:, 0]:
        text = inked(canvas, slice(top, bottom), slice(left))
        assert abs((text[0] + text[2]) - (top + bottom)) <= 6
        assert 2 <= left - text[3] <= 6
    assert inked(canvas, slice(*found[1, 0, [0, 2]]), slice(found[1, 0, 1]))[1] <= 4  # no empty margin


def test_tiles_are_two_pixels_apart_and_from_the_edge():
    x, colors = flat(2, 3)
    canvas = table(x)
    found = boxes(canvas, colors)
    np.testing.assert_array_equal(found[:, 0, 0], [2, 100])
    np.testing.assert_array_equal(found[0, :, 1], [2, 100, 198])
    assert canvas.size == (296, 198)


def test_rows_of_a_grid_without_labels_take_no_extra_height():
    """Only a row with a label is higher."""
    white = np.ones((4, 96, 96, 1))
    assert grid(white).height == 198
    assert grid(white, labels=["", "", "", ""]).height == 198
    assert grid(white, labels=["a", "", "", ""]).height == 212
    assert grid(white, labels=["a", "", "", "b"]).height == 226


def test_a_strip_names_its_times_and_rows(monkeypatch):
    drawn = []
    monkeypatch.setattr(images, "draw_tiles", lambda tiles, *args, **kwargs: drawn.append((tiles, *args, kwargs)))
    x, x0 = make_images(6, 4)[1].reshape(3, 2, 4, 4, 3), make_images(6, 4, seed=1)[1].reshape(3, 2, 4, 4, 3)
    strip(x, times=[1, 0.12345, 0], labels=["cat", "dog"])
    strip(x, x0, labels=["cat", "dog"])
    (tiles, above, left, _, settings), (pairs, _, names, _, paired) = drawn
    np.testing.assert_array_equal(tiles, x.swapaxes(0, 1))
    assert above == [["t = 1", "t = 0.123", "t = 0"], [""] * 3]
    assert (left, settings) == (["cat", "dog"], {})
    np.testing.assert_array_equal(pairs[::2], x.swapaxes(0, 1))
    np.testing.assert_array_equal(pairs[1::2], x0.swapaxes(0, 1))
    assert names == ["cat  x_t", "cat  x0-hat", "dog  x_t", "dog  x0-hat"]
    assert paired == {"group": 2}


def test_a_strip_has_one_row_per_image_and_one_column_per_time():
    x, colors = flat(3, 2)
    found = boxes(strip(x, times=[1.0, 0.5, 0.0], labels=["cat", "dog"]), colors.swapaxes(0, 1))
    assert found.shape == (2, 3, 4)
    np.testing.assert_array_equal(strip(x), table(x.swapaxes(0, 1)))


def test_a_strip_shows_x0_under_x_t_and_pairs_apart():
    (x, colors), (x0, below) = flat(3, 2), flat(3, 2, first=6)
    canvas = strip(x, x0, [1.0, 0.5, 0.0])
    found = boxes(canvas, np.stack([colors, below], 2).reshape(3, 4, 3).swapaxes(0, 1))
    gaps = found[1:, 0, 0] - found[:-1, 0, 2]
    assert gaps[0] == gaps[2] < gaps[1]
    black = (np.asarray(canvas) < 50).all(-1)
    assert black[: found[0, 0, 0]].any()  # times
    for top, left, bottom, _ in found[:, 0]:
        assert black[top:bottom, :left].any()  # x_t and x0-hat


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda x: table(x[0]), r"shape \(3, 8, 8, 1\): must be \[R, K, H, W, C\]"),
        (lambda x: table(x, rows=["a"]), "rows has length 1: must be 2, one per row"),
        (lambda x: table(x, columns=["a"]), "columns has length 1: must be 3, one per column"),
        (lambda x: table(x[..., [0, 0]]), "C = 1 or 3"),
        (lambda x: strip(x[0]), r"must be \[K, N, H, W, C\]"),
        (lambda x: strip(x, x[:1]), r"x0 has shape \(1, 3, 8, 8, 1\): must be \[2, 3, 8, 8, 1\]"),
        (lambda x: strip(x, times=[1.0]), "times has length 1: must be 2, one per state"),
        (lambda x: strip(x, labels=[1, 2]), "labels has length 2: must be 3, one per image"),
        (lambda x: grid(x[0], columns=0), "columns = 0: must be an integer >= 1"),
        (lambda x: grid(x[0], columns=2.0), "columns = 2.0: must be an integer >= 1"),
        (lambda x: save_animation(x, "x.gif", milliseconds=0), "milliseconds = 0: must be an integer >= 1"),
        (lambda x: save_animation(x, "x.gif", hold=-1), "hold = -1: must be an integer >= 1"),
        (lambda x: save_animation(x, "x.gif", labels=[1, 2]), "labels has length 2: must be 3"),
        (lambda x: save_folder(x, "x"), r"must be \[N, H, W, C\]"),
        (lambda x: save_folder(x[0], "x", [1, 2]), "labels has length 2: must be 3, one per image"),
        (lambda x: save_animation(x[0], "x.gif"), r"must be \[K, N, H, W, C\]"),
        (lambda x: save_animation(x, "x.png"), "x.png: an animation must be a .gif or .webp"),
        (lambda x: save_animation(x, "x.mp4"), "x.mp4: an animation must be a .gif or .webp"),
    ],
)
def test_other_shapes_captions_and_suffixes_are_refused(draw, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        draw(np.zeros((2, 3, 8, 8, 1), np.uint8))
    assert list(tmp_path.iterdir()) == []


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "channels"), [(".gif", 1), (".webp", 1), (".webp", 3)])
def test_an_animation_shows_the_grid_of_each_state_and_holds_the_last(tmp_path, suffix, channels):
    frames, _ = make_images(12, size=20, channels=channels)
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
            frame = np.asarray(saved.convert("RGB")).astype(int)
            assert np.abs(frame - np.asarray(grid(state, 3, [1, 2, 3]))).max() <= 1
    assert durations == [100, 100, 100, 900]


def test_a_gif_in_color_is_right_on_the_average_of_neighbors(tmp_path):
    """A smooth ramp of more than 256 colors: no pixel is far off, and no average of 8x8 is off."""
    ramp = np.linspace(-0.9, 0.9, 64)
    x = np.stack(np.broadcast_arrays(ramp, ramp[:, None], ramp * ramp[:, None]), -1)[None, None]
    save_animation(x, tmp_path / "x.gif", scale=1)
    with Image.open(tmp_path / "x.gif") as saved:
        error = np.asarray(saved.convert("RGB")).astype(float) - np.asarray(grid(x[0], scale=1))
    assert np.abs(error).max() < 50
    patches = error[2:66, 2:66].reshape(8, 8, 8, 8, 3).mean((1, 3))
    assert np.sqrt((patches**2).mean()) < 1.3


def test_a_gray_gif_is_exact(tmp_path):
    frames = scaled(LEVELS.reshape(1, 1, 16, 16, 1))
    save_animation(frames, tmp_path / "x.gif", hold=10)
    with Image.open(tmp_path / "x.gif") as saved:
        np.testing.assert_array_equal(saved.convert("RGB"), grid(frames[0]))


def test_animations_have_defaults(tmp_path):
    save_animation(make_images(3)[0][:, None], tmp_path / "x.webp")
    with Image.open(tmp_path / "x.webp") as saved:
        durations = []
        for i in range(3):
            saved.seek(i)
            saved.load()
            durations.append(saved.info["duration"])
    assert durations == [80, 80, 2000]


def test_save_creates_the_directory_and_the_suffix_determines_the_format(tmp_path):
    image = grid(make_images(1)[0])
    save(image, tmp_path / "a" / "b" / "x.webp")
    with Image.open(tmp_path / "a" / "b" / "x.webp") as saved:
        assert (saved.format, saved.size) == ("WEBP", image.size)


def test_save_grid_writes_the_grid_and_creates_its_directory(tmp_path):
    x, _ = make_images(3)
    save_grid(x, tmp_path / "a" / "b" / "samples.png", columns=2, labels=[1, 2, 3])
    with Image.open(tmp_path / "a" / "b" / "samples.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(grid(x, 2, [1, 2, 3])))


def test_a_label_with_a_slash_stays_in_the_directory(tmp_path):
    save_folder(make_images(1)[0], tmp_path / "samples", ["../a/b"])
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["000000_.._a_b.png"]


def test_a_label_of_any_kind_loses_no_image(tmp_path, caplog):
    labels = ["x" * 250, "猫" * 250, "..", "a/b", "\x00", "\udcff", "\n", "\x1b[31m", ""]
    x, levels = make_images(len(labels))
    save_folder(x, tmp_path / "samples", labels)
    paths = sorted((tmp_path / "samples").iterdir())
    assert [path.name[:6] for path in paths] == [f"{i:06d}" for i in range(len(labels))]
    for path, image in zip(paths, levels, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert caplog.text == ""


def test_a_name_that_the_file_system_refuses_is_the_number_and_told_once(tmp_path, caplog, monkeypatch):
    """As of a disk with another encoding; one that is full raises."""
    write = Image.Image.save

    def save_ascii(image, path):
        if not path.name.isascii() or full:
            raise OSError(errno.EILSEQ, "Invalid or incomplete multibyte or wide character", str(path))
        write(image, path)

    monkeypatch.setattr(Image.Image, "save", save_ascii)
    full = False
    save_folder(make_images(3)[0], tmp_path, ["猫", "cat", "犬"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.png", "000001_cat.png", "000002.png"]
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: 2 images have no label in their name, refused: 000000_猫.png ([Errno")
    full = True
    with pytest.raises(OSError, match="multibyte"):
        save_folder(make_images(1)[0], tmp_path / "full", ["cat"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (None, ["000000.png", "000001.png", "000002.png"]),
        (["cat", 3, "dog"], ["000000_cat.png", "000001_3.png", "000002_dog.png"]),
    ],
)
def test_save_folder_writes_each_image_exactly(tmp_path, channels, labels, names):
    x, levels = make_images(3, size=7, channels=channels)
    save_folder(x, tmp_path / "samples", labels)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == names
    for name, image in zip(names, levels, strict=True):
        with Image.open(tmp_path / "samples" / name) as saved:
            assert saved.mode == ("L" if channels == 1 else "RGB")
            np.testing.assert_array_equal(np.asarray(saved).reshape(image.shape), image)
