"""What a TPU or a GPU would run is lowered, and for a TPU compiled, without either."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import tiny

import diffusion_jax as dj

MODEL = dj.models.UNet(channels=(8, 16), blocks=1, attention=(4,), groups=4, num_classes=10, dtype="bfloat16")
FILM = dj.models.FiLMUNet(width=8, multipliers=(1, 2), attention=(4,), num_classes=10, dtype="bfloat16")
CONVNEXT = dj.models.ConvNeXtUNet(
    channels=(8, 16), strides=(2,), attention=(4,), embedding_width=16, num_classes=10, dtype="bfloat16"
)
SHAPE = (8, 8, 1)


@functools.cache
def abstract_state(model=MODEL):
    return jax.eval_shape(lambda key: dj.TrainState.create(key, model, optax.adamw(1e-3), SHAPE), jax.random.key(0))


def abstract(shape, dtype):
    return jax.ShapeDtypeStruct(shape, np.dtype(dtype))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("model", [MODEL, FILM, CONVNEXT], ids=lambda model: type(model).__name__)
def test_the_train_step_lowers(model, platform):
    step = dj.make_train_step(model, optax.adamw(1e-3), tiny.loss())
    batch = {"image": abstract((16, *SHAPE), "uint8"), "label": abstract((16,), "int32")}
    exported = jax.export.export(step, platforms=[platform])(
        abstract_state(model), batch, jax.eval_shape(lambda: jax.random.key(0))
    )
    assert exported.platforms == (platform,)
    assert exported.mlir_module().count("stablehlo.convolution") > 10


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("sampler", [dj.samplers.DPMSolverPP(), dj.samplers.Heun()], ids=str)
def test_the_sampler_lowers_to_one_loop(platform, sampler):
    schedule, prediction = dj.schedules.Cosine(), dj.predictions.V()

    @jax.jit
    def draw(params, key, labels, scale):
        cond = dj.denoiser(MODEL.apply, params, schedule, prediction, labels)
        uncond = dj.denoiser(MODEL.apply, params, schedule, prediction)
        denoise = dj.guidance.classifier_free(cond, uncond, scale)
        return dj.sample(key, denoise, schedule, (4, *SHAPE), sampler=sampler, steps=20)

    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = (abstract_state().params, key, abstract((4,), "int32"), abstract((), "float32"))
    exported = jax.export.export(draw, platforms=[platform])(*arguments)
    text = exported.mlir_module()
    calls = 2 if isinstance(sampler, dj.samplers.DPMSolverPP) else 4  # of the network, in the body
    convolutions = jax.export.export(jax.jit(MODEL.apply), platforms=[platform])(
        abstract_state().params,
        abstract((4, *SHAPE), "float32"),
        abstract((4,), "float32"),
        abstract((4,), "int32"),
    )
    once = convolutions.mlir_module().count("stablehlo.convolution")
    assert text.count("stablehlo.convolution") == calls * once  # not once a step


TPU_COMPILE = """
import jax, numpy as np, optax
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import diffusion_jax as dj
from diffusion_jax.runtime.mesh import batch_sharding, state_sharding

topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
mesh = topologies.make_mesh(topology, (2, 2), ("data", "fsdp"))
mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * 2)
model = dj.models.UNet(channels=(8, 16), blocks=1, groups=4, num_classes=10, dtype="bfloat16", attention=(4,))
tx = optax.adamw(1e-3)
loss = dj.losses.DiffusionLoss(dj.schedules.Cosine(), dj.predictions.V())
split, everywhere = batch_sharding(mesh), NamedSharding(mesh, P())


def abstract(x, sharding):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


state = jax.eval_shape(lambda k: dj.TrainState.create(k, model, tx, (8, 8, 1)), jax.random.key(0))
state = jax.tree.map(abstract, state, state_sharding(mesh, state))
batch = {"image": np.zeros((16, 8, 8, 1), np.uint8), "label": np.zeros(16, np.int32)}
batch = {name: abstract(x, split) for name, x in batch.items()}
key = abstract(jax.eval_shape(lambda: jax.random.key(0)), everywhere)
compiled = dj.make_train_step(model, tx, loss, mesh=mesh).lower(state, batch, key).compile()
flops, memory = compiled.cost_analysis()["flops"], compiled.memory_analysis()
print("compiled", flops > 0, memory.temp_size_in_bytes > 0)
"""


def test_the_train_step_compiles_for_a_tpu():
    """With the TPU compiler itself, on a mesh of 2x2 v5e chips that are not here."""
    pytest.importorskip("libtpu", reason='the TPU compiler is not here: pip install -e ".[tpu-aot]"')
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }
    environment.pop("XLA_FLAGS", None)  # they are the CPU compiler's
    done = subprocess.run(
        [sys.executable, "-c", TPU_COMPILE],
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.stdout.endswith("compiled True True\n"), done.stderr[-2000:]
