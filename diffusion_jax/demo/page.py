"""The page's layout, in Gradio. What its buttons do is in results.py and inpainting.py."""

import dataclasses
import functools
import html
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffusion_jax.demo import inpainting
from diffusion_jax.demo.results import SHOWS, Demo, generate
from diffusion_jax.demo.settings import (
    MAX_NUMBER,
    Choices,
    class_choices,
    default_settings,
    max_steps,
    sampler_choices,
)
from diffusion_jax.process.pixels import NO_LABEL
from diffusion_jax.runtime.errors import RunError, first_line
from diffusion_jax.validation import printable

__all__ = ["build_page", "draw_heading", "import_gradio", "serve"]

_COMPILES = "The first images after a change of the steps, the sampler or the number take longer: JAX compiles."
_PAINT = (
    "The **red** part is repainted, the rest is kept. Class, guidance, steps, sampler and seed are those on the left."
)
_FILES = "The command reads these two files, which are deleted when the demo ends. In the mask, black is repainted."
_RED, _BRUSH = ("#ff0000", 0.6), 30  # radius: as wide as a pixel of 8x8
_STEPS = 200  # at the right end of the slider: samplers need 10 to 100
_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
# Images are shown as they are, in sharp squares, where there is room; the buttons are above them.
_CSS = """
.result img {max-width: 100%; image-rendering: pixelated}
.result .image-frame {padding-top: 2.2rem}
.command textarea {font-family: var(--font-mono); font-size: 0.8rem}
"""


def import_gradio() -> Any:
    """Returns the module, which is optional and slow to import. Raises ValueError if it is not installed."""
    try:
        import gradio
    except ImportError as error:
        raise ValueError('demo needs Gradio, which is not installed: pip install "diffusion_jax[demo]"') from error
    return gradio


def build_page(demo: Demo) -> Any:
    """The page as `gradio.Blocks`.

    >>> demo = Demo(dj.pretrained("digits"), "digits", ("--pretrained", "digits"), Path("/tmp"))  # doctest: +SKIP
    >>> build_page(demo).title  # doctest: +SKIP
    'digits'
    """
    gr = import_gradio()
    with gr.Blocks(title=printable(demo.name), analytics_enabled=False) as page:
        gr.HTML(draw_heading(demo))
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                inputs = _add_settings(gr, demo)
            with gr.Column(scale=3):
                with gr.Tab("Generate"):
                    _add_generate(gr, demo, inputs)
                with gr.Tab("Inpaint"):
                    _add_inpaint(gr, demo, inputs)
    return page


def serve(page: Any, host: str, port: int) -> str:
    """Starts the page's server in threads of its own; returns its address. Raises OSError if the port is in use."""
    gr, name = import_gradio(), f"[{host}]" if ":" in host else host
    page.launch(
        server_name=name,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Default(**_FONTS),
        css=_CSS,
    )
    return f"http://{name}:{port}"


def draw_heading(demo: Demo) -> str:
    """The page's heading, in HTML: the run's name, its network and its images."""
    run = demo.run
    height, width, channels = run.network.image_shape
    classes = f", {run.network.num_classes} classes" if run.network.num_classes else ""
    model = type(run.network.model).__name__
    text = f"{model}, images of {width}x{height}x{channels}{classes}, step {run.step}"
    return f"<h1>{html.escape(printable(demo.name))}</h1>{html.escape(text)}"


def _add_settings(gr: Any, demo: Demo) -> list[Any]:
    """One component for each field of `Choices`, in their order."""
    run, start, choices = demo.run, default_settings(demo.run), class_choices(demo.run)
    label = gr.Dropdown(choices or [("no class", NO_LABEL)], value=start.label, label="Class", visible=bool(choices))
    guidance = gr.Slider(
        0,
        max(10, start.guidance),
        start.guidance,
        step=0.1,
        label="Guidance",
        info="1 follows the class; more makes images more typical of it",
        visible=bool(choices) and run.network.unlabelled,
    )
    label.change(lambda chosen: gr.update(visible=chosen != NO_LABEL and run.network.unlabelled), label, guidance)
    return [
        label,
        guidance,
        gr.Slider(1, min(max_steps(run), max(_STEPS, start.steps)), start.steps, step=1, label="Steps"),
        gr.Dropdown(
            sampler_choices(run),
            value="",
            label="Sampler",
            info="Or write one, such as DDIM(eta=0.5)",
            allow_custom_value=True,
        ),
        gr.Number(start.seed, label="Seed", precision=0, minimum=0, maximum=2**32 - 1),
        gr.Slider(1, MAX_NUMBER, start.number, step=1, label="Number of images"),
    ]


