"""The page in a real browser: `diffusion-jax demo` in a process of its own, and a headless Chromium.

Needs the extras `demo` and `demo-test`, and Chromium of the system: apt-get install chromium.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXTRAS = 'pip install -e ".[demo,demo-test]"'
pytest.importorskip("gradio", reason=f"needs Gradio: {EXTRAS}")
playwright = pytest.importorskip("playwright.sync_api", reason=f"needs Playwright: {EXTRAS}")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)

ROOT = Path(__file__).parents[2]
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(workdirs, tmp_path_factory) -> Iterator[str]:
    """The address of the page. The process must end quietly, and leave no file, on SIGINT."""
    folder, port = tmp_path_factory.mktemp("temporary"), free_port()
    command = [sys.executable, "-m", "diffusion_jax", "demo", "--allow_code", f"--port={port}"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.Popen(
        [*command, f"--workdir={workdirs['grey']}"],
        env=os.environ | {"PYTHONPATH": paths, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert line == f"{workdirs['grey']} at http://127.0.0.1:{port}; Ctrl-C ends it\n", process.communicate()[1]
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=SECONDS) == ("", "")
    assert process.returncode == 0
    assert [path.name for path in folder.glob("diffusion_jax_demo_*")] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES), headless=True)
        yield opened
        opened.close()


@pytest.fixture
def page(server, browser) -> Iterator[Any]:
    """The page, freshly opened. It must ask no other machine for anything."""
    opened, others = browser.new_page(viewport={"width": 1280, "height": 900}), []
    opened.set_default_timeout(SECONDS * 1000)
    own = (f"{server}/", "data:", "blob:")
    opened.on("request", lambda request: None if request.url.startswith(own) else others.append(request.url))
    opened.goto(server)
    opened.get_by_role("button", name="Generate", exact=True).wait_for()
    yield opened
    opened.close()
    assert others == []


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def result(page) -> tuple[bytes, str]:
    """The image that is shown, as a file, and the command below it."""
    command = page.locator(".command textarea:visible")
    command.wait_for()
    return page.request.get(page.locator(".result img:visible").get_attribute("src")).body(), command.input_value()


def test_the_command_writes_the_grid_that_is_shown(page, run_command):
    page.get_by_label("Class").click()
    page.get_by_role("option", name="7", exact=True).click()
    page.get_by_label("Seed").fill("5")
    page.get_by_label("Number of images").first.fill("4")
    page.get_by_label("Sampler").fill("DDIM(eta=0.5)")
    page.keyboard.press("Enter")
    press(page, "Generate")
    shown, command = result(page)
    assert command.split(" --show ")[1] == (
        "grid --num_samples 4 --labels 7 --steps 4 --seed 5 --sampler 'DDIM(eta=0.5)' --guidance 1.5 --out samples.png"
    )
    run_command(command)
    assert Path("samples.png").read_bytes() == shown


def test_an_animation_plays(page, run_command):
    page.get_by_label("Steps").first.fill("30")
    page.get_by_label("Number of images").first.fill("4")
    page.get_by_label("animation").check()
    press(page, "Generate")
    shown, command = result(page)
    run_command(command)
    assert Path("samples.webp").read_bytes() == shown
    image = page.locator(".result img:visible")
    first, until = image.screenshot(), time.monotonic() + SECONDS
    while image.screenshot() == first:
        assert time.monotonic() < until


def test_what_is_painted_is_repainted(page, run_command, tmp_path):
    page.get_by_role("tab", name="Inpaint").click()
    page.get_by_label("Number of repaintings").first.fill("2")
    press(page, "Take the first generated image")
    page.get_by_text("Paint what is to be repainted").wait_for()
    paint_row(page, 2)
    press(page, "Inpaint")
    shown, command = result(page)
    run_command(command)
    assert Path("inpainted.png").read_bytes() == shown
    with page.expect_download() as download:
        press(page, "Download mask.png")
    download.value.save_as(tmp_path / "mask.png")
    painted = np.asarray(Image.open(tmp_path / "mask.png")) == 0
    assert painted[2, 1:7].all()
    assert not painted[[0, 1, 3, 4, 5, 6, 7]].any()


def test_an_uploaded_image_replaces_the_painting(page, tmp_path):
    page.get_by_role("tab", name="Inpaint").click()
    press(page, "Take the first generated image")
    page.get_by_text("Paint what is to be repainted").wait_for()
    paint_row(page, 2)
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    with page.expect_file_chooser() as chooser:
        press(page, "Upload an image")
    chooser.value.set_files(tmp_path / "photo.png")
    page.wait_for_timeout(2000)
    press(page, "Inpaint")
    message = "mask: no pixel is painted; paint over the part that should be generated"
    page.get_by_text(message, exact=True).wait_for()


def paint_row(page, row: int) -> None:
    """Paints over the second to the seventh pixel of a row. The image of 8x8 is shown at 60% of 480 pixels."""
    canvas = page.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    pixel = 0.6 * 480 / 8
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 + (row + 0.5 - 4) * pixel
    page.mouse.move(x - 2.5 * pixel, y)
    page.wait_for_timeout(1000)
    page.mouse.down()
    for step in np.linspace(-2.5, 2.5, 11):
        page.mouse.move(x + step * pixel, y)
        page.wait_for_timeout(50)
    page.mouse.up()
    page.wait_for_timeout(1000)


def test_without_a_class_there_is_no_guidance(page):
    page.get_by_label("Class").click()
    page.get_by_role("option", name="no class").click()
    page.get_by_text("Guidance", exact=True).wait_for(state="hidden")


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("DIMM", '--sampler.name = "DIMM": unknown name; did you mean DDIM or DEIS or DDPM?'),
        ("<b>os</b>:system", '--sampler "<b>os</b>:system": must be a name, or as in DDIM(eta=0.5)'),
    ],
)
def test_an_error_is_shown_in_one_line(sampler, message, page):
    page.get_by_label("Sampler").fill(sampler)
    page.keyboard.press("Enter")
    press(page, "Generate")
    page.get_by_text(message, exact=True).wait_for()


def test_inpainting_without_an_image_says_what_to_do(page):
    page.get_by_role("tab", name="Inpaint").click()
    press(page, "Inpaint")
    message = "image: there is none yet; upload one, or take the first generated image"
    page.get_by_text(message, exact=True).wait_for()
