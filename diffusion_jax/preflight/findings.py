"""What a preflight has found, as values; `text.py` writes them down."""

import dataclasses
from typing import Any

from diffusion_jax.preflight.disk import Disk
from diffusion_jax.preflight.inputs import Inputs
from diffusion_jax.preflight.programs import Program
from diffusion_jax.preflight.sharding import Shards
from diffusion_jax.preflight.speed import Speed

__all__ = ["Findings", "RunFacts"]


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """The run itself.

    Attributes:
      workdir: its directory; "" if none was named.
      start: steps that it has done already.
      steps: its length.
      network: the type of the network.
      parameters: number of parameters.
      training, held_out: number of images.
      devices: kind of the devices.
      mesh: devices along the axes "data" and "fsdp".
    """

    workdir: str
    start: int
    steps: int
    batch_size: int
    accumulate: int
    network: str
    parameters: int
    training: int
    held_out: int
    devices: str
    mesh: dict[str, int]

    @property
    def num_devices(self) -> int:
        return self.mesh["data"] * self.mesh["fsdp"]


@dataclasses.dataclass(frozen=True)
class Findings:
    """The result of `check_run` or `check_slice`.

    Attributes:
      run: the run itself.
      inputs: the images that were read.
      disk: what the checkpoints need.
      flops: floating-point operations of one training step, over all devices.
      capacity: bytes of memory of a device; 0 if not known.
      programs: the compiled programs; those of the config's own mesh first.
      shards: the training state, on each mesh.
      startup: seconds of each thing that happens before the second step.
      speed: of the timed steps; None if there were none.
      tpu: the slice that was compiled for; "" for the devices of this machine.
      shortage: what the device said if the timed steps did not fit.
    """

    run: RunFacts
    inputs: Inputs
    disk: Disk
    flops: float
    capacity: int
    programs: tuple[Program, ...]
    shards: tuple[Shards, ...]
    startup: dict[str, float]
    speed: Speed | None = None
    tpu: str = ""
    shortage: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Time for the steps that are left; None if no step was timed."""
        return None if self.speed is None else (self.run.steps - self.run.start) * self.speed.seconds

    @property
    def fits(self) -> bool:
        """Whether the programs of the config's own mesh fit into the memory of its devices."""
        own = [program for program in self.programs if program.mesh == self.run.mesh]
        return not self.shortage and all(program.fits(self.capacity) for program in own)

    def find_warnings(self) -> list[str]:
        """What will not work, or looks wrong, a line each."""
        found = [f"memory: {text}" for text in self._judge_memory()]
        found += [f"input: {text}" for text in self.inputs.find_warnings()]
        if not self.disk.fits:
            found.append("disk: the checkpoints do not fit; free some space, or lower train.keep_checkpoints")
        if self.speed is not None:
            found += [f"steps: a batch was skipped, because {cause}" for cause in self.speed.causes]
        return found

    def _judge_memory(self) -> list[str]:
        if self.fits:
            return []
        step = [program for program in self.programs if program.name == "train step"]
        others = [each.mesh for each in step if each.fits(self.capacity) and each.mesh != self.run.mesh]
        if others and not self.shortage:
            fields = " ".join(f"--config.mesh.{axis}={size}" for axis, size in others[0].items())
            return [f"it does not fit on the mesh of the config; {fields} does"]
        return [f"it does not fit{f' ({self.shortage})' * bool(self.shortage)}; see docs/out-of-memory.md"]

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values: bytes, seconds, counts."""
        derived = {"seconds_left": self.seconds_left, "fits": self.fits, "warnings": self.find_warnings()}
        plain = dataclasses.asdict(self)
        for program, values in zip(self.programs, plain["programs"], strict=True):
            values |= {"fits": program.fits(self.capacity)}
            values |= {"total": program.memory.total} if program.memory else {}
        if self.speed is not None:
            seconds = self.speed.seconds
            plain["speed"] |= {"seconds": seconds, "images_per_second": self.run.batch_size / seconds}
        return plain | derived | {"disk": plain["disk"] | {"needed": self.disk.needed, "fits": self.disk.fits}}
