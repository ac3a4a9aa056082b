"""The notebooks as committed: run from top to bottom without error, with their images. CI executes them again.

And what an interrupted cell does.
"""

import json
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
# The number of cells of code without an image: imports, configs, checks that print.
WITHOUT_IMAGE = {"demo": 1, "train_digits": 3, "two_moons": 2}


@pytest.fixture(scope="module", params=WITHOUT_IMAGE)
def path(request) -> Path:
    return FOLDER / f"{request.param}.ipynb"


@pytest.fixture(scope="module")
def cells(path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_every_notebook_is_here():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(WITHOUT_IMAGE)


def test_it_was_run_from_top_to_bottom(cells):
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


def test_it_ran_without_error_or_warning(cells):
    kinds = [output.get("name", output["output_type"]) for cell in cells for output in cell["outputs"]]
    assert not {"error", "stderr"} & set(kinds)


def test_its_images_are_in_it(path, cells):
    """Grid, strip, animation, forward, two tables, schedules, training in the demo; one in nearly every cell."""
    kinds = [{kind for output in cell["outputs"] for kind in output.get("data", {})} for cell in cells]
    shown = [bool(each & {"image/png", "image/gif"}) for each in kinds]
    assert shown.count(False) == WITHOUT_IMAGE[path.stem]
    assert path.stat().st_size < 3e6


@pytest.mark.slow
def test_an_interrupted_cell_saves_and_the_notebook_goes_on(tmp_path):
    manager = pytest.importorskip("jupyter_client.manager")
    kernel, client = manager.start_new_kernel(cwd=str(Path(__file__).parent))

    def reply_to(message: str) -> dict:
        while (reply := client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != message:
            pass
        return reply["content"]

    try:
        train = f"import tiny, diffusion_jax as dj; dj.train(tiny.config(tiny.AFFINE, steps=10**6), {str(tmp_path)!r})"
        message = client.execute(train)
        deadline = time.monotonic() + 120
        while not (tmp_path / "metrics.jsonl").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kernel.interrupt_kernel()
        assert reply_to(message)["ename"] == "KeyboardInterrupt"
        last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"]
        saved = [int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
        assert max(saved) >= last
        assert reply_to(client.execute("1 + 1"))["status"] == "ok"
    finally:
        kernel.shutdown_kernel(now=True)