def _add_generate(gr: Any, demo: Demo, inputs: list[Any]) -> None:
    show = gr.Radio([*SHOWS], value="grid", label="Show", info=_COMPILES)
    button = gr.Button("Generate", variant="primary")
    image, command = _add_result(gr)

    def run(show: str, *values: Any) -> tuple[str, Any]:
        result = generate(demo, show, Choices(*values))
        return str(result.path), gr.update(value=result.command, visible=True)

    button.click(_with_errors(gr, run), [show, *inputs], [image, command])


def _add_inpaint(gr: Any, demo: Demo, inputs: list[Any]) -> None:
    pixels, editor = _add_painting(gr, demo, inputs)
    number = gr.Slider(1, 16, 4, step=1, label="Number of repaintings")
    button = gr.Button("Inpaint", variant="primary")
    image, command = _add_result(gr)
    with gr.Column(visible=False) as downloads:
        gr.Markdown(_FILES)
        with gr.Row():
            files = [gr.DownloadButton(f"Download {name}") for name in ("image.png", "mask.png")]

    def run(found: np.ndarray | None, painting: dict[str, Any] | None, number: int, *values: Any) -> Any:
        if found is None or painting is None:
            raise ValueError("image: there is none yet; upload one, or take the first generated image")
        painted = inpainting.find_painted(painting["layers"], *found.shape[:2])
        result = inpainting.repaint(demo, dataclasses.replace(Choices(*values), number=number), found, painted)
        shown = gr.update(value=result.command, visible=True), gr.update(visible=True)
        return str(result.path), *shown, str(result.image), str(result.mask)

    button.click(_with_errors(gr, run), [pixels, editor, number, *inputs], [image, command, downloads, *files])


def _add_painting(gr: Any, demo: Demo, inputs: list[Any]) -> tuple[Any, Any]:
    """The image to inpaint, uint8 [H, W, C], and the editor in which the mask is painted over it."""
    with gr.Row():
        upload = gr.UploadButton("Upload an image", file_types=["image"])
        first = gr.Button("Take the first generated image")
    gr.Markdown(_PAINT)
    pixels, editor = gr.State(), _add_editor(gr)

    def show_image(found: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        return found, {"background": inpainting.enlarge_to_paint(found), "layers": [], "composite": None}

    def read(path: str) -> Any:
        return show_image(inpainting.read_upload(demo.run, path))

    def take_first(*values: Any) -> Any:
        return show_image(inpainting.first_image(demo.run, Choices(*values)))

    upload.upload(_with_errors(gr, read), upload, [pixels, editor])
    first.click(_with_errors(gr, take_first), inputs, [pixels, editor])
    return pixels, editor


def _add_editor(gr: Any) -> Any:
    return gr.ImageEditor(
        label="Paint what is to be repainted",
        type="numpy",
        image_mode="RGBA",
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=_BRUSH, colors=[_RED], color_mode="fixed"),
        format="png",
        buttons=[],
    )


def _add_result(gr: Any) -> tuple[Any, Any]:
    buttons = ["download", "fullscreen"]
    image = gr.Image(show_label=False, type="filepath", interactive=False, buttons=buttons, elem_classes="result")
    command = gr.Textbox(
        label="The command that writes the same file", buttons=["copy"], visible=False, elem_classes="command"
    )
    return image, command


def _with_errors(gr: Any, action: Callable[..., Any]) -> Callable[..., Any]:
    """`action`, whose expected errors the page shows in one line; others are defects and keep their traceback."""

    @functools.wraps(action)
    def run(*values: Any) -> Any:
        try:
            return action(*values)
        except (ValueError, OSError, RunError, jax.errors.JaxRuntimeError) as error:
            raise gr.Error(html.escape(printable(first_line(error)), quote=False), print_exception=False) from error

    return run
