"""Data in the memory of the devices: the batches that are read from the host, to the bit."""

import dataclasses
import itertools

import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.data.on_device import count_bytes, make_gather
from diffusion_jax.data.pipeline import Batches
from diffusion_jax.data.sources import DataError
from diffusion_jax.runtime.mesh import MeshShape, batch_sharding, make_mesh, put_batch

N = 1100  # more than is read at a time


def make_source(dtype=np.uint8, labels=True):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, 4, 3, 2)).astype(dtype) / (1 if dtype == np.uint8 else dtype(255))
    return dj.sources.from_arrays(images.astype(dtype), np.arange(N) % 7 if labels else None)[0]


def by_rows(source):
    """The same examples in a sequence of a user's."""
    return dataclasses.replace(source, rows=[source.rows[i] for i in range(len(source))])


SOURCES = {
    "uint8": make_source(),
    "float32": make_source(np.float32),
    "without labels": make_source(labels=False),
    "rows": by_rows(make_source()),
}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_gathered_batches_are_those_of_the_host(name, flip, devices):
    mesh, source = make_mesh(MeshShape(2, 1), devices[:2]), SOURCES[name]
    batches = Batches(source, 16, seed=3, flip=flip)
    gather = make_gather(source, mesh)
    read = zip(batches.iterate_choices(60), batches.iterate(60), strict=False)
    for choices, expected in itertools.islice(read, 10):  # into the second epoch
        batch = gather(put_batch(mesh, choices))
        assert batch.keys() == expected.keys()
        for field, array in batch.items():
            np.testing.assert_array_equal(array, expected[field], strict=True)
            assert array.sharding.is_equivalent_to(batch_sharding(mesh), array.ndim)


def test_stacked_batches_are_split_over_the_devices(devices):
    mesh, source = make_mesh(MeshShape(2, 1), devices[:2]), SOURCES["uint8"]
    batches = Batches(source, 16, seed=3, flip=True)
    choices = [next(batches.iterate_choices(k)) for k in range(3)]
    stacked = {name: np.stack([each[name] for each in choices]) for name in choices[0]}
    image = make_gather(source, mesh, stacked=True)(put_batch(mesh, stacked, stacked=True))["image"]
    np.testing.assert_array_equal(image, [batches[k]["image"] for k in range(3)])
    assert image.addressable_shards[0].data.shape == (3, 8, 4, 3, 2)


def test_the_bytes_are_those_of_the_arrays():
    assert count_bytes(SOURCES["uint8"]) == 990 * (4 * 3 * 2 + 4)
    assert count_bytes(SOURCES["without labels"]) == 990 * 4 * 3 * 2
    assert count_bytes(SOURCES["float32"]) == 990 * (4 * 4 * 3 * 2 + 4)


def test_an_example_that_cannot_be_used_is_refused_as_from_the_host(devices):
    source = by_rows(make_source())
    source.rows[700] = {"image": np.zeros((4, 3, 2), np.int32), "label": 1}
    with pytest.raises(DataError, match="^example 700: image = "):
        make_gather(source, make_mesh(MeshShape(1, 1), devices[:1]))


def test_an_example_without_a_label_among_labelled_ones_is_refused():
    source = by_rows(make_source())
    source.rows[700] = {"image": source.rows[700]["image"]}
    with pytest.raises(DataError, match="^example 700 has no label: must have an integer from 0 to 6"):
        list(itertools.islice(Batches(source, 99).iterate(threads=1), 10))
