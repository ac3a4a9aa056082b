"""The programs lower for TPU and GPU, and the train step compiles for a TPU, on a machine without either."""

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
from slow import slow

import diffusion_jax as dj

PLATFORMS = ("tpu", "cuda")
SHAPE = (8, 8, 1)
UNET = dj.models.UNet(channels=(8, 16), blocks=1, attention=(4,), groups=4, num_classes=10, dtype="bfloat16")
FILM = dj.models.FiLMUNet(width=8, multipliers=(1, 2), attention=(4,), num_classes=10, dtype="bfloat16")
CONVNEXT = dj.models.ConvNeXtUNet(
    channels=(8, 16), strides=(2,), attention=(4,), embedding_width=16, num_classes=10, dtype="bfloat16"
)


def abstract(shape, dtype):
    return jax.ShapeDtypeStruct(shape, np.dtype(dtype))


def export_text(function, *arguments) -> str:
    """The program for all of PLATFORMS, traced once."""
    exported = jax.export.export(function, platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    return exported.mlir_module()


@functools.cache
def abstract_key():
    return jax.eval_shape(lambda: jax.random.key(0))


@functools.cache
def abstract_state(model):
    return jax.eval_shape(lambda key: dj.TrainState.create(key, model, optax.adamw(1e-3), SHAPE), abstract_key())


@pytest.mark.parametrize("model", [UNET, *slow(FILM, CONVNEXT)], ids=lambda model: type(model).__name__)
def test_the_train_step_lowers(model):
    step = dj.make_train_step(model, optax.adamw(1e-3), tiny.loss())
    batch = {"image": abstract((16, *SHAPE), "uint8"), "label": abstract((16,), "int32")}
    text = export_text(step, abstract_state(model), batch, abstract_key())
    assert text.count("stablehlo.convolution") > 10


@functools.cache
def convolutions_per_call() -> int:
    arguments = (abstract((4, *SHAPE), "float32"), abstract((4,), "float32"), abstract((4,), "int32"))
    text = export_text(jax.jit(UNET.apply), abstract_state(UNET).params, *arguments)
    return text.count("stablehlo.convolution")


@pytest.mark.parametrize(
    ("sampler", "calls"), [(dj.samplers.DPMSolverPP(), 1), *slow((dj.samplers.Heun(), 2))], ids=str
)
def test_the_sampler_lowers_to_one_loop(sampler, calls):
    schedule, prediction = dj.schedules.Cosine(), dj.predictions.V()

    @jax.jit
    def draw(params, key, labels, scale):
        cond = dj.denoiser(UNET.apply, params, schedule, prediction, labels)
        uncond = dj.denoiser(UNET.apply, params, schedule, prediction)
        denoise = dj.guidance.classifier_free(cond, uncond, scale)
        return dj.sample(key, denoise, schedule, (4, *SHAPE), sampler=sampler, steps=20)

    arguments = (abstract_state(UNET).params, abstract_key(), abstract((4,), "int32"), abstract((), "float32"))
    # Of both denoisers, in the body of the loop: not once per step.
    assert export_text(draw, *arguments).count("stablehlo.convolution") == 2 * calls * convolutions_per_call()


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
    """With the TPU compiler itself, for a mesh of 2x2 v5e chips that are not here."""
    pytest.importorskip("libtpu", reason='the TPU compiler is not installed: pip install -e ".[tpu-aot]"')
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
