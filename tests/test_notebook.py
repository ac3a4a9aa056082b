"""The notebook as committed: run from top to bottom without error, with its images. CI executes it again."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "demo.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_it_was_run_from_top_to_bottom(cells):
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


def test_it_ran_without_error_or_warning(cells):
    kinds = [output.get("name", output["output_type"]) for cell in cells for output in cell["outputs"]]
    assert not {"error", "stderr"} & set(kinds)


def test_its_images_are_in_it(cells):
    """Every cell except the first shows one: grid, strip, animation, forward, two tables, schedules, training."""
    for cell in cells[1:]:
        kinds = {kind for output in cell["outputs"] for kind in output.get("data", {})}
        assert kinds & {"image/png", "image/gif"}, "".join(cell["source"])
    assert NOTEBOOK.stat().st_size < 3e6
