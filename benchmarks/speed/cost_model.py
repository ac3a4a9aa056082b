"""What a training step costs on paper, from 1 to 256 devices. python benchmarks/speed/cost_model.py

For U-Nets of 36, 277 and 502 million parameters, from their programs before compilation: the operations, the memory of
a device, and what the devices send each other, with the state copied to all of them or split. Nothing is compiled or
run. docs/scaling.md explains the model and compares it with what compilers say.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
import options
from options import JSON
from ours import count_flops
from results import markdown, report

import diffusion_jax as dj
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.preflight.text import format_bytes, format_count

COUNTS = (1, 8, 64, 256)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of device.

    Attributes:
      name: with the source of the figures below.
      flops: of matrix products in bfloat16, per second.
      memory: bytes.
      near, far: bytes per second that a device sends to its neighbour: among the first `group` devices, and beyond.
      group: devices that are joined by the fast links.
    """

    name: str
    flops: float
    memory: float
    near: float
    far: float
    group: int

    def link(self, devices: int) -> float:
        """Bytes per second around a ring of so many devices: that of its slowest link."""
        return self.near if devices <= self.group else self.far


CHIPS = {
    # cloud.google.com/tpu/docs/v5e: 400 GB/s in both directions together; a slice has up to 256 chips.
    "v5e": Chip("TPU v5e", 197e12, 16e9, 200e9, 200e9, 256),
    # NVIDIA's data sheets of the H100 SXM, dense, and of the DGX H100: 900 GB/s of NVLink in both directions together,
    # and a network adapter of 400 Gbit/s per GPU.
    "h100": Chip("H100", 989e12, 80e9, 450e9, 50e9, 8),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """What is counted in the program of a network's training step.

    Attributes:
      parameters: their number.
      state: bytes of parameters, average and optimizer.
      flops: of one image, forward, backward and update.
      kept: bytes that the forward pass keeps for the gradient, per image, by `remat`.
    """

    name: str
    parameters: int
    state: int
    flops: float
    kept: dict[str, int]

    @property
    def gradient(self) -> int:
        """Bytes of the gradient."""
        return 4 * self.parameters

    def memory(self, images: float, devices: int, split: bool, remat: str) -> float:
        """Bytes per device with so many images on each: state, gradient, and what the gradient needs."""
        return (self.state + self.gradient) / (devices if split else 1) + images * self.kept[remat]

    def sent(self, devices: int, split: bool) -> float:
        """Bytes that a device sends in a step around a ring, (n - 1)/n of an array for each pass.

        Copied state: the gradient is reduced to all, two passes. Split state: the parameters are gathered for the
        forward and for the backward pass, and the gradient is reduced and scattered.
        """
        return (3 if split else 2) * self.gradient * (devices - 1) / devices

    def least_images(self, chip: Chip, devices: int, split: bool, mfu: float) -> float:
        """Images per device from which computing takes longer than sending."""
        return self.sent(devices, split) / chip.link(devices) / (self.flops / (mfu * chip.flops))


_LARGE: dict[str, Any] = dict(attention=(32, 16, 8), head_channels=64, scale_shift=True, num_classes=1000)
_MODELS = {
    "36 M, 32x32": (dict(channels=(128, 256, 256, 256), attention=(16,)), 32),
    "277 M, 64x64": (dict(channels=(192, 384, 576, 768), blocks=3, **_LARGE), 64),
    "502 M, 256x256": (dict(channels=(256, 256, 512, 512, 1024, 1024), blocks=2, **_LARGE), 256),
}


def count_network(name: str, settings: dict[str, Any], side: int) -> Network:
    """Counts what is in the programs of a U-Net in bfloat16."""
    model, shape = dj.models.UNet(dtype="bfloat16", **settings), (side, side, 3)
    tx, key = optax.adamw(1e-4), jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: dj.TrainState.create(key, model, tx, shape), key)
    step = dj.make_train_step(model, tx, dj.losses.DiffusionLoss(dj.schedules.Cosine(), dj.predictions.V()))
    batch = {"image": jax.ShapeDtypeStruct((1, *shape), jnp.uint8), "label": jax.ShapeDtypeStruct((1,), jnp.int32)}
    kept = {remat: _count_kept(model.clone(remat=remat), state.params, shape) for remat in ("none", "activations")}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return Network(name, parameters, _count_bytes(state), count_flops(step.lower(state, batch, key)), kept)


def _count_kept(model: Any, params: Any, shape: tuple[int, ...]) -> int:
    """Bytes that one image's forward pass hands to the gradient, without the parameters."""
    x, time, labels = jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, int)
    kept = jax.eval_shape(lambda p: jax.vjp(lambda q: model.apply(q, x, time, labels).sum(), p)[1], params)
    shapes = {leaf.shape for leaf in jax.tree.leaves(params)}
    return _count_bytes([leaf for leaf in jax.tree.leaves(kept) if leaf.shape not in shapes])


def _count_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def draw_networks(networks: list[Network]) -> str:
    head = ("network", "parameters", "FLOP per image", "state", "gradient", "kept per image", "with remat=activations")
    rows = [
        (
            each.name,
            f"{each.parameters:,}",
            format_count(each.flops, "FLOP"),
            *map(format_bytes, (each.state, each.gradient, *each.kept.values())),
        )
        for each in networks
    ]
    return markdown([head, *rows])


def plan(network: Network, chip: Chip, devices: int, mfu: float) -> dict[str, Any]:
    """The least images per device that computing hides sending for, and the most that fit, copied and split."""
    found: dict[str, Any] = {"network": network.name, "chip": chip.name, "devices": devices}
    for name, split in (("copied", False), ("split", True)):
        free = chip.memory - network.memory(0, devices, split, "none")
        found[name] = {
            "sent": network.sent(devices, split),
            "least_images": network.least_images(chip, devices, split, mfu),
            "most_images": {remat: max(0, math.floor(free / size)) for remat, size in network.kept.items()},
        }
    return found


def draw_plans(plans: list[dict[str, Any]]) -> str:
    head = ("network", "devices", "sent, copied", "least", "most", "sent, split", "least", "most")
    rows = []
    for found in plans:
        cells = [found["network"], f"{found['devices']} x {found['chip']}"]
        for name in ("copied", "split"):
            most = found[name]["most_images"]
            least = f"{found[name]['least_images']:.1f}" if found["devices"] > 1 else ""
            cells += [format_bytes(round(found[name]["sent"])), least, f"{most['none']} or {most['activations']}"]
        rows.append(tuple(cells))
    return markdown([head, *rows])


def measure(flags: Any) -> None:
    out = options.start(flags)
    if not 0 < flags.mfu <= 1:
        raise ValueError(f"--mfu = {flags.mfu}: must be a share of the peak, > 0 and at most 1")
    networks = [count_network(name, *_MODELS[name]) for name in _MODELS]
    plans = [plan(each, chip, n, flags.mfu) for chip in CHIPS.values() for each in networks for n in COUNTS]
    table = f"{draw_networks(networks)}\n\n{draw_plans(plans)}"
    figures = {"networks": [dataclasses.asdict(each) for each in networks], "plans": plans}
    report("cost model", {"mfu": flags.mfu}, table, figures, out)


COMMAND = Command(
    name="cost_model.py",
    text=str(__doc__),
    flags=(Flag("mfu", float, "Share of the peak that the products reach.", 0.35), JSON),
    run=measure,
)

if __name__ == "__main__":
    options.run(COMMAND)
