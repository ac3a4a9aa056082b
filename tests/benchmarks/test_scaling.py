"""What is read from a compiled program, and the model of the cost."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from collectives import Collective, count_sent, find_collectives, sum_sizes
from cost_model import Chip, Network, plan
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion_jax.runtime.mesh import MeshShape, make_mesh

HLO = """
ENTRY %main (x: f32[8]) -> f32[8] {
  %all-reduce.1 = (f32[64,3]{1,0}, bf16[10]{0}) all-reduce(f32[64,3]{1,0} %a, bf16[10]{0} %b), channel_id=1
  %gather = f32[16,4]{1,0:T(8,128)} all-gather(f32[2,4]{1,0} %c), channel_id=2, dimensions={0}
  %start = (f32[2]{0}, f32[8]{0}) all-gather-start(f32[2]{0} %d), channel_id=3
  %done = f32[8]{0} all-gather-done((f32[2]{0}, f32[8]{0}) %start)
  %scattered = f32[5]{0} reduce-scatter(f32[20]{0} %e), channel_id=4, to_apply=%add
  %scalar = f32[] all-reduce(f32[] %f), channel_id=5
  ROOT %sum = f32[8]{0} add(f32[8]{0} %done, f32[8]{0} %done), metadata={op_name="all-reduce"}
}
"""


def test_exchanges_are_read_with_their_bytes():
    assert find_collectives(HLO) == [
        Collective("all-reduce", 64 * 3 * 4 + 10 * 2),
        Collective("all-gather", 16 * 4 * 4),
        Collective("all-gather", 8 * 4),
        Collective("reduce-scatter", 5 * 4),
        Collective("all-reduce", 4),
    ]
    assert sum_sizes(find_collectives(HLO)) == {"all-gather": 288, "all-reduce": 792, "reduce-scatter": 20}


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_the_bytes_that_are_sent_are_those_of_rings(devices):
    """An array of 80 bytes: all-reduce is a reduce-scatter, which leaves one n-th, and an all-gather."""
    ring = [Collective("reduce-scatter", 80 // devices), Collective("all-gather", 80)]
    assert count_sent(ring, devices) == pytest.approx(count_sent([Collective("all-reduce", 80)], devices))
    assert count_sent(ring[1:], devices) == pytest.approx(80 - 80 / devices)  # all parts but one's own


def test_a_compiled_program_is_read(devices):
    """The gradient of a matrix that is copied to four devices."""
    mesh = make_mesh(MeshShape(4, 1), devices[:4])
    copied, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    gradient = jax.jit(
        jax.grad(lambda w, x: jnp.sum(jnp.square(x @ w))), in_shardings=(copied, split), out_shardings=copied
    )
    text = gradient.lower(jnp.zeros((6, 5)), jnp.zeros((8, 6))).compile().as_text()
    assert find_collectives(text) == [Collective("all-reduce", 6 * 5 * 4)]


NETWORK = Network("a network", 1_000, state=16_000, flops=2e6, kept={"none": 100, "activations": 10})
CHIP = Chip("a chip", flops=1e9, memory=24_000, near=1e6, far=1e5, group=8)


def test_memory_is_the_state_the_gradient_and_the_images():
    assert NETWORK.memory(3, devices=4, split=False, remat="none") == 16_000 + 4_000 + 300
    assert NETWORK.memory(3, devices=4, split=True, remat="activations") == 5_000 + 30


def test_the_least_images_are_those_whose_computation_takes_as_long_as_sending():
    """8 devices of 1 GFLOP/s at half of their peak: 4 ms per image; 7 000 bytes at 1 MB/s are 7 ms."""
    assert NETWORK.least_images(CHIP, devices=8, split=False, mfu=0.5) == pytest.approx(7 / 4)
    assert NETWORK.least_images(CHIP, devices=8, split=True, mfu=0.5) == pytest.approx(1.5 * 7 / 4)
    slow = dataclasses.replace(CHIP, group=4)
    assert NETWORK.least_images(slow, devices=8, split=False, mfu=0.5) == pytest.approx(10 * 7 / 4)


def test_the_most_images_are_those_that_fit():
    found = plan(NETWORK, CHIP, devices=4, mfu=0.5)
    assert found["copied"]["most_images"] == {"none": 40, "activations": 400}
    assert found["split"]["most_images"] == {"none": 190, "activations": 1900}
    assert plan(NETWORK, dataclasses.replace(CHIP, memory=1e3), 1, 0.5)["copied"]["most_images"]["none"] == 0
