"""The page's inputs; tests/demo/test_browser.py presses its buttons."""

import dataclasses

import pytest

from diffusion_jax.demo import page
from diffusion_jax.demo.settings import ALL_CLASSES
from diffusion_jax.process.pixels import NO_LABEL

gradio = pytest.importorskip("gradio", reason='needs Gradio: pip install -e ".[demo]"')


def inputs(demo) -> dict[str, object]:
    """The inputs of the page by their labels."""
    built = page.build_page(demo)
    kinds = (gradio.Dropdown, gradio.Slider, gradio.Number, gradio.Radio)
    return {block.label: block for block in built.blocks.values() if isinstance(block, kinds)}


def replace(demo, **changes):
    """`demo` with fields of its run's network, or the names of its classes, changed."""
    names = changes.pop("class_names", ())
    network = dataclasses.replace(demo.run.network, **changes)
    return dataclasses.replace(demo, run=dataclasses.replace(demo.run, network=network, class_names=names))


def test_the_inputs_start_with_the_settings_of_the_run(make_demo):
    found = inputs(make_demo())
    values = {label: block.value for label, block in found.items() if label not in ("Show", "Number of repaintings")}
    assert values == {
        "Class": ALL_CLASSES,
        "Guidance": 1.5,
        "Steps": 4,
        "Sampler": "",
        "Seed": 0,
        "Number of images": 16,
    }
    assert found["Steps"].maximum == 100  # of the schedule
    assert all(block.visible for block in found.values())


def test_a_run_without_classes_hides_class_and_guidance(make_demo):
    found = inputs(replace(make_demo(), num_classes=0))
    assert {label for label, block in found.items() if not block.visible} == {"Class", "Guidance"}
    assert found["Class"].value == NO_LABEL


def test_a_network_that_never_went_without_labels_has_no_guidance(make_demo):
    found = inputs(replace(make_demo(), unlabelled=False))
    assert found["Class"].visible
    assert not found["Guidance"].visible


def test_classes_have_their_names(make_demo):
    found = inputs(replace(make_demo(), class_names=tuple("abcdefghij")))
    assert [text for text, _ in found["Class"].choices] == ["all in turn", "no class", *"abcdefghij"]


def test_text_of_the_user_is_not_html(make_demo):
    demo = dataclasses.replace(make_demo(), name="<img src=x>")
    assert "&lt;img src=x&gt;" in page.draw_heading(demo)
    assert "<img" not in page.draw_heading(demo)


def test_nothing_is_told_to_others(make_demo):
    assert not page.build_page(make_demo()).analytics_enabled
