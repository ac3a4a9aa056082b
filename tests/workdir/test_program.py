"""The programs of a run, from shapes alone: the same as from the arrays that training has."""

import jax
import pytest
import tiny

from diffusion_jax.workdir.layout import abstract_state, init_state
from diffusion_jax.workdir.preparation import prepare
from diffusion_jax.workdir.program import abstract_batch, build_train_step, iterate_batches, split_seed


@pytest.mark.parametrize("mesh", [{}, {"data": 2, "fsdp": 4}])
def test_shapes_give_the_program_of_arrays(mesh):
    experiment, training, _ = prepare(tiny.config(tiny.AFFINE) | {"mesh": mesh})
    keys, abstract = split_seed(experiment.plan.seed), abstract_state(experiment)
    state = init_state(keys.init, experiment, jax.tree.map(lambda leaf: leaf.sharding, abstract))
    batch = next(iterate_batches(experiment, training, 7))
    step = build_train_step(experiment)
    from_shapes = step.lower(abstract, abstract_batch(experiment, training), keys.step)
    assert from_shapes.as_text() == step.lower(state, batch, keys.step).as_text()


def test_a_mesh_of_other_devices(devices):
    experiment, *_ = prepare(tiny.config(tiny.AFFINE) | {"mesh": {"fsdp": 2}}, devices=devices[2:6])
    assert set(experiment.mesh.devices.flat) == set(devices[2:6])
    assert dict(experiment.mesh.shape) == {"data": 2, "fsdp": 2}
