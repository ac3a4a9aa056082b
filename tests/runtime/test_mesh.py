import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.runtime.mesh import (
    MeshShape,
    check_batch_size,
    make_mesh,
    put_batch,
    replicated,
    state_sharding,
)

SHAPES = [(8, 1), (1, 8), (2, 4)]


def mesh_of(data, fsdp, devices):
    return make_mesh(MeshShape(data, fsdp), devices)


@pytest.mark.parametrize(("data", "fsdp"), SHAPES)
def test_a_mesh_has_the_shape_asked_for_and_each_device_once(data, fsdp, devices):
    mesh = mesh_of(data, fsdp, devices)
    assert dict(mesh.shape) == {"data": data, "fsdp": fsdp}
    assert set(mesh.devices.flatten()) == set(devices)


@pytest.mark.parametrize(("fsdp", "data"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_data_takes_what_fsdp_leaves(fsdp, data, devices):
    assert mesh_of(-1, fsdp, devices).shape["data"] == data


def test_by_default_the_batch_is_split_over_all_devices(devices):
    assert dict(make_mesh().shape) == {"data": len(devices), "fsdp": 1}


def test_one_device_is_a_mesh(devices):
    assert dict(mesh_of(-1, 1, devices[:1]).shape) == {"data": 1, "fsdp": 1}


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (4, 1), (16, 1), (-1, 3), (-1, 16), (8, 2)])
def test_a_mesh_that_does_not_fit_is_refused(data, fsdp, devices):
    with pytest.raises(ValueError, match=f"data = {data}, fsdp = {fsdp}: .* 8 device"):
        mesh_of(data, fsdp, devices)


@pytest.mark.parametrize(
    ("data", "fsdp", "message"),
    [
        (0, 1, "data = 0: must be a number of devices >= 1, or -1 for all that fsdp leaves"),
        (-2, 1, "data = -2: must be an integer >= -1"),
        (2.0, 1, "data = 2.0: must be an integer"),
        (1, 0, "fsdp = 0: must be an integer >= 1"),
        (1, -1, "fsdp = -1: must be an integer >= 1"),
    ],
)
def test_a_shape_that_is_not_positive_is_refused(data, fsdp, message):
    with pytest.raises(ValueError, match=message):
        MeshShape(data, fsdp)


def part_of(shape, mesh):
    """The shape of one device's part of a leaf of this shape."""
    sharding = state_sharding(mesh, jax.ShapeDtypeStruct(shape, jnp.float32))
    return sharding.shard_shape(shape)


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((3, 3, 64, 128), (3, 3, 64, 32)),
        ((3, 3, 128, 64), (3, 3, 32, 64)),
        ((4096,), (1024,)),
        ((1000, 66), (250, 66)),  # 66 does not divide by 4
        ((1001, 68), (1001, 17)),  # here the larger dimension does not
        ((64, 64), (16, 64)),  # the smallest leaf that is split; of equal dimensions the first
    ],
)
def test_a_large_leaf_is_split_along_its_largest_dividing_dimension(shape, part, devices):
    assert part_of(shape, mesh_of(2, 4, devices)) == part


def test_two_parts_are_enough_to_split_a_leaf(devices):
    assert part_of((4096,), mesh_of(4, 2, devices)) == (2048,)


@pytest.mark.parametrize("shape", [(), (64,), (3, 3, 3, 32), (1001, 99), (4, 1023), (63, 65)])
def test_small_and_odd_leaves_are_on_every_device(shape, devices):
    assert part_of(shape, mesh_of(2, 4, devices)) == shape


@pytest.mark.parametrize("shape", [(64,), (128, 128)])
def test_without_fsdp_nothing_is_split(shape, devices):
    assert part_of(shape, mesh_of(8, 1, devices)) == shape


def test_a_split_leaf_costs_each_device_its_part_and_keeps_its_values(devices):
    mesh = mesh_of(2, 4, devices)
    state = {"w": jnp.arange(128.0 * 64).reshape(128, 64), "b": jnp.arange(64.0)}
    placed = jax.device_put(state, state_sharding(mesh, state))
    assert {shard.data.shape for shard in placed["w"].addressable_shards} == {(32, 64)}
    assert {shard.data.shape for shard in placed["b"].addressable_shards} == {(64,)}
    jax.tree.map(np.testing.assert_array_equal, placed, state)


def test_replicated_means_whole_on_every_device(devices):
    placed = jax.device_put(jnp.arange(16.0), replicated(mesh_of(2, 4, devices)))
    assert [shard.data.shape for shard in placed.addressable_shards] == [(16,)] * 8


@pytest.mark.parametrize(("data", "fsdp"), SHAPES)
@pytest.mark.parametrize("batch_size", [8, 64])
def test_a_batch_that_the_devices_divide_passes(data, fsdp, batch_size, devices):
    check_batch_size(mesh_of(data, fsdp, devices), batch_size)


@pytest.mark.parametrize(("batch_size", "better"), [(1, 8), (7, 8), (12, 8), (100, 96)])
def test_another_batch_is_refused_with_one_that_works(batch_size, better, devices):
    mesh = mesh_of(2, 4, devices)
    with pytest.raises(ValueError, match=f"batch_size = {batch_size}: .* 8 devices; use {better}$"):
        check_batch_size(mesh, batch_size)
    check_batch_size(mesh, better)


@pytest.mark.parametrize(("batch_size", "better"), [(8, 24), (20, 24), (47, 24), (50, 48)])
def test_accumulated_parts_must_divide_too(batch_size, better, devices):
    mesh = mesh_of(2, 4, devices)
    message = f"batch_size = {batch_size}: must be divisible by the 8 devices times accumulate = 3; use {better}$"
    with pytest.raises(ValueError, match=message):
        check_batch_size(mesh, batch_size, accumulate=3)
    check_batch_size(mesh, better, accumulate=3)


@pytest.mark.parametrize(("data", "fsdp"), SHAPES)
def test_a_batch_goes_over_all_devices_in_order(data, fsdp, devices):
    batch = {
        "image": np.arange(16 * 4, dtype=np.uint8).reshape(16, 2, 2, 1),
        "label": np.arange(16, dtype=np.int32),
    }
    placed = put_batch(mesh_of(data, fsdp, devices), batch)
    for name, array in placed.items():
        assert array.dtype == batch[name].dtype
        np.testing.assert_array_equal(array, batch[name])
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {2}
        starts = [shard.index[0].start or 0 for shard in array.addressable_shards]
        assert sorted(starts) == list(range(0, 16, 2))  # each part once


@pytest.mark.parametrize(("accumulate", "named"), [(1, False), (2, True), (4, True)])
def test_accumulate_is_named_where_it_matters(accumulate, named, devices):
    with pytest.raises(ValueError, match="batch_size = 15: must be divisible by the 8 devices") as error:
        check_batch_size(make_mesh(MeshShape(), devices), 15, accumulate)
    assert (f"times accumulate = {accumulate}" in str(error.value)) == named
