import os
import struct
import zlib

import pytest
from run_files import draw_grid

from diffusion_jax.report.samples import choose_evenly, read_grids


def read(directory, most=20):
    notes = []
    return read_grids(directory, most, notes.append), notes


@pytest.fixture
def run(tmp_path):
    (tmp_path / "samples").mkdir()
    for step in range(100, 1100, 100):
        draw_grid(tmp_path, step)
    return tmp_path


def test_grids_are_the_files_in_the_order_of_their_steps(run):
    grids, notes = read(run)
    assert [grid.step for grid in grids] == list(range(100, 1100, 100))
    assert grids[0].png == (run / "samples" / "step_0000100.png").read_bytes()
    assert grids[0].size == (8, 6)
    assert notes == []


def test_of_many_grids_some_are_shown_with_the_first_and_the_last(run):
    grids, notes = read(run, 4)
    assert [grid.step for grid in grids] == [100, 400, 700, 1000]
    assert notes == ["4 of 10 grids of samples are shown, evenly spaced"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("most", [1, 2, 3, 7, 20])
def test_the_choice_has_no_twins_and_keeps_the_ends(count, most):
    chosen = choose_evenly(range(count), most)
    assert len(chosen) == len({*chosen}) == min(count, most)
    assert chosen[-1] == count - 1
    assert most == 1 or chosen[0] == 0


def bomb():
    """A PNG file of few bytes that says it has more pixels than Pillow warns of."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 11_000, 11_000, 8, 2, 0, 0, 0)
    data = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I4s", 1000, b"IDAT")
    return b"\x89PNG\r\n\x1a\n" + data + bytes(1000)


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "svg", "bomb"])
def test_a_damaged_grid_is_named_and_the_others_are_shown(run, damage):
    path = run / "samples" / "step_0000300.png"
    data = path.read_bytes()
    flipped = data[:45] + bytes([data[45] ^ 255]) + data[46:]
    texts = {"empty": b"", "half": data[: len(data) // 2], "flipped": flipped, "svg": b"<svg/>", "bomb": bomb()}
    path.write_bytes(texts[damage])
    grids, notes = read(run)
    assert 300 not in [grid.step for grid in grids]
    assert len(grids) == 9
    (note,) = notes
    assert note.startswith("samples/step_0000300.png cannot be used (")
    assert "\n" not in note
    assert ("bomb" in note) == (damage == "bomb")
    assert ("it is no PNG image" in note) == (damage in ("empty", "half", "svg"))


def test_what_is_no_grid_is_not_read(run):
    (run / "samples" / "step_x.png").write_text("x")
    (run / "samples" / ".step_0000300.png.new.png").write_text("x")
    (run / "samples" / "step_0001100.png").mkdir()
    os.mkfifo(run / "samples" / "step_0001200.png")
    grids, notes = read(run)
    assert len(grids) == 10
    assert sorted(notes) == [f"samples/step_000{n}00.png cannot be used (it is not a file)" for n in (11, 12)]


def test_no_directory_is_no_grid(tmp_path):
    assert read(tmp_path) == ([], [])
