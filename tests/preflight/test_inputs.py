"""What is found out about images whose values are known."""

import dataclasses
import re

import numpy as np
import pytest
from prepared import arrays

import diffusion_jax as dj
from diffusion_jax.data.pipeline import Batches
from diffusion_jax.preflight import inputs
from diffusion_jax.preflight.inputs import read_inputs


def read(images, labels=None, batch_size=8, **fields):
    source = dj.sources.from_arrays(images, labels, holdout=len(images))[0]  # all but the first
    return read_inputs(Batches(dataclasses.replace(source, **fields), batch_size))


def test_every_image_is_read_once():
    images, labels = arrays(n=22, classes=4)
    found = read(images, labels, class_names=("ant", "bee", "cat", "dog"))
    rest = images[1:].astype(np.float64)
    assert (found.images, found.total, found.shape, found.dtype) == (21, 21, (4, 4, 1), "uint8")
    assert (found.low, found.high) == (rest.min(), rest.max())
    np.testing.assert_allclose([found.mean, found.std], [rest.mean(), rest.std()], rtol=1e-12)
    assert found.labels == tuple(np.bincount(labels[1:]))
    assert found.find_warnings() == []
    assert found.name_class(2) == '2 "cat"'


def test_each_process_reads_its_part_of_an_epoch():
    images, labels = arrays(n=33, classes=4)
    source = dj.sources.from_arrays(images, labels, holdout=33)[0]
    parts = [read_inputs(Batches(source, 8, process=process, processes=2)) for process in (0, 1)]
    assert [part.images for part in parts] == [16, 16]
    assert np.sum([part.labels for part in parts], axis=0).tolist() == np.bincount(labels[1:]).tolist()


def test_reading_ends_after_enough_images_or_seconds(monkeypatch):
    images, _ = arrays(n=41)
    monkeypatch.setattr(inputs, "_MOST", 11)
    assert read(images).images == 11
    monkeypatch.setattr(inputs, "_LONGEST", 0.0)
    assert read(images).images == 8


def floats(low, high):
    return np.random.default_rng(0).uniform(low, high, (21, 4, 4, 1)).astype(np.float32)


def with_value(images, index, value):
    changed = images.copy()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("images", "warnings"),
    [
        (floats(-1, 1), []),
        (floats(0, 1), [r"the values are from 0\.\d+ to 0\.\d+: floats should be around \[-1, 1\]; use 2 \* x - 1"]),
        (floats(-3, 3), [r"the values are from -[\d.]+ to [\d.]+: outside \[-1, 1\]; sampler.clip must then be off"]),
        (with_value(floats(-1, 1), 5, 0.5), [r"1 of 20 images have the same value everywhere"]),
        (arrays(n=21)[0] % 2, ["the values are from 0 to 1: pixels should fill 0 to 255"]),
    ],
)
def test_unusual_values_are_told(images, warnings):
    found = read(images).find_warnings()
    assert len(found) == len(warnings)
    for text, expected in zip(found, warnings, strict=True):
        assert re.fullmatch(expected, text)


def test_values_that_are_not_finite_are_told_and_do_not_count():
    images = floats(-1, 1)
    source = dj.sources.from_arrays(images, holdout=21)[0]
    source.rows.images[3, 0, 0] = np.nan
    found = read_inputs(Batches(source, 8))
    assert found.not_finite == 1
    assert -1 <= found.low < found.high <= 1
    assert np.isfinite([found.mean, found.std]).all()
    assert found.find_warnings() == ["1 of 20 images are not finite; their batches are skipped"]


def test_classes_without_images_are_told():
    images, labels = arrays(n=61, classes=3)
    found = read(images, labels, num_classes=5, class_names=("a", "b", "c", "d", "e"))
    assert found.labels[3:] == (0, 0)
    assert found.find_warnings() == ['class 3 "d" and 1 more classes have no example in the 60 images that were read']
    part = dataclasses.replace(found, images=30)  # of 60, for 5 classes: too few to say
    assert part.find_warnings() == []
    assert read(images, labels, num_classes=4).find_warnings() == [
        "class 3 has no example in the 60 images that were read"
    ]
