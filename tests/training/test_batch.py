"""Batches that would be taken for something else are refused when traced, or skipped with their cause."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from slow import slow

import diffusion_jax as dj
from diffusion_jax.runtime.mesh import MeshShape, make_mesh
from diffusion_jax.training.evaluate import make_evaluate
from diffusion_jax.training.step import CAUSES

IMAGES, LABELS = np.zeros((8, 8, 8, 3), np.uint8), np.zeros(8, np.int32)

WRONG = {
    "a typo": ({"image": IMAGES, "labels": LABELS}, r'batch\["labels"\]: must be only "image" and "label"'),
    "a key of one's own": ({"image": IMAGES, "mask": LABELS}, r'batch\["mask"\]: must be only'),
    "images": ({"images": IMAGES}, r'batch\["images"\]: must be only'),
    "nothing": ({}, r'batch\["image"\] is missing'),
    "labels alone": ({"label": LABELS}, r'batch\["image"\] is missing'),
    "int32": ({"image": IMAGES.astype(np.int32)}, "is int32: must be uint8 in 0..255, or float"),
    "int8": ({"image": IMAGES.astype(np.int8)}, "is int8: must be uint8"),
    "uint16": ({"image": IMAGES.astype(np.uint16)}, "is uint16: must be uint8"),
    "bool": ({"image": IMAGES.astype(bool)}, "is bool: must be uint8"),
    "complex": ({"image": IMAGES.astype(np.complex64)}, "is complex64: must be uint8"),
    "channels first": ({"image": IMAGES.transpose(0, 3, 1, 2)}, r"shape \(3, 8, 8\): must be \(H, W, C\)"),
    "grey, channels first": ({"image": np.zeros((8, 1, 28, 28), np.uint8)}, r"shape \(1, 28, 28\): must be"),
    "landscape": ({"image": np.zeros((8, 3, 48, 64), np.float32)}, r"shape \(3, 48, 64\): must be"),
    "a vector": ({"image": np.zeros(8, np.uint8)}, r"has shape \(8,\): must be \[B, H, W, C\]"),
    "too few labels": ({"image": IMAGES, "label": LABELS[:4]}, r"int32 \(4,\): must be integers of shape \(8,\)"),
    "a column": ({"image": IMAGES, "label": LABELS[:, None]}, r"int32 \(8, 1\): must be integers of shape \(8,\)"),
    "float labels": ({"image": IMAGES, "label": LABELS.astype(np.float32)}, "float32 .*: must be integers"),
    "one-hot": ({"image": IMAGES, "label": np.eye(8, dtype=np.int32)}, r"int32 \(8, 8\): must be integers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_type_key_or_shape_is_refused_before_anything_is_compiled(case):
    batch, message = WRONG[case]
    state = dj.TrainState.create(jax.random.key(0), tiny.Affine(), optax.sgd(0.1), (8, 8, 3))
    step = dj.make_train_step(tiny.Affine(), optax.sgd(0.1), tiny.loss())
    with pytest.raises(ValueError, match=message):
        step(state, batch, jax.random.key(1))
    evaluate = make_evaluate(tiny.Affine(), tiny.loss(), make_mesh(MeshShape(1, 1), jax.devices()[:1]))
    with pytest.raises(ValueError, match=message):
        evaluate(state.params, [(batch, np.ones(8, bool))], jax.random.key(1))


def test_a_state_for_channels_first_is_refused():
    with pytest.raises(ValueError, match=r"image_shape has shape \(3, 32, 32\): must be \(H, W, C\)"):
        dj.TrainState.create(jax.random.key(0), tiny.Affine(), optax.sgd(0.1), (3, 32, 32))


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 500, 8), (3, 3, 3), (8, 8, 8, 1), (16, 2), (2,)])
def test_images_sounds_volumes_and_points_are_taken(shape):
    batch = {"image": np.zeros((4, *shape), np.float32)}
    assert tiny.loss().draw(jax.random.key(0), batch).x0.shape == (4, *shape)


def cause_of(batch):
    model = tiny.Affine()  # of 10 classes
    state = dj.TrainState.create(jax.random.key(0), model, optax.sgd(0.1), batch["image"].shape[1:])
    new, metrics = dj.make_train_step(model, optax.sgd(0.1), tiny.loss())(state, batch, jax.random.key(1))
    assert int(new.skipped) == bool(metrics["cause"])
    return CAUSES[int(metrics["cause"])]


@pytest.mark.parametrize("dtype", [np.float32, *slow(np.float16, jnp.bfloat16)])
def test_floats_of_0_to_255_are_skipped_and_told(dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1))
    assert cause_of({"image": pixels.astype(dtype)}).startswith("the images are far outside [-1, 1]")
    assert cause_of({"image": (pixels / 127.5 - 1).astype(dtype)}) == ""
    assert cause_of({"image": pixels.astype(np.uint8)}) == ""


@pytest.mark.parametrize("label", [10, *slow(11, 2**31 - 1)])
def test_a_label_that_is_not_a_class_is_skipped_and_told(label):
    labels = np.array([0, 1, 9, label, -1, 2, 3, 4], np.int32)
    batch = {"image": IMAGES[:, :4, :4, :1], "label": labels}
    assert cause_of(batch) == "a label is not a class of the network"
    assert cause_of(batch | {"label": np.minimum(labels, 9)}) == ""
